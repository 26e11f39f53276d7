/* SPDX-License-Identifier: Apache-2.0
 * fuse_patterns.c - functions that exporters write out in small nodes become one node again, for float32.
 *
 * Activations  f(x) = k x t(p(x)) with t one of 1 + erf, 1 + tanh, sigmoid, clip, and p a polynomial of degree 3
 *              at most: GELU in both forms, SiLU, hard swish. The polynomial is worked out from whatever order of Mul,
 *              Add, Sub, Div, Pow and Neg the exporter chose, so every spelling of a formula is the same to us. Which
 *              value x is is found by trying those that the polynomial is made from.
 * Also         hard sigmoid as clip(x + 3, 0, 6) / 6, Mish as x tanh(softplus(x)), and LayerNormalization as
 *              (x - mean) / sqrt(variance + epsilon) with scale and bias over the last axis. */
#include <math.h>
#include <string.h>

#include "core/engine/fuse_util.h"

enum { DEGREE = 3, MAX_DEPTH = 8, MAX_CANDIDATES = 12 };

/* ---- polynomials of one value ---- */
struct poly {
    double c[DEGREE + 1];
};

static bool poly_mul(const struct poly *a, const struct poly *b, struct poly *out)
{
    struct poly r = {{0}};
    for (int i = 0; i <= DEGREE; i++)
        for (int j = 0; j <= DEGREE; j++) {
            const double v = a->c[i] * b->c[j];
            if (v == 0)
                continue;
            if (i + j > DEGREE)
                return false;
            r.c[i + j] += v;
        }
    *out = r;
    return true;
}

static bool poly_power(const struct poly *a, float exponent, struct poly *out)
{
    *out = (struct poly){{1}};
    if (!(exponent >= 1 && exponent <= DEGREE) || exponent != floorf(exponent))
        return false;
    for (int i = 0; i < (int)exponent; i++)
        if (!poly_mul(a, out, out))
            return false;
    return true;
}

/* `value` as a polynomial of x. */
static bool poly_of(const struct optimize *o, uint32_t value, uint32_t x, int depth, struct poly *out)
{
    float number;
    struct poly a, b;
    *out = (struct poly){{0}};
    if (value == x) {
        out->c[1] = 1;
        return true;
    }
    if (fuse_scalar(o, value, &number)) {
        out->c[0] = (double)number;
        return isfinite(number);
    }
    const uint32_t maker = value == VALUE_NONE ? NODE_NONE : o->m->values[value].producer;
    if (depth == 0 || maker == NODE_NONE || !fuse_is_f32(o, value))
        return false;
    const struct node *n = &o->m->nodes[maker];
    if (n->n_input < 1 || node_attr(n, "axis") || !poly_of(o, n->input[0], x, depth - 1, &a))
        return false;
    if (node_is(n, "Neg"))
        return poly_mul(&a, &(struct poly){{-1}}, out);
    if (n->n_input != 2)
        return false;
    if (node_is(n, "Pow"))
        return fuse_scalar(o, n->input[1], &number) && poly_power(&a, number, out);
    if (!poly_of(o, n->input[1], x, depth - 1, &b))
        return false;
    if (node_is(n, "Mul"))
        return poly_mul(&a, &b, out);
    if (node_is(n, "Div") && b.c[0] != 0 && b.c[1] == 0 && b.c[2] == 0 && b.c[3] == 0)
        return poly_mul(&a, &(struct poly){{1 / b.c[0]}}, out);
    const double sign = node_is(n, "Add") ? 1 : node_is(n, "Sub") ? -1 : 0;
    for (int i = 0; i <= DEGREE; i++)
        out->c[i] = a.c[i] + sign * b.c[i];
    return sign != 0;
}

static bool poly_is(const struct poly *p, double c0, double c1, double c2, double c3)
{
    const double want[] = {c0, c1, c2, c3};
    for (int i = 0; i <= DEGREE; i++)
        if (fabs(p->c[i] - want[i]) > 1e-4 * fabs(want[i]))
            return false;
    return true;
}

/* Values that `value` may be a polynomial of, the nearest first. */
static int candidates(const struct optimize *o, uint32_t value, uint32_t x[MAX_CANDIDATES])
{
    int count = 1;
    x[0] = value;
    for (int at = 0; at < count; at++) {
        const uint32_t maker = o->m->values[x[at]].producer;
        if (maker == NODE_NONE || !model_domain_is_default(o->m->nodes[maker].domain))
            continue;
        const struct node *n = &o->m->nodes[maker];
        for (int i = 0; i < n->n_input && i < 2; i++) {
            bool known = n->input[i] == VALUE_NONE || !fuse_is_f32(o, n->input[i]) || value_const(o->m, n->input[i]);
            for (int k = 0; k < count && !known; k++)
                known = x[k] == n->input[i];
            if (!known && count < MAX_CANDIDATES)
                x[count++] = n->input[i];
        }
    }
    return count;
}

/* ---- activations ---- */
struct match {
    uint32_t last; /* node whose output is f(x) */
    uint32_t x;
    struct act act;
};

/* What t is multiplied with on its way down must become factor * x^degree. Returns the node where it is. */
static uint32_t multiplied(const struct optimize *o, uint32_t t, uint32_t x, double factor, int degree)
{
    struct poly product = {{1}}, u;
    uint32_t cur = t;
    for (int step = 0; step < 4; step++) {
        const uint32_t reader = optimize_single_reader(o, cur);
        if (reader == NODE_NONE)
            return NODE_NONE;
        const struct node *n = &o->m->nodes[reader];
        const uint32_t other = fuse_other(n, cur);
        if (!(node_is(n, "Mul") || (node_is(n, "Div") && n->input[0] == cur)) || node_attr(n, "axis") ||
            !poly_of(o, other, x, MAX_DEPTH, &u))
            return NODE_NONE;
        if (node_is(n, "Div")) {
            if (u.c[0] == 0 || u.c[1] != 0 || u.c[2] != 0 || u.c[3] != 0)
                return NODE_NONE;
            u = (struct poly){{1 / u.c[0]}};
        }
        if (!poly_mul(&product, &u, &product))
            return NODE_NONE;
        if (degree == 0 ? poly_is(&product, factor, 0, 0, 0) : poly_is(&product, 0, factor, 0, 0))
            return reader;
        cur = n->output[0];
    }
    return NODE_NONE;
}

/* t + 1 */
static uint32_t plus_one(const struct optimize *o, uint32_t t)
{
    const uint32_t reader = optimize_single_reader(o, t);
    float one;
    if (reader == NODE_NONE || !node_is(&o->m->nodes[reader], "Add") ||
        !fuse_scalar(o, fuse_other(&o->m->nodes[reader], t), &one) || one != 1)
        return VALUE_NONE;
    return o->m->nodes[reader].output[0];
}

/* Is p the argument of this function? Sets the activation, and factor and +1 that go with it. */
static bool argument_fits(const struct optimize *o, const struct node *n, const struct poly *p, struct act *act,
                          double *factor, bool *one)
{
    const double root = 0.79788456080286536; /* sqrt(2 / pi) */
    struct act inner;
    *factor = 0.5;
    *one = true;
    *act = (struct act){.kind = ACT_NONE};
    if (node_is(n, "Erf") && poly_is(p, 0, 0.70710678118654752, 0, 0)) {
        act->kind = ACT_GELU_ERF;
        return true;
    }
    if (node_is(n, "Tanh") && poly_is(p, 0, root, 0, root * 0.044715)) {
        act->kind = ACT_GELU_TANH;
        return true;
    }
    *one = false;
    *factor = 1;
    if (node_is(n, "Sigmoid") && p->c[1] != 0 && poly_is(p, 0, p->c[1], 0, 0)) {
        *act = (struct act){ACT_SWISH, (float)p->c[1], 0};
        return true;
    }
    act->kind = ACT_HARD_SWISH;
    if (node_is(n, "HardSigmoid") && poly_is(p, 0, 1, 0, 0))
        return fabsf(node_attr_float(n, "alpha", 0.2f) - 1.0f / 6) < 1e-5f && node_attr_float(n, "beta", 0.5f) == 0.5f;
    *factor = 1.0 / 6;
    return node_is(n, "Clip") && fuse_read_act(o, o->m->values[n->output[0]].producer, &inner) && inner.a == 0 &&
           inner.b == 6 && poly_is(p, 3, 1, 0, 0);
}

static bool matches(const struct optimize *o, const struct node *n, uint32_t x, struct match *found)
{
    struct poly p;
    double factor;
    bool one;
    if (!poly_of(o, n->input[0], x, MAX_DEPTH, &p) || !argument_fits(o, n, &p, &found->act, &factor, &one))
        return false;
    const uint32_t t = one ? plus_one(o, n->output[0]) : n->output[0];
    if (t == VALUE_NONE)
        return false;
    found->x = x;
    found->last = multiplied(o, t, x, factor, 1);
    if (found->last == NODE_NONE && node_is(n, "Clip")) {
        found->act = (struct act){ACT_HARD_SIGMOID, 1.0f / 6, 0.5f};
        found->last = multiplied(o, t, x, factor, 0);
    }
    return found->last != NODE_NONE;
}

static bool is_mish(const struct optimize *o, const struct node *n, struct match *found)
{
    const uint32_t inner = node_is(n, "Tanh") ? fuse_maker(o, n->input[0], "Softplus") : NODE_NONE;
    if (inner == NODE_NONE)
        return false;
    found->x = o->m->nodes[inner].input[0];
    found->act = (struct act){.kind = ACT_MISH};
    found->last = multiplied(o, n->output[0], found->x, 1, 1);
    return found->last != NODE_NONE;
}

static bool find_activation(const struct optimize *o, uint32_t id, struct match *found)
{
    static const char *const starts[] = {"Erf", "Tanh", "Sigmoid", "HardSigmoid", "Clip"};
    const struct node *n = &o->m->nodes[id];
    uint32_t x[MAX_CANDIDATES];
    bool start = false;
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++)
        start = start || node_is(n, starts[i]);
    if (!start || n->graph != 0 || n->n_input < 1 || !fuse_is_f32(o, n->input[0]))
        return false;
    if (is_mish(o, n, found))
        return true;
    const int count = candidates(o, n->input[0], x);
    for (int i = 0; i < count; i++)
        if (matches(o, n, x[i], found))
            return true;
    return false;
}

static int fuse_activation(struct optimize *o, uint32_t id, struct err *err)
{
    struct match found;
    if (!find_activation(o, id, &found))
        return 0;
    const uint32_t y = o->m->nodes[found.last].output[0];
    if (!fuse_is_f32(o, y) || o->type[y].shape.rank < 0 || o->type[y].shape.rank != o->type[found.x].shape.rank)
        return 0; /* a constant brought axes along */
    if (fuse_become(o->m, found.last, "Activation", OP_DOMAIN_ENGINE, &found.x, 1, err))
        return -1;
    fuse_set_act(o->m, found.last, &found.act);
    return 0;
}

/* ---- LayerNormalization ---- */
/* The value whose mean over the last axis, kept, this is. */
static uint32_t mean_of(const struct optimize *o, uint32_t value)
{
    const uint32_t id = fuse_maker(o, value, "ReduceMean");
    if (id == NODE_NONE)
        return VALUE_NONE;
    const struct node *n = &o->m->nodes[id];
    const struct attr *axes = node_attr(n, "axes");
    const int rank = o->type[n->input[0]].shape.rank;
    int64_t axis;
    if (axes && axes->type == ATTR_INTS && axes->count == 1) {
        axis = axes->ints[0];
    } else {
        const struct tensor *t = n->n_input > 1 && n->input[1] != VALUE_NONE ? value_const(o->m, n->input[1]) : NULL;
        if (axes || !t || t->dtype != DTYPE_INT64 || tensor_count(t) != 1 || !t->data)
            return VALUE_NONE;
        axis = tensor_i64(t)[0];
    }
    if (rank < 1 || node_attr_int(n, "keepdims", 1) != 1 || (axis != -1 && axis != rank - 1))
        return VALUE_NONE;
    return n->input[0];
}

/* The value whose square this is. */
static uint32_t root_of_square(const struct optimize *o, uint32_t value)
{
    float two;
    uint32_t id = fuse_maker(o, value, "Pow");
    if (id != NODE_NONE && o->m->nodes[id].n_input == 2 && fuse_scalar(o, o->m->nodes[id].input[1], &two) && two == 2)
        return o->m->nodes[id].input[0];
    id = fuse_maker(o, value, "Mul");
    if (id != NODE_NONE && o->m->nodes[id].n_input == 2 && o->m->nodes[id].input[0] == o->m->nodes[id].input[1])
        return o->m->nodes[id].input[0];
    return VALUE_NONE;
}

/* x - mean(x): x, or VALUE_NONE */
static uint32_t centred(const struct optimize *o, uint32_t value)
{
    const uint32_t id = fuse_maker(o, value, "Sub");
    if (id == NODE_NONE || o->m->nodes[id].n_input != 2)
        return VALUE_NONE;
    const uint32_t x = o->m->nodes[id].input[0];
    return x != VALUE_NONE && mean_of(o, o->m->nodes[id].input[1]) == x ? x : VALUE_NONE;
}

/* sqrt(mean(square) + epsilon): the value that is squared */
static uint32_t deviation(const struct optimize *o, uint32_t value, float *epsilon)
{
    const uint32_t root = fuse_maker(o, value, "Sqrt");
    const uint32_t sum = root == NODE_NONE ? NODE_NONE : fuse_maker(o, o->m->nodes[root].input[0], "Add");
    if (sum == NODE_NONE || o->m->nodes[sum].n_input != 2)
        return VALUE_NONE;
    const struct node *n = &o->m->nodes[sum];
    const int at = fuse_scalar(o, n->input[1], epsilon) ? 0 : 1;
    if (at == 1 && !fuse_scalar(o, n->input[0], epsilon))
        return VALUE_NONE;
    const uint32_t square = mean_of(o, n->input[at]);
    return square == VALUE_NONE ? VALUE_NONE : root_of_square(o, square);
}

/* The only reader of y is this arithmetic with a constant of one value a column: the constant. */
static uint32_t column_constant(const struct optimize *o, uint32_t y, const char *op_type, uint32_t *reader)
{
    const int rank = o->type[y].shape.rank;
    *reader = optimize_single_reader(o, y);
    if (*reader == NODE_NONE || !node_is(&o->m->nodes[*reader], op_type) || node_attr(&o->m->nodes[*reader], "axis"))
        return VALUE_NONE;
    const uint32_t other = fuse_other(&o->m->nodes[*reader], y);
    const struct tensor *t = other == VALUE_NONE ? NULL : value_const(o->m, other);
    if (!t || t->dtype != DTYPE_FLOAT || t->shape.rank != 1 || rank < 1 ||
        t->shape.dim[0] != o->type[y].shape.dim[rank - 1])
        return VALUE_NONE;
    return other;
}

static int fuse_layernorm(struct optimize *o, uint32_t id, struct err *err)
{
    const struct node *n = &o->m->nodes[id];
    float epsilon;
    uint32_t reader;
    if (!node_is(n, "Div") || n->graph != 0 || n->n_input != 2 || !fuse_is_f32(o, n->output[0]))
        return 0;
    const uint32_t x = centred(o, n->input[0]), squared = deviation(o, n->input[1], &epsilon);
    if (x == VALUE_NONE || squared == VALUE_NONE || centred(o, squared) != x || !(epsilon > 0))
        return 0;
    const uint32_t scale = column_constant(o, n->output[0], "Mul", &reader);
    if (scale == VALUE_NONE)
        return 0;
    uint32_t in[3] = {x, scale, VALUE_NONE}, last = reader;
    in[2] = column_constant(o, o->m->nodes[last].output[0], "Add", &reader);
    if (in[2] != VALUE_NONE)
        last = reader;
    if (fuse_become(o->m, last, "LayerNormalization", OP_DOMAIN_ENGINE, in, in[2] == VALUE_NONE ? 2 : 3, err))
        return -1;
    node_set_float(o->m, last, "epsilon", epsilon);
    return 0;
}

int fuse_patterns(struct optimize *o, struct err *err)
{
    const uint32_t n = o->m->n_nodes;
    for (uint32_t id = 0; id < n; id++)
        if (o->m->nodes[id].op_type && (fuse_activation(o, id, err) || fuse_layernorm(o, id, err)))
            return -1;
    return 0;
}
