/* SPDX-License-Identifier: Apache-2.0
 * Pad: the input with a border; negative pads cut. Modes: constant, reflect (without the edge), edge, wrap (opset 19).
 * Each axis has a table "output index -> input index, or -1 for the constant": every mode is then one loop, and a row
 * is a border, one memcpy, a border. Reflection over more than one length bounces back and forth. Pads come as an
 * attribute (opset 1 `paddings`, 2 `pads`) or input (11), for all axes or those named (18). */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

enum { CONSTANT, REFLECT, EDGE, WRAP };
static const char *const modes[] = {"constant", "reflect", "edge", "wrap", NULL};

struct pad_attrs {
    int mode;
    float value;
    struct op_ints pads, paddings;
};
static const struct op_attr pad_1_attrs[] = {{OP_ATTR(pad_attrs, mode), .kind = OP_ENUM, .choices = modes},
                                             {OP_ATTR(pad_attrs, value), .kind = OP_FLOAT},
                                             {OP_ATTR(pad_attrs, paddings), .kind = OP_INTS, .required = true},
                                             {0}};
static const struct op_attr pad_2_attrs[] = {{OP_ATTR(pad_attrs, mode), .kind = OP_ENUM, .choices = modes},
                                             {OP_ATTR(pad_attrs, value), .kind = OP_FLOAT},
                                             {OP_ATTR(pad_attrs, pads), .kind = OP_INTS, .required = true},
                                             {0}};
static const struct op_attr pad_11_attrs[] = {{OP_ATTR(pad_attrs, mode), .kind = OP_ENUM, .choices = modes}, {0}};

struct pads {
    int64_t begin[SHAPE_MAX_RANK], end[SHAPE_MAX_RANK];
};

/* Pads of every axis. 0, 1 when an input's value is not known yet, -1. */
static int read_pads(const struct infer_ctx *c, int rank, struct pads *p, struct err *err)
{
    const struct pad_attrs *attrs = c->attrs;
    int64_t list[2 * SHAPE_MAX_RANK], axes[SHAPE_MAX_RANK];
    int count, n_axes = rank;
    bool mask[SHAPE_MAX_RANK];
    struct shape s = {.rank = rank};
    memset(p, 0, sizeof *p);
    for (int i = 0; i < rank; i++)
        axes[i] = i;
    if (c->n_in < 2) {
        const struct op_ints *given = attrs->pads.count ? &attrs->pads : &attrs->paddings;
        count = given->count;
        if (count)
            memcpy(list, given->at, (size_t)count * sizeof *list);
    } else {
        if (!op_value(c, 1) || (infer_has(c, 3) && !op_value(c, 3)))
            return 1;
        const struct tensor *pads = op_value(c, 1);
        struct tensor flat = *pads; /* ONNX 1.2 era exporters wrote [1, 2n] */
        if (pads->shape.rank == 2 && pads->shape.dim[0] == 1)
            flat.shape = SHAPE(pads->shape.dim[1]);
        if (op_read_ints(&flat, "pads", list, 2 * SHAPE_MAX_RANK, &count, err) < 0)
            return -1;
        if (op_value(c, 3) && op_read_ints(op_value(c, 3), "axes", axes, SHAPE_MAX_RANK, &n_axes, err) < 0)
            return -1;
    }
    if (op_axes_mask(axes, n_axes, rank, mask, err) < 0)
        return -1;
    if (count != 2 * n_axes)
        return err_set(err, ERR_MODEL, "pads has %d elements; it must have two for each of %d axes", count, n_axes);
    for (int i = 0; i < n_axes; i++) {
        int axis = shape_axis(&s, axes[i]);
        p->begin[axis] = list[i];
        p->end[axis] = list[i + n_axes];
    }
    return 0;
}

static int padded_shape(struct symbols *symbols, const struct shape *x, const struct pads *p, int mode,
                        struct shape *out, struct err *err)
{
    *out = *x;
    for (int i = 0; i < x->rank; i++) {
        int64_t sum, size;
        if (!i64_add(p->begin[i], p->end[i], &sum) || !i64_add(sum, i64_max(x->dim[i], 0), &size))
            return err_set(err, ERR_MODEL_TOO_LARGE,
                           "pads of axis %d are %" PRId64 " and %" PRId64 "; that is too large", i, p->begin[i],
                           p->end[i]);
        if (x->dim[i] < 0) {
            out->dim[i] = sym_dim(sym_add(symbols, sym_of_dim(x->dim[i]), sym_number(sum)));
            continue;
        }
        if (size < 0)
            return err_set(err, ERR_SHAPE,
                           "axis %d has %" PRId64 " elements; pads of %" PRId64 " and %" PRId64 " cut more", i,
                           x->dim[i], p->begin[i], p->end[i]);
        if (mode != CONSTANT && x->dim[i] == 0 && size > 0)
            return err_set(err, ERR_SHAPE, "axis %d is empty; mode '%s' has nothing to repeat", i, modes[mode]);
        out->dim[i] = size;
    }
    if (shape_known(out) && shape_count(out) < 0)
        return err_set(err, ERR_MODEL_TOO_LARGE, "the output would have more than 2^63 elements");
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct pad_attrs *attrs = c->attrs;
    struct pads p;
    if (op_need(c, c->n_in < 2 ? 1 : 2, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    struct shape out = *x;
    if (infer_has(c, 2) && op_dtype(c, 2) != DTYPE_NONE && op_dtype(c, 0) != DTYPE_NONE &&
        op_dtype(c, 0) != op_dtype(c, 2))
        return err_set(err, ERR_MODEL, "the constant is %s but the input %s; they must have the same type",
                       dtype_name(op_dtype(c, 2)), dtype_name(op_dtype(c, 0)));
    if (op_value(c, 2) && tensor_count(op_value(c, 2)) != 1)
        return err_set(err, ERR_MODEL, "the constant has %" PRId64 " elements; it must have one",
                       tensor_count(op_value(c, 2)));
    int later = x->rank >= 0 ? read_pads(c, x->rank, &p, err) : 1;
    if (later < 0 || (!later && padded_shape(c->symbols, x, &p, attrs->mode, &out, err) < 0))
        return -1;
    for (int i = 0; i < out.rank && later; i++)
        out.dim[i] = DIM_UNKNOWN;
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

/* Input index of output index i, -1: the constant. */
static int64_t source_index(int64_t i, int64_t begin, int64_t dim, int mode)
{
    int64_t k = i - begin;
    if (k >= 0 && k < dim)
        return k;
    if (mode == CONSTANT)
        return -1;
    if (mode == EDGE || dim == 1)
        return k < 0 ? 0 : dim - 1;
    int64_t period = mode == WRAP ? dim : 2 * (dim - 1);
    k %= period;
    if (k < 0)
        k += period;
    return k < dim ? k : period - k;
}

struct pad_loop {
    int rank;
    struct shape x, y;
    int64_t stride[SHAPE_MAX_RANK];
    int64_t *table[SHAPE_MAX_RANK];
    int64_t inside, first; /* a run of the last axis that is a plain copy: [inside, inside + length) from `first` */
    int64_t length;
    const char *src, *value;
    char *dst;
    size_t elem;
};

static void pad_border(const struct pad_loop *l, char *dst, const char *src, int64_t from, int64_t to)
{
    const int64_t *table = l->table[l->rank - 1];
    for (int64_t i = from; i < to; i++)
        memcpy(dst + (size_t)i * l->elem, table[i] < 0 ? l->value : src + (size_t)table[i] * l->elem, l->elem);
}

static void pad_rows(void *opaque, int64_t begin, int64_t end)
{
    const struct pad_loop *l = opaque;
    int last = l->rank - 1;
    int64_t row = l->y.dim[last];
    for (int64_t r = begin; r < end; r++) {
        char *dst = l->dst + (size_t)(r * row) * l->elem;
        int64_t rest = r, offset = 0;
        bool outside = false;
        for (int i = last - 1; i >= 0; i--) {
            int64_t k = l->table[i][rest % l->y.dim[i]];
            rest /= l->y.dim[i];
            outside |= k < 0;
            offset += k * l->stride[i];
        }
        if (outside) {
            op_fill(dst, l->value, l->elem, row);
            continue;
        }
        const char *src = l->src + offset * (int64_t)l->elem;
        pad_border(l, dst, src, 0, l->inside);
        if (l->length)
            memcpy(dst + (size_t)l->inside * l->elem, src + (size_t)l->first * l->elem, (size_t)l->length * l->elem);
        pad_border(l, dst, src, l->inside + l->length, row);
    }
}

static int build_tables(struct run_ctx *c, struct pad_loop *l, const struct pads *p, int mode, struct err *err)
{
    shape_strides(&l->x, false, l->stride);
    for (int i = 0; i < l->rank; i++) {
        size_t bytes;
        if (!size_mul((size_t)l->y.dim[i], sizeof(int64_t), &bytes))
            return err_set(err, ERR_MODEL_TOO_LARGE, "axis %d of the output is too large", i);
        l->table[i] = run_scratch(c, bytes, err);
        if (!l->table[i])
            return -1;
        for (int64_t k = 0; k < l->y.dim[i]; k++)
            l->table[i][k] = source_index(k, p->begin[i], l->x.dim[i], mode);
    }
    int last = l->rank - 1;
    l->inside = i64_max(0, i64_min(p->begin[last], l->y.dim[last]));
    l->first = l->inside - p->begin[last];
    l->length = i64_max(0, i64_min(l->x.dim[last] - l->first, l->y.dim[last] - l->inside));
    return 0;
}

/* The constant in the input's dtype: an input, or the attribute. */
static int pad_value(struct run_ctx *c, enum dtype dtype, char value[16], struct err *err)
{
    const struct pad_attrs *attrs = c->attrs;
    const struct tensor *given = run_in(c, 2);
    size_t elem = op_elem(dtype, err);
    if (!elem)
        return -1;
    memset(value, 0, 16);
    if (given)
        memcpy(value, given->data, elem);
    else if (c->n_in < 2)
        dtype_set(dtype, value, 0, (double)attrs->value);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct pad_attrs *attrs = c->attrs;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    char value[16];
    struct pads p;
    struct type present = {0};
    const struct type *in[4] = {NULL};
    for (int i = 0; i < c->n_in && i < 4; i++)
        in[i] = c->in[i] ? &present : NULL; /* only presence is asked for */
    struct infer_ctx ctx = {.attrs = c->attrs, .opset = c->opset, .n_in = c->n_in, .in = in, .in_value = c->in};
    if (pad_value(c, x->dtype, value, err) < 0 || read_pads(&ctx, x->shape.rank, &p, err) < 0)
        return -1;
    struct pad_loop l = {
        .rank = x->shape.rank, .x = x->shape, .y = y->shape, .src = x->data, .dst = y->data, .value = value};
    l.elem = op_elem(x->dtype, err);
    if (l.rank == 0) {
        memcpy(y->data, x->data, l.elem);
        return 0;
    }
    if (build_tables(c, &l, &p, attrs->mode, err) < 0)
        return -1;
    int64_t row = y->shape.dim[l.rank - 1];
    op_parallel(c->pool, tensor_count(y) / row, i64_max(1, (1 << 15) / row), pad_rows, &l);
    return 0;
}

/* ---- gradients ---- */
/* What was neither cut nor border, as a view of both sides. */
static void sum_inside(struct grad_ctx *c, const struct pads *p, const struct tensor *g, struct tensor *dst)
{
    const int64_t elem = dst->dtype == DTYPE_FLOAT ? (int64_t)sizeof(float) : (int64_t)sizeof(double);
    struct grad_loop l = {.dtype = dst->dtype, .rank = dst->shape.rank, .sources = 1};
    int64_t from = 0, to = 0;

    shape_strides(&dst->shape, false, l.dst_stride);
    shape_strides(&g->shape, false, l.src[0].stride);
    for (int i = 0; i < l.rank; i++) {
        const int64_t first = i64_max(0, -p->begin[i]), last = dst->shape.dim[i] + i64_min(0, p->end[i]);
        l.dim[i] = i64_max(0, last - first);
        to += first * l.dst_stride[i];
        from += (first + p->begin[i]) * l.src[0].stride[i];
    }
    if (tensor_count(g) == 0 || tensor_count(dst) == 0)
        return;
    l.dst = (char *)dst->data + to * elem;
    l.src[0].data = (const char *)g->data + from * elem;
    grad_sum(c->pool, &l);
}

/* Axis after axis: every place of the border gives its gradient to the element it repeats. */
static int fold_borders(struct grad_ctx *c, const struct pads *p, int mode, const struct tensor *g, struct tensor *dst,
                        struct err *err)
{
    const void *from = g->data;
    struct shape shape = g->shape;

    for (int a = 0; a < shape.rank; a++) {
        const int64_t out = shape.dim[a], in = dst->shape.dim[a];
        size_t bytes, table_bytes;
        if (p->begin[a] == 0 && p->end[a] == 0)
            continue;
        shape.dim[a] = in;
        if (!dtype_bytes(dst->dtype, shape_count(&shape), &bytes) ||
            !size_mul((size_t)out, sizeof(int64_t), &table_bytes))
            return err_set(err, ERR_MODEL_TOO_LARGE, "axis %d of the output is too large", a);
        int64_t *table = grad_scratch(c, table_bytes + 1, err);
        void *to = table ? grad_scratch(c, bytes + 1, err) : NULL;
        if (!to)
            return -1;
        for (int64_t k = 0; k < out; k++)
            table[k] = source_index(k, p->begin[a], in, mode);
        const struct grad_taps taps = {.in = in, .out = out, .count = 1, .index = table};
        grad_fold_axis(c->pool, dst->dtype, &taps, from, to, shape_product(&shape, 0, a),
                       shape_product(&shape, a + 1, shape.rank));
        from = to;
    }
    const struct tensor folded = {.dtype = dst->dtype, .shape = dst->shape, .data = (void *)(uintptr_t)from};
    return grad_add_whole(c, 0, &folded, err);
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct pad_attrs *attrs = c->attrs;
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    struct pads p;
    struct type present = {0};
    const struct type *in[4] = {NULL};

    if (!g || !dst || tensor_count(g) == 0)
        return 0;
    for (int i = 0; i < c->n_in && i < 4; i++)
        in[i] = c->in[i] ? &present : NULL; /* only presence is asked for */
    struct infer_ctx ctx = {.attrs = c->attrs, .opset = c->opset, .n_in = c->n_in, .in = in, .in_value = c->in};
    if (grad_type(dst, err) < 0 || read_pads(&ctx, dst->shape.rank, &p, err) < 0)
        return -1;
    if (attrs->mode != CONSTANT)
        return fold_borders(c, &p, attrs->mode, g, dst, err);
    sum_inside(c, &p, g, dst);
    return 0;
}

/* ---- pruning ---- */
static bool plain_pads(const struct pad_attrs *attrs, const struct pads *p, int axis)
{
    return attrs->mode == CONSTANT || (p->begin[axis] <= 0 && p->end[axis] <= 0);
}

/* The border's elements are elements of their own, which can go one by one. */
static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    struct pads p;
    (void)err;
    if (rank < 0 || couple_rank(k, OUT(0)) != rank || read_pads(k->infer, rank, &p, NULL) != 0) {
        couple_freeze_all(k, IN(0), "its pads are computed while running");
        couple_freeze_all(k, OUT(0), "its pads are computed while running");
        return 0;
    }
    for (int i = 0; i < rank; i++) {
        const int64_t from = i64_max(0, -p.begin[i]), to = i64_max(0, p.begin[i]);
        const int64_t count = couple_size(k, IN(0), i) - from - i64_max(0, -p.end[i]);
        if (p.begin[i] == 0 && p.end[i] == 0) {
            couple_axes(k, IN(0), i, OUT(0), i);
        } else if (plain_pads(couple_attrs(k), &p, i) && count > 0) {
            couple_part(k, IN(0), i, from, OUT(0), i, to, count);
        } else {
            couple_freeze(k, IN(0), i, "its border repeats other elements");
            couple_freeze(k, OUT(0), i, "its border repeats other elements");
        }
    }
    return 0;
}

/* Pads of an axis after the cut: what is left of the border, or of what is cut off. */
static bool new_pads(const struct shrink *s, struct pads *p, int axis)
{
    const int64_t n = infer_shape(s->infer, 0)->dim[axis], m = s->infer->out[0].shape.dim[axis];
    if (!shrink_touched(s, IN(0), axis) && !shrink_touched(s, OUT(0), axis))
        return false;
    p->begin[axis] = p->begin[axis] > 0 ? shrink_kept_below(s, OUT(0), axis, p->begin[axis])
                                        : -shrink_kept_below(s, IN(0), axis, -p->begin[axis]);
    p->end[axis] = p->end[axis] > 0
                       ? shrink_size(s, OUT(0), axis) - shrink_kept_below(s, OUT(0), axis, m - p->end[axis])
                       : shrink_kept_below(s, IN(0), axis, n + p->end[axis]) - shrink_size(s, IN(0), axis);
    return true;
}

static int shrink(struct shrink *s, struct err *err)
{
    const struct infer_ctx *c = s->infer;
    const struct pad_attrs *attrs = c->attrs;
    int64_t v[2 * SHAPE_MAX_RANK], axes[SHAPE_MAX_RANK];
    const struct shape *x = infer_shape(c, 0);
    int n = x->rank;
    struct pads p;
    bool changes = false;
    if (x->rank < 0 || read_pads(c, x->rank, &p, NULL) != 0)
        return 0;
    for (int i = 0; i < x->rank; i++) {
        axes[i] = i;
        changes = (p.begin[i] || p.end[i]) && new_pads(s, &p, i) ? true : changes;
    }
    if (!changes)
        return 0;
    if (op_value(c, 3) && op_read_ints(op_value(c, 3), "axes", axes, SHAPE_MAX_RANK, &n, err) < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        v[i] = p.begin[shape_axis(x, axes[i])];
        v[n + i] = p.end[shape_axis(x, axes[i])];
    }
    if (c->n_in >= 2)
        return shrink_set_input(s, 1, v, 2 * n, err);
    node_set_ints(s->model, s->node, attrs->pads.count ? "pads" : "paddings", v, 2 * n);
    return 0;
}

#define PAD(...)                                                                                                       \
    {                                                                                                                  \
        .type = "Pad", .domain = "", .doc = "The input with a border, or cut.", .out_min = 1, .out_max = 1,            \
        .attrs_size = sizeof(struct pad_attrs), .infer = infer, .forward = forward, .backward = backward,              \
        .couple = couple, .shrink = shrink,                                                                            \
        .grad_reads = GRAD_READS_IN(1) | GRAD_READS_IN(3), .grad_inputs = 1, .quant = {QUANT_PASS}, __VA_ARGS__        \
    }
OP_CLASS(pad_1) = PAD(.since = 1, .until = 1, .in_min = 1, .in_max = 1, .attrs = pad_1_attrs,
                      .samples = (const struct op_sample[]){{"f32[2,3]", "paddings=0,1,0,2 value=1.5f", 1, 1}, {0}});
OP_CLASS(pad_2) = PAD(.since = 2, .until = 10, .in_min = 1, .in_max = 1, .attrs = pad_2_attrs,
                      .samples = (const struct op_sample[]){{"f32[2,3]", "pads=0,1,0,2 value=1.5f", 1, 10},
                                                            {"f32[3,4]", "pads=2,1,1,2 mode=reflect", 1, 10},
                                                            {"f32[3,4]", "pads=2,1,1,2 mode=edge", 1, 10},
                                                            {"f32[3,4]", "pads=-1,1,1,-2", 1, 10},
                                                            {0}});
OP_CLASS(pad_11) = PAD(.since = 11, .in_min = 2, .in_max = 4, .attrs = pad_11_attrs,
                       .samples = (const struct op_sample[]){{"f32[2,3] !i64[4]=0,1,0,2 f32[]=1.5", ""},
                                                             {"f32[2,3] i64[4]=1,1,1,1", ""},
                                                             {"f32[3,4] !i64[4]=2,3,1,2", "mode=reflect"},
                                                             {"f32[3,4] !i64[4]=2,1,1,2", "mode=edge"},
                                                             {"f32[3,4] !i64[4]=-1,1,1,-2", ""},
                                                             {"f32[3,4] !i64[2]=1,2 f32[]=7 !i64[1]=-1", "", 1, 18},
                                                             {"i32[2,3] !i64[4]=1,0,0,1", ""},
                                                             {"f32[3,4] !i64[4]=2,1,1,2", "mode=wrap", 1, 19},
                                                             {0}});

OP_CLASS(ms_pad) = {.type = "Pad", .domain = "com.microsoft", .since = 1, .doc = "The input with a border, or cut.",
                    .in_min = 2, .in_max = 3, .out_min = 1, .out_max = 1, .attrs = pad_11_attrs,
                    .attrs_size = sizeof(struct pad_attrs), .infer = infer, .forward = forward, .backward = backward,
                    .couple = couple, .shrink = shrink,
                    .grad_reads = GRAD_READS_IN(1), .grad_inputs = 1,
                    .samples = (const struct op_sample[]){{"f32[2,3] !i64[4]=0,1,0,2 f32[1]=1.5", ""},
                                                          {"f32[3,4] !i64[1,4]=2,1,1,2", "mode=reflect"},
                                                          {0}}};
