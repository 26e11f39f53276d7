/* SPDX-License-Identifier: Apache-2.0
 * pared __job: one piece of work in a process of its own. core/recipe/job_spec.h is the contract with the server. The
 * process ties itself down (limits, sandbox: cli/confine.h) before it looks at any input, tells progress on a pipe, and
 * its exit status says how it ended. */
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/confine.h"
#include "cli/inspect.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/recipe/job_spec.h"
#include "core/recipe/json_text.h"
#include "core/recipe/pipeline.h"
#include "core/report/report.h"

struct job {
    json_t *spec;
    const char *kind, *work, *out, *model_sha256;
    json_int_t threads, memory_bytes, file_bytes, cpu_s;
    int die_with_parent, latency;
    const char *checkpoint, *cgroup;
    enum sandbox_mode sandbox;
    json_t *model, *external, *teacher, *teacher_external, *dataset, *val_dataset, *eval_dataset,
        *recipe; /* borrowed from spec */
    struct faults faults;
    const char *stage; /* of the last progress line */
    int step;
    double said;
};

/* ---- the status pipe ---- */

/* Takes the reference. A line that is too long is the fault of a hostile input: it becomes an error, not a truncated
 * line. */
static int say(json_t *line, struct err *err)
{
    char *text = line ? json_dumps(line, JSON_COMPACT | JSON_TEXT_DUMP) : NULL;
    json_decref(line);
    if (!text)
        return err_set(err, ERR_NOMEM, "no memory for an answer");
    size_t len = strlen(text);
    int rc = 0;
    if (len + 1 > JOB_LINE_MAX) {
        rc = err_set(err, ERR_MODEL_TOO_LARGE, "its description takes %zu bytes; at most %d are allowed", len,
                     JOB_LINE_MAX);
    } else {
        text[len] = '\n';
        rc = file_write_all(JOB_FD_STATUS, text, len + 1, err);
    }
    free(text);
    return rc;
}

static int on_progress(void *arg, const struct pipeline_progress *p)
{
    struct job *job = arg;
    double now = clock_seconds();
    bool changed = job->step != p->step || !job->stage || strcmp(job->stage, p->stage);
    if (!changed && now - job->said < 0.1)
        return 0;
    job->said = now;
    job->step = p->step;
    job->stage = p->stage;
    json_t *line = json_pack("{s:s, s:s, s:i, s:i, s:I, s:I}", "type", "progress", "stage", p->stage, "step", p->step,
                             "steps", p->steps, "done", (json_int_t)p->done, "total", (json_int_t)p->total);
    if (line && p->method)
        json_object_set_new(line, "method", json_string(p->method));
    if (line && isfinite(p->eta_s))
        json_object_set_new(line, "eta_s", json_real(p->eta_s));
    say(line, NULL);
    return 0;
}

static void on_metric(void *arg, const json_t *object)
{
    (void)arg;
    json_t *line = json_pack("{s:s}", "type", "metric");
    if (line)
        json_object_update_missing(line, (json_t *)object);
    say(line, NULL);
}

static void on_log(void *arg, const char *level, const char *message)
{
    (void)arg;
    json_t *text = json_string(message);
    say(json_pack("{s:s, s:s, s:o}", "type", "log", "level", level, "message",
                  text ? text : json_string("(not UTF-8)")),
        NULL);
}

static int refuse(struct job *job, const struct err *err)
{
    bool memory = err->code == ERR_NOMEM || err->code == ERR_MEMORY_LIMIT;
    json_t *detail = json_string(err->msg), *errors = json_array();
    for (int i = 0; i < job->faults.count; i++)
        json_array_append_new(
            errors, json_pack("{s:s, s:s}", "pointer", job->faults.at[i].pointer, "detail", job->faults.at[i].detail));
    json_t *line =
        json_pack("{s:s, s:s, s:o, s:o}", "type", "error", "code", err_slug(memory ? ERR_MEMORY_LIMIT : err->code),
                  "detail", detail ? detail : json_string("(not UTF-8)"), "errors", errors);
    if (line && job->faults.count == 0)
        json_object_del(line, "errors");
    struct err ignored = {0};
    if (say(line, &ignored) && !memory)
        fprintf(stderr, "pared __job: %s\n", err->msg);
    return memory ? JOB_EXIT_NOMEM : JOB_EXIT_REFUSED;
}

/* ---- the spec ---- */

static int read_spec(struct job *job, struct err *err)
{
    struct buf b = {0};
    char piece[4096];
    ssize_t n;
    while ((n = read(JOB_FD_SPEC, piece, sizeof piece)) != 0 && b.len <= JOB_SPEC_MAX) {
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            break;
        buf_append(&b, piece, (size_t)n);
    }
    if (n < 0 || b.failed || b.len > JOB_SPEC_MAX) {
        buf_fini(&b);
        return err_set(err, ERR_INTERNAL, "the spec on descriptor %d cannot be read", JOB_FD_SPEC);
    }
    close(JOB_FD_SPEC);
    job->spec = json_text_parse(b.data ? b.data : "", b.len, JOB_SPEC_MAX, err);
    buf_fini(&b);
    if (!job->spec)
        return -1;
    json_error_t e;
    const char *sandbox = "off";
    job->die_with_parent = job->latency = 1;
    if (json_unpack_ex(
            job->spec, &e, JSON_STRICT,
            "{s:s, s:s, s?s, s?I, s?I, s?I, s?I, s?b, s?b, s?s, s?s, s?s, s?s, s?o, s?o, s?o, s?o, s?o, s?o, s?o, s?o}",
            "kind", &job->kind, "work", &job->work, "out", &job->out, "threads", &job->threads, "memory_bytes",
            &job->memory_bytes, "file_bytes", &job->file_bytes, "cpu_s", &job->cpu_s, "die_with_parent",
            &job->die_with_parent, "latency", &job->latency, "checkpoint", &job->checkpoint, "sandbox", &sandbox,
            "cgroup", &job->cgroup, "model_sha256", &job->model_sha256, "model", &job->model, "external",
            &job->external, "teacher", &job->teacher, "teacher_external", &job->teacher_external, "dataset",
            &job->dataset, "val_dataset", &job->val_dataset, "eval_dataset", &job->eval_dataset, "recipe",
            &job->recipe))
        return err_set(err, ERR_INTERNAL, "the spec is wrong: %s", e.text);
    if (!sandbox_mode_parse(sandbox, &job->sandbox))
        return err_set(err, ERR_INTERNAL, "the spec is wrong: there is no sandbox '%.50s'", sandbox);
    return 0;
}

/* What happens to this process is told to the server: it logs a wall that is missing. */
static int tie_down(const struct job *job, struct err *err)
{
    struct sandbox_result walls;
    const struct confine_opts opts = {.spec = job->spec,
                                      .work = job->work,
                                      .out = job->out,
                                      .checkpoint = job->checkpoint,
                                      .cgroup = job->cgroup,
                                      .sandbox = job->sandbox,
                                      .die_with_parent = job->die_with_parent,
                                      .reserve_blas = !strcmp(job->kind, "job"),
                                      .threads = job->threads,
                                      .memory_bytes = job->memory_bytes,
                                      .file_bytes = job->file_bytes,
                                      .cpu_s = job->cpu_s,
                                      .status_fd = JOB_FD_STATUS};
    if (confine(&opts, &walls, err))
        return -1;
    return job->sandbox == SANDBOX_OFF
               ? 0
               : say(json_pack("{s:s, s:i, s:b, s:s}", "type", "sandbox", "landlock", walls.landlock_abi, "calls",
                               walls.calls, "missing", walls.missing),
                     err);
}

/* {"name", "path"}; names are plain: they are put into folders and looked up, never followed elsewhere. */
static int file_of(const json_t *json, const char *key, const char **name, const char **path, struct err *err)
{
    if (json_unpack((json_t *)json, "{s:s, s:s!}", "name", name, "path", path))
        return err_set(err, ERR_INTERNAL, "the spec is wrong: '%s' is not {\"name\", \"path\"}", key);
    if (!**name || strchr(*name, '/') || !strcmp(*name, ".") || !strcmp(*name, ".."))
        return err_set(err, ERR_INTERNAL, "the spec is wrong: '%s' has a name that is no plain file name", key);
    return 0;
}

static int resolve_in(const json_t *list, const char *location)
{
    size_t i;
    json_t *file;
    json_array_foreach(list, i, file)
    {
        const char *name = json_string_value(json_object_get(file, "name")),
                   *path = json_string_value(json_object_get(file, "path"));
        if (name && path && !strcmp(name, location))
            return open(path, O_RDONLY | O_CLOEXEC);
    }
    errno = ENOENT;
    return -1;
}

/* onnx_read_opts.resolve over the spec's lists. */
static int resolve_external(void *arg, const char *location)
{
    return resolve_in(((const struct job *)arg)->external, location);
}

static int resolve_teacher(void *arg, const char *location)
{
    return resolve_in(((const struct job *)arg)->teacher_external, location);
}

/* ---- datasets ---- */

/* The files of a dataset under their own names in work/KEY; *path is its main file (malloc'ed). They are links, not
 * second names of the same bytes: what is done to the folder must not be done to the blobs. */
static int lay_out_files(const struct job *job, const char *key, const json_t *files, const char *main_name,
                         char **path, struct err *err)
{
    char *dir = NULL;
    size_t i;
    json_t *file;
    if (asprintf(&dir, "%s/%s", job->work, key) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    int rc = file_remove_tree(dir, err) || file_make_dirs(dir, err) ? -1 : 0;
    json_array_foreach(files, i, file)
    {
        const char *name, *from;
        char *to = NULL;
        if (rc == 0)
            rc = file_of(file, key, &name, &from, err);
        if (rc)
            break;
        if (asprintf(&to, "%s/%s", dir, name) < 0)
            rc = err_set(err, ERR_NOMEM, "no memory for a path");
        else if (symlink(from, to))
            rc = err_set_errno(err, ERR_IO, "a file of the dataset cannot be put in place");
        bool is_main = main_name ? !strcmp(name, main_name) : i == 0;
        if (rc == 0 && is_main && !*path)
            *path = to;
        else
            free(to);
    }
    free(dir);
    if (rc == 0 && !*path)
        rc = err_set(err, ERR_INTERNAL, "the spec is wrong: '%s' has no main file", key);
    return rc;
}

/* *owned: to be freed by the caller after the pipeline. */
static int dataset_of(const struct job *job, const char *key, const json_t *json, struct pipeline_dataset *out,
                      char **owned, struct err *err)
{
    json_t *files = NULL;
    const char *main_name = NULL;
    json_error_t e;
    if (!json)
        return 0;
    if (json_unpack_ex((json_t *)json, &e, JSON_STRICT, "{s?s, s?o, s?s, s?s}", "path", &out->path, "files", &files,
                       "main", &main_name, "cache", &out->cache_dir) ||
        !out->path == !files)
        return err_set(err, ERR_INTERNAL, "the spec is wrong: '%s' needs either files or path", key);
    out->confined = true;
    if (!files)
        return 0;
    int rc = lay_out_files(job, key, files, main_name, owned, err);
    out->path = *owned;
    out->own_links = true;
    return rc;
}

/* ---- the kinds ---- */

static int do_run(struct job *job, struct err *err)
{
    const char *name = NULL, *path = NULL;
    char *owned[3] = {0};
    struct pipeline_result result = {0};
    struct recipe *recipe = NULL;
    struct pipeline_opts o = {.resolve = resolve_external,
                              .resolve_teacher = resolve_teacher,
                              .resolve_arg = job,
                              .out_dir = job->out,
                              .work_dir = job->work,
                              .threads = (int)job->threads,
                              .max_memory_bytes = (size_t)job->memory_bytes,
                              .no_latency = !job->latency,
                              .checkpoint_dir = job->checkpoint,
                              .progress = on_progress,
                              .metric = on_metric,
                              .log = on_log,
                              .arg = job};
    int rc = -1;
    if (!job->out || !job->model || !job->recipe) {
        err_set(err, ERR_INTERNAL, "the spec is wrong: a job needs model, recipe and out");
        goto out;
    }
    if (file_of(job->model, "model", &name, &path, err) ||
        (job->teacher && file_of(job->teacher, "teacher", &o.teacher_name, &o.teacher_path, err)) ||
        dataset_of(job, "dataset", job->dataset, &o.data, &owned[0], err) ||
        dataset_of(job, "val_dataset", job->val_dataset, &o.val_data, &owned[1], err) ||
        dataset_of(job, "eval_dataset", job->eval_dataset, &o.eval_data, &owned[2], err) ||
        !(recipe = recipe_parse(job->recipe, "/recipe", &job->faults, err)))
        goto out;
    o.model_name = name;
    o.model_path = path;
    o.recipe = recipe;
    if (pipeline_run(&o, &result, &job->faults, err))
        goto out;
    json_t *met = result.targets_met < 0 ? json_null() : json_boolean(result.targets_met);
    rc = say(json_pack("{s:s, s:s, s:O, s:o, s:o}", "type", "result", "kind", "job", "artifacts", result.artifacts,
                       "targets_met", met, "metrics", report_metrics_json(result.report)),
             err);
out:
    pipeline_result_fini(&result);
    recipe_free(recipe);
    for (int i = 0; i < 3; i++)
        free(owned[i]);
    return rc;
}

static int write_beside(const struct job *job, const char *name, const json_t *json, struct err *err)
{
    char *path = NULL;
    if (asprintf(&path, "%s/%s", job->out, name) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    int rc = json_text_write(json, path, err);
    free(path);
    return rc;
}

static int do_inspect_model(struct job *job, struct err *err)
{
    const char *name, *path;
    struct inspect_result r = {0};
    if (!job->out || !job->model)
        return err_set(err, ERR_INTERNAL, "the spec is wrong: inspect_model needs model and out");
    if (file_of(job->model, "model", &name, &path, err))
        return -1;
    struct inspect_opts opts = {.path = path,
                                .sha256 = job->model_sha256,
                                .resolve = resolve_external,
                                .resolve_arg = job,
                                .graph = true,
                                .groups = true};
    int rc = inspect_file(&opts, &r, err);
    if (rc == 0)
        rc = write_beside(job, "layers.json", r.layers, err) || write_beside(job, "graph.json", r.graph, err) ||
                     write_beside(job, "groups.json", r.groups, err)
                 ? -1
                 : 0;
    if (rc == 0)
        rc = say(json_pack("{s:s, s:s, s:O}", "type", "result", "kind", "inspect_model", "facts", r.facts), err);
    inspect_result_fini(&r);
    return rc;
}

static int do_inspect_dataset(struct job *job, struct err *err)
{
    struct pipeline_dataset from = {0};
    char *owned = NULL, *cache = NULL;
    struct dataset *ds = NULL;
    int rc = -1;
    if (!job->dataset)
        return err_set(err, ERR_INTERNAL, "the spec is wrong: inspect_dataset needs dataset");
    if (dataset_of(job, "dataset", job->dataset, &from, &owned, err))
        goto out;
    if (!from.cache_dir && asprintf(&cache, "%s/cache", job->work) < 0) {
        err_set(err, ERR_NOMEM, "no memory for a path");
        goto out;
    }
    ds = dataset_open(from.path,
                      &(struct dataset_opts){.cache_dir = from.cache_dir ? from.cache_dir : cache,
                                             .confined = from.confined,
                                             .own_links = from.own_links},
                      err);
    if (ds && dataset_check_values(ds, err) == 0)
        rc = say(json_pack("{s:s, s:s, s:o}", "type", "result", "kind", "inspect_dataset", "facts", dataset_facts(ds)),
                 err);
out:
    dataset_close(ds);
    free(owned);
    free(cache);
    return rc;
}

static const struct {
    const char *kind;
    int (*run)(struct job *job, struct err *err);
} kinds[] = {{"job", do_run}, {"inspect_model", do_inspect_model}, {"inspect_dataset", do_inspect_dataset}};

int cmd_job(void)
{
    struct job job = {.step = -1};
    struct err err = {0};
    int status = JOB_EXIT_SOFTWARE, rc = -1;
    if (fcntl(JOB_FD_STATUS, F_GETFD) < 0 || fcntl(JOB_FD_SPEC, F_GETFD) < 0) {
        fputs("pared __job: is started by the server, not by hand\n", stderr);
        return JOB_EXIT_SOFTWARE;
    }
    fcntl(JOB_FD_STATUS, F_SETFD, FD_CLOEXEC);
    if (read_spec(&job, &err)) {
        fprintf(stderr, "pared __job: %s\n", err.msg);
        goto out;
    }
    if (tie_down(&job, &err)) {
        status = refuse(&job, &err);
        goto out;
    }
    size_t k = 0;
    while (k < sizeof kinds / sizeof kinds[0] && strcmp(kinds[k].kind, job.kind))
        k++;
    if (k < sizeof kinds / sizeof kinds[0])
        rc = kinds[k].run(&job, &err);
    else
        err_set(&err, ERR_INTERNAL, "the spec is wrong: there is no kind '%.50s'", job.kind);
    status = rc == 0 ? JOB_EXIT_OK : refuse(&job, &err);
out:
    json_decref(job.spec);
    faults_fini(&job.faults);
    return status;
}
