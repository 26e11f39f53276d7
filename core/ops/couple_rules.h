/* SPDX-License-Identifier: Apache-2.0
 * couple_rules.h - what rules of many rows share: whole rules for rows that only differ in their formula, and the parts
 * that others are put together from (couple.h says what a rule is).
 * Sizes      A list of sizes (Reshape's shape, Expand's, Resize's) can always be written anew when its contents are
 *            numbers; where some are computed while running, the computed list stays and a Where puts the new numbers
 *            among them. */
#ifndef PARED_OPS_COUPLE_RULES_H
#define PARED_OPS_COUPLE_RULES_H

#include "core/ops/couple.h"

/* ---- whole rules ---- */
/* Every output element from the input elements at its place, broadcast: arithmetic, activations, Where, Cast. */
int couple_elementwise(struct coupling *k, struct err *err);
/* Outputs of input 0's shape, element by element; of the other inputs no element is read (CastLike). */
int couple_like(struct coupling *k, struct err *err);
/* The contents follow from the sizes alone (Shape, Size): every axis of the input may go. */
int couple_sizes_only(struct coupling *k, struct err *err);
/* Batch and channels pass, the image is frozen (pools). */
int couple_channels(struct coupling *k, struct err *err);

/* Matrices in the last two axes are frozen, the axes in front pass (triangles, inverses). */
int couple_matrices(struct coupling *k, struct err *err);

/* Regions of an image stand for the batch (RoiAlign, MaxRoiPool): of the image only the channels pass. */
int couple_regions(struct coupling *k, struct err *err);

/* ---- parts of rules ---- */
/* Axes of IN(0) that are reduced are frozen, the others pass to OUT(0), in which reduced ones are left out or have size 1. */
void couple_reduced(struct coupling *k, const bool *reduced, int rank, bool keepdims);
/* The axis may go; nothing else is said of it. */
static inline void couple_pass(struct coupling *k, struct end e, int axis)
{
    couple_role(k, e, axis, COUPLE_PASSES);
}
void couple_pass_all(struct coupling *k, struct end e);
void couple_freeze_all(struct coupling *k, struct end e, const char *why);
/* As couple_same_but, the axis itself frozen on both sides. */
void couple_along(struct coupling *k, struct end a, struct end b, int axis, const char *why);
/* Elements of two axes of equal size; where sizes differ or are not numbers both are frozen: for operators that do not
 * broadcast, of axes that may be cut short. */
void couple_equal_axes(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b, const char *why);
/* b's elements are a's in another shape. */
void couple_reshaped(struct coupling *k, struct end a, struct end b);
/* Output is there and has a name. */
bool couple_wanted(const struct infer_ctx *c, int output);
/* Input is a constant. */
bool couple_constant(const struct coupling *k, int slot);

/* ---- sizes that are told in numbers ---- */
/* Entry i of the list input `slot`; false: not known while planning. */
bool sizes_entry(const struct infer_ctx *c, int slot, int i, int64_t *v);
/* Whether every entry is known, or the list can be corrected while running. */
bool sizes_writable(const struct infer_ctx *c, int slot, int count);

#define SIZES_LEFT INT64_MIN
/* Entries of input `slot` become v[i]; those that are SIZES_LEFT stay what they were. count: of the list. Nothing is
 * done if nothing changes. */
int shrink_sizes(struct shrink *s, int slot, const int64_t *v, int count, struct err *err);
/* How many of the axis's elements below `bound` were kept. */
int64_t shrink_kept_below(const struct shrink *s, struct end e, int axis, int64_t bound);

#endif
