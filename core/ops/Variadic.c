/* SPDX-License-Identifier: Apache-2.0
 * Sum, Mean, Max, Min of any number of inputs, with numpy broadcasting (before opset 8: equal shapes, which broadcast
 * too). y = ((x0 op x1) op x2) ...; Mean divides by their number. The output is the accumulator. */
#include "core/ops/couple_rules.h"
#include "core/ops/elementwise.h"
#include "core/ops/grad_util.h"

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct shape out;
    if (op_need(c, c->n_in < 1 ? 1 : c->n_in, err) < 0 || op_same_dtype(c, 0, c->n_in, &dtype, err) < 0)
        return -1;
    out = *infer_shape(c, 0);
    for (int i = 0; i < c->n_in; i++) {
        struct shape next;
        if (op_dtype_kinds(c, i, "fiu", err) < 0 || binary_shape(&out, infer_shape(c, i), &next, err) < 0)
            return -1;
        out = next;
    }
    infer_out(c, 0, dtype, &out);
    return 0;
}

static int accumulate(struct run_ctx *c, const struct binary *op, int i, struct err *err)
{
    const struct tensor *a = i == 1 ? c->in[0] : c->out[0], *b = c->in[i];
    struct tensor *d = c->out[0];
    struct binary_call call = {
        op,       op_carrier(d->dtype), a->dtype, b->dtype, d->dtype, a->data, b->data, d->data, &a->shape, &b->shape,
        &d->shape};
    return binary_apply(c->pool, &call, err);
}

static int forward(struct run_ctx *c, const struct binary *op, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    struct tensor *d = run_out(c, 0);
    if (!d)
        return 0;
    size_t elem = op_elem(d->dtype, err);
    if (!elem)
        return -1;
    if (c->n_in == 1 && d->data != c->in[0]->data)
        op_copy_strided(c->pool, elem, d->data, c->in[0]->data, 1, (int64_t[]){tensor_count(d)}, (int64_t[]){1});
    for (int i = 1; i < c->n_in; i++)
        if (accumulate(c, op, i, err) < 0)
            return -1;
    return 0;
}

static int forward_sum(struct run_ctx *c, struct err *err)
{
    return forward(c, &binary_add, err);
}
static int forward_max(struct run_ctx *c, struct err *err)
{
    return forward(c, &binary_max, err);
}
static int forward_min(struct run_ctx *c, struct err *err)
{
    return forward(c, &binary_min, err);
}

static int forward_mean(struct run_ctx *c, struct err *err)
{
    if (forward(c, &binary_add, err) < 0)
        return -1;
    struct tensor *d = run_out(c, 0);
    int64_t n = d ? tensor_count(d) : 0;
    for (int64_t i = 0; i < n; i++)
        dtype_set(d->dtype, d->data, i, dtype_get(d->dtype, d->data, i) / c->n_in);
    return 0;
}

/* ---- gradients ---- */
GRAD_TERM(share, double, g *(real)*p)
GRAD_TERM(equal, void, g == a ? 1 : 0)
GRAD_TERM(divide, void, a > 0 ? g / a : 0)
GRAD_TERM(winner, void, a == b ? g : 0)

static int sum_into(struct grad_ctx *c, int i, const struct tensor *g, const struct tensor *y,
                    const struct grad_term *term, const void *arg, struct err *err)
{
    const struct grad_broadcast sum = {.over = &g->shape,
                                       .src = {g, y, y ? c->in[i] : NULL},
                                       .dst = c->grad_in[i],
                                       .term = term,
                                       .arg = arg,
                                       .assign = grad_assign(c, i)};
    return grad_sum_broadcast(c->pool, &sum, err);
}

static int every_input(struct grad_ctx *c, const struct tensor *g, const struct tensor *y, const struct grad_term *term,
                       const void *arg, struct err *err)
{
    for (int i = 0; i < c->n_in; i++) {
        if (!g)
            grad_zero(c, i);
        else if (grad_wanted(c, i) && sum_into(c, i, g, y, term, arg, err) < 0)
            return -1;
    }
    return 0;
}

static int backward_sum(struct grad_ctx *c, struct err *err)
{
    return every_input(c, grad_of(c, 0), NULL, NULL, NULL, err);
}

static int backward_mean(struct grad_ctx *c, struct err *err)
{
    const double share = 1.0 / c->n_in;
    return every_input(c, grad_of(c, 0), NULL, &grad_share, &share, err);
}

/* Inputs that reach the extreme together share the gradient. */
static int backward_extreme(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0), *y = c->out[0];
    struct tensor ties, shared;

    if (!g)
        return every_input(c, NULL, NULL, NULL, NULL, err);
    if (grad_type(g, err) < 0)
        return -1;
    void *tie_data = grad_scratch(c, g->bytes + 1, err), *data = tie_data ? grad_scratch(c, g->bytes + 1, err) : NULL;
    if (!data)
        return -1;
    tensor_view(&ties, g->dtype, &g->shape, tie_data, NULL);
    tensor_view(&shared, g->dtype, &g->shape, data, NULL);
    for (int i = 0; i < c->n_in; i++) {
        const struct grad_broadcast count = {
            .over = &g->shape, .src = {y, c->in[i]}, .dst = &ties, .term = &grad_equal, .assign = i == 0};
        if (grad_sum_broadcast(c->pool, &count, err) < 0)
            return -1;
    }
    const struct grad_broadcast divide = {
        .over = &g->shape, .src = {g, &ties}, .dst = &shared, .term = &grad_divide, .assign = true};
    if (grad_sum_broadcast(c->pool, &divide, err) < 0)
        return -1;
    return every_input(c, &shared, y, &grad_winner, NULL, err);
}

#define VARIADIC(type_, fn, doc_, grad_fn, reads)                                                                      \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = 1, .doc = doc_, .in_min = 1, .in_max = -1, .out_min = 1, .out_max = 1,   \
        .infer = infer, .forward = forward_##fn, .in_place = 1, .samples = samples, .backward = backward_##grad_fn,    \
        .couple = couple_elementwise, .grad_reads = reads, .grad_inputs = UINT32_MAX, .grad_assigns = true, .quant = { \
            QUANT_OPTIONAL                                                                                             \
        }                                                                                                              \
    }
static const struct op_sample samples[] = {{"f32[2,3]", ""},
                                           {"f32[2,3] f32[2,3]", ""},
                                           {"f32[2,3] f32[3] f32[1,1]", ""},
                                           {"f64[4] f64[4] f64[4]", ""},
                                           {"f16[4] f16[4]", ""},
                                           {0}};

#define READS_ALL (GRAD_READS_OUT(0) | 0xffff)

OP_CLASS(sum) = VARIADIC("Sum", sum, "Sum of the inputs.", sum, 0);
OP_CLASS(mean) = VARIADIC("Mean", mean, "Arithmetic mean of the inputs.", mean, 0);
OP_CLASS(max) = VARIADIC("Max", max, "Largest of the inputs; NaN wins.", extreme, READS_ALL);
OP_CLASS(min) = VARIADIC("Min", min, "Smallest of the inputs; NaN wins.", extreme, READS_ALL);
