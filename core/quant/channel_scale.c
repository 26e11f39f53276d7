/* SPDX-License-Identifier: Apache-2.0
 * channel_scale.c - elements, ends and regions (channel_scale.h); what each operator does to them is in
 * channel_rules.c.
 *
 * Two union-finds over the same elements. `parent` joins elements that must have one factor. `tie` joins what only has
 * to be looked at together: all channels of a value, and so all products that make or read one of them. Blocking is
 * per root of `parent`, so a value can lose some channels (a Concat with one part nobody knows) and keep the others. */
#include "core/quant/channel_scale.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/passes/pass.h"

enum { MAX_CHANNELS = 1 << 24 }; /* of one value */

static int64_t find(const int64_t *parent, int64_t i)
{
    while (parent[i] != i)
        i = parent[i];
    return i;
}

/* The older element leads, so that roots do not depend on the order of unions; halving keeps paths short. */
static void join(int64_t *parent, int64_t a, int64_t b)
{
    for (int64_t k = a; parent[k] != k; k = parent[k])
        parent[k] = parent[parent[k]];
    for (int64_t k = b; parent[k] != k; k = parent[k])
        parent[k] = parent[parent[k]];
    a = find(parent, a);
    b = find(parent, b);
    if (a < b)
        parent[b] = a;
    else
        parent[a] = b;
}

int64_t channel_scale_root(const struct channel_scale *s, int64_t element)
{
    return find(s->parent, element);
}

bool channel_scale_free(const struct channel_scale *s, int64_t element)
{
    return !s->blocked[find(s->parent, element)];
}

static bool grow(void **at, size_t size, int64_t need, int64_t *cap)
{
    size_t bytes;
    if (need <= *cap)
        return true;
    int64_t wanted = need + *cap + 64;
    void *grown = size_mul((size_t)wanted, size, &bytes) ? realloc(*at, bytes) : NULL;
    if (!grown)
        return false;
    *at = grown;
    *cap = wanted;
    return true;
}

int64_t scale_elements_new(struct channel_scale *s, uint32_t value, int axis, int64_t channels)
{
    int64_t cap[3] = {s->cap, s->cap, s->cap}, base = s->n;
    if (value == VALUE_NONE || channels <= 0 || channels > MAX_CHANNELS || s->failed)
        return -1;
    if (!grow((void **)&s->parent, sizeof *s->parent, s->n + channels, &cap[0]) ||
        !grow((void **)&s->tie, sizeof *s->tie, s->n + channels, &cap[1]) ||
        !grow((void **)&s->blocked, sizeof *s->blocked, s->n + channels, &cap[2])) {
        s->failed = true;
        return -1;
    }
    s->cap = cap[0];
    for (int64_t c = 0; c < channels; c++) {
        s->parent[base + c] = base + c;
        s->tie[base + c] = base;
        s->blocked[base + c] = NULL;
    }
    s->n += channels;
    s->base[value] = base;
    s->axis[value] = axis;
    s->channels[value] = channels;
    return base;
}

void scale_unite(struct channel_scale *s, int64_t a, int64_t b)
{
    const int64_t ra = find(s->parent, a), rb = find(s->parent, b);
    const char *why = s->blocked[ra] ? s->blocked[ra] : s->blocked[rb];
    join(s->parent, a, b);
    join(s->tie, a, b);
    s->blocked[find(s->parent, a)] = why;
}

void scale_block(struct channel_scale *s, uint32_t value, const char *why)
{
    if (value == VALUE_NONE || s->base[value] < 0)
        return;
    for (int64_t c = 0; c < s->channels[value]; c++) {
        const int64_t root = find(s->parent, s->base[value] + c);
        if (!s->blocked[root])
            s->blocked[root] = why;
    }
}

struct scale_end *scale_end_add(struct channel_scale *s, enum scale_role role, uint32_t node, int slot, uint32_t value)
{
    int64_t cap = s->cap_ends;
    if (!grow((void **)&s->ends, sizeof *s->ends, (int64_t)s->n_ends + 1, &cap) || cap > INT32_MAX) {
        s->failed = true;
        return NULL;
    }
    s->cap_ends = (int)cap;
    struct scale_end *e = &s->ends[s->n_ends++];
    *e = (struct scale_end){.role = role, .node = node, .slot = slot, .value = value, .base = s->base[value],
                            .region = -1, .weight = -1};
    return e;
}

/* ---- regions and ranges ---- */
static int number_regions(struct channel_scale *s)
{
    int *of = calloc(s->n ? (size_t)s->n : 1, sizeof *of); /* by tie root: region + 1 */
    if (!of)
        return -1;
    for (int i = 0; i < s->n_ends; i++) {
        const int64_t root = find(s->tie, s->ends[i].base);
        if (!of[root])
            of[root] = ++s->n_regions;
        s->ends[i].region = of[root] - 1;
    }
    free(of);
    return 0;
}

static float *largest_of(const struct tensor *t, const struct scale_lanes *l)
{
    const float *w = tensor_f32(t);
    float *largest = calloc((size_t)(l->d0 * l->d1), sizeof *largest);
    for (int64_t i = 0, n = largest ? l->d0 * l->d1 : 0; i < n; i++)
        for (int64_t k = 0; k < l->inner; k++) {
            const float a = fabsf(w[i * l->inner + k]);
            if (a > largest[i])
                largest[i] = a;
        }
    return largest;
}

static int gather_weights(struct channel_scale *s)
{
    int *of = calloc(s->n_nodes ? s->n_nodes : 1, sizeof *of); /* by node: weight + 1 */
    s->weights = calloc(s->n_ends ? (size_t)s->n_ends : 1, sizeof *s->weights);
    int rc = of && s->weights ? 0 : -1;
    for (int i = 0; rc == 0 && i < s->n_ends; i++) {
        struct scale_end *e = &s->ends[i];
        if (!e->product)
            continue;
        if (!of[e->node]) {
            struct scale_weight *w = &s->weights[s->n_weights];
            *w = (struct scale_weight){.node = e->node, .d0 = e->lanes.d0, .d1 = e->lanes.d1, .makes = -1, .reads = -1};
            w->largest = largest_of(value_const(s->m, s->m->nodes[e->node].input[e->slot]), &e->lanes);
            if (!w->largest)
                rc = -1;
            of[e->node] = ++s->n_weights;
        }
        e->weight = of[e->node] - 1;
        *(e->role == SCALE_MAKES ? &s->weights[e->weight].makes : &s->weights[e->weight].reads) = i;
    }
    free(of);
    return rc;
}

static int64_t root_at(const struct channel_scale *s, const struct scale_end *e, int64_t row, int64_t column)
{
    return e ? find(s->parent, scale_element(e, row, column)) : -1;
}

void channel_scale_ranges(const struct channel_scale *s, int region, const double *factor, double *makes, double *reads)
{
    for (int i = 0; i < s->n_weights; i++) {
        const struct scale_weight *w = &s->weights[i];
        const struct scale_end *out = w->makes >= 0 ? &s->ends[w->makes] : NULL,
                               *in = w->reads >= 0 ? &s->ends[w->reads] : NULL;
        const bool out_here = out && out->region == region, in_here = in && in->region == region;
        for (int64_t a = 0; (out_here || in_here) && a < w->d0; a++)
            for (int64_t j = 0; j < w->d1; j++) {
                const int64_t o = root_at(s, out, a, j), c = root_at(s, in, a, j);
                const double v = (double)w->largest[a * w->d1 + j] * (c >= 0 ? factor[c] : 1) / (o >= 0 ? factor[o]
                        : 1);
                if (out_here && v > makes[o])
                    makes[o] = v;
                if (in_here && v > reads[c])
                    reads[c] = v;
            }
    }
}

/* ---- applying ---- */
/* A vector other nodes read too, or one number for all channels, gets a copy of its own. The value id; VALUE_NONE. */
static uint32_t private_constant(struct channel_scale *s, const struct scale_end *e, struct err *err)
{
    const uint32_t v = s->m->nodes[e->node].input[e->slot];
    const struct tensor *t = value_const(s->m, v);
    struct tensor wide = {0};
    if (!e->expand && s->m->values[v].weight && edit_only_reader(&s->edit, v) == e->node)
        return v;
    if (!e->expand)
        tensor_ref(&wide, t);
    else if (tensor_alloc(&wide, DTYPE_FLOAT, &SHAPE(e->expand), err))
        return VALUE_NONE;
    for (int64_t k = 0; k < e->expand; k++)
        tensor_f32(&wide)[k] = tensor_f32(t)[0];
    const uint32_t copy = edit_add_weight(&s->edit, 0, s->m->values[v].name, &wide);
    tensor_fini(&wide);
    if (copy != VALUE_NONE)
        edit_set_input(&s->edit, e->node, e->slot, copy);
    else
        err_set(err, ERR_NOMEM, "out of memory while moving factors between layers");
    return copy;
}

static int apply_end(struct channel_scale *s, const struct scale_end *e, const double *factor, struct err *err)
{
    struct tensor t = {0};
    const struct scale_lanes *l = &e->lanes;
    bool changes = false;
    int rc = -1;
    for (int64_t a = 0; a < l->d0 && !changes; a++)
        for (int64_t j = 0; j < l->d1 && !changes; j++)
            changes = factor[root_at(s, e, a, j)] != 1;
    if (!changes)
        return 0;
    const uint32_t v = private_constant(s, e, err);
    if (v == VALUE_NONE)
        return -1;
    tensor_ref(&t, value_const(s->m, v));
    if (tensor_writable(&t, err))
        goto out;
    for (int64_t a = 0; a < l->d0; a++)
        for (int64_t j = 0; j < l->d1; j++) {
            const double f = factor[root_at(s, e, a, j)];
            float *x = tensor_f32(&t) + (a * l->d1 + j) * l->inner;
            for (int64_t k = 0; k < l->inner; k++)
                x[k] = (float)(e->role == SCALE_READS ? (double)x[k] * f : (double)x[k] / f);
        }
    if (value_set_weight(s->m, v, &t)) {
        err_set(err, ERR_NOMEM, "out of memory while moving factors between layers");
        goto out;
    }
    rc = 0;
out:
    tensor_fini(&t);
    return rc;
}

/* Clip(x, 0, cap) / s = Clip(x / s, 0, cap / s): Relu, then Min with the caps where any factor is not 1. */
static int apply_clip(struct channel_scale *s, const struct scale_clip *c, const double *factor, struct err *err)
{
    struct model *m = s->m;
    struct tensor caps = {0};
    struct shape shape = {.rank = c->rank};
    bool changes = false;
    for (int64_t k = 0; k < c->channels; k++)
        changes = changes || factor[find(s->parent, c->base + k)] != 1;
    if (!changes)
        return 0;
    const uint32_t x = m->nodes[c->node].input[0], y = m->nodes[c->node].output[0];
    if (s->opts.clip == SCALE_CLIP_RELU) {
        edit_cut_inputs(&s->edit, c->node, 1);
        node_remove_attr(m, c->node, "min");
        node_remove_attr(m, c->node, "max");
        m->nodes[c->node].op_type = "Relu";
        return 0;
    }
    for (int i = 0; i < c->rank; i++)
        shape.dim[i] = i == c->axis ? c->channels : 1;
    if (tensor_alloc(&caps, DTYPE_FLOAT, &shape, err))
        return -1;
    for (int64_t k = 0; k < c->channels; k++)
        tensor_f32(&caps)[k] = (float)((double)c->cap / factor[find(s->parent, c->base + k)]);
    const uint32_t relu = edit_add_value(&s->edit, 0, m->values[y].name);
    const uint32_t bound = edit_add_weight(&s->edit, 0, "caps", &caps), in[2] = {relu, bound};
    tensor_fini(&caps);
    if (s->edit.failed)
        return err_set(err, ERR_NOMEM, "out of memory while moving factors between layers");
    const char *name = m->nodes[c->node].name;
    edit_remove_node(&s->edit, c->node);
    edit_add_node(&s->edit, 0, "Relu", NULL, &x, 1, &relu, 1);
    edit_add_node(&s->edit, 0, "Min", name, in, 2, &y, 1);
    return 0;
}

int channel_scale_apply(struct channel_scale *s, const double *factor, struct err *err)
{
    for (int i = 0; i < s->n_ends; i++)
        if (apply_end(s, &s->ends[i], factor, err))
            return -1;
    for (int i = 0; i < s->n_clips; i++)
        if (apply_clip(s, &s->clips[i], factor, err))
            return -1;
    return edit_finish(&s->edit, err);
}

/* ---- life cycle ---- */
int channel_scale_init(struct channel_scale *s, struct model *m, const struct scale_opts *opts, struct err *err)
{
    *s = (struct channel_scale){.m = m, .opts = *opts, .n_values = m->n_values, .n_nodes = m->n_nodes};
    const size_t values = m->n_values ? m->n_values : 1, nodes = m->n_nodes ? m->n_nodes : 1;
    s->base = malloc(values * sizeof *s->base);
    s->axis = calloc(values, sizeof *s->axis);
    s->channels = calloc(values, sizeof *s->channels);
    s->why = calloc(nodes, sizeof *s->why);
    if (!s->base || !s->axis || !s->channels || !s->why)
        return err_set(err, ERR_NOMEM, "out of memory while looking for channels");
    for (size_t v = 0; v < values; v++)
        s->base[v] = -1;
    if (edit_init(&s->edit, m, err) || infer_run(&s->infer, m, err) || scale_walk(s, err))
        return -1;
    if (s->failed || number_regions(s) || gather_weights(s))
        return err_set(err, ERR_NOMEM, "out of memory while looking for channels");
    for (int64_t i = 0; i < s->n; i++) /* from now on, a root is one step away */
        s->parent[i] = find(s->parent, i);
    return 0;
}

void channel_scale_fini(struct channel_scale *s)
{
    for (int i = 0; s->weights && i < s->n_weights; i++)
        free(s->weights[i].largest);
    free(s->weights);
    free(s->ends);
    free(s->clips);
    free(s->base);
    free(s->axis);
    free(s->channels);
    free(s->parent);
    free(s->tie);
    free(s->blocked);
    free(s->why);
    infer_fini(&s->infer);
    edit_fini(&s->edit);
    *s = (struct channel_scale){0};
}
