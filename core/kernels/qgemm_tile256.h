/* SPDX-License-Identifier: Apache-2.0
 * qgemm_tile256.h - the panel of qgemm.h in 256-bit vectors, written once for AVX2 and VNNI. The file that includes it
 * defines QGEMM_PANEL (the function's name) and DOT(sum, a, b): sum + a0 * b0 + a1 * b1 in every int32 lane.
 * Up to six rows times sixteen columns live in twelve registers; a step loads sixteen pairs of weights and broadcasts
 * one pair of A a row. Rows, vectors and width are constants of each copy, so that the loops are unrolled. */
#include "core/kernels/qgemm_end256.h"

INLINE __m256i weights(const void *w, int64_t vector, bool wide)
{
    if (wide)
        return _mm256_loadu_si256((const __m256i *)w + vector);
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)w + vector));
}

INLINE __m256i pair_of(const int16_t *a)
{
    int32_t both;
    memcpy(&both, a, sizeof both);
    return _mm256_set1_epi32(both);
}

INLINE void tile(const struct qgemm_panel *t, int rows, int vecs, bool wide, const struct qgemm_rows *m, int64_t first)
{
    __m256i sum[QGEMM_ROWS][2];
    const int16_t *a[QGEMM_ROWS];
    const char *w = t->w;

#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
        sum[r][0] = sum[r][1] = _mm256_setzero_si256();
        a[r] = m->a + (m->at ? m->at[first + r] : (first + r) * m->step);
    }
    for (int64_t u = 0; u < t->runs; u++) {
        const int16_t *x[QGEMM_ROWS];
#pragma GCC unroll 6
        for (int r = 0; r < rows; r++)
            x[r] = a[r] + t->at[u];
        for (int64_t p = 0; p < t->pairs; p++, w += vecs * (wide ? 32 : 16)) {
            const __m256i w0 = weights(w, 0, wide), w1 = vecs == 2 ? weights(w, 1, wide) : w0;
#pragma GCC unroll 6
            for (int r = 0; r < rows; r++) {
                const __m256i pair = pair_of(x[r] + 2 * p);
                sum[r][0] = DOT(sum[r][0], pair, w0);
                if (vecs == 2)
                    sum[r][1] = DOT(sum[r][1], pair, w1);
            }
        }
    }
    finish(&t->out, rows, vecs, sum, t->columns, m->y + first * m->y_step, m->y_step);
}

#define COPY(vecs, wide)                                                                                               \
    static void panel_##vecs##_##wide(const struct qgemm_panel *t, const struct qgemm_rows *m)                         \
    {                                                                                                                  \
        int64_t row = 0;                                                                                               \
        for (; row + 6 <= m->count; row += 6)                                                                          \
            tile(t, 6, vecs, wide, m, row);                                                                            \
        if (row + 4 <= m->count) {                                                                                     \
            tile(t, 4, vecs, wide, m, row);                                                                            \
            row += 4;                                                                                                  \
        }                                                                                                              \
        if (row + 3 == m->count)                                                                                       \
            tile(t, 3, vecs, wide, m, row);                                                                            \
        else if (row + 2 == m->count)                                                                                  \
            tile(t, 2, vecs, wide, m, row);                                                                            \
        else if (row + 1 == m->count)                                                                                  \
            tile(t, 1, vecs, wide, m, row);                                                                            \
    }
COPY(1, 0) COPY(2, 0) COPY(1, 1) COPY(2, 1)

void QGEMM_PANEL(const struct qgemm_panel *p, const struct qgemm_rows *rows)
{
    static qgemm_panel_fn *const copies[2][2] = {{panel_1_0, panel_2_0}, {panel_1_1, panel_2_1}};
    copies[p->wide][p->columns > 8](p, rows);
}
