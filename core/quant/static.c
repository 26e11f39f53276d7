/* SPDX-License-Identifier: Apache-2.0
 * static.c - quantize.static: weights in 4 to 16 bits and activations in 8 or 16 with scales measured on calibration
 * data, written as QuantizeLinear / DequantizeLinear pairs, which every runtime either fuses into integer kernels or runs
 * as they stand.
 * Steps      prepare (fold BatchNormalization, biases, constants) -> raise the opset if per-channel scales need it ->
 * forecast which values get scales -> calibrate (run the float model once, core/stats/calibrate.h) -> plan (qdq_plan.c)
 * -> rewrite (qdq_rewrite.c). */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "core/passes/raise_opset.h"
#include "core/passes/weights.h"
#include "core/quant/accurate.h"
#include "core/quant/data_check.h"
#include "core/quant/qdq.h"
#include "core/quant/qoperator.h"
#include "core/quant/quantized.h"
#include "core/stats/sampling.h"

const char *const static_activations[] = {"uint8", "int8", "uint16", "int16", NULL};
const char *const static_weights[] = {"int8", "uint8", "int4", "uint4", "int16", NULL};
const char *const static_calibrators[] = {"minmax", "moving_average", "percentile", "entropy", "mse", NULL};
const char *const static_formats[] = {"qdq", "qoperator", NULL};
static const char *const presets[] = {"default", "accurate", NULL};

#define P(f) PARAM(quantize_static_params, f)
static const struct param params[] = {
    {P(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "calibration samples, spread evenly over the dataset"},
    {P(per_channel), .kind = PARAM_BOOL, .def = "true",
     .doc = "a weight scale for each output channel (needs opset 13) instead of one"},
    {P(activations), .kind = PARAM_ENUM, .choices = static_activations, .def = "\"uint8\"",
     .given = PARAM_GIVEN(quantize_static_params, activations_given),
     .doc = "type of activations (isa=arm: int8 unless given). 16 bits lose almost nothing, and no runtime's CPU "
            "kernels multiply them in integers: such "
            "layers compute in float32"},
    {P(weights), .kind = PARAM_ENUM, .choices = static_weights, .def = "\"int8\"",
     .doc = "type of weights. int4 and uint4 need opset 21 (it is raised); only 8 bits are multiplied in integers"},
    {P(symmetric_weights), .kind = PARAM_BOOL, .def = "true",
     .doc = "false: weights with one scale (per_channel=false) get a zero point that uses all codes; "
            "int8 ones keep to 7 bits unless isa=vnni or arm"},
    {P(symmetric), .kind = PARAM_BOOL, .def = "false", .doc = "symmetric activation ranges"},
    {P(calibrator), .kind = PARAM_ENUM, .choices = static_calibrators, .def = "\"mse\"",
     .doc = "how the range of an activation is made from what was seen: minmax: the smallest and largest number; "
            "moving_average: the means over the samples of each one's smallest and largest number; percentile: the "
            "share given by percentile lies inside, half of the rest beyond each end; entropy: the least information "
            "(Kullback-Leibler divergence) is lost; mse: the least squared error of rounding and clipping"},
    {P(percentile), .kind = PARAM_NUMBER, .def = "99.999", .min = 50, .max = 100, .above_min = true,
     .doc = "of calibrator percentile: the percentage of the numbers seen that is not clipped"},
    {P(isa), .kind = PARAM_ENUM, .choices = isa_names, .def = "\"portable\"", .doc = ISA_DOC},
    {P(format), .kind = PARAM_ENUM, .choices = static_formats, .def = "\"qdq\"",
     .doc = "qdq: QuantizeLinear / DequantizeLinear pairs; qoperator: QLinearConv and its like"},
    {P(preset), .kind = PARAM_ENUM, .choices = presets, .def = "\"default\"",
     .doc = "accurate: weights are equalized, smoothed, rounded and biases corrected on the samples first, which takes "
            "longer"},
    {P(overrides), .kind = PARAM_JSON,
     .doc =
         "other choices for some places: {KEY: {...}, ...}, KEY a glob over node names, op:TYPE, or tensor:GLOB over "
         "values. For nodes: float (true: stays in float; false: is quantized, also where it would not be), "
         "activations, weights, per_channel, symmetric. For tensors: float, activations, symmetric, range ([lowest, "
         "highest] number instead of the calibrator's)"},
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

static int observe_samples(struct step_ctx *c, const struct quantize_static_params *o, struct calibration *calibration,
                           struct err *err)
{
    struct sample_pass pass = {c, calibration};
    struct data_check look;
    if (data_check_begin(&look, c->model, calibration, err))
        return -1;
    const struct sampling s = {.data = c->data,
                               .pool = c->pool,
                               .samples = o->samples,
                               .index = o->index,
                               .n_index = o->n_index,
                               .batch = calibration_batch(calibration),
                               .observe = data_check_observe,
                               .watch = look.watch,
                               .any_order = true,
                               .observe_arg = &look,
                               .start = calibration_begin,
                               .ran = calibration_progress,
                               .arg = &pass};
    const int64_t done = sampling_run(c->model, &s, err);
    data_check_end(&look, c->model, done, c->warnings);
    if (done < 0)
        return -1;
    calibration_finish(calibration);
    return 0;
}

/* What the parameters or an override ask of the opset. */
static void asked_forms(const struct quantize_static_params *o, const struct overrides *list, bool *channels,
                        bool *four_bits)
{
    *channels = o->per_channel;
    *four_bits = dtype_bits(override_weights[o->weights]) == 4;
    for (int i = 0; i < list->count; i++) {
        *channels = *channels || list->at[i].per_channel == 1;
        *four_bits = *four_bits || (list->at[i].weights != DTYPE_NONE && dtype_bits(list->at[i].weights) == 4);
    }
}

static int raise_for_quantization(struct step_ctx *c, struct quantize_static_params *o, struct err *err)
{
    struct err why = {0};
    struct overrides list;
    bool channels, four_bits;
    if (overrides_parse(o->overrides, &list, err))
        return -1;
    asked_forms(o, &list, &channels, &four_bits);
    overrides_fini(&list);
    if (four_bits && raise_opset_for(c->model, 21, "a tensor of 4-bit integers", c->warnings, &why)) {
        warnings_add(c->warnings, "4-bit weights use com.microsoft.DequantizeLinear, which ONNX Runtime has: %s",
                     why.msg);
        why = (struct err){0};
    }
    if (channels && raise_opset_for(c->model, 13, "DequantizeLinear with a scale per channel", c->warnings, &why)) {
        warnings_add(c->warnings, "weights get one scale each instead of one per channel: %s", why.msg);
        o->per_channel = false;
    }
    return raise_opset_for(c->model, 10, "QuantizeLinear", c->warnings, err);
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
    q->node = calloc(nodes, sizeof *q->node);
    q->value = calloc(values, sizeof *q->value);
    q->decision = calloc(nodes, sizeof *q->decision);
    q->why = calloc(nodes, sizeof *q->why);
    q->wanted = calloc(values, sizeof *q->wanted);
    q->tail = calloc(values, sizeof *q->tail);
    q->quantized = calloc(values, sizeof *q->quantized);
    q->placed = calloc(values, sizeof *q->placed);
    q->measured = calloc(values, sizeof *q->measured);
    q->params = calloc(values, sizeof *q->params);
    return q->node && q->value && q->decision && q->why && q->wanted && q->tail && q->quantized && q->placed &&
           q->measured && q->params;
}

static void tables_free(struct qdq *q)
{
    free(q->node);
    free(q->value);
    free(q->decision);
    free(q->why);
    free(q->wanted);
    free(q->tail);
    free(q->quantized);
    free(q->placed);
    free(q->measured);
    free(q->params);
}

static int qdq_start(struct qdq *q, struct model *m, const struct quantize_static_params *o,
                     const struct static_choice *choice, struct warnings *warnings, struct err *err)
{
    *q = (struct qdq){.opts = o, .m = m, .choice = choice, .warnings = warnings};
    if (!tables_make(q))
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    return edit_init(&q->edit, m, err) || infer_run(&q->infer, m, err) || qdq_options(q, err) ? -1 : 0;
}

static void qdq_end(struct qdq *q)
{
    tables_free(q);
    infer_fini(&q->infer);
    edit_fini(&q->edit);
}

/* Will the plan ask what was seen of this output? Not of a product's that an activation behind it takes over: the two run
 * as one node then. */
static bool output_is_asked(struct qdq *q, uint32_t node, uint32_t v)
{
    if (v == VALUE_NONE || q->decision[node] == QDQ_FLOAT)
        return false;
    const uint32_t reader = edit_only_reader(&q->edit, v);
    if (q->decision[node] != QDQ_PRODUCT || q->quantized[v] || reader == NODE_NONE || reader >= q->n_nodes)
        return true;
    const struct op_class *op = node_class(q->m, &q->m->nodes[reader]);
    return !op || op->quant.kind != QUANT_ABSORB;
}

/* A forecast of the plan says which values need more than their ends. */
static int want_values(struct step_ctx *c, const struct quantize_static_params *o, struct calibration *calibration,
                       struct err *err)
{
    struct qdq q;
    int rc = qdq_start(&q, c->model, o, NULL, NULL, err) || qdq_plan(&q, err) ? -1 : 0;
    for (uint32_t v = 0; rc == 0 && v < q.n_values; v++) {
        if (q.measured[v])
            calibration_want(calibration, v);
        if (q.quantized[v] || q.wanted[v]) /* the plan asks whether they are finite */
            calibration_watch(calibration, v);
    }
    for (uint32_t id = 0; rc == 0 && id < q.n_nodes; id++)
        for (int k = 0; q.m->nodes[id].op_type && k < q.m->nodes[id].n_output; k++)
            if (output_is_asked(&q, id, q.m->nodes[id].output[k]))
                calibration_watch(calibration, q.m->nodes[id].output[k]);
    qdq_end(&q);
    return rc;
}

/* Products' inputs, channel by channel: a pass of its own, where isa asks for it. */
static int observe_channels(struct step_ctx *c, const struct quantize_static_params *o, struct calibration *calibration,
                            struct err *err)
{
    struct qdq q;
    if (!isa_row(o->isa)->measured)
        return 0;
    struct channel_ranges *channels = channel_ranges_new(c->model->n_values);
    int rc = qdq_start(&q, c->model, o, NULL, NULL, err) || qdq_plan(&q, err) ? -1 : 0;
    for (uint32_t id = 0; rc == 0 && channels && id < q.n_nodes; id++)
        if (q.decision[id] == QDQ_PRODUCT)
            channel_ranges_want(channels, c->model->nodes[id].input[0], qdq_input_axis(&c->model->nodes[id]));
    qdq_end(&q);
    if (rc == 0 && !channels)
        rc = err_set(err, ERR_NOMEM, "out of memory while calibrating");
    const struct sampling s = {.data = c->data,
                               .pool = c->pool,
                               .samples = o->samples,
                               .index = o->index,
                               .n_index = o->n_index,
                               .observe = channel_ranges_observe,
                               .observe_arg = channels};
    if (rc == 0 && sampling_run(c->model, &s, err) < 0)
        rc = -1;
    if (rc == 0)
        calibration_keep_channels(calibration, channels);
    else
        channel_ranges_free(channels);
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
    else if (want_values(c, o, calibration, err) || observe_samples(c, o, calibration, err) ||
             observe_channels(c, o, calibration, err)) {
        calibration_free(calibration);
        calibration = NULL;
    }
    return calibration;
}

int static_layers(struct model *m, const struct calibration *calibration, const struct quantize_static_params *o,
                  bool *layer, struct err *err)
{
    struct qdq q;
    int rc = qdq_start(&q, m, o, NULL, NULL, err);
    q.calibration = calibration;
    if (rc == 0)
        rc = qdq_plan(&q, err);
    for (uint32_t id = 0; rc == 0 && id < q.n_nodes; id++)
        layer[id] = q.decision[id] == QDQ_PRODUCT;
    qdq_end(&q);
    return rc;
}

int static_quantize(struct model *m, const struct calibration *calibration, const struct quantize_static_params *o,
                    const struct static_choice *choice, struct layer_report *layers, struct warnings *warnings,
                    struct err *err)
{
    struct qdq q;
    int rc = qdq_start(&q, m, o, choice, warnings, err);
    q.calibration = calibration;
    q.layers = layers;
    if (rc == 0)
        rc = qdq_plan(&q, err) || qdq_rewrite(&q, err) ? -1 : 0;
    if (rc == 0) {
        report_left_alone(&q);
        rc = edit_finish(&q.edit, err);
    }
    qdq_end(&q);
    if (rc == 0 && o->format == FORMAT_QOPERATOR)
        rc = qoperator_rewrite(m, layers, warnings, err);
    return rc;
}

int static_prepare(struct step_ctx *c, struct quantize_static_params *o, struct err *err)
{
    for (int i = 0; !o->activations_given && override_activations[i] != DTYPE_NONE; i++)
        if (override_activations[i] == isa_row(o->isa)->activations)
            o->activations = i;
    return passes_prepare(c->model, c->layers, c->warnings, err) || raise_for_quantization(c, o, err) ? -1 : 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct quantize_static_params o = *(const struct quantize_static_params *)c->params;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "quantize.static needs a dataset to calibrate on");
    if (quantized_refuse(c->model, "quantize.static", err))
        return -1;
    if (o.preset == PRESET_ACCURATE)
        return static_accurate(c, &o, err);
    if (static_prepare(c, &o, err))
        return -1;
    struct calibration *calibration = static_calibrate(c, &o, err);
    int rc = calibration ? static_quantize(c->model, calibration, &o, NULL, c->layers, c->warnings, err) : -1;
    calibration_free(calibration);
    return rc;
}

static void check(const void *parsed, const char *pointer, struct faults *faults)
{
    const struct quantize_static_params *o = parsed;
    char at[1024];
    snprintf(at, sizeof at, "%.900s/symmetric_weights", pointer);
    overrides_check(o->overrides, pointer, faults);
    if (!o->symmetric_weights && o->per_channel)
        faults_add(faults, at, "asymmetric weights have one scale: they need per_channel=false");
}

METHOD(quantize_static) = {
    .name = "quantize.static",
    .summary = "weights in 4 to 16 bits and activations in 8 or 16 bits, calibrated on data",
    .doc =
        "Weights of Conv, ConvTranspose, Gemm and MatMul become int8 (or uint8, int4, uint4, int16) with a scale per "
        "output channel, activations uint8 (or int8, uint16, int16) with scales from what the calibrator makes of "
        "the numbers seen, biases int32; written as QuantizeLinear / DequantizeLinear pairs, or in 8 bits as "
        "QLinearConv and its like. The scores at the end of the model stay in float. BatchNormalization and added "
        "constants are folded first.",
    .params = params,
    .params_size = sizeof(struct quantize_static_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .check = check,
    .run = run,
};
