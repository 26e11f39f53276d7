/* SPDX-License-Identifier: Apache-2.0
 * absorb.c - high-bias absorption (absorb.h).
 * Steps      find places (a product, its bias, Relu behind it, and the products that read the result) -> run the
 *            samples once, keeping the smallest number, sum and sum of squares of each channel in front of Relu ->
 *            choose c -> change biases.
 * A channel's way from Relu to a reader is told by the axis it lies on and by `repeat`: the entries of that axis that
 * are one channel (Flatten turns C x H x W into C * H * W entries, H * W of them a channel). */
#include "core/quant/absorb.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/edit.h"
#include "core/passes/infer.h"
#include "core/passes/pass.h"
#include "core/passes/weights.h"
#include "core/quant/channel_scale.h"
#include "core/stats/sampling.h"

enum { MAX_DEPTH = 16 }; /* operators between Relu and a reader */

/* Where numbers can be added to the channels that a product makes. */
struct bias {
    uint32_t product, at; /* input `slot` of `at`: the product, or the Add behind a MatMul */
    int slot;
    int64_t channels;
    double beta; /* it counts so many times */
};
struct taker {
    struct bias bias;
    int64_t repeat;
};
struct place {
    struct bias bias;
    int axis; /* of its channels */
    struct taker *takers;
    int n_takers;
    double *min, *sum, *square, *c; /* [channels] */
    int64_t count;
    int64_t absorbed;
    const char *why; /* nothing can be absorbed */
};
struct absorb {
    struct model *m;
    const struct absorb_opts *o;
    struct edit edit;
    struct infer infer;
    struct place *places;
    int n;
    int *by_value; /* [m->n_values] place whose x this is; -1 */
    bool *watch;
};

static uint32_t out0(const struct node *n)
{
    return n->n_output > 0 ? n->output[0] : VALUE_NONE;
}

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while absorbing biases");
}

/* ---- biases ---- */
/* One number a channel on the last axis, or one for all. */
static bool bias_fits(const struct model *m, uint32_t v, int64_t channels, bool scalar)
{
    const struct tensor *t = value_const(m, v);
    if (!t || t->dtype != DTYPE_FLOAT || !t->data || t->shape.rank > 2)
        return false;
    const int64_t count = tensor_count(t);
    return (scalar && count == 1) ||
           (count == channels && t->shape.rank > 0 && t->shape.dim[t->shape.rank - 1] == channels);
}

static const char no_vector[] = "a MatMul has no bias, and no vector is added to its result";

static const char *bias_find(struct absorb *a, uint32_t product, int64_t channels, struct bias *b)
{
    const struct node *n = &a->m->nodes[product];
    *b = (struct bias){.product = product, .at = product, .slot = 2, .channels = channels, .beta = 1};
    if (!node_is(n, "MatMul")) {
        b->beta = node_is(n, "Gemm") ? (double)node_attr_float(n, "beta", 1) : 1;
        if (b->beta == 0 || !isfinite(b->beta))
            return "its bias counts zero times";
        return n->n_input < 3 || n->input[2] == VALUE_NONE || bias_fits(a->m, n->input[2], channels, true)
                   ? NULL
                   : "its bias is not a constant per channel";
    }
    b->at = edit_only_reader(&a->edit, out0(n));
    const struct node *add = b->at == NODE_NONE ? NULL : &a->m->nodes[b->at];
    if (!add || !node_is(add, "Add") || add->n_input != 2)
        return no_vector;
    b->slot = add->input[0] == out0(n) ? 1 : 0;
    const uint32_t v = add->input[b->slot];
    return v != VALUE_NONE && bias_fits(a->m, v, channels, false) ? NULL : no_vector;
}

/* bias += delta, in a constant of its own. */
static int bias_add(struct absorb *a, const struct bias *b, const double *delta, struct err *err)
{
    const struct node *n = &a->m->nodes[b->at];
    const uint32_t v = b->slot < n->n_input ? n->input[b->slot] : VALUE_NONE;
    const struct tensor *old = v == VALUE_NONE ? NULL : value_const(a->m, v);
    const int64_t count = old ? tensor_count(old) : 0;
    struct tensor t = {0};
    int rc = -1;
    if (tensor_alloc(&t, DTYPE_FLOAT, old && count == b->channels ? &old->shape : &SHAPE(b->channels), err))
        return -1;
    for (int64_t i = 0; i < b->channels; i++) {
        const double was = old ? (double)tensor_f32(old)[count == b->channels ? i : 0] : 0;
        tensor_f32(&t)[i] = (float)(was + delta[i] / b->beta);
    }
    if (old && count == b->channels && edit_only_reader(&a->edit, v) == b->at) {
        rc = weight_replace(a->m, v, &t, err);
    } else {
        const uint32_t made = edit_add_weight(&a->edit, 0, v == VALUE_NONE ? "bias" : a->m->values[v].name, &t);
        if (made != VALUE_NONE)
            edit_set_input(&a->edit, b->at, b->slot, made);
        rc = made == VALUE_NONE || a->edit.failed ? nomem(err) : 0;
    }
    tensor_fini(&t);
    return rc;
}

/* ---- products ---- */
static const struct tensor *weight_of(const struct model *m, uint32_t node)
{
    const struct node *n = &m->nodes[node];
    const struct tensor *t = n->n_input > 1 && n->input[1] != VALUE_NONE ? value_const(m, n->input[1]) : NULL;
    return t && t->dtype == DTYPE_FLOAT && t->data && t->shape.rank >= 2 && tensor_count(t) > 0 ? t : NULL;
}

static bool is_product(const struct node *n)
{
    return node_is(n, "Conv") || node_is(n, "ConvTranspose") || node_is(n, "Gemm") || node_is(n, "MatMul");
}

static bool is_conv(const struct node *n)
{
    return node_is(n, "Conv") || node_is(n, "ConvTranspose");
}

static bool trans_b(const struct node *n)
{
    return node_is(n, "Gemm") && node_attr_int(n, "transB", 0) != 0;
}

/* Output channels and input channels; false: the weight's shape is not one of this operator. */
static bool channels_of(const struct node *n, const struct tensor *w, int64_t *out, int64_t *in)
{
    const int64_t *d = w->shape.dim, group = is_conv(n) ? node_attr_int(n, "group", 1) : 1;
    if (is_conv(n) ? w->shape.rank < 3 || group < 1 || d[0] % group : w->shape.rank != 2)
        return false;
    *out = is_conv(n) ? d[0] : trans_b(n) ? d[0] : d[1];
    *in = is_conv(n) ? d[1] : trans_b(n) ? d[1] : d[0];
    int64_t *grouped = node_is(n, "ConvTranspose") ? out : in;
    if (node_is(n, "ConvTranspose")) {
        *out = d[1];
        *in = d[0];
    }
    return !__builtin_mul_overflow(*grouped, group, grouped);
}

static bool pads_zero(const struct node *n)
{
    const struct attr *a = node_attr(n, "auto_pad"), *pads = node_attr(n, "pads");
    if (a && (a->type != ATTR_STRING || a->count != 1 ||
              (strcmp(a->strings[0].data, "NOTSET") != 0 && strcmp(a->strings[0].data, "VALID") != 0)))
        return false;
    for (int64_t i = 0; pads && i < pads->count; i++)
        if (pads->type != ATTR_INTS || pads->ints[i] != 0)
            return false;
    return true;
}

static bool selected(const struct absorb *a, uint32_t node)
{
    char label[200];
    return !a->o->include || globs_select(a->o->include, a->o->exclude, node_label(a->m, node, label, sizeof label));
}

/* A product reads the shifted value v, whose channels lie on `axis`. */
static const char *add_reader(struct absorb *a, struct place *p, uint32_t node, uint32_t v, int axis, int64_t repeat,
                              struct err *err)
{
    const struct node *n = &a->m->nodes[node];
    const struct tensor *w = weight_of(a->m, node);
    int64_t out, in, wanted;
    if (!w || !channels_of(n, w, &out, &in))
        return "what reads it has no constant float32 weight";
    if (node_is(n, "ConvTranspose"))
        return "a ConvTranspose reads it, whose outputs do not all see the same taps";
    if (node_is(n, "Conv") && !pads_zero(n))
        return "a padded convolution reads it, whose zeros would not be shifted";
    if (node_is(n, "Gemm") && node_attr_int(n, "transA", 0) != 0)
        return "a Gemm reads it transposed";
    if (axis != (is_conv(n) ? 1 : infer_rank_of(&a->infer, v) - 1) ||
        __builtin_mul_overflow(p->bias.channels, repeat, &wanted) || in != wanted)
        return "its channels are not those the next layer sums over";
    if (!selected(a, node))
        return "what reads it is not selected by include and exclude";
    struct taker r = {.repeat = repeat};
    const char *why = bias_find(a, node, out, &r.bias);
    struct taker *grown = why ? NULL : realloc(p->takers, ((size_t)p->n_takers + 1) * sizeof *grown);
    if (!why && !grown) {
        nomem(err);
        return "";
    }
    if (grown) {
        p->takers = grown;
        p->takers[p->n_takers++] = r;
    }
    return why;
}

/* ---- from Relu to the readers ---- */
struct way {
    uint32_t value;
    int axis;
    int64_t repeat;
};

static const char *keep(struct absorb *a, const struct node *n, struct way *w)
{
    (void)a, (void)n, (void)w;
    return NULL;
}

static const char *pool(struct absorb *a, const struct node *n, struct way *w)
{
    (void)a;
    if (w->axis != 1 || n->n_output != 1)
        return "pooling reads it along its channels";
    if (node_is(n, "AveragePool") && node_attr_int(n, "count_include_pad", 0) != 0 &&
        (!pads_zero(n) || node_attr_int(n, "ceil_mode", 0) != 0))
        return "an AveragePool reads it that counts its padding";
    return NULL;
}

/* As for factors (channel_rules.c): an element's entry is (place / elements behind the axis) % entries. */
static const char *reshape(struct absorb *a, const struct node *n, struct way *w)
{
    const struct shape *from = infer_shape_of(&a->infer, w->value), *to = infer_shape_of(&a->infer, out0(n));
    const int64_t after = from->rank <= w->axis ? -1 : channel_elements_behind(from, w->axis);
    const int64_t entries = after < 0 ? 0 : from->dim[w->axis];
    int64_t both, repeat;
    if (after < 1 || entries < 1 || __builtin_mul_overflow(entries, after, &both) ||
        __builtin_mul_overflow(w->repeat, after, &repeat))
        return "it is reshaped, and its shape is not known";
    for (int k = 0; k < to->rank; k++) {
        const bool same = to->dim[k] == entries && channel_elements_behind(to, k) == after;
        if (!same && !(to->dim[k] == both && channel_elements_behind(to, k) == 1))
            continue;
        w->axis = k;
        w->repeat = same ? w->repeat : repeat;
        return NULL;
    }
    return "channels do not stay together when it is reshaped";
}

static const char *transpose(struct absorb *a, const struct node *n, struct way *w)
{
    const struct attr *perm = node_attr(n, "perm");
    const int rank = infer_rank_of(&a->infer, w->value);
    for (int k = 0; k < rank; k++)
        if ((perm && perm->type == ATTR_INTS && perm->count == rank ? perm->ints[k] : rank - 1 - k) == w->axis) {
            w->axis = k;
            return NULL;
        }
    return "it is transposed, and its rank is not known";
}

static const char *mean(struct absorb *a, const struct node *n, struct way *w)
{
    int64_t axes[SHAPE_MAX_RANK];
    const int rank = infer_rank_of(&a->infer, w->value), count = node_ints(a->m, n, "axes", 1, axes, SHAPE_MAX_RANK);
    int axis = w->axis;
    if (rank < 1 || count < 1)
        return "it is averaged over axes that are not known";
    for (int i = 0; i < count; i++) {
        const int64_t at = axes[i] < 0 ? axes[i] + rank : axes[i];
        if (at == w->axis)
            return "its channels are averaged";
        axis -= node_attr_int(n, "keepdims", 1) == 0 && at < w->axis;
    }
    w->axis = axis;
    return NULL;
}

static const struct {
    const char *op;
    const char *(*pass)(struct absorb *a, const struct node *n, struct way *w);
} passing[] = {
    {"Identity", keep},          {"MaxPool", pool},        {"AveragePool", pool}, {"GlobalMaxPool", pool},
    {"GlobalAveragePool", pool}, {"Flatten", reshape},     {"Reshape", reshape},  {"Squeeze", reshape},
    {"Unsqueeze", reshape},      {"Transpose", transpose}, {"ReduceMean", mean},
};

static const char *walk(struct absorb *a, struct place *p, struct way from, int depth, struct err *err)
{
    const struct reader_list *list = edit_readers(&a->edit, from.value);
    if (depth > MAX_DEPTH)
        return "too many operators lie between it and the next layer";
    if (list->count == 0)
        return "nothing reads it";
    for (int i = 0; i < list->count; i++) {
        const uint32_t id = list->at[i].node;
        const struct node *n = id == NODE_NONE ? NULL : &a->m->nodes[id];
        const char *why = "an operator reads it that is not shifted with it";
        if (!n)
            return "it is an output of the model";
        if (n->graph != 0)
            return "a nested graph reads it";
        if (list->at[i].slot != 0 || out0(n) == VALUE_NONE)
            return why;
        if (is_product(n))
            why = add_reader(a, p, id, from.value, from.axis, from.repeat, err);
        for (size_t k = 0; !is_product(n) && k < sizeof passing / sizeof passing[0]; k++)
            if (node_is(n, passing[k].op)) {
                struct way next = from;
                why = passing[k].pass(a, n, &next);
                next.value = out0(n);
                why = why ? why : walk(a, p, next, depth + 1, err);
                break;
            }
        if (why)
            return why;
    }
    return NULL;
}

/* The Relu among the readers of a value; NODE_NONE. */
static uint32_t relu_behind(struct absorb *a, uint32_t v)
{
    const struct reader_list *list = edit_readers(&a->edit, v);
    for (int i = 0; i < list->count; i++)
        if (list->at[i].node != NODE_NONE && node_is(&a->m->nodes[list->at[i].node], "Relu"))
            return list->at[i].node;
    return NODE_NONE;
}

/* False: this is no layer with Relu behind it. */
static bool find_place(struct absorb *a, uint32_t node, struct place *p, struct err *err)
{
    const struct node *n = &a->m->nodes[node];
    const bool here = is_product(n) && n->graph == 0 && edit_node_is_live(&a->edit, node);
    const struct tensor *w = here ? weight_of(a->m, node) : NULL;
    int64_t out, in;
    *p = (struct place){0};
    if (!w || !channels_of(n, w, &out, &in))
        return false;
    p->why = bias_find(a, node, out, &p->bias);
    if (p->bias.at == NODE_NONE || (p->why == no_vector))
        return false;
    const uint32_t x = out0(&a->m->nodes[p->bias.at]), relu = relu_behind(a, x);
    if (relu == NODE_NONE)
        return false;
    const int rank = infer_rank_of(&a->infer, x);
    p->axis = is_conv(n) ? 1 : rank - 1;
    if (!p->why && (rank < 1 || (!is_conv(n) && node_is(n, "Gemm") && rank != 2)))
        p->why = "its shape is not known";
    if (!p->why && !selected(a, node))
        p->why = "not selected by include and exclude";
    if (!p->why && edit_only_reader(&a->edit, x) != relu)
        p->why = "Relu is not the only one to read it";
    if (!p->why)
        p->why = walk(a, p, (struct way){out0(&a->m->nodes[relu]), p->axis, 1}, 0, err);
    return true;
}

static int find_places(struct absorb *a, struct err *err)
{
    const uint32_t nodes = a->m->n_nodes, values = a->m->n_values;
    a->places = calloc((size_t)nodes + 1, sizeof *a->places);
    a->by_value = malloc(((size_t)values + 1) * sizeof *a->by_value);
    a->watch = calloc((size_t)values + 1, sizeof *a->watch);
    if (!a->places || !a->by_value || !a->watch)
        return nomem(err);
    for (uint32_t v = 0; v < values; v++)
        a->by_value[v] = -1;
    for (uint32_t id = 0; id < nodes; id++) {
        struct place *p = &a->places[a->n];
        struct err fault = {0};
        if (!find_place(a, id, p, &fault))
            continue;
        a->n++;
        if (fault.code)
            return nomem(err);
        p->min = calloc((size_t)p->bias.channels, 4 * sizeof *p->min);
        if (!p->min)
            return nomem(err);
        p->sum = p->min + p->bias.channels;
        p->square = p->sum + p->bias.channels;
        p->c = p->square + p->bias.channels;
        for (int64_t k = 0; k < p->bias.channels; k++)
            p->min[k] = INFINITY;
        if (!p->why) {
            const uint32_t x = out0(&a->m->nodes[p->bias.at]);
            a->by_value[x] = a->n - 1;
            a->watch[x] = true;
        }
    }
    return 0;
}

/* ---- measuring ---- */
static int observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    const struct absorb *a = arg;
    struct place *p = value < a->m->n_values && a->by_value[value] >= 0 ? &a->places[a->by_value[value]] : NULL;
    (void)err;
    if (!p || p->why)
        return 0;
    const int64_t channels = p->bias.channels;
    if (t->dtype != DTYPE_FLOAT || p->axis >= t->shape.rank || t->shape.dim[p->axis] != channels) {
        p->why = "its channels are not those of its weight";
        return 0;
    }
    const int64_t inner = channel_elements_behind(&t->shape, p->axis),
                  outer = inner < 1 ? 0 : tensor_count(t) / channels / inner;
    const float *x = tensor_f32(t);
    for (int64_t i = 0; i < outer * channels; i++) {
        double least = INFINITY, sum = 0, square = 0;
        for (int64_t k = 0; k < inner; k++) {
            const double v = (double)x[i * inner + k];
            least = v >= least ? least : isnan(v) ? -INFINITY : v;
            sum += v;
            square += v * v;
        }
        const int64_t c = i % channels;
        p->min[c] = least < p->min[c] ? least : p->min[c];
        p->sum[c] += sum;
        p->square[c] += square;
    }
    p->count += outer * inner;
    return 0;
}

static int measure(struct absorb *a, struct err *err)
{
    const struct absorb_opts *o = a->o;
    const struct sampling run = {.data = o->data,
                                 .pool = o->pool,
                                 .samples = o->samples,
                                 .index = o->index,
                                 .n_index = o->n_index,
                                 .observe = observe,
                                 .observe_arg = a,
                                 .watch = a->watch,
                                 .ran = o->ran,
                                 .arg = o->arg};
    return sampling_run(a->m, &run, err) < 0 ? -1 : 0;
}

static void choose(struct place *p)
{
    for (int64_t k = 0; !p->why && p->count > 0 && k < p->bias.channels; k++) {
        const double n = (double)p->count, average = p->sum[k] / n, variance = p->square[k] / n - average * average;
        const double low = average - 3 * sqrt(variance > 0 ? variance : 0), c = low < p->min[k] ? low : p->min[k];
        p->c[k] = isfinite(c) && isfinite(variance) && c > 0 ? (double)(float)c : 0;
        p->absorbed += p->c[k] > 0;
    }
    if (!p->why && !p->absorbed)
        p->why = "no channel stays three deviations above zero, and above zero, on the samples";
}

/* ---- changing ---- */
/* What the reader's output loses: out[o] = sum over inputs and taps of w c. */
static void lost(const struct model *m, const struct place *p, const struct taker *r, double *out)
{
    const struct node *n = &m->nodes[r->bias.product];
    const struct tensor *t = weight_of(m, r->bias.product);
    const float *w = tensor_f32(t);
    const int64_t d0 = t->shape.dim[0], d1 = t->shape.dim[1], taps = tensor_count(t) / d0 / d1;
    const bool rows = is_conv(n) || trans_b(n); /* output channels are rows */
    const int64_t per_group = is_conv(n) ? d0 / node_attr_int(n, "group", 1) : d0;
    const double alpha = node_is(n, "Gemm") ? (double)node_attr_float(n, "alpha", 1) : 1;
    memset(out, 0, (size_t)r->bias.channels * sizeof *out);
    for (int64_t i = 0; i < d0; i++)
        for (int64_t j = 0; j < d1; j++) {
            const int64_t in = rows ? j + i / per_group * d1 : i;
            const double c = p->c[in / r->repeat];
            for (int64_t k = 0; k < taps && c > 0; k++)
                out[rows ? i : j] += alpha * c * (double)w[(i * d1 + j) * taps + k];
        }
}

static int change(struct absorb *a, struct place *p, struct err *err)
{
    int64_t total = p->bias.channels, at = 0;
    for (int i = 0; i < p->n_takers; i++)
        total += p->takers[i].bias.channels;
    double *delta = calloc((size_t)total, sizeof *delta);
    int rc = delta ? 0 : nomem(err);
    for (int i = 0; rc == 0 && i < p->n_takers; at += p->takers[i++].bias.channels)
        lost(a->m, p, &p->takers[i], delta + at);
    for (int64_t k = 0; rc == 0 && k < p->bias.channels; k++)
        delta[at + k] = -p->c[k];
    for (int64_t k = 0; rc == 0 && !p->why && k < total; k++)
        if (!isfinite((float)delta[k]))
            p->why = "the numbers to be added to the next layer's bias are not finite";
    at = 0;
    for (int i = 0; rc == 0 && !p->why && i < p->n_takers; at += p->takers[i++].bias.channels)
        rc = bias_add(a, &p->takers[i].bias, delta + at, err);
    if (rc == 0 && !p->why)
        rc = bias_add(a, &p->bias, delta + at, err);
    free(delta);
    return rc;
}

static void report(const struct absorb *a, const struct place *p, struct layer_report *layers)
{
    struct layer_row row = {.node = p->bias.product, .weight = VALUE_NONE, .sqnr_db = NAN};
    char label[200], text[240];
    double most = 0;
    const char *why = !p->why && !a->o->data ? "that needs data" : p->why;
    if (why) {
        snprintf(text, sizeof text, "its bias is not absorbed by the next layer: %s", why);
        row.skipped = text;
    }
    json_t *into = row.skipped ? NULL : json_array();
    for (int i = 0; into && i < p->n_takers; i++)
        json_array_append_new(into, json_string(node_label(a->m, p->takers[i].bias.product, label, sizeof label)));
    for (int64_t k = 0; k < p->bias.channels; k++)
        most = p->c[k] > most ? p->c[k] : most;
    if (into)
        row.after = json_pack("{s:I,s:f,s:o}", "absorbed_channels", (json_int_t)p->absorbed, "largest_absorbed", most,
                              "absorbed_into", into);
    layer_report_add(layers, a->m, &row);
}

int absorb_model(struct model *m, const struct absorb_opts *o, struct layer_report *layers, struct err *err)
{
    struct absorb a = {.m = m, .o = o};
    int rc = -1, wanted = 0, absorbed = 0;
    if (edit_init(&a.edit, m, err))
        return -1;
    if (infer_run(&a.infer, m, err)) {
        edit_fini(&a.edit);
        return -1;
    }
    if (find_places(&a, err))
        goto out;
    for (int i = 0; i < a.n; i++)
        wanted += !a.places[i].why;
    if (o->data && wanted && measure(&a, err))
        goto out;
    for (int i = 0; i < a.n; i++) {
        struct place *p = &a.places[i];
        if (o->data)
            choose(p);
        if (o->data && !p->why && change(&a, p, err))
            goto out;
        absorbed += o->data && !p->why;
        if (layers)
            report(&a, p, layers);
    }
    rc = edit_finish(&a.edit, err) ? -1 : absorbed;
out:
    for (int i = 0; i < a.n; i++) {
        free(a.places[i].takers);
        free(a.places[i].min);
    }
    free(a.places);
    free(a.by_value);
    free(a.watch);
    infer_fini(&a.infer);
    edit_fini(&a.edit);
    return rc;
}
