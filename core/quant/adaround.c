/* SPDX-License-Identifier: Apache-2.0
 * adaround.c - quantize.adaround: codes of weights chosen for the outputs of their layers, without labels.
 * Result     a float model whose weights lie on the grid scale * code, with a note of it (grid.h), so that
 *            quantize.static
 *            with the same `weights` and `per_channel` takes exactly these codes. Scales start as quantize.static's.
 * Steps      prepare as quantize.static does (BatchNormalization folded: later it would move weights off the grid)
 *            -> Gram
 *            matrices and some rows of every product's input (core/stats/gram.h), pass by pass -> codes of each
 *            layer by
 *            itself (adaround_gram.c, adaround_adam.c) -> weights replaced. */
#include "core/quant/adaround.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/passes/pass.h"
#include "core/passes/weights.h"
#include "core/quant/grid.h"
#include "core/quant/quantized.h"
#include "core/quant/wide_weight.h"
#include "core/step/method.h"

enum { ALGORITHM_GPTQ, ALGORITHM_ADAROUND };

const char *const adaround_weights[] = {"int8", "uint8", "int4", NULL};
static const enum dtype weight_types[] = {DTYPE_INT8, DTYPE_UINT8, DTYPE_INT4};
static const char *const algorithms[] = {"gptq", "adaround", NULL};

#define P(f) PARAM(quantize_adaround_params, f)
static const struct param params[] = {
    {P(samples), .kind = PARAM_INT, .def = "256", .min = 1, .max = 1000000,
     .doc = "samples whose inputs to each layer are looked at, spread evenly over the dataset"},
    {P(weights), .kind = PARAM_ENUM, .choices = adaround_weights, .def = "\"int8\"",
     .doc = "type of the codes (always symmetric); give quantize.static the same"},
    {P(per_channel), .kind = PARAM_BOOL, .def = "true",
     .doc = "a scale for each output channel instead of one; give quantize.static the same"},
    {P(algorithm), .kind = PARAM_ENUM, .choices = algorithms, .def = "\"gptq\"",
     .doc = "gptq: from the second moments of the inputs, errors of codes already chosen are made up for by "
            "those still to "
            "come, then single codes and scales change as long as the error falls; adaround: from there, each code "
            "stays or moves to its neighbour, by gradient descent on a soft choice, through the Relu or Clip behind "
            "the layer; much slower"},
    {P(iterations), .kind = PARAM_INT, .def = "2000", .min = 1, .max = 1000000,
     .doc = "of algorithm adaround, for each layer"},
    {P(rows), .kind = PARAM_INT, .def = "2048", .min = 16, .max = 1000000,
     .doc = "of algorithm adaround: most input vectors of a layer that are kept, drawn evenly from all"},
    {P(isa), .kind = PARAM_ENUM, .choices = isa_names, .def = "\"portable\"", .doc = ISA_DOC},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

/* A layer that was rounded: what to write when all are. */
struct chosen {
    uint32_t node, value;
    int axis; /* of the scales; -1 */
    struct tensor weight, scale;
    json_t *facts;
    double sqnr;
    const char *why; /* left alone; NULL */
};

struct rounding_run {
    struct step_ctx *ctx;
    const struct quantize_adaround_params *o;
    struct uses uses;
    uint32_t *nodes; /* products to look at */
    int64_t n;
    struct chosen *chosen; /* [n] */
    int64_t done, few_rows;
};

/* ---- which layers ---- */
/* NULL: its codes can be chosen. "": it is no product. */
static const char *refusal(const struct rounding_run *r, uint32_t node)
{
    const struct model *m = r->ctx->model;
    const struct node *n = &m->nodes[node];
    struct weight_ref ref;
    const char *why = NULL;
    char label[200];
    enum dtype dtype;
    int axis;
    const struct tensor *scale;
    if (!n->op_type || !node_is_rewritable(m, node) || !product_weight(m, node, &ref, &why))
        return "";
    if (!globs_select(&r->o->include, &r->o->exclude, node_label(m, node, label, sizeof label)))
        return "not selected by include and exclude";
    if (why)
        return why;
    if (ref.slot != 1 || ref.value != n->input[1] || !m->values[ref.value].weight || !value_const(m, ref.value))
        return "its weight is not a plain initializer on the right";
    if (ref.tensor->dtype != DTYPE_FLOAT)
        return "its weight is not float32";
    if (uses_count(&r->uses, ref.value) != 1)
        return "its weight is read by other nodes too";
    if (grid_note_get(m, ref.value, &dtype, &axis, &scale))
        return "its weight lies on a quantization grid already";
    if (node_is(n, "Gemm") && node_attr_int(n, "transA", 0) != 0)
        return "it transposes its input";
    if ((why = gram_refusal(m, node)))
        return why;
    for (int64_t i = 0, count = tensor_count(ref.tensor); i < count; i++)
        if (!isfinite(tensor_f32(ref.tensor)[i]))
            return "its weight has elements that are not finite";
    return NULL;
}

static int find_layers(struct rounding_run *r, struct err *err)
{
    const struct model *m = r->ctx->model;
    r->nodes = malloc(((size_t)m->n_nodes + 1) * sizeof *r->nodes);
    if (!r->nodes)
        return err_set(err, ERR_NOMEM, "out of memory while rounding weights");
    for (uint32_t id = 0; id < m->n_nodes; id++) {
        const char *why = refusal(r, id);
        if (!why)
            r->nodes[r->n++] = id;
        else if (*why)
            layer_report_add(r->ctx->layers, m, &(struct layer_row){.node = id, .weight = VALUE_NONE,
                                                                    .sqnr_db = NAN, .skipped = why});
    }
    r->chosen = calloc((size_t)r->n + 1, sizeof *r->chosen);
    return r->chosen ? 0 : err_set(err, ERR_NOMEM, "out of memory while rounding weights");
}

/* ---- one layer ---- */
/* Outputs are the stored weight's last axis (MatMul, Gemm), not its first. */
static bool outputs_last(const struct node *n)
{
    return node_is(n, "MatMul") || (node_is(n, "Gemm") && !node_attr_int(n, "transB", 0));
}

/* Place of row r, element i, in the stored weight. */
static int64_t stored(const struct rounded_layer *l, bool last, int64_t r, int64_t i)
{
    return last ? i * l->rows + r : r * l->k + i;
}

static uint32_t only_reader(const struct rounding_run *r, uint32_t value)
{
    return uses_count(&r->uses, value) == 1 ? r->uses.all[r->uses.first[value]].node : NODE_NONE;
}

/* A float constant of one number a row; NULL. */
static const float *row_vector(const struct model *m, uint32_t value, int64_t rows)
{
    const struct tensor *t = value != VALUE_NONE ? value_const(m, value) : NULL;
    return t && t->data && t->dtype == DTYPE_FLOAT && tensor_count(t) == rows && t->shape.rank > 0 &&
                   t->shape.dim[t->shape.rank - 1] == rows
               ? tensor_f32(t)
               : NULL;
}

/* Bias and bounds of what alone reads the output, where they are plain. */
static void find_activation(const struct rounding_run *r, const struct node *n, struct rounded_layer *l)
{
    const struct model *m = r->ctx->model;
    const bool scaled = node_is(n, "Gemm") && (node_attr_float(n, "alpha", 1) != 1 || node_attr_float(n, "beta",
                                                                      1) != 1);
    const bool biased = n->n_input > 2 && n->input[2] != VALUE_NONE;
    uint32_t next = only_reader(r, n->output[0]);
    l->lo = -INFINITY;
    l->hi = INFINITY;
    l->bias = biased ? row_vector(m, n->input[2], l->rows) : NULL;
    if (scaled || (biased && !l->bias)) {
        l->bias = NULL;
        return;
    }
    if (!biased && next != NODE_NONE && node_is(&m->nodes[next],
                                                "Add") && outputs_last(n) && m->nodes[next].n_input == 2) {
        const uint32_t *in = m->nodes[next].input;
        l->bias = row_vector(m, in[0] == n->output[0] ? in[1] : in[0], l->rows);
        next = l->bias ? only_reader(r, m->nodes[next].output[0]) : NODE_NONE;
    }
    if (next == NODE_NONE || m->nodes[next].n_input < 1)
        return;
    const struct node *act = &m->nodes[next];
    if (node_is(act, "Relu"))
        l->lo = 0;
    if (!node_is(act, "Clip"))
        return;
    float bound[2] = {node_attr_float(act, "min", -INFINITY), node_attr_float(act, "max", INFINITY)};
    for (int i = 1; i < 3 && i < act->n_input; i++) {
        const float *v = act->input[i] == VALUE_NONE ? &bound[i - 1] : row_vector(m, act->input[i], 1);
        const struct tensor *t = act->input[i] == VALUE_NONE ? NULL : value_const(m, act->input[i]);
        if (!v && t && t->data && t->dtype == DTYPE_FLOAT && tensor_count(t) == 1)
            v = tensor_f32(t);
        if (!v)
            return;
        bound[i - 1] = *v;
    }
    l->lo = bound[0];
    l->hi = bound[1];
}

/* partner[i]: the element whose product is added to i's in 16 bits. */
static int find_partners(struct rounded_layer *l, const struct tensor *w, int axis, bool last, struct err *err)
{
    struct sum_order order = {0};
    if (sum_order_make(&order, &w->shape, axis, err))
        return -1;
    l->partner = malloc((size_t)l->k * sizeof *l->partner);
    for (int64_t i = 0; l->partner && i < l->k; i++)
        l->partner[i] = i;
    for (int64_t i = 0; l->partner && i + 1 < order.count; i += 2) {
        const int64_t a = last ? order.offset[i] / l->rows : order.offset[i];
        const int64_t b = last ? order.offset[i + 1] / l->rows : order.offset[i + 1];
        l->partner[a] = b;
        l->partner[b] = a;
    }
    sum_order_fini(&order);
    l->pair_most = 32767 / 255;
    return l->partner ? 0 : err_set(err, ERR_NOMEM, "out of memory while rounding weights");
}

/* The codes and scales quantize.static would choose. */
static int start_codes(const struct rounding_run *r, struct rounded_layer *l, const struct node *n,
                       const struct tensor *w,
                       struct err *err)
{
    const enum dtype dtype = weight_types[r->o->weights];
    const bool last = outputs_last(n), wide = dtype == DTYPE_INT4;
    const int axis = last ? w->shape.rank - 1 : 0;
    const struct qweight_opts opts = {.dtype = dtype, .per_channel = r->o->per_channel, .axis = axis, .isa = r->o->isa,
                                      .adds_in_32 = conv_is_depthwise(n, w), .pool = r->ctx->pool};
    struct qweight q = {0};
    if (wide ? wide_weight_make(&q, w, &opts, true, false, err) : qweight_make(&q, w, &opts, err))
        return -1;
    l->most = wide ? 7 : 127;
    l->refit = r->o->per_channel;
    for (int64_t row = 0; row < l->rows; row++) {
        l->scale[row] = tensor_f32(&q.scale)[r->o->per_channel ? row : 0];
        for (int64_t i = 0; i < l->k; i++)
            l->code[row * l->k + i] = (int32_t)dtype_get(dtype, q.codes.data, stored(l, last, row, i)) - q.zero;
    }
    qweight_fini(&q);
    return dtype == DTYPE_INT8 && isa_row(r->o->isa)->pairs && !opts.adds_in_32 ? find_partners(l, w, axis, last,
                                                                      err) : 0;
}

/* The layer's weight on its grid, and the scales, for the end. */
static int keep(const struct rounding_run *r, struct chosen *c, const struct rounded_layer *l, bool last,
                const struct tensor *w, struct err *err)
{
    const struct shape scales = r->o->per_channel ? SHAPE(l->rows) : SHAPE_SCALAR;
    double was = 0, is = 0, signal = 0, noise = 0;
    if (tensor_alloc(&c->weight, DTYPE_FLOAT, &w->shape, err) || tensor_alloc(&c->scale, DTYPE_FLOAT, &scales, err))
        return -1;
    c->axis = r->o->per_channel ? (last ? w->shape.rank - 1 : 0) : -1;
    for (int64_t row = 0; row < l->rows; row++) {
        was += l->before[row];
        is += l->after[row];
        tensor_f32(&c->scale)[r->o->per_channel ? row : 0] = l->scale[row];
        for (int64_t i = 0; i < l->k; i++) {
            const float v = (float)l->code[row * l->k + i] * l->scale[row];
            const double x = (double)l->w[row * l->k + i], d = x - (double)v;
            tensor_f32(&c->weight)[stored(l, last, row, i)] = v;
            signal += x * x;
            noise += d * d;
        }
    }
    c->sqnr = noise > 0 ? 10 * log10(signal / noise) : NAN;
    c->facts = json_pack("{s:s,s:I,s:I,s:f}", "grid", adaround_weights[r->o->weights], "scales",
                         (json_int_t)tensor_count(&c->scale),
                         "changed_channels", (json_int_t)l->changed, "output_error_ratio", was > 0 ? is / was : 1.0);
    return 0;
}

static int layer_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct rounding_run *r = arg;
    struct step_ctx *c = r->ctx;
    return c->progress ? c->progress(c, "round weights", r->done * total + done, r->n * total, err) : 0;
}

static int choose_codes(struct rounding_run *r, struct rounded_layer *l, const struct node *n, const struct tensor *w,
                        struct chosen *c, struct err *err)
{
    const bool last = outputs_last(n);
    float *rows = malloc((size_t)(l->rows * l->k) * sizeof *rows);
    int rc = -1;
    l->w = rows;
    l->scale = malloc((size_t)l->rows * sizeof *l->scale);
    l->code = malloc((size_t)(l->rows * l->k) * sizeof *l->code);
    l->before = calloc((size_t)l->rows * 2, sizeof *l->before);
    l->after = l->before ? l->before + l->rows : NULL;
    if (!rows || !l->scale || !l->code || !l->before) {
        err_set(err, ERR_NOMEM, "out of memory while rounding weights");
        goto out;
    }
    for (int64_t row = 0; row < l->rows; row++)
        for (int64_t i = 0; i < l->k; i++)
            rows[row * l->k + i] = tensor_f32(w)[stored(l, last, row, i)];
    if (start_codes(r, l, n, w, err))
        goto out;
    find_activation(r, n, l);
    if (r->o->algorithm == ALGORITHM_GPTQ ? round_by_gram(l, err) : round_by_adam(l, layer_progress, r, err))
        goto out;
    if (l->changed == 0)
        c->why = "no other codes than the nearest lower the error of its outputs";
    rc = l->changed ? keep(r, c, l, last, w, err) : 0;
out:
    free(rows);
    free(l->scale);
    free(l->code);
    free(l->before);
    free(l->partner);
    return rc;
}

static int round_layer(void *arg, uint32_t node, const struct gram_matrix *g, const char *why, struct err *err)
{
    struct rounding_run *r = arg;
    const struct node *n = &r->ctx->model->nodes[node];
    struct chosen *c = &r->chosen[r->done];
    char label[200];
    int rc = 0;
    *c = (struct chosen){.node = node, .value = n->input[1], .why = why};
    if (g) {
        const struct tensor *w = value_const(r->ctx->model, n->input[1]);
        struct rounded_layer l = {.rows = tensor_count(w) / g->k, .k = g->k, .gram = g, .pool = r->ctx->pool,
                                  .seed = r->ctx->seed + (uint64_t)r->done, .iterations = r->o->iterations};
        r->few_rows += g->rows < g->k;
        rc = choose_codes(r, &l, n, w, c, err);
    }
    r->done++;
    if (rc == 0 && r->o->algorithm == ALGORITHM_GPTQ && r->ctx->progress)
        rc = r->ctx->progress(r->ctx, "round weights", r->done, r->n, err);
    return rc ? err_wrap(err, "node '%s': ", node_label(r->ctx->model, node, label, sizeof label)) : 0;
}

/* ---- the step ---- */
static int sample_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = ((struct rounding_run *)arg)->ctx;
    return c->progress ? c->progress(c, "inputs of layers", done, total, err) : 0;
}

static int write_layers(struct rounding_run *r, struct err *err)
{
    struct model *m = r->ctx->model;
    for (int64_t i = 0; i < r->n; i++) {
        struct chosen *c = &r->chosen[i];
        struct layer_row row = {.node = c->node, .weight = c->value, .sqnr_db = NAN, .skipped = c->why};
        if (!c->why) {
            if (weight_replace(m, c->value, &c->weight, err))
                return -1;
            grid_note_set(m, c->value, weight_types[r->o->weights], c->axis, &c->scale);
            row.after = c->facts;
            row.sqnr_db = c->sqnr;
            c->facts = NULL;
        }
        layer_report_add(r->ctx->layers, m, &row);
    }
    if (r->few_rows)
        warnings_add(r->ctx->warnings,
                     "%lld of %lld layers saw fewer input vectors than they have inputs, so that their codes fit these "
                     "samples more than others: more samples would help",
                     (long long)r->few_rows, (long long)r->n);
    return 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct rounding_run r = {.ctx = c, .o = c->params};
    int rc = -1;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "quantize.adaround needs a dataset: codes are chosen by what the layers read");
    if (quantized_refuse(c->model, "quantize.adaround", err) || passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (uses_build(&r.uses, c->model, err) || find_layers(&r, err))
        goto out;
    const struct gram_job job = {.m = c->model, .data = c->data, .pool = c->pool, .samples = r.o->samples,
                                 .nodes = r.nodes, .n_nodes = r.n, .rows_per_sample = 256,
                                 .keep = r.o->algorithm == ALGORITHM_ADAROUND ? r.o->rows : 0, .seed = c->seed,
                                 .each = round_layer, .progress = sample_progress, .arg = &r};
    if (gram_each(&job, err) || write_layers(&r, err))
        goto out;
    rc = 0;
out:
    for (int64_t i = 0; r.chosen && i < r.n; i++) {
        tensor_fini(&r.chosen[i].weight);
        tensor_fini(&r.chosen[i].scale);
        json_decref(r.chosen[i].facts);
    }
    free(r.chosen);
    free(r.nodes);
    uses_fini(&r.uses);
    return rc;
}

METHOD(quantize_adaround) = {
    .name = "quantize.adaround",
    .summary = "weight codes chosen for the outputs of their layers, before quantize.static",
    .doc = "Rounding each weight to its nearest code is not the best: errors of codes can make up for one "
           "another at the inputs a "
           "layer really sees. Weights of Conv, Gemm and MatMul are put on the grid quantize.static would use, "
           "with codes that "
           "lower the error of the layer's outputs on the samples; no labels are needed. The model stays in float; a "
           "quantize.static step behind it, with the same weights and per_channel, keeps these codes. A layer "
           "that does not "
           "gain is left as it is.",
    .params = params,
    .params_size = sizeof(struct quantize_adaround_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run,
};
