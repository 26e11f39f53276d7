/* SPDX-License-Identifier: Apache-2.0
 * batchnorm_insert.c - see batchnorm_insert.h. The new node makes the value the convolution made (its id, name and
 * readers stay), and the convolution makes a new one in between. A note on the node's scale says that it is ours. */
#include "core/train/batchnorm_insert.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/kernels/channel_affine.h"
#include "core/stats/sampling.h"

static const char *const ours = "inserted";
static const float epsilon = 1e-5f;
enum { SAMPLES = 1024 };

struct place {
    uint32_t conv, value;
    int64_t channels, count; /* count: numbers a channel that were seen */
    double *sum, *square;    /* [channels] */
};
struct places {
    const struct model *m;
    struct place *at;
    int n;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while putting BatchNormalization into the model");
}

/* ---- where ---- */
static bool is_plain_weight(const struct model *m, const struct uses *uses, uint32_t value)
{
    return value != VALUE_NONE && m->values[value].weight && m->values[value].weight->tensor.dtype == DTYPE_FLOAT &&
           m->values[value].weight->tensor.data && uses_count(uses, value) == 1 && !value_note(m, value, "codebook");
}

static bool takes_one(const struct model *m, const struct uses *uses, uint32_t node)
{
    const struct node *n = &m->nodes[node];
    if (!node_is(n, "Conv") || n->n_input < 2 || n->n_output < 1 || n->output[0] == VALUE_NONE ||
        !is_plain_weight(m, uses, n->input[1]) || m->values[n->input[1]].weight->tensor.shape.rank < 3)
        return false;
    if (n->n_input > 2 && n->input[2] != VALUE_NONE && !is_plain_weight(m, uses, n->input[2]))
        return false;
    for (uint32_t u = uses->first[n->output[0]]; u < uses->first[n->output[0] + 1]; u++)
        if (uses->all[u].node == NODE_NONE || node_is(&m->nodes[uses->all[u].node], "BatchNormalization"))
            return false;
    return uses_count(uses, n->output[0]) > 0;
}

static int find_places(struct places *p, struct err *err)
{
    const struct graph *g = model_main(p->m);
    struct uses uses = {0};
    int rc = -1;
    if (uses_build(&uses, p->m, err))
        return -1;
    p->at = calloc((size_t)g->n_nodes + 1, sizeof *p->at);
    if (!p->at) {
        nomem(err);
        goto out;
    }
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *n = &p->m->nodes[g->nodes[i]];
        if (!takes_one(p->m, &uses, g->nodes[i]))
            continue;
        struct place *k = &p->at[p->n++];
        k->conv = g->nodes[i];
        k->value = n->output[0];
        k->channels = p->m->values[n->input[1]].weight->tensor.shape.dim[0];
        k->sum = calloc((size_t)k->channels * 2 + 1, sizeof *k->sum);
        k->square = k->sum ? k->sum + k->channels : NULL;
        if (!k->sum) {
            nomem(err);
            goto out;
        }
    }
    rc = 0;
out:
    uses_fini(&uses);
    return rc;
}

static void places_fini(struct places *p)
{
    for (int i = 0; i < p->n; i++)
        free(p->at[i].sum);
    free(p->at);
}

/* ---- moments ---- */
static int see(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct places *p = arg;
    (void)err;
    for (int i = 0; i < p->n; i++) {
        struct place *k = &p->at[i];
        if (k->value != value || t->dtype != DTYPE_FLOAT || t->shape.rank < 2 || t->shape.dim[1] != k->channels)
            continue;
        const int64_t cells = shape_product(&t->shape, 2, t->shape.rank);
        for (int64_t row = 0; row < t->shape.dim[0] * k->channels; row++) {
            const float *x = tensor_f32(t) + row * cells;
            double sum = 0, square = 0;
            for (int64_t j = 0; j < cells; j++) {
                sum += (double)x[j];
                square += (double)x[j] * (double)x[j];
            }
            k->sum[row % k->channels] += sum;
            k->square[row % k->channels] += square;
        }
        k->count += t->shape.dim[0] * cells;
    }
    return 0;
}

static int measure(struct places *p, const struct batchnorm_insert_opts *o, struct err *err)
{
    bool *watch = calloc((size_t)p->m->n_values + 1, sizeof *watch);
    if (!watch)
        return nomem(err);
    for (int i = 0; i < p->n; i++)
        watch[p->at[i].value] = true;
    const struct sampling s = {.data = o->data,
                               .pool = o->pool,
                               .samples = SAMPLES,
                               .index = o->index,
                               .n_index = o->n,
                               .observe = see,
                               .observe_arg = p,
                               .watch = watch};
    const int64_t done = sampling_run(p->m, &s, err);
    free(watch);
    return done < 0 ? -1 : 0;
}

/* ---- putting it in ---- */
static uint32_t add_vector(struct model *m, const char *base, const char *what, const double *v, int64_t n)
{
    struct tensor t = {0};
    char name[300];
    uint32_t value = VALUE_NONE;
    snprintf(name, sizeof name, "%.240s_norm_%s", base, what);
    if (!tensor_from_doubles(&t, DTYPE_FLOAT, &SHAPE(n), v, NULL)) {
        const uint32_t named = model_add_value(m, 0, name, true); /* a name nobody has */
        if (named != VALUE_NONE) {
            const char *unique = m->values[named].name;
            snprintf(name, sizeof name, "%.290s", unique);
            model_remove_value(m, named);
            value = model_add_weight(m, 0, name, &t);
        }
    }
    tensor_fini(&t);
    return value;
}

static int put_one(struct model *m, const struct place *k, struct err *err)
{
    static const char *const what[] = {"scale", "bias", "mean", "var"};
    const uint32_t y = k->value;
    double *v[4] = {0}, *all = calloc((size_t)k->channels * 4 + 1, sizeof *all);
    uint32_t in[5];
    int rc = -1;
    if (!all)
        return nomem(err);
    for (int i = 0; i < 4; i++)
        v[i] = all + i * k->channels;
    for (int64_t c = 0; c < k->channels; c++) {
        const double mean = k->count ? k->sum[c] / (double)k->count : 0;
        const double var = k->count ? fmax(0, k->square[c] / (double)k->count - mean * mean) : 1;
        /* as float32 holds them, so that the node undoes itself */
        v[2][c] = v[1][c] = (double)(float)mean;
        v[3][c] = (double)(float)var;
        v[0][c] = sqrt(v[3][c] + (double)epsilon);
    }
    char base[256];
    snprintf(base, sizeof base, "%.240s", m->values[y].name);
    for (int i = 0; i < 4; i++)
        if ((in[i + 1] = add_vector(m, base, what[i], v[i], k->channels)) == VALUE_NONE) {
            nomem(err);
            goto out;
        }
    if ((in[0] = model_add_value(m, 0, base, true)) == VALUE_NONE) {
        nomem(err);
        goto out;
    }
    m->values[in[0]].type = m->values[y].type;
    value_set_note(m, in[1], ours, "yes", NULL);
    m->nodes[k->conv].output[0] = in[0];
    m->values[in[0]].producer = k->conv;
    m->values[in[0]].slot = 0;
    const uint32_t bn = model_add_node(m, 0, "BatchNormalization", NULL, NULL, in, 5, &y, 1);
    if (bn == NODE_NONE) {
        nomem(err);
        goto out;
    }
    node_set_float(m, bn, "epsilon", epsilon);
    model_move_node(m, bn, k->conv, true);
    rc = 0;
out:
    free(all);
    return rc;
}

int batchnorm_insert(struct model *m, const struct batchnorm_insert_opts *o, struct err *err)
{
    struct places p = {.m = m};
    int rc = -1;
    if (find_places(&p, err) || (p.n > 0 && measure(&p, o, err)))
        goto out;
    for (int i = 0; i < p.n; i++)
        if (put_one(m, &p.at[i], err))
            goto out;
    rc = p.n;
out:
    places_fini(&p);
    return rc;
}

/* ---- folding it away ---- */
static int fold_one(struct model *m, uint32_t bn, struct err *err)
{
    uint32_t in[5];
    const uint32_t y = m->nodes[bn].output[0], conv = m->values[m->nodes[bn].input[0]].producer;
    memcpy(in, m->nodes[bn].input, sizeof in);
    struct node *n = &m->nodes[conv];
    const struct tensor *w = &m->values[n->input[1]].weight->tensor;
    struct channel_layout layout;
    struct tensor nw = {0}, nb = {0};
    double *v[4] = {0}, *bias = NULL;
    int rc = -1;
    if (channel_layout_conv(&w->shape, node_attr_int(n, "group", 1), false, &layout))
        return err_set(err, ERR_INTERNAL, "a convolution changed its form while it was trained");
    for (int i = 0; i < 4; i++)
        if (!(v[i] = tensor_doubles(&m->values[in[i + 1]].weight->tensor))) {
            nomem(err);
            goto out;
        }
    const bool has_bias = n->n_input > 2 && n->input[2] != VALUE_NONE;
    bias = has_bias ? tensor_doubles(&m->values[n->input[2]].weight->tensor)
                    : calloc((size_t)layout.channels + 1, sizeof *bias);
    if (!bias) {
        nomem(err);
        goto out;
    }
    if (!channel_affine_norm(layout.channels, (double)node_attr_float(&m->nodes[bn], "epsilon", 1e-5f), v[0], v[1],
                             v[2], v[3], v[0], v[1])) {
        err_set(err, ERR_NON_FINITE, "trained statistics of BatchNormalization are not finite");
        goto out;
    }
    for (int64_t c = 0; c < layout.channels; c++)
        bias[c] = v[0][c] * bias[c] + v[1][c];
    if (channel_affine_weight(&layout, v[0], w, &nw, err) ||
        tensor_from_doubles(&nb, DTYPE_FLOAT, &SHAPE(layout.channels), bias, err))
        goto out;
    char base[256];
    snprintf(base, sizeof base, "%.240s", m->values[n->input[1]].name);
    const uint32_t b = has_bias ? n->input[2] : add_vector(m, base, "bias", bias, layout.channels);
    if (b == VALUE_NONE || node_set_input(m, conv, 2, b) || value_set_weight(m, m->nodes[conv].input[1], &nw) ||
        value_set_weight(m, b, &nb)) {
        nomem(err);
        goto out;
    }
    model_remove_node(m, bn);
    m->nodes[conv].output[0] = y;
    m->values[y].producer = conv;
    m->values[y].slot = 0;
    for (int i = 0; i < 5; i++)
        model_remove_value(m, in[i]);
    rc = 0;
out:
    for (int i = 0; i < 4; i++)
        free(v[i]);
    free(bias);
    tensor_fini(&nw);
    tensor_fini(&nb);
    return rc;
}

int batchnorm_insert_fold(struct model *m, struct err *err)
{
    for (uint32_t i = 0; i < m->n_nodes; i++) {
        const struct node *n = &m->nodes[i];
        if (!n->op_type || !node_is(n, "BatchNormalization") || n->n_input != 5 || !value_note(m, n->input[1], ours))
            continue;
        if (fold_one(m, i, err))
            return -1;
    }
    return 0;
}
