/* SPDX-License-Identifier: Apache-2.0
 * train_parameters.c - see train_parameters.h. Two walks over the nodes: weights and biases of products first, because
 * a product says more of a constant than the Transpose that happens to read it; then whatever else passes a gradient.
 * */
#include "core/train/train_parameters.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/edit.h"
#include "core/passes/weights.h"
#include "core/train/trainer.h"

#define HUGE_NUMBER 1e4 /* what masks are made of; nothing that is learned is as large */

struct finder {
    const struct model *m;
    const struct train_parameters_opts *o;
    struct train_parameters *out;
    bool *seen; /* [n_values] listed already */
};

static bool passes_gradient(const struct op_class *op, int slot)
{
    return op && op->backward && op->grad_inputs >> (slot < 31 ? slot : 31) & 1u;
}

static bool is_norm_scale(const struct node *n, int slot)
{
    return slot > 0 && (strstr(n->op_type, "Normalization") || node_is(n, "PRelu"));
}

static bool is_huge(const struct tensor *t)
{
    double most = 0;
    const int64_t n = tensor_count(t);
    for (int64_t i = 0; i < n; i++) {
        const double v = fabs(t->dtype == DTYPE_FLOAT ? (double)tensor_f32(t)[i] : ((const double *)t->data)[i]);
        most = v > most || isnan(v) ? v : most;
    }
    return !(most < HUGE_NUMBER);
}

/* NULL: it can be trained. */
static const char *why_not(const struct model *m, uint32_t value)
{
    const struct weight *w = m->values[value].weight;
    if (w->opaque.len)
        return "its weight is stored in a way this version does not know";
    if (w->tensor.dtype != DTYPE_FLOAT && w->tensor.dtype != DTYPE_DOUBLE)
        return dtype_is_float(w->tensor.dtype) ? "its weight is of a short floating-point type; float32 can be trained"
                                               : "its weight is not floating-point";
    if (tensor_count(&w->tensor) == 0)
        return "its weight is empty";
    return w->tensor.data ? NULL : "its weight's external data file is missing";
}

static void list_skipped(struct finder *f, uint32_t value, uint32_t node, const char *why)
{
    f->out->skipped[f->out->n_skipped++] = (struct train_skipped){value, node, why};
}

/* One constant that could be learned: into the list, or why it is not. */
static void consider(struct finder *f, const struct train_parameter *p, const char *why)
{
    const struct globs all = {0};
    const struct train_parameters_opts *o = f->o;
    char buf[256];
    if (f->seen[p->value])
        return;
    f->seen[p->value] = true;
    const char *fault = why_not(f->m, p->value);
    if (!why)
        why = fault;
    const char *label = node_label(f->m, p->node, buf, sizeof buf);
    if (!why && !globs_select(o->include ? o->include : &all, o->exclude ? o->exclude : &all, label))
        why = "not selected by include and exclude";
    if (!fault && o->hooks && o->hooks->is_parameter) {
        const bool wanted = o->hooks->is_parameter(o->hooks, p->value, !why);
        why = wanted ? NULL : why ? why : "the method keeps it as it is";
    }
    if (why)
        list_skipped(f, p->value, p->node, why);
    else
        f->out->at[f->out->n++] = *p;
}

static int output_axis(const struct model *m, uint32_t node, const struct op_class *op, int rank)
{
    int axis = op->quant.channel_axis_of ? rank - 1 : op->quant.channel_axis;
    if (node_is(&m->nodes[node], "Gemm"))
        axis = node_attr_int(&m->nodes[node], "transB", 0) ? 0 : 1;
    return axis >= 0 && axis < rank ? axis : 0;
}

/* Through a Transpose the axis lies elsewhere in the stored tensor. */
static int stored_axis(const struct model *m, uint32_t value, int axis, int rank)
{
    for (int depth = 0; depth < 64 && !m->values[value].weight && m->values[value].producer != NODE_NONE; depth++) {
        const struct node *n = &m->nodes[m->values[value].producer];
        const struct attr *perm = node_is(n, "Transpose") ? node_attr(n, "perm") : NULL;
        if (node_is(n, "Transpose"))
            axis = perm && perm->type == ATTR_INTS && perm->count == rank ? (int)perm->ints[axis] : rank - 1 - axis;
        if (axis < 0 || axis >= rank || n->n_input < 1)
            return 0;
        value = n->input[0];
    }
    return axis;
}

static void find_products(struct finder *f, uint32_t node)
{
    const struct model *m = f->m;
    const struct node *n = &m->nodes[node];
    const struct op_class *op = node_class(m, n);
    struct weight_ref ref;
    const char *why = NULL;
    if (!product_weight(m, node, &ref, &why))
        return;
    if (ref.value == VALUE_NONE) {
        list_skipped(f, VALUE_NONE, node, why);
    } else if (m->values[ref.value].weight) {
        struct train_parameter p = {ref.value, node, .learned = true, .weight = true};
        const int rank = ref.tensor->shape.rank;
        p.axis = ref.slot == 0 ? stored_axis(m, n->input[0], rank > 1 ? rank - 2 : 0, rank)
                               : stored_axis(m, n->input[ref.slot], output_axis(m, node, op, rank), rank);
        consider(f, &p, passes_gradient(op, ref.slot) ? why : "its operator has no gradient for its weight");
    }
    const int bias = op->quant.bias;
    const uint32_t b =
        bias > 0 && bias < n->n_input && n->input[bias] != VALUE_NONE ? weight_source(m, n->input[bias]) : VALUE_NONE;
    if (b != VALUE_NONE && m->values[b].weight && dtype_is_float(m->values[b].weight->tensor.dtype) &&
        passes_gradient(op, bias))
        consider(f, &(struct train_parameter){b, node, .learned = true}, NULL);
}

static void find_others(struct finder *f, uint32_t node)
{
    const struct model *m = f->m;
    const struct node *n = &m->nodes[node];
    const struct op_class *op = node_class(m, n);
    for (int i = 0; i < n->n_input; i++) {
        const uint32_t v = n->input[i];
        if (v == VALUE_NONE || !m->values[v].weight || f->seen[v] || !passes_gradient(op, i) ||
            !dtype_is_float(m->values[v].weight->tensor.dtype))
            continue;
        const struct tensor *t = &m->values[v].weight->tensor;
        const bool scale = is_norm_scale(n, i);
        const char *why = NULL;
        if (!why_not(m, v) && !scale && tensor_count(t) == 1)
            why = "a single number that is no weight";
        else if (!why_not(m, v) && !scale && is_huge(t))
            why = "its numbers are as large as those of a mask";
        consider(
            f,
            &(struct train_parameter){v, node, .learned = true, .bn_scale = node_is(n, "BatchNormalization") && i == 1},
            why);
    }
}

/* What the hooks want beside: constants that no rule above looks at. */
static void find_wanted(struct finder *f)
{
    const struct graph *g = model_main(f->m);
    for (int k = 0; k < g->n_nodes && f->o->hooks && f->o->hooks->is_parameter; k++) {
        const struct node *n = &f->m->nodes[g->nodes[k]];
        for (int i = 0; i < n->n_input; i++) {
            const uint32_t v = n->input[i];
            if (v == VALUE_NONE || !f->m->values[v].weight || f->seen[v] || why_not(f->m, v))
                continue;
            f->seen[v] = true;
            if (f->o->hooks->is_parameter(f->o->hooks, v, false))
                f->out->at[f->out->n++] = (struct train_parameter){v, g->nodes[k], .learned = true};
        }
    }
}

static void find_running(struct finder *f, uint32_t node)
{
    const struct node *n = &f->m->nodes[node];
    if (!node_is(n, "BatchNormalization") || n->n_input != 5)
        return;
    for (int i = 3; i < 5; i++) {
        const uint32_t v = n->input[i];
        bool listed = v == VALUE_NONE || !f->m->values[v].weight || why_not(f->m, v);
        for (int k = 0; !listed && k < f->out->n; k++)
            listed = f->out->at[k].value == v;
        if (!listed)
            f->out->at[f->out->n++] = (struct train_parameter){v, node, .learned = false};
    }
}

int train_parameters_find(struct train_parameters *out, const struct model *m, const struct train_parameters_opts *opts,
                          struct err *err)
{
    const struct graph *g = model_main(m);
    struct finder f = {.m = m, .o = opts, .out = out, .seen = calloc((size_t)m->n_values + 1, sizeof *f.seen)};
    *out = (struct train_parameters){0};
    out->at = calloc((size_t)m->n_values + 1, sizeof *out->at);
    out->skipped = calloc((size_t)m->n_values + (size_t)g->n_nodes + 1, sizeof *out->skipped);
    if (!f.seen || !out->at || !out->skipped) {
        free(f.seen);
        train_parameters_fini(out);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    for (int i = 0; i < g->n_nodes; i++)
        find_products(&f, g->nodes[i]);
    for (int i = 0; i < g->n_nodes; i++)
        find_others(&f, g->nodes[i]);
    find_wanted(&f);
    out->n_learned = out->n;
    for (int i = 0; i < g->n_nodes && opts->running; i++)
        find_running(&f, g->nodes[i]);
    free(f.seen);
    return 0;
}

void train_parameters_fini(struct train_parameters *p)
{
    free(p->at);
    free(p->skipped);
    *p = (struct train_parameters){0};
}

/* ---- constants in nodes ---- */
static bool reads_parameter(const struct edit *e, const struct reader *r, const struct tensor *t)
{
    if (r->node == NODE_NONE || r->graph != 0)
        return false;
    const struct node *n = &e->m->nodes[r->node];
    const struct op_class *op = node_class(e->m, n);
    if (node_is(n, "BatchNormalization"))
        return r->slot > 0;
    return passes_gradient(op, r->slot) &&
           (tensor_count(t) > 1 || is_norm_scale(n, r->slot) || (op && op->quant.kind == QUANT_COMPUTE));
}

int train_parameters_prepare(struct model *m, struct err *err)
{
    struct edit e;
    const uint32_t n = m->n_nodes;
    bool changed = false;
    int rc = 0;
    if (edit_init(&e, m, err))
        return -1;
    for (uint32_t i = 0; i < n; i++) {
        if (!edit_node_is_live(&e, i) || m->nodes[i].graph != 0 || !node_is(&m->nodes[i], "Constant") ||
            m->nodes[i].n_output != 1)
            continue;
        const uint32_t v = m->nodes[i].output[0];
        const struct tensor *t = v == VALUE_NONE ? NULL : value_const(m, v);
        bool wanted = false;
        if (!t || (t->dtype != DTYPE_FLOAT && t->dtype != DTYPE_DOUBLE) || !t->data || edit_is_output(&e, v))
            continue;
        const struct reader_list *readers = edit_readers(&e, v);
        for (int k = 0; k < readers->count; k++)
            wanted = wanted || reads_parameter(&e, &readers->at[k], t);
        if (!wanted)
            continue;
        const uint32_t w = edit_add_weight(&e, 0, m->values[v].name, t);
        if (w == VALUE_NONE)
            break;
        value_move_notes(m, v, w);
        edit_replace_reads(&e, v, w);
        edit_remove_node(&e, i);
        changed = true;
    }
    if (changed || e.failed)
        rc = edit_finish(&e, err);
    edit_fini(&e);
    return rc;
}
