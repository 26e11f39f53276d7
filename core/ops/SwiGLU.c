/* SPDX-License-Identifier: Apache-2.0
 * SwiGLU: y = a sigmoid(alpha a) b, element by element, a and b of the same shape. */
#include <tgmath.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

struct swiglu_attrs {
    float alpha;
};
static const struct op_attr swiglu_attrs[] = {{OP_ATTR(swiglu_attrs, alpha), .kind = OP_FLOAT, .def_f = 1}, {0}};

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    char ta[SHAPE_TEXT], tb[SHAPE_TEXT];
    if (op_need(c, 2, err) < 0 || op_dtype_real(c, 0, err) < 0 || op_same_dtype(c, 0, 2, &dtype, err) < 0)
        return -1;
    const struct shape *a = infer_shape(c, 0), *b = infer_shape(c, 1);
    bool fits = a->rank < 0 || b->rank < 0 || a->rank == b->rank;
    for (int d = 0; fits && d < a->rank && b->rank >= 0; d++)
        fits = a->dim[d] < 0 || b->dim[d] < 0 || a->dim[d] == b->dim[d];
    if (!fits)
        return err_set(err, ERR_SHAPE, "A has shape %s and B %s; they must be equal", shape_text(a, ta),
                       shape_text(b, tb));
    infer_out(c, 0, dtype, a->rank >= 0 ? a : b);
    return 0;
}

struct gate {
    const void *a, *b;
    void *y;
    float alpha;
};

static void gate_f32(void *arg, int64_t begin, int64_t end)
{
    const struct gate *g = arg;
    const float *a = g->a, *b = g->b;
    for (int64_t i = begin; i < end; i++)
        ((float *)g->y)[i] = a[i] / (1 + expf(-g->alpha * a[i])) * b[i];
}

static void gate_f64(void *arg, int64_t begin, int64_t end)
{
    const struct gate *g = arg;
    const double *a = g->a, *b = g->b;
    for (int64_t i = begin; i < end; i++)
        ((double *)g->y)[i] = a[i] / (1 + exp(-(double)g->alpha * a[i])) * b[i];
}

static int compute(struct run_ctx *c, struct err *err)
{
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s cannot be computed with", dtype_name(y->dtype));
    struct gate g = {c->in[0]->data, c->in[1]->data, y->data, ((const struct swiglu_attrs *)c->attrs)->alpha};
    op_parallel(c->pool, tensor_count(y), 1 << 13, y->dtype == DTYPE_FLOAT ? gate_f32 : gate_f64, &g);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* s = sigmoid(alpha a): da = g b s (1 + alpha a (1 - s)), db = g a s; p is alpha. */
#define SIGMOID(x) (1 / (1 + exp(-(x))))
GRAD_TERM(gate_a, float, g *b *SIGMOID((real)*p * a) * (1 + (real)*p * a * (1 - SIGMOID((real)*p * a))))
GRAD_TERM(gate_b, float, g *a *SIGMOID((real)*p * a))

static int backward(struct grad_ctx *c, struct err *err)
{
    static const struct grad_term *const terms[] = {&grad_gate_a, &grad_gate_b};
    const struct tensor *g = grad_of(c, 0);
    for (int i = 0; i < 2 && g; i++) {
        const struct grad_broadcast sum = {.over = &g->shape, .src = {g, c->in[0], c->in[1]}, .dst = c->grad_in[i],
                                           .term = terms[i], .assign = grad_assign(c, i),
                                           .arg = &((const struct swiglu_attrs *)c->attrs)->alpha};
        if (c->grad_in[i] && grad_sum_broadcast(c->pool, &sum, err) < 0)
            return -1;
    }
    return 0;
}

OP_CLASS(swiglu) = {.type = "SwiGLU",
                    .domain = "",
                    .since = 28,
                    .doc = "a sigmoid(alpha a) b.",
                    .in_min = 2,
                    .in_max = 2,
                    .out_min = 1,
                    .out_max = 1,
                    .attrs = swiglu_attrs,
                    .attrs_size = sizeof(struct swiglu_attrs),
                    .infer = infer,
                    .forward = forward,
                    .couple = couple_elementwise,
                    .backward = backward,
                    .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1),
                    .grad_inputs = 3,
                    .grad_assigns = true,
                    .samples = (const struct op_sample[]){
                        {"f32[2,3] f32[2,3]", ""}, {"f64[3] f64[3]", "alpha=0.5f"}, {"f16[4] f16[4]", ""}, {0}}};
