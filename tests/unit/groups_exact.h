/* SPDX-License-Identifier: Apache-2.0
 * groups_exact.h - is a cut exact? Some atoms of one group go; the cut network must give what the original gives
 * when the weights that consume those channels are zero. Where two activations are multiplied (attention) nobody
 * consumes by weight: then the channels themselves are made zero, by the weights and biases that make them. Shared
 * by unit tests and tools. */
#ifndef PARED_TESTS_GROUPS_EXACT_H
#define PARED_TESTS_GROUPS_EXACT_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/engine/engine.h"
#include "core/model/parameters.h"
#include "core/model/validate.h"
#include "core/passes/weights.h"
#include "core/prune/groups.h"

enum exact_zero { EXACT_CONSUMERS, EXACT_CHANNELS };
enum { EXACT_MAX_IO = 64 };

struct exact_inputs {
    struct tensor at[EXACT_MAX_IO];
    int n;
};

/* Seeded inputs of a model: floats normal, integers 0..9 (0 and 1 for bool). other: sizes that are not numbers. */
static inline int exact_fill(const struct model *m, int64_t batch, int64_t other, uint64_t seed,
                             struct exact_inputs *in, struct err *err)
{
    struct plan *plan = plan_new(m, &(struct plan_opts){0}, err);
    struct rng rng;
    rng_init(&rng, seed, 77);
    *in = (struct exact_inputs){0};
    if (!plan || plan_n_inputs(plan) > EXACT_MAX_IO) {
        plan_free(plan);
        return plan ? err_set(err, ERR_INVALID, "too many inputs") : -1;
    }
    int rc = 0;
    for (; rc == 0 && in->n < plan_n_inputs(plan); in->n++) {
        struct shape shape;
        const enum dtype dtype = m->values[plan_input(plan, in->n)].type.dtype;
        plan_input_shape(plan, in->n, batch, other, &shape);
        rc = tensor_alloc(&in->at[in->n], dtype, &shape, err);
        for (int64_t i = 0; rc == 0 && i < tensor_count(&in->at[in->n]); i++)
            dtype_set(dtype, in->at[in->n].data, i,
                      dtype_is_float(dtype) ? rng_normal(&rng)
                      : dtype == DTYPE_BOOL ? (double)rng_below(&rng, 2)
                                            : (double)rng_below(&rng, 10));
    }
    plan_free(plan);
    return rc;
}

static inline void exact_clear(struct exact_inputs *in)
{
    for (int i = 0; i < in->n; i++)
        tensor_fini(&in->at[i]);
    *in = (struct exact_inputs){0};
}

/* out: EXACT_MAX_IO empty tensors. Returns how many; -1. */
static inline int exact_run(const struct model *m, const struct exact_inputs *in, struct tensor *out, struct err *err)
{
    struct plan *plan = plan_new(m, &(struct plan_opts){0}, err);
    int n = -1;
    if (plan && plan_n_outputs(plan) <= EXACT_MAX_IO && plan_n_inputs(plan) == in->n &&
        plan_run(plan, in->at, out, NULL, err) == 0)
        n = plan_n_outputs(plan);
    plan_free(plan);
    return n;
}

/* Largest difference relative to the largest number of that output; INFINITY: shapes or dtypes differ, or not finite
 * where the other is. */
static inline double exact_difference(const struct tensor *a, const struct tensor *b, int n)
{
    double worst = 0;
    for (int k = 0; k < n; k++) {
        double largest = 1e-30, d = 0;
        if (a[k].dtype != b[k].dtype || !shape_equal(&a[k].shape, &b[k].shape))
            return INFINITY;
        for (int64_t i = 0; i < tensor_count(&a[k]); i++) {
            const double x = dtype_get(a[k].dtype, a[k].data, i), y = dtype_get(b[k].dtype, b[k].data, i);
            if (x == y || (isnan(x) && isnan(y)))
                continue;
            if (!isfinite(x - y))
                return INFINITY;
            d = fmax(d, fabs(x - y));
            largest = fmax(largest, fabs(x));
        }
        worst = fmax(worst, d / largest);
    }
    return worst;
}

/* Zero the elements of `t` whose index along `axis` is marked. */
static inline void exact_zero_axis(struct tensor *t, int axis, const bool *marked)
{
    const int64_t outer = shape_product(&t->shape, 0, axis), n = t->shape.dim[axis],
                  inner = shape_product(&t->shape, axis + 1, t->shape.rank);
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = 0; marked[i] && k < inner; k++)
                dtype_set(t->dtype, t->data, (o * n + i) * inner + k, 0);
}

static inline bool exact_makes(const struct group *g, uint32_t node)
{
    for (int i = 0; i < g->n_members; i++)
        if (g->member[i].constant && g->member[i].role == COUPLE_PRODUCES && g->member[i].node == node)
            return true;
    return false;
}

/* m: a clone of the groups' model. */
static inline int exact_zero(struct model *m, const struct group *g, const bool *gone, enum exact_zero how,
                             struct err *err)
{
    for (int i = 0; i < g->n_members; i++) {
        const struct group_member *p = &g->member[i];
        const struct tensor *old = p->constant ? value_const(m, p->value) : NULL;
        struct tensor t = {0};
        if (!old || !dtype_is_float(old->dtype) ||
            (p->role != COUPLE_CONSUMES && (how == EXACT_CONSUMERS || !exact_makes(g, p->node))))
            continue;
        bool *marked = calloc((size_t)p->size + 1, sizeof *marked);
        for (int64_t e = 0; marked && e < p->size; e++)
            marked[e] = p->atom[e] != ATOM_NONE && gone[p->atom[e]];
        int rc = !marked || tensor_copy(&t, old, err);
        if (rc == 0) {
            exact_zero_axis(&t, p->axis, marked);
            rc = weight_replace(m, p->value, &t, err);
        }
        tensor_fini(&t);
        free(marked);
        if (rc)
            return -1;
    }
    return 0;
}

/* About a third of n, at least one, never all. */
static inline void exact_choose(const struct group *g, struct rng *rng, bool *gone)
{
    int64_t left = g->n;
    memset(gone, 0, (size_t)g->n * sizeof *gone);
    for (int64_t i = 0; i < g->n; i++)
        if (left > 1 && rng_below(rng, 3) == 0) {
            gone[i] = true;
            left--;
        }
    if (left == g->n && g->n > 1)
        gone[rng_below(rng, (uint64_t)g->n)] = true;
    for (int i = 0; i < g->n_members; i++) { /* no axis may be emptied */
        const struct group_member *m = &g->member[i];
        int64_t kept = 0, last = -1;
        for (int64_t e = 0; e < m->size; e++) {
            kept += m->atom[e] == ATOM_NONE || !gone[m->atom[e]];
            last = m->atom[e] != ATOM_NONE ? m->atom[e] : last;
        }
        if (kept == 0 && last >= 0)
            gone[last] = false;
    }
}

struct exact_result {
    double error;     /* the smaller of both ways of zeroing */
    bool cost_agrees; /* predicted parameters and MACs are those of the cut model, bytes but for numbers (shapes) */
    bool valid;
    struct groups_cost predicted, found;
};

static inline int exact_costs(const struct model *m, const struct exact_inputs *in, struct groups_cost *c)
{
    struct shape shapes[EXACT_MAX_IO];
    const struct type *types;
    struct plan *plan = plan_new(m, &(struct plan_opts){0}, NULL);
    *c = (struct groups_cost){-1, model_params(m), model_weight_bytes(m)};
    for (int i = 0; plan && i < in->n; i++)
        plan_input_shape(plan, i, 1, -1, &shapes[i]);
    if (plan && plan_infer(plan, shapes, &types, NULL) == 0)
        c->macs = plan_macs(plan, NODE_NONE);
    plan_free(plan);
    return 0;
}

/* Remove `gone` of group `which` from a clone; *cut (may be NULL) gets it. */
static inline int exact_check(const struct model *m, const struct groups *g, int which, const bool *gone,
                              const struct exact_inputs *in, struct exact_result *r, struct model **cut,
                              struct err *err)
{
    const bool **all = calloc((size_t)g->n + 1, sizeof *all);
    struct model *pruned = model_clone(m, err), *zeroed = NULL;
    struct tensor a[EXACT_MAX_IO] = {0}, b[EXACT_MAX_IO] = {0};
    int n = -1, rc = -1;
    *r = (struct exact_result){.error = INFINITY};
    if (all)
        all[which] = gone;
    if (!all || !pruned || groups_cost(g, all, &r->predicted, err) || groups_remove(g, pruned, all, err))
        goto out;
    r->valid = model_validate(pruned, err) == 0;
    if (!r->valid || (n = exact_run(pruned, in, a, err)) < 0)
        goto out;
    for (int how = EXACT_CONSUMERS; how <= EXACT_CHANNELS && r->error > 1e-4; how++) {
        if (!(zeroed = model_clone(m, err)) || exact_zero(zeroed, &g->at[which], gone, (enum exact_zero)how, err) ||
            exact_run(zeroed, in, b, err) != n)
            goto out;
        r->error = fmin(r->error, exact_difference(b, a, n));
        for (int i = 0; i < EXACT_MAX_IO; i++)
            tensor_fini(&b[i]);
        model_free(zeroed);
        zeroed = NULL;
    }
    exact_costs(pruned, in, &r->found);
    r->cost_agrees = r->predicted.params == r->found.params && llabs(r->predicted.bytes - r->found.bytes) <= 1024 &&
                     (r->predicted.macs < 0 || r->found.macs < 0 || r->predicted.macs == r->found.macs);
    rc = 0;
out:
    for (int i = 0; i < EXACT_MAX_IO; i++) {
        tensor_fini(&a[i]);
        tensor_fini(&b[i]);
    }
    model_free(zeroed);
    if (rc == 0 && cut)
        *cut = pruned;
    else
        model_free(pruned);
    free(all);
    return rc;
}

#endif
