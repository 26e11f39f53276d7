/* SPDX-License-Identifier: Apache-2.0
 * better.c - see better.h. */
#include "core/quant/better.h"

#include <stdlib.h>
#include <string.h>

int better_start(struct better *b, struct err *err)
{
    const size_t n = (size_t)b->rows, k = (size_t)b->f->k, blocks = (size_t)block_count(b->f);
    b->rtn = (struct block_codes){malloc(n * k), malloc(n * blocks * sizeof(float)), malloc(n * blocks)};
    b->back = malloc(n * k * sizeof *b->back);
    b->was = malloc(n * sizeof *b->was);
    b->is = malloc(n * sizeof *b->is);
    if (!b->rtn.codes || !b->rtn.scale || !b->rtn.zero || !b->back || !b->was || !b->is)
        return err_set(err, ERR_NOMEM, "out of memory while choosing codes");
    block_rtn(b->f, b->w, b->rows, &b->rtn);
    block_dequantize(b->f, &b->rtn, b->rows, b->back);
    gram_errors(b->pool, b->g, b->w, b->back, b->rows, b->was);
    return 0;
}

void better_choose(struct better *b, const struct block_codes *codes)
{
    const size_t k = (size_t)b->f->k, blocks = (size_t)block_count(b->f);
    block_dequantize(b->f, codes, b->rows, b->back);
    gram_errors(b->pool, b->g, b->w, b->back, b->rows, b->is);
    for (size_t r = 0; r < (size_t)b->rows; r++) {
        const bool gains = b->is[r] < b->was[r];
        b->rtn_error += b->was[r];
        b->error += gains ? b->is[r] : b->was[r];
        if (gains)
            continue;
        b->kept_rtn++;
        memcpy(codes->codes + r * k, b->rtn.codes + r * k, k);
        memcpy(codes->scale + r * blocks, b->rtn.scale + r * blocks, blocks * sizeof *codes->scale);
        memcpy(codes->zero + r * blocks, b->rtn.zero + r * blocks, blocks);
    }
}

void better_fini(struct better *b)
{
    free(b->rtn.codes);
    free(b->rtn.scale);
    free(b->rtn.zero);
    free(b->back);
    free(b->was);
    free(b->is);
}
