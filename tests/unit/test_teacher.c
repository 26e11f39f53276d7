/* SPDX-License-Identifier: Apache-2.0
 * What a teacher says is what its model gives, whether it is run or remembered, whatever the batch. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/train/teacher.h"
#include "tests/unit/graphs.h"

enum { N = 11 };

/* x [batch, 2, 6, 6] -> conv "map" -> relu -> pool -> scores */
static struct model *network(int64_t batch, int64_t width)
{
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(batch, 2, 6, 6));
    uint32_t v = G_OP(m, "Conv", "map", x, g_random(m, "w1", SHAPE(width, 2, 3, 3), 1, 0.3));
    v = G_OP(m, "Relu", "relu", v);
    v = G_OP(m, "GlobalAveragePool", "gap", v);
    v = G_OP(m, "Flatten", "flat", v);
    v = G_OP(m, "MatMul", "scores", v, g_random(m, "w2", SHAPE(width, 5), 2, 1));
    g_output(m, G_OP(m, "Softmax", "y", v));
    return m;
}

/* n samples of x from `first` on, in the order of `index`. */
static void take(struct tensor *to, const struct tensor *x, const int *index, int n)
{
    const size_t row = x->bytes / (size_t)x->shape.dim[0];
    struct shape shape = x->shape;
    shape.dim[0] = n;
    assert_int_equal(tensor_alloc(to, x->dtype, &shape, NULL), 0);
    for (int i = 0; i < n; i++)
        memcpy((char *)to->data + (size_t)i * row, (char *)x->data + (size_t)index[i] * row, row);
}

static struct teacher *open_teacher(struct model *m, struct model *student, const struct tensor *x, bool keep,
                                    int64_t samples, struct err *err)
{
    const struct teacher_want want[] = {{g_value(m, "scores"), TEACHER_VALUE, 0},
                                        {g_value(m, "map"), TEACHER_ATTENTION, 1},
                                        {g_value(m, "map"), TEACHER_VALUE, 0}};
    return teacher_new(&(struct teacher_opts){.model = m,
                                              .student = student,
                                              .want = want,
                                              .n_want = 3,
                                              .in = x,
                                              .n_in = 1,
                                              .samples = samples,
                                              .keep = keep},
                       err);
}

/* The scores that the model gives for every sample, run one by one. */
static void expected(struct model *m, const struct tensor *x, float *scores, float *maps)
{
    struct err err = {0};
    struct model *c = model_clone(m, &err);
    const uint32_t out[] = {g_value(c, "scores"), g_value(c, "map")};
    c->graphs[0].n_outputs = 0;
    g_output(c, out[0]);
    g_output(c, out[1]);
    for (int i = 0; i < N; i++) {
        struct tensor one = {0}, s = {0}, f = {0};
        const int64_t batch = model_main(m)->inputs[0].type.shape.dim[0];
        const int index[] = {i, i, i, i};
        take(&one, x, index, batch > 0 ? (int)batch : 1);
        g_run(c, &one, 0, &s);
        g_run(c, &one, 1, &f);
        memcpy(scores + i * 5, s.data, 5 * sizeof *scores);
        double length = 0;
        for (int p = 0; p < 16; p++) {
            double sum = 0;
            for (int k = 0; k < f.shape.dim[1]; k++)
                sum += pow((double)tensor_f32(&f)[k * 16 + p], 2);
            maps[i * 16 + p] = (float)sum;
            length += sum * sum;
        }
        for (int p = 0; p < 16; p++)
            maps[i * 16 + p] = (float)((double)maps[i * 16 + p] / sqrt(length));
        tensor_fini(&one);
        tensor_fini(&s);
        tensor_fini(&f);
    }
    model_free(c);
}

static void ask(struct teacher *t, const struct tensor *x, const int *index, int n, bool augmented)
{
    struct err err = {0};
    struct tensor in = {0};
    take(&in, x, index, n);
    const struct loader_batch batch = {.in = &in, .n_in = 1, .n = n, .augmented = augmented};
    if (teacher_ask(t, &batch, &err))
        fail_msg("%s", err.msg);
    tensor_fini(&in);
}

static void check(struct teacher *t, const int *index, int n, const float *scores, const float *maps, double within)
{
    const struct tensor *s = teacher_said(t, 0), *q = teacher_said(t, 1);
    assert_int_equal(s->shape.dim[0], n);
    assert_int_equal(tensor_count(q), n * 16);
    for (int i = 0; i < n; i++) {
        for (int k = 0; k < 5; k++)
            g_near((double)tensor_f32(s)[i * 5 + k], (double)scores[index[i] * 5 + k], within);
        for (int k = 0; k < 16; k++)
            g_near((double)tensor_f32(q)[i * 16 + k], (double)maps[index[i] * 16 + k], within);
    }
}

static int64_t reported(struct teacher *t, const char *key)
{
    json_t *r = teacher_report(t);
    const int64_t n = json_integer_value(json_object_get(r, key));
    json_decref(r);
    return n;
}

static void test_says(void **state)
{
    static const struct {
        int64_t batch, width, samples;
        bool keep;
        double within;
        const char *kept;
    } cases[] = {
        {DIM_UNKNOWN, 3, 100, true, 1e-5, "float32"},
        {DIM_UNKNOWN, 3, 100, false, 1e-5, NULL},
        {1, 3, 100, true, 1e-5, "float32"},
        {4, 3, 100, true, 1e-5, "float32"},
        {DIM_UNKNOWN, 64, 300000, true, 4e-3, "float16"}, /* more than 1 GiB of floats */
        {DIM_UNKNOWN, 64, 10000000, true, 1e-5, NULL},    /* too much */
        {DIM_UNKNOWN, 3, 4, true, 1e-5, "float32"},       /* more come than were announced */
    };
    static const int first[] = {0, 1, 2, 3, 4}, second[] = {8, 3, 0, 9, 4, 7, 1},
                     all[] = {10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0};
    float *scores = calloc(N * 5, sizeof *scores), *maps = calloc(N * 16, sizeof *maps);
    struct tensor x = {0};
    (void)state;
    g_fill(&x, SHAPE(N, 2, 6, 6), 4, 1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err err = {0};
        struct model *m = network(cases[i].batch, cases[i].width);
        struct teacher *t = open_teacher(m, m, &x, cases[i].keep, cases[i].samples, &err);
        if (!t)
            fail_msg("%zu: %s", i, err.msg);
        expected(m, &x, scores, maps);
        ask(t, &x, first, 5, false);
        check(t, first, 5, scores, maps, cases[i].within);
        const int64_t ran = reported(t, "runs");
        ask(t, &x, second, 7, false);
        check(t, second, 7, scores, maps, cases[i].within);
        ask(t, &x, all, N, false);
        check(t, all, N, scores, maps, cases[i].within);
        json_t *r = teacher_report(t);
        const char *kept = json_string_value(json_object_get(r, "kept"));
        assert_int_equal(ran, 5);
        if (cases[i].kept)
            assert_string_equal(kept, cases[i].kept);
        else
            assert_null(kept);
        json_decref(r);
        if (cases[i].kept && cases[i].samples > N) {
            assert_int_equal(reported(t, "samples"), N);
            assert_int_equal(reported(t, "runs"), N);
            assert_int_equal(reported(t, "reused"), 5 + 7 + N - N);
        } else if (!cases[i].kept) {
            assert_int_equal(reported(t, "runs"), 5 + 7 + N);
        } else {
            assert_int_equal(reported(t, "samples"), 4);
        }
        ask(t, &x, first, 5, true); /* augmented: asked anew, not remembered */
        check(t, first, 5, scores, maps, 1e-5);
        teacher_free(t);
        model_free(m);
    }
    tensor_fini(&x);
    free(scores);
    free(maps);
}

/* What is kept of a sample has the same bits whatever was asked before. */
static void test_same_bits(void **state)
{
    static const int order[] = {10, 0, 5, 1, 7, 2, 3, 9, 4, 6, 8}, few[] = {7, 1, 10};
    struct err err = {0};
    struct model *m = network(DIM_UNKNOWN, 24);
    struct tensor x = {0};
    (void)state;
    g_fill(&x, SHAPE(N, 2, 6, 6), 5, 1);
    for (int64_t batch = 1; batch < 40; batch += 3) {
        const struct teacher_want want = {g_value(m, "scores"), TEACHER_VALUE, 0};
        const struct teacher_opts opts = {.model = m,
                                          .student = m,
                                          .want = &want,
                                          .n_want = 1,
                                          .in = &x,
                                          .n_in = 1,
                                          .batch = batch,
                                          .samples = N,
                                          .keep = true};
        struct teacher *a = teacher_new(&opts, &err), *b = teacher_new(&opts, &err);
        struct tensor first = {0};
        assert_true(a && b);
        ask(a, &x, order, N, false);
        assert_int_equal(tensor_copy(&first, teacher_said(a, 0), NULL), 0);
        ask(b, &x, few, 3, false);
        ask(b, &x, order, N, false);
        assert_memory_equal(first.data, teacher_said(b, 0)->data, N * 5 * sizeof(float));
        ask(a, &x, order, N, false);
        assert_memory_equal(first.data, teacher_said(a, 0)->data, N * 5 * sizeof(float));
        tensor_fini(&first);
        teacher_free(a);
        teacher_free(b);
    }
    tensor_fini(&x);
    model_free(m);
}

static void test_refused(void **state)
{
    struct model *m = network(DIM_UNKNOWN, 3), *two = network(DIM_UNKNOWN, 3), *other = g_new(13);
    struct tensor x = {0}, wide = {0};
    struct err err = {0};
    (void)state;
    g_fill(&x, SHAPE(N, 2, 6, 6), 6, 1);
    g_input(two, "more", SHAPE(DIM_UNKNOWN, 1));
    assert_null(open_teacher(m, two, &x, true, N, &err));
    assert_non_null(strstr(err.msg, "the teacher has 1 inputs and the model 2"));
    const uint32_t v = G_OP(other, "Conv", "map", g_input(other, "x", SHAPE(DIM_UNKNOWN, 2, 7, 7)),
                            g_random(other, "w", SHAPE(3, 2, 1, 1), 1, 1));
    g_output(other, G_OP(other, "Relu", "scores", v));
    err = (struct err){0};
    assert_null(open_teacher(other, m, &x, true, N, &err));
    assert_int_equal(err.code, ERR_SHAPE);
    assert_non_null(strstr(err.msg, "input 'x' is [?,2,7,7], but the model's 'x' takes [11,2,6,6]"));
    err = (struct err){0};
    struct teacher *t = open_teacher(m, m, &x, true, N, &err);
    tensor_f32(&x)[0] = INFINITY;
    const struct loader_batch batch = {.in = &x, .n_in = 1, .n = N};
    assert_int_equal(teacher_ask(t, &batch, &err), -1);
    assert_int_equal(err.code, ERR_NON_FINITE);
    assert_non_null(strstr(err.msg, "'scores'"));
    teacher_free(t);
    tensor_fini(&x);
    tensor_fini(&wide);
    model_free(m);
    model_free(two);
    model_free(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_says),
        cmocka_unit_test(test_same_bits),
        cmocka_unit_test(test_refused),
    };
    engine_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
