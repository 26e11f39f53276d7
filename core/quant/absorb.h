/* SPDX-License-Identifier: Apache-2.0
 * absorb.h - high-bias absorption (Nagel et al., "Data-free quantization through weight equalization and bias
 * correction", 2019): where a channel x of a layer never comes near zero, relu(x) = relu(x - c) + c for all x >= c.
 * Then c leaves that layer's bias, and the next layer's bias takes W c, summed over the taps. The activation between
 * them spans c less, so a scale for the whole tensor gets finer; the model computes the same.
 * Which c    c = max(0, min(smallest x seen, mean - 3 deviations)), per channel, over samples: exact, but to rounding,
 *            for all that was seen. Beyond it, an x below c becomes c.
 * Where      product -> Relu -> (pooling, reshaping, Transpose, Identity) -> only products, each with a constant bias
 *            or room for one. Not into a padded convolution (its zeros are not shifted) or a ConvTranspose (outputs see
 *            different taps). All layers are measured at once: what one absorbs does not change another's x.
 * Memory     four numbers a channel. Threads: one caller; the pool runs the model. Errors: ERR_NOMEM; as of infer_run,
 *            sampling_run. */
#ifndef PARED_QUANT_ABSORB_H
#define PARED_QUANT_ABSORB_H

#include "core/data/dataset.h"
#include "core/step/method.h"

struct absorb_opts {
    struct dataset *data; /* bound by the run; NULL: nothing changes, and the report says where something could */
    struct pool *pool;
    int64_t samples;
    const int64_t *index; /* samples to choose from, n_index of them; NULL: all */
    int64_t n_index;
    const struct globs *include, *exclude; /* of products on both sides, by name; NULL: all */
    int (*ran)(void *arg, int64_t done, int64_t total, struct err *err); /* not 0 stops; may be NULL */
    void *arg;
};

/* Changes m, whose added constants should be folded. layers may be NULL. Returns the number of layers whose bias was
 * absorbed, -1 on error. */
int absorb_model(struct model *m, const struct absorb_opts *o, struct layer_report *layers, struct err *err);

#endif
