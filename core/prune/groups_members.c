/* SPDX-License-Identifier: Apache-2.0
 * groups_members.c - from classes to what people see: atoms, groups, members. Axes that make channels are joined
 * into groups where they share a class; atoms are numbered along them in the order of the nodes. Members are written
 * by pairs (group, root axis): all axes joined with the root share one table of atoms. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/prune/groups_impl.h"

/* Ints in all tables of atoms together: beyond it a model is a knot made on purpose. */
#define TABLES_MAX ((int64_t)1 << 28)

struct pair {
    int group, root;
    int *atom; /* NULL: of a frozen group */
};

struct build {
    struct solver *s;
    int *parent;   /* of producing axes: union-find */
    int *group_of; /* of producing axes */
    int *reason;   /* of groups */
    int *stamp;    /* by group: the pair of the root at hand + 1 */
    int *next_row, *first_row; /* rows by root: first_row[root], next_row[row]; -1 */
    int *position; /* of nodes in topological order */
    struct list pairs;
    int64_t tables;
};

static void *ints(struct solver *s, int64_t n, int value)
{
    int *v = arena_calloc(s->arena, (size_t)n + 1, sizeof *v);
    for (int64_t i = 0; v && value && i <= n; i++)
        v[i] = value;
    return v;
}

static int prod_root(int *parent, int i)
{
    while (parent[i] != i) {
        parent[i] = parent[parent[i]];
        i = parent[i];
    }
    return i;
}

static void prod_join(int *parent, int a, int b)
{
    a = prod_root(parent, a);
    b = prod_root(parent, b);
    parent[a < b ? b : a] = a < b ? a : b;
}

/* Producing axes that share an axis or a class are one group. s->atom_group holds, by class, the first such axis
 * meanwhile. */
static int join_producing(struct build *b)
{
    struct solver *s = b->s;
    const int *row = s->producing.at;
    const int n = s->producing.n;
    int *of_root = ints(s, s->n_axes, -1);
    b->parent = ints(s, n, 0);
    if (!of_root || !b->parent)
        return -1;
    for (int i = 0; i < n; i++) {
        const int root = axis_root(s, row[i]);
        const struct axis *a = &s->axis[root];
        b->parent[i] = i;
        if (of_root[root] >= 0) {
            prod_join(b->parent, i, of_root[root]);
            continue;
        }
        of_root[root] = i;
        for (int64_t e = 0; a->base >= 0 && e < a->size; e++) {
            int *first = &s->atom_group[element_root(s, a->base + e)];
            if (*first == ATOM_NONE)
                *first = i;
            else
                prod_join(b->parent, i, *first);
        }
    }
    return 0;
}

static int name_groups(struct build *b)
{
    struct solver *s = b->s;
    struct groups *g = s->groups;
    const uint32_t *producer = s->producer.at;
    const int n = s->producing.n;
    char label[256];
    b->group_of = ints(s, n, 0);
    g->at = arena_calloc(s->arena, (size_t)n + 1, sizeof *g->at);
    b->reason = ints(s, n, 0);
    b->stamp = ints(s, n, 0);
    if (!b->group_of || !g->at || !b->reason || !b->stamp)
        return -1;
    for (int i = 0; i < n; i++) {
        const int first = prod_root(b->parent, i);
        b->group_of[i] = first == i ? g->n++ : b->group_of[first];
        struct group *group = &g->at[b->group_of[i]];
        if (first != i)
            continue;
        group->node = producer[i];
        group->name = arena_strdup(s->arena, node_label(s->m, producer[i], label, sizeof label));
        if (!group->name)
            return -1;
    }
    return 0;
}

static void note_reason(struct build *b, int group, int reason)
{
    if (reason && (!b->reason[group] || reason < b->reason[group]))
        b->reason[group] = reason;
}

static void number_atoms(struct build *b)
{
    struct solver *s = b->s;
    const int *row = s->producing.at;
    for (int64_t e = 0; e < s->n_elements; e++)
        s->atom_group[e] = ATOM_NONE;
    for (int i = 0; i < s->producing.n; i++) {
        const struct axis *a = root_of(s, row[i]);
        const int gi = b->group_of[i];
        if (a->base < 0)
            note_reason(b, gi, a->frozen);
        for (int64_t e = 0; a->base >= 0 && e < a->size; e++) {
            const int root = element_root(s, a->base + e);
            note_reason(b, gi, s->stop[root]);
            if (s->stop[root] || s->atom_group[root] != ATOM_NONE)
                continue;
            s->atom_group[root] = gi;
            s->atom[root] = (int)s->groups->at[gi].n++;
        }
    }
}

static int measure_widths(struct build *b)
{
    struct solver *s = b->s;
    const int *row = s->producing.at;
    for (int i = 0; i < s->producing.n; i++) {
        struct group *g = &s->groups->at[b->group_of[i]];
        const struct axis *a = root_of(s, row[i]);
        if (b->parent[i] != i || g->n == 0)
            continue;
        int64_t *width = arena_calloc(s->arena, (size_t)g->n, sizeof *width);
        if (!width)
            return -1;
        for (int64_t e = 0; a->base >= 0 && e < a->size; e++) {
            const int root = element_root(s, a->base + e);
            if (!s->stop[root])
                width[s->atom[root]]++;
        }
        for (int64_t k = 0; k < g->n; k++)
            width[k] = i64_max(1, width[k]);
        g->width = width;
    }
    return 0;
}

/* ---- pairs ---- */
static struct pair *pair_at(struct build *b, int i)
{
    return (struct pair *)b->pairs.at + i;
}

/* The pair of this group and root, made when new; -1: out of memory. `first`: the first pair of this root. */
static int pair_of(struct build *b, int group, int root, int first)
{
    const int known = b->stamp[group] - 1;
    if (known >= first)
        return known;
    struct pair *p = list_add(b->s, &b->pairs, sizeof *p);
    if (!p)
        return -1;
    *p = (struct pair){.group = group, .root = root};
    b->stamp[group] = b->pairs.n;
    return b->pairs.n - 1;
}

/* All pairs of one root, with their tables. */
static int pair_root(struct build *b, int root)
{
    struct solver *s = b->s;
    const struct axis *a = &s->axis[root];
    const int first = b->pairs.n;
    for (int64_t e = 0; e < a->size; e++) {
        const int class = element_root(s, a->base + e), group = s->atom_group[class];
        if (group == ATOM_NONE)
            continue;
        const int p = pair_of(b, group, root, first);
        if (p < 0)
            return -1;
        if (!pair_at(b, p)->atom && b->tables + a->size <= TABLES_MAX) {
            int *table = ints(s, a->size, ATOM_NONE);
            if (!table)
                return -1;
            b->tables += a->size;
            pair_at(b, p)->atom = table;
        }
        if (pair_at(b, p)->atom)
            pair_at(b, p)->atom[e] = s->atom[class];
        struct group *g = &s->groups->at[group];
        if (a->heads)
            g->through = "heads";
        if (a->approximate && !g->approximate)
            g->approximate = reason_text(s, a->approximate);
    }
    return 0;
}

static int find_pairs(struct build *b)
{
    struct solver *s = b->s;
    const int *row = s->producing.at;
    for (int i = 0; i < s->n_axes; i++)
        if (s->axis[i].parent == i && s->axis[i].base >= 0 && pair_root(b, i))
            return -1;
    int *seen = ints(s, s->n_axes, 0);
    if (!seen)
        return -1;
    for (int i = 0; i < s->producing.n; i++) { /* groups that are frozen altogether show what makes them */
        const int group = b->group_of[i], root = axis_root(s, row[i]);
        struct pair *p = s->groups->at[group].n || seen[root] ? NULL : list_add(s, &b->pairs, sizeof *p);
        if (!p && !s->groups->at[group].n && !seen[root])
            return -1;
        if (p)
            *p = (struct pair){.group = group, .root = root};
        seen[root] = 1;
    }
    return 0;
}

/* A group without all its tables cannot be shown nor removed. */
static void drop_knots(struct build *b)
{
    for (int i = 0; i < b->pairs.n; i++) {
        const struct pair *p = pair_at(b, i);
        struct group *g = &b->s->groups->at[p->group];
        if (p->atom || !g->n)
            continue;
        g->n = 0;
        g->frozen = "its channels lie on too many axes of too many sizes";
    }
}

/* ---- members ---- */
/* Rows of a pair that are members, one after another; start with first_row[root]. A row too long for a table is
 * none. */
static int member_row(const struct build *b, int row)
{
    while (row >= 0 && b->s->axis[row].size > AXIS_ELEMENTS_MAX)
        row = b->next_row[row];
    return row;
}

static int list_rows(struct build *b)
{
    struct solver *s = b->s;
    b->next_row = ints(s, s->n_axes, -1);
    b->first_row = ints(s, s->n_axes, -1);
    b->position = ints(s, s->m->n_nodes, -1);
    if (!b->next_row || !b->first_row || !b->position)
        return -1;
    for (int i = s->n_axes - 1; i >= 0; i--) {
        const int root = axis_root(s, i);
        b->next_row[i] = b->first_row[root];
        b->first_row[root] = i;
    }
    for (int i = 0; i < s->n_order; i++)
        b->position[s->order[i]] = i;
    return 0;
}

static uint32_t first_reader(const struct build *b, uint32_t value)
{
    const struct uses *u = &b->s->uses;
    uint32_t best = NODE_NONE;
    for (uint32_t i = u->first[value]; i < u->first[value + 1]; i++) {
        const uint32_t n = u->all[i].node;
        if (n != NODE_NONE && b->position[n] >= 0 && (best == NODE_NONE || b->position[n] < b->position[best]))
            best = n;
    }
    return best;
}

static struct group_member member_of(const struct build *b, int row, const int *atom)
{
    const struct solver *s = b->s;
    const struct axis *a = &s->axis[row];
    const bool constant = s->constant[a->value] != NULL;
    return (struct group_member){.value = a->value, .axis = a->index, .constant = constant, .role = a->role,
                                 .size = a->size, .atom = atom,
                                 .node = constant ? first_reader(b, a->value) : s->m->values[a->value].producer};
}

static int rank_of(const struct group_member *m)
{
    return m->constant && m->role == COUPLE_PRODUCES ? 0 : m->constant ? 1 : 2;
}

struct keyed {
    struct group_member m;
    int rank, position;
};

static int compare(const void *x, const void *y)
{
    const struct keyed *a = x, *b = y;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    if (a->position != b->position)
        return a->position < b->position ? -1 : 1;
    if (a->m.value != b->m.value)
        return a->m.value < b->m.value ? -1 : 1;
    return a->m.axis < b->m.axis ? -1 : a->m.axis > b->m.axis;
}

static int fill_members(struct build *b, struct keyed *keyed, int *at, int n_groups)
{
    struct groups *g = b->s->groups;
    for (int i = 0; i < b->pairs.n; i++) {
        const struct pair *p = pair_at(b, i);
        const int *atom = g->at[p->group].n ? p->atom : NULL;
        for (int row = member_row(b, b->first_row[p->root]); row >= 0; row = member_row(b, b->next_row[row])) {
            struct keyed *k = &keyed[at[p->group]++];
            k->m = member_of(b, row, atom);
            k->rank = rank_of(&k->m);
            k->position = k->m.node == NODE_NONE ? -1 : b->position[k->m.node];
        }
    }
    for (int i = 0, from = 0; i < n_groups; from = at[i++]) {
        struct group *group = &g->at[i];
        qsort(keyed + from, (size_t)(at[i] - from), sizeof *keyed, compare);
        group->n_members = at[i] - from;
        group->member = arena_calloc(b->s->arena, (size_t)group->n_members + 1, sizeof *group->member);
        if (!group->member)
            return -1;
        for (int k = from; k < at[i]; k++)
            group->member[k - from] = keyed[k].m;
    }
    return 0;
}

/* The tables of frozen groups are one, of ATOM_NONE. */
static int share_empty(struct build *b)
{
    struct groups *g = b->s->groups;
    int64_t largest = 0;
    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < g->at[i].n_members; k++)
            if (!g->at[i].member[k].atom)
                largest = i64_max(largest, g->at[i].member[k].size);
    const int *none = ints(b->s, largest, ATOM_NONE);
    for (int i = 0; none && i < g->n; i++)
        for (int k = 0; k < g->at[i].n_members; k++)
            if (!g->at[i].member[k].atom)
                g->at[i].member[k].atom = none;
    return none ? 0 : -1;
}

static int make_members(struct build *b)
{
    const int n = b->s->groups->n;
    int *at = ints(b->s, n, 0);
    int64_t total = 0;
    if (!at || list_rows(b))
        return -1;
    for (int i = 0; i < b->pairs.n; i++)
        for (int row = member_row(b, b->first_row[pair_at(b, i)->root]); row >= 0;
             row = member_row(b, b->next_row[row])) {
            at[pair_at(b, i)->group]++;
            total++;
        }
    struct keyed *keyed = total > INT32_MAX / 2 ? NULL : calloc((size_t)total + 1, sizeof *keyed);
    if (!keyed)
        return -1;
    for (int i = 0, from = 0; i < n; i++) {
        const int count = at[i];
        at[i] = from;
        from += count;
    }
    const int rc = fill_members(b, keyed, at, n) || share_empty(b) ? -1 : 0;
    free(keyed);
    return rc;
}

int solver_groups(struct solver *s, struct err *err)
{
    struct build b = {.s = s};
    s->atom_group = ints(s, s->n_elements, ATOM_NONE);
    s->atom = ints(s, s->n_elements, ATOM_NONE);
    if (!s->atom_group || !s->atom || join_producing(&b) || name_groups(&b))
        return err_set(err, ERR_NOMEM, "out of memory while building groups");
    number_atoms(&b);
    if (measure_widths(&b) || find_pairs(&b))
        return err_set(err, ERR_NOMEM, "out of memory while building groups");
    for (int i = 0; i < s->groups->n; i++)
        s->groups->at[i].frozen = reason_text(s, b.reason[i]);
    drop_knots(&b);
    return make_members(&b) ? err_set(err, ERR_NOMEM, "out of memory while building groups") : 0;
}
