/* SPDX-License-Identifier: Apache-2.0
 * GatherBlockQuantized: Gather of `data` along gather_axis, dequantized on the way:
 *   (q - zero[block]) * scale[block], blocks of block_size elements along quantize_axis.
 * Types      int4 and uint4 (zero point 0 if absent); uint8 holding 2, 4 or 8 bits a value, packed along the last axis, low
 *            bits first (zero point 2^(bits - 1) if absent, packed alike); float8 and float4 (no zero points; a scale axis of
 *            1 is shared, block_size 0 is one block).
 * Indices    out of range in either direction: that slice is zero, as the contrib operator says. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple.h"
#include "core/ops/op_util.h"
#include "core/ops/widen.h"

struct gbq_attrs {
    int64_t bits, block_size, gather_axis, quantize_axis;
};
static const struct op_attr gbq_attrs[] = {
    {OP_ATTR(gbq_attrs, bits), .kind = OP_INT, .def = 4},
    {OP_ATTR(gbq_attrs, block_size), .kind = OP_INT, .def = 128},
    {OP_ATTR(gbq_attrs, gather_axis), .kind = OP_INT},
    {OP_ATTR(gbq_attrs, quantize_axis), .kind = OP_INT, .def = 1},
    {NULL},
};

/* What the shapes say, once the ranks are known. */
struct layout {
    struct shape data;              /* of values, also where bytes hold several */
    int gather, quantize, per_byte; /* values a byte holds; 1 unless uint8 is packed */
    int64_t block;
};

static bool is_small_float(enum dtype d)
{
    return dtype_is_float(d) && dtype_bits(d) <= 8;
}

static int check_data(enum dtype d, const struct gbq_attrs *a, struct err *err)
{
    const bool floats = is_small_float(d), whole = a->block_size == 0 && floats;

    if (d != DTYPE_NONE && d != DTYPE_INT4 && d != DTYPE_UINT4 && d != DTYPE_UINT8 && !floats)
        return err_set(err, ERR_MODEL, "input 'data' is %s; it must be int4, uint4, uint8, float8 or float4",
                       dtype_name(d));
    if (!whole && (a->block_size < 16 || a->block_size > INT32_MAX || (a->block_size & (a->block_size - 1)) != 0))
        return err_set(err, ERR_MODEL, "attribute 'block_size' is %" PRId64 "; it must be a power of two, 16 or larger",
                       a->block_size);
    if (!floats && a->bits != 2 && a->bits != 4 && a->bits != 8)
        return err_set(err, ERR_MODEL, "attribute 'bits' is %" PRId64 "; it must be 2, 4 or 8", a->bits);
    if ((d == DTYPE_INT4 || d == DTYPE_UINT4) && a->bits != 4)
        return err_set(err, ERR_MODEL, "attribute 'bits' is %" PRId64 " but the data is %s; it must be 4", a->bits,
                       dtype_name(d));
    return 0;
}

static int read_layout(const struct gbq_attrs *a, enum dtype dtype, const struct shape *data, struct layout *l,
                       struct err *err)
{
    if (data->rank == 0)
        return err_set(err, ERR_SHAPE, "the data is a scalar; it must have an axis to gather from");
    *l = (struct layout){.data = *data, .per_byte = dtype == DTYPE_UINT8 ? (int)(8 / a->bits) : 1};
    if (op_axis(data, a->gather_axis, &l->gather, err) < 0 || op_axis(data, a->quantize_axis, &l->quantize, err) < 0)
        return -1;
    if (dtype == DTYPE_UINT8 && l->gather != 0)
        return err_set(err, ERR_MODEL, "attribute 'gather_axis' is %d; for uint8 data it must be 0", l->gather);
    if (l->per_byte > 1 && l->gather == l->quantize)
        return err_set(err, ERR_MODEL, "gather_axis and quantize_axis are both %d; for packed data they must differ",
                       l->gather);
    int64_t *last = &l->data.dim[data->rank - 1];
    if (*last >= 0 && !i64_mul(*last, l->per_byte, last))
        return err_set(err, ERR_SHAPE, "the data is too large");
    l->block = a->block_size ? a->block_size : i64_max(l->data.dim[l->quantize], 1);
    return 0;
}

static int check_scales(const struct infer_ctx *c, const struct layout *l, struct err *err)
{
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];
    const struct shape *s = infer_shape(c, 2);
    struct shape want = l->data;

    if (s->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if (want.dim[l->quantize] >= 0)
        want.dim[l->quantize] = i64_ceil_div(want.dim[l->quantize], l->block);
    bool fits = s->rank == want.rank;
    for (int i = 0; fits && i < want.rank; i++)
        fits = s->dim[i] < 0 || want.dim[i] < 0 || s->dim[i] == want.dim[i] ||
               (s->dim[i] == 1 && i != l->quantize && is_small_float(op_dtype(c, 0)));
    if (!fits)
        return err_set(err, ERR_SHAPE, "input 'scales' has shape %s; it must be %s", shape_text(s, text),
                       shape_text(&want, want_text));
    if (!infer_has(c, 3) || infer_shape(c, 3)->rank == SHAPE_UNKNOWN_RANK || !shape_known(&want))
        return 0;
    want.dim[want.rank - 1] = i64_ceil_div(want.dim[want.rank - 1], l->per_byte);
    const struct shape *z = infer_shape(c, 3);
    if (shape_known(z) && !shape_equal(z, &want))
        return err_set(err, ERR_SHAPE, "input 'zero_points' has shape %s; it must be %s", shape_text(z, text),
                       shape_text(&want, want_text));
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct gbq_attrs *a = c->attrs;
    struct layout l;

    if (op_need(c, 3, err) < 0 || check_data(op_dtype(c, 0), a, err) < 0 || op_dtype_index(c, 1, err) < 0 ||
        op_dtype_kinds(c, 2, "f", err) < 0)
        return -1;
    if (infer_has(c, 3) && is_small_float(op_dtype(c, 0)))
        return err_set(err, ERR_MODEL, "zero points are given; data of a float type has none");
    if (infer_has(c, 3) && op_dtype(c, 3) != DTYPE_NONE && op_dtype(c, 0) != DTYPE_NONE &&
        op_dtype(c, 3) != op_dtype(c, 0))
        return err_set(err, ERR_MODEL, "input 'zero_points' is %s; it must be %s, the type of the data",
                       dtype_name(op_dtype(c, 3)), dtype_name(op_dtype(c, 0)));
    struct shape out = SHAPE_UNKNOWN;
    const struct shape *data = infer_shape(c, 0), *indices = infer_shape(c, 1);
    if (data->rank != SHAPE_UNKNOWN_RANK && op_dtype(c, 0) != DTYPE_NONE) { /* the type says how many fit into a byte */
        if (read_layout(a, op_dtype(c, 0), data, &l, err) < 0 || check_scales(c, &l, err) < 0)
            return -1;
        if (indices->rank != SHAPE_UNKNOWN_RANK) {
            if (op_rank_fits((int64_t)data->rank + indices->rank - 1, err) < 0)
                return -1;
            out.rank = 0;
            for (int i = 0; i < l.gather; i++)
                out.dim[out.rank++] = l.data.dim[i];
            for (int i = 0; i < indices->rank; i++)
                out.dim[out.rank++] = indices->dim[i];
            for (int i = l.gather + 1; i < l.data.rank; i++)
                out.dim[out.rank++] = l.data.dim[i];
        }
    }
    infer_out(c, 0, op_dtype(c, 2), &out);
    return 0;
}

/* ---- running ---- */
struct gather {
    struct layout l;
    const struct gbq_attrs *attrs;
    const struct tensor *data, *indices, *scales, *zeros;
    int64_t scale_stride[SHAPE_MAX_RANK], zero_stride[SHAPE_MAX_RANK], stride[SHAPE_MAX_RANK];
    int64_t inner, n_index;
    float *y;
};

static float value_at(const struct tensor *t, int64_t i, int bits)
{
    if (t->dtype != DTYPE_UINT8)
        return (float)dtype_get(t->dtype, t->data, i);
    const int per = 8 / bits;
    return (float)(((const uint8_t *)t->data)[i / per] >> (i % per * bits) & ((1 << bits) - 1));
}

/* One slice: the values behind one index. */
static void gather_slice(const struct gather *g, int64_t slice)
{
    const struct layout *l = &g->l;
    const int64_t outer = slice / g->n_index, length = l->data.dim[l->gather], last = l->data.rank - 1;
    const int64_t index = op_wrap_index(op_index_at(g->indices, slice % g->n_index), length);
    const int bits = l->per_byte > 1 ? 8 / l->per_byte : 8;
    const float plain = g->data->dtype == DTYPE_UINT8 ? (float)(1 << (g->attrs->bits - 1)) : 0;
    float *y = g->y + slice * g->inner;

    if (index < 0) {
        memset(y, 0, (size_t)g->inner * sizeof *y);
        return;
    }
    for (int64_t j = 0; j < g->inner; j++) {
        const int64_t element = (outer * length + index) * g->inner + j;
        int64_t scale = 0, zero = 0, rest = element;
        for (int64_t i = 0; i <= last; i++) {
            const int64_t at = rest / g->stride[i], block = i == l->quantize ? at / l->block : at;
            rest %= g->stride[i];
            scale += block * g->scale_stride[i];
            zero += block * g->zero_stride[i];
        }
        const float z = g->zeros ? value_at(g->zeros, zero, bits) : plain;
        y[j] = (value_at(g->data, element, bits) - z) * ((const float *)g->scales->data)[scale];
    }
}

static void gather_slices(void *arg, int64_t begin, int64_t end)
{
    for (int64_t i = begin; i < end; i++)
        gather_slice(arg, i);
}

/* Row-major strides of the zero points in values: each row of the last axis is padded to whole bytes. */
static void zero_strides(struct gather *g)
{
    struct shape s = g->scales->shape;
    int64_t *last = &s.dim[s.rank - 1];
    *last = i64_ceil_div(*last, g->l.per_byte) * g->l.per_byte;
    shape_strides(&s, false, g->zero_stride);
}

static int compute(struct run_ctx *c, struct err *err)
{
    struct tensor *y = run_out(c, 0);
    struct gather g = {
        .attrs = c->attrs, .data = c->in[0], .indices = c->in[1], .scales = c->in[2], .zeros = run_in(c, 3)};

    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "scales are %s; float32, float16 and bfloat16 are supported",
                       dtype_name(y->dtype));
    if (read_layout(g.attrs, g.data->dtype, &g.data->shape, &g.l, err) < 0)
        return -1;
    shape_strides(&g.l.data, false, g.stride);
    shape_strides(&g.scales->shape, true, g.scale_stride);
    zero_strides(&g);
    g.inner = shape_product(&g.l.data, g.l.gather + 1, g.l.data.rank);
    g.n_index = tensor_count(g.indices);
    g.y = y->data;
    op_parallel(c->pool, shape_product(&g.l.data, 0, g.l.gather) * g.n_index, i64_max(1, 4096 / g.inner), gather_slices,
                &g);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* The indices' axes pass. The table's are packed, or scaled in blocks. */
static int couple(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0)), indices = couple_rank(k, IN(1));
    const struct gbq_attrs *a = couple_attrs(k);
    const int gather = rank < 0 ? 0 : shape_axis(infer_shape(k->infer, 0), a->gather_axis);
    (void)err;
    for (int i = 0; rank >= 0 && i < indices; i++)
        couple_axes(k, IN(1), i, OUT(0), gather + i);
    for (int i = 0; i < rank; i++) {
        if (i == gather)
            continue;
        couple_role(k, IN(0), i, COUPLE_PRODUCES);
        couple_freeze(k, IN(0), i, "it is packed in blocks");
        couple_freeze(k, OUT(0), i < gather ? i : i - 1 + indices, "the table it is taken from is packed in blocks");
    }
    return 0;
}

OP_CLASS(gather_block_quantized) = {
    .type = "GatherBlockQuantized",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Gather from block-quantized data, dequantized.",
    .in_min = 3,
    .in_max = 4,
    .out_min = 1,
    .out_max = 1,
    .attrs = gbq_attrs,
    .attrs_size = sizeof(struct gbq_attrs),
    .infer = infer,
    .forward = forward,
    .couple = couple,
    .samples = (const struct op_sample[]){{"!u4[5,32] i64[2,3]=0,4,2,1,1,3 !f32[5,2]", "block_size=16"},
                                          {"!i4[5,40] i32[3]=0,4,-2 !f32[5,3] !i4[5,3]", "block_size=16"},
                                          {"!u8[6,16] i64[4]=5,0,3,2 !f32[6,2] !u8[6,1]", "block_size=16"},
                                          {"!u8[6,32] i64[4]=5,0,3,2 !f32[6,2]", "block_size=16 bits=8"},
                                          {"!u8[6,16] i64[4]=5,0,3,2 !f32[6,4] !u8[6,1]", "block_size=16 bits=2"},
                                          {"!u4[3,32,2] i64[2]=1,2 !f32[3,2,2]", "block_size=16 quantize_axis=1"},
                                          {"!i4[4,3,16] i64[2]=1,2 !f32[4,3,1]",
                                           "block_size=16 gather_axis=1 quantize_axis=2"},
                                          {NULL}},
};
