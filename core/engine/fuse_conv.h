/* SPDX-License-Identifier: Apache-2.0
 * fuse_conv.h - the inside of the layout pass, shared by fuse_conv.c (convolutions, borders) and fuse_layout.c (what
 * works on blocked images as on plain ones). Not for others.
 * A twin     of a value [N, C, H, W] (or [N, C, W]) is the same image blocked, [N, Cb, H, W, 8]. A rewritten node makes
 *            the twin only; who still reads the plain value at the end gets it by one FromBlocked. */
#ifndef PARED_ENGINE_FUSE_CONV_H
#define PARED_ENGINE_FUSE_CONV_H

#include "core/engine/fuse_util.h"

struct fuse {
    struct optimize *o;
    struct model *m;
    uint32_t *twin;    /* [n_values] of the values there were when the pass began; VALUE_NONE */
    uint32_t n_values;
    const uint32_t *order; /* the main graph's nodes when the pass began, in topological order */
    int n_nodes;
};

/* An image of known float32 type with a known number of channels, of rank 4 or 3. */
bool fuse_is_image(const struct fuse *f, uint32_t value);
uint32_t fuse_twin(const struct fuse *f, uint32_t value); /* VALUE_NONE: none yet */
/* The twin, made by a ToBlocked if it must be. VALUE_NONE: out of memory. */
uint32_t fuse_need_twin(struct fuse *f, uint32_t value, struct err *err);
/* A new twin for a value, of its blocked type, for a new node's output. VALUE_NONE: out of memory. */
uint32_t fuse_new_twin(struct fuse *f, uint32_t value, struct err *err);
/* A node of the engine's domain that makes `out`; NODE_NONE: out of memory. */
uint32_t fuse_add(struct fuse *f, const char *op_type, const uint32_t *in, int n_in, uint32_t out, struct err *err);
/* The node goes; its outputs have no maker any more. Takes no time that grows with the graph. */
void fuse_drop(struct fuse *f, uint32_t node);
/* [count] floats as an initializer of whole blocks, the lanes beyond them `rest`: [blocks * 8] of rank 1, or
 * [1, blocks, 1, 1, 8] of rank 5. */
uint32_t fuse_channels(struct fuse *f, const char *name, const float *v, int64_t count, float rest, int rank,
                       struct err *err);

/* Try to move one node to blocked images. 1: done, the node is gone; 0: leave it; -1: error. */
int fuse_layout_node(struct fuse *f, uint32_t node, struct err *err);

#endif
