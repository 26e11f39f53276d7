/* SPDX-License-Identifier: Apache-2.0
 * QuantizeLinear: y = saturate(round_half_even(x / scale) + zero). DequantizeLinear: y = (x - zero) * scale.
 * Scales     one for the tensor; or (opset 13) one for each index along `axis`; or (21) one for each block of
 *            `block_size` values along `axis`. A line is a run of values that share a scale: whole images of a
 *            channel when per axis, so loops are long.
 * Types      8, 16, 4 and 2 bit integers, int32 (dequantize), float8 and float4 by conversion with saturation.
 * DynamicQuantizeLinear: uint8, range widened to hold 0, scale = (max - min) / 255, zero = saturate(round(-min /
 * scale)). */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/simd.h"
#include "core/ops/product_coupling.h"
#include "core/ops/quantize.h"

struct quantize_attrs {
    int64_t axis, block_size, output_dtype, precision, saturate;
};
#define AXIS                                                                                                           \
    {                                                                                                                  \
        OP_ATTR(quantize_attrs, axis), .kind = OP_INT, .def = 1                                                        \
    }
#define SATURATE                                                                                                       \
    {                                                                                                                  \
        OP_ATTR(quantize_attrs, saturate), .kind = OP_INT, .def = 1                                                    \
    }
#define BLOCK                                                                                                          \
    {                                                                                                                  \
        OP_ATTR(quantize_attrs, block_size), .kind = OP_INT                                                            \
    }
#define OUTPUT                                                                                                         \
    {                                                                                                                  \
        OP_ATTR(quantize_attrs, output_dtype), .kind = OP_INT                                                          \
    }
static const struct op_attr attrs_13[] = {AXIS, {NULL}};
static const struct op_attr quantize_19[] = {AXIS, SATURATE, {NULL}};
static const struct op_attr quantize_21[] = {AXIS, SATURATE, BLOCK, OUTPUT, {NULL}};
static const struct op_attr quantize_23[] = {
    AXIS, SATURATE, BLOCK, OUTPUT, {OP_ATTR(quantize_attrs, precision), .kind = OP_INT}, {NULL}};
static const struct op_attr dequantize_21[] = {AXIS, BLOCK, {NULL}};
static const struct op_attr dequantize_23[] = {AXIS, BLOCK, OUTPUT, {NULL}};

/* Before opset 13 there is no axis, a scale is one value. Domain com.microsoft counts from 1 and always has it. */
static const struct quantize_attrs *attrs_of(const struct node *node, const void *attrs, int opset)
{
    return opset >= 13 || !model_domain_is_default(node->domain) ? attrs : NULL;
}

/* ---- inference ---- */
static int layout_of(const struct quantize_attrs *a, const struct shape *x, const struct shape *scale,
                     struct quantize_layout *l, struct err *err)
{
    return quantize_layout_make(a ? a->axis : QUANTIZE_NO_AXIS, a ? a->block_size : 0, x, scale, l, err);
}

static int check_zero_point(const struct infer_ctx *c, struct err *err)
{
    char zero[SHAPE_TEXT], scale[SHAPE_TEXT];

    if (!infer_has(c, 2) || !shape_known(infer_shape(c, 2)) || !shape_known(infer_shape(c, 1)))
        return 0;
    if (shape_count(infer_shape(c, 2)) != shape_count(infer_shape(c, 1)))
        return err_set(err, ERR_SHAPE, "the zero point has shape %s and the scale %s; they must be equal",
                       shape_text(infer_shape(c, 2), zero), shape_text(infer_shape(c, 1), scale));
    return 0;
}

/* Integers and the floats of 8 bits and fewer hold quantized values. */
static int check_quantized(enum dtype dtype, const char *what, struct err *err)
{
    if (dtype == DTYPE_NONE || dtype_is_integer(dtype) || (dtype_is_float(dtype) && dtype_bits(dtype) <= 8))
        return 0;
    return err_set(err, ERR_MODEL, "the %s is %s; it must be an integer or a float of at most 8 bits", what,
                   dtype_name(dtype));
}

static int dtype_attr(int64_t number, const char *kinds, enum dtype *dtype, struct err *err)
{
    if (number <= 0 || number >= DTYPE_COUNT ||
        (dtype_kind((enum dtype)number) != kinds[0] && dtype_kind((enum dtype)number) != kinds[1] &&
         dtype_kind((enum dtype)number) != kinds[2]))
        return err_set(err, ERR_MODEL,
                       "attribute 'output_dtype' is %" PRId64 "; it must be the number of a fitting element type",
                       number);
    *dtype = (enum dtype)number;
    return 0;
}

static int infer_quantize(struct infer_ctx *c, struct err *err)
{
    const struct quantize_attrs *a = attrs_of(c->node, c->attrs, c->opset);
    enum dtype out = DTYPE_UINT8;
    struct quantize_layout l;

    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, "fi", err) < 0 || op_dtype_kinds(c, 1, "fi", err) < 0 ||
        layout_of(a, infer_shape(c, 0), infer_shape(c, 1), &l, err) < 0 || check_zero_point(c, err) < 0 ||
        check_quantized(op_dtype(c, 2), "zero point", err) < 0)
        return -1;
    if (infer_has(c, 2))
        out = c->in[2]->dtype;
    if (a && a->output_dtype) {
        enum dtype asked = DTYPE_NONE;
        if (dtype_attr(a->output_dtype, "fiu", &asked, err) < 0)
            return -1;
        if (infer_has(c, 2) && out != DTYPE_NONE && out != asked)
            return err_set(err, ERR_MODEL,
                           "attribute 'output_dtype' asks for %s but the zero point is %s; they must agree",
                           dtype_name(asked), dtype_name(out));
        out = asked;
    }
    infer_out(c, 0, out, infer_shape(c, 0));
    return 0;
}

static int infer_dequantize(struct infer_ctx *c, struct err *err)
{
    const struct quantize_attrs *a = attrs_of(c->node, c->attrs, c->opset);
    enum dtype in, out;
    struct quantize_layout l;

    if (op_need(c, 2, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0 || op_dtype_kinds(c, 1, "f", err) < 0 ||
        layout_of(a, infer_shape(c, 0), infer_shape(c, 1), &l, err) < 0 || check_zero_point(c, err) < 0 ||
        check_quantized(op_dtype(c, 0), "input", err) < 0)
        return -1;
    in = op_dtype(c, 2);
    if (in != DTYPE_NONE && op_dtype(c, 0) != DTYPE_NONE && in != op_dtype(c, 0))
        return err_set(err, ERR_MODEL, "the input is %s but the zero point is %s; they must have the same type",
                       dtype_name(op_dtype(c, 0)), dtype_name(in));
    out = c->in[1]->dtype;
    if (a && a->output_dtype && dtype_attr(a->output_dtype, "fff", &out, err) < 0)
        return -1;
    infer_out(c, 0, out, infer_shape(c, 0));
    return 0;
}

/* ---- lines: n values that share a scale ---- */
#define DEFINE_DEQUANTIZE(name, T)                                                                                     \
    KERNEL_CLONES static void name(const T *restrict x, float *restrict y, int64_t n, float scale, int32_t zero)       \
    {                                                                                                                  \
        for (int64_t i = 0; i < n; i++)                                                                                \
            y[i] = (float)(x[i] - zero) * scale;                                                                       \
    }
DEFINE_DEQUANTIZE(dequantize_i8, int8_t)
DEFINE_DEQUANTIZE(dequantize_u8, uint8_t)

struct job {
    const struct tensor *x, *scale, *zero;
    struct tensor *y;
    struct quantize_layout l;
    bool open; /* saturate = 0 */
};

static double zero_at(const struct job *k, int64_t i)
{
    return k->zero ? dtype_get(k->zero->dtype, k->zero->data, i) : 0;
}

static void to_integers(const struct job *k, int64_t at, int64_t n, int64_t s)
{
    const float scale = (float)dtype_get(k->scale->dtype, k->scale->data, s);
    const double zero = zero_at(k, s);
    const enum dtype in = k->x->dtype, out = k->y->dtype;

    if (in == DTYPE_FLOAT && (out == DTYPE_INT8 || out == DTYPE_UINT8)) {
        const struct q8 q = {.scale = scale, .zero = (int32_t)zero, .is_signed = out == DTYPE_INT8};
        q8_quantize(&q, (const float *)k->x->data + at, (uint8_t *)k->y->data + at, n);
    } else if (dtype_is_float(out)) { /* float8, float4: the conversion rounds */
        for (int64_t i = 0; i < n; i++)
            (k->open ? dtype_set_unsaturated : dtype_set)(
                out, k->y->data, at + i, (double)((float)dtype_get(in, k->x->data, at + i) / scale) + zero);
    } else {
        for (int64_t i = 0; i < n; i++) {
            double v = nearbyint((double)((float)dtype_get(in, k->x->data, at + i) / scale)) + zero;
            v = v > dtype_min(out) ? v : dtype_min(out);
            dtype_set(out, k->y->data, at + i, v < dtype_max(out) ? v : dtype_max(out));
        }
    }
}

static void to_floats(const struct job *k, int64_t at, int64_t n, int64_t s)
{
    const float scale = (float)dtype_get(k->scale->dtype, k->scale->data, s);
    const double zero = zero_at(k, s);
    const enum dtype in = k->x->dtype, out = k->y->dtype;

    if (out == DTYPE_FLOAT && in == DTYPE_INT8)
        dequantize_i8((const int8_t *)k->x->data + at, (float *)k->y->data + at, n, scale, (int32_t)zero);
    else if (out == DTYPE_FLOAT && in == DTYPE_UINT8)
        dequantize_u8((const uint8_t *)k->x->data + at, (float *)k->y->data + at, n, scale, (int32_t)zero);
    else
        for (int64_t i = 0; i < n; i++)
            dtype_set(out, k->y->data, at + i, (double)((float)(dtype_get(in, k->x->data, at + i) - zero) * scale));
}

typedef void line_fn(const struct job *k, int64_t at, int64_t n, int64_t s);

/* Rows [begin, end) of outer * length, each of `inner` values. */
static void run_rows(const struct job *k, line_fn *line, int64_t begin, int64_t end)
{
    const struct quantize_layout *l = &k->l;
    for (int64_t r = begin; r < end; r++) {
        const int64_t o = r / l->length, d = r % l->length;
        if (l->kind == QUANTIZE_PER_AXIS) {
            line(k, r * l->inner, l->inner, d);
            continue;
        }
        const int64_t first = (o * l->scales + d / l->block) * l->inner;
        for (int64_t i = 0; i < l->inner; i++)
            line(k, r * l->inner + i, 1, first + i);
    }
}

static void quantize_rows(void *arg, int64_t begin, int64_t end)
{
    run_rows(arg, to_integers, begin, end);
}

static void dequantize_rows(void *arg, int64_t begin, int64_t end)
{
    run_rows(arg, to_floats, begin, end);
}

static void quantize_all(void *arg, int64_t begin, int64_t end)
{
    to_integers(arg, begin, end - begin, 0);
}

static void dequantize_all(void *arg, int64_t begin, int64_t end)
{
    to_floats(arg, begin, end - begin, 0);
}

static int run(struct run_ctx *c, op_range_fn *all, op_range_fn *by_rows, struct err *err)
{
    const struct quantize_attrs *a = c->attrs;
    struct job k = {.x = c->in[0],
                    .scale = c->in[1],
                    .zero = run_in(c, 2),
                    .y = run_out(c, 0),
                    .open = c->opset >= 19 && !a->saturate};
    const int64_t count = tensor_count(k.x);
    /* values smaller than a byte share bytes: one thread writes them */
    struct pool *pool = k.y && dtype_bits(k.y->dtype) < 8 ? NULL : c->pool;

    if (!k.y || count == 0)
        return 0;
    if (layout_of(attrs_of(c->node, c->attrs, c->opset), &k.x->shape, &k.scale->shape, &k.l, err) < 0)
        return -1;
    if (tensor_count(k.scale) < 1 || (k.zero && tensor_count(k.zero) != tensor_count(k.scale)))
        return err_set(err, ERR_SHAPE, "scale and zero point must hold the same number of values, at least one");
    if (k.l.kind == QUANTIZE_PER_TENSOR)
        op_parallel(pool, count, 1 << 15, all, &k);
    else
        op_parallel(pool, k.l.outer * k.l.length, i64_max(1, (1 << 15) / i64_max(k.l.inner, 1)), by_rows, &k);
    return 0;
}

static int forward_quantize(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_quantize, err) < 0)
        return -1;
    return run(c, quantize_all, quantize_rows, err);
}

static int forward_dequantize(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_dequantize, err) < 0)
        return -1;
    return run(c, dequantize_all, dequantize_rows, err);
}

/* ---- DynamicQuantizeLinear ---- */
static int infer_dynamic(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0)
        return -1;
    if (op_dtype(c, 0) != DTYPE_NONE && op_dtype(c, 0) != DTYPE_FLOAT)
        return err_set(err, ERR_MODEL, "the input is %s; it must be float32", dtype_name(op_dtype(c, 0)));
    infer_out(c, 0, DTYPE_UINT8, infer_shape(c, 0));
    infer_out(c, 1, DTYPE_FLOAT, &SHAPE_SCALAR);
    infer_out(c, 2, DTYPE_UINT8, &SHAPE_SCALAR);
    return 0;
}

static int forward_dynamic(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_dynamic, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    struct q8 param;
    quantize_dynamic(c->pool, tensor_f32(c->in[0]), tensor_count(c->in[0]), y ? y->data : NULL, &param);
    if (run_out(c, 1))
        tensor_f32(c->out[1])[0] = param.scale;
    if (run_out(c, 2))
        *(uint8_t *)c->out[2]->data = (uint8_t)param.zero;
    return 0;
}

/* ---- coupling ---- */
/* Scales and zero points along the axis go with it. In blocks they go with the other axes; the axis stays whole. */
static int couple(struct coupling *k, struct err *err)
{
    const struct quantize_attrs *a = attrs_of(k->infer->node, k->infer->attrs, k->infer->opset);
    const bool blocked = a && a->block_size > 0;
    (void)err;
    couple_same(k, IN(0), OUT(0));
    for (int i = 1; i < 3; i++) {
        if (blocked)
            couple_same_but(k, IN(i), IN(0), (int)a->axis);
        else if (a)
            couple_vector(k, i, IN(0), (int)a->axis);
    }
    if (blocked)
        couple_freeze(k, IN(0), (int)a->axis, "its scales stand for blocks of this axis");
    return 0;
}

static int couple_dynamic(struct coupling *k, struct err *err)
{
    (void)err;
    couple_same(k, IN(0), OUT(0));
    for (int i = 0; i < couple_rank(k, IN(0)); i++)
        couple_approximate(k, IN(0), i, "it is quantized by its range, which changes");
    return 0;
}

/* ---- rows ---- */
static const struct op_sample quantize_10_samples[] = {
    {"f32[2,3,4] f32[]=0.05 u8[]=128", NULL}, {"f32[4,5] f32[]=0.1", NULL}, {NULL}};
static const struct op_sample quantize_19_samples[] = {
    {"f32[2,3,4] f32[]=0.05 u8[]=128", NULL},
    {"f32[2,3,4] f32[3]=0.05,0.02,0.1 i8[3]=0,0,0", "axis=1"},
    {"f32[5]=1,-300,4000,0.5,nan f32[]=2 f8[]=0", NULL},
    {"f32[5]=1,-300,4000,0.5,nan f32[]=2 f8[]=0", "saturate=0"},
    {NULL},
};
static const struct op_sample dequantize_10_samples[] = {
    {"u8[2,3,4] f32[]=0.05 u8[]=3", NULL}, {"i32[4,5] f32[]=0.1", NULL}, {NULL}};
static const struct op_sample dequantize_13_samples[] = {{"u8[2,3,4] f32[]=0.05 u8[]=3", NULL},
                                                         {"i8[2,3,4] f32[3]=0.05,0.02,0.1 i8[3]=0,1,2", "axis=1"},
                                                         {"i32[4,5] f32[]=0.1", NULL},
                                                         {NULL}};
static const struct op_sample quantize_samples[] = {{"f32[2,3,4] f32[]=0.05 u8[]=128", NULL},
                                                    {"f32[2,3,4] f32[3]=0.05,0.02,0.1 i8[3]=0,0,0", "axis=1"},
                                                    {"f32[4,5] f32[]=0.1", NULL},
                                                    {NULL}};
static const struct op_sample dequantize_samples[] = {{"u8[2,3,4] f32[]=0.05 u8[]=3", NULL},
                                                      {"i8[2,3,4] f32[3]=0.05,0.02,0.1 i8[3]=0,1,2", "axis=1"},
                                                      {"i32[4,5] f32[]=0.1", NULL},
                                                      {"u8[4,6] f32[2,6]", "axis=0 block_size=2"},
                                                      {NULL}};
static const struct op_sample dynamic_samples[] = {{"f32[3,4,5]", NULL, 3}, {NULL}};

#define ROW(type_, since_, until_, table, name, ...)                                                                   \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .until = until_, .in_min = 2, .in_max = 3, .out_min = 1,         \
        .out_max = 1, .attrs = table, .attrs_size = sizeof(struct quantize_attrs), .infer = infer_##name,              \
        .forward = forward_##name, .couple = couple, __VA_ARGS__                                                       \
    }
#define QUANTIZE_DOC .doc = "Integers from floats: saturate(round(x / scale) + zero)."
#define DEQUANTIZE_DOC .doc = "Floats from integers: (x - zero) * scale."
OP_CLASS(quantize_linear_10) = ROW("QuantizeLinear", 10, 12, NULL, quantize, QUANTIZE_DOC,
                                   .samples = quantize_10_samples);
OP_CLASS(quantize_linear_13) = ROW("QuantizeLinear", 13, 18, attrs_13, quantize, QUANTIZE_DOC,
                                   .samples = quantize_samples);
OP_CLASS(quantize_linear_19) = ROW("QuantizeLinear", 19, 20, quantize_19, quantize, QUANTIZE_DOC,
                                   .samples = quantize_19_samples);
OP_CLASS(quantize_linear_21) = ROW("QuantizeLinear", 21, 22, quantize_21, quantize, QUANTIZE_DOC,
                                   .samples = quantize_samples);
OP_CLASS(quantize_linear_23) = ROW("QuantizeLinear", 23, 0, quantize_23, quantize, QUANTIZE_DOC,
                                   .samples = quantize_samples);
OP_CLASS(dequantize_linear_10) = ROW("DequantizeLinear", 10, 12, NULL, dequantize, DEQUANTIZE_DOC,
                                     .samples = dequantize_10_samples);
OP_CLASS(dequantize_linear_13) = ROW("DequantizeLinear", 13, 20, attrs_13, dequantize, DEQUANTIZE_DOC,
                                     .samples = dequantize_13_samples);
OP_CLASS(dequantize_linear_21) = ROW("DequantizeLinear", 21, 22, dequantize_21, dequantize, DEQUANTIZE_DOC,
                                     .samples = dequantize_samples);
OP_CLASS(dequantize_linear_23) = ROW("DequantizeLinear", 23, 0, dequantize_23, dequantize, DEQUANTIZE_DOC,
                                     .samples = dequantize_samples);
/* com.microsoft: the same, with 16 and 4 bit integers before the standard had them. */
#define MICROSOFT(type_, name, ...)                                                                                    \
    {                                                                                                                  \
        .type = type_, .domain = "com.microsoft", .since = 1, .in_min = 2, .in_max = 3, .out_min = 1, .out_max = 1,    \
        .attrs = attrs_13, .attrs_size = sizeof(struct quantize_attrs), .infer = infer_##name,                         \
        .forward = forward_##name, .couple = couple, __VA_ARGS__                                                       \
    }
static const struct op_sample microsoft_quantize_samples[] = {
    {"f32[2,3,4] f32[]=0.05 u8[]=128", NULL},
    {"f32[2,3,4] f32[3]=0.05,0.02,0.1 i8[3]=0,0,0", "axis=1"},
    {"f32[4,5] f32[]=0.0001 i16[]=7", NULL},
    {"f32[4,5] f32[]=0.0001 u16[]=30000", NULL},
    {NULL}};
static const struct op_sample microsoft_dequantize_samples[] = {
    {"u8[2,3,4] f32[]=0.05 u8[]=3", NULL},
    {"i8[2,3,4] f32[3]=0.05,0.02,0.1 i8[3]=0,1,2", "axis=1"},
    {"i16[4,5] f32[]=0.1 i16[]=7", NULL},
    {"u16[4,5] f32[]=0.1 u16[]=3", NULL},
    {"i32[4,5] f32[]=0.1", NULL},
    {NULL}};
OP_CLASS(microsoft_quantize_linear) = MICROSOFT("QuantizeLinear", quantize, QUANTIZE_DOC,
                                                .samples = microsoft_quantize_samples);
OP_CLASS(microsoft_dequantize_linear) = MICROSOFT("DequantizeLinear", dequantize, DEQUANTIZE_DOC,
                                                  .samples = microsoft_dequantize_samples);
OP_CLASS(dynamic_quantize_linear) = {.type = "DynamicQuantizeLinear",
                                     .domain = "",
                                     .since = 11,
                                     .doc = "uint8 from floats, with scale and zero point from their range.",
                                     .in_min = 1,
                                     .in_max = 1,
                                     .out_min = 3,
                                     .out_max = 3,
                                     .infer = infer_dynamic,
                                     .couple = couple_dynamic,
                                     .forward = forward_dynamic,
                                     .samples = dynamic_samples};
