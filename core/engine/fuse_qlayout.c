/* SPDX-License-Identifier: Apache-2.0
 * fuse_qlayout.c - integer products get packed weights, and 8-bit images their channels last.
 * Idea       walk the nodes in order. A value that a rewritten node makes exists with its channels last only (`last`);
 *            a node that needs that layout asks for it, and it is made where it is not there: by the QuantizeLinear that
 *            quantizes anyway, by undoing a Transpose, or by a ToChannelsLast. After the walk every such value gets a
 *            FromChannelsLast under its old id, which the driver drops again where nobody reads it. So layouts change
 *            only where the graph leaves the integer images.
 * Operators  that work element by element, or along the channels, run on either layout by their ordinary rows. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/engine/fuse_util.h"
#include "core/kernels/q8.h"
#include "core/kernels/qconv.h"

#define MICROSOFT "com.microsoft"

struct layout {
    struct optimize *o;
    struct model *m;
    uint32_t *last; /* [n] the value with its channels last; VALUE_NONE */
    uint32_t n;
};

static const struct type *type_of(const struct layout *l, uint32_t v)
{
    return v == VALUE_NONE || v >= l->o->cap_type ? NULL : &l->o->type[v];
}

static bool is_image(const struct layout *l, uint32_t v)
{
    const struct type *t = type_of(l, v);
    return t && t->kind == TYPE_TENSOR && t->shape.rank == 4 && (t->dtype == DTYPE_INT8 || t->dtype == DTYPE_UINT8);
}

static const struct tensor *constant(const struct layout *l, uint32_t v)
{
    return v == VALUE_NONE ? NULL : value_const(l->m, v);
}

static bool is_op(const struct node *n, const char *type)
{
    return n->op_type && strcmp(n->op_type, type) == 0 &&
           (model_domain_is_default(n->domain) || strcmp(n->domain, MICROSOFT) == 0);
}

static uint32_t known_last(const struct layout *l, uint32_t v)
{
    return v < l->n ? l->last[v] : VALUE_NONE;
}

/* ---- values and nodes ---- */
static uint32_t add_value(struct layout *l, uint32_t like, enum dtype dtype, bool turn, struct err *err)
{
    const struct shape *s = &l->o->type[like].shape;
    struct shape shape = *s;
    if (turn)
        shape = SHAPE(s->dim[0], s->dim[2], s->dim[3], s->dim[1]);
    const struct type type = type_tensor(dtype, &shape);
    const uint32_t v = model_add_value(l->m, 0, l->m->values[like].name, true);
    if (v == VALUE_NONE) {
        err_set(err, ERR_NOMEM, "out of memory");
        return VALUE_NONE;
    }
    return optimize_set_type(l->o, v, &type, err) < 0 ? VALUE_NONE : v;
}

static uint32_t add_node(struct layout *l, const char *type, const char *domain, const uint32_t *in, int n_in,
                         uint32_t out, struct err *err)
{
    const uint32_t id = model_add_node(l->m, 0, type, domain, l->m->values[out].name, in, n_in, &out, 1);
    if (id == NODE_NONE)
        err_set(err, ERR_NOMEM, "out of memory");
    return id;
}

static void drop(struct layout *l, uint32_t id)
{
    struct node *n = &l->m->nodes[id];
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && l->m->values[n->output[i]].producer == id)
            l->m->values[n->output[i]].producer = NODE_NONE;
    n->op_type = NULL;
}

/* The new node has the attributes of the old one. */
static void keep_attrs(struct layout *l, uint32_t to, uint32_t from)
{
    l->m->nodes[to].attr = l->m->nodes[from].attr;
    l->m->nodes[to].n_attr = l->m->nodes[from].n_attr;
}

static bool is_turn(const struct node *n, const int64_t want[4])
{
    const struct attr *perm = node_attr(n, "perm");
    if (!node_is(n, "Transpose") || !perm || perm->type != ATTR_INTS || perm->count != 4)
        return false;
    return memcmp(perm->ints, want, 4 * sizeof *want) == 0;
}
static const int64_t to_last[4] = {0, 2, 3, 1}, to_first[4] = {0, 3, 1, 2};

/* A QuantizeLinear with one scale and zero point of 8 bits. */
static bool is_plain_quantize(const struct layout *l, const struct node *n)
{
    if (!is_op(n, "QuantizeLinear") && !is_op(n, "DequantizeLinear"))
        return false;
    const struct tensor *scale = n->n_input == 3 ? constant(l, n->input[1]) : NULL;
    const struct tensor *zero = n->n_input == 3 ? constant(l, n->input[2]) : NULL;
    return scale && zero && tensor_count(scale) == 1 && tensor_count(zero) == 1 && scale->dtype == DTYPE_FLOAT &&
           (zero->dtype == DTYPE_INT8 || zero->dtype == DTYPE_UINT8) && node_attr_int(n, "block_size", 0) == 0;
}

/* Made by quantizing floats: quantize into the layout, or quantize what a Transpose was given. */
static int quantize_last(struct layout *l, uint32_t v, uint32_t out, struct err *err)
{
    const struct node *q = &l->m->nodes[l->m->values[v].producer];
    uint32_t in[3] = {q->input[0], q->input[1], q->input[2]};
    const uint32_t before = l->m->values[in[0]].producer;
    if (before != NODE_NONE && is_turn(&l->m->nodes[before], to_first)) {
        in[0] = l->m->nodes[before].input[0];
        return add_node(l, "QuantizeLinear", q->domain, in, 3, out, err) == NODE_NONE ? -1 : 0;
    }
    return add_node(l, "QuantizeToChannelsLast", OP_DOMAIN_ENGINE, in, 3, out, err) == NODE_NONE ? -1 : 0;
}

/* v with its channels last, made if need be. */
static uint32_t last_of(struct layout *l, uint32_t v, struct err *err)
{
    if (known_last(l, v) != VALUE_NONE)
        return l->last[v];
    const uint32_t producer = l->m->values[v].producer;
    const struct node *maker = producer == NODE_NONE ? NULL : &l->m->nodes[producer];
    if (maker && is_turn(maker, to_first)) {
        l->last[v] = maker->input[0];
        return l->last[v];
    }
    const uint32_t out = add_value(l, v, l->o->type[v].dtype, true, err);
    if (out == VALUE_NONE)
        return VALUE_NONE;
    const struct type *from = maker && maker->n_input > 0 ? type_of(l, maker->input[0]) : NULL;
    const bool quantizes = maker && is_op(maker, "QuantizeLinear") && is_plain_quantize(l, maker) && from &&
                           from->dtype == DTYPE_FLOAT;
    const int rc = quantizes ? quantize_last(l, v, out, err)
                             : (add_node(l, "ToChannelsLast", OP_DOMAIN_ENGINE, &v, 1, out, err) == NODE_NONE ? -1 : 0);
    if (rc < 0)
        return VALUE_NONE;
    l->last[v] = out;
    return out;
}

/* Is v, an output of a node being rewritten, an image of the original graph? */
static bool may_turn(const struct layout *l, uint32_t v)
{
    return v < l->n && is_image(l, v);
}

/* ---- packed products ---- */
struct product {
    struct qconv q;
    struct qconv_weight w;
    const struct tensor *w_scale, *bias, *float_bias;
    float factor, divisor; /* multiplier[j] = factor * w_scale[j] / divisor */
    enum dtype x, y;       /* y FLOAT: to float */
    int64_t y_zero;
    const char *name;
};

static int add_tensor(struct layout *l, const char *name, struct tensor *t, uint32_t *out, struct err *err)
{
    *out = optimize_add_weight(l->o, name, t, err);
    return *out == VALUE_NONE ? -1 : 0;
}

static int add_spread(struct layout *l, const struct product *p, const void *values, enum dtype dtype, uint32_t *out,
                      struct err *err)
{
    struct tensor t = {0};
    const struct shape shape = SHAPE(qconv_padded(&p->q));
    if (tensor_alloc(&t, dtype, &shape, err) < 0)
        return -1;
    qconv_spread(&p->q, values, t.data);
    return add_tensor(l, p->name, &t, out, err);
}

static int add_multipliers(struct layout *l, const struct product *p, uint32_t *out, struct err *err)
{
    const int64_t n = p->q.c_out;
    float *values = calloc((size_t)n, sizeof *values);
    if (!values)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        values[i] = p->factor * tensor_f32(p->w_scale)[tensor_count(p->w_scale) > 1 ? i : 0] / p->divisor;
    const int rc = add_spread(l, p, values, DTYPE_FLOAT, out, err);
    free(values);
    return rc;
}

/* in[1..4] of QConv and QMatMul. */
static int add_packed(struct layout *l, struct product *p, uint32_t in[5], struct err *err)
{
    const int64_t count = qconv_packed_count(&p->q);
    struct tensor t = {0};

    in[2] = in[4] = VALUE_NONE;
    if (count < 0)
        return err_set(err, ERR_MODEL_TOO_LARGE, "a packed weight would overflow the address space");
    p->q.wide = qconv_is_depthwise(&p->q) || !qconv_fits_bytes(&p->q, &p->w);
    if (tensor_alloc(&t, p->q.wide ? DTYPE_INT16 : DTYPE_INT8, &SHAPE(count), err) < 0)
        return -1;
    qconv_pack(&p->q, &p->w, t.data);
    if (add_tensor(l, p->name, &t, &in[1], err) < 0 || add_multipliers(l, p, &in[3], err) < 0 ||
        (p->bias && add_spread(l, p, p->bias->data, DTYPE_INT32, &in[2], err) < 0) ||
        (p->float_bias && add_spread(l, p, p->float_bias->data, DTYPE_FLOAT, &in[4], err) < 0))
        return -1;
    return 0;
}

static void set_product_attrs(struct layout *l, uint32_t id, const struct product *p)
{
    node_set_int(l->m, id, "channels_in", p->q.c_in);
    node_set_int(l->m, id, "channels_out", p->q.c_out);
    node_set_int(l->m, id, "x_zero", p->q.x_zero);
    if (p->y == DTYPE_FLOAT)
        return;
    node_set_int(l->m, id, "y_zero", p->y_zero);
    node_set_int(l->m, id, "y_signed", p->y == DTYPE_INT8);
    node_set_int(l->m, id, "low", p->y == DTYPE_INT8 ? -128 : 0);
    node_set_int(l->m, id, "high", p->y == DTYPE_INT8 ? 127 : 255);
}

/* One value of 8 bits. */
static bool read_zero(const struct layout *l, uint32_t v, int64_t *zero, enum dtype *dtype)
{
    const struct tensor *t = constant(l, v);
    if (!t || tensor_count(t) != 1 || (t->dtype != DTYPE_INT8 && t->dtype != DTYPE_UINT8))
        return false;
    *zero = dtype_get_i64(t->dtype, t->data, 0);
    *dtype = t->dtype;
    return true;
}

/* Scales and zero points of a weight of `columns` columns; zero_points gets an array to free. */
static bool read_weight(const struct layout *l, uint32_t w, uint32_t scale, uint32_t zero, int64_t columns,
                        struct product *p, int32_t **zero_points)
{
    const struct tensor *t = constant(l, w), *z = constant(l, zero);
    p->w_scale = constant(l, scale);
    if (!t || (t->dtype != DTYPE_INT8 && t->dtype != DTYPE_UINT8) || !p->w_scale || p->w_scale->dtype != DTYPE_FLOAT ||
        (zero != VALUE_NONE && (!z || z->dtype != t->dtype)))
        return false;
    const int64_t n_scale = tensor_count(p->w_scale), n_zero = z ? tensor_count(z) : 1;
    if ((n_scale != 1 && n_scale != columns) || (n_zero != 1 && n_zero != columns) || !t->data)
        return false;
    *zero_points = calloc((size_t)n_zero, sizeof **zero_points);
    if (!*zero_points)
        return false;
    for (int64_t i = 0; i < n_zero && z; i++)
        (*zero_points)[i] = (int32_t)dtype_get_i64(z->dtype, z->data, i);
    p->w = (struct qconv_weight){.data = t->data, .is_signed = t->dtype == DTYPE_INT8, .zero_channels = n_zero > 1,
                                 .zero = *zero_points};
    return true;
}

static bool read_scalar(const struct layout *l, uint32_t v, float *number)
{
    return fuse_scalar(l->o, v, number);
}

/* ---- QLinearConv ---- */
static bool read_conv(struct layout *l, const struct node *n, struct product *p, int32_t **zero_points)
{
    const struct tensor *w = n->n_input >= 8 ? constant(l, n->input[3]) : NULL;
    int64_t x_zero;

    if (!w || w->shape.rank != 4 || !is_image(l, n->input[0]) || !may_turn(l, n->output[0]) ||
        !read_scalar(l, n->input[1], &p->factor) || !read_zero(l, n->input[2], &x_zero, &p->x) ||
        !read_scalar(l, n->input[6], &p->divisor) || !read_zero(l, n->input[7], &p->y_zero, &p->y) ||
        l->o->type[n->input[0]].dtype != p->x)
        return false;
    const int64_t *d = w->shape.dim, group = node_attr_int(n, "group", 1);
    if (group < 1 || group > d[0] || d[0] % group || d[1] > INT32_MAX / group || tensor_count(w) == 0 ||
        l->o->type[n->input[0]].shape.dim[1] != d[1] * group)
        return false;
    p->q = (struct qconv){.c_in = d[1] * group, .c_out = d[0], .groups = group, .kernel_h = d[2], .kernel_w = d[3],
                          .dilation_w = 1, .x_zero = (int32_t)x_zero};
    const struct attr *dilations = node_attr(n, "dilations");
    if (dilations && dilations->type == ATTR_INTS && dilations->count == 2)
        p->q.dilation_w = dilations->ints[1];
    if (n->n_input > 8 && n->input[8] != VALUE_NONE) {
        p->bias = constant(l, n->input[8]);
        if (!p->bias || p->bias->dtype != DTYPE_INT32 || tensor_count(p->bias) != d[0])
            return false;
    }
    return read_weight(l, n->input[3], n->input[4], n->input[5], d[0], p, zero_points);
}

static int turn_conv(struct layout *l, uint32_t id, struct err *err)
{
    const struct node n = l->m->nodes[id];
    struct product p = {.name = n.output[0] == VALUE_NONE ? "w" : l->m->values[n.output[0]].name};
    int32_t *zero_points = NULL;
    uint32_t in[5];
    int rc = 0;

    if (n.output[0] == VALUE_NONE || !read_conv(l, &n, &p, &zero_points))
        goto out;
    rc = -1;
    in[0] = last_of(l, n.input[0], err);
    const uint32_t y = in[0] == VALUE_NONE ? VALUE_NONE : add_value(l, n.output[0], p.y, true, err);
    if (y == VALUE_NONE || add_packed(l, &p, in, err) < 0)
        goto out;
    const uint32_t made = add_node(l, "QConv", OP_DOMAIN_ENGINE, in, 4, y, err);
    if (made == NODE_NONE)
        goto out;
    keep_attrs(l, made, id);
    node_set_ints(l->m, made, "kernel_shape", (const int64_t[]){p.q.kernel_h, p.q.kernel_w}, 2);
    set_product_attrs(l, made, &p);
    drop(l, id);
    l->last[n.output[0]] = y;
    rc = 0;
out:
    free(zero_points);
    return rc;
}

/* ---- matrix products ---- */
/* Which inputs hold what; -1: there is none. */
struct places {
    int a_scale, a_zero, b, b_scale, b_zero, c, float_bias, y_scale, y_zero;
    bool dynamic;
};
static const struct places gemm_places = {1, 2, 3, 4, 5, 6, -1, 7, 8, false},
                           matmul_places = {1, 2, 3, 4, 5, -1, -1, 6, 7, false},
                           to_float_places = {2, 4, 1, 3, 5, -1, 6, -1, -1, false},
                           dynamic_places = {-1, -1, 1, 2, 3, -1, 4, -1, -1, true};

static uint32_t input_at(const struct node *n, int i)
{
    return i >= 0 && i < n->n_input ? n->input[i] : VALUE_NONE;
}

static bool read_matmul(const struct layout *l, const struct node *n, const struct places *at, bool turned,
                        struct product *p, int32_t **zero_points)
{
    const struct tensor *b = constant(l, input_at(n, at->b));
    const struct type *x = type_of(l, n->input[0]);
    int64_t a_zero = 0;

    if (!b || b->shape.rank != 2 || tensor_count(b) == 0 || !x || x->shape.rank < 1)
        return false;
    const int64_t k = b->shape.dim[turned ? 1 : 0], columns = b->shape.dim[turned ? 0 : 1];
    p->x = x->dtype;
    p->factor = node_attr_float(n, "alpha", 1);
    p->divisor = 1;
    p->y = DTYPE_FLOAT;
    if (!at->dynamic) {
        float scale;
        if (!read_scalar(l, input_at(n, at->a_scale), &scale))
            return false;
        p->factor *= scale;
        if (input_at(n, at->a_zero) != VALUE_NONE && (!read_zero(l, input_at(n, at->a_zero), &a_zero, &p->x) ||
                                                      p->x != x->dtype))
            return false;
        if (p->x != DTYPE_INT8 && p->x != DTYPE_UINT8)
            return false;
    } else if (p->x != DTYPE_FLOAT) {
        return false;
    }
    if (input_at(n, at->y_zero) != VALUE_NONE && (!read_scalar(l, input_at(n, at->y_scale), &p->divisor) ||
                                                  !read_zero(l, input_at(n, at->y_zero), &p->y_zero, &p->y)))
        return false;
    p->q = (struct qconv){.c_in = k, .c_out = columns, .groups = 1, .kernel_h = 1, .kernel_w = 1, .dilation_w = 1,
                          .x_zero = (int32_t)a_zero};
    if (input_at(n, at->c) != VALUE_NONE) {
        p->bias = constant(l, input_at(n, at->c));
        if (!p->bias || p->bias->dtype != DTYPE_INT32 || tensor_count(p->bias) != columns ||
            (p->bias->shape.rank == 2 && p->bias->shape.dim[0] != 1))
            return false;
    }
    if (input_at(n, at->float_bias) != VALUE_NONE) {
        p->float_bias = constant(l, input_at(n, at->float_bias));
        if (!p->float_bias || p->float_bias->dtype != DTYPE_FLOAT || tensor_count(p->float_bias) != columns)
            return false;
    }
    return read_weight(l, input_at(n, at->b), input_at(n, at->b_scale), input_at(n, at->b_zero), columns, p,
                       zero_points);
}

static int pack_matmul(struct layout *l, uint32_t id, const struct places *at, struct err *err)
{
    const struct node n = l->m->nodes[id];
    const bool turned = at == &gemm_places && node_attr_int(&n, "transB", 0);
    struct product p = {.name = l->m->values[n.output[0]].name};
    int32_t *zero_points = NULL;
    uint8_t *straight = NULL;
    uint32_t in[5] = {n.input[0]};
    int rc = 0;

    if ((at == &gemm_places && node_attr_int(&n, "transA", 0)) || !read_matmul(l, &n, at, turned, &p, &zero_points))
        goto out;
    rc = -1;
    if (!turned) { /* one row a column, as a convolution's weight */
        straight = malloc((size_t)(p.q.c_in * p.q.c_out));
        if (!straight) {
            err_set(err, ERR_NOMEM, "out of memory");
            goto out;
        }
        for (int64_t k = 0; k < p.q.c_in; k++)
            for (int64_t j = 0; j < p.q.c_out; j++)
                straight[j * p.q.c_in + k] = ((const uint8_t *)p.w.data)[k * p.q.c_out + j];
        p.w.data = straight;
    }
    if (add_packed(l, &p, in, err) < 0)
        goto out;
    const uint32_t y = n.output[0];
    drop(l, id);
    const uint32_t made = add_node(l, "QMatMul", OP_DOMAIN_ENGINE, in, in[4] == VALUE_NONE ? 4 : 5, y, err);
    if (made == NODE_NONE)
        goto out;
    set_product_attrs(l, made, &p);
    if (p.y == DTYPE_FLOAT)
        node_set_int(l->m, made, "to_float", 1);
    if (at->dynamic)
        node_set_int(l->m, made, "dynamic", 1);
    rc = 0;
out:
    free(zero_points);
    free(straight);
    return rc;
}

static int pack_gemm(struct layout *l, uint32_t id, struct err *err)
{
    return pack_matmul(l, id, &gemm_places, err);
}
static int pack_qlinear_matmul(struct layout *l, uint32_t id, struct err *err)
{
    return pack_matmul(l, id, &matmul_places, err);
}
static int pack_to_float(struct layout *l, uint32_t id, struct err *err)
{
    return pack_matmul(l, id, &to_float_places, err);
}
static int pack_dynamic(struct layout *l, uint32_t id, struct err *err)
{
    return pack_matmul(l, id, &dynamic_places, err);
}

/* ---- operators that run on either layout ---- */
/* The same node on images with their channels last: `first` + i * step are its images, i < count. At least one of them
 * has that layout already. *made: the new node, or NODE_NONE. */
static int turn_node(struct layout *l, uint32_t id, const char *type, const char *domain, int first, int step,
                     uint32_t *made, struct err *err)
{
    const struct node n = l->m->nodes[id];
    bool any = false, all = true;

    *made = NODE_NONE;
    if (n.n_output != 1 || !may_turn(l, n.output[0]))
        return 0;
    for (int i = first; i < n.n_input; i += step) {
        const bool single = constant(l, n.input[i]) && tensor_count(constant(l, n.input[i])) == 1;
        any |= known_last(l, n.input[i]) != VALUE_NONE;
        all &= is_image(l, n.input[i]) || single;
    }
    if (!any || !all)
        return 0;
    const uint32_t y = add_value(l, n.output[0], l->o->type[n.output[0]].dtype, true, err);
    if (y == VALUE_NONE)
        return -1;
    *made = add_node(l, type, domain, n.input, n.n_input, y, err);
    if (*made == NODE_NONE)
        return -1;
    keep_attrs(l, *made, id);
    for (int i = first; i < n.n_input; i += step) {
        if (!is_image(l, n.input[i]))
            continue;
        const uint32_t x = last_of(l, n.input[i], err);
        if (x == VALUE_NONE || node_set_input(l->m, *made, i, x) < 0)
            return -1;
    }
    drop(l, id);
    l->last[n.output[0]] = y;
    return 0;
}

static int turn_binary(struct layout *l, uint32_t id, struct err *err)
{
    const struct node *n = &l->m->nodes[id];
    uint32_t made;
    if (n->n_input < 7)
        return 0;
    /* inputs 0 and 3 are the images; 6 is a scale: one value */
    return turn_node(l, id, n->op_type, n->domain, 0, 3, &made, err);
}

static int turn_unary(struct layout *l, uint32_t id, struct err *err)
{
    const struct node *n = &l->m->nodes[id];
    uint32_t made;
    return turn_node(l, id, n->op_type, n->domain, 0, 16, &made, err);
}

static int turn_pool(struct layout *l, uint32_t id, struct err *err)
{
    const struct node *n = &l->m->nodes[id];
    uint32_t made;
    if (node_attr_int(n, "channels_last", 0) || turn_node(l, id, n->op_type, n->domain, 0, 16, &made, err) < 0)
        return node_attr_int(n, "channels_last", 0) ? 0 : -1;
    if (made != NODE_NONE)
        node_set_int(l->m, made, "channels_last", 1);
    return 0;
}

static int turn_max(struct layout *l, uint32_t id, struct err *err)
{
    uint32_t made;
    return turn_node(l, id, "MaxPoolChannelsLast", OP_DOMAIN_ENGINE, 0, 16, &made, err);
}

static int turn_concat_from(struct layout *l, uint32_t id, int first, int step, struct err *err)
{
    const struct node *n = &l->m->nodes[id];
    const int64_t axis = node_attr_int(n, "axis", 1);
    static const int64_t turned[4] = {0, 3, 1, 2};
    uint32_t made;
    if (axis < -4 || axis > 3 || turn_node(l, id, n->op_type, n->domain, first, step, &made, err) < 0)
        return axis < -4 || axis > 3 ? 0 : -1;
    if (made != NODE_NONE)
        node_set_int(l->m, made, "axis", turned[axis < 0 ? axis + 4 : axis]);
    return 0;
}
static int turn_qconcat(struct layout *l, uint32_t id, struct err *err)
{
    return turn_concat_from(l, id, 2, 3, err);
}
static int turn_concat(struct layout *l, uint32_t id, struct err *err)
{
    return turn_concat_from(l, id, 0, 1, err);
}

/* ---- leaving the layout ---- */
/* A Transpose that puts the channels last: there already. */
static int undo_transpose(struct layout *l, uint32_t id, struct err *err)
{
    const struct node *n = &l->m->nodes[id];
    (void)err;
    if (!is_turn(n, to_last) || known_last(l, n->input[0]) == VALUE_NONE || value_is_graph_output(l->m, n->output[0]))
        return 0;
    model_replace_uses(l->m, n->output[0], l->last[n->input[0]], false);
    return 0;
}

static int leave_dequantize(struct layout *l, uint32_t id, struct err *err)
{
    const struct node n = l->m->nodes[id];
    if (n.n_input < 1 || known_last(l, n.input[0]) == VALUE_NONE || !is_plain_quantize(l, &n) ||
        type_of(l, n.output[0])->dtype != DTYPE_FLOAT)
        return 0;
    const uint32_t in[3] = {l->last[n.input[0]], n.input[1], n.input[2]};
    const uint32_t reader = optimize_single_reader(l->o, n.output[0]);
    if (reader != NODE_NONE && is_turn(&l->m->nodes[reader], to_last)) {
        const uint32_t out = l->m->nodes[reader].output[0];
        drop(l, reader);
        drop(l, id);
        return add_node(l, "DequantizeLinear", n.domain, in, 3, out, err) == NODE_NONE ? -1 : 0;
    }
    drop(l, id);
    return add_node(l, "DequantizeFromChannelsLast", OP_DOMAIN_ENGINE, in, 3, n.output[0], err) == NODE_NONE ? -1 : 0;
}

/* ---- BatchNormalization between integers ---- */
/* As `constant`, also of what a DequantizeLinear makes of one (quantizers quantize scale and bias too). */
static const struct tensor *evaluated(const struct layout *l, uint32_t v)
{
    const struct tensor *t = constant(l, v);
    if (!t && v < l->o->n_known && l->o->known[v].dtype != DTYPE_NONE)
        return &l->o->known[v];
    return t;
}

/* Its five constants as factor and offset a channel, between the stored values of x and y. */
static int add_affine(struct layout *l, const struct node *bn, const struct q8 *x, const struct q8 *y, int64_t channels,
                      uint32_t in[4], struct err *err)
{
    struct tensor factor = {0}, offset = {0};
    const float *p[4];
    const double epsilon = (double)node_attr_float(bn, "epsilon", 1e-5f);

    for (int i = 0; i < 4; i++)
        p[i] = tensor_f32(evaluated(l, bn->input[i + 1]));
    if (tensor_alloc(&factor, DTYPE_FLOAT, &SHAPE(channels), err) < 0 ||
        tensor_alloc(&offset, DTYPE_FLOAT, &SHAPE(channels), err) < 0) {
        tensor_fini(&factor);
        return -1;
    }
    for (int64_t c = 0; c < channels; c++) {
        const double gain = (double)p[0][c] / sqrt((double)p[3][c] + epsilon);
        const double shift = (double)p[1][c] - (double)p[2][c] * gain, scale = gain * (double)x->scale;
        tensor_f32(&factor)[c] = (float)(scale / (double)y->scale);
        tensor_f32(&offset)[c] = (float)((shift - scale * x->zero) / (double)y->scale + y->zero);
    }
    if (add_tensor(l, "factor", &factor, &in[1], err) < 0) {
        tensor_fini(&offset);
        return -1;
    }
    return add_tensor(l, "offset", &offset, &in[2], err);
}

static bool read_q8(const struct layout *l, const struct node *n, struct q8 *q)
{
    int64_t zero;
    enum dtype dtype;
    if (!is_plain_quantize(l, n) || !read_scalar(l, n->input[1], &q->scale) || !read_zero(l, n->input[2], &zero, &dtype))
        return false;
    q->zero = (int32_t)zero;
    q->is_signed = dtype == DTYPE_INT8;
    return q->scale > 0;
}

/* Zero point, scale and sign of the values a DequantizeFromChannelsLast reads; INT64_MIN: not constant. */
static int64_t node_zero(const struct layout *l, const struct node *n, float *scale, bool *is_signed)
{
    int64_t zero;
    enum dtype dtype;
    if (n->n_input != 3 || !read_scalar(l, n->input[1], scale) || !read_zero(l, n->input[2], &zero, &dtype))
        return INT64_MIN;
    *is_signed = dtype == DTYPE_INT8;
    return zero;
}

/* Per channel constants, and nothing but the first output is asked for. */
static bool plain_batchnorm(const struct layout *l, const struct node *n, int64_t channels)
{
    for (int i = 1; i < 5; i++) {
        const struct tensor *t = n->n_input == 5 ? evaluated(l, n->input[i]) : NULL;
        if (!t || t->dtype != DTYPE_FLOAT || tensor_count(t) != channels)
            return false;
    }
    return node_attr_int(n, "training_mode", 0) == 0 && (n->n_output == 1 || n->output[1] == VALUE_NONE) && channels > 0;
}

static int scale_batchnorm(struct layout *l, uint32_t id, struct err *err)
{
    const struct node bn = l->m->nodes[id];
    const uint32_t before = l->m->values[bn.input[0]].producer;
    struct q8 x, y;
    struct act act = {.kind = ACT_NONE};
    uint32_t in[4];

    if (before == NODE_NONE || strcmp(l->m->nodes[before].op_type, "DequantizeFromChannelsLast") != 0)
        return 0;
    const struct node from = l->m->nodes[before];
    uint32_t reader = optimize_single_reader(l->o, bn.output[0]);
    if (reader != NODE_NONE && fuse_read_act(l->o, reader, &act))
        reader = optimize_single_reader(l->o, l->m->nodes[reader].output[0]);
    if (reader == NODE_NONE || !is_op(&l->m->nodes[reader], "QuantizeLinear") ||
        !read_q8(l, &l->m->nodes[reader], &y) || !may_turn(l, l->m->nodes[reader].output[0]))
        return 0;
    const int64_t zero = node_zero(l, &from, &x.scale, &x.is_signed);
    const bool implied = act.kind == ACT_NONE || (act.kind == ACT_RELU && y.zero == q8_low(&y));
    const int64_t channels = type_of(l, from.input[0])->shape.dim[3];
    if (!implied || zero < INT16_MIN || !plain_batchnorm(l, &bn, channels))
        return 0;
    x.zero = (int32_t)zero;
    in[0] = from.input[0];
    in[3] = l->m->nodes[reader].input[2];
    const uint32_t out = l->m->nodes[reader].output[0], made = add_value(l, out, y.is_signed ? DTYPE_INT8 : DTYPE_UINT8,
                                                                         true, err);
    if (made == VALUE_NONE || add_affine(l, &bn, &x, &y, channels, in, err) < 0 ||
        add_node(l, "ScaleChannelsLast", OP_DOMAIN_ENGINE, in, 4, made, err) == NODE_NONE)
        return -1;
    drop(l, reader);
    drop(l, id);
    l->last[out] = made;
    return 0;
}

/* ---- the walk ---- */
static const struct rule {
    const char *op_type;
    int (*turn)(struct layout *l, uint32_t id, struct err *err);
} rules[] = {
    {"QLinearConv", turn_conv},
    {"QGemm", pack_gemm},
    {"QLinearMatMul", pack_qlinear_matmul},
    {"MatMulIntegerToFloat", pack_to_float},
    {"DynamicQuantizeMatMul", pack_dynamic},
    {"QLinearAdd", turn_binary},
    {"QLinearMul", turn_binary},
    {"QLinearSigmoid", turn_unary},
    {"QLinearLeakyRelu", turn_unary},
    {"QLinearAveragePool", turn_pool},
    {"QLinearGlobalAveragePool", turn_pool},
    {"QLinearConcat", turn_qconcat},
    {"Concat", turn_concat},
    {"MaxPool", turn_max},
    {"BatchNormalization", scale_batchnorm},
    {"Transpose", undo_transpose},
    {"DequantizeLinear", leave_dequantize},
};

static int walk(struct layout *l, struct err *err)
{
    const int n_nodes = model_main(l->m)->n_nodes; /* new ones are appended */

    for (int i = 0; i < n_nodes; i++) {
        const uint32_t id = model_main(l->m)->nodes[i];
        for (size_t k = 0; k < sizeof rules / sizeof rules[0] && l->m->nodes[id].op_type; k++)
            if (is_op(&l->m->nodes[id], rules[k].op_type)) {
                if (rules[k].turn(l, id, err) < 0)
                    return -1;
                break;
            }
    }
    return 0;
}

int fuse_qlayout(struct optimize *o, struct err *err)
{
    struct layout l = {.o = o, .m = o->m, .n = o->m->n_values};
    l.last = malloc((l.n + (size_t)1) * sizeof *l.last);
    if (!l.last)
        return err_set(err, ERR_NOMEM, "out of memory");
    memset(l.last, 0xff, (l.n + (size_t)1) * sizeof *l.last);
    int rc = walk(&l, err);
    for (uint32_t v = 0; v < l.n && rc == 0; v++) /* whose maker went: back under its old id */
        if (l.last[v] != VALUE_NONE && l.m->values[v].producer == NODE_NONE && !value_is_graph_input(l.m, v) &&
            !l.m->values[v].weight)
            rc = add_node(&l, "FromChannelsLast", OP_DOMAIN_ENGINE, &l.last[v], 1, v, err) == NODE_NONE ? -1 : 0;
    free(l.last);
    return rc;
}
