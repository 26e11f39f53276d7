/* SPDX-License-Identifier: Apache-2.0
 * work/JOB/checkpoint/ the state of long steps: given to every attempt, so that the next goes on from it; stays until
 *                      the job has ended
 * work/JOB/tmp-N/      temporary files of attempt N; what an earlier one left is removed first
 * work/JOB/out-N/      results of attempt N alone: a child that outlives its lease cannot write into its successor's
 *
 * After the child ended its files are taken into the blob store under their hashes (the sizes and hashes it claims are
 * compared), then one transaction makes artifacts and the end of the job visible together. If the lease was lost
 * meanwhile that transaction changes nothing and the blobs, which nothing refers to, are removed. */
#include "server/attempt.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/size.h"
#include "server/child.h"
#include "server/gc.h"
#include "server/metrics.h"
#include "server/trace.h"
#include "server/sandbox.h"

enum {
    MAX_ARTIFACTS = 100,
    MAX_NAME = 120,
    MAX_MESSAGE = 2000,
    MAX_LOGS = 2000,
    MAX_METRICS = 10000,
    MAX_METRIC_BYTES = 4000,
    SETTLE_TRIES = 20,
    SETTLE_PAUSE_US = 250000
};
#define CHECKPOINT "checkpoint"
static const double PROGRESS_S = 0.25, STAGE_S = 0.02;

struct attempt {
    const struct attempt_ctx *ctx;
    const struct store_claim *claim;
    struct store *store;
    char dir[PATH_MAX - 100], out[PATH_MAX], tmp[PATH_MAX], checkpoint[PATH_MAX];
    double started;
    double told; /* when progress was last written, and of what */
    int64_t told_step;
    char told_stage[64], stage[64];
    struct store_progress progress; /* the last one heard; its stage is `stage` */
    bool untold;                    /* and not yet written */
    int logs, metrics;
    struct store_artifact *artifacts;
    int artifact_count;
};

/* ---- what the child says while it runs ------------------------------------------------------------------------------
 */

static void lost_or_failed(const struct attempt *a, int rc, const struct err *err)
{
    if (rc < 0) {
        metrics_add(METRIC_STORE_ERRORS_ATTEMPT, 1);
        log_warn("job %s: %s", a->claim->id, err->msg);
    }
}

static int64_t count_of(json_t *object, const char *key)
{
    json_int_t value = json_integer_value(json_object_get(object, key));
    return value < 0 ? 0 : value;
}

/* Bytes of `text` to keep: at most `max`, not ending inside a UTF-8 sequence. */
static int cut(const char *text, size_t max)
{
    size_t len = strlen(text);
    if (len <= max)
        return (int)len;
    while (max && ((unsigned char)text[max] & 0xC0) == 0x80)
        max--;
    return (int)max;
}

static void tell_event(struct attempt *a, const char *type, json_t *data)
{
    struct err err = {0};
    char *text = data ? json_dumps(data, JSON_COMPACT) : NULL;
    if (text)
        lost_or_failed(a, store_event_append(a->store, a->claim->id, a->claim->attempt, type, text, &err), &err);
    free(text);
    json_decref(data);
}

static void tell_progress(struct attempt *a)
{
    struct err err = {0};
    a->told = clock_seconds();
    a->untold = false;
    memcpy(a->told_stage, a->stage, sizeof a->stage);
    a->told_step = a->progress.step;
    lost_or_failed(a, store_job_progress(a->store, a->claim->id, a->claim->attempt, &a->progress, &err), &err);
}

static void take_progress(struct attempt *a, json_t *line)
{
    const char *stage = json_string_value(json_object_get(line, "stage"));
    json_t *eta = json_object_get(line, "eta_s");
    char name[sizeof a->stage];
    snprintf(name, sizeof name, "%.*s", stage ? cut(stage, sizeof name - 1) : 0, stage ? stage : "");
    int64_t step = count_of(line, "step");
    /* not of the last line heard: one that was not told must not keep its stage from being told by the next */
    bool changed = strcmp(name, a->told_stage) || step != a->told_step;
    memcpy(a->stage, name, sizeof name);
    a->progress = (struct store_progress){.step = step,
                                          .steps = count_of(line, "steps"),
                                          .done = count_of(line, "done"),
                                          .total = count_of(line, "total"),
                                          .stage = a->stage,
                                          .eta_s = json_is_number(eta) ? json_number_value(eta) : -1};
    a->untold = true;
    if (clock_seconds() - a->told < (changed ? STAGE_S : PROGRESS_S))
        return;
    tell_progress(a);
    if (changed)
        tell_event(a, "progress",
                   json_pack("{s:s, s:I, s:I}", "stage", a->stage, "step", (json_int_t)step, "steps",
                             (json_int_t)a->progress.steps));
}

static void take_log(struct attempt *a, json_t *line)
{
    const char *message = json_string_value(json_object_get(line, "message"));
    const char *level = json_string_value(json_object_get(line, "level"));
    if (!message || a->logs >= MAX_LOGS)
        return;
    a->logs++;
    const char *known = level && !strcmp(level, "error") ? "error" : level && !strcmp(level, "warn") ? "warn" : "info";
    tell_event(a, "log",
               json_pack("{s:s, s:s%}", "level", known, "message", message, (size_t)cut(message, MAX_MESSAGE)));
}

/* Kept as it was said, with the attempt: one that goes on after a restart may tell an epoch again. */
static void take_metric(struct attempt *a, json_t *line)
{
    struct err err = {0};
    if (a->metrics >= MAX_METRICS)
        return;
    a->metrics++;
    json_object_del(line, "type");
    json_object_set_new(line, "attempt", json_integer(a->claim->attempt));
    char *text = json_dumps(line, JSON_COMPACT | JSON_REAL_PRECISION(9));
    if (text && strlen(text) <= MAX_METRIC_BYTES)
        lost_or_failed(a, store_job_metric(a->store, a->claim->id, a->claim->attempt, text, &err), &err);
    free(text);
}

static void take_line(void *arg, const char *type, json_t *line)
{
    struct attempt *a = arg;
    if (!strcmp(type, "progress"))
        take_progress(a, line);
    else if (!strcmp(type, "log"))
        take_log(a, line);
    else if (!strcmp(type, "metric"))
        take_metric(a, line);
}

static enum child_tick tick(void *arg)
{
    const struct attempt *a = arg;
    switch ((enum attempt_order)atomic_load(a->ctx->order)) {
    case ATTEMPT_GO_ON:
        return CHILD_GO_ON;
    case ATTEMPT_CANCEL:
        return CHILD_CANCEL;
    case ATTEMPT_RELEASE:
    case ATTEMPT_LOST:
        return CHILD_ABANDON;
    }
    return CHILD_GO_ON;
}

/* ---- the spec -----------------------------------------------------------------------------------------------------
 */

static json_t *file_json(struct attempt *a, const struct store_file *file, struct err *err)
{
    char path[PATH_MAX];
    if (blob_path(a->ctx->server->blobs, file->sha256, path, sizeof path, err))
        return NULL;
    if (blob_verify(a->ctx->server->blobs, file->sha256, err)) {
        if (err->code == ERR_NOT_FOUND)
            err->code = ERR_CORRUPT; /* its row is there: the file should be */
        err_wrap(err, "input '%.100s' of the job: ", file->name);
        return NULL;
    }
    return json_pack("{s:s, s:s}", "name", file->name, "path", path);
}

static json_t *files_json(struct attempt *a, const struct store_file *files, int count, struct err *err)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++) {
        json_t *file = file_json(a, &files[i], err);
        if (!file) {
            json_decref(list);
            return NULL;
        }
        json_array_append_new(list, file);
    }
    return list;
}

static int add_model(struct attempt *a, json_t *spec, enum job_role role, const char *external_key, struct err *err)
{
    const struct store_resource *model = a->claim->inputs[role];
    if (!model && role != JOB_ROLE_MODEL)
        return 0;
    if (!model || model->file_count < 1)
        return err_set(err, ERR_REFERENCE, "the %s is gone", job_role_name(role));
    json_t *file = file_json(a, &model->files[0], err);
    if (!file || json_object_set_new(spec, job_role_name(role), file))
        return -1;
    if (model->file_count == 1)
        return 0;
    json_t *external = files_json(a, model->files + 1, model->file_count - 1, err);
    return !external || json_object_set_new(spec, external_key, external) ? -1 : 0;
}

static int add_datasets(struct attempt *a, json_t *spec, struct err *err)
{
    for (int role = JOB_ROLE_DATASET; role <= JOB_ROLE_EVAL_DATASET; role++) {
        const struct store_resource *data = a->claim->inputs[role];
        if (!data || data->file_count < 1)
            continue;
        json_t *files = files_json(a, data->files, data->file_count, err);
        if (!files || json_object_set_new(spec, job_role_name((enum job_role)role),
                                          json_pack("{s:o, s:s}", "files", files, "main", data->files[0].name)))
            return -1;
    }
    return 0;
}

static int64_t lesser(int64_t asked, int64_t allowed)
{
    return asked > 0 && (allowed <= 0 || asked < allowed) ? asked : allowed;
}

static json_t *make_spec(struct attempt *a, struct err *err)
{
    const struct store_claim *claim = a->claim;
    const struct attempt_ctx *ctx = a->ctx;
    json_t *request = json_loads(claim->request, 0, NULL);
    json_t *recipe = json_object_get(request, "recipe");
    json_t *spec = NULL;
    int64_t memory = lesser(claim->memory_bytes, ctx->memory_bytes);
    if (!json_is_object(recipe)) {
        err_set(err, ERR_INTERNAL, "the job's recipe cannot be read");
        goto out;
    }
    spec = json_pack("{s:s, s:s, s:s, s:s, s:I, s:I, s:O}", "kind", "job", "work", a->tmp, "out", a->out, "checkpoint",
                     a->checkpoint, "threads",
                     (json_int_t)lesser(claim->threads, ctx->threads), "file_bytes",
                     (json_int_t)ctx->server->config->job_file_bytes, "recipe", recipe);
    if (memory > 0)
        json_object_set_new(spec, "memory_bytes", json_integer(memory));
    json_object_set_new(spec, "sandbox",
                        json_string(sandbox_mode_name((enum sandbox_mode)ctx->server->config->sandbox)));
    if (!spec || add_model(a, spec, JOB_ROLE_MODEL, "external", err) ||
        add_model(a, spec, JOB_ROLE_TEACHER, "teacher_external", err) || add_datasets(a, spec, err)) {
        err_set(err, ERR_NOMEM, "out of memory");
        json_decref(spec);
        spec = NULL;
    }
out:
    json_decref(request);
    return spec;
}

/* What the parent watches: memory in use with what a process has before it does anything, and the disk. */
static struct child_limits limits_of(const struct attempt *a)
{
    const struct config *config = a->ctx->server->config;
    const int64_t memory = lesser(a->claim->memory_bytes, a->ctx->memory_bytes);
    int64_t disk = config->job_disk_bytes;
    if (disk == 0 && (disk = blob_free_bytes(a->ctx->server->blobs)) == 0)
        disk = 1;
    return (struct child_limits){.memory_bytes = memory > 0 ? memory + CHILD_OWN_BYTES : 0,
                                 .threads = CHILD_MAX_THREADS,
                                 .disk_dir = a->dir,
                                 .disk_bytes = disk};
}

/* ---- the results --------------------------------------------------------------------------------------------------
 */

static bool plain_name(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = strlen(name);
    return len > 0 && len <= MAX_NAME && name[0] != '.' && strspn(name, allowed) == len;
}

static bool plain_media_type(const char *type)
{
    static const char allowed[] = "abcdefghijklmnopqrstuvwxyz0123456789.+-/";
    size_t len = strlen(type);
    return len > 2 && len <= MAX_NAME && strspn(type, allowed) == len && strchr(type, '/');
}

static int take_artifact(struct attempt *a, json_t *said, struct err *err)
{
    const char *name = json_string_value(json_object_get(said, "name"));
    const char *type = json_string_value(json_object_get(said, "media_type"));
    const char *claimed = json_string_value(json_object_get(said, "sha256"));
    char path[PATH_MAX], sha256[SHA256_HEX];
    if (!name || !plain_name(name) || !type || !plain_media_type(type) || !claimed)
        return err_set(err, ERR_VERIFY, "the job's process named an artifact in a way that is not allowed");
    for (int i = 0; i < a->artifact_count; i++)
        if (!strcmp(a->artifacts[i].name, name))
            return err_set(err, ERR_VERIFY, "the job's process named the artifact '%s' twice", name);
    if (snprintf(path, sizeof path, "%s/%s", a->out, name) >= (int)sizeof path)
        return err_set(err, ERR_IO, "path too long");
    struct store_artifact *artifact = &a->artifacts[a->artifact_count];
    if (blob_put_take(a->ctx->server->blobs, path, sha256, &artifact->bytes, err))
        return err_wrap(err, "artifact '%s': ", name);
    artifact->name = arena_strdup(a->ctx->arena, name);
    artifact->media_type = arena_strdup(a->ctx->arena, type);
    artifact->sha256 = arena_strdup(a->ctx->arena, sha256);
    if (!artifact->name || !artifact->media_type || !artifact->sha256) {
        blob_unpin(a->ctx->server->blobs, sha256);
        gc_blob(a->store, a->ctx->server->blobs, sha256);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    a->artifact_count++;
    if (strcmp(claimed, sha256))
        return err_set(err, ERR_VERIFY, "artifact '%s' is not the file that was verified: its SHA-256 differs", name);
    return 0;
}

static int take_artifacts(struct attempt *a, json_t *result, struct err *err)
{
    json_t *list = json_object_get(result, "artifacts");
    size_t count = json_array_size(list);
    if (count == 0 || count > MAX_ARTIFACTS)
        return err_set(err, ERR_VERIFY, "the job's process named %zu artifacts; 1 to %d are allowed", count,
                       (int)MAX_ARTIFACTS);
    a->artifacts = arena_calloc(a->ctx->arena, count, sizeof *a->artifacts);
    if (!a->artifacts)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < count; i++)
        if (take_artifact(a, json_array_get(list, i), err))
            return -1;
    return 0;
}

/* The pins end; what was not published is removed. */
static void drop_artifacts(struct attempt *a, bool published)
{
    for (int i = 0; i < a->artifact_count; i++) {
        blob_unpin(a->ctx->server->blobs, a->artifacts[i].sha256);
        if (published)
            metrics_observe(METRIC_ARTIFACT_BYTES, (double)a->artifacts[i].bytes);
        else
            gc_blob(a->store, a->ctx->server->blobs, a->artifacts[i].sha256);
    }
    a->artifact_count = 0;
}

/* ---- the end ------------------------------------------------------------------------------------------------------
 */

static char *problem_text(const struct err *err, json_t *said)
{
    json_t *problem =
        json_pack("{s:s, s:s, s:s}", "code", err_slug(err->code), "title", err_title(err->code), "detail", err->msg);
    json_t *faults = json_object_get(said, "errors");
    if (json_is_array(faults) && json_array_size(faults))
        json_object_set(problem, "errors", faults);
    char *text = problem ? json_dumps(problem, JSON_COMPACT) : NULL;
    json_decref(problem);
    return text;
}

/* What a succeeded job keeps of the result line: everything but what has rows of its own. */
static char *result_text(json_t *result)
{
    json_t *kept = json_pack("{s:O?, s:O?}", "targets_met", json_object_get(result, "targets_met"), "metrics",
                             json_object_get(result, "metrics"));
    char *text = kept ? json_dumps(kept, JSON_COMPACT) : NULL;
    json_decref(kept);
    return text;
}

static void count_end(const struct attempt *a, enum job_state state)
{
    static const enum metric metrics[] = {[JOB_QUEUED] = METRIC_JOBS_REQUEUED,
                                          [JOB_SUCCEEDED] = METRIC_JOBS_SUCCEEDED,
                                          [JOB_FAILED] = METRIC_JOBS_FAILED,
                                          [JOB_CANCELED] = METRIC_JOBS_CANCELED};
    static const enum metric seconds[] = {[JOB_QUEUED] = METRIC_JOB_REQUEUED_SECONDS,
                                          [JOB_SUCCEEDED] = METRIC_JOB_SUCCEEDED_SECONDS,
                                          [JOB_FAILED] = METRIC_JOB_FAILED_SECONDS,
                                          [JOB_CANCELED] = METRIC_JOB_CANCELED_SECONDS};
    if (state != JOB_RUNNING) {
        metrics_add(metrics[state], 1);
        metrics_observe(seconds[state], clock_seconds() - a->started);
    }
    log_info("job %s attempt %lld: %s", a->claim->id, (long long)a->claim->attempt, job_state_name(state));
}

/* The catalogue may be away for a moment: try again while the lease can still be ours. Returns whether it was written.
 */
static bool settle(struct attempt *a, const struct store_outcome *outcome)
{
    enum job_state state = JOB_RUNNING;
    for (int i = 0; i < SETTLE_TRIES; i++) {
        struct err err = {0};
        int rc = store_job_settle(a->store, a->claim->id, a->claim->attempt, outcome, &state, &err);
        if (rc > 0) {
            count_end(a, state);
            if (job_state_ended(state) && file_remove_tree(a->dir, &err))
                log_warn("work folder: %s", err.msg);
            return true;
        }
        if (rc == 0) {
            metrics_add(METRIC_LEASES_LOST, 1);
            log_warn("job %s attempt %lld: lease lost, nothing is published", a->claim->id,
                     (long long)a->claim->attempt);
            return false;
        }
        lost_or_failed(a, rc, &err);
        usleep(SETTLE_PAUSE_US);
    }
    return false;
}

static void settle_failed(struct attempt *a, enum store_outcome_kind kind, const struct err *err, json_t *said)
{
    if (err->code == ERR_DISK_FULL || err->code == ERR_STORE)
        kind = STORE_RETRY; /* not the job's fault, and it may pass */
    char *text = problem_text(err, said);
    struct store_outcome outcome = {.kind = kind, .error = text ? text : "{\"code\":\"internal\"}"};
    settle(a, &outcome);
    free(text);
}

static void settle_result(struct attempt *a, json_t *result)
{
    struct err err = {0};
    char *text = result_text(result);
    if (!text)
        err_set(&err, ERR_NOMEM, "out of memory");
    if (!text || take_artifacts(a, result, &err)) {
        drop_artifacts(a, false);
        settle_failed(a, STORE_FAILED, &err, NULL);
    } else {
        struct store_outcome outcome = {
            .kind = STORE_SUCCEEDED, .result = text, .artifacts = a->artifacts, .artifact_count = a->artifact_count};
        drop_artifacts(a, settle(a, &outcome));
    }
    free(text);
}

static void settle_outcome(struct attempt *a, const struct child_outcome *out)
{
    const struct store_outcome canceled = {.kind = STORE_CANCELED}, released = {.kind = STORE_RELEASED};
    if (out->end != CHILD_RESULT)
        log_info("job %s attempt %lld: %s", a->claim->id, (long long)a->claim->attempt, out->err.msg);
    switch (out->end) {
    case CHILD_RESULT:
        settle_result(a, out->result);
        break;
    case CHILD_ERROR:
        settle_failed(a, STORE_FAILED, &out->err, out->problem);
        break;
    case CHILD_CRASHED:
        settle_failed(a, STORE_CRASHED, &out->err, NULL);
        break;
    case CHILD_MEMORY_LIMIT:
    case CHILD_FORBIDDEN:
    case CHILD_DISK_LIMIT:
    case CHILD_TIMEOUT:
        settle_failed(a, STORE_FAILED, &out->err, NULL);
        break;
    case CHILD_CANCELED:
        settle(a, &canceled);
        break;
    case CHILD_ABANDONED:
        if (atomic_load(a->ctx->order) == ATTEMPT_RELEASE)
            settle(a, &released);
        else
            metrics_add(METRIC_LEASES_LOST, 1);
        break;
    case CHILD_NOT_STARTED:
        settle_failed(a, STORE_RETRY, &out->err, NULL);
        break;
    }
}

/* Everything of the job's folder but the checkpoint. */
static int remove_leftovers(const struct attempt *a, struct err *err)
{
    char path[PATH_MAX];
    int rc = 0;
    DIR *dir = opendir(a->dir);
    const struct dirent *e;
    while (dir && rc == 0 && (e = readdir(dir))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !strcmp(e->d_name, CHECKPOINT))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", a->dir, e->d_name) < (int)sizeof path)
            rc = file_remove_tree(path, err);
    }
    if (dir)
        closedir(dir);
    return rc;
}

static int prepare(struct attempt *a, struct err *err)
{
    char base[PATH_MAX];
    if (!realpath(a->ctx->server->config->data, base))
        return err_set_errno(err, ERR_IO, "the data folder");
    if (snprintf(a->dir, sizeof a->dir, "%s/work/%s", base, a->claim->id) >= (int)sizeof a->dir)
        return err_set(err, ERR_IO, "the data folder's path is too long");
    snprintf(a->out, sizeof a->out, "%s/out-%lld", a->dir, (long long)a->claim->attempt);
    snprintf(a->tmp, sizeof a->tmp, "%s/tmp-%lld", a->dir, (long long)a->claim->attempt);
    snprintf(a->checkpoint, sizeof a->checkpoint, "%s/" CHECKPOINT, a->dir);
    return remove_leftovers(a, err) || file_make_dirs(a->out, err) || file_make_dirs(a->tmp, err) ? -1 : 0;
}

void attempt_run(const struct attempt_ctx *ctx)
{
    struct attempt a = {.ctx = ctx, .claim = ctx->claim, .store = ctx->server->store,
                        .started = clock_seconds()};
    struct child_outcome outcome = {0};
    struct err err = {0}, ignored = {0};
    json_t *spec = NULL;
    int64_t timeout_s = lesser(ctx->claim->timeout_s, ctx->server->config->job_timeout_s);
    struct trace trace;
    trace_begin(&trace, ctx->claim->traceparent); /* each attempt is a span of the trace the job came with */
    const struct log_scope scope = {.job_id = ctx->claim->id, .trace_id = trace.id, .owner = ctx->claim->owner};
    const struct log_scope *before = log_enter(&scope);
    if (prepare(&a, &err) || !(spec = make_spec(&a, &err))) {
        settle_failed(&a, err.code == ERR_IO ? STORE_RETRY : STORE_FAILED, &err, NULL);
    } else {
        struct child_opts opts = {.spec = spec,
                                  .dir = a.tmp,
                                  .traceparent = trace.parent,
                                  .timeout_ms = timeout_s * 1000,
                                  .limits = limits_of(&a),
                                  .wake_fd = ctx->wake_fd,
                                  .tick = tick,
                                  .line = take_line,
                                  .arg = &a};
        log_info("job %s attempt %lld: started", a.claim->id, (long long)a.claim->attempt);
        child_run(&opts, &outcome);
        if (a.untold)
            tell_progress(&a);
        settle_outcome(&a, &outcome);
    }
    if (a.out[0] && (file_remove_tree(a.out, &ignored) || file_remove_tree(a.tmp, &ignored)))
        log_warn("work folder: %s", ignored.msg);
    log_enter(before);
    json_decref(spec);
    child_outcome_fini(&outcome);
}

void attempt_forget(struct server *server, const char *job_id)
{
    char path[PATH_MAX];
    struct err err = {0};
    if (snprintf(path, sizeof path, "%s/work/%s", server->config->data, job_id) < (int)sizeof path &&
        file_remove_tree(path, &err))
        log_warn("work folder: %s", err.msg);
}

void attempt_clean(struct server *server)
{
    char work[PATH_MAX], path[PATH_MAX];
    snprintf(work, sizeof work, "%s/work", server->config->data);
    DIR *dir = opendir(work);
    const struct dirent *e;
    while (dir && (e = readdir(dir))) {
        struct err err = {0};
        if (e->d_name[0] == '.' || (id_is(e->d_name, "job") && store_job_active(server->store, e->d_name, &err) != 0))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", work, e->d_name) < (int)sizeof path && file_remove_tree(path, &err))
            log_warn("work folder: %s", err.msg);
    }
    if (dir)
        closedir(dir);
}
