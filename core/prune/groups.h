/* SPDX-License-Identifier: Apache-2.0
 * groups.h - dependency groups of a model for structured pruning (DepGraph, Fang et al., CVPR 2023): which channels can go, what
 * goes with each, what that saves, why others cannot; and the rewriting that takes them out.
 * Atom       a class of elements of (value, axis) pairs that can only go together: the transitive closure of what the operators'
 *            rules link (core/ops/couple.h). Through residual sums, concatenations, channel shuffles an atom has elements on
 *            many axes, several on some.
 * Group      atoms that are made by the same axes of the same weights: "the channels" of a layer and of all coupled with it.
 *            atom numbers go by the first producing axis's element order. A producing axis whose elements are frozen makes a
 *            frozen group, with the reason: nothing is passed over in silence. Atoms with frozen elements are not in a group's atoms;
 *            a group with some has the reason too, beside its atoms.
 * Model      what is constant must be an initializer (passes_prepare or fold_constants first: groups_prepare). Types come from
 *            infer.h, so symbolic batch and image sizes are fine and unknown operators only freeze what they touch.
 * Ownership  a struct groups belongs to the caller and describes the model as it was; groups_remove makes it stale. Results do not
 *            depend on anything but the model. Memory: one int a (value, axis) element. Threads: one.
 * Errors     ERR_NOMEM; ERR_MODEL of a cyclic graph. */
#ifndef PARED_PRUNE_GROUPS_H
#define PARED_PRUNE_GROUPS_H

#include <jansson.h>

#include "core/ops/couple.h"
#include "core/step/layer_report.h"

enum { ATOM_NONE = -1 };

/* One axis of one value with elements of the group's atoms. */
struct group_member {
    uint32_t value, node; /* node: that reads a constant (the first), or makes an activation */
    int axis;
    bool constant;         /* a weight: its bytes are cut */
    enum couple_role role; /* of constants: as the node that reads it says */
    int64_t size;          /* of the axis */
    const int *atom;       /* [size] atom of each element, ATOM_NONE: none of this group */
};

struct group {
    int64_t n;          /* atoms: what can be removed one by one. 0: frozen */
    const char *name;   /* the label of the node that makes the first channels: unique enough for people and globs */
    uint32_t node;      /* that node */
    const char *frozen; /* why nothing, or not all, can go: a sentence part with the node in it; NULL: all can */
    const char *approximate;     /* why removal is not exact (normalization over the axis); NULL: it is */
    const char *through;         /* "heads" if its atoms are whole attention heads (GROUPS_OUTER), else NULL */
    struct group_member *member; /* producing weights first, then other constants, then activations */
    int n_members;
    const int64_t *width; /* [n] elements of the first producing axis in each atom, at least 1 */
    /* What one atom costs on average at batch 1: of all atoms divided by n, so sums over groups count products twice (their inputs and
     * outputs). macs: -1 where shapes are not known. */
    double macs, params, bytes;
};

struct groups {
    struct group *at;
    int n;
    struct arena *arena;
    void *solver; /* private */
};

/* Which part of a Reshape that splits channels goes: the inner one (the same place in every head; channel shuffles), or
 * the outer one (whole heads) where an attention product reads the result. */
enum groups_mode { GROUPS_INNER, GROUPS_OUTER };

/* Constants become initializers, shape arithmetic on fixed sizes becomes numbers (so that 1 / sqrt(head size) stays what it was),
 * BatchNormalization stays. Ids stay. */
int groups_prepare(struct model *m, struct warnings *warnings, struct err *err);
/* m: prepared, borrowed until groups_free. */
struct groups *groups_find(const struct model *m, enum groups_mode mode, struct err *err);
void groups_free(struct groups *g);

/* Remove atoms: gone[i] is NULL or [at[i].n] flags of group i. Cuts weights (notes "mask" are cut with them, and a note "kept.<axis>",
 * int64 [kept], says which indices of the axis at the first cut are left: kept of kept after a second), rewrites what nodes are told in
 * numbers, drops stale value_info, keeps names. m is the model g was found on, or a clone of it (same ids). A group may not be emptied
 * (ERR_INVALID). */
int groups_remove(const struct groups *g, struct model *m, const bool *const *gone, struct err *err);

/* What would be left: multiply-accumulates at batch 1 (-1: unknown), parameters, bytes of weights, by exact arithmetic on sizes, without
 * cutting. (Of bytes: shapes and other numbers that nodes are told may take a few more when two nodes no longer share them.) */
struct groups_cost {
    int64_t macs, params, bytes;
};
int groups_cost(const struct groups *g, const bool *const *gone, struct groups_cost *cost, struct err *err);

/* For GET /v1/models/{id}/groups and `pared inspect --groups`: [{id, name, channels, prunable, frozen?, approximate?, heads?,
 * members: [{weight, node, op_type, axis, size, role}], per_channel: {macs?, params, bytes}}], at most max_groups
 * groups of max_members members; `more` in a group: members that were left off. NULL: out of memory. */
json_t *groups_json(const struct groups *g, int max_groups, int max_members);

#endif
