/* SPDX-License-Identifier: Apache-2.0
 * Sequences: lists of tensors of one dtype (tensor.h, "lists").
 *   SequenceConstruct (t...) -> s; SequenceEmpty () -> s; SequenceLength (s) -> n; SequenceAt (s, i) -> t;
 *   SequenceInsert (s, t, i) -> s; SequenceErase (s, i) -> s; SequenceMap (s, x...) -> s...: a nested graph on
 *   each item; SplitToSequence (x, split) -> s: x cut along an axis; ConcatFromSequence (s) -> x: joined, or stacked.
 * A list never changes, so Insert and Erase make a new one that shares the items. Tensors going in and out are copied:
 * an operator may write over its input's bytes, and a list must not see that. Places count from the end if negative.
 * What the items are is known only when running; inference says nothing of them. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/ops/op_util.h"

static int infer_sequence(struct infer_ctx *c, struct err *err)
{
    (void)err;
    for (int i = 0; i < c->n_out; i++)
        c->out[i] = (struct type){.kind = TYPE_SEQUENCE, .shape = SHAPE_UNKNOWN};
    return 0;
}

static int infer_nothing(struct infer_ctx *c, struct err *err)
{
    (void)c;
    (void)err;
    return 0;
}

static const char *what_is(const struct tensor *t)
{
    return !t                           ? "missing"
           : t->dtype == DTYPE_SEQUENCE ? "a sequence"
           : t->dtype == DTYPE_OPTIONAL ? "an optional"
                                        : "a tensor";
}

static int need_sequence(const struct run_ctx *c, int i, struct err *err)
{
    const struct tensor *t = run_in(c, i);
    if (t && t->dtype == DTYPE_SEQUENCE)
        return 0;
    return err_set(err, ERR_MODEL, "input #%d is %s; it must be a sequence", i, what_is(t));
}

static int need_tensor(const struct run_ctx *c, int i, struct err *err)
{
    const struct tensor *t = run_in(c, i);
    if (t && !tensor_is_list(t))
        return 0;
    return err_set(err, ERR_MODEL, "input #%d is %s; it must be a tensor", i, what_is(t));
}

static int same_dtype(const struct tensor *a, const struct tensor *b, struct err *err)
{
    if (a->dtype == b->dtype)
        return 0;
    return err_set(err, ERR_MODEL, "a sequence of %s cannot hold %s; all items have one type", dtype_name(a->dtype),
                   dtype_name(b->dtype));
}

/* The place input i names, in [0, n] (`end`: also behind the last one). */
static int read_place(const struct run_ctx *c, int i, int64_t n, bool end, int64_t *place, struct err *err)
{
    if (need_tensor(c, i, err) < 0)
        return -1;
    const struct tensor *t = c->in[i];
    if ((t->dtype != DTYPE_INT64 && t->dtype != DTYPE_INT32) || tensor_count(t) != 1)
        return err_set(err, ERR_MODEL, "position must be one int32 or int64, is %" PRId64 " of %s", tensor_count(t),
                       dtype_name(t->dtype));
    int64_t at = op_index_at(t, 0);
    *place = at < 0 ? at + n : at;
    if (*place < 0 || *place >= n + end)
        return err_set(err, ERR_MODEL, "position is %" PRId64 "; the sequence has %" PRId64 " items", at, n);
    return 0;
}

static void drop_items(struct tensor *items, int64_t n)
{
    for (int64_t i = 0; i < n && items; i++)
        tensor_fini(&items[i]);
    free(items);
}

/* The items become output i. */
static int give(struct run_ctx *c, int i, struct tensor *items, int64_t n, struct err *err)
{
    struct tensor list;
    return tensor_list(&list, DTYPE_SEQUENCE, items, n, err) < 0 ? -1 : run_give(c, i, &list, err);
}

/* ---- making and changing ---- */
static int forward_construct(struct run_ctx *c, struct err *err)
{
    struct tensor *items = calloc((size_t)c->n_in + 1, sizeof *items);
    int rc = items ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < c->n_in && !rc; i++)
        rc = need_tensor(c, i, err) || same_dtype(c->in[0], c->in[i], err) || tensor_copy(&items[i], c->in[i], err);
    rc = rc || give(c, 0, items, c->n_in, err) ? -1 : 0;
    drop_items(items, c->n_in);
    return rc;
}

struct empty_attrs {
    int64_t dtype;
};
static const struct op_attr empty_attrs[] = {{OP_ATTR(empty_attrs, dtype), .kind = OP_INT, .def = DTYPE_FLOAT}, {0}};

static int infer_empty(struct infer_ctx *c, struct err *err)
{
    int64_t dtype = ((const struct empty_attrs *)c->attrs)->dtype;
    if (dtype < 1 || dtype > INT32_MAX || !dtype_valid((int)dtype))
        return err_set(err, ERR_MODEL, "attribute 'dtype' is %" PRId64 "; it must be the number of a type", dtype);
    return infer_sequence(c, err);
}

static int forward_empty(struct run_ctx *c, struct err *err)
{
    return give(c, 0, NULL, 0, err);
}

static int forward_insert(struct run_ctx *c, struct err *err)
{
    int64_t place;
    if (need_sequence(c, 0, err) < 0 || need_tensor(c, 1, err) < 0)
        return -1;
    const struct tensor *from = tensor_items(c->in[0]);
    int64_t n = tensor_count(c->in[0]);
    place = n;
    if ((run_in(c, 2) && read_place(c, 2, n, true, &place, err) < 0) ||
        (n > 0 && same_dtype(&from[0], c->in[1], err) < 0))
        return -1;
    struct tensor *items = calloc((size_t)n + 1, sizeof *items);
    if (!items)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        tensor_ref(&items[i + (i >= place)], &from[i]);
    int rc = tensor_copy(&items[place], c->in[1], err) || give(c, 0, items, n + 1, err) ? -1 : 0;
    drop_items(items, n + 1);
    return rc;
}

static int forward_erase(struct run_ctx *c, struct err *err)
{
    if (need_sequence(c, 0, err) < 0)
        return -1;
    const struct tensor *from = tensor_items(c->in[0]);
    int64_t n = tensor_count(c->in[0]), place = n - 1;
    if (n == 0)
        return err_set(err, ERR_MODEL, "the sequence is empty: there is nothing to erase");
    if (run_in(c, 1) && read_place(c, 1, n, false, &place, err) < 0)
        return -1;
    struct tensor *items = calloc((size_t)n, sizeof *items);
    if (!items)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        if (i != place)
            tensor_ref(&items[i - (i > place)], &from[i]);
    int rc = give(c, 0, items, n - 1, err);
    drop_items(items, n - 1);
    return rc;
}

/* ---- asking ---- */
static int forward_at(struct run_ctx *c, struct err *err)
{
    int64_t place;
    struct tensor item;
    if (need_sequence(c, 0, err) < 0 || read_place(c, 1, tensor_count(c->in[0]), false, &place, err) < 0 ||
        tensor_copy(&item, &tensor_items(c->in[0])[place], err) < 0)
        return -1;
    return run_give(c, 0, &item, err);
}

static int infer_length(struct infer_ctx *c, struct err *err)
{
    (void)err;
    infer_out(c, 0, DTYPE_INT64, &SHAPE_SCALAR);
    return 0;
}

static int forward_length(struct run_ctx *c, struct err *err)
{
    if (need_sequence(c, 0, err) < 0 || op_outputs(c, infer_length, err) < 0)
        return -1;
    if (run_out(c, 0))
        tensor_i64(c->out[0])[0] = tensor_count(c->in[0]);
    return 0;
}

/* ---- cutting and joining ---- */
struct cut_attrs {
    int64_t axis;
    bool keepdims, new_axis;
};
static const struct op_attr split_attrs[] = {{OP_ATTR(cut_attrs, axis), .kind = OP_INT},
                                             {OP_ATTR(cut_attrs, keepdims), .kind = OP_BOOL, .def = 1},
                                             {0}};
static const struct op_attr concat_attrs[] = {{OP_ATTR(cut_attrs, axis), .kind = OP_INT, .required = true},
                                              {OP_ATTR(cut_attrs, new_axis), .kind = OP_BOOL},
                                              {0}};

static int infer_split(struct infer_ctx *c, struct err *err)
{
    int axis;
    if (op_need(c, 1, err) < 0)
        return -1;
    const struct cut_attrs *a = c->attrs;
    if (infer_shape(c, 0)->rank >= 0 && op_axis(infer_shape(c, 0), a->axis, &axis, err))
        return -1;
    return infer_sequence(c, err);
}

/* How many pieces, and how long piece k is: `each` for all but the last, or sizes[k]. */
struct pieces {
    int64_t n, each;
    const struct tensor *sizes;
};

static int count_pieces(const struct run_ctx *c, int64_t dim, struct pieces *p, struct err *err)
{
    const struct tensor *split = run_in(c, 1);
    int64_t sum = 0;
    *p = (struct pieces){.n = dim, .each = 1};
    if (!split)
        return 0;
    if ((split->dtype != DTYPE_INT64 && split->dtype != DTYPE_INT32) || split->shape.rank > 1)
        return err_set(err, ERR_MODEL, "split must be one int64 or a list of them");
    if (split->shape.rank == 0) {
        p->each = op_index_at(split, 0);
        if (p->each < 1)
            return err_set(err, ERR_MODEL, "split is %" PRId64 "; a piece has at least one element", p->each);
        p->n = i64_ceil_div(dim, p->each);
        return 0;
    }
    p->sizes = split;
    p->n = tensor_count(split);
    for (int64_t k = 0; k < p->n; k++)
        if (op_index_at(split, k) < 0 || !i64_add(sum, op_index_at(split, k), &sum))
            return err_set(err, ERR_MODEL, "split %" PRId64 " is %" PRId64 "; sizes are not negative", k,
                           op_index_at(split, k));
    return sum == dim ? 0
                      : err_set(err, ERR_SHAPE, "split adds up to %" PRId64 " but the axis has %" PRId64 " elements",
                                sum, dim);
}

/* x[.., begin .. begin + size, ..] along the axis. */
static int cut(const struct tensor *x, int axis, int64_t begin, int64_t size, bool drop_axis, struct tensor *item,
               struct err *err)
{
    struct shape shape = x->shape;
    shape.dim[axis] = size;
    size_t outer = (size_t)shape_product(&x->shape, 0, axis), elem = op_elem(x->dtype, err);
    size_t inner = (size_t)shape_product(&x->shape, axis + 1, x->shape.rank) * elem;
    if (!elem || tensor_alloc(item, x->dtype, &shape, err) < 0)
        return -1;
    size_t row = (size_t)size * inner, step = (size_t)x->shape.dim[axis] * inner;
    for (size_t o = 0; o < outer && row; o++)
        memcpy((char *)item->data + o * row, (const char *)x->data + o * step + (size_t)begin * inner, row);
    if (drop_axis) {
        for (int d = axis; d + 1 < shape.rank; d++)
            item->shape.dim[d] = item->shape.dim[d + 1];
        item->shape.rank--;
    }
    if (x->dtype != DTYPE_STRING)
        return 0;
    struct tensor own; /* with text of its own */
    int rc = tensor_copy(&own, item, err);
    tensor_fini(item);
    if (!rc)
        *item = own;
    return rc;
}

static int forward_split(struct run_ctx *c, struct err *err)
{
    const struct cut_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    struct pieces p;
    int axis;
    if (op_recheck(c, infer_split, err) < 0 || op_axis(&x->shape, a->axis, &axis, err) < 0 ||
        count_pieces(c, x->shape.dim[axis], &p, err) < 0)
        return -1;
    if (p.n > TENSOR_LIST_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "would make %" PRId64 " pieces; at most %d are held", p.n,
                       TENSOR_LIST_MAX);
    struct tensor *items = calloc((size_t)p.n + 1, sizeof *items);
    int rc = items ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    int64_t begin = 0;
    for (int64_t k = 0; k < p.n && !rc; k++) {
        int64_t size = p.sizes ? op_index_at(p.sizes, k) : i64_min(p.each, x->shape.dim[axis] - begin);
        rc = cut(x, axis, begin, size, !run_in(c, 1) && !a->keepdims, &items[k], err);
        begin += size;
    }
    rc = rc || give(c, 0, items, p.n, err) ? -1 : 0;
    drop_items(items, items ? p.n : 0);
    return rc;
}

/* Shape of the items joined along `axis`. */
static int joined_shape(const struct tensor *list, const struct cut_attrs *a, struct shape *out, int *axis,
                        struct err *err)
{
    const struct tensor *items = tensor_items(list);
    int64_t n = tensor_count(list), sum = 0;
    char x[SHAPE_TEXT], y[SHAPE_TEXT];
    if (n == 0)
        return err_set(err, ERR_SHAPE, "the sequence is empty: nothing tells the shape of the output");
    *out = items[0].shape;
    out->rank += a->new_axis;
    if (op_rank_fits(out->rank, err) < 0 || op_axis(out, a->axis, axis, err) < 0)
        return -1;
    for (int64_t k = 0; k < n; k++) {
        const struct shape *s = &items[k].shape;
        bool fits = s->rank == items[0].shape.rank;
        for (int d = 0; fits && d < s->rank; d++)
            fits = s->dim[d] == items[0].shape.dim[d] || (!a->new_axis && d == *axis);
        if (!fits)
            return err_set(err, ERR_SHAPE, "item %" PRId64 " is %s and does not join the first one, %s", k,
                           shape_text(s, x), shape_text(&items[0].shape, y));
        if (!i64_add(sum, a->new_axis ? 1 : s->dim[*axis], &sum))
            return err_set(err, ERR_MODEL_TOO_LARGE, "the joined axis would be longer than 2^63");
    }
    for (int d = out->rank - 1; a->new_axis && d > *axis; d--)
        out->dim[d] = out->dim[d - 1];
    out->dim[*axis] = sum;
    return 0;
}

static int infer_concat(struct infer_ctx *c, struct err *err)
{
    if (!infer_has(c, 0))
        return err_set(err, ERR_MODEL, "input #0 is missing; it is required");
    return 0;
}

static int forward_concat(struct run_ctx *c, struct err *err)
{
    struct shape shape;
    struct tensor y, own;
    int axis = 0;
    if (need_sequence(c, 0, err) < 0 || joined_shape(c->in[0], c->attrs, &shape, &axis, err) < 0)
        return -1;
    const struct tensor *items = tensor_items(c->in[0]);
    size_t elem = op_elem(items[0].dtype, err);
    if (!elem || tensor_alloc(&y, items[0].dtype, &shape, err) < 0)
        return -1;
    size_t outer = (size_t)shape_product(&shape, 0, axis);
    size_t step = (size_t)shape_product(&shape, axis, shape.rank) * elem, at = 0;
    for (int64_t k = 0; k < tensor_count(c->in[0]); k++) {
        size_t row = outer ? items[k].bytes / outer : 0;
        for (size_t o = 0; o < outer && row; o++)
            memcpy((char *)y.data + o * step + at, (const char *)items[k].data + o * row, row);
        at += row;
    }
    if (y.dtype == DTYPE_STRING) { /* the items' text goes with the list */
        int rc = tensor_copy(&own, &y, err);
        tensor_fini(&y);
        if (rc)
            return -1;
        y = own;
    }
    return run_give(c, 0, &y, err);
}

/* ---- SequenceMap ---- */
struct map_attrs {
    uint32_t body;
};
static const struct op_attr map_attrs[] = {{OP_ATTR(map_attrs, body), .kind = OP_GRAPH, .required = true}, {0}};

static int check_lengths(const struct run_ctx *c, int64_t n, struct err *err)
{
    for (int i = 1; i < c->n_in; i++) {
        const struct tensor *t = c->in[i];
        if (!t)
            return err_set(err, ERR_MODEL, "input #%d is missing; it is required", i);
        if (t->dtype == DTYPE_SEQUENCE && tensor_count(t) != n)
            return err_set(err, ERR_SHAPE, "input #%d has %" PRId64 " items, the first has %" PRId64, i,
                           tensor_count(t), n);
    }
    return 0;
}

/* One call of the body; items[o][k] get its outputs. */
static int map_item(struct run_ctx *c, int64_t k, const struct tensor **in, struct tensor *out, struct tensor **items,
                    struct err *err)
{
    for (int i = 0; i < c->n_in; i++)
        in[i] = c->in[i]->dtype == DTYPE_SEQUENCE ? &tensor_items(c->in[i])[k] : c->in[i];
    if (run_graph(c, ((const struct map_attrs *)c->attrs)->body, in, c->n_in, out, c->n_out, err) < 0)
        return -1;
    int rc = 0;
    for (int o = 0; o < c->n_out; o++) {
        if (!rc && tensor_is_list(&out[o]))
            rc = err_set(err, ERR_MODEL, "the body's output %d is not a tensor", o);
        if (!rc && k > 0)
            rc = same_dtype(&items[o][0], &out[o], err);
        tensor_ref(&items[o][k], &out[o]);
        run_drop(c, &out[o]); /* counted again as part of the list */
    }
    return rc;
}

static int forward_map(struct run_ctx *c, struct err *err)
{
    if (need_sequence(c, 0, err) < 0)
        return -1;
    int64_t n = tensor_count(c->in[0]);
    if (check_lengths(c, n, err) < 0)
        return -1;
    size_t n_out = (size_t)c->n_out;
    const struct tensor **in = calloc((size_t)c->n_in, sizeof *in);
    struct tensor *out = calloc(n_out, sizeof *out), **items = calloc(n_out, sizeof *items);
    int rc = in && out && items ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (size_t o = 0; o < n_out && !rc; o++)
        if (!(items[o] = calloc((size_t)n + 1, sizeof *items[o])))
            rc = err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t k = 0; k < n && !rc; k++)
        rc = map_item(c, k, in, out, items, err);
    for (int o = 0; o < c->n_out && !rc; o++)
        rc = give(c, o, items[o], n, err);
    for (size_t o = 0; o < n_out && items; o++)
        drop_items(items[o], n);
    free(items);
    free(out);
    free(in);
    return rc;
}

/* ---- rows ---- */
#define SEQUENCE(type_, since_, doc_, ...)                                                                             \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .doc = doc_, .out_min = 1, .takes_lists = true,    \
        __VA_ARGS__                                                                                                    \
    }
OP_CLASS(sequence_construct) = SEQUENCE("SequenceConstruct", 11, "A sequence of the inputs.", .in_min = 1, .in_max = -1,
                                        .out_max = 1, .infer = infer_sequence, .forward = forward_construct);
OP_CLASS(sequence_empty) = SEQUENCE("SequenceEmpty", 11, "A sequence of nothing.", .attrs = empty_attrs,
                                    .attrs_size = sizeof(struct empty_attrs), .out_max = 1, .infer = infer_empty,
                                    .forward = forward_empty);
OP_CLASS(sequence_insert) = SEQUENCE("SequenceInsert", 11, "The sequence with a tensor more.", .in_min = 2, .in_max = 3,
                                     .out_max = 1, .infer = infer_sequence, .forward = forward_insert);
OP_CLASS(sequence_erase) = SEQUENCE("SequenceErase", 11, "The sequence with a tensor less.", .in_min = 1, .in_max = 2,
                                    .out_max = 1, .infer = infer_sequence, .forward = forward_erase);
OP_CLASS(sequence_at) = SEQUENCE("SequenceAt", 11, "A tensor of the sequence.", .in_min = 2, .in_max = 2,
                                 .out_max = 1, .infer = infer_nothing, .forward = forward_at);
OP_CLASS(sequence_length) = SEQUENCE("SequenceLength", 11, "How many tensors the sequence has.", .in_min = 1,
                                     .in_max = 1, .out_max = 1, .infer = infer_length, .forward = forward_length);
OP_CLASS(sequence_map) = SEQUENCE("SequenceMap", 17, "Runs a nested graph on each item.", .in_min = 1, .in_max = -1,
                                  .out_max = -1, .attrs = map_attrs, .attrs_size = sizeof(struct map_attrs),
                                  .infer = infer_sequence, .forward = forward_map);
OP_CLASS(split_to_sequence) = SEQUENCE("SplitToSequence", 11, "The input cut along an axis, as a sequence.",
                                       .in_min = 1, .in_max = 2, .attrs = split_attrs,
                                       .attrs_size = sizeof(struct cut_attrs), .out_max = 1, .infer = infer_split,
                                       .forward = forward_split);
OP_CLASS(concat_from_sequence) = SEQUENCE("ConcatFromSequence", 11, "The items joined along an axis.", .in_min = 1,
                                          .in_max = 1, .attrs = concat_attrs, .attrs_size = sizeof(struct cut_attrs),
                                          .out_max = 1, .infer = infer_concat, .forward = forward_concat);
