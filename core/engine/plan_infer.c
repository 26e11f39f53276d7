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
#include <stdio.h>
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
    bool nested; /* in a nested graph: only what never changes is kept */
    int64_t *macs;
    struct plan_step *step;
    const struct node *node;
    const struct type **in;
    const struct tensor **value;
    const struct sym_list **sizes;
    struct type *out;
};

static struct sym_list *keep_sizes(struct plan *plan, const struct sym_list *list)
{
    struct sym_list *kept = arena_calloc(plan->bind_arena, 1, sizeof *kept);
    if (!kept)
        return NULL;
    kept->count = list->count;
    kept->at = arena_memdup(plan->bind_arena, list->at, (size_t)list->count * sizeof *list->at);
    return kept->at ? kept : NULL;
}

/* A weight that was left where it lies in the file, at an odd address, may be looked at but not computed with
 * (onnx_read_opts.keep_unaligned). */
static bool aligned(const struct tensor *t)
{
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    return (uintptr_t)t->data % (width > 8 ? 8 : width ? width : 1) == 0;
}

/* Partly known contents; constants beside them are put into the same form. */
static int gather_sizes(struct walk *w, struct err *err)
{
    struct plan *plan = w->plan;
    bool any = false;
    for (int i = 0; i < w->node->n_input; i++) {
        const uint32_t v = w->node->input[i];
        if (v != VALUE_NONE && !w->value[i])
            w->sizes[i] = plan->sizes[v];
        any = any || w->sizes[i];
    }
    for (int i = 0; i < w->node->n_input && any; i++) {
        struct sym at[SYM_LIST_MAX];
        struct sym_list list = {.at = at}, *kept;
        if (!w->value[i] || !sym_list_of(w->value[i], &list))
            continue;
        if (!(kept = keep_sizes(plan, &list)))
            return err_set(err, ERR_NOMEM, "out of memory");
        w->sizes[i] = kept;
    }
    return 0;
}

static int gather_inputs(struct walk *w, struct err *err)
{
    struct plan *plan = w->plan;
    size_t n = (size_t)w->node->n_input + 1;
    w->in = arena_calloc(plan->bind_arena, n, sizeof *w->in);
    w->value = arena_calloc(plan->bind_arena, n, sizeof *w->value);
    w->sizes = arena_calloc(plan->bind_arena, n, sizeof *w->sizes);
    w->out = arena_calloc(plan->bind_arena, (size_t)w->node->n_output + 1, sizeof *w->out);
    if (!w->in || !w->value || !w->sizes || !w->out)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < w->node->n_input; i++) {
        uint32_t v = w->node->input[i];
        if (v == VALUE_NONE)
            continue;
        w->in[i] = &plan->type[v];
        if (plan->known[v].dtype != DTYPE_NONE && aligned(&plan->known[v]))
            w->value[i] = &plan->known[v];
    }
    return gather_sizes(w, err);
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
    return total <= FOLD_BYTES && *w->macs <= FOLD_MACS;
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
    int64_t *macs = w->macs;
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

/* All numbers are known: an ordinary constant. */
static int settle_sizes(struct walk *w, const struct sym_list *list, struct err *err)
{
    const uint32_t v = w->node->output[0];
    struct tensor *t = &w->plan->known[v];
    if (tensor_alloc(t, w->out[0].dtype, &w->out[0].shape, err))
        return -1;
    for (int i = 0; i < list->count; i++)
        dtype_set(t->dtype, t->data, i, (double)list->at[i].n);
    w->plan->known_always[v] = false;
    w->plan->known_bytes += t->bytes;
    w->step->folded = true;
    return 0;
}

/* Carry on what is known of the contents of a small output. */
static int propagate(struct walk *w, struct infer_ctx *c, struct err *err)
{
    struct plan *plan = w->plan;
    struct sym at[SYM_LIST_MAX];
    struct sym_list list = {.at = at};
    const uint32_t v = w->node->n_output == 1 ? w->node->output[0] : VALUE_NONE;
    if (v == VALUE_NONE)
        return 0;
    plan->sizes[v] = NULL;
    if (!w->step->op->propagate || w->out[0].shape.rank < 0 || w->out[0].shape.rank > 1 ||
        (w->out[0].dtype != DTYPE_INT64 && w->out[0].dtype != DTYPE_INT32 && w->out[0].dtype != DTYPE_FLOAT &&
         w->out[0].dtype != DTYPE_BOOL) ||
        shape_count(&w->out[0].shape) > SYM_LIST_MAX || !w->step->op->propagate(c, &list))
        return 0;
    bool all = true, any = false, small = true;
    for (int i = 0; i < list.count; i++) {
        all = all && at[i].known;
        any = any || at[i].known || at[i].n != DIM_UNKNOWN;
        small = small && (!at[i].known || (at[i].n > -((int64_t)1 << 53) && at[i].n < (int64_t)1 << 53));
    }
    if (shape_known(&w->out[0].shape) && shape_count(&w->out[0].shape) != list.count)
        return 0;
    if (!shape_known(&w->out[0].shape))
        w->out[0].shape.dim[0] = list.count;
    if (all && small && !w->nested && list.count)
        return settle_sizes(w, &list, err);
    if (any && !(plan->sizes[v] = keep_sizes(plan, &list)))
        return err_set(err, ERR_NOMEM, "out of memory");
    return 0;
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
        *w->macs = 0;
        return 0;
    }
    if (gather_inputs(w, err))
        return -1;
    struct infer_ctx c = {.n_in = w->node->n_input,
                          .n_out = w->node->n_output,
                          .in = w->in,
                          .in_value = w->value,
                          .asked = &w->step->asked,
                          .in_sizes = w->sizes,
                          .symbols = plan->symbols,
                          .host = plan,
                          .out = w->out,
                          .arena = plan->bind_arena};
    w->step->asked = false;
    if (call_infer(plan->m, w->step, &c, err))
        return -1;
    measure(w, &c);
    bool always;
    if (foldable(w, &always) && (always || !w->nested) && fold_is_cheap(w))
        fold(w, always);
    c.asked = NULL;
    if (!w->step->folded && propagate(w, &c, err))
        return -1;
    if (w->step->folded)
        *w->macs = 0;
    for (int i = 0; i < w->node->n_output; i++)
        if (w->node->output[i] != VALUE_NONE)
            plan->type[w->node->output[i]] = w->out[i];
    return 0;
}

/* ---- nested graphs ---- */
int infer_nested(struct infer_ctx *c, uint32_t graph, const struct type *in, int n_in, struct type *out, int n_out,
                struct err *err)
{
    struct plan *plan = c->host;
    if (!plan || graph >= plan->m->n_graphs || !plan->graph[graph].resolved)
        return 1;
    const struct graph *g = &plan->m->graphs[graph];
    if (g->n_inputs != n_in || g->n_outputs != n_out)
        return err_set(err, ERR_MODEL, "nested graph '%s' has %d inputs and %d outputs, is called with %d and %d",
                       g->name ? g->name : "", g->n_inputs, g->n_outputs, n_in, n_out);
    for (int i = 0; i < n_in; i++) {
        plan->type[g->inputs[i].value] = in[i];
        plan->sizes[g->inputs[i].value] = NULL;
    }
    for (int s = 0; s < plan->graph[graph].n_steps; s++) {
        int64_t macs = 0;
        struct walk w = {.plan = plan, .nested = true, .macs = &macs, .step = &plan->graph[graph].steps[s]};
        if (infer_node(&w, err))
            return -1;
    }
    for (int i = 0; i < n_out; i++)
        out[i] = plan->type[g->outputs[i].value];
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
    memset(plan->sizes, 0, plan->m->n_values * sizeof *plan->sizes);
    symbols_free(plan->symbols);
    plan->symbols = NULL;
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
    if (!inputs_known(plan) && !(plan->symbols = symbols_new(plan->m->symbols, plan->m->n_symbols)))
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int s = 0; s < plan->graph[0].n_steps; s++) {
        struct walk w = {.plan = plan, .macs = &plan->macs[s], .step = &plan->graph[0].steps[s]};
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

const char *plan_symbol(const struct plan *plan, int64_t dim)
{
    const int64_t i = dim < DIM_UNKNOWN ? DIM_SYMBOL_INDEX(dim) : -1;
    if (plan->symbols)
        return symbols_name(plan->symbols, dim);
    return i >= 0 && i < plan->m->n_symbols ? plan->m->symbols[i] : NULL;
}

/* ---- declarations ---- */
static bool contradicts(const struct type *declared, const struct type *inferred)
{
    if (declared->kind != TYPE_TENSOR || inferred->kind != TYPE_TENSOR)
        return false;
    if (declared->dtype != DTYPE_NONE && inferred->dtype != DTYPE_NONE && declared->dtype != inferred->dtype)
        return true;
    if (!declared->has_shape || declared->shape.rank < 0 || inferred->shape.rank < 0)
        return false;
    if (declared->shape.rank != inferred->shape.rank)
        return true;
    for (int d = 0; d < declared->shape.rank; d++)
        if (declared->shape.dim[d] >= 0 && inferred->shape.dim[d] >= 0 &&
            declared->shape.dim[d] != inferred->shape.dim[d])
            return true;
    return false;
}

static int check_list(const struct plan *plan, const struct value_info *list, int n, plan_sentence *say, void *arg)
{
    int found = 0;
    for (int i = 0; i < n; i++) {
        const struct type *declared = &list[i].type, *inferred = &plan->type[list[i].value];
        char text[600], want[SHAPE_TEXT], got[SHAPE_TEXT];
        if (!list[i].has_type || !contradicts(declared, inferred))
            continue;
        snprintf(text, sizeof text, "value '%.200s' is declared as %s%s but is %s%s; the declaration is ignored",
                 plan->m->values[list[i].value].name, dtype_name(declared->dtype),
                 shape_text(&declared->shape, want), dtype_name(inferred->dtype), shape_text(&inferred->shape, got));
        say(arg, text);
        found++;
    }
    return found;
}

int plan_contradictions(const struct plan *plan, plan_sentence *say, void *arg)
{
    const struct graph *g = model_main(plan->m);
    return check_list(plan, g->infos, g->n_infos, say, arg) + check_list(plan, g->outputs, g->n_outputs, say, arg);
}
