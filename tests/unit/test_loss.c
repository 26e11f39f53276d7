/* SPDX-License-Identifier: Apache-2.0
 * Losses: values worked out by hand or by the definition, gradients by central differences, reductions, ignored
 * labels, bad input. The figures of test_torch were printed by PyTorch 2 (cross_entropy with label_smoothing,
 * kl_div of log_softmax, mse_loss). */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "core/train/loss.h"

enum { N = 3, C = 4, D = 2 };
static double scores[N * C * D], targets[N * C * D];
static int64_t labels[N * D] = {0, 3, LOSS_IGNORE, 1, 2, 2};

static const float weights[N] = {0.25f, 1, 0.5f};
static const int32_t pairs[N] = {2, 1, 1};

static struct tensor view(enum dtype dtype, struct shape shape, void *data)
{
    struct tensor t;
    tensor_view(&t, dtype, &shape, data, NULL);
    return t;
}

static void fill(void)
{
    for (int i = 0; i < N * C * D; i++) {
        scores[i] = sin(i * 1.7) * 2;
        targets[i] = cos(i * 0.9) * 2;
    }
}

static double value_of(const struct loss_opts *opts, struct tensor *gradient, double *sample)
{
    struct err err = {0};
    struct tensor y = view(DTYPE_DOUBLE, SHAPE(N, C, D), scores), t = view(DTYPE_DOUBLE, SHAPE(N, C, D), targets);
    struct tensor l = view(DTYPE_INT64, SHAPE(N, D), labels);
    double value;
    if (opts->kind == LOSS_BINARY) /* targets in [0, 1] */
        for (int i = 0; i < N * C * D; i++)
            targets[i] = 0.5 + cos(i * 0.9) / 2;
    if (loss_evaluate(NULL, opts, &y, opts->kind == LOSS_CROSS_ENTROPY ? &l : &t, &value, gradient, sample, &err))
        fail_msg("%s", err.msg);
    return value;
}

static void test_differences(void **state)
{
    (void)state;
    static const struct loss_opts table[] = {{.kind = LOSS_CROSS_ENTROPY},
                                             {.kind = LOSS_CROSS_ENTROPY, .smoothing = 0.2, .reduction = LOSS_SUM},
                                             {.kind = LOSS_CROSS_ENTROPY, .reduction = LOSS_BATCHMEAN, .scale = 0.5},
                                             {.kind = LOSS_SQUARED},
                                             {.kind = LOSS_SQUARED, .reduction = LOSS_SUM},
                                             {.kind = LOSS_KL, .temperature = 3},
                                             {.kind = LOSS_KL, .temperature = 0.7, .reduction = LOSS_BATCHMEAN},
                                             {.kind = LOSS_KL, .reduction = LOSS_SUM, .scale = 2},
                                             {.kind = LOSS_ABSOLUTE},
                                             {.kind = LOSS_HUBER},
                                             {.kind = LOSS_HUBER, .delta = 0.3, .reduction = LOSS_SUM},
                                             {.kind = LOSS_BINARY, .reduction = LOSS_BATCHMEAN},
                                             {.kind = LOSS_CROSS_ENTROPY, .weight = weights, .pair = pairs},
                                             {.kind = LOSS_HUBER, .weight = weights, .rest = true, .pair = pairs}};
    fill();
    for (size_t row = 0; row < sizeof table / sizeof table[0]; row++) {
        double g[N * C * D], sample[N], sum = 0;
        fill();
        struct tensor gradient = view(DTYPE_DOUBLE, SHAPE(N, C, D), g);
        const double value = value_of(&table[row], &gradient, sample);
        for (int i = 0; i < N * C * D; i++) {
            const double keep = scores[i], step = 1e-6;
            scores[i] = keep + step;
            const double up = value_of(&table[row], NULL, NULL);
            scores[i] = keep - step;
            const double down = value_of(&table[row], NULL, NULL);
            scores[i] = keep;
            if (fabs(g[i] - (up - down) / (2 * step)) > 1e-7)
                fail_msg("row %zu, score %d: %g, differences give %g", row, i, g[i], (up - down) / (2 * step));
        }
        for (int n = 0; n < N; n++)
            sum += sample[n];
        const double scale = table[row].scale != 0 ? table[row].scale : 1;
        const double count = table[row].kind == LOSS_CROSS_ENTROPY ? N * D - 1 : N * C * D; /* one is ignored */
        const double divisor = table[row].reduction == LOSS_SUM ? 1 : table[row].reduction == LOSS_MEAN ? count : N;
        assert_true(fabs(value - sum * scale / divisor) < 1e-12);
        struct loss_opts twice = table[row];
        double before[N * C * D];
        memcpy(before, g, sizeof g);
        twice.add = true;
        value_of(&twice, &gradient, NULL);
        for (int i = 0; i < N * C * D; i++)
            assert_true(fabs(g[i] - 2 * before[i]) < 1e-12);
    }
}

/* y = [[1, 2, 3], [0, -1, 4]], labels 2, 0, t = [[0, 1, 0], [2, 2, -1]] */
static void test_torch(void **state)
{
    (void)state;
    static const struct {
        struct loss_opts opts;
        double value, first;
    } table[] = {{{.kind = LOSS_CROSS_ENTROPY}, 2.216175427, 0.04501528659},
                 {{.kind = LOSS_CROSS_ENTROPY, .smoothing = 0.1}, 2.216175427, 0.02834861992},
                 {{.kind = LOSS_CROSS_ENTROPY, .reduction = LOSS_SUM}, 4.432350855, 0.09003057317},
                 {{.kind = LOSS_SQUARED}, 8.166666667, 0.3333333333},
                 {{.kind = LOSS_KL, .temperature = 2, .reduction = LOSS_BATCHMEAN}, 2.766527653, -0.08774489584},
                 {{.kind = LOSS_KL, .temperature = 2}, 0.9221758845, -0.02924829861}};
    float y[] = {1, 2, 3, 0, -1, 4}, t[] = {0, 1, 0, 2, 2, -1}, g[6];
    int64_t l[] = {2, 0};
    struct tensor ty = view(DTYPE_FLOAT, SHAPE(2, 3), y), tt = view(DTYPE_FLOAT, SHAPE(2, 3), t),
                  tl = view(DTYPE_INT64, SHAPE(2), l);
    struct tensor tg = view(DTYPE_FLOAT, SHAPE(2, 3), g);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct err err = {0};
        double value;
        assert_int_equal(loss_evaluate(NULL, &table[i].opts, &ty, table[i].opts.kind == LOSS_CROSS_ENTROPY ? &tl : &tt,
                                       &value, &tg, NULL, &err),
                         0);
        if (fabs(value - table[i].value) > 1e-6 * fabs(value) || fabs((double)g[0] - table[i].first) > 1e-6)
            fail_msg("row %zu: %.9g and %.9g, PyTorch has %.9g and %.9g", i, value, (double)g[0], table[i].value,
                     table[i].first);
    }
}

static void test_bad_input(void **state)
{
    (void)state;
    struct err err = {0};
    float y[6] = {0};
    int64_t l[2] = {0, 3};
    double value;
    struct tensor ty = view(DTYPE_FLOAT, SHAPE(2, 3), y), tl = view(DTYPE_INT64, SHAPE(2), l);
    assert_int_equal(loss_evaluate(NULL, &(struct loss_opts){0}, &ty, &tl, &value, NULL, NULL, &err), -1);
    assert_int_equal(err.code, ERR_DATASET);
    assert_non_null(strstr(err.msg, "label 3 of place 1 is no class; the output has 3 classes"));
    err = (struct err){0};
    assert_int_equal(loss_evaluate(NULL, &(struct loss_opts){.kind = LOSS_SQUARED}, &ty, &tl, &value, NULL, NULL, &err),
                     -1);
    assert_int_equal(err.code, ERR_SHAPE);
    err = (struct err){0};
    l[1] = 0;
    assert_int_equal(loss_evaluate(NULL, &(struct loss_opts){.smoothing = 1}, &ty, &tl, &value, NULL, NULL, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    l[0] = l[1] = LOSS_IGNORE; /* nothing counts */
    assert_int_equal(loss_evaluate(NULL, &(struct loss_opts){0}, &ty, &tl, &value, NULL, NULL, &err), 0);
    assert_true(value == 0);
}

/* Labels for binary cross entropy are one-hot targets; of one score they are the target. */
static void test_binary_labels(void **state)
{
    (void)state;
    struct err err = {0};
    double a, b, ga[6], gb[6], y[] = {1, -2, 0.5, 3, 0, -1}, hot[] = {0, 0, 1, 1, 0, 0};
    int64_t l[] = {2, 0}, bits[] = {0, 1, 1, 0, 1, 0};
    const double as_bits[] = {0, 1, 1, 0, 1, 0};
    struct tensor ty = view(DTYPE_DOUBLE, SHAPE(2, 3), y), tl = view(DTYPE_INT64, SHAPE(2), l);
    struct tensor th = view(DTYPE_DOUBLE, SHAPE(2, 3), hot), tga = view(DTYPE_DOUBLE, SHAPE(2, 3), ga),
                  tgb = view(DTYPE_DOUBLE, SHAPE(2, 3), gb);
    const struct loss_opts opts = {.kind = LOSS_BINARY};
    assert_int_equal(loss_evaluate(NULL, &opts, &ty, &tl, &a, &tga, NULL, &err), 0);
    assert_int_equal(loss_evaluate(NULL, &opts, &ty, &th, &b, &tgb, NULL, &err), 0);
    assert_true(a == b && memcmp(ga, gb, sizeof ga) == 0);
    for (int rank = 1; rank <= 2; rank++) {
        struct shape six = rank == 1 ? SHAPE(6) : SHAPE(6, 1);
        ty = view(DTYPE_DOUBLE, six, y);
        tl = view(DTYPE_INT64, SHAPE(6), bits);
        memcpy(hot, as_bits, sizeof hot);
        th = view(DTYPE_DOUBLE, six, hot);
        tga = view(DTYPE_DOUBLE, six, ga);
        tgb = view(DTYPE_DOUBLE, six, gb);
        assert_int_equal(loss_evaluate(NULL, &opts, &ty, &tl, &a, &tga, NULL, &err), 0);
        assert_int_equal(loss_evaluate(NULL, &opts, &ty, &th, &b, &tgb, NULL, &err), 0);
        assert_true(a == b && memcmp(ga, gb, sizeof ga) == 0);
    }
    bits[3] = 2;
    assert_int_equal(loss_evaluate(NULL, &opts, &ty, &tl, &a, &tga, NULL, &err), -1);
    assert_non_null(strstr(err.msg, "label 2 of place 3 is no class; the output has 1 score, which takes 0 or 1"));
    err = (struct err){0};
    hot[1] = 1.5;
    assert_int_equal(loss_evaluate(NULL, &opts, &ty, &th, &a, NULL, NULL, &err), -1);
    assert_int_equal(err.code, ERR_DATASET);
    assert_non_null(strstr(err.msg, "target 1.5 at place 1 is not from 0 to 1"));
}

/* Scores far out: no overflow, and what is not a number stays visible. */
static void test_extremes(void **state)
{
    (void)state;
    static const enum loss_kind kinds[] = {LOSS_SQUARED, LOSS_KL, LOSS_ABSOLUTE, LOSS_HUBER, LOSS_BINARY};
    struct err err = {0};
    float y[] = {200, -200, 3e4f, -3e4f}, t[] = {1, 0, 0, 1}, g[4];
    double value;
    struct tensor ty = view(DTYPE_FLOAT, SHAPE(2, 2), y), tt = view(DTYPE_FLOAT, SHAPE(2, 2), t),
                  tg = view(DTYPE_FLOAT, SHAPE(2, 2), g);
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        for (int bad = 0; bad < 2; bad++) {
            y[0] = bad ? NAN : 200;
            assert_int_equal(loss_evaluate(NULL, &(struct loss_opts){.kind = kinds[i]}, &ty, &tt, &value, &tg, NULL, &err),
                             0);
            assert_int_equal(isfinite(value) && isfinite(g[0]) && isfinite(g[3]), !bad);
        }
    y[0] = 200;
    assert_int_equal(loss_evaluate(NULL, &(struct loss_opts){.kind = LOSS_BINARY, .reduction = LOSS_SUM}, &ty, &tt, &value,
                                   &tg, NULL, &err),
                     0);
    assert_true(value == 60000 && g[0] == 0 && g[2] == 1 && g[3] == -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_differences), cmocka_unit_test(test_torch),
                                       cmocka_unit_test(test_bad_input), cmocka_unit_test(test_binary_labels),
                                       cmocka_unit_test(test_extremes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
