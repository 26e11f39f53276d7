/* SPDX-License-Identifier: Apache-2.0
 * conv_rows_avx2.c - twelve sums in registers: see conv_rows.h. */
#include "core/kernels/conv_rows.h"

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>

static inline __m256i lanes_below(int32_t count)
{
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline void put(float *y, __m256 v, int32_t count, bool add)
{
    if (count == ROWS_WIDTH) {
        _mm256_storeu_ps(y, add ? _mm256_add_ps(v, _mm256_loadu_ps(y)) : v);
        return;
    }
    const __m256i mask = lanes_below(count);
    _mm256_maskstore_ps(y, mask, add ? _mm256_add_ps(v, _mm256_maskload_ps(y, mask)) : v);
}

/* One tile: four channels from `m` on, three vectors from v on. */
static inline void tile(const struct rows_product *p, int64_t m, int64_t v)
{
    const float *w = p->w + m * p->k;
    const int64_t last = p->n_vec - 1;
    const float *x0 = p->x + p->x_at[v], *x1 = p->x + p->x_at[v + 1 < last ? v + 1 : last],
                *x2 = p->x + p->x_at[v + 2 < last ? v + 2 : last];
    const int32_t *off = p->off;
    __m256 acc[ROWS_CHANNELS][ROWS_VECTORS];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS_CHANNELS; i++)
        acc[i][0] = acc[i][1] = acc[i][2] = _mm256_set1_ps(p->bias && m + i < p->m ? p->bias[m + i] : 0);
    for (int64_t k = 0; k < p->k; k++, w += ROWS_CHANNELS) {
        const int64_t at = off[k];
        const __m256 a = _mm256_loadu_ps(x0 + at), b = _mm256_loadu_ps(x1 + at), c = _mm256_loadu_ps(x2 + at);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS_CHANNELS; i++) {
            const __m256 s = _mm256_broadcast_ss(w + i);
            acc[i][0] = _mm256_fmadd_ps(s, a, acc[i][0]);
            acc[i][1] = _mm256_fmadd_ps(s, b, acc[i][1]);
            acc[i][2] = _mm256_fmadd_ps(s, c, acc[i][2]);
        }
    }
    /* the array is indexed by constants only, so that it stays in registers */
#pragma GCC unroll 4
    for (int i = 0; i < ROWS_CHANNELS; i++) {
        if (m + i >= p->m)
            break;
        float *y = p->y + (m + i) * p->y_plane;
        put(y + p->y_at[v], acc[i][0], p->count[v], p->add);
        if (v + 1 <= last)
            put(y + p->y_at[v + 1], acc[i][1], p->count[v + 1], p->add);
        if (v + 2 <= last)
            put(y + p->y_at[v + 2], acc[i][2], p->count[v + 2], p->add);
    }
}

void conv_rows_product_avx2(const struct rows_product *p)
{
    for (int64_t v = 0; v < p->n_vec; v += ROWS_VECTORS)
        for (int64_t m = 0; m < p->m; m += ROWS_CHANNELS)
            tile(p, m, v);
}

/* One vector of dy by the three of x. The empty asm keeps it in a register: folded into each product as a memory
 * operand it would be
 * loaded three times, and loads are what this loop has too many of. */
#define SUM_ROW(i, d)                                                                                                  \
    {                                                                                                                  \
        __m256 g = _mm256_loadu_ps(d + ROWS_WIDTH * v);                                                                \
        __asm__("" : "+x"(g));                                                                                         \
        acc[i][0] = _mm256_fmadd_ps(g, a, acc[i][0]);                                                                  \
        acc[i][1] = _mm256_fmadd_ps(g, b, acc[i][1]);                                                                  \
        acc[i][2] = _mm256_fmadd_ps(g, c, acc[i][2]);                                                                  \
    }

void conv_rows_sum_avx2(const struct rows_sum *s)
{
    for (int64_t k = 0; k < s->k; k += ROWS_TAPS) {
        float *keep = s->acc + k / ROWS_TAPS * ROWS_ACC;
        __m256 acc[ROWS_CHANNELS][ROWS_TAPS];
#pragma GCC unroll 12
        for (int i = 0; i < ROWS_CHANNELS * ROWS_TAPS; i++)
            acc[i / ROWS_TAPS][i % ROWS_TAPS] = _mm256_loadu_ps(keep + i * ROWS_WIDTH);
        for (int64_t n = 0; n < s->images; n++) {
            const float *x0 = s->x + n * s->x_image + s->off[k], *x1 = s->x + n * s->x_image + s->off[k + 1],
                        *x2 = s->x + n * s->x_image + s->off[k + 2];
            const float *d0 = s->dy[0] + n * s->dy_image, *d1 = s->dy[1] + n * s->dy_image,
                        *d2 = s->dy[2] + n * s->dy_image, *d3 = s->dy[3] + n * s->dy_image;
            for (int64_t v = 0; v < s->n_vec; v++) {
                const int64_t at = s->x_at[v];
                const __m256 a = _mm256_loadu_ps(x0 + at), b = _mm256_loadu_ps(x1 + at), c = _mm256_loadu_ps(x2 + at);
                SUM_ROW(0, d0)
                SUM_ROW(1, d1)
                SUM_ROW(2, d2)
                SUM_ROW(3, d3)
            }
        }
#pragma GCC unroll 12
        for (int i = 0; i < ROWS_CHANNELS * ROWS_TAPS; i++)
            _mm256_storeu_ps(keep + i * ROWS_WIDTH, acc[i / ROWS_TAPS][i % ROWS_TAPS]);
    }
}

#else
void conv_rows_product_avx2(const struct rows_product *p)
{
    (void)p;
}
void conv_rows_sum_avx2(const struct rows_sum *s)
{
    (void)s;
}
#endif
