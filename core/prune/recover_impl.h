/* SPDX-License-Identifier: Apache-2.0
 * recover_impl.h - private to core/prune/recover*.c: which products can be repaired and against what (recover_places.c), the
 * numbers they read and make on samples (recover_rows.c), the methods (recover_fit.c, recover_bn.c).
 * Target     What a product makes goes through steps that act on each channel alone, BatchNormalization and additions of a
 *            constant, and through the sum of a residual block, if its other side does not depend on the product or on one
 *            behind it. What comes out last is the target: there the original says what each kept channel should be. The
 *            sum is the target of the last product before it, so that it makes good what the other side lacks; a product
 *            whose sum had to wait for the other side (a projection in the shortcut) comes again after that.
 * Slope      The target is slope * product + constant for each channel, plus the other side. So a change of the target by
 *            D x + d is a change of the weight by D / slope, and the constant has a place: BatchNormalization, the product's
 *            bias, or the added constant.
 * Flat       If all that read the target are activations that are constant below or above some number (Relu, Clip, HardSwish,
 *            ...), numbers there need not be met, only the side (recover_fit.c). */
#ifndef PARED_PRUNE_RECOVER_IMPL_H
#define PARED_PRUNE_RECOVER_IMPL_H

#include "core/passes/edit.h"
#include "core/prune/recover.h"
#include "core/stats/gram_rows.h"
#include "core/stats/least_squares.h"

/* ---- places ---- */
struct place {
    uint32_t node, weight; /* of the model that is repaired */
    int slot;              /* of the weight */
    bool rows; /* Conv, Gemm, MatMul: `source` says what it reads, groups, k. Else only channels are matched */
    struct row_source source;
    bool transposed; /* the weight is stored [k, outputs] */
    int64_t outputs;
    int from_right;      /* the channel axis of what it makes: rank - 1 - from_right */
    const int64_t *kept; /* [outputs] channel of the original; NULL: all are left */
    double *slope;       /* [outputs] */
    uint32_t bn;         /* BatchNormalization on the way; NODE_NONE */
    double *bn_slope;    /* [outputs] of the target by what it makes */
    uint32_t bias_node;  /* whose input bias_slot is a constant a channel, or can be one; NODE_NONE: there is none */
    int bias_slot;
    double *bias_slope; /* [outputs] of the target by the bias */
    uint32_t target;    /* value */
    bool residual;      /* the target is a sum of activations */
    int sum_after;      /* position of the product that the sum, at which the way ended, waits for; -1 */
    bool again, second; /* it comes a second time, with the sum as target; this is the second time */
    double low, high;   /* all readers of the target are flat outside; else infinite */
    const char *why;    /* it is left alone: a sentence part; NULL */
};

struct places {
    struct place *at; /* in topological order; some twice */
    int n;
    struct arena *arena;
};

/* All products of the main graph of e->m, with the reason for those that are left alone; e is only read. */
int places_find(struct places *p, struct edit *e, const struct model *original, struct err *err);
void places_free(struct places *p);
/* The weight as [outputs][k], and back (-1: memory). */
double *place_weight(const struct model *m, const struct place *p, struct err *err);
int place_put_weight(struct model *m, const struct place *p, const double *w, struct err *err);
/* Flags [outputs][k] of the weights that are not masked; *mask NULL: all. */
int place_mask(const struct model *m, const struct place *p, bool **mask, struct err *err);
/* A constant a channel, absent (zeros) or one number for all; written as a weight that no other node reads. */
double *place_vector(const struct model *m, uint32_t node, int slot, int64_t outputs, struct err *err);
int place_put_vector(struct edit *e, uint32_t node, int slot, int64_t outputs, const double *v, struct err *err);

/* ---- samples ---- */
/* Samples of one dataset, and the block of rows each one's go to. */
struct sample_set {
    struct dataset *data;
    int64_t *index, *block;
    int64_t n;
};
/* Blocks 0 .. n_fit - 1 are for fitting, the rest are held out for choices. */
struct samples {
    struct sample_set set[2]; /* of opts.data; of opts.val_data */
    int n_sets;
    int64_t n, n_fit;
    bool own; /* those held out are data's own, and may be used in the end */
};
int samples_choose(struct samples *s, const struct recover_opts *o, struct err *err);
void samples_fini(struct samples *s);

/* ---- numbers ---- */
/* Rows of one place on all samples: row r of a block is one position of input and target, the same in both networks. */
struct place_rows {
    const struct place *place;
    int64_t positions, per_block; /* of a sample; of them taken. 0: not seen yet */
    float *want;                  /* [blocks * per_block][outputs] kept channels of the original's target */
    float *x, *have;              /* [..][groups * k], [..][outputs] of the pruned network */
    const char *why;              /* they could not be read; a static string */
};
void place_rows_fini(struct place_rows *r);

enum record_what { RECORD_WANT, RECORD_HAVE };
struct record {
    const struct model *m; /* whose values are recorded: the original, or the network as repaired so far */
    enum record_what what;
    const struct samples *samples;
    struct place_rows *at;
    int n;
    const struct recover_opts *o;
    int64_t done, total; /* places times samples, of progress */
};
int record_rows(const struct record *r, struct err *err);

#endif
