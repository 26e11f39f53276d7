/* SPDX-License-Identifier: Apache-2.0
 * sensitivity.h against its formula: (d/dt -log p(y | x) along delta)^2, derivatives by central differences of a naive
 * twin in double, y as likely as the model says. A single draw must be one of the possible values, and many draws must
 * average to their expectation. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/stats/sensitivity.h"
#include "tests/unit/graphs.h"
#include "tests/unit/samples.h"

enum { SAMPLES = 3, K = 4, H = 5, C = 3, DRAWS = 4000 };

static float x[SAMPLES * K], w1[K * H], w2[H * C], d1[K * H], d2[H * C];

static int fill(void **state)
{
    struct rng rng;
    float *const lists[] = {x, w1, w2, d1, d2};
    static const int counts[] = {SAMPLES * K, K * H, H * C, K * H, H * C};
    static const double sizes[] = {1, 0.7, 0.7, 0.05, 0.05};
    (void)state;
    rng_init(&rng, 4, 0);
    for (int l = 0; l < 5; l++)
        for (int i = 0; i < counts[l]; i++)
            lists[l][i] = (float)(sizes[l] * rng_normal(&rng));
    return 0;
}

enum tail { SCORES, PROBABILITIES, IMAGE };

/* x -> w1 -> Tanh -> w2 (-> Softmax, or a shape without classes). batch 0: any. */
static struct model *network(int64_t batch, enum tail tail)
{
    struct model *m = g_new(13);
    const uint32_t in = g_input(m, "x", SHAPE(batch ? batch : DIM_SYMBOL(model_symbol(m, "N")), K));
    const uint32_t h = G_OP(m, "Tanh", "h", G_OP(m, "MatMul", "a", in, g_const(m, "w1", SHAPE(K, H), w1)));
    uint32_t y = G_OP(m, "MatMul", "z", h, g_const(m, "w2", SHAPE(H, C), w2));
    if (tail == PROBABILITIES)
        y = G_OP(m, "Softmax", "p", y);
    if (tail == IMAGE)
        y = G_OP(m, "Reshape", "i", y, g_ints(m, "shape", 3, (int64_t[]){-1, 1, C}));
    g_output(m, y);
    return m;
}

/* Scores with the weights moved along delta of one of them. */
static void twin(int64_t sample, int which, double t, double *z)
{
    for (int c = 0; c < C; c++)
        z[c] = 0;
    for (int j = 0; j < H; j++) {
        double a = 0;
        for (int k = 0; k < K; k++)
            a += (double)x[sample * K + k] * ((double)w1[k * H + j] + (which == 0 ? t * (double)d1[k * H + j] : 0));
        for (int c = 0; c < C; c++)
            z[c] += tanh(a) * ((double)w2[j * C + c] + (which == 1 ? t * (double)d2[j * C + c] : 0));
    }
}

static double log_p(const double *z, int y)
{
    double sum = 0;
    for (int c = 0; c < C; c++)
        sum += exp(z[c]);
    return z[y] - log(sum);
}

/* p of each class, and the squared derivative of -log p. */
static void possible(int64_t sample, int which, double *p, double *squared)
{
    double at[C], up[C], down[C];
    const double step = 1e-4;
    twin(sample, which, 0, at);
    twin(sample, which, step, up);
    twin(sample, which, -step, down);
    for (int y = 0; y < C; y++) {
        const double g = (log_p(up, y) - log_p(down, y)) / (2 * step);
        p[y] = exp(log_p(at, y));
        squared[y] = g * g;
    }
}

/* Fisher scores of both weights. */
static void scores_of(struct model *m, const int64_t *index, int64_t n, uint64_t seed, double *score)
{
    const uint32_t weights[2] = {g_value(m, "w1"), g_value(m, "w2")};
    struct tensor delta[2];
    struct err err = {0};
    tensor_view(&delta[0], DTYPE_FLOAT, &SHAPE(K, H), d1, NULL);
    tensor_view(&delta[1], DTYPE_FLOAT, &SHAPE(H, C), d2, NULL);
    struct dataset *data = samples_open(x, SAMPLES, K, NULL, m);
    const struct fisher_opts o = {
        .data = data, .index = index, .n = n, .seed = seed, .weights = weights, .delta = delta, .n_weights = 2};
    if (sensitivity_fisher(m, &o, score, &err))
        fail_msg("%s", err.msg);
    dataset_close(data);
}

/* One draw is the value of some class; both weights see the same class. */
static void test_one_draw(void **state)
{
    (void)state;
    for (int tail = SCORES; tail <= PROBABILITIES; tail++) {
        struct model *m = network(0, (enum tail)tail);
        for (int64_t s = 0; s < SAMPLES; s++)
            for (uint64_t seed = 0; seed < 4; seed++) {
                double score[2], p[C], first[C], second[C];
                bool found = false;
                scores_of(m, &s, 1, seed, score);
                possible(s, 0, p, first);
                possible(s, 1, p, second);
                for (int y = 0; y < C; y++)
                    found = found || (fabs(score[0] - first[y]) <= 1e-4 * first[y] + 1e-9 &&
                                      fabs(score[1] - second[y]) <= 1e-4 * second[y] + 1e-9);
                if (!found)
                    fail_msg("tail %d, sample %d: %g %g is of no class", tail, (int)s, score[0], score[1]);
            }
        model_free(m);
    }
}

/* The mean over many draws of all samples, within five standard errors. */
static void test_expectation(void **state)
{
    (void)state;
    static int64_t index[DRAWS];
    for (int i = 0; i < DRAWS; i++)
        index[i] = i % SAMPLES;
    for (int tail = SCORES; tail <= PROBABILITIES; tail++) {
        struct model *m = network(0, (enum tail)tail);
        double score[2], p[C], squared[C];
        scores_of(m, index, DRAWS, 1, score);
        for (int which = 0; which < 2; which++) {
            double mean = 0, square = 0;
            for (int64_t s = 0; s < SAMPLES; s++) {
                possible(s, which, p, squared);
                for (int y = 0; y < C; y++) {
                    mean += p[y] * squared[y] / SAMPLES;
                    square += p[y] * squared[y] * squared[y] / SAMPLES;
                }
            }
            g_near(score[which], mean, 5 * sqrt((square - mean * mean) / DRAWS));
        }
        model_free(m);
    }
}

/* No scores: the expected squared change of the output, over random signs. */
static void test_signs(void **state)
{
    (void)state;
    static int64_t index[DRAWS];
    struct model *m = network(0, IMAGE);
    double score[2];
    for (int i = 0; i < DRAWS; i++)
        index[i] = i % SAMPLES;
    scores_of(m, index, DRAWS, 1, score);
    for (int which = 0; which < 2; which++) {
        double want = 0;
        for (int64_t s = 0; s < SAMPLES; s++) {
            double up[C], down[C];
            twin(s, which, 1e-4, up);
            twin(s, which, -1e-4, down);
            for (int c = 0; c < C; c++)
                want += pow((up[c] - down[c]) / 2e-4, 2) / SAMPLES;
        }
        g_near(score[which], want, 0.1 * want);
    }
    model_free(m);
}

/* A model of fixed batch gives what one of any batch gives; the same seed the same scores, another one others. */
static void test_batch_and_seed(void **state)
{
    (void)state;
    static const int64_t index[5] = {2, 0, 1, 1, 0};
    struct model *any = network(0, SCORES), *four = network(4, SCORES);
    double a[2], b[2], c[2];
    scores_of(any, index, 5, 7, a);
    scores_of(four, index, 5, 7, b);
    scores_of(any, index, 5, 7, c);
    for (int i = 0; i < 2; i++) {
        g_near(b[i], a[i], 1e-5 * a[i]);
        assert_true(c[i] == a[i]);
    }
    scores_of(any, index, 5, 8, c);
    assert_true(c[0] != a[0]);
    model_free(four);
    model_free(any);
}

static int stop(void *arg, int64_t done, int64_t total, struct err *err)
{
    int64_t *calls = arg;
    assert_int_equal(total, 3);
    assert_int_equal(done, ++*calls);
    return done == 2 ? err_set(err, ERR_CANCELED, "stopped") : 0;
}

static void test_stops(void **state)
{
    (void)state;
    struct model *m = network(0, SCORES);
    struct dataset *data = samples_open(x, SAMPLES, K, NULL, m);
    struct tensor delta;
    struct err err = {0};
    int64_t calls = 0;
    double score;
    tensor_view(&delta, DTYPE_FLOAT, &SHAPE(K, H), d1, NULL);
    const struct fisher_opts o = {.data = data,
                                  .index = (int64_t[]){0, 1, 2},
                                  .n = 3,
                                  .weights = (uint32_t[]){g_value(m, "w1")},
                                  .delta = &delta,
                                  .n_weights = 1,
                                  .progress = stop,
                                  .progress_arg = &calls};
    assert_int_equal(sensitivity_fisher(m, &o, &score, &err), -1);
    assert_int_equal(calls, 2);
    assert_int_equal(err.code, ERR_CANCELED);
    dataset_close(data);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_one_draw), cmocka_unit_test(test_expectation),
                                       cmocka_unit_test(test_signs), cmocka_unit_test(test_batch_and_seed),
                                       cmocka_unit_test(test_stops)};
    return cmocka_run_group_tests(tests, fill, NULL);
}
