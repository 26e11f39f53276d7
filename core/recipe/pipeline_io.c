/* SPDX-License-Identifier: Apache-2.0
 * pipeline_io.c - files in and out. The artifact is made in a folder of its own inside out_dir (same file system) and
 * moved into place by rename, model.onnx after its external data and report.json last: who sees the report finds all
 * of it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/model/onnx_read.h"
#include "core/model/onnx_write.h"
#include "core/model/parameters.h"
#include "core/model/validate.h"
#include "core/recipe/json_text.h"
#include "core/engine/grad.h"
#include "core/recipe/pipeline_impl.h"

static int make_folders(struct pipeline *p, struct err *err)
{
    const struct pipeline_opts *o = p->o;
    if (file_make_dirs(o->out_dir, err))
        return err_wrap(err, "the output folder: ");
    if (asprintf(&p->stage_dir, "%s/.pared-XXXXXX", o->out_dir) < 0) {
        p->stage_dir = NULL;
        return err_set(err, ERR_NOMEM, "no memory for a path");
    }
    if (!mkdtemp(p->stage_dir)) {
        free(p->stage_dir);
        p->stage_dir = NULL;
        return err_set_errno(err, ERR_IO, "the output folder cannot be written to");
    }
    p->own_work = !o->work_dir;
    p->work = o->work_dir ? strdup(o->work_dir) : NULL;
    if (!o->work_dir && asprintf(&p->work, "%s.work", p->stage_dir) < 0)
        p->work = NULL;
    if (!p->work)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    return file_make_dirs(p->work, err);
}

int pipeline_name_dataset(const char *key, struct err *err)
{
    static const char general[] = "dataset: ";
    size_t n = sizeof general - 1;
    if (!strncmp(err->msg, general, n)) /* the reader's own word for it */
        memmove(err->msg, err->msg + n, strlen(err->msg + n) + 1);
    return err_wrap(err, "%s: ", key);
}

static struct dataset *open_dataset(struct pipeline *p, const char *key, const struct pipeline_dataset *from,
                                    struct err *err)
{
    char *cache = NULL;
    struct dataset *ds = NULL;
    if (!from->cache_dir && asprintf(&cache, "%s/%s", p->work, key) < 0) {
        err_set(err, ERR_NOMEM, "no memory for a path");
        return NULL;
    }
    struct dataset_opts opts = {.cache_dir = from->cache_dir ? from->cache_dir : cache,
                                .seed = (uint64_t)p->o->recipe->seed,
                                .pool = p->pool,
                                .confined = from->confined,
                                .own_links = from->own_links};
    if (!pipeline_tick(p, "read", 0, 0, err))
        ds = dataset_open(from->path, &opts, err);
    if (ds && dataset_bind(ds, p->before.model, err)) {
        dataset_close(ds);
        ds = NULL;
    }
    if (ds && dataset_count(ds) <= 0) {
        err_set(err, ERR_DATASET, "it holds no samples");
        dataset_close(ds);
        ds = NULL;
    }
    if (!ds && err->code != ERR_CANCELED)
        pipeline_name_dataset(key, err);
    free(cache);
    return ds;
}

/* What the datasets hold, and which of them the report is about. */
static void choose_measured(struct pipeline *p)
{
    static const char *const names[] = {"dataset", "val_dataset", "eval_dataset"};
    struct dataset *const sets[] = {p->data, p->val_data, p->eval_data};
    for (int i = 0; i < RECIPE_DATASETS; i++) {
        bool labels = sets[i] && dataset_has_labels(sets[i]);
        bool classes = labels && dataset_labels_are_classes(sets[i]);
        p->given.data[i] = (struct recipe_data){sets[i], labels, classes, classes ? dataset_max_label(sets[i]) : 0};
    }
    int measured = recipe_measured_on(&p->given);
    p->split = names[measured < 0 ? RECIPE_DATASET : measured];
    p->eval_data = measured < 0 ? NULL : sets[measured];
}

static int open_datasets(struct pipeline *p, struct err *err)
{
    const struct pipeline_opts *o = p->o;
    if (o->data.path && !(p->data = open_dataset(p, "dataset", &o->data, err)))
        return -1;
    if (o->val_data.path && !(p->val_data = open_dataset(p, "val_dataset", &o->val_data, err)))
        return -1;
    if (o->eval_data.path && !(p->eval_data = open_dataset(p, "eval_dataset", &o->eval_data, err)))
        return -1;
    choose_measured(p);
    return 0;
}

/* A teacher is run, never written: the file, its graph and its operators must be right now, its shapes are compared by
 * the step that learns from it. */
static int open_teacher(struct pipeline *p, struct err *err)
{
    const struct pipeline_opts *o = p->o;
    struct missing_ops missing;
    if (!o->teacher_path)
        return 0;
    const char *slash = strrchr(o->teacher_path, '/');
    p->teacher_name = o->teacher_name ? o->teacher_name : slash ? slash + 1 : o->teacher_path;
    struct onnx_read_opts read = {.resolve = o->resolve_teacher, .resolve_arg = o->resolve_arg};
    int rc = hash_file(o->teacher_path, p->teacher_sha256, err);
    if (rc == 0)
        rc = (p->teacher = onnx_read_file(o->teacher_path, &read, err)) ? model_validate(p->teacher, err) : -1;
    if (rc == 0)
        rc = engine_missing_ops(p->teacher, &missing, err);
    if (rc)
        return err_wrap(err, "the teacher, %s: ", p->teacher_name);
    missing_ops_text(&missing, p->teacher_missing, sizeof p->teacher_missing);
    missing_ops_fini(&missing);
    return 0;
}

int pipeline_open(struct pipeline *p, struct err *err)
{
    const struct pipeline_opts *o = p->o;
    if (make_folders(p, err) || pipeline_tick(p, "read", 0, 0, err))
        return -1;
    if (hash_file(o->model_path, p->source_sha256, err))
        return err_wrap(err, "%s: ", p->name);
    struct onnx_read_opts read = {
        .external_dir = o->external_dir, .resolve = o->resolve, .resolve_arg = o->resolve_arg};
    p->before.model = onnx_read_file(o->model_path, &read, err);
    if (!p->before.model || model_validate(p->before.model, err))
        return err_wrap(err, "%s: ", p->name);
    struct missing_ops missing;
    if (engine_missing_ops(p->before.model, &missing, err))
        return -1;
    missing_ops_text(&missing, p->missing, sizeof p->missing);
    missing_ops_fini(&missing);
    if ((recipe_needs(o->recipe) & NEEDS_GRADIENTS) && engine_missing_gradients(p->before.model, &missing, err))
        return -1;
    missing_ops_text(&missing, p->no_gradient, sizeof p->no_gradient);
    missing_ops_fini(&missing);
    return open_teacher(p, err) || open_datasets(p, err) ? -1 : 0;
}

int pipeline_write(struct pipeline *p, struct model *result, struct err *err)
{
    char *path = NULL;
    if (pipeline_tick(p, "write", 0, 0, err))
        return -1;
    if (asprintf(&path, "%s/model.onnx", p->stage_dir) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    int rc = onnx_write_file(result, path, &(struct onnx_write_opts){0}, err);
    struct err why = {0};
    if (rc == 0 && pipeline_tick(p, "verify", 0, 0, err))
        rc = -1;
    if (rc == 0) {
        p->after.model = onnx_read_file(path, &(struct onnx_read_opts){0}, &why);
        if (!p->after.model || model_validate(p->after.model, &why))
            rc = err_set(err, why.code == ERR_NOMEM ? ERR_NOMEM : ERR_VERIFY, "the result could not be read back: %s",
                         why.msg);
    }
    free(path);
    return rc;
}

static int publish_file(struct pipeline *p, const char *name, struct err *err)
{
    char *from = NULL, *to = NULL;
    int rc = 0;
    if (asprintf(&from, "%s/%s", p->stage_dir, name) < 0 || asprintf(&to, "%s/%s", p->o->out_dir, name) < 0)
        rc = err_set(err, ERR_NOMEM, "no memory for a path");
    else if (rename(from, to))
        rc = err_set_errno(err, ERR_IO, "'%s' could not be moved into the output folder", name);
    free(from);
    free(to);
    return rc;
}

/* Name, size and hash of a file of the stage folder. */
static int describe(struct pipeline *p, json_t *artifacts, const char *name, const char *media_type, struct err *err)
{
    char *path = NULL, sha256[SHA256_HEX];
    struct stat st;
    int rc = 0;
    if (asprintf(&path, "%s/%s", p->stage_dir, name) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    if (stat(path, &st))
        rc = err_set_errno(err, ERR_IO, "'%s' was not written", name);
    else
        rc = hash_file(path, sha256, err);
    if (rc == 0)
        json_array_append_new(artifacts, json_pack("{s:s, s:s, s:I, s:s}", "name", name, "media_type", media_type,
                                                   "bytes", (json_int_t)st.st_size, "sha256", sha256));
    free(path);
    return rc;
}

/* report.html beside report.json. */
static int write_page(struct pipeline *p, const json_t *report, struct err *err)
{
    char *path = NULL, *page = report_html(report);
    int rc = -1;
    if (!page || asprintf(&path, "%s/report.html", p->stage_dir) < 0)
        err_set(err, ERR_NOMEM, "no memory for the page of the report");
    else
        rc = file_write_atomic(path, page, strlen(page), err);
    free(page);
    free(path);
    return rc;
}

int pipeline_publish(struct pipeline *p, struct pipeline_result *result, struct err *err)
{
    static const char binary[] = "application/octet-stream";
    char *path = NULL;
    const char **external = NULL;
    int n = 0, rc = -1;
    if (asprintf(&path, "%s/report.json", p->stage_dir) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    if (!(result->artifacts = json_array())) {
        err_set(err, ERR_NOMEM, "no memory for the list of files");
        goto out;
    }
    if (model_external_files(p->after.model, &external, &n, err) || json_text_write(result->report, path, err) ||
        write_page(p, result->report, err) || describe(p, result->artifacts, "model.onnx", binary, err))
        goto out;
    for (int i = 0; i < n; i++)
        if (describe(p, result->artifacts, external[i], binary, err))
            goto out;
    for (int i = 0; i < p->n_artifacts; i++)
        if (describe(p, result->artifacts, p->artifacts[i].artifact.name, p->artifacts[i].artifact.media_type, err))
            goto out;
    if (describe(p, result->artifacts, "report.json", "application/json", err) ||
        describe(p, result->artifacts, "report.html", "text/html", err))
        goto out;
    for (int i = 0; i < n; i++)
        if (publish_file(p, external[i], err))
            goto out;
    for (int i = 0; i < p->n_artifacts; i++)
        if (publish_file(p, p->artifacts[i].artifact.name, err))
            goto out;
    if (!publish_file(p, "report.html", err) && !publish_file(p, "model.onnx", err) &&
        !publish_file(p, "report.json", err))
        rc = 0;
out:
    free(external);
    free(path);
    return rc;
}

static void subject_fini(struct subject *s)
{
    plan_free(s->plan);
    facts_fini(&s->facts);
    model_free(s->model);
}

void pipeline_clean(struct pipeline *p)
{
    for (int i = 0; i < p->n_probe; i++)
        tensor_fini(&p->probe[i]);
    free(p->probe);
    fidelity_free(p->fidelity);
    subject_fini(&p->after);
    subject_fini(&p->before);
    model_free(p->teacher);
    pipeline_artifacts_free(p);
    free(p->checkpoint_dir);
    if (p->eval_data != p->data && p->eval_data != p->val_data)
        dataset_close(p->eval_data);
    dataset_close(p->val_data);
    dataset_close(p->data);
    warnings_free(p->warnings);
    json_decref(p->steps);
    json_decref(p->targets);
    pool_free(p->pool);
    if (p->stage_dir)
        file_remove_tree(p->stage_dir, NULL);
    if (p->own_work && p->work)
        file_remove_tree(p->work, NULL);
    free(p->stage_dir);
    free(p->work);
}
