/* SPDX-License-Identifier: Apache-2.0
 * fold_constants.c - nodes whose inputs are all constant are evaluated by the engine; Constant nodes become
 * initializers; shape arithmetic whose contents are proven (infer.h) becomes constant too. The file must not grow: a
 * result larger than 1 KiB and than its inputs stays computed (ConstantOfShape, Expand, Tile, Range). QuantizeLinear
 * and DequantizeLinear are left alone: folding them would undo a quantization. */
#include <stdlib.h>
#include <string.h>

#include "core/engine/engine.h"
#include "core/ops/op.h"
#include "core/passes/pass.h"

enum { GROWTH_FREE = 1024 };

static bool is_kept(const struct node *n)
{
    static const char *const kept[] = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"};
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        if (node_is(n, kept[i]))
            return true;
    for (int i = 0; i < n->n_attr; i++)
        if (n->attr[i].type == ATTR_GRAPH || n->attr[i].type == ATTR_GRAPHS || n->attr[i].ref_name)
            return true;
    return false;
}

static bool inputs_constant(const struct model *m, const struct node *n, size_t *bytes)
{
    *bytes = 0;
    for (int i = 0; i < n->n_input; i++) {
        if (n->input[i] == VALUE_NONE)
            continue;
        const struct tensor *t = value_const(m, n->input[i]);
        if (!t || (!t->data && tensor_count(t) != 0))
            return false;
        *bytes += t->bytes;
    }
    return true;
}

/* An output of a graph must be made by a node; everything else may become an initializer of the same name. */
static bool outputs_replaceable(struct pass_ctx *c, const struct node *n)
{
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE && edit_is_output(&c->edit, n->output[i]))
            return false;
    return true;
}

static void replace(struct pass_ctx *c, uint32_t node, struct tensor *out)
{
    struct model *m = c->edit.m;
    struct node *n = &m->nodes[node];
    uint32_t graph = n->graph;
    for (int i = 0; i < n->n_output; i++) {
        uint32_t v = n->output[i];
        if (v == VALUE_NONE || edit_count(&c->edit, v) == 0)
            continue;
        const char *name = m->values[v].name;
        m->values[v].name = NULL; /* the weight takes it over */
        uint32_t w = edit_add_weight(&c->edit, graph, name, &out[i]);
        m->values[v].name = name;
        if (w == VALUE_NONE)
            return;
        edit_replace_reads(&c->edit, v, w);
        value_move_notes(m, v, w);
    }
    edit_remove_node(&c->edit, node);
    for (int i = 0; i < n->n_output; i++) /* two values of one name must not meet */
        if (n->output[i] != VALUE_NONE)
            m->values[n->output[i]].name = NULL;
    c->changes++;
}

static bool constant_tensor(const struct node *n, struct tensor *out)
{
    const struct attr *a = node_is(n, "Constant") ? node_attr(n, "value") : NULL;
    if (!a || a->type != ATTR_TENSOR || a->count != 1 ||
        (!a->tensors[0]->tensor.data && tensor_count(&a->tensors[0]->tensor) != 0))
        return false;
    tensor_ref(out, &a->tensors[0]->tensor);
    return true;
}

static int try_fold(struct pass_ctx *c, uint32_t node)
{
    struct model *m = c->edit.m;
    struct node *n = &m->nodes[node];
    size_t in_bytes = 0, out_bytes = 0;
    const char *domain = n->domain ? n->domain : "";
    const struct op_class *op = op_find(n->op_type, domain, model_opset(m, domain));
    if (!op || op->nondeterministic || is_kept(n) || !outputs_replaceable(c, n) || !inputs_constant(m, n, &in_bytes))
        return 0;
    struct tensor *out = calloc((size_t)n->n_output + 1, sizeof *out);
    if (!out)
        return -1;
    struct err ignored = {0};
    bool constant = constant_tensor(n, out);
    bool done = constant || engine_eval_node(m, node, out, &ignored) == 0;
    for (int i = 0; done && i < n->n_output; i++) {
        if (n->output[i] == VALUE_NONE || edit_count(&c->edit, n->output[i]) == 0)
            continue;
        if (out[i].dtype == DTYPE_NONE)
            done = false;
        out_bytes += out[i].bytes;
    }
    if (done && !constant && out_bytes > GROWTH_FREE && out_bytes > in_bytes)
        done = false;
    if (done)
        replace(c, node, out);
    for (int i = 0; i < n->n_output; i++)
        tensor_fini(&out[i]);
    free(out);
    return done;
}

/* A value whose elements are all proven numbers. */
static void fold_content(struct pass_ctx *c, uint32_t node)
{
    struct model *m = c->edit.m;
    struct node *n = &m->nodes[node];
    const struct content *k =
        n->n_output == 1 && n->output[0] != VALUE_NONE ? infer_content_of(&c->infer, n->output[0]) : NULL;
    if (!k || edit_count(&c->edit, n->output[0]) == 0 || !outputs_replaceable(c, n) || is_kept(n))
        return;
    for (int i = 0; i < k->count; i++)
        if (!k->number[i])
            return;
    struct tensor t = {0};
    struct shape shape = k->scalar ? SHAPE_SCALAR : SHAPE(k->count);
    if (tensor_alloc(&t, infer_dtype_of(&c->infer, n->output[0]), &shape, NULL))
        return;
    for (int i = 0; i < k->count; i++)
        dtype_set(t.dtype, t.data, i, (double)k->v[i]);
    replace(c, node, &t);
    tensor_fini(&t);
}

int pass_fold_constants(struct pass_ctx *c, struct err *err)
{
    struct model *m = c->edit.m;
    for (uint32_t g = 0; g < c->edit.n_graphs; g++)
        for (int i = 0; c->edit.state[g] == EDIT_LIVE && i < m->graphs[g].n_nodes; i++) {
            uint32_t id = m->graphs[g].nodes[i];
            if (!edit_node_is_live(&c->edit, id))
                continue;
            int rc = try_fold(c, id);
            if (rc < 0)
                return err_set(err, ERR_NOMEM, "out of memory while folding constants");
            if (rc == 0)
                fold_content(c, id);
        }
    return 0;
}
