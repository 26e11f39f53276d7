/* SPDX-License-Identifier: Apache-2.0
 * channel_scale.h - where a factor per channel can move through a model without changing what it computes.
 *
 *   f(x / s) = f(x) / s for s > 0    (Relu, LeakyRelu, PRelu, pooling, sums, ...)
 *
 * so W1 / s before such an f and s W2 behind it cancel. Cross-layer equalization chooses s from the ranges of the
 * weights, SmoothQuant from those of activations and weights.
 * How        Every channel of every value that may carry a factor is an element. Operators that pass factors on unite
 *            the elements of their inputs and outputs (union-find), so channels travel through sums, concatenations,
 *            splits, transposes and flattening. An element read by anything that is not proven to pass the factor on,
 *            or that is an output of the model, is blocked, and with it all that is united with it.
 * Ends       Constants that take the factors: a product's rows or columns, its bias, scale and shift of a
 *            normalisation, the vector of a Mul or Add. Only float32 constants in the main graph; weights of products
 *            only if nobody else reads them.
 * Regions    Products tied together by shared elements: what has to be chosen at once, and what reports speak of.
 * Life cycle channel_scale_init -> (choose factors) -> channel_scale_apply -> channel_scale_fini. The model must not be
 *            changed in between. Threads: one. */
#ifndef PARED_QUANT_CHANNEL_SCALE_H
#define PARED_QUANT_CHANNEL_SCALE_H

#include "core/passes/edit.h"
#include "core/passes/infer.h"
#include "core/step/method.h"

enum scale_role {
    SCALE_MAKES, /* its channels are made by this constant: divide by s */
    SCALE_ADDS,  /* added to the channels: divide by s */
    SCALE_READS, /* meets the channels: multiply by s */
};

/* The channels of a constant's elements: it is seen as [d0][d1][inner], channel = axis 0: row; axis 1: column + (row
 * / group_rows) d1, for groups of a convolution. */
struct scale_lanes {
    int64_t d0, d1, inner, group_rows;
    int axis;
};

struct scale_end {
    enum scale_role role;
    uint32_t node; /* that reads the constant ... */
    int slot;      /* ... here */
    bool product;  /* a product's weight: its range counts */
    uint32_t value; /* activation whose channels these are */
    int64_t base;  /* element of its channel 0 */
    struct scale_lanes lanes;
    int64_t expand; /* > 0: a single number, to become this many */
    int region;     /* index, -1: none */
    int weight;     /* product: index into weights, else -1 */
};

/* The largest |w| over the kernel positions of a product's weight, [d0][d1], with its two ends (-1: that side is
 * fixed). */
struct scale_weight {
    uint32_t node;
    int64_t d0, d1;
    float *largest;
    int makes, reads;
};

/* A Clip from 0 to a cap, which passes factors on if its cap becomes one per channel, or if it is a Relu for all that
 * is seen. */
struct scale_clip {
    uint32_t node;
    int64_t base, channels; /* of its output */
    int axis, rank;
    float cap;
};

enum scale_clip_mode { SCALE_CLIP_KEEP, SCALE_CLIP_RELU, SCALE_CLIP_CAPS };

struct scale_opts {
    enum scale_clip_mode clip;
    const bool *cap_met; /* SCALE_CLIP_RELU: by node id: the cap of this Clip was reached; NULL: all are */
    const struct globs *include, *exclude; /* of products, by name; NULL: all */
};

struct channel_scale {
    struct model *m;
    struct edit edit;
    struct infer infer;
    struct scale_opts opts;
    uint32_t n_values, n_nodes;
    int64_t *base;     /* by value: its element of channel 0; -1: no factors */
    int *axis;         /* by value */
    int64_t *channels; /* by value */
    int64_t n, cap;    /* elements */
    int64_t *parent, *tie; /* by element: union-find of elements; of regions (all channels of a value) */
    const char **blocked;  /* by root element: why */
    struct scale_end *ends;
    int n_ends, cap_ends;
    struct scale_weight *weights;
    int n_weights, cap_weights;
    struct scale_clip *clips;
    int n_clips, cap_clips;
    const char **why; /* by node: why a product's output takes no factors; NULL: it does, or it is no product */
    int n_regions;
    bool failed; /* memory */
};

/* Finds elements, ends and regions. ERR_NOMEM; as of edit_init and infer_run. */
int channel_scale_init(struct channel_scale *s, struct model *m, const struct scale_opts *opts, struct err *err);
void channel_scale_fini(struct channel_scale *s);
int64_t channel_scale_root(const struct channel_scale *s, int64_t element);
/* False for elements that are blocked. */
bool channel_scale_free(const struct channel_scale *s, int64_t element);
/* Element of entry (row, column) of an end's constant. */
static inline int64_t scale_element(const struct scale_end *e, int64_t row, int64_t column)
{
    return e->base + (e->lanes.axis == 0 ? row : column + row / e->lanes.group_rows * e->lanes.d1);
}
/* Largest |weight| over a region's products on each side, by root element, with factors [n] applied; zero where there
 * is none. makes and reads are [n] and zero before. */
void channel_scale_ranges(const struct channel_scale *s, int region, const double *factor, double *makes,
                          double *reads);
/* Multiply the constants: factor [n] by root element, > 0. */
int channel_scale_apply(struct channel_scale *s, const double *factor, struct err *err);

/* ---- for channel_rules.c ---- */
int64_t scale_elements_new(struct channel_scale *s, uint32_t value, int axis, int64_t channels); /* base; -1 */
void scale_unite(struct channel_scale *s, int64_t a, int64_t b);
void scale_block(struct channel_scale *s, uint32_t value, const char *why);
struct scale_end *scale_end_add(struct channel_scale *s, enum scale_role role, uint32_t node, int slot, uint32_t value);
/* Walks the main graph and fills everything but regions. */
int scale_walk(struct channel_scale *s, struct err *err);

/* Product of the dims behind an axis; -1: not known. */
int64_t channel_elements_behind(const struct shape *shape, int axis);

#endif
