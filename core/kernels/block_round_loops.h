/* SPDX-License-Identifier: Apache-2.0
 * block_round_loops.h - the loops of block_round.h, included once for each instruction set with BLOCK_SET naming the
 * set. Vectors of eight in the compiler's own notation: one register of AVX2, two elsewhere, the same arithmetic. What
 * is left over behind the last eight is padded with zeros, whose code is the zero point: they add nothing to a sum. */
#include <string.h>

#include "core/kernels/block_round.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

typedef float f8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int32_t i8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef uint8_t b8 __attribute__((vector_size(8), aligned(1), may_alias));

enum { LANES = 8 };
#define SET(x) ((f8){x, x, x, x, x, x, x, x})
#define SELECT(mask, yes, no) ((f8)(((mask) & (i8)(yes)) | (~(mask) & (i8)(no))))

/* Eight numbers from x + i, zeros beyond n. */
#define LOAD(to, x, i, n)                                                                                              \
    f8 to;                                                                                                             \
    if ((i) + LANES <= (n)) {                                                                                          \
        to = *(const f8 *)((x) + (i));                                                                                 \
    } else {                                                                                                           \
        float part_[LANES] = {0};                                                                                      \
        memcpy(part_, (x) + (i), (size_t)((n) - (i)) * sizeof *part_);                                                 \
        to = *(const f8 *)part_;                                                                                       \
    }

/* t in [0, top]; adding 2^23 rounds half to even, and a half that went down is lifted. */
#define CODE(to, v, g)                                                                                                 \
    f8 to = (v) * SET((g)->inverse) + SET((g)->zero);                                                                  \
    to = SELECT(to > 0.0f, to, SET(0.0f));                                                                             \
    to = SELECT(to < (g)->top, to, SET((g)->top));                                                                     \
    {                                                                                                                  \
        const f8 even_ = (to + 8388608.0f) - 8388608.0f;                                                               \
        to = even_ + SELECT(to - even_ >= 0.5f, SET(1.0f), SET(0.0f));                                                 \
    }

#define JOIN(to, s)                                                                                                    \
    float to;                                                                                                          \
    {                                                                                                                  \
        float one_[LANES];                                                                                             \
        memcpy(one_, &(s), sizeof one_);                                                                               \
        to = ((one_[0] + one_[4]) + (one_[1] + one_[5])) + ((one_[2] + one_[6]) + (one_[3] + one_[7]));                \
    }

#define LESS(a, b) ((a) < (b) ? (a) : (b))
#define MORE(a, b) ((a) > (b) ? (a) : (b))
#define JOIN_BY(by, v) by(by(by(v[0], v[4]), by(v[1], v[5])), by(by(v[2], v[6]), by(v[3], v[7])))

static float range(const float *x, int64_t n, float *lo, float *hi)
{
    f8 least = SET(0.0f), most = least, bad = least;
    float low[LANES], high[LANES];
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const f8 v = *(const f8 *)(x + i);
        bad += v * 0.0f;
        least = SELECT(v < least, v, least);
        most = SELECT(v > most, v, most);
    }
    if (i < n) {
        LOAD(v, x, i, n)
        bad += v * 0.0f;
        least = SELECT(v < least, v, least);
        most = SELECT(v > most, v, most);
    }
    memcpy(low, &least, sizeof low);
    memcpy(high, &most, sizeof high);
    *lo = JOIN_BY(LESS, low);
    *hi = JOIN_BY(MORE, high);
    JOIN(sum, bad)
    return sum == 0 ? 0 : sum;
}

/* Whole numbers of 0 .. 255 as bytes. The compiler's own conversion moves one at a time. */
static inline void put_codes(const f8 *q, uint8_t *codes)
{
    const i8 whole = __builtin_convertvector(*q, i8);
#if defined(__SSE2__)
    __m128i half[2];
    memcpy(half, &whole, sizeof half);
    const __m128i words = _mm_packs_epi32(half[0], half[1]);
    _mm_storel_epi64((__m128i *)(void *)codes, _mm_packus_epi16(words, words));
#else
    *(b8 *)codes = __builtin_convertvector(whole, b8);
#endif
}

static void encode(const float *x, int64_t n, const struct block_grid *g, uint8_t *codes)
{
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        const f8 v = *(const f8 *)(x + i);
        CODE(q, v, g)
        put_codes(&q, codes + i);
    }
    if (i < n) {
        LOAD(v, x, i, n)
        CODE(q, v, g)
        uint8_t last[LANES];
        put_codes(&q, last);
        memcpy(codes + i, last, (size_t)(n - i));
    }
}

static void sums(const float *x, const float *h, int64_t n, const struct block_grid *g, float out[2])
{
    f8 xd = SET(0.0f), dd = xd;
    for (int64_t i = 0; i < n; i += LANES) {
        LOAD(v, x, i, n)
        CODE(q, v, g)
        f8 d = q - g->zero, hd = d;
        if (h) {
            LOAD(w, h, i, n)
            hd = w * d;
        }
        xd += v * hd;
        dd += d * hd;
    }
    JOIN(a, xd)
    JOIN(b, dd)
    out[0] = a;
    out[1] = b;
}

static inline void add_error(const f8 *x, const uint8_t *codes, float zero, float scale, f8 *signal, f8 *noise)
{
    i8 whole;
#if defined(__AVX2__)
    whole = (i8)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)codes));
#else
    whole = __builtin_convertvector(*(const b8 *)codes, i8);
#endif
    const f8 d = __builtin_convertvector(whole, f8) - zero, e = *x - d * scale;
    *signal += *x * *x;
    *noise += e * e;
}

static void error(const float *x, const uint8_t *codes, int64_t n, float zero, float scale, float out[2])
{
    f8 signal = SET(0.0f), noise = signal;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES)
        add_error((const f8 *)(x + i), codes + i, zero, scale, &signal, &noise);
    if (i < n) {
        LOAD(v, x, i, n)
        uint8_t one[LANES];
        for (int64_t l = 0; l < LANES; l++)
            one[l] = i + l < n ? codes[i + l] : (uint8_t)zero;
        add_error(&v, one, zero, scale, &signal, &noise);
    }
    JOIN(a, signal)
    JOIN(b, noise)
    out[0] = a;
    out[1] = b;
}

static void decode(const uint8_t *codes, int64_t n, float zero, float scale, float *y)
{
    for (int64_t i = 0; i < n; i++)
        y[i] = ((float)codes[i] - zero) * scale;
}

/* Vectors go by pointer: without AVX there is no convention for passing them. */
/* x^power for x > 0, to about 1e-3: the shrinkage needs no more. The exponent and a parabola through the mantissa
 * give log2 x, and the same the other way round gives 2^y. */
static inline void power_of(const f8 *x, float power, f8 *out)
{
    const i8 bits = (i8)*x;
    const f8 exponent = __builtin_convertvector((bits >> 23) - 127, f8);
    const f8 m = (f8)((bits & 0x007fffff) | 0x3f800000); /* 1 .. 2 */
    f8 y = (exponent + (m * (m * -0.34484843f + 2.02466578f) - 1.67487759f)) * power;
    y = SELECT(y > -100.0f, y, SET(-100.0f));
    y = SELECT(y < 100.0f, y, SET(100.0f));
    const i8 whole = __builtin_convertvector(y + 128.0f, i8) - 128; /* floor: y + 128 is positive */
    const f8 part = y - __builtin_convertvector(whole, f8);
    const f8 two = part * (part * 0.33718944f + 0.65763628f) + 1.00172476f;
    *out = two * (f8)((whole + 127) << 23);
}

static void half_quadratic(const float *x, int64_t n, const struct block_grid *g, float power, float beta, float out[3])
{
    f8 ud = SET(0.0f), dd = ud, shift = ud;
    const float scale = 1 / g->inverse, weight = 1 / beta;
    for (int64_t i = 0; i < n; i += LANES) {
        LOAD(v, x, i, n)
        CODE(q, v, g)
        const f8 d = q - g->zero, e = v - d * scale;
        const f8 size = (f8)((i8)e & 0x7fffffff);
        const f8 positive = size + 1e-8f;
        f8 left;
        power_of(&positive, power - 1, &left);
        left = size - left * weight;
        left = SELECT(left > 0.0f, left, SET(0.0f));
        const f8 u = v - (f8)((i8)left | ((i8)e & (i8)SET(-0.0f)));
        ud += u * d;
        dd += d * d;
        shift += q - u * g->inverse;
    }
    JOIN(a, ud)
    JOIN(b, dd)
    JOIN(c, shift)
    out[0] = a;
    out[1] = b;
    out[2] = c;
}

const struct block_round_set BLOCK_SET = {range, encode, sums, error, decode, half_quadratic};
