/* SPDX-License-Identifier: Apache-2.0
 * description.h - data.json: what a dataset's files are and how a sample becomes a model's input. Keys: format, files, inputs,
 * preprocess, augment, classes, offset, limit, shuffle. */
#ifndef PARED_DATA_DESCRIPTION_H
#define PARED_DATA_DESCRIPTION_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

enum data_format { DATA_NPZ, DATA_IDX, DATA_CIFAR10, DATA_IMAGES, DATA_ONNX, DATA_FORMAT_COUNT };
extern const char *const data_format_names[DATA_FORMAT_COUNT + 1];

enum data_channels { CHANNELS_UNSET, CHANNELS_RGB, CHANNELS_BGR, CHANNELS_GRAY };

struct preprocess {
    bool given;
    int resize_shorter, center_crop; /* 0: no */
    enum data_channels channels;
    bool nhwc;
    bool has_scale;
    double scale;
    int n_mean, n_std; /* 0, 1 or one a channel; in the order of `channels` */
    double mean[16], std[16];
};

struct description {
    enum data_format format;
    json_t *json; /* the whole document, owned: files, inputs, classes are read from it */
    struct preprocess preprocess;
    int64_t offset, limit; /* limit < 0: all */
    bool shuffle;
};

/* Parse and check every key; ERR_DATASET names the JSON pointer, what was found and what would be right. */
int description_parse(struct description *d, const char *text, size_t len, struct err *err);
void description_init(struct description *d, enum data_format format); /* a self-describing file */
void description_fini(struct description *d);
/* files[key], or NULL. */
const char *description_file(const struct description *d, const char *key);

#endif
