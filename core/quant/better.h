/* SPDX-License-Identifier: Apache-2.0
 * better.h - of two sets of block codes the better for each row, by the output error: so that an algorithm is never
 * worse than
 * round-to-nearest on the samples it was given.
 * Order      better_start (makes the round-to-nearest codes) -> better_choose -> better_fini. Threads: one caller. */
#ifndef PARED_QUANT_BETTER_H
#define PARED_QUANT_BETTER_H

#include "core/quant/block.h"
#include "core/stats/gram.h"

struct better {
    const struct block_form *f;
    const float *w; /* [rows][f->k] */
    int64_t rows;
    const struct gram_matrix *g;
    struct pool *pool;
    /* private */
    struct block_codes rtn;
    float *back;
    double *was, *is;
    /* after better_choose: output errors, and rows that kept their round-to-nearest codes */
    double error, rtn_error;
    int64_t kept_rtn;
};

int better_start(struct better *b, struct err *err);
void better_choose(struct better *b, const struct block_codes *codes);
void better_fini(struct better *b);

#endif
