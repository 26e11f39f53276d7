/* SPDX-License-Identifier: Apache-2.0
 * train_parameters.h - which initializers of a model are trained, and how each is treated.
 * Trained    float32 and float64 constants of the main graph that an operator reads where its row passes a gradient:
 *            weights (also behind Transpose or Identity) and biases of products, scales of normalizations, embeddings,
 *            and constants of more than one element. Single numbers elsewhere (1/sqrt(d), an epsilon) and tables of
 *            huge or infinite numbers (masks of attention) are no parameters.
 * Selected   by the name of the node whose constant it is: the product, else the first that reads it.
 * Not here   whether a gradient reaches it: the trainer sees that (a parameter whose gradient was zero so far is left
 *            alone).
 * Memory     the lists are malloc'ed; reasons are static strings. Threads: one. */
#ifndef PARED_TRAIN_TRAIN_PARAMETERS_H
#define PARED_TRAIN_TRAIN_PARAMETERS_H

#include "core/step/method.h"

struct train_parameter {
    uint32_t value, node; /* the initializer; the node it is listed under */
    bool learned;         /* false: a running mean or variance, which follows the batches */
    bool weight;          /* of a product */
    bool bn_scale;        /* scale of a BatchNormalization */
    int axis;             /* output channels of a weight */
};
struct train_skipped {
    uint32_t value, node;
    const char *why;
};
struct train_parameters {
    struct train_parameter *at; /* learned ones in the order of the graph, then running statistics */
    int n, n_learned;
    struct train_skipped *skipped;
    int n_skipped;
};

struct train_hooks;

struct train_parameters_opts {
    const struct globs *include, *exclude; /* may be NULL */
    bool running;                          /* statistics of BatchNormalization are wanted too */
    struct train_hooks *hooks;             /* may be NULL; asked for every float initializer */
};

/* Constants in Constant nodes that would be parameters become initializers (new values, notes come along). */
int train_parameters_prepare(struct model *m, struct err *err);
int train_parameters_find(struct train_parameters *out, const struct model *m, const struct train_parameters_opts *opts,
                          struct err *err);
void train_parameters_fini(struct train_parameters *p);

#endif
