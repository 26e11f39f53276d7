/* SPDX-License-Identifier: Apache-2.0
 * Winograd's minimal filtering over the blocked layout: y = A' [sum over c of (G w G') * (B' x B)] A. In the middle
 * are (m + 2)^2 matrix products: 1x1 convolutions over "images" of tiles, run by the same kernels.
 * Order      Tiles go in groups whose transformed input stays in the nearer caches. Of a group, first all input blocks
 *            are transformed, then two output blocks of some tiles at a time go through all products and back. With
 *            many groups (large images, batches) a group is a task; with few, the steps of a group are the tasks.
 * Accuracy   Weights are transformed in double. The error against a sum in double, relative to the largest output,
 *            grows with the square root of the input channels: 2e-6 with 16 and 1.2e-5 with 512 for m = 4, a fifteenth of
 *            that for m = 2 (test_conv_blocked.c measures it, for inputs of several kinds). So m = 4 is taken up to
 *            WINOGRAD4_CHANNELS, where it is a sixth of the 1e-4 allowed to the whole engine, and m = 2 above. */
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/conv_blocked_kernels.h"

enum {
    SIDE = 6,               /* most of m + 2 */
    INPUT_FLOATS = 1 << 18, /* transformed input of a group of tiles: 1 MiB */
    LEAST_TILES = 24,
    PRODUCT_TILES = 48,     /* of a task of products */
    TRANSFORM_TILES = 64,   /* of a task of the input */
    GROUP_TASKS = 8,        /* so many groups keep all lanes busy by themselves */
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
    int64_t tiles, across, most, n_groups; /* tiles: of an image, in a row, of a group at most; groups of an image */
    int64_t v_floats, p_floats;            /* scratch of a group, of a task's products */
    bool group_is_task;
    float low, high;
};

/* Some tiles of one image. */
struct group {
    const struct winograd *w;
    int64_t image, from, count;
    int64_t input_parts, product_parts;
    float *v; /* [product][input block][count][8] */
    float *p; /* of lane 0, p_floats apart */
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
    w->most = w->n_groups ? i64_ceil_div(w->tiles, w->n_groups) : 0;
    w->v_floats = w->most * w->products * w->in * BLOCK;
    w->p_floats = (int64_t)w->products * TILE_BLOCKS * PRODUCT_TILES * BLOCK;
    w->group_is_task = cv->batch * w->n_groups >= GROUP_TASKS;
    conv_act_bounds(&cv->act, &w->low, &w->high);
}

static struct group group_of(const struct winograd *w, int64_t i, int lane)
{
    const int64_t k = i % w->n_groups, from = cut(w->tiles, w->n_groups, k);
    struct group g = {.w = w, .image = i / w->n_groups, .from = from,
                      .count = cut(w->tiles, w->n_groups, k + 1) - from};
    g.input_parts = i64_ceil_div(g.count, TRANSFORM_TILES);
    g.product_parts = i64_ceil_div(g.count, PRODUCT_TILES);
    g.v = (float *)w->io->scratch + lane * (w->v_floats + w->p_floats);
    g.p = g.v + w->v_floats;
    return g;
}

static struct winograd_tiles tiles_of(const struct group *g, int64_t from, int64_t count)
{
    const struct conv_blocked *cv = g->w->cv;
    return (struct winograd_tiles){.m = g->w->side - 2, .in_h = cv->in[0], .in_w = cv->in[1], .out_h = cv->out[0],
                                   .out_w = cv->out[1], .pad_h = cv->pad[0], .pad_w = cv->pad[1],
                                   .across = g->w->across, .from = g->from + from, .count = count};
}

static void input_task(void *arg, int64_t task, int lane)
{
    const struct group *g = arg;
    const struct winograd *w = g->w;
    const int64_t block = task / g->input_parts, part = task % g->input_parts;
    const int64_t from = cut(g->count, g->input_parts, part), to = cut(g->count, g->input_parts, part + 1);
    const struct winograd_tiles tiles = tiles_of(g, from, to - from);
    (void)lane;
    w->kernels->winograd_input(&tiles, w->io->x + (g->image * w->in + block) * w->cv->in[0] * w->cv->in[1] * BLOCK,
                               g->v + (block * g->count + from) * BLOCK, w->in * g->count * BLOCK);
}

/* Product k of tiles [from, to) for B output blocks, into p [B][to - from][8]. */
static void multiply(const struct group *g, int64_t block, int64_t B, int k, int64_t from, int64_t to, float *p)
{
    const struct winograd *w = g->w;
    const int64_t width = B > 1 ? TILE_WIDTH : TILE_WIDTH_SINGLE, n = to - from, pieces = i64_ceil_div(n, width);
    struct conv_tile tile = {
        .x_stride = g->count * BLOCK, .n_blocks = w->in,
        .w = w->io->weight + (block * w->products + k) * w->in * BLOCK * BLOCK,
        .w_stride = w->products * w->in * BLOCK * BLOCK, .y_stride = n * BLOCK, .first = true,
    };
    for (int64_t i = 0; i < pieces; i++) {
        const int64_t first = cut(n, pieces, i), end = cut(n, pieces, i + 1);
        tile.x = g->v + (k * w->in * g->count + from + first) * BLOCK;
        tile.y = p + first * BLOCK;
        w->kernels->pointwise[B - 1][end - first - 1](&tile);
    }
}

static void product_task(void *arg, int64_t task, int lane)
{
    const struct group *g = arg;
    const struct winograd *w = g->w;
    const int64_t part = task % g->product_parts, block = task / g->product_parts * TILE_BLOCKS;
    const int64_t from = cut(g->count, g->product_parts, part), to = cut(g->count, g->product_parts, part + 1);
    const int64_t B = i64_min(w->out - block, TILE_BLOCKS), n = to - from, plane = w->cv->out[0] * w->cv->out[1];
    float *p = g->p + lane * w->p_floats;
    const struct winograd_tiles tiles = tiles_of(g, from, n);
    for (int k = 0; k < w->products; k++)
        multiply(g, block, B, k, from, to, p + k * B * n * BLOCK);
    for (int64_t b = 0; b < B; b++) {
        const int64_t at = (g->image * w->out + block + b) * plane * BLOCK;
        w->kernels->winograd_output(&tiles, p + b * n * BLOCK, B * n * BLOCK,
                                    w->io->bias ? w->io->bias + (block + b) * BLOCK : NULL,
                                    w->io->residual ? w->io->residual + at : NULL, w->low, w->high, w->io->y + at);
    }
}

static int64_t input_tasks(const struct group *g)
{
    return g->w->in * g->input_parts;
}

static int64_t product_tasks(const struct group *g)
{
    return i64_ceil_div(g->w->out, TILE_BLOCKS) * g->product_parts;
}

static void group_task(void *arg, int64_t task, int lane)
{
    struct group g = group_of(arg, task, lane);
    for (int64_t i = 0; i < input_tasks(&g); i++)
        input_task(&g, i, 0);
    for (int64_t i = 0; i < product_tasks(&g); i++)
        product_task(&g, i, 0);
}

/* What the kernels cannot do in registers, for one plane. */
static void activation_task(void *arg, int64_t task, int lane)
{
    const struct winograd *w = arg;
    const int64_t n = w->cv->out[0] * w->cv->out[1] * BLOCK;
    (void)lane;
    act_f32(&w->cv->act, w->io->y + task * n, n, w->io->y + task * n);
}

/* A group a lane, or one group and products for every lane. */
bool winograd_scratch(const struct conv_blocked *cv, int lanes, size_t *bytes)
{
    struct winograd w;
    int64_t v, all;
    plan_winograd(&w, cv);
    if (!i64_mul(w.most, (int64_t)w.products * BLOCK, &v) || !i64_mul(v, w.in, &v) || v > INT64_MAX / 8 - w.p_floats ||
        !i64_mul(v + w.p_floats, lanes, &all) || all > INT64_MAX / 8)
        return false;
    *bytes = (size_t)(w.group_is_task ? all : v + w.p_floats * lanes) * sizeof(float);
    return true;
}

void winograd_f32(struct pool *pool, const struct conv_blocked *cv, const struct conv_blocked_io *io)
{
    struct winograd w = {.io = io, .kernels = conv_blocked_kernels()};
    plan_winograd(&w, cv);
    const int64_t groups = cv->batch * w.n_groups;
    if (w.group_is_task)
        pool_run(pool, groups, group_task, &w);
    for (int64_t i = 0; i < groups && !w.group_is_task; i++) {
        struct group g = group_of(&w, i, 0);
        pool_run(pool, input_tasks(&g), input_task, &g);
        pool_run(pool, product_tasks(&g), product_task, &g);
    }
    if (!conv_act_in_registers(&cv->act))
        pool_run(pool, cv->batch * w.out, activation_task, &w);
}
