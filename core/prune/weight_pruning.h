/* SPDX-License-Identifier: Apache-2.0
 * weight_pruning.h - private to prune.weights: single weights, n:m groups and blocks become zero; shapes stay.
 * Parts      weights.c (parameters, flow, report), weights_layout.c (which weights, and their rows), weights_score.c
 *            (criteria), weights_mask.c (structures, ranking), weights_allocate.c (how many each layer loses),
 *            weights_schedule.c (how much of it now, and masks that may give weights back), weights_obs.c and obs.c (masks
 *            with an update of what stays).
 * Rows       A weight is a matrix [rows][k]: a row makes one output, k runs along what is summed over. Of a convolution k
 *            runs as after a repack to NHWC: taps slow, input channels fast.
 * Scores     positive, larger is more important. A weight that is zero already has the score 0, whatever the
 *            criterion: it counts among those that go and stays zero.
 * Layers     An item is one weight, pruned once even if several nodes read it. */
#ifndef PARED_PRUNE_WEIGHT_PRUNING_H
#define PARED_PRUNE_WEIGHT_PRUNING_H

#include "core/passes/weight_view.h"
#include "core/passes/weights.h"
#include "core/step/method.h"
#include "core/tensor/spill.h"

enum weights_scope { SCOPE_AUTO, SCOPE_LAYER, SCOPE_GLOBAL, SCOPE_ROW };
enum weights_allocation { ALLOCATE_UNIFORM, ALLOCATE_ERK, ALLOCATE_GLOBAL };
enum weights_schedule { WEIGHTS_NONE, WEIGHTS_LINEAR, WEIGHTS_CUBIC, WEIGHTS_SURGERY };
extern const char *const weights_schedules[];

struct prune_weights_params {
    double sparsity, threshold, initial, hysteresis;
    int64_t keep, drop, steps, samples;
    bool has_sparsity, has_threshold, has_keep, has_drop, has_schedule, has_initial, has_hysteresis;
    int scope, criterion, allocation, schedule;
    const char *structure;
    struct globs include, exclude;
};

/* ---- structures ---- */
enum structure_kind { STRUCTURE_NONE, STRUCTURE_NM, STRUCTURE_BLOCK };
enum { NM_MOST = 64, BLOCK_MOST = 1024 };
struct structure {
    enum structure_kind kind;
    int64_t a, b; /* n and m: of b neighbours along k, a stay; or a rows by b neighbours along k */
};
/* False, and *why says what is wrong with the text. */
bool structure_parse(const char *text, struct structure *s, const char **why);

/* ---- items ---- */
struct prune_item {
    struct weight_ref ref;
    struct weight_matrix matrix; /* rows 0: the weight's rows are not known */
    int64_t taps, channels;      /* of a convolution's k; 1 and k otherwise */
    int64_t groups;              /* rows of a group read the same input */
    int64_t count;               /* elements */
    struct tensor original;      /* as it was when the step began */
    struct tensor mask;          /* DTYPE_BOOL, 1: stays; in the order of storage */
    struct tensor was;           /* the mask it came with; empty: none */
    double gate;                 /* surgery: what is cut comes back only with a score of at least this */
    float *score;                /* [count] in the order of storage; NULL: the criterion tells them one by one */
    float *block;                /* [units] with STRUCTURE_BLOCK: mean score */
    int64_t units;               /* what is ranked: elements or blocks */
    int64_t goes;                /* how many units shall go */
    double norm;                 /* sum of |w|, for l1_normalised */
    uint64_t key;                /* for random: differs from item to item */
    bool shared;                 /* several nodes read the weight */
    const char *fallback;        /* the criterion says nothing of this weight, and why: magnitude took its place */
    bool done;                   /* weights_obs: mask and values are written already */
    double error;                /* weights_obs: of the output, relative to its variance; NAN */
};

struct prune_run {
    struct step_ctx *c;
    const struct prune_weights_params *o;
    const struct weights_criterion *criterion;
    struct structure structure; /* of this call: n of n:m falls to what is asked for along a schedule */
    enum weights_scope scope;   /* never SCOPE_AUTO */
    bool surgery;               /* masks may give weights back, weights are left as they are */
    struct prune_item *item;
    int n;
    struct spill *spill;  /* where new weights lie */
    bool last;            /* of the steps of a schedule */
    double share;         /* of the final sparsity that this step reaches */
    struct model *before; /* as it was when the step began; NULL without weights_obs */
};

/* The weights to prune, in the order of their first nodes; rows are reported for nodes left alone. */
int weights_collect(struct prune_run *r, struct err *err);
void prune_item_fini(struct prune_item *it);
/* Elements [first, first + n) in the order of storage as doubles; n <= WEIGHTS_CHUNK. */
enum { WEIGHTS_CHUNK = 4096 };
void weights_read(const struct tensor *t, int64_t first, int64_t n, double *out);
/* The bytes of a weight, also of one that the graph lists among its inputs (old files list all). */
static inline const struct tensor *weights_tensor(const struct model *m, uint32_t value)
{
    return m->values[value].weight ? &m->values[value].weight->tensor : value_const(m, value);
}
/* Writes the weight and its note "mask": zero where it->mask is 0, else values[row * k + i] (NULL: as it is). */
int weights_write(struct prune_run *r, struct prune_item *it, const double *values, struct err *err);

/* ---- criteria ---- */
struct weights_criterion {
    const char *name;
    unsigned needs;
    enum weights_scope scope; /* of scope=auto */
    /* The score of one weight; NULL: item->score has them. */
    double (*of)(const struct prune_item *it, double w, int64_t index);
    bool update; /* weights that stay make up for those that go: weights_obs */
    /* Prepares scores of all items; sets item->fallback where there are none. NULL: nothing to prepare. */
    int (*prepare)(struct prune_run *r, struct err *err);
};
extern const char *const weights_criteria_names[]; /* in the order of the rows, for the parameter */
const struct weights_criterion *weights_criterion(int index);
/* Scores of elements [first, first + n). */
void weights_scores(const struct prune_run *r, const struct prune_item *it, int64_t first, int64_t n, double *out);
/* Why nothing is known of what the weight multiplies (then magnitude ranks it); NULL. */
const char *weights_no_moments(const struct prune_run *r, const struct prune_item *it);
/* The place of element k of a row in the rows of gram.h: channels slow, taps fast. */
static inline int64_t weights_gram_place(const struct prune_item *it, int64_t k)
{
    return k % it->channels * it->taps + k / it->channels;
}

/* ---- schedules ---- */
void weights_check_schedule(const struct prune_weights_params *o, const struct structure *s, const char *pointer,
                            struct faults *faults);
static inline enum weights_schedule weights_schedule_of(const struct prune_weights_params *o)
{
    return o->has_schedule ? (enum weights_schedule)o->schedule : WEIGHTS_CUBIC;
}
/* The share of what is asked for at `ramp` in (0, 1]. */
double weights_share(const struct prune_weights_params *o, double ramp);
/* n of n:m at a share: of m neighbours one after the other goes (Kao et al. 2022, structure decay). */
int64_t weights_nm_stay(const struct structure *s, double share);
/* Items get the masks they came with. Without surgery a weight that still may give weights back is settled: zero where
 * its mask is 0, for good. */
int weights_begin(struct prune_run *r, struct err *err);
/* What a score counts with surgery: a weight that stays is only cut below t (1 - h), one that is cut comes back above
 * t (1 + h). */
void weights_hysteresis(const struct prune_run *r, const struct prune_item *it, int64_t first, int64_t n, double *score);
/* item->gate, from the scores. */
int weights_gate(struct prune_run *r, struct prune_item *it, struct err *err);
/* The notes: mask, and that it may give weights back; and what is latent is kept within reach. */
int weights_write_mask(struct prune_run *r, struct prune_item *it, struct err *err);
/* Weights whose mask went from 0 to 1 in this call. */
int64_t weights_spliced(const struct prune_run *r, const struct prune_item *it);

/* ---- how many ---- */
/* item->goes of every item for r->share, whatever the scope. With SCOPE_GLOBAL they are found by ranking all. */
int weights_allocate(struct prune_run *r, struct err *err);
/* Densities of Erdos-Renyi-kernel (Evci et al. 2020) for a density over all: size[i] elements, sum[i] of the dims. */
void erk_densities(int n, const double *size, const double *sum, double density, double *out);

/* ---- masks ---- */
/* item->block for STRUCTURE_BLOCK; item->units. */
int weights_units(struct prune_run *r, struct prune_item *it, struct err *err);
/* item->mask from scores and item->goes (or a threshold). */
int weights_mask(struct prune_run *r, struct prune_item *it, struct err *err);
/* For item->goes of a global ranking: over all items without a fallback. */
int weights_rank_all(struct prune_run *r, int64_t goes, struct err *err);

/* ---- obs ---- */
/* Masks and new values of every item that has second moments, layer by layer. Sets item->done. */
int weights_obs(struct prune_run *r, struct err *err);

#endif
