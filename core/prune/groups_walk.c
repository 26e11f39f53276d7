/* SPDX-License-Identifier: Apache-2.0
 * groups_walk.c - asking the rules: one call a node in topological order. Links of whole axes one to one join rows
 * at once, others are kept for later; what a rule does not mention, and everything at a node without a rule, is
 * frozen. */
#include <string.h>

#include "core/passes/weights.h"
#include "core/prune/groups_impl.h"

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while building groups");
}

/* ---- one node ---- */
struct visit {
    struct solver *s;
    uint32_t id;
    const struct node *n;
    struct coupling k;
    uint32_t *mentioned; /* [n_in + n_out] bits of axes */
};

static int row_at(const struct visit *v, struct end e, int axis)
{
    return row_of(v->s, end_value(v->n, e), axis);
}

static int reason_of(const struct visit *v, enum reason_kind kind, const char *text)
{
    return reason_add(v->s, (struct reason){.kind = kind, .node = v->id, .value = VALUE_NONE, .text = text});
}

static int freeze_all(struct visit *v, enum reason_kind kind, uint32_t value, struct err *err)
{
    const int reason = reason_add(v->s, (struct reason){.kind = kind, .node = v->id, .value = value});
    for (int i = 0; i < v->n->n_input + v->n->n_output; i++) {
        const struct end e = i < v->n->n_input ? IN(i) : OUT(i - v->n->n_input);
        for (int axis = 0, row; (row = row_at(v, e, axis)) >= 0; axis++)
            axis_freeze(v->s, row, reason);
    }
    return reason ? 0 : no_memory(err);
}

static bool holds_graphs(const struct node *n)
{
    for (int i = 0; i < n->n_attr; i++)
        if (n->attr[i].type == ATTR_GRAPH || n->attr[i].type == ATTR_GRAPHS)
            return true;
    return false;
}

/* Everything the rule may look at, and later shrink and cost; kept in the arena. */
static int fill_site(struct visit *v, const struct op_class *op, bool *valid, struct err *err)
{
    struct solver *s = v->s;
    const struct node *n = v->n;
    const size_t n_in = (size_t)n->n_input, n_out = (size_t)n->n_output;
    void *attrs = arena_alloc(s->arena, op->attrs_size ? op->attrs_size : 1);
    const struct type **in = arena_calloc(s->arena, n_in + 1, sizeof *in);
    const struct tensor **value = arena_calloc(s->arena, n_in + 1, sizeof *value);
    struct type *out = arena_calloc(s->arena, n_out + 1, sizeof *out);
    struct err why = {0};
    if (!attrs || !in || !value || !out)
        return no_memory(err);
    *valid = n->n_input >= op->in_min && (op->in_max < 0 || n->n_input <= op->in_max) &&
             op_parse_attrs(op, s->m, n, attrs, s->arena, &why) == 0;
    if (!*valid)
        return why.code == ERR_NOMEM ? no_memory(err) : 0;
    for (size_t i = 0; i < n_in; i++) {
        if (n->input[i] == VALUE_NONE)
            continue;
        in[i] = &s->infer.types[n->input[i]];
        value[i] = value_const(s->m, n->input[i]);
    }
    for (size_t i = 0; i < n_out; i++)
        out[i] = n->output[i] != VALUE_NONE ? s->infer.types[n->output[i]]
                                            : (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
    s->site[v->id] = (struct site){op, {.node = n, .attrs = attrs, .n_in = n->n_input, .n_out = n->n_output,
                                        .in = in, .in_value = value, .out = out, .arena = s->arena,
                                        .opset = (int)model_opset(s->m, n->domain ? n->domain : "")}};
    return 0;
}

/* A value of the node whose rank is not known; VALUE_NONE. */
static uint32_t shapeless(const struct visit *v)
{
    for (int i = 0; i < v->n->n_input + v->n->n_output; i++) {
        const uint32_t value = i < v->n->n_input ? v->n->input[i] : v->n->output[i - v->n->n_input];
        if (value == VALUE_NONE)
            continue;
        const struct type *t = &v->s->infer.types[value];
        if (t->kind != TYPE_TENSOR || t->shape.rank < 0)
            return value;
    }
    return VALUE_NONE;
}

/* ---- taking down what the rule said ---- */
static bool inside(const struct couple_side *side, int64_t size, int64_t count)
{
    int64_t span, last;
    if (count > size && !side->table)
        return false;
    if (side->table) {
        for (int64_t i = 0; i < count; i++)
            if (side->table[i] < 0 || side->table[i] >= size)
                return false;
        return true;
    }
    return side->from >= 0 && side->from < size && !__builtin_mul_overflow(count - 1, side->step, &span) &&
           !__builtin_add_overflow(side->from, span, &last) && last >= 0 && last < size;
}

static bool whole_axis(const struct couple_link *l, int64_t size_a, int64_t size_b)
{
    return l->count == size_a && l->count == size_b && !l->a.table && !l->b.table && l->a.from == 0 && l->b.from == 0 &&
           l->a.step == 1 && l->b.step == 1;
}

static int take_link(struct visit *v, const struct couple_link *l)
{
    struct solver *s = v->s;
    const int a = row_at(v, l->a.end, l->a.axis), b = row_at(v, l->b.end, l->b.axis);
    if (a < 0 || b < 0)
        return 0;
    const int64_t size_a = s->axis[a].size, size_b = s->axis[b].size;
    if (whole_axis(l, size_a, size_b)) {
        axis_join(s, a, b);
        return 0;
    }
    if (!inside(&l->a, size_a, l->count) || !inside(&l->b, size_b, l->count)) {
        const int reason = reason_of(v, REASON_FIT, NULL);
        axis_freeze(s, a, reason);
        axis_freeze(s, b, reason);
        return reason ? 0 : -1;
    }
    struct elements_link *own = list_add(s, &s->links, sizeof *own);
    if (!own)
        return -1;
    *own = (struct elements_link){.a = {a, l->a.from, l->a.step, l->a.table},
                                  .b = {b, l->b.from, l->b.step, l->b.table},
                                  .count = l->count,
                                  .node = v->id};
    return 0;
}

/* Axes of size 1 play no part: with one other part left, the fold is a link. */
static int take_fold(struct visit *v, const struct couple_fold *f)
{
    struct solver *s = v->s;
    struct axis_fold fold = {.node = v->id, .whole = row_at(v, f->whole, f->axis)};
    for (int i = 0; i < f->n && fold.n < SHAPE_MAX_RANK; i++) {
        const int row = row_at(v, f->parts, f->first + i);
        if (row >= 0 && s->axis[row].size > 1)
            fold.part[fold.n++] = row;
    }
    if (fold.whole < 0 || s->axis[fold.whole].size <= 1 || fold.n == 0)
        return 0;
    if (fold.n == 1) {
        axis_join(s, fold.whole, fold.part[0]);
        return 0;
    }
    struct axis_fold *own = list_add(s, &s->folds, sizeof *own);
    if (!own)
        return -1;
    *own = fold;
    return 0;
}

/* The weight's axis behind an axis that nodes of constants alone make (dequantized, cast or transposed weights); -1:
 * none. */
static int weight_row(const struct visit *v, int row)
{
    const struct solver *s = v->s;
    for (int hop = 0; hop < 8; hop++) {
        const uint32_t value = s->axis[row].value, producer = s->m->values[value].producer;
        if (s->constant[value])
            return row;
        const struct node *n = producer == NODE_NONE ? NULL : &s->m->nodes[producer];
        if (!n || n->n_input < 1 || n->input[0] == VALUE_NONE)
            return -1;
        for (int i = 1; i < n->n_input; i++)
            if (n->input[i] != VALUE_NONE && !value_const(s->m, n->input[i]))
                return -1;
        const int root = axis_root(s, row);
        int next = s->first[n->input[0]];
        while (next < s->first[n->input[0] + 1] && axis_root(s, next) != root)
            next++;
        if (next == s->first[n->input[0] + 1])
            return -1;
        row = next;
    }
    return -1;
}

static int take_role(struct visit *v, int row, enum couple_role role)
{
    struct solver *s = v->s;
    row = role == COUPLE_PASSES ? -1 : weight_row(v, row);
    if (row < 0 || s->axis[row].role == COUPLE_PRODUCES)
        return 0;
    s->axis[row].role = (uint8_t)role;
    if (role != COUPLE_PRODUCES || s->axis[row].size <= 1)
        return 0;
    int *producing = list_add(s, &s->producing, sizeof *producing);
    uint32_t *producer = list_add(s, &s->producer, sizeof *producer);
    if (!producing || !producer)
        return -1;
    *producing = row;
    *producer = v->id;
    return 0;
}

static int take_note(struct visit *v, const struct couple_note *note)
{
    struct solver *s = v->s;
    const int row = row_at(v, note->end, note->axis);
    if (row < 0)
        return 0;
    v->mentioned[note->end.out ? v->n->n_input + note->end.slot : note->end.slot] |= 1u << note->axis;
    if (note->frozen) {
        const int reason = reason_of(v, REASON_RULE, note->frozen);
        axis_freeze(s, row, reason);
        if (!reason)
            return -1;
    }
    if (note->approximate) {
        const int reason = reason_of(v, REASON_RULE, note->approximate);
        axis_approximate(s, row, reason);
        if (!reason)
            return -1;
    }
    if (note->heads)
        root_of(s, row)->batch = root_of(s, row)->heads = true;
    return take_role(v, row, note->role);
}

static int freeze_rest(struct visit *v)
{
    for (int i = 0; i < v->n->n_input + v->n->n_output; i++) {
        const bool out = i >= v->n->n_input;
        const int slot = out ? i - v->n->n_input : i;
        for (int axis = 0, row; (row = row_at(v, out ? OUT(slot) : IN(slot), axis)) >= 0; axis++) {
            if ((v->mentioned[i] & 1u << axis) || v->s->axis[row].size <= 1)
                continue;
            const struct reason needs = {
                .kind = REASON_NEEDS, .node = v->id, .value = VALUE_NONE, .slot = slot, .axis = axis, .out = out};
            const int reason = reason_add(v->s, needs);
            if (!reason)
                return -1;
            axis_freeze(v->s, row, reason);
        }
    }
    return 0;
}

/* Heads: a product of two activations sums over an axis of both that the output does not have; the output's axes
 * that come from both are batches. Seen from the links, so that no operator is named here. */
static void mark_batches(struct visit *v)
{
    const struct solver *s = v->s;
    uint32_t to_out[2] = {0}, met[2] = {0}, from[2] = {0}; /* axes of the first two activations; of output 0 */
    int slot[2], n = 0;
    for (int i = 0; i < v->n->n_input && n < 2; i++)
        if (v->n->input[i] != VALUE_NONE && !value_const(s->m, v->n->input[i]))
            slot[n++] = i;
    if (n < 2)
        return;
    for (int i = 0; i < v->k.n_links; i++) {
        const struct couple_side *a = &v->k.link[i].a, *b = &v->k.link[i].b;
        const struct couple_side *in = a->end.out ? b : a, *other = a->end.out ? a : b;
        const int at = in->end.out ? -1 : in->end.slot, which = at == slot[0] ? 0 : at == slot[1] ? 1 : -1;
        if (which >= 0 && other->end.out && other->end.slot == 0) {
            to_out[which] |= 1u << in->axis;
            from[which] |= 1u << other->axis;
        } else if (which >= 0 && other->end.slot == slot[1 - which]) {
            met[which] |= 1u << in->axis;
            met[1 - which] |= 1u << other->axis;
        }
    }
    if (!(met[0] & ~to_out[0]) || !(met[1] & ~to_out[1]))
        return;
    for (int axis = 0, row; (row = row_at(v, OUT(0), axis)) >= 0; axis++)
        if (from[0] & from[1] & 1u << axis)
            root_of(s, row)->batch = true;
}

static int take_all(struct visit *v, struct err *err)
{
    v->mentioned = arena_calloc(v->s->arena, (size_t)v->n->n_input + (size_t)v->n->n_output + 1, sizeof *v->mentioned);
    int rc = v->mentioned ? 0 : -1;
    for (int i = 0; rc == 0 && i < v->k.n_notes; i++)
        rc = take_note(v, &v->k.note[i]);
    for (int i = 0; rc == 0 && i < v->k.n_links; i++)
        rc = take_link(v, &v->k.link[i]);
    for (int i = 0; rc == 0 && i < v->k.n_folds; i++)
        rc = take_fold(v, &v->k.fold[i]);
    if (rc == 0)
        rc = freeze_rest(v);
    if (rc == 0)
        mark_batches(v);
    return rc ? no_memory(err) : 0;
}

/* A product that was not asked is shown all the same: the axis of its weight that makes channels, frozen. */
static int show_product(struct visit *v, const struct op_class *op, struct err *err)
{
    const struct quant_role *role = &op->quant;
    const uint32_t w = role->kind == QUANT_COMPUTE ? end_value(v->n, IN(role->weight)) : VALUE_NONE;
    if (w == VALUE_NONE || role->weight < 1 || !v->s->constant[w])
        return 0;
    const int rank = v->s->first[w + 1] - v->s->first[w];
    const void *attrs = v->s->site[v->id].infer.attrs;
    const int axis = role->channel_axis_of ? role->channel_axis_of(attrs, rank) : role->channel_axis;
    const struct couple_note note = {
        .end = IN(role->weight), .axis = axis < 0 ? axis + rank : axis, .role = COUPLE_PRODUCES};
    v->mentioned = arena_calloc(v->s->arena, (size_t)v->n->n_input + (size_t)v->n->n_output + 1, sizeof *v->mentioned);
    return v->mentioned && take_note(v, &note) == 0 ? 0 : no_memory(err);
}

/* Constant: what it makes is a constant like any other. */
static bool makes_constants(const struct visit *v)
{
    for (int i = 0; i < v->n->n_output; i++)
        if (v->n->output[i] == VALUE_NONE || !v->s->constant[v->n->output[i]])
            return false;
    return v->n->n_input == 0;
}

static int visit(struct solver *s, uint32_t id, struct err *err)
{
    struct visit v = {.s = s, .id = id, .n = &s->m->nodes[id]};
    const struct op_class *op = node_class(s->m, v.n);
    bool valid = false;
    if (makes_constants(&v))
        return 0;
    if (holds_graphs(v.n))
        return freeze_all(&v, REASON_GRAPHS, VALUE_NONE, err);
    if (!op)
        return freeze_all(&v, REASON_UNKNOWN, VALUE_NONE, err);
    if (fill_site(&v, op, &valid, err))
        return -1;
    if (!valid)
        return freeze_all(&v, REASON_ATTRS, VALUE_NONE, err);
    if (!op->couple)
        return freeze_all(&v, REASON_NO_RULE, VALUE_NONE, err) ? -1 : show_product(&v, op, err);
    if (shapeless(&v) != VALUE_NONE)
        return freeze_all(&v, REASON_SHAPE, shapeless(&v), err) ? -1 : show_product(&v, op, err);
    v.k = (struct coupling){.infer = &s->site[id].infer, .arena = s->arena};
    if (op->couple(&v.k, err))
        return -1;
    return v.k.failed ? no_memory(err) : take_all(&v, err);
}

int solver_walk(struct solver *s, struct err *err)
{
    s->site = arena_calloc(s->arena, (size_t)s->m->n_nodes + 1, sizeof *s->site);
    s->order = arena_calloc(s->arena, (size_t)model_main(s->m)->n_nodes + 1, sizeof *s->order);
    if (!s->site || !s->order)
        return no_memory(err);
    if (model_toposort(s->m, 0, s->order, err))
        return -1;
    s->n_order = model_main(s->m)->n_nodes;
    for (int i = 0; i < s->n_order; i++)
        if (s->m->nodes[s->order[i]].op_type && visit(s, s->order[i], err))
            return -1;
    return 0;
}
