/* SPDX-License-Identifier: Apache-2.0
 * pipeline.h - a recipe run on a model, whole: read, measure, step by step, write, reload, compare, measure again,
 * judge, report.
 * Why        One path for `pared run` and for the jobs of a server; the server only adds queue and isolation.
 * Contract   Nothing is in `out_dir` under its name before it was read back from its bytes, validated and compared
 *            with the original. Same input, recipe and seed: the same model bytes, at any thread count. No steps: the
 *            model's own bytes again.
 * Refused    before anything runs: a recipe whose needs are not met (faults with pointers), a file that is no model, a
 *            dataset that does not fit the model.
 * Errors     ERR_NON_FINITE: outputs that are not finite where the original's are. ERR_VERIFY: the artifact cannot be
 *            read or run. ERR_CANCELED: the progress callback said stop.
 * Threads    one pipeline a process at a time is the intention (BLAS, peak RSS); it makes its own pool. */
#ifndef PARED_RECIPE_PIPELINE_H
#define PARED_RECIPE_PIPELINE_H

#include "core/recipe/recipe.h"

struct pipeline_progress {
    const char *stage;   /* "read", "measure", a step's own word, "write", "verify", "latency" */
    const char *method;  /* of the running step; NULL outside */
    int step, steps;     /* 0 before the first step, steps + 1 behind the last */
    int64_t done, total; /* total 0: not known */
    double eta_s;        /* of this stage; NAN: not known */
};

struct pipeline_dataset {
    const char *path;      /* NULL: none */
    const char *cache_dir; /* NULL: a private folder below the work folder */
    bool confined;         /* as dataset_opts: data.json is a stranger's */
    bool own_links;        /* as dataset_opts */
};

struct pipeline_opts {
    const char *model_path;
    const char *model_name;   /* for the report; NULL: last part of model_path */
    const char *external_dir; /* as onnx_read_opts; NULL: the model's folder */
    int (*resolve)(void *arg, const char *location);
    void *resolve_arg;
    const struct recipe *recipe;
    struct pipeline_dataset data, val_data, eval_data;
    const char *teacher_path; /* a model file that training steps learn from; NULL: the source */
    const char *teacher_name; /* for the report; NULL: last part of teacher_path */
    int (*resolve_teacher)(void *arg, const char *location); /* as resolve, for its external data; NULL: beside it */
    /* Long steps keep their state here, for another run of the same job (same source, teacher, recipe, data and
     * version): in a folder of its own named by these, removed when the job ended well. NULL: nowhere. */
    const char *checkpoint_dir;
    const char *out_dir;     /* made if absent */
    const char *work_dir;    /* temporary files; NULL: a private folder in out_dir, removed at the end */
    int threads;             /* 0: all cores */
    size_t max_memory_bytes; /* activations; 0: the engine's default */
    bool no_latency;
    /* -1: cancel. May be NULL. Called often; throttling is the callee's business. */
    int (*progress)(void *arg, const struct pipeline_progress *p);
    /* {"step": 2, "method": "train.finetune", "epoch": 3, "loss": 0.12, ...}: a measurement on the way; nested steps
     * tell their own method. Borrowed. May be NULL. */
    void (*metric)(void *arg, const json_t *object);
    /* A sentence about what happened, level "info" or "warn". May be NULL. */
    void (*log)(void *arg, const char *level, const char *message);
    void *arg;
};

struct pipeline_result {
    json_t *report;    /* as written to out_dir/report.json */
    json_t *artifacts; /* [{"name", "media_type", "bytes", "sha256"}], model.onnx first, then external data, what the
                        * steps added, and report.json */
    int targets_met;   /* -1: no targets */
};

/* faults may be NULL. On success *result is filled; free with pipeline_result_fini. */
int pipeline_run(const struct pipeline_opts *opts, struct pipeline_result *result, struct faults *faults,
                 struct err *err);
void pipeline_result_fini(struct pipeline_result *result);

#endif
