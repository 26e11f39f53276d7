/* SPDX-License-Identifier: Apache-2.0
 * Structure, in one pass each: what the file says of itself, names, scopes, weights, types, cycles, functions. All
 * checks are linear in the model's size. */
#include "core/model/validate.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/model/model_names.h"

static const char *text_of(const char *text)
{
    return text ? text : "";
}

/* --- header --- */

static int check_opsets(const struct model *m, struct err *err)
{
    for (int i = 0; i < m->n_opsets; i++) {
        const struct opset *o = &m->opsets[i];
        if (o->version < 1)
            return err_set(err, ERR_MODEL,
                           "opset_import of domain '%.100s' has version %" PRId64 "; versions start at 1",
                           text_of(o->domain), o->version);
    }
    int64_t version = model_opset(m, "");
    if (version > ONNX_NEWEST_OPSET)
        return err_set(err, ERR_MODEL,
                       "the model is written for opset %" PRId64 " of the standard operators; the newest known is %d: "
                       "export it with an older opset",
                       version, ONNX_NEWEST_OPSET);
    for (uint32_t n = 0; version == 0 && n < m->n_nodes; n++)
        if (m->nodes[n].op_type && model_domain_is_default(m->nodes[n].domain) && m->ir_version >= 3 &&
            m->n_functions == 0)
            return err_set(
                err, ERR_MODEL,
                "the model imports no version of the standard operators (opset_import with an empty domain)");
    return 0;
}

static int check_header(const struct model *m, struct err *err)
{
    if (!m->has_ir_version || m->ir_version < 1)
        return err_set(err, ERR_MODEL,
                       "the model says no ir_version (field 1 of ModelProto); ONNX files need one from 1 to %d",
                       ONNX_NEWEST_IR);
    if (m->ir_version > ONNX_NEWEST_IR)
        return err_set(err, ERR_MODEL, "the model has ir_version %" PRId64 "; the newest known is %d: export it for an older release of ONNX",
                       m->ir_version, ONNX_NEWEST_IR);
    if (model_main(m)->n_outputs == 0)
        return err_set(err, ERR_MODEL, "the graph has no outputs, so there is nothing to compute");
    return check_opsets(m, err);
}

/* --- names and scopes --- */

/* Is `value` made somewhere: by a node, as an input, an initializer, a sparse initializer? */
static bool is_defined(const struct model *m, const unsigned char *is_input, uint32_t value)
{
    const struct value *v = &m->values[value];
    return v->name && (v->producer != NODE_NONE || v->weight || is_input[value] || v->type.kind == TYPE_SPARSE_TENSOR);
}

static bool in_scope(const struct model *m, uint32_t value, uint32_t graph)
{
    while (graph != GRAPH_NONE && m->values[value].graph != graph)
        graph = m->graphs[graph].parent;
    return graph != GRAPH_NONE;
}

static int check_inputs(const struct model *m, const unsigned char *is_input, uint32_t node, struct err *err)
{
    const struct node *n = &m->nodes[node];
    char label[200];
    for (int i = 0; i < n->n_input; i++) {
        uint32_t v = n->input[i];
        if (v == VALUE_NONE)
            continue;
        if (v >= m->n_values || !is_defined(m, is_input, v) || !in_scope(m, v, n->graph))
            return err_set(
                err, ERR_MODEL,
                "node '%.200s' (%.60s) reads '%.200s' (input %d), which no node, graph input or initializer defines",
                node_label(m, node, label, sizeof label), n->op_type, v < m->n_values ? text_of(m->values[v].name) : "",
                i);
    }
    for (int i = 0; i < n->n_output; i++) {
        uint32_t v = n->output[i];
        if (v == VALUE_NONE)
            continue;
        if (m->values[v].producer != node || m->values[v].weight || is_input[v])
            return err_set(err, ERR_MODEL, "node '%.200s' (%.60s) writes '%.200s', which is defined elsewhere too",
                           node_label(m, node, label, sizeof label), n->op_type, text_of(m->values[v].name));
    }
    return 0;
}

static int check_attrs(const struct model *m, uint32_t node, struct err *err)
{
    const struct node *n = &m->nodes[node];
    char label[200];
    if (n->n_attr > 1000)
        return err_set(err, ERR_MODEL, "node '%.200s' (%.60s) has %d attributes; at most 1000 make sense",
                       node_label(m, node, label, sizeof label), n->op_type, n->n_attr);
    for (int i = 0; i < n->n_attr; i++) {
        if (!n->attr[i].name || !*n->attr[i].name)
            return err_set(err, ERR_MODEL, "node '%.200s' (%.60s) has an attribute without a name",
                           node_label(m, node, label, sizeof label), n->op_type);
        for (int k = 0; k < i; k++)
            if (!strcmp(n->attr[i].name, n->attr[k].name))
                return err_set(err, ERR_MODEL, "node '%.200s' (%.60s) has attribute '%.200s' twice",
                               node_label(m, node, label, sizeof label), n->op_type, n->attr[i].name);
    }
    return 0;
}

static int check_outputs(const struct model *m, const unsigned char *is_input, uint32_t graph, struct err *err)
{
    const struct graph *g = &m->graphs[graph];
    for (int i = 0; i < g->n_outputs; i++) {
        uint32_t v = g->outputs[i].value;
        if (!is_defined(m, is_input, v) || !in_scope(m, v, graph))
            return err_set(err, ERR_MODEL, "graph output '%.200s' is defined by no node, graph input or initializer",
                           text_of(m->values[v].name));
        for (int k = 0; graph == 0 && k < i && i < 1000; k++)
            if (g->outputs[k].value == v)
                return err_set(err, ERR_MODEL, "graph output '%.200s' is listed twice", text_of(m->values[v].name));
    }
    return 0;
}

static int check_duplicates(const struct model *m, struct err *err)
{
    for (uint32_t v = 0; v < m->n_values; v++) {
        const struct value *value = &m->values[v];
        if (value->name && name_index_find(m->names, m, value->graph, value->name) != v)
            return err_set(err, ERR_MODEL, "the name '%.200s' is defined twice; names must be unique", value->name);
    }
    return 0;
}

static int check_names(const struct model *m, struct err *err)
{
    unsigned char *is_input = calloc((size_t)m->n_values + 1, 1);
    int rc = is_input ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (uint32_t g = 0; rc == 0 && g < m->n_graphs; g++)
        for (int i = 0; i < m->graphs[g].n_inputs; i++)
            is_input[m->graphs[g].inputs[i].value] = 1;
    for (uint32_t n = 0; rc == 0 && n < m->n_nodes; n++)
        if (m->nodes[n].op_type)
            rc = check_inputs(m, is_input, n, err) || check_attrs(m, n, err) ? -1 : 0;
    for (uint32_t g = 0; rc == 0 && g < m->n_graphs; g++)
        rc = check_outputs(m, is_input, g, err);
    free(is_input);
    return rc ? -1 : check_duplicates(m, err);
}

/* --- types and weights --- */

static int check_type(const struct type *type, const char *what, const char *name, struct err *err)
{
    char text[SHAPE_TEXT];
    int64_t n = 1;
    if (!type->has_shape)
        return 0;
    for (int i = 0; i < type->shape.rank; i++)
        if (type->shape.dim[i] > 0 && !i64_mul(n, type->shape.dim[i], &n))
            return err_set(err, ERR_MODEL, "%s '%.200s' has shape %s: more elements than 64 bits can count", what,
                           text_of(name), shape_text(&type->shape, text));
    return 0;
}

static int check_infos(const struct model *m, const struct value_info *list, int count, const char *what,
                       struct err *err)
{
    for (int i = 0; i < count; i++)
        if (list[i].has_type && check_type(&list[i].type, what, m->values[list[i].value].name, err))
            return -1;
    return 0;
}

static int check_types(const struct model *m, struct err *err)
{
    const struct graph *main_graph = model_main(m);
    for (int i = 0; i < main_graph->n_inputs; i++) {
        const struct value_info *info = &main_graph->inputs[i];
        bool typed = info->has_type && info->type.kind != TYPE_NONE;
        bool tensor = info->type.kind == TYPE_TENSOR && !info->type.opaque.len;
        if (!typed || (tensor && info->type.dtype == DTYPE_NONE))
            return err_set(err, ERR_MODEL, "graph input '%.200s' has no %s", text_of(m->values[info->value].name),
                           typed ? "element type" : "type");
    }
    for (uint32_t g = 0; g < m->n_graphs; g++) {
        const struct graph *graph = &m->graphs[g];
        if (check_infos(m, graph->inputs, graph->n_inputs, "graph input", err) ||
            check_infos(m, graph->outputs, graph->n_outputs, "graph output", err) ||
            check_infos(m, graph->infos, graph->n_infos, "value", err))
            return -1;
    }
    return 0;
}

static int check_weights(const struct model *m, struct err *err)
{
    char text[SHAPE_TEXT];
    for (uint32_t v = 0; v < m->n_values; v++) {
        const struct weight *w = m->values[v].name ? m->values[v].weight : NULL;
        if (!w || w->opaque.len || !w->tensor.data)
            continue; /* carried only, or left out (a reader's option) */
        const struct tensor *t = &w->tensor;
        size_t need = 0;
        if (!dtype_bytes(t->dtype, shape_count(&t->shape), &need) || need != t->bytes)
            return err_set(err, ERR_MODEL, "initializer '%.200s' has %zu bytes, but %s%s needs %zu", m->values[v].name,
                           t->bytes, dtype_name(t->dtype), shape_text(&t->shape, text), need);
    }
    return 0;
}

/* --- functions --- */

static int compare_text(const char *a, const char *b)
{
    return strcmp(text_of(a), text_of(b));
}

static int by_identity(const void *a, const void *b)
{
    const struct function *const *x = a, *const *y = b;
    int c = compare_text((*x)->name, (*y)->name);
    if (!c && !(model_domain_is_default((*x)->domain) && model_domain_is_default((*y)->domain)))
        c = compare_text((*x)->domain, (*y)->domain);
    return c ? c : compare_text((*x)->overload, (*y)->overload);
}

struct calls {
    const struct model *m;
    const struct function **sorted; /* by identity */
    uint32_t *owner;                /* graph -> 1 + index of the function whose body it lies in; 0: main */
    uint32_t *pending;              /* function -> callers not yet taken away */
};

static const struct function *callee(const struct calls *c, const struct node *n)
{
    struct function key = {.name = n->op_type, .domain = n->domain, .overload = n->overload};
    const struct function *at = &key;
    const struct function **hit = bsearch(&at, c->sorted, (size_t)c->m->n_functions, sizeof *c->sorted, by_identity);
    return hit ? *hit : NULL;
}

/* Each node of a function body that calls a function: count the call, or take it away when `caller` (1 + index) is
 * done. */
static void each_call(struct calls *c, uint32_t caller, uint32_t *queue, uint32_t *queued)
{
    const struct model *m = c->m;
    for (uint32_t n = 0; n < m->n_nodes; n++) {
        if (!m->nodes[n].op_type || !c->owner[m->nodes[n].graph] || (caller && c->owner[m->nodes[n].graph] != caller))
            continue;
        const struct function *f = callee(c, &m->nodes[n]);
        if (!f)
            continue;
        uint32_t i = (uint32_t)(f - m->functions);
        if (!caller)
            c->pending[i]++;
        else if (--c->pending[i] == 0)
            queue[(*queued)++] = i;
    }
}

/* Functions may call functions, but not in circles: take away those nobody calls until none is left. */
static int check_recursion(struct calls *c, struct err *err)
{
    uint32_t count = (uint32_t)c->m->n_functions, queued = 0;
    uint32_t *queue = calloc(count, sizeof *queue);
    if (!queue)
        return err_set(err, ERR_NOMEM, "out of memory");
    each_call(c, 0, NULL, NULL);
    for (uint32_t i = 0; i < count; i++)
        if (!c->pending[i])
            queue[queued++] = i;
    for (uint32_t done = 0; done < queued; done++)
        each_call(c, queue[done] + 1, queue, &queued);
    free(queue);
    for (uint32_t i = 0; i < count; i++)
        if (c->pending[i])
            return err_set(err, ERR_MODEL, "function '%.200s' calls itself, directly or through others",
                           text_of(c->m->functions[i].name));
    return 0;
}

enum { FUNCTIONS_MAX = 10000 };

static int check_functions(const struct model *m, struct err *err)
{
    size_t count = (size_t)m->n_functions;
    if (!count)
        return 0;
    if (count > FUNCTIONS_MAX)
        return err_set(err, ERR_MODEL, "the model has %zu functions; at most %d are accepted", count, FUNCTIONS_MAX);
    struct calls c = {.m = m,
                      .sorted = calloc(count, sizeof *c.sorted),
                      .owner = calloc(m->n_graphs, sizeof *c.owner),
                      .pending = calloc(count, sizeof *c.pending)};
    int rc = -1;
    if (!c.sorted || !c.owner || !c.pending) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    for (size_t i = 0; i < count; i++) {
        c.sorted[i] = &m->functions[i];
        c.owner[m->functions[i].body] = (uint32_t)i + 1;
    }
    for (uint32_t g = 0; g < m->n_graphs; g++) /* parents come before their nested graphs */
        if (m->graphs[g].parent != GRAPH_NONE)
            c.owner[g] = c.owner[m->graphs[g].parent];
    qsort(c.sorted, count, sizeof *c.sorted, by_identity);
    for (size_t i = 1; i < count; i++)
        if (!by_identity(&c.sorted[i - 1], &c.sorted[i])) {
            err_set(err, ERR_MODEL, "function '%.200s' of domain '%.100s' is defined twice", text_of(c.sorted[i]->name),
                    text_of(c.sorted[i]->domain));
            goto out;
        }
    rc = check_recursion(&c, err);
out:
    free(c.sorted), free(c.owner), free(c.pending);
    return rc;
}

int model_validate(const struct model *m, struct err *err)
{
    if (check_header(m, err) || check_names(m, err) || check_types(m, err) || check_weights(m, err) ||
        model_check_cycles(m, err) || check_functions(m, err))
        return -1;
    return 0;
}
