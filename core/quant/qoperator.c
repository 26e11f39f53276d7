/* SPDX-License-Identifier: Apache-2.0
 * qoperator.c - format=qoperator of quantize.static.
 * Idea       the pairs already say everything: an operator that reads DequantizeLinears and whose result goes into a
 * QuantizeLinear is one operator on codes with those scales and zero points. So this is a local rewriting of each
 * node in
 * topological order, by a table of forms (qoperator_forms.c). A form takes the codes from in front of the
 * DequantizeLinear, and makes the value the QuantizeLinear made; pairs between two rewritten nodes then have no reader
 * left and are swept.
 * Relu, Clip behind an operator commute with quantization, which is monotone: quantize(clip(x, lo, hi)) =
 * clip(quantize(x), quantize(lo), quantize(hi)). Where those are the ends of the type, saturation does it. */
#include "core/quant/qoperator.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/raise_opset.h"
#include "core/quant/qoperator_forms.h"

/* ---- reading ---- */
/* Forms on codes want a zero point where pairs may leave it out. */
static void complete(struct qop *q, struct coded *c)
{
    if (c->zero == VALUE_NONE)
        c->zero = write_code(q, c->dtype, 0);
}

bool read_codes(struct qop *q, uint32_t value, struct coded *out)
{
    const uint32_t d = value != VALUE_NONE ? q->m->values[value].producer : NODE_NONE;
    if (d == NODE_NONE || !edit_node_is_live(&q->edit, d) || !is_dequantize(&q->m->nodes[d]) ||
        !coded_of(q->m, d, out) || !coded_is_plain(q->m, out))
        return false;
    complete(q, out);
    return true;
}

bool read_result(struct qop *q, uint32_t value, struct result *out)
{
    double low = -INFINITY, high = INFINITY, lo, hi;
    *out = (struct result){0};
    while (value != VALUE_NONE && out->n_remove + 1 < (int)(sizeof out->remove / sizeof out->remove[0])) {
        const uint32_t reader = edit_only_reader(&q->edit, value);
        if (reader == NODE_NONE || q->m->nodes[reader].input[0] != value)
            return false;
        const struct node *n = &q->m->nodes[reader];
        out->remove[out->n_remove++] = reader;
        if (is_quantize(n)) {
            if (!coded_of(q->m, reader, &out->code) || !coded_is_plain(q->m, &out->code))
                return false;
            complete(q, &out->code);
            out->low = coded_quantize(q->m, &out->code, low);
            out->high = coded_quantize(q->m, &out->code, high);
            const bool free = out->low == (int32_t)dtype_min(out->code.dtype) &&
                              out->high == (int32_t)dtype_max(out->code.dtype);
            return free || q->opset >= 12; /* Clip of int8 and uint8 */
        }
        if (!node_bounds(q->m, n, &lo, &hi) || n->n_output != 1)
            return false;
        low = fmin(fmax(low, lo), hi);
        high = fmin(fmax(high, lo), hi);
        value = n->output[0];
    }
    return false;
}

/* ---- writing ---- */
uint32_t fresh(struct qop *q, const char *name)
{
    return edit_add_value(&q->edit, 0, name ? name : "code");
}

uint32_t write_code(struct qop *q, enum dtype dtype, int32_t code)
{
    struct tensor t = {0};
    uint32_t id = VALUE_NONE;
    if (tensor_alloc(&t, dtype, &SHAPE_SCALAR, NULL) == 0) {
        dtype_set(dtype, t.data, 0, code);
        id = edit_add_weight(&q->edit, 0, "z", &t);
    } else
        q->edit.failed = true;
    tensor_fini(&t);
    return id;
}

uint32_t write_node(struct qop *q, uint32_t from, const char *domain, const char *op, const uint32_t *in, int n_in,
                    uint32_t out)
{
    struct model *m = q->m;
    if (q->edit.failed)
        return NODE_NONE;
    const uint32_t id = edit_add_node(&q->edit, 0, op, m->nodes[from].name, in, n_in, &out, 1);
    if (id == NODE_NONE)
        return id;
    struct node *n = &m->nodes[id];
    const struct node *old = &m->nodes[from];
    n->attr = old->n_attr ? model_alloc(m, (size_t)old->n_attr, sizeof *n->attr) : NULL;
    if (n->attr) {
        memcpy(n->attr, old->attr, (size_t)old->n_attr * sizeof *n->attr);
        n->n_attr = old->n_attr;
    } else if (old->n_attr)
        q->edit.failed = true;
    if (*domain) {
        n->domain = domain;
        q->microsoft = true;
    }
    q->written = op;
    return id;
}

uint32_t take_result(struct qop *q, struct result *r)
{
    const uint32_t codes = r->code.codes;
    const int32_t least = (int32_t)dtype_min(r->code.dtype), most = (int32_t)dtype_max(r->code.dtype);
    for (int i = r->n_remove - 1; i >= 0; i--)
        edit_remove_node(&q->edit, r->remove[i]);
    if (r->low == least && r->high == most)
        return codes;
    uint32_t in[3] = {fresh(q, NULL), VALUE_NONE, VALUE_NONE};
    int n_in = 1;
    if (r->low != least) {
        in[1] = write_code(q, r->code.dtype, r->low);
        n_in = 2;
    }
    if (r->high != most) {
        in[2] = write_code(q, r->code.dtype, r->high);
        n_in = 3;
    }
    if (!q->edit.failed)
        edit_add_node(&q->edit, 0, "Clip", NULL, in, n_in, &codes, 1);
    return in[0];
}

/* ---- the pass ---- */
static bool touches_pairs(struct qop *q, const struct node *n)
{
    for (int i = 0; i < n->n_input; i++) {
        const uint32_t p = n->input[i] != VALUE_NONE ? q->m->values[n->input[i]].producer : NODE_NONE;
        if (p != NODE_NONE && edit_node_is_live(&q->edit, p) && is_dequantize(&q->m->nodes[p]))
            return true;
    }
    return false;
}

/* A QuantizeLinear of what a DequantizeLinear alike made gives the codes back. */
static void join_pair(struct qop *q, uint32_t node)
{
    struct coded made, read;
    if (!coded_of(q->m, node, &made) || !read_codes(q, q->m->nodes[node].input[0], &read) ||
        !coded_is_plain(q->m, &made) || !coded_alike(q->m, &made, &read) || edit_is_output(&q->edit, made.codes))
        return;
    edit_remove_node(&q->edit, node);
    edit_replace_reads(&q->edit, made.codes, read.codes);
}

static void rewrite_node(struct qop *q, uint32_t id, struct layer_report *layers)
{
    const struct node *n = &q->m->nodes[id];
    char label[200];
    if (!edit_node_is_live(&q->edit, id) || is_dequantize(n))
        return;
    if (is_quantize(n)) {
        join_pair(q, id);
        return;
    }
    if (!touches_pairs(q, n) || n->n_output < 1 || n->output[0] == VALUE_NONE)
        return;
    const struct form *form = form_of(n);
    /* the row is named before the node is replaced */
    node_label(q->m, id, label, sizeof label);
    q->written = n->op_type;
    const char *why = form ? form->rewrite(q, id) : "it has no form on codes: it stays between the pairs";
    struct layer_row row = {.node = why ? id : NODE_NONE, .label = label, .weight = VALUE_NONE, .sqnr_db = NAN,
                            .skipped = why};
    if (!why)
        row.after = json_pack("{s:s}", "operator", q->written);
    layer_report_add(layers, q->m, &row);
}

/* Pairs between rewritten nodes; a chain goes in one sweep, last first. */
static void sweep_pairs(struct qop *q)
{
    for (bool again = true; again;) {
        again = false;
        for (uint32_t id = q->m->n_nodes; id-- > 0;) {
            const struct node *n = &q->m->nodes[id];
            if (!edit_node_is_live(&q->edit, id) || !(is_dequantize(n) || is_quantize(n)) || n->n_output < 1 ||
                n->output[0] == VALUE_NONE || edit_count(&q->edit, n->output[0]) > 0)
                continue;
            edit_remove_node(&q->edit, id);
            again = true;
        }
    }
}

/* Operators that move codes from a newer opset on than the model's: the least that takes them all. */
static int64_t wanted_opset(struct qop *q)
{
    int64_t wanted = q->opset;
    const struct graph *g = model_main(q->m);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &q->m->nodes[g->nodes[i]];
        const struct mover *mover = mover_of(n);
        double lo, hi;
        int64_t since = mover ? mover->since : node_bounds(q->m, n, &lo, &hi) ? 12 : 0;
        if (since > wanted && since <= RAISE_OPSET_MAX && touches_pairs(q, n))
            wanted = since;
    }
    return wanted;
}

static int start(struct qop *q, struct model *m, struct err *err)
{
    *q = (struct qop){.m = m, .opset = model_opset(m, "")};
    if (edit_init(&q->edit, m, err))
        return -1;
    return infer_run(&q->infer, m, err);
}

static void end(struct qop *q)
{
    infer_fini(&q->infer);
    edit_fini(&q->edit);
}

static int raise(struct model *m, struct warnings *warnings, struct err *err)
{
    struct qop q;
    struct err why = {0};
    int64_t wanted = 0;
    const int rc = start(&q, m, err);
    if (rc == 0)
        wanted = wanted_opset(&q);
    end(&q);
    if (rc == 0 && wanted > model_opset(m, ""))
        raise_opset_for(m, wanted, "8-bit MaxPool, Pad and Clip", warnings, &why); /* if not, they stay in float */
    return rc;
}

static int rewrite_all(struct qop *q, struct layer_report *layers, struct err *err)
{
    const int n = model_main(q->m)->n_nodes;
    uint32_t *order = calloc(n ? (size_t)n : 1, sizeof *order);
    int rc = -1;
    if (!order)
        return err_set(err, ERR_NOMEM, "out of memory while rewriting the model");
    if (model_toposort(q->m, 0, order, err) == 0) {
        for (int i = 0; i < n; i++)
            rewrite_node(q, order[i], layers);
        sweep_pairs(q);
        rc = edit_finish(&q->edit, err);
    }
    free(order);
    return rc;
}

int qoperator_rewrite(struct model *m, struct layer_report *layers, struct warnings *warnings, struct err *err)
{
    struct qop q;
    if (raise(m, warnings, err))
        return -1;
    int rc = start(&q, m, err);
    if (rc == 0)
        rc = rewrite_all(&q, layers, err);
    end(&q);
    if (rc == 0 && q.microsoft && model_opset(m, MICROSOFT) == 0)
        model_set_opset(m, MICROSOFT, 1);
    if (rc == 0 && q.signed_product)
        warnings_add(warnings, "int8 activations in QOperator form run slowly on x64 CPUs in ONNX Runtime: its int8 "
                               "kernels there are for uint8 activations; activations=uint8 or format=qdq is faster");
    return rc;
}
