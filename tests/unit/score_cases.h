/* SPDX-License-Identifier: Apache-2.0
 * score_cases.h - a small network with its twin in double, and running a criterion on it, for the tests of score.h.
 * Include after cmocka.h. */
#ifndef PARED_TESTS_SCORE_CASES_H
#define PARED_TESTS_SCORE_CASES_H

#include "core/prune/score.h"
#include "core/prune/score_impl.h"
#include "tests/unit/graphs.h"
#include "tests/unit/samples.h"

/* x [2,3,3] -> conv1 3x3 pad 1 (A channels) -> BN -> Tanh -> conv2 2x2 (B channels) -> Tanh -> Flatten -> Gemm (C
 * classes) */
enum { N = 24, X = 18, A = 3, B = 4, C = 3, P1 = 9, P2 = 4, GATES = A + B };

static float x[N * X], w1[A * 2 * 9], b1[A], gamma1[A], beta1[A], mean1[A], var1[A];
static float w2[B * A * 4], b2[B], w3[C * B * P2], b3[C];
static int64_t y[N];

static inline int fill(void **state)
{
    struct rng rng;
    float *const lists[] = {x, w1, b1, gamma1, beta1, mean1, var1, w2, b2, w3, b3};
    static const int counts[] = {N * X, A * 18, A, A, A, A, A, B * A * 4, B, C * B * P2, C};
    (void)state;
    rng_init(&rng, 9, 0);
    for (int l = 0; l < 11; l++)
        for (int i = 0; i < counts[l]; i++)
            lists[l][i] = (float)((l == 0 ? 1 : 0.5) * rng_normal(&rng));
    for (int i = 0; i < A; i++)
        var1[i] = 0.5f + fabsf(var1[i]);
    for (int i = 0; i < N; i++)
        y[i] = (int64_t)rng_below(&rng, C);
    return 0;
}

static inline struct model *network(int64_t batch)
{
    struct model *m = g_new(13);
    const uint32_t in = g_input(m, "x", SHAPE(batch ? batch : DIM_SYMBOL(model_symbol(m, "N")), 2, 3, 3));
    const uint32_t c1 =
        G_OP(m, "Conv", "c1", in, g_const(m, "w1", SHAPE(A, 2, 3, 3), w1), g_const(m, "b1", SHAPE(A), b1));
    node_set_ints(m, g_maker(m, c1), "pads", (int64_t[]){1, 1, 1, 1}, 4);
    const uint32_t n1 = G_OP(m, "BatchNormalization", "n1", c1, g_const(m, "gamma1", SHAPE(A), gamma1),
                             g_const(m, "beta1", SHAPE(A), beta1), g_const(m, "mean1", SHAPE(A), mean1),
                             g_const(m, "var1", SHAPE(A), var1));
    const uint32_t a1 = G_OP(m, "Tanh", "a1", n1);
    const uint32_t c2 =
        G_OP(m, "Conv", "c2", a1, g_const(m, "w2", SHAPE(B, A, 2, 2), w2), g_const(m, "b2", SHAPE(B), b2));
    const uint32_t f = G_OP(m, "Flatten", "f", G_OP(m, "Tanh", "a2", c2));
    const uint32_t z = G_OP(m, "Gemm", "z", f, g_const(m, "w3", SHAPE(C, B * P2), w3), g_const(m, "b3", SHAPE(C), b3));
    node_set_int(m, g_maker(m, z), "transB", 1);
    g_output(m, z);
    return m;
}

/* ---- the twin ---- */
struct twin {
    double a1[A][P1], c2[B][P2], a2[B][P2], z[C];
};

/* gate: factors on what conv2 reads (A) and on what the Gemm reads (B); NULL: 1. */
static inline void run_twin(int64_t sample, const double *gate, struct twin *t)
{
    for (int c = 0; c < A; c++)
        for (int p = 0; p < P1; p++) {
            double sum = (double)b1[c];
            for (int i = 0; i < 2; i++)
                for (int k = 0; k < 9; k++) {
                    const int r = p / 3 + k / 3 - 1, s = p % 3 + k % 3 - 1;
                    if (r >= 0 && r < 3 && s >= 0 && s < 3)
                        sum += (double)x[sample * X + i * 9 + r * 3 + s] * (double)w1[(c * 2 + i) * 9 + k];
                }
            sum = (sum - (double)mean1[c]) / sqrt((double)var1[c] + 1e-5) * (double)gamma1[c] + (double)beta1[c];
            t->a1[c][p] = tanh(sum) * (gate ? gate[c] : 1);
        }
    for (int c = 0; c < B; c++)
        for (int p = 0; p < P2; p++) {
            double sum = (double)b2[c];
            for (int i = 0; i < A; i++)
                for (int k = 0; k < 4; k++)
                    sum += t->a1[i][(p / 2 + k / 2) * 3 + p % 2 + k % 2] * (double)w2[(c * A + i) * 4 + k];
            t->c2[c][p] = sum;
            t->a2[c][p] = tanh(sum) * (gate ? gate[A + c] : 1);
        }
    for (int c = 0; c < C; c++) {
        t->z[c] = (double)b3[c];
        for (int i = 0; i < B * P2; i++)
            t->z[c] += t->a2[i / P2][i % P2] * (double)w3[c * B * P2 + i];
    }
}

static inline double log_p(const double *z, int64_t k)
{
    double sum = 0;
    for (int c = 0; c < C; c++)
        sum += exp(z[c]);
    return z[k] - log(sum);
}

/* -log p(label) with gates; label -1: KL from the model without gates. */
static inline double loss(int64_t sample, int64_t label, const double *gate)
{
    struct twin t, t0;
    double sum = 0;
    run_twin(sample, gate, &t);
    if (label >= 0)
        return -log_p(t.z, label);
    run_twin(sample, NULL, &t0);
    for (int c = 0; c < C; c++)
        sum += exp(log_p(t0.z, c)) * (log_p(t0.z, c) - log_p(t.z, c));
    return sum;
}

static inline double slope(int64_t sample, int64_t label, int i)
{
    double up[GATES], down[GATES];
    for (int k = 0; k < GATES; k++)
        up[k] = down[k] = 1;
    up[i] += 1e-4;
    down[i] -= 1e-4;
    return (loss(sample, label, up) - loss(sample, label, down)) / 2e-4;
}

static inline double curvature(int64_t sample, int64_t label, int i, int j)
{
    const double step = 1e-3;
    double sum = 0;
    for (int a = -1; a <= 1; a += 2)
        for (int b = -1; b <= 1; b += 2) {
            double g[GATES];
            for (int k = 0; k < GATES; k++)
                g[k] = 1;
            g[i] += a * step;
            g[j] += b * step;
            sum += a * b * loss(sample, label, g);
        }
    return sum / (4 * step * step);
}

/* ---- running criteria ---- */
static inline int criterion(const char *name)
{
    for (int i = 0; score_criteria[i]; i++)
        if (!strcmp(score_criteria[i], name))
            return i;
    fail_msg("no criterion '%s'", name);
    return -1;
}

struct scored {
    struct groups *g;
    double **score;
    struct err err;
    json_t *warnings;
};

static inline struct scored score_with(const struct model *m, const char *name, struct dataset *data, struct score_opts o)
{
    struct scored s = {0};
    o.criterion = criterion(name);
    o.model = m;
    o.data = data;
    o.warnings = warnings_new();
    s.g = groups_find(m, GROUPS_INNER, &s.err);
    if (!s.g)
        fail_msg("%s", s.err.msg);
    s.score = score_groups(s.g, &o, &s.err);
    s.warnings = warnings_json(o.warnings);
    warnings_free(o.warnings);
    return s;
}

static inline void scored_free(struct scored *s)
{
    score_free(s->score, s->g->n);
    groups_free(s->g);
    json_decref(s->warnings);
}

static inline void must(const struct scored *s)
{
    if (!s->score)
        fail_msg("%s", s->err.msg);
}

static inline bool warned(const struct scored *s, const char *part)
{
    json_t *w;
    size_t i;
    json_array_foreach(s->warnings, i, w) if (strstr(json_string_value(w), part)) return true;
    return false;
}

/* The groups of the network: 0 is conv1's, 1 is conv2's, the classes are frozen. */
static inline void check_groups(const struct scored *s)
{
    must(s);
    assert_int_equal(s->g->n, 3);
    assert_int_equal(s->g->at[0].n, A);
    assert_int_equal(s->g->at[1].n, B);
    assert_int_equal(s->g->at[2].n, 0);
    assert_null(s->score[2]);
}

/* want: [A + B]. */
static inline void expect(const struct scored *s, const double *want, double tolerance)
{
    check_groups(s);
    for (int i = 0; i < GATES; i++)
        g_near(i < A ? s->score[0][i] : s->score[1][i - A], want[i], tolerance * fmax(fabs(want[i]), 1e-3));
}

#endif
