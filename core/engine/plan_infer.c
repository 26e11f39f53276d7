/* SPDX-License-Identifier: Apache-2.0
 * Binding a plan to input shapes. One walk over the nodes in order infers the types of all values and evaluates,
 * then and
 * there, every deterministic node whose inputs are all known: weights arithmetic, Constant, and Shape of a known
 * shape. So the chains of
 * Shape - Gather - Concat - Reshape that exporters write disappear, and the shapes behind them become known.
 * Caps keep a hostile model from computing here instead of in the run, where limits hold: bytes of one result and of
 * all,
 * multiply-accumulates. What does not fit is simply not folded. A node that fails on its constants is left for the
 * run to report.
 * Declared value_info is not believed: inference decides. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/plan.h"

#define FOLD_BYTES ((size_t)16 << 20)      /* of one node's outputs */
#define FOLD_ALL_BYTES ((size_t)256 << 20) /* of all folded values */
#define FOLD_INPUT_BYTES ((size_t)64 << 20)
#define FOLD_MACS ((int64_t)64 << 20)

static const struct type unknown_type = {.kind = TYPE_TENSOR, .shape = {.rank = SHAPE_UNKNOWN_RANK}};

static struct type type_of_tensor(const struct tensor *t)
{
    if (tensor_is_list(t))
        return (struct type){.kind = t->dtype == DTYPE_SEQUENCE ? TYPE_SEQUENCE : TYPE_OPTIONAL, .shape = t->shape};
    return (struct type){
        .kind = TYPE_TENSOR, .dtype = t->dtype, .has_dtype = true, .has_shape = true, .shape = t->shape};
}

/* A type's bytes; false when it overflows. */
static bool type_bytes(const struct type *t, size_t *bytes)
{
    int64_t n = shape_count(&t->shape);
    return n >= 0 && dtype_bytes(t->dtype, n, bytes);
}

/* ---- one node ---- */
static int call_infer(const struct model *m, const struct plan_step *step, struct infer_ctx *c, struct err *err)
{
    for (int i = 0; i < c->n_out; i++)
        c->out[i] = unknown_type;
    c->node = &m->nodes[step->node];
    c->attrs = step->attrs;
    c->opset = step->opset;
    for (int i = 0; i < c->n_in && !step->op->takes_lists; i++)
        if (c->in[i] && c->in[i]->kind != TYPE_TENSOR && c->in[i]->kind != TYPE_NONE) {
            err_set(err, ERR_MODEL, "input #%d is %s; it must be a tensor", i,
                    c->in[i]->kind == TYPE_SEQUENCE   ? "a sequence"
                    : c->in[i]->kind == TYPE_OPTIONAL ? "an optional"
                                                      : "of a kind that cannot be held");
            plan_wrap(m, step->node, err);
            return -1;
        }
    if (step->op->infer && step->op->infer(c, err)) {
        plan_wrap(m, step->node, err);
        return -1;
    }
    for (int i = 0; i < c->n_out; i++) {
        c->out[i].has_dtype = c->out[i].dtype != DTYPE_NONE;
        c->out[i].has_shape = c->out[i].kind == TYPE_TENSOR && c->out[i].shape.rank >= 0;
    }
    return 0;
}

int plan_infer_step(const struct model *m, const struct plan_step *step, const struct tensor *const *in, int n_in,
                    struct type *out, struct arena *arena, struct err *err)
{
    struct type *types = arena_calloc(arena, (size_t)n_in + 1, sizeof *types);
    const struct type **ptr = arena_calloc(arena, (size_t)n_in + 1, sizeof *ptr);
    if (!types || !ptr)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < n_in; i++) {
        if (!in[i])
            continue;
        types[i] = type_of_tensor(in[i]);
        ptr[i] = &types[i];
    }
    struct infer_ctx c = {
        .n_in = n_in, .n_out = m->nodes[step->node].n_output, .in = ptr, .in_value = in, .out = out, .arena = arena};
    return call_infer(m, step, &c, err);
}

struct walk {
    struct plan *plan;
    int at; /* step */
    struct plan_step *step;
    const struct node *node;
    const struct type **in;
    const struct tensor **value;
    struct type *out;
};

/* A weight that was left where it lies in the file, at an odd address, may be looked at but not computed with
 * (onnx_read_opts.keep_unaligned). */
static bool aligned(const struct tensor *t)
{
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    return (uintptr_t)t->data % (width > 8 ? 8 : width ? width : 1) == 0;
}

static int gather_inputs(struct walk *w, struct err *err)
{
    struct plan *plan = w->plan;
    size_t n = (size_t)w->node->n_input + 1;
    w->in = arena_calloc(plan->bind_arena, n, sizeof *w->in);
    w->value = arena_calloc(plan->bind_arena, n, sizeof *w->value);
    w->out = arena_calloc(plan->bind_arena, (size_t)w->node->n_output + 1, sizeof *w->out);
    if (!w->in || !w->value || !w->out)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < w->node->n_input; i++) {
        uint32_t v = w->node->input[i];
        if (v == VALUE_NONE)
            continue;
        w->in[i] = &plan->type[v];
        if (plan->known[v].dtype != DTYPE_NONE && aligned(&plan->known[v]))
            w->value[i] = &plan->known[v];
    }
    return 0;
}

static bool outputs_known_always(const struct walk *w)
{
    bool any = false;
    for (int i = 0; i < w->node->n_output; i++) {
        uint32_t v = w->node->output[i];
        if (v == VALUE_NONE)
            continue;
        if (w->plan->known[v].dtype == DTYPE_NONE || !w->plan->known_always[v])
            return false;
        any = true;
    }
    return any;
}

/* May this node be evaluated now? *always: also under any other input shapes. */
static bool foldable(const struct walk *w, bool *always)
{
    const struct op_class *op = w->step->op;
    size_t in_bytes = 0;
    *always = true;
    if (op->nondeterministic || w->step->nested || !op->forward || w->node->n_output == 0)
        return false;
    for (int i = 0; i < w->node->n_output; i++)
        if (w->out[i].kind != TYPE_TENSOR) /* lists are made while running */
            return false;
    for (int i = 0; i < w->node->n_input; i++) {
        uint32_t v = w->node->input[i];
        if (v == VALUE_NONE)
            continue;
        if (!w->value[i] && !(op->shape_only && plan_type_ready(w->in[i])))
            return false;
        *always = *always && w->value[i] && w->plan->known_always[v];
        if (w->value[i] && !op->shape_only)
            in_bytes += w->value[i]->bytes;
    }
    return in_bytes <= FOLD_INPUT_BYTES;
}

static bool fold_is_cheap(const struct walk *w)
{
    size_t total = 0, bytes;
    for (int i = 0; i < w->node->n_output; i++)
        if (plan_type_ready(&w->out[i]) && (!type_bytes(&w->out[i], &bytes) || !size_add(total, bytes, &total)))
            return false;
    return total <= FOLD_BYTES && w->plan->macs[w->at] <= FOLD_MACS;
}

static void fold(struct walk *w, bool always)
{
    struct plan *plan = w->plan;
    size_t n_in = (size_t)w->node->n_input, n_out = (size_t)w->node->n_output;
    const struct tensor **in = arena_calloc(plan->bind_arena, n_in + 1, sizeof *in);
    struct tensor *fake = arena_calloc(plan->bind_arena, n_in + 1, sizeof *fake);
    struct tensor *out = arena_calloc(plan->bind_arena, n_out + 1, sizeof *out);
    if (!in || !fake || !out || plan->known_bytes >= FOLD_ALL_BYTES)
        return;
    for (size_t i = 0; i < n_in; i++) {
        if (w->value[i]) {
            in[i] = w->value[i];
        } else if (w->in[i]) {
            tensor_view(&fake[i], w->in[i]->dtype, &w->in[i]->shape, NULL, NULL);
            in[i] = &fake[i];
        }
    }
    size_t room = FOLD_ALL_BYTES - plan->known_bytes;
    struct plan_eval eval = {.m = plan->m,
                             .step = w->step,
                             .in = in,
                             .n_in = (int)n_in,
                             .pool = plan->pool,
                             .limit = room < FOLD_BYTES ? room : FOLD_BYTES};
    if (plan_evaluate(&eval, out, NULL))
        return;
    for (size_t i = 0; i < n_out; i++) {
        uint32_t v = w->node->output[i];
        if (v == VALUE_NONE) {
            tensor_fini(&out[i]);
            continue;
        }
        plan->known[v] = out[i];
        plan->known_always[v] = always;
        plan->known_bytes += out[i].bytes;
        w->out[i] = type_of_tensor(&out[i]);
    }
    w->step->folded = true;
}

static void measure(struct walk *w, struct infer_ctx *c)
{
    int64_t *macs = &w->plan->macs[w->at];
    *macs = 0;
    if (!w->step->op->cost)
        return;
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i] && !plan_type_ready(c->in[i]))
            *macs = -1;
    for (int i = 0; i < c->n_out; i++)
        if (w->node->output[i] != VALUE_NONE && !plan_type_ready(&c->out[i]))
            *macs = -1;
    if (*macs < 0)
        return;
    struct op_cost cost = {0};
    w->step->op->cost(c, &cost);
    *macs = cost.macs;
}

static int infer_node(struct walk *w, struct err *err)
{
    struct plan *plan = w->plan;
    w->node = &plan->m->nodes[w->step->node];
    w->step->folded = outputs_known_always(w);
    if (w->step->folded) {
        for (int i = 0; i < w->node->n_output; i++)
            if (w->node->output[i] != VALUE_NONE)
                plan->type[w->node->output[i]] = type_of_tensor(&plan->known[w->node->output[i]]);
        plan->macs[w->at] = 0;
        return 0;
    }
    if (gather_inputs(w, err))
        return -1;
    struct infer_ctx c = {.n_in = w->node->n_input,
                          .n_out = w->node->n_output,
                          .in = w->in,
                          .in_value = w->value,
                          .asked = &w->step->asked,
                          .out = w->out,
                          .arena = plan->bind_arena};
    w->step->asked = false;
    if (call_infer(plan->m, w->step, &c, err))
        return -1;
    measure(w, &c);
    bool always;
    if (foldable(w, &always) && fold_is_cheap(w))
        fold(w, always);
    if (w->step->folded)
        plan->macs[w->at] = 0;
    for (int i = 0; i < w->node->n_output; i++)
        if (w->node->output[i] != VALUE_NONE)
            plan->type[w->node->output[i]] = w->out[i];
    return 0;
}

/* ---- inputs ---- */
static void start_types(struct plan *plan, const struct shape *in)
{
    const struct graph *g = model_main(plan->m);
    for (uint32_t v = 0; v < plan->m->n_values; v++)
        plan->type[v] = plan->known[v].dtype != DTYPE_NONE ? type_of_tensor(&plan->known[v]) : unknown_type;
    for (int k = 0; k < g->n_inputs; k++)
        if (g->inputs[k].has_type && plan->known[g->inputs[k].value].dtype == DTYPE_NONE) {
            plan->type[g->inputs[k].value] = g->inputs[k].type;
            if (!g->inputs[k].type.has_shape)
                plan->type[g->inputs[k].value].shape = SHAPE_UNKNOWN;
        }
    for (int i = 0; in && i < plan->n_input; i++) {
        plan->type[plan->input[i]].shape = in[i];
        plan->type[plan->input[i]].has_shape = in[i].rank >= 0;
    }
}

static bool inputs_known(const struct plan *plan)
{
    for (int i = 0; i < plan->n_input; i++)
        if (!shape_known(&plan->type[plan->input[i]].shape))
            return false;
    return true;
}

void plan_unbind(struct plan *plan)
{
    plan->bound = plan->placed = false;
    plan->slab_bytes = plan->slab_lower = 0;
    for (uint32_t v = 0; v < plan->m->n_values; v++)
        if (plan->known[v].dtype != DTYPE_NONE && !plan->known_always[v]) {
            plan->known_bytes -= plan->known[v].bytes;
            tensor_fini(&plan->known[v]);
        }
    arena_free(plan->bind_arena);
    plan->bind_arena = NULL;
}

static bool bound_to(const struct plan *plan, const struct shape *in)
{
    if (!plan->bound || !in)
        return false;
    for (int i = 0; i < plan->n_input; i++)
        if (!shape_equal(&plan->bound_shape[i], &in[i]))
            return false;
    return true;
}

int plan_bind(struct plan *plan, const struct shape *in, struct err *err)
{
    if (bound_to(plan, in))
        return 0;
    plan_unbind(plan);
    plan->bind_arena = arena_new();
    if (!plan->bind_arena)
        return err_set(err, ERR_NOMEM, "out of memory");
    start_types(plan, in);
    for (int s = 0; s < plan->graph[0].n_steps; s++) {
        struct walk w = {.plan = plan, .at = s, .step = &plan->graph[0].steps[s]};
        if (infer_node(&w, err))
            return -1;
    }
    plan_find_live(plan);
    if (!inputs_known(plan))
        return 0;
    if (plan_place(plan, err))
        return -1;
    for (int i = 0; i < plan->n_input; i++)
        plan->bound_shape[i] = plan->type[plan->input[i]].shape;
    plan->bound = true;
    return 0;
}

int plan_infer(struct plan *plan, const struct shape *in, const struct type **types, struct err *err)
{
    if (plan_bind(plan, in, err))
        return -1;
    *types = plan->type;
    return 0;
}
