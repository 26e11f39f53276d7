/* SPDX-License-Identifier: Apache-2.0
 * recover_places.c - what can be repaired, against what, and where its numbers are stored (recover_impl.h).
 *
 * From a product on, as long as a value has one reader: a BatchNormalization, a constant a channel that is added or
 * multiplied, one sum with another activation. The other side of the sum must be done by then: it may depend only on
 * products before this one in topological order. Of the two products whose ways meet in a sum so one takes it, the one
 * that comes last; the other takes it when it comes again. */
#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/passes/weights.h"
#include "core/prune/recover_impl.h"

struct finding {
    struct edit *e;
    const struct model *m, *original;
    uint32_t *order;
    int *latest;   /* by value: position in `order` of the last product it depends on; -1: none */
    bool *changed; /* by value: something before it is not the original's */
    struct places *out;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while looking for layers to repair");
}

/* ---- what is not the original's any more ---- */
static bool same_bytes(const struct tensor *a, const struct tensor *b)
{
    return a->dtype == b->dtype && shape_equal(&a->shape, &b->shape) &&
           (a->data == b->data || (a->data && b->data && a->bytes == b->bytes && !memcmp(a->data, b->data, a->bytes)));
}

static const struct node *twin(const struct finding *f, uint32_t id)
{
    const struct node *n = &f->m->nodes[id], *o = id < f->original->n_nodes ? &f->original->nodes[id] : NULL;
    const bool same = o && o->op_type && !strcmp(o->op_type, n->op_type) && o->graph == n->graph &&
                      !strcmp(o->name ? o->name : "", n->name ? n->name : "");
    return same ? o : NULL;
}

static bool node_differs(const struct finding *f, uint32_t id)
{
    const struct node *n = &f->m->nodes[id], *o = twin(f, id);
    if (!o || o->n_input != n->n_input)
        return true;
    for (int i = 0; i < n->n_input; i++) {
        const struct tensor *t = n->input[i] == VALUE_NONE ? NULL : value_const(f->m, n->input[i]),
                            *was = o->input[i] == VALUE_NONE ? NULL : value_const(f->original, o->input[i]);
        if (t && was ? !same_bytes(t, was) : n->input[i] != o->input[i])
            return true;
    }
    return false;
}

static bool holds_graph(const struct node *n)
{
    for (int i = 0; i < n->n_attr; i++)
        if (n->attr[i].type == ATTR_GRAPH || n->attr[i].type == ATTR_GRAPHS)
            return true;
    return false;
}

static bool is_product(const struct model *m, uint32_t id)
{
    const struct op_class *op = node_class(m, &m->nodes[id]);
    return op && op->quant.kind == QUANT_COMPUTE;
}

static void follow(struct finding *f, int position)
{
    const uint32_t id = f->order[position];
    const struct node *n = &f->m->nodes[id];
    int latest = holds_graph(n) ? INT32_MAX : is_product(f->m, id) ? position : -1;
    bool changed = node_differs(f, id);
    for (int i = 0; i < n->n_input; i++)
        if (n->input[i] != VALUE_NONE) {
            latest = f->latest[n->input[i]] > latest ? f->latest[n->input[i]] : latest;
            changed = changed || f->changed[n->input[i]];
        }
    for (int i = 0; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE) {
            f->latest[n->output[i]] = latest;
            f->changed[n->output[i]] = changed;
        }
}

/* ---- the weight ---- */
static const char *kept_of(const struct finding *f, struct place *p, int axis)
{
    char key[24];
    snprintf(key, sizeof key, "kept.%d", axis);
    const struct note *note = value_note(f->m, p->weight, key);
    p->kept = NULL;
    if (!note)
        return NULL;
    if (note->tensor.dtype != DTYPE_INT64 || tensor_count(&note->tensor) != p->outputs)
        return "which of its channels were kept is not known any more";
    for (int64_t i = 0; i < p->outputs; i++)
        if (tensor_i64(&note->tensor)[i] < 0)
            return "which of its channels were kept is not known any more";
    p->kept = tensor_i64(&note->tensor);
    return NULL;
}

static const char *read_weight(const struct finding *f, struct place *p)
{
    const struct node *n = &f->m->nodes[p->node];
    struct weight_ref ref;
    const char *why = NULL;
    if (!product_weight(f->m, p->node, &ref, &why) || why)
        return why ? why : "it has no weight";
    if (n->input[ref.slot] != ref.value)
        return "its weight stands behind other nodes";
    if (ref.tensor->dtype != DTYPE_FLOAT)
        return "its weight is not float32";
    const struct shape *s = &ref.tensor->shape;
    p->weight = ref.value;
    p->slot = ref.slot;
    why = row_source_of(f->m, p->node, &p->source);
    p->rows = !why;
    int axis = 0;
    if (node_is(n, "Conv")) {
        p->from_right = s->rank - 2;
        p->outputs = s->dim[0];
    } else if (node_is(n, "ConvTranspose") && s->rank >= 3) {
        if (node_attr_int(n, "group", 1) != 1)
            return "it is a transposed convolution in groups";
        p->from_right = s->rank - 2;
        p->outputs = s->dim[axis = 1];
    } else if (why || s->rank < 2) {
        return why ? why : "its weight is not a matrix";
    } else if (node_is(n, "Gemm")) {
        axis = node_attr_int(n, "transB", 0) ? 0 : 1;
    } else {
        axis = p->slot == 1 ? s->rank - 1 : s->rank - 2;
        p->from_right = p->slot == 1 ? 0 : 1;
    }
    p->outputs = s->dim[axis];
    p->transposed = p->rows && axis == s->rank - 1 && !node_is(n, "Conv");
    if (p->outputs < 1 || (p->rows && (p->source.groups < 1 || p->outputs % p->source.groups ||
                                       tensor_count(ref.tensor) != p->outputs * p->source.k)))
        return "its weight does not fit its attributes";
    const struct reader_list *readers = edit_readers(f->e, p->weight);
    for (int i = 0; i < readers->count; i++)
        if (readers->at[i].node != p->node)
            return "its weight is shared with another node";
    return kept_of(f, p, axis);
}

double *place_weight(const struct model *m, const struct place *p, struct err *err)
{
    const struct tensor *t = value_const(m, p->weight);
    const int64_t k = p->source.k;
    double *w = tensor_doubles(t);
    double *turned = w && p->transposed ? malloc((size_t)(k * p->outputs) * sizeof *turned) : NULL;
    if (!w || (p->transposed && !turned)) {
        free(w);
        nomem(err);
        return NULL;
    }
    if (!p->transposed)
        return w;
    for (int64_t i = 0; i < k; i++)
        for (int64_t o = 0; o < p->outputs; o++)
            turned[o * k + i] = w[i * p->outputs + o];
    free(w);
    return turned;
}

int place_put_weight(struct model *m, const struct place *p, const double *w, struct err *err)
{
    const struct tensor *old = value_const(m, p->weight);
    const int64_t k = p->source.k;
    struct tensor t = {0};
    if (tensor_alloc(&t, DTYPE_FLOAT, &old->shape, err))
        return -1;
    for (int64_t o = 0; o < p->outputs; o++)
        for (int64_t i = 0; i < k; i++)
            tensor_f32(&t)[p->transposed ? i * p->outputs + o : o * k + i] = (float)w[o * k + i];
    const int rc = weight_replace(m, p->weight, &t, err);
    tensor_fini(&t);
    return rc;
}

int place_mask(const struct model *m, const struct place *p, bool **mask, struct err *err)
{
    const struct note *note = value_note(m, p->weight, "mask");
    const int64_t k = p->source.k, count = p->outputs * k;
    *mask = NULL;
    if (!note || tensor_count(&note->tensor) != count || !note->tensor.data)
        return 0;
    bool *keep = malloc((size_t)count * sizeof *keep);
    if (!keep)
        return nomem(err);
    for (int64_t o = 0; o < p->outputs; o++)
        for (int64_t i = 0; i < k; i++)
            keep[o * k + i] = dtype_get(note->tensor.dtype, note->tensor.data,
                                            p->transposed ? i * p->outputs + o : o * k + i) != 0;
    *mask = keep;
    return 0;
}

/* ---- constants a channel ---- */
/* It has one number for all of n channels, or one for each along the axis that is `from_right` from the last. */
static bool per_channel(const struct tensor *t, int64_t n, int from_right)
{
    if (!t || t->dtype != DTYPE_FLOAT || !t->data)
        return false;
    const int64_t count = tensor_count(t);
    const int axis = t->shape.rank - 1 - from_right;
    return count == 1 || (count == n && axis >= 0 && t->shape.dim[axis] == n);
}

double *place_vector(const struct model *m, uint32_t node, int slot, int64_t outputs, struct err *err)
{
    const struct node *n = &m->nodes[node];
    const struct tensor *t = slot < n->n_input && n->input[slot] != VALUE_NONE ? value_const(m, n->input[slot]) : NULL;
    double *v = calloc((size_t)outputs, sizeof *v);
    if (!v)
        nomem(err);
    for (int64_t i = 0; v && t && i < outputs; i++)
        v[i] = (double)tensor_f32(t)[tensor_count(t) == 1 ? 0 : i];
    return v;
}

int place_put_vector(struct edit *e, uint32_t node, int slot, int64_t outputs, const double *v, struct err *err)
{
    struct model *m = e->m;
    const struct node *n = &m->nodes[node];
    const uint32_t old = slot < n->n_input ? n->input[slot] : VALUE_NONE;
    const struct tensor *was = old == VALUE_NONE ? NULL : value_const(m, old);
    const bool fits = was && tensor_count(was) == outputs;
    const struct shape shape = fits ? was->shape : SHAPE(outputs);
    struct tensor t = {0};
    int rc = tensor_alloc(&t, DTYPE_FLOAT, &shape, err);
    for (int64_t i = 0; rc == 0 && i < outputs; i++)
        tensor_f32(&t)[i] = (float)v[i];
    if (rc == 0 && fits && edit_count(e, old) == 1) {
        rc = weight_replace(m, old, &t, err);
    } else if (rc == 0) {
        const uint32_t made = edit_add_weight(e, 0, old == VALUE_NONE ? "bias" : m->values[old].name, &t);
        if (made != VALUE_NONE)
            edit_set_input(e, node, slot, made);
        rc = e->failed ? nomem(err) : 0;
    }
    tensor_fini(&t);
    return rc;
}

/* ---- the way to the target ---- */
struct way {
    struct finding *f;
    struct place *p;
    uint32_t added;      /* Add of a constant: the last on the way that can take a bias */
    int added_slot;
    double *added_slope; /* [outputs] of the target by it */
    int position;
};

static double *ones(struct finding *f, int64_t n)
{
    double *v = arena_calloc(f->out->arena, (size_t)n, sizeof *v);
    for (int64_t i = 0; v && i < n; i++)
        v[i] = 1;
    return v;
}

/* What came before counts with this factor from now on. */
static void scale_all(struct way *w, int64_t channel, double by)
{
    struct place *p = w->p;
    p->slope[channel] *= by;
    if (p->bn != NODE_NONE)
        p->bn_slope[channel] *= by;
    if (w->added != NODE_NONE)
        w->added_slope[channel] *= by;
    if (p->bias_slope)
        p->bias_slope[channel] *= by;
}

static bool cross_batchnorm(struct way *w, uint32_t id)
{
    const struct model *m = w->f->m;
    const struct node *n = &m->nodes[id];
    struct place *p = w->p;
    const struct tensor *t[5] = {NULL};
    if (p->bn != NODE_NONE || n->n_input != 5 || node_attr_int(n, "training_mode", 0) || p->residual ||
        !(p->source.window || p->from_right > 0 || node_is(&m->nodes[p->node], "Gemm")))
        return false;
    for (int i = 1; i < n->n_output; i++)
        if (n->output[i] != VALUE_NONE)
            return false;
    for (int i = 1; i < 5; i++) {
        t[i] = n->input[i] == VALUE_NONE ? NULL : value_const(m, n->input[i]);
        if (!t[i] || t[i]->dtype != DTYPE_FLOAT || !t[i]->data || tensor_count(t[i]) != p->outputs)
            return false;
    }
    const double eps = (double)node_attr_float(n, "epsilon", 1e-5f);
    for (int64_t c = 0; c < p->outputs; c++)
        scale_all(w, c, (double)tensor_f32(t[1])[c] / sqrt((double)tensor_f32(t[4])[c] + eps));
    p->bn = id;
    p->bn_slope = ones(w->f, p->outputs);
    return p->bn_slope != NULL;
}

/* Add or Mul with a constant a channel. */
static bool cross_constant(struct way *w, uint32_t id, uint32_t v)
{
    const struct model *m = w->f->m;
    const struct node *n = &m->nodes[id];
    const int slot = n->input[0] == v ? 1 : 0;
    const struct tensor *t = n->input[slot] == VALUE_NONE ? NULL : value_const(m, n->input[slot]);
    if (!per_channel(t, w->p->outputs, w->p->from_right))
        return false;
    if (node_is(n, "Mul")) {
        for (int64_t c = 0; c < w->p->outputs; c++)
            scale_all(w, c, (double)tensor_f32(t)[tensor_count(t) == 1 ? 0 : c]);
        return true;
    }
    if (tensor_count(t) == w->p->outputs) {
        w->added = id;
        w->added_slot = slot;
        w->added_slope = ones(w->f, w->p->outputs);
        return w->added_slope != NULL;
    }
    return true;
}

static bool cross_sum(struct way *w, uint32_t id, uint32_t v)
{
    const struct node *n = &w->f->m->nodes[id];
    const uint32_t other = n->input[n->input[0] == v ? 1 : 0];
    if (w->p->residual || other == VALUE_NONE || other == v || value_const(w->f->m, other))
        return false;
    if (w->f->latest[other] >= w->position) {
        w->p->sum_after = w->f->latest[other] < INT32_MAX ? w->f->latest[other] : -1;
        return false;
    }
    w->p->residual = true;
    return true;
}

static bool cross(struct way *w, uint32_t id, uint32_t v)
{
    const struct node *n = &w->f->m->nodes[id];
    if (node_is(n, "BatchNormalization"))
        return n->input[0] == v && cross_batchnorm(w, id);
    if ((node_is(n, "Add") || node_is(n, "Mul")) && n->n_input == 2 && cross_constant(w, id, v))
        return true;
    return node_is(n, "Add") && n->n_input == 2 && cross_sum(w, id, v);
}

/* The product's own bias: there, or possible. */
static bool own_bias(const struct finding *f, struct place *p)
{
    const struct node *n = &f->m->nodes[p->node];
    const struct tensor *t = n->n_input > 2 && n->input[2] != VALUE_NONE ? value_const(f->m, n->input[2]) : NULL;
    const bool absent = n->n_input <= 2 || n->input[2] == VALUE_NONE;
    if (node_is(n, "MatMul") || (node_is(n, "Gemm") && !(node_attr_float(n, "beta", 1) > 0)))
        return false;
    return absent || per_channel(t, p->outputs, 0);
}

static bool find_way(struct finding *f, struct place *p, int position)
{
    const struct node *n = &f->m->nodes[p->node];
    struct way w = {.f = f, .p = p, .added = NODE_NONE, .position = position};
    const bool gemm = node_is(n, "Gemm"), own = own_bias(f, p),
               there = own && n->n_input > 2 && n->input[2] != VALUE_NONE;
    uint32_t v = n->output[0];
    p->slope = ones(f, p->outputs);
    p->bias_slope = own ? ones(f, p->outputs) : NULL;
    if (!p->slope || (own && !p->bias_slope))
        return false;
    for (int64_t c = 0; gemm && c < p->outputs; c++) {
        p->slope[c] = (double)node_attr_float(n, "alpha", 1);
        if (own)
            p->bias_slope[c] = (double)node_attr_float(n, "beta", 1);
    }
    for (uint32_t next; (next = edit_only_reader(f->e, v)) != NODE_NONE && cross(&w, next, v);)
        v = f->m->nodes[next].output[0];
    p->target = v;
    p->bias_node = own ? p->node : NODE_NONE;
    p->bias_slot = 2;
    if (w.added != NODE_NONE && !there) {
        p->bias_node = w.added;
        p->bias_slot = w.added_slot;
        p->bias_slope = w.added_slope;
    }
    return true;
}

/* ---- what reads the target ---- */
static double number_or(const struct model *m, const struct node *n, int slot, const char *attr, double absent)
{
    const struct tensor *t = slot < n->n_input && n->input[slot] != VALUE_NONE ? value_const(m, n->input[slot]) : NULL;
    if (node_attr(n, attr))
        return (double)node_attr_float(n, attr, 0);
    if (slot >= n->n_input || n->input[slot] == VALUE_NONE)
        return absent;
    /* computed: not flat that anyone knows of */
    return t && t->dtype == DTYPE_FLOAT && t->data && tensor_count(t) == 1 ? (double)tensor_f32(t)[0]
           : absent > 0                                                    ? INFINITY
                                                                           : -INFINITY;
}

static void flat_relu(const struct model *m, const struct node *n, double *low, double *high)
{
    (void)m;
    (void)n;
    *low = 0;
    *high = INFINITY;
}

static void flat_clip(const struct model *m, const struct node *n, double *low, double *high)
{
    *low = number_or(m, n, 1, "min", -INFINITY);
    *high = number_or(m, n, 2, "max", INFINITY);
}

static void flat_hard_sigmoid(const struct model *m, const struct node *n, double *low, double *high)
{
    const double alpha = (double)node_attr_float(n, "alpha", 0.2f), beta = (double)node_attr_float(n, "beta", 0.5f);
    (void)m;
    *low = alpha > 0 ? -beta / alpha : -INFINITY;
    *high = alpha > 0 ? (1 - beta) / alpha : INFINITY;
}

static void flat_hard_swish(const struct model *m, const struct node *n, double *low, double *high)
{
    (void)m;
    (void)n;
    *low = -3;
    *high = INFINITY;
}

static const struct flat {
    const char *type;
    void (*range)(const struct model *m, const struct node *n, double *low, double *high);
} flats[] = {
    {"Relu", flat_relu},
    {"Clip", flat_clip},
    {"HardSigmoid", flat_hard_sigmoid},
    {"HardSwish", flat_hard_swish},
};

static void find_flats(const struct finding *f, struct place *p)
{
    const struct reader_list *readers = edit_readers(f->e, p->target);
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < readers->count; i++) {
        const struct node *n = readers->at[i].node == NODE_NONE ? NULL : &f->m->nodes[readers->at[i].node];
        double from = -INFINITY, to = INFINITY;
        for (size_t k = 0; n && readers->at[i].slot == 0 && k < sizeof flats / sizeof *flats; k++)
            if (node_is(n, flats[k].type))
                flats[k].range(f->m, n, &from, &to);
        low = from < low ? from : low;
        high = to > high ? to : high;
    }
    p->low = low < high ? low : -INFINITY;
    p->high = low < high ? high : INFINITY;
}

/* ---- all ---- */
static const char *describe(struct finding *f, struct place *p, int position, bool *failed)
{
    const struct node *n = &f->m->nodes[p->node];
    const char *why = read_weight(f, p);
    if (why)
        return why;
    if (!twin(f, p->node))
        return "the original network has no such node (any more)";
    if (!f->changed[n->output[0]])
        return "nothing before it was changed";
    if (!find_way(f, p, position)) {
        *failed = true;
        return NULL;
    }
    const struct value *was = p->target < f->original->n_values ? &f->original->values[p->target] : NULL;
    if (!was || !was->name || was->producer == NODE_NONE || strcmp(was->name, f->m->values[p->target].name))
        return "the original network does not compute what it makes under the same name";
    find_flats(f, p);
    return NULL;
}

/* The product at this position, and those whose sums waited for it. False: memory. */
static bool add_place(struct finding *f, int position)
{
    struct places *p = f->out;
    const int before = p->n;
    bool failed = false;
    for (int i = -1; i < before; i++) {
        if (i >= 0 && (p->at[i].why || p->at[i].again || p->at[i].sum_after != position))
            continue;
        struct place *at = &p->at[p->n++];
        *at = (struct place){.node = i < 0 ? f->order[position] : p->at[i].node, .weight = VALUE_NONE, .bn = NODE_NONE,
                             .bias_node = NODE_NONE, .target = VALUE_NONE, .sum_after = -1, .low = -INFINITY,
                             .high = INFINITY};
        at->why = describe(f, at, position + (i >= 0), &failed);
        at->sum_after = i < 0 ? at->sum_after : -1;
        at->second = i >= 0;
        if (i >= 0 && !at->residual)
            p->n--;
        else if (i >= 0)
            p->at[i].again = true;
    }
    return !failed;
}

int places_find(struct places *p, struct edit *e, const struct model *original, struct err *err)
{
    const struct graph *g = model_main(e->m);
    struct finding f = {.e = e, .m = e->m, .original = original, .out = p};
    int rc = -1;
    bool failed = false;
    *p = (struct places){.arena = arena_new()};
    f.order = calloc((size_t)g->n_nodes + 1, sizeof *f.order);
    f.latest = malloc(((size_t)e->m->n_values + 1) * sizeof *f.latest);
    f.changed = calloc((size_t)e->m->n_values + 1, sizeof *f.changed);
    p->at = p->arena ? arena_calloc(p->arena, 2 * (size_t)g->n_nodes + 1, sizeof *p->at) : NULL;
    if (!f.order || !f.latest || !f.changed || !p->at) {
        nomem(err);
        goto out;
    }
    memset(f.latest, 0xff, ((size_t)e->m->n_values + 1) * sizeof *f.latest);
    if (model_toposort(e->m, 0, f.order, err))
        goto out;
    for (int i = 0; i < g->n_nodes; i++)
        follow(&f, i);
    for (int i = 0; i < g->n_nodes && !failed; i++)
        if (is_product(e->m, f.order[i]))
            failed = !add_place(&f, i);
    rc = failed ? nomem(err) : 0;
out:
    free(f.order);
    free(f.latest);
    free(f.changed);
    if (rc)
        places_free(p);
    return rc;
}

void places_free(struct places *p)
{
    arena_free(p->arena);
    *p = (struct places){0};
}
