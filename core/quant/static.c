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
#include "core/stats/evaluate.h"

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

static int calibration_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    const struct sample_pass *p = arg;
    calibration_ran(p->calibration, done);
    return p->ctx->progress ? p->ctx->progress(p->ctx, "calibrate", done, total, err) : 0;
}

static int calibrate(struct step_ctx *c, struct calibration *calibration, int64_t samples, struct err *err)
{
    struct plan *plan = plan_new(c->model, &(struct plan_opts){.pool = c->pool}, err);
    struct plan_run_opts run = {.observe = calibration_observe, .observe_arg = calibration};
    struct sample_pass pass = {c, calibration};
    struct evaluate_opts opts = {.pool = c->pool, .batch = calibration_batch(calibration), .run = &run,
                                 .progress = calibration_progress, .progress_arg = &pass};
    int64_t *index = NULL, fixed_batch;
    bool fixed = false;
    int rc = -1;
    if (!plan)
        return -1;
    opts.n_index = dataset_spread(c->data, samples, &index, err);
    opts.index = index;
    fixed_batch = evaluate_batch_size(plan, NULL, 1, &fixed);
    calibration_start(calibration, fixed && !dataset_single_feed(c->data) ? fixed_batch : 0, opts.n_index);
    if (opts.n_index == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: calibration needs at least one sample");
    if (opts.n_index > 0 && evaluate_each(plan, c->model, c->data, &opts, NULL, NULL, err) > 0)
        rc = 0;
    free(index);
    plan_free(plan);
    if (rc == 0)
        calibration_finish(calibration);
    return rc;
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

/* Run the samples, collecting more than the ends only of values that will need it. The tables are fresh again after. */
static struct calibration *measure(struct step_ctx *c, struct qdq *q, struct err *err)
{
    const struct calibration_opts opts = {.calibrator = (enum calibrator)q->opts->calibrator,
                                          .percentile = q->opts->percentile,
                                          .levels = q->act_max - q->act_min + 1,
                                          .symmetric = q->opts->symmetric,
                                          .pool = c->pool};
    struct calibration *calibration = calibration_new(c->model->n_values, &opts);
    if (!calibration || !tables_make(q)) {
        err_set(err, ERR_NOMEM, "out of memory while calibrating");
        goto fail;
    }
    if (qdq_plan(q, err))
        goto fail;
    for (uint32_t v = 0; v < q->n_values; v++)
        if (q->measured[v])
            calibration_want(calibration, v);
    tables_free(q);
    if (!tables_make(q)) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
        goto fail;
    }
    if (calibrate(c, calibration, q->opts->samples, err))
        goto fail;
    return calibration;
fail:
    calibration_free(calibration);
    return NULL;
}

static int quantize(struct step_ctx *c, const struct quantize_static_params *o, struct err *err)
{
    struct qdq q = {.opts = o, .m = c->model, .layers = c->layers, .warnings = c->warnings};
    struct calibration *calibration = NULL;
    int rc = -1;
    q.act = o->activations == 0 ? DTYPE_UINT8 : DTYPE_INT8;
    q.weight = o->weights == 0 ? DTYPE_INT8 : DTYPE_UINT8;
    q.act_min = (int32_t)dtype_min(q.act);
    q.act_max = (int32_t)dtype_max(q.act);
    if (edit_init(&q.edit, c->model, err))
        return -1;
    if (infer_run(&q.infer, c->model, err))
        goto out;
    calibration = measure(c, &q, err);
    if (!calibration)
        goto out;
    q.calibration = calibration;
    if (qdq_plan(&q, err) || qdq_rewrite(&q, err))
        goto out;
    report_left_alone(&q);
    rc = edit_finish(&q.edit, err);
out:
    calibration_free(calibration);
    tables_free(&q);
    infer_fini(&q.infer);
    edit_fini(&q.edit);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct quantize_static_params o = *(const struct quantize_static_params *)c->params;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "quantize.static needs a dataset to calibrate on");
    if (passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (raise_for_quantization(c, &o, err))
        return -1;
    return quantize(c, &o, err);
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
