/* SPDX-License-Identifier: Apache-2.0
 * dataset_internal.h - what dataset_open.c fills and dataset.c reads; loader.c and augment.c look
 * into it too. Not for others. */
#ifndef PARED_DATA_DATASET_INTERNAL_H
#define PARED_DATA_DATASET_INTERNAL_H

#include "core/data/array.h"
#include "core/data/dataset.h"
#include "core/data/description.h"
#include "core/data/unpack.h"

enum { DATASET_MAX_ARRAYS = 64, DATASET_MAX_FILES = 64 };

/* How one model input is made from a source. */
struct binding {
    const struct array *array; /* NULL: pictures or CIFAR-10 records */
    enum dtype dtype;          /* of the model's input */
    struct shape sample;       /* one sample as the model wants it, without the batch axis; unknown dims follow the data */
    bool pixels;               /* preprocess applies */
    char name[128];            /* of the model's input, for sentences */
};

struct dataset {
    struct description desc;
    struct dataset_opts opts;
    char *cache_dir;
    bool own_cache;
    int n_cache_files;

    struct array arrays[DATASET_MAX_ARRAYS];
    int n_arrays;
    struct array labels; /* name NULL: none. [N], [N, 1] of integers are classes; anything else float targets */
    struct file_map files[DATASET_MAX_FILES];
    int n_files;
    struct members members; /* of an npz or of pictures */
    const unsigned char *cifar; /* records */
    bool pictures;

    struct tensor expected[DATASET_MAX_ARRAYS]; /* output_K.pb */
    int n_expected;
    bool single_feed;

    int64_t total, first, count; /* samples in the files; window after offset and limit */
    int64_t *order;              /* [total] when shuffled, else NULL */
    int64_t max_label;
    bool labels_are_classes;

    struct binding *bindings;
    int n_bindings;
    size_t read_bytes; /* given out since the mapped files' pages were last forgotten */
};

/* Fill everything but bindings. */
int dataset_load(struct dataset *ds, const char *path, struct err *err);
/* The shape of the first sample as it lies in the files, without the batch axis: pixels as preprocess leaves them, before the
 * model's shape is given to it. */
int dataset_sample_shape(const struct dataset *ds, int binding, struct shape *out, struct err *err);

#endif
