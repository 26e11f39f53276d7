/* SPDX-License-Identifier: Apache-2.0
 * Pools: MaxPool, AveragePool, LpPool over sliding windows of [N, C, D1...Dn], and their Global forms, whose window
 * is the whole image.
 * Sizes      sliding.c: floor or (ceil_mode) ceil; a window starting in the end padding is dropped.
 * Average    count_include_pad chooses the divisor: cells inside image and padding, or inside the image.
 * MaxPool    a second output holds the flat place of each maximum; storage_order 1 counts columns first. int8 and
 *            uint8 since opset 12. */
#include <inttypes.h>

#include "core/kernels/pool_grad.h"
#include "core/ops/couple_rules.h"
#include "core/ops/sliding.h"
#include "core/ops/widen.h"

struct pool_attrs {
    struct sliding_attrs s;
    bool ceil_mode, count_include_pad, storage_order;
    int64_t p;
    float p_float; /* opset 1 has p as a float */
};

#define CEIL                                                                                                           \
    {                                                                                                                  \
        OP_ATTR(pool_attrs, ceil_mode), .kind = OP_BOOL                                                                \
    }
#define INCLUDE_PAD                                                                                                    \
    {                                                                                                                  \
        OP_ATTR(pool_attrs, count_include_pad), .kind = OP_BOOL                                                        \
    }
#define STORAGE                                                                                                        \
    {                                                                                                                  \
        OP_ATTR(pool_attrs, storage_order), .kind = OP_BOOL                                                            \
    }
#define NORM                                                                                                           \
    {                                                                                                                  \
        OP_ATTR(pool_attrs, p), .kind = OP_INT, .def = 2                                                               \
    }
#define NORM_1                                                                                                         \
    {                                                                                                                  \
        .name = "p", .kind = OP_FLOAT, .offset = offsetof(struct pool_attrs, p_float), .def_f = 2                      \
    }

static const struct op_attr max_1[] = {SLIDING_ATTRS_PLAIN(pool_attrs), {NULL}};
static const struct op_attr max_8[] = {SLIDING_ATTRS_PLAIN(pool_attrs), STORAGE, {NULL}};
static const struct op_attr max_10[] = {SLIDING_ATTRS(pool_attrs), STORAGE, CEIL, {NULL}};
static const struct op_attr average_7[] = {SLIDING_ATTRS_PLAIN(pool_attrs), INCLUDE_PAD, {NULL}};
static const struct op_attr average_10[] = {SLIDING_ATTRS_PLAIN(pool_attrs), INCLUDE_PAD, CEIL, {NULL}};
static const struct op_attr average_19[] = {SLIDING_ATTRS(pool_attrs), INCLUDE_PAD, CEIL, {NULL}};
static const struct op_attr lp_1[] = {SLIDING_ATTRS_PLAIN(pool_attrs), NORM_1, {NULL}};
static const struct op_attr lp_2[] = {SLIDING_ATTRS_PLAIN(pool_attrs), NORM, {NULL}};
static const struct op_attr lp_18[] = {SLIDING_ATTRS(pool_attrs), NORM, CEIL, {NULL}};
static const struct op_attr global_lp_1[] = {NORM_1, {NULL}};
static const struct op_attr global_lp_2[] = {NORM, {NULL}};

static double norm_of(const struct pool_attrs *a, int opset)
{
    return opset < 2 ? (double)a->p_float : (double)a->p;
}

/* ---- inference ---- */
static int infer_window(struct infer_ctx *c, const char *kinds, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    struct window w;

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, kinds, err) < 0 || sliding_rank(c, 0, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank != SHAPE_UNKNOWN_RANK) {
        if (sliding_resolve(&w, &a->s, x, NULL, a->ceil_mode, err) < 0)
            return -1;
        out = sliding_output(&w, x->dim[0], x->dim[1]);
        sliding_symbols(c->symbols, &w, &a->s, a->ceil_mode, &out);
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    if (c->n_out > 1)
        infer_out(c, 1, DTYPE_INT64, &out);
    return 0;
}

static int infer_max(struct infer_ctx *c, struct err *err)
{
    return infer_window(c, c->opset >= 12 ? "fiu" : "f", err);
}

static int infer_average(struct infer_ctx *c, struct err *err)
{
    return infer_window(c, "f", err);
}

static int infer_lp(struct infer_ctx *c, struct err *err)
{
    if (!(norm_of(c->attrs, c->opset) > 0))
        return err_set(err, ERR_MODEL, "attribute 'p' is %g; it must be positive", norm_of(c->attrs, c->opset));
    return infer_window(c, "f", err);
}

static int infer_global(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || sliding_rank(c, 0, err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    for (int a = 2; a < out.rank; a++) {
        if (out.dim[a] == 0)
            return err_set(err, ERR_SHAPE, "spatial axis %d has size 0; a pool over no cells has no value", a - 2);
        out.dim[a] = 1;
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int infer_global_lp(struct infer_ctx *c, struct err *err)
{
    if (!(norm_of(c->attrs, c->opset) > 0))
        return err_set(err, ERR_MODEL, "attribute 'p' is %g; it must be positive", norm_of(c->attrs, c->opset));
    return infer_global(c, err);
}

/* ---- running ---- */
typedef void pool_f32_fn(struct pool *pool, const struct pooling *g, const float *x, float *y);
typedef void pool_f64_fn(struct pool *pool, const struct pooling *g, const double *x, double *y);

static int geometry_of(const struct pool_attrs *a, int opset, const struct shape *x, struct pooling *g, struct err *err)
{
    if (sliding_resolve(&g->w, &a->s, x, NULL, a->ceil_mode, err) < 0)
        return -1;
    g->planes = x->dim[0] * x->dim[1];
    g->include_pad = a->count_include_pad;
    g->p = norm_of(a, opset);
    return 0;
}

static int geometry(const struct run_ctx *c, struct pooling *g, struct err *err)
{
    return geometry_of(c->attrs, c->opset, &c->in[0]->shape, g, err);
}

static int run_global(struct run_ctx *c, enum pool_kind kind, double p, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);

    if (!y || tensor_count(y) == 0)
        return 0;
    const int64_t planes = x->shape.dim[0] * x->shape.dim[1], cells = shape_product(&x->shape, 2, x->shape.rank);
    if (x->dtype == DTYPE_FLOAT)
        pool_global_f32(c->pool, kind, p, planes, cells, x->data, y->data);
    else if (x->dtype == DTYPE_DOUBLE)
        pool_global_f64(c->pool, kind, p, planes, cells, x->data, y->data);
    else
        return err_set(err, ERR_OPERATOR, "a pool over %s is not supported", dtype_name(x->dtype));
    return 0;
}

static int run(struct run_ctx *c, const struct pooling *g, pool_f32_fn *f32, pool_f64_fn *f64, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);

    if (!y || tensor_count(y) == 0)
        return 0;
    if (x->dtype == DTYPE_FLOAT)
        f32(c->pool, g, x->data, y->data);
    else if (x->dtype == DTYPE_DOUBLE)
        f64(c->pool, g, x->data, y->data);
    else
        return err_set(err, ERR_OPERATOR, "a pool over %s is not supported", dtype_name(x->dtype));
    return 0;
}

static int compute_max(struct run_ctx *c, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0), *index = run_out(c, 1);
    struct pooling g;

    if (geometry(c, &g, err) < 0)
        return -1;
    if (y && tensor_count(y) > 0 && x->dtype == DTYPE_INT8)
        pool_max_i8(c->pool, &g, x->data, y->data);
    else if (y && tensor_count(y) > 0 && x->dtype == DTYPE_UINT8)
        pool_max_u8(c->pool, &g, x->data, y->data);
    else if (run(c, &g, pool_max_f32, pool_max_f64, err) < 0)
        return -1;
    if (!index || tensor_count(index) == 0)
        return 0;
    const void *wide = x->data;
    if (x->dtype != DTYPE_FLOAT && x->dtype != DTYPE_DOUBLE) {
        size_t bytes;
        void *copy = dtype_bytes(DTYPE_FLOAT, tensor_count(x), &bytes) ? run_scratch(c, bytes + 1, err) : NULL;
        if (!copy)
            return err_set(err, ERR_NOMEM, "out of memory");
        dtype_convert(DTYPE_FLOAT, copy, x->dtype, x->data, tensor_count(x));
        wide = copy;
    }
    if (x->dtype == DTYPE_DOUBLE)
        pool_max_index_f64(c->pool, &g, wide, a->storage_order, index->data);
    else
        pool_max_index_f32(c->pool, &g, wide, a->storage_order, index->data);
    return 0;
}

static int compute_average(struct run_ctx *c, struct err *err)
{
    struct pooling g;
    return geometry(c, &g, err) < 0 ? -1 : run(c, &g, pool_average_f32, pool_average_f64, err);
}

static int compute_lp(struct run_ctx *c, struct err *err)
{
    struct pooling g;
    return geometry(c, &g, err) < 0 ? -1 : run(c, &g, pool_norm_f32, pool_norm_f64, err);
}

static int compute_global_max(struct run_ctx *c, struct err *err)
{
    return run_global(c, POOL_MAX, 0, err);
}

static int compute_global_average(struct run_ctx *c, struct err *err)
{
    return run_global(c, POOL_AVERAGE, 0, err);
}

static int compute_global_lp(struct run_ctx *c, struct err *err)
{
    return run_global(c, POOL_NORM, norm_of(c->attrs, c->opset), err);
}

#define FORWARD(name)                                                                                                  \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return op_run_widened(c, infer_##name, compute_##name, err);                                                   \
    }
#define infer_global_max infer_global
#define infer_global_average infer_global
FORWARD(max)
FORWARD(average)
FORWARD(lp)
FORWARD(global_max)
FORWARD(global_average)
FORWARD(global_lp)

/* ---- backward ---- */
static int back_window(struct grad_ctx *c, enum pool_kind kind, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0), *x = c->in[0], *y = c->out[0];
    struct tensor *dx = grad_wanted(c, 0);
    const bool add = !c->assign[0];
    struct pooling g;

    if (!dy || !dx)
        return 0;
    if (geometry_of(c->attrs, c->opset, &x->shape, &g, err) < 0)
        return -1;
    if (dx->dtype == DTYPE_FLOAT && kind == POOL_MAX)
        pool_max_grad_f32(c->pool, &g, x->data, dy->data, dx->data, add);
    else if (dx->dtype == DTYPE_FLOAT && kind == POOL_AVERAGE)
        pool_average_grad_f32(c->pool, &g, dy->data, dx->data, add);
    else if (dx->dtype == DTYPE_FLOAT)
        pool_norm_grad_f32(c->pool, &g, x->data, y->data, dy->data, dx->data, add);
    else if (kind == POOL_MAX)
        pool_max_grad_f64(c->pool, &g, x->data, dy->data, dx->data, add);
    else if (kind == POOL_AVERAGE)
        pool_average_grad_f64(c->pool, &g, dy->data, dx->data, add);
    else
        pool_norm_grad_f64(c->pool, &g, x->data, y->data, dy->data, dx->data, add);
    return 0;
}

static int back_global(struct grad_ctx *c, enum pool_kind kind, double p)
{
    const struct tensor *dy = grad_of(c, 0), *x = c->in[0], *y = c->out[0];
    struct tensor *dx = grad_wanted(c, 0);

    if (!dy || !dx)
        return 0;
    const int64_t planes = x->shape.dim[0] * x->shape.dim[1], cells = shape_product(&x->shape, 2, x->shape.rank);
    if (dx->dtype == DTYPE_FLOAT)
        pool_global_grad_f32(c->pool, kind, p, planes, cells, x->data, y->data, dy->data, dx->data, !c->assign[0]);
    else
        pool_global_grad_f64(c->pool, kind, p, planes, cells, x->data, y->data, dy->data, dx->data, !c->assign[0]);
    return 0;
}

static int backward_max(struct grad_ctx *c, struct err *err)
{
    return back_window(c, POOL_MAX, err);
}

static int backward_average(struct grad_ctx *c, struct err *err)
{
    return back_window(c, POOL_AVERAGE, err);
}

static int backward_lp(struct grad_ctx *c, struct err *err)
{
    return back_window(c, POOL_NORM, err);
}

static int backward_global_max(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return back_global(c, POOL_MAX, 0);
}

static int backward_global_average(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return back_global(c, POOL_AVERAGE, 0);
}

static int backward_global_lp(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return back_global(c, POOL_NORM, norm_of(c->attrs, c->opset));
}

#define reads_max GRAD_READS_IN(0)
#define reads_average 0
#define reads_lp (GRAD_READS_IN(0) | GRAD_READS_OUT(0))
#define reads_global_max reads_max
#define reads_global_average reads_average
#define reads_global_lp reads_lp
#define GRADIENT(name) .backward = backward_##name, .grad_reads = reads_##name, .grad_assigns = true, .grad_inputs = 1u

/* ---- pruning ---- */
static int couple(struct coupling *k, struct err *err)
{
    couple_channels(k, err);
    if (couple_wanted(k->infer, 1)) {
        couple_freeze_all(k, IN(0), "it also gives places in the whole tensor");
        couple_freeze_all(k, OUT(1), "it also gives places in the whole tensor");
    }
    return 0;
}

/* ---- rows ---- */
static const struct op_sample max_samples[] = {
    {"f32[1,2,8,9]", "kernel_shape=2,2 strides=2,2"},
    {"f32[2,3,7,8]", "kernel_shape=3,3 pads=1,1,1,1 strides=2,2", 2},
    {"f32[1,2,9,9]", "kernel_shape=3,2 dilations=2,3 ceil_mode=1 strides=2,1"},
    {"f32[1,2,10]", "kernel_shape=3 auto_pad=SAME_UPPER"},
    {"f32[1,2,4,5,6]", "kernel_shape=2,2,3 auto_pad=SAME_LOWER strides=2,1,2"},
    {"u8[1,2,6,6]", "kernel_shape=3,3 strides=2,2"},
    {"f64[1,2,6,6]", "kernel_shape=3,3 pads=1,0,0,1"},
    {NULL},
};
static const struct op_sample max_1_samples[] = {
    {"f32[1,2,8,9]", "kernel_shape=2,2 strides=2,2"},
    {"f32[1,2,4,5,6]", "kernel_shape=2,2,3 auto_pad=SAME_LOWER strides=2,1,2"},
    {NULL},
};
static const struct op_sample max_8_samples[] = {
    {"f32[2,3,7,8]", "kernel_shape=3,3 pads=1,1,1,1 strides=2,2", 2},
    {"f32[2,3,7,8]", "kernel_shape=3,3 strides=2,2 storage_order=1", 2},
    {"f32[2,3,7,8]", "kernel_shape=3,3 strides=2,2"},
    {NULL},
};
static const struct op_sample average_1_samples[] = {
    {"f32[1,2,8,9]", "kernel_shape=2,2 strides=2,2"}, {"f32[1,2,10]", "kernel_shape=3 auto_pad=SAME_UPPER"}, {NULL}};
static const struct op_sample average_7_samples[] = {
    {"f32[2,3,7,8]", "kernel_shape=3,3 pads=1,1,1,1 strides=2,2"},
    {"f32[2,3,7,8]", "kernel_shape=3,3 pads=1,1,1,1 strides=2,2 count_include_pad=1"},
    {NULL},
};
static const struct op_sample average_samples[] = {
    {"f32[1,2,8,9]", "kernel_shape=2,2 strides=2,2"},
    {"f32[2,3,7,8]", "kernel_shape=3,3 pads=1,1,1,1 strides=2,2"},
    {"f32[2,3,7,8]", "kernel_shape=3,3 pads=1,1,1,1 strides=2,2 count_include_pad=1"},
    {"f32[1,2,8,8]", "kernel_shape=3,3 strides=2,2 ceil_mode=1"},
    {"f32[1,2,9,9]", "kernel_shape=3,2 dilations=2,3"},
    {"f32[1,2,10]", "kernel_shape=3 auto_pad=SAME_UPPER"},
    {"f32[1,2,4,5,6]", "kernel_shape=2,2,3"},
    {NULL},
};
static const struct op_sample lp_samples[] = {
    {"f32[1,2,8,9]", "kernel_shape=2,2 strides=2,2"}, {"f32[1,2,8,9]", "kernel_shape=3,3 pads=1,1,1,1 p=3"}, {NULL}};
static const struct op_sample lp_1_samples[] = {{"f32[1,2,8,9]", "kernel_shape=2,2 strides=2,2 p=2f"}, {NULL}};
static const struct op_sample global_lp_1_samples[] = {{"f32[2,3,4,5]", "p=2f"}, {NULL}};
static const struct op_sample global_samples[] = {
    {"f32[2,3,4,5]", NULL}, {"f32[2,3,7]", NULL}, {"f32[1,2,2,3,4]", NULL}, {NULL}};
static const struct op_sample global_lp_samples[] = {{"f32[2,3,4,5]", NULL}, {"f32[2,3,7]", "p=1"}, {NULL}};

#define WINDOW(type_, since_, until_, table, name, outputs, ...)                                                       \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .until = until_, .in_min = 1, .in_max = 1, .out_min = 1,         \
        .out_max = outputs, .attrs = table, .attrs_size = sizeof(struct pool_attrs), .infer = infer_##name,            \
        .forward = forward_##name, .couple = couple, GRADIENT(name), __VA_ARGS__                                       \
    }
#define GLOBAL(type_, since_, until_, name, ...)                                                                       \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .until = until_, .in_min = 1, .in_max = 1, .out_min = 1,         \
        .out_max = 1, .infer = infer_##name, .forward = forward_##name, .couple = couple, GRADIENT(name), __VA_ARGS__  \
    }
#define MAX_DOC .doc = "Maximum over sliding windows.", .quant = {QUANT_PASS}
#define AVERAGE_DOC .doc = "Average over sliding windows.", .quant = {QUANT_OUTPUT}
#define LP_DOC .doc = "p-norm over sliding windows."

OP_CLASS(max_pool_1) = WINDOW("MaxPool", 1, 7, max_1, max, 1, MAX_DOC, .samples = max_1_samples);
OP_CLASS(max_pool_8) = WINDOW("MaxPool", 8, 9, max_8, max, 2, MAX_DOC, .samples = max_8_samples);
OP_CLASS(max_pool_10) = WINDOW("MaxPool", 10, 0, max_10, max, 2, MAX_DOC, .samples = max_samples);
OP_CLASS(average_pool_1) = WINDOW("AveragePool", 1, 6, max_1, average, 1, AVERAGE_DOC, .samples = average_1_samples);
OP_CLASS(average_pool_7) = WINDOW("AveragePool", 7, 9, average_7, average, 1, AVERAGE_DOC,
                                  .samples = average_7_samples);
OP_CLASS(average_pool_10) = WINDOW("AveragePool", 10, 18, average_10, average, 1, AVERAGE_DOC,
                                   .samples = average_7_samples);
OP_CLASS(average_pool_19) = WINDOW("AveragePool", 19, 0, average_19, average, 1, AVERAGE_DOC,
                                   .samples = average_samples);
OP_CLASS(lp_pool_1) = WINDOW("LpPool", 1, 1, lp_1, lp, 1, LP_DOC, .samples = lp_1_samples);
OP_CLASS(lp_pool_2) = WINDOW("LpPool", 2, 17, lp_2, lp, 1, LP_DOC, .samples = lp_samples);
OP_CLASS(lp_pool_18) = WINDOW("LpPool", 18, 0, lp_18, lp, 1, LP_DOC, .samples = lp_samples);
OP_CLASS(global_max_pool) = GLOBAL("GlobalMaxPool", 1, 0, global_max, .doc = "Maximum of each channel's image.",
                                   .quant = {QUANT_PASS}, .samples = global_samples);
OP_CLASS(global_average_pool) = GLOBAL("GlobalAveragePool", 1, 0, global_average,
                                       .doc = "Average of each channel's image.", .quant = {QUANT_OUTPUT},
                                       .samples = global_samples);
OP_CLASS(global_lp_pool_1) = GLOBAL("GlobalLpPool", 1, 1, global_lp, .doc = "p-norm of each channel's image.",
                                    .attrs = global_lp_1, .attrs_size = sizeof(struct pool_attrs),
                                    .samples = global_lp_1_samples);
OP_CLASS(global_lp_pool_2) = GLOBAL("GlobalLpPool", 2, 0, global_lp, .doc = "p-norm of each channel's image.",
                                    .attrs = global_lp_2, .attrs_size = sizeof(struct pool_attrs),
                                    .samples = global_lp_samples);
