/* SPDX-License-Identifier: Apache-2.0
 * qoperator_products.c - products between pairs as products of codes.
 *   Conv    QLinearConv           x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, B: int32
 *   Gemm    QGemm                 A, a_scale, a_zero, B, b_scale, b_zero, C: int32, y_scale, y_zero; float without the
 *                                 last two
 *   MatMul  QLinearMatMul         a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero
 *           MatMulIntegerToFloat  A, B, a_scale, b_scale, a_zero, b_zero, bias: float where the result stays float, and
 *                                 where a vector is added to it
 *           QGemm                 of two matrices with an added vector
 * A product of int8 activations wants int8 weights: uint8 codes less 128 are the same weight. */
#include <math.h>
#include <stdlib.h>

#include "core/passes/pass.h"
#include "core/quant/qoperator_forms.h"

static const char no_codes[] = "its input is not in 8 bits with one scale";
static const char no_weight[] = "its weight is not in 8 bits with one scale, or one for each output channel";

struct operands {
    struct coded x, w;
    int64_t channels; /* scales of w: 1 or one an output channel */
    bool constant;    /* w */
};

static bool all_equal(const struct tensor *t)
{
    for (int64_t i = 1, n = tensor_count(t); i < n; i++)
        if (dtype_get_i64(t->dtype, t->data, i) != dtype_get_i64(t->dtype, t->data, 0))
            return false;
    return true;
}

/* A weight with one scale, or one for each index of `axis`, and one zero point. */
static bool read_weight(struct qop *q, uint32_t value, int axis, struct operands *o)
{
    const struct model *m = q->m;
    const uint32_t d = value != VALUE_NONE ? m->values[value].producer : NODE_NONE;
    if (d == NODE_NONE || !edit_node_is_live(&q->edit, d) || !is_dequantize(&m->nodes[d]) ||
        !coded_of(m, d, &o->w) || o->w.block != 0)
        return false;
    const struct tensor *codes = value_const(m, o->w.codes), *scale = value_const(m, o->w.scale),
                        *zero = o->w.zero != VALUE_NONE ? value_const(m, o->w.zero) : NULL;
    if (!codes || !codes->data || (codes->dtype != DTYPE_INT8 && codes->dtype != DTYPE_UINT8) || !scale ||
        !scale->data || scale->dtype != DTYPE_FLOAT)
        return false;
    if (o->w.zero != VALUE_NONE && (!zero || !zero->data || zero->dtype != codes->dtype || tensor_count(zero) < 1 ||
                                    !all_equal(zero)))
        return false;
    const int64_t at = o->w.axis < 0 ? o->w.axis + codes->shape.rank : o->w.axis;
    o->w.dtype = codes->dtype;
    o->channels = tensor_count(scale);
    o->constant = true;
    if (o->channels == 1)
        return true;
    return scale->shape.rank == 1 && axis >= 0 && axis < codes->shape.rank && at == axis &&
           codes->shape.dim[axis] == o->channels;
}

/* Weight codes of the activations' sign, with a zero point as the form wants it: one, or one for each scale. */
static void fit_weight(struct qop *q, struct operands *o)
{
    const struct tensor *zero = o->w.zero != VALUE_NONE ? value_const(q->m, o->w.zero) : NULL;
    int32_t z = zero ? (int32_t)dtype_get_i64(zero->dtype, zero->data, 0) : 0;
    const bool turn = o->x.dtype == DTYPE_INT8 && o->w.dtype == DTYPE_UINT8;
    struct tensor t = {0};
    if (turn) {
        const struct tensor *codes = value_const(q->m, o->w.codes);
        if (tensor_alloc(&t, DTYPE_INT8, &codes->shape, NULL)) {
            q->edit.failed = true;
            return;
        }
        for (size_t i = 0; i < t.bytes; i++)
            ((int8_t *)t.data)[i] = (int8_t)(((const uint8_t *)codes->data)[i] - 128);
        o->w.codes = edit_add_weight(&q->edit, 0, q->m->values[o->w.codes].name, &t);
        o->w.dtype = DTYPE_INT8;
        tensor_fini(&t);
        z -= 128;
    }
    if (!turn && zero && tensor_count(zero) == o->channels)
        return;
    const struct tensor *scale = value_const(q->m, o->w.scale);
    if (tensor_alloc(&t, o->w.dtype, &scale->shape, NULL)) {
        q->edit.failed = true;
        return;
    }
    for (int64_t i = 0; i < o->channels; i++)
        dtype_set(o->w.dtype, t.data, i, z);
    o->w.zero = edit_add_weight(&q->edit, 0, "z", &t);
    tensor_fini(&t);
}

/* ---- bias ---- */
/* The integer a bias is in the sums' steps, x_scale w_scale [alpha]: as it stands behind its DequantizeLinear if
 * those are
 * its steps, else made. *id VALUE_NONE: there is none. */
static const char *read_bias(struct qop *q, const struct operands *o, double alpha, uint32_t value, double beta,
                             int64_t channels, uint32_t *id)
{
    const struct model *m = q->m;
    static const char no_bias[] = "its bias is not constant with one number for each output channel";
    *id = VALUE_NONE;
    if (value == VALUE_NONE || beta == 0)
        return NULL;
    const uint32_t d = m->values[value].producer;
    struct coded c = {.codes = value, .scale = VALUE_NONE, .zero = VALUE_NONE};
    const bool pair = d != NODE_NONE && is_dequantize(&m->nodes[d]) && coded_of(m, d, &c);
    const struct tensor *codes = value_const(m, c.codes), *scale = pair ? value_const(m, c.scale) : NULL,
                        *zero = pair && c.zero != VALUE_NONE ? value_const(m, c.zero) : NULL;
    if (!codes || !codes->data || (pair && (!scale || !scale->data || scale->dtype != DTYPE_FLOAT)) ||
        (pair && c.zero != VALUE_NONE && (!zero || !zero->data)))
        return no_bias;
    const int64_t count = tensor_count(codes), scales = pair ? tensor_count(scale) : 1;
    if ((count != 1 && count != channels) || (scales != 1 && scales != count) ||
        (count > 1 && codes->shape.dim[codes->shape.rank - 1] != count))
        return no_bias;
    if (!pair && codes->dtype != DTYPE_FLOAT)
        return no_bias;
    const float *ws = tensor_f32(value_const(m, o->w.scale));
    const double xs = coded_scale(m, &o->x) * alpha;
    struct tensor t = {0};
    bool same = pair && codes->dtype == DTYPE_INT32 && count == channels && codes->shape.rank == 1 && beta == 1;
    if (tensor_alloc(&t, DTYPE_INT32, &SHAPE(channels), NULL)) {
        q->edit.failed = true;
        return "memory is out";
    }
    for (int64_t i = 0; i < channels; i++) {
        const int64_t at = count == 1 ? 0 : i;
        const double step = xs * (double)ws[o->channels == 1 ? 0 : i];
        const double own = pair ? (double)tensor_f32(scale)[scales == 1 ? 0 : at] : 1;
        const double z = zero ? dtype_get(zero->dtype, zero->data, tensor_count(zero) == count ? at : 0) : 0;
        const double code = nearbyint((dtype_get(codes->dtype, codes->data, at) - z) * own * beta / step);
        same = same && z == 0 && fabs(own - step) <= 1e-5 * fabs(step);
        if (!same && !(fabs(code) <= 2147483647.0)) {
            tensor_fini(&t);
            return "its bias does not fit into 32 bits";
        }
        ((int32_t *)t.data)[i] = same ? 0 : (int32_t)code;
    }
    *id = same ? c.codes : edit_add_weight(&q->edit, 0, m->values[value].name, &t);
    tensor_fini(&t);
    return NULL;
}

/* ---- Conv ---- */
const char *rewrite_conv(struct qop *q, uint32_t node)
{
    struct operands o;
    struct result y;
    uint32_t bias;
    const struct node *n = &q->m->nodes[node];
    if (!read_codes(q, n->input[0], &o.x))
        return no_codes;
    if (n->n_input < 2 || !read_weight(q, n->input[1], 0, &o))
        return no_weight;
    if (!read_result(q, n->output[0], &y))
        return "its result is also used in float: there is no convolution of codes to float";
    if (o.x.dtype != y.code.dtype)
        return "what it reads and what it makes are of different types";
    const char *why = read_bias(q, &o, 1, n->n_input > 2 ? n->input[2] : VALUE_NONE, 1,
                                value_const(q->m, o.w.codes)->shape.dim[0], &bias);
    if (why)
        return why;
    fit_weight(q, &o);
    const uint32_t in[] = {o.x.codes, o.x.scale, o.x.zero,     o.w.codes,   o.w.scale,
                           o.w.zero,  y.code.scale, y.code.zero, bias};
    edit_remove_node(&q->edit, node);
    write_node(q, node, "", "QLinearConv", in, bias == VALUE_NONE ? 8 : 9, take_result(q, &y));
    q->signed_product = q->signed_product || o.x.dtype == DTYPE_INT8;
    return NULL;
}

/* ---- QGemm, of Gemm and of MatMul with an added vector ---- */
/* Makes `y`'s codes, or `out` in float if y is NULL. */
static void write_gemm(struct qop *q, uint32_t node, struct operands *o, uint32_t bias, struct result *y, uint32_t out)
{
    fit_weight(q, o);
    uint32_t in[] = {o->x.codes, o->x.scale, o->x.zero,  o->w.codes, o->w.scale,
                     o->w.zero,  bias,       VALUE_NONE, VALUE_NONE};
    int n_in = bias == VALUE_NONE ? 6 : 7;
    if (y) {
        in[7] = y->code.scale;
        in[8] = y->code.zero;
        n_in = 9;
        out = take_result(q, y);
    }
    const uint32_t made = write_node(q, node, MICROSOFT, "QGemm", in, n_in, out);
    if (made != NODE_NONE)
        node_remove_attr(q->m, made, "beta");
    q->signed_product = q->signed_product || o->x.dtype == DTYPE_INT8;
}

const char *rewrite_gemm(struct qop *q, uint32_t node)
{
    struct operands o;
    struct result y;
    uint32_t bias;
    const struct node *n = &q->m->nodes[node];
    const int axis = node_attr_int(n, "transB", 0) != 0 ? 0 : 1;
    const double alpha = (double)node_attr_float(n, "alpha", 1), beta = (double)node_attr_float(n, "beta", 1);
    const uint32_t out = n->output[0];
    if (!read_codes(q, n->input[0], &o.x))
        return no_codes;
    if (n->n_input < 2 || !read_weight(q, n->input[1], axis, &o))
        return no_weight;
    if (value_const(q->m, o.w.codes)->shape.rank != 2 || !(alpha > 0))
        return "its weight is no matrix, or it scales by a number that is not positive";
    const char *why = read_bias(q, &o, alpha, n->n_input > 2 ? n->input[2] : VALUE_NONE, beta,
                                value_const(q->m, o.w.codes)->shape.dim[axis], &bias);
    if (why)
        return why;
    const bool quantized = read_result(q, out, &y) && y.code.dtype == o.x.dtype;
    edit_remove_node(&q->edit, node);
    write_gemm(q, node, &o, bias, quantized ? &y : NULL, out);
    return NULL;
}

/* ---- MatMul ---- */
/* The Add of a constant vector that alone reads the product; NODE_NONE. */
static uint32_t added_vector(struct qop *q, uint32_t product, int64_t columns, uint32_t *vector)
{
    const uint32_t add = edit_only_reader(&q->edit, product);
    if (add == NODE_NONE || !node_is(&q->m->nodes[add], "Add") || q->m->nodes[add].n_input != 2)
        return NODE_NONE;
    const struct node *n = &q->m->nodes[add];
    *vector = n->input[n->input[0] == product ? 1 : 0];
    const struct tensor *t = *vector != VALUE_NONE ? value_const(q->m, *vector) : NULL;
    if (!t || !t->data || t->dtype != DTYPE_FLOAT || t->shape.rank != 1 || t->shape.dim[0] != columns)
        return NODE_NONE;
    return add;
}

static bool read_matrix(struct qop *q, uint32_t value, struct operands *o)
{
    const uint32_t d = value != VALUE_NONE ? q->m->values[value].producer : NODE_NONE;
    struct coded c;
    if (d == NODE_NONE || !is_dequantize(&q->m->nodes[d]) || !coded_of(q->m, d, &c))
        return false;
    if (!value_const(q->m, c.codes)) { /* of two activations */
        o->constant = false;
        o->channels = 1;
        return read_codes(q, value, &o->w);
    }
    const int rank = value_const(q->m, c.codes)->shape.rank;
    return rank >= 2 && read_weight(q, value, rank - 1, o) && (o->channels == 1 || rank == 2);
}

static void write_to_float(struct qop *q, uint32_t node, const struct operands *o, uint32_t bias, uint32_t out)
{
    const uint32_t in[] = {o->x.codes, o->w.codes, o->x.scale, o->w.scale, o->x.zero, o->w.zero, bias};
    write_node(q, node, MICROSOFT, "MatMulIntegerToFloat", in, bias == VALUE_NONE ? 6 : 7, out);
    q->signed_product = q->signed_product || o->x.dtype == DTYPE_INT8;
}

/* A matrix times a weight plus a vector: one QGemm. False: it is none, or the vector does not fit into the sums. */
static bool write_added(struct qop *q, uint32_t node, uint32_t add, struct operands *o, uint32_t vector)
{
    struct result y;
    uint32_t bias;
    const uint32_t out = q->m->nodes[add].output[0];
    const int64_t columns = tensor_count(value_const(q->m, vector));
    if (infer_rank_of(&q->infer, q->m->nodes[node].input[0]) != 2 || !o->constant ||
        value_const(q->m, o->w.codes)->shape.rank != 2 || !read_result(q, out, &y) || y.code.dtype != o->x.dtype ||
        read_bias(q, o, 1, vector, 1, columns, &bias) != NULL)
        return false;
    edit_remove_node(&q->edit, node);
    edit_remove_node(&q->edit, add);
    write_gemm(q, node, o, bias, &y, out);
    return true;
}

const char *rewrite_matmul(struct qop *q, uint32_t node)
{
    struct operands o;
    struct result y;
    uint32_t vector = VALUE_NONE, add = NODE_NONE;
    const struct node *n = &q->m->nodes[node];
    const uint32_t out = n->output[0];
    if (!read_codes(q, n->input[0], &o.x))
        return no_codes;
    if (n->n_input != 2 || !read_matrix(q, n->input[1], &o))
        return no_weight;
    if (!o.constant && o.w.dtype != o.x.dtype)
        return "the two matrices are of different types";
    if (o.constant) {
        const struct shape *s = &value_const(q->m, o.w.codes)->shape;
        add = added_vector(q, out, s->dim[s->rank - 1], &vector);
    }
    if (add != NODE_NONE && write_added(q, node, add, &o, vector))
        return NULL;
    const bool quantized = add == NODE_NONE && read_result(q, out, &y) && y.code.dtype == o.x.dtype;
    if (o.constant)
        fit_weight(q, &o);
    edit_remove_node(&q->edit, node);
    if (add != NODE_NONE) {
        const uint32_t sum = q->m->nodes[add].output[0];
        edit_remove_node(&q->edit, add);
        write_to_float(q, node, &o, vector, sum);
        return NULL;
    }
    if (!quantized) {
        write_to_float(q, node, &o, VALUE_NONE, out);
        return NULL;
    }
    const uint32_t in[] = {o.x.codes, o.x.scale, o.x.zero,     o.w.codes,
                           o.w.scale, o.w.zero,  y.code.scale, y.code.zero};
    write_node(q, node, "", "QLinearMatMul", in, 8, take_result(q, &y));
    q->signed_product = q->signed_product || o.x.dtype == DTYPE_INT8;
    return NULL;
}
