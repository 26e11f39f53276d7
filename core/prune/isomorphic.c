/* SPDX-License-Identifier: Apache-2.0
 * isomorphic.c - a group's structure as a text: one word a member, sorted, so that the order of the members does not
 * matter. */
#include "core/prune/isomorphic.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"

enum { WORD = 96 };

static int by_text(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* "Conv W0 p x1": operator, weight or activation, axis, role, elements an atom. */
static void describe(const struct group *g, const struct group_member *at, const struct model *m, char word[WORD])
{
    const char *op = at->node < m->n_nodes && m->nodes[at->node].op_type ? m->nodes[at->node].op_type : "input";
    int64_t elements = 0;
    for (int64_t e = 0; e < at->size; e++)
        elements += at->atom[e] != ATOM_NONE;
    snprintf(word, WORD, "%.48s %c%d %d x%lld", op, at->constant ? 'W' : 'A', at->axis, (int)at->role,
             (long long)(g->n > 0 ? elements / g->n : 0));
}

/* malloc'ed; NULL: out of memory. */
static char *structure(const struct group *g, const struct model *m)
{
    char (*words)[WORD] = calloc((size_t)g->n_members + 1, sizeof *words);
    struct buf text = {0};
    if (!words)
        return NULL;
    for (int i = 0; i < g->n_members; i++)
        describe(g, &g->member[i], m, words[i]);
    qsort(words, (size_t)g->n_members, sizeof *words, by_text);
    for (int i = 0; i < g->n_members; i++)
        buf_printf(&text, "%s;", words[i]);
    free(words);
    buf_puts(&text, ".");
    return buf_take(&text);
}

int isomorphic_sets(const struct groups *g, const struct model *m, int *set, struct err *err)
{
    char **texts = calloc((size_t)g->n + 1, sizeof *texts);
    int rc = texts ? 0 : -1, sets = 0;
    for (int i = 0; i < g->n && rc == 0; i++) {
        texts[i] = structure(&g->at[i], m);
        rc = texts[i] ? 0 : -1;
        set[i] = -1;
        for (int j = 0; j < i && rc == 0 && set[i] < 0; j++)
            if (strcmp(texts[i], texts[j]) == 0)
                set[i] = set[j];
        if (set[i] < 0)
            set[i] = sets++;
    }
    for (int i = 0; texts && i < g->n; i++)
        free(texts[i]);
    free(texts);
    return rc ? err_set(err, ERR_NOMEM, "out of memory while comparing groups") : 0;
}
