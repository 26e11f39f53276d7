/* SPDX-License-Identifier: Apache-2.0
 * classify.h - task metrics from outputs and labels, batch by batch.
 * Classes    top1, top5: share of samples whose label is the largest / among the five largest scores (ties: the
 *            lowest index first).
 *            precision, recall, f1: means over the classes that occur as label or prediction (macro), 0/0 counting
 *            as 0.
 *            confusion[label * classes + predicted].
 * Targets    (float labels) mse: mean squared error; psnr_db: 10 log10(range^2 / mse), range = largest - smallest
 *            target.
 * Life cycle task_metrics_new -> task_metrics_add* -> task_metrics_result / task_metrics_json -> task_metrics_free.
 *            Threads: one accumulator a thread. */
#ifndef PARED_STATS_CLASSIFY_H
#define PARED_STATS_CLASSIFY_H

#include <jansson.h>

#include "core/tensor/tensor.h"

struct task_metrics; /* opaque */

struct task_metrics *task_metrics_new(void);
void task_metrics_free(struct task_metrics *m);
/* One batch: scores [N, ...] with C elements a row, labels int64 [N] (classes) or float32 [N, ...] (targets); kinds
 * are not mixed.
 * ERR_DATASET: label out of range, or sizes that do not fit, naming the sample (`first` is the batch's first
 * sample). */
int task_metrics_add(struct task_metrics *m, const struct tensor *scores, const struct tensor *labels, int64_t first,
                     struct err *err);

struct task_metrics_result {
    int64_t samples;
    bool classes; /* the figures of classes are there; else those of targets if samples > 0 */
    int64_t n_classes;
    double top1, top5, precision, recall, f1;
    const int64_t *confusion; /* [n_classes * n_classes], borrowed; NULL beyond 1000 classes */
    double mse, psnr_db;      /* psnr_db NAN: no range or no error */
};
void task_metrics_result(const struct task_metrics *m, struct task_metrics_result *out);
/* {"samples", "top1", "top5", "precision", "recall", "f1"} or {"samples", "mse", "psnr_db"}; with `confusion` also
 * the matrix as rows
 * (at most 100 classes). NULL result for no samples is {"samples": 0}. New reference. */
json_t *task_metrics_json(const struct task_metrics *m, bool confusion);

/* Index of the largest of n scores, lowest index first; NaN never wins unless all are NaN (then 0). */
int64_t classify_argmax(const float *scores, int64_t n);

#endif
