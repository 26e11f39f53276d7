/* SPDX-License-Identifier: Apache-2.0
 * pipeline_impl.h - what the parts of the pipeline share: pipeline.c (order of things), pipeline_io.c (files in and
 * out), pipeline_measure.c (before, after, fidelity). Not for others. */
#ifndef PARED_RECIPE_PIPELINE_IMPL_H
#define PARED_RECIPE_PIPELINE_IMPL_H

#include "core/base/hash.h"
#include "core/recipe/pipeline.h"
#include "core/report/report.h"
#include "core/stats/fidelity.h"

/* One model under measurement. */
struct subject {
    struct model *model;
    struct plan *plan; /* NULL: cannot run */
    struct facts facts;
};

struct pipeline {
    const struct pipeline_opts *o;
    struct pool *pool;
    struct warnings *warnings;
    char *work, *stage_dir; /* stage_dir: inside out_dir, holds the artifact until it is verified */
    bool own_work;
    char source_sha256[SHA256_HEX];
    struct dataset *data, *val_data;
    struct dataset *eval_data; /* what the report is measured on: may be one of the others, see recipe_measured_on */
    const char *split;         /* which one it is */
    struct recipe_given given;
    const char *name;                            /* of the source, for people */
    struct subject before, after;
    char missing[600];    /* operators of the source that cannot run; "" */
    bool runs;            /* the source was run once */
    struct tensor *probe; /* one feed of batch 1 for the source's inputs; NULL: none */
    int n_probe;
    bool shapes_made_up; /* the probe has dimensions the model does not fix and no data tells */
    struct fidelity *fidelity;
    json_t *steps;
    json_t *targets; /* limits that steps were given, see step_ctx */
    /* of the running stage */
    int step;
    const char *stage;
    double stage_start;
};

/* Tell the caller; -1 with ERR_CANCELED. A new stage (by name or step) restarts its clock. */
int pipeline_tick(struct pipeline *p, const char *stage, int64_t done, int64_t total, struct err *err);
/* Same, as the callback of evaluate and latency; arg is the pipeline; the stage stays what it is. */
int pipeline_tick_stage(void *arg, int64_t done, int64_t total, struct err *err);
void pipeline_log(struct pipeline *p, const char *level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Adds a warning to the report and to the log. */
void pipeline_warn(struct pipeline *p, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* Say which dataset a sentence of data/ is about: "eval_dataset: sample 3: ...". Returns -1. */
int pipeline_name_dataset(const char *key, struct err *err);

/* pipeline_io.c */
int pipeline_open(struct pipeline *p, struct err *err); /* folders, source model, datasets */
int pipeline_write(struct pipeline *p, struct model *result,
                   struct err *err); /* into stage_dir, read back as after.model */
int pipeline_publish(struct pipeline *p, struct pipeline_result *result, struct err *err); /* stage_dir -> out_dir */
void pipeline_clean(struct pipeline *p);

/* pipeline_measure.c */
int pipeline_measure_before(struct pipeline *p, struct err *err);
int pipeline_measure_after(struct pipeline *p,
                           struct err *err); /* facts, fidelity, metrics, latency of both, warnings */

#endif
