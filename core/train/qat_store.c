/* SPDX-License-Identifier: Apache-2.0
 * qat_store.c - what was trained, written into the quantized model: codes as FakeQuantize rounds them, scales times
 * their ratios, biases in steps of input scale times weight scale. The graph stays; a scale that others read too gets
 * a new initializer for ours. Weights that were trained in float are copied by their ids. */
#include <math.h>
#include <stdlib.h>

#include "core/train/qat_model.h"

static const double BIAS_MAX = 2147483647.0;

struct store {
    struct qat_model *q;
    struct uses uses; /* of q->m as it came */
    struct layer_report *layers;
    struct warnings *warnings;
    float **old, **new; /* [groups][count] */
    uint32_t *id;       /* [groups] initializer with the new scales */
};

static const struct tensor *bytes_of(const struct model *m, uint32_t value)
{
    return &m->values[value].weight->tensor;
}

static int set_weight(struct model *m, uint32_t value, struct tensor *t, struct err *err)
{
    const int rc = value_set_weight(m, value, t);
    tensor_fini(t);
    return rc ? err_set(err, ERR_NOMEM, "out of memory while storing weights") : 0;
}

/* ---- scales ---- */
static int read_scales(struct store *s, struct err *err)
{
    const struct qat_model *q = s->q;
    for (int g = 0; g < q->n_groups; g++) {
        const int64_t n = q->group[g].count;
        s->old[g] = malloc((size_t)n * sizeof(float));
        s->new[g] = malloc((size_t)n * sizeof(float));
        if (!s->old[g] || !s->new[g])
            return err_set(err, ERR_NOMEM, "out of memory while storing scales");
        for (int64_t i = 0; i < n; i++) {
            s->old[g][i] = tensor_f32(value_const(q->m, q->group[g].scale))[i];
            s->new[g][i] = qat_scale(q, g, i);
        }
    }
    return 0;
}

/* Everyone who reads the scale at `slot` 1 is of this group. */
static bool only_ours(const struct store *s, int group)
{
    const struct qat_model *q = s->q;
    const uint32_t v = q->group[group].scale;
    int ours = 0;
    for (int i = 0; i < q->n_pairs; i++)
        if (q->pair[i].group == group)
            ours +=
                (q->m->nodes[q->pair[i].quantize].input[1] == v) + (q->m->nodes[q->pair[i].dequantize].input[1] == v);
    for (int i = 0; i < q->n_weights; i++)
        ours += q->weight[i].group == group && q->m->nodes[q->weight[i].dequantize].input[1] == v;
    for (int i = 0; i < q->n_pairs; i++) /* one QuantizeLinear, several DequantizeLinear: counted each time */
        for (int k = 0; k < i; k++)
            if (q->pair[i].group == group && q->pair[k].quantize == q->pair[i].quantize) {
                ours -= q->m->nodes[q->pair[i].quantize].input[1] == v;
                break;
            }
    return uses_count(&s->uses, v) == (uint32_t)ours;
}

static int point_to(struct model *m, uint32_t node, uint32_t value, struct err *err)
{
    return node_set_input(m, node, 1, value) ? err_set(err, ERR_NOMEM, "out of memory while storing scales") : 0;
}

static int store_scales(struct store *s, int group, struct err *err)
{
    struct qat_model *q = s->q;
    const struct qat_group *g = &q->group[group];
    struct tensor t = {0};
    if (g->ratio == VALUE_NONE)
        return 0;
    if (tensor_alloc(&t, DTYPE_FLOAT, &value_const(q->m, g->scale)->shape, err))
        return -1;
    for (int64_t i = 0; i < g->count; i++)
        tensor_f32(&t)[i] = s->new[group][i];
    s->id[group] = g->scale;
    if (only_ours(s, group)) {
        if (set_weight(q->m, g->scale, &t, err))
            return -1;
    } else {
        s->id[group] = model_add_weight(q->m, 0, q->m->values[g->scale].name, &t);
        tensor_fini(&t);
        if (s->id[group] == VALUE_NONE)
            return err_set(err, ERR_NOMEM, "out of memory while storing scales");
    }
    for (int i = 0; i < q->n_pairs; i++)
        if (q->pair[i].group == group && (point_to(q->m, q->pair[i].quantize, s->id[group], err) ||
                                          point_to(q->m, q->pair[i].dequantize, s->id[group], err)))
            return -1;
    for (int i = 0; i < q->n_weights; i++)
        if (q->weight[i].group == group && point_to(q->m, q->weight[i].dequantize, s->id[group], err))
            return -1;
    return 0;
}

/* ---- weights ---- */
static void report(struct store *s, const struct qat_weight *w, int64_t changed, int64_t n)
{
    const struct model *m = s->q->m;
    const struct qat_group *g = &s->q->group[w->group];
    double least = INFINITY, most = 0;
    for (int64_t i = 0; i < g->count; i++) {
        const double r = (double)s->new[w->group][i] / (double)s->old[w->group][i];
        least = fmin(least, r);
        most = fmax(most, r);
    }
    struct layer_row row = {
        .node = w->product == NODE_NONE ? w->dequantize : w->product, .weight = w->codes, .sqnr_db = NAN};
    row.before =
        json_pack("{s:s,s:I}", "dtype", dtype_name(bytes_of(m, w->codes)->dtype), "scales", (json_int_t)g->count);
    row.after = json_pack("{s:f,s:f,s:f}", "codes_changed", n ? (double)changed / (double)n : 0.0, "scale_least_ratio",
                          least, "scale_largest_ratio", most);
    layer_report_add(s->layers, m, &row);
}

static int store_weight(struct store *s, const struct qat_weight *w, struct err *err)
{
    struct qat_model *q = s->q;
    const struct tensor *old = bytes_of(q->m, w->codes);
    struct tensor *latent = &q->twin->values[w->latent].weight->tensor;
    const struct tensor *zero = w->zero == VALUE_NONE ? NULL : value_const(q->m, w->zero);
    const int64_t n = tensor_count(old), scales = q->group[w->group].count;
    struct tensor codes = {0};
    int64_t changed = 0;
    if (tensor_writable(latent, err) || tensor_alloc(&codes, old->dtype, &old->shape, err))
        return -1;
    if (w->pairs) /* a moving average of such weights need not be one */
        qat_pairs_keep(latent, w->out_axis, s->new[w->group], scales);
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = qat_scale_at(w, &old->shape, scales, i);
        const double z = zero ? dtype_get(zero->dtype, zero->data, at) : 0;
        double code = (double)nearbyintf(tensor_f32(latent)[i] / s->new[w->group][at]) + z;
        code = code > (double)w->low ? code : (double)w->low;
        code = code < (double)w->high ? code : (double)w->high;
        changed += code != dtype_get(old->dtype, old->data, i);
        dtype_set(old->dtype, codes.data, i, code);
    }
    value_set_note(q->m, w->codes, "latent", w->pairs ? "pairs" : NULL, latent);
    report(s, w, changed, n);
    return set_weight(q->m, w->codes, &codes, err);
}

/* ---- biases ---- */
/* Steps of a bias: as the scales of input and weight are now, in the proportion they had. */
static float step_of(const struct store *s, const struct qat_bias *b, int64_t i, const float *old, int64_t scales)
{
    const float was = old[scales == 1 ? 0 : i];
    if (b->input < 0 || b->weight < 0 || s->q->group[b->input].count != 1)
        return was;
    const int64_t count = s->q->group[b->weight].count, at = count == 1 ? 0 : i % count;
    const double now = (double)s->new[b->input][0] * (double)s->new[b->weight][at],
                 then = (double)s->old[b->input][0] * (double)s->old[b->weight][at];
    const double times = (double)was / then; /* Gemm's alpha */
    return (float)(now * (fabs(times - 1) < 1e-5 ? 1 : times));
}

static int store_bias(struct store *s, const struct qat_bias *b, struct err *err)
{
    struct qat_model *q = s->q;
    const uint32_t scale_id = q->m->nodes[b->dequantize].input[1];
    const struct tensor *scale = value_const(q->m, scale_id), *latent = bytes_of(q->twin, b->latent);
    const int64_t n = tensor_count(latent), scales = tensor_count(scale);
    const bool one = scales == 1 && (b->weight < 0 || q->group[b->weight].count == 1);
    struct tensor codes = {0}, steps = {0};
    const struct shape many = SHAPE(n);
    int64_t beyond = 0;
    int rc = -1;
    if (tensor_alloc(&codes, DTYPE_INT32, &latent->shape, err) ||
        tensor_alloc(&steps, DTYPE_FLOAT, one ? &scale->shape : &many, err))
        goto out;
    for (int64_t i = 0; i < n; i++) {
        const float step = step_of(s, b, i, tensor_f32(scale), scales);
        double code = nearbyint((double)tensor_f32(latent)[i] / (double)step);
        beyond += !(fabs(code) <= BIAS_MAX);
        code = code > BIAS_MAX ? BIAS_MAX : code > -BIAS_MAX ? code : -BIAS_MAX;
        ((int32_t *)codes.data)[i] = (int32_t)code;
        tensor_f32(&steps)[one ? 0 : i] = step;
    }
    if (beyond > 0)
        warnings_add(s->warnings, "bias '%s': %lld numbers do not fit int32 in steps of the trained scales and are cut",
                     q->m->values[b->codes].name, (long long)beyond);
    if (set_weight(q->m, b->codes, &codes, err))
        goto out;
    if (!tensor_equal(&steps, scale)) {
        if (uses_count(&s->uses, scale_id) == 1 && shape_equal(&steps.shape, &scale->shape)) {
            rc = set_weight(q->m, scale_id, &steps, err);
        } else {
            const uint32_t id = model_add_weight(q->m, 0, q->m->values[scale_id].name, &steps);
            rc = id == VALUE_NONE ? err_set(err, ERR_NOMEM, "out of memory while storing scales")
                                  : point_to(q->m, b->dequantize, id, err);
            if (rc == 0 && scales == 1 && !one)
                node_set_int(q->m, b->dequantize, "axis", 0);
        }
    } else {
        rc = 0;
    }
out:
    tensor_fini(&codes);
    tensor_fini(&steps);
    return rc;
}

/* ---- floats ---- */
static int store_floats(struct store *s, uint32_t n, struct err *err)
{
    struct qat_model *q = s->q;
    for (uint32_t v = 0; v < n; v++) {
        const struct weight *a = q->m->values[v].weight, *b = q->twin->values[v].weight;
        if (!q->m->values[v].name || !q->twin->values[v].name || !a || !b || a->tensor.data == b->tensor.data ||
            !dtype_is_float(b->tensor.dtype))
            continue;
        if (value_set_weight(q->m, v, &b->tensor))
            return err_set(err, ERR_NOMEM, "out of memory while storing weights");
    }
    return 0;
}

/* Initializers that only the nodes we turned away had read. */
static void drop_unread(struct store *s, uint32_t n)
{
    struct model *m = s->q->m;
    struct uses now;
    if (uses_build(&now, m, NULL))
        return; /* an initializer nobody reads does no harm */
    for (uint32_t v = 0; v < n; v++)
        if (m->values[v].name && m->values[v].weight && uses_count(&s->uses, v) > 0 && uses_count(&now, v) == 0 &&
            !value_is_graph_input(m, v))
            model_remove_value(m, v);
    uses_fini(&now);
}

int qat_store(struct qat_model *q, struct layer_report *layers, struct warnings *warnings, struct err *err)
{
    struct store s = {.q = q, .layers = layers, .warnings = warnings};
    const uint32_t n = q->m->n_values;
    const size_t groups = (size_t)q->n_groups + 1;
    int rc = -1;
    s.old = calloc(groups, sizeof *s.old);
    s.new = calloc(groups, sizeof *s.new);
    s.id = calloc(groups, sizeof *s.id);
    if (uses_build(&s.uses, q->m, err))
        goto out;
    if (!s.old || !s.new || !s.id) {
        err_set(err, ERR_NOMEM, "out of memory while storing weights");
        goto out;
    }
    rc = store_floats(&s, n, err) || read_scales(&s, err) ? -1 : 0;
    for (int i = 0; rc == 0 && i < q->n_weights; i++) {
        bool done = false; /* codes that two nodes read */
        for (int k = 0; k < i; k++)
            done = done || q->weight[k].codes == q->weight[i].codes;
        rc = done ? 0 : store_weight(&s, &q->weight[i], err);
    }
    for (int i = 0; rc == 0 && i < q->n_biases; i++)
        rc = store_bias(&s, &q->bias[i], err);
    for (int g = 0; rc == 0 && g < q->n_groups; g++)
        rc = store_scales(&s, g, err);
    if (rc == 0)
        drop_unread(&s, n);
out:
    for (int g = 0; g < q->n_groups; g++) {
        free(s.old ? s.old[g] : NULL);
        free(s.new ? s.new[g] : NULL);
    }
    free(s.old);
    free(s.new);
    free(s.id);
    uses_fini(&s.uses);
    return rc;
}
