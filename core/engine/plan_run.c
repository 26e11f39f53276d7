/* SPDX-License-Identifier: Apache-2.0
 * Running. The main graph follows its binding: buffers lie in the slab where the layout put them, outputs have bytes
 * of their own, and what
 * could not be known before is inferred again from the actual tensors right before its node runs. A nested graph
 * runs wholly in that
 * second way, with its values allocated one by one. Strings are freed only at the end of a run, because operators
 * that move
 * strings around point into their inputs' bytes. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/size.h"
#include "core/engine/plan.h"
#include "core/kernels/blocked.h"

enum { MAX_BLOCKS = 256, ALIGN = 64, MAX_DEPTH = 64 };

static char no_bytes[ALIGN] __attribute__((aligned(ALIGN))); /* data of tensors without elements */

/* ---- memory while running ---- */
void plan_host_fini(struct plan_host *host)
{
    for (int i = 0; i < host->n_blocks; i++)
        free(host->block[i].data);
    free(host->block);
    host->block = NULL;
    host->n_blocks = 0;
}

void plan_release_scratch(struct plan_host *host)
{
    for (int i = 0; i < host->n_blocks; i++)
        if (host->block[i].depth == host->depth)
            host->block[i].depth = 0;
    host->scratched = host->depth > 1;
}

static size_t scratch_bytes(const struct plan_host *host)
{
    size_t sum = 0;
    for (int i = 0; i < host->n_blocks; i++)
        sum += host->block[i].bytes;
    return sum;
}

/* The smallest free block that is large enough; else the largest free one, to be grown; else NULL. */
static struct plan_block *pick_block(struct plan_host *host, size_t bytes)
{
    struct plan_block *fit = NULL, *largest = NULL;
    for (int i = 0; i < host->n_blocks; i++) {
        struct plan_block *b = &host->block[i];
        if (b->depth)
            continue;
        if (b->bytes >= bytes && (!fit || b->bytes < fit->bytes))
            fit = b;
        if (!largest || b->bytes > largest->bytes)
            largest = b;
    }
    return fit ? fit : largest;
}

static void *host_scratch(struct plan_host *host, size_t bytes, struct err *err)
{
    if (!host->block && !(host->block = calloc(MAX_BLOCKS, sizeof *host->block)))
        goto nomem;
    if (bytes > host->limit || scratch_bytes(host) > host->limit - bytes) {
        err_set(err, ERR_MODEL_TOO_LARGE, "needs %zu bytes of scratch, over the limit of %zu", bytes, host->limit);
        return NULL;
    }
    struct plan_block *b = pick_block(host, bytes);
    if (!b && host->n_blocks < MAX_BLOCKS)
        b = &host->block[host->n_blocks++];
    if (!b)
        goto nomem;
    if (!b->data || b->bytes < bytes) {
        free(b->data);
        b->bytes = bytes ? (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN;
        b->data = aligned_alloc(ALIGN, b->bytes);
        if (!b->data) {
            b->bytes = 0;
            goto nomem;
        }
    }
    b->depth = host->depth;
    host->scratched = true;
    return b->data;
nomem:
    err_set(err, ERR_NOMEM, "out of memory for %zu bytes of scratch", bytes);
    return NULL;
}

void *run_scratch(struct run_ctx *c, size_t bytes, struct err *err)
{
    return host_scratch(c->host, bytes, err);
}

void *grad_scratch(struct grad_ctx *c, size_t bytes, struct err *err)
{
    return host_scratch(c->host, bytes, err);
}

static int own_bytes(struct plan_host *host, struct tensor *t, enum dtype dtype, const struct shape *shape,
                     struct err *err)
{
    size_t bytes = 0;
    int64_t n = shape_count(shape);
    char text[SHAPE_TEXT];
    if (n < 0 || !dtype_bytes(dtype, n, &bytes) || bytes > host->limit || host->used > host->limit - bytes)
        return err_set(err, ERR_MODEL_TOO_LARGE, "an output of %s%s is over the limit of %zu bytes", dtype_name(dtype),
                       shape_text(shape, text), host->limit);
    if ((dtype == DTYPE_STRING ? tensor_alloc : tensor_alloc_raw)(t, dtype, shape, err))
        return -1;
    host->used += bytes;
    return 0;
}

static void drop(struct plan_host *host, struct tensor *t)
{
    if (t->buf && t->bytes <= host->used)
        host->used -= t->bytes;
    tensor_fini(t);
}

int run_alloc(struct run_ctx *c, int i, enum dtype dtype, const struct shape *shape, struct err *err)
{
    struct tensor *t = run_out(c, i);
    if (!t || (t->data && t->dtype == dtype && shape_equal(&t->shape, shape)))
        return 0;
    drop(c->host, t);
    return own_bytes(c->host, t, dtype, shape, err);
}

void run_take(struct run_ctx *c, int i, struct tensor *t)
{
    struct tensor *out = run_out(c, i);
    if (!out) {
        drop(c->host, t);
        return;
    }
    drop(c->host, out);
    *out = *t;
    *t = (struct tensor){0};
}

void run_drop(struct run_ctx *c, struct tensor *t)
{
    drop(c->host, t);
}

int run_give(struct run_ctx *c, int i, struct tensor *t, struct err *err)
{
    struct plan_host *host = c->host;
    if (t->bytes > host->limit || host->used > host->limit - t->bytes) {
        tensor_fini(t);
        return err_set(err, ERR_MODEL_TOO_LARGE, "output %d is over the limit of %zu bytes", i, host->limit);
    }
    if (t->buf)
        host->used += t->bytes;
    run_take(c, i, t);
    return 0;
}

/* ---- one node ---- */
/* out[i] NULL: nobody needs it. Tensors of known shape have bytes already. */
static int call_forward(struct plan_host *host, const struct plan_step *step, const struct tensor *const *in, int n_in,
                        struct tensor *const *out, int n_out, struct err *err)
{
    struct run_ctx c = {.node = &host->model->nodes[step->node],
                        .attrs = step->attrs,
                        .opset = step->opset,
                        .n_in = n_in,
                        .n_out = n_out,
                        .in = in,
                        .out = out,
                        .pool = host->pool,
                        .settled = step->settled,
                        .host = host};
    for (int i = 0; i < n_in && !step->op->takes_lists; i++)
        if (in[i] && tensor_is_list(in[i])) {
            err_set(err, ERR_MODEL, "input #%d is a sequence or an optional; it must be a tensor", i);
            plan_wrap(host->model, step->node, err);
            return -1;
        }
    host->depth++;
    int rc = step->op->forward(&c, err);
    if (host->scratched)
        plan_release_scratch(host);
    host->depth--;
    for (int i = 0; i < n_out && !rc; i++) {
        if (!out[i])
            continue;
        if (out[i]->dtype == DTYPE_NONE || (!out[i]->data && tensor_count(out[i]) != 0))
            rc = err_set(err, ERR_INTERNAL, "output %d was not made", i);
        else if (!out[i]->data)
            out[i]->data = no_bytes;
    }
    if (rc)
        plan_wrap(host->model, step->node, err);
    return rc;
}

static int allocate_inferred(struct plan_host *host, const struct plan_step *step, const struct type *types,
                             struct tensor *const *out, int n_out, struct err *err)
{
    for (int i = 0; i < n_out; i++) {
        const struct type *t = &types[i];
        if (!out[i] || out[i]->data || t->kind != TYPE_TENSOR || t->dtype == DTYPE_NONE || !shape_known(&t->shape))
            continue;
        if (own_bytes(host, out[i], t->dtype, &t->shape, err)) {
            plan_wrap(host->model, step->node, err);
            return -1;
        }
    }
    return 0;
}

int plan_evaluate(const struct plan_eval *eval, struct tensor *out, struct err *err)
{
    const struct node *node = &eval->m->nodes[eval->step->node];
    struct plan_host host = {.model = eval->m, .pool = eval->pool, .limit = eval->limit};
    struct arena *arena = arena_new();
    int rc = -1, n_out = node->n_output;
    size_t n = (size_t)n_out + 1;
    struct type *types = arena ? arena_calloc(arena, n, sizeof *types) : NULL;
    struct tensor **ptr = arena ? arena_calloc(arena, n, sizeof *ptr) : NULL;
    if (!types || !ptr) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (int i = 0; i < n_out; i++) {
        out[i] = (struct tensor){0};
        if (node->output[i] != VALUE_NONE)
            ptr[i] = &out[i];
    }
    if (plan_infer_step(eval->m, eval->step, eval->in, eval->n_in, types, arena, err) ||
        allocate_inferred(&host, eval->step, types, ptr, n_out, err) ||
        call_forward(&host, eval->step, eval->in, eval->n_in, ptr, n_out, err))
        goto out;
    rc = 0;
    for (int i = 0; i < n_out && !rc; i++) { /* strings may point into inputs */
        struct tensor own;
        if (out[i].dtype != DTYPE_STRING)
            continue;
        rc = tensor_copy(&own, &out[i], err);
        if (!rc) {
            tensor_fini(&out[i]);
            out[i] = own;
        }
    }
out:
    for (int i = 0; i < n_out && rc; i++)
        tensor_fini(&out[i]);
    plan_host_fini(&host);
    arena_free(arena);
    return rc;
}

int engine_eval_node(const struct model *m, uint32_t id, struct tensor *out, struct err *err)
{
    const struct node *node = &m->nodes[id];
    int64_t opset = model_opset(m, node->domain);
    struct plan_step step = {.node = id, .opset = opset > 0 && opset < INT32_MAX ? (int)opset : 1};
    struct arena *arena = arena_new();
    const struct tensor **in = arena ? arena_calloc(arena, (size_t)node->n_input + 1, sizeof *in) : NULL;
    int rc = -1;
    for (int i = 0; i < node->n_output; i++)
        out[i] = (struct tensor){0};
    if (!in) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    step.op = op_find(node->op_type, node->domain ? node->domain : "", step.opset);
    if (!step.op || step.op->internal || step.op->nondeterministic) {
        if (step.op && !step.op->internal)
            err_set(err, ERR_OPERATOR, "its result is random");
        else
            err_set(err, ERR_OPERATOR, "operator is not known at opset %d", step.opset);
        goto out;
    }
    step.attrs = arena_alloc(arena, step.op->attrs_size ? step.op->attrs_size : 1);
    if (!step.attrs || op_parse_attrs(step.op, m, node, step.attrs, arena, err))
        goto out;
    for (int i = 0; i < node->n_input; i++) {
        if (node->input[i] == VALUE_NONE)
            continue;
        in[i] = value_const(m, node->input[i]);
        if (!in[i] || (in[i]->bytes && !in[i]->data)) {
            err_set(err, ERR_INVALID, "input '%s' is not constant", m->values[node->input[i]].name);
            goto out;
        }
    }
    struct plan_eval eval = {.m = m, .step = &step, .in = in, .n_in = node->n_input, .limit = (size_t)4 << 30};
    rc = plan_evaluate(&eval, out, err);
    arena_free(arena);
    return rc;
out:
    plan_wrap(m, id, err);
    arena_free(arena);
    return rc;
}

/* ---- graphs ---- */
static const struct tensor *lookup(const struct plan *plan, uint32_t v)
{
    if (plan->slot[v].dtype != DTYPE_NONE)
        return &plan->slot[v];
    return plan->known[v].dtype != DTYPE_NONE ? &plan->known[v] : NULL;
}

static int observe(const struct plan_run_opts *opts, uint32_t v, const struct tensor *t, struct err *err)
{
    return opts && opts->observe && t && !tensor_is_list(t) ? opts->observe(opts->observe_arg, v, t, err) : 0;
}

static const struct plan_stand_in *find_stand_in(const struct plan *plan, uint32_t twin)
{
    uint32_t from = 0, to = plan->n_stand_in;
    while (from < to) {
        const uint32_t middle = from + (to - from) / 2;
        if (plan->stand_in[middle].twin < twin)
            from = middle + 1;
        else
            to = middle;
    }
    return from < plan->n_stand_in && plan->stand_in[from].twin == twin ? &plan->stand_in[from] : NULL;
}

/* A blocked image as the value it stands for. Whole blocks hold the same numbers in another order; where lanes are
 * unused, or the order counts, it is laid out plainly first. */
static int observe_stand_in(struct plan *plan, const struct plan_run_opts *opts, const struct plan_stand_in *s,
                            const struct tensor *t, struct err *err)
{
    const int64_t *d = t->shape.dim, n = d[0], plane = d[2] * d[3];
    const struct shape shape = s->rank == 4 ? SHAPE(n, s->channels, d[2], d[3]) : SHAPE(n, s->channels, d[3]);
    struct tensor plain;
    int rc = -1;
    plan->host.depth++;
    void *data = t->data;
    if (!opts->any_order || s->channels % BLOCK != 0) {
        data = host_scratch(&plan->host, (size_t)(n * s->channels * plane) * sizeof(float), err);
        if (data)
            from_blocked(plan->pool, sizeof(float), n, s->channels, plane, t->data, data);
    }
    if (data) {
        tensor_view(&plain, DTYPE_FLOAT, &shape, data, NULL);
        rc = observe(opts, s->value, &plain, err);
    }
    plan_release_scratch(&plan->host);
    plan->host.depth--;
    return rc;
}

/* What a step made; of a plan with a list of watched values, only these. */
static int observe_outputs(struct plan *plan, const struct plan_run_opts *opts, const struct node *node,
                           struct err *err)
{
    for (int i = 0; i < node->n_output; i++) {
        const uint32_t v = node->output[i];
        if (v == VALUE_NONE || plan->last[v] < 0 || plan->slot[v].dtype == DTYPE_NONE ||
            (plan->watch && !plan->watch[v]))
            continue;
        const struct plan_stand_in *s = find_stand_in(plan, v);
        if (s ? observe_stand_in(plan, opts, s, &plan->slot[v], err) : observe(opts, v, &plan->slot[v], err))
            return -1;
    }
    return 0;
}

static int gather(struct plan *plan, const struct node *node, const struct tensor **in, struct err *err)
{
    for (int i = 0; i < node->n_input; i++) {
        in[i] = node->input[i] == VALUE_NONE ? NULL : lookup(plan, node->input[i]);
        if (node->input[i] != VALUE_NONE && !in[i])
            return err_set(err, ERR_MODEL, "input '%s' has no value here", plan->m->values[node->input[i]].name);
    }
    return 0;
}

/* The caller's hooks, between two nodes. */
static int check_time(struct plan_host *host, struct err *err)
{
    const struct plan_run_opts *o = host->opts;
    if (!o)
        return 0;
    if (o->cancel && o->cancel(o->cancel_arg, err))
        return -1;
    if (o->max_seconds > 0 && clock_seconds() - host->started > o->max_seconds)
        return err_set(err, ERR_TIMEOUT, "the run takes longer than the limit of %g seconds", o->max_seconds);
    return 0;
}

/* Give outputs the places the binding planned for them. */
static int place_outputs(struct plan *plan, const struct node *node, struct tensor **out, struct err *err)
{
    for (int i = 0; i < node->n_output; i++) {
        const uint32_t v = node->output[i];
        if (v == VALUE_NONE || plan->last[v] < 0)
            continue;
        const struct type *t = &plan->type[v];
        const uint32_t home = plan->home[v];
        out[i] = &plan->slot[v];
        if (plan->offset[v] != SIZE_MAX) {
            drop(&plan->host, out[i]);
            tensor_view(out[i], t->dtype, &t->shape, (char *)plan->slab + plan->offset[v], NULL);
        } else if (home != VALUE_NONE && home != v) {
            const struct tensor *theirs = lookup(plan, home);
            if (!theirs)
                return err_set(err, ERR_MODEL, "input '%s' has no value here", plan->m->values[home].name);
            tensor_view(out[i], t->dtype, &t->shape, theirs->data ? theirs->data : no_bytes, theirs->buf);
        } else if (home == v || (plan_type_ready(t) && t->dtype == DTYPE_STRING)) {
            if (own_bytes(&plan->host, out[i], t->dtype, &t->shape, err))
                return -1;
        }
    }
    return 0;
}

/* What inference promised about the outputs, others rely on. */
static int check_outputs(const struct plan *plan, const struct node *node, struct err *err)
{
    char planned[SHAPE_TEXT], got[SHAPE_TEXT];
    for (int i = 0; i < node->n_output; i++) {
        const uint32_t v = node->output[i];
        if (v == VALUE_NONE || plan->last[v] < 0 || !plan_type_ready(&plan->type[v]))
            continue;
        const struct type *t = &plan->type[v];
        const struct tensor *y = &plan->slot[v];
        if (y->dtype != t->dtype || !shape_equal(&y->shape, &t->shape))
            return err_set(err, ERR_SHAPE, "output '%s' was planned as %s%s but is %s%s", plan->m->values[v].name,
                           dtype_name(t->dtype), shape_text(&t->shape, planned), dtype_name(y->dtype),
                           shape_text(&y->shape, got));
    }
    return 0;
}

static int run_step(struct plan *plan, const struct plan_step *step, bool main_graph, struct err *err)
{
    const struct node *node = &plan->m->nodes[step->node];
    size_t n_in = (size_t)node->n_input, n_out = (size_t)node->n_output;
    const struct tensor *few_in[8];
    struct tensor *few_out[8];
    const struct tensor **in = n_in <= 8 ? few_in : calloc(n_in, sizeof *in);
    struct tensor **out = n_out <= 8 ? few_out : calloc(n_out, sizeof *out);
    struct arena *arena = NULL;
    int rc = -1;
    if (!in || !out) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    memset(out, 0, n_out * sizeof *out);
    if (check_time(&plan->host, err))
        goto out;
    if (gather(plan, node, in, err) || (main_graph && place_outputs(plan, node, out, err))) {
        plan_wrap(plan->m, step->node, err);
        goto out;
    }
    if (!main_graph || step->dynamic) {
        arena = arena_new();
        struct type *types = arena ? arena_calloc(arena, n_out + 1, sizeof *types) : NULL;
        if (!types) {
            err_set(err, ERR_NOMEM, "out of memory");
            goto out;
        }
        for (size_t i = 0; !main_graph && i < n_out; i++)
            out[i] = node->output[i] == VALUE_NONE ? NULL : &plan->slot[node->output[i]];
        if (plan_infer_step(plan->m, step, in, (int)n_in, types, arena, err) ||
            allocate_inferred(&plan->host, step, types, out, (int)n_out, err))
            goto out;
    }
    rc = call_forward(&plan->host, step, in, (int)n_in, out, (int)n_out, err);
    if (!rc && main_graph && !step->settled && (rc = check_outputs(plan, node, err)))
        plan_wrap(plan->m, step->node, err);
out:
    arena_free(arena);
    if (in != few_in)
        free(in);
    if (out != few_out)
        free(out);
    return rc;
}

/* Values of a nested graph: all of them go when it ends. */
static void clear_graph(struct plan *plan, uint32_t graph)
{
    const struct graph *g = &plan->m->graphs[graph];
    for (int i = 0; i < g->n_inputs; i++)
        drop(&plan->host, &plan->slot[g->inputs[i].value]);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *node = &plan->m->nodes[g->nodes[i]];
        for (int k = 0; k < node->n_output; k++)
            if (node->output[k] != VALUE_NONE)
                drop(&plan->host, &plan->slot[node->output[k]]);
    }
}

int run_graph(struct run_ctx *c, uint32_t graph, const struct tensor *const *in, int n_in, struct tensor *out,
              int n_out, struct err *err)
{
    struct plan_host *host = c->host;
    struct plan *plan = host->plan;
    if (!plan || graph >= plan->m->n_graphs || !plan->graph[graph].resolved)
        return err_set(err, ERR_OPERATOR, "a nested graph cannot run here");
    if (host->depth > MAX_DEPTH)
        return err_set(err, ERR_MODEL, "graphs are nested deeper than %d", MAX_DEPTH);
    const struct graph *g = &plan->m->graphs[graph];
    if (n_in != g->n_inputs || n_out != g->n_outputs)
        return err_set(err, ERR_MODEL, "nested graph '%s' has %d inputs and %d outputs, is called with %d and %d",
                       g->name ? g->name : "", g->n_inputs, g->n_outputs, n_in, n_out);
    int rc = -1, made = 0;
    for (int i = 0; i < n_in; i++) {
        plan->slot[g->inputs[i].value] = *in[i]; /* borrowed */
        plan->slot[g->inputs[i].value].buf = NULL;
    }
    for (int s = 0; s < plan->graph[graph].n_steps; s++)
        if (run_step(plan, &plan->graph[graph].steps[s], false, err))
            goto out;
    for (; made < n_out; made++) {
        const struct tensor *t = lookup(plan, g->outputs[made].value);
        if (!t) {
            err_set(err, ERR_MODEL, "nested graph '%s' does not make its output %d", g->name ? g->name : "", made);
            goto out;
        }
        if (t->bytes > host->limit - (host->used < host->limit ? host->used : host->limit)) {
            err_set(err, ERR_MODEL_TOO_LARGE, "nested graph '%s' needs more than the limit of %zu bytes",
                    g->name ? g->name : "", host->limit);
            goto out;
        }
        if (tensor_copy(&out[made], t, err))
            goto out;
        host->used += out[made].bytes;
    }
    rc = 0;
out:
    for (int i = 0; i < made && rc; i++)
        drop(host, &out[i]);
    clear_graph(plan, graph);
    return rc;
}

/* ---- the whole model ---- */
/* Where an input is declared as a sequence or an optional. An optional may be fed as what it holds. */
static int check_list(const char *name, const struct type *type, const struct tensor *t, struct err *err)
{
    static const struct type nothing = {.kind = TYPE_NONE};
    if (type->kind == TYPE_OPTIONAL && t->dtype != DTYPE_OPTIONAL)
        type = type->inner ? type->inner : &nothing;
    const struct type *inner = type->inner ? type->inner : &nothing;
    bool fits = type->kind == TYPE_OPTIONAL ||
                (type->kind == TYPE_SEQUENCE && inner->kind != TYPE_SEQUENCE && t->dtype == DTYPE_SEQUENCE) ||
                (type->kind == TYPE_TENSOR && !tensor_is_list(t));
    if (!fits)
        return err_set(err, ERR_SHAPE, "input '%s' is declared as another kind of value than the %s it is given", name,
                       t->dtype == DTYPE_SEQUENCE   ? "sequence"
                       : t->dtype == DTYPE_OPTIONAL ? "optional"
                                                    : "tensor");
    for (int64_t i = 0; t->dtype == DTYPE_SEQUENCE && i < tensor_count(t); i++)
        if (tensor_is_list(&tensor_items(t)[i]) ||
            (inner->kind == TYPE_TENSOR && inner->dtype != DTYPE_NONE && tensor_items(t)[i].dtype != inner->dtype))
            return err_set(err, ERR_SHAPE, "item %" PRId64 " of input '%s' is %s, must be %s", i, name,
                           dtype_name(tensor_items(t)[i].dtype), dtype_name(inner->dtype));
    return 0;
}

static int check_feed(const struct plan *plan, int i, const struct tensor *t, struct err *err)
{
    const struct graph *g = model_main(plan->m);
    const struct value_info *vi = NULL;
    char want[SHAPE_TEXT], got[SHAPE_TEXT];
    for (int k = 0; k < g->n_inputs; k++)
        if (g->inputs[k].value == plan->input[i])
            vi = &g->inputs[k];
    const char *name = plan->m->values[plan->input[i]].name;
    if (t->dtype == DTYPE_NONE || (t->bytes && !t->data) || !shape_known(&t->shape))
        return err_set(err, ERR_SHAPE, "input '%s' was not given", name);
    if (!vi || !vi->has_type)
        return 0;
    if (vi->type.kind != TYPE_TENSOR || tensor_is_list(t))
        return check_list(name, &vi->type, t, err);
    if (vi->type.dtype != DTYPE_NONE && vi->type.dtype != t->dtype)
        return err_set(err, ERR_SHAPE, "input '%s' is %s, got %s", name, dtype_name(vi->type.dtype),
                       dtype_name(t->dtype));
    const struct shape *s = &vi->type.shape;
    if (!vi->type.has_shape || s->rank < 0)
        return 0;
    bool fits = s->rank == t->shape.rank;
    for (int d = 0; fits && d < s->rank; d++)
        fits = s->dim[d] < 0 || s->dim[d] == t->shape.dim[d];
    return fits ? 0
                : err_set(err, ERR_SHAPE, "input '%s' is %s, got %s", name, shape_text(s, want),
                          shape_text(&t->shape, got));
}

static int bind_feeds(struct plan *plan, const struct tensor *in, struct err *err)
{
    bool same = plan->bound;
    for (int i = 0; i < plan->n_input; i++) {
        if (check_feed(plan, i, &in[i], err))
            return -1;
        same = same && shape_equal(&plan->bound_shape[i], &in[i].shape);
    }
    if (!same) {
        struct shape *shapes = calloc((size_t)plan->n_input + 1, sizeof *shapes);
        if (!shapes)
            return err_set(err, ERR_NOMEM, "out of memory");
        for (int i = 0; i < plan->n_input; i++)
            shapes[i] = in[i].shape;
        const int rc = plan_bind(plan, shapes, err);
        free(shapes);
        if (rc)
            return -1;
    }
    const size_t need = plan->slab_bytes ? plan->slab_bytes : ALIGN; /* a multiple of 64 */
    if (plan->slab_cap < need) {
        plan->placed = false;
        free(plan->slab);
        plan->slab = aligned_alloc(ALIGN, need);
        plan->slab_cap = plan->slab ? need : 0;
        if (!plan->slab)
            return err_set(err, ERR_NOMEM, "out of memory for %zu bytes of activations", need);
    }
    return plan_prepare(plan, err);
}

/* A step whose call is ready made. */
static int run_ready(struct plan *plan, const struct plan_step *step, struct err *err)
{
    struct plan_host *host = &plan->host;
    struct run_ctx *c = step->ctx;
    host->depth++;
    int rc = step->op->forward(c, err);
    if (host->scratched)
        plan_release_scratch(host);
    host->depth--;
    for (int i = 0; i < c->n_out && !rc; i++)
        if (c->out[i] && c->out[i]->buf) { /* it took bytes of its own after all */
            plan->placed = false;
            rc = check_outputs(plan, c->node, err);
        }
    if (rc)
        plan_wrap(plan->m, step->node, err);
    return rc;
}

/* Large weights are read once a run: their pages of the file go back as soon as their reader is done. */
static void release_weights(const struct plan *plan, const struct node *n)
{
    for (int i = 0; i < n->n_input; i++)
        if (n->input[i] != VALUE_NONE && plan->m->values[n->input[i]].weight)
            tensor_release_pages(&plan->m->values[n->input[i]].weight->tensor);
}

static int run_main(struct plan *plan, const struct plan_run_opts *opts, struct err *err)
{
    const struct plan_graph *g = &plan->graph[0];
    const bool observed = opts && opts->observe, limited = opts && (opts->cancel || opts->max_seconds > 0);
    for (int k = 0; k < plan->n_run; k++) {
        const int s = plan->run[k];
        const struct plan_step *step = &g->steps[s];
        if (!step->ctx ? run_step(plan, step, true, err)
                       : (limited && check_time(&plan->host, err)) || run_ready(plan, step, err))
            return -1;
        if (plan->streams)
            release_weights(plan, &plan->m->nodes[step->node]);
        if (observed && observe_outputs(plan, opts, &plan->m->nodes[step->node], err))
            return -1;
        for (int i = plan->die_first[s]; i < plan->die_first[s + 1]; i++)
            if (plan->slot[plan->die[i]].dtype != DTYPE_STRING)
                drop(&plan->host, &plan->slot[plan->die[i]]);
    }
    return 0;
}

/* An output that is also an input, a constant or a string is copied; any other one is simply handed over. */
static int take_output(struct plan *plan, uint32_t v, struct tensor *out, struct err *err)
{
    const struct tensor *t = lookup(plan, v);
    if (!t)
        return err_set(err, ERR_MODEL, "output '%s' has no value", plan->m->values[v].name);
    if (!t->buf || t->dtype == DTYPE_STRING || t == &plan->known[v])
        return tensor_copy(out, t, err);
    tensor_ref(out, t);
    return 0;
}

/* After an error anything may be left anywhere; otherwise only what is not in the slab. */
static void clear_slots(struct plan *plan, bool all)
{
    for (uint32_t i = 0; i < plan->n_loose; i++)
        tensor_fini(&plan->slot[plan->loose[i]]);
    for (uint32_t v = 0; v < plan->m->n_values && all; v++)
        tensor_fini(&plan->slot[v]);
    plan->placed = plan->placed && !all;
    plan->host.used = 0;
}

int plan_run(struct plan *plan, const struct tensor *in, struct tensor *out, const struct plan_run_opts *opts,
             struct err *err)
{
    int rc = -1, made = 0;
    for (int i = 0; i < plan->n_output; i++)
        out[i] = (struct tensor){0};
    if (bind_feeds(plan, in, err))
        return -1;
    plan->host.used = plan->slab_bytes;
    plan->host.opts = opts;
    plan->host.started = opts && opts->max_seconds > 0 ? clock_seconds() : 0;
    for (int i = 0; i < plan->n_input; i++) {
        struct tensor *slot = &plan->slot[plan->input[i]];
        *slot = in[i]; /* borrowed */
        slot->buf = NULL;
        if (!slot->data)
            slot->data = no_bytes;
        if (observe(opts, plan->input[i], &in[i], err))
            goto out;
    }
    if (run_main(plan, opts, err))
        goto out;
    for (; made < plan->n_output; made++)
        if (take_output(plan, plan->output[made], &out[made], err))
            goto out;
    rc = 0;
out:
    for (int i = 0; i < made && rc; i++)
        tensor_fini(&out[i]);
    clear_slots(plan, rc || !plan->placed);
    plan->host.opts = NULL;
    return rc;
}
