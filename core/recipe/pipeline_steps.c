/* SPDX-License-Identifier: Apache-2.0
 * pipeline_steps.c - the recipe's steps, and steps inside of steps.
 * Nesting    A step that holds steps runs them through step_ctx.run_step, as often as it likes, on its own model and
 *            data. The report shows each nested step once, with the rows of its last run and the count of runs: a
 *            schedule may run one hundreds of times.
 * Random     The stream of a nested step depends on its place in the recipe (and on the round, below a step that
 *            repeats whole steps), not on how often it ran: a training that goes on from a checkpoint draws what the
 *            uninterrupted one would have drawn.
 * Progress   Steps that take turns (in `iterate`) tell their own stages. Those on a schedule only pass the word on that
 *            the job was canceled: what a viewer should see is how far the training is. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/model/validate.h"
#include "core/recipe/json_text.h"
#include "core/recipe/pipeline_impl.h"

enum { PLACE_TEXT = 160 };

/* What is kept of a nested step between its runs. */
struct nested {
    json_t *report, *targets; /* of the last run */
    int runs;
    double seconds; /* of all runs */
};

/* A step that runs: step_ctx.host. */
struct running {
    struct pipeline *p;
    const struct recipe_step *step;
    struct running *outer;  /* NULL: a step of the recipe itself */
    uint64_t stream;        /* of its rng */
    struct rng rng;
    char place[PLACE_TEXT]; /* "2", "2.1-r3": where it stands in the recipe and in which round */
    bool on_schedule;
    struct nested *nested; /* [step->n_steps] */
};

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

/* ---- what a step is given ---- */

static int step_progress(struct step_ctx *c, const char *stage, int64_t done, int64_t total, struct err *err)
{
    const struct running *r = c->host;
    struct pipeline *p = r->p;
    if (r->on_schedule)
        return pipeline_tick(p, p->stage ? p->stage : stage, p->done, p->total, err);
    return pipeline_tick(p, stage, done, total, err);
}

static void step_metric(struct step_ctx *c, const json_t *object)
{
    const struct running *r = c->host;
    const struct pipeline_opts *o = r->p->o;
    if (!o->metric || !json_is_object(object))
        return;
    json_t *line = json_pack("{s:i, s:s}", "step", r->p->step, "method", r->step->method->name);
    if (line && json_object_update_missing(line, (json_t *)object) == 0)
        o->metric(o->arg, line);
    json_decref(line);
}

static int step_add_artifact(struct step_ctx *c, const struct artifact *artifact, struct err *err)
{
    const struct running *r = c->host;
    return pipeline_add_artifact(r->p, r->step, artifact, err);
}

static int run_nested(struct step_ctx *c, int i, double ramp, struct err *err);

/* One run of a step; *report and the elements of *targets are new references. */
static int run_method(struct running *r, struct step_ctx *c, json_t **report, struct err *err)
{
    const struct recipe_step *step = r->step;
    struct pipeline *p = r->p;
    rng_init(&r->rng, c->seed, r->stream);
    char *checkpoint = r->on_schedule ? NULL : pipeline_checkpoint_path(p, r->place);
    const char *method = p->method;
    int rc = -1;
    c->params = step->params;
    c->rng = &r->rng;
    c->layers = layer_report_new();
    c->details = json_object();
    c->n_steps = step->n_steps;
    c->run_step = step->n_steps ? run_nested : NULL;
    c->checkpoint = checkpoint;
    c->host = r;
    r->nested = calloc((size_t)step->n_steps + 1, sizeof *r->nested);
    if (!c->layers || !c->details || !r->nested) {
        err_set(err, ERR_NOMEM, "no memory for the report of a step");
        goto out;
    }
    if (!r->on_schedule)
        p->method = step->method->name;
    if (!r->on_schedule && pipeline_tick(p, step->method->name, 0, 0, err))
        goto out;
    if (!r->outer)
        peak_rss_reset();
    double start = clock_seconds();
    rc = step->method->run(c, err);
    double seconds = clock_seconds() - start;
    if (rc == 0 && (rc = model_validate(c->model, err)))
        err->code = ERR_INTERNAL; /* a step must leave a valid model: ours to mend, not the user's */
    if (rc)
        goto out;
    json_t *inner = step->n_steps ? json_array() : NULL;
    for (int i = 0; i < step->n_steps; i++) {
        struct nested *n = &r->nested[i];
        if (n->report)
            json_array_append(inner, n->report);
        if (c->targets && n->targets)
            json_array_extend(c->targets, n->targets);
    }
    *report = report_step_json(&(struct report_step){.method = step->method->name,
                                                     .parameters = json_incref(step->json),
                                                     .seconds = seconds,
                                                     .peak_rss_bytes = r->outer ? -1 : peak_rss_bytes(),
                                                     .layers = layer_report_json(c->layers),
                                                     .details = json_incref(c->details),
                                                     .steps = inner});
    if (!*report)
        rc = err_set(err, ERR_NOMEM, "no memory for the report of a step");
out:
    p->method = method;
    for (int i = 0; r->nested && i < step->n_steps; i++) {
        json_decref(r->nested[i].report);
        json_decref(r->nested[i].targets);
    }
    free(r->nested);
    free(checkpoint);
    json_decref(c->details);
    layer_report_free(c->layers);
    return rc;
}

/* ---- steps in steps ---- */

static void keep_report(struct nested *n, json_t *report, json_t *targets)
{
    n->runs++;
    n->seconds += json_number_value(json_object_get(report, "seconds"));
    json_object_set_new(report, "seconds", json_real(n->seconds));
    json_object_set_new(report, "runs", json_integer(n->runs));
    json_decref(n->report);
    json_decref(n->targets);
    n->report = report;
    n->targets = targets;
}

static int run_nested(struct step_ctx *c, int i, double ramp, struct err *err)
{
    struct running *outer = c->host;
    const struct recipe_step *step = outer->step;
    struct nested *n = &outer->nested[i];
    if (i < 0 || i >= step->n_steps)
        return err_set(err, ERR_INTERNAL, "step %s holds no step %d", outer->place, i + 1);
    const bool on_schedule = step->method->holds == HOLDS_SCHEDULED;
    struct running r = {.p = outer->p, .step = &step->steps[i], .outer = outer, .on_schedule = on_schedule};
    struct step_ctx inner = *c; /* the same model, source, data, pool, seed, warnings, teacher and callbacks */
    json_t *report = NULL;
    const uint64_t round = on_schedule ? 0 : (uint64_t)n->runs;
    r.stream = (outer->stream * UINT64_C(0x9E3779B97F4A7C15)) ^ (round << 32) ^ ((uint64_t)i + 1);
    if (on_schedule)
        snprintf(r.place, sizeof r.place, "%.*s.%d", PLACE_TEXT - 50, outer->place, i + 1);
    else
        snprintf(r.place, sizeof r.place, "%.*s.%d-r%d", PLACE_TEXT - 50, outer->place, i + 1, n->runs + 1);
    inner.ramp = on_schedule && c->ramp > 0 ? ramp * c->ramp : ramp; /* a round of `iterate` goes this far only */
    inner.in_training = on_schedule;
    inner.targets = json_array();
    int rc = inner.targets ? 0 : err_set(err, ERR_NOMEM, "no memory for the report of a step");
    if (rc == 0 && !on_schedule && c->data)
        rc = dataset_bind(c->data, c->model, err);
    if (rc == 0)
        rc = run_method(&r, &inner, &report, err);
    c->model = inner.model;
    if (rc) {
        json_decref(inner.targets);
        return err->code == ERR_CANCELED ? rc : err_wrap(err, "step %d (%s) in it: ", i + 1, r.step->method->name);
    }
    keep_report(n, report, inner.targets);
    return 0;
}

/* ---- the steps of the recipe ---- */

static int run_step(struct pipeline *p, int index, struct model *m, struct err *err)
{
    const struct recipe_step *step = &p->o->recipe->steps[index];
    struct running r = {.p = p, .step = step, .stream = (uint64_t)index + 1};
    json_t *report = NULL;
    struct step_ctx ctx = {.model = m,
                           .source = p->before.model,
                           .data = p->data,
                           .val_data = p->val_data,
                           .pool = p->pool,
                           .seed = (uint64_t)p->o->recipe->seed,
                           .warnings = p->warnings,
                           .targets = p->targets,
                           .teacher = p->teacher ? p->teacher : p->before.model,
                           .ramp = 1,
                           .metric = step_metric,
                           .add_artifact = step_add_artifact,
                           .progress = step_progress};
    snprintf(r.place, sizeof r.place, "%d", index + 1);
    p->step = index + 1;
    p->stage = NULL;
    if (run_method(&r, &ctx, &report, err))
        return err->code == ERR_CANCELED ? -1 : err_wrap(err, "step %d (%s): ", index + 1, step->method->name);
    pipeline_log(p, "info", "step %d of %d, %s: %zu layers reported, %.2f s", index + 1, p->o->recipe->n_steps,
                 step->method->name, json_array_size(json_object_get(report, "layers")),
                 json_number_value(json_object_get(report, "seconds")));
    json_array_append_new(p->steps, report);
    return 0;
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
    if (p->teacher)
        model_set_metadata(m, "pared.teacher_sha256", p->teacher_sha256);
    free(text);
    return 0;
}

int pipeline_run_steps(struct pipeline *p, struct model **result, struct err *err)
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
