/* SPDX-License-Identifier: Apache-2.0
 * act_grad.c - one loop a derivative; the formulas stand in the rows: x the input, y the output, d the gradient of
 * y, a, b, g the constants. */
#include "core/kernels/act_grad.h"

#include <math.h>
#include <stddef.h>

#include "core/kernels/simd.h"
#include "core/kernels/vmath.h"

#define LOOP(name, T, qualifier, expr)                                                                                 \
    qualifier static void name##_set(const T *xs, const T *ys, const T *ds, T *dx, int64_t n, T a, T b, T g)           \
    {                                                                                                                  \
        (void)a, (void)b, (void)g;                                                                                     \
        _Pragma("GCC ivdep") for (int64_t i = 0; i < n; i++)                                                           \
        {                                                                                                              \
            const T x = xs[i], y = ys[i], d = ds[i];                                                                   \
            (void)x, (void)y;                                                                                          \
            dx[i] = (expr);                                                                                            \
        }                                                                                                              \
    }                                                                                                                  \
    qualifier static void name##_add(const T *restrict xs, const T *restrict ys, const T *restrict ds, T *restrict dx, \
                                     int64_t n, T a, T b, T g)                                                         \
    {                                                                                                                  \
        (void)a, (void)b, (void)g;                                                                                     \
        for (int64_t i = 0; i < n; i++) {                                                                              \
            const T x = xs[i], y = ys[i], d = ds[i];                                                                   \
            (void)x, (void)y;                                                                                          \
            dx[i] += (expr);                                                                                           \
        }                                                                                                              \
    }                                                                                                                  \
    static void name(const struct act_grad_attrs *at, const void *x, const void *y, const void *dy, void *dx,          \
                     int64_t n, bool add)                                                                              \
    {                                                                                                                  \
        const T *xs = x ? x : dy, *ys = y ? y : dy; /* the one that is not read stands in for the other */             \
        (add ? name##_add : name##_set)(xs, ys, dy, dx, n, (T)at->a, (T)at->b, (T)at->g);                              \
    }
#define LOOPS(name, reads_y, expr32, expr64)                                                                           \
    LOOP(name##_f32, float, KERNEL_CLONES, expr32)                                                                     \
    LOOP(name##_f64, double, , expr64)                                                                                 \
    const struct act_grad act_grad_##name = {name##_f32, name##_f64, reads_y};

#define SLOPE(name, reads_y, expr32, expr64) LOOPS(name, reads_y, d *(expr32), d *(expr64))
#define BOTH(name, reads_y, expr) SLOPE(name, reads_y, expr, expr)

static inline float sigmoid32(float x)
{
    return 1 / (1 + vmath_exp(-x));
}
static inline double sigmoid64(double x)
{
    return 1 / (1 + exp(-x));
}

static inline float swish32(float x, float a)
{
    const float s = sigmoid32(a * x);
    return s + a * x * s * (1 - s);
}

static inline double swish64(double x, double a)
{
    const double s = sigmoid64(a * x);
    return s + a * x * s * (1 - s);
}

/* x tanh(sp(x)): tanh(sp) + x (1 - tanh(sp)^2) sigmoid(x) */
static inline double mish64(double x)
{
    const double t = tanh((x > 0 ? x : 0) + log1p(exp(-fabs(x))));
    return t + x * (1 - t * t) * sigmoid64(x);
}

/* x Phi(x): Phi(x) + x phi(x) */
static inline float gelu_erf32(float x)
{
    return 0.5f * (1 + erff(x * 0.70710678118654752f)) + x * 0.39894228040143268f * vmath_exp(-0.5f * x * x);
}

static inline double gelu_erf64(double x)
{
    return 0.5 * (1 + erf(x * 0.70710678118654752)) + x * 0.39894228040143268 * exp(-0.5 * x * x);
}

static inline double gelu_tanh64(double x)
{
    const double c = 0.79788456080286536, t = tanh(c * (x + 0.044715 * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * c * (1 + 3 * 0.044715 * x * x);
}

static inline float gelu_tanh32(float x)
{
    const float c = 0.79788456080286536f, t = tanhf(c * (x + 0.044715f * x * x * x));
    return 0.5f * (1 + t) + 0.5f * x * (1 - t * t) * c * (1 + 3 * 0.044715f * x * x);
}

static inline double hard_swish64(double x)
{
    return x < -3 ? 0 : x < 3 ? x / 3 + 0.5 : 1;
}

static inline float hard_swish32(float x)
{
    return x < -3 ? 0 : x < 3 ? x * (1.0f / 3) + 0.5f : 1;
}

LOOPS(relu, true, (y > 0 ? d : 0), (y > 0 ? d : 0))
BOTH(leaky_relu, false, (x < 0 ? a : 1))
BOTH(thresholded_relu, false, (x > a ? 1 : 0))
BOTH(shrink, false, (x < -a || x > a ? 1 : 0))
SLOPE(elu, false, (x < 0 ? a * vmath_exp(x) : 1), (x < 0 ? a * exp(x) : 1))
SLOPE(celu, false, (x < 0 ? vmath_exp(x / a) : 1), (x < 0 ? exp(x / a) : 1))
SLOPE(selu, false, g *(x > 0 ? 1 : a * vmath_exp(x)), g *(x > 0 ? 1 : a * exp(x)))
BOTH(sigmoid, true, (y * (1 - y)))
SLOPE(swish, false, swish32(x, a), swish64(x, a))
BOTH(tanh, true, (1 - y * y))
SLOPE(erf, false, 1.1283791670955126f * vmath_exp(-x * x), 1.1283791670955126 * exp(-x * x))
SLOPE(softplus, false, sigmoid32(x), sigmoid64(x))
SLOPE(softsign, false, 1 / ((1 + fabsf(x)) * (1 + fabsf(x))), 1 / ((1 + fabs(x)) * (1 + fabs(x))))
SLOPE(mish, false, (float)mish64((double)x), mish64(x))
SLOPE(gelu_erf, false, gelu_erf32(x), gelu_erf64(x))
SLOPE(gelu_tanh, false, gelu_tanh32(x), gelu_tanh64(x))
BOTH(hard_sigmoid, false, (a * x + b > 0 && a * x + b < 1 ? a : 0))
SLOPE(hard_swish, false, hard_swish32(x), hard_swish64(x))
