/* SPDX-License-Identifier: Apache-2.0
 * Conversions go through one loop per (source, destination) class: a loader and a storer a dtype, double or int64 in
 * between, with direct loops for the pairs that carry weights (float32 with float16, bfloat16, double). The small float
 * formats share one encoder and decoder driven by a row of {exponent bits, mantissa bits, bias, ...}. */
#include "core/tensor/convert.h"
#include "core/tensor/dtype.h"

#include <math.h>
#include <string.h>

#include "core/base/size.h"
#include "core/tensor/halves.h"

static const struct row {
    const char *name;
    unsigned char bits;
    char kind;
} rows[DTYPE_COUNT] = {
#define X(id, number, name, bits, kind) [number] = {name, bits, kind},
    DTYPE_MAP(X)
#undef X
};

bool dtype_valid(int number)
{
    return number > 0 && number < DTYPE_COUNT && rows[number].name;
}

const char *dtype_name(enum dtype dtype)
{
    return dtype_valid((int)dtype) ? rows[dtype].name : "unknown";
}

enum dtype dtype_from_name(const char *name)
{
    for (int i = 1; i < DTYPE_COUNT; i++)
        if (rows[i].name && strcmp(rows[i].name, name) == 0)
            return (enum dtype)i;
    return DTYPE_NONE;
}

int dtype_bits(enum dtype dtype)
{
    return dtype_valid((int)dtype) ? rows[dtype].bits : 0;
}

char dtype_kind(enum dtype dtype)
{
    return dtype_valid((int)dtype) ? rows[dtype].kind : 0;
}

bool dtype_is_float(enum dtype dtype)
{
    return dtype_kind(dtype) == 'f';
}

bool dtype_is_integer(enum dtype dtype)
{
    char k = dtype_kind(dtype);
    return k == 'i' || k == 'u';
}

bool dtype_bytes(enum dtype dtype, int64_t n, size_t *bytes)
{
    size_t bits = (size_t)dtype_bits(dtype);
    if (!bits || n < 0)
        return false;
    if (bits >= 8)
        return size_mul((size_t)n, bits / 8, bytes);
    size_t per_byte = 8 / bits;
    *bytes = (size_t)n / per_byte + ((size_t)n % per_byte != 0);
    return true;
}

double dtype_min(enum dtype dtype)
{
    return dtype_kind(dtype) == 'i' ? -ldexp(1.0, dtype_bits(dtype) - 1) : 0.0;
}

double dtype_max(enum dtype dtype)
{
    int sign = dtype_kind(dtype) == 'i';
    return dtype == DTYPE_BOOL ? 1.0 : ldexp(1.0, dtype_bits(dtype) - sign) - 1.0;
}

/* ---- small floats: sign, exponent, mantissa from high to low bits ---- */

struct small_float {
    int exponent_bits, mantissa_bits, bias;
    bool has_inf, is_fnuz, no_nan; /* fnuz: one NaN at 0x80, no negative zero; neither: NaN is all ones */
};

static bool small_float_of(enum dtype dtype, struct small_float *f)
{
    switch (dtype) {
    case DTYPE_FLOAT16:
        *f = (struct small_float){5, 10, 15, true, false, false};
        return true;
    case DTYPE_FLOAT8E4M3FN:
        *f = (struct small_float){4, 3, 7, false, false, false};
        return true;
    case DTYPE_FLOAT8E4M3FNUZ:
        *f = (struct small_float){4, 3, 8, false, true, false};
        return true;
    case DTYPE_FLOAT8E5M2:
        *f = (struct small_float){5, 2, 15, true, false, false};
        return true;
    case DTYPE_FLOAT8E5M2FNUZ:
        *f = (struct small_float){5, 2, 16, false, true, false};
        return true;
    case DTYPE_FLOAT4E2M1:
        *f = (struct small_float){2, 1, 1, false, false, true};
        return true;
    default:
        return false;
    }
}

static double small_decode(const struct small_float *f, unsigned bits)
{
    unsigned mantissa_mask = (1u << f->mantissa_bits) - 1, exponent_mask = (1u << f->exponent_bits) - 1;
    unsigned sign_bit = 1u << (f->exponent_bits + f->mantissa_bits);
    unsigned mantissa = bits & mantissa_mask, exponent = (bits >> f->mantissa_bits) & exponent_mask;
    double sign = bits & sign_bit ? -1.0 : 1.0;
    if (f->is_fnuz && bits == sign_bit)
        return (double)NAN;
    if (f->has_inf && exponent == exponent_mask)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    if (!f->has_inf && !f->is_fnuz && !f->no_nan && exponent == exponent_mask && mantissa == mantissa_mask)
        return (double)NAN;
    double m = (double)mantissa / (double)(1u << f->mantissa_bits);
    return exponent ? sign * ldexp(1.0 + m, (int)exponent - f->bias) : sign * ldexp(m, 1 - f->bias);
}

/* Largest finite code (without sign). */
static unsigned small_max_code(const struct small_float *f)
{
    unsigned all = (1u << (f->exponent_bits + f->mantissa_bits)) - 1;
    if (f->has_inf)
        return (((1u << f->exponent_bits) - 2) << f->mantissa_bits) | ((1u << f->mantissa_bits) - 1);
    return f->is_fnuz || f->no_nan ? all : all - 1;
}

static unsigned small_nan(const struct small_float *f)
{
    unsigned sign_bit = 1u << (f->exponent_bits + f->mantissa_bits);
    if (f->no_nan) /* negative zero, as OCP's converters do */
        return sign_bit;
    if (f->is_fnuz)
        return sign_bit;
    if (f->has_inf) /* quiet NaN */
        return (((1u << f->exponent_bits) - 1) << f->mantissa_bits) | (1u << (f->mantissa_bits - 1));
    return sign_bit - 1;
}

/* Round to nearest even. Overflow: the largest value if `saturate`, else infinity or, in a format without, NaN. */
static unsigned small_encode(const struct small_float *f, double value, bool saturate)
{
    unsigned sign_bit = 1u << (f->exponent_bits + f->mantissa_bits), sign = signbit(value) ? sign_bit : 0;
    double a = fabs(value);
    if (isnan(value))
        return small_nan(f) | (f->has_inf ? sign : 0);
    unsigned max_code = small_max_code(f), code;
    if (isinf(a))
        code = max_code + 1;
    else if (a == 0.0)
        code = 0;
    else {
        int e;
        frexp(a, &e); /* a = m 2^e, m in [0.5, 1) */
        int exponent = e - 1 + f->bias;
        if (exponent < 1)
            exponent = 1; /* subnormal: fixed step */
        double steps = nearbyint(ldexp(a, f->mantissa_bits - (exponent - f->bias)));
        double whole = ldexp((double)(exponent - 1), f->mantissa_bits) + steps; /* carries into the exponent by itself */
        code = whole > (double)max_code ? max_code + 1 : (unsigned)whole;
    }
    if (code > max_code)
        code = saturate ? max_code : f->has_inf ? max_code + 1 : small_nan(f);
    if (f->is_fnuz && code == 0)
        return 0;
    return code | sign;
}

float dtype_f16_to_f32(uint16_t half)
{
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16, rest = half & 0x7fffu, bits;
    float out;
    if (rest >= 0x7c00u)
        bits = sign | 0x7f800000u | ((rest & 0x3ffu) << 13) | (rest > 0x7c00u ? 0x400000u : 0u); /* NaN: quiet */
    else if (rest >= 0x400u)
        bits = sign | ((rest << 13) + 0x38000000u);
    else {
        out = (float)rest * 0x1p-24f;
        return sign ? -out : out;
    }
    memcpy(&out, &bits, 4);
    return out;
}

uint16_t dtype_f32_to_f16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000u, rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u)
        return (uint16_t)(sign | 0x7e00u | (rest >> 13 & 0x3ffu));
    if (rest >= 0x47800000u)
        return (uint16_t)(sign | 0x7c00u);
    if (rest < 0x38800000u) { /* subnormal: adding 0.5 aligns the mantissa and rounds to nearest even */
        float a, half = 0.5f;
        memcpy(&a, &rest, 4);
        a += half;
        uint32_t sum;
        memcpy(&sum, &a, 4);
        return (uint16_t)(sign | (sum - 0x3f000000u));
    }
    rest += 0xfffu + (rest >> 13 & 1u); /* may carry into the exponent, up to infinity */
    return (uint16_t)(sign | ((rest - 0x38000000u) >> 13));
}

float dtype_bf16_to_f32(uint16_t half)
{
    uint32_t bits = (uint32_t)half << 16;
    float out;
    memcpy(&out, &bits, 4);
    return out;
}

uint16_t dtype_f32_to_bf16(float value)
{
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/* ---- element access ---- */

static unsigned packed_get(const void *data, int64_t i, int bits)
{
    int per = 8 / bits;
    return (unsigned)((const uint8_t *)data)[i / per] >> (unsigned)((i % per) * bits) & ((1u << bits) - 1);
}

static void packed_set(void *data, int64_t i, int bits, unsigned code)
{
    int per = 8 / bits;
    unsigned shift = (unsigned)((i % per) * bits), mask = ((1u << bits) - 1) << shift;
    uint8_t *p = &((uint8_t *)data)[i / per];
    *p = (uint8_t)((*p & ~mask) | ((code << shift) & mask));
}

#define LOAD(type) (((const type *)data)[i])

int64_t dtype_get_i64(enum dtype dtype, const void *data, int64_t i)
{
    switch (dtype) {
    case DTYPE_UINT8:
        return LOAD(uint8_t);
    case DTYPE_INT8:
        return LOAD(int8_t);
    case DTYPE_UINT16:
        return LOAD(uint16_t);
    case DTYPE_INT16:
        return LOAD(int16_t);
    case DTYPE_INT32:
        return LOAD(int32_t);
    case DTYPE_INT64:
        return LOAD(int64_t);
    case DTYPE_BOOL:
        return LOAD(uint8_t) != 0;
    case DTYPE_UINT32:
        return LOAD(uint32_t);
    case DTYPE_UINT64:
        return (int64_t)LOAD(uint64_t);
    case DTYPE_UINT4:
        return packed_get(data, i, 4);
    case DTYPE_INT4:
        return (int64_t)(packed_get(data, i, 4) ^ 8u) - 8;
    case DTYPE_UINT2:
        return packed_get(data, i, 2);
    case DTYPE_INT2:
        return (int64_t)(packed_get(data, i, 2) ^ 2u) - 2;
    default: {
        double v = dtype_get(dtype, data, i);
        return isnan(v) ? 0 : v >= 0x1p63 ? INT64_MAX : v <= -0x1p63 ? INT64_MIN : (int64_t)v;
    }
    }
}

double dtype_get(enum dtype dtype, const void *data, int64_t i)
{
    struct small_float f;
    switch (dtype) {
    case DTYPE_FLOAT:
        return (double)LOAD(float);
    case DTYPE_DOUBLE:
        return LOAD(double);
    case DTYPE_FLOAT16:
        return (double)dtype_f16_to_f32(LOAD(uint16_t));
    case DTYPE_BFLOAT16:
        return (double)dtype_bf16_to_f32(LOAD(uint16_t));
    case DTYPE_UINT64:
        return (double)LOAD(uint64_t);
    case DTYPE_FLOAT8E8M0:
        return LOAD(uint8_t) == 255 ? (double)NAN : ldexp(1.0, LOAD(uint8_t) - 127);
    case DTYPE_STRING:
    case DTYPE_COMPLEX64:
    case DTYPE_COMPLEX128:
    case DTYPE_NONE:
        return 0;
    default:
        if (small_float_of(dtype, &f))
            return small_decode(&f, dtype_bits(dtype) == 4 ? packed_get(data, i, 4) : LOAD(uint8_t));
        return (double)dtype_get_i64(dtype, data, i);
    }
}

#define STORE(type, v) (((type *)data)[i] = (type)(v))

static bool set_i64(enum dtype dtype, void *data, int64_t i, int64_t v)
{
    uint64_t u = (uint64_t)v; /* wraps to the width, as a C cast of an integer does */
    switch (dtype) {
    case DTYPE_UINT8:
        return STORE(uint8_t, u), true;
    case DTYPE_INT8:
        return STORE(int8_t, u), true;
    case DTYPE_UINT16:
        return STORE(uint16_t, u), true;
    case DTYPE_INT16:
        return STORE(int16_t, u), true;
    case DTYPE_INT32:
        return STORE(int32_t, u), true;
    case DTYPE_INT64:
        return STORE(int64_t, u), true;
    case DTYPE_UINT32:
        return STORE(uint32_t, u), true;
    case DTYPE_UINT64:
        return STORE(uint64_t, u), true;
    case DTYPE_BOOL:
        return STORE(uint8_t, v != 0), true;
    case DTYPE_UINT4:
    case DTYPE_INT4:
        return packed_set(data, i, 4, (unsigned)u & 15u), true;
    case DTYPE_UINT2:
    case DTYPE_INT2:
        return packed_set(data, i, 2, (unsigned)u & 3u), true;
    default:
        return false;
    }
}

/* Power of two nearest to |v|, as float8e8m0 keeps scales. */
static uint8_t encode_e8m0(double v)
{
    if (isnan(v) || isinf(v))
        return 255;
    double e = v == 0.0 ? -127.0 : nearbyint(log2(fabs(v)));
    return (uint8_t)(e < -127.0 ? 0.0 : e > 127.0 ? 254.0 : e + 127.0);
}

static int64_t to_i64(double v)
{
    return isnan(v) ? 0 : v >= 0x1p63 ? INT64_MAX : v <= -0x1p63 ? INT64_MIN : (int64_t)v;
}

void dtype_set(enum dtype dtype, void *data, int64_t i, double v)
{
    struct small_float f;
    if (dtype == DTYPE_FLOAT)
        STORE(float, v);
    else if (dtype == DTYPE_DOUBLE)
        STORE(double, v);
    else if (dtype == DTYPE_FLOAT16) {
        small_float_of(dtype, &f); /* straight from double: one rounding, not two */
        STORE(uint16_t, small_encode(&f, v, false));
    } else if (dtype == DTYPE_BFLOAT16)
        STORE(uint16_t, dtype_f32_to_bf16((float)v));
    else if (dtype == DTYPE_FLOAT8E8M0)
        STORE(uint8_t, encode_e8m0(v));
    else if (dtype == DTYPE_BOOL)
        STORE(uint8_t, v != 0.0);
    else if (dtype == DTYPE_UINT64 && v >= 0x1p63)
        STORE(uint64_t, v < 0x1p64 ? (uint64_t)v : UINT64_MAX);
    else if (small_float_of(dtype, &f)) {
        unsigned code = small_encode(&f, v, true);
        if (dtype_bits(dtype) == 4)
            packed_set(data, i, 4, code);
        else
            STORE(uint8_t, code);
    } else
        set_i64(dtype, data, i, to_i64(v));
}

void dtype_set_unsaturated(enum dtype dtype, void *data, int64_t i, double v)
{
    struct small_float f;
    if (small_float_of(dtype, &f) && dtype_bits(dtype) == 8)
        STORE(uint8_t, small_encode(&f, v, false));
    else
        dtype_set(dtype, data, i, v);
}

/* ---- whole arrays ---- */

static bool convert_fast(enum dtype to, void *dst, enum dtype from, const void *src, int64_t n)
{
    const float *f32 = src;
    const uint16_t *u16 = src;
    if (from == DTYPE_FLOAT && to == DTYPE_FLOAT16)
        halves_from_floats(dst, f32, n);
    else if (from == DTYPE_FLOAT && to == DTYPE_BFLOAT16)
        for (int64_t i = 0; i < n; i++)
            ((uint16_t *)dst)[i] = dtype_f32_to_bf16(f32[i]);
    else if (from == DTYPE_FLOAT16 && to == DTYPE_FLOAT)
        halves_to_floats(dst, u16, n);
    else if (from == DTYPE_BFLOAT16 && to == DTYPE_FLOAT)
        for (int64_t i = 0; i < n; i++)
            ((float *)dst)[i] = dtype_bf16_to_f32(u16[i]);
    else
        return convert_array(to, dst, from, src, n);
    return true;
}

static bool numeric(enum dtype dtype)
{
    char k = dtype_kind(dtype);
    return k && k != 's' && k != 'c';
}

bool dtype_convert(enum dtype to, void *dst, enum dtype from, const void *src, int64_t n)
{
    size_t bytes;
    if (!numeric(to) || !numeric(from) || !dtype_bytes(to, n, &bytes))
        return false;
    if (to == from) {
        if (bytes)
            memcpy(dst, src, bytes);
        return true;
    }
    if (convert_fast(to, dst, from, src, n))
        return true;
    bool whole = !dtype_is_float(from) && !dtype_is_float(to); /* int64 in between keeps all 64 bits */
    for (int64_t i = 0; i < n; i++)
        if (whole)
            set_i64(to, dst, i, dtype_get_i64(from, src, i));
        else
            dtype_set(to, dst, i, dtype_get(from, src, i));
    return true;
}
