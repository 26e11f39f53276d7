/* SPDX-License-Identifier: Apache-2.0
 * Concat and Split: inputs joined along an axis, and its inverse. x_k[outer, n_k, inner] <-> y[outer, sum n_k, inner].
 * Split's sizes are an attribute (opset 2), an input (1 and 13) or equal parts; with num_outputs (18) the last may be
 * smaller. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

struct slab_copy {
    char *dst;
    const char *src;
    size_t bytes, dst_step, src_step; /* of one outer index */
};

static void copy_slabs(void *opaque, int64_t begin, int64_t end)
{
    const struct slab_copy *k = opaque;
    for (int64_t i = begin; i < end; i++)
        memcpy(k->dst + (size_t)i * k->dst_step, k->src + (size_t)i * k->src_step, k->bytes);
}

static void copy_all(struct pool *pool, struct slab_copy *k, int64_t outer)
{
    if (k->bytes)
        op_parallel(pool, outer, i64_max(1, (1 << 17) / (int64_t)k->bytes), copy_slabs, k);
}

/* ---- gradients: slabs of one tensor to and from slabs of another ---- */
/* [outer, part, inner] of dst takes those of src; sizes of the axis are n_dst and n_src, the part begins at 0 of both
 * pointers. */
struct slab_sum {
    void *dst;
    const void *src;
    int64_t outer, part, inner, n_dst, n_src;
    bool assign;
};

static void sum_slabs(struct pool *pool, enum dtype dtype, const struct slab_sum *k)
{
    const struct grad_loop l = {.dtype = dtype,
                                .rank = 2,
                                .dim = {k->outer, k->part * k->inner},
                                .dst = k->dst,
                                .dst_stride = {k->n_dst * k->inner, 1},
                                .sources = 1,
                                .src = {{.data = k->src, .stride = {k->n_src * k->inner, 1}}},
                                .assign = k->assign};
    grad_sum(pool, &l);
}

/* ---- Concat ---- */
struct concat_attrs {
    int64_t axis;
};
static const struct op_attr concat_old_attrs[] = {{OP_ATTR(concat_attrs, axis), .kind = OP_INT, .def = 1}, {0}};
static const struct op_attr concat_attrs[] = {{OP_ATTR(concat_attrs, axis), .kind = OP_INT, .required = true}, {0}};

/* Dims other than the axis must agree; the axis adds up. */
static int join_shape(struct symbols *symbols, struct shape *out, const struct shape *x, int axis, int i,
                      struct err *err)
{
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    bool fits = x->rank == out->rank;
    for (int d = 0; fits && d < out->rank; d++) {
        if (d == axis)
            out->dim[d] = sym_dim(sym_add(symbols, sym_of_dim(out->dim[d]), sym_of_dim(x->dim[d])));
        else if (out->dim[d] < 0)
            out->dim[d] = x->dim[d];
        else
            fits = x->dim[d] < 0 || x->dim[d] == out->dim[d];
    }
    if (fits)
        return 0;
    return err_set(err, ERR_SHAPE, "input #%d %s does not fit the inputs before it %s; only axis %d may differ", i,
                   shape_text(x, a), shape_text(out, b), axis);
}

static int infer_concat(struct infer_ctx *c, struct err *err)
{
    const struct concat_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    enum dtype dtype;
    int axis = -1;
    bool known = true;
    if (op_need(c, c->n_in < 1 ? 1 : c->n_in, err) < 0 || op_same_dtype(c, 0, c->n_in, &dtype, err) < 0)
        return -1;
    for (int i = 0; i < c->n_in; i++) {
        const struct shape *x = infer_shape(c, i);
        known &= x->rank >= 0;
        if (x->rank < 0)
            continue;
        if (out.rank < 0 && op_axis(x, attrs->axis, &axis, err) < 0)
            return -1;
        if (out.rank < 0)
            out = *x;
        else if (join_shape(c->symbols, &out, x, axis, i, err) < 0)
            return -1;
    }
    if (!known && axis >= 0)
        out.dim[axis] = DIM_UNKNOWN;
    infer_out(c, 0, dtype, &out);
    return 0;
}

static bool propagate_concat(const struct infer_ctx *c, struct sym_list *out)
{
    out->count = 0;
    for (int i = 0; i < c->n_in; i++) {
        const struct sym_list *x = op_sizes(c, i);
        const int64_t n = x ? x->count : infer_shape(c, i)->rank == 1 ? infer_shape(c, i)->dim[0] : -1;
        if (n < 0 || n > SYM_LIST_MAX - out->count)
            return false;
        for (int k = 0; k < (int)n; k++)
            out->at[out->count++] = x ? x->at[k] : SYM_UNKNOWN;
    }
    return true;
}

static int forward_concat(struct run_ctx *c, struct err *err)
{
    const struct concat_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_concat, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    size_t elem = op_elem(y->dtype, err);
    if (!elem)
        return -1;
    int axis = shape_axis(&y->shape, attrs->axis);
    int64_t outer = shape_product(&y->shape, 0, axis), inner = shape_product(&y->shape, axis + 1, y->shape.rank);
    char *dst = y->data;
    for (int i = 0; i < c->n_in; i++) {
        size_t bytes = (size_t)(c->in[i]->shape.dim[axis] * inner) * elem;
        struct slab_copy k = {dst, c->in[i]->data, bytes, (size_t)(y->shape.dim[axis] * inner) * elem, bytes};
        copy_all(c->pool, &k, outer);
        dst += bytes;
    }
    return 0;
}

static int backward_concat(struct grad_ctx *c, struct err *err)
{
    const struct concat_attrs *attrs = c->attrs;
    const struct tensor *g = grad_of(c, 0);
    const int axis = shape_axis(&c->in[0]->shape, attrs->axis);
    int64_t from = 0;

    if (g && grad_type(g, err) < 0)
        return -1;
    const size_t elem = g && g->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double);
    for (int i = 0; i < c->n_in; i++) {
        const struct shape *x = &c->in[i]->shape;
        if (!g) {
            grad_zero(c, i);
        } else if (c->grad_in[i] && tensor_count(c->grad_in[i]) > 0) {
            const int64_t part = x->dim[axis], inner = shape_product(x, axis + 1, x->rank), n = g->shape.dim[axis];
            const struct slab_sum k = {c->grad_in[i]->data,
                                       (const char *)g->data + (size_t)(from * inner) * elem,
                                       shape_product(x, 0, axis),
                                       part,
                                       inner,
                                       part,
                                       n,
                                       grad_assign(c, i)};
            sum_slabs(c->pool, g->dtype, &k);
        }
        from += x->dim[axis];
    }
    return 0;
}

static int couple_concat(struct coupling *k, struct err *err)
{
    const struct concat_attrs *attrs = couple_attrs(k);
    const int rank = couple_rank(k, OUT(0)), axis = (int)(attrs->axis < 0 ? attrs->axis + rank : attrs->axis);
    const char *why = NULL;
    int64_t from = 0;
    (void)err;
    for (int i = 0; i < k->infer->n_in; i++) {
        if (couple_rank(k, IN(i)) != rank)
            why = "it joins inputs of shapes that are not fixed";
        else if (!why && couple_size(k, IN(i), axis) < 0)
            why = "it joins inputs of sizes that are not fixed";
    }
    for (int i = 0; i < k->infer->n_in; i++) {
        const int64_t n = couple_size(k, IN(i), axis);
        couple_same_but(k, IN(i), OUT(0), axis);
        if (why)
            couple_freeze(k, IN(i), axis, why);
        else
            couple_part(k, IN(i), axis, 0, OUT(0), axis, from, n);
        from += n;
    }
    for (int i = 0; why && i < k->infer->n_in && rank >= 0; i++)
        if (couple_rank(k, IN(i)) != rank)
            couple_freeze_all(k, OUT(0), why);
    return 0;
}

#define CONCAT(...)                                                                                                    \
    {                                                                                                                  \
        .type = "Concat", .domain = "", .doc = "Inputs joined along an axis.", .in_min = 1, .in_max = -1,              \
        .out_min = 1, .out_max = 1, .attrs_size = sizeof(struct concat_attrs), .infer = infer_concat,                  \
        .propagate = propagate_concat, .couple = couple_concat, .forward = forward_concat,                             \
        .backward = backward_concat, .grad_inputs = UINT32_MAX, .grad_assigns = true, .quant = {QUANT_OUTPUT},         \
        __VA_ARGS__                                                                                                    \
    }
OP_CLASS(concat_1) = CONCAT(.since = 1, .until = 3, .attrs = concat_old_attrs,
                            .samples = (const struct op_sample[]){{"f32[2,3] f32[2,1]", "", 1, 3}, {0}});
OP_CLASS(concat_4) = CONCAT(.since = 4, .attrs = concat_attrs,
                            .samples = (const struct op_sample[]){{"f32[2,3] f32[2,1] f32[2,2]", "axis=1"},
                                                                  {"f32[2,3] f32[1,3]", "axis=0"},
                                                                  {"i64[2] i64[3]", "axis=-1"},
                                                                  {"f32[2,3,2]", "axis=1"},
                                                                  {"f32[2,0] f32[2,2]", "axis=1"},
                                                                  {0}});

/* ---- Split ---- */
struct split_attrs {
    int64_t axis, num_outputs;
    struct op_ints split;
};
static const struct op_attr split_attrs[] = {{OP_ATTR(split_attrs, axis), .kind = OP_INT},
                                             {OP_ATTR(split_attrs, split), .kind = OP_INTS, .max_count = 65536},
                                             {0}};
static const struct op_attr split_13_attrs[] = {{OP_ATTR(split_attrs, axis), .kind = OP_INT}, {0}};
static const struct op_attr split_18_attrs[] = {
    {OP_ATTR(split_attrs, axis), .kind = OP_INT}, {OP_ATTR(split_attrs, num_outputs), .kind = OP_INT}, {0}};

/* Given sizes, from the attribute or the input's value. */
static int64_t given_size(const struct split_attrs *attrs, const struct tensor *sizes, int i)
{
    return sizes ? op_index_at(sizes, i) : attrs->split.at[i];
}

static int check_sizes(const struct split_attrs *attrs, const struct tensor *sizes, int n_out, int64_t dim,
                       struct err *err)
{
    int64_t sum = 0, count = sizes ? tensor_count(sizes) : attrs->split.count;
    if (sizes && sizes->dtype != DTYPE_INT64 && sizes->dtype != DTYPE_INT32)
        return err_set(err, ERR_MODEL, "split is %s; it must be int64", dtype_name(sizes->dtype));
    if (count != n_out)
        return err_set(err, ERR_MODEL, "split has %" PRId64 " sizes but there are %d outputs", count, n_out);
    for (int i = 0; i < n_out; i++) {
        int64_t size = given_size(attrs, sizes, i);
        if (size < 0 || !i64_add(sum, size, &sum))
            return err_set(err, ERR_MODEL, "size %d of split is %" PRId64 "; it must not be negative or huge", i, size);
    }
    if (dim >= 0 && sum != dim)
        return err_set(err, ERR_SHAPE, "split adds up to %" PRId64 " but the axis has %" PRId64 " elements", sum, dim);
    return 0;
}

/* Size of part i when the axis is cut into equal parts. */
static int64_t equal_part(int64_t dim, int parts, int i)
{
    int64_t chunk = i64_ceil_div(dim, parts);
    return i64_max(0, i64_min(chunk, dim - (i64_min(dim, chunk * i))));
}

static int infer_split(struct infer_ctx *c, struct err *err)
{
    const struct split_attrs *attrs = c->attrs;
    if (op_need(c, 1, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    const struct tensor *sizes = op_value(c, 1);
    bool later = infer_has(c, 1) && !sizes, given = sizes || attrs->split.count;
    int axis = 0;
    if (x->rank >= 0 && op_axis(x, attrs->axis, &axis, err) < 0)
        return -1;
    int64_t dim = x->rank >= 0 ? x->dim[axis] : DIM_UNKNOWN;
    if (given && check_sizes(attrs, sizes, c->n_out, dim, err) < 0)
        return -1;
    if (attrs->num_outputs && attrs->num_outputs != c->n_out)
        return err_set(err, ERR_MODEL, "num_outputs is %" PRId64 " but there are %d outputs", attrs->num_outputs,
                       c->n_out);
    if (!given && !later && c->opset < 18 && dim >= 0 && dim % c->n_out != 0)
        return err_set(err, ERR_SHAPE, "the axis has %" PRId64 " elements, which do not divide by %d outputs", dim,
                       c->n_out);
    for (int i = 0; i < c->n_out; i++) {
        struct shape out = *x;
        if (x->rank >= 0)
            out.dim[axis] = given              ? given_size(attrs, sizes, i)
                            : later || dim < 0 ? DIM_UNKNOWN
                                               : equal_part(dim, c->n_out, i);
        infer_out(c, i, op_dtype(c, 0), &out);
    }
    return 0;
}

static int forward_split(struct run_ctx *c, struct err *err)
{
    const struct split_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_split, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *sizes = run_in(c, 1);
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    int axis = shape_axis(&x->shape, attrs->axis);
    int64_t outer = shape_product(&x->shape, 0, axis), inner = shape_product(&x->shape, axis + 1, x->shape.rank);
    bool given = sizes || attrs->split.count;
    const char *src = x->data;
    for (int i = 0; i < c->n_out; i++) {
        int64_t part = given ? given_size(attrs, sizes, i) : equal_part(x->shape.dim[axis], c->n_out, i);
        size_t bytes = (size_t)(part * inner) * elem;
        if (c->out[i]) {
            struct slab_copy k = {c->out[i]->data, src, bytes, bytes, (size_t)(x->shape.dim[axis] * inner) * elem};
            copy_all(c->pool, &k, outer);
        }
        if (src)
            src += bytes;
    }
    return 0;
}

/* Every part of dL/dx is one output's gradient, or zero where there is none. */
static int backward_split(struct grad_ctx *c, struct err *err)
{
    const struct split_attrs *attrs = c->attrs;
    const struct tensor *sizes = c->n_in > 1 ? c->in[1] : NULL;
    struct tensor *dst = grad_wanted(c, 0);

    if (!dst || tensor_count(dst) == 0)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    const size_t elem = dst->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double);
    const int axis = shape_axis(&dst->shape, attrs->axis);
    const int64_t n = dst->shape.dim[axis], outer = shape_product(&dst->shape, 0, axis);
    const int64_t inner = shape_product(&dst->shape, axis + 1, dst->shape.rank);
    bool all = true;
    for (int i = 0; i < c->n_out; i++)
        all = all && c->grad_out[i];
    if (!all)
        grad_zero(c, 0);
    int64_t from = 0;
    for (int i = 0; i < c->n_out; i++) {
        const int64_t part = sizes || attrs->split.count ? given_size(attrs, sizes, i) : equal_part(n, c->n_out, i);
        if (c->grad_out[i] && part > 0) {
            const struct slab_sum k = {(char *)dst->data + (size_t)(from * inner) * elem,
                                       c->grad_out[i]->data,
                                       outer,
                                       part,
                                       inner,
                                       n,
                                       part,
                                       all && grad_assign(c, 0)};
            sum_slabs(c->pool, dst->dtype, &k);
        }
        from += part;
    }
    return 0;
}

/* ---- pruning ---- */
/* The parts' sizes are those of the outputs, also of outputs nobody uses. */
static int couple_split(struct coupling *k, struct err *err)
{
    const struct split_attrs *attrs = couple_attrs(k);
    const int rank = couple_rank(k, IN(0)), axis = (int)(attrs->axis < 0 ? attrs->axis + rank : attrs->axis);
    int64_t from = 0;
    (void)err;
    for (int i = 0; i < k->infer->n_out; i++) {
        const int64_t n = couple_size(k, OUT(i), axis);
        couple_same_but(k, IN(0), OUT(i), axis);
        if (n < 0 || from < 0 || couple_size(k, IN(0), axis) < 0) {
            couple_freeze(k, IN(0), axis, "it is cut into sizes that are not fixed");
            couple_freeze(k, OUT(i), axis, "it is cut into sizes that are not fixed");
            from = -1;
        } else {
            couple_part(k, IN(0), axis, from, OUT(i), axis, 0, n);
            from += n;
        }
    }
    return 0;
}

static int shrink_split(struct shrink *s, struct err *err)
{
    const struct infer_ctx *c = s->infer;
    const struct split_attrs *attrs = c->attrs;
    const int n_out = c->n_out, axis = shape_axis(infer_shape(c, 0), attrs->axis);
    if (!shrink_touched(s, IN(0), axis))
        return 0;
    int64_t *size = arena_calloc(c->arena, (size_t)n_out + 1, sizeof *size), from = 0, end = 0;
    if (!size)
        return err_set(err, ERR_NOMEM, "out of memory while rewriting sizes");
    const int64_t n = shrink_size(s, IN(0), axis);
    bool equal = !infer_has(c, 1) && !attrs->split.count && (c->opset >= 18 || n % n_out == 0);
    for (int i = 0; i < n_out; i++) {
        end += c->out[i].shape.dim[axis];
        const int64_t kept = shrink_kept_below(s, IN(0), axis, end);
        size[i] = kept - from;
        from = kept;
        equal = equal && size[i] == equal_part(n, n_out, i);
    }
    if (equal)
        return 0;
    if (c->opset >= 2 && c->opset < 13) {
        node_set_ints(s->model, s->node, "split", size, n_out);
        return 0;
    }
    node_remove_attr(s->model, s->node, "num_outputs");
    node_remove_attr(s->model, s->node, "split");
    return shrink_set_input(s, 1, size, n_out, err);
}

#define SPLIT(...)                                                                                                     \
    {                                                                                                                  \
        .type = "Split", .domain = "", .doc = "The input cut along an axis.", .in_min = 1, .out_min = 1,               \
        .out_max = -1, .attrs_size = sizeof(struct split_attrs), .infer = infer_split, .forward = forward_split,       \
        .couple = couple_split, .shrink = shrink_split, .backward = backward_split, .grad_reads = GRAD_READS_IN(1),    \
        .grad_inputs = 1, .grad_assigns = true, .quant = {QUANT_PASS}, __VA_ARGS__                                     \
    }
OP_CLASS(split_1) = SPLIT(.since = 1, .until = 1, .in_max = 2, .attrs = split_attrs,
                          .samples = (const struct op_sample[]){{"f32[4,3]", "axis=0", 2, 1}, {0}});
OP_CLASS(split_2) = SPLIT(.since = 2, .until = 12, .in_max = 1, .attrs = split_attrs,
                          .samples = (const struct op_sample[]){
                              {"f32[2,6]", "axis=1", 3, 11}, {"f32[2,6]", "axis=1 split=2,4", 2, 11}, {0}});
OP_CLASS(split_13) = SPLIT(.since = 13, .until = 17, .in_max = 2, .attrs = split_13_attrs,
                           .samples = (const struct op_sample[]){{"f32[2,6]", "axis=1", 3, 13},
                                                                 {"f32[6,2] !i64[3]=1,2,3", "axis=0", 3, 13},
                                                                 {"i32[2,6] i64[2]=0,6", "axis=-1", 2, 13},
                                                                 {0}});
OP_CLASS(split_18) = SPLIT(.since = 18, .in_max = 2, .attrs = split_18_attrs,
                           .samples = (const struct op_sample[]){
                               {"f32[2,7]", "axis=1 num_outputs=3", 3}, {"f32[2,6] !i64[2]=2,4", "axis=1", 2}, {0}});
