/* SPDX-License-Identifier: Apache-2.0
 * fidelity.h - how near the outputs of a changed model are to those of the original, over any number of batches.
 * Figures    max_abs: largest |a - b|; sqnr_db: 10 log10(sum a^2 / sum (a - b)^2); cosine: of all elements as one
 *            vector;
 *            top1_agreement: share of rows whose largest element has the same place (ties: the lowest index). Rows
 *            are axis 0; an
 *            output has a top-1 if it is numeric and, axis 0 and axes of size 1 aside, one axis of at least 2 is left.
 * Life cycle fidelity_new -> fidelity_add* -> fidelity_result* / fidelity_json -> fidelity_free
 * Unequal    Outputs whose sizes depend on data may differ in axis 0: the rows both have are compared, and `partial`
 *            says so. Strings and
 *            other dtypes compare as equal or not (max_abs 0 or 1). Elements that are the same bit for bit or NaN on
 *            both sides differ by 0.
 * Not finite Elements of b that are NaN or infinite where a's are finite are counted and make max_abs infinite.
 * Threads    one accumulator a thread. */
#ifndef PARED_STATS_FIDELITY_H
#define PARED_STATS_FIDELITY_H

#include <jansson.h>

#include "core/tensor/tensor.h"

struct fidelity; /* opaque */

/* Names are copied. NULL when memory is out. */
struct fidelity *fidelity_new(const char *const *names, int n_outputs);
void fidelity_free(struct fidelity *f);
/* One batch of output `i`. ERR_SHAPE when the two cannot be paired. */
int fidelity_add(struct fidelity *f, int i, const struct tensor *a, const struct tensor *b, struct err *err);
/* Counted once a batch by the caller, for the report. */
void fidelity_count_samples(struct fidelity *f, int64_t samples);

struct fidelity_result {
    const char *name; /* borrowed */
    int64_t elements;
    double max_abs, sqnr_db, cosine; /* sqnr_db INFINITY: no noise; NAN: nothing to measure */
    double top1_agreement;           /* NAN: the output has no top-1 */
    double largest;                  /* largest |a| */
    int64_t nonfinite;               /* elements of b that are not finite though a's are */
    int64_t nonfinite_b;             /* all elements of b that are not finite */
    bool partial;                    /* only the rows both sides have were compared */
};
int fidelity_n_outputs(const struct fidelity *f);
int64_t fidelity_samples(const struct fidelity *f);
void fidelity_result(const struct fidelity *f, int i, struct fidelity_result *out);
/* {"samples", "source", "outputs": [{"name", "max_abs", "sqnr_db", "cosine", "top1_agreement"}]}; what was not
 * measured or is not
 * finite is absent (no noise at all: sqnr_db absent, max_abs 0). source: "dataset" or "generated". New reference. */
json_t *fidelity_json(const struct fidelity *f, const char *source);

#endif
