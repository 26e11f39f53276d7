/* SPDX-License-Identifier: Apache-2.0
 * block.c - round to nearest, block by block (block.h), to the bit as ONNX Runtime's quantizer computes it:
 *   symmetric   the number of largest magnitude, with its sign, becomes code 0: scale = m / -2^(bits-1), which may be
 *               negative, so that the whole range of codes is used; where both ends are as large, the lower one counts.
 *   asymmetric  zero is taken into the range; scale = (hi - lo) / (2^bits - 1), zero = round(-lo / scale).
 * Codes are made with the reciprocal of the stored scale, halves away from zero. */
#include "core/quant/block.h"

#include <float.h>
#include <math.h>

#include "core/base/size.h"
#include "core/kernels/block_round.h"

static uint8_t middle(const struct block_form *f)
{
    return (uint8_t)(1u << (f->bits - 1));
}
static float top(const struct block_form *f)
{
    return (float)((1u << f->bits) - 1);
}

float block_scale_stored(const struct block_form *f, float scale)
{
    if (f->scale_dtype == DTYPE_FLOAT16)
        return dtype_f16_to_f32(dtype_f32_to_f16(scale));
    if (f->scale_dtype == DTYPE_BFLOAT16)
        return dtype_bf16_to_f32(dtype_f32_to_bf16(scale));
    return scale;
}

/* 0 for a scale too small to divide by: everything then is the zero point. */
static float inverse_of(float scale)
{
    return fabsf(scale) >= FLT_MIN ? 1.0f / scale : 0.0f;
}

static struct block_grid grid_of(const struct block_form *f, float inverse, uint8_t zero)
{
    return (struct block_grid){inverse, (float)zero, top(f)};
}

void block_range(const float *w, int64_t n, float *lo, float *hi)
{
    block_round_best()->range(w, n, lo, hi);
}

void block_params(const struct block_form *f, float lo, float hi, float *scale, uint8_t *zero)
{
    lo = lo < 0 ? lo : 0;
    hi = hi > 0 ? hi : 0;
    if (f->symmetric) {
        *scale = block_scale_stored(f, (hi > -lo ? hi : lo) / -(float)middle(f));
        *zero = middle(f);
        return;
    }
    const float s = (hi - lo) / top(f), at = s != 0 ? 0.0f - lo / s : lo;
    *zero = !(at > 0) ? 0 : at > top(f) ? (uint8_t)top(f) : (uint8_t)roundf(at); /* NaN where the range is infinite */
    *scale = block_scale_stored(f, s);
}

void block_encode(const struct block_form *f, const float *w, int64_t n, float scale, uint8_t zero, uint8_t *codes)
{
    block_encode_inverse(f, w, n, inverse_of(scale), zero, codes);
}

void block_encode_inverse(const struct block_form *f, const float *w, int64_t n, float inverse, uint8_t zero,
                          uint8_t *codes)
{
    const struct block_grid g = grid_of(f, inverse, zero);
    block_round_best()->encode(w, n, &g, codes);
}

void block_sums(const struct block_form *f, const float *w, const float *h, int64_t n, float inverse, uint8_t zero,
                float *wd, float *dd)
{
    const struct block_grid g = grid_of(f, inverse, zero);
    float out[2];
    block_round_best()->sums(w, h, n, &g, out);
    *wd = out[0];
    *dd = out[1];
}

void block_rtn(const struct block_form *f, const float *w, int64_t rows, const struct block_codes *out)
{
    const struct block_round_set *set = block_round_best();
    const int64_t blocks = block_count(f);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = b * f->block, n = i64_min(f->block, f->k - first), at = r * blocks + b;
            const float *x = w + r * f->k + first;
            float lo, hi;
            set->range(x, n, &lo, &hi);
            block_params(f, lo, hi, &out->scale[at], &out->zero[at]);
            const struct block_grid g = grid_of(f, inverse_of(out->scale[at]), out->zero[at]);
            set->encode(x, n, &g, out->codes + r * f->k + first);
        }
}

void block_dequantize(const struct block_form *f, const struct block_codes *q, int64_t rows, float *out)
{
    const struct block_round_set *set = block_round_best();
    const int64_t blocks = block_count(f);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = b * f->block, n = i64_min(f->block, f->k - first), at = r * blocks + b;
            set->decode(q->codes + r * f->k + first, n, (float)q->zero[at], q->scale[at], out + r * f->k + first);
        }
}

void block_error(const struct block_form *f, const struct block_codes *q, const float *w, int64_t rows, double *signal,
                 double *noise)
{
    const struct block_round_set *set = block_round_best();
    const int64_t blocks = block_count(f);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t first = b * f->block, n = i64_min(f->block, f->k - first), at = r * blocks + b;
            float sums[2];
            set->error(w + r * f->k + first, q->codes + r * f->k + first, n, (float)q->zero[at], q->scale[at], sums);
            *signal += (double)sums[0];
            *noise += (double)sums[1];
        }
}

int64_t block_first_bad(const float *w, int64_t n)
{
    enum { PIECE = 4096 };
    const struct block_round_set *set = block_round_best();
    for (int64_t first = 0; first < n; first += PIECE) {
        const int64_t len = i64_min(PIECE, n - first);
        float lo, hi;
        if (set->range(w + first, len, &lo, &hi) == 0)
            continue;
        for (int64_t i = first; i < first + len; i++)
            if (!isfinite(w[i]))
                return i;
    }
    return -1;
}
