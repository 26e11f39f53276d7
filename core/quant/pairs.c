/* SPDX-License-Identifier: Apache-2.0
 * pairs.c - see pairs.h. Everything read from a model is checked here: a scale may be missing, computed while running,
 * of any size and type. */
#include "core/quant/pairs.h"

#include <math.h>
#include <string.h>

bool node_in(const struct node *n, const char *domain, const char *op)
{
    if (!n->op_type || strcmp(n->op_type, op) != 0)
        return false;
    return model_domain_is_default(domain) ? model_domain_is_default(n->domain)
                                           : n->domain && !strcmp(n->domain, domain);
}

static bool standard_or_microsoft(const struct node *n, const char *op)
{
    return node_in(n, "", op) || node_in(n, "com.microsoft", op);
}

bool is_quantize(const struct node *n)
{
    return standard_or_microsoft(n, "QuantizeLinear");
}

bool is_dequantize(const struct node *n)
{
    return standard_or_microsoft(n, "DequantizeLinear");
}

static enum dtype dtype_of(const struct model *m, uint32_t value)
{
    const struct tensor *t = value != VALUE_NONE ? value_const(m, value) : NULL;
    if (t)
        return t->dtype;
    const struct type *type = value != VALUE_NONE ? &m->values[value].type : NULL;
    return type && type->kind == TYPE_TENSOR && type->has_dtype ? type->dtype : DTYPE_NONE;
}

bool coded_of(const struct model *m, uint32_t node, struct coded *out)
{
    const struct node *n = &m->nodes[node];
    if (n->n_input < 2 || n->n_output < 1 || n->input[0] == VALUE_NONE || n->input[1] == VALUE_NONE)
        return false;
    *out = (struct coded){.scale = n->input[1], .zero = n->n_input > 2 ? n->input[2] : VALUE_NONE};
    out->codes = is_quantize(n) ? n->output[0] : n->input[0];
    out->axis = node_attr_int(n, "axis", 1);
    out->block = node_attr_int(n, "block_size", 0);
    out->dtype = dtype_of(m, out->zero);
    if (out->dtype == DTYPE_NONE && is_quantize(n) && out->zero == VALUE_NONE) {
        const int64_t to = node_attr_int(n, "output_dtype", 0);
        out->dtype = to == 0 ? DTYPE_UINT8 : dtype_valid((int)to) ? (enum dtype)to : DTYPE_NONE;
    } else if (out->dtype == DTYPE_NONE) {
        const uint32_t maker = m->values[out->codes].producer;
        struct coded made;
        if (is_dequantize(n) && maker != NODE_NONE && is_quantize(&m->nodes[maker]) && coded_of(m, maker, &made))
            out->dtype = made.dtype;
        else
            out->dtype = dtype_of(m, out->codes);
    }
    return out->codes != VALUE_NONE;
}

static bool all_zero(const struct tensor *t)
{
    for (int64_t i = 0, n = tensor_count(t); i < n; i++)
        if (dtype_get(t->dtype, t->data, i) != 0)
            return false;
    return true;
}

static bool same_constant(const struct model *m, uint32_t a, uint32_t b)
{
    if (a == b)
        return true;
    const struct tensor *s = a != VALUE_NONE ? value_const(m, a) : NULL,
                        *t = b != VALUE_NONE ? value_const(m, b) : NULL;
    if ((a == VALUE_NONE && t && t->data) || (b == VALUE_NONE && s && s->data))
        return all_zero(s && s->data ? s : t);
    return s && t && s->data && t->data && s->dtype == t->dtype && tensor_count(s) == tensor_count(t) &&
           s->bytes == t->bytes && !memcmp(s->data, t->data, s->bytes);
}

bool coded_alike(const struct model *m, const struct coded *a, const struct coded *b)
{
    const bool known = a->dtype != DTYPE_NONE && b->dtype != DTYPE_NONE;
    return (!known || a->dtype == b->dtype) && same_constant(m, a->scale, b->scale) &&
           same_constant(m, a->zero, b->zero);
}

bool coded_is_plain(const struct model *m, const struct coded *c)
{
    const struct tensor *scale = value_const(m, c->scale),
                        *zero = c->zero != VALUE_NONE ? value_const(m, c->zero) : NULL;
    if (c->dtype != DTYPE_UINT8 && c->dtype != DTYPE_INT8)
        return false;
    if (!scale || !scale->data || scale->dtype != DTYPE_FLOAT || tensor_count(scale) != 1)
        return false;
    if (c->zero != VALUE_NONE && (!zero || !zero->data || zero->dtype != c->dtype || tensor_count(zero) != 1))
        return false;
    const double s = (double)tensor_f32(scale)[0];
    return isfinite(s) && s > 0;
}

double coded_scale(const struct model *m, const struct coded *c)
{
    return (double)tensor_f32(value_const(m, c->scale))[0];
}

int32_t coded_zero(const struct model *m, const struct coded *c)
{
    const struct tensor *t = c->zero != VALUE_NONE ? value_const(m, c->zero) : NULL;
    return t ? (int32_t)dtype_get_i64(t->dtype, t->data, 0) : 0;
}

int32_t coded_quantize(const struct model *m, const struct coded *c, double x)
{
    const double low = dtype_min(c->dtype), high = dtype_max(c->dtype);
    const double q = nearbyint(x / coded_scale(m, c)) + coded_zero(m, c); /* infinities saturate */
    return (int32_t)(q < low ? low : q > high ? high : q);
}

/* ---- operators that move elements about ---- */
static const char *refuse_max_pool(const struct model *m, const struct node *n)
{
    (void)m;
    return n->n_output > 1 && n->output[1] != VALUE_NONE ? "it also gives the places of the maxima" : NULL;
}

static const char *refuse_resize(const struct model *m, const struct node *n)
{
    (void)m;
    const struct attr *mode = node_attr(n, "mode"), *places = node_attr(n, "coordinate_transformation_mode");
    if (mode && mode->type == ATTR_STRING && mode->count == 1 && strcmp(mode->strings[0].data, "nearest") != 0)
        return "it interpolates: on codes the results would be cut instead of rounded";
    if (places && places->type == ATTR_STRING && places->count == 1 &&
        !strcmp(places->strings[0].data, "tf_crop_and_resize"))
        return "it fills what lies outside with a number of its own";
    return NULL;
}

static const char *refuse_pad(const struct model *m, const struct node *n)
{
    const struct tensor *fill = n->n_input > 2 && n->input[2] != VALUE_NONE ? value_const(m, n->input[2]) : NULL;
    if (n->n_input > 2 && n->input[2] != VALUE_NONE && (!fill || !fill->data || tensor_count(fill) != 1))
        return "the number it fills with is not constant";
    return NULL;
}

/* Which runtimes have for int8 and uint8 from which opset on: as ONNX Runtime's kernels do. */
static const struct mover movers[] = {
    {"Compress", 9, NULL},      {"DepthToSpace", 13, NULL},       {"Expand", 8, NULL},
    {"Flatten", 9, NULL},       {"Gather", 10, NULL},             {"GatherElements", 11, NULL},
    {"GatherND", 11, NULL},     {"Identity", 1, NULL},            {"MaxPool", 12, refuse_max_pool},
    {"Pad", 12, refuse_pad},    {"ReduceMax", 12, NULL},          {"ReduceMin", 12, NULL},
    {"Reshape", 5, NULL},       {"Resize", 13, refuse_resize},    {"ReverseSequence", 10, NULL},
    {"Slice", 10, NULL},        {"SpaceToDepth", 13, NULL},       {"Split", 10, NULL},
    {"Squeeze", 1, NULL},       {"Tile", 6, NULL},                {"Transpose", 1, NULL},
    {"Unsqueeze", 1, NULL},
};

const struct mover *mover_of(const struct node *n)
{
    for (size_t i = 0; i < sizeof movers / sizeof movers[0]; i++)
        if (node_is(n, movers[i].op))
            return &movers[i];
    return NULL;
}

bool node_bounds(const struct model *m, const struct node *n, double *lo, double *hi)
{
    *lo = node_is(n, "Relu") ? 0 : -INFINITY;
    *hi = INFINITY;
    if (node_is(n, "Relu"))
        return true;
    if (!node_is(n, "Clip"))
        return false;
    *lo = (double)node_attr_float(n, "min", -INFINITY);
    *hi = (double)node_attr_float(n, "max", INFINITY);
    for (int i = 1; i < n->n_input && i < 3; i++) {
        if (n->input[i] == VALUE_NONE)
            continue;
        const struct tensor *t = value_const(m, n->input[i]);
        if (!t || !t->data || tensor_count(t) != 1 || !dtype_is_float(t->dtype))
            return false;
        *(i == 1 ? lo : hi) = dtype_get(t->dtype, t->data, 0);
    }
    return !isnan(*lo) && !isnan(*hi) && *lo <= *hi;
}
