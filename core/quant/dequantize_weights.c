/* SPDX-License-Identifier: Apache-2.0
 * dequantize_weights.c - constants as floats again: x = (code - zero) * scale.
 * Codes of DequantizeLinear and the QLinear operators: one scale, one for each index of an axis, or one for each block
 * along it. MatMulNBits and GatherBlockQuantized pack codes of 2 to 8 bits into bytes, low bits first; their
 * layouts are
 * written where they are read. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/quant/dequantize_forms.h"

static bool is_scale(const struct tensor *t)
{
    return t && t->data && (t->dtype == DTYPE_FLOAT || t->dtype == DTYPE_FLOAT16 || t->dtype == DTYPE_BFLOAT16 ||
                            t->dtype == DTYPE_DOUBLE);
}

/* Where the scale of an element stands: outer * step + (index / block) * inner' + inner. */
struct scale_map {
    int64_t axis_size, inner, block, blocks;
    bool one, whole_inner; /* whole_inner: blocked scales differ along the other axes too */
};

static const char *map_scales(const struct coded *c, const struct tensor *codes, const struct tensor *scale,
                              struct scale_map *map)
{
    static const char wrong[] = "its scales do not fit its codes";
    const struct shape *s = &codes->shape;
    *map = (struct scale_map){.one = tensor_count(scale) == 1 && c->block == 0, .block = 1};
    if (map->one)
        return NULL;
    const int axis = shape_axis(s, c->axis);
    if (axis < 0)
        return wrong;
    map->axis_size = s->dim[axis];
    map->inner = shape_product(s, axis + 1, s->rank);
    map->blocks = map->axis_size;
    if (c->block == 0)
        return tensor_count(scale) == map->axis_size ? NULL : wrong;
    if (c->block < 0)
        return wrong;
    map->block = c->block;
    map->blocks = i64_ceil_div(map->axis_size, c->block);
    map->whole_inner = true;
    struct shape want = *s;
    want.dim[axis] = map->blocks;
    return shape_equal(&want, &scale->shape) ? NULL : wrong;
}

static int64_t scale_at(const struct scale_map *map, int64_t i)
{
    if (map->one)
        return 0;
    const int64_t k = i / map->inner % map->axis_size;
    if (!map->whole_inner)
        return k;
    const int64_t outer = i / map->inner / map->axis_size;
    return (outer * map->blocks + k / map->block) * map->inner + i % map->inner;
}

const char *codes_to_float(const struct model *m, const struct coded *c, struct tensor *out)
{
    const struct tensor *codes = value_const(m, c->codes), *scale = value_const(m, c->scale),
                        *zero = c->zero != VALUE_NONE ? value_const(m, c->zero) : NULL;
    struct scale_map map;
    const bool small = codes && dtype_is_float(codes->dtype) && dtype_bits(codes->dtype) <= 8;
    if (!codes || !codes->data || !(dtype_is_integer(codes->dtype) || small))
        return "its codes are no constant integers or small floats";
    if (!is_scale(scale))
        return "its scale is not a floating-point constant";
    if (c->zero != VALUE_NONE &&
        (!zero || !zero->data || (tensor_count(zero) != 1 && tensor_count(zero) != tensor_count(scale))))
        return "its zero point is not a constant that fits its scale";
    const char *why = map_scales(c, codes, scale, &map);
    if (why)
        return why;
    const bool one_zero = zero && tensor_count(zero) == 1;
    if (tensor_alloc(out, scale->dtype, &codes->shape, NULL))
        return "memory is out, or the limit is reached";
    for (int64_t i = 0, n = tensor_count(codes); i < n; i++) {
        const int64_t at = scale_at(&map, i);
        const double z = zero ? dtype_get(zero->dtype, zero->data, one_zero ? 0 : at) : 0;
        const double x = (dtype_get(codes->dtype, codes->data, i) - z) * dtype_get(scale->dtype, scale->data, at);
        dtype_set(out->dtype, out->data, i, x);
    }
    return NULL;
}

/* ---- packed codes ---- */
/* Code i of a run of `bits`-bit codes, low bits first. */
static int unpack(const uint8_t *bytes, int64_t i, int64_t bits)
{
    const int64_t bit = i * bits;
    int code = bytes[bit / 8] >> (bit % 8);
    if (bit % 8 + bits > 8)
        code |= bytes[bit / 8 + 1] << (8 - bit % 8);
    return code & ((1 << bits) - 1);
}

struct nbits {
    int64_t k, n, bits, block, blocks;
    const struct tensor *codes, *scale, *zero;
};

static const char *read_nbits(const struct deq *d, uint32_t node, struct nbits *w)
{
    const struct node *n = &d->m->nodes[node];
    *w = (struct nbits){.k = node_attr_int(n, "K", 0), .n = node_attr_int(n, "N", 0),
                        .bits = node_attr_int(n, "bits", 4), .block = node_attr_int(n, "block_size", 0)};
    int64_t count, row;
    if (n->n_input < 3 || w->k < 1 || w->n < 1 || w->bits < 2 || w->bits > 8 || w->block < 1 ||
        !i64_mul(w->k, w->n, &count) || !i64_mul(w->block, w->bits, &row) || row % 8 != 0)
        return "its K, N, bits and block_size make no sense";
    w->blocks = i64_ceil_div(w->k, w->block);
    if (node_attr_int(n, "weight_prepacked", 0) != 0)
        return "its weight is packed for one GPU";
    if (n->n_input > 4 && n->input[4] != VALUE_NONE)
        return "it has a group index (g_idx)";
    w->codes = n->input[1] != VALUE_NONE ? value_const(d->m, n->input[1]) : NULL;
    w->scale = n->input[2] != VALUE_NONE ? value_const(d->m, n->input[2]) : NULL;
    w->zero = n->n_input > 3 && n->input[3] != VALUE_NONE ? value_const(d->m, n->input[3]) : NULL;
    if (!w->codes || !w->codes->data || w->codes->dtype != DTYPE_UINT8 || !is_scale(w->scale) ||
        (n->n_input > 3 && n->input[3] != VALUE_NONE && (!w->zero || !w->zero->data)))
        return "its weight, scales or zero points are not constant";
    int64_t bytes, scales, zeros = 0;
    if (!i64_mul(w->n, w->blocks, &scales) || !i64_mul(scales, row / 8, &bytes) ||
        tensor_count(w->codes) != bytes || tensor_count(w->scale) != scales)
        return "its weight or scales are not of the size that K, N, bits and block_size say";
    if (w->zero && w->zero->dtype == DTYPE_UINT8)
        zeros = w->n * i64_ceil_div(w->blocks * w->bits, 8);
    else if (w->zero)
        zeros = dtype_is_float(w->zero->dtype) ? scales : -1;
    const bool wrong = w->zero && tensor_count(w->zero) != zeros;
    return wrong ? "its zero points are not of the size that the weight says" : NULL;
}

static double nbits_zero(const struct nbits *w, int64_t row, int64_t b)
{
    if (!w->zero)
        return (double)(1 << (w->bits - 1));
    if (w->zero->dtype != DTYPE_UINT8)
        return dtype_get(w->zero->dtype, w->zero->data, row * w->blocks + b);
    const int64_t stride = i64_ceil_div(w->blocks * w->bits, 8);
    return unpack((const uint8_t *)w->zero->data + row * stride, b, w->bits);
}

/* Y = A W^T: W[N][K] as the [K, N] a MatMul reads. */
const char *undo_matmul_nbits(struct deq *d, uint32_t node)
{
    struct nbits w;
    struct tensor t = {0};
    const char *why = read_nbits(d, node, &w);
    if (why)
        return why;
    if (tensor_alloc(&t, w.scale->dtype, &SHAPE(w.k, w.n), NULL))
        return "memory is out, or the limit is reached";
    for (int64_t row = 0; row < w.n; row++)
        for (int64_t k = 0; k < w.k; k++) {
            const int64_t b = k / w.block, at = row * w.blocks + b;
            const uint8_t *bytes = (const uint8_t *)w.codes->data + at * (w.block * w.bits / 8);
            dtype_set(t.dtype, t.data, k * w.n + row,
                      (unpack(bytes, k % w.block, w.bits) - nbits_zero(&w, row, b)) *
                          dtype_get(w.scale->dtype, w.scale->data, at));
        }
    const struct node *n = &d->m->nodes[node];
    const uint32_t codes = n->input[1], bias = n->n_input > 5 ? n->input[5] : VALUE_NONE, out = n->output[0];
    uint32_t in[2] = {n->input[0], deq_constant(d, d->m->values[codes].name, &t)};
    tensor_fini(&t);
    deq_report_weight(d, node, codes, in[1]);
    const uint32_t product = bias == VALUE_NONE ? out : deq_value(d, out, "product");
    const uint32_t made = deq_replace(d, node, "", "MatMul", in, 2, product);
    if (made != NODE_NONE)
        d->m->nodes[made].n_attr = 0;
    if (bias != VALUE_NONE && !d->edit.failed)
        edit_add_node(&d->edit, d->m->values[out].graph, "Add", NULL, (uint32_t[]){product, bias}, 2, &out, 1);
    return NULL;
}

/* ---- GatherBlockQuantized: a table in blocks along quantize_axis ---- */
struct table {
    const struct tensor *data, *scale, *zero;
    struct shape shape; /* of values */
    int64_t bits, block, blocks;
    int axis;
};

static const char *read_table(const struct deq *d, uint32_t node, struct table *t)
{
    static const char wrong[] = "its data, scales or zero points do not fit each other";
    const struct node *n = &d->m->nodes[node];
    if (n->n_input < 3 || n->input[0] == VALUE_NONE || n->input[2] == VALUE_NONE)
        return wrong;
    *t = (struct table){.data = value_const(d->m, n->input[0]), .scale = value_const(d->m, n->input[2]),
                        .bits = node_attr_int(n, "bits", 4), .block = node_attr_int(n, "block_size", 128)};
    t->zero = n->n_input > 3 && n->input[3] != VALUE_NONE ? value_const(d->m, n->input[3]) : NULL;
    if (!t->data || !t->data->data || !is_scale(t->scale) ||
        (n->n_input > 3 && n->input[3] != VALUE_NONE && (!t->zero || !t->zero->data)))
        return "its data, scales or zero points are not constant";
    const bool packed = t->data->dtype == DTYPE_UINT8;
    if (!packed && t->data->dtype != DTYPE_INT4 && t->data->dtype != DTYPE_UINT4)
        return "its data are small floats";
    if ((t->bits != 2 && t->bits != 4 && t->bits != 8) || t->block < 1 || t->data->shape.rank < 1)
        return wrong;
    t->shape = t->data->shape;
    int64_t *last = &t->shape.dim[t->shape.rank - 1];
    if (packed && !i64_mul(*last, 8 / t->bits, last))
        return wrong;
    t->axis = shape_axis(&t->shape, node_attr_int(n, "quantize_axis", 1));
    if (t->axis < 0 || shape_count(&t->shape) < 1)
        return wrong;
    t->blocks = i64_ceil_div(t->shape.dim[t->axis], t->block);
    struct shape want = t->shape, zeros;
    want.dim[t->axis] = t->blocks;
    zeros = want;
    if (packed) /* zero points are packed along the last axis as the data are */
        zeros.dim[zeros.rank - 1] = i64_ceil_div(zeros.dim[zeros.rank - 1] * t->bits, 8);
    if (!shape_equal(&want, &t->scale->shape) || (t->zero && !shape_equal(&zeros, &t->zero->shape)) ||
        (t->zero && t->zero->dtype != t->data->dtype))
        return wrong;
    return NULL;
}

/* Element `at` of a tensor that packs `bits` along its last axis of `last` elements, each row to whole bytes. */
static int64_t packed_at(const struct tensor *t, int64_t bits, int64_t last, int64_t at)
{
    if (t->dtype != DTYPE_UINT8)
        return dtype_get_i64(t->dtype, t->data, at);
    const int64_t stride = i64_ceil_div(last * bits, 8);
    return unpack((const uint8_t *)t->data + at / last * stride, at % last, bits);
}

const char *undo_gather_block(struct deq *d, uint32_t node)
{
    struct table t;
    struct tensor f = {0};
    const char *why = read_table(d, node, &t);
    if (why)
        return why;
    if (tensor_alloc(&f, t.scale->dtype, &t.shape, NULL))
        return "memory is out, or the limit is reached";
    const int64_t inner = shape_product(&t.shape, t.axis + 1, t.shape.rank), size = t.shape.dim[t.axis];
    const int64_t last = t.shape.dim[t.shape.rank - 1], last_scale = t.scale->shape.dim[t.shape.rank - 1];
    const int64_t middle = t.data->dtype == DTYPE_UINT8 ? (int64_t)1 << (t.bits - 1) : 0;
    for (int64_t i = 0, n = tensor_count(&f); i < n; i++) {
        const int64_t k = i / inner % size, outer = i / inner / size;
        const int64_t at = (outer * t.blocks + k / t.block) * inner + i % inner;
        const int64_t zero = t.zero ? packed_at(t.zero, t.bits, last_scale, at) : middle;
        dtype_set(f.dtype, f.data, i,
                  (double)(packed_at(t.data, t.bits, last, i) - zero) * dtype_get(t.scale->dtype, t.scale->data, at));
    }
    const struct node *n = &d->m->nodes[node];
    const int64_t axis = node_attr_int(n, "gather_axis", 0);
    const uint32_t codes = n->input[0], out = n->output[0];
    const uint32_t in[2] = {deq_constant(d, d->m->values[codes].name, &f), n->input[1]};
    tensor_fini(&f);
    deq_report_weight(d, node, codes, in[0]);
    const uint32_t made = deq_replace(d, node, "", "Gather", in, 2, out);
    if (made != NODE_NONE) {
        d->m->nodes[made].n_attr = 0;
        node_set_int(d->m, made, "axis", axis);
    }
    return NULL;
}

/* ---- DynamicQuantizeLSTM: W [directions, input, 4 hidden] and R [directions, hidden, 4 hidden] are LSTM's with
 * the last
 * two axes exchanged; a scale and a zero point for each direction, or for each direction and column ---- */
static const char *lstm_weight(struct deq *d, uint32_t node, int codes, int scale, struct tensor *out)
{
    const struct node *n = &d->m->nodes[node];
    const uint32_t ids[3] = {n->input[codes], n->input[scale], n->input[scale + 1]};
    const struct tensor *c = ids[0] != VALUE_NONE ? value_const(d->m, ids[0]) : NULL,
                        *s = ids[1] != VALUE_NONE ? value_const(d->m, ids[1]) : NULL,
                        *z = ids[2] != VALUE_NONE ? value_const(d->m, ids[2]) : NULL;
    if (!c || !c->data || !dtype_is_integer(c->dtype) || c->shape.rank != 3 || !is_scale(s) || !z || !z->data)
        return "its weights, scales or zero points are not constant";
    const int64_t dirs = c->shape.dim[0], rows = c->shape.dim[1], cols = c->shape.dim[2];
    const int64_t each = tensor_count(s) == dirs ? 1 : cols;
    if (tensor_count(s) != dirs * each || tensor_count(z) != tensor_count(s))
        return "its scales do not fit its weights";
    if (tensor_alloc(out, s->dtype, &SHAPE(dirs, cols, rows), NULL))
        return "memory is out, or the limit is reached";
    for (int64_t a = 0; a < dirs; a++)
        for (int64_t r = 0; r < rows; r++)
            for (int64_t k = 0; k < cols; k++) {
                const int64_t at = a * each + (each == 1 ? 0 : k);
                const int64_t code = dtype_get_i64(c->dtype, c->data, (a * rows + r) * cols + k);
                dtype_set(out->dtype, out->data, (a * cols + k) * rows + r,
                          (double)(code - dtype_get_i64(z->dtype, z->data, at)) * dtype_get(s->dtype, s->data, at));
            }
    return NULL;
}

const char *undo_lstm(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    struct tensor w = {0}, r = {0};
    if (n->n_input != 12 || n->n_output > 3)
        return "it has not the inputs of a DynamicQuantizeLSTM";
    const char *why = lstm_weight(d, node, 1, 8, &w);
    why = why ? why : lstm_weight(d, node, 2, 10, &r);
    if (!why) {
        const uint32_t codes[2] = {n->input[1], n->input[2]};
        const uint32_t made[2] = {deq_constant(d, d->m->values[codes[0]].name, &w),
                                  deq_constant(d, d->m->values[codes[1]].name, &r)};
        deq_report_weight(d, node, codes[0], made[0]);
        deq_report_weight(d, node, codes[1], made[1]);
        edit_set_input(&d->edit, node, 1, made[0]);
        edit_set_input(&d->edit, node, 2, made[1]);
        edit_cut_inputs(&d->edit, node, 8);
        d->m->nodes[node].op_type = d->written = "LSTM";
        d->m->nodes[node].domain = NULL;
    }
    tensor_fini(&w);
    tensor_fini(&r);
    return why;
}
