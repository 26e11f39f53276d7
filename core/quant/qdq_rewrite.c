/* SPDX-License-Identifier: Apache-2.0
 * qdq_rewrite.c - the planned quantization written into the model.
 *   value    v -> QuantizeLinear -> DequantizeLinear -> readers; equal scales and zero points are one initializer
 *   weight   int8 initializer -> DequantizeLinear (axis) -> product; a weight two products read is stored once
 *   bias     int32 initializer -> DequantizeLinear, scale = s_x s_w (times Gemm's alpha), zero point 0; one for each
 * product Scale guard: |b| / (s_x s_w) must fit into int32, so a tiny weight with a large bias raises s_w. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/weights.h"
#include "core/quant/qdq.h"

/* Scalars already in the model, found again by value. */
struct scalar {
    enum dtype dtype;
    double v;
    uint32_t id;
};
struct stored {
    uint32_t weight, codes, scale, dequantized; /* value ids */
    int axis;
    double sqnr_db;
    int64_t guarded;
};
struct writer {
    struct qdq *q;
    struct scalar *scalars;
    int n_scalars, cap_scalars;
    struct stored *stored;
    int n_stored;
    unsigned names;
};

static uint32_t scalar(struct writer *w, enum dtype dtype, double v, const char *prefix)
{
    for (int i = 0; i < w->n_scalars; i++)
        if (w->scalars[i].dtype == dtype && w->scalars[i].v == v)
            return w->scalars[i].id;
    if (w->n_scalars == w->cap_scalars) {
        int cap = w->cap_scalars * 2 + 16;
        struct scalar *grown = realloc(w->scalars, (size_t)cap * sizeof *grown);
        if (!grown) {
            w->q->edit.failed = true;
            return VALUE_NONE;
        }
        w->scalars = grown;
        w->cap_scalars = cap;
    }
    struct tensor t = {0};
    char name[32];
    if (tensor_alloc(&t, dtype, &SHAPE_SCALAR, NULL)) {
        w->q->edit.failed = true;
        return VALUE_NONE;
    }
    dtype_set(dtype, t.data, 0, v);
    snprintf(name, sizeof name, "%s%u", prefix, w->names++);
    uint32_t id = edit_add_weight(&w->q->edit, 0, name, &t);
    tensor_fini(&t);
    w->scalars[w->n_scalars++] = (struct scalar){dtype, v, id};
    return id;
}

static uint32_t new_value(struct writer *w, const char *prefix)
{
    char name[32];
    snprintf(name, sizeof name, "%s%u", prefix, w->names++);
    return edit_add_value(&w->q->edit, 0, name);
}

static uint32_t add_dequantize(struct writer *w, uint32_t codes, uint32_t scale, uint32_t zero, int axis)
{
    uint32_t in[3] = {codes, scale, zero}, out = new_value(w, "d");
    if (w->q->edit.failed)
        return VALUE_NONE;
    uint32_t node = edit_add_node(&w->q->edit, 0, "DequantizeLinear", NULL, in, zero == VALUE_NONE ? 2 : 3, &out, 1);
    if (node != NODE_NONE && axis >= 0 && axis != 1)
        node_set_int(w->q->m, node, "axis", axis); /* 1 is the default */
    return out;
}

static void write_value(struct writer *w, uint32_t v)
{
    struct qdq *q = w->q;
    struct qparams p = q->params[v];
    uint32_t scale = scalar(w, DTYPE_FLOAT, (double)p.scale, "s"), zero = scalar(w, q->act, p.zero, "z");
    uint32_t codes = new_value(w, "q"), in[3] = {v, scale, zero};
    if (q->edit.failed)
        return;
    uint32_t d = add_dequantize(w, codes, scale, zero, -1);
    edit_replace_reads(&q->edit, v, d);
    edit_add_node(&q->edit, 0, "QuantizeLinear", NULL, in, 3, &codes, 1);
}

/* A one-number operand of an 8-bit operator. */
static void write_constant(struct writer *w, uint32_t node, int slot)
{
    struct qdq *q = w->q;
    const struct tensor *t = value_const(q->m, q->m->nodes[node].input[slot]);
    struct tensor codes = {0};
    double x = t->data ? dtype_get(t->dtype, t->data, 0) : 0;
    struct qparams p = affine_params(x, x, q->act, q->opts->symmetric);
    if (t->dtype != DTYPE_FLOAT || !isfinite(x))
        return;
    if (tensor_alloc(&codes, q->act, &t->shape, NULL)) {
        q->edit.failed = true;
        return;
    }
    dtype_set(q->act, codes.data, 0, affine_quantize(x, p, q->act_min, q->act_max));
    char name[32];
    snprintf(name, sizeof name, "c%u", w->names++);
    uint32_t c = edit_add_weight(&q->edit, 0, name, &codes);
    tensor_fini(&codes);
    edit_set_input(
        &q->edit, node, slot,
        add_dequantize(w, c, scalar(w, DTYPE_FLOAT, (double)p.scale, "s"), scalar(w, q->act, p.zero, "z"), -1));
}

/* ---- products ---- */
struct product {
    uint32_t node, x;
    int axis;   /* of the scales; -1: one scale */
    int w_axis; /* of the output channels */
    int bias_slot;
    int64_t channels;       /* of the bias and the output */
    int64_t scale_channels; /* entries of the weight's scale: a ConvTranspose's groups share theirs */
    double x_scale;         /* times alpha */
    double *bias;           /* per output channel, times beta; NULL: none, or it stays in float */
};

static int channel_axis(const struct qdq *q, const struct node *n, const struct tensor *weight, struct err *err)
{
    const struct op_class *op = node_class(q->m, n);
    if (!op->quant.channel_axis_of)
        return op->quant.channel_axis;
    struct arena *arena = arena_new();
    void *attrs = arena ? arena_alloc(arena, op->attrs_size ? op->attrs_size : 1) : NULL;
    int axis = -1;
    if (!attrs)
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
    else if (op_parse_attrs(op, q->m, n, attrs, arena, err) == 0)
        axis = op->quant.channel_axis_of(attrs, weight->shape.rank);
    arena_free(arena);
    if (axis >= weight->shape.rank)
        axis = -1;
    return axis;
}

/* The bias per channel, if it is constant and one number a channel. */
static void read_bias(const struct qdq *q, struct product *p)
{
    const struct node *n = &q->m->nodes[p->node];
    if (p->bias_slot < 1 || p->bias_slot >= n->n_input || n->input[p->bias_slot] == VALUE_NONE)
        return;
    const struct tensor *t = value_const(q->m, n->input[p->bias_slot]);
    int64_t count = 0;
    if (!t || t->dtype != DTYPE_FLOAT || t->shape.rank > 2)
        return;
    if (tensor_count(t) != 1 && (t->shape.dim[t->shape.rank - 1] != p->channels || tensor_count(t) != p->channels))
        return;
    double *old = const_doubles(q->m, n->input[p->bias_slot], &count),
           beta = node_is(n, "Gemm") ? (double)node_attr_float(n, "beta", 1) : 1;
    p->bias = old && count > 0 ? calloc((size_t)p->channels, sizeof *p->bias) : NULL;
    for (int64_t k = 0; p->bias && k < p->channels; k++)
        p->bias[k] = beta * old[count == 1 ? 0 : k];
    for (int64_t k = 0; p->bias && k < p->channels; k++)
        if (!isfinite(p->bias[k])) {
            free(p->bias);
            p->bias = NULL;
        }
    free(old);
}

/* Least weight scale per channel: the bias fits into int32 with a little room, and the product of the scales stays
 * normal. A channel of zeros takes a scale that gives its bias 24 bits. */
static double *scale_floor(const struct product *p, const struct tensor *weight)
{
    double *floor = calloc((size_t)p->scale_channels, sizeof *floor);
    double smallest = 4 * (double)FLT_MIN / (p->x_scale < 1 ? p->x_scale : 1);
    (void)weight;
    for (int64_t k = 0; floor && k < p->scale_channels; k++)
        floor[k] = smallest;
    for (int64_t k = 0; floor && p->bias && k < p->channels; k++) {
        int64_t at = k % p->scale_channels;
        double need = fabs(p->bias[k]) / (p->x_scale * 2147483000.0);
        if (need > floor[at])
            floor[at] = need;
    }
    return floor;
}

/* Runtimes have kernels of their own for one channel in, one out: they sum in int32. */
static bool is_depthwise(const struct node *n, const struct tensor *weight)
{
    return node_is(n, "Conv") && node_attr_int(n, "group", 1) > 1 && weight->shape.rank > 2 &&
           weight->shape.dim[1] == 1 && weight->shape.dim[0] == node_attr_int(n, "group", 1);
}

static bool floors_hold(const struct writer *w, const struct stored *s, const double *floor, int64_t n)
{
    const struct tensor *scale = value_const(w->q->m, s->scale);
    for (int64_t k = 0; k < n; k++)
        if ((double)tensor_f32(scale)[k] < floor[k])
            return false;
    return true;
}

/* The weight in 8 bits: as another product stored it, or new. */
static int store_weight(struct writer *w, const struct product *p, struct stored *out, struct err *err)
{
    struct qdq *q = w->q;
    uint32_t v = q->m->nodes[p->node].input[1];
    const struct tensor *t = value_const(q->m, v);
    double *floor = scale_floor(p, t);
    struct qweight code = {0};
    int rc = -1;
    char label[200], name[32];
    if (!floor)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    for (int i = 0; i < w->n_stored; i++)
        if (w->stored[i].weight == v && w->stored[i].axis == p->axis &&
            floors_hold(w, &w->stored[i], floor, p->scale_channels)) {
            *out = w->stored[i];
            free(floor);
            return 0;
        }
    struct qweight_opts opts = {.dtype = q->weight,
                                .per_channel = p->axis >= 0,
                                .axis = p->w_axis,
                                .scale_floor = floor,
                                .pair_guard = q->opts->isa == ISA_PORTABLE && !is_depthwise(&q->m->nodes[p->node], t)};
    if (qweight_make(&code, t, &opts, err)) {
        err_wrap(err, "weight '%s' of node '%s': ", q->m->values[v].name,
                 node_label(q->m, p->node, label, sizeof label));
        goto out;
    }
    *out = (struct stored){.weight = v, .axis = p->axis, .sqnr_db = code.sqnr_db, .guarded = code.guarded};
    out->codes = edit_add_weight(&q->edit, 0, q->m->values[v].name, &code.codes);
    snprintf(name, sizeof name, "s%u", w->names++);
    out->scale = edit_add_weight(&q->edit, 0, name, &code.scale);
    uint32_t zero = VALUE_NONE;
    if (p->axis < 0)
        zero = scalar(w, q->weight, code.zero, "z");
    else {
        struct tensor z = {0};
        if (tensor_alloc(&z, q->weight, &code.scale.shape, err))
            goto out;
        memset(z.data, code.zero, z.bytes);
        for (int i = 0; i < w->n_stored && zero == VALUE_NONE; i++) { /* another weight with as many channels has one */
            const struct node *d = &q->m->nodes[q->m->values[w->stored[i].dequantized].producer];
            if (w->stored[i].axis >= 0 && value_const(q->m, d->input[2])->bytes == z.bytes)
                zero = d->input[2];
        }
        if (zero == VALUE_NONE) {
            snprintf(name, sizeof name, "z%u", w->names++);
            zero = edit_add_weight(&q->edit, 0, name, &z);
        }
        tensor_fini(&z);
    }
    out->dequantized = add_dequantize(w, out->codes, out->scale, zero, p->axis);
    if (q->edit.failed) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
        goto out;
    }
    w->stored[w->n_stored++] = *out;
    rc = 0;
out:
    qweight_fini(&code);
    free(floor);
    return rc;
}

static int write_bias(struct writer *w, const struct product *p, const struct stored *s, struct err *err)
{
    struct qdq *q = w->q;
    const float *ws = tensor_f32(value_const(q->m, s->scale));
    bool one = p->axis < 0;
    struct tensor codes = {0}, scale = {0};
    struct shape scale_shape = one ? SHAPE_SCALAR : SHAPE(p->channels);
    int rc = -1;
    char name[32];
    if (tensor_alloc(&codes, DTYPE_INT32, &SHAPE(p->channels), err) ||
        tensor_alloc(&scale, DTYPE_FLOAT, &scale_shape, err))
        goto out;
    for (int64_t k = 0; k < p->channels; k++) {
        float step = (float)(p->x_scale * (double)ws[one ? 0 : k % p->scale_channels]);
        double code = nearbyint(p->bias[k] / (double)step);
        tensor_f32(&scale)[one ? 0 : k] = step;
        ((int32_t *)codes.data)[k] = code > 2147483647.0 ? INT32_MAX : code < -2147483648.0 ? INT32_MIN : (int32_t)code;
    }
    uint32_t old = q->m->nodes[p->node].input[p->bias_slot];
    uint32_t c = edit_add_weight(&q->edit, 0, q->m->values[old].name, &codes);
    snprintf(name, sizeof name, "s%u", w->names++);
    uint32_t sc =
        one ? scalar(w, DTYPE_FLOAT, (double)tensor_f32(&scale)[0], "s") : edit_add_weight(&q->edit, 0, name, &scale);
    uint32_t d = q->edit.failed ? VALUE_NONE : add_dequantize(w, c, sc, VALUE_NONE, one ? -1 : 0);
    if (q->edit.failed) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
        goto out;
    }
    edit_set_input(&q->edit, p->node, p->bias_slot, d);
    if (node_attr(&q->m->nodes[p->node], "beta"))
        node_set_float(q->m, p->node, "beta", 1);
    rc = 0;
out:
    tensor_fini(&codes);
    tensor_fini(&scale);
    return rc;
}

static void report_product(struct qdq *q, const struct product *p, const struct stored *s, size_t bytes)
{
    bool float_out = q->m->nodes[p->node].n_output > 0 && q->tail[q->m->nodes[p->node].output[0]];
    struct layer_row row = {.node = p->node, .weight = s->weight, .sqnr_db = s->sqnr_db};
    row.before = json_pack("{s:s,s:I}", "dtype", "float32", "bytes", (json_int_t)bytes);
    row.after = json_pack("{s:s,s:I,s:I}", "dtype", dtype_name(q->weight), "bytes", (json_int_t)(bytes / 4), "scales",
                          (json_int_t)(p->axis < 0 ? 1 : p->scale_channels));
    if (row.after && s->guarded)
        json_object_set_new(row.after, "pair_guarded_channels", json_integer(s->guarded));
    if (row.after && float_out)
        json_object_set_new(row.after, "output", json_string("float32: 8-bit scores of the model's output would tie"));
    layer_report_add(q->layers, q->m, &row);
}

static int write_product(struct writer *w, uint32_t node, uint32_t x, struct err *err)
{
    struct qdq *q = w->q;
    const struct node *n = &q->m->nodes[node];
    const struct tensor *t = value_const(q->m, n->input[1]);
    size_t bytes = t->bytes;
    struct product p = {.node = node, .x = x, .axis = -1, .bias_slot = node_class(q->m, n)->quant.bias};
    int axis = channel_axis(q, n, t, err);
    p.w_axis = t->shape.rank > 1 ? axis : -1;
    if (axis < 0 && err->code)
        return -1;
    p.scale_channels = p.channels = axis < 0 ? 1 : t->shape.dim[axis];
    if (node_is(n, "ConvTranspose"))
        p.channels *= node_attr_int(n, "group", 1);
    if (q->opts->per_channel && axis >= 0 && t->shape.rank > 1)
        p.axis = axis;
    else
        p.scale_channels = 1;
    p.x_scale = (double)q->params[x].scale * (node_is(n, "Gemm") ? (double)node_attr_float(n, "alpha", 1) : 1);
    read_bias(q, &p);
    struct stored s;
    int rc = store_weight(w, &p, &s, err);
    if (rc == 0 && p.bias)
        rc = write_bias(w, &p, &s, err);
    if (rc == 0) {
        report_product(q, &p, &s, bytes);
        edit_set_input(&q->edit, node, 1, s.dequantized);
    }
    free(p.bias);
    return rc;
}

static void remove_absorbed(struct qdq *q, uint32_t node)
{
    uint32_t x = q->m->nodes[node].input[0], y = q->m->nodes[node].output[0];
    uint32_t p = q->m->values[x].producer;
    int slot = q->m->values[x].slot;
    edit_remove_node(&q->edit, node);
    edit_move_output(&q->edit, y, p, slot);
}

int qdq_rewrite(struct qdq *q, struct err *err)
{
    struct writer w = {.q = q, .stored = calloc(q->n_nodes ? q->n_nodes : 1, sizeof *w.stored)};
    uint32_t *x = calloc(q->n_nodes ? q->n_nodes : 1, sizeof *x); /* what products read before the pairs come between */
    int rc = -1;
    if (!w.stored || !x) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
        goto out;
    }
    for (uint32_t id = 0; id < q->n_nodes; id++)
        if (q->decision[id] == QDQ_PRODUCT)
            x[id] = q->m->nodes[id].input[0];
    for (uint32_t id = 0; id < q->n_nodes; id++) {
        if (q->decision[id] == QDQ_ABSORBED)
            remove_absorbed(q, id);
        for (int i = 0; q->decision[id] == QDQ_OUTPUT && i < q->m->nodes[id].n_input; i++)
            if (q->m->nodes[id].input[i] != VALUE_NONE && value_const(q->m, q->m->nodes[id].input[i]))
                write_constant(&w, id, i);
    }
    for (uint32_t v = 0; v < q->n_values; v++)
        if (q->quantized[v] && q->placed[v])
            write_value(&w, v);
    for (uint32_t id = 0; id < q->n_nodes; id++)
        if (q->decision[id] == QDQ_PRODUCT && write_product(&w, id, x[id], err))
            goto out;
    if (!q->edit.failed)
        rc = 0;
    else
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
out:
    free(w.scalars);
    free(w.stored);
    free(x);
    return rc;
}
