/* SPDX-License-Identifier: Apache-2.0
 * dtype.h - the element types of ONNX. The enum's numbers are TensorProto.DataType's (onnx.proto), so no table maps them.
 * Every dtype is one row of DTYPE_MAP. */
#ifndef PARED_TENSOR_DTYPE_H
#define PARED_TENSOR_DTYPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* id, ONNX number, name, bits an element, kind ('f' float, 'i' signed, 'u' unsigned, 'b' bool, 's' string, 'c' complex) */
#define DTYPE_MAP(X)                                                                               \
    X(FLOAT, 1, "float32", 32, 'f')                                                                \
    X(UINT8, 2, "uint8", 8, 'u')                                                                   \
    X(INT8, 3, "int8", 8, 'i')                                                                     \
    X(UINT16, 4, "uint16", 16, 'u')                                                                \
    X(INT16, 5, "int16", 16, 'i')                                                                  \
    X(INT32, 6, "int32", 32, 'i')                                                                  \
    X(INT64, 7, "int64", 64, 'i')                                                                  \
    X(STRING, 8, "string", 128, 's')                                                               \
    X(BOOL, 9, "bool", 8, 'b')                                                                     \
    X(FLOAT16, 10, "float16", 16, 'f')                                                             \
    X(DOUBLE, 11, "double", 64, 'f')                                                               \
    X(UINT32, 12, "uint32", 32, 'u')                                                               \
    X(UINT64, 13, "uint64", 64, 'u')                                                               \
    X(COMPLEX64, 14, "complex64", 64, 'c')                                                         \
    X(COMPLEX128, 15, "complex128", 128, 'c')                                                      \
    X(BFLOAT16, 16, "bfloat16", 16, 'f')                                                           \
    X(FLOAT8E4M3FN, 17, "float8e4m3fn", 8, 'f')                                                    \
    X(FLOAT8E4M3FNUZ, 18, "float8e4m3fnuz", 8, 'f')                                                \
    X(FLOAT8E5M2, 19, "float8e5m2", 8, 'f')                                                        \
    X(FLOAT8E5M2FNUZ, 20, "float8e5m2fnuz", 8, 'f')                                                \
    X(UINT4, 21, "uint4", 4, 'u')                                                                  \
    X(INT4, 22, "int4", 4, 'i')                                                                    \
    X(FLOAT4E2M1, 23, "float4e2m1", 4, 'f')                                                        \
    X(FLOAT8E8M0, 24, "float8e8m0", 8, 'f')                                                        \
    X(UINT2, 25, "uint2", 2, 'u')                                                                  \
    X(INT2, 26, "int2", 2, 'i')

enum dtype {
    DTYPE_NONE = 0, /* unknown, or ONNX's UNDEFINED */
#define X(id, number, name, bits, kind) DTYPE_##id = number,
    DTYPE_MAP(X)
#undef X
        DTYPE_COUNT,
    /* Not element types: what a struct tensor holds when it is a list of tensors (tensor.h). Nothing here takes them
     * for valid, and they have no bits. */
    DTYPE_SEQUENCE = 100,
    DTYPE_OPTIONAL = 101
};

/* An element of a string tensor; bytes are owned by the tensor's buffer and may hold NULs. */
struct dtype_string {
    const char *data;
    size_t len;
};

const char *dtype_name(enum dtype dtype); /* "unknown" for numbers without a row */
enum dtype dtype_from_name(const char *name); /* DTYPE_NONE if there is none */
bool dtype_valid(int number);
int dtype_bits(enum dtype dtype); /* 0 for DTYPE_NONE */
char dtype_kind(enum dtype dtype);
bool dtype_is_float(enum dtype dtype);
bool dtype_is_integer(enum dtype dtype); /* signed or unsigned; not bool */
/* Bytes of n elements; sub-byte types are packed, the last byte padded. False on overflow. */
bool dtype_bytes(enum dtype dtype, int64_t n, size_t *bytes);
/* Representable range of an integer dtype (as double: exact up to 2^53). */
double dtype_min(enum dtype dtype);
double dtype_max(enum dtype dtype);

/* Conversions of n elements. Any numeric or bool dtype; sub-byte ones are unpacked low bits first (ONNX packing); to
 * integers: truncated towards zero and wrapped to their width, as C and ONNX Runtime do for values in range; to bool:
 * != 0; to the float8 formats with saturation; to float16 / bfloat16 rounded to nearest even.
 * src and dst must not overlap. False: no such conversion (strings, complex). */
bool dtype_convert(enum dtype to, void *dst, enum dtype from, const void *src, int64_t n);
/* One element, converted; index counts elements. 0 for strings and complex. */
double dtype_get(enum dtype dtype, const void *data, int64_t index);
int64_t dtype_get_i64(enum dtype dtype, const void *data, int64_t index);
void dtype_set(enum dtype dtype, void *data, int64_t index, double value);
/* The same, but what a float8 type cannot hold becomes infinity or, in a type without, NaN; not the largest value. */
void dtype_set_unsaturated(enum dtype dtype, void *data, int64_t index, double value);

/* Scalar conversions (IEEE 754 binary16; bfloat16 = upper half of binary32; round to nearest even, NaN stays NaN). */
float dtype_f16_to_f32(uint16_t half);
uint16_t dtype_f32_to_f16(float value);
float dtype_bf16_to_f32(uint16_t half);
uint16_t dtype_f32_to_bf16(float value);

#endif
