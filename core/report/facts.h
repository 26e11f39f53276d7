/* SPDX-License-Identifier: Apache-2.0
 * facts.h - what a model weighs and costs: the `before` and `after` of report.json.
 * Absent     A figure that was not measured is negative (or NULL) here and absent in the JSON, never zero.
 * Life cycle facts_init -> facts_* (each fills its figures) -> facts_json -> facts_fini. Threads: none of its own. */
#ifndef PARED_REPORT_FACTS_H
#define PARED_REPORT_FACTS_H

#include <jansson.h>

#include "core/engine/engine.h"
#include "core/model/model.h"
#include "core/stats/latency.h"

struct facts {
    int64_t bytes, zstd_bytes;     /* of all files of the model */
    int64_t params, nonzero;       /* core/model/parameters.h */
    int64_t macs;                  /* batch 1 */
    int64_t peak_activation_bytes; /* the slab at batch 1 of a plan without fusions (plan_opts.optimize off), so that it
                                      is the model's own */
    bool has_latency;
    struct latency latency;
    json_t *metrics; /* owned; NULL: none */
};

void facts_init(struct facts *facts);
void facts_fini(struct facts *facts);

/* Add a file's size and its size under zstd (level 3, streamed). tick (may be NULL) is called now and then; not 0: stop
 * with err set. */
int facts_add_file(struct facts *facts, int fd, int (*tick)(void *arg, struct err *err), void *arg, struct err *err);
/* params and nonzero, as core/model/parameters.h counts them. */
void facts_weights(struct facts *facts, const struct model *m);
/* macs and peak_activation_bytes for the shapes the plan last ran or inferred. */
void facts_cost(struct facts *facts, const struct plan *plan);

/* Keys of design: bytes, zstd_bytes, params, nonzero, sparsity, macs, peak_activation_bytes, latency_ms, metrics. New
 * reference. */
json_t *facts_json(const struct facts *facts);
/* after / before of bytes, zstd_bytes, params, nonzero, macs, latency (p50), where both were measured and before is not
 * 0. */
json_t *facts_ratio_json(const struct facts *before, const struct facts *after);

#endif
