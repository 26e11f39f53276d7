/* SPDX-License-Identifier: Apache-2.0
 * qgemm.h - products of 8-bit values with packed constant weights, ended in registers: the core of integer
 * convolutions and matrix products.
 * Product    sum[r, j] = sum over runs u and elements e of A[r][at[u] + e] * W[j][u][e], in int32, wrapping. A row r
 *            is a pointer; a run is a piece of `2 * pairs` neighbouring elements at an offset from it: one run for a
 *            matrix product, one for each kernel row of a convolution whose image has its channels last.
 * Exact      A and W are int16 with their zero points taken off: pairs are summed in int32, nothing saturates. On
 *            AVX2 this costs as many multiplications as the saturating byte form (one widening multiply for 16
 *            products, against two instructions for 32), so there is no second form. With VNNI, multiply and add are
 *            one instruction on the same data. Every path gives the same integers.
 * Weights    panels of 16 columns: [panel][run][pair][16 columns][2]; a last panel of at most 8 columns has 8. Stored
 *            as int8 where the values fit (half the memory traffic), else int16. Depth beyond a run is zero.
 * Ends       QGEMM_BYTES  y = clamp(round_half_even((sum + bias) * multiplier), low - zero, high - zero) + zero
 *            QGEMM_FLOAT  y = sum * multiplier + float_bias      QGEMM_SUMS  y = sum + bias
 * Threads    none inside. Errors: none; sizes were checked by the caller. */
#ifndef PARED_KERNELS_QGEMM_H
#define PARED_KERNELS_QGEMM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { QGEMM_ROWS = 6, QGEMM_COLS = 16 };

/* Depth and columns of one product (of one group). */
struct qgemm_shape {
    int64_t runs, length; /* elements of a run; an odd one reads one element more, times zero */
    int64_t columns;
};
static inline int64_t qgemm_pairs(const struct qgemm_shape *s) { return (s->length + 1) / 2; }
/* Columns with the padding of the last panel: a multiple of 8. */
static inline int64_t qgemm_padded(const struct qgemm_shape *s) { return (s->columns + 7) / 8 * 8; }
/* Packed elements; -1 on overflow. */
int64_t qgemm_packed_count(const struct qgemm_shape *s);

/* Where the value of (column, run, element) stands in a weight, in elements from its start. */
typedef int64_t qgemm_place(const void *arg, int64_t column, int64_t run, int64_t element);
struct qgemm_source {
    const void *data;
    bool is_signed;
    const int32_t *zero; /* one, or one a column */
    bool zero_columns;
    qgemm_place *place;
    const void *arg;
};
/* All values fit int8 once the zero points are off: may be packed as bytes. */
bool qgemm_fits_bytes(const struct qgemm_shape *s, const struct qgemm_source *w);
/* wide: as int16. */
void qgemm_pack(const struct qgemm_shape *s, const struct qgemm_source *w, bool wide, void *packed);

enum qgemm_end { QGEMM_BYTES, QGEMM_FLOAT, QGEMM_SUMS };
struct qgemm_out {
    enum qgemm_end end;
    bool is_signed;
    int32_t zero, low, high; /* QGEMM_BYTES */
    const int32_t *bias;     /* [padded] or NULL; the arrays hold qgemm_padded values */
    const float *multiplier; /* [padded] */
    const float *float_bias; /* [padded] or NULL */
};

/* Rows of A and of the result: row r of A starts at element at[r], or r * step without a table; row r of y at byte
 * r * y_step. */
struct qgemm_rows {
    const int16_t *a;
    const int64_t *at; /* [count] or NULL */
    int64_t step, count;
    char *y; /* its first column, of the panel in a qgemm_panel_fn */
    int64_t y_step;
};
/* One panel of weights. */
struct qgemm_panel {
    int64_t runs, pairs;
    const int64_t *at; /* [runs] in elements */
    const void *w;
    bool wide;
    int columns;          /* 1..16 */
    struct qgemm_out out; /* arrays shifted to the panel */
};
typedef void qgemm_panel_fn(const struct qgemm_panel *p, const struct qgemm_rows *rows);
/* The best for this machine (isa.h). */
qgemm_panel_fn *qgemm_panel_best(void);
qgemm_panel_fn qgemm_panel_portable, qgemm_panel_avx2, qgemm_panel_avxvnni, qgemm_panel_avx512vnni;

/* The panels [first, last) of a packed weight. `at`: offset of each run. */
struct qgemm_job {
    struct qgemm_shape shape;
    const int64_t *at;
    const void *packed;
    bool wide;
    struct qgemm_out out;
};
static inline int64_t qgemm_panels(const struct qgemm_shape *s) { return (s->columns + QGEMM_COLS - 1) / QGEMM_COLS; }
void qgemm(const struct qgemm_job *job, const struct qgemm_rows *rows, int64_t first, int64_t last);
/* The end of one row of sums on the caller's side: portable code of other kernels. */
void qgemm_finish(const struct qgemm_out *o, const int32_t *sum, int columns, void *y);

/* int16 from bytes, zero point taken off. */
void qgemm_widen(const uint8_t *x, int64_t n, bool is_signed, int32_t zero, int16_t *y);

#endif
