/* SPDX-License-Identifier: Apache-2.0
 * External data lies beside the model under names that only the model knows, so the files of that folder may be read,
 * but not its subfolders: the folder may be somebody's home. */
#include "cli/fence_run.h"

#include <dirent.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"

enum { MAX_PLACES = 10000 };

struct fence {
    struct sandbox_place *at; /* owned, with the paths */
    size_t count, room;
};

int fence_start(enum sandbox_mode mode, const char *out_dir, char **argv, struct err *err)
{
    if (mode == SANDBOX_OFF)
        return 0;
    if (!sandbox_alone() && !getenv("OPENBLAS_NUM_THREADS")) {
        setenv("OPENBLAS_NUM_THREADS", "1", 1);
        execv("/proc/self/exe", argv - 1);
    }
    if (file_make_dirs(out_dir, err))
        return err_wrap(err, "the output folder: ");
    return setenv("TMPDIR", out_dir, 1) ? err_set(err, ERR_NOMEM, "out of memory") : 0;
}

static int add(struct fence *f, const char *path, enum sandbox_access access, struct err *err)
{
    if (f->count == MAX_PLACES)
        return err_set(err, ERR_SANDBOX, "more than %d files lie beside the model: give it a folder of its own",
                       (int)MAX_PLACES);
    if (f->count == f->room) {
        const size_t room = f->room ? f->room * 2 : 32;
        struct sandbox_place *grown = realloc(f->at, room * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        f->at = grown;
        f->room = room;
    }
    char *copy = strdup(path);
    if (!copy)
        return err_set(err, ERR_NOMEM, "out of memory");
    f->at[f->count].path = copy;
    f->at[f->count++].access = access;
    return 0;
}

/* The plain files of a folder, and its list of names. */
static int add_files(struct fence *f, const char *folder, struct err *err)
{
    char path[PATH_MAX];
    DIR *dir = opendir(folder);
    const struct dirent *e;
    int rc = dir ? add(f, folder, SANDBOX_LIST, err) : 0; /* no folder: the reader will say so */
    while (dir && rc == 0 && (e = readdir(dir))) {
        struct stat st;
        if (fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW) || !S_ISREG(st.st_mode))
            continue;
        if (snprintf(path, sizeof path, "%s/%s", folder, e->d_name) < (int)sizeof path)
            rc = add(f, path, SANDBOX_READ, err);
    }
    if (dir)
        closedir(dir);
    return rc;
}

/* A model and what lies beside it, unless its external data is elsewhere. */
static int add_model(struct fence *f, const char *path, const char *external_dir, struct err *err)
{
    char folder[PATH_MAX];
    if (!path || access(path, F_OK))
        return 0;
    if (add(f, path, SANDBOX_READ, err))
        return -1;
    const char *slash = strrchr(path, '/');
    if (external_dir)
        return add_files(f, external_dir, err);
    if (!slash)
        return add_files(f, ".", err);
    if (snprintf(folder, sizeof folder, "%.*s", slash == path ? 1 : (int)(slash - path), path) >= (int)sizeof folder)
        return err_set(err, ERR_IO, "path too long");
    return add_files(f, folder, err);
}

/* The files that a data.json names, beside it or elsewhere; it is the user's own. */
static int add_described(struct fence *f, const char *path, struct err *err)
{
    char file[PATH_MAX];
    const char *slash = strrchr(path, '/'), *key;
    json_t *description = json_load_file(path, 0, NULL), *value;
    int rc = add(f, path, SANDBOX_READ, err);
    json_object_foreach (json_object_get(description, "files"), key, value) {
        const char *name = json_string_value(value);
        if (!name || rc)
            continue;
        const bool absolute = *name == '/' || !slash;
        const int n = snprintf(file, sizeof file, "%.*s%s", absolute ? 0 : (int)(slash - path) + 1, path, name);
        if (n < (int)sizeof file && access(file, F_OK) == 0)
            rc = add(f, file, SANDBOX_READ, err);
    }
    json_decref(description);
    return rc;
}

/* A dataset: a file, a folder, or a data.json, which a folder may hold too. */
static int add_data(struct fence *f, const char *path, struct err *err)
{
    char inner[PATH_MAX];
    if (!path || access(path, F_OK))
        return 0;
    const size_t len = strlen(path);
    if (len >= 5 && !strcmp(path + len - 5, ".json"))
        return add_described(f, path, err);
    if (add(f, path, SANDBOX_READ, err))
        return -1;
    return snprintf(inner, sizeof inner, "%s/data.json", path) < (int)sizeof inner && access(inner, F_OK) == 0
               ? add_described(f, inner, err)
               : 0;
}

static int add_output(struct fence *f, const char *path, struct err *err)
{
    if (!path)
        return 0;
    return file_make_dirs(path, err) || add(f, path, SANDBOX_WORK, err) ? -1 : 0;
}

static int collect(struct fence *f, const struct pipeline_opts *o, struct err *err)
{
    return add_model(f, o->model_path, o->external_dir, err) || add_model(f, o->teacher_path, NULL, err) ||
                   add_data(f, o->data.path, err) || add_data(f, o->val_data.path, err) ||
                   add_data(f, o->eval_data.path, err) || add_output(f, o->out_dir, err) ||
                   add_output(f, o->checkpoint_dir, err)
               ? -1
               : 0;
}

int fence_run(enum sandbox_mode mode, const struct pipeline_opts *opts, struct err *err)
{
    struct fence fence = {0};
    struct sandbox_result walls;
    if (mode == SANDBOX_OFF)
        return 0;
    int rc = collect(&fence, opts, err);
    const struct sandbox_opts o = {.mode = mode,
                                   .places = fence.at,
                                   .place_count = fence.count,
                                   .report_fd = STDERR_FILENO,
                                   .terminal = true,
                                   .keep_owner = true};
    if (rc == 0)
        rc = sandbox_enter(&o, &walls, err);
    if (rc == 0 && walls.missing[0])
        fprintf(stderr, "pared: sandbox: %s\n", walls.missing);
    for (size_t i = 0; i < fence.count; i++)
        free((char *)(uintptr_t)fence.at[i].path);
    free(fence.at);
    return rc;
}
