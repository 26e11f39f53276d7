/* SPDX-License-Identifier: Apache-2.0
 * op.h - what an operator is: one row beside its code.
 * A row      OP_CLASS(name) = {...}; at file scope of core/ops/<Op>.c (one file an operator or true family). The Makefile greps
 *            "^OP_CLASS(" into the registry: adding an operator touches one file. Rows with the same type and domain and
 *            disjoint [since, until] ranges are versions of one operator.
 * Functions  infer: dtypes and shapes of the outputs, from what is known of the inputs. forward: values. Both get attributes already
 *            parsed and checked by the row's attribute table, and say what is wrong in *err (the caller prepends the node).
 * Not here   planning and running graphs (engine/). Prune, quantization, cost and training never switch on op_type: they ask the row.
 * Docs       formulas and shapes stand in each op's file; docs/OPS.md is printed from the rows. */
#ifndef PARED_OPS_OP_H
#define PARED_OPS_OP_H

#include "core/base/pool.h"
#include "core/model/model.h"
#include "core/ops/symbols.h"

/* ---- attributes ---- */
enum op_attr_kind {
    OP_INT,
    OP_FLOAT,
    OP_STRING,
    OP_INTS,
    OP_FLOATS,
    OP_STRINGS,
    OP_TENSOR,
    OP_GRAPH,
    OP_BOOL,
    OP_ENUM,
    OP_TYPE
};

struct op_ints {
    const int64_t *at;
    int count;
};
struct op_floats {
    const float *at;
    int count;
};
struct op_strings {
    const struct attr_string *at;
    int count;
};

/* One attribute. Field type by kind: OP_INT int64_t, OP_BOOL bool, OP_FLOAT float, OP_STRING const char *, OP_ENUM int (index into
 * `choices`), OP_INTS struct op_ints, OP_FLOATS op_floats, OP_STRINGS op_strings, OP_TENSOR const struct tensor *, OP_GRAPH
 * uint32_t (graph id, GRAPH_NONE if absent), OP_TYPE const struct type *. Defaults: `def` for INT/BOOL/ENUM(index), `def_f` for FLOAT, `def_s` for STRING;
 * lists are empty, tensors and types NULL. A table ends with a row whose name is NULL. */
struct op_attr {
    const char *name;
    enum op_attr_kind kind;
    size_t offset; /* in the op's attrs struct */
    int64_t def;
    float def_f;
    const char *def_s;
    const char *const *choices; /* OP_ENUM: NULL-terminated */
    int max_count;              /* lists: longest allowed; 0 = SHAPE_MAX_RANK * 2 */
    bool required;
};
#define OP_ATTR(struct_type, field) .name = #field, .offset = offsetof(struct struct_type, field)

/* ---- shape inference ---- */
struct infer_ctx {
    const struct node *node; /* for names only; attributes come from attrs */
    const void *attrs;
    int opset; /* of the node's domain */
    int n_in, n_out;
    /* What is known of each input. in[i] == NULL: absent. A tensor type may have an unknown shape; dtype DTYPE_NONE: unknown. */
    const struct type *const *in;
    /* Constant contents of each input if known while planning (weights, folded shape arithmetic); NULL otherwise. */
    const struct tensor *const *in_value;
    /* What is known of the contents of small integer tensors that are no constants: numbers and symbols. The list or an entry
     * may be NULL: nothing. */
    const struct sym_list *const *in_sizes;
    struct symbols *symbols; /* for new ones; NULL: sizes that are not known have no names */
    void *host;              /* the plan, for operators that hold graphs; NULL */
    bool *asked;             /* NULL, or set when a rule asked (op_value) for contents that are not known yet */
    struct type *out;        /* filled by infer: kind, dtype, shape; start as TYPE_TENSOR, DTYPE_NONE, SHAPE_UNKNOWN */
    struct arena *arena;     /* scratch that lives as long as the plan */
};
/* Helpers: true if input i is there. */
static inline bool infer_has(const struct infer_ctx *c, int i)
{
    return i >= 0 && i < c->n_in && c->in[i];
}
static inline const struct shape *infer_shape(const struct infer_ctx *c, int i)
{
    return &c->in[i]->shape;
}
/* Set output i to a tensor type. */
void infer_out(struct infer_ctx *c, int i, enum dtype dtype, const struct shape *shape);

/* Types of the outputs of a nested graph, given those of its inputs (in[n_in]); outer values are found by themselves.
 * 1: cannot be said (out untouched), -1: the graph is wrong. Only from infer. */
int infer_nested(struct infer_ctx *c, uint32_t graph, const struct type *in, int n_in, struct type *out, int n_out,
                 struct err *err);

/* ---- forward ---- */
struct run_ctx {
    const struct node *node;
    const void *attrs;
    int opset;
    int n_in, n_out;
    const struct tensor *const *in; /* NULL = absent; shapes known; contiguous; read-only */
    /* Outputs whose shape inference knew are allocated (64-byte aligned, NOT zeroed); the others have data NULL and must be given
     * bytes by run_alloc. out[i] == NULL: nobody uses this output, compute nothing for it. */
    struct tensor *const *out;
    struct pool *pool;
    bool settled;  /* inference has seen all of this before (types of the inputs, contents it asks for) and every wanted
                      output has its bytes: op_outputs and op_recheck have nothing left to do */
    void *host;    /* the executor, for operators that run nested graphs */
    bool training; /* BatchNormalization uses the batch's statistics, Dropout drops; only on plans made for gradients */
    void **saved;  /* training: what forward leaves for backward, see run_save; NULL: nobody will call backward */
    uint64_t seed; /* training: of this step's random numbers in this run; the same again when it is recomputed */
};
static inline const struct tensor *run_in(const struct run_ctx *c, int i)
{
    return i < c->n_in ? c->in[i] : NULL;
}
static inline struct tensor *run_out(const struct run_ctx *c, int i)
{
    return i < c->n_out ? c->out[i] : NULL;
}
/* Bytes for an output whose shape depends on data. ERR_MODEL_TOO_LARGE over the process limit. */
int run_alloc(struct run_ctx *c, int i, enum dtype dtype, const struct shape *shape, struct err *err);
/* 64-byte aligned scratch for this call; freed after forward returns. NULL: out of memory (err set). Not from inside a pool task. */
void *run_scratch(struct run_ctx *c, size_t bytes, struct err *err);
/* Bytes (64-byte aligned, not zeroed) that live until this step's backward has run, where they are grad_ctx.saved: statistics of
 * a batch, places of maxima, a dropout mask. At most one block a step. Only when c->saved; NULL: out of memory (err set). */
void *run_save(struct run_ctx *c, size_t bytes, struct err *err);
/* Only when c->training: the moments of this batch, for what the inputs of these indices hold as running ones. Copied. */
struct batch_stats {
    int mean_input, var_input;
    double momentum;
    int64_t channels, count;       /* values a channel */
    const double *mean, *variance; /* [channels], biased */
};
int run_stats(struct run_ctx *c, const struct batch_stats *stats, struct err *err);
/* Run a nested graph (If, Loop, Scan body) once: in are its n_in graph inputs (borrowed), out (empty, n_out) gets its outputs, each with
 * bytes of its own, to be given to an output by run_take or back by run_drop. Outer values are found by themselves. Only from forward,
 * not from inside a pool task. */
int run_graph(struct run_ctx *c, uint32_t graph, const struct tensor *const *in, int n_in, struct tensor *out,
              int n_out, struct err *err);
/* A tensor that run_graph made becomes output i (or goes, if nobody uses that output); t is empty afterwards. */
void run_take(struct run_ctx *c, int i, struct tensor *t);
void run_drop(struct run_ctx *c, struct tensor *t);
/* A value that forward made itself (tensor_list, tensor_copy) becomes output i; its bytes are counted now. t is empty afterwards,
 * also on error. For outputs that are not tensors of a shape that inference knew. ERR_MODEL_TOO_LARGE over the limit. */
int run_give(struct run_ctx *c, int i, struct tensor *t, struct err *err);

/* ---- backward ---- */
/* The gradient of a scalar loss: given dL/d(output), add dL/d(input) into what is wanted. Written for float32 and float64 (checks
 * run in float64). */
struct grad_ctx {
    const struct node *node;
    const void *attrs;
    int opset;
    int n_in, n_out;
    const struct tensor *const *in;  /* as forward had them; data NULL where the row's grad_reads does not ask for it */
    const struct tensor *const *out; /* what forward made; data NULL likewise */
    const struct tensor *const *grad_out; /* dL/d(output i), of the output's shape; NULL: none flows there (zero) */
    struct tensor *const *grad_in;        /* dL/d(input i), of the input's shape: add into it. NULL: not wanted */
    const bool *assign; /* [n_in] this is the first contribution: the bytes are not zeroed, write instead of
                                             adding. Only true for rows with grad_assigns; others always add */
    struct pool *pool;
    void *host; /* for grad_scratch */
    bool training;
    void *saved; /* what forward left by run_save, or NULL */
};
static inline const struct tensor *grad_of(const struct grad_ctx *c, int i)
{
    return i < c->n_out ? c->grad_out[i] : NULL;
}
static inline struct tensor *grad_wanted(const struct grad_ctx *c, int i)
{
    return i < c->n_in ? c->grad_in[i] : NULL;
}
/* As run_scratch. */
void *grad_scratch(struct grad_ctx *c, size_t bytes, struct err *err);
/* What backward reads of forward's tensors: bits of op_class.grad_reads. What no one reads is not kept for the backward pass. */
#define GRAD_READS_IN(i) (1u << (i))         /* i in 0..14; 15 stands for "15 and all behind it" */
#define GRAD_READS_OUT(i) (1u << (16 + (i))) /* i in 0..14; 15 likewise */

/* ---- cost ---- */
struct op_cost {
    int64_t macs; /* multiply-accumulates, as design 6 counts them; 0 for everything but products */
};

/* ---- quantization role ---- */
enum quant_kind {
    QUANT_KEEP_FLOAT = 0, /* stays in float (default) */
    QUANT_COMPUTE,        /* a product with a weight: Conv, Gemm, MatMul */
    QUANT_PASS,           /* output reuses input 0's scale (Reshape, MaxPool, ...) */
    QUANT_OUTPUT,         /* quantized in and out with scales of its own (Add, Mul, AveragePool, Concat, ...) */
    QUANT_ABSORB,         /* Relu / Clip: its range becomes the producer's output range under uint8 */
    QUANT_OPTIONAL,       /* as QUANT_OUTPUT, but only when asked for: no runtime has an integer kernel, or 8 bits cost
                             accuracy out of proportion (normalizations, Softmax, Gelu, ...) */
};
struct quant_role {
    enum quant_kind kind;
    int weight;       /* QUANT_COMPUTE: input index of the weight (0 = none) */
    int bias;         /* input index of the bias, 0 = none */
    int channel_axis; /* output-channel axis of the weight; Gemm's transB is the family's business (channel_axis_of) */
    int (*channel_axis_of)(const void *attrs, int rank); /* NULL: channel_axis as it is */
    uint32_t inputs; /* QUANT_OUTPUT, QUANT_OPTIONAL: bit i: input i is quantized; 0: all of floating point */
    float low, high; /* low < high: the output lies within, whatever the input */
};

/* ---- pruning: couple.h ---- */
struct coupling;
struct shrink;

/* ---- generic test cases ---- */
/* Text, so that a case is a line: inputs "f32[1,3,5,5] i64[2]=1,-1 none", attributes "kernel_shape=3,3 auto_pad=SAME_UPPER axis=1 alpha=0.5f".
 * dtype letters: f32 f64 f16 bf16 i8 u8 i16 u16 i32 u32 i64 u64 b (bool). Values are seeded random in [-2, 2] (integers 0..9, or as given
 * after '='). A leading '!' on an input makes it a weight (initializer). `outputs` defaults to 1. opset 0: the row's newest. */
struct op_sample {
    const char *inputs, *attrs;
    int outputs, opset;
};

struct op_class {
    const char *type;   /* "Conv" */
    const char *domain; /* "" = ai.onnx, "com.microsoft" */
    int since, until;   /* opset versions, until 0 = newest */
    const char *doc;
    int in_min, in_max;   /* -1 = any number */
    int out_min, out_max; /* -1 = any number */
    const struct op_attr *attrs;
    size_t attrs_size;
    /* Free-form check after parsing attributes, before inference; NULL. */
    int (*infer)(struct infer_ctx *c, struct err *err);
    /* What is known of the contents of output 0, a small tensor, when those of the inputs are not constant but partly known:
     * out->at has room for SYM_LIST_MAX. False: nothing. Called after infer. NULL: nothing is ever known. */
    bool (*propagate)(const struct infer_ctx *c, struct sym_list *out);
    int (*forward)(struct run_ctx *c, struct err *err);
    int (*backward)(struct grad_ctx *c, struct err *err); /* NULL: no gradient passes */
    uint32_t grad_reads;                                  /* GRAD_READS_IN(i) | GRAD_READS_OUT(i) ... */
    bool grad_assigns;                                    /* backward heeds grad_ctx.assign */
    uint32_t
        grad_inputs; /* bit i: differentiable in input i (bit 31: and in all from 31 on); only with backward. Indices, shapes
                             and axes are not */
    /* couple.h: which elements of its axes are pruned together (NULL: nothing of what it touches is), and how its numbers
     * follow (NULL: it holds none). Return -1 with ERR_NOMEM only. */
    int (*couple)(struct coupling *k, struct err *err);
    int (*shrink)(struct shrink *s, struct err *err);
    /* All shapes known. NULL: costs nothing. */
    void (*cost)(const struct infer_ctx *c, struct op_cost *cost);
    struct quant_role quant;
    /* Integer/shape operator that planning may evaluate on constant inputs is any op whose inputs are all known; ops with
     * `random` results or side effects are never folded. */
    bool nondeterministic;
    uint32_t
        in_place; /* bit i: forward may be given input i's bytes as output 0's, when dtype and bytes are the same and nobody
                          else reads them any more (element-wise rows) */
    bool view;     /* output 0 has input 0's bytes in another shape (Reshape, Identity): forward may be given those very
                          bytes, whoever else reads them, and then writes nothing */
    bool internal; /* made by the engine's own rewriting only (domain OP_DOMAIN_ENGINE); refused in a user's model */
    bool
        takes_lists; /* its inputs may be sequences and optionals (tensor.h); for all other rows the engine refuses those */
    bool shape_only;                 /* forward reads no element of its inputs, only dtype and shape (Shape, Size) */
    const struct op_sample *samples; /* ends with inputs == NULL; NULL: covered by tests of its own */
};

#define OP_DOMAIN_ENGINE "pared.engine"
#define OP_CLASS(id) const struct op_class op_class_##id

/* ---- registry ---- */
/* Row for an operator at an opset; NULL if unknown (also: known, but not at this opset). */
const struct op_class *op_find(const char *type, const char *domain, int64_t opset);
/* All rows, NULL-terminated, sorted by domain, type, since. */
const struct op_class *const *op_all(void);
/* Newest opset of the default domain the rows are written for. */
enum { OP_OPSET_NEWEST = 28 };
/* Parse a node's attributes into `attrs` (op->attrs_size bytes, zeroed, lists in arena). Unknown attributes are refused
 * unless ignorable; ERR_MODEL names attribute, found, allowed. */
int op_parse_attrs(const struct op_class *op, const struct model *m, const struct node *node, void *attrs,
                   struct arena *arena, struct err *err);

#endif
