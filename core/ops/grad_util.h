/* SPDX-License-Identifier: Apache-2.0
 * grad_util.h - what many backward functions share: sums of terms over broadcast or strided axes.
 * Idea       Almost every gradient is "a destination element takes the sum of terms f(sources) over the places that
 *            used it". grad_sum is that loop over any strides: an axis whose destination stride is 0 is summed over.
 *            So one loop is the adjoint of copies, broadcasts, slices, transposes and element-wise arithmetic.
 * Adding     Results are added to the destination, or written where `assign` says that it holds nothing yet.
 * Order      Sums run in double in an order that depends on the shapes only, never on the thread count.
 * Types      The destination and the terms are float32 or float64 (grad_type refuses others). */
#ifndef PARED_OPS_GRAD_UTIL_H
#define PARED_OPS_GRAD_UTIL_H

#include "core/ops/op_util.h"

enum { GRAD_SOURCES = 3 };

/* term[i] = f(src[0][i * step[0]], ...) for i < n; term never overlaps a source. */
typedef void grad_term_fn(void *term, const void *const src[GRAD_SOURCES], const int64_t step[GRAD_SOURCES], int64_t n,
                          const void *arg);
/* One kernel a type. */
struct grad_term {
    grad_term_fn *f32, *f64;
};

struct grad_source {
    const void *data;
    size_t elem; /* bytes of an element; 0: as the destination's */
    int64_t stride[OP_COPY_RANK]; /* elements, may be 0 or negative */
};
struct grad_loop {
    enum dtype dtype; /* of the destination and the terms */
    int rank;
    int64_t dim[OP_COPY_RANK];
    void *dst;
    int64_t dst_stride[OP_COPY_RANK]; /* 0: summed over; else every index has its own element */
    int sources;
    struct grad_source src[GRAD_SOURCES];
    const struct grad_term *term; /* NULL: source 0 itself */
    const void *arg;
    bool assign; /* every element of the destination is reached and written */
};
void grad_sum(struct pool *pool, const struct grad_loop *loop);

/* The same over axes that broadcast, as element-wise operators see them: every shape is aligned to the right of `over`.
 * src[i] NULL ends the list; term NULL: source 0. */
struct grad_broadcast {
    const struct shape *over;
    const struct tensor *src[GRAD_SOURCES];
    const struct shape *src_shape[GRAD_SOURCES]; /* NULL: the tensor's own */
    struct tensor *dst;
    const struct shape *dst_shape; /* NULL: the tensor's own */
    const struct grad_term *term;
    const void *arg;
    bool assign;
};
int grad_sum_broadcast(struct pool *pool, const struct grad_broadcast *b, struct err *err);

/* The adjoint of resampling one axis: dst [outer, in, inner] = sum over j, s with index[j, s] = i of weight[j, s] *
 * src [outer, out, inner] at j. An index of -1 counts for nothing. */
struct grad_taps {
    int64_t in, out, count; /* taps of each j */
    const int64_t *index;   /* [out, count] */
    const float *weight;    /* [out, count]; NULL: 1 */
};
void grad_fold_axis(struct pool *pool, enum dtype dtype, const struct grad_taps *taps, const void *src, void *dst,
                    int64_t outer, int64_t inner);

/* Memory of a call of forward (run) or of backward (grad), for what both use. */
struct op_memory {
    struct run_ctx *run;
    struct grad_ctx *grad;
};
static inline void *op_memory(const struct op_memory *m, size_t bytes, struct err *err)
{
    return m->run ? run_scratch(m->run, bytes, err) : grad_scratch(m->grad, bytes, err);
}

/* n elements: dst[to + i] += src[from + i], of dst's type. n <= 0: nothing. */
void grad_add_run(struct tensor *dst, int64_t to, const struct tensor *src, int64_t from, int64_t n);
/* dst += src, or dst = src; the same number of elements. */
int grad_add_whole(struct grad_ctx *c, int input, const struct tensor *grad, struct err *err);
/* Whether input i's gradient is to be written instead of added. */
static inline bool grad_assign(const struct grad_ctx *c, int i) { return c->assign && c->assign[i]; }
/* A row without influence on an input (Floor, a dropped output): zero where it is to be written. */
void grad_zero(struct grad_ctx *c, int input);
/* 0 if t is float32 or float64, else -1 and a sentence. */
int grad_type(const struct tensor *t, struct err *err);

/* Kernels of terms. T is the type, g, a and b the sources' elements (unused ones are g again), p the argument; `expr`
 * gives the term. Include <tgmath.h> so that exp and its kind follow T. The step of a source is mostly 1 or 0, which
 * the compiler gets to see. */
#define GRAD_TERM_LOOP(T, at_a, at_b, expr)                                                                          \
    for (int64_t i = 0; i < n; i++) {                                                                                \
        const T g = gs[i * sg], a = as[at_a], b = bs[at_b];                                                          \
        (void)a, (void)b, (void)g;                                                                                   \
        out[i] = (T)(expr);                                                                                          \
    }
#define GRAD_TERM_FN(name, T, P, expr)                                                                               \
    static void name(void *restrict term, const void *const src[GRAD_SOURCES], const int64_t step[GRAD_SOURCES],     \
                     int64_t n, const void *arg)                                                                     \
    {                                                                                                                \
        typedef T real;                                                                                              \
        real *restrict out = term;                                                                                   \
        const real *gs = src[0], *as = src[1] ? src[1] : src[0], *bs = src[2] ? src[2] : as;                         \
        const int64_t sa = src[1] ? step[1] : step[0], sb = src[2] ? step[2] : sa;                                   \
        const P *p = arg;                                                                                            \
        (void)p;                                                                                                     \
        if (step[0] == 1 && sa == 1 && sb == 1) {                                                                    \
            enum { sg = 1 };                                                                                         \
            GRAD_TERM_LOOP(T, i, i, expr)                                                                            \
        } else if (step[0] == 1 && sa == 1 && sb == 0) {                                                             \
            enum { sg = 1 };                                                                                         \
            GRAD_TERM_LOOP(T, i, 0, expr)                                                                            \
        } else if (step[0] == 1 && sa == 0 && sb == 1) {                                                             \
            enum { sg = 1 };                                                                                         \
            GRAD_TERM_LOOP(T, 0, i, expr)                                                                            \
        } else {                                                                                                     \
            const int64_t sg = step[0];                                                                              \
            GRAD_TERM_LOOP(T, i *sa, i *sb, expr)                                                                    \
        }                                                                                                            \
    }
#define GRAD_TERM(name, P, expr)                                                                                     \
    GRAD_TERM_FN(grad_##name##_f32, float, P, expr)                                                                  \
    GRAD_TERM_FN(grad_##name##_f64, double, P, expr)                                                                 \
    static const struct grad_term grad_##name = {grad_##name##_f32, grad_##name##_f64};

#endif
