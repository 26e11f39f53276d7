/* SPDX-License-Identifier: Apache-2.0
 * attention_grad.h - the gradient of attention.h's core.
 * With       P the weights, S the scores before the cap, dY the gradient of Y:
 *                dV = P^T dY,  dP = dY V^T,  dB = P (dP - sum of P dP over the row)  (also the biases' gradient),
 *                dS = dB (1 - tanh^2(S / cap)),  dQ = scale dS K,  dK = scale dS^T Q
 *            A key that several query heads read takes the sum of theirs.
 * Two steps  attention_grad_scores makes dB; attention_grad_inputs turns it into dS and adds into dQ, dK and dV.
 *            Between them the caller may take the biases' gradient.
 * Threads    a head of keys is a task; results do not depend on the thread count. */
#ifndef PARED_KERNELS_ATTENTION_GRAD_H
#define PARED_KERNELS_ATTENTION_GRAD_H

#include "core/kernels/attention.h"

struct attention_grad {
    const struct attention *a;          /* q, k, v, sizes, scale, softcap as forward had them */
    const void *weights, *product;      /* P and S as attention.h's probes give them; product only with a softcap */
    struct attention_view dy;           /* [b, heads, rows, v_width] */
    void *scores;                       /* [batch, heads, rows, cols] */
    struct attention_view dq, dk, dv;   /* as q, k, v; data NULL: not wanted. Written by adding */
};
void attention_grad_scores_f32(struct pool *pool, const struct attention_grad *g);
void attention_grad_scores_f64(struct pool *pool, const struct attention_grad *g);
void attention_grad_inputs_f32(struct pool *pool, const struct attention_grad *g);
void attention_grad_inputs_f64(struct pool *pool, const struct attention_grad *g);

#endif
