/* SPDX-License-Identifier: Apache-2.0
 * awq.h - activation-aware weight quantization (AWQ, Lin 2023): weights that meet large activations are scaled up
 * before
 * they are rounded, activations down by as much, which the operator before can do for free.
 * Two steps  awq_scale changes the float model: for the products that read one value x, s_k = mean|x_k|^a, a from a
 *            grid of 20,
 *            by the least output error of the rounded weights. W_k *= s_k; 1/s_k goes into what makes x where that
 *            provably
 *            changes nothing (channel_scale.h): a normalisation's scale and shift, output channels of the product
 *            before,
 *            vectors of Mul and Add. Otherwise nothing is scaled, and the row says why. awq_clip then makes the
 *            codes: the
 *            range of each block may shrink, by the least output error.
 * Results    do not depend on threads. Nothing gets worse by the measure used: a = 0 and full ranges are candidates.
 *            */
#ifndef PARED_QUANT_AWQ_H
#define PARED_QUANT_AWQ_H

#include "core/quant/block.h"
#include "core/stats/gram.h"
#include "core/step/method.h"

struct awq_opts {
    struct block_form form; /* k is ignored: it is each product's own */
    int64_t samples;
    size_t memory_bytes; /* as struct gram_job */
    /* products that will be quantized (MatMul or Gemm, constant float32 weight [K, N] or [N, K]) */
    const uint32_t *nodes;
    int64_t n_nodes;
};
/* Uses c->model, data, pool, layers (a row for each scaled or left product), warnings, progress. */
int awq_scale(struct step_ctx *c, const struct awq_opts *o, struct err *err);

struct awq_report {
    double error, rtn_error; /* gram_error of the result, and of block_rtn */
    int64_t clipped;         /* blocks with a smaller range */
};
/* Codes of w (rows x f->k): round to nearest with clipped block ranges. g: of the product as it reads now. report may
 * be NULL. */
int awq_clip(const struct block_form *f, const float *w, int64_t rows, const struct gram_matrix *g, struct pool *pool,
             const struct block_codes *out, struct awq_report *report, struct err *err);

#endif
