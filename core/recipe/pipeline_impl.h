/* SPDX-License-Identifier: Apache-2.0
 * pipeline_impl.h - what the parts of the pipeline share: pipeline.c (order of things), pipeline_steps.c (steps and
 * steps in steps), pipeline_io.c (files in and out), pipeline_measure.c (before, after, fidelity),
 * pipeline_artifacts.c (files beside the model), pipeline_checkpoint.c (the state of long steps). Not for others. */
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

/* A file that a step asked for. */
struct wanted_artifact {
    struct artifact artifact;
    const struct recipe_step *step; /* who asked */
    json_t *facts;                  /* with bytes and sha256; NULL until it was made */
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
    struct model *teacher; /* NULL: none was given */
    char teacher_sha256[SHA256_HEX];
    const char *teacher_name; /* for people */
    char teacher_missing[600]; /* operators of the teacher that cannot run; "" */
    struct wanted_artifact *artifacts;
    int n_artifacts;
    char *checkpoint_dir; /* of this very job, below pipeline_opts.checkpoint_dir; NULL: none */
    char missing[600];    /* operators of the source that cannot run; "" */
    char no_gradient[600]; /* those that have no gradient, where a step trains; "" */
    bool runs;            /* the source was run once */
    struct tensor *probe; /* one feed of batch 1 for the source's inputs; NULL: none */
    int n_probe;
    bool shapes_made_up; /* the probe has dimensions the model does not fix and no data tells */
    struct fidelity *fidelity;
    json_t *steps;
    json_t *targets; /* limits that steps were given, see step_ctx */
    /* of the running stage */
    int step;
    const char *method; /* of the running step, the innermost of those that take turns; NULL outside */
    const char *stage;
    double stage_start;
    int64_t stage_from, done, total; /* what was done when the stage began, and what was last told */
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

/* pipeline_steps.c: the steps on a clone; *result is the source itself when there are none. */
int pipeline_run_steps(struct pipeline *p, struct model **result, struct err *err);

/* pipeline_artifacts.c */
int pipeline_add_artifact(struct pipeline *p, const struct recipe_step *step, const struct artifact *artifact,
                          struct err *err);
/* All of them, from the verified model.onnx of stage_dir, into stage_dir. */
int pipeline_make_artifacts(struct pipeline *p, struct err *err);
json_t *pipeline_artifacts_json(const struct pipeline *p); /* {name: facts} for the report; NULL: none */
void pipeline_artifacts_free(struct pipeline *p);

/* pipeline_checkpoint.c */
int pipeline_checkpoint_open(struct pipeline *p, struct err *err);
/* The file of a step, "1" or "2.1-r3"; malloc'ed. NULL: nowhere to keep anything, or out of memory. */
char *pipeline_checkpoint_path(const struct pipeline *p, const char *place);
void pipeline_checkpoint_remove(struct pipeline *p); /* the job ended well */

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
