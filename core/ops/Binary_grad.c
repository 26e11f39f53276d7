/* SPDX-License-Identifier: Apache-2.0
 * Gradients of arithmetic of two broadcast operands; g is dL/dy.
 *   Add  g, g                Sub  g, -g              Mul  g b, g a          Div  g / b, -g a / b^2
 *   Pow  g b a^(b-1), g a^b log a                    Mod (fmod)  g, -g trunc(a / b)
 * Pow: a base of 0 with an exponent that is not negative gives the exponent no gradient; an exponent of 0 gives the
 * base none. Axes along which an operand was stretched are summed over. */
#include "core/ops/Binary_grad.h"

#include <tgmath.h>

#include "core/ops/grad_util.h"

GRAD_TERM(minus, void, -g)
GRAD_TERM(mul_a, void, g *b)
GRAD_TERM(mul_b, void, g *a)
GRAD_TERM(div_a, void, g / b)
GRAD_TERM(div_b, void, -g *a / (b * b))
GRAD_TERM(pow_a, void, b == 0 ? 0 : b == 2 ? g * 2 * a : g * b * pow(a, b - 1))
GRAD_TERM(pow_b, void, a == 0 && b >= 0 ? 0 : g * pow(a, b) * log(a))
GRAD_TERM(mod_b, void, -g *trunc(a / b))

/* a, b: the operands' values, NULL where the terms need only g. da, db NULL: g itself. */
static int both(struct grad_ctx *c, const struct grad_term *da, const struct grad_term *db, const struct tensor *a,
                const struct tensor *b, struct err *err)
{
    const struct grad_term *const terms[] = {da, db};
    const struct tensor *g = grad_of(c, 0);
    struct shape shape_b;

    if (binary_aligned_shape(c->attrs, c->opset, &c->in[0]->shape, &c->in[1]->shape, &shape_b, err) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        if (!grad_wanted(c, i))
            continue;
        if (!g) {
            grad_zero(c, i);
            continue;
        }
        const struct grad_broadcast sum = {.over = &g->shape, .src = {g, a, b}, .src_shape = {NULL, NULL, &shape_b},
                                           .dst = c->grad_in[i], .dst_shape = i ? &shape_b : NULL, .term = terms[i],
                                           .assign = grad_assign(c, i)};
        if (grad_sum_broadcast(c->pool, &sum, err) < 0)
            return -1;
    }
    return 0;
}

int backward_add(struct grad_ctx *c, struct err *err)
{
    return both(c, NULL, NULL, NULL, NULL, err);
}

int backward_sub(struct grad_ctx *c, struct err *err)
{
    return both(c, NULL, &grad_minus, NULL, NULL, err);
}

int backward_mul(struct grad_ctx *c, struct err *err)
{
    return both(c, &grad_mul_a, &grad_mul_b, c->in[0], c->in[1], err);
}

int backward_div(struct grad_ctx *c, struct err *err)
{
    return both(c, &grad_div_a, &grad_div_b, c->in[0], c->in[1], err);
}

int backward_mod(struct grad_ctx *c, struct err *err)
{
    return both(c, NULL, &grad_mod_b, c->in[0], c->in[1], err);
}

/* An exponent of another type is brought to the base's. */
int backward_pow(struct grad_ctx *c, struct err *err)
{
    const struct tensor *a = c->in[0], *b = c->in[1];
    struct tensor same;
    size_t bytes;

    if (a->dtype != b->dtype) {
        if (grad_wanted(c, 1) || !dtype_bytes(a->dtype, tensor_count(b), &bytes))
            return err_set(err, ERR_OPERATOR, "the exponent is %s but the base %s; it can have no gradient",
                           dtype_name(b->dtype), dtype_name(a->dtype));
        void *data = grad_scratch(c, bytes + 1, err);
        if (!data)
            return -1;
        dtype_convert(a->dtype, data, b->dtype, b->data, tensor_count(b));
        tensor_view(&same, a->dtype, &b->shape, data, NULL);
        b = &same;
    }
    return both(c, &grad_pow_a, &grad_pow_b, a, b, err);
}
