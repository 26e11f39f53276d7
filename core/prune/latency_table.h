/* SPDX-License-Identifier: Apache-2.0
 * latency_table.h - how long a pruned network will take on this machine, before it is made: what a `target` on latency
 * searches with.
 * Why        time does not follow the MACs: layers bound by memory hardly get faster, kernels work in blocks of
 *            channels. So layers are run, not counted.
 * How        The network is cut at a few ratios. At each, every distinct layer (a product with the shapes it has
 *            there) is timed alone, and the whole network is timed too. A layer's time for another number of channels
 *            lies between the times of its neighbours in the table, by the fraction of its weight that is left; the
 *            sum of the layers is brought to the whole network's time by the factor found at the nearest points (what
 *            is not a product, what is fused).
 * Machine    Times are this machine's, with the pool's threads: results of latency targets are the only ones that
 *            depend on it.
 * Ownership  groups are borrowed until latency_table_free. Threads: one caller.
 * Errors     as of groups_remove, plan_new, plan_run. */
#ifndef PARED_PRUNE_LATENCY_TABLE_H
#define PARED_PRUNE_LATENCY_TABLE_H

#include "core/base/pool.h"
#include "core/prune/groups.h"
#include "core/prune/select.h"

struct latency_table; /* opaque */

struct latency_table_opts {
    const struct model *model;    /* the one the groups were found on; not changed */
    const struct groups *groups;
    const struct select *select;  /* what a ratio takes from each group */
    struct pool *pool;
    uint64_t seed;
    int (*progress)(void *arg, int64_t done, int64_t total, struct err *err); /* may be NULL */
    void *progress_arg;
};

struct latency_table *latency_table_new(const struct latency_table_opts *o, struct err *err);
void latency_table_free(struct latency_table *t);
/* Time of the network without these atoms, as a fraction of the whole one's. gone: as of groups_remove. */
double latency_table_left(const struct latency_table *t, const bool *const *gone);
/* {"whole_ms": [...], "ratios": [...], "layers": [{"node", "left": [...], "ms": [...]}]}; new reference, NULL: out of
 * memory. */
json_t *latency_table_json(const struct latency_table *t, const struct model *m);

/* Both models timed in turns: *left is the ratio of their fastest runs, which others' load moves least; ms_a and ms_b
 * are those. */
int latency_table_compare(const struct model *a, const struct model *b, struct pool *pool, uint64_t seed, double *left,
                          double *ms_a, double *ms_b, struct err *err);

#endif
