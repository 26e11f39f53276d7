/* SPDX-License-Identifier: Apache-2.0
 * grad_plan.h - the inside of a gradient plan, shared by grad.c (values and life cycle), grad_path.c (what flows
 * where), grad_plan.c
 * (order and memory) and grad_run.c (executing). Not for users: grad.h. */
#ifndef PARED_ENGINE_GRAD_PLAN_H
#define PARED_ENGINE_GRAD_PLAN_H

#include "core/engine/grad.h"
#include "core/engine/plan.h"

/* One entry of the schedule. The numbers are places in grad.iv, or: */
enum { PLACE_NONE = -1, PLACE_LEAF = -2 }; /* nobody wants it; a parameter's or input's own gradient */
struct grad_action {
    int step;
    bool backward, again;
    bool save;   /* forward: what it leaves is kept for the backward */
    int *place;  /* forward: of each output. backward: of each input's gradient */
    bool *first; /* backward: first contribution to that gradient */
    bool *twice; /* backward: the same value as an input before; place is a buffer of its own, added afterwards */
};

/* A wanted value. */
struct grad_leaf {
    uint32_t value;
    struct tensor data; /* parameters: our copy */
    struct tensor sum;  /* its gradient */
    bool fresh;         /* nothing added since grad_reset */
};

struct grad_block {
    void *data;
    size_t bytes;
    bool busy;
};

struct grad {
    struct plan_host host; /* first: rows get a pointer to it */
    struct model *m;       /* a clone in which parameters are inputs */
    struct plan *plan;
    struct grad_opts opts;
    uint32_t *wanted;       /* copies of the caller's lists: params, inputs, seeds */
    struct grad_leaf *leaf; /* [n_leaf] parameters, then inputs */
    int n_leaf;
    int *leaf_of; /* [n_values] -1 */
    uint32_t *feed;
    int n_feed;

    /* of the path; the shapes do not matter */
    bool *flows;   /* [n_values] a gradient is wanted and comes */
    bool *on_path; /* [n_steps] */

    /* of the binding */
    bool bound;
    struct shape *shapes; /* [n_feed] */
    struct arena *arena;
    struct grad_action *action;
    int n_action, n_forward; /* actions [0, n_forward) are the forward pass */
    struct plan_interval *iv;
    int n_iv;
    int *seed_place; /* [n_output] */
    struct grad_memory memory;
    void *slab;
    size_t slab_cap;

    /* of the run */
    struct tensor *slot;     /* [n_values] where a value is now */
    struct tensor *gradient; /* [n_values] likewise */
    struct tensor *seed;     /* [n_output] */
    void **saved;            /* [n_steps] */
    struct grad_block *block;
    int n_block, cap_block;
    size_t block_bytes;
    struct grad_stats *stats; /* [n_stats] */
    int n_stats, cap_stats;
    bool again; /* the forward that runs is a second one */
    bool forward_done;
    uint64_t batch;
};

static inline const struct node *grad_node(const struct grad *g, int step)
{
    return &g->plan->m->nodes[g->plan->graph[0].steps[step].node];
}
static inline bool grad_runs(const struct grad *g, int step)
{
    return g->plan->graph[0].steps[step].live && !g->plan->graph[0].steps[step].folded;
}
/* Is the bit of input or output i set (the last bit stands for all behind it)? */
static inline bool grad_reads_in(const struct op_class *op, int i)
{
    return op->grad_reads >> (i < 15 ? i : 15) & 1u;
}
static inline bool grad_reads_out(const struct op_class *op, int i)
{
    return op->grad_reads >> (16 + (i < 15 ? i : 15)) & 1u;
}
static inline bool grad_passes(const struct op_class *op, int i)
{
    return op->backward && op->grad_inputs >> (i < 31 ? i : 31) & 1u;
}

/* grad_path.c */
int grad_find_path(struct grad *g, struct err *err);
/* grad_plan.c: schedule and layout for the binding of g->plan. */
int grad_schedule(struct grad *g, struct err *err);
/* grad_run.c */
void grad_drop_saved(struct grad *g);

#endif
