/* SPDX-License-Identifier: Apache-2.0
 * grid.h - the note that a weight's elements already lie on a quantization grid: float32 values scale[c] * code. Left by methods that
 * choose codes better than by rounding (adaround, and training with simulated quantization), taken by quantize.static: it then
 * uses these scales, so that the codes come out as chosen. A step that changes the weight's bytes drops the note by replacing it. */
#ifndef PARED_QUANT_GRID_H
#define PARED_QUANT_GRID_H

#include "core/model/model.h"

/* scale: float32 [channels] along `axis`, or a scalar (axis -1). dtype: of the codes. References are taken. */
void grid_note_set(struct model *m, uint32_t weight, enum dtype dtype, int axis, const struct tensor *scale);
/* False: no such note, or the weight no longer has the size the note was made for. *scale is borrowed. */
bool grid_note_get(const struct model *m, uint32_t weight, enum dtype *dtype, int *axis, const struct tensor **scale);

#endif
