/* SPDX-License-Identifier: Apache-2.0
 * qdq_plan.c - what becomes integers.
 *
 * Products (Conv, Gemm, MatMul with a constant float32 weight) want their input quantized. From there quantization
 * spreads forward: an operator whose row says QUANT_OUTPUT joins if all it reads is quantized, QUANT_PASS re-uses the
 * scale it reads. Nothing is quantized for its own sake, so shape arithmetic and float-only parts are never touched.
 * QUANT_OPTIONAL (normalizations, Softmax, Gelu, ...) and products of two activations join only when overrides ask:
 * runtimes have no integer kernel for them, or 8 bits cost accuracy there out of proportion.
 *
 * Tails. Walking back from the model's outputs to the first product or average, everything stays in float: an 8-bit
 * score ties for the first place in one to six of a hundred samples, and Softmax, TopK, NonMaxSuppression and the
 * decoding of boxes gain nothing from 8 bits.
 *
 * Relu and Clip (QUANT_ABSORB) behind a product nobody else reads: if zero is the lowest code of their output,
 * saturation does their work, and they go. Otherwise product and activation stay together in float arithmetic, and only
 * the activation's output is quantized. The same holds for a MatMul and the vector added to it.
 *
 * Small weights. A scale, and for the bias another, a channel can take more bytes than the weight saves: such weights
 * stay in float32, as long as all of them together are a hundredth of the model's. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/weights.h"
#include "core/quant/qdq.h"

static const char not_selected[] = "not selected by include and exclude";
static const char by_override[] = "kept in float by an override";
static const char in_tail[] = "it only leads to the model's output, where 8-bit scores would tie";
static const char optional[] =
    "it gains no speed from 8 bits, and accuracy is lost; an override {\"float\": false} asks for it";

static const struct op_class *class_of(const struct qdq *q, uint32_t node)
{
    return node_class(q->m, &q->m->nodes[node]);
}

static bool range_ok(const struct qdq *q, uint32_t v)
{
    const struct range *r = q->calibration ? calibration_range(q->calibration, v) : NULL;
    return !q->calibration || (r && r->min <= r->max && (q->dirty || (r->nan == 0 && r->inf == 0)));
}

static bool is_constant(const struct qdq *q, uint32_t v)
{
    return v != VALUE_NONE && value_const(q->m, v) != NULL;
}

static bool is_average(const struct node *n)
{
    return node_is(n, "GlobalAveragePool") || node_is(n, "AveragePool") || node_is(n, "ReduceMean");
}

static bool quantizable(const struct qdq *q, uint32_t v)
{
    return v != VALUE_NONE && infer_dtype_of(&q->infer, v) == DTYPE_FLOAT && range_ok(q, v) &&
           q->value[v].keep_float != 1;
}

bool qdq_is_data(const struct qdq *q, const struct node *n, int i)
{
    const struct op_class *op = node_class(q->m, n);
    const uint32_t mask = op ? op->quant.inputs : 0, v = n->input[i];
    if (v == VALUE_NONE || (mask && (i > 31 || !(mask >> i & 1))))
        return false;
    const struct tensor *t = value_const(q->m, v);
    return (t ? t->dtype : infer_dtype_of(&q->infer, v)) == DTYPE_FLOAT;
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
static bool selected(const struct qdq *q, uint32_t node, const char **why)
{
    char label[200];
    if (!globs_select(&q->opts->include, &q->opts->exclude, node_label(q->m, node, label, sizeof label)))
        *why = not_selected;
    else if (q->choice && q->choice->keep_float && q->choice->keep_float[node])
        *why = "kept in float: it is among the layers that cost the most accuracy";
    else if (q->node[node].keep_float == 1)
        *why = by_override;
    else
        return true;
    return false;
}

/* Both operands are computed: no product with a weight, but an operator that can be quantized like others. */
static bool of_activations(const struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    struct weight_ref ref;
    const char *why = NULL;
    return node_is(n, "MatMul") && n->n_input == 2 && product_weight(q->m, node, &ref, &why) && why &&
           ref.value == VALUE_NONE && !is_constant(q, n->input[0]) && !is_constant(q, n->input[1]);
}

static const char *product_refusal(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    struct weight_ref ref;
    const char *why = NULL;
    if (!product_weight(q->m, node, &ref, &why))
        return "";
    const char *unwanted = NULL;
    if (!selected(q, node, &unwanted))
        return unwanted;
    if (n->graph != 0)
        return "it is inside a nested graph (If, Loop, Scan)";
    if (why && of_activations(q, node))
        return "its operands are both computed, its weight is not a constant: 8 bits for both cost accuracy; an "
               "override {\"float\": false} asks for it";
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
    if (q->value[n->input[0]].keep_float == 1)
        return "its input is kept in float by an override";
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
        if (!why)
            q->decision[id] = QDQ_PRODUCT;
    }
}

/* ---- small weights ---- */
struct small {
    uint32_t node;
    int64_t elements;
};

static int by_size(const void *a, const void *b)
{
    const struct small *x = a, *y = b;
    return x->elements != y->elements ? (x->elements > y->elements) - (x->elements < y->elements)
                                      : (x->node > y->node) - (x->node < y->node);
}

/* What a quantized weight takes, about: codes, scales of weight and bias, and the nodes and names around them. */
static bool costs_more(const struct qdq *q, uint32_t node)
{
    enum { AROUND = 180 };
    const struct node *n = &q->m->nodes[node];
    const struct tensor *t = value_const(q->m, n->input[1]);
    const int64_t elements = tensor_count(t);
    struct err err = {0};
    const int axis = q->node[node].per_channel ? qdq_channel_axis(q, n, t, &err) : -1;
    const int64_t scales = axis >= 0 && t->shape.rank > 1 ? t->shape.dim[axis] : 1;
    const int bits = dtype_bits(q->node[node].weight);
    return elements * bits / 8 + 8 * scales + AROUND >= 4 * elements;
}

static int leave_small(struct qdq *q, struct err *err)
{
    struct small *list = calloc(q->n_nodes + (size_t)1, sizeof *list);
    int64_t all = 0, left = 0;
    int n = 0;
    if (!list)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    for (uint32_t id = 0; id < q->n_nodes; id++) {
        if (q->decision[id] != QDQ_PRODUCT)
            continue;
        const int64_t elements = tensor_count(value_const(q->m, q->m->nodes[id].input[1]));
        all += elements;
        if (q->node[id].keep_float < 0 && costs_more(q, id))
            list[n++] = (struct small){id, elements};
    }
    qsort(list, (size_t)n, sizeof *list, by_size);
    for (int i = 0; i < n && (left + list[i].elements) * 100 <= all; i++) {
        left += list[i].elements;
        q->decision[list[i].node] = QDQ_FLOAT;
        q->why[list[i].node] = "its weight is so small that codes and scales would take more bytes than it does";
    }
    free(list);
    return 0;
}

static void want_inputs(struct qdq *q)
{
    for (uint32_t id = 0; id < q->n_nodes; id++) {
        if (q->decision[id] != QDQ_PRODUCT)
            continue;
        const struct node *n = &q->m->nodes[id];
        q->wanted[n->input[0]] = q->quantized[n->input[0]] = true;
        if (q->node[id].keep_float == 0 && quantizable(q, n->output[0]))
            q->wanted[n->output[0]] = true;
    }
}

/* ---- what overrides ask for ---- */
static bool asked(const struct qdq *q, uint32_t node)
{
    return q->node[node].keep_float == 0;
}

static void want_asked(struct qdq *q)
{
    const struct graph *g = model_main(q->m);
    for (int i = 0; i < g->n_nodes; i++) {
        const uint32_t id = g->nodes[i];
        const struct node *n = &q->m->nodes[id];
        const struct op_class *op = edit_node_is_live(&q->edit, id) ? class_of(q, id) : NULL;
        if (!op || !asked(q, id) || q->decision[id] != QDQ_FLOAT ||
            (op->quant.kind == QUANT_COMPUTE ? !of_activations(q, id) : op->quant.kind == QUANT_KEEP_FLOAT))
            continue;
        for (int k = 0; k < n->n_input; k++)
            if (qdq_is_data(q, n, k) && !is_constant(q, n->input[k]) && quantizable(q, n->input[k]) &&
                (op->quant.kind != QUANT_PASS || k == 0))
                q->wanted[n->input[k]] = q->quantized[n->input[k]] = true;
        if (n->n_output > 0 && quantizable(q, n->output[0]))
            q->wanted[n->output[0]] = true;
    }
    for (uint32_t v = 0; v < q->n_values; v++)
        if (q->m->values[v].name && q->value[v].keep_float == 0 && !is_constant(q, v) && quantizable(q, v) &&
            q->m->values[v].graph == 0)
            q->wanted[v] = q->quantized[v] = true;
}

/* ---- ranges ---- */
static void place(struct qdq *q, uint32_t v, struct qparams p)
{
    q->params[v] = p;
    q->placed[v] = true;
}

/* The operator that makes it bounds it (Sigmoid, Softmax, ...), or an override does. */
static bool range_fixed(const struct qdq *q, uint32_t v, struct clip *c)
{
    const uint32_t p = q->m->values[v].producer;
    const struct op_class *op = p != NODE_NONE && q->m->nodes[p].op_type ? class_of(q, p) : NULL;
    if (q->value[v].ranged)
        *c = (struct clip){q->value[v].lo, q->value[v].hi};
    else if (op && op->quant.low < op->quant.high)
        *c = (struct clip){(double)op->quant.low, (double)op->quant.high};
    else
        return false;
    return true;
}

/* Histograms count for 8 bits; 16 bits reach from the smallest to the largest number. */
static struct qparams range_params(const struct qdq *q, uint32_t v)
{
    const struct value_options *o = &q->value[v];
    struct clip c = {0, 1};
    if (!range_fixed(q, v, &c) && q->calibration) {
        const struct range *r = calibration_range(q->calibration, v);
        const struct clip seen = r && r->min <= r->max ? (struct clip){(double)r->min, (double)r->max} : c;
        c = dtype_is_8bit(o->dtype) ? calibration_clip(q->calibration, v) : seen;
        if (!o->symmetric && q->opts->symmetric) /* the calibrator was told otherwise */
            c = (struct clip){fmax(c.lo, seen.lo), fmin(c.hi, seen.hi)};
    }
    return affine_params(c.lo, c.hi, o->dtype, o->symmetric);
}

static void place_own(struct qdq *q, uint32_t v)
{
    struct clip c;
    q->measured[v] = !range_fixed(q, v, &c) && dtype_is_8bit(q->value[v].dtype);
    place(q, v, range_params(q, v));
}

/* ---- spreading forward ---- */
/* The value is made by a quantized product or operator. */
static bool from_quantized(const struct qdq *q, uint32_t v)
{
    uint32_t p = q->m->values[v].producer;
    return p != NODE_NONE && p < q->n_nodes && (q->decision[p] == QDQ_PRODUCT || q->decision[p] == QDQ_OUTPUT);
}

/* A vector added to a product's output: both stay together, in the float arithmetic behind the integer sums. */
static bool added_vector(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    for (int i = 0; i < n->n_input && node_is(n, "Add") && n->n_input == 2; i++) {
        if (!is_constant(q, n->input[i]) || tensor_count(value_const(q->m, n->input[i])) == 1)
            continue;
        uint32_t x = n->input[1 - i];
        if (x != VALUE_NONE && from_quantized(q, x) && edit_only_reader(&q->edit, x) == node)
            q->quantized[x] = q->wanted[x];
        return true;
    }
    return false;
}

/* 0: not all that it reads is quantized. Constants of one number count as quantized, larger ones only when asked for. */
static int quantized_inputs(const struct qdq *q, uint32_t node, const char **why)
{
    const struct node *n = &q->m->nodes[node];
    int quantized = 0;
    for (int i = 0; i < n->n_input; i++) {
        if (!qdq_is_data(q, n, i))
            continue;
        const struct tensor *t = value_const(q->m, n->input[i]);
        if (t && tensor_count(t) != 1 && !asked(q, node)) {
            *why = "its constant operand would lose precision in 8 bits";
            return 0;
        }
        if (!t && !q->quantized[n->input[i]])
            return 0;
        quantized += !t;
    }
    return quantized;
}

static void spread_output(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    const uint32_t out = n->n_output == 1 ? n->output[0] : VALUE_NONE;
    const char *why = NULL;
    if (!quantizable(q, out))
        return;
    if (!asked(q, node) && added_vector(q, node)) {
        q->why[node] = "it adds a vector, which would lose precision in 8 bits";
        return;
    }
    if (quantized_inputs(q, node, &why) == 0 || !selected(q, node, &why)) {
        q->why[node] = why;
        return;
    }
    if (q->tail[out] && !q->wanted[out]) {
        q->why[node] = in_tail;
        return;
    }
    q->decision[node] = QDQ_OUTPUT;
    q->quantized[out] = true;
}

static void spread_pass(struct qdq *q, uint32_t node)
{
    const struct node *n = &q->m->nodes[node];
    const char *why;
    if (n->n_input < 1 || n->input[0] == VALUE_NONE || !q->quantized[n->input[0]] || !selected(q, node, &why))
        return;
    for (int i = 0; i < n->n_output; i++) {
        uint32_t out = n->output[i];
        if (!quantizable(q, out) || (q->tail[out] && !q->wanted[out]))
            continue;
        q->decision[node] = QDQ_PASS;
        q->quantized[out] = true;
    }
}

static void spread_optional(struct qdq *q, uint32_t node)
{
    const char *why = NULL;
    const struct node *n = &q->m->nodes[node];
    if (asked(q, node))
        spread_output(q, node);
    else if (quantized_inputs(q, node, &why) > 0)
        q->why[node] = n->n_output > 0 && n->output[0] != VALUE_NONE && q->tail[n->output[0]] ? in_tail : optional;
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
    bool fused = from_quantized(q, x) && edit_only_reader(&q->edit, x) == node && q->value[x].keep_float != 0;
    if (!fused && !q->quantized[x])
        return;
    q->quantized[y] = q->wanted[y] || !q->tail[y];
    if (!fused)
        return;
    q->quantized[x] = false;
    if (!q->quantized[y] || edit_is_output(&q->edit, y) || !bounds_allow(q, n) || q->node[node].keep_float == 1)
        return;
    if (!q->value[y].symmetric && range_params(q, y).zero == (int32_t)dtype_min(q->value[y].dtype))
        q->decision[node] = QDQ_ABSORBED;
}

static void spread_product(struct qdq *q, uint32_t node)
{
    const uint32_t y = q->m->nodes[node].output[0];
    q->quantized[y] = q->wanted[y] || (!q->tail[y] && quantizable(q, y));
}

static void spread_one(struct qdq *q, uint32_t node)
{
    static void (*const by_kind[])(struct qdq *, uint32_t) = {
        [QUANT_PASS] = spread_pass,
        [QUANT_OUTPUT] = spread_output,
        [QUANT_ABSORB] = spread_absorb,
        [QUANT_OPTIONAL] = spread_optional,
    };
    const struct op_class *op = class_of(q, node);
    if (!op || !edit_node_is_live(&q->edit, node))
        return;
    if (q->decision[node] == QDQ_PRODUCT)
        spread_product(q, node);
    else if (op->quant.kind == QUANT_COMPUTE && asked(q, node) && of_activations(q, node))
        spread_output(q, node);
    else if (op->quant.kind != QUANT_COMPUTE && op->quant.kind != QUANT_KEEP_FLOAT)
        by_kind[op->quant.kind](q, node);
}

/* ---- what gains nothing ---- */
/* Runtimes convolve in integers only if the result is quantized too; their matrix products may end in float. */
static bool is_convolution(const struct qdq *q, uint32_t node)
{
    if (q->decision[node] == QDQ_ABSORBED)
        node = q->m->values[q->m->nodes[node].input[0]].producer;
    return node != NODE_NONE && q->decision[node] == QDQ_PRODUCT && node_is(&q->m->nodes[node], "Conv");
}

/* A layer that the caller keeps in float reads it, maybe re-arranged: its digits matter more than the speed of what makes it. */
static bool feeds_kept(struct qdq *q, uint32_t v, int depth)
{
    const struct reader_list *l = edit_readers(&q->edit, v);
    for (int r = 0; r < l->count && q->choice && q->choice->keep_float; r++) {
        const uint32_t reader = l->at[r].node;
        if (reader == NODE_NONE || reader >= q->n_nodes)
            continue;
        const struct op_class *op = class_of(q, reader);
        if (q->choice->keep_float[reader])
            return true;
        if (depth > 0 && op && op->quant.kind == QUANT_PASS && q->decision[reader] == QDQ_FLOAT &&
            q->m->nodes[reader].n_output == 1 && feeds_kept(q, q->m->nodes[reader].output[0], depth - 1))
            return true;
    }
    return false;
}

static bool pair_is_useful(struct qdq *q, uint32_t node, uint32_t v)
{
    enum { REARRANGED = 4 };
    if (is_convolution(q, node) && !feeds_kept(q, v, REARRANGED))
        return true;
    const struct reader_list *l = edit_readers(&q->edit, v);
    for (int r = 0; r < l->count; r++) {
        const uint32_t reader = l->at[r].node;
        if (reader == NODE_NONE || reader >= q->n_nodes)
            continue;
        if (q->decision[reader] != QDQ_FLOAT || is_average(&q->m->nodes[reader]))
            return true;
    }
    return false;
}

/* An integer output that only float operators read gains nothing from the pair. */
static void drop_useless(struct qdq *q)
{
    const struct graph *g = model_main(q->m);
    for (int i = g->n_nodes - 1; i >= 0; i--) {
        const uint32_t id = g->nodes[i];
        const struct node *n = &q->m->nodes[id];
        for (int k = 0; k < n->n_output; k++) {
            const uint32_t v = n->output[k];
            if (v == VALUE_NONE || !q->quantized[v] || q->wanted[v] || pair_is_useful(q, id, v))
                continue;
            q->quantized[v] = false;
            if (q->decision[id] == QDQ_OUTPUT || q->decision[id] == QDQ_PASS || q->decision[id] == QDQ_ABSORBED)
                q->decision[id] = QDQ_FLOAT;
        }
    }
}

/* ---- scales ---- */
/* What the operator adds to what it re-arranges lies on the grid of its input: a padding of zero, or within range. */
static bool pads_within(const struct qdq *q, const struct node *n)
{
    const struct attr *mode = node_attr(n, "mode");
    if (mode && mode->type == ATTR_STRING && mode->count == 1 && strcmp(mode->strings[0].data, "constant") != 0)
        return true;
    double x = (double)node_attr_float(n, "value", 0);
    if (n->n_input > 2 && n->input[2] != VALUE_NONE) {
        const struct tensor *t = value_const(q->m, n->input[2]);
        if (!t || !t->data || tensor_count(t) != 1)
            return false;
        x = dtype_get(t->dtype, t->data, 0);
    }
    return x == 0;
}

static bool interpolates(const struct node *n)
{
    const struct attr *mode = node_attr(n, "mode");
    return mode && mode->type == ATTR_STRING && mode->count == 1 && strcmp(mode->strings[0].data, "nearest") != 0;
}

/* The output may have the input's scale and zero point. */
static bool same_scale(const struct qdq *q, uint32_t node, uint32_t out)
{
    const struct node *n = &q->m->nodes[node];
    const struct value_options *a = &q->value[n->input[0]], *b = &q->value[out];
    if (q->decision[node] != QDQ_PASS || !q->quantized[n->input[0]] || !q->placed[n->input[0]])
        return false;
    if (a->dtype != b->dtype || a->symmetric != b->symmetric || b->ranged)
        return false;
    if (node_is(n, "Resize") || node_is(n, "Upsample"))
        return !interpolates(n);
    return !node_is(n, "Pad") || pads_within(q, n);
}

static void place_output(struct qdq *q, uint32_t node, uint32_t v)
{
    const struct node *n = &q->m->nodes[node];
    if (same_scale(q, node, v)) {
        place(q, v, q->params[n->input[0]]);
        return;
    }
    place_own(q, v);
    /* Runtimes take equal scales for leave to interpolate between codes, and cut the fraction off. */
    if (q->decision[node] == QDQ_PASS && q->placed[n->input[0]] && q->params[n->input[0]].scale == q->params[v].scale)
        q->params[v].scale = nextafterf(q->params[v].scale, INFINITY);
}

static void place_all(struct qdq *q)
{
    const struct graph *g = model_main(q->m);
    for (int i = 0; i < g->n_inputs; i++)
        if (q->quantized[g->inputs[i].value])
            place_own(q, g->inputs[i].value);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &q->m->nodes[g->nodes[i]];
        for (int k = 0; k < n->n_output; k++)
            if (n->output[k] != VALUE_NONE && q->quantized[n->output[k]])
                place_output(q, g->nodes[i], n->output[k]);
    }
}

/* NaN and infinities in the data say nothing of the model. */
static void look_at_inputs(struct qdq *q)
{
    const struct graph *g = model_main(q->m);
    for (int i = 0; i < g->n_inputs && q->calibration; i++) {
        const struct range *r = calibration_range(q->calibration, g->inputs[i].value);
        if (r && (r->nan > 0 || r->inf > 0))
            q->dirty = true;
    }
}

int qdq_plan(struct qdq *q, struct err *err)
{
    const struct graph *g = model_main(q->m);
    look_at_inputs(q);
    mark_tails(q);
    find_products(q);
    if (leave_small(q, err))
        return -1;
    want_inputs(q);
    want_asked(q);
    for (int i = 0; i < g->n_nodes; i++)
        spread_one(q, g->nodes[i]);
    drop_useless(q);
    place_all(q);
    return 0;
}
