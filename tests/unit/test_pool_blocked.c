/* SPDX-License-Identifier: Apache-2.0
 * Pools of blocked images against the definition in double: a table of windows on every instruction set of this
 * machine; the same bits on one and two threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/kernels/isa.h"
#include "core/kernels/pool_blocked.h"

static const struct row {
    const char *name;
    int64_t planes, in[2], kernel[2], stride[2], dilation[2], pad[2], pad_end[2];
} table[] = {
    {"2x2 stride 2", 3, {8, 10}, {2, 2}, {2, 2}, {1, 1}, {0, 0}, {0, 0}},
    {"3x3 stride 2", 2, {11, 13}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3 stride 2, one-sided", 2, {12, 9}, {3, 3}, {2, 2}, {1, 1}, {0, 0}, {1, 1}},
    {"3x3 stride 1", 2, {6, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"whole image", 5, {7, 5}, {7, 5}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"2x5, strides 1 and 3", 1, {9, 17}, {2, 5}, {1, 3}, {1, 1}, {1, 4}, {0, 2}},
    {"dilated", 2, {14, 15}, {3, 2}, {1, 2}, {2, 3}, {1, 1}, {2, 1}},
    {"one row", 4, {1, 40}, {1, 4}, {1, 2}, {1, 1}, {0, 1}, {0, 1}},
    {"rows in parts", 1, {150, 120}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
    {"window wider than the image", 1, {3, 2}, {5, 4}, {1, 1}, {1, 1}, {2, 3}, {2, 3}},
};

static void geometry(const struct row *r, struct pool_blocked *g)
{
    g->planes = r->planes;
    g->w = (struct window){.rank = 2};
    for (int a = 0; a < 2; a++) {
        g->w.in[a] = r->in[a];
        g->w.kernel[a] = r->kernel[a];
        g->w.stride[a] = r->stride[a];
        g->w.dilation[a] = r->dilation[a];
        g->w.pad[a] = r->pad[a];
        g->w.pad_end[a] = r->pad_end[a];
        g->w.out[a] =
            (r->in[a] + r->pad[a] + r->pad_end[a] - (r->kernel[a] - 1) * r->dilation[a] - 1) / r->stride[a] + 1;
    }
}

static double wanted(const struct pool_blocked *g, const float *x, int64_t plane, int64_t oy, int64_t ox, int64_t lane)
{
    const struct window *w = &g->w;
    double most = -INFINITY, sum = 0;
    int64_t inside = 0, padded = 0;
    for (int64_t i = 0; i < w->kernel[0]; i++)
        for (int64_t j = 0; j < w->kernel[1]; j++) {
            const int64_t y = oy * w->stride[0] - w->pad[0] + i * w->dilation[0];
            const int64_t c = ox * w->stride[1] - w->pad[1] + j * w->dilation[1];
            padded += y < w->in[0] + w->pad_end[0] && c < w->in[1] + w->pad_end[1];
            if (y < 0 || y >= w->in[0] || c < 0 || c >= w->in[1])
                continue;
            const double v = (double)x[((plane * w->in[0] + y) * w->in[1] + c) * BLOCK + lane];
            most = fmax(most, v);
            sum += v;
            inside++;
        }
    return g->average ? sum / (double)(g->include_pad ? padded : inside) : most;
}

static float *floats(int64_t n)
{
    float *p = calloc((size_t)n + 1, sizeof *p);
    assert_non_null(p);
    return p;
}

static void check(const struct row *r, struct pool_blocked *g, struct pool *pool)
{
    const int64_t in = r->in[0] * r->in[1] * BLOCK, out = g->w.out[0] * g->w.out[1] * BLOCK;
    float *x = floats(r->planes * in), *y = floats(r->planes * out), *again = floats(r->planes * out);
    float *scratch = floats(pool_blocked_scratch(g));
    struct rng rng;
    rng_init(&rng, 3, 0);
    for (int64_t i = 0; i < r->planes * in; i++)
        x[i] = (float)rng_normal(&rng);
    pool_blocked_f32(NULL, g, x, y, scratch);
    pool_blocked_f32(pool, g, x, again, scratch);
    assert_memory_equal(y, again, (size_t)(r->planes * out) * sizeof *y);
    for (int64_t i = 0; i < r->planes * out; i++) {
        const int64_t cell = i / BLOCK, plane = cell / (out / BLOCK), at = cell % (out / BLOCK);
        const double want = wanted(g, x, plane, at / g->w.out[1], at % g->w.out[1], i % BLOCK);
        if (!(fabs(want - (double)y[i]) <= 1e-5))
            fail_msg("%s%s: element %d is %g, expected %g", r->name, g->average ? ", average" : "", (int)i,
                     (double)y[i], want);
    }
    free(x);
    free(y);
    free(again);
    free(scratch);
}

static void check_table(enum isa isa)
{
    struct pool *pool = pool_new(2);
    isa_limit(isa);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        for (int kind = 0; kind < 3; kind++) {
            struct pool_blocked g = {.average = kind > 0, .include_pad = kind == 2};
            geometry(&table[i], &g);
            check(&table[i], &g, pool);
        }
    isa_limit(ISA_KINDS);
    pool_free(pool);
}

static void portable(void **state)
{
    (void)state;
    check_table(ISA_PORTABLE);
}

static void avx2(void **state)
{
    (void)state;
    if (!isa_has(ISA_AVX2))
        skip();
    check_table(ISA_AVX2);
}

static void global_average(void **state)
{
    static const int64_t cells[] = {1, 3, 4, 49, 1000};
    (void)state;
    for (size_t k = 0; k < sizeof cells / sizeof cells[0]; k++) {
        const int64_t n = cells[k], planes = 3;
        float *x = floats(planes * n * BLOCK), y[3 * BLOCK];
        for (int64_t i = 0; i < planes * n * BLOCK; i++)
            x[i] = (float)(i * 7 % 31) - 15;
        global_average_blocked_f32(NULL, planes, n, x, y);
        for (int64_t i = 0; i < planes * BLOCK; i++) {
            double sum = 0;
            for (int64_t c = 0; c < n; c++)
                sum += (double)x[(i / BLOCK * n + c) * BLOCK + i % BLOCK];
            assert_true(fabs(sum / (double)n - (double)y[i]) < 1e-5);
        }
        free(x);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(portable), cmocka_unit_test(avx2),
                                       cmocka_unit_test(global_average)};
    return cmocka_run_group_tests_name("pool_blocked", tests, NULL, NULL);
}
