/* SPDX-License-Identifier: Apache-2.0
 * trial.c - quantize, run, compare (trial.h). The float model's outputs on the held samples are kept, so that a trial
 * costs one pass over the calibration samples (if its ranges changed) and one over the held ones. */
#include "core/quant/trial.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/stats/evaluate.h"

enum { BATCH = 8 };

extern METHOD(quantize_static);

/* ---- samples ---- */
static int validation_samples(struct trial *t, struct err *err)
{
    struct dataset *val = t->ctx->val_data;
    if (!val)
        return 0;
    if (dataset_bind(val, t->reference, err))
        return -1;
    t->n_held = dataset_spread(val, TRIAL_HELD, &t->held, err);
    if (t->n_held > 0)
        t->held_data = val;
    return t->n_held < 0 ? -1 : 0;
}

static int choose_samples(struct trial *t, enum trial_samples samples, struct err *err)
{
    struct step_ctx *c = t->ctx;
    int64_t *all = NULL, wanted = samples == TRIAL_WHOLE ? t->o->samples : 2 * t->o->samples;
    if (samples == TRIAL_SPLIT && wanted < 2 * TRIAL_HELD)
        wanted = 2 * TRIAL_HELD;
    const int64_t n = dataset_spread(c->data, wanted, &all, err);
    int rc = -1;
    t->held_data = c->data;
    t->fit = n > 0 ? calloc((size_t)n, sizeof *t->fit) : NULL;
    if (n == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: calibration needs at least one sample");
    if (n < 1 || (samples == TRIAL_SPLIT && validation_samples(t, err)))
        goto out;
    const bool val = t->held_data != c->data, shared = !val && (samples == TRIAL_WHOLE || n < 6);
    if (!val) {
        free(t->held);
        t->held = calloc((size_t)n, sizeof *t->held);
        t->n_held = 0;
    }
    if (!t->fit || !t->held) {
        err_set(err, ERR_NOMEM, "out of memory while choosing samples");
        goto out;
    }
    for (int64_t i = 0; i < n; i++) {
        const bool held = !val && (shared || i % 2) && t->n_held < TRIAL_HELD;
        if (held)
            t->held[t->n_held++] = all[i];
        if (shared || !held)
            t->fit[t->n_fit++] = all[i];
    }
    rc = 0;
out:
    free(all);
    return rc;
}

/* ---- the reference's outputs ---- */
struct keep {
    struct trial *t;
    struct trial_score *score; /* NULL: keep, else compare with what was kept */
    int64_t at, agreed;
};

static int keep_batch(struct trial *t, const struct evaluate_batch *b, struct err *err)
{
    struct trial_batch *grown = realloc(t->batches, (size_t)(t->n_batches + 1) * sizeof *grown);
    if (!grown)
        return err_set(err, ERR_NOMEM, "out of memory while keeping outputs");
    t->batches = grown;
    struct trial_batch *kept = &grown[t->n_batches];
    *kept = (struct trial_batch){.n = b->n, .out = calloc((size_t)t->n_out, sizeof *kept->out)};
    if (!kept->out)
        return err_set(err, ERR_NOMEM, "out of memory while keeping outputs");
    t->n_batches++;
    for (int i = 0; i < t->n_out; i++)
        if (tensor_copy(&kept->out[i], &b->out[i], err))
            return -1;
    return 0;
}

/* Sum of squares of the differences (b NULL: of a) in one sample's part of an output. */
static double squares(const struct tensor *a, const struct tensor *b, int64_t first, int64_t n)
{
    double sum = 0;
    for (int64_t i = first; i < first + n; i++) {
        const double x = (double)tensor_f32(a)[i], d = b ? x - (double)tensor_f32(b)[i] : x;
        sum += d * d;
    }
    return isfinite(sum) ? sum : 1e30;
}

static int64_t place_of_largest(const struct tensor *t, int64_t first, int64_t n)
{
    int64_t best = first;
    for (int64_t i = first; i < first + n; i++)
        if (tensor_f32(t)[i] > tensor_f32(t)[best])
            best = i;
    return best;
}

static void score_sample(struct keep *k, const struct trial_batch *kept, const struct evaluate_batch *b, int row)
{
    const struct trial *t = k->t;
    struct trial_score *score = k->score;
    double noise = 0;
    int counted = 0;
    for (int i = 0; i < t->n_out; i++) {
        const int64_t n = tensor_count(&kept->out[i]) / b->n;
        if (!(t->power[i] > 0) || !shape_equal(&kept->out[i].shape, &b->out[i].shape) || b->out[i].dtype != DTYPE_FLOAT)
            continue;
        noise += squares(&kept->out[i], &b->out[i], row * n, n) / t->power[i];
        if (i == 0)
            k->agreed += place_of_largest(&kept->out[i], row * n, n) == place_of_largest(&b->out[i], row * n, n);
        counted++;
    }
    noise = counted ? noise / counted : 0;
    score->noise += noise;
    if (score->n < TRIAL_HELD)
        score->sample[score->n++] = log(noise + 1e-12);
}

static int each_batch(void *arg, const struct evaluate_batch *b, struct err *err)
{
    struct keep *k = arg;
    struct trial *t = k->t;
    if (trial_progress(t, err))
        return -1;
    if (!k->score)
        return keep_batch(t, b, err);
    if (k->at >= t->n_batches || t->batches[k->at].n != b->n)
        return err_set(err, ERR_SHAPE, "the quantized model takes other batches than the float model");
    for (int row = 0; row < b->n; row++)
        score_sample(k, &t->batches[k->at], b, row);
    k->at++;
    return 0;
}

static int measure_power(struct trial *t, struct err *err)
{
    int64_t n = 0;
    t->power = calloc((size_t)t->n_out + 1, sizeof *t->power);
    if (!t->power)
        return err_set(err, ERR_NOMEM, "out of memory while keeping outputs");
    for (int64_t k = 0; k < t->n_batches; k++) {
        n += t->batches[k].n;
        for (int i = 0; i < t->n_out; i++)
            if (t->batches[k].out[i].dtype == DTYPE_FLOAT)
                t->power[i] += squares(&t->batches[k].out[i], NULL, 0, tensor_count(&t->batches[k].out[i]));
    }
    for (int i = 0; i < t->n_out && n; i++)
        t->power[i] /= (double)n;
    return 0;
}

static int run_held(struct trial *t, const struct model *m, struct keep *k, struct err *err)
{
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = t->ctx->pool, .optimize = true}, err);
    const struct evaluate_opts opts = {.pool = t->ctx->pool, .batch = BATCH, .index = t->held, .n_index = t->n_held};
    int64_t done = -1;
    if (plan && !k->score)
        t->n_out = plan_n_outputs(plan);
    if (plan && plan_n_outputs(plan) != t->n_out)
        err_set(err, ERR_SHAPE, "the quantized model has %d outputs, the float model %d", plan_n_outputs(plan),
                t->n_out);
    else if (plan)
        done = evaluate_each(plan, m, t->held_data, &opts, each_batch, k, err);
    if (done > 0 && !k->score) {
        const int64_t macs = plan_macs(plan, NODE_NONE); /* of the last batch */
        t->macs = macs > 0 ? (double)macs / (double)t->batches[t->n_batches - 1].n : 1e6;
    }
    plan_free(plan);
    t->spent += t->macs * (double)t->n_held;
    return done < 0 ? -1 : 0;
}

int trial_init(struct trial *t, struct step_ctx *ctx, const struct quantize_static_params *o,
               const struct model *reference,
               enum trial_samples samples, struct err *err)
{
    *t = (struct trial){.ctx = ctx, .o = o, .reference = reference, .stage = "measure"};
    struct keep keep = {.t = t};
    return choose_samples(t, samples, err) || run_held(t, reference, &keep, err) || measure_power(t, err) ? -1 : 0;
}

void trial_fini(struct trial *t)
{
    for (int64_t i = 0; i < t->n_batches; i++) {
        for (int k = 0; t->batches[i].out && k < t->n_out; k++)
            tensor_fini(&t->batches[i].out[k]);
        free(t->batches[i].out);
    }
    free(t->batches);
    free(t->power);
    free(t->held);
    free(t->fit);
    *t = (struct trial){0};
}

int trial_progress(struct trial *t, struct err *err)
{
    struct step_ctx *c = t->ctx;
    return c->progress ? c->progress(c, t->stage, t->done, t->total, err) : 0;
}

/* ---- scores ---- */
int trial_score(struct trial *t, const struct model *m, struct trial_score *score, struct err *err)
{
    struct keep keep = {.t = t, .score = score};
    *score = (struct trial_score){.noise = 0};
    if (run_held(t, m, &keep, err))
        return -1;
    score->noise /= t->n_held > 0 ? (double)t->n_held : 1;
    score->agreement = t->n_held > 0 ? (double)keep.agreed / (double)t->n_held : 1;
    t->count++;
    return 0;
}

bool trial_better(const struct trial_score *a, const struct trial_score *b, double gain)
{
    const int n = a->n < b->n ? a->n : b->n;
    double mean = 0, variance = 0;
    for (int i = 0; i < n; i++)
        mean += (a->sample[i] - b->sample[i]) / n;
    for (int i = 0; i < n; i++)
        variance += pow(a->sample[i] - b->sample[i] - mean, 2);
    const double error = n > 1 ? sqrt(variance / (n - 1) / n) : 0;
    return n > 0 && mean < log(1 - gain) && mean + error < 0;
}

struct calibration *trial_calibrate(struct trial *t, struct model *candidate, struct err *err)
{
    struct step_ctx c = *t->ctx;
    c.model = candidate;
    t->spent += t->macs * (double)t->o->samples;
    return static_calibrate(&c, t->o, err);
}

struct model *trial_clone_quantized(struct trial *t, const struct model *candidate,
                                    const struct calibration *calibration,
                                    const struct static_choice *choice, struct err *err)
{
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct model *m = layers && warnings ? model_clone(candidate, err) : NULL;
    if (m && static_quantize(m, calibration, t->o, choice, layers, warnings, err)) {
        model_free(m);
        m = NULL;
    } else if (!m)
        err_set(err, ERR_NOMEM, "out of memory while trying a quantization");
    layer_report_free(layers);
    warnings_free(warnings);
    return m;
}

int trial_quantized(struct trial *t, const struct model *candidate, const struct calibration *calibration,
                    const struct static_choice *choice, struct trial_score *score, struct err *err)
{
    struct calibration *own = NULL;
    struct model *float_clone = NULL, *m = NULL;
    int rc = -1;
    if (!calibration) {
        float_clone = model_clone(candidate, err);
        own = float_clone ? trial_calibrate(t, float_clone, err) : NULL;
        if (!own)
            goto out;
        calibration = own;
    }
    m = trial_clone_quantized(t, candidate, calibration, choice, err);
    rc = m ? trial_score(t, m, score, err) : -1;
out:
    model_free(m);
    model_free(float_clone);
    calibration_free(own);
    return rc;
}

/* ---- parameters ---- */
static int set_default(const struct param *p, void *params, struct err *err)
{
    char *field = (char *)params + p->offset;
    json_t *v = p->def ? json_loads(p->def, JSON_DECODE_ANY, NULL) : NULL;
    int rc = 0;
    if (!p->def)
        return 0;
    if (v && p->kind == PARAM_INT)
        *(int64_t *)(void *)field = json_integer_value(v);
    else if (v && p->kind == PARAM_NUMBER)
        *(double *)(void *)field = json_number_value(v);
    else if (v && p->kind == PARAM_BOOL)
        *(bool *)field = json_is_true(v);
    else if (v && p->kind == PARAM_ENUM && json_is_string(v)) {
        rc = -1;
        for (int i = 0; p->choices[i] && rc; i++)
            if (!strcmp(p->choices[i], json_string_value(v))) {
                *(int *)(void *)field = i;
                rc = 0;
            }
    } else
        rc = v && p->kind != PARAM_STRING ? 0 : -1;
    json_decref(v);
    return rc ? err_set(err, ERR_INTERNAL, "the default of '%s' does not parse", p->name) : 0;
}

int trial_defaults(const struct param *rows, void *params, struct err *err)
{
    for (const struct param *p = rows; p->name; p++)
        if (set_default(p, params, err))
            return -1;
    return 0;
}

int trial_default_params(struct quantize_static_params *o, struct err *err)
{
    *o = (struct quantize_static_params){0};
    return trial_defaults(method_quantize_static.params, o, err);
}
