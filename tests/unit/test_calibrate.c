/* SPDX-License-Identifier: Apache-2.0
 * Calibrators against what the definitions give on the numbers themselves; and in quantize.static: every calibrator's
 * scale is that of its interval, and neither batches nor threads change it. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/stats/calibrate.h"
#include "tests/unit/graphs.h"

enum { SAMPLES = 40, EACH = 500 };

static struct calibration *calibration(enum calibrator kind, bool symmetric, struct pool *pool)
{
    struct calibration *c = calibration_new(
        4, &(struct calibration_opts){
               .calibrator = kind, .percentile = 99.9, .levels = 256, .symmetric = symmetric, .pool = pool});
    assert_non_null(c);
    calibration_want(c, 1);
    calibration_want(c, 99); /* no such value: ignored */
    return c;
}

/* Samples [from, to) of x as one batch of `rows` rows, the last one repeated. */
static void run(struct calibration *c, float *x, int from, int to, int rows)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(rows, EACH), NULL), 0);
    for (int i = 0; i < rows; i++)
        memcpy(tensor_f32(&t) + i * EACH, x + (from + i < to ? from + i : to - 1) * EACH, EACH * sizeof *x);
    for (uint32_t v = 0; v < 3; v++)
        assert_int_equal(calibration_observe(c, v, &t, NULL), 0);
    calibration_ran(c, to);
    tensor_fini(&t);
}

static struct clip clip_of(float *x, enum calibrator kind, bool symmetric, int batch, bool fixed, struct pool *pool)
{
    struct calibration *c = calibration(kind, symmetric, pool);
    if (!fixed && calibration_batch(c))
        batch = (int)calibration_batch(c);
    calibration_start(c, fixed ? batch : 0, SAMPLES);
    for (int at = 0; at < SAMPLES; at += batch) {
        int to = at + batch < SAMPLES ? at + batch : SAMPLES;
        run(c, x, at, to, fixed ? batch : to - at);
    }
    calibration_finish(c);
    struct clip found = calibration_clip(c, 1), ends = calibration_clip(c, 0);
    const struct range *r = calibration_range(c, 0);
    assert_true(ends.lo == (double)r->min && ends.hi == (double)r->max); /* not wanted: what was seen */
    struct clip never = calibration_clip(c, 3);
    assert_true(never.lo == 0 && never.hi == 0 && !calibration_range(c, 3));
    assert_null(calibration_range(c, 99));
    calibration_free(c);
    return found;
}

static struct clip expected(const float *x, enum calibrator kind, bool symmetric)
{
    const int n = SAMPLES * EACH;
    struct clip c = {INFINITY, -INFINITY}, mean = {0, 0};
    for (int s = 0; s < SAMPLES; s++) {
        double lo = INFINITY, hi = -INFINITY;
        for (int i = s * EACH; i < (s + 1) * EACH; i++) {
            lo = fmin(lo, (double)x[i]);
            hi = fmax(hi, (double)x[i]);
        }
        c = (struct clip){fmin(c.lo, lo), fmax(c.hi, hi)};
        mean.lo += lo / SAMPLES;
        mean.hi += hi / SAMPLES;
    }
    if (kind == CALIBRATE_MINMAX)
        return c;
    if (kind == CALIBRATE_MOVING_AVERAGE)
        return mean;
    struct histogram *h = histogram_new();
    assert_non_null(h);
    histogram_add(NULL, h, x, n);
    c = kind == CALIBRATE_PERCENTILE ? histogram_percentile(h, 99.9, symmetric)
        : kind == CALIBRATE_ENTROPY  ? histogram_entropy(h, 256, symmetric)
                                     : histogram_mse(h, 256, symmetric);
    free(h);
    return c;
}

static void test_definitions(void **state)
{
    (void)state;
    float *x = malloc(SAMPLES * EACH * sizeof *x);
    struct rng rng;
    rng_init(&rng, 7, 0);
    for (int i = 0; i < SAMPLES * EACH; i++)
        x[i] = (float)(rng_normal(&rng) * (1 + i / EACH % 7) * (i % 1999 ? 1 : 9) + 0.5);
    for (int kind = 0; kind < CALIBRATORS; kind++)
        for (int symmetric = 0; symmetric < 2; symmetric++) {
            const struct clip want = expected(x, (enum calibrator)kind, symmetric);
            for (int batch = 1; batch <= 16; batch += 5)
                for (int fixed = 0; fixed < 2; fixed++)
                    for (int threads = 1; threads <= 2; threads++) {
                        struct pool *pool = pool_new(threads);
                        struct clip c = clip_of(x, (enum calibrator)kind, symmetric, batch, fixed, pool);
                        g_near(c.lo, want.lo, 1e-12 * fabs(want.lo));
                        g_near(c.hi, want.hi, 1e-12 * fabs(want.hi));
                        pool_free(pool);
                    }
        }
    free(x);
}

static void test_other_values(void **state)
{
    (void)state;
    struct calibration *c = calibration(CALIBRATE_MSE, false, NULL);
    struct tensor t;
    float odd[] = {NAN, INFINITY}, some[] = {1, -3};
    int64_t ints[] = {5};
    calibration_start(c, 0, 1);
    tensor_view(&t, DTYPE_INT64, &SHAPE(1), ints, NULL);
    assert_int_equal(calibration_observe(c, 1, &t, NULL), 0);
    assert_null(calibration_range(c, 1));
    tensor_view(&t, DTYPE_FLOAT, &SHAPE(0, 3), odd, NULL);
    assert_int_equal(calibration_observe(c, 1, &t, NULL), 0);
    tensor_view(&t, DTYPE_FLOAT, &SHAPE(2), odd, NULL);
    assert_int_equal(calibration_observe(c, 1, &t, NULL), 0);
    tensor_view(&t, DTYPE_FLOAT, &SHAPE(2), some, NULL);
    assert_int_equal(calibration_observe(c, 2, &t, NULL), 0);
    calibration_finish(c);
    struct clip none = calibration_clip(c, 1), all = calibration_clip(c, 2);
    assert_true(none.lo == 0 && none.hi == 0);
    assert_int_equal(calibration_range(c, 1)->nan, 1);
    assert_true(all.lo == -3 && all.hi == 1);
    calibration_free(c);
}

/* x[N,64] -> Gemm a -> Sigmoid s -> Gemm b: the input's scale is that of the calibrator's interval of the samples; the
 * Sigmoid's is 1 / 255 whatever was seen. */
static void test_scales(void **state)
{
    (void)state;
    static const char *const names[] = {"minmax", "moving_average", "percentile percentile=99", "entropy", "mse"};
    enum { ROWS = 100, WIDTH = 64 };
    struct tensor x = {0};
    g_fill(&x, SHAPE(ROWS, WIDTH), 11, 1);
    tensor_f32(&x)[1000] = 30; /* an outlier */
    struct histogram *h = histogram_new();
    assert_non_null(h);
    histogram_add(NULL, h, tensor_f32(&x), ROWS * WIDTH);
    double lo = 0, hi = 0;
    for (int s = 0; s < ROWS; s++) {
        struct range r = RANGE_EMPTY;
        range_add(&r, tensor_f32(&x) + s * WIDTH, WIDTH);
        lo += (double)r.min / ROWS;
        hi += (double)r.max / ROWS;
    }
    for (int i = 0; i < CALIBRATORS; i++) {
        struct clip want[] = {{(double)h->min, (double)h->max},
                              {lo, hi},
                              histogram_percentile(h, 99, false),
                              histogram_entropy(h, 256, false),
                              histogram_mse(h, 256, false)};
        struct model *m = g_new(13);
        uint32_t in = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), WIDTH));
        uint32_t a = G_OP(m, "Gemm", "a", in, g_random(m, "wa", SHAPE(WIDTH, 8), 1, 0.05));
        g_output(m, G_OP(m, "Gemm", "b", G_OP(m, "Sigmoid", "s", a), g_random(m, "wb", SHAPE(8, 3), 2, 1)));
        char words[100];
        snprintf(words, sizeof words, "quantize.static samples=100 calibrator=%s", names[i]);
        struct g_done done = g_apply(m, words, &x);
        const struct tensor *first = value_const(m, g_source(m, g_made(m, "a"), 0)->input[1]);
        const struct tensor *second = value_const(m, g_source(m, g_made(m, "b"), 0)->input[1]);
        const double scale = (want[i].hi - want[i].lo) / 255;
        g_near(tensor_f32(first)[0], scale, 1e-6 * scale);
        g_near(tensor_f32(second)[0], 1.0 / 255, 1e-9);
        g_done(&done);
        model_free(m);
    }
    free(h);
    tensor_fini(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definitions),
        cmocka_unit_test(test_other_values),
        cmocka_unit_test(test_scales),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
