/* SPDX-License-Identifier: Apache-2.0
 * Running a gradient plan's schedule. Values and gradients lie where the layout put them; a table by value id
 * says where each one is
 * now. A backward sees only those of forward's tensors that its row asked for: others may be overwritten already. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/grad_plan.h"
#include "core/ops/op_util.h"

enum { ALIGN = 64, FEW = 8, GRAIN = 1 << 15 };

static char no_bytes[ALIGN] __attribute__((aligned(ALIGN)));

/* ---- what rows call ---- */
void *run_save(struct run_ctx *c, size_t bytes, struct err *err)
{
    struct grad *g = c->host;
    struct grad_block *fit = NULL;
    for (int i = 0; i < g->n_block; i++)
        if (!g->block[i].busy && g->block[i].bytes >= bytes && (!fit || g->block[i].bytes < fit->bytes))
            fit = &g->block[i];
    if (fit && fit->bytes / 2 <= bytes + 4096) {
        fit->busy = true;
        return *c->saved = fit->data;
    }
    if (g->n_block == g->cap_block) {
        const int cap = g->cap_block ? g->cap_block * 2 : 32;
        struct grad_block *grown = realloc(g->block, (size_t)cap * sizeof *grown);
        if (!grown) {
            err_set(err, ERR_NOMEM, "out of memory");
            return NULL;
        }
        g->block = grown;
        g->cap_block = cap;
    }
    size_t padded;
    if (!size_add(bytes, ALIGN, &padded) || padded > g->opts.max_memory_bytes ||
        g->block_bytes > g->opts.max_memory_bytes - padded) {
        err_set(err, ERR_MODEL_TOO_LARGE, "leaves %zu bytes for its backward, over the limit of %zu", bytes,
                g->opts.max_memory_bytes);
        return NULL;
    }
    padded = padded / ALIGN * ALIGN;
    void *data = aligned_alloc(ALIGN, padded);
    if (!data) {
        err_set(err, ERR_NOMEM, "out of memory for %zu bytes", padded);
        return NULL;
    }
    g->block[g->n_block++] = (struct grad_block){data, padded, true};
    g->block_bytes += padded;
    return *c->saved = data;
}

static void release_saved(struct grad *g, int step)
{
    for (int i = 0; g->saved[step] && i < g->n_block; i++)
        if (g->block[i].data == g->saved[step])
            g->block[i].busy = false;
    g->saved[step] = NULL;
}

void grad_drop_saved(struct grad *g)
{
    for (int i = 0; i < g->n_block; i++)
        g->block[i].busy = false;
    for (int s = 0; g->plan && g->saved && s < g->plan->graph[0].n_steps; s++)
        g->saved[s] = NULL;
}

int run_stats(struct run_ctx *c, const struct batch_stats *stats, struct err *err)
{
    struct grad *g = c->host;
    if (g->again)
        return 0;
    if (g->n_stats == g->cap_stats) {
        const int cap = g->cap_stats ? g->cap_stats * 2 : 16;
        struct grad_stats *grown = realloc(g->stats, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        g->stats = grown;
        g->cap_stats = cap;
    }
    const size_t n = (size_t)stats->channels;
    size_t bytes;
    double *mean = size_mul(n, 2 * sizeof *mean, &bytes) ? malloc(bytes + 1) : NULL;
    if (!mean)
        return err_set(err, ERR_NOMEM, "out of memory");
    memcpy(mean, stats->mean, n * sizeof *mean);
    memcpy(mean + n, stats->variance, n * sizeof *mean);
    g->stats[g->n_stats++] = (struct grad_stats){.node = (uint32_t)(c->node - g->plan->m->nodes),
                                                 .mean_value = c->node->input[stats->mean_input],
                                                 .var_value = c->node->input[stats->var_input],
                                                 .momentum = stats->momentum,
                                                 .channels = stats->channels,
                                                 .count = stats->count,
                                                 .mean = mean,
                                                 .variance = mean + n};
    return 0;
}

/* ---- tables of one step ---- */
struct table {
    int n_in, n_out;
    const struct tensor *few_in[FEW], *few_out[FEW];
    struct tensor few_t[3 * FEW];
    bool few_assign[FEW];
    const struct tensor **in; /* pointers into t, or NULL */
    const struct tensor **out;
    struct tensor *t; /* [n_in] inputs, [n_in] their gradients, [n_out] outputs */
    bool *assign;
    void *own;
};

static int table_init(struct table *k, const struct node *node, struct err *err)
{
    k->n_in = node->n_input;
    k->n_out = node->n_output;
    k->own = NULL;
    if (k->n_in <= FEW && k->n_out <= FEW) {
        k->in = k->few_in;
        k->out = k->few_out;
        k->t = k->few_t;
        k->assign = k->few_assign;
    } else {
        const size_t n_in = (size_t)k->n_in, n_out = (size_t)k->n_out;
        k->own = calloc(2 * n_in + n_out, sizeof *k->t + sizeof *k->in + sizeof *k->assign);
        if (!k->own)
            return err_set(err, ERR_NOMEM, "out of memory");
        k->t = k->own;
        k->in = (const struct tensor **)(void *)(k->t + 2 * n_in + n_out);
        k->out = k->in + n_in;
        k->assign = (bool *)(void *)(k->out + n_out);
    }
    return 0;
}

static void view_at(struct tensor *t, const struct type *type, char *slab, const struct plan_interval *iv)
{
    tensor_view(t, type->dtype, &type->shape, iv->bytes ? slab + iv->offset : no_bytes, NULL);
}

/* ---- forward ---- */
static uint64_t mix(uint64_t a, uint64_t b)
{
    a ^= b + 0x9e3779b97f4a7c15u + (a << 6) + (a >> 2);
    return a * 0xff51afd7ed558ccdu;
}

static int call_forward(struct grad *g, const struct grad_action *a, struct table *k, struct err *err)
{
    const struct plan_step *step = &g->plan->graph[0].steps[a->step];
    const struct node *node = grad_node(g, a->step);
    for (int i = 0; i < k->n_in; i++) {
        const uint32_t v = node->input[i];
        k->in[i] = v == VALUE_NONE ? NULL : g->plan->known[v].dtype != DTYPE_NONE ? &g->plan->known[v] : &g->slot[v];
        if (k->in[i] && k->in[i]->dtype == DTYPE_NONE)
            return err_set(err, ERR_MODEL, "input '%s' has no value here", g->plan->m->values[v].name);
    }
    for (int i = 0; i < k->n_out; i++) {
        k->out[i] = NULL;
        if (a->place[i] == PLACE_NONE)
            continue;
        struct tensor *t = &g->slot[node->output[i]];
        view_at(t, &g->plan->type[node->output[i]], g->slab, &g->iv[a->place[i]]);
        k->out[i] = t;
    }
    struct run_ctx c = {.node = node,
                        .attrs = step->attrs,
                        .opset = step->opset,
                        .n_in = k->n_in,
                        .n_out = k->n_out,
                        .in = k->in,
                        .out = (struct tensor *const *)k->out,
                        .pool = g->host.pool,
                        .host = g,
                        .training = g->opts.training,
                        .saved = a->save ? &g->saved[a->step] : NULL,
                        .seed = mix(mix(g->opts.seed, g->batch), (uint64_t)a->step)};
    g->again = a->again;
    g->host.depth++;
    int rc = step->op->forward(&c, err);
    plan_release_scratch(&g->host);
    g->host.depth--;
    for (int i = 0; i < k->n_out; i++) {
        if (!k->out[i] || (!k->out[i]->buf && (rc || k->out[i]->data)))
            continue;
        tensor_fini(&g->slot[node->output[i]]); /* text and lists bring bytes of their own */
        if (!rc)
            rc = err_set(err, ERR_OPERATOR, "output %d is not a tensor of numbers of the shape that was planned", i);
    }
    return rc;
}

static int run_forward(struct grad *g, const struct grad_action *a, struct err *err)
{
    struct table k;
    int rc = table_init(&k, grad_node(g, a->step), err);
    if (!rc)
        rc = call_forward(g, a, &k, err);
    free(k.own);
    if (rc)
        plan_wrap(g->plan->m, g->plan->graph[0].steps[a->step].node, err);
    return rc;
}

/* ---- backward ---- */
struct sum {
    const struct tensor *from;
    struct tensor *to;
};

static void add_range(void *arg, int64_t begin, int64_t end)
{
    const struct sum *s = arg;
    if (s->to->dtype == DTYPE_FLOAT) {
        float *restrict to = s->to->data;
        const float *restrict from = s->from->data;
        for (int64_t i = begin; i < end; i++)
            to[i] += from[i];
    } else {
        double *restrict to = s->to->data;
        const double *restrict from = s->from->data;
        for (int64_t i = begin; i < end; i++)
            to[i] += from[i];
    }
}

static void add(struct grad *g, struct tensor *to, const struct tensor *from)
{
    struct sum s = {from, to};
    op_parallel(g->host.pool, tensor_count(to), GRAIN, add_range, &s);
}

static void zero_range(void *arg, int64_t begin, int64_t end)
{
    memset((char *)arg + begin, 0, (size_t)(end - begin));
}

static void zero(struct grad *g, struct tensor *t)
{
    if (t->bytes)
        op_parallel(g->host.pool, (int64_t)t->bytes, (int64_t)GRAIN * 8, zero_range, t->data);
}

/* Where the gradient of input i goes, and whether the row finds anything there. */
static void open_gradient(struct grad *g, const struct grad_action *a, struct table *k, int i)
{
    const struct node *node = grad_node(g, a->step);
    const uint32_t v = node->input[i];
    struct tensor *t = &k->t[k->n_in + i];
    bool first = a->first[i];
    k->assign[i] = false;
    if (a->place[i] == PLACE_LEAF) {
        struct grad_leaf *leaf = &g->leaf[g->leaf_of[v]];
        tensor_view(t, leaf->sum.dtype, &leaf->sum.shape, leaf->sum.bytes ? leaf->sum.data : no_bytes, NULL);
        first = leaf->fresh;
        leaf->fresh = false;
    } else {
        view_at(t, &g->plan->type[v], g->slab, &g->iv[a->place[i]]);
        if (!a->twice[i])
            g->gradient[v] = *t;
    }
    if (first && g->plan->graph[0].steps[a->step].op->grad_assigns)
        k->assign[i] = true;
    else if (first)
        zero(g, t);
}

/* A value that is an input twice got its further gradients in buffers of their own. */
static void add_twins(struct grad *g, const struct grad_action *a, struct table *k)
{
    const struct node *node = grad_node(g, a->step);
    for (int i = 0; i < k->n_in; i++) {
        if (!a->twice[i] || a->place[i] == PLACE_NONE)
            continue;
        for (int j = 0; j < i; j++)
            if (node->input[j] == node->input[i] && a->place[j] != PLACE_NONE && !a->twice[j]) {
                add(g, &k->t[k->n_in + j], &k->t[k->n_in + i]);
                break;
            }
    }
}

static int call_backward(struct grad *g, const struct grad_action *a, struct table *k, struct err *err)
{
    const struct plan_step *step = &g->plan->graph[0].steps[a->step];
    const struct node *node = grad_node(g, a->step);
    const struct tensor *few_grad[FEW];
    struct tensor *few_in[FEW];
    const size_t n_in = (size_t)k->n_in, n_out = (size_t)k->n_out;
    const struct tensor **grad_out = n_out <= FEW ? few_grad : calloc(n_out, sizeof *grad_out);
    struct tensor **grad_in = n_in <= FEW ? few_in : calloc(n_in, sizeof *grad_in);
    int rc = -1;
    if (!grad_out || !grad_in) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (int i = 0; i < k->n_in; i++) {
        const uint32_t v = node->input[i];
        k->in[i] = NULL;
        grad_in[i] = NULL;
        k->assign[i] = false;
        if (v == VALUE_NONE)
            continue;
        k->t[i] = g->plan->known[v].dtype != DTYPE_NONE ? g->plan->known[v] : g->slot[v];
        k->in[i] = &k->t[i];
        if (!grad_reads_in(step->op, i))
            k->t[i].data = NULL;
        if (a->place[i] == PLACE_NONE)
            continue;
        open_gradient(g, a, k, i);
        grad_in[i] = &k->t[k->n_in + i];
    }
    for (int i = 0; i < k->n_out; i++) {
        const uint32_t v = node->output[i];
        k->out[i] = grad_out[i] = NULL;
        if (v == VALUE_NONE)
            continue;
        struct tensor *t = &k->t[2 * k->n_in + i];
        tensor_view(t, g->plan->type[v].dtype, &g->plan->type[v].shape, NULL, NULL);
        if (grad_reads_out(step->op, i))
            t->data = g->slot[v].data;
        k->out[i] = t;
        if (g->flows[v] && g->gradient[v].dtype != DTYPE_NONE)
            grad_out[i] = &g->gradient[v];
    }
    struct grad_ctx c = {.node = node,
                         .attrs = step->attrs,
                         .opset = step->opset,
                         .n_in = k->n_in,
                         .n_out = k->n_out,
                         .in = k->in,
                         .out = k->out,
                         .grad_out = grad_out,
                         .grad_in = grad_in,
                         .assign = k->assign,
                         .pool = g->host.pool,
                         .host = g,
                         .training = g->opts.training,
                         .saved = g->saved[a->step]};
    g->host.depth++;
    rc = step->op->backward(&c, err);
    plan_release_scratch(&g->host);
    g->host.depth--;
    release_saved(g, a->step);
    if (!rc)
        add_twins(g, a, k);
out:
    if (grad_out != few_grad)
        free(grad_out);
    if (grad_in != few_in)
        free(grad_in);
    return rc;
}

static int run_backward(struct grad *g, const struct grad_action *a, struct err *err)
{
    struct table k;
    int rc = table_init(&k, grad_node(g, a->step), err);
    if (!rc)
        rc = call_backward(g, a, &k, err);
    free(k.own);
    if (rc)
        plan_wrap(g->plan->m, g->plan->graph[0].steps[a->step].node, err);
    return rc;
}

/* ---- binding ---- */
static int check_steps(const struct grad *g, struct err *err)
{
    for (int s = 0; s < g->plan->graph[0].n_steps; s++) {
        const struct plan_step *step = &g->plan->graph[0].steps[s];
        if (!grad_runs(g, s) || (!step->nested && !step->dynamic))
            continue;
        err_set(err, ERR_OPERATOR,
                step->nested ? "runs nested graphs: gradients of control flow are not supported"
                             : "makes a shape that depends on data: gradients need all shapes beforehand");
        plan_wrap(g->plan->m, step->node, err);
        return -1;
    }
    return 0;
}

static int bind(struct grad *g, const struct tensor *in, struct err *err)
{
    bool same = g->bound;
    for (int i = 0; i < g->n_feed; i++) {
        const char *name = g->plan->m->values[g->feed[i]].name;
        if (in[i].dtype == DTYPE_NONE || (in[i].bytes && !in[i].data) || !shape_known(&in[i].shape))
            return err_set(err, ERR_SHAPE, "input '%s' was not given", name);
        same = same && shape_equal(&g->shapes[i], &in[i].shape);
    }
    if (same)
        return 0;
    g->bound = false;
    struct shape *all = calloc((size_t)g->plan->n_input + 1, sizeof *all);
    const struct type *types;
    if (!all)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0, feed = 0; i < g->plan->n_input; i++) {
        const int leaf = g->leaf_of[g->plan->input[i]];
        const bool param = leaf >= 0 && leaf < g->opts.n_params;
        all[i] = param ? g->leaf[leaf].data.shape : in[feed].shape;
        feed += !param;
    }
    int rc = plan_infer(g->plan, all, &types, err);
    free(all);
    if (rc || check_steps(g, err) || grad_find_path(g, err) || grad_schedule(g, err))
        return -1;
    for (int i = 0; i < g->n_feed; i++)
        g->shapes[i] = in[i].shape;
    if (g->slab_cap < g->memory.slab || !g->slab) {
        free(g->slab);
        g->slab_cap = g->memory.slab ? g->memory.slab : ALIGN; /* a multiple of ALIGN */
        g->slab = aligned_alloc(ALIGN, g->slab_cap);
        if (!g->slab) {
            g->slab_cap = 0;
            return err_set(err, ERR_NOMEM, "out of memory for %zu bytes of activations", g->memory.slab);
        }
    }
    g->bound = true;
    return 0;
}

/* The gradient of an input has the shape of this batch. */
static int shape_inputs(struct grad *g, const struct tensor *in, struct err *err)
{
    for (int i = 0; i < g->n_feed; i++) {
        const int leaf = g->leaf_of[g->feed[i]];
        struct grad_leaf *l = leaf >= 0 ? &g->leaf[leaf] : NULL;
        if (!l || (l->sum.dtype == in[i].dtype && shape_equal(&l->sum.shape, &in[i].shape)))
            continue;
        g->memory.gradients -= l->sum.bytes;
        tensor_fini(&l->sum);
        if (tensor_alloc(&l->sum, in[i].dtype, &in[i].shape, err))
            return -1;
        g->memory.gradients += l->sum.bytes;
        l->fresh = true;
    }
    return 0;
}

static int check_feeds(const struct grad *g, const struct tensor *in, struct err *err)
{
    const struct graph *main_graph = model_main(g->plan->m);
    for (int i = 0; i < g->n_feed; i++)
        for (int k = 0; k < main_graph->n_inputs; k++) {
            const struct value_info *vi = &main_graph->inputs[k];
            if (vi->value == g->feed[i] && vi->has_type && vi->type.dtype != DTYPE_NONE &&
                vi->type.dtype != in[i].dtype)
                return err_set(err, ERR_SHAPE, "input '%s' is %s, got %s", g->plan->m->values[g->feed[i]].name,
                               dtype_name(vi->type.dtype), dtype_name(in[i].dtype));
        }
    return 0;
}

int grad_forward(struct grad *g, const struct tensor *in, struct err *err)
{
    g->forward_done = false;
    if (bind(g, in, err) || check_feeds(g, in, err) || shape_inputs(g, in, err))
        return -1;
    grad_drop_saved(g);
    for (int i = 0; i < g->n_stats; i++)
        free(g->stats[i].mean);
    g->n_stats = 0;
    g->batch++;
    memset(g->slot, 0, (size_t)g->plan->m->n_values * sizeof *g->slot);
    memset(g->gradient, 0, (size_t)g->plan->m->n_values * sizeof *g->gradient);
    for (int i = 0; i < g->opts.n_params; i++) {
        const struct tensor *t = &g->leaf[i].data;
        tensor_view(&g->slot[g->leaf[i].value], t->dtype, &t->shape, t->bytes ? t->data : no_bytes, NULL);
    }
    for (int i = 0; i < g->n_feed; i++)
        tensor_view(&g->slot[g->feed[i]], in[i].dtype, &in[i].shape, in[i].bytes ? in[i].data : no_bytes, NULL);
    for (int i = 0; i < g->n_forward; i++)
        if (run_forward(g, &g->action[i], err))
            return -1;
    for (int i = 0; i < g->plan->n_output; i++) {
        const uint32_t v = g->plan->output[i];
        if (g->plan->known[v].dtype != DTYPE_NONE)
            tensor_view(&g->slot[v], g->plan->known[v].dtype, &g->plan->known[v].shape, g->plan->known[v].data, NULL);
        if (g->seed_place[i] == PLACE_NONE)
            continue;
        view_at(&g->seed[i], &g->plan->type[v], g->slab, &g->iv[g->seed_place[i]]);
        zero(g, &g->seed[i]);
    }
    g->forward_done = true;
    return 0;
}

/* The seeds become the gradients of their outputs; where an output is a wanted value itself, or twice an output,
 * they add up. */
static void plant_seeds(struct grad *g)
{
    for (int i = 0; i < g->plan->n_output; i++) {
        const uint32_t v = g->plan->output[i];
        const int leaf = g->leaf_of[v];
        if (g->seed_place[i] == PLACE_NONE)
            continue;
        if (leaf >= 0) {
            if (g->leaf[leaf].fresh)
                zero(g, &g->leaf[leaf].sum);
            g->leaf[leaf].fresh = false;
            add(g, &g->leaf[leaf].sum, &g->seed[i]);
        } else if (g->gradient[v].dtype == DTYPE_NONE) {
            g->gradient[v] = g->seed[i];
        } else {
            add(g, &g->gradient[v], &g->seed[i]);
        }
    }
}

int grad_backward(struct grad *g, struct err *err)
{
    if (!g->forward_done)
        return err_set(err, ERR_INVALID, "a backward pass needs a forward pass before it");
    g->forward_done = false;
    plant_seeds(g);
    for (int i = g->n_forward; i < g->n_action; i++)
        if (g->action[i].backward ? run_backward(g, &g->action[i], err) : run_forward(g, &g->action[i], err))
            return -1;
    for (int i = 0; i < g->n_leaf; i++)
        if (g->leaf[i].fresh) {
            zero(g, &g->leaf[i].sum);
            g->leaf[i].fresh = false;
        }
    return 0;
}
