/* SPDX-License-Identifier: Apache-2.0
 * couple.c - writing down what a rule says (couple.h). Nothing is solved here: links are kept as the rule gave them, with axes made
 * non-negative and what concerns nobody (absent ends, sizes of 1, sizes that are no numbers) left out. */
#include "core/ops/couple.h"

#include <string.h>

#include "core/base/size.h"

/* ---- looking ---- */
static const struct shape *shape_of(const struct infer_ctx *c, struct end e)
{
    if (e.slot < 0 || e.slot >= (e.out ? c->n_out : c->n_in))
        return NULL;
    const struct type *t = e.out ? &c->out[e.slot] : c->in[e.slot];
    return t && t->kind == TYPE_TENSOR && t->shape.rank >= 0 ? &t->shape : NULL;
}

int couple_rank(const struct coupling *k, struct end e)
{
    const struct shape *s = shape_of(k->infer, e);
    return s ? s->rank : -1;
}

/* The axis made non-negative; -1: there is no such axis. */
static int axis_of(const struct infer_ctx *c, struct end e, int axis)
{
    const struct shape *s = shape_of(c, e);
    if (s && axis < 0)
        axis += s->rank;
    return s && axis >= 0 && axis < s->rank ? axis : -1;
}

static int64_t size_of(const struct infer_ctx *c, struct end e, int axis)
{
    axis = axis_of(c, e, axis);
    const int64_t n = axis < 0 ? -1 : shape_of(c, e)->dim[axis];
    return n < 0 ? -1 : n;
}

int64_t couple_size(const struct coupling *k, struct end e, int axis)
{
    return size_of(k->infer, e, axis);
}

int couple_ints(const struct coupling *k, int slot, const int64_t **out, int64_t max)
{
    const struct tensor *t = slot < k->infer->n_in && k->infer->in_value ? k->infer->in_value[slot] : NULL;
    const int64_t n = t && t->data && t->shape.rank <= 1 ? tensor_count(t) : -1;
    if (n < 0 || n > max || (t->dtype != DTYPE_INT64 && t->dtype != DTYPE_INT32))
        return -1;
    int64_t *v = arena_calloc(k->arena, (size_t)n + 1, sizeof *v);
    if (!v)
        return -1;
    for (int64_t i = 0; i < n; i++)
        v[i] = dtype_get_i64(t->dtype, t->data, i);
    *out = v;
    return (int)n;
}

/* ---- writing down ---- */
/* Room for one more element of `width` bytes in a list of the arena: the place of the new one, or NULL. */
static void *grow(struct coupling *k, void *list, int *n, int *cap, size_t width)
{
    void **at = list;
    if (*n == *cap) {
        const int wanted = *cap ? *cap * 2 : 16;
        void *grown = arena_calloc(k->arena, (size_t)wanted, width);
        if (!grown) {
            k->failed = true;
            return NULL;
        }
        if (*n)
            memcpy(grown, *at, (size_t)*n * width);
        *at = grown;
        *cap = wanted;
    }
    return (char *)*at + (size_t)(*n)++ * width;
}

static struct couple_note *note(struct coupling *k, struct end e, int axis)
{
    axis = axis_of(k->infer, e, axis);
    struct couple_note *n = axis < 0 ? NULL : grow(k, &k->note, &k->n_notes, &k->cap_notes, sizeof *n);
    if (n)
        *n = (struct couple_note){.end = e, .axis = axis};
    return n;
}

/* Whether the node has this input or output at all. */
static bool is_there(const struct infer_ctx *c, struct end e)
{
    if (e.out)
        return e.slot < c->n_out && e.slot < c->node->n_output && c->node->output[e.slot] != VALUE_NONE;
    return infer_has(c, e.slot);
}

static const char no_fixed_size[] = "what it is combined with has no fixed size there";

static void add_link(struct coupling *k, struct couple_side a, struct couple_side b, int64_t count)
{
    struct couple_link *l = grow(k, &k->link, &k->n_links, &k->cap_links, sizeof *l);
    if (!l)
        return;
    *l = (struct couple_link){.a = a, .b = b, .count = count};
    l->a.axis = axis_of(k->infer, a.end, a.axis);
    l->b.axis = axis_of(k->infer, b.end, b.axis);
}

/* An axis linked with one whose size nobody knows (or that unknown rank hides) cannot go: who else holds on to it is not known. */
static void link_sides(struct coupling *k, struct couple_side a, struct couple_side b, int64_t count)
{
    const int64_t size_a = size_of(k->infer, a.end, a.axis), size_b = size_of(k->infer, b.end, b.axis);
    note(k, a.end, a.axis);
    note(k, b.end, b.axis);
    if (size_a > 1 && size_b < 0 && is_there(k->infer, b.end))
        couple_freeze(k, a.end, a.axis, no_fixed_size);
    if (size_b > 1 && size_a < 0 && is_there(k->infer, a.end))
        couple_freeze(k, b.end, b.axis, no_fixed_size);
    if (count > 0 && size_a > 1 && size_b > 1)
        add_link(k, a, b, count);
}

/* The same where a whole axis of one element stands for one of many: it cannot go, so that one cannot either. */
static void link_parts(struct coupling *k, struct couple_side a, struct couple_side b, int64_t count)
{
    const int64_t size_a = size_of(k->infer, a.end, a.axis), size_b = size_of(k->infer, b.end, b.axis);
    const struct couple_side *one = size_a == 1 ? &a : &b;
    link_sides(k, a, b, count);
    if (count <= 0 || (size_a == 1) == (size_b == 1) || size_a < 1 || size_b < 1)
        return;
    couple_freeze(k, one->end, one->axis, "one element of it is all that is taken");
    add_link(k, a, b, count);
}

void couple_range(struct coupling *k, struct end a, int axis_a, int64_t from_a, struct end b, int axis_b,
                  int64_t from_b, int64_t count)
{
    link_sides(k, (struct couple_side){a, axis_a, from_a, 1, NULL}, (struct couple_side){b, axis_b, from_b, 1, NULL},
               count);
}

void couple_part(struct coupling *k, struct end a, int axis_a, int64_t from_a, struct end b, int axis_b, int64_t from_b,
                 int64_t count)
{
    link_parts(k, (struct couple_side){a, axis_a, from_a, 1, NULL}, (struct couple_side){b, axis_b, from_b, 1, NULL},
               count);
}

void couple_axes(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b)
{
    const int64_t n = size_of(k->infer, a, axis_a), m = size_of(k->infer, b, axis_b);
    couple_range(k, a, axis_a, 0, b, axis_b, 0, n == m ? n : 0);
}

/* Of one of two ends nobody knows the axes: those of the other cannot go. True if that is so. */
static bool rank_hidden(struct coupling *k, struct end a, struct end b)
{
    const int rank_a = couple_rank(k, a), rank_b = couple_rank(k, b);
    for (int i = 0; rank_b < 0 && is_there(k->infer, b) && i < rank_a; i++)
        couple_freeze(k, a, i, no_fixed_size);
    for (int i = 0; rank_a < 0 && is_there(k->infer, a) && i < rank_b; i++)
        couple_freeze(k, b, i, no_fixed_size);
    return rank_a < 0 || rank_b < 0;
}

void couple_same_but(struct coupling *k, struct end a, struct end b, int axis)
{
    const int rank = couple_rank(k, a);
    if (rank_hidden(k, a, b) || rank != couple_rank(k, b))
        return;
    for (int i = 0; i < rank; i++)
        if (i != (axis < 0 ? axis + rank : axis))
            couple_axes(k, a, i, b, i);
}

void couple_same(struct coupling *k, struct end a, struct end b)
{
    couple_same_but(k, a, b, SHAPE_MAX_RANK + 1);
}

void couple_broadcast(struct coupling *k, struct end a, struct end b)
{
    const int rank_a = couple_rank(k, a), rank_b = couple_rank(k, b);
    if (rank_hidden(k, a, b))
        return;
    for (int i = 1; i <= rank_a && i <= rank_b; i++)
        couple_axes(k, a, -i, b, -i);
}

/* Sizes come from files: links are not written down by the million. */
enum { LINKS_MAX = 1 << 16 };

static bool too_many(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b, int64_t links)
{
    if (links <= LINKS_MAX)
        return false;
    couple_freeze(k, a, axis_a, "it stands for too many parts");
    couple_freeze(k, b, axis_b, "it is made of too many parts");
    return true;
}

/* Sizes of which one should be a multiple of the other, and is not known to be: neither axis can go. */
static void unfit(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b)
{
    const int64_t n = size_of(k->infer, a, axis_a), m = size_of(k->infer, b, axis_b);
    if (axis_of(k->infer, a, axis_a) < 0 || axis_of(k->infer, b, axis_b) < 0)
        return;
    if (n > 1 && m != 1)
        couple_freeze(k, a, axis_a, no_fixed_size);
    if (m > 1 && n != 1)
        couple_freeze(k, b, axis_b, no_fixed_size);
}

void couple_blocks(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b, int64_t block)
{
    const int64_t n = size_of(k->infer, a, axis_a);
    int64_t all;
    if (n < 0 || block < 1 || !i64_mul(n, block, &all) || all != size_of(k->infer, b, axis_b)) {
        unfit(k, a, axis_a, b, axis_b);
        return;
    }
    if (too_many(k, a, axis_a, b, axis_b, block))
        return;
    for (int64_t i = 0; i < block; i++)
        link_parts(k, (struct couple_side){a, axis_a, 0, 1, NULL}, (struct couple_side){b, axis_b, i, block, NULL}, n);
}

void couple_strided(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b)
{
    const int64_t n = size_of(k->infer, a, axis_a), m = size_of(k->infer, b, axis_b);
    if (n < 1 || m < 0 || m % n) {
        unfit(k, a, axis_a, b, axis_b);
        return;
    }
    if (too_many(k, a, axis_a, b, axis_b, m / n))
        return;
    for (int64_t i = 0; i < m; i += n)
        couple_part(k, a, axis_a, 0, b, axis_b, i, n);
}

void couple_table(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b, const int64_t *table,
                  int64_t count)
{
    const int64_t n = size_of(k->infer, b, axis_b);
    int64_t *copy = arena_calloc(k->arena, (size_t)(count > 0 ? count : 0) + 1, sizeof *copy);
    if (!copy) {
        k->failed = true;
        return;
    }
    if (size_of(k->infer, a, axis_a) < count)
        return;
    for (int64_t i = 0; i < count; i++) {
        if (table[i] < 0 || table[i] >= n)
            return;
        copy[i] = table[i];
    }
    link_parts(k, (struct couple_side){a, axis_a, 0, 1, NULL}, (struct couple_side){b, axis_b, 0, 1, copy}, count);
}

void couple_fold(struct coupling *k, struct end whole, int axis, struct end parts, int first, int n)
{
    const int64_t size = size_of(k->infer, whole, axis);
    int64_t product = 1;
    bool known = size >= 0;
    for (int i = 0; i < n; i++) {
        const int64_t part = size_of(k->infer, parts, first + i);
        known = known && part >= 0 && i64_mul(product, part, &product);
    }
    if (!known || product != size) {
        couple_freeze(k, whole, axis, "it is reshaped by sizes that are not fixed");
        for (int i = 0; i < n; i++)
            couple_freeze(k, parts, first + i, "it is reshaped by sizes that are not fixed");
        return;
    }
    note(k, whole, axis);
    for (int i = 0; i < n; i++)
        note(k, parts, first + i);
    struct couple_fold *f = grow(k, &k->fold, &k->n_folds, &k->cap_folds, sizeof *f);
    if (f)
        *f = (struct couple_fold){whole, parts, axis_of(k->infer, whole, axis), axis_of(k->infer, parts, first), n};
}

void couple_role(struct coupling *k, struct end e, int axis, enum couple_role role)
{
    struct couple_note *n = note(k, e, axis);
    if (n)
        n->role = role;
}

void couple_freeze(struct coupling *k, struct end e, int axis, const char *why)
{
    struct couple_note *n = note(k, e, axis);
    if (n)
        n->frozen = why;
}

void couple_approximate(struct coupling *k, struct end e, int axis, const char *why)
{
    struct couple_note *n = note(k, e, axis);
    if (n)
        n->approximate = why;
}

void couple_heads(struct coupling *k, struct end e, int axis)
{
    struct couple_note *n = note(k, e, axis);
    if (n)
        n->heads = true;
}

/* ---- after the cut ---- */
int64_t shrink_size(const struct shrink *s, struct end e, int axis)
{
    int64_t count;
    return s->kept(s, e, axis, &count) ? count : size_of(s->infer, e, axis);
}

int shrink_set_input(struct shrink *s, int slot, const int64_t *v, int count, struct err *err)
{
    struct model *m = s->model;
    const struct node *n = &m->nodes[s->node];
    const uint32_t old = slot < n->n_input ? n->input[slot] : VALUE_NONE;
    const enum dtype had = slot < s->infer->n_in && s->infer->in[slot] ? s->infer->in[slot]->dtype : DTYPE_NONE;
    const enum dtype dtype = had == DTYPE_INT32 ? DTYPE_INT32 : DTYPE_INT64;
    struct tensor t = {0};
    if (tensor_alloc(&t, dtype, &SHAPE(count), err))
        return -1;
    for (int i = 0; i < count; i++)
        if (dtype == DTYPE_INT64)
            ((int64_t *)t.data)[i] = v[i];
        else
            ((int32_t *)t.data)[i] = (int32_t)v[i];
    const char *name = old != VALUE_NONE && m->values[old].name ? m->values[old].name : "shape";
    const uint32_t made = model_add_weight(m, n->graph, model_printf(m, "%s_pruned", name), &t);
    tensor_fini(&t);
    if (made == VALUE_NONE || node_set_input(m, s->node, slot, made))
        return err_set(err, ERR_NOMEM, "out of memory while rewriting sizes");
    return 0;
}
