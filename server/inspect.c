/* SPDX-License-Identifier: Apache-2.0
 * Reading uploads in a child: child_inspect_model, child_inspect_dataset of child.h. */
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "server/blob.h"
#include "server/child.h"
#include "server/http.h"
#include "server/id.h"
#include "server/sandbox.h"
#include "server/server.h"

enum { MAX_DETAIL_BYTES = 256 << 20, DIR_SIZE = PATH_MAX - 100, TICK_MS = 250 };

static enum child_tick tick(void *arg)
{
    struct http *http = atomic_load(&((struct server *)arg)->http);
    return http && http_closing(http) ? CHILD_ABANDON : CHILD_GO_ON;
}

static json_t *file_json(const struct child_file *file)
{
    return json_pack("{s:s, s:s}", "name", file->name, "path", file->path);
}

static json_t *files_json(const struct child_file *files, int count)
{
    json_t *list = json_array();
    for (int i = 0; i < count; i++)
        json_array_append_new(list, file_json(&files[i]));
    return list;
}

static json_t *base_spec(const struct config *config, const char *kind, const char *dir)
{
    return json_pack("{s:s, s:s, s:i, s:I, s:I, s:s}", "kind", kind, "work", dir, "threads", 1, "memory_bytes",
                     (json_int_t)config->inspect_memory_bytes, "file_bytes", (json_int_t)config->job_file_bytes,
                     "sandbox", sandbox_mode_name((enum sandbox_mode)config->sandbox));
}

/* Run the child; its facts go to out->facts. Every way to die is the upload's fault: `unreadable` says which kind it
 * was. */
static int run(struct server *server, const struct config *config, json_t *spec, const char *dir,
               enum err_code unreadable, struct child_inspection *out, struct err *err)
{
    const int64_t disk = blob_free_bytes(server->blobs); /* unpacked archives may fill it */
    struct child_opts opts = {.spec = spec,
                              .dir = dir,
                              .timeout_ms = config->inspect_timeout_s * 1000,
                              .limits = {.memory_bytes = config->inspect_memory_bytes + CHILD_OWN_BYTES,
                                         .threads = CHILD_MAX_THREADS,
                                         .disk_dir = dir,
                                         .disk_bytes = disk > 0 ? disk : 1},
                              .wake_fd = -1,
                              .tick_ms = TICK_MS,
                              .tick = tick,
                              .arg = server};
    struct child_outcome outcome;
    child_run(&opts, &outcome);
    int rc = -1;
    json_t *facts = json_object_get(outcome.result, "facts");
    switch (outcome.end) {
    case CHILD_RESULT:
        rc = json_is_object(facts) ? 0 : err_set(err, unreadable, "the file could not be read");
        if (rc == 0)
            out->facts = json_incref(facts);
        break;
    case CHILD_ERROR:
        *err = outcome.err;
        out->problem = json_incref(outcome.problem);
        break;
    case CHILD_NOT_STARTED:
        *err = outcome.err;
        break;
    case CHILD_ABANDONED:
        err_set(err, ERR_UNAVAILABLE, "The server stopped while it read the file. Send it again in a few seconds.");
        break;
    case CHILD_TIMEOUT:
        err_set(err, unreadable, "reading the file took longer than %lld s", (long long)config->inspect_timeout_s);
        break;
    case CHILD_DISK_LIMIT:
        err_set(err, unreadable, "reading the file fills more of the disk than there is");
        break;
    case CHILD_MEMORY_LIMIT:
        err_set(err, unreadable, "reading the file needs more than %lld MiB of memory",
                (long long)(config->inspect_memory_bytes >> 20));
        break;
    default:
        log_warn("reading an upload: %s", outcome.err.msg);
        err_set(err, unreadable, "the process that read the file died; the file is damaged or made to do harm");
        break;
    }
    child_outcome_fini(&outcome);
    return rc;
}

static char *detail(const char *dir, const char *name)
{
    char path[PATH_MAX];
    struct err err = {0};
    if (snprintf(path, sizeof path, "%s/%s", dir, name) >= (int)sizeof path)
        return NULL;
    char *text = file_read_own(path, MAX_DETAIL_BYTES, NULL, &err);
    if (!text)
        log_warn("%s of an upload: %s", name, err.msg);
    return text;
}

/* A private folder below work/, named by a new id, and `out` in it. */
static int make_dir(const struct config *config, char dir[DIR_SIZE], char out[PATH_MAX], struct err *err)
{
    char id[ID_SIZE], base[PATH_MAX];
    id_new(id, "inspect");
    if (!realpath(config->data, base))
        return err_set_errno(err, ERR_IO, "the data folder");
    if (snprintf(dir, DIR_SIZE, "%s/work/%s", base, id) >= DIR_SIZE)
        return err_set(err, ERR_IO, "the data folder's path is too long");
    snprintf(out, PATH_MAX, "%s/out", dir);
    return file_make_dirs(out, err);
}

static void remove_dir(const char *dir)
{
    struct err err = {0};
    if (file_remove_tree(dir, &err))
        log_warn("work folder: %s", err.msg);
}

int child_inspect_model(struct server *server, const struct child_file *files, int count, struct child_inspection *out,
                        struct err *err)
{
    const struct config *config = atomic_load(&server->config);
    char dir[DIR_SIZE], out_dir[PATH_MAX];
    *out = (struct child_inspection){0};
    if (make_dir(config, dir, out_dir, err))
        return -1;
    json_t *spec = base_spec(config, "inspect_model", dir);
    json_object_set_new(spec, "model", file_json(&files[0]));
    if (files[0].sha256)
        json_object_set_new(spec, "model_sha256", json_string(files[0].sha256));
    if (count > 1)
        json_object_set_new(spec, "external", files_json(files + 1, count - 1));
    json_object_set_new(spec, "out", json_string(out_dir));
    int rc = run(server, config, spec, dir, ERR_MODEL_UNREADABLE, out, err);
    if (rc == 0) {
        out->layers = detail(out_dir, "layers.json");
        out->graph = detail(out_dir, "graph.json");
        out->groups = detail(out_dir, "groups.json");
    }
    json_decref(spec);
    remove_dir(dir);
    return rc;
}

int child_inspect_dataset(struct server *server, const struct child_file *files, int count,
                          struct child_inspection *out, struct err *err)
{
    const struct config *config = atomic_load(&server->config);
    char dir[DIR_SIZE], out_dir[PATH_MAX];
    *out = (struct child_inspection){0};
    if (make_dir(config, dir, out_dir, err))
        return -1;
    json_t *spec = base_spec(config, "inspect_dataset", dir);
    json_object_set_new(spec, "dataset",
                        json_pack("{s:o, s:s}", "files", files_json(files, count), "main", files[0].name));
    int rc = run(server, config, spec, dir, ERR_DATASET_UNREADABLE, out, err);
    json_decref(spec);
    remove_dir(dir);
    return rc;
}

void child_inspection_fini(struct child_inspection *inspection)
{
    json_decref(inspection->facts);
    json_decref(inspection->problem);
    free(inspection->layers);
    free(inspection->graph);
    free(inspection->groups);
    *inspection = (struct child_inspection){0};
}
