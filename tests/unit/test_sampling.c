/* SPDX-License-Identifier: Apache-2.0
 * An optimized plan shows watched values as a plain plan has them, whatever it fuses and blocks; sampling runs all samples
 * once in small batches; extents and histograms are the same by every path. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/kernels/bin_count.h"
#include "core/kernels/isa.h"
#include "core/stats/calibrate.h"
#include "core/stats/evaluate.h"
#include "core/stats/sampling.h"
#include "tests/unit/graphs.h"

enum { MAX_VALUES = 128, ROWS = 3 };

/* Convolutions with channels that fill blocks (16, 24) and that do not (12), a residual sum, activations written out,
 * a pool, a product with bias and activation; every kind of value that fusing takes in. */
static struct model *network(void)
{
    struct model *m = g_new(13);
    static const float half = 0.5f, one = 1, root = 1.4142135f;
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 3, 16, 16));
    uint32_t c1 = G_OP(m, "Conv", "c1", x, g_random(m, "w1", SHAPE(16, 3, 3, 3), 1, 0.3));
    uint32_t r1 = G_OP(m, "Relu", "r1", c1);
    uint32_t c2 =
        G_OP(m, "Conv", "c2", r1, g_random(m, "w2", SHAPE(12, 16, 1, 1), 2, 0.3), g_random(m, "b2", SHAPE(12), 3, 1));
    uint32_t c3 = G_OP(m, "Conv", "c3", r1, g_random(m, "w3", SHAPE(12, 16, 1, 1), 4, 0.3));
    uint32_t a = G_OP(m, "Add", "a", c2, c3);
    uint32_t r2 = G_OP(m, "Relu", "r2", a);
    uint32_t p = G_OP(m, "MaxPool", "p", r2);
    static const int64_t two[2] = {2, 2};
    node_set_ints(m, g_maker(m, p), "kernel_shape", two, 2);
    node_set_ints(m, g_maker(m, p), "strides", two, 2);
    uint32_t c4 = G_OP(m, "Conv", "c4", p, g_random(m, "w4", SHAPE(24, 12, 1, 1), 5, 0.4));
    uint32_t s = G_OP(m, "Sigmoid", "s", c4);
    uint32_t silu = G_OP(m, "Mul", "silu", c4, s);
    uint32_t k = G_OP(m, "Concat", "k", silu, c4);
    node_set_int(m, g_maker(m, k), "axis", 1);
    uint32_t g = G_OP(m, "GlobalAveragePool", "g", k);
    uint32_t f = G_OP(m, "Flatten", "f", g);
    uint32_t mm = G_OP(m, "MatMul", "mm", f, g_random(m, "w5", SHAPE(48, 20), 6, 0.3));
    uint32_t mb = G_OP(m, "Add", "mb", mm, g_random(m, "b5", SHAPE(20), 7, 1));
    uint32_t d = G_OP(m, "Div", "d", mb, g_const(m, "root", SHAPE_SCALAR, &root));
    uint32_t e = G_OP(m, "Add", "e", G_OP(m, "Erf", "erf", d), g_const(m, "one", SHAPE_SCALAR, &one));
    uint32_t gelu = G_OP(m, "Mul", "gelu", G_OP(m, "Mul", "eh", mb, e), g_const(m, "half", SHAPE_SCALAR, &half));
    g_output(m, G_OP(m, "Gemm", "y", gelu, g_random(m, "w6", SHAPE(20, 5), 8, 0.3)));
    assert_true(m->n_values < MAX_VALUES);
    return m;
}

/* ---- what an observer sees ---- */
struct seen {
    struct tensor value[MAX_VALUES];
    int times[MAX_VALUES];
};

static int keep(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct seen *s = arg;
    if (value >= MAX_VALUES)
        return 0;
    s->times[value]++;
    tensor_fini(&s->value[value]);
    return tensor_copy(&s->value[value], t, err);
}

static void forget(struct seen *s)
{
    for (int v = 0; v < MAX_VALUES; v++)
        tensor_fini(&s->value[v]);
    *s = (struct seen){0};
}

static bool look(const struct model *m, const bool *watch, bool any_order, struct pool *pool, const struct tensor *x,
                 struct seen *s)
{
    struct err err = {0};
    struct tensor y = {0};
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = pool, .optimize = watch != NULL, .watch = watch}, &err);
    const struct plan_run_opts run = {.observe = keep, .observe_arg = s, .any_order = any_order};
    if (!plan || plan_run(plan, x, &y, &run, &err))
        fail_msg("%s", err.msg);
    const bool rewritten = plan_model(plan) != m;
    tensor_fini(&y);
    plan_free(plan);
    return rewritten;
}

static int rising(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void sort_rows(struct tensor *t)
{
    const int64_t rows = t->shape.rank > 0 ? t->shape.dim[0] : 1, n = tensor_count(t) / rows;
    for (int64_t i = 0; i < rows; i++)
        qsort(tensor_f32(t) + i * n, (size_t)n, sizeof(float), rising);
}

static void check_seen(const struct model *m, const bool *watch, struct seen *plain, struct seen *got, bool any_order)
{
    for (uint32_t v = 0; v < m->n_values; v++) {
        const bool wanted = plain->times[v] && (watch[v] || value_is_graph_input(m, v));
        if (got->times[v] != wanted)
            fail_msg("'%s' was seen %d times", m->values[v].name, got->times[v]);
        if (!wanted)
            continue;
        struct tensor want = {0}, *have = &got->value[v];
        assert_int_equal(tensor_copy(&want, &plain->value[v], NULL), 0);
        assert_true(shape_equal(&want.shape, &have->shape));
        if (any_order) {
            sort_rows(&want);
            sort_rows(have);
        }
        for (int64_t i = 0; i < tensor_count(&want); i++)
            g_near(tensor_f32(have)[i], tensor_f32(&want)[i], 2e-4);
        tensor_fini(&want);
    }
}

/* Every value alone, random sets, and all; in either order. */
static void test_watched_values(void **state)
{
    (void)state;
    static struct seen plain, got;
    struct model *m = network();
    struct tensor x = {0};
    struct pool *pool = pool_new(2);
    struct rng rng;
    rng_init(&rng, 5, 0);
    g_fill(&x, SHAPE(ROWS, 3, 16, 16), 1, 1);
    look(m, NULL, false, NULL, &x, &plain);
    for (uint32_t set = 0; set < m->n_values + 40; set++) {
        bool watch[MAX_VALUES] = {false};
        for (uint32_t v = 0; v < m->n_values; v++)
            watch[v] = set < m->n_values ? v == set : set == m->n_values || rng_uniform(&rng) < 0.3;
        for (int any_order = 0; any_order < 2; any_order++) {
            assert_true(look(m, watch, any_order, set % 2 ? pool : NULL, &x, &got));
            check_seen(m, watch, &plain, &got, any_order);
            forget(&got);
        }
    }
    forget(&plain);
    tensor_fini(&x);
    pool_free(pool);
    model_free(m);
}

/* ---- sampling ---- */
struct log {
    int64_t fixed, total, done, largest;
    int starts, runs;
    double sum;
};

static int log_start(void *arg, int64_t fixed, int64_t total, struct err *err)
{
    struct log *l = arg;
    (void)err;
    l->fixed = fixed;
    l->total = total;
    l->starts++;
    return 0;
}

static int log_value(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct log *l = arg;
    (void)value, (void)err;
    l->largest = t->shape.dim[0] > l->largest ? t->shape.dim[0] : l->largest;
    for (int64_t i = 0; i < tensor_count(t); i++)
        l->sum += (double)tensor_f32(t)[i];
    return 0;
}

static int log_ran(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct log *l = arg;
    assert_true(done > l->done && total == l->total && l->starts == 1);
    l->done = done;
    return ++l->runs == 1000 ? err_set(err, ERR_CANCELED, "enough") : 0;
}

static void test_batches(void **state)
{
    (void)state;
    struct err err = {0};
    struct model *m = network();
    struct tensor x = {0};
    bool watch[MAX_VALUES] = {false};
    g_fill(&x, SHAPE(37, 3, 16, 16), 1, 1);
    struct dataset *data = g_dataset(&x, m);
    double sum = 0;
    for (int64_t i = 0; i < tensor_count(&x); i++)
        sum += (double)tensor_f32(&x)[i];
    for (int64_t batch = 0; batch < 12; batch += 5) {
        struct log l = {0};
        const struct sampling s = {.data = data,
                                   .samples = 100,
                                   .batch = batch,
                                   .watch = watch,
                                   .any_order = true,
                                   .observe = log_value,
                                   .observe_arg = &l,
                                   .start = log_start,
                                   .ran = log_ran,
                                   .arg = &l};
        const int64_t most = batch ? batch : SAMPLING_BATCH;
        assert_int_equal(sampling_run(m, &s, &err), 37);
        assert_true(l.fixed == 0 && l.total == 37 && l.done == 37 && l.largest == most);
        assert_int_equal(l.runs, (37 + most - 1) / most);
        g_near(l.sum, sum, 1e-6 * 37 * 768); /* nothing but the inputs is watched */
    }
    dataset_close(data);
    tensor_fini(&x);
    model_free(m);
}

/* Ranges and intervals of an optimized, watched run: those of the plain run within rounding, the same bits whatever the
 * thread count. */
static void test_calibration_on_optimized_plans(void **state)
{
    (void)state;
    struct err err = {0};
    struct model *m = network();
    struct tensor x = {0};
    struct pool *pool = pool_new(2);
    g_fill(&x, SHAPE(21, 3, 16, 16), 3, 1);
    struct dataset *data = g_dataset(&x, m);
    static const char *const names[] = {"x", "r1", "r2", "p", "k", "silu", "f", "gelu"};
    for (int kind = 0; kind < CALIBRATORS; kind++) {
        struct calibration *c[3];
        for (int i = 0; i < 3; i++) { /* plain; optimized on one thread, on two */
            const struct calibration_opts o = {
                .calibrator = (enum calibrator)kind, .percentile = 99, .levels = 256, .pool = i == 2 ? pool : NULL};
            c[i] = calibration_new(m->n_values, &o);
            assert_non_null(c[i]);
            for (size_t k = 0; k < sizeof names / sizeof names[0]; k++)
                calibration_want(c[i], g_value(m, names[k]));
            calibration_watch(c[i], g_value(m, "c2"));
            calibration_start(c[i], 0, 21);
            const struct sampling s = {.data = data,
                                       .pool = o.pool,
                                       .samples = 21,
                                       .batch = calibration_batch(c[i]),
                                       .observe = calibration_observe,
                                       .observe_arg = c[i],
                                       .any_order = true,
                                       .watch = i ? calibration_watched(c[i]) : NULL};
            assert_int_equal(sampling_run(m, &s, &err), 21);
            calibration_finish(c[i]);
        }
        for (uint32_t v = 0; v < m->n_values; v++) {
            const struct range *r[3] = {calibration_range(c[0], v), calibration_range(c[1], v),
                                        calibration_range(c[2], v)};
            assert_true(!r[1] == !(calibration_watched(c[1])[v] || value_is_graph_input(m, v)) && !r[1] == !r[2]);
            if (!r[1])
                continue;
            const struct clip a = calibration_clip(c[0], v), b = calibration_clip(c[1], v),
                              d = calibration_clip(c[2], v);
            assert_memory_equal(r[1], r[2], sizeof *r[1]);
            assert_memory_equal(&b, &d, sizeof b);
            assert_int_equal(r[0]->count, r[1]->count);
            g_near(r[1]->min, r[0]->min, 2e-4);
            g_near(r[1]->max, r[0]->max, 2e-4);
            if (kind <= CALIBRATE_MOVING_AVERAGE) { /* of the others a bin more or less */
                g_near(b.lo, a.lo, 2e-4);
                g_near(b.hi, a.hi, 2e-4);
            }
        }
        for (int i = 0; i < 3; i++)
            calibration_free(c[i]);
    }
    dataset_close(data);
    tensor_fini(&x);
    pool_free(pool);
    model_free(m);
}

/* ---- kernels ---- */
static void fill_hard(float *x, int n, uint64_t seed, int odd)
{
    static const float hard[] = {0, -0.0f, 1e-38f, -1e-45f, 3e38f, -3e38f, 0.5f, -1, NAN, INFINITY, -INFINITY};
    struct rng rng;
    rng_init(&rng, seed, 0);
    for (int i = 0; i < n; i++) {
        const double u = rng_uniform(&rng);
        x[i] = u < 0.3 ? 0 : u < 0.5 ? hard[(int)(u * 1e6) % (odd ? 11 : 8)] : (float)(rng_normal(&rng) * 3);
    }
}

static void test_extent_paths(void **state)
{
    (void)state;
    enum { MOST = 300000 };
    float *x = malloc(MOST * sizeof *x);
    struct pool *pool = pool_new(2);
    static const int sizes[] = {0, 1, 7, 31, 32, 33, 4095, 4096, 4097, 70001, MOST};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (int odd = 0; odd < 2; odd++) {
            const int n = sizes[i];
            struct extent want = {INFINITY, -INFINITY, 0, 0};
            fill_hard(x, n, (uint64_t)n, odd);
            for (int k = 0; k < n; k++) {
                want.nan += isnan(x[k]);
                want.inf += isinf(x[k]) != 0;
                want.min = isfinite(x[k]) ? fminf(want.min, x[k]) : want.min;
                want.max = isfinite(x[k]) ? fmaxf(want.max, x[k]) : want.max;
            }
            for (int path = 0; path < 4; path++) {
                isa_limit(path & 1 ? ISA_PORTABLE : ISA_KINDS);
                const struct extent got = extent_f32(path & 2 ? pool : NULL, x, n);
                assert_true(got.min == want.min && got.max == want.max && got.nan == want.nan && got.inf == want.inf);
                assert_true(got.min != 0 || !signbit(got.min));
            }
        }
    isa_limit(ISA_KINDS);
    pool_free(pool);
    free(x);
}

static void test_bin_count_paths(void **state)
{
    (void)state;
    float *x = malloc(BIN_MOST * sizeof *x);
    uint32_t *want = malloc(BIN_COUNT * sizeof *want), *got = malloc(BIN_COUNT * sizeof *got);
    static const int sizes[] = {0, 1, 15, 16, 17, 2048, 2049, 5000, BIN_MOST};
    static const float widths[] = {0x1p-112f, 0x1p-12f, 0x1p-8f, 1, 0x1p115f};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (size_t w = 0; w < sizeof widths / sizeof widths[0]; w++) {
            fill_hard(x, sizes[i], i * 10 + w, 0);
            memset(want, 0, BIN_COUNT * sizeof *want);
            for (int k = 0; k < sizes[i]; k++) {
                const double b = floor((double)x[k] / (double)widths[w]) + BIN_HALF;
                want[(int)fmin(fmax(b, 0), BIN_COUNT - 1)]++;
            }
            for (int path = 0; path < 2; path++) {
                isa_limit(path ? ISA_PORTABLE : ISA_KINDS);
                memset(got, 0, BIN_COUNT * sizeof *got);
                bin_count_f32(x, sizes[i], widths[w], got);
                assert_memory_equal(got, want, BIN_COUNT * sizeof *want);
            }
        }
    for (int k = 0; k < BIN_MOST; k++) /* the most that one bin can hold */
        x[k] = 1;
    memset(got, 0, BIN_COUNT * sizeof *got);
    isa_limit(ISA_KINDS);
    bin_count_f32(x, BIN_MOST, 1, got);
    bin_count_f32(x, BIN_MOST, 1, got);
    assert_int_equal(got[BIN_HALF + 1], 2 * BIN_MOST);
    free(x);
    free(want);
    free(got);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_watched_values),
        cmocka_unit_test(test_batches),
        cmocka_unit_test(test_calibration_on_optimized_plans),
        cmocka_unit_test(test_extent_paths),
        cmocka_unit_test(test_bin_count_paths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
