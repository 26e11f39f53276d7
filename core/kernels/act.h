/* SPDX-License-Identifier: Apache-2.0
 * act.h - activations that products apply to their result while it is still in registers or in the cache.
 * A kernel applies NONE, RELU and CLIP itself; for the others it calls act_f32 on the rows or tiles it has just written. */
#ifndef PARED_KERNELS_ACT_H
#define PARED_KERNELS_ACT_H

#include <stdint.h>

enum act_kind {
    ACT_NONE,
    ACT_RELU,
    ACT_CLIP,         /* a <= y <= b */
    ACT_LEAKY_RELU,   /* slope a */
    ACT_SIGMOID,
    ACT_TANH,
    ACT_HARD_SIGMOID, /* clip(a x + b, 0, 1) */
    ACT_HARD_SWISH,   /* x hard_sigmoid(x; 1/6, 1/2) */
    ACT_SWISH,        /* x sigmoid(a x) */
    ACT_GELU_ERF,
    ACT_GELU_TANH,
    ACT_SOFTPLUS,
    ACT_MISH,         /* x tanh(softplus(x)) */
    ACT_KINDS
};
struct act {
    enum act_kind kind;
    float a, b;
};
/* Choices of the attribute `activation` of the engine's fused operators, by enum act_kind, NULL-terminated. */
extern const char *const act_names[];

/* y[i] = f(x[i]); y may be x. Same bits whatever n and the alignment. */
void act_f32(const struct act *act, const float *x, int64_t n, float *y);

#endif
