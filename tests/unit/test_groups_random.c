/* SPDX-License-Identifier: Apache-2.0
 * core/prune/groups.h on random networks: layers of all kinds are put together at random, and of every group a
 * random third is taken out, one group after the other from the network as cut so far, and of all groups at once.
 * What is left must compute what the network computes when the channels are not read, cost what was predicted, and
 * be a valid model. Seeded; a failure names its seed. PARED_SEEDS=N runs N networks instead of a few. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"
#include "tests/unit/groups_exact.h"

enum { BATCH = 2, MAX_VALUES = 64 };

struct made {
    uint32_t v;
    struct shape s; /* [2, c, h, w] or [2, f] */
    bool read;
};
struct net {
    struct model *m;
    struct rng rng;
    struct made at[MAX_VALUES];
    int n, names;
};

static int64_t below(struct net *g, int64_t n)
{
    return (int64_t)rng_below(&g->rng, (uint64_t)n);
}

static const char *name(struct net *g, const char *kind)
{
    return model_printf(g->m, "%s%d", kind, g->names++);
}

static uint32_t weight(struct net *g, struct shape shape, double scale)
{
    return g_random(g->m, name(g, "w"), shape, rng_u64(&g->rng), scale);
}

static uint32_t positive(struct net *g, int64_t n)
{
    float v[512];
    for (int64_t i = 0; i < n; i++)
        v[i] = 0.5f + (float)rng_uniform(&g->rng);
    return g_const(g->m, name(g, "w"), SHAPE(n), v);
}

static uint32_t ints(struct net *g, int n, const int64_t *v)
{
    return g_ints(g->m, name(g, "i"), n, v);
}

static uint32_t node(struct net *g, const char *op, int n, const uint32_t *in)
{
    return g_node(g->m, op, name(g, op), in, n);
}
#define NODE(g, op, ...)                                                                                               \
    node(g, op, (int)(sizeof(uint32_t[]){__VA_ARGS__} / sizeof(uint32_t)), (uint32_t[]){__VA_ARGS__})

static uint32_t set(struct net *g, uint32_t y, const char *attr, int64_t v)
{
    node_set_int(g->m, g_maker(g->m, y), attr, v);
    return y;
}

static uint32_t set_all(struct net *g, uint32_t y, const char *attr, int n, const int64_t *v)
{
    node_set_ints(g->m, g_maker(g->m, y), attr, v, n);
    return y;
}

static bool keep(struct net *g, uint32_t v, struct shape s)
{
    g->at[g->n++] = (struct made){v, s, false};
    return true;
}

/* A value of this rank, recent ones sooner; NULL: none. */
static struct made *pick(struct net *g, int rank)
{
    for (int tries = 0; tries < 20; tries++) {
        const int64_t a = below(g, g->n), b = below(g, g->n);
        struct made *x = &g->at[a > b ? a : b];
        if (x->s.rank == rank && shape_count(&x->s) <= 2048) {
            x->read = true;
            return x;
        }
    }
    return NULL;
}

/* Another value that agrees in all axes, or in all but axis 1. */
static struct made *partner(struct net *g, const struct made *x, bool any_channels)
{
    for (int tries = 0; tries < 20; tries++) {
        struct made *y = &g->at[below(g, g->n)];
        struct shape s = y->s;
        if (s.rank == x->s.rank && any_channels)
            s.dim[1] = x->s.dim[1];
        if (y != x && shape_equal(&s, &x->s)) {
            y->read = true;
            return y;
        }
    }
    return NULL;
}

/* ---- layers: true if one was made. x was picked: of rank 4, then of rank 2, then of any ---- */
typedef bool layer_fn(struct net *g, struct made *x);

static bool conv(struct net *g, struct made *x)
{
    const int64_t in = x->s.dim[1], out = 2 + below(g, 9), k = below(g, 2) ? 3 : 1;
    uint32_t w = weight(g, SHAPE(out, in, k, k), 1.2 / sqrt((double)(in * k * k)));
    uint32_t y = below(g, 2) ? NODE(g, "Conv", x->v, w, weight(g, SHAPE(out), 0.3)) : NODE(g, "Conv", x->v, w);
    if (k == 3)
        set_all(g, y, "pads", 4, (int64_t[]){1, 1, 1, 1});
    return keep(g, y, SHAPE(BATCH, out, x->s.dim[2], x->s.dim[3]));
}

static bool grouped(struct net *g, struct made *x)
{
    const int64_t in = x->s.dim[1], group = in % 4 == 0 ? 4 : in % 3 == 0 ? 3 : in % 2 == 0 ? 2 : 1;
    const int64_t out = group * (1 + below(g, 3));
    uint32_t w = weight(g, SHAPE(out, in / group, 1, 1), 0.7);
    return keep(g, set(g, NODE(g, "Conv", x->v, w, weight(g, SHAPE(out), 0.3)), "group", group),
                SHAPE(BATCH, out, x->s.dim[2], x->s.dim[3]));
}

static bool depthwise(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1], times = 1 + below(g, 2);
    uint32_t y = NODE(g, "Conv", x->v, weight(g, SHAPE(c * times, 1, 3, 3), 0.4), weight(g, SHAPE(c * times), 0.3));
    set_all(g, set(g, y, "group", c), "pads", 4, (int64_t[]){1, 1, 1, 1});
    return keep(g, y, SHAPE(BATCH, c * times, x->s.dim[2], x->s.dim[3]));
}

static bool transposed(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1], out = 2 + below(g, 5);
    if (x->s.dim[2] > 4)
        return false;
    uint32_t y = NODE(g, "ConvTranspose", x->v, weight(g, SHAPE(c, out, 2, 2), 0.4), weight(g, SHAPE(out), 0.3));
    set_all(g, y, "strides", 2, (int64_t[]){2, 2});
    return keep(g, y, SHAPE(BATCH, out, x->s.dim[2] * 2, x->s.dim[3] * 2));
}

static bool batchnorm(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1];
    return keep(g,
                NODE(g, "BatchNormalization", x->v, positive(g, c), weight(g, SHAPE(c), 0.3), weight(g, SHAPE(c), 0.3),
                     positive(g, c)),
                x->s);
}

static bool instancenorm(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1];
    return keep(g, NODE(g, "InstanceNormalization", x->v, positive(g, c), weight(g, SHAPE(c), 0.3)), x->s);
}

static bool prelu(struct net *g, struct made *x)
{
    return keep(g, NODE(g, "PRelu", x->v, weight(g, SHAPE(x->s.dim[1], 1, 1), 0.5)), x->s);
}

static bool pool(struct net *g, struct made *x)
{
    if (x->s.dim[2] < 2)
        return false;
    uint32_t y = below(g, 2) ? NODE(g, "MaxPool", x->v) : NODE(g, "AveragePool", x->v);
    set_all(g, set_all(g, y, "kernel_shape", 2, (int64_t[]){2, 2}), "strides", 2, (int64_t[]){2, 2});
    return keep(g, y, SHAPE(BATCH, x->s.dim[1], x->s.dim[2] / 2, x->s.dim[3] / 2));
}

static bool shuffle(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1], groups = c % 3 == 0 ? 3 : c % 2 == 0 ? 2 : 0, h = x->s.dim[2], w = x->s.dim[3];
    if (!groups)
        return false;
    uint32_t a = NODE(g, "Reshape", x->v, ints(g, 5, (int64_t[]){BATCH, groups, c / groups, h, w}));
    a = set_all(g, NODE(g, "Transpose", a), "perm", 5, (int64_t[]){0, 2, 1, 3, 4});
    return keep(g, NODE(g, "Reshape", a, ints(g, 4, (int64_t[]){0, -1, h, w})), x->s);
}

static bool excite(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1];
    uint32_t a = NODE(g, "GlobalAveragePool", x->v);
    a = NODE(g, "Relu", NODE(g, "Conv", a, weight(g, SHAPE(3, c, 1, 1), 0.5)));
    a = NODE(g, "Sigmoid", NODE(g, "Conv", a, weight(g, SHAPE(c, 3, 1, 1), 0.5), weight(g, SHAPE(c), 0.3)));
    return keep(g, NODE(g, "Mul", x->v, a), x->s);
}

static bool channels_last(struct net *g, struct made *x) /* a per-pixel layer as Keras exports it */
{
    const int64_t c = x->s.dim[1], out = 2 + below(g, 6);
    uint32_t a = set_all(g, NODE(g, "Transpose", x->v), "perm", 4, (int64_t[]){0, 2, 3, 1});
    a = NODE(g, "Add", NODE(g, "MatMul", a, weight(g, SHAPE(c, out), 0.5)), weight(g, SHAPE(out), 0.3));
    return keep(g, set_all(g, NODE(g, "Transpose", a), "perm", 4, (int64_t[]){0, 3, 1, 2}),
                SHAPE(BATCH, out, x->s.dim[2], x->s.dim[3]));
}

static bool pixels(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1];
    if (c % 4 || x->s.dim[2] > 4)
        return false;
    uint32_t y = set(g, NODE(g, "DepthToSpace", x->v), "blocksize", 2);
    if (below(g, 2))
        node_set_string(g->m, g_maker(g->m, y), "mode", "CRD");
    return keep(g, y, SHAPE(BATCH, c / 4, x->s.dim[2] * 2, x->s.dim[3] * 2));
}

static bool flatten(struct net *g, struct made *x)
{
    const int64_t f = shape_product(&x->s, 1, 4);
    if (f > 160)
        return false;
    return keep(g, below(g, 2) ? NODE(g, "Flatten", x->v) : NODE(g, "Reshape", x->v, ints(g, 2, (int64_t[]){0, -1})),
                SHAPE(BATCH, f));
}

static bool pooled(struct net *g, struct made *x)
{
    return keep(g, set(g, set_all(g, NODE(g, "ReduceMean", x->v), "axes", 2, (int64_t[]){2, 3}), "keepdims", 0),
                SHAPE(BATCH, x->s.dim[1]));
}

static bool gemm(struct net *g, struct made *x)
{
    const int64_t in = x->s.dim[1], out = 2 + below(g, 12);
    const double scale = 1 / sqrt((double)in);
    if (below(g, 3) == 0)
        return keep(g, NODE(g, "MatMul", x->v, weight(g, SHAPE(in, out), scale)), SHAPE(BATCH, out));
    if (below(g, 2))
        return keep(g, NODE(g, "Gemm", x->v, weight(g, SHAPE(in, out), scale), weight(g, SHAPE(out), 0.3)),
                    SHAPE(BATCH, out));
    return keep(g, set(g, NODE(g, "Gemm", x->v, weight(g, SHAPE(out, in), scale)), "transB", 1), SHAPE(BATCH, out));
}

static bool unflatten(struct net *g, struct made *x)
{
    const int64_t f = x->s.dim[1];
    if (f % 4 || f < 8)
        return false;
    return keep(g, NODE(g, "Reshape", x->v, ints(g, 4, (int64_t[]){BATCH, f / 4, 2, 2})), SHAPE(BATCH, f / 4, 2, 2));
}

static bool layernorm(struct net *g, struct made *x)
{
    return keep(g, NODE(g, "LayerNormalization", x->v, positive(g, x->s.dim[1]), weight(g, SHAPE(x->s.dim[1]), 0.3)),
                x->s);
}

static bool activation(struct net *g, struct made *x)
{
    static const char *const kinds[] = {"Relu", "Sigmoid", "Tanh", "LeakyRelu", "HardSwish", "Softplus", "Identity"};
    return keep(g, NODE(g, kinds[below(g, 7)], x->v), x->s);
}

static bool sum(struct net *g, struct made *x)
{
    static const char *const kinds[] = {"Add", "Sub", "Mul", "Max", "Sum"};
    const struct made *y = partner(g, x, false);
    return y && keep(g, NODE(g, kinds[below(g, 5)], x->v, y->v), x->s);
}

static bool constant(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1];
    const struct shape s = x->s.rank == 4 ? SHAPE(c, 1, 1) : SHAPE(c);
    return keep(g, below(g, 2) ? NODE(g, "Mul", x->v, weight(g, s, 1)) : NODE(g, "Add", weight(g, s, 0.5), x->v), x->s);
}

static bool concat(struct net *g, struct made *x)
{
    const struct made *y = partner(g, x, true);
    struct shape s = x->s;
    if (!y || s.dim[1] + y->s.dim[1] > 40)
        return false;
    s.dim[1] += y->s.dim[1];
    return keep(g, set(g, NODE(g, "Concat", x->v, y->v), "axis", 1), s);
}

static bool split(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1], a = 1 + below(g, c > 1 ? c - 1 : 1);
    struct shape s = x->s;
    if (c < 4 || a == c)
        return false;
    const uint32_t out[2] = {model_add_value(g->m, 0, name(g, "part"), false),
                             model_add_value(g->m, 0, name(g, "part"), false)};
    const uint32_t in[2] = {x->v, ints(g, 2, (int64_t[]){a, c - a})};
    node_set_int(g->m, model_add_node(g->m, 0, "Split", NULL, name(g, "Split"), in, 2, out, 2), "axis", 1);
    s.dim[1] = a;
    keep(g, out[0], s);
    s.dim[1] = c - a;
    return keep(g, out[1], s);
}

static bool slice(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1], step = 1 + below(g, 2), from = below(g, c), to = from + 1 + below(g, c - from);
    struct shape s = x->s;
    s.dim[1] = (to - from + step - 1) / step;
    return keep(
        g, NODE(g, "Slice", x->v, ints(g, 1, &from), ints(g, 1, &to), ints(g, 1, (int64_t[]){1}), ints(g, 1, &step)),
        s);
}

static bool gather(struct net *g, struct made *x)
{
    const int64_t c = x->s.dim[1], n = 1 + below(g, c);
    int64_t at[512];
    struct shape s = x->s;
    for (int64_t i = 0; i < n; i++)
        at[i] = below(g, 4) ? (i * 5 + 1) % c : below(g, c) - c; /* repeats, negative ones */
    s.dim[1] = n;
    return keep(g, set(g, NODE(g, "Gather", x->v, ints(g, (int)n, at)), "axis", 1), s);
}

static const struct {
    layer_fn *add;
    int rank, often; /* rank 0: any */
} layers[] = {
    {conv, 4, 6},          {grouped, 4, 2},   {depthwise, 4, 2},  {transposed, 4, 1}, {batchnorm, 4, 3},
    {instancenorm, 4, 1},  {prelu, 4, 1},     {pool, 4, 1},       {shuffle, 4, 2},    {excite, 4, 1},
    {channels_last, 4, 1}, {pixels, 4, 2},    {flatten, 4, 1},    {pooled, 4, 1},     {gemm, 2, 4},
    {unflatten, 2, 1},     {layernorm, 2, 1}, {activation, 0, 4}, {sum, 0, 4},        {constant, 0, 2},
    {concat, 0, 3},        {split, 0, 2},     {slice, 0, 1},      {gather, 0, 1},
};
enum { N_LAYERS = sizeof layers / sizeof layers[0] };

static bool add_layer(struct net *g)
{
    int64_t all = 0, at;
    int i = 0;
    for (int k = 0; k < N_LAYERS; k++)
        all += layers[k].often;
    for (at = below(g, all); at >= layers[i].often; i++)
        at -= layers[i].often;
    struct made *x = pick(g, layers[i].rank ? layers[i].rank : below(g, 3) ? 4 : 2);
    return x && layers[i].add(g, x);
}

/* What nobody reads becomes an output: as it is, or behind a last layer. */
static void finish(struct net *g)
{
    for (int i = 0; i < g->n; i++) {
        const struct made x = g->at[i];
        uint32_t y = x.v;
        if (x.read)
            continue;
        if (below(g, 8) && x.s.rank == 4)
            y = NODE(g, "Conv", x.v, weight(g, SHAPE(3, x.s.dim[1], 1, 1), 0.5));
        else if (below(g, 8) && x.s.rank == 2)
            y = NODE(g, "MatMul", x.v, weight(g, SHAPE(x.s.dim[1], 3), 0.5));
        g_output(g->m, y);
    }
}

static struct model *random_net(uint64_t seed)
{
    struct net g = {.m = g_new(17)};
    rng_init(&g.rng, seed, 5);
    keep(&g, g_input(g.m, "x", SHAPE(BATCH, 3, 4, 4)), SHAPE(BATCH, 3, 4, 4));
    conv(&g, &g.at[0]);
    g.at[0].read = true;
    const int64_t wanted = 6 + below(&g, 18);
    for (int tries = 0; g.n < wanted && tries < 200; tries++)
        add_layer(&g);
    finish(&g);
    return g.m;
}

/* ---- checking ---- */
static struct {
    int nets, groups, atoms, approximate, frozen, emptied;
} seen;

static struct groups *found(const struct model *m, uint64_t seed)
{
    struct err err = {0};
    struct groups *g = groups_find(m, GROUPS_INNER, &err);
    if (!g)
        fail_msg("seed %d: %s", (int)seed, err.msg);
    return g;
}

/* Group `which` of the network as it is; returns the cut network. costs: MACs must be as predicted (an engine that
 * finds out that a layer is constant counts none). */
static struct model *cut_one(struct model *m, int which, uint64_t seed, bool costs, const struct exact_inputs *in,
                             int *n_groups)
{
    struct groups *g = found(m, seed);
    struct model *cut = NULL;
    struct exact_result r;
    struct err err = {0};
    struct rng rng;
    rng_init(&rng, seed, (uint64_t)which);
    *n_groups = g->n;
    if (which < g->n && g->at[which].n > 1) {
        const struct group *group = &g->at[which];
        bool *gone = calloc((size_t)group->n, sizeof *gone);
        exact_choose(group, &rng, gone);
        if (exact_check(m, g, which, gone, in, &r, &cut, &err))
            fail_msg("seed %d, group '%s': %s", (int)seed, group->name, err.msg);
        if (!group->approximate && !(r.error <= 1e-4))
            fail_msg("seed %d, group '%s': error %g", (int)seed, group->name, r.error);
        if (costs ? !r.cost_agrees : r.predicted.params != r.found.params)
            fail_msg("seed %d, group '%s': params %d predicted, %d found, macs %d and %d", (int)seed, group->name,
                     (int)r.predicted.params, (int)r.found.params, (int)r.predicted.macs, (int)r.found.macs);
        seen.atoms += (int)group->n;
        seen.approximate += group->approximate != NULL;
        free(gone);
    }
    seen.groups += which < g->n && g->at[which].n > 1;
    seen.frozen += which < g->n && g->at[which].n <= 1;
    groups_free(g);
    if (!cut)
        return m;
    model_free(m);
    return cut;
}

static void cut_all(const struct model *m, uint64_t seed, const struct exact_inputs *in)
{
    struct groups *g = found(m, seed);
    const bool **all = calloc((size_t)g->n + 1, sizeof *all);
    bool **gone = calloc((size_t)g->n + 1, sizeof *gone), approximate = false;
    struct model *cut = model_clone(m, NULL), *zeroed = model_clone(m, NULL);
    struct tensor a[EXACT_MAX_IO] = {0}, b[EXACT_MAX_IO] = {0};
    struct groups_cost before, after;
    struct err err = {0};
    struct rng rng;
    rng_init(&rng, seed, 1000);
    for (int i = 0; i < g->n; i++) {
        if (g->at[i].n < 2)
            continue;
        all[i] = gone[i] = calloc((size_t)g->at[i].n, sizeof **gone);
        exact_choose(&g->at[i], &rng, gone[i]);
        approximate = approximate || g->at[i].approximate;
        assert_int_equal(exact_zero(zeroed, &g->at[i], gone[i], EXACT_CONSUMERS, &err), 0);
    }
    assert_int_equal(groups_cost(g, all, &before, &err), 0);
    if (groups_remove(g, cut, all, &err) == 0) {
        if (model_validate(cut, &err) || exact_run(cut, in, a, &err) < 0 || exact_run(zeroed, in, b, &err) < 0)
            fail_msg("seed %d, all groups: %s", (int)seed, err.msg);
        const double error = exact_difference(b, a, model_main(m)->n_outputs);
        exact_costs(cut, in, &after);
        if (!approximate && !(error <= 1e-4))
            fail_msg("seed %d, all groups: error %g", (int)seed, error);
        if (before.params != after.params || before.macs != after.macs)
            fail_msg("seed %d, all groups: params %d predicted, %d found, macs %d and %d", (int)seed,
                     (int)before.params, (int)after.params, (int)before.macs, (int)after.macs);
    } else if (err.code != ERR_INVALID) {
        fail_msg("seed %d, all groups: %s", (int)seed, err.msg);
    } else
        seen.emptied++; /* an axis of several groups lost them all */
    for (int i = 0; i < EXACT_MAX_IO; i++) {
        tensor_fini(&a[i]);
        tensor_fini(&b[i]);
    }
    for (int i = 0; i < g->n; i++)
        free(gone[i]);
    free(gone);
    free(all);
    model_free(cut);
    model_free(zeroed);
    groups_free(g);
}

static void test_random(void **state)
{
    (void)state;
    const char *text = getenv("PARED_SEEDS");
    const int n = text ? atoi(text) : 120;
    for (int seed = 1; seed <= n; seed++) {
        struct model *m = random_net((uint64_t)seed);
        struct exact_inputs in;
        struct warnings *w = warnings_new();
        struct err err = {0};
        int n_groups = 1;
        if (groups_prepare(m, w, &err) || exact_fill(m, BATCH, 4, (uint64_t)seed, &in, &err))
            fail_msg("seed %d: %s", seed, err.msg);
        warnings_free(w);
        cut_all(m, (uint64_t)seed, &in);
        for (int i = 0; i < n_groups; i++)
            m = cut_one(m, i, (uint64_t)seed, true, &in, &n_groups);
        exact_clear(&in);
        model_free(m);
        seen.nets++;
    }
    print_message("%d networks, %d groups cut of %d channels (%d not exactly), %d frozen, %d emptied\n", seen.nets,
                  seen.groups, seen.atoms, seen.approximate, seen.frozen, seen.emptied);
    assert_true(seen.groups > 3 * seen.nets);
}

/* ---- networks with something wrong in them ---- */
static void mutate_node(struct net *g, struct node *n)
{
    static const char *const ops[] = {"Relu",
                                      "Softmax",
                                      "Abs",
                                      "Div",
                                      "Sub",
                                      "Where",
                                      "Flatten",
                                      "Concat",
                                      "ReduceMax",
                                      "Transpose",
                                      "Squeeze",
                                      "Shape",
                                      "CumSum",
                                      "LpNormalization",
                                      "ArgMax",
                                      "GlobalMaxPool",
                                      "Min",
                                      "MatMul",
                                      "Unsqueeze",
                                      "Expand",
                                      "Tile",
                                      "Resize",
                                      "TopK",
                                      "LRN",
                                      "MeanVarianceNormalization",
                                      "Pow",
                                      "Gather",
                                      "ScatterND",
                                      "Pad",
                                      "Gelu",
                                      "Einsum",
                                      "LSTM",
                                      "Trilu",
                                      "ReduceSum",
                                      "Conv",
                                      "Gemm"};
    const int64_t what = below(g, 4);
    if (what == 0 && n->n_input) {
        n->input[below(g, n->n_input)] = (uint32_t)below(g, g->m->n_values);
    } else if (what == 1) {
        n->op_type = ops[below(g, (int64_t)(sizeof ops / sizeof ops[0]))];
        n->n_attr = 0;
    } else if (what == 2 && n->n_attr) {
        struct attr *a = &n->attr[below(g, n->n_attr)];
        for (int i = 0; (a->type == ATTR_INT || a->type == ATTR_INTS) && i < a->count; i++)
            a->ints[i] = below(g, 3) ? below(g, 6) - 2 : (int64_t)(rng_u64(&g->rng) >> below(g, 60));
    } else if (n->n_input > 1) {
        n->input[below(g, n->n_input)] = VALUE_NONE;
    }
}

static void mutate(struct net *g)
{
    struct graph *main_graph = model_main(g->m);
    for (int64_t times = 1 + below(g, 3); times > 0; times--) {
        struct value *v = &g->m->values[below(g, g->m->n_values)];
        if (below(g, 4)) {
            mutate_node(g, &g->m->nodes[main_graph->nodes[below(g, main_graph->n_nodes)]]);
        } else if (v->weight && v->weight->tensor.shape.rank > 1) { /* the same bytes in another shape */
            struct shape *s = &v->weight->tensor.shape;
            const int a = (int)below(g, s->rank), b = (int)below(g, s->rank);
            const int64_t size = s->dim[a];
            s->dim[a] = s->dim[b];
            s->dim[b] = size;
        } else if (main_graph->n_inputs) {
            struct type *t = &main_graph->inputs[0].type;
            t->shape.dim[below(g, t->shape.rank)] =
                below(g, 2) ? DIM_UNKNOWN : (int64_t)(rng_u64(&g->rng) >> below(g, 64));
        }
    }
}

static bool all_finite(const struct tensor *t, int n)
{
    for (int k = 0; k < n; k++)
        for (int64_t i = 0; i < tensor_count(&t[k]); i++)
            if (!(fabs(dtype_get(t[k].dtype, t[k].data, i)) < 1e20))
                return false;
    return true;
}

/* Whatever is asked, an answer or a sentence comes; and what still runs is cut exactly. */
static void test_mutated(void **state)
{
    (void)state;
    const char *text = getenv("PARED_SEEDS");
    const int n = text ? atoi(text) : 300;
    int valid = 0, ran = 0;
    for (int seed = 1; seed <= n; seed++) {
        struct net net = {.m = random_net((uint64_t)seed)};
        struct model *m = net.m;
        struct exact_inputs in = {0};
        struct tensor out[EXACT_MAX_IO] = {0};
        struct warnings *w = warnings_new();
        struct err err = {0};
        rng_init(&net.rng, (uint64_t)seed, 9);
        mutate(&net);
        struct groups *g = NULL;
        if (model_validate(m, &err) == 0 && groups_prepare(m, w, &err) == 0)
            g = groups_find(m, below(&net, 2) ? GROUPS_INNER : GROUPS_OUTER, &err);
        valid += g != NULL;
        json_decref(g ? groups_json(g, 10, 10) : NULL);
        const struct shape *x = &model_main(m)->inputs[0].type.shape;
        const bool small = x->dim[0] <= 4 && x->dim[1] <= 4 && x->dim[2] <= 16 && x->dim[3] <= 16;
        const bool runs = g && small && exact_fill(m, BATCH, 4, (uint64_t)seed, &in, &err) == 0 &&
                          exact_run(m, &in, out, &err) > 0 && all_finite(out, model_main(m)->n_outputs);
        ran += runs;
        for (int i = 0; i < EXACT_MAX_IO; i++)
            tensor_fini(&out[i]);
        groups_free(g);
        int n_groups = runs ? 1 : 0;
        for (int i = 0; i < n_groups; i++)
            m = cut_one(m, i, (uint64_t)seed, false, &in, &n_groups);
        warnings_free(w);
        exact_clear(&in);
        model_free(m);
    }
    print_message("%d of %d were valid, %d ran\n", valid, n, ran);
    assert_true(ran > n / 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_random), cmocka_unit_test(test_mutated)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
