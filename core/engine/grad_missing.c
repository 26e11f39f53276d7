/* SPDX-License-Identifier: Apache-2.0
 * grad_missing.c - which operators stand in the way of training (grad.h), before anybody trains. As grad_path.c finds
 * the way of gradients, but over all float constants at once, and it goes on behind an operator without backward to
 * find the others. Graphs of If, Loop and Scan count as readers of the outer values they use. Functions are inlined, as
 * the plan does. */
#include <stdlib.h>
#include <string.h>

#include "core/engine/grad_plan.h"

enum { MISSING_MAX = 256 }; /* kinds, as engine_missing_ops lists */

struct search {
    const struct plan *plan;
    const struct model *m; /* the plan's: functions inlined */
    const struct type *type;
    const struct op_class **op; /* [n_nodes] of the main graph's nodes */
    uint32_t *order, *holder;   /* holder: [n_graphs] node of the main graph that a nested graph belongs to */
    bool *needs, *comes;        /* [n_values] */
    uint32_t *captured;         /* outer values that nested graphs read, of all holders */
    uint32_t *first;            /* [n_nodes + 1] those of one holder */
    int n_order;
};

static bool is_float(const struct search *x, uint32_t v)
{
    return v != VALUE_NONE && (x->type[v].dtype == DTYPE_NONE || dtype_is_float(x->type[v].dtype));
}

/* Something that training would change. A single number is none, unless a product or a norm reads it; that is not worth
 * a refusal. */
static bool is_parameter(const struct search *x, uint32_t v)
{
    const struct weight *w = v == VALUE_NONE ? NULL : x->m->values[v].weight;
    const struct tensor *t = w ? &w->tensor : NULL;
    if (v != VALUE_NONE && !t && x->m->values[v].producer != NODE_NONE &&
        node_is(&x->m->nodes[x->m->values[v].producer], "Constant"))
        t = value_const(x->m, v);
    return t && (t->dtype == DTYPE_FLOAT || t->dtype == DTYPE_DOUBLE) && tensor_count(t) > 1;
}

/* ---- what nested graphs read ---- */
static void find_holders(struct search *x)
{
    const struct model *m = x->m;
    for (uint32_t g = 0; g < m->n_graphs; g++) {
        uint32_t at = g, steps = 0;
        x->holder[g] = NODE_NONE;
        while (at != 0 && at != GRAPH_NONE && m->graphs[at].parent != 0 && steps++ < m->n_graphs)
            at = m->graphs[at].parent;
        if (at != 0 && at != GRAPH_NONE && m->graphs[at].parent == 0)
            x->holder[g] = m->graphs[at].parent_node;
    }
}

/* Counted first, then filled: held values of node n are captured[first[n] .. first[n + 1]). */
static void find_captured(struct search *x, bool fill)
{
    const struct model *m = x->m;
    for (uint32_t n = 0; n < m->n_nodes; n++) {
        const struct node *node = &m->nodes[n];
        const uint32_t holder = node->op_type && node->graph != 0 ? x->holder[node->graph] : NODE_NONE;
        for (int i = 0; holder != NODE_NONE && holder < m->n_nodes && i < node->n_input; i++) {
            if (node->input[i] == VALUE_NONE || m->values[node->input[i]].graph != 0)
                continue;
            if (fill)
                x->captured[--x->first[holder + 1]] = node->input[i];
            else
                x->first[holder + 1]++;
        }
    }
}

static int list_captured(struct search *x, struct err *err)
{
    find_holders(x);
    find_captured(x, false);
    for (uint32_t n = 0; n < x->m->n_nodes; n++)
        x->first[n + 1] += x->first[n];
    const uint32_t all = x->first[x->m->n_nodes];
    if (!(x->captured = calloc((size_t)all + 1, sizeof *x->captured)))
        return err_set(err, ERR_NOMEM, "out of memory");
    find_captured(x, true); /* first[n + 1] is now where n begins */
    for (uint32_t n = 0; n < x->m->n_nodes; n++)
        x->first[n] = x->first[n + 1];
    x->first[x->m->n_nodes] = all;
    return 0;
}

/* ---- the way ---- */
static bool reads_needed(const struct search *x, uint32_t n)
{
    const struct node *node = &x->m->nodes[n];
    const struct op_class *op = x->op[n];
    for (int i = 0; i < node->n_input; i++) {
        const uint32_t v = node->input[i];
        if (v == VALUE_NONE || !is_float(x, v) || !op || (op->backward && !grad_passes(op, i)))
            continue;
        if (x->needs[v] || (op->backward && is_parameter(x, v)))
            return true;
    }
    for (uint32_t i = x->first[n]; i < x->first[n + 1]; i++)
        if (x->needs[x->captured[i]] && is_float(x, x->captured[i]))
            return true;
    return false;
}

static void find_needs(struct search *x)
{
    for (int k = 0; k < x->n_order; k++) {
        const struct node *node = &x->m->nodes[x->order[k]];
        const bool any = reads_needed(x, x->order[k]);
        for (int i = 0; any && i < node->n_output; i++)
            if (is_float(x, node->output[i]))
                x->needs[node->output[i]] = true;
    }
}

/* Rows outlive the plan's model, whose strings would not. */
static int note(struct missing_ops *list, const struct search *x, uint32_t n, struct err *err)
{
    const struct op_class *op = x->op[n];
    const char *domain = op->domain && *op->domain ? op->domain : "ai.onnx";
    const int64_t opset = plan_node_opset(x->plan, n);
    for (int i = 0; i < list->count; i++)
        if (!strcmp(list->at[i].type, op->type) && !strcmp(list->at[i].domain, domain) && list->at[i].opset == opset) {
            list->at[i].count++;
            return 0;
        }
    if (!list->at && !(list->at = calloc(MISSING_MAX, sizeof *list->at)))
        return err_set(err, ERR_NOMEM, "out of memory");
    if (list->count < MISSING_MAX)
        list->at[list->count++] = (struct missing_op){op->type, domain, opset, 1};
    return 0;
}

/* From one output backwards. */
static int look(struct search *x, uint32_t output, struct missing_ops *list, struct err *err)
{
    memset(x->comes, 0, ((size_t)x->m->n_values + 1) * sizeof *x->comes);
    x->comes[output] = true;
    for (int k = x->n_order - 1; k >= 0; k--) {
        const uint32_t n = x->order[k];
        const struct node *node = &x->m->nodes[n];
        const struct op_class *op = x->op[n];
        bool comes = false;
        for (int i = 0; i < node->n_output; i++)
            comes = comes || (node->output[i] != VALUE_NONE && x->comes[node->output[i]]);
        if (!comes || !op)
            continue;
        if (!op->backward && note(list, x, n, err))
            return -1;
        for (int i = 0; i < node->n_input; i++)
            if (is_float(x, node->input[i]) && x->needs[node->input[i]] && (!op->backward || grad_passes(op, i)))
                x->comes[node->input[i]] = true;
        for (uint32_t i = x->first[n]; i < x->first[n + 1]; i++)
            if (x->needs[x->captured[i]] && is_float(x, x->captured[i]))
                x->comes[x->captured[i]] = true;
    }
    return 0;
}

/* A loss takes one output: one without obstacles is enough. */
static int look_at_all(struct search *x, struct missing_ops *out, struct err *err)
{
    const struct graph *g = model_main(x->m);
    for (int i = 0; i < g->n_outputs; i++) {
        const uint32_t v = g->outputs[i].value;
        struct missing_ops list = {0};
        if (!is_float(x, v) || !x->needs[v])
            continue;
        if (look(x, v, &list, err)) {
            missing_ops_fini(&list);
            return -1;
        }
        if (list.count == 0) {
            missing_ops_fini(out);
            return 0;
        }
        if (out->count == 0)
            *out = list;
        else
            missing_ops_fini(&list);
    }
    return 0;
}

static int search_init(struct search *x, struct err *err)
{
    const size_t values = (size_t)x->m->n_values + 1, nodes = (size_t)x->m->n_nodes + 2;
    x->order = calloc((size_t)model_main(x->m)->n_nodes + 1, sizeof *x->order);
    x->holder = calloc((size_t)x->m->n_graphs + 1, sizeof *x->holder);
    x->first = calloc(nodes, sizeof *x->first);
    x->op = calloc(nodes, sizeof *x->op);
    x->needs = calloc(values, sizeof *x->needs);
    x->comes = calloc(values, sizeof *x->comes);
    if (!x->order || !x->holder || !x->first || !x->op || !x->needs || !x->comes)
        return err_set(err, ERR_NOMEM, "out of memory");
    x->n_order = model_main(x->m)->n_nodes;
    for (int i = 0; i < x->plan->graph[0].n_steps; i++)
        x->op[x->plan->graph[0].steps[i].node] = x->plan->graph[0].steps[i].op;
    return model_toposort(x->m, 0, x->order, err) || list_captured(x, err) ? -1 : 0;
}

int engine_missing_gradients(const struct model *m, struct missing_ops *out, struct err *err)
{
    struct search x = {.plan = NULL};
    *out = (struct missing_ops){0};
    struct plan *plan = plan_new(m, &(struct plan_opts){0}, NULL);
    if (!plan || plan_infer(plan, NULL, &x.type, NULL)) { /* it does not run: others say why */
        plan_free(plan);
        return 0;
    }
    x.plan = plan;
    x.m = plan->m;
    int rc = search_init(&x, err);
    if (rc == 0) {
        find_needs(&x);
        rc = look_at_all(&x, out, err);
    }
    free(x.order);
    free(x.op);
    free(x.holder);
    free(x.first);
    free(x.captured);
    free(x.needs);
    free(x.comes);
    plan_free(plan);
    if (rc)
        missing_ops_fini(out);
    return rc;
}
