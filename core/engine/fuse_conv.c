/* SPDX-License-Identifier: Apache-2.0
 * Convolutions into blocked ones (kernels/conv_blocked.h), with the residual sum and the activation behind them, and
 * the blocked layout kept from node to node.
 * Walk       Nodes are visited in topological order. A convolution with a constant weight becomes ConvBlocked: it reads
 *            its input's twin (or, in a first layer, the plain image) and makes its result's twin. Nodes that work on
 *            blocked images as well (fuse_layout.c) follow if their inputs have twins. Everybody else goes on reading
 *            plain values; at the end, one FromBlocked stands behind each twin whose plain value is still read.
 * Residual   of two convolutions that are summed, the later one takes the other's result: an Add is taken in when its
 *            other side has its twin already.
 * Pads       a Pad of zeros before a convolution becomes its own padding.
 * Transposes an image that is transposed from channels last right before, or to it right after, is converted in one
 *            step. */
#include "core/engine/fuse_conv.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/kernels/conv_blocked.h"

/* ---- twins ---- */
bool fuse_is_image(const struct fuse *f, uint32_t value)
{
    if (value == VALUE_NONE || value >= f->n_values || !fuse_is_f32(f->o, value))
        return false;
    const struct shape *s = &f->o->type[value].shape;
    return (s->rank == 4 || s->rank == 3) && s->dim[1] > 0;
}

uint32_t fuse_twin(const struct fuse *f, uint32_t value)
{
    return value != VALUE_NONE && value < f->n_values ? f->twin[value] : VALUE_NONE;
}

uint32_t fuse_new_twin(struct fuse *f, uint32_t value, struct err *err)
{
    const struct shape *s = &f->o->type[value].shape;
    const struct shape blocked = SHAPE(s->dim[0], blocked_count(s->dim[1]), s->rank == 4 ? s->dim[2] : 1,
                                       s->dim[s->rank - 1], BLOCK);
    const struct type type = type_tensor(DTYPE_FLOAT, &blocked);
    const char *name = model_printf(f->m, "%s/blocked", f->m->values[value].name);
    const uint32_t twin = name ? model_add_value(f->m, 0, name, true) : VALUE_NONE;
    if (twin == VALUE_NONE) {
        err_set(err, ERR_NOMEM, "out of memory");
        return VALUE_NONE;
    }
    if (optimize_set_type(f->o, twin, &type, err))
        return VALUE_NONE;
    f->twin[value] = twin;
    return twin;
}

uint32_t fuse_add(struct fuse *f, const char *op_type, const uint32_t *in, int n_in, uint32_t out, struct err *err)
{
    const uint32_t node = model_add_node(f->m, 0, op_type, OP_DOMAIN_ENGINE, f->m->values[out].name, in, n_in, &out, 1);
    if (node == NODE_NONE)
        err_set(err, ERR_NOMEM, "out of memory");
    return node;
}

void fuse_drop(struct fuse *f, uint32_t node)
{
    struct node *n = &f->m->nodes[node];
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && f->m->values[n->output[i]].producer == node)
            f->m->values[n->output[i]].producer = NODE_NONE;
    n->op_type = NULL; /* the driver closes up the graph's list */
}

static bool is_permutation(const struct node *n, const int64_t *wanted, int rank)
{
    const struct attr *perm = node_attr(n, "perm");
    return perm && perm->type == ATTR_INTS && perm->count == rank &&
           memcmp(perm->ints, wanted, (size_t)rank * sizeof *wanted) == 0;
}

/* The image [N, H, W, C] that a Transpose makes `value` from; VALUE_NONE. */
static uint32_t channels_last_source(const struct fuse *f, uint32_t value)
{
    static const int64_t to_first[] = {0, 3, 1, 2};
    const uint32_t maker = fuse_maker(f->o, value, "Transpose");
    if (maker == NODE_NONE || !is_permutation(&f->m->nodes[maker], to_first, 4))
        return VALUE_NONE;
    return f->m->nodes[maker].input[0];
}

uint32_t fuse_need_twin(struct fuse *f, uint32_t value, struct err *err)
{
    if (f->twin[value] != VALUE_NONE)
        return f->twin[value];
    const uint32_t last = channels_last_source(f, value), from = last == VALUE_NONE ? value : last;
    const uint32_t twin = fuse_new_twin(f, value, err);
    const uint32_t node = twin == VALUE_NONE ? NODE_NONE : fuse_add(f, "ToBlocked", &from, 1, twin, err);
    if (node == NODE_NONE)
        return VALUE_NONE;
    if (last != VALUE_NONE)
        node_set_int(f->m, node, "channels_last", 1);
    return twin;
}

uint32_t fuse_channels(struct fuse *f, const char *name, const float *v, int64_t count, float rest, int rank,
                       struct err *err)
{
    const int64_t blocks = blocked_count(count);
    const struct shape shape = rank == 1 ? SHAPE(blocks * BLOCK) : SHAPE(1, blocks, 1, 1, BLOCK);
    struct tensor t = {0};
    if (tensor_alloc(&t, DTYPE_FLOAT, &shape, err))
        return VALUE_NONE;
    for (int64_t i = 0; i < blocks * BLOCK; i++)
        tensor_f32(&t)[i] = i < count ? v[i] : rest;
    return optimize_add_weight(f->o, name, &t, err);
}

/* ---- a convolution and what follows it ---- */
struct found {
    uint32_t node, in, out; /* the convolution; the image it reads; the last value of the chain */
    uint32_t residual;      /* value, or VALUE_NONE */
    uint32_t gone[3];       /* nodes taken in, the convolution first */
    int n_gone;
    struct conv_blocked cv;
    int64_t pads[4];        /* begin, end, when no auto_pad says them */
    int64_t merged;         /* groups of the model that are one group here */
    bool one_axis;          /* the image has one axis: seen as one row */
    uint32_t channels_last; /* first layer: the image it reads instead, or VALUE_NONE */
};

/* A list attribute of a window over `rank` axes, as one over two. -1 where it is not as it should be. */
static int read_pair(const struct node *n, const char *name, int rank, int64_t fallback, int64_t *out)
{
    const struct attr *a = node_attr(n, name);
    out[0] = out[1] = fallback;
    if (!a || a->count == 0)
        return 0;
    if (a->type != ATTR_INTS || a->count < rank)
        return -1;
    if (rank == 2)
        out[0] = a->ints[0];
    out[1] = a->ints[rank - 1];
    return 0;
}

static const char *auto_pad_of(const struct node *n)
{
    const struct attr *a = node_attr(n, "auto_pad");
    return a && a->type == ATTR_STRING && a->count == 1 ? a->strings->data : "NOTSET";
}

/* begin and end of two axes */
static bool read_pads(const struct node *n, int rank, int64_t *pads)
{
    const struct attr *a = node_attr(n, "pads");
    memset(pads, 0, 4 * sizeof *pads);
    if (!a || a->count == 0 || strcmp(auto_pad_of(n), "NOTSET") != 0)
        return true;
    if (a->type != ATTR_INTS || a->count != 2 * rank)
        return false;
    for (int i = 0; i < rank; i++) {
        pads[2 - rank + i] = a->ints[i];
        pads[4 - rank + i] = a->ints[rank + i];
    }
    return true;
}

/* A Pad with zeros of the two spatial axes goes into the convolution's own padding. */
static void take_pad(const struct fuse *f, struct found *c)
{
    const struct node *conv = &f->m->nodes[c->node];
    const uint32_t maker = fuse_maker(f->o, c->in, "Pad");
    const char *auto_pad = auto_pad_of(conv);
    if (maker == NODE_NONE || c->one_axis || (strcmp(auto_pad, "NOTSET") != 0 && strcmp(auto_pad, "VALID") != 0))
        return;
    const struct node *pad = &f->m->nodes[maker];
    const struct attr *mode = node_attr(pad, "mode"), *list = node_attr(pad, "pads");
    const struct tensor *t = pad->n_input > 1 ? value_const(f->m, pad->input[1]) : NULL;
    float value = node_attr_float(pad, "value", 0);
    const int64_t *pads = NULL;
    if (t && t->dtype == DTYPE_INT64 && tensor_count(t) == 8)
        pads = t->data;
    else if (pad->n_input == 1 && list && list->type == ATTR_INTS && list->count == 8)
        pads = list->ints;
    if (pad->n_input > 2 && pad->input[2] != VALUE_NONE && !fuse_scalar(f->o, pad->input[2], &value))
        return;
    if (!pads || value != 0 || (pad->n_input > 3 && pad->input[3] != VALUE_NONE) || !fuse_is_image(f, pad->input[0]) ||
        (mode && mode->type == ATTR_STRING && mode->count == 1 && strcmp(mode->strings->data, "constant") != 0))
        return;
    for (int i = 0; i < 8; i++)
        if (pads[i] < 0 || pads[i] > INT16_MAX || (i % 4 < 2 && pads[i] != 0))
            return;
    for (int i = 0; i < 2; i++) {
        c->pads[i] += pads[2 + i];
        c->pads[2 + i] += pads[6 + i];
        c->cv.pad[i] = c->pads[i];
        c->cv.in[i] = i64_max(f->o->type[pad->input[0]].shape.dim[2 + i], -1);
    }
    c->in = pad->input[0];
}

/* Groups whose channels are no multiple of a block are done several at once, with zeros between them. */
static void merge_groups(struct found *c)
{
    const int64_t in = c->cv.c_in / c->cv.groups, out = c->cv.c_out / c->cv.groups;
    for (int64_t k = 2; k <= 4; k *= 2)
        if (c->cv.groups % k == 0 && in * k % BLOCK == 0 && out * k % BLOCK == 0) {
            c->merged = k;
            c->cv.groups /= k;
            return;
        }
}

static bool read_geometry(const struct fuse *f, const struct node *n, const struct tensor *w, struct found *c)
{
    const int rank = w->shape.rank - 2;
    const struct shape *x = &f->o->type[c->in].shape, *y = &f->o->type[n->output[0]].shape;
    struct conv_blocked *cv = &c->cv;
    c->one_axis = rank == 1;
    *cv = (struct conv_blocked){.batch = 1, .c_in = x->dim[1], .c_out = w->shape.dim[0],
                                .groups = node_attr_int(n, "group", 1), .kernel = {1, w->shape.dim[rank + 1]},
                                .in = {1, x->dim[rank + 1]}, .out = {1, y->dim[rank + 1]}};
    if (rank == 2) {
        cv->kernel[0] = w->shape.dim[2];
        cv->in[0] = x->dim[2];
        cv->out[0] = y->dim[2];
    }
    if (read_pair(n, "strides", rank, 1, cv->stride) || read_pair(n, "dilations", rank, 1, cv->dilation) ||
        !read_pads(n, rank, c->pads))
        return false;
    if (rank == 1)
        cv->stride[0] = cv->dilation[0] = 1;
    for (int a = 0; a < 2; a++) {
        cv->pad[a] = c->pads[a];
        cv->in[a] = i64_max(cv->in[a], -1);
        cv->out[a] = i64_max(cv->out[a], -1);
    }
    return true;
}

/* A plain image of few channels that only meets this convolution stays plain in between. */
static bool worth_it(const struct fuse *f, const struct found *c)
{
    if (fuse_twin(f, c->in) != VALUE_NONE || c->cv.algorithm == CONV_FIRST)
        return true;
    return c->cv.c_in >= BLOCK || c->cv.c_out >= BLOCK;
}

/* What a convolution's weight says of its image and result, where inference knew nothing. */
static void refine_type(const struct fuse *f, uint32_t value, int rank, int64_t channels)
{
    struct type *type = value < f->n_values ? &f->o->type[value] : NULL;
    if (!type || type->kind != TYPE_TENSOR || type->dtype != DTYPE_FLOAT)
        return;
    if (type->shape.rank == SHAPE_UNKNOWN_RANK) {
        type->shape.rank = rank;
        for (int i = 0; i < rank; i++)
            type->shape.dim[i] = DIM_UNKNOWN;
    }
    if (type->shape.rank == rank && type->shape.dim[1] < 0)
        type->shape.dim[1] = channels;
}

/* A constant float32 weight of rank 3 or 4, and bias if there is one. */
static const struct tensor *conv_weight(const struct fuse *f, const struct node *n)
{
    const struct tensor *w = value_const(f->m, n->input[1]);
    if (!w || w->dtype != DTYPE_FLOAT || !w->data || (w->shape.rank != 3 && w->shape.rank != 4) || tensor_count(w) == 0)
        return NULL;
    if (n->n_input < 3 || n->input[2] == VALUE_NONE)
        return w;
    const struct tensor *b = value_const(f->m, n->input[2]);
    return b && b->dtype == DTYPE_FLOAT && b->data && tensor_count(b) == w->shape.dim[0] ? w : NULL;
}

static bool read_conv(const struct fuse *f, uint32_t node, struct found *c)
{
    const struct node *n = &f->m->nodes[node];
    if (!node_is(n, "Conv") || n->n_input < 2 || n->n_output != 1 || n->input[0] == VALUE_NONE)
        return false;
    const struct tensor *w = conv_weight(f, n);
    const int64_t group = node_attr_int(n, "group", 1);
    int64_t c_in;
    if (!w || group < 1 || !i64_mul(w->shape.dim[1], group, &c_in) || w->shape.dim[0] % group != 0)
        return false;
    refine_type(f, n->input[0], w->shape.rank, c_in);
    refine_type(f, n->output[0], w->shape.rank, w->shape.dim[0]);
    if (!fuse_is_image(f, n->input[0]) || !fuse_is_image(f, n->output[0]) ||
        f->o->type[n->input[0]].shape.rank != w->shape.rank || f->o->type[n->output[0]].shape.rank != w->shape.rank ||
        f->o->type[n->input[0]].shape.dim[1] != c_in)
        return false;
    *c = (struct found){.node = node, .in = n->input[0], .residual = VALUE_NONE, .out = n->output[0], .gone = {node},
                        .n_gone = 1, .merged = 1, .channels_last = VALUE_NONE};
    if (!read_geometry(f, n, w, c))
        return false;
    take_pad(f, c);
    const bool plain = fuse_twin(f, c->in) == VALUE_NONE && !c->one_axis;
    c->cv.algorithm = conv_blocked_choose(&c->cv, plain);
    if (c->cv.algorithm == CONV_ALGORITHMS) {
        merge_groups(c);
        c->cv.algorithm = conv_blocked_choose(&c->cv, plain);
    }
    if (c->cv.algorithm == CONV_ALGORITHMS || conv_blocked_weights(&c->cv) < 0 || !worth_it(f, c))
        return false;
    if (c->cv.algorithm == CONV_FIRST)
        c->channels_last = channels_last_source(f, c->in);
    return true;
}

/* BatchNormalization that no product took in: a depthwise 1x1 convolution. */
static bool read_batchnorm(const struct fuse *f, uint32_t node, struct found *c)
{
    const struct node *n = &f->m->nodes[node];
    if (!node_is(n, "BatchNormalization") || n->n_input != 5 || n->n_output < 1 || !fuse_is_image(f, n->output[0]) ||
        fuse_twin(f, n->input[0]) == VALUE_NONE || node_attr_int(n, "training_mode", 0))
        return false;
    for (int i = 1; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE)
            return false;
    const struct shape *x = &f->o->type[n->input[0]].shape;
    for (int i = 1; i < 5; i++) {
        const struct tensor *t = value_const(f->m, n->input[i]);
        if (!t || t->dtype != DTYPE_FLOAT || !t->data || tensor_count(t) != x->dim[1])
            return false;
    }
    *c = (struct found){.node = node, .in = n->input[0], .residual = VALUE_NONE, .out = n->output[0], .gone = {node},
                        .n_gone = 1, .merged = 1, .one_axis = x->rank == 3, .channels_last = VALUE_NONE};
    c->cv = (struct conv_blocked){.algorithm = CONV_DEPTHWISE, .batch = 1, .c_in = x->dim[1], .c_out = x->dim[1],
                                  .groups = x->dim[1], .in = {-1, -1}, .out = {-1, -1}, .kernel = {1, 1},
                                  .stride = {1, 1}, .dilation = {1, 1}};
    return conv_blocked_fits(&c->cv);
}

static void take_residual(const struct fuse *f, struct found *c)
{
    const uint32_t reader = optimize_single_reader(f->o, c->out);
    if (reader == NODE_NONE)
        return;
    const struct node *n = &f->m->nodes[reader];
    if ((!node_is(n, "Add") && !node_is(n, "Sum")) || n->n_output != 1)
        return;
    const uint32_t other = fuse_other(n, c->out);
    if (other == VALUE_NONE || fuse_twin(f, other) == VALUE_NONE || !fuse_same_shape(f->o, other, c->out))
        return;
    c->residual = f->twin[other];
    c->out = n->output[0];
    c->gone[c->n_gone++] = reader;
}

static void take_activation(const struct fuse *f, struct found *c)
{
    const uint32_t reader = optimize_single_reader(f->o, c->out);
    struct act act;
    if (reader == NODE_NONE || !fuse_read_act(f->o, reader, &act) || f->m->nodes[reader].input[0] != c->out)
        return;
    c->cv.act = act;
    c->out = f->m->nodes[reader].output[0];
    c->gone[c->n_gone++] = reader;
}

/* ---- weights ---- */
/* The weight of merged groups: [c_out, merged * channels of a group, kernel], zero outside the output's own group. */
static float *spread(const struct found *c, const float *w, struct err *err)
{
    const int64_t taps = c->cv.kernel[0] * c->cv.kernel[1], in = c->cv.c_in / c->cv.groups, own = in / c->merged;
    const int64_t out = c->cv.c_out / c->cv.groups / c->merged; /* of a group of the model */
    float *wide = calloc((size_t)(c->cv.c_out * in * taps), sizeof *wide);
    if (!wide) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    for (int64_t m = 0; m < c->cv.c_out; m++)
        memcpy(wide + (m * in + m / out % c->merged * own) * taps, w + m * own * taps,
               (size_t)(own * taps) * sizeof *w);
    return wide;
}

static uint32_t pack_conv(struct fuse *f, const struct found *c, const struct tensor *w, struct err *err)
{
    const struct shape shape = SHAPE(conv_blocked_weights(&c->cv));
    struct tensor t = {0};
    float *wide = NULL;
    if (tensor_alloc(&t, DTYPE_FLOAT, &shape, err))
        return VALUE_NONE;
    if (c->merged > 1 && !(wide = spread(c, w->data, err))) {
        tensor_fini(&t);
        return VALUE_NONE;
    }
    conv_blocked_pack(&c->cv, wide ? wide : w->data, t.data);
    tensor_release_pages(w);
    free(wide);
    return optimize_add_weight(f->o, f->m->values[f->m->nodes[c->node].input[1]].name, &t, err);
}

static int conv_weights(struct fuse *f, const struct found *c, uint32_t in[2], struct err *err)
{
    const struct node *n = &f->m->nodes[c->node];
    const struct tensor *b = n->n_input > 2 ? value_const(f->m, n->input[2]) : NULL;
    in[0] = pack_conv(f, c, value_const(f->m, n->input[1]), err);
    in[1] = VALUE_NONE;
    n = &f->m->nodes[c->node];
    if (b)
        in[1] = fuse_channels(f, f->m->values[n->input[2]].name, b->data, c->cv.c_out, 0, 1, err);
    return in[0] == VALUE_NONE || (b && in[1] == VALUE_NONE) ? -1 : 0;
}

/* y = scale x + (bias - mean scale), scale = gamma / sqrt(variance + epsilon) */
static int batchnorm_weights(struct fuse *f, const struct found *c, uint32_t in[2], struct err *err)
{
    const struct node *n = &f->m->nodes[c->node];
    const int64_t channels = c->cv.c_out;
    const float epsilon = node_attr_float(n, "epsilon", 1e-5f);
    const float *p[5];
    const char *name = f->m->values[n->input[1]].name;
    float *scale = calloc((size_t)channels * 2, sizeof *scale);
    if (!scale)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 1; i < 5; i++)
        p[i] = value_const(f->m, n->input[i])->data;
    for (int64_t i = 0; i < channels; i++) {
        const double s = (double)p[1][i] / __builtin_sqrt((double)p[4][i] + (double)epsilon);
        scale[i] = (float)s;
        scale[channels + i] = (float)((double)p[2][i] - (double)p[3][i] * s);
    }
    in[0] = fuse_channels(f, name, scale, channels, 0, 1, err);
    in[1] = in[0] == VALUE_NONE ? VALUE_NONE : fuse_channels(f, name, scale + channels, channels, 0, 1, err);
    free(scale);
    return in[1] == VALUE_NONE ? -1 : 0;
}

/* ---- the new node ---- */
static void set_window(struct fuse *f, uint32_t node, const struct found *c)
{
    const char *auto_pad = auto_pad_of(&f->m->nodes[c->node]);
    node_set_ints(f->m, node, "kernel_shape", c->cv.kernel, 2);
    node_set_ints(f->m, node, "strides", c->cv.stride, 2);
    node_set_ints(f->m, node, "dilations", c->cv.dilation, 2);
    if (strncmp(auto_pad, "SAME", 4) == 0)
        node_set_string(f->m, node, "auto_pad", model_strdup(f->m, auto_pad));
    else
        node_set_ints(f->m, node, "pads", c->pads, 4);
}

static int rewrite(struct fuse *f, const struct found *c, struct err *err)
{
    const bool conv = node_is(&f->m->nodes[c->node], "Conv");
    uint32_t in[4] = {c->channels_last != VALUE_NONE ? c->channels_last : c->in, VALUE_NONE, VALUE_NONE, c->residual};
    if ((conv ? conv_weights : batchnorm_weights)(f, c, in + 1, err))
        return -1;
    if (c->cv.algorithm != CONV_FIRST && (in[0] = fuse_need_twin(f, c->in, err)) == VALUE_NONE)
        return -1;
    const uint32_t out = fuse_new_twin(f, c->out, err);
    const int n_in = c->residual != VALUE_NONE ? 4 : in[2] != VALUE_NONE ? 3 : 2;
    const uint32_t node = out == VALUE_NONE ? NODE_NONE : fuse_add(f, "ConvBlocked", in, n_in, out, err);
    if (node == NODE_NONE)
        return -1;
    set_window(f, node, c);
    node_set_int(f->m, node, "channels_in", c->cv.c_in);
    node_set_int(f->m, node, "channels_out", c->cv.c_out);
    node_set_int(f->m, node, "group", c->cv.groups);
    node_set_string(f->m, node, "algorithm", conv_algorithm_names[c->cv.algorithm]);
    node_set_int(f->m, node, "channels_last", c->channels_last != VALUE_NONE);
    fuse_set_act(f->m, node, &c->cv.act);
    for (int i = 0; i < c->n_gone; i++)
        fuse_drop(f, c->gone[i]);
    return 0;
}

/* ---- borders ---- */
/* Values read by what is left of the graph; those read by nested graphs too. */
static void mark_read(const struct fuse *f, bool *read)
{
    const struct graph *g = model_main(f->m);
    for (int i = 0; i < g->n_outputs; i++)
        if (g->outputs[i].value < f->n_values)
            read[g->outputs[i].value] = true;
    for (uint32_t n = 0; n < f->m->n_nodes; n++) {
        const struct node *node = &f->m->nodes[n];
        for (int i = 0; node->op_type && i < node->n_input; i++)
            if (node->input[i] != VALUE_NONE && node->input[i] < f->n_values)
                read[node->input[i]] = true;
    }
}

static uint32_t add_from_blocked(struct fuse *f, uint32_t value, uint32_t out, struct err *err)
{
    const struct shape *s = &f->o->type[value].shape;
    const uint32_t node = fuse_add(f, "FromBlocked", &f->twin[value], 1, out, err);
    if (node == NODE_NONE)
        return NODE_NONE;
    node_set_int(f->m, node, "channels", s->dim[1]);
    node_set_int(f->m, node, "rank", s->rank);
    return node;
}

/* Transposes of twins to channels last become conversions. */
static int convert_transposes(struct fuse *f, struct err *err)
{
    static const int64_t to_last[] = {0, 2, 3, 1};
    for (int i = 0; i < f->n_nodes; i++) {
        const uint32_t id = f->order[i];
        const struct node *n = &f->m->nodes[id];
        if (!n->op_type || !node_is(n, "Transpose") || n->n_output != 1 || !is_permutation(n, to_last, 4))
            continue;
        const uint32_t in = n->input[0], out = n->output[0];
        if (fuse_twin(f, in) == VALUE_NONE || f->m->values[in].producer != NODE_NONE || f->m->values[in].weight ||
            value_is_graph_input(f->m, in))
            continue;
        fuse_drop(f, id);
        const uint32_t node = add_from_blocked(f, in, out, err);
        if (node == NODE_NONE)
            return -1;
        node_set_int(f->m, node, "channels_last", 1);
    }
    return 0;
}

/* Nobody reads the plain value, but somebody wants to see it. */
static int show_twin(struct fuse *f, uint32_t v, struct err *err)
{
    const struct shape *s = &f->o->type[v].shape;
    const struct plan_stand_in shown = {.value = v, .twin = f->twin[v], .channels = s->dim[1], .rank = s->rank};
    return optimize_is_watched(f->o, v) ? optimize_add_stand_in(f->o, shown, err) : 0;
}

static int give_plain_values(struct fuse *f, struct err *err)
{
    bool *read = calloc(f->n_values + (size_t)1, sizeof *read);
    int rc = -1;
    if (!read)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (convert_transposes(f, err))
        goto out;
    mark_read(f, read);
    for (uint32_t v = 0; v < f->n_values; v++) {
        const struct value *value = &f->m->values[v];
        if (f->twin[v] == VALUE_NONE || value->producer != NODE_NONE || value->weight || value_is_graph_input(f->m, v))
            continue;
        if (read[v] ? add_from_blocked(f, v, v, err) == NODE_NONE : show_twin(f, v, err) != 0)
            goto out;
    }
    rc = 0;
out:
    free(read);
    return rc;
}

int fuse_conv(struct optimize *o, struct err *err)
{
    const struct graph *g = model_main(o->m);
    struct fuse f = {.o = o, .m = o->m, .n_values = o->m->n_values, .n_nodes = g->n_nodes};
    uint32_t *order = malloc(((size_t)g->n_nodes + 1) * sizeof *order);
    int rc = -1;
    f.twin = malloc((f.n_values + (size_t)1) * sizeof *f.twin);
    f.order = order;
    if (!order || !f.twin) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    memset(f.twin, 0xff, (f.n_values + (size_t)1) * sizeof *f.twin);
    memcpy(order, g->nodes, (size_t)g->n_nodes * sizeof *order);
    for (int i = 0; i < f.n_nodes; i++) {
        struct found c;
        if (!f.m->nodes[order[i]].op_type)
            continue; /* taken in */
        if (read_conv(&f, order[i], &c) || read_batchnorm(&f, order[i], &c)) {
            take_residual(&f, &c);
            take_activation(&f, &c);
            if (rewrite(&f, &c, err))
                goto out;
        } else if (fuse_layout_node(&f, order[i], err) < 0) {
            goto out;
        }
    }
    rc = give_plain_values(&f, err);
out:
    free(order);
    free(f.twin);
    return rc;
}
