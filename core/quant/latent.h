/* SPDX-License-Identifier: Apache-2.0
 * latent.h - the note "latent" (model.h) on codes of a weight: training with simulated quantization goes on from the
 * float values they were rounded from. Its text is "pairs" where sums of two neighbouring products must stay within
 * int16 (isa_arithmetic.h): a trainer then keeps them so. */
#ifndef PARED_QUANT_LATENT_H
#define PARED_QUANT_LATENT_H

#include "core/model/model.h"

/* `codes` were made from the float32 weight `from`, element by element. A mask on it holds for the codes too. */
void latent_note_set(struct model *m, uint32_t codes, uint32_t from, bool pairs);
/* The same where the codes lie as `view` sees the bytes; nothing if that is in another order than they are stored. */
struct weight_view;
void latent_note_view(struct model *m, uint32_t codes, const struct weight_view *view);

#endif
