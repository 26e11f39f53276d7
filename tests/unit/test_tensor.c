/* SPDX-License-Identifier: Apache-2.0
 * core/tensor: dtypes against IEEE 754 and the formats' definitions, shapes against NumPy's rules, buffers. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/tensor/tensor.h"

#ifdef __FLT16_MAX__
__extension__ typedef _Float16 native_half; /* the compiler's own binary16, as reference */
#endif

static void every_half_survives_a_round_trip(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float f = dtype_f16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true(isnan(dtype_f16_to_f32(dtype_f32_to_f16(f))));
        else
            assert_int_equal(dtype_f32_to_f16(f), h);
#ifdef __FLT16_MAX__
        native_half native;
        uint16_t bits = (uint16_t)h;
        memcpy(&native, &bits, 2);
        if (!isnan(f))
            assert_true((float)native == f);
#endif
    }
}

static void halves_round_to_nearest_even(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 1, 0);
    for (int i = 0; i < 200000; i++) {
        uint32_t bits = (uint32_t)rng_u64(&rng);
        float f;
        memcpy(&f, &bits, 4);
        if (isnan(f))
            continue;
#ifdef __FLT16_MAX__
        native_half native = (native_half)f; /* the compiler's own conversion */
        uint16_t want;
        memcpy(&want, &native, 2);
        assert_int_equal(dtype_f32_to_f16(f), want);
#endif
        uint16_t through_double[1];
        dtype_set(DTYPE_FLOAT16, through_double, 0, (double)f);
        assert_int_equal(through_double[0], dtype_f32_to_f16(f));
    }
    assert_int_equal(dtype_f32_to_bf16(1.00390625f), 0x3f80); /* a tie: to even */
    assert_int_equal(dtype_f32_to_bf16(1.01171875f), 0x3f82);
}

/* Whole arrays (the machine's instructions, where it has them) give the bits that single values give: every half, and
 * floats of all kinds, NaNs and subnormals included. */
static void arrays_of_halves_are_like_single_ones(void **state)
{
    (void)state;
    enum { HALVES = 65536, FLOATS = 1000003 }; /* no multiple of eight: the last ones go another way */
    uint16_t *half = malloc(FLOATS * sizeof *half);
    float *f = malloc(FLOATS * sizeof *f);
    struct rng rng;

    assert_true(half && f);
    for (uint32_t h = 0; h < HALVES; h++)
        half[h] = (uint16_t)h;
    assert_true(dtype_convert(DTYPE_FLOAT, f, DTYPE_FLOAT16, half, HALVES));
    for (uint32_t h = 0; h < HALVES; h++) {
        const float want = dtype_f16_to_f32((uint16_t)h);
        assert_memory_equal(&f[h], &want, sizeof want);
    }
    rng_init(&rng, 2, 0);
    for (int i = 0; i < FLOATS; i++) {
        uint32_t bits = (uint32_t)rng_u64(&rng);
        if (i % 2) /* around the range of halves: exponents 2^-30 to 2^17 */
            bits = (bits & 0x807fffffu) | (uint32_t)(97 + i / 2 % 48) << 23;
        if (i % 16 == 0) /* ties and near ties */
            bits &= 0xfffff000u;
        memcpy(&f[i], &bits, sizeof bits);
    }
    assert_true(dtype_convert(DTYPE_FLOAT16, half, DTYPE_FLOAT, f, FLOATS));
    for (int i = 0; i < FLOATS; i++)
        if (half[i] != dtype_f32_to_f16(f[i]))
            fail_msg("%a becomes %04x, alone %04x", (double)f[i], half[i], dtype_f32_to_f16(f[i]));
    free(half);
    free(f);
}

static void small_floats_decode_as_defined(void **state)
{
    (void)state;
    static const struct {
        enum dtype dtype;
        uint8_t code;
        double value;
    } rows[] = {
        {DTYPE_FLOAT8E4M3FN, 0x7e, 448},     {DTYPE_FLOAT8E4M3FN, 0x01, 0x1p-9},   {DTYPE_FLOAT8E4M3FN, 0xc0, -2},
        {DTYPE_FLOAT8E4M3FNUZ, 0x7f, 240},   {DTYPE_FLOAT8E4M3FNUZ, 0x01, 0x1p-10}, {DTYPE_FLOAT8E5M2, 0x7b, 57344},
        {DTYPE_FLOAT8E5M2, 0x01, 0x1p-16},   {DTYPE_FLOAT8E5M2FNUZ, 0x7f, 57344},   {DTYPE_FLOAT8E5M2FNUZ, 0x01, 0x1p-17},
        {DTYPE_FLOAT4E2M1, 0x07, 6},         {DTYPE_FLOAT4E2M1, 0x01, 0.5},         {DTYPE_FLOAT8E8M0, 127, 1},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        uint8_t cell[1] = {rows[i].code};
        assert_true(dtype_get(rows[i].dtype, cell, 0) == rows[i].value);
        cell[0] = 0;
        dtype_set(rows[i].dtype, cell, 0, rows[i].value);
        assert_int_equal(cell[0], rows[i].code);
    }
    uint8_t cell[1];
    dtype_set(DTYPE_FLOAT8E4M3FN, cell, 0, 1e9);
    assert_int_equal(cell[0], 0x7e); /* saturates */
    cell[0] = 0x7f;
    assert_true(isnan(dtype_get(DTYPE_FLOAT8E4M3FN, cell, 0)));
    cell[0] = 0x80;
    assert_true(isnan(dtype_get(DTYPE_FLOAT8E5M2FNUZ, cell, 0)));
}

static void every_dtype_converts_what_it_can_hold(void **state)
{
    (void)state;
    for (int d = 1; d < DTYPE_COUNT; d++) {
        enum dtype dtype = (enum dtype)d;
        char k = dtype_kind(dtype);
        if (!k || k == 's' || k == 'c')
            continue;
        assert_int_equal(dtype_from_name(dtype_name(dtype)), dtype);
        double in[8] = {0, 1, 1, 0, 1, 0, 0, 1}, out[8];
        unsigned char packed[64] = {0};
        size_t bytes;
        assert_true(dtype_bytes(dtype, 8, &bytes) && bytes == (size_t)dtype_bits(dtype));
        if (dtype == DTYPE_FLOAT8E8M0)
            for (int i = 0; i < 8; i++)
                in[i] = i % 2 ? 2 : 1; /* it has no zero */
        assert_true(dtype_convert(dtype, packed, DTYPE_DOUBLE, in, 8));
        assert_true(dtype_convert(DTYPE_DOUBLE, out, dtype, packed, 8));
        assert_memory_equal(in, out, sizeof in);
        for (int i = 0; i < 8; i++)
            assert_true(dtype_get(dtype, packed, i) == in[i]);
    }
    assert_false(dtype_convert(DTYPE_STRING, NULL, DTYPE_FLOAT, NULL, 0));
}

static void integers_wrap_and_keep_64_bits(void **state)
{
    (void)state;
    int64_t big[3] = {INT64_MAX, -1, 300}, back[3];
    uint64_t u[3];
    assert_true(dtype_convert(DTYPE_UINT64, u, DTYPE_INT64, big, 3));
    assert_true(dtype_convert(DTYPE_INT64, back, DTYPE_UINT64, u, 3));
    assert_memory_equal(big, back, sizeof big);
    uint8_t bytes[3];
    assert_true(dtype_convert(DTYPE_UINT8, bytes, DTYPE_INT64, big, 3));
    assert_int_equal(bytes[2], 44);
    int8_t nibbles[1] = {0};
    dtype_set(DTYPE_INT4, nibbles, 0, -8);
    dtype_set(DTYPE_INT4, nibbles, 1, 7);
    assert_int_equal((uint8_t)nibbles[0], 0x78);
    assert_int_equal(dtype_get_i64(DTYPE_INT4, nibbles, 0), -8);
    assert_true(dtype_min(DTYPE_INT8) == -128 && dtype_max(DTYPE_UINT16) == 65535 && dtype_min(DTYPE_INT4) == -8);
}

static void sizes_that_overflow_are_refused(void **state)
{
    (void)state;
    size_t bytes;
    struct err err = {0};
    struct tensor t;
    struct shape huge = SHAPE(1LL << 31, 1LL << 31);
    assert_false(dtype_bytes(DTYPE_DOUBLE, INT64_MAX, &bytes));
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &huge, &err), -1);
    assert_int_equal(err.code, ERR_MODEL_TOO_LARGE);
    struct shape worse = SHAPE(1LL << 62, 4);
    assert_int_equal(shape_count(&worse), -1);
    struct shape zero = SHAPE(1LL << 31, 4, 0);
    assert_int_equal(shape_count(&zero), 0);
    struct shape hidden = SHAPE(1LL << 62, 4, 0); /* empty, but products over some axes would overflow */
    assert_int_equal(shape_count(&hidden), -1);
}

static void shapes_broadcast_as_numpy_does(void **state)
{
    (void)state;
    static const struct {
        struct shape a, b, want;
        bool fits;
    } rows[] = {
        {{2, {3, 4}}, {2, {3, 4}}, {2, {3, 4}}, true},    {{3, {2, 1, 4}}, {2, {3, 1}}, {3, {2, 3, 4}}, true},
        {{0, {0}}, {2, {3, 4}}, {2, {3, 4}}, true},       {{1, {3}}, {1, {4}}, {0, {0}}, false},
        {{1, {0}}, {1, {1}}, {1, {0}}, true},             {{1, {-2}}, {1, {1}}, {1, {-2}}, true},
        {{1, {-2}}, {1, {-2}}, {1, {-2}}, true},          {{1, {-2}}, {1, {-3}}, {1, {DIM_UNKNOWN}}, true},
        {{1, {-1}}, {1, {5}}, {1, {5}}, true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct shape out;
        assert_int_equal(shape_broadcast(&rows[i].a, &rows[i].b, &out), rows[i].fits);
        if (rows[i].fits)
            assert_true(shape_equal(&out, &rows[i].want));
    }
    char text[SHAPE_TEXT];
    struct shape s = SHAPE(1, -1, 224);
    assert_string_equal(shape_text(&s, text), "[1,?,224]");
    assert_int_equal(shape_axis(&s, -1), 2);
    assert_int_equal(shape_axis(&s, 3), -1);
    assert_int_equal(dim_mul(-2, 1), -2);
    assert_int_equal(dim_add(INT64_MAX, 1), DIM_UNKNOWN);
}

static int released;
static void release(void *data, size_t bytes)
{
    assert_int_equal(bytes, 16);
    free(data);
    released++;
}

static void buffers_are_shared_and_copied_on_write(void **state)
{
    (void)state;
    struct err err = {0};
    struct tensor a, b;
    struct tbuf *buf = tbuf_wrap(calloc(1, 16), 16, release, &err);
    struct shape shape = SHAPE(4);
    tensor_view(&a, DTYPE_FLOAT, &shape, tbuf_data(buf), buf);
    tbuf_unref(buf);
    tensor_ref(&b, &a);
    assert_ptr_equal(a.data, b.data);
    assert_int_equal(tensor_writable(&b, &err), 0);
    tensor_f32(&b)[0] = 5;
    assert_true(tensor_f32(&a)[0] == 0);
    assert_false(tensor_equal(&a, &b));
    tensor_fini(&a);
    assert_int_equal(released, 1);
    struct tensor c;
    assert_int_equal(tensor_convert(&c, &b, DTYPE_INT8, &err), 0);
    assert_int_equal(((int8_t *)c.data)[0], 5);
    tensor_fini(&b);
    tensor_fini(&c);
}

static void string_tensors_are_deep_copied(void **state)
{
    (void)state;
    struct err err = {0};
    struct dtype_string cells[2] = {{"a\0b", 3}, {"", 0}};
    struct shape shape = SHAPE(2);
    struct tensor t, copy;
    tensor_view(&t, DTYPE_STRING, &shape, cells, NULL);
    assert_int_equal(tensor_copy(&copy, &t, &err), 0);
    assert_true(tensor_equal(&t, &copy));
    assert_memory_equal(((struct dtype_string *)copy.data)[0].data, "a\0b", 3);
    tensor_fini(&copy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arrays_of_halves_are_like_single_ones),
        cmocka_unit_test(every_half_survives_a_round_trip),     cmocka_unit_test(halves_round_to_nearest_even),
        cmocka_unit_test(small_floats_decode_as_defined),       cmocka_unit_test(every_dtype_converts_what_it_can_hold),
        cmocka_unit_test(integers_wrap_and_keep_64_bits),       cmocka_unit_test(sizes_that_overflow_are_refused),
        cmocka_unit_test(shapes_broadcast_as_numpy_does),       cmocka_unit_test(buffers_are_shared_and_copied_on_write),
        cmocka_unit_test(string_tensors_are_deep_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
