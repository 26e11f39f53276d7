/* SPDX-License-Identifier: Apache-2.0
 * train.qat: the twin that is trained computes what the quantized model computes, before and after its numbers changed;
 * codes and scales are those of the formulas; shared scales, masks and pairs of weights stay what they were; the whole
 * step brings a coarse model nearer to its teacher; models it cannot train are refused with the remedy. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */

#include "core/train/qat_model.h"
#include "tests/unit/graphs.h"

static const struct globs all;

/* x[N,2,8,8] -> Conv c1 -> Relu -> MaxPool p -> Conv c2 (two groups) -> + p's Conv c3 -> Relu -> average -> Gemm fc */
static struct model *network(void)
{
    struct model *m = g_new(21);
    m->ir_version = 10;
    uint32_t x = g_input(m, "x", SHAPE(DIM_SYMBOL(model_symbol(m, "N")), 2, 8, 8));
    uint32_t c1 =
        G_OP(m, "Conv", "c1", x, g_random(m, "w1", SHAPE(8, 2, 3, 3), 1, 0.3), g_random(m, "b1", SHAPE(8), 2, 0.2));
    uint32_t p = G_OP(m, "MaxPool", "p", G_OP(m, "Relu", "r", c1));
    node_set_ints(m, g_maker(m, p), "kernel_shape", (int64_t[]){2, 2}, 2);
    uint32_t c2 =
        G_OP(m, "Conv", "c2", p, g_random(m, "w2", SHAPE(6, 4, 1, 1), 3, 0.5), g_random(m, "b2", SHAPE(6), 7, 0.2));
    node_set_int(m, g_maker(m, c2), "group", 2);
    uint32_t c3 = G_OP(m, "Conv", "c3", p, g_random(m, "w3", SHAPE(6, 8, 1, 1), 4, 0.4));
    uint32_t a = G_OP(m, "Relu", "r2", G_OP(m, "Add", "a", c2, c3));
    uint32_t f = G_OP(m, "Flatten", "f", G_OP(m, "GlobalAveragePool", "g", a));
    g_output(m, G_OP(m, "Gemm", "fc", f, g_random(m, "w4", SHAPE(6, 5), 5, 0.8), g_random(m, "b4", SHAPE(5), 6, 0.5)));
    return m;
}

static const char *const settings[] = {
    "quantize.static",
    "quantize.static isa=vnni calibrator=minmax",
    "quantize.static weights=int4",
    "quantize.static weights=uint4 activations=int8",
    "quantize.static weights=uint8 per_channel=false",
    "quantize.static weights=int8 per_channel=false symmetric_weights=false",
    "quantize.static activations=uint16",
    "quantize.static weights=int16 activations=int16",
    "quantize.static activations=int8 symmetric=true",
    "quantize.weights form=dequantize bits=4 block=16",
    "quantize.weights form=dequantize bits=8",
};
enum { N_SETTINGS = sizeof settings / sizeof *settings };

static struct model *quantized(const char *words, struct tensor *x)
{
    struct model *m = network();
    g_fill(x, SHAPE(16, 2, 8, 8), 9, 1);
    struct g_done done = g_apply(m, words, x);
    if (done.rc)
        fail_msg("%s: %s", words, done.err.msg);
    g_done(&done);
    return m;
}

static void make(struct qat_model *q, struct model *m, bool learn)
{
    struct err err = {0};
    if (qat_model_make(q, m, learn, &all, &all, &err))
        fail_msg("%s", err.msg);
}

static void store(struct qat_model *q)
{
    struct err err = {0};
    struct layer_report *rows = layer_report_new();
    struct warnings *warnings = warnings_new();
    if (qat_store(q, rows, warnings, &err) || model_validate(q->m, &err))
        fail_msg("%s", err.msg);
    json_t *w = warnings_json(warnings);
    assert_int_equal(json_array_size(w), 0);
    json_decref(w);
    layer_report_free(rows);
    warnings_free(warnings);
}

static void test_twin_starts_as_the_model(void **state)
{
    (void)state;
    for (int i = 0; i < N_SETTINGS; i++) {
        struct tensor x = {0};
        struct model *m = quantized(settings[i], &x), *was = model_clone(m, NULL);
        struct qat_model q;
        make(&q, m, true);
        assert_true(q.n_weights >= 3);
        const double e = g_error(m, q.twin, &x, 0);
        if (e > 2e-6)
            fail_msg("%s: twin and model differ by %g", settings[i], e);
        store(&q); /* nothing was trained: the same numbers */
        for (uint32_t v = 0; v < was->n_values; v++)
            if (was->values[v].name && was->values[v].weight && dtype_is_integer(was->values[v].weight->tensor.dtype) &&
                !tensor_equal(&was->values[v].weight->tensor, &m->values[v].weight->tensor))
                fail_msg("%s: '%s' changed", settings[i], was->values[v].name);
        g_near(g_error(was, m, &x, 0), 0, 1e-6);
        qat_model_free(&q);
        model_free(m);
        model_free(was);
        tensor_fini(&x);
    }
}

/* Other numbers in all that is trained. */
static void disturb(struct qat_model *q, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 0);
    for (int i = 0; i < q->n_groups; i++) {
        struct tensor *t = q->group[i].ratio == VALUE_NONE ? NULL : &q->twin->values[q->group[i].ratio].weight->tensor;
        for (int64_t k = 0; t && k < tensor_count(t); k++)
            tensor_f32(t)[k] = (float)(0.7 + 0.6 * rng_uniform(&rng));
    }
    for (int i = 0; i < q->n_weights; i++) {
        struct tensor *t = &q->twin->values[q->weight[i].latent].weight->tensor;
        for (int64_t k = 0; k < tensor_count(t); k++)
            tensor_f32(t)[k] += (float)(0.1 * rng_normal(&rng));
    }
    for (int i = 0; i < q->n_biases; i++) {
        struct tensor *t = &q->twin->values[q->bias[i].latent].weight->tensor;
        for (int64_t k = 0; k < tensor_count(t); k++)
            tensor_f32(t)[k] += (float)(0.1 * rng_normal(&rng));
    }
}

/* Share of outputs that are not equal within 1e-4 of the largest; the worst in *worst. Ties may turn. */
static double far_off(const struct model *a, const struct model *b, const struct tensor *x, double *worst)
{
    struct tensor p = {0}, q = {0};
    double largest = 0;
    int64_t off = 0;
    g_run(a, x, 0, &p);
    g_run(b, x, 0, &q);
    for (int64_t i = 0; i < tensor_count(&p); i++)
        largest = fmax(largest, fabs((double)tensor_f32(&p)[i]));
    *worst = 0;
    for (int64_t i = 0; i < tensor_count(&p); i++) {
        const double d = fabs((double)tensor_f32(&p)[i] - (double)tensor_f32(&q)[i]) / largest;
        off += d > 1e-4;
        *worst = fmax(*worst, d);
    }
    const double share = (double)off / (double)tensor_count(&p);
    tensor_fini(&p);
    tensor_fini(&q);
    return share;
}

/* Biases of the twin become those stored: they are rounded to their steps only then. */
static void take_biases(struct qat_model *q)
{
    for (int i = 0; i < q->n_biases; i++) {
        const struct tensor *codes = &q->m->values[q->bias[i].codes].weight->tensor,
                            *scale = value_const(q->m, q->m->nodes[q->bias[i].dequantize].input[1]);
        float *b = tensor_f32(&q->twin->values[q->bias[i].latent].weight->tensor);
        for (int64_t k = 0; k < tensor_count(codes); k++) {
            const float step = tensor_f32(scale)[tensor_count(scale) == 1 ? 0 : k],
                        stored = (float)((const int32_t *)codes->data)[k] * step;
            g_near((double)stored, (double)b[k], 0.5001 * (double)step + 1e-6 * fabs((double)stored));
            b[k] = stored;
        }
    }
}

static void test_stored_is_what_was_trained(void **state)
{
    (void)state;
    for (int i = 0; i < N_SETTINGS; i++) {
        struct tensor x = {0};
        struct model *m = quantized(settings[i], &x), *was = model_clone(m, NULL);
        struct qat_model q;
        double worst;
        make(&q, m, true);
        disturb(&q, 3 + (uint64_t)i);
        for (int k = 0; k < q.n_weights; k++) /* the trainer holds this true */
            if (q.weight[k].pairs) {
                float scale[64];
                for (int64_t s = 0; s < q.group[q.weight[k].group].count; s++)
                    scale[s] = qat_scale(&q, q.weight[k].group, s);
                qat_pairs_keep(&q.twin->values[q.weight[k].latent].weight->tensor, q.weight[k].out_axis, scale,
                               q.group[q.weight[k].group].count);
            }
        store(&q);
        g_near(far_off(was, m, &x, &worst), 1, 0.2); /* it is another model now */
        take_biases(&q);
        const double share = far_off(q.twin, m, &x, &worst);
        if (share > 0.05 || worst > 0.01)
            fail_msg("%s: %g of the outputs differ, by up to %g", settings[i], share, worst);
        qat_model_free(&q);
        model_free(m);
        model_free(was);
        tensor_fini(&x);
    }
}

/* code = clamp(round(w / s) + z); bias step = input scale times weight scale. */
static void test_stored_numbers_follow_the_formulas(void **state)
{
    (void)state;
    struct tensor x = {0};
    struct model *m = quantized("quantize.static weights=int4", &x);
    struct qat_model q;
    make(&q, m, true);
    disturb(&q, 77);
    store(&q);
    for (int i = 0; i < q.n_weights; i++) {
        const struct qat_weight *w = &q.weight[i];
        const struct tensor *codes = &m->values[w->codes].weight->tensor,
                            *latent = &q.twin->values[w->latent].weight->tensor,
                            *scale = value_const(m, m->nodes[w->dequantize].input[1]);
        const int64_t inner = tensor_count(codes) / codes->shape.dim[0];
        for (int64_t k = 0; w->axis == 0 && k < tensor_count(codes); k++) {
            const double code = nearbyint((double)(tensor_f32(latent)[k] / tensor_f32(scale)[k / inner]));
            g_near(dtype_get(codes->dtype, codes->data, k), fmin(fmax(code, -8), 7), 0);
        }
        assert_non_null(value_note(m, w->codes, "latent"));
        assert_true(tensor_equal(&value_note(m, w->codes, "latent")->tensor, latent));
    }
    const struct node *c1 = g_made(m, "r"); /* the Relu was absorbed */
    const struct tensor *s_x = value_const(m, g_source(m, c1, 0)->input[1]),
                        *s_w = value_const(m, g_source(m, c1, 1)->input[1]),
                        *s_b = value_const(m, g_source(m, c1, 2)->input[1]);
    for (int k = 0; k < 8; k++)
        g_near((double)tensor_f32(s_b)[k], (double)tensor_f32(s_x)[0] * (double)tensor_f32(s_w)[k],
               1e-7 * (double)tensor_f32(s_b)[k]);
    qat_model_free(&q);
    model_free(m);
    tensor_fini(&x);
}

/* MaxPool's output has its input's scale: so it stays, in one initializer. */
static void test_shared_scales_stay_shared(void **state)
{
    (void)state;
    struct tensor x = {0};
    struct model *m = quantized("quantize.static", &x);
    struct qat_model q;
    const struct node *before = g_source(m, g_made(m, "p"), 0), *after = g_source(m, g_made(m, "c2"), 0);
    const uint32_t d1 = (uint32_t)(before - m->nodes), d2 = (uint32_t)(after - m->nodes);
    assert_int_equal(m->nodes[d1].input[1], m->nodes[d2].input[1]);
    make(&q, m, true);
    disturb(&q, 5);
    store(&q);
    assert_int_equal(m->nodes[d1].input[1], m->nodes[d2].input[1]);
    qat_model_free(&q);
    model_free(m);
    tensor_fini(&x);
}

/* No pair of a portable model overflows afterwards, whatever training did; a vnni one was never held to that. */
static void test_pairs_stay_exact(void **state)
{
    (void)state;
    for (int vnni = 0; vnni < 2; vnni++) {
        struct tensor x = {0};
        struct model *m = quantized(vnni ? "quantize.static isa=vnni" : "quantize.static", &x);
        struct qat_model q;
        bool hold = true;
        make(&q, m, true);
        disturb(&q, 11);
        for (int i = 0; i < q.n_weights; i++) {
            struct tensor *t = &q.twin->values[q.weight[i].latent].weight->tensor;
            for (int64_t k = 0; k < tensor_count(t); k++)
                tensor_f32(t)[k] *= 3;
        }
        store(&q);
        for (int i = 0; i < q.n_weights; i++) {
            const struct tensor *codes = &m->values[q.weight[i].codes].weight->tensor;
            const int inner = (int)(tensor_count(codes) / codes->shape.dim[0]);
            for (int o = 0; codes->shape.rank == 4 && o < codes->shape.dim[0]; o++)
                for (int k = 0; codes->shape.dim[2] == 1 && k + 1 < inner; k += 2) {
                    const int a = ((const int8_t *)codes->data)[o * inner + k],
                              b = ((const int8_t *)codes->data)[o * inner + k + 1];
                    hold = hold && abs(255 * (a * b > 0 ? a + b : 0)) <= 32767;
                }
        }
        assert_int_equal(hold, !vnni);
        qat_model_free(&q);
        model_free(m);
        tensor_fini(&x);
    }
}

static void test_masks_come_along(void **state)
{
    (void)state;
    struct tensor x = {0};
    struct model *m = network();
    g_fill(&x, SHAPE(16, 2, 8, 8), 9, 1);
    struct g_done done = g_apply(m, "prune.weights sparsity=0.5", &x);
    g_done(&done);
    done = g_apply(m, "quantize.static weights=int4", &x);
    g_done(&done);
    struct qat_model q;
    make(&q, m, true);
    int masked = 0;
    for (int i = 0; i < q.n_weights; i++) {
        const struct note *mask = value_note(q.twin, q.weight[i].latent, "mask");
        const struct tensor *t = &q.twin->values[q.weight[i].latent].weight->tensor;
        for (int64_t k = 0; mask && k < tensor_count(t); k++)
            if (!((const uint8_t *)mask->tensor.data)[k]) {
                assert_true(tensor_f32(t)[k] == 0);
                masked++;
            }
    }
    assert_true(masked > 50);
    qat_model_free(&q);
    model_free(m);
    tensor_fini(&x);
}

static void test_fixed_scales_are_no_parameters(void **state)
{
    (void)state;
    struct tensor x = {0};
    struct model *m = quantized("quantize.static", &x);
    struct qat_model q;
    make(&q, m, false);
    for (int i = 0; i < q.n_groups; i++)
        assert_int_equal(q.group[i].ratio, VALUE_NONE);
    qat_model_free(&q);
    model_free(m);
    tensor_fini(&x);
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *words, *says;
    } cases[] = {
        {NULL, "needs quantize.static"},
        {"quantize.weights", "MatMulNBits"},
        {"quantize.static format=qoperator", "format=qdq"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct tensor x = {0};
        struct qat_model q;
        struct err err = {0};
        struct model *m = cases[i].words ? quantized(cases[i].words, &x) : network();
        assert_int_equal(qat_model_make(&q, m, true, &all, &all, &err), -1);
        assert_int_equal(err.code, ERR_MODEL);
        if (!strstr(err.msg, cases[i].says))
            fail_msg("'%s' does not say '%s'", err.msg, cases[i].says);
        model_free(m);
        tensor_fini(&x);
    }
}

/* ---- the whole step ---- */
static int step(struct model *m, const struct model *source, const char *words, const struct tensor *x,
                struct pool *pool, struct err *err)
{
    struct faults faults = {0};
    json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(words, err));
    struct recipe *recipe = recipe_parse(json, "", &faults, err);
    if (!recipe)
        fail_msg("%s: %s", words, err->msg);
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct rng rng;
    rng_init(&rng, 1, 0);
    struct step_ctx c = {.model = m,
                         .source = source,
                         .teacher = source,
                         .params = recipe->steps[0].params,
                         .layers = layers,
                         .warnings = warnings,
                         .pool = pool,
                         .seed = 1,
                         .rng = &rng,
                         .ramp = 1,
                         .data = g_dataset(x, m),
                         .details = json_object()};
    const int rc = recipe->steps[0].method->run(&c, err);
    if (rc == 0) {
        const json_t *qat = json_object_get(c.details, "qat"), *rows = layer_report_json(layers);
        assert_true(json_integer_value(json_object_get(qat, "weights")) >= 3);
        assert_true(json_array_size(rows) >= 3);
        json_decref((json_t *)rows);
        if (model_validate(m, err))
            fail_msg("%s", err->msg);
    }
    dataset_close(c.data);
    json_decref(c.details);
    layer_report_free(layers);
    warnings_free(warnings);
    recipe_free(recipe);
    faults_fini(&faults);
    json_decref(json);
    return rc;
}

static void test_training_brings_it_nearer(void **state)
{
    (void)state;
    struct tensor x = {0}, calibration = {0}, y[2] = {{0}, {0}};
    struct pool *pool = pool_new(2);
    g_fill(&x, SHAPE(512, 2, 8, 8), 21, 1);
    double after = 0;
    for (int k = 0; k < 2; k++) { /* with other threads: the same bytes */
        struct err err = {0};
        struct model *m = quantized("quantize.static weights=int4", &calibration), *source = network();
        const double before = g_squares(source, m, &x);
        if (step(m, source, "train.qat epochs=6 batch=32 lr=0.005 soft=mse", &x, k ? pool : NULL, &err))
            fail_msg("%s", err.msg);
        after = g_squares(source, m, &x);
        if (after > 0.5 * before)
            fail_msg("squared error to the teacher %g, was %g", after, before);
        g_run(m, &x, 0, &y[k]);
        model_free(m);
        model_free(source);
        tensor_fini(&calibration);
    }
    assert_true(tensor_equal(&y[0], &y[1]));
    tensor_fini(&y[0]);
    tensor_fini(&y[1]);
    tensor_fini(&x);
    pool_free(pool);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twin_starts_as_the_model),
        cmocka_unit_test(test_stored_is_what_was_trained),
        cmocka_unit_test(test_stored_numbers_follow_the_formulas),
        cmocka_unit_test(test_shared_scales_stay_shared),
        cmocka_unit_test(test_pairs_stay_exact),
        cmocka_unit_test(test_masks_come_along),
        cmocka_unit_test(test_fixed_scales_are_no_parameters),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_training_brings_it_nearer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
