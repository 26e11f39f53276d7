/* SPDX-License-Identifier: Apache-2.0
 * index_places.h - where the elements lie that GatherElements, GatherND and their Scatter forms name: one flat offset
 * for each index or tuple of indices. Gathering, scattering and both gradients are then loops over these.
 * Errors     an index out of range, with its value, its place and the size of the axis. */
#ifndef PARED_OPS_INDEX_PLACES_H
#define PARED_OPS_INDEX_PLACES_H

#include "core/ops/op_util.h"

/* Offsets in memory of the caller's context; slices of `slice` elements begin at them. */
struct places {
    int64_t count, slice;
    int64_t *at;
};

/* What the offsets take; 0 elements are allowed. Then at = run_scratch or grad_scratch of these bytes. */
int places_bytes(const struct places *p, size_t *bytes, struct err *err);

/* One index an element, along `axis`: place i of the indices' shape, but index[i] on the axis. */
struct places places_elements(const struct tensor *index);
int places_fill_elements(struct places *p, const struct tensor *index, const struct shape *x, int axis,
                         struct err *err);

/* Tuples of m indices (the indices' last axis) behind the first `batch` axes, each naming a slice of x. */
struct places places_tuples(const struct tensor *index, const struct shape *x, int batch);
int places_fill_tuples(struct places *p, const struct tensor *index, const struct shape *x, int batch, struct err *err);

/* Adjoints: dst[at + i] += src[k * slice + i] (spread), and dst[k * slice + i] += src[at + i] (collect). Equal dtypes,
 * float32 or float64. */
void places_spread(const struct places *p, struct tensor *dst, const struct tensor *src);
void places_collect(const struct places *p, struct tensor *dst, const struct tensor *src);

#endif
