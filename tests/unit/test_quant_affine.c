/* SPDX-License-Identifier: Apache-2.0
 * affine.h against the formulas: scales, zero points, rounding half to even; weights per channel; the pair guard. */
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
#include "core/quant/affine.h"
#include "core/quant/compensate.h"

static void test_params(void **state)
{
    (void)state;
    const struct {
        double lo, hi;
        enum dtype dtype;
        bool symmetric;
        double scale;
        int zero;
    } cases[] = {
        {0, 255, DTYPE_UINT8, false, 1, 0},         {-1, 1, DTYPE_UINT8, false, 2.0 / 255, 128}, /* 127.5 to even */
        {2, 10, DTYPE_UINT8, false, 10.0 / 255, 0}, {-10, -2, DTYPE_UINT8, false, 10.0 / 255, 255},
        {-1, 3, DTYPE_INT8, false, 4.0 / 255, -64}, {-3, 1, DTYPE_INT8, true, 3.0 / 127, 0},
        {-3, 1, DTYPE_UINT8, true, 3.0 / 127, 128}, {0, 0, DTYPE_UINT8, false, 1, 0},
        {0, 1e-45, DTYPE_UINT8, false, 1, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct qparams q = affine_params(cases[i].lo, cases[i].hi, cases[i].dtype, cases[i].symmetric);
        assert_float_equal(q.scale, (float)cases[i].scale, 1e-9);
        assert_int_equal(q.zero, cases[i].zero);
    }
    struct qparams q = {.scale = 2, .zero = 10};
    assert_int_equal(affine_quantize(5, q, 0, 255), 12); /* 2.5 to even */
    assert_int_equal(affine_quantize(7, q, 0, 255), 14); /* 3.5 to even */
    assert_int_equal(affine_quantize(-1e9, q, 0, 255), 0);
    assert_int_equal(affine_quantize(1e9, q, 0, 255), 255);
}

static void random_weight(struct tensor *t, struct shape shape, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 0);
    assert_int_equal(tensor_alloc(t, DTYPE_FLOAT, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(t); i++)
        tensor_f32(t)[i] = (float)rng_normal(&rng);
}

/* Without pairs and nearest: scale = max|w| / 127 of each channel, codes by the formula. */
static void test_per_channel(void **state)
{
    (void)state;
    const struct {
        struct shape shape;
        int axis;
    } cases[] = {{SHAPE(4, 3, 2, 2), 0}, {SHAPE(5, 7), 1}, {SHAPE(5, 7), 0}, {SHAPE(3, 4, 2, 2), 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tensor w = {0};
        struct qweight q;
        random_weight(&w, cases[i].shape, i);
        struct qweight_opts opts = {
            .dtype = DTYPE_INT8, .per_channel = true, .axis = cases[i].axis, .isa = ISA_VNNI, .nearest = true};
        assert_int_equal(qweight_make(&q, &w, &opts, NULL), 0);
        int64_t inner = shape_product(&cases[i].shape, cases[i].axis + 1, cases[i].shape.rank),
                n = cases[i].shape.dim[cases[i].axis];
        for (int64_t c = 0; c < n; c++) {
            float largest = 0;
            for (int64_t k = 0; k < tensor_count(&w); k++)
                if (k / inner % n == c)
                    largest = fmaxf(largest, fabsf(tensor_f32(&w)[k]));
            assert_float_equal(tensor_f32(&q.scale)[c], (double)largest / 127, 1e-7);
        }
        for (int64_t k = 0; k < tensor_count(&w); k++) {
            double s = (double)tensor_f32(&q.scale)[k / inner % n];
            assert_int_equal(((int8_t *)q.codes.data)[k], (int)nearbyint((double)tensor_f32(&w)[k] / s));
        }
        assert_true(q.sqnr_db > 35);
        qweight_fini(&q);
        tensor_fini(&w);
    }
}

/* Errors cancel: of each kernel and of each output channel they sum to about a half at most, no code is off by more than
 * one, and zeros stay. Rounding to the nearest leaves sums of several. */
static void test_errors_cancel(void **state)
{
    (void)state;
    enum { O = 8, C = 24, K = 9 };
    double nearest = 0, cancelled = 0;
    for (int way = 0; way < 2; way++)
        for (uint64_t seed = 0; seed < 10; seed++) {
            struct tensor w = {0};
            struct qweight q;
            random_weight(&w, SHAPE(O, C, 3, 3), seed);
            for (int k = 0; k < O * C * K; k += 7)
                tensor_f32(&w)[k] = 0;
            struct qweight_opts opts = {.dtype = DTYPE_INT8, .per_channel = true, .isa = ISA_VNNI, .nearest = way == 0};
            assert_int_equal(qweight_make(&q, &w, &opts, NULL), 0);
            for (int o = 0; o < O; o++) {
                double channel = 0;
                for (int c = 0; c < C; c++) {
                    double kernel = 0;
                    for (int k = (o * C + c) * K; k < (o * C + c + 1) * K; k++) {
                        double e =
                            ((int8_t *)q.codes.data)[k] - (double)tensor_f32(&w)[k] / (double)tensor_f32(&q.scale)[o];
                        kernel += e;
                        assert_true(fabs(e) <= 1);
                        if (tensor_f32(&w)[k] == 0)
                            assert_int_equal(((int8_t *)q.codes.data)[k], 0);
                    }
                    channel += kernel;
                    if (way == 1)
                        assert_true(fabs(kernel) <= 1.0001); /* a half, or a flip for the channel's sake */
                }
                *(way ? &cancelled : &nearest) += channel * channel;
                if (way == 1)
                    assert_true(fabs(channel) <= 0.5001);
            }
            qweight_fini(&q);
            tensor_fini(&w);
        }
    assert_true(cancelled < nearest / 20);
}

/* With the guard no two neighbours (channels innermost) of one sign exceed 128 in sum, and no code is far off. */
static void test_pair_guard(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct tensor w = {0};
        struct qweight q;
        random_weight(&w, SHAPE(4, 6, 3, 3), seed);
        struct qweight_opts opts = {.dtype = DTYPE_INT8, .per_channel = true, .axis = 0, .isa = ISA_PORTABLE};
        assert_int_equal(qweight_make(&q, &w, &opts, NULL), 0);
        const int8_t *codes = q.codes.data;
        for (int o = 0; o < 4; o++)
            for (int s = 0; s < 9; s++)
                for (int c = 0; c < 6; c += 2) {
                    int a = codes[(o * 6 + c) * 9 + s], b = codes[(o * 6 + c + 1) * 9 + s];
                    assert_true((a > 0) != (b > 0) || abs(a + b) <= 128);
                }
        for (int64_t k = 0; k < tensor_count(&w); k++) {
            double s = (double)tensor_f32(&q.scale)[k / 54];
            assert_true(fabs((double)codes[k] - (double)tensor_f32(&w)[k] / s) <= 1.5);
        }
        qweight_fini(&q);
        tensor_fini(&w);
    }
}

static void test_extremes(void **state)
{
    (void)state;
    struct tensor w = {0};
    struct qweight q;
    struct err err = {0};
    assert_int_equal(tensor_alloc(&w, DTYPE_FLOAT, &SHAPE(3, 2), NULL), 0);
    tensor_f32(&w)[2] = 1e-30f;
    tensor_f32(&w)[3] = -1e-30f;
    tensor_f32(&w)[4] = 3e38f;
    const double floor[3] = {1e-5, 0, 0};
    struct qweight_opts opts = {.dtype = DTYPE_INT8, .per_channel = true, .axis = 0, .scale_floor = floor};
    assert_int_equal(qweight_make(&q, &w, &opts, &err), 0);
    assert_float_equal(tensor_f32(&q.scale)[0], 1e-5, 1e-10); /* a channel of zeros takes the floor */
    assert_true(tensor_f32(&q.scale)[1] >= FLT_MIN);
    assert_int_equal(((int8_t *)q.codes.data)[2], 127);
    assert_int_equal(((int8_t *)q.codes.data)[3], -127);
    assert_int_equal(((int8_t *)q.codes.data)[4], 127);
    qweight_fini(&q);
    tensor_f32(&w)[1] = NAN;
    assert_int_equal(qweight_make(&q, &w, &opts, &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
    tensor_fini(&w);
}

/* The same bytes, scales and proof for any number of threads, however the channels lie. */
static void test_threads(void **state)
{
    (void)state;
    const struct {
        struct shape shape;
        int axis;
        bool per_channel;
    } cases[] = {{SHAPE(75, 6, 3, 3), 0, true}, {SHAPE(33, 101), 1, true}, {SHAPE(33, 101), 1, false},
                 {SHAPE(70, 5), 0, false},      {SHAPE(40, 7), -1, false}, {SHAPE(4, 37, 2, 2), 1, true}};
    struct pool *pool = pool_new(3);
    assert_non_null(pool);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct tensor w = {0};
        struct qweight one, many;
        random_weight(&w, cases[i].shape, i + 1);
        struct qweight_opts opts = {.dtype = DTYPE_INT8, .per_channel = cases[i].per_channel, .axis = cases[i].axis};
        assert_int_equal(qweight_make(&one, &w, &opts, NULL), 0);
        opts.pool = pool;
        assert_int_equal(qweight_make(&many, &w, &opts, NULL), 0);
        assert_memory_equal(one.codes.data, many.codes.data, one.codes.bytes);
        assert_memory_equal(one.scale.data, many.scale.data, one.scale.bytes);
        assert_memory_equal(&one.sqnr_db, &many.sqnr_db, sizeof one.sqnr_db);
        assert_int_equal(one.proof.channels, many.proof.channels);
        assert_int_equal(one.proof.guarded, many.proof.guarded);
        assert_int_equal(one.proof.largest, many.proof.largest);
        assert_int_equal(one.proof.accumulator, many.proof.accumulator);
        qweight_fini(&one);
        qweight_fini(&many);
        tensor_f32(&w)[11] = INFINITY;
        tensor_f32(&w)[29] = NAN;
        struct err err = {0};
        assert_int_equal(qweight_make(&many, &w, &opts, &err), -1);
        assert_non_null(strstr(err.msg, "element 11 is infinite"));
        tensor_fini(&w);
    }
    pool_free(pool);
}

/* Flips as they are defined: one after another, each the largest error that is left. */
static void flip_slowly(double *error, int32_t *codes, int64_t n, int32_t qmax)
{
    double sum = 0;
    for (int64_t k = 0; k < n; k++)
        sum += error[k];
    for (const int by = sum > 0 ? -1 : 1; fabs(sum) > 0.5 && (sum > 0) == (by < 0); sum += by) {
        int64_t at = -1;
        for (int64_t k = 0; k < n; k++)
            if (-by * error[k] > 0 && abs(codes[k] + by) <= qmax && (at < 0 || -by * error[k] > -by * error[at]))
                at = k;
        if (at < 0)
            break;
        codes[at] += by;
        error[at] += by;
    }
}

static void test_flips(void **state)
{
    (void)state;
    enum { N = 4099 };
    static double steps[2 * N], error[N];
    static int32_t codes[N], want[N];
    const struct sum_order order = {.channels = 1, .count = N, .inner = N};
    const struct pair_opts opts = {.qmax = 127};
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct rng rng;
        rng_init(&rng, seed, 0);
        const double bias = (double)(seed % 5) * 0.01,
                     reach = seed % 2 ? 60 : 130; /* 130: some are clipped, off by more than 1 */
        for (int k = 0; k < N; k++)
            steps[k] = nearbyint((2 * rng_uniform(&rng) - 1) * reach) + 0.49 * (2 * rng_uniform(&rng) - 1) + bias;
        assert_true(pair_codes(steps, &order, 0, &opts, codes, NULL) > 0);
        double squares = 0;
        for (int k = 0; k < N; k++) {
            want[k] = codes[k];
            error[k] = codes[k] - steps[k];
        }
        flip_slowly(error, want, N, 127);
        for (int k = 0; k < N; k++)
            squares += error[k] * error[k];
        const double got = compensate_codes(&order, 0, &opts, codes, steps);
        assert_memory_equal(codes, want, sizeof want);
        assert_float_equal(got, squares, 1e-6);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_params),        cmocka_unit_test(test_per_channel),
                                       cmocka_unit_test(test_errors_cancel), cmocka_unit_test(test_pair_guard),
                                       cmocka_unit_test(test_extremes),      cmocka_unit_test(test_threads),
                                       cmocka_unit_test(test_flips)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
