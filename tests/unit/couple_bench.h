/* SPDX-License-Identifier: Apache-2.0
 * couple_bench.h - a coupling rule put to the test on one node: its links are closed by a union-find of its own,
 * classes of elements that may go are cut out of all inputs, and what the operator then makes must be what it made
 * before, less the elements of the class, when what the class feeds into products is zero.
 * Faults are told as they are found and counted in `complaints`. Include after cmocka.h. */
#ifndef PARED_TESTS_COUPLE_BENCH_H
#define PARED_TESTS_COUPLE_BENCH_H

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/engine/engine.h"
#include "core/ops/couple.h"
#include "tests/op_random.h"

#define SAMPLE_FMT "%s since %d, sample '%s' '%s': "
#define SAMPLE_ARGS(b) (b)->op->type, (b)->op->since, (b)->sample.inputs, (b)->sample.attrs ? (b)->sample.attrs : ""

enum { ENDS = OP_CASE_INPUTS + OP_CASE_OUTPUTS, MAX_ELEMENTS = 1 << 17 };
static int max_classes = 12; /* of a case, besides halves */

/* One axis of one end: its elements have numbers first .. first + size - 1. */
struct axis {
    int64_t size; /* 0: nobody's; 1: frozen */
    int first;
    bool mentioned;
    enum couple_role role;
    const char *frozen, *approximate;
    int64_t *kept; /* of the class at hand; NULL: all */
    int64_t n_kept;
};

/* What is known of a list of sizes that is computed while running. */
enum { MAX_SIZES = 4, ANY = INT32_MIN };
struct computed {
    int slot;
    int64_t v[MAX_SIZES]; /* numbers, symbols; ANY: nothing */
    int64_t x[MAX_SIZES]; /* input 0's axes: numbers, or symbols by DIM_SYMBOL */
};

enum { RANDOM_BYTES = 96 };

struct bench {
    const struct op_class *op;
    struct op_sample sample;
    const uint8_t *bytes; /* of a random case; NULL: the sample as it is */
    bool tame;
    struct op_case c;
    struct arena *arena;
    struct infer_ctx infer;
    struct type types[OP_CASE_INPUTS], out[OP_CASE_OUTPUTS];
    const struct type *in[OP_CASE_INPUTS];
    const struct tensor *value[OP_CASE_INPUTS];
    struct sym sym[MAX_SIZES];
    struct sym_list list;
    const struct sym_list *sizes[OP_CASE_INPUTS];
    struct coupling k;
    struct axis axis[ENDS][SHAPE_MAX_RANK];
    int n; /* elements */
    int parent[MAX_ELEMENTS];
    bool fixed[MAX_ELEMENTS], gone[MAX_ELEMENTS];
};

static struct {
    int rows, samples, links, folds, classes, values, compared, corrected;
} seen;
static int complaints;

/* Every fault is told before the test fails. */
static inline void complain(const struct bench *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void complain(const struct bench *b, const char *format, ...)
{
    char text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    print_error(SAMPLE_FMT "%s\n", SAMPLE_ARGS(b), text);
    complaints++;
}

static inline int end_index(struct end e)
{
    return e.out ? OP_CASE_INPUTS + e.slot : e.slot;
}

static inline struct axis *axis_at(struct bench *b, struct end e, int axis)
{
    return &b->axis[end_index(e)][axis];
}

/* ---- the rule's words ---- */
static inline int find(struct bench *b, int i)
{
    while (b->parent[i] != i)
        i = b->parent[i] = b->parent[b->parent[i]];
    return i;
}

static inline void join(struct bench *b, int i, int j)
{
    i = find(b, i);
    j = find(b, j);
    b->parent[i > j ? i : j] = i > j ? j : i;
}

/* False: too many for here. */
static inline bool number_axes(struct bench *b)
{
    b->n = 0;
    memset(b->axis, 0, sizeof b->axis);
    for (int i = 0; i < ENDS; i++) {
        const bool out = i >= OP_CASE_INPUTS;
        const int slot = out ? i - OP_CASE_INPUTS : i;
        if (slot >= (out ? b->c.n_out : b->c.n_in) || (!out && !b->in[slot]))
            continue;
        const struct shape *s = out ? &b->out[slot].shape : &b->in[slot]->shape;
        for (int a = 0; a < s->rank; a++) {
            struct axis *x = &b->axis[i][a];
            x->size = s->dim[a] > 0 ? s->dim[a] : 0;
            x->first = b->n;
            if (x->size > MAX_ELEMENTS - b->n)
                return false;
            b->n += (int)x->size;
        }
    }
    return true;
}

static inline bool side_fits(struct bench *b, const struct couple_side *s, int64_t count)
{
    const struct axis *x = axis_at(b, s->end, s->axis);
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = s->table ? s->table[i] : s->from + i * s->step;
        if (at < 0 || at >= x->size)
            return false;
    }
    return true;
}

static inline int side_at(struct bench *b, const struct couple_side *s, int64_t i)
{
    return axis_at(b, s->end, s->axis)->first + (int)(s->table ? s->table[i] : s->from + i * s->step);
}

static inline bool end_fits(const struct bench *b, struct end e, int axis)
{
    return axis >= 0 && axis < SHAPE_MAX_RANK && axis < couple_rank(&b->k, e);
}

static inline void apply_links(struct bench *b)
{
    for (int i = 0; i < b->k.n_links; i++) {
        const struct couple_link *l = &b->k.link[i];
        if (!end_fits(b, l->a.end, l->a.axis) || !end_fits(b, l->b.end, l->b.axis) || !side_fits(b, &l->a, l->count) ||
            !side_fits(b, &l->b, l->count)) {
            complain(b, "link %d is out of bounds", i);
            continue;
        }
        for (int64_t j = 0; j < l->count; j++)
            join(b, side_at(b, &l->a, j), side_at(b, &l->b, j));
        seen.links++;
    }
}

static inline void freeze_axis(struct bench *b, const struct axis *x)
{
    for (int64_t i = 0; i < x->size; i++)
        b->fixed[x->first + (int)i] = true;
}

static inline void apply_notes(struct bench *b)
{
    for (int i = 0; i < b->k.n_notes; i++) {
        const struct couple_note *n = &b->k.note[i];
        if (!end_fits(b, n->end, n->axis)) {
            complain(b, "note %d is out of bounds", i);
            continue;
        }
        struct axis *x = axis_at(b, n->end, n->axis);
        x->mentioned = true;
        x->role = n->role ? n->role : x->role;
        x->frozen = n->frozen ? n->frozen : x->frozen;
        x->approximate = n->approximate ? n->approximate : x->approximate;
    }
    for (int i = 0; i < ENDS; i++)
        for (int a = 0; a < SHAPE_MAX_RANK; a++)
            if (!b->axis[i][a].mentioned || b->axis[i][a].frozen || b->axis[i][a].size == 1)
                freeze_axis(b, &b->axis[i][a]);
}

/* Part `choice` (modulo their number) of every fold is the living one, counted among parts of more than one element. */
static inline void apply_folds(struct bench *b, int choice)
{
    for (int i = 0; i < b->k.n_folds; i++) {
        const struct couple_fold *f = &b->k.fold[i];
        struct axis *whole = axis_at(b, f->whole, f->axis);
        int alive[SHAPE_MAX_RANK], n = 0;
        int64_t product = 1, behind = 1;
        if (!end_fits(b, f->whole, f->axis) || f->n < 1 || !end_fits(b, f->parts, f->first) ||
            !end_fits(b, f->parts, f->first + f->n - 1)) {
            complain(b, "fold %d is out of bounds", i);
            continue;
        }
        for (int p = f->first; p < f->first + f->n; p++) {
            product *= couple_size(&b->k, f->parts, p);
            if (axis_at(b, f->parts, p)->size > 1)
                alive[n++] = p;
        }
        if (product != couple_size(&b->k, f->whole, f->axis)) {
            complain(b, "fold %d multiplies up to %lld", i, (long long)product);
            continue;
        }
        for (int p = n - 1; p >= 0; p--) {
            struct axis *part = axis_at(b, f->parts, alive[p]);
            for (int64_t j = 0; p == choice % n && j < whole->size; j++)
                join(b, whole->first + (int)j, part->first + (int)(j / behind % part->size));
            if (p != choice % n)
                freeze_axis(b, part);
            behind *= part->size;
        }
        seen.folds++;
    }
}

/* ---- building ---- */
static inline void types_of(struct bench *b)
{
    struct op_case *c = &b->c;
    for (int i = 0; i < c->n_in; i++) {
        b->types[i] = type_tensor(c->in[i].dtype, &c->in[i].shape);
        b->in[i] = c->absent[i] ? NULL : &b->types[i];
        b->value[i] = c->weight[i] ? &c->in[i] : NULL;
    }
}

static inline void bench_close(struct bench *b)
{
    op_case_free(&b->c);
    arena_free(b->arena);
    free(b);
}

static inline void know_less(struct bench *b, const struct computed *computed)
{
    b->sizes[computed->slot] = &b->list;
    b->list = (struct sym_list){.count = (int)tensor_count(&b->c.in[computed->slot]), .at = b->sym};
    for (int i = 0; i < MAX_SIZES; i++) {
        b->sym[i] = computed->v[i] == ANY ? SYM_UNKNOWN
                    : computed->v[i] < -1 ? (struct sym){computed->v[i], false}
                                          : sym_number(computed->v[i]);
        if (computed->slot > 0 && i < b->types[0].shape.rank)
            b->types[0].shape.dim[i] = computed->x[i];
    }
}

static inline int build_case(const struct bench *b, struct op_case *c, struct err *err)
{
    return b->bytes ? op_random(c, b->bytes, RANDOM_BYTES, b->tame) : op_case_build(c, b->op, &b->sample, err);
}

/* One axis of one input is not known by its size (axis -1: not even the rank), whatever it is when the model runs. */
static struct {
    bool on;
    int slot, axis;
    int64_t dim;
} hidden;

static inline void hide(struct bench *b)
{
    if (hidden.axis < 0)
        b->types[hidden.slot].shape = SHAPE_UNKNOWN;
    else
        b->types[hidden.slot].shape.dim[hidden.axis] = hidden.dim;
}

/* The rule's answer for the case that was built; false: the row refuses its attributes or inputs. */
static inline bool bench_ask(struct bench *b, const struct computed *computed, struct err *err)
{
    types_of(b);
    if (computed)
        know_less(b, computed);
    if (hidden.on)
        hide(b);
    for (int i = 0; i < b->c.n_out; i++)
        b->out[i] = (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
    void *attrs = arena_calloc(b->arena, b->op->attrs_size + 1, 1);
    const struct node *node = &b->c.m->nodes[b->c.node];
    const int opset = (int)model_opset(b->c.m, b->op->domain);
    b->infer = (struct infer_ctx){.node = node,
                                  .attrs = attrs,
                                  .opset = opset,
                                  .n_in = b->c.n_in,
                                  .n_out = b->c.n_out,
                                  .in = b->in,
                                  .in_value = b->value,
                                  .in_sizes = b->sizes,
                                  .out = b->out,
                                  .arena = b->arena};
    b->k = (struct coupling){.infer = &b->infer, .arena = b->arena};
    if (op_parse_attrs(b->op, b->c.m, node, attrs, b->arena, err) < 0 || b->op->infer(&b->infer, err) < 0)
        return false;
    if (b->op->couple(&b->k, err) < 0)
        fail_msg(SAMPLE_FMT "%s", SAMPLE_ARGS(b), err->msg);
    assert_false(b->k.failed);
    if (!number_axes(b))
        return false;
    for (int i = 0; i < b->n; i++)
        b->parent[i] = i;
    return true;
}

static inline struct bench *bench_new(const struct op_class *op, const struct op_sample *s)
{
    struct bench *b = calloc(1, sizeof *b);
    assert_non_null(b);
    b->op = op;
    b->sample = *s;
    b->arena = arena_new();
    return b;
}

/* The rule's answer for a sample. */
static inline struct bench *bench_open(const struct op_class *op, const struct op_sample *s,
                                       const struct computed *computed)
{
    struct err err = {0};
    struct bench *b = bench_new(op, s);
    if (build_case(b, &b->c, &err) < 0 || !bench_ask(b, computed, &err))
        fail_msg(SAMPLE_FMT "%s", SAMPLE_ARGS(b), err.msg);
    return b;
}

static inline bool run_model(const struct bench *b, const struct model *m, const struct tensor *fed, struct tensor *out,
                             const char *what)
{
    struct err err = {0};
    struct plan *plan = plan_new(m, NULL, &err);
    const bool ok = plan && plan_run(plan, fed, out, NULL, &err) == 0;
    if (!ok)
        complain(b, "%s: %s", what, err.msg);
    plan_free(plan);
    return ok;
}

/* ---- cutting ---- */
/* Copies what is kept of the end's axes. */
static inline void cut_tensor(struct bench *b, struct end e, const struct tensor *from, struct tensor *to)
{
    const struct axis *axes = b->axis[end_index(e)];
    struct shape shape = from->shape;
    int64_t index[SHAPE_MAX_RANK] = {0};
    struct err err = {0};
    for (int a = 0; a < shape.rank; a++)
        shape.dim[a] = axes[a].kept ? axes[a].n_kept : shape.dim[a];
    if (tensor_alloc(to, from->dtype, &shape, &err) < 0)
        fail_msg("%s", err.msg);
    for (int64_t i = 0, n = tensor_count(to); i < n; i++) {
        int64_t at = 0;
        for (int a = 0; a < shape.rank; a++)
            at = at * from->shape.dim[a] + (axes[a].kept ? axes[a].kept[index[a]] : index[a]);
        const size_t bits = (size_t)dtype_bits(from->dtype);
        if (bits < 8)
            dtype_set(to->dtype, to->data, i, dtype_get(from->dtype, from->data, at));
        else
            memcpy((char *)to->data + (size_t)i * (bits / 8), (const char *)from->data + (size_t)at * (bits / 8),
                   bits / 8);
        for (int a = shape.rank - 1; a >= 0 && ++index[a] == shape.dim[a]; a--)
            index[a] = 0;
    }
}

/* What stands for zero in integers: the input with the zero points of another; several run along its axis. */
static const struct {
    const char *type;
    int slot, zero_point, axis;
} zero_points[] = {
    {"MatMulInteger", 0, 2, -2},        {"MatMulInteger", 1, 3, -1}, {"ConvInteger", 0, 2, 0},
    {"ConvInteger", 1, 3, 0},           {"QLinearMatMul", 0, 2, -2}, {"QLinearMatMul", 3, 5, -1},
    {"QLinearConv", 0, 2, 0},           {"QLinearConv", 3, 5, 0},    {"MatMulIntegerToFloat", 0, 4, -2},
    {"MatMulIntegerToFloat", 1, 5, -1}, {"QGemm", 0, 2, 0},          {"QGemm", 3, 5, -1},
};

static inline double zero_of(const struct bench *b, int slot, const struct tensor *t, int64_t element)
{
    for (size_t i = 0; i < sizeof zero_points / sizeof *zero_points; i++) {
        const int z = zero_points[i].zero_point;
        if (strcmp(zero_points[i].type, b->op->type) || zero_points[i].slot != slot || z >= b->c.n_in || b->c.absent[z])
            continue;
        const struct tensor *point = &b->c.in[z];
        const int axis = zero_points[i].axis < 0 ? zero_points[i].axis + t->shape.rank : zero_points[i].axis;
        const int64_t inner = shape_product(&t->shape, axis + 1, t->shape.rank);
        return dtype_get(point->dtype, point->data,
                         tensor_count(point) == 1 ? 0 : element / inner % t->shape.dim[axis]);
    }
    return 0;
}

/* Zeros where the class feeds a product. */
static inline void zero_consumed(struct bench *b, int slot, struct tensor *t)
{
    const struct axis *axes = b->axis[slot];
    for (int a = 0; a < t->shape.rank; a++) {
        const int64_t inner = shape_product(&t->shape, a + 1, t->shape.rank), n = t->shape.dim[a];
        if (axes[a].role != COUPLE_CONSUMES || !axes[a].kept)
            continue;
        for (int64_t i = 0, count = tensor_count(t); i < count; i++)
            if (b->gone[axes[a].first + (int)(i / inner % n)])
                dtype_set(t->dtype, t->data, i, zero_of(b, slot, t, i));
    }
}

static const int64_t *kept_of(const struct shrink *s, struct end e, int axis, int64_t *count)
{
    struct bench *b = s->solver;
    const int rank = couple_rank(&b->k, e);
    axis += axis < 0 ? rank : 0;
    if (rank < 0 || axis < 0 || axis >= rank)
        return NULL;
    *count = axis_at(b, e, axis)->n_kept;
    return axis_at(b, e, axis)->kept;
}

/* Lists of what stays of each axis; false if one would be empty, or nothing goes. */
static inline bool keep_rest(struct bench *b)
{
    bool any = false, whole = true;
    for (int i = 0; i < ENDS; i++)
        for (int a = 0; a < SHAPE_MAX_RANK; a++) {
            struct axis *x = &b->axis[i][a];
            x->kept = arena_calloc(b->arena, (size_t)x->size + 1, sizeof *x->kept);
            x->n_kept = 0;
            for (int64_t j = 0; j < x->size; j++)
                if (!b->gone[x->first + (int)j])
                    x->kept[x->n_kept++] = j;
            any = any || x->n_kept < x->size;
            whole = whole && (x->n_kept > 0 || x->size == 0);
            if (x->n_kept == x->size)
                x->kept = NULL;
        }
    return any && whole;
}

static inline double tolerance_of(enum dtype dtype)
{
    return dtype == DTYPE_FLOAT16 ? 2e-3 : dtype == DTYPE_BFLOAT16 ? 2e-2 : 1e-5;
}

static inline void compare(struct bench *b, int o, const struct tensor *got, const struct tensor *want, bool values)
{
    char p[SHAPE_TEXT], q[SHAPE_TEXT];
    double largest = 1e-30;
    if (got->dtype != want->dtype || !shape_equal(&got->shape, &want->shape)) {
        complain(b, "output %d is %s after the cut, expected %s", o, shape_text(&got->shape, p),
                 shape_text(&want->shape, q));
        return;
    }
    seen.compared++;
    if (!values || tensor_is_list(got) || dtype_bits(got->dtype) == 0)
        return;
    for (int64_t i = 0; i < tensor_count(want); i++)
        if (isfinite(dtype_get(want->dtype, want->data, i)))
            largest = fmax(largest, fabs(dtype_get(want->dtype, want->data, i)));
    for (int64_t i = 0; i < tensor_count(want); i++) {
        const double g = dtype_get(got->dtype, got->data, i), w = dtype_get(want->dtype, want->data, i);
        if (g != w && !(isnan(g) && isnan(w)) && !(fabs(g - w) <= tolerance_of(want->dtype) * largest)) {
            complain(b, "output %d, element %lld is %g after the cut, expected %g", o, (long long)i, g, w);
            return;
        }
    }
    seen.values++;
}

static inline bool is_approximate(const struct bench *b)
{
    for (int i = 0; i < ENDS; i++)
        for (int a = 0; a < SHAPE_MAX_RANK; a++)
            if (b->axis[i][a].kept && b->axis[i][a].approximate)
                return true;
    return false;
}

/* A case's weights and fed inputs, each from in[]. */
static inline void set_inputs(struct op_case *c, const struct tensor *in)
{
    for (int i = 0, fed = 0; i < c->n_in; i++) {
        if (c->absent[i])
            continue;
        const uint32_t v = c->m->nodes[c->node].input[i];
        if (c->weight[i])
            assert_int_equal(value_set_weight(c->m, v, &in[i]), 0);
        else {
            model_main(c->m)->inputs[fed].type.shape = in[i].shape;
            c->fed[fed++] = in[i];
        }
    }
}

/* What gone[] says is taken out. */
static inline void check_cut(struct bench *b)
{
    struct op_case full, cut;
    struct err err = {0};
    struct tensor want[OP_CASE_OUTPUTS] = {0}, got[OP_CASE_OUTPUTS] = {0}, part = {0};
    struct tensor zeroed[OP_CASE_INPUTS] = {0}, small[OP_CASE_INPUTS] = {0};
    if (!keep_rest(b))
        return;
    assert_int_equal(build_case(b, &full, &err), 0);
    assert_int_equal(build_case(b, &cut, &err), 0);
    for (int i = 0; i < b->c.n_in; i++) {
        if (b->c.absent[i])
            continue;
        cut_tensor(b, IN(i), &b->c.in[i], &small[i]);
        assert_int_equal(tensor_copy(&zeroed[i], &b->c.in[i], &err), 0);
        zero_consumed(b, i, &zeroed[i]);
    }
    set_inputs(&full, zeroed);
    set_inputs(&cut, small);
    struct shrink s = {.infer = &b->infer, .model = cut.m, .node = cut.node, .solver = b, .kept = kept_of};
    if (b->op->shrink && b->op->shrink(&s, &err) < 0)
        fail_msg(SAMPLE_FMT "%s", SAMPLE_ARGS(b), err.msg);
    seen.corrected += model_main(cut.m)->n_nodes > 1;
    if (run_model(b, full.m, full.fed, want, "with zeros") && run_model(b, cut.m, cut.fed, got, "after the cut"))
        for (int o = 0; o < b->c.n_out; o++) {
            if (!tensor_is_list(&want[o])) {
                cut_tensor(b, OUT(o), &want[o], &part);
                compare(b, o, &got[o], &part, !b->op->nondeterministic && !b->op->shape_only && !is_approximate(b));
                tensor_fini(&part);
            }
        }
    seen.classes++;
    for (int i = 0; i < OP_CASE_INPUTS; i++) {
        tensor_fini(&zeroed[i]);
        tensor_fini(&small[i]);
    }
    for (int o = 0; o < OP_CASE_OUTPUTS; o++) {
        tensor_fini(&want[o]);
        tensor_fini(&got[o]);
    }
    op_case_free(&full);
    op_case_free(&cut);
}

/* ---- all classes of a sample ---- */
static inline void check_classes(struct bench *b)
{
    bool frozen[MAX_ELEMENTS] = {false};
    int roots[MAX_ELEMENTS], n = 0;
    for (int i = 0; i < b->n; i++)
        frozen[find(b, i)] = frozen[find(b, i)] || b->fixed[i];
    for (int i = 0; i < b->n; i++)
        if (find(b, i) == i && !frozen[i])
            roots[n++] = i;
    const int each = n > max_classes ? n / max_classes : 1;
    for (int r = 0; r < n; r += each) {
        for (int i = 0; i < b->n; i++)
            b->gone[i] = find(b, i) == roots[r];
        check_cut(b);
    }
    for (int odd = 0; odd < 2; odd++) { /* half of them at once */
        bool out[MAX_ELEMENTS] = {false};
        for (int r = odd; r < n; r += 2)
            out[roots[r]] = true;
        for (int i = 0; i < b->n; i++)
            b->gone[i] = out[find(b, i)];
        check_cut(b);
    }
}

static inline struct bench *solve(const struct op_class *op, const struct op_sample *s, const struct computed *computed,
                                  int choice)
{
    struct bench *b = bench_open(op, s, computed);
    apply_links(b);
    apply_notes(b);
    apply_folds(b, choice);
    return b;
}

/* Classes checked. */
static inline int check_sample(const struct op_class *op, const struct op_sample *s, const struct computed *computed)
{
    const int before = seen.classes;
    int choices = 1;
    for (int choice = 0; choice < choices; choice++) {
        struct bench *b = solve(op, s, computed, choice);
        for (int i = 0; i < b->k.n_folds; i++)
            choices = b->k.fold[i].n > choices ? b->k.fold[i].n : choices;
        check_classes(b);
        bench_close(b);
    }
    seen.samples++;
    return seen.classes - before;
}

#endif
