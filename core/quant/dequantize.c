/* SPDX-License-Identifier: Apache-2.0
 * dequantize.c - quantize.dequantize: a quantized model as a float model again, so that it can be pruned, tuned or
 * quantized anew. What it computes is what the quantized model did, but for the rounding of activations.
 * Way        the nodes in topological order. A QuantizeLinear tells which float value its codes stand for (their twin);
 * operators on codes are replaced by the same operator on twins (dequantize_forms.c), and give their own codes a twin;
 * a DequantizeLinear that reads codes by the numbers they were made with is its twin. Weights are computed once. Codes
 * that somebody still reads at the end (an operator that cannot be undone, an output of the model) are made from their
 * twin by a QuantizeLinear.
 * Saturation is not rounding: where codes begin at zero they may have done the work of a Relu or Clip that was
 * taken out
 * of the model. Such twins are held within the codes' range by a Clip, unless they cannot be negative anyway. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/quant/dequantize_forms.h"
#include "core/quant/quantized.h"

static const char *const clips[] = {"activations", "all", "none", NULL};

#define P(f) PARAM(quantize_dequantize_params, f)
static const struct param params[] = {
    {P(clip), .kind = PARAM_ENUM, .choices = clips, .def = "\"activations\"",
     .doc = "what saturation did is done by a Clip: activations: where codes begin at zero, as behind a Relu that was "
            "taken out; all: at all codes; none: nowhere"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

struct float_constant {
    struct coded of;
    uint32_t value;
};

/* ---- values ---- */
uint32_t deq_value(struct deq *d, uint32_t like, const char *suffix)
{
    char name[200];
    snprintf(name, sizeof name, "%.150s_%s", d->m->values[like].name ? d->m->values[like].name : "value", suffix);
    return edit_add_value(&d->edit, d->m->values[like].graph, name);
}

uint32_t deq_constant(struct deq *d, const char *name, const struct tensor *t)
{
    return edit_add_weight(&d->edit, 0, name ? name : "float", t);
}

double *deq_numbers(const struct deq *d, uint32_t value, int64_t *count)
{
    const struct tensor *t = value != VALUE_NONE ? value_const(d->m, value) : NULL;
    *count = t ? tensor_count(t) : 0;
    return t && t->data && *count > 0 ? tensor_doubles(t) : NULL;
}

struct coded coded_at(const struct deq *d, uint32_t node, int codes, int scale, int zero, int64_t axis)
{
    const struct node *n = &d->m->nodes[node];
    struct coded c = {.codes = codes < 0 ? n->output[0] : n->input[codes], .scale = n->input[scale], .axis = axis};
    c.zero = zero < n->n_input ? n->input[zero] : VALUE_NONE;
    const uint32_t typed = c.zero != VALUE_NONE ? c.zero : codes < 0 ? n->input[0] : c.codes;
    const struct tensor *t = typed != VALUE_NONE ? value_const(d->m, typed) : NULL;
    c.dtype = t ? t->dtype : typed != VALUE_NONE ? infer_dtype_of(&d->infer, typed) : DTYPE_NONE;
    return c;
}

bool deq_has_twin(const struct deq *d, uint32_t codes)
{
    return codes < d->n_values && d->twin[codes] != VALUE_NONE;
}

void deq_set_twin(struct deq *d, uint32_t codes, uint32_t twin, const struct coded *meaning)
{
    if (codes >= d->n_values)
        return;
    d->twin[codes] = twin;
    d->meaning[codes] = *meaning;
}

/* ---- saturation ---- */
static bool constant_has_negative(const struct model *m, uint32_t v)
{
    const struct tensor *t = value_const(m, v);
    for (int64_t i = 0; t->data && i < tensor_count(t); i++)
        if (!(dtype_get(t->dtype, t->data, i) >= 0))
            return true;
    return t->data == NULL;
}

static bool is_one_of(const struct node *n, const char *const *ops, size_t count)
{
    for (size_t i = 0; i < count; i++)
        if (node_is(n, ops[i]))
            return true;
    return false;
}

/* Conservative: true where it is not seen that it cannot. `budget` bounds the nodes looked at. An input of the model
 * counts as positive when nothing but movers stands between: no activation was taken out there. */
static bool may_be_negative(const struct deq *d, uint32_t v, bool first, int *budget)
{
    static const char *const positive[] = {"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt"};
    static const char *const through[] = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Concat", "ReduceMean",
                                          "Add", "Mul", "Max"};
    while (v != VALUE_NONE && (*budget)-- > 0) {
        const uint32_t p = d->m->values[v].producer;
        double lo, hi;
        if (value_const(d->m, v))
            return constant_has_negative(d->m, v);
        if (p == NODE_NONE)
            return !first;
        const struct node *n = &d->m->nodes[p];
        if (is_one_of(n, positive, sizeof positive / sizeof positive[0]))
            return false;
        if (node_is(n, "Clip"))
            return !(node_bounds(d->m, n, &lo, &hi) && lo >= 0);
        if (is_one_of(n, through, sizeof through / sizeof through[0])) {
            const int data = node_is(n, "ReduceMean") ? 1 : n->n_input; /* the rest are axes */
            bool negative = n->n_input < 1;
            for (int k = 0; k < data && k < n->n_input && !negative; k++)
                negative = may_be_negative(d, n->input[k], false, budget);
            return negative;
        }
        if (!mover_of(n) || n->n_input < 1)
            return true;
        v = n->input[0];
    }
    return true;
}

/* A Clip to [lo, hi] between v and those who read it as a twin. */
static uint32_t add_clip(struct deq *d, uint32_t v, double lo, double hi)
{
    struct tensor t[2] = {{0}, {0}};
    const uint32_t y = deq_value(d, v, "clipped"), graph = d->m->values[v].graph;
    uint32_t in[3] = {v, VALUE_NONE, VALUE_NONE};
    const bool old = d->opset < 11;
    if (d->edit.failed)
        return v;
    if (!old && tensor_from_doubles(&t[0], DTYPE_FLOAT, &SHAPE_SCALAR, &lo, NULL) == 0 &&
        tensor_from_doubles(&t[1], DTYPE_FLOAT, &SHAPE_SCALAR, &hi, NULL) == 0) {
        in[1] = deq_constant(d, "low", &t[0]);
        in[2] = deq_constant(d, "high", &t[1]);
    }
    tensor_fini(&t[0]);
    tensor_fini(&t[1]);
    const uint32_t node = edit_add_node(&d->edit, graph, "Clip", NULL, in, old ? 1 : 3, &y, 1);
    if (node != NODE_NONE && old) {
        node_set_float(d->m, node, "min", (float)lo);
        node_set_float(d->m, node, "max", (float)hi);
    }
    return y;
}

uint32_t deq_twin(struct deq *d, uint32_t codes)
{
    const struct coded *c = &d->meaning[codes];
    int64_t count = 0;
    const uint32_t v = d->twin[codes];
    if (d->clipped[codes] || d->opts->clip == CLIP_NONE || !dtype_is_integer(c->dtype))
        return v;
    d->clipped[codes] = true;
    double *scale = deq_numbers(d, c->scale, &count);
    const struct tensor *scale_tensor = scale ? value_const(d->m, c->scale) : NULL;
    if (scale && count == 1 && scale_tensor->dtype == DTYPE_FLOAT) {
        const struct tensor *z = c->zero != VALUE_NONE ? value_const(d->m, c->zero) : NULL;
        const double zero = z && z->data ? dtype_get(z->dtype, z->data, 0) : 0;
        const double low = (dtype_min(c->dtype) - zero) * scale[0], high = (dtype_max(c->dtype) - zero) * scale[0];
        const bool known = c->zero == VALUE_NONE || (z && z->data);
        int budget = 64;
        if (known && (d->opts->clip == CLIP_ALL || (low == 0 && may_be_negative(d, v, true, &budget))))
            d->twin[codes] = add_clip(d, v, low, high);
    }
    free(scale);
    return d->twin[codes];
}

/* ---- reading codes as floats ---- */
static uint32_t read_constant(struct deq *d, const struct coded *c, const char **why)
{
    struct tensor t = {0};
    for (int i = 0; i < d->n_constants; i++) {
        const struct coded *k = &d->constants[i].of;
        if (k->codes == c->codes && k->scale == c->scale && k->zero == c->zero && k->axis == c->axis &&
            k->block == c->block)
            return d->constants[i].value;
    }
    if (d->n_constants == d->cap_constants) {
        const int cap = d->cap_constants * 2 + 64;
        struct float_constant *grown = realloc(d->constants, (size_t)cap * sizeof *grown);
        if (!grown) {
            d->edit.failed = true;
            return VALUE_NONE;
        }
        d->constants = grown;
        d->cap_constants = cap;
    }
    *why = codes_to_float(d->m, c, &t);
    if (*why)
        return VALUE_NONE;
    const uint32_t id = deq_constant(d, d->m->values[c->codes].name, &t);
    tensor_fini(&t);
    d->constants[d->n_constants++] = (struct float_constant){*c, id};
    return id;
}

uint32_t deq_read(struct deq *d, const struct coded *c, const char **why)
{
    *why = NULL;
    if (c->codes == VALUE_NONE || c->scale == VALUE_NONE) {
        *why = "one of its inputs is missing";
        return VALUE_NONE;
    }
    if (value_const(d->m, c->codes))
        return read_constant(d, c, why);
    if (!deq_has_twin(d, c->codes))
        *why = "what it reads was not quantized in the model: its codes come from an input or another operator";
    else if (!coded_alike(d->m, c, &d->meaning[c->codes]))
        *why = "it reads codes by another scale than they were made with";
    return *why ? VALUE_NONE : deq_twin(d, c->codes);
}

/* ---- replacing ---- */
uint32_t deq_replace(struct deq *d, uint32_t node, const char *domain, const char *op, const uint32_t *in, int n_in,
                     uint32_t out)
{
    struct model *m = d->m;
    const uint32_t graph = m->nodes[node].graph;
    if (d->edit.failed)
        return NODE_NONE;
    edit_remove_node(&d->edit, node);
    const uint32_t id = edit_add_node(&d->edit, graph, op, m->nodes[node].name, in, n_in, &out, 1);
    if (id == NODE_NONE)
        return id;
    struct node *n = &m->nodes[id];
    const struct node *old = &m->nodes[node];
    n->attr = old->n_attr ? model_alloc(m, (size_t)old->n_attr, sizeof *n->attr) : NULL;
    if (n->attr) {
        memcpy(n->attr, old->attr, (size_t)old->n_attr * sizeof *n->attr);
        n->n_attr = old->n_attr;
    } else if (old->n_attr)
        d->edit.failed = true;
    n->domain = *domain ? domain : NULL;
    d->written = op;
    return id;
}

uint32_t deq_replace_codes(struct deq *d, uint32_t node, const char *op, const uint32_t *in, int n_in,
                           const struct coded *y)
{
    const uint32_t value = deq_value(d, y->codes, "float");
    if (d->edit.failed)
        return NODE_NONE;
    const uint32_t made = deq_replace(d, node, "", op, in, n_in, value);
    deq_set_twin(d, y->codes, value, y);
    return made;
}

/* ---- report ---- */
void deq_report_weight(struct deq *d, uint32_t node, uint32_t codes, uint32_t value)
{
    const struct tensor *was = codes != VALUE_NONE ? value_const(d->m, codes) : NULL,
                        *is = value != VALUE_NONE ? value_const(d->m, value) : NULL;
    if (!was || !is)
        return;
    struct layer_row row = {.node = node, .weight = codes, .sqnr_db = NAN};
    row.before = json_pack("{s:s,s:I}", "dtype", dtype_name(was->dtype), "bytes", (json_int_t)was->bytes);
    row.after = json_pack("{s:s,s:I}", "dtype", dtype_name(is->dtype), "bytes", (json_int_t)is->bytes);
    layer_report_add(d->layers, d->m, &row);
}

static void report_skipped(struct deq *d, uint32_t node, const char *why)
{
    struct layer_row row = {.node = node, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = why};
    layer_report_add(d->layers, d->m, &row);
}

static bool selected(const struct deq *d, uint32_t node)
{
    char label[200];
    return globs_select(&d->opts->include, &d->opts->exclude, node_label(d->m, node, label, sizeof label));
}

/* ---- pairs ---- */
static void undo_quantize(struct deq *d, uint32_t node)
{
    struct coded c;
    struct tensor t = {0};
    if (!coded_of(d->m, node, &c) || c.codes == VALUE_NONE)
        return;
    const uint32_t x = d->m->nodes[node].input[0];
    if (!value_const(d->m, x)) {
        deq_set_twin(d, c.codes, x, &c);
        return;
    }
    /* a constant: what is read is the rounded one, so the codes become constants */
    struct err err = {0};
    if (d->m->nodes[node].n_output != 1 || engine_eval_node(d->m, node, &t, &err))
        return;
    const uint32_t codes = deq_constant(d, d->m->values[x].name, &t);
    tensor_fini(&t);
    if (!d->edit.failed)
        edit_replace_reads(&d->edit, c.codes, codes);
}

/* A DequantizeLinear's readers read the float value; those not selected keep it. */
static const char *undo_dequantize(struct deq *d, uint32_t node)
{
    struct coded c;
    const char *why = NULL;
    const uint32_t y = d->m->nodes[node].output[0];
    if (y == VALUE_NONE || edit_count(&d->edit, y) == 0)
        return NULL;
    if (!coded_of(d->m, node, &c))
        return "one of its inputs is missing";
    bool any = false, weight = value_const(d->m, c.codes) != NULL;
    for (int i = 0; i < edit_readers(&d->edit, y)->count; i++) {
        const uint32_t reader = edit_readers(&d->edit, y)->at[i].node;
        any = any || selected(d, reader == NODE_NONE ? node : reader);
    }
    if (!any)
        return "not selected by include and exclude";
    const uint32_t x = deq_read(d, &c, &why);
    if (why)
        return why;
    for (int i = edit_readers(&d->edit, y)->count; i-- > 0 && !d->edit.failed;) {
        const struct reader r = edit_readers(&d->edit, y)->at[i];
        if (!selected(d, r.node == NODE_NONE ? node : r.node))
            continue;
        if (weight && r.node != NODE_NONE)
            deq_report_weight(d, r.node, c.codes, x);
        if (r.node != NODE_NONE)
            edit_set_input(&d->edit, r.node, r.slot, x);
    }
    d->pairs += !weight;
    if (edit_is_output(&d->edit, y) && selected(d, node)) {
        /* the output keeps its name: made from the float value, joined with what makes that at the end */
        const uint32_t graph = d->m->values[y].graph;
        edit_remove_node(&d->edit, node);
        edit_add_node(&d->edit, graph, "Identity", NULL, &x, 1, &y, 1);
    }
    return NULL;
}

static void undo_node(struct deq *d, uint32_t id)
{
    const struct node *n = &d->m->nodes[id];
    const char *why = NULL;
    char label[200];
    if (!edit_node_is_live(&d->edit, id))
        return;
    if (is_quantize(n)) {
        undo_quantize(d, id);
        return;
    }
    if (is_dequantize(n)) {
        why = undo_dequantize(d, id);
        if (why)
            report_skipped(d, id, why);
        return;
    }
    const struct undo *undo = undo_of(n);
    const char *was = n->op_type;
    node_label(d->m, id, label, sizeof label);
    d->written = NULL;
    if (undo && (n->n_output < 1 || n->output[0] == VALUE_NONE))
        why = "its output is missing";
    else if (undo && !selected(d, id))
        why = "not selected by include and exclude";
    else if (undo)
        why = undo->undo(d, id);
    else if (!undo_on_codes(d, id, &why))
        return;
    if (why)
        report_skipped(d, id, why);
    else if (d->written) {
        struct layer_row row = {.node = NODE_NONE, .label = label, .weight = VALUE_NONE, .sqnr_db = NAN};
        row.before = json_pack("{s:s}", "operator", was);
        row.after = json_pack("{s:s}", "operator", d->written);
        layer_report_add(d->layers, d->m, &row);
    }
}

/* ---- the end ---- */
/* Nodes nobody reads any more: pairs, scales, casts. */
static void sweep(struct deq *d)
{
    for (bool again = true; again;) {
        again = false;
        for (uint32_t id = d->m->n_nodes; id-- > 0;) {
            const struct node *n = &d->m->nodes[id];
            bool used = !edit_node_is_live(&d->edit, id);
            for (int i = 0; !used && i < n->n_output; i++)
                used = n->output[i] != VALUE_NONE && edit_count(&d->edit, n->output[i]) > 0;
            if (used)
                continue;
            edit_remove_node(&d->edit, id);
            again = true;
        }
    }
}

/* Codes whose maker was undone, but which are read. */
static void make_codes(struct deq *d)
{
    for (uint32_t v = 0; v < d->n_values && !d->edit.failed; v++) {
        if (!deq_has_twin(d, v) || d->m->values[v].producer != NODE_NONE || edit_count(&d->edit, v) == 0)
            continue;
        const struct coded *c = &d->meaning[v];
        const uint32_t in[3] = {d->twin[v], c->scale, c->zero};
        edit_add_node(&d->edit, d->m->values[v].graph, "QuantizeLinear", NULL, in, c->zero == VALUE_NONE ? 2 : 3, &v,
                      1);
    }
}

static void join_outputs(struct deq *d, uint32_t first)
{
    for (uint32_t id = first; id < d->m->n_nodes; id++)
        if (edit_node_is_live(&d->edit, id) && node_is(&d->m->nodes[id], "Identity"))
            edit_bypass(&d->edit, id, d->m->nodes[id].input[0], d->m->nodes[id].output[0]);
}

static int undo_graph(struct deq *d, uint32_t g, struct err *err)
{
    const int n = d->m->graphs[g].n_nodes;
    uint32_t *order = calloc(n ? (size_t)n : 1, sizeof *order);
    int rc = -1;
    if (!order)
        return err_set(err, ERR_NOMEM, "out of memory while dequantizing");
    if (model_toposort(d->m, g, order, err) == 0) {
        for (int i = 0; i < n; i++)
            undo_node(d, order[i]);
        rc = 0;
    }
    free(order);
    return rc;
}

static int undo_all(struct deq *d, struct err *err)
{
    const uint32_t n_graphs = d->m->n_graphs, n_nodes = d->m->n_nodes;
    for (uint32_t g = 0; g < n_graphs; g++)
        if (d->edit.state[g] == EDIT_LIVE && undo_graph(d, g, err))
            return -1;
    make_codes(d);
    sweep(d);
    join_outputs(d, n_nodes);
    if (d->pairs) {
        struct layer_row row = {.node = NODE_NONE, .label = "graph", .weight = VALUE_NONE, .sqnr_db = NAN};
        row.after = json_pack("{s:i}", "activation_pairs_removed", d->pairs);
        layer_report_add(d->layers, d->m, &row);
    }
    return edit_finish(&d->edit, err);
}

static int start(struct deq *d, struct err *err)
{
    const size_t n = d->m->n_values ? d->m->n_values : 1;
    d->n_values = d->m->n_values;
    d->twin = malloc(n * sizeof *d->twin);
    d->meaning = calloc(n, sizeof *d->meaning);
    d->clipped = calloc(n, sizeof *d->clipped);
    if (!d->twin || !d->meaning || !d->clipped)
        return err_set(err, ERR_NOMEM, "out of memory while dequantizing");
    for (size_t v = 0; v < n; v++)
        d->twin[v] = VALUE_NONE;
    return edit_init(&d->edit, d->m, err) || infer_run(&d->infer, d->m, err) ? -1 : 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct deq d = {.opts = c->params, .m = c->model, .layers = c->layers, .opset = model_opset(c->model, "")};
    const bool was = quantized_node(c->model) != NODE_NONE;
    char label[200];
    int rc = start(&d, err);
    if (rc == 0)
        rc = undo_all(&d, err);
    free(d.twin);
    free(d.meaning);
    free(d.clipped);
    free(d.constants);
    infer_fini(&d.infer);
    edit_fini(&d.edit);
    const uint32_t left = rc == 0 ? quantized_node(c->model) : NODE_NONE;
    if (rc == 0 && !was)
        warnings_add(c->warnings, "the model is not quantized: there is nothing to undo");
    else if (left != NODE_NONE)
        warnings_add(c->warnings, "parts of the model stay quantized, the first is node '%s' (%s): the rows say why",
                     node_label(c->model, left, label, sizeof label), c->model->nodes[left].op_type);
    return rc;
}

METHOD(quantize_dequantize) = {
    .name = "quantize.dequantize",
    .summary = "a quantized model in floating point again",
    .doc = "QuantizeLinear / DequantizeLinear pairs, QLinear operators, dynamic quantization, MatMulNBits and other "
           "weight-only forms become the float operators they stand for; weights are the numbers their codes mean. The "
           "result computes what the quantized model did but for the rounding of activations, and can be pruned, tuned "
           "and quantized anew. What cannot be undone stays, with the reason.",
    .params = params,
    .params_size = sizeof(struct quantize_dequantize_params),
    .needs = NEEDS_NOTHING,
    .run = run,
};
