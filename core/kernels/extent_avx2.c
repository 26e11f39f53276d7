/* SPDX-License-Identifier: Apache-2.0 */
#include "core/kernels/extent.h"

#include <immintrin.h>

/* min and max of the instruction set give their second operand when the first is NaN. */
bool extent_finite_avx2(const float *x, int64_t n, float *min, float *max)
{
    enum { WAYS = 4, WIDTH = 8, STEP = WAYS * WIDTH };
    const __m256 most = _mm256_set1_ps(__FLT_MAX__), sign = _mm256_set1_ps(-0.0f);
    __m256 lo[WAYS], hi[WAYS], odd = _mm256_setzero_ps();
    float low[WIDTH], high[WIDTH];
    for (int k = 0; k < WAYS; k++) {
        lo[k] = _mm256_set1_ps(__builtin_inff());
        hi[k] = _mm256_set1_ps(-__builtin_inff());
    }
    int64_t i = 0;
    for (; i + STEP <= n; i += STEP)
        for (int k = 0; k < WAYS; k++) {
            const __m256 v = _mm256_loadu_ps(x + i + k * WIDTH);
            lo[k] = _mm256_min_ps(v, lo[k]);
            hi[k] = _mm256_max_ps(v, hi[k]);
            odd = _mm256_or_ps(odd, _mm256_cmp_ps(_mm256_andnot_ps(sign, v), most, _CMP_NLE_UQ));
        }
    for (int k = 1; k < WAYS; k++) {
        lo[0] = _mm256_min_ps(lo[k], lo[0]);
        hi[0] = _mm256_max_ps(hi[k], hi[0]);
    }
    _mm256_storeu_ps(low, lo[0]);
    _mm256_storeu_ps(high, hi[0]);
    bool finite = _mm256_movemask_ps(odd) == 0;
    *min = __builtin_inff();
    *max = -__builtin_inff();
    if (i < n) {
        float rest_min, rest_max;
        finite = extent_finite_portable(x + i, n - i, &rest_min, &rest_max) && finite;
        *min = rest_min;
        *max = rest_max;
    }
    for (int k = 0; k < WIDTH; k++) {
        *min = low[k] < *min ? low[k] : *min;
        *max = high[k] > *max ? high[k] : *max;
    }
    return finite;
}
