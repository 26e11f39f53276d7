/* SPDX-License-Identifier: Apache-2.0
 * Where values lie. From types to bytes in three steps:
 * Lives      from the outputs backwards: which steps are needed, and the last step that reads each value.
 * Homes      a value may use another's bytes instead of some of its own: a view (Reshape) whoever else reads them, and
 *            a result computed in place only if its operand dies here, with everything that shares its bytes. What a
 *            caller owns (inputs, weights) may be viewed but not written, and an output of the graph never shares bytes with
 *            another one or with an input.
 * Offsets    homes that are no outputs get places in the slab (plan_memory.c); outputs are allocated in each run,
 *            because the caller keeps them.
 * Then, once there is a slab, all tensors in it and all calls whose operands have fixed places are made ready, so that
 * a run is little more than a loop over function pointers. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/plan.h"

/* A type's bytes; false when it overflows. */
static bool type_bytes(const struct type *t, size_t *bytes)
{
    int64_t n = shape_count(&t->shape);
    return n >= 0 && dtype_bytes(t->dtype, n, bytes);
}

/* ---- lives ---- */
static void mark_last(struct plan *plan, uint32_t value, int step)
{
    if (plan->last[value] < step)
        plan->last[value] = step;
}

/* What a nested graph reads from the main one. */
static void mark_nested(struct plan *plan, const struct node *node, int step)
{
    for (int a = 0; a < node->n_attr; a++) {
        const struct attr *attr = &node->attr[a];
        for (int k = 0; (attr->type == ATTR_GRAPH || attr->type == ATTR_GRAPHS) && k < attr->count; k++) {
            const struct graph *g = &plan->m->graphs[attr->graphs[k]];
            for (int i = 0; i < g->n_nodes; i++) {
                const struct node *inner = &plan->m->nodes[g->nodes[i]];
                for (int j = 0; inner->op_type && j < inner->n_input; j++)
                    if (inner->input[j] != VALUE_NONE && plan->m->values[inner->input[j]].graph == 0)
                        mark_last(plan, inner->input[j], step);
                mark_nested(plan, inner, step);
            }
            for (int i = 0; i < g->n_outputs; i++)
                if (plan->m->values[g->outputs[i].value].graph == 0)
                    mark_last(plan, g->outputs[i].value, step);
        }
    }
}

/* A node is live if one of its outputs is read, and then what it reads is. */
void plan_find_live(struct plan *plan)
{
    const struct plan_graph *g = &plan->graph[0];
    for (uint32_t v = 0; v < plan->m->n_values; v++)
        plan->last[v] = -1;
    for (int i = 0; i < plan->n_output; i++)
        plan->last[plan->output[i]] = g->n_steps;
    plan->n_run = 0;
    for (int s = g->n_steps - 1; s >= 0; s--) {
        struct plan_step *step = &g->steps[s];
        const struct node *node = &plan->m->nodes[step->node];
        step->live = step->dynamic = false;
        for (int i = 0; i < node->n_output && !step->folded; i++) {
            uint32_t v = node->output[i];
            if (v != VALUE_NONE && plan->last[v] < 0 && plan->watch && plan->watch[v])
                plan->last[v] = s;
            if (v == VALUE_NONE || plan->last[v] < 0)
                continue;
            step->live = true;
            step->dynamic = step->dynamic || !plan_type_ready(&plan->type[v]);
        }
        if (!step->live)
            continue;
        for (int i = 0; i < node->n_input; i++)
            if (node->input[i] != VALUE_NONE)
                mark_last(plan, node->input[i], s);
        if (step->nested)
            mark_nested(plan, node, s);
    }
    for (int s = 0; s < g->n_steps; s++)
        if (g->steps[s].live)
            plan->run[plan->n_run++] = s;
}

/* Does the value get bytes of its own only when its step runs, to be freed after its last reader? */
static bool dies(const struct plan *plan, uint32_t v)
{
    const uint32_t producer = plan->m->values[v].producer;
    if (plan->last[v] < 0 || plan->last[v] >= plan->graph[0].n_steps || producer == NODE_NONE ||
        plan->m->values[v].graph != 0)
        return false;
    return plan->home[v] == VALUE_NONE;
}

/* Bucket those by their last reader. */
static void find_deaths(struct plan *plan)
{
    int n_steps = plan->graph[0].n_steps, *first = plan->die_first;
    memset(first, 0, ((size_t)n_steps + 2) * sizeof *first);
    for (uint32_t v = 0; v < plan->m->n_values; v++)
        if (dies(plan, v))
            first[plan->last[v] + 2]++;
    for (int s = 0; s < n_steps; s++)
        first[s + 2] += first[s + 1];
    for (uint32_t v = 0; v < plan->m->n_values; v++)
        if (dies(plan, v))
            plan->die[first[plan->last[v] + 1]++] = (int)v;
}

/* ---- homes ---- */
struct layout {
    struct plan *plan;
    struct plan_interval *life; /* [n_values] of homes; bytes 0 and first -1: an input's or a constant's */
    struct plan_interval *iv;   /* of those in the slab, and whose they are */
    uint32_t *value;
    int n;
    size_t outputs;   /* bytes of graph outputs */
    uint32_t largest; /* node with the largest output */
    size_t largest_bytes;
};

static int check_size(struct layout *l, int s, uint32_t v, size_t *bytes, struct err *err)
{
    const struct plan *plan = l->plan;
    const struct type *t = &plan->type[v];
    const uint32_t node = plan->graph[0].steps[s].node;
    if (!type_bytes(t, bytes) || *bytes > plan->limit) {
        char text[SHAPE_TEXT];
        err_set(err, ERR_MODEL_TOO_LARGE, "output '%s' would be %s%s, over the limit of %zu bytes",
                plan->m->values[v].name, dtype_name(t->dtype), shape_text(&t->shape, text), plan->limit);
        plan_wrap(plan->m, node, err);
        return -1;
    }
    if (*bytes >= l->largest_bytes) {
        l->largest_bytes = *bytes;
        l->largest = node;
    }
    return 0;
}

static bool same_bytes(const struct plan *plan, uint32_t a, uint32_t b)
{
    size_t bytes_a, bytes_b;
    return plan_type_ready(&plan->type[a]) && plan->type[a].dtype == plan->type[b].dtype &&
           plan->type[a].dtype != DTYPE_STRING && type_bytes(&plan->type[a], &bytes_a) &&
           type_bytes(&plan->type[b], &bytes_b) && bytes_a == bytes_b;
}

/* Its outputs are tensors that exist already: what a nested graph made, an item of a sequence. */
static bool hands_over(const struct plan_step *step)
{
    return step->nested || (step->op->takes_lists && !step->op->view);
}

/* The home that output 0 of a row like Reshape can share; VALUE_NONE. */
static uint32_t home_of_view(const struct layout *l, const struct plan_step *step, uint32_t v)
{
    const struct plan *plan = l->plan;
    const struct node *node = &plan->m->nodes[step->node];
    const int end = plan->graph[0].n_steps;
    const uint32_t x = node->n_input ? node->input[0] : VALUE_NONE;
    if (!step->op->view || x == VALUE_NONE || !same_bytes(plan, x, v))
        return VALUE_NONE;
    const uint32_t home = plan->home[x];
    if (home == VALUE_NONE || (plan->last[v] == end && (l->life[home].first < 0 || l->life[home].last == end)))
        return VALUE_NONE;
    return home;
}

/* The home of an operand that dies here and may be overwritten; VALUE_NONE. No other operand may share its bytes: a row
 * may read that one after it has begun to write. */
static uint32_t home_in_place(const struct layout *l, const struct plan_step *step, int s, uint32_t v)
{
    const struct plan *plan = l->plan;
    const struct node *node = &plan->m->nodes[step->node];
    for (int k = 1; k < node->n_output; k++)
        if (node->output[k] != VALUE_NONE && plan->last[node->output[k]] >= 0)
            return VALUE_NONE;
    for (int i = 0; i < node->n_input && i < 32; i++) {
        const uint32_t x = node->input[i], home = x == VALUE_NONE ? VALUE_NONE : plan->home[x];
        if (!(step->op->in_place >> i & 1) || home == VALUE_NONE || l->life[home].first < 0 ||
            l->life[home].last != s || !same_bytes(plan, x, v))
            continue;
        bool alone = true;
        for (int k = 0; k < node->n_input; k++)
            alone = alone && (k == i || node->input[k] == VALUE_NONE || plan->home[node->input[k]] != home);
        if (alone)
            return home;
    }
    return VALUE_NONE;
}

static int find_home(struct layout *l, int s, int slot, struct err *err)
{
    struct plan *plan = l->plan;
    const struct plan_step *step = &plan->graph[0].steps[s];
    const uint32_t v = plan->m->nodes[step->node].output[slot];
    size_t bytes = 0;
    if (v == VALUE_NONE || plan->last[v] < 0 || !plan_type_ready(&plan->type[v]))
        return 0;
    if (check_size(l, s, v, &bytes, err))
        return -1;
    if (plan->type[v].dtype == DTYPE_STRING) {
        l->outputs += plan->last[v] == plan->graph[0].n_steps ? bytes : 0;
        return 0;
    }
    if (hands_over(step))
        return 0;
    uint32_t home = slot == 0 ? home_of_view(l, step, v) : VALUE_NONE;
    if (home == VALUE_NONE && slot == 0)
        home = home_in_place(l, step, s, v);
    if (home == VALUE_NONE) {
        home = v;
        l->life[v] = (struct plan_interval){.bytes = bytes, .first = s, .last = s};
    }
    plan->home[v] = home;
    if (l->life[home].last < plan->last[v])
        l->life[home].last = plan->last[v];
    return 0;
}

static int find_homes(struct layout *l, struct err *err)
{
    struct plan *plan = l->plan;
    const uint32_t n = plan->m->n_values;
    for (uint32_t v = 0; v < n; v++) {
        const bool theirs = plan->m->values[v].graph == 0 &&
                            (plan->known[v].dtype != DTYPE_NONE || plan->m->values[v].producer == NODE_NONE);
        plan->home[v] = theirs ? v : VALUE_NONE;
        plan->offset[v] = SIZE_MAX;
        l->life[v] = (struct plan_interval){.first = -1, .last = -1};
    }
    for (int k = 0; k < plan->n_run; k++) {
        const int s = plan->run[k];
        const struct node *node = &plan->m->nodes[plan->graph[0].steps[s].node];
        for (int i = 0; i < node->n_output; i++)
            if (find_home(l, s, i, err))
                return -1;
    }
    return 0;
}

/* ---- offsets ---- */
int plan_place(struct plan *plan, struct err *err)
{
    struct layout l = {.plan = plan, .largest = NODE_NONE};
    const uint32_t values = plan->m->n_values;
    size_t n = values + (size_t)1, need;
    l.life = arena_calloc(plan->bind_arena, n, sizeof *l.life);
    l.iv = arena_calloc(plan->bind_arena, n, sizeof *l.iv);
    l.value = arena_calloc(plan->bind_arena, n, sizeof *l.value);
    if (!l.life || !l.iv || !l.value)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (find_homes(&l, err))
        return -1;
    for (uint32_t v = 0; v < values; v++) {
        if (plan->home[v] != v || l.life[v].first < 0)
            continue;
        if (l.life[v].last == plan->graph[0].n_steps) {
            if (!size_add(l.outputs, l.life[v].bytes, &l.outputs))
                l.outputs = SIZE_MAX;
            continue;
        }
        l.iv[l.n] = l.life[v];
        l.value[l.n++] = v;
    }
    if (plan_layout(l.iv, l.n, &plan->slab_bytes, &plan->slab_lower, err))
        return -1;
    for (int i = 0; i < l.n; i++)
        plan->offset[l.value[i]] = l.iv[i].offset;
    for (uint32_t v = 0; v < values; v++)
        if (plan->home[v] != VALUE_NONE)
            plan->offset[v] = plan->offset[plan->home[v]];
    find_deaths(plan);
    if (!size_add(plan->slab_bytes, l.outputs, &need) || need > plan->limit) {
        err_set(err, ERR_MODEL_TOO_LARGE,
                "activations need %zu bytes and outputs %zu, over the limit of %zu; this node's output is the largest",
                plan->slab_bytes, l.outputs, plan->limit);
        plan_wrap(plan->m, l.largest, err);
        return -1;
    }
    return 0;
}

/* ---- ready to run ---- */
/* Inputs of settled steps have their final types: constants, or values whose type inference knew. */
static bool inputs_ready(const struct plan *plan, const struct node *node)
{
    for (int i = 0; i < node->n_input; i++) {
        const uint32_t v = node->input[i];
        if (v == VALUE_NONE || plan->known[v].dtype != DTYPE_NONE)
            continue;
        const uint32_t producer = plan->m->values[v].producer;
        if (!plan_type_ready(&plan->type[v]) || plan->m->values[v].graph != 0)
            return false;
        if (producer == NODE_NONE && !value_is_graph_input(plan->m, v))
            return false;
    }
    return true;
}

static bool outputs_placed(const struct plan *plan, const struct node *node)
{
    for (int i = 0; i < node->n_output; i++)
        if (node->output[i] != VALUE_NONE && plan->last[node->output[i]] >= 0 &&
            plan->offset[node->output[i]] == SIZE_MAX)
            return false;
    return true;
}

static int make_call(struct plan *plan, struct plan_step *step, struct err *err)
{
    const struct node *node = &plan->m->nodes[step->node];
    step->ctx = NULL;
    step->settled = !hands_over(step) && !step->dynamic && !step->asked && inputs_ready(plan, node);
    if (!step->settled || !outputs_placed(plan, node))
        return 0;
    const size_t n_in = (size_t)node->n_input, n_out = (size_t)node->n_output;
    const struct tensor **in = arena_calloc(plan->bind_arena, n_in + 1, sizeof *in);
    struct tensor **out = arena_calloc(plan->bind_arena, n_out + 1, sizeof *out);
    struct run_ctx *c = arena_calloc(plan->bind_arena, 1, sizeof *c);
    if (!in || !out || !c)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n_in; i++) {
        const uint32_t v = node->input[i];
        if (v != VALUE_NONE)
            in[i] = plan->known[v].dtype != DTYPE_NONE ? &plan->known[v] : &plan->slot[v];
    }
    for (size_t i = 0; i < n_out; i++)
        if (node->output[i] != VALUE_NONE && plan->last[node->output[i]] >= 0)
            out[i] = &plan->slot[node->output[i]];
    *c = (struct run_ctx){.node = node,
                          .attrs = step->attrs,
                          .opset = step->opset,
                          .n_in = node->n_input,
                          .n_out = node->n_output,
                          .in = in,
                          .out = out,
                          .pool = plan->pool,
                          .settled = true,
                          .host = &plan->host};
    step->ctx = c;
    return 0;
}

int plan_prepare(struct plan *plan, struct err *err)
{
    if (plan->placed)
        return 0;
    plan->n_loose = 0;
    for (uint32_t v = 0; v < plan->m->n_values; v++) {
        tensor_fini(&plan->slot[v]);
        if (plan->m->values[v].graph != 0 || plan->known[v].dtype != DTYPE_NONE)
            continue;
        if (plan->offset[v] != SIZE_MAX)
            tensor_view(&plan->slot[v], plan->type[v].dtype, &plan->type[v].shape, (char *)plan->slab + plan->offset[v],
                        NULL);
        else
            plan->loose[plan->n_loose++] = v;
    }
    for (int k = 0; k < plan->n_run; k++)
        if (make_call(plan, &plan->graph[0].steps[plan->run[k]], err))
            return -1;
    plan->placed = true;
    return 0;
}
