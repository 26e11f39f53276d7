/* SPDX-License-Identifier: Apache-2.0
 * engine.h - running a model: plan once, run many times.
 * Life cycle plan_new -> plan_run* -> plan_free. Shapes of the inputs may change between runs: the plan is
 *            re-inferred and its memory
 *            laid out anew when they do (dynamic batch, height, sequence).
 * Memory     Activations live in one slab: a value's bytes are reused after its last reader. Outputs handed to the
 *            caller are the
 *            caller's own. Values whose shape depends on data are allocated on their own.
 * Ownership  The plan borrows the model, which must outlive it and not change. Threads: one run at a time a plan;
 *            the pool is used inside.
 * Errors     ERR_OPERATOR lists every operator that is missing, with how often; ERR_SHAPE and ERR_MODEL name the node;
 *            ERR_MODEL_TOO_LARGE names the node and the limit. */
#ifndef PARED_ENGINE_ENGINE_H
#define PARED_ENGINE_ENGINE_H

#include "core/base/pool.h"
#include "core/model/model.h"
#include "core/ops/op.h"

struct plan; /* opaque */

struct plan_opts {
    struct pool *pool;       /* borrowed; NULL: single-threaded */
    size_t max_memory_bytes; /* activations; 0: 16 GiB */
    bool optimize; /* run a rewritten private copy (optimize.h): fused, packed, blocked. Values that were fused away
                              * are not seen by an observer, and plan_macs counts the nodes of the copy. For speed; leave it
                              * off to observe everything or to train. */
    bool stream;   /* weights stay in their files: nothing is rewritten or packed, and their pages are given back after
                              * each use. Set by itself for models with large weights (model_streams) */
    const bool *watch; /* with optimize: [m->n_values] the values an observer is to see, besides graph inputs; the
                              * rewriting keeps to it. Read by plan_new only. NULL: whatever is left */
};

struct plan *plan_new(const struct model *m, const struct plan_opts *opts, struct err *err);
void plan_free(struct plan *plan);
/* The weights are so large, above 512 MiB, that packed copies beside them would be too much. Two models whose latencies are
 * compared must run alike: give both `stream` if either is. */
bool model_streams(const struct model *m);
/* The model the value ids below belong to: the caller's, or a private copy with local functions inlined or rewritten
 * (the caller's ids hold in it, but what was fused away is nobody's any more). */
const struct model *plan_model(const struct plan *plan);

/* Graph inputs that must be fed: those without an initializer. */
int plan_n_inputs(const struct plan *plan);
uint32_t plan_input(const struct plan *plan, int i); /* value id */
int plan_n_outputs(const struct plan *plan);
uint32_t plan_output(const struct plan *plan, int i);

/* Called after each node for each of its outputs; the tensor is borrowed for the call. Return -1 to stop the run
 * (err set). */
typedef int plan_observer(void *arg, uint32_t value, const struct tensor *t, struct err *err);

struct plan_run_opts {
    plan_observer *observe; /* NULL: none; sees graph inputs too */
    void *observe_arg;
    bool any_order; /* the observer takes the elements of each index of axis 0 in any order: images of an optimized plan
                     * need not be laid out anew for it */
    /* Called between nodes, nested ones too: not 0 stops the run with err set. NULL: none. */
    int (*cancel)(void *arg, struct err *err);
    void *cancel_arg;
    double max_seconds; /* the run is stopped (ERR_TIMEOUT) at the first node after that; 0: no limit */
};
/* in: plan_n_inputs tensors, in order, borrowed. out: plan_n_outputs empty tensors; each gets bytes of its own
 * (tensor_fini).
 * opts may be NULL. An input of another dtype or rank than declared is refused with a sentence. */
int plan_run(struct plan *plan, const struct tensor *in, struct tensor *out, const struct plan_run_opts *opts,
             struct err *err);

/* Infer types for given input shapes (NULL: as declared, symbolic dims stay). Fills types[n_values] (borrowed until
 * the next call). */
int plan_infer(struct plan *plan, const struct shape *in, const struct type **types, struct err *err);
/* Name or formula of a dim that is not a number ("batch", "2*H"), for the types of the last infer; NULL: it has none. */
const char *plan_symbol(const struct plan *plan, int64_t dim);
/* What value_info and graph outputs declare against the types of the last infer: each contradiction is said as a
 * sentence. Inference is believed, declarations are not. Returns how many. */
typedef void plan_sentence(void *arg, const char *sentence);
int plan_contradictions(const struct plan *plan, plan_sentence *say, void *arg);
/* Bytes of the activation slab, and the largest sum of live tensors (its lower bound), for the shapes of the last
 * run or infer. */
size_t plan_slab_bytes(const struct plan *plan);
size_t plan_slab_lower_bound(const struct plan *plan);
/* Bytes of weights that plan_opts.optimize added in layouts of its own (counted beside the model's). */
size_t plan_packed_bytes(const struct plan *plan);
/* MACs of one node, or of all (NODE_NONE), for the shapes of the last infer with known shapes; -1 if unknown. */
int64_t plan_macs(const struct plan *plan, uint32_t node);
/* Declared shapes with every unknown or symbolic dim replaced: the first dim by `batch`, others by `other`. */
void plan_input_shape(const struct plan *plan, int i, int64_t batch, int64_t other, struct shape *out);
/* One kind of operator that cannot run, and how often the model asks for it. Strings are the model's. */
struct missing_op {
    const char *type, *domain; /* domain "ai.onnx" for the default one */
    int64_t opset;
    int64_t count;
};
struct missing_ops {
    struct missing_op *at; /* in the order of first use */
    int count;             /* 0: the model can be planned */
};
/* All of them, nested graphs and function bodies included; at most 256 kinds are listed. No plan is needed. */
int engine_missing_ops(const struct model *m, struct missing_ops *out, struct err *err);
void missing_ops_fini(struct missing_ops *list);
/* "Op (domain, opset n) x3"; the whole list with ", " between. Cut at the buffer's end. Return text. */
const char *missing_op_text(const struct missing_op *op, char *text, size_t size);
const char *missing_ops_text(const struct missing_ops *list, char *text, size_t size);
/* Evaluate a node whose inputs are all constant; out has room for n_output tensors (absent ones stay empty). */
int engine_eval_node(const struct model *m, uint32_t node, struct tensor *out, struct err *err);
/* What the machine is: "AMD EPYC ...", "avx2 fma f16c", "OpenBLAS 0.3.21 Zen". Static strings. */
const char *engine_cpu(void);
const char *engine_isa(void);
const char *engine_blas(void);
/* Once at start of the process, before threads: OpenBLAS single-threaded, denormals as IEEE says, freed tensors back to the
 * system. */
void engine_init(void);

#endif
