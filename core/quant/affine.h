/* SPDX-License-Identifier: Apache-2.0
 * affine.h - affine quantization: q = clip(round_half_even(x / scale) + zero_point), x' = (q - zero_point) * scale.
 * Conventions are ONNX Runtime's: zero is always representable, scales are computed in double and stored as float32, a
 * range too small for a normal scale gets scale 1. */
#ifndef PARED_QUANT_AFFINE_H
#define PARED_QUANT_AFFINE_H

#include "core/base/pool.h"
#include "core/quant/isa_arithmetic.h"

struct qparams {
    float scale;
    int32_t zero; /* zero point */
};

/* Scale and zero point of a dtype (uint8, int8, ...) for numbers in [lo, hi]. symmetric: the range is widened to [-a,
 * a], the zero point is 0 (signed) or the middle, 128 (unsigned), and the range uses 2^bits - 1 codes. */
struct qparams affine_params(double lo, double hi, enum dtype dtype, bool symmetric);
int32_t affine_quantize(double x, struct qparams q, int32_t qmin, int32_t qmax);

/* Weight codes with a scale for each channel. */
struct qweight {
    struct tensor codes; /* as the weight, int8 or uint8 */
    struct tensor scale; /* float32: [channels], or scalar */
    int32_t zero;        /* 0 for int8, 128 for uint8 */
    double sqnr_db;      /* of the weight; NAN when exact */
    struct pair_proof proof;
};
struct qweight_opts {
    enum dtype dtype; /* DTYPE_INT8 or DTYPE_UINT8 */
    bool per_channel;
    int axis;                  /* output channels, also where they share one scale: a sum stays within one; -1: none */
    const double *scale_floor; /* [scales] or NULL: least scale, so that the bias fits (static quantization) */
    const float *scale;        /* [scales] or NULL: these scales, chosen elsewhere, and the nearest codes */
    bool nearest;              /* round each code to the nearest, instead of so that errors cancel (compensate.h) */
    int isa;                   /* enum isa: whether sums of two neighbouring products must fit into int16 */
    bool adds_in_32;           /* its kernels have no sums of pairs, on any CPU (depthwise convolutions) */
    struct code_reach reach;   /* codes of the activations; all zero: any */
    struct pool *pool;         /* channels are shared out; may be NULL. The codes are the same for any */
};
/* w: float32, contiguous. Errors: ERR_MODEL for NaN or infinity (which element). */
int qweight_make(struct qweight *q, const struct tensor *w, const struct qweight_opts *opts, struct err *err);
void qweight_fini(struct qweight *q);

#endif
