/* SPDX-License-Identifier: Apache-2.0
 * block.h - block-wise quantization of a matrix to 2 to 8 bits, the form all algorithms of quantize.weights produce.
 * Matrix     rows of K elements, w[n][k]; each run of `block` elements along K shares a scale and a zero point; the
 *            last one of a row may be shorter. x' = (code - zero) * scale, codes and zeros in 0 .. 2^bits - 1
 *            (MatMulNBits, com.microsoft).
 * Input      finite numbers: block_first_bad finds what is not. Others give codes without meaning, no harm.
 * Results    the same bits on every instruction set.
 * Ownership  the arrays are the caller's. Threads: rows are independent; callers cut them up. */
#ifndef PARED_QUANT_BLOCK_H
#define PARED_QUANT_BLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "core/tensor/dtype.h"

struct block_form {
    int bits;               /* 2 .. 8 */
    int64_t k;              /* elements of a row */
    int64_t block;          /* elements of a block */
    bool symmetric;         /* zero is 2^(bits-1) everywhere, and scales may be negative (ONNX Runtime's convention) */
    enum dtype scale_dtype; /* what scales are stored in: they are rounded to it before codes are chosen. 0: float32 */
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

/* An algorithm that looks at one block at a time: block_rtn, block_hqq, block_kquant. */
typedef void block_algorithm(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out);

/* Round to nearest, exactly as ONNX Runtime's default quantizer of MatMulNBits does (methods B6). */
void block_rtn(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out);
/* out[r * k + i] = (code - zero) * scale */
void block_dequantize(const struct block_form *f, const struct block_codes *q, int64_t rows, float *out);
/* Adds the squares of w and of w - w' to signal and noise. */
void block_error(const struct block_form *f, const struct block_codes *q, const float *w, int64_t rows, double *signal,
                 double *noise);
/* Index of the first NaN or infinity of w[0..n), -1 if there is none. */
int64_t block_first_bad(const float *w, int64_t n);

/* ---- for algorithms: one block of n <= f->block elements ---- */

/* The scale as it will be stored. */
float block_scale_stored(const struct block_form *f, float scale);
/* Scale and zero point of round to nearest for numbers from lo to hi (zero is taken into the range). */
void block_params(const struct block_form *f, float lo, float hi, float *scale, uint8_t *zero);
void block_range(const float *w, int64_t n, float *lo, float *hi);
/* codes[i] = clip(round_half_away(w[i] / scale + zero)); a scale that is 0 or too small to divide by gives `zero`
 * everywhere. */
void block_encode(const struct block_form *f, const float *w, int64_t n, float scale, uint8_t zero, uint8_t *codes);
/* The same by the inverse scale; 0 gives `zero` everywhere. */
void block_encode_inverse(const struct block_form *f, const float *w, int64_t n, float inverse, uint8_t zero,
                          uint8_t *codes);
/* What decides how good an inverse scale and a zero point are: with d = code - zero, *wd = sum h w d and *dd = sum
 * h d^2. The best scale for these codes is wd / dd, and its error sum h w^2 - wd^2 / dd. h NULL: all 1. */
void block_sums(const struct block_form *f, const float *w, const float *h, int64_t n, float inverse, uint8_t zero,
                float *wd, float *dd);

#endif
