/* SPDX-License-Identifier: Apache-2.0
 * AWQ: scaling leaves the float model as it is and makes the rounded weights better on other inputs; where something
 * else reads the
 * value nothing is scaled, and the report says why; clipped codes are never worse than round-to-nearest. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/quant/awq.h"
#include "tests/unit/graphs.h"

enum { D = 24, N = 20, SAMPLES = 200 };

/* A normalisation whose outputs differ much in size, two products of it (one transposed), and a tail that reads
 * products through
 * Relu and through a Mul with a vector. leak: an Add reads the normalisation's output too. */
static struct model *network(bool leak, uint32_t *nodes)
{
    struct model *m = g_new(17);
    float gamma[D], beta[D];
    struct rng r;
    rng_init(&r, 3, 0);
    for (int i = 0; i < D; i++) {
        gamma[i] = (float)exp(1.5 * rng_normal(&r));
        beta[i] = (float)(0.2 * rng_normal(&r));
    }
    uint32_t x = g_input(m, "x", SHAPE(-1, D));
    uint32_t g = g_const(m, "gamma", SHAPE(D), gamma), b = g_const(m, "beta", SHAPE(D), beta);
    uint32_t n = G_OP(m, "LayerNormalization", "n", x, g, b);
    uint32_t p = G_OP(m, "MatMul", "p", n, g_random(m, "wp", SHAPE(D, N), 1, 0.2));
    uint32_t q = G_OP(m, "Gemm", "q", n, g_random(m, "wq", SHAPE(N, D), 2, 0.2), g_random(m, "bq", SHAPE(N), 3, 0.2));
    node_set_int(m, g_maker(m, q), "transB", 1);
    uint32_t relu = G_OP(m, "Relu", "relu", p);
    uint32_t u = G_OP(m, "MatMul", "u", relu, g_random(m, "wu", SHAPE(N, 6), 4, 0.2));
    uint32_t mul = G_OP(m, "Mul", "mul", q, g_random(m, "vec", SHAPE(N), 5, 1));
    uint32_t v = G_OP(m, "MatMul", "v", mul, g_random(m, "wv", SHAPE(N, 6), 6, 0.2));
    uint32_t y = G_OP(m, "Add", "y", u, v);
    g_output(m, y);
    if (leak)
        g_output(m, G_OP(m, "Abs", "z", n));
    const uint32_t made[] = {p, q, u, v};
    for (int i = 0; i < 4; i++)
        nodes[i] = g_maker(m, made[i]);
    return m;
}

/* All product weights of the model rounded to 3 bits in blocks of 8. */
static void round_weights(struct model *m, const uint32_t *nodes)
{
    for (int i = 0; i < 4; i++) {
        const struct node *n = &m->nodes[nodes[i]];
        struct tensor t = {0};
        const bool rows = node_is(n, "Gemm");
        assert_int_equal(tensor_copy(&t, value_const(m, n->input[1]), NULL), 0);
        const int64_t k = t.shape.dim[rows ? 1 : 0], outs = t.shape.dim[rows ? 0 : 1];
        const struct block_form f = {.bits = 3, .k = k, .block = 8};
        float w[D * N], back[D * N], scale[N * 3];
        uint8_t codes[D * N], zero[N * 3];
        for (int64_t o = 0; o < outs; o++)
            for (int64_t j = 0; j < k; j++)
                w[o * k + j] = tensor_f32(&t)[rows ? o * k + j : j * outs + o];
        const struct block_codes q = {codes, scale, zero};
        block_rtn(&f, w, outs, &q);
        block_dequantize(&f, &q, outs, back);
        for (int64_t o = 0; o < outs; o++)
            for (int64_t j = 0; j < k; j++)
                tensor_f32(&t)[rows ? o * k + j : j * outs + o] = back[o * k + j];
        assert_int_equal(value_set_weight(m, n->input[1], &t), 0);
        tensor_fini(&t);
    }
}

static json_t *scale(struct model *m, const struct tensor *x, const uint32_t *nodes, int64_t n, struct pool *pool)
{
    struct err err = {0};
    struct dataset *ds = g_dataset(x, m);
    struct step_ctx c = {.model = m, .ramp = 1, .data = ds, .pool = pool, .layers = layer_report_new(),
                         .warnings = warnings_new()};
    const struct awq_opts o = {.form = {.bits = 3, .block = 8}, .samples = SAMPLES, .nodes = nodes, .n_nodes = n};
    if (awq_scale(&c, &o, &err))
        fail_msg("%s", err.msg);
    json_t *rows = layer_report_json(c.layers);
    layer_report_free(c.layers);
    warnings_free(c.warnings);
    dataset_close(ds);
    if (model_validate(m, &err))
        fail_msg("%s", err.msg);
    return rows;
}

static json_t *fact(json_t *rows, const char *node, const char *key)
{
    const struct g_done done = {.layers = rows};
    return json_object_get(json_object_get(json_object_get(g_row(&done, node), "after"), "awq"), key);
}

static void test_scale(void **state)
{
    (void)state;
    uint32_t nodes[4];
    struct tensor x = {0}, other = {0};
    struct pool *pool = pool_new(2);
    struct model *was = network(false, nodes), *plain = network(false, nodes), *m = network(false, nodes),
                 *again = network(false, nodes);
    g_fill(&x, SHAPE(SAMPLES, D), 1, 1);
    g_fill(&other, SHAPE(SAMPLES, D), 2, 1);
    json_t *rows = scale(m, &x, nodes, 4, NULL), *rows_again = scale(again, &x, nodes, 4, pool);
    assert_true(g_error(was, m, &other, 0) < 1e-5);
    assert_true(json_equal(rows, rows_again));
    assert_true(g_error(m, again, &other, 0) == 0);
    const char *const names[] = {"p", "q", "u", "v"};
    for (int i = 0; i < 4; i++) {
        if (!fact(rows, names[i], "alpha"))
            fail_msg("'%s': %s", names[i], json_string_value(fact(rows, names[i], "not_scaled")));
        assert_true(json_real_value(fact(rows, names[i], "output_error_ratio")) <= 1);
    }
    assert_true(json_real_value(fact(rows, "p", "alpha")) > 0);
    assert_true(json_real_value(fact(rows, "p", "alpha")) == json_real_value(fact(rows, "q", "alpha")));
    round_weights(plain, nodes);
    round_weights(m, nodes);
    const double before = g_squares(was, plain, &other), after = g_squares(was, m, &other);
    if (!(after < 0.7 * before))
        fail_msg("error %g, without scales %g", after, before);
    json_decref(rows);
    json_decref(rows_again);
    model_free(was);
    model_free(plain);
    model_free(m);
    model_free(again);
    tensor_fini(&x);
    tensor_fini(&other);
    pool_free(pool);
}

static void test_left_alone(void **state)
{
    (void)state;
    uint32_t nodes[4];
    struct tensor x = {0};
    g_fill(&x, SHAPE(SAMPLES, D), 1, 1);
    struct model *was = network(true, nodes), *m = network(true, nodes);
    json_t *rows = scale(m, &x, nodes, 4, NULL);
    assert_non_null(fact(rows, "p", "not_scaled")); /* Abs reads the value, and is an output */
    assert_non_null(fact(rows, "q", "not_scaled"));
    assert_non_null(fact(rows, "u", "alpha"));
    assert_true(g_error(was, m, &x, 0) < 1e-5 && g_error(was, m, &x, 1) < 1e-5);
    json_decref(rows);
    model_free(m);
    m = network(false, nodes);
    rows = scale(m, &x, nodes, 1, NULL); /* q stays in float and reads the same */
    assert_string_equal(json_string_value(fact(rows, "p", "not_scaled")),
                        "a product that stays in float reads the same channels");
    assert_true(tensor_equal(value_const(m, g_value(m, "wp")), value_const(was, g_value(was, "wp"))));
    json_decref(rows);
    model_free(m);
    m = network(false, nodes); /* inputs that are always zero */
    memset(x.data, 0, x.bytes);
    struct tensor beta = {0};
    assert_int_equal(tensor_alloc(&beta, DTYPE_FLOAT, &SHAPE(D), NULL), 0);
    assert_int_equal(value_set_weight(m, g_value(m, "beta"), &beta), 0);
    rows = scale(m, &x, nodes, 4, NULL);
    assert_string_equal(json_string_value(fact(rows, "p", "not_scaled")), "its input is always zero");
    json_decref(rows);
    tensor_fini(&beta);
    model_free(m);
    model_free(was);
    tensor_fini(&x);
}

static void test_clip(void **state)
{
    (void)state;
    const struct block_form forms[] = {
        {3, 40, 8, false}, {4, 40, 16, true}, {4, 40, 40, false}, {2, 200, 150, false}, {4, 40, 16, false,
                                                                      DTYPE_FLOAT16}};
    struct rng r;
    rng_init(&r, 1, 0);
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const struct block_form *f = &forms[i];
        enum { ROWS = 36 };
        const int64_t k = f->k, blocks = block_count(f);
        float *w = malloc((size_t)(ROWS * k) * sizeof *w), *back = malloc((size_t)(ROWS * k) * sizeof *back);
        double *h = calloc((size_t)(2 * k * k), sizeof *h), *mean = calloc((size_t)(2 * k), sizeof *mean);
        uint8_t codes[ROWS * 200], zero[ROWS * 5], again[ROWS * 200];
        float scales[ROWS * 5];
        for (int64_t j = 0; j < ROWS * k; j++)
            w[j] = (float)(rng_normal(&r) * exp(rng_normal(&r)));
        for (int64_t g = 0; g < 2; g++)
            for (int64_t a = 0; a < k; a++)
                h[(g * k + a) * k + a] = 1 + rng_uniform(&r);
        for (int64_t a = 0; a + 1 < k; a++)
            h[a * k + a + 1] = h[(a + 1) * k + a] = 0.5;
        const struct gram_matrix g = {.groups = 2, .k = k, .rows = 99, .h = h, .mean = mean, .mean_abs = mean};
        const struct block_codes q = {codes, scales, zero}, q2 = {again, scales, zero};
        struct awq_report report;
        struct pool *pool = pool_new(2);
        block_rtn(f, w, ROWS, &q);
        block_dequantize(f, &q, ROWS, back);
        const double rtn = gram_error(NULL, &g, w, back, ROWS);
        assert_int_equal(awq_clip(f, w, ROWS, &g, NULL, &q, &report, NULL), 0);
        block_dequantize(f, &q, ROWS, back);
        const double got = gram_error(NULL, &g, w, back, ROWS);
        g_near(report.rtn_error, rtn, 1e-9 * rtn);
        g_near(report.error, got, 1e-9 * rtn);
        if (!(got < rtn))
            fail_msg("form %zu: error %.3f of round-to-nearest's", i, got / rtn);
        assert_in_range(report.clipped, 1, ROWS * blocks);
        assert_int_equal(awq_clip(f, w, ROWS, &g, pool, &q2, NULL, NULL), 0);
        assert_memory_equal(codes, again, (size_t)(ROWS * k));
        pool_free(pool);
        free(w);
        free(back);
        free(h);
        free(mean);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_scale), cmocka_unit_test(test_left_alone),
                                       cmocka_unit_test(test_clip)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
