/* SPDX-License-Identifier: Apache-2.0
 * pipeline.c - the order of things. The source model stays as it was read: steps work on a clone that shares its
 * weights, and the artifact is compared with the source after it was read back from the bytes that are published. */
#include "core/recipe/pipeline.h"

#include <fcntl.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/model/validate.h"
#include "core/recipe/json_text.h"
#include "core/recipe/pipeline_impl.h"

int pipeline_tick(struct pipeline *p, const char *stage, int64_t done, int64_t total, struct err *err)
{
    double now = clock_seconds();
    if (p->stage != stage && (!p->stage || strcmp(p->stage, stage))) {
        p->stage = stage;
        p->stage_start = now;
    }
    bool known = total > 0 && done > 0 && done <= total;
    const struct recipe *r = p->o->recipe;
    struct pipeline_progress say = {
        .stage = stage,
        .method = p->step > 0 && p->step <= r->n_steps ? r->steps[p->step - 1].method->name : NULL,
        .step = p->step,
        .steps = r->n_steps,
        .done = done,
        .total = total,
        .eta_s = known ? (now - p->stage_start) / (double)done * (double)(total - done) : NAN,
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

/* ---- steps ---- */

/* The kernel's high-water mark of resident memory; writing 5 to clear_refs starts it anew, so that each step has its
 * own. */
static void peak_rss_reset(void)
{
    int fd = open("/proc/self/clear_refs", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return; /* then it is the peak of the whole run so far */
    if (write(fd, "5", 1) < 0) {
    }
    close(fd);
}

static int64_t peak_rss_bytes(void)
{
    char line[200];
    long long kib = -1;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && kib < 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "VmHWM: %lld", &kib) != 1)
            kib = -1;
    if (f)
        fclose(f);
    return kib < 0 ? -1 : (int64_t)kib * 1024;
}

static int step_progress(struct step_ctx *c, const char *stage, int64_t done, int64_t total, struct err *err)
{
    return pipeline_tick(c->host, stage, done, total, err);
}

static int run_step(struct pipeline *p, int index, struct model *m, struct err *err)
{
    const struct recipe_step *step = &p->o->recipe->steps[index];
    struct rng rng;
    struct layer_report *layers = layer_report_new();
    uint64_t seed = (uint64_t)p->o->recipe->seed;
    rng_init(&rng, seed, (uint64_t)index + 1);
    struct step_ctx ctx = {.model = m,
                           .source = p->before.model,
                           .params = step->params,
                           .data = p->data,
                           .val_data = p->val_data,
                           .pool = p->pool,
                           .seed = seed,
                           .rng = &rng,
                           .layers = layers,
                           .warnings = p->warnings,
                           .targets = p->targets,
                           .progress = step_progress,
                           .host = p};
    p->step = index + 1;
    p->stage = NULL;
    int rc = layers ? pipeline_tick(p, step->method->name, 0, 0, err)
                    : err_set(err, ERR_NOMEM, "no memory for the report of a step");
    peak_rss_reset();
    double start = clock_seconds();
    if (rc == 0)
        rc = step->method->run(&ctx, err);
    double seconds = clock_seconds() - start;
    if (rc == 0 && (rc = model_validate(m, err)))
        err->code = ERR_INTERNAL; /* a step must leave a valid model: ours to mend, not the user's */
    if (rc && err->code != ERR_CANCELED)
        err_wrap(err, "step %d (%s): ", index + 1, step->method->name);
    if (rc == 0) {
        json_t *rows = layer_report_json(layers);
        pipeline_log(p, "info", "step %d of %d, %s: %zu layers reported, %.2f s", index + 1, p->o->recipe->n_steps,
                     step->method->name, json_array_size(rows), seconds);
        json_array_append_new(
            p->steps, report_step_json(step->method->name, json_incref(step->json), seconds, peak_rss_bytes(), rows));
    }
    layer_report_free(layers);
    return rc;
}

/* What the artifact says about its making: enough to make it again. No times, so that equal work gives equal bytes. */
static int add_metadata(struct pipeline *p, struct model *m, struct err *err)
{
    json_t *json = recipe_json(p->o->recipe);
    char *text = json_dumps(json, JSON_COMPACT | JSON_TEXT_DUMP);
    json_decref(json);
    if (!text)
        return err_set(err, ERR_NOMEM, "no memory for the recipe");
    model_set_metadata(m, "pared.recipe", text);
    model_set_metadata(m, "pared.source_sha256", p->source_sha256);
    model_set_metadata(m, "pared.version", PARED_VERSION);
    free(text);
    return 0;
}

/* Steps on a clone; *result is the source itself when there are none. */
static int run_steps(struct pipeline *p, struct model **result, struct err *err)
{
    const struct recipe *r = p->o->recipe;
    *result = p->before.model;
    if (r->n_steps == 0)
        return 0;
    if (!(*result = model_clone(p->before.model, err)))
        return -1;
    for (int i = 0; i < r->n_steps; i++) {
        if (p->data && dataset_bind(p->data, *result, err))
            return err_wrap(err, "step %d (%s): ", i + 1, r->steps[i].method->name);
        if (run_step(p, i, *result, err))
            return -1;
    }
    p->step = r->n_steps + 1;
    p->stage = NULL;
    return add_metadata(p, *result, err);
}

/* ---- judging ---- */

static int check_needs(struct pipeline *p, struct faults *faults, struct err *err)
{
    p->given.missing_ops = p->missing;
    return recipe_check_needs(p->o->recipe, &p->given, faults, err);
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
        .artifact_name = "model.onnx",
        .artifact_sha256 = artifact_sha256,
        .before = &p->before.facts,
        .after = &p->after.facts,
        .fidelity = p->fidelity ? fidelity_json(p->fidelity, p->eval_data ? "dataset" : "generated") : NULL,
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
        rc = run_steps(&p, &made, &local);
    if (rc == 0)
        rc = pipeline_write(&p, made, &local);
    if (rc == 0)
        rc = pipeline_measure_after(&p, &local);
    if (rc == 0) {
        warn_if_worse(&p);
        rc = finish(&p, result, &local);
    }
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
