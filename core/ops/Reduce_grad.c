/* SPDX-License-Identifier: Apache-2.0
 * Gradients of the reductions; g is dL/dy, stretched over the reduced axes again.
 *   Sum g              Mean g / n         L1  g sign x       L2  g x / y (0 at y = 0)     SumSquare  2 g x
 *   LogSum g e^-y      LogSumExp g e^(x-y)                   Max, Min  g / ties where x = y: equal extremes share
 *   Prod  g times the product of the others: y / x, or where a factor is 0 the product without it. */
#include "core/ops/Reduce_grad.h"

#include <string.h>
#include <tgmath.h>

#include "core/ops/grad_util.h"

/* g, x as a, y as b; terms of y alone have it as a. */
GRAD_TERM(share, double, g *(real)*p)
GRAD_TERM(sign, void, a > 0 ? g : a < 0 ? -g : 0)
GRAD_TERM(root, void, b > 0 ? g * a / b : 0)
GRAD_TERM(square, void, 2 * g * a)
GRAD_TERM(inverse_exp, void, g *exp(-a))
GRAD_TERM(softmax, void, a >= b ? g : g * exp(a - b)) /* also where both are infinite */
GRAD_TERM(equal, void, g == a ? 1 : 0)
GRAD_TERM(divide, void, a > 0 ? g / a : 0)
GRAD_TERM(winner, void, a == b ? g : 0)
GRAD_TERM(times, void, g *a)

/* y's shape with the reduced axes kept as 1. */
static int kept_shape(const struct grad_ctx *c, struct shape *kept, int64_t *n, struct err *err)
{
    const struct tensor *x = c->in[0], *axes = c->n_in > 1 ? c->in[1] : NULL;
    bool mask[SHAPE_MAX_RANK];

    if (reduce_axes(c->attrs, axes, x->shape.rank, mask, err) < 0)
        return -1;
    *kept = x->shape;
    *n = 1;
    for (int i = 0; i < x->shape.rank; i++) {
        if (mask[i] && !i64_mul(*n, x->shape.dim[i], n))
            *n = 0; /* only where another axis is empty */
        kept->dim[i] = mask[i] ? 1 : x->shape.dim[i];
    }
    return 0;
}

static bool idle(struct grad_ctx *c)
{
    if (grad_of(c, 0) && grad_wanted(c, 0))
        return false;
    grad_zero(c, 0);
    return true;
}

/* dL/dx takes term(g, x, y), those of x and y that are not NULL. */
static int pass(struct grad_ctx *c, const struct tensor *g, const struct tensor *x, const struct tensor *y,
                const struct grad_term *term, const void *arg, struct err *err)
{
    struct shape kept;
    int64_t n;

    if (kept_shape(c, &kept, &n, err) < 0)
        return -1;
    const double share = n ? 1 / (double)n : 0;
    const struct grad_broadcast sum = {.over = &c->in[0]->shape, .src = {g, x ? x : y, x ? y : NULL},
                                       .src_shape = {&kept, x ? &x->shape : &kept, &kept}, .dst = c->grad_in[0],
                                       .term = term, .arg = arg ? arg : &share, .assign = grad_assign(c, 0)};
    return grad_sum_broadcast(c->pool, &sum, err);
}

#define BACKWARD(name, x, y, term)                                                                                   \
    int backward_reduce_##name(struct grad_ctx *c, struct err *err)                                                  \
    {                                                                                                                \
        return idle(c) ? 0 : pass(c, grad_of(c, 0), x, y, term, NULL, err);                                          \
    }
BACKWARD(sum, NULL, NULL, NULL)
BACKWARD(mean, NULL, NULL, &grad_share)
BACKWARD(l1, c->in[0], NULL, &grad_sign)
BACKWARD(l2, c->in[0], c->out[0], &grad_root)
BACKWARD(sum_square, c->in[0], NULL, &grad_square)
BACKWARD(log_sum, NULL, c->out[0], &grad_inverse_exp)
BACKWARD(log_sum_exp, c->in[0], c->out[0], &grad_softmax)

/* A tensor of y's kept shape in scratch. */
static int like_y(struct grad_ctx *c, const struct shape *kept, struct tensor *t, struct err *err)
{
    size_t bytes;
    const enum dtype dtype = c->in[0]->dtype;
    if (!dtype_bytes(dtype, shape_count(kept), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the output has too many elements");
    void *data = grad_scratch(c, bytes + 1, err);
    if (!data)
        return -1;
    memset(data, 0, bytes);
    tensor_view(t, dtype, kept, data, NULL);
    return 0;
}

static int backward_extreme(struct grad_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *y = c->out[0];
    struct tensor ties, shared;
    struct shape kept;
    int64_t n;

    if (idle(c))
        return 0;
    if (grad_type(x, err) < 0 || kept_shape(c, &kept, &n, err) < 0 || like_y(c, &kept, &ties, err) < 0 ||
        like_y(c, &kept, &shared, err) < 0)
        return -1;
    const struct grad_broadcast count = {.over = &x->shape, .src = {x, y}, .src_shape = {NULL, &kept}, .dst = &ties,
                                         .term = &grad_equal, .assign = true};
    const struct grad_broadcast divide = {.over = &kept, .src = {grad_of(c, 0), &ties}, .src_shape = {&kept},
                                          .dst = &shared, .term = &grad_divide, .assign = true};
    if (grad_sum_broadcast(c->pool, &count, err) < 0 || grad_sum_broadcast(c->pool, &divide, err) < 0)
        return -1;
    return pass(c, &shared, x, y, &grad_winner, NULL, err);
}

int backward_reduce_max(struct grad_ctx *c, struct err *err)
{
    return backward_extreme(c, err);
}

int backward_reduce_min(struct grad_ctx *c, struct err *err)
{
    return backward_extreme(c, err);
}

/* ---- products ---- */
/* Steps through x in order and tells to which output an element belongs. */
struct walk {
    const struct shape *x;
    int64_t stride[SHAPE_MAX_RANK], at[SHAPE_MAX_RANK], group;
};

static void walk_next(struct walk *w)
{
    for (int d = w->x->rank - 1; d >= 0; d--) {
        w->group += w->stride[d];
        if (++w->at[d] < w->x->dim[d])
            return;
        w->group -= w->stride[d] * w->x->dim[d];
        w->at[d] = 0;
    }
}

/* others[i]: the product of all elements of i's output but x[i]. Zeros of an output are counted, its other elements
 * multiplied. */
static void products_of_others(struct walk w, const struct tensor *x, double *zeros, double *product, int64_t groups,
                               struct tensor *others)
{
    const int64_t n = tensor_count(x);
    for (int64_t i = 0; i < groups; i++) {
        zeros[i] = 0;
        product[i] = 1;
    }
    for (int64_t i = 0; i < n; i++, walk_next(&w)) {
        const double v = dtype_get(x->dtype, x->data, i);
        if (v == 0)
            zeros[w.group]++;
        else
            product[w.group] *= v;
    }
    for (int64_t i = 0; i < n; i++, walk_next(&w)) {
        const double v = dtype_get(x->dtype, x->data, i), z = zeros[w.group];
        const double other = z == 0 ? product[w.group] / v : z == 1 && v == 0 ? product[w.group] : 0;
        dtype_set(others->dtype, others->data, i, other);
    }
}

int backward_reduce_prod(struct grad_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct walk w = {.x = &x->shape};
    struct tensor others;
    struct shape kept;
    int64_t n;
    size_t bytes;

    if (idle(c))
        return 0;
    if (grad_type(x, err) < 0 || kept_shape(c, &kept, &n, err) < 0 || like_y(c, &x->shape, &others, err) < 0)
        return -1;
    const int64_t groups = shape_count(&kept);
    if (!size_mul((size_t)groups, 2 * sizeof(double), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the output has too many elements");
    double *zeros = grad_scratch(c, bytes + 1, err);
    if (!zeros)
        return -1;
    shape_strides(&kept, true, w.stride);
    products_of_others(w, x, zeros, zeros + groups, groups, &others);
    return pass(c, grad_of(c, 0), &others, NULL, &grad_times, NULL, err);
}
