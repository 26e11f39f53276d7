/* SPDX-License-Identifier: Apache-2.0
 * qat_model.c - the twin of a quantized model (qat_model.h): which nodes quantize what, and their FakeQuantize. Only
 * the main graph is looked at. What is no plain quantization stays as it is: codes of one number, codes that are an
 * output of the model, float8. */
#include "core/train/qat_model.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/edit.h"
#include "core/passes/weights.h"

struct maker {
    struct qat_model *q;
    struct edit edit; /* of the twin */
    const struct globs *include, *exclude;
    bool learn;
};

static bool is_quant(const struct node *n, const char *type)
{
    return n->op_type && !strcmp(n->op_type, type) &&
           (model_domain_is_default(n->domain) || !strcmp(n->domain, "com.microsoft"));
}

/* Forms that compute on codes themselves. */
static int refuse_other_forms(const struct model *m, uint32_t node, struct err *err)
{
    static const struct {
        const char *type, *what;
    } others[] = {
        {"QLinear", "quantize.static with format=qdq makes a form that can"},
        {"QGemm", "quantize.static with format=qdq makes a form that can"},
        {"MatMulNBits",
         "quantize.static with weights=int4, or quantize.weights with form=dequantize, makes a form that can"},
        {"GatherBlockQuantized", "quantize.weights with form=dequantize makes a form that can"},
        {"DynamicQuantize", "quantize.static makes a form that can"},
        {"MatMulInteger", "quantize.static makes a form that can"},
        {"ConvInteger", "quantize.static makes a form that can"},
    };
    char label[200];
    const char *type = m->nodes[node].op_type;
    for (size_t i = 0; type && i < sizeof others / sizeof *others; i++)
        if (!strncmp(type, others[i].type, strlen(others[i].type)))
            return err_set(err, ERR_MODEL, "node '%s' is %s, which train.qat cannot train; %s",
                           node_label(m, node, label, sizeof label), type, others[i].what);
    return 0;
}

/* ---- groups ---- */
static const struct tensor *scale_of(const struct model *m, const struct node *n)
{
    const struct tensor *t = n->n_input > 1 && n->input[1] != VALUE_NONE ? value_const(m, n->input[1]) : NULL;
    return t && t->dtype == DTYPE_FLOAT && t->data && m->values[n->input[1]].weight && tensor_count(t) > 0 ? t : NULL;
}

/* A scale of weights and the same number as a scale of activations are two groups. */
static int group_of(struct qat_model *q, uint32_t scale, bool weights, bool wanted)
{
    int i = 0;
    while (i < q->n_groups && (q->group[i].scale != scale || q->group[i].weights != weights))
        i++;
    if (i == q->n_groups)
        q->group[q->n_groups++] = (struct qat_group){
            .scale = scale, .ratio = VALUE_NONE, .count = tensor_count(value_const(q->m, scale)), .weights = weights};
    q->group[i].wanted = q->group[i].wanted || wanted;
    return i;
}

static int add_ratios(struct maker *k, struct err *err)
{
    struct qat_model *q = k->q;
    for (int i = 0; i < q->n_groups; i++) {
        struct qat_group *g = &q->group[i];
        const struct tensor *scale = value_const(q->m, g->scale);
        struct tensor t = {0};
        for (int64_t j = 0; j < g->count; j++)
            if (!((double)tensor_f32(scale)[j] >= (double)FLT_MIN) || !isfinite(tensor_f32(scale)[j]))
                return err_set(err, ERR_MODEL, "scale '%s' has the number %g; scales must be positive",
                               q->m->values[g->scale].name, (double)tensor_f32(scale)[j]);
        if (!k->learn || !g->wanted)
            continue;
        if (tensor_alloc(&t, DTYPE_FLOAT, &scale->shape, err))
            return -1;
        for (int64_t j = 0; j < g->count; j++)
            tensor_f32(&t)[j] = 1;
        g->ratio = edit_add_weight(&k->edit, 0, "scale_ratio", &t);
        tensor_fini(&t);
    }
    return k->edit.failed ? err_set(err, ERR_NOMEM, "out of memory") : 0;
}

/* ---- what quantizes what ---- */
/* The product that reads a value as its weight or bias, also through Transpose. */
static uint32_t product_of(struct maker *k, uint32_t value)
{
    for (int depth = 0; depth < 8; depth++) {
        const struct reader_list *readers = edit_readers(&k->edit, value);
        uint32_t next = VALUE_NONE;
        for (int i = 0; i < readers->count; i++) {
            const uint32_t id = readers->at[i].node;
            if (id == NODE_NONE)
                continue;
            const struct node *n = &k->q->twin->nodes[id];
            const struct op_class *op = node_class(k->q->twin, n);
            if (op && op->quant.kind == QUANT_COMPUTE)
                return id;
            if ((node_is(n, "Transpose") || node_is(n, "Identity")) && n->n_output == 1)
                next = n->output[0];
        }
        if (next == VALUE_NONE)
            break;
        value = next;
    }
    return NODE_NONE;
}

static bool selected(const struct maker *k, uint32_t node)
{
    char label[256];
    return globs_select(k->include, k->exclude, node_label(k->q->m, node, label, sizeof label));
}

static bool trainable_codes(enum dtype d)
{
    return dtype_is_integer(d) && dtype_bits(d) >= 4 && dtype_bits(d) <= 16;
}

static int find_pair(struct maker *k, uint32_t dq, uint32_t maker, struct err *err)
{
    struct qat_model *q = k->q;
    const struct node *d = &q->m->nodes[dq], *n = &q->m->nodes[maker];
    const uint32_t zeros[2] = {n->n_input > 2 ? n->input[2] : VALUE_NONE, d->n_input > 2 ? d->input[2] : VALUE_NONE};
    const struct tensor *a = scale_of(q->m, n), *b = scale_of(q->m, d);
    char label[200];
    const struct tensor *za = zeros[0] == VALUE_NONE ? NULL : value_const(q->m, zeros[0]),
                        *zb = zeros[1] == VALUE_NONE ? NULL : value_const(q->m, zeros[1]);
    const bool zeros_known = (zeros[0] == VALUE_NONE || za) && (zeros[1] == VALUE_NONE || zb);
    if (!a || !b || !zeros_known || !tensor_equal(a, b) || (za && zb && !tensor_equal(za, zb)) || (!za) != (!zb))
        return err_set(err, ERR_MODEL,
                       "QuantizeLinear '%s' and the DequantizeLinear behind it have no equal constant float32 scale "
                       "and zero point; train.qat works on the pairs that quantize.static makes",
                       node_label(q->m, maker, label, sizeof label));
    if (za && !trainable_codes(za->dtype))
        return 0;
    q->pair[q->n_pairs++] = (struct qat_pair){maker, dq, group_of(q, n->input[1], false, k->include->count == 0)};
    return 0;
}

static int find_weight(struct maker *k, uint32_t dq, struct err *err)
{
    struct qat_model *q = k->q;
    const struct node *d = &q->m->nodes[dq];
    const struct tensor *codes = &q->m->values[d->input[0]].weight->tensor;
    const uint32_t product = product_of(k, d->output[0]);
    const uint32_t zero = d->n_input > 2 ? d->input[2] : VALUE_NONE;
    const struct tensor *z = zero == VALUE_NONE ? NULL : value_const(q->m, zero);
    char label[200];
    if (!scale_of(q->m, d) || (zero != VALUE_NONE && !z))
        return err_set(err, ERR_MODEL, "node '%s' has no constant float32 scale or no constant zero point",
                       node_label(q->m, dq, label, sizeof label));
    for (int i = 0; i < q->n_weights; i++)
        if (q->weight[i].codes == d->input[0] && q->m->nodes[q->weight[i].dequantize].input[1] != d->input[1])
            return err_set(err, ERR_MODEL, "weight '%s' is read with two different scales; it has one to be trained",
                           q->m->values[d->input[0]].name);
    struct qat_weight w = {.dequantize = dq,
                           .codes = d->input[0],
                           .latent = VALUE_NONE,
                           .zero = zero,
                           .product = product,
                           .axis = node_attr_int(d, "axis", 1),
                           .block = node_attr_int(d, "block_size", 0),
                           .out_axis = -1};
    bool centered = dtype_min(codes->dtype) < 0;
    for (int64_t i = 0; z && i < tensor_count(z); i++)
        centered = centered && dtype_get(z->dtype, z->data, i) == 0;
    w.low = (int64_t)dtype_min(codes->dtype) + (centered && dtype_bits(codes->dtype) >= 8);
    w.high = (int64_t)dtype_max(codes->dtype);
    const struct op_class *op = product == NODE_NONE ? NULL : node_class(q->m, &q->m->nodes[product]);
    const struct note *latent = value_note(q->m, w.codes, "latent");
    if (op && d->output[0] == q->m->nodes[product].input[op->quant.weight] && tensor_count(scale_of(q->m, d)) > 1 &&
        w.block == 0 && centered && codes->dtype == DTYPE_INT8) {
        w.out_axis = (int)(w.axis < 0 ? w.axis + codes->shape.rank : w.axis);
        w.pairs = latent ? latent->text && !strcmp(latent->text, "pairs") : qat_pairs_hold(codes, w.out_axis);
    }
    w.group = group_of(q, d->input[1], true, product == NODE_NONE || selected(k, product));
    q->weight[q->n_weights++] = w;
    return 0;
}

/* The group of the DequantizeLinear that makes a value, -1. */
static int group_behind(const struct qat_model *q, uint32_t value, bool weights)
{
    for (int depth = 0; depth < 8 && value != VALUE_NONE && q->m->values[value].producer != NODE_NONE; depth++) {
        const uint32_t p = q->m->values[value].producer;
        const struct node *n = &q->m->nodes[p];
        for (int i = 0; !weights && i < q->n_pairs; i++)
            if (q->pair[i].dequantize == p)
                return q->pair[i].group;
        for (int i = 0; weights && i < q->n_weights; i++)
            if (q->weight[i].dequantize == p)
                return q->weight[i].group;
        if (!weights || n->n_input < 1 || (!node_is(n, "Transpose") && !node_is(n, "Identity")))
            return -1;
        value = n->input[0];
    }
    return -1;
}

static void find_bias(struct maker *k, uint32_t dq)
{
    struct qat_model *q = k->q;
    const struct node *d = &q->m->nodes[dq];
    const uint32_t product = product_of(k, d->output[0]);
    const struct op_class *op = product == NODE_NONE ? NULL : node_class(q->m, &q->m->nodes[product]);
    if (!op || !scale_of(q->m, d) || op->quant.bias < 1 || q->m->nodes[product].n_input <= op->quant.bias ||
        q->m->nodes[product].input[op->quant.bias] != d->output[0])
        return;
    for (int i = 0; i < q->n_biases; i++) /* codes read twice stay */
        if (q->bias[i].codes == d->input[0])
            return;
    q->bias[q->n_biases++] = (struct qat_bias){
        .dequantize = dq, .codes = d->input[0], .latent = VALUE_NONE, .product = product, .input = -1, .weight = -1};
}

static int find_all(struct maker *k, struct err *err)
{
    struct qat_model *q = k->q;
    const struct graph *g = model_main(q->m);
    for (int i = 0; i < g->n_nodes; i++) {
        const uint32_t id = g->nodes[i];
        const struct node *n = &q->m->nodes[id];
        if (!n->op_type)
            continue;
        if (refuse_other_forms(q->m, id, err))
            return -1;
        if (!is_quant(n, "DequantizeLinear") || n->n_input < 2 || n->input[0] == VALUE_NONE || n->n_output != 1)
            continue;
        const struct value *in = &q->m->values[n->input[0]];
        const uint32_t maker = in->producer;
        int rc = 0;
        if (in->weight && in->weight->tensor.data && in->weight->tensor.dtype == DTYPE_INT32)
            find_bias(k, id);
        else if (in->weight && in->weight->tensor.data && trainable_codes(in->weight->tensor.dtype) &&
                 tensor_count(&in->weight->tensor) > 1)
            rc = find_weight(k, id, err);
        else if (maker != NODE_NONE && is_quant(&q->m->nodes[maker], "QuantizeLinear"))
            rc = find_pair(k, id, maker, err);
        if (rc)
            return -1;
    }
    for (int i = 0; i < q->n_biases; i++) {
        q->bias[i].input = group_behind(q, q->m->nodes[q->bias[i].product].input[0], false);
        q->bias[i].weight = group_behind(q, q->m->nodes[q->bias[i].product].input[1], true);
    }
    if (q->n_weights == 0 && q->n_pairs == 0)
        return err_set(err, ERR_MODEL,
                       "the model has no QuantizeLinear or DequantizeLinear to simulate: train.qat needs "
                       "quantize.static (or quantize.weights with form=dequantize) before it in the recipe");
    return 0;
}

/* ---- floats from codes ---- */

int64_t qat_scale_at(const struct qat_weight *w, const struct shape *s, int64_t scales, int64_t i)
{
    if (scales == 1 && w->block == 0)
        return 0;
    const int axis = (int)(w->axis < 0 ? w->axis + s->rank : w->axis);
    const int64_t inner = shape_product(s, axis + 1, s->rank), length = s->dim[axis];
    const int64_t at = i / inner % length;
    if (w->block == 0)
        return at;
    return (i / inner / length * ((length + w->block - 1) / w->block) + at / w->block) * inner + i % inner;
}

static int make_latent(struct maker *k, struct qat_weight *w, struct err *err)
{
    struct qat_model *q = k->q;
    const struct tensor *codes = &q->m->values[w->codes].weight->tensor;
    const struct tensor *scale = value_const(q->m, q->group[w->group].scale);
    const struct tensor *zero = w->zero == VALUE_NONE ? NULL : value_const(q->m, w->zero);
    const struct note *note = value_note(q->m, w->codes, "latent"), *mask = value_note(q->m, w->codes, "mask");
    const float *from = note && note->tensor.dtype == DTYPE_FLOAT && shape_equal(&note->tensor.shape, &codes->shape)
                            ? tensor_f32(&note->tensor)
                            : NULL;
    const int64_t scales = tensor_count(scale);
    struct tensor t = {0};
    for (int i = 0; &q->weight[i] != w; i++)
        if (q->weight[i].codes == w->codes) {
            w->latent = q->weight[i].latent;
            return 0;
        }
    if (tensor_alloc(&t, DTYPE_FLOAT, &codes->shape, err))
        return -1;
    for (int64_t i = 0; i < tensor_count(&t); i++) {
        const int64_t at = qat_scale_at(w, &codes->shape, scales, i);
        const double s = (double)tensor_f32(scale)[at], code = dtype_get(codes->dtype, codes->data, i),
                     c = code - (zero ? dtype_get(zero->dtype, zero->data, at) : 0);
        double v = c * s; /* the floats reach to just within the half step around the code, which so is what it was */
        if (from && isfinite(from[i])) {
            const double room = 0.499 * s;
            v = (double)from[i];
            v = v < c * s - room && code > (double)w->low ? c * s - room : v;
            v = v > c * s + room && code < (double)w->high ? c * s + room : v;
        }
        tensor_f32(&t)[i] = (float)v;
    }
    if (w->pairs)
        qat_pairs_keep(&t, w->out_axis, tensor_f32(scale), scales);
    w->latent = edit_add_weight(&k->edit, 0, q->m->values[w->codes].name, &t);
    tensor_fini(&t);
    if (w->latent == VALUE_NONE)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (mask)
        value_set_note(q->twin, w->latent, "mask", NULL, &mask->tensor);
    return 0;
}

static int make_bias(struct maker *k, struct qat_bias *b, struct err *err)
{
    const struct model *m = k->q->m;
    const struct tensor *codes = &m->values[b->codes].weight->tensor;
    const struct tensor *scale = scale_of(m, &m->nodes[b->dequantize]);
    const int64_t n = tensor_count(codes), scales = tensor_count(scale);
    struct tensor t = {0};
    if (scales != 1 && scales != n)
        return err_set(err, ERR_MODEL, "bias '%s' has %lld codes and %lld scales", m->values[b->codes].name,
                       (long long)n, (long long)scales);
    if (tensor_alloc(&t, DTYPE_FLOAT, &codes->shape, err))
        return -1;
    for (int64_t i = 0; i < n; i++)
        tensor_f32(&t)[i] = (float)(((const int32_t *)codes->data)[i] * (double)tensor_f32(scale)[scales == 1 ? 0 : i]);
    b->latent = edit_add_weight(&k->edit, 0, m->values[b->codes].name, &t);
    tensor_fini(&t);
    return b->latent == VALUE_NONE ? err_set(err, ERR_NOMEM, "out of memory") : 0;
}

/* ---- the twin's nodes ---- */
/* `node` makes what it made from x instead. */
static void become_fake(struct maker *k, uint32_t node, uint32_t x, const struct qat_group *g, uint32_t zero)
{
    struct node *n = &k->q->twin->nodes[node];
    const uint32_t scale = n->input[1];
    n->op_type = "FakeQuantize";
    n->domain = OP_DOMAIN_ENGINE;
    n->attr = NULL;
    n->n_attr = 0;
    edit_cut_inputs(&k->edit, node, 0);
    edit_set_input(&k->edit, node, 0, x);
    edit_set_input(&k->edit, node, 1, scale);
    if (zero != VALUE_NONE)
        edit_set_input(&k->edit, node, 2, zero);
    if (g->ratio != VALUE_NONE)
        edit_set_input(&k->edit, node, 3, g->ratio);
    value_set_note(k->q->twin, n->output[0], "training", "simulated quantization", NULL);
}

static void write_pair(struct maker *k, const struct qat_pair *p)
{
    struct model *t = k->q->twin;
    const struct node *n = &k->q->m->nodes[p->quantize];
    const uint32_t zero = n->n_input > 2 ? n->input[2] : VALUE_NONE;
    const enum dtype dtype = zero == VALUE_NONE ? DTYPE_UINT8 : value_const(k->q->m, zero)->dtype;
    become_fake(k, p->dequantize, n->input[0], &k->q->group[p->group], zero);
    node_set_int(t, p->dequantize, "low", (int64_t)dtype_min(dtype));
    node_set_int(t, p->dequantize, "high", (int64_t)dtype_max(dtype));
    node_set_int(t, p->dequantize, "axis", node_attr_int(n, "axis", 1));
    node_set_int(t, p->dequantize, "block_size", node_attr_int(n, "block_size", 0));
    node_set_int(t, p->dequantize, "samples", 1);
}

static int write_twin(struct maker *k, struct err *err)
{
    struct qat_model *q = k->q;
    for (int i = 0; i < q->n_pairs; i++)
        write_pair(k, &q->pair[i]);
    for (int i = 0; i < q->n_weights; i++) {
        struct qat_weight *w = &q->weight[i];
        if (make_latent(k, w, err))
            return -1;
        become_fake(k, w->dequantize, w->latent, &q->group[w->group], w->zero);
        node_set_int(q->twin, w->dequantize, "low", w->low);
        node_set_int(q->twin, w->dequantize, "high", w->high);
        node_set_int(q->twin, w->dequantize, "axis", w->axis);
        node_set_int(q->twin, w->dequantize, "block_size", w->block);
    }
    for (int i = 0; i < q->n_biases; i++) {
        if (make_bias(k, &q->bias[i], err))
            return -1;
        edit_replace_reads(&k->edit, q->m->nodes[q->bias[i].dequantize].output[0], q->bias[i].latent);
        edit_remove_node(&k->edit, q->bias[i].dequantize);
    }
    for (int i = 0; i < q->n_pairs; i++) /* whose codes nobody reads any more */
        if (edit_node_is_live(&k->edit, q->pair[i].quantize) &&
            edit_count(&k->edit, q->m->nodes[q->pair[i].quantize].output[0]) == 0)
            edit_remove_node(&k->edit, q->pair[i].quantize);
    model_set_opset(q->twin, OP_DOMAIN_ENGINE, 1);
    return edit_finish(&k->edit, err);
}

int qat_model_make(struct qat_model *q, struct model *m, bool learn_scales, const struct globs *include,
                   const struct globs *exclude, struct err *err)
{
    struct maker k = {.q = q, .include = include, .exclude = exclude, .learn = learn_scales};
    const size_t n = (size_t)m->n_nodes + 1;
    *q = (struct qat_model){.m = m};
    q->group = calloc(n, sizeof *q->group);
    q->pair = calloc(n, sizeof *q->pair);
    q->weight = calloc(n, sizeof *q->weight);
    q->bias = calloc(n, sizeof *q->bias);
    q->twin = model_clone(m, err);
    int rc = -1;
    if (!q->twin)
        goto out;
    if (!q->group || !q->pair || !q->weight || !q->bias) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (edit_init(&k.edit, q->twin, err))
        goto out;
    rc = find_all(&k, err) || add_ratios(&k, err) || write_twin(&k, err) ? -1 : 0;
    edit_fini(&k.edit);
out:
    if (rc)
        qat_model_free(q);
    return rc;
}

void qat_model_free(struct qat_model *q)
{
    free(q->group);
    free(q->pair);
    free(q->weight);
    free(q->bias);
    model_free(q->twin);
    *q = (struct qat_model){0};
}

float qat_scale(const struct qat_model *q, int group, int64_t i)
{
    const struct qat_group *g = &q->group[group];
    const float scale = tensor_f32(value_const(q->m, g->scale))[i];
    return g->ratio == VALUE_NONE ? scale : scale * tensor_f32(&q->twin->values[g->ratio].weight->tensor)[i];
}
