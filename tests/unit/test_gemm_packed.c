/* SPDX-License-Identifier: Apache-2.0
 * Packed products against sums in double, on every instruction set this machine has: shapes around the tile's edges,
 * transposed and strided operands, bias, residual, activation, batches; and the same bits for every number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "core/kernels/gemm_packed.h"
#include "core/kernels/isa.h"

static const enum isa sets[] = {ISA_PORTABLE, ISA_AVX2};
enum { N_SETS = sizeof sets / sizeof sets[0] };

static float *random_floats(int64_t n, unsigned seed)
{
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++) {
        seed = seed * 1664525u + 1013904223u;
        x[i] = (float)(seed >> 8) / 8388608.0f - 1.0f;
    }
    return x;
}

struct form {
    bool trans_a, trans_b, packed, bias, residual;
    enum act_kind act;
};
struct matrices {
    float *a, *b, *packed, *bias, *residual, *c;
};

static struct gemm_packed problem(int64_t m, int64_t n, int64_t k, const struct form *f, struct matrices *x)
{
    int64_t count;
    x->a = random_floats(m * k, 1);
    x->b = random_floats(k * n, 2);
    x->bias = random_floats(n, 3);
    x->residual = random_floats(m * (n + 3), 4);
    x->c = random_floats(m * (n + 5), 5);
    struct gemm_packed g = {.m = m, .n = n, .k = k, .a = x->a, .a_row = f->trans_a ? 1 : k, .a_col = f->trans_a ? m : 1,
                            .b = x->b, .b_row = f->trans_b ? 1 : n, .b_col = f->trans_b ? k : 1,
                            .bias = f->bias ? x->bias : NULL, .residual = f->residual ? x->residual : NULL,
                            .residual_row = n + 3, .act = {f->act, 0.1f, 0.8f}, .c = x->c, .c_row = n + 5};
    assert_true(gemm_packed_count(k, n, &count));
    x->packed = random_floats(count, 6);
    if (f->packed) {
        gemm_pack_b(k, n, x->b, g.b_row, g.b_col, 1, x->packed);
        g.b = x->packed;
        g.packed = true;
    }
    return g;
}

static void release(struct matrices *x)
{
    free(x->a);
    free(x->b);
    free(x->packed);
    free(x->bias);
    free(x->residual);
    free(x->c);
}

static void check(const struct gemm_packed *g, const struct form *f, const struct matrices *x)
{
    const int64_t b_row = f->trans_b ? 1 : g->n, b_col = f->trans_b ? g->k : 1;
    for (int64_t i = 0; i < g->m; i++)
        for (int64_t j = 0; j < g->n; j++) {
            double sum = 0, size = 1;
            for (int64_t p = 0; p < g->k; p++) {
                const double term = (double)g->a[i * g->a_row + p * g->a_col] * (double)x->b[p * b_row + j * b_col];
                sum += term;
                size += fabs(term);
            }
            sum += (g->bias ? (double)g->bias[j] : 0) + (g->residual ? (double)g->residual[i * g->residual_row + j] : 0);
            if (f->act == ACT_RELU)
                sum = sum < 0 ? 0 : sum;
            else if (f->act == ACT_GELU_ERF)
                sum = 0.5 * sum * (1 + erf(sum * sqrt(0.5)));
            if (!(fabs(g->c[i * g->c_row + j] - sum) <= 1e-6 * size))
                fail_msg("m %d n %d k %d, element %d %d: %.9g, should be %.9g", (int)g->m, (int)g->n, (int)g->k, (int)i,
                         (int)j, (double)g->c[i * g->c_row + j], sum);
        }
    for (int64_t i = 0; i < g->m; i++) { /* nothing beyond the columns was touched */
        float *fresh = random_floats(g->m * (g->n + 5), 5);
        assert_memory_equal(g->c + i * g->c_row + g->n, fresh + i * g->c_row + g->n, 5 * sizeof *fresh);
        free(fresh);
    }
}

static const struct form forms[] = {
    {.packed = true},
    {.packed = true, .bias = true, .act = ACT_RELU},
    {.packed = true, .bias = true, .residual = true, .act = ACT_GELU_ERF},
    {.trans_a = true, .packed = true, .trans_b = true, .residual = true},
    {.bias = true},
    {.trans_b = true, .bias = true, .residual = true},
    {.trans_a = true, .act = ACT_RELU},
};

static void products_equal_the_sums(void **state)
{
    static const int64_t ms[] = {1, 2, 3, 4, 5, 6, 7, 13, 50}, ns[] = {1, 7, 8, 15, 16, 17, 33, 48},
                         ks[] = {0, 1, 2, 3, 7, 9, 64, 330};
    (void)state;
    for (int s = 0; s < N_SETS; s++) {
        isa_limit(sets[s]);
        for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++)
            for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++)
                for (size_t j = 0; j < sizeof ns / sizeof ns[0]; j++)
                    for (size_t p = 0; p < sizeof ks / sizeof ks[0]; p++) {
                        struct matrices x;
                        struct gemm_packed g = problem(ms[i], ns[j], ks[p], &forms[f], &x);
                        gemm_packed_f32(NULL, &g);
                        check(&g, &forms[f], &x);
                        release(&x);
                    }
    }
    isa_limit(ISA_KINDS);
}

static void threads_do_not_change_bits(void **state)
{
    static const int64_t shapes[][3] = {{1, 1000, 700}, {3, 500, 900}, {197, 256, 128}, {500, 33, 100}, {1000, 16, 350}};
    struct pool *two = pool_new(2), *three = pool_new(3);
    (void)state;
    for (int s = 0; s < N_SETS; s++) {
        isa_limit(sets[s]);
        for (size_t f = 0; f < sizeof forms / sizeof forms[0]; f++)
            for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
                struct matrices x;
                struct gemm_packed g = problem(shapes[i][0], shapes[i][1], shapes[i][2], &forms[f], &x);
                const size_t bytes = (size_t)(g.m * g.c_row) * sizeof(float);
                float *one = malloc(bytes);
                assert_non_null(one);
                gemm_packed_f32(NULL, &g);
                check(&g, &forms[f], &x);
                memcpy(one, g.c, bytes);
                gemm_packed_f32(two, &g);
                assert_memory_equal(one, g.c, bytes);
                gemm_packed_f32(three, &g);
                assert_memory_equal(one, g.c, bytes);
                free(one);
                release(&x);
            }
    }
    isa_limit(ISA_KINDS);
    pool_free(two);
    pool_free(three);
}

static void batches_take_each_its_place(void **state)
{
    enum { M = 21, N = 19, K = 34, COUNT = 13 };
    float *a = random_floats(COUNT * M * K, 1), *b = random_floats(COUNT * K * N, 2), *c = random_floats(COUNT * M * N, 3);
    struct gemm_packed_at at[COUNT];
    struct pool *pool = pool_new(2);
    (void)state;
    for (int i = 0; i < COUNT; i++)
        at[i] = (struct gemm_packed_at){(COUNT - 1 - i) * M * K, i / 2 * K * N, i * M * N};
    struct gemm_packed g = {.m = M, .n = N, .k = K, .a = a, .a_row = K, .a_col = 1, .b = b, .b_row = N, .b_col = 1,
                            .c = c, .c_row = N};
    gemm_packed_batch_f32(pool, &g, COUNT, at);
    for (int t = 0; t < COUNT; t++)
        for (int i = 0; i < M; i++)
            for (int j = 0; j < N; j++) {
                double sum = 0;
                for (int p = 0; p < K; p++)
                    sum += (double)a[at[t].a + i * K + p] * (double)b[at[t].b + p * N + j];
                assert_true(fabs(c[at[t].c + i * N + j] - sum) < 2e-5);
            }
    pool_free(pool);
    free(a);
    free(b);
    free(c);
}

static void packing_scales_and_counts(void **state)
{
    float b[6] = {1, 2, 3, 4, 5, 6}, packed[2 * GEMM_PANEL];
    int64_t count;
    (void)state;
    assert_true(gemm_packed_count(2, 3, &count));
    assert_int_equal(count, 2 * GEMM_PANEL);
    assert_false(gemm_packed_count(INT64_MAX / 2, 100, &count));
    assert_false(gemm_packed_count(1, INT64_MAX, &count));
    gemm_pack_b(2, 3, b, 3, 1, 0.5f, packed);
    assert_true(packed[0] == 0.5f && packed[2] == 1.5f && packed[3] == 0 && packed[GEMM_PANEL + 1] == 2.5f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(products_equal_the_sums),
        cmocka_unit_test(threads_do_not_change_bits),
        cmocka_unit_test(batches_take_each_its_place),
        cmocka_unit_test(packing_scales_and_counts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
