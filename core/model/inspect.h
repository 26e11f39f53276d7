/* SPDX-License-Identifier: Apache-2.0
 * inspect.h - what is in a model, as JSON: for `pared inspect`, GET /v1/models/{id}, /layers and /graph.
 * Only looks: works on models the engine cannot run, on models whose weights are missing, and on unaligned windows.
 * Text       Names come from the file; bytes that are no UTF-8 show as U+FFFD.
 * Not here   MACs and what can be quantized or pruned: those need shapes and operators (report/). */
#ifndef PARED_MODEL_INSPECT_H
#define PARED_MODEL_INSPECT_H

#include <jansson.h>

#include "core/model/model.h"

/* Numbers that count as parameters: elements of initializers and of Constant nodes' tensors, except int64, bool and string ones
 * (shapes, indices, text). Missing bytes are counted by their dims. */
int64_t model_params(const struct model *m);
/* How many of them are not zero (-0 is zero). Reads all weights. */
int64_t model_nonzero(const struct model *m);
/* Bytes of all initializers and Constant tensors, of any dtype. */
int64_t model_weight_bytes(const struct model *m);

/* { ir_version, opset, opsets: [{domain, version}], producer_name, producer_version, domain, model_version, graph_name,
 *   inputs: [{name, dtype, shape}], outputs, nodes, ops: {Conv: 53}, functions: [..], subgraphs, params, weight_bytes,
 *   dtypes: {float32: params}, external_files: [..], metadata: {..}, layers: [..] if asked }
 * shape: numbers, names of symbolic dims, null for a dim of any size; null alone when not even the rank is known. Absent facts
 * are absent. inputs are those a caller must give (no initializer). NULL when memory is out. */
json_t *model_inspect(const struct model *m, bool layers);

/* The layers alone: one object a node that reads weights, in graph order:
 * { node, op_type, weights: [{name, shape, dtype, params, bytes}], params, bytes }. A weight behind DequantizeLinear, Cast, Identity or
 * Transpose belongs to the node that reads the result. */
json_t *model_layers(const struct model *m);

/* For drawing: { inputs: [name], outputs: [name], nodes: [{id, name, op_type, domain, params}], edges: [{from, to, value, dtype, shape}] }
 * of the main graph; from / to are node ids, "input:NAME" or "output:NAME". At most `max_nodes` nodes (the first in graph
 * order); `truncated` says that there are more. */
json_t *model_graph_json(const struct model *m, int max_nodes);

#endif
