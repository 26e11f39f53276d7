/* SPDX-License-Identifier: Apache-2.0
 * groups_cut.c - taking atoms out of a model. What is left of every root axis is planned first and checked, so that
 * a refusal changes nothing. Then the rows' shrink functions write new sizes while all bytes are still as they were;
 * then each constant is cut along all its axes at once, one after the other, and the pages of its old bytes are
 * given back; then declarations follow. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/passes/edit.h"
#include "core/prune/groups_impl.h"
#include "core/tensor/spill.h"

/* ---- the plan ---- */
void cut_fini(struct cut *c)
{
    for (int i = 0; c->kept && i < c->n_rows; i++)
        free(c->kept[c->rows[i]]);
    free(c->kept);
    free(c->count);
    free(c->rows);
    *c = (struct cut){0};
}

static bool is_gone(const struct solver *s, const bool *const *gone, int64_t e)
{
    const int root = element_root(s, e), group = s->atom_group[root];
    return group != ATOM_NONE && s->groups->at[group].n && gone[group] && gone[group][s->atom[root]];
}

static int plan_root(const struct solver *s, const bool *const *gone, bool lists, int root, struct cut *c)
{
    const struct axis *a = &s->axis[root];
    int64_t left = 0, n = 0;
    for (int64_t e = 0; e < a->size; e++)
        left += !is_gone(s, gone, a->base + e);
    if (left == a->size)
        return 0;
    c->kept[root] = malloc((lists ? (size_t)left + 1 : 1) * sizeof **c->kept);
    if (!c->kept[root])
        return -1;
    c->count[root] = left;
    c->rows[c->n_rows++] = root;
    for (int64_t e = 0; lists && e < a->size; e++)
        if (!is_gone(s, gone, a->base + e))
            c->kept[root][n++] = e;
    return 0;
}

int cut_plan(const struct solver *s, const bool *const *gone, bool lists, struct cut *c, struct err *err)
{
    const size_t n = (size_t)s->n_axes + 1;
    *c = (struct cut){calloc(n, sizeof *c->kept), calloc(n, sizeof *c->count), calloc(n, sizeof *c->rows), 0};
    bool failed = !c->kept || !c->count || !c->rows;
    for (int i = 0; !failed && i < s->n_axes; i++)
        if (s->axis[i].parent == i && s->axis[i].base >= 0)
            failed = plan_root(s, gone, lists, i, c) != 0;
    if (!failed)
        return 0;
    cut_fini(c);
    return err_set(err, ERR_NOMEM, "out of memory while planning a cut");
}

static int check_left(const struct solver *s, const bool *const *gone, const struct cut *c, struct err *err)
{
    for (int i = 0; i < s->groups->n; i++) {
        const struct group *g = &s->groups->at[i];
        int64_t left = 0;
        for (int64_t k = 0; k < g->n; k++)
            left += !gone[i] || !gone[i][k];
        if (g->n && left == 0)
            return err_set(err, ERR_INVALID, "group '%.100s': all %lld channels would go", g->name, (long long)g->n);
    }
    for (int i = 0; i < c->n_rows; i++) {
        const struct axis *a = &s->axis[c->rows[i]];
        if (c->count[c->rows[i]] == 0)
            return err_set(err, ERR_INVALID, "nothing would be left of axis %d of '%.150s'", a->index,
                           s->m->values[a->value].name);
    }
    return 0;
}

/* ---- cutting bytes ---- */
struct slice {
    const struct tensor *in;
    const int64_t *kept[SHAPE_MAX_RANK]; /* NULL: all */
    int64_t count[SHAPE_MAX_RANK];
    int last; /* last axis that is cut */
};

static unsigned get_bits(const unsigned char *p, int64_t i, int bits)
{
    return (unsigned)p[i * bits / 8] >> (i * bits % 8) & ((1u << bits) - 1);
}

static void put_bits(unsigned char *p, int64_t i, int bits, unsigned v)
{
    p[i * bits / 8] = (unsigned char)(p[i * bits / 8] | v << (i * bits % 8));
}

/* One row of the last cut axis: elements from `row` on are read, those from `to` on written; runs are copied at
 * once. */
static void copy_row(const struct slice *c, unsigned char *out, int64_t row, int64_t to, int64_t inner)
{
    const unsigned char *in = c->in->data;
    const int64_t *kept = c->kept[c->last], n = c->count[c->last];
    const int bits = dtype_bits(c->in->dtype);
    for (int64_t i = 0; i < n;) {
        int64_t run = 1;
        while (i + run < n && kept[i + run] == kept[i] + run)
            run++;
        const int64_t from = row + kept[i] * inner, count = run * inner;
        if (bits >= 8)
            memcpy(out + to * bits / 8, in + from * bits / 8, (size_t)(count * bits / 8));
        for (int64_t k = 0; bits < 8 && k < count; k++)
            put_bits(out, to + k, bits, get_bits(in, from + k, bits));
        to += count;
        i += run;
    }
}

static void copy_kept(const struct slice *c, struct tensor *out)
{
    const struct shape *shape = &c->in->shape;
    const int64_t inner = shape_product(shape, c->last + 1, shape->rank), width = c->count[c->last] * inner;
    int64_t at[SHAPE_MAX_RANK] = {0}, to = 0;
    for (;;) {
        int64_t row = 0;
        for (int i = 0; i < c->last; i++)
            row = row * shape->dim[i] + (c->kept[i] ? c->kept[i][at[i]] : at[i]);
        copy_row(c, out->data, row * shape->dim[c->last] * inner, to, inner);
        to += width;
        int i = c->last - 1;
        while (i >= 0 && ++at[i] == c->count[i])
            at[i--] = 0;
        if (i < 0)
            return;
    }
}

/* kept and count by axis of t, from the roots of `value`'s axes. False: nothing is cut. */
static bool slice_of(const struct solver *s, const struct cut *c, uint32_t value, const struct tensor *t,
                     struct slice *out)
{
    *out = (struct slice){.in = t, .last = -1};
    for (int i = 0; i < t->shape.rank; i++) {
        const int row = row_of(s, value, i), root = row < 0 ? -1 : axis_root(s, row);
        out->count[i] = t->shape.dim[i];
        if (root < 0 || !c->kept[root])
            continue;
        out->kept[i] = c->kept[root];
        out->count[i] = c->count[root];
        out->last = i;
    }
    return out->last >= 0;
}

static int cut_tensor(const struct slice *c, struct spill *spill, struct tensor *out, struct err *err)
{
    struct shape shape = c->in->shape;
    for (int i = 0; i < shape.rank; i++)
        shape.dim[i] = c->count[i];
    if (spill_tensor(spill, out, c->in->dtype, &shape, err)) /* zeroed: packed elements are put one by one */
        return -1;
    if (tensor_count(out) > 0)
        copy_kept(c, out);
    tensor_release_pages(out);
    return 0;
}

/* ---- constants ---- */
/* Cuts of one call. */
struct cutting {
    const struct solver *s;
    const struct cut *c;
    struct model *m;
    struct spill *spill; /* new bytes need not stay in memory */
};

static struct weight *stored(struct model *m, uint32_t value)
{
    struct value *v = &m->values[value];
    const struct attr *a = v->weight || v->producer == NODE_NONE ? NULL : node_attr(&m->nodes[v->producer], "value");
    return v->weight ? v->weight : a && a->type == ATTR_TENSOR && a->count == 1 ? a->tensors[0] : NULL;
}

/* As value_set_weight, but declarations follow later, all at once. Takes over t's reference. */
static void put_tensor(struct weight *w, struct tensor *t)
{
    tensor_fini(&w->tensor);
    w->tensor = *t;
    *t = (struct tensor){0};
    w->storage = STORAGE_RAW;
    w->external = (struct entries){0};
    w->has_location = false;
    w->typed = w->opaque = (struct bytes){0};
    w->typed_of = NULL;
}

static int cut_mask(const struct cutting *k, uint32_t value, struct err *err)
{
    const struct note *mask = value_note(k->m, value, "mask");
    struct slice slice;
    struct tensor cut = {0};
    if (!mask || !mask->tensor.data || !shape_equal(&mask->tensor.shape, &k->s->constant[value]->shape) ||
        !slice_of(k->s, k->c, value, &mask->tensor, &slice))
        return 0;
    if (cut_tensor(&slice, k->spill, &cut, err))
        return -1;
    value_set_note(k->m, value, "mask", mask->text, &cut);
    tensor_fini(&cut);
    return 0;
}

static const char *const kept_keys[SHAPE_MAX_RANK] = {"kept.0",  "kept.1",  "kept.2",  "kept.3", "kept.4",  "kept.5",
                                                      "kept.6",  "kept.7",  "kept.8",  "kept.9", "kept.10", "kept.11",
                                                      "kept.12", "kept.13", "kept.14", "kept.15"};

/* Which indices of the axis as it was at the first cut are left. */
static int note_kept(struct model *m, uint32_t value, const struct slice *slice, int axis, struct err *err)
{
    const struct note *before = value_note(m, value, kept_keys[axis]);
    const int64_t size = slice->in->shape.dim[axis], n = slice->count[axis];
    const bool again = before && before->tensor.dtype == DTYPE_INT64 && tensor_count(&before->tensor) == size;
    struct tensor t = {0};
    if (tensor_alloc(&t, DTYPE_INT64, &SHAPE(n), err))
        return -1;
    for (int64_t i = 0; i < n; i++) {
        const int64_t index = slice->kept[axis][i];
        tensor_i64(&t)[i] = again ? tensor_i64(&before->tensor)[index] : index;
    }
    value_set_note(m, value, kept_keys[axis], NULL, &t);
    tensor_fini(&t);
    return 0;
}

static int cut_constant(const struct cutting *k, uint32_t value, struct err *err)
{
    const struct solver *s = k->s;
    struct model *m = k->m;
    struct weight *w = stored(m, value);
    struct slice slice;
    struct tensor cut = {0};
    if (!slice_of(s, k->c, value, s->constant[value], &slice))
        return 0;
    if (!w || !shape_equal(&w->tensor.shape, &s->constant[value]->shape))
        return err_set(err, ERR_INVALID, "weight '%.150s' is no longer what its groups were found on",
                       m->values[value].name);
    struct tensor in; /* s->constant may be this very tensor */
    tensor_ref(&in, &w->tensor);
    slice.in = &in;
    int rc = cut_mask(k, value, err) || cut_tensor(&slice, k->spill, &cut, err) ? -1 : 0;
    for (int i = 0; rc == 0 && i <= slice.last; i++)
        if (slice.kept[i])
            rc = note_kept(m, value, &slice, i, err);
    if (rc == 0) {
        tensor_release_pages(&in);
        put_tensor(w, &cut);
        m->values[value].type = type_tensor(w->tensor.dtype, &w->tensor.shape);
    }
    tensor_fini(&cut);
    tensor_fini(&in);
    return rc ? err_wrap(err, "weight '%s': ", m->values[value].name) : 0;
}

/* ---- what nodes are told in numbers ---- */
struct shrinking {
    const struct solver *s;
    const struct cut *cut;
    uint32_t *ends; /* values of the node's inputs and outputs before the first change */
};

static const int64_t *kept_of(const struct shrink *shrink, struct end e, int axis, int64_t *count)
{
    const struct shrinking *h = shrink->solver;
    const int n_in = shrink->infer->n_in;
    *count = 0;
    if (e.slot < 0 || e.slot >= (e.out ? shrink->infer->n_out : n_in))
        return NULL;
    const uint32_t value = h->ends[e.out ? n_in + e.slot : e.slot];
    if (value == VALUE_NONE)
        return NULL;
    if (axis < 0)
        axis += h->s->first[value + 1] - h->s->first[value];
    const int row = row_of(h->s, value, axis), root = row < 0 ? -1 : axis_root(h->s, row);
    if (root < 0 || !h->cut->kept[root])
        return NULL;
    *count = h->cut->count[root];
    return h->cut->kept[root];
}

static bool touched_value(const struct solver *s, const struct cut *c, uint32_t value)
{
    for (int row = value == VALUE_NONE ? 0 : s->first[value]; value != VALUE_NONE && row < s->first[value + 1]; row++)
        if (c->kept[axis_root(s, row)])
            return true;
    return false;
}

static int shrink_node(const struct solver *s, const struct cut *c, struct model *m, uint32_t id, struct err *err)
{
    const struct site *site = &s->site[id];
    const int n_in = site->infer.n_in, n = n_in + site->infer.n_out;
    struct shrinking h = {s, c, calloc((size_t)n + 1, sizeof *h.ends)};
    struct shrink shrink = {.infer = &site->infer, .model = m, .node = id, .solver = &h, .kept = kept_of};
    bool touched = false;
    char label[256];
    if (!h.ends)
        return err_set(err, ERR_NOMEM, "out of memory while rewriting sizes");
    for (int i = 0; i < n; i++) {
        h.ends[i] = i < n_in ? m->nodes[id].input[i] : m->nodes[id].output[i - n_in];
        touched = touched || touched_value(s, c, h.ends[i]);
    }
    const int rc = touched ? site->op->shrink(&shrink, err) : 0;
    free(h.ends);
    return rc ? err_wrap(err, "node '%s': ", node_label(m, id, label, sizeof label)) : 0;
}

/* ---- declarations ---- */
/* False: the declaration contradicts what was found, and goes. */
static bool redeclare(const struct solver *s, const struct cut *c, uint32_t value, struct type *t)
{
    const int rank = s->first[value + 1] - s->first[value];
    if (t->kind != TYPE_TENSOR || !t->has_shape)
        return true;
    if (t->shape.rank != rank)
        return false;
    for (int i = 0; i < rank; i++) {
        const int row = row_of(s, value, i), root = axis_root(s, row);
        if (!c->kept[root])
            continue;
        if (t->shape.dim[i] != s->axis[row].size && t->shape.dim[i] >= 0)
            return false;
        t->shape.dim[i] = c->count[root];
    }
    return true;
}

static void redeclare_all(const struct solver *s, const struct cut *c, struct model *m)
{
    struct graph *g = model_main(m);
    int kept = 0;
    for (int i = 0; i < g->n_infos; i++) {
        struct value_info *info = &g->infos[i];
        if (info->value >= s->infer.n || !touched_value(s, c, info->value) || redeclare(s, c, info->value, &info->type))
            g->infos[kept++] = *info;
    }
    g->n_infos = kept;
    for (int i = 0; i < g->n_inputs; i++) /* weights, before IR 4 */
        if (g->inputs[i].value < s->infer.n && touched_value(s, c, g->inputs[i].value) && g->inputs[i].has_type)
            g->inputs[i].type = m->values[g->inputs[i].value].type;
    for (uint32_t v = 0; v < s->infer.n; v++) {
        struct value *value = &m->values[v];
        if (value->name && !s->constant[v] && touched_value(s, c, v) && !redeclare(s, c, v, &value->type))
            value->type = (struct type){0};
    }
}

/* Before IR 4 every initializer is listed among the inputs. */
static int list_new_weights(struct model *m, uint32_t from, struct err *err)
{
    struct graph *g = model_main(m);
    int more = 0;
    if (!m->has_ir_version || m->ir_version >= 4)
        return 0;
    for (uint32_t v = from; v < m->n_values; v++)
        more += m->values[v].name && m->values[v].weight && m->values[v].graph == 0;
    struct value_info *grown = model_alloc(m, (size_t)(g->n_inputs + more) + 1, sizeof *grown);
    if (!grown)
        return err_set(err, ERR_NOMEM, "out of memory while rewriting sizes");
    if (g->n_inputs)
        memcpy(grown, g->inputs, (size_t)g->n_inputs * sizeof *grown);
    g->inputs = grown;
    for (uint32_t v = from; v < m->n_values; v++) {
        const struct value *value = &m->values[v];
        if (!value->name || !value->weight || value->graph != 0)
            continue;
        grown[g->n_inputs++] = (struct value_info){.value = v,
                                                   .has_type = true,
                                                   .type = type_tensor(value->weight->tensor.dtype,
                                                                       &value->weight->tensor.shape)};
    }
    return 0;
}

/* Numbers that were replaced are read by nobody any more. */
static int sweep(struct model *m, struct err *err)
{
    struct edit e;
    if (edit_init(&e, m, err))
        return -1;
    const int rc = edit_finish(&e, err);
    edit_fini(&e);
    return rc;
}

int groups_remove(const struct groups *g, struct model *m, const bool *const *gone, struct err *err)
{
    const struct solver *s = g->solver;
    const uint32_t n_values = m->n_values;
    struct cut c;
    if (n_values < s->infer.n)
        return err_set(err, ERR_INVALID, "the model is not the one the groups were found on");
    if (cut_plan(s, gone, true, &c, err))
        return -1;
    struct cutting k = {s, &c, m, spill_new(err)};
    int rc = k.spill ? check_left(s, gone, &c, err) : -1;
    for (int i = 0; rc == 0 && c.n_rows && i < s->n_order; i++)
        if (s->site[s->order[i]].op && s->site[s->order[i]].op->shrink)
            rc = shrink_node(s, &c, m, s->order[i], err);
    for (uint32_t v = 0; rc == 0 && c.n_rows && v < s->infer.n; v++)
        if (s->constant[v])
            rc = cut_constant(&k, v, err);
    if (rc == 0 && c.n_rows) {
        redeclare_all(s, &c, m);
        rc = list_new_weights(m, n_values, err) || sweep(m, err) ? -1 : 0;
    }
    spill_free(k.spill);
    cut_fini(&c);
    return rc;
}
