/* SPDX-License-Identifier: Apache-2.0
 * depthwise_planes.c - see depthwise_planes.h. Along each axis a table says which (tap, place of the other plane) pairs
 * a place takes; so forward and data gradient are one loop with other tables, and no padding is ever multiplied. */
#include "core/kernels/depthwise_planes.h"

#include <string.h>

#include "core/base/size.h"
#include "core/kernels/simd.h"

enum {
    SIDE = 16,              /* images side by side */
    HALF = SIDE / 2,        /* floats of a vector */
    LEAST_IMAGES = 12,      /* below, most lanes would be idle */
    PLANES_BYTES = 1 << 18, /* of a lane's two planes of 16 images */
    LENGTH_MAX = 128,       /* of a plane's side */
    REACH_MAX = 7           /* taps along an axis */
};

/* Eight floats; the second reads and writes where nothing is aligned. */
typedef float vec __attribute__((vector_size(HALF * sizeof(float)), may_alias));
typedef float loose __attribute__((vector_size(HALF * sizeof(float)), may_alias, aligned(4)));

/* For each place along an axis: its pairs. tap and from are multiplied by what a step is worth. */
struct axis {
    int8_t count[LENGTH_MAX];
    int32_t tap[LENGTH_MAX][REACH_MAX], from[LENGTH_MAX][REACH_MAX];
};

struct tables {
    struct axis y, x;
    int64_t height, width; /* of the plane that is written, or summed over */
};

struct job {
    const struct conv *cv;
    struct tables t;
    const float *in, *other, *w, *bias; /* other: dy of the weight gradient */
    float *out, *scratch;
    int64_t in_cells, out_cells, sets; /* sets of 16 images */
    size_t lane;                       /* floats */
    bool add;
};

bool depthwise_planes_fits(const struct conv *cv)
{
    const struct window *w = &cv->w;
    if (w->rank != 2 || cv->groups != cv->c_in || cv->c_out != cv->c_in || cv->groups < 2 || cv->batch < LEAST_IMAGES)
        return false;
    for (int a = 0; a < 2; a++)
        if (w->in[a] < 1 || w->out[a] < 1 || w->in[a] > LENGTH_MAX || w->out[a] > LENGTH_MAX || w->kernel[a] < 1 ||
            w->kernel[a] > REACH_MAX)
            return false;
    return (w->in[0] * w->in[1] + w->out[0] * w->out[1]) * SIDE * (int64_t)sizeof(float) <= PLANES_BYTES;
}

static int64_t lane_floats(const struct conv *cv)
{
    return (window_count(cv->w.in, 2) + window_count(cv->w.out, 2)) * SIDE;
}

bool depthwise_planes_scratch(const struct conv *cv, int lanes, size_t *bytes)
{
    return size_mul((size_t)lane_floats(cv) * sizeof(float), (size_t)lanes, bytes);
}

/* Pairs (tap, input) of every output; or with `turned` pairs (tap, output) of every input. In the order of the taps. */
static void make_axis(struct axis *t, const struct window *w, int a, bool turned, int64_t tap_step, int64_t from_step)
{
    memset(t->count, 0, sizeof t->count);
    for (int64_t k = 0; k < w->kernel[a]; k++)
        for (int64_t o = 0; o < w->out[a]; o++) {
            const int64_t i = o * w->stride[a] + k * w->dilation[a] - w->pad[a];
            if (i < 0 || i >= w->in[a])
                continue;
            const int64_t at = turned ? i : o;
            t->tap[at][t->count[at]] = (int32_t)(k * tap_step);
            t->from[at][t->count[at]++] = (int32_t)((turned ? o : i) * from_step);
        }
}

static void job_make(struct job *job, const struct conv *cv, bool turned)
{
    const int64_t *from = turned ? cv->w.out : cv->w.in, *to = turned ? cv->w.in : cv->w.out;
    make_axis(&job->t.y, &cv->w, 0, turned, cv->w.kernel[1], from[1] * SIDE);
    make_axis(&job->t.x, &cv->w, 1, turned, 1, SIDE);
    job->cv = cv;
    job->t.height = to[0];
    job->t.width = to[1];
    job->in_cells = from[0] * from[1];
    job->out_cells = to[0] * to[1];
    job->sets = i64_ceil_div(cv->batch, SIDE);
    job->lane = (size_t)lane_floats(cv);
}

/* ---- laying planes side by side ---- */

#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define TRANSPOSE_8(r)                                                                                                 \
    do {                                                                                                               \
        vec t[8], u[8];                                                                                                \
        for (int i = 0; i < 4; i++) {                                                                                  \
            t[2 * i] = PICK((r)[2 * i], (r)[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);                                     \
            t[2 * i + 1] = PICK((r)[2 * i], (r)[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);                               \
        }                                                                                                              \
        for (int i = 0; i < 2; i++) {                                                                                  \
            u[4 * i] = PICK(t[4 * i], t[4 * i + 2], 0, 1, 8, 9, 4, 5, 12, 13);                                         \
            u[4 * i + 1] = PICK(t[4 * i], t[4 * i + 2], 2, 3, 10, 11, 6, 7, 14, 15);                                   \
            u[4 * i + 2] = PICK(t[4 * i + 1], t[4 * i + 3], 0, 1, 8, 9, 4, 5, 12, 13);                                 \
            u[4 * i + 3] = PICK(t[4 * i + 1], t[4 * i + 3], 2, 3, 10, 11, 6, 7, 14, 15);                               \
        }                                                                                                              \
        for (int i = 0; i < 4; i++) {                                                                                  \
            (r)[i] = PICK(u[i], u[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);                                                   \
            (r)[i + 4] = PICK(u[i], u[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);                                             \
        }                                                                                                              \
    } while (0)

/* side[cell][16] from `images` planes that lie `step` apart; missing ones are zeros. */
KERNEL_CLONES static void gather(float *restrict side, const float *restrict x, int64_t step, int64_t images,
                                 int64_t cells)
{
    for (int64_t half = 0; half < SIDE; half += HALF) {
        const int64_t there = images - half < HALF ? images - half : HALF;
        int64_t c = 0;
        for (; there == HALF && c + 8 <= cells; c += 8) {
            vec r[8];
            for (int i = 0; i < 8; i++)
                r[i] = *(const loose *)(x + (half + i) * step + c);
            TRANSPOSE_8(r);
            for (int i = 0; i < 8; i++)
                *(vec *)(side + (c + i) * SIDE + half) = r[i];
        }
        for (; c < cells; c++)
            for (int64_t i = 0; i < HALF; i++)
                side[c * SIDE + half + i] = i < there ? x[(half + i) * step + c] : 0;
    }
}

KERNEL_CLONES static void scatter(float *restrict y, const float *restrict side, int64_t step, int64_t images,
                                  int64_t cells, bool add)
{
    for (int64_t half = 0; half < images; half += HALF) {
        const int64_t there = images - half < HALF ? images - half : HALF;
        int64_t c = 0;
        for (; there == HALF && c + 8 <= cells; c += 8) {
            vec r[8];
            for (int i = 0; i < 8; i++)
                r[i] = *(const vec *)(side + (c + i) * SIDE + half);
            TRANSPOSE_8(r);
            for (int i = 0; i < 8; i++) {
                loose *to = (loose *)(y + (half + i) * step + c);
                if (add)
                    r[i] += *to;
                *to = r[i];
            }
        }
        for (; c < cells; c++)
            for (int64_t i = 0; i < there; i++) {
                float *to = y + (half + i) * step + c;
                *to = (add ? *to : 0) + side[c * SIDE + half + i];
            }
    }
}

/* ---- the sums ---- */

KERNEL_CLONES static void combine(const struct tables *t, const float *restrict in, const float *restrict w, float bias,
                                  float *restrict out)
{
    for (int64_t y = 0; y < t->height; y++)
        for (int64_t x = 0; x < t->width; x++) {
            vec a = bias - (vec){0}, b = a;
            for (int i = 0; i < t->y.count[y]; i++) {
                const float *row = in + t->y.from[y][i], *k = w + t->y.tap[y][i];
                for (int j = 0; j < t->x.count[x]; j++) {
                    const float *at = row + t->x.from[x][j], weight = k[t->x.tap[x][j]];
                    a += weight * *(const vec *)at;
                    b += weight * *(const vec *)(at + HALF);
                }
            }
            *(vec *)out = a;
            *(vec *)(out + HALF) = b;
            out += SIDE;
        }
}

/* sum[tap] += over the outputs of dy times what the tap sees there. */
KERNEL_CLONES static void products(const struct window *w, const float *restrict x, const float *restrict dy,
                                   double *restrict sum)
{
    const int64_t row = w->in[1] * SIDE, step = w->stride[1] * SIDE;
    for (int64_t k = 0; k < w->kernel[0] * w->kernel[1]; k++) {
        const int64_t ky = k / w->kernel[1], kx = k % w->kernel[1];
        int64_t top, bottom, left, right;
        vec a = {0}, b = {0}, c = {0}, d = {0};
        window_valid(w, 0, ky, &top, &bottom);
        window_valid(w, 1, kx, &left, &right);
        for (int64_t y = top; y < bottom; y++) {
            const int64_t iy = y * w->stride[0] + ky * w->dilation[0] - w->pad[0];
            const float *p = x + iy * row + (left * w->stride[1] + kx * w->dilation[1] - w->pad[1]) * SIDE;
            const float *q = dy + (y * w->out[1] + left) * SIDE;
            int64_t i = left;
            for (; i + 2 <= right; i += 2, p += 2 * step, q += 2 * SIDE) {
                a += *(const vec *)p * *(const vec *)q;
                b += *(const vec *)(p + HALF) * *(const vec *)(q + HALF);
                c += *(const vec *)(p + step) * *(const vec *)(q + SIDE);
                d += *(const vec *)(p + step + HALF) * *(const vec *)(q + SIDE + HALF);
            }
            if (i < right) {
                a += *(const vec *)p * *(const vec *)q;
                b += *(const vec *)(p + HALF) * *(const vec *)(q + HALF);
            }
        }
        a = (a + c) + (b + d);
        double total = 0;
        for (int l = 0; l < HALF; l++)
            total += (double)a[l];
        sum[k] += total;
    }
}

/* ---- the passes ---- */

static void combine_task(void *arg, int64_t task, int lane)
{
    const struct job *job = arg;
    const struct conv *cv = job->cv;
    const int64_t channel = task / job->sets, first = task % job->sets * SIDE;
    const int64_t images = i64_min(SIDE, cv->batch - first), taps = window_count(cv->w.kernel, 2);
    float *in = job->scratch + (size_t)lane * job->lane, *out = in + job->in_cells * SIDE;
    gather(in, job->in + (first * cv->c_in + channel) * job->in_cells, cv->c_in * job->in_cells, images, job->in_cells);
    combine(&job->t, in, job->w + channel * taps, job->bias ? job->bias[channel] : 0, out);
    scatter(job->out + (first * cv->c_in + channel) * job->out_cells, out, cv->c_in * job->out_cells, images,
            job->out_cells, job->add);
}

void depthwise_planes_forward(struct pool *pool, const struct conv *cv, const float *x, const float *w,
                              const float *bias, float *y, void *scratch)
{
    struct job job = {.in = x, .w = w, .bias = bias, .out = y, .scratch = scratch};
    job_make(&job, cv, false);
    pool_run(pool, cv->c_in * job.sets, combine_task, &job);
}

void depthwise_planes_data(struct pool *pool, const struct conv *cv, const float *dy, const float *w, float *dx,
                           bool add, void *scratch)
{
    struct job job = {.in = dy, .w = w, .out = dx, .scratch = scratch, .add = add};
    job_make(&job, cv, true);
    pool_run(pool, cv->c_in * job.sets, combine_task, &job);
}

static void weight_task(void *arg, int64_t channel, int lane)
{
    const struct job *job = arg;
    const struct conv *cv = job->cv;
    const int64_t taps = window_count(cv->w.kernel, 2);
    float *x = job->scratch + (size_t)lane * job->lane, *dy = x + job->in_cells * SIDE, *dw = job->out + channel * taps;
    double sum[REACH_MAX * REACH_MAX] = {0};
    for (int64_t first = 0; first < cv->batch; first += SIDE) {
        const int64_t images = i64_min(SIDE, cv->batch - first), at = first * cv->c_in + channel;
        gather(x, job->in + at * job->in_cells, cv->c_in * job->in_cells, images, job->in_cells);
        gather(dy, job->other + at * job->out_cells, cv->c_in * job->out_cells, images, job->out_cells);
        products(&cv->w, x, dy, sum);
    }
    for (int64_t k = 0; k < taps; k++)
        dw[k] = (float)sum[k] + (job->add ? dw[k] : 0);
}

void depthwise_planes_weight(struct pool *pool, const struct conv *cv, const float *x, const float *dy, float *dw,
                             bool add, void *scratch)
{
    struct job job = {.in = x, .other = dy, .out = dw, .scratch = scratch, .add = add};
    job_make(&job, cv, false);
    pool_run(pool, cv->c_in, weight_task, &job);
}
