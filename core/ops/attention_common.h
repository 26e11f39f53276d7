/* SPDX-License-Identifier: Apache-2.0
 * attention_common.h - what the attention operators share around the core (kernels/attention.h): views of tensors, biases of
 * the projections, integer masks, the cache of keys and values, rotary positions. Everything is float32; halves are widened
 * by the callers. Memory is the call's scratch. */
#ifndef PARED_OPS_ATTENTION_COMMON_H
#define PARED_OPS_ATTENTION_COMMON_H

#include "core/kernels/attention.h"
#include "core/ops/couple.h"
#include "core/ops/widen.h"

/* data is [B, S, heads * width]: rows of all heads side by side, `row` elements a position. */
struct attention_view attention_rows(const float *data, int64_t positions, int64_t row, int64_t width);
/* data is [B, heads, S, width]. */
struct attention_view attention_heads(const float *data, int64_t heads, int64_t positions, int64_t width);

/* Scratch of n float elements with overflow checked; never NULL for n = 0. */
float *attention_floats(struct run_ctx *c, int64_t n, struct err *err);

/* v + bias in scratch as [B, S, heads * width]; v is replaced by the view of it. bias [heads * width]. */
int attention_add_bias(struct run_ctx *c, struct attention_view *v, int64_t batch, int64_t heads, int64_t positions,
                       int64_t width, const float *bias, struct err *err);

/* Writes [B, heads, total, width] to dst: `past` positions of `old` (NULL: none; its own positions a head are old_total), then
 * `fresh` positions of v. */
struct attention_append {
    int64_t batch, heads, width, total, past, fresh, old_total;
    const float *old;
    struct attention_view v;
    float *dst;
};
void attention_append(const struct attention_append *a);

/* The integer masks of com.microsoft as an additive bias: 0 where a key counts, `filter` where not. Forms: [B] lengths,
 * [2B] ends and then starts, [B, T], [B, S, T], [B, 1, M, M]. attention_mask_shape refuses other ones. */
int attention_mask_shape(const struct infer_ctx *c, int i, int64_t batch, int64_t rows, int64_t total, struct err *err);
int attention_mask(struct run_ctx *c, const struct tensor *mask, const struct attention *a, float filter,
                   struct attention_bias *out, struct err *err);

/* attention_bias of shape [B or 1, heads or 1, S, T]. */
int attention_bias_shape(const struct infer_ctx *c, int i, int64_t batch, int64_t heads, int64_t rows, int64_t total,
                         struct err *err);
struct attention_bias attention_bias_of(const struct tensor *t);

/* Input i, if there and known, has exactly this shape (negative dims of `want` match everything). */
int attention_shape(const struct infer_ctx *c, int i, const char *name, struct shape want, struct err *err);
/* Multiply-accumulates of the scores and of the weighted sum: batch * rows * heads * total * (width + v_width). -1: one of them
 * is not known, or the product overflows. */
int64_t attention_macs(int64_t batch, int64_t rows, int64_t heads, int64_t total, int64_t width, int64_t v_width);
/* Coupling of whole heads: a unit is a head of keys and values with all heads of queries that read it. Everything is tied
 * to the units of OUT(0)'s axis `axis`, `width` elements each. units < 1: not known, nothing is said (all stays). */
struct attention_units {
    int64_t units, width;
    int axis;
};
/* An axis of e: `parts` stretches one after another, in each of which every unit has width[part] elements. Absent ends
 * are ignored, so is an axis of 1 (broadcast). */
void attention_couple(struct coupling *k, const struct attention_units *u, struct end e, int axis, const int64_t *width,
                      int parts);
static inline void attention_couple_one(struct coupling *k, const struct attention_units *u, struct end e, int axis,
                                        int64_t width)
{
    attention_couple(k, u, e, axis, &width, 1);
}
/* Whole units pass from e to OUT(0). */
static inline void attention_couple_passing(struct coupling *k, const struct attention_units *u, struct end e)
{
    attention_couple_one(k, u, OUT(0), u->axis, u->width);
    attention_couple_one(k, u, e, u->axis, u->width);
}
/* After the cut: units that are left of `units`. */
int64_t attention_units_left(const struct shrink *s, const struct attention_units *u);
/* Attribute num_heads, if it was given (declared > 0), follows what is left of OUT(0). */
static inline void attention_shrink_heads(struct shrink *s, const struct attention_units *u, int64_t declared)
{
    if (u->units > 0 && declared > 0 && shrink_touched(s, OUT(0), u->axis))
        node_set_int(s->model, s->node, "num_heads", attention_units_left(s, u));
}
/* Coupling of stacks [B, heads, S, width]: q, k, v, OUT(0), caches and present ones (their slots; -1: the row has none).
 * Heads only when `heads`; widths in any case. */
struct attention_stacks {
    int past_k, past_v, present_k, present_v;
    bool heads;
};
void attention_couple_stacks(struct coupling *k, const struct attention_stacks *t);
/* After the cut of Q's last axis: 1 / sqrt of the width it had, where that was what the node meant. */
void attention_keep_scale(struct shrink *s, bool implicit);
/* Runs the core in float32, with its scratch. */
int attention_run(struct run_ctx *c, const struct attention *a, struct err *err);

#endif
