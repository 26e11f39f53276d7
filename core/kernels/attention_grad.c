/* SPDX-License-Identifier: Apache-2.0
 * The gradient of attention: see attention_grad.h. */
#include "core/kernels/attention_grad.h"

#include <math.h>

#include "core/kernels/gemm.h"

#define DEFINE_GRAD(suffix, T, TANH)                                                                                 \
    static T *place_##suffix(const struct attention_view *v, int64_t b, int64_t h)                                   \
    {                                                                                                                \
        return (T *)(uintptr_t)v->data + b * v->batch + h * v->head;                                                 \
    }                                                                                                                \
                                                                                                                     \
    static void scores_##suffix(void *arg, int64_t task, int lane)                                                   \
    {                                                                                                                \
        const struct attention_grad *g = arg;                                                                        \
        const struct attention *a = g->a;                                                                            \
        const int64_t b = task / a->heads, h = task % a->heads, m = h / (a->heads / a->kv_heads), n = a->cols;       \
        const T *p = (const T *)g->weights + task * a->rows * n;                                                     \
        T *d = (T *)g->scores + task * a->rows * n;                                                                  \
        struct gemm back = gemm_plain(false, true, a->rows, n, a->v_width);                                          \
        (void)lane;                                                                                                  \
        back.lda = g->dy.row;                                                                                        \
        back.ldb = a->v.row;                                                                                         \
        gemm_##suffix##_tile(&back, place_##suffix(&g->dy, b, h), place_##suffix(&a->v, b, m), d);                   \
        for (int64_t i = 0; i < a->rows; i++, p += n, d += n) {                                                      \
            double dot = 0;                                                                                          \
            for (int64_t j = 0; j < n; j++)                                                                          \
                dot += (double)p[j] * (double)d[j];                                                                  \
            for (int64_t j = 0; j < n; j++)                                                                          \
                d[j] = p[j] * (d[j] - (T)dot);                                                                       \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    static void uncap_##suffix(const struct attention_grad *g, const T *s, T *d, int64_t n)                          \
    {                                                                                                                \
        const T inverse = 1 / (T)g->a->softcap;                                                                      \
        for (int64_t i = 0; i < n; i++) {                                                                            \
            const T t = TANH(s[i] * inverse);                                                                        \
            d[i] *= 1 - t * t;                                                                                       \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    /* out += alpha * op(left) right; left is one head's [rows, cols]. */                                            \
    static void add_##suffix(const struct attention *a, bool transposed, double alpha, const T *left, const T *right,\
                             int64_t right_row, int64_t width, T *out, int64_t out_row)                              \
    {                                                                                                                \
        struct gemm k = gemm_plain(transposed, false, transposed ? a->cols : a->rows, width,                         \
                                   transposed ? a->rows : a->cols);                                                  \
        k.ldb = right_row;                                                                                           \
        k.ldc = out_row;                                                                                             \
        k.alpha = alpha;                                                                                             \
        k.beta = 1;                                                                                                  \
        gemm_##suffix##_tile(&k, left, right, out);                                                                  \
    }                                                                                                                \
                                                                                                                     \
    static void inputs_##suffix(void *arg, int64_t task, int lane)                                                   \
    {                                                                                                                \
        const struct attention_grad *g = arg;                                                                        \
        const struct attention *a = g->a;                                                                            \
        const int64_t b = task / a->kv_heads, m = task % a->kv_heads, group = a->heads / a->kv_heads;                \
        (void)lane;                                                                                                  \
        for (int64_t h = m * group; h < (m + 1) * group; h++) {                                                      \
            const int64_t at = (b * a->heads + h) * a->rows * a->cols;                                               \
            T *d = (T *)g->scores + at;                                                                              \
            if (a->softcap != 0)                                                                                     \
                uncap_##suffix(g, (const T *)g->product + at, d, a->rows * a->cols);                                 \
            if (g->dq.data)                                                                                          \
                add_##suffix(a, false, a->scale, d, place_##suffix(&a->k, b, m), a->k.row, a->width,                 \
                             place_##suffix(&g->dq, b, h), g->dq.row);                                               \
            if (g->dk.data)                                                                                          \
                add_##suffix(a, true, a->scale, d, place_##suffix(&a->q, b, h), a->q.row, a->width,                  \
                             place_##suffix(&g->dk, b, m), g->dk.row);                                               \
            if (g->dv.data)                                                                                          \
                add_##suffix(a, true, 1, (const T *)g->weights + at, place_##suffix(&g->dy, b, h), g->dy.row,        \
                             a->v_width, place_##suffix(&g->dv, b, m), g->dv.row);                                   \
        }                                                                                                            \
    }                                                                                                                \
                                                                                                                     \
    void attention_grad_scores_##suffix(struct pool *pool, const struct attention_grad *g)                           \
    {                                                                                                                \
        struct attention_grad copy = *g;                                                                             \
        pool_run(pool, g->a->batch * g->a->heads, scores_##suffix, &copy);                                           \
    }                                                                                                                \
                                                                                                                     \
    void attention_grad_inputs_##suffix(struct pool *pool, const struct attention_grad *g)                           \
    {                                                                                                                \
        struct attention_grad copy = *g;                                                                             \
        pool_run(pool, g->a->batch * g->a->kv_heads, inputs_##suffix, &copy);                                        \
    }
DEFINE_GRAD(f32, float, tanhf)
DEFINE_GRAD(f64, double, tanh)
