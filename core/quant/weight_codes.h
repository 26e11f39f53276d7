/* SPDX-License-Identifier: Apache-2.0
 * weight_codes.h - one constant weight as codes, scales and zero points in the layout an operator reads.
 * Memory     tiles of the weight are read from where it lies, and its pages given back behind them; results go to a
 *            spill. So a weight costs a tile for each thread, whatever its size. Algorithms that need the whole
 *            matrix (gptq, awq) have it made by the caller.
 * Results    do not depend on threads. Threads: one caller; the pool is used inside. */
#ifndef PARED_QUANT_WEIGHT_CODES_H
#define PARED_QUANT_WEIGHT_CODES_H

#include "core/base/pool.h"
#include "core/quant/block.h"
#include "core/passes/weight_view.h"
#include "core/tensor/spill.h"

enum code_layout {
    CODES_BLOBS, /* MatMulNBits: [rows, blocks, block * stored / 8], the last block of a row padded */
    CODES_ROWS,  /* rows one after another, each a whole number of bytes */
    CODES_PLANE, /* where the elements of the view stand, the axes in order */
};

/* What to make. */
struct code_plan {
    struct weight_view view;
    unsigned row_axes;      /* axes that say which row; blocks run along the others */
    struct block_form form; /* k: as rows have it; block: k for one block a row */
    enum code_layout layout;
    int stored;       /* bits a code takes: 2, 4, 8 */
    bool centered;    /* stored code = code - 2^(bits-1), in two's complement; form.symmetric */
    bool padded_zero; /* each row's zero points fill whole bytes; otherwise they are packed like scales stand */
    float alpha;      /* scales are multiplied by this */
    enum dtype code_dtype, zero_dtype;
    struct shape code_shape, scale_shape, zero_shape;
    int64_t
        inner; /* elements of the view behind the axis that blocks run along: scales stand [.., blocks, inner]. 1 elsewhere */
};
/* Bytes of codes, scales and zero points together; SIZE_MAX beyond counting. */
size_t code_plan_bytes(const struct code_plan *p);
bool code_plan_equal(const struct code_plan *a, const struct code_plan *b);

struct weight_codes {
    struct tensor codes, scale, zero; /* zero: empty where symmetric */
    double sqnr_db;
};
void weight_codes_fini(struct weight_codes *c);

/* Block by block. Errors: ERR_MODEL for a number that is NaN or infinite (which element), ERR_NOMEM. */
int weight_codes_make(const struct code_plan *p, block_algorithm *algorithm, struct spill *spill, struct pool *pool,
                      struct weight_codes *out, struct err *err);

/* The whole matrix as float32, rows x k, checked as above; free. */
float *weight_codes_matrix(const struct code_plan *p, int64_t *rows, struct err *err);
/* From codes made of that matrix. */
int weight_codes_store(const struct code_plan *p, const float *w, const struct block_codes *q, struct spill *spill,
                       struct weight_codes *out, struct err *err);

#endif
