/* SPDX-License-Identifier: Apache-2.0
 * dequantize_dynamic.c - products whose activations were quantized while running, or whose integer sums were scaled by
 * nodes of their own, as float products.
 *   DynamicQuantizeLinear(x)                   its codes stand for x
 *   MatMulInteger, ConvInteger -> Cast -> Mul  sum (a - za)(b - zb) times s, where s = sa sb: MatMul(x, (b - zb) sb)
 *   DynamicQuantizeMatMul, MatMulIntegerToFloat, QAttention: the scales are inputs */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/quant/dequantize_forms.h"

static uint32_t input(const struct node *n, int slot)
{
    return slot < n->n_input ? n->input[slot] : VALUE_NONE;
}

const char *undo_dynamic_quantize(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    if (n->n_input != 1 || n->n_output != 3 || n->output[0] == VALUE_NONE || n->output[1] == VALUE_NONE)
        return "it has not the outputs of a DynamicQuantizeLinear";
    const struct coded c = {.codes = n->output[0], .scale = n->output[1], .zero = n->output[2], .dtype = DTYPE_UINT8};
    if (n->input[0] != VALUE_NONE)
        deq_set_twin(d, c.codes, n->input[0], &c);
    return NULL; /* the node goes when nobody reads it any more */
}

/* ---- integer sums ---- */
struct sums {
    uint32_t cast, mul, out; /* the nodes behind the product, and what they make */
    uint32_t scale;          /* what the sums are multiplied by */
};

/* The product's only reader casts to float, and that one's only reader multiplies. */
static bool follow_sums(struct deq *d, uint32_t node, struct sums *s)
{
    const struct model *m = d->m;
    const struct node *n = &m->nodes[node];
    if (n->n_output != 1 || n->output[0] == VALUE_NONE)
        return false;
    s->cast = edit_only_reader(&d->edit, n->output[0]);
    if (s->cast == NODE_NONE || !node_is(&m->nodes[s->cast], "Cast") ||
        !dtype_is_float((enum dtype)node_attr_int(&m->nodes[s->cast], "to", 0)))
        return false;
    const uint32_t real = m->nodes[s->cast].output[0];
    s->mul = edit_only_reader(&d->edit, real);
    if (s->mul == NODE_NONE || !node_is(&m->nodes[s->mul], "Mul") || m->nodes[s->mul].n_input != 2)
        return false;
    s->scale = m->nodes[s->mul].input[m->nodes[s->mul].input[0] == real ? 1 : 0];
    s->out = m->nodes[s->mul].output[0];
    return s->scale != real && s->scale != VALUE_NONE;
}

/* What the weight's scale must be, so that x times the float weight is what the sums times `scale` were. *rest: a value
 * with the numbers (constant), or that of the second operand's own scale; VALUE_NONE: one. *factor goes on top. */
static bool split_scale(struct deq *d, uint32_t scale, uint32_t x_scale, uint32_t *rest, double *factor)
{
    const struct model *m = d->m;
    const struct tensor *xs = value_const(m, x_scale);
    const uint32_t p = m->values[scale].producer;
    *factor = 1;
    *rest = VALUE_NONE;
    if (scale == x_scale)
        return true;
    if (p != NODE_NONE && node_is(&m->nodes[p], "Mul") && m->nodes[p].n_input == 2 &&
        (m->nodes[p].input[0] == x_scale || m->nodes[p].input[1] == x_scale)) {
        *rest = m->nodes[p].input[m->nodes[p].input[0] == x_scale ? 1 : 0];
        return *rest != VALUE_NONE;
    }
    if (!xs || !xs->data || tensor_count(xs) != 1 || !value_const(m, scale) ||
        !(fabs(dtype_get(xs->dtype, xs->data, 0)) > 0))
        return false;
    *rest = scale;
    *factor = 1 / dtype_get(xs->dtype, xs->data, 0);
    return true;
}

/* Numbers of a scale that may be shaped [C, 1, 1] as a flat constant. */
static uint32_t flat_scale(struct deq *d, uint32_t rest, double factor, int64_t channels)
{
    struct tensor t = {0};
    int64_t count = 1;
    double one = 1, *own = rest != VALUE_NONE ? deq_numbers(d, rest, &count) : NULL, *v = own ? own : &one;
    uint32_t id = VALUE_NONE;
    if ((rest == VALUE_NONE || own) && (count == 1 || count == channels)) {
        for (int64_t i = 0; i < count; i++)
            v[i] *= factor;
        if (tensor_from_doubles(&t, DTYPE_FLOAT, count == 1 ? &SHAPE_SCALAR : &SHAPE(count), v, NULL) == 0)
            id = deq_constant(d, "scale", &t);
        tensor_fini(&t);
    }
    free(own);
    return id;
}

/* The second operand in float: a constant with the scale the sums took, or the twin of codes quantized while
 * running. */
static const char *second_operand(struct deq *d, uint32_t node, const struct sums *s, uint32_t x_scale,
                                  int axis_from_end, uint32_t *w)
{
    const struct node *n = &d->m->nodes[node];
    const uint32_t codes = n->input[1];
    const struct tensor *t = value_const(d->m, codes);
    double factor;
    uint32_t rest;
    const char *why = NULL;
    if (!split_scale(d, s->scale, x_scale, &rest, &factor))
        return "its sums are not multiplied by its operands' scales";
    struct coded c = {.codes = codes, .zero = input(n, 3)};
    if (!t) {
        c.scale = rest;
        if (rest == VALUE_NONE || factor != 1 || !deq_has_twin(d, codes) || !coded_alike(d->m, &c, &d->meaning[codes]))
            return "its second operand is neither constant nor quantized with the scale its sums take";
        *w = deq_twin(d, codes);
        return NULL;
    }
    if (t->shape.rank < 1)
        return "its weight is a scalar";
    c.axis = axis_from_end < 0 ? t->shape.rank + axis_from_end : axis_from_end;
    if (c.axis < 0)
        return "its weight has too few axes";
    c.dtype = t->dtype;
    c.scale = flat_scale(d, rest, factor, t->shape.dim[c.axis]);
    if (c.scale == VALUE_NONE)
        return "its sums are multiplied by something that is not a scale for each output channel";
    *w = deq_read(d, &c, &why);
    return why;
}

static const char *undo_sums(struct deq *d, uint32_t node, const char *op, int axis_from_end)
{
    const struct node *n = &d->m->nodes[node];
    struct sums s;
    uint32_t w = VALUE_NONE;
    if (n->n_input < 2 || n->input[0] == VALUE_NONE || n->input[1] == VALUE_NONE || !follow_sums(d, node, &s))
        return "its integer sums do not go through a Cast and a Mul to float";
    if (!deq_has_twin(d, n->input[0]))
        return "its input is not quantized in the model";
    struct coded read = {.codes = n->input[0], .zero = input(n, 2), .scale = d->meaning[n->input[0]].scale};
    if (!coded_alike(d->m, &read, &d->meaning[n->input[0]]))
        return "it takes another zero point than its input was quantized with";
    const char *why = second_operand(d, node, &s, read.scale, axis_from_end, &w);
    if (why)
        return why;
    const uint32_t in[2] = {deq_twin(d, read.codes), w}, codes = d->m->nodes[node].input[1];
    deq_report_weight(d, node, codes, w);
    edit_remove_node(&d->edit, s.mul);
    edit_remove_node(&d->edit, s.cast);
    deq_replace(d, node, "", op, in, 2, s.out);
    return NULL;
}

const char *undo_matmul_integer(struct deq *d, uint32_t node)
{
    return undo_sums(d, node, "MatMul", -1);
}

const char *undo_conv_integer(struct deq *d, uint32_t node)
{
    return undo_sums(d, node, "Conv", 0);
}

/* ---- float results from com.microsoft ---- */
static void write_product(struct deq *d, uint32_t node, const uint32_t in[2], uint32_t bias)
{
    const uint32_t out = d->m->nodes[node].output[0], graph = d->m->values[out].graph;
    const uint32_t product = bias == VALUE_NONE ? out : deq_value(d, out, "product");
    deq_replace(d, node, "", "MatMul", in, 2, product);
    if (bias != VALUE_NONE && !d->edit.failed)
        edit_add_node(&d->edit, graph, "Add", NULL, (uint32_t[]){product, bias}, 2, &out, 1);
}

const char *undo_dynamic_matmul(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const char *why = NULL;
    if (n->n_input < 3 || n->input[0] == VALUE_NONE || n->input[1] == VALUE_NONE)
        return "it has not the inputs of a DynamicQuantizeMatMul";
    const struct coded w = coded_at(d, node, 1, 2, 3, -1);
    const uint32_t bias = input(n, 4), x = n->input[0], codes = w.codes, value = deq_read(d, &w, &why);
    if (why)
        return why;
    deq_report_weight(d, node, codes, value);
    write_product(d, node, (uint32_t[]){x, value}, bias);
    return NULL;
}

const char *undo_to_float(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const char *why = NULL;
    if (n->n_input < 4)
        return "it has not the inputs of a MatMulIntegerToFloat";
    const struct coded a = coded_at(d, node, 0, 2, 4, -2), b = coded_at(d, node, 1, 3, 5, -1);
    const uint32_t bias = input(n, 6), x = deq_read(d, &a, &why), w = why ? VALUE_NONE : deq_read(d, &b, &why);
    if (why)
        return why;
    deq_report_weight(d, node, b.codes, w);
    write_product(d, node, (uint32_t[]){x, w}, bias);
    return NULL;
}

/* QAttention  input, weight, bias, input_scale, weight_scale, mask_index, input_zero, weight_zero, past
 * Attention   input, weight, bias, mask_index, past */
const char *undo_attention(struct deq *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const char *why = NULL;
    if (n->n_input < 5)
        return "it has not the inputs of a QAttention";
    const struct coded a = coded_at(d, node, 0, 3, 6, 0), b = coded_at(d, node, 1, 4, 7, -1);
    const uint32_t rest[3] = {input(n, 2), input(n, 5), input(n, 8)};
    const uint32_t x = deq_read(d, &a, &why), w = why ? VALUE_NONE : deq_read(d, &b, &why);
    if (why)
        return why;
    deq_report_weight(d, node, b.codes, w);
    edit_cut_inputs(&d->edit, node, 5);
    edit_set_input(&d->edit, node, 0, x);
    edit_set_input(&d->edit, node, 1, w);
    edit_set_input(&d->edit, node, 2, rest[0]);
    edit_set_input(&d->edit, node, 3, rest[1]);
    edit_set_input(&d->edit, node, 4, rest[2]);
    if (rest[2] == VALUE_NONE)
        edit_cut_inputs(&d->edit, node, rest[1] == VALUE_NONE ? 3 : 4);
    d->m->nodes[node].op_type = d->written = "Attention";
    return NULL;
}
