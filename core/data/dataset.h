/* SPDX-License-Identifier: Apache-2.0
 * dataset.h - samples for calibration, evaluation and training, read in batches, never whole in memory (design 4 and 10).
 * Formats    .npz/.npy, IDX (.gz), CIFAR-10 binary, folders of JPEG/PNG in tar/tar.gz/zip or on disk, ONNX test data
 *            (input_K.pb, output_K.pb), or a data.json beside its files. Each format is one row (struct dataset_format).
 * How        An archive or compressed file is unpacked once into `cache_dir` (a file per array, mmapped), with limits on declared and
 *            real size; batches in any order come from there. Pictures are decoded when read.
 * Life cycle dataset_open -> dataset_bind (which model input is which array, checks shapes and dtypes) -> dataset_read* -> dataset_close
 * Errors     ERR_DATASET with the place (file, member, array, key, sample) and the remedy. Threads: one reader at a time. */
#ifndef PARED_DATA_DATASET_H
#define PARED_DATA_DATASET_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/pool.h"
#include "core/model/model.h"

struct dataset; /* opaque */

struct dataset_opts {
    const char *cache_dir;      /* folder for unpacked files, made if absent; NULL: a private temporary folder removed at close */
    size_t max_unpacked_bytes;  /* 0: 64 GiB. Also: unpacked / packed ratio over 1000 beyond 64 MiB is refused (bomb) */
    uint64_t seed;              /* of `shuffle` */
    bool confined;              /* data.json came from a stranger: its files must be plain names beside it, no links */
    bool own_links;             /* with confined: the links beside it are the caller's own and may be followed */
    struct pool *pool;          /* decoding pictures; may be NULL */
};

/* path: a self-describing file, a data.json, a folder with a data.json in it, or a backend-test folder (input_K.pb). */
struct dataset *dataset_open(const char *path, const struct dataset_opts *opts, struct err *err);
void dataset_close(struct dataset *ds);

int64_t dataset_count(const struct dataset *ds); /* samples, after offset and limit */
bool dataset_has_labels(const struct dataset *ds);
bool dataset_labels_are_classes(const struct dataset *ds); /* integer classes [N]; else float targets */
int64_t dataset_class(const struct dataset *ds, int64_t i); /* of sample i; -1: no such sample, or no classes */
int64_t dataset_max_label(const struct dataset *ds);       /* highest class seen; -1 without classes */
bool dataset_single_feed(const struct dataset *ds);        /* backend-test folder: one feed, no batching */
/* Facts for the API and the CLI: {"format", "samples", "labels": "classes"|"targets"|null, "arrays": [{"name","dtype","shape"}], "classes": [...]}. New reference. */
json_t *dataset_facts(const struct dataset *ds);

/* Match arrays to the model's inputs (those that must be fed, in order). Checks dtypes and element counts. After this, batches have the model's dtype and layout. May be called again for another model. */
int dataset_bind(struct dataset *ds, const struct model *m, struct err *err);
/* Read everything once where that is cheap: NaN or infinity in float arrays, negative classes, a sample of the pictures decoded. For uploads. */
int dataset_check_values(struct dataset *ds, struct err *err);
/* Classes must be below `classes` (the width of the model's output). */
int dataset_check_labels(const struct dataset *ds, int64_t classes, struct err *err);
/* Samples index[0..n) as one batch: in[i] for each fed model input [n, ...] (owned by the caller). labels (may be NULL): int64 classes [n], or
 * float targets [n, ...]; left empty without labels. ERR_DATASET names the sample; NaN and infinity are refused. */
int dataset_read(struct dataset *ds, const int64_t *index, int n, struct tensor *in, struct tensor *labels, struct err *err);
/* As dataset_read of n consecutive samples from `first`. */
int dataset_read_range(struct dataset *ds, int64_t first, int n, struct tensor *in, struct tensor *labels, struct err *err);
/* `samples` indices spread evenly over the set (every k-th), all if samples <= 0 or >= count. Returns how many; index is malloc'ed. */
int64_t dataset_spread(const struct dataset *ds, int64_t samples, int64_t **index, struct err *err);
/* Expected outputs of a backend-test folder (output_K.pb), if it has them: tensors are owned by the dataset. */
int dataset_n_expected(const struct dataset *ds);
const struct tensor *dataset_expected(const struct dataset *ds, int i);

#endif
