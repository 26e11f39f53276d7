/* SPDX-License-Identifier: Apache-2.0
 * weights_obs.c - criterion obs of prune.weights: layer after layer, masks and new weights from second moments (obs.h).
 * Target     a layer shall give what it gave in the original network, though its input is that of the network as pruned so far. With
 *            x the original input, z the new one: d = W C_xz (C_zz)^-1 is the best row without zeros; from there obs.h goes on. A
 *            ridge pulls d to W. Second moments are taken about the means where the layer has a bias, or can get one: the bias then
 *            takes over the difference of the means.
 * Order      layers in the order of the graph, in passes over the samples: as many as a budget of multiply-adds allows, so that in a
 *            small network each layer sees all before it pruned. Layers of a pass see each other unpruned. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/engine.h"
#include "core/kernels/gemm.h"
#include "core/passes/edit.h"
#include "core/prune/obs.h"
#include "core/prune/weight_pruning.h"
#include "core/stats/hessian.h"
#include "core/stats/pair_gram.h"

enum { ROWS = 64 }; /* times K: more tell nothing new */
static const double DAMP = 0.01;
static const double PASS_BUDGET = 2e13, EXACT_BUDGET = 2e10, REFIT_BUDGET = 1e12; /* multiply-adds */
#define PASS_BYTES ((size_t)512 << 20)

struct layer {
    struct prune_item *it;
    int64_t place; /* of its node in the graph */
};
struct work {
    struct prune_run *r;
    struct edit edit;
    struct layer *layer;
    int n;
    int64_t passes, pass;
};

static int no_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while pruning by second moments");
}

/* ---- biases ---- */
/* Where a shift of each output can go. */
struct bias {
    uint32_t value; /* constant to change; VALUE_NONE: a new one at slot `slot` of the layer's node */
    int slot;
};

/* One number for each row: the last dim, or all; others are 1. */
static bool is_per_row(const struct shape *s, int64_t rows, int trailing)
{
    const int axis = s->rank - 1 - trailing;
    for (int a = 0; a < s->rank; a++)
        if (s->dim[a] != (a == axis ? rows : 1))
            return false;
    return axis >= 0;
}

static bool own_constant(struct work *x, uint32_t v, int64_t rows)
{
    const struct model *m = x->r->c->model;
    const struct tensor *t = v == VALUE_NONE ? NULL : value_const(m, v);
    return t && t->data && m->values[v].weight && edit_count(&x->edit, v) == 1 && !value_is_graph_input(m, v) &&
           (t->dtype == DTYPE_FLOAT || t->dtype == DTYPE_DOUBLE) && is_per_row(&t->shape, rows, 0);
}

/* The constant that the only reader of a product adds to it. */
static uint32_t added_constant(struct work *x, const struct node *n)
{
    const struct model *m = x->r->c->model;
    const uint32_t reader = edit_only_reader(&x->edit, n->output[0]);
    if (reader == NODE_NONE || !node_is(&m->nodes[reader], "Add") || m->nodes[reader].n_input != 2)
        return VALUE_NONE;
    const uint32_t *in = m->nodes[reader].input;
    return in[0] == n->output[0] ? in[1] : in[0];
}

static bool find_bias(struct work *x, const struct prune_item *it, struct bias *b)
{
    const struct model *m = x->r->c->model;
    const struct node *n = &m->nodes[it->ref.node];
    const struct op_class *op = node_class(m, n);
    const int slot = op ? op->quant.bias : 0;
    const int64_t rows = it->matrix.rows;
    if (it->ref.tensor->dtype != DTYPE_FLOAT || it->ref.slot != 1 || n->n_output < 1)
        return false;
    *b = (struct bias){.value = VALUE_NONE, .slot = slot};
    if (slot > 0 && slot < n->n_input && n->input[slot] != VALUE_NONE) {
        b->value = n->input[slot];
        return own_constant(x, b->value, rows) && node_attr_float(n, "beta", 1) == 1;
    }
    if (slot > 0)
        return node_is(n, "Conv") || node_is(n, "Gemm");
    b->value = added_constant(x, n);
    return own_constant(x, b->value, rows);
}

static int write_bias(struct work *x, const struct prune_item *it, const struct bias *b, const double *shift,
                      struct err *err)
{
    struct model *m = x->r->c->model;
    const struct model *before = x->r->before;
    const struct tensor *old = b->value == VALUE_NONE ? NULL : value_const(m, b->value);
    struct tensor t = {0};
    int rc = old ? tensor_copy(&t, old, err) : tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(it->matrix.rows), err);
    if (rc == 0 && old &&
        b->value < before->n_values) { /* the shift is from there, also in later steps of a schedule */
        tensor_fini(&t);
        rc = tensor_copy(&t, value_const(before, b->value), err);
    } else if (rc == 0) {
        memset(t.data, 0, t.bytes);
    }
    for (int64_t i = 0; rc == 0 && i < it->matrix.rows; i++)
        dtype_set(t.dtype, t.data, i, dtype_get(t.dtype, t.data, i) + shift[i]);
    if (rc == 0 && old) {
        rc = weight_replace(m, b->value, &t, err);
    } else if (rc == 0) {
        const struct node *n = &m->nodes[it->ref.node];
        const char *name = model_printf(m, "%s_bias", m->values[it->ref.value].name);
        const uint32_t v = name ? edit_add_weight(&x->edit, n->graph, name, &t) : VALUE_NONE;
        if (v == VALUE_NONE)
            rc = no_memory(err);
        else
            edit_set_input(&x->edit, it->ref.node, b->slot, v);
    }
    tensor_fini(&t);
    return rc;
}

/* ---- one layer ---- */
/* A group of rows that read the same input. */
struct part {
    const struct prune_item *it;
    int64_t first, rows, k;
    double *h, *cross;        /* [k][k] in the order of the item's k: damped; x_a x_b, damped likewise */
    double *dense, *w, *orig; /* [rows][k] */
    unsigned char *keep;
    bool given;   /* the item's mask is settled */
    double power; /* of the original outputs' change with the input */
};

static void part_fini(struct part *p)
{
    free(p->h);
    free(p->cross);
    free(p->dense);
    free(p->w);
    free(p->orig);
    free(p->keep);
}

static bool part_make(struct part *p)
{
    const size_t k = (size_t)p->k, all = (size_t)p->rows * k;
    p->h = malloc(k * k * sizeof *p->h);
    p->cross = malloc(k * k * sizeof *p->cross);
    p->dense = malloc(all * sizeof *p->dense);
    p->w = malloc(all * sizeof *p->w);
    p->orig = malloc(all * sizeof *p->orig);
    p->keep = malloc(all);
    return p->h && p->cross && p->dense && p->w && p->orig && p->keep;
}

/* Moments in the item's order, about the means if `about`, damped; the rows as they were when the step began. */
static void part_fill(struct part *p, const struct prune_run *r, const struct pair_moments *g, int64_t group,
                      bool about)
{
    const struct prune_item *it = p->it;
    const int64_t k = p->k;
    const double *bb = g->bb + group * k * k, *ab = g->ab + group * k * k;
    const double *ma = g->mean_a + group * k, *mb = g->mean_b + group * k;
    const unsigned char *given = p->given ? it->mask.data : NULL;
    for (int64_t i = 0; i < k; i++)
        for (int64_t j = 0; j < k; j++) {
            const int64_t pi = weights_gram_place(it, i), pj = weights_gram_place(it, j);
            p->h[i * k + j] = bb[pi * k + pj] - (about ? mb[pi] * mb[pj] : 0);
            p->cross[i * k + j] = ab[pi * k + pj] - (about ? ma[pi] * mb[pj] : 0);
        }
    double most = hessian_mean_diagonal(p->h, k);
    double *diag = p->dense; /* scratch: at least k long */
    for (int64_t i = 0; i < k; i++)
        diag[i] = p->h[i * k + i];
    hessian_believe(p->h, k, g->rows, p->h);
    for (int64_t i = 0; i < k; i++) {
        p->h[i * k + i] += DAMP * (most > 0 ? most : 1);
        p->cross[i * k + i] += p->h[i * k + i] - diag[i]; /* the ridge pulls to W */
    }
    const struct tensor *was = weights_tensor(r->before, it->ref.value);
    for (int64_t row = 0; row < p->rows; row++)
        for (int64_t i = 0; i < k; i++) {
            const int64_t at = weight_matrix_at(&it->matrix, p->first + row, i);
            p->orig[row * k + i] = dtype_get(was->dtype, was->data, at);
            p->keep[row * k + i] =
                dtype_get(it->ref.tensor->dtype, it->ref.tensor->data, at) != 0 && (!given || given[at]);
        }
}

/* dense = W C H^-1. */
static int part_solve(struct part *p, const struct prune_run *r, struct err *err)
{
    const size_t all = (size_t)(p->rows * p->k);
    const struct gemm g = gemm_plain(false, false, p->rows, p->k, p->k);
    const size_t k = (size_t)p->k;
    double *right = malloc(all * sizeof *right), *u = malloc(k * k * sizeof *u), damp = 1e-12;
    int rc = -1;
    double *inverse = malloc(k * k * sizeof *inverse);
    if (!right || !u || !inverse) {
        no_memory(err);
        goto out;
    }
    if (hessian_factor(p->h, p->k, &damp, u, err))
        goto out;
    gemm_f64(r->c->pool, &g, p->orig, p->cross, right);
    const struct gemm square = gemm_plain(true, false, p->k, p->k, p->k);
    gemm_f64(r->c->pool, &square, u, u, inverse);
    gemm_f64(r->c->pool, &g, right, inverse, p->dense);
    p->power = 0;
    for (size_t i = 0; i < all; i++) /* of what is to be had: d H d */
        p->power += p->dense[i] * right[i];
    rc = 0;
out:
    free(right);
    free(u);
    free(inverse);
    return rc;
}

/* How many of the rows of this part go: its share of the item's. */
static int64_t part_goes(const struct part *p)
{
    const int64_t rows = p->it->matrix.rows, end = p->first + p->rows;
    return (int64_t)nearbyint((double)p->it->goes * (double)end / (double)rows) -
           (int64_t)nearbyint((double)p->it->goes * (double)p->first / (double)rows);
}

static int part_prune(struct part *p, const struct prune_run *r, double *error, struct err *err)
{
    struct obs o = {.rows = p->rows,
                    .k = p->k,
                    .h = p->h,
                    .dense = p->dense,
                    .keep = p->keep,
                    .w = p->w,
                    .goes = part_goes(p),
                    .each_row = r->scope == SCOPE_ROW,
                    .pool = r->c->pool};
    int rc = 0;
    if (r->structure.kind == STRUCTURE_NM) {
        o.n = r->structure.a;
        o.m = r->structure.b;
    }
    if (p->given) {
        rc = obs_refit(&o, err);
    } else if (obs_exact_cost(o.rows, o.k) <= EXACT_BUDGET) {
        rc = obs_exact(&o, err);
    } else {
        rc = obs_sequential(&o, err);
        int64_t left = 0;
        for (int64_t i = 0; rc == 0 && i < o.rows * o.k; i++)
            left += o.keep[i];
        if (rc == 0 && obs_refit_cost(o.rows, left / o.rows) <= REFIT_BUDGET)
            rc = obs_refit(&o, err);
    }
    *error += rc ? 0 : obs_error(&o);
    return rc;
}

/* What the bias takes over: W mean_a - W' mean_b. */
static void part_shift(const struct part *p, const struct pair_moments *g, int64_t group, double *shift)
{
    for (int64_t row = 0; row < p->rows; row++) {
        double sum = 0;
        for (int64_t i = 0; i < p->k; i++) {
            const int64_t at = group * p->k + weights_gram_place(p->it, i);
            sum += p->orig[row * p->k + i] * g->mean_a[at] - p->w[row * p->k + i] * g->mean_b[at];
        }
        shift[p->first + row] = sum;
    }
}

static bool moments_fit(const struct prune_item *it, const struct pair_moments *g)
{
    return g->k == it->matrix.k && g->groups == it->groups && it->matrix.rows % g->groups == 0;
}

static int prune_layer(struct work *x, struct prune_item *it, const struct pair_moments *g, struct err *err)
{
    struct prune_run *r = x->r;
    const int64_t per = it->matrix.rows / g->groups;
    double *values = malloc((size_t)it->count * sizeof *values),
           *shift = calloc((size_t)it->matrix.rows, sizeof *shift);
    struct part p = {.it = it, .rows = per, .k = g->k};
    struct bias bias = {.value = VALUE_NONE};
    const bool about = find_bias(x, it, &bias);
    double error = 0, power = 0;
    unsigned char *mask;
    int rc = -1;
    if (!values || !shift || !part_make(&p)) {
        no_memory(err);
        goto out;
    }
    p.given = r->structure.kind == STRUCTURE_BLOCK || r->o->has_threshold;
    if (p.given ? weights_mask(r, it, err) : tensor_alloc(&it->mask, DTYPE_BOOL, &it->ref.tensor->shape, err))
        goto out;
    mask = it->mask.data;
    for (int64_t group = 0; group < g->groups; group++) {
        p.first = group * per;
        part_fill(&p, r, g, group, about);
        if (part_solve(&p, r, err) || part_prune(&p, r, &error, err))
            goto out;
        power += p.power;
        part_shift(&p, g, group, shift);
        memcpy(values + p.first * p.k, p.w, (size_t)(per * p.k) * sizeof *values);
        for (int64_t row = 0; row < per; row++)
            for (int64_t k = 0; k < p.k; k++)
                mask[weight_matrix_at(&it->matrix, p.first + row, k)] = p.keep[row * p.k + k];
    }
    rc = 0;
    if (about)
        rc = write_bias(x, it, &bias, shift, err);
    if (rc == 0)
        rc = weights_write(r, it, values, err);
    it->error = power > 0 ? error / power : NAN;
    it->done = rc == 0;
out:
    part_fini(&p);
    free(values);
    free(shift);
    return rc;
}

/* ---- passes ---- */
static int by_place(const void *a, const void *b)
{
    const struct layer *p = a, *q = b;
    return p->place < q->place ? -1 : p->place > q->place;
}

static int order_layers(struct work *x, struct err *err)
{
    struct prune_run *r = x->r;
    const struct graph *g = model_main(r->c->model);
    int64_t *place = calloc((size_t)r->c->model->n_nodes + 1, sizeof *place);
    x->layer = calloc((size_t)r->n + 1, sizeof *x->layer);
    if (!place || !x->layer) {
        free(place);
        return no_memory(err);
    }
    for (int i = 0; i < g->n_nodes; i++)
        place[g->nodes[i]] = i;
    for (int i = 0; i < r->n; i++)
        if (!r->item[i].fallback)
            x->layer[x->n++] = (struct layer){&r->item[i], place[r->item[i].ref.node]};
    qsort(x->layer, (size_t)x->n, sizeof *x->layer, by_place);
    free(place);
    return 0;
}

/* Multiply-adds of a sample; a guess where they cannot be counted. */
static double macs_of(const struct model *m)
{
    struct plan *plan = plan_new(m, &(struct plan_opts){0}, NULL);
    const struct type *types;
    int64_t macs = -1;
    const int n = plan ? plan_n_inputs(plan) : 0;
    struct shape *shape = calloc((size_t)n + 1, sizeof *shape);
    for (int i = 0; shape && i < n; i++)
        plan_input_shape(plan, i, 1, 8, &shape[i]);
    if (plan && shape && !plan_infer(plan, shape, &types, NULL))
        macs = plan_macs(plan, NODE_NONE);
    free(shape);
    plan_free(plan);
    return macs > 0 ? (double)macs : 1e9;
}

static int progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct work *x = arg;
    struct step_ctx *c = x->r->c;
    return c->progress ? c->progress(c, "obs", x->pass * total + done, i64_max(x->passes, x->pass + 1) * total, err)
                       : 0;
}

static int run_pass(struct work *x, int first, int end, struct err *err)
{
    struct prune_run *r = x->r;
    const int n = end - first;
    uint32_t *nodes = calloc((size_t)n, sizeof *nodes);
    struct pair_moments *moments = calloc((size_t)n, sizeof *moments);
    int rc = nodes && moments ? 0 : no_memory(err);
    for (int i = 0; rc == 0 && i < n; i++)
        nodes[i] = x->layer[first + i].it->ref.node;
    const struct pair_gram run = {.a = r->before,
                                  .b = r->c->model,
                                  .data = r->c->data,
                                  .pool = r->c->pool,
                                  .samples = r->o->samples,
                                  .rows = ROWS,
                                  .nodes = nodes,
                                  .n = n,
                                  .progress = progress,
                                  .progress_arg = x};
    if (rc == 0)
        rc = pair_gram_run(&run, moments, err);
    for (int i = 0; rc == 0 && i < n; i++) {
        struct prune_item *it = x->layer[first + i].it;
        if (!moments[i].why && !moments_fit(it, &moments[i]))
            moments[i].why = "its weight does not fit what it multiplies";
        it->fallback = moments[i].why;
        if (!it->fallback)
            rc = prune_layer(x, it, &moments[i], err);
    }
    for (int i = 0; moments && i < n; i++)
        pair_moments_fini(&moments[i]);
    free(nodes);
    free(moments);
    x->pass++;
    return rc;
}

/* Layers [first, end) that memory holds at once. */
static int pass_end(const struct work *x, int first, int end)
{
    size_t used = 0;
    for (int i = first; i < end; i++) {
        const size_t bytes = pair_gram_bytes(x->r->c->model, x->layer[i].it->ref.node);
        if (i > first && (bytes > PASS_BYTES || used > PASS_BYTES - bytes))
            return i;
        used += bytes < PASS_BYTES ? bytes : PASS_BYTES;
    }
    return end;
}

int weights_obs(struct prune_run *r, struct err *err)
{
    struct work x = {.r = r};
    int rc = -1;
    if (edit_init(&x.edit, r->c->model, err))
        return -1;
    if (order_layers(&x, err))
        goto out;
    const int64_t samples =
        i64_min(r->o->samples > 0 ? r->o->samples : INT64_MAX, i64_max(1, dataset_count(r->c->data)));
    const double affordable = PASS_BUDGET / (2 * macs_of(r->before) * (double)samples);
    x.passes = affordable >= x.n ? x.n : affordable < 1 ? 1 : (int64_t)affordable;
    for (int64_t pass = 0; pass < x.passes; pass++) {
        const int end = (int)((int64_t)x.n * (pass + 1) / x.passes);
        for (int first = (int)((int64_t)x.n * pass / x.passes); first < end;) {
            const int to = pass_end(&x, first, end);
            if (run_pass(&x, first, to, err))
                goto out;
            first = to;
        }
    }
    rc = edit_finish(&x.edit, err);
out:
    free(x.layer);
    edit_fini(&x.edit);
    return rc;
}
