/* SPDX-License-Identifier: Apache-2.0
 * act_loops.h - the loops of act.c and of vmath.h, included once for each instruction set with ACT_TABLE and
 * VMATH_TABLE naming the tables to define. */
#include "core/kernels/act.h"
#include "core/kernels/act_tables.h"
#include "core/kernels/vmath.h"
#include "core/kernels/vmath_vec.h"

/* expr gives y from x, a and b. */
#define ACT_LOOP(name, expr)                                                                                           \
    static inline vec one_##name(vec x, vec a, vec b)                                                                  \
    {                                                                                                                  \
        (void)a, (void)b;                                                                                              \
        return (expr);                                                                                                 \
    }                                                                                                                  \
    static void loop_##name(const struct act *act, const float *x, int64_t n, float *y)                                \
    {                                                                                                                  \
        const vec a = vec_set(act->a), b = vec_set(act->b);                                                            \
        int64_t i = 0;                                                                                                 \
        for (; i + VEC <= n; i += VEC)                                                                                 \
            vec_store(y + i, one_##name(vec_load(x + i), a, b));                                                       \
        if (i < n)                                                                                                     \
            vec_store_part(y + i, one_##name(vec_load_part(x + i, n - i), a, b), n - i);                               \
    }

/* clip(v, 0, 1); NaN stays */
static inline vec unit(vec v)
{
    return vec_min(vec_set(1.0f), vec_max(vec_set(0.0f), v));
}

ACT_LOOP(none, x)
ACT_LOOP(relu, vec_max(vec_set(0.0f), x))
ACT_LOOP(clip, vec_min(b, vec_max(a, x)))
ACT_LOOP(leaky_relu, vec_select(x < 0.0f, a * x, x))
ACT_LOOP(sigmoid, vsigmoid(x))
ACT_LOOP(tanh, vtanh(x))
ACT_LOOP(hard_sigmoid, unit(a *x + b))
ACT_LOOP(hard_swish, x *unit(x *vec_set(1.0f / 6) + 0.5f))
ACT_LOOP(swish, x *vsigmoid(a *x))
ACT_LOOP(gelu_erf, 0.5f * x * (1.0f + verf(x * vec_set(0.70710678118654752f))))
ACT_LOOP(gelu_tanh, 0.5f * x * (1.0f + vtanh(0.79788456080286536f * (x + vec_set(0.044715f) * x * x * x))))
ACT_LOOP(softplus, vsoftplus(x))
ACT_LOOP(mish, vmish(x))

act_loop *const ACT_TABLE[ACT_KINDS] = {
    [ACT_NONE] = loop_none,         [ACT_RELU] = loop_relu,
    [ACT_CLIP] = loop_clip,         [ACT_LEAKY_RELU] = loop_leaky_relu,
    [ACT_SIGMOID] = loop_sigmoid,   [ACT_TANH] = loop_tanh,
    [ACT_HARD_SIGMOID] = loop_hard_sigmoid, [ACT_HARD_SWISH] = loop_hard_swish,
    [ACT_SWISH] = loop_swish,       [ACT_GELU_ERF] = loop_gelu_erf,
    [ACT_GELU_TANH] = loop_gelu_tanh, [ACT_SOFTPLUS] = loop_softplus,
    [ACT_MISH] = loop_mish,
};

#define VMATH_LOOP(name, fn)                                                                                           \
    static void math_##name(const float *x, int64_t n, float *y)                                                       \
    {                                                                                                                  \
        int64_t i = 0;                                                                                                 \
        for (; i + VEC <= n; i += VEC)                                                                                 \
            vec_store(y + i, fn(vec_load(x + i)));                                                                     \
        if (i < n)                                                                                                     \
            vec_store_part(y + i, fn(vec_load_part(x + i, n - i)), n - i);                                             \
    }
VMATH_LOOP(exp, vexp)
VMATH_LOOP(expm1, vexpm1)
VMATH_LOOP(log, vlog)
VMATH_LOOP(tanh, vtanh)
VMATH_LOOP(sigmoid, vsigmoid)
VMATH_LOOP(erf, verf)
VMATH_LOOP(softplus, vsoftplus)
VMATH_LOOP(mish, vmish)

vmath_loop *const VMATH_TABLE[VMATH_KINDS] = {
    [VMATH_EXP] = math_exp,   [VMATH_EXPM1] = math_expm1,     [VMATH_LOG] = math_log, [VMATH_TANH] = math_tanh,
    [VMATH_ERF] = math_erf, [VMATH_SIGMOID] = math_sigmoid, [VMATH_SOFTPLUS] = math_softplus, [VMATH_MISH] = math_mish,
};
