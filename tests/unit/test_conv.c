/* SPDX-License-Identifier: Apache-2.0
 * Convolution kernels against the loops of the definition, over a table of shapes; and the same bits on every pool. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "core/base/rng.h"
#include "core/kernels/conv.h"

struct row {
    const char *name;
    int rank;
    int64_t batch, c_in, c_out, groups;
    int64_t in[3], kernel[3], stride[3], dilation[3], pad[3], pad_end[3];
};

static const struct row table[] = {
    {"3x3", 2, 1, 3, 8, 1, {9, 11}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"3x3 stride 2", 2, 2, 5, 7, 1, {10, 9}, {3, 3}, {2, 2}, {1, 1}, {1, 0}, {0, 1}},
    {"dilated", 2, 1, 4, 6, 2, {13, 12}, {3, 2}, {1, 2}, {2, 3}, {2, 1}, {2, 0}},
    {"pointwise", 2, 1, 16, 24, 1, {40, 40}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise of small images", 2, 5, 16, 24, 1, {4, 4}, {1, 1}, {1, 1}, {1, 1}, {0, 0}, {0, 0}},
    {"pointwise stride 2", 2, 2, 6, 5, 1, {8, 7}, {1, 1}, {2, 2}, {1, 1}, {0, 0}, {0, 0}},
    {"many small images", 2, 33, 8, 16, 1, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"many images, groups", 2, 9, 8, 12, 4, {5, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"rows in parts", 2, 1, 64, 256, 1, {7, 7}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"several tiles", 2, 1, 32, 16, 1, {70, 66}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"same width, dilated", 2, 1, 3, 4, 1, {40, 37}, {3, 3}, {1, 1}, {2, 3}, {1, 3}, {0, 3}},
    {"same width, even kernel", 2, 2, 3, 4, 1, {9, 8}, {2, 4}, {1, 1}, {1, 1}, {0, 2}, {1, 1}},
    {"same width, kernel wider than the image", 2, 1, 2, 4, 1, {3, 2}, {5, 7}, {1, 1}, {1, 1}, {2, 3}, {2, 3}},
    {"same width, tall pads", 2, 1, 2, 4, 1, {3, 5}, {3, 3}, {1, 1}, {1, 1}, {6, 1}, {7, 1}},
    {"5x5 wide pads", 2, 1, 2, 3, 1, {4, 4}, {5, 5}, {1, 1}, {1, 1}, {4, 4}, {4, 4}},
    {"depthwise 3x3", 2, 2, 6, 6, 6, {12, 17}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"depthwise 3x3 stride 2", 2, 2, 6, 6, 6, {12, 17}, {3, 3}, {2, 2}, {1, 1}, {0, 1}, {1, 1}},
    {"depthwise 3x3 one column", 2, 1, 3, 3, 3, {5, 1}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"depthwise 5x5", 2, 1, 4, 4, 4, {9, 9}, {5, 5}, {1, 1}, {1, 1}, {2, 2}, {2, 2}},
    {"depthwise dilated", 2, 1, 4, 4, 4, {11, 10}, {3, 3}, {1, 2}, {2, 2}, {2, 2}, {2, 2}},
    {"depthwise multiplier 2", 2, 1, 4, 8, 4, {8, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1}, {1, 1}},
    {"depthwise 5x5 of many images", 2, 33, 4, 4, 4, {7, 6}, {5, 5}, {1, 1}, {1, 1}, {2, 2}, {2, 2}},
    {"depthwise 3x3 stride 2 of many images", 2, 13, 3, 3, 3, {9, 10}, {3, 3}, {2, 2}, {1, 1}, {1, 0}, {1, 1}},
    {"depthwise dilated of many images", 2, 16, 2, 2, 2, {9, 5}, {3, 2}, {1, 2}, {2, 2}, {1, 1}, {2, 1}},
    {"1-D", 1, 2, 3, 5, 1, {23}, {4}, {3}, {2}, {2}, {3}},
    {"1-D grouped", 1, 1, 4, 4, 4, {23}, {3}, {1}, {1}, {1}, {1}},
    {"3-D", 3, 2, 3, 4, 1, {5, 6, 7}, {2, 3, 3}, {1, 2, 1}, {1, 1, 2}, {0, 1, 2}, {1, 1, 2}},
};

static void make(const struct row *r, struct conv *cv)
{
    *cv = (struct conv){.w.rank = r->rank, .batch = r->batch, .groups = r->groups, .c_in = r->c_in, .c_out = r->c_out};
    for (int a = 0; a < r->rank; a++) {
        cv->w.in[a] = r->in[a];
        cv->w.kernel[a] = r->kernel[a];
        cv->w.stride[a] = r->stride[a];
        cv->w.dilation[a] = r->dilation[a];
        cv->w.pad[a] = r->pad[a];
        cv->w.pad_end[a] = r->pad_end[a];
        cv->w.out[a] =
            (r->in[a] + r->pad[a] + r->pad_end[a] - (r->kernel[a] - 1) * r->dilation[a] - 1) / r->stride[a] + 1;
    }
}

static float *random_floats(struct rng *rng, int64_t n)
{
    float *out = malloc((size_t)n * sizeof *out);
    assert_non_null(out);
    for (int64_t i = 0; i < n; i++)
        out[i] = (float)(rng_uniform(rng) * 4 - 2);
    return out;
}

static void *scratch_for(const struct conv *cv, size_t elem, int lanes)
{
    size_t bytes;
    assert_true(conv_scratch(cv, elem, lanes, &bytes));
    return aligned_alloc(64, (bytes + 127) / 64 * 64);
}

static void check(const struct row *r, struct pool *pool, bool with_bias)
{
    struct conv cv;
    struct rng rng;

    make(r, &cv);
    rng_init(&rng, 7, 1);
    const int64_t n_x = cv.batch * cv.c_in * window_count(cv.w.in, cv.w.rank);
    const int64_t n_w = cv.c_out * cv.c_in / cv.groups * window_count(cv.w.kernel, cv.w.rank);
    const int64_t n_y = cv.batch * cv.c_out * window_count(cv.w.out, cv.w.rank);
    float *x = random_floats(&rng, n_x), *w = random_floats(&rng, n_w), *b = random_floats(&rng, cv.c_out);
    float *want = random_floats(&rng, n_y), *got = malloc((size_t)n_y * 4), *again = malloc((size_t)n_y * 4);
    double *x64 = malloc((size_t)n_x * 8), *w64 = malloc((size_t)n_w * 8), *b64 = malloc((size_t)cv.c_out * 8),
           *y64 = malloc((size_t)n_y * 8);
    void *scratch = scratch_for(&cv, 4, 3), *scratch64 = scratch_for(&cv, 8, 1);

    assert_true(got && again && x64 && w64 && b64 && y64 && scratch && scratch64);
    memset(got, 0xff, (size_t)n_y * 4); /* NaN: whatever is not written, or read before, shows */
    conv_f32_naive(&cv, x, w, with_bias ? b : NULL, want);
    conv_f32(NULL, &cv, x, w, with_bias ? b : NULL, got, scratch);
    conv_f32(pool, &cv, x, w, with_bias ? b : NULL, again, scratch);
    for (int64_t i = 0; i < n_x; i++)
        x64[i] = (double)x[i];
    for (int64_t i = 0; i < n_w; i++)
        w64[i] = (double)w[i];
    for (int64_t i = 0; i < cv.c_out; i++)
        b64[i] = (double)b[i];
    conv_f64(NULL, &cv, x64, w64, with_bias ? b64 : NULL, y64, scratch64);
    for (int64_t i = 0; i < n_y; i++) {
        const double bound = 1e-5 * (fabs((double)want[i]) + 10);
        if (!(fabs((double)got[i] - (double)want[i]) <= bound) || !(fabs(y64[i] - (double)want[i]) <= bound))
            fail_msg("%s: output %lld is %g (f64 %g), must be %g", r->name, (long long)i, (double)got[i], y64[i],
                     (double)want[i]);
    }
    if (memcmp(got, again, (size_t)n_y * 4) != 0)
        fail_msg("%s: the bits depend on the pool", r->name);
    free(x), free(w), free(b), free(want), free(got), free(again);
    free(x64), free(w64), free(b64), free(y64), free(scratch), free(scratch64);
}

static void test_table(void **state)
{
    (void)state;
    struct pool *pool = pool_new(3);
    assert_non_null(pool);
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        check(&table[i], pool, true);
        check(&table[i], pool, false);
    }
    pool_free(pool);
}

/* col2im is the transpose of im2col: <im2col(x), c> == <x, col2im(c)>. */
static void test_col2im_is_the_transpose(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct conv cv;
        struct rng rng;
        make(&table[i], &cv);
        rng_init(&rng, 3, 2);
        const int64_t n_x = cv.c_in * window_count(cv.w.in, cv.w.rank), positions = window_count(cv.w.out, cv.w.rank);
        const int64_t n_col = cv.c_in * window_count(cv.w.kernel, cv.w.rank) * positions;
        float *x = random_floats(&rng, n_x), *c = random_floats(&rng, n_col), *col = malloc((size_t)n_col * 4);
        float *back = calloc((size_t)n_x, 4);
        double left = 0, right = 0;
        assert_true(col && back);
        im2col_f32(&cv.w, cv.c_in, x, 0, positions, col, positions);
        col2im_f32(&cv.w, cv.c_in, c, back);
        for (int64_t j = 0; j < n_col; j++)
            left += (double)col[j] * (double)c[j];
        for (int64_t j = 0; j < n_x; j++)
            right += (double)x[j] * (double)back[j];
        if (fabs(left - right) > 1e-3 * (fabs(left) + 1))
            fail_msg("%s: %g and %g", table[i].name, left, right);
        free(x), free(c), free(col), free(back);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_col2im_is_the_transpose)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
