/* SPDX-License-Identifier: Apache-2.0
 * Life cycle of a gradient plan: see grad.h. The model is cloned (weights shared) and every parameter becomes a
 * graph input of the clone: so the plan folds nothing that depends on it, without knowing anything of training. */
#include "core/engine/grad.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/grad_plan.h"

#define DEFAULT_MEMORY ((size_t)16 << 30)
#define LEAST_SCRATCH ((size_t)64 << 20)

static int declare_input(struct model *m, uint32_t value, struct err *err)
{
    struct graph *g = model_main(m);
    struct weight *w = m->values[value].weight;
    const struct type type = type_tensor(w->tensor.dtype, &w->tensor.shape);
    m->values[value].weight = NULL;
    for (int i = 0; i < g->n_initializers; i++)
        if (g->initializers[i] == value) {
            memmove(&g->initializers[i], &g->initializers[i + 1],
                    (size_t)(g->n_initializers - i - 1) * sizeof *g->initializers);
            g->n_initializers--;
            break;
        }
    for (int i = 0; i < g->n_inputs; i++)
        if (g->inputs[i].value == value) {
            g->inputs[i].type = type;
            g->inputs[i].has_type = true;
            return 0;
        }
    struct value_info *inputs = model_alloc(m, (size_t)g->n_inputs + 1, sizeof *inputs);
    if (!inputs)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (g->n_inputs)
        memcpy(inputs, g->inputs, (size_t)g->n_inputs * sizeof *inputs);
    inputs[g->n_inputs] = (struct value_info){.value = value, .type = type, .has_type = true};
    g->inputs = inputs;
    g->n_inputs++;
    return 0;
}

/* Take the caller's lists over: the leaves, and a copy of the seeds. */
static int take_lists(struct grad *g, const struct model *m, const struct grad_opts *opts, struct err *err)
{
    const size_t params = (size_t)opts->n_params, inputs = (size_t)opts->n_inputs, seeds = (size_t)opts->n_seeds;
    g->wanted = calloc(seeds + 1, sizeof *g->wanted);
    g->leaf = calloc(params + inputs + 1, sizeof *g->leaf);
    g->leaf_of = calloc((size_t)m->n_values + 1, sizeof *g->leaf_of);
    if (!g->wanted || !g->leaf || !g->leaf_of)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (uint32_t v = 0; v < m->n_values; v++)
        g->leaf_of[v] = -1;
    for (size_t i = 0; i < params + inputs; i++) {
        const uint32_t v = i < params ? opts->params[i] : opts->inputs[i - params];
        if (v >= m->n_values || !m->values[v].name)
            return err_set(err, ERR_INVALID, "a gradient is wanted of value %u, which the model does not have", v);
        const struct weight *w = m->values[v].weight;
        if (g->leaf_of[v] >= 0)
            return err_set(err, ERR_INVALID, "the gradient of '%s' is wanted twice", m->values[v].name);
        if (i < params && (!w || (w->tensor.dtype != DTYPE_FLOAT && w->tensor.dtype != DTYPE_DOUBLE)))
            return err_set(err, ERR_INVALID,
                           "'%s' cannot be a parameter: it is %s; float32 or float64 initializers can",
                           m->values[v].name, w ? dtype_name(w->tensor.dtype) : "not an initializer");
        if (i >= params && (w || !value_is_graph_input(m, v)))
            return err_set(err, ERR_INVALID, "'%s' is not an input of the graph", m->values[v].name);
        g->leaf_of[v] = g->n_leaf;
        g->leaf[g->n_leaf++] = (struct grad_leaf){.value = v, .fresh = true};
    }
    if (opts->seeds) {
        memcpy(g->wanted, opts->seeds, seeds * sizeof *g->wanted);
        g->opts.seeds = g->wanted;
    }
    return 0;
}

static int make_params(struct grad *g, const struct model *m, struct err *err)
{
    for (int i = 0; i < g->opts.n_params; i++) {
        struct grad_leaf *leaf = &g->leaf[i];
        const struct tensor *t = &m->values[leaf->value].weight->tensor;
        if (t->bytes && !t->data)
            return err_set(err, ERR_MODEL, "weight '%s' is in an external file that is not there",
                           m->values[leaf->value].name);
        if (tensor_copy(&leaf->data, t, err) || tensor_alloc(&leaf->sum, t->dtype, &t->shape, err) ||
            declare_input(g->m, leaf->value, err))
            return -1;
        g->memory.gradients += t->bytes;
    }
    return 0;
}

static int make_tables(struct grad *g, struct err *err)
{
    const struct plan *plan = g->plan;
    const size_t values = (size_t)plan->m->n_values + 1, steps = (size_t)plan->graph[0].n_steps + 1;
    g->flows = calloc(values, sizeof *g->flows);
    g->on_path = calloc(steps, sizeof *g->on_path);
    g->slot = calloc(values, sizeof *g->slot);
    g->gradient = calloc(values, sizeof *g->gradient);
    g->seed = calloc((size_t)plan->n_output + 1, sizeof *g->seed);
    g->seed_place = calloc((size_t)plan->n_output + 1, sizeof *g->seed_place);
    g->saved = calloc(steps, sizeof *g->saved);
    g->feed = calloc((size_t)plan->n_input + 1, sizeof *g->feed);
    g->shapes = calloc((size_t)plan->n_input + 1, sizeof *g->shapes);
    int *leaf_of = realloc(g->leaf_of, values * sizeof *leaf_of);
    g->leaf_of = leaf_of ? leaf_of : g->leaf_of;
    if (!g->flows || !g->on_path || !g->slot || !g->gradient || !g->seed || !g->seed_place || !g->saved || !g->feed ||
        !g->shapes || !leaf_of)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (uint32_t v = g->m->n_values; v < plan->m->n_values; v++) /* of inlined functions */
        g->leaf_of[v] = -1;
    for (int i = 0; i < plan->n_input; i++) {
        const int leaf = g->leaf_of[plan->input[i]];
        if (leaf < 0 || leaf >= g->opts.n_params)
            g->feed[g->n_feed++] = plan->input[i];
    }
    return 0;
}

struct grad *grad_new(const struct model *m, const struct grad_opts *opts, struct err *err)
{
    struct grad *g = calloc(1, sizeof *g);
    if (!g) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    g->opts = *opts;
    if (!g->opts.max_memory_bytes)
        g->opts.max_memory_bytes = DEFAULT_MEMORY;
    g->m = model_clone(m, err);
    if (!g->m || take_lists(g, m, opts, err) || make_params(g, m, err))
        goto fail;
    const struct plan_opts plan_opts = {.pool = opts->pool, .max_memory_bytes = SIZE_MAX / 2};
    g->plan = plan_new(g->m, &plan_opts, err);
    if (!g->plan || make_tables(g, err))
        goto fail;
    const size_t scratch = g->opts.max_memory_bytes > LEAST_SCRATCH ? g->opts.max_memory_bytes : LEAST_SCRATCH;
    g->host = (struct plan_host){.model = g->plan->m, .pool = opts->pool, .limit = scratch};
    return g;
fail:
    grad_free(g);
    return NULL;
}

void grad_free(struct grad *g)
{
    if (!g)
        return;
    for (int i = 0; i < g->n_leaf; i++) {
        tensor_fini(&g->leaf[i].data);
        tensor_fini(&g->leaf[i].sum);
    }
    grad_drop_saved(g);
    for (int i = 0; i < g->n_block; i++)
        free(g->block[i].data);
    free(g->block);
    for (int i = 0; i < g->n_stats; i++)
        free(g->stats[i].mean);
    free(g->stats);
    plan_host_fini(&g->host);
    free(g->flows);
    free(g->on_path);
    free(g->slot);
    free(g->gradient);
    free(g->seed);
    free(g->seed_place);
    free(g->saved);
    free(g->feed);
    free(g->shapes);
    free(g->wanted);
    free(g->leaf);
    free(g->leaf_of);
    free(g->slab);
    arena_free(g->arena);
    plan_free(g->plan);
    model_free(g->m);
    free(g);
}

int grad_n_feeds(const struct grad *g)
{
    return g->n_feed;
}
uint32_t grad_feed(const struct grad *g, int i)
{
    return g->feed[i];
}
int grad_n_outputs(const struct grad *g)
{
    return g->plan->n_output;
}
const struct tensor *grad_output(const struct grad *g, int i)
{
    return &g->slot[g->plan->output[i]];
}
struct tensor *grad_seed(struct grad *g, int i)
{
    return g->seed_place[i] != PLACE_NONE ? &g->seed[i] : NULL;
}
int grad_param_index(const struct grad *g, uint32_t value)
{
    const int leaf = value < g->m->n_values ? g->leaf_of[value] : -1;
    return leaf < g->opts.n_params ? leaf : -1;
}
struct tensor *grad_param_value(struct grad *g, int i)
{
    return &g->leaf[i].data;
}
int grad_param_find(const struct grad *g, uint32_t value)
{
    const int leaf = value < g->m->n_values ? g->leaf_of[value] : -1;
    return leaf < g->opts.n_params ? leaf : -1;
}
const struct tensor *grad_param_gradient(const struct grad *g, int i)
{
    return &g->leaf[i].sum;
}
struct tensor *grad_param_gradient_change(struct grad *g, int i)
{
    return &g->leaf[i].sum;
}
const struct tensor *grad_input_gradient(const struct grad *g, int i)
{
    return &g->leaf[g->opts.n_params + i].sum;
}
void grad_set_training(struct grad *g, bool training)
{
    g->opts.training = training;
}
void grad_set_seed(struct grad *g, uint64_t seed)
{
    g->opts.seed = seed;
    g->batch = 0;
}
int grad_n_stats(const struct grad *g)
{
    return g->n_stats;
}
const struct grad_stats *grad_stats(const struct grad *g, int i)
{
    return &g->stats[i];
}

void grad_reset(struct grad *g)
{
    for (int i = 0; i < g->n_leaf; i++)
        g->leaf[i].fresh = true;
}

struct grad_memory grad_memory(const struct grad *g)
{
    struct grad_memory memory = g->memory;
    memory.saved = g->block_bytes;
    for (int i = 0; i < g->host.n_blocks; i++)
        memory.scratch += g->host.block[i].bytes;
    return memory;
}
