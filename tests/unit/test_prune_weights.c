/* SPDX-License-Identifier: Apache-2.0
 * prune.weights: exact counts, ties, scopes, shared weights, dtypes, NaN; against counts and magnitudes worked out
 * here. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/prune/weight_pruning.h"
#include "graphs.h"
#include "samples.h"

extern const struct method method_prune_weights;

/* Mirrors the row's own struct by offsets: values are set by parameter name. */
struct given {
    unsigned char bytes[512];
};

static const struct param *find(const char *name)
{
    for (const struct param *p = method_prune_weights.params; p->name; p++)
        if (!strcmp(p->name, name))
            return p;
    fail_msg("no parameter %s", name);
    return NULL;
}

static void set_number(struct given *g, const char *name, double v)
{
    const struct param *p = find(name);
    int64_t whole = (int64_t)v;
    if (p->kind == PARAM_NUMBER)
        memcpy(g->bytes + p->offset, &v, sizeof v);
    else
        memcpy(g->bytes + p->offset, &whole, sizeof whole);
    g->bytes[p->given - 1] = 1;
}

static void set_global(struct given *g)
{
    int index = 2; /* auto, layer, global, row */
    memcpy(g->bytes + find("scope")->offset, &index, sizeof index);
}

static void set_globs(struct given *g, const char *name, const char **at, int count)
{
    struct globs globs = {at, count};
    memcpy(g->bytes + find(name)->offset, &globs, sizeof globs);
}

static uint32_t add_weight(struct model *m, const char *name, enum dtype dtype, const double *v, int64_t rows,
                           int64_t cols)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, dtype, &SHAPE(rows, cols), NULL), 0);
    for (int64_t i = 0; i < rows * cols; i++)
        dtype_set(dtype, t.data, i, v[i]);
    uint32_t id = model_add_weight(m, 0, name, &t);
    tensor_fini(&t);
    return id;
}

/* An empty model to put MatMuls into. */
static struct model *products(void)
{
    struct model *m = model_new();
    assert_non_null(m);
    m->ir_version = 8;
    model_set_opset(m, "", 13);
    return m;
}

static void add_product(struct model *m, const char *name, uint32_t w)
{
    uint32_t x = model_add_value(m, 0, "x", true), y = model_add_value(m, 0, "y", true), in[2] = {x, w};
    model_add_node(m, 0, "MatMul", NULL, name, in, 2, &y, 1);
}

static int prune(struct model *m, struct given *g, struct layer_report *rows, struct err *err)
{
    struct step_ctx c = {.model = m, .ramp = 1, .params = g->bytes, .layers = rows};
    return method_prune_weights.run(&c, err);
}

static void check_weights(const struct model *m, uint32_t w, const double *want, int n)
{
    const struct tensor *t = value_const(m, w);
    for (int i = 0; i < n; i++)
        assert_float_equal(dtype_get(t->dtype, t->data, i), want[i], 1e-2);
    const struct note *mask = value_note(m, w, "mask");
    assert_non_null(mask);
    for (int i = 0; i < n; i++)
        assert_int_equal(((unsigned char *)mask->tensor.data)[i], want[i] != 0);
}

static const double base[8] = {0.5, -4, 2, -0.5, 1, 3, -0.5, 8};

static void test_counts(void **state)
{
    (void)state;
    const struct {
        const char *name;
        double v;
        double want[8];
    } cases[] = {
        {"sparsity", 0, {0.5, -4, 2, -0.5, 1, 3, -0.5, 8}},
        {"sparsity", 0.25, {0, -4, 2, 0, 1, 3, -0.5, 8}}, /* ties go in order */
        {"sparsity", 0.5, {0, -4, 2, 0, 0, 3, 0, 8}},
        {"sparsity", 1, {0}},
        {"drop", 1, {0, -4, 2, -0.5, 1, 3, -0.5, 8}},
        {"drop", 100, {0}},
        {"keep", 2, {0, -4, 0, 0, 0, 0, 0, 8}},
        {"keep", 9, {0.5, -4, 2, -0.5, 1, 3, -0.5, 8}},
        {"threshold", 1, {0, -4, 2, 0, 1, 3, 0, 8}}, /* below, not at */
        {"threshold", 0, {0.5, -4, 2, -0.5, 1, 3, -0.5, 8}},
    };
    const enum dtype dtypes[] = {DTYPE_FLOAT, DTYPE_DOUBLE, DTYPE_FLOAT16, DTYPE_BFLOAT16};
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct model *m = products();
            struct given g = {{0}};
            struct err err = {0};
            uint32_t w = add_weight(m, "w", dtypes[d], base, 2, 4);
            add_product(m, "m0", w);
            set_number(&g, cases[i].name, cases[i].v);
            assert_int_equal(prune(m, &g, NULL, &err), 0);
            check_weights(m, w, cases[i].want, 8);
            model_free(m);
        }
}

static void test_global(void **state)
{
    (void)state;
    const double small[4] = {0.1, 0.2, 0.3, 0.4}, large[4] = {10, 20, 0.25, 40};
    struct model *m = products();
    struct given g = {{0}};
    struct err err = {0};
    uint32_t a = add_weight(m, "a", DTYPE_FLOAT, small, 2, 2), b = add_weight(m, "b", DTYPE_FLOAT, large, 2, 2);
    add_product(m, "m0", a);
    add_product(m, "m1", b);
    set_number(&g, "drop", 3);
    set_global(&g);
    assert_int_equal(prune(m, &g, NULL, &err), 0);
    check_weights(m, a, (double[]){0, 0, 0.3, 0.4}, 4);
    check_weights(m, b, (double[]){10, 20, 0, 40}, 4);
    model_free(m);
}

/* A weight two nodes read counts once; excluded and unsuitable nodes say why. */
static void test_shared_and_skipped(void **state)
{
    (void)state;
    struct model *m = products();
    struct given g = {{0}};
    struct err err = {0};
    struct layer_report *rows = layer_report_new();
    uint32_t a = add_weight(m, "a", DTYPE_FLOAT, base, 2, 4), b = add_weight(m, "b", DTYPE_FLOAT, base, 2, 4);
    add_product(m, "m0", a);
    add_product(m, "m1", a);
    add_product(m, "head", b);
    add_product(m, "dynamic", model_add_value(m, 0, "z", true));
    const char *exclude[] = {"he*"};
    set_globs(&g, "exclude", exclude, 1);
    set_number(&g, "sparsity", 0.5);
    set_global(&g);
    assert_int_equal(prune(m, &g, rows, &err), 0);
    check_weights(m, a, (double[]){0, -4, 2, 0, 0, 3, 0, 8}, 8);
    assert_null(value_note(m, b, "mask"));
    json_t *j = layer_report_json(rows);
    assert_int_equal(json_array_size(j), 4);
    int skipped = 0;
    size_t i;
    json_t *row;
    json_array_foreach(j, i, row) skipped += json_object_get(row, "skipped") != NULL;
    assert_int_equal(skipped, 3);
    json_decref(j);
    layer_report_free(rows);
    model_free(m);
}

/* Both matrices of a recurrent layer are pruned, each by itself. */
static void test_recurrent(void **state)
{
    (void)state;
    struct model *m = products();
    struct given g = {{0}};
    struct err err = {0};
    struct layer_report *rows = layer_report_new();
    struct tensor t = {0};
    uint32_t in[3] = {model_add_value(m, 0, "x", true), VALUE_NONE, VALUE_NONE}, y = model_add_value(m, 0, "y", true);
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(1, 8, 2), NULL), 0);
    for (int i = 0; i < 16; i++)
        tensor_f32(&t)[i] = (float)(i + 1);
    in[1] = model_add_weight(m, 0, "w", &t);
    in[2] = model_add_weight(m, 0, "r", &t);
    tensor_fini(&t);
    model_add_node(m, 0, "LSTM", NULL, "lstm", in, 3, &y, 1);
    set_number(&g, "sparsity", 0.5);
    assert_int_equal(prune(m, &g, rows, &err), 0);
    for (int w = 1; w < 3; w++)
        for (int i = 0; i < 16; i++)
            assert_int_equal(tensor_f32(value_const(m, in[w]))[i] != 0, i >= 8);
    json_t *j = layer_report_json(rows);
    assert_int_equal(json_array_size(j), 2);
    json_decref(j);
    layer_report_free(rows);
    model_free(m);
}

static void test_nan(void **state)
{
    (void)state;
    struct model *m = products();
    struct given g = {{0}};
    struct err err = {0};
    const double bad[4] = {1, 2, NAN, 4};
    add_product(m, "m0", add_weight(m, "w", DTYPE_FLOAT, bad, 2, 2));
    set_number(&g, "sparsity", 0.5);
    assert_int_equal(prune(m, &g, NULL, &err), -1);
    assert_int_equal(err.code, ERR_MODEL);
    assert_non_null(strstr(err.msg, "'m0'"));
    assert_non_null(strstr(err.msg, "element 2"));
    model_free(m);
}

static void test_check(void **state)
{
    (void)state;
    struct given none = {{0}}, two = {{0}}, one = {{0}};
    struct faults faults = {0};
    method_prune_weights.check(none.bytes, "/steps/0", &faults);
    assert_int_equal(faults.count, 1);
    assert_string_equal(faults.at[0].pointer, "/steps/0");
    set_number(&two, "keep", 1);
    set_number(&two, "drop", 1);
    method_prune_weights.check(two.bytes, "/steps/0", &faults);
    assert_int_equal(faults.count, 2);
    set_number(&one, "keep", 1);
    method_prune_weights.check(one.bytes, "/steps/0", &faults);
    assert_int_equal(faults.count, 2);
    faults_fini(&faults);
}

/* Old files list weights among the inputs: they are pruned all the same. */
static void test_listed_weight(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 8)), w = g_random(m, "w", SHAPE(8, 6), 1, 1);
    g_list(m, w, SHAPE(8, 6));
    g_output(m, G_OP(m, "MatMul", "y", x, w));
    assert_null(value_const(m, w));
    struct g_done done = g_apply(m, "prune.weights sparsity=0.5 steps=2", NULL);
    int zeros = 0;
    g_done(&done);
    for (int i = 0; i < 48; i++)
        zeros += tensor_f32(&m->values[w].weight->tensor)[i] == 0;
    assert_int_equal(zeros, 24);
    model_free(m);
}

/* ---- structures ---- */
static void test_structure_text(void **state)
{
    (void)state;
    const struct {
        const char *text;
        enum structure_kind kind;
        int64_t a, b;
    } right[] = {
        {"unstructured", STRUCTURE_NONE, 0, 0}, {"2:4", STRUCTURE_NM, 2, 4},    {"4:8", STRUCTURE_NM, 4, 8},
        {"1:64", STRUCTURE_NM, 1, 64},          {"4x1", STRUCTURE_BLOCK, 4, 1}, {"16x16", STRUCTURE_BLOCK, 16, 16}};
    static const char *const wrong[] = {
        "3:2",         "4:4",  "0:4",    "0x4", "4x0", "2:",  ":4",   "2:4 ",
        "-2:4",        "2:65", "1025x1", "x",   "",    "2;4", "+2:4", "99999999999999999999x1",
        "unstructure", "2x4x4"};
    struct structure s;
    const char *why;
    for (size_t i = 0; i < sizeof right / sizeof *right; i++) {
        assert_true(structure_parse(right[i].text, &s, &why));
        assert_int_equal(s.kind, right[i].kind);
        assert_int_equal(s.a, right[i].a);
        assert_int_equal(s.b, right[i].b);
    }
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_false(structure_parse(wrong[i], &s, &why));
        assert_non_null(why);
    }
}

static float at4(const struct model *m, uint32_t w, int64_t o, int64_t c, int64_t y, int64_t x)
{
    const struct tensor *t = value_const(m, w);
    const int64_t *d = t->shape.dim;
    return tensor_f32(t)[((o * d[1] + c) * d[2] + y) * d[3] + x];
}

/* Element k of a row of a convolution: taps slow, channels fast. */
static float conv_element(const struct model *m, uint32_t w, int64_t row, int64_t k)
{
    const int64_t *d = value_const(m, w)->shape.dim;
    const int64_t tap = k / d[1];
    return at4(m, w, row, k % d[1], tap / d[3], tap % d[3]);
}

/* Of every m neighbours the n largest stay, and as they were; channels are neighbours. */
static void test_groups_of_conv(void **state)
{
    (void)state;
    const struct {
        int64_t n, m, channels;
    } cases[] = {{2, 4, 8}, {4, 8, 16}, {1, 3, 7}, {2, 4, 3}, {2, 4, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const int64_t n = cases[i].n, group = cases[i].m, k = cases[i].channels * 9;
        struct model *m = g_new(13);
        char words[80];
        uint32_t x = g_input(m, "x", SHAPE(1, cases[i].channels, 6, 6));
        uint32_t w = g_random(m, "w", SHAPE(5, cases[i].channels, 3, 3), i + 1, 1);
        g_output(m, G_OP(m, "Conv", "y", x, w));
        struct model *was = model_clone(m, NULL);
        sprintf(words, "prune.weights structure=%d:%d", (int)n, (int)group);
        struct g_done done = g_apply(m, words, NULL);
        g_done(&done);
        for (int64_t row = 0; row < 5; row++)
            for (int64_t first = 0; first < k; first += group) {
                const int64_t size = i64_min(group, k - first);
                int64_t zeros = 0;
                for (int64_t a = first; a < first + size; a++) {
                    const float now = conv_element(m, w, row, a), before = conv_element(was, w, row, a);
                    zeros += now == 0;
                    assert_true(now == 0 || now == before);
                    for (int64_t b = first; now == 0 && b < first + size; b++)
                        assert_true(conv_element(m, w, row, b) == 0 ||
                                    fabsf(conv_element(was, w, row, b)) >= fabsf(before));
                }
                assert_int_equal(zeros, i64_max(0, size - n));
            }
        model_free(was);
        model_free(m);
    }
}

/* MatMul sums along the axis before the last; Gemm with transB along the last; ConvTranspose along the first of a group. */
static void test_groups_of_others(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 8)), w0 = g_random(m, "w0", SHAPE(8, 6), 1, 1),
             w1 = g_random(m, "w1", SHAPE(4, 6), 2, 1), w2 = g_random(m, "w2", SHAPE(8, 3, 2, 2), 3, 1);
    uint32_t h = G_OP(m, "MatMul", "h", x, w0), y = G_OP(m, "Gemm", "y", h, w1);
    node_set_int(m, g_maker(m, y), "transB", 1);
    g_output(m, y);
    uint32_t image = g_input(m, "image", SHAPE(1, 8, 4, 4)), z = G_OP(m, "ConvTranspose", "z", image, w2);
    node_set_int(m, g_maker(m, z), "group", 2);
    g_output(m, z);
    struct g_done done = g_apply(m, "prune.weights structure=1:4", NULL);
    g_done(&done);
    for (int64_t c = 0; c < 6; c++)
        for (int64_t half = 0; half < 2; half++) {
            int stay = 0;
            for (int64_t k = 0; k < 4; k++)
                stay += tensor_f32(value_const(m, w0))[(half * 4 + k) * 6 + c] != 0;
            assert_int_equal(stay, 1);
        }
    for (int64_t row = 0; row < 4; row++) {
        int first = 0, last = 0;
        for (int64_t k = 0; k < 6; k++)
            *(k < 4 ? &first : &last) += tensor_f32(value_const(m, w1))[row * 6 + k] != 0;
        assert_int_equal(first, 1);
        assert_int_equal(last, 1); /* a group of two keeps one as well */
    }
    for (int64_t group = 0; group < 2; group++)
        for (int64_t o = 0; o < 3; o++)
            for (int64_t tap = 0; tap < 4; tap++) {
                int stay = 0;
                for (int64_t c = 0; c < 4; c++)
                    stay += at4(m, w2, group * 4 + c, o, tap / 2, tap % 2) != 0;
                assert_int_equal(stay, 1);
            }
    model_free(m);
}

/* Blocks go whole; those at the edge are smaller; the ones of least mean magnitude go. */
static void test_blocks(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 7)), w = g_random(m, "w", SHAPE(7, 10), 5, 1);
    g_output(m, G_OP(m, "MatMul", "y", x, w));
    struct model *was = model_clone(m, NULL);
    struct g_done done = g_apply(m, "prune.weights structure=4x2 sparsity=0.5", NULL);
    double mean[3][4], worst_gone = 0, least_left = INFINITY;
    int gone = 0;
    g_done(&done);
    for (int r = 0; r < 3; r++) /* outputs are columns of the stored matrix */
        for (int k = 0; k < 4; k++) {
            int zeros = 0, n = 0;
            mean[r][k] = 0;
            for (int o = 4 * r; o < 4 * r + 4 && o < 10; o++)
                for (int i = 2 * k; i < 2 * k + 2 && i < 7; i++, n++) {
                    zeros += tensor_f32(value_const(m, w))[i * 10 + o] == 0;
                    mean[r][k] += fabs((double)tensor_f32(value_const(was, w))[i * 10 + o]);
                }
            mean[r][k] /= n;
            assert_true(zeros == 0 || zeros == n);
            gone += zeros > 0;
            if (zeros)
                worst_gone = fmax(worst_gone, mean[r][k]);
            else
                least_left = fmin(least_left, mean[r][k]);
        }
    assert_int_equal(gone, 6);
    assert_true(worst_gone <= least_left + 1e-6);
    model_free(was);
    model_free(m);
}

/* ---- how many ---- */
/* Worked by hand: 784-300-100-10 at density 0.1, and a tiny layer that stays dense. */
static void test_erk(void **state)
{
    (void)state;
    const double size[] = {784 * 300, 300 * 100, 100 * 10}, sum[] = {1084, 400, 110};
    double density[3], total = 0, all = 0;
    erk_densities(3, size, sum, 0.1, density);
    for (int i = 0; i < 3; i++) {
        total += density[i] * size[i];
        all += size[i];
    }
    g_near(total, 0.1 * all, 1e-6 * all);
    assert_true(density[2] == 1); /* 110 / 1000 times any scale that fills the budget is above 1 */
    g_near(density[0] / density[1], (1084.0 / size[0]) / (400.0 / size[1]), 1e-12);
    erk_densities(3, size, sum, 1, density);
    for (int i = 0; i < 3; i++)
        g_near(density[i], 1, 1e-12);
    erk_densities(3, size, sum, 0, density);
    for (int i = 0; i < 3; i++)
        g_near(density[i], 0, 1e-12);
}

static int64_t zeros_of(const struct model *m, uint32_t w)
{
    int64_t zeros = 0;
    for (int64_t i = 0; i < tensor_count(value_const(m, w)); i++)
        zeros += tensor_f32(value_const(m, w))[i] == 0;
    return zeros;
}

static struct model *two_layers(uint32_t w[2])
{
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, 40));
    w[0] = g_random(m, "w0", SHAPE(40, 20), 1, 1);
    w[1] = g_random(m, "w1", SHAPE(20, 4), 2, 0.01);
    g_output(m, G_OP(m, "MatMul", "y", G_OP(m, "Relu", "r", G_OP(m, "MatMul", "h", x, w[0])), w[1]));
    return m;
}

static void test_allocation_and_schedule(void **state)
{
    (void)state;
    const struct {
        const char *words;
        int64_t zeros[2]; /* -1: only the sum is known */
    } cases[] = {
        {"prune.weights sparsity=0.75", {600, 60}},
        {"prune.weights sparsity=0.75 scope=row", {600, 60}},
        {"prune.weights sparsity=0.75 scope=row criterion=random", {600, 60}},
        {"prune.weights sparsity=0.75 steps=7", {600, 60}},
        {"prune.weights keep=50 steps=3", {750, 30}},
        /* densities 60/800 s and 24/80 s: s = 220 / 84, so 0.1964 and 0.7857 */
        {"prune.weights sparsity=0.75 allocation=erk", {643, 17}},
        {"prune.weights keep=220 allocation=erk steps=4", {643, 17}},
        {"prune.weights sparsity=0.75 allocation=global", {-1, -1}},
        {"prune.weights sparsity=0.75 criterion=lamp", {-1, -1}},
        {"prune.weights sparsity=0.75 criterion=l1_normalised scope=global", {-1, -1}},
        {"prune.weights sparsity=1", {800, 80}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t w[2];
        struct model *m = two_layers(w);
        struct g_done done = g_apply(m, cases[i].words, NULL);
        const bool empty = zeros_of(m, w[0]) == 800 || zeros_of(m, w[1]) == 80;
        g_expect_warning(&done, "no speed gain in ONNX Runtime", true);
        g_expect_warning(&done, "lost every weight", empty);
        g_done(&done);
        const int64_t zeros[2] = {zeros_of(m, w[0]), zeros_of(m, w[1])};
        if (cases[i].zeros[0] >= 0) {
            assert_int_equal(zeros[0], cases[i].zeros[0]);
            assert_int_equal(zeros[1], cases[i].zeros[1]);
        } else {
            assert_int_equal(zeros[0] + zeros[1], 660);
        }
        if (strstr(cases[i].words, "=global") && !strstr(cases[i].words, "l1"))
            assert_int_equal(zeros[1], 80); /* a hundred times smaller: all of it goes */
        if (strstr(cases[i].words, "lamp") || strstr(cases[i].words, "l1"))
            assert_true(zeros[1] < 60); /* scale does not matter, and the small layer is spared */
        model_free(m);
    }
}

/* What was zero stays zero, and counts. */
static void test_zeros_stay(void **state)
{
    (void)state;
    static const char *const second[] = {"criterion=magnitude", "criterion=random", "criterion=lamp",
                                         "criterion=random scope=row"};
    for (size_t i = 0; i < sizeof second / sizeof *second; i++) {
        uint32_t w[2];
        char words[120];
        struct model *m = two_layers(w);
        struct g_done done = g_apply(m, "prune.weights sparsity=0.4 criterion=random", NULL);
        g_done(&done);
        struct model *was = model_clone(m, NULL);
        sprintf(words, "prune.weights sparsity=0.6 %s", second[i]);
        done = g_apply(m, words, NULL);
        g_done(&done);
        assert_int_equal(zeros_of(m, w[0]) + zeros_of(m, w[1]), 480 + 48);
        for (int k = 0; k < 2; k++)
            for (int64_t e = 0; e < tensor_count(value_const(m, w[k])); e++) {
                const float before = tensor_f32(value_const(was, w[k]))[e], now = tensor_f32(value_const(m, w[k]))[e];
                assert_true(now == 0 || now == before);
                assert_int_equal(((unsigned char *)value_note(m, w[k], "mask")->tensor.data)[e], now != 0);
            }
        model_free(was);
        model_free(m);
    }
}

/* ---- criteria ---- */
static int criterion_named(const char *name)
{
    int i = 0;
    while (strcmp(weights_criteria_names[i], name))
        i++;
    return i;
}

/* A run whose items are scored. */
struct scoring {
    struct prune_run run;
    struct prune_weights_params params;
    struct step_ctx step;
};
static void score(struct scoring *s, struct model *m, const char *name, struct dataset *data)
{
    struct err err = {0};
    memset(s, 0, sizeof *s);
    s->params.criterion = criterion_named(name);
    s->step = (struct step_ctx){.model = m, .ramp = 1, .data = data, .seed = 7};
    s->run = (struct prune_run){
        .c = &s->step, .o = &s->params, .criterion = weights_criterion(s->params.criterion), .scope = SCOPE_LAYER};
    if (weights_collect(&s->run, &err) || (s->run.criterion->prepare && s->run.criterion->prepare(&s->run, &err)))
        fail_msg("%s: %s", name, err.msg);
}
static double score_of(const struct scoring *s, int item, int64_t i)
{
    double v;
    weights_scores(&s->run, &s->run.item[item], i, 1, &v);
    return v;
}
static void score_end(struct scoring *s)
{
    for (int i = 0; i < s->run.n; i++)
        prune_item_fini(&s->run.item[i]);
    free(s->run.item);
}

static void test_lamp(void **state)
{
    (void)state;
    const float v[6] = {3, -1, 2, 0, -2, 5};
    /* squares ascending, of equal ones the first in the file first: 0, 1, 4, 4, 9, 25 */
    const double want[6] = {9.0 / 34, 1.0 / 43, 4.0 / 42, 0, 4.0 / 38, 1};
    struct model *m = g_new(13);
    struct scoring s;
    g_output(m, G_OP(m, "MatMul", "y", g_input(m, "x", SHAPE(1, 2)), g_const(m, "w", SHAPE(2, 3), v)));
    score(&s, m, "lamp", NULL);
    for (int i = 0; i < 6; i++)
        g_near(score_of(&s, 0, i), want[i], 1e-6);
    score_end(&s);
    score(&s, m, "l1_normalised", NULL);
    for (int i = 0; i < 6; i++)
        g_near(score_of(&s, 0, i), fabs((double)v[i]) / 13, 1e-12);
    score_end(&s);
    model_free(m);
}

enum { SAMPLES = 12, IN = 5, HIDDEN = 4, CLASSES = 3 };

/* Scores of a small network. */
static struct model *classifier(uint32_t w[2])
{
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(1, IN));
    w[0] = g_random(m, "w0", SHAPE(IN, HIDDEN), 11, 0.7);
    w[1] = g_random(m, "w1", SHAPE(HIDDEN, CLASSES), 12, 0.7);
    g_output(m, G_OP(m, "MatMul", "y", G_OP(m, "Tanh", "t", G_OP(m, "MatMul", "h", x, w[0])), w[1]));
    return m;
}

static double loss_of(const double *w0, const double *w1, const float *x, int64_t y)
{
    double score[CLASSES] = {0}, sum = 0;
    for (int h = 0; h < HIDDEN; h++) {
        double a = 0;
        for (int i = 0; i < IN; i++)
            a += (double)x[i] * w0[i * HIDDEN + h];
        for (int c = 0; c < CLASSES; c++)
            score[c] += tanh(a) * w1[h * CLASSES + c];
    }
    for (int c = 0; c < CLASSES; c++)
        sum += exp(score[c]);
    return log(sum) - score[y];
}

/* gradient, taylor, fisher and snip from finite differences of a twin in doubles, with the labels of the dataset. */
static void test_gradients(void **state)
{
    (void)state;
    float x[SAMPLES * IN];
    int64_t y[SAMPLES];
    uint32_t id[2];
    struct rng rng;
    double w[2][IN * HIDDEN], want[4][2][IN * HIDDEN] = {{{0}}}, sum = 0;
    const int count[2] = {IN * HIDDEN, HIDDEN * CLASSES};
    struct model *m = classifier(id);
    rng_init(&rng, 3, 0);
    for (int i = 0; i < SAMPLES * IN; i++)
        x[i] = (float)rng_normal(&rng);
    for (int i = 0; i < SAMPLES; i++)
        y[i] = i * 7 % CLASSES;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < count[k]; i++)
            w[k][i] = (double)tensor_f32(value_const(m, id[k]))[i];
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < count[k]; i++) {
            const double old = w[k][i];
            for (int s = 0; s < SAMPLES; s++) {
                w[k][i] = old + 1e-5;
                double g = loss_of(w[0], w[1], x + s * IN, y[s]);
                w[k][i] = old - 1e-5;
                g = (g - loss_of(w[0], w[1], x + s * IN, y[s])) / 2e-5;
                w[k][i] = old;
                want[0][k][i] += fabs(g) / SAMPLES;
                want[1][k][i] += fabs(g * old) / SAMPLES;
                want[2][k][i] += g * g * old * old / 2 / SAMPLES;
                want[3][k][i] += g * old / SAMPLES;
            }
            want[3][k][i] = fabs(want[3][k][i]);
            sum += want[3][k][i];
        }
    static const char *const names[4] = {"gradient", "taylor", "fisher", "snip"};
    struct dataset *data = samples_open(x, SAMPLES, IN, y, m);
    for (int n = 0; n < 4; n++) {
        struct scoring s;
        score(&s, m, names[n], data);
        assert_int_equal(s.run.n, 2);
        for (int k = 0; k < 2; k++)
            for (int i = 0; i < count[k]; i++)
                g_near(score_of(&s, k, i), want[n][k][i] / (n == 3 ? sum : 1), 2e-5);
        score_end(&s);
    }
    dataset_close(data);
    model_free(m);
}

/* |w| times the norm of the input, by rows; of a convolution the norm over its patches. */
static void test_wanda(void **state)
{
    (void)state;
    enum { C = 2, SIDE = 5, OUT = 3, N = 6 };
    float x[N * C * SIDE * SIDE];
    struct rng rng;
    struct scoring s;
    struct model *m = g_new(13);
    uint32_t in = g_input(m, "x", SHAPE(-1, C, SIDE, SIDE)), w = g_random(m, "w", SHAPE(OUT, C, 3, 3), 4, 1);
    g_output(m, G_OP(m, "Conv", "y", in, w));
    rng_init(&rng, 9, 0);
    for (int i = 0; i < N * C * SIDE * SIDE; i++)
        x[i] = (float)rng_normal(&rng);
    struct dataset *data = samples_open(x, N, C * SIDE * SIDE, NULL, m);
    score(&s, m, "wanda", data);
    for (int o = 0; o < OUT; o++)
        for (int k = 0; k < C * 9; k++) {
            double power = 0;
            for (int n = 0; n < N; n++)
                for (int p = 0; p < 9; p++) { /* output positions 3 x 3 */
                    const int row = p / 3 + k % 9 / 3, col = p % 3 + k % 3;
                    power += pow((double)x[((n * C + k / 9) * SIDE + row) * SIDE + col], 2);
                }
            const double want = fabs((double)tensor_f32(value_const(m, w))[o * C * 9 + k]) * sqrt(power);
            g_near(score_of(&s, 0, o * C * 9 + k), want, 1e-4 * want);
        }
    score_end(&s);
    dataset_close(data);
    model_free(m);
}

/* Labels drawn from the model itself, and all criteria with data in every structure: exact counts, and what runs. */
static void test_with_data(void **state)
{
    (void)state;
    static const char *const names[] = {"gradient", "taylor", "fisher", "snip", "wanda", "obs"};
    static const char *const how[] = {
        "sparsity=0.5",        "sparsity=0.5 scope=global",  "sparsity=0.5 scope=row",
        "structure=2:4",       "structure=2x2 sparsity=0.5", "sparsity=0.5 allocation=erk",
        "sparsity=0.5 steps=3"};
    struct tensor x = {0};
    g_fill(&x, SHAPE(32, 40), 5, 1);
    for (size_t n = 0; n < sizeof names / sizeof *names; n++)
        for (size_t h = 0; h < sizeof how / sizeof *how; h++) {
            uint32_t w[2];
            char words[160];
            struct model *m = two_layers(w);
            sprintf(words, "prune.weights criterion=%s %s", names[n], how[h]);
            struct g_done done = g_apply(m, words, &x);
            g_done(&done);
            const int64_t zeros = zeros_of(m, w[0]) + zeros_of(m, w[1]);
            if (zeros != 440)
                fail_msg("%s: %d zeros, expected 440", words, (int)zeros);
            model_free(m);
        }
    tensor_fini(&x);
}

static void test_no_data(void **state)
{
    (void)state;
    uint32_t w[2];
    struct model *m = two_layers(w);
    struct g_done done = g_apply(m, "prune.weights criterion=wanda sparsity=0.5", NULL);
    assert_int_equal(done.rc, -1);
    assert_non_null(strstr(done.err.msg, "wanda needs a dataset"));
    json_decref(done.layers);
    json_decref(done.warnings);
    model_free(m);
    struct prune_weights_params p = {.criterion = criterion_named("obs")};
    assert_int_equal(method_prune_weights.needs_of(&p), NEEDS_DATA | NEEDS_RUN);
    p.criterion = criterion_named("lamp");
    assert_int_equal(method_prune_weights.needs_of(&p), NEEDS_NOTHING);
}

static void test_faults(void **state)
{
    (void)state;
    const struct {
        const char *words, *part;
    } cases[] = {
        {"structure=3:2 sparsity=0.5", "n must be at least 1 and below m"},
        {"structure=0x4 sparsity=0.5", "the sides of a block must be at least 1"},
        {"structure=2to4", "it must be \"unstructured\""},
        {"structure=2:4 sparsity=0.5", "says itself how many weights go"},
        {"structure=2:4 scope=global", "leave out scope and allocation"},
        {"structure=2:4 steps=3", "has no schedule"},
        {"structure=4x1", "exactly one of sparsity, threshold, keep and drop"},
        {"structure=4x1 sparsity=0.5 scope=row", "scope=row ranks single weights"},
        {"threshold=0.1 steps=2", "a threshold is none"},
        {"threshold=0.1 allocation=erk", "a threshold is none"},
        {"sparsity=0.5 scope=global allocation=erk", "cannot share among them"},
        {"sparsity=0.5 scope=layer allocation=global", "but scope=layer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err err = {0};
        struct faults faults = {0};
        char words[160];
        sprintf(words, "prune.weights %s", cases[i].words);
        json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(words, &err));
        struct recipe *r = recipe_parse(json, "", &faults, &err);
        bool found = false;
        assert_null(r);
        for (int k = 0; k < faults.count; k++)
            found = found || strstr(faults.at[k].detail, cases[i].part);
        if (!found)
            fail_msg("%s: no fault says '%s', but: %s", cases[i].words, cases[i].part, err.msg);
        faults_fini(&faults);
        json_decref(json);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts),
        cmocka_unit_test(test_global),
        cmocka_unit_test(test_shared_and_skipped),
        cmocka_unit_test(test_nan),
        cmocka_unit_test(test_check),
        cmocka_unit_test(test_recurrent),
        cmocka_unit_test(test_listed_weight),
        cmocka_unit_test(test_structure_text),
        cmocka_unit_test(test_groups_of_conv),
        cmocka_unit_test(test_groups_of_others),
        cmocka_unit_test(test_blocks),
        cmocka_unit_test(test_erk),
        cmocka_unit_test(test_allocation_and_schedule),
        cmocka_unit_test(test_zeros_stay),
        cmocka_unit_test(test_lamp),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_wanda),
        cmocka_unit_test(test_with_data),
        cmocka_unit_test(test_no_data),
        cmocka_unit_test(test_faults),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
