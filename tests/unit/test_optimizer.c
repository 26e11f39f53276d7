/* SPDX-License-Identifier: Apache-2.0
 * Optimizers against four steps of torch.optim in float64 on p = [1, -2, 0.5] with fixed gradients (the figures
 * were printed by PyTorch 2), in both float types, on parameters longer than a piece, and what is refused. Ten
 * steps of a network are tests/e2e's. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "core/train/optimizer.h"

enum { LONG = 3 * 20001 };
static const double gradients[4][3] = {{0.5, -1.0, 2.0}, {0.25, 0.5, -1.5}, {-0.75, 0.1, 0.3}, {1.0, -0.2, 0.0}};
static const struct {
    struct optimizer_opts opts;
    double end[3];
} table[] = {
    {{.kind = OPTIMIZER_SGD, .lr = 0.1, .weight_decay = 0.01}, {0.896130821051, -1.9322017421, 0.418332548201}},
    {{.kind = OPTIMIZER_SGD, .lr = 0.1, .momentum = 0.9}, {0.8028, -1.7906, 0.1617}},
    {{.kind = OPTIMIZER_SGD, .lr = 0.1, .momentum = 0.9, .nesterov = true, .weight_decay = 0.01},
     {0.711415860816, -1.72880800753, 0.112116313649}},
    {{.kind = OPTIMIZER_ADAM, .lr = 0.1, .weight_decay = 0.01}, {0.774138659591, -1.82827492319, 0.363893372387}},
    {{.kind = OPTIMIZER_ADAMW, .lr = 0.1, .weight_decay = 0.1, .beta1 = 0.8, .beta2 = 0.95, .eps = 1e-6},
     {0.750825739437, -1.77526371138, 0.360976240238}},
};

static void test_table(void **state)
{
    (void)state;
    static const double start[3] = {1.0, -2.0, 0.5};
    static const enum dtype dtypes[] = {DTYPE_FLOAT, DTYPE_DOUBLE};
    struct pool *pool = pool_new(2);
    for (size_t row = 0; row < sizeof table / sizeof table[0]; row++)
        for (int d = 0; d < 2; d++) {
            struct err err = {0};
            struct tensor p = {0}, g = {0};
            struct optimizer *o = optimizer_new(&table[row].opts, 1, &err);
            assert_non_null(o);
            assert_int_equal(tensor_alloc(&p, dtypes[d], &SHAPE(LONG), &err), 0);
            assert_int_equal(tensor_alloc(&g, dtypes[d], &SHAPE(LONG), &err), 0);
            for (int i = 0; i < LONG; i++)
                dtype_set(dtypes[d], p.data, i, start[i % 3]);
            for (int step = 0; step < 4; step++) {
                for (int i = 0; i < LONG; i++)
                    dtype_set(dtypes[d], g.data, i, gradients[step][i % 3]);
                assert_int_equal(optimizer_update(o, pool, 0, &p, &g, true, &err), 0);
            }
            for (int i = 0; i < LONG; i++)
                if (fabs(dtype_get(dtypes[d], p.data, i) - table[row].end[i % 3]) > (d ? 1e-11 : 1e-6))
                    fail_msg("row %zu, value %d: %.12g, PyTorch has %.12g", row, i, dtype_get(dtypes[d], p.data, i),
                             table[row].end[i % 3]);
            const bool momentum = table[row].opts.momentum > 0, adam = table[row].opts.kind != OPTIMIZER_SGD;
            assert_int_equal(optimizer_bytes(o), p.bytes * (adam ? 2 : momentum));
            optimizer_free(o);
            tensor_fini(&p);
            tensor_fini(&g);
        }
    pool_free(pool);
}

static void test_refusals(void **state)
{
    (void)state;
    static const struct {
        struct optimizer_opts opts;
        const char *words;
    } bad[] = {{{.lr = -1}, "learning rate"},
               {{.lr = NAN}, "learning rate"},
               {{.lr = 1, .weight_decay = -1}, "weight_decay"},
               {{.lr = 1, .nesterov = true}, "nesterov"},
               {{.lr = 1, .beta1 = 1, .beta2 = 0.5, .eps = 1}, "beta1"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err = {0};
        assert_null(optimizer_new(&bad[i].opts, 1, &err));
        assert_non_null(strstr(err.msg, bad[i].words));
    }
    struct err err = {0};
    struct tensor p = {0}, g = {0};
    struct optimizer *o = optimizer_new(&(struct optimizer_opts){.lr = 1}, 1, &err);
    assert_int_equal(tensor_alloc(&p, DTYPE_FLOAT, &SHAPE(2), &err), 0);
    assert_int_equal(tensor_alloc(&g, DTYPE_FLOAT, &SHAPE(3), &err), 0);
    assert_int_equal(optimizer_update(o, NULL, 0, &p, &g, true, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    optimizer_free(o);
    tensor_fini(&p);
    tensor_fini(&g);
}

/* A parameter whose rows and columns go: its state goes along, and what is left moves as if the rest had never been. */
static void test_gather(void **state)
{
    (void)state;
    enum { R = 4, S = 3, L = 2 };
    static const int64_t kept[] = {3, 1};
    for (size_t row = 0; row < sizeof table / sizeof table[0]; row++) {
        struct err err = {0};
        double p[R * S * L], g[R * S * L], q[2 * S * L], h[2 * S * L];
        struct tensor tp, tg, tq, th;
        struct optimizer *o = optimizer_new(&table[row].opts, 1, &err), *alone = optimizer_new(&table[row].opts, 1, &err);
        tensor_view(&tp, DTYPE_DOUBLE, &SHAPE(S, R, L), p, NULL);
        tensor_view(&tg, DTYPE_DOUBLE, &SHAPE(S, R, L), g, NULL);
        tensor_view(&tq, DTYPE_DOUBLE, &SHAPE(S, 2, L), q, NULL);
        tensor_view(&th, DTYPE_DOUBLE, &SHAPE(S, 2, L), h, NULL);
        for (int i = 0; i < R * S * L; i++)
            p[i] = cos(i);
        for (int step = 0; step < 6; step++) {
            for (int i = 0; i < R * S * L; i++)
                g[i] = sin(i + step);
            for (int s = 0; s < S; s++)
                for (int k = 0; k < 2; k++)
                    for (int l = 0; l < L; l++) {
                        const int to = (s * 2 + k) * L + l, from = (s * R + (int)kept[k]) * L + l;
                        h[to] = g[from];
                        if (step == 0)
                            q[to] = p[from];
                    }
            assert_int_equal(optimizer_update(alone, NULL, 0, &tq, &th, true, &err), 0);
            if (step < 3)
                assert_int_equal(optimizer_update(o, NULL, 0, &tp, &tg, true, &err), 0);
            if (step == 2) {
                assert_int_equal(optimizer_gather(o, 0, 1, (const int64_t[]){0, R}, 2, &err), table[row].opts.momentum > 0 ||
                                                                                                   table[row].opts.kind
                                                                                               ? -1
                                                                                               : 0);
                err = (struct err){0};
                assert_int_equal(optimizer_gather(o, 0, 1, kept, 2, &err), 0);
                memcpy(p, q, sizeof q);
                tensor_view(&tp, DTYPE_DOUBLE, &SHAPE(S, 2, L), p, NULL);
            }
            if (step > 2)
                assert_int_equal(optimizer_update(o, NULL, 0, &tp, &th, true, &err), 0);
        }
        assert_memory_equal(p, q, sizeof q);
        optimizer_reset(o, 0);
        assert_int_equal(optimizer_bytes(o), 0);
        optimizer_free(o);
        optimizer_free(alone);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_gather)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
