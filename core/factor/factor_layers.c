/* SPDX-License-Identifier: Apache-2.0
 * factor_layers.c - the products of a model that can be factorized, what they cost, and why others cannot (factor.h).
 * */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/factor/factor.h"
#include "core/factor/linear.h"
#include "core/passes/weight_view.h"
#include "core/passes/weights.h"

struct finding {
    struct model *m;
    const struct scheme *scheme;
    struct uses uses;
    struct plan *plan;
    const struct type *types; /* NULL: nothing is known */
};

/* ---- the weight ---- */
/* Readers of the bytes, through everything that only passes them on. */
static bool is_shared(const struct finding *f, const struct layer *l)
{
    uint32_t v = f->m->nodes[l->node].input[l->slot];
    for (int depth = 0; depth < 64 && v != VALUE_NONE; depth++) {
        if (uses_count(&f->uses, v) > 1)
            return true;
        if (v == l->weight)
            return false;
        v = f->m->nodes[f->m->values[v].producer].input[0];
    }
    return true;
}

static const char *read_conv(const struct finding *f, const struct weight_view *v, struct layer *l)
{
    const struct node *n = &f->m->nodes[l->node];
    l->groups = node_attr_int(n, "group", 1);
    if (v->rank < 3 || l->groups < 1 || v->dim[0] % l->groups)
        return "its attributes do not fit its weight";
    const struct attr *k = node_attr(n, "kernel_shape");
    l->out = v->dim[0] / l->groups;
    l->in = v->dim[1];
    l->spatial = v->rank - 2;
    l->taps = 1;
    for (int a = 0; a < l->spatial; a++) {
        l->kernel[a] = v->dim[2 + a];
        l->taps *= l->kernel[a]; /* no more than the weight's elements */
        if (k && (k->type != ATTR_INTS || k->count != l->spatial || k->ints[a] != l->kernel[a]))
            return "its attributes do not fit its weight";
    }
    return NULL;
}

static const char *read_gemm(const struct finding *f, const struct weight_view *v, struct layer *l)
{
    const struct node *n = &f->m->nodes[l->node];
    const bool trans_b = node_attr_int(n, "transB", 0) != 0;
    if (v->rank != 2)
        return "its weight is not a matrix";
    if (node_attr_int(n, "transA", 0) && model_opset(f->m, "") < 11)
        return "transA needs opset 11 to be in a product of its own";
    l->out = v->dim[trans_b ? 0 : 1];
    l->in = v->dim[trans_b ? 1 : 0];
    return NULL;
}

static const char *read_matmul(const struct finding *f, const struct weight_view *v, struct layer *l)
{
    (void)f;
    if (v->rank < 2)
        return "its weight is a vector";
    for (int a = 0; a < v->rank - 2; a++)
        if (v->dim[a] != 1)
            return "its weight is a batch of matrices";
    l->out = v->dim[l->slot == 1 ? v->rank - 1 : v->rank - 2];
    l->in = v->dim[l->slot == 1 ? v->rank - 2 : v->rank - 1];
    l->kind = l->slot == 1 ? LAYER_MATMUL_RIGHT : LAYER_MATMUL_LEFT;
    return NULL;
}

static const struct product {
    const char *type;
    enum layer_kind kind;
    const char *(*read)(const struct finding *f, const struct weight_view *v, struct layer *l);
} products[] = {
    {"Conv", LAYER_CONV, read_conv},
    {"Gemm", LAYER_GEMM, read_gemm},
    {"MatMul", LAYER_MATMUL_RIGHT, read_matmul},
};

static int64_t view_index(const struct weight_view *v, int64_t row, int64_t col)
{
    return row * v->stride[v->rank - 2] + col * v->stride[v->rank - 1];
}

static void read_convolution(const struct layer *l, const struct weight_view *v, double *w)
{
    const int64_t n = l->groups * l->out * l->in * l->taps;
    for (int64_t i = 0; i < n; i++) {
        int64_t at = 0, rest = i;
        for (int a = v->rank - 1; a >= 0; a--) {
            at += rest % v->dim[a] * v->stride[a];
            rest /= v->dim[a];
        }
        w[i] = dtype_get(v->stored->dtype, v->stored->data, at);
    }
}

double *layer_weight(const struct model *m, const struct layer *l, struct err *err)
{
    struct weight_view v;
    double *w = doubles_new(l->groups * l->out, l->in * l->taps, err);
    if (!w)
        return NULL;
    if (!weight_view_of(m, m->nodes[l->node].input[l->slot], &v) || !v.stored->data) {
        err_set(err, ERR_INTERNAL, "a weight is not there any more");
        free(w);
        return NULL;
    }
    if (l->kind == LAYER_CONV) {
        read_convolution(l, &v, w);
        return w;
    }
    const bool rows =
        l->kind == LAYER_GEMM ? node_attr_int(&m->nodes[l->node], "transB", 0) != 0 : l->kind == LAYER_MATMUL_LEFT;
    for (int64_t o = 0; o < l->out; o++)
        for (int64_t i = 0; i < l->in; i++)
            w[o * l->in + i] =
                dtype_get(v.stored->dtype, v.stored->data, rows ? view_index(&v, o, i) : view_index(&v, i, o));
    return w;
}

/* ---- sizes ---- */
static bool read_sizes(const struct finding *f, struct layer *l)
{
    const struct node *n = &f->m->nodes[l->node];
    const int slot = l->kind == LAYER_CONV || l->kind == LAYER_GEMM ? 0 : 1 - l->slot;
    const struct type *x = f->types ? &f->types[n->input[slot]] : NULL, *y = x ? &f->types[n->output[0]] : NULL;
    l->vectors = 1;
    for (int a = 0; a < l->spatial; a++)
        l->in_size[a] = l->out_size[a] = 1;
    if (!x || x->kind != TYPE_TENSOR || y->kind != TYPE_TENSOR || !shape_known(&x->shape) || !shape_known(&y->shape) ||
        shape_count(&x->shape) < 1 || shape_count(&y->shape) < 1)
        return false;
    if (l->kind != LAYER_CONV) {
        l->vectors = i64_max(1, shape_count(&x->shape) / l->in);
        return true;
    }
    if (x->shape.rank != l->spatial + 2 || y->shape.rank != l->spatial + 2)
        return false;
    for (int a = 0; a < l->spatial; a++) {
        l->in_size[a] = x->shape.dim[2 + a];
        l->out_size[a] = y->shape.dim[2 + a];
    }
    return true;
}

/* What the layer costs as it is. Factors have at most twice its numbers, at no more places than it reads or makes.
 * False: they could not be counted. */
static bool own_cost(struct layer *l)
{
    const struct stage whole = {.out = l->out, .in = l->in, .split = 1, .axes = layer_axes(l)};
    int64_t most = l->vectors, all;
    for (int a = 0; a < l->spatial; a++)
        if (!i64_mul(most, i64_max(l->in_size[a], l->out_size[a]), &most))
            return false;
    if (!i64_mul(most, 64 * l->groups * l->out, &all) || !i64_mul(all, l->in * l->taps, &all))
        return false;
    stages_cost(l, &whole, 1, &l->params, &l->macs);
    return true;
}

/* False: one of the numbers is not finite; *zero: all are 0. */
static bool look_at_numbers(const struct tensor *t, bool *zero)
{
    const int64_t n = tensor_count(t);
    *zero = true;
    for (int64_t i = 0; i < n; i++) {
        const double v = dtype_get(t->dtype, t->data, i);
        if (!isfinite(v))
            return false;
        *zero = *zero && !(fabs(v) > 0);
    }
    return true;
}

static const char *describe(const struct finding *f, const struct product *p, struct layer *l)
{
    const struct node *n = &f->m->nodes[l->node];
    struct weight_ref ref;
    struct weight_view v;
    const char *why = NULL;
    bool zero;
    int64_t rows, width, count;
    if (n->n_input < 2 || n->input[0] == VALUE_NONE || n->input[1] == VALUE_NONE || n->n_output < 1 ||
        n->output[0] == VALUE_NONE)
        return "it lacks an input or its output";
    if (n->graph != 0)
        return "it is inside a nested graph (If, Loop, Scan)";
    if (!product_weight(f->m, l->node, &ref, &why) || why)
        return why ? why : "its weight is not a constant";
    l->weight = ref.value;
    l->slot = ref.slot;
    if (!weight_view_of(f->m, n->input[ref.slot], &v) || v.source != ref.value)
        return "its weight is not a constant, or comes by more than transposing and casting";
    l->dtype = v.dtype;
    if (is_shared(f, l))
        return "its weight is shared with another node";
    if ((why = p->read(f, &v, l)))
        return why;
    if (!i64_mul(l->groups, l->out, &rows) || !i64_mul(l->in, l->taps, &width) || !i64_mul(rows, width, &count) ||
        count > INT32_MAX)
        return "its weight has more numbers than LAPACK can count";
    l->sizes_known = read_sizes(f, l);
    if (!own_cost(l))
        return "what it reads is too large to count";
    if ((why = f->scheme->refuse(l)))
        return why;
    if (!look_at_numbers(v.stored, &zero))
        return "its weight holds numbers that are not finite";
    return zero ? "its weight is all zeros" : NULL;
}

/* ---- all ---- */
static void infer_sizes(struct finding *f, int64_t *macs)
{
    struct shape *in = NULL;
    *macs = -1;
    f->plan = plan_new(f->m, &(struct plan_opts){0}, NULL);
    const int n = f->plan ? plan_n_inputs(f->plan) : 0;
    if (!f->plan || !(in = calloc((size_t)n + 1, sizeof *in)))
        return;
    for (int i = 0; i < n; i++)
        plan_input_shape(f->plan, i, 1, 8, &in[i]);
    /* the caller's ids hold in a private copy too, but a node inlined there is none of the caller's */
    if (plan_infer(f->plan, in, &f->types, NULL) == 0)
        *macs = plan_macs(f->plan, NODE_NONE);
    else
        f->types = NULL;
    free(in);
}

static const struct product *product_of(const struct node *n)
{
    for (size_t i = 0; n->op_type && i < sizeof products / sizeof *products; i++)
        if (node_is(n, products[i].type))
            return &products[i];
    return NULL;
}

static void add_layer(struct finding *f, struct layers *x, uint32_t id, const struct layers_opts *o)
{
    const struct product *p = product_of(&f->m->nodes[id]);
    char label[200];
    if (!p)
        return;
    struct layer *l = &x->at[x->n];
    *l = (struct layer){.node = id,
                        .weight = VALUE_NONE,
                        .kind = p->kind,
                        .slot = 1,
                        .groups = 1,
                        .taps = 1,
                        .vectors = 1,
                        .pool = o->pool,
                        .chosen = -1,
                        .importance = 1,
                        .measured = NAN};
    l->why = describe(f, p, l);
    if (!l->why && !globs_select(o->include, o->exclude, node_label(f->m, id, label, sizeof label)))
        l->why = "not selected by include and exclude";
    /* a product of two computed values has no weight: nothing is left alone */
    x->n += l->weight != VALUE_NONE || p->kind != LAYER_MATMUL_RIGHT || f->m->nodes[id].graph != 0;
}

int layers_find(struct layers *x, struct model *m, const struct layers_opts *o, struct err *err)
{
    struct finding f = {.m = m, .scheme = o->scheme};
    uint32_t *order = calloc((size_t)model_main(m)->n_nodes + 1, sizeof *order);
    int rc = -1;
    *x = (struct layers){.scheme = o->scheme, .at = calloc((size_t)m->n_nodes + 1, sizeof *x->at)};
    if (!order || !x->at) {
        err_set(err, ERR_NOMEM, "out of memory while listing layers");
        goto out;
    }
    if (uses_build(&f.uses, m, err) || model_toposort(m, 0, order, err))
        goto out;
    infer_sizes(&f, &x->macs);
    for (int i = 0; i < model_main(m)->n_nodes; i++)
        add_layer(&f, x, order[i], o);
    for (uint32_t id = 0; id < m->n_nodes; id++)
        if (m->nodes[id].op_type && m->nodes[id].graph != 0 && node_is_rewritable(m, id))
            add_layer(&f, x, id, o);
    rc = 0;
out:
    free(order);
    plan_free(f.plan);
    uses_fini(&f.uses);
    if (rc)
        layers_free(x);
    return rc;
}

void layers_free(struct layers *x)
{
    for (int i = 0; x->at && i < x->n; i++) {
        if (x->at[i].prep)
            x->scheme->release(x->at[i].prep);
        free(x->at[i].at);
    }
    free(x->at);
    *x = (struct layers){0};
}

int layer_add_point(struct layer *l, const struct scheme *s, const int64_t rank[2], double error, struct err *err)
{
    struct stage stage[MOST_STAGES];
    struct point p = {.rank = {rank[0], rank[1]}, .error = error > 0 ? error : 0};
    stages_cost(l, stage, s->shape(l, rank, stage), &p.params, &p.macs);
    if (p.params >= l->params || p.macs >= l->macs || !isfinite(error))
        return 0;
    if (l->n_points == l->cap_points) {
        const int cap = l->cap_points ? l->cap_points * 2 : 16;
        struct point *grown = realloc(l->at, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory while listing ranks");
        l->at = grown;
        l->cap_points = cap;
    }
    l->at[l->n_points++] = p;
    return 0;
}
