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

#include "core/step/method.h"

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
    int index = 1;
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
    struct step_ctx c = {.model = m, .params = g->bytes, .layers = rows};
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

/* A recurrent network's matrices are left alone, and the report says so. */
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
    in[1] = model_add_weight(m, 0, "w", &t);
    in[2] = model_add_weight(m, 0, "r", &t);
    tensor_fini(&t);
    model_add_node(m, 0, "LSTM", NULL, "lstm", in, 3, &y, 1);
    set_number(&g, "sparsity", 0.5);
    assert_int_equal(prune(m, &g, rows, &err), 0);
    assert_null(value_note(m, in[1], "mask"));
    json_t *j = layer_report_json(rows), *row = json_array_get(j, 0);
    assert_int_equal(json_array_size(j), 1);
    assert_string_equal(json_string_value(json_object_get(row, "node")), "lstm");
    assert_non_null(strstr(json_string_value(json_object_get(row, "skipped")), "Gemm and MatMul"));
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_counts), cmocka_unit_test(test_global), cmocka_unit_test(test_shared_and_skipped),
        cmocka_unit_test(test_nan),    cmocka_unit_test(test_check),  cmocka_unit_test(test_recurrent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
