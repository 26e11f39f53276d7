/* SPDX-License-Identifier: Apache-2.0
 * inspect.h - what is in a model file, as JSON: for `pared inspect` and for the server's child. */
#ifndef PARED_CLI_INSPECT_H
#define PARED_CLI_INSPECT_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/err.h"

struct inspect_opts {
    const char *path;
    const char *external_dir; /* as onnx_read_opts */
    int (*resolve)(void *arg, const char *location);
    void *resolve_arg;
    bool graph; /* make the drawing too */
};

struct inspect_result {
    json_t *facts;  /* format, opsets, inputs, outputs, counts, bytes, sha256, macs, runnable, missing_operators */
    json_t *layers; /* {"data": [a row a node]} */
    json_t *graph;  /* nodes and edges; NULL unless asked for */
};

int inspect_file(const struct inspect_opts *opts, struct inspect_result *result, struct err *err);
void inspect_result_fini(struct inspect_result *result);

#endif
