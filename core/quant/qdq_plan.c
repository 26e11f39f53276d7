/* SPDX-License-Identifier: Apache-2.0
 * qdq_plan.c - what becomes 8 bits.
 *
 * Products (Conv, Gemm, MatMul with a constant float32 weight) want their input quantized. From there quantization
 * spreads forward: an operator whose row says QUANT_OUTPUT joins if all it reads is quantized, QUANT_PASS re-uses the
 * scale it reads. Nothing is quantized for its own sake, so shape arithmetic and float-only parts are never touched.
 *
 * Tails. Walking back from the model's outputs to the first product or average, everything stays in float: an 8-bit
 * score ties for the first place in one to six of a hundred samples, and Softmax and box decoding gain nothing from 8
 * bits.
 *
 * Relu and Clip (QUANT_ABSORB) behind a product nobody else reads: if zero is the lowest code of their output,
 * saturation does their work, and they go. Otherwise product and activation stay together in float arithmetic, and only
 * the activation's output is quantized. The same holds for a MatMul and the vector added to it. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/weights.h"
#include "core/quant/qdq.h"

static const struct op_class *class_of(const struct qdq *q, uint32_t node)
{
    return node_class(q->m, &q->m->nodes[node]);
}

static bool range_ok(const struct qdq *q, uint32_t v)
{
    const struct range *r = q->calibration ? calibration_range(q->calibration, v) : NULL;
    return !q->calibration || (r && r->min <= r->max && r->nan == 0 && r->inf == 0);
}

static bool is_constant(const struct qdq *q, uint32_t v)
{
    return v != VALUE_NONE && value_const(q->m, v) != NULL;
}

static bool is_average(const struct node *n)
{
    return node_is(n, "GlobalAveragePool") || node_is(n, "AveragePool") || node_is(n, "ReduceMean");
}

/* ---- tails ---- */
static void mark_tails(struct qdq *q)
{
    struct model *m = q->m;
    const struct graph *g = model_main(m);
    for (int i = 0; i < g->n_outputs; i++)
        q->tail[g->outputs[i].value] = true;
    for (int i = g->n_nodes - 1; i >= 0; i--) { /* in topological order: readers come first */
        const struct node *n = &m->nodes[g->nodes[i]];
        const struct op_class *op = node_class(m, n);
        bool from_tail = false;
        for (int k = 0; k < n->n_output; k++)
            from_tail = from_tail || (n->output[k] != VALUE_NONE && q->tail[n->output[k]]);
        if (!from_tail || (op && op->quant.kind == QUANT_COMPUTE) || is_average(n))
            continue;
        for (int k = 0; k < n->n_input; k++)
            if (n->input[k] != VALUE_NONE)
                q->tail[n->input[k]] = true;
    }
}

/* ---- products ---- */
static const char *product_refusal(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    struct weight_ref ref;
    const char *why = NULL;
    char label[200];
    if (!product_weight(q->m, node, &ref, &why))
        return "";
    if (!globs_select(&q->opts->include, &q->opts->exclude, node_label(q->m, node, label, sizeof label)))
        return "not selected by include and exclude";
    if (q->choice && q->choice->keep_float && q->choice->keep_float[node])
        return "kept in float: it is among the layers that cost the most accuracy";
    if (n->graph != 0)
        return "it is inside a nested graph (If, Loop, Scan)";
    if (why)
        return why;
    if (ref.slot != 1)
        return "its constant operand is on the left";
    if (ref.value != n->input[1] || !is_constant(q, ref.value))
        return "its weight is not a plain constant";
    if (ref.tensor->dtype != DTYPE_FLOAT)
        return "its weight is not float32";
    if (infer_dtype_of(&q->infer, n->input[0]) != DTYPE_FLOAT)
        return "its input is not known to be float32";
    if (is_constant(q, n->input[0]))
        return "its input is constant";
    if (edit_producer(&q->edit, n->input[0], "DequantizeLinear") != NODE_NONE)
        return "its input is quantized already";
    if (!range_ok(q, n->input[0]))
        return "its input was never seen finite while calibrating";
    if (node_is(n, "Gemm") && (node_attr_int(n, "transA", 0) != 0 || !(node_attr_float(n, "alpha", 1) > 0)))
        return "it transposes its input or scales by a number that is not positive";
    for (int64_t i = 0, count = tensor_count(ref.tensor); i < count; i++)
        if (!isfinite(tensor_f32(ref.tensor)[i]))
            return "its weight has elements that are not finite";
    return NULL;
}

static void find_products(struct qdq *q)
{
    for (uint32_t id = 0; id < q->n_nodes; id++) {
        if (!edit_node_is_live(&q->edit, id))
            continue;
        const char *why = product_refusal(q, id);
        if (why && !*why)
            continue;
        q->why[id] = why;
        if (why)
            continue;
        q->decision[id] = QDQ_PRODUCT;
        q->wanted[q->m->nodes[id].input[0]] = true;
        q->quantized[q->m->nodes[id].input[0]] = true;
    }
}

/* ---- spreading forward ---- */
static void place(struct qdq *q, uint32_t v, struct qparams p)
{
    q->params[v] = p;
    q->placed[v] = true;
}

/* The operator that makes it bounds it by 0 and 1. */
static bool range_fixed(const struct qdq *q, uint32_t v)
{
    uint32_t p = q->m->values[v].producer;
    const char *op = p != NODE_NONE ? q->m->nodes[p].op_type : NULL;
    return op && (!strcmp(op, "Sigmoid") || !strcmp(op, "HardSigmoid") || !strcmp(op, "Softmax"));
}

static struct qparams range_params(const struct qdq *q, uint32_t v)
{
    struct clip c = {0, 1};
    if (q->calibration && !range_fixed(q, v))
        c = calibration_clip(q->calibration, v);
    return affine_params(c.lo, c.hi, q->act, q->opts->symmetric);
}

static void place_own(struct qdq *q, uint32_t v)
{
    q->measured[v] = !range_fixed(q, v);
    place(q, v, range_params(q, v));
}

/* The value is made by a quantized product or 8-bit operator. */
static bool from_quantized(const struct qdq *q, uint32_t v)
{
    uint32_t p = q->m->values[v].producer;
    return p != NODE_NONE && p < q->n_nodes && (q->decision[p] == QDQ_PRODUCT || q->decision[p] == QDQ_OUTPUT);
}

static bool quantizable(const struct qdq *q, uint32_t v)
{
    return v != VALUE_NONE && infer_dtype_of(&q->infer, v) == DTYPE_FLOAT && range_ok(q, v);
}

static void spread_output(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    uint32_t out = n->n_output == 1 ? n->output[0] : VALUE_NONE;
    int eight = 0;
    char label[200];
    if (!quantizable(q, out))
        return;
    for (int i = 0; i < n->n_input; i++) {
        uint32_t v = n->input[i];
        if (v == VALUE_NONE)
            continue;
        if (is_constant(q, v)) {
            if (tensor_count(value_const(q->m, v)) == 1 || !node_is(n, "Add"))
                continue;
            /* a vector added to a product's output: both stay together */
            uint32_t x = n->input[1 - i];
            if (n->n_input == 2 && x != VALUE_NONE && from_quantized(q, x) && edit_only_reader(&q->edit, x) == node)
                q->quantized[x] = q->wanted[x];
            q->why[node] = "its constant operand would lose precision in 8 bits";
            return;
        }
        if (!q->quantized[v])
            return;
        eight++;
    }
    if (eight == 0 || (q->tail[out] && !q->wanted[out]))
        return;
    for (int i = 0; i < n->n_input; i++)
        if (is_constant(q, n->input[i]) && tensor_count(value_const(q->m, n->input[i])) != 1)
            return;
    if (!globs_select(&q->opts->include, &q->opts->exclude, node_label(q->m, node, label, sizeof label))) {
        q->why[node] = "not selected by include and exclude";
        return;
    }
    q->decision[node] = QDQ_OUTPUT;
    q->quantized[out] = true;
}

static void spread_pass(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    if (n->n_input < 1 || n->input[0] == VALUE_NONE || !q->quantized[n->input[0]])
        return;
    for (int i = 0; i < n->n_output; i++) {
        uint32_t out = n->output[i];
        if (!quantizable(q, out) || (q->tail[out] && !q->wanted[out]))
            continue;
        q->decision[node] = QDQ_PASS;
        q->quantized[out] = true;
    }
}

/* A bound of Clip on the wrong side of zero would not be kept by saturation. */
static bool bounds_allow(const struct qdq *q, const struct node *n)
{
    if (!node_is(n, "Clip"))
        return true;
    double low = (double)node_attr_float(n, "min", -INFINITY), high = (double)node_attr_float(n, "max", INFINITY);
    for (int i = 1; i < n->n_input && i < 3; i++) {
        if (n->input[i] == VALUE_NONE)
            continue;
        const struct tensor *t = value_const(q->m, n->input[i]);
        if (!t || !t->data || tensor_count(t) != 1)
            return false;
        *(i == 1 ? &low : &high) = dtype_get(t->dtype, t->data, 0);
    }
    return low == 0 && high > 0;
}

static void spread_absorb(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    uint32_t x = n->n_input > 0 ? n->input[0] : VALUE_NONE, y = n->n_output == 1 ? n->output[0] : VALUE_NONE;
    if (x == VALUE_NONE || !quantizable(q, y))
        return;
    bool fused = from_quantized(q, x) && edit_only_reader(&q->edit, x) == node;
    if (!fused && !q->quantized[x])
        return;
    q->quantized[y] = q->wanted[y] || !q->tail[y];
    if (!fused)
        return;
    q->quantized[x] = false;
    if (!q->quantized[y] || edit_is_output(&q->edit, y) || !bounds_allow(q, n))
        return;
    if (range_params(q, y).zero == q->act_min && !q->opts->symmetric)
        q->decision[node] = QDQ_ABSORBED;
}

static void spread(struct qdq *q)
{
    const struct graph *g = model_main(q->m);
    for (int i = 0; i < g->n_nodes; i++) {
        uint32_t id = g->nodes[i];
        const struct node *n = &q->m->nodes[id];
        const struct op_class *op = class_of(q, id);
        if (!op || !edit_node_is_live(&q->edit, id))
            continue;
        if (q->decision[id] == QDQ_PRODUCT) {
            uint32_t y = n->output[0];
            q->quantized[y] = q->wanted[y] || (!q->tail[y] && quantizable(q, y));
        } else if (op->quant.kind == QUANT_OUTPUT && !node_is(n, "Softmax"))
            spread_output(q, id);
        else if (op->quant.kind == QUANT_PASS)
            spread_pass(q, id);
        else if (op->quant.kind == QUANT_ABSORB)
            spread_absorb(q, id);
    }
}

/* A product whose 8-bit output only float operators read gains nothing from the pair. */
static void drop_useless(struct qdq *q)
{
    const struct graph *g = model_main(q->m);
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        const struct node *n = &q->m->nodes[g->nodes[i]];
        for (int k = 0; k < n->n_output; k++) {
            uint32_t v = n->output[k];
            if (v == VALUE_NONE || !q->quantized[v] || q->wanted[v])
                continue;
            const struct reader_list *l = edit_readers(&q->edit, v);
            bool useful = false;
            for (int r = 0; r < l->count && !useful; r++) {
                uint32_t reader = l->at[r].node;
                useful = reader != NODE_NONE && reader < q->n_nodes &&
                         (q->decision[reader] != QDQ_FLOAT || is_average(&q->m->nodes[reader]));
            }
            if (useful)
                continue;
            q->quantized[v] = false;
            if (q->decision[g->nodes[i]] == QDQ_OUTPUT || q->decision[g->nodes[i]] == QDQ_PASS)
                q->decision[g->nodes[i]] = QDQ_FLOAT;
            if (q->decision[g->nodes[i]] == QDQ_ABSORBED)
                q->decision[g->nodes[i]] = QDQ_FLOAT;
        }
    }
}

static void place_all(struct qdq *q)
{
    const struct graph *g = model_main(q->m);
    for (int i = 0; i < g->n_inputs; i++)
        if (q->quantized[g->inputs[i].value])
            place_own(q, g->inputs[i].value);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &q->m->nodes[g->nodes[i]];
        for (int k = 0; k < n->n_output; k++) {
            uint32_t v = n->output[k];
            if (v == VALUE_NONE || !q->quantized[v])
                continue;
            bool same = q->decision[g->nodes[i]] == QDQ_PASS && q->quantized[n->input[0]] && q->placed[n->input[0]];
            if (same)
                place(q, v, q->params[n->input[0]]);
            else
                place_own(q, v);
        }
    }
}

int qdq_plan(struct qdq *q, struct err *err)
{
    (void)err;
    mark_tails(q);
    find_products(q);
    spread(q);
    drop_useless(q);
    place_all(q);
    return 0;
}
