/* SPDX-License-Identifier: Apache-2.0
 * quantize.dequantize: every form that quantize.static, quantize.dynamic, quantize.weights or ONNX Runtime write,
 * against
 * the float network it stands for; what saturation did; what stays; and which models count as quantized. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include "core/quant/pairs.h"
#include "core/quant/qoperator.h"
#include "core/quant/quantized.h"
#include "tests/unit/quant_cases.h"

/* ---- operators between pairs, and on codes ---- */
static void expect_same(const char *stem, const struct model *want, const struct model *got)
{
    struct tensor x = {0}, p = {0}, q = {0};
    double worst = 0, largest = 0;
    g_fill(&x, SHAPE(2, 4, 6, 6), 11, 0.8);
    g_run(want, &x, 0, &p);
    g_run(got, &x, 0, &q);
    assert_true(shape_equal(&p.shape, &q.shape));
    for (int64_t i = 0; i < tensor_count(&p); i++) {
        worst = fmax(worst, fabs((double)tensor_f32(&p)[i] - (double)tensor_f32(&q)[i]));
        largest = fmax(largest, fabs((double)tensor_f32(&p)[i]));
    }
    if (worst > 5e-5 * largest) /* an added vector may have become an int32 bias of the sums */
        fail_msg("%s: differs by %g from the float model, whose largest is %g", stem, worst, largest);
    tensor_fini(&x);
    tensor_fini(&p);
    tensor_fini(&q);
}

static void run_case(const struct form_case *c, enum dtype act, enum dtype w, bool per_channel, bool on_codes)
{
    float unit;
    char stem[200];
    struct err err = {0};
    struct model *m = make_case(c, act, w, per_channel, false, &unit),
                 *want = make_case(c, act, w, per_channel, true, &unit);
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    snprintf(stem, sizeof stem, "%s.%s.%s.%s.%s", c->name, dtype_name(act), dtype_name(w),
             per_channel ? "channel" : "tensor", on_codes ? "codes" : "pairs");
    if (on_codes && qoperator_rewrite(m, layers, warnings, &err))
        fail_msg("%s: %s", stem, err.msg);
    struct g_done done = g_apply(m, "quantize.dequantize", NULL);
    if (done.rc)
        fail_msg("%s: %s", stem, done.err.msg);
    const uint32_t left = quantized_node(m);
    if (left != NODE_NONE)
        fail_msg("%s: a %s is left", stem, m->nodes[left].op_type);
    for (int i = 0; i < model_main(m)->n_nodes; i++)
        assert_false(is_quantize(&m->nodes[model_main(m)->nodes[i]]));
    g_expect_warning(&done, "stay quantized", false);
    expect_same(stem, want, m);
    g_done(&done);
    layer_report_free(layers);
    warnings_free(warnings);
    model_free(m);
    model_free(want);
}

static void test_forms(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        for (int act = 0; act < 2; act++)
            for (int w = 0; w < (cases[i].weights ? 4 : 1); w++)
                for (int on_codes = 0; on_codes < 2; on_codes++)
                    run_case(&cases[i], act ? DTYPE_INT8 : DTYPE_UINT8, w & 1 ? DTYPE_UINT8 : DTYPE_INT8, w & 2,
                             on_codes);
}

/* ---- saturation: a Relu that was taken out comes back as a Clip ---- */
static void test_saturation(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        int zero, clips;
        bool relu;
    } rows[] = {{"quantize.dequantize", 0, 1, false},          {"quantize.dequantize", 120, 0, false},
                {"quantize.dequantize clip=none", 0, 0, false}, {"quantize.dequantize clip=all", 120, 2, false},
                {"quantize.dequantize", 0, 0, true}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct build b = {.m = g_new(OPSET), .act = DTYPE_UINT8, .weight = DTYPE_INT8};
        rng_init(&b.rng, 7, 3);
        uint32_t x = g_input(b.m, "x", SHAPE(2, 4, 6, 6)), y = conv(&b, x);
        if (rows[i].relu)
            y = G_OP(b.m, "Relu", "relu", y);
        g_output(b.m, pair_with(&b, y, 0.05f, rows[i].zero));
        struct model *was = model_clone(b.m, NULL);
        struct g_done done = g_apply(b.m, rows[i].words, NULL);
        assert_int_equal(done.rc, 0);
        assert_int_equal(g_count(b.m, "Clip"), rows[i].clips);
        assert_int_equal(quantized_node(b.m), NODE_NONE);
        /* within a unit of the quantized model and a little, where rounding of the input adds up */
        if (rows[i].clips) {
            struct tensor in = {0};
            g_fill(&in, SHAPE(2, 4, 6, 6), 11, 0.8);
            g_near(g_error(was, b.m, &in, 0), 0, 0.05);
            tensor_fini(&in);
        }
        g_done(&done);
        model_free(b.m);
        model_free(was);
    }
}

/* ---- weights only ---- */
static uint32_t codes_of(struct build *b, enum dtype dtype, struct shape shape, double lo, double hi)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, dtype, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++)
        dtype_set(dtype, t.data, i, lo + floor(rng_uniform(&b->rng) * (hi - lo + 1)));
    uint32_t id = model_add_weight(b->m, 0, name(b, "c"), &t);
    tensor_fini(&t);
    return id;
}

static uint32_t scales_of(struct build *b, struct shape shape)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++)
        tensor_f32(&t)[i] = (float)(0.01 + 0.02 * rng_uniform(&b->rng));
    uint32_t id = model_add_weight(b->m, 0, name(b, "s"), &t);
    tensor_fini(&t);
    return id;
}

static uint32_t in_microsoft(struct model *m, uint32_t v)
{
    m->nodes[g_maker(m, v)].domain = MS;
    model_set_opset(m, MS, 1);
    return v;
}

static uint32_t blocked_weight(struct build *b, uint32_t x)
{
    const uint32_t d = G_OP(b->m, "DequantizeLinear", name(b, "d"), codes_of(b, DTYPE_INT4, SHAPE(6, 5), -8, 7),
                            scales_of(b, SHAPE(2, 5)), codes_of(b, DTYPE_INT4, SHAPE(2, 5), -3, 3));
    node_set_int(b->m, g_maker(b->m, d), "axis", 0);
    node_set_int(b->m, g_maker(b->m, d), "block_size", 4);
    return G_OP(b->m, "MatMul", "y", x, d);
}
static uint32_t four_bit_axis(struct build *b, uint32_t x)
{
    const uint32_t d = G_OP(b->m, "DequantizeLinear", name(b, "d"), codes_of(b, DTYPE_UINT4, SHAPE(6, 5), 0, 15),
                            scales_of(b, SHAPE(5)), codes_of(b, DTYPE_UINT4, SHAPE(5), 6, 9));
    node_set_int(b->m, g_maker(b->m, d), "axis", -1);
    return G_OP(b->m, "MatMul", "y", x, d);
}
static uint32_t int16_weight(struct build *b, uint32_t x)
{
    return G_OP(b->m, "MatMul", "y", x,
                G_OP(b->m, "DequantizeLinear", name(b, "d"), codes_of(b, DTYPE_INT16, SHAPE(6, 5), -32768, 32767),
                     scales_of(b, SHAPE_SCALAR)));
}
static uint32_t nbits(struct build *b, uint32_t x, int bits, int zeros, bool with_bias)
{
    const int64_t blob = 16 * bits / 8, packed = (3 * bits + 7) / 8;
    x = G_OP(b->m, "Reshape", name(b, "r"), x, LIST(b, 2, 3, 48));
    uint32_t in[6] = {x, codes_of(b, DTYPE_UINT8, SHAPE(7, 3, blob), 0, 255), scales_of(b, SHAPE(7, 3)), VALUE_NONE,
                      VALUE_NONE, VALUE_NONE};
    if (zeros == 1)
        in[3] = codes_of(b, DTYPE_UINT8, SHAPE(7, packed), 0, 255);
    else if (zeros == 2)
        in[3] = scales_of(b, SHAPE(7, 3));
    if (with_bias)
        in[5] = scales_of(b, SHAPE(7));
    const uint32_t y = in_microsoft(b->m, g_node(b->m, "MatMulNBits", "y", in, with_bias ? 6 : zeros ? 4 : 3));
    node_set_int(b->m, g_maker(b->m, y), "K", 48);
    node_set_int(b->m, g_maker(b->m, y), "N", 7);
    node_set_int(b->m, g_maker(b->m, y), "bits", bits);
    node_set_int(b->m, g_maker(b->m, y), "block_size", 16);
    return y;
}
static uint32_t nbits_4(struct build *b, uint32_t x)
{
    return nbits(b, x, 4, 1, false);
}
static uint32_t nbits_2(struct build *b, uint32_t x)
{
    return nbits(b, x, 2, 1, true);
}
static uint32_t nbits_8(struct build *b, uint32_t x)
{
    return nbits(b, x, 8, 1, false);
}
static uint32_t nbits_plain(struct build *b, uint32_t x)
{
    return nbits(b, x, 4, 0, true);
}
static uint32_t nbits_float_zero(struct build *b, uint32_t x)
{
    return nbits(b, x, 4, 2, false);
}
static uint32_t gather_block(struct build *b, uint32_t x, enum dtype dtype, int bits, bool zero)
{
    const bool packed = dtype == DTYPE_UINT8;
    const struct shape data = packed ? SHAPE(6, 40 * bits / 8) : SHAPE(6, 40);
    uint32_t in[4] = {codes_of(b, dtype, data, 0, packed ? 255 : 7), LIST(b, 5, 0, 3), scales_of(b, SHAPE(6, 3)),
                      VALUE_NONE};
    if (zero)
        in[3] = codes_of(b, dtype, packed ? SHAPE(6, (3 * bits + 7) / 8) : SHAPE(6, 3), 0, packed ? 255 : 7);
    const uint32_t t = in_microsoft(b->m, g_node(b->m, "GatherBlockQuantized", "t", in, zero ? 4 : 3));
    node_set_int(b->m, g_maker(b->m, t), "block_size", 16);
    node_set_int(b->m, g_maker(b->m, t), "bits", bits);
    node_set_int(b->m, g_maker(b->m, t), "quantize_axis", 1);
    x = G_OP(b->m, "ReduceMean", name(b, "mean"), x);
    return G_OP(b->m, "Mul", "y", t, G_OP(b->m, "Reshape", name(b, "r"), x, LIST(b, 1)));
}
static uint32_t gather_int4(struct build *b, uint32_t x)
{
    return gather_block(b, x, DTYPE_INT4, 4, true);
}
static uint32_t gather_uint4(struct build *b, uint32_t x)
{
    return gather_block(b, x, DTYPE_UINT4, 4, false);
}
static uint32_t gather_bytes(struct build *b, uint32_t x)
{
    return gather_block(b, x, DTYPE_UINT8, 4, true);
}
static uint32_t gather_eight(struct build *b, uint32_t x)
{
    return gather_block(b, x, DTYPE_UINT8, 8, false);
}
static uint32_t dynamic_matmul(struct build *b, uint32_t x)
{
    const uint32_t in[] = {x, codes_of(b, DTYPE_INT8, SHAPE(6, 5), -60, 60), scales_of(b, SHAPE(5)),
                           codes_of(b, DTYPE_INT8, SHAPE(5), 0, 0), scales_of(b, SHAPE(5))};
    return in_microsoft(b->m, g_node(b->m, "DynamicQuantizeMatMul", "y", in, 5));
}
/* Codes of DynamicQuantizeLinear in front of MatMulIntegerToFloat; then a Cast and a Mul of integer sums, in both
 * orders. */
static void quantize_dynamically(struct build *b, uint32_t x, uint32_t out[3])
{
    for (int i = 0; i < 3; i++)
        out[i] = model_add_value(b->m, 0, name(b, "dq"), false);
    model_add_node(b->m, 0, "DynamicQuantizeLinear", NULL, NULL, &x, 1, out, 3);
}
static uint32_t to_float(struct build *b, uint32_t x)
{
    uint32_t q[3];
    quantize_dynamically(b, x, q);
    const uint32_t in[] = {q[0], codes_of(b, DTYPE_UINT8, SHAPE(6, 5), 60, 190), q[1], scales_of(b, SHAPE_SCALAR), q[2],
                           codes_of(b, DTYPE_UINT8, SHAPE_SCALAR, 128, 128), scales_of(b, SHAPE(5))};
    return in_microsoft(b->m, g_node(b->m, "MatMulIntegerToFloat", "y", in, 7));
}
static uint32_t cast_and_scale(struct build *b, uint32_t sums, uint32_t x_scale, uint32_t w_scale, bool other_order)
{
    const uint32_t f = G_OP(b->m, "Cast", name(b, "f"), sums);
    node_set_int(b->m, g_maker(b->m, f), "to", DTYPE_FLOAT);
    const uint32_t s = other_order ? G_OP(b->m, "Mul", name(b, "s"), w_scale, x_scale)
                                   : G_OP(b->m, "Mul", name(b, "s"), x_scale, w_scale);
    return other_order ? G_OP(b->m, "Mul", "y", s, f) : G_OP(b->m, "Mul", "y", f, s);
}
static uint32_t matmul_integer(struct build *b, uint32_t x)
{
    uint32_t q[3];
    quantize_dynamically(b, x, q);
    const uint32_t sums = G_OP(b->m, "MatMulInteger", "sums", q[0], codes_of(b, DTYPE_INT8, SHAPE(6, 5), -60, 60),
            q[2]);
    return cast_and_scale(b, sums, q[1], scales_of(b, SHAPE(5)), false);
}
static uint32_t conv_integer(struct build *b, uint32_t x)
{
    uint32_t q[3];
    quantize_dynamically(b, x, q);
    const uint32_t sums =
        G_OP(b->m, "ConvInteger", "sums", q[0], codes_of(b, DTYPE_UINT8, SHAPE(5, 4, 3, 3), 60, 190), q[2],
             codes_of(b, DTYPE_UINT8, SHAPE_SCALAR, 128, 128));
    return cast_and_scale(b, sums, q[1], scales_of(b, SHAPE(5, 1, 1)), true);
}
static uint32_t two_dynamic(struct build *b, uint32_t x)
{
    uint32_t q[3], r[3], t = G_OP(b->m, "Transpose", name(b, "t"), x);
    INTS(b, t, "perm", 0, 1, 3, 2);
    quantize_dynamically(b, x, q);
    quantize_dynamically(b, t, r);
    return cast_and_scale(b, G_OP(b->m, "MatMulInteger", "sums", q[0], r[0], q[2], r[2]), q[1], r[1], false);
}

struct weight_case {
    const char *name;
    build_fn *build;
    int64_t opset;
    double tolerance; /* of the quantized model's result: rounding of activations where they are quantized */
};
static const struct weight_case weight_cases[] = {
    {"blocked_weight", blocked_weight, 21, 1e-5}, {"four_bit_axis", four_bit_axis, 21, 1e-5},
    {"int16_weight", int16_weight, 21, 1e-5},     {"nbits_4", nbits_4, 13, 1e-5},
    {"nbits_2", nbits_2, 13, 1e-5},               {"nbits_8", nbits_8, 13, 1e-5},
    {"nbits_plain", nbits_plain, 13, 1e-5},       {"nbits_float_zero", nbits_float_zero, 13, 1e-5},
    {"gather_int4", gather_int4, 13, 1e-5},       {"gather_uint4", gather_uint4, 13, 1e-5},
    {"gather_bytes", gather_bytes, 13, 1e-5},     {"gather_eight", gather_eight, 13, 1e-5},
    {"dynamic_matmul", dynamic_matmul, 13, 0.02}, {"to_float", to_float, 13, 0.02},
    {"matmul_integer", matmul_integer, 13, 0.02}, {"conv_integer", conv_integer, 13, 0.02},
    {"two_dynamic", two_dynamic, 13, 0.02},
};

static void test_weights(void **state)
{
    (void)state;
    static const char *const float_ops[] = {"MatMul", "Gather", "Conv"};
    for (size_t i = 0; i < sizeof weight_cases / sizeof weight_cases[0]; i++) {
        const struct weight_case *c = &weight_cases[i];
        struct build b = {.m = g_new(c->opset), .act = DTYPE_UINT8, .weight = DTYPE_INT8};
        struct tensor x = {0};
        b.m->ir_version = 10;
        rng_init(&b.rng, 7, 3);
        g_output(b.m, c->build(&b, g_input(b.m, "x", SHAPE(2, 4, 6, 6))));
        struct model *was = model_clone(b.m, NULL);
        assert_int_not_equal(quantized_node(b.m), NODE_NONE);
        struct g_done done = g_apply(b.m, "quantize.dequantize", NULL);
        if (done.rc || quantized_node(b.m) != NODE_NONE)
            fail_msg("%s: %s", c->name, done.rc ? done.err.msg : "still quantized");
        int products = 0;
        for (size_t k = 0; k < sizeof float_ops / sizeof float_ops[0]; k++)
            products += g_count(b.m, float_ops[k]);
        assert_int_equal(products, 1);
        assert_int_equal(g_count(b.m, "Cast"), 0);
        g_fill(&x, SHAPE(2, 4, 6, 6), 11, 0.8);
        const double error = g_error(was, b.m, &x, 0);
        if (error > c->tolerance)
            fail_msg("%s: differs by %g of the largest", c->name, error);
        tensor_fini(&x);
        g_done(&done);
        model_free(b.m);
        model_free(was);
    }
}

/* ---- what stays ---- */
static void test_exclude(void **state)
{
    (void)state;
    struct build b = {.m = g_new(OPSET), .act = DTYPE_UINT8, .weight = DTYPE_INT8};
    struct err err = {0};
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    rng_init(&b.rng, 7, 3);
    uint32_t x = g_input(b.m, "x", SHAPE(2, 4, 6, 6)), y = pair_with(&b, conv(&b, x), 0.05f, 100);
    b.m->nodes[g_maker(b.m, b.m->nodes[g_maker(b.m, b.m->nodes[g_maker(b.m, y)].input[0])].input[0])].name = "first";
    y = pair_with(&b, G_OP(b.m, "Add", "second", y, y), 0.1f, 100);
    g_output(b.m, y);
    struct model *was = model_clone(b.m, &err), *codes = model_clone(b.m, &err);
    struct tensor in = {0};
    g_fill(&in, SHAPE(2, 4, 6, 6), 11, 0.8);
    struct g_done done = g_apply(b.m, "quantize.dequantize exclude=first", NULL);
    assert_int_equal(g_count(b.m, "DequantizeLinear"), 3); /* input, weight and bias of the convolution */
    g_expect_warning(&done, "stay quantized", true);
    g_near(g_error(was, b.m, &in, 0), 0, 0.05);
    g_done(&done);
    /* the same on codes: what the QLinearConv makes is read in float by a DequantizeLinear that was not there */
    assert_int_equal(qoperator_rewrite(codes, layers, warnings, &err), 0);
    done = g_apply(codes, "quantize.dequantize exclude=second", NULL);
    assert_int_equal(count_in(codes, MS, "QLinearAdd"), 1);
    assert_int_equal(g_count(codes, "QLinearConv"), 0);
    assert_int_equal(g_count(codes, "Conv"), 1);
    assert_int_equal(g_count(codes, "QuantizeLinear"), 1);
    g_expect_skipped(&done, "second", "not selected");
    g_near(g_error(was, codes, &in, 0), 0, 0.05);
    g_done(&done);
    tensor_fini(&in);
    layer_report_free(layers);
    warnings_free(warnings);
    model_free(b.m);
    model_free(was);
    model_free(codes);
}

/* Codes from outside, codes read by other numbers, and operators nobody knows how to undo. */
static void test_stays(void **state)
{
    (void)state;
    struct model *m = g_new(OPSET);
    struct build b = {.m = m, .act = DTYPE_UINT8};
    uint32_t bytes = model_add_value(m, 0, "image", false), x = g_input(m, "x", SHAPE(4, 6));
    g_declare(m, &model_main(m)->inputs, &model_main(m)->n_inputs, bytes, type_tensor(DTYPE_UINT8, &SHAPE(4, 6)));
    m->values[bytes].type = type_tensor(DTYPE_UINT8, &SHAPE(4, 6));
    const uint32_t s = number(&b, DTYPE_FLOAT, 0.1), z = number(&b, DTYPE_UINT8, 3), two = number(&b, DTYPE_FLOAT, 0.2);
    uint32_t image = G_OP(m, "DequantizeLinear", "from_image", bytes, s, z);
    uint32_t q = G_OP(m, "QuantizeLinear", "q", x, s, z), other = G_OP(m, "DequantizeLinear", "other", q, two, z);
    uint32_t cast = G_OP(m, "Cast", "cast", q);
    node_set_int(m, g_maker(m, cast), "to", DTYPE_FLOAT);
    uint32_t in[] = {q, s, z, s, z};
    uint32_t odd = in_microsoft(m, g_node(m, "QLinearSomething", "odd", in, 5));
    g_output(m, G_OP(m, "Sum", "y", image, other, cast));
    g_output(m, odd);
    struct g_done done = {.layers = NULL};
    struct faults faults = {0};
    json_t *step = recipe_step_from_words("quantize.dequantize", &done.err), *json = json_pack("{s:[o]}", "steps",
            step);
    struct recipe *recipe = recipe_parse(json, "", &faults, &done.err);
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct step_ctx c = {.model = m, .ramp = 1, .params = recipe->steps[0].params, .layers = layers, .warnings = warnings};
    assert_int_equal(recipe->steps[0].method->run(&c, &done.err), 0);
    done.layers = layer_report_json(layers);
    done.warnings = warnings_json(warnings);
    g_expect_skipped(&done, "from_image", "codes come from an input");
    g_expect_skipped(&done, "other", "by another scale");
    g_expect_skipped(&done, "cast", "reads codes as numbers");
    g_expect_skipped(&done, "odd", "no rule");
    assert_int_equal(g_count(m, "DequantizeLinear"), 2);
    g_done(&done);
    recipe_free(recipe);
    json_decref(json);
    faults_fini(&faults);
    layer_report_free(layers);
    warnings_free(warnings);
    model_free(m);
}

/* ---- which models are quantized ---- */
static void test_recognition(void **state)
{
    (void)state;
    struct model *m = g_new(OPSET);
    struct build b = {.m = m, .act = DTYPE_UINT8};
    struct err err = {0};
    uint32_t bytes = model_add_value(m, 0, "image", false);
    g_declare(m, &model_main(m)->inputs, &model_main(m)->n_inputs, bytes, type_tensor(DTYPE_UINT8, &SHAPE(4, 6)));
    m->values[bytes].type = type_tensor(DTYPE_UINT8, &SHAPE(4, 6));
    const uint32_t s = number(&b, DTYPE_FLOAT, 0.1), z = number(&b, DTYPE_UINT8, 3);
    uint32_t x = G_OP(m, "DequantizeLinear", "from_image", bytes, s, z);
    uint32_t y = G_OP(m, "MatMul", "y", x, g_random(m, "w", SHAPE(6, 5), 1, 1));
    uint32_t q = G_OP(m, "QuantizeLinear", "to_image", y, s, z), t = G_OP(m, "Transpose", "turned", q);
    g_output(m, t);
    assert_int_equal(quantized_node(m), NODE_NONE); /* bytes in, bytes out: a float model */
    assert_int_equal(quantized_refuse(m, "quantize.static", &err), 0);
    /* moved codes that come back to float are activations */
    g_output(m, G_OP(m, "DequantizeLinear", "back", t, s, z));
    assert_int_equal(quantized_node(m), g_maker(m, q));
    assert_int_equal(quantized_refuse(m, "quantize.static", &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
    assert_non_null(strstr(err.msg, "quantize.static takes a model in floating point"));
    assert_non_null(strstr(err.msg, "quantize.dequantize"));
    model_free(m);
    /* an operator of that name in another domain is somebody else's */
    m = g_new(OPSET);
    x = g_input(m, "x", SHAPE(4, 6));
    y = G_OP(m, "QLinearConv", "y", x);
    m->nodes[g_maker(m, y)].domain = "com.example";
    g_output(m, y);
    assert_int_equal(quantized_node(m), NODE_NONE);
    model_free(m);
    /* zeros of a pruned weight are no codes */
    m = g_new(OPSET);
    float zeros[30] = {0, 1};
    x = g_input(m, "x", SHAPE(4, 6));
    g_output(m, G_OP(m, "MatMul", "y", x, g_const(m, "w", SHAPE(6, 5), zeros)));
    assert_int_equal(quantized_node(m), NODE_NONE);
    struct g_done done = g_apply(m, "quantize.dequantize", NULL);
    g_expect_warning(&done, "is not quantized", true);
    g_done(&done);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forms),  cmocka_unit_test(test_saturation), cmocka_unit_test(test_weights),
        cmocka_unit_test(test_exclude), cmocka_unit_test(test_stays),      cmocka_unit_test(test_recognition),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
