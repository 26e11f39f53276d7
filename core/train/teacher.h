/* SPDX-License-Identifier: Apache-2.0
 * teacher.h - what a model says of training batches: chosen values of it, run by the inference engine and kept.
 * Why        A training run of E epochs asks the teacher E times about a sample; it says the same each time. So the
 *            values of a sample that comes unchanged are kept in an unnamed file (spill.h) and the teacher runs once
 *            a sample. Augmented samples are new ones: it runs on each.
 * Kept       float32 where all samples take at most 1 GiB, else float16 (held to its range) up to 4 GiB, else
 *            nothing. A sample is known again by a hash of its inputs, so samples of any dataset may come in any
 *            order.
 * Values     of floats (turned to float32), a row a sample: every dim but the first is the same for each. As they
 *            are, or as an attention map: squares summed over the channel axis, a row of length 1 (hints.h).
 * Batches    a teacher of a fixed batch is run as often as needed, its last run filled up; so is one that keeps what
 *            it says, which then has the same bits whatever was asked before.
 * Ownership  borrows model, student and pool. What was said is ours, valid until the next batch.
 * Errors     ERR_SHAPE, ERR_MODEL: inputs that do not fit the student's, values whose shape depends on data;
 *            ERR_NON_FINITE: what it says; as of plan_new and plan_run. Threads: one caller. */
#ifndef PARED_TRAIN_TEACHER_H
#define PARED_TRAIN_TEACHER_H

#include <jansson.h>

#include "core/data/loader.h"
#include "core/engine/engine.h"

struct teacher; /* opaque */

enum teacher_form { TEACHER_VALUE, TEACHER_ATTENTION };
struct teacher_want {
    uint32_t value; /* of the teacher's main graph, made by a node */
    enum teacher_form form;
    int axis; /* TEACHER_ATTENTION: of channels, not 0 */
};

struct teacher_opts {
    const struct model *model, *student; /* student: whose inputs the batches have */
    const struct teacher_want *want;     /* [n_want], copied */
    int n_want;
    const struct tensor *in; /* a batch of the student's inputs, of at least one sample: their shapes */
    int n_in;
    struct pool *pool;
    int64_t batch;   /* samples that mostly come at once; 0: many */
    int64_t samples; /* different ones that will come, at most */
    bool keep;       /* what is said of unchanged samples */
};

struct teacher *teacher_new(const struct teacher_opts *opts, struct err *err);
void teacher_free(struct teacher *t);
/* Shape of want i for one sample. */
const struct shape *teacher_shape(const struct teacher *t, int i);
/* Asks about a batch: its inputs, n and `augmented` are read. */
int teacher_ask(struct teacher *t, const struct loader_batch *batch, struct err *err);
/* Want i of the last batch: float32 [n, ...]. */
const struct tensor *teacher_said(const struct teacher *t, int i);
/* {"kept": "float32" | "float16" | null, "bytes", "samples", "runs", "reused"}: samples kept, samples run, samples
 * read again. New reference. */
json_t *teacher_report(const struct teacher *t);

#endif
