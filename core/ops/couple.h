/* SPDX-License-Identifier: Apache-2.0
 * couple.h - what an operator's row says for structured pruning: which elements of the axes of its inputs and outputs stay or
 * go together (the intra-layer edges of DepGraph, Fang et al., CVPR 2023, per element instead of per axis).
 * Model      Every axis of every value, weights too, is a list of elements. A rule links elements of axes of one node's
 *            inputs and outputs; the solver (core/prune/groups.h) takes the transitive closure over the graph: an atom is a
 *            class of elements that can only go all at once. Removing an atom must leave the node computing the rest of
 *            what it computed before, given that what was removed is no longer read (see `consumes`).
 * Frozen     is every axis that a rule does not mention, and all axes of a node whose row has no rule: nothing on them can
 *            go, nor anything linked with them. Mention every axis that may go, also one that only passes through.
 *            Axes of size 1 and axes whose size is not a number are nobody's: links with them are ignored.
 * Rules      op_class.couple is called once a node, with all that inference knew. It cannot see other nodes.
 *            op_class.shrink is called after axes were cut, to write new sizes into what the node is told in numbers: Reshape's
 *            shape, Split's sizes, Slice's bounds, Gather's indices, Conv's group, LSTM's hidden_size. Constant inputs
 *            themselves are cut by the rewriting, no rule does that. It may put nodes in front of its own and give
 *            its inputs new constants; it changes nothing else of the graph.
 * Errors     of rules: ERR_NOMEM only; what cannot be pruned is frozen with a reason, a static string without the
 *            operator's name ("its shape is computed while running"). Threads: one. */
#ifndef PARED_OPS_COUPLE_H
#define PARED_OPS_COUPLE_H

#include "core/ops/op.h"

/* An input or output of the node. */
struct end {
    bool out;
    int slot;
};
#define IN(i) ((struct end){false, i})
#define OUT(i) ((struct end){true, i})

/* What an axis of an input is to the product that reads it. Nothing said: it passes, or is cut along (biases, scales). */
enum couple_role {
    COUPLE_PASSES = 0,
    COUPLE_PRODUCES, /* of a weight: each element makes one channel of the output (Conv's axis 0, an embedding's columns) */
    COUPLE_CONSUMES, /* summed over: with zeros here the channel is not read (Conv's weight axis 1, MatMul's inner axes) */
};

/* Elements from + i * step of one axis, i < count; or table[i]. */
struct couple_side {
    struct end end;
    int axis;
    int64_t from, step;
    const int64_t *table; /* [count]; NULL: from and step */
};
struct couple_link {
    struct couple_side a, b;
    int64_t count;
};
/* A segment of Reshape that joins or splits axes: `whole` holds the elements of `part` axes, the last running fastest. Only one of
 * the parts can be alive; the solver chooses it. */
struct couple_fold {
    struct end whole, parts;
    int axis;     /* of whole */
    int first, n; /* axes first .. first + n - 1 of parts */
};
struct couple_note {
    struct end end;
    int axis;
    enum couple_role role;
    const char *frozen; /* a reason, or NULL */
    bool heads;         /* each element, or what goes with it, is a whole attention head */
    const char
        *approximate; /* cutting here changes what the rest becomes (statistics over the axis); a reason, or NULL */
};

/* One call of a rule: what it may look at, and what it said. */
struct coupling {
    const struct infer_ctx *infer; /* attributes, types of inputs, constant inputs, opset; out: types of outputs */
    struct arena *arena;
    struct couple_link *link;
    struct couple_fold *fold;
    struct couple_note *note;
    int n_links, cap_links, n_folds, cap_folds, n_notes, cap_notes;
    bool failed; /* memory ran out */
};

/* ---- what rules look at ---- */
/* Rank, -1: absent or not known. */
int couple_rank(const struct coupling *k, struct end e);
/* Size of an axis (negative counts from the end); -1: absent, not known, not a number. */
int64_t couple_size(const struct coupling *k, struct end e, int axis);
static inline const void *couple_attrs(const struct coupling *k)
{
    return k->infer->attrs;
}
/* The integers of a constant input (int32, int64), in the arena; -1: not constant, not integer, more than max. */
int couple_ints(const struct coupling *k, int slot, const int64_t **out, int64_t max);

/* ---- what rules say: axes may be negative (from the end); absent ends and unknown ranks are ignored ---- */
/* Elements of two axes of equal size, one to one. Unequal sizes: nothing is said (broadcasting from 1), but both are mentioned. */
void couple_axes(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b);
/* Every axis of a with the same axis of b (element-wise operators of one shape). */
void couple_same(struct coupling *k, struct end a, struct end b);
/* As couple_same, except for one axis, of which nothing is said. */
void couple_same_but(struct coupling *k, struct end a, struct end b, int axis);
/* Every axis of a with the axis of b it is broadcast to, counted from the right. */
void couple_broadcast(struct coupling *k, struct end a, struct end b);
/* count elements of a from from_a on with those of b from from_b on. */
void couple_range(struct coupling *k, struct end a, int axis_a, int64_t from_a, struct end b, int axis_b,
                  int64_t from_b, int64_t count);
/* The same for parts put together or taken out (Concat, Slice): where one of the axes has one element in all, the
 * other's element cannot go. So too by couple_table. */
void couple_part(struct coupling *k, struct end a, int axis_a, int64_t from_a, struct end b, int axis_b, int64_t from_b,
                 int64_t count);
/* Element i of a with elements i * block .. i * block + block - 1 of b. */
void couple_blocks(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b, int64_t block);
/* Element i of a (size n) with elements i, i + n, i + 2 n, ... of b, whose size is a multiple of n: the same place in every block. */
void couple_strided(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b);
/* Element i of a with element table[i] of b; table: [count] in bounds, copied. */
void couple_table(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b, const int64_t *table,
                  int64_t count);
/* One axis into several or several into one, see struct couple_fold. Sizes must multiply up, else the axes are frozen. */
void couple_fold(struct coupling *k, struct end whole, int axis, struct end parts, int first, int n);
void couple_role(struct coupling *k, struct end e, int axis, enum couple_role role);
void couple_freeze(struct coupling *k, struct end e, int axis, const char *why);
void couple_approximate(struct coupling *k, struct end e, int axis, const char *why);
/* What goes on this axis are whole attention heads (or a key head with its query heads). */
void couple_heads(struct coupling *k, struct end e, int axis);

/* ---- after the cut ---- */
/* What of a node's axes stayed. Sizes before; kept indices ascending; new sizes. */
struct shrink {
    const struct infer_ctx *infer; /* as before the cut */
    struct model *model;
    uint32_t node;
    void *solver; /* of the functions below */
    /* Indices kept of an axis (negative: from the end), *count of them; NULL: nothing of it went. */
    const int64_t *(*kept)(const struct shrink *s, struct end e, int axis, int64_t *count);
};
/* The axis's size now; -1 as couple_size. */
int64_t shrink_size(const struct shrink *s, struct end e, int axis);
static inline bool shrink_touched(const struct shrink *s, struct end e, int axis)
{
    int64_t n;
    return s->kept(s, e, axis, &n) != NULL;
}
/* Give input `slot` a new constant of its own: 1-D, of the dtype it had (int64 if it was absent). */
int shrink_set_input(struct shrink *s, int slot, const int64_t *v, int count, struct err *err);
/* node_set_int and node_set_ints of model.h change attributes. */

#endif
