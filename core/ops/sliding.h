/* SPDX-License-Identifier: Apache-2.0
 * sliding.h - the attributes that convolutions and pools share (kernel_shape, strides, pads, dilations, auto_pad),
 * checked and resolved into a window over the spatial axes of an input [N, C, ...]. */
#ifndef PARED_OPS_SLIDING_H
#define PARED_OPS_SLIDING_H

#include "core/kernels/im2col.h"
#include "core/ops/op_util.h"

enum sliding_auto_pad { AUTO_PAD_NOTSET, AUTO_PAD_SAME_UPPER, AUTO_PAD_SAME_LOWER, AUTO_PAD_VALID };
extern const char *const sliding_auto_pads[];

struct sliding_attrs {
    struct op_ints kernel_shape, strides, pads, dilations;
    int auto_pad;
};
/* Rows of an attribute table for a struct that holds `struct sliding_attrs s`. */
#define SLIDING_ATTR(struct_type, name_, kind_)                                                                      \
    .name = #name_, .kind = kind_, .offset = offsetof(struct struct_type, s.name_)
#define SLIDING_ATTRS_PLAIN(struct_type)                                                                             \
    {SLIDING_ATTR(struct_type, kernel_shape, OP_INTS)}, {SLIDING_ATTR(struct_type, strides, OP_INTS)},               \
        {SLIDING_ATTR(struct_type, pads, OP_INTS)},                                                                  \
        {SLIDING_ATTR(struct_type, auto_pad, OP_ENUM), .choices = sliding_auto_pads}
#define SLIDING_ATTRS(struct_type) SLIDING_ATTRS_PLAIN(struct_type), {SLIDING_ATTR(struct_type, dilations, OP_INTS)}

/* Kernel extents, strides, dilations and explicit pads, each checked; `rank` spatial axes. kernel: the extents of a
 * weight, or NULL when kernel_shape alone says them; -1 entries are unknown. w->in and w->out are not touched. */
int sliding_read(struct window *w, const struct sliding_attrs *a, int rank, const int64_t *kernel, struct err *err);
/* sliding_read, then paddings and output sizes for the input shape x [N, C, ...]. Unknown input sizes give unknown
 * output sizes (the symbol is kept where the size is). ERR_SHAPE when the window does not fit. */
int sliding_resolve(struct window *w, const struct sliding_attrs *a, const struct shape *x, const int64_t *kernel,
                    bool ceil_mode, struct err *err);
/* x has at least one spatial axis: rank 3 or more, or unknown. */
int sliding_rank(const struct infer_ctx *c, int i, struct err *err);
/* Formulas for the output sizes that follow from input sizes not known yet, into the spatial axes of `out`. */
void sliding_symbols(struct symbols *symbols, const struct window *w, const struct sliding_attrs *a, bool ceil_mode,
                     struct shape *out);
/* [N, channels, out...] */
struct shape sliding_output(const struct window *w, int64_t batch, int64_t channels);

#endif
