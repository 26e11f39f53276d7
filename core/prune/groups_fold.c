/* SPDX-License-Identifier: Apache-2.0
 * groups_fold.c - elements. Only axes that are linked with one that makes channels get any, and no frozen ones: a
 * link with a frozen axis freezes the elements on its other side. Classes are kept by union-find with the reason
 * they are frozen for at the root. A Reshape that splits channels into (heads, size) or joins them is decided last,
 * in topological order, when all that is frozen by plain links is known: one part may go, the others then have to
 * stay whole. */
#include "core/base/size.h"
#include "core/prune/groups_impl.h"

enum { ALL_ELEMENTS_MAX = 1 << 27 };

/* ---- which axes matter ---- */
static int comp_root(int *comp, int row)
{
    while (comp[row] != row) {
        comp[row] = comp[comp[row]];
        row = comp[row];
    }
    return row;
}

static void comp_join(const struct solver *s, int *comp, int a, int b)
{
    a = comp_root(comp, axis_root(s, a));
    b = comp_root(comp, axis_root(s, b));
    comp[a < b ? b : a] = a < b ? a : b;
}

static int find_relevant(struct solver *s)
{
    const struct elements_link *link = s->links.at;
    const struct axis_fold *fold = s->folds.at;
    const int *producing = s->producing.at;
    int *comp = arena_calloc(s->arena, (size_t)s->n_axes + 1, sizeof *comp);
    bool *marked = arena_calloc(s->arena, (size_t)s->n_axes + 1, sizeof *marked);
    if (!comp || !marked)
        return -1;
    for (int i = 0; i < s->n_axes; i++)
        comp[i] = i;
    for (int i = 0; i < s->links.n; i++)
        comp_join(s, comp, link[i].a.axis, link[i].b.axis);
    for (int i = 0; i < s->folds.n; i++)
        for (int p = 0; p < fold[i].n; p++)
            comp_join(s, comp, fold[i].whole, fold[i].part[p]);
    for (int i = 0; i < s->producing.n; i++)
        marked[comp_root(comp, axis_root(s, producing[i]))] = true;
    for (int i = 0; i < s->n_axes; i++)
        s->axis[i].relevant = s->axis[i].parent == i && marked[comp_root(comp, i)];
    return 0;
}

static int number_elements(struct solver *s)
{
    for (int i = 0; i < s->n_axes; i++) {
        struct axis *a = &s->axis[i];
        if (!a->relevant || a->frozen || a->size <= 1)
            continue;
        if (a->size > AXIS_ELEMENTS_MAX || s->n_elements + a->size > ALL_ELEMENTS_MAX) {
            const int reason = reason_add(
                s, (struct reason){.kind = REASON_LONG, .value = a->value, .node = NODE_NONE, .axis = a->index});
            if (!reason)
                return -1;
            axis_freeze(s, i, reason);
            continue;
        }
        a->base = s->n_elements;
        s->n_elements += a->size;
    }
    const size_t n = (size_t)s->n_elements + 1;
    s->parent = arena_calloc(s->arena, n, sizeof *s->parent);
    s->stop = arena_calloc(s->arena, n, sizeof *s->stop);
    if (!s->parent || !s->stop)
        return -1;
    for (int e = 0; e < (int)s->n_elements; e++)
        s->parent[e] = e;
    return 0;
}

/* ---- classes ---- */
int element_root(const struct solver *s, int64_t e)
{
    int *parent = s->parent, at = (int)e;
    while (parent[at] != at) {
        parent[at] = parent[parent[at]];
        at = parent[at];
    }
    return at;
}

static void element_freeze(struct solver *s, int64_t e, int reason)
{
    int *stop = &s->stop[element_root(s, e)];
    if (!*stop || reason < *stop)
        *stop = reason;
}

static void element_join(struct solver *s, int64_t x, int64_t y)
{
    const int a = element_root(s, x), b = element_root(s, y);
    if (a == b)
        return;
    const int root = a < b ? a : b, other = a < b ? b : a, reason = s->stop[other];
    s->parent[other] = root;
    if (reason)
        element_freeze(s, root, reason);
}

/* ---- links ---- */
static int64_t place(const struct side *side, int64_t i)
{
    return side->table ? side->table[i] : side->from + i * side->step;
}

static int apply_link(struct solver *s, const struct elements_link *l)
{
    const struct axis *a = root_of(s, l->a.axis), *b = root_of(s, l->b.axis);
    int reason = a->frozen ? a->frozen : b->frozen;
    if (a->base < 0 && b->base < 0)
        return 0;
    if (a->base >= 0 && b->base >= 0) {
        for (int64_t i = 0; i < l->count; i++)
            element_join(s, a->base + place(&l->a, i), b->base + place(&l->b, i));
        return 0;
    }
    if (!reason)
        reason = reason_add(s, (struct reason){.kind = REASON_FIT, .node = l->node, .value = VALUE_NONE});
    for (int64_t i = 0; reason && i < l->count; i++)
        element_freeze(s, a->base >= 0 ? a->base + place(&l->a, i) : b->base + place(&l->b, i), reason);
    return reason ? 0 : -1;
}

int solver_elements(struct solver *s, struct err *err)
{
    const struct elements_link *link = s->links.at;
    int rc = find_relevant(s) || number_elements(s) ? -1 : 0;
    for (int i = 0; rc == 0 && i < s->links.n; i++)
        rc = apply_link(s, &link[i]);
    return rc ? err_set(err, ERR_NOMEM, "out of memory while building groups") : 0;
}

/* ---- folds ---- */
/* Joined groups of heads (grouped queries) are heads too. */
static void mark_heads(struct solver *s)
{
    const struct axis_fold *fold = s->folds.at;
    for (int i = s->folds.n - 1; i >= 0; i--)
        for (int p = 0; root_of(s, fold[i].whole)->batch && p < fold[i].n; p++)
            root_of(s, fold[i].part[p])->batch = true;
}

/* Some of it can still go. */
static bool alive(const struct solver *s, int row)
{
    const struct axis *a = root_of(s, row);
    for (int64_t i = 0; a->base >= 0 && i < a->size; i++)
        if (!s->stop[element_root(s, a->base + i)])
            return true;
    return false;
}

static int why_frozen(const struct solver *s, int row)
{
    const struct axis *a = root_of(s, row);
    return a->base >= 0 ? s->stop[element_root(s, a->base)] : a->frozen;
}

static void freeze_row(struct solver *s, int row, int reason)
{
    const struct axis *a = root_of(s, row);
    for (int64_t i = 0; reason && a->base >= 0 && i < a->size; i++)
        element_freeze(s, a->base + i, reason);
}

/* The part that goes, -1: none can. */
static int choose(struct solver *s, const struct axis_fold *f)
{
    int last = -1, head = -1, n = 0;
    for (int p = 0; p < f->n; p++) {
        if (!alive(s, f->part[p]))
            continue;
        n++;
        last = p;
        if (head < 0 && root_of(s, f->part[p])->batch)
            head = p;
    }
    const int chosen = head >= 0 && (n == 1 || s->mode == GROUPS_OUTER) ? head : last;
    if (chosen >= 0 && chosen == head)
        root_of(s, f->part[chosen])->heads = true;
    return chosen;
}

static int resolve(struct solver *s, const struct axis_fold *f)
{
    const struct axis *whole = root_of(s, f->whole);
    if (!alive(s, f->whole)) {
        for (int p = 0; p < f->n; p++)
            freeze_row(s, f->part[p], why_frozen(s, f->whole));
        return 0;
    }
    const int chosen = choose(s, f);
    if (chosen < 0) {
        freeze_row(s, f->whole, why_frozen(s, f->part[0]));
        return 0;
    }
    const int reason = reason_add(
        s, (struct reason){.kind = REASON_FOLD, .node = f->node, .value = whole->value, .axis = whole->index});
    if (!reason)
        return -1;
    int64_t inner = 1;
    for (int p = 0; p < f->n; p++) {
        if (p > chosen)
            inner *= s->axis[f->part[p]].size;
        if (p != chosen)
            freeze_row(s, f->part[p], reason);
    }
    const struct axis *part = root_of(s, f->part[chosen]);
    for (int64_t i = 0; i < whole->size; i++)
        element_join(s, whole->base + i, part->base + i / inner % part->size);
    return 0;
}

int solver_fold(struct solver *s, struct err *err)
{
    const struct axis_fold *fold = s->folds.at;
    mark_heads(s);
    for (int i = 0; i < s->folds.n; i++)
        if (resolve(s, &fold[i]))
            return err_set(err, ERR_NOMEM, "out of memory while building groups");
    return 0;
}
