/* SPDX-License-Identifier: Apache-2.0
 * inspect.h - what is in a model file, as JSON: for `pared inspect` and for the server's child. */
#ifndef PARED_CLI_INSPECT_H
#define PARED_CLI_INSPECT_H

#include <jansson.h>
#include <stdbool.h>

#include "core/engine/engine.h"
#include "core/model/model.h"

struct inspect_opts {
    const char *path;
    const char *external_dir; /* as onnx_read_opts */
    int (*resolve)(void *arg, const char *location);
    void *resolve_arg;
    bool graph; /* make the drawing too */
};

struct inspect_result {
    json_t *facts;  /* "ir_version", "opsets", "producer", "inputs", "outputs", "nodes", "ops", "params", "nonzero",
                     * "sparsity", "bytes",  "zstd_bytes", "sha256", "macs", "runnable", "missing_operators",
                     * "external_files", "metadata" */
    json_t *layers; /* {"data": [...]}, see inspect_layers_json */
    json_t *graph;  /* see inspect_graph_json; NULL unless asked for */
};

int inspect_file(const struct inspect_opts *opts, struct inspect_result *result, struct err *err);
void inspect_result_fini(struct inspect_result *result);

/* A row for each node of the model that holds parameters or multiplies: {"node", "op_type", "weight"?, "shape"?,
 * "dtype"?, "params", "bytes", "macs"?, "prune": {"possible", "why"?}, "quantize": {"possible", "why"?}}. plan may be
 * NULL (no MACs). At most INSPECT_MAX_ROWS. */
enum { INSPECT_MAX_ROWS = 100000 };
json_t *inspect_layers_json(const struct model *m, const struct plan *plan);
/* The main graph for drawing: {"nodes": [{"id", "op_type", "name", "domain"?}], "edges": [{"from", "to", "value",
 * "type"?}], "truncated"}. from / to are node ids; inputs and outputs of the graph are nodes of op_type "Input" and
 * "Output". */
json_t *inspect_graph_json(const struct model *m);
/* A string that is UTF-8 whatever the file held. */
json_t *inspect_text(const char *text);
/* "float32[1,3,?,224]" with symbols by name, as JSON: {"dtype", "shape": [1, 3, "N", null]}. */
json_t *inspect_type_json(const struct model *m, const struct type *type);

#endif
