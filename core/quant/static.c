/* SPDX-License-Identifier: Apache-2.0
 * static.c - quantize.static: 8-bit weights and activations with scales measured on calibration data, written as
 * QuantizeLinear / DequantizeLinear pairs, which every runtime either fuses into integer kernels or runs as they stand.
 * Steps      prepare (fold BatchNormalization, biases, constants) -> raise the opset if per-channel scales need it ->
 * forecast which values get scales -> calibrate (run the float model once, core/stats/calibrate.h) -> plan (qdq_plan.c)
 * -> rewrite (qdq_rewrite.c). */
#include <math.h>
#include <stdlib.h>

#include "core/passes/raise_opset.h"
#include "core/passes/weights.h"
#include "core/quant/qdq.h"
#include "core/quant/quantized.h"
#include "core/stats/sampling.h"

static const char *const activation_types[] = {"uint8", "int8", NULL};
static const char *const weight_types[] = {"int8", "uint8", NULL};
static const char *const calibrators[] = {"minmax", "moving_average", "percentile", "entropy", "mse", NULL};
static const char *const isas[] = {"portable", "vnni", NULL};

#define P(f) PARAM(quantize_static_params, f)
static const struct param params[] = {
    {P(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "calibration samples, spread evenly over the dataset"},
    {P(per_channel), .kind = PARAM_BOOL, .def = "true",
     .doc = "a weight scale for each output channel (needs opset 13) instead of one"},
    {P(activations), .kind = PARAM_ENUM, .choices = activation_types, .def = "\"uint8\"", .doc = "type of activations"},
    {P(weights), .kind = PARAM_ENUM, .choices = weight_types, .def = "\"int8\"",
     .doc = "type of weights (always symmetric)"},
    {P(symmetric), .kind = PARAM_BOOL, .def = "false", .doc = "symmetric activation ranges"},
    {P(calibrator), .kind = PARAM_ENUM, .choices = calibrators, .def = "\"minmax\"",
     .doc = "how the range of an activation is made from what was seen: minmax: the smallest and largest number; "
            "moving_average: the means over the samples of each one's smallest and largest number; percentile: the "
            "share given by percentile lies inside, half of the rest beyond each end; entropy: the least information "
            "(Kullback-Leibler divergence) is lost; mse: the least squared error of rounding and clipping"},
    {P(percentile), .kind = PARAM_NUMBER, .def = "99.999", .min = 50, .max = 100, .above_min = true,
     .doc = "of calibrator percentile: the percentage of the numbers seen that is not clipped"},
    {P(isa), .kind = PARAM_ENUM, .choices = isas, .def = "\"portable\"",
     .doc = "portable: exact on every CPU, also where two 8-bit products are added in 16 bits; vnni: full 8-bit "
            "weights for CPUs with VNNI or "
            "Arm dot products"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

struct sample_pass {
    struct step_ctx *ctx;
    struct calibration *calibration;
};

static int calibration_begin(void *arg, int64_t fixed, int64_t total, struct err *err)
{
    (void)err;
    calibration_start(((struct sample_pass *)arg)->calibration, fixed, total);
    return 0;
}

static int calibration_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    const struct sample_pass *p = arg;
    calibration_ran(p->calibration, done);
    return p->ctx->progress ? p->ctx->progress(p->ctx, "calibrate", done, total, err) : 0;
}

static int observe_samples(struct step_ctx *c, struct calibration *calibration, int64_t samples, struct err *err)
{
    struct sample_pass pass = {c, calibration};
    const struct sampling s = {.data = c->data, .pool = c->pool, .samples = samples,
                               .batch = calibration_batch(calibration), .observe = calibration_observe,
                               .observe_arg = calibration, .start = calibration_begin, .ran = calibration_progress,
                               .arg = &pass};
    if (sampling_run(c->model, &s, err) < 0)
        return -1;
    calibration_finish(calibration);
    return 0;
}

static int raise_for_quantization(struct step_ctx *c, struct quantize_static_params *o, struct err *err)
{
    struct err why = {0};
    if (o->per_channel &&
        raise_opset_for(c->model, 13, "DequantizeLinear with a scale per channel", c->warnings, &why)) {
        warnings_add(c->warnings, "weights get one scale each instead of one per channel: %s", why.msg);
        o->per_channel = false;
    }
    return o->per_channel ? 0 : raise_opset_for(c->model, 10, "QuantizeLinear", c->warnings, err);
}

static void report_left_alone(const struct qdq *q)
{
    for (uint32_t id = 0; id < q->n_nodes; id++) {
        if (!q->why[id] || !q->m->nodes[id].op_type || q->decision[id] != QDQ_FLOAT)
            continue;
        struct layer_row row = {.node = id, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = q->why[id]};
        layer_report_add(q->layers, q->m, &row);
    }
}

static bool tables_make(struct qdq *q)
{
    size_t nodes = q->m->n_nodes ? q->m->n_nodes : 1, values = q->m->n_values ? q->m->n_values : 1;
    q->n_nodes = q->m->n_nodes;
    q->n_values = q->m->n_values;
    q->decision = calloc(nodes, sizeof *q->decision);
    q->why = calloc(nodes, sizeof *q->why);
    q->wanted = calloc(values, sizeof *q->wanted);
    q->tail = calloc(values, sizeof *q->tail);
    q->quantized = calloc(values, sizeof *q->quantized);
    q->placed = calloc(values, sizeof *q->placed);
    q->measured = calloc(values, sizeof *q->measured);
    q->params = calloc(values, sizeof *q->params);
    return q->decision && q->why && q->wanted && q->tail && q->quantized && q->placed && q->measured &&
           q->params;
}

static void tables_free(struct qdq *q)
{
    free(q->decision);
    free(q->why);
    free(q->wanted);
    free(q->tail);
    free(q->quantized);
    free(q->placed);
    free(q->measured);
    free(q->params);
}

static int qdq_start(struct qdq *q, struct model *m, const struct quantize_static_params *o, struct err *err)
{
    *q = (struct qdq){.opts = o, .m = m};
    q->act = o->activations == 0 ? DTYPE_UINT8 : DTYPE_INT8;
    q->weight = o->weights == 0 ? DTYPE_INT8 : DTYPE_UINT8;
    q->act_min = (int32_t)dtype_min(q->act);
    q->act_max = (int32_t)dtype_max(q->act);
    if (!tables_make(q))
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    return edit_init(&q->edit, m, err) || infer_run(&q->infer, m, err) ? -1 : 0;
}

static void qdq_end(struct qdq *q)
{
    tables_free(q);
    infer_fini(&q->infer);
    edit_fini(&q->edit);
}

/* A forecast of the plan says which values need more than their ends. */
static int want_values(struct step_ctx *c, const struct quantize_static_params *o, struct calibration *calibration,
                       struct err *err)
{
    struct qdq q;
    int rc = qdq_start(&q, c->model, o, err) || qdq_plan(&q, err) ? -1 : 0;
    for (uint32_t v = 0; rc == 0 && v < q.n_values; v++)
        if (q.measured[v])
            calibration_want(calibration, v);
    qdq_end(&q);
    return rc;
}

struct calibration *static_calibrate(struct step_ctx *c, const struct quantize_static_params *o, struct err *err)
{
    const struct calibration_opts opts = {.calibrator = (enum calibrator)o->calibrator,
                                          .percentile = o->percentile,
                                          .levels = 256,
                                          .symmetric = o->symmetric,
                                          .pool = c->pool};
    struct calibration *calibration = calibration_new(c->model->n_values, &opts);
    if (!calibration)
        err_set(err, ERR_NOMEM, "out of memory while calibrating");
    else if (want_values(c, o, calibration, err) || observe_samples(c, calibration, o->samples, err)) {
        calibration_free(calibration);
        calibration = NULL;
    }
    return calibration;
}

int static_quantize(struct model *m, const struct calibration *calibration, const struct quantize_static_params *o,
                    const struct static_choice *choice, struct layer_report *layers, struct warnings *warnings,
                    struct err *err)
{
    struct qdq q;
    int rc = qdq_start(&q, m, o, err);
    q.calibration = calibration;
    q.choice = choice;
    q.layers = layers;
    q.warnings = warnings;
    if (rc == 0)
        rc = qdq_plan(&q, err) || qdq_rewrite(&q, err) ? -1 : 0;
    if (rc == 0) {
        report_left_alone(&q);
        rc = edit_finish(&q.edit, err);
    }
    qdq_end(&q);
    return rc;
}

int static_prepare(struct step_ctx *c, struct quantize_static_params *o, struct err *err)
{
    return passes_prepare(c->model, c->layers, c->warnings, err) || raise_for_quantization(c, o, err) ? -1 : 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct quantize_static_params o = *(const struct quantize_static_params *)c->params;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "quantize.static needs a dataset to calibrate on");
    if (quantized_refuse(c->model, "quantize.static", err) || static_prepare(c, &o, err))
        return -1;
    struct calibration *calibration = static_calibrate(c, &o, err);
    int rc = calibration ? static_quantize(c->model, calibration, &o, NULL, c->layers, c->warnings, err) : -1;
    calibration_free(calibration);
    return rc;
}

METHOD(quantize_static) = {
    .name = "quantize.static",
    .summary = "8-bit weights and activations, calibrated on data",
    .doc = "Weights of Conv, ConvTranspose, Gemm and MatMul become int8 with a scale per output channel, activations "
           "uint8 with scales from what the calibrator makes of the numbers seen, biases int32; written as "
           "QuantizeLinear / DequantizeLinear pairs. The scores at the end of the model stay in float. BatchNormalization and added constants are folded first.",
    .params = params,
    .params_size = sizeof(struct quantize_static_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run,
};
