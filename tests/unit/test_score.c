/* SPDX-License-Identifier: Apache-2.0
 * score.h against naive twins in double: sums over weights, distances, moments and ranks by the definitions; and what all
 * criteria share: atoms of several elements, hostile weights and data. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/score_cases.h"

/* ---- weights ---- */
/* Producing rows, gamma and consuming columns of each channel: [GATES][3] sums of |w|^power. */
static void weight_sums(double power, double part[GATES][3])
{
    memset(part, 0, sizeof(double) * GATES * 3);
    for (int i = 0; i < A * 18; i++)
        part[i / 18][0] += pow(fabs((double)w1[i]), power);
    for (int i = 0; i < A; i++)
        part[i][1] = pow(fabs((double)gamma1[i]), power);
    for (int i = 0; i < B * A * 4; i++) {
        part[i / 4 % A][2] += pow(fabs((double)w2[i]), power);
        part[A + i / (A * 4)][0] += pow(fabs((double)w2[i]), power);
    }
    for (int i = 0; i < C * B * P2; i++)
        part[A + i / P2 % B][2] += pow(fabs((double)w3[i]), power);
}

static void test_norms_and_reductions(void **state)
{
    (void)state;
    struct model *m = network(0);
    for (int power = 1; power <= 2; power++)
        for (int r = SCORE_MEAN; r <= SCORE_FIRST; r++) {
            double part[GATES][3], want[GATES];
            const struct score_opts o = {.reduction = (enum score_reduction)r};
            struct scored s = score_with(m, power == 1 ? "l1" : "l2", NULL, o);
            weight_sums(power, part);
            for (int i = 0; i < GATES; i++) {
                const double sum = part[i][0] + part[i][1] + part[i][2];
                const double most = fmax(part[i][0], fmax(part[i][1], part[i][2]));
                const double of[] = {sum / (i < A ? 3 : 2), most, sum, part[i][0]};
                want[i] = of[r];
            }
            expect(&s, want, 1e-12);
            assert_int_equal(json_array_size(s.warnings), 0);
            scored_free(&s);
        }
    model_free(m);
}

static void test_normalizers(void **state)
{
    (void)state;
    struct model *m = network(0);
    double part[GATES][3];
    weight_sums(2, part);
    for (int how = SCORE_NORM_NONE; how <= SCORE_NORM_LAMP; how++) {
        double raw[GATES], want[GATES];
        for (int i = 0; i < GATES; i++)
            raw[i] = (part[i][0] + part[i][1] + part[i][2]) / (i < A ? 3 : 2);
        for (int i = 0; i < GATES; i++) {
            const int from = i < A ? 0 : A, to = i < A ? A : GATES, n = to - from;
            double sum = 0, most = 0, squares = 0, above = 0;
            for (int k = from; k < to; k++) {
                sum += raw[k];
                most = fmax(most, raw[k]);
                above += raw[k] >= raw[i] ? raw[k] : 0;
            }
            for (int k = from; k < to; k++)
                squares += pow(raw[k] - sum / n, 2);
            const double of[] = {raw[i], raw[i] / (sum / n), raw[i] / most, raw[i] / sum,
                                 (raw[i] - sum / n) / sqrt(squares / n), raw[i] / above};
            want[i] = of[how];
        }
        struct scored s = score_with(m, "l2", NULL, (struct score_opts){.normalizer = (enum score_normalizer)how});
        expect(&s, want, 1e-9);
        scored_free(&s);
        if (how == SCORE_NORM_LAMP)
            for (int other = SCORE_NORM_NONE; other <= SCORE_NORM_MEAN; other++) { /* lamp brings its own */
                s = score_with(m, "lamp", NULL, (struct score_opts){.normalizer = (enum score_normalizer)other});
                expect(&s, want, 1e-9);
                scored_free(&s);
            }
    }
    model_free(m);
}

static void test_fpgm(void **state)
{
    (void)state;
    struct model *m = network(0);
    double want[GATES] = {0};
    for (int i = 0; i < GATES; i++)
        for (int j = i < A ? 0 : A; j < (i < A ? A : GATES); j++) {
            double square = 0;
            for (int k = 0; k < (i < A ? 18 : A * 4); k++) {
                const double d = i < A ? (double)w1[i * 18 + k] - (double)w1[j * 18 + k]
                                       : (double)w2[(i - A) * A * 4 + k] - (double)w2[(j - A) * A * 4 + k];
                square += d * d;
            }
            want[i] += sqrt(square);
        }
    struct scored s = score_with(m, "fpgm", NULL, (struct score_opts){0});
    expect(&s, want, 1e-5);
    scored_free(&s);
    model_free(m);
}

/* Several tiles, filters along the last axis, a large common offset, twins (distance 0) and near twins. */
static void test_fpgm_tiles(void **state)
{
    (void)state;
    enum { FILTERS = 600, LENGTH = 5 };
    static float w[LENGTH * FILTERS];
    struct rng rng;
    rng_init(&rng, 3, 0);
    for (int k = 0; k < LENGTH; k++)
        for (int i = 0; i < FILTERS; i++)
            w[k * FILTERS + i] = i == 300   ? w[k * FILTERS]
                                 : i == 301 ? w[k * FILTERS] + 1e-3f
                                            : 100 + (float)rng_normal(&rng);
    struct model *m = g_new(13);
    const uint32_t in = g_input(m, "x", SHAPE(2, LENGTH));
    const uint32_t h = G_OP(m, "Relu", "h", G_OP(m, "MatMul", "a", in, g_const(m, "w", SHAPE(LENGTH, FILTERS), w)));
    g_output(m, G_OP(m, "MatMul", "z", h, g_random(m, "v", SHAPE(FILTERS, 2), 1, 1)));
    struct pool *pool = pool_new(2);
    struct scored s = score_with(m, "fpgm", NULL, (struct score_opts){.pool = pool});
    must(&s);
    assert_int_equal(s.g->at[0].n, FILTERS);
    for (int i = 0; i < FILTERS; i += 13) {
        double want = 0;
        for (int j = 0; j < FILTERS; j++) {
            double square = 0;
            for (int k = 0; k < LENGTH; k++)
                square += pow((double)w[k * FILTERS + i] - (double)w[k * FILTERS + j], 2);
            want += sqrt(square);
        }
        g_near(s.score[0][i], want, 1e-5 * want);
    }
    scored_free(&s);
    pool_free(pool);
    model_free(m);
}

static void test_random(void **state)
{
    (void)state;
    struct model *m = network(0);
    struct scored a = score_with(m, "random", NULL, (struct score_opts){.seed = 1});
    struct scored b = score_with(m, "random", NULL, (struct score_opts){.seed = 1});
    struct scored c = score_with(m, "random", NULL, (struct score_opts){.seed = 2});
    check_groups(&a);
    for (int i = 0; i < A; i++) {
        assert_true(a.score[0][i] > 0 && a.score[0][i] < 1);
        assert_true(a.score[0][i] == b.score[0][i]);
        assert_true(a.score[0][i] != c.score[0][i]);
        assert_true(a.score[0][i] != a.score[1][i]);
    }
    scored_free(&a);
    scored_free(&b);
    scored_free(&c);
    model_free(m);
}

/* ---- activations ---- */
static void test_bn_scale(void **state)
{
    (void)state;
    struct model *m = network(0);
    struct dataset *data = samples_open(x, N, X, NULL, m);
    double want[GATES], norm[GATES];
    for (int i = 0; i < A; i++)
        want[i] = norm[i] = fabs((double)gamma1[i]);
    for (int c = 0; c < B; c++) {
        double sum = 0, square = 0, rows = 0;
        for (int64_t n = 0; n < N; n++) {
            struct twin t;
            run_twin(n, NULL, &t);
            for (int p = 0; p < P2; p++) {
                sum += t.c2[c][p];
                square += t.c2[c][p] * t.c2[c][p];
            }
        }
        sum /= N * P2;
        want[A + c] = sqrt(square / (N * P2) - sum * sum);
        for (int k = 0; k < A * 4; k++)
            rows += pow((double)w2[c * A * 4 + k], 2);
        norm[A + c] = sqrt(rows);
    }
    struct scored s = score_with(m, "bn_scale", data, (struct score_opts){0});
    expect(&s, want, 1e-5);
    assert_true(warned(&s, "1 groups have no normalization; their channels are scored by the standard deviation"));
    scored_free(&s);
    s = score_with(m, "bn_scale", NULL, (struct score_opts){0});
    expect(&s, norm, 1e-6);
    assert_true(warned(&s, "1 groups have no normalization; their channels are scored by the norms"));
    scored_free(&s);
    dataset_close(data);
    model_free(m);
}

/* One-sided Jacobi: singular values of a [rows, cols] matrix, rows >= cols; a is overwritten. */
static int64_t twin_rank(double *a, int rows, int cols)
{
    double most = 0;
    int64_t rank = 0;
    for (int sweep = 0; sweep < 30; sweep++)
        for (int p = 0; p < cols; p++)
            for (int q = p + 1; q < cols; q++) {
                double pp = 0, qq = 0, pq = 0;
                for (int i = 0; i < rows; i++) {
                    pp += a[i * cols + p] * a[i * cols + p];
                    qq += a[i * cols + q] * a[i * cols + q];
                    pq += a[i * cols + p] * a[i * cols + q];
                }
                if (fabs(pq) <= 1e-300)
                    continue;
                const double tau = (qq - pp) / (2 * pq), t = (tau >= 0 ? 1 : -1) / (fabs(tau) + sqrt(1 + tau * tau));
                const double c = 1 / sqrt(1 + t * t), s = c * t;
                for (int i = 0; i < rows; i++) {
                    const double u = a[i * cols + p], v = a[i * cols + q];
                    a[i * cols + p] = c * u - s * v;
                    a[i * cols + q] = s * u + c * v;
                }
            }
    for (int pass = 0; pass < 2; pass++)
        for (int q = 0; q < cols; q++) {
            double qq = 0;
            for (int i = 0; i < rows; i++)
                qq += a[i * cols + q] * a[i * cols + q];
            if (pass == 0)
                most = fmax(most, sqrt(qq));
            else
                rank += sqrt(qq) > most * rows * 0x1p-23;
        }
    return rank;
}

static void test_rank_of_matrices(void **state)
{
    (void)state;
    static const int sizes[][2] = {{1, 1}, {2, 2}, {3, 3},   {1, 7},   {7, 1},
                                   {5, 9}, {9, 5}, {16, 16}, {24, 32}, {40, 33}};
    struct rng rng;
    rng_init(&rng, 5, 0);
    for (size_t c = 0; c < sizeof sizes / sizeof *sizes; c++) {
        const int rows = sizes[c][0], cols = sizes[c][1], least = rows < cols ? rows : cols;
        double work[2000];
        assert_true(score_rank_work(rows, cols) <= 2000);
        for (int rank = 0; rank <= least; rank++)
            for (int scaled = 0; scaled < 2; scaled++) {
                float a[1400];
                double u[40 * 40], v[40 * 40], copy[1400];
                for (int i = 0; i < rows * rank; i++)
                    u[i] = rng_normal(&rng);
                for (int i = 0; i < rank * cols; i++)
                    v[i] = rng_normal(&rng) * (scaled ? pow(0.7, i / cols) : 1);
                for (int i = 0; i < rows; i++)
                    for (int j = 0; j < cols; j++) {
                        double sum = 0;
                        for (int k = 0; k < rank; k++)
                            sum += u[i * rank + k] * v[k * cols + j];
                        a[i * cols + j] = (float)(sum > 0 || scaled ? sum * (scaled ? 1e-20 : 1) : 0);
                    }
                const bool wide = cols > rows;
                for (int i = 0; i < rows * cols; i++)
                    copy[wide ? i % cols * rows + i / cols : i] = (double)a[i];
                const int64_t want = twin_rank(copy, wide ? cols : rows, least);
                const int64_t got = score_rank_of(a, rows, cols, work);
                if (got != want)
                    fail_msg("%d x %d, of rank %d%s: %d, expected %d", rows, cols, rank, scaled ? ", scaled" : "",
                             (int)got, (int)want);
            }
    }
    double work[100];
    assert_int_equal(score_rank_of((float[]){1, NAN, 2, 3}, 2, 2, work), -1);
    assert_int_equal(score_rank_of((float[]){1, 2, INFINITY, 3}, 2, 2, work), -1);
    assert_int_equal(score_rank_of((float[]){3e38f, 0, 0, 3e38f}, 2, 2, work), 2);
}

static void test_activation_and_rank(void **state)
{
    (void)state;
    struct model *m = network(0), *five = network(5);
    struct dataset *data = samples_open(x, N, X, NULL, m);
    double mean[GATES] = {0}, rank[GATES] = {0};
    for (int64_t n = 0; n < N; n++) {
        struct twin t;
        run_twin(n, NULL, &t);
        for (int c = 0; c < GATES; c++) {
            double map[P1];
            const int places = c < A ? P1 : P2;
            for (int p = 0; p < places; p++) {
                map[p] = c < A ? t.a1[c][p] : t.a2[c - A][p];
                mean[c] += fabs(map[p]) / (N * places);
            }
            /* behind the Flatten there are no maps: of what conv2 makes */
            for (int p = 0; c >= A && p < P2; p++)
                map[p] = t.c2[c - A][p];
            rank[c] += (double)twin_rank(map, c < A ? 3 : 2, c < A ? 3 : 2) / N;
        }
    }
    for (int which = 0; which < 4; which++) { /* a fixed batch of 5 fills the last up with repeats */
        const char *name = which % 2 ? "rank" : "activation";
        struct scored s = score_with(which < 2 ? m : five, name, data, (struct score_opts){0});
        expect(&s, which % 2 ? rank : mean, 1e-5);
        assert_int_equal(json_array_size(s.warnings), 0);
        scored_free(&s);
    }
    dataset_close(data);
    model_free(m);
    model_free(five);
}

/* ---- atoms of several elements ---- */
/* Atoms 0, 1, 2 of a producing axis of 6; the second is twice on the consuming axis. Everything is a hand's work
 * here. */
static void test_unequal_atoms(void **state)
{
    (void)state;
    static const int rows[6] = {0, 1, 2, 0, ATOM_NONE, 1}, columns[4] = {2, 1, 1, 0};
    static const int64_t width[3] = {2, 2, 1};
    static const float a[12] = {1, -2, 3, 4, -5, 6, 7, 8, 9, 10, 11, 12}, b[8] = {1, 2, 3, 4, 5, 6, 7, -8};
    struct model *m = g_new(13);
    const uint32_t wa = g_const(m, "a", SHAPE(6, 2), a), wb = g_const(m, "b", SHAPE(2, 4), b);
    struct group_member members[] = {
        {wa, NODE_NONE, .axis = 0, .constant = true, .role = COUPLE_PRODUCES, .size = 6, .atom = rows},
        {wb, NODE_NONE, .axis = 1, .constant = true, .role = COUPLE_CONSUMES, .size = 4, .atom = columns}};
    struct group g = {.n = 3, .name = "by hand", .node = NODE_NONE, .member = members, .n_members = 2, .width = width};
    struct groups all = {.at = &g, .n = 1};
    struct err err = {0};
    const double row[3] = {3 + 15, 7 + 23, 11}, column[3] = {4 + 8, 2 + 6 + 3 + 7, 1 + 5};
    for (int r = SCORE_MEAN; r <= SCORE_FIRST; r++) {
        const struct score_opts o = {.criterion = criterion("l1"), .reduction = (enum score_reduction)r, .model = m};
        double **s = score_groups(&all, &o, &err);
        assert_non_null(s);
        for (int i = 0; i < 3; i++) {
            const double of[] = {(row[i] + column[i]) / 2, fmax(row[i], column[i]), row[i] + column[i], row[i]};
            g_near(s[0][i], of[r] / (double)width[i], 1e-12);
        }
        score_free(s, 1);
    }
    model_free(m);
}

/* ---- atoms of two kinds ---- */
/* Atoms 0..3 lie on the first axis, 4..7 on the second, all on the third, as query-key and value channels of one weight. */
static void test_kinds_go_in_step(void **state)
{
    (void)state;
    static const int first[4] = {0, 1, 2, 3}, second[4] = {4, 5, 6, 7}, both[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    struct group_member member[] = {{.size = 4, .atom = first}, {.size = 4, .atom = second}, {.size = 8, .atom = both}};
    const struct group g = {.n = 8, .member = member, .n_members = 3};
    double score[8] = {1, 4, 2, 3, 10, 40, 20, 30}, sum = 0;
    assert_int_equal(score_balance(&g, score, NULL), 0);
    for (int i = 0; i < 8; i++)
        sum += score[i];
    g_near(sum, 110, 0); /* the same numbers */
    /* lowest first: 0 and 4 (a quarter of each kind), 2 and 6, 3 and 7, then the best of each */
    static const int order[8] = {0, 4, 2, 6, 3, 7, 1, 5};
    for (int i = 1; i < 8; i++)
        assert_true(score[order[i - 1]] < score[order[i]]);
    assert_int_equal(score_least(&g, score), 2);
    /* one kind: nothing moves, one atom must stay */
    const struct group plain = {.n = 8, .member = &member[2], .n_members = 1};
    double same[8] = {3, 1, 2, 8, 5, 4, 7, 6};
    assert_int_equal(score_balance(&plain, same, NULL), 0);
    assert_memory_equal(same, ((double[]){3, 1, 2, 8, 5, 4, 7, 6}), sizeof same);
    assert_int_equal(score_least(&plain, same), 1);
}

/* ---- robustness ---- */
static void test_not_finite(void **state)
{
    (void)state;
    static const struct {
        float bad;
        const char *criterion, *says;
    } cases[] = {{NAN, "l2", "weight 'w2' of node 'c2' gives NaN at index 0 of axis 1"},
                 {NAN, "l1", "'w2'"},
                 {INFINITY, "l2", "weight 'w2' of node 'c2' gives infinity at index 0 of axis 1"},
                 {NAN, "lamp", "'w2'"},
                 {NAN, "fpgm", "'w2'"},
                 {NAN, "activation", "NaN"},
                 {NAN, "rank", "NaN"},
                 {NAN, "taylor", "NaN"},
                 {NAN, "fisher", "NaN"},
                 {NAN, "hessian", "NaN"}};
    const float kept = w2[A * 4 + 2];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        w2[A * 4 + 2] = cases[i].bad;
        struct model *m = network(0);
        struct dataset *data = samples_open(x, N, X, y, m);
        struct scored s = score_with(m, cases[i].criterion, data, (struct score_opts){0});
        assert_null(s.score);
        assert_int_equal(s.err.code, ERR_MODEL);
        if (!strstr(s.err.msg, cases[i].says))
            fail_msg("%s: '%s'", cases[i].criterion, s.err.msg);
        scored_free(&s);
        dataset_close(data);
        model_free(m);
    }
    w2[A * 4 + 2] = kept;
}

/* Dead channels, constant ones and groups of one channel have finite scores by every criterion, the dead the least. */
static void test_dead_channels(void **state)
{
    (void)state;
    enum { H = 3, SAMPLES = 40 };
    static float v[2 * H] = {1, 0, 0, -1, 0, 0}, bias[H] = {0.5, 0, 3}, u[H * 1] = {1, 0, 1}, in[SAMPLES * 2];
    static int64_t labels[SAMPLES];
    struct rng rng;
    rng_init(&rng, 2, 0);
    for (int i = 0; i < SAMPLES * 2; i++)
        in[i] = (float)rng_normal(&rng);
    for (int i = 0; i < SAMPLES; i++)
        labels[i] = i % 2;
    struct model *m = g_new(13);
    const uint32_t x0 = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 2));
    const uint32_t a0 =
        G_OP(m, "Gemm", "a", x0, g_const(m, "v", SHAPE(2, H), v), g_const(m, "bias", SHAPE(H), bias));
    const uint32_t h = G_OP(m, "Relu", "h", a0);
    const uint32_t one = G_OP(m, "Relu", "one", G_OP(m, "MatMul", "b", h, g_const(m, "u", SHAPE(H, 1), u)));
    g_output(m, G_OP(m, "MatMul", "z", one, g_const(m, "t", SHAPE(1, 2), (float[]){1, -1})));
    struct dataset *data = samples_open(in, SAMPLES, 2, labels, m);
    for (int c = 0; score_criteria[c]; c++)
        for (int norm = SCORE_NORM_NONE; norm <= SCORE_NORM_LAMP; norm++) {
            const char *name = score_criteria[c];
            struct scored s = score_with(m, name, data, (struct score_opts){.normalizer = (enum score_normalizer)norm});
            must(&s);
            for (int i = 0; i < s.g->n; i++)
                for (int64_t a = 0; s.score[i] && a < s.g->at[i].n; a++)
                    assert_true(isfinite(s.score[i][a]));
            if (strcmp(name, "random") && strcmp(name, "fpgm"))
                assert_true(s.score[0][1] <= s.score[0][0] && s.score[0][1] <= s.score[0][2]);
            scored_free(&s);
        }
    dataset_close(data);
    model_free(m);
}

static void test_what_is_missing(void **state)
{
    (void)state;
    struct model *m = network(0);
    for (int c = 0; score_criteria[c]; c++) {
        struct scored s = score_with(m, score_criteria[c], NULL, (struct score_opts){0});
        assert_int_equal(s.score != NULL, score_needs(c) == NEEDS_NOTHING);
        if (!s.score) {
            assert_int_equal(s.err.code, ERR_INVALID);
            assert_non_null(strstr(s.err.msg, "needs data"));
        }
        scored_free(&s);
    }
    model_free(m);

    /* an operator nobody can run, behind the layers; and one without gradient */
    for (int known = 0; known < 2; known++) {
        m = g_new(13);
        const uint32_t in = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 4));
        const uint32_t h = G_OP(m, "Relu", "h", G_OP(m, "MatMul", "a", in, g_random(m, "v", SHAPE(4, 6), 1, 1)));
        const uint32_t b = G_OP(m, "MatMul", "b", h, g_random(m, "u", SHAPE(6, 3), 2, 1));
        g_output(m, G_OP(m, known ? "Hardmax" : "Unheard", "z", b));
        struct dataset *data = samples_open(x, N, 4, NULL, m);
        static const char *const names[] = {"l2", "fpgm", "bn_scale", "activation", "taylor", "reconstruction"};
        for (int i = 0; i < 6; i++) {
            struct scored s = score_with(m, names[i], data, (struct score_opts){0});
            const bool good = i < 3 || (known && i != 4);
            if (good)
                must(&s);
            assert_int_equal(s.score != NULL, good);
            if (!good) {
                assert_int_equal(s.err.code, ERR_OPERATOR);
                if (!strstr(s.err.msg, known ? "'z'" : "Unheard"))
                    fail_msg("%s: '%s'", names[i], s.err.msg);
            }
            scored_free(&s);
        }
        dataset_close(data);
        model_free(m);
    }
}

static void test_half_weights(void **state)
{
    (void)state;
    static float in[N * 4], v[24];
    struct rng rng;
    rng_init(&rng, 2, 0);
    for (int i = 0; i < 24; i++)
        v[i] = (float)(0.25 * (double)(int64_t)(8 * rng_normal(&rng)));
    for (int half = 0; half < 2; half++) {
        struct model *m = g_new(13);
        struct tensor t = {0}, f = {0};
        tensor_view(&f, DTYPE_FLOAT, &SHAPE(4, 6), v, NULL);
        assert_int_equal(tensor_convert(&t, &f, half ? DTYPE_FLOAT16 : DTYPE_BFLOAT16, NULL), 0);
        const uint32_t w = model_add_weight(m, 0, "v", &t);
        tensor_fini(&t);
        const uint32_t x0 = g_input(m, "x", SHAPE(N, 4));
        const uint32_t to = G_OP(m, "Cast", "xh", x0);
        node_set_int(m, g_maker(m, to), "to", half ? DTYPE_FLOAT16 : DTYPE_BFLOAT16);
        const uint32_t h = G_OP(m, "Relu", "h", G_OP(m, "MatMul", "a", to, w));
        const uint32_t back = G_OP(m, "Cast", "hf", h);
        node_set_int(m, g_maker(m, back), "to", DTYPE_FLOAT);
        g_output(m, G_OP(m, "MatMul", "z", back, g_random(m, "u", SHAPE(6, 3), 2, 1)));
        struct dataset *data = samples_open(in, N, 4, NULL, m);
        struct scored s = score_with(m, "l1", NULL, (struct score_opts){.reduction = SCORE_FIRST});
        must(&s);
        for (int i = 0; i < 6; i++) {
            double want = 0;
            for (int k = 0; k < 4; k++)
                want += fabs((double)v[k * 6 + i]);
            g_near(s.score[0][i], want, 1e-12);
        }
        scored_free(&s);
        s = score_with(m, "fisher", data, (struct score_opts){0});
        assert_null(s.score);
        assert_int_equal(s.err.code, ERR_OPERATOR);
        assert_non_null(strstr(s.err.msg, "needs the gradient of weight 'v', which is"));
        scored_free(&s);
        dataset_close(data);
        model_free(m);
    }
}

/* A class the model does not have is an error; labels that fit no output (here of two rows a sample) are left aside,
 * and said so. */
static void test_labels_that_do_not_fit(void **state)
{
    (void)state;
    int64_t wrong[N] = {[3] = C};
    struct model *m = network(0);
    struct dataset *data = samples_open(x, N, X, wrong, m);
    struct scored s = score_with(m, "taylor", data, (struct score_opts){0});
    assert_null(s.score);
    assert_int_equal(s.err.code, ERR_DATASET);
    assert_non_null(strstr(s.err.msg, "label 3 is no class of the model's output, which has 3"));
    scored_free(&s);
    dataset_close(data);
    model_free(m);
    m = g_new(13);
    const uint32_t in = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 2, 4));
    const uint32_t h = G_OP(m, "Tanh", "h", G_OP(m, "MatMul", "a", in, g_random(m, "v", SHAPE(4, 6), 1, 1)));
    g_output(m, G_OP(m, "MatMul", "z", h, g_random(m, "u", SHAPE(6, 3), 2, 1)));
    struct dataset *with = samples_open(x, N, 8, y, m), *without = samples_open(x, N, 8, NULL, m);
    struct scored a = score_with(m, "taylor", with, (struct score_opts){0});
    struct scored b = score_with(m, "taylor", without, (struct score_opts){0});
    must(&a);
    must(&b);
    assert_true(warned(&a, "the labels of the dataset fit no output of the model"));
    assert_int_equal(json_array_size(b.warnings), 0);
    assert_memory_equal(a.score[0], b.score[0], 6 * sizeof(double));
    scored_free(&a);
    scored_free(&b);
    dataset_close(with);
    dataset_close(without);
    model_free(m);
}

/* Large maps are ranked by 64 of their rows. */
static void test_rank_of_large_maps(void **state)
{
    (void)state;
    enum { SIDE = 70 };
    static float in[SIDE * SIDE];
    static double wide[SIDE * 64];
    struct rng rng;
    rng_init(&rng, 8, 0);
    for (int i = 0; i < SIDE * SIDE; i++)
        in[i] = (float)(i / SIDE < 40 ? rng_normal(&rng) : 0);
    struct model *m = g_new(13);
    const uint32_t x0 = g_input(m, "x", SHAPE(1, 1, SIDE, SIDE));
    const uint32_t c = G_OP(m, "Conv", "c", x0, g_const(m, "w", SHAPE(2, 1, 1, 1), (float[]){1, 0}));
    g_output(m, G_OP(m, "Conv", "z", c, g_random(m, "u", SHAPE(1, 2, 1, 1), 2, 1)));
    for (int r = 0; r < 64; r++)
        for (int k = 0; k < SIDE; k++)
            wide[k * 64 + r] = (double)in[r * SIDE / 64 * SIDE + k];
    struct dataset *data = samples_open(in, 1, SIDE * SIDE, NULL, m);
    struct scored s = score_with(m, "rank", data, (struct score_opts){0});
    must(&s);
    assert_int_equal((int64_t)s.score[0][0], twin_rank(wide, SIDE, 64));
    assert_in_range((int64_t)s.score[0][0], 30, 40);
    assert_int_equal((int64_t)s.score[0][1], 0);
    scored_free(&s);
    dataset_close(data);
    model_free(m);
}

/* The same bits with one thread and with three; what the progress says, and that it stops. */
static int count_calls(void *arg, int64_t done, int64_t total, struct err *err)
{
    int64_t *calls = arg;
    (void)err;
    assert_true(done >= 0 && done <= total);
    ++*calls;
    return 0;
}

static int cancel(void *arg, int64_t done, int64_t total, struct err *err)
{
    (void)arg;
    (void)done;
    (void)total;
    return err_set(err, ERR_CANCELED, "stopped");
}

static void test_threads_and_progress(void **state)
{
    (void)state;
    struct model *m = network(0);
    struct dataset *data = samples_open(x, N, X, NULL, m);
    struct pool *one = pool_new(1), *three = pool_new(3);
    for (int c = 0; score_criteria[c]; c++) {
        int64_t calls = 0;
        const struct score_opts o = {.pool = one, .progress = count_calls, .progress_arg = &calls};
        struct scored a = score_with(m, score_criteria[c], data, o);
        struct scored b = score_with(m, score_criteria[c], data, (struct score_opts){.pool = three});
        check_groups(&a);
        check_groups(&b);
        assert_memory_equal(a.score[0], b.score[0], A * sizeof(double));
        assert_memory_equal(a.score[1], b.score[1], B * sizeof(double));
        scored_free(&a);
        scored_free(&b);
        if (calls > 0) {
            a = score_with(m, score_criteria[c], data, (struct score_opts){.progress = cancel});
            assert_null(a.score);
            assert_int_equal(a.err.code, ERR_CANCELED);
            scored_free(&a);
        } else {
            assert_string_equal(score_criteria[c], "random");
        }
    }
    pool_free(one);
    pool_free(three);
    dataset_close(data);
    model_free(m);
}

/* score_axis_sums on every axis of a large tensor, against the definition. */
static void test_axis_sums(void **state)
{
    (void)state;
    static const struct shape shapes[] = {
        {3, {7, 1500, 5}}, {2, {1, 3}}, {4, {33, 2, 3, 300}}, {1, {4097}}, {2, {2500, 3}}};
    struct pool *pool = pool_new(2);
    for (size_t c = 0; c < sizeof shapes / sizeof *shapes; c++) {
        struct tensor a = {0}, b = {0};
        g_fill(&a, shapes[c], 1, 1);
        g_fill(&b, shapes[c], 2, 1);
        for (int axis = 0; axis < shapes[c].rank; axis++)
            for (int term = SCORE_ABS; term <= SCORE_PRODUCT_SQUARE; term++) {
                const int64_t size = shapes[c].dim[axis], inner = shape_product(&shapes[c], axis + 1, shapes[c].rank);
                double *want = calloc((size_t)size, sizeof *want), *got = calloc((size_t)size, sizeof *got);
                for (int64_t i = 0; i < tensor_count(&a); i++) {
                    const double p = (double)tensor_f32(&a)[i], q = p * (double)tensor_f32(&b)[i];
                    const double of[] = {fabs(p), p * p, q, q * q};
                    want[i / inner % size] += of[term];
                }
                score_axis_sums(pool, &a, term >= SCORE_PRODUCT ? &b : NULL, axis, (enum score_term)term, got);
                for (int64_t i = 0; i < size; i++)
                    g_near(got[i], want[i], 1e-10 * (fabs(want[i]) + 1));
                free(want);
                free(got);
            }
        tensor_fini(&a);
        tensor_fini(&b);
    }
    pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_norms_and_reductions),
        cmocka_unit_test(test_normalizers),
        cmocka_unit_test(test_fpgm),
        cmocka_unit_test(test_fpgm_tiles),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_bn_scale),
        cmocka_unit_test(test_rank_of_matrices),
        cmocka_unit_test(test_activation_and_rank),
        cmocka_unit_test(test_unequal_atoms),
        cmocka_unit_test(test_kinds_go_in_step),
        cmocka_unit_test(test_not_finite),
        cmocka_unit_test(test_dead_channels),
        cmocka_unit_test(test_what_is_missing),
        cmocka_unit_test(test_half_weights),
        cmocka_unit_test(test_labels_that_do_not_fit),
        cmocka_unit_test(test_rank_of_large_maps),
        cmocka_unit_test(test_threads_and_progress),
        cmocka_unit_test(test_axis_sums),
    };
    return cmocka_run_group_tests(tests, fill, NULL);
}
