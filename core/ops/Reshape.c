/* SPDX-License-Identifier: Apache-2.0
 * Operators that only give the same elements another shape: Reshape, Flatten, Squeeze, Unsqueeze, Identity.
 * A plan may let such an output share its input's bytes; forward copies only when it must.
 * Reshape: 0 copies the input's dimension (unless allowzero), one -1 takes what is left. With symbolic dims the -1 is
 * still known when the unknown dims are copied one for one: they cancel on both sides. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

/* ---- Reshape ---- */
struct reshape_attrs {
    struct op_ints shape;
    bool allowzero;
};
static const struct op_attr reshape_old_attrs[] = {{OP_ATTR(reshape_attrs, shape), .kind = OP_INTS}, {0}};
static const struct op_attr reshape_attrs[] = {{OP_ATTR(reshape_attrs, allowzero), .kind = OP_BOOL}, {0}};

/* The known dims' product of `s` without those dims of `other` that are the same symbol; -1 if an unknown dim remains.
 */
static int64_t product_without(const struct shape *s, const struct shape *other, int skip)
{
    bool used[SHAPE_MAX_RANK] = {false};
    int64_t n = 1;
    for (int i = 0; i < s->rank; i++) {
        if (i == skip)
            continue;
        if (s->dim[i] >= 0) {
            if (!i64_mul(n, s->dim[i], &n))
                return -1;
            continue;
        }
        int k = 0;
        while (k < other->rank && (used[k] || other->dim[k] != s->dim[i] || s->dim[i] == DIM_UNKNOWN))
            k++;
        if (k == other->rank)
            return -1;
        used[k] = true;
    }
    return n;
}

/* Same number of equal symbols on both sides, so that dividing the known products is exact. */
static bool symbols_cancel(const struct shape *a, const struct shape *b, int skip_b)
{
    int unknown_a = 0, unknown_b = 0;
    for (int i = 0; i < a->rank; i++)
        unknown_a += a->dim[i] < 0;
    for (int i = 0; i < b->rank; i++)
        unknown_b += i != skip_b && b->dim[i] < 0;
    return unknown_a == unknown_b;
}

/* The one symbol of x that out does not name again, when the sizes beside it are equal on both sides: it is what a -1
 * at `at` stands for. DIM_UNKNOWN: not so. */
static int64_t left_over_symbol(const struct shape *x, const struct shape *out, int at)
{
    struct shape rest = *x;
    for (int i = 0; i < x->rank; i++) {
        if (x->dim[i] >= 0 || x->dim[i] == DIM_UNKNOWN)
            continue;
        rest.dim[i] = 1;
        const int64_t total = product_without(&rest, out, -1), given = product_without(out, &rest, at);
        if (total > 0 && total == given && symbols_cancel(&rest, out, at))
            return x->dim[i];
        rest.dim[i] = x->dim[i];
    }
    return DIM_UNKNOWN;
}

/* Size of dim `at` of out: what is left of x. DIM_UNKNOWN if that cannot be said yet. */
static int find_rest(const struct shape *x, const struct shape *out, int at, int64_t *rest, struct err *err)
{
    char text[SHAPE_TEXT];
    int64_t total = product_without(x, out, -1), given = product_without(out, x, at);
    *rest = left_over_symbol(x, out, at);
    if (total < 0 || given < 0 || !symbols_cancel(x, out, at))
        return 0;
    if (given == 0 ? total != 0 : total % given != 0)
        return err_set(err, ERR_SHAPE,
                       "input %s does not divide by the other dimensions of the new shape (%" PRId64 ")",
                       shape_text(x, text), given);
    *rest = given ? total / given : 0;
    return 0;
}

static int check_counts(const struct shape *x, const struct shape *out, struct err *err)
{
    char from[SHAPE_TEXT], to[SHAPE_TEXT];
    if (!shape_known(x) || !shape_known(out))
        return 0;
    if (shape_count(x) != shape_count(out))
        return err_set(err, ERR_SHAPE, "input %s cannot take the shape %s", shape_text(x, from), shape_text(out, to));
    return 0;
}

static int reshape_to(const struct shape *x, const int64_t *dims, int rank, bool allowzero, struct shape *out,
                      struct err *err)
{
    int rest = -1;
    out->rank = rank;
    struct shape x_left = *x, out_left = {.rank = rank}; /* without the copied dims, which cancel whatever they are */
    for (int i = 0; i < rank; i++) {
        out_left.dim[i] = dims[i];
        out->dim[i] = dims[i];
        if (dims[i] == 0 && !allowzero) {
            if (x->rank >= 0 && i >= x->rank)
                return err_set(err, ERR_SHAPE, "dimension %d is to be copied from the input, which has only %d axes", i,
                               x->rank);
            out->dim[i] = x->rank < 0 ? DIM_UNKNOWN : x->dim[i];
            x_left.dim[i] = out_left.dim[i] = 1;
        } else if (dims[i] == -1) {
            if (rest >= 0)
                return err_set(err, ERR_MODEL, "the new shape has two -1, at %d and %d; one is allowed", rest, i);
            rest = i;
        } else if (dims[i] < -1) {
            return err_set(err, ERR_MODEL,
                           "dimension %d of the new shape is %" PRId64 "; it must be -1 or not negative", i, dims[i]);
        }
    }
    if (x->rank < 0)
        return 0;
    if (rest >= 0 && find_rest(&x_left, &out_left, rest, &out->dim[rest], err) < 0)
        return -1;
    return check_counts(x, out, err);
}

/* The same with a new shape of which only some numbers are known: a -1 among them is found if the symbols cancel. */
static int reshape_to_sizes(const struct shape *x, const struct sym_list *sizes, bool allowzero, struct shape *out,
                            struct err *err)
{
    struct shape known = {.rank = sizes->count};
    int64_t dims[SHAPE_MAX_RANK] = {0};
    int rest = -1;
    if (op_rank_fits(sizes->count, err) < 0)
        return -1;
    for (int i = 0; i < known.rank; i++) {
        const struct sym v = sizes->at[i];
        dims[i] = v.known ? v.n : 1;
        known.dim[i] = sym_dim(v);
        if (v.known && v.n == 0 && !allowzero)
            known.dim[i] = i < x->rank ? x->dim[i] : DIM_UNKNOWN;
        else if (v.known && v.n < 0)
            rest = i;
    }
    if (reshape_to(&SHAPE_UNKNOWN, dims, known.rank, allowzero, out, err) < 0) /* the numbers alone */
        return -1;
    *out = known;
    return x->rank >= 0 && rest >= 0 ? find_rest(x, &known, rest, &out->dim[rest], err) : 0;
}

static int infer_reshape(struct infer_ctx *c, struct err *err)
{
    const struct reshape_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    int64_t dims[SHAPE_MAX_RANK];
    int rank = 0;
    bool by_attr = c->opset < 5;
    if (op_need(c, by_attr ? 1 : 2, err) < 0)
        return -1;
    if (by_attr) {
        if (op_rank_fits(attrs->shape.count, err) < 0 ||
            reshape_to(infer_shape(c, 0), attrs->shape.at, attrs->shape.count, false, &out, err) < 0)
            return -1;
    } else if (op_value(c, 1)) {
        if (op_read_ints(op_value(c, 1), "the new shape", dims, SHAPE_MAX_RANK, &rank, err) < 0 ||
            reshape_to(infer_shape(c, 0), dims, rank, attrs->allowzero, &out, err) < 0)
            return -1;
    } else if (op_sizes(c, 1)) {
        if (reshape_to_sizes(infer_shape(c, 0), op_sizes(c, 1), attrs->allowzero, &out, err) < 0)
            return -1;
    } else if (op_list_length(c, 1) >= 0) {
        if (op_rank_fits(op_list_length(c, 1), err) < 0)
            return -1;
        out.rank = (int)op_list_length(c, 1);
        for (int i = 0; i < out.rank; i++)
            out.dim[i] = DIM_UNKNOWN;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

/* ---- pruning: the new shape ---- */
/* Entry of the new shape; false: not known. */
static bool shape_entry(const struct infer_ctx *c, int i, int64_t *v)
{
    const struct reshape_attrs *attrs = c->attrs;
    if (c->opset >= 5)
        return sizes_entry(c, 1, i, v);
    if (i < attrs->shape.count)
        *v = attrs->shape.at[i];
    return i < attrs->shape.count;
}

/* The shape anew, given the input's and output's axes as they are to be: 0 and -1 stay where they still hold, other numbers are written
 * out. An axis that is no number is copied by 0 if it is the input's, else taken by -1 if nobody else does. True: every entry is said; false:
 * some are SIZES_LEFT. */
static bool new_shape(const struct infer_ctx *c, const struct shape *x, const struct shape *out, int64_t *v)
{
    const struct reshape_attrs *attrs = c->attrs;
    int rest = -1, left = 0, last = 0;
    for (int i = 0; i < out->rank; i++) {
        const bool known = shape_entry(c, i, &v[i]);
        const bool same = !attrs->allowzero && i < x->rank && x->dim[i] == out->dim[i] && x->dim[i] != DIM_UNKNOWN;
        if (known && v[i] == -1)
            rest = i;
        else if (!(known && v[i] == 0 && (same || attrs->allowzero || out->dim[i] < 0)))
            v[i] = out->dim[i] >= 0 ? out->dim[i] : same ? 0 : SIZES_LEFT;
        if (v[i] == SIZES_LEFT) {
            left++;
            last = i;
        }
    }
    if (left == 1 && (rest < 0 || out->dim[rest] >= 0)) { /* that one needs the -1 more */
        if (rest >= 0)
            v[rest] = out->dim[rest];
        v[last] = -1;
        left = 0;
    }
    return left == 0;
}

static int couple_reshape(struct coupling *k, struct err *err)
{
    int64_t v[SHAPE_MAX_RANK];
    const struct infer_ctx *c = k->infer;
    (void)err;
    couple_reshaped(k, IN(0), OUT(0));
    if (couple_rank(k, IN(0)) >= 0 && couple_rank(k, OUT(0)) >= 0 &&
        (new_shape(c, infer_shape(c, 0), &c->out[0].shape, v) || sizes_writable(c, 1, c->out[0].shape.rank)))
        return 0;
    couple_freeze_all(k, IN(0), "its new shape is computed while running");
    couple_freeze_all(k, OUT(0), "its new shape is computed while running");
    return 0;
}

static int shrink_reshape(struct shrink *s, struct err *err)
{
    int64_t v[SHAPE_MAX_RANK], was;
    struct shape x = *infer_shape(s->infer, 0), out = s->infer->out[0].shape;
    bool changes = false;
    for (int i = 0; i < x.rank; i++)
        x.dim[i] = x.dim[i] < 0 ? x.dim[i] : shrink_size(s, IN(0), i);
    for (int i = 0; i < out.rank; i++)
        out.dim[i] = out.dim[i] < 0 ? out.dim[i] : shrink_size(s, OUT(0), i);
    new_shape(s->infer, &x, &out, v);
    if (s->infer->opset >= 5)
        return shrink_sizes(s, 1, v, out.rank, err);
    for (int i = 0; i < out.rank; i++)
        changes = changes || !shape_entry(s->infer, i, &was) || v[i] != was;
    if (changes)
        node_set_ints(s->model, s->node, "shape", v, out.rank);
    return 0;
}

/* ---- Flatten ---- */
struct axis_attrs {
    int64_t axis;
};
static const struct op_attr flatten_attrs[] = {{OP_ATTR(axis_attrs, axis), .kind = OP_INT, .def = 1}, {0}};

static int64_t product_of(struct symbols *symbols, const struct shape *s, int from, int to)
{
    struct sym n = sym_number(1);
    for (int i = from; i < to; i++)
        n = sym_mul(symbols, n, sym_of_dim(s->dim[i]));
    return sym_dim(n);
}

static int infer_flatten(struct infer_ctx *c, struct err *err)
{
    const struct axis_attrs *attrs = c->attrs;
    if (op_need(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    struct shape out = SHAPE(DIM_UNKNOWN, DIM_UNKNOWN);
    if (x->rank >= 0) {
        int64_t axis = attrs->axis < 0 ? attrs->axis + x->rank : attrs->axis;
        if (axis < 0 || axis > x->rank)
            return err_set(err, ERR_MODEL, "axis %" PRId64 " is out of range; it must be in [%d, %d]", attrs->axis,
                           -x->rank, x->rank);
        out.dim[0] = product_of(c->symbols, x, 0, (int)axis);
        out.dim[1] = product_of(c->symbols, x, (int)axis, x->rank);
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

/* ---- Squeeze, Unsqueeze ---- */
struct axes_attrs {
    struct op_ints axes;
};
static const struct op_attr axes_attrs[] = {{OP_ATTR(axes_attrs, axes), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK},
                                            {0}};
static const struct op_attr needed_axes_attrs[] = {
    {OP_ATTR(axes_attrs, axes), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK, .required = true}, {0}};
static const struct op_attr no_attrs[] = {{0}};

/* Axes from attribute or input; 0 known, 1 not known yet. */
static int get_axes(const struct infer_ctx *c, int64_t axes[SHAPE_MAX_RANK], int *count, struct err *err)
{
    const struct axes_attrs *attrs = c->attrs;
    *count = attrs->axes.count;
    if (*count)
        memcpy(axes, attrs->axes.at, (size_t)*count * sizeof *axes);
    if (!infer_has(c, 1))
        return 0;
    return op_value(c, 1) ? op_read_ints(op_value(c, 1), "axes", axes, SHAPE_MAX_RANK, count, err) : 1;
}

static void unknown_rank_change(struct infer_ctx *c, int sign)
{
    struct shape out = SHAPE_UNKNOWN;
    int64_t n = op_list_length(c, 1), rank = infer_shape(c, 0)->rank;
    if (n > 0 && n <= SHAPE_MAX_RANK && rank >= 0 && rank + sign * n >= 0 && rank + sign * n <= SHAPE_MAX_RANK) {
        out.rank = (int)(rank + sign * n);
        for (int i = 0; i < out.rank; i++)
            out.dim[i] = DIM_UNKNOWN;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
}

static int infer_squeeze(struct infer_ctx *c, struct err *err)
{
    int64_t axes[SHAPE_MAX_RANK];
    bool mask[SHAPE_MAX_RANK];
    int count;
    if (op_need(c, 1, err) < 0)
        return -1;
    int known = get_axes(c, axes, &count, err);
    const struct shape *x = infer_shape(c, 0);
    if (known < 0)
        return -1;
    if (known > 0 || x->rank < 0) {
        unknown_rank_change(c, -1);
        return 0;
    }
    if (op_axes_mask(axes, count, x->rank, mask, err) < 0)
        return -1;
    struct shape out = {0};
    for (int i = 0; i < x->rank; i++) {
        if (mask[i] && x->dim[i] > 1)
            return err_set(err, ERR_SHAPE, "axis %d has %" PRId64 " elements; only axes of one can be squeezed", i,
                           x->dim[i]);
        if (mask[i] && x->dim[i] == 0)
            return err_set(err, ERR_SHAPE, "axis %d has no elements; only axes of one can be squeezed", i);
        if (count == 0 && x->dim[i] < 0) { /* which axes go depends on their size */
            infer_out(c, 0, op_dtype(c, 0), &SHAPE_UNKNOWN);
            return 0;
        }
        if (!(count ? mask[i] : x->dim[i] == 1))
            out.dim[out.rank++] = x->dim[i];
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int infer_unsqueeze(struct infer_ctx *c, struct err *err)
{
    int64_t axes[SHAPE_MAX_RANK];
    bool mask[SHAPE_MAX_RANK];
    int count;
    if (op_need(c, c->opset >= 13 ? 2 : 1, err) < 0)
        return -1;
    int known = get_axes(c, axes, &count, err);
    const struct shape *x = infer_shape(c, 0);
    if (known < 0)
        return -1;
    if (known > 0 || x->rank < 0) {
        unknown_rank_change(c, 1);
        return 0;
    }
    struct shape out = {.rank = x->rank + count};
    if (op_rank_fits(out.rank, err) < 0 || op_axes_mask(axes, count, out.rank, mask, err) < 0)
        return -1;
    for (int i = 0, from = 0; i < out.rank; i++)
        out.dim[i] = mask[i] ? 1 : x->dim[from++];
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

/* ---- pruning: the other rows ---- */
static int couple_flatten(struct coupling *k, struct err *err)
{
    (void)err;
    couple_reshaped(k, IN(0), OUT(0));
    return 0;
}

/* The axes of `all` that are not among the named ones of size 1 are those of `few`, in order. */
static int couple_ones(struct coupling *k, struct end all, struct end few)
{
    const struct infer_ctx *c = k->infer;
    const int rank = couple_rank(k, all);
    int64_t axes[SHAPE_MAX_RANK];
    bool mask[SHAPE_MAX_RANK] = {false};
    int count = 0;
    const bool known = rank >= 0 && couple_rank(k, few) >= 0 && get_axes(c, axes, &count, NULL) == 0 &&
                       op_axes_mask(axes, count, rank, mask, NULL) == 0;
    if (!known) {
        couple_freeze_all(k, all, "its axes are computed while running");
        couple_freeze_all(k, few, "its axes are computed while running");
        return 0;
    }
    if (count == 0 && couple_rank(k, few) == rank) /* nothing to name, should a cut leave one element of an axis */
        couple_freeze_all(k, all, "it squeezes whatever has one element");
    for (int i = 0, to = 0; i < rank; i++)
        if (count ? mask[i] : couple_size(k, all, i) == 1)
            couple_pass(k, all, i);
        else
            couple_axes(k, all, i, few, to++);
    return 0;
}

static int couple_squeeze(struct coupling *k, struct err *err)
{
    (void)err;
    return couple_ones(k, IN(0), OUT(0));
}

/* Without axes all of size 1 go; a cut must not make more of them. */
static int shrink_squeeze(struct shrink *s, struct err *err)
{
    const struct infer_ctx *c = s->infer;
    const struct shape *x = infer_shape(c, 0);
    int64_t axes[SHAPE_MAX_RANK];
    int count = 0;
    bool more = false;
    if (get_axes(c, axes, &count, NULL) != 0 || count > 0)
        return 0;
    for (int i = 0; i < x->rank; i++) {
        if (x->dim[i] == 1)
            axes[count++] = i;
        else
            more = more || shrink_size(s, IN(0), i) == 1;
    }
    if (!more)
        return 0;
    if (c->opset >= 13)
        return shrink_set_input(s, 1, axes, count, err);
    node_set_ints(s->model, s->node, "axes", axes, count);
    return 0;
}

static int couple_unsqueeze(struct coupling *k, struct err *err)
{
    (void)err;
    return couple_ones(k, OUT(0), IN(0));
}

#define COPY_FN(name)                                                                                                  \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return op_copy_whole(c, infer_##name, err);                                                                    \
    }
COPY_FN(reshape)
COPY_FN(flatten)
COPY_FN(squeeze)
COPY_FN(unsqueeze)

/* Identity takes sequences and optionals too. */
static int infer_identity(struct infer_ctx *c, struct err *err)
{
    if (!infer_has(c, 0) || c->in[0]->kind == TYPE_TENSOR || c->in[0]->kind == TYPE_NONE)
        return op_infer_same(c, err);
    c->out[0] = (struct type){.kind = c->in[0]->kind, .shape = SHAPE_UNKNOWN};
    return 0;
}

static int forward_identity(struct run_ctx *c, struct err *err)
{
    struct tensor list;
    if (tensor_is_list(c->in[0]))
        return tensor_copy(&list, c->in[0], err) < 0 ? -1 : run_give(c, 0, &list, err);
    return op_copy_whole(c, op_infer_same, err);
}

static int backward(struct grad_ctx *c, struct err *err)
{
    return grad_add_whole(c, 0, grad_of(c, 0), err);
}

/* ---- rows ---- */
#define RESHAPE_ROW(type_, doc_, ...)                                                                                  \
    {                                                                                                                  \
        .type = type_, .domain = "", .doc = doc_, .in_min = 1, .out_min = 1, .out_max = 1, .quant = {QUANT_PASS},      \
        .view = true, .propagate = op_sizes_same, .backward = backward, .grad_inputs = 1, .grad_assigns = true,        \
        __VA_ARGS__                                                                                                    \
    }
OP_CLASS(reshape_1) = RESHAPE_ROW("Reshape", "The same elements in another shape, an attribute.", .since = 1,
                                  .until = 4, .in_max = 1, .attrs = reshape_old_attrs,
                                  .attrs_size = sizeof(struct reshape_attrs), .infer = infer_reshape,
                                  .forward = forward_reshape, .couple = couple_reshape, .shrink = shrink_reshape,
                                  .samples = (const struct op_sample[]){
                                      {"f32[2,3,4]", "shape=0,-1", 1, 4}, {"f32[2,12]", "shape=2,3,4", 1, 4}, {0}});
OP_CLASS(reshape_5) = {.type = "Reshape",
                       .view = true,
                       .propagate = op_sizes_same,
                       .domain = "",
                       .since = 5,
                       .doc = "The same elements in another shape; 0 copies, -1 takes the rest.",
                       .in_min = 2,
                       .in_max = 2,
                       .out_min = 1,
                       .out_max = 1,
                       .quant = {QUANT_PASS},
                       .attrs = reshape_attrs,
                       .attrs_size = sizeof(struct reshape_attrs),
                       .infer = infer_reshape,
                       .forward = forward_reshape,
                       .couple = couple_reshape,
                       .shrink = shrink_reshape,
                       .backward = backward,
                       .grad_inputs = 1,
                       .grad_assigns = true,
                       .samples = (const struct op_sample[]){{"f32[2,3,4] !i64[2]=0,-1", ""},
                                                             {"f32[2,3,4] i64[3]=4,3,2", ""},
                                                             {"f32[2,3,4] !i64[4]=2,0,2,-1", ""},
                                                             {"f32[1] !i64[0]", ""},
                                                             {"f32[2,12,5] !i64[4]=0,3,4,-1", ""},
                                                             {"f32[2,3,4,5] !i64[3]=-1,12,5", ""},
                                                             {"f32[2,3,4,2] !i64[2]=2,24", ""},
                                                             {"f32[2,3,24] !i64[4]=2,3,-1,4", ""},
                                                             {"f32[3,2,12] i64[3]=3,8,3", ""},
                                                             {"f32[4,6] !i64[2]=12,2", ""},
                                                             {"f32[0,3] !i64[2]=3,0", "allowzero=1"},
                                                             {"i64[2,2] !i64[1]=-1", ""},
                                                             {0}}};
OP_CLASS(flatten) = RESHAPE_ROW(
    "Flatten", "The input as a matrix: axes before `axis`, and the others.", .since = 1, .in_max = 1,
    .attrs = flatten_attrs, .attrs_size = sizeof(struct axis_attrs), .infer = infer_flatten, .forward = forward_flatten,
    .couple = couple_flatten,
    .samples = (const struct op_sample[]){
        {"f32[2,3,4]", ""}, {"f32[2,3,4]", "axis=0"}, {"f32[2,3,4]", "axis=-1"}, {"f32[2,3,4]", "axis=3"}, {0}});
OP_CLASS(squeeze_1) = RESHAPE_ROW("Squeeze", "Axes of one element removed.", .since = 1, .until = 12, .in_max = 1,
                                  .attrs = axes_attrs, .attrs_size = sizeof(struct axes_attrs), .infer = infer_squeeze,
                                  .forward = forward_squeeze, .couple = couple_squeeze, .shrink = shrink_squeeze,
                                  .samples = (const struct op_sample[]){{"f32[1,3,1]", "axes=0", 1, 11},
                                                                        {"f32[1,3,1]", "axes=0,-1", 1, 11},
                                                                        {"f32[1,3,1]", "", 1, 11},
                                                                        {0}});
OP_CLASS(squeeze_13) = RESHAPE_ROW("Squeeze", "Axes of one element removed.", .since = 13, .in_max = 2,
                                   .attrs = no_attrs, .attrs_size = sizeof(struct axes_attrs), .infer = infer_squeeze,
                                   .forward = forward_squeeze, .couple = couple_squeeze, .shrink = shrink_squeeze,
                                   .samples = (const struct op_sample[]){{"f32[1,3,1] !i64[1]=0", ""},
                                                                         {"f32[1,3,1] i64[2]=0,-1", ""},
                                                                         {"f32[1,3,1]", ""},
                                                                         {0}});
OP_CLASS(unsqueeze_1) = RESHAPE_ROW("Unsqueeze", "Axes of one element added.", .since = 1, .until = 12, .in_max = 1,
                                    .attrs = needed_axes_attrs, .attrs_size = sizeof(struct axes_attrs),
                                    .infer = infer_unsqueeze, .forward = forward_unsqueeze, .couple = couple_unsqueeze,
                                    .samples = (const struct op_sample[]){
                                        {"f32[3,4]", "axes=0,3", 1, 11}, {"f32[3]", "axes=-1", 1, 11}, {0}});
OP_CLASS(unsqueeze_13) = {.type = "Unsqueeze",
                          .view = true,
                          .propagate = op_sizes_same,
                          .domain = "",
                          .since = 13,
                          .doc = "Axes of one element added.",
                          .in_min = 2,
                          .in_max = 2,
                          .out_min = 1,
                          .out_max = 1,
                          .quant = {QUANT_PASS},
                          .attrs = no_attrs,
                          .attrs_size = sizeof(struct axes_attrs),
                          .infer = infer_unsqueeze,
                          .forward = forward_unsqueeze,
                          .couple = couple_unsqueeze,
                          .backward = backward,
                          .grad_inputs = 1,
                          .grad_assigns = true,
                          .samples = (const struct op_sample[]){
                              {"f32[3,4] !i64[2]=0,3", ""}, {"f32[3] i64[1]=-1", ""}, {"f32[] !i64[]=0", ""}, {0}}};
OP_CLASS(identity) = RESHAPE_ROW("Identity", "The input as it is.", .since = 1, .in_max = 1, .takes_lists = true,
                                 .infer = infer_identity, .forward = forward_identity, .couple = couple_like,
                                 .samples = (const struct op_sample[]){
                                     {"f32[2,3]", ""}, {"i64[3]", ""}, {"b[2]", ""}, {"f16[2]", ""}, {0}});
