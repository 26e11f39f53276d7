/* SPDX-License-Identifier: Apache-2.0
 * latency_table.c - layers are found among the members of the groups: whatever weight the groups cut, its node is a
 * layer. Its twin at a cut is a model of this one node, taken from the cut network, so operators need no code here. */
#include "core/prune/latency_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/stats/generate.h"
#include "core/stats/latency.h"

/* Where the table has its points. */
static const double points[] = {0, 0.25, 0.5, 0.75, 0.9};
enum { POINTS = sizeof points / sizeof points[0] };

/* Time given to one layer, and to the whole networks together. */
static const double LAYER_S = 0.02, WHOLE_S = 1.5, COMPARE_S = 1.5;

/* An axis of a layer's weight that a group cuts. */
struct cut {
    int group, member;
};
struct layer {
    uint32_t node, weight;
    struct cut *cut;
    int n_cuts;
    double left[POINTS], ms[POINTS];
};
/* A layer that was timed: equal text, equal time. */
struct timed {
    char *text;
    double ms;
};

struct latency_table {
    const struct groups *groups;
    struct layer *layer;
    int n;
    double whole_ms[POINTS], sum_ms[POINTS]; /* of the network; of its layers */
    struct timed *timed;
    int n_timed, cap_timed;
};

/* ---- layers ---- */
static struct layer *layer_of(struct latency_table *t, const struct group_member *at)
{
    for (int i = 0; i < t->n; i++)
        if (t->layer[i].weight == at->value)
            return &t->layer[i];
    struct layer *l = &t->layer[t->n++];
    *l = (struct layer){.node = at->node, .weight = at->value};
    return l;
}

static int find_layers(struct latency_table *t, struct err *err)
{
    size_t members = 1;
    for (int i = 0; i < t->groups->n; i++)
        members += (size_t)t->groups->at[i].n_members;
    t->layer = calloc(members, sizeof *t->layer);
    for (int i = 0; t->layer && i < t->groups->n; i++)
        for (int k = 0; k < t->groups->at[i].n_members; k++) {
            const struct group_member *at = &t->groups->at[i].member[k];
            if (!at->constant || at->role == COUPLE_PASSES)
                continue;
            struct layer *l = layer_of(t, at);
            struct cut *grown = realloc(l->cut, ((size_t)l->n_cuts + 1) * sizeof *grown);
            if (!grown)
                return err_set(err, ERR_NOMEM, "out of memory for the table of latencies");
            l->cut = grown;
            l->cut[l->n_cuts++] = (struct cut){i, k};
        }
    return t->layer ? 0 : err_set(err, ERR_NOMEM, "out of memory for the table of latencies");
}

/* The fraction of a layer's weight that is left. */
static double left_of(const struct latency_table *t, const struct layer *l, const bool *const *gone)
{
    double axis_left[SHAPE_MAX_RANK], left = 1;
    for (int i = 0; i < SHAPE_MAX_RANK; i++)
        axis_left[i] = 1;
    for (int i = 0; i < l->n_cuts; i++) {
        const int group = l->cut[i].group;
        const struct group_member *at = &t->groups->at[group].member[l->cut[i].member];
        int64_t out = 0;
        for (int64_t e = 0; gone[group] && e < at->size; e++)
            out += at->atom[e] != ATOM_NONE && gone[group][at->atom[e]];
        if (at->axis >= 0 && at->axis < SHAPE_MAX_RANK && at->size > 0)
            axis_left[at->axis] -= (double)out / (double)at->size;
    }
    for (int i = 0; i < SHAPE_MAX_RANK; i++)
        left *= axis_left[i];
    return left > 0 ? left : 0;
}

/* ---- one layer alone ---- */
static void describe_attrs(struct buf *text, const struct node *n)
{
    for (int i = 0; i < n->n_attr; i++) {
        const struct attr *a = &n->attr[i];
        buf_printf(text, "|%s", a->name);
        for (int k = 0; k < a->count; k++) {
            if (a->type == ATTR_INT || a->type == ATTR_INTS)
                buf_printf(text, ",%lld", (long long)a->ints[k]);
            else if (a->type == ATTR_FLOAT || a->type == ATTR_FLOATS)
                buf_printf(text, ",%g", (double)a->floats[k]);
            else if (a->type == ATTR_STRING || a->type == ATTR_STRINGS)
                buf_printf(text, ",%s", a->strings[k].data);
        }
    }
}

/* What its time depends on; NULL: it cannot be run alone (an input of unknown shape or not numeric), or memory is out.
 * */
static char *describe(const struct model *m, uint32_t id, const struct type *types)
{
    const struct node *n = &m->nodes[id];
    struct buf text = {0};
    char shape[SHAPE_TEXT];
    bool whole = true;
    buf_printf(&text, "%s", n->op_type);
    for (int i = 0; i < n->n_input; i++) {
        const uint32_t v = n->input[i];
        if (v == VALUE_NONE) {
            buf_printf(&text, ";");
            continue;
        }
        const struct tensor *t = value_const(m, v);
        const struct shape *s = t ? &t->shape : &types[v].shape;
        whole = whole && (t || (types[v].kind == TYPE_TENSOR && shape_known(s) && types[v].dtype != DTYPE_STRING));
        buf_printf(&text, ";%s%s", t ? "W" : "", whole ? shape_text(s, shape) : "");
    }
    describe_attrs(&text, n);
    if (whole)
        return buf_take(&text);
    buf_fini(&text);
    return NULL;
}

static uint32_t add_input(struct model *m, const char *name, const struct type *type)
{
    struct graph *g = model_main(m);
    const uint32_t v = model_add_value(m, 0, name, false);
    struct value_info *grown = model_alloc(m, (size_t)g->n_inputs + 1, sizeof *grown);
    if (v == VALUE_NONE || !grown)
        return VALUE_NONE;
    if (g->n_inputs)
        memcpy(grown, g->inputs, (size_t)g->n_inputs * sizeof *grown);
    m->values[v].type = type_tensor(type->dtype, &type->shape);
    grown[g->n_inputs++] = (struct value_info){.value = v, .has_type = true, .type = m->values[v].type};
    g->inputs = grown;
    return v;
}

static int add_outputs(struct model *m, const uint32_t *out, int n)
{
    struct graph *g = model_main(m);
    if (!(g->outputs = model_alloc(m, (size_t)n + 1, sizeof *g->outputs)))
        return -1;
    for (int i = 0; i < n; i++)
        if (out[i] != VALUE_NONE)
            g->outputs[g->n_outputs++] = (struct value_info){.value = out[i]};
    return 0;
}

/* The model of this one node; borrows attributes of m. */
static struct model *alone(const struct model *m, uint32_t id, const struct type *types, struct err *err)
{
    const struct node *n = &m->nodes[id];
    struct model *one = model_new();
    uint32_t *ids = calloc((size_t)n->n_input + (size_t)n->n_output + 1, sizeof *ids);
    uint32_t *out = ids ? ids + n->n_input : NULL;
    bool ok = one && ids;
    for (int i = 0; ok && i < m->n_opsets; i++)
        model_set_opset(one, m->opsets[i].domain, m->opsets[i].version);
    for (int i = 0; ok && i < n->n_input; i++) {
        const uint32_t v = n->input[i];
        const struct tensor *t = v == VALUE_NONE ? NULL : value_const(m, v);
        ids[i] = v == VALUE_NONE ? VALUE_NONE : model_find_value(one, 0, m->values[v].name);
        if (v != VALUE_NONE && ids[i] == VALUE_NONE) {
            ids[i] = t ? model_add_weight(one, 0, m->values[v].name, t) : add_input(one, m->values[v].name, &types[v]);
            ok = ids[i] != VALUE_NONE;
        }
    }
    for (int i = 0; ok && i < n->n_output; i++) {
        out[i] = n->output[i] == VALUE_NONE ? VALUE_NONE : model_add_value(one, 0, m->values[n->output[i]].name, true);
        ok = n->output[i] == VALUE_NONE || out[i] != VALUE_NONE;
    }
    if (ok) {
        one->ir_version = m->ir_version;
        one->has_ir_version = m->has_ir_version;
        const uint32_t at = model_add_node(one, 0, n->op_type, n->domain, "layer", ids, n->n_input, out, n->n_output);
        ok = at != NODE_NONE && add_outputs(one, out, n->n_output) == 0;
        if (ok) {
            one->nodes[at].attr = n->attr;
            one->nodes[at].n_attr = n->n_attr;
        }
    }
    free(ids);
    if (ok)
        return one;
    model_free(one);
    err_set(err, ERR_NOMEM, "out of memory for the table of latencies");
    return NULL;
}

static int time_alone(const struct model *m, uint32_t id, const struct type *types, const struct latency_table_opts *o,
                      double *ms, struct err *err)
{
    struct model *one = alone(m, id, types, err);
    struct plan *plan = one ? plan_new(one, &(struct plan_opts){.pool = o->pool, .optimize = true}, err) : NULL;
    const struct latency_opts opts = {.min_runs = 3, .max_runs = 200, .budget_s = LAYER_S, .seed = o->seed};
    struct latency got;
    int rc = plan ? latency_measure(&plan, 1, &opts, &got, err) : -1;
    if (rc == 0)
        *ms = got.min_ms;
    plan_free(plan);
    model_free(one);
    return rc;
}

/* The time of a node of the cut network m; 0 if it cannot be run alone. */
static int time_layer(struct latency_table *t, const struct model *m, uint32_t id, const struct type *types,
                      const struct latency_table_opts *o, double *ms, struct err *err)
{
    *ms = 0;
    if (id >= m->n_nodes || !m->nodes[id].op_type || m->nodes[id].graph != 0)
        return 0;
    char *text = describe(m, id, types);
    if (!text)
        return 0;
    for (int i = 0; i < t->n_timed; i++)
        if (strcmp(t->timed[i].text, text) == 0) {
            *ms = t->timed[i].ms;
            free(text);
            return 0;
        }
    int rc = time_alone(m, id, types, o, ms, err);
    if (rc == 0 && t->n_timed == t->cap_timed) {
        const int cap = t->cap_timed ? 2 * t->cap_timed : 64;
        struct timed *grown = realloc(t->timed, (size_t)cap * sizeof *grown);
        rc = grown ? 0 : err_set(err, ERR_NOMEM, "out of memory for the table of latencies");
        if (grown) {
            t->timed = grown;
            t->cap_timed = cap;
        }
    }
    if (rc == 0)
        t->timed[t->n_timed++] = (struct timed){text, *ms};
    else
        free(text);
    return rc;
}

/* ---- one point ---- */

/* Types at batch 1 for inputs as they are made up. */
static int infer_types(struct plan *plan, uint64_t seed, const struct type **types, struct err *err)
{
    const int n = plan_n_inputs(plan);
    struct tensor *in = calloc((size_t)n + 1, sizeof *in);
    struct shape *shapes = calloc((size_t)n + 1, sizeof *shapes);
    int rc = in && shapes ? 0 : err_set(err, ERR_NOMEM, "out of memory for the table of latencies");
    if (rc == 0)
        rc = generate_inputs(plan, &(struct generate_opts){.batch = 1, .seed = seed}, in, err);
    for (int i = 0; rc == 0 && i < n; i++)
        shapes[i] = in[i].shape;
    if (rc == 0)
        rc = plan_infer(plan, shapes, types, err);
    for (int i = 0; in && i < n; i++)
        tensor_fini(&in[i]);
    free(in);
    free(shapes);
    return rc;
}

/* Layers of the network cut at point p. */
static int measure_layers(struct latency_table *t, int p, const struct model *m, const bool *const *gone,
                          const struct latency_table_opts *o, struct err *err)
{
    const struct type *types;
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = o->pool}, err);
    int rc = plan ? infer_types(plan, o->seed, &types, err) : -1;
    for (int i = 0; i < t->n && rc == 0; i++) {
        struct layer *l = &t->layer[i];
        l->left[p] = left_of(t, l, gone);
        if (plan_model(plan)->n_values < m->n_values) /* its ids are the caller's, with more behind them */
            rc = err_set(err, ERR_INTERNAL, "a plan's model lost values");
        else
            rc = time_layer(t, m, l->node, types, o, &l->ms[p], err);
        t->sum_ms[p] += l->ms[p];
        if (rc == 0 && o->progress && i % 8 == 0)
            rc = o->progress(o->progress_arg, (int64_t)p * t->n + i, (int64_t)POINTS * t->n, err);
    }
    plan_free(plan);
    return rc;
}

static struct model *cut_at(const struct latency_table *t, const struct latency_table_opts *o, int p, bool ***gone,
                            struct err *err)
{
    int64_t *kept = calloc((size_t)t->groups->n + 1, sizeof *kept);
    struct model *m = NULL;
    if (!kept) {
        err_set(err, ERR_NOMEM, "out of memory for the table of latencies");
        return NULL;
    }
    select_ratio(o->select, points[p], kept);
    *gone = select_gone(o->select, kept, err);
    if (*gone)
        m = model_clone(o->model, err);
    if (m && groups_remove(t->groups, m, (const bool *const *)*gone, err)) {
        model_free(m);
        m = NULL;
    }
    free(kept);
    return m;
}

static int measure_whole(struct latency_table *t, struct model *const *m, const struct latency_table_opts *o,
                         struct err *err)
{
    struct plan *plan[POINTS] = {NULL};
    struct latency got[POINTS];
    const struct latency_opts opts = {.min_runs = 3, .max_runs = 200, .budget_s = WHOLE_S, .seed = o->seed};
    const bool stream = model_streams(m[0]);
    int rc = 0;
    for (int p = 0; p < POINTS && rc == 0; p++) {
        plan[p] = plan_new(m[p], &(struct plan_opts){.pool = o->pool, .optimize = true, .stream = stream}, err);
        rc = plan[p] ? 0 : -1;
    }
    if (rc == 0)
        rc = latency_measure(plan, POINTS, &opts, got, err);
    for (int p = 0; p < POINTS; p++) {
        if (rc == 0)
            t->whole_ms[p] = got[p].min_ms;
        plan_free(plan[p]);
    }
    return rc;
}

struct latency_table *latency_table_new(const struct latency_table_opts *o, struct err *err)
{
    struct latency_table *t = calloc(1, sizeof *t);
    struct model *m[POINTS] = {NULL};
    int rc = t ? 0 : err_set(err, ERR_NOMEM, "out of memory for the table of latencies");
    if (t)
        t->groups = o->groups;
    if (rc == 0)
        rc = find_layers(t, err);
    for (int p = 0; p < POINTS && rc == 0; p++) {
        bool **gone = NULL;
        m[p] = cut_at(t, o, p, &gone, err);
        rc = m[p] ? measure_layers(t, p, m[p], (const bool *const *)gone, o, err) : -1;
        select_gone_free(gone, o->groups->n);
    }
    if (rc == 0)
        rc = measure_whole(t, m, o, err);
    for (int p = 0; p < POINTS; p++)
        model_free(m[p]);
    if (rc == 0)
        return t;
    latency_table_free(t);
    return NULL;
}

void latency_table_free(struct latency_table *t)
{
    if (!t)
        return;
    for (int i = 0; i < t->n; i++)
        free(t->layer[i].cut);
    for (int i = 0; i < t->n_timed; i++)
        free(t->timed[i].text);
    free(t->layer);
    free(t->timed);
    free(t);
}

/* ---- reading it ---- */

/* y at x by straight lines; xs fall. Beyond the ends: the end's. */
static double between(const double *xs, const double *ys, double x)
{
    for (int p = 1; p < POINTS; p++)
        if (x >= xs[p]) {
            const double span = xs[p - 1] - xs[p];
            const double part = span > 0 ? (x - xs[p]) / span : 0;
            return ys[p] + (part > 1 ? 1 : part) * (ys[p - 1] - ys[p]);
        }
    return ys[POINTS - 1];
}

double latency_table_left(const struct latency_table *t, const bool *const *gone)
{
    double sum = 0, factor[POINTS], falling[POINTS] = {0};
    for (int i = 0; i < t->n; i++)
        sum += between(t->layer[i].left, t->layer[i].ms, left_of(t, &t->layer[i], gone));
    for (int p = 0; p < POINTS; p++) {
        factor[p] = t->sum_ms[p] > 0 ? t->whole_ms[p] / t->sum_ms[p] : 1;
        falling[p] = p > 0 && t->sum_ms[p] > falling[p - 1] ? falling[p - 1] : t->sum_ms[p];
    }
    return t->whole_ms[0] > 0 ? sum * between(falling, factor, sum) / t->whole_ms[0] : 1;
}

static json_t *row_json(const double *v)
{
    json_t *a = json_array();
    for (int p = 0; p < POINTS; p++)
        json_array_append_new(a, json_real(v[p]));
    return a;
}

json_t *latency_table_json(const struct latency_table *t, const struct model *m)
{
    json_t *layers = json_array();
    char label[200];
    for (int i = 0; i < t->n; i++)
        json_array_append_new(layers, json_pack("{s:s, s:o, s:o}", "node",
                                                node_label(m, t->layer[i].node, label, sizeof label), "left",
                                                row_json(t->layer[i].left), "ms", row_json(t->layer[i].ms)));
    return json_pack("{s:o, s:o, s:o}", "ratios", row_json(points), "whole_ms", row_json(t->whole_ms), "layers",
                     layers);
}

int latency_table_compare(const struct model *a, const struct model *b, struct pool *pool, uint64_t seed, double *left,
                          double *ms_a, double *ms_b, struct err *err)
{
    const struct plan_opts po = {.pool = pool, .optimize = true, .stream = model_streams(a)};
    struct plan *plans[2] = {plan_new(a, &po, err), NULL};
    struct latency got[2];
    int rc = -1;
    if (plans[0])
        plans[1] = plan_new(b, &po, err);
    if (plans[1])
        rc = latency_measure(plans, 2, &(struct latency_opts){.min_runs = 5, .budget_s = COMPARE_S, .seed = seed}, got,
                             err);
    if (rc == 0) {
        *ms_a = got[0].min_ms;
        *ms_b = got[1].min_ms;
        *left = *ms_a > 0 ? *ms_b / *ms_a : 1;
    }
    plan_free(plans[0]);
    plan_free(plans[1]);
    return rc;
}
