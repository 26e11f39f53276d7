/* SPDX-License-Identifier: Apache-2.0
 * equalize.c - quantize.equalize (equalize.h). channel_scale.c says where factors can go; here they are chosen.
 *
 * Regions are swept in order, each time with the factors of all others in place, until no factor changes by 1e-4: a
 * weight between two regions (a depthwise convolution) is scaled from both sides, and the sweeps end where all three
 * ranges of a depthwise triple are their geometric mean. Channels that are zero on one side keep the factor 1.
 * Factors stay within 2^-12 .. 2^12: a channel of 1e-30 is noise that is not to be blown up at its partner's cost. */
#include "core/quant/equalize.h"

#include <math.h>
#include <stdlib.h>

#include "core/passes/pass.h"
#include "core/passes/weights.h"
#include "core/quant/absorb.h"
#include "core/quant/quantized.h"
#include "core/stats/ranges.h"
#include "core/stats/sampling.h"

static const double converged = 1e-4, largest_factor = 4096;

double equalize_spread(const double *range, int64_t n)
{
    double top = 0, logs = 0;
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        if (range[i] > 0) {
            top = range[i] > top ? range[i] : top;
            logs += log(range[i]);
            count++;
        }
    return count ? top / exp(logs / (double)count) : 1;
}

/* One sweep over one region: new factors by root; returns the largest relative change. */
static double sweep_region(const struct channel_scale *s, int region, double *factor, double *makes, double *reads)
{
    double change = 0;
    for (int64_t i = 0; i < s->n; i++)
        makes[i] = reads[i] = 0;
    channel_scale_ranges(s, region, factor, makes, reads);
    for (int64_t i = 0; i < s->n; i++) {
        if (!(makes[i] > 0) || !(reads[i] > 0) || !channel_scale_free(s, i))
            continue;
        double f = factor[i] * sqrt(makes[i] / reads[i]);
        f = f < 1 / largest_factor ? 1 / largest_factor : f > largest_factor ? largest_factor : f;
        const double by = fabs(f / factor[i] - 1);
        change = by > change ? by : change;
        factor[i] = f;
    }
    return change;
}

static void choose_factors(const struct channel_scale *s, int64_t sweeps, double *factor, double *makes, double *reads)
{
    for (int64_t i = 0; i < s->n; i++)
        factor[i] = 1;
    double change = 1;
    for (int64_t k = 0; k < sweeps && change >= converged; k++) {
        change = 0;
        for (int r = 0; r < s->n_regions; r++) {
            const double by = sweep_region(s, r, factor, makes, reads);
            change = by > change ? by : change;
        }
    }
}

/* ---- report ---- */
struct outcome {
    int64_t channels, scaled;
    double smallest, largest;
    const char *blocked;
};

static struct outcome outcome_of(const struct channel_scale *s, const struct scale_end *e, const double *factor)
{
    struct outcome o = {.smallest = INFINITY};
    o.channels = s->channels[e->value];
    for (int64_t c = 0; c < o.channels; c++) {
        const int64_t root = channel_scale_root(s, e->base + c);
        const double f = factor[root];
        o.scaled += f != 1;
        o.smallest = f < o.smallest ? f : o.smallest;
        o.largest = f > o.largest ? f : o.largest;
        if (!o.blocked)
            o.blocked = s->blocked[root];
    }
    return o;
}

static int report(const struct channel_scale *s, const double *factor, struct layer_report *layers)
{
    int changed = 0;
    for (int i = 0; i < s->n_weights; i++) {
        const struct scale_weight *w = &s->weights[i];
        struct layer_row row = {.node = w->node, .weight = s->m->nodes[w->node].input[1], .sqnr_db = NAN};
        struct outcome made = {0}, read = {0};
        if (w->makes >= 0)
            made = outcome_of(s, &s->ends[w->makes], factor);
        if (w->reads >= 0)
            read = outcome_of(s, &s->ends[w->reads], factor);
        changed += made.scaled || read.scaled;
        if (!layers)
            continue;
        if (made.scaled || read.scaled) {
            row.after = json_pack("{s:I,s:I}", "scaled_outputs", (json_int_t)made.scaled, "scaled_inputs",
                                  (json_int_t)read.scaled);
            if (row.after && made.scaled)
                json_object_set_new(row.after, "output_factors",
                                    json_pack("[f,f]", 1 / made.largest, 1 / made.smallest));
        } else
            row.skipped = made.blocked   ? made.blocked
                          : read.blocked ? read.blocked
                          : w->makes < 0 ? "no layer before it can take factors"
                                         : "no layer behind it can take factors, or the ranges are equal";
        layer_report_add(layers, s->m, &row);
    }
    for (uint32_t id = 0; layers && id < s->n_nodes; id++)
        if (s->why[id] && !(s->m->nodes[id].op_type == NULL))
            layer_report_add(
                layers, s->m,
                &(struct layer_row){.node = id, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = s->why[id]});
    return changed;
}

static void report_clips(const struct channel_scale *s, const double *factor, struct warnings *warnings)
{
    char label[200];
    for (int i = 0; warnings && i < s->n_clips; i++) {
        const struct scale_clip *c = &s->clips[i];
        bool scaled = false;
        for (int64_t k = 0; k < c->channels; k++)
            scaled = scaled || factor[channel_scale_root(s, c->base + k)] != 1;
        if (scaled && s->opts.clip == SCALE_CLIP_RELU)
            warnings_add(warnings, "node '%s' (Clip from 0 to %g) becomes Relu: no sample reached its cap",
                         node_label(s->m, c->node, label, sizeof label), (double)c->cap);
    }
}

int equalize_model(struct model *m, const struct equalize_opts *o, struct layer_report *layers,
                   struct warnings *warnings, struct err *err)
{
    struct channel_scale s = {0};
    double *work = NULL;
    int changed = -1;
    if (channel_scale_init(&s, m, &o->scale, err))
        goto out;
    work = calloc(s.n ? (size_t)s.n : 1, 3 * sizeof *work);
    if (!work) {
        err_set(err, ERR_NOMEM, "out of memory while equalizing");
        goto out;
    }
    choose_factors(&s, o->sweeps, work, work + s.n, work + 2 * s.n);
    const int found = report(&s, work, layers);
    report_clips(&s, work, warnings);
    if (channel_scale_apply(&s, work, err) == 0)
        changed = found;
out:
    free(work);
    channel_scale_fini(&s);
    return changed;
}

/* ---- the step ---- */
struct equalize_params {
    int64_t sweeps, samples;
    int clip;
    bool absorb;
    struct globs include, exclude;
};
static const char *const clips[] = {"keep", "relu", "caps", NULL};

#define P(f) PARAM(equalize_params, f)
static const struct param params[] = {
    {P(sweeps), .kind = PARAM_INT, .def = "20", .min = 1, .max = 1000,
     .doc = "most sweeps over the layers; it ends earlier when no factor changes by 0.01 %"},
    {P(clip), .kind = PARAM_ENUM, .choices = clips, .def = "\"relu\"",
     .doc = "Clip from 0 to a cap (Relu6) between two layers: keep: they are not equalized; relu: it becomes Relu "
            "if no sample reaches the cap, else it is kept (without data: kept); caps: it becomes Relu and Min "
            "with one cap per channel"},
    {P(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "samples, spread evenly over the dataset, that say whether caps are reached and how high biases are"},
    {P(absorb), .kind = PARAM_BOOL, .def = "true",
     .doc =
         "with data: what every sample has in a channel in front of Relu (the least number seen, at most the mean less "
         "three deviations) moves from its bias into the next layer's, so that the activation spans less. Exact for "
         "what the samples reach. Not into padded convolutions, whose zeros would not be shifted. Without data: "
         "nothing"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

static int progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "measure", done, total, err) : 0;
}

/* By node: the cap of this Clip was reached (or nothing is known of it). NULL: out of memory or another error. */
static bool *measure_caps(struct step_ctx *c, int64_t samples, struct err *err)
{
    const struct model *m = c->model;
    bool *met = calloc(m->n_nodes ? m->n_nodes : 1, sizeof *met);
    struct ranges *ranges = ranges_new(m->n_values);
    const struct sampling run = {.data = c->data,
                                 .pool = c->pool,
                                 .samples = samples,
                                 .observe = ranges_observe,
                                 .observe_arg = ranges,
                                 .ran = progress,
                                 .arg = c};
    bool ok = met && ranges;
    if (!ok)
        err_set(err, ERR_NOMEM, "out of memory while measuring");
    ok = ok && sampling_run(m, &run, err) >= 0;
    for (uint32_t id = 0; ok && id < m->n_nodes; id++) {
        const struct node *n = &m->nodes[id];
        float cap = node_is(n, "Clip") ? node_attr_float(n, "max", INFINITY) : INFINITY;
        const struct tensor *t =
            node_is(n, "Clip") && n->n_input > 2 && n->input[2] != VALUE_NONE ? value_const(m, n->input[2]) : NULL;
        if (t && t->dtype == DTYPE_FLOAT && t->data)
            cap = tensor_f32(t)[0];
        const struct range *r = n->op_type && n->n_output > 0 ? ranges_get(ranges, n->output[0]) : NULL;
        met[id] = !r || r->min > r->max || r->max >= cap;
    }
    ranges_free(ranges);
    if (ok)
        return met;
    free(met);
    return NULL;
}

static int run(struct step_ctx *c, struct err *err)
{
    const struct equalize_params *p = c->params;
    struct equalize_opts o = {
        .sweeps = p->sweeps,
        .scale = {.clip = (enum scale_clip_mode)p->clip, .include = &p->include, .exclude = &p->exclude}};
    bool *met = NULL;
    if (quantized_refuse(c->model, "quantize.equalize", err) || passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (o.scale.clip == SCALE_CLIP_RELU && c->data) {
        met = measure_caps(c, p->samples, err);
        if (!met)
            return -1;
        o.scale.cap_met = met;
    }
    const int changed = equalize_model(c->model, &o, c->layers, c->warnings, err);
    const struct absorb_opts high = {.data = c->data,
                                     .pool = c->pool,
                                     .samples = p->samples,
                                     .include = &p->include,
                                     .exclude = &p->exclude,
                                     .ran = progress,
                                     .arg = c};
    const int absorbed = changed >= 0 && p->absorb ? absorb_model(c->model, &high, c->layers, err) : 0;
    if (changed == 0 && absorbed == 0)
        warnings_add(c->warnings,
                     "quantize.equalize found no two layers whose channels can be scaled against each other");
    free(met);
    return changed < 0 || absorbed < 0 ? -1 : 0;
}

METHOD(quantize_equalize) = {
    .name = "quantize.equalize",
    .summary = "give channels of neighbouring layers equal weight ranges (cross-layer equalization)",
    .doc = "Between two layers with only positively homogeneous operators between them (Relu, LeakyRelu, PRelu, "
           "pooling, sums, concatenation, flattening), a channel is divided by a factor on one side and multiplied "
           "on the other, so that its weights have the same range on both. The model computes the same, but loses "
           "less when it is quantized with one scale for a whole tensor. With data, high biases move behind Relu into "
           "the next layer. To be followed by quantize.static. "
           "BatchNormalization and added constants are folded first.",
    .params = params,
    .params_size = sizeof(struct equalize_params),
    .run = run,
};
