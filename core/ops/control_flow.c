/* SPDX-License-Identifier: Apache-2.0
 * If, Loop and Scan: nodes that run graphs they hold as attributes.
 *   If    cond -> the outputs of then_branch or else_branch.
 *   Loop  (M, cond, v...) -> v..., scans...; body (i, cond, v...) -> (cond, v..., scans...), while i < M and cond; M
 *         and cond may be absent. A
 *         scan output stacks the body's values of all rounds on a new axis 0.
 *   Scan  (v..., xs...) -> v..., ys...; body (v..., x...) -> (v..., y...), once for each slice of xs along its axis
 *         (opset 9 and later). In opset 8 every input and output has a batch axis 0 more, the slices go along axis 1, and
 *         the first input, which may be absent, says how many there are in each batch.
 * Types         what the bodies' own inference says, as far as it holds for every branch and every round; what it
 *         cannot say, running finds. What the body returns is counted against the run's memory limit. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/ops/op_util.h"

/* ---- types ---- */
/* What holds for both: *a loses what differs. True if it lost something. */
static bool type_meet(struct type *a, const struct type *b)
{
    const struct type before = *a;
    if (a->kind != TYPE_TENSOR || b->kind != TYPE_TENSOR || a->dtype != b->dtype)
        *a = (struct type){.kind = a->kind == b->kind ? a->kind : TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
    else if (a->shape.rank != b->shape.rank)
        a->shape = SHAPE_UNKNOWN;
    for (int i = 0; i < a->shape.rank; i++)
        if (a->shape.dim[i] != b->shape.dim[i])
            a->shape.dim[i] = DIM_UNKNOWN;
    a->has_dtype = a->dtype != DTYPE_NONE;
    a->has_shape = a->shape.rank >= 0;
    return a->kind != before.kind || a->dtype != before.dtype || !shape_equal(&a->shape, &before.shape);
}

static struct type *new_types(struct infer_ctx *c, int n, struct err *err)
{
    struct type *types = c->arena ? arena_calloc(c->arena, (size_t)n + 1, sizeof *types) : NULL;
    for (int i = 0; i < n && types; i++)
        types[i] = (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
    if (!types)
        err_set(err, ERR_NOMEM, "out of memory");
    return types;
}

/* The types of outputs that are tensors. */
static void give_type(struct infer_ctx *c, int i, const struct type *t)
{
    if (i < c->n_out && t->kind == TYPE_TENSOR)
        infer_out(c, i, t->dtype, &t->shape);
}

/* The state's types before the first round, then whatever holds before and after any round. A body that does not fit is
 * left for the run to report: it may never run. 0: out[n_lead ..) is what the body makes from it; 1: not known. */
static int fixed_types(struct infer_ctx *c, uint32_t body, struct type *in, int n_in, int in_lead, struct type *out,
                       int n_out, int out_lead, int n_state)
{
    for (int round = 0; round < SHAPE_MAX_RANK + 3; round++) { /* each loses something, or is the last */
        bool changed = false;
        if (infer_nested(c, body, in, n_in, out, n_out, NULL))
            return 1;
        for (int i = 0; i < n_state; i++)
            changed = type_meet(&in[in_lead + i], &out[out_lead + i]) || changed;
        if (!changed)
            return 0;
    }
    return 1;
}

static int read_bool(const struct tensor *t, const char *what, bool *out, struct err *err)
{
    if (t->dtype != DTYPE_BOOL || tensor_count(t) != 1)
        return err_set(err, ERR_SHAPE, "%s must be one bool", what);
    *out = *(const uint8_t *)t->data != 0;
    return 0;
}

/* ---- If ---- */
struct if_attrs {
    uint32_t then_branch, else_branch;
};
static const struct op_attr if_table[] = {{OP_ATTR(if_attrs, then_branch), .kind = OP_GRAPH, .required = true},
                                          {OP_ATTR(if_attrs, else_branch), .kind = OP_GRAPH, .required = true},
                                          {0}};

static int if_infer(struct infer_ctx *c, struct err *err)
{
    const struct if_attrs *a = c->attrs;
    const struct tensor *cond = op_value(c, 0);
    const uint32_t graph[2] = {a->then_branch, a->else_branch};
    const bool known = cond && cond->dtype == DTYPE_BOOL && tensor_count(cond) == 1;
    const int taken = known && *(const uint8_t *)cond->data ? 0 : 1;
    struct type *types[2] = {new_types(c, c->n_out, err), new_types(c, c->n_out, err)};
    if (!types[0] || !types[1])
        return -1;
    for (int b = 0; b < 2; b++)
        if ((!known || b == taken) && infer_nested(c, graph[b], NULL, 0, types[b], c->n_out, NULL))
            return 0; /* what is wrong in a branch matters only if it is run */
    for (int i = 0; i < c->n_out; i++) {
        if (!known)
            type_meet(&types[taken][i], &types[1 - taken][i]);
        give_type(c, i, &types[taken][i]);
    }
    return 0;
}

static int if_forward(struct run_ctx *c, struct err *err)
{
    const struct if_attrs *a = c->attrs;
    bool cond = false;
    if (read_bool(c->in[0], "cond", &cond, err))
        return -1;
    struct tensor *out = calloc((size_t)c->n_out + 1, sizeof *out);
    if (!out)
        return err_set(err, ERR_NOMEM, "out of memory");
    int rc = run_graph(c, cond ? a->then_branch : a->else_branch, NULL, 0, out, c->n_out, err);
    for (int i = 0; i < c->n_out && !rc; i++)
        run_take(c, i, &out[i]);
    free(out);
    return rc;
}

OP_CLASS(if) = {.type = "If",
                .domain = "",
                .since = 1,
                .doc = "Runs one of two nested graphs.",
                .in_min = 1,
                .in_max = 1,
                .out_min = 1,
                .out_max = -1,
                .attrs = if_table,
                .attrs_size = sizeof(struct if_attrs),
                .infer = if_infer,
                .forward = if_forward};

/* ---- stacking ---- */
/* Pieces of equal type become one tensor with a new axis. */
struct stack {
    struct tensor *piece;
    int64_t n, cap;
};

static int stack_push(struct stack *s, struct tensor *t, struct err *err)
{
    if (s->n == s->cap) {
        int64_t cap = s->cap ? s->cap * 2 : 16;
        struct tensor *grown = realloc(s->piece, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        s->piece = grown;
        s->cap = cap;
    }
    s->piece[s->n++] = *t;
    *t = (struct tensor){0};
    return 0;
}

static void stack_fini(struct run_ctx *c, struct stack *s)
{
    for (int64_t i = 0; i < s->n; i++)
        run_drop(c, &s->piece[i]);
    free(s->piece);
}

/* Output i: the pieces along a new axis, the last first if `backward`. */
static int stack_join(struct run_ctx *c, int i, const struct stack *s, int64_t axis, bool backward, struct err *err)
{
    if (!run_out(c, i))
        return 0;
    if (s->n == 0)
        return err_set(err, ERR_SHAPE, "runs zero times: the shape of output %d is not known", i);
    const struct tensor *first = &s->piece[0];
    if (tensor_is_list(first) || dtype_bits(first->dtype) < 8)
        return err_set(err, ERR_MODEL, "output %d of the body cannot be stacked: it is no tensor of whole bytes", i);
    struct shape shape = {.rank = first->shape.rank + 1};
    if (op_rank_fits(shape.rank, err))
        return -1;
    if (axis < 0)
        axis += shape.rank;
    if (axis < 0 || axis >= shape.rank)
        return err_set(err, ERR_MODEL, "axis %" PRId64 " is out of range for rank %d", axis, shape.rank);
    for (int d = 0; d < shape.rank; d++)
        shape.dim[d] = d < axis ? first->shape.dim[d] : d == axis ? s->n : first->shape.dim[d - 1];
    for (int64_t k = 1; k < s->n; k++)
        if (s->piece[k].dtype != first->dtype || !shape_equal(&s->piece[k].shape, &first->shape))
            return err_set(err, ERR_SHAPE, "output %d of the body changes its shape from round to round", i);
    if (run_alloc(c, i, first->dtype, &shape, err))
        return -1;
    size_t outer = (size_t)shape_product(&first->shape, 0, (int)axis);
    size_t row = outer ? first->bytes / outer : 0, n = (size_t)s->n;
    for (size_t k = 0; k < n && row; k++)
        for (size_t o = 0; o < outer; o++)
            memcpy((char *)c->out[i]->data + (o * n + (backward ? n - 1 - k : k)) * row,
                   (char *)s->piece[k].data + o * row, row);
    return 0;
}

/* ---- rounds, for Loop and Scan ---- */
struct rounds {
    struct run_ctx *c;
    uint32_t body;
    int lead_in, lead_out; /* leading inputs (Loop: i, cond) and outputs (Loop: cond) of the body */
    int n_state, n_scan;
    const struct tensor **in; /* [lead_in + n_state + extra] */
    struct tensor *state;     /* [n_state] made by the body; empty before the first round */
    struct tensor *out;       /* [lead_out + n_state + n_scan] of one round */
    struct stack *scan;
};

static int rounds_init(struct rounds *r, int n_extra, struct err *err)
{
    r->in = calloc((size_t)(r->lead_in + r->n_state + n_extra) + 1, sizeof *r->in);
    r->state = calloc((size_t)r->n_state + 1, sizeof *r->state);
    r->out = calloc((size_t)(r->lead_out + r->n_state + r->n_scan) + 1, sizeof *r->out);
    r->scan = calloc((size_t)r->n_scan + 1, sizeof *r->scan);
    return r->in && r->state && r->out && r->scan ? 0 : err_set(err, ERR_NOMEM, "out of memory");
}

static void rounds_fini(struct rounds *r)
{
    for (int i = 0; i < r->n_state && r->state; i++)
        run_drop(r->c, &r->state[i]);
    for (int i = 0; i < r->lead_out + r->n_state + r->n_scan && r->out; i++)
        run_drop(r->c, &r->out[i]);
    for (int i = 0; i < r->n_scan && r->scan; i++)
        stack_fini(r->c, &r->scan[i]);
    free(r->in);
    free(r->state);
    free(r->out);
    free(r->scan);
}

/* One round; the leading output stays in r->out[0]. */
static int rounds_run(struct rounds *r, int n_in, struct err *err)
{
    if (run_graph(r->c, r->body, r->in, n_in, r->out, r->lead_out + r->n_state + r->n_scan, err))
        return -1;
    for (int i = 0; i < r->n_state; i++) {
        run_drop(r->c, &r->state[i]);
        r->state[i] = r->out[r->lead_out + i];
        r->out[r->lead_out + i] = (struct tensor){0};
        r->in[r->lead_in + i] = &r->state[i];
    }
    for (int i = 0; i < r->n_scan; i++)
        if (stack_push(&r->scan[i], &r->out[r->lead_out + r->n_state + i], err))
            return -1;
    return 0;
}

/* State outputs: the last round's, or the initial values. */
static int rounds_state(struct rounds *r, struct err *err)
{
    for (int i = 0; i < r->n_state; i++) {
        const struct tensor *t = r->in[r->lead_in + i];
        if (t == &r->state[i]) {
            run_take(r->c, i, &r->state[i]);
            continue;
        }
        if (tensor_is_list(t)) {
            struct tensor list;
            if (tensor_copy(&list, t, err) || run_give(r->c, i, &list, err))
                return -1;
            continue;
        }
        if (run_alloc(r->c, i, t->dtype, &t->shape, err))
            return -1;
        if (run_out(r->c, i) && t->bytes)
            memcpy(run_out(r->c, i)->data, t->data, t->bytes);
    }
    return 0;
}

/* ---- Loop ---- */
struct loop_attrs {
    uint32_t body;
};
static const struct op_attr loop_table[] = {{OP_ATTR(loop_attrs, body), .kind = OP_GRAPH, .required = true}, {0}};

static int loop_infer(struct infer_ctx *c, struct err *err)
{
    const struct loop_attrs *a = c->attrs;
    const int n_state = c->n_in > 2 ? c->n_in - 2 : 0, n_scan = c->n_out - n_state;
    struct type *in = new_types(c, n_state + 2, err), *out = new_types(c, c->n_out + 1, err);
    if (!in || !out)
        return -1;
    if (n_scan < 0)
        return 0; /* running refuses it */
    in[0] = type_tensor(DTYPE_INT64, &SHAPE_SCALAR);
    in[1] = type_tensor(DTYPE_BOOL, &SHAPE_SCALAR);
    for (int i = 0; i < n_state; i++)
        if (infer_has(c, 2 + i))
            in[2 + i] = *c->in[2 + i];
    if (fixed_types(c, a->body, in, n_state + 2, 2, out, c->n_out + 1, 1, n_state))
        return 0;
    for (int i = 0; i < n_state; i++)
        give_type(c, i, &in[2 + i]);
    for (int i = 0; i < n_scan; i++) {
        struct type t = out[1 + n_state + i];
        if (t.shape.rank >= 0 && t.shape.rank < SHAPE_MAX_RANK) {
            memmove(t.shape.dim + 1, t.shape.dim, (size_t)t.shape.rank * sizeof *t.shape.dim);
            t.shape.dim[0] = DIM_UNKNOWN; /* the body may end the loop at any time */
            t.shape.rank++;
        } else {
            t.shape = SHAPE_UNKNOWN;
        }
        give_type(c, n_state + i, &t);
    }
    return 0;
}

/* No network needs more; an endless loop must end. */
enum { MAX_ROUNDS = 1000000 };

static int loop_rounds(struct rounds *r, int64_t limit, bool cond, struct err *err)
{
    struct run_ctx *c = r->c;
    struct tensor i_tensor, cond_tensor;
    struct shape scalar = SHAPE_SCALAR;
    for (int64_t i = 0; i < limit && cond; i++) {
        uint8_t cond_byte = cond;
        if (i == MAX_ROUNDS)
            return err_set(err, ERR_MODEL_TOO_LARGE, "the loop has not ended after %d rounds; more are not run",
                           MAX_ROUNDS);
        tensor_view(&i_tensor, DTYPE_INT64, &scalar, &i, NULL);
        tensor_view(&cond_tensor, DTYPE_BOOL, &scalar, &cond_byte, NULL);
        r->in[0] = &i_tensor;
        r->in[1] = &cond_tensor;
        if (rounds_run(r, 2 + r->n_state, err) || read_bool(&r->out[0], "the body's first output", &cond, err))
            return -1;
        run_drop(c, &r->out[0]);
    }
    return 0;
}

static int loop_forward(struct run_ctx *c, struct err *err)
{
    const struct loop_attrs *a = c->attrs;
    const struct tensor *m = run_in(c, 0), *keep = run_in(c, 1);
    int64_t limit = INT64_MAX;
    bool cond = true;
    if (m && (m->dtype != DTYPE_INT64 || tensor_count(m) != 1))
        return err_set(err, ERR_SHAPE, "the trip count must be one int64");
    if (m)
        limit = tensor_i64(m)[0];
    if (keep && read_bool(keep, "cond", &cond, err))
        return -1;
    struct rounds r = {.c = c, .body = a->body, .lead_in = 2, .lead_out = 1, .n_state = c->n_in > 2 ? c->n_in - 2 : 0};
    r.n_scan = c->n_out - r.n_state;
    if (r.n_scan < 0)
        return err_set(err, ERR_MODEL, "has %d outputs for %d carried values", c->n_out, r.n_state);
    int rc = rounds_init(&r, 0, err);
    for (int i = 0; i < r.n_state && !rc; i++) {
        r.in[2 + i] = c->in[2 + i];
        if (!c->in[2 + i])
            rc = err_set(err, ERR_MODEL, "carried value %d is absent", i);
    }
    rc = rc || loop_rounds(&r, limit, cond, err) || rounds_state(&r, err) ? -1 : 0;
    for (int i = 0; i < r.n_scan && !rc; i++)
        rc = stack_join(c, r.n_state + i, &r.scan[i], 0, false, err);
    rounds_fini(&r);
    return rc;
}

OP_CLASS(loop) = {.type = "Loop",
                  .domain = "",
                  .since = 1,
                  .doc = "Repeats a nested graph. Refused: more than 1,000,000 rounds.",
                  .in_min = 2,
                  .in_max = -1,
                  .takes_lists = true,
                  .out_min = 1,
                  .out_max = -1,
                  .attrs = loop_table,
                  .attrs_size = sizeof(struct loop_attrs),
                  .infer = loop_infer,
                  .forward = loop_forward};

/* ---- Scan ---- */
struct scan_attrs {
    uint32_t body;
    int64_t num_scan_inputs;
    struct op_ints scan_input_axes, scan_input_directions, scan_output_axes, scan_output_directions;
};
static const struct op_attr scan_table[] = {{OP_ATTR(scan_attrs, body), .kind = OP_GRAPH, .required = true},
                                            {OP_ATTR(scan_attrs, num_scan_inputs), .kind = OP_INT, .required = true},
                                            {OP_ATTR(scan_attrs, scan_input_axes), .kind = OP_INTS},
                                            {OP_ATTR(scan_attrs, scan_input_directions), .kind = OP_INTS},
                                            {OP_ATTR(scan_attrs, scan_output_axes), .kind = OP_INTS},
                                            {OP_ATTR(scan_attrs, scan_output_directions), .kind = OP_INTS},
                                            {0}};

static int64_t int_at(const struct op_ints *list, int i)
{
    return i < list->count ? list->at[i] : 0;
}

static int scan_infer(struct infer_ctx *c, struct err *err)
{
    const struct scan_attrs *a = c->attrs;
    if (a->num_scan_inputs < 1 || a->num_scan_inputs > c->n_in)
        return 0; /* running refuses it */
    const int n = (int)a->num_scan_inputs, n_state = c->n_in - n, n_scan = c->n_out - n_state;
    int64_t length = DIM_UNKNOWN;
    struct type *in = new_types(c, c->n_in, err), *out = new_types(c, c->n_out, err);
    if (!in || !out)
        return -1;
    for (int i = 0; i < c->n_in; i++) {
        if (!infer_has(c, i) || n_scan < 0)
            return 0;
        in[i] = *c->in[i];
        if (i < n_state)
            continue;
        struct shape *s = &in[i].shape;
        const int axis = s->rank > 0 ? shape_axis(s, int_at(&a->scan_input_axes, i - n_state)) : -1;
        if (axis < 0) {
            *s = SHAPE_UNKNOWN;
            continue;
        }
        length = length == DIM_UNKNOWN ? s->dim[axis] : length;
        memmove(s->dim + axis, s->dim + axis + 1, (size_t)(s->rank - axis - 1) * sizeof *s->dim);
        s->rank--;
    }
    if (fixed_types(c, a->body, in, c->n_in, 0, out, c->n_out, 0, n_state))
        return 0;
    for (int i = 0; i < n_state; i++)
        give_type(c, i, &in[i]);
    for (int i = 0; i < n_scan; i++) {
        struct type t = out[n_state + i];
        struct shape wide = {.rank = t.shape.rank + 1};
        const int64_t at = int_at(&a->scan_output_axes, i), axis = at < 0 ? at + wide.rank : at;
        if (t.shape.rank < 0 || wide.rank > SHAPE_MAX_RANK || axis < 0 || axis >= wide.rank)
            wide = SHAPE_UNKNOWN;
        for (int d = 0; d < wide.rank; d++)
            wide.dim[d] = d < axis ? t.shape.dim[d] : d == axis ? length : t.shape.dim[d - 1];
        t.shape = wide;
        give_type(c, n_state + i, &t);
    }
    return 0;
}

/* Slice k of t along `axis`, without that axis, into `slice` (bytes in `data`). */
static void take_slice(const struct tensor *t, int axis, int64_t k, struct tensor *slice, void *data)
{
    struct shape s = {.rank = t->shape.rank - 1};
    for (int d = 0; d < s.rank; d++)
        s.dim[d] = t->shape.dim[d < axis ? d : d + 1];
    tensor_view(slice, t->dtype, &s, data, NULL);
    size_t outer = (size_t)shape_product(&t->shape, 0, axis), n = (size_t)t->shape.dim[axis];
    size_t row = outer && n ? t->bytes / outer / n : 0;
    for (size_t o = 0; o < outer && row; o++)
        memcpy((char *)data + o * row, (char *)t->data + (o * n + (size_t)k) * row, row);
}

struct scan_input {
    const struct tensor *t;
    int axis;
    bool backward;
    struct tensor slice;
    void *data;
};

static int scan_inputs(struct run_ctx *c, const struct scan_attrs *a, struct scan_input *xs, int n, int64_t *length,
                       struct err *err)
{
    for (int i = 0; i < n; i++) {
        struct scan_input *x = &xs[i];
        x->t = c->in[c->n_in - n + i];
        x->axis = x->t ? shape_axis(&x->t->shape, int_at(&a->scan_input_axes, i)) : -1;
        if (x->axis < 0 || dtype_bits(x->t->dtype) < 8)
            return err_set(err, ERR_SHAPE, "scan input %d has no axis %" PRId64 " to go along", i,
                           int_at(&a->scan_input_axes, i));
        if (i > 0 && x->t->shape.dim[x->axis] != *length)
            return err_set(err, ERR_SHAPE, "scan input %d has %" PRId64 " slices, the first has %" PRId64, i,
                           x->t->shape.dim[x->axis], *length);
        *length = x->t->shape.dim[x->axis];
        x->backward = int_at(&a->scan_input_directions, i) == 1;
        x->data = run_scratch(c, *length > 0 ? x->t->bytes / (size_t)*length : 0, err);
        if (!x->data)
            return -1;
    }
    return 0;
}

static int scan_rounds(struct rounds *r, struct scan_input *xs, int n, int64_t length, struct err *err)
{
    for (int64_t k = 0; k < length; k++) {
        for (int i = 0; i < n; i++) {
            take_slice(xs[i].t, xs[i].axis, xs[i].backward ? length - 1 - k : k, &xs[i].slice, xs[i].data);
            r->in[r->n_state + i] = &xs[i].slice;
        }
        if (rounds_run(r, r->n_state + n, err))
            return -1;
    }
    return 0;
}

static int scan_forward(struct run_ctx *c, struct err *err)
{
    const struct scan_attrs *a = c->attrs;
    if (a->num_scan_inputs < 1 || a->num_scan_inputs > c->n_in)
        return err_set(err, ERR_MODEL, "num_scan_inputs is %" PRId64 ", must be from 1 to %d", a->num_scan_inputs,
                       c->n_in);
    int n = (int)a->num_scan_inputs;
    int64_t length = 0;
    struct rounds r = {.c = c, .body = a->body, .n_state = c->n_in - n, .n_scan = c->n_out - (c->n_in - n)};
    if (r.n_scan < 0)
        return err_set(err, ERR_MODEL, "has %d outputs for %d carried values", c->n_out, r.n_state);
    struct scan_input *xs = calloc((size_t)n, sizeof *xs);
    int rc = xs ? rounds_init(&r, n, err) : err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < r.n_state && !rc; i++) {
        r.in[i] = c->in[i];
        if (!c->in[i])
            rc = err_set(err, ERR_MODEL, "carried value %d is absent", i);
    }
    rc = rc || scan_inputs(c, a, xs, n, &length, err) || scan_rounds(&r, xs, n, length, err) || rounds_state(&r, err)
             ? -1
             : 0;
    for (int i = 0; i < r.n_scan && !rc; i++)
        rc = stack_join(c, r.n_state + i, &r.scan[i], int_at(&a->scan_output_axes, i),
                        int_at(&a->scan_output_directions, i) == 1, err);
    rounds_fini(&r);
    free(xs);
    return rc;
}

OP_CLASS(scan) = {.type = "Scan",
                  .domain = "",
                  .since = 9,
                  .doc = "Runs a nested graph over slices of its inputs.",
                  .in_min = 1,
                  .in_max = -1,
                  .out_min = 1,
                  .out_max = -1,
                  .attrs = scan_table,
                  .attrs_size = sizeof(struct scan_attrs),
                  .infer = scan_infer,
                  .forward = scan_forward};

/* ---- Scan of opset 8 ---- */
struct scan_8_attrs {
    uint32_t body;
    int64_t num_scan_inputs;
    struct op_ints directions;
};
static const struct op_attr scan_8_table[] = {{OP_ATTR(scan_8_attrs, body), .kind = OP_GRAPH, .required = true},
                                              {OP_ATTR(scan_8_attrs, num_scan_inputs), .kind = OP_INT, .required = true},
                                              {OP_ATTR(scan_8_attrs, directions), .kind = OP_INTS},
                                              {0}};

/* Batch b of t, without the batch axis; borrowed. */
static void batch_of(const struct tensor *t, int64_t b, struct tensor *out)
{
    struct shape s = {.rank = t->shape.rank - 1};
    const size_t bytes = t->shape.dim[0] ? t->bytes / (size_t)t->shape.dim[0] : 0;
    memcpy(s.dim, t->shape.dim + 1, (size_t)s.rank * sizeof s.dim[0]);
    tensor_view(out, t->dtype, &s, t->bytes ? (char *)t->data + (size_t)b * bytes : NULL, NULL);
}

/* The result of batch b into output i, which is made at batch 0. `rows` elements of axis 1 if it is a stack. */
static int put_batch(struct run_ctx *c, int i, int64_t b, int64_t batch, int64_t rows, const struct tensor *piece,
                     int64_t place, struct err *err)
{
    struct shape s = {.rank = piece->shape.rank + 1 + (rows >= 0)};
    const bool stack = rows >= 0;
    if (tensor_is_list(piece) || dtype_bits(piece->dtype) < 8)
        return err_set(err, ERR_MODEL, "output %d of the body cannot be stacked: it is no tensor of whole bytes", i);
    if (!run_out(c, i) || op_rank_fits(s.rank, err))
        return run_out(c, i) ? -1 : 0;
    s.dim[0] = batch;
    if (stack)
        s.dim[1] = rows;
    memcpy(s.dim + 1 + stack, piece->shape.dim, (size_t)piece->shape.rank * sizeof s.dim[0]);
    struct tensor *y = c->out[i];
    if (y->dtype == DTYPE_NONE || !y->data) {
        if (run_alloc(c, i, piece->dtype, &s, err))
            return -1;
        if (y->bytes)
            memset(y->data, 0, y->bytes);
    }
    if (y->dtype != piece->dtype || !shape_equal(&y->shape, &s))
        return err_set(err, ERR_SHAPE, "output %d of the body changes its shape from round to round", i);
    if (piece->bytes)
        memcpy((char *)y->data + (size_t)(b * (stack ? rows : 1) + place) * piece->bytes, piece->data, piece->bytes);
    return 0;
}

/* One batch: rounds over the slices, results into the outputs. */
static int scan_8_batch(struct rounds *r, struct scan_input *xs, int n, int64_t b, int64_t batch, int64_t length,
                        int64_t most, struct err *err)
{
    struct run_ctx *c = r->c;
    struct tensor *views = run_scratch(c, (size_t)(r->n_state + n + 1) * sizeof *views, err);
    if (!views)
        return -1;
    for (int i = 0; i < r->n_state; i++) {
        run_drop(c, &r->state[i]);
        batch_of(c->in[1 + i], b, &views[i]);
        r->in[i] = &views[i];
    }
    for (int i = 0; i < n; i++) {
        batch_of(c->in[1 + r->n_state + i], b, &views[r->n_state + i]);
        xs[i].t = &views[r->n_state + i];
    }
    if (scan_rounds(r, xs, n, length, err))
        return -1;
    for (int i = 0; i < r->n_state; i++)
        if (put_batch(c, i, b, batch, -1, r->in[i], 0, err))
            return -1;
    for (int i = 0; i < r->n_scan; i++) {
        for (int64_t k = 0; k < r->scan[i].n; k++)
            if (put_batch(c, r->n_state + i, b, batch, most, &r->scan[i].piece[k], k, err))
                return -1;
        stack_fini(c, &r->scan[i]);
        r->scan[i] = (struct stack){0};
    }
    return 0;
}

/* All inputs behind the first have a batch axis; scan inputs also the axis to go along. */
static int scan_8_inputs(struct run_ctx *c, const struct scan_8_attrs *a, struct scan_input *xs, int n, int64_t *batch,
                         int64_t *most, struct err *err)
{
    for (int i = 1; i < c->n_in; i++) {
        const struct tensor *t = c->in[i];
        const bool slices = i >= c->n_in - n;
        if (!t || t->shape.rank < 1 + slices || t->dtype == DTYPE_STRING || dtype_bits(t->dtype) < 8)
            return err_set(err, ERR_SHAPE, "input #%d must be a tensor with a batch axis%s", i,
                           slices ? " and one to go along" : "");
        if (i > 1 && t->shape.dim[0] != *batch)
            return err_set(err, ERR_SHAPE, "input #%d has a batch of %" PRId64 ", the one before of %" PRId64, i,
                           t->shape.dim[0], *batch);
        *batch = t->shape.dim[0];
        if (!slices)
            continue;
        struct scan_input *x = &xs[i - (c->n_in - n)];
        if (x != xs && t->shape.dim[1] != *most)
            return err_set(err, ERR_SHAPE, "input #%d has %" PRId64 " slices, the first scan input %" PRId64, i,
                           t->shape.dim[1], *most);
        *most = t->shape.dim[1];
        x->backward = int_at(&a->directions, (int)(x - xs)) == 1;
        x->data = run_scratch(c, t->bytes + 1, err);
        if (!x->data)
            return -1;
    }
    return *batch > 0 ? 0 : err_set(err, ERR_SHAPE, "the batch is empty: the shapes of the outputs are not known");
}

static int scan_8_forward(struct run_ctx *c, struct err *err)
{
    const struct scan_8_attrs *a = c->attrs;
    const struct tensor *lengths = run_in(c, 0);
    int64_t batch = 0, most = 0;
    if (a->num_scan_inputs < 1 || a->num_scan_inputs > c->n_in - 1)
        return err_set(err, ERR_MODEL, "num_scan_inputs is %" PRId64 ", must be from 1 to %d", a->num_scan_inputs,
                       c->n_in - 1);
    const int n = (int)a->num_scan_inputs;
    struct rounds r = {.c = c, .body = a->body, .n_state = c->n_in - 1 - n, .n_scan = c->n_out - (c->n_in - 1 - n)};
    if (r.n_scan < 0)
        return err_set(err, ERR_MODEL, "has %d outputs for %d carried values", c->n_out, r.n_state);
    struct scan_input *xs = calloc((size_t)n, sizeof *xs);
    int rc = xs ? rounds_init(&r, n, err) : err_set(err, ERR_NOMEM, "out of memory");
    rc = rc || scan_8_inputs(c, a, xs, n, &batch, &most, err) ? -1 : 0;
    if (!rc && lengths && (lengths->dtype != DTYPE_INT64 || tensor_count(lengths) != batch))
        rc = err_set(err, ERR_SHAPE, "sequence_lens must be one int64 a batch");
    for (int64_t b = 0; b < batch && !rc; b++) {
        const int64_t length = lengths ? tensor_i64(lengths)[b] : most;
        rc = length < 1 || length > most
                 ? err_set(err, ERR_MODEL, "batch %" PRId64 " has %" PRId64 " slices; it must be from 1 to %" PRId64, b,
                           length, most)
                 : scan_8_batch(&r, xs, n, b, batch, length, most, err);
    }
    rounds_fini(&r);
    free(xs);
    return rc;
}

/* A batch of sequences of different lengths: sizes are found by running. */
static int scan_8_infer(struct infer_ctx *c, struct err *err)
{
    (void)c;
    (void)err;
    return 0;
}

OP_CLASS(scan_8) = {.type = "Scan",
                    .domain = "",
                    .since = 8,
                    .until = 8,
                    .doc = "Runs a nested graph over slices of its inputs, batch by batch.",
                    .in_min = 2,
                    .in_max = -1,
                    .out_min = 1,
                    .out_max = -1,
                    .attrs = scan_8_table,
                    .attrs_size = sizeof(struct scan_8_attrs),
                    .infer = scan_8_infer,
                    .forward = scan_8_forward};
