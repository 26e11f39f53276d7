/* SPDX-License-Identifier: Apache-2.0
 * dynamic.c - quantize.dynamic: weights in 8 bits, activations quantized while running, no calibration data.
 *
 * First every node of a family (the table below) is asked whether it can be rewritten; then all that can are. A
 * weight whose float numbers someone else still needs stays as it is for all its readers, as does one whose codes,
 * scales and nodes would take more room than its floats: the file never grows. The opset is raised by the least
 * the forms that are really written need. Nested graphs (If, Loop, Scan) are rewritten like the main one; what a
 * body needs is made in that body, so that a branch not taken costs nothing. Bodies of functions are left alone. */
#include "core/quant/dynamic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/raise_opset.h"
#include "core/passes/weights.h"
#include "core/quant/quantized.h"

static const char *const weight_types[] = {"int8", "uint8", NULL};

#define P(f) PARAM(quantize_dynamic_params, f)
static const struct param params[] = {
    {P(weights), .kind = PARAM_ENUM, .choices = weight_types, .def = "\"int8\"",
     .doc = "type of the weights of MatMul, Gemm and LSTM. uint8 products are added in 32 bits on every CPU: full "
            "8 bits "
            "everywhere, but slower than int8 where there are fast kernels for that. Convolutions are always uint8, "
            "weights that are only stored, and tables, int8"},
    {P(per_channel), .kind = PARAM_BOOL, .def = "true", .doc = "a weight scale for each output channel instead of one"},
    {P(conv), .kind = PARAM_BOOL, .def = "false",
     .doc = "convolutions too: smaller, but ONNX Runtime runs them 2 to 7 times slower than float"},
    {P(isa), .kind = PARAM_ENUM, .choices = isa_names, .def = "\"portable\"", .doc = ISA_DOC},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

/* DynamicQuantizeLSTM has no layout. */
static bool is_batch_first(const struct node *n)
{
    return node_attr_int(n, "layout", 0) != 0;
}

#define PRODUCT .slots = 1u << 1, .opset = 11, .refuse = dynamic_refuse_product, .convert = dynamic_convert_product
#define STORED .opset = 10, .opset_per_channel = 13, .refuse = dynamic_refuse_stored, .convert = dynamic_convert_stored
static const struct dynamic_family families[] = {
    {.op_type = "MatMul", .domain = "", PRODUCT},
    {.op_type = "Gemm", .domain = "", PRODUCT},
    {.op_type = "Conv", .domain = "", PRODUCT},
    {.op_type = "LSTM", .domain = "", .takes = is_batch_first, .slots = 3u << 1, STORED},
    {.op_type = "LSTM", .domain = "", .slots = 3u << 1, .refuse = dynamic_refuse_lstm, .convert = dynamic_convert_lstm},
    {.op_type = "GRU", .domain = "", .slots = 3u << 1, STORED},
    {.op_type = "RNN", .domain = "", .slots = 3u << 1, STORED},
    {.op_type = "Attention", .domain = "com.microsoft", .slots = 1u << 1, STORED},
    {.op_type = "Gather", .domain = "", .slots = 1u << 0, .opset = 10, .refuse = dynamic_refuse_table,
     .convert = dynamic_convert_table},
};

/* ---- shared by the families ---- */
int dynamic_nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while quantizing");
}

uint32_t dynamic_fresh(struct dynamic *d, uint32_t graph, const char *prefix)
{
    char name[32];
    snprintf(name, sizeof name, "%s%u", prefix, d->names++);
    return edit_add_value(&d->edit, graph, name);
}

uint32_t dynamic_constant_add(struct dynamic *d, uint32_t graph, const char *prefix, const struct tensor *t)
{
    char name[32];
    snprintf(name, sizeof name, "%s%u", prefix, d->names++);
    return edit_add_weight(&d->edit, graph, name, t);
}

uint32_t dynamic_add(struct dynamic *d, uint32_t graph, const char *op, const uint32_t *in, int n_in,
                     const char *prefix)
{
    uint32_t out = dynamic_fresh(d, graph, prefix);
    if (!d->edit.failed)
        edit_add_node(&d->edit, graph, op, NULL, in, n_in, &out, 1);
    return out;
}

uint32_t dynamic_zero128(struct dynamic *d)
{
    struct tensor z = {0};
    if (d->zero128 != VALUE_NONE)
        return d->zero128;
    if (tensor_alloc(&z, DTYPE_UINT8, &SHAPE_SCALAR, NULL)) {
        d->edit.failed = true;
        return VALUE_NONE;
    }
    *(unsigned char *)z.data = 128;
    d->zero128 = dynamic_constant_add(d, 0, "z", &z);
    tensor_fini(&z);
    return d->zero128;
}

/* The value whose bytes are behind `value`: itself, or its source through Identity and Cast to float32. */
static uint32_t source_of(const struct dynamic *d, uint32_t value)
{
    const struct model *m = d->m;
    for (int depth = 0; depth < 8 && value != VALUE_NONE; depth++) {
        if (value_const(m, value))
            return value;
        const uint32_t p = m->values[value].producer;
        if (p == NODE_NONE || !m->nodes[p].op_type || m->nodes[p].n_input < 1)
            return VALUE_NONE;
        const struct node *n = &m->nodes[p];
        if (!node_is(n, "Identity") && !(node_is(n, "Cast") && node_attr_int(n, "to", 0) == DTYPE_FLOAT))
            return VALUE_NONE;
        value = n->input[0];
    }
    return VALUE_NONE;
}

const struct tensor *dynamic_peek(const struct dynamic *d, uint32_t value)
{
    const uint32_t source = source_of(d, value);
    return source == VALUE_NONE ? NULL : value_const(d->m, source);
}

bool dynamic_constant(const struct dynamic *d, uint32_t value, struct tensor *t, uint32_t *source)
{
    *source = source_of(d, value);
    const struct tensor *from = *source == VALUE_NONE ? NULL : value_const(d->m, *source);
    if (!from || !from->data || !dtype_is_float(from->dtype))
        return false;
    if (from->dtype != DTYPE_FLOAT)
        return tensor_convert(t, from, DTYPE_FLOAT, NULL) == 0;
    tensor_ref(t, from);
    return true;
}

const char *dynamic_size_refusal(struct dynamic *d, uint32_t value, int64_t scales, int64_t overhead)
{
    const struct tensor *t = dynamic_peek(d, value);
    const double before = (double)t->bytes, after = (double)tensor_count(t) + 4 * (double)scales + (double)overhead;
    if (after < before)
        return NULL;
    const char *why = model_printf(d->m, "its weight takes %.0f bytes; codes, scales and their nodes would take "
                                         "about %.0f",
                                   before, after);
    return why ? why : "its codes would be larger than its weight";
}

struct made_codes *dynamic_find_codes(const struct dynamic *d, uint32_t source, int form, float alpha)
{
    struct made_codes *c = source < d->n_values ? d->made[source] : NULL;
    while (c && (c->form != form || c->alpha != alpha))
        c = c->next;
    return c;
}

struct made_codes *dynamic_keep_codes(struct dynamic *d, uint32_t source, int form, float alpha,
                                      const struct qweight *q)
{
    struct model *m = d->m;
    const uint32_t graph = m->values[source].graph;
    const char *name = m->values[source].name;
    struct made_codes *c = model_alloc(m, 1, sizeof *c);
    if (!c)
        return NULL;
    *c = (struct made_codes){.next = d->made[source], .form = form, .alpha = alpha, .zero = VALUE_NONE, .floats =
                             VALUE_NONE};
    if (!c->next)
        m->values[source].name = NULL; /* the floats go, the first codes have their name */
    c->codes = edit_add_weight(&d->edit, graph, name, &q->codes);
    m->values[source].name = name;
    c->scale = dynamic_constant_add(d, graph, "s", &q->scale);
    d->made[source] = c;
    return d->edit.failed ? NULL : c;
}

/* ---- matrices ---- */
static void cut_matrix(const struct tensor *w, const struct matrices *s, int64_t which, float *out)
{
    const float *from = tensor_f32(w) + which * s->k * s->n;
    for (int64_t k = 0; k < s->k; k++)
        for (int64_t n = 0; n < s->n; n++)
            out[k * s->n + n] = s->alpha * from[s->turned ? n * s->k + k : k * s->n + n];
}

static void add_proof(struct pair_proof *all, const struct pair_proof *one)
{
    all->adds_in_32 = one->adds_in_32;
    all->channels += one->channels;
    all->guarded += one->guarded;
    all->overflow += one->overflow;
    all->largest = one->largest > all->largest ? one->largest : all->largest;
    all->measured = one->measured > all->measured ? one->measured : all->measured;
    all->accumulator = one->accumulator > all->accumulator ? one->accumulator : all->accumulator;
}

/* One of the batch; its codes and scales go to their places, its signal and noise are added. */
struct batch {
    const struct tensor *w;
    const struct matrices *s;
    struct qweight_opts opts;
    struct qweight *q;
    struct tensor matrix; /* [K, N] */
    int64_t scales;       /* a matrix; 0: one for all */
    double signal, noise;
};

static int quantize_one(struct batch *b, int64_t which, struct err *err)
{
    struct qweight one = {0};
    const int64_t each = b->s->k * b->s->n;
    const float *x = tensor_f32(&b->matrix);
    double signal = 0;
    cut_matrix(b->w, b->s, which, tensor_f32(&b->matrix));
    if (qweight_make(&one, &b->matrix, &b->opts, err))
        return -1;
    memcpy((char *)b->q->codes.data + which * each, one.codes.data, (size_t)each);
    memcpy(tensor_f32(&b->q->scale) + which * b->scales, one.scale.data, one.scale.bytes);
    add_proof(&b->q->proof, &one.proof);
    b->q->zero = one.zero;
    for (int64_t i = 0; i < each; i++)
        signal += (double)x[i] * (double)x[i];
    b->signal += signal;
    b->noise += isnan(one.sqnr_db) ? 0 : signal / pow(10, one.sqnr_db / 10);
    qweight_fini(&one);
    return 0;
}

/* The largest of the matrices' own scales. */
static int common_scale(struct batch *b, float *scale, struct err *err)
{
    *scale = 0;
    for (int64_t i = 0; i < b->s->batch; i++) {
        struct qweight one = {0};
        cut_matrix(b->w, b->s, i, tensor_f32(&b->matrix));
        if (qweight_make(&one, &b->matrix, &b->opts, err))
            return -1;
        if (tensor_f32(&one.scale)[0] > *scale)
            *scale = tensor_f32(&one.scale)[0];
        qweight_fini(&one);
    }
    return 0;
}

int dynamic_matrices(const struct dynamic *d, const struct tensor *w, const struct matrices *s, struct qweight *q,
                     struct err *err)
{
    struct batch b = {.w = w, .s = s, .q = q,
                      .opts = {.dtype = s->dtype, .per_channel = s->per_channel, .axis = 1, .isa = d->opts->isa}};
    const bool single = s->one_scale && !s->per_channel;
    struct shape shape = SHAPE(s->batch, s->k, s->n),
                 scales = s->per_channel ? SHAPE(s->batch, s->n) : SHAPE(single ? 1 : s->batch);
    float common;
    int rc = -1;
    *q = (struct qweight){.sqnr_db = NAN};
    b.scales = s->per_channel ? s->n : !single;
    if (tensor_alloc(&q->codes, s->dtype, &shape, err) || tensor_alloc(&q->scale, DTYPE_FLOAT, &scales, err) ||
        tensor_alloc(&b.matrix, DTYPE_FLOAT, &SHAPE(s->k, s->n), err))
        goto out;
    if (single && s->batch > 1) {
        if (common_scale(&b, &common, err))
            goto out;
        b.opts.scale = &common;
    }
    for (int64_t i = 0; i < s->batch; i++)
        if (quantize_one(&b, i, err))
            goto out;
    if (b.noise > 0)
        q->sqnr_db = 10 * log10(b.signal / b.noise);
    rc = 0;
out:
    tensor_fini(&b.matrix);
    if (rc)
        qweight_fini(q);
    return rc;
}

/* ---- rows ---- */
void dynamic_report(struct dynamic *d, uint32_t node, uint32_t weight, const struct qweight *q, const char *form,
                    const char *note, bool proof)
{
    const struct tensor *t = value_const(d->m, weight);
    struct layer_row row = {.node = node, .weight = weight, .sqnr_db = q->sqnr_db};
    row.before = json_pack("{s:s,s:I}", "dtype", dtype_name(t->dtype), "bytes", (json_int_t)t->bytes);
    row.after = json_pack("{s:s,s:I,s:I,s:s}", "dtype", dtype_name(q->codes.dtype), "bytes", (json_int_t)q->codes.bytes,
                          "scales", (json_int_t)tensor_count(&q->scale), "form", form);
    if (row.after && note)
        json_object_set_new(row.after, "note", json_string(note));
    if (proof)
        pair_proof_report(row.after, &q->proof, d->opts->isa);
    layer_report_add(d->c->layers, d->m, &row);
}

static void row_skipped(struct dynamic *d, uint32_t node, uint32_t weight, const char *why)
{
    struct layer_row row = {.node = node, .weight = weight, .sqnr_db = NAN, .skipped = why};
    layer_report_add(d->c->layers, d->m, &row);
}

/* ---- what will be rewritten ---- */
/* The first row that takes the node. */
static const struct dynamic_family *family_of(const struct node *n)
{
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const struct dynamic_family *f = &families[i];
        const char *domain = model_domain_is_default(n->domain) ? "" : n->domain;
        if (!strcmp(n->op_type, f->op_type) && !strcmp(domain, f->domain) && (!f->takes || f->takes(n)))
            return f;
    }
    return NULL;
}

/* Why a node of a family cannot be rewritten whatever its family says. */
static const char *weights_refusal(const struct dynamic *d, const struct node *n, unsigned slots)
{
    for (int slot = 0; slot < 3; slot++) {
        if (!(slots & 1u << slot))
            continue;
        const uint32_t v = slot < n->n_input ? n->input[slot] : VALUE_NONE;
        const struct tensor *t = v == VALUE_NONE ? NULL : dynamic_peek(d, v);
        if (!t && node_is(n, "MatMul") && dynamic_peek(d, n->input[0]))
            return "its constant operand is on the left";
        if (!t)
            return "its weight is not a constant";
        if (t->dtype != DTYPE_FLOAT && v == source_of(d, v))
            return "its weight is not float32";
        if (!dtype_is_float(t->dtype))
            return "its weight is not floating-point";
        if (tensor_count(t) <= 0)
            return "its weight is empty";
        if (!t->data)
            return "its weight's external data file is missing";
    }
    return NULL;
}

static const char *refusal(struct dynamic *d, uint32_t node)
{
    const struct node *n = &d->m->nodes[node];
    char label[200];
    if (!globs_select(&d->opts->include, &d->opts->exclude, node_label(d->m, node, label, sizeof label)))
        return "not selected by include and exclude";
    if (n->n_output < 1)
        return "it has no outputs";
    const char *why = weights_refusal(d, n, d->family[node]->slots);
    return why ? why : d->family[node]->refuse(d, node);
}

/* A reader for whom the floats would have to stay beside the codes; false: there is none. */
static bool other_reader(struct dynamic *d, uint32_t value, struct reader *found)
{
    const uint32_t source = source_of(d, value);
    while (value != VALUE_NONE) {
        const struct reader_list *l = edit_readers(&d->edit, value);
        for (int i = 0; i < l->count; i++) {
            const struct reader *r = &l->at[i];
            const bool link = r->node != NODE_NONE && (node_is(&d->m->nodes[r->node], "Cast") ||
                                                       node_is(&d->m->nodes[r->node], "Identity"));
            if (link && l->count == 1)
                continue;
            if (r->node == NODE_NONE || r->node >= d->n_nodes || !d->family[r->node] ||
                !(d->family[r->node]->slots & 1u << r->slot)) {
                *found = *r;
                return true;
            }
        }
        if (value == source)
            break;
        value = d->m->nodes[d->m->values[value].producer].input[0];
    }
    return false;
}

/* Nodes whose weight someone else needs in float: until nothing changes. */
static void leave_shared(struct dynamic *d)
{
    bool changed = true;
    char label[200];
    while (changed) {
        changed = false;
        for (uint32_t id = 0; id < d->n_nodes; id++)
            for (int slot = 0; slot < 3 && d->family[id]; slot++) {
                struct reader other;
                if (!(d->family[id]->slots & 1u << slot) || !other_reader(d, d->m->nodes[id].input[slot], &other))
                    continue;
                const char *name = other.node == NODE_NONE ? "an output of the model" : node_label(d->m, other.node,
                    label,
                                                                                                  sizeof label);
                const char *why = model_printf(d->m, "its weight must stay in float for %s, and codes beside it "
                                                     "would only "
                                               "make the file larger", name);
                d->why[id] = why ? why : "its weight must stay in float for another reader";
                d->family[id] = NULL;
                changed = true;
            }
    }
}

/* Fills family and why. Returns the opset the forms need; *any: there is something to do. */
static int64_t choose(struct dynamic *d, bool *any)
{
    int64_t opset = 0;
    *any = false;
    for (uint32_t id = 0; id < d->n_nodes; id++) {
        const struct node *n = &d->m->nodes[id];
        if (!edit_node_is_live(&d->edit, id))
            continue;
        d->family[id] = family_of(n);
        if (d->family[id] && node_is(n, "Gather")) { /* most are shape arithmetic: no layers */
            const struct tensor *t = n->n_input > 0 && n->input[0] != VALUE_NONE ? dynamic_peek(d, n->input[0]) : NULL;
            if (!t || !dtype_is_float(t->dtype) || t->shape.rank < 2)
                d->family[id] = NULL;
        }
        if (d->family[id] && (d->why[id] = refusal(d, id)))
            d->family[id] = NULL;
    }
    leave_shared(d);
    for (uint32_t id = 0; id < d->n_nodes; id++) {
        if (!d->family[id])
            continue;
        *any = true;
        opset = i64_max(opset, d->family[id]->opset);
        if (d->opts->per_channel && d->per_channel_stored)
            opset = i64_max(opset, d->family[id]->opset_per_channel);
    }
    return opset;
}

/* Casts and Identities of weights whose codes have taken their place. */
static void drop_widening(struct dynamic *d)
{
    bool changed = true;
    while (changed) {
        changed = false;
        for (uint32_t id = 0; id < d->n_nodes; id++) {
            const struct node *n = &d->m->nodes[id];
            if (!edit_node_is_live(&d->edit, id) || n->n_output != 1 || n->output[0] == VALUE_NONE ||
                (!node_is(n, "Cast") && !node_is(n, "Identity")))
                continue;
            const uint32_t source = source_of(d, n->output[0]);
            if (source == VALUE_NONE || source >= d->n_values || !d->made[source] ||
                edit_count(&d->edit, n->output[0]) > 0)
                continue;
            edit_remove_node(&d->edit, id);
            changed = true;
        }
    }
}

static int convert_all(struct dynamic *d, struct err *err)
{
    char label[200];
    for (uint32_t id = 0; id < d->n_nodes; id++) {
        struct weight_ref ref;
        const char *why = NULL;
        if (!edit_node_is_live(&d->edit, id))
            continue;
        if (d->family[id]) {
            if (d->c->progress && d->c->progress(d->c, "quantize", id, d->n_nodes, err))
                return -1;
            const char *name = node_label(d->m, id, label, sizeof label); /* the node goes */
            if (d->family[id]->convert(d, id, err))
                return err_wrap(err, "weight of node '%s': ", name);
        } else if (d->why[id]) {
            const struct dynamic_family *f = family_of(&d->m->nodes[id]);
            const int slot = f->slots & 1 ? 0 : 1;
            const struct node *n = &d->m->nodes[id];
            row_skipped(d, id, slot < n->n_input ? n->input[slot] : VALUE_NONE, d->why[id]);
        } else if (product_weight(d->m, id, &ref, &why)) {
            why = model_printf(d->m, "there is no integer %s", d->m->nodes[id].op_type);
            row_skipped(d, id, ref.value, why ? why : "there is no integer form of it");
        }
    }
    drop_widening(d);
    return 0;
}

static int begin(struct dynamic *d, struct err *err)
{
    if (edit_init(&d->edit, d->m, err))
        return -1;
    d->n_values = d->m->n_values;
    d->n_nodes = d->m->n_nodes;
    d->inputs = calloc((size_t)d->n_values + 1, sizeof *d->inputs);
    d->made = calloc((size_t)d->n_values + 1, sizeof *d->made);
    d->family = calloc((size_t)d->n_nodes + 1, sizeof *d->family);
    d->why = calloc((size_t)d->n_nodes + 1, sizeof *d->why);
    if (!d->inputs || !d->made || !d->family || !d->why)
        return dynamic_nomem(err);
    return infer_run(&d->infer, d->m, err);
}

static void end(struct dynamic *d)
{
    free(d->inputs);
    free(d->made);
    free(d->family);
    free(d->why);
    d->inputs = NULL;
    d->made = NULL;
    d->family = NULL;
    d->why = NULL;
    infer_fini(&d->infer);
    edit_fini(&d->edit);
}

/* Raises the opset if what was chosen needs it, and chooses again. A scale for each channel of stored weights is
 * given up where the model cannot go to opset 13. */
static int choose_and_raise(struct dynamic *d, struct err *err)
{
    bool any;
    struct err why = {0};
    int64_t need = choose(d, &any);
    if (!any || need <= model_opset(d->m, ""))
        return 0;
    end(d);
    if (raise_opset_for(d->m, need, need > 11 ? "DequantizeLinear with an axis" : "DynamicQuantizeLinear",
                        d->c->warnings,
                        need > 11 ? &why : err)) {
        if (need <= 11 || why.code == ERR_NOMEM || why.code == ERR_CANCELED)
            return need <= 11 ? -1 : err_set(err, why.code, "%s", why.msg);
        warnings_add(d->c->warnings, "stored weights have one scale each instead of one a channel: %s", why.msg);
        d->per_channel_stored = false;
    }
    if (begin(d, err))
        return -1;
    need = choose(d, &any);
    if (!any || need <= model_opset(d->m, ""))
        return 0;
    end(d);
    if (raise_opset_for(d->m, need, "DynamicQuantizeLinear", d->c->warnings, err) || begin(d, err))
        return -1;
    choose(d, &any);
    return 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct dynamic d = {.opts = c->params, .c = c, .m = c->model, .zero128 = VALUE_NONE, .per_channel_stored = true};
    int rc = -1;
    if (quantized_refuse(c->model, "quantize.dynamic", err) || passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (begin(&d, err) == 0 && choose_and_raise(&d, err) == 0 && convert_all(&d, err) == 0)
        rc = edit_finish(&d.edit, err);
    end(&d);
    if (rc == 0 && d.slow)
        warnings_add(c->warnings,
                     "convolutions with dynamic quantization run 2 to 7 times slower than float in ONNX Runtime; "
                     "quantize.static is faster and as small");
    return rc;
}

METHOD(quantize_dynamic) = {
    .name = "quantize.dynamic",
    .summary = "8-bit weights, activations quantized while running; no data needed",
    .doc = "Weights of MatMul and Gemm become 8-bit codes; activations are quantized to uint8 by their range of "
           "the moment "
           "(DynamicQuantizeLinear, MatMulInteger, which ONNX Runtime fuses). LSTM becomes DynamicQuantizeLSTM. "
           "Tables read by "
           "Gather (embeddings) and the weights of GRU, RNN and Attention are stored in int8: smaller, as fast as "
           "before. "
           "Convolutions only with conv=true: files get smaller, but ONNX Runtime runs them slower than float. A "
           "weight "
           "whose codes would take more room than its floats, or that something else needs in float, stays.",
    .params = params,
    .params_size = sizeof(struct quantize_dynamic_params),
    .needs = NEEDS_NOTHING,
    .run = run,
};
