/* SPDX-License-Identifier: Apache-2.0
 * report.h - report.json put together from what was measured (docs/report.schema.json is its form). */
#ifndef PARED_REPORT_REPORT_H
#define PARED_REPORT_REPORT_H

#include "core/base/hash.h"
#include "core/report/facts.h"

/* Everything is borrowed but the JSON values, which are stolen; NULL leaves the key out (`steps`, `warnings`: empty
 * list). */
struct report_parts {
    int64_t seed;
    json_t *recipe; /* normalised */
    const char *source_name, *source_sha256, *artifact_name, *artifact_sha256;
    const char *teacher_name, *teacher_sha256; /* NULL: none was given */
    const struct facts *before, *after;
    json_t *fidelity, *steps, *warnings;
    json_t *artifacts; /* {name: facts} of files beside the model */
    int threads;
};
/* With an empty `targets`, to be set by who judges them. New reference; NULL when memory is out. */
json_t *report_json(const struct report_parts *parts);

/* One element of steps. The JSON values are stolen. */
struct report_step {
    const char *method;
    json_t *parameters;
    double seconds;
    int64_t peak_rss_bytes;   /* < 0: not known */
    json_t *layers, *details; /* NULL or empty: no details */
    json_t *steps;            /* nested ones, elements of this form; NULL: it holds none */
    int runs;                 /* of a nested step: how often it ran, the rows are of the last time; 0: not nested */
};
json_t *report_step_json(const struct report_step *step);
/* What a job's resource shows of its report: before, after, ratio, fidelity, artifacts, targets, without the confusion
 * matrix. New reference. */
json_t *report_metrics_json(const json_t *report);
/* -1: no targets; else whether all are met. */
int report_targets_met(const json_t *report);
/* The report as a table for people: file sizes, parameters, MACs, metrics and latency before, after and their ratio;
 * fidelity; targets; warnings. malloc'ed text; NULL when memory is out. */
char *report_text(const json_t *report);
/* The report as one page that needs nothing else: no script, styles and charts inside, for light and dark. Every text
 * of the report is shown as text, whatever is in it. malloc'ed; NULL when memory is out. */
char *report_html(const json_t *report);

#endif
