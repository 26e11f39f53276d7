/* SPDX-License-Identifier: Apache-2.0
 * recover.bias_correction: means of the quantized model's outputs come back to the float model's, which is measured
 * here by running both, and the formula for one layer alone. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/graphs.h"

enum { SAMPLES = 24 };

/* Weights that round badly all the same way: each is 0.4 of a step beyond a code, so the means shift. */
static uint32_t skewed(struct model *m, const char *name, struct shape shape, uint64_t seed)
{
    const uint32_t id = g_random(m, name, shape, seed, 1);
    struct tensor *t = &m->values[id].weight->tensor;
    const int64_t inner = tensor_count(t) / shape.dim[0];
    for (int64_t i = 0; i < tensor_count(t); i++) {
        const double code = i % inner == 0 ? 127 : nearbyint(20 * (double)tensor_f32(t)[i]) + 0.4;
        tensor_f32(t)[i] = (float)(code / 127);
    }
    return id;
}

enum form { BIASED, BARE, MATRIX, FORMS };

static struct model *network(enum form form)
{
    struct model *m = g_new(13);
    if (form == MATRIX) {
        const uint32_t x = g_input(m, "x", SHAPE(SAMPLES, 3, 10));
        uint32_t w = skewed(m, "w1t", SHAPE(8, 10), 1);
        struct tensor flat = {0};
        assert_int_equal(tensor_alloc(&flat, DTYPE_FLOAT, &SHAPE(10, 8), NULL), 0);
        for (int i = 0; i < 80; i++)
            tensor_f32(&flat)[i % 10 * 8 + i / 10] = tensor_f32(value_const(m, w))[i];
        const uint32_t w1 = model_add_weight(m, 0, "w1", &flat);
        tensor_fini(&flat);
        model_remove_value(m, w);
        const uint32_t y = G_OP(m, "Add", "y", G_OP(m, "MatMul", "p", x, w1), g_random(m, "b", SHAPE(8), 2, 1));
        g_output(m, G_OP(m, "MatMul", "last", G_OP(m, "Relu", "r", y), g_random(m, "w2", SHAPE(8, 4), 3, 1)));
        return m;
    }
    const uint32_t x = g_input(m, "x", SHAPE(SAMPLES, 3, 6, 6)), w1 = skewed(m, "w1", SHAPE(8, 3, 3, 3), 1);
    const uint32_t c1 = form == BIASED ? G_OP(m, "Conv", "c1", x, w1, g_random(m, "b1", SHAPE(8), 2, 1))
                                       : G_OP(m, "Conv", "c1", x, w1);
    node_set_ints(m, g_maker(m, c1), "pads", (int64_t[]){1, 1, 1, 1}, 4);
    const uint32_t c2 = G_OP(m, "Conv", "c2", G_OP(m, "Relu", "r1", c1), skewed(m, "w2", SHAPE(8, 8, 1, 1), 3));
    g_output(m, G_OP(m, "Conv", "last", G_OP(m, "Relu", "r2", c2), skewed(m, "w3", SHAPE(4, 8, 1, 1), 5)));
    return m;
}

static struct tensor inputs(enum form form)
{
    struct tensor x = {0};
    g_fill(&x, form == MATRIX ? SHAPE(SAMPLES, 3, 10) : SHAPE(SAMPLES, 3, 6, 6), 5, 1);
    for (int64_t i = 0; i < tensor_count(&x); i++) /* a mean, which makes errors of weights shift the outputs */
        tensor_f32(&x)[i] += 1.5f;
    return x;
}

/* Largest |mean of a channel of the last output - of the float model's|, relative to the largest output. */
static double shift_of(const struct model *a, const struct model *b, const struct tensor *x)
{
    struct tensor p = {0}, q = {0};
    double worst = 0, top = 0;
    g_run(a, x, 0, &p);
    g_run(b, x, 0, &q);
    const int64_t channels = 4, inner = p.shape.rank == 4 ? 36 : 1;
    for (int64_t c = 0; c < channels; c++) {
        double d = 0;
        int64_t n = 0;
        for (int64_t i = 0; i < tensor_count(&p); i++)
            if (i / inner % channels == c) {
                d += (double)tensor_f32(&q)[i] - (double)tensor_f32(&p)[i];
                top = fmax(top, fabs((double)tensor_f32(&p)[i]));
                n++;
            }
        worst = fmax(worst, fabs(d / (double)n));
    }
    tensor_fini(&p);
    tensor_fini(&q);
    return worst / top;
}

static double shift_after(enum form form, const char *words)
{
    struct model *m = network(form), *was = model_clone(m, NULL);
    struct tensor x = inputs(form);
    if (words) {
        struct g_done done = g_apply(m, words, &x);
        assert_int_equal(done.rc, 0);
        g_expect_warning(&done, "no layer whose mean shifts", false);
        g_done(&done);
    }
    struct g_done done = g_apply(m, "quantize.static", &x);
    g_done(&done);
    const double shift = shift_of(was, m, &x);
    tensor_fini(&x);
    model_free(was);
    model_free(m);
    return shift;
}

static void test_means_come_back(void **state)
{
    (void)state;
    for (int form = 0; form < FORMS; form++) {
        const double plain = shift_after((enum form)form, NULL), fast = shift_after((enum form)form,
                "recover.bias_correction mode=fast"),
                     full = shift_after((enum form)form, "recover.bias_correction");
        print_message("form %d: mean shift %.5f, fast %.5f, sequential %.5f\n", form, plain, fast, full);
        const double share = form == MATRIX ? 0.9 : 0.4; /* there, the last layer has no bias */
        assert_true(fast < share * plain && full < share * plain);
    }
}

/* One layer: b' = b - (W_q E[Q(x)] - W E[x]), with W_q and Q read from the quantized model. */
static void test_formula(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    struct tensor x = {0};
    const uint32_t in = g_input(m, "x", SHAPE(SAMPLES, 6));
    uint32_t w = skewed(m, "w", SHAPE(4, 6), 1), b = g_random(m, "b", SHAPE(4), 2, 1);
    const uint32_t y = G_OP(m, "Gemm", "y", in, w, b);
    node_set_int(m, g_maker(m, y), "transB", 1);
    g_output(m, y);
    g_fill(&x, SHAPE(SAMPLES, 6), 3, 1);
    struct model *q = model_clone(m, NULL);
    struct g_done done = g_apply(q, "quantize.static", &x);
    g_done(&done);
    const struct node *n = g_made(q, "y"), *dw = g_source(q, n, 1), *dx = g_source(q, n, 0);
    const double sx = (double)tensor_f32(value_const(q, dx->input[1]))[0];
    const int64_t zx = dtype_get_i64(DTYPE_UINT8, value_const(q, dx->input[2])->data, 0);
    double want[4];
    for (int o = 0; o < 4; o++) {
        const double sw = (double)tensor_f32(value_const(q, dw->input[1]))[o];
        want[o] = (double)tensor_f32(value_const(m, b))[o];
        for (int i = 0; i < 6; i++) {
            double mean = 0, rounded = 0;
            for (int r = 0; r < SAMPLES; r++) {
                const double v = (double)tensor_f32(&x)[r * 6 + i];
                const double code = nearbyint(v / sx) + (double)zx;
                mean += v / SAMPLES;
                rounded += (fmin(fmax(code, 0), 255) - (double)zx) * sx / SAMPLES;
            }
            const double wq = sw * (double)((const int8_t *)value_const(q, dw->input[0])->data)[o * 6 + i];
            want[o] -= wq * rounded - (double)tensor_f32(value_const(m, w))[o * 6 + i] * mean;
        }
    }
    done = g_apply(m, "recover.bias_correction mode=fast", &x);
    assert_int_equal(done.rc, 0);
    for (int o = 0; o < 4; o++)
        g_near((double)tensor_f32(value_const(m, g_made(m, "y")->input[2]))[o], want[o], 2e-5);
    assert_non_null(json_object_get(json_object_get(g_row(&done, "y"), "after"), "mean_shift"));
    g_done(&done);
    tensor_fini(&x);
    model_free(q);
    model_free(m);
}

/* A bias two layers share is not changed under the other. */
static void test_shared_bias(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    struct tensor x = {0};
    const uint32_t in = g_input(m, "x", SHAPE(SAMPLES, 6)), b = g_random(m, "b", SHAPE(4), 2, 1);
    const char *names[2] = {"y", "z"};
    for (int k = 0; k < 2; k++) {
        const uint32_t y = G_OP(m, "Gemm", names[k], in, skewed(m, k ? "wz" : "wy", SHAPE(4, 6), 1 + (uint64_t)k), b);
        node_set_int(m, g_maker(m, y), "transB", 1);
        g_output(m, y);
    }
    g_fill(&x, SHAPE(SAMPLES, 6), 3, 1);
    struct g_done done = g_apply(m, "recover.bias_correction", &x);
    assert_int_equal(done.rc, 0);
    assert_int_not_equal(g_made(m, "y")->input[2], g_made(m, "z")->input[2]);
    g_done(&done);
    tensor_fini(&x);
    model_free(m);
}

static void test_needs_data(void **state)
{
    (void)state;
    struct model *m = network(BIASED);
    struct g_done done = g_apply(m, "recover.bias_correction", NULL);
    assert_int_equal(done.rc, -1);
    assert_int_equal(done.err.code, ERR_RECIPE);
    json_decref(done.layers);
    json_decref(done.warnings);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_means_come_back),
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_shared_bias),
        cmocka_unit_test(test_needs_data),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
