/* SPDX-License-Identifier: Apache-2.0
 * The distilling objective against its formula and against differences of itself, on networks of several outputs;
 * what it refuses; and train.distill without labels: the student comes to say what the teacher says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "core/train/distill.h"
#include "tests/unit/graphs.h"

enum { N = 24, IN = 6 };

/* How a network ends. */
enum end { SCORES, SOFTMAX, PROBABILITIES, VALUES, TWO };

/* x [batch, 6] -> Gemm "h" [width] -> Relu "r" -> Gemm "s" [5] -> end */
static struct model *network(int64_t batch, int64_t width, int64_t classes, enum end end, uint64_t seed)
{
    struct model *m = g_new(13);
    const uint32_t x = g_input(m, "x", SHAPE(batch, IN));
    uint32_t v = G_OP(m, "Gemm", "h", x, g_random(m, "w1", SHAPE(IN, width), seed, 0.7),
                      g_random(m, "b1", SHAPE(width), seed + 1, 0.3));
    const uint32_t r = G_OP(m, "Relu", "r", v);
    v = G_OP(m, "Gemm", "s", r, g_random(m, "w2", SHAPE(width, classes), seed + 2, 0.9),
             g_random(m, "b2", SHAPE(classes), seed + 3, 0.3));
    if (end == SOFTMAX) {
        v = G_OP(m, "Softmax", "p", v);
        const int64_t like[] = {0, classes};
        v = G_OP(m, "Reshape", "y", v, g_ints(m, "like", 2, like));
    } else if (end == PROBABILITIES) {
        const uint32_t e = G_OP(m, "Exp", "e", v);
        const int64_t axis[] = {1};
        v = G_OP(m, "Div", "y", e, G_OP(m, "ReduceSum", "sum", e, g_ints(m, "axis", 1, axis)));
    } else if (end == VALUES) {
        v = G_OP(m, "Sigmoid", "y", v);
    }
    g_output(m, v);
    if (end == TWO)
        g_output(m, G_OP(m, "Tanh", "side", r));
    return m;
}

struct setting {
    struct model *student, *teacher;
    struct dataset *data;
    struct tensor x;
    struct warnings *warnings;
    struct layer_report *layers;
    struct step_ctx c;
    struct train_params train;
    struct distill_params p;
    struct objective o;
};

static void open_setting(struct setting *s, struct model *student, struct model *teacher)
{
    s->student = student;
    s->teacher = teacher;
    g_fill(&s->x, SHAPE(N, IN), 9, 1);
    s->data = g_dataset(&s->x, student);
    s->warnings = warnings_new();
    s->layers = layer_report_new();
    s->c = (struct step_ctx){.model = student,
                             .source = teacher,
                             .teacher = teacher,
                             .data = s->data,
                             .warnings = s->warnings,
                             .layers = s->layers,
                             .details = json_object(),
                             .seed = 3};
    s->train = (struct train_params){.batch = 8};
    if (s->p.temperature == 0)
        s->p.temperature = 4;
    if (s->p.hint_weight == 0)
        s->p.hint_weight = 1;
}

static void close_setting(struct setting *s)
{
    distill_objective_free(&s->o);
    dataset_close(s->data);
    warnings_free(s->warnings);
    layer_report_free(s->layers);
    json_decref(s->c.details);
    tensor_fini(&s->x);
    model_free(s->student);
    model_free(s->teacher);
}

/* ---- value and gradient ---- */
/* The student with what the objective looks at among its outputs. */
struct watched {
    struct model *m;
    struct grad *g;
    int outputs[OBJECTIVE_EXTRA_MAX];
    uint32_t w1;
};

static void watch(struct watched *w, struct setting *s)
{
    uint32_t extra[OBJECTIVE_EXTRA_MAX];
    struct err err = {0};
    int n = 0;
    assert_int_equal(s->o.values(&s->o, s->student, extra, &n, &err), 0);
    w->m = model_clone(s->student, &err);
    for (int i = 0; i < n; i++) {
        struct graph *g = model_main(w->m);
        int at = 0;
        while (at < g->n_outputs && g->outputs[at].value != extra[i])
            at++;
        if (at == g->n_outputs)
            g_output(w->m, extra[i]);
        w->outputs[i] = at;
    }
    w->w1 = g_value(w->m, "w1");
    w->g = grad_new(w->m, &(struct grad_opts){.params = &w->w1, .n_params = 1, .checkpoints = 1}, &err);
    if (!w->g)
        fail_msg("%s", err.msg);
}

static double step(struct watched *w, struct setting *s, bool seed, double scale)
{
    struct err err = {0};
    double value = NAN;
    const struct loader_batch batch = {.in = &s->x, .n_in = 1, .n = N};
    if (s->o.prepare(&s->o, &batch, &err) || grad_forward(w->g, &s->x, &err) ||
        s->o.loss(&s->o, w->g, w->outputs, &batch, seed, scale, &value, &err) || (seed && grad_backward(w->g, &err)))
        fail_msg("%s", err.msg);
    return value;
}

static void softmax(const float *x, int n, double temperature, double *p)
{
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += p[i] = exp((double)x[i] / temperature);
    for (int i = 0; i < n; i++)
        p[i] /= sum;
}

/* Value "name" of a model for the samples. */
static void value_of(const struct model *m, const char *name, const struct tensor *x, struct tensor *y)
{
    struct err err = {0};
    struct model *c = model_clone(m, &err);
    c->graphs[0].n_outputs = 0;
    g_output(c, g_value(c, name));
    g_run(c, x, 0, y);
    model_free(c);
}

static double naive_kl(struct setting *s, int classes)
{
    struct tensor a = {0}, b = {0};
    const double t = s->p.temperature;
    double sum = 0;
    value_of(s->student, "s", &s->x, &a);
    value_of(s->teacher, "s", &s->x, &b);
    for (int i = 0; i < N; i++) {
        double p[16], q[16];
        softmax(tensor_f32(&a) + i * classes, classes, t, p);
        softmax(tensor_f32(&b) + i * classes, classes, t, q);
        for (int k = 0; k < classes; k++)
            sum += t * t * q[k] * log(q[k] / p[k]);
    }
    tensor_fini(&a);
    tensor_fini(&b);
    return sum / N;
}

/* All 24 samples are the few that variance and power are taken from. */
static double naive_squares(struct setting *s, const char *name, bool power)
{
    struct tensor a = {0}, b = {0};
    double sum = 0, mean = 0, square = 0;
    value_of(s->student, name, &s->x, &a);
    value_of(s->teacher, name, &s->x, &b);
    const int64_t n = tensor_count(&a);
    for (int64_t i = 0; i < n; i++) {
        const double t = (double)tensor_f32(&b)[i];
        sum += pow((double)tensor_f32(&a)[i] - t, 2) / (double)n;
        mean += t / (double)n;
        square += t * t / (double)n;
    }
    tensor_fini(&a);
    tensor_fini(&b);
    return power ? sum / square / 2 : sum / (square - mean * mean);
}

struct form {
    const char *name;
    enum end end;
    int soft;
    int64_t width; /* of the student; the teacher's is 7 */
    const char *hint;
    double relational;
};
static const struct form forms[] = {
    {"scores", SCORES, DISTILL_SOFT_AUTO, 7, NULL, 0},
    {"softmax", SOFTMAX, DISTILL_SOFT_AUTO, 7, NULL, 0},
    {"probabilities without a softmax", PROBABILITIES, DISTILL_SOFT_AUTO, 7, NULL, 0},
    {"values", VALUES, DISTILL_SOFT_AUTO, 7, NULL, 0},
    {"squared scores", SOFTMAX, DISTILL_SOFT_MSE, 7, NULL, 0},
    {"two outputs", TWO, DISTILL_SOFT_AUTO, 7, NULL, 0},
    {"hint", SCORES, DISTILL_SOFT_AUTO, 7, "r", 0},
    {"hint with regressor", SCORES, DISTILL_SOFT_AUTO, 4, "r", 0},
    {"relations", SCORES, DISTILL_SOFT_AUTO, 4, NULL, 2},
};

static double expected(struct setting *s, const struct form *f)
{
    if (f->end == VALUES)
        return naive_squares(s, "y", false);
    if (f->soft == DISTILL_SOFT_MSE)
        return naive_squares(s, "s", false);
    const double kl = naive_kl(s, 5);
    if (f->end == TWO) /* Tanh squashes: no scores, though a row of numbers */
        return (kl + naive_squares(s, "side", false)) / 2;
    return kl + (f->hint && f->width == 7 ? naive_squares(s, "r", true) : 0);
}

static void test_loss(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        const struct form *f = &forms[i];
        struct setting s = {.p = {.soft = f->soft, .relational = f->relational}};
        struct watched w;
        struct err err = {0};
        const char *names[] = {f->hint};
        s.p.hints = (struct globs){names, f->hint != NULL};
        open_setting(&s, network(DIM_UNKNOWN, f->width, 5, f->end, 1), network(DIM_UNKNOWN, 7, 5, f->end, 50));
        if (distill_objective_new(&s.o, &s.p, &s.train, &s.c, &err))
            fail_msg("%s: %s", f->name, err.msg);
        watch(&w, &s);
        const double value = step(&w, &s, true, 1);
        if (!(f->hint && f->width != 7) && !(f->relational > 0))
            g_near(value, expected(&s, f), 1e-4 * value);
        assert_int_equal(s.o.n_params, f->hint && f->width != 7 ? 2 : 0);
        float *at = tensor_f32(grad_param_value(w.g, 0));
        const float *got = tensor_f32(grad_param_gradient(w.g, 0));
        double worst = 0, most = 0;
        for (int k = 0; k < IN * (int)f->width; k++) {
            const float was = at[k];
            at[k] = was + 1e-3f;
            const double up = step(&w, &s, false, 1);
            at[k] = was - 1e-3f;
            const double slope = (up - step(&w, &s, false, 1)) / 2e-3;
            at[k] = was;
            worst = fmax(worst, fabs(slope - (double)got[k]));
            most = fmax(most, fabs(slope));
        }
        if (!(most > 0) || worst > 3e-2 * most)
            fail_msg("%s: gradient is off by %g of %g", f->name, worst, most);
        const float before = got[0];
        grad_reset(w.g);
        g_near(step(&w, &s, true, 0.25), value, 1e-9); /* scale is of gradients */
        g_near((double)got[0], 0.25 * (double)before, 1e-5 * most);
        grad_free(w.g);
        model_free(w.m);
        close_setting(&s);
    }
}

/* A regressor starts as a fit: a teacher's feature that is a linear map of the student's is met at once. */
static void test_fit(void **state)
{
    struct setting s = {.p = {.hints = {(const char *[]){"h"}, 1}, .hint_weight = 1}};
    struct watched w;
    struct err err = {0};
    (void)state;
    open_setting(&s, network(DIM_UNKNOWN, 6, 5, SCORES, 1), network(DIM_UNKNOWN, 7, 5, SCORES, 50));
    assert_int_equal(distill_objective_new(&s.o, &s.p, &s.train, &s.c, &err), 0);
    watch(&w, &s); /* both h are linear in the 6 inputs */
    const double value = step(&w, &s, true, 1), kl = naive_kl(&s, 5);
    g_near(value, kl, 1e-3);
    distill_objective_report(&s.o, s.c.details);
    const json_t *hint = json_array_get(json_object_get(json_object_get(s.c.details, "distillation"), "hints"), 0);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(hint, "regressor"), 0)), 7);
    assert_int_equal(json_integer_value(json_array_get(json_object_get(hint, "regressor"), 1)), 6);
    grad_free(w.g);
    model_free(w.m);
    close_setting(&s);
}

/* ---- refused ---- */
static void test_refused(void **state)
{
    static const struct {
        const char *what, *hint, *error;
        enum end end;
        int64_t classes, width;
        int labels;
        double alpha, attention;
        enum err_code code;
    } cases[] = {
        {"classes", NULL, "a sample of the model's output 's' is [1,5], of the teacher's 's' [1,4]", SCORES, 4, 7, 0, 0,
         0, ERR_SHAPE},
        {"hint", "nothing", "'nothing' names no value or node of the model; some it has are", SCORES, 5, 7, 0, 0, 0,
         ERR_INVALID},
        {"shapes", "r:w", "'w' names no value", SCORES, 5, 7, 0, 0, 0, ERR_INVALID},
        {"alpha", NULL, "alpha below 1 leaves a share of the loss to labels, and the dataset has none", SCORES, 5, 7, 0,
         0.5, 0, ERR_DATASET},
        {"labels", NULL, "labels=use leaves a share", SCORES, 5, 7, DISTILL_LABELS_USE, 0, 0, ERR_DATASET},
        {"attention", NULL, "no value with height and width", SCORES, 5, 7, 0, 0, 10, ERR_INVALID},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct setting s = {.p = {.labels = cases[i].labels,
                                  .alpha = cases[i].alpha,
                                  .alpha_given = cases[i].alpha > 0,
                                  .attention = cases[i].attention}};
        struct err err = {0};
        const char *names[] = {cases[i].hint};
        s.p.hints = (struct globs){names, names[0] != NULL};
        open_setting(&s, network(DIM_UNKNOWN, 7, 5, SCORES, 1),
                     network(DIM_UNKNOWN, cases[i].width, cases[i].classes, cases[i].end, 50));
        const int rc = distill_objective_new(&s.o, &s.p, &s.train, &s.c, &err);
        if (!rc || err.code != cases[i].code || !strstr(err.msg, cases[i].error))
            fail_msg("%s: %d, %s: %s", cases[i].what, rc, err_slug(err.code), err.msg);
        close_setting(&s);
    }
}

static void test_parameters(void **state)
{
    static const struct {
        struct distill_params p;
        const char *pointer;
        unsigned needs;
    } cases[] = {
        {{.temperature = 4}, NULL, NEEDS_NOTHING},
        {{.labels = DISTILL_LABELS_USE}, NULL, NEEDS_LABELS},
        {{.alpha = 0.5, .alpha_given = true}, NULL, NEEDS_LABELS},
        {{.alpha = 1, .alpha_given = true}, NULL, NEEDS_NOTHING},
        {{.alpha = 0.5, .alpha_given = true, .labels = DISTILL_LABELS_IGNORE}, "/steps/0/alpha", NEEDS_NOTHING},
        {{.attention_at = {.count = 1}}, "/steps/0/attention_at", NEEDS_NOTHING},
        {{.relational_at = {.count = 1}}, "/steps/0/relational_at", NEEDS_NOTHING},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct faults faults = {0};
        distill_params_check(&cases[i].p, "/steps/0", &faults);
        assert_int_equal(faults.count, cases[i].pointer ? 1 : 0);
        if (faults.count)
            assert_string_equal(faults.at[0].pointer, cases[i].pointer);
        assert_int_equal(distill_params_needs(&cases[i].p), cases[i].needs);
        faults_fini(&faults);
    }
}

/* ---- the method ---- */
/* train.distill of a student of another seed; the model's bytes afterwards in w2. */
static double train(const char *words, int threads, int64_t batch, float w2[64])
{
    struct err err = {0};
    struct faults faults = {0};
    struct setting s = {0};
    json_t *json = json_pack("{s:[o]}", "steps", recipe_step_from_words(words, &err));
    struct recipe *recipe = recipe_parse(json, "", &faults, &err);
    if (!recipe)
        fail_msg("%s: %s", words, faults.count ? faults.at[0].detail : err.msg);
    open_setting(&s, network(batch, 7, 5, SOFTMAX, 1), network(DIM_UNKNOWN, 7, 5, SOFTMAX, 50));
    s.c.params = recipe->steps[0].params;
    s.c.pool = pool_new(threads);
    const double before =
        naive_kl(&(struct setting){.student = s.teacher, .teacher = s.teacher, .x = s.x, .p = s.p}, 5);
    g_near(before, 0, 1e-9);
    if (recipe->steps[0].method->run(&s.c, &err))
        fail_msg("%s: %s", words, err.msg);
    const json_t *report = json_object_get(s.c.details, "distillation");
    assert_string_equal(json_string_value(json_object_get(report, "teacher")), "original");
    assert_true(json_is_false(json_object_get(report, "labels")));
    memcpy(w2, s.student->values[g_value(s.student, "w2")].weight->tensor.data, 35 * sizeof *w2);
    const double after = batch > 0 ? NAN : naive_kl(&s, 5);
    pool_free(s.c.pool);
    close_setting(&s);
    recipe_free(recipe);
    json_decref(json);
    faults_fini(&faults);
    return after;
}

static void test_trains(void **state)
{
    static const char little[] = "train.distill epochs=1 batch=8 optimizer=adam lr=1e-6",
                      much[] = "train.distill epochs=150 batch=8 optimizer=adam lr=0.02",
                      features[] =
                          "train.distill epochs=150 batch=8 optimizer=adam lr=0.02 hints=[\"h\",\"r\"] relational=1";
    float a[64], b[64];
    (void)state;
    const double start = train(little, 1, DIM_UNKNOWN, a), end = train(much, 1, DIM_UNKNOWN, a);
    if (!(end < 0.1 * start))
        fail_msg("%g, after training %g", start, end);
    assert_true(train(much, 3, DIM_UNKNOWN, b) == end);
    assert_memory_equal(a, b, 35 * sizeof *a);
    train("train.distill epochs=20 batch=8 cache=never lr=0.02", 1, DIM_UNKNOWN, a);
    train("train.distill epochs=20 batch=8 lr=0.02", 1, DIM_UNKNOWN, b);
    for (int i = 0; i < 35; i++)
        g_near((double)a[i], (double)b[i], 1e-4);
    train("train.distill epochs=3 batch=8 lr=0.02", 1, 4, a); /* a student of a fixed batch, a teacher of any */
    const double with = train(features, 1, DIM_UNKNOWN, a);
    if (!(with < 0.3 * start))
        fail_msg("%g, after training with features %g", start, with);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_loss),       cmocka_unit_test(test_fit),    cmocka_unit_test(test_refused),
        cmocka_unit_test(test_parameters), cmocka_unit_test(test_trains),
    };
    engine_init();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
