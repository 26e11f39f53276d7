/* SPDX-License-Identifier: Apache-2.0
 * dynamic_recurrent.c - LSTM, GRU, RNN and com.microsoft.Attention for quantize.dynamic.
 *
 *   LSTM   becomes com.microsoft.DynamicQuantizeLSTM: weights transposed to [D, I, 4 H] and [D, H, 4 H], a scale
 *          for each direction, or for each direction and column.
 *   others have no dynamic operator in ONNX Runtime: their weights are int8 behind DequantizeLinear, so the file
 *          is smaller and the speed the same; the report says so. Also an LSTM whose layout is 1, which the
 *          quantized one does not have. */
#include <string.h>

#include "core/quant/dynamic.h"

enum { LSTM_BYTES = 120, STORED_BYTES = 70 };
enum { FORM_LSTM = 32, FORM_STORED };
#define MICROSOFT "com.microsoft"
#define SAME_SPEED "ONNX Runtime has no dynamic operator for it: a smaller file, the same speed"

/* ---- LSTM ---- */
const char *dynamic_refuse_lstm(struct dynamic *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    const struct shape *w = &dynamic_peek(d, n->input[1])->shape, *r = &dynamic_peek(d, n->input[2])->shape;
    if (infer_dtype_of(&d->infer, n->input[0]) != DTYPE_FLOAT && infer_dtype_of(&d->infer, n->input[0]) != DTYPE_NONE)
        return "its input is not float32";
    if (w->rank != 3 || r->rank != 3 || w->dim[0] != r->dim[0] || w->dim[1] != r->dim[1] || r->dim[2] < 1 ||
        r->dim[1] / 4 != r->dim[2] || r->dim[1] % 4 != 0)
        return "its weights are not [directions, 4 hidden, inputs] and [directions, 4 hidden, hidden]";
    const int64_t scales = d->opts->per_channel ? w->dim[0] * w->dim[1] : w->dim[0];
    const char *why = dynamic_size_refusal(d, n->input[1], scales + scales / 4, LSTM_BYTES);
    return why ? why : dynamic_size_refusal(d, n->input[2], scales, LSTM_BYTES);
}

static int lstm_codes(struct dynamic *d, uint32_t node, int slot, struct made_codes **made, struct err *err)
{
    const struct node *n = &d->m->nodes[node];
    struct tensor w = {0};
    struct qweight q = {0};
    uint32_t source;
    *made = NULL;
    if (!dynamic_constant(d, n->input[slot], &w, &source))
        return dynamic_nomem(err);
    const struct matrices s = {.batch = w.shape.dim[0], .k = w.shape.dim[2], .n = w.shape.dim[1], .turned = true,
                               .per_channel = d->opts->per_channel, .alpha = 1,
                               .dtype = d->opts->weights == DYNAMIC_UINT8 ? DTYPE_UINT8 : DTYPE_INT8};
    if (dynamic_matrices(d, &w, &s, &q, err) == 0) {
        *made = dynamic_find_codes(d, source, FORM_LSTM, 1);
        if (!*made)
            *made = dynamic_keep_codes(d, source, FORM_LSTM, 1, &q);
        if (!*made)
            dynamic_nomem(err);
        else
            dynamic_report(d, node, source, &q, "DynamicQuantizeLSTM", NULL, true);
    }
    qweight_fini(&q);
    tensor_fini(&w);
    return *made ? 0 : -1;
}

/* Zero points in the shape of the scales. Each weight has its own: ONNX Runtime, asked for exact arithmetic on
 * x86, rewrites both in place and refuses a zero point that serves two. */
static uint32_t lstm_zeros(struct dynamic *d, struct made_codes *w)
{
    const struct tensor *codes = value_const(d->m, w->codes), *scale = value_const(d->m, w->scale);
    struct tensor z = {0};
    if (w->zero != VALUE_NONE)
        return w->zero;
    if (tensor_alloc(&z, codes->dtype, &scale->shape, NULL)) {
        d->edit.failed = true;
        return VALUE_NONE;
    }
    memset(z.data, codes->dtype == DTYPE_UINT8 ? 128 : 0, z.bytes);
    w->zero = dynamic_constant_add(d, d->m->values[w->codes].graph, "z", &z);
    tensor_fini(&z);
    return w->zero;
}

/* What the quantized operator has of LSTM's attributes, and its hidden_size, which is required there. */
static void lstm_attributes(struct dynamic *d, uint32_t from, uint32_t to, int64_t hidden)
{
    static const char *const kept[] = {"direction",        "clip",           "activations",
                                       "activation_alpha", "activation_beta", "input_forget"};
    struct node *n = &d->m->nodes[from], *out = &d->m->nodes[to];
    struct attr *attrs = model_alloc(d->m, (size_t)n->n_attr + 1, sizeof *attrs);
    int count = 0;
    if (!attrs) {
        d->edit.failed = true;
        return;
    }
    for (int i = 0; i < n->n_attr; i++)
        for (size_t k = 0; k < sizeof kept / sizeof kept[0]; k++)
            if (!strcmp(n->attr[i].name, kept[k]))
                attrs[count++] = n->attr[i];
    out->attr = attrs;
    out->n_attr = count;
    node_set_int(d->m, to, "hidden_size", hidden);
}

int dynamic_convert_lstm(struct dynamic *d, uint32_t node, struct err *err)
{
    struct model *m = d->m;
    struct made_codes *w, *r;
    uint32_t in[12], out[3] = {VALUE_NONE, VALUE_NONE, VALUE_NONE};
    const int64_t hidden = dynamic_peek(d, m->nodes[node].input[2])->shape.dim[2];
    const int n_out = m->nodes[node].n_output < 3 ? m->nodes[node].n_output : 3;
    const uint32_t graph = m->nodes[node].graph;
    if (lstm_codes(d, node, 1, &w, err) || lstm_codes(d, node, 2, &r, err))
        return -1;
    for (int i = 0; i < 8; i++)
        in[i] = i < m->nodes[node].n_input ? m->nodes[node].input[i] : VALUE_NONE;
    in[1] = w->codes;
    in[2] = r->codes;
    in[8] = w->scale;
    in[9] = lstm_zeros(d, w);
    in[10] = r->scale;
    in[11] = lstm_zeros(d, r);
    for (int i = 0; i < n_out; i++)
        out[i] = m->nodes[node].output[i];
    if (d->edit.failed)
        return dynamic_nomem(err);
    const uint32_t id = edit_add_node(&d->edit, graph, "DynamicQuantizeLSTM", m->nodes[node].name, in, 12, out, n_out);
    if (id == NODE_NONE)
        return dynamic_nomem(err);
    m->nodes[id].domain = MICROSOFT;
    lstm_attributes(d, node, id, hidden);
    edit_remove_node(&d->edit, node);
    if (model_opset(m, MICROSOFT) == 0)
        model_set_opset(m, MICROSOFT, 1);
    return d->edit.failed ? dynamic_nomem(err) : 0;
}

/* ---- weights that are only stored in 8 bits ---- */
/* Columns of com.microsoft.Attention's [K, 3 N]; rows of the gates in [D, G H, K]. DequantizeLinear's default. */
enum { STORED_AXIS = 1 };

const char *dynamic_refuse_stored(struct dynamic *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    for (int slot = 1; slot <= 2; slot++) {
        if (!(d->family[node]->slots & 1u << slot))
            continue;
        const struct tensor *t = dynamic_peek(d, n->input[slot]);
        if (t->shape.rank < 2)
            return "its weight is not a matrix";
        const char *why = dynamic_size_refusal(d, n->input[slot], d->opts->per_channel ? t->shape.dim[STORED_AXIS] : 1,
                                               STORED_BYTES);
        if (why)
            return why;
    }
    return NULL;
}

static int store(struct dynamic *d, uint32_t node, int slot, struct err *err)
{
    struct model *m = d->m;
    struct tensor t = {0};
    struct qweight q = {0};
    uint32_t source;
    const bool per_channel = d->opts->per_channel && d->per_channel_stored;
    if (!dynamic_constant(d, m->nodes[node].input[slot], &t, &source))
        return dynamic_nomem(err);
    const struct qweight_opts opts = {
        .dtype = DTYPE_INT8, .per_channel = per_channel, .axis = STORED_AXIS, .isa = ISA_VNNI, .adds_in_32 = true};
    int rc = qweight_make(&q, &t, &opts, err);
    struct made_codes *made = rc ? NULL : dynamic_find_codes(d, source, FORM_STORED, 1);
    if (rc == 0 && !made)
        made = dynamic_keep_codes(d, source, FORM_STORED, 1, &q);
    if (made) {
        const uint32_t graph = m->values[made->codes].graph, in[2] = {made->codes, made->scale};
        if (made->floats == VALUE_NONE)
            made->floats = dynamic_add(d, graph, "DequantizeLinear", in, 2, "f");
        edit_set_input(&d->edit, node, slot, made->floats);
        dynamic_report(d, node, source, &q, "int8, DequantizeLinear", SAME_SPEED, false);
    }
    qweight_fini(&q);
    tensor_fini(&t);
    return rc || d->edit.failed || !made ? (rc ? -1 : dynamic_nomem(err)) : 0;
}

int dynamic_convert_stored(struct dynamic *d, uint32_t node, struct err *err)
{
    for (int slot = 1; slot <= 2; slot++)
        if ((d->family[node]->slots & 1u << slot) && store(d, node, slot, err))
            return -1;
    return 0;
}
