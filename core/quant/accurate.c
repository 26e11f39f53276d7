/* SPDX-License-Identifier: Apache-2.0
 * accurate.c - preset=accurate (accurate.h): a table of repairs, tried one after the other on a clone.
 *
 * A repair makes a candidate from the best model so far; the candidate is calibrated, quantized and compared with the
 * float model on the held samples. It is kept if the noise of the outputs falls by at least 1 %, and beyond chance
 * (trial_better). Equalization comes before what fits itself to the weights (rounding), and bias correction after
 * everything that shifts means. */
#include "core/quant/accurate.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/weights.h"
#include "core/quant/absorb.h"
#include "core/quant/adaround.h"
#include "core/quant/bias_correction.h"
#include "core/quant/equalize.h"
#include "core/quant/quantized.h"
#include "core/quant/smooth.h"
#include "core/quant/trial.h"

static const double gain_needed = 0.01;
/* Of all repairs together, about two minutes on two cores; what one repair may take of it. */
static const double smooth_budget = 1.5e11, bias_budget = 4e11, float_budget = 2e11;
/* Layers that go back to float: at most this share of the weights and of the multiply-accumulates; each must lower
 * the noise by 5 %. */
static const double float_weights = 0.02, float_macs = 0.12, float_gain = 0.05;
enum { FLOAT_LAYERS = 6 };

struct accurate {
    struct step_ctx *c;
    struct quantize_static_params o; /* of the trials: always QDQ */
    struct trial t;
    struct model *best;
    struct calibration *calibration; /* of best, but for corrected biases */
    struct trial_score score;
    bool *keep_float; /* by node id */
    struct static_choice choice;
};

/* ---- the repairs ---- */
/* Changes `m`, a clone of the best. 1: there is nothing to do. */
typedef int repair_fn(struct accurate *a, struct model *m, struct layer_report *layers, struct err *err);

static int repair_equalize(struct accurate *a, struct model *m, struct layer_report *layers, struct err *err)
{
    const struct equalize_opts o = {.sweeps = 20, .scale = {.clip = SCALE_CLIP_KEEP}};
    const int changed = equalize_model(m, &o, layers, NULL, err);
    (void)a;
    return changed < 0 ? -1 : changed == 0;
}

static int repair_absorb(struct accurate *a, struct model *m, struct layer_report *layers, struct err *err)
{
    const struct absorb_opts o = {.data = a->c->data, .pool = a->c->pool, .samples = a->t.n_fit, .index = a->t.fit,
                                  .n_index = a->t.n_fit};
    const int absorbed = absorb_model(m, &o, layers, err);
    return absorbed < 0 ? -1 : absorbed == 0;
}

static int repair_smooth(struct accurate *a, struct model *m, struct layer_report *layers, struct err *err)
{
    const struct scale_opts o = {.clip = SCALE_CLIP_KEEP};
    struct smoothing s = {0};
    struct trial_score score = a->score;
    int rc = smoothing_init(&s, a->c, m, &o, a->t.fit, a->t.n_fit, err);
    bool any = false;
    if (rc == 0 && s.n_useful)
        rc = smoothing_search(&s, &a->t, smooth_budget, &score, err);
    for (int k = 0; k < s.n_useful; k++)
        any = any || !isnan(s.alpha[s.useful[k]]);
    if (rc == 0 && any)
        rc = smoothing_apply(&s, NULL, layers, err);
    smoothing_fini(&s);
    return rc ? -1 : !any;
}

static int repair_rounding(struct accurate *a, struct model *m, struct layer_report *layers, struct err *err)
{
    struct quantize_adaround_params o = {0};
    struct step_ctx c = *a->c;
    if (params_default(method_quantize_adaround.params, &o, err))
        return -1;
    o.weights = 0;
    while (adaround_weights[o.weights] && strcmp(adaround_weights[o.weights], static_weights[a->o.weights]))
        o.weights++;
    if (!adaround_weights[o.weights])
        return 1; /* no codes of that type */
    o.isa = a->o.isa;
    o.per_channel = a->o.per_channel;
    o.include = a->o.include;
    o.exclude = a->o.exclude;
    c.model = m;
    c.params = &o;
    c.layers = layers;
    return method_quantize_adaround.run(&c, err);
}

static int correct_biases(struct accurate *a, struct model *m, bool sequential, struct layer_report *layers,
                          struct err *err)
{
    const struct bias_correction_opts o = {.sequential = sequential, .max_ratio = 2, .budget = bias_budget};
    const int corrected = bias_correction(&a->t, m, a->calibration, &a->choice, &o, layers, err);
    return corrected < 0 ? -1 : corrected == 0;
}

static int repair_bias_fast(struct accurate *a, struct model *m, struct layer_report *layers, struct err *err)
{
    return correct_biases(a, m, false, layers, err);
}

static int repair_bias(struct accurate *a, struct model *m, struct layer_report *layers, struct err *err)
{
    return correct_biases(a, m, true, layers, err);
}

/* same_ranges: the corrections are right for the ranges they were made with, and those stay. Measured anew, the
 * corrected float model would show the means without the shift they make up for. */
static const struct repair {
    const char *name;
    repair_fn *run;
    bool same_ranges;
} repairs[] = {
    {"equalize", repair_equalize, false},
    {"absorb high biases", repair_absorb, false},
    {"smooth", repair_smooth, false},
    {"round weights by output error", repair_rounding, false},
    {"correct biases of each layer alone", repair_bias_fast, true},
    {"correct biases in sequence", repair_bias, true},
};

/* ---- trying them ---- */
static double decibel(double noise)
{
    return noise > 0 ? -10 * log10(noise) : 200;
}

static void report_repair(struct accurate *a, const char *name, const struct trial_score *before,
                          const struct trial_score *after, bool kept)
{
    struct layer_row row = {.node = NODE_NONE, .label = name, .weight = VALUE_NONE, .sqnr_db = NAN};
    row.before = json_pack("{s:f}", "output_sqnr_db", decibel(before->all.noise));
    row.after = json_pack("{s:f,s:b}", "output_sqnr_db", decibel(after->all.noise), "kept", kept);
    if (row.after)
        json_object_set_new(row.after, "agreement", json_real(1 - after->all.disagreement));
    if (!kept)
        row.skipped = "the outputs on the samples held back do not come nearer to the float model's";
    layer_report_add(a->c->layers, a->c->model, &row);
}

/* Rows of a repair that was kept. */
static void copy_rows(struct accurate *a, const struct layer_report *from)
{
    json_t *rows = layer_report_json(from), *row;
    size_t i;
    json_array_foreach(rows, i, row)
    {
        struct layer_row copy = {.node = NODE_NONE, .weight = VALUE_NONE, .sqnr_db = NAN};
        copy.label = json_string_value(json_object_get(row, "node"));
        copy.skipped = json_string_value(json_object_get(row, "skipped"));
        copy.before = json_incref(json_object_get(row, "before"));
        copy.after = json_incref(json_object_get(row, "after"));
        if (copy.label && !copy.skipped)
            layer_report_add(a->c->layers, a->c->model, &copy);
        else {
            json_decref(copy.before);
            json_decref(copy.after);
        }
    }
    json_decref(rows);
}

static int try_repair(struct accurate *a, const struct repair *r, struct err *err)
{
    struct layer_report *layers = layer_report_new();
    struct model *m = layers ? model_clone(a->best, err) : NULL;
    struct calibration *calibration = NULL;
    struct trial_score score = {0};
    int rc = m ? 0 : err_set(err, ERR_NOMEM, "out of memory while trying a repair");
    a->t.stage = r->name;
    if (rc == 0)
        rc = trial_progress(&a->t, err);
    if (rc == 0)
        rc = r->run(a, m, layers, err);
    if (rc == 0 && m->n_nodes > a->c->model->n_nodes) /* keep_float would not cover them */
        rc = 1;
    if (rc == 0 && !r->same_ranges) {
        calibration = trial_calibrate(&a->t, m, err);
        rc = calibration ? 0 : -1;
    }
    if (rc == 0)
        rc = trial_quantized(&a->t, m, calibration ? calibration : a->calibration, &a->choice, &score, err);
    if (rc == 0) {
        const bool kept = trial_better(&score, &a->score, gain_needed);
        report_repair(a, r->name, &a->score, &score, kept);
        if (kept && calibration) {
            calibration_free(a->calibration);
            a->calibration = calibration;
            calibration = NULL;
        }
        if (kept) {
            struct model *old = a->best;
            copy_rows(a, layers);
            a->best = m;
            a->score = score;
            m = old;
        }
    }
    calibration_free(calibration);
    layer_report_free(layers);
    model_free(m);
    return rc < 0 ? -1 : 0;
}

/* ---- the calibrator ---- */
/* The parameters' own is the start; these are the others. */
static int try_calibrators(struct accurate *a, struct err *err)
{
    static const struct {
        enum calibrator calibrator;
        const char *name;
    } others[] = {{CALIBRATE_MSE, "calibrator mse"},
                  {CALIBRATE_PERCENTILE, "calibrator percentile"},
                  {CALIBRATE_MINMAX, "calibrator minmax"}};
    const int first = a->o.calibrator;
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        const int old = a->o.calibrator;
        struct trial_score score;
        if ((int)others[i].calibrator == first)
            continue;
        a->o.calibrator = (int)others[i].calibrator;
        a->t.stage = others[i].name;
        struct calibration *calibration = trial_calibrate(&a->t, a->best, err);
        if (!calibration || trial_quantized(&a->t, a->best, calibration, &a->choice, &score, err)) {
            calibration_free(calibration);
            return -1;
        }
        const bool kept = trial_better(&score, &a->score, gain_needed);
        report_repair(a, others[i].name, &a->score, &score, kept);
        calibration_free(kept ? a->calibration : calibration);
        a->calibration = kept ? calibration : a->calibration;
        a->o.calibrator = kept ? a->o.calibrator : old;
        a->score = kept ? score : a->score;
    }
    return 0;
}

/* ---- float for what costs the most ---- */
struct layer_cost {
    uint32_t node;
    double weights, macs; /* shares */
    struct trial_score score; /* with this one alone in float */
};

static double typical(const struct trial_score *s)
{
    double sum = 0;
    for (int i = 0; i < s->n; i++)
        sum += s->sample[i];
    return sum;
}

static int by_noise(const void *a, const void *b)
{
    const struct layer_cost *x = a, *y = b;
    if (typical(&x->score) != typical(&y->score))
        return typical(&x->score) < typical(&y->score) ? -1 : 1;
    return x->node < y->node ? -1 : x->node > y->node;
}

/* Products that are quantized now, with their shares. Returns how many; -1. */
static int list_layers(struct accurate *a, const struct calibration *calibration, struct layer_cost *list,
                       struct err *err)
{
    const struct model *m = a->best;
    struct model *probe = model_clone(m, err);
    bool *layer = calloc((size_t)m->n_nodes + 1, sizeof *layer);
    struct plan *plan = probe && layer ? plan_new(m, &(struct plan_opts){.pool = a->c->pool}, err) : NULL;
    double weights = 0, macs = 0;
    int n = -1;
    if (!plan || static_layers(probe, calibration, &a->o, layer, err)) {
        err_set(err, ERR_NOMEM, "out of memory while looking for sensitive layers");
        goto out;
    }
    const struct type *types;
    struct shape shapes[16];
    const int inputs = plan_n_inputs(plan);
    for (int i = 0; i < inputs && i < 16; i++)
        plan_input_shape(plan, i, 1, 8, &shapes[i]);
    const bool sized = inputs <= 16 && plan_infer(plan, shapes, &types, NULL) == 0;
    n = 0;
    for (uint32_t id = 0; id < m->n_nodes; id++) {
        struct weight_ref ref;
        const char *why = NULL;
        if (!m->nodes[id].op_type || !layer[id] || !product_weight(m, id, &ref, &why) || why)
            continue;
        const int64_t cost = sized ? plan_macs(plan, id) : 0;
        list[n++] = (struct layer_cost){.node = id, .weights = (double)tensor_count(ref.tensor),
                                        .macs = cost > 0 ? (double)cost : 0};
        weights += list[n - 1].weights;
        macs += list[n - 1].macs;
    }
    for (int i = 0; i < n; i++) {
        list[i].weights /= weights;
        list[i].macs /= macs > 0 ? macs : 1;
    }
out:
    plan_free(plan);
    model_free(probe);
    free(layer);
    return n;
}

static int measure_layers(struct accurate *a, const struct calibration *calibration, struct layer_cost *list, int n,
                          struct err *err)
{
    int tried = 0;
    a->t.stage = "measure layers";
    a->t.total = n;
    for (int i = 0; i < n; i++) {
        a->t.done = i;
        if (list[i].weights > float_weights || list[i].macs > float_macs)
            continue;
        list[tried] = list[i];
        a->keep_float[list[i].node] = true;
        const int rc = trial_quantized(&a->t, a->best, calibration, &a->choice, &list[tried].score, err);
        a->keep_float[list[i].node] = false;
        if (rc)
            return -1;
        tried++;
    }
    qsort(list, (size_t)tried, sizeof *list, by_noise);
    return tried;
}

static int try_float_layers(struct accurate *a, struct err *err)
{
    const struct calibration *calibration = a->calibration;
    struct layer_cost *list = calloc((size_t)a->best->n_nodes + 1, sizeof *list);
    double weights = 0, macs = 0;
    int rc = -1, kept = 0;
    int n = list ? list_layers(a, calibration, list, err) : err_set(err, ERR_NOMEM,
                                                                    "out of memory while looking for sensitive "
                                                                    "layers");
    if (n >= 0 && (double)n * a->t.macs * (double)a->t.n_held > float_budget)
        n = 0; /* too many layers of too large a model */
    if (n >= 0)
        n = measure_layers(a, calibration, list, n, err);
    if (n < 0)
        goto out;
    rc = 0;
    for (int i = 0; i < n && i < 2 * FLOAT_LAYERS && kept < FLOAT_LAYERS && rc == 0; i++) {
        struct trial_score score;
        if (weights + list[i].weights > float_weights || macs + list[i].macs > float_macs)
            continue;
        a->keep_float[list[i].node] = true;
        rc = trial_quantized(&a->t, a->best, calibration, &a->choice, &score, err);
        if (rc == 0 && trial_better(&score, &a->score, float_gain)) {
            char label[200];
            report_repair(a, node_label(a->best, list[i].node, label, sizeof label), &a->score, &score, true);
            a->score = score;
            weights += list[i].weights;
            macs += list[i].macs;
            kept++;
        } else
            a->keep_float[list[i].node] = false;
    }
out:
    free(list);
    return rc;
}

/* ---- the whole ---- */
static int repair_all(struct accurate *a, struct err *err)
{
    a->calibration = trial_calibrate(&a->t, a->best, err);
    if (!a->calibration || trial_quantized(&a->t, a->best, a->calibration, &a->choice, &a->score, err) ||
        try_calibrators(a, err))
        return -1;
    for (size_t i = 0; i < sizeof repairs / sizeof repairs[0]; i++)
        if (try_repair(a, &repairs[i], err))
            return -1;
    return try_float_layers(a, err);
}

int static_accurate(struct step_ctx *c, struct quantize_static_params *o, struct err *err)
{
    struct accurate a = {.c = c};
    struct model *reference = NULL;
    int rc = -1;
    if (static_prepare(c, o, err))
        return -1;
    a.o = *o;
    a.o.format = FORMAT_QDQ;
    a.o.preset = PRESET_DEFAULT;
    reference = model_clone(c->model, err);
    a.best = reference ? model_clone(c->model, err) : NULL;
    /* repairs add constants, no nodes */
    a.keep_float = calloc((size_t)c->model->n_nodes + 1, sizeof *a.keep_float);
    a.choice.keep_float = a.keep_float;
    if (!a.best || !a.keep_float) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
        goto out;
    }
    if (trial_init(&a.t, c, &a.o, reference, TRIAL_SPLIT, err) || repair_all(&a, err))
        goto out;
    o->calibrator = a.o.calibrator;
    const struct model swap = *c->model;
    *c->model = *a.best;
    *a.best = swap;
    rc = static_quantize(c->model, a.calibration, o, &a.choice, c->layers, c->warnings, err);
out:
    calibration_free(a.calibration);
    trial_fini(&a.t);
    model_free(a.best);
    model_free(reference);
    free(a.keep_float);
    return rc;
}
