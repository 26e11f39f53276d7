/* SPDX-License-Identifier: Apache-2.0
 * encode.cluster: k-means on a line against all partitions tried one by one; zeros, masks, groups, notes and the Gather
 * form. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/encode/cluster.h"
#include "core/step/method.h"
#include "graphs.h"

extern const struct method method_encode_cluster;

static double cost_of(const float *v, int n, const float *c, int64_t k)
{
    double sum = 0;
    for (int i = 0; i < n; i++) {
        double best = INFINITY;
        for (int64_t j = 0; j < k; j++)
            best = fmin(best, ((double)v[i] - c[j]) * ((double)v[i] - c[j]));
        sum += best;
    }
    return sum;
}

static int ascending(const void *a, const void *b)
{
    return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

/* The least error over all ways to cut n sorted values into k runs, straight from the definition. */
static double naive(const float *v, int n, int k)
{
    if (k == 1) {
        double mean = 0, sum = 0;
        for (int i = 0; i < n; i++)
            mean += v[i] / (double)n;
        for (int i = 0; i < n; i++)
            sum += (v[i] - mean) * (v[i] - mean);
        return sum;
    }
    double best = INFINITY;
    for (int last = 1; n - last >= k - 1; last++)
        best = fmin(best, naive(v, n - last, k - 1) + naive(v + n - last, last, 1));
    return best;
}

static void test_optimal(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 3, 0);
    for (int round = 0; round < 40; round++) {
        float v[14], c[4];
        int64_t used, k = 1 + round % 4;
        for (int i = 0; i < 14; i++)
            v[i] = (float)rng_normal(&rng) + (round % 2 ? (float)rng_below(&rng, 3) * 3 : 0);
        const struct cluster_opts o = {.k = k, .init = CLUSTER_OPTIMAL, .iterations = 100};
        assert_int_equal(cluster_values(v, 14, &o, c, &used, NULL), 0);
        assert_int_equal(used, k);
        const double got = cost_of(v, 14, c, used);
        qsort(v, 14, sizeof *v, ascending);
        g_near(got, naive(v, 14, (int)k), 1e-5);
    }
}

/* Every start ends in a local optimum: no worse than 30 % above the best on normal values; the same for a seed. */
static void test_starts(void **state)
{
    (void)state;
    enum { N = 50000 };
    static float v[N];
    struct rng rng;
    rng_init(&rng, 4, 0);
    for (int i = 0; i < N; i++)
        v[i] = (float)rng_normal(&rng);
    double best = 0;
    for (int init = CLUSTER_OPTIMAL; init <= CLUSTER_RANDOM; init++) {
        float c[16], again[16];
        int64_t used, used_again;
        const struct cluster_opts o = {.k = 16, .init = (enum cluster_init)init, .iterations = 300, .seed = 5};
        assert_int_equal(cluster_values(v, N, &o, c, &used, NULL), 0);
        assert_int_equal(cluster_values(v, N, &o, again, &used_again, NULL), 0);
        assert_int_equal(used, 16);
        assert_memory_equal(c, again, sizeof c);
        const double cost = cost_of(v, N, c, used) / N;
        best = init == CLUSTER_OPTIMAL ? cost : best;
        assert_in_range((int)(1e6 * cost), (int)(0.999e6 * best), (int)(1.3e6 * best));
    }
    g_near(best, 0.009497, 0.0004); /* the Lloyd-Max quantizer of 16 levels for a normal distribution (Max 1960) */
}

static void test_few_values(void **state)
{
    (void)state;
    const float v[6] = {2, 0, 2, -1, 0, 2};
    float c[8];
    int64_t used;
    const struct cluster_opts all = {.k = 8, .iterations = 10}, kept = {.k = 8, .iterations = 10, .skip_zeros = true};
    assert_int_equal(cluster_values(v, 6, &all, c, &used, NULL), 0);
    assert_int_equal(used, 3);
    assert_true(c[0] == -1 && c[1] == 0 && c[2] == 2);
    assert_int_equal(cluster_values(v, 6, &kept, c, &used, NULL), 0);
    assert_int_equal(used, 2);
    const float zeros[3] = {0};
    assert_int_equal(cluster_values(zeros, 3, &kept, c, &used, NULL), 0);
    assert_int_equal(used, 0);
}

/* ---- the method ---- */
static struct {
    unsigned char bytes[512];
} given;

static void set_int(const char *name, int64_t v)
{
    for (const struct param *p = method_encode_cluster.params; p->name; p++)
        if (!strcmp(p->name, name)) {
            if (p->kind == PARAM_INT)
                memcpy(given.bytes + p->offset, &v, sizeof v);
            else if (p->kind == PARAM_BOOL)
                given.bytes[p->offset] = (unsigned char)v;
            else
                memcpy(given.bytes + p->offset, &(int){(int)v}, sizeof(int));
            if (p->given)
                given.bytes[p->given - 1] = 1;
            return;
        }
    fail_msg("no parameter %s", name);
}

static json_t *cluster(struct model *m)
{
    struct err err = {0};
    struct layer_report *rows = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct step_ctx c = {.model = m, .params = given.bytes, .layers = rows, .warnings = warnings};
    if (method_encode_cluster.run(&c, &err))
        fail_msg("%s", err.msg);
    json_t *json = layer_report_json(rows);
    layer_report_free(rows);
    warnings_free(warnings);
    return json;
}

static struct model *two_layers(void)
{
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 8)), w = g_random(m, "w", SHAPE(8, 64), 1, 1),
             v = g_random(m, "v", SHAPE(64, 4), 2, 1);
    uint32_t a = G_OP(m, "MatMul", "a", x, w);
    g_output(m, G_OP(m, "MatMul", "y", a, v));
    return m;
}

static void start_params(int64_t k)
{
    memset(&given, 0, sizeof given);
    assert_int_equal(params_default(method_encode_cluster.params, given.bytes, NULL), 0);
    set_int("k", k);
}

static void test_groups_masks_and_notes(void **state)
{
    (void)state;
    struct model *m = two_layers();
    const uint32_t w = g_value(m, "w");
    struct tensor mask = {0}, t = {0};
    assert_int_equal(tensor_alloc(&mask, DTYPE_BOOL, &SHAPE(8, 64), NULL), 0);
    tensor_copy(&t, value_const(m, w), NULL);
    for (int i = 0; i < 512; i++) {
        ((unsigned char *)mask.data)[i] = i % 3 == 0;
        tensor_f32(&t)[i] *= i % 3 == 0;
    }
    value_set_weight(m, w, &t);
    value_set_note(m, w, "mask", NULL, &mask);
    start_params(5);
    set_int("groups", 3); /* 2 is the largest below that divides 8 rows */
    json_decref(cluster(m));
    const struct note *book = value_note(m, w, "codebook");
    assert_non_null(book);
    assert_non_null(value_note(m, w, "mask"));
    assert_int_equal(book->tensor.shape.dim[0], 2);
    assert_int_equal(book->tensor.shape.dim[1], 6);
    const struct tensor *now = value_const(m, w);
    for (int i = 0; i < 512; i++) {
        const float *row = tensor_f32(&book->tensor) + (i / 256) * 6, v = tensor_f32(now)[i];
        bool found = false;
        for (int j = 0; j < 6; j++)
            found |= row[j] == v;
        assert_true(found);
        assert_int_equal(v == 0, i % 3 != 0);
    }
    tensor_fini(&mask);
    tensor_fini(&t);
    model_free(m);
}

static void test_shared_and_unfit_weights(void **state)
{
    (void)state;
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(4, 4)), w = g_random(m, "w", SHAPE(4, 4), 1, 1);
    const float bad[16] = {NAN};
    uint32_t n = g_const(m, "n", SHAPE(4, 4), bad), a = G_OP(m, "MatMul", "a", x, w), b = G_OP(m, "MatMul", "b", a, w);
    g_output(m, G_OP(m, "MatMul", "y", b, n));
    start_params(2);
    json_t *rows = cluster(m);
    assert_int_equal(json_array_size(rows), 3);
    assert_null(json_object_get(json_array_get(rows, 0), "skipped"));
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(rows, 1), "skipped")), "shared"));
    assert_non_null(strstr(json_string_value(json_object_get(json_array_get(rows, 2), "skipped")), "finite"));
    json_decref(rows);
    model_free(m);
}

static void test_gather(void **state)
{
    (void)state;
    struct model *m = two_layers();
    start_params(4);
    set_int("form", 1);
    json_t *rows = cluster(m);
    struct err err = {0};
    assert_int_equal(model_validate(m, &err), 0);
    assert_string_equal(json_string_value(json_object_get(json_object_get(json_array_get(rows, 0), "after"), "form")),
                        "gather");
    assert_int_equal(json_integer_value(json_object_get(json_object_get(json_array_get(rows, 0), "after"), "bytes")),
                     8 * 64 + 4 * 4);
    int gathers = 0;
    for (uint32_t id = 0; id < m->n_nodes; id++)
        gathers += m->nodes[id].op_type && node_is(&m->nodes[id], "Gather");
    assert_int_equal(gathers, 2);
    json_decref(rows);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_optimal),
                                       cmocka_unit_test(test_starts),
                                       cmocka_unit_test(test_few_values),
                                       cmocka_unit_test(test_groups_masks_and_notes),
                                       cmocka_unit_test(test_shared_and_unfit_weights),
                                       cmocka_unit_test(test_gather)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
