/* SPDX-License-Identifier: Apache-2.0
 * bias_correction.c - recover.bias_correction (bias_correction.h).
 *
 * A place is a product that can be corrected: it has a bias, or can get one (Conv, ConvTranspose, Gemm), or is a
 * MatMul whose result one vector is added to. The quantized model is a clone with the same node ids, so the product
 * of a place and its output are found there by id; they are looked at before they are rounded.
 *
 * Passes. Correcting one layer changes the means of those behind it, so an exact sequential correction measures once
 * a layer. With a budget for fewer passes, runs of neighbouring layers are corrected at once; the fast correction
 * before it leaves them little to disagree about. */
#include "core/quant/bias_correction.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/edit.h"
#include "core/passes/pass.h"
#include "core/passes/raise_opset.h"
#include "core/passes/weights.h"
#include "core/quant/quantized.h"
#include "core/stats/evaluate.h"

struct place {
    uint32_t node;      /* the product */
    uint32_t at;        /* whose input `slot` the bias is: the product, or the Add behind it */
    int slot;
    int64_t channels;
    double *target;     /* [channels] E[y] in float */
    double *deviation;  /* [channels] of y in float */
    double *bias;       /* [channels] as it is now, times beta */
    double *mean;       /* [channels] work: of the quantized model */
    double beta;
    double shift_before, shift_after; /* root mean square over the channels, relative to the deviation */
    double *local;      /* [channels] shift of the layer alone; NULL: not known */
    double *x_mean, *q_mean; /* mean input of one sample: float and quantized */
    struct shape x_shape;
    int64_t x_count;    /* rows summed; -1: shapes differ */
    struct qparams { float scale; int32_t zero, low, high; } q; /* of the input; scale 0: it stays in float */
    int64_t corrected, insane;
    const char *why;    /* it cannot be corrected */
};

struct correction {
    struct trial *t;
    struct model *m;
    struct place *at;
    int n;
    int *by_value;      /* of the model that runs: place whose output this is; -1 */
    int *by_input;      /* place whose input this is; chained through next */
    int *next;
    uint32_t n_values;
    double *sum, *square; /* work of the run: [places][channels], offsets in start */
    int64_t *start, *count;
    bool squares;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while correcting biases");
}

/* ---- places ---- */
static int64_t output_channels(const struct model *m, const struct node *n, const struct tensor *w)
{
    if (node_is(n, "ConvTranspose"))
        return w->shape.rank < 3 ? 0 : w->shape.dim[1] * node_attr_int(n, "group", 1);
    if (node_is(n, "Conv"))
        return w->shape.rank < 3 ? 0 : w->shape.dim[0];
    (void)m;
    return w->shape.rank != 2 ? 0 : w->shape.dim[node_is(n, "Gemm") && node_attr_int(n, "transB", 0) ? 0 : 1];
}

/* One number a channel along the last axis, or one for all. */
static const struct tensor *bias_tensor(const struct model *m, uint32_t v, int64_t channels, bool scalar)
{
    const struct tensor *t = v == VALUE_NONE ? NULL : value_const(m, v);
    if (!t || t->dtype != DTYPE_FLOAT || !t->data || t->shape.rank > 2)
        return NULL;
    const int64_t count = tensor_count(t);
    if (count == 1 && (scalar || channels == 1))
        return t;
    return count == channels && t->shape.dim[t->shape.rank - 1] == channels ? t : NULL;
}

static const char *find_bias(const struct correction *c, struct edit *e, struct place *p)
{
    const struct node *n = &c->m->nodes[p->node];
    p->at = p->node;
    p->slot = 2;
    p->beta = node_is(n, "Gemm") ? (double)node_attr_float(n, "beta", 1) : 1;
    if (!node_is(n, "MatMul")) {
        const bool absent = n->n_input < 3 || n->input[2] == VALUE_NONE;
        if (!absent && !bias_tensor(c->m, n->input[2], p->channels, true))
            return "its bias is not a constant per channel";
        return p->beta > 0 ? NULL : "its bias counts with a factor that is not positive";
    }
    p->at = edit_only_reader(e, n->output[0]);
    if (p->at == NODE_NONE || !node_is(&c->m->nodes[p->at], "Add") || c->m->nodes[p->at].n_input != 2)
        return "a MatMul has no bias, and no vector is added to its result";
    p->slot = c->m->nodes[p->at].input[0] == n->output[0] ? 1 : 0;
    return bias_tensor(c->m, c->m->nodes[p->at].input[p->slot], p->channels, false)
               ? NULL
               : "a MatMul has no bias, and no vector is added to its result";
}

static bool place_make(struct correction *c, struct place *p)
{
    const size_t n = (size_t)p->channels;
    p->target = calloc(n, sizeof *p->target);
    p->deviation = calloc(n, sizeof *p->deviation);
    p->bias = calloc(n, sizeof *p->bias);
    p->mean = calloc(n, sizeof *p->mean);
    if (!p->target || !p->deviation || !p->bias || !p->mean)
        return false;
    if (p->why)
        return true;
    const struct node *n2 = &c->m->nodes[p->at];
    const struct tensor *t = p->slot < n2->n_input && n2->input[p->slot] != VALUE_NONE
                                 ? value_const(c->m, n2->input[p->slot]) : NULL;
    for (int64_t k = 0; t && k < p->channels; k++)
        p->bias[k] = p->beta * (double)tensor_f32(t)[tensor_count(t) == 1 ? 0 : k];
    return true;
}

/* In topological order. quantized: a quantized clone; what it left in float is no place. */
static int find_places(struct correction *c, struct edit *e, const struct model *quantized, struct err *err)
{
    const struct graph *g = model_main(c->m);
    uint32_t *order = calloc((size_t)g->n_nodes + 1, sizeof *order);
    c->at = calloc((size_t)g->n_nodes + 1, sizeof *c->at);
    int rc = order && c->at ? model_toposort(c->m, 0, order, err) : nomem(err);
    for (int i = 0; rc == 0 && i < g->n_nodes; i++) {
        const struct node *n = &c->m->nodes[order[i]], *q = &quantized->nodes[order[i]];
        struct weight_ref ref;
        const char *why = NULL;
        if (!product_weight(c->m, order[i], &ref, &why) || why || ref.slot != 1 || ref.tensor->dtype != DTYPE_FLOAT ||
            order[i] >= quantized->n_nodes || !q->op_type || strcmp(q->op_type, n->op_type) || q->n_input < 2)
            continue;
        const uint32_t d = q->input[1] == VALUE_NONE ? NODE_NONE : quantized->values[q->input[1]].producer;
        if (d == NODE_NONE || !node_is(&quantized->nodes[d], "DequantizeLinear"))
            continue;
        struct place *p = &c->at[c->n];
        *p = (struct place){.node = order[i], .channels = output_channels(c->m, n, ref.tensor)};
        if (p->channels < 1)
            continue;
        c->n++;
        p->why = find_bias(c, e, p);
        if (!place_make(c, p))
            rc = nomem(err);
    }
    free(order);
    return rc;
}

/* ---- means of outputs ---- */
static void sum_rows(const struct correction *c, int which, const struct tensor *t, bool last)
{
    const struct place *p = &c->at[which];
    const int axis = last ? t->shape.rank - 1 : 1;
    const int64_t channels = p->channels;
    if (t->dtype != DTYPE_FLOAT || axis < 0 || axis >= t->shape.rank || t->shape.dim[axis] != channels)
        return;
    int64_t inner = 1;
    for (int i = axis + 1; i < t->shape.rank; i++)
        inner *= t->shape.dim[i];
    const int64_t outer = inner ? tensor_count(t) / channels / inner : 0;
    double *sum = c->sum + c->start[which], *square = c->square + c->start[which];
    for (int64_t o = 0; o < outer; o++)
        for (int64_t k = 0; k < channels; k++) {
            const float *x = tensor_f32(t) + (o * channels + k) * inner;
            double s = 0, s2 = 0;
            for (int64_t i = 0; i < inner; i++) {
                s += (double)x[i];
                s2 += (double)x[i] * (double)x[i];
            }
            sum[k] += s;
            square[k] += s2;
        }
    c->count[which] += outer * inner;
}

/* Q(x), as the quantized model's pair rounds it. */
static double rounded(const struct place *p, float x)
{
    if (!(p->q.scale > 0))
        return (double)x;
    double code = (double)nearbyintf(x / p->q.scale) + p->q.zero;
    code = code < p->q.low ? p->q.low : code > p->q.high ? p->q.high : code;
    return (code - p->q.zero) * (double)p->q.scale;
}

/* Mean input: axis 0 is averaged away, which commutes with a product. */
static int sum_input(struct place *p, const struct tensor *t, struct err *err)
{
    const int64_t rows = t->shape.rank > 0 ? t->shape.dim[0] : 0, size = rows > 0 ? tensor_count(t) / rows : 0;
    struct shape one = t->shape;
    if (p->x_count < 0 || t->dtype != DTYPE_FLOAT || size < 1)
        return 0;
    one.dim[0] = 1;
    if (!p->x_mean) {
        p->x_shape = one;
        p->x_mean = calloc((size_t)size, sizeof *p->x_mean);
        p->q_mean = calloc((size_t)size, sizeof *p->q_mean);
        if (!p->x_mean || !p->q_mean)
            return nomem(err);
    }
    if (!shape_equal(&one, &p->x_shape)) {
        p->x_count = -1;
        return 0;
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < size; i++) {
            const float x = tensor_f32(t)[r * size + i];
            p->x_mean[i] += (double)x;
            p->q_mean[i] += rounded(p, x);
        }
    p->x_count += rows;
    return 0;
}

static int observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct correction *c = arg;
    if (value >= c->n_values)
        return 0;
    const int which = c->by_value[value];
    if (which >= 0) {
        const struct node *n = &c->m->nodes[c->at[which].node];
        sum_rows(c, which, t, node_is(n, "Gemm") || node_is(n, "MatMul"));
    }
    for (int i = c->by_input ? c->by_input[value] : -1; i >= 0; i = c->next[i])
        if (sum_input(&c->at[i], t, err))
            return -1;
    return trial_progress(c->t, err);
}

/* Runs the samples through `run`, which is c->m or a quantized clone: sums of every place's output. */
static int measure(struct correction *c, const struct model *run, bool inputs, struct err *err)
{
    struct trial *t = c->t;
    const struct plan_run_opts watch = {.observe = observe, .observe_arg = c};
    const struct evaluate_opts opts = {.pool = t->ctx->pool, .index = t->fit, .n_index = t->n_fit, .run = &watch};
    int64_t done = -1, total = 0;
    c->n_values = run->n_values;
    free(c->by_value);
    c->by_value = malloc(((size_t)run->n_values + 1) * sizeof *c->by_value);
    c->by_input = inputs ? malloc(((size_t)run->n_values + 1) * sizeof *c->by_input) : NULL;
    if (!c->by_value || (inputs && !c->by_input)) {
        nomem(err);
        goto out;
    }
    memset(c->by_value, 0xff, ((size_t)run->n_values + 1) * sizeof *c->by_value);
    if (inputs)
        memset(c->by_input, 0xff, ((size_t)run->n_values + 1) * sizeof *c->by_input);
    for (int i = 0; i < c->n; i++) {
        c->by_value[run->nodes[c->at[i].node].output[0]] = i;
        if (inputs) {
            int *head = &c->by_input[run->nodes[c->at[i].node].input[0]];
            c->next[i] = *head;
            *head = i;
        }
        c->count[i] = 0;
        total += c->at[i].channels;
    }
    memset(c->sum, 0, (size_t)total * sizeof *c->sum);
    memset(c->square, 0, (size_t)total * sizeof *c->square);
    struct plan *plan = plan_new(run, &(struct plan_opts){.pool = t->ctx->pool}, err);
    if (plan)
        done = evaluate_each(plan, run, t->ctx->data, &opts, NULL, NULL, err);
    plan_free(plan);
    t->spent += t->macs * (double)t->n_fit;
out:
    free(c->by_input);
    c->by_input = NULL;
    return done < 0 ? -1 : 0;
}

static void take_targets(struct correction *c)
{
    for (int i = 0; i < c->n; i++)
        for (int64_t k = 0; k < c->at[i].channels && c->count[i]; k++) {
            const double n = (double)c->count[i], mean = c->sum[c->start[i] + k] / n,
                         variance = c->square[c->start[i] + k] / n - mean * mean;
            c->at[i].target[k] = mean;
            c->at[i].deviation[k] = variance > 0 ? sqrt(variance) : 0;
        }
}

/* Root mean square of the shift over the channels, relative to their deviation. */
static double take_means(struct correction *c, int which)
{
    struct place *p = &c->at[which];
    double sum = 0, size = 0;
    for (int64_t k = 0; k < p->channels && c->count[which]; k++) {
        p->mean[k] = c->sum[c->start[which] + k] / (double)c->count[which];
        const double d = p->mean[k] - p->target[k];
        sum += d * d;
        size += p->deviation[k] * p->deviation[k];
    }
    return size > 0 ? sqrt(sum / size) : 0;
}

/* ---- the shift of a layer alone ---- */
static void read_input_params(const struct correction *c, const struct model *q, struct place *p)
{
    const uint32_t x = q->nodes[p->node].input[0], d = x == VALUE_NONE ? NODE_NONE : q->values[x].producer;
    p->q = (struct qparams){0};
    (void)c;
    if (d == NODE_NONE || !node_is(&q->nodes[d], "DequantizeLinear") || q->nodes[d].n_input < 2)
        return;
    const struct tensor *scale = value_const(q, q->nodes[d].input[1]),
                        *zero = q->nodes[d].n_input > 2 && q->nodes[d].input[2] != VALUE_NONE
                                    ? value_const(q, q->nodes[d].input[2]) : NULL;
    if (!scale || scale->dtype != DTYPE_FLOAT || tensor_count(scale) != 1 || !zero || !zero->data)
        return;
    p->q = (struct qparams){tensor_f32(scale)[0], (int32_t)dtype_get_i64(zero->dtype, zero->data, 0),
                            (int32_t)dtype_min(zero->dtype), (int32_t)dtype_max(zero->dtype)};
}

/* Product of a mean input with a weight, without bias: out[channels] = mean over the places. */
static int mean_output(struct model *scratch, const struct place *p, const double *mean, const struct tensor *weight,
                       double *out, struct err *err)
{
    struct tensor x = {0}, y = {0};
    int rc = -1;
    if (tensor_alloc(&x, DTYPE_FLOAT, &p->x_shape, err))
        return -1;
    for (int64_t i = 0, n = tensor_count(&x); i < n; i++)
        tensor_f32(&x)[i] = (float)(mean[i] / (double)p->x_count);
    const uint32_t xv = model_add_weight(scratch, 0, "mean", &x), wv = model_add_weight(scratch, 0, "weight", weight);
    if (xv == VALUE_NONE || wv == VALUE_NONE || node_set_input(scratch, p->node, 0, xv) ||
        node_set_input(scratch, p->node, 1, wv)) {
        nomem(err);
        goto out;
    }
    if (scratch->nodes[p->node].n_input > 2)
        scratch->nodes[p->node].n_input = 2;
    if (engine_eval_node(scratch, p->node, &y, err))
        goto out;
    struct place view = *p;
    struct correction one = {.at = &view, .sum = out, .square = view.mean, .start = &(int64_t){0},
                             .count = &(int64_t){0}};
    const struct node *n = &scratch->nodes[p->node];
    memset(out, 0, (size_t)p->channels * sizeof *out);
    sum_rows(&one, 0, &y, node_is(n, "Gemm") || node_is(n, "MatMul"));
    for (int64_t k = 0; k < p->channels && one.count[0]; k++)
        out[k] /= (double)one.count[0];
    rc = one.count[0] ? 0 : 1;
out:
    tensor_fini(&x);
    tensor_fini(&y);
    return rc;
}

static int local_shift(const struct correction *c, const struct model *q, struct model *scratch, struct place *p,
                       struct err *err)
{
    struct tensor weight = {0};
    const struct node *n = &q->nodes[p->node];
    double *exact = calloc((size_t)p->channels, sizeof *exact), *quantized = calloc((size_t)p->channels,
            sizeof *quantized);
    int rc = exact && quantized ? 0 : nomem(err);
    if (rc == 0)
        rc = engine_eval_node(q, q->values[n->input[1]].producer, &weight, err);
    if (rc == 0)
        rc = mean_output(scratch, p, p->q_mean, &weight, quantized, err);
    if (rc == 0)
        rc = mean_output(scratch, p, p->x_mean, value_const(c->m, c->m->nodes[p->node].input[1]), exact, err);
    for (int64_t k = 0; rc == 0 && k < p->channels; k++)
        quantized[k] -= exact[k];
    if (rc == 0) {
        p->local = quantized;
        quantized = NULL;
    }
    tensor_fini(&weight);
    free(exact);
    free(quantized);
    return rc < 0 ? -1 : 0;
}

/* ---- corrections ---- */
/* Takes `shift` [channels] out of the bias where it can be believed. Returns true if anything changed. */
static bool correct(struct place *p, const double *shift, double max_ratio)
{
    bool changed = false;
    int64_t insane = 0;
    for (int64_t k = 0; k < p->channels; k++) {
        const double size = fmax(fmax(fabs(p->bias[k]), fabs(p->target[k])), p->deviation[k]);
        if (!isfinite(shift[k]) || fabs(shift[k]) > max_ratio * size)
            insane++;
        else if (shift[k] != 0) {
            p->bias[k] -= shift[k];
            changed = true;
        }
    }
    p->insane = insane > p->insane ? insane : p->insane;
    return changed;
}

/* The place's bias into the model, as a constant of its own. */
static int write_bias(struct correction *c, struct edit *e, struct place *p, struct err *err)
{
    struct model *m = c->m;
    const struct node *n = &m->nodes[p->at];
    const uint32_t old = p->slot < n->n_input ? n->input[p->slot] : VALUE_NONE;
    struct shape shape = SHAPE(p->channels);
    struct tensor t = {0};
    int rc = -1;
    if (old != VALUE_NONE && tensor_count(value_const(m, old)) == p->channels)
        shape = value_const(m, old)->shape;
    if (tensor_alloc(&t, DTYPE_FLOAT, &shape, err))
        return -1;
    for (int64_t k = 0; k < p->channels; k++)
        tensor_f32(&t)[k] = (float)(p->bias[k] / p->beta);
    if (old != VALUE_NONE && m->values[old].weight && edit_only_reader(e, old) == p->at)
        rc = value_set_weight(m, old, &t);
    else {
        const uint32_t v = edit_add_weight(e, 0, old == VALUE_NONE ? "bias" : m->values[old].name, &t);
        if (v != VALUE_NONE) {
            edit_set_input(e, p->at, p->slot, v);
            rc = 0;
        }
    }
    tensor_fini(&t);
    p->corrected++;
    return rc ? nomem(err) : 0;
}

static int fast(struct correction *c, struct edit *e, const struct model *quantized, double max_ratio, struct err *err)
{
    struct model *scratch = model_clone(c->m, err);
    int rc = scratch ? 0 : -1;
    for (int i = 0; rc == 0 && i < c->n; i++) {
        struct place *p = &c->at[i];
        if (!p->why && p->x_count > 0)
            rc = local_shift(c, quantized, scratch, p, err);
        if (rc == 0 && p->local && correct(p, p->local, max_ratio))
            rc = write_bias(c, e, p, err);
    }
    model_free(scratch);
    return rc;
}

/* Quantize what m is now, and measure. */
static int measure_quantized(struct correction *c, const struct calibration *calibration,
                             const struct static_choice *choice,
                             struct err *err)
{
    struct model *q = trial_clone_quantized(c->t, c->m, calibration, choice, err);
    int rc = q ? measure(c, q, false, err) : -1;
    for (int i = 0; rc == 0 && i < c->n; i++)
        c->at[i].shift_after = take_means(c, i);
    model_free(q);
    return rc;
}

static int sequential(struct correction *c, struct edit *e, const struct calibration *calibration,
                      const struct static_choice *choice, const struct bias_correction_opts *o, struct err *err)
{
    struct trial *t = c->t;
    const double cost = t->macs * (double)t->n_fit + 1;
    double affordable = o->budget / cost;
    const int passes = affordable >= c->n ? c->n : affordable < 1 ? 1 : (int)affordable;
    t->total = passes;
    for (int pass = 0; pass < passes; pass++) {
        const int first = (int)((int64_t)c->n * pass / passes), end = (int)((int64_t)c->n * (pass + 1) / passes);
        t->done = pass;
        if (measure_quantized(c, calibration, choice, err))
            return -1;
        for (int i = first; i < end; i++) {
            struct place *p = &c->at[i];
            for (int64_t k = 0; k < p->channels; k++)
                p->mean[k] -= p->target[k];
            if (!p->why && c->count[i] && correct(p, p->mean, o->max_ratio) && write_bias(c, e, p, err))
                return -1;
        }
    }
    return 0;
}

/* ---- the whole ---- */
static bool work_make(struct correction *c)
{
    int64_t total = 0;
    c->start = calloc((size_t)c->n + 1, sizeof *c->start);
    c->count = calloc((size_t)c->n + 1, sizeof *c->count);
    c->next = calloc((size_t)c->n + 1, sizeof *c->next);
    for (int i = 0; c->start && i < c->n; i++) {
        c->start[i] = total;
        total += c->at[i].channels;
    }
    c->sum = calloc((size_t)total + 1, sizeof *c->sum);
    c->square = calloc((size_t)total + 1, sizeof *c->square);
    return c->start && c->count && c->next && c->sum && c->square;
}

static void correction_free(struct correction *c)
{
    for (int i = 0; c->at && i < c->n; i++) {
        struct place *p = &c->at[i];
        free(p->target);
        free(p->deviation);
        free(p->bias);
        free(p->mean);
        free(p->local);
        free(p->x_mean);
        free(p->q_mean);
    }
    free(c->at);
    free(c->by_value);
    free(c->next);
    free(c->start);
    free(c->count);
    free(c->sum);
    free(c->square);
}

static int report(const struct correction *c, struct layer_report *layers)
{
    int corrected = 0;
    for (int i = 0; i < c->n; i++) {
        const struct place *p = &c->at[i];
        struct layer_row row = {.node = p->node, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = p->why};
        corrected += p->corrected > 0;
        if (!p->why && !p->corrected)
            row.skipped = p->insane ? "its shift is too large to be believed" : "its mean does not shift";
        if (!row.skipped) {
            row.before = json_pack("{s:f}", "mean_shift", p->shift_before);
            row.after = json_pack("{s:f}", "mean_shift", p->shift_after);
            if (row.after && p->insane)
                json_object_set_new(row.after, "channels_left", json_integer(p->insane));
        }
        if (layers)
            layer_report_add(layers, c->m, &row);
    }
    return corrected;
}

int bias_correction(struct trial *t, struct model *m, const struct calibration *calibration,
                    const struct static_choice *choice,
                    const struct bias_correction_opts *o, struct layer_report *layers, struct err *err)
{
    struct correction c = {.t = t, .m = m};
    struct edit e = {0};
    struct model *q = trial_clone_quantized(t, m, calibration, choice, err);
    int corrected = -1;
    t->stage = "correct biases";
    t->done = 0;
    t->total = 1;
    if (!q || edit_init(&e, m, err) || find_places(&c, &e, q, err))
        goto out;
    if (!work_make(&c)) {
        nomem(err);
        goto out;
    }
    for (int i = 0; i < c.n; i++)
        read_input_params(&c, q, &c.at[i]);
    if (measure(&c, m, true, err))
        goto out;
    take_targets(&c);
    if (measure(&c, q, false, err))
        goto out;
    for (int i = 0; i < c.n; i++)
        c.at[i].shift_before = take_means(&c, i);
    if (fast(&c, &e, q, o->max_ratio < 2 ? o->max_ratio : 2, err) ||
        (o->sequential && sequential(&c, &e, calibration, choice, o, err)) ||
        measure_quantized(&c, calibration, choice, err) || edit_finish(&e, err))
        goto out;
    corrected = report(&c, layers);
out:
    edit_fini(&e);
    model_free(q);
    correction_free(&c);
    return corrected;
}

/* ---- the step ---- */
struct recover_params {
    int64_t samples;
    int mode;
    double max_ratio;
    bool per_channel, symmetric, activations_given, calibrator_given;
    int activations, weights, isa, calibrator;
    double percentile;
    struct globs include, exclude;
};
static const char *const modes[] = {"sequential", "fast", NULL};

#define P(f) PARAM(recover_params, f)
static const struct param params[] = {
    {P(mode), .kind = PARAM_ENUM, .choices = modes, .def = "\"sequential\"",
     .doc = "sequential: each layer with everything before it quantized, one pass over the samples a layer; fast: "
            "each layer alone, one pass for all"},
    {P(max_ratio), .kind = PARAM_NUMBER, .def = "2", .min = 0, .max = 1000, .above_min = true,
     .doc = "a shift larger than this many times the channel's bias, mean and standard deviation is not corrected"},
    {P(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "calibration samples, as of quantize.static"},
    {P(per_channel), .kind = PARAM_BOOL, .def = "true", .doc = "as of quantize.static"},
    {P(activations), .kind = PARAM_ENUM, .choices = static_activations, .def = "\"uint8\"",
     .given = PARAM_GIVEN(recover_params, activations_given), .doc = "as of quantize.static"},
    {P(weights), .kind = PARAM_ENUM, .choices = static_weights, .def = "\"int8\"", .doc = "as of quantize.static"},
    {P(symmetric), .kind = PARAM_BOOL, .def = "false", .doc = "as of quantize.static"},
    {P(calibrator), .kind = PARAM_ENUM, .choices = static_calibrators,
     .given = PARAM_GIVEN(recover_params, calibrator_given), .doc = "as of quantize.static; its default if not given"},
    {P(percentile), .kind = PARAM_NUMBER, .def = "99.999", .min = 50, .max = 100, .above_min = true,
     .doc = "as of quantize.static"},
    {P(isa), .kind = PARAM_ENUM, .choices = isa_names, .def = "\"portable\"", .doc = "as of quantize.static"},
    {P(include), .kind = PARAM_GLOBS, .doc = "as of quantize.static: only these nodes will be quantized"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "as of quantize.static: these nodes will stay in float"},
    {0},
};

static int run(struct step_ctx *c, struct err *err)
{
    const struct recover_params *p = c->params;
    const struct bias_correction_opts opts = {.sequential = p->mode == 0, .max_ratio = p->max_ratio, .budget = 4e12};
    struct quantize_static_params o;
    struct trial t = {0};
    struct calibration *calibration = NULL;
    int done = -1;
    if (!c->data)
        return err_set(err, ERR_RECIPE, "recover.bias_correction needs a dataset to measure means on");
    if (quantized_refuse(c->model, "recover.bias_correction", err) || trial_default_params(&o, err))
        return -1;
    o.samples = p->samples;
    o.per_channel = p->per_channel;
    o.symmetric = p->symmetric;
    o.activations = p->activations;
    o.activations_given = p->activations_given;
    o.weights = p->weights;
    o.isa = p->isa;
    if (p->calibrator_given)
        o.calibrator = p->calibrator;
    o.percentile = p->percentile;
    o.include = p->include;
    o.exclude = p->exclude;
    if (static_prepare(c, &o, err) || trial_init(&t, c, &o, c->model, TRIAL_WHOLE, err))
        goto out;
    calibration = trial_calibrate(&t, c->model, err);
    if (calibration)
        done = bias_correction(&t, c->model, calibration, NULL, &opts, c->layers, err);
    if (done == 0)
        warnings_add(c->warnings, "recover.bias_correction found no layer whose mean shifts when it is quantized");
out:
    calibration_free(calibration);
    trial_fini(&t);
    return done < 0 ? -1 : 0;
}

METHOD(recover_bias_correction) = {
    .name = "recover.bias_correction",
    .summary = "biases that take back the shift of the means quantization causes",
    .doc = "A step before quantize.static: simulates it with the same parameters (give both the same), measures "
           "for every output channel how far its mean is from the float model's, and takes that out of the bias; "
           "layers without bias get one. The result is a float model whose quantized form has the original's means.",
    .params = params,
    .params_size = sizeof(struct recover_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .run = run,
};
