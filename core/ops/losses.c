/* SPDX-License-Identifier: Apache-2.0
 * NegativeLogLikelihoodLoss and SoftmaxCrossEntropyLoss, opset 12 on.
 *   x [N, C, d...], target [N, d...] of classes, weight [C] (absent: ones).
 *   Softmax cross entropy first takes log_prob = x - log(sum over C of exp x), stable by subtracting the maximum;
 *   its second output.
 *   l[n, d] = -weight[t] log_prob[n, t, d] with t = target[n, d]; targets equal to ignore_index count nothing.
 *   reduction: none -> l; sum -> sum of l; mean -> sum of l / sum of the weights that counted.
 * Sums are in double, in order. */
#include <inttypes.h>
#include <math.h>

#include "core/ops/op_util.h"

enum { REDUCE_NONE, REDUCE_SUM, REDUCE_MEAN };
static const char *const reductions[] = {"none", "sum", "mean", NULL};

struct loss_attrs {
    int64_t ignore_index; /* INT64_MIN: none */
    int reduction;
};
static const struct op_attr loss_table[] = {
    {OP_ATTR(loss_attrs, ignore_index), .kind = OP_INT, .def = INT64_MIN},
    {OP_ATTR(loss_attrs, reduction), .kind = OP_ENUM, .def = REDUCE_MEAN, .choices = reductions},
    {NULL}};

static int check_shapes(const struct shape *x, const struct shape *target, const struct shape *weight, struct err *err)
{
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    bool fits = x->rank >= 2 && target->rank == x->rank - 1;
    for (int d = 0; fits && d < target->rank; d++) {
        int64_t dx = x->dim[d ? d + 1 : 0], dt = target->dim[d];
        fits = dx < 0 || dt < 0 || dx == dt;
    }
    if (!fits)
        return err_set(err, ERR_SHAPE, "targets %s do not fit scores %s: [N, C, d...] needs targets [N, d...]",
                       shape_text(target, b), shape_text(x, a));
    if (weight && weight->rank >= 0 &&
        (weight->rank != 1 || (weight->dim[0] >= 0 && x->dim[1] >= 0 && weight->dim[0] != x->dim[1])))
        return err_set(err, ERR_SHAPE, "weights %s do not fit the %" PRId64 " classes of the scores",
                       shape_text(weight, b), x->dim[1]);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct loss_attrs *a = c->attrs;
    if (op_need(c, 2, err) || op_dtype_kinds(c, 0, "f", err) || op_dtype_index(c, 1, err))
        return -1;
    const struct shape *x = infer_shape(c, 0), *target = infer_shape(c, 1),
                       *weight = infer_has(c, 2) ? infer_shape(c, 2) : NULL;
    if (x->rank >= 0 && target->rank >= 0 && check_shapes(x, target, weight, err))
        return -1;
    infer_out(c, 0, op_dtype(c, 0), a->reduction == REDUCE_NONE ? target : &SHAPE_SCALAR);
    if (c->n_out > 1)
        infer_out(c, 1, op_dtype(c, 0), x);
    return 0;
}

struct loss {
    const struct tensor *x, *target, *weight;
    int64_t n, classes, inner; /* x is [n, classes, inner] */
    int64_t ignore;
    struct tensor *out;
    int reduction;
};

/* log of the sum over classes of exp(x), for one place. */
static double log_sum(const struct loss *l, int64_t n, int64_t d)
{
    double most = -INFINITY, sum = 0;
    for (int64_t k = 0; k < l->classes; k++)
        most = fmax(most, dtype_get(l->x->dtype, l->x->data, (n * l->classes + k) * l->inner + d));
    for (int64_t k = 0; k < l->classes; k++)
        sum += exp(dtype_get(l->x->dtype, l->x->data, (n * l->classes + k) * l->inner + d) - most);
    return sum > 0 ? most + log(sum) : -INFINITY; /* no classes */
}

static int add_up(const struct loss *l, bool softmax, struct tensor *log_prob, struct err *err)
{
    double sum = 0, weights = 0;
    for (int64_t i = 0; i < l->n * l->inner; i++) {
        int64_t n = i / l->inner, d = i % l->inner, t = op_index_at(l->target, i);
        double shift = softmax ? log_sum(l, n, d) : 0, loss = 0;
        for (int64_t k = 0; k < l->classes && log_prob; k++) {
            int64_t at = (n * l->classes + k) * l->inner + d;
            dtype_set(log_prob->dtype, log_prob->data, at, dtype_get(l->x->dtype, l->x->data, at) - shift);
        }
        if (t != l->ignore) {
            if (t < 0 || t >= l->classes)
                return err_set(err, ERR_MODEL, "target %" PRId64 " is %" PRId64 ", there are %" PRId64 " classes", i, t,
                               l->classes);
            double w = l->weight ? dtype_get(l->weight->dtype, l->weight->data, t) : 1;
            loss = -w * (dtype_get(l->x->dtype, l->x->data, (n * l->classes + t) * l->inner + d) - shift);
            weights += w;
        }
        if (l->out && l->reduction == REDUCE_NONE)
            dtype_set(l->out->dtype, l->out->data, i, loss);
        sum += loss;
    }
    if (l->out && l->reduction != REDUCE_NONE)
        dtype_set(l->out->dtype, l->out->data, 0, l->reduction == REDUCE_MEAN ? sum / weights : sum);
    return 0;
}

static int forward(struct run_ctx *c, bool softmax, struct err *err)
{
    const struct loss_attrs *a = c->attrs;
    if (op_outputs(c, infer, err))
        return -1;
    const struct tensor *x = c->in[0];
    struct loss l = {.x = x,
                     .target = c->in[1],
                     .weight = run_in(c, 2),
                     .n = x->shape.dim[0],
                     .classes = x->shape.dim[1],
                     .inner = shape_product(&x->shape, 2, x->shape.rank),
                     .ignore = a->ignore_index,
                     .out = run_out(c, 0),
                     .reduction = a->reduction};
    return add_up(&l, softmax, run_out(c, 1), err);
}

static int forward_nll(struct run_ctx *c, struct err *err)
{
    return forward(c, false, err);
}

static int forward_softmax(struct run_ctx *c, struct err *err)
{
    return forward(c, true, err);
}

/* ---- backward. With g the gradient of the loss (divided by the weights that counted for the mean), w the weight of
 * the target t: NLL dx = -w g at the target; softmax cross entropy dx = w g (p - onehot(t)), and for log_prob's own
 * gradient d: d - p sum of d. ---- */
static double gradient_of(const struct loss *l, const struct tensor *g, int64_t i, double weights)
{
    if (!g)
        return 0;
    return l->reduction == REDUCE_NONE   ? dtype_get(g->dtype, g->data, i)
           : l->reduction == REDUCE_MEAN ? dtype_get(g->dtype, g->data, 0) / weights
                                         : dtype_get(g->dtype, g->data, 0);
}

static double weight_of(const struct loss *l, int64_t i)
{
    const int64_t t = op_index_at(l->target, i);
    return t == l->ignore ? 0 : l->weight ? dtype_get(l->weight->dtype, l->weight->data, t) : 1;
}

static int backward(struct grad_ctx *c, bool softmax)
{
    const struct loss_attrs *a = c->attrs;
    const struct tensor *x = c->in[0], *g = grad_of(c, 0), *d = grad_of(c, 1);
    struct tensor *dx = grad_wanted(c, 0);
    struct loss l = {.x = x, .target = c->in[1], .weight = c->n_in > 2 ? c->in[2] : NULL, .n = x->shape.dim[0],
                     .classes = x->shape.dim[1], .inner = shape_product(&x->shape, 2, x->shape.rank),
                     .ignore = a->ignore_index, .reduction = a->reduction};
    double weights = 0;

    if (!dx)
        return 0;
    for (int64_t i = 0; i < l.n * l.inner; i++)
        weights += weight_of(&l, i);
    for (int64_t i = 0; i < l.n * l.inner; i++) {
        const int64_t n = i / l.inner, at = n * l.classes * l.inner + i % l.inner, t = op_index_at(l.target, i);
        const double w = weight_of(&l, i), loss = w != 0 ? w * gradient_of(&l, g, i, weights) : 0;
        const double shift = softmax ? log_sum(&l, n, i % l.inner) : 0;
        double sum = 0;
        for (int64_t k = 0; d && k < l.classes; k++)
            sum += dtype_get(d->dtype, d->data, at + k * l.inner);
        for (int64_t k = 0; k < l.classes; k++) {
            const int64_t to = at + k * l.inner;
            const double p = softmax ? exp(dtype_get(x->dtype, x->data, to) - shift) : 0;
            const double value = loss * (p - (k == t)) + (d ? dtype_get(d->dtype, d->data, to) - p * sum : 0);
            dtype_set(dx->dtype, dx->data, to, value + (c->assign[0] ? 0 : dtype_get(dx->dtype, dx->data, to)));
        }
    }
    return 0;
}

static int backward_nll(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return backward(c, false);
}

static int backward_softmax(struct grad_ctx *c, struct err *err)
{
    (void)err;
    return backward(c, true);
}

#define GRADIENT(name)                                                                                                 \
    .backward = backward_##name, .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1) | GRAD_READS_IN(2),                 \
    .grad_assigns = true, .grad_inputs = 1u

static const struct op_sample samples[] = {{"f32[2,5,3] i64[2,3]=0,1,2,3,4,0", "reduction=mean", 1, 0},
                                           {"f32[2,5] i64[2]=4,1 f32[5]=1,2,3,4,5", "reduction=none", 1, 0},
                                           {NULL}};

OP_CLASS(nll_loss) = {.type = "NegativeLogLikelihoodLoss",
                      .domain = "",
                      .since = 12,
                      .doc = "Negative log likelihood of classes.",
                      .in_min = 2,
                      .in_max = 3,
                      .out_min = 1,
                      .out_max = 1,
                      .attrs = loss_table,
                      .attrs_size = sizeof(struct loss_attrs),
                      .infer = infer,
                      .forward = forward_nll,
                      GRADIENT(nll),
                      .samples = samples};
OP_CLASS(softmax_cross_entropy_loss) = {.type = "SoftmaxCrossEntropyLoss",
                                        .domain = "",
                                        .since = 12,
                                        .doc = "Softmax, then negative log likelihood of classes.",
                                        .in_min = 2,
                                        .in_max = 3,
                                        .out_min = 1,
                                        .out_max = 2,
                                        .attrs = loss_table,
                                        .attrs_size = sizeof(struct loss_attrs),
                                        .infer = infer,
                                        .forward = forward_softmax,
                                        GRADIENT(softmax),
                                        .samples = samples};
