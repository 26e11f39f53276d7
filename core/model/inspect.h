/* SPDX-License-Identifier: Apache-2.0
 * inspect.h - what is in a model, as JSON: for `pared inspect`, GET /v1/models/{id}, /layers and /graph.
 * Only looks Works on models the engine cannot run, on models whose weights are missing, and on unaligned windows.
 * Text       Names come from the file; bytes that are no UTF-8 show as U+FFFD.
 * Not here   Figures that need the files, the engine or the methods (bytes, MACs, what can be pruned or quantized):
 *            cli/inspect.h adds them to what these functions return. */
#ifndef PARED_MODEL_INSPECT_H
#define PARED_MODEL_INSPECT_H

#include <jansson.h>

#include "core/model/parameters.h"

/* { ir_version, opset, opsets: [{domain, version}], producer_name, producer_version, domain, model_version, graph_name,
 *   inputs: [{name, dtype, shape}], outputs, nodes, ops: {Conv: 53}, functions: [..], subgraphs, params, weight_bytes,
 *   dtypes: {float32: params}, external_files: [..], metadata: {..} }
 * shape: numbers, names of symbolic dims, null for a dim of any size. Absent facts are absent; so is a shape of which
 * not even the rank is known. inputs are those a caller must give (no initializer). Of metadata at most INSPECT_ENTRIES
 * entries of INSPECT_TEXT bytes: the rest is said to be longer. NULL when memory is out. */
enum { INSPECT_ENTRIES = 1000, INSPECT_TEXT = 4096 };
json_t *model_inspect(const struct model *m);

/* One row a node that reads weights, in the order of the file:
 * { node, op_type, weights: [{name, shape, dtype, params, bytes, nonzero?, histogram?}], params, bytes }. nonzero (as
 * core/model/parameters.h counts) and histogram (core/model/spread.h, of the first INSPECT_SPREADS weights) are absent
 * where the bytes are missing. A weight behind DequantizeLinear,
 * Cast, Identity or Transpose belongs to the node that reads the result. At most max_rows. NULL when memory is out. */
enum { INSPECT_SPREADS = 2000 };
json_t *model_layers(const struct model *m, int max_rows);
/* The same with more in a row. `add` gets a row for every node but those four, weights or not, writes what it knows
 * into it, and says whether the row is to be listed. */
typedef bool layer_add_fn(void *arg, uint32_t node, json_t *row);
json_t *model_layers_with(const struct model *m, int max_rows, layer_add_fn *add, void *arg);

/* The main graph for drawing: { nodes: [{id, op_type, name, domain, params}], edges: [{from, to, value, dtype, shape}],
 * truncated }. from / to are node ids; what goes into the graph and what comes out are nodes too, of op_type "Input"
 * and "Output". Weights are no nodes: `params` is how many the node reads itself. At most max_nodes of the model's
 * nodes, the first in the order of the file; `truncated` says that there are more. NULL when memory is out. */
json_t *model_graph_json(const struct model *m, int max_nodes);

#endif
