/* SPDX-License-Identifier: Apache-2.0
 * quant_cases.h - one small network for each operator that quantized models have, built by hand between pairs of
 * QuantizeLinear and DequantizeLinear; `plain` builds the float network those pairs stand for. Include after
 * cmocka.h. */
#ifndef PARED_TESTS_QUANT_CASES_H
#define PARED_TESTS_QUANT_CASES_H

#include "tests/unit/graphs.h"

enum { OPSET = 13 };
static const float SX = 0.02f, SY = 0.05f;

struct build {
    struct model *m;
    enum dtype act, weight;
    bool per_channel;
    bool plain; /* no pairs; weights and biases in float */
    int names;
    float out_scale; /* of the result; 0: it stays in float */
    int out_zero;
    struct rng rng;
};

static const char *name(struct build *b, const char *prefix)
{
    return model_printf(b->m, "%s%d", prefix, b->names++);
}

static uint32_t number(struct build *b, enum dtype dtype, double v)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, dtype, &SHAPE_SCALAR, NULL), 0);
    dtype_set(dtype, t.data, 0, v);
    uint32_t id = model_add_weight(b->m, 0, name(b, "n"), &t);
    tensor_fini(&t);
    return id;
}

/* Zero points that are not 0: 120 of uint8, -10 of int8. */
static int usual_zero(const struct build *b)
{
    return b->act == DTYPE_UINT8 ? 120 : -10;
}

static uint32_t pair_with(struct build *b, uint32_t v, float scale, int zero)
{
    if (b->plain)
        return v;
    const uint32_t s = number(b, DTYPE_FLOAT, (double)scale), z = number(b, b->act, zero);
    const uint32_t q = G_OP(b->m, "QuantizeLinear", name(b, "q"), v, s, z);
    return G_OP(b->m, "DequantizeLinear", name(b, "d"), q, s, z);
}
static uint32_t pair(struct build *b, uint32_t v)
{
    return pair_with(b, v, SX, usual_zero(b));
}

static struct tensor random_codes(struct build *b, enum dtype dtype, struct shape shape)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, dtype, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++) /* 7 bits: no instruction saturates */
        dtype_set(dtype, t.data, i, (dtype == DTYPE_UINT8 ? 128 : 0) + (double)(int64_t)(rng_u64(&b->rng) % 127) - 63);
    return t;
}

/* (code - zero) * scale */
static uint32_t plain_weight(struct build *b, const struct tensor *codes, const struct tensor *scale, int zero,
        int axis)
{
    struct tensor t = {0};
    const int64_t inner = shape_product(&codes->shape, axis + 1, codes->shape.rank), count = tensor_count(scale);
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &codes->shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++)
        tensor_f32(&t)[i] = (float)((dtype_get(codes->dtype, codes->data, i) - zero) *
                                    (double)tensor_f32(scale)[count == 1 ? 0 : i / inner % count]);
    uint32_t id = model_add_weight(b->m, 0, name(b, "w"), &t);
    tensor_fini(&t);
    return id;
}

/* A weight behind a DequantizeLinear, scales along `axis` where the case is per channel. */
static uint32_t weight(struct build *b, struct shape shape, int axis)
{
    struct tensor codes = random_codes(b, b->weight, shape), scale = {0}, zero = {0};
    const struct shape each = b->per_channel ? SHAPE(shape.dim[axis]) : SHAPE_SCALAR;
    assert_int_equal(tensor_alloc(&scale, DTYPE_FLOAT, &each, NULL), 0);
    assert_int_equal(tensor_alloc(&zero, b->weight, &each, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&scale); i++)
        tensor_f32(&scale)[i] = 0.01f + 0.002f * (float)i;
    memset(zero.data, b->weight == DTYPE_UINT8 ? 128 : 0, zero.bytes);
    if (b->plain) {
        const uint32_t id = plain_weight(b, &codes, &scale, b->weight == DTYPE_UINT8 ? 128 : 0, axis);
        tensor_fini(&codes);
        tensor_fini(&scale);
        tensor_fini(&zero);
        return id;
    }
    const uint32_t in[3] = {model_add_weight(b->m, 0, name(b, "w"), &codes),
                            model_add_weight(b->m, 0, name(b, "ws"), &scale),
                            model_add_weight(b->m, 0, name(b, "wz"), &zero)};
    const uint32_t d = g_node(b->m, "DequantizeLinear", name(b, "wd"), in, 3);
    node_set_int(b->m, g_maker(b->m, d), "axis", axis);
    tensor_fini(&codes);
    tensor_fini(&scale);
    tensor_fini(&zero);
    return d;
}

/* An int32 bias with the scales of input and weight. */
static uint32_t bias(struct build *b, int64_t channels, double factor)
{
    struct tensor codes = {0}, scale = {0};
    const struct shape each = b->per_channel ? SHAPE(channels) : SHAPE_SCALAR;
    assert_int_equal(tensor_alloc(&codes, DTYPE_INT32, &SHAPE(channels), NULL), 0);
    assert_int_equal(tensor_alloc(&scale, DTYPE_FLOAT, &each, NULL), 0);
    for (int64_t i = 0; i < channels; i++)
        ((int32_t *)codes.data)[i] = (int32_t)(rng_u64(&b->rng) % 2001) - 1000;
    for (int64_t i = 0; i < tensor_count(&scale); i++)
        tensor_f32(&scale)[i] = (float)((double)SX * (double)(0.01f + 0.002f * (float)i) * factor);
    if (b->plain) {
        const uint32_t id = plain_weight(b, &codes, &scale, 0, 0);
        tensor_fini(&codes);
        tensor_fini(&scale);
        return id;
    }
    const uint32_t in[2] = {model_add_weight(b->m, 0, name(b, "b"), &codes),
                            model_add_weight(b->m, 0, name(b, "bs"), &scale)};
    const uint32_t d = g_node(b->m, "DequantizeLinear", name(b, "bd"), in, 2);
    node_set_int(b->m, g_maker(b->m, d), "axis", 0);
    tensor_fini(&codes);
    tensor_fini(&scale);
    return d;
}

static void ints(struct build *b, uint32_t v, const char *attr, int count, const int64_t *at)
{
    node_set_ints(b->m, g_maker(b->m, v), attr, at, count);
}
#define INTS(b, v, attr, ...)                                                                                          \
    ints(b, v, attr, (int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})
static uint32_t list(struct build *b, int count, const int64_t *v)
{
    return g_ints(b->m, name(b, "i"), count, v);
}
#define LIST(b, ...) list(b, (int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)), (const int64_t[]){__VA_ARGS__})

/* Makes its network on the input x [2, 4, 6, 6], as said in the table; gives back the float value the result is. */
typedef uint32_t build_fn(struct build *b, uint32_t x);

static uint32_t conv_of(struct build *b, uint32_t x, struct shape w, bool with_bias)
{
    const uint32_t codes = weight(b, w, 0);
    return with_bias ? G_OP(b->m, "Conv", name(b, "y"), pair(b, x), codes, bias(b, w.dim[0], 1))
                     : G_OP(b->m, "Conv", name(b, "y"), pair(b, x), codes);
}
static uint32_t conv(struct build *b, uint32_t x)
{
    uint32_t y = conv_of(b, x, SHAPE(5, 4, 3, 3), true);
    INTS(b, y, "pads", 1, 1, 1, 1);
    return y;
}
static uint32_t conv_depthwise(struct build *b, uint32_t x)
{
    uint32_t y = conv_of(b, x, SHAPE(4, 1, 3, 3), false);
    node_set_int(b->m, g_maker(b->m, y), "group", 4);
    INTS(b, y, "strides", 2, 2);
    return y;
}
static uint32_t conv_grouped(struct build *b, uint32_t x)
{
    uint32_t y = conv_of(b, x, SHAPE(6, 2, 1, 1), true);
    node_set_int(b->m, g_maker(b->m, y), "group", 2);
    return y;
}
static uint32_t conv_1d(struct build *b, uint32_t x)
{
    x = G_OP(b->m, "Reshape", name(b, "r"), x, LIST(b, 2, 4, 36));
    return conv_of(b, x, SHAPE(5, 4, 3), true);
}
static uint32_t conv_3d(struct build *b, uint32_t x)
{
    x = G_OP(b->m, "Reshape", name(b, "r"), x, LIST(b, 2, 4, 4, 3, 3));
    return conv_of(b, x, SHAPE(5, 4, 2, 2, 2), true);
}
static uint32_t conv_relu(struct build *b, uint32_t x)
{
    return G_OP(b->m, "Relu", name(b, "r"), conv(b, x));
}
static uint32_t conv_clip(struct build *b, uint32_t x)
{
    const float bounds[2] = {-1, 2};
    return G_OP(b->m, "Clip", name(b, "c"), conv(b, x), g_const(b->m, name(b, "lo"), SHAPE_SCALAR, bounds),
                g_const(b->m, name(b, "hi"), SHAPE_SCALAR, bounds + 1));
}
static uint32_t conv_float_bias(struct build *b, uint32_t x)
{
    uint32_t y = conv(b, x);
    const float v[5] = {0.5f, -0.25f, 1, 0, -3};
    b->m->nodes[g_maker(b->m, y)].input[2] = g_const(b->m, name(b, "fb"), SHAPE(5), v);
    return y;
}

static uint32_t flat(struct build *b, uint32_t x)
{
    return G_OP(b->m, "Reshape", name(b, "r"), x, LIST(b, 18, 16));
}
static uint32_t gemm_of(struct build *b, uint32_t x, bool turned, double alpha, bool with_bias)
{
    const uint32_t w = turned ? weight(b, SHAPE(7, 16), 0) : weight(b, SHAPE(16, 7), 1), a = pair(b, flat(b, x));
    uint32_t y = with_bias ? G_OP(b->m, "Gemm", name(b, "y"), a, w, bias(b, 7, alpha))
                           : G_OP(b->m, "Gemm", name(b, "y"), a, w);
    node_set_int(b->m, g_maker(b->m, y), "transB", turned);
    if (alpha != 1)
        node_set_float(b->m, g_maker(b->m, y), "alpha", (float)alpha);
    return y;
}
static uint32_t gemm(struct build *b, uint32_t x)
{
    return gemm_of(b, x, false, 1, true);
}
static uint32_t gemm_turned(struct build *b, uint32_t x)
{
    return gemm_of(b, x, true, 0.5, true);
}
static uint32_t gemm_plain(struct build *b, uint32_t x)
{
    return gemm_of(b, x, true, 1, false);
}
static uint32_t gemm_float(struct build *b, uint32_t x)
{
    b->out_scale = 0;
    return gemm_of(b, x, true, 1, true);
}
static uint32_t gemm_relu(struct build *b, uint32_t x)
{
    return G_OP(b->m, "Relu", name(b, "r"), gemm(b, x));
}

static uint32_t matmul(struct build *b, uint32_t x)
{
    return G_OP(b->m, "MatMul", name(b, "y"), pair(b, x), weight(b, SHAPE(6, 5), 1));
}
static uint32_t matmul_float(struct build *b, uint32_t x)
{
    b->out_scale = 0;
    return matmul(b, x);
}
static uint32_t matmul_activations(struct build *b, uint32_t x)
{
    const uint32_t t = G_OP(b->m, "Transpose", name(b, "t"), x);
    INTS(b, t, "perm", 0, 1, 3, 2);
    return G_OP(b->m, "MatMul", name(b, "y"), pair(b, x), pair_with(b, t, 0.03f, usual_zero(b) + 3));
}
static uint32_t matmul_activations_float(struct build *b, uint32_t x)
{
    b->out_scale = 0;
    return matmul_activations(b, x);
}
static uint32_t added(struct build *b, uint32_t product, int64_t columns)
{
    return G_OP(b->m, "Add", name(b, "s"), g_random(b->m, name(b, "v"), SHAPE(columns), 5, 0.5), product);
}
static uint32_t matmul_vector(struct build *b, uint32_t x)
{
    return added(b, matmul(b, x), 5);
}
static uint32_t matrix_vector(struct build *b, uint32_t x)
{
    return added(b, G_OP(b->m, "MatMul", name(b, "y"), pair(b, flat(b, x)), weight(b, SHAPE(16, 5), 1)), 5);
}

static uint32_t binary(struct build *b, uint32_t x, const char *op)
{
    const uint32_t other = G_OP(b->m, "Transpose", name(b, "t"), x);
    INTS(b, other, "perm", 0, 1, 3, 2);
    return G_OP(b->m, op, name(b, "y"), pair(b, x), pair_with(b, other, 0.03f, usual_zero(b) + 9));
}
static uint32_t add(struct build *b, uint32_t x)
{
    return binary(b, x, "Add");
}
static uint32_t mul(struct build *b, uint32_t x)
{
    return binary(b, x, "Mul");
}
static uint32_t add_relu(struct build *b, uint32_t x)
{
    return G_OP(b->m, "Relu", name(b, "r"), add(b, x));
}
static uint32_t mul_constant(struct build *b, uint32_t x)
{
    if (b->plain)
        return G_OP(b->m, "Mul", name(b, "y"), x, number(b, DTYPE_FLOAT, 77 * (double)0.01f));
    const uint32_t c = number(b, b->act, 77);
    const uint32_t d = G_OP(b->m, "DequantizeLinear", name(b, "d"), c, number(b, DTYPE_FLOAT, 0.01), number(b,
            b->act, 0));
    return G_OP(b->m, "Mul", name(b, "y"), pair(b, x), d);
}
static uint32_t where(struct build *b, uint32_t x)
{
    const uint32_t t = G_OP(b->m, "Transpose", name(b, "t"), x);
    INTS(b, t, "perm", 0, 1, 3, 2);
    const uint32_t yes = G_OP(b->m, "Less", name(b, "less"), x, number(b, DTYPE_FLOAT, 0.25));
    return G_OP(b->m, "Where", name(b, "y"), yes, pair(b, x), pair_with(b, t, 0.03f, usual_zero(b) + 9));
}
static uint32_t unary(struct build *b, uint32_t x, const char *op)
{
    return G_OP(b->m, op, name(b, "y"), pair(b, x));
}
static uint32_t sigmoid(struct build *b, uint32_t x)
{
    b->out_scale = 1 / 256.0f;
    b->out_zero = b->act == DTYPE_UINT8 ? 0 : -128;
    return unary(b, x, "Sigmoid");
}
static uint32_t leaky_relu(struct build *b, uint32_t x)
{
    uint32_t y = unary(b, x, "LeakyRelu");
    node_set_float(b->m, g_maker(b->m, y), "alpha", 0.125f);
    return y;
}
static uint32_t softmax(struct build *b, uint32_t x)
{
    b->out_scale = 1 / 256.0f;
    b->out_zero = b->act == DTYPE_UINT8 ? 0 : -128;
    return unary(b, x, "Softmax");
}
static uint32_t softmax_axis(struct build *b, uint32_t x)
{
    uint32_t y = softmax(b, x);
    node_set_int(b->m, g_maker(b->m, y), "axis", 1);
    return y;
}
static uint32_t average_pool(struct build *b, uint32_t x)
{
    uint32_t y = unary(b, x, "AveragePool");
    INTS(b, y, "kernel_shape", 3, 3);
    INTS(b, y, "pads", 1, 1, 1, 1);
    INTS(b, y, "strides", 2, 2);
    return y;
}
static uint32_t average_pool_padded(struct build *b, uint32_t x)
{
    uint32_t y = average_pool(b, x);
    node_set_int(b->m, g_maker(b->m, y), "count_include_pad", 1);
    return y;
}
static uint32_t global_average(struct build *b, uint32_t x)
{
    return unary(b, x, "GlobalAveragePool");
}
static uint32_t reduce_mean(struct build *b, uint32_t x)
{
    uint32_t y = unary(b, x, "ReduceMean");
    INTS(b, y, "axes", -1, -2);
    node_set_int(b->m, g_maker(b->m, y), "keepdims", 0);
    return y;
}
static uint32_t reduce_mean_kept(struct build *b, uint32_t x)
{
    uint32_t y = unary(b, x, "ReduceMean");
    INTS(b, y, "axes", 2, 3);
    return y;
}
static uint32_t concat(struct build *b, uint32_t x)
{
    uint32_t y = G_OP(b->m, "Concat", name(b, "y"), pair(b, x), pair_with(b, x, 0.03f, usual_zero(b) + 5),
                      pair_with(b, x, 0.011f, usual_zero(b)));
    node_set_int(b->m, g_maker(b->m, y), "axis", 1);
    return y;
}
static void same_out(struct build *b)
{
    b->out_scale = SX;
    b->out_zero = usual_zero(b);
}
static uint32_t concat_same(struct build *b, uint32_t x)
{
    uint32_t y = G_OP(b->m, "Concat", name(b, "y"), pair(b, x), pair(b, x));
    node_set_int(b->m, g_maker(b->m, y), "axis", -1);
    same_out(b);
    return y;
}
static uint32_t relu(struct build *b, uint32_t x)
{
    same_out(b);
    return unary(b, x, "Relu");
}
static uint32_t max_pool(struct build *b, uint32_t x)
{
    uint32_t y = unary(b, x, "MaxPool");
    same_out(b);
    INTS(b, y, "kernel_shape", 3, 3);
    INTS(b, y, "pads", 1, 1, 1, 1);
    INTS(b, y, "strides", 2, 2);
    return y;
}
static uint32_t moved(struct build *b, uint32_t x, const char *op, uint32_t operand)
{
    same_out(b);
    return operand == VALUE_NONE ? unary(b, x, op) : G_OP(b->m, op, name(b, "y"), pair(b, x), operand);
}
static uint32_t reshape(struct build *b, uint32_t x)
{
    return moved(b, x, "Reshape", LIST(b, 8, -1));
}
static uint32_t transpose(struct build *b, uint32_t x)
{
    return moved(b, x, "Transpose", VALUE_NONE);
}
static uint32_t flatten(struct build *b, uint32_t x)
{
    return moved(b, x, "Flatten", VALUE_NONE);
}
static uint32_t identity(struct build *b, uint32_t x)
{
    return moved(b, x, "Identity", VALUE_NONE);
}
static uint32_t unsqueeze(struct build *b, uint32_t x)
{
    return moved(b, x, "Unsqueeze", LIST(b, 1));
}
static uint32_t squeeze(struct build *b, uint32_t x)
{
    x = G_OP(b->m, "Unsqueeze", name(b, "u"), x, LIST(b, 1));
    return moved(b, x, "Squeeze", LIST(b, 1));
}
static uint32_t gather(struct build *b, uint32_t x)
{
    return moved(b, x, "Gather", LIST(b, 1, 0, 1));
}
static uint32_t expand(struct build *b, uint32_t x)
{
    return moved(b, x, "Expand", LIST(b, 3, 2, 4, 6, 6));
}
static uint32_t tile(struct build *b, uint32_t x)
{
    return moved(b, x, "Tile", LIST(b, 1, 2, 1, 1));
}
static uint32_t depth_to_space(struct build *b, uint32_t x)
{
    uint32_t y = moved(b, x, "DepthToSpace", VALUE_NONE);
    node_set_int(b->m, g_maker(b->m, y), "blocksize", 2);
    return y;
}
static uint32_t space_to_depth(struct build *b, uint32_t x)
{
    uint32_t y = moved(b, x, "SpaceToDepth", VALUE_NONE);
    node_set_int(b->m, g_maker(b->m, y), "blocksize", 2);
    return y;
}
static uint32_t slice(struct build *b, uint32_t x)
{
    same_out(b);
    return G_OP(b->m, "Slice", name(b, "y"), pair(b, x), LIST(b, 1), LIST(b, 6), LIST(b, 2), LIST(b, 2));
}
static uint32_t split(struct build *b, uint32_t x)
{
    const uint32_t in[2] = {pair(b, x), LIST(b, 1, 3)};
    uint32_t out[2] = {model_add_value(b->m, 0, "half0", false), model_add_value(b->m, 0, "half1", false)};
    same_out(b);
    uint32_t node = model_add_node(b->m, 0, "Split", NULL, "split", in, 2, out, 2);
    node_set_int(b->m, node, "axis", 1);
    const uint32_t other = pair(b, out[0]), y = G_OP(b->m, "Concat", name(b, "y"), pair(b, out[1]), other);
    node_set_int(b->m, g_maker(b->m, y), "axis", 1);
    return y;
}
static uint32_t pad(struct build *b, uint32_t x)
{
    same_out(b);
    return G_OP(b->m, "Pad", name(b, "y"), pair(b, x), LIST(b, 0, 0, 1, 1, 0, 0, 2, 0));
}
static uint32_t pad_filled(struct build *b, uint32_t x)
{
    same_out(b);
    return G_OP(b->m, "Pad", name(b, "y"), pair(b, x), LIST(b, 0, 0, 1, 1, 0, 0, 2, 0), number(b, DTYPE_FLOAT, 0.3));
}
static uint32_t pad_edge(struct build *b, uint32_t x)
{
    uint32_t y = pad(b, x);
    node_set_string(b->m, g_maker(b->m, y), "mode", "edge");
    return y;
}
static uint32_t resize(struct build *b, uint32_t x)
{
    const float scales[4] = {1, 1, 2, 2};
    same_out(b);
    uint32_t y = G_OP(b->m, "Resize", name(b, "y"), pair(b, x), VALUE_NONE, g_const(b->m, name(b, "sc"), SHAPE(4),
            scales));
    node_set_string(b->m, g_maker(b->m, y), "mode", "nearest");
    return y;
}
static uint32_t reduce_max(struct build *b, uint32_t x)
{
    uint32_t y = moved(b, x, "ReduceMax", VALUE_NONE);
    INTS(b, y, "axes", 2, 3);
    return y;
}

struct form_case {
    const char *name;
    build_fn *build;
    const char *want, *domain; /* operator that must be there */
    bool weights;              /* both granularities and both types of weights are tried */
};
#define MS "com.microsoft"
static const struct form_case cases[] = {
    {"conv", conv, "QLinearConv", "", true},
    {"conv_depthwise", conv_depthwise, "QLinearConv", "", true},
    {"conv_grouped", conv_grouped, "QLinearConv", "", true},
    {"conv_1d", conv_1d, "QLinearConv", "", true},
    {"conv_3d", conv_3d, "QLinearConv", "", true},
    {"conv_relu", conv_relu, "QLinearConv", "", true},
    {"conv_clip", conv_clip, "Clip", "", false},
    {"conv_float_bias", conv_float_bias, "QLinearConv", "", true},
    {"gemm", gemm, "QGemm", MS, true},
    {"gemm_turned", gemm_turned, "QGemm", MS, true},
    {"gemm_plain", gemm_plain, "QGemm", MS, true},
    {"gemm_float", gemm_float, "QGemm", MS, true},
    {"gemm_relu", gemm_relu, "QGemm", MS, true},
    {"matmul", matmul, "QLinearMatMul", "", true},
    {"matmul_float", matmul_float, "MatMulIntegerToFloat", MS, true},
    {"matmul_activations", matmul_activations, "QLinearMatMul", "", false},
    {"matmul_activations_float", matmul_activations_float, "MatMulIntegerToFloat", MS, false},
    {"matmul_vector", matmul_vector, "MatMulIntegerToFloat", MS, true},
    {"matrix_vector", matrix_vector, "QGemm", MS, true},
    {"add", add, "QLinearAdd", MS, false},
    {"add_relu", add_relu, "QLinearAdd", MS, false},
    {"mul", mul, "QLinearMul", MS, false},
    {"mul_constant", mul_constant, "QLinearMul", MS, false},
    {"where", where, "QLinearWhere", MS, false},
    {"sigmoid", sigmoid, "QLinearSigmoid", MS, false},
    {"leaky_relu", leaky_relu, "QLinearLeakyRelu", MS, false},
    {"softmax", softmax, "QLinearSoftmax", MS, false},
    {"softmax_axis", softmax_axis, "QLinearSoftmax", MS, false},
    {"average_pool", average_pool, "QLinearAveragePool", MS, false},
    {"average_pool_padded", average_pool_padded, "QLinearAveragePool", MS, false},
    {"global_average", global_average, "QLinearGlobalAveragePool", MS, false},
    {"reduce_mean", reduce_mean, "QLinearGlobalAveragePool", MS, false},
    {"reduce_mean_kept", reduce_mean_kept, "QLinearGlobalAveragePool", MS, false},
    {"concat", concat, "QLinearConcat", MS, false},
    {"concat_same", concat_same, "Concat", "", false},
    {"relu", relu, "Clip", "", false},
    {"max_pool", max_pool, "MaxPool", "", false},
    {"reshape", reshape, "Reshape", "", false},
    {"transpose", transpose, "Transpose", "", false},
    {"flatten", flatten, "Flatten", "", false},
    {"identity", identity, "Identity", "", false},
    {"squeeze", squeeze, "Squeeze", "", false},
    {"unsqueeze", unsqueeze, "Unsqueeze", "", false},
    {"gather", gather, "Gather", "", false},
    {"expand", expand, "Expand", "", false},
    {"tile", tile, "Tile", "", false},
    {"depth_to_space", depth_to_space, "DepthToSpace", "", false},
    {"space_to_depth", space_to_depth, "SpaceToDepth", "", false},
    {"slice", slice, "Slice", "", false},
    {"split", split, "Split", "", false},
    {"pad", pad, "Pad", "", false},
    {"pad_filled", pad_filled, "Pad", "", false},
    {"pad_edge", pad_edge, "Pad", "", false},
    {"resize", resize, "Resize", "", false},
    {"reduce_max", reduce_max, "ReduceMax", "", false},
};

static inline int count_in(const struct model *m, const char *domain, const char *op)
{
    int n = 0;
    for (int i = 0; i < model_main(m)->n_nodes; i++) {
        const struct node *node = &m->nodes[model_main(m)->nodes[i]];
        const bool here = *domain ? node->domain && !strcmp(node->domain, domain) : !node->domain || !*node->domain;
        n += here && node->op_type && !strcmp(node->op_type, op);
    }
    return n;
}

/* *unit: the scale of the result, 0 where it is float. */
static inline struct model *make_case(const struct form_case *c, enum dtype act, enum dtype w, bool per_channel,
                                      bool plain, float *unit)
{
    struct build b = {.m = g_new(OPSET), .act = act, .weight = w, .per_channel = per_channel, .plain = plain,
            .out_scale = SY};
    b.out_zero = usual_zero(&b);
    rng_init(&b.rng, 7, 3);
    uint32_t x = g_input(b.m, "x", SHAPE(2, 4, 6, 6)), y = c->build(&b, x);
    *unit = b.out_scale;
    g_output(b.m, b.out_scale > 0 ? pair_with(&b, y, b.out_scale, b.out_zero) : y);
    return b.m;
}

#endif
