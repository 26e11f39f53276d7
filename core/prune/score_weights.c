/* SPDX-License-Identifier: Apache-2.0
 * score_weights.c - criteria of the weights alone: l1, l2 (and lamp), bn_scale, random. Weights are streamed once an
 * axis that a group cuts, and their pages given back. */
#include <math.h>
#include <stdlib.h>

#include "core/base/rng.h"
#include "core/prune/score_impl.h"

enum { STREAM_RANDOM = 0x73636f72 };

static int fill_sums(struct score_ctx *c, struct score_parts *p, enum score_term term, struct err *err)
{
    for (int i = 0; i < p->n; i++) {
        const struct score_part *part = &p->at[i];
        const struct tensor *t = value_const(c->o->model, part->member->value);
        score_axis_sums(c->o->pool, t, NULL, part->member->axis, term, part->element);
        tensor_release_pages(t);
        if (c->o->progress && c->o->progress(c->o->progress_arg, i + 1, p->n, err))
            return -1;
    }
    return 0;
}

/* Groups whose weights are nothing that produces, consumes or scales (integer weights behind DequantizeLinear): by
 * whatever constants they have. */
static int find_weights(const struct score_ctx *c, struct score_parts *p, struct err *err)
{
    bool *lacking = NULL;
    if (score_parts_find(c, SCORE_WEIGHTS, NULL, p, err))
        return -1;
    int n = score_parts_lacking(c, p, SCORE_WEIGHTS, &lacking, err);
    if (n > 0 && score_parts_find(c, SCORE_OTHER | SCORE_BIAS, lacking, p, err))
        n = -1;
    free(lacking);
    if (n <= 0)
        return n;
    n = score_parts_lacking(c, p, ~0u, &lacking, err);
    for (int i = 0; n > 0 && i < c->g->n; i++)
        if (lacking[i])
            warnings_add(c->o->warnings,
                         "%s: '%s' has no floating-point weights to score; its channels all count the same", c->name,
                         c->g->at[i].name);
    free(lacking);
    return n < 0 ? -1 : 0;
}

/* An atom whose producing rows are all zero carries a constant, and one whose consuming columns are all zero is not
 * read: whatever its other weights are, it counts nothing. */
static int mute_dead(struct score_ctx *c, const struct score_parts *p, struct err *err)
{
    static const unsigned sides[] = {SCORE_PRODUCES, SCORE_CONSUMES};
    for (int i = 0; i < c->g->n; i++) {
        const int64_t n = c->score[i] ? c->g->at[i].n : 0;
        unsigned char *live = calloc((size_t)n + 1, sizeof *live);
        unsigned kinds = 0;
        if (!live)
            return err_set(err, ERR_NOMEM, "out of memory for scores");
        for (int k = 0; k < p->n; k++) {
            const struct score_part *part = &p->at[k];
            if (part->group != i)
                continue;
            kinds |= part->kind;
            for (int64_t e = 0; e < part->member->size; e++)
                if (part->member->atom[e] != ATOM_NONE && part->element[e] > 0)
                    live[part->member->atom[e]] |= (unsigned char)part->kind;
        }
        for (int64_t a = 0; a < n; a++)
            for (int s = 0; s < 2; s++)
                if ((kinds & sides[s]) && !(live[a] & sides[s]))
                    c->score[i][a] = 0;
        free(live);
    }
    return 0;
}

static int score_norm(struct score_ctx *c, enum score_term term, struct err *err)
{
    struct score_parts p = {0};
    int rc = find_weights(c, &p, err);
    if (rc == 0)
        rc = fill_sums(c, &p, term, err);
    if (rc == 0)
        rc = score_parts_reduce(c, &p, false, err);
    if (rc == 0)
        rc = mute_dead(c, &p, err);
    score_parts_fini(&p);
    return rc;
}

int score_l1(struct score_ctx *c, struct err *err)
{
    return score_norm(c, SCORE_ABS, err);
}

int score_l2(struct score_ctx *c, struct err *err)
{
    return score_norm(c, SCORE_SQUARE, err);
}

/* ---- bn_scale ---- */
/* Standard deviations of the outputs of groups without gamma. 1: the model cannot be run, so weights must do. */
static int deviations(struct score_ctx *c, const bool *lacking, int n, struct err *err)
{
    struct score_parts p = {0};
    struct err why = {0};
    int rc = score_parts_find(c, SCORE_MADE, lacking, &p, err);
    if (rc == 0 && p.n > 0 && score_observe(c, &p, SCORE_DEVIATION, &why)) {
        rc = why.code == ERR_OPERATOR || why.code == ERR_SHAPE ? 1 : -1;
        if (rc == 1)
            warnings_add(c->o->warnings,
                         "bn_scale: the outputs of %d groups without normalization could not be measured: %s", n,
                         why.msg);
        else
            *err = why;
    } else if (rc == 0 && p.n > 0) {
        rc = score_parts_reduce(c, &p, true, err);
        warnings_add(c->o->warnings,
                     "bn_scale: %d groups have no normalization; their channels are scored by the standard deviation "
                     "of their outputs",
                     n);
    }
    score_parts_fini(&p);
    return rc;
}

static int row_norms(struct score_ctx *c, const bool *lacking, int n, struct err *err)
{
    struct score_parts p = {0};
    int rc = score_parts_find(c, SCORE_PRODUCES, lacking, &p, err);
    if (rc == 0)
        rc = fill_sums(c, &p, SCORE_SQUARE, err);
    for (int i = 0; rc == 0 && i < p.n; i++)
        for (int64_t k = 0; k < p.at[i].member->size; k++)
            p.at[i].element[k] = sqrt(p.at[i].element[k]);
    if (rc == 0)
        rc = score_parts_reduce(c, &p, true, err);
    if (rc == 0)
        warnings_add(c->o->warnings,
                     "bn_scale: %d groups have no normalization; their channels are scored by the norms of their "
                     "weights",
                     n);
    score_parts_fini(&p);
    return rc;
}

int score_bn_scale(struct score_ctx *c, struct err *err)
{
    struct score_parts p = {0};
    bool *lacking = NULL;
    int n = 0, rc = score_parts_find(c, SCORE_SCALE, NULL, &p, err);
    if (rc == 0)
        rc = fill_sums(c, &p, SCORE_ABS, err);
    if (rc == 0)
        rc = score_parts_reduce(c, &p, true, err);
    if (rc == 0 && (n = score_parts_lacking(c, &p, SCORE_SCALE, &lacking, err)) < 0)
        rc = -1;
    score_parts_fini(&p);
    if (rc == 0 && n > 0 && c->o->data)
        rc = deviations(c, lacking, n, err);
    if ((rc == 0 && n > 0 && !c->o->data) || rc == 1)
        rc = row_norms(c, lacking, n, err);
    free(lacking);
    return rc;
}

/* ---- random ---- */
int score_random(struct score_ctx *c, struct err *err)
{
    (void)err;
    for (int i = 0; i < c->g->n; i++) {
        struct rng rng;
        rng_init(&rng, c->o->seed, STREAM_RANDOM + (uint64_t)i);
        for (int64_t a = 0; c->score[i] && a < c->g->at[i].n; a++)
            c->score[i][a] = rng_uniform(&rng);
    }
    return 0;
}
