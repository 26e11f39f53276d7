/* SPDX-License-Identifier: Apache-2.0
 * gptq.h - codes of a block-wise quantized matrix chosen for the least output error ||(W - W') x||^2 instead of each
 * to the nearest (GPTQ, Frantar 2023), from the Gram matrix of what the product reads (core/stats/gram.h).
 * How        Columns are rounded one after another; the error of each goes into the columns not rounded yet, by the
 *            Cholesky factor of the inverse of H + damp mean(diag H) I. Then single codes are changed as long as that
 *            lowers the error (coordinate descent).
 * Never worse each row keeps its round-to-nearest codes if those have the lower error.
 * Zeros      weights of zero stay zero.
 * Layout     that of block.h: columns are rounded in the order of falling diag(H), but blocks keep their places
 *            (scales are those of the float weight then), so that no g_idx is needed. */
#ifndef PARED_QUANT_GPTQ_H
#define PARED_QUANT_GPTQ_H

#include "core/quant/block.h"
#include "core/stats/gram.h"

struct gptq_opts {
    double damp;      /* share of the mean of diag(H) added to it; 0: 0.01 */
    /* columns as they stand, and scales follow what is added to them; otherwise large diag(H) first */
    bool in_order;
    /* block scales from the range, as block_rtn; otherwise the best of a few shrunk ones by diag(H) */
    bool plain_scale;
    int sweeps;       /* most rounds of coordinate descent; 0: 8; below 0: none */
    struct pool *pool;
};

struct gptq_report {
    double error, rtn_error; /* gram_error of the result, and of block_rtn */
    double damp;             /* as used: it grows until the factor exists */
    int64_t dead;            /* columns whose input was always zero: rounded to nearest */
    int64_t kept_rtn;        /* rows */
    bool few_rows;           /* fewer rows of x than columns: see hessian_believe; more samples would help */
};

/* w: rows x f->k, in g->groups parts of equal size (rows a multiple of groups; g->k == f->k). report may be NULL.
 * Errors: ERR_NOMEM; ERR_MODEL when no damping makes H positive (it is not finite). */
int gptq_quantize(const struct block_form *f, const float *w, int64_t rows, const struct gram_matrix *g,
                  const struct gptq_opts *o, const struct block_codes *out, struct gptq_report *report,
                  struct err *err);

#endif
