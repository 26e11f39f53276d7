/* SPDX-License-Identifier: Apache-2.0
 * rows_loops.h - the loops of rows.h, included once for each instruction set with ROW_SET naming the set. */
#include "core/kernels/rows_impl.h"
#include "core/kernels/vmath_vec.h"

enum { FOUR = 4 * VEC };

/* Four sums at once hide the latency of an addition. What is left over comes last. */
#define REDUCE(name, first, step)                                                                                      \
    static float name(const float *x, int64_t n)                                                                       \
    {                                                                                                                  \
        vec s0 = vec_set(first), s1 = s0, s2 = s0, s3 = s0;                                                            \
        int64_t i = 0;                                                                                                 \
        for (; i + FOUR <= n; i += FOUR) {                                                                             \
            s0 = step(s0, vec_load(x + i));                                                                            \
            s1 = step(s1, vec_load(x + i + VEC));                                                                      \
            s2 = step(s2, vec_load(x + i + 2 * VEC));                                                                  \
            s3 = step(s3, vec_load(x + i + 3 * VEC));                                                                  \
        }                                                                                                              \
        for (; i + VEC <= n; i += VEC)                                                                                 \
            s0 = step(s0, vec_load(x + i));                                                                            \
        float one[VEC];                                                                                                \
        vec_store(one, step(step(s0, s1), step(s2, s3)));                                                              \
        return finish_##name(one, x + i, n - i);                                                                       \
    }

static inline vec vec_plus(vec a, vec b)
{
    return a + b;
}
/* NaN wins from either side. */
static inline vec nan_max(vec a, vec b)
{
    return vec_select(a != a, a, vec_max(a, b));
}
static inline vec nan_min(vec a, vec b)
{
    return vec_select(a != a, a, vec_min(a, b));
}

static float finish_row_sum(const float one[VEC], const float *rest, int64_t n)
{
    return vec_sum(vec_load(one) + vec_load_part(rest, n));
}
static float finish_row_max(const float one[VEC], const float *rest, int64_t n)
{
    float most = one[0];
    for (int i = 1; i < VEC; i++)
        most = one[i] > most || one[i] != one[i] ? one[i] : most;
    for (int64_t i = 0; i < n; i++)
        most = rest[i] > most || rest[i] != rest[i] ? rest[i] : most;
    return most;
}
static float finish_row_min(const float one[VEC], const float *rest, int64_t n)
{
    float least = one[0];
    for (int i = 1; i < VEC; i++)
        least = one[i] < least || one[i] != one[i] ? one[i] : least;
    for (int64_t i = 0; i < n; i++)
        least = rest[i] < least || rest[i] != rest[i] ? rest[i] : least;
    return least;
}

static inline vec any_max(vec a, vec b)
{
    return vec_max(b, a); /* a stays where b is NaN */
}
static float finish_row_any_max(const float one[VEC], const float *rest, int64_t n)
{
    float most = vec_largest(vec_load(one));
    for (int64_t i = 0; i < n; i++)
        most = rest[i] > most ? rest[i] : most;
    return most;
}

REDUCE(row_sum, 0, vec_plus)
REDUCE(row_any_max, -__builtin_inff(), any_max)
REDUCE(row_max, -__builtin_inff(), nan_max)
REDUCE(row_min, __builtin_inff(), nan_min)

static float square_sum(const float *x, int64_t n, float shift)
{
    const vec mid = vec_set(shift);
    vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
    int64_t i = 0;
    for (; i + FOUR <= n; i += FOUR)
        for (int k = 0; k < 4; k++) {
            const vec d = vec_load(x + i + k * VEC) - mid;
            s[k] = vec_fma(d, d, s[k]);
        }
    for (; i + VEC <= n; i += VEC) {
        const vec d = vec_load(x + i) - mid;
        s[0] = vec_fma(d, d, s[0]);
    }
    if (i < n) {
        float tail[VEC];
        for (int k = 0; k < VEC; k++)
            tail[k] = i + k < n ? x[i + k] : shift;
        const vec d = vec_load(tail) - mid;
        s[1] = vec_fma(d, d, s[1]);
    }
    return vec_sum((s[0] + s[1]) + (s[2] + s[3]));
}

static float exp_sum(const float *x, int64_t n, float shift, float *y)
{
    const vec most = vec_set(shift);
    vec s0 = vec_set(0), s1 = s0;
    int64_t i = 0;
    for (; i + 2 * VEC <= n; i += 2 * VEC) {
        const vec e0 = vexp_normal(vec_load(x + i) - most), e1 = vexp_normal(vec_load(x + i + VEC) - most);
        vec_store(y + i, e0);
        vec_store(y + i + VEC, e1);
        s0 += e0;
        s1 += e1;
    }
    for (; i + VEC <= n; i += VEC) {
        const vec e = vexp_normal(vec_load(x + i) - most);
        vec_store(y + i, e);
        s0 += e;
    }
    if (i < n) {
        vec_store_part(y + i, vexp_normal(vec_load_part(x + i, n - i) - most), n - i);
        s1 += vec_load_part(y + i, n - i);
    }
    return vec_sum(s0 + s1);
}

static void affine(const float *x, int64_t n, float scale, float shift, float *y)
{
    const vec a = vec_set(scale), b = vec_set(shift);
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC)
        vec_store(y + i, vec_fma(vec_load(x + i), a, b));
    if (i < n)
        vec_store_part(y + i, vec_fma(vec_load_part(x + i, n - i), a, b), n - i);
}

static void normalize(const struct row_norm *norm, const float *x, int64_t n, float mean, float inverse, float *y)
{
    const vec mid = vec_set(mean), inv = vec_set(inverse), one = vec_set(1), zero = vec_set(0);
    int64_t i = 0;
    for (; i + VEC <= n; i += VEC) {
        const vec scale = norm->scale ? vec_load(norm->scale + i) : one;
        const vec bias = norm->bias ? vec_load(norm->bias + i) : zero;
        vec_store(y + i, vec_fma((vec_load(x + i) - mid) * inv, scale, bias));
    }
    if (i < n) {
        const vec scale = norm->scale ? vec_load_part(norm->scale + i, n - i) : one;
        const vec bias = norm->bias ? vec_load_part(norm->bias + i, n - i) : zero;
        vec_store_part(y + i, vec_fma((vec_load_part(x + i, n - i) - mid) * inv, scale, bias), n - i);
    }
}

static void add_rows(const float *x, int64_t rows, int64_t n, float *y)
{
    int64_t j = 0;
    for (; j + FOUR <= n; j += FOUR) {
        vec s[4] = {vec_set(0), vec_set(0), vec_set(0), vec_set(0)};
        for (int64_t i = 0; i < rows; i++)
            for (int k = 0; k < 4; k++)
                s[k] += vec_load(x + i * n + j + k * VEC);
        for (int k = 0; k < 4; k++)
            vec_store(y + j + k * VEC, s[k]);
    }
    for (; j + VEC <= n; j += VEC) {
        vec s = vec_set(0);
        for (int64_t i = 0; i < rows; i++)
            s += vec_load(x + i * n + j);
        vec_store(y + j, s);
    }
    if (j < n) {
        vec s = vec_set(0);
        for (int64_t i = 0; i < rows; i++)
            s += vec_load_part(x + i * n + j, n - j);
        vec_store_part(y + j, s, n - j);
    }
}

const struct row_set ROW_SET = {
    .sum = row_sum, .square_sum = square_sum, .max = row_max, .any_max = row_any_max, .min = row_min,
    .exp_sum = exp_sum, .affine = affine, .normalize = normalize, .add_rows = add_rows,
};
