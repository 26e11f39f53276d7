/* SPDX-License-Identifier: Apache-2.0
 * dynamic_products.c - MatMul, Gemm and Conv for quantize.dynamic:
 *
 *   x -> DynamicQuantizeLinear -> MatMulInteger(xq, Wq, xz) -> Cast -> Mul(xs * ws) [-> Add bias]
 *
 * ONNX Runtime fuses the pattern into one DynamicQuantizeMatMul. One DynamicQuantizeLinear serves all products
 * that read x in one graph. A Gemm is written as a MatMul of the transposed weight, with alpha in the weight and
 * beta in the bias. Batches of constant matrices [.., K, N] have scales [.., 1, N]: ONNX Runtime's fused kernel
 * reads a scale of [N] or [.., 1, 1] beside such a weight wrongly, so only that shape, or a single number, is written.
 * ConvInteger: runtimes have no fast kernel, and none at all with int8 weights, so theirs are uint8 with zero
 * point 128. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/quant/dynamic.h"

/* Bytes that the nodes of a form take in a file, less those of the node they replace (names are short). */
enum { MATMUL_BYTES = 300, CONV_BYTES = 320 };
/* Sums of so many products of 8 bits fit into int32: (2^31 - 1) / (255 * 127). */
enum { LONGEST_SUM = 66311 };
enum { FORM_PLAIN, FORM_TURNED, FORM_CONV };

static bool is_turned(const struct node *n)
{
    return node_is(n, "Gemm") && node_attr_int(n, "transB", 0) != 0;
}

static float alpha_of(const struct node *n)
{
    return node_is(n, "Gemm") ? node_attr_float(n, "alpha", 1) : 1;
}

static bool describe(const struct dynamic *d, const struct node *n, const struct shape *w, struct matrices *s)
{
    *s = (struct matrices){.batch = 1, .turned = is_turned(n), .alpha = alpha_of(n),
                           .per_channel = d->opts->per_channel, .one_scale = true,
                           .dtype = d->opts->weights == DYNAMIC_UINT8 ? DTYPE_UINT8 : DTYPE_INT8};
    for (int i = 0; i + 2 < w->rank; i++)
        if (!i64_mul(s->batch, w->dim[i], &s->batch))
            return false;
    s->k = w->dim[w->rank - (s->turned ? 1 : 2)];
    s->n = w->dim[w->rank - (s->turned ? 2 : 1)];
    return true;
}

static const char *refuse_conv(struct dynamic *d, const struct node *n, const struct tensor *w)
{
    if (!d->opts->conv)
        return "convolutions run slower with dynamic quantization; conv=true takes them";
    if (w->shape.rank < 3 || w->shape.rank > 5)
        return "its weight has no or more than three spatial dims";
    if (n->n_input > 2 && n->input[2] != VALUE_NONE && !value_const(d->m, n->input[2]))
        return "its bias is not a constant";
    if (shape_count(&w->shape) / w->shape.dim[0] > LONGEST_SUM)
        return "sums of more than 66311 products of 8 bits do not fit into 32 bits";
    return dynamic_size_refusal(d, n->input[1], w->shape.dim[0], CONV_BYTES);
}

const char *dynamic_refuse_product(struct dynamic *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const struct tensor *w = dynamic_peek(d, n->input[1]);
    struct matrices s;
    if (infer_dtype_of(&d->infer, n->input[0]) != DTYPE_FLOAT && infer_dtype_of(&d->infer, n->input[0]) != DTYPE_NONE)
        return "its input is not float32";
    if (node_is(n, "Conv"))
        return refuse_conv(d, n, w);
    if (w->shape.rank < 2 || (node_is(n, "Gemm") && w->shape.rank != 2))
        return "its weight is not a matrix";
    if (node_is(n, "Gemm") && node_attr_int(n, "transA", 0) != 0)
        return "it transposes its input";
    if (!isfinite(alpha_of(n)))
        return "its alpha is not a finite number";
    if (!describe(d, n, &w->shape, &s) || s.k > LONGEST_SUM)
        return "sums of more than 66311 products of 8 bits do not fit into 32 bits";
    return dynamic_size_refusal(d, n->input[1], s.per_channel ? s.batch * s.n : 1, MATMUL_BYTES);
}

/* DynamicQuantizeLinear of x, made once a graph. */
static const uint32_t *quantized_input(struct dynamic *d, uint32_t graph, uint32_t x)
{
    struct quantized_input *in = &d->inputs[x];
    if (in->made && in->graph == graph)
        return in->out;
    uint32_t out[3] = {dynamic_fresh(d, graph, "q"), dynamic_fresh(d, graph, "s"), dynamic_fresh(d, graph, "z")};
    if (d->edit.failed || edit_add_node(&d->edit, graph, "DynamicQuantizeLinear", NULL, &x, 1, out, 3) == NODE_NONE)
        return NULL;
    memcpy(in->out, out, sizeof out);
    in->graph = graph;
    in->made = true;
    return in->out;
}

/* A constant bias times beta, for Conv as [C,1,..]. */
static uint32_t scaled_constant(struct dynamic *d, uint32_t graph, uint32_t bias, double beta, int spatial)
{
    const struct tensor *t = value_const(d->m, bias);
    struct tensor b = {0};
    struct shape shape = t->shape;
    int64_t count = 0;
    double *v = const_doubles(d->m, bias, &count);
    uint32_t id = VALUE_NONE;
    for (int i = 0; i < spatial; i++)
        shape.dim[shape.rank++] = 1;
    for (int64_t i = 0; v && i < count; i++)
        v[i] *= beta;
    if (v && tensor_from_doubles(&b, t->dtype, &shape, v, NULL) == 0)
        id = edit_add_weight(&d->edit, graph, d->m->values[bias].name, &b);
    else
        d->edit.failed = true;
    tensor_fini(&b);
    free(v);
    return id;
}

/* The bias in a shape that broadcasts against the product's output; VALUE_NONE: none. */
static uint32_t bias_of(struct dynamic *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const bool conv = node_is(n, "Conv");
    const float beta = node_is(n, "Gemm") ? node_attr_float(n, "beta", 1) : 1;
    const uint32_t graph = n->graph;
    if (node_is(n, "MatMul") || n->n_input < 3 || n->input[2] == VALUE_NONE)
        return VALUE_NONE;
    const uint32_t bias = n->input[2];
    if (value_const(d->m, bias) && (conv || beta != 1))
        return scaled_constant(d, graph, bias, (double)beta, conv ? dynamic_peek(d, n->input[1])->shape.rank - 2 : 0);
    if (beta == 1)
        return bias;
    struct tensor t = {0};
    if (tensor_alloc(&t, DTYPE_FLOAT, &SHAPE_SCALAR, NULL)) {
        d->edit.failed = true;
        return VALUE_NONE;
    }
    *tensor_f32(&t) = beta;
    const uint32_t in[2] = {bias, dynamic_constant_add(d, graph, "s", &t)};
    tensor_fini(&t);
    return dynamic_add(d, graph, "Mul", in, 2, "b");
}

/* Codes and scale in the shapes of the form. */
static int quantize_matrix(struct dynamic *d, const struct node *n, const struct tensor *w, struct qweight *q,
                           struct err *err)
{
    struct matrices s;
    if (!describe(d, n, &w->shape, &s))
        return err_set(err, ERR_MODEL, "the weight's dims overflow");
    if (dynamic_matrices(d, w, &s, q, err))
        return -1;
    struct shape shape = w->shape, scales = w->shape;
    shape.dim[shape.rank - 2] = s.k;
    shape.dim[shape.rank - 1] = s.n;
    q->codes.shape = shape;
    scales.dim[scales.rank - 2] = 1;
    if (!s.per_channel)
        q->scale.shape = SHAPE_SCALAR;
    else
        q->scale.shape = scales.rank == 2 ? SHAPE(s.n) : scales;
    return 0;
}

static int quantize_filters(struct dynamic *d, const struct tensor *w, struct qweight *q, struct err *err)
{
    const struct qweight_opts opts = {.dtype = DTYPE_UINT8, .per_channel = d->opts->per_channel, .isa = d->opts->isa};
    if (qweight_make(q, w, &opts, err))
        return -1;
    for (int i = 2; opts.per_channel && i < w->shape.rank; i++)
        q->scale.shape.dim[q->scale.shape.rank++] = 1;
    return 0;
}

static struct made_codes *codes_of(struct dynamic *d, uint32_t node, struct err *err)
{
    const struct node *n = &d->m->nodes[node];
    const bool conv = node_is(n, "Conv");
    const int form = conv ? FORM_CONV : is_turned(n) ? FORM_TURNED : FORM_PLAIN;
    struct tensor w = {0};
    struct qweight q = {0};
    uint32_t source;
    struct made_codes *made = NULL;
    if (!dynamic_constant(d, n->input[1], &w, &source)) {
        dynamic_nomem(err);
        return NULL;
    }
    if (conv ? quantize_filters(d, &w, &q, err) : quantize_matrix(d, n, &w, &q, err))
        goto out;
    made = dynamic_find_codes(d, source, form, alpha_of(n));
    if (!made)
        made = dynamic_keep_codes(d, source, form, alpha_of(n), &q);
    if (!made)
        dynamic_nomem(err);
    else
        dynamic_report(d, node, source, &q, conv ? "ConvInteger" : "MatMulInteger", NULL, true);
out:
    qweight_fini(&q);
    tensor_fini(&w);
    return made;
}

/* The integer product, which takes over the node's name, and what it needs of its attributes. */
static uint32_t add_product(struct dynamic *d, uint32_t node, const uint32_t *q, const struct made_codes *w)
{
    struct model *m = d->m;
    const bool conv = node_is(&m->nodes[node], "Conv");
    const uint32_t graph = m->nodes[node].graph, acc = dynamic_fresh(d, graph, "a");
    const bool unsigned_codes = value_const(m, w->codes)->dtype == DTYPE_UINT8;
    const uint32_t in[4] = {q[0], w->codes, q[2], unsigned_codes ? dynamic_zero128(d) : VALUE_NONE};
    if (d->edit.failed)
        return VALUE_NONE;
    const uint32_t product = edit_add_node(&d->edit, graph, conv ? "ConvInteger" : "MatMulInteger",
                                           m->nodes[node].name, in,
                                           unsigned_codes ? 4 : 3, &acc, 1);
    if (product != NODE_NONE && conv) { /* strides, pads, group, ... mean the same */
        m->nodes[product].attr = m->nodes[node].attr;
        m->nodes[product].n_attr = m->nodes[node].n_attr;
    }
    return acc;
}

int dynamic_convert_product(struct dynamic *d, uint32_t node, struct err *err)
{
    struct model *m = d->m;
    const uint32_t graph = m->nodes[node].graph, x = m->nodes[node].input[0], y = m->nodes[node].output[0];
    const struct made_codes *w = codes_of(d, node, err);
    if (!w)
        return -1;
    d->slow = d->slow || node_is(&m->nodes[node], "Conv");
    const uint32_t bias = bias_of(d, node), *q = d->edit.failed ? NULL : quantized_input(d, graph, x);
    if (!q)
        return dynamic_nomem(err);
    const uint32_t acc = add_product(d, node, q, w), real = dynamic_fresh(d, graph, "f"),
                   scale = dynamic_add(d, graph, "Mul", (uint32_t[]){q[1], w->scale}, 2, "m");
    const uint32_t cast = d->edit.failed ? NODE_NONE : edit_add_node(&d->edit, graph, "Cast", NULL, &acc, 1, &real, 1);
    if (cast == NODE_NONE)
        return dynamic_nomem(err);
    node_set_int(m, cast, "to", DTYPE_FLOAT);
    edit_remove_node(&d->edit, node);
    uint32_t last[2] = {real, scale};
    if (bias != VALUE_NONE) {
        last[0] = dynamic_add(d, graph, "Mul", last, 2, "p");
        last[1] = bias;
    }
    if (!d->edit.failed)
        edit_add_node(&d->edit, graph, bias != VALUE_NONE ? "Add" : "Mul", NULL, last, 2, &y, 1);
    return d->edit.failed ? dynamic_nomem(err) : 0;
}
