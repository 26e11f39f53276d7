/* SPDX-License-Identifier: Apache-2.0
 * couple_rules.c - rules and parts of rules that many rows share (couple_rules.h). */
#include "core/ops/couple_rules.h"

#include "core/ops/op_util.h"

/* ---- whole rules ---- */
bool couple_wanted(const struct infer_ctx *c, int output)
{
    return output < c->n_out && output < c->node->n_output && c->node->output[output] != VALUE_NONE;
}

bool couple_constant(const struct coupling *k, int slot)
{
    return slot < k->infer->n_in && k->infer->in_value && k->infer->in_value[slot];
}

void couple_pass_all(struct coupling *k, struct end e)
{
    for (int i = 0; i < couple_rank(k, e); i++)
        couple_pass(k, e, i);
}

void couple_freeze_all(struct coupling *k, struct end e, const char *why)
{
    for (int i = 0; i < couple_rank(k, e); i++)
        couple_freeze(k, e, i, why);
}

int couple_elementwise(struct coupling *k, struct err *err)
{
    (void)err;
    for (int o = 0; o < k->infer->n_out; o++)
        for (int i = 0; i < k->infer->n_in; i++)
            couple_broadcast(k, IN(i), OUT(o));
    return 0;
}

int couple_like(struct coupling *k, struct err *err)
{
    (void)err;
    for (int o = 0; o < k->infer->n_out; o++)
        couple_same(k, IN(0), OUT(o));
    for (int i = 1; i < k->infer->n_in; i++)
        couple_pass_all(k, IN(i));
    return 0;
}

int couple_sizes_only(struct coupling *k, struct err *err)
{
    (void)err;
    couple_pass_all(k, IN(0));
    return 0;
}

int couple_channels(struct coupling *k, struct err *err)
{
    (void)err;
    for (int o = 0; o < k->infer->n_out; o++) {
        couple_axes(k, IN(0), 0, OUT(o), 0);
        couple_axes(k, IN(0), 1, OUT(o), 1);
        for (int i = 2; i < couple_rank(k, OUT(o)); i++)
            couple_freeze(k, OUT(o), i, "neighbours along it are put together");
    }
    for (int i = 2; i < couple_rank(k, IN(0)); i++)
        couple_freeze(k, IN(0), i, "neighbours along it are put together");
    return 0;
}

int couple_matrices(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    (void)err;
    couple_same(k, IN(0), OUT(0));
    for (int i = rank < 2 ? 0 : rank - 2; i < rank; i++)
        couple_freeze(k, IN(0), i, "its rows and columns belong together");
    return 0;
}

/* ---- parts ---- */
void couple_along(struct coupling *k, struct end a, struct end b, int axis, const char *why)
{
    couple_same_but(k, a, b, axis);
    couple_freeze(k, a, axis, why);
    couple_freeze(k, b, axis, why);
}

void couple_equal_axes(struct coupling *k, struct end a, int axis_a, struct end b, int axis_b, const char *why)
{
    const int64_t n = couple_size(k, a, axis_a), m = couple_size(k, b, axis_b);
    if (n == m) {
        couple_axes(k, a, axis_a, b, axis_b);
        return;
    }
    couple_freeze(k, a, axis_a, why);
    couple_freeze(k, b, axis_b, why);
}

/* ---- reshaping ----
 * Row-major order keeps the product of the axes in front of a place; so two shapes fall into segments at the places
 * where those products agree, and each segment is one axis that stays one, one that splits, several that join, or a
 * mixture. Axes of one element are left out. A size that is no number stands beside its equal only. */
static const char MIXED[] = "it is reshaped across other axes";
static const char UNFIXED[] = "it is reshaped together with an axis whose size is not fixed";

/* Axes of a shape that are not of size 1. */
struct axes {
    struct end end;
    int n, axis[SHAPE_MAX_RANK];
    int64_t size[SHAPE_MAX_RANK];
};

static struct axes axes_of(const struct coupling *k, struct end e)
{
    struct axes x = {.end = e};
    const struct infer_ctx *c = k->infer;
    for (int i = 0; i < couple_rank(k, e); i++) {
        const int64_t size = (e.out ? &c->out[e.slot] : c->in[e.slot])->shape.dim[i];
        if (size == 1)
            continue;
        x.axis[x.n] = i;
        x.size[x.n++] = size;
    }
    return x;
}

/* Axes from .. to - 1 of one side. */
struct span {
    const struct axes *x;
    int from, to;
};

static void freeze_span(struct coupling *k, struct span s, int from, int to, const char *why)
{
    for (int i = from; i < to; i++)
        couple_freeze(k, s.x->end, s.x->axis[i], why);
}

static bool divides(int64_t part, int64_t whole)
{
    return part > 1 && whole > part && whole % part == 0;
}

/* No axis stands for itself. The last ones still do where one's size divides the other's: whatever lies between,
 * element i of the smaller is i, i + n, i + 2 n, ... of the larger. Likewise the first ones, by blocks. */
static void mixed(struct coupling *k, struct span a, struct span b)
{
    const char *why = MIXED;
    for (int i = a.from; i < a.to; i++)
        why = a.x->size[i] < 0 ? UNFIXED : why;
    for (int i = b.from; i < b.to; i++)
        why = b.x->size[i] < 0 ? UNFIXED : why;
    if (a.from < a.to && b.from < b.to) {
        const struct end ea = a.x->end, eb = b.x->end;
        const int last_a = a.x->axis[a.to - 1], last_b = b.x->axis[b.to - 1];
        const int64_t na = a.x->size[a.to - 1], nb = b.x->size[b.to - 1];
        if (divides(na, nb) || divides(nb, na)) {
            if (na < nb)
                couple_strided(k, ea, last_a, eb, last_b);
            else
                couple_strided(k, eb, last_b, ea, last_a);
            a.to--, b.to--;
        }
    }
    if (a.from < a.to && b.from < b.to) {
        const struct end ea = a.x->end, eb = b.x->end;
        const int first_a = a.x->axis[a.from], first_b = b.x->axis[b.from];
        const int64_t na = a.x->size[a.from], nb = b.x->size[b.from];
        if (divides(na, nb) || divides(nb, na)) {
            if (na < nb)
                couple_blocks(k, ea, first_a, eb, first_b, nb / na);
            else
                couple_blocks(k, eb, first_b, ea, first_a, na / nb);
            a.from++, b.from++;
        }
    }
    freeze_span(k, a, a.from, a.to, why);
    freeze_span(k, b, b.from, b.to, why);
}

static void segment(struct coupling *k, struct span a, struct span b)
{
    const int n = a.to - a.from, m = b.to - b.from;
    if (n == 1 && m == 1) {
        couple_axes(k, a.x->end, a.x->axis[a.from], b.x->end, b.x->axis[b.from]);
    } else if (n == 1 || m == 1) {
        const struct span whole = n == 1 ? a : b, parts = n == 1 ? b : a;
        const int first = parts.x->axis[parts.from];
        couple_fold(k, whole.x->end, whole.x->axis[whole.from], parts.x->end, first,
                    parts.x->axis[parts.to - 1] - first + 1);
    } else {
        mixed(k, a, b);
    }
}

/* The shortest spans of equal product from the places on, to the right or (step -1) to the left; false: none. */
static bool equal_spans(const struct axes *a, const struct axes *b, const int end[2], int step, int at[2])
{
    const struct axes *x[2] = {a, b};
    int64_t product[2];
    for (int i = 0; i < 2; i++)
        if (at[i] == end[i])
            return false;
    if (a->size[at[0]] < 0 || b->size[at[1]] < 0) {
        if (a->size[at[0]] != b->size[at[1]] || a->size[at[0]] == DIM_UNKNOWN)
            return false;
        at[0] += step;
        at[1] += step;
        return true;
    }
    for (int i = 0; i < 2; i++) {
        product[i] = x[i]->size[at[i]];
        at[i] += step;
    }
    while (product[0] != product[1]) {
        const int i = product[0] < product[1] ? 0 : 1;
        if (at[i] == end[i] || x[i]->size[at[i]] < 0 || !i64_mul(product[i], x[i]->size[at[i]], &product[i]))
            return false;
        at[i] += step;
    }
    return true;
}

void couple_reshaped(struct coupling *k, struct end ea, struct end eb)
{
    couple_pass_all(k, ea);
    couple_pass_all(k, eb);
    if (couple_rank(k, ea) < 0 || couple_rank(k, eb) < 0) {
        couple_freeze_all(k, ea, "it gets a shape that is not fixed");
        couple_freeze_all(k, eb, "it gets a shape that is not fixed");
        return;
    }
    const struct axes a = axes_of(k, ea), b = axes_of(k, eb);
    for (int i = 0; i < a.n; i++)
        if (a.size[i] == 0) { /* so that products say nothing */
            couple_freeze_all(k, ea, "it has no elements");
            couple_freeze_all(k, eb, "it has no elements");
            return;
        }
    int from[2] = {0, 0}, to[2] = {a.n, b.n}, at[2] = {0, 0};
    while (equal_spans(&a, &b, to, 1, at)) {
        segment(k, (struct span){&a, from[0], at[0]}, (struct span){&b, from[1], at[1]});
        from[0] = at[0];
        from[1] = at[1];
    }
    const int stop[2] = {from[0] - 1, from[1] - 1};
    at[0] = to[0] - 1;
    at[1] = to[1] - 1;
    while (equal_spans(&a, &b, stop, -1, at)) {
        segment(k, (struct span){&a, at[0] + 1, to[0]}, (struct span){&b, at[1] + 1, to[1]});
        to[0] = at[0] + 1;
        to[1] = at[1] + 1;
    }
    mixed(k, (struct span){&a, from[0], to[0]}, (struct span){&b, from[1], to[1]});
}

/* ---- sizes that are told in numbers ---- */
bool sizes_entry(const struct infer_ctx *c, int slot, int i, int64_t *v)
{
    const struct tensor *t = op_value(c, slot);
    if (t) {
        if (t->shape.rank > 1 || i < 0 || i >= tensor_count(t) || (t->dtype != DTYPE_INT64 && t->dtype != DTYPE_INT32))
            return false;
        *v = op_index_at(t, i);
        return true;
    }
    const struct sym_list *list = op_sizes(c, slot);
    if (!list || i < 0 || i >= list->count || !list->at[i].known)
        return false;
    *v = list->at[i].n;
    return true;
}

/* Where is of opset 9. */
static bool can_correct(const struct infer_ctx *c)
{
    return c->opset >= 9 && model_domain_is_default(c->node->domain);
}

bool sizes_writable(const struct infer_ctx *c, int slot, int count)
{
    int64_t v;
    for (int i = 0; i < count; i++)
        if (!sizes_entry(c, slot, i, &v))
            return can_correct(c) && infer_has(c, slot) && op_list_length(c, slot) == count;
    return true;
}

static uint32_t add_list(struct shrink *s, const char *name, enum dtype dtype, const int64_t *v, int count,
                         struct err *err)
{
    struct tensor t = {0};
    if (tensor_alloc(&t, dtype, &SHAPE(count), err))
        return VALUE_NONE;
    for (int i = 0; i < count; i++)
        dtype_set(dtype, t.data, i, (double)v[i]);
    const uint32_t id = model_add_weight(s->model, s->model->nodes[s->node].graph, name, &t);
    tensor_fini(&t);
    return id;
}

/* The list as it is computed, with the new numbers in their places. */
static int correct_list(struct shrink *s, int slot, const int64_t *v, int count, struct err *err)
{
    struct model *m = s->model;
    const uint32_t old = m->nodes[s->node].input[slot], graph = m->nodes[s->node].graph;
    const char *name = m->values[old].name ? m->values[old].name : "sizes";
    int64_t *mask = arena_calloc(s->infer->arena, 2 * (size_t)count + 1, sizeof *mask);
    if (!mask)
        return err_set(err, ERR_NOMEM, "out of memory while rewriting sizes");
    int64_t *number = mask + count;
    for (int i = 0; i < count; i++) {
        mask[i] = v[i] != SIZES_LEFT;
        number[i] = mask[i] ? v[i] : 0;
    }
    const enum dtype dtype = s->infer->in[slot]->dtype == DTYPE_INT32 ? DTYPE_INT32 : DTYPE_INT64;
    const uint32_t cut = add_list(s, model_printf(m, "%s_cut", name), DTYPE_BOOL, mask, count, err);
    const uint32_t to = cut == VALUE_NONE ? VALUE_NONE
                                          : add_list(s, model_printf(m, "%s_cut_to", name), dtype, number, count, err);
    const uint32_t made = to == VALUE_NONE ? VALUE_NONE
                                           : model_add_value(m, graph, model_printf(m, "%s_pruned", name), true);
    const uint32_t in[] = {cut, to, old};
    const uint32_t node = made == VALUE_NONE ? NODE_NONE
                                             : model_add_node(m, graph, "Where", NULL, m->values[made].name, in, 3,
                                                              &made, 1);
    if (node == NODE_NONE || node_set_input(m, s->node, slot, made))
        return err_set(err, ERR_NOMEM, "out of memory while rewriting sizes");
    model_move_node(m, node, s->node, false);
    return 0;
}

int shrink_sizes(struct shrink *s, int slot, const int64_t *v, int count, struct err *err)
{
    int64_t *all = arena_calloc(s->infer->arena, (size_t)count + 1, sizeof *all);
    bool changes = false, known = true;
    if (!all)
        return err_set(err, ERR_NOMEM, "out of memory while rewriting sizes");
    for (int i = 0; i < count; i++) {
        int64_t was = 0;
        const bool had = sizes_entry(s->infer, slot, i, &was);
        all[i] = v[i] == SIZES_LEFT ? was : v[i];
        known = known && (had || v[i] != SIZES_LEFT);
        changes = changes || (v[i] != SIZES_LEFT && (!had || v[i] != was));
    }
    if (!changes)
        return 0;
    return known ? shrink_set_input(s, slot, all, count, err) : correct_list(s, slot, v, count, err);
}

int64_t shrink_kept_below(const struct shrink *s, struct end e, int axis, int64_t bound)
{
    int64_t count, n = 0;
    const int64_t *kept = s->kept(s, e, axis, &count);
    if (!kept)
        return bound;
    while (n < count) { /* between n and count */
        const int64_t middle = n + (count - n) / 2;
        if (kept[middle] < bound)
            n = middle + 1;
        else
            count = middle;
    }
    return n;
}

/* ---- reductions and regions ---- */
void couple_reduced(struct coupling *k, const bool *reduced, int rank, bool keepdims)
{
    for (int i = 0, to = 0; i < rank; i++) {
        if (reduced[i])
            couple_freeze(k, IN(0), i, "its elements are put together");
        else
            couple_axes(k, IN(0), i, OUT(0), to);
        to += !reduced[i] || keepdims;
    }
}

int couple_regions(struct coupling *k, struct err *err)
{
    (void)err;
    couple_axes(k, IN(0), 1, OUT(0), 1);
    for (int i = 1; i < k->infer->n_in; i++)
        couple_axes(k, IN(i), 0, OUT(0), 0);
    return 0;
}
