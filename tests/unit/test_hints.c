/* SPDX-License-Identifier: Apache-2.0
 * Losses between features against their definitions, written naively in double, and against differences of
 * themselves; names of values. (tests/e2e/test_distill_torch.py compares with PyTorch.) */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/train/hints.h"
#include "tests/unit/graphs.h"

enum { MOST = 4096 };

static void fill(float *x, int n, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 0);
    for (int i = 0; i < n; i++)
        x[i] = (float)rng_normal(&rng);
}

/* ---- losses ---- */
struct loss_case {
    const char *name;
    int kind; /* 0 hint, 1 hint with regressor, 2 attention, 3 relation */
    int64_t n, rows, channels, inner, wide;
};
static const struct loss_case losses[] = {
    {"hint, images", 0, 3, 3, 4, 5, 4},      {"hint, tokens", 0, 2, 6, 4, 1, 4},
    {"regressor, images", 1, 3, 3, 4, 5, 7}, {"regressor, tokens", 1, 2, 6, 4, 1, 3},
    {"attention, images", 2, 3, 3, 4, 6, 1}, {"attention, tokens", 2, 2, 10, 4, 1, 1},
    {"relations", 3, 9, 9, 5, 1, 8},
};

struct data {
    float x[MOST], t[MOST], w[MOST], b[MOST], dx[MOST], dw[MOST], db[MOST];
};

static double evaluate(const struct loss_case *c, struct data *d, double scale, bool gradient)
{
    struct err err = {0};
    const struct feature f = {c->rows, c->channels, c->inner};
    struct hint_regressor r = {d->w, d->b, d->dw, d->db};
    double value = NAN;
    float *dx = gradient ? d->dx : NULL;
    int rc = -1;
    if (c->kind < 2)
        rc = hint_loss(&f, c->wide, d->x, d->t, c->kind ? &r : NULL, 0.7, scale, &value, dx, &err);
    else if (c->kind == 2)
        rc = attention_loss(NULL, &f, c->n, d->x, d->t, scale, &value, dx, &err);
    else
        rc = relation_loss(NULL, c->n, d->x, c->channels, d->t, c->wide, scale, &value, dx, &err);
    if (rc)
        fail_msg("%s: %s", c->name, err.msg);
    return value;
}

/* The definitions of hints.h, with nothing saved. */
static double naive_hint(const struct loss_case *c, const struct data *d)
{
    double sum = 0;
    for (int64_t r = 0; r < c->rows; r++)
        for (int64_t o = 0; o < c->wide; o++)
            for (int64_t i = 0; i < c->inner; i++) {
                double y = c->kind ? (double)d->b[o] : (double)d->x[(r * c->channels + o) * c->inner + i];
                for (int64_t k = 0; c->kind && k < c->channels; k++)
                    y += (double)d->w[o * c->channels + k] * (double)d->x[(r * c->channels + k) * c->inner + i];
                sum += pow(y - (double)d->t[(r * c->wide + o) * c->inner + i], 2);
            }
    return 0.5 * sum / (double)(c->rows * c->wide * c->inner) / 0.7;
}

static double naive_attention(const struct loss_case *c, const struct data *d)
{
    const int64_t places = c->rows / c->n * c->inner;
    double sum = 0;
    for (int64_t n = 0; n < c->n; n++) {
        double a[64] = {0}, length = 0;
        for (int64_t p = 0; p < places; p++)
            for (int64_t k = 0; k < c->channels; k++) {
                const int64_t row = n * (places / c->inner) + p / c->inner;
                a[p] += pow((double)d->x[(row * c->channels + k) * c->inner + p % c->inner], 2);
            }
        for (int64_t p = 0; p < places; p++)
            length += a[p] * a[p];
        for (int64_t p = 0; p < places; p++)
            sum += pow(a[p] / sqrt(length) - (double)d->t[n * places + p], 2);
    }
    return 0.5 * sum / (double)(c->n * places);
}

static double distance(const float *x, int64_t d, int64_t i, int64_t j)
{
    double sum = 0;
    for (int64_t k = 0; k < d; k++)
        sum += pow((double)x[i * d + k] - (double)x[j * d + k], 2);
    return sqrt(sum);
}

static double angle(const float *x, int64_t d, int64_t i, int64_t j, int64_t k)
{
    double sum = 0;
    if (i == j || i == k)
        return 0;
    for (int64_t c = 0; c < d; c++)
        sum += ((double)x[j * d + c] - (double)x[i * d + c]) * ((double)x[k * d + c] - (double)x[i * d + c]);
    return sum / distance(x, d, i, j) / distance(x, d, i, k);
}

static double huber(double d)
{
    return fabs(d) <= 1 ? d * d / 2 : fabs(d) - 0.5;
}

static double naive_relation(const struct loss_case *c, const struct data *d)
{
    double ms = 0, mt = 0, sum = 0, bend = 0;
    const int64_t n = c->n, pairs = n * (n - 1);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            ms += distance(d->x, c->channels, i, j) / (double)pairs;
            mt += distance(d->t, c->wide, i, j) / (double)pairs;
        }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++) {
            sum += huber(distance(d->x, c->channels, i, j) / ms - distance(d->t, c->wide, i, j) / mt);
            for (int64_t k = 0; k < n; k++)
                bend += huber(angle(d->x, c->channels, i, j, k) - angle(d->t, c->wide, i, j, k));
        }
    return sum / (double)(n * n) + 2 * bend / (double)(n * n * n);
}

static void check_gradient(const struct loss_case *c, struct data *d, float *at, const float *got, int64_t n)
{
    double worst = 0, most = 1e-9;
    for (int64_t i = 0; i < n; i++) {
        const float was = at[i], step = 1e-2f;
        at[i] = was + step;
        const double up = evaluate(c, d, 1, false);
        at[i] = was - step;
        const double down = evaluate(c, d, 1, false);
        at[i] = was;
        const double slope = (up - down) / (2 * (double)step);
        worst = fmax(worst, fabs(slope * 3 - (double)got[i]));
        most = fmax(most, fabs(slope) * 3);
    }
    if (worst > 1e-2 * most)
        fail_msg("%s: gradient is off by %g of %g", c->name, worst, most);
}

static void test_losses(void **state)
{
    struct data *d = calloc(1, sizeof *d);
    (void)state;
    for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++) {
        const struct loss_case *c = &losses[i];
        fill(d->x, MOST, 1);
        fill(d->t, MOST, 2);
        fill(d->w, MOST, 3);
        fill(d->b, MOST, 4);
        memset(d->dx, 0, sizeof d->dx);
        memset(d->dw, 0, sizeof d->dw);
        memset(d->db, 0, sizeof d->db);
        const double want = c->kind < 2    ? naive_hint(c, d)
                            : c->kind == 2 ? naive_attention(c, d)
                                           : naive_relation(c, d);
        g_near(evaluate(c, d, 3, true), want, 1e-5 * fabs(want));
        check_gradient(c, d, d->x, d->dx, c->rows * c->channels * c->inner);
        if (c->kind == 1) {
            check_gradient(c, d, d->w, d->dw, c->wide * c->channels);
            check_gradient(c, d, d->b, d->db, c->wide);
        }
        const float before = d->dx[0];
        evaluate(c, d, 3, true); /* gradients are added */
        g_near((double)d->dx[0], 2 * (double)before, 1e-5 * fabs((double)before) + 1e-9);
    }
    free(d);
}

/* Nothing to learn where both agree, and no NaN where points or features coincide. */
static void test_edges(void **state)
{
    struct data *d = calloc(1, sizeof *d);
    (void)state;
    fill(d->x, MOST, 5);
    memcpy(d->t, d->x, sizeof d->t);
    const struct loss_case same = {"same points", 3, 6, 6, 5, 1, 5}, one = {"one point", 3, 1, 1, 5, 1, 5};
    g_near(evaluate(&same, d, 1, true), 0, 1e-12);
    g_near(evaluate(&one, d, 1, true), 0, 0);
    memcpy(d->x + 5, d->x, 5 * sizeof *d->x); /* two students at one place */
    assert_true(evaluate(&same, d, 1, true) > 0);
    memset(d->x, 0, sizeof d->x);
    const struct loss_case flat = {"no activity", 2, 3, 3, 4, 6, 1};
    assert_true(isfinite(evaluate(&same, d, 1, true)));
    assert_true(isfinite(evaluate(&flat, d, 1, true)));
    for (int i = 0; i < MOST; i++)
        assert_true(isfinite(d->dx[i]));
    free(d);
}

/* The pool changes no bit. */
static void test_threads(void **state)
{
    struct data *d = calloc(1, sizeof *d);
    struct pool *pool = pool_new(3);
    double a, b;
    (void)state;
    fill(d->x, MOST, 6);
    fill(d->t, MOST, 7);
    const struct feature f = {16, 4, 36};
    memset(d->dx, 0, sizeof d->dx);
    assert_int_equal(attention_loss(NULL, &f, 16, d->x, d->t, 1, &a, d->dx, NULL), 0);
    assert_int_equal(attention_loss(pool, &f, 16, d->x, d->t, 1, &b, d->dw, NULL), 0);
    assert_true(a == b && !memcmp(d->dx, d->dw, sizeof d->dx));
    memset(d->dx, 0, sizeof d->dx);
    memset(d->dw, 0, sizeof d->dw);
    assert_int_equal(relation_loss(NULL, 40, d->x, 20, d->t, 30, 1, &a, d->dx, NULL), 0);
    assert_int_equal(relation_loss(pool, 40, d->x, 20, d->t, 30, 1, &b, d->dw, NULL), 0);
    assert_true(a == b && !memcmp(d->dx, d->dw, sizeof d->dx));
    pool_free(pool);
    free(d);
}

/* ---- names ---- */
/* x -> conv "c1:0" -> relu "r1" -> pool "p1" -> conv "c2" -> relu "r2" -> global pool -> flatten -> gemm -> softmax */
static struct model *network(const char *last)
{
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, 2, 8, 8));
    uint32_t v = G_OP(m, "Conv", "c1:0", x, g_random(m, "w1", SHAPE(3, 2, 1, 1), 1, 1));
    v = G_OP(m, "Relu", "r1", v);
    v = G_OP(m, "MaxPool", "p1", v);
    node_set_ints(m, g_maker(m, v), "kernel_shape", (int64_t[]){2, 2}, 2);
    node_set_ints(m, g_maker(m, v), "strides", (int64_t[]){2, 2}, 2);
    v = G_OP(m, "Conv", "c2", v, g_random(m, "w2", SHAPE(4, 3, 1, 1), 2, 1));
    v = G_OP(m, "Relu", last, v);
    v = G_OP(m, "GlobalAveragePool", "gap", v);
    v = G_OP(m, "Flatten", "flat", v);
    v = G_OP(m, "MatMul", "product", v, g_random(m, "w3", SHAPE(4, 5), 3, 1));
    v = G_OP(m, "Add", "scores", v, g_random(m, "b3", SHAPE(5), 4, 1));
    g_output(m, G_OP(m, "Softmax", "y", v));
    return m;
}

static void test_names(void **state)
{
    static const struct {
        const char *text, *student, *teacher, *error; /* the first pair */
        int count;
    } cases[] = {
        {"r1", "r1", "r1", NULL, 1},
        {"c1:0", "c1:0", "c1:0", NULL, 1}, /* a colon of the name itself */
        {"c1:0:c2", "c1:0", "c2", NULL, 1},
        {"r2:q2", "r2", "q2", NULL, 1},
        {"r*", "r1", "r1", NULL, 1}, /* the teacher has no r2 */
        {"[cp]1*", "c1:0", "c1:0", NULL, 2},
        {"r?:[rq]?", "r1", "r1", NULL, 2},
        {"nothing", NULL, NULL, "'nothing' names no value or node of the model; some it has are 'r1', 'p1'", 0},
        {"r1:nothing", NULL, NULL, "'nothing' names no value or node of the teacher", 0},
        {"r2", NULL, NULL, "'r2' names no value or node of the teacher", 0},
        {"r?:r1", NULL, NULL, "names 2 values of the model and 1 of the teacher", 0},
        {"w1", NULL, NULL, "names no value", 0}, /* a weight is nothing to reproduce */
        {"x", NULL, NULL, "names no value", 0},
    };
    struct model *s = network("r2"), *t = network("q2");
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct hint_pairs pairs = {0};
        struct err err = {0};
        const struct globs globs = {(const char *[]){cases[i].text}, 1};
        const int rc = hints_named(&pairs, &globs, "hints", s, t, &err);
        if ((rc != 0) != (cases[i].error != NULL) || (rc && !strstr(err.msg, cases[i].error)))
            fail_msg("%s: %d, %s", cases[i].text, rc, err.msg);
        assert_int_equal(rc ? 0 : pairs.count, cases[i].count);
        if (!rc) {
            assert_string_equal(s->values[pairs.at[0].student].name, cases[i].student);
            assert_string_equal(t->values[pairs.at[0].teacher].name, cases[i].teacher);
        }
        hint_pairs_fini(&pairs);
    }
    model_free(s);
    model_free(t);
}

static void test_found(void **state)
{
    struct model *s = network("r2"), *t = network("q2");
    struct hint_pairs pairs = {0};
    struct err err = {0};
    const struct type *a, *b;
    (void)state;
    struct plan *p = plan_new(s, &(struct plan_opts){0}, &err), *q = plan_new(t, &(struct plan_opts){0}, &err);
    assert_int_equal(plan_infer(p, &SHAPE(1, 2, 8, 8), &a, &err) || plan_infer(q, &SHAPE(1, 2, 8, 8), &b, &err), 0);
    assert_int_equal(hints_stage_ends(&pairs, s, a, t, b, &err), 0);
    assert_int_equal(pairs.count, 2); /* the last of 8 x 8, and of 4 x 4 what both have */
    assert_string_equal(s->values[pairs.at[0].student].name, "r1");
    assert_string_equal(s->values[pairs.at[1].student].name, "c2");
    hint_pairs_fini(&pairs);
    assert_int_equal(hints_embedding(s, g_value(s, "scores")), g_value(s, "flat"));
    assert_int_equal(hints_embedding(s, g_value(s, "c1:0")), VALUE_NONE); /* it reads the input */
    plan_free(p);
    plan_free(q);
    model_free(s);
    model_free(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_losses), cmocka_unit_test(test_edges), cmocka_unit_test(test_threads),
        cmocka_unit_test(test_names),  cmocka_unit_test(test_found),
    };
    engine_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
