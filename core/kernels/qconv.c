/* SPDX-License-Identifier: Apache-2.0
 * qconv.c - bands, widening and packing of integer convolutions; see qconv.h. */
#include "core/kernels/qconv.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/isa.h"

enum { BAND_ELEMENTS = 48 * 1024, SLACK = 64, SMALL_WORK = 1 << 17, TASKS_PER_LANE = 3 };

bool qconv_is_depthwise(const struct qconv *q)
{
    return q->groups > 1 && q->groups == q->c_in && q->c_out == q->c_in;
}

/* One kernel row is one run where its cells are neighbours in the widened image. */
static bool joined(const struct qconv *q)
{
    return q->groups == 1 && q->dilation_w == 1;
}

static struct qgemm_shape shape_of(const struct qconv *q)
{
    const int64_t depth = q->c_in / q->groups;
    return (struct qgemm_shape){.runs = joined(q) ? q->kernel_h : q->kernel_h * q->kernel_w,
                                .length = joined(q) ? q->kernel_w * depth : depth,
                                .columns = q->c_out / q->groups};
}

/* Elements of the unpacked weight fit int64, so that no product below overflows. */
static bool weight_fits(const struct qconv *q)
{
    int64_t n;
    return i64_mul(q->c_in, q->kernel_h, &n) && i64_mul(n, q->kernel_w, &n) && i64_mul(n, q->c_out, &n) &&
           n <= INT64_MAX / 64;
}

int64_t qconv_packed_count(const struct qconv *q)
{
    int64_t n;
    if (!weight_fits(q))
        return -1;
    if (qconv_is_depthwise(q)) {
        if (!i64_mul(q->kernel_h * q->kernel_w + 1, (q->c_out + 15) / 16 * 16, &n))
            return -1;
        return n;
    }
    const struct qgemm_shape s = shape_of(q);
    const int64_t one = qgemm_packed_count(&s);
    return one < 0 || !i64_mul(one, q->groups, &n) ? -1 : n;
}

/* Depthwise arrays are padded as a whole, others group by group. */
int64_t qconv_padded(const struct qconv *q)
{
    const struct qgemm_shape s = shape_of(q);
    return qconv_is_depthwise(q) ? (q->c_out + 15) / 16 * 16 : q->groups * qgemm_padded(&s);
}

void qconv_spread(const struct qconv *q, const void *values, void *padded)
{
    const struct qgemm_shape s = shape_of(q);
    const int32_t *from = values;
    int32_t *to = padded;

    memset(padded, 0, (size_t)qconv_padded(q) * sizeof *to);
    if (qconv_is_depthwise(q)) {
        memcpy(to, from, (size_t)q->c_out * sizeof *to);
        return;
    }
    for (int64_t g = 0; g < q->groups; g++)
        memcpy(to + g * qgemm_padded(&s), from + g * s.columns, (size_t)s.columns * sizeof *to);
}

/* ---- packing ---- */
static int64_t place(const void *arg, int64_t column, int64_t run, int64_t element)
{
    const struct qconv *q = arg;
    const int64_t depth = q->c_in / q->groups;
    const int64_t cell = joined(q) ? run * q->kernel_w + element / depth : run;
    return (column * depth + element % depth) * q->kernel_h * q->kernel_w + cell;
}

static struct qgemm_source source(const struct qconv *q, const struct qconv_weight *w, int64_t group)
{
    const struct qgemm_shape s = shape_of(q);
    const int64_t first = group * s.columns;
    return (struct qgemm_source){
        .data = (const char *)w->data + first * (q->c_in / q->groups) * q->kernel_h * q->kernel_w,
        .is_signed = w->is_signed, .zero = w->zero + (w->zero_channels ? first : 0),
        .zero_columns = w->zero_channels, .place = place, .arg = q};
}

bool qconv_fits_bytes(const struct qconv *q, const struct qconv_weight *w)
{
    const struct qgemm_shape s = shape_of(q);
    if (qconv_is_depthwise(q))
        return false; /* a few values: always wide */
    for (int64_t g = 0; g < q->groups; g++) {
        const struct qgemm_source part = source(q, w, g);
        if (!qgemm_fits_bytes(&s, &part))
            return false;
    }
    return true;
}

static int depthwise_slot(int64_t channel)
{
    static const int slot[16] = {0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15};
    return slot[channel % 16]; /* its own inverse */
}

static void pack_depthwise(const struct qconv *q, const struct qconv_weight *w, int16_t *packed)
{
    const int64_t cells = q->kernel_h * q->kernel_w, block = (cells + 1) / 2 * 32;

    memset(packed, 0, (size_t)(qconv_packed_count(q)) * sizeof *packed);
    for (int64_t c = 0; c < q->c_out; c++)
        for (int64_t i = 0; i < cells; i++) {
            const int64_t at = c * cells + i;
            const int32_t v = w->is_signed ? ((const int8_t *)w->data)[at] : ((const uint8_t *)w->data)[at];
            packed[c / 16 * block + i / 2 * 32 + depthwise_slot(c) * 2 + i % 2] =
                (int16_t)(v - w->zero[w->zero_channels ? c : 0]);
        }
}

void qconv_pack(const struct qconv *q, const struct qconv_weight *w, void *packed)
{
    const struct qgemm_shape s = shape_of(q);
    const size_t bytes = (size_t)qgemm_packed_count(&s) * (q->wide ? 2 : 1);

    if (qconv_is_depthwise(q)) {
        pack_depthwise(q, w, packed);
        return;
    }
    for (int64_t g = 0; g < q->groups; g++) {
        const struct qgemm_source part = source(q, w, g);
        qgemm_pack(&s, &part, q->wide, (char *)packed + (size_t)g * bytes);
    }
}

/* ---- bands ---- */
struct plan {
    struct qconv q; /* with a pointwise image seen as one tall column of pixels */
    int64_t row_step, col_step; /* of the widened image: rows and columns that no window reads are left out */
    int64_t wide_w;             /* its pixels in a row */
    int64_t band, bands;        /* output rows */
    int64_t parts;              /* of the panels */
    size_t image_bytes, lane_bytes;
};

static int64_t band_height(const struct plan *p, int64_t band)
{
    return (band - 1) * p->row_step + (p->q.kernel_h - 1) * p->q.dilation_h + 1;
}

static bool make_plan(struct plan *p, const struct qconv *q, int lanes)
{
    *p = (struct plan){.q = *q, .parts = 1};
    struct qconv *k = &p->q;
    if (!weight_fits(q))
        return false;
    if (k->kernel_h == 1 && k->kernel_w == 1 && k->stride_h == 1 && k->stride_w == 1 && k->in_h == k->out_h &&
        k->in_w == k->out_w && k->pad_top == 0 && k->pad_left == 0) {
        k->in_h = k->out_h = k->batch * k->in_h * k->in_w;
        k->batch = k->in_w = k->out_w = 1;
    }
    p->row_step = k->kernel_h == 1 ? 1 : k->stride_h;
    p->col_step = k->kernel_w == 1 ? 1 : k->stride_w;
    p->wide_w = (k->out_w - 1) * p->col_step + (k->kernel_w - 1) * k->dilation_w + 1;
    int64_t pitch, work;
    size_t table, elements;
    const struct qgemm_shape s = shape_of(k);
    if (!i64_mul(p->wide_w, k->c_in, &pitch) || pitch > INT64_MAX / 1024 / band_height(p, k->out_h + 1) ||
        !i64_mul(k->batch * k->out_h * k->out_w, k->c_out, &work) || !i64_mul(work, s.runs * s.length, &work))
        return false;
    const int64_t extra = (k->kernel_h - 1) * k->dilation_h;
    p->band = i64_max(1, i64_min(k->out_h, (BAND_ELEMENTS / i64_max(pitch, 1) - extra) / p->row_step));
    p->bands = i64_ceil_div(k->out_h, p->band);
    const int64_t want = lanes > 1 && work > SMALL_WORK ? (int64_t)lanes * TASKS_PER_LANE : 1;
    if (p->bands * k->batch < want) {
        const int64_t panels = qgemm_panels(&s);
        if (!qconv_is_depthwise(k) && k->groups == 1 && panels >= want) {
            p->parts = i64_ceil_div(want, p->bands * k->batch);
        } else {
            p->band = i64_max(1, i64_min(p->band, i64_ceil_div(k->out_h, i64_ceil_div(want, k->batch))));
            p->bands = i64_ceil_div(k->out_h, p->band);
        }
    }
    return size_mul((size_t)(band_height(p, p->band) * pitch + SLACK), sizeof(int16_t), &elements) &&
           size_mul((size_t)(p->band * k->out_w), sizeof(int64_t), &table) &&
           (p->image_bytes = (elements + 63) / 64 * 64, size_add(p->image_bytes, (table + 63) / 64 * 64, &p->lane_bytes));
}

bool qconv_scratch(const struct qconv *q, int lanes, size_t *bytes)
{
    struct plan p;
    size_t runs;
    return make_plan(&p, q, lanes) && size_mul(p.lane_bytes, (size_t)lanes, bytes) &&
           size_mul((size_t)(q->kernel_h * q->kernel_w * q->groups), sizeof(int64_t), &runs) &&
           size_add(*bytes, runs, bytes);
}

struct job {
    struct plan p;
    const uint8_t *x;
    const void *packed;
    char *y;
    char *scratch;
    int64_t *at; /* of each run, or cell */
};

/* One row of the image, without what no window reads. */
static void widen_row(const struct plan *p, const uint8_t *row, int16_t *out)
{
    const struct qconv *q = &p->q;
    const int64_t skip = q->kernel_w == 1 ? q->stride_w : 1;
    /* columns [first, end) of the widened row lie in the image */
    const int64_t first = i64_min(p->wide_w, i64_ceil_div(i64_max(q->pad_left, 0), skip));
    const int64_t end = i64_max(first, i64_min(p->wide_w, i64_ceil_div(q->in_w + q->pad_left, skip)));

    memset(out, 0, (size_t)(first * q->c_in) * sizeof *out);
    memset(out + end * q->c_in, 0, (size_t)((p->wide_w - end) * q->c_in) * sizeof *out);
    if (skip == 1) {
        qgemm_widen(row + (first - q->pad_left) * q->c_in, (end - first) * q->c_in, q->x_signed, q->x_zero,
                    out + first * q->c_in);
        return;
    }
    for (int64_t i = first; i < end; i++)
        qgemm_widen(row + (i * skip - q->pad_left) * q->c_in, q->c_in, q->x_signed, q->x_zero, out + i * q->c_in);
}

static void widen_band(const struct job *job, int64_t image, int64_t first, int64_t rows, int16_t *out)
{
    const struct plan *p = &job->p;
    const struct qconv *q = &p->q;
    const int64_t height = band_height(p, rows), pitch = p->wide_w * q->c_in;

    if (q->in_w == 1 && q->kernel_h == 1 && q->stride_h == 1 && q->pad_top == 0 && q->pad_left == 0) {
        qgemm_widen(job->x + (image * q->in_h + first) * q->c_in, rows * q->c_in, q->x_signed, q->x_zero, out);
    } else {
        for (int64_t r = 0; r < height; r++) {
            const int64_t iy = (q->kernel_h == 1 ? (first + r) * q->stride_h : first * q->stride_h + r) - q->pad_top;
            if (iy < 0 || iy >= q->in_h)
                memset(out + r * pitch, 0, (size_t)pitch * sizeof *out);
            else
                widen_row(p, job->x + (image * q->in_h + iy) * q->in_w * q->c_in, out + r * pitch);
        }
    }
    memset(out + height * pitch, 0, SLACK * sizeof *out); /* read with weights of zero */
}

void qdepthwise_row_portable(const struct qdepthwise_row *k, const int16_t *x, char *y)
{
    const int64_t elem = k->out.end == QGEMM_BYTES ? 1 : 4, block = (k->cells + 1) / 2 * 32;

    for (int64_t i = 0; i < k->pixels; i++)
        for (int64_t c = 0; c < k->channels; c++) {
            const int16_t *w = k->w + c / 16 * block + depthwise_slot(c) * 2;
            uint32_t sum = 0;
            for (int64_t e = 0; e < k->cells; e++)
                sum += (uint32_t)(x[i * k->step + k->cell_at[e] + c] * w[e / 2 * 32 + e % 2]);
            struct qgemm_out out = k->out;
            out.bias = out.bias ? out.bias + c : NULL;
            out.multiplier = out.multiplier ? out.multiplier + c : NULL;
            out.float_bias = out.float_bias ? out.float_bias + c : NULL;
            const int32_t value = (int32_t)sum;
            qgemm_finish(&out, &value, 1, y + (i * k->channels + c) * elem);
        }
}

static void depthwise_band(const struct job *job, int64_t rows, const int16_t *image, char *y)
{
    const struct qconv *q = &job->p.q;
    const int64_t elem = q->out.end == QGEMM_BYTES ? 1 : 4;
    const struct qdepthwise_row row = {.channels = q->c_out, .pixels = q->out_w, .step = job->p.col_step * q->c_in,
                                       .cells = q->kernel_h * q->kernel_w, .cell_at = job->at, .w = job->packed,
                                       .out = q->out};
    qdepthwise_fn *run = qdepthwise_row_portable;
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        run = qdepthwise_row_avx2;
#endif
    for (int64_t r = 0; r < rows; r++)
        run(&row, image + r * job->p.row_step * job->p.wide_w * q->c_in, y + r * q->out_w * q->c_out * elem);
}

static void product_band(const struct job *job, int64_t rows, int64_t part, const int16_t *image, int64_t *table,
                         char *y)
{
    const struct plan *p = &job->p;
    const struct qconv *q = &p->q;
    const struct qgemm_shape s = shape_of(q);
    const int64_t elem = q->out.end == QGEMM_BYTES ? 1 : 4, pitch = p->wide_w * q->c_in, panels = qgemm_panels(&s);
    const int64_t per_part = i64_ceil_div(panels, p->parts), first = i64_min(panels, part * per_part);
    const bool plain = q->out_w == 1 && p->row_step == 1;

    for (int64_t r = 0; r < rows && !plain; r++)
        for (int64_t i = 0; i < q->out_w; i++)
            table[r * q->out_w + i] = r * p->row_step * pitch + i * p->col_step * q->c_in;
    for (int64_t g = 0; g < q->groups; g++) {
        struct qgemm_job gemm = {.shape = s, .at = job->at + g * s.runs, .wide = q->wide, .out = q->out,
                                 .packed = (const char *)job->packed +
                                           g * qgemm_packed_count(&s) * (q->wide ? 2 : 1)};
        const int64_t shift = g * qgemm_padded(&s);
        gemm.out.bias = gemm.out.bias ? gemm.out.bias + shift : NULL;
        gemm.out.multiplier = gemm.out.multiplier ? gemm.out.multiplier + shift : NULL;
        gemm.out.float_bias = gemm.out.float_bias ? gemm.out.float_bias + shift : NULL;
        const struct qgemm_rows m = {.a = image, .at = plain ? NULL : table, .step = pitch, .count = rows * q->out_w,
                                     .y = y + g * s.columns * elem, .y_step = q->c_out * elem};
        qgemm(&gemm, &m, first, i64_min(panels, first + per_part));
    }
}

static void run(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const struct plan *p = &job->p;
    const struct qconv *q = &p->q;
    const int64_t part = task % p->parts, band = task / p->parts % p->bands, image = task / p->parts / p->bands;
    const int64_t first = band * p->band, rows = i64_min(p->band, q->out_h - first);
    const int64_t elem = q->out.end == QGEMM_BYTES ? 1 : 4;
    char *own = job->scratch + (size_t)lane * p->lane_bytes;
    int16_t *wide = (int16_t *)(void *)own;
    char *y = job->y + (image * q->out_h + first) * q->out_w * q->c_out * elem;

    widen_band(job, image, first, rows, wide);
    if (qconv_is_depthwise(q))
        depthwise_band(job, rows, wide, y);
    else
        product_band(job, rows, part, wide, (int64_t *)(void *)(own + p->image_bytes), y);
}

void qconv(struct pool *pool, const struct qconv *q, const uint8_t *x, const void *packed, void *y, void *scratch)
{
    const int lanes = pool ? pool_threads(pool) : 1;
    struct job job = {.x = x, .packed = packed, .y = y, .scratch = scratch};

    if (!make_plan(&job.p, q, lanes) || q->batch * q->out_h * q->out_w * q->c_out == 0)
        return; /* qconv_scratch has refused it before */
    job.at = (int64_t *)(void *)((char *)scratch + (size_t)lanes * job.p.lane_bytes);
    const struct qgemm_shape s = shape_of(q);
    const int64_t groups = qconv_is_depthwise(q) ? 1 : q->groups, cells = q->kernel_h * q->kernel_w;
    const int64_t runs = joined(q) ? q->kernel_h : cells;
    for (int64_t g = 0; g < groups; g++)
        for (int64_t u = 0; u < runs; u++) {
            const int64_t ky = joined(q) ? u : u / q->kernel_w, kx = joined(q) ? 0 : u % q->kernel_w;
            job.at[g * runs + u] =
                (ky * q->dilation_h * job.p.wide_w + kx * q->dilation_w) * q->c_in + g * s.length * !joined(q);
        }
    const int64_t tasks = job.p.q.batch * job.p.bands * job.p.parts;
    pool_run(tasks > 1 ? pool : NULL, tasks, run, &job);
}

void qconv_naive(const struct qconv *q, const struct qconv_weight *w, const uint8_t *x, int64_t *sum)
{
    const int64_t depth = q->c_in / q->groups, columns = q->c_out / q->groups;

    for (int64_t at = 0; at < q->batch * q->out_h * q->out_w * q->c_out; at++) {
        const int64_t m = at % q->c_out, ox = at / q->c_out % q->out_w, oy = at / q->c_out / q->out_w % q->out_h,
                      n = at / q->c_out / q->out_w / q->out_h;
        sum[at] = 0;
        for (int64_t i = 0; i < depth * q->kernel_h * q->kernel_w; i++) {
            const int64_t kx = i % q->kernel_w, ky = i / q->kernel_w % q->kernel_h, c = i / q->kernel_w / q->kernel_h;
            const int64_t iy = oy * q->stride_h + ky * q->dilation_h - q->pad_top,
                          ix = ox * q->stride_w + kx * q->dilation_w - q->pad_left;
            if (iy < 0 || iy >= q->in_h || ix < 0 || ix >= q->in_w)
                continue;
            const uint8_t bits = x[((n * q->in_h + iy) * q->in_w + ix) * q->c_in + m / columns * depth + c];
            const int64_t place_w = m * depth * q->kernel_h * q->kernel_w + i;
            const int32_t v = w->is_signed ? ((const int8_t *)w->data)[place_w] : ((const uint8_t *)w->data)[place_w];
            sum[at] += (int64_t)((q->x_signed ? (int8_t)bits : bits) - q->x_zero) *
                       (v - w->zero[w->zero_channels ? m : 0]);
        }
    }
}
