/* SPDX-License-Identifier: Apache-2.0
 * half_sides.c - which nodes compute in 16 bits.
 *
 * Float are: nodes of other domains or operators nobody knows, control flow (whose bodies are looked at node by
 * node), operators without a 16-bit form (a table below), nodes left out by name or operator, nodes whose weights
 * 16 bits would spoil and, where calibration data was given, nodes that read or make numbers out of range.
 * Recurrent operators compute in float with weights stored in 16 bits. Operators that only move data take the side
 * of what they read, so that they add no casts. */
#include <math.h>
#include <string.h>

#include "core/passes/weights.h"
#include "core/quant/half.h"

/* Below this a weight stays in float: its numbers would be known to a few per cent only. float16 gives 70 dB,
 * bfloat16 52. */
#define WEIGHT_DB 30.0
/* Bytes of a Cast node with its names. */
enum { CAST_BYTES = 56 };

/* Operators that stay in float: no half type in the standard (before `until`), none worth having, or blocked by
 * ONNX Runtime's own converter because its kernels have none. */
static const struct {
    const char *op_type;
    int until;    /* opset from which half is allowed; 0: never */
    bool stored;  /* its weights may be stored in 16 bits */
} float_only[] = {
    {"LSTM", 0, true},
    {"GRU", 0, true},
    {"RNN", 0, true},
    {"CumSum", 0, false},
    {"Range", 0, false},
    {"TopK", 0, false},
    {"RoiAlign", 0, false},
    {"MaxRoiPool", 0, false},
    {"NonMaxSuppression", 0, false},
    {"Upsample", 0, false},
    {"QuantizeLinear", 0, false},
    {"DequantizeLinear", 0, false},
    {"DynamicQuantizeLinear", 0, false},
    {"RandomNormal", 0, false},
    {"RandomUniform", 0, false},
    {"RandomNormalLike", 0, false},
    {"RandomUniformLike", 0, false},
    {"Multinomial", 0, false},
    {"Bernoulli", 0, false},
    {"EyeLike", 0, false},
    {"Unique", 0, false},
    {"SequenceConstruct", 0, false},
    {"SequenceInsert", 0, false},
    {"SequenceAt", 0, false},
    {"SequenceEmpty", 0, false},
    {"SequenceErase", 0, false},
    {"SplitToSequence", 0, false},
    {"ConcatFromSequence", 0, false},
    {"Optional", 0, false},
    {"OptionalGetElement", 0, false},
    {"OptionalHasElement", 0, false},
    {"If", 0, false},
    {"Loop", 0, false},
    {"Scan", 0, false},
    {"SequenceMap", 0, false},
    {"StringNormalizer", 0, false},
    {"TfIdfVectorizer", 0, false},
    {"MelWeightMatrix", 0, false},
    {"DFT", 0, false},
    {"STFT", 0, false},
    {"BlackmanWindow", 0, false},
    {"HannWindow", 0, false},
    {"HammingWindow", 0, false},
    {"Det", 0, false},
    {"Mod", 13, false},
    {"Constant", 0, false},
};

bool half_slot_stays_float(const struct node *n, int slot)
{
    return node_is(n, "Resize") && slot > 0;
}

bool half_is_float(const struct half *h, uint32_t v)
{
    return v != VALUE_NONE && infer_dtype_of(&h->infer, v) == DTYPE_FLOAT;
}

/* ---- ranges ---- */
static const char *text_or(const char *text, const char *otherwise)
{
    return text ? text : otherwise;
}

const char *half_weight_refusal(struct half *h, const struct tensor *t, double *sqnr)
{
    struct half_seen seen = {0};
    struct tensor half = {0}, back = {0};
    const char *why = NULL;
    *sqnr = NAN;
    if (!t->data || tensor_count(t) == 0)
        return NULL;
    half_seen_add(&seen, tensor_f32(t), tensor_count(t));
    if (h->dtype == DTYPE_FLOAT16 && seen.overflow > 0)
        return text_or(model_printf(h->m, "a weight reaches %.4g, larger than 65504, the largest float16",
                                    (double)seen.largest),
                       "a weight is larger than 65504, the largest float16");
    if (tensor_convert(&half, t, h->dtype, NULL) == 0 && tensor_convert(&back, &half, DTYPE_FLOAT, NULL) == 0)
        *sqnr = sqnr_db(tensor_f32(t), tensor_f32(&back), tensor_count(t));
    if (*sqnr < WEIGHT_DB)
        why = text_or(model_printf(h->m, "%s would keep a weight to %.1f dB only: %.3g %% of its elements are "
                                         "below 6.1e-05",
                                   dtype_name(h->dtype), *sqnr, 100 * half_share(seen.underflow, seen.nonzero)),
                      "a weight's elements are below 6.1e-05");
    if (isinf(*sqnr))
        *sqnr = NAN;
    tensor_fini(&half);
    tensor_fini(&back);
    return why;
}

static const char *range_refusal(struct half *h, uint32_t v)
{
    const struct half_seen *s = half_is_float(h, v) ? half_ranges_get(h->seen, v) : NULL;
    if (!s)
        return NULL;
    const double over = half_share(s->overflow, s->count), under = half_share(s->underflow, s->nonzero);
    if (over > h->opts->max_overflow)
        return text_or(model_printf(h->m, "%.3g %% of its activations are beyond 65504, the largest float16; they "
                                    "reach %.4g",
                                    100 * over, (double)s->largest),
                       "its activations are beyond 65504, the largest float16");
    if (s->overflow == 0 && (double)s->largest > HALF_MAX / 2)
        return text_or(model_printf(h->m, "its activations come near 65504, the largest float16: they reach %.4g",
                                    (double)s->largest),
                       "its activations come near 65504, the largest float16");
    if (under > h->opts->max_underflow)
        return text_or(model_printf(h->m, "%.3g %% of its activations that are not zero are below 6.1e-05, where "
                                    "float16 loses precision (%.3g %% become zero)", 100 * under,
                                    100 * half_share(s->vanished, s->nonzero)),
                       "its activations are below 6.1e-05, where float16 loses precision");
    return NULL;
}

/* ---- nodes ---- */
static const char *unselected(const struct half *h, uint32_t id)
{
    static const struct globs all;
    const struct node *n = &h->m->nodes[id];
    char label[200];
    if (!globs_select(&h->opts->include, &h->opts->exclude, node_label(h->m, id, label, sizeof label)))
        return "not selected by include and exclude";
    return h->opts->keep_ops.count && !globs_select(&all, &h->opts->keep_ops, n->op_type) ?
        "its operator is in keep_ops" : NULL;
}

static const char *operator_refusal(const struct half *h, const struct node *n, bool *stored)
{
    *stored = false;
    if (!model_domain_is_default(n->domain) || !node_class(h->m, n))
        return "its operator is not known to support 16 bits";
    for (size_t i = 0; i < sizeof float_only / sizeof float_only[0]; i++)
        if (node_is(n, float_only[i].op_type) &&
            (float_only[i].until == 0 || model_opset(h->m, "") < float_only[i].until)) {
            *stored = float_only[i].stored;
            return "its operator has no float16 form";
        }
    if (node_is(n, "ConstantOfShape") && !node_attr(n, "value"))
        return "its default value is float32";
    return NULL;
}

static const char *numbers_refusal(struct half *h, const struct node *n)
{
    const char *why = NULL;
    double sqnr;
    for (int i = 0; i < n->n_input && !why; i++) {
        const uint32_t v = n->input[i];
        if (v == VALUE_NONE || half_slot_stays_float(n, i))
            continue;
        if (infer_dtype_of(&h->infer, v) == DTYPE_NONE && !node_is(n, "Cast"))
            why = "the type of an input is not known";
        const struct tensor *t = half_is_float(h, v) ? value_const(h->m, v) : NULL;
        if (!why && t)
            why = half_weight_refusal(h, t, &sqnr);
        if (!why)
            why = range_refusal(h, v);
    }
    for (int i = 0; i < n->n_output && !why; i++) {
        if (n->output[i] == VALUE_NONE)
            continue;
        if (infer_dtype_of(&h->infer, n->output[i]) == DTYPE_NONE)
            why = "the type of an output is not known";
        if (!why)
            why = range_refusal(h, n->output[i]);
    }
    return why;
}

static bool touches_float(const struct half *h, const struct node *n)
{
    for (int i = 0; i < n->n_input; i++)
        if (half_is_float(h, n->input[i]))
            return true;
    for (int i = 0; i < n->n_output; i++)
        if (half_is_float(h, n->output[i]))
            return true;
    return false;
}

/* A node that only moves data, or ends the floats, and reads a float. */
static bool follows_float(const struct half *h, const struct node *n)
{
    const struct op_class *op = node_class(h->m, n);
    if (!op || n->n_input < 1 || !half_is_float(h, n->input[0]) || value_const(h->m, n->input[0]))
        return false;
    const bool ends = node_is(n, "Cast") && !half_is_float(h, n->output[0]);
    return (ends || op->quant.kind == QUANT_PASS) && !h->half_value[n->input[0]];
}

static void row_skipped(struct half *h, uint32_t id, uint32_t weight, const char *why)
{
    struct layer_row row = {.node = id, .weight = weight, .sqnr_db = NAN, .skipped = why};
    layer_report_add(h->c->layers, h->m, &row);
}

static void choose_node(struct half *h, uint32_t id)
{
    const struct node *n = &h->m->nodes[id];
    bool stored = false;
    if (!touches_float(h, n))
        return;
    const char *why = unselected(h, id);
    if (!why && h->opts->storage) {
        h->stored_node[id] = true;
        return;
    }
    if (!why)
        why = operator_refusal(h, n, &stored);
    if (!why)
        why = numbers_refusal(h, n);
    h->stored_node[id] = stored;
    if (why && !stored)
        row_skipped(h, id, VALUE_NONE, why);
    h->half_node[id] = !why && !follows_float(h, n);
    for (int k = 0; h->half_node[id] && k < n->n_output; k++)
        if (half_is_float(h, n->output[k]))
            h->half_value[n->output[k]] = true;
}

/* ---- weights ---- */
static int64_t gain(const struct half *h, uint32_t v, bool needs_cast)
{
    const struct tensor *t = value_const(h->m, v);
    return (int64_t)t->bytes / 2 - (needs_cast ? CAST_BYTES : 0);
}

/* A weight is stored in 16 bits if none of its readers needs the floats as they are. */
static void choose_weight(struct half *h, uint32_t v)
{
    const struct reader_list *l = edit_readers(&h->edit, v);
    uint32_t reader = NODE_NONE, keeper = NODE_NONE;
    bool output = false, stored = false;
    double sqnr;
    for (int i = 0; i < l->count; i++) {
        const uint32_t id = l->at[i].node;
        output = output || id == NODE_NONE;
        if (id == NODE_NONE || id >= h->n_nodes)
            continue;
        const bool half = h->half_node[id] && !half_slot_stays_float(&h->m->nodes[id], l->at[i].slot);
        if (half || h->stored_node[id])
            reader = id;
        else
            keeper = id;
        stored = stored || (!half && h->stored_node[id]);
    }
    if (reader == NODE_NONE)
        return;
    const bool layer = value_const(h->m, v)->shape.rank >= 2;
    const char *why = stored ? half_weight_refusal(h, value_const(h->m, v), &sqnr) : NULL;
    char label[200];
    if (!why && (output || keeper != NODE_NONE))
        why = model_printf(h->m, "its weight must stay in float for %s",
                           output ? "an output of the model" : node_label(h->m, keeper, label, sizeof label));
    if (!why && gain(h, v, stored) <= 0)
        why = "its weight is too small: a Cast would take more room than it saves";
    if (!why)
        h->weight_side[v] = WEIGHT_HALF;
    else if (layer)
        row_skipped(h, reader, v, why);
}

int half_choose(struct half *h, struct err *err)
{
    struct model *m = h->m;
    const struct graph *main = model_main(m);
    for (int i = 0; !h->opts->keep_io && !h->opts->storage && i < main->n_inputs; i++)
        if (half_is_float(h, main->inputs[i].value) && !m->values[main->inputs[i].value].weight)
            h->half_value[main->inputs[i].value] = true;
    for (uint32_t g = 0; g < m->n_graphs; g++) /* nested graphs come after the graph that holds them */
        for (int i = 0; i < m->graphs[g].n_nodes; i++) {
            const uint32_t id = m->graphs[g].nodes[i];
            if (!edit_node_is_live(&h->edit, id))
                continue;
            if (h->c->progress && h->c->progress(h->c, "choose", id, h->n_nodes, err))
                return -1;
            choose_node(h, id);
        }
    for (uint32_t v = 0; v < h->n_values; v++)
        if (m->values[v].weight && value_const(m, v) && value_const(m, v)->dtype == DTYPE_FLOAT && value_const(m,
            v)->data)
            choose_weight(h, v);
    return 0;
}
