/* SPDX-License-Identifier: Apache-2.0
 * Block-wise codes: a plain loop with roundf as the reference, both instruction sets, packing, views, and files for
 *            them. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/kernels/isa.h"
#include "core/quant/block.h"
#include "core/quant/nbits_pack.h"
#include "core/quant/weight_codes.h"
#include "tests/unit/graphs.h"

enum { ROWS = 5, MOST = 400 };

struct codes {
    uint8_t codes[ROWS * MOST], zero[ROWS * MOST];
    float scale[ROWS * MOST];
};
static struct block_codes of(struct codes *c)
{
    return (struct block_codes){c->codes, c->scale, c->zero};
}

/* Rows of every kind: normal, positive, negative, all zero, tiny. */
static void fill(float *w, int64_t k, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 1);
    for (int64_t i = 0; i < ROWS * k; i++) {
        const float v = (float)(rng_uniform(&rng) - 0.5);
        const int64_t row = i / k;
        w[i] = row == 1 ? fabsf(v) : row == 2 ? -fabsf(v) : row == 3 ? 0 : row == 4 ? v * 1e-30f : v;
    }
    w[1] = 0.5f; /* both ends as large: the lower one counts */
    w[2] = -0.5f;
}

/* The formulas of ONNX Runtime's quantizer, number by number. */
static void reference(const struct block_form *f, const float *w, struct codes *out)
{
    const int64_t blocks = block_count(f);
    const float top = (float)((1 << f->bits) - 1);
    for (int64_t r = 0; r < ROWS; r++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t at = r * blocks + b;
            float lo = 0, hi = 0, scale;
            int zero = 1 << (f->bits - 1);
            for (int64_t i = b * f->block; i < f->k && i < (b + 1) * f->block; i++) {
                lo = fminf(lo, w[r * f->k + i]);
                hi = fmaxf(hi, w[r * f->k + i]);
            }
            if (f->symmetric) {
                scale = (fabsf(hi) > fabsf(lo) ? hi : lo) / -(float)zero;
            } else {
                scale = (hi - lo) / top;
                zero = scale == 0 ? 0 : (int)roundf(fminf(fmaxf(-lo / scale, 0), top));
            }
            out->scale[at] = scale;
            out->zero[at] = (uint8_t)zero;
            const float inverse = scale != 0 ? 1 / scale : 0;
            for (int64_t i = b * f->block; i < f->k && i < (b + 1) * f->block; i++)
                out->codes[r * f->k + i] =
                    (uint8_t)fminf(fmaxf(roundf(w[r * f->k + i] * inverse + (float)zero), 0), top);
        }
}

static void test_rtn(void **state)
{
    (void)state;
    static struct codes want, got;
    static float w[ROWS * MOST], back[ROWS * MOST];
    const int64_t ks[] = {1, 7, 16, 33, 64, 100, 400}, blocks[] = {16, 32, 64, 256};
    for (int isa = ISA_PORTABLE; isa <= ISA_AVX2; isa++)
        for (size_t k = 0; k < sizeof ks / sizeof *ks; k++)
            for (int bits = 2; bits <= 8; bits++)
                for (size_t b = 0; b < 8; b++) {
                    const struct block_form f = {.bits = bits, .k = ks[k], .block = blocks[b / 2], .symmetric = b % 2};
                    const struct block_codes q = of(&got);
                    double signal = 0, noise = 0, square = 0;
                    isa_limit((enum isa)isa);
                    fill(w, f.k, (uint64_t)bits);
                    reference(&f, w, &want);
                    block_rtn(&f, w, ROWS, &q);
                    assert_memory_equal(got.codes, want.codes, (size_t)(ROWS * f.k));
                    assert_memory_equal(got.zero, want.zero, (size_t)(ROWS * block_count(&f)));
                    for (int64_t i = 0; i < ROWS * block_count(&f); i++)
                        assert_true(got.scale[i] == want.scale[i]);
                    block_dequantize(&f, &q, ROWS, back);
                    block_error(&f, &q, w, ROWS, &signal, &noise);
                    for (int64_t i = 0; i < ROWS * f.k; i++) {
                        const int64_t at = i / f.k * block_count(&f) + i % f.k / f.block;
                        assert_true(back[i] == (float)(got.codes[i] - got.zero[at]) * got.scale[at]);
                        square += ((double)w[i] - (double)back[i]) * ((double)w[i] - (double)back[i]);
                    }
                    assert_true(fabs(noise - square) <= 1e-5 * square + 1e-30);
                }
    isa_limit(ISA_KINDS);
}

static void test_half_scales(void **state)
{
    (void)state;
    static struct codes got;
    static float w[ROWS * MOST];
    const struct block_codes q = of(&got);
    const enum dtype types[] = {DTYPE_FLOAT16, DTYPE_BFLOAT16};
    for (int i = 0; i < 4; i++) {
        const struct block_form f = {.bits = 4, .k = 100, .block = 32, .symmetric = i % 2, .scale_dtype = types[i / 2]};
        fill(w, f.k, 9);
        block_rtn(&f, w, 3, &q);
        for (int64_t b = 0; b < 3 * block_count(&f); b++)
            assert_true(block_scale_stored(&f, q.scale[b]) == q.scale[b]);
        for (int64_t k = 0; k < 3 * f.k; k++) { /* codes are those of the stored scale */
            const int64_t at = k / f.k * block_count(&f) + k % f.k / f.block;
            const float v = roundf(w[k] * (1 / q.scale[at]) + q.zero[at]);
            assert_int_equal(q.codes[k], (int)fminf(fmaxf(v, 0), 15));
        }
    }
}

static void test_bad_numbers(void **state)
{
    (void)state;
    float w[100] = {0};
    const float bad[] = {NAN, INFINITY, -INFINITY};
    struct codes got;
    const struct block_codes q = of(&got);
    assert_int_equal(block_first_bad(w, 100), -1);
    w[3] = FLT_MAX;
    w[4] = -FLT_MAX;
    assert_int_equal(block_first_bad(w, 100), -1);
    for (int i = 0; i < 3; i++)
        for (int at = 0; at < 100; at += 33) {
            const struct block_form f = {.bits = 4, .k = 100, .block = 32};
            float x[100];
            memcpy(x, w, sizeof x);
            x[at] = bad[i];
            assert_int_equal(block_first_bad(x, 100), at);
            block_rtn(&f, x, 1, &q); /* harmless */
        }
}

static void test_pack(void **state)
{
    (void)state;
    uint8_t codes[70], out[70];
    for (int stored = 2; stored <= 8; stored *= 2)
        for (int64_t n = 1; n <= 70; n++)
            for (int offset = 0; offset < 1 << stored; offset += 3) {
                const int per = 8 / stored, mask = (1 << stored) - 1;
                for (int64_t i = 0; i < n; i++)
                    codes[i] = (uint8_t)((i * 7 + n) & mask);
                memset(out, 0xee, sizeof out);
                nbits_pack(stored, codes, n, (uint8_t)offset, (uint8_t)(mask / 2), out);
                assert_int_equal(nbits_bytes(stored, n), (n + per - 1) / per);
                for (int64_t i = 0; i < nbits_bytes(stored, n) * per; i++)
                    assert_int_equal(out[i / per] >> (i % per * stored) & mask,
                                     i < n ? (codes[i] + offset) & mask : mask / 2);
                if (n < 69 && stored < 8)
                    assert_int_equal(out[nbits_bytes(stored, n)], 0xee);
            }
}

/* Through Transpose, Identity and Cast, element by element. */
static void test_view(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t w = g_random(m, "w", SHAPE(3, 4, 5), 1, 1), t = g_node(m, "Transpose", "t", &w, 1);
    uint32_t i = g_node(m, "Identity", "i", &t, 1), c = g_node(m, "Cast", "c", &i, 1);
    node_set_ints(m, g_maker(m, t), "perm", (const int64_t[]){2, 0, 1}, 3);
    node_set_int(m, g_maker(m, c), "to", DTYPE_FLOAT16);
    struct weight_view v;
    assert_true(weight_view_of(m, c, &v));
    assert_int_equal(v.source, w);
    assert_int_equal(v.dtype, DTYPE_FLOAT16);
    assert_true(v.rank == 3 && v.dim[0] == 5 && v.dim[1] == 3 && v.dim[2] == 4);
    for (unsigned axes = 1; axes < 7; axes++) {
        struct weight_matrix x;
        float out[60];
        assert_int_equal(weight_matrix_init(&x, &v, axes, NULL), 0);
        assert_int_equal(x.rows * x.k, 60);
        weight_matrix_read(&x, 0, x.rows, 0, x.k, out);
        for (int n = 0; n < 60; n++) { /* index in the view -> row and place */
            const int at[3] = {n / 12, n / 4 % 3, n % 4};
            int64_t row = 0, k = 0;
            for (int a = 0; a < 3; a++) {
                int64_t *to = axes >> a & 1 ? &row : &k;
                *to = *to * v.dim[a] + at[a];
            }
            const float want = tensor_f32(v.stored)[at[1] * 20 + at[2] * 5 + at[0]];
            assert_true(out[row * x.k + k] == dtype_f16_to_f32(dtype_f32_to_f16(want)));
        }
        weight_matrix_fini(&x);
    }
    assert_false(weight_view_of(m, g_input(m, "x", SHAPE(2)), &v));
    model_free(m);
}

/* Tiles, threads and sets change nothing; a number that is not finite is named. */
static void test_tiles(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    const int64_t k = 1000, n = 300;
    float *numbers = malloc((size_t)(k * n) * sizeof *numbers);
    struct rng rng;
    rng_init(&rng, 3, 0);
    for (int64_t i = 0; i < k * n; i++)
        numbers[i] = (float)rng_normal(&rng);
    uint32_t w = g_const(m, "w", SHAPE(k, n), numbers);
    free(numbers);
    struct code_plan p = {.row_axes = 2,
                          .layout = CODES_BLOBS,
                          .stored = 4,
                          .padded_zero = true,
                          .alpha = 1,
                          .inner = 1,
                          .code_dtype = DTYPE_UINT8,
                          .zero_dtype = DTYPE_UINT8,
                          .code_shape = SHAPE(n, 32, 16),
                          .scale_shape = SHAPE(n, 32),
                          .zero_shape = SHAPE(n, 16),
                          .form = {.bits = 4, .k = k, .block = 32}};
    struct weight_codes first = {0}, again = {0};
    struct spill *spill = spill_new(NULL);
    struct err err = {0};
    assert_true(weight_view_of(m, w, &p.view));
    assert_int_equal(weight_codes_make(&p, block_rtn, spill, NULL, &first, &err), 0);
    struct pool *pool = pool_new(3);
    isa_limit(ISA_PORTABLE);
    assert_int_equal(weight_codes_make(&p, block_rtn, spill, pool, &again, &err), 0);
    isa_limit(ISA_KINDS);
    assert_true(tensor_equal(&first.codes, &again.codes) && tensor_equal(&first.scale, &again.scale) &&
                tensor_equal(&first.zero, &again.zero));
    assert_true(first.sqnr_db == again.sqnr_db && first.sqnr_db > 18);
    weight_codes_fini(&again);
    int64_t rows;
    float *matrix = weight_codes_matrix(&p, &rows, &err);
    assert_true(matrix && rows == n && matrix[5 * k + 7] == tensor_f32(p.view.stored)[7 * n + 5]);
    struct block_codes q = {malloc((size_t)(n * k)), malloc((size_t)n * 32 * sizeof(float)), malloc((size_t)n * 32)};
    block_rtn(&p.form, matrix, n, &q);
    assert_int_equal(weight_codes_store(&p, matrix, &q, spill, &again, &err), 0);
    assert_true(tensor_equal(&first.codes, &again.codes) && tensor_equal(&first.zero, &again.zero));
    weight_codes_fini(&again);
    tensor_f32(p.view.stored)[7 * n + 5] = NAN;
    assert_int_equal(weight_codes_make(&p, block_rtn, spill, pool, &again, &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
    assert_non_null(strstr(err.msg, "element 2105 is NaN"));
    free(matrix);
    free(q.codes);
    free(q.scale);
    free(q.zero);
    weight_codes_fini(&first);
    pool_free(pool);
    spill_free(spill);
    model_free(m);
}

static void test_spill(void **state)
{
    (void)state;
    struct spill *s = spill_new(NULL);
    struct tensor a, b, small;
    assert_int_equal(spill_tensor(s, &a, DTYPE_FLOAT, &SHAPE(1000, 1000), NULL), 0);
    assert_int_equal(spill_tensor(s, &b, DTYPE_UINT8, &SHAPE(3000001), NULL), 0);
    assert_int_equal(spill_tensor(s, &small, DTYPE_FLOAT, &SHAPE(4), NULL), 0);
    for (int64_t i = 0; i < 1000000; i++) {
        assert_true(tensor_f32(&a)[i] == 0);
        tensor_f32(&a)[i] = (float)i;
    }
    memset(b.data, 7, b.bytes);
    tensor_release_pages(&a);
    tensor_release_pages(&b);
    spill_free(s); /* the tensors live on */
    assert_true(tensor_f32(&a)[999999] == 999999 && ((uint8_t *)b.data)[3000000] == 7);
    struct tensor copy;
    tensor_ref(&copy, &a);
    assert_int_equal(tensor_writable(&copy, NULL), 0);
    tensor_f32(&copy)[0] = 5;
    assert_true(tensor_f32(&a)[0] == 0);
    tensor_fini(&copy);
    tensor_fini(&a);
    tensor_fini(&b);
    tensor_fini(&small);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rtn),   cmocka_unit_test(test_half_scales), cmocka_unit_test(test_bad_numbers),
        cmocka_unit_test(test_pack),  cmocka_unit_test(test_view),        cmocka_unit_test(test_tiles),
        cmocka_unit_test(test_spill),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
