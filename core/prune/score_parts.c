/* SPDX-License-Identifier: Apache-2.0
 * score_parts.c - which members of a group a criterion looks at, and atoms made of their elements. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/prune/score_impl.h"

/* ---- what a member is ---- */
/* Where normalizations have their gamma. */
static const struct scale {
    const char *op;
    int slot;
} scales[] = {
    {"BatchNormalization", 1},
    {"InstanceNormalization", 1},
    {"GroupNormalization", 1},
    {"LayerNormalization", 1},
    {"RMSNormalization", 1},
    {"SimplifiedLayerNormalization", 1},
    {"SkipLayerNormalization", 2},
    {"SkipSimplifiedLayerNormalization", 2},
    {"GroupNorm", 1},
    {"SkipGroupNorm", 1},
};

/* Marks of the nodes of one group: what they do with its weights. */
struct marks {
    const struct model *m;
    unsigned char *node; /* [n_nodes] SCORE_PRODUCES, SCORE_CONSUMES */
    unsigned char *read; /* [n_values] an input of a consuming node */
};

static bool is_scale(const struct model *m, const struct group_member *mb)
{
    const struct node *n = mb->node < m->n_nodes ? &m->nodes[mb->node] : NULL;
    for (size_t i = 0; n && n->op_type && i < sizeof scales / sizeof *scales; i++)
        if (!strcmp(n->op_type, scales[i].op) && scales[i].slot < n->n_input && n->input[scales[i].slot] == mb->value)
            return true;
    return false;
}

/* 0: of no use to any criterion. */
static unsigned kind_of_constant(const struct marks *k, const struct group_member *mb)
{
    const struct tensor *t = value_const(k->m, mb->value);
    if (!t || !t->data || !dtype_is_float(t->dtype) || mb->axis < 0 || mb->axis >= t->shape.rank ||
        t->shape.dim[mb->axis] != mb->size)
        return 0;
    if (mb->role == COUPLE_CONSUMES)
        return SCORE_CONSUMES;
    if (is_scale(k->m, mb))
        return SCORE_SCALE;
    if (mb->role == COUPLE_PRODUCES)
        return SCORE_PRODUCES;
    return mb->node < k->m->n_nodes && k->node[mb->node] & SCORE_PRODUCES && tensor_count(t) == mb->size ? SCORE_BIAS
                                                                                                         : SCORE_OTHER;
}

static unsigned kind_of(const struct marks *k, const struct group_member *mb)
{
    if (mb->constant)
        return kind_of_constant(k, mb);
    if (k->read[mb->value])
        return SCORE_READ;
    return mb->node < k->m->n_nodes && k->node[mb->node] & SCORE_PRODUCES ? SCORE_MADE : SCORE_ANY;
}

static void mark(struct marks *k, const struct group *g, bool on)
{
    for (int i = 0; i < g->n_members; i++) {
        const struct group_member *mb = &g->member[i];
        const unsigned does = mb->role == COUPLE_CONSUMES ? SCORE_CONSUMES : mb->role ? SCORE_PRODUCES : 0;
        if (!mb->constant || !does || mb->node >= k->m->n_nodes)
            continue;
        k->node[mb->node] = (unsigned char)(on ? k->node[mb->node] | does : 0);
        const struct node *n = &k->m->nodes[mb->node];
        for (int s = 0; does == SCORE_CONSUMES && s < n->n_input; s++)
            if (n->input[s] != VALUE_NONE)
                k->read[n->input[s]] = on;
    }
}

/* ---- lists of parts ---- */
static int add_part(struct score_parts *p, int group, unsigned kind, const struct group_member *mb, struct err *err)
{
    double *element = calloc((size_t)mb->size + 1, sizeof *element);
    const size_t room = (size_t)(p->n ? 2 * p->n : 1); /* it is full at every power of two */
    struct score_part *grown = p->n & (p->n - 1) ? p->at : realloc(p->at, room * sizeof *grown);
    if (grown)
        p->at = grown;
    if (!element || !grown) {
        free(element);
        return err_set(err, ERR_NOMEM, "out of memory for scores");
    }
    p->at[p->n++] = (struct score_part){group, (enum score_kind)kind, mb, element};
    return 0; // cppcheck-suppress memleak
}

int score_parts_find(const struct score_ctx *c, unsigned kinds, const bool *only, struct score_parts *out,
                     struct err *err)
{
    const struct model *m = c->o->model;
    struct marks k = {m, calloc((size_t)m->n_nodes + 1, 1), calloc((size_t)m->n_values + 1, 1)};
    int rc = k.node && k.read ? 0 : err_set(err, ERR_NOMEM, "out of memory for scores");
    for (int i = 0; rc == 0 && i < c->g->n; i++) {
        const struct group *g = &c->g->at[i];
        if (g->n < 1 || (only && !only[i]))
            continue;
        mark(&k, g, true);
        for (int j = 0; rc == 0 && j < g->n_members; j++) {
            const unsigned kind = g->member[j].value < m->n_values ? kind_of(&k, &g->member[j]) : 0;
            if (kind & kinds)
                rc = add_part(out, i, kind, &g->member[j], err);
        }
        mark(&k, g, false);
    }
    free(k.node);
    free(k.read);
    return rc;
}

void score_parts_fini(struct score_parts *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->at[i].element);
    free(p->at);
    *p = (struct score_parts){0};
}

int score_parts_lacking(const struct score_ctx *c, const struct score_parts *p, unsigned kinds, bool **lacking,
                        struct err *err)
{
    int n = 0;
    *lacking = calloc((size_t)c->g->n + 1, sizeof **lacking);
    if (!*lacking)
        return err_set(err, ERR_NOMEM, "out of memory for scores");
    for (int i = 0; i < c->g->n; i++)
        (*lacking)[i] = c->g->at[i].n > 0;
    for (int i = 0; i < p->n; i++)
        if (p->at[i].kind & kinds)
            (*lacking)[p->at[i].group] = false;
    for (int i = 0; i < c->g->n; i++)
        n += (*lacking)[i];
    return n;
}

/* ---- reduction ---- */
int score_part_check(const struct score_ctx *c, const struct score_part *p, struct err *err)
{
    const struct model *m = c->o->model;
    const struct group_member *mb = p->member;
    const char *name = m->values[mb->value].name;
    char label[200];
    for (int64_t i = 0; i < mb->size; i++)
        if (mb->atom[i] != ATOM_NONE && !isfinite(p->element[i]))
            return err_set(
                err, ERR_MODEL,
                "%s '%s' of node '%s' gives %s at index %lld of axis %d, so its channels cannot be ranked by "
                "%s; repair it or exclude the layer",
                mb->constant ? "weight" : "value", name ? name : "?",
                mb->node < m->n_nodes ? node_label(m, mb->node, label, sizeof label) : "?",
                isnan(p->element[i]) ? "NaN" : "infinity", (long long)i, mb->axis, c->name);
    return 0;
}

/* What an atom got so far. */
struct tally {
    double value, sum; /* sum: of the part at hand */
    int parts, count;  /* count: elements of the part at hand */
};

static void take_part(struct tally *t, int64_t n, const struct score_part *p, enum score_reduction how, bool average)
{
    for (int64_t i = 0; i < p->member->size; i++) {
        const int atom = p->member->atom[i];
        if (atom >= 0 && atom < n) {
            t[atom].sum += p->element[i];
            t[atom].count++;
        }
    }
    for (int64_t a = 0; a < n; a++) {
        struct tally *x = &t[a];
        const double v = average && x->count ? x->sum / x->count : x->sum;
        if (x->count && (how == SCORE_MEAN || how == SCORE_SUM))
            x->value += v;
        else if (x->count && (x->parts == 0 || (how == SCORE_MAX && v > x->value)))
            x->value = v;
        x->parts += x->count > 0;
        x->sum = 0;
        x->count = 0;
    }
}

int score_parts_reduce(struct score_ctx *c, const struct score_parts *p, bool average, struct err *err)
{
    const enum score_reduction how = c->o->reduction;
    int64_t most = 0;
    for (int i = 0; i < c->g->n; i++)
        most = c->g->at[i].n > most ? c->g->at[i].n : most;
    struct tally *t = calloc((size_t)most + 1, sizeof *t);
    if (!t)
        return err_set(err, ERR_NOMEM, "out of memory for scores");
    int rc = 0;
    for (int i = 0; rc == 0 && i < c->g->n; i++) {
        const struct group *g = &c->g->at[i];
        int found = 0;
        if (!c->score[i])
            continue;
        memset(t, 0, (size_t)g->n * sizeof *t);
        for (int j = 0; rc == 0 && j < p->n; j++)
            if (p->at[j].group == i && (rc = score_part_check(c, &p->at[j], err)) == 0) {
                take_part(t, g->n, &p->at[j], how, average);
                found++;
            }
        for (int64_t a = 0; found && a < g->n; a++) {
            const double of = how == SCORE_MEAN && t[a].parts ? t[a].parts : 1;
            c->score[i][a] = t[a].value / of / (average ? 1 : (double)(g->width[a] > 0 ? g->width[a] : 1));
        }
    }
    free(t);
    return rc;
}
