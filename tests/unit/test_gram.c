/* SPDX-License-Identifier: Apache-2.0
 * Gram matrices against the operators themselves: for any weight W, the mean square of each output channel the engine
 * computes is w H w^T, and its mean is w . mean(x). And against the definition, on small matrices; neither batches
 * nor
 * threads nor passes change a bit. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/stats/gram.h"
#include "tests/unit/graphs.h"

static struct gram *observe(const struct model *m, uint32_t node, uint32_t value, const struct tensor *x,
                            struct gram_matrix *out)
{
    struct err err = {0};
    const char *why = NULL;
    struct gram *g = gram_new(m, &node, 1, &(struct gram_opts){0}, &err);
    if (!g)
        fail_msg("%s", err.msg);
    assert_int_equal(gram_start(g, 0, x->shape.dim[0], &err), 0);
    assert_int_equal(gram_observe(g, value, x, &err), 0);
    assert_int_equal(gram_ran(g, x->shape.dim[0], x->shape.dim[0], &err), 0);
    gram_finish(g);
    if (!gram_of(g, node, out, &why))
        fail_msg("%s", why);
    return g;
}

/* Output channel c of y [samples, ..., with the channels on `axis`]: mean square and mean. */
static void moments(const struct tensor *y, int axis, int64_t c, double *square, double *mean)
{
    const int64_t inner = shape_product(&y->shape, axis + 1, y->shape.rank), n = y->shape.dim[axis];
    int64_t count = 0;
    *square = *mean = 0;
    for (int64_t i = 0; i < tensor_count(y); i++) {
        if (i / inner % n != c)
            continue;
        const double v = (double)tensor_f32(y)[i];
        *square += v * v;
        *mean += v;
        count++;
    }
    *square /= (double)count;
    *mean /= (double)count;
}

struct product_case {
    const char *op;
    struct shape x, w;
    int w_out;  /* axis of the weight's outputs */
    int y_axis; /* of the outputs in y */
    bool left;  /* the weight is the left operand */
    const char *attr[4];
    int64_t ints[4][6]; /* count, then numbers; count -1: one number */
};

static const struct product_case cases[] = {
    {"MatMul", {2, {7, 5}}, {2, {5, 4}}, .w_out = 1, .y_axis = 1},
    {"MatMul", {3, {3, 6, 5}}, {2, {5, 4}}, .w_out = 1, .y_axis = 2},
    {"MatMul", {4, {2, 3, 6, 5}}, {3, {1, 5, 4}}, .w_out = 2, .y_axis = 3},
    {"MatMul", {3, {3, 5, 6}}, {2, {4, 5}}, .w_out = 0, .y_axis = 1, .left = true},
    {"Gemm", {2, {9, 5}}, {2, {5, 4}}, .w_out = 1, .y_axis = 1},
    {"Gemm",
     {2, {5, 9}},
     {2, {4, 5}},
     .w_out = 0,
     .y_axis = 1,
     .attr = {"transA", "transB"},
     .ints = {{-1, 1}, {-1, 1}}},
    {"Conv",
     {4, {2, 3, 7, 6}},
     {4, {4, 3, 3, 2}},
     .w_out = 0,
     .y_axis = 1,
     .attr = {"pads", "strides", "dilations"},
     .ints = {{4, 1, 0, 2, 1}, {2, 2, 1}, {2, 1, 2}}},
    {"Conv",
     {4, {2, 4, 5, 5}},
     {4, {6, 2, 3, 3}},
     .w_out = 0,
     .y_axis = 1,
     .attr = {"group", "pads"},
     .ints = {{-1, 2}, {4, 1, 1, 1, 1}}},
    {"Conv", {4, {3, 5, 6, 6}}, {4, {5, 1, 3, 3}}, .w_out = 0, .y_axis = 1, .attr = {"group"}, .ints = {{-1, 5}}},
    {"Conv", {3, {2, 3, 9}}, {3, {4, 3, 4}}, .w_out = 0, .y_axis = 1, .attr = {"strides"}, .ints = {{1, 3}}},
    {"Conv",
     {5, {1, 2, 4, 5, 3}},
     {5, {3, 2, 2, 2, 3}},
     .w_out = 0,
     .y_axis = 1,
     .attr = {"pads"},
     .ints = {{5, 0, 1, 1, 0, 0}}},
};

static void set_attrs(struct model *m, uint32_t node, const struct product_case *p)
{
    for (int i = 0; i < 4 && p->attr[i]; i++)
        if (p->ints[i][0] < 0)
            node_set_int(m, node, p->attr[i], p->ints[i][1]);
        else if (!strcmp(p->attr[i], "pads") && p->x.rank == 5)
            node_set_ints(m, node, p->attr[i], (int64_t[]){0, 1, 1, 0, 0, 1}, 6);
        else
            node_set_ints(m, node, p->attr[i], p->ints[i] + 1, (int)p->ints[i][0]);
}

/* The weight as rows of outputs. */
static float *weight_rows(const struct tensor *w, const struct product_case *p, int64_t *outputs)
{
    const int64_t n = p->w.dim[p->w_out], count = tensor_count(w), k = count / n;
    float *rows = malloc((size_t)count * sizeof *rows);
    for (int64_t i = 0; i < count; i++) {
        const bool last = p->w_out == p->w.rank - 1;
        rows[last ? i % n * k + i / n : i] = tensor_f32(w)[i];
    }
    *outputs = n;
    return rows;
}

static void test_operators(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const struct product_case *p = &cases[i];
        struct model *m = g_new(13);
        struct tensor x = {0}, y = {0};
        g_fill(&x, p->x, 11 + i, 1);
        for (int64_t j = 0; j < tensor_count(&x); j++)
            tensor_f32(&x)[j] += 0.3f;
        uint32_t in = g_input(m, "x", p->x), w = g_random(m, "w", p->w, 5 + i, 0.5);
        uint32_t out = p->left ? G_OP(m, p->op, "y", w, in) : G_OP(m, p->op, "y", in, w), node = g_maker(m, out);
        set_attrs(m, node, p);
        g_output(m, out);
        g_run(m, &x, 0, &y);
        struct gram_matrix h;
        struct gram *g = observe(m, node, in, &x, &h);
        int64_t outputs;
        float *rows = weight_rows(value_const(m, w), p, &outputs);
        float *zero = calloc((size_t)(outputs * h.k), sizeof *zero);
        double error[16], sum = 0;
        gram_errors(NULL, &h, rows, zero, outputs, error);
        for (int64_t c = 0; c < outputs; c++) {
            double square, mean, want = 0;
            moments(&y, p->y_axis, c, &square, &mean);
            g_near(error[c], square, 2e-6 * square + 1e-9);
            for (int64_t k = 0; k < h.k; k++)
                want += (double)rows[c * h.k + k] * h.mean[c / (outputs / h.groups) * h.k + k];
            g_near(want, mean, 1e-6);
            sum += error[c];
        }
        g_near(gram_error(NULL, &h, rows, zero, outputs), sum, 1e-12 * sum);
        assert_int_equal(h.rows, tensor_count(&y) / outputs);
        free(rows);
        free(zero);
        gram_free(g);
        tensor_fini(&x);
        tensor_fini(&y);
        model_free(m);
    }
}

/* x^T x by its definition, in double; K beyond one square and rows beyond one tile. */
static void test_definition(void **state)
{
    (void)state;
    enum { N = 700, K = 300 };
    struct model *m = g_new(13);
    struct tensor x = {0};
    g_fill(&x, SHAPE(N, K), 3, 1);
    uint32_t in = g_input(m, "x", SHAPE(N, K)), w = g_random(m, "w", SHAPE(K, 2), 5, 1);
    uint32_t y = G_OP(m, "MatMul", "y", in, w);
    struct gram_matrix h;
    struct gram *g = observe(m, g_maker(m, y), in, &x, &h);
    for (int i = 0; i < K; i += 7)
        for (int j = 0; j < K; j += 11) {
            double sum = 0;
            for (int r = 0; r < N; r++)
                sum += (double)tensor_f32(&x)[r * K + i] * (double)tensor_f32(&x)[r * K + j];
            g_near(h.h[i * K + j], sum / N, 1e-5);
            assert_true(h.h[i * K + j] == h.h[j * K + i]);
        }
    for (int i = 0; i < K; i++) {
        double sum = 0, size = 0;
        for (int r = 0; r < N; r++) {
            sum += (double)tensor_f32(&x)[r * K + i];
            size += fabs((double)tensor_f32(&x)[r * K + i]);
        }
        g_near(h.mean[i], sum / N, 1e-12);
        g_near(h.mean_abs[i], size / N, 1e-12);
    }
    assert_null(h.kept);
    gram_free(g);

    /* rows kept are rows of x, each at most once, from all over */
    const uint32_t node = g_maker(m, y);
    enum { KEEP = 64 };
    int used[N] = {0}, late = 0;
    g = gram_new(m, &node, 1, &(struct gram_opts){.keep = KEEP, .seed = 5}, NULL);
    assert_int_equal(gram_observe(g, in, &x, NULL), 0);
    gram_finish(g);
    assert_true(gram_of(g, node, &h, NULL));
    assert_int_equal(h.n_kept, KEEP);
    for (int i = 0; i < KEEP; i++)
        for (int r = 0; r < N; r++)
            if (!memcmp(h.kept + i * K, tensor_f32(&x) + r * K, K * sizeof(float))) {
                late += r >= N / 2;
                assert_int_equal(used[r]++, 0);
            }
    int found = 0;
    for (int r = 0; r < N; r++)
        found += used[r];
    assert_int_equal(found, KEEP);
    assert_in_range(late, KEEP / 4, 3 * KEEP / 4);
    gram_free(g);
    tensor_fini(&x);
    model_free(m);
}

/* ---- through a dataset ---- */
struct kept {
    double *h[4];
    size_t bytes[4];
    int64_t rows[4];
    int n;
};

static int keep(void *arg, uint32_t node, const struct gram_matrix *g, const char *why, struct err *err)
{
    struct kept *k = arg;
    (void)node;
    (void)err;
    if (!g)
        fail_msg("%s", why);
    k->bytes[k->n] = (size_t)(g->groups * g->k * g->k) * sizeof *g->h;
    k->h[k->n] = malloc(k->bytes[k->n]);
    memcpy(k->h[k->n], g->h, k->bytes[k->n]);
    k->rows[k->n++] = g->rows;
    return 0;
}

static void drop(struct kept *k)
{
    while (k->n > 0)
        free(k->h[--k->n]);
}

static struct model *two_layers(int64_t batch, uint32_t *nodes)
{
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(batch, 2, 12, 12));
    uint32_t c = G_OP(m, "Conv", "c", x, g_random(m, "w", SHAPE(8, 2, 3, 3), 1, 0.4));
    uint32_t r = G_OP(m, "Relu", "r", c);
    uint32_t d = G_OP(m, "Conv", "d", r, g_random(m, "v", SHAPE(4, 8, 1, 1), 2, 0.4));
    uint32_t f = G_OP(m, "Flatten", "f", d);
    uint32_t y = G_OP(m, "MatMul", "y", f, g_random(m, "u", SHAPE(400, 3), 3, 0.1));
    g_output(m, y);
    nodes[0] = g_maker(m, c);
    nodes[1] = g_maker(m, d);
    nodes[2] = g_maker(m, y);
    return m;
}

/* batch -1: the model takes any. */
static void collect(const struct tensor *x, int64_t batch, struct pool *pool, size_t memory, int64_t rows,
                    struct kept *out)
{
    uint32_t nodes[3];
    struct err err = {0};
    struct model *m = two_layers(batch, nodes);
    struct dataset *ds = g_dataset(x, m);
    const struct gram_job job = {.m = m,
                                 .data = ds,
                                 .pool = pool,
                                 .samples = 37,
                                 .nodes = nodes,
                                 .n_nodes = 3,
                                 .memory_bytes = memory,
                                 .rows_per_sample = rows,
                                 .each = keep,
                                 .arg = out};
    *out = (struct kept){0};
    if (gram_each(&job, &err))
        fail_msg("%s", err.msg);
    assert_int_equal(out->n, 3);
    dataset_close(ds);
    model_free(m);
}

static void same(const struct kept *a, const struct kept *b)
{
    for (int i = 0; i < a->n; i++) {
        assert_int_equal(a->bytes[i], b->bytes[i]);
        assert_int_equal(a->rows[i], b->rows[i]);
        assert_memory_equal(a->h[i], b->h[i], a->bytes[i]);
    }
}

static void test_batches_threads_passes(void **state)
{
    (void)state;
    struct tensor x = {0};
    struct pool *two = pool_new(2);
    g_fill(&x, SHAPE(37, 2, 12, 12), 9, 1);
    for (int64_t rows = 0; rows <= 30; rows += 30) {
        struct kept want, got;
        collect(&x, 1, NULL, 0, rows, &want);
        assert_int_equal(want.rows[0], 37 * (rows ? rows : 100));
        assert_int_equal(want.rows[2], 37);
        for (int64_t batch = -1; batch <= 8; batch += 3) /* any, 2, 5, 8: the last one is filled up */
            for (int threads = 1; threads <= 2; threads++)
                for (size_t memory = 0; memory < 3; memory++) {
                    collect(&x, batch, threads == 2 ? two : NULL, memory == 2 ? 2500000 : memory, rows, &got);
                    same(&want, &got);
                    drop(&got);
                }
        drop(&want);
    }
    pool_free(two);
    tensor_fini(&x);
}

static void test_refused(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    struct tensor x = {0}, other = {0};
    uint32_t in = g_input(m, "x", SHAPE(2, 4));
    uint32_t w = g_random(m, "w", SHAPE(4, 4), 1, 1);
    uint32_t y = G_OP(m, "MatMul", "y", in, w), z = G_OP(m, "MatMul", "z", y, in), r = G_OP(m, "Relu", "r", z);
    uint32_t t = G_OP(m, "Transpose", "t", w), a = G_OP(m, "MatMul", "a", in, t);
    uint32_t b = G_OP(m, "MatMul", "b", in, g_random(m, "wb", SHAPE(2, 4, 3), 1, 1));
    uint32_t c = G_OP(m, "MatMul", "c", w, w);
    assert_string_equal(gram_refusal(m, g_maker(m, z)), "its weight is not a constant");
    assert_string_equal(gram_refusal(m, g_maker(m, b)), "its weight is a batch of matrices");
    assert_string_equal(gram_refusal(m, g_maker(m, c)), "its input is constant");
    assert_non_null(gram_refusal(m, g_maker(m, r)));
    assert_non_null(gram_refusal(m, NODE_NONE));
    assert_null(gram_refusal(m, g_maker(m, a)));
    assert_true(gram_bytes(m, g_maker(m, r)) == SIZE_MAX);
    assert_true(gram_bytes(m, g_maker(m, a)) >= 4 * 4 * 8);

    struct err err = {0};
    uint32_t nodes[] = {g_maker(m, y), g_maker(m, z), g_maker(m, a)};
    assert_null(gram_new(m, nodes, 2, &(struct gram_opts){0}, &err));
    assert_non_null(strstr(err.msg, "'z'"));
    nodes[1] = nodes[2];

    struct gram_matrix first, second;
    const char *why;
    struct gram *g = gram_new(m, nodes, 2, &(struct gram_opts){0}, NULL);
    gram_finish(g);
    assert_false(gram_of(g, nodes[0], &first, &why));
    assert_string_equal(why, "its input was never seen");
    gram_free(g);

    g = gram_new(m, nodes, 2, &(struct gram_opts){0}, NULL);
    g_fill(&x, SHAPE(2, 4), 1, 1);
    assert_int_equal(gram_observe(g, in, &x, NULL), 0);
    gram_finish(g);
    assert_true(gram_of(g, nodes[0], &first, NULL) && gram_of(g, nodes[1], &second, NULL));
    assert_ptr_equal(first.h, second.h); /* they read the same rows */
    gram_free(g);

    tensor_f32(&x)[3] = NAN;
    g = gram_new(m, nodes, 2, &(struct gram_opts){0}, NULL);
    assert_int_equal(gram_observe(g, in, &x, NULL), 0);
    gram_finish(g);
    assert_false(gram_of(g, nodes[0], &first, &why));
    assert_non_null(strstr(why, "not finite"));
    gram_free(g);

    g = gram_new(m, nodes, 1, &(struct gram_opts){0}, NULL);
    g_fill(&other, SHAPE(2, 5), 1, 1);
    assert_int_equal(gram_observe(g, in, &other, NULL), 0);
    gram_finish(g);
    assert_false(gram_of(g, nodes[0], &first, &why));
    assert_string_equal(why, "its input does not fit its weight");
    gram_free(g);
    tensor_fini(&x);
    tensor_fini(&other);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_operators), cmocka_unit_test(test_definition),
                                       cmocka_unit_test(test_batches_threads_passes), cmocka_unit_test(test_refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
