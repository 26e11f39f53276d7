/* SPDX-License-Identifier: Apache-2.0
 * hints_find.c - which values are compared (hints.h). Names of values may hold colons ("block/relu:0"), so "a:b" is
 * tried at each of its colons until both sides name something. */
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/train/hints.h"

enum { MOST_PAIRS = 48, MOST_SIZES = 16, CANDIDATES = 8, MOST_STEPS_BACK = 16 };

struct found {
    uint32_t at[MOST_PAIRS];
    int count;
};

static bool made_by_node(const struct model *m, uint32_t v)
{
    return v != VALUE_NONE && m->values[v].producer != NODE_NONE && m->values[v].graph == 0;
}

static void find_globbed(struct found *f, const struct model *m, const char *glob)
{
    const struct graph *g = model_main(m);
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &m->nodes[g->nodes[i]];
        for (int k = 0; k < n->n_output && f->count < MOST_PAIRS; k++)
            if (n->output[k] != VALUE_NONE && !fnmatch(glob, m->values[n->output[k]].name, 0))
                f->at[f->count++] = n->output[k];
    }
}

static void find(struct found *f, const struct model *m, const char *text)
{
    const uint32_t value = model_find_value(m, 0, text), node = model_find_node(m, text);
    const struct node *n = node == NODE_NONE ? NULL : &m->nodes[node];
    f->count = 0;
    if (made_by_node(m, value))
        f->at[f->count++] = value;
    else if (n && n->n_output && made_by_node(m, n->output[0]))
        f->at[f->count++] = n->output[0];
    else if (strpbrk(text, "*?["))
        find_globbed(f, m, text);
}

static int add_pair(struct hint_pairs *p, uint32_t student, uint32_t teacher, const char *what, struct err *err)
{
    for (int i = 0; i < p->count; i++)
        if (p->at[i].student == student && p->at[i].teacher == teacher)
            return 0;
    if (p->count == MOST_PAIRS)
        return err_set(err, ERR_INVALID, "%s: names more than %d values", what, (int)MOST_PAIRS);
    if (!p->at && !(p->at = calloc(MOST_PAIRS, sizeof *p->at)))
        return err_set(err, ERR_NOMEM, "out of memory");
    p->at[p->count++] = (struct hint_pair){student, teacher};
    return 0;
}

/* Some values of a model, spread over its graph, for a sentence. */
static void candidates(struct buf *text, const struct model *m)
{
    const struct graph *g = model_main(m);
    int all = 0, seen = 0, said = 0;
    for (int pass = 0; pass < 2; pass++)
        for (int i = 0; i < g->n_nodes; i++) {
            const struct node *n = &m->nodes[g->nodes[i]];
            if (!n->n_output || n->output[0] == VALUE_NONE || node_is(n, "Constant") || node_is(n, "Shape"))
                continue;
            if (pass == 0) {
                all++;
            } else if ((seen++ + 1) * CANDIDATES / all > said) {
                buf_printf(text, "%s'%.60s'", said ? ", " : "", m->values[n->output[0]].name);
                said++;
            }
        }
}

static int nothing_named(const char *what, const char *text, const char *side, const struct model *m, struct err *err)
{
    struct buf list = {0};
    candidates(&list, m);
    err_set(err, ERR_INVALID, "%s: '%.200s' names no value or node of the %s; some it has are %s", what, text, side,
            list.data ? list.data : "none");
    buf_fini(&list);
    return -1;
}

/* "a": what both have under one name. 1: done, 0: the student has nothing of that name. */
static int named_in_both(struct hint_pairs *p, const char *text, const char *what, const struct model *student,
                         const struct model *teacher, struct err *err)
{
    struct found s, t;
    find(&s, student, text);
    const int before = p->count;
    for (int i = 0; i < s.count; i++) {
        const uint32_t v = model_find_value(teacher, 0, student->values[s.at[i]].name);
        if (made_by_node(teacher, v) && add_pair(p, s.at[i], v, what, err))
            return -1;
    }
    if (!s.count || p->count > before)
        return s.count > 0;
    find(&t, teacher, text); /* a node of that name whose output has another */
    if (t.count != s.count)
        return nothing_named(what, text, "teacher", teacher, err);
    for (int i = 0; i < s.count; i++)
        if (add_pair(p, s.at[i], t.at[i], what, err))
            return -1;
    return 1;
}

static int named(struct hint_pairs *p, const char *text, const char *what, const struct model *student,
                 const struct model *teacher, struct err *err)
{
    struct found s = {.count = 0}, t = {.count = 0};
    const char *right = NULL; /* of a colon whose left side names something */
    const int both = named_in_both(p, text, what, student, teacher, err);
    if (both)
        return both < 0 ? -1 : 0;
    for (const char *colon = strchr(text, ':'); colon; colon = strchr(colon + 1, ':')) {
        char *name = strndup(text, (size_t)(colon - text));
        if (!name)
            return err_set(err, ERR_NOMEM, "out of memory");
        find(&s, student, name);
        find(&t, teacher, colon + 1);
        free(name);
        if (s.count && !right)
            right = colon + 1;
        if (s.count && t.count)
            break;
    }
    if (!s.count || !t.count)
        return right ? nothing_named(what, right, "teacher", teacher, err)
                     : nothing_named(what, text, "model", student, err);
    if (s.count != t.count)
        return err_set(err, ERR_INVALID,
                       "%s: '%.200s' names %d values of the model and %d of the teacher; it must be equally many", what,
                       text, s.count, t.count);
    for (int i = 0; i < s.count; i++)
        if (add_pair(p, s.at[i], t.at[i], what, err))
            return -1;
    return 0;
}

int hints_named(struct hint_pairs *pairs, const struct globs *names, const char *what, const struct model *student,
                const struct model *teacher, struct err *err)
{
    for (int i = 0; i < names->count; i++)
        if (named(pairs, names->at[i], what, student, teacher, err))
            return -1;
    return 0;
}

/* ---- stage ends ---- */
static bool is_map(const struct type *t)
{
    const struct shape *s = &t->shape;
    return t->kind == TYPE_TENSOR && dtype_kind(t->dtype) == 'f' && s->rank == 4 && s->dim[2] > 0 && s->dim[3] > 0 &&
           (s->dim[2] > 1 || s->dim[3] > 1);
}

static bool same_size(const struct shape *a, const struct shape *b)
{
    return a->dim[2] == b->dim[2] && a->dim[3] == b->dim[3];
}

int hints_stage_ends(struct hint_pairs *pairs, const struct model *student, const struct type *student_types,
                     const struct model *teacher, const struct type *teacher_types, struct err *err)
{
    const struct graph *g = model_main(student);
    struct hint_pair end[MOST_SIZES];
    const struct shape *size[MOST_SIZES];
    int n = 0;
    uint32_t *order = calloc((size_t)g->n_nodes + 1, sizeof *order);
    if (!order || model_toposort(student, 0, order, err)) {
        free(order);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *node = &student->nodes[order[i]];
        const uint32_t v = node->n_output ? node->output[0] : VALUE_NONE;
        if (v == VALUE_NONE || !is_map(&student_types[v]) || node_is(node, "Pad"))
            continue;
        const uint32_t t = model_find_value(teacher, 0, student->values[v].name);
        const struct shape *s = &student_types[v].shape;
        if (!made_by_node(teacher, t) || !is_map(&teacher_types[t]) || !same_size(s, &teacher_types[t].shape))
            continue;
        int k = 0;
        while (k < n && !same_size(size[k], s))
            k++;
        if (k == MOST_SIZES)
            continue;
        n += k == n;
        size[k] = s;
        end[k] = (struct hint_pair){v, t};
    }
    free(order);
    if (!n)
        return err_set(err, ERR_INVALID,
                       "attention: no value with height and width has the same name and size in the model and in the "
                       "teacher; name some in attention_at");
    for (int k = 0; k < n; k++)
        if (add_pair(pairs, end[k].student, end[k].teacher, "attention", err))
            return -1;
    return 0;
}

/* ---- embedding ---- */
uint32_t hints_embedding(const struct model *m, uint32_t value)
{
    static const char *const products[] = {"Gemm", "MatMul", "Conv", NULL};
    for (int step = 0; step < MOST_STEPS_BACK && made_by_node(m, value); step++) {
        const struct node *n = &m->nodes[m->values[value].producer];
        for (int i = 0; products[i]; i++)
            if (node_is(n, products[i]) && n->n_input && made_by_node(m, n->input[0]))
                return n->input[0];
        int k = 0; /* a bias: the operand that is not constant */
        while (k < n->n_input && (n->input[k] == VALUE_NONE || value_const(m, n->input[k])))
            k++;
        if (k == n->n_input)
            break;
        value = n->input[k];
    }
    return VALUE_NONE;
}

void hint_pairs_fini(struct hint_pairs *pairs)
{
    free(pairs->at);
    *pairs = (struct hint_pairs){0};
}
