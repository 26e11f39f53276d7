/* SPDX-License-Identifier: Apache-2.0
 * Expand, Tile and Where: values repeated over a larger shape.
 *   Expand: broadcast to a shape given as input (dims of 1 in it leave the input's).
 *   Tile:   y[i] = x[i mod dim], dim * repeats; opset 1 repeats one axis.
 *   Where:  y = condition ? x : y, all three broadcast. */
#include <inttypes.h>
#include <string.h>

#include "core/kernels/simd.h"
#include "core/ops/couple_rules.h"
#include "core/ops/elementwise.h"
#include "core/ops/grad_util.h"

/* ---- Expand ---- */
static int infer_expand(struct infer_ctx *c, struct err *err)
{
    struct shape to = SHAPE_UNKNOWN, out = SHAPE_UNKNOWN;
    if (op_need(c, 2, err) < 0)
        return -1;
    int64_t rank = op_list_length(c, 1);
    if (op_value(c, 1)) {
        if (op_read_ints(op_value(c, 1), "the shape", to.dim, SHAPE_MAX_RANK, &to.rank, err) < 0)
            return -1;
        for (int i = 0; i < to.rank; i++)
            if (to.dim[i] < 0)
                return err_set(err, ERR_MODEL, "dimension %d of the shape is %" PRId64 "; it must not be negative", i,
                               to.dim[i]);
        if (binary_shape(infer_shape(c, 0), &to, &out, err) < 0)
            return -1;
        if (shape_known(&out) && shape_count(&out) < 0)
            return err_set(err, ERR_MODEL_TOO_LARGE, "the output would have more than 2^63 elements");
    } else if (op_sizes_shape(c, 1, &to)) {
        if (binary_shape(infer_shape(c, 0), &to, &out, err) < 0)
            return -1;
    } else if (rank >= 0 && rank <= SHAPE_MAX_RANK && infer_shape(c, 0)->rank >= 0) {
        const struct shape *x = infer_shape(c, 0);
        out.rank = (int)i64_max(rank, x->rank);
        for (int i = 0; i < out.rank; i++) { /* what is more than 1 stays, and so do axes the shape does not name */
            const int from = i - (out.rank - x->rank);
            out.dim[i] = from >= 0 && (x->dim[from] > 1 || i < out.rank - rank) ? x->dim[from] : DIM_UNKNOWN;
        }
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward_expand(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_expand, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    int64_t stride[SHAPE_MAX_RANK], wide[SHAPE_MAX_RANK] = {0};
    if (!y)
        return 0;
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    int lead = y->shape.rank - x->shape.rank;
    shape_strides(&x->shape, true, stride);
    for (int i = 0; i < x->shape.rank; i++)
        wide[lead + i] = stride[i];
    op_copy_strided(c->pool, elem, y->data, x->data, y->shape.rank, y->shape.dim, wide);
    return 0;
}

static int backward_expand(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    if (!g || !grad_wanted(c, 0))
        return grad_add_whole(c, 0, NULL, err);
    const struct grad_broadcast sum = {.over = &g->shape, .src = {g}, .dst = c->grad_in[0],
                                       .assign = grad_assign(c, 0)};
    return grad_sum_broadcast(c->pool, &sum, err);
}

/* Entry of the shape for output axis i: 1 leaves the input's axis as it is, also after a cut. */
static int entry_of(const struct infer_ctx *c, int i)
{
    return i - c->out[0].shape.rank + (int)op_list_length(c, 1);
}

static bool leaves_axis(const struct infer_ctx *c, int i)
{
    int64_t v;
    return entry_of(c, i) < 0 || (sizes_entry(c, 1, entry_of(c, i), &v) && v == 1);
}

static int couple_expand(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, OUT(0));
    const int64_t count = op_list_length(k->infer, 1);
    (void)err;
    couple_pass_all(k, OUT(0));
    couple_broadcast(k, IN(0), OUT(0));
    if (count >= 0 && sizes_writable(k->infer, 1, (int)count))
        return 0;
    for (int i = 0; i < rank; i++)
        if (count < 0 || !leaves_axis(k->infer, i))
            couple_freeze(k, OUT(0), i, "its shape is computed while running");
    return 0;
}

static int shrink_expand(struct shrink *s, struct err *err)
{
    int64_t v[SHAPE_MAX_RANK];
    const int rank = s->infer->out[0].shape.rank, count = (int)op_list_length(s->infer, 1);
    if (count < 0 || count > rank)
        return 0;
    for (int i = rank - count; i < rank; i++) {
        const bool changes = shrink_touched(s, OUT(0), i) && !leaves_axis(s->infer, i);
        v[entry_of(s->infer, i)] = changes ? shrink_size(s, OUT(0), i) : SIZES_LEFT;
    }
    return shrink_sizes(s, 1, v, count, err);
}

OP_CLASS(expand) = {.type = "Expand",
                    .domain = "",
                    .since = 8,
                    .doc = "The input broadcast to a shape.",
                    .in_min = 2,
                    .in_max = 2,
                    .out_min = 1,
                    .out_max = 1,
                    .infer = infer_expand,
                    .forward = forward_expand,
                    .couple = couple_expand,
                    .shrink = shrink_expand,
                    .backward = backward_expand,
                    .grad_inputs = 1,
                    .grad_assigns = true,
                    .quant = {QUANT_PASS},
                    .samples = (const struct op_sample[]){{"f32[3,1] !i64[3]=2,1,6", ""},
                                                          {"f32[3,1] i64[2]=3,4", ""},
                                                          {"i64[] !i64[2]=2,2", ""},
                                                          {"f32[2,3] !i64[1]=1", ""},
                                                          {0}}};

/* ---- Tile ---- */
/* Repeats of each axis; *known is false while the value is not there. */
static int read_repeats(const struct infer_ctx *c, int rank, int64_t repeats[SHAPE_MAX_RANK], struct err *err)
{
    int count;
    if (c->opset >= 6) {
        if (op_read_ints(op_value(c, 1), "repeats", repeats, SHAPE_MAX_RANK, &count, err) < 0)
            return -1;
        if (count != rank)
            return err_set(err, ERR_MODEL, "repeats has %d elements but the input has %d axes", count, rank);
    } else {
        struct shape s = {.rank = rank};
        int axis;
        if (tensor_count(op_value(c, 1)) != 1 || tensor_count(op_value(c, 2)) != 1)
            return err_set(err, ERR_MODEL, "tiles and axis must be one number each");
        if (op_axis(&s, dtype_get_i64(op_value(c, 2)->dtype, op_value(c, 2)->data, 0), &axis, err) < 0)
            return -1;
        for (int i = 0; i < rank; i++)
            repeats[i] = 1;
        repeats[axis] = dtype_get_i64(op_value(c, 1)->dtype, op_value(c, 1)->data, 0);
    }
    for (int i = 0; i < rank; i++)
        if (repeats[i] < 0)
            return err_set(err, ERR_MODEL, "repeat %d is %" PRId64 "; it must not be negative", i, repeats[i]);
    return 0;
}

static int infer_tile(struct infer_ctx *c, struct err *err)
{
    int64_t repeats[SHAPE_MAX_RANK];
    if (op_need(c, c->opset < 6 ? 3 : 2, err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    bool known = op_value(c, 1) && (c->opset >= 6 || op_value(c, 2));
    if (known && out.rank >= 0 && read_repeats(c, out.rank, repeats, err) < 0)
        return -1;
    const struct sym_list *sizes = known || c->opset < 6 ? NULL : op_sizes(c, 1);
    if (sizes && sizes->count != out.rank)
        sizes = NULL;
    for (int i = 0; i < out.rank; i++) {
        int64_t dim = out.dim[i];
        if (sizes) {
            out.dim[i] = sym_dim(sym_mul(c->symbols, sym_of_dim(dim), sizes->at[i]));
            continue;
        }
        out.dim[i] = known ? dim_mul(dim, repeats[i]) : DIM_UNKNOWN;
        if (known && dim >= 0 && out.dim[i] < 0)
            return err_set(err, ERR_MODEL_TOO_LARGE, "axis %d would have %" PRId64 " * %" PRId64 " elements", i, dim,
                           repeats[i]);
    }
    if (shape_known(&out) && shape_count(&out) < 0)
        return err_set(err, ERR_MODEL_TOO_LARGE, "the output would have more than 2^63 elements");
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward_tile(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_tile, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    int64_t stride[SHAPE_MAX_RANK], dims[OP_COPY_RANK], steps[OP_COPY_RANK];
    if (!y || tensor_count(y) == 0)
        return 0;
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    shape_strides(&x->shape, false, stride);
    for (int i = 0; i < x->shape.rank; i++) { /* each axis as (repeat, index), the repeat standing still */
        dims[2 * i] = y->shape.dim[i] / x->shape.dim[i];
        steps[2 * i] = 0;
        dims[2 * i + 1] = x->shape.dim[i];
        steps[2 * i + 1] = stride[i];
    }
    op_copy_strided(c->pool, elem, y->data, x->data, 2 * x->shape.rank, dims, steps);
    return 0;
}

/* The repeats of an element are summed. */
static int backward_tile(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    int64_t stride[SHAPE_MAX_RANK], wide[SHAPE_MAX_RANK];

    if (!g || !dst || tensor_count(dst) == 0 || grad_type(dst, err) < 0)
        return grad_add_whole(c, 0, NULL, err);
    struct grad_loop l = {.dtype = dst->dtype, .rank = 2 * dst->shape.rank, .dst = dst->data, .sources = 1,
                          .src[0].data = g->data, .assign = grad_assign(c, 0)};
    shape_strides(&dst->shape, false, stride);
    shape_strides(&g->shape, false, wide);
    for (int i = 0; i < dst->shape.rank; i++) {
        const int64_t n = dst->shape.dim[i];
        l.dim[2 * i] = g->shape.dim[i] / n;
        l.src[0].stride[2 * i] = n * wide[i];
        l.dim[2 * i + 1] = n;
        l.dst_stride[2 * i + 1] = stride[i];
        l.src[0].stride[2 * i + 1] = wide[i];
    }
    grad_sum(c->pool, &l);
    return 0;
}

/* The same element in every repeat. What one element is repeated to is free to go: fewer repeats. */
static bool repeats_one(const struct infer_ctx *c, int i)
{
    return infer_shape(c, 0)->dim[i] == 1 && c->out[0].shape.dim[i] > 1;
}

static int couple_tile(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    (void)err;
    if (rank < 0 || couple_rank(k, OUT(0)) != rank)
        return 0;
    for (int i = 0; i < rank; i++) {
        const int64_t n = couple_size(k, IN(0), i), m = couple_size(k, OUT(0), i);
        if (n > 1 && m > n && m % n == 0)
            couple_strided(k, IN(0), i, OUT(0), i);
        else
            couple_axes(k, IN(0), i, OUT(0), i);
        if (repeats_one(k->infer, i) && (k->infer->opset < 6 || !sizes_writable(k->infer, 1, rank)))
            couple_freeze(k, OUT(0), i, "its repeats are computed while running");
    }
    return 0;
}

static int shrink_tile(struct shrink *s, struct err *err)
{
    int64_t v[SHAPE_MAX_RANK];
    const int rank = s->infer->out[0].shape.rank;
    bool changes = false;
    for (int i = 0; i < rank; i++) {
        const bool cut = repeats_one(s->infer, i) && shrink_touched(s, OUT(0), i);
        v[i] = cut ? shrink_size(s, OUT(0), i) : SIZES_LEFT;
        changes = changes || cut;
    }
    return changes ? shrink_sizes(s, 1, v, rank, err) : 0;
}

OP_CLASS(tile_1) = {.type = "Tile",
                    .domain = "",
                    .since = 1,
                    .until = 5,
                    .doc = "One axis repeated.",
                    .in_min = 3,
                    .in_max = 3,
                    .out_min = 1,
                    .out_max = 1,
                    .infer = infer_tile,
                    .forward = forward_tile,
                    .couple = couple_tile,
                    .shrink = shrink_tile,
                    .backward = backward_tile,
                    .grad_inputs = 1,
                    .grad_assigns = true,
                    .quant = {QUANT_PASS},
                    .samples = (const struct op_sample[]){{"f32[2,3] !f32[]=2 !f32[]=1", "", 1, 5}, {0}}};
OP_CLASS(tile_6) = {.type = "Tile",
                    .domain = "",
                    .since = 6,
                    .doc = "Every axis repeated.",
                    .in_min = 2,
                    .in_max = 2,
                    .out_min = 1,
                    .out_max = 1,
                    .infer = infer_tile,
                    .forward = forward_tile,
                    .couple = couple_tile,
                    .shrink = shrink_tile,
                    .backward = backward_tile,
                    .grad_inputs = 1,
                    .grad_assigns = true,
                    .quant = {QUANT_PASS},
                    .samples = (const struct op_sample[]){
                        {"f32[2,3] !i64[2]=2,1", ""}, {"f32[2,3,2] i64[3]=1,2,3", ""}, {"i64[3] !i64[1]=0", ""}, {0}}};

/* ---- Where ---- */
static int infer_where(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct shape part, out;
    if (op_need(c, 3, err) < 0 || op_dtype_kinds(c, 0, "b", err) < 0 || op_same_dtype(c, 1, 3, &dtype, err) < 0)
        return -1;
    if (binary_shape(infer_shape(c, 1), infer_shape(c, 2), &part, err) < 0 ||
        binary_shape(infer_shape(c, 0), &part, &out, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &out);
    return 0;
}

static bool propagate_where(const struct infer_ctx *c, struct sym_list *out)
{
    const struct sym_list *in[3];
    out->count = 1;
    for (int i = 0; i < 3; i++) {
        in[i] = op_sizes(c, i);
        if (!in[i] || (in[i]->count != out->count && in[i]->count != 1 && out->count != 1))
            return false;
        out->count = in[i]->count == 1 ? out->count : in[i]->count;
    }
    for (int i = 0; i < out->count; i++) {
        const struct sym cond = in[0]->at[in[0]->count == 1 ? 0 : i], x = in[1]->at[in[1]->count == 1 ? 0 : i],
                         y = in[2]->at[in[2]->count == 1 ? 0 : i];
        out->at[i] = cond.known ? cond.n ? x : y : sym_equal(x, y) ? x : SYM_UNKNOWN;
    }
    return true;
}

struct where_loop {
    struct op_walk walk;
    const uint8_t *cond;
    const char *x, *y;
    char *d;
    size_t elem;
};

/* A mask instead of a branch: conditions are hard to predict. Strides known when compiling make vector code. */
#define CHOOSE_LOOP(T, sc, sx, sy)                                                                                     \
    for (int64_t i = 0; i < n; i++) {                                                                                  \
        const T mask = (T)(0 - (uint64_t)(cond[i * (sc)] != 0));                                                       \
        d[i] = (T)((x[i * (sx)] & mask) | (y[i * (sy)] & ~mask));                                                      \
    }
#define CHOOSE(name, T)                                                                                                \
    KERNEL_CLONES static void name(void *dv, const uint8_t *restrict cond, const void *xv, const void *yv, int64_t n,  \
                                   const int64_t s[3])                                                                 \
    {                                                                                                                  \
        T *restrict d = dv;                                                                                            \
        const T *restrict x = xv, *restrict y = yv;                                                                    \
        if (s[0] == 1 && s[1] == 1 && s[2] == 1) {                                                                     \
            CHOOSE_LOOP(T, 1, 1, 1)                                                                                    \
        } else if (s[0] == 1 && s[1] == 1 && s[2] == 0) {                                                              \
            CHOOSE_LOOP(T, 1, 1, 0)                                                                                    \
        } else if (s[0] == 1 && s[1] == 0 && s[2] == 1) {                                                              \
            CHOOSE_LOOP(T, 1, 0, 1)                                                                                    \
        } else {                                                                                                       \
            CHOOSE_LOOP(T, s[0], s[1], s[2])                                                                           \
        }                                                                                                              \
    }
CHOOSE(choose_1, uint8_t)
CHOOSE(choose_2, uint16_t)
CHOOSE(choose_4, uint32_t)
CHOOSE(choose_8, uint64_t)

static void choose_row(char *d, const uint8_t *cond, const char *x, const char *y, size_t elem, int64_t n,
                       const int64_t s[3])
{
    switch (elem) {
    case 1:
        choose_1(d, cond, x, y, n, s);
        break;
    case 2:
        choose_2(d, cond, x, y, n, s);
        break;
    case 4:
        choose_4(d, cond, x, y, n, s);
        break;
    case 8:
        choose_8(d, cond, x, y, n, s);
        break;
    default:
        for (int64_t i = 0; i < n; i++)
            memcpy(d + i * 16, cond[i * s[0]] ? x + i * s[1] * 16 : y + i * s[2] * 16, 16);
    }
}

static void choose(void *opaque, int64_t begin, int64_t end)
{
    const struct where_loop *l = opaque;
    const struct op_walk *w = &l->walk;
    while (begin < end) {
        int64_t at = begin % w->row, n = i64_min(w->row - at, end - begin), o[OP_WALK_MAX];
        op_walk_at(w, begin / w->row, o);
        choose_row(l->d + (size_t)begin * l->elem, l->cond + o[0] + at * w->step[0],
                   l->x + (size_t)(o[1] + at * w->step[1]) * l->elem, l->y + (size_t)(o[2] + at * w->step[2]) * l->elem,
                   l->elem, n, w->step);
        begin += n;
    }
}

static int forward_where(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_where, err) < 0)
        return -1;
    struct tensor *d = run_out(c, 0);
    if (!d || tensor_count(d) == 0)
        return 0;
    struct where_loop l = {.cond = c->in[0]->data, .x = c->in[1]->data, .y = c->in[2]->data, .d = d->data};
    l.elem = op_elem(d->dtype, err);
    if (!l.elem)
        return -1;
    op_walk_init(&l.walk, 3, (const struct shape *const[]){&c->in[0]->shape, &c->in[1]->shape, &c->in[2]->shape},
                 &d->shape);
    op_parallel(c->pool, tensor_count(d), 1 << 14, choose, &l);
    return 0;
}

/* Where the condition holds to x, elsewhere to y. */
#define PASS_TERM(name, T, test)                                                                                      \
    static void name(void *restrict term, const void *const src[GRAD_SOURCES], const int64_t step[GRAD_SOURCES],       \
                     int64_t n, const void *arg)                                                                       \
    {                                                                                                                  \
        T *restrict out = term;                                                                                        \
        const T *g = src[0];                                                                                           \
        const uint8_t *cond = src[1];                                                                                  \
        (void)arg;                                                                                                     \
        for (int64_t i = 0; i < n; i++)                                                                                \
            out[i] = cond[i * step[1]] test 0 ? g[i * step[0]] : 0;                                                    \
    }
PASS_TERM(pass_true_f32, float, !=)
PASS_TERM(pass_true_f64, double, !=)
PASS_TERM(pass_false_f32, float, ==)
PASS_TERM(pass_false_f64, double, ==)

static int backward_where(struct grad_ctx *c, struct err *err)
{
    static const struct grad_term terms[] = {{pass_true_f32, pass_true_f64}, {pass_false_f32, pass_false_f64}};
    const struct tensor *g = grad_of(c, 0);

    for (int i = 1; i < 3; i++) {
        const struct grad_broadcast sum = {.over = g ? &g->shape : NULL, .src = {g, c->in[0]}, .dst = c->grad_in[i],
                                           .term = &terms[i - 1], .assign = grad_assign(c, i)};
        if (!g)
            grad_zero(c, i);
        else if (c->grad_in[i] && grad_sum_broadcast(c->pool, &sum, err) < 0)
            return -1;
    }
    return 0;
}

OP_CLASS(where) = {.type = "Where",
                   .domain = "",
                   .since = 9,
                   .doc = "One of two values by a condition.",
                   .in_min = 3,
                   .in_max = 3,
                   .out_min = 1,
                   .out_max = 1,
                   .infer = infer_where,
                   .propagate = propagate_where,
                   .forward = forward_where,
                   .couple = couple_elementwise,
                   .backward = backward_where,
                   .grad_reads = GRAD_READS_IN(0),
                   .grad_inputs = 6,
                   .grad_assigns = true,
                   .quant = {QUANT_OUTPUT},
                   .samples = (const struct op_sample[]){{"b[2,3] f32[2,3] f32[2,3]", ""},
                                                         {"b[2,1] f32[3] f32[]", ""},
                                                         {"b[3] i64[3] i64[2,1]", ""},
                                                         {"b[2,2]=1,0,0,1 u8[2,2] u8[1]", ""},
                                                         {0}}};
