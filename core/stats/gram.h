/* SPDX-License-Identifier: Apache-2.0
 * gram.h - second moments of what products read: H = mean over rows of x x^T, and the mean of x, over samples.
 * Why        A product's output error for a change E of its weight is tr(E H E^T): GPTQ, AdaRound, OBS, SparseGPT and
 *            least squares all start from it, and it needs no more memory for a thousand samples than for one.
 * Rows x     MatMul, Gemm: the vectors along the axis that is summed over. Conv: the patch under the kernel at each
 *            output position, one row for each group of channels, elements ordered as the weight's [Cin/group, k...].
 *            Then y = W x with W [outputs, K], K = product of the weight's other axes.
 * Results    do not depend on threads nor on the batch size: rows are taken in the order of the samples and summed in
 *            tiles of fixed size, in float within a tile, in double across tiles.
 * Memory     K^2 + 2 K doubles a group and a tile of rows; products that read the same rows share. gram_each cuts the
 *            products into passes over the samples so that `memory_bytes` hold those of one pass.
 * Threads    one caller; the pool is used inside. */
#ifndef PARED_STATS_GRAM_H
#define PARED_STATS_GRAM_H

#include "core/stats/sampling.h"

struct gram; /* opaque */

/* Borrowed from the struct gram. */
struct gram_matrix {
    int64_t groups, k, rows; /* rows: summed, of each group */
    const double *h;         /* [groups][k][k] symmetric, both halves */
    const double *mean;      /* [groups][k] of x */
    const double *mean_abs;  /* [groups][k] of |x| */
    const float *kept;       /* [n_kept][groups][k] some of the rows, in no order; NULL: none were asked for */
    int64_t n_kept;
};

struct gram_opts {
    struct pool *pool;
    int64_t rows_per_sample; /* at most; evenly spread over the sample's rows. 0: all */
    int64_t keep;            /* most rows kept, drawn evenly from all (reservoir); they count as memory */
    uint64_t seed;           /* of the draw */
};

/* Why there is no Gram matrix of this node (not a product, weight unknown, ...); NULL: there is. A static string. */
const char *gram_refusal(const struct model *m, uint32_t node);
/* Bytes its matrix takes, without rows kept; SIZE_MAX: refused, or beyond counting. */
size_t gram_bytes(const struct model *m, uint32_t node);

/* ---- one pass ---- */
/* Ids are of m, which is only read here and in gram_observe. NULL: memory is out, or a node is refused (err). */
struct gram *gram_new(const struct model *m, const uint32_t *nodes, int64_t n, const struct gram_opts *opts,
                      struct err *err);
void gram_free(struct gram *g);
/* The three hooks of struct sampling; arg is the struct gram. */
int gram_start(void *arg, int64_t fixed, int64_t total, struct err *err);
int gram_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err);
int gram_ran(void *arg, int64_t done, int64_t total, struct err *err);
/* After the last batch: sums become means. */
void gram_finish(struct gram *g);
/* False, and *why (may be NULL) says it: its input was never seen, was not finite, is not float32 or has no rows. */
bool gram_of(const struct gram *g, uint32_t node, struct gram_matrix *out, const char **why);

/* ---- all passes ---- */
struct gram_job {
    const struct model *m; /* must not change until gram_each returns: keep results, or change a clone (same ids) */
    struct dataset *data;
    struct pool *pool;
    int64_t samples;
    const uint32_t *nodes; /* gram_refusal is NULL for each */
    int64_t n_nodes;
    int64_t rows_per_sample, keep; /* as gram_opts */
    uint64_t seed;
    size_t memory_bytes;     /* of all matrices of a pass; 0: 256 MiB. A product beyond it gets a pass of its own */
    /* Called for every node once, in the order of `nodes`. matrix NULL: there is none, and `why` says why. */
    int (*each)(void *arg, uint32_t node, const struct gram_matrix *matrix, const char *why, struct err *err);
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* batches; may be NULL */
    void *arg;                                                                /* of both */
};
int gram_each(const struct gram_job *job, struct err *err);

/* ---- what it is for ---- */
/* Mean over the rows of ||(A - B) x||^2, summed over the outputs: A, B [outputs, k], groups one after another. NAN:
 * out of memory. */
double gram_error(struct pool *pool, const struct gram_matrix *g, const float *a, const float *b, int64_t outputs);
/* Of each output by itself: error[outputs]. */
void gram_errors(struct pool *pool, const struct gram_matrix *g, const float *a, const float *b, int64_t outputs,
                 double *error);

#endif
