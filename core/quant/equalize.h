/* SPDX-License-Identifier: Apache-2.0
 * equalize.h - cross-layer equalization (Nagel et al., "Data-free quantization through weight equalization and bias
 * correction", 2019): where one layer's output channel c goes through a positively homogeneous activation into the
 * next layer, weights W1[c] / s and W2[., c] s compute the same; s = sqrt(r1 r2) / r2, with r the largest |weight| of
 * the channel on each side, gives both the same range. What the model computes does not change, but to rounding. Also
 * for quantize.static preset=accurate. Threads: one. Errors: ERR_NOMEM; as of infer_run. */
#ifndef PARED_QUANT_EQUALIZE_H
#define PARED_QUANT_EQUALIZE_H

#include "core/quant/channel_scale.h"

struct equalize_opts {
    struct scale_opts scale;
    int64_t sweeps; /* at most */
};

/* Changes m, whose BatchNormalization should be folded. layers and warnings may be NULL. Returns the number of layers
 * that were changed, -1 on error. */
int equalize_model(struct model *m, const struct equalize_opts *o, struct layer_report *layers,
                   struct warnings *warnings,
                   struct err *err);

/* How far apart a layer's channels are: largest over the geometric mean of the largest |weight| of each; 1: all
 * alike. */
double equalize_spread(const double *range, int64_t n);

#endif
