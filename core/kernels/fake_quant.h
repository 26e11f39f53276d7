/* SPDX-License-Identifier: Apache-2.0
 * fake_quant.h - numbers as they come out of quantizing and dequantizing, and the straight-through gradient.
 *   code = clamp(round_half_even(x / s), low - z, high - z)      y = s code
 *   dx   = dy where the code was not clamped, else 0             (straight through: Bengio et al. 2013)
 *   ds   = sum dy (code - x / s) where it was not clamped, sum dy code where it was   (LSQ: Esser et al., ICLR 2020)
 * Numbers   s > 0; low and high are the bounds of the stored code, z its zero point, all whole and below 2^20. NaN
 *           stays NaN.
 * Forms     one s for all n, or `_each`: an s and a z for each element, sums likewise.
 * Sums      in double over float lanes of fixed runs: the same bits wherever it runs. Threads: none inside. */
#ifndef PARED_KERNELS_FAKE_QUANT_H
#define PARED_KERNELS_FAKE_QUANT_H

#include <stdbool.h>
#include <stdint.h>

void fake_quant_f32(const float *x, float *y, int64_t n, float s, float low, float high);
void fake_quant_f64(const double *x, double *y, int64_t n, double s, double low, double high);
void fake_quant_each_f32(const float *x, float *y, int64_t n, const float *s, const float *low, const float *high);
void fake_quant_each_f64(const double *x, double *y, int64_t n, const double *s, const double *low, const double *high);

/* low, high: less the zero point. dx may be NULL; add: it is added to. Returns ds. */
double fake_quant_grad_f32(const float *x, const float *dy, float *dx, bool add, int64_t n, float s, float low,
                           float high);
double fake_quant_grad_f64(const double *x, const double *dy, double *dx, bool add, int64_t n, double s, double low,
                           double high);
/* sum[i] += the part of element i. */
void fake_quant_grad_each_f32(const float *x, const float *dy, float *dx, bool add, int64_t n, const float *s,
                              const float *low, const float *high, double *sum);
void fake_quant_grad_each_f64(const double *x, const double *dy, double *dx, bool add, int64_t n, const double *s,
                              const double *low, const double *high, double *sum);

#endif
