/* SPDX-License-Identifier: Apache-2.0
 * Resolving a model: every graph's nodes in topological order, each with the row of its operator at its opset and
 * its attributes
 * parsed. What is missing is gathered over the whole model, nested graphs and function bodies included, so that a
 * person
 * sees the whole list at once and not one operator a try. */
#include "core/engine/plan.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/optimize.h"

enum { MAX_MISSING = 256 };
#define DEFAULT_MEMORY ((size_t)16 << 30)

void plan_wrap(const struct model *m, uint32_t node, struct err *err)
{
    char label[200];
    err_wrap(err, "node '%s' (%s): ", node_label(m, node, label, sizeof label), m->nodes[node].op_type);
}

const struct function *plan_function(const struct model *m, const struct node *node)
{
    const char *overload = node->overload ? node->overload : "";
    for (int i = 0; i < m->n_functions; i++) {
        const struct function *f = &m->functions[i];
        const char *a = model_domain_is_default(f->domain) ? "" : f->domain;
        const char *b = model_domain_is_default(node->domain) ? "" : node->domain;
        if (!strcmp(a, b) && !strcmp(f->name ? f->name : "", node->op_type) &&
            !strcmp(f->overload ? f->overload : "", overload))
            return f;
    }
    return NULL;
}

/* Files older than opset_import (IR below 3) speak opset 1. */
static int64_t model_opset_or_1(const struct model *m, const char *domain)
{
    int64_t opset = model_opset(m, domain);
    return opset > 0 ? opset : 1;
}

static int64_t function_opset(const struct function *f, const char *domain)
{
    for (int i = 0; i < f->n_opsets; i++) {
        const char *d = f->opsets[i].domain;
        if (model_domain_is_default(domain) ? model_domain_is_default(d) : d && !strcmp(d, domain))
            return f->opsets[i].version;
    }
    return 0;
}

static const struct function *function_of_graph(const struct model *m, uint32_t graph)
{
    while (graph != GRAPH_NONE && graph != 0) {
        for (int i = 0; i < m->n_functions; i++)
            if (m->functions[i].body == graph)
                return &m->functions[i];
        graph = m->graphs[graph].parent;
    }
    return NULL;
}

static bool graph_is_dead(const struct model *m, uint32_t graph)
{
    for (; graph != 0; graph = m->graphs[graph].parent) {
        uint32_t holder = m->graphs[graph].parent_node;
        if (m->graphs[graph].parent == GRAPH_NONE)
            return !function_of_graph(m, graph);
        if (holder != NODE_NONE && !m->nodes[holder].op_type)
            return true;
    }
    return false;
}

static int note_missing(struct missing_ops *list, const struct node *node, int64_t opset, struct err *err)
{
    const char *domain = model_domain_is_default(node->domain) ? "ai.onnx" : node->domain;
    for (int i = 0; i < list->count; i++)
        if (!strcmp(list->at[i].type, node->op_type) && !strcmp(list->at[i].domain, domain) &&
            list->at[i].opset == opset) {
            list->at[i].count++;
            return 0;
        }
    if (!list->at && !(list->at = calloc(MAX_MISSING, sizeof *list->at)))
        return err_set(err, ERR_NOMEM, "out of memory");
    if (list->count < MAX_MISSING)
        list->at[list->count++] = (struct missing_op){node->op_type, domain, opset, 1};
    return 0;
}

/* A step that trains put it in: a note cannot come from a file. */
static bool trained(const struct model *m, const struct node *node)
{
    return node->n_output > 0 && node->output[0] != VALUE_NONE && value_note(m, node->output[0], "training");
}

int engine_missing_ops(const struct model *m, struct missing_ops *out, struct err *err)
{
    *out = (struct missing_ops){0};
    for (uint32_t g = 0; g < m->n_graphs; g++) {
        if (graph_is_dead(m, g))
            continue;
        const struct function *inside = function_of_graph(m, g);
        for (int i = 0; i < m->graphs[g].n_nodes; i++) {
            const struct node *node = &m->nodes[m->graphs[g].nodes[i]];
            if (!node->op_type || plan_function(m, node))
                continue;
            int64_t opset = inside ? function_opset(inside, node->domain) : model_opset_or_1(m, node->domain);
            bool beyond = model_domain_is_default(node->domain) && opset > OP_OPSET_NEWEST;
            const struct op_class *op = op_find(node->op_type, node->domain ? node->domain : "", opset);
            if ((beyond || !op || (op->internal && !trained(m, node))) && note_missing(out, node, opset, err)) {
                missing_ops_fini(out);
                return -1;
            }
        }
    }
    return 0;
}

void missing_ops_fini(struct missing_ops *list)
{
    free(list->at);
    *list = (struct missing_ops){0};
}

const char *missing_op_text(const struct missing_op *op, char *text, size_t size)
{
    snprintf(text, size, "%s (%s, opset %" PRId64 ") x%" PRId64, op->type, op->domain, op->opset, op->count);
    return text;
}

const char *missing_ops_text(const struct missing_ops *list, char *text, size_t size)
{
    size_t n = 0;
    if (size)
        text[0] = 0;
    for (int i = 0; i < list->count && n + 2 < size; i++) {
        if (i)
            n += (size_t)snprintf(text + n, size - n, ", ");
        if (n < size)
            n += strlen(missing_op_text(&list->at[i], text + n, size - n));
    }
    return text;
}

static int check_missing(const struct model *m, struct err *err)
{
    char text[800], newest[60] = "";
    struct missing_ops list;
    if (engine_missing_ops(m, &list, err))
        return -1;
    const int kinds = list.count;
    missing_ops_text(&list, text, sizeof text);
    missing_ops_fini(&list);
    if (model_opset(m, "") > OP_OPSET_NEWEST)
        snprintf(newest, sizeof newest, "; the newest opset known here is %d", OP_OPSET_NEWEST);
    return kinds == 0 ? 0
                      : err_set(err, ERR_OPERATOR, "cannot run this model: %d operator%s missing: %s%s", kinds,
                                kinds == 1 ? " is" : "s are", text, newest);
}

int plan_node_opset(const struct plan *plan, uint32_t node)
{
    int64_t opset = plan->inlined_opset ? plan->inlined_opset[node] : 0;
    if (!opset)
        opset = model_opset_or_1(plan->m, plan->m->nodes[node].domain);
    return opset > INT32_MAX ? INT32_MAX : (int)opset;
}

static int check_io_count(const char *what, int n, int min, int max, struct err *err)
{
    if (n >= min && (max < 0 || n <= max) && n <= PLAN_MAX_IO)
        return 0;
    if (max < 0 || max == INT32_MAX)
        return err_set(err, ERR_MODEL, "has %d %s, needs at least %d", n, what, min);
    return err_set(err, ERR_MODEL, "has %d %s, takes %d to %d", n, what, min, max);
}

static bool node_has_graphs(const struct node *node)
{
    for (int i = 0; i < node->n_attr; i++)
        if (node->attr[i].type == ATTR_GRAPH || node->attr[i].type == ATTR_GRAPHS)
            return true;
    return false;
}

static int resolve_step(struct plan *plan, uint32_t id, struct plan_step *step, struct err *err)
{
    const struct node *node = &plan->m->nodes[id];
    *step = (struct plan_step){.node = id, .opset = plan_node_opset(plan, id), .nested = node_has_graphs(node)};
    step->op = op_find(node->op_type, node->domain ? node->domain : "", step->opset);
    if (!step->op)
        return err_set(err, ERR_OPERATOR, "operator is not known at opset %d", step->opset);
    int n_in = node->n_input;
    while (n_in > 0 && node->input[n_in - 1] == VALUE_NONE)
        n_in--;
    if (check_io_count("inputs", n_in, step->op->in_min, step->op->in_max, err) ||
        check_io_count("outputs", node->n_output, step->op->out_min, step->op->out_max, err))
        return -1;
    step->attrs = arena_alloc(plan->arena, step->op->attrs_size ? step->op->attrs_size : 1);
    if (!step->attrs)
        return err_set(err, ERR_NOMEM, "out of memory");
    return op_parse_attrs(step->op, plan->m, node, step->attrs, plan->arena, err);
}

static int resolve_graph(struct plan *plan, uint32_t graph, struct err *err)
{
    const struct graph *g = &plan->m->graphs[graph];
    struct plan_graph *out = &plan->graph[graph];
    size_t n = (size_t)g->n_nodes;
    uint32_t *order = arena_calloc(plan->arena, n + 1, sizeof *order);
    out->steps = arena_calloc(plan->arena, n + 1, sizeof *out->steps);
    if (!order || !out->steps)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (model_toposort(plan->m, graph, order, err))
        return -1;
    for (size_t i = 0; i < n; i++) {
        if (!plan->m->nodes[order[i]].op_type)
            continue;
        if (resolve_step(plan, order[i], &out->steps[out->n_steps], err)) {
            plan_wrap(plan->m, order[i], err);
            return -1;
        }
        out->n_steps++;
    }
    out->resolved = true;
    return 0;
}

static int resolve_graphs(struct plan *plan, struct err *err)
{
    for (uint32_t g = 0; g < plan->m->n_graphs; g++)
        if (!graph_is_dead(plan->m, g) && !function_of_graph(plan->m, g) && resolve_graph(plan, g, err))
            return -1;
    return 0;
}

static int collect_io(struct plan *plan, struct err *err)
{
    const struct graph *g = model_main(plan->m);
    plan->input = arena_calloc(plan->arena, (size_t)g->n_inputs + 1, sizeof *plan->input);
    plan->output = arena_calloc(plan->arena, (size_t)g->n_outputs + 1, sizeof *plan->output);
    plan->bound_shape = arena_calloc(plan->arena, (size_t)g->n_inputs + 1, sizeof *plan->bound_shape);
    if (!plan->input || !plan->output || !plan->bound_shape)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < g->n_inputs; i++)
        if (!plan->m->values[g->inputs[i].value].weight)
            plan->input[plan->n_input++] = g->inputs[i].value;
    for (int i = 0; i < g->n_outputs; i++)
        plan->output[plan->n_output++] = g->outputs[i].value;
    if (!plan->n_output)
        return err_set(err, ERR_MODEL, "the graph has no outputs");
    return 0;
}

static bool index_steps(struct plan *plan)
{
    const struct plan_graph *g = &plan->graph[0];
    plan->step_of = malloc((plan->m->n_nodes + (size_t)1) * sizeof *plan->step_of);
    for (uint32_t n = 0; plan->step_of && n < plan->m->n_nodes; n++)
        plan->step_of[n] = -1;
    for (int s = 0; plan->step_of && s < g->n_steps; s++)
        plan->step_of[g->steps[s].node] = s;
    return plan->step_of != NULL;
}

static int collect_weights(struct plan *plan, struct err *err)
{
    size_t n = plan->m->n_values + (size_t)1;
    plan->type = calloc(n, sizeof *plan->type);
    plan->known = calloc(n, sizeof *plan->known);
    plan->known_always = calloc(n, sizeof *plan->known_always);
    plan->slot = calloc(n, sizeof *plan->slot);
    plan->offset = calloc(n, sizeof *plan->offset);
    plan->last = calloc(n, sizeof *plan->last);
    plan->die = calloc(n, sizeof *plan->die);
    size_t steps = (size_t)plan->graph[0].n_steps;
    plan->die_first = calloc(steps + 2, sizeof *plan->die_first);
    plan->macs = calloc(steps + 1, sizeof *plan->macs);
    plan->sizes = calloc(n, sizeof *plan->sizes);
    plan->run = calloc(steps + 1, sizeof *plan->run);
    plan->home = calloc(n, sizeof *plan->home);
    plan->loose = calloc(n, sizeof *plan->loose);
    if (!plan->type || !plan->known || !plan->known_always || !plan->slot || !plan->offset || !plan->last ||
        !plan->die || !plan->die_first || !plan->macs || !plan->run || !plan->sizes || !plan->home ||
        !plan->loose || !index_steps(plan))
        return err_set(err, ERR_NOMEM, "out of memory");
    for (uint32_t v = 0; v < plan->m->n_values; v++) {
        const struct weight *w = plan->m->values[v].weight;
        if (!w || !plan->m->values[v].name)
            continue;
        if (w->tensor.bytes && !w->tensor.data)
            return err_set(err, ERR_MODEL, "weight '%s' is in an external file that is not there",
                           plan->m->values[v].name);
        tensor_ref(&plan->known[v], &w->tensor);
        plan->known_always[v] = true;
    }
    return 0;
}

/* A plan of the model in `plan->m` (the caller's, or already plan->own). */
static int resolve(struct plan *plan, struct err *err)
{
    plan->host.model = plan->m;
    plan->graph = arena_calloc(plan->arena, plan->m->n_graphs + (size_t)1, sizeof *plan->graph);
    if (!plan->graph)
        return err_set(err, ERR_NOMEM, "out of memory");
    return resolve_graphs(plan, err) || collect_io(plan, err) || collect_weights(plan, err) ? -1 : 0;
}

static struct plan *plan_empty(const struct model *m, const struct plan_opts *opts, struct err *err)
{
    struct plan *plan = calloc(1, sizeof *plan);
    struct arena *arena = plan ? arena_new() : NULL;
    if (!arena) {
        free(plan);
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    plan->m = m;
    plan->arena = arena;
    plan->pool = opts ? opts->pool : NULL;
    plan->limit = opts && opts->max_memory_bytes ? opts->max_memory_bytes : DEFAULT_MEMORY;
    plan->host = (struct plan_host){.plan = plan, .model = m, .pool = plan->pool, .limit = plan->limit};
    return plan;
}

/* Opsets of the nodes of a rewritten clone: those that passes added speak the model's. */
static int copy_opsets(struct plan *to, const struct plan *from, struct err *err)
{
    if (!from->inlined_opset)
        return 0;
    int *opset = calloc(to->m->n_nodes + (size_t)1, sizeof *opset);
    if (!opset)
        return err_set(err, ERR_NOMEM, "out of memory");
    memcpy(opset, from->inlined_opset, from->m->n_nodes * sizeof *opset);
    to->inlined_opset = opset;
    return 0;
}

/* The caller's weights that the copy has in another form: their pages of the file are not looked at again. */
static void release_replaced(const struct model *m, const struct model *own)
{
    for (uint32_t v = 0; v < m->n_values && v < own->n_values; v++)
        if (m->values[v].weight && !own->values[v].weight)
            tensor_release_pages(&m->values[v].weight->tensor);
}

/* The caller's list for the model with its functions inlined, where values were added behind. */
static bool *watch_all(const struct plan *plain, const bool *watch, uint32_t n)
{
    bool *all = calloc(plain->m->n_values + (size_t)1, sizeof *all);
    if (all)
        memcpy(all, watch, n * sizeof *all);
    return all;
}

/* What the plan must compute for observers: watched values, or their stand-ins. */
static int copy_watch(struct plan *plan, const bool *watch, uint32_t n, struct err *err)
{
    if (!watch)
        return 0;
    plan->watch = calloc(plan->m->n_values + (size_t)1, sizeof *plan->watch);
    if (!plan->watch)
        return err_set(err, ERR_NOMEM, "out of memory");
    memcpy(plan->watch, watch, n * sizeof *watch);
    for (uint32_t i = 0; i < plan->n_stand_in; i++)
        plan->watch[plan->stand_in[i].twin] = true;
    return 0;
}

/* A plan of a rewritten copy in place of `plain`; `plain` itself when there is nothing to rewrite. A model whose types
 * cannot be inferred yet runs as it is, and the run says what is wrong. What inference knows with the declared shapes
 * holds for every run: inputs of other shapes are refused. */
static struct plan *optimized(struct plan *plain, const struct plan_opts *opts, uint32_t n_values, struct err *err)
{
    const struct type *types;
    struct err ignored = {0};
    if (plan_infer(plain, NULL, &types, &ignored)) {
        plan_unbind(plain);
        return plain;
    }
    const struct optimize_opts how = {types, plain->known,
                                      opts->watch ? watch_all(plain, opts->watch, n_values) : NULL};
    struct optimized done = {0};
    int rc = opts->watch && !how.watch ? err_set(err, ERR_NOMEM, "out of memory")
                                       : plan_optimize(plain->m, &how, &done, err);
    plan_unbind(plain);
    if (!rc && !done.m) {
        free((void *)how.watch);
        return plain;
    }
    struct plan *plan = rc ? NULL : plan_empty(done.m, opts, err);
    if (!plan) {
        free((void *)how.watch);
        free(done.stand_in);
        model_free(done.m);
        plan_free(plain);
        return NULL;
    }
    plan->own = done.m;
    plan->packed_bytes = done.packed_bytes;
    plan->stand_in = done.stand_in;
    plan->n_stand_in = done.n_stand_in;
    if (copy_opsets(plan, plain, err) || copy_watch(plan, how.watch, plain->m->n_values, err) || resolve(plan, err)) {
        plan_free(plan);
        plan = NULL;
    } else {
        release_replaced(plain->m, done.m);
    }
    free((void *)how.watch);
    plan_free(plain);
    return plan;
}

bool model_streams(const struct model *m)
{
    const size_t large = (size_t)512 << 20;
    size_t sum = 0;
    for (uint32_t v = 0; v < m->n_values && sum <= large; v++)
        if (m->values[v].weight)
            sum += m->values[v].weight->tensor.bytes;
    return sum > large;
}

struct plan *plan_new(const struct model *m, const struct plan_opts *opts, struct err *err)
{
    struct plan *plan = plan_empty(m, opts, err);
    int *opset = NULL;
    if (!plan)
        return NULL;
    if (check_missing(m, err) || plan_inline_functions(m, &plan->own, &opset, err))
        goto fail;
    plan->inlined_opset = opset;
    if (plan->own)
        plan->m = plan->own;
    if (resolve(plan, err))
        goto fail;
    plan->streams = (opts && opts->stream) || model_streams(plan->m);
    return opts && opts->optimize && !plan->streams ? optimized(plan, opts, m->n_values, err) : plan;
fail:
    plan_free(plan);
    return NULL;
}

static void free_tensors(struct tensor *t, uint32_t n)
{
    for (uint32_t i = 0; t && i < n; i++)
        tensor_fini(&t[i]);
    free(t);
}

void plan_free(struct plan *plan)
{
    if (!plan)
        return;
    free_tensors(plan->known, plan->m->n_values);
    free_tensors(plan->slot, plan->m->n_values);
    free(plan->type);
    free(plan->known_always);
    free(plan->offset);
    free(plan->last);
    free(plan->die);
    free(plan->die_first);
    free(plan->macs);
    free(plan->step_of);
    free(plan->run);
    free(plan->sizes);
    symbols_free(plan->symbols);
    free(plan->home);
    free(plan->loose);
    free(plan->watch);
    free(plan->stand_in);
    free(plan->slab);
    free((void *)plan->inlined_opset);
    plan_host_fini(&plan->host);
    arena_free(plan->run_arena);
    arena_free(plan->bind_arena);
    arena_free(plan->arena);
    model_free(plan->own);
    free(plan);
}

const struct model *plan_model(const struct plan *plan)
{
    return plan->m;
}

int plan_n_inputs(const struct plan *plan)
{
    return plan->n_input;
}

uint32_t plan_input(const struct plan *plan, int i)
{
    return plan->input[i];
}

int plan_n_outputs(const struct plan *plan)
{
    return plan->n_output;
}

uint32_t plan_output(const struct plan *plan, int i)
{
    return plan->output[i];
}

size_t plan_packed_bytes(const struct plan *plan)
{
    return plan->packed_bytes;
}

size_t plan_slab_bytes(const struct plan *plan)
{
    return plan->slab_bytes;
}

size_t plan_slab_lower_bound(const struct plan *plan)
{
    return plan->slab_lower;
}

int64_t plan_macs(const struct plan *plan, uint32_t node)
{
    const struct plan_graph *g = &plan->graph[0];
    int64_t sum = 0;
    if (node != NODE_NONE)
        return node < plan->m->n_nodes && plan->step_of[node] >= 0 ? plan->macs[plan->step_of[node]] : -1;
    for (int i = 0; i < g->n_steps; i++)
        if (plan->macs[i] < 0 || !i64_add(sum, plan->macs[i], &sum))
            return -1;
    return sum;
}

void plan_input_shape(const struct plan *plan, int i, int64_t batch, int64_t other, struct shape *out)
{
    const struct graph *g = model_main(plan->m);
    *out = SHAPE_SCALAR;
    for (int k = 0; k < g->n_inputs; k++) {
        const struct type *t = &g->inputs[k].type;
        if (g->inputs[k].value != plan->input[i] || !g->inputs[k].has_type || !t->has_shape || t->shape.rank < 0)
            continue;
        *out = t->shape;
        for (int d = 0; d < out->rank; d++)
            if (out->dim[d] < 0)
                out->dim[d] = d == 0 ? batch : other;
        return;
    }
}
