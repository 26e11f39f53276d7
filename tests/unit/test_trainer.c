/* SPDX-License-Identifier: Apache-2.0
 * test_trainer.c - the training loop: against a naive twin in double, its promises (bytes, masks, best epoch, resume),
 * its errors. The samples are four noisy clusters in eight dimensions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "core/data/split.h"
#include "core/train/batchnorm_insert.h"
#include "tests/unit/graphs.h"
#include "tests/unit/samples.h"

enum { N = 200, WIDTH = 8, CLASSES = 4, HIDDEN = 12 };
static float x_all[N * WIDTH];
static int64_t y_all[N];
static float centre[CLASSES][WIDTH];

static void make_samples(void)
{
    struct rng rng;
    rng_init(&rng, 5, 0);
    for (int c = 0; c < CLASSES; c++)
        for (int k = 0; k < WIDTH; k++)
            centre[c][k] = (float)(1.5 * rng_normal(&rng));
    for (int i = 0; i < N; i++) {
        y_all[i] = (int64_t)rng_below(&rng, CLASSES);
        for (int k = 0; k < WIDTH; k++)
            x_all[i * WIDTH + k] = (float)((double)centre[y_all[i]][k] + rng_normal(&rng));
    }
}

/* ---- models ---- */
static struct model *linear(int64_t batch)
{
    struct model *m = g_new(17);
    const uint32_t x = g_input(m, "x", SHAPE(batch, WIDTH));
    const uint32_t w = g_random(m, "w", SHAPE(WIDTH, CLASSES), 1, 0.1), b = g_random(m, "b", SHAPE(CLASSES), 2, 0.1);
    g_output(m, G_OP(m, "Gemm", "y", x, w, b));
    return m;
}

/* Gemm, BatchNormalization if `norm`, Relu, Gemm, Softmax if `soft`. */
static struct model *network(bool norm, bool soft)
{
    struct model *m = g_new(17);
    const uint32_t x = g_input(m, "x", SHAPE(-1, WIDTH));
    const uint32_t w1 = g_random(m, "w1", SHAPE(WIDTH, HIDDEN), 3, 0.4), b1 = g_random(m, "b1", SHAPE(HIDDEN), 4, 0.1);
    const uint32_t w2 = g_random(m, "w2", SHAPE(HIDDEN, CLASSES), 5, 0.4);
    uint32_t h = G_OP(m, "Gemm", "h", x, w1, b1);
    if (norm) {
        float one[HIDDEN], zero[HIDDEN] = {0};
        for (int i = 0; i < HIDDEN; i++)
            one[i] = 1;
        const uint32_t s = g_const(m, "s", SHAPE(HIDDEN), one), t = g_const(m, "t", SHAPE(HIDDEN), zero),
                       mean = g_const(m, "mean", SHAPE(HIDDEN), zero), var = g_const(m, "var", SHAPE(HIDDEN), one);
        h = G_OP(m, "BatchNormalization", "n", h, s, t, mean, var);
    }
    const uint32_t r = G_OP(m, "Relu", "r", h);
    uint32_t y = G_OP(m, "MatMul", "y", r, w2);
    if (soft)
        y = G_OP(m, "Softmax", "p", y);
    g_output(m, y);
    return m;
}

static const float *weight(const struct model *m, const char *name)
{
    return tensor_f32(&m->values[g_value(m, name)].weight->tensor);
}

/* ---- running ---- */
struct host {
    int64_t stop_at; /* progress cancels after so many calls of "train"; 0: never */
    int64_t seen;
    int calls;
    double ramps[64];
    int (*nested)(struct step_ctx *c, double ramp);
    json_t *metrics;
};
struct trained {
    int rc;
    struct err err;
    json_t *layers, *warnings, *details;
};

static int on_progress(struct step_ctx *c, const char *stage, int64_t done, int64_t total, struct err *err)
{
    struct host *h = c->host;
    assert_true(done <= total);
    if (!strcmp(stage, "train") && h->stop_at && ++h->seen == h->stop_at)
        return err_set(err, ERR_CANCELED, "canceled");
    return 0;
}

static int on_nested(struct step_ctx *c, int i, double ramp, struct err *err)
{
    struct host *h = c->host;
    (void)err;
    assert_int_equal(i, 0);
    h->ramps[h->calls++] = ramp;
    return h->nested(c, ramp);
}

static void on_metric(struct step_ctx *c, const json_t *object)
{
    struct host *h = c->host;
    json_array_append_new(h->metrics, json_deep_copy(object));
}

static struct trained train(struct model *m, const char *words, struct host *h, const char *checkpoint, int threads)
{
    struct trained t = {0};
    struct faults faults = {0};
    json_t *step = recipe_step_from_words(words, &t.err), *json = json_pack("{s:[o]}", "steps", step);
    struct recipe *recipe = recipe_parse(json, "", &faults, &t.err);
    if (!recipe)
        fail_msg("%s: %s", words, t.err.msg);
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    h->metrics = json_array();
    struct step_ctx c = {.model = m,
                         .source = m,
                         .teacher = m,
                         .params = recipe->steps[0].params,
                         .layers = layers,
                         .warnings = warnings,
                         .pool = pool_new(threads),
                         .seed = 11,
                         .progress = on_progress,
                         .host = h,
                         .details = json_object(),
                         .metric = on_metric,
                         .checkpoint = checkpoint,
                         .ramp = 1};
    if (h->nested) {
        c.n_steps = 1;
        c.run_step = on_nested;
    }
    c.data = samples_open(x_all, N, WIDTH, y_all, m);
    t.rc = recipe->steps[0].method->run(&c, &t.err);
    t.layers = layer_report_json(layers);
    t.warnings = warnings_json(warnings);
    t.details = c.details;
    if (t.rc == 0 && model_validate(m, &t.err))
        fail_msg("%s: the result is not valid: %s", words, t.err.msg);
    dataset_close(c.data);
    pool_free(c.pool);
    layer_report_free(layers);
    warnings_free(warnings);
    recipe_free(recipe);
    faults_fini(&faults);
    json_decref(json);
    return t;
}

static void trained_fini(struct trained *t, struct host *h)
{
    json_decref(t->layers);
    json_decref(t->warnings);
    json_decref(t->details);
    json_decref(h->metrics);
}

/* Must succeed; the details are dropped. */
static void train_plain(struct model *m, const char *words, int threads)
{
    struct host h = {0};
    struct trained t = train(m, words, &h, NULL, threads);
    if (t.rc)
        fail_msg("%s: %s", words, t.err.msg);
    trained_fini(&t, &h);
}

static bool same_weights(const struct model *a, const struct model *b)
{
    const struct graph *g = model_main(a);
    bool same = g->n_initializers == model_main(b)->n_initializers;
    for (int i = 0; same && i < g->n_initializers; i++) {
        const struct value *v = &a->values[g->initializers[i]];
        const uint32_t other = model_find_value(b, 0, v->name);
        same = other != VALUE_NONE && tensor_equal(&v->weight->tensor, &b->values[other].weight->tensor);
    }
    return same;
}

static double accuracy(const struct model *m)
{
    struct tensor x = {0}, y = {0};
    int right = 0;
    assert_int_equal(tensor_alloc(&x, DTYPE_FLOAT, &SHAPE(N, WIDTH), NULL), 0);
    memcpy(x.data, x_all, sizeof x_all);
    g_run(m, &x, 0, &y);
    for (int i = 0; i < N; i++) {
        int best = 0;
        for (int c = 1; c < CLASSES; c++)
            if (tensor_f32(&y)[i * CLASSES + c] > tensor_f32(&y)[i * CLASSES + best])
                best = c;
        right += best == y_all[i];
    }
    tensor_fini(&x);
    tensor_fini(&y);
    return right / (double)N;
}

/* ---- a naive twin ---- */
static struct split samples_of_training(const struct model *m)
{
    struct split s;
    struct dataset *ds = samples_open(x_all, N, WIDTH, y_all, m);
    assert_int_equal(split_dataset(&s, ds, SPLIT_HELD_OUT, 11, NULL), 0);
    dataset_close(ds);
    return s;
}

/* Whole-batch gradient descent on softmax regression, with momentum, and weight decay of the weight alone. */
static void twin(double *w, double *b, int epochs, double lr, double momentum, double decay, const struct split *s)
{
    double vw[WIDTH * CLASSES] = {0}, vb[CLASSES] = {0};
    for (int e = 0; e < epochs; e++) {
        double gw[WIDTH * CLASSES] = {0}, gb[CLASSES] = {0};
        for (int64_t k = 0; k < s->n_rest; k++) {
            const float *x = x_all + s->rest[k] * WIDTH;
            double z[CLASSES], sum = 0;
            for (int c = 0; c < CLASSES; c++) {
                z[c] = b[c];
                for (int j = 0; j < WIDTH; j++)
                    z[c] += (double)x[j] * w[j * CLASSES + c];
                z[c] = exp(z[c]);
                sum += z[c];
            }
            for (int c = 0; c < CLASSES; c++) {
                const double d = (z[c] / sum - (c == y_all[s->rest[k]])) / (double)s->n_rest;
                gb[c] += d;
                for (int j = 0; j < WIDTH; j++)
                    gw[j * CLASSES + c] += d * (double)x[j];
            }
        }
        for (int i = 0; i < WIDTH * CLASSES; i++) {
            vw[i] = momentum * vw[i] + gw[i] + decay * w[i];
            w[i] -= lr * vw[i];
        }
        for (int c = 0; c < CLASSES; c++) {
            vb[c] = momentum * vb[c] + gb[c];
            b[c] -= lr * vb[c];
        }
    }
}

static void expect_twin(const struct model *m, const double *w, const double *b, double tolerance)
{
    for (int i = 0; i < WIDTH * CLASSES; i++)
        g_near((double)weight(m, "w")[i], w[i], tolerance);
    for (int c = 0; c < CLASSES; c++)
        g_near((double)weight(m, "b")[c], b[c], tolerance);
}

static void start_twin(const struct model *m, double *w, double *b)
{
    for (int i = 0; i < WIDTH * CLASSES; i++)
        w[i] = (double)weight(m, "w")[i];
    for (int c = 0; c < CLASSES; c++)
        b[c] = (double)weight(m, "b")[c];
}

static void test_twin(void **state)
{
    (void)state;
    struct model *m = linear(-1);
    struct split s = samples_of_training(m);
    double w[WIDTH * CLASSES], b[CLASSES];
    start_twin(m, w, b);
    twin(w, b, 7, 0.3, 0.9, 0.01, &s);
    train_plain(
        m, "train.finetune epochs=7 batch=1000 lr=0.3 momentum=0.9 weight_decay=0.01 schedule=constant keep=last", 2);
    expect_twin(m, w, b, 2e-6);
    model_free(m);
    split_fini(&s);
}

/* A model that takes 4 samples at a time sees the same gradient in parts, whatever their order: whole-batch updates. */
static void test_fixed_batch(void **state)
{
    (void)state;
    struct model *m = linear(4);
    struct split s = samples_of_training(m);
    assert_int_equal(s.n_rest % 4, 0);
    double w[WIDTH * CLASSES], b[CLASSES];
    start_twin(m, w, b);
    twin(w, b, 5, 0.3, 0.9, 0, &s);
    train_plain(m, "train.finetune epochs=5 batch=180 lr=0.3 weight_decay=0 schedule=constant keep=last", 1);
    expect_twin(m, w, b, 2e-6);
    model_free(m);
    split_fini(&s);
}

/* ---- promises ---- */
static void test_same_bytes(void **state)
{
    (void)state;
    static const char *const words[] = {"train.finetune epochs=3 batch=16 lr=0.05",
                                        "train.finetune epochs=8 batch=16 optimizer=adamw lr=0.02 ema=0.9 clip=0.5 "
                                        "l1=0.001 group_lasso=0.001 bn_sparsity=0.01"};
    for (size_t i = 0; i < 2; i++) {
        struct model *a = network(true, false), *b = network(true, false), *first = network(true, false);
        train_plain(a, words[i], 1);
        train_plain(b, words[i], 2);
        assert_true(same_weights(a, b));
        assert_false(same_weights(a, first));
        assert_true(accuracy(a) > 0.85);
        model_free(a);
        model_free(b);
        model_free(first);
    }
}

/* A closing Softmax is not part of the loss: the weights are those of the model without it. */
static void test_softmax(void **state)
{
    (void)state;
    struct model *a = network(false, false), *b = network(false, true);
    train_plain(a, "train.finetune epochs=3 batch=16 lr=0.05 keep=last", 1);
    train_plain(b, "train.finetune epochs=3 batch=16 lr=0.05 keep=last", 1);
    assert_true(same_weights(a, b));
    model_free(a);
    model_free(b);
}

/* One whole batch: running = 0.9 running + 0.1 batch, the variance unbiased. */
static void test_statistics(void **state)
{
    (void)state;
    struct model *m = network(true, false), *was = network(true, false);
    struct split s = samples_of_training(m);
    train_plain(m, "train.finetune epochs=1 batch=1000 lr=1e-6 keep=last batch_norm=train", 1);
    for (int h = 0; h < HIDDEN; h++) {
        double sum = 0, square = 0;
        for (int64_t k = 0; k < s.n_rest; k++) {
            double v = (double)weight(was, "b1")[h];
            for (int j = 0; j < WIDTH; j++)
                v += (double)x_all[s.rest[k] * WIDTH + j] * (double)weight(was, "w1")[j * HIDDEN + h];
            sum += v;
            square += v * v;
        }
        const double n = (double)s.n_rest, mean = sum / n, var = (square / n - mean * mean) * n / (n - 1);
        g_near((double)weight(m, "mean")[h], 0.1 * mean, 1e-5);
        g_near((double)weight(m, "var")[h], 0.9 + 0.1 * var, 1e-5);
    }
    model_free(m);
    m = network(true, false);
    train_plain(m, "train.finetune epochs=1 batch=1000 keep=last batch_norm=frozen", 1);
    for (int h = 0; h < HIDDEN; h++) {
        assert_true(weight(m, "mean")[h] >= 0 && weight(m, "mean")[h] <= 0);
        assert_true(weight(m, "var")[h] >= 1 && weight(m, "var")[h] <= 1);
    }
    model_free(m);
    model_free(was);
    split_fini(&s);
}

static void put_mask(struct model *m, const char *name, int every, bool splice)
{
    const uint32_t v = g_value(m, name);
    const struct tensor *w = &m->values[v].weight->tensor;
    struct tensor mask = {0};
    assert_int_equal(tensor_alloc(&mask, DTYPE_BOOL, &w->shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(w); i++)
        ((bool *)mask.data)[i] = i % every == 0;
    value_set_note(m, v, "mask", NULL, &mask);
    if (splice)
        value_set_note(m, v, "splice", "yes", NULL);
    tensor_fini(&mask);
}

static void test_mask(void **state)
{
    (void)state;
    for (int splice = 0; splice < 2; splice++) {
        struct model *m = network(false, false), *was = network(false, false);
        put_mask(m, "w1", 3, splice);
        train_plain(m, "train.finetune epochs=3 batch=16 lr=0.05 keep=last ema=0.5", 1);
        int moved = 0;
        for (int i = 0; i < WIDTH * HIDDEN; i++) {
            const float v = weight(m, "w1")[i];
            assert_true(i % 3 == 0 || (v >= 0 && v <= 0));
            moved += i % 3 == 0 && fabs((double)v - (double)weight(was, "w1")[i]) > 1e-4;
        }
        assert_true(moved > 10);
        model_free(m);
        model_free(was);
    }
}

static void test_frozen(void **state)
{
    (void)state;
    struct model *m = network(false, false), *was = network(false, false);
    struct host h = {0};
    struct trained t = train(m, "train.finetune epochs=2 batch=16 lr=0.05 keep=last exclude=h", &h, NULL, 1);
    assert_int_equal(t.rc, 0);
    assert_memory_equal(weight(m, "w1"), weight(was, "w1"), WIDTH * HIDDEN * sizeof(float));
    assert_memory_equal(weight(m, "b1"), weight(was, "b1"), HIDDEN * sizeof(float));
    assert_true(memcmp(weight(m, "w2"), weight(was, "w2"), HIDDEN * CLASSES * sizeof(float)) != 0);
    struct g_done done = {.layers = t.layers, .warnings = t.warnings};
    g_expect_skipped(&done, "h", "not selected");
    assert_int_equal(json_array_size(h.metrics), 2);
    assert_non_null(json_object_get(json_array_get(h.metrics, 0), "val_top1"));
    trained_fini(&t, &h);
    model_free(m);
    model_free(was);
}

/* A second output that the labels do not concern: no decay pulls at what is behind it. */
static void test_not_reached(void **state)
{
    (void)state;
    struct model *m = network(false, false);
    const uint32_t side = g_random(m, "side", SHAPE(HIDDEN, 3), 8, 0.4);
    g_output(m, G_OP(m, "MatMul", "z", g_value(m, "r"), side));
    const float was = weight(m, "side")[0];
    struct host h = {0};
    struct trained t = train(m, "train.finetune epochs=1 lr=0.1 weight_decay=1 keep=last", &h, NULL, 1);
    assert_int_equal(t.rc, 0);
    assert_memory_equal(&weight(m, "side")[0], &was, sizeof was);
    struct g_done done = {.layers = t.layers, .warnings = t.warnings};
    g_expect_skipped(&done, "z", "no gradient of the loss reaches it");
    trained_fini(&t, &h);
    model_free(m);
}

/* ---- which epoch ---- */
static json_t *training_of(const struct trained *t)
{
    return json_object_get(t->details, "training");
}

static void test_best(void **state)
{
    (void)state;
    struct model *m = network(false, false), *was;
    struct host h = {0};
    train_plain(m, "train.finetune epochs=8 batch=16 lr=0.1", 1);
    was = model_clone(m, NULL);
    /* far too high: the model as it came in stays */
    struct trained t = train(m, "train.finetune epochs=3 batch=16 lr=30 patience=2", &h, NULL, 1);
    if (t.rc == 0) {
        struct g_done done = {.layers = t.layers, .warnings = t.warnings};
        assert_int_equal(json_integer_value(json_object_get(training_of(&t), "kept_epoch")), 0);
        g_expect_warning(&done, "no epoch was better", true);
    } else {
        assert_int_equal(t.err.code, ERR_NON_FINITE);
    }
    assert_true(same_weights(m, was));
    trained_fini(&t, &h);
    model_free(m);
    model_free(was);
}

static void test_not_finite(void **state)
{
    (void)state;
    struct model *m = network(false, false), *was = network(false, false);
    struct host h = {0};
    struct trained t = train(m, "train.finetune epochs=3 batch=16 optimizer=sgd lr=100 l2=900 clip=0", &h, NULL, 1);
    assert_int_equal(t.rc, -1);
    assert_int_equal(t.err.code, ERR_NON_FINITE);
    assert_non_null(strstr(t.err.msg, "of epoch 1, at a learning rate of"));
    assert_true(same_weights(m, was));
    trained_fini(&t, &h);
    model_free(m);
    model_free(was);
}

/* ---- nested steps ---- */
/* A growing mask of w2, and hidden units cut in the middle, as pruning does it. */
static void keep_note(struct model *m, uint32_t v, const char *key, const int64_t *kept, int64_t n)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, DTYPE_INT64, &SHAPE(n), NULL), 0);
    memcpy(t.data, kept, t.bytes);
    value_set_note(m, v, key, NULL, &t);
    tensor_fini(&t);
}

static void cut_value(struct model *m, const char *name, int axis, int64_t first, const int64_t *kept)
{
    const uint32_t v = g_value(m, name);
    const struct tensor *w = &m->values[v].weight->tensor;
    struct tensor t = {0};
    struct shape shape = w->shape;
    shape.dim[axis] -= first;
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &shape, NULL), 0);
    const int64_t inner = shape_product(&w->shape, axis + 1, shape.rank), outer = shape_product(&w->shape, 0, axis);
    for (int64_t o = 0; o < outer; o++)
        memcpy(tensor_f32(&t) + o * shape.dim[axis] * inner, tensor_f32(w) + (o * w->shape.dim[axis] + first) * inner,
               (size_t)(shape.dim[axis] * inner) * sizeof(float));
    assert_int_equal(value_set_weight(m, v, &t), 0);
    tensor_fini(&t);
    keep_note(m, v, axis ? "kept.1" : "kept.0", kept, shape.dim[axis]);
}

static int prune_units(struct step_ctx *c, double ramp)
{
    struct model *m = c->model;
    const int64_t now = m->values[g_value(m, "b1")].weight->tensor.shape.dim[0];
    const int64_t first = ramp < 0.4 ? 0 : ramp < 0.8 ? now - (HIDDEN - 2) : now - (HIDDEN - 4);
    int64_t kept[HIDDEN];
    if (first > 0) {
        for (int64_t i = 0; i < HIDDEN; i++)
            kept[i] = HIDDEN - (now - first) + i;
        cut_value(m, "w1", 1, first, kept);
        cut_value(m, "b1", 0, first, kept);
        cut_value(m, "w2", 0, first, kept);
    }
    put_mask(m, "w2", ramp < 1 ? 2 : 3, true);
    return 0;
}

static void run_nested(struct model *m, struct host *h, const char *checkpoint, int rc, const char *extra)
{
    char words[300];
    snprintf(words, sizeof words, "train.finetune epochs=4 batch=16 lr=0.05 %s", extra);
    h->nested = prune_units;
    struct trained t = train(m, words, h, checkpoint, 1);
    if (t.rc != rc)
        fail_msg("%s: %d: %s", words, t.rc, t.err.msg);
    trained_fini(&t, h);
}

static void test_nested(void **state)
{
    (void)state;
    struct model *m = network(false, false);
    struct host h = {0};
    run_nested(m, &h, NULL, 0, "ema=0.8");
    assert_true(h.calls >= 4);
    for (int i = 0; i < h.calls; i++)
        g_near(h.ramps[i], (i + 1) / (double)h.calls, 1e-12);
    const struct tensor *w = &m->values[g_value(m, "w2")].weight->tensor;
    assert_int_equal(w->shape.dim[0], HIDDEN - 4);
    for (int64_t i = 0; i < tensor_count(w); i++)
        assert_true(i % 3 == 0 || (tensor_f32(w)[i] >= 0 && tensor_f32(w)[i] <= 0));
    assert_true(accuracy(m) > 0.6);
    model_free(m);
}

/* Killed in the third epoch and tried again: the bytes of a run that nobody disturbed. */
static void resume_case(bool nested, const char *extra)
{
    char folder[] = "/tmp/pared-trainer-XXXXXX", path[64], words[300];
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/state", folder);
    snprintf(words, sizeof words, "train.finetune epochs=4 batch=16 lr=0.05 %s", extra);
    struct model *whole = network(true, false), *killed = network(true, false), *again = network(true, false);
    struct host a = {0}, b = {.stop_at = 27}, c = {0};
    if (nested)
        a.nested = b.nested = c.nested = prune_units;
    if (nested) { /* the cut knows no BatchNormalization */
        model_free(whole);
        model_free(killed);
        model_free(again);
        whole = network(false, false);
        killed = network(false, false);
        again = network(false, false);
    }
    struct trained t = train(whole, words, &a, NULL, 1);
    assert_int_equal(t.rc, 0);
    const size_t epochs = json_array_size(json_object_get(training_of(&t), "epochs"));
    trained_fini(&t, &a);
    t = train(killed, words, &b, path, 1);
    assert_int_equal(t.rc, -1);
    assert_int_equal(t.err.code, ERR_CANCELED);
    trained_fini(&t, &b);
    t = train(again, words, &c, path, 2);
    if (t.rc)
        fail_msg("resume: %s", t.err.msg);
    assert_int_equal(json_array_size(c.metrics), 2); /* two epochs were left */
    assert_int_equal(json_array_size(json_object_get(training_of(&t), "epochs")), epochs);
    trained_fini(&t, &c);
    assert_true(same_weights(whole, again));
    unlink(path);
    rmdir(folder);
    model_free(whole);
    model_free(killed);
    model_free(again);
}

static void test_resume(void **state)
{
    (void)state;
    resume_case(false, "");
    resume_case(false, "optimizer=adam ema=0.9 keep=last");
    resume_case(true, "ema=0.8");
    resume_case(true, "optimizer=adamw");
}

/* ---- BatchNormalization put in ---- */
static void test_insert(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    const uint32_t x = g_input(m, "x", SHAPE(-1, WIDTH)), shape = g_ints(m, "shape", 4, (int64_t[]){-1, 2, 2, 2});
    const uint32_t img = G_OP(m, "Reshape", "img", x, shape), w = g_random(m, "w", SHAPE(6, 2, 2, 2), 3, 0.4);
    const uint32_t r = G_OP(m, "Relu", "r", G_OP(m, "Conv", "c", img, w)),
                   v = g_random(m, "v", SHAPE(6, CLASSES), 4, 0.5);
    g_output(m, G_OP(m, "MatMul", "y", G_OP(m, "Flatten", "f", r), v));
    struct model *was = model_clone(m, NULL);
    struct dataset *ds = samples_open(x_all, N, WIDTH, y_all, m);
    struct tensor in = {0};
    g_fill(&in, SHAPE(5, WIDTH), 3, 1);
    const struct batchnorm_insert_opts opts = {.data = ds};
    assert_int_equal(batchnorm_insert(m, &opts, NULL), 1);
    assert_int_equal(g_count(m, "BatchNormalization"), 1);
    assert_int_equal(model_validate(m, NULL), 0);
    assert_true(g_error(was, m, &in, 0) < 1e-5);
    assert_int_equal(batchnorm_insert_fold(m, NULL), 0);
    assert_int_equal(g_count(m, "BatchNormalization"), 0);
    assert_int_equal(model_validate(m, NULL), 0);
    assert_true(g_error(was, m, &in, 0) < 1e-5);
    dataset_close(ds);
    model_free(m);
    m = model_clone(was, NULL);
    train_plain(m, "train.finetune epochs=8 batch=16 lr=0.1 batch_norm=insert", 1);
    assert_int_equal(g_count(m, "BatchNormalization"), 0);
    assert_true(accuracy(m) > 0.8);
    tensor_fini(&in);
    model_free(m);
    model_free(was);
}

/* ---- losses ---- */
static void test_losses(void **state)
{
    (void)state;
    static const char *const losses[] = {"mse", "l1", "huber", "bce", "cross_entropy label_smoothing=0.1"};
    for (size_t i = 0; i < sizeof losses / sizeof losses[0]; i++) {
        char words[200];
        struct model *m = network(false, false);
        snprintf(words, sizeof words, "train.finetune epochs=10 batch=16 optimizer=adam lr=0.01 loss=%s", losses[i]);
        train_plain(m, words, 1);
        if (accuracy(m) < 0.8)
            fail_msg("%s: %g", words, accuracy(m));
        model_free(m);
    }
}

/* ---- errors ---- */
static void test_refused(void **state)
{
    (void)state;
    struct tensor x = {0};
    g_fill(&x, SHAPE(20, WIDTH), 1, 1);
    g_refused(network(false, false), "train.finetune", &x, "the dataset has none");
    tensor_fini(&x);
    struct host h = {0};
    struct model *m = network(false, false);
    struct trained t = train(m, "train.finetune exclude=*", &h, NULL, 1);
    assert_int_equal(t.rc, -1);
    assert_int_equal(t.err.code, ERR_MODEL);
    assert_non_null(strstr(t.err.msg, "there is nothing to train"));
    trained_fini(&t, &h);
    model_free(m);
    m = g_new(17); /* three scores, four classes */
    const uint32_t in = g_input(m, "x", SHAPE(-1, WIDTH)), w = g_random(m, "w", SHAPE(WIDTH, 3), 1, 0.1);
    g_output(m, G_OP(m, "MatMul", "y", in, w));
    t = train(m, "train.finetune", &h, NULL, 1);
    assert_int_equal(t.rc, -1);
    assert_int_equal(t.err.code, ERR_DATASET);
    trained_fini(&t, &h);
    model_free(m);
}

static void test_checks(void **state)
{
    (void)state;
    static const struct {
        const char *words, *pointer;
    } cases[] = {{"train.finetune nesterov=true optimizer=adam", "/steps/0/nesterov"},
                 {"train.finetune nesterov=true momentum=0", "/steps/0/nesterov"},
                 {"train.finetune warmup=3 epochs=3", "/steps/0/warmup"},
                 {"train.finetune loss=mse label_smoothing=0.1", "/steps/0/label_smoothing"},
                 {"train.finetune epochs=0", "/steps/0/epochs"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct err err = {0};
        struct faults faults = {0};
        json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(cases[i].words, &err));
        assert_null(recipe_parse(json, "", &faults, &err));
        assert_true(faults.count > 0);
        assert_string_equal(faults.at[0].pointer, cases[i].pointer);
        faults_fini(&faults);
        json_decref(json);
    }
}

int main(void)
{
    make_samples();
    engine_init();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twin),       cmocka_unit_test(test_fixed_batch), cmocka_unit_test(test_same_bytes),
        cmocka_unit_test(test_softmax),    cmocka_unit_test(test_statistics),  cmocka_unit_test(test_mask),
        cmocka_unit_test(test_frozen),     cmocka_unit_test(test_not_reached), cmocka_unit_test(test_best),
        cmocka_unit_test(test_not_finite), cmocka_unit_test(test_nested),      cmocka_unit_test(test_resume),
        cmocka_unit_test(test_insert),     cmocka_unit_test(test_losses),      cmocka_unit_test(test_refused),
        cmocka_unit_test(test_checks)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
