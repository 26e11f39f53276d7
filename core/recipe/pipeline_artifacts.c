/* SPDX-License-Identifier: Apache-2.0
 * pipeline_artifacts.c - files beside model.onnx that steps ask for. They are made last, from the very bytes that were
 * verified, so whatever the recipe does after the step that asked is in them. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/model/parameters.h"
#include "core/recipe/pipeline_impl.h"

/* The server serves these names, and they become file names: nothing but plain ones. */
static bool plain_name(const char *name)
{
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t len = strlen(name);
    return len > 0 && len <= 100 && name[0] != '.' && strspn(name, allowed) == len;
}

int pipeline_add_artifact(struct pipeline *p, const struct recipe_step *step, const struct artifact *artifact,
                          struct err *err)
{
    if (!artifact->name || !plain_name(artifact->name) || !artifact->media_type || !artifact->make)
        return err_set(err, ERR_INTERNAL, "the step asked for a file without a plain name");
    if (!strcmp(artifact->name, "model.onnx") || !strcmp(artifact->name, "report.json") ||
        !strcmp(artifact->name, "report.html"))
        return err_set(err, ERR_RECIPE, "'%s' is made in any case; the file needs another name", artifact->name);
    for (int i = 0; i < p->n_artifacts; i++) {
        struct wanted_artifact *old = &p->artifacts[i];
        if (strcmp(old->artifact.name, artifact->name))
            continue;
        if (old->step != step)
            return err_set(err, ERR_RECIPE, "the file '%s' is already made by %s at %s; one step is enough",
                           artifact->name, old->step->method->name, old->step->pointer);
        old->artifact = *artifact; /* the same step again, in another round */
        return 0;
    }
    struct wanted_artifact *more = realloc(p->artifacts, ((size_t)p->n_artifacts + 1) * sizeof *more);
    if (!more)
        return err_set(err, ERR_NOMEM, "no memory for a file of the result");
    p->artifacts = more;
    more[p->n_artifacts++] = (struct wanted_artifact){.artifact = *artifact, .step = step};
    return 0;
}

static int make(struct pipeline *p, struct wanted_artifact *w, struct err *err)
{
    char *model = NULL, *to = NULL, sha256[SHA256_HEX];
    struct stat st;
    int rc = -1;
    if (asprintf(&model, "%s/model.onnx", p->stage_dir) < 0 ||
        asprintf(&to, "%s/%s", p->stage_dir, w->artifact.name) < 0) {
        err_set(err, ERR_NOMEM, "no memory for a path");
        goto out;
    }
    if (pipeline_tick(p, "write", 0, 0, err) || w->artifact.make(&w->artifact, model, to, p->pool, &w->facts, err))
        goto out;
    if (stat(to, &st)) {
        err_set_errno(err, ERR_IO, "it was not written");
        goto out;
    }
    if (hash_file(to, sha256, err))
        goto out;
    json_t *facts = w->facts ? w->facts : json_object();
    w->facts = json_pack("{s:s, s:I, s:s}", "media_type", w->artifact.media_type, "bytes", (json_int_t)st.st_size,
                         "sha256", sha256);
    rc = w->facts && json_object_update_missing(w->facts, facts) == 0
             ? 0
             : err_set(err, ERR_NOMEM, "no memory for the report");
    json_decref(facts);
out:
    if (rc && err->code != ERR_CANCELED)
        err_wrap(err, "the file '%s': ", w->artifact.name);
    free(model);
    free(to);
    return rc;
}

int pipeline_make_artifacts(struct pipeline *p, struct err *err)
{
    const char **external = NULL;
    int n = 0, rc = 0;
    if (p->n_artifacts && model_external_files(p->after.model, &external, &n, err))
        return -1;
    for (int i = 0; i < p->n_artifacts && rc == 0; i++) {
        for (int k = 0; k < n && rc == 0; k++)
            if (!strcmp(external[k], p->artifacts[i].artifact.name))
                rc = err_set(err, ERR_RECIPE,
                             "'%s' is the name of an external data file of the result and of the file "
                             "that %s makes",
                             external[k], p->artifacts[i].step->method->name);
        if (rc == 0)
            rc = make(p, &p->artifacts[i], err);
    }
    free(external);
    return rc;
}

json_t *pipeline_artifacts_json(const struct pipeline *p)
{
    json_t *all = p->n_artifacts ? json_object() : NULL;
    for (int i = 0; all && i < p->n_artifacts; i++)
        json_object_set(all, p->artifacts[i].artifact.name, p->artifacts[i].facts);
    return all;
}

void pipeline_artifacts_free(struct pipeline *p)
{
    for (int i = 0; i < p->n_artifacts; i++)
        json_decref(p->artifacts[i].facts);
    free(p->artifacts);
}
