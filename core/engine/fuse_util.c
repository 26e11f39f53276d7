/* SPDX-License-Identifier: Apache-2.0
 * fuse_util.c - see fuse_util.h. */
#include "core/engine/fuse_util.h"

#include <float.h>
#include <string.h>

uint32_t fuse_maker(const struct optimize *o, uint32_t value, const char *op_type)
{
    if (value == VALUE_NONE)
        return NODE_NONE;
    const uint32_t maker = o->m->values[value].producer;
    if (maker == NODE_NONE || !o->m->nodes[maker].op_type || o->m->nodes[maker].graph != 0 ||
        !node_is(&o->m->nodes[maker], op_type))
        return NODE_NONE;
    return maker;
}

bool fuse_scalar(const struct optimize *o, uint32_t value, float *number)
{
    const struct tensor *t = value == VALUE_NONE ? NULL : value_const(o->m, value);
    if (!t || t->dtype != DTYPE_FLOAT || tensor_count(t) != 1 || !t->data)
        return false;
    *number = tensor_f32(t)[0];
    return true;
}

uint32_t fuse_other(const struct node *n, uint32_t value)
{
    if (n->n_input != 2 || (n->input[0] == value) == (n->input[1] == value))
        return VALUE_NONE;
    return n->input[n->input[0] == value ? 1 : 0];
}

bool fuse_is_f32(const struct optimize *o, uint32_t value)
{
    return value != VALUE_NONE && value < o->cap_type && o->type[value].kind == TYPE_TENSOR &&
           o->type[value].dtype == DTYPE_FLOAT;
}

bool fuse_same_shape(const struct optimize *o, uint32_t a, uint32_t b)
{
    if (a == VALUE_NONE || b == VALUE_NONE || a >= o->cap_type || b >= o->cap_type)
        return false;
    const struct shape *x = &o->type[a].shape, *y = &o->type[b].shape;
    if (x->rank < 0 || x->rank != y->rank)
        return false;
    for (int i = 0; i < x->rank; i++)
        if (x->dim[i] != y->dim[i] || x->dim[i] == DIM_UNKNOWN)
            return false;
    return true;
}

/* ---- activations ---- */
static bool clip_bounds(const struct optimize *o, const struct node *n, struct act *act)
{
    act->a = -FLT_MAX;
    act->b = FLT_MAX;
    if (model_opset(o->m, "") < 11) {
        act->a = node_attr_float(n, "min", act->a);
        act->b = node_attr_float(n, "max", act->b);
        return act->a <= act->b;
    }
    if (n->n_input > 1 && n->input[1] != VALUE_NONE && !fuse_scalar(o, n->input[1], &act->a))
        return false;
    if (n->n_input > 2 && n->input[2] != VALUE_NONE && !fuse_scalar(o, n->input[2], &act->b))
        return false;
    return act->a <= act->b;
}

static bool gelu_kind(const struct node *n, struct act *act)
{
    const struct attr *a = node_attr(n, "approximate");
    const bool tanh_form = a && a->type == ATTR_STRING && a->count == 1 && strcmp(a->strings->data, "tanh") == 0;
    act->kind = tanh_form ? ACT_GELU_TANH : ACT_GELU_ERF;
    return true;
}

static bool engine_act(const struct node *n, struct act *act)
{
    const struct attr *a = node_attr(n, "activation");
    for (int i = 0; a && a->type == ATTR_STRING && i < ACT_KINDS; i++)
        if (strcmp(a->strings->data, act_names[i]) == 0) {
            *act = (struct act){(enum act_kind)i, node_attr_float(n, "alpha", 0), node_attr_float(n, "beta", 0)};
            return true;
        }
    return false;
}

/* Operators of one input whose constants are attributes; a name of NULL: no such constant. */
static const struct {
    const char *op_type;
    enum act_kind kind;
    const char *a, *b;
    float a_default, b_default;
} plain[] = {
    {"Relu", ACT_RELU, NULL, NULL, 0, 0},
    {"LeakyRelu", ACT_LEAKY_RELU, "alpha", NULL, 0.01f, 0},
    {"Sigmoid", ACT_SIGMOID, NULL, NULL, 0, 0},
    {"Tanh", ACT_TANH, NULL, NULL, 0, 0},
    {"HardSigmoid", ACT_HARD_SIGMOID, "alpha", "beta", 0.2f, 0.5f},
    {"HardSwish", ACT_HARD_SWISH, NULL, NULL, 0, 0},
    {"Swish", ACT_SWISH, "alpha", NULL, 1, 0},
    {"Softplus", ACT_SOFTPLUS, NULL, NULL, 0, 0},
};

bool fuse_read_act(const struct optimize *o, uint32_t node, struct act *act)
{
    const struct node *n = &o->m->nodes[node];
    *act = (struct act){.kind = ACT_NONE};
    if (n->n_input < 1 || n->n_output != 1 || !fuse_is_f32(o, n->output[0]))
        return false;
    if (n->domain && strcmp(n->domain, OP_DOMAIN_ENGINE) == 0)
        return n->n_input == 1 && strcmp(n->op_type, "Activation") == 0 && engine_act(n, act);
    if (!model_domain_is_default(n->domain))
        return false;
    if (strcmp(n->op_type, "Clip") == 0) {
        act->kind = ACT_CLIP;
        return clip_bounds(o, n, act);
    }
    if (strcmp(n->op_type, "Gelu") == 0)
        return gelu_kind(n, act);
    for (size_t i = 0; i < sizeof plain / sizeof plain[0]; i++)
        if (strcmp(n->op_type, plain[i].op_type) == 0) {
            act->kind = plain[i].kind;
            act->a = plain[i].a ? node_attr_float(n, plain[i].a, plain[i].a_default) : 0;
            act->b = plain[i].b ? node_attr_float(n, plain[i].b, plain[i].b_default) : 0;
            return true;
        }
    return false;
}

void fuse_set_act(struct model *m, uint32_t node, const struct act *act)
{
    node_set_string(m, node, "activation", act_names[act->kind]);
    node_set_float(m, node, "alpha", act->a);
    node_set_float(m, node, "beta", act->b);
}

int fuse_become(struct model *m, uint32_t node, const char *op_type, const char *domain, const uint32_t *in, int n_in,
                struct err *err)
{
    struct node *n = &m->nodes[node];
    uint32_t *input = model_alloc(m, (size_t)n_in + 1, sizeof *input);
    if (!input)
        return err_set(err, ERR_NOMEM, "out of memory");
    memcpy(input, in, (size_t)n_in * sizeof *in);
    n = &m->nodes[node];
    n->op_type = op_type;
    n->domain = domain;
    n->overload = NULL;
    n->input = input;
    n->n_input = n_in;
    n->attr = NULL;
    n->n_attr = 0;
    return 0;
}
