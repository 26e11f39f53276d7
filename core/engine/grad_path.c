/* SPDX-License-Identifier: Apache-2.0
 * What flows where. A value needs a gradient if it is wanted or computed from one that does; a gradient comes to
 * it if a seeded output is computed from it. The path is where both hold. Whether a step passes a gradient is its
 * row's business; a row without backward passes none, and where it stands between a wanted value and a seed that is
 * an error, not a silent zero. Through a step that gives no floats (Shape, ArgMax, comparisons) nothing flows. */
#include <stdlib.h>

#include "core/engine/grad_plan.h"

static bool is_float(const struct grad *g, uint32_t v)
{
    return v != VALUE_NONE && dtype_is_float(g->plan->type[v].dtype);
}

/* Which values depend on a wanted one, by the ways on which gradients could come back. */
static void find_needs(const struct grad *g, bool *needs)
{
    for (int i = 0; i < g->n_leaf; i++)
        needs[g->leaf[i].value] = true;
    for (int s = 0; s < g->plan->graph[0].n_steps; s++) {
        const struct node *node = grad_node(g, s);
        const struct op_class *op = g->plan->graph[0].steps[s].op;
        bool any = false;
        for (int i = 0; i < node->n_input && grad_runs(g, s); i++)
            any =
                any || (is_float(g, node->input[i]) && needs[node->input[i]] && (!op->backward || grad_passes(op, i)));
        for (int i = 0; any && i < node->n_output; i++)
            if (is_float(g, node->output[i]))
                needs[node->output[i]] = true;
    }
}

static int refuse(const struct grad *g, int s, struct err *err)
{
    const struct plan_step *step = &g->plan->graph[0].steps[s];
    err_set(err, ERR_OPERATOR,
            "has no gradient, but a wanted gradient would have to pass through it; take the values before it out of "
            "the wanted "
            "ones");
    plan_wrap(g->plan->m, step->node, err);
    return -1;
}

/* From the seeds backwards. */
static int find_flow(struct grad *g, const bool *needs, struct err *err)
{
    for (int s = g->plan->graph[0].n_steps - 1; s >= 0; s--) {
        const struct node *node = grad_node(g, s);
        const struct op_class *op = g->plan->graph[0].steps[s].op;
        bool comes = false;
        g->on_path[s] = false;
        for (int i = 0; i < node->n_output && grad_runs(g, s); i++)
            comes = comes || (node->output[i] != VALUE_NONE && g->flows[node->output[i]]);
        if (!comes)
            continue;
        if (!op->backward)
            return refuse(g, s, err);
        g->on_path[s] = true;
        for (int i = 0; i < node->n_input; i++)
            if (is_float(g, node->input[i]) && needs[node->input[i]] && grad_passes(op, i))
                g->flows[node->input[i]] = true;
    }
    return 0;
}

int grad_find_path(struct grad *g, struct err *err)
{
    const size_t n = (size_t)g->plan->m->n_values + 1;
    bool *needs = calloc(n, sizeof *needs);
    if (!needs)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t v = 0; v < n; v++)
        g->flows[v] = false;
    find_needs(g, needs);
    for (int i = 0; i < g->plan->n_output; i++) {
        const uint32_t v = g->plan->output[i];
        bool seeded = !g->opts.seeds;
        for (int k = 0; k < g->opts.n_seeds; k++)
            seeded = seeded || g->opts.seeds[k] == v;
        if (seeded && needs[v])
            g->flows[v] = true;
    }
    int rc = find_flow(g, needs, err);
    free(needs);
    return rc;
}
