/* SPDX-License-Identifier: Apache-2.0
 * layer_report.h - what a step did to every layer, and why a layer was left alone: rows of report.json's steps[].layers. */
#ifndef PARED_STEP_LAYER_REPORT_H
#define PARED_STEP_LAYER_REPORT_H

#include <jansson.h>

#include "core/model/model.h"

struct layer_report; /* opaque: a growing list */
struct warnings;     /* opaque: sentences for the report, each once */

struct layer_report *layer_report_new(void);
void layer_report_free(struct layer_report *r);

/* One row. Node and weight are named at once (later steps may remove them). `before` and `after` are short facts as JSON objects,
 * {"dtype": "float32", "bytes": 1024} or {"nonzero": 100}: new references, stolen; NULL: absent. sqnr_db: NAN = not measured. skipped: the
 * reason the layer was left alone, NULL if it was not. */
struct layer_row {
    uint32_t node;   /* NODE_NONE: use `label` */
    const char *label;
    uint32_t weight; /* value id or VALUE_NONE */
    json_t *before, *after;
    double sqnr_db;
    const char *skipped;
};
void layer_report_add(struct layer_report *r, const struct model *m, const struct layer_row *row);
/* The rows as JSON array, new reference. */
json_t *layer_report_json(const struct layer_report *r);

struct warnings *warnings_new(void);
void warnings_free(struct warnings *w);
void warnings_add(struct warnings *w, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
json_t *warnings_json(const struct warnings *w); /* new reference */

/* 10 log10(sum a^2 / sum (a - b)^2) in dB; NAN if the noise is 0 and the signal 0, INFINITY if only the noise is 0. */
double sqnr_db(const float *a, const float *b, int64_t n);

#endif
