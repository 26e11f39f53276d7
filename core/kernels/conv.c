/* SPDX-License-Identifier: Apache-2.0
 * conv.c - convolution as matrix products over tiles of output positions.
 * Idea       For one group, y [M, P] = weight [M, K] * columns [K, P] with K = C/G * taps. The columns of a tile of
 *            positions are unfolded into a scratch buffer that fits the second-level cache and multiplied at once, so
 *            the unfolded image never exists as a whole.
 * Paths      depthwise and, with AVX2, most 2-D windows: direct (depthwise.h, depthwise_planes.h, conv_rows.h). 1 x 1 with stride 1 and no padding: the image is its own column matrix,
 *            nothing is unfolded. Small images: a tile takes several images, so that the product stays wide; its
 *            result goes through a scratch tile. Everything else: unfold and multiply straight into y.
 * Tasks      (tile of images, group, tile of positions, part of the rows). All bounds come from the shape. */
#include "core/kernels/conv.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/conv_rows.h"
#include "core/kernels/depthwise.h"
#include "core/kernels/depthwise_planes.h"
#include "core/kernels/gemm.h"

enum {
    TILE_BYTES = 512 * 1024, /* columns of a tile */
    TILE_MIN = 96,           /* positions: below, the product is too narrow for BLAS */
    TILE_MAX = 2048,
    SPLIT_ROWS_BELOW = 6,    /* tasks: with fewer, the rows are split too */
};

struct plan {
    int64_t m, k, positions; /* per group */
    int64_t tile;            /* positions of a tile in one image */
    int64_t images;          /* images of a tile; > 1 only if tile == positions */
    int64_t row_parts, rows; /* parts of M, rows of a part */
    int64_t image_tiles, position_tiles;
    bool direct;             /* the image is its own column matrix */
    bool depthwise;
    size_t col_bytes, out_bytes; /* scratch of one lane */
};

struct job {
    const struct conv *cv;
    struct plan plan;
    size_t elem; /* 4: float, 8: double */
    const char *x, *weight, *bias;
    char *y, *scratch;
};

static bool is_pointwise(const struct window *w)
{
    for (int a = 0; a < w->rank; a++) {
        if (w->kernel[a] != 1 || w->stride[a] != 1 || w->pad[a] != 0 || w->pad_end[a] != 0)
            return false;
    }
    return true;
}

static bool plan_make(struct plan *p, const struct conv *cv, size_t elem)
{
    *p = (struct plan){.m = cv->c_out / cv->groups, .positions = window_count(cv->w.out, cv->w.rank)};
    p->k = cv->c_in / cv->groups * window_count(cv->w.kernel, cv->w.rank);
    p->depthwise = elem == sizeof(float) && cv->w.rank == 2 && cv->groups == cv->c_in && cv->groups > 1;
    const int64_t fits = TILE_BYTES / (int64_t)elem / i64_max(p->k, 1);
    p->tile = i64_min(i64_max(fits / 16 * 16, TILE_MIN), TILE_MAX);
    p->images = 1;
    if (p->tile >= p->positions) {
        p->images = i64_max(i64_min(p->tile / i64_max(p->positions, 1), cv->batch), 1);
        p->tile = i64_max(p->positions, 1);
    }
    p->direct = is_pointwise(&cv->w) && p->images == 1;
    p->image_tiles = i64_ceil_div(cv->batch, p->images);
    p->position_tiles = i64_ceil_div(p->positions, p->tile);
    p->row_parts = 1;
    if (p->image_tiles * p->position_tiles * cv->groups < SPLIT_ROWS_BELOW &&
        p->k * p->tile * p->images * p->m > 1 << 20)
        p->row_parts = i64_max(i64_min(p->m / 64, 4), 1);
    p->rows = i64_ceil_div(i64_ceil_div(p->m, p->row_parts), 8) * 8;
    p->row_parts = i64_ceil_div(p->m, i64_max(p->rows, 1));

    size_t width, bytes;
    if (!size_mul((size_t)p->tile, (size_t)p->images, &width) || !size_mul(width, elem, &bytes))
        return false;
    if (!p->direct && !size_mul(bytes, (size_t)p->k, &p->col_bytes))
        return false;
    if (p->images > 1 && !size_mul(bytes, (size_t)p->rows, &p->out_bytes))
        return false;
    return size_add(p->col_bytes, 63, &p->col_bytes) && size_add(p->out_bytes, 63, &p->out_bytes);
}

bool conv_scratch(const struct conv *cv, size_t elem_bytes, int lanes, size_t *bytes)
{
    struct plan p;
    if (elem_bytes == sizeof(float) && conv_rows_fits(cv, CONV_ROWS_FORWARD))
        return conv_rows_scratch(cv, CONV_ROWS_FORWARD, lanes, bytes);
    if (!plan_make(&p, cv, elem_bytes) || !size_add(p.col_bytes / 64 * 64, p.out_bytes / 64 * 64, bytes))
        return false;
    if (p.depthwise && depthwise_planes_fits(cv))
        return depthwise_planes_scratch(cv, lanes, bytes);
    if (p.depthwise)
        *bytes = 0;
    return size_mul(*bytes, (size_t)lanes, bytes);
}

static void fill_rows(char *y, size_t elem, int64_t ld, const char *bias, int64_t rows, int64_t width)
{
    for (int64_t i = 0; i < rows; i++) {
        if (elem == sizeof(float)) {
            float *row = (float *)(void *)y + i * ld, value = ((const float *)(const void *)bias)[i];
            for (int64_t j = 0; j < width; j++)
                row[j] = value;
        } else {
            double *row = (double *)(void *)y + i * ld, value = ((const double *)(const void *)bias)[i];
            for (int64_t j = 0; j < width; j++)
                row[j] = value;
        }
    }
}

static void unfold(const struct job *job, int64_t image, int64_t group, int64_t from, int64_t width, char *col,
                   int64_t ld)
{
    const struct conv *cv = job->cv;
    const int64_t channels = cv->c_in / cv->groups, plane = window_count(cv->w.in, cv->w.rank);
    const char *x = job->x + (size_t)((image * cv->c_in + group * channels) * plane) * job->elem;

    if (job->elem == sizeof(float))
        im2col_f32(&cv->w, channels, (const float *)(const void *)x, from, width, (float *)(void *)col, ld);
    else
        im2col_f64(&cv->w, channels, (const double *)(const void *)x, from, width, (double *)(void *)col, ld);
}

/* c [rows, width] = rows of the weight from `channel` on * columns + bias */
static void multiply(const struct job *job, int64_t channel, int64_t rows, const char *col, int64_t ld_col,
                     int64_t width, char *c, int64_t ld_c)
{
    const char *weight = job->weight + (size_t)(channel * job->plan.k) * job->elem;
    struct gemm g = gemm_plain(false, false, rows, width, job->plan.k);

    g.ldb = ld_col;
    g.ldc = ld_c;
    if (job->bias) {
        fill_rows(c, job->elem, ld_c, job->bias + (size_t)channel * job->elem, rows, width);
        g.beta = 1;
    }
    if (job->elem == sizeof(float))
        gemm_f32_tile(&g, (const float *)(const void *)weight, (const float *)(const void *)col, (float *)(void *)c);
    else
        gemm_f64_tile(&g, (const double *)(const void *)weight, (const double *)(const void *)col, (double *)(void *)c);
}

/* Several small images side by side: columns [K, images * positions], the product goes through `out`. */
static void run_images(const struct job *job, int64_t first, int64_t group, int64_t channel, int64_t rows, char *col,
                       char *out)
{
    const struct plan *p = &job->plan;
    const int64_t images = i64_min(p->images, job->cv->batch - first), width = images * p->positions;

    for (int64_t i = 0; i < images; i++)
        unfold(job, first + i, group, 0, p->positions, col + (size_t)(i * p->positions) * job->elem, width);
    multiply(job, channel, rows, col, width, width, out, width);
    for (int64_t i = 0; i < images; i++) {
        for (int64_t r = 0; r < rows; r++)
            memcpy(job->y + (size_t)(((first + i) * job->cv->c_out + channel + r) * p->positions) * job->elem,
                   out + (size_t)(r * width + i * p->positions) * job->elem, (size_t)p->positions * job->elem);
    }
}

/* A tile of positions of one image, straight into y. */
static void run_tile(const struct job *job, int64_t image, int64_t group, int64_t from, int64_t channel, int64_t rows,
                     char *col)
{
    const struct plan *p = &job->plan;
    const struct conv *cv = job->cv;
    const int64_t width = i64_min(p->tile, p->positions - from);
    char *y = job->y + (size_t)((image * cv->c_out + channel) * p->positions + from) * job->elem;

    if (p->direct) {
        const int64_t first = (image * cv->c_in + group * (cv->c_in / cv->groups)) * p->positions + from;
        multiply(job, channel, rows, job->x + (size_t)first * job->elem, p->positions, width, y, p->positions);
    } else {
        unfold(job, image, group, from, width, col, width);
        multiply(job, channel, rows, col, width, width, y, p->positions);
    }
}

static void run(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const struct plan *p = &job->plan;
    const size_t col_bytes = p->col_bytes / 64 * 64, out_bytes = p->out_bytes / 64 * 64;
    char *col = job->scratch ? job->scratch + (size_t)lane * (col_bytes + out_bytes) : NULL;
    const int64_t part = task % p->row_parts, rest = task / p->row_parts;
    const int64_t tile = rest % p->position_tiles, group = rest / p->position_tiles % job->cv->groups;
    const int64_t images = rest / p->position_tiles / job->cv->groups;
    const int64_t row = part * p->rows, rows = i64_min(p->rows, p->m - row);

    if (p->images > 1)
        run_images(job, images * p->images, group, group * p->m + row, rows, col, col + col_bytes);
    else
        run_tile(job, images, group, tile * p->tile, group * p->m + row, rows, col);
}

static void conv_any(struct pool *pool, const struct conv *cv, struct job *job)
{
    if (!plan_make(&job->plan, cv, job->elem) || cv->c_out == 0)
        return; /* conv_scratch has refused it before */
    const int64_t tasks = job->plan.image_tiles * job->plan.position_tiles * cv->groups * job->plan.row_parts;
    const double macs = (double)cv->batch * (double)cv->c_out * (double)job->plan.positions * (double)job->plan.k;
    pool_run(tasks > 1 && macs > 262144 ? pool : NULL, tasks, run, job);
}

void conv_f32(struct pool *pool, const struct conv *cv, const float *x, const float *weight, const float *bias,
              float *y, void *scratch)
{
    struct job job = {.cv = cv, .elem = sizeof *x, .x = (const char *)x, .weight = (const char *)weight,
                      .bias = (const char *)bias, .y = (char *)y, .scratch = scratch};

    if (conv_rows_fits(cv, CONV_ROWS_FORWARD))
        conv_rows_forward(pool, cv, x, weight, bias, y, scratch);
    else if (depthwise_planes_fits(cv))
        depthwise_planes_forward(pool, cv, x, weight, bias, y, scratch);
    else if (cv->w.rank == 2 && cv->groups == cv->c_in && cv->groups > 1)
        depthwise_f32(pool, cv, x, weight, bias, y);
    else
        conv_any(pool, cv, &job);
}

void conv_f64(struct pool *pool, const struct conv *cv, const double *x, const double *weight, const double *bias,
              double *y, void *scratch)
{
    struct job job = {.cv = cv, .elem = sizeof *x, .x = (const char *)x, .weight = (const char *)weight,
                      .bias = (const char *)bias, .y = (char *)y, .scratch = scratch};
    conv_any(pool, cv, &job);
}

/* Offset of the input cell of output position `p` and kernel tap `t`; -1 in the padding. */
static int64_t cell(const struct window *w, int64_t p, int64_t t)
{
    int64_t offset = 0, scale = 1;
    for (int a = w->rank - 1; a >= 0; a--) {
        const int64_t i = p % w->out[a] * w->stride[a] + t % w->kernel[a] * w->dilation[a] - w->pad[a];
        if (i < 0 || i >= w->in[a])
            return -1;
        offset += i * scale;
        scale *= w->in[a];
        p /= w->out[a];
        t /= w->kernel[a];
    }
    return offset;
}

void conv_f32_naive(const struct conv *cv, const float *x, const float *weight, const float *bias, float *y)
{
    const struct window *w = &cv->w;
    const int64_t positions = window_count(w->out, w->rank), taps = window_count(w->kernel, w->rank);
    const int64_t plane = window_count(w->in, w->rank), channels = cv->c_in / cv->groups,
                  m_group = cv->c_out / cv->groups;

    for (int64_t i = 0; i < cv->batch * cv->c_out * positions; i++) {
        const int64_t p = i % positions, m = i / positions % cv->c_out, n = i / positions / cv->c_out;
        double sum = bias ? (double)bias[m] : 0;
        for (int64_t c = 0; c < channels; c++) {
            for (int64_t t = 0; t < taps; t++) {
                const int64_t at = cell(w, p, t);
                if (at >= 0)
                    sum += (double)weight[(m * channels + c) * taps + t] *
                           (double)x[(n * cv->c_in + m / m_group * channels + c) * plane + at];
            }
        }
        y[i] = (float)sum;
    }
}
