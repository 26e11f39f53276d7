/* SPDX-License-Identifier: Apache-2.0
 * gram_rows.h - private to gram.c: which rows x a product reads of its input, and the rows themselves.
 * A row is [groups][k] floats. Rows of a sample come in a fixed order, samples lie along axis 0 of the input. */
#ifndef PARED_STATS_GRAM_ROWS_H
#define PARED_STATS_GRAM_ROWS_H

#include "core/engine/engine.h"
#include "core/kernels/im2col.h"
#include "core/ops/sliding.h"

/* How a product reads its input. Borrows attributes of the model's node. */
struct row_source {
    uint32_t value; /* the input */
    int64_t groups, k;
    bool along;  /* vectors lie along the axis before the last */
    bool window; /* a convolution: */
    struct sliding_attrs sliding;
    int64_t kernel[SHAPE_MAX_RANK];
    int spatial;
};

/* NULL, or why there are no rows of this node. A static string. */
const char *row_source_of(const struct model *m, uint32_t node, struct row_source *s);
/* Both give the same rows. */
bool row_source_same(const struct row_source *a, const struct row_source *b);

/* The rows of one tensor. */
struct row_layout {
    const struct row_source *source;
    int64_t samples, rows; /* rows of a sample */
    int64_t sample_step;   /* elements between samples */
    int64_t columns;       /* along: vectors of one matrix */
    struct window w;       /* window: resolved */
    int64_t plane;
};
/* False: a tensor of this shape does not fit the source. */
bool row_layout_make(struct row_layout *l, const struct row_source *s, const struct shape *x);
/* Row `row` of the sample that begins at x. */
void row_read(const struct row_layout *l, const float *x, int64_t row, float *out);

#endif
