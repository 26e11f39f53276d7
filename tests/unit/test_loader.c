/* SPDX-License-Identifier: Apache-2.0
 * The loader: every sample once an epoch, the same batches whatever is read ahead, stopped or started in the middle;
 * mixing as its weights say; errors of the reader reach the caller. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <string.h>

#include "core/data/loader.h"
#include "tests/unit/images.h"

enum { N = 23, K = 4, WIDE = 3 * 6 * 5 };

static struct model *model;
static struct dataset *data;

static int setup(void **state)
{
    static float x[N * K];
    static int64_t y[N];
    (void)state;
    model = g_new(17);
    const uint32_t in = g_input(model, "x", (struct shape){2, {-1, K}});
    g_output(model, g_node(model, "Relu", "y", &in, 1));
    for (int i = 0; i < N * K; i++)
        x[i] = (float)i;
    for (int i = 0; i < N; i++)
        y[i] = i;
    data = samples_open(x, N, K, y, model);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    dataset_close(data);
    model_free(model);
    return 0;
}

static struct loader *open_loader(struct loader_opts opts)
{
    struct err err = {0};
    opts.data = opts.data ? opts.data : data;
    struct loader *l = loader_new(&opts, &err);
    if (!l)
        fail_msg("%s", err.msg);
    return l;
}

/* The samples of an epoch in order, their values checked. How many. */
static int64_t collect(struct loader *l, int64_t epoch, int64_t from, int64_t *order, int64_t *sizes)
{
    const struct loader_batch *b;
    struct err err = {0};
    int64_t n = 0, batches = 0;
    int rc;
    assert_int_equal(loader_start_at(l, epoch, from, &err), 0);
    while ((rc = loader_next(l, &b, &err)) == 1) {
        assert_int_equal(b->epoch, epoch);
        assert_int_equal(b->n_in, 1);
        assert_int_equal(b->in[0].shape.dim[0], b->n);
        for (int64_t i = 0; i < b->n; i++) {
            for (int k = 0; k < K; k++)
                assert_true(tensor_f32(&b->in[0])[i * K + k] == (float)(b->index[i] * K + k));
            if (b->labels.buf)
                assert_int_equal(tensor_i64(&b->labels)[i], b->index[i]);
            order[n++] = b->index[i];
        }
        if (sizes)
            sizes[batches] = b->n;
        batches++;
    }
    assert_int_equal(rc, 0);
    assert_int_equal(batches, loader_batches(l) - from);
    assert_int_equal(loader_next(l, &b, &err), 0); /* over is over */
    return n;
}

static void test_order(void **state)
{
    (void)state;
    int64_t order[N], again[N], sizes[N];
    struct loader *l = open_loader((struct loader_opts){.batch = 5, .labels = true});
    assert_int_equal(collect(l, 0, 0, order, sizes), N);
    for (int i = 0; i < N; i++)
        assert_int_equal(order[i], i);
    assert_int_equal(sizes[4], 3);
    loader_free(l);
    l = open_loader((struct loader_opts){.batch = 5, .drop_last = true, .shuffle = true, .seed = 9});
    assert_int_equal(loader_batches(l), 4);
    assert_int_equal(collect(l, 3, 0, order, NULL), 20);
    int seen[N] = {0}, moved = 0;
    for (int i = 0; i < 20; i++) {
        assert_int_equal(seen[order[i]]++, 0);
        moved += order[i] != i;
    }
    assert_true(moved > 10);
    assert_int_equal(collect(l, 4, 0, again, NULL), 20);
    assert_memory_not_equal(order, again, 20 * sizeof *order);
    assert_int_equal(collect(l, 3, 0, again, NULL), 20); /* an epoch is the same whenever it comes */
    assert_memory_equal(order, again, 20 * sizeof *order);
    assert_int_equal(collect(l, 3, 3, again, NULL), 5); /* and from its middle on */
    assert_memory_equal(order + 15, again, 5 * sizeof *order);
    assert_int_equal(collect(l, 3, 4, again, NULL), 0);
    loader_free(l);
}

static void test_ahead_and_subset(void **state)
{
    (void)state;
    const int64_t index[] = {4, 22, 7, 7, 0, 13};
    int64_t first[N], order[N];
    for (int ahead = 0; ahead < 100; ahead += 7) {
        struct loader *l = open_loader(
            (struct loader_opts){.batch = 4, .index = index, .n = 6, .shuffle = true, .seed = 2, .ahead = ahead});
        assert_int_equal(collect(l, 1, 0, ahead ? order : first, NULL), 6);
        assert_memory_equal(ahead ? order : first, first, 6 * sizeof *first);
        loader_free(l);
    }
    int64_t sum = 0;
    for (int i = 0; i < 6; i++)
        sum += first[i];
    assert_int_equal(sum, 53);
    /* larger than all there are: one batch, also with drop_last */
    struct loader *l = open_loader((struct loader_opts){.batch = 1000, .index = index, .n = 6, .drop_last = true});
    assert_int_equal(collect(l, 0, 0, order, NULL), 6);
    assert_memory_equal(order, index, sizeof index);
    loader_free(l);
}

/* Ended early, in every state the reader may be in; the dataset is free for others then. */
static void test_stop(void **state)
{
    (void)state;
    struct err err = {0};
    const struct loader_batch *b;
    struct loader *l = open_loader((struct loader_opts){.batch = 2, .shuffle = true, .ahead = 3});
    int64_t order[N];
    for (int taken = 0; taken < 12; taken++) {
        assert_int_equal(loader_start(l, taken, &err), 0);
        for (int i = 0; i < taken; i++)
            assert_int_equal(loader_next(l, &b, &err), 1);
        loader_stop(l);
        assert_int_equal(loader_next(l, &b, &err), 0);
        struct tensor in[1], labels;
        assert_int_equal(dataset_read_range(data, 0, 2, in, &labels, &err), 0);
        tensor_fini(&in[0]);
        tensor_fini(&labels);
    }
    assert_int_equal(loader_start(l, 1, &err), 0);
    assert_int_equal(collect(l, 2, 0, order, NULL), N); /* started anew without being stopped */
    assert_int_equal(loader_start(l, 1, &err), 0);
    loader_free(l); /* while it reads */
}

static void test_refusals(void **state)
{
    (void)state;
    static const int64_t outside[] = {0, N};
    static const struct augment flip = {.flip = true, .any = true};
    static const struct {
        struct loader_opts opts;
        const char *words;
    } table[] = {
        {{.batch = 0}, "a batch of 0 samples"},
        {{.batch = 4, .n = N + 1}, "24 samples to train on; the dataset has 23"},
        {{.batch = 4, .index = outside, .n = 2}, "sample 23 of 23"},
        {{.batch = 4, .index = outside, .n = 0}, "0 samples"},
        {{.batch = 4, .augment = &flip}, "augment: a sample is no image"},
    };
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        struct err err = {0};
        struct loader_opts opts = table[i].opts;
        opts.data = data;
        opts.model = model;
        assert_null(loader_new(&opts, &err));
        if (!strstr(err.msg, table[i].words))
            fail_msg("row %zu: %s", i, err.msg);
    }
}

/* NaN in a sample is found by the reader, a batch or two ahead; the batches before it come first. */
static void test_reader_fails(void **state)
{
    (void)state;
    float x[N * K] = {0};
    struct err err = {0};
    const struct loader_batch *b;
    x[17 * K + 1] = NAN;
    struct dataset *ds = samples_open(x, N, K, NULL, model);
    struct loader *l = open_loader((struct loader_opts){.data = ds, .batch = 4});
    for (int turn = 0; turn < 2; turn++) {
        err = (struct err){0};
        assert_int_equal(loader_start(l, 0, &err), 0);
        for (int i = 0; i < 4; i++)
            assert_int_equal(loader_next(l, &b, &err), 1);
        assert_int_equal(loader_next(l, &b, &err), -1);
        assert_int_equal(err.code, ERR_DATASET);
        assert_non_null(strstr(err.msg, "sample 17 of array 'x': value 1 is NaN"));
        assert_null(b);
    }
    loader_free(l);
    dataset_close(ds);
}

/* Images: augmented as augment_apply does it sample by sample; mixed as weight and pair say. */
static void test_augmented(void **state)
{
    (void)state;
    const struct augment plain = {.flip = true, .crop_pad = 2, .any = true};
    struct augment mixed = plain;
    struct err err = {0};
    struct dataset *ds = images_open(N, 6, 5, 3, "", &err);
    struct model *m = images_model((struct shape){4, {-1, 3, 6, 5}});
    struct augment_image im;
    float want[N][WIDE], scratch[WIDE];
    double sum = 0;
    assert_non_null(ds);
    assert_int_equal(dataset_bind(ds, m, &err), 0);
    assert_int_equal(augment_image_of(&im, ds, m, &err), 0);
    for (int i = 0; i < N; i++) {
        struct tensor in;
        assert_int_equal(dataset_read_range(ds, i, 1, &in, NULL, &err), 0);
        memcpy(want[i], in.data, sizeof want[i]);
        augment_apply(&plain, &im, 8, 1, i, want[i], scratch);
        tensor_fini(&in);
    }
    mixed.mixup = 0.3;
    for (int turn = 0; turn < 2; turn++) {
        const struct loader_batch *b;
        struct loader *l = open_loader((struct loader_opts){
            .data = ds, .model = m, .batch = 6, .shuffle = true, .seed = 8, .augment = turn ? &mixed : &plain});
        assert_int_equal(loader_start(l, 1, &err), 0);
        while (loader_next(l, &b, &err) == 1) {
            assert_true(b->augmented && !b->weight == !turn && !b->pair == !turn);
            for (int i = 0; i < b->n; i++) {
                const float w = turn ? b->weight[i] : 1;
                const int64_t j = turn ? b->index[b->pair[i]] : 0;
                assert_true(w >= 0 && w <= 1);
                sum += turn ? (double)w : 0;
                for (int k = 0; k < WIDE; k++)
                    assert_true(tensor_f32(&b->in[0])[i * WIDE + k] == w * want[b->index[i]][k] + (1 - w) * want[j][k]);
            }
        }
        loader_free(l);
    }
    assert_true(sum > 0.25 * N && sum < 0.75 * N); /* Beta(a, a) has the mean 1/2 */
    dataset_close(ds);
    model_free(m);
}

/* Weights of mixup are from Beta(a, a): mean 1/2, variance 1 / (4 (2 a + 1)). */
static void test_beta(void **state)
{
    (void)state;
    static const double shapes[] = {0.05, 0.2, 1, 4};
    struct err err = {0};
    struct dataset *ds = images_open(50, 6, 5, 3, "", &err);
    struct model *m = images_model((struct shape){4, {-1, 3, 6, 5}});
    assert_int_equal(dataset_bind(ds, m, &err), 0);
    for (int s = 0; s < 4; s++) {
        const struct augment a = {.mixup = shapes[s], .any = true};
        const struct loader_batch *b;
        struct loader *l = open_loader((struct loader_opts){.data = ds, .model = m, .batch = 25, .augment = &a});
        double n = 0, mean = 0, square = 0;
        for (int64_t epoch = 0; epoch < 80; epoch++) {
            assert_int_equal(loader_start(l, epoch, &err), 0);
            while (loader_next(l, &b, &err) == 1)
                for (int i = 0; i < b->n; i++) {
                    const double w = (double)b->weight[i];
                    n += 1;
                    mean += w;
                    square += (w - 0.5) * (w - 0.5);
                }
        }
        assert_true(fabs(mean / n - 0.5) < 0.04);
        if (fabs(square / n * 4 * (2 * shapes[s] + 1) - 1) > 0.1)
            fail_msg("Beta(%g): variance %g", shapes[s], square / n);
        loader_free(l);
    }
    dataset_close(ds);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_order),        cmocka_unit_test(test_ahead_and_subset),
                                       cmocka_unit_test(test_stop),         cmocka_unit_test(test_refusals),
                                       cmocka_unit_test(test_reader_fails), cmocka_unit_test(test_augmented),
                                       cmocka_unit_test(test_beta)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
