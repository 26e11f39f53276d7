/* SPDX-License-Identifier: Apache-2.0
 * Speed of the blocked convolutions: build/tools/conv_speed [THREADS]. For each geometry and algorithm the shortest of
 * many runs, in ms and in multiply-accumulates a nanosecond as Conv counts them (a core with two 8-lane fused units has
 * 16 times its GHz at most in a direct convolution). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/kernels/conv_blocked.h"

struct row {
    const char *name;
    int64_t c_in, c_out, groups, size, kernel, stride, pad;
};

static const struct row table[] = {
    {"squeezenet conv1", 3, 64, 1, 224, 3, 2, 0},   {"squeezenet conv10", 512, 1000, 1, 13, 1, 1, 1},
    {"squeezenet fire2 3x3", 16, 64, 1, 55, 3, 1, 1}, {"squeezenet fire2 1x1", 16, 64, 1, 55, 1, 1, 0},
    {"squeezenet fire9 3x3", 64, 256, 1, 13, 3, 1, 1}, {"squeezenet squeeze", 512, 64, 1, 13, 1, 1, 0},
    {"resnet conv1", 3, 64, 1, 224, 7, 2, 3},       {"resnet layer1", 64, 64, 1, 56, 3, 1, 1},
    {"resnet layer2", 128, 128, 1, 28, 3, 1, 1},    {"resnet layer3", 256, 256, 1, 14, 3, 1, 1},
    {"resnet layer4", 512, 512, 1, 7, 3, 1, 1},     {"resnet layer2 stride 2", 64, 128, 1, 56, 3, 2, 1},
    {"resnet layer4 stride 2", 256, 512, 1, 14, 3, 2, 1},
    {"resnet50 1x1 64-256", 64, 256, 1, 56, 1, 1, 0}, {"resnet50 1x1 1024-256", 1024, 256, 1, 14, 1, 1, 0},
    {"resnet50 1x1 2048-512", 2048, 512, 1, 7, 1, 1, 0}, {"resnet50 1x1 512-2048", 512, 2048, 1, 7, 1, 1, 0},
    {"resnet50 1x1 stride 2", 512, 1024, 1, 28, 1, 2, 0},
    {"mobilenet expand", 16, 96, 1, 112, 1, 1, 0},  {"mobilenet last", 320, 1280, 1, 7, 1, 1, 0},
    {"mobilenet project", 960, 320, 1, 7, 1, 1, 0}, {"mobilenet project 24", 144, 24, 1, 56, 1, 1, 0},
    {"depthwise 96 stride 2", 96, 96, 96, 112, 3, 2, 1}, {"depthwise 144", 144, 144, 144, 56, 3, 1, 1},
    {"depthwise 576", 576, 576, 576, 14, 3, 1, 1},  {"depthwise 960", 960, 960, 960, 7, 3, 1, 1},
    {"depthwise 5x5 240", 240, 240, 240, 14, 5, 1, 2},
    {"resnet20 16", 16, 16, 1, 32, 3, 1, 1},        {"resnet20 32", 32, 32, 1, 16, 3, 1, 1},
    {"resnet20 64", 64, 64, 1, 8, 3, 1, 1},         {"super-resolution 64", 64, 64, 1, 224, 3, 1, 1},
    {"super-resolution 9", 32, 9, 1, 224, 3, 1, 1}, {"5x5 of one channel", 1, 64, 1, 224, 5, 1, 2},
};

static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static float *floats(int64_t n)
{
    const size_t bytes = ((size_t)n * sizeof(float) + 127) / 64 * 64;
    float *p = aligned_alloc(64, bytes);
    if (!p)
        exit(1);
    for (size_t i = 0; i < bytes / sizeof *p; i++)
        p[i] = (float)(i % 17) * 0.1f - 0.8f;
    return p;
}

static void measure(struct pool *pool, const struct row *r, enum conv_algorithm algorithm)
{
    struct conv_blocked cv = {.algorithm = algorithm, .batch = 1, .c_in = r->c_in, .c_out = r->c_out,
                              .groups = r->groups};
    for (int a = 0; a < 2; a++) {
        cv.in[a] = r->size;
        cv.kernel[a] = r->kernel;
        cv.stride[a] = r->stride;
        cv.dilation[a] = 1;
        cv.pad[a] = r->pad;
        cv.out[a] = (r->size + 2 * r->pad - r->kernel) / r->stride + 1;
    }
    if (!conv_blocked_fits(&cv) || (algorithm == CONV_FIRST) != (r->c_in <= 4))
        return;
    cv.algorithm = CONV_DIRECT;
    const bool chosen = conv_blocked_choose(&cv, true) == algorithm;
    cv.algorithm = algorithm;
    size_t bytes;
    if (!conv_blocked_scratch(&cv, pool_threads(pool), &bytes))
        return;
    float *x = floats(blocked_count(r->c_in) * BLOCK * r->size * r->size), *w = floats(conv_blocked_weights(&cv));
    float *y = floats(blocked_count(r->c_out) * BLOCK * cv.out[0] * cv.out[1]);
    float *scratch = floats((int64_t)(bytes / sizeof(float)));
    const struct conv_blocked_io io = {x, w, NULL, NULL, y, scratch};
    const double macs = (double)(cv.out[0] * cv.out[1] * r->kernel * r->kernel * r->c_out * (r->c_in / r->groups));
    double best = 1e9, begin = now_ms();
    for (int i = 0; i < 2000 && (i < 5 || now_ms() - begin < 150); i++) {
        const double start = now_ms();
        conv_blocked_f32(pool, &cv, &io);
        const double took = now_ms() - start;
        best = took < best ? took : best;
    }
    printf("%-26s %-10s%c %9.4f ms %7.1f MAC/ns\n", r->name, conv_algorithm_names[algorithm], chosen ? '*' : ' ', best,
           macs / best * 1e-6);
    free(x);
    free(w);
    free(y);
    free(scratch);
}

int main(int argc, char **argv)
{
    struct pool *pool = pool_new(argc > 1 ? atoi(argv[1]) : 1);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        for (int a = 0; a < CONV_ALGORITHMS; a++)
            if (argc < 3 || strstr(table[i].name, argv[2]))
                measure(pool, &table[i], (enum conv_algorithm)a);
    pool_free(pool);
    return 0;
}
