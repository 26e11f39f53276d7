/* SPDX-License-Identifier: Apache-2.0
 * pipeline.c - the order of things. The source model stays as it was read: steps work on a clone that shares its
 * weights, and the artifact is compared with the source after it was read back from the bytes that are published. */
#include "core/recipe/pipeline.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/engine/grad.h"
#include "core/recipe/pipeline_impl.h"

int pipeline_tick(struct pipeline *p, const char *stage, int64_t done, int64_t total, struct err *err)
{
    double now = clock_seconds();
    if ((p->stage != stage && (!p->stage || strcmp(p->stage, stage))) || done < p->done) {
        p->stage = stage;
        p->stage_start = now;
        p->stage_from = done; /* what a checkpoint gave back took no time */
    }
    p->done = done;
    p->total = total;
    const int64_t gone = done - p->stage_from;
    bool known = total > 0 && gone > 0 && done <= total;
    struct pipeline_progress say = {
        .stage = stage,
        .method = p->method,
        .step = p->step,
        .steps = p->o->recipe->n_steps,
        .done = done,
        .total = total,
        .eta_s = known ? (now - p->stage_start) / (double)gone * (double)(total - done) : NAN,
    };
    if (p->o->progress && p->o->progress(p->o->arg, &say))
        return err_set(err, ERR_CANCELED, "canceled during '%s'", stage);
    return 0;
}

int pipeline_tick_stage(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct pipeline *p = arg;
    return pipeline_tick(p, p->stage, done, total, err);
}

void pipeline_log(struct pipeline *p, const char *level, const char *fmt, ...)
{
    char text[1200];
    va_list args;
    if (!p->o->log)
        return;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    p->o->log(p->o->arg, level, text);
}

void pipeline_warn(struct pipeline *p, const char *fmt, ...)
{
    char text[1200];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    warnings_add(p->warnings, "%s", text);
    pipeline_log(p, "warn", "%s", text);
}

/* ---- judging ---- */

static int check_needs(struct pipeline *p, struct faults *faults, struct err *err)
{
    char gradients[600] = "";
    struct missing_ops without;
    p->given.missing_ops = p->missing;
    if (!p->missing[0] && (recipe_needs(p->o->recipe) & NEEDS_GRADIENTS)) {
        if (engine_missing_gradients(p->before.model, &without, err))
            return -1;
        missing_ops_text(&without, gradients, sizeof gradients);
        missing_ops_fini(&without);
    }
    p->given.missing_gradients = gradients;
    p->given.missing_gradients = p->no_gradient;
    if (p->teacher_missing[0]) {
        if (faults)
            faults_add(faults, "/teacher", "these operators of the teacher are not supported: %s", p->teacher_missing);
        err_set(err, ERR_OPERATOR, "the teacher cannot be run, these operators are not supported: %s",
                p->teacher_missing);
    }
    int rc = recipe_check_needs(p->o->recipe, &p->given, faults, err);
    if (p->teacher && !recipe_has_family(p->o->recipe, "train"))
        pipeline_warn(p, "a teacher is given, and no step of the recipe learns from one");
    p->given.missing_gradients = NULL;
    return p->teacher_missing[0] ? -1 : rc;
}

static void warn_if_worse(struct pipeline *p)
{
    const struct facts *b = &p->before.facts, *a = &p->after.facts;
    if (p->o->recipe->n_steps == 0)
        return;
    if (b->bytes >= 0 && a->bytes > b->bytes)
        pipeline_warn(p, "the result is larger than the source: %lld bytes instead of %lld", (long long)a->bytes,
                      (long long)b->bytes);
    if (b->has_latency && a->has_latency && a->latency.p50_ms > b->latency.p50_ms * 1.05)
        pipeline_warn(p, "the result is slower than the source: median %.3f ms instead of %.3f ms", a->latency.p50_ms,
                      b->latency.p50_ms);
}

static json_t *make_report(struct pipeline *p, const char *artifact_sha256, struct err *err)
{
    const struct pipeline_opts *o = p->o;
    struct report_parts parts = {
        .seed = o->recipe->seed,
        .recipe = recipe_json(o->recipe),
        .source_name = p->name,
        .source_sha256 = p->source_sha256,
        .teacher_name = p->teacher ? p->teacher_name : NULL,
        .teacher_sha256 = p->teacher_sha256,
        .artifact_name = "model.onnx",
        .artifact_sha256 = artifact_sha256,
        .before = &p->before.facts,
        .after = &p->after.facts,
        .fidelity = p->fidelity ? fidelity_json(p->fidelity, p->eval_data ? "dataset" : "generated") : NULL,
        .artifacts = pipeline_artifacts_json(p),
        .steps = json_incref(p->steps),
        .warnings = warnings_json(p->warnings),
        .threads = pool_threads(p->pool),
    };
    json_t *report = report_json(&parts);
    if (!report) {
        err_set(err, ERR_NOMEM, "no memory for the report");
        return NULL;
    }
    json_t *targets = json_copy(p->targets);
    for (int i = 0; i < o->recipe->n_targets; i++)
        json_array_append_new(targets,
                              target_judge(o->recipe->targets[i].target, o->recipe->targets[i].wanted, report));
    json_object_set_new(report, "targets", targets);
    return report;
}

static int prepare(struct pipeline *p, struct err *err)
{
    facts_init(&p->before.facts);
    facts_init(&p->after.facts);
    p->warnings = warnings_new();
    p->steps = json_array();
    p->targets = json_array();
    p->pool = pool_new(p->o->threads);
    return p->warnings && p->steps && p->targets && p->pool ? 0 : err_set(err, ERR_NOMEM, "no memory to start");
}

static int finish(struct pipeline *p, struct pipeline_result *result, struct err *err)
{
    char sha256[SHA256_HEX], *path = NULL;
    if (asprintf(&path, "%s/model.onnx", p->stage_dir) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    int rc = hash_file(path, sha256, err);
    free(path);
    if (rc || !(result->report = make_report(p, sha256, err)))
        return -1;
    result->targets_met = report_targets_met(result->report);
    return pipeline_publish(p, result, err);
}

int pipeline_run(const struct pipeline_opts *opts, struct pipeline_result *result, struct faults *faults,
                 struct err *err)
{
    const char *slash = strrchr(opts->model_path, '/');
    struct pipeline p = {.o = opts, .name = opts->model_name ? opts->model_name : slash ? slash + 1 : opts->model_path};
    struct model *made = NULL;
    struct err local = {0}; /* callers may pass NULL; the code matters in here */
    *result = (struct pipeline_result){0};
    int rc = prepare(&p, &local);
    if (rc == 0)
        rc = pipeline_open(&p, &local);
    if (rc == 0)
        rc = check_needs(&p, faults, &local);
    if (rc == 0)
        rc = pipeline_measure_before(&p, &local);
    if (rc == 0)
        rc = pipeline_checkpoint_open(&p, &local);
    if (rc == 0)
        rc = pipeline_run_steps(&p, &made, &local);
    if (rc == 0)
        rc = pipeline_write(&p, made, &local);
    if (rc == 0)
        rc = pipeline_measure_after(&p, &local);
    if (rc == 0)
        rc = pipeline_make_artifacts(&p, &local);
    if (rc == 0) {
        warn_if_worse(&p);
        rc = finish(&p, result, &local);
    }
    if (rc == 0)
        pipeline_checkpoint_remove(&p);
    if (made != p.before.model)
        model_free(made);
    pipeline_clean(&p);
    if (rc) {
        err_set(err, local.code ? local.code : ERR_INTERNAL, "%s", local.msg);
        pipeline_result_fini(result);
    }
    return rc;
}

void pipeline_result_fini(struct pipeline_result *result)
{
    json_decref(result->report);
    json_decref(result->artifacts);
    *result = (struct pipeline_result){0};
}
