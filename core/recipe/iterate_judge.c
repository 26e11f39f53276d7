/* SPDX-License-Identifier: Apache-2.0
 * iterate_judge.c - see iterate_judge.h. The source is measured once. */
#include "core/recipe/iterate_judge.h"

#include <dirent.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/data/split.h"
#include "core/model/onnx_write.h"
#include "core/recipe/json_text.h"
#include "core/recipe/nearest.h"
#include "core/recipe/params.h"
#include "core/report/facts.h"
#include "core/stats/evaluate.h"

/* ---- wishes ---- */

/* What each target is here; those that are not listed cannot be wished for. */
static const struct kind {
    const char *name;
    bool quality, fidelity, macs;
} kinds[] = {
    {"max_accuracy_drop", .quality = true},
    {"min_accuracy", .quality = true},
    {"min_sqnr_db", .quality = true, .fidelity = true},
    {"min_top1_agreement", .quality = true, .fidelity = true},
    {"max_bytes_ratio"},
    {"max_zstd_bytes_ratio"},
    {"max_params_ratio"},
    {"max_nonzero_ratio"},
    {"max_macs_ratio", .macs = true},
};

static const struct kind *kind_of(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    return NULL;
}

bool wish_is_quality(const struct target *target)
{
    return kind_of(target->name)->quality;
}

static void unknown(const char *key, const char *at, struct faults *faults)
{
    struct nearest near = NEAREST(key);
    char hint[80];
    if (target_find(key)) {
        faults_add(faults, at, "'%s' is measured on the finished model only and cannot be wished for on the way", key);
        return;
    }
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        nearest_offer(&near, kinds[i].name);
    faults_add(faults, at, "there is no wish '%.*s'%s", json_text_cut(key, 60), key,
               near.best ? nearest_hint(&near, hint, sizeof hint)
                         : "; among the wishes are max_accuracy_drop, max_bytes_ratio and max_macs_ratio");
}

void wishes_read(const json_t *until, const char *pointer, struct wishes *out, struct faults *faults)
{
    char at[POINTER_TEXT];
    struct faults own = {0};
    const char *key;
    const json_t *v;
    *out = (struct wishes){0};
    if (!faults)
        faults = &own;
    json_object_foreach((json_t *)(uintptr_t)until, key, v)
    {
        const struct target *t = kind_of(key) ? target_find(key) : NULL;
        const double wanted = json_number_value(v);
        pointer_join(at, pointer, key);
        if (!t)
            unknown(key, at, faults);
        else if (!json_is_number(v))
            faults_add(faults, at, "'%s' must be a number, found %s", key, json_text_type(v));
        else if (!(wanted >= t->min && wanted <= t->max))
            faults_add(faults, at, "'%s' must be between %g and %g, found %.15g", key, t->min, t->max, wanted);
        else if (out->n < TARGET_MAX)
            out->at[out->n++] = (struct wish){t, wanted};
    }
    faults_fini(&own);
}

/* ---- measuring ---- */
struct judge {
    struct step_ctx *c;
    const struct wishes *wishes;
    struct dataset *data; /* NULL: nothing is run */
    struct split split;   /* of the dataset; empty: all of it */
    bool fidelity, macs, quality, labels;
    struct facts before;
};

static int tick(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "judge", done, total, err) : 0;
}

static int add_files(struct facts *f, const char *dir, struct err *err)
{
    DIR *d = opendir(dir);
    int rc = 0;
    if (!d)
        return err_set_errno(err, ERR_IO, "a temporary folder cannot be read");
    for (struct dirent *e; rc == 0 && (e = readdir(d));) {
        if (e->d_name[0] == '.')
            continue;
        const int fd = openat(dirfd(d), e->d_name, O_RDONLY | O_CLOEXEC);
        rc = fd < 0 ? err_set_errno(err, ERR_IO, "a temporary file cannot be read")
                    : facts_add_file(f, fd, NULL, NULL, err);
        if (fd >= 0)
            close(fd);
    }
    closedir(d);
    return rc;
}

static int measure_bytes(struct facts *f, const struct model *m, struct err *err)
{
    char *dir = file_temp_dir("iterate", err), *path = NULL;
    int rc = dir ? 0 : -1;
    if (rc == 0 && asprintf(&path, "%s/model.onnx", dir) < 0)
        rc = err_set(err, ERR_NOMEM, "no memory for a path");
    if (rc == 0)
        rc = onnx_write_file(m, path, &(struct onnx_write_opts){0}, err);
    if (rc == 0)
        rc = add_files(f, dir, err);
    if (dir)
        file_remove_tree(dir, NULL);
    free(path);
    free(dir);
    return rc;
}

/* Of batch 1, node by node, as the report counts them. */
static int measure_macs(const struct judge *j, struct facts *f, const struct model *m, struct err *err)
{
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = j->c->pool}, err);
    const int n = plan ? plan_n_inputs(plan) : 0;
    struct shape *in = calloc((size_t)n + 1, sizeof *in);
    const struct type *types;
    int rc = plan ? 0 : -1;
    if (plan && !in)
        rc = err_set(err, ERR_NOMEM, "no memory for shapes");
    for (int i = 0; rc == 0 && i < n; i++)
        plan_input_shape(plan, i, 1, 1, &in[i]);
    if (rc == 0 && (rc = plan_infer(plan, in, &types, err)) == 0)
        facts_cost(f, plan);
    if (rc == 0 && f->macs < 0)
        rc = err_set(err, ERR_MODEL,
                     "max_macs_ratio: the model's multiply-accumulates cannot be counted, because shapes "
                     "in it are not known");
    free(in);
    plan_free(plan);
    return rc;
}

static struct evaluate_opts options(const struct judge *j)
{
    return (struct evaluate_opts){
        .pool = j->c->pool, .index = j->split.held, .n_index = j->split.n_held, .progress = tick, .progress_arg = j->c};
}

/* Takes over the metrics; NULL of data without labels. */
static json_t *metrics_json(struct task_metrics *metrics)
{
    struct task_metrics_result r;
    json_t *o = NULL;
    task_metrics_result(metrics, &r);
    if (r.samples > 0 && (o = task_metrics_json(metrics, false)))
        json_object_set_new(o, "split", json_string("validation"));
    task_metrics_free(metrics);
    return o;
}

static int measure(struct judge *j, const struct model *m, struct facts *f, json_t **fidelity, struct err *err)
{
    const struct evaluate_opts opts = options(j);
    struct task_metrics *metrics = NULL;
    facts_weights(f, m);
    if (measure_bytes(f, m, err) || (j->macs && measure_macs(j, f, m, err)))
        return -1;
    if (!j->data)
        return 0;
    if (j->fidelity && fidelity) {
        struct task_metrics *before = NULL;
        struct fidelity *found =
            evaluate_compare(j->c->source, m, j->data, &opts,
                             &(struct evaluate_compare_opts){.metrics_a = &before, .metrics_b = &metrics}, err);
        if (!found)
            return -1;
        *fidelity = fidelity_json(found, "dataset");
        fidelity_free(found);
        task_metrics_free(before);
    } else if (!(metrics = evaluate_model(m, j->data, &opts, err))) {
        return -1;
    }
    f->metrics = metrics_json(metrics);
    return 0;
}

/* The judged data, and whether it can tell. */
static int choose_data(struct judge *j, struct err *err)
{
    struct step_ctx *c = j->c;
    j->data = c->val_data ? c->val_data : c->data;
    if (!j->data)
        return j->quality ? err_set(err, ERR_DATASET, "iterate judges its wishes on a dataset, and none is given") : 0;
    if (j->labels && !dataset_labels_are_classes(j->data))
        return err_set(err, ERR_DATASET,
                       "iterate judges accuracy on the %s, which has no labels of classes: give a val_dataset with "
                       "labels, or wish for min_top1_agreement instead",
                       c->val_data ? "val_dataset" : "dataset");
    if (!c->val_data && split_dataset(&j->split, c->data, SPLIT_HELD_OUT, c->seed, err))
        return err_wrap(err, "iterate holds a tenth of the dataset back to judge by: ");
    return 0;
}

struct judge *judge_new(struct step_ctx *c, const struct wishes *wishes, struct err *err)
{
    struct judge *j = calloc(1, sizeof *j);
    if (!j) {
        err_set(err, ERR_NOMEM, "no memory to judge rounds");
        return NULL;
    }
    *j = (struct judge){.c = c, .wishes = wishes};
    facts_init(&j->before);
    for (int i = 0; i < wishes->n; i++) {
        const struct kind *k = kind_of(wishes->at[i].target->name);
        j->quality = j->quality || k->quality;
        j->fidelity = j->fidelity || k->fidelity;
        j->macs = j->macs || k->macs;
        j->labels = j->labels || wishes->at[i].target->needs_labels;
    }
    if (choose_data(j, err) || measure(j, c->source, &j->before, NULL, err)) {
        judge_free(j);
        return NULL;
    }
    return j;
}

void judge_free(struct judge *j)
{
    if (!j)
        return;
    split_fini(&j->split);
    facts_fini(&j->before);
    free(j);
}

/* ---- judging ---- */
static double got_of(const json_t *verdict)
{
    const json_t *got = json_object_get(verdict, "got");
    return json_is_number(got) ? json_number_value(got) : NAN;
}

static void weigh(const struct judge *j, struct verdict *v)
{
    double worst = -1;
    v->good = v->small = true;
    for (int i = 0; i < j->wishes->n; i++) {
        const struct wish *w = &j->wishes->at[i];
        json_t *judged = target_judge(w->target, w->wanted, v->figures);
        const bool met = json_is_true(json_object_get(judged, "met"));
        const double got = got_of(judged);
        json_decref(judged);
        if (wish_is_quality(w->target)) {
            v->good = v->good && met;
            v->lack += met ? 0 : isfinite(got) ? fabs(got - w->wanted) : 1e9;
            continue;
        }
        v->small = v->small && met;
        worst = fmax(worst, isfinite(got) ? (w->wanted > 0 ? got / w->wanted : met ? 0 : 1e9 * (1 + got)) : 1e18);
    }
    v->small = v->small && worst >= 0;
    v->size = worst;
    if (worst < 0)
        v->size = json_number_value(json_object_get(json_object_get(v->figures, "ratio"), "zstd_bytes"));
}

int judge_model(struct judge *j, const struct model *m, struct verdict *v, struct err *err)
{
    struct facts after;
    json_t *fidelity = NULL;
    facts_init(&after);
    *v = (struct verdict){0};
    int rc = measure(j, m, &after, &fidelity, err);
    if (rc == 0) {
        v->figures = json_pack("{s:o, s:o, s:o}", "before", facts_json(&j->before), "after", facts_json(&after),
                               "ratio", facts_ratio_json(&j->before, &after));
        if (v->figures && fidelity)
            json_object_set(v->figures, "fidelity", fidelity);
        rc = v->figures ? 0 : err_set(err, ERR_NOMEM, "no memory to judge rounds");
    }
    if (rc == 0)
        weigh(j, v);
    json_decref(fidelity);
    facts_fini(&after);
    if (rc == 0 && j->c->data) /* it was bound to whatever was measured */
        rc = dataset_bind(j->c->data, j->c->model, err);
    return rc;
}

void verdict_fini(struct verdict *v)
{
    json_decref(v->figures);
    v->figures = NULL;
}

json_t *verdict_wishes(const struct verdict *v, const struct wishes *wishes)
{
    json_t *all = json_array();
    for (int i = 0; i < wishes->n; i++)
        json_array_append_new(all, target_judge(wishes->at[i].target, wishes->at[i].wanted, v->figures));
    return all;
}

bool verdict_better(const struct verdict *a, const struct verdict *b)
{
    if (a->good != b->good)
        return a->good;
    if (!a->good && a->lack != b->lack)
        return a->lack < b->lack;
    return a->size < b->size;
}
