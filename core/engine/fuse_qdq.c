/* SPDX-License-Identifier: Apache-2.0
 * fuse_qdq.c - DequantizeLinear, a float operator, QuantizeLinear: one integer operator.
 * Idea       the pattern becomes the operator of the standard or of com.microsoft that computes the same from the
 *            integers (QLinearConv, QLinearAdd, QGemm, ...), as ONNX Runtime does, so both kinds of quantized files run
 *            through the same rows; fuse_qlayout.c then gives those their layout and packed weights. Operators that only
 *            move values run on the integers themselves when scale and zero point are the same on both sides.
 * Condition  one scale for each activation, constant; a weight may have one a channel. The result is read by the
 *            QuantizeLinear alone. A Relu or Clip before it is dropped where the integers' own range implies it.
 * Left alone everything else stays in float between its own DequantizeLinear and QuantizeLinear. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine/fuse_util.h"

#define MICROSOFT "com.microsoft"
enum { MAX_INPUTS = 64 };

/* Values `real = (q - zero) * scale`: a DequantizeLinear's side, or a QuantizeLinear's. */
struct quantized {
    uint32_t value, scale, zero; /* ids; zero VALUE_NONE: 0 */
    enum dtype dtype;
    int64_t axis;
    const struct tensor *scales, *zeros;
};

static bool is_node(const struct optimize *o, uint32_t id, const char *type)
{
    const struct node *n = &o->m->nodes[id];
    return n->op_type && strcmp(n->op_type, type) == 0 &&
           (model_domain_is_default(n->domain) || strcmp(n->domain, MICROSOFT) == 0);
}

static enum dtype dtype_of(const struct optimize *o, uint32_t v)
{
    return v < o->cap_type ? o->type[v].dtype : DTYPE_NONE;
}

/* Scale and zero point of a Q or DQ node; `value` is its integer side. */
static bool read_params(const struct optimize *o, uint32_t id, uint32_t value, struct quantized *q)
{
    const struct node *n = &o->m->nodes[id];
    if (n->n_input < 2 || node_attr_int(n, "block_size", 0) != 0)
        return false;
    *q = (struct quantized){.value = value, .scale = n->input[1], .dtype = dtype_of(o, value),
                            .zero = n->n_input > 2 ? n->input[2] : VALUE_NONE, .axis = node_attr_int(n, "axis", 1)};
    q->scales = q->scale == VALUE_NONE ? NULL : value_const(o->m, q->scale);
    q->zeros = q->zero == VALUE_NONE ? NULL : value_const(o->m, q->zero);
    if (!q->scales || q->scales->dtype != DTYPE_FLOAT || (q->zero != VALUE_NONE && !q->zeros))
        return false;
    return q->dtype == DTYPE_INT8 || q->dtype == DTYPE_UINT8 || q->dtype == DTYPE_INT32;
}

static bool is_single(const struct quantized *q)
{
    return tensor_count(q->scales) == 1 && (!q->zeros || tensor_count(q->zeros) == 1) && q->dtype != DTYPE_INT32;
}

/* `value` is float and made by a DequantizeLinear. */
static bool dequantized(const struct optimize *o, uint32_t value, struct quantized *q)
{
    if (value == VALUE_NONE)
        return false;
    const uint32_t id = o->m->values[value].producer;
    return id != NODE_NONE && is_node(o, id, "DequantizeLinear") && dtype_of(o, value) == DTYPE_FLOAT &&
           read_params(o, id, o->m->nodes[id].input[0], q);
}

static int64_t zero_of(const struct quantized *q)
{
    return q->zeros ? dtype_get_i64(q->zeros->dtype, q->zeros->data, 0) : 0;
}

static bool same_params(const struct quantized *a, const struct quantized *b)
{
    return a->dtype == b->dtype && zero_of(a) == zero_of(b) &&
           memcmp(a->scales->data, b->scales->data, sizeof(float)) == 0;
}

/* The range of the integers lies inside the activation's: clamping to it does nothing more. */
static bool implied(const struct quantized *q, const struct act *act)
{
    const float scale = tensor_f32(q->scales)[0];
    const float low = (float)(dtype_min(q->dtype) - (double)zero_of(q)) * scale;
    const float high = (float)(dtype_max(q->dtype) - (double)zero_of(q)) * scale;
    if (act->kind == ACT_RELU)
        return low >= 0;
    return act->kind == ACT_CLIP && low >= act->a && high <= act->b;
}

/* The QuantizeLinear that alone reads `value`, seen through an implied Relu or Clip. */
static bool quantized_result(const struct optimize *o, uint32_t value, uint32_t *node, struct quantized *q)
{
    struct act act = {.kind = ACT_NONE};
    uint32_t reader = optimize_single_reader(o, value);
    if (reader != NODE_NONE && o->m->nodes[reader].n_output == 1 && fuse_read_act(o, reader, &act))
        reader = optimize_single_reader(o, o->m->nodes[reader].output[0]);
    if (reader == NODE_NONE || !is_node(o, reader, "QuantizeLinear") || o->m->nodes[reader].n_output < 1)
        return false;
    *node = reader;
    return read_params(o, reader, o->m->nodes[reader].output[0], q) && is_single(q) &&
           (act.kind == ACT_NONE || implied(q, &act));
}

/* ---- making nodes ---- */
/* A zero point must be given: the constant 0 where there was none. */
static uint32_t zero_id(struct optimize *o, const struct quantized *q, struct err *err)
{
    struct tensor t = {0};
    if (q->zero != VALUE_NONE)
        return q->zero;
    if (tensor_alloc(&t, q->dtype, &SHAPE_SCALAR, err) < 0)
        return VALUE_NONE;
    return optimize_add_weight(o, "zero", &t, err);
}

/* value, scale, zero into in[3]. */
static int put(struct optimize *o, const struct quantized *q, uint32_t *in, struct err *err)
{
    in[0] = q->value;
    in[1] = q->scale;
    in[2] = zero_id(o, q, err);
    return in[2] == VALUE_NONE ? -1 : 0;
}

/* A dead row in its place; the driver closes the list. */
static void drop(struct model *m, uint32_t id)
{
    struct node *n = &m->nodes[id];
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && m->values[n->output[i]].producer == id)
            m->values[n->output[i]].producer = NODE_NONE;
    n->op_type = NULL;
}

struct replacement {
    const char *type, *domain;
    const uint32_t *in;
    int n_in;
    bool attrs;     /* keep the old node's */
    uint32_t quant; /* the QuantizeLinear whose output is made now, or NODE_NONE: the old node's own output */
};

static uint32_t replace(struct optimize *o, uint32_t old, const struct replacement *r, struct err *err)
{
    struct model *m = o->m;
    const uint32_t out = r->quant == NODE_NONE ? m->nodes[old].output[0] : m->nodes[r->quant].output[0];
    struct attr *attr = m->nodes[old].attr;
    const int n_attr = m->nodes[old].n_attr;
    const char *name = m->nodes[old].name;

    drop(m, old);
    if (r->quant != NODE_NONE)
        drop(m, r->quant);
    if (strcmp(r->domain, MICROSOFT) == 0 && model_opset(m, MICROSOFT) == 0)
        model_set_opset(m, MICROSOFT, 1);
    const uint32_t id = model_add_node(m, 0, r->type, r->domain, name, r->in, r->n_in, &out, 1);
    if (id == NODE_NONE) {
        err_set(err, ERR_NOMEM, "out of memory");
    } else if (r->attrs) {
        m->nodes[id].attr = attr;
        m->nodes[id].n_attr = n_attr;
    }
    return id;
}

/* ---- products ---- */
/* An int32 bias whose scale is the product of the operands' scales, as quantizers make it. */
static bool bias_fits(const struct optimize *o, uint32_t bias, const struct quantized *x, const struct quantized *w,
                      struct quantized *out)
{
    if (!dequantized(o, bias, out) || out->dtype != DTYPE_INT32 || !value_const(o->m, out->value) ||
        (out->zeros && dtype_get_i64(out->zeros->dtype, out->zeros->data, 0) != 0))
        return false;
    const int64_t n = tensor_count(out->scales), n_w = tensor_count(w->scales);
    if (n != 1 && n_w != 1 && n != n_w)
        return false;
    for (int64_t i = 0; i < (n > n_w ? n : n_w); i++) {
        const float want = tensor_f32(x->scales)[0] * tensor_f32(w->scales)[n_w > 1 ? i : 0];
        if (!(fabsf(tensor_f32(out->scales)[n > 1 ? i : 0] - want) <= 1e-3f * want))
            return false;
    }
    return true;
}

/* Weights have one scale, or one for each index of `axis`. */
static bool weight_fits(const struct optimize *o, uint32_t value, int64_t axis, struct quantized *w)
{
    if (!dequantized(o, value, w) || w->dtype == DTYPE_INT32)
        return false;
    if (is_single(w))
        return true;
    const struct tensor *t = value_const(o->m, w->value);
    if (!t || t->shape.rank < 1)
        return false;
    return shape_axis(&t->shape, w->axis) == shape_axis(&t->shape, axis) &&
           (!w->zeros || tensor_count(w->zeros) == tensor_count(w->scales));
}

static int fuse_conv_node(struct optimize *o, uint32_t id, struct err *err)
{
    const struct node *n = &o->m->nodes[id];
    struct quantized x, w, y, b = {.value = VALUE_NONE};
    uint32_t quant, in[9];

    if (n->n_input < 2 || !dequantized(o, n->input[0], &x) || !is_single(&x) || !weight_fits(o, n->input[1], 0, &w) ||
        !quantized_result(o, n->output[0], &quant, &y))
        return 0;
    if (n->n_input > 2 && n->input[2] != VALUE_NONE && !bias_fits(o, n->input[2], &x, &w, &b))
        return 0;
    if (put(o, &x, in, err) < 0 || put(o, &w, in + 3, err) < 0)
        return -1;
    in[6] = y.scale;
    in[7] = zero_id(o, &y, err);
    in[8] = b.value;
    if (in[7] == VALUE_NONE)
        return -1;
    const struct replacement r = {"QLinearConv", "", in, b.value == VALUE_NONE ? 8 : 9, true, quant};
    return replace(o, id, &r, err) == NODE_NONE ? -1 : 0;
}

static int fuse_gemm_node(struct optimize *o, uint32_t id, struct err *err)
{
    const struct node *n = &o->m->nodes[id];
    struct quantized x, w, y, b = {.value = VALUE_NONE};
    uint32_t quant = NODE_NONE, in[9];
    const bool bias = n->n_input > 2 && n->input[2] != VALUE_NONE;

    if (n->n_input < 2 || !dequantized(o, n->input[0], &x) || !is_single(&x) ||
        !weight_fits(o, n->input[1], node_attr_int(n, "transB", 0) ? 0 : 1, &w))
        return 0;
    if (bias && (!bias_fits(o, n->input[2], &x, &w, &b) || node_attr_float(n, "beta", 1) != 1 ||
                 node_attr_float(n, "alpha", 1) != 1))
        return 0;
    const bool ends = quantized_result(o, n->output[0], &quant, &y);
    if (put(o, &x, in, err) < 0 || put(o, &w, in + 3, err) < 0)
        return -1;
    in[6] = b.value;
    if (ends) {
        in[7] = y.scale;
        in[8] = zero_id(o, &y, err);
        if (in[8] == VALUE_NONE)
            return -1;
    }
    node_remove_attr(o->m, id, "beta");
    const struct replacement r = {"QGemm", MICROSOFT, in, ends ? 9 : bias ? 7 : 6, true, ends ? quant : NODE_NONE};
    return replace(o, id, &r, err) == NODE_NONE ? -1 : 0;
}

static int fuse_matmul_node(struct optimize *o, uint32_t id, struct err *err)
{
    const struct node *n = &o->m->nodes[id];
    struct quantized a, b, y;
    uint32_t quant, in[8];

    if (n->n_input < 2 || !dequantized(o, n->input[0], &a) || !is_single(&a) || !weight_fits(o, n->input[1], -1, &b))
        return 0;
    if (!is_single(&b) && value_const(o->m, b.value)->shape.rank != 2)
        return 0;
    if (put(o, &a, in, err) < 0 || put(o, &b, in + 3, err) < 0)
        return -1;
    if (quantized_result(o, n->output[0], &quant, &y)) {
        in[6] = y.scale;
        in[7] = zero_id(o, &y, err);
        if (in[7] == VALUE_NONE)
            return -1;
        const struct replacement r = {"QLinearMatMul", "", in, 8, false, quant};
        return replace(o, id, &r, err) == NODE_NONE ? -1 : 0;
    }
    const uint32_t floats[6] = {in[0], in[3], in[1], in[4], in[2], in[5]};
    const struct replacement r = {"MatMulIntegerToFloat", MICROSOFT, floats, 6, false, NODE_NONE};
    return replace(o, id, &r, err) == NODE_NONE ? -1 : 0;
}

/* ---- element by element ---- */
static int fuse_binary(struct optimize *o, uint32_t id, struct err *err)
{
    const struct node *n = &o->m->nodes[id];
    struct quantized a, b, y;
    uint32_t quant, in[8];

    if (n->n_input != 2 || !dequantized(o, n->input[0], &a) || !dequantized(o, n->input[1], &b) || !is_single(&a) ||
        !is_single(&b) || !quantized_result(o, n->output[0], &quant, &y) || a.dtype != b.dtype || a.dtype != y.dtype)
        return 0;
    if (put(o, &a, in, err) < 0 || put(o, &b, in + 3, err) < 0)
        return -1;
    in[6] = y.scale;
    in[7] = zero_id(o, &y, err);
    if (in[7] == VALUE_NONE)
        return -1;
    const struct replacement r = {strcmp(n->op_type, "Add") == 0 ? "QLinearAdd" : "QLinearMul", MICROSOFT, in, 8, false,
                                  quant};
    return replace(o, id, &r, err) == NODE_NONE ? -1 : 0;
}

static int unary_to(struct optimize *o, uint32_t id, const char *type, uint32_t *made, struct err *err)
{
    const struct node *n = &o->m->nodes[id];
    struct quantized x, y;
    uint32_t quant, in[5];

    *made = NODE_NONE;
    if (n->n_input != 1 || !dequantized(o, n->input[0], &x) || !is_single(&x) ||
        !quantized_result(o, n->output[0], &quant, &y) || x.dtype != y.dtype)
        return 0;
    if (put(o, &x, in, err) < 0)
        return -1;
    in[3] = y.scale;
    in[4] = zero_id(o, &y, err);
    if (in[4] == VALUE_NONE)
        return -1;
    const struct replacement r = {type, MICROSOFT, in, 5, true, quant};
    *made = replace(o, id, &r, err);
    return *made == NODE_NONE ? -1 : 0;
}

static int fuse_unary(struct optimize *o, uint32_t id, struct err *err)
{
    const char *type = model_printf(o->m, "QLinear%s", o->m->nodes[id].op_type);
    uint32_t made;
    return type ? unary_to(o, id, type, &made, err) : err_set(err, ERR_NOMEM, "out of memory");
}

static int fuse_average(struct optimize *o, uint32_t id, struct err *err)
{
    const struct attr *dilations = node_attr(&o->m->nodes[id], "dilations");
    uint32_t made;
    for (int i = 0; dilations && i < dilations->count; i++)
        if (dilations->ints[i] != 1)
            return 0;
    if (dilations)
        node_remove_attr(o->m, id, "dilations");
    return unary_to(o, id, "QLinearAveragePool", &made, err);
}

static int fuse_softmax(struct optimize *o, uint32_t id, struct err *err)
{
    const int64_t opset = model_opset(o->m, "");
    const int64_t axis = node_attr_int(&o->m->nodes[id], "axis", opset < 13 ? 1 : -1);
    uint32_t made;
    if (unary_to(o, id, "QLinearSoftmax", &made, err) < 0)
        return -1;
    if (made != NODE_NONE) {
        node_set_int(o->m, made, "axis", axis);
        node_set_int(o->m, made, "opset", opset);
    }
    return 0;
}

/* ---- values that only move ---- */
/* The node runs on the integers: inputs from the DequantizeLinear nodes' inputs, outputs as the QuantizeLinear nodes'. */
static int move_integers(struct optimize *o, uint32_t id, int data, struct err *err)
{
    struct model *m = o->m;
    struct quantized x, other, y;
    uint32_t quant[MAX_INPUTS], from[MAX_INPUTS];
    const int n_out = m->nodes[id].n_output;

    if (n_out > MAX_INPUTS || data > MAX_INPUTS || data < 1 || !dequantized(o, m->nodes[id].input[0], &x) ||
        !is_single(&x))
        return 0;
    for (int i = 0; i < data; i++) {
        if (!dequantized(o, m->nodes[id].input[i], &other) || !is_single(&other) || !same_params(&x, &other))
            return 0;
        from[i] = other.value;
    }
    for (int i = 0; i < n_out; i++)
        if (m->nodes[id].output[i] == VALUE_NONE || !quantized_result(o, m->nodes[id].output[i], &quant[i], &y) ||
            !same_params(&x, &y))
            return 0;
    for (int i = 0; i < data; i++)
        if (node_set_input(m, id, i, from[i]) < 0)
            return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n_out; i++) {
        const uint32_t out = m->nodes[quant[i]].output[0];
        m->values[m->nodes[id].output[i]].producer = NODE_NONE;
        drop(m, quant[i]);
        m->nodes[id].output[i] = out;
        m->values[out].producer = id;
        m->values[out].slot = i;
    }
    return 0;
}

static int fuse_moving(struct optimize *o, uint32_t id, struct err *err)
{
    return move_integers(o, id, 1, err);
}

static int fuse_max_pool(struct optimize *o, uint32_t id, struct err *err)
{
    return model_opset(o->m, "") >= 12 && o->m->nodes[id].n_output == 1 ? move_integers(o, id, 1, err) : 0;
}

static int fuse_resize(struct optimize *o, uint32_t id, struct err *err)
{
    const struct attr *mode = node_attr(&o->m->nodes[id], "mode");
    if (mode && (mode->type != ATTR_STRING || mode->count != 1 || strcmp(mode->strings[0].data, "nearest") != 0))
        return 0;
    return move_integers(o, id, 1, err);
}

static int fuse_concat(struct optimize *o, uint32_t id, struct err *err)
{
    const uint32_t before = optimize_single_reader(o, o->m->nodes[id].output[0]);
    const int n_in = o->m->nodes[id].n_input;
    struct quantized x, y;
    uint32_t quant, in[2 + 3 * MAX_INPUTS];

    if (n_in < 1 || n_in > MAX_INPUTS || before == NODE_NONE)
        return 0;
    if (move_integers(o, id, n_in, err) < 0)
        return -1;
    if (!o->m->nodes[before].op_type || !quantized_result(o, o->m->nodes[id].output[0], &quant, &y))
        return 0;
    for (int i = 0; i < n_in; i++)
        if (!dequantized(o, o->m->nodes[id].input[i], &x) || !is_single(&x))
            return 0;
    in[0] = y.scale;
    in[1] = zero_id(o, &y, err);
    for (int i = 0; i < n_in; i++)
        if (in[1] == VALUE_NONE || !dequantized(o, o->m->nodes[id].input[i], &x) || put(o, &x, in + 2 + 3 * i, err) < 0)
            return -1;
    const struct replacement r = {"QLinearConcat", MICROSOFT, in, 2 + 3 * n_in, true, quant};
    return replace(o, id, &r, err) == NODE_NONE ? -1 : 0;
}

/* QuantizeLinear of a DequantizeLinear with the same parameters: the integers again. */
static int fuse_back(struct optimize *o, uint32_t id, struct err *err)
{
    const struct node *n = &o->m->nodes[id];
    struct quantized x, y;
    (void)err;
    if (n->n_input < 2 || !dequantized(o, n->input[0], &x) || !is_single(&x) ||
        !read_params(o, id, n->output[0], &y) || !is_single(&y) || !same_params(&x, &y) ||
        value_is_graph_output(o->m, y.value))
        return 0;
    model_replace_uses(o->m, y.value, x.value, false);
    return 0;
}

/* ---- the table ---- */
static const struct rule {
    const char *op_type;
    int (*fuse)(struct optimize *o, uint32_t id, struct err *err);
} rules[] = {
    {"Conv", fuse_conv_node},      {"Gemm", fuse_gemm_node},         {"MatMul", fuse_matmul_node},
    {"Add", fuse_binary},          {"Mul", fuse_binary},             {"Sigmoid", fuse_unary},
    {"LeakyRelu", fuse_unary},     {"GlobalAveragePool", fuse_unary}, {"AveragePool", fuse_average},
    {"Softmax", fuse_softmax},     {"MaxPool", fuse_max_pool},       {"Concat", fuse_concat},
    {"Resize", fuse_resize},       {"Reshape", fuse_moving},         {"Flatten", fuse_moving},
    {"Transpose", fuse_moving},    {"Squeeze", fuse_moving},         {"Unsqueeze", fuse_moving},
    {"Slice", fuse_moving},        {"Gather", fuse_moving},          {"Split", fuse_moving},
    {"Identity", fuse_moving},     {"DepthToSpace", fuse_moving},    {"SpaceToDepth", fuse_moving},
    {"Expand", fuse_moving},       {"Tile", fuse_moving},            {"QuantizeLinear", fuse_back},
};

int fuse_qdq(struct optimize *o, struct err *err)
{
    const int n_nodes = model_main(o->m)->n_nodes; /* new ones are appended */

    for (int i = 0; i < n_nodes; i++) {
        const uint32_t id = model_main(o->m)->nodes[i];
        for (size_t k = 0; k < sizeof rules / sizeof rules[0] && o->m->nodes[id].op_type; k++)
            if (is_node(o, id, rules[k].op_type) &&
                (model_domain_is_default(o->m->nodes[id].domain) || rules[k].fuse == fuse_back)) {
                if (rules[k].fuse(o, id, err) < 0)
                    return -1;
                break;
            }
    }
    return 0;
}
