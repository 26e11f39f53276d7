/* SPDX-License-Identifier: Apache-2.0
 * qoperator_forms.c - the table: operator between pairs -> operator on codes. Signatures are those of ONNX and of ONNX
 * Runtime's com.microsoft domain:
 *   QLinearAdd, QLinearMul            A, A_scale, A_zero, B, B_scale, B_zero, C_scale, C_zero
 *   QLinearSigmoid, QLinearLeakyRelu, QLinearAveragePool, QLinearGlobalAveragePool, QLinearSoftmax
 *                                     X, X_scale, X_zero, Y_scale, Y_zero
 *   QLinearConcat                     Y_scale, Y_zero, then X, X_scale, X_zero of each
 *   QLinearWhere                      condition, X, X_scale, X_zero, Y, Y_scale, Y_zero, Z_scale, Z_zero
 * Operators that only move elements take the codes as they are. */
#include "core/quant/qoperator_forms.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"

static const char no_codes[] = "not all it reads is in 8 bits with one scale";
static const char no_result[] = "its result is also used in float, or needs a Clip of codes (opset 12)";
static const char other_type[] = "what it reads and what it makes are of different types";

/* *made: the new node; NODE_NONE when memory is out. */
static const char *rewrite_unary(struct qop *q, uint32_t node, const char *op, uint32_t *made)
{
    struct coded x;
    struct result y;
    const struct node *n = &q->m->nodes[node];
    if (!read_codes(q, n->input[0], &x))
        return no_codes;
    if (!read_result(q, n->output[0], &y))
        return no_result;
    if (x.dtype != y.code.dtype)
        return other_type;
    const uint32_t in[] = {x.codes, x.scale, x.zero, y.code.scale, y.code.zero};
    edit_remove_node(&q->edit, node);
    *made = write_node(q, node, MICROSOFT, op, in, 5, take_result(q, &y));
    return NULL;
}

static const char *rewrite_sigmoid(struct qop *q, uint32_t node)
{
    uint32_t made;
    return rewrite_unary(q, node, "QLinearSigmoid", &made);
}

static const char *rewrite_leaky_relu(struct qop *q, uint32_t node)
{
    uint32_t made;
    return rewrite_unary(q, node, "QLinearLeakyRelu", &made);
}

static const char *rewrite_average_pool(struct qop *q, uint32_t node)
{
    const struct attr *a = node_attr(&q->m->nodes[node], "dilations");
    for (int i = 0; a && a->type == ATTR_INTS && i < a->count; i++)
        if (a->ints[i] != 1)
            return "there is no 8-bit average with dilations";
    uint32_t made = NODE_NONE;
    const char *why = rewrite_unary(q, node, "QLinearAveragePool", &made);
    if (made != NODE_NONE)
        node_remove_attr(q->m, made, "dilations");
    return why;
}

static const char *rewrite_global_average(struct qop *q, uint32_t node)
{
    uint32_t made;
    return rewrite_unary(q, node, "QLinearGlobalAveragePool", &made);
}

/* The mean over all axes behind the second is what a global average gives; without keepdims those axes go then. */
static const char *rewrite_reduce_mean(struct qop *q, uint32_t node)
{
    struct coded x;
    struct result y;
    const struct node *n = &q->m->nodes[node];
    int64_t axes[SHAPE_MAX_RANK] = {0};
    const int rank = infer_rank_of(&q->infer, n->input[0]);
    const struct tensor *t = n->n_input > 1 && n->input[1] != VALUE_NONE ? value_const(q->m, n->input[1]) : NULL;
    const struct attr *a = node_attr(n, "axes");
    int count = t ? (int)i64_min(tensor_count(t), SHAPE_MAX_RANK) : a && a->type == ATTR_INTS ? a->count : 0;
    bool seen[SHAPE_MAX_RANK] = {false};
    if (rank < 3 || count != rank - 2 || (t && (t->dtype != DTYPE_INT64 || !t->data)))
        return "there is no 8-bit mean but over all axes behind the second";
    for (int i = 0; i < count; i++) {
        axes[i] = t ? tensor_i64(t)[i] : a->ints[i];
        axes[i] += axes[i] < 0 ? rank : 0;
        if (axes[i] < 2 || axes[i] >= rank || seen[axes[i]])
            return "there is no 8-bit mean but over all axes behind the second";
        seen[axes[i]] = true;
    }
    const bool keep = node_attr_int(n, "keepdims", 1) != 0;
    if (!read_codes(q, n->input[0], &x))
        return no_codes;
    if (!read_result(q, n->output[0], &y))
        return no_result;
    if (x.dtype != y.code.dtype)
        return other_type;
    const uint32_t in[] = {x.codes, x.scale, x.zero, y.code.scale, y.code.zero};
    edit_remove_node(&q->edit, node);
    const uint32_t target = take_result(q, &y), mean = keep ? target : fresh(q, NULL);
    const uint32_t made = write_node(q, node, MICROSOFT, "QLinearGlobalAveragePool", in, 5, mean);
    if (made == NODE_NONE)
        return NULL;
    q->m->nodes[made].n_attr = 0;
    if (keep)
        return NULL;
    uint32_t squeeze[2] = {mean, VALUE_NONE};
    if (q->opset >= 13)
        squeeze[1] = edit_add_ints(&q->edit, 0, "axes", axes, count);
    const uint32_t s = q->edit.failed ? NODE_NONE
                                      : edit_add_node(&q->edit, 0, "Squeeze", NULL, squeeze, q->opset >= 13 ? 2 : 1,
                                                      &target, 1);
    if (s != NODE_NONE && q->opset < 13)
        node_set_ints(q->m, s, "axes", axes, count);
    return NULL;
}

static const char *rewrite_binary(struct qop *q, uint32_t node, const char *op)
{
    struct coded a, b;
    struct result y;
    const struct node *n = &q->m->nodes[node];
    if (n->n_input != 2 || !read_codes(q, n->input[0], &a) || !read_codes(q, n->input[1], &b))
        return no_codes;
    if (!read_result(q, n->output[0], &y))
        return no_result;
    if (a.dtype != b.dtype || a.dtype != y.code.dtype)
        return other_type;
    const uint32_t in[] = {a.codes, a.scale, a.zero, b.codes, b.scale, b.zero, y.code.scale, y.code.zero};
    edit_remove_node(&q->edit, node);
    write_node(q, node, MICROSOFT, op, in, 8, take_result(q, &y));
    return NULL;
}

static const char *rewrite_add(struct qop *q, uint32_t node)
{
    return rewrite_binary(q, node, "QLinearAdd");
}

static const char *rewrite_mul(struct qop *q, uint32_t node)
{
    return rewrite_binary(q, node, "QLinearMul");
}

/* ONNX Runtime counts a whole number of steps to 1, rounded down. */
static bool softmax_scale_fits(double scale)
{
    const float steps = 1 / (float)scale;
    return scale <= 1 && fabs((double)floorf(steps) * scale - 1) < 1e-3;
}

static const char *rewrite_softmax(struct qop *q, uint32_t node)
{
    struct result y;
    const int64_t axis = node_attr_int(&q->m->nodes[node], "axis", q->opset < 13 ? 1 : -1);
    if (!read_result(q, q->m->nodes[node].output[0], &y))
        return no_result;
    if (!softmax_scale_fits(coded_scale(q->m, &y.code)))
        return "QLinearSoftmax takes a scale of 1 / n only";
    uint32_t made = NODE_NONE;
    const char *why = rewrite_unary(q, node, "QLinearSoftmax", &made);
    if (made != NODE_NONE) {
        node_set_int(q->m, made, "axis", axis);
        node_set_int(q->m, made, "opset", q->opset);
    }
    return why;
}

static const char *rewrite_where(struct qop *q, uint32_t node)
{
    struct coded a, b;
    struct result y;
    const struct node *n = &q->m->nodes[node];
    if (n->n_input != 3 || !read_codes(q, n->input[1], &a) || !read_codes(q, n->input[2], &b))
        return no_codes;
    if (!read_result(q, n->output[0], &y))
        return no_result;
    if (a.dtype != b.dtype || a.dtype != y.code.dtype)
        return other_type;
    const uint32_t in[] = {n->input[0], a.codes, a.scale,      a.zero,     b.codes,
                           b.scale,     b.zero,  y.code.scale, y.code.zero};
    edit_remove_node(&q->edit, node);
    write_node(q, node, MICROSOFT, "QLinearWhere", in, 9, take_result(q, &y));
    return NULL;
}

/* Equal scales: a Concat of codes. */
static const char *rewrite_concat(struct qop *q, uint32_t node)
{
    enum { PARTS = 256 };
    uint32_t in[2 + 3 * PARTS], codes[PARTS];
    struct result y;
    const struct node *n = &q->m->nodes[node];
    const int count = n->n_input;
    bool alike = true;
    if (count < 1 || count > PARTS)
        return "it joins more tensors than are looked at";
    if (!read_result(q, n->output[0], &y))
        return no_result;
    in[0] = y.code.scale;
    in[1] = y.code.zero;
    for (int i = 0; i < count; i++) {
        struct coded x;
        if (!read_codes(q, n->input[i], &x))
            return no_codes;
        if (x.dtype != y.code.dtype)
            return other_type;
        alike = alike && coded_alike(q->m, &x, &y.code);
        codes[i] = in[2 + 3 * i] = x.codes;
        in[3 + 3 * i] = x.scale;
        in[4 + 3 * i] = x.zero;
    }
    edit_remove_node(&q->edit, node);
    const uint32_t target = take_result(q, &y);
    if (alike)
        write_node(q, node, "", "Concat", codes, count, target);
    else
        write_node(q, node, MICROSOFT, "QLinearConcat", in, 2 + 3 * count, target);
    return NULL;
}

/* A Relu or Clip that no product before it takes along: a Clip of codes, or nothing where the codes end there. */
static const char *rewrite_bounds(struct qop *q, uint32_t node)
{
    struct coded x;
    struct result y;
    const struct node *n = &q->m->nodes[node];
    double lo, hi;
    if (!read_codes(q, n->input[0], &x))
        return no_codes;
    if (!node_bounds(q->m, n, &lo, &hi))
        return "its bounds are not constant";
    if (!read_result(q, n->output[0], &y))
        return no_result;
    if (!coded_alike(q->m, &x, &y.code) || x.dtype != y.code.dtype)
        return "its input and its output have scales of their own";
    const int32_t low = coded_quantize(q->m, &x, lo), high = coded_quantize(q->m, &x, hi);
    y.low = y.low > low ? y.low : low;
    y.high = y.high < high ? y.high : high;
    const bool bites = y.low != (int32_t)dtype_min(x.dtype) || y.high != (int32_t)dtype_max(x.dtype);
    if ((bites && q->opset < 12) || y.low > y.high || edit_is_output(&q->edit, y.code.codes))
        return no_result;
    edit_remove_node(&q->edit, node);
    const uint32_t target = take_result(q, &y);
    if (!bites) {
        edit_replace_reads(&q->edit, target, x.codes);
        q->written = "none: the codes end where its bounds are";
        return NULL;
    }
    q->written = "Clip";
    edit_replace_reads(&q->edit, target, x.codes); /* the Clip just written */
    return NULL;
}

/* ---- operators that move elements ---- */
/* The number a Pad fills with, as a code. */
static void fill_with_code(struct qop *q, uint32_t node, const struct coded *x)
{
    const struct node *n = &q->m->nodes[node];
    const struct attr *mode = node_attr(n, "mode");
    if (mode && mode->type == ATTR_STRING && mode->count == 1 && strcmp(mode->strings[0].data, "constant") != 0)
        return;
    const struct tensor *t = n->n_input > 2 && n->input[2] != VALUE_NONE ? value_const(q->m, n->input[2]) : NULL;
    const double fill = t ? dtype_get(t->dtype, t->data, 0) : 0;
    edit_set_input(&q->edit, node, 2, write_code(q, x->dtype, coded_quantize(q->m, x, fill)));
}

static const char *rewrite_mover(struct qop *q, uint32_t node)
{
    enum { OUTPUTS = 64 };
    struct result y[OUTPUTS];
    struct coded x;
    const struct node *n = &q->m->nodes[node];
    const struct mover *mover = mover_of(n);
    const int n_output = n->n_output;
    int made = 0;
    if (!read_codes(q, n->input[0], &x))
        return no_codes;
    if (q->opset < mover->since)
        return "runtimes have it for 8 bits from a newer opset on only";
    const char *why = mover->refuse ? mover->refuse(q->m, n) : NULL;
    if (why)
        return why;
    if (n_output > OUTPUTS)
        return "it has more outputs than are looked at";
    for (int i = 0; i < n_output; i++) {
        const uint32_t v = n->output[i];
        y[i] = (struct result){0};
        if (v == VALUE_NONE || edit_count(&q->edit, v) == 0)
            continue;
        if (!read_result(q, v, &y[i]))
            return no_result;
        if (!coded_alike(q->m, &x, &y[i].code) || x.dtype != y[i].code.dtype)
            return "its input and its output have scales of their own";
        made++;
    }
    if (made == 0)
        return no_result;
    if (node_is(n, "Pad"))
        fill_with_code(q, node, &x);
    edit_set_input(&q->edit, node, 0, x.codes);
    for (int i = 0; i < n_output && !q->edit.failed; i++) {
        const uint32_t v = q->m->nodes[node].output[i];
        if (v == VALUE_NONE)
            continue;
        const uint32_t target = y[i].n_remove ? take_result(q, &y[i]) : fresh(q, NULL);
        if (target != VALUE_NONE)
            edit_move_output(&q->edit, target, node, i);
    }
    return NULL;
}

static const struct form forms[] = {
    {"Add", rewrite_add},
    {"AveragePool", rewrite_average_pool},
    {"Clip", rewrite_bounds},
    {"Concat", rewrite_concat},
    {"Conv", rewrite_conv},
    {"Gemm", rewrite_gemm},
    {"GlobalAveragePool", rewrite_global_average},
    {"LeakyRelu", rewrite_leaky_relu},
    {"MatMul", rewrite_matmul},
    {"Mul", rewrite_mul},
    {"ReduceMean", rewrite_reduce_mean},
    {"Relu", rewrite_bounds},
    {"Sigmoid", rewrite_sigmoid},
    {"Softmax", rewrite_softmax},
    {"Where", rewrite_where},
};

const struct form *form_of(const struct node *n)
{
    static const struct form moving = {"", rewrite_mover};
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++)
        if (node_is(n, forms[i].op))
            return &forms[i];
    return mover_of(n) ? &moving : NULL;
}
