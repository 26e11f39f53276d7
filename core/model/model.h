/* SPDX-License-Identifier: Apache-2.0
 * model.h - the intermediate representation (IR): an ONNX model as tables of values, nodes and graphs, addressed by integer ids.
 * Why        Ids make clone and rewrite plain copies instead of pointer surgery; one table for all graphs lets a nested graph
 *            (If, Loop, Scan body) use an outer value by its id like any other.
 * Vocabulary value: a named edge (graph input, initializer, node output). node: one operator call. graph: main graph, nested
 *            graph or function body. An absent optional input or output is VALUE_NONE.
 * Faithful   Whatever ONNX can say is held, also what nothing here understands: unknown fields of each message stay as raw wire
 *            bytes in `unknown`. onnx_read then onnx_write gives the same file. NULL strings are absent fields, "" present ones.
 * Ownership  A model owns everything in it; strings and arrays lie in its arena (model_strdup, model_alloc), so a rewrite
 *            simply points to new ones. Weights are reference-counted tensors: a clone shares them.
 * Threads    One thread changes a model; many may read it.
 * Ids        A removed node keeps its id with op_type NULL, a removed value keeps its id with name NULL (dead rows);
 *            model_compact() is never needed for correctness. Ids stay valid while the tables grow; pointers to rows do not. */
#ifndef PARED_MODEL_MODEL_H
#define PARED_MODEL_MODEL_H

#include "core/base/arena.h"
#include "core/base/err.h"
#include "core/tensor/tensor.h"

#define ID_NONE UINT32_MAX
#define VALUE_NONE ID_NONE
#define NODE_NONE ID_NONE
#define GRAPH_NONE ID_NONE

/* Wire bytes of fields this version does not know, kept for writing. */
struct bytes {
    const void *data;
    size_t len;
};

/* key/value with presence kept: StringStringEntryProto. */
struct entry {
    const char *key, *value;
    struct bytes unknown;
};
struct entries {
    struct entry *at;
    int count;
};

enum type_kind { TYPE_NONE, TYPE_TENSOR, TYPE_SPARSE_TENSOR, TYPE_SEQUENCE, TYPE_MAP, TYPE_OPTIONAL, TYPE_OPAQUE };

/* TypeProto. For tensors: dtype, shape (dims may be symbols of the model, see model_symbol), has_shape tells "no shape
 * given" (rank unknown) from "rank 0". For sequence / optional / map: inner. Kinds that are only carried keep their wire bytes. */
struct type {
    enum type_kind kind;
    enum dtype dtype; /* tensor element, or map key */
    bool has_dtype, has_shape;
    struct shape shape;
    const char **dim_denotation; /* [rank], NULL: none */
    const char *denotation;
    struct type *inner;
    struct bytes opaque; /* what this struct cannot say (TYPE_OPAQUE, rank beyond SHAPE_MAX_RANK, a dim of -1 or "", fields not
                          * known inside): the whole TypeProto as it came, which is written back. type_tensor() drops it */
    struct bytes unknown;
};

/* How an initializer's bytes stood in the file; written back the same way unless the tensor was replaced. */
enum storage { STORAGE_RAW, STORAGE_TYPED, STORAGE_EXTERNAL };

/* TensorProto with its surroundings: initializers, Constant attributes. */
struct weight {
    struct tensor tensor;
    enum storage storage;
    const char *name; /* of a tensor attribute; an initializer's name is its value's */
    const char *doc;
    struct entries external; /* location, offset, length, ... as they stood (STORAGE_EXTERNAL) */
    struct entries metadata;
    struct bytes typed;   /* STORAGE_TYPED: the fields float_data, int32_data, ... as they stood; lies in one of model->files */
    const void *typed_of; /* tensor.data they were decoded to; written only while the tensor still has those bytes */
    struct bytes opaque;  /* the whole TensorProto when it cannot be held (unknown dtype, rank beyond SHAPE_MAX_RANK, segment) */
    bool has_location;    /* data_location was given */
    struct bytes unknown;
    struct weight *next_owned; /* all weights of a model, for model_free */
};

/* What a step leaves for later steps on an initializer or value; passes that replace a value carry it over (value_move_notes).
 * The trainer keeps what notes say true without knowing who set them. Keys are static strings:
 *   "mask"       tensor, bool, of the weight's shape: 0 = stays zero
 *   "splice"     text: the mask may give weights back. While a step trains, the weight holds latent values also where the mask is 0
 *                (the network sees weight * mask, gradients reach all); after it, zeros
 *   "codebook"   tensor, float32 [groups, k]: the weight's elements, cut in the order of storage into `groups` equal runs, are each
 *                one of the k numbers of their run's row (unused places repeat the last). A 0 in it stays 0
 *   "latent"     tensor, of the weight's shape: float values that an integer weight was rounded from
 *   "grid"       quant/grid.h
 *   "kept.<axis>" prune/groups.h */
struct note {
    const char *key;
    const char *text;     /* or NULL */
    struct tensor tensor; /* or empty */
    struct note *next;
};

struct value {
    const char *name;  /* NULL: dead row */
    uint32_t graph;    /* owner */
    uint32_t producer; /* node id or NODE_NONE (input, initializer) */
    int slot;          /* output index at the producer */
    struct type type;  /* best known: declared, or inferred later */
    struct weight *weight; /* initializer; NULL otherwise. May also be a graph input (IR 3) */
    struct note *notes;
};

/* ValueInfoProto of an input, an output or value_info: the declaration as the file has it. */
struct value_info {
    uint32_t value;
    struct type type;
    bool has_type;
    const char *doc;
    struct entries metadata;
    struct bytes unknown;
};

enum attr_type { /* AttributeProto.AttributeType */
    ATTR_UNDEFINED = 0, ATTR_FLOAT = 1, ATTR_INT = 2, ATTR_STRING = 3, ATTR_TENSOR = 4, ATTR_GRAPH = 5, ATTR_FLOATS = 6,
    ATTR_INTS = 7, ATTR_STRINGS = 8, ATTR_TENSORS = 9, ATTR_GRAPHS = 10, ATTR_SPARSE_TENSOR = 11, ATTR_SPARSE_TENSORS = 12,
    ATTR_TYPE_PROTO = 13, ATTR_TYPE_PROTOS = 14
};

struct attr_string {
    const char *data; /* NUL-terminated copy, may hold NULs inside */
    size_t len;
};

struct attr {
    const char *name;
    const char *ref_name; /* inside functions: takes the value of the caller's attribute */
    const char *doc;
    enum attr_type type; /* deduced from the payload when the file (IR < 2) does not say */
    bool has_type;
    int count; /* elements of the payload; 1 for single ones, 0 when the payload field is absent */
    union {
        float *floats;               /* FLOAT, FLOATS */
        int64_t *ints;               /* INT, INTS */
        struct attr_string *strings; /* STRING, STRINGS */
        struct weight **tensors;     /* TENSOR, TENSORS */
        uint32_t *graphs;            /* GRAPH, GRAPHS: ids */
        struct type *types;          /* TYPE_PROTO, TYPE_PROTOS */
        struct bytes *raw;           /* sparse tensors: wire bytes of each message */
    };
    struct bytes unknown; /* also payload fields that do not belong to `type` */
};

struct node {
    const char *op_type; /* NULL: dead row */
    const char *name;    /* NULL if absent; see node_label */
    const char *domain;  /* NULL if absent; NULL, "" and "ai.onnx" are the same domain */
    const char *overload, *doc;
    uint32_t graph;
    uint32_t *input, *output; /* value ids, VALUE_NONE = absent optional */
    int n_input, n_output;
    struct attr *attr;
    int n_attr;
    struct entries metadata;
    struct bytes unknown;
};

struct graph {
    const char *name, *doc;
    uint32_t parent;      /* graph whose values this one may use; GRAPH_NONE for the main graph and functions */
    uint32_t parent_node; /* node that holds it as attribute; NODE_NONE */
    uint32_t *nodes;      /* ids in file order (topological in a valid model; plan and validate do not rely on it) */
    int n_nodes, cap_nodes;
    struct value_info *inputs, *outputs, *infos;
    int n_inputs, n_outputs, n_infos;
    uint32_t *initializers; /* value ids in file order */
    int n_initializers, cap_initializers;
    struct bytes *sparse_initializers; /* wire bytes of each SparseTensorProto */
    int n_sparse_initializers;
    struct bytes quantization; /* quantization_annotation messages, wire bytes */
    struct entries metadata;
    struct bytes unknown;
};

struct opset {
    const char *domain; /* NULL or "" or "ai.onnx": the default domain */
    int64_t version;
    bool has_version;
    struct bytes unknown;
};

struct function {
    const char *name, *domain, *overload, *doc;
    const char **inputs, **outputs, **attrs;
    int n_inputs, n_outputs, n_attrs;
    struct attr *attr_defaults;
    int n_attr_defaults;
    uint32_t body; /* graph: its inputs / outputs as value_infos without type */
    struct opset *opsets;
    int n_opsets;
    struct entries metadata;
    struct bytes unknown;
};

struct model {
    struct arena *arena;
    int64_t ir_version;
    bool has_ir_version, has_model_version;
    const char *producer_name, *producer_version, *domain, *doc;
    int64_t model_version;
    struct opset *opsets;
    int n_opsets;
    struct entries metadata; /* metadata_props */
    struct function *functions;
    int n_functions;
    struct bytes training; /* training_info fields, wire bytes */
    struct bytes unknown;

    struct value *values; /* tables; index = id */
    struct node *nodes;
    struct graph *graphs; /* graphs[0] is the main graph */
    uint32_t n_values, n_nodes, n_graphs;
    uint32_t cap_values, cap_nodes, cap_graphs;
    const char **symbols; /* names of symbolic dims */
    int n_symbols;
    struct tbuf **files; /* mappings that weights may point into, kept alive with the model */
    int n_files;
    struct weight *owned;     /* see model_new_weight */
    struct name_index *names; /* value names to ids; kept by model_add_value, model_rename_value */
};

/* --- life cycle --- */
struct model *model_new(void); /* with an empty main graph; NULL when out of memory */
void model_free(struct model *m);
/* Same tables, same ids, weights shared. */
struct model *model_clone(const struct model *m, struct err *err);
void *model_alloc(struct model *m, size_t count, size_t size); /* zeroed, arena */
const char *model_strdup(struct model *m, const char *text);
const char *model_printf(struct model *m, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* A weight for an attribute: model_free drops its tensor. (model_add_weight makes those of initializers.) */
struct weight *model_new_weight(struct model *m);
/* Keep a buffer alive as long as the model and its clones. Takes over the reference, also when it fails (-1). */
int model_keep_file(struct model *m, struct tbuf *file);

/* --- queries --- */
static inline struct graph *model_main(const struct model *m) { return &m->graphs[0]; }
/* Version of a domain this model imports ("" = ai.onnx; the highest of duplicates); 0 if it does not. */
int64_t model_opset(const struct model *m, const char *domain);
bool model_domain_is_default(const char *domain); /* NULL, "", "ai.onnx" */
/* Value by name as seen from a graph (its own, then its parents'); VALUE_NONE. */
uint32_t model_find_value(const struct model *m, uint32_t graph, const char *name);
uint32_t model_find_node(const struct model *m, const char *name);
/* Name for people and reports: the node's name, else "OpType -> first output". Borrowed until the next call with the same buffer. */
const char *node_label(const struct model *m, uint32_t node, char *buf, size_t size);
const struct attr *node_attr(const struct node *n, const char *name);
int64_t node_attr_int(const struct node *n, const char *name, int64_t fallback);
float node_attr_float(const struct node *n, const char *name, float fallback);
bool node_is(const struct node *n, const char *op_type); /* default domain */
/* The constant bytes of a value: its initializer (unless it is also a graph input that a caller may override and
 * IR >= 4 semantics say otherwise), or the tensor of the Constant node that makes it. NULL if not constant. */
const struct tensor *value_const(const struct model *m, uint32_t value);
bool value_is_graph_output(const struct model *m, uint32_t value);
bool value_is_graph_input(const struct model *m, uint32_t value);

/* Who uses a value: a snapshot, built in O(model), stale after a change. Uses by nested graphs count, as does being an
 * output of a graph (node = NODE_NONE). */
struct use {
    uint32_t node; /* NODE_NONE: graph output */
    int slot;      /* input index, or output index of the graph */
};
struct uses {
    struct use *all;
    uint32_t *first; /* [n_values + 1]: uses of v are all[first[v] .. first[v + 1]) */
};
int uses_build(struct uses *uses, const struct model *m, struct err *err);
void uses_fini(struct uses *uses);
static inline uint32_t uses_count(const struct uses *u, uint32_t v) { return u->first[v + 1] - u->first[v]; }

/* Node ids of a graph in topological order (stable: file order where it already is one). A node depends also on what its nested
 * graphs read from outside. order has room for graph->n_nodes. ERR_MODEL naming a node on a cycle. */
int model_toposort(const struct model *m, uint32_t graph, uint32_t *order, struct err *err);
/* The same check over all graphs at once. */
int model_check_cycles(const struct model *m, struct err *err);

/* --- changes (all return ID_NONE / -1 with ERR_NOMEM when memory is out) --- */
uint32_t model_add_graph(struct model *m, uint32_t parent, uint32_t parent_node);
/* The name is copied and made unique in the model by a suffix when `unique`, otherwise taken as it is. */
uint32_t model_add_value(struct model *m, uint32_t graph, const char *name, bool unique);
/* Initializer of a graph, appended to its list; takes a reference to the tensor. */
uint32_t model_add_weight(struct model *m, uint32_t graph, const char *name, const struct tensor *t);
/* New node appended to its graph's list (position: model_move_node). Arrays are copied; outputs' producer is set. */
uint32_t model_add_node(struct model *m, uint32_t graph, const char *op_type, const char *domain, const char *name,
                        const uint32_t *in, int n_in, const uint32_t *out, int n_out);
/* Place `node` in its graph's list right before / after `anchor`. */
void model_move_node(struct model *m, uint32_t node, uint32_t anchor, bool after);
void model_remove_node(struct model *m, uint32_t node); /* outputs lose their producer; they are not removed */
void model_remove_value(struct model *m, uint32_t value); /* also from initializers, infos; not from node inputs */
int model_rename_value(struct model *m, uint32_t value, const char *name); /* names must change here, not by assignment */
/* The plain type "tensor of dtype and shape". */
struct type type_tensor(enum dtype dtype, const struct shape *shape);
void node_set_int(struct model *m, uint32_t node, const char *name, int64_t v);
void node_set_ints(struct model *m, uint32_t node, const char *name, const int64_t *v, int count);
void node_set_float(struct model *m, uint32_t node, const char *name, float v);
void node_set_string(struct model *m, uint32_t node, const char *name, const char *v);
void node_remove_attr(struct model *m, uint32_t node, const char *name);
/* Grow or set inputs: new slots are VALUE_NONE. */
int node_set_input(struct model *m, uint32_t node, int slot, uint32_t value);
/* Give an initializer other bytes (takes a reference); storage becomes raw, a declared value_info / input type follows. */
int value_set_weight(struct model *m, uint32_t value, const struct tensor *t);
/* Everyone who reads `from` reads `to` instead (nested graphs too); graph outputs as well when `outputs`. */
void model_replace_uses(struct model *m, uint32_t from, uint32_t to, bool outputs);
void value_set_note(struct model *m, uint32_t value, const char *key, const char *text, const struct tensor *t);
const struct note *value_note(const struct model *m, uint32_t value, const char *key);
void value_move_notes(struct model *m, uint32_t from, uint32_t to);
int model_symbol(struct model *m, const char *name); /* index of a symbolic dim, added if new */
void model_set_opset(struct model *m, const char *domain, int64_t version);
void model_set_metadata(struct model *m, const char *key, const char *value);

#endif
