/* SPDX-License-Identifier: Apache-2.0
 * auto.c - quantize.auto: quantize.static, with the fewest layers left out that a limit on the loss of accuracy asks for.
 * Steps      split (core/data/split.h) unless validation data was given -> prepare, calibrate (static.h) -> rank layers by what
 *            8 bits cost each (auto_rank.c) -> search (auto_search.c) -> quantize the model itself with the best set.
 * Samples    ranges and sensitivities come from calibration samples, decisions from validation samples only. */
#include <math.h>
#include <stdlib.h>

#include "core/base/clock.h"
#include "core/data/split.h"
#include "core/quant/auto.h"
#include "core/quant/quantized.h"

enum { PROBE_SAMPLES = 32 };

static const char *const fallbacks[] = {"float", "int16", NULL};
static const char *const sensitivities[] = {"auto", "one_at_a_time", "fisher", NULL};

#define P(f) PARAM(quantize_auto_params, f)
#define S(f) .name = #f, .offset = offsetof(struct quantize_auto_params, s) + offsetof(struct quantize_static_params, f)
static const struct param params[] = {
    {P(max_drop), .kind = PARAM_NUMBER, .def = "0.005", .min = 0, .max = 1,
     .doc = "what may be lost, as a fraction: of top-1 where the data has labels; else the share of samples whose "
            "largest score "
            "moves; of outputs that are no scores, noise over signal (0.005 is 23 dB)"},
    {P(fallback), .kind = PARAM_ENUM, .choices = fallbacks, .def = "\"float\"",
     .doc = "what sensitive layers become: float32, or int16 weights and 16-bit activations"},
    {P(evaluations), .kind = PARAM_INT, .def = "200", .min = 1, .max = 100000,
     .doc = "most runs of a candidate over its samples, sensitivities included"},
    {P(budget_s), .kind = PARAM_NUMBER, .def = "0", .min = 0, .max = 1e6,
     .doc = "most seconds for sensitivities and search; the best found by then is taken. 0: no limit. With a limit in "
            "seconds the "
            "result may depend on the machine's speed; with evaluations alone it does not"},
    {P(sensitivity), .kind = PARAM_ENUM, .choices = sensitivities, .def = "\"auto\"",
     .doc = "one_at_a_time: the divergence when only this layer is quantized; fisher: by gradients, weights only, in "
            "about three "
            "runs for all layers; auto: the first where it takes at most half of the budgets"},
    {P(validation_samples), .kind = PARAM_INT, .def = "1000", .min = 1, .max = 1000000,
     .doc = "samples to decide by, spread evenly over the validation data: val_dataset, else a tenth of the dataset "
            "(by class, "
            "seeded), which is then not calibrated on"},
    {S(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000, .doc = "calibration samples"},
    {S(per_channel), .kind = PARAM_BOOL, .def = "true", .doc = "as quantize.static"},
    {S(activations), .kind = PARAM_ENUM, .choices = static_activations, .def = "\"uint8\"", .doc = "as quantize.static",
     .given = PARAM_GIVEN(quantize_auto_params, s.activations_given)},
    {S(weights), .kind = PARAM_ENUM, .choices = static_weights, .def = "\"int8\"", .doc = "as quantize.static"},
    {S(symmetric), .kind = PARAM_BOOL, .def = "false", .doc = "as quantize.static"},
    {S(calibrator), .kind = PARAM_ENUM, .choices = static_calibrators, .def = "\"minmax\"",
     .doc = "as quantize.static"},
    {S(percentile), .kind = PARAM_NUMBER, .def = "99.999", .min = 50, .max = 100, .above_min = true,
     .doc = "as quantize.static"},
    {S(isa), .kind = PARAM_ENUM, .choices = isa_names, .def = "\"portable\"", .doc = ISA_DOC},
    {S(format), .kind = PARAM_ENUM, .choices = static_formats, .def = "\"qdq\"", .doc = "as quantize.static"},
    {S(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {S(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

/* Which samples are for what. */
struct samples {
    struct split split;
    struct dataset *judge_data;
    int64_t *judge, *probe;
    int64_t n_judge, n_probe;
};

static void samples_fini(struct samples *s)
{
    split_fini(&s->split);
    free(s->judge);
    free(s->probe);
}

static int samples_make(struct samples *s, struct step_ctx *c, const struct quantize_auto_params *p, struct err *err)
{
    const bool given = c->val_data != NULL;
    const int64_t n = dataset_count(c->data);
    if (n < 1 || (given && dataset_count(c->val_data) < 1))
        return err_set(err, ERR_DATASET, "%s is empty: it needs samples",
                       n < 1 ? "the dataset" : "the validation dataset");
    if (!given && split_dataset(&s->split, c->data, SPLIT_HELD_OUT, c->seed, err))
        return -1;
    s->judge_data = given ? c->val_data : c->data;
    s->probe = calloc((size_t)n + 1, sizeof *s->probe);
    s->judge = calloc((size_t)s->split.n_held + 1, sizeof *s->judge);
    if (!s->probe || !s->judge)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (given) {
        free(s->judge);
        s->n_judge = dataset_spread(c->val_data, p->validation_samples, &s->judge, err);
        for (int64_t i = 0; i < n; i++)
            s->probe[i] = i;
        s->n_probe = split_spread(s->probe, n, PROBE_SAMPLES, s->probe);
    } else {
        s->n_judge = split_spread(s->split.held, s->split.n_held, p->validation_samples, s->judge);
        s->n_probe = split_spread(s->split.rest, s->split.n_rest, PROBE_SAMPLES, s->probe);
    }
    return s->n_judge < 0 ? -1 : 0;
}

static int list_layers(struct auto_run *a, struct err *err)
{
    struct model *m = a->c->model;
    if (static_layers(m, a->calibration, &a->p->s, a->chosen, err))
        return -1;
    for (uint32_t id = 0; id < m->n_nodes; id++)
        a->n_layers += a->chosen[id];
    a->layers = calloc((size_t)a->n_layers + 1, sizeof *a->layers);
    if (!a->layers)
        return err_set(err, ERR_NOMEM, "out of memory");
    int n = 0;
    for (uint32_t id = 0; id < m->n_nodes; id++)
        if (a->chosen[id])
            a->layers[n++] = (struct auto_layer){.node = id,
                                                 .weight = m->nodes[id].input[1],
                                                 .sensitivity = NAN,
                                                 .elements = tensor_count(value_const(m, m->nodes[id].input[1]))};
    return 0;
}

static void report_ranking(const struct auto_run *a)
{
    const char *kept = a->p->fallback == AUTO_INT16 ? "int16" : "float32";
    for (int i = 0; i < a->n_layers; i++) {
        const struct auto_layer *l = &a->layers[i];
        struct layer_row row = {.node = l->node, .weight = l->weight, .sqnr_db = NAN};
        row.after = json_pack("{s:i,s:s}", "rank", i + 1, "decision",
                              l->kept ? kept : dtype_name(a->p->s.weights == 1 ? DTYPE_UINT8 : DTYPE_INT8));
        if (row.after && !isnan(l->sensitivity)) {
            json_object_set_new(row.after, "sensitivity", json_real(l->sensitivity));
            json_object_set_new(row.after, "measured", json_string(a->measured_by));
        }
        layer_report_add(a->c->layers, a->c->model, &row);
    }
}

static void warn(const struct auto_run *a, const struct samples *s)
{
    struct warnings *w = a->c->warnings;
    const struct closeness *own = reference_own(a->judge);
    if (own->classes && a->p->max_drop > 0 && (double)s->n_judge * a->p->max_drop < 1)
        warnings_add(w,
                     "quantize.auto decided by %lld samples, which cannot tell a drop of %g from none; give a larger "
                     "val_dataset",
                     (long long)s->n_judge, a->p->max_drop);
    if (a->out_of_budget)
        warnings_add(
            w, "quantize.auto stopped after %lld evaluations, at the end of its budget; the best so far was taken",
            (long long)a->evaluations);
    if (!a->best_passes)
        warnings_add(w, "quantize.auto found no set of layers within max_drop %g; the best loses %g", a->p->max_drop,
                     a->best_drop);
    if (a->n_layers > 0 && a->best_kept == a->n_layers)
        warnings_add(w, "quantize.auto left every layer out: max_drop %g cannot be met otherwise", a->p->max_drop);
}

/* The model itself, as the best candidate was. */
static int apply_best(struct auto_run *a, struct err *err)
{
    struct static_choice choice = {0};
    *(a->p->fallback == AUTO_INT16 ? &choice.wide : &choice.keep_float) = a->chosen;
    for (uint32_t id = 0; id < a->c->model->n_nodes; id++)
        a->chosen[id] = false;
    for (int i = 0; i < a->n_layers; i++)
        a->chosen[a->layers[i].node] = a->layers[i].kept;
    return static_quantize(a->c->model, a->calibration, &a->p->s, &choice, a->c->layers, a->c->warnings, err);
}

static int progress_of(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "evaluate", done, total, err) : 0;
}

static int decide(struct auto_run *a, const struct samples *s, struct err *err)
{
    const struct reference_opts judge = {.data = s->judge_data,
                                         .index = s->judge,
                                         .n = s->n_judge,
                                         .pool = a->c->pool,
                                         .progress = progress_of,
                                         .progress_arg = a->c};
    struct reference_opts probe = judge;
    probe.data = a->c->data;
    probe.index = s->probe;
    probe.n = s->n_probe;
    a->probe_index = s->probe;
    a->n_probe = s->n_probe;
    a->judge = reference_new(a->c->model, &judge, err);
    a->probe = a->judge ? reference_new(a->c->model, &probe, err) : NULL;
    if (!a->probe)
        return -1;
    a->started = clock_seconds();
    return auto_rank(a, err) || auto_search(a, err) ? -1 : 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct quantize_auto_params p = *(const struct quantize_auto_params *)c->params;
    struct auto_run a = {.c = c, .p = &p};
    struct samples s = {0};
    int rc = -1;
    p.s.symmetric_weights = true;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "quantize.auto needs a dataset to calibrate on and to decide by");
    if (quantized_refuse(c->model, "quantize.auto", err) || samples_make(&s, c, &p, err) ||
        static_prepare(c, &p.s, err))
        goto out;
    p.s.index = s.split.rest;
    p.s.n_index = s.split.n_rest;
    a.calibration = static_calibrate(c, &p.s, err);
    a.chosen = calloc(c->model->n_nodes + (size_t)1, sizeof *a.chosen);
    if (!a.chosen)
        err_set(err, ERR_NOMEM, "out of memory");
    if (!a.calibration || !a.chosen || list_layers(&a, err) || (a.n_layers > 0 && decide(&a, &s, err)))
        goto out;
    report_ranking(&a);
    if (a.judge)
        warn(&a, &s);
    rc = apply_best(&a, err);
out:
    reference_free(a.judge);
    reference_free(a.probe);
    calibration_free(a.calibration);
    free(a.layers);
    free(a.chosen);
    samples_fini(&s);
    return rc;
}

METHOD(quantize_auto) = {
    .name = "quantize.auto",
    .summary = "8 bits wherever max_drop allows it: sensitive layers are found and left in float",
    .doc = "Measures on calibration samples what 8 bits cost each layer, then finds on validation samples the smallest "
           "set of layers "
           "that must stay in float (or become int16) for the loss to be at most max_drop. The report has the ranking "
           "and every "
           "trial.",
    .params = params,
    .params_size = sizeof(struct quantize_auto_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run,
};
