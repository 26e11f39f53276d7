/* SPDX-License-Identifier: Apache-2.0
 * adaround.h - quantize.adaround's parameters, for preset=accurate; one layer's weight as rows, and the two ways to choose its codes.
 * Both start from the codes quantize.static would choose and write others where a row's output error is lower. */
#ifndef PARED_QUANT_ADAROUND_H
#define PARED_QUANT_ADAROUND_H

#include "core/stats/gram.h"
#include "core/step/method.h"

struct quantize_adaround_params {
    int64_t samples, iterations, rows;
    int weights, algorithm, isa; /* weights: index into adaround_weights */
    bool per_channel;
    struct globs include, exclude;
};
extern const char *const adaround_weights[]; /* names of the types of codes, NULL-terminated */
extern METHOD(quantize_adaround);

struct rounded_layer {
    int64_t rows, k;  /* output channels; elements of each */
    const float *w;   /* [rows][k] */
    float *scale;     /* [rows] in: of quantize.static; out: as used */
    int32_t *code;    /* [rows][k] likewise */
    int32_t most;     /* codes -most..most */
    bool refit;       /* each row has a scale of its own, which may change */
    int64_t *partner; /* [k] as struct round_chunk; NULL: no limits of pairs */
    int32_t pair_most;
    const struct gram_matrix *gram;
    const float *bias; /* [rows] or NULL */
    float lo, hi;      /* of the Relu or Clip that alone reads the output; -+infinity */
    struct pool *pool;
    uint64_t seed;
    int64_t iterations;     /* adam */
    double *before, *after; /* [rows] output errors: of the nearest codes, of the chosen ones */
    int64_t changed;        /* rows */
};

/* From the Gram matrix: errors of codes already chosen go into those still to come, then single codes and scales
 * change as
 * long as the error falls (rounding.h). ERR_NOMEM, or as of hessian_factor. */
int round_by_gram(struct rounded_layer *l, struct err *err);
/* round_by_gram, then AdaRound (Nagel 2020) on the rows kept: each code stays or moves to its neighbour on the
 * weight's side,
 * by Adam on a soft choice between them that a growing penalty makes hard; the following Relu or Clip counts. */
int round_by_adam(struct rounded_layer *l, int (*progress)(void *arg, int64_t done, int64_t total, struct err *err),
                  void *arg, struct err *err);

#endif
