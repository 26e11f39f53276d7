/* SPDX-License-Identifier: Apache-2.0
 * pipeline_checkpoint.c - where long steps keep their state, so that a job killed in the middle goes on.
 * Key        Below the folder the caller gives, each job has one of its own, named by a hash of all that its result
 *            depends on: version, source, teacher, recipe, data. What another job left there is never read and never
 *            touched; a job of another version starts anew.
 * Data       is known by the number of its samples and the bytes of a few, spread evenly, with their labels: paths and
 *            times differ between attempts, and reading everything would cost as much as an epoch.
 * Files      PLACE.snapshot, PLACE as in "2" (second step) or "2.1-r3" (its first nested step, third round). They stay
 *            until the job has ended well: a step that was finished is passed over quickly by the next attempt. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/recipe/json_text.h"
#include "core/recipe/pipeline_impl.h"

enum { IDENTITY_SAMPLES = 64, KEY_CHARS = 32 };

static void add_text(struct hash *hash, const char *text)
{
    hash_update(hash, text, strlen(text) + 1);
}

static int add_sample(struct pipeline *p, struct hash *hash, struct dataset *ds, int64_t index, struct err *err)
{
    const int n = p->n_probe; /* inputs to feed */
    struct tensor *in = calloc((size_t)n + 1, sizeof *in), labels = {0};
    int rc = in ? dataset_read(ds, &index, 1, in, &labels, err) : err_set(err, ERR_NOMEM, "no memory for a sample");
    for (int i = 0; rc == 0 && i < n; i++)
        hash_update(hash, in[i].data, in[i].bytes);
    if (rc == 0 && labels.data)
        hash_update(hash, labels.data, labels.bytes);
    for (int i = 0; in && i < n; i++)
        tensor_fini(&in[i]);
    tensor_fini(&labels);
    free(in);
    return rc;
}

static int add_dataset(struct pipeline *p, struct hash *hash, struct dataset *ds, struct err *err)
{
    char count[40];
    int64_t *index = NULL;
    if (!ds) {
        add_text(hash, "none");
        return 0;
    }
    snprintf(count, sizeof count, "%lld", (long long)dataset_count(ds));
    add_text(hash, count);
    const int64_t n = p->runs ? dataset_spread(ds, IDENTITY_SAMPLES, &index, err) : 0;
    int rc = n < 0 ? -1 : 0;
    for (int64_t i = 0; i < n && rc == 0; i++)
        rc = add_sample(p, hash, ds, index[i], err);
    free(index);
    return rc;
}

static int make_key(struct pipeline *p, char key[SHA256_HEX], struct err *err)
{
    struct hash hash;
    json_t *json = recipe_json(p->o->recipe);
    char *text = json_dumps(json, JSON_COMPACT | JSON_TEXT_DUMP), zstd_bytes[40];
    json_decref(json);
    if (!text)
        return err_set(err, ERR_NOMEM, "no memory for the recipe");
    hash_init(&hash);
    add_text(&hash, PARED_VERSION);
    add_text(&hash, p->source_sha256);
    snprintf(zstd_bytes, sizeof zstd_bytes, "%lld", (long long)p->before.facts.zstd_bytes);
    add_text(&hash, zstd_bytes); /* of external data too */
    add_text(&hash, p->teacher ? p->teacher_sha256 : "none");
    add_text(&hash, text);
    free(text);
    if (add_dataset(p, &hash, p->data, err) || add_dataset(p, &hash, p->val_data, err))
        return -1;
    hash_final(&hash, key);
    return 0;
}

int pipeline_checkpoint_open(struct pipeline *p, struct err *err)
{
    char key[SHA256_HEX];
    if (!p->o->checkpoint_dir || !recipe_has_family(p->o->recipe, "train"))
        return 0;
    if (make_key(p, key, err))
        return -1;
    if (asprintf(&p->checkpoint_dir, "%s/%.*s", p->o->checkpoint_dir, KEY_CHARS, key) < 0) {
        p->checkpoint_dir = NULL;
        return err_set(err, ERR_NOMEM, "no memory for a path");
    }
    return file_make_dirs(p->checkpoint_dir, err) ? err_wrap(err, "the folder for checkpoints: ") : 0;
}

char *pipeline_checkpoint_path(const struct pipeline *p, const char *place)
{
    char *path = NULL;
    if (!p->checkpoint_dir || asprintf(&path, "%s/%s.snapshot", p->checkpoint_dir, place) < 0)
        return NULL;
    return path;
}

void pipeline_checkpoint_remove(struct pipeline *p)
{
    if (p->checkpoint_dir && file_remove_tree(p->checkpoint_dir, NULL))
        pipeline_log(p, "warn", "the folder of checkpoints could not be removed");
}
