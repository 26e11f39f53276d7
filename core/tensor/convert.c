/* SPDX-License-Identifier: Apache-2.0
 * convert.c - one plain loop for each pair of types, which the compiler turns into vector code; see convert.h. */
#include "core/tensor/convert.h"

typedef void loop(void *dst, const void *src, int64_t n);

/* Towards zero, held to int64, NaN gives 0: all without a branch that could hurt. */
static inline int64_t whole(double v)
{
    return v != v ? 0 : v >= 0x1p63 ? INT64_MAX : v <= -0x1p63 ? INT64_MIN : (int64_t)v;
}
static inline uint64_t whole_u64(double v)
{
    return v >= 0x1p63 ? (v < 0x1p64 ? (uint64_t)v : UINT64_MAX) : (uint64_t)whole(v);
}

#define LOOP(name, D, S, expr)                                                                                         \
    static void name(void *dst, const void *src, int64_t n)                                                            \
    {                                                                                                                  \
        D *restrict d = dst;                                                                                           \
        const S *restrict s = src;                                                                                     \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const S x = s[i];                                                                                          \
            d[i] = (D)(expr);                                                                                          \
        }                                                                                                              \
    }

/* From one integer type (or bool) to every number. */
#define FROM_INTEGER(S)                                                                                                \
    LOOP(S##_to_f32, float, S, x)                                                                                      \
    LOOP(S##_to_f64, double, S, x)                                                                                     \
    LOOP(S##_to_u8, uint8_t, S, x)                                                                                     \
    LOOP(S##_to_i8, int8_t, S, x)                                                                                      \
    LOOP(S##_to_u16, uint16_t, S, x)                                                                                   \
    LOOP(S##_to_i16, int16_t, S, x)                                                                                    \
    LOOP(S##_to_u32, uint32_t, S, x)                                                                                   \
    LOOP(S##_to_i32, int32_t, S, x)                                                                                    \
    LOOP(S##_to_u64, uint64_t, S, x)                                                                                   \
    LOOP(S##_to_i64, int64_t, S, x)                                                                                    \
    LOOP(S##_to_bool, uint8_t, S, x != 0)
FROM_INTEGER(uint8_t)
FROM_INTEGER(int8_t)
FROM_INTEGER(uint16_t)
FROM_INTEGER(int16_t)
FROM_INTEGER(uint32_t)
FROM_INTEGER(int32_t)
FROM_INTEGER(uint64_t)
FROM_INTEGER(int64_t)

#define FROM_FLOAT(S)                                                                                                  \
    LOOP(S##_to_f32, float, S, x)                                                                                      \
    LOOP(S##_to_f64, double, S, x)                                                                                     \
    LOOP(S##_to_u8, uint8_t, S, (uint64_t)whole((double)x))                                                            \
    LOOP(S##_to_i8, int8_t, S, whole((double)x))                                                                       \
    LOOP(S##_to_u16, uint16_t, S, (uint64_t)whole((double)x))                                                          \
    LOOP(S##_to_i16, int16_t, S, whole((double)x))                                                                     \
    LOOP(S##_to_u32, uint32_t, S, (uint64_t)whole((double)x))                                                          \
    LOOP(S##_to_i32, int32_t, S, whole((double)x))                                                                     \
    LOOP(S##_to_u64, uint64_t, S, whole_u64((double)x))                                                                \
    LOOP(S##_to_i64, int64_t, S, whole((double)x))                                                                     \
    LOOP(S##_to_bool, uint8_t, S, x != 0)
FROM_FLOAT(float)
FROM_FLOAT(double)

#define ROW(S)                                                                                                         \
    {                                                                                                                  \
        [DTYPE_FLOAT] = S##_to_f32, [DTYPE_DOUBLE] = S##_to_f64, [DTYPE_UINT8] = S##_to_u8, [DTYPE_INT8] = S##_to_i8,   \
        [DTYPE_UINT16] = S##_to_u16, [DTYPE_INT16] = S##_to_i16, [DTYPE_UINT32] = S##_to_u32,                          \
        [DTYPE_INT32] = S##_to_i32, [DTYPE_UINT64] = S##_to_u64, [DTYPE_INT64] = S##_to_i64, [DTYPE_BOOL] = S##_to_bool \
    }
enum { LAST = DTYPE_BFLOAT16 }; /* the types above are below it */
static loop *const loops[LAST + 1][LAST + 1] = {
    [DTYPE_FLOAT] = ROW(float),     [DTYPE_DOUBLE] = ROW(double),    [DTYPE_UINT8] = ROW(uint8_t),
    [DTYPE_INT8] = ROW(int8_t),     [DTYPE_UINT16] = ROW(uint16_t),  [DTYPE_INT16] = ROW(int16_t),
    [DTYPE_UINT32] = ROW(uint32_t), [DTYPE_INT32] = ROW(int32_t),    [DTYPE_UINT64] = ROW(uint64_t),
    [DTYPE_INT64] = ROW(int64_t),   [DTYPE_BOOL] = ROW(uint8_t),
};

bool convert_array(enum dtype to, void *dst, enum dtype from, const void *src, int64_t n)
{
    if ((unsigned)to > LAST || (unsigned)from > LAST || !loops[from][to])
        return false;
    loops[from][to](dst, src, n);
    return true;
}
