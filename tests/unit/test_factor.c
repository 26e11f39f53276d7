/* SPDX-License-Identifier: Apache-2.0
 * The factor methods: at full rank every scheme is the layer again, for all strides, pads, dilations and groups; the
 * errors that are foretold are those there are; the fit solves its normal equations; variational Bayes finds a planted
 * rank; what is left alone. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/factor/factor.h"
#include "core/factor/linear.h"
#include "core/stats/pair_gram.h"
#include "tests/unit/graphs.h"

/* ---- full rank ---- */
struct shape_case {
    int spatial, group;
    int64_t in, out, size[3], kernel[3], stride[3], dilation[3], pad[6];
    const char *auto_pad;
    bool bias;
};

static const struct shape_case cases[] = {
    {2, 1, 3, 5, {9, 8}, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, NULL, true},
    {2, 1, 3, 5, {9, 8}, {3, 3}, {2, 1}, {1, 1}, {1, 0, 2, 1}, NULL, false},
    {2, 1, 4, 3, {11, 12}, {3, 2}, {1, 3}, {2, 1}, {0, 2, 1, 0}, NULL, true},
    {2, 2, 4, 6, {7, 7}, {3, 3}, {2, 2}, {1, 1}, {1, 1, 1, 1}, NULL, true},
    {2, 1, 3, 4, {7, 10}, {3, 5}, {2, 3}, {1, 1}, {0}, "SAME_UPPER", true},
    {2, 1, 3, 4, {8, 10}, {2, 3}, {3, 2}, {1, 1}, {0}, "SAME_LOWER", false},
    {2, 3, 6, 9, {8, 10}, {2, 3}, {3, 2}, {1, 1}, {0}, "VALID", false},
    {2, 1, 5, 7, {6, 6}, {1, 1}, {2, 2}, {1, 1}, {1, 0, 0, 1}, NULL, true},
    {2, 2, 6, 4, {6, 6}, {1, 1}, {1, 2}, {1, 1}, {0, 0, 0, 0}, NULL, false},
    {2, 1, 3, 4, {6, 6}, {3, 1}, {1, 2}, {1, 1}, {1, 0, 1, 0}, NULL, true},
    {1, 1, 3, 4, {12}, {4}, {2}, {2}, {3, 1}, NULL, true},
    {1, 1, 5, 4, {12}, {1}, {1}, {1}, {0, 0}, NULL, true},
    {3, 1, 2, 3, {5, 6, 7}, {2, 3, 2}, {1, 2, 1}, {1, 1, 2}, {1, 0, 1, 0, 1, 1}, NULL, true},
};

static struct model *conv_model(const struct shape_case *c, struct tensor *x)
{
    struct model *m = g_new(13);
    struct shape in = {.rank = c->spatial + 2, .dim = {2, c->in}},
                 w = {.rank = in.rank, .dim = {c->out, c->in / c->group}};
    for (int a = 0; a < c->spatial; a++) {
        in.dim[2 + a] = c->size[a];
        w.dim[2 + a] = c->kernel[a];
    }
    uint32_t v = g_input(m, "x", in), weight = g_random(m, "w", w, 3, 1);
    uint32_t y = c->bias ? G_OP(m, "Conv", "y", v, weight, g_random(m, "b", SHAPE(c->out), 4, 1))
                         : G_OP(m, "Conv", "y", v, weight);
    const uint32_t node = g_maker(m, y);
    node_set_int(m, node, "group", c->group);
    node_set_ints(m, node, "strides", c->stride, c->spatial);
    node_set_ints(m, node, "dilations", c->dilation, c->spatial);
    if (c->auto_pad)
        node_set_string(m, node, "auto_pad", c->auto_pad);
    else
        node_set_ints(m, node, "pads", c->pad, 2 * c->spatial);
    g_output(m, y);
    g_fill(x, in, 5, 1);
    return m;
}

/* Second moments of any kind: G G^T of random G. */
static double *random_moments(const struct layer *l)
{
    const int64_t n = l->in * l->taps;
    double *c = calloc((size_t)(l->groups * n * n), sizeof *c), *g = calloc((size_t)(n * n), sizeof *g);
    struct rng rng;
    rng_init(&rng, 9, 0);
    assert_true(c && g);
    for (int64_t at = 0; at < l->groups; at++) {
        for (int64_t i = 0; i < n * n; i++)
            g[i] = rng_normal(&rng);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                for (int64_t k = 0; k < n; k++)
                    c[(at * n + i) * n + j] += g[i * n + k] * g[j * n + k];
    }
    free(g);
    return c;
}

/* The only layer of m in this scheme; false: it is refused. */
static bool find_layer(struct layers *x, struct model *m, const struct scheme *s)
{
    static const struct globs none;
    struct err err = {0};
    const struct layers_opts o = {s, &none, &none, NULL};
    if (layers_find(x, m, &o, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(x->n, 1);
    return !x->at[0].why;
}

/* The layer at these ranks in place of itself. */
static void replace(struct model *m, struct layers *x, const int64_t rank[2], bool moments, double tolerance)
{
    struct layer *l = &x->at[0];
    struct stage stage[MOST_STAGES];
    struct err err = {0};
    struct edit e;
    double *w = layer_weight(m, l, &err), *c = moments ? random_moments(l) : NULL;
    assert_non_null(w);
    l->whole = true;
    if (x->scheme->prepare(l, w, &(struct moments){c, 100}, 1, &err))
        fail_msg("%s: %s", x->scheme->name, err.msg);
    const int n = x->scheme->shape(l, rank, stage);
    assert_int_equal(stages_alloc(l, stage, n, &err), 0);
    assert_int_equal(x->scheme->make(l, w, rank, stage, &err), 0);
    g_near(stages_error(l, stage, n, w, &err), 0, tolerance);
    stages_balance(l, stage, n);
    g_near(stages_error(l, stage, n, w, &err), 0, tolerance);
    assert_int_equal(edit_init(&e, m, &err), 0);
    assert_int_equal(stages_build(&e, l, stage, n, NULL, &err), 0);
    assert_int_equal(edit_finish(&e, &err), 0);
    edit_fini(&e);
    assert_int_equal(model_main(m)->n_nodes, n);
    if (model_validate(m, &err))
        fail_msg("%s: %s", x->scheme->name, err.msg);
    stages_fini(stage, n);
    free(w);
    free(c);
}

static int64_t full(const struct scheme *s, const struct layer *l, int64_t rank[2])
{
    const int64_t first = s == &scheme_spatial_svd ? l->kernel[0] : 1;
    rank[1] = 0;
    if (s == &scheme_depthwise)
        rank[0] = l->out < l->taps ? l->out : l->taps;
    else
        rank[0] = l->in * first < l->out * l->taps / first ? l->in * first : l->out * l->taps / first;
    return rank[0];
}

static void test_full_rank(void **state)
{
    static const struct scheme *const schemes[] = {&scheme_svd, &scheme_spatial_svd, &scheme_depthwise};
    int done = 0;
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (size_t k = 0; k < 3; k++)
            for (int moments = 0; moments < 2; moments++) {
                struct tensor x = {0};
                struct model *m = conv_model(&cases[i], &x), *was = model_clone(m, NULL);
                struct layers found;
                int64_t rank[2];
                if (find_layer(&found, m, schemes[k])) {
                    full(schemes[k], &found.at[0], rank);
                    replace(m, &found, rank, moments, 1e-12);
                    g_near(g_error(was, m, &x, 0), 0, 2e-6);
                    done++;
                }
                layers_free(&found);
                model_free(m);
                model_free(was);
                tensor_fini(&x);
            }
    assert_int_equal(done, 2 * (3 + 10 + 10));
}

/* Tucker keeps all of one side and leaves its product out; one short of all of both is three products. */
static void test_tucker_sides(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int side = 0; side < 2; side++) {
            struct tensor x = {0};
            struct model *m = conv_model(&cases[i], &x), *was = model_clone(m, NULL);
            struct layers found;
            if (find_layer(&found, m, &scheme_tucker)) {
                struct layer *l = &found.at[0];
                const int64_t rank[2] = {l->in, l->out};
                replace(m, &found, rank, side, 1e-12); /* nothing is left out: one product, the layer */
                g_near(g_error(was, m, &x, 0), 0, 2e-6);
            }
            layers_free(&found);
            model_free(m);
            model_free(was);
            tensor_fini(&x);
        }
}

/* A weight of low rank along channels is met exactly by three products, one of few components by CP. */
static struct model *low_rank_model(const struct shape_case *c, int64_t r, bool components, struct tensor *x)
{
    struct model *m = conv_model(c, x);
    struct tensor t = {0};
    const uint32_t v = g_value(m, "w");
    const int64_t in = c->in / c->group, taps = tensor_count(value_const(m, v)) / (c->out * in);
    struct rng rng;
    double a[64], b[64], d[512];
    rng_init(&rng, 8, 0);
    assert_int_equal(tensor_copy(&t, value_const(m, v), NULL), 0);
    for (int64_t g = 0; g < c->group; g++) {
        const int64_t out = c->out / c->group;
        for (int i = 0; i < 64; i++) {
            a[i] = rng_normal(&rng);
            b[i] = rng_normal(&rng);
        }
        for (int i = 0; i < 512; i++)
            d[i] = rng_normal(&rng);
        for (int64_t o = 0; o < out; o++)
            for (int64_t i = 0; i < in; i++)
                for (int64_t s = 0; s < taps; s++) {
                    double sum = 0;
                    for (int64_t p = 0; p < r; p++)
                        for (int64_t q = 0; q < r; q++) {
                            const int64_t last = c->kernel[c->spatial - 1];
                            const double core = components
                                                    ? p == q ? d[s / last * r + p] * d[256 + s % last * r + p] : 0
                                                    : d[(p * r + q) * taps + s];
                            sum += a[o * r + p] * b[i * r + q] * core;
                        }
                    tensor_f32(&t)[((g * out + o) * in + i) * taps + s] = (float)sum;
                }
    }
    assert_int_equal(value_set_weight(m, v, &t), 0);
    tensor_fini(&t);
    return m;
}

static void test_low_rank(void **state)
{
    (void)state;
    for (size_t i = 0; i < 7; i++)
        for (int cp = 0; cp < 2; cp++)
            for (int moments = 0; moments < 2; moments++) {
                struct tensor x = {0};
                struct model *m = low_rank_model(&cases[i], 1, cp, &x), *was = model_clone(m, NULL);
                struct layers found;
                assert_true(find_layer(&found, m, cp ? &scheme_cp : &scheme_tucker));
                const int64_t rank[2] = {1, cp ? 0 : 1};
                replace(m, &found, rank, moments, 1e-8);
                g_near(g_error(was, m, &x, 0), 0, cp ? 2e-4 : 2e-5);
                layers_free(&found);
                model_free(m);
                model_free(was);
                tensor_fini(&x);
            }
}

/* ---- foretold errors ---- */
static void test_errors(void **state)
{
    static const struct scheme *const schemes[] = {&scheme_spatial_svd, &scheme_tucker, &scheme_depthwise};
    (void)state;
    for (int k = 0; k < 3; k++) {
        const struct shape_case c = {2, 1, 12, 16, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, NULL, true};
        struct tensor x = {0};
        struct model *m = conv_model(&c, &x);
        struct layers found;
        struct err err = {0};
        assert_true(find_layer(&found, m, schemes[k]));
        struct layer *l = &found.at[0];
        double *w = layer_weight(m, l, &err);
        assert_int_equal(found.scheme->prepare(l, w, &(struct moments){0}, 1, &err), 0);
        assert_true(l->n_points > 2);
        for (int i = 0; i < l->n_points; i += 1 + l->n_points / 40) {
            struct stage stage[MOST_STAGES];
            const int n = found.scheme->shape(l, l->at[i].rank, stage);
            assert_int_equal(stages_alloc(l, stage, n, &err), 0);
            assert_int_equal(found.scheme->make(l, w, l->at[i].rank, stage, &err), 0);
            g_near(stages_error(l, stage, n, w, &err), l->at[i].error, 1e-9);
            assert_true(l->at[i].params < l->params && l->at[i].macs < l->macs);
            stages_fini(stage, n);
        }
        free(w);
        layers_free(&found);
        model_free(m);
        tensor_fini(&x);
    }
}

/* ---- linear algebra ---- */
static void test_svd(void **state)
{
    enum { M = 7, N = 4 };
    (void)state;
    double a[M * N], copy[M * N];
    struct rng rng;
    struct err err = {0};
    struct svd s;
    rng_init(&rng, 2, 0);
    for (int i = 0; i < M * N; i++)
        copy[i] = a[i] = rng_normal(&rng);
    assert_int_equal(svd_make(&s, a, M, N, &err), 0);
    for (int i = 0; i < M; i++)
        for (int j = 0; j < N; j++) {
            double sum = 0;
            for (int r = 0; r < N; r++)
                sum += s.u[i * N + r] * s.s[r] * s.vt[r * N + j];
            g_near(sum, copy[i * N + j], 1e-12);
        }
    for (int r = 0; r < N; r++) {
        double most = 0;
        for (int i = 0; i < M; i++)
            most = fabs(s.u[i * N + r]) > fabs(most) ? s.u[i * N + r] : most;
        assert_true(most > 0 && (r == 0 || s.s[r] <= s.s[r - 1]));
    }
    svd_fini(&s);
    a[3] = NAN;
    assert_int_equal(svd_make(&s, a, M, N, &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
}

/* A planted rank under noise, and noise alone. */
static void test_vbmf(void **state)
{
    enum { L = 40, M = 90 };
    static const struct {
        int rank;
        double noise;
    } planted[] = {{0, 1}, {1, 0.1}, {5, 0.3}, {12, 0.05}};
    (void)state;
    for (size_t k = 0; k < sizeof planted / sizeof *planted; k++) {
        double *a = calloc(L * M, sizeof *a), p[L], q[M];
        struct rng rng;
        struct svd s;
        struct err err = {0};
        rng_init(&rng, 4 + k, 0);
        for (int r = 0; r < planted[k].rank; r++) {
            for (int i = 0; i < L; i++)
                p[i] = rng_normal(&rng);
            for (int j = 0; j < M; j++)
                q[j] = rng_normal(&rng);
            for (int i = 0; i < L * M; i++)
                a[i] += p[i / M] * q[i % M];
        }
        for (int i = 0; i < L * M; i++)
            a[i] += planted[k].noise * rng_normal(&rng);
        assert_int_equal(svd_make(&s, a, L, M, &err), 0);
        assert_int_equal(vbmf_rank(s.s, L, M), planted[k].rank);
        assert_int_equal(vbmf_rank(s.s, M, L), planted[k].rank);
        svd_fini(&s);
        free(a);
    }
    assert_int_equal(vbmf_rank((double[]){0, 0}, 2, 5), 0);
    assert_int_equal(vbmf_rank((double[]){3}, 1, 1), vbmf_rank((double[]){3}, 1, 1));
}

/* The fitted stage: no small change of it makes the squared error less. */
static void test_fit(void **state)
{
    (void)state;
    const struct shape_case c = {2, 1, 4, 6, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, NULL, true};
    struct tensor x = {0};
    struct model *m = conv_model(&c, &x);
    struct layers found;
    struct err err = {0};
    assert_true(find_layer(&found, m, &scheme_spatial_svd));
    struct layer *l = &found.at[0];
    const int64_t n = l->in * l->taps, rank[2] = {3, 0};
    double *w = layer_weight(m, l, &err), *cov = random_moments(l), shift[6] = {0};
    double *mean = calloc((size_t)n, sizeof *mean);
    struct stage stage[MOST_STAGES];
    for (int64_t i = 0; i < n; i++)
        mean[i] = 0.1 * (double)i;
    for (int64_t i = 0; i < n * n; i++)
        cov[i] += mean[i / n] * mean[i % n];
    const struct pair_moments p = {
        .groups = 1, .k = n, .rows = 1 << 30, .bb = cov, .ab = cov, .mean_a = mean, .mean_b = mean};
    assert_int_equal(found.scheme->prepare(l, w, &(struct moments){0}, 1, &err), 0);
    const int k = found.scheme->shape(l, rank, stage);
    assert_int_equal(stages_alloc(l, stage, k, &err), 0);
    assert_int_equal(found.scheme->make(l, w, rank, stage, &err), 0);
    double error[3];
    for (int step = 0; step < 3; step++) {
        if (step == 1 && stages_fit(l, w, stage, k, &p, true, shift, &err))
            fail_msg("%s", err.msg);
        if (step == 2)
            stage[1].w[5] += 0.02;
        double *is = stages_compose(l, stage, k, &err), sum = 0;
        for (int64_t o = 0; o < l->out; o++) {
            double bias = 0;
            for (int64_t i = 0; i < n; i++)
                bias += (w[o * n + i] - is[o * n + i]) * mean[i];
            for (int64_t i = 0; i < n; i++)
                for (int64_t j = 0; j < n; j++)
                    sum += (w[o * n + i] - is[o * n + i]) * (cov[i * n + j] - mean[i] * mean[j]) *
                           (w[o * n + j] - is[o * n + j]);
            if (step == 1)
                g_near(shift[o], bias, 1e-9);
        }
        error[step] = sum;
        free(is);
    }
    assert_true(error[1] < 0.95 * error[0] && error[1] < error[2]);
    stages_fini(stage, k);
    free(w);
    free(cov);
    free(mean);
    layers_free(&found);
    model_free(m);
    tensor_fini(&x);
}

/* ---- the step ---- */
/* Gemm, MatMul from both sides, and a 1x1 with two readers of its weight. */
static struct model *matrices(int64_t opset, struct tensor *x)
{
    struct model *m = g_new(opset);
    uint32_t v = g_input(m, "x", SHAPE(3, 20)), y;
    float u[40 * 24], t[24 * 40];
    for (int i = 0; i < 40 * 24; i++) /* rank 2 */
        u[i] = (float)((i / 24 % 7 - 3) * (i % 24 % 5) + (i / 24 % 3) * (i % 24 % 11 - 4)) * 0.05f;
    for (int i = 0; i < 40 * 24; i++)
        t[i % 24 * 40 + i / 24] = u[i];
    uint32_t bias = g_random(m, "bias", SHAPE(24), 3, 1);
    y = G_OP(m, "Gemm", "gemm", G_OP(m, "MatMul", "wide", v, g_random(m, "w0", SHAPE(20, 40), 4, 0.1)),
             g_const(m, "w1", SHAPE(40, 24), u), bias);
    node_set_float(m, g_maker(m, y), "alpha", 0.5f);
    node_set_float(m, g_maker(m, y), "beta", 2.0f);
    y = G_OP(m, "MatMul", "left", g_const(m, "w2", SHAPE(1, 24, 40), t),
             G_OP(m, "Reshape", "column", y, g_ints(m, "to", 3, (int64_t[]){1, 40, -1})));
    g_output(m, y);
    g_fill(x, SHAPE(5, 20), 6, 1);
    return m;
}

static void test_matrices(void **state)
{
    (void)state;
    for (int64_t opset = 9; opset <= 13; opset += 4) {
        struct tensor x = {0};
        struct model *m = matrices(opset, &x);
        model_main(m)->inputs[0].type.shape.dim[0] = 5;
        struct model *was = model_clone(m, NULL);
        struct g_done d = g_apply(m, "factor.svd energy=0.999999 exclude=wide", NULL);
        assert_int_equal(d.rc, 0);
        g_near(g_error(was, m, &x, 0), 0, 1e-5);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(g_row(&d, "gemm"), "after"), "rank")), 2);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(g_row(&d, "left"), "after"), "rank")), 2);
        g_expect_skipped(&d, "wide", "include and exclude");
        assert_int_equal(g_count(m, "Gemm"), opset >= 11 ? 2 : 1);
        assert_int_equal(g_count(m, "MatMul"), opset >= 11 ? 3 : 4);
        g_done(&d);
        model_free(m);
        model_free(was);
        tensor_fini(&x);
    }
}

/* Weights that nothing can be made of, each with its reason. */
static void test_left_alone(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    float bad[36] = {1, 2, NAN}, big[36] = {1, INFINITY}, zero[36] = {0};
    uint32_t x = g_input(m, "x", SHAPE(1, 6)), shared = g_random(m, "shared", SHAPE(6, 6), 2, 1);
    uint32_t y = G_OP(m, "MatMul", "nan", x, g_const(m, "w0", SHAPE(6, 6), bad));
    y = G_OP(m, "MatMul", "inf", y, g_const(m, "w1", SHAPE(6, 6), big));
    y = G_OP(m, "MatMul", "zero", y, g_const(m, "w2", SHAPE(6, 6), zero));
    y = G_OP(m, "MatMul", "first", y, shared);
    y = G_OP(m, "MatMul", "second", y, shared);
    y = G_OP(m, "MatMul", "tiny", y, g_random(m, "w3", SHAPE(6, 1), 2, 1));
    y = G_OP(m, "MatMul", "thin", y, g_random(m, "w4", SHAPE(1, 6), 2, 1));
    y = G_OP(m, "MatMul", "vector", y, g_random(m, "w5", SHAPE(6), 2, 1));
    g_output(m, y);
    struct g_done d = g_apply(m, "factor.svd", NULL);
    assert_int_equal(d.rc, 0);
    g_expect_skipped(&d, "nan", "not finite");
    g_expect_skipped(&d, "inf", "not finite");
    g_expect_skipped(&d, "zero", "all zeros");
    g_expect_skipped(&d, "first", "shared");
    g_expect_skipped(&d, "tiny", "too small");
    g_expect_skipped(&d, "thin", "too small");
    g_expect_skipped(&d, "vector", "a vector");
    g_expect_warning(&d, "changed nothing", true);
    g_done(&d);
    model_free(m);
}

static struct model *network(struct tensor *x)
{
    const struct shape_case c = {2, 1, 12, 16, {6, 6}, {3, 3}, {1, 1}, {1, 1}, {1, 1, 1, 1}, NULL, true};
    struct model *m = conv_model(&c, x);
    model_main(m)->inputs[0].type.shape.dim[0] = -1;
    model_main(m)->n_outputs = 0;
    uint32_t y = G_OP(m, "Relu", "r", g_value(m, "y"));
    y = G_OP(m, "Conv", "z", y, g_random(m, "w2", SHAPE(10, 16, 3, 3), 11, 0.2), g_random(m, "b2", SHAPE(10), 12, 1));
    g_output(m, y);
    tensor_fini(x);
    g_fill(x, SHAPE(40, 12, 6, 6), 5, 1);
    for (int64_t i = 0; i < tensor_count(x); i++) /* channels that depend on each other */
        tensor_f32(x)[i] = i / 36 % 12 ? 0.3f * tensor_f32(x)[i] + 0.9f * tensor_f32(x)[i - 36] : tensor_f32(x)[i];
    return m;
}

static void test_data(void **state)
{
    static const char *const schemes[] = {"svd", "spatial_svd", "tucker", "cp", "depthwise_separable"};
    (void)state;
    for (int k = 1; k < 5; k++) {
        double squares[3];
        struct model *made[2] = {NULL};
        for (int i = 0; i < 4; i++) {
            char words[120];
            struct tensor x = {0};
            struct model *m = network(&x), *was = model_clone(m, NULL);
            snprintf(words, sizeof words, "factor.%s target=macs:0.5 recover=%s", schemes[k], i == 1 ? "none" : "auto");
            g_pool = i == 3 ? pool_new(3) : NULL;
            struct g_done d = g_apply(m, words, i ? &x : NULL);
            assert_int_equal(d.rc, 0);
            if (i < 3)
                squares[i] = g_squares(was, m, &x);
            pool_free(g_pool);
            g_pool = NULL;
            g_done(&d);
            model_free(was);
            tensor_fini(&x);
            if (i >= 2)
                made[i - 2] = m;
            else
                model_free(m);
        }
        assert_true(k == 4 ||
                    squares[1] < 0.5 * squares[0]); /* the last sees each channel alone: the fit sees them together */
        assert_true(squares[2] < squares[1] && squares[2] < 0.5 * squares[0]);
        /* same bytes at any number of threads */
        assert_int_equal(made[0]->n_values, made[1]->n_values);
        for (uint32_t v = 0; v < made[0]->n_values; v++) {
            const struct weight *a = made[0]->values[v].weight, *b = made[1]->values[v].weight;
            assert_true(!a == !b && (!a || tensor_equal(&a->tensor, &b->tensor)));
        }
        model_free(made[0]);
        model_free(made[1]);
    }
}

static void test_notes(void **state)
{
    (void)state;
    struct tensor x = {0}, mask = {0};
    struct model *m = network(&x);
    assert_int_equal(tensor_alloc(&mask, DTYPE_BOOL, &SHAPE(16, 12, 3, 3), NULL), 0);
    value_set_note(m, g_value(m, "w"), "mask", NULL, &mask);
    struct g_done d = g_apply(m, "factor.tucker ratio=0.5", NULL);
    assert_int_equal(d.rc, 0);
    json_t *dropped = json_object_get(json_object_get(g_row(&d, "y"), "after"), "dropped_notes");
    assert_string_equal(json_string_value(json_array_get(dropped, 0)), "mask");
    g_done(&d);
    model_free(m);
    tensor_fini(&x);
    tensor_fini(&mask);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_svd),          cmocka_unit_test(test_vbmf),     cmocka_unit_test(test_full_rank),
        cmocka_unit_test(test_tucker_sides), cmocka_unit_test(test_low_rank), cmocka_unit_test(test_errors),
        cmocka_unit_test(test_fit),          cmocka_unit_test(test_matrices), cmocka_unit_test(test_left_alone),
        cmocka_unit_test(test_data),         cmocka_unit_test(test_notes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
