/* SPDX-License-Identifier: Apache-2.0
 * fft.h - the discrete Fourier transform of any length, in double: X[k] = sum_j x[j] e^(-2 pi i j k / n), or with +i
 * (not divided by n) the other way.
 * Method     powers of two: the iterative radix-2 transform (Cooley and Tukey 1965); other lengths as a convolution
 *            of length 2^m >= 2 n - 1 (Bluestein 1970): n log n for every n. Angles are reduced exactly, in integers.
 * Threads    a plan is read-only; each caller brings scratch of its own. Errors: a length whose tables overflow
 *            gives NULL. */
#ifndef PARED_KERNELS_FFT_H
#define PARED_KERNELS_FFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Tables for length n >= 1, in memory the caller gives: fft_plan_doubles(n) doubles. */
struct fft_plan {
    int64_t n, m;          /* length; length of the radix-2 transform, a power of two */
    const double *root;    /* [m] pairs e^(-2 pi i k / m), k < m / 2 */
    const double *chirp;   /* [2 n] pairs e^(-pi i k^2 / n); NULL: n is m */
    const double *filter;  /* [2 m] the transform of the chirp's conjugate */
};
/* False: n is larger than 2^40. */
bool fft_plan_doubles(int64_t n, size_t *count);
size_t fft_scratch_doubles(const struct fft_plan *plan);
/* memory: fft_plan_doubles(n) doubles, kept as long as the plan. */
void fft_plan_init(struct fft_plan *plan, int64_t n, double *memory);
/* In place on n pairs (real, imaginary). */
void fft_run(const struct fft_plan *plan, bool inverse, double *x, double *scratch);

#endif
