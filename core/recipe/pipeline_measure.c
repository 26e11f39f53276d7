/* SPDX-License-Identifier: Apache-2.0
 * pipeline_measure.c - what is measured before and after, and how the two are compared.
 * Runs       The source is run once on one sample (or on generated inputs). If that works, the artifact must run too:
 *            from there on a failure is the artifact's. If an operator is missing or made-up inputs do not suit the
 *            model, structure is all that is verified, a warning says so, and what needs runs is absent.
 * One pass   Metrics before, metrics after and fidelity come from the same pass over the samples: all of them where
 *            there are labels or data of its own for it, else VERIFY_SAMPLES of the calibration data.
 * Memory     The source's plan, which holds its weights packed, is there while something is measured, not during steps.
 * Latency    Both models in turn, at the end, when nothing else of ours runs. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/model/parameters.h"
#include "core/recipe/pipeline_impl.h"
#include "core/stats/evaluate.h"
#include "core/stats/generate.h"

enum { VERIFY_SAMPLES = 32 };
#define VERIFY_BATCH_BYTES ((size_t)64 << 20)
#define LATENCY_SECONDS 0.5

static int tick(void *arg, struct err *err)
{
    return pipeline_tick_stage(arg, 0, 0, err);
}

/* ---- files ---- */

static int add_file(struct pipeline *p, struct facts *facts, int fd, const char *name, struct err *err)
{
    if (fd < 0)
        return err_set_errno(err, ERR_IO, "'%s' cannot be opened", name);
    int rc = facts_add_file(facts, fd, tick, p, err);
    close(fd);
    return rc;
}

static int open_in(const char *dir, const char *name)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", dir, name) < 0)
        return -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    free(path);
    return fd;
}

static int open_external(struct pipeline *p, const char *name)
{
    const struct pipeline_opts *o = p->o;
    if (o->resolve)
        return o->resolve(o->resolve_arg, name);
    if (o->external_dir)
        return open_in(o->external_dir, name);
    const char *slash = strrchr(o->model_path, '/');
    char *dir = slash ? strndup(o->model_path, (size_t)(slash - o->model_path) + 1) : strdup(".");
    int fd = dir ? open_in(dir, name) : -1;
    free(dir);
    return fd;
}

static int measure_files(struct pipeline *p, struct subject *s, struct err *err)
{
    bool source = s == &p->before;
    const char **names = NULL;
    int n = 0;
    if (model_external_files(s->model, &names, &n, err))
        return -1;
    int fd = source ? open(p->o->model_path, O_RDONLY | O_CLOEXEC) : open_in(p->stage_dir, "model.onnx");
    int rc = add_file(p, &s->facts, fd, "model.onnx", err);
    for (int i = 0; rc == 0 && i < n; i++)
        rc = add_file(p, &s->facts, source ? open_external(p, names[i]) : open_in(p->stage_dir, names[i]), names[i],
                      err);
    free(names);
    if (rc == 0)
        facts_weights(&s->facts, s->model);
    return rc;
}

/* ---- running ---- */

static bool is_fatal(const struct err *err)
{
    return err->code == ERR_NOMEM || err->code == ERR_MODEL_TOO_LARGE || err->code == ERR_CANCELED;
}

/* *classes (may be NULL): the longest row among the outputs, which is as many classes as labels can name. */
static int run_probe(struct pipeline *p, struct plan *plan, int64_t *classes, struct err *err)
{
    int n = plan_n_outputs(plan);
    int64_t longest = 0;
    struct tensor *out = calloc((size_t)n + 1, sizeof *out);
    if (!out)
        return err_set(err, ERR_NOMEM, "no memory to run the model");
    struct tensor *in = calloc((size_t)p->n_probe + 1, sizeof *in);
    int rc = in ? 0 : err_set(err, ERR_NOMEM, "no memory to run the model");
    for (int i = 0; i < p->n_probe && i < plan_n_inputs(plan) && rc == 0; i++)
        rc = evaluate_feed(plan, i, &p->probe[i], &in[i], err);
    if (rc == 0)
        rc = plan_run(plan, in, out, NULL, err);
    for (int i = 0; in && i < p->n_probe; i++)
        tensor_fini(&in[i]);
    free(in);
    for (int i = 0; i < n; i++) {
        int64_t row = rc == 0 && out[i].shape.rank > 0 ? shape_product(&out[i].shape, 1, out[i].shape.rank) : 0;
        longest = row > longest ? row : longest;
        tensor_fini(&out[i]);
    }
    free(out);
    if (classes)
        *classes = longest;
    return rc;
}

/* Said before any step runs, not when one trains on them or the result is measured at last. */
static int check_labels(struct pipeline *p, int64_t classes, struct err *err)
{
    const bool trains = recipe_needs(p->o->recipe) & NEEDS_LABELS;
    const struct {
        const struct dataset *data;
        const char *name;
    } read[] = {
        {p->eval_data, p->split}, {trains ? p->data : NULL, "dataset"}, {trains ? p->val_data : NULL, "val_dataset"}};
    for (size_t i = 0; i < sizeof read / sizeof read[0]; i++)
        if (read[i].data && dataset_check_labels(read[i].data, classes, err))
            return err_wrap(err, "%s: ", read[i].name);
    return 0;
}

/* Are there dimensions besides the batch that neither model nor data fix? */
static bool has_free_dims(const struct model *m, const struct plan *plan)
{
    for (int i = 0; i < plan_n_inputs(plan); i++) {
        const struct type *type = &m->values[plan_input(plan, i)].type;
        if (!type->has_shape || type->shape.rank < 0)
            return true;
        for (int d = 1; d < type->shape.rank; d++)
            if (type->shape.dim[d] < 0)
                return true;
    }
    return false;
}

static int make_probe(struct pipeline *p, struct err *err)
{
    struct plan *plan = p->before.plan;
    p->n_probe = plan_n_inputs(plan);
    p->probe = calloc((size_t)p->n_probe + 1, sizeof *p->probe);
    if (!p->probe)
        return err_set(err, ERR_NOMEM, "no memory for an input");
    if (p->eval_data)
        return dataset_read_range(p->eval_data, 0, 1, p->probe, NULL, err);
    p->shapes_made_up = has_free_dims(p->before.model, plan);
    return generate_inputs(plan, &(struct generate_opts){.batch = 1, .seed = (uint64_t)p->o->recipe->seed}, p->probe,
                           err);
}

static struct plan *new_plan(struct pipeline *p, const struct model *m, struct err *err)
{
    struct plan_opts opts = {.pool = p->pool, .max_memory_bytes = p->o->max_memory_bytes, .optimize = true,
                             .stream = model_streams(p->before.model)}; /* the result runs as its source does */
    return plan_new(m, &opts, err);
}

/* MACs and memory are those of the model node by node, as it stands in the file: what the engine fuses for its own
 * speed says nothing about the model elsewhere. */
static int measure_cost(struct pipeline *p, struct subject *s, struct err *err)
{
    const struct type *types;
    if (p->shapes_made_up)
        return 0;
    struct plan_opts opts = {.pool = p->pool, .max_memory_bytes = p->o->max_memory_bytes};
    struct plan *plan = plan_new(s->model, &opts, err);
    struct shape *in = calloc((size_t)p->n_probe + 1, sizeof *in);
    int rc = plan ? 0 : -1;
    if (plan && !in)
        rc = err_set(err, ERR_NOMEM, "no memory for shapes");
    for (int i = 0; i < p->n_probe && !rc; i++)
        in[i] = p->probe[i].shape;
    if (!rc && plan_infer(plan, in, &types, NULL) == 0) /* it ran: what fails here is only the count's */
        facts_cost(&s->facts, plan);
    free(in);
    plan_free(plan);
    return rc;
}

/* A source that does not run on made-up inputs is no reason to refuse weights-only work; one that does not run on its
 * own data is. */
static int run_source(struct pipeline *p, struct err *err)
{
    struct err why = {0};
    int64_t classes = 0;
    p->before.plan = new_plan(p, p->before.model, &why);
    if (p->before.plan && make_probe(p, &why) == 0 && run_probe(p, p->before.plan, &classes, &why) == 0) {
        if (check_labels(p, classes, err))
            return -1;
        p->runs = true;
        if (measure_cost(p, &p->before, err))
            return -1;
        if (p->shapes_made_up)
            pipeline_warn(p, "inputs have dimensions that the model does not fix and no dataset tells: MACs and peak "
                             "memory are not given, "
                             "latency is of a small made-up shape");
        return 0;
    }
    if (why.code == ERR_DATASET && p->eval_data) {
        err_set(err, why.code, "%s", why.msg);
        return pipeline_name_dataset(p->split, err);
    }
    if (is_fatal(&why) || p->eval_data || (recipe_needs(p->o->recipe) & NEEDS_RUN))
        return err_set(err, why.code, "the model does not run: %s", why.msg);
    pipeline_warn(p, "the model was not run (%s); the structure of the result was verified instead", why.msg);
    return 0;
}

static int try_source(struct pipeline *p, struct err *err)
{
    const int rc = run_source(p, err);
    plan_free(p->before.plan);
    p->before.plan = NULL;
    return rc;
}

static void warn_nan(void *arg, const char *name, int64_t count)
{
    pipeline_warn(arg, "weight '%.200s' of the source holds %lld NaN", name, (long long)count);
}

int pipeline_measure_before(struct pipeline *p, struct err *err)
{
    if (pipeline_tick(p, "measure", 0, 0, err) || measure_files(p, &p->before, err))
        return -1;
    model_nan_weights(p->before.model, warn_nan, p);
    if (p->missing[0]) {
        pipeline_warn(p,
                      "the model was not run, these operators are not supported: %s; the structure of the result was "
                      "verified instead",
                      p->missing);
        return 0;
    }
    return try_source(p, err);
}

/* ---- comparing ---- */

/* NULL without labelled samples. confusion: with the matrix, for few classes. */
static json_t *metrics_of(struct pipeline *p, const struct task_metrics *m, bool confusion)
{
    struct task_metrics_result r = {0};
    if (!m)
        return NULL;
    task_metrics_result(m, &r);
    if (r.samples == 0)
        return NULL;
    json_t *o = task_metrics_json(m, confusion);
    json_object_set_new(o, "split", json_string(p->split));
    return o;
}

static int check_finite(struct pipeline *p, struct err *err)
{
    for (int i = 0; i < fidelity_n_outputs(p->fidelity); i++) {
        struct fidelity_result r;
        fidelity_result(p->fidelity, i, &r);
        if (r.nonfinite > 0)
            return err_set(err, ERR_NON_FINITE,
                           "output '%.200s' of the result holds %lld elements of %lld that are not finite where the "
                           "original's are",
                           r.name, (long long)r.nonfinite, (long long)r.elements);
        if (r.partial)
            pipeline_warn(
                p, "output '%.200s' depends on the data in its size: only the rows both models gave were compared",
                r.name);
    }
    return 0;
}

static int compare(struct pipeline *p, struct err *err)
{
    struct task_metrics *before = NULL, *after = NULL;
    struct err why = {0};
    struct evaluate_opts opts = {.pool = p->pool,
                                 .max_memory_bytes = p->o->max_memory_bytes,
                                 .batch_bytes = VERIFY_BATCH_BYTES,
                                 .progress = pipeline_tick_stage,
                                 .progress_arg = p};
    struct evaluate_compare_opts pair = {.seed = (uint64_t)p->o->recipe->seed,
                                         .metrics_a = &before,
                                         .metrics_b = &after,
                                         .plan_a = p->before.plan,
                                         .plan_b = p->after.plan};
    int64_t *index = NULL;
    if (p->eval_data && p->eval_data == p->data && !dataset_has_labels(p->data)) {
        if ((opts.n_index = dataset_spread(p->data, VERIFY_SAMPLES, &index, err)) < 0)
            return -1;
        opts.index = index;
    }
    p->fidelity = evaluate_compare(p->before.model, p->after.model, p->eval_data, &opts, &pair, &why);
    if (p->fidelity) {
        p->before.facts.metrics = metrics_of(p, before, false);
        p->after.facts.metrics = metrics_of(p, after, true);
    }
    task_metrics_free(before);
    task_metrics_free(after);
    free(index);
    if (!p->fidelity && why.code == ERR_DATASET) {
        err_set(err, why.code, "%s", why.msg);
        return pipeline_name_dataset(p->split, err);
    }
    if (!p->fidelity && is_fatal(&why))
        return err_set(err, why.code, "%s", why.msg);
    if (!p->fidelity)
        return err_set(err, ERR_VERIFY, "the result could not be compared with the original: %s", why.msg);
    return check_finite(p, err);
}

static int measure_latency(struct pipeline *p, struct err *err)
{
    struct plan *plans[2] = {p->before.plan, p->after.plan};
    struct latency got[2];
    struct latency_opts opts = {.budget_s = LATENCY_SECONDS,
                                .batch = 1,
                                .threads = pool_threads(p->pool),
                                .seed = (uint64_t)p->o->recipe->seed,
                                .in = p->probe,
                                .progress = pipeline_tick_stage,
                                .progress_arg = p};
    if (p->o->no_latency)
        return 0;
    if (pipeline_tick(p, "latency", 0, 0, err) || latency_measure(plans, 2, &opts, got, err))
        return -1;
    struct subject *subjects[2] = {&p->before, &p->after};
    for (int i = 0; i < 2; i++) {
        subjects[i]->facts.latency = got[i];
        subjects[i]->facts.has_latency = true;
    }
    return 0;
}

int pipeline_measure_after(struct pipeline *p, struct err *err)
{
    struct missing_ops missing;
    struct err why = {0};
    if (pipeline_tick(p, "verify", 0, 0, err) || measure_files(p, &p->after, err))
        return -1;
    if (!p->runs)
        return 0;
    if (engine_missing_ops(p->after.model, &missing, err))
        return -1;
    if (missing.count > 0) {
        char text[600];
        pipeline_warn(
            p, "the result was not run, these operators are not supported: %s; its structure was verified instead",
            missing_ops_text(&missing, text, sizeof text));
        missing_ops_fini(&missing);
        return 0;
    }
    if (!(p->before.plan = new_plan(p, p->before.model, err)))
        return -1;
    p->after.plan = new_plan(p, p->after.model, &why);
    if (!p->after.plan || run_probe(p, p->after.plan, NULL, &why))
        return err_set(err, is_fatal(&why) ? why.code : ERR_VERIFY, "the result does not run: %s", why.msg);
    if (measure_cost(p, &p->after, err))
        return -1;
    return compare(p, err) || measure_latency(p, err) ? -1 : 0;
}
