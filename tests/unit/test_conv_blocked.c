/* SPDX-License-Identifier: Apache-2.0
 * Blocked convolutions against the loops of the definition: every algorithm over a table of shapes, on every
 * instruction set of this machine, the same bits on one, two and three threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/kernels/conv.h"
#include "core/kernels/conv_blocked.h"
#include "core/kernels/isa.h"

enum { DIRECT = 1 << CONV_DIRECT, FIRST = 1 << CONV_FIRST, DEPTH = 1 << CONV_DEPTHWISE,
       WINO = 1 << CONV_WINOGRAD2 | 1 << CONV_WINOGRAD4 };

struct row {
    const char *name;
    unsigned algorithms;
    int64_t batch, c_in, c_out, groups;
    int64_t in[2], kernel[2], stride[2], dilation[2], pad[2], pad_end[2];
};

static const struct row table[] = {
    {"pointwise", DIRECT, 2, 16, 24, 1, {9, 11}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise, odd channels", DIRECT, 1, 13, 9, 1, {5, 3}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise, one position", DIRECT, 1, 40, 33, 1, {1, 1}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise, one output channel", DIRECT, 1, 17, 1, 1, {7, 9}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise, many channels", DIRECT, 1, 600, 40, 1, {6, 5}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise, stride 2", DIRECT, 2, 24, 16, 1, {8, 7}, {1, 1}, {2, 2}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise, padded", DIRECT, 1, 8, 8, 1, {4, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 2}, {2, 0}},
    {"pointwise, large", DIRECT, 1, 32, 40, 1, {40, 41}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"3x3", DIRECT | WINO, 2, 16, 16, 1, {9, 11}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3, odd channels", DIRECT | WINO, 1, 11, 5, 1, {8, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3, channels 8 to 40", DIRECT | WINO, 1, 8, 40, 1, {13, 10}, {3, 3}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"3x3, one-sided pads", DIRECT | WINO, 1, 16, 24, 1, {7, 9}, {3, 3}, {1, 1}, {1, 1}, {0, 2}, {1, 0}},
    {"3x3, wide pads", DIRECT | WINO, 1, 8, 8, 1, {3, 4}, {3, 3}, {1, 1}, {1, 1}, {4, 3}, {3, 5}},
    {"3x3, one position", DIRECT | WINO, 1, 24, 16, 1, {1, 1}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3, larger", DIRECT | WINO, 1, 24, 20, 1, {41, 27}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3, deep", DIRECT | WINO, 1, 200, 16, 1, {7, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3, several groups of tiles", WINO, 1, 64, 8, 1, {40, 45}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3, a batch", WINO, 9, 16, 24, 1, {7, 9}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3, stride 2", DIRECT, 2, 16, 17, 1, {10, 9}, {3, 3}, {2, 2}, {1, 1}, {0, 0}, {1, 1}},
    {"3x3, strides 2 and 1", DIRECT, 1, 9, 8, 1, {10, 9}, {3, 3}, {2, 1}, {1, 1}, {1, 0}, {0, 1}},
    {"3x3, dilated", DIRECT, 1, 16, 16, 1, {15, 12}, {3, 3}, {1, 1}, {2, 3}, {2, 3}, {2, 3}},
    {"2x5", DIRECT, 1, 12, 20, 1, {9, 9}, {2, 5}, {1, 1}, {1, 1}, {0, 2}, {1, 2}},
    {"7x7", DIRECT, 1, 9, 10, 1, {12, 13}, {7, 7}, {2, 2}, {1, 1}, {3, 3}, {3, 3}},
    {"1x9, image of one row", DIRECT, 2, 10, 12, 1, {1, 50}, {1, 9}, {1, 1}, {1, 1}, {0, 4}, {0, 4}},
    {"kernel wider than the image", DIRECT, 1, 8, 16, 1, {3, 2}, {5, 7}, {1, 1}, {1, 1}, {2, 3}, {2, 3}},
    {"groups", DIRECT, 2, 32, 48, 2, {7, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"groups of one block", DIRECT, 1, 24, 24, 3, {9, 8}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
    {"groups, pointwise", DIRECT, 1, 32, 64, 4, {5, 9}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"first 3x3 stride 2", FIRST | DIRECT, 1, 3, 32, 1, {21, 25}, {3, 3}, {2, 2}, {1, 1}, {1, 1}, {1, 1}},
    {"first 7x7 stride 2", FIRST | DIRECT, 2, 3, 24, 1, {33, 30}, {7, 7}, {2, 2}, {1, 1}, {3, 3}, {3, 3}},
    {"first 5x5, one channel", FIRST | DIRECT, 1, 1, 20, 1, {14, 15}, {5, 5}, {1, 1}, {1, 1}, {2, 2}, {2, 2}},
    {"first, 4 channels, one-sided pads", FIRST | DIRECT, 1, 4, 8, 1, {10, 9}, {3, 3}, {2, 2}, {1, 1}, {0, 0}, {1, 1}},
    {"first, dilated", FIRST | DIRECT, 1, 2, 5, 1, {12, 13}, {3, 2}, {1, 3}, {2, 3}, {2, 1}, {0, 4}},
    {"first, several tasks", FIRST | DIRECT, 2, 3, 24, 1, {70, 66}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"first, pads beyond the image", FIRST | DIRECT, 1, 3, 8, 1, {2, 2}, {3, 3}, {1, 1}, {1, 1}, {4, 5}, {5, 4}},
    {"depthwise 3x3", DEPTH, 2, 20, 20, 20, {12, 17}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"depthwise 3x3 stride 2", DEPTH, 2, 16, 16, 16, {12, 17}, {3, 3}, {2, 2}, {1, 1}, {0, 1}, {1, 1}},
    {"depthwise 3x3 stride 2, one-sided", DEPTH, 1, 8, 8, 8, {13, 12}, {3, 3}, {2, 2}, {1, 1}, {0, 0}, {1, 1}},
    {"depthwise 3x3, one column", DEPTH, 1, 8, 8, 8, {5, 1}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"depthwise 5x5", DEPTH, 1, 24, 24, 24, {9, 19}, {5, 5}, {1, 1}, {1, 1}, {2, 2}, {2, 2}},
    {"depthwise 5x5 stride 2", DEPTH, 1, 24, 24, 24, {9, 19}, {5, 5}, {2, 2}, {1, 1}, {2, 1}, {2, 2}},
    {"depthwise 7x7", DEPTH, 1, 9, 9, 9, {14, 15}, {7, 7}, {1, 1}, {1, 1}, {3, 3}, {3, 3}},
    {"depthwise dilated", DEPTH, 1, 16, 16, 16, {11, 10}, {3, 3}, {1, 2}, {2, 2}, {2, 2}, {2, 2}},
    {"depthwise 1x1", DEPTH, 1, 16, 16, 16, {11, 10}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"depthwise, rows in parts", DEPTH, 1, 8, 8, 8, {120, 90}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"depthwise, pads beyond the image", DEPTH, 1, 8, 8, 8, {2, 2}, {3, 3}, {1, 1}, {1, 1}, {4, 5}, {5, 4}},
};

/* Everything of one case. */
struct problem {
    struct conv cv;
    struct conv_blocked blocked;
    int64_t n_x, n_w, n_y, n_y_blocked;
    float *x, *x_last, *x_blocked, *w, *bias, *residual, *residual_blocked, *y, *y_blocked, *y_plain, *packed;
};

static void fill(struct rng *rng, float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        v[i] = (float)(rng_uniform(rng) * 4 - 2);
}

static float *floats(int64_t n)
{
    void *p = aligned_alloc(64, ((size_t)n * sizeof(float) + 127) / 64 * 64);
    assert_non_null(p);
    memset(p, 0, ((size_t)n * sizeof(float) + 127) / 64 * 64);
    return p;
}

static void make_geometry(const struct row *r, struct problem *p)
{
    p->cv = (struct conv){.w.rank = 2, .batch = r->batch, .groups = r->groups, .c_in = r->c_in, .c_out = r->c_out};
    p->blocked = (struct conv_blocked){.batch = r->batch, .c_in = r->c_in, .c_out = r->c_out, .groups = r->groups};
    for (int a = 0; a < 2; a++) {
        p->cv.w.in[a] = p->blocked.in[a] = r->in[a];
        p->cv.w.kernel[a] = p->blocked.kernel[a] = r->kernel[a];
        p->cv.w.stride[a] = p->blocked.stride[a] = r->stride[a];
        p->cv.w.dilation[a] = p->blocked.dilation[a] = r->dilation[a];
        p->cv.w.pad[a] = p->blocked.pad[a] = r->pad[a];
        p->cv.w.pad_end[a] = r->pad_end[a];
        p->cv.w.out[a] = p->blocked.out[a] =
            (r->in[a] + r->pad[a] + r->pad_end[a] - (r->kernel[a] - 1) * r->dilation[a] - 1) / r->stride[a] + 1;
    }
}

static void make(const struct row *r, struct problem *p)
{
    struct rng rng;
    rng_init(&rng, 7, 0);
    p->packed = NULL;
    make_geometry(r, p);
    const int64_t in = r->in[0] * r->in[1], out = p->blocked.out[0] * p->blocked.out[1];
    p->n_x = r->batch * r->c_in * in;
    p->n_y = r->batch * r->c_out * out;
    p->n_y_blocked = r->batch * blocked_count(r->c_out) * BLOCK * out;
    p->n_w = r->c_out * (r->c_in / r->groups) * r->kernel[0] * r->kernel[1];
    p->x = floats(p->n_x);
    p->x_last = floats(p->n_x);
    p->x_blocked = floats(r->batch * blocked_count(r->c_in) * BLOCK * in);
    p->w = floats(p->n_w);
    p->bias = floats(blocked_count(r->c_out) * BLOCK);
    p->residual = floats(p->n_y);
    p->residual_blocked = floats(p->n_y_blocked);
    p->y = floats(p->n_y);
    p->y_plain = floats(p->n_y);
    p->y_blocked = floats(p->n_y_blocked);
    fill(&rng, p->x, p->n_x);
    fill(&rng, p->w, p->n_w);
    fill(&rng, p->bias, r->c_out);
    fill(&rng, p->residual, p->n_y);
    to_blocked(NULL, 4, r->batch, r->c_in, in, p->x, p->x_blocked);
    to_blocked(NULL, 4, r->batch, r->c_out, out, p->residual, p->residual_blocked);
    for (int64_t n = 0; n < r->batch; n++)
        for (int64_t c = 0; c < r->c_in; c++)
            for (int64_t i = 0; i < in; i++)
                p->x_last[(n * in + i) * r->c_in + c] = p->x[(n * r->c_in + c) * in + i];
}

static void drop(struct problem *p)
{
    float *all[] = {p->x, p->x_last, p->x_blocked, p->w, p->bias, p->residual, p->residual_blocked, p->y, p->y_blocked,
                    p->y_plain, p->packed};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
}

static void pack(struct problem *p)
{
    const int64_t n = conv_blocked_weights(&p->blocked);
    assert_true(n > 0);
    free(p->packed);
    p->packed = floats(n);
    conv_blocked_pack(&p->blocked, p->w, p->packed);
}

static void run(struct problem *p, struct pool *pool, bool residual, bool in_place)
{
    struct conv_blocked *cv = &p->blocked;
    size_t bytes;
    assert_true(conv_blocked_scratch(cv, pool_threads(pool), &bytes));
    float *scratch = floats((int64_t)(bytes / sizeof(float)));
    memset(scratch, 0x5a, bytes);
    if (in_place)
        memcpy(p->y_blocked, p->residual_blocked, (size_t)p->n_y_blocked * sizeof(float));
    const float *x = cv->algorithm != CONV_FIRST ? p->x_blocked : cv->channels_last ? p->x_last : p->x;
    const struct conv_blocked_io io = {
        x, p->packed, p->bias, !residual ? NULL : in_place ? p->y_blocked : p->residual_blocked, p->y_blocked, scratch};
    conv_blocked_f32(pool, cv, &io);
    from_blocked(NULL, 4, cv->batch, cv->c_out, cv->out[0] * cv->out[1], p->y_blocked, p->y_plain);
    free(scratch);
}

static double apply(const struct act *act, double v)
{
    switch (act->kind) {
    case ACT_RELU:
        return v > 0 ? v : 0;
    case ACT_CLIP:
        return v < (double)act->a ? (double)act->a : v > (double)act->b ? (double)act->b : v;
    case ACT_LEAKY_RELU:
        return v > 0 ? v : (double)act->a * v;
    case ACT_SIGMOID:
        return 1 / (1 + exp(-v));
    default:
        return v;
    }
}

/* Largest error relative to the largest output before its activation. */
static double error_of(const struct problem *p, bool residual)
{
    double worst = 0, largest = 1e-30;
    for (int64_t i = 0; i < p->n_y; i++) {
        const double sum = (double)p->y[i] + (residual ? (double)p->residual[i] : 0);
        worst = fmax(worst, fabs(apply(&p->blocked.act, sum) - (double)p->y_plain[i]));
        largest = fmax(largest, fabs(sum));
        assert_true(isfinite(p->y_plain[i]));
    }
    return worst / largest;
}

/* Ends of a convolution: activation; no residual (0), one (1), one in the bytes of the result (2). */
static const struct {
    struct act act;
    int residual;
} ends[] = {{{ACT_NONE, 0, 0}, 0}, {{ACT_NONE, 0, 0}, 2},          {{ACT_RELU, 0, 0}, 1},
            {{ACT_CLIP, -1, 3}, 2}, {{ACT_LEAKY_RELU, 0.1f, 0}, 1}, {{ACT_SIGMOID, 0, 0}, 0}};

static void check(struct problem *p, const char *name)
{
    struct pool *pools[2] = {pool_new(2), pool_new(3)};
    float *once = floats(p->n_y_blocked);
    pack(p);
    for (size_t e = 0; e < sizeof ends / sizeof ends[0]; e++) {
        const bool residual = ends[e].residual > 0, in_place = ends[e].residual == 2;
        p->blocked.act = ends[e].act;
        run(p, NULL, residual, in_place);
        const double error = error_of(p, residual);
        if (error > (p->blocked.algorithm == CONV_WINOGRAD4 ? 2e-5 : 3e-6))
            fail_msg("%s, %s, activation %d, residual %d: error %g", name, conv_algorithm_names[p->blocked.algorithm],
                     (int)ends[e].act.kind, ends[e].residual, error);
        memcpy(once, p->y_blocked, (size_t)p->n_y_blocked * sizeof(float));
        for (int k = 0; k < 2; k++) {
            run(p, pools[k], residual, in_place);
            assert_memory_equal(once, p->y_blocked, (size_t)p->n_y_blocked * sizeof(float));
        }
    }
    free(once);
    pool_free(pools[0]);
    pool_free(pools[1]);
}

static void check_table(enum isa isa)
{
    isa_limit(isa);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct problem p;
        make(&table[i], &p);
        conv_f32_naive(&p.cv, p.x, p.w, p.bias, p.y);
        for (int a = 0; a < CONV_ALGORITHMS; a++) {
            if (!(table[i].algorithms & 1u << a))
                continue;
            p.blocked.algorithm = (enum conv_algorithm)a;
            assert_true(conv_blocked_fits(&p.blocked));
            check(&p, table[i].name);
            p.blocked.channels_last = a == CONV_FIRST;
            if (a == CONV_FIRST)
                check(&p, table[i].name);
            p.blocked.channels_last = false;
        }
        drop(&p);
    }
    isa_limit(ISA_KINDS);
}

static void test_portable(void **state)
{
    (void)state;
    check_table(ISA_PORTABLE);
}

static void test_avx2(void **state)
{
    (void)state;
    if (!isa_has(ISA_AVX2))
        skip();
    check_table(ISA_AVX2);
}

/* The claim of conv_winograd.c: few and many channels; inputs of either sign, without negatives (behind a Relu), far
 * from zero, and weights that sum to zero a kernel (edges: the worst for sums that cancel). */
static void test_winograd_accuracy(void **state)
{
    static const double allowed[2] = {3e-6, 3e-5};
    static const char *const kinds[] = {"either sign", "positive", "far from zero", "edges"};
    (void)state;
    for (int row = 0; row < 2; row++)
        for (int kind = 0; kind < 4; kind++) {
            const struct row deep = {"",     WINO,   1,      row ? 512 : 16, 16,     1,
                                     {14, 14}, {3, 3}, {1, 1}, {1, 1},         {1, 1}, {1, 1}};
            struct problem p;
            make(&deep, &p);
            for (int64_t i = 0; i < p.n_x && kind > 0; i++)
                p.x[i] = kind == 1 ? fmaxf(p.x[i], 0) : p.x[i] + 10;
            for (int64_t i = 0; i < p.n_w && kind == 3; i += 9) {
                double sum = 0;
                for (int k = 0; k < 9; k++)
                    sum += (double)p.w[i + k];
                p.w[i + 4] -= (float)sum;
            }
            to_blocked(NULL, 4, 1, deep.c_in, 14 * 14, p.x, p.x_blocked);
            conv_f32_naive(&p.cv, p.x, p.w, p.bias, p.y);
            for (int a = 0; a < 2; a++) {
                p.blocked.algorithm = a ? CONV_WINOGRAD4 : CONV_WINOGRAD2;
                pack(&p);
                run(&p, NULL, false, false);
                const double error = error_of(&p, false);
                print_message("%s, %d channels, %s: error %.1e\n", conv_algorithm_names[p.blocked.algorithm],
                              (int)deep.c_in, kinds[kind], error);
                assert_true(error < allowed[a]);
            }
            drop(&p);
        }
}

static void test_choice(void **state)
{
    (void)state;
    struct conv_blocked cv = {.batch = 1, .c_in = 64, .c_out = 64, .groups = 1, .in = {56, 56}, .out = {56, 56},
                              .kernel = {3, 3}, .stride = {1, 1}, .dilation = {1, 1}, .pad = {1, 1}};
    assert_int_equal(conv_blocked_choose(&cv, false), CONV_WINOGRAD4);
    cv.c_in = 1100; /* more than F(4x4) is exact enough for */
    assert_int_not_equal(conv_blocked_choose(&cv, false), CONV_WINOGRAD4);
    cv.c_in = 64;
    cv.stride[0] = 2;
    assert_int_equal(conv_blocked_choose(&cv, false), CONV_DIRECT);
    cv.groups = 64;
    assert_int_equal(conv_blocked_choose(&cv, false), CONV_DEPTHWISE);
    cv.groups = 16; /* groups of 4 channels: no blocked algorithm */
    assert_int_equal(conv_blocked_choose(&cv, false), CONV_ALGORITHMS);
    cv.groups = 1;
    cv.c_in = 3;
    assert_int_equal(conv_blocked_choose(&cv, true), CONV_FIRST);
    cv.kernel[0] = 2000;
    assert_int_equal(conv_blocked_choose(&cv, false), CONV_ALGORITHMS);
}

/* There and back; padding lanes are zero. */
static void test_layout(void **state)
{
    static const int64_t shapes[][3] = {{1, 1, 1}, {2, 3, 7}, {1, 8, 64}, {3, 20, 33}, {1, 9, 5000}};
    (void)state;
    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        const int64_t n = shapes[i][0], c = shapes[i][1], plane = shapes[i][2], blocks = blocked_count(c);
        struct pool *pool = pool_new(2);
        float *x = floats(n * c * plane), *y = floats(n * blocks * plane * BLOCK), *back = floats(n * c * plane);
        for (int64_t k = 0; k < n * c * plane; k++)
            x[k] = (float)(k + 1);
        memset(y, 0xff, (size_t)(n * blocks * plane * BLOCK) * sizeof *y);
        to_blocked(pool, 4, n, c, plane, x, y);
        for (int64_t k = 0; k < n * blocks * plane * BLOCK; k++) {
            const int64_t lane = k % BLOCK, cell = k / BLOCK % plane, block = k / BLOCK / plane % blocks;
            const int64_t channel = block * BLOCK + lane, image = k / BLOCK / plane / blocks;
            const float want = channel < c ? (float)((image * c + channel) * plane + cell + 1) : 0;
            assert_true(y[k] == want);
        }
        from_blocked(pool, 4, n, c, plane, y, back);
        assert_memory_equal(x, back, (size_t)(n * c * plane) * sizeof *x);
        free(x);
        free(y);
        free(back);
        pool_free(pool);
    }
}

static void test_layout_bytes(void **state)
{
    uint8_t x[3 * 11 * 13], y[3 * 2 * 13 * 8], back[sizeof x];
    (void)state;
    for (size_t k = 0; k < sizeof x; k++)
        x[k] = (uint8_t)(k * 7 + 1);
    to_blocked(NULL, 1, 3, 11, 13, x, y);
    assert_int_equal(y[(1 * 13 + 4) * 8 + 2], x[10 * 13 + 4]);
    assert_int_equal(y[(1 * 13 + 4) * 8 + 3], 0);
    from_blocked(NULL, 1, 3, 11, 13, y, back);
    assert_memory_equal(x, back, sizeof x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_layout),   cmocka_unit_test(test_layout_bytes),      cmocka_unit_test(test_portable),
        cmocka_unit_test(test_avx2),     cmocka_unit_test(test_winograd_accuracy), cmocka_unit_test(test_choice),
    };
    return cmocka_run_group_tests_name("conv_blocked", tests, NULL, NULL);
}
