/* SPDX-License-Identifier: Apache-2.0
 * The gradient engine on small networks in float64: gradients against central differences, accumulation,
 * recomputation (the same
 * bits, less memory), thread counts, shared parameters, refusals, statistics and Dropout. Whole networks against
 * PyTorch are tests/e2e/test_grad_torch.py's. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/engine/grad.h"
#include "tests/unit/graphs.h"

static uint32_t weight64(struct model *m, const char *name, struct shape shape, uint64_t seed, double scale,
                         double shift)
{
    struct tensor t = {0};
    struct rng rng;
    rng_init(&rng, seed, 2);
    assert_int_equal(tensor_alloc(&t, DTYPE_DOUBLE, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(&t); i++)
        ((double *)t.data)[i] = shift + scale * rng_normal(&rng);
    uint32_t id = model_add_weight(m, 0, name, &t);
    tensor_fini(&t);
    return id;
}

static uint32_t input64(struct model *m, const char *name, struct shape shape)
{
    uint32_t v = g_input(m, name, shape);
    struct graph *g = model_main(m);
    g->inputs[g->n_inputs - 1].type = m->values[v].type = type_tensor(DTYPE_DOUBLE, &shape);
    return v;
}

static void fill64(struct tensor *t, struct shape shape, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 3);
    assert_int_equal(tensor_alloc(t, DTYPE_DOUBLE, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(t); i++)
        ((double *)t->data)[i] = rng_normal(&rng);
}

/* Blocks of Conv - BatchNormalization - Relu with a residual Add, a pool and a Gemm. */
enum { BLOCKS = 6, PER_BLOCK = 5 };
struct net {
    struct model *m;
    uint32_t params[BLOCKS * PER_BLOCK + 2], x;
    int n;
};

static void build(struct net *net)
{
    struct model *m = net->m = g_new(17);
    uint32_t at = net->x = input64(m, "x", SHAPE(DIM_UNKNOWN, 3, 6, 5));
    for (int b = 0; b < BLOCKS; b++) {
        const int64_t c_in = b ? 4 : 3;
        const char *name[PER_BLOCK] = {"w", "scale", "bias", "mean", "var"};
        uint32_t v[PER_BLOCK];
        for (int i = 0; i < PER_BLOCK; i++)
            v[i] = net->params[net->n++] =
                weight64(m, model_printf(m, "%s%d", name[i], b), i ? SHAPE(4) : SHAPE(4, c_in, 3, 3),
                         (uint64_t)(10 * b + i), i == 4 ? 0.1 : 0.3, i == 1 || i == 4 ? 1 : 0);
        uint32_t conv = G_OP(m, "Conv", model_printf(m, "conv%d", b), at, v[0]);
        node_set_ints(m, g_maker(m, conv), "pads", (const int64_t[]){1, 1, 1, 1}, 4);
        uint32_t bn = G_OP(m, "BatchNormalization", model_printf(m, "bn%d", b), conv, v[1], v[2], v[3], v[4]);
        uint32_t relu = G_OP(m, "Relu", model_printf(m, "relu%d", b), bn);
        at = b ? G_OP(m, "Add", model_printf(m, "sum%d", b), relu, at) : relu;
    }
    uint32_t pool = G_OP(m, "MaxPool", "pool", at);
    node_set_ints(m, g_maker(m, pool), "kernel_shape", (const int64_t[]){2, 2}, 2);
    node_set_ints(m, g_maker(m, pool), "strides", (const int64_t[]){2, 2}, 2);
    uint32_t flat = G_OP(m, "Flatten", "flat", pool);
    net->params[net->n++] = weight64(m, "fc", SHAPE(24, 5), 90, 0.3, 0);
    net->params[net->n++] = weight64(m, "fcb", SHAPE(5), 91, 0.3, 0);
    g_output(m, G_OP(m, "Gemm", "y", flat, net->params[net->n - 2], net->params[net->n - 1]));
}

static struct grad *open_net(const struct net *net, struct grad_opts opts)
{
    struct err err = {0};
    opts.params = net->params;
    opts.n_params = net->n;
    struct grad *g = grad_new(net->m, &opts, &err);
    if (!g)
        fail_msg("%s", err.msg);
    return g;
}

/* The loss sum of r y for seeded r; seeds get r. */
static double forward(struct grad *g, const struct tensor *x)
{
    struct err err = {0};
    struct rng rng;
    double loss = 0;
    if (grad_forward(g, x, &err))
        fail_msg("%s", err.msg);
    rng_init(&rng, 5, 5);
    for (int o = 0; o < grad_n_outputs(g); o++) {
        const struct tensor *y = grad_output(g, o);
        for (int64_t i = 0; i < tensor_count(y); i++) {
            const double r = rng_normal(&rng);
            loss += r * ((const double *)y->data)[i];
            if (grad_seed(g, o))
                ((double *)grad_seed(g, o)->data)[i] = r;
        }
    }
    return loss;
}

static void backward(struct grad *g)
{
    struct err err = {0};
    if (grad_backward(g, &err))
        fail_msg("%s", err.msg);
}

static void check_differences(struct grad *g, const struct tensor *x, int n_params, bool skip_statistics)
{
    const double step = 1e-6;
    grad_reset(g);
    forward(g, x);
    backward(g);
    for (int p = 0; p < n_params; p++) {
        struct tensor *value = grad_param_value(g, p);
        const double *sum = grad_param_gradient(g, p)->data;
        if (skip_statistics && p < BLOCKS * PER_BLOCK && p % PER_BLOCK >= 3)
            continue;
        for (int64_t i = 0; i < tensor_count(value); i += tensor_count(value) / 3 + 1) {
            double *v = (double *)value->data + i, keep = *v;
            *v = keep + step;
            const double up = forward(g, x);
            *v = keep - step;
            const double down = forward(g, x);
            *v = keep;
            g_near(sum[i], (up - down) / (2 * step), 1e-5 * (1 + fabs(sum[i])));
        }
    }
}

static void test_differences(void **state)
{
    struct net net = {0};
    struct tensor x = {0};
    (void)state;
    build(&net);
    fill64(&x, SHAPE(3, 3, 6, 5), 1);
    struct grad *g = open_net(&net, (struct grad_opts){.checkpoints = 1});
    check_differences(g, &x, net.n, true);
    grad_set_training(g, true);
    check_differences(g, &x, net.n, true);
    grad_free(g);
    tensor_fini(&x);
    model_free(net.m);
}

static bool same(const struct grad *a, const struct grad *b, int n)
{
    for (int i = 0; i < n; i++)
        if (!tensor_equal(grad_param_gradient(a, i), grad_param_gradient(b, i)))
            return false;
    return true;
}

static void test_recomputation_and_threads(void **state)
{
    struct net net = {0};
    struct tensor x = {0};
    (void)state;
    build(&net);
    fill64(&x, SHAPE(40, 3, 6, 5), 2);
    struct grad *plain = open_net(&net, (struct grad_opts){.checkpoints = 1, .training = true});
    forward(plain, &x);
    backward(plain);
    assert_int_equal(grad_memory(plain).n_again, 0);
    assert_true(grad_memory(plain).slab <= grad_memory(plain).slab_lower + grad_memory(plain).slab_lower / 5);
    for (int k = 2; k <= 6; k += 2) {
        struct pool *pool = pool_new(k);
        struct grad *g = open_net(&net, (struct grad_opts){.checkpoints = k, .training = true, .pool = pool});
        for (int i = 0; i < 2; i++) { /* again with the same numbers */
            grad_reset(g);
            forward(g, &x);
            backward(g);
        }
        assert_true(same(plain, g, net.n));
        assert_in_range(grad_memory(g).segments, 2, k);
        assert_true(grad_memory(g).n_again > 0);
        assert_true(grad_memory(g).slab < grad_memory(plain).slab);
        grad_free(g);
        pool_free(pool);
    }
    struct grad_opts bounded = {.max_memory_bytes = grad_memory(plain).slab * 7 / 10, .training = true};
    struct grad *g = open_net(&net, bounded);
    forward(g, &x);
    backward(g);
    assert_true(grad_memory(g).slab <= bounded.max_memory_bytes && same(plain, g, net.n));
    grad_free(g);
    struct err err = {0};
    g = open_net(&net, (struct grad_opts){.max_memory_bytes = 4096});
    assert_int_equal(grad_forward(g, &x, &err), -1);
    assert_int_equal(err.code, ERR_MODEL_TOO_LARGE);
    assert_non_null(strstr(err.msg, "over the limit of 4096"));
    grad_free(g);
    grad_free(plain);
    tensor_fini(&x);
    model_free(net.m);
}

static void test_accumulation_and_shapes(void **state)
{
    struct net net = {0};
    struct tensor x = {0}, part = {0};
    struct err err = {0};
    (void)state;
    build(&net);
    fill64(&x, SHAPE(4, 3, 6, 5), 3);
    tensor_view(&part, DTYPE_DOUBLE, &SHAPE(2, 3, 6, 5), x.data, NULL);
    struct grad *g = open_net(&net, (struct grad_opts){.checkpoints = 1});
    struct grad *once = open_net(&net, (struct grad_opts){.checkpoints = 1});
    assert_int_equal(grad_backward(g, &err), -1); /* nothing to go back from */
    forward(once, &part);
    backward(once);
    forward(g, &x); /* another batch size before */
    backward(g);
    grad_reset(g);
    for (int i = 0; i < 3; i++) {
        forward(g, &part);
        backward(g);
    }
    for (int p = 0; p < net.n; p++)
        for (int64_t i = 0; i < tensor_count(grad_param_gradient(g, p)); i++)
            g_near(((double *)grad_param_gradient(g, p)->data)[i],
                   3 * ((double *)grad_param_gradient(once, p)->data)[i], 1e-9);
    grad_free(g);
    grad_free(once);
    tensor_fini(&x);
    model_free(net.m);
}

static void test_statistics(void **state)
{
    struct net net = {0};
    struct tensor x = {0};
    (void)state;
    build(&net);
    fill64(&x, SHAPE(4, 3, 6, 5), 4);
    struct grad *g = open_net(&net, (struct grad_opts){.checkpoints = 3, .training = true});
    forward(g, &x);
    backward(g);
    assert_int_equal(grad_n_stats(g), BLOCKS);
    const struct grad_stats *s = grad_stats(g, 0);
    assert_int_equal(s->mean_value, net.params[3]);
    assert_int_equal(s->var_value, net.params[4]);
    assert_int_equal(s->count, 4 * 6 * 5);
    g_near(s->momentum, 0.9, 1e-6);
    /* channel 0 of the first convolution, by the definition */
    const double *w = grad_param_value(g, 0)->data, *in = x.data;
    double sum = 0, squares = 0;
    for (int n = 0; n < 4; n++)
        for (int i = 0; i < 30; i++) {
            double y = 0;
            for (int c = 0; c < 3; c++)
                for (int k = 0; k < 9; k++) {
                    const int row = i / 5 + k / 3 - 1, col = i % 5 + k % 3 - 1;
                    if (row >= 0 && row < 6 && col >= 0 && col < 5)
                        y += w[c * 9 + k] * in[(n * 3 + c) * 30 + row * 5 + col];
                }
            sum += y;
            squares += y * y;
        }
    g_near(s->mean[0], sum / 120, 1e-12);
    g_near(s->variance[0], squares / 120 - sum / 120 * (sum / 120), 1e-12);
    grad_set_training(g, false);
    forward(g, &x);
    assert_int_equal(grad_n_stats(g), 0);
    grad_free(g);
    tensor_fini(&x);
    model_free(net.m);
}

/* y = (x w + x Identity(w)) * w, with w once a direct, once a tied, once a repeated input; z = w itself as an
 * output. */
static void test_shared_values(void **state)
{
    struct model *m = g_new(17);
    struct tensor x = {0};
    (void)state;
    uint32_t in = input64(m, "x", SHAPE(3)), w = weight64(m, "w", SHAPE(3), 1, 1, 0);
    uint32_t tied = G_OP(m, "Identity", "tied", w), a = G_OP(m, "Mul", "a", in, w), b = G_OP(m, "Mul", "b", in, tied);
    uint32_t square = G_OP(m, "Mul", "square", w, w), sum = G_OP(m, "Add", "sum", a, b);
    g_output(m, G_OP(m, "Mul", "y", sum, square));
    g_output(m, w);
    fill64(&x, SHAPE(3), 7);
    struct grad_opts opts = {.params = &w, .n_params = 1, .inputs = &in, .n_inputs = 1, .checkpoints = 1};
    struct grad *g = grad_new(m, &opts, NULL);
    assert_non_null(g);
    forward(g, &x);
    backward(g);
    struct rng rng;
    rng_init(&rng, 5, 5);
    double r[6];
    for (int i = 0; i < 6; i++)
        r[i] = rng_normal(&rng);
    for (int i = 0; i < 3; i++) { /* y = 2 x w^3, z = w */
        const double v = ((double *)grad_param_value(g, 0)->data)[i], f = ((double *)x.data)[i];
        g_near(((double *)grad_param_gradient(g, 0)->data)[i], r[i] * 6 * f * v * v + r[3 + i], 1e-12);
        g_near(((double *)grad_input_gradient(g, 0)->data)[i], r[i] * 2 * v * v * v, 1e-12);
    }
    grad_free(g);
    tensor_fini(&x);
    model_free(m);
}

static void test_dropout(void **state)
{
    struct model *m = g_new(17);
    struct tensor x = {0};
    (void)state;
    uint32_t in = input64(m, "x", SHAPE(1000)), w = weight64(m, "w", SHAPE(1000), 1, 0, 1);
    uint32_t scaled = G_OP(m, "Mul", "scaled", in, w), drop = G_OP(m, "Dropout", "drop", scaled);
    uint32_t at = G_OP(m, "Exp", "exp", G_OP(m, "Tanh", "tanh", drop));
    for (int i = 0; i < 4; i++)
        at = G_OP(m, "Tanh", model_printf(m, "more%d", i), at);
    g_output(m, G_OP(m, "Sub", "y", at, G_OP(m, "Tanh", "last", at)));
    fill64(&x, SHAPE(1000), 7);
    struct grad *g[2];
    for (int i = 0; i < 2; i++) {
        g[i] = grad_new(
            m, &(struct grad_opts){.params = &w, .n_params = 1, .training = true, .seed = 3, .checkpoints = 1 + 2 * i},
            NULL);
        forward(g[i], &x);
        backward(g[i]);
    }
    assert_true(grad_memory(g[1]).n_again > 0);
    assert_true(same(g[0], g[1], 1));
    bool dropped[1000];
    int count = 0, changed = 0;
    for (int i = 0; i < 1000; i++)
        count += dropped[i] = ((double *)grad_param_gradient(g[0], 0)->data)[i] == 0;
    assert_in_range(count, 430, 570);
    for (int pass = 0; pass < 2; pass++) { /* another batch: another mask; not training: none */
        grad_set_training(g[0], pass == 0);
        grad_reset(g[0]);
        forward(g[0], &x);
        backward(g[0]);
        count = 0;
        for (int i = 0; i < 1000; i++) {
            const bool now = ((double *)grad_param_gradient(g[0], 0)->data)[i] == 0;
            count += now;
            changed += pass == 0 && now != dropped[i];
        }
        assert_in_range(count, pass ? 0 : 430, pass ? 0 : 570);
    }
    assert_in_range(changed, 400, 600);
    grad_free(g[0]);
    grad_free(g[1]);
    tensor_fini(&x);
    model_free(m);
}

/* Hardmax has no gradient: on the way to a parameter it is refused, beside it it is not. */
static void test_refusals(void **state)
{
    struct err err = {0};
    struct tensor x = {0};
    (void)state;
    for (int i = 0; i < 2; i++) {
        struct model *m = g_new(17);
        uint32_t in = input64(m, "x", SHAPE(2, 3)), w = weight64(m, "w", SHAPE(2, 3), 1, 1, 0);
        uint32_t hard = G_OP(m, "Hardmax", "hard", i ? in : w);
        g_output(m, G_OP(m, "Mul", "y", hard, w));
        if (!x.data)
            fill64(&x, SHAPE(2, 3), 7);
        struct grad *g = grad_new(m, &(struct grad_opts){.params = &w, .n_params = 1, .checkpoints = 1}, &err);
        assert_non_null(g);
        assert_int_equal(grad_forward(g, &x, &err), i ? 0 : -1);
        if (!i) {
            assert_int_equal(err.code, ERR_OPERATOR);
            assert_non_null(strstr(err.msg, "node 'hard' (Hardmax): has no gradient"));
            memset(&err, 0, sizeof err);
        }
        grad_free(g);
        g = grad_new(m, &(struct grad_opts){.params = &in, .n_params = 1}, &err);
        assert_null(g);
        assert_non_null(strstr(err.msg, "'x' cannot be a parameter"));
        memset(&err, 0, sizeof err);
        const uint32_t twice[] = {w, w};
        assert_null(grad_new(m, &(struct grad_opts){.params = twice, .n_params = 2}, &err));
        assert_non_null(strstr(err.msg, "wanted twice"));
        memset(&err, 0, sizeof err);
        model_free(m);
    }
    tensor_fini(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences),
        cmocka_unit_test(test_recomputation_and_threads),
        cmocka_unit_test(test_accumulation_and_shapes),
        cmocka_unit_test(test_statistics),
        cmocka_unit_test(test_shared_values),
        cmocka_unit_test(test_dropout),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
