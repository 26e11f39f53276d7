/* SPDX-License-Identifier: Apache-2.0
 * qdq_products.c - weights and biases of quantized products:
 *   weight   integer initializer -> DequantizeLinear (axis) -> product; a weight two products read is stored once
 *   bias     int32 initializer -> DequantizeLinear, scale = s_x s_w (times Gemm's alpha), zero point 0; one a product
 * Scale guard: |b| / (s_x s_w) must fit into int32, so a tiny weight with a large bias raises s_w.
 * That holds for every width of codes: ONNX Runtime turns float biases between DequantizeLinear nodes into int32 by
 * itself, without a look at whether they fit. */
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/weights.h"
#include "core/quant/grid.h"
#include "core/quant/latent.h"
#include "core/quant/qdq_writer.h"
#include "core/quant/wide_weight.h"

static const double BIAS_MAX = 1073741824.0; /* half of int32: the products are added to it */

struct product {
    uint32_t node, x;
    enum dtype dtype; /* of the codes */
    bool symmetric;
    int axis;   /* of the scales; -1: one scale */
    int w_axis; /* of the output channels */
    int bias_slot;
    int64_t channels;       /* of the bias and the output */
    int64_t scale_channels; /* entries of the weight's scale: a ConvTranspose's groups share theirs */
    double x_scale;         /* times alpha */
    double *bias;           /* per output channel, times beta; NULL: none, or it stays in float */
    const float *grid;      /* scales chosen before; NULL: none */
};

int qdq_channel_axis(const struct qdq *q, const struct node *n, const struct tensor *weight, struct err *err)
{
    const struct op_class *op = node_class(q->m, n);
    if (!op->quant.channel_axis_of)
        return op->quant.channel_axis < weight->shape.rank ? op->quant.channel_axis : -1;
    struct arena *arena = arena_new();
    void *attrs = arena ? arena_alloc(arena, op->attrs_size ? op->attrs_size : 1) : NULL;
    int axis = -1;
    if (!attrs)
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
    else if (op_parse_attrs(op, q->m, n, attrs, arena, err) == 0)
        axis = op->quant.channel_axis_of(attrs, weight->shape.rank);
    arena_free(arena);
    return axis >= weight->shape.rank ? -1 : axis;
}

/* ---- what a product brings ---- */
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

static void drop_bias(struct product *p)
{
    free(p->bias);
    p->bias = NULL;
}

/* Scales and codes that were chosen before stay, if they are of a form this product can have. */
static void read_grid(struct qdq *q, struct product *p)
{
    const struct tensor *scale;
    enum dtype dtype;
    int axis;
    const uint32_t v = q->m->nodes[p->node].input[1];
    if (!grid_note_get(q->m, v, &dtype, &axis, &scale) || !p->symmetric)
        return;
    const bool weight_type = dtype == DTYPE_INT8 || dtype == DTYPE_UINT8 || dtype == DTYPE_INT4 ||
                             dtype == DTYPE_UINT4 || dtype == DTYPE_INT16;
    bool fits = weight_type && dtype == p->dtype && (axis < 0 || axis == p->w_axis);
    for (int64_t k = 0; fits && k < tensor_count(scale); k++)
        fits = (double)tensor_f32(scale)[k] >= (double)FLT_MIN;
    if (!fits) {
        warnings_add(q->warnings,
                     "weight '%s' has %s codes chosen by an earlier step, which its product cannot use with these "
                     "parameters: it is rounded again",
                     q->m->values[v].name, dtype_name(dtype));
        return;
    }
    p->axis = axis;
    p->scale_channels = axis < 0 ? 1 : tensor_count(scale);
    p->grid = tensor_f32(scale);
}

/* With scales that stay as they are the bias may be too large for int32. */
static bool bias_fits(const struct product *p)
{
    for (int64_t k = 0; k < p->channels; k++) {
        const double step = p->x_scale * (double)p->grid[p->axis < 0 ? 0 : k % p->scale_channels];
        if (!(step >= (double)FLT_MIN) || fabs(p->bias[k]) / step > BIAS_MAX)
            return false;
    }
    return true;
}

static int read_product(struct qdq *q, uint32_t node, uint32_t x, struct product *p, struct err *err)
{
    const struct node *n = &q->m->nodes[node];
    const struct tensor *t = value_const(q->m, n->input[1]);
    const int axis = qdq_channel_axis(q, n, t, err);
    if (axis < 0 && err->code)
        return -1;
    *p = (struct product){.node = node,
                          .x = x,
                          .axis = -1,
                          .bias_slot = node_class(q->m, n)->quant.bias,
                          .dtype = q->node[node].weight,
                          .scale_channels = 1};
    p->symmetric = q->node[node].symmetric_weights || (q->node[node].per_channel && axis >= 0);
    p->w_axis = t->shape.rank > 1 ? axis : -1;
    p->channels = axis < 0 ? 1 : t->shape.dim[axis];
    if (q->node[node].per_channel && p->w_axis >= 0) {
        p->axis = axis;
        p->scale_channels = p->channels;
    }
    if (node_is(n, "ConvTranspose"))
        p->channels *= node_attr_int(n, "group", 1);
    p->x_scale = (double)q->params[x].scale * (node_is(n, "Gemm") ? (double)node_attr_float(n, "alpha", 1) : 1);
    read_grid(q, p);
    read_bias(q, p);
    if (p->bias && p->grid && !bias_fits(p)) {
        warnings_add(q->warnings,
                     "weight '%s' is rounded again with larger scales than an earlier step chose: its bias would not "
                     "fit into int32",
                     q->m->values[n->input[1]].name);
        p->grid = NULL;
    }
    return 0;
}

/* ---- weights ---- */
/* Least weight scale per channel: the bias fits into int32, and the product of the scales stays normal. */
static double *scale_floor(const struct product *p)
{
    double *floor = calloc((size_t)p->scale_channels, sizeof *floor);
    double smallest = 4 * (double)FLT_MIN / (p->x_scale < 1 ? p->x_scale : 1);
    for (int64_t k = 0; floor && k < p->scale_channels; k++)
        floor[k] = smallest;
    for (int64_t k = 0; floor && p->bias && k < p->channels; k++) {
        int64_t at = k % p->scale_channels;
        double need = fabs(p->bias[k]) / (p->x_scale * BIAS_MAX);
        if (need > floor[at])
            floor[at] = need;
    }
    return floor;
}

/* ONNX Runtime does without the zero point of a signed weight only where it convolves in integers, which for signed
 * activations depends on the CPU and on its options. */
static bool asks_for_zero(const struct qdq *q, const struct product *p)
{
    const struct node *n = &q->m->nodes[p->node];
    return !node_is(n, "Conv") || !q->quantized[n->output[0]] || q->value[p->x].dtype != DTYPE_UINT8 ||
           q->value[n->output[0]].dtype != DTYPE_UINT8;
}

static const struct stored *find_stored(const struct writer *w, const struct product *p, const double *floor)
{
    const uint32_t v = w->q->m->nodes[p->node].input[1];
    const bool zero = asks_for_zero(w->q, p);
    for (int i = 0; i < w->n_stored; i++) {
        const struct stored *s = &w->stored[i];
        const struct tensor *scale = value_const(w->q->m, s->scale);
        bool same = s->weight == v && s->axis == p->axis && s->dtype == p->dtype && (s->zero || !zero);
        for (int64_t k = 0; same && !p->grid && k < p->scale_channels; k++)
            same = (double)tensor_f32(scale)[k] >= floor[k];
        if (same)
            return s;
    }
    return NULL;
}

/* How far the activations' codes were seen to reach, if that was measured and the weight is this product's alone. */
static int reach_of(struct qdq *q, const struct product *p, struct code_reach *reach, struct err *err)
{
    const struct node *n = &q->m->nodes[p->node];
    const struct qparams x = q->params[p->x];
    struct channel_extent seen;
    if (!q->calibration || edit_only_reader(&q->edit, n->input[1]) != p->node ||
        !channel_ranges_get(calibration_channels(q->calibration), p->x, qdq_input_axis(n), &seen))
        return 0;
    return code_reach_make(reach, &seen, (double)x.scale, x.zero, (int32_t)dtype_min(q->value[p->x].dtype), err);
}

static int make_codes(struct qdq *q, const struct product *p, const double *floor, struct qweight *code,
                      struct err *err)
{
    const struct tensor *t = value_const(q->m, q->m->nodes[p->node].input[1]);
    struct qweight_opts opts = {.dtype = p->dtype,
                                .per_channel = p->axis >= 0,
                                .axis = p->w_axis,
                                .scale_floor = p->grid ? NULL : floor,
                                .scale = p->grid,
                                .isa = q->opts->isa,
                                .pool = calibration_pool(q->calibration),
                                .adds_in_32 =
                                    !dtype_is_8bit(q->value[p->x].dtype) ||
                                    conv_is_depthwise(&q->m->nodes[p->node], t)}; /* kernels of their own: int32 sums */
    if (!dtype_is_8bit(p->dtype) || !p->symmetric)
        return wide_weight_make(code, t, &opts, p->symmetric, isa_row(q->opts->isa)->pairs && !opts.adds_in_32, err);
    if (reach_of(q, p, &opts.reach, err))
        return -1;
    const int rc = qweight_make(code, t, &opts, err);
    code_reach_fini(&opts.reach);
    return rc;
}

/* ONNX Runtime's integer convolutions do without the zero point of a signed weight; its matrix products ask for one.
 * Never shared with another weight's: its exact mode (session.x64quantprecision) turns signed weights and their zero
 * points into unsigned ones, and fails on one it has turned before. */
static uint32_t weight_zero(struct writer *w, const struct qweight *code, struct err *err)
{
    struct tensor z = {0};
    if (tensor_alloc(&z, code->codes.dtype, &code->scale.shape, err))
        return VALUE_NONE;
    for (int64_t i = 0; i < tensor_count(&z); i++)
        dtype_set(z.dtype, z.data, i, code->zero);
    const uint32_t id = writer_constant(w, "z", &z);
    tensor_fini(&z);
    if (id == VALUE_NONE)
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
    return id;
}

/* The weight in codes: as another product stored it, or new. */
static int store_weight(struct writer *w, const struct product *p, struct stored *out, struct err *err)
{
    struct qdq *q = w->q;
    const uint32_t v = q->m->nodes[p->node].input[1];
    double *floor = scale_floor(p);
    struct qweight code = {0};
    int rc = -1;
    char label[200];
    if (!floor)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    const struct stored *old = find_stored(w, p, floor);
    if (old) {
        *out = *old;
        free(floor);
        return 0;
    }
    if (make_codes(q, p, floor, &code, err)) {
        err_wrap(err, "weight '%s' of node '%s': ", q->m->values[v].name,
                 node_label(q->m, p->node, label, sizeof label));
        goto out;
    }
    const bool zero = code.zero != 0 || asks_for_zero(q, p);
    *out = (struct stored){
        .weight = v, .axis = p->axis, .dtype = p->dtype, .sqnr_db = code.sqnr_db, .proof = code.proof, .zero = zero};
    out->codes = edit_add_weight(&q->edit, 0, q->m->values[v].name, &code.codes);
    latent_note_set(q->m, out->codes, v,
                    isa_row(q->opts->isa)->pairs && p->dtype == DTYPE_INT8 && !code.proof.adds_in_32 &&
                        dtype_is_8bit(q->value[p->x].dtype));
    out->scale = writer_constant(w, "s", &code.scale);
    const uint32_t z = zero ? weight_zero(w, &code, err) : VALUE_NONE;
    if (zero && z == VALUE_NONE)
        goto out;
    out->dequantized = writer_dequantize(w, p->dtype, out->codes, out->scale, z, p->axis);
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

/* ---- biases ---- */
static int write_bias(struct writer *w, const struct product *p, const struct stored *s, struct err *err)
{
    struct qdq *q = w->q;
    const float *ws = tensor_f32(value_const(q->m, s->scale));
    const bool one = p->axis < 0;
    struct tensor codes = {0}, scale = {0};
    struct shape scale_shape = one ? SHAPE_SCALAR : SHAPE(p->channels);
    int rc = -1;
    if (tensor_alloc(&codes, DTYPE_INT32, &SHAPE(p->channels), err) ||
        tensor_alloc(&scale, DTYPE_FLOAT, &scale_shape, err))
        goto out;
    for (int64_t k = 0; k < p->channels; k++) {
        float step = (float)(p->x_scale * (double)ws[one ? 0 : k % p->scale_channels]);
        double code = nearbyint(p->bias[k] / (double)step);
        tensor_f32(&scale)[one ? 0 : k] = step;
        ((int32_t *)codes.data)[k] = code > 2147483647.0 ? INT32_MAX : code < -2147483648.0 ? INT32_MIN : (int32_t)code;
    }
    uint32_t c = writer_constant(w, "b", &codes);
    uint32_t sc = one ? writer_scalar(w, DTYPE_FLOAT, (double)tensor_f32(&scale)[0]) : writer_constant(w, "s", &scale);
    uint32_t d = writer_dequantize(w, DTYPE_INT32, c, sc, VALUE_NONE, one ? -1 : 0);
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

static void report(struct qdq *q, const struct product *p, const struct stored *s, size_t bytes)
{
    bool float_out = q->m->nodes[p->node].n_output > 0 && q->tail[q->m->nodes[p->node].output[0]] &&
                     !q->quantized[q->m->nodes[p->node].output[0]];
    struct layer_row row = {.node = p->node, .weight = s->weight, .sqnr_db = s->sqnr_db};
    row.before = json_pack("{s:s,s:I}", "dtype", "float32", "bytes", (json_int_t)bytes);
    row.after = json_pack(
        "{s:s,s:I,s:I,s:s}", "dtype", dtype_name(p->dtype), "bytes", (json_int_t)value_const(q->m, s->codes)->bytes,
        "scales", (json_int_t)(p->axis < 0 ? 1 : p->scale_channels), "activations", dtype_name(q->value[p->x].dtype));
    if (dtype_is_8bit(p->dtype) && p->symmetric)
        pair_proof_report(row.after, &s->proof, q->opts->isa);
    if (row.after && p->grid)
        json_object_set_new(row.after, "codes", json_string("as an earlier step chose them"));
    if (row.after && float_out)
        json_object_set_new(row.after, "output", json_string("float32: 8-bit scores of the model's output would tie"));
    layer_report_add(q->layers, q->m, &row);
}

int writer_product(struct writer *w, uint32_t node, uint32_t x, struct err *err)
{
    struct qdq *q = w->q;
    struct product p;
    struct stored s;
    const size_t bytes = value_const(q->m, q->m->nodes[node].input[1])->bytes;
    if (read_product(q, node, x, &p, err))
        return -1;
    int rc = store_weight(w, &p, &s, err);
    if (rc == 0 && p.bias)
        rc = write_bias(w, &p, &s, err);
    if (rc == 0) {
        report(q, &p, &s, bytes);
        edit_set_input(&q->edit, node, 1, s.dequantized);
    }
    drop_bias(&p);
    return rc;
}
