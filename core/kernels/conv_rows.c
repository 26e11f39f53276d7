/* SPDX-License-Identifier: Apache-2.0
 * conv_rows.c - copies, tables and tasks of the direct convolution; see conv_rows.h.
 * Copy       [channels][rows][phases][length]: row r, phase f, column j hold image row r - pad, column j * stride +
 *            f - pad. For the image gradient the source is spread: only every `spread`-th row and column of the
 *            padded source is one of dy's.
 * Tasks      Forward and image gradient: (image, group), and parts of the result's channels where those are few.
 *            Weight gradient: (chunk of images, group), each with a partial dw of its own, added in order
 *            afterwards. */
#include "core/kernels/conv_rows.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/isa.h"

enum {
    WEIGHT_BYTES = 1 << 20, /* of a group: more is not kept in cache */
    CHUNKS = 8,             /* partial sums */
    SPLIT_BELOW = 8,        /* tasks: with fewer, the result's channels are cut too */
    GROUP_VECTORS = 64,     /* places that one pass over the taps should have, else it takes several images */
};

/* One direct convolution: the source image, its padded copy, the output places and taps. Axis 0: rows, 1:
 * columns. */
struct rows {
    int64_t channels, m; /* of a group: in the source, in the result */
    int64_t src[2], pad[2],
        spread[2]; /* source size, padding before (may be negative), distance of its rows and columns */
    int64_t out[2], kernel[2], stride[2], dilation[2];
    int64_t rows, phases, length;    /* the copy */
    int64_t plane, copy;             /* values of a channel, of an image */
    int64_t taps, k, vectors, n_vec; /* taps of a channel, all; vectors of a row, of an image */
};

static bool rows_make(struct rows *r, const struct conv *cv, bool data)
{
    const struct window *w = &cv->w;
    *r = (struct rows){.channels = (data ? cv->c_out : cv->c_in) / cv->groups,
                       .m = (data ? cv->c_in : cv->c_out) / cv->groups};
    for (int a = 0; a < 2; a++) {
        r->kernel[a] = w->kernel[a];
        r->dilation[a] = w->dilation[a];
        r->src[a] = data ? w->out[a] : w->in[a];
        r->out[a] = data ? w->in[a] : w->out[a];
        r->stride[a] = data ? 1 : w->stride[a];
        r->spread[a] = data ? w->stride[a] : 1;
        r->pad[a] = data ? (w->kernel[a] - 1) * w->dilation[a] - w->pad[a] : w->pad[a];
        if (r->out[a] < 1 || r->src[a] < 1)
            return false;
    }
    r->rows = (r->out[0] - 1) * r->stride[0] + (r->kernel[0] - 1) * r->dilation[0] + 1;
    r->phases = r->stride[1];
    r->vectors = i64_ceil_div(r->out[1], ROWS_WIDTH);
    r->length = r->vectors * ROWS_WIDTH + (r->kernel[1] - 1) * r->dilation[1] / r->stride[1] + 1;
    r->taps = r->kernel[0] * r->kernel[1];
    r->n_vec = r->out[0] * r->vectors;
    return i64_mul(r->rows, r->phases, &r->plane) && i64_mul(r->plane, r->length, &r->plane) &&
           r->plane < INT32_MAX / 2 && i64_mul(r->plane, r->channels, &r->copy) && r->copy < INT32_MAX / 2 &&
           i64_mul(r->taps, r->channels, &r->k) && r->k < INT32_MAX / 64 && r->n_vec < INT32_MAX / 64;
}

bool conv_rows_fits(const struct conv *cv, enum conv_rows_pass pass)
{
    const struct window *w = &cv->w;
    struct rows r;
    int64_t weight;
    if (!isa_has(ISA_AVX2) || w->rank != 2 || cv->groups < 1 || cv->batch < 1 ||
        !rows_make(&r, cv, pass == CONV_ROWS_DATA))
        return false;
    if (w->kernel[0] * w->kernel[1] < 2 && w->stride[0] * w->stride[1] < 2)
        return false;
    if (r.out[1] < 5 || (pass == CONV_ROWS_FORWARD && cv->groups == cv->c_in && cv->groups > 1) ||
        w->stride[0] * w->stride[1] > 4)
        return false; /* mostly empty vectors; depthwise.c; mostly zeros */
    if (pass == CONV_ROWS_DATA && cv->groups * 4 < cv->c_in && r.n_vec * ROWS_WIDTH > 2 * r.src[0] * r.src[1])
        return false; /* most products would be with padding or spread zeros */
    return i64_mul(r.k, r.m * (int64_t)sizeof(float), &weight) && weight <= WEIGHT_BYTES;
}

/* ---- scratch: tables and weights for all, then a part for each lane ---- */
struct layout {
    size_t off, x_at, y_at, count, weight, partial, shared; /* bytes from the start; shared: where the lanes begin */
    size_t copy, dy, acc, lane;                             /* bytes in a lane */
    int64_t blocks, chunk, chunks, k3; /* blocks of four channels; images of a chunk; k rounded up to 3 */
};

static bool place(size_t *end, int64_t count, size_t elem, size_t *at)
{
    size_t bytes;
    *at = *end;
    return size_mul((size_t)count, elem, &bytes) && size_add(*end, bytes, end) && size_add(*end, 63, end) &&
           (*end = *end / 64 * 64, true);
}

static bool layout_make(struct layout *l, const struct rows *r, const struct conv *cv, enum conv_rows_pass pass)
{
    size_t end = 0, lane = 0;
    const bool weight = pass == CONV_ROWS_WEIGHT;
    *l = (struct layout){.blocks = i64_ceil_div(r->m, ROWS_CHANNELS), .k3 = i64_ceil_div(r->k, ROWS_TAPS) * ROWS_TAPS};
    l->chunk = i64_ceil_div(cv->batch, CHUNKS);
    l->chunks = i64_ceil_div(cv->batch, l->chunk);
    const int64_t packed = weight ? 0 : cv->groups * l->blocks * ROWS_CHANNELS * r->k;
    const int64_t partial = weight ? l->chunks * cv->c_out * r->k : 0, images = weight ? l->chunk : 1;
    int64_t copy, dy = 0;
    if (!i64_mul(r->copy, images, &copy) || (weight && !i64_mul(r->n_vec * ROWS_WIDTH * r->m, images, &dy)))
        return false;
    if (!place(&end, l->k3, sizeof(int32_t), &l->off) || !place(&end, r->n_vec, sizeof(int32_t), &l->x_at) ||
        !place(&end, r->n_vec, sizeof(int32_t), &l->y_at) || !place(&end, r->n_vec, sizeof(int32_t), &l->count) ||
        !place(&end, packed, sizeof(float), &l->weight) || !place(&end, partial, sizeof(float), &l->partial))
        return false;
    l->shared = end;
    if (!place(&lane, copy + ROWS_WIDTH, sizeof(float), &l->copy) ||
        !place(&lane, r->out[1] % ROWS_WIDTH ? dy : 0, sizeof(float), &l->dy) ||
        !place(&lane, weight ? l->k3 / ROWS_TAPS * ROWS_ACC : 0, sizeof(float), &l->acc))
        return false;
    l->lane = lane;
    return true;
}

bool conv_rows_scratch(const struct conv *cv, enum conv_rows_pass pass, int lanes, size_t *bytes)
{
    struct rows r;
    struct layout l;
    return rows_make(&r, cv, pass == CONV_ROWS_DATA) && layout_make(&l, &r, cv, pass) &&
           size_mul(l.lane, (size_t)lanes, bytes) && size_add(*bytes, l.shared, bytes);
}

static void fill_tables(const struct rows *r, const struct layout *l, char *scratch)
{
    int32_t *off = (int32_t *)(void *)(scratch + l->off), *x_at = (int32_t *)(void *)(scratch + l->x_at),
            *y_at = (int32_t *)(void *)(scratch + l->y_at), *count = (int32_t *)(void *)(scratch + l->count);
    for (int64_t c = 0, i = 0; c < r->channels; c++)
        for (int64_t ky = 0; ky < r->kernel[0]; ky++)
            for (int64_t kx = 0; kx < r->kernel[1]; kx++, i++) {
                const int64_t x = kx * r->dilation[1];
                off[i] = (int32_t)(c * r->plane + (ky * r->dilation[0] * r->phases + x % r->phases) * r->length +
                                   x / r->phases);
            }
    for (int64_t i = r->k; i < l->k3; i++)
        off[i] = off[r->k - 1];
    for (int64_t y = 0, i = 0; y < r->out[0]; y++)
        for (int64_t v = 0; v < r->vectors; v++, i++) {
            x_at[i] = (int32_t)(y * r->stride[0] * r->phases * r->length + v * ROWS_WIDTH);
            y_at[i] = (int32_t)(y * r->out[1] + v * ROWS_WIDTH);
            count[i] = (int32_t)i64_min(ROWS_WIDTH, r->out[1] - v * ROWS_WIDTH);
        }
}

/* One row of the copy from a row of the source. */
static void copy_row(const struct rows *r, const float *src, int64_t phase, float *dst)
{
    const int64_t s = r->stride[1], spread = r->spread[1],
                  shift = phase - r->pad[1]; /* padded source column of j: j * s + shift */
    memset(dst, 0, (size_t)r->length * sizeof *dst);
    if (!src)
        return;
    if (spread == 1 && s == 1) {
        const int64_t first = i64_max(0, -shift), end = i64_min(r->length, r->src[1] - shift);
        if (end > first)
            memcpy(dst + first, src + first + shift, (size_t)(end - first) * sizeof *dst);
    } else if (spread == 1) {
        const int64_t first = shift >= 0 ? 0 : i64_ceil_div(-shift, s);
        for (int64_t j = first; j < r->length && j * s + shift < r->src[1]; j++)
            dst[j] = src[j * s + shift];
    } else {
        for (int64_t i = 0; i < r->src[1]; i++) {
            const int64_t j = i * spread - shift;
            if (j >= 0 && j < r->length)
                dst[j] = src[i];
        }
    }
}

static void copy_image(const struct rows *r, const float *src, float *dst)
{
    for (int64_t c = 0; c < r->channels; c++, src += r->src[0] * r->src[1])
        for (int64_t y = 0; y < r->rows; y++) {
            const int64_t at = y - r->pad[0];
            const bool inside = at >= 0 && at % r->spread[0] == 0 && at / r->spread[0] < r->src[0];
            for (int64_t f = 0; f < r->phases; f++, dst += r->length)
                copy_row(r, inside ? src + at / r->spread[0] * r->src[1] : NULL, f, dst);
        }
}

/* ---- forward and image gradient ---- */
struct product_job {
    struct rows r;
    struct layout l;
    const struct conv *cv;
    const float *x, *bias;
    float *y;
    char *scratch;
    bool add;
    int64_t parts, part_blocks; /* of the result's channels */
};

static void product_task(void *arg, int64_t task, int lane)
{
    const struct product_job *job = arg;
    const struct rows *r = &job->r;
    const struct layout *l = &job->l;
    const int64_t part = task % job->parts, groups = job->cv->groups, group = task / job->parts % groups;
    const int64_t image = task / job->parts / groups, m = part * job->part_blocks * ROWS_CHANNELS;
    float *copy = (float *)(void *)(job->scratch + l->shared + (size_t)lane * l->lane + l->copy);
    copy_image(r, job->x + (image * groups + group) * r->channels * r->src[0] * r->src[1], copy);
    const struct rows_product p = {.x = copy,
                                   .w = (const float *)(const void *)(job->scratch + l->weight) +
                                        (group * l->blocks * ROWS_CHANNELS + m) * r->k,
                                   .bias = job->bias ? job->bias + group * r->m + m : NULL,
                                   .off = (const int32_t *)(const void *)(job->scratch + l->off),
                                   .x_at = (const int32_t *)(const void *)(job->scratch + l->x_at),
                                   .y_at = (const int32_t *)(const void *)(job->scratch + l->y_at),
                                   .count = (const int32_t *)(const void *)(job->scratch + l->count),
                                   .k = r->k,
                                   .m = i64_min(job->part_blocks * ROWS_CHANNELS, r->m - m),
                                   .n_vec = r->n_vec,
                                   .y_plane = r->out[0] * r->out[1],
                                   .y = job->y + ((image * groups + group) * r->m + m) * r->out[0] * r->out[1],
                                   .add = job->add};
    conv_rows_product_avx2(&p);
}

/* Weights as [block of four][k][4]. at: strides of the stored weight by result channel, source channel and tap. */
static void pack_weight(const struct product_job *job, const float *w, bool data)
{
    const struct rows *r = &job->r;
    float *dst = (float *)(void *)(job->scratch + job->l.weight);
    for (int64_t group = 0; group < job->cv->groups; group++, w += r->m * r->k)
        for (int64_t block = 0; block < job->l.blocks; block++)
            for (int64_t c = 0; c < r->channels; c++)
                for (int64_t t = 0; t < r->taps; t++)
                    for (int64_t i = 0; i < ROWS_CHANNELS; i++) {
                        const int64_t m = block * ROWS_CHANNELS + i;
                        const int64_t from =
                            data ? (c * r->m + m) * r->taps + r->taps - 1 - t : (m * r->channels + c) * r->taps + t;
                        *dst++ = m < r->m ? w[from] : 0;
                    }
}

static void run_product(struct pool *pool, struct product_job *job, const float *w, bool data)
{
    if (!rows_make(&job->r, job->cv, data) ||
        !layout_make(&job->l, &job->r, job->cv, data ? CONV_ROWS_DATA : CONV_ROWS_FORWARD))
        return; /* conv_rows_scratch has refused it before */
    fill_tables(&job->r, &job->l, job->scratch);
    pack_weight(job, w, data);
    const int64_t tasks = job->cv->batch * job->cv->groups;
    job->part_blocks =
        tasks >= SPLIT_BELOW ? job->l.blocks : i64_ceil_div(job->l.blocks, i64_min(SPLIT_BELOW / tasks, job->l.blocks));
    job->parts = i64_ceil_div(job->l.blocks, job->part_blocks);
    const double macs = (double)tasks * (double)job->r.m * (double)job->r.k * (double)(job->r.out[0] * job->r.out[1]);
    pool_run(macs > 131072 ? pool : NULL, tasks * job->parts, product_task, job);
}

void conv_rows_forward(struct pool *pool, const struct conv *cv, const float *x, const float *w, const float *bias,
                       float *y, void *scratch)
{
    struct product_job job = {.cv = cv, .x = x, .bias = bias, .y = y, .scratch = scratch};
    run_product(pool, &job, w, false);
}

void conv_rows_data(struct pool *pool, const struct conv *cv, const float *dy, const float *w, float *dx, bool add,
                    void *scratch)
{
    struct product_job job = {.cv = cv, .x = dy, .y = dx, .scratch = scratch, .add = add};
    run_product(pool, &job, w, true);
}

/* ---- weight gradient ---- */
struct weight_job {
    struct rows r;
    struct layout l;
    const struct conv *cv;
    const float *x, *dy;
    float *dw;
    char *scratch;
    bool add;
};

/* dy of the chunk's images with rows of whole vectors, [image][m][n_vec * 8]; where rows are whole already, dy
 * itself. */
static const float *whole_rows(const struct weight_job *job, int64_t first, int64_t images, int64_t group, char *lane,
                               int64_t *step)
{
    const struct rows *r = &job->r;
    const int64_t plane = r->out[0] * r->out[1], width = r->vectors * ROWS_WIDTH;
    const float *src = job->dy + (first * job->cv->groups + group) * r->m * plane;
    float *dst = (float *)(void *)(lane + job->l.dy);
    if (r->out[1] % ROWS_WIDTH == 0) {
        *step = job->cv->groups * r->m * plane;
        return src;
    }
    *step = r->m * r->n_vec * ROWS_WIDTH;
    for (int64_t n = 0; n < images; n++)
        for (int64_t y = 0; y < r->m * r->out[0]; y++) {
            float *row = dst + n * *step + y * width;
            memcpy(row, src + n * job->cv->groups * r->m * plane + y * r->out[1], (size_t)r->out[1] * sizeof *row);
            memset(row + r->out[1], 0, (size_t)(width - r->out[1]) * sizeof *row);
        }
    return dst;
}

static float join(const float *v)
{
    return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
}

static void weight_task(void *arg, int64_t task, int lane)
{
    const struct weight_job *job = arg;
    const struct rows *r = &job->r;
    const struct layout *l = &job->l;
    const int64_t groups = job->cv->groups, group = task % groups, chunk = task / groups, first = chunk * l->chunk;
    const int64_t images = i64_min(l->chunk, job->cv->batch - first), source = r->channels * r->src[0] * r->src[1];
    const int64_t together = i64_max(1, i64_min(images, i64_ceil_div(GROUP_VECTORS, r->n_vec)));
    char *mine = job->scratch + l->shared + (size_t)lane * l->lane;
    float *copy = (float *)(void *)(mine + l->copy), *acc = (float *)(void *)(mine + l->acc);
    float *dw = (float *)(void *)(job->scratch + l->partial) + (chunk * job->cv->c_out + group * r->m) * r->k;
    int64_t step;
    const float *dy = whole_rows(job, first, images, group, mine, &step);

    for (int64_t n = 0; n < images; n++)
        copy_image(r, job->x + ((first + n) * groups + group) * source, copy + n * r->copy);
    for (int64_t m = 0; m < r->m; m += ROWS_CHANNELS) {
        memset(acc, 0, (size_t)(l->k3 / ROWS_TAPS * ROWS_ACC) * sizeof *acc);
        for (int64_t n = 0; n < images; n += together) {
            struct rows_sum s = {.x = copy + n * r->copy,
                                 .off = (const int32_t *)(const void *)(job->scratch + l->off),
                                 .x_at = (const int32_t *)(const void *)(job->scratch + l->x_at),
                                 .k = l->k3,
                                 .n_vec = r->n_vec,
                                 .images = i64_min(together, images - n),
                                 .x_image = r->copy,
                                 .dy_image = step,
                                 .acc = acc};
            for (int i = 0; i < ROWS_CHANNELS; i++)
                s.dy[i] = dy + n * step + i64_min(m + i, r->m - 1) * r->n_vec * ROWS_WIDTH;
            conv_rows_sum_avx2(&s);
        }
        for (int64_t i = 0; i < i64_min(ROWS_CHANNELS, r->m - m); i++)
            for (int64_t k = 0; k < r->k; k++)
                dw[(m + i) * r->k + k] =
                    join(acc + k / ROWS_TAPS * ROWS_ACC + (i * ROWS_TAPS + k % ROWS_TAPS) * ROWS_WIDTH);
    }
}

static void weight_sum(void *arg, int64_t task, int lane)
{
    const struct weight_job *job = arg;
    const int64_t all = job->cv->c_out * job->r.k, from = task * 4096, to = i64_min(from + 4096, all);
    (void)lane;
    for (int64_t c = 0; c < job->l.chunks; c++) {
        const float *restrict part = (const float *)(const void *)(job->scratch + job->l.partial) + c * all;
        float *restrict dw = job->dw;
        if (c == 0 && !job->add)
            memcpy(dw + from, part + from, (size_t)(to - from) * sizeof *dw);
        else
            for (int64_t i = from; i < to; i++)
                dw[i] += part[i];
    }
}

void conv_rows_weight(struct pool *pool, const struct conv *cv, const float *x, const float *dy, float *dw, bool add,
                      void *scratch)
{
    struct weight_job job = {.cv = cv, .x = x, .dy = dy, .dw = dw, .scratch = scratch, .add = add};
    if (!rows_make(&job.r, cv, false) || !layout_make(&job.l, &job.r, cv, CONV_ROWS_WEIGHT))
        return; /* conv_rows_scratch has refused it before */
    fill_tables(&job.r, &job.l, scratch);
    pool_run(pool, job.l.chunks * cv->groups, weight_task, &job);
    pool_run(pool, i64_ceil_div(cv->c_out * job.r.k, 4096), weight_sum, &job);
}
