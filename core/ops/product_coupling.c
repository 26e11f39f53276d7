/* SPDX-License-Identifier: Apache-2.0
 * Coupling rules of convolutions and matrix products: see product_coupling.h. */
#include "core/ops/product_coupling.h"

/* ---- convolutions ---- */
/* How the channels of a grouped convolution can go. */
enum conv_mode { CONV_DENSE, CONV_GROUPS, CONV_PLACES, CONV_UNKNOWN };

static enum conv_mode mode_of(int64_t group, int64_t channels, int64_t outputs)
{
    if (group == 1)
        return CONV_DENSE;
    if (group < 1 || channels < 1 || outputs < 1 || channels % group || outputs % group)
        return CONV_UNKNOWN;
    return channels == group || outputs == group ? CONV_GROUPS : CONV_PLACES;
}

void couple_places(struct coupling *k, struct end e, int axis, int64_t blocks)
{
    enum { BLOCKS_MAX = 1 << 16 }; /* sizes come from files */
    const int64_t size = couple_size(k, e, axis);
    if (size < 0 || blocks < 1 || size % blocks || blocks > BLOCKS_MAX) {
        couple_freeze(k, e, axis,
                      blocks > BLOCKS_MAX ? "it has too many groups" : "the sizes of its groups are not fixed");
        return;
    }
    for (int64_t i = 1; i < blocks; i++)
        couple_range(k, e, axis, 0, e, axis, i * (size / blocks), size / blocks);
}

static void freeze_channels(struct coupling *k, struct end x, struct end w)
{
    static const char why[] = "the sizes of its groups are not fixed";
    couple_freeze(k, x, 1, why);
    couple_freeze(k, OUT(0), 1, why);
    couple_freeze(k, w, 0, why);
    couple_freeze(k, w, 1, why);
}

/* Whole groups: block i of the input with block i of the output. */
static void tie_groups(struct coupling *k, struct end x, int64_t group)
{
    const int64_t channels = couple_size(k, x, 1), outputs = couple_size(k, OUT(0), 1);
    if (channels == group)
        couple_blocks(k, x, 1, OUT(0), 1, outputs / group);
    else
        couple_blocks(k, OUT(0), 1, x, 1, channels / group);
}

void couple_conv(struct coupling *k, struct end x, struct end w, int64_t group)
{
    const int64_t channels = couple_size(k, x, 1);
    const enum conv_mode mode = mode_of(group, channels, couple_size(k, OUT(0), 1));

    couple_axes(k, x, 0, OUT(0), 0);
    if (mode == CONV_UNKNOWN) {
        freeze_channels(k, x, w);
        return;
    }
    couple_axes(k, w, 0, OUT(0), 1);
    if (mode == CONV_GROUPS) {
        tie_groups(k, x, group);
        couple_role(k, w, 0, channels == group ? COUPLE_PASSES : COUPLE_PRODUCES);
        return;
    }
    couple_role(k, w, 0, COUPLE_PRODUCES);
    couple_role(k, w, 1, COUPLE_CONSUMES);
    couple_role(k, x, 1, COUPLE_CONSUMES);
    if (mode == CONV_DENSE) {
        couple_axes(k, w, 1, x, 1);
        return;
    }
    couple_strided(k, w, 1, x, 1);
    couple_places(k, OUT(0), 1, group);
}

void couple_conv_transpose(struct coupling *k, struct end x, struct end w, int64_t group)
{
    const int64_t outputs = couple_size(k, OUT(0), 1);
    const enum conv_mode mode = mode_of(group, couple_size(k, x, 1), outputs);

    couple_axes(k, x, 0, OUT(0), 0);
    if (mode == CONV_UNKNOWN) {
        freeze_channels(k, x, w);
        return;
    }
    couple_axes(k, w, 0, x, 1);
    if (mode == CONV_GROUPS) {
        tie_groups(k, x, group);
        return;
    }
    couple_role(k, w, 0, COUPLE_CONSUMES);
    couple_role(k, x, 1, COUPLE_CONSUMES);
    couple_role(k, w, 1, COUPLE_PRODUCES);
    if (mode == CONV_DENSE) {
        couple_axes(k, w, 1, OUT(0), 1);
        return;
    }
    couple_strided(k, w, 1, OUT(0), 1);
    couple_places(k, x, 1, group);
}

void couple_vector(struct coupling *k, int slot, struct end of, int axis)
{
    const int rank = couple_rank(k, IN(slot));
    if (rank < 0 && infer_has(k->infer, slot))
        couple_freeze(k, of, axis, "the sizes of what goes with it are not fixed");
    for (int i = 0; i < rank; i++)
        if (couple_size(k, IN(slot), i) != 1)
            couple_axes(k, IN(slot), i, of, axis);
}

int shrink_conv_group(struct shrink *s, struct end x, int64_t group, struct err *err)
{
    int64_t kept;
    (void)err;
    if (group <= 1)
        return 0;
    if (!s->kept(s, x, 1, &kept) && !s->kept(s, OUT(0), 1, &kept))
        return 0;
    const struct infer_ctx *c = s->infer;
    const int64_t channels = (x.out ? c->out[x.slot].shape : c->in[x.slot]->shape).dim[1];
    const int64_t outputs = c->out[0].shape.dim[1];
    if (mode_of(group, channels, outputs) == CONV_GROUPS)
        node_set_int(s->model, s->node, "group", shrink_size(s, channels == group ? x : OUT(0), 1));
    return 0;
}

/* ---- matrices ---- */
/* The stored axis of what the product sees as axis `axis` from the end, 1 the last. */
static int stored_axis(const struct coupling *k, const struct couple_operand *o, int axis)
{
    const int rank = couple_rank(k, o->end);
    if (rank < 2)
        return 0;
    if (o->trans && axis <= 2)
        axis = 3 - axis;
    if (o->trans_batch && axis > 1)
        return axis == 2 ? 0 : rank - axis + 1;
    return rank - axis;
}

/* A leading axis of one operand, where the other has `other` elements. */
static void couple_leading(struct coupling *k, struct end e, int axis, int out_axis, int64_t other)
{
    couple_axes(k, e, axis, OUT(0), out_axis);
    if (other == 1)
        couple_role(k, e, axis, COUPLE_PRODUCES);
}

static void couple_own(struct coupling *k, struct end e, int axis, int out_axis)
{
    couple_axes(k, e, axis, OUT(0), out_axis);
    couple_role(k, e, axis, COUPLE_PRODUCES);
}

void couple_matmul(struct coupling *k, struct couple_operand a, struct couple_operand b)
{
    const int rank_a = couple_rank(k, a.end), rank_b = couple_rank(k, b.end);
    if (rank_a < 1 || rank_b < 1)
        return;
    const bool rows = rank_a > 1, cols = rank_b > 1;
    const int inner_a = stored_axis(k, &a, 1), inner_b = stored_axis(k, &b, 2), own = rows + cols;

    couple_axes(k, a.end, inner_a, b.end, inner_b);
    couple_role(k, a.end, inner_a, COUPLE_CONSUMES);
    couple_role(k, b.end, inner_b, COUPLE_CONSUMES);
    if (rows)
        couple_own(k, a.end, stored_axis(k, &a, 2), -own);
    if (cols)
        couple_own(k, b.end, stored_axis(k, &b, 1), -1);
    for (int t = 3; t <= rank_a || t <= rank_b; t++) {
        const int at = stored_axis(k, &a, t), bt = stored_axis(k, &b, t);
        if (t <= rank_a)
            couple_leading(k, a.end, at, 2 - t - own, t <= rank_b ? couple_size(k, b.end, bt) : 1);
        if (t <= rank_b)
            couple_leading(k, b.end, bt, 2 - t - own, t <= rank_a ? couple_size(k, a.end, at) : 1);
    }
}
