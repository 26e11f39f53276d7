/* SPDX-License-Identifier: Apache-2.0
 * plan.h - the inside of a plan, shared by plan.c (resolving), plan_infer.c (types, constants), plan_memory.c
 * (layout) and plan_run.c
 * (executing). Not for users of the engine: engine.h.
 * A plan     has two parts. Resolved once: every graph's nodes in order, with their rows and parsed attributes.
 * Bound to input
 *            shapes, and bound anew when these change: types of the main graph's values, contents known without
 *            running, memory.
 * A value    at run time is `slot[v]` if it was computed, else `known[v]` (a weight, or a constant found while
 * binding). */
#ifndef PARED_ENGINE_PLAN_H
#define PARED_ENGINE_PLAN_H

#include "core/engine/engine.h"

/* One node, ready to run. */
struct plan_step {
    uint32_t node;
    const struct op_class *op;
    void *attrs;
    int opset;
    bool nested; /* holds graphs as attributes */
    /* of the binding (main graph only) */
    bool folded;  /* all outputs are known */
    bool live;    /* somebody needs an output */
    bool dynamic; /* an output's shape is found only when running */
};

struct plan_graph {
    struct plan_step *steps;
    int n_steps;
    bool resolved;
};

/* Life of one buffer in the slab: written by step `first`, last read by step `last`. */
struct plan_interval {
    size_t bytes;
    int first, last;
    size_t offset; /* filled by plan_layout */
};
/* Offsets such that buffers alive at the same time never overlap; 64-byte aligned. Best fit, large ones first. slab:
 * bytes needed; lower:
 * the largest sum of live buffers. -1: memory is out or a sum overflows. */
int plan_layout(struct plan_interval *iv, int n, size_t *slab, size_t *lower, struct err *err);

/* Scratch and the account of memory while nodes run. */
struct plan_block {
    void *data;
    size_t bytes;
    int depth; /* of the call that holds it; 0: free */
};
struct plan_host {
    struct plan *plan; /* NULL: a single node is evaluated */
    const struct model *model;
    struct pool *pool;
    size_t limit, used; /* bytes of outputs allocated on their own */
    struct plan_block *block;
    int n_blocks;
    int depth;
};
void plan_host_fini(struct plan_host *host);

struct plan {
    const struct model *m; /* the caller's, or `own` */
    struct model *own;     /* with local functions inlined, or rewritten (optimize.h); NULL if there is nothing to do */
    size_t packed_bytes;   /* weights that rewriting added */
    struct pool *pool;
    size_t limit;
    struct arena *arena;      /* steps and attributes */
    struct plan_graph *graph; /* [m->n_graphs] */
    uint32_t *input, *output;
    int n_input, n_output;
    const int
        *inlined_opset; /* [m->n_nodes] opset of nodes that came from a function body, 0: the model's; NULL: none */

    /* the binding */
    bool bound;                /* to concrete shapes, ready to run */
    struct shape *bound_shape; /* [n_input] */
    struct arena *bind_arena;
    struct type *type;    /* [n_values] */
    struct tensor *known; /* [n_values] dtype NONE: not known */
    bool *known_always;   /* [n_values] known whatever the input shapes are */
    size_t known_bytes;   /* of folded constants */
    int64_t *macs;        /* [n_steps] of the main graph; -1 unknown */
    int *last;            /* [n_values] last step that reads a value of the main graph; n_steps: output; -1: nobody */
    int *die, *die_first; /* values whose last reader is step i: die[die_first[i] .. die_first[i + 1]) */
    size_t *offset;       /* [n_values] in the slab; SIZE_MAX: not there */
    size_t slab_bytes, slab_lower;
    void *slab;
    size_t slab_cap;

    /* the run */
    struct tensor *slot; /* [n_values] dtype NONE: not computed */
    struct plan_host host;
    struct arena *run_arena; /* scratch of inference while running */
};

/* plan.c */
int plan_node_opset(const struct plan *plan, uint32_t node);
void plan_wrap(const struct model *m, uint32_t node, struct err *err); /* "node 'x' (Op): " before the message */
/* plan_inline.c: a private copy with every call of a local function replaced by its body; *out NULL when there is
 * none. */
int plan_inline_functions(const struct model *m, struct model **out, int **opset, struct err *err);
/* Is this node a call of one of the model's functions? NULL: no. */
const struct function *plan_function(const struct model *m, const struct node *node);
/* plan_infer.c */
int plan_bind(struct plan *plan, const struct shape *in, struct err *err);
void plan_unbind(struct plan *plan);
/* plan_run.c: evaluate one resolved node on constants. */
struct plan_eval {
    const struct model *m;
    const struct plan_step *step;
    const struct tensor *const *in;
    int n_in;
    size_t limit; /* bytes of all outputs */
    struct pool *pool;
};
int plan_evaluate(const struct plan_eval *eval, struct tensor *out, struct err *err);
/* Types of a step's outputs from actual tensors. */
int plan_infer_step(const struct model *m, const struct plan_step *step, const struct tensor *const *in, int n_in,
                    struct type *out, struct arena *arena, struct err *err);
/* Longest input and output lists a node may have. */
enum { PLAN_MAX_IO = 1 << 16 };

#endif
