/* SPDX-License-Identifier: Apache-2.0
 * weight_view.h - a constant weight as the product that reads it sees it, without a copy.
 * View       a stored tensor (initializer or Constant node) behind any chain of Identity, Transpose, and Cast between
 *            floating-point types. Exported transformers have most of their weights there; folding the chain first
 *            would put a second copy of each into memory.
 * Matrix     the view cut into rows: some axes say which row, the others run along it. Tiles are read as float32.
 * Ownership  a view borrows the model's tensor; a matrix owns two tables of offsets. Threads: reading is free. */
#ifndef PARED_PASSES_WEIGHT_VIEW_H
#define PARED_PASSES_WEIGHT_VIEW_H

#include "core/model/model.h"

struct weight_view {
    uint32_t source;            /* value that holds the bytes */
    const struct tensor *stored;
    enum dtype dtype;           /* as the reader sees it; FLOAT, FLOAT16, BFLOAT16 or DOUBLE */
    int rank;
    int64_t dim[SHAPE_MAX_RANK], stride[SHAPE_MAX_RANK]; /* in elements of `stored` */
};
/* False: the value is not such a constant. */
bool weight_view_of(const struct model *m, uint32_t value, struct weight_view *v);
/* The same bytes seen the same way. */
bool weight_view_equal(const struct weight_view *a, const struct weight_view *b);

struct weight_matrix {
    const struct tensor *stored;
    enum dtype dtype;
    int64_t rows, k;
    int64_t row_stride, k_stride; /* where regular; 0: see the table */
    int64_t *row_at, *k_at;       /* offsets of rows, and of elements along a row */
    const float *whole;           /* k_stride is 1 and rows follow each other as float32: no copy is needed; NULL */
};
/* row_axes: bit a is set where axis a says which row. Errors: ERR_NOMEM, ERR_MODEL_TOO_LARGE. */
int weight_matrix_init(struct weight_matrix *x, const struct weight_view *v, unsigned row_axes, struct err *err);
void weight_matrix_fini(struct weight_matrix *x);
/* out[r * nk + i] = element first_k + i of row first_row + r. */
void weight_matrix_read(const struct weight_matrix *x, int64_t first_row, int64_t rows, int64_t first_k, int64_t nk,
                        float *out);
/* Index in `stored` of an element. */
static inline int64_t weight_matrix_at(const struct weight_matrix *x, int64_t row, int64_t k)
{
    return (x->row_at ? x->row_at[row] : row * x->row_stride) + (x->k_at ? x->k_at[k] : k * x->k_stride);
}

#endif
