/* SPDX-License-Identifier: Apache-2.0
 * QLinearAveragePool, QLinearGlobalAveragePool and QLinearReduceMean of domain com.microsoft: means of affine 8-bit
 * values. Sums are exact integers; one multiplication brings them to the output's scale:
 *   y = saturate(round((sum - n * x_zero) * x_scale / (n * y_scale)) + y_zero)
 * channels_last: the channels are the last axis instead of the second. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/quantize.h"
#include "core/ops/sliding.h"

struct pool_attrs {
    struct sliding_attrs s;
    bool ceil_mode, count_include_pad, channels_last;
};
static const struct op_attr average_attrs[] = {SLIDING_ATTRS_PLAIN(pool_attrs),
                                               {OP_ATTR(pool_attrs, ceil_mode), .kind = OP_BOOL},
                                               {OP_ATTR(pool_attrs, count_include_pad), .kind = OP_BOOL},
                                               {OP_ATTR(pool_attrs, channels_last), .kind = OP_BOOL},
                                               {NULL}};
static const struct op_attr global_attrs[] = {{OP_ATTR(pool_attrs, channels_last), .kind = OP_BOOL}, {NULL}};

/* [N, D..., C] as [N, C, D...] and back. */
static struct shape channels_to(const struct shape *s, bool last_to_second)
{
    struct shape out = *s;
    for (int i = 2; i < s->rank; i++)
        out.dim[last_to_second ? i : i - 1] = s->dim[last_to_second ? i - 1 : i];
    out.dim[last_to_second ? 1 : s->rank - 1] = s->dim[last_to_second ? s->rank - 1 : 1];
    return out;
}

static int check(const struct infer_ctx *c, bool optional, struct err *err)
{
    return op_need(c, 2, err) < 0 || quantize_want_8bit(c, 0, err) < 0 ||
                   quantize_check_param(c, 1, 2, optional, err) < 0 || quantize_check_param(c, 3, 4, optional, err) < 0
               ? -1
               : 0;
}

static int infer_average(struct infer_ctx *c, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN, x;
    struct window w;

    if (check(c, true, err) < 0 || sliding_rank(c, 0, err) < 0)
        return -1;
    x = *infer_shape(c, 0);
    if (x.rank != SHAPE_UNKNOWN_RANK) {
        x = a->channels_last ? channels_to(&x, true) : x;
        if (sliding_resolve(&w, &a->s, &x, NULL, a->ceil_mode, err) < 0)
            return -1;
        out = sliding_output(&w, x.dim[0], x.dim[1]);
        out = a->channels_last ? channels_to(&out, false) : out;
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int infer_global(struct infer_ctx *c, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    if (check(c, false, err) < 0 || sliding_rank(c, 0, err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    for (int i = a->channels_last ? 1 : 2; i < (a->channels_last ? out.rank - 1 : out.rank); i++) {
        if (out.dim[i] == 0)
            return err_set(err, ERR_SHAPE, "axis %d has size 0; a mean over no cells has no value", i);
        out.dim[i] = 1;
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static uint8_t mean(const struct q8 *x, const struct q8 *y, int64_t sum, int64_t cells, int64_t divisor)
{
    const float scale = x->scale / (y->scale * (float)divisor);
    const struct q8 unit = {.scale = 1, .zero = y->zero, .is_signed = y->is_signed};
    return q8_bits(&unit, (float)(sum - cells * x->zero) * scale);
}

static int32_t *sums_of(struct run_ctx *c, int64_t rows, int64_t n, struct err *err)
{
    size_t bytes;
    if (!size_mul((size_t)rows, (size_t)n, &bytes) || !size_mul(bytes, sizeof(int32_t), &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the sums would overflow the address space");
        return NULL;
    }
    return run_scratch(c, bytes, err);
}

struct average_job {
    struct window w;
    struct q8 x_param, y_param;
    const uint8_t *x;
    uint8_t *y;
    int64_t positions, in_step, plane_in, out_step, plane_out, channels;
    bool last, include_pad;
    int32_t *sums; /* [batch * rows of the output, channels] */
};

static int64_t stored(const struct q8 *q, uint8_t bits)
{
    return q->is_signed ? (int8_t)bits : bits;
}

/* The window of one output position of one plane: walks the kernel's cells like a counter. */
static uint8_t average_at(const struct average_job *k, const uint8_t *plane, int64_t position)
{
    const struct window *w = &k->w;
    int64_t out[SHAPE_MAX_RANK] = {0}, cell[SHAPE_MAX_RANK] = {0}, sum = 0, cells = 0, padded = 0;

    for (int a = w->rank - 1; a >= 0; a--) {
        out[a] = position % w->out[a];
        position /= w->out[a];
    }
    for (bool more = true; more;) {
        int64_t at = 0;
        bool inside = true, in_pad = true;
        for (int a = 0; a < w->rank; a++) {
            const int64_t i = out[a] * w->stride[a] + cell[a] - w->pad[a];
            inside &= i >= 0 && i < w->in[a];
            in_pad &= i < w->in[a] + w->pad_end[a];
            at = at * w->in[a] + i;
        }
        padded += in_pad;
        if (inside) {
            sum += stored(&k->x_param, plane[at * k->in_step]);
            cells++;
        }
        more = false;
        for (int a = w->rank - 1; a >= 0 && !more; a--) {
            more = ++cell[a] < w->kernel[a];
            cell[a] = more ? cell[a] : 0;
        }
    }
    const int64_t divisor = k->include_pad ? padded : cells;
    return mean(&k->x_param, &k->y_param, sum, cells, divisor ? divisor : 1);
}

static void average_planes(void *arg, int64_t begin, int64_t end)
{
    const struct average_job *k = arg;
    for (int64_t p = begin; p < end; p++) {
        const int64_t n = p / k->channels, c = p % k->channels;
        const uint8_t *x = k->x + (k->last ? n * k->plane_in * k->channels + c : p * k->plane_in);
        uint8_t *y = k->y + (k->last ? n * k->plane_out * k->channels + c : p * k->plane_out);
        for (int64_t i = 0; i < k->plane_out; i++)
            y[i * k->in_step] = average_at(k, x, i);
    }
}

/* One image with its channels last, two spatial axes: whole rows of channels are summed together. */
static void average_rows(void *arg, int64_t begin, int64_t end)
{
    const struct average_job *k = arg;
    const struct window *w = &k->w;
    const int64_t c = k->channels;

    for (int64_t row = begin; row < end; row++) {
        const int64_t oy = row % w->out[0], y0 = oy * w->stride[0] - w->pad[0];
        const uint8_t *x = k->x + row / w->out[0] * k->plane_in * c;
        int32_t *sum = k->sums + row * c; /* a line of its own for each row */
        const int64_t top = i64_max(y0, 0), bottom = i64_min(y0 + w->kernel[0], w->in[0]);
        const int64_t high = i64_min(y0 + w->kernel[0], w->in[0] + w->pad_end[0]) - y0;
        for (int64_t ox = 0; ox < w->out[1]; ox++) {
            const int64_t x0 = ox * w->stride[1] - w->pad[1];
            const int64_t left = i64_max(x0, 0), right = i64_min(x0 + w->kernel[1], w->in[1]);
            const int64_t wide = i64_min(x0 + w->kernel[1], w->in[1] + w->pad_end[1]) - x0;
            const int64_t cells = i64_max(bottom - top, 0) * i64_max(right - left, 0);
            const int64_t divisor = i64_max(1, k->include_pad ? high * wide : cells);
            memset(sum, 0, (size_t)c * sizeof *sum);
            for (int64_t iy = top; iy < bottom && right > left; iy++)
                q8_sum_rows(x + (iy * w->in[1] + left) * c, right - left, c, c, q8_flip(&k->x_param), sum);
            const int64_t zero = k->x_param.zero + (k->x_param.is_signed ? 128 : 0);
            q8_scale_sums(sum, c, (int32_t)(-cells * zero), k->x_param.scale / (k->y_param.scale * (float)divisor),
                          &k->y_param, k->y + (row * w->out[1] + ox) * c);
        }
    }
}

static int forward_average(struct run_ctx *c, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    if (op_outputs(c, infer_average, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct shape x = a->channels_last ? channels_to(&c->in[0]->shape, true) : c->in[0]->shape;
    struct average_job k = {.x = c->in[0]->data, .y = y->data, .last = a->channels_last,
                            .include_pad = a->count_include_pad, .channels = x.dim[1],
                            .in_step = a->channels_last ? x.dim[1] : 1,
                            .x_param = quantize_param(c, 1, 2, y->dtype), .y_param = quantize_param(c, 3, 4, y->dtype)};
    if (sliding_resolve(&k.w, &a->s, &x, NULL, a->ceil_mode, err) < 0)
        return -1;
    k.plane_in = window_count(k.w.in, k.w.rank);
    k.plane_out = window_count(k.w.out, k.w.rank);
    if (a->channels_last && k.w.rank == 2 && k.w.kernel[0] * k.w.kernel[1] <= INT32_MAX / 256) {
        k.sums = sums_of(c, x.dim[0] * k.w.out[0], k.channels, err);
        if (!k.sums)
            return -1;
        op_parallel(c->pool, x.dim[0] * k.w.out[0], 4, average_rows, &k);
        return 0;
    }
    op_parallel(c->pool, x.dim[0] * x.dim[1], 1, average_planes, &k);
    return 0;
}

static int forward_global(struct run_ctx *c, struct err *err)
{
    const struct pool_attrs *a = c->attrs;
    if (op_outputs(c, infer_global, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct shape x = a->channels_last ? channels_to(&c->in[0]->shape, true) : c->in[0]->shape;
    const int64_t channels = x.dim[1], cells = shape_product(&x, 2, x.rank), step = a->channels_last ? channels : 1;
    const struct q8 x_param = quantize_param(c, 1, 2, y->dtype), y_param = quantize_param(c, 3, 4, y->dtype);
    if (a->channels_last && cells <= INT32_MAX / 256) {
        int32_t *sum = sums_of(c, 1, channels, err);
        if (!sum)
            return -1;
        for (int64_t n = 0; n < x.dim[0]; n++) {
            memset(sum, 0, (size_t)channels * sizeof *sum);
            q8_sum_rows((const uint8_t *)c->in[0]->data + n * cells * channels, cells, channels, channels,
                        q8_flip(&x_param), sum);
            q8_scale_sums(sum, channels, (int32_t)(-cells * (x_param.zero + (x_param.is_signed ? 128 : 0))),
                          x_param.scale / (y_param.scale * (float)cells), &y_param, (uint8_t *)y->data + n * channels);
        }
        return 0;
    }
    for (int64_t p = 0; p < x.dim[0] * channels; p++) {
        const uint8_t *at = (const uint8_t *)c->in[0]->data +
                            (a->channels_last ? p / channels * cells * channels + p % channels : p * cells);
        int64_t sum = 0;
        for (int64_t i = 0; i < cells; i++)
            sum += stored(&x_param, at[i * step]);
        ((uint8_t *)y->data)[p] = mean(&x_param, &y_param, sum, cells, cells);
    }
    return 0;
}

/* ---- ReduceMean ---- */
struct reduce_attrs {
    struct op_ints axes;
    bool keepdims;
};
static const struct op_attr reduce_attrs[] = {{OP_ATTR(reduce_attrs, axes), .kind = OP_INTS, .required = true},
                                              {OP_ATTR(reduce_attrs, keepdims), .kind = OP_BOOL, .required = true},
                                              {NULL}};

static int reduced_axes(const struct reduce_attrs *a, const struct shape *x, bool mask[SHAPE_MAX_RANK], struct err *err)
{
    if (op_axes_mask(a->axes.at, a->axes.count, x->rank, mask, err) < 0)
        return -1;
    for (int i = 0; i < x->rank && a->axes.count == 0; i++)
        mask[i] = true;
    return 0;
}

static int infer_mean(struct infer_ctx *c, struct err *err)
{
    const struct reduce_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    bool mask[SHAPE_MAX_RANK] = {false};

    if (check(c, true, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank >= 0) {
        if (reduced_axes(a, x, mask, err) < 0)
            return -1;
        out.rank = 0;
        for (int i = 0; i < x->rank; i++) {
            if (mask[i] && x->dim[i] == 0)
                return err_set(err, ERR_SHAPE, "axis %d has size 0; a mean over no values does not exist", i);
            if (!mask[i] || a->keepdims)
                out.dim[out.rank++] = mask[i] ? 1 : x->dim[i];
        }
    }
    infer_out(c, 0, c->in[0]->dtype, &out);
    return 0;
}

static int forward_mean(struct run_ctx *c, struct err *err)
{
    bool mask[SHAPE_MAX_RANK] = {false};
    int64_t stride[SHAPE_MAX_RANK], count = 1, at = 0;
    size_t bytes;

    if (op_outputs(c, infer_mean, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    const struct shape *x = &c->in[0]->shape;
    if (reduced_axes(c->attrs, x, mask, err) < 0)
        return -1;
    for (int i = x->rank - 1; i >= 0; i--) { /* strides in the output, 0 along reduced axes */
        stride[i] = mask[i] ? 0 : count;
        count *= mask[i] ? 1 : x->dim[i];
    }
    int64_t *sum = size_mul((size_t)count, sizeof *sum, &bytes) ? run_scratch(c, bytes, err) : NULL;
    if (!sum)
        return err->code ? -1 : err_set(err, ERR_MODEL_TOO_LARGE, "the sums would overflow the address space");
    for (int64_t i = 0; i < count; i++)
        sum[i] = 0;
    const struct q8 x_param = quantize_param(c, 1, 2, y->dtype), y_param = quantize_param(c, 3, 4, y->dtype);
    const int64_t total = tensor_count(c->in[0]);
    int64_t place[SHAPE_MAX_RANK] = {0};
    for (int64_t i = 0; i < total; i++) {
        sum[at] += stored(&x_param, ((const uint8_t *)c->in[0]->data)[i]);
        for (int d = x->rank - 1; d >= 0; d--) {
            at += stride[d];
            if (++place[d] < x->dim[d])
                break;
            at -= stride[d] * x->dim[d];
            place[d] = 0;
        }
    }
    for (int64_t i = 0; i < count; i++)
        ((uint8_t *)y->data)[i] = mean(&x_param, &y_param, sum[i], total / count, total / count);
    return 0;
}

/* ---- coupling ---- */
static int couple_average(struct coupling *k, struct err *err)
{
    const int channel = ((const struct pool_attrs *)couple_attrs(k))->channels_last ? -1 : 1;
    (void)err;
    couple_axes(k, IN(0), 0, OUT(0), 0);
    couple_axes(k, IN(0), channel, OUT(0), channel);
    return 0;
}
#define couple_global couple_average

static int couple_mean(struct coupling *k, struct err *err)
{
    const struct reduce_attrs *a = couple_attrs(k);
    const int rank = couple_rank(k, IN(0));
    bool mask[SHAPE_MAX_RANK] = {false};
    struct err ignored = {0};
    (void)err;
    if (rank < 0 || reduced_axes(a, infer_shape(k->infer, 0), mask, &ignored) < 0)
        return 0;
    couple_reduced(k, mask, rank, a->keepdims);
    return 0;
}

/* ---- rows ---- */
static const struct op_sample average_samples[] = {
    {"u8[1,2,5,6] f32[]=0.1 u8[]=3 f32[]=0.07 u8[]=2", "kernel_shape=3,3 strides=2,2 pads=1,1,1,1"},
    {"i8[2,2,5,6] f32[]=0.1 i8[]=3 f32[]=0.07 i8[]=2",
     "kernel_shape=2,2 strides=2,2 ceil_mode=1 count_include_pad=1 pads=1,0,0,1"},
    {"u8[1,5,6,2] f32[]=0.1 u8[]=3 f32[]=0.07 u8[]=2", "kernel_shape=3,2 channels_last=1"},
    {NULL}};
static const struct op_sample global_samples[] = {
    {"u8[1,2,5,6] f32[]=0.1 u8[]=3 f32[]=0.07 u8[]=2", "channels_last=0"},
    {"i8[2,5,6,3] f32[]=0.1 i8[]=3 f32[]=0.07 i8[]=2", "channels_last=1"},
    {NULL}};
static const struct op_sample mean_samples[] = {
    {"u8[2,3,4] f32[]=0.1 u8[]=3 f32[]=0.07 u8[]=2", "axes=1 keepdims=0"},
    {"i8[2,3,4] f32[]=0.1 i8[]=3 f32[]=0.07 i8[]=2", "axes=0,-1 keepdims=1"},
    {NULL}};

#define ROW(type_, min_, attrs_type, name, doc_)                                                                       \
    {                                                                                                                  \
        .type = type_, .domain = "com.microsoft", .since = 1, .doc = doc_, .in_min = min_, .in_max = 5, .out_min = 1,  \
        .out_max = 1, .attrs = name##_attrs, .attrs_size = sizeof(struct attrs_type), .infer = infer_##name,           \
        .couple = couple_##name, .forward = forward_##name, .samples = name##_samples                                  \
    }
#define mean_attrs reduce_attrs
OP_CLASS(qlinear_average_pool) = ROW("QLinearAveragePool", 4, pool_attrs, average,
                                     "Average over windows of affine 8-bit images.");
OP_CLASS(qlinear_global_average_pool) = ROW("QLinearGlobalAveragePool", 5, pool_attrs, global,
                                            "Average of each channel of affine 8-bit images.");
OP_CLASS(qlinear_reduce_mean) = ROW("QLinearReduceMean", 4, reduce_attrs, mean,
                                    "Mean along axes of affine 8-bit values.");
