/* SPDX-License-Identifier: Apache-2.0
 * groups_impl.h - the solver of groups.h from inside: what its files share.
 * Axes       Every axis of every tensor of the main graph is a row of `axis`. A rule that links two axes one to one,
 *            whole and in order (nearly all links), joins the rows: only the root of a joined set has elements. So a
 *            chain of a thousand layers over pictures of a million pixels has one row of pixels.
 * Elements   of roots that can matter (linked, however far, with an axis that makes channels) lie in one numbering;
 *            links that are not one to one join elements. A class of joined elements that nobody froze, with an element
 *            that makes a channel, is an atom.
 * Reasons    the first one stays: they are numbered in the order they are met. Outputs of the model come first. */
#ifndef PARED_PRUNE_GROUPS_IMPL_H
#define PARED_PRUNE_GROUPS_IMPL_H

#include "core/passes/infer.h"
#include "core/prune/groups.h"

/* Why something is frozen; `slot` and `axis` say where, `text` is a rule's. */
enum reason_kind {
    REASON_NONE,
    REASON_OUTPUT,   /* value */
    REASON_INPUT,    /* value */
    REASON_WEIGHT,   /* value: cannot be cut */
    REASON_NESTED,   /* value: read by a nested graph */
    REASON_RULE,     /* node, text */
    REASON_UNKNOWN,  /* node: nobody knows its operator */
    REASON_NO_RULE,  /* node */
    REASON_GRAPHS,   /* node: holds graphs */
    REASON_ATTRS,    /* node: attributes do not parse, wrong number of inputs */
    REASON_SHAPE,    /* node, value: unknown rank */
    REASON_NEEDS,    /* node, slot, axis: the rule does not mention it */
    REASON_FIT,      /* node: a link beyond the axis */
    REASON_LONG,     /* value, axis: too many elements */
    REASON_FOLD,     /* node, value, axis: another part of the split goes */
    REASON_COUNT
};
struct reason {
    enum reason_kind kind;
    uint32_t node, value;
    int slot, axis;
    bool out;
    const char *text;
};

enum { AXIS_ELEMENTS_MAX = 1 << 24 }; /* longer axes are frozen */

struct axis {
    uint32_t value;
    int parent;  /* row it is joined with; itself: a root */
    int64_t size; /* -1: not known */
    int frozen, approximate; /* of roots: reason, 0: none */
    int64_t base; /* of roots: first element, -1: has none */
    uint8_t index; /* which axis of the value */
    uint8_t role;  /* of constants: enum couple_role */
    bool relevant; /* of roots: something that makes channels is linked with it */
    bool batch;    /* of roots: a batch axis of a product of two activations: heads */
    bool heads;    /* of roots: chosen as the part that goes because of that, or a rule says so */
};

/* One operator as the rules see it; op NULL: frozen. */
struct site {
    const struct op_class *op;
    struct infer_ctx infer;
};

struct side {
    int axis; /* row, not a root */
    int64_t from, step;
    const int64_t *table;
};
struct elements_link {
    struct side a, b;
    int64_t count;
    uint32_t node;
};
struct axis_fold {
    uint32_t node;
    int whole, n;
    int part[SHAPE_MAX_RANK]; /* rows */
};

/* A list that doubles, in the solver's arena. */
struct list {
    void *at;
    int n, cap;
};

struct cost_table; /* groups_cost.c */

struct solver {
    const struct model *m;
    enum groups_mode mode;
    struct arena *arena;
    struct infer infer;
    struct uses uses;
    uint32_t *order; /* nodes of the main graph */
    int n_order;
    struct site *site;                /* by node id */
    const struct tensor **constant;   /* by value id: bytes that can be cut; NULL */
    int *first;                       /* by value id: its axis 0 in `axis`; [n_values + 1] */
    struct axis *axis;
    int n_axes;
    struct list reasons, links, folds; /* struct reason (0 is none), elements_link, axis_fold */
    struct list producing;             /* int: rows of `axis` in order of the nodes that read them */
    struct list producer;              /* uint32_t: those nodes */
    int64_t n_elements;
    int *parent, *stop;       /* by element; stop: at roots, reason it is frozen for */
    int *atom_group, *atom;   /* by element, at roots: ATOM_NONE: no atom */
    struct cost_table *costs;
    struct groups *groups;
};

/* ---- groups_axes.c: rows, joining, reasons ---- */
void *list_add(struct solver *s, struct list *l, size_t width); /* zeroed; NULL: out of memory */
int solver_axes(struct solver *s, struct err *err);             /* makes the rows; freezes inputs and outputs */
int axis_root(const struct solver *s, int row);
void axis_join(struct solver *s, int a, int b);
int reason_add(struct solver *s, struct reason r); /* 0: out of memory */
void axis_freeze(struct solver *s, int row, int reason);
void axis_approximate(struct solver *s, int row, int reason);
/* The sentence part, in the arena; NULL for reason 0. */
const char *reason_text(const struct solver *s, int reason);
static inline struct axis *root_of(const struct solver *s, int row) { return &s->axis[axis_root(s, row)]; }
static inline int row_of(const struct solver *s, uint32_t value, int axis)
{
    const bool there = value != VALUE_NONE && axis >= 0 && axis < s->first[value + 1] - s->first[value];
    return there ? s->first[value] + axis : -1;
}
/* The value at an end of a node; VALUE_NONE. */
uint32_t end_value(const struct node *n, struct end e);

/* ---- groups_walk.c: asking the rules ---- */
int solver_walk(struct solver *s, struct err *err);

/* ---- groups_fold.c: elements, links between them, folds ---- */
int solver_elements(struct solver *s, struct err *err);
int element_root(const struct solver *s, int64_t e);
int solver_fold(struct solver *s, struct err *err);

/* ---- groups_members.c: atoms, groups, members ---- */
int solver_groups(struct solver *s, struct err *err);

/* ---- groups_cost.c ---- */
int solver_costs(struct solver *s, struct err *err);

/* ---- what goes: by root row, which elements are left ---- */
struct cut {
    int64_t **kept; /* [n_axes], at roots; NULL: all */
    int64_t *count; /* [n_axes] */
    int *rows;      /* roots with something gone */
    int n_rows;
};
/* keep_lists: kept is filled; otherwise only count, and kept[root] is not NULL where something goes. */
int cut_plan(const struct solver *s, const bool *const *gone, bool keep_lists, struct cut *c, struct err *err);
void cut_fini(struct cut *c);

#endif
