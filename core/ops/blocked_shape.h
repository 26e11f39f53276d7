/* SPDX-License-Identifier: Apache-2.0
 * blocked_shape.h - shapes of blocked images [N, Cb, H, W, 8] (kernels/blocked.h), for the rows that work on them. */
#ifndef PARED_OPS_BLOCKED_SHAPE_H
#define PARED_OPS_BLOCKED_SHAPE_H

#include <inttypes.h>

#include "core/kernels/blocked.h"
#include "core/ops/op_util.h"

/* Input i is a blocked image, or of unknown rank; of that many channels unless -1. */
static inline int blocked_check(const struct infer_ctx *c, int i, int64_t channels, struct err *err)
{
    const struct shape *s = infer_shape(c, i);
    char text[SHAPE_TEXT];
    if (s->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if (s->rank != 5 || s->dim[4] != BLOCK)
        return err_set(err, ERR_SHAPE, "input #%d has shape %s; a blocked image is [N, blocks, H, W, 8]", i,
                       shape_text(s, text));
    if (channels >= 0 && s->dim[1] >= 0 && s->dim[1] != blocked_count(channels))
        return err_set(err, ERR_SHAPE, "input #%d has %" PRId64 " blocks; %" PRId64 " channels need %" PRId64, i,
                       s->dim[1], channels, blocked_count(channels));
    return 0;
}

/* [N, channels, H, W] of a blocked image. */
static inline struct shape blocked_image(const struct shape *x, int64_t channels)
{
    return SHAPE(x->dim[0], channels, x->dim[2], x->dim[3]);
}

#endif
