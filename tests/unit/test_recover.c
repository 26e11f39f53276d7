/* SPDX-License-Identifier: Apache-2.0
 * recover.least_squares and recover.bn_stats: the formula against elimination in double, networks whose pruned channels are
 * copies of kept ones against the original, statistics against their definition, masks, and what is left alone. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/base/pool.h"
#include "core/prune/groups.h"
#include "core/prune/recover.h"
#include "core/stats/least_squares.h"
#include "tests/unit/graphs.h"

/* ---- the formula ---- */
enum { MOST_K = 12 };

/* a x = b by elimination with pivots; a is used up. */
static void eliminate(double a[MOST_K][MOST_K], double *b, int n)
{
    for (int c = 0; c < n; c++) {
        int best = c;
        for (int r = c + 1; r < n; r++)
            best = fabs(a[r][c]) > fabs(a[best][c]) ? r : best;
        for (int i = 0; i < n; i++) {
            const double t = a[c][i];
            a[c][i] = a[best][i];
            a[best][i] = t;
        }
        const double t = b[c];
        b[c] = b[best];
        b[best] = t;
        for (int r = c + 1; r < n; r++) {
            const double f = a[r][c] / a[c][c];
            for (int i = c; i < n; i++)
                a[r][i] -= f * a[c][i];
            b[r] -= f * b[c];
        }
    }
    for (int c = n; c-- > 0;) {
        for (int i = c + 1; i < n; i++)
            b[c] -= a[c][i] * b[i];
        b[c] /= a[c][c];
    }
}

/* One output's change over the weights that may change. */
static void naive(const float *x, const float *e, int n, int k, int outputs, int o, double ridge, const bool *keep,
                  double *change)
{
    double a[MOST_K][MOST_K] = {{0}}, b[MOST_K] = {0}, trace = 0;
    int at[MOST_K], count = 0;
    for (int i = 0; i < k; i++) {
        if (!keep || keep[o * k + i])
            at[count++] = i;
        for (int r = 0; r < n; r++)
            trace += (double)x[r * k + i] * (double)x[r * k + i] / n;
    }
    for (int r = 0; r < n; r++)
        for (int i = 0; i < count; i++) {
            b[i] += (double)e[r * outputs + o] * (double)x[r * k + at[i]] / n;
            for (int j = 0; j < count; j++)
                a[i][j] += (double)x[r * k + at[i]] * (double)x[r * k + at[j]] / n;
        }
    for (int i = 0; i < count; i++)
        a[i][i] += ridge * trace / k;
    eliminate(a, b, count);
    for (int i = 0; i < k; i++)
        change[i] = 0;
    for (int i = 0; i < count; i++)
        change[at[i]] = b[i];
}

static void test_formula(void **state)
{
    static const struct {
        int n, k, outputs;
        double ridge;
        bool masked;
    } cases[] = {{60, 7, 5, 1e-2, false}, {5, 11, 3, 1e-1, false}, {40, 12, 4, 1e-6, false},
                 {60, 7, 5, 1e-2, true},  {6, 12, 3, 1e-1, true},  {1, 3, 2, 1, false}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int n = cases[i].n, k = cases[i].k, outputs = cases[i].outputs;
        float x[60 * MOST_K], e[60 * 5], change[5 * MOST_K], pooled[5 * MOST_K];
        bool keep[5 * MOST_K];
        double want[MOST_K];
        struct err err = {0};
        struct rng rng;
        rng_init(&rng, i, 0);
        for (int r = 0; r < n; r++) {
            const double common = rng_normal(&rng);
            for (int c = 0; c < k; c++)
                x[r * k + c] = (float)(rng_normal(&rng) + common);
            for (int o = 0; o < outputs; o++)
                e[r * outputs + o] = (float)(rng_normal(&rng) + common);
        }
        for (int c = 0; c < outputs * k; c++)
            keep[c] = rng_below(&rng, 3) > 0;
        const struct rows rows = {x, n, k, k}, errors = {e, n, outputs, outputs};
        struct pool *pool = pool_new(2);
        struct least_squares *l = least_squares_new(&rows, NULL, &err), *p = least_squares_new(&rows, pool, &err);
        const bool *mask = cases[i].masked ? keep : NULL;
        assert_int_equal(least_squares_solve(l, 0.5, &errors, mask, change, &err), 0); /* another ridge first */
        assert_int_equal(least_squares_solve(l, cases[i].ridge, &errors, mask, change, &err), 0);
        assert_int_equal(least_squares_solve(p, cases[i].ridge, &errors, mask, pooled, &err), 0);
        assert_memory_equal(change, pooled, (size_t)(outputs * k) * sizeof *change);
        for (int o = 0; o < outputs; o++) {
            naive(x, e, n, k, outputs, o, cases[i].ridge, mask, want);
            for (int c = 0; c < k; c++) {
                g_near((double)change[o * k + c], want[c], 2e-5);
                if (mask && !mask[o * k + c])
                    assert_true(change[o * k + c] == 0);
            }
        }
        least_squares_free(l);
        least_squares_free(p);
        pool_free(pool);
    }
}

static void test_not_finite(void **state)
{
    float x[4] = {1, 2, INFINITY, 3};
    struct err err = {0};
    (void)state;
    assert_null(least_squares_new(&(struct rows){x, 2, 2, 2}, NULL, &err));
    assert_int_equal(err.code, ERR_MODEL);
}

/* ---- networks whose last half of channels are copies of the first, times 2 ---- */
enum { IN = 3, WIDE = 6, OUT = 5, SIDE = 7, SAMPLES = 48 };

/* Elements along `axis` in the second half become 2 times those in the first. */
static uint32_t copied(struct model *m, const char *name, struct shape shape, int axis, uint64_t seed)
{
    const uint32_t v = g_random(m, name, shape, seed, 0.5);
    float *w = tensor_f32(&m->values[v].weight->tensor);
    const int64_t inner = shape_product(&shape, axis + 1, shape.rank), size = shape.dim[axis],
                  outer = shape_product(&shape, 0, axis);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t c = 0; c < size / 2; c++)
            for (int64_t i = 0; i < inner; i++)
                w[(o * size + size / 2 + c) * inner + i] = 2 * w[(o * size + c) * inner + i];
    return v;
}

/* BatchNormalization that keeps the copies copies: mean and bias double with the channel, scale and variance are equal. */
static uint32_t batchnorm(struct model *m, const char *out, uint32_t x, uint64_t seed)
{
    char name[4][32];
    uint32_t p[4];
    for (int i = 0; i < 4; i++) {
        snprintf(name[i], sizeof name[i], "%s.%d", out, i);
        p[i] = copied(m, name[i], SHAPE(WIDE), 0, seed + (uint64_t)i);
        float *v = tensor_f32(&m->values[p[i]].weight->tensor);
        for (int c = 0; (i == 0 || i == 3) && c < WIDE / 2; c++)
            v[c] = v[c + WIDE / 2] = 0.5f + fabsf(v[c]);
    }
    return G_OP(m, "BatchNormalization", out, x, p[0], p[1], p[2], p[3]);
}

static uint32_t conv(struct model *m, const char *out, uint32_t x, uint32_t w, uint32_t b, int pad)
{
    const uint32_t y = b == VALUE_NONE ? G_OP(m, "Conv", out, x, w) : G_OP(m, "Conv", out, x, w, b);
    if (pad)
        node_set_ints(m, g_maker(m, y), "pads", (int64_t[]){pad, pad, pad, pad}, 4);
    return y;
}

static uint32_t image(struct model *m)
{
    return g_input(m, "x", SHAPE(DIM_UNKNOWN, IN, SIDE, SIDE));
}

static uint32_t plain(struct model *m)
{
    uint32_t x =
        conv(m, "first", image(m), copied(m, "w1", SHAPE(WIDE, IN, 3, 3), 0, 1), copied(m, "b1", SHAPE(WIDE), 0, 2), 0);
    x = G_OP(m, "Relu", "r", x);
    return conv(m, "last", x, g_random(m, "w2", SHAPE(OUT, WIDE, 3, 3), 3, 0.3), VALUE_NONE, 1);
}

static uint32_t with_batchnorm(struct model *m)
{
    uint32_t x = conv(m, "first", image(m), copied(m, "w1", SHAPE(WIDE, IN, 3, 3), 0, 1), VALUE_NONE, 0);
    x = G_OP(m, "Relu", "r", batchnorm(m, "bn", x, 5));
    x = conv(m, "middle", x, copied(m, "w2", SHAPE(WIDE, WIDE, 3, 3), 0, 3), VALUE_NONE, 1);
    x = G_OP(m, "Relu", "r2", batchnorm(m, "bn2", x, 15));
    return conv(m, "last", x, g_random(m, "w3", SHAPE(OUT, WIDE, 1, 1), 4, 0.3), g_random(m, "b3", SHAPE(OUT), 5, 1),
                0);
}

static uint32_t depthwise(struct model *m)
{
    uint32_t x = conv(m, "first", image(m), copied(m, "w1", SHAPE(WIDE, IN, 1, 1), 0, 1), VALUE_NONE, 0);
    x = G_OP(m, "Relu", "r", x);
    const uint32_t w = copied(m, "w2", SHAPE(WIDE, 1, 3, 3), 0, 3);
    float *v = tensor_f32(&m->values[w].weight->tensor);
    for (int i = 0; i < WIDE / 2 * 9; i++)
        v[WIDE / 2 * 9 + i] = v[i];
    x = conv(m, "deep", x, w, VALUE_NONE, 1);
    node_set_int(m, g_maker(m, x), "group", WIDE);
    x = G_OP(m, "Clip", "clip", x, g_const(m, "lo", SHAPE_SCALAR, &(float){0}));
    return conv(m, "last", x, g_random(m, "w3", SHAPE(OUT, WIDE, 1, 1), 4, 0.3), VALUE_NONE, 0);
}

static uint32_t residual(struct model *m)
{
    uint32_t x = conv(m, "first", image(m), copied(m, "w1", SHAPE(WIDE, IN, 3, 3), 0, 1), VALUE_NONE, 0);
    x = G_OP(m, "Relu", "r", x);
    uint32_t y =
        conv(m, "branch", x, copied(m, "w2", SHAPE(WIDE, WIDE, 3, 3), 0, 3), copied(m, "b2", SHAPE(WIDE), 0, 8), 1);
    uint32_t z = conv(m, "shortcut", x, copied(m, "w3", SHAPE(WIDE, WIDE, 1, 1), 0, 4), VALUE_NONE, 0);
    x = G_OP(m, "Relu", "r2", G_OP(m, "Add", "sum", y, z));
    return conv(m, "last", x, g_random(m, "w4", SHAPE(OUT, WIDE, 1, 1), 5, 0.3), VALUE_NONE, 0);
}

static uint32_t vectors(struct model *m)
{
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, 4, IN));
    x = G_OP(m, "MatMul", "first", x, copied(m, "w1", SHAPE(IN, WIDE), 1, 1));
    x = G_OP(m, "Relu", "r", G_OP(m, "Add", "shifted", x, copied(m, "b1", SHAPE(WIDE), 0, 2)));
    return G_OP(m, "MatMul", "last", x, g_random(m, "w2", SHAPE(WIDE, OUT), 3, 0.3));
}

static uint32_t gemms(struct model *m)
{
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, IN));
    x = G_OP(m, "Gemm", "first", x, copied(m, "w1", SHAPE(IN, WIDE), 1, 1), copied(m, "b1", SHAPE(WIDE), 0, 2));
    x = G_OP(m, "Relu", "r", x);
    x = G_OP(m, "Gemm", "last", x, g_random(m, "w2", SHAPE(OUT, WIDE), 3, 0.3), g_random(m, "b2", SHAPE(OUT), 4, 1));
    node_set_int(m, g_maker(m, x), "transB", 1);
    node_set_float(m, g_maker(m, x), "alpha", 0.5f);
    return x;
}

struct net {
    struct model *original, *pruned;
    struct tensor x;
    struct dataset *data;
    struct layer_report *layers;
    struct warnings *warnings;
    struct recover_opts opts;
};

/* The last half of every group goes. */
static void net_make(struct net *n, uint32_t (*build)(struct model *m))
{
    struct err err = {0};
    *n = (struct net){.original = g_new(17)};
    g_output(n->original, build(n->original));
    n->layers = layer_report_new();
    n->warnings = warnings_new();
    assert_int_equal(groups_prepare(n->original, n->warnings, &err), 0);
    n->pruned = model_clone(n->original, &err);
    struct groups *g = groups_find(n->pruned, GROUPS_INNER, &err);
    const bool *gone[16] = {NULL};
    bool last[WIDE];
    for (int i = 0; i < WIDE; i++)
        last[i] = i >= WIDE / 2;
    assert_non_null(g);
    assert_in_range(g->n, 1, 16);
    for (int i = 0; i < g->n; i++)
        if (!g->at[i].frozen && g->at[i].n == WIDE)
            gone[i] = last;
    if (groups_remove(g, n->pruned, gone, &err))
        fail_msg("%s", err.msg);
    groups_free(g);
    struct shape s = n->original->values[model_main(n->original)->inputs[0].value].type.shape;
    s.dim[0] = SAMPLES;
    g_fill(&n->x, s, 77, 1);
    n->data = g_dataset(&n->x, n->pruned);
    n->opts =
        (struct recover_opts){.original = n->original, .data = n->data, .layers = n->layers, .warnings = n->warnings};
}

static struct g_done net_done(struct net *n)
{
    return (struct g_done){.layers = layer_report_json(n->layers), .warnings = warnings_json(n->warnings)};
}

static void net_free(struct net *n)
{
    model_free(n->original);
    model_free(n->pruned);
    tensor_fini(&n->x);
    dataset_close(n->data);
    layer_report_free(n->layers);
    warnings_free(n->warnings);
}

static void test_copies(void **state)
{
    static const struct {
        const char *name, *row;
        uint32_t (*build)(struct model *m);
    } cases[] = {{"plain", "last", plain},         {"batchnorm", "middle", with_batchnorm},
                 {"depthwise", "last", depthwise}, {"residual", "shortcut", residual},
                 {"vectors", "last", vectors},     {"gemms", "last", gemms}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net n;
        struct err err = {0};
        net_make(&n, cases[i].build);
        const double before = g_error(n.original, n.pruned, &n.x, 0);
        if (recover_least_squares(n.pruned, &n.opts, &err) || model_validate(n.pruned, &err))
            fail_msg("%s: %s", cases[i].name, err.msg);
        const double after = g_error(n.original, n.pruned, &n.x, 0);
        if (!(before > 0.05) || !(after < 2e-3))
            fail_msg("%s: the error went from %g to %g", cases[i].name, before, after);
        struct g_done done = net_done(&n);
        g_expect_skipped(&done, "first", "still the original's");
        json_t *row = g_row(&done, cases[i].row);
        const double was = json_real_value(json_object_get(json_object_get(row, "before"), "error")),
                     is = json_real_value(json_object_get(json_object_get(row, "after"), "error"));
        assert_true(was > 0.01);
        assert_true(is < was * 1e-3);
        g_done(&done);
        net_free(&n);
    }
}

/* ---- what is kept and what is left alone ---- */
static void test_mask(void **state)
{
    struct net n;
    struct err err = {0};
    struct tensor mask = {0};
    (void)state;
    net_make(&n, gemms);
    const uint32_t w = g_value(n.pruned, "w2");
    const struct tensor *was = value_const(n.pruned, w);
    struct tensor zeroed = {0};
    assert_int_equal(tensor_copy(&zeroed, was, &err), 0);
    assert_int_equal(tensor_alloc(&mask, DTYPE_UINT8, &was->shape, &err), 0);
    for (int64_t i = 0; i < tensor_count(was); i++) {
        ((uint8_t *)mask.data)[i] = i % 3 != 0;
        if (i % 3 == 0)
            tensor_f32(&zeroed)[i] = 0;
    }
    assert_int_equal(value_set_weight(n.pruned, w, &zeroed), 0);
    value_set_note(n.pruned, w, "mask", NULL, &mask);
    const double before = g_squares(n.original, n.pruned, &n.x);
    assert_int_equal(recover_least_squares(n.pruned, &n.opts, &err), 0);
    assert_true(g_squares(n.original, n.pruned, &n.x) < before * 0.9);
    const struct tensor *now = value_const(n.pruned, w);
    for (int64_t i = 0; i < tensor_count(now); i++)
        if (i % 3 == 0)
            assert_true(tensor_f32(now)[i] == 0);
    tensor_fini(&mask);
    tensor_fini(&zeroed);
    net_free(&n);
}

static void test_unpruned(void **state)
{
    struct net n;
    struct err err = {0};
    (void)state;
    net_make(&n, plain);
    model_free(n.pruned);
    n.pruned = model_clone(n.original, &err);
    assert_int_equal(recover_least_squares(n.pruned, &n.opts, &err), 0);
    struct g_done done = net_done(&n);
    g_expect_skipped(&done, "first", "nothing before it was changed");
    g_expect_skipped(&done, "last", "nothing before it was changed");
    g_expect_warning(&done, "no layer was changed", true);
    g_done(&done);
    net_free(&n);
}

static void test_other_network(void **state)
{
    struct net n, other;
    struct err err = {0};
    (void)state;
    net_make(&n, plain);
    net_make(&other, vectors);
    n.opts.original = other.original;
    assert_int_equal(recover_least_squares(n.pruned, &n.opts, &err), 0);
    assert_int_equal(recover_bn_stats(n.pruned, &n.opts, &err), 0);
    struct g_done done = net_done(&n);
    g_expect_skipped(&done, "first", "the original network");
    g_expect_skipped(&done, "last", "the original network");
    g_done(&done);
    net_free(&n);
    net_free(&other);
}

static void test_shared(void **state)
{
    struct model *m = g_new(17);
    struct err err = {0};
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, WIDE)), w = g_random(m, "w", SHAPE(WIDE, WIDE), 1, 0.5);
    (void)state;
    g_output(m, G_OP(m, "MatMul", "b", G_OP(m, "Relu", "r", G_OP(m, "MatMul", "a", x, w)), w));
    struct model *changed = model_clone(m, &err);
    struct tensor t = {0};
    g_fill(&t, SHAPE(WIDE, WIDE), 5, 1);
    assert_int_equal(value_set_weight(changed, w, &t), 0);
    tensor_fini(&t);
    g_fill(&t, SHAPE(SAMPLES, WIDE), 6, 1);
    struct dataset *ds = g_dataset(&t, m);
    struct net n = {.layers = layer_report_new(), .warnings = warnings_new()};
    n.opts = (struct recover_opts){.original = m, .data = ds, .layers = n.layers, .warnings = n.warnings};
    assert_int_equal(recover_least_squares(changed, &n.opts, &err), 0);
    struct g_done done = net_done(&n);
    g_expect_skipped(&done, "a", "shared");
    g_expect_skipped(&done, "b", "shared");
    g_done(&done);
    dataset_close(ds);
    tensor_fini(&t);
    model_free(m);
    model_free(changed);
    layer_report_free(n.layers);
    warnings_free(n.warnings);
}

static int stop_at_once(void *arg, int64_t done, int64_t total, struct err *err)
{
    (void)done;
    (void)total;
    ++*(int *)arg;
    return err_set(err, ERR_CANCELED, "canceled");
}

static void test_kinds(void **state)
{
    struct net n;
    struct err err = {0};
    int calls = 0;
    (void)state;
    net_make(&n, with_batchnorm);
    const double before = g_error(n.original, n.pruned, &n.x, 0);
    n.opts.data = NULL;
    assert_int_equal(recover_run(RECOVER_AUTO, n.pruned, &n.opts, &err), 0);
    assert_int_equal(recover_run(RECOVER_NONE, n.pruned, &n.opts, &err), 0);
    assert_true(g_error(n.original, n.pruned, &n.x, 0) == before);
    struct g_done done = net_done(&n);
    g_expect_warning(&done, "give a dataset", true);
    g_done(&done);
    assert_int_equal(recover_run(RECOVER_LEAST_SQUARES, n.pruned, &n.opts, &err), -1);
    assert_int_equal(err.code, ERR_DATASET);
    n.opts.data = n.data;
    n.opts.progress = stop_at_once;
    n.opts.progress_arg = &calls;
    for (int kind = RECOVER_BN_STATS; kind <= RECOVER_LEAST_SQUARES; kind++) {
        err = (struct err){0};
        assert_int_equal(recover_run((enum recover_kind)kind, n.pruned, &n.opts, &err), -1);
        assert_int_equal(err.code, ERR_CANCELED);
    }
    assert_int_equal(calls, 2);
    n.opts.progress = NULL;
    assert_int_equal(recover_run(RECOVER_AUTO, n.pruned, &n.opts, &(struct err){0}), 0);
    assert_true(g_error(n.original, n.pruned, &n.x, 0) < 2e-3);
    assert_string_equal(recover_kinds[RECOVER_LEAST_SQUARES], "least_squares");
    assert_null(recover_kinds[RECOVER_LEAST_SQUARES + 1]);
    net_free(&n);
}

/* ---- statistics ---- */
/* Mean and variance of the channels (axis 1) of a value, over the samples. */
static void moments(const struct model *m, const char *value, const struct tensor *x, double *mean, double *var)
{
    struct model *seen = model_clone(m, NULL);
    struct tensor y = {0};
    g_output(seen, g_value(seen, value));
    g_run(seen, x, model_main(seen)->n_outputs - 1, &y);
    const int64_t channels = y.shape.dim[1], inner = shape_product(&y.shape, 2, y.shape.rank),
                  n = y.shape.dim[0] * inner;
    for (int64_t c = 0; c < channels; c++) {
        double sum = 0, square = 0;
        for (int64_t s = 0; s < y.shape.dim[0]; s++)
            for (int64_t i = 0; i < inner; i++)
                sum += (double)tensor_f32(&y)[(s * channels + c) * inner + i];
        mean[c] = sum / (double)n;
        for (int64_t s = 0; s < y.shape.dim[0]; s++)
            for (int64_t i = 0; i < inner; i++)
                square += pow((double)tensor_f32(&y)[(s * channels + c) * inner + i] - mean[c], 2);
        var[c] = square / (double)n;
    }
    tensor_fini(&y);
    model_free(seen);
}

static void test_batchnorm_statistics(void **state)
{
    struct net n;
    struct err err = {0};
    double mean[WIDE], var[WIDE];
    (void)state;
    net_make(&n, with_batchnorm);
    assert_int_equal(recover_bn_stats(n.pruned, &n.opts, &err), 0);
    moments(n.pruned, "middle", &n.x, mean, var);
    const struct node *bn = g_made(n.pruned, "bn2");
    for (int c = 0; c < WIDE / 2; c++) {
        g_near((double)tensor_f32(value_const(n.pruned, bn->input[3]))[c], mean[c], 1e-5);
        g_near((double)tensor_f32(value_const(n.pruned, bn->input[4]))[c], var[c], 1e-5 * (1 + var[c]));
    }
    struct g_done done = net_done(&n);
    g_expect_skipped(&done, "bn", "still the original's");
    assert_null(json_object_get(g_row(&done, "bn2"), "skipped"));
    g_done(&done);
    net_free(&n);
}

/* Statistics of BatchNormalization after a fit are those of the samples: estimating them again changes nothing. */
static void test_fit_keeps_statistics(void **state)
{
    struct net n;
    struct err err = {0};
    double mean[WIDE], var[WIDE];
    (void)state;
    net_make(&n, with_batchnorm);
    assert_int_equal(recover_least_squares(n.pruned, &n.opts, &err), 0);
    moments(n.pruned, "middle", &n.x, mean, var);
    const struct node *bn = g_made(n.pruned, "bn2");
    for (int c = 0; c < WIDE / 2; c++) {
        g_near((double)tensor_f32(value_const(n.pruned, bn->input[3]))[c], mean[c], 1e-4 * (1 + fabs(mean[c])));
        g_near((double)tensor_f32(value_const(n.pruned, bn->input[4]))[c], var[c], 1e-4 * (1 + var[c]));
    }
    net_free(&n);
}

static void test_folded_statistics(void **state)
{
    static const struct {
        uint32_t (*build)(struct model *m);
        const char *value;
    } cases[] = {{residual, "branch"}, {gemms, "last"}};
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct net n;
        struct err err = {0};
        double mean[WIDE], var[WIDE], was_mean[WIDE], was_var[WIDE];
        net_make(&n, cases[i].build);
        assert_int_equal(recover_bn_stats(n.pruned, &n.opts, &err), 0);
        moments(n.pruned, cases[i].value, &n.x, mean, var);
        moments(n.original, cases[i].value, &n.x, was_mean, was_var);
        for (int c = 0; c < WIDE / 2; c++) { /* the first half was kept */
            g_near(mean[c], was_mean[c], 1e-4 * (1 + fabs(was_mean[c])));
            g_near(var[c], was_var[c], 1e-3 * (1 + was_var[c]));
        }
        net_free(&n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_copies),
        cmocka_unit_test(test_mask),
        cmocka_unit_test(test_unpruned),
        cmocka_unit_test(test_other_network),
        cmocka_unit_test(test_shared),
        cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_batchnorm_statistics),
        cmocka_unit_test(test_fit_keeps_statistics),
        cmocka_unit_test(test_folded_statistics),
    };
    engine_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
