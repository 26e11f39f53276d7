/* SPDX-License-Identifier: Apache-2.0
 * core/prune/groups.h on graphs by hand: which channels go together, which are frozen and why; and what is cut.
 * Every group that can go is taken out for a third: the rest must compute what the original does when the channels
 * are not read (groups_exact.h), and costs must be as predicted. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <time.h>

#include "tests/unit/graphs.h"
#include "tests/unit/groups_exact.h"

/* ---- building ---- */
static uint64_t seed;

static uint32_t weight(struct model *m, const char *name, struct shape shape)
{
    return g_random(m, name, shape, ++seed, 0.5);
}

/* A convolution of `out` filters with bias; kernel 1 or 3 (padded); the weight is "<name>.w". */
static uint32_t conv(struct model *m, const char *name, uint32_t x, int64_t in, int64_t out, int64_t kernel,
                     int64_t group)
{
    char w[64], b[64];
    snprintf(w, sizeof w, "%s.w", name);
    snprintf(b, sizeof b, "%s.b", name);
    const uint32_t y =
        G_OP(m, "Conv", name, x, weight(m, w, SHAPE(out, in / group, kernel, kernel)), weight(m, b, SHAPE(out)));
    node_set_int(m, g_maker(m, y), "group", group);
    if (kernel == 3)
        node_set_ints(m, g_maker(m, y), "pads", (int64_t[]){1, 1, 1, 1}, 4);
    return y;
}

static uint32_t gemm(struct model *m, const char *name, uint32_t x, int64_t in, int64_t out)
{
    char w[64], b[64];
    snprintf(w, sizeof w, "%s.w", name);
    snprintf(b, sizeof b, "%s.b", name);
    return G_OP(m, "Gemm", name, x, weight(m, w, SHAPE(in, out)), weight(m, b, SHAPE(out)));
}

static uint32_t matmul(struct model *m, const char *name, uint32_t x, int64_t in, int64_t out)
{
    char w[64];
    snprintf(w, sizeof w, "%s.w", name);
    return G_OP(m, "MatMul", name, x, weight(m, w, SHAPE(in, out)));
}

static uint32_t reshape(struct model *m, const char *name, uint32_t x, int n, const int64_t *to)
{
    char s[64];
    snprintf(s, sizeof s, "%s.shape", name);
    return G_OP(m, "Reshape", name, x, g_ints(m, s, n, to));
}
#define RESHAPE(m, name, x, ...)                                                                                       \
    reshape(m, name, x, (int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

static uint32_t transpose(struct model *m, const char *name, uint32_t x, int n, const int64_t *perm)
{
    const uint32_t y = G_OP(m, "Transpose", name, x);
    node_set_ints(m, g_maker(m, y), "perm", perm, n);
    return y;
}
#define TRANSPOSE(m, name, x, ...)                                                                                     \
    transpose(m, name, x, (int)(sizeof(int64_t[]){__VA_ARGS__} / sizeof(int64_t)), (int64_t[]){__VA_ARGS__})

static uint32_t attr_int(struct model *m, uint32_t y, const char *name, int64_t v)
{
    node_set_int(m, g_maker(m, y), name, v);
    return y;
}

static uint32_t image(struct model *m)
{
    return g_input(m, "x", SHAPE(2, 3, 6, 6));
}

static uint32_t batchnorm(struct model *m, const char *name, uint32_t x, int64_t n)
{
    char part[4][64];
    for (int i = 0; i < 4; i++)
        snprintf(part[i], sizeof part[i], "%s.%d", name, i);
    float positive[64];
    for (int64_t i = 0; i < n; i++)
        positive[i] = 0.5f + 0.1f * (float)i;
    return G_OP(m, "BatchNormalization", name, x, weight(m, part[0], SHAPE(n)), weight(m, part[1], SHAPE(n)),
                weight(m, part[2], SHAPE(n)), g_const(m, part[3], SHAPE(n), positive));
}

/* ---- the graphs ---- */
static void residual(struct model *m)
{
    uint32_t a = G_OP(m, "Relu", "a", conv(m, "c1", image(m), 3, 8, 3, 1));
    uint32_t b = batchnorm(m, "bn", conv(m, "c2", a, 8, 8, 3, 1), 8);
    g_output(m, conv(m, "c3", G_OP(m, "Add", "sum", a, b), 8, 4, 1, 1));
}

static void concatenated(struct model *m)
{
    uint32_t x = image(m), a = conv(m, "c1", x, 3, 8, 3, 1), b = conv(m, "c2", x, 3, 4, 1, 1);
    uint32_t c = attr_int(m, G_OP(m, "Concat", "cat", a, b, a), "axis", 1);
    g_output(m, conv(m, "c3", G_OP(m, "Sigmoid", "s", batchnorm(m, "bn", c, 20)), 20, 4, 1, 1));
}

static void shuffled(struct model *m)
{
    uint32_t a = RESHAPE(m, "r1", conv(m, "c1", image(m), 3, 12, 3, 1), 2, 3, 4, 6, 6);
    uint32_t b = RESHAPE(m, "r2", TRANSPOSE(m, "t", a, 0, 2, 1, 3, 4), 2, 12, 6, 6);
    g_output(m, conv(m, "c2", G_OP(m, "Relu", "r", b), 12, 4, 1, 1));
}

static void depthwise(struct model *m)
{
    uint32_t a = conv(m, "dw", conv(m, "c1", image(m), 3, 8, 1, 1), 8, 8, 3, 8);
    uint32_t g = conv(m, "grouped", conv(m, "c2", a, 8, 12, 1, 1), 12, 6, 3, 3);
    g_output(m, conv(m, "c3", g, 6, 4, 1, 1));
}

static void flattened(struct model *m)
{
    uint32_t a = attr_int(m, G_OP(m, "Flatten", "f", conv(m, "c1", image(m), 3, 5, 3, 1)), "axis", 1);
    uint32_t b = G_OP(m, "Tanh", "h", gemm(m, "g1", a, 180, 10));
    g_output(m, gemm(m, "g2", b, 10, 4));
}

static void squeeze_excite(struct model *m)
{
    uint32_t a = conv(m, "c1", image(m), 3, 8, 3, 1);
    uint32_t s = conv(m, "down", G_OP(m, "GlobalAveragePool", "p", a), 8, 2, 1, 1);
    uint32_t e = G_OP(m, "Sigmoid", "gate", conv(m, "up", G_OP(m, "Relu", "r", s), 2, 8, 1, 1));
    g_output(m, conv(m, "c2", G_OP(m, "Mul", "scaled", a, e), 8, 4, 1, 1));
}

static void shared(struct model *m) /* one weight, two layers */
{
    uint32_t a = conv(m, "c1", image(m), 3, 6, 1, 1), w = weight(m, "w", SHAPE(6, 6, 1, 1));
    uint32_t b = G_OP(m, "Conv", "c2", a, w), c = G_OP(m, "Conv", "c3", G_OP(m, "Relu", "r", b), w);
    g_output(m, conv(m, "c4", c, 6, 4, 1, 1));
}

static void attention(struct model *m)
{
    uint32_t x = g_input(m, "x", SHAPE(2, 5, 6)), part[3];
    static const char *const names[3][3] = {{"q", "qr", "qt"}, {"k", "kr", "kt"}, {"v", "vr", "vt"}};
    for (int i = 0; i < 3; i++) {
        part[i] = RESHAPE(m, names[i][1], matmul(m, names[i][0], x, 6, 12), 2, 5, 3, 4);
        part[i] =
            i == 1 ? TRANSPOSE(m, names[i][2], part[i], 0, 2, 3, 1) : TRANSPOSE(m, names[i][2], part[i], 0, 2, 1, 3);
    }
    uint32_t p = attr_int(m, G_OP(m, "Softmax", "p", G_OP(m, "MatMul", "qk", part[0], part[1])), "axis", -1);
    uint32_t y = TRANSPOSE(m, "yt", G_OP(m, "MatMul", "pv", p, part[2]), 0, 2, 1, 3);
    g_output(m, matmul(m, "o", RESHAPE(m, "yr", y, 2, 5, 12), 12, 6));
}

static void grouped_queries(struct model *m) /* 4 query heads, 2 of keys and values, each repeated */
{
    uint32_t x = g_input(m, "x", SHAPE(2, 5, 6)), part[3];
    static const char *const names[3][5] = {
        {"q", "qr", "qt"}, {"k", "kr", "kt", "ku", "kx"}, {"v", "vr", "vt", "vu", "vx"}};
    for (int i = 0; i < 3; i++) {
        const int64_t heads = i ? 2 : 4;
        part[i] = RESHAPE(m, names[i][1], matmul(m, names[i][0], x, 6, heads * 3), 2, 5, heads, 3);
        part[i] = TRANSPOSE(m, names[i][2], part[i], 0, 2, 1, 3);
        if (i == 0)
            continue;
        char copy[16], joined[16];
        snprintf(copy, sizeof copy, "%s.to", names[i][4]);
        snprintf(joined, sizeof joined, "%sj", names[i][0]);
        part[i] = G_OP(m, "Expand", names[i][4], RESHAPE(m, names[i][3], part[i], 2, 2, 1, 5, 3),
                       g_ints(m, copy, 5, (int64_t[]){2, 2, 2, 5, 3}));
        part[i] = RESHAPE(m, joined, part[i], 2, 4, 5, 3);
    }
    uint32_t scores = G_OP(m, "MatMul", "qk", part[0], TRANSPOSE(m, "kswap", part[1], 0, 1, 3, 2));
    uint32_t p = attr_int(m, G_OP(m, "Softmax", "p", scores), "axis", -1);
    uint32_t y = TRANSPOSE(m, "yt", G_OP(m, "MatMul", "pv", p, part[2]), 0, 2, 1, 3);
    g_output(m, matmul(m, "o", RESHAPE(m, "yr", y, 2, 5, 12), 12, 6));
}

static void split(struct model *m)
{
    uint32_t a = conv(m, "c1", image(m), 3, 12, 1, 1),
             out[2] = {model_add_value(m, 0, "s1", false), model_add_value(m, 0, "s2", false)};
    uint32_t in[2] = {a, g_ints(m, "sizes", 2, (int64_t[]){8, 4})};
    model_add_node(m, 0, "Split", NULL, "split", in, 2, out, 2);
    node_set_int(m, m->n_nodes - 1, "axis", 1);
    uint32_t b = conv(m, "c2", out[0], 8, 4, 3, 1);
    g_output(m, conv(m, "c3", G_OP(m, "Add", "sum", b, out[1]), 4, 4, 1, 1));
}

static void unknown(struct model *m)
{
    uint32_t a = conv(m, "c1", image(m), 3, 8, 1, 1);
    uint32_t odd = G_OP(m, "FooBar", "odd", conv(m, "c2", a, 8, 8, 1, 1));
    g_output(m, conv(m, "c3", odd, 8, 4, 1, 1));
}

static void outputs(struct model *m)
{
    uint32_t a = conv(m, "c1", image(m), 3, 8, 1, 1), b = G_OP(m, "Relu", "b", a);
    g_output(m, b);
    g_output(m, conv(m, "c2", b, 8, 4, 1, 1));
}

static void partly(struct model *m) /* the first four channels are an output */
{
    uint32_t a = conv(m, "c1", image(m), 3, 8, 1, 1);
    g_output(m, G_OP(m, "Slice", "first", a, g_ints(m, "from", 1, (int64_t[]){0}), g_ints(m, "to", 1, (int64_t[]){4}),
                     g_ints(m, "axes", 1, (int64_t[]){1})));
    g_output(m, conv(m, "c2", a, 8, 4, 1, 1));
}

static void branch(struct model *m) /* c1's channels are read inside an If */
{
    uint32_t a = conv(m, "c1", image(m), 3, 8, 1, 1), cond = model_add_value(m, 0, "cond", false), y[2];
    g_declare(m, &model_main(m)->inputs, &model_main(m)->n_inputs, cond, type_tensor(DTYPE_BOOL, &SHAPE_SCALAR));
    m->values[cond].type = type_tensor(DTYPE_BOOL, &SHAPE_SCALAR);
    uint32_t out = G_OP(m, "If", "chosen", cond);
    struct attr *attr = model_alloc(m, 2, sizeof *attr);
    for (int i = 0; i < 2; i++) {
        const uint32_t node = g_maker(m, out), graph = model_add_graph(m, 0, node);
        y[i] = model_add_value(m, graph, i ? "else_y" : "then_y", false);
        model_add_node(m, graph, i ? "Relu" : "Tanh", NULL, NULL, &a, 1, &y[i], 1);
        struct graph *g = &m->graphs[graph];
        g_declare(m, &g->outputs, &g->n_outputs, y[i], type_tensor(DTYPE_FLOAT, &SHAPE_UNKNOWN));
        attr[i] =
            (struct attr){.name = i ? "else_branch" : "then_branch", .type = ATTR_GRAPH, .has_type = true, .count = 1};
        attr[i].graphs = model_alloc(m, 1, sizeof *attr[i].graphs);
        attr[i].graphs[0] = graph;
    }
    m->nodes[g_maker(m, out)].attr = attr;
    m->nodes[g_maker(m, out)].n_attr = 2;
    g_output(m, conv(m, "c2", out, 8, 4, 1, 1));
}

static void computed_shape(struct model *m) /* reshaped to sizes that only a run knows */
{
    uint32_t a = conv(m, "c1", image(m), 3, 8, 1, 1), to = model_add_value(m, 0, "to", false);
    g_declare(m, &model_main(m)->inputs, &model_main(m)->n_inputs, to, type_tensor(DTYPE_INT64, &SHAPE(2)));
    m->values[to].type = type_tensor(DTYPE_INT64, &SHAPE(2));
    g_output(m, gemm(m, "g1", G_OP(m, "Reshape", "r", a, to), 288, 4));
}

/* The last convolution behind a Shape - Gather - Concat - Reshape of an unknown batch. */
static void shape_arithmetic(struct model *m)
{
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(0), 3, 6, 6));
    m->symbols = model_alloc(m, 1, sizeof *m->symbols);
    m->symbols[m->n_symbols++] = "batch";
    uint32_t a = conv(m, "c1", x, 3, 8, 1, 1), size = G_OP(m, "Shape", "size", a);
    uint32_t batch = G_OP(m, "Gather", "batch", size, g_ints(m, "first", 1, (int64_t[]){0}));
    uint32_t to = attr_int(m, G_OP(m, "Concat", "to", batch, g_ints(m, "rest", 1, (int64_t[]){288})), "axis", 0);
    g_output(m, gemm(m, "g1", G_OP(m, "Reshape", "r", a, to), 288, 4));
}

static void one_atom(struct model *m) /* every channel is every other's neighbour: a shift by one */
{
    uint32_t a = conv(m, "c1", image(m), 3, 4, 1, 1);
    uint32_t b = G_OP(m, "Gather", "turned", a, g_ints(m, "turn", 4, (int64_t[]){1, 2, 3, 0}));
    attr_int(m, b, "axis", 1);
    g_output(m, conv(m, "c2", G_OP(m, "Add", "sum", a, b), 4, 4, 1, 1));
}

struct expected {
    const char *name;
    int64_t n;
    const char *frozen; /* part of the reason; NULL: none */
    const char *through;
};
static const struct {
    const char *name;
    void (*build)(struct model *m);
    enum groups_mode mode;
    bool no_run; /* it cannot be run here */
    struct expected groups[6];
} cases[] = {
    {"residual", residual, GROUPS_INNER, false, {{"c1", 8}, {"c3", 0, "output 'c3' of the model"}}},
    {"concat", concatenated, GROUPS_INNER, false, {{"c1", 8}, {"c2", 4}, {"c3", 0, "output 'c3'"}}},
    {"shuffle", shuffled, GROUPS_INNER, false, {{"c1", 4}, {"c2", 0, "output"}}},
    {"shuffle outer", shuffled, GROUPS_OUTER, false, {{"c1", 4}, {"c2", 0, "output"}}},
    {"depthwise", depthwise, GROUPS_INNER, false, {{"c1", 8}, {"c2", 4}, {"grouped", 2}, {"c3", 0, "output"}}},
    {"flatten", flattened, GROUPS_INNER, false, {{"c1", 5}, {"g1", 10}, {"g2", 0, "output"}}},
    {"squeeze and excite", squeeze_excite, GROUPS_INNER, false, {{"c1", 8}, {"down", 2}, {"c2", 0, "output"}}},
    {"shared weight", shared, GROUPS_INNER, false, {{"c1", 6}, {"c4", 0, "output"}}},
    {"attention", attention, GROUPS_INNER, false, {{"q", 4}, {"v", 4}, {"o", 0, "output"}}},
    {"heads", attention, GROUPS_OUTER, false, {{"q", 3, NULL, "heads"}, {"o", 0, "output"}}},
    {"grouped queries", grouped_queries, GROUPS_INNER, false, {{"q", 3}, {"v", 3}, {"o", 0, "output"}}},
    {"grouped heads", grouped_queries, GROUPS_OUTER, false, {{"q", 2, NULL, "heads"}, {"o", 0, "output"}}},
    {"split", split, GROUPS_INNER, false, {{"c1", 12}, {"c3", 0, "output"}}},
    {"unknown",
     unknown,
     GROUPS_INNER,
     true,
     {{"c1", 8},
      {"c2", 0, "node 'odd': FooBar is not known"},
      {"c3", 0, "node 'c3': the shape of 'odd' is not known"}}},
    {"output", outputs, GROUPS_INNER, false, {{"c1", 0, "output 'b' of the model"}, {"c2", 0, "output 'c2'"}}},
    {"partly", partly, GROUPS_INNER, false, {{"c1", 4, "output 'first' of the model"}, {"c2", 0, "output"}}},
    {"branch",
     branch,
     GROUPS_INNER,
     true,
     {{"c1", 0, "value 'c1' is read by a nested graph"}, {"c2", 0, "the shape of 'chosen' is not known"}}},
    {"computed shape", computed_shape, GROUPS_INNER, true, {{"c1", 0, "node 'r': "}, {"g1", 0, "output"}}},
    {"shape arithmetic", shape_arithmetic, GROUPS_INNER, false, {{"c1", 8}, {"g1", 0, "output"}}},
    {"one atom", one_atom, GROUPS_INNER, false, {{"c1", 1}, {"c2", 0, "output"}}},
};

static struct model *made(void (*build)(struct model *m))
{
    struct model *m = g_new(17);
    struct warnings *w = warnings_new();
    struct err err = {0};
    seed = 0;
    build(m);
    if (groups_prepare(m, w, &err))
        fail_msg("%s", err.msg);
    warnings_free(w);
    return m;
}

static struct groups *found(const struct model *m, enum groups_mode mode)
{
    struct err err = {0};
    struct groups *g = groups_find(m, mode, &err);
    if (!g)
        fail_msg("%s", err.msg);
    return g;
}

static const struct group *group_of(const struct groups *g, const char *name)
{
    for (int i = 0; i < g->n; i++)
        if (!strcmp(g->at[i].name, name))
            return &g->at[i];
    fail_msg("no group '%s'", name);
    return NULL;
}

static void show(const struct groups *g)
{
    for (int i = 0; i < g->n; i++)
        print_error("  '%s' n %d frozen '%s' through '%s'\n", g->at[i].name, (int)g->at[i].n,
                    g->at[i].frozen ? g->at[i].frozen : "", g->at[i].through ? g->at[i].through : "");
}

static bool as_expected(const struct groups *g, const struct expected *want)
{
    int n = 0;
    for (; n < 6 && want[n].name; n++) {
        const struct group *at = n < g->n ? &g->at[n] : NULL;
        if (!at || strcmp(at->name, want[n].name) || at->n != want[n].n || !at->frozen != !want[n].frozen ||
            (at->frozen && !strstr(at->frozen, want[n].frozen)) || !at->through != !want[n].through)
            return false;
    }
    return n == g->n;
}

static void test_found(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = made(cases[i].build);
        struct groups *g = found(m, cases[i].mode);
        if (!as_expected(g, cases[i].groups)) {
            print_error("%s: not the groups expected\n", cases[i].name);
            show(g);
            fail();
        }
        groups_free(g);
        model_free(m);
    }
}

/* Two rounds: what is cut can be cut again. */
static void cut_all(const char *name, const struct model *m, enum groups_mode mode, int depth)
{
    struct exact_inputs in;
    struct err err = {0};
    struct groups *g = found(m, mode);
    if (exact_fill(m, 2, 6, 5, &in, &err))
        fail_msg("%s: %s", name, err.msg);
    for (int i = 0; i < g->n; i++) {
        struct rng rng;
        struct exact_result r;
        struct model *cut = NULL;
        rng_init(&rng, (uint64_t)i, 1);
        bool *gone = calloc((size_t)g->at[i].n + 1, sizeof *gone);
        assert_non_null(gone);
        exact_choose(&g->at[i], &rng, gone);
        if (g->at[i].n > 1 && exact_check(m, g, i, gone, &in, &r, &cut, &err))
            fail_msg("%s, group '%s': %s", name, g->at[i].name, err.msg);
        if (g->at[i].n > 1 && (!(r.error < 1e-5) || !r.cost_agrees))
            fail_msg("%s, group '%s': error %g, params %d predicted, %d found, macs %d and %d", name, g->at[i].name,
                     r.error, (int)r.predicted.params, (int)r.found.params, (int)r.predicted.macs, (int)r.found.macs);
        if (cut && depth)
            cut_all(name, cut, mode, depth - 1);
        model_free(cut);
        free(gone);
    }
    groups_free(g);
    exact_clear(&in);
}

static void test_exact(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (cases[i].no_run)
            continue;
        struct model *m = made(cases[i].build);
        cut_all(cases[i].name, m, cases[i].mode, 1);
        model_free(m);
    }
}

/* ---- what is cut, element by element ---- */
/* Remove these atoms of the group of this name. */
static void cut(struct model *m, const char *name, int count, const int *atoms)
{
    struct groups *g = found(m, GROUPS_INNER);
    const struct group *group = group_of(g, name);
    bool gone[64] = {0};
    const bool *all[64] = {0};
    struct err err = {0};
    for (int i = 0; i < count; i++)
        gone[atoms[i]] = true;
    all[group - g->at] = gone;
    if (groups_remove(g, m, all, &err) || model_validate(m, &err))
        fail_msg("%s", err.msg);
    groups_free(g);
}
#define CUT(m, name, ...) cut(m, name, (int)(sizeof(int[]){__VA_ARGS__} / sizeof(int)), (int[]){__VA_ARGS__})

static void expect_kept(const struct model *m, const char *name, int axis, int count, const int64_t *want)
{
    char key[16];
    snprintf(key, sizeof key, "kept.%d", axis);
    const struct note *note = value_note(m, g_value(m, name), key);
    if (count == 0) {
        assert_null(note);
        return;
    }
    assert_non_null(note);
    assert_int_equal(tensor_count(&note->tensor), count);
    assert_memory_equal(note->tensor.data, want, (size_t)count * sizeof *want);
}

static void test_weights(void **state)
{
    (void)state;
    struct model *m = made(residual), *old = model_clone(m, NULL);
    struct tensor mask = {0};
    const uint32_t w = g_value(m, "c2.w");
    assert_int_equal(tensor_alloc(&mask, DTYPE_BOOL, &m->values[w].weight->tensor.shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&mask); i++)
        ((uint8_t *)mask.data)[i] = i % 3 == 0;
    value_set_note(m, w, "mask", NULL, &mask);
    CUT(m, "c1", 1, 6); /* of 0 .. 7 */
    CUT(m, "c1", 0, 4); /* of 0 2 3 4 5 7: 0 and 5 */
    const int64_t left[4] = {2, 3, 4, 7};
    const struct tensor *a = value_const(old, g_value(old, "c2.w")), *b = value_const(m, w);
    const struct note *now = value_note(m, w, "mask");
    assert_true(shape_equal(&b->shape, &SHAPE(4, 4, 3, 3)) && shape_equal(&now->tensor.shape, &b->shape));
    for (int o = 0; o < 4; o++)
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < 9; k++) {
                const int64_t from = (left[o] * 8 + left[i]) * 9 + k, to = (o * 4 + i) * 9 + k;
                assert_true(tensor_f32(a)[from] == tensor_f32(b)[to]);
                assert_int_equal(((const uint8_t *)now->tensor.data)[to], from % 3 == 0);
            }
    expect_kept(m, "c2.w", 0, 4, left);
    expect_kept(m, "c2.w", 1, 4, left);
    expect_kept(m, "c2.w", 2, 0, NULL);
    expect_kept(m, "bn.3", 0, 4, left);
    expect_kept(m, "c3.w", 0, 0, NULL);
    expect_kept(m, "c3.w", 1, 4, left);
    assert_true(value_const(m, g_value(m, "c3.b"))->data ==
                value_const(old, g_value(old, "c3.b"))->data); /* not copied */
    tensor_fini(&mask);
    model_free(old);
    model_free(m);
}

/* Constants of every width, along every axis, against dtype_get. */
static void test_widths(void **state)
{
    static const enum dtype dtypes[] = {DTYPE_INT4, DTYPE_UINT4, DTYPE_INT2, DTYPE_INT8, DTYPE_FLOAT16, DTYPE_DOUBLE};
    (void)state;
    for (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++) {
        struct model *m = g_new(21);
        struct tensor t = {0}, old;
        struct rng rng;
        rng_init(&rng, d, 1);
        assert_int_equal(tensor_alloc(&t, dtypes[d], &SHAPE(7, 5), NULL), 0);
        for (int64_t i = 0; i < 35; i++)
            dtype_set(dtypes[d], t.data, i, (double)rng_below(&rng, 2));
        uint32_t w = model_add_weight(m, 0, "w", &t), scale = g_const(m, "scale", SHAPE_SCALAR, (float[]){0.5f});
        uint32_t f = w;
        if (dtype_is_float(dtypes[d])) {
            f = G_OP(m, "Cast", "f", w);
            node_set_int(m, g_maker(m, f), "to", DTYPE_FLOAT);
        } else
            f = G_OP(m, "DequantizeLinear", "f", w, scale);
        uint32_t x = g_input(m, "x", SHAPE(2, 3)), a = gemm(m, "g1", x, 3, 7);
        uint32_t y = G_OP(m, "Einsum", "y", a, f);
        node_set_string(m, g_maker(m, y), "equation", "bk,kn->bn");
        g_output(m, y);
        tensor_ref(&old, &t);
        struct groups *g = found(m, GROUPS_INNER);
        const struct group *group = group_of(g, "g1");
        if (group->n == 7) {
            CUT(m, "g1", 0, 3, 4);
            const struct tensor *now = value_const(m, w);
            static const int64_t left[4] = {1, 2, 5, 6};
            assert_true(shape_equal(&now->shape, &SHAPE(4, 5)));
            assert_int_equal(now->dtype, dtypes[d]);
            for (int64_t i = 0; i < 20; i++)
                assert_true(dtype_get(now->dtype, now->data, i) ==
                            dtype_get(old.dtype, old.data, left[i / 5] * 5 + i % 5));
        } else
            fail_msg("%s: %d channels, %s", dtype_name(dtypes[d]), (int)group->n, group->frozen ? group->frozen : "");
        groups_free(g);
        tensor_fini(&old);
        tensor_fini(&t);
        model_free(m);
    }
}

static const struct value_info *info_of(const struct model *m, const struct value_info *list, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(m->values[list[i].value].name, name))
            return &list[i];
    return NULL;
}

static void test_declarations(void **state)
{
    (void)state;
    struct model *m = made(flattened);
    struct graph *g = model_main(m);
    g_declare(m, &g->infos, &g->n_infos, g_value(m, "c1"), type_tensor(DTYPE_FLOAT, &SHAPE(2, 5, 6, 6)));
    g_declare(m, &g->infos, &g->n_infos, g_value(m, "f"), type_tensor(DTYPE_FLOAT, &SHAPE(2, 77))); /* wrong */
    g_declare(m, &g->infos, &g->n_infos, g_value(m, "h"), type_tensor(DTYPE_FLOAT, &SHAPE(2, 10)));
    CUT(m, "c1", 1, 2);
    assert_int_equal(info_of(m, g->infos, g->n_infos, "c1")->type.shape.dim[1], 3);
    assert_null(info_of(m, g->infos, g->n_infos, "f"));
    assert_int_equal(info_of(m, g->infos, g->n_infos, "h")->type.shape.dim[1], 10);
    const struct tensor *w = value_const(m, g_value(m, "g1.w"));
    assert_true(shape_equal(&w->shape, &SHAPE(108, 10)));
    expect_kept(m, "c1.w", 0, 3, (int64_t[]){0, 3, 4});
    assert_int_equal(tensor_i64(&value_note(m, g_value(m, "g1.w"), "kept.0")->tensor)[36], 108); /* 3 * 36 */
    model_free(m);
}

/* Before IR 4 weights are inputs too. New sizes must be, and old ones must go. */
static void test_old_ir(void **state)
{
    (void)state;
    struct model *m = g_new(11);
    m->ir_version = 3;
    seed = 0;
    split(m);
    node_remove_attr(m, g_maker(m, g_value(m, "s1")), "split");
    m->nodes[g_maker(m, g_value(m, "s1"))].n_input = 1;
    node_set_ints(m, g_maker(m, g_value(m, "s1")), "split", (int64_t[]){8, 4}, 2);
    model_remove_value(m, g_value(m, "sizes"));
    uint32_t a = RESHAPE(m, "r1", g_value(m, "c1"), 2, 12, 36);
    g_output(m, matmul(m, "mm", TRANSPOSE(m, "tt", a, 0, 2, 1), 12, 2));
    for (uint32_t v = 0, n = m->n_values; v < n; v++)
        if (m->values[v].name && m->values[v].weight)
            g_list(m, v, m->values[v].weight->tensor.shape),
                model_main(m)->inputs[model_main(m)->n_inputs - 1].type.dtype = m->values[v].weight->tensor.dtype;
    struct warnings *w = warnings_new();
    assert_int_equal(groups_prepare(m, w, NULL), 0);
    warnings_free(w);
    CUT(m, "c1", 0, 9); /* 0 of the first part; 9 is 1 of the second, which is summed with c2 */
    const struct graph *g = model_main(m);
    int listed = 0;
    for (int i = 0; i < g->n_initializers; i++) {
        const char *name = m->values[g->initializers[i]].name;
        const struct value_info *info = info_of(m, g->inputs, g->n_inputs, name);
        if (!info)
            fail_msg("'%s' is not listed", name);
        assert_true(shape_equal(&info->type.shape, &m->values[info->value].weight->tensor.shape));
        listed++;
    }
    assert_int_equal(g->n_inputs, listed + 1);
    assert_int_equal(m->nodes[g_maker(m, g_value(m, "s1"))].n_output, 2);
    assert_int_equal(node_attr(g_made(m, "s1"), "split")->ints[0], 7);
    assert_int_equal(node_attr(g_made(m, "s1"), "split")->ints[1], 3);
    model_free(m);
}

static void
test_constant_nodes(void **state) /* groups_prepare makes them initializers; without it they are cut where they are */
{
    (void)state;
    struct model *m = g_new(17);
    seed = 0;
    uint32_t a = conv(m, "c1", image(m), 3, 6, 1, 1), w = G_OP(m, "Constant", "w", VALUE_NONE);
    m->nodes[g_maker(m, w)].n_input = 0;
    struct attr *attr = model_alloc(m, 1, sizeof *attr);
    struct weight *own = model_new_weight(m);
    assert_int_equal(tensor_alloc(&own->tensor, DTYPE_FLOAT, &SHAPE(1, 6, 1, 1), NULL), 0);
    for (int i = 0; i < 6; i++)
        tensor_f32(&own->tensor)[i] = (float)i;
    *attr = (struct attr){.name = "value", .type = ATTR_TENSOR, .has_type = true, .count = 1};
    attr->tensors = model_alloc(m, 1, sizeof *attr->tensors);
    attr->tensors[0] = own;
    m->nodes[g_maker(m, w)].attr = attr;
    m->nodes[g_maker(m, w)].n_attr = 1;
    g_output(m, conv(m, "c2", G_OP(m, "Mul", "scaled", a, w), 6, 4, 1, 1));
    CUT(m, "c1", 0, 1, 4);
    assert_true(shape_equal(&own->tensor.shape, &SHAPE(1, 3, 1, 1)));
    assert_memory_equal(own->tensor.data, ((float[]){2, 3, 5}), 12);
    model_free(m);
}

static void expect_refused(struct model *m, int count, const int *atoms, const char *group, const char *why)
{
    struct groups *g = found(m, GROUPS_INNER);
    bool gone[64] = {0};
    const bool *all[64] = {0};
    struct err err = {0};
    for (int i = 0; i < count; i++)
        gone[atoms[i]] = true;
    all[group_of(g, group) - g->at] = gone;
    assert_int_equal(groups_remove(g, m, all, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    if (!strstr(err.msg, why))
        fail_msg("%s", err.msg);
    groups_free(g);
}

static void test_refused(void **state)
{
    (void)state;
    struct model *m = made(concatenated);
    expect_refused(m, 4, (int[]){0, 1, 2, 3}, "c2", "group 'c2': all 4 channels would go");
    assert_true(shape_equal(&value_const(m, g_value(m, "c2.w"))->shape, &SHAPE(4, 3, 1, 1)));
    model_free(m);
    m = made(split); /* all of the second part: 8 .. 11 */
    expect_refused(m, 4, (int[]){8, 9, 10, 11}, "c1", "nothing would be left of axis ");
    model_free(m);
}

/* Equal vectors that an exporter stored once are each layer's own; a shared matrix is meant so. */
static void shared_vectors(struct model *m)
{
    uint32_t zeros = g_const(m, "zeros", SHAPE(8), (float[8]){0}),
             ones = g_const(m, "ones", SHAPE(8), (float[]){1, 1, 1, 1, 1, 1, 1, 1});
    uint32_t x = conv(m, "c1", image(m), 3, 8, 1, 1);
    x = G_OP(m, "Relu", "r1", G_OP(m, "BatchNormalization", "b1", x, ones, zeros, zeros, ones));
    x = G_OP(m, "BatchNormalization", "b2", conv(m, "c2", x, 8, 8, 1, 1), ones, zeros, zeros, ones);
    g_output(m, conv(m, "c3", x, 8, 4, 1, 1));
}

static void test_shared_vectors(void **state)
{
    (void)state;
    struct model *m = made(shared_vectors);
    struct groups *g = found(m, GROUPS_INNER);
    assert_int_equal(g->n, 3);
    assert_int_equal(g->at[0].n, 8);
    assert_int_equal(g->at[1].n, 8);
    groups_free(g);
    cut_all("shared vectors", m, GROUPS_INNER, 0);
    model_free(m);
}

static void test_cost(void **state)
{
    (void)state;
    struct model *m = made(flattened);
    struct groups *g = found(m, GROUPS_INNER);
    const struct group *c1 = group_of(g, "c1"), *g1 = group_of(g, "g1");
    struct groups_cost cost;
    const bool *none[8] = {0};
    assert_int_equal(groups_cost(g, none, &cost, NULL), 0);
    assert_int_equal(cost.params, 5 * 27 + 5 + 1800 + 10 + 40 + 4);
    /* the input's batch is 2, as declared */
    assert_int_equal(cost.macs, 2 * (5 * 27 * 36 + 1800 + 40));
    g_near(c1->params, 27 + 1 + 360, 1e-9);
    g_near(c1->macs, 2 * (27 * 36 + 360), 1e-9);
    g_near(g1->params, 180 + 1 + 4, 1e-9);
    g_near(g1->bytes, 4 * (180 + 1 + 4), 1e-9);
    g_near((double)c1->width[0], 1, 0);
    groups_free(g);
    model_free(m);
}

static void test_members(void **state)
{
    (void)state;
    struct model *m = made(flattened);
    struct groups *g = found(m, GROUPS_INNER);
    const struct group *c1 = group_of(g, "c1");
    assert_int_equal(c1->n_members, 5); /* c1.w, c1.b, g1.w; c1, f */
    assert_string_equal(m->values[c1->member[0].value].name, "c1.w");
    assert_int_equal(c1->member[0].role, COUPLE_PRODUCES);
    assert_string_equal(m->values[c1->member[2].value].name, "g1.w");
    assert_int_equal(c1->member[2].role, COUPLE_CONSUMES);
    assert_int_equal(c1->member[2].size, 180);
    for (int i = 0; i < 180; i++)
        assert_int_equal(c1->member[2].atom[i], i / 36);
    assert_false(c1->member[3].constant);
    json_t *json = groups_json(g, 2, 3), *first = json_array_get(json, 0);
    assert_int_equal(json_array_size(json), 2);
    assert_string_equal(json_string_value(json_object_get(first, "name")), "c1");
    assert_true(json_is_true(json_object_get(first, "prunable")));
    assert_int_equal(json_integer_value(json_object_get(first, "channels")), 5);
    assert_int_equal(json_integer_value(json_object_get(first, "more")), 2);
    assert_int_equal(json_array_size(json_object_get(first, "members")), 3);
    json_decref(json);
    groups_free(g);
    model_free(m);
}

/* ---- strange and large ---- */
static void test_cycle(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    seed = 0;
    uint32_t a = conv(m, "c1", image(m), 3, 3, 1, 1), b = G_OP(m, "Relu", "b", a);
    m->nodes[g_maker(m, a)].input[0] = b;
    g_output(m, b);
    struct err err = {0};
    assert_null(groups_find(m, GROUPS_INNER, &err));
    assert_int_equal(err.code, ERR_MODEL);
    model_free(m);
}

static void test_huge(void **state) /* sizes that overflow, empty weights of endless axes */
{
    (void)state;
    static const int64_t sizes[] = {(int64_t)1 << 62, (int64_t)1 << 33, 1 << 25, 0};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct model *m = g_new(17);
        seed = 0;
        uint32_t x = g_input(m, "x", SHAPE(2, 3, sizes[i], 6));
        uint32_t a = conv(m, "c1", x, 3, 8, 1, 1);
        uint32_t e = G_OP(m, "MatMul", "mm", a, g_const(m, "empty", SHAPE(0, sizes[i]), (float[]){0}));
        g_output(m, G_OP(m, "Flatten", "f", a));
        g_output(m, G_OP(m, "DepthToSpace", "d", attr_int(m, G_OP(m, "Transpose", "t", e), "blocksize", 1 << 20)));
        struct err err = {0};
        struct groups *g = groups_find(m, GROUPS_INNER, &err);
        if (!g)
            fail_msg("%s", err.msg);
        json_decref(groups_json(g, 100, 100));
        groups_free(g);
        model_free(m);
    }
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

enum chain { CHAIN_PLAIN, CHAIN_RESIDUAL, CHAIN_DENSE };

/* Layers one after the other, each with a Relu or a sum with its input, or put beside all before it. */
static struct model *chain(enum chain kind, int layers)
{
    struct model *m = g_new(17);
    uint32_t x = g_input(m, "x", SHAPE(1, 4, 8, 8)), same = weight(m, "same", SHAPE(4, 4, 1, 1));
    char name[32], own[32];
    for (int i = 0; i < layers; i++) {
        const int64_t in = kind == CHAIN_DENSE ? 4 * (i + 1) : 4;
        snprintf(name, sizeof name, "c%d", i);
        snprintf(own, sizeof own, "w%d", i);
        uint32_t w = kind == CHAIN_PLAIN && i % 5 == 0 ? same : weight(m, own, SHAPE(4, in, 1, 1));
        uint32_t y = G_OP(m, "Conv", name, x, w);
        snprintf(name, sizeof name, "r%d", i);
        x = kind == CHAIN_PLAIN ? G_OP(m, "Relu", name, y)
                                : G_OP(m, kind == CHAIN_DENSE ? "Concat" : "Add", name, x, y);
        if (kind == CHAIN_DENSE)
            attr_int(m, x, "axis", 1);
        if (kind == CHAIN_RESIDUAL && i == 0)
            x = y;
    }
    g_output(m, conv(m, "last", x, kind == CHAIN_DENSE ? 4 * (layers + 1) : 4, 2, 1, 1));
    return m;
}

/* Plain: every fifth layer has the same weight, whose input axis is that of x too: 3 of 5 layers are groups of their
 * own. */
static void test_large(void **state)
{
    static const bool gone[4] = {true, false, false, false};
    static const struct {
        enum chain kind;
        int layers, groups;
    } large[] = {{CHAIN_PLAIN, 25000, 15004}, {CHAIN_RESIDUAL, 25000, 2}, {CHAIN_DENSE, 200, 201}};
    (void)state;
    for (size_t k = 0; k < sizeof large / sizeof large[0]; k++) {
        struct model *m = chain(large[k].kind, large[k].layers);
        struct warnings *w = warnings_new();
        struct err err = {0};
        const double start = seconds();
        assert_int_equal(groups_prepare(m, w, &err), 0);
        const double from = seconds();
        struct groups *g = found(m, GROUPS_INNER);
        const double until = seconds();
        const bool **all = calloc((size_t)g->n, sizeof *all);
        assert_int_equal(g->n, large[k].groups);
        for (int i = 0; i < g->n; i++)
            all[i] = g->at[i].n == 4 ? gone : NULL;
        if (groups_remove(g, m, all, &err))
            fail_msg("%s", err.msg);
        print_message("%d layers: prepared in %.2f s, found in %.2f s, cut in %.2f s\n", large[k].layers, from - start,
                      until - from, seconds() - until);
        assert_true(seconds() - start < 30);
        free(all);
        groups_free(g);
        model_free(m);
        warnings_free(w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_found),          cmocka_unit_test(test_exact),
        cmocka_unit_test(test_weights),        cmocka_unit_test(test_widths),
        cmocka_unit_test(test_declarations),   cmocka_unit_test(test_old_ir),
        cmocka_unit_test(test_constant_nodes), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_shared_vectors), cmocka_unit_test(test_cost),
        cmocka_unit_test(test_members),        cmocka_unit_test(test_cycle),
        cmocka_unit_test(test_huge),           cmocka_unit_test(test_large),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
