/* SPDX-License-Identifier: Apache-2.0
 * Gradients of convolutions against their definition, loop by loop, on every path (direct, unfolded; float32,
 * float64), with and without adding, and with the same bits on every pool. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/kernels/conv_grad.h"
#include "core/kernels/conv_rows.h"
#include "core/kernels/isa.h"

static const struct conv table[] = {
    {.w = {2, {9, 11}, {9, 11}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
     .batch = 5,
     .groups = 1,
     .c_in = 3,
     .c_out = 6},
    {.w = {2, {16, 16}, {8, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
     .batch = 9,
     .groups = 1,
     .c_in = 8,
     .c_out = 8},
    {.w = {2, {8, 8}, {8, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}, .batch = 17, .groups = 1, .c_in = 5, .c_out = 9},
    {.w = {2, {12, 17}, {10, 7}, {3, 5}, {1, 2}, {1, 1}, {0, 1}, {0, 0}},
     .batch = 2,
     .groups = 2,
     .c_in = 4,
     .c_out = 6},
    {.w = {2, {14, 13}, {10, 9}, {3, 3}, {1, 1}, {2, 2}, {0, 0}, {0, 0}},
     .batch = 3,
     .groups = 1,
     .c_in = 2,
     .c_out = 4},
    {.w = {2, {10, 10}, {12, 12}, {3, 3}, {1, 1}, {1, 1}, {3, 2}, {1, 2}},
     .batch = 2,
     .groups = 1,
     .c_in = 2,
     .c_out = 3},
    {.w = {2, {16, 16}, {8, 8}, {1, 1}, {2, 2}, {1, 1}, {0, 0}, {0, 0}},
     .batch = 3,
     .groups = 1,
     .c_in = 4,
     .c_out = 7},
    {.w = {2, {9, 9}, {9, 9}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}}, .batch = 3, .groups = 1, .c_in = 4, .c_out = 7},
    {.w = {2, {11, 11}, {6, 6}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
     .batch = 2,
     .groups = 6,
     .c_in = 6,
     .c_out = 6},
    {.w = {2, {20, 20}, {6, 6}, {4, 4}, {3, 3}, {1, 1}, {0, 0}, {0, 0}},
     .batch = 2,
     .groups = 1,
     .c_in = 2,
     .c_out = 3},
    {.w = {2, {4, 4}, {4, 4}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}}, .batch = 3, .groups = 1, .c_in = 4, .c_out = 5},
    /* planes of 16 images side by side: whole and unfinished sets, strides, dilation, wide and missing padding */
    {.w = {2, {7, 7}, {7, 7}, {5, 5}, {1, 1}, {1, 1}, {2, 2}, {2, 2}}, .batch = 32, .groups = 6, .c_in = 6, .c_out = 6},
    {.w = {2, {7, 9}, {4, 5}, {5, 3}, {2, 2}, {1, 1}, {2, 1}, {2, 1}}, .batch = 19, .groups = 5, .c_in = 5, .c_out = 5},
    {.w = {2, {9, 8}, {5, 4}, {3, 3}, {1, 1}, {2, 2}, {0, 0}, {0, 0}}, .batch = 12, .groups = 3, .c_in = 3, .c_out = 3},
    {.w = {2, {4, 3}, {5, 6}, {7, 4}, {1, 1}, {1, 1}, {4, 4}, {4, 2}}, .batch = 25, .groups = 3, .c_in = 3, .c_out = 3},
    {.w = {2, {3, 1}, {2, 1}, {1, 1}, {2, 3}, {1, 1}, {0, 0}, {0, 0}}, .batch = 13, .groups = 2, .c_in = 2, .c_out = 2},
    /* pointwise: no columns; of several groups, and cut off, which is not */
    {.w = {2, {5, 7}, {5, 7}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}}, .batch = 9, .groups = 2, .c_in = 6, .c_out = 8},
    {.w = {2, {7, 5}, {6, 4}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {-1, -1}}, .batch = 2, .groups = 1, .c_in = 3, .c_out = 4},
    {.w = {1, {15}, {7}, {3}, {2}, {1}, {0}, {0}}, .batch = 3, .groups = 1, .c_in = 4, .c_out = 5},
    {.w = {3, {4, 5, 6}, {4, 3, 3}, {2, 3, 2}, {1, 1, 2}, {1, 1, 1}, {1, 0, 0}, {0, 0, 0}},
     .batch = 2,
     .groups = 1,
     .c_in = 2,
     .c_out = 3},
};

/* Offset of the input cell of place p and tap t; -1 in the padding. */
static int64_t cell(const struct window *w, int64_t p, int64_t t)
{
    int64_t at = 0, scale = 1;
    for (int a = w->rank - 1; a >= 0; a--) {
        const int64_t i = p % w->out[a] * w->stride[a] + t % w->kernel[a] * w->dilation[a] - w->pad[a];
        if (i < 0 || i >= w->in[a])
            return -1;
        at += i * scale;
        scale *= w->in[a];
        p /= w->out[a];
        t /= w->kernel[a];
    }
    return at;
}

struct data {
    int64_t n_x, n_w, n_y;
    double *x, *w, *dy, *y, *dx, *dw; /* y, dx, dw: the truth */
};

static double *numbers(int64_t n, uint64_t seed)
{
    struct rng rng;
    double *v = malloc((size_t)n * sizeof *v);
    assert_non_null(v);
    rng_init(&rng, seed, 0);
    for (int64_t i = 0; i < n; i++)
        v[i] = (double)(float)rng_normal(&rng);
    return v;
}

static void define(struct data *d, const struct conv *cv)
{
    const int64_t taps = window_count(cv->w.kernel, cv->w.rank), in = window_count(cv->w.in, cv->w.rank);
    const int64_t out = window_count(cv->w.out, cv->w.rank), channels = cv->c_in / cv->groups,
                  m_group = cv->c_out / cv->groups;
    d->n_x = cv->batch * cv->c_in * in;
    d->n_w = cv->c_out * channels * taps;
    d->n_y = cv->batch * cv->c_out * out;
    d->x = numbers(d->n_x, 1);
    d->w = numbers(d->n_w, 2);
    d->dy = numbers(d->n_y, 3);
    d->y = calloc((size_t)d->n_y, sizeof *d->y);
    d->dx = calloc((size_t)d->n_x, sizeof *d->dx);
    d->dw = calloc((size_t)d->n_w, sizeof *d->dw);
    for (int64_t i = 0; i < d->n_y; i++) {
        const int64_t p = i % out, m = i / out % cv->c_out, n = i / out / cv->c_out;
        for (int64_t c = 0; c < channels; c++)
            for (int64_t t = 0; t < taps; t++) {
                const int64_t at = cell(&cv->w, p, t), k = (m * channels + c) * taps + t;
                const int64_t j = (n * cv->c_in + m / m_group * channels + c) * in + at;
                if (at < 0)
                    continue;
                d->y[i] += d->w[k] * d->x[j];
                d->dx[j] += d->w[k] * d->dy[i];
                d->dw[k] += d->x[j] * d->dy[i];
            }
    }
}

static void release(struct data *d)
{
    free(d->x);
    free(d->w);
    free(d->dy);
    free(d->y);
    free(d->dx);
    free(d->dw);
}

static float *narrow(const double *v, int64_t n)
{
    float *f = malloc((size_t)n * sizeof *f);
    for (int64_t i = 0; i < n; i++)
        f[i] = (float)v[i];
    return f;
}

static void *scratch_of(bool (*size)(const struct conv *, size_t, int, size_t *), const struct conv *cv, size_t elem,
                        int lanes)
{
    size_t bytes = 0;
    assert_true(size(cv, elem, lanes, &bytes));
    void *p = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(p);
    memset(p, 0x7f, (bytes + 127) / 64 * 64);
    return p;
}

static void near_f32(const float *got, const double *want, int64_t n, double more, const char *what, size_t row)
{
    for (int64_t i = 0; i < n; i++)
        if (!(fabs((double)got[i] - want[i] - more) <= 2e-5 * (10 + fabs(want[i]))))
            fail_msg("row %zu: %s[%lld] is %g, expected %g", row, what, (long long)i, (double)got[i], want[i] + more);
}

static void check_f32(const struct conv *cv, const struct data *d, struct pool *pool, float *keep_dx, float *keep_dw,
                      size_t row)
{
    const int lanes = pool_threads(pool);
    float *x = narrow(d->x, d->n_x), *w = narrow(d->w, d->n_w), *dy = narrow(d->dy, d->n_y), *y = narrow(d->dy, d->n_y);
    void *s = scratch_of(conv_scratch, cv, sizeof(float), lanes);
    conv_f32(pool, cv, x, w, NULL, y, s);
    near_f32(y, d->y, d->n_y, 0, "y", row);
    free(s);
    s = scratch_of(conv_data_grad_scratch, cv, sizeof(float), lanes);
    conv_data_grad_f32(pool, cv, dy, w, keep_dx, false, s);
    near_f32(keep_dx, d->dx, d->n_x, 0, "dx", row);
    for (int64_t i = 0; i < d->n_x; i++)
        x[i] = 3;
    conv_data_grad_f32(pool, cv, dy, w, x, true, s);
    near_f32(x, d->dx, d->n_x, 3, "added dx", row);
    free(s);
    free(x);
    x = narrow(d->x, d->n_x);
    s = scratch_of(conv_weight_grad_scratch, cv, sizeof(float), lanes);
    conv_weight_grad_f32(pool, cv, x, dy, keep_dw, false, s);
    near_f32(keep_dw, d->dw, d->n_w, 0, "dw", row);
    for (int64_t i = 0; i < d->n_w; i++)
        w[i] = 3;
    conv_weight_grad_f32(pool, cv, x, dy, w, true, s);
    near_f32(w, d->dw, d->n_w, 3, "added dw", row);
    free(s);
    free(x);
    free(w);
    free(dy);
    free(y);
}

static void check_f64(const struct conv *cv, const struct data *d, struct pool *pool)
{
    double *dx = calloc((size_t)d->n_x, sizeof *dx), *dw = calloc((size_t)d->n_w, sizeof *dw);
    void *s = scratch_of(conv_data_grad_scratch, cv, sizeof(double), pool_threads(pool));
    conv_data_grad_f64(pool, cv, d->dy, d->w, dx, true, s);
    free(s);
    s = scratch_of(conv_weight_grad_scratch, cv, sizeof(double), pool_threads(pool));
    conv_weight_grad_f64(pool, cv, d->x, d->dy, dw, false, s);
    for (int64_t i = 0; i < d->n_x; i++)
        assert_true(fabs(dx[i] - d->dx[i]) <= 1e-11);
    for (int64_t i = 0; i < d->n_w; i++)
        assert_true(fabs(dw[i] - d->dw[i]) <= 1e-10);
    free(s);
    free(dx);
    free(dw);
}

static void test_table(void **state)
{
    (void)state;
    int direct = 0;
    for (size_t row = 0; row < sizeof table / sizeof table[0]; row++) {
        const struct conv *cv = &table[row];
        struct data d;
        define(&d, cv);
        float *dx = narrow(d.dx, d.n_x), *dw = narrow(d.dw, d.n_w), *dx2 = narrow(d.dx, d.n_x),
              *dw2 = narrow(d.dw, d.n_w);
        struct pool *pool = pool_new(3);
        check_f32(cv, &d, NULL, dx, dw, row);
        check_f32(cv, &d, pool, dx2, dw2, row);
        assert_memory_equal(dx, dx2, (size_t)d.n_x * sizeof *dx);
        assert_memory_equal(dw, dw2, (size_t)d.n_w * sizeof *dw);
        check_f64(cv, &d, pool);
        direct += conv_rows_fits(cv, CONV_ROWS_WEIGHT);
        isa_limit(ISA_PORTABLE);
        assert_false(conv_rows_fits(cv, CONV_ROWS_WEIGHT));
        check_f32(cv, &d, pool, dx, dw, row);
        isa_limit(ISA_KINDS);
        pool_free(pool);
        free(dx);
        free(dw);
        free(dx2);
        free(dw2);
        release(&d);
    }
    assert_true(!isa_has(ISA_AVX2) || direct >= 7);
}

static void test_bias(void **state)
{
    double dy[2 * 3 * 11], db[3] = {1, 1, 1}, want[3] = {1, 1, 1};
    (void)state;
    for (int i = 0; i < 66; i++) {
        dy[i] = i * 0.25 - 7;
        want[i / 11 % 3] += dy[i];
    }
    conv_bias_grad_f64(NULL, 2, 3, 11, dy, db, true);
    for (int i = 0; i < 3; i++)
        assert_true(fabs(db[i] - want[i]) < 1e-12);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_bias)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
