/* SPDX-License-Identifier: Apache-2.0
 * Second moments of two versions of a model against sums over patches written down here. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/stats/pair_gram.h"
#include "graphs.h"
#include "samples.h"

enum { N = 7, C = 4, SIDE = 6, OUT = 6, KERNEL = 9, K = C / 2 * KERNEL };

/* x -> Conv 1x1 -> Relu (an output too) -> Conv 3x3 of two groups, padded. */
static struct model *network(uint32_t *w, uint32_t *node, uint32_t *relu)
{
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(-1, C, SIDE, SIDE)), v = g_random(m, "v", SHAPE(OUT, C / 2, 3, 3), 2, 1);
    *w = g_random(m, "w", SHAPE(C, C, 1, 1), 1, 1);
    *relu = G_OP(m, "Relu", "r", G_OP(m, "Conv", "c", x, *w));
    uint32_t y = G_OP(m, "Conv", "y", *relu, v);
    *node = g_maker(m, y);
    node_set_int(m, *node, "group", 2);
    node_set_ints(m, *node, "pads", (int64_t[]){1, 1, 1, 1}, 4);
    g_output(m, y);
    g_output(m, *relu);
    return m;
}

/* Element k of group g in the patch under output position p. */
static double patch(const float *image, int g, int k, int p)
{
    const int row = p / SIDE + k % KERNEL / 3 - 1, col = p % SIDE + k % 3 - 1;
    if (row < 0 || col < 0 || row >= SIDE || col >= SIDE)
        return 0;
    return (double)image[((g * C / 2 + k / KERNEL) * SIDE + row) * SIDE + col];
}

static void close_to(double got, double want)
{
    g_near(got, want, 1e-4 * (1 + fabs(want)));
}

static void test_moments(void **state)
{
    (void)state;
    uint32_t w, node, relu;
    float x[N * C * SIDE * SIDE];
    struct model *a = network(&w, &node, &relu), *b = model_clone(a, NULL);
    struct rng rng;
    struct tensor t = {0}, in = {0}, ra = {0}, rb = {0};
    rng_init(&rng, 5, 0);
    for (int i = 0; i < N * C * SIDE * SIDE; i++)
        x[i] = (float)rng_normal(&rng);
    assert_int_equal(tensor_copy(&t, value_const(b, w), NULL), 0);
    for (int i = 0; i < C * C; i += 2)
        tensor_f32(&t)[i] = 0;
    assert_int_equal(value_set_weight(b, w, &t), 0);
    assert_int_equal(tensor_alloc(&in, DTYPE_FLOAT, &SHAPE(N, C, SIDE, SIDE), NULL), 0);
    memcpy(in.data, x, sizeof x);
    g_run(a, &in, 1, &ra);
    g_run(b, &in, 1, &rb);
    struct dataset *data = samples_open(x, N, C * SIDE * SIDE, NULL, a);
    struct pool *pool = pool_new(2);
    struct pair_moments got[2], again[2];
    const uint32_t nodes[2] = {node, g_maker(a, relu)}; /* a Relu is no product */
    struct pair_gram p = {.a = a, .b = b, .data = data, .samples = 0, .nodes = nodes, .n = 2};
    struct err err = {0};
    if (pair_gram_run(&p, got, &err))
        fail_msg("%s", err.msg);
    p.pool = pool;
    assert_int_equal(pair_gram_run(&p, again, &err), 0);
    assert_non_null(got[1].why);
    assert_null(got[0].why);
    assert_int_equal(got[0].groups, 2);
    assert_int_equal(got[0].k, K);
    assert_int_equal(got[0].rows, N * SIDE * SIDE);
    assert_memory_equal(got[0].ab, again[0].ab, 2 * K * K * sizeof(double));
    for (int g = 0; g < 2; g++)
        for (int i = 0; i < K; i++) {
            double mean_a = 0, mean_b = 0;
            for (int j = 0; j < K; j++) {
                double bb = 0, ab = 0;
                for (int n = 0; n < N; n++)
                    for (int q = 0; q < SIDE * SIDE; q++) {
                        const float *ia = tensor_f32(&ra) + n * C * SIDE * SIDE,
                                    *ib = tensor_f32(&rb) + n * C * SIDE * SIDE;
                        bb += patch(ib, g, i, q) * patch(ib, g, j, q);
                        ab += patch(ia, g, i, q) * patch(ib, g, j, q);
                        mean_a += j == 0 ? patch(ia, g, i, q) : 0;
                        mean_b += j == 0 ? patch(ib, g, i, q) : 0;
                    }
                close_to(got[0].bb[(g * K + i) * K + j], bb / (N * SIDE * SIDE));
                close_to(got[0].ab[(g * K + i) * K + j], ab / (N * SIDE * SIDE));
            }
            close_to(got[0].mean_a[g * K + i], mean_a / (N * SIDE * SIDE));
            close_to(got[0].mean_b[g * K + i], mean_b / (N * SIDE * SIDE));
        }
    for (int i = 0; i < 2; i++) {
        pair_moments_fini(&got[i]);
        pair_moments_fini(&again[i]);
    }
    dataset_close(data);
    pool_free(pool);
    tensor_fini(&t);
    tensor_fini(&in);
    tensor_fini(&ra);
    tensor_fini(&rb);
    model_free(a);
    model_free(b);
}

/* A bound on the rows is kept, the same rows of both. */
static void test_some_rows(void **state)
{
    (void)state;
    uint32_t w, node, relu;
    float x[N * C * SIDE * SIDE];
    struct model *a = network(&w, &node, &relu);
    struct pair_moments got;
    struct err err = {0};
    struct rng rng;
    rng_init(&rng, 5, 0);
    for (int i = 0; i < N * C * SIDE * SIDE; i++)
        x[i] = (float)rng_normal(&rng);
    struct dataset *data = samples_open(x, N, C * SIDE * SIDE, NULL, a);
    const struct pair_gram p = {.a = a, .b = a, .data = data, .samples = 5, .rows = 2, .nodes = &node, .n = 1};
    assert_int_equal(pair_gram_run(&p, &got, &err), 0);
    assert_int_equal(got.rows, 5 * 8); /* of 36 a sample, ceil(2 * 18 / 5) */
    for (int i = 0; i < 2 * K * K; i++)
        g_near(got.ab[i], got.bb[i], 1e-6 * (1 + fabs(got.bb[i])));
    assert_int_equal(pair_gram_bytes(a, g_maker(a, relu)), SIZE_MAX);
    assert_true(pair_gram_bytes(a, node) > 2 * 2 * K * K * sizeof(double));
    pair_moments_fini(&got);
    dataset_close(data);
    model_free(a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_moments), cmocka_unit_test(test_some_rows)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
