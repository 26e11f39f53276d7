/* SPDX-License-Identifier: Apache-2.0
 * static.c - quantize.static: 8-bit weights and activations with scales measured on calibration data, written as
 * QuantizeLinear / DequantizeLinear pairs, which every runtime either fuses into integer kernels or runs as they stand.
 * Steps      prepare (fold BatchNormalization, biases, constants) -> raise the opset if per-channel scales need it ->
 * calibrate (run the float model, keep the smallest and largest number of every value) -> plan (qdq_plan.c) -> rewrite
 * (qdq_rewrite.c). */
#include <math.h>
#include <stdlib.h>

#include "core/passes/raise_opset.h"
#include "core/passes/weights.h"
#include "core/quant/qdq.h"
#include "core/stats/evaluate.h"

static const char *const activation_types[] = {"uint8", "int8", NULL};
static const char *const weight_types[] = {"int8", "uint8", NULL};
static const char *const calibrators[] = {"minmax", NULL};
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
     .doc = "how a range is made from what was seen"},
    {P(isa), .kind = PARAM_ENUM, .choices = isas, .def = "\"portable\"",
     .doc = "portable: exact on every CPU, also where two 8-bit products are added in 16 bits; vnni: full 8-bit "
            "weights for CPUs with VNNI or "
            "Arm dot products"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

static int calibration_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "calibrate", done, total, err) : 0;
}

static int calibrate(struct step_ctx *c, struct ranges *ranges, int64_t samples, struct err *err)
{
    struct plan *plan = plan_new(c->model, &(struct plan_opts){.pool = c->pool}, err);
    struct plan_run_opts run = {.observe = ranges_observe, .observe_arg = ranges};
    struct evaluate_opts opts = {.pool = c->pool, .run = &run, .progress = calibration_progress, .progress_arg = c};
    int64_t *index = NULL;
    int rc = -1;
    if (!plan)
        return -1;
    opts.n_index = dataset_spread(c->data, samples, &index, err);
    opts.index = index;
    if (opts.n_index == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: calibration needs at least one sample");
    if (opts.n_index > 0 && evaluate_each(plan, c->model, c->data, &opts, NULL, NULL, err) > 0)
        rc = 0;
    free(index);
    plan_free(plan);
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
    q->params = calloc(values, sizeof *q->params);
    return q->decision && q->why && q->wanted && q->tail && q->quantized && q->placed && q->params;
}

static void tables_free(struct qdq *q)
{
    free(q->decision);
    free(q->why);
    free(q->wanted);
    free(q->tail);
    free(q->quantized);
    free(q->placed);
    free(q->params);
}

static int quantize(struct step_ctx *c, const struct quantize_static_params *o, const struct ranges *ranges,
                    struct err *err)
{
    struct qdq q = {.opts = o, .m = c->model, .ranges = ranges, .layers = c->layers, .warnings = c->warnings};
    int rc = -1;
    q.act = o->activations == 0 ? DTYPE_UINT8 : DTYPE_INT8;
    q.weight = o->weights == 0 ? DTYPE_INT8 : DTYPE_UINT8;
    q.act_min = (int32_t)dtype_min(q.act);
    q.act_max = (int32_t)dtype_max(q.act);
    if (edit_init(&q.edit, c->model, err))
        return -1;
    if (infer_run(&q.infer, c->model, err))
        goto out;
    if (!tables_make(&q)) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
        goto out;
    }
    if (qdq_plan(&q, err) || qdq_rewrite(&q, err))
        goto out;
    report_left_alone(&q);
    rc = edit_finish(&q.edit, err);
out:
    tables_free(&q);
    infer_fini(&q.infer);
    edit_fini(&q.edit);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct quantize_static_params o = *(const struct quantize_static_params *)c->params;
    struct ranges *ranges = NULL;
    int rc = -1;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "quantize.static needs a dataset to calibrate on");
    if (passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (raise_for_quantization(c, &o, err))
        return -1;
    ranges = ranges_new(c->model->n_values);
    if (!ranges)
        return err_set(err, ERR_NOMEM, "out of memory while calibrating");
    if (calibrate(c, ranges, o.samples, err) == 0)
        rc = quantize(c, &o, ranges, err);
    ranges_free(ranges);
    return rc;
}

METHOD(quantize_static) = {
    .name = "quantize.static",
    .summary = "8-bit weights and activations, calibrated on data",
    .doc = "Weights of Conv, ConvTranspose, Gemm and MatMul become int8 with a scale per output channel, activations "
           "uint8 with scales from the "
           "smallest and largest number seen, biases int32; written as QuantizeLinear / DequantizeLinear pairs. The "
           "scores at the end of the "
           "model stay in float. BatchNormalization and added constants are folded first.",
    .params = params,
    .params_size = sizeof(struct quantize_static_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run,
};
