/* SPDX-License-Identifier: Apache-2.0
 * weight_rewrite.c - codes, scales and zero points into the model, and the nodes that read them (weight_forms.h). A
 * node is changed in place, so that it keeps its name and its place; what only made the old weight goes. */
#include <stdlib.h>
#include <string.h>

#include "core/quant/latent.h"
#include "core/quant/weight_forms.h"

static int out_of_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while quantizing");
}

static uint32_t graph_of(const struct weight_forms *f, const struct weight_job *job)
{
    return f->m->values[job->plan.view.source].graph;
}

static uint32_t add_weight(struct weight_forms *f, const struct weight_job *job, const char *suffix,
                           const struct tensor *t)
{
    const char *base = f->m->values[job->plan.view.source].name;
    const char *name = model_printf(f->m, "%s%s", base ? base : "w", suffix);
    return name ? edit_add_weight(f->edit, graph_of(f, job), name, t) : VALUE_NONE;
}

/* The job's tensors as initializers, once. */
static int put_codes(struct weight_forms *f, struct weight_job *job, struct err *err)
{
    if (job->codes != VALUE_NONE)
        return 0;
    job->codes = add_weight(f, job, "_q", &job->made.codes);
    job->scale = add_weight(f, job, "_scale", &job->made.scale);
    if (!job->plan.form.symmetric)
        job->zero = add_weight(f, job, "_zero", &job->made.zero);
    return f->edit->failed ? out_of_memory(err) : 0;
}

/* Nodes that only made this value, if nobody reads it any more. */
static void remove_unread(struct weight_forms *f, uint32_t value)
{
    while (value != VALUE_NONE && edit_count(f->edit, value) == 0) {
        const uint32_t p = f->m->values[value].producer;
        if (p == NODE_NONE || !edit_node_is_live(f->edit, p) || f->m->nodes[p].n_output != 1)
            return;
        value = f->m->nodes[p].n_input > 0 ? f->m->nodes[p].input[0] : VALUE_NONE;
        edit_remove_node(f->edit, p);
    }
}

static void become(struct weight_forms *f, uint32_t node, const char *op_type)
{
    struct node *n = &f->m->nodes[node];
    n->op_type = op_type;
    n->domain = "com.microsoft";
    n->attr = NULL;
    n->n_attr = 0;
}

static void set_inputs(struct weight_forms *f, uint32_t node, const uint32_t *in, int n)
{
    while (n > 0 && in[n - 1] == VALUE_NONE)
        n--;
    edit_cut_inputs(f->edit, node, n);
    for (int i = 0; i < n; i++)
        edit_set_input(f->edit, node, i, in[i]);
}

/* A Gemm's constant bias as [n], times beta. */
static uint32_t make_bias(struct weight_forms *f, uint32_t node, int64_t n)
{
    const struct node *at = &f->m->nodes[node];
    const struct tensor *old = value_const(f->m, at->input[2]);
    const float beta = node_attr_float(at, "beta", 1);
    struct tensor t = {0};
    if (tensor_alloc(&t, old->dtype, &SHAPE(n), NULL))
        return VALUE_NONE;
    for (int64_t i = 0; i < n; i++)
        dtype_set(t.dtype, t.data, i,
                  (double)(beta * (float)dtype_get(old->dtype, old->data, tensor_count(old) == 1 ? 0 : i)));
    const uint32_t v = edit_add_weight(f->edit, at->graph, f->m->values[at->input[2]].name, &t);
    tensor_fini(&t);
    return v;
}

static int rewrite_nbits(struct weight_forms *f, const struct weight_item *item, struct weight_job *job,
                         struct err *err)
{
    const struct code_plan *c = &job->plan;
    const struct node *n = &f->m->nodes[item->node];
    uint32_t in[6] = {n->input[0], job->codes, job->scale, job->zero, VALUE_NONE, VALUE_NONE};
    if (node_is(n, "Gemm") && n->n_input > 2)
        in[5] = n->input[2];
    if (in[5] != VALUE_NONE && item->new_bias && (in[5] = make_bias(f, item->node, c->code_shape.dim[0])) == VALUE_NONE)
        return out_of_memory(err);
    become(f, item->node, "MatMulNBits");
    node_set_int(f->m, item->node, "K", c->form.k);
    node_set_int(f->m, item->node, "N", c->code_shape.dim[0]);
    node_set_int(f->m, item->node, "bits", c->stored);
    node_set_int(f->m, item->node, "block_size", c->form.block);
    if (f->o->accuracy_level != 0)
        node_set_int(f->m, item->node, "accuracy_level", f->o->accuracy_level);
    set_inputs(f, item->node, in, 6);
    return 0;
}

static int rewrite_gather(struct weight_forms *f, const struct weight_item *item, struct weight_job *job)
{
    const struct code_plan *c = &job->plan;
    const uint32_t in[4] = {job->codes, f->m->nodes[item->node].input[1], job->scale, job->zero};
    become(f, item->node, "GatherBlockQuantized");
    node_set_int(f->m, item->node, "bits", c->stored);
    node_set_int(f->m, item->node, "block_size", c->form.block);
    node_set_int(f->m, item->node, "gather_axis", 0);
    node_set_int(f->m, item->node, "quantize_axis", 1);
    set_inputs(f, item->node, in, 4);
    return 0;
}

static uint32_t make_node(struct weight_forms *f, const struct weight_job *job, const char *op_type, const uint32_t *in,
                          int n, uint32_t *out)
{
    const char *base = f->m->values[job->plan.view.source].name;
    *out = edit_add_value(f->edit, graph_of(f, job), base ? base : "w");
    return f->edit->failed ? NODE_NONE : edit_add_node(f->edit, graph_of(f, job), op_type, NULL, in, n, out, 1);
}

/* The axis of a channel's scale, or the one that blocks run along. */
static void set_axis(struct weight_forms *f, uint32_t dq, const struct code_plan *c)
{
    int axis = 0;
    if (c->scale_shape.rank == 1) {
        while (!(c->row_axes >> axis & 1))
            axis++;
    } else {
        while (c->row_axes >> axis & 1)
            axis++;
        node_set_int(f->m, dq, "block_size", c->form.block);
    }
    node_set_int(f->m, dq, "axis", axis);
}

static int rewrite_dequantize(struct weight_forms *f, const struct weight_item *item, struct weight_job *job,
                              struct err *err)
{
    const bool gemm = node_is(&f->m->nodes[item->node], "Gemm");
    uint32_t *weight = &job->floats;
    if (job->floats == VALUE_NONE) {
        const uint32_t in[3] = {job->codes, job->scale, job->zero};
        const uint32_t dq = make_node(f, job, "DequantizeLinear", in, job->zero == VALUE_NONE ? 2 : 3, &job->floats);
        if (dq == NODE_NONE)
            return out_of_memory(err);
        set_axis(f, dq, &job->plan);
        latent_note_view(f->m, job->codes, &job->plan.view);
    }
    if (item->form == WEIGHT_DEQUANTIZE_TURNED && gemm) {
        node_set_int(f->m, item->node, "transB", 1);
    } else if (item->form == WEIGHT_DEQUANTIZE_TURNED) {
        weight = &job->turned;
        if (job->turned == VALUE_NONE) {
            const uint32_t turn = make_node(f, job, "Transpose", &job->floats, 1, &job->turned);
            if (turn == NODE_NONE)
                return out_of_memory(err);
            node_set_ints(f->m, turn, "perm", (const int64_t[]){1, 0}, 2);
        }
    }
    edit_set_input(f->edit, item->node, item->slot, *weight);
    return 0;
}

int forms_rewrite(struct weight_forms *f, struct weight_item *item, struct err *err)
{
    struct weight_job *job = &f->jobs[item->job];
    const uint32_t old = f->m->nodes[item->node].input[item->slot];
    const bool contrib = item->form == WEIGHT_NBITS || item->form == WEIGHT_GATHER;
    if (put_codes(f, job, err))
        return -1;
    int rc = item->form == WEIGHT_NBITS    ? rewrite_nbits(f, item, job, err)
             : item->form == WEIGHT_GATHER ? rewrite_gather(f, item, job)
                                           : rewrite_dequantize(f, item, job, err);
    if (rc)
        return rc;
    if (contrib && model_opset(f->m, "com.microsoft") == 0)
        model_set_opset(f->m, "com.microsoft", 1);
    remove_unread(f, old);
    return f->edit->failed ? out_of_memory(err) : 0;
}
