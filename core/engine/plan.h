/* SPDX-License-Identifier: Apache-2.0
 * plan.h - the inside of a plan, shared by plan.c (resolving), plan_infer.c (types, constants), plan_place.c
 * (lives, who shares whose bytes), plan_memory.c (layout) and plan_run.c (executing). Not for users of the engine:
 * engine.h.
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
    bool folded;         /* all outputs are known */
    bool live;           /* somebody needs an output */
    bool dynamic;        /* an output's shape is found only when running */
    bool asked;          /* inference asked for contents it did not have */
    bool settled;        /* run_ctx.settled: nothing is left to infer when it runs */
    struct run_ctx *ctx; /* every wanted output has its place in the slab: the call, ready made; NULL: see run_step */
};

struct plan_graph {
    struct plan_step *steps;
    int n_steps;
    bool resolved;
};

static inline bool plan_type_ready(const struct type *t)
{
    return t->kind == TYPE_TENSOR && t->dtype != DTYPE_NONE && shape_known(&t->shape);
}

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
    bool scratched;                   /* some block is held */
    const struct plan_run_opts *opts; /* of this run; NULL */
    double started;
};
void plan_host_fini(struct plan_host *host);
/* The blocks that the call at this depth holds are free again. */
void plan_release_scratch(struct plan_host *host);

/* A watched image that a rewritten plan has in blocked form only (blocked.h): `twin` is shown to observers as
 * `value`. */
struct plan_stand_in {
    uint32_t value, twin;
    int64_t channels;
    int rank; /* of the value: 4 or 3 */
};

struct plan {
    const struct model *m; /* the caller's, or `own` */
    struct model *own;     /* with local functions inlined, or rewritten (optimize.h); NULL: there is nothing to do */
    size_t packed_bytes;   /* weights that rewriting added */
    bool streams;          /* weights are too large to keep: they are read from the file in each run */
    bool *watch; /* [n_values] computed even if nobody reads them, and shown; NULL: observers see everything */
    struct plan_stand_in *stand_in; /* of watched values, by rising twin */
    uint32_t n_stand_in;
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
    struct type *type;             /* [n_values] */
    struct tensor *known;          /* [n_values] dtype NONE: not known */
    bool *known_always;            /* [n_values] known whatever the input shapes are */
    const struct sym_list **sizes; /* [n_values] what is known of small contents that are not known as a whole; NULL */
    struct symbols *symbols;       /* of a binding to shapes that are not all known */
    size_t known_bytes;            /* of folded constants */
    int64_t *macs;                 /* [n_steps] of the main graph; -1 unknown */
    int *step_of;                  /* [n_nodes] the step of a node of the main graph; -1: none */
    int *last;            /* [n_values] last step that reads a value of the main graph; n_steps: output; -1: nobody */
    int *die, *die_first; /* values with bytes of their own whose last reader is step i: die[die_first[i] ..
                           * die_first[i + 1]) */
    uint32_t *home;  /* [n_values] the value whose bytes this one uses: itself, or what it is a view of or was computed
                           * in place of; VALUE_NONE: found when running */
    size_t *offset;  /* [n_values] in the slab; SIZE_MAX: not there */
    int *run, n_run; /* [n_steps] the live steps, in order */
    size_t slab_bytes, slab_lower;
    void *slab;
    size_t slab_cap;

    /* the run */
    struct tensor *slot; /* [n_values] dtype NONE: not computed. Those in the slab are filled once (placed) */
    bool placed;         /* slots and steps are ready for the binding and the slab */
    uint32_t *loose;     /* [n_loose] values whose slots are emptied after a run */
    uint32_t n_loose;
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
/* plan_place.c: which steps are needed, when values die, where their bytes are. plan_place: for the types just
 * inferred; plan_prepare: for the slab there is now, before a run. */
void plan_find_live(struct plan *plan);
int plan_place(struct plan *plan, struct err *err);
int plan_prepare(struct plan *plan, struct err *err);
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
