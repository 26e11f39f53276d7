/* SPDX-License-Identifier: Apache-2.0
 * reference.h against naive formulas: divergence of softmaxes, disagreement, top-1 and noise of a linear model and a
 * changed one, worked out in double from the numbers the models are made of. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/stats/reference.h"
#include "tests/unit/graphs.h"
#include "tests/unit/samples.h"

enum { SAMPLES = 23, K = 5, C = 4 };

static float x[SAMPLES * K], w[2][K * C];
static int64_t labels[SAMPLES];

static int fill(void **state)
{
    struct rng rng;
    (void)state;
    rng_init(&rng, 9, 0);
    for (int i = 0; i < SAMPLES * K; i++)
        x[i] = (float)rng_normal(&rng);
    for (int i = 0; i < K * C; i++) {
        w[0][i] = (float)rng_normal(&rng);
        w[1][i] = w[0][i] + 0.3f * (float)rng_normal(&rng);
    }
    for (int i = 0; i < SAMPLES; i++)
        labels[i] = (int64_t)rng_below(&rng, C);
    return 0;
}

enum tail { SCORES, PROBABILITIES, SUMS, IMAGE }; /* what the model gives */

static struct model *linear(int which, enum tail tail)
{
    struct model *m = g_new(13);
    const uint32_t in = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), K));
    uint32_t y = G_OP(m, "MatMul", "z", in, g_const(m, "w", SHAPE(K, C), w[which]));
    if (tail == PROBABILITIES)
        y = G_OP(m, "Softmax", "p", y);
    if (tail == SUMS) {
        y = G_OP(m, "ReduceSum", "s", y, g_ints(m, "axes", 1, (int64_t[]){1}));
        node_set_int(m, g_maker(m, y), "keepdims", 0);
    }
    if (tail == IMAGE)
        y = G_OP(m, "Reshape", "i", y, g_ints(m, "shape", 3, (int64_t[]){-1, 2, 2}));
    g_output(m, y);
    return m;
}

static void scores(int which, int64_t sample, double *z)
{
    for (int c = 0; c < C; c++) {
        z[c] = 0;
        for (int k = 0; k < K; k++)
            z[c] += (double)x[sample * K + k] * (double)w[which][k * C + c];
    }
}

static void softmax(const double *z, double *p)
{
    double sum = 0;
    for (int c = 0; c < C; c++)
        sum += exp(z[c]);
    for (int c = 0; c < C; c++)
        p[c] = exp(z[c]) / sum;
}

static int largest(const double *z)
{
    int at = 0;
    for (int c = 1; c < C; c++)
        at = z[c] > z[at] ? c : at;
    return at;
}

static struct closeness expected(const int64_t *index, int64_t n, enum tail tail, int which)
{
    struct closeness e = {.samples = n};
    double signal = 0;
    for (int64_t i = 0; i < n; i++) {
        double a[C], b[C], p[C], q[C], sum[2] = {0, 0};
        scores(0, index[i], a);
        scores(which, index[i], b);
        softmax(a, p);
        softmax(b, q);
        e.disagreement += largest(a) != largest(b);
        e.top1 += largest(b) == labels[index[i]];
        for (int c = 0; c < C; c++) {
            const double from = tail == PROBABILITIES ? p[c] : a[c], to = tail == PROBABILITIES ? q[c] : b[c];
            e.kl += p[c] * log(p[c] / q[c]);
            sum[0] += from;
            sum[1] += to;
            if (tail != SUMS) {
                signal += from * from;
                e.noise += (from - to) * (from - to);
            }
        }
        if (tail == SUMS) {
            signal += sum[0] * sum[0];
            e.noise += (sum[0] - sum[1]) * (sum[0] - sum[1]);
        }
    }
    e.kl /= (double)n;
    e.disagreement /= (double)n;
    e.top1 /= (double)n;
    e.noise /= signal;
    return e;
}

static struct reference *reference_of(const struct model *m, struct dataset *data, const int64_t *index, int64_t n)
{
    struct err err = {0};
    struct reference *r = reference_new(m, &(struct reference_opts){.data = data, .index = index, .n = n}, &err);
    if (!r)
        fail_msg("%s", err.msg);
    return r;
}

/* All samples, some in another order, and the first few of those. */
static void test_scores(void **state)
{
    (void)state;
    static const int64_t some[7] = {22, 3, 3, 0, 11, 8, 19};
    int64_t all[SAMPLES];
    for (int i = 0; i < SAMPLES; i++)
        all[i] = i;
    const struct {
        const int64_t *index;
        int64_t n, limit;
    } cases[] = {{all, SAMPLES, 0}, {some, 7, 0}, {some, 7, 4}, {all, SAMPLES, 100}, {all, 1, 1}};
    for (int tail = SCORES; tail <= PROBABILITIES; tail++) {
        struct model *m = linear(0, (enum tail)tail), *changed = linear(1, (enum tail)tail);
        struct dataset *data = samples_open(x, SAMPLES, K, labels, m);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct reference *r = reference_of(m, data, cases[i].index, cases[i].n);
            struct closeness got;
            struct err err = {0};
            const int64_t n = cases[i].limit && cases[i].limit < cases[i].n ? cases[i].limit : cases[i].n;
            const struct closeness want = expected(cases[i].index, n, (enum tail)tail, 1),
                                   same = expected(cases[i].index, cases[i].n, (enum tail)tail, 0);
            assert_int_equal(reference_compare(r, changed, cases[i].limit, &got, &err), 0);
            assert_true(got.classes);
            assert_int_equal(got.samples, n);
            g_near(got.kl, want.kl, 1e-5);
            g_near(got.disagreement, want.disagreement, 1e-12);
            g_near(got.top1, want.top1, 1e-12);
            g_near(got.noise, want.noise, 1e-5 * want.noise + 1e-12);
            g_near(reference_own(r)->top1, same.top1, 1e-12);
            g_near(reference_own(r)->kl, 0, 0);
            g_near(reference_own(r)->noise, 0, 0);
            assert_int_equal(reference_own(r)->samples, cases[i].n);
            reference_free(r);
        }
        dataset_close(data);
        model_free(changed);
        model_free(m);
    }
}

/* No labels: no top-1. No row of classes: noise only. */
static void test_what_is_absent(void **state)
{
    (void)state;
    int64_t all[SAMPLES];
    for (int i = 0; i < SAMPLES; i++)
        all[i] = i;
    for (int tail = SUMS; tail <= IMAGE; tail++) {
        struct model *m = linear(0, (enum tail)tail), *changed = linear(1, (enum tail)tail);
        struct dataset *data = samples_open(x, SAMPLES, K, tail == SUMS ? labels : NULL, m);
        struct reference *r = reference_of(m, data, all, SAMPLES);
        struct closeness got;
        struct err err = {0};
        assert_int_equal(reference_compare(r, changed, 0, &got, &err), 0);
        assert_false(got.classes);
        assert_true(isnan(got.top1) && got.kl == 0 && got.disagreement == 0);
        const struct closeness want = expected(all, SAMPLES, (enum tail)tail, 1);
        g_near(got.noise, want.noise, 1e-5 * want.noise);
        reference_free(r);
        dataset_close(data);
        model_free(changed);
        model_free(m);
    }
    struct model *m = linear(0, SCORES), *changed = linear(1, SCORES);
    struct dataset *data = samples_open(x, SAMPLES, K, NULL, m);
    struct reference *r = reference_of(m, data, all, SAMPLES);
    struct closeness got;
    assert_int_equal(reference_compare(r, changed, 0, &got, NULL), 0);
    assert_true(got.classes && isnan(got.top1));
    g_near(got.kl, expected(all, SAMPLES, SCORES, 1).kl, 1e-5);
    reference_free(r);
    dataset_close(data);
    model_free(changed);
    model_free(m);
}

/* Scores that are not finite count with the largest divergence and infinite noise; another size is an error. */
static void test_broken_models(void **state)
{
    (void)state;
    int64_t all[SAMPLES];
    for (int i = 0; i < SAMPLES; i++)
        all[i] = i;
    struct model *m = linear(0, SCORES), *broken = linear(1, SCORES), *other = linear(1, PROBABILITIES),
                 *sums = linear(1, SUMS);
    struct dataset *data = samples_open(x, SAMPLES, K, labels, m);
    struct reference *r = reference_of(m, data, all, SAMPLES);
    struct closeness got;
    struct err err = {0};
    tensor_f32(&broken->values[g_value(broken, "w")].weight->tensor)[0] = NAN;
    assert_int_equal(reference_compare(r, broken, 0, &got, &err), 0);
    g_near(got.kl, 1000, 1e-9);
    assert_true(isinf(got.noise));
    assert_int_equal(reference_compare(r, other, 0, &got, &err), 0); /* same size: taken as scores, too */
    assert_true(isfinite(got.kl) && got.kl > 0);
    assert_int_equal(reference_compare(r, sums, 0, &got, &err), -1);
    assert_int_equal(err.code, ERR_SHAPE);
    reference_free(r);
    reference_free(NULL);
    dataset_close(data);
    model_free(sums);
    model_free(other);
    model_free(broken);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scores), cmocka_unit_test(test_what_is_absent),
                                       cmocka_unit_test(test_broken_models)};
    return cmocka_run_group_tests(tests, fill, NULL);
}
