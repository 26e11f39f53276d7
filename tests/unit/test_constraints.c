/* SPDX-License-Identifier: Apache-2.0
 * test_constraints.c - masks, splicing and codebooks through updates, against what the formulas say of a few numbers.
 * */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/train/constraints.h"
#include "tests/unit/graphs.h"

struct bench {
    struct model *m;
    uint32_t w;
    struct tensor value, gradient;
    struct constraints *c;
};

static void open_bench(struct bench *b, const float *v, int64_t n)
{
    *b = (struct bench){.m = g_new(17)};
    b->w = g_const(b->m, "w", SHAPE(n), v);
    assert_int_equal(tensor_copy(&b->value, &b->m->values[b->w].weight->tensor, NULL), 0);
    assert_int_equal(tensor_alloc(&b->gradient, DTYPE_FLOAT, &SHAPE(n), NULL), 0);
}

static void note(struct bench *b, const char *key, enum dtype type, struct shape shape, const void *data)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, type, &shape, NULL), 0);
    memcpy(t.data, data, t.bytes);
    value_set_note(b->m, b->w, key, NULL, &t);
    tensor_fini(&t);
}

static void start(struct bench *b)
{
    struct err err = {0};
    b->c = constraints_new(b->m, &b->w, (struct tensor *[]){&b->value}, 1, NULL, &err);
    if (!b->c)
        fail_msg("%s", err.msg);
}

/* What an optimizer of rate 1 does. */
static void descend(struct bench *b, const float *gradient)
{
    memcpy(b->gradient.data, gradient, b->gradient.bytes);
    const struct tensor *g = constraints_gradient(b->c, 0, &b->gradient);
    struct tensor *moved = constraints_moved(b->c, 0);
    assert_true(shape_equal(&g->shape, &moved->shape));
    for (int64_t i = 0; i < tensor_count(moved); i++)
        tensor_f32(moved)[i] -= tensor_f32(g)[i];
    constraints_project(b->c, 0);
}

static void expect(const struct tensor *t, const float *want)
{
    for (int64_t i = 0; i < tensor_count(t); i++)
        g_near((double)tensor_f32(t)[i], (double)want[i], 1e-6);
}

static void close_bench(struct bench *b)
{
    constraints_free(b->c);
    tensor_fini(&b->value);
    tensor_fini(&b->gradient);
    model_free(b->m);
}

static void test_nothing(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, (float[]){1, 2}, 2);
    start(&b);
    assert_ptr_equal(constraints_moved(b.c, 0), &b.value);
    descend(&b, (float[]){0.5f, -1});
    expect(&b.value, (float[]){0.5f, 3});
    close_bench(&b);
}

static void test_mask(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, (float[]){1, 2, 3}, 3);
    note(&b, "mask", DTYPE_BOOL, SHAPE(3), (bool[]){true, false, true});
    start(&b);
    expect(&b.value, (float[]){1, 0, 3});
    descend(&b, (float[]){1, 1, 1});
    expect(&b.gradient, (float[]){1, 0, 1});
    expect(&b.value, (float[]){0, 0, 2});
    close_bench(&b);
}

static void test_splice(void **state)
{
    (void)state;
    struct bench b;
    open_bench(&b, (float[]){1, 2, 3}, 3);
    note(&b, "mask", DTYPE_BOOL, SHAPE(3), (bool[]){true, false, true});
    value_set_note(b.m, b.w, "splice", "yes", NULL);
    start(&b);
    expect(&b.value, (float[]){1, 0, 3});
    descend(&b, (float[]){1, -1, 1});
    expect(&b.value, (float[]){0, 0, 2});
    expect(constraints_moved(b.c, 0), (float[]){0, 3, 2}); /* below the mask it lives on */
    close_bench(&b);
}

/* Two groups of three; 0 is a centroid of the first and stays one; the second row has a place nobody uses. */
static void test_codebook(void **state)
{
    (void)state;
    struct bench b;
    struct err err = {0};
    open_bench(&b, (float[]){0, 5, 5, 7, 7, 7}, 6);
    note(&b, "codebook", DTYPE_FLOAT, SHAPE(2, 2), (float[]){0, 5, 7, 7});
    start(&b);
    assert_true(constraints_moved(b.c, 0) != &b.value);
    descend(&b, (float[]){9, 1, 2, 1, 1, -5});
    expect(&b.value, (float[]){0, 2, 2, 10, 10, 10});
    assert_int_equal(value_set_weight(b.m, b.w, &b.value), 0);
    assert_int_equal(constraints_finish(b.c, b.m, &err), 0);
    const struct note *n = value_note(b.m, b.w, "codebook");
    assert_non_null(n);
    expect(&n->tensor, (float[]){0, 2, 10, 10});
    close_bench(&b);
}

/* Many pieces: the sums are those of a plain loop, on any pool. */
static void test_codebook_large(void **state)
{
    (void)state;
    enum { N = 200000, K = 5 };
    float *v = malloc(N * sizeof *v), *g = malloc(N * sizeof *g), book[K];
    double sums[K] = {0};
    struct rng rng;
    rng_init(&rng, 1, 1);
    for (int k = 0; k < K; k++)
        book[k] = (float)k + 1;
    for (int i = 0; i < N; i++) {
        const int k = (int)rng_below(&rng, K);
        v[i] = book[k];
        g[i] = (float)rng_normal(&rng);
        sums[k] += (double)g[i];
    }
    float first[K];
    for (int threads = 1; threads <= 2; threads++) {
        struct bench b;
        struct pool *pool = pool_new(threads);
        open_bench(&b, v, N);
        note(&b, "codebook", DTYPE_FLOAT, SHAPE(1, K), book);
        b.c = constraints_new(b.m, &b.w, (struct tensor *[]){&b.value}, 1, pool, NULL);
        assert_non_null(b.c);
        descend(&b, g);
        const float *moved = tensor_f32(constraints_moved(b.c, 0));
        for (int k = 0; k < K; k++)
            g_near((double)moved[k], (double)book[k] - sums[k], 1e-3);
        if (threads == 1)
            memcpy(first, moved, sizeof first);
        assert_memory_equal(first, moved, sizeof first);
        close_bench(&b);
        pool_free(pool);
    }
    free(v);
    free(g);
}

static void test_wrong(void **state)
{
    (void)state;
    const struct {
        const char *key, *part;
        enum dtype type;
        struct shape shape;
        const char *data;
    } cases[] = {{"mask", "does not have the weight's shape", DTYPE_BOOL, SHAPE(2), "\1\1"},
                 {"codebook", "does not fit its 3 elements", DTYPE_FLOAT, SHAPE(2, 1), "\0\0\0\0\0\0\0"},
                 {"codebook", "none of the 1 numbers", DTYPE_FLOAT, SHAPE(1, 1), "\0\0\0\0"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct bench b;
        struct err err = {0};
        open_bench(&b, (float[]){1, 2, 3}, 3);
        note(&b, cases[i].key, cases[i].type, cases[i].shape, cases[i].data);
        assert_null(constraints_new(b.m, &b.w, (struct tensor *[]){&b.value}, 1, NULL, &err));
        assert_int_equal(err.code, ERR_MODEL);
        if (!strstr(err.msg, cases[i].part))
            fail_msg("'%s', expected '%s'", err.msg, cases[i].part);
        close_bench(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_nothing),        cmocka_unit_test(test_mask),
                                       cmocka_unit_test(test_splice),         cmocka_unit_test(test_codebook),
                                       cmocka_unit_test(test_codebook_large), cmocka_unit_test(test_wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
