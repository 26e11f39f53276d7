/* SPDX-License-Identifier: Apache-2.0
 * See fft.h. The inverse is the forward transform with real and imaginary parts exchanged before and after. */
#include "core/kernels/fft.h"

#include <math.h>
#include <string.h>

static int64_t radix_length(int64_t n)
{
    int64_t m = 1;
    if ((n & (n - 1)) == 0)
        return n;
    while (m < 2 * n - 1)
        m *= 2;
    return m;
}

bool fft_plan_doubles(int64_t n, size_t *count)
{
    if (n < 1 || n > (int64_t)1 << 40)
        return false;
    const int64_t m = radix_length(n);
    *count = (size_t)(m + (m == n ? 0 : 2 * n + 2 * m));
    return true;
}

size_t fft_scratch_doubles(const struct fft_plan *plan)
{
    return plan->chirp ? (size_t)plan->m * 2 : 1;
}

/* Bit-reversed order. */
static void reorder(int64_t m, double *x)
{
    for (int64_t i = 1, j = 0; i < m; i++) {
        int64_t bit = m >> 1;
        for (; j & bit; bit >>= 1)
            j ^= bit;
        j ^= bit;
        if (i < j) {
            double re = x[2 * i], im = x[2 * i + 1];
            x[2 * i] = x[2 * j];
            x[2 * i + 1] = x[2 * j + 1];
            x[2 * j] = re;
            x[2 * j + 1] = im;
        }
    }
}

static void radix2(const double *root, int64_t m, double *x)
{
    reorder(m, x);
    for (int64_t half = 1; half < m; half *= 2) {
        const int64_t step = m / (2 * half);
        for (int64_t from = 0; from < m; from += 2 * half)
            for (int64_t k = 0; k < half; k++) {
                double *a = x + 2 * (from + k), *b = a + 2 * half;
                const double c = root[2 * k * step], s = root[2 * k * step + 1];
                const double re = b[0] * c - b[1] * s, im = b[0] * s + b[1] * c;
                b[0] = a[0] - re;
                b[1] = a[1] - im;
                a[0] += re;
                a[1] += im;
            }
    }
}

static void unit(double turns, double *pair)
{
    const double angle = -2 * M_PI * turns;
    pair[0] = cos(angle);
    pair[1] = sin(angle);
}

void fft_plan_init(struct fft_plan *plan, int64_t n, double *memory)
{
    const int64_t m = radix_length(n);
    double *root = memory, *chirp = memory + m, *filter = chirp + 2 * n;
    *plan = (struct fft_plan){.n = n, .m = m, .root = root};
    for (int64_t k = 0; k < m / 2; k++)
        unit((double)k / (double)m, root + 2 * k);
    if (m == n)
        return;
    memset(filter, 0, (size_t)m * 2 * sizeof *filter);
    uint64_t square = 0; /* k^2 mod 2n */
    for (int64_t k = 0; k < n; k++) {
        unit((double)square / (double)(2 * n), chirp + 2 * k);
        square = (square + 2 * (uint64_t)k + 1) % (2 * (uint64_t)n);
        const int64_t mirror = k ? m - k : 0;
        filter[2 * k] = filter[2 * mirror] = chirp[2 * k];
        filter[2 * k + 1] = filter[2 * mirror + 1] = -chirp[2 * k + 1];
    }
    radix2(root, m, filter);
    plan->chirp = chirp;
    plan->filter = filter;
}

static void multiply(double *a, const double *b, double scale)
{
    const double re = (a[0] * b[0] - a[1] * b[1]) * scale;
    a[1] = (a[0] * b[1] + a[1] * b[0]) * scale;
    a[0] = re;
}

static void swap_parts(double *x, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        const double re = x[2 * i];
        x[2 * i] = x[2 * i + 1];
        x[2 * i + 1] = re;
    }
}

static void forward(const struct fft_plan *p, double *x, double *scratch)
{
    if (!p->chirp) {
        radix2(p->root, p->m, x);
        return;
    }
    memset(scratch, 0, (size_t)p->m * 2 * sizeof *scratch);
    for (int64_t k = 0; k < p->n; k++) {
        scratch[2 * k] = x[2 * k];
        scratch[2 * k + 1] = x[2 * k + 1];
        multiply(scratch + 2 * k, p->chirp + 2 * k, 1);
    }
    radix2(p->root, p->m, scratch);
    for (int64_t k = 0; k < p->m; k++)
        multiply(scratch + 2 * k, p->filter + 2 * k, 1);
    swap_parts(scratch, p->m);
    radix2(p->root, p->m, scratch);
    swap_parts(scratch, p->m);
    for (int64_t k = 0; k < p->n; k++) {
        x[2 * k] = scratch[2 * k];
        x[2 * k + 1] = scratch[2 * k + 1];
        multiply(x + 2 * k, p->chirp + 2 * k, 1 / (double)p->m);
    }
}

void fft_run(const struct fft_plan *plan, bool inverse, double *x, double *scratch)
{
    if (inverse)
        swap_parts(x, plan->n);
    forward(plan, x, scratch);
    if (inverse)
        swap_parts(x, plan->n);
}
