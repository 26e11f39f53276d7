/* SPDX-License-Identifier: Apache-2.0
 * Pruning nested in a step that trains: called again and again with a rising ramp on weights that change in between.
 * Counts are those of the formulas, masks only grow, and with surgery the mask is that of a naive ranking. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

enum { IN = 24, MID = 20, OUT = 10, SIDE = 6 };
static const double RAMPS[] = {0.1, 0.25, 0.5, 0.8, 1};
enum { N_RAMPS = sizeof RAMPS / sizeof RAMPS[0] };

/* A step nested in another one, parsed as in a recipe. */
struct nested {
    struct recipe *recipe;
    struct step_ctx c;
    json_t *rows;
};

static json_t *within(const char *words)
{
    struct err err = {0};
    json_t *step = recipe_step_from_words(words, &err);
    if (!step)
        fail_msg("%s: %s", words, err.msg);
    return json_pack("{s:[{s:s, s:{s:f}, s:[o]}]}", "steps", "method", "iterate", "until", "max_bytes_ratio", 0.1,
                     "steps", step);
}

static struct nested nested(struct model *m, const char *words)
{
    struct err err = {0};
    json_t *json = within(words);
    struct nested n = {.recipe = recipe_parse(json, "", NULL, &err)};
    json_decref(json);
    if (!n.recipe)
        fail_msg("%s: %s", words, err.msg);
    n.c = (struct step_ctx){.model = m, .params = n.recipe->steps[0].steps[0].params, .seed = 3, .in_training = true};
    return n;
}

static void call(struct nested *n, double ramp)
{
    struct err err = {0};
    json_decref(n->rows);
    n->c.layers = layer_report_new();
    n->c.warnings = warnings_new();
    n->c.ramp = ramp;
    if (n->recipe->steps[0].steps[0].method->run(&n->c, &err))
        fail_msg("%s", err.msg);
    n->rows = layer_report_json(n->c.layers);
    layer_report_free(n->c.layers);
    warnings_free(n->c.warnings);
    if (model_validate(n->c.model, &err))
        fail_msg("%s", err.msg);
}

static void end(struct nested *n)
{
    json_decref(n->rows);
    recipe_free(n->recipe);
}

static struct model *products(void)
{
    struct model *m = g_new(17);
    uint32_t h =
        G_OP(m, "MatMul", "a", g_input(m, "x", SHAPE(DIM_UNKNOWN, IN)), g_random(m, "a.w", SHAPE(IN, MID), 1, 1));
    g_output(m, G_OP(m, "MatMul", "b", G_OP(m, "Relu", "r", h), g_random(m, "b.w", SHAPE(MID, OUT), 2, 0.3)));
    return m;
}

static const unsigned char *mask_of(const struct model *m, const char *weight)
{
    const struct note *mask = value_note(m, g_value(m, weight), "mask");
    assert_non_null(mask);
    return mask->tensor.data;
}

static int64_t zeros_of(const struct model *m, const char *weight)
{
    const struct tensor *t = value_const(m, g_value(m, weight));
    int64_t n = 0;
    for (int64_t i = 0; i < tensor_count(t); i++)
        n += tensor_f32(t)[i] == 0;
    return n;
}

/* What a trainer does between two calls: all weights move, masked ones only with `latent`. */
static void move(struct model *m, const char *weight, uint64_t seed, bool latent)
{
    const uint32_t v = g_value(m, weight);
    const unsigned char *mask = mask_of(m, weight);
    struct tensor t = {0};
    struct rng rng;
    rng_init(&rng, seed, 9);
    assert_int_equal(tensor_copy(&t, value_const(m, v), NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++) {
        const float step = (float)(0.5 * rng_normal(&rng));
        tensor_f32(&t)[i] += latent || mask[i] ? step : 0;
    }
    assert_int_equal(value_set_weight(m, v, &t), 0);
    tensor_fini(&t);
}

static double cubic(double r)
{
    return 1 - (1 - r) * (1 - r) * (1 - r);
}
static double linear(double r)
{
    return r;
}
static double at_once(double r)
{
    (void)r;
    return 1;
}

static void masks_follow_the_ramp_and_only_grow(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        double (*share)(double);
        double from, to;
        bool global;
    } rows[] = {
        {"prune.weights sparsity=0.9", cubic, 0, 0.9, false},
        {"prune.weights sparsity=0.8 schedule=linear", linear, 0, 0.8, false},
        {"prune.weights sparsity=0.8 schedule=none", at_once, 0, 0.8, false},
        {"prune.weights sparsity=0.8 schedule=linear initial=0.3", linear, 0.3, 0.8, false},
        {"prune.weights sparsity=0.7 scope=global", cubic, 0, 0.7, true},
        {"prune.weights sparsity=0.7 criterion=lamp schedule=linear", linear, 0, 0.7, true},
        {"prune.weights sparsity=0.5 scope=row", cubic, 0, 0.5, false},
    };
    const char *const weights[] = {"a.w", "b.w"};
    const int64_t counts[] = {IN * MID, MID * OUT};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = products();
        struct nested n = nested(m, rows[i].words);
        unsigned char before[2][IN * MID];
        memset(before, 1, sizeof before);
        for (int k = 0; k < N_RAMPS; k++) {
            call(&n, RAMPS[k]);
            const double s = rows[i].from + (rows[i].to - rows[i].from) * rows[i].share(RAMPS[k]);
            int64_t all = 0;
            for (int w = 0; w < 2; w++) {
                const int64_t zeros = zeros_of(m, weights[w]);
                const unsigned char *mask = mask_of(m, weights[w]);
                if (!rows[i].global)
                    assert_int_equal(zeros, llround(s * (double)counts[w]));
                all += zeros;
                for (int64_t e = 0; e < counts[w]; e++) {
                    assert_true(before[w][e] || !mask[e]);
                    before[w][e] = mask[e];
                }
                assert_null(value_note(m, g_value(m, weights[w]), "splice"));
                move(m, weights[w], (uint64_t)(10 * k + w), false);
            }
            if (rows[i].global)
                assert_int_equal(all, llround(s * (double)(counts[0] + counts[1])));
        }
        end(&n);
        model_free(m);
    }
}

/* Of m neighbours along what is summed over, as many are zero in every group. */
static void expect_groups(const struct model *m, int64_t group, int64_t zeros)
{
    const float *w = tensor_f32(value_const(m, g_value(m, "a.w")));
    for (int64_t o = 0; o < MID; o++)
        for (int64_t k = 0; k < IN; k += group) {
            int64_t n = 0;
            for (int64_t i = k; i < k + group; i++)
                n += w[i * MID + o] == 0;
            assert_int_equal(n, zeros);
        }
}

static void neighbours_go_one_after_the_other(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        int64_t group, zeros[N_RAMPS]; /* nearest to (m - n) times the share */
    } rows[] = {
        {"prune.weights structure=2:4", 4, {1, 1, 2, 2, 2}},
        {"prune.weights structure=1:4", 4, {1, 2, 3, 3, 3}},
        {"prune.weights structure=2:8 schedule=linear", 8, {1, 2, 3, 5, 6}},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = products();
        struct nested n = nested(m, rows[i].words);
        for (int k = 0; k < N_RAMPS; k++) {
            call(&n, RAMPS[k]);
            expect_groups(m, rows[i].group, rows[i].zeros[k]);
            move(m, "a.w", (uint64_t)k, false);
        }
        end(&n);
        model_free(m);
    }
}

/* ---- surgery ---- */
struct ranked {
    double score;
    int64_t at;
};
static int by_score(const void *a, const void *b)
{
    const struct ranked *p = a, *q = b;
    return p->score < q->score ? -1 : p->score > q->score ? 1 : p->at < q->at ? -1 : p->at > q->at;
}

static void surgery_gives_weights_back(void **state)
{
    (void)state;
    const double h = 0.2;
    struct model *m = products();
    struct nested n = nested(m, "prune.weights sparsity=0.6 schedule=surgery hysteresis=0.2 include=a");
    unsigned char was[IN * MID];
    int64_t spliced = 0;
    memset(was, 1, sizeof was);
    for (int k = 0; k < N_RAMPS; k++) {
        struct tensor latent = {0};
        struct ranked rank[IN * MID], cut[IN * MID];
        int64_t back = 0, n_cut = 0;
        double edge = INFINITY;
        assert_int_equal(tensor_copy(&latent, value_const(m, g_value(m, "a.w")), NULL), 0);
        call(&n, RAMPS[k]);
        const unsigned char *mask = mask_of(m, "a.w");
        assert_non_null(value_note(m, g_value(m, "a.w"), "splice"));
        assert_null(value_note(m, g_value(m, "b.w"), "splice"));
        for (int64_t i = 0; i < IN * MID; i++)
            if (!was[i])
                cut[n_cut++] = (struct ranked){-fabs((double)tensor_f32(&latent)[i]), i};
        qsort(cut, (size_t)n_cut, sizeof *cut, by_score);
        const int64_t most = (int64_t)nearbyint(0.05 * (1 + cos(acos(-1) * RAMPS[k])) * (double)(IN * MID - n_cut));
        for (int64_t i = 0; i < IN * MID; i++) {
            const double w = fabs((double)tensor_f32(&latent)[i]);
            rank[i] = (struct ranked){was[i] ? w / (1 - h) : w / (1 + h), i};
        }
        for (int64_t i = most; i < n_cut; i++) /* too many to come back at once */
            rank[cut[i].at].score = 0;
        qsort(rank, IN * MID, sizeof *rank, by_score);
        const int64_t goes = (int64_t)nearbyint(0.6 * IN * MID * cubic(RAMPS[k]));
        for (int64_t i = 0; i < IN * MID; i++) {
            assert_int_equal(mask[rank[i].at], i >= goes);
            back += !was[rank[i].at] && i >= goes;
            if (was[rank[i].at] && i >= goes)
                edge = fmin(edge, fabs((double)tensor_f32(&latent)[rank[i].at]));
        }
        assert_in_range(back, 0, most);
        for (int64_t i = 0; i < IN * MID; i++) { /* what stayed is as it was, what was or is cut is within reach */
            const double is = (double)tensor_f32(value_const(m, g_value(m, "a.w")))[i],
                         w = (double)tensor_f32(&latent)[i];
            g_near(is, (was[i] && mask[i]) || k == 0 ? w : copysign(fmin(fabs(w), edge), w), 0);
        }
        const json_t *row = g_row(&(struct g_done){.layers = n.rows}, "a");
        assert_int_equal(json_integer_value(json_object_get(json_object_get(row, "after"), "spliced")), back);
        assert_int_equal(json_integer_value(json_object_get(json_object_get(row, "after"), "nonzero")),
                         IN * MID - goes);
        spliced += back;
        memcpy(was, mask, sizeof was);
        move(m, "a.w", (uint64_t)k + 40, true);
        tensor_fini(&latent);
    }
    assert_true(spliced > 0);
    end(&n);
    model_free(m);
}

/* A later step without surgery makes of latent weights what they count as, and its masks only grow again. */
static void what_is_cut_is_settled_by_the_next_step(void **state)
{
    (void)state;
    struct model *m = products();
    struct nested n = nested(m, "prune.weights sparsity=0.6 schedule=surgery");
    unsigned char was[IN * MID];
    call(&n, 1);
    memcpy(was, mask_of(m, "a.w"), sizeof was);
    move(m, "a.w", 5, true);
    struct g_done d = g_apply(m, "prune.weights sparsity=0.7", NULL);
    g_done(&d);
    assert_null(value_note(m, g_value(m, "a.w"), "splice"));
    assert_int_equal(zeros_of(m, "a.w"), llround(0.7 * IN * MID));
    for (int64_t i = 0; i < IN * MID; i++)
        assert_true(was[i] || !mask_of(m, "a.w")[i]);
    end(&n);
    model_free(m);
}

static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *words, *part;
        bool top;
    } rows[] = {
        {"prune.weights sparsity=0.5 schedule=surgery", "needs a training step around it", true},
        {"prune.weights sparsity=0.5 schedule=surgery criterion=random", "not random", false},
        {"prune.weights sparsity=0.5 schedule=surgery criterion=obs", "not obs", false},
        {"prune.weights sparsity=0.5 schedule=surgery steps=3", "leave out steps", false},
        {"prune.weights sparsity=0.5 hysteresis=0.2", "hysteresis is for schedule=surgery", false},
        {"prune.weights sparsity=0.5 initial=0.7", "above sparsity", false},
        {"prune.weights structure=2:4 initial=0.3", "leave out initial", false},
        {"prune.weights sparsity=0.5 schedule=none steps=4", "at once", true},
        {"prune.weights sparsity=0.5 schedule=linear", "give steps of 2 or more", true},
        {"prune.channels ratio=0.5 schedule=cubic", "give steps of 2 or more", true},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        json_t *json = rows[i].top ? json_pack("{s:[o]}", "steps", recipe_step_from_words(rows[i].words, &err))
                                   : within(rows[i].words);
        assert_null(recipe_parse(json, "/recipe", NULL, &err));
        if (!strstr(err.msg, rows[i].part))
            fail_msg("%s: '%s' is not in '%s'", rows[i].words, rows[i].part, err.msg);
        json_decref(json);
    }
    /* nested, but not in training: only running tells */
    struct model *m = products();
    struct nested n = nested(m, "prune.weights sparsity=0.5 schedule=surgery");
    struct err err = {0};
    n.c.in_training = false;
    assert_int_equal(n.recipe->steps[0].steps[0].method->run(&n.c, &err), -1);
    assert_int_equal(err.code, ERR_RECIPE);
    end(&n);
    model_free(m);
}

/* ---- channels ---- */
static struct model *convolutions(void)
{
    struct model *m = g_new(17);
    uint32_t h = g_conv(m, "c1", g_input(m, "x", SHAPE(DIM_UNKNOWN, 3, SIDE, SIDE)), 20, 3, 3, 1);
    h = g_conv(m, "c2", G_OP(m, "Relu", "r1", h), 32, 20, 1, 5);
    h = G_OP(m, "Flatten", "flat", G_OP(m, "GlobalAveragePool", "pool", G_OP(m, "Relu", "r2", h)));
    g_output(m, G_OP(m, "Gemm", "fc", h, g_random(m, "fc.w", SHAPE(32, OUT), 7, 0.3)));
    return m;
}

static double macs_of(int64_t a, int64_t b)
{
    return (double)((SIDE - 2) * (SIDE - 2) * (a * 3 * 9 + a * b) + b * OUT);
}

static void channels_go_bit_by_bit(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        double (*share)(double);
    } rows[] = {
        {"prune.channels ratio=0.5", linear},
        {"prune.channels ratio=0.5 schedule=cubic", cubic},
        {"prune.channels ratio=0.5 criterion=random", linear},
        {"prune.channels ratios='{\"c*\": 0.5}'", linear},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = convolutions();
        struct nested n = nested(m, rows[i].words);
        for (int k = 0; k < N_RAMPS; k++) {
            call(&n, RAMPS[k]);
            const double left = 1 - 0.5 * rows[i].share(RAMPS[k]);
            assert_int_equal(g_size(m, "c1.w", 0), (int64_t)floor(20 * left + 1e-9));
            assert_int_equal(g_size(m, "c2.w", 0), (int64_t)floor(32 * left + 1e-9));
        }
        call(&n, 1); /* what is reached stays */
        assert_int_equal(g_size(m, "c1.w", 0), 10);
        /* ids of what was cut first: the kept note of a trainer's optimizer */
        assert_int_equal(value_note(m, g_value(m, "c1.w"), "kept.0")->tensor.shape.dim[0], 10);
        struct nested again = nested(m, rows[i].words); /* another step begins anew */
        call(&again, 1);
        assert_int_equal(g_size(m, "c1.w", 0), 5);
        assert_int_equal(g_size(m, "c2.w", 0), 8);
        end(&n);
        end(&again);
        model_free(m);
    }
}

static void targets_are_of_the_network_at_first(void **state)
{
    (void)state;
    struct model *m = convolutions();
    struct nested n = nested(m, "prune.channels target=macs:0.4");
    for (int k = 0; k < N_RAMPS; k++) {
        call(&n, RAMPS[k]);
        const double left = macs_of(g_size(m, "c1.w", 0), g_size(m, "c2.w", 0)) / macs_of(20, 32);
        assert_true(left <= 1 - 0.6 * RAMPS[k] + 1e-9);
        assert_true(left >= 1 - 0.6 * RAMPS[k] - 0.08); /* a channel is a few percent */
    }
    end(&n);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_follow_the_ramp_and_only_grow),
        cmocka_unit_test(neighbours_go_one_after_the_other),
        cmocka_unit_test(surgery_gives_weights_back),
        cmocka_unit_test(what_is_cut_is_settled_by_the_next_step),
        cmocka_unit_test(refusals),
        cmocka_unit_test(channels_go_bit_by_bit),
        cmocka_unit_test(targets_are_of_the_network_at_first),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
