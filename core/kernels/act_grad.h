/* SPDX-License-Identifier: Apache-2.0
 * act_grad.h - derivatives of activations: dx[i] = dy[i] f'(x[i]), from x or from y = f(x), whichever says it. Relu
 * at 0 has derivative 0, as PyTorch takes it; other kinks take the side of their larger x. */
#ifndef PARED_KERNELS_ACT_GRAD_H
#define PARED_KERNELS_ACT_GRAD_H

#include <stdbool.h>
#include <stdint.h>

struct act_grad_attrs {
    double a, b, g; /* alpha, beta, gamma of the standard */
};
/* dx[i] = or += dy[i] f'. The one of x and y that is not read may be NULL. dx may be dy when add is false. */
typedef void act_grad_fn(const struct act_grad_attrs *at, const void *x, const void *y, const void *dy, void *dx,
                         int64_t n, bool add);
struct act_grad {
    act_grad_fn *f32, *f64;
    bool from_y; /* reads y; otherwise x */
};

extern const struct act_grad act_grad_relu, act_grad_leaky_relu, act_grad_thresholded_relu, act_grad_shrink,
    act_grad_elu, act_grad_celu, act_grad_selu, act_grad_sigmoid, act_grad_swish, act_grad_tanh, act_grad_erf,
    act_grad_softplus, act_grad_softsign, act_grad_mish, act_grad_gelu_erf, act_grad_gelu_tanh, act_grad_hard_sigmoid,
    act_grad_hard_swish;

#endif
