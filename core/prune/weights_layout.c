/* SPDX-License-Identifier: Apache-2.0
 * weights_layout.c - which weights prune.weights takes, and where the rows of each lie (weight_pruning.h). A row a kind
 * of operator says which inputs are weights and turns the view of one so that the axes of its rows come first and those
 * that are summed over follow, the input channels last. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/prune/weight_pruning.h"

/* ---- views ---- */
struct layout {
    const struct node *n;
    int slot;
    struct weight_view v;
    unsigned rows;  /* axes that say which row */
    int64_t groups; /* rows of a group read the same input */
    int64_t taps;
};

/* The axis goes to the end; the others keep their order. */
static void move_last(struct weight_view *v, int axis)
{
    const int64_t dim = v->dim[axis], stride = v->stride[axis];
    for (int a = axis; a + 1 < v->rank; a++) {
        v->dim[a] = v->dim[a + 1];
        v->stride[a] = v->stride[a + 1];
    }
    v->dim[v->rank - 1] = dim;
    v->stride[v->rank - 1] = stride;
}

static int64_t taps_of(const struct weight_view *v, int first, int end)
{
    int64_t taps = 1;
    for (int a = first; a < end; a++)
        taps *= v->dim[a];
    return taps;
}

static bool conv(struct layout *l)
{
    struct weight_view *v = &l->v;
    const int64_t groups = node_attr_int(l->n, "group", 1);
    if (v->rank < 3 || groups < 1 || v->dim[0] % groups)
        return false;
    move_last(v, 1);
    l->rows = 1;
    l->groups = groups;
    l->taps = taps_of(v, 1, v->rank - 1);
    return true;
}

/* [Cin, Cout / groups, k...] becomes [groups, Cout / groups, k..., Cin / groups]. */
static bool conv_transpose(struct layout *l)
{
    struct weight_view *v = &l->v;
    const int64_t groups = node_attr_int(l->n, "group", 1);
    if (v->rank < 3 || v->rank + 1 > SHAPE_MAX_RANK || groups < 1 || v->dim[0] % groups)
        return false;
    const int64_t each = v->dim[0] / groups, stride = v->stride[0];
    move_last(v, 0);
    v->dim[v->rank - 1] = each;
    memmove(v->dim + 1, v->dim, (size_t)v->rank * sizeof *v->dim);
    memmove(v->stride + 1, v->stride, (size_t)v->rank * sizeof *v->stride);
    v->dim[0] = groups;
    v->stride[0] = stride * each;
    v->rank++;
    l->rows = 3;
    l->groups = groups;
    l->taps = taps_of(v, 2, v->rank - 1);
    return true;
}

/* [.., K, N], or [.., N, K] with transB; a constant on the left is [.., N, K] too. */
static bool matmul(struct layout *l)
{
    const int rank = l->v.rank;
    if (rank < 1)
        return false;
    const bool turned = l->slot == 0 || node_attr_int(l->n, "transB", 0) != 0;
    move_last(&l->v, rank == 1 ? 0 : turned ? rank - 1 : rank - 2);
    l->rows = (1u << (rank - 1)) - 1;
    return true;
}

/* [directions, gates * hidden, K] */
static bool recurrent(struct layout *l)
{
    l->rows = 3;
    return l->v.rank == 3;
}

/* The labels of term `which` of an equation; -1: "..." is among them, or there are too many. */
static int term_of(const char *text, int which, char labels[SHAPE_MAX_RANK])
{
    int n = 0;
    for (; which > 0 && *text && *text != '-'; text++)
        which -= *text == ',';
    for (; *text && *text != ',' && *text != '-'; text++) {
        if (*text == '.' || n == SHAPE_MAX_RANK)
            return -1;
        if (isalpha((unsigned char)*text))
            labels[n++] = *text;
    }
    return n;
}

/* Without "->" the output has the labels that occur once. */
static bool in_output(const char *text, char label)
{
    const char *out = strstr(text, "->"), *first = strchr(text, label);
    return out ? strchr(out, label) != NULL : first && !strchr(first + 1, label);
}

static bool einsum(struct layout *l)
{
    const struct attr *a = node_attr(l->n, "equation");
    char label[SHAPE_MAX_RANK];
    const char *text = a && a->type == ATTR_STRING && a->count == 1 ? a->strings[0].data : "";
    const int n = term_of(text, l->slot, label);
    int rows = 0;
    if (n < 1 || n != l->v.rank)
        return false;
    for (int i = 0; i < n; i++) /* axes that are summed over go to the end, in their order */
        if (in_output(text, label[i]))
            rows++;
        else
            move_last(&l->v, rows);
    l->rows = (1u << rows) - 1;
    return true;
}

/* ---- operators ---- */
static const struct family {
    const char *type, *domain;
    unsigned slots; /* inputs that hold weights; 0: as product_weight says */
    bool (*layout)(struct layout *l);
} families[] = {
    {"Conv", "", 0, conv},
    {"ConvTranspose", "", 0, conv_transpose},
    {"FusedConv", "com.microsoft", 0, conv},
    {"DeformConv", "", 1u << 1, conv},
    {"LSTM", "", 3u << 1, recurrent},
    {"GRU", "", 3u << 1, recurrent},
    {"RNN", "", 3u << 1, recurrent},
    {"Attention", "com.microsoft", 1u << 1, matmul},
    {"Einsum", "", ~0u, einsum},
};

static const struct family *family_of(const struct node *n)
{
    const char *domain = n->domain && strcmp(n->domain, "ai.onnx") ? n->domain : "";
    for (size_t i = 0; i < sizeof families / sizeof *families; i++)
        if (!strcmp(n->op_type, families[i].type) && !strcmp(domain, families[i].domain))
            return &families[i];
    return NULL;
}

static bool all_rows(struct prune_item *it)
{
    int64_t all;
    return i64_mul(it->matrix.rows, it->matrix.k, &all) && all == it->count;
}

static int describe(const struct model *m, const struct family *f, struct prune_item *it, struct err *err)
{
    const struct node *n = &m->nodes[it->ref.node];
    struct layout l = {.n = n, .slot = it->ref.slot, .groups = 1, .taps = 1};
    it->count = tensor_count(it->ref.tensor);
    it->taps = it->groups = 1;
    it->error = NAN;
    if (!weight_view_of(m, n->input[it->ref.slot], &l.v) || l.v.source != it->ref.value)
        return 0;
    if (!(f ? f->layout(&l) : matmul(&l)))
        return 0;
    if (weight_matrix_init(&it->matrix, &l.v, l.rows, err))
        return -1;
    if (!all_rows(it)) {
        weight_matrix_fini(&it->matrix);
        return 0;
    }
    it->taps = l.taps;
    it->groups = l.groups;
    it->channels = it->matrix.k / l.taps;
    return 0;
}

void prune_item_fini(struct prune_item *it)
{
    weight_matrix_fini(&it->matrix);
    tensor_fini(&it->original);
    tensor_fini(&it->mask);
    tensor_fini(&it->was);
    free(it->score);
    free(it->block);
    it->score = it->block = NULL;
}

/* ---- collecting ---- */
struct collecting {
    struct prune_run *r;
    int64_t *item_of; /* by value: 1 + the item that prunes it */
    int cap;
};

static void left_alone(struct prune_run *r, uint32_t node, uint32_t value, const char *why)
{
    struct layer_row row = {.node = node, .weight = value, .sqnr_db = NAN, .skipped = why};
    layer_report_add(r->c->layers, r->c->model, &row);
}

static int refuse_nan(const struct prune_run *r, const struct weight_ref *ref, struct err *err)
{
    const struct model *m = r->c->model;
    char label[200];
    double chunk[WEIGHTS_CHUNK];
    int64_t total = tensor_count(ref->tensor);
    for (int64_t first = 0; first < total; first += WEIGHTS_CHUNK) {
        int64_t len = i64_min(total - first, WEIGHTS_CHUNK);
        weights_read(ref->tensor, first, len, chunk);
        for (int64_t i = 0; i < len; i++)
            if (isnan(chunk[i]))
                return err_set(err, ERR_MODEL,
                               "node '%s': weight '%s' is NaN at element %lld, so its weights cannot be ranked by %s; "
                               "repair the weight or exclude the node",
                               node_label(m, ref->node, label, sizeof label), m->values[ref->value].name,
                               (long long)(first + i), r->criterion->name);
    }
    return 0;
}

/* Why the weight cannot be pruned as asked, though its operator is known. */
static const char *unfit(const struct prune_run *r, const struct prune_item *it)
{
    const struct structure *s = &r->structure;
    if (it->matrix.rows == 0 && (s->kind != STRUCTURE_NONE || r->scope == SCOPE_ROW))
        return "how its weight lies in rows is not known (graph.optimize may help), so only single weights of the "
               "layer can be "
               "ranked";
    if (s->kind == STRUCTURE_NM && it->matrix.k <= s->a)
        return "its rows are no longer than what stays of a group, so nothing goes";
    return NULL;
}

static int add_item(struct collecting *c, const struct weight_ref *ref, const struct family *f, struct err *err)
{
    struct prune_run *r = c->r;
    struct prune_item it = {.ref = *ref};
    if (r->n == c->cap) {
        const int cap = c->cap ? 2 * c->cap : 16;
        struct prune_item *grown = realloc(r->item, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory while collecting weights");
        r->item = grown;
        c->cap = cap;
    }
    if (describe(r->c->model, f, &it, err))
        return -1;
    const char *why = unfit(r, &it);
    if (why) {
        left_alone(r, ref->node, ref->value, why);
        prune_item_fini(&it);
        return 0;
    }
    it.key = (uint64_t)r->n;
    tensor_ref(&it.original, ref->tensor);
    r->item[r->n++] = it;
    c->item_of[ref->value] = r->n;
    return refuse_nan(r, ref, err);
}

/* One weight of a node: it is pruned, or a row says why not. */
static int take(struct collecting *c, const struct weight_ref *ref, const struct family *f, const char *why,
                struct err *err)
{
    const struct prune_weights_params *o = c->r->o;
    const struct model *m = c->r->c->model;
    char label[200];
    if (!globs_select(&o->include, &o->exclude, node_label(m, ref->node, label, sizeof label)))
        why = "not selected by include and exclude";
    if (!why && c->item_of[ref->value]) {
        c->r->item[c->item_of[ref->value] - 1].shared = true;
        why = "its weight is shared with an earlier node and pruned there";
    }
    if (!why)
        return add_item(c, ref, f, err);
    left_alone(c->r, ref->node, ref->value, why);
    return 0;
}

/* A weight at an input of an operator that is no product of one weight. False: it is no constant matrix. */
static bool weight_at(const struct model *m, uint32_t node, int slot, struct weight_ref *ref, const char **why)
{
    const uint32_t in = m->nodes[node].input[slot], v = in == VALUE_NONE ? VALUE_NONE : weight_source(m, in);
    const struct tensor *t = v == VALUE_NONE ? NULL : value_const(m, v);
    if (!t || t->shape.rank < 2 || !dtype_is_float(t->dtype) || tensor_count(t) == 0)
        return false;
    *ref = (struct weight_ref){.node = node, .value = v, .slot = slot, .tensor = t};
    *why = t->data ? NULL : "its weight's external data file is missing";
    return true;
}

/* Operators that multiply by constant matrices in a way not known here: said, not silently passed by. */
static void report_other(struct prune_run *r, uint32_t id)
{
    const struct model *m = r->c->model;
    const struct op_class *op = node_class(m, &m->nodes[id]);
    struct weight_ref ref;
    const char *why;
    for (int i = 1; op && op->cost && i < m->nodes[id].n_input; i++)
        if (weight_at(m, id, i, &ref, &why)) {
            left_alone(r, id, ref.value,
                       "only weights of products, convolutions, recurrent layers, Einsum and Attention are pruned");
            return;
        }
}

static int collect_node(struct collecting *c, uint32_t id, struct err *err)
{
    const struct model *m = c->r->c->model;
    const struct family *f = family_of(&m->nodes[id]);
    struct weight_ref ref;
    const char *why;
    if (product_weight(m, id, &ref, &why))
        return take(c, &ref, f, why, err);
    if (!f)
        report_other(c->r, id);
    for (int i = 0; f && i < m->nodes[id].n_input && i < 32; i++)
        if ((f->slots >> i & 1) && weight_at(m, id, i, &ref, &why) && take(c, &ref, f, why, err))
            return -1;
    return 0;
}

int weights_collect(struct prune_run *r, struct err *err)
{
    const struct model *m = r->c->model;
    struct collecting c = {.r = r, .item_of = calloc(m->n_values ? m->n_values : 1, sizeof *c.item_of)};
    if (!c.item_of)
        return err_set(err, ERR_NOMEM, "out of memory while collecting weights");
    int rc = 0;
    for (uint32_t id = 0; id < m->n_nodes && rc == 0; id++)
        if (node_is_rewritable(m, id))
            rc = collect_node(&c, id, err);
    free(c.item_of);
    return rc;
}
