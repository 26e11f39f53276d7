/* SPDX-License-Identifier: Apache-2.0
 * prune.layers and residual branches: which sums have a branch that can go, what is left when it went, and that the branch that does
 * nothing goes first. Outputs are held against graphs written without the branch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/prune/residual.h"
#include "tests/unit/graphs.h"

enum { WIDTH = 6 };

/* h + scale * relu(h A) B */
static uint32_t block(struct model *m, const char *name, uint32_t h, uint64_t seed, float scale)
{
    char a[32], b[32], part[32];
    snprintf(a, sizeof a, "%s.a", name);
    snprintf(b, sizeof b, "%s.b", name);
    uint32_t wa = g_random(m, a, SHAPE(WIDTH, WIDTH), seed, 0.5),
             wb = g_random(m, b, SHAPE(WIDTH, WIDTH), seed + 1, 0.5);
    snprintf(part, sizeof part, "%s.scale", name);
    uint32_t s = g_const(m, part, SHAPE(1), &scale);
    snprintf(part, sizeof part, "%s.in", name);
    uint32_t x = G_OP(m, "MatMul", part, h, wa);
    snprintf(part, sizeof part, "%s.relu", name);
    x = G_OP(m, "Relu", part, x);
    snprintf(part, sizeof part, "%s.out", name);
    x = G_OP(m, "MatMul", part, x, wb);
    snprintf(part, sizeof part, "%s.scaled", name);
    x = G_OP(m, "Mul", part, x, s);
    return G_OP(m, "Add", name, h, x);
}

/* x -> block one -> block two -> block three, `scale` of two; a three-class head when `head`. */
static struct model *three_blocks(float scale, bool head)
{
    struct model *m = g_new(17);
    uint32_t h = g_input(m, "x", SHAPE(DIM_UNKNOWN, WIDTH));
    h = block(m, "one", h, 1, 1);
    h = block(m, "two", h, 11, scale);
    h = block(m, "three", h, 21, 1);
    if (head)
        h = G_OP(m, "MatMul", "scores", h, g_random(m, "head", SHAPE(WIDTH, 3), 31, 1));
    g_output(m, h);
    return m;
}

static const char *decision(const struct g_done *d, const char *node)
{
    return json_string_value(json_object_get(json_object_get(g_row(d, node), "after"), "decision"));
}
static double contribution(const struct g_done *d, const char *node, const char *figure)
{
    json_t *v = json_object_get(json_object_get(json_object_get(g_row(d, node), "after"), "contribution"), figure);
    return v ? json_number_value(v) : NAN;
}

static void test_zero_branch_goes(void **state)
{
    (void)state;
    for (int head = 0; head < 2; head++) {
        struct model *m = three_blocks(0, head), *before = model_clone(m, NULL);
        struct tensor x = {0};
        g_fill(&x, SHAPE(24, WIDTH), 3, 1);
        struct g_done d = g_apply(m, "prune.layers count=1", &x);
        assert_int_equal(d.rc, 0);
        g_near(g_error(before, m, &x, 0), 0, 0);
        assert_string_equal(decision(&d, "two"), "removed");
        assert_string_equal(decision(&d, "one"), "kept");
        assert_string_equal(decision(&d, "three"), "kept");
        g_near(contribution(&d, "two", "noise"), 0, 0);
        assert_true(contribution(&d, "one", "noise") > 1e-3);
        assert_true(contribution(&d, "one", "kl") > 0); /* a row a sample: scores */
        assert_int_equal(g_count(m, "MatMul"), 4 + head);
        assert_int_equal(model_find_value(m, 0, "two.a"), VALUE_NONE);
        g_done(&d);
        tensor_fini(&x);
        model_free(before);
        model_free(m);
    }
}

/* What is left is the graph written without the blocks that went. */
static void test_removed_is_left_out(void **state)
{
    (void)state;
    struct model *m = three_blocks(0.01f, false), *want = g_new(17);
    uint32_t h = block(want, "one", g_input(want, "x", SHAPE(DIM_UNKNOWN, WIDTH)), 1, 1);
    g_output(want, h);
    struct tensor x = {0};
    g_fill(&x, SHAPE(24, WIDTH), 3, 1);
    struct g_done d = g_apply(m, "prune.layers count=2 exclude=[\"one\"]", &x);
    assert_int_equal(d.rc, 0);
    g_near(g_error(want, m, &x, 0), 0, 0);
    /* the output keeps its name, though the node that made it is gone */
    assert_string_equal(m->values[model_main(m)->outputs[0].value].name, "three");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(g_row(&d, "two"), "after"), "order")), 1);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(g_row(&d, "three"), "after"), "order")), 2);
    g_expect_skipped(&d, "one", "not selected");
    g_done(&d);
    tensor_fini(&x);
    model_free(want);
    model_free(m);
}

/* All branches out: the output is the input, which cannot take its name. */
static void test_nothing_left_but_the_input(void **state)
{
    (void)state;
    struct model *m = three_blocks(1, false);
    struct tensor x = {0}, y = {0};
    g_fill(&x, SHAPE(24, WIDTH), 3, 1);
    struct g_done d = g_apply(m, "prune.layers ratio=1", &x);
    assert_int_equal(d.rc, 0);
    assert_int_equal(model_main(m)->n_nodes, 1);
    assert_int_equal(g_count(m, "Identity"), 1);
    g_run(m, &x, 0, &y);
    assert_memory_equal(x.data, y.data, x.bytes);
    tensor_fini(&y);
    tensor_fini(&x);
    g_done(&d);
    model_free(m);
}

static void test_stops(void **state)
{
    (void)state;
    static const struct {
        const char *words;
        int left; /* MatMul */
        const char *warning;
    } rows[] = {
        {"prune.layers ratio=0.4", 4, NULL},                   /* floor(1.2) */
        {"prune.layers ratio=0.3", 6, "left every branch in"}, /* floor(0.9) */
        {"prune.layers count=7", 0, "all 3 branches"},
        {"prune.layers target=params:0.7", 4, NULL},
        {"prune.layers target=macs:0.66", 2, NULL},
        {"prune.layers target=macs:0.67", 4, NULL},
        {"prune.layers max_drop=1e-6", 4, "cannot tell a drop"},
        {"prune.layers max_drop=1e-6 count=2", 4, "stopped after 1 branches"},
        {"prune.layers count=2 remeasure=false", 2, NULL},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct model *m = three_blocks(0, false);
        struct tensor x = {0};
        g_fill(&x, SHAPE(40, WIDTH), 3, 1);
        struct g_done d = g_apply(m, rows[i].words, &x);
        if (d.rc || g_count(m, "MatMul") != rows[i].left)
            fail_msg("%s: %d products are left, expected %d; %s", rows[i].words, g_count(m, "MatMul"), rows[i].left,
                     d.err.msg);
        if (rows[i].warning)
            g_expect_warning(&d, rows[i].warning, true);
        else
            assert_int_equal(json_array_size(d.warnings), 0);
        g_done(&d);
        tensor_fini(&x);
        model_free(m);
    }
}

/* A shortcut with a projection: the side with more products goes, the shortcut stays. */
static void test_projection(void **state)
{
    (void)state;
    struct model *m = g_new(17), *want = g_new(17);
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, WIDTH));
    uint32_t s = G_OP(m, "MatMul", "shortcut", x, g_random(m, "s", SHAPE(WIDTH, 4), 1, 1));
    uint32_t f = G_OP(m, "Relu", "r", G_OP(m, "MatMul", "f1", x, g_random(m, "a", SHAPE(WIDTH, 8), 2, 1)));
    f = G_OP(m, "MatMul", "f2", f, g_random(m, "b", SHAPE(8, 4), 3, 1));
    g_output(m, G_OP(m, "Add", "y", f, s));
    x = g_input(want, "x", SHAPE(DIM_UNKNOWN, WIDTH));
    g_output(want, G_OP(want, "MatMul", "y", x, g_random(want, "s", SHAPE(WIDTH, 4), 1, 1)));
    struct tensor in = {0};
    g_fill(&in, SHAPE(10, WIDTH), 3, 1);
    struct g_done d = g_apply(m, "prune.layers count=1", &in);
    assert_int_equal(d.rc, 0);
    g_near(g_error(want, m, &in, 0), 0, 0);
    g_done(&d);
    tensor_fini(&in);
    model_free(m);
    model_free(want);
}

/* A block around two blocks: where the outer one goes, the inner ones go with it. */
static void test_nested(void **state)
{
    (void)state;
    const float zero = 0;
    struct model *m = g_new(17);
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, WIDTH));
    uint32_t h = block(m, "inner", G_OP(m, "MatMul", "in", x, g_random(m, "w", SHAPE(WIDTH, WIDTH), 5, 1)), 1, 1);
    h = G_OP(m, "Mul", "scaled", h, g_const(m, "zero", SHAPE(1), &zero));
    h = G_OP(m, "Add", "outer", x, h);
    g_output(m, G_OP(m, "Relu", "y", block(m, "after", h, 41, 1)));
    struct tensor in = {0};
    g_fill(&in, SHAPE(10, WIDTH), 3, 1);
    struct model *before = model_clone(m, NULL);
    /* for its own sake the inner one is as cheap: both cost nothing. The first in the graph goes, then the outer one. */
    struct g_done d = g_apply(m, "prune.layers count=1 exclude=[\"inner\"]", &in);
    assert_int_equal(d.rc, 0);
    g_near(g_error(before, m, &in, 0), 0, 0);
    assert_int_equal(g_count(m, "MatMul"), 2);
    assert_string_equal(decision(&d, "outer"), "removed");
    g_done(&d);
    model_free(m);
    m = before;
    d = g_apply(m, "prune.layers target=params:0.45", &in); /* 5 products of 36: the outer one saves most for nothing */
    assert_int_equal(d.rc, 0);
    assert_string_equal(decision(&d, "outer"), "removed");
    assert_string_equal(decision(&d, "inner"), "removed");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(g_row(&d, "inner"), "after"), "went_with")), 1);
    g_done(&d);
    tensor_fini(&in);
    model_free(m);
}

static void test_none_selected(void **state)
{
    (void)state;
    struct model *m = three_blocks(0, false);
    struct tensor x = {0};
    g_fill(&x, SHAPE(24, WIDTH), 3, 1);
    struct g_done d = g_apply(m, "prune.layers count=1 include=[\"none*\"]", &x);
    g_expect_warning(&d, "none of the 3 residual branches may go", true);
    assert_int_equal(json_array_size(d.warnings), 1);
    assert_int_equal(g_count(m, "MatMul"), 6);
    g_done(&d);
    tensor_fini(&x);
    model_free(m);
}

static void test_sum_and_left_alone(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    uint32_t x = g_input(m, "x", SHAPE(DIM_UNKNOWN, WIDTH));
    uint32_t a = G_OP(m, "MatMul", "fa", x, g_random(m, "a", SHAPE(WIDTH, WIDTH), 5, 1e-3));
    uint32_t b = G_OP(m, "MatMul", "fb", x, g_random(m, "b", SHAPE(WIDTH, WIDTH), 6, 2e-3));
    uint32_t h = G_OP(m, "Sum", "sum", x, a, b);
    /* read elsewhere; repeated; no product: a formula, no branch */
    uint32_t c = G_OP(m, "MatMul", "fc", h, g_random(m, "c", SHAPE(WIDTH, WIDTH), 7, 1));
    uint32_t shared = G_OP(m, "Add", "shared", h, c);
    uint32_t one = G_OP(m, "MatMul", "fd", shared, g_random(m, "d", SHAPE(WIDTH, 1), 8, 1));
    uint32_t repeated = G_OP(m, "Add", "repeated", shared, one);
    uint32_t formula = G_OP(m, "Add", "formula", repeated, G_OP(m, "Relu", "rr", repeated));
    g_output(m, formula);
    g_output(m, c);
    struct residuals r;
    struct err err = {0};
    assert_int_equal(residuals_find(&r, m, &err), 0);
    assert_int_equal(r.n, 3);
    residuals_fini(&r);
    struct tensor in = {0};
    g_fill(&in, SHAPE(10, WIDTH), 3, 1);
    struct g_done d = g_apply(m, "prune.layers count=1", &in);
    assert_int_equal(d.rc, 0);
    assert_int_equal(g_count(m, "Sum"), 1);
    assert_int_equal(g_made(m, "sum")->n_input, 2);
    assert_string_equal(m->values[g_made(m, "sum")->input[1]].name, "fb");
    g_expect_skipped(&d, "shared", "read elsewhere");
    g_expect_skipped(&d, "repeated", "different shapes");
    assert_null(g_row(&d, "formula"));
    g_done(&d);
    tensor_fini(&in);
    model_free(m);
}

/* A fused sum and normalization becomes the normalization; its second output, the sum, is read on. */
static void test_skip_normalization(void **state)
{
    (void)state;
    static const struct {
        const char *fused, *plain;
    } rows[] = {{"SkipLayerNormalization", "LayerNormalization"},
                {"SkipSimplifiedLayerNormalization", "SimplifiedLayerNormalization"}};
    for (size_t k = 0; k < 2; k++) {
        struct model *m = g_new(17), *want = g_new(17);
        for (int w = 0; w < 2; w++) {
            struct model *t = w ? want : m;
            uint32_t x = g_input(t, "x", SHAPE(DIM_UNKNOWN, 3, WIDTH)),
                     gamma = g_random(t, "gamma", SHAPE(WIDTH), 5, 1), sum = x, y;
            uint32_t f = G_OP(t, "MatMul", "f", x, g_random(t, "a", SHAPE(WIDTH, WIDTH), 6, 1));
            if (w) {
                y = G_OP(t, rows[k].plain, "n", x, gamma);
            } else {
                uint32_t out[4] = {model_add_value(t, 0, "n", false), VALUE_NONE, VALUE_NONE,
                                   model_add_value(t, 0, "sum", false)};
                model_add_node(t, 0, rows[k].fused, "com.microsoft", "join", (uint32_t[]){x, f, gamma}, 3, out, 4);
                model_set_opset(t, "com.microsoft", 1);
                y = out[0];
                sum = out[3];
            }
            node_set_float(t, g_maker(t, y), "epsilon", 1e-3f);
            g_output(t, G_OP(t, "Mul", "y", y, sum));
        }
        struct tensor in = {0};
        g_fill(&in, SHAPE(10, 3, WIDTH), 3, 1);
        struct g_done d = g_apply(m, "prune.layers count=1", &in);
        if (d.rc)
            fail_msg("%s: %s", rows[k].fused, d.err.msg);
        g_near(g_error(want, m, &in, 0), 0, 1e-6);
        assert_int_equal(g_count(m, "MatMul"), 0);
        g_done(&d);
        tensor_fini(&in);
        model_free(m);
        model_free(want);
    }
}

static void test_refused(void **state)
{
    (void)state;
    struct tensor x = {0};
    g_fill(&x, SHAPE(10, WIDTH), 3, 1);
    g_refused(three_blocks(1, false), "prune.layers count=1", NULL, "needs a dataset");
    struct model *m = g_new(17);
    uint32_t in = g_input(m, "x", SHAPE(DIM_UNKNOWN, WIDTH));
    g_output(m, G_OP(m, "MatMul", "y", in, g_random(m, "w", SHAPE(WIDTH, WIDTH), 1, 1)));
    g_refused(m, "prune.layers count=1", &x, "no residual branch");
    m = three_blocks(1, false);
    tensor_f32(&m->values[g_value(m, "two.a")].weight->tensor)[3] = NAN;
    g_refused(m, "prune.layers count=1", &x, "not all finite");
    tensor_fini(&x);
}

static void test_bad_parameters(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"prune.layers", "needs one of count, ratio and target"},
        {"prune.layers count=1 ratio=0.5", "2 are given"},
        {"prune.layers ratio=0", "ratio"},
        {"prune.layers ratio=1.5", "ratio"},
        {"prune.layers count=0", "count"},
        {"prune.layers target=macs", "target 'macs'"},
        {"prune.layers target=latency:0.5", "like \\\"macs:0.7\\\""},
        {"prune.layers target=macs:1.5", "between 0 and 1"},
        {"prune.layers target=macs:nan", "between 0 and 1"},
        {"prune.layers max_drop=2", "max_drop"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = {0};
        struct faults faults = {0};
        json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(rows[i][0], &err));
        struct recipe *r = recipe_parse(json, "", &faults, &err);
        bool found = false;
        for (int k = 0; k < faults.count; k++) {
            char text[600];
            snprintf(text, sizeof text, "%s %s", faults.at[k].pointer, faults.at[k].detail);
            json_t *quoted = json_string(text);
            char *all = json_dumps(quoted, JSON_ENCODE_ANY);
            found = found || strstr(all, rows[i][1]);
            free(all);
            json_decref(quoted);
        }
        if (r || !found)
            fail_msg("%s: '%s' is not among %d faults", rows[i][0], rows[i][1], faults.count);
        recipe_free(r);
        faults_fini(&faults);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_zero_branch_goes),
        cmocka_unit_test(test_removed_is_left_out),
        cmocka_unit_test(test_nothing_left_but_the_input),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_projection),
        cmocka_unit_test(test_nested),
        cmocka_unit_test(test_sum_and_left_alone),
        cmocka_unit_test(test_skip_normalization),
        cmocka_unit_test(test_none_selected),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_bad_parameters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
