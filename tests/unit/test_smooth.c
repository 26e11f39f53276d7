/* SPDX-License-Identifier: Apache-2.0
 * quantize.smooth: the float function stays, factors are those of SmoothQuant's formula, and a channel with outliers
 * costs less when the model is quantized. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/graphs.h"

enum { ROWS = 24, WIDTH = 8, OUT = 6 };

/* A normalisation with one large channel, then a MatMul and its Add: as one operator, or written out. */
static struct model *transformer(bool decomposed)
{
    struct model *m = g_new(17);
    const uint32_t x = g_input(m, "x", SHAPE(ROWS, 4, WIDTH));
    const uint32_t gamma = g_random(m, "gamma", SHAPE(WIDTH), 1, 0.5), beta = g_random(m, "beta", SHAPE(WIDTH), 2, 0.5);
    uint32_t n;
    tensor_f32(&m->values[gamma].weight->tensor)[3] = 60;
    if (!decomposed)
        n = G_OP(m, "LayerNormalization", "ln", x, gamma, beta);
    else {
        const int64_t last = -1;
        const float two = 2, eps = 1e-5f;
        const uint32_t mean = G_OP(m, "ReduceMean", "mean", x), d = G_OP(m, "Sub", "d", x, mean);
        node_set_ints(m, g_maker(m, mean), "axes", &last, 1);
        const uint32_t var = G_OP(m, "ReduceMean", "var", G_OP(m, "Pow", "sq", d, g_const(m, "two", SHAPE_SCALAR,
                &two)));
        node_set_ints(m, g_maker(m, var), "axes", &last, 1);
        const uint32_t sd = G_OP(m, "Sqrt", "sd", G_OP(m, "Add", "ve", var, g_const(m, "eps", SHAPE_SCALAR, &eps)));
        n = G_OP(m, "Add", "shifted", G_OP(m, "Mul", "scaled", G_OP(m, "Div", "unit", d, sd), gamma), beta);
    }
    const uint32_t y = G_OP(m, "MatMul", "y", n, g_random(m, "w", SHAPE(WIDTH, OUT), 3, 1));
    const uint32_t z = G_OP(m, "Add", "z", y, g_random(m, "b", SHAPE(OUT), 4, 1));
    g_output(m, G_OP(m, "MatMul", "last", G_OP(m, "Erf", "act", z), g_random(m, "w2", SHAPE(OUT, 4), 5, 1)));
    return m;
}

static double largest(const struct tensor *t, int64_t channels, int64_t c)
{
    double top = 0;
    for (int64_t i = c; i < tensor_count(t); i += channels)
        top = fmax(top, fabs((double)tensor_f32(t)[i]));
    return top;
}

static double largest_row(const struct tensor *w, int64_t row)
{
    double top = 0;
    for (int64_t j = 0; j < OUT; j++)
        top = fmax(top, fabs((double)tensor_f32(w)[row * OUT + j]));
    return top;
}

/* The value `name` of a model. */
static void value_of(const struct model *m, const char *name, const struct tensor *x, struct tensor *y)
{
    struct model *copy = model_clone(m, NULL);
    assert_non_null(copy);
    model_main(copy)->n_outputs = 0;
    g_output(copy, g_value(copy, name));
    g_run(copy, x, 0, y);
    model_free(copy);
}

static void test_formula(void **state)
{
    (void)state;
    static const double alphas[] = {0, 0.25, 0.5, 1};
    for (size_t i = 0; i < 2 * sizeof alphas / sizeof alphas[0]; i++) {
        const bool decomposed = i % 2;
        const double alpha = alphas[i / 2];
        const char *input = decomposed ? "shifted" : "ln";
        struct model *m = transformer(decomposed), *was = model_clone(m, NULL);
        struct tensor x = {0}, before = {0}, after = {0};
        char words[60];
        g_fill(&x, SHAPE(ROWS, 4, WIDTH), 7, 1);
        value_of(m, input, &x, &before);
        snprintf(words, sizeof words, "quantize.smooth alpha=%g", alpha);
        struct g_done done = g_apply(m, words, &x);
        assert_int_equal(done.rc, 0);
        g_near(g_error(was, m, &x, 0), 0, 1e-5);
        value_of(m, input, &x, &after);
        const struct tensor *w = value_const(was, g_value(was, "w"));
        double logs = 0;
        for (int64_t c = 0; c < WIDTH; c++)
            logs += log(pow(largest(&before, WIDTH, c), alpha) / pow(largest_row(w, c), 1 - alpha)) / WIDTH;
        for (int64_t c = 0; c < WIDTH; c++) {
            const double s = pow(largest(&before, WIDTH, c), alpha) / pow(largest_row(w, c), 1 - alpha) / exp(logs);
            g_near(largest(&before, WIDTH, c) / largest(&after, WIDTH, c) / s, 1, 1e-4);
            g_near(largest_row(value_const(m, g_value(m, "w")), c) / largest_row(w, c) / s, 1, 1e-4);
        }
        g_done(&done);
        tensor_fini(&x);
        tensor_fini(&before);
        tensor_fini(&after);
        model_free(was);
        model_free(m);
    }
}

static double noise_when_quantized(const char *first, bool decomposed)
{
    struct model *m = transformer(decomposed), *was = model_clone(m, NULL);
    struct tensor x = {0}, p = {0}, q = {0};
    g_fill(&x, SHAPE(ROWS, 4, WIDTH), 7, 1);
    if (first) {
        struct g_done done = g_apply(m, first, &x);
        g_done(&done);
    }
    struct g_done done = g_apply(m, "quantize.static", &x);
    g_done(&done);
    g_run(was, &x, 0, &p);
    g_run(m, &x, 0, &q);
    double noise = 0;
    for (int64_t i = 0; i < tensor_count(&q); i++)
        noise += pow((double)tensor_f32(&p)[i] - (double)tensor_f32(&q)[i], 2);
    tensor_fini(&x);
    tensor_fini(&p);
    tensor_fini(&q);
    model_free(was);
    model_free(m);
    return noise;
}

static void test_outliers_cost_less(void **state)
{
    (void)state;
    for (int decomposed = 0; decomposed < 2; decomposed++) {
        const double plain = noise_when_quantized(NULL, decomposed);
        assert_true(noise_when_quantized("quantize.smooth", decomposed) < 0.6 * plain);
        assert_true(noise_when_quantized("quantize.smooth search=true", decomposed) < 0.8 * plain);
    }
}

static void test_left_alone(void **state)
{
    (void)state;
    struct model *m = transformer(false), *was;
    struct tensor x = {0};
    g_output(m, g_value(m, "ln"));
    was = model_clone(m, NULL);
    g_fill(&x, SHAPE(ROWS, 4, WIDTH), 7, 1);
    struct g_done done = g_apply(m, "quantize.smooth", &x);
    assert_int_equal(done.rc, 0);
    g_expect_skipped(&done, "y", "it is an output of the model");
    g_expect_warning(&done, "found no layer", true);
    g_near(g_error(was, m, &x, 0), 0, 0);
    g_done(&done);
    tensor_fini(&x);
    model_free(m);
    model_free(was);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_outliers_cost_less),
        cmocka_unit_test(test_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
