/* SPDX-License-Identifier: Apache-2.0
 * cluster_method.h - private to encode.cluster: cluster_method.c (parameters, weights, report), cluster_gather.c (the
 * ONNX form with indices). */
#ifndef PARED_ENCODE_CLUSTER_METHOD_H
#define PARED_ENCODE_CLUSTER_METHOD_H

#include "core/passes/weights.h"
#include "core/step/method.h"

struct cluster_params {
    int64_t bits, k, groups, iterations;
    bool has_k, zeros;
    double rate;
    int init, form;
    struct globs include, exclude;
};

struct cluster_item {
    const struct cluster_params *o;
    struct weight_ref ref;
    struct tensor before;
    const struct tensor *tensor; /* before */
    uint64_t seed;
    int64_t k, groups;
    int64_t used, row_used; /* most values of a group without zero; of the last one */
    bool has_zero;
    double error, signal;
    int64_t nonzero;
    struct tensor made, codebook;
    unsigned char cell[16]; /* one element of any type */
};

/* Why the weight cannot be, or would not be smaller as, Gather of its codebook by 8-bit indices; NULL: it can. *bytes:
 * of indices and codebook then, unchanged otherwise. */
const char *cluster_gather_refusal(const struct model *m, const struct cluster_item *it, int64_t *bytes);
int cluster_gather(struct model *m, const struct cluster_item *it, struct err *err);

#endif
