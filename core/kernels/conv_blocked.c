/* SPDX-License-Identifier: Apache-2.0
 * Direct convolution over the blocked layout. A task is a range of output positions by a range of output blocks of one
 * image; inside, output blocks go two at a time, then pieces of the input channels whose weights stay in the first
 * cache, then tiles of positions. A position's taps are found through a table of offsets made once a task, so edges,
 * strides and dilations cost nothing in the kernel; 1x1 needs no table. The first layer copies the rows a task needs
 * into a buffer with the padding in it, since eight lanes of three channels would be mostly zeros.
 * Winograd   conv_winograd.c. Loops: conv_*_loops.h, once an instruction set. */
#include "core/kernels/conv_blocked.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/conv_blocked_kernels.h"
#include "core/kernels/isa.h"

enum {
    TASK_MACS = 150000,      /* least work of a task: some microseconds */
    MAX_TASKS = 32,          /* of one image */
    INPUT_FLOATS = 32768,    /* of a task's input: 128 KiB of the second cache */
    WEIGHT_FLOATS = 4096,    /* of a piece of weights: half the first cache */
    LEAST_POSITIONS = 48,    /* of a task: its weights are read from far away once for them */
    MOST_POSITIONS = 768,
    MOST_TAPS = 1024,
    MOST_FIRST_CHANNELS = 4,
    ROWS_OF_KERNEL = 64,     /* depthwise: rows of a kernel */
};

const char *const conv_algorithm_names[] = {"direct", "first", "depthwise", "winograd2", "winograd4", NULL};

const struct conv_blocked_kernels *conv_blocked_kernels(void)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2))
        return &conv_blocked_avx2;
#endif
    return &conv_blocked_portable;
}

void conv_act_bounds(const struct act *act, float *low, float *high)
{
    *low = act->kind == ACT_RELU ? 0 : act->kind == ACT_CLIP ? act->a : -INFINITY;
    *high = act->kind == ACT_CLIP ? act->b : INFINITY;
}

/* ---- geometry ---- */
static int64_t taps_of(const struct conv_blocked *cv)
{
    return cv->kernel[0] * cv->kernel[1];
}

/* Input blocks that one output block reads. */
static int64_t blocks_in(const struct conv_blocked *cv)
{
    return blocked_count(cv->c_in / cv->groups);
}

static bool is_pointwise(const struct conv_blocked *cv)
{
    return taps_of(cv) == 1 && cv->stride[0] == 1 && cv->stride[1] == 1 && cv->pad[0] == 0 && cv->pad[1] == 0 &&
           cv->in[0] == cv->out[0] && cv->in[1] == cv->out[1];
}

static bool is_winograd(const struct conv_blocked *cv)
{
    return cv->algorithm == CONV_WINOGRAD2 || cv->algorithm == CONV_WINOGRAD4;
}

static bool geometry_is_sane(const struct conv_blocked *cv)
{
    for (int a = 0; a < 2; a++)
        if (cv->kernel[a] < 1 || cv->stride[a] < 1 || cv->dilation[a] < 1 || cv->pad[a] < 0 ||
            cv->kernel[a] > MOST_TAPS || cv->stride[a] > INT16_MAX || cv->dilation[a] > INT16_MAX ||
            cv->pad[a] > INT16_MAX || cv->in[a] > INT32_MAX / 16 || cv->out[a] > INT32_MAX / 16)
            return false;
    if (cv->in[0] > 0 && cv->in[1] > 0 && cv->in[0] * cv->in[1] > INT32_MAX / 16)
        return false;
    if (cv->out[0] > 0 && cv->out[1] > 0 && cv->out[0] * cv->out[1] > INT32_MAX / 16)
        return false;
    return cv->groups >= 1 && cv->c_in >= 1 && cv->c_out >= 1 && cv->c_in % cv->groups == 0 &&
           cv->c_out % cv->groups == 0 && taps_of(cv) <= MOST_TAPS;
}

/* Offsets into the padded copy of a task's rows are 32-bit. */
static bool first_fits(const struct conv_blocked *cv)
{
    if (cv->groups != 1 || cv->c_in > BLOCK)
        return false;
    for (int a = 0; a < 2; a++)
        if (cv->in[a] < 0 || cv->out[a] < 1)
            return true; /* asked again when the extents are known */
    const int64_t rows = (cv->out[0] - 1) * cv->stride[0] + (cv->kernel[0] - 1) * cv->dilation[0] + 1;
    const int64_t row = (cv->out[1] - 1) * cv->stride[1] + (cv->kernel[1] - 1) * cv->dilation[1] + 1;
    int64_t all;
    return i64_mul(rows, row, &all) && all <= INT32_MAX / 16;
}

bool conv_blocked_fits(const struct conv_blocked *cv)
{
    if (!geometry_is_sane(cv))
        return false;
    const bool square3 = cv->kernel[0] == 3 && cv->kernel[1] == 3 && cv->stride[0] == 1 && cv->stride[1] == 1 &&
                         cv->dilation[0] == 1 && cv->dilation[1] == 1;
    switch (cv->algorithm) {
    case CONV_DIRECT:
        return cv->groups == 1 ||
               (cv->c_in / cv->groups % BLOCK == 0 && cv->c_out / cv->groups % BLOCK == 0);
    case CONV_FIRST:
        return first_fits(cv);
    case CONV_DEPTHWISE:
        return cv->groups == cv->c_in && cv->groups == cv->c_out && cv->kernel[0] <= ROWS_OF_KERNEL;
    case CONV_WINOGRAD2:
    case CONV_WINOGRAD4:
        return square3 && cv->groups == 1;
    case CONV_ALGORITHMS:
        break;
    }
    return false;
}

/* Work in units of eight products, for one image. The measured efficiency of the tiles is about the same for all, so
 * only transforms and the reading of weights come on top: those of more than 8 MB come from main memory every time. */
static double reading(double weights)
{
    return weights * (weights > 2e6 ? 2 : 0.2);
}

static double winograd_cost(const struct conv_blocked *cv, int m, double height, double width)
{
    const double tiles = ceil(height / m) * ceil(width / m), n = (double)((m + 2) * (m + 2));
    const double in = (double)blocked_count(cv->c_in), out = (double)blocked_count(cv->c_out);
    const double products = tiles * n * in * out * 8, weights = n * in * out * 64;
    const double transforms = tiles * (in + out) * n * 5;
    return products + transforms + reading(weights);
}

static double direct_cost(const struct conv_blocked *cv, double height, double width)
{
    const double in = (double)blocked_count(cv->c_in), out = (double)blocked_count(cv->c_out);
    return height * width * 9 * in * out * 8 + reading(9 * in * out * 64);
}

enum conv_algorithm conv_blocked_choose(const struct conv_blocked *given, bool x_plain)
{
    struct conv_blocked cv = *given;
    enum conv_algorithm best = CONV_ALGORITHMS;

    cv.algorithm = CONV_FIRST;
    if (x_plain && cv.c_in <= MOST_FIRST_CHANNELS && conv_blocked_fits(&cv))
        return CONV_FIRST;
    cv.algorithm = CONV_DEPTHWISE;
    if (conv_blocked_fits(&cv))
        return CONV_DEPTHWISE;
    cv.algorithm = CONV_DIRECT;
    if (!conv_blocked_fits(&cv))
        return CONV_ALGORITHMS;
    best = CONV_DIRECT;
    cv.algorithm = CONV_WINOGRAD4;
    if (!conv_blocked_fits(&cv))
        return best;
    /* An unknown extent is taken for one of a usual size. */
    const double height = cv.out[0] > 0 ? (double)cv.out[0] : 32, width = cv.out[1] > 0 ? (double)cv.out[1] : 32;
    double cost = direct_cost(&cv, height, width);
    if (winograd_cost(&cv, 2, height, width) < cost) {
        cost = winograd_cost(&cv, 2, height, width);
        best = CONV_WINOGRAD2;
    }
    return cv.c_in <= WINOGRAD4_CHANNELS && winograd_cost(&cv, 4, height, width) < cost ? CONV_WINOGRAD4 : best;
}

/* ---- weights ---- */
int64_t conv_blocked_weights(const struct conv_blocked *cv)
{
    const int64_t out = blocked_count(cv->c_out) * BLOCK;
    int64_t n = taps_of(cv);
    if (is_winograd(cv))
        return winograd_weights(cv);
    if (cv->algorithm == CONV_FIRST && !i64_mul(n, cv->c_in, &n))
        return -1;
    if (cv->algorithm == CONV_DIRECT && !i64_mul(n, blocks_in(cv) * BLOCK, &n))
        return -1;
    return i64_mul(n, out, &n) && n <= INT64_MAX / 64 ? n : -1;
}

static void pack_direct(const struct conv_blocked *cv, const float *weight, float *packed)
{
    const int64_t taps = taps_of(cv), c_in = cv->c_in / cv->groups, blocks = blocked_count(c_in);
    for (int64_t m = 0; m < cv->c_out; m++)
        for (int64_t c = 0; c < c_in; c++)
            for (int64_t k = 0; k < taps; k++)
                packed[(((m / BLOCK * blocks + c / BLOCK) * taps + k) * BLOCK + c % BLOCK) * BLOCK + m % BLOCK] =
                    weight[(m * c_in + c) * taps + k];
}

/* [block][row of weight][8] */
static void pack_rows(int64_t c_out, int64_t rows, const float *weight, float *packed)
{
    for (int64_t m = 0; m < c_out; m++)
        for (int64_t k = 0; k < rows; k++)
            packed[(m / BLOCK * rows + k) * BLOCK + m % BLOCK] = weight[m * rows + k];
}

void conv_blocked_pack(const struct conv_blocked *cv, const float *weight, float *packed)
{
    if (is_winograd(cv)) {
        winograd_pack(cv, weight, packed);
        return;
    }
    memset(packed, 0, (size_t)conv_blocked_weights(cv) * sizeof *packed);
    if (cv->algorithm == CONV_DIRECT)
        pack_direct(cv, weight, packed);
    else
        pack_rows(cv->c_out, cv->algorithm == CONV_FIRST ? cv->c_in * taps_of(cv) : taps_of(cv), weight, packed);
}

/* ---- direct ---- */
struct direct {
    const struct conv_blocked *cv;
    const struct conv_blocked_io *io;
    const struct conv_blocked_kernels *kernels;
    int64_t in_plane, out_plane; /* positions */
    int64_t blocks_in, blocks_out, group_in, group_out; /* blocks: of an image, of a group */
    int64_t taps, chunks, parts; /* pieces of the positions; of a group's output blocks */
    int64_t piece;               /* input blocks whose weights are used at a time */
    int64_t width;               /* of a tile */
    int64_t table;               /* bytes of a lane's table of offsets */
    float low, high;
    bool pointwise;
};

static void plan_direct(struct direct *d, const struct conv_blocked *cv)
{
    d->cv = cv;
    d->in_plane = cv->in[0] * cv->in[1];
    d->out_plane = cv->out[0] * cv->out[1];
    d->blocks_in = blocked_count(cv->c_in);
    d->blocks_out = blocked_count(cv->c_out);
    d->group_in = cv->groups == 1 ? d->blocks_in : cv->c_in / cv->groups / BLOCK;
    d->group_out = cv->groups == 1 ? d->blocks_out : cv->c_out / cv->groups / BLOCK;
    d->taps = taps_of(cv);
    d->pointwise = is_pointwise(cv);
    d->width = d->group_out > 1 ? TILE_WIDTH : TILE_WIDTH_SINGLE;
    const double macs = (double)d->out_plane * (double)(d->group_out * BLOCK) * (double)(d->group_in * BLOCK * d->taps);
    const int64_t wanted = i64_max(i64_min((int64_t)(macs / TASK_MACS), MAX_TASKS), 1);
    const int64_t reach = d->pointwise ? 1 : cv->stride[0] * cv->stride[1];
    int64_t most = INPUT_FLOATS / i64_max(d->group_in * BLOCK * i64_min(reach, 4), 1);
    most = i64_max(i64_min(most, MOST_POSITIONS), LEAST_POSITIONS);
    d->chunks = i64_ceil_div(d->out_plane, most);
    d->chunks = i64_max(d->chunks, i64_min(wanted, d->out_plane / LEAST_POSITIONS));
    d->parts = i64_min(i64_ceil_div(wanted, d->chunks), i64_ceil_div(d->group_out, TILE_BLOCKS));
    d->piece = i64_max(WEIGHT_FLOATS / (TILE_BLOCKS * BLOCK * BLOCK * d->taps), 1);
    const int64_t positions = i64_ceil_div(d->out_plane, d->chunks);
    d->table = d->pointwise ? 0 : (positions * d->taps * (int64_t)sizeof(int32_t) + 63) / 64 * 64;
    conv_act_bounds(&cv->act, &d->low, &d->high);
}

/* Offsets of the taps of positions [from, to), tile after tile, [tap][P] each. */
static void fill_offsets(const struct direct *d, int64_t from, int64_t to, int32_t *table)
{
    const struct conv_blocked *cv = d->cv;
    const int64_t tiles = i64_ceil_div(to - from, d->width);
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t first = from + cut(to - from, tiles, t), end = from + cut(to - from, tiles, t + 1);
        const int64_t width = end - first;
        for (int64_t p = 0; p < width; p++) {
            const int64_t y0 = (first + p) / cv->out[1] * cv->stride[0] - cv->pad[0];
            const int64_t x0 = (first + p) % cv->out[1] * cv->stride[1] - cv->pad[1];
            for (int64_t k = 0; k < d->taps; k++) {
                const int64_t y = y0 + k / cv->kernel[1] * cv->dilation[0];
                const int64_t x = x0 + k % cv->kernel[1] * cv->dilation[1];
                const bool inside = y >= 0 && y < cv->in[0] && x >= 0 && x < cv->in[1];
                table[k * width + p] = inside ? (int32_t)((y * cv->in[1] + x) * BLOCK) : -1;
            }
        }
        table += d->taps * width;
    }
}

/* All tiles of positions [from, to) for B output blocks and a piece of the input blocks. */
static void run_tiles(const struct direct *d, struct conv_tile tile, int64_t from, int64_t to, int64_t B,
                      const int32_t *table)
{
    const int64_t tiles = i64_ceil_div(to - from, d->width);
    const float *x = tile.x;
    float *y = tile.y;
    const float *residual = tile.residual;
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t first = from + cut(to - from, tiles, t), end = from + cut(to - from, tiles, t + 1);
        tile.y = y + first * BLOCK;
        tile.residual = residual ? residual + first * BLOCK : NULL;
        if (d->pointwise) {
            tile.x = x + first * BLOCK;
            d->kernels->pointwise[B - 1][end - first - 1](&tile);
        } else {
            tile.offset = table;
            d->kernels->indirect[B - 1][end - first - 1](&tile);
            table += d->taps * (end - first);
        }
    }
}

static void direct_task(void *arg, int64_t task, int lane)
{
    const struct direct *d = arg;
    const struct conv_blocked_io *io = d->io;
    const int64_t part = task % d->parts, chunk = task / d->parts % d->chunks, image = task / d->parts / d->chunks;
    const int64_t group = image % d->cv->groups, n = image / d->cv->groups;
    const int64_t from = cut(d->out_plane, d->chunks, chunk), to = cut(d->out_plane, d->chunks, chunk + 1);
    const int64_t pairs = i64_ceil_div(d->group_out, TILE_BLOCKS);
    const int64_t end = i64_min(cut(pairs, d->parts, part + 1) * TILE_BLOCKS, d->group_out);
    const int64_t w_block = d->group_in * d->taps * BLOCK * BLOCK;
    int32_t *table = NULL;
    if (!d->pointwise) {
        table = (int32_t *)((char *)io->scratch + lane * d->table);
        fill_offsets(d, from, to, table);
    }
    for (int64_t ob = cut(pairs, d->parts, part) * TILE_BLOCKS; ob < end; ob += TILE_BLOCKS) {
        const int64_t B = i64_min(end - ob, TILE_BLOCKS), block = group * d->group_out + ob;
        const int64_t plane = (n * d->blocks_out + block) * d->out_plane * BLOCK;
        for (int64_t ib = 0; ib < d->group_in; ib += d->piece) {
            const struct conv_tile tile = {
                .x = io->x + (n * d->blocks_in + group * d->group_in + ib) * d->in_plane * BLOCK,
                .x_stride = d->in_plane * BLOCK,
                .n_blocks = i64_min(d->piece, d->group_in - ib),
                .taps = d->taps,
                .w = io->weight + block * w_block + ib * d->taps * BLOCK * BLOCK,
                .w_stride = w_block,
                .y = io->y + plane,
                .y_stride = d->out_plane * BLOCK,
                .bias = io->bias ? io->bias + block * BLOCK : NULL,
                .residual = io->residual ? io->residual + plane : NULL,
                .first = ib == 0,
                .last = ib + d->piece >= d->group_in,
                .low = d->low,
                .high = d->high,
            };
            run_tiles(d, tile, from, to, B, table);
        }
        for (int64_t b = 0; b < B && !conv_act_in_registers(&d->cv->act); b++) {
            float *y = io->y + plane + (b * d->out_plane + from) * BLOCK;
            act_f32(&d->cv->act, y, (to - from) * BLOCK, y);
        }
    }
}

/* ---- first layer ---- */
struct first {
    const struct conv_blocked *cv;
    const struct conv_blocked_io *io;
    const struct conv_blocked_kernels *kernels;
    int64_t blocks_out, taps, rows; /* output rows of a task */
    int64_t chunks;
    int64_t in_rows, in_row;     /* of the padded copy: rows, floats of a row */
    int64_t table, lane_bytes;   /* bytes: of the offsets (shared), of a lane's copy */
    float low, high;
};

static void plan_first(struct first *f, const struct conv_blocked *cv)
{
    f->cv = cv;
    f->blocks_out = blocked_count(cv->c_out);
    f->taps = cv->c_in * taps_of(cv);
    const int64_t row = i64_max(cv->out[1] * f->taps * f->blocks_out * BLOCK, 1);
    f->rows = i64_max(i64_ceil_div(4 * (int64_t)TASK_MACS, row), 1);
    f->rows = i64_max(i64_min(f->rows, cv->out[0]), 1);
    f->chunks = i64_ceil_div(cv->out[0], f->rows);
    f->in_rows = (f->rows - 1) * cv->stride[0] + (cv->kernel[0] - 1) * cv->dilation[0] + 1;
    f->in_row = (cv->out[1] - 1) * cv->stride[1] + (cv->kernel[1] - 1) * cv->dilation[1] + 1;
    if (cv->channels_last)
        f->in_row *= cv->c_in;
    f->table = (f->taps * (int64_t)sizeof(int32_t) + 63) / 64 * 64;
    const int64_t planes = cv->channels_last ? 1 : cv->c_in;
    f->lane_bytes = (planes * f->in_rows * f->in_row * (int64_t)sizeof(float) + 63) / 64 * 64;
    conv_act_bounds(&cv->act, &f->low, &f->high);
}

static void fill_first_offsets(const struct first *f, int32_t *table)
{
    const struct conv_blocked *cv = f->cv;
    for (int64_t c = 0; c < cv->c_in; c++)
        for (int64_t ky = 0; ky < cv->kernel[0]; ky++)
            for (int64_t kx = 0; kx < cv->kernel[1]; kx++) {
                const int64_t y = ky * cv->dilation[0], x = kx * cv->dilation[1];
                *table++ = (int32_t)(cv->channels_last ? y * f->in_row + x * cv->c_in + c
                                                       : (c * f->in_rows + y) * f->in_row + x);
            }
}

/* One row of the padded copy, `width` elements of `unit` floats; source NULL: a row of padding. */
static void copy_row(const float *source, int64_t in_w, int64_t pad, int64_t unit, int64_t width, float *to)
{
    const int64_t left = i64_min(pad, width);
    const int64_t middle = source ? i64_max(i64_min(in_w, width - left), 0) : 0;
    memset(to, 0, (size_t)(left * unit) * sizeof *to);
    if (middle)
        memcpy(to + left * unit, source, (size_t)(middle * unit) * sizeof *to);
    memset(to + (left + middle) * unit, 0, (size_t)((width - left - middle) * unit) * sizeof *to);
}

static void copy_rows(const struct first *f, int64_t n, int64_t row, float *copy)
{
    const struct conv_blocked *cv = f->cv;
    const int64_t planes = cv->channels_last ? 1 : cv->c_in, unit = cv->channels_last ? cv->c_in : 1;
    const int64_t y0 = row * cv->stride[0] - cv->pad[0];
    for (int64_t c = 0; c < planes; c++)
        for (int64_t i = 0; i < f->in_rows; i++) {
            const int64_t y = y0 + i;
            const bool inside = y >= 0 && y < cv->in[0];
            const float *source = f->io->x + ((n * planes + c) * cv->in[0] + (inside ? y : 0)) * cv->in[1] * unit;
            copy_row(inside ? source : NULL, cv->in[1], cv->pad[1], unit, f->in_row / unit,
                     copy + (c * f->in_rows + i) * f->in_row);
        }
}

static void first_row(const struct first *f, struct conv_tile tile, const float *x, int64_t B, float *y,
                      const float *residual)
{
    const int64_t width = f->blocks_out > 1 ? TILE_WIDTH : TILE_WIDTH_SINGLE;
    const int64_t tiles = i64_ceil_div(f->cv->out[1], width);
    for (int64_t t = 0; t < tiles; t++) {
        const int64_t from = cut(f->cv->out[1], tiles, t), to = cut(f->cv->out[1], tiles, t + 1);
        tile.x = x + from * tile.step;
        tile.y = y + from * BLOCK;
        tile.residual = residual ? residual + from * BLOCK : NULL;
        f->kernels->first[B - 1][to - from - 1](&tile);
    }
}

static void first_task(void *arg, int64_t task, int lane)
{
    const struct first *f = arg;
    const struct conv_blocked *cv = f->cv;
    const struct conv_blocked_io *io = f->io;
    const int64_t n = task / f->chunks, from = task % f->chunks * f->rows, to = i64_min(from + f->rows, cv->out[0]);
    float *copy = (float *)(void *)((char *)io->scratch + f->table + lane * f->lane_bytes);
    copy_rows(f, n, from, copy);
    for (int64_t ob = 0; ob < f->blocks_out; ob += TILE_BLOCKS) {
        const int64_t B = i64_min(f->blocks_out - ob, TILE_BLOCKS), plane = cv->out[0] * cv->out[1] * BLOCK;
        const int64_t at = (n * f->blocks_out + ob) * plane;
        const struct conv_tile tile = {
            .offset = io->scratch, .taps = f->taps, .step = cv->stride[1] * (cv->channels_last ? cv->c_in : 1),
            .w = io->weight + ob * f->taps * BLOCK, .w_stride = f->taps * BLOCK, .y_stride = plane,
            .bias = io->bias ? io->bias + ob * BLOCK : NULL, .first = true, .last = true,
            .low = f->low, .high = f->high,
        };
        for (int64_t row = from; row < to; row++) {
            const int64_t place = at + row * cv->out[1] * BLOCK;
            first_row(f, tile, copy + (row - from) * cv->stride[0] * f->in_row, B, io->y + place,
                      io->residual ? io->residual + place : NULL);
        }
        for (int64_t b = 0; b < B && !conv_act_in_registers(&cv->act); b++) {
            float *y = io->y + at + b * plane + from * cv->out[1] * BLOCK;
            act_f32(&cv->act, y, (to - from) * cv->out[1] * BLOCK, y);
        }
    }
}

/* ---- depthwise ---- */
struct depthwise {
    const struct conv_blocked *cv;
    const struct conv_blocked_io *io;
    const struct conv_blocked_kernels *kernels;
    int64_t blocks, planes, rows; /* of a task: planes, or rows of one plane */
    int64_t chunks;
    float low, high;
};

static void plan_depthwise(struct depthwise *d, const struct conv_blocked *cv)
{
    d->cv = cv;
    d->blocks = blocked_count(cv->c_out);
    const int64_t row = i64_max(cv->out[1] * BLOCK * taps_of(cv), 1), plane = i64_max(row * cv->out[0], 1);
    d->rows = i64_max(i64_min(i64_ceil_div(TASK_MACS, row), cv->out[0]), 1);
    d->planes = i64_max(TASK_MACS / plane, 1);
    d->chunks = i64_ceil_div(cv->out[0], d->rows);
    conv_act_bounds(&cv->act, &d->low, &d->high);
}

static void depthwise_rows(const struct depthwise *d, int64_t plane, int64_t from, int64_t to)
{
    const struct conv_blocked *cv = d->cv;
    const struct conv_blocked_io *io = d->io;
    const int64_t block = plane % d->blocks, w_row = cv->kernel[1] * BLOCK;
    const float *x = io->x + plane * cv->in[0] * cv->in[1] * BLOCK, *w = io->weight + block * cv->kernel[0] * w_row;
    const float *x_rows[ROWS_OF_KERNEL], *w_rows[ROWS_OF_KERNEL];
    struct depthwise_row r = {
        .x = x_rows, .w = w_rows, .in_w = cv->in[1], .out_w = cv->out[1], .kw = cv->kernel[1],
        .stride = cv->stride[1], .dilation = cv->dilation[1], .pad = cv->pad[1],
        .bias = io->bias ? io->bias + block * BLOCK : NULL, .low = d->low, .high = d->high,
    };
    for (int64_t oy = from; oy < to; oy++) {
        const int64_t at = (plane * cv->out[0] + oy) * cv->out[1] * BLOCK;
        r.rows = 0;
        for (int64_t k = 0; k < cv->kernel[0]; k++) {
            const int64_t y = oy * cv->stride[0] - cv->pad[0] + k * cv->dilation[0];
            if (y < 0 || y >= cv->in[0])
                continue;
            x_rows[r.rows] = x + y * cv->in[1] * BLOCK;
            w_rows[r.rows++] = w + k * w_row;
        }
        r.y = io->y + at;
        r.residual = io->residual ? io->residual + at : NULL;
        d->kernels->depthwise_row(&r);
    }
    if (!conv_act_in_registers(&cv->act)) {
        float *y = io->y + (plane * cv->out[0] + from) * cv->out[1] * BLOCK;
        act_f32(&cv->act, y, (to - from) * cv->out[1] * BLOCK, y);
    }
}

static void depthwise_task(void *arg, int64_t task, int lane)
{
    const struct depthwise *d = arg;
    const int64_t all = d->cv->batch * d->blocks;
    (void)lane;
    if (d->chunks > 1) {
        const int64_t from = task % d->chunks * d->rows;
        depthwise_rows(d, task / d->chunks, from, i64_min(from + d->rows, d->cv->out[0]));
        return;
    }
    for (int64_t plane = task * d->planes; plane < i64_min((task + 1) * d->planes, all); plane++)
        depthwise_rows(d, plane, 0, d->cv->out[0]);
}

/* ---- all ---- */
bool conv_blocked_scratch(const struct conv_blocked *cv, int lanes, size_t *bytes)
{
    int64_t n = 0;
    if (is_winograd(cv))
        return winograd_scratch(cv, lanes, bytes);
    if (cv->algorithm == CONV_DIRECT) {
        struct direct d;
        plan_direct(&d, cv);
        if (!i64_mul(d.table, lanes, &n))
            return false;
    } else if (cv->algorithm == CONV_FIRST) {
        struct first f;
        plan_first(&f, cv);
        if (!i64_mul(f.lane_bytes, lanes, &n) || n > INT64_MAX - f.table)
            return false;
        n += f.table;
    }
    *bytes = (size_t)n;
    return true;
}

static void run_direct(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io)
{
    struct direct d = {.io = io, .kernels = conv_blocked_kernels()};
    plan_direct(&d, cv);
    pool_run(pool, cv->batch * cv->groups * d.chunks * d.parts, direct_task, &d);
}

static void run_first(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io)
{
    struct first f = {.io = io, .kernels = conv_blocked_kernels()};
    plan_first(&f, cv);
    fill_first_offsets(&f, io->scratch);
    pool_run(pool, cv->batch * f.chunks, first_task, &f);
}

static void run_depthwise(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io)
{
    struct depthwise d = {.io = io, .kernels = conv_blocked_kernels()};
    plan_depthwise(&d, cv);
    const int64_t planes = cv->batch * d.blocks;
    pool_run(pool, d.chunks > 1 ? planes * d.chunks : i64_ceil_div(planes, d.planes), depthwise_task, &d);
}

void conv_blocked_f32(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io)
{
    typedef void run_fn(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io);
    static run_fn *const run[CONV_ALGORITHMS] = {run_direct, run_first, run_depthwise, winograd_f32, winograd_f32};
    if (cv->batch > 0 && cv->out[0] > 0 && cv->out[1] > 0)
        run[cv->algorithm](pool, cv, io);
}
