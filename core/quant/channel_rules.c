/* SPDX-License-Identifier: Apache-2.0
 * channel_rules.c - how operators pass factors per channel on (channel_scale.h): one row an operator.
 *
 * A rule says which elements its outputs have, unites them with those of its inputs, and adds the constants that take
 * factors. It returns NULL, or why factors must not come to its inputs: all of them are blocked then. Operators
 * without a row block what they read and their outputs start without elements. Rules look at constants and inferred
 * shapes only. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"
#include "core/passes/weights.h"
#include "core/quant/channel_scale.h"
#include "core/quant/grid.h"

/* What a value is, as far as rules ask. */
static bool has(const struct channel_scale *s, uint32_t v)
{
    return v != VALUE_NONE && s->base[v] >= 0;
}

static uint32_t in(const struct node *n, int i)
{
    return i < n->n_input ? n->input[i] : VALUE_NONE;
}

static uint32_t out0(const struct node *n)
{
    return n->n_output > 0 ? n->output[0] : VALUE_NONE;
}

static bool is_const(const struct channel_scale *s, uint32_t v)
{
    return v != VALUE_NONE && value_const(s->m, v) != NULL;
}

/* Finite float32 elements that are there. */
static const struct tensor *float_const(const struct channel_scale *s, uint32_t v)
{
    const struct tensor *t = v == VALUE_NONE ? NULL : value_const(s->m, v);
    if (!t || t->dtype != DTYPE_FLOAT || !t->data)
        return NULL;
    for (int64_t i = 0, n = tensor_count(t); i < n; i++)
        if (!isfinite(tensor_f32(t)[i]))
            return NULL;
    return t;
}

static const char too_many[] = "what is made of it has no channels, or too many";

/* y has x's channels, on `axis`. */
static const char *carry(struct channel_scale *s, uint32_t x, uint32_t y, int axis)
{
    const int64_t from = s->base[x], to = scale_elements_new(s, y, axis, s->channels[x]);
    for (int64_t c = 0; to >= 0 && c < s->channels[x]; c++)
        scale_unite(s, from + c, to + c);
    return to < 0 ? too_many : NULL;
}

/* ---- products ---- */
/* The bias of a product, one number a channel or one for all. False: factors cannot get into it. */
static bool bias_end(struct channel_scale *s, uint32_t node, int slot, uint32_t y, int64_t channels, bool check)
{
    const uint32_t v = in(&s->m->nodes[node], slot);
    const struct tensor *t = v == VALUE_NONE ? NULL : float_const(s, v);
    const int64_t count = t ? tensor_count(t) : 0;
    if (v == VALUE_NONE)
        return true;
    if (!t || t->shape.rank > 2 || (count != 1 && (count != channels || t->shape.dim[t->shape.rank - 1] != channels)))
        return false;
    if (check)
        return true;
    struct scale_end *e = scale_end_add(s, SCALE_ADDS, node, slot, y);
    if (e)
        e->lanes = (struct scale_lanes){.d0 = 1, .d1 = channels, .inner = 1, .group_rows = 1, .axis = 1};
    if (e && count == 1 && channels > 1)
        e->expand = channels;
    return true;
}

/* NULL: *t is a float32 weight of this node's own, at input 1. */
static const char *own_weight(struct channel_scale *s, uint32_t node, const struct tensor **t)
{
    struct weight_ref ref;
    const char *why = NULL;
    char label[200];
    enum dtype dtype;
    int axis;
    const struct tensor *scale;
    if (!product_weight(s->m, node, &ref, &why))
        return "it has no constant weight";
    if (why)
        return why;
    if (ref.slot != 1 || ref.value != s->m->nodes[node].input[1] || !s->m->values[ref.value].weight)
        return "its weight is not a plain initializer on the right";
    if (s->opts.include && !globs_select(s->opts.include, s->opts.exclude, node_label(s->m, node, label, sizeof label)))
        return "not selected by include and exclude";
    if (edit_only_reader(&s->edit, ref.value) != node)
        return "its weight is read by other nodes too";
    if (!(*t = float_const(s, ref.value)))
        return "its weight is not float32, or not finite";
    return grid_note_get(s->m, ref.value, &dtype, &axis, &scale) ? "its weight lies on a quantization grid" : NULL;
}

/* Axes of the stored weight: rows d0, columns d1, kernel positions. */
struct product {
    struct scale_lanes made, read; /* output channels; input channels */
    int64_t out, in;               /* how many */
    int x_axis, y_axis;            /* from the front; -1: the last */
};

static const char *conv_shape(const struct node *n, const struct tensor *t, struct product *p)
{
    const bool transposed = node_is(n, "ConvTranspose");
    const int64_t group = node_attr_int(n, "group", 1), d0 = t->shape.rank < 3 ? 0 : t->shape.dim[0];
    if (d0 <= 0 || group < 1 || d0 % group || tensor_count(t) == 0)
        return "its weight has an unexpected shape";
    const int64_t d1 = t->shape.dim[1];
    const struct scale_lanes rows = {d0, d1, tensor_count(t) / d0 / d1, d0, 0},
                             columns = {d0, d1, rows.inner, d0 / group, 1};
    *p = transposed ? (struct product){columns, rows, d1 * group, d0, 1, 1}
                    : (struct product){rows, columns, d0, d1 * group, 1, 1};
    return NULL;
}

static const char *matrix_shape(const struct node *n, const struct tensor *t, struct product *p)
{
    if (t->shape.rank != 2 || tensor_count(t) == 0)
        return "its weight is no matrix";
    if (node_is(n, "Gemm") && node_attr_int(n, "transA", 0) != 0)
        return "it transposes its input";
    const int64_t d0 = t->shape.dim[0], d1 = t->shape.dim[1];
    const struct scale_lanes rows = {d0, d1, 1, d0, 0}, columns = {d0, d1, 1, d0, 1};
    const bool transposed = node_is(n, "Gemm") && node_attr_int(n, "transB", 0) != 0;
    *p = transposed ? (struct product){rows, columns, d0, d1, -1, -1} : (struct product){columns, rows, d1, d0, -1, -1};
    return NULL;
}

static const char *product_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const struct tensor *t = NULL;
    struct product p = {0};
    const uint32_t x = in(n, 0), y = out0(n);
    const char *why = own_weight(s, node, &t);
    if (!why)
        why = node_is(n, "Conv") || node_is(n, "ConvTranspose") ? conv_shape(n, t, &p) : matrix_shape(n, t, &p);
    s->why[node] = why;
    if (why)
        return why;
    if (has(s, x)) {
        const int axis = p.x_axis < 0 ? infer_rank_of(&s->infer, x) - 1 : p.x_axis;
        if (s->axis[x] != axis || s->channels[x] != p.in)
            scale_block(s, x, "its channels are not those the product sums over");
        else {
            struct scale_end *e = scale_end_add(s, SCALE_READS, node, 1, x);
            if (e) {
                e->product = true;
                e->lanes = p.read;
            }
        }
    }
    const int rank = infer_rank_of(&s->infer, y), axis = p.y_axis < 0 ? rank - 1 : p.y_axis;
    if (rank < 1 || !bias_end(s, node, 2, y, p.out, true)) {
        s->why[node] = "its bias is not a constant per channel";
        return NULL;
    }
    if (scale_elements_new(s, y, axis, p.out) < 0)
        return NULL;
    struct scale_end *e = scale_end_add(s, SCALE_MAKES, node, 1, y);
    if (e) {
        e->product = true;
        e->lanes = p.made;
    }
    bias_end(s, node, 2, y, p.out, false);
    return NULL;
}

/* ---- normalisations: scale and shift make the channels; what they read is not scaled ---- */
static const char *norm_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t y = out0(n);
    const int rank = infer_rank_of(&s->infer, y);
    const bool last = node_is(n, "LayerNormalization");
    const struct tensor *scale = float_const(s, in(n, 1)), *shift = float_const(s, in(n, 2));
    const int64_t axis = last ? node_attr_int(n, "axis", -1) : 1;
    const bool fits = scale && scale->shape.rank == 1 && rank > 1 && (!last || axis == -1 || axis == rank - 1) &&
                      (shift || in(n, 2) == VALUE_NONE) && (!shift || tensor_count(shift) == tensor_count(scale));
    if (fits && scale_elements_new(s, y, last ? rank - 1 : 1, tensor_count(scale)) >= 0)
        for (int slot = 1; slot < 3 && in(n, slot) != VALUE_NONE; slot++) {
            struct scale_end *e = scale_end_add(s, slot == 1 ? SCALE_MAKES : SCALE_ADDS, node, slot, y);
            if (e)
                e->lanes = (struct scale_lanes){1, s->channels[y], 1, 1, 1};
        }
    return "a normalisation reads it";
}

/* ---- one input, channels stay where they are ---- */
static const char *same_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    return has(s, in(n, 0)) ? carry(s, in(n, 0), out0(n), s->axis[in(n, 0)]) : NULL;
}

/* Dropout, MaxPool with places: a second output that is read would say what was done. */
static const char *first_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    if (node_is(n, "Dropout") && in(n, 2) != VALUE_NONE)
        return "it may be training";
    return same_rule(s, node);
}

static const char *pool_rule(struct channel_scale *s, uint32_t node)
{
    const uint32_t x = in(&s->m->nodes[node], 0);
    return has(s, x) && s->axis[x] > 1 ? "pooling runs over its channels" : same_rule(s, node);
}

static const char *prelu_rule(struct channel_scale *s, uint32_t node)
{
    return is_const(s, in(&s->m->nodes[node], 1)) ? same_rule(s, node) : "the slope is computed";
}

static const char *pad_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t x = in(n, 0), fill = in(n, 2);
    const struct attr *mode = node_attr(n, "mode");
    const bool constant = !mode || mode->type != ATTR_STRING || !strcmp(mode->strings[0].data, "constant");
    int64_t pads[2 * SHAPE_MAX_RANK];
    if (!has(s, x))
        return NULL;
    const int count = node_ints(s->m, n, "pads", 1, pads, 2 * SHAPE_MAX_RANK), rank = count / 2;
    if (in(n, 3) != VALUE_NONE || count < 2 || s->axis[x] >= rank || pads[s->axis[x]] || pads[s->axis[x] + rank])
        return "padding is not known to leave the channels alone";
    const struct tensor *t = fill == VALUE_NONE ? NULL : value_const(s->m, fill);
    if (constant && (fill == VALUE_NONE ? (double)node_attr_float(n, "value", 0) != 0
                                        : !t || !t->data || dtype_get(t->dtype, t->data, 0) != 0))
        return "padding is not with zeros";
    return same_rule(s, node);
}

/* ---- Clip ---- */
static bool clip_bounds(const struct channel_scale *s, const struct node *n, float *low, float *high)
{
    *low = node_attr_float(n, "min", -INFINITY);
    *high = node_attr_float(n, "max", INFINITY);
    for (int i = 1; i < 3; i++) {
        const struct tensor *t = in(n, i) == VALUE_NONE ? NULL : value_const(s->m, in(n, i));
        if (in(n, i) == VALUE_NONE)
            continue;
        if (!t || !t->data || tensor_count(t) != 1 || t->dtype != DTYPE_FLOAT)
            return false;
        *(i == 1 ? low : high) = tensor_f32(t)[0];
    }
    return true;
}

static const char *clip_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t x = in(n, 0), y = out0(n);
    float low, high;
    if (!has(s, x))
        return NULL;
    if (!clip_bounds(s, n, &low, &high) || low != 0 || !(high > 0))
        return "Clip with other bounds than 0 and a cap";
    if (isinf(high) || s->opts.clip == SCALE_CLIP_KEEP ||
        (s->opts.clip == SCALE_CLIP_RELU && (!s->opts.cap_met || s->opts.cap_met[node]))) {
        if (isinf(high))
            return same_rule(s, node);
        return "Clip with a cap, which is the same for all channels";
    }
    const char *why = same_rule(s, node);
    int cap = s->cap_clips;
    if (why || infer_rank_of(&s->infer, y) < 1)
        return why ? why : "its rank is not known";
    if (s->n_clips == cap) {
        struct scale_clip *grown = realloc(s->clips, ((size_t)cap * 2 + 8) * sizeof *grown);
        if (!grown) {
            s->failed = true;
            return NULL;
        }
        s->clips = grown;
        s->cap_clips = cap * 2 + 8;
    }
    s->clips[s->n_clips++] = (struct scale_clip){.node = node,
                                                 .base = s->base[y],
                                                 .channels = s->channels[y],
                                                 .axis = s->axis[y],
                                                 .rank = infer_rank_of(&s->infer, y),
                                                 .cap = high};
    return NULL;
}

/* ---- shapes ---- */
int64_t channel_elements_behind(const struct shape *shape, int axis)
{
    int64_t n = 1;
    for (int i = axis + 1; i < shape->rank; i++)
        if (shape->dim[i] < 1 || __builtin_mul_overflow(n, shape->dim[i], &n))
            return -1;
    return n;
}

/* Row-major order stays, so an element's channel is (place / elements behind the axis) % channels: the output has the
 * axis where as many elements lie behind it, or one that takes it in with all behind it (Flatten in front of a Gemm).
 * */
static const char *reshape_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t x = in(n, 0), y = out0(n);
    if (!has(s, x))
        return NULL;
    const struct shape *from = infer_shape_of(&s->infer, x), *to = infer_shape_of(&s->infer, y);
    const int64_t after = from->rank < 1 ? -1 : channel_elements_behind(from, s->axis[x]), channels = s->channels[x];
    if (after < 1)
        return "the shape is not known";
    for (int k = 0; k < to->rank; k++) {
        if (to->dim[k] == channels && channel_elements_behind(to, k) == after)
            return carry(s, x, y, k);
        if (to->dim[k] > 0 && to->dim[k] / channels == after && to->dim[k] % channels == 0 &&
            channel_elements_behind(to, k) == 1) {
            const int64_t first = s->base[x], base = scale_elements_new(s, y, k, to->dim[k]);
            for (int64_t c = 0; base >= 0 && c < to->dim[k]; c++)
                scale_unite(s, first + c / after, base + c);
            return base < 0 ? too_many : NULL;
        }
    }
    return "channels do not stay together when it is reshaped";
}

static const char *transpose_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t x = in(n, 0);
    const struct attr *perm = node_attr(n, "perm");
    if (!has(s, x))
        return NULL;
    const int rank = infer_rank_of(&s->infer, x);
    for (int k = 0; k < rank; k++)
        if ((perm && perm->type == ATTR_INTS && perm->count == rank ? perm->ints[k] : rank - 1 - k) == s->axis[x])
            return carry(s, x, out0(n), k);
    return "its permutation is not known";
}

static const char *mean_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t x = in(n, 0);
    int64_t axes[SHAPE_MAX_RANK];
    if (!has(s, x))
        return NULL;
    const int rank = infer_rank_of(&s->infer, x), count = node_ints(s->m, n, "axes", 1, axes, SHAPE_MAX_RANK);
    const bool keep = node_attr_int(n, "keepdims", 1) != 0;
    int axis = s->axis[x];
    if (rank < 1 || count < 1)
        return "its axes are not known";
    for (int i = 0; i < count; i++) {
        const int64_t a = axes[i] < 0 ? axes[i] + rank : axes[i];
        if (a == s->axis[x])
            return "the channels are averaged";
        axis -= !keep && a < s->axis[x];
    }
    return carry(s, x, out0(n), axis);
}

/* ---- several inputs ---- */
/* Distance of the channel axis from the last, which broadcasting keeps. */
static int from_right(const struct channel_scale *s, uint32_t v)
{
    return infer_rank_of(&s->infer, v) - s->axis[v];
}

/* Sums: all that is added gets the same factors. */
static const char *unite_all(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t y = out0(n);
    const uint32_t x = in(n, 0);
    for (int i = 0; i < n->n_input; i++)
        if (!has(s, in(n, i)) || s->channels[in(n, i)] != s->channels[x] || from_right(s, in(n, i)) != from_right(s, x))
            return "it is added to values that take no factors";
    const int rank = infer_rank_of(&s->infer, y);
    if (rank < 1)
        return "its shape is not known";
    const char *why = carry(s, x, y, rank - from_right(s, x));
    for (int i = 1; !why && i < n->n_input; i++)
        for (int64_t c = 0; c < s->channels[x]; c++)
            scale_unite(s, s->base[x] + c, s->base[in(n, i)] + c);
    return why;
}

/* The axis of a constant that meets the channels of y; -1: it has one entry there (or none at all). */
static int axis_in_const(const struct channel_scale *s, const struct tensor *t, uint32_t y)
{
    const int k = t->shape.rank - (infer_rank_of(&s->infer, y) - s->axis[y]);
    return k >= 0 && k < t->shape.rank && t->shape.dim[k] == s->channels[y] && s->channels[y] > 1 ? k : -1;
}

static void const_end(struct channel_scale *s, enum scale_role role, uint32_t node, int slot, uint32_t y,
                      const struct tensor *t, int k)
{
    struct scale_end *e = scale_end_add(s, role, node, slot, y);
    int64_t before = 1;
    for (int i = 0; i < k; i++)
        before *= t->shape.dim[i];
    if (e)
        e->lanes = (struct scale_lanes){before, t->shape.dim[k], channel_elements_behind(&t->shape, k), before, 1};
}

static const char *add_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const int slot = n->n_input == 2 && is_const(s, n->input[1])   ? 1
                     : n->n_input == 2 && is_const(s, n->input[0]) ? 0
                                                                   : -1;
    if (slot < 0)
        return unite_all(s, node);
    const uint32_t x = n->input[1 - slot], y = out0(n);
    const struct tensor *t = float_const(s, n->input[slot]);
    if (!has(s, x))
        return NULL;
    const int rank = infer_rank_of(&s->infer, y);
    if (!t || rank < 1 || infer_rank_of(&s->infer, x) != rank)
        return "a constant of unknown shape is added";
    const int k = axis_in_const(s, t, x);
    if (k < 0)
        return "one number is added to all channels";
    const char *why = carry(s, x, y, s->axis[x]);
    if (!why)
        const_end(s, SCALE_ADDS, node, slot, y, t, k);
    return why;
}

/* A vector over one axis makes the channels of the output, whatever the other operand is (scale of a decomposed
 * normalisation), and takes the factors of its input. */
static const char *mul_vector(struct channel_scale *s, uint32_t node, int slot, const struct tensor *t)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t x = n->input[1 - slot], y = out0(n);
    const int rank = infer_rank_of(&s->infer, y);
    int k = -1;
    for (int i = 0; i < t->shape.rank; i++)
        if (t->shape.dim[i] == tensor_count(t))
            k = i;
    if (k < 0 || rank < t->shape.rank || infer_rank_of(&s->infer, x) != rank)
        return "a constant that is no vector multiplies it";
    if (has(s, x) && axis_in_const(s, t, x) < 0)
        return "a vector over another axis multiplies it";
    if (has(s, x))
        const_end(s, SCALE_READS, node, slot, x, t, k);
    if (scale_elements_new(s, y, k + rank - t->shape.rank, tensor_count(t)) >= 0)
        const_end(s, SCALE_MAKES, node, slot, y, t, k);
    return NULL;
}

static const char *mul_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    if (n->n_input != 2)
        return "it has an unexpected number of inputs";
    for (int slot = 0; slot < 2; slot++)
        if (is_const(s, n->input[slot])) {
            const struct tensor *t = float_const(s, n->input[slot]);
            const uint32_t x = n->input[1 - slot];
            if (!t)
                return "a constant that is not finite float32 multiplies it";
            if (tensor_count(t) > 1)
                return mul_vector(s, node, slot, t);
            return has(s, x) && t->shape.rank <= infer_rank_of(&s->infer, x) ? carry(s, x, out0(n), s->axis[x])
                                                                             : "its shape is not known";
        }
    /* a gate: the product has the factors of one operand, so the other must have none */
    for (int slot = 0; slot < 2; slot++) {
        const uint32_t x = n->input[slot], other = n->input[1 - slot];
        if (!has(s, x) || x == other || !channel_scale_free(s, s->base[x]) ||
            !shape_equal(infer_shape_of(&s->infer, x), infer_shape_of(&s->infer, out0(n))))
            continue;
        scale_block(s, other, "it multiplies other channels");
        return carry(s, x, out0(n), s->axis[x]);
    }
    return "two computed values are multiplied";
}

static const char *concat_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t y = out0(n);
    const int rank = infer_rank_of(&s->infer, y);
    int64_t axis = node_attr_int(n, "axis", 1), at = 0;
    if (rank < 1)
        return "its shape is not known";
    axis += axis < 0 ? rank : 0;
    bool across = true; /* all parts have their channels on another axis */
    for (int i = 0; i < n->n_input; i++)
        across = across && has(s, in(n, i)) && s->axis[in(n, i)] != axis;
    if (across)
        return unite_all(s, node);
    if (axis < 0 || axis >= rank)
        return "its axis is not known";
    const int64_t total = infer_shape_of(&s->infer, y)->dim[axis];
    for (int i = 0; i < n->n_input; i++) {
        const struct shape *shape = infer_shape_of(&s->infer, in(n, i));
        if (total < 1 || shape->rank != rank || shape->dim[axis] < 1)
            return "the parts it is joined with are not known";
        at += shape->dim[axis];
    }
    const int64_t base = at == total ? scale_elements_new(s, y, (int)axis, total) : -1;
    if (base < 0)
        return too_many;
    at = 0;
    for (int i = 0; i < n->n_input; i++) {
        const uint32_t x = in(n, i);
        const int64_t count = infer_shape_of(&s->infer, x)->dim[axis];
        const bool joins = has(s, x) && s->axis[x] == axis && s->channels[x] == count;
        for (int64_t c = 0; c < count; c++)
            if (joins)
                scale_unite(s, s->base[x] + c, base + at + c);
            else
                s->blocked[channel_scale_root(s, base + at + c)] = "a part of a Concat takes no factors";
        if (!joins)
            scale_block(s, x, "it is joined along another axis");
        at += count;
    }
    return NULL;
}

static const char *split_rule(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const uint32_t x = in(n, 0);
    if (!has(s, x))
        return NULL;
    const int rank = infer_rank_of(&s->infer, x);
    int64_t axis = node_attr_int(n, "axis", 0), at = 0;
    axis += axis < 0 ? rank : 0;
    for (int i = 0; i < n->n_output; i++) {
        const struct shape *shape = n->output[i] == VALUE_NONE ? NULL : infer_shape_of(&s->infer, n->output[i]);
        if (rank < 1 || !shape || shape->rank != rank || shape->dim[s->axis[x]] < 1)
            return "the parts it is split into are not known";
        at += shape->dim[s->axis[x]];
    }
    if (axis == s->axis[x] ? at != s->channels[x] : at != s->channels[x] * n->n_output)
        return "the parts it is split into do not add up";
    at = 0;
    for (int i = 0; i < n->n_output; i++) {
        const int64_t count = infer_shape_of(&s->infer, n->output[i])->dim[s->axis[x]];
        const int64_t base = scale_elements_new(s, n->output[i], s->axis[x], count);
        if (base < 0)
            return too_many;
        for (int64_t c = 0; c < count; c++)
            scale_unite(s, s->base[x] + at + c, base + c);
        at += axis == s->axis[x] ? count : 0;
    }
    return NULL;
}

/* ---- the table ---- */
/* all: the rule looks at every input; else only input 0 may carry factors. */
static const struct rule {
    const char *op;
    const char *(*fn)(struct channel_scale *s, uint32_t node);
    bool all;
} rules[] = {
    {"Conv", product_rule},
    {"ConvTranspose", product_rule},
    {"Gemm", product_rule},
    {"MatMul", product_rule},
    {"LayerNormalization", norm_rule},
    {"BatchNormalization", norm_rule},
    {"InstanceNormalization", norm_rule},
    {"Relu", same_rule},
    {"LeakyRelu", same_rule},
    {"Identity", same_rule},
    {"PRelu", prelu_rule},
    {"Clip", clip_rule},
    {"Dropout", first_rule},
    {"MaxPool", pool_rule},
    {"AveragePool", pool_rule},
    {"GlobalAveragePool", pool_rule},
    {"GlobalMaxPool", pool_rule},
    {"Pad", pad_rule},
    {"Flatten", reshape_rule},
    {"Reshape", reshape_rule},
    {"Squeeze", reshape_rule},
    {"Unsqueeze", reshape_rule},
    {"Transpose", transpose_rule},
    {"ReduceMean", mean_rule},
    {"Add", add_rule, true},
    {"Sum", unite_all, true},
    {"Mul", mul_rule, true},
    {"Concat", concat_rule, true},
    {"Split", split_rule},
};

static const struct rule *rule_of(const struct node *n)
{
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (node_is(n, rules[i].op))
            return &rules[i];
    return NULL;
}

static void walk_node(struct channel_scale *s, uint32_t node)
{
    const struct node *n = &s->m->nodes[node];
    const struct rule *rule = rule_of(n);
    const char *why = rule ? rule->fn(s, node) : "an operator reads it that does not pass factors on";
    for (int i = 0; i < n->n_input; i++)
        if (why || (i > 0 && !rule->all))
            scale_block(s, n->input[i], why ? why : "it is a parameter of an operator");
}

/* Outputs of the model, and what nested graphs read. */
static void block_outside(struct channel_scale *s)
{
    for (uint32_t v = 0; v < s->n_values; v++) {
        const struct reader_list *l = has(s, v) ? edit_readers(&s->edit, v) : NULL;
        for (int i = 0; l && i < l->count; i++)
            if (l->at[i].node == NODE_NONE)
                scale_block(s, v, "it is an output of the model");
            else if (s->m->nodes[l->at[i].node].graph != 0)
                scale_block(s, v, "a nested graph reads it");
    }
}

int scale_walk(struct channel_scale *s, struct err *err)
{
    const struct graph *g = model_main(s->m);
    uint32_t *order = calloc(g->n_nodes ? (size_t)g->n_nodes : 1, sizeof *order);
    int rc = order ? model_toposort(s->m, 0, order, err)
                   : err_set(err, ERR_NOMEM, "out of memory while looking for channels");
    for (int i = 0; rc == 0 && i < g->n_nodes; i++)
        if (edit_node_is_live(&s->edit, order[i]))
            walk_node(s, order[i]);
    if (rc == 0)
        block_outside(s);
    free(order);
    return rc;
}
