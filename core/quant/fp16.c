/* SPDX-License-Identifier: Apache-2.0
 * fp16.c - quantize.fp16: weights and activations in half precision.
 *
 * Every node is given a side: half or float. Float are: nodes in other domains, of operators nobody knows, with nested
 * graphs (whose bodies read outer values by name), operators without a half type (a table below), nodes whose weights
 * do not fit (largest magnitude over 65504, or all below the smallest normal half), and, where calibration data was
 * given, nodes that read or make numbers beyond half's range. Operators that only move data take the side of what they
 * read, so that they add no casts. A value read on the other side is cast once for all its readers; nothing is ever
 * cast there and back between two nodes. Inputs and outputs of the model stay float32 unless keep_io=false. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"
#include "core/passes/weights.h"
#include "core/stats/evaluate.h"
#include "core/stats/ranges.h"
#include "core/step/method.h"

#define HALF_MAX 65504.0
#define HALF_SMALLEST_NORMAL 6.103515625e-05

struct quantize_fp16_params {
    bool keep_io;
    int64_t samples;
    struct globs include, exclude;
};
#define P(f) PARAM(quantize_fp16_params, f)
static const struct param params[] = {
    {P(keep_io), .kind = PARAM_BOOL, .def = "true", .doc = "inputs and outputs of the model stay float32"},
    {P(samples), .kind = PARAM_INT, .def = "32", .min = 1, .max = 1000000,
     .doc = "with a dataset: samples on which activations are checked against the range of float16"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

/* Operators that stay in float: no half type in the standard (before `until`), or none worth having. */
static const struct {
    const char *op_type;
    int until; /* opset from which half is allowed; 0: never */
} float_only[] = {
    {"CumSum", 14},
    {"Range", 0},
    {"NonMaxSuppression", 0},
    {"QuantizeLinear", 0},
    {"DequantizeLinear", 0},
    {"DynamicQuantizeLinear", 0},
    {"RandomNormal", 0},
    {"RandomUniform", 0},
    {"RandomNormalLike", 0},
    {"RandomUniformLike", 0},
    {"Multinomial", 0},
    {"Bernoulli", 0},
    {"EyeLike", 0},
    {"Unique", 0},
    {"SequenceConstruct", 0},
    {"SequenceInsert", 0},
    {"SequenceAt", 0},
    {"SequenceEmpty", 0},
    {"SequenceErase", 0},
    {"SplitToSequence", 0},
    {"ConcatFromSequence", 0},
    {"Optional", 0},
    {"OptionalGetElement", 0},
    {"If", 0},
    {"Loop", 0},
    {"Scan", 0},
    {"SequenceMap", 0},
    {"StringNormalizer", 0},
    {"TfIdfVectorizer", 0},
    {"MelWeightMatrix", 0},
    {"DFT", 0},
    {"STFT", 0},
    {"BlackmanWindow", 0},
    {"HannWindow", 0},
    {"HammingWindow", 0},
    {"Det", 0},
    {"Mod", 13},
    {"Constant", 0},
};

/* Inputs that stay float32 in a half node. */
static bool slot_stays_float(const struct node *n, int slot)
{
    return (node_is(n, "Resize") && slot > 0) || (node_is(n, "Upsample") && slot > 0);
}

struct fp16 {
    const struct quantize_fp16_params *opts;
    struct step_ctx *c;
    struct model *m;
    struct edit edit;
    struct infer infer;
    const struct ranges *ranges; /* NULL without data */
    uint32_t n_nodes, n_values;
    bool *half_node, *half_value; /* by id: the node computes in half; the value is half in the result */
    uint32_t *other;              /* by value: its cast to the other side; 0: none yet */
    unsigned names;
};

static bool is_float(const struct fp16 *f, uint32_t v)
{
    return v != VALUE_NONE && infer_dtype_of(&f->infer, v) == DTYPE_FLOAT;
}

/* NULL if the weight's numbers survive. */
static const char *weight_refusal(const struct tensor *t)
{
    double largest = 0;
    const float *x = tensor_f32(t);
    for (int64_t i = 0, n = t->data ? tensor_count(t) : 0; i < n; i++) {
        double a = fabs((double)x[i]);
        if (isfinite(a) && a > largest)
            largest = a;
    }
    if (largest > HALF_MAX)
        return "a weight is larger than 65504, the largest float16";
    if (largest > 0 && largest < HALF_SMALLEST_NORMAL)
        return "a weight's elements are all below 6.1e-05, where float16 loses precision";
    return NULL;
}

static const char *range_refusal(const struct fp16 *f, uint32_t v)
{
    const struct range *r = f->ranges && is_float(f, v) ? ranges_get(f->ranges, v) : NULL;
    if (!r || r->min > r->max)
        return NULL;
    return -(double)r->min > HALF_MAX / 2 || (double)r->max > HALF_MAX / 2
               ? "its activations come near 65504, the largest float16"
               : NULL;
}

static const char *node_refusal(const struct fp16 *f, uint32_t id)
{
    const struct node *n = &f->m->nodes[id];
    char label[200];
    const char *why = NULL;
    if (!globs_select(&f->opts->include, &f->opts->exclude, node_label(f->m, id, label, sizeof label)))
        return "not selected by include and exclude";
    if (n->graph != 0)
        return "it is inside a nested graph (If, Loop, Scan)";
    if (!model_domain_is_default(n->domain) || !node_class(f->m, n))
        return "its operator is not known to support float16";
    for (size_t i = 0; i < sizeof float_only / sizeof float_only[0]; i++)
        if (node_is(n, float_only[i].op_type) &&
            (float_only[i].until == 0 || model_opset(f->m, "") < float_only[i].until))
            return "its operator has no float16 form";
    if (node_is(n, "ConstantOfShape") && !node_attr(n, "value"))
        return "its default value is float32";
    for (int i = 0; i < n->n_input && !why; i++) {
        if (n->input[i] == VALUE_NONE || slot_stays_float(n, i))
            continue;
        if (infer_dtype_of(&f->infer, n->input[i]) == DTYPE_NONE)
            why = "the type of an input is not known";
        const struct tensor *t = is_float(f, n->input[i]) ? value_const(f->m, n->input[i]) : NULL;
        if (!why && t)
            why = weight_refusal(t);
        if (!why)
            why = range_refusal(f, n->input[i]);
    }
    for (int i = 0; i < n->n_output && !why; i++) {
        if (n->output[i] == VALUE_NONE)
            continue;
        if (infer_dtype_of(&f->infer, n->output[i]) == DTYPE_NONE)
            why = "the type of an output is not known";
        if (!why)
            why = range_refusal(f, n->output[i]);
    }
    return why;
}

static bool touches_float(const struct fp16 *f, const struct node *n)
{
    for (int i = 0; i < n->n_input; i++)
        if (is_float(f, n->input[i]))
            return true;
    for (int i = 0; i < n->n_output; i++)
        if (is_float(f, n->output[i]))
            return true;
    return false;
}

/* A graph input or a float node's output is float; movers follow it. */
static bool moves_float(const struct fp16 *f, const struct node *n)
{
    const struct op_class *op = node_class(f->m, n);
    if (!op || op->quant.kind != QUANT_PASS || n->n_input < 1 || !is_float(f, n->input[0]))
        return false;
    uint32_t p = f->m->values[n->input[0]].producer;
    if (p == NODE_NONE)
        return !f->m->values[n->input[0]].weight && f->opts->keep_io;
    return !f->half_node[p];
}

static void choose_sides(struct fp16 *f)
{
    const struct graph *g = model_main(f->m);
    for (int i = 0; i < g->n_nodes; i++) {
        uint32_t id = g->nodes[i];
        const struct node *n = &f->m->nodes[id];
        if (!edit_node_is_live(&f->edit, id) || !touches_float(f, n))
            continue;
        const char *why = node_refusal(f, id);
        if (why) {
            struct layer_row row = {.node = id, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = why};
            layer_report_add(f->c->layers, f->m, &row);
        }
        f->half_node[id] = !why && !moves_float(f, n);
        for (int k = 0; f->half_node[id] && k < n->n_output; k++)
            if (is_float(f, n->output[k]))
                f->half_value[n->output[k]] = true;
    }
    for (int i = 0; !f->opts->keep_io && i < g->n_inputs; i++)
        if (is_float(f, g->inputs[i].value) && !f->m->values[g->inputs[i].value].weight)
            f->half_value[g->inputs[i].value] = true;
}

/* ---- rewriting ---- */
static uint32_t half_weight(struct fp16 *f, uint32_t v)
{
    struct tensor t = {0};
    struct err ignored = {0};
    if (tensor_convert(&t, value_const(f->m, v), DTYPE_FLOAT16, &ignored)) {
        f->edit.failed = true;
        return VALUE_NONE;
    }
    const char *name = f->m->values[v].name;
    bool alone = true; /* all its readers are half nodes: the name may stay */
    const struct reader_list *l = edit_readers(&f->edit, v);
    for (int i = 0; i < l->count; i++) {
        uint32_t r = l->at[i].node;
        alone = alone && r != NODE_NONE && r < f->n_nodes && f->half_node[r] &&
                !slot_stays_float(&f->m->nodes[r], l->at[i].slot);
    }
    if (alone)
        f->m->values[v].name = NULL;
    uint32_t w = edit_add_weight(&f->edit, 0, name, &t);
    f->m->values[v].name = name;
    tensor_fini(&t);
    if (w == VALUE_NONE)
        return w;
    for (const struct note *note = f->m->values[v].notes; note; note = note->next)
        value_set_note(f->m, w, note->key, note->text, note->tensor.data ? &note->tensor : NULL);
    return w;
}

/* The value as the other side wants it: a converted weight, or a Cast. */
static uint32_t other_side(struct fp16 *f, uint32_t v)
{
    if (f->other[v])
        return f->other[v];
    if (value_const(f->m, v))
        return f->other[v] = half_weight(f, v);
    char name[32];
    snprintf(name, sizeof name, "h%u", f->names++);
    uint32_t out = edit_add_value(&f->edit, 0, name);
    uint32_t cast = out == VALUE_NONE ? NODE_NONE : edit_add_node(&f->edit, 0, "Cast", NULL, &v, 1, &out, 1);
    if (cast == NODE_NONE)
        return VALUE_NONE;
    node_set_int(f->m, cast, "to", f->half_value[v] ? DTYPE_FLOAT : DTYPE_FLOAT16);
    return f->other[v] = out;
}

static void report_node(struct fp16 *f, uint32_t id, int slot)
{
    const struct tensor *t = value_const(f->m, f->m->nodes[id].input[slot]);
    struct tensor half = {0}, back = {0};
    struct layer_row row = {.node = id, .weight = f->m->nodes[id].input[slot], .sqnr_db = NAN};
    if (tensor_convert(&half, t, DTYPE_FLOAT16, NULL) == 0 && tensor_convert(&back, &half, DTYPE_FLOAT, NULL) == 0)
        row.sqnr_db = sqnr_db(tensor_f32(t), tensor_f32(&back), tensor_count(t));
    tensor_fini(&half);
    tensor_fini(&back);
    row.before = json_pack("{s:s,s:I}", "dtype", "float32", "bytes", (json_int_t)t->bytes);
    row.after = json_pack("{s:s,s:I}", "dtype", "float16", "bytes", (json_int_t)(t->bytes / 2));
    layer_report_add(f->c->layers, f->m, &row);
}

static void rewrite_node(struct fp16 *f, uint32_t id)
{
    for (int i = 0; i < f->m->nodes[id].n_input; i++) {
        struct node *n = &f->m->nodes[id];
        uint32_t v = n->input[i];
        if (!is_float(f, v))
            continue;
        bool wants_half = f->half_node[id] && !slot_stays_float(n, i);
        if (wants_half == f->half_value[v])
            continue;
        if (value_const(f->m, v) && node_class(f->m, n) && node_class(f->m, n)->quant.kind == QUANT_COMPUTE && i == 1)
            report_node(f, id, i);
        edit_set_input(&f->edit, id, i, other_side(f, v));
    }
    struct node *n = &f->m->nodes[id];
    if (f->half_node[id] && node_is(n, "Cast") && node_attr_int(n, "to", 0) == DTYPE_FLOAT)
        node_set_int(f->m, id, "to", DTYPE_FLOAT16);
    const struct attr *value = f->half_node[id] && node_is(n, "ConstantOfShape") ? node_attr(n, "value") : NULL;
    struct tensor t = {0};
    if (value && value->type == ATTR_TENSOR && value->tensors[0]->tensor.dtype == DTYPE_FLOAT &&
        tensor_convert(&t, &value->tensors[0]->tensor, DTYPE_FLOAT16, NULL) == 0) {
        tensor_fini(&value->tensors[0]->tensor);
        value->tensors[0]->tensor = t;
        value->tensors[0]->storage = STORAGE_RAW;
        value->tensors[0]->typed = (struct bytes){0};
    }
}

/* Outputs the caller reads as float32 but a half node makes: the node makes a new value, a Cast the old one. */
static void restore_output(struct fp16 *f, uint32_t v)
{
    char name[32];
    uint32_t p = f->m->values[v].producer;
    int slot = f->m->values[v].slot;
    if (p == NODE_NONE)
        return;
    snprintf(name, sizeof name, "h%u", f->names++);
    uint32_t raw = edit_add_value(&f->edit, 0, name);
    if (raw == VALUE_NONE)
        return;
    edit_move_output(&f->edit, raw, p, slot);
    /* float readers take the cast the output needs anyway; half readers the raw value */
    uint32_t cast_of = v < f->n_values ? f->other[v] : 0;
    edit_replace_reads(&f->edit, v, raw);
    if (cast_of) {
        uint32_t old = f->m->values[cast_of].producer;
        edit_replace_reads(&f->edit, cast_of, v);
        if (old != NODE_NONE)
            edit_remove_node(&f->edit, old);
    }
    uint32_t cast = edit_add_node(&f->edit, 0, "Cast", NULL, &raw, 1, &v, 1);
    if (cast != NODE_NONE)
        node_set_int(f->m, cast, "to", DTYPE_FLOAT);
}

static void declare(struct fp16 *f, struct value_info *infos, int *count, bool drop)
{
    int kept = 0;
    for (int i = 0; i < *count; i++) {
        uint32_t v = infos[i].value;
        bool half = v < f->n_values && f->half_value[v] && infos[i].type.dtype == DTYPE_FLOAT;
        if (half && !drop)
            infos[i].type.dtype = DTYPE_FLOAT16;
        if (!half || !drop)
            infos[kept++] = infos[i];
    }
    *count = kept;
}

static void rewrite(struct fp16 *f)
{
    struct graph *g = model_main(f->m);
    int n_nodes = g->n_nodes;
    for (int i = 0; i < n_nodes; i++)
        if (edit_node_is_live(&f->edit, model_main(f->m)->nodes[i]))
            rewrite_node(f, model_main(f->m)->nodes[i]);
    for (uint32_t id = 0; id < f->n_nodes; id++) /* nested graphs read outer values as float32 */
        if (edit_node_is_live(&f->edit, id) && f->m->nodes[id].graph != 0)
            rewrite_node(f, id);
    g = model_main(f->m);
    declare(f, g->infos, &g->n_infos, true);
    if (!f->opts->keep_io) {
        declare(f, g->inputs, &g->n_inputs, false);
        declare(f, g->outputs, &g->n_outputs, false);
        return;
    }
    for (int i = 0; i < g->n_outputs; i++) {
        uint32_t v = g->outputs[i].value;
        bool again = false;
        for (int k = 0; k < i; k++)
            again = again || g->outputs[k].value == v;
        if (v < f->n_values && f->half_value[v] && !again)
            restore_output(f, v);
        g = model_main(f->m);
    }
}

static int convert(struct step_ctx *c, const struct ranges *ranges, struct err *err)
{
    struct fp16 f = {.opts = c->params, .c = c, .m = c->model, .ranges = ranges};
    int rc = -1;
    if (edit_init(&f.edit, c->model, err))
        return -1;
    if (infer_run(&f.infer, c->model, err))
        goto out;
    f.n_nodes = c->model->n_nodes;
    f.n_values = c->model->n_values;
    f.half_node = calloc(f.n_nodes + 1, sizeof *f.half_node);
    f.half_value = calloc(f.n_values + 1, sizeof *f.half_value);
    f.other = calloc(f.n_values + 1, sizeof *f.other);
    if (!f.half_node || !f.half_value || !f.other) {
        err_set(err, ERR_NOMEM, "out of memory while converting to float16");
        goto out;
    }
    choose_sides(&f);
    rewrite(&f);
    rc = edit_finish(&f.edit, err);
out:
    free(f.half_node);
    free(f.half_value);
    free(f.other);
    infer_fini(&f.infer);
    edit_fini(&f.edit);
    return rc;
}

static int observe(struct step_ctx *c, struct ranges *ranges, struct err *err)
{
    const struct quantize_fp16_params *o = c->params;
    struct plan *plan = plan_new(c->model, &(struct plan_opts){.pool = c->pool}, err);
    struct plan_run_opts run = {.observe = ranges_observe, .observe_arg = ranges};
    struct evaluate_opts opts = {.pool = c->pool, .run = &run};
    int64_t *index = NULL;
    if (!plan)
        return -1;
    opts.n_index = dataset_spread(c->data, o->samples, &index, err);
    opts.index = index;
    int rc = opts.n_index > 0 && evaluate_each(plan, c->model, c->data, &opts, NULL, NULL, err) > 0 ? 0 : -1;
    free(index);
    plan_free(plan);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct ranges *ranges = NULL;
    struct err why = {0};
    if (passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (c->data) {
        ranges = ranges_new(c->model->n_values);
        if (!ranges)
            return err_set(err, ERR_NOMEM, "out of memory while observing activations");
        if (observe(c, ranges, &why)) {
            if (why.code == ERR_CANCELED) {
                ranges_free(ranges);
                return err_set(err, why.code, "%s", why.msg);
            }
            warnings_add(c->warnings, "activations were not checked against the range of float16: %s", why.msg);
            ranges_free(ranges);
            ranges = NULL;
        }
    }
    int rc = convert(c, ranges, err);
    ranges_free(ranges);
    return rc;
}

METHOD(quantize_fp16) = {
    .name = "quantize.fp16",
    .summary = "half the bytes: weights and activations in float16",
    .doc = "Weights and activations become float16; inputs and outputs stay float32 unless keep_io=false. Nodes whose "
           "numbers do not fit, and "
           "operators without a float16 form, stay in float32. With a dataset the range of activations is checked.",
    .params = params,
    .params_size = sizeof(struct quantize_fp16_params),
    .needs = NEEDS_NOTHING,
    .run = run,
};
