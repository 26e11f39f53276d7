/* SPDX-License-Identifier: Apache-2.0
 * dequantize_forms.c - the table of operators of quantized models and how each becomes one of float models. Inputs are
 * those written in qoperator_forms.c and qoperator_products.c. */
#include "core/quant/dequantize_forms.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

static const char few[] = "it has not the inputs of its operator";

static uint32_t input(const struct node *n, int slot)
{
    return slot < n->n_input ? n->input[slot] : VALUE_NONE;
}

/* Codes (x, scale, zero) at 0 to y (scale, zero) at 3: the same operator of floats. */
static const char *undo_unary(struct deq *d, uint32_t node, const char *op, uint32_t *made)
{
    const char *why = NULL;
    *made = NODE_NONE;
    if (d->m->nodes[node].n_input < 4)
        return few;
    const struct coded x = coded_at(d, node, 0, 1, 2, 0), y = coded_at(d, node, -1, 3, 4, 0);
    if (y.scale == VALUE_NONE)
        return few;
    const uint32_t in = deq_read(d, &x, &why);
    if (why)
        return why;
    *made = deq_replace_codes(d, node, op, &in, 1, &y);
    return NULL;
}

static const char *undo_plain(struct deq *d, uint32_t node, const char *op)
{
    uint32_t made;
    return undo_unary(d, node, op, &made);
}

static const char *undo_sigmoid(struct deq *d, uint32_t node)
{
    return undo_plain(d, node, "Sigmoid");
}

static const char *undo_leaky_relu(struct deq *d, uint32_t node)
{
    return undo_plain(d, node, "LeakyRelu");
}

static const char *undo_pool(struct deq *d, uint32_t node, const char *op)
{
    uint32_t made;
    if (node_attr_int(&d->m->nodes[node], "channels_last", 0) != 0)
        return "its channels come last: there is no such pool in float";
    const char *why = undo_unary(d, node, op, &made);
    if (made != NODE_NONE)
        node_remove_attr(d->m, made, "channels_last");
    return why;
}

static const char *undo_average_pool(struct deq *d, uint32_t node)
{
    return undo_pool(d, node, "AveragePool");
}

static const char *undo_global_average(struct deq *d, uint32_t node)
{
    return undo_pool(d, node, "GlobalAveragePool");
}

/* Before opset 13 Softmax runs over all axes from `axis` on. */
static const char *undo_softmax(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const int64_t opset = node_attr_int(n, "opset", 0);
    const int64_t axis = node_attr_int(n, "axis", -1);
    uint32_t made;
    if ((opset < 13) != (d->opset < 13)) {
        const int rank = n->n_input > 0 && n->input[0] != VALUE_NONE ? infer_rank_of(&d->infer, n->input[0]) : -1;
        if (axis != -1 && (rank < 1 || axis != rank - 1))
            return "its Softmax is of another opset, and not over the last axis";
    }
    const char *why = undo_unary(d, node, "Softmax", &made);
    if (made != NODE_NONE) {
        node_remove_attr(d->m, made, "opset");
        node_set_int(d->m, made, "axis", axis);
    }
    return why;
}

static const char *undo_reduce_mean(struct deq *d, uint32_t node)
{
    const struct attr *a = node_attr(&d->m->nodes[node], "axes");
    const int64_t *axes = a && a->type == ATTR_INTS ? a->ints : NULL;
    const int count = axes ? a->count : 0;
    uint32_t made;
    const char *why = undo_unary(d, node, "ReduceMean", &made);
    if (made != NODE_NONE && d->opset >= 18 && axes) { /* axes are an input there */
        edit_set_input(&d->edit, made, 1,
                       edit_add_ints(&d->edit, d->m->nodes[made].graph, "axes", axes, count));
        node_remove_attr(d->m, made, "axes");
    }
    return why;
}

static const char *undo_binary(struct deq *d, uint32_t node, const char *op)
{
    const char *why = NULL;
    if (d->m->nodes[node].n_input < 7)
        return few;
    const struct coded a = coded_at(d, node, 0, 1, 2, 0), b = coded_at(d, node, 3, 4, 5, 0),
                       y = coded_at(d, node, -1, 6, 7, 0);
    if (y.scale == VALUE_NONE)
        return few;
    const uint32_t x = deq_read(d, &a, &why), z = why ? VALUE_NONE : deq_read(d, &b, &why);
    if (why)
        return why;
    deq_replace_codes(d, node, op, (uint32_t[]){x, z}, 2, &y);
    return NULL;
}

static const char *undo_add(struct deq *d, uint32_t node)
{
    return undo_binary(d, node, "Add");
}

static const char *undo_mul(struct deq *d, uint32_t node)
{
    return undo_binary(d, node, "Mul");
}

static const char *undo_matmul(struct deq *d, uint32_t node)
{
    const char *why = NULL;
    if (d->m->nodes[node].n_input < 8)
        return few;
    const struct coded a = coded_at(d, node, 0, 1, 2, -2), b = coded_at(d, node, 3, 4, 5, -1),
                       y = coded_at(d, node, -1, 6, 7, 0);
    if (y.scale == VALUE_NONE)
        return few;
    const uint32_t x = deq_read(d, &a, &why), w = why ? VALUE_NONE : deq_read(d, &b, &why);
    if (why)
        return why;
    deq_report_weight(d, node, b.codes, w);
    deq_replace_codes(d, node, "MatMul", (uint32_t[]){x, w}, 2, &y);
    return NULL;
}

static const char *undo_where(struct deq *d, uint32_t node)
{
    const char *why = NULL;
    if (d->m->nodes[node].n_input < 9)
        return few;
    const struct coded a = coded_at(d, node, 1, 2, 3, 0), b = coded_at(d, node, 4, 5, 6, 0),
                       y = coded_at(d, node, -1, 7, 8, 0);
    if (y.scale == VALUE_NONE)
        return few;
    const uint32_t x = deq_read(d, &a, &why), z = why ? VALUE_NONE : deq_read(d, &b, &why);
    if (why)
        return why;
    deq_replace_codes(d, node, "Where", (uint32_t[]){d->m->nodes[node].input[0], x, z}, 3, &y);
    return NULL;
}

static const char *undo_concat(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const int parts = n->n_input < 5 ? 0 : (n->n_input - 2) / 3;
    const char *why = NULL;
    if (parts < 1 || n->n_input != 2 + 3 * parts || n->input[0] == VALUE_NONE)
        return few;
    uint32_t *in = calloc((size_t)parts, sizeof *in);
    if (!in)
        return "memory is out";
    for (int i = 0; i < parts && !why; i++) {
        const struct coded x = coded_at(d, node, 2 + 3 * i, 3 + 3 * i, 4 + 3 * i, 0);
        in[i] = deq_read(d, &x, &why);
    }
    if (!why) {
        const struct coded y = coded_at(d, node, -1, 0, 1, 0);
        deq_replace_codes(d, node, "Concat", in, parts, &y);
    }
    free(in);
    return why;
}

/* ---- products with an integer bias: bias * x_scale * w_scale [* alpha] ---- */
static const char *float_bias(struct deq *d, uint32_t bias, const struct coded *x, const struct coded *w, double alpha,
                              uint32_t *out)
{
    static const char wrong[] = "its bias is not constant with the scales of its input and weight";
    int64_t n_bias = 0, n_x = 0, n_w = 0;
    *out = VALUE_NONE;
    if (bias == VALUE_NONE)
        return NULL;
    const struct tensor *t = value_const(d->m, bias);
    double *xs = deq_numbers(d, x->scale, &n_x), *ws = deq_numbers(d, w->scale, &n_w);
    const bool whole = t && t->data && dtype_is_integer(t->dtype);
    double *v = whole ? calloc((size_t)i64_max(tensor_count(t), 1), sizeof *v) : NULL;
    n_bias = t ? tensor_count(t) : 0;
    struct tensor f = {0};
    const int64_t last = t && t->shape.rank > 0 ? t->shape.dim[t->shape.rank - 1] : 1;
    const bool fits = v && xs && ws && n_x == 1 && n_w > 0 && (n_w == 1 || n_w == last);
    for (int64_t i = 0; fits && i < n_bias; i++)
        v[i] = dtype_get(t->dtype, t->data, i) * xs[0] * ws[n_w == 1 ? 0 : i % n_w] * alpha;
    if (fits && tensor_from_doubles(&f, value_const(d->m, w->scale)->dtype, &t->shape, v, NULL) == 0)
        *out = deq_constant(d, d->m->values[bias].name, &f);
    tensor_fini(&f);
    free(xs);
    free(ws);
    free(v);
    return *out == VALUE_NONE ? wrong : NULL;
}

static const char *undo_conv(struct deq *d, uint32_t node)
{
    const char *why = NULL;
    uint32_t in[3];
    if (d->m->nodes[node].n_input < 8)
        return few;
    const struct coded x = coded_at(d, node, 0, 1, 2, 0), w = coded_at(d, node, 3, 4, 5, 0),
                       y = coded_at(d, node, -1, 6, 7, 0);
    if (y.scale == VALUE_NONE)
        return few;
    in[0] = deq_read(d, &x, &why);
    in[1] = why ? VALUE_NONE : deq_read(d, &w, &why);
    why = why ? why : float_bias(d, input(&d->m->nodes[node], 8), &x, &w, 1, &in[2]);
    if (why)
        return why;
    deq_report_weight(d, node, w.codes, in[1]);
    deq_replace_codes(d, node, "Conv", in, in[2] == VALUE_NONE ? 2 : 3, &y);
    return NULL;
}

static const char *undo_gemm(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const char *why = NULL;
    uint32_t in[3];
    if (n->n_input < 6)
        return few;
    const struct coded x = coded_at(d, node, 0, 1, 2, 0),
                       w = coded_at(d, node, 3, 4, 5, node_attr_int(n, "transB", 0) != 0 ? 0 : 1);
    const bool quantized = n->n_input > 8 && n->input[8] != VALUE_NONE;
    if (quantized && n->input[7] == VALUE_NONE)
        return few;
    const uint32_t bias = input(n, 6);
    const double alpha = (double)node_attr_float(n, "alpha", 1);
    in[0] = deq_read(d, &x, &why);
    in[1] = why ? VALUE_NONE : deq_read(d, &w, &why);
    why = why ? why : float_bias(d, bias, &x, &w, alpha, &in[2]);
    if (why)
        return why;
    deq_report_weight(d, node, w.codes, in[1]);
    const int n_in = in[2] == VALUE_NONE ? 2 : 3;
    if (quantized) {
        const struct coded y = coded_at(d, node, -1, 7, 8, 0);
        deq_replace_codes(d, node, "Gemm", in, n_in, &y);
    } else
        deq_replace(d, node, "", "Gemm", in, n_in, d->m->nodes[node].output[0]);
    return NULL;
}

static const char *undo_unknown(struct deq *d, uint32_t node)
{
    (void)d, (void)node;
    return "there is no rule that undoes this operator";
}

#define MS "com.microsoft"
static const struct undo table[] = {
    {"", "DynamicQuantizeLinear", undo_dynamic_quantize},
    {"", "QLinearConv", undo_conv},
    {MS, "QLinearConv", undo_conv},
    {"", "QLinearMatMul", undo_matmul},
    {"", "MatMulInteger", undo_matmul_integer},
    {"", "ConvInteger", undo_conv_integer},
    {MS, "QGemm", undo_gemm},
    {MS, "QLinearAdd", undo_add},
    {MS, "QLinearMul", undo_mul},
    {MS, "QLinearSigmoid", undo_sigmoid},
    {MS, "QLinearLeakyRelu", undo_leaky_relu},
    {MS, "QLinearAveragePool", undo_average_pool},
    {MS, "QLinearGlobalAveragePool", undo_global_average},
    {MS, "QLinearReduceMean", undo_reduce_mean},
    {MS, "QLinearSoftmax", undo_softmax},
    {MS, "QLinearConcat", undo_concat},
    {MS, "QLinearWhere", undo_where},
    {MS, "MatMulIntegerToFloat", undo_to_float},
    {MS, "DynamicQuantizeMatMul", undo_dynamic_matmul},
    {MS, "DynamicQuantizeLSTM", undo_lstm},
    {MS, "QAttention", undo_attention},
    {MS, "MatMulNBits", undo_matmul_nbits},
    {MS, "GatherBlockQuantized", undo_gather_block},
    {MS, "MatMulBnb4", undo_unknown},
    {MS, "QEmbedLayerNormalization", undo_unknown},
    {MS, "QMoE", undo_unknown},
    {MS, "QOrderedMatMul", undo_unknown},
    {MS, "QOrderedAttention", undo_unknown},
    {MS, "MatMulInteger16", undo_unknown},
};

const struct undo *undo_of(const struct node *n)
{
    static const struct undo unknown = {MS, "QLinear", undo_unknown};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (node_in(n, table[i].domain, table[i].op))
            return &table[i];
    const bool ours = model_domain_is_default(n->domain) || (n->domain && !strcmp(n->domain, MS));
    return n->op_type && ours && !strncmp(n->op_type, "QLinear", 7) ? &unknown : NULL;
}

/* ---- operators that also run on codes ---- */
/* A constant code that is an operand beside codes: its float value. */
static bool code_operand(struct deq *d, uint32_t node, int slot, const struct coded *c)
{
    const uint32_t v = input(&d->m->nodes[node], slot);
    struct tensor f = {0};
    if (v == VALUE_NONE)
        return true;
    struct coded operand = *c;
    operand.codes = v;
    if (codes_to_float(d->m, &operand, &f))
        return false;
    edit_set_input(&d->edit, node, slot, deq_constant(d, d->m->values[v].name, &f));
    tensor_fini(&f);
    return true;
}

static const char *clip_to_float(struct deq *d, uint32_t node, const struct coded *c)
{
    for (int i = 1; i < 3; i++)
        if (!code_operand(d, node, i, c))
            return "its bounds are not constant";
    return NULL;
}

static const char *pad_to_float(struct deq *d, uint32_t node, const struct coded *c)
{
    struct tensor code = {0};
    const struct node *n = &d->m->nodes[node];
    if (n->n_input > 2 && n->input[2] != VALUE_NONE)
        return code_operand(d, node, 2, c) ? NULL : "the number it fills with is not constant";
    if (n->n_input < 2 || tensor_alloc(&code, c->dtype, &SHAPE_SCALAR, NULL))
        return "the number it fills with cannot be told";
    edit_set_input(&d->edit, node, 2, deq_constant(d, "fill", &code)); /* code 0 is (0 - zero) * scale */
    tensor_fini(&code);
    return code_operand(d, node, 2, c) ? NULL : "the number it fills with cannot be told";
}

/* Codes joined with others of the same meaning. */
static const char *concat_to_float(struct deq *d, uint32_t node, const struct coded *c)
{
    for (int i = 1; i < d->m->nodes[node].n_input; i++) {
        const uint32_t v = d->m->nodes[node].input[i];
        if (v == VALUE_NONE || !deq_has_twin(d, v) || !coded_alike(d->m, c, &d->meaning[v]))
            return "it joins codes of other scales";
    }
    for (int i = 1; i < d->m->nodes[node].n_input; i++)
        edit_set_input(&d->edit, node, i, deq_twin(d, d->m->nodes[node].input[i]));
    return NULL;
}

struct code_op {
    const char *op;
    const char *(*operands)(struct deq *d, uint32_t node, const struct coded *c); /* NULL: it has none */
    bool indices; /* its output are places, not codes */
};
static const struct code_op code_ops[] = {
    {"Clip", clip_to_float, false},
    {"Concat", concat_to_float, false},
    {"Pad", pad_to_float, false},
    {"ArgMax", NULL, true},
    {"ArgMin", NULL, true},
};

bool undo_on_codes(struct deq *d, uint32_t node, const char **why)
{
    const struct node *n = &d->m->nodes[node];
    const struct code_op *op = NULL;
    *why = NULL;
    if (n->n_input < 1 || n->input[0] == VALUE_NONE || !deq_has_twin(d, n->input[0]))
        return false;
    for (size_t i = 0; i < sizeof code_ops / sizeof code_ops[0]; i++)
        if (node_is(n, code_ops[i].op))
            op = &code_ops[i];
    if (!op && !mover_of(n)) {
        *why = "it reads codes as numbers";
        return true;
    }
    const struct coded c = d->meaning[n->input[0]];
    *why = op && op->operands ? op->operands(d, node, &c) : NULL;
    if (*why)
        return true;
    edit_set_input(&d->edit, node, 0, deq_twin(d, c.codes));
    for (int i = 0; !(op && op->indices) && i < d->m->nodes[node].n_output; i++) {
        const uint32_t old = d->m->nodes[node].output[i];
        if (old == VALUE_NONE || (i > 0 && node_is(&d->m->nodes[node], "MaxPool")))
            continue;
        const uint32_t value = deq_value(d, old, "float");
        if (d->edit.failed)
            return true;
        edit_move_output(&d->edit, value, node, i);
        struct coded made = c;
        made.codes = old;
        deq_set_twin(d, old, value, &made);
    }
    d->written = d->m->nodes[node].op_type;
    return true;
}
