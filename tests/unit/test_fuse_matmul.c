/* SPDX-License-Identifier: Apache-2.0
 * Fusing of products, written-out functions and attention: the rewritten plan computes what the plain one does, and
 * consists of the nodes it should. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

#include "core/engine/plan.h"
#include "tests/unit/graphs.h"

enum { N_SYMBOL_BATCH = 3 };

static uint32_t number(struct model *m, const char *name, float v)
{
    return g_const(m, name, SHAPE_SCALAR, &v);
}
static uint32_t ramp(struct model *m, const char *name, int n, float from, float step)
{
    float v[512];
    for (int i = 0; i < n; i++)
        v[i] = from + step * (float)i;
    return g_const(m, name, SHAPE(n), v);
}
static uint32_t perm(struct model *m, uint32_t x, const char *out, int count, const int64_t *axes)
{
    const uint32_t y = G_OP(m, "Transpose", out, x);
    node_set_ints(m, g_maker(m, y), "perm", axes, count);
    return y;
}
static uint32_t batch_input(struct model *m, const char *name, struct shape shape)
{
    shape.dim[0] = DIM_SYMBOL(model_symbol(m, "N"));
    return g_input(m, name, shape);
}

/* ---- graphs ---- */
static void matmul_bias_residual_gelu(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 5, 24)), r = batch_input(m, "r", SHAPE(1, 5, 19));
    const uint32_t w = g_random(m, "w", SHAPE(24, 19), 1, 0.3), b = g_random(m, "b", SHAPE(19), 2, 1);
    const uint32_t y = G_OP(m, "MatMul", "y", x, w), z = G_OP(m, "Add", "z", b, y), s = G_OP(m, "Add", "s", r, z);
    g_output(m, G_OP(m, "Gelu", "out", s));
}
static void gemm_scaled_transposed(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(24, 7));
    const uint32_t w = g_random(m, "w", SHAPE(19, 24), 1, 0.3), b = g_random(m, "b", SHAPE(1, 19), 2, 1);
    const uint32_t y = G_OP(m, "Gemm", "y", x, w, b), node = g_maker(m, y);
    node_set_int(m, node, "transA", 1);
    node_set_int(m, node, "transB", 1);
    node_set_float(m, node, "alpha", 0.5f);
    node_set_float(m, node, "beta", 2);
    g_output(m, G_OP(m, "Relu", "out", y));
}
static void gemm_tensor_addend(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(3, 24)), c = g_input(m, "c", SHAPE(3, 8));
    const uint32_t w = g_random(m, "w", SHAPE(24, 8), 1, 0.3);
    g_output(m, G_OP(m, "Sigmoid", "out", G_OP(m, "Gemm", "y", x, w, c)));
}
static void clip_after_vector(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(1, 40)), w = g_random(m, "w", SHAPE(40, 33), 1, 0.5);
    g_output(m, G_OP(m, "Clip", "out", G_OP(m, "MatMul", "y", x, w), number(m, "lo", -1), number(m, "hi", 1.5f)));
}
/* The product is read twice: nothing may be taken in. */
static void product_read_twice(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(2, 12)), w = g_random(m, "w", SHAPE(12, 9), 1, 0.5);
    const uint32_t y = G_OP(m, "MatMul", "y", x, w), r = G_OP(m, "Relu", "r", y);
    g_output(m, G_OP(m, "Sub", "out", r, y));
}
/* An addend that stretches the result is no residual. */
static void addend_that_stretches(struct model *m)
{
    const uint32_t x = g_input(m, "x", SHAPE(1, 12)), r = g_input(m, "r", SHAPE(4, 9));
    const uint32_t w = g_random(m, "w", SHAPE(12, 9), 1, 0.5);
    g_output(m, G_OP(m, "Add", "out", G_OP(m, "MatMul", "y", x, w), r));
}

static void gelu_erf(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30));
    const uint32_t d = G_OP(m, "Div", "d", x, number(m, "root", 1.41421354f)), e = G_OP(m, "Erf", "e", d);
    const uint32_t t = G_OP(m, "Add", "t", e, number(m, "one", 1)), p = G_OP(m, "Mul", "p", x, t);
    g_output(m, G_OP(m, "Mul", "out", p, number(m, "half", 0.5f)));
}
static void gelu_erf_half_first(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30)), half = G_OP(m, "Mul", "h", x, number(m, "half", 0.5f));
    const uint32_t e = G_OP(m, "Erf", "e", G_OP(m, "Mul", "d", x, number(m, "root", 0.707106769f)));
    g_output(m, G_OP(m, "Mul", "out", half, G_OP(m, "Add", "t", number(m, "one", 1), e)));
}
static void gelu_tanh(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30)), cube = G_OP(m, "Pow", "cube", x, number(m, "three", 3));
    const uint32_t inner = G_OP(m, "Add", "inner", x, G_OP(m, "Mul", "c", cube, number(m, "k", 0.044715f)));
    const uint32_t t = G_OP(m, "Tanh", "tanh", G_OP(m, "Mul", "scaled", inner, number(m, "root", 0.797884583f)));
    const uint32_t one = G_OP(m, "Add", "plus", t, number(m, "one", 1));
    g_output(m, G_OP(m, "Mul", "out", x, G_OP(m, "Mul", "halved", number(m, "half", 0.5f), one)));
}
/* Not quite: another factor of the cube. */
static void gelu_of_other_constants(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30)), cube = G_OP(m, "Pow", "cube", x, number(m, "three", 3));
    const uint32_t inner = G_OP(m, "Add", "inner", x, G_OP(m, "Mul", "c", cube, number(m, "k", 0.05f)));
    const uint32_t t = G_OP(m, "Tanh", "tanh", G_OP(m, "Mul", "scaled", inner, number(m, "root", 0.797884583f)));
    const uint32_t one = G_OP(m, "Add", "plus", t, number(m, "one", 1));
    g_output(m, G_OP(m, "Mul", "out", x, G_OP(m, "Mul", "halved", number(m, "half", 0.5f), one)));
}
static void silu(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30));
    g_output(m, G_OP(m, "Mul", "out", G_OP(m, "Sigmoid", "s", x), x));
}
static void hard_swish(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30)), a = G_OP(m, "Add", "a", x, number(m, "three", 3));
    const uint32_t c = G_OP(m, "Clip", "c", a, number(m, "zero", 0), number(m, "six", 6));
    g_output(m, G_OP(m, "Div", "out", G_OP(m, "Mul", "p", x, c), number(m, "sixth", 6)));
}
static void mish(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30));
    g_output(m, G_OP(m, "Mul", "out", x, G_OP(m, "Tanh", "t", G_OP(m, "Softplus", "s", x))));
}
/* The sigmoid belongs to another value. */
static void gate_of_another(struct model *m)
{
    const uint32_t x = batch_input(m, "x", SHAPE(1, 30)), z = batch_input(m, "z", SHAPE(1, 30));
    g_output(m, G_OP(m, "Mul", "out", G_OP(m, "Sigmoid", "s", x), z));
}
static void layernorm(struct model *m)
{
    static const int64_t last[] = {-1};
    const uint32_t x = batch_input(m, "x", SHAPE(1, 6, 20)), mean = G_OP(m, "ReduceMean", "mean", x);
    node_set_ints(m, g_maker(m, mean), "axes", last, 1);
    const uint32_t d = G_OP(m, "Sub", "d", x, mean), sq = G_OP(m, "Pow", "sq", d, number(m, "two", 2));
    const uint32_t var = G_OP(m, "ReduceMean", "var", sq);
    node_set_ints(m, g_maker(m, var), "axes", last, 1);
    const uint32_t s = G_OP(m, "Sqrt", "s", G_OP(m, "Add", "eps", var, number(m, "e", 1e-5f)));
    const uint32_t q = G_OP(m, "Mul", "g", G_OP(m, "Div", "q", d, s), ramp(m, "gamma", 20, 0.5f, 0.1f));
    g_output(m, G_OP(m, "Add", "out", q, ramp(m, "beta", 20, -1, 0.2f)));
}

/* heads: rank 4 with transposes around; scale and mask as asked. */
static void attention(struct model *m, bool masked, bool split_scale)
{
    static const int64_t heads[] = {0, 2, 1, 3}, keys[] = {0, 2, 3, 1};
    const uint32_t q = batch_input(m, "q", SHAPE(1, 7, 2, 12)), k = batch_input(m, "k", SHAPE(1, 9, 2, 12)),
                   v = batch_input(m, "v", SHAPE(1, 9, 2, 5));
    uint32_t qt = perm(m, q, "qt", 4, heads), kt = perm(m, k, "kt", 4, keys);
    if (split_scale) {
        qt = G_OP(m, "Mul", "qs", qt, number(m, "r1", 0.5372849f));
        kt = G_OP(m, "Mul", "ks", number(m, "r2", 0.5372849f), kt);
    }
    uint32_t s = G_OP(m, "MatMul", "scores", qt, kt);
    if (!split_scale)
        s = G_OP(m, "Div", "scaled", s, number(m, "root", 3.4641016f));
    if (masked)
        s = G_OP(m, "Add", "masked", s, g_random(m, "mask", SHAPE(7, 9), 8, 2));
    const uint32_t p = G_OP(m, "Softmax", "p", s), y = G_OP(m, "MatMul", "pv", p, perm(m, v, "vt", 4, heads));
    g_output(m, perm(m, y, "out", 4, heads));
}
static void attention_plain(struct model *m)
{
    attention(m, false, false);
}
static void attention_masked(struct model *m)
{
    attention(m, true, false);
}
static void attention_split_scale(struct model *m)
{
    attention(m, true, true);
}
static void attention_rank_3(struct model *m)
{
    static const int64_t keys[] = {0, 2, 1};
    const uint32_t q = batch_input(m, "q", SHAPE(1, 7, 12)), k = batch_input(m, "k", SHAPE(1, 9, 12)),
                   v = batch_input(m, "v", SHAPE(1, 9, 5));
    const uint32_t s = G_OP(m, "MatMul", "scores", q, perm(m, k, "kt", 3, keys));
    g_output(m, G_OP(m, "MatMul", "out", G_OP(m, "Softmax", "p", s), v));
}
/* Keys shared by all heads are stretched: the kernel reads no such thing. */
static void attention_stretched(struct model *m)
{
    static const int64_t swap[] = {0, 1, 3, 2};
    const uint32_t q = batch_input(m, "q", SHAPE(1, 2, 7, 12)), k = g_input(m, "k", SHAPE(1, 1, 9, 12)),
                   v = batch_input(m, "v", SHAPE(1, 2, 9, 5));
    const uint32_t s = G_OP(m, "MatMul", "scores", q, perm(m, k, "kt", 4, swap));
    g_output(m, G_OP(m, "MatMul", "out", G_OP(m, "Softmax", "p", s), v));
}

static const struct graph_case {
    const char *name;
    void (*build)(struct model *m);
    int64_t opset;
    const char *makes; /* type of the engine's node that must be there; NULL: none */
    int nodes;         /* of the rewritten graph; 0: any number */
} cases[] = {
    {"MatMul, bias, residual, Gelu", matmul_bias_residual_gelu, 20, "MatMulPacked", 1},
    {"Gemm with everything", gemm_scaled_transposed, 13, "MatMulPacked", 1},
    {"Gemm with a tensor as addend", gemm_tensor_addend, 13, "MatMulPacked", 1},
    {"a vector, clipped", clip_after_vector, 13, "MatMulPacked", 1},
    {"product read twice", product_read_twice, 13, "MatMulPacked", 3},
    {"addend that stretches", addend_that_stretches, 13, "MatMulPacked", 2},
    {"GELU by erf", gelu_erf, 13, "Activation", 1},
    {"GELU by erf, half first", gelu_erf_half_first, 13, "Activation", 1},
    {"GELU by tanh", gelu_tanh, 13, "Activation", 1},
    {"almost GELU", gelu_of_other_constants, 13, NULL, 0},
    {"SiLU", silu, 13, "Activation", 1},
    {"hard swish", hard_swish, 13, "Activation", 1},
    {"Mish", mish, 13, "Activation", 1},
    {"gate of another value", gate_of_another, 13, NULL, 0},
    {"LayerNormalization", layernorm, 13, "LayerNormalization", 1},
    {"attention", attention_plain, 13, "FusedAttention", 1},
    {"attention with mask", attention_masked, 13, "FusedAttention", 1},
    {"attention, scale on both sides", attention_split_scale, 13, "FusedAttention", 1},
    {"attention of rank 3", attention_rank_3, 13, "FusedAttention", 1},
    {"attention with stretched keys", attention_stretched, 13, NULL, 0},
};

static void feed(const struct plan *plan, struct tensor *in)
{
    struct rng rng;
    rng_init(&rng, 77, 0);
    for (int i = 0; i < plan_n_inputs(plan); i++) {
        struct shape shape;
        plan_input_shape(plan, i, N_SYMBOL_BATCH, N_SYMBOL_BATCH, &shape);
        const struct shape *declared = &plan_model(plan)->values[plan_input(plan, i)].type.shape;
        for (int k = 0; k < shape.rank; k++)
            shape.dim[k] = declared->dim[k] >= 0 ? declared->dim[k] : N_SYMBOL_BATCH;
        assert_int_equal(tensor_alloc(&in[i], DTYPE_FLOAT, &shape, NULL), 0);
        for (int64_t k = 0; k < tensor_count(&in[i]); k++)
            tensor_f32(&in[i])[k] = (float)rng_normal(&rng);
    }
}

static struct tensor run(const struct model *m, bool optimize, struct pool *pool, const struct graph_case *c)
{
    struct plan_opts opts = {.pool = pool, .optimize = optimize};
    struct tensor in[4] = {{0}}, out = {0};
    struct err err = {0};
    struct plan *plan = plan_new(m, &opts, &err);
    if (!plan)
        fail_msg("%s: %s", c->name, err.msg);
    feed(plan, in);
    if (plan_run(plan, in, &out, NULL, &err))
        fail_msg("%s: %s", c->name, err.msg);
    if (optimize) {
        int found = 0, nodes = model_main(plan->m)->n_nodes;
        for (int i = 0; i < nodes; i++) {
            const struct node *n = &plan->m->nodes[model_main(plan->m)->nodes[i]];
            found += c->makes && n->domain && !strcmp(n->domain, OP_DOMAIN_ENGINE) && !strcmp(n->op_type, c->makes);
            if (!c->makes && n->domain && !strcmp(n->domain, OP_DOMAIN_ENGINE))
                fail_msg("%s: %s was made", c->name, n->op_type);
        }
        if (c->makes && found != 1)
            fail_msg("%s: %d nodes %s", c->name, found, c->makes);
        if (c->nodes && nodes != c->nodes)
            fail_msg("%s: %d nodes, expected %d", c->name, nodes, c->nodes);
    }
    for (int i = 0; i < plan_n_inputs(plan); i++)
        tensor_fini(&in[i]);
    plan_free(plan);
    return out;
}

static void fused_plans_compute_the_same(void **state)
{
    struct pool *pool = pool_new(2);
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct model *m = g_new(cases[i].opset);
        cases[i].build(m);
        struct tensor plain = run(m, false, NULL, &cases[i]), fused = run(m, true, NULL, &cases[i]);
        struct tensor threads = run(m, true, pool, &cases[i]);
        assert_true(shape_equal(&plain.shape, &fused.shape));
        for (int64_t k = 0; k < tensor_count(&plain); k++)
            if (!(fabs((double)tensor_f32(&plain)[k] - (double)tensor_f32(&fused)[k]) <= 3e-6))
                fail_msg("%s: element %d is %.9g, plainly %.9g", cases[i].name, (int)k, (double)tensor_f32(&fused)[k],
                         (double)tensor_f32(&plain)[k]);
        assert_true(tensor_equal(&fused, &threads));
        tensor_fini(&plain);
        tensor_fini(&fused);
        tensor_fini(&threads);
        model_free(m);
    }
    pool_free(pool);
}

/* Two products share a weight: it is packed once. */
static void shared_weights_are_packed_once(void **state)
{
    struct plan_opts opts = {.optimize = true};
    struct err err = {0};
    int packed = 0;
    (void)state;
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(3, 16)), w = g_random(m, "w", SHAPE(16, 16), 1, 0.5);
    g_output(m, G_OP(m, "MatMul", "out", G_OP(m, "MatMul", "y", x, w), w));
    struct plan *plan = plan_new(m, &opts, &err);
    assert_non_null(plan);
    for (int i = 0; i < model_main(plan->m)->n_initializers; i++)
        packed += plan->m->values[model_main(plan->m)->initializers[i]].weight->tensor.shape.rank == 3;
    assert_int_equal(packed, 1);
    plan_free(plan);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fused_plans_compute_the_same),
        cmocka_unit_test(shared_weights_are_packed_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
