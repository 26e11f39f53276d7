/* SPDX-License-Identifier: Apache-2.0
 * Regularization: values by the definitions, gradients by central differences of them, the same bits on any pool. */
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

#include "core/train/regularize.h"

enum { A = 3, B = 4, C = 5, COUNT = A * B * C };

static void fill(double *w, int n)
{
    for (int i = 0; i < n; i++)
        w[i] = i % 7 == 3 ? 0 : sin(i * 1.3) * 2;
    for (int i = 0; i < C && n == COUNT; i++) /* one group of zeros for axis 0 and 1 */
        for (int b = 0; b < B; b++)
            w[(2 * B + b) * C + i] = 0;
}

/* The definition, one number after the other. */
static double definition(const struct regularize *r, const double *w)
{
    double sum = 0;
    const int dim[3] = {A, B, C};
    for (int i = 0; i < COUNT; i++)
        sum += r->l1 * fabs(w[i]) + r->l2 * w[i] * w[i] / 2;
    for (int c = 0; c < dim[r->axis]; c++) {
        double square = 0;
        for (int i = 0; i < COUNT; i++) {
            const int at[3] = {i / (B * C), i / C % B, i % C};
            square += at[r->axis] == c ? w[i] * w[i] : 0;
        }
        sum += r->group_lasso * sqrt((double)COUNT / dim[r->axis]) * sqrt(square);
    }
    return sum;
}

static void test_differences(void **state)
{
    (void)state;
    static const struct regularize table[] = {{.l1 = 0.5},
                                              {.l2 = 2},
                                              {.group_lasso = 1.5},
                                              {.group_lasso = 0.3, .axis = 1},
                                              {.group_lasso = 0.3, .axis = 2},
                                              {0.1, 0.2, 0.3, 1}};
    for (size_t row = 0; row < sizeof table / sizeof table[0]; row++) {
        double w[COUNT], g[COUNT];
        struct tensor tw, tg;
        fill(w, COUNT);
        for (int i = 0; i < COUNT; i++)
            g[i] = i;
        tensor_view(&tw, DTYPE_DOUBLE, &SHAPE(A, B, C), w, NULL);
        tensor_view(&tg, DTYPE_DOUBLE, &SHAPE(A, B, C), g, NULL);
        const double value = regularize_add(NULL, &table[row], &tw, &tg);
        assert_true(fabs(value - definition(&table[row], w)) < 1e-12 * value);
        for (int i = 0; i < COUNT; i++) {
            const double keep = w[i], step = 1e-6;
            w[i] = keep + step;
            const double up = definition(&table[row], w);
            w[i] = keep - step;
            const double slope = (up - definition(&table[row], w)) / (2 * step);
            w[i] = keep;
            /* at 0 the differences of |w| cancel, as the subgradient does */
            if (fabs(g[i] - i - slope) > 1e-7)
                fail_msg("row %zu, weight %d: %g, differences give %g", row, i, g[i] - i, slope);
        }
    }
}

static void test_threads(void **state)
{
    (void)state;
    enum { LONG = 700001 };
    struct pool *pool = pool_new(3);
    struct err err = {0};
    struct tensor w = {0}, g[2] = {{0}, {0}};
    const struct regularize r = {0.1, 0.2, 0, 0};
    double value[2], square[2], by_hand = 0;
    assert_int_equal(tensor_alloc(&w, DTYPE_FLOAT, &SHAPE(LONG), &err), 0);
    for (int i = 0; i < LONG; i++)
        tensor_f32(&w)[i] = (float)sin(i * 0.7);
    for (int i = 0; i < 2; i++) {
        assert_int_equal(tensor_alloc(&g[i], DTYPE_FLOAT, &SHAPE(LONG), &err), 0);
        value[i] = regularize_add(i ? pool : NULL, &r, &w, &g[i]);
        square[i] = gradient_square(i ? pool : NULL, &g[i]);
    }
    assert_true(tensor_equal(&g[0], &g[1]));
    assert_memory_equal(&value[0], &value[1], sizeof value[0]);
    assert_memory_equal(&square[0], &square[1], sizeof square[0]);
    for (int i = 0; i < LONG; i++)
        by_hand += (double)tensor_f32(&g[0])[i] * (double)tensor_f32(&g[0])[i];
    assert_true(fabs(by_hand - square[0]) < 1e-10 * by_hand);
    gradient_scale(pool, &g[0], 0.5);
    for (int i = 0; i < LONG; i++)
        assert_true(tensor_f32(&g[0])[i] == 0.5f * tensor_f32(&g[1])[i]);
    tensor_fini(&w);
    tensor_fini(&g[0]);
    tensor_fini(&g[1]);
    pool_free(pool);
}

static void test_nothing(void **state)
{
    (void)state;
    struct tensor none = {0};
    none.dtype = DTYPE_FLOAT;
    none.shape = SHAPE(0, 3);
    assert_true(regularize_add(NULL, &(struct regularize){1, 1, 1, 0}, &none, &none) == 0);
    assert_true(gradient_square(NULL, &none) == 0);
    gradient_scale(NULL, &none, 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_differences), cmocka_unit_test(test_threads),
                                       cmocka_unit_test(test_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
