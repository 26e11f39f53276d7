/* SPDX-License-Identifier: Apache-2.0
 * Clip: y = min(max(x, low), high). The bounds are attributes up to opset 10, optional scalar inputs since 11.
 * Numbers of every type since 12. Where low exceeds high, high wins. */
#include <float.h>
#include <inttypes.h>
#include <math.h>

#include "core/kernels/simd.h"
#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

enum { GRAIN = 1 << 14, PIECE = 512 };

struct clip_attrs {
    float min, max;
};
static const struct op_attr clip_attrs[] = {{OP_ATTR(clip_attrs, min), .kind = OP_FLOAT, .def_f = -FLT_MAX},
                                            {OP_ATTR(clip_attrs, max), .kind = OP_FLOAT, .def_f = FLT_MAX},
                                            {NULL}};

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    char text[SHAPE_TEXT];

    if (op_need(c, 1, err) < 0 || op_same_dtype(c, 0, 3, &dtype, err) < 0 ||
        op_dtype_kinds(c, 0, c->opset >= 12 ? "fiu" : "f", err) < 0)
        return -1;
    for (int i = 1; i < 3; i++) {
        if (!infer_has(c, i) || infer_shape(c, i)->rank <= 0)
            continue;
        if (shape_known(infer_shape(c, i)) && shape_count(infer_shape(c, i)) != 1)
            return err_set(err, ERR_SHAPE, "the %s has shape %s; it must be a scalar", i == 1 ? "minimum" : "maximum",
                           shape_text(infer_shape(c, i), text));
    }
    infer_out(c, 0, dtype, infer_shape(c, 0));
    return 0;
}

struct job {
    const struct tensor *x;
    struct tensor *y;
    size_t elem;
    double low, high;            /* float types */
    int64_t low_i, high_i;       /* signed */
    uint64_t low_u, high_u;      /* unsigned */
};

KERNEL_CLONES static void clip_f32(const float *x, float *y, int64_t n, float low, float high)
{
#pragma GCC ivdep /* y may be x */
    for (int64_t i = 0; i < n; i++) {
        const float v = x[i] < low ? low : x[i];
        y[i] = v > high ? high : v;
    }
}

#define DEFINE_CLIP(name, T)                                                                                         \
    static void name(const T *x, T *y, int64_t n, T low, T high)                                                     \
    {                                                                                                                \
        for (int64_t i = 0; i < n; i++) {                                                                            \
            const T v = x[i] < low ? low : x[i];                                                                     \
            y[i] = v > high ? high : v;                                                                              \
        }                                                                                                            \
    }
DEFINE_CLIP(clip_f64, double)
DEFINE_CLIP(clip_i64, int64_t)
DEFINE_CLIP(clip_u64, uint64_t)

/* Other types piece by piece through the type that holds them all. */
static void clip_piece(const struct job *k, int64_t at, int64_t n)
{
    union {
        float f[PIECE];
        int64_t i[PIECE];
        uint64_t u[PIECE];
    } in, out;
    const enum dtype dtype = k->x->dtype;
    const char kind = dtype_kind(dtype);
    const enum dtype via = kind == 'f' ? DTYPE_FLOAT : kind == 'u' ? DTYPE_UINT64 : DTYPE_INT64;

    dtype_convert(via, &in, dtype, (const char *)k->x->data + (size_t)at * k->elem, n);
    if (kind == 'f')
        clip_f32(in.f, out.f, n, (float)k->low, (float)k->high);
    else if (kind == 'u')
        clip_u64(in.u, out.u, n, k->low_u, k->high_u);
    else
        clip_i64(in.i, out.i, n, k->low_i, k->high_i);
    dtype_convert(dtype, (char *)k->y->data + (size_t)at * k->elem, via, &out, n);
}

static void run_range(void *arg, int64_t begin, int64_t end)
{
    const struct job *k = arg;
    switch (k->x->dtype) {
    case DTYPE_FLOAT:
        clip_f32((const float *)k->x->data + begin, (float *)k->y->data + begin, end - begin, (float)k->low,
                 (float)k->high);
        break;
    case DTYPE_DOUBLE:
        clip_f64((const double *)k->x->data + begin, (double *)k->y->data + begin, end - begin, k->low, k->high);
        break;
    case DTYPE_INT64:
        clip_i64((const int64_t *)k->x->data + begin, (int64_t *)k->y->data + begin, end - begin, k->low_i, k->high_i);
        break;
    case DTYPE_UINT64:
        clip_u64((const uint64_t *)k->x->data + begin, (uint64_t *)k->y->data + begin, end - begin, k->low_u,
                 k->high_u);
        break;
    default:
        for (int64_t i = begin; i < end; i += PIECE)
            clip_piece(k, i, i64_min(PIECE, end - i));
    }
}

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct clip_attrs *a = c->attrs;
    const struct tensor *x = c->in[0], *low = run_in(c, 1), *high = run_in(c, 2);
    struct job k = {.x = x,
                    .y = run_out(c, 0),
                    .low = -INFINITY,
                    .high = INFINITY,
                    .low_i = INT64_MIN,
                    .high_i = INT64_MAX,
                    .low_u = 0,
                    .high_u = UINT64_MAX};

    if (!k.y)
        return 0;
    k.elem = op_elem(x->dtype, err);
    if (k.elem == 0)
        return -1;
    if (c->opset < 11) {
        k.low = (double)a->min;
        k.high = (double)a->max;
    }
    if (low) {
        k.low = dtype_get(low->dtype, low->data, 0);
        k.low_i = dtype_get_i64(low->dtype, low->data, 0);
        k.low_u = (uint64_t)k.low_i;
    }
    if (high) {
        k.high = dtype_get(high->dtype, high->data, 0);
        k.high_i = dtype_get_i64(high->dtype, high->data, 0);
        k.high_u = (uint64_t)k.high_i;
    }
    op_parallel(c->pool, tensor_count(x), GRAIN, run_range, &k);
    return 0;
}

/* ---- gradients: to x where it was let through, to a bound where that took its place ---- */
struct bounds {
    double low, high;
};
GRAD_TERM(inside, struct bounds, a >= (real)p->low && a <= (real)p->high ? g : 0)
GRAD_TERM(below, struct bounds, a < (real)p->low && p->low <= p->high ? g : 0)
GRAD_TERM(above, struct bounds, (a < (real)p->low ? p->low : (double)a) > p->high ? g : 0)

static int backward(struct grad_ctx *c, struct err *err)
{
    static const struct grad_term *const terms[] = {&grad_inside, &grad_below, &grad_above};
    const struct clip_attrs *a = c->attrs;
    const struct tensor *g = grad_of(c, 0), *low = c->n_in > 1 ? c->in[1] : NULL, *high = c->n_in > 2 ? c->in[2] : NULL;
    struct bounds b = {c->opset < 11 ? (double)a->min : -INFINITY, c->opset < 11 ? (double)a->max : INFINITY};

    if (low)
        b.low = dtype_get(low->dtype, low->data, 0);
    if (high)
        b.high = dtype_get(high->dtype, high->data, 0);
    for (int i = 0; i < c->n_in && i < 3; i++) {
        const struct grad_broadcast sum = {.over = g ? &g->shape : NULL, .src = {g, c->in[0]}, .dst = c->grad_in[i],
                                           .dst_shape = i ? &SHAPE_SCALAR : NULL, .term = terms[i], .arg = &b,
                                           .assign = grad_assign(c, i)};
        if (!g)
            grad_zero(c, i);
        else if (c->grad_in[i] && grad_sum_broadcast(c->pool, &sum, err) < 0)
            return -1;
    }
    return 0;
}

static const struct op_sample old_samples[] = {
    {"f32[2,3,4]", "min=-0.5f max=1f", 1, 6}, {"f32[2,3]", "max=0.5f", 1, 6}, {NULL}};
static const struct op_sample samples[] = {{"f32[2,3,4] f32[]=-0.5 f32[]=1", NULL},
                                           {"f32[2,3,4] none f32[]=1", NULL},
                                           {"f32[2,3,4] f32[]=0", NULL},
                                           {"i32[2,3] i32[]=2 i32[]=5", NULL},
                                           {"f64[2,3] f64[]=-1 f64[]=1", NULL},
                                           {NULL}};

OP_CLASS(clip_1) = {.type = "Clip",
                    .domain = "",
                    .since = 1,
                    .until = 10,
                    .doc = "Values held between two bounds.",
                    .in_min = 1,
                    .in_max = 1,
                    .out_min = 1,
                    .out_max = 1,
                    .attrs = clip_attrs,
                    .attrs_size = sizeof(struct clip_attrs),
                    .infer = infer,
                    .in_place = 1,
                    .forward = forward,
                    .couple = couple_elementwise,
                    .backward = backward,
                    .grad_reads = GRAD_READS_IN(0),
                    .grad_inputs = 1,
                    .grad_assigns = true,
                    .quant = {QUANT_ABSORB},
                    .samples = old_samples};
OP_CLASS(clip_11) = {.type = "Clip",
                     .domain = "",
                     .since = 11,
                     .doc = "Values held between two bounds.",
                     .in_min = 1,
                     .in_max = 3,
                     .out_min = 1,
                     .out_max = 1,
                     .infer = infer,
                    .in_place = 1,
                     .forward = forward,
                     .couple = couple_elementwise,
                     .backward = backward,
                     .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1) | GRAD_READS_IN(2),
                     .grad_inputs = 7,
                     .grad_assigns = true,
                     .quant = {QUANT_ABSORB},
                     .samples = samples};
