/* SPDX-License-Identifier: Apache-2.0
 * inspect.h - what is in a model file, as JSON: for `pared inspect` and for the server's child.
 * The facts, rows and drawing are core/model/inspect.h's; here they gain what needs the file, the engine or the
 * methods. */
#ifndef PARED_CLI_INSPECT_H
#define PARED_CLI_INSPECT_H

#include <jansson.h>
#include <stdbool.h>

#include "core/engine/engine.h"
#include "core/model/model.h"

struct inspect_opts {
    const char *path;
    const char *sha256;       /* of the file at path, if it is known; NULL: it is made */
    const char *external_dir; /* as onnx_read_opts */
    int (*resolve)(void *arg, const char *location);
    void *resolve_arg;
    bool graph;  /* make the drawing too */
    bool groups; /* and the groups */
};

struct inspect_result {
    json_t
        *facts; /* model_inspect() with "sha256" (of the main file), "bytes" and "zstd_bytes" (of all files), "nonzero",
                     * "sparsity", "macs", "peak_activation_bytes", "runnable", "missing_operators": ["Op (domain, opset
                     * n) x3", ...], "operators_without_gradient": the same of engine_missing_gradients */
    json_t *layers; /* {"data": [...]}, see inspect_layers_json */
    json_t *graph;  /* model_graph_json(); NULL unless asked for */
    json_t *groups; /* inspect_groups_json(); NULL unless asked for */
};

enum {
    INSPECT_MAX_ROWS = 100000, /* of layers, and nodes in a drawing */
    INSPECT_MAX_GROUPS = 5000, /* of pruning */
    INSPECT_MAX_MEMBERS = 100  /* of a group */
};

int inspect_file(const struct inspect_opts *opts, struct inspect_result *result, struct err *err);
void inspect_result_fini(struct inspect_result *result);

/* {"data": rows of model_layers_with()}, each with "macs"?, "prune": {"possible", "why"?} and "quantize": {"possible",
 * "why"?}. A row for each node that holds parameters, multiplies, or has an operator nobody knows. plan may be NULL (no
 * MACs). NULL when memory is out. */
json_t *inspect_layers_json(const struct model *m, const struct plan *plan);

/* {"data": rows of groups_json(), "more"?: groups left off, "why"?: why there are none}. m is not changed. ERR_NOMEM
 * only. */
json_t *inspect_groups_json(const struct model *m, struct err *err);

#endif
