/* SPDX-License-Identifier: Apache-2.0
 * block.h - block-wise quantization of a matrix to 2 to 8 bits, the form all algorithms of quantize.weights produce.
 * Matrix     rows of K elements, w[n][k]; each run of `block` elements along K shares a scale and a zero point; the last one of a row
 *            may be shorter. x' = (code - zero) * scale, codes and zeros in 0 .. 2^bits - 1 (MatMulNBits, com.microsoft).
 * Ownership  the arrays are the caller's. Threads: rows are independent; callers cut them up. */
#ifndef PARED_QUANT_BLOCK_H
#define PARED_QUANT_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

struct block_form {
    int bits;       /* 2 .. 8 */
    int64_t k;      /* elements of a row */
    int64_t block;  /* elements of a block */
    bool symmetric; /* zero is 2^(bits-1) everywhere, and scales may be negative (ONNX Runtime's convention) */
};
static inline int64_t block_count(const struct block_form *f)
{
    return (f->k + f->block - 1) / f->block;
}
/* Codes of `rows` rows: codes[r * k + i], one a byte; scale[r * block_count + b]; zero[r * block_count + b]. */
struct block_codes {
    uint8_t *codes;
    float *scale;
    uint8_t *zero;
};

/* Round to nearest, exactly as ONNX Runtime's default quantizer of MatMulNBits does (methods B6). */
void block_rtn(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out);
/* out[r * k + i] = (code - zero) * scale */
void block_dequantize(const struct block_form *f, const struct block_codes *q, int64_t rows, float *out);

#endif
