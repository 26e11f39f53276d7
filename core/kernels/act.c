/* SPDX-License-Identifier: Apache-2.0
 * act.c - activations and elementary functions over arrays: the portable loops, and the choice of the set. */
#define ACT_TABLE act_portable
#define VMATH_TABLE vmath_portable
#include "core/kernels/act_loops.h"

#include <string.h>

#include "core/kernels/isa.h"

const char *const act_names[] = {
    [ACT_NONE] = "none",
    [ACT_RELU] = "relu",
    [ACT_CLIP] = "clip",
    [ACT_LEAKY_RELU] = "leaky_relu",
    [ACT_SIGMOID] = "sigmoid",
    [ACT_TANH] = "tanh",
    [ACT_HARD_SIGMOID] = "hard_sigmoid",
    [ACT_HARD_SWISH] = "hard_swish",
    [ACT_SWISH] = "swish",
    [ACT_GELU_ERF] = "gelu_erf",
    [ACT_GELU_TANH] = "gelu_tanh",
    [ACT_SOFTPLUS] = "softplus",
    [ACT_MISH] = "mish",
    [ACT_KINDS] = NULL,
};

void act_f32(const struct act *act, const float *x, int64_t n, float *y)
{
    if (act->kind == ACT_NONE) {
        if (x != y)
            memmove(y, x, (size_t)n * sizeof *y);
        return;
    }
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2)) {
        act_avx2[act->kind](act, x, n, y);
        return;
    }
#endif
    act_portable[act->kind](act, x, n, y);
}

void vmath_f32(enum vmath_kind kind, const float *x, int64_t n, float *y)
{
#if defined(__x86_64__)
    if (isa_has(ISA_AVX2)) {
        vmath_avx2[kind](x, n, y);
        return;
    }
#endif
    vmath_portable[kind](x, n, y);
}
