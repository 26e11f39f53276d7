/* SPDX-License-Identifier: Apache-2.0
 * Winograd's minimal filtering over the blocked layout: y = A' [sum over c of (G w G') * (B' x B)] A. The middle is
 * (m + 2)^2 matrix products, which are 1x1 convolutions over "images" of tiles and run by the same kernels.
 * Order      Tiles go in groups whose transformed input stays in the nearer caches. Of a group, first all input blocks
 *            are transformed (a task: one block of some tiles), then a task takes two output blocks of some tiles
 *            through all products and back, so that a transformed weight is read once a group and thread.
 * Accuracy   Weights are transformed in double. The error against a sum in double, relative to the largest output, is
 *            below 2e-6 for m = 2 and 2e-5 for m = 4 with 512 input channels of either sign (test_conv_blocked.c
 *            measures it), a fifth of what is allowed to the whole engine. */
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/conv_blocked_kernels.h"

enum {
    SIDE = 6,               /* most of m + 2 */
    INPUT_FLOATS = 1 << 18, /* transformed input of a group of tiles: 1 MiB */
    LEAST_TILES = 24,
    PRODUCT_TILES = 48,     /* of a task of products */
    TRANSFORM_TILES = 64,   /* of a task of the input */
};

static const double g4[6][3] = {{1.0 / 4, 0, 0},
                                {-1.0 / 6, -1.0 / 6, -1.0 / 6},
                                {-1.0 / 6, 1.0 / 6, -1.0 / 6},
                                {1.0 / 24, 1.0 / 12, 1.0 / 6},
                                {1.0 / 24, -1.0 / 12, 1.0 / 6},
                                {0, 0, 1}};
static const double g2[4][3] = {{1, 0, 0}, {0.5, 0.5, 0.5}, {0.5, -0.5, 0.5}, {0, 0, 1}};

static int side_of(const struct conv_blocked *cv)
{
    return cv->algorithm == CONV_WINOGRAD4 ? 6 : 4;
}

int64_t winograd_weights(const struct conv_blocked *cv)
{
    int64_t n;
    return i64_mul(blocked_count(cv->c_in) * BLOCK, blocked_count(cv->c_out) * BLOCK, &n) &&
                   i64_mul(n, side_of(cv) * side_of(cv), &n) && n <= INT64_MAX / 64
               ? n
               : -1;
}

/* u = G w G' */
static void transform_weight(int side, const float *w, double *u)
{
    const double(*g)[3] = side == 6 ? g4 : g2;
    double half[SIDE][3];
    for (int i = 0; i < side; i++)
        for (int j = 0; j < 3; j++)
            half[i][j] = g[i][0] * w[j] + g[i][1] * w[3 + j] + g[i][2] * w[6 + j];
    for (int i = 0; i < side; i++)
        for (int j = 0; j < side; j++)
            u[i * side + j] = half[i][0] * g[j][0] + half[i][1] * g[j][1] + half[i][2] * g[j][2];
}

/* [output block][product][input block][8 in][8 out] */
void winograd_pack(const struct conv_blocked *cv, const float *weight, float *packed)
{
    const int side = side_of(cv), products = side * side;
    const int64_t in = blocked_count(cv->c_in);
    double u[SIDE * SIDE];
    memset(packed, 0, (size_t)winograd_weights(cv) * sizeof *packed);
    for (int64_t m = 0; m < cv->c_out; m++)
        for (int64_t c = 0; c < cv->c_in; c++) {
            transform_weight(side, weight + (m * cv->c_in + c) * 9, u);
            for (int k = 0; k < products; k++)
                packed[(((m / BLOCK * products + k) * in + c / BLOCK) * BLOCK + c % BLOCK) * BLOCK + m % BLOCK] =
                    (float)u[k];
        }
}

struct winograd {
    const struct conv_blocked *cv;
    const struct conv_blocked_io *io;
    const struct conv_blocked_kernels *kernels;
    int64_t in, out; /* blocks */
    int side, products;
    int64_t tiles, across, group, n_groups; /* tiles: of an image, in a row, of a group at most */
    int64_t lane_floats;
    float low, high;
    /* of the group at work */
    int64_t image, from, count;
    int64_t input_parts, product_parts;
    float *v; /* [product][input block][count][8] */
};

static void plan_winograd(struct winograd *w, const struct conv_blocked *cv)
{
    const int m = side_of(cv) - 2;
    w->cv = cv;
    w->in = blocked_count(cv->c_in);
    w->out = blocked_count(cv->c_out);
    w->side = m + 2;
    w->products = w->side * w->side;
    w->across = i64_ceil_div(cv->out[1], m);
    w->tiles = w->across * i64_ceil_div(cv->out[0], m);
    const int64_t most = i64_max(INPUT_FLOATS / (w->products * w->in * BLOCK), LEAST_TILES);
    w->n_groups = i64_ceil_div(w->tiles, most);
    w->group = w->n_groups ? i64_ceil_div(w->tiles, w->n_groups) : 0;
    w->lane_floats = (int64_t)w->products * TILE_BLOCKS * PRODUCT_TILES * BLOCK;
    conv_act_bounds(&cv->act, &w->low, &w->high);
}

static struct winograd_tiles tiles_of(const struct winograd *w, int64_t from, int64_t count)
{
    const struct conv_blocked *cv = w->cv;
    return (struct winograd_tiles){.m = w->side - 2, .in_h = cv->in[0], .in_w = cv->in[1], .out_h = cv->out[0],
                                   .out_w = cv->out[1], .pad_h = cv->pad[0], .pad_w = cv->pad[1],
                                   .across = w->across, .from = w->from + from, .count = count};
}

static void input_task(void *arg, int64_t task, int lane)
{
    const struct winograd *w = arg;
    const int64_t block = task / w->input_parts, part = task % w->input_parts;
    const int64_t from = cut(w->count, w->input_parts, part), to = cut(w->count, w->input_parts, part + 1);
    const struct winograd_tiles g = tiles_of(w, from, to - from);
    (void)lane;
    w->kernels->winograd_input(&g, w->io->x + (w->image * w->in + block) * w->cv->in[0] * w->cv->in[1] * BLOCK,
                               w->v + (block * w->count + from) * BLOCK, w->in * w->count * BLOCK);
}

/* Product k of tiles [from, to) for B output blocks, into p [B][to - from][8]. */
static void multiply(const struct winograd *w, int64_t block, int64_t B, int k, int64_t from, int64_t to, float *p,
                     int64_t p_stride)
{
    const int64_t width = B > 1 ? TILE_WIDTH : TILE_WIDTH_SINGLE, n = to - from, pieces = i64_ceil_div(n, width);
    struct conv_tile tile = {
        .x_stride = w->count * BLOCK, .n_blocks = w->in,
        .w = w->io->weight + (block * w->products + k) * w->in * BLOCK * BLOCK,
        .w_stride = w->products * w->in * BLOCK * BLOCK, .y_stride = p_stride, .first = true,
    };
    for (int64_t i = 0; i < pieces; i++) {
        const int64_t first = cut(n, pieces, i), end = cut(n, pieces, i + 1);
        tile.x = w->v + (k * w->in * w->count + from + first) * BLOCK;
        tile.y = p + first * BLOCK;
        w->kernels->pointwise[B - 1][end - first - 1](&tile);
    }
}

static void product_task(void *arg, int64_t task, int lane)
{
    const struct winograd *w = arg;
    const int64_t part = task % w->product_parts, block = task / w->product_parts * TILE_BLOCKS;
    const int64_t from = cut(w->count, w->product_parts, part), to = cut(w->count, w->product_parts, part + 1);
    const int64_t B = i64_min(w->out - block, TILE_BLOCKS), n = to - from, plane = w->cv->out[0] * w->cv->out[1];
    float *p = (float *)w->io->scratch + lane * w->lane_floats;
    const struct winograd_tiles g = tiles_of(w, from, n);
    for (int k = 0; k < w->products; k++)
        multiply(w, block, B, k, from, to, p + k * B * n * BLOCK, n * BLOCK);
    for (int64_t b = 0; b < B; b++) {
        const int64_t at = (w->image * w->out + block + b) * plane * BLOCK;
        w->kernels->winograd_output(&g, p + b * n * BLOCK, B * n * BLOCK,
                                    w->io->bias ? w->io->bias + (block + b) * BLOCK : NULL,
                                    w->io->residual ? w->io->residual + at : NULL, w->low, w->high, w->io->y + at);
    }
}

bool winograd_scratch(const struct conv_blocked *cv, int lanes, size_t *bytes)
{
    struct winograd w;
    int64_t n, all;
    plan_winograd(&w, cv);
    if (!i64_mul(w.group, (int64_t)w.products * BLOCK, &n) || !i64_mul(n, w.in, &n) ||
        !i64_mul(w.lane_floats, lanes, &all) || n > INT64_MAX / 8 - all)
        return false;
    *bytes = (size_t)(n + all) * sizeof(float);
    return true;
}

/* What the kernels cannot do in registers, for one plane. */
static void activation_task(void *arg, int64_t task, int lane)
{
    const struct winograd *w = arg;
    const int64_t n = w->cv->out[0] * w->cv->out[1] * BLOCK;
    (void)lane;
    act_f32(&w->cv->act, w->io->y + task * n, n, w->io->y + task * n);
}

void winograd_f32(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io)
{
    struct winograd w = {.io = io, .kernels = conv_blocked_kernels()};
    plan_winograd(&w, cv);
    w.v = (float *)io->scratch + w.lane_floats * pool_threads(pool);
    for (int64_t i = 0; i < cv->batch * w.n_groups; i++) {
        w.image = i / w.n_groups;
        w.from = cut(w.tiles, w.n_groups, i % w.n_groups);
        w.count = cut(w.tiles, w.n_groups, i % w.n_groups + 1) - w.from;
        w.input_parts = i64_ceil_div(w.count, TRANSFORM_TILES);
        w.product_parts = i64_ceil_div(w.count, PRODUCT_TILES);
        pool_run(pool, w.in * w.input_parts, input_task, &w);
        pool_run(pool, i64_ceil_div(w.out, TILE_BLOCKS) * w.product_parts, product_task, &w);
    }
    if (!conv_act_in_registers(&cv->act))
        pool_run(pool, cv->batch * w.out, activation_task, &w);
}
