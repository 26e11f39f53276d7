/* SPDX-License-Identifier: Apache-2.0
 * QOperator form: every operator between pairs, as operators on codes, for both 8-bit types and both granularities of
 * weights. The model of pairs is the reference: the rewritten one must give what it gives, to one unit of its last
 * scale.
 * With PARED_TEST_MODELS set to a folder, every case is written there (model of pairs, rewritten model, input, what our
 * engine gives), for tests/e2e/test_qoperator_ort.py, which has ONNX Runtime run them. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include "core/model/onnx_write.h"
#include "core/quant/qoperator.h"
#include "core/quant/quantized.h"
#include "tests/unit/quant_cases.h"

static void write_case(const char *stem, const struct model *was, const struct model *m, const struct tensor *x,
                       const struct tensor *y, float unit)
{
    const char *folder = getenv("PARED_TEST_MODELS");
    char path[500];
    struct err err = {0};
    if (!folder)
        return;
    snprintf(path, sizeof path, "%s/%s.qdq.onnx", folder, stem);
    assert_int_equal(onnx_write_file(was, path, &(struct onnx_write_opts){0}, &err), 0);
    snprintf(path, sizeof path, "%s/%s.qop.onnx", folder, stem);
    assert_int_equal(onnx_write_file(m, path, &(struct onnx_write_opts){0}, &err), 0);
    snprintf(path, sizeof path, "%s/%s.bin", folder, stem);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    fwrite(&unit, sizeof unit, 1, f);
    fwrite(x->data, x->bytes, 1, f);
    fwrite(y->data, y->bytes, 1, f);
    fclose(f);
}

static void run_case(const struct form_case *c, enum dtype act, enum dtype w, bool per_channel)
{
    float unit;
    char stem[200];
    struct err err = {0};
    struct model *m = make_case(c, act, w, per_channel, false, &unit), *was = model_clone(m, &err);
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct tensor x = {0}, p = {0}, q = {0};
    snprintf(stem, sizeof stem, "%s.%s.%s.%s", c->name, dtype_name(act), dtype_name(w),
             per_channel ? "channel" : "tensor");
    assert_int_not_equal(quantized_node(m), NODE_NONE);
    if (qoperator_rewrite(m, layers, warnings, &err) || model_validate(m, &err))
        fail_msg("%s: %s", stem, err.msg);
    if (count_in(m, c->domain, c->want) != 1)
        fail_msg("%s: there are %d %s", stem, count_in(m, c->domain, c->want), c->want);
    const int back = count_in(m, "", "DequantizeLinear");
    if (back != (unit > 0)) /* the one in front of the output */
        fail_msg("%s: there are %d DequantizeLinear", stem, back);
    assert_int_not_equal(quantized_node(m), NODE_NONE);
    g_fill(&x, SHAPE(2, 4, 6, 6), 11, 0.8);
    g_run(was, &x, 0, &p);
    g_run(m, &x, 0, &q);
    assert_true(shape_equal(&p.shape, &q.shape));
    double worst = 0, largest = 0;
    for (int64_t i = 0; i < tensor_count(&p); i++) {
        worst = fmax(worst, fabs((double)tensor_f32(&p)[i] - (double)tensor_f32(&q)[i]));
        largest = fmax(largest, fabs((double)tensor_f32(&p)[i]));
    }
    assert_true(largest > 0);
    if (worst > (unit > 0 ? 1.01 * (double)unit : 1e-5 * largest))
        fail_msg("%s: differs by %g from the model of pairs, whose largest is %g", stem, worst, largest);
    write_case(stem, was, m, &x, &q, unit);
    tensor_fini(&x);
    tensor_fini(&p);
    tensor_fini(&q);
    layer_report_free(layers);
    warnings_free(warnings);
    model_free(m);
    model_free(was);
}

static void test_forms(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int act = 0; act < 2; act++)
            for (int w = 0; w < (cases[i].weights ? 4 : 1); w++)
                run_case(&cases[i], act ? DTYPE_INT8 : DTYPE_UINT8, w & 1 ? DTYPE_UINT8 : DTYPE_INT8, w & 2);
}

/* What has no form stays between its pairs, and says why; a warning for int8 activations. */
static void test_left_alone(void **state)
{
    (void)state;
    static const struct {
        const char *op, *why;
    } rows[] = {{"HardSwish", "has no form on codes"}, {"Tanh", "has no form on codes"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct build b = {.m = g_new(14), .act = DTYPE_INT8, .weight = DTYPE_INT8, .out_scale = SY};
        struct err err = {0};
        struct g_done done = {.layers = NULL};
        struct layer_report *layers = layer_report_new();
        struct warnings *warnings = warnings_new();
        rng_init(&b.rng, 7, 3);
        uint32_t x = g_input(b.m, "x", SHAPE(2, 4, 6, 6));
        uint32_t y = pair_with(&b, G_OP(b.m, rows[i].op, "alone", pair_with(&b, conv(&b, x), SY, 3)), SY, 3);
        g_output(b.m, y);
        assert_int_equal(qoperator_rewrite(b.m, layers, warnings, &err), 0);
        done.layers = layer_report_json(layers);
        done.warnings = warnings_json(warnings);
        g_expect_skipped(&done, "alone", rows[i].why);
        g_expect_warning(&done, "int8 activations in QOperator form", true);
        assert_int_equal(g_count(b.m, "QLinearConv"), 1);
        assert_int_equal(g_count(b.m, "DequantizeLinear"), 2);
        assert_int_equal(g_count(b.m, "QuantizeLinear"), 2);
        g_done(&done);
        layer_report_free(layers);
        warnings_free(warnings);
        model_free(b.m);
    }
}

/* Two readers, one of them in float: the pair stays for that one. The opset import is written once. */
static void test_shared(void **state)
{
    (void)state;
    struct build b = {.m = g_new(OPSET), .act = DTYPE_UINT8, .weight = DTYPE_INT8};
    struct err err = {0};
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    rng_init(&b.rng, 7, 3);
    uint32_t x = g_input(b.m, "x", SHAPE(2, 4, 6, 6)), c = pair_with(&b, conv(&b, x), SY, 100);
    uint32_t y = pair_with(&b, G_OP(b.m, "Add", "sum", c, c), 2 * SY, 100), z = G_OP(b.m, "Tanh", "tanh", c);
    g_output(b.m, y);
    g_output(b.m, z);
    struct model *was = model_clone(b.m, &err);
    assert_int_equal(qoperator_rewrite(b.m, layers, warnings, &err), 0);
    assert_int_equal(count_in(b.m, MS, "QLinearAdd"), 1);
    assert_int_equal(g_count(b.m, "DequantizeLinear"), 2);
    assert_int_equal(model_opset(b.m, MS), 1);
    struct tensor in = {0};
    g_fill(&in, SHAPE(2, 4, 6, 6), 11, 0.8);
    g_near(g_error(was, b.m, &in, 0), 0, 0.02);
    g_near(g_error(was, b.m, &in, 1), 0, 0.02);
    /* once more: nothing is left to do */
    const int nodes = model_main(b.m)->n_nodes;
    assert_int_equal(qoperator_rewrite(b.m, layers, warnings, &err), 0);
    assert_int_equal(model_main(b.m)->n_nodes, nodes);
    tensor_fini(&in);
    layer_report_free(layers);
    warnings_free(warnings);
    model_free(b.m);
    model_free(was);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_left_alone),
        cmocka_unit_test(test_shared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
