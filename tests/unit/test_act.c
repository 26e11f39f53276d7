/* SPDX-License-Identifier: Apache-2.0
 * Activations and elementary functions against the formulas in double, over dense ranges, on every instruction set
 * this machine has. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <cmocka.h>

#include "core/kernels/act.h"
#include "core/kernels/isa.h"
#include "core/kernels/vmath.h"

static const enum isa sets[] = {ISA_PORTABLE, ISA_AVX2};
enum { N_SETS = sizeof sets / sizeof sets[0] };

/* ---- elementary functions ---- */
static double sigmoid(double x) { return 1 / (1 + exp(-x)); }
static double softplus(double x) { return x > 40 ? x : log1p(exp(x)); }
static double mish(double x) { return x * tanh(softplus(x)); }

static const struct elementary {
    const char *name;
    enum vmath_kind kind;
    double (*f)(double);
    float from, to;
    double relative; /* largest error allowed, relative to the exact value */
} elementary[] = {
    {"exp", VMATH_EXP, exp, -87.0f, 88.7f, 1.5e-7},
    {"expm1", VMATH_EXPM1, expm1, -60.0f, 88.7f, 3e-7},
    {"expm1 near 0", VMATH_EXPM1, expm1, -0.5f, 0.5f, 3e-7},
    {"log", VMATH_LOG, log, 1e-30f, 3.0f, 2e-7},
    {"log far", VMATH_LOG, log, 3.0f, 1e30f, 2e-7},
    {"log near 1", VMATH_LOG, log, 0.9f, 1.1f, 2e-7},
    {"tanh", VMATH_TANH, tanh, -20.0f, 20.0f, 4e-7},
    {"tanh near 0", VMATH_TANH, tanh, -0.5f, 0.5f, 4e-7},
    {"erf", VMATH_ERF, erf, -6.0f, 6.0f, 2e-7},
    {"erf near 0", VMATH_ERF, erf, -0.1f, 0.1f, 2e-7},
    {"sigmoid", VMATH_SIGMOID, sigmoid, -87.0f, 30.0f, 3e-7},
    {"softplus", VMATH_SOFTPLUS, softplus, -87.0f, 100.0f, 4e-7},
    {"mish", VMATH_MISH, mish, -80.0f, 100.0f, 6e-7},
};

static void elementary_functions_are_accurate(void **state)
{
    enum { N = 1 << 20 };
    static float x[N], y[N];
    (void)state;
    for (int s = 0; s < N_SETS; s++) {
        isa_limit(sets[s]);
        for (size_t e = 0; e < sizeof elementary / sizeof elementary[0]; e++) {
            const struct elementary *f = &elementary[e];
            double worst = 0, at = 0;
            for (int i = 0; i < N; i++)
                x[i] = (float)(f->from + ((double)f->to - f->from) * i / (N - 1));
            vmath_f32(f->kind, x, N, y);
            for (int i = 0; i < N; i++) {
                const double exact = f->f(x[i]), error = fabs(y[i] - exact) / fmax(fabs(exact), 1.2e-38);
                if (!(error <= worst))
                    worst = error, at = x[i];
            }
            if (!(worst <= f->relative))
                fail_msg("%s, %s: relative error %.3g at %.9g, allowed %.3g", f->name, isa_name(sets[s]), worst, at,
                         f->relative);
        }
    }
    isa_limit(ISA_KINDS);
}

static void limits_are_exact(void **state)
{
    static const struct { enum vmath_kind kind; float x, y; } cases[] = {
        {VMATH_EXP, 0, 1}, {VMATH_EXP, 1000, INFINITY}, {VMATH_EXP, INFINITY, INFINITY}, {VMATH_EXP, -1000, 0},
        {VMATH_EXP, -INFINITY, 0}, {VMATH_EXP, NAN, NAN}, {VMATH_EXPM1, 0, 0}, {VMATH_EXPM1, -INFINITY, -1},
        {VMATH_EXPM1, INFINITY, INFINITY}, {VMATH_EXPM1, NAN, NAN}, {VMATH_LOG, 1, 0}, {VMATH_LOG, 0, -INFINITY},
        {VMATH_LOG, -1, NAN}, {VMATH_LOG, INFINITY, INFINITY}, {VMATH_LOG, NAN, NAN}, {VMATH_TANH, INFINITY, 1},
        {VMATH_TANH, -INFINITY, -1}, {VMATH_TANH, NAN, NAN}, {VMATH_TANH, 0, 0}, {VMATH_ERF, INFINITY, 1},
        {VMATH_ERF, -INFINITY, -1}, {VMATH_ERF, NAN, NAN}, {VMATH_ERF, 0, 0}, {VMATH_SIGMOID, INFINITY, 1},
        {VMATH_SIGMOID, 0, 0.5f}, {VMATH_SIGMOID, NAN, NAN},
        {VMATH_SOFTPLUS, INFINITY, INFINITY}, {VMATH_SOFTPLUS, -INFINITY, 0}, {VMATH_SOFTPLUS, NAN, NAN},
        {VMATH_MISH, 50, 50}, {VMATH_MISH, NAN, NAN}, {VMATH_MISH, 0, 0},
    };
    (void)state;
    for (int s = 0; s < N_SETS; s++) {
        isa_limit(sets[s]);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            float y;
            vmath_f32(cases[i].kind, &cases[i].x, 1, &y);
            if (isnan(cases[i].y) ? !isnan(y) : y != cases[i].y)
                fail_msg("%s: function %d of %g gives %g, not %g", isa_name(sets[s]), (int)cases[i].kind,
                         (double)cases[i].x, (double)y, (double)cases[i].y);
        }
        const float least = -INFINITY; /* the sigmoid there is no more than a subnormal number */
        float almost;
        vmath_f32(VMATH_SIGMOID, &least, 1, &almost);
        assert_true(almost >= 0 && almost < 1.2e-38f);
        for (int k = 0; k < 50; k++) { /* subnormal arguments of the logarithm */
            const float x = ldexpf(1.3f, -148 + k);
            float y;
            vmath_f32(VMATH_LOG, &x, 1, &y);
            assert_true(fabs(y - log(x)) < 2e-7 * fabs(log(x)));
        }
    }
    isa_limit(ISA_KINDS);
}

/* ---- activations ---- */
static double hard(double v) { return v < 0 ? 0 : v > 1 ? 1 : v; }

static double exact(const struct act *f, double x)
{
    switch (f->kind) {
    case ACT_RELU:
        return x < 0 ? 0 : x;
    case ACT_CLIP:
        return x < (double)f->a ? (double)f->a : x > (double)f->b ? (double)f->b : x;
    case ACT_LEAKY_RELU:
        return x < 0 ? (double)f->a * x : x;
    case ACT_SIGMOID:
        return sigmoid(x);
    case ACT_TANH:
        return tanh(x);
    case ACT_HARD_SIGMOID:
        return hard((double)f->a * x + (double)f->b);
    case ACT_HARD_SWISH:
        return x * hard(x / 6 + 0.5);
    case ACT_SWISH:
        return x * sigmoid((double)f->a * x);
    case ACT_GELU_ERF:
        return 0.5 * x * (1 + erf(x * sqrt(0.5)));
    case ACT_GELU_TANH:
        return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1)) * (x + 0.044715 * x * x * x)));
    case ACT_SOFTPLUS:
        return softplus(x);
    case ACT_MISH:
        return mish(x);
    default:
        return x;
    }
}

static void activations_follow_their_formulas(void **state)
{
    enum { N = 200001 };
    static float x[N], y[N];
    (void)state;
    for (int s = 0; s < N_SETS; s++) {
        isa_limit(sets[s]);
        for (int kind = 0; kind < ACT_KINDS; kind++) {
            const struct act f = {(enum act_kind)kind, kind == ACT_CLIP ? -1.25f : 0.3f, kind == ACT_CLIP ? 2.5f : 0.4f};
            for (int i = 0; i < N; i++)
                x[i] = (float)(-12 + 24.0 * i / (N - 1));
            act_f32(&f, x, N, y);
            for (int i = 0; i < N; i++)
                if (!(fabs(y[i] - exact(&f, x[i])) <= 4e-7 * fmax(1, fabs(exact(&f, x[i])))))
                    fail_msg("%s, %s: f(%.9g) = %.9g, exactly %.9g", act_names[kind], isa_name(sets[s]), (double)x[i],
                             (double)y[i], exact(&f, x[i]));
            float bad = NAN;
            act_f32(&f, &bad, 1, &bad);
            assert_true(isnan(bad));
        }
    }
    isa_limit(ISA_KINDS);
    assert_null(act_names[ACT_KINDS]);
}

/* Every cut and alignment gives the bits of the whole, in place too. */
static void cuts_do_not_matter(void **state)
{
    enum { N = 67 };
    (void)state;
    for (int s = 0; s < N_SETS; s++) {
        isa_limit(sets[s]);
        for (int kind = 0; kind < ACT_KINDS + VMATH_KINDS; kind++) {
            const struct act f = {(enum act_kind)(kind % ACT_KINDS), 0.3f, 0.7f};
            float x[N], whole[N], part[N];
            for (int i = 0; i < N; i++)
                x[i] = 0.37f * (float)(i - 30);
            if (kind < ACT_KINDS)
                act_f32(&f, x, N, whole);
            else
                vmath_f32((enum vmath_kind)(kind - ACT_KINDS), x, N, whole);
            for (int cut = 0; cut <= N; cut++) {
                memcpy(part, x, sizeof x);
                for (int half = 0; half < 2; half++) {
                    float *at = part + (half ? cut : 0);
                    const int n = half ? N - cut : cut;
                    if (kind < ACT_KINDS)
                        act_f32(&f, at, n, at);
                    else
                        vmath_f32((enum vmath_kind)(kind - ACT_KINDS), at, n, at);
                }
                assert_memory_equal(part, whole, sizeof whole);
            }
        }
    }
    isa_limit(ISA_KINDS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(elementary_functions_are_accurate),
        cmocka_unit_test(limits_are_exact),
        cmocka_unit_test(activations_follow_their_formulas),
        cmocka_unit_test(cuts_do_not_matter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
