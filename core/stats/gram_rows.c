/* SPDX-License-Identifier: Apache-2.0
 * gram_rows.c - a row a kind of product says how its input is read; the weight's shape says how wide a row is. */
#include "core/stats/gram_rows.h"

#include <string.h>

#include "core/base/size.h"

/* ---- weights ---- */
/* The shape a constant has where it is read: through Identity and Transpose. */
static bool constant_shape(const struct model *m, uint32_t value, struct shape *s)
{
    int64_t perm[64][SHAPE_MAX_RANK];
    const struct tensor *t = NULL;
    int depth = 0;
    for (; value < m->n_values && depth < 64 && !(t = value_const(m, value)); depth++) {
        const uint32_t p = m->values[value].producer;
        const struct node *n = p != NODE_NONE ? &m->nodes[p] : NULL;
        if (!n || !n->op_type || n->n_input < 1 || !(node_is(n, "Identity") || node_is(n, "Transpose")))
            return false;
        const struct attr *a = node_is(n, "Transpose") ? node_attr(n, "perm") : NULL;
        perm[depth][0] = node_is(n, "Identity") ? -1 : -2; /* as it is; reversed */
        if (a && (a->type != ATTR_INTS || a->count > SHAPE_MAX_RANK || a->count < 1))
            return false;
        for (int i = 0; a && i < a->count; i++)
            perm[depth][i] = a->ints[i];
        value = n->input[0];
    }
    if (!t || !shape_known(&t->shape))
        return false;
    *s = t->shape;
    while (depth-- > 0) {
        const struct shape old = *s;
        for (int i = 0; i < s->rank && perm[depth][0] != -1; i++) {
            const int64_t from = perm[depth][0] == -2 ? s->rank - 1 - i : perm[depth][i];
            if (from < 0 || from >= s->rank)
                return false;
            s->dim[i] = old.dim[from];
        }
    }
    return true;
}

/* ---- a row a product ---- */
typedef const char *describe_fn(const struct model *m, const struct node *n, struct row_source *s);

static const char not_constant[] = "its weight is not a constant";

static const char *describe_matmul(const struct model *m, const struct node *n, struct row_source *s)
{
    struct shape w;
    const int slot = constant_shape(m, n->input[1], &w) ? 1 : constant_shape(m, n->input[0], &w) ? 0 : -1;
    if (slot < 0)
        return not_constant;
    if (w.rank < 1 || (w.rank > 2 && shape_product(&w, 0, w.rank - 2) != 1))
        return "its weight is a batch of matrices";
    s->value = n->input[1 - slot];
    s->k = w.dim[w.rank == 1 ? 0 : slot == 1 ? w.rank - 2 : w.rank - 1];
    s->along = slot == 0;
    return NULL;
}

static const char *describe_gemm(const struct model *m, const struct node *n, struct row_source *s)
{
    struct shape w;
    if (!constant_shape(m, n->input[1], &w))
        return not_constant;
    if (w.rank != 2)
        return "its weight is not a matrix";
    s->value = n->input[0];
    s->k = w.dim[node_attr_int(n, "transB", 0) ? 1 : 0];
    s->along = node_attr_int(n, "transA", 0) != 0;
    return NULL;
}

static struct op_ints ints_of(const struct node *n, const char *name)
{
    const struct attr *a = node_attr(n, name);
    return a && a->type == ATTR_INTS ? (struct op_ints){a->ints, a->count} : (struct op_ints){NULL, 0};
}

static const char *describe_conv(const struct model *m, const struct node *n, struct row_source *s)
{
    static const char wrong[] = "its attributes do not fit its weight";
    const struct attr *pad = node_attr(n, "auto_pad");
    struct window w = {0};
    struct shape shape;
    if (!constant_shape(m, n->input[1], &shape))
        return not_constant;
    if (shape.rank < 3)
        return wrong;
    s->value = n->input[0];
    s->window = true;
    s->spatial = shape.rank - 2;
    s->groups = node_attr_int(n, "group", 1);
    s->k = shape_product(&shape, 1, shape.rank);
    s->sliding = (struct sliding_attrs){.kernel_shape = ints_of(n, "kernel_shape"),
                                        .strides = ints_of(n, "strides"),
                                        .pads = ints_of(n, "pads"),
                                        .dilations = ints_of(n, "dilations")};
    for (int i = 0; pad && pad->type == ATTR_STRING && pad->count == 1 && sliding_auto_pads[i]; i++)
        if (!strcmp(pad->strings[0].data, sliding_auto_pads[i]))
            s->sliding.auto_pad = i;
    memcpy(s->kernel, shape.dim + 2, (size_t)s->spatial * sizeof *s->kernel);
    return s->groups < 1 || sliding_read(&w, &s->sliding, s->spatial, s->kernel, NULL) ? wrong : NULL;
}

static const struct product {
    const char *type;
    describe_fn *describe;
} products[] = {
    {"MatMul", describe_matmul},
    {"Gemm", describe_gemm},
    {"Conv", describe_conv},
};

const char *row_source_of(const struct model *m, uint32_t node, struct row_source *s)
{
    const struct node *n = node < m->n_nodes ? &m->nodes[node] : NULL;
    *s = (struct row_source){.value = VALUE_NONE, .groups = 1};
    for (size_t i = 0; n && n->op_type && i < sizeof products / sizeof *products; i++) {
        if (!node_is(n, products[i].type))
            continue;
        if (n->n_input < 2 || n->input[0] == VALUE_NONE || n->input[1] == VALUE_NONE)
            return "it lacks an input";
        if (n->graph != 0)
            return "it is inside a nested graph (If, Loop, Scan)";
        const char *why = products[i].describe(m, n, s);
        if (why)
            return why;
        if (s->k < 1)
            return "its weight is empty";
        return value_const(m, s->value) ? "its input is constant" : NULL;
    }
    return "it is no MatMul, Gemm or Conv";
}

static bool ints_same(struct op_ints a, struct op_ints b)
{
    return a.count == b.count && (a.count == 0 || !memcmp(a.at, b.at, (size_t)a.count * sizeof *a.at));
}

bool row_source_same(const struct row_source *a, const struct row_source *b)
{
    return a->value == b->value && a->groups == b->groups && a->k == b->k && a->along == b->along &&
           a->window == b->window && a->spatial == b->spatial && !memcmp(a->kernel, b->kernel, sizeof a->kernel) &&
           a->sliding.auto_pad == b->sliding.auto_pad && ints_same(a->sliding.strides, b->sliding.strides) &&
           ints_same(a->sliding.pads, b->sliding.pads) && ints_same(a->sliding.dilations, b->sliding.dilations);
}

/* ---- rows ---- */
static bool layout_window(struct row_layout *l, const struct row_source *s, const struct shape *x)
{
    int64_t width, given;
    const int64_t taps = window_count(s->kernel, s->spatial);
    if (x->rank != s->spatial + 2 || !i64_mul(s->groups, s->k, &width) || !i64_mul(x->dim[1], taps, &given) ||
        given != width)
        return false;
    if (sliding_resolve(&l->w, &s->sliding, x, s->kernel, false, NULL))
        return false;
    l->samples = x->dim[0];
    l->rows = window_count(l->w.out, l->w.rank);
    l->plane = shape_product(x, 2, x->rank);
    l->sample_step = x->dim[1] * l->plane;
    return true;
}

bool row_layout_make(struct row_layout *l, const struct row_source *s, const struct shape *x)
{
    *l = (struct row_layout){.source = s};
    if (s->window)
        return layout_window(l, s, x);
    const int axis = s->along ? x->rank - 2 : x->rank - 1;
    if (x->rank < 1 || (axis >= 0 ? x->dim[axis] : x->dim[0]) != s->k)
        return false;
    /* A matrix read along its columns holds no samples of its own, and a vector is one row. */
    const bool split = axis > 0;
    const int64_t count = shape_count(x);
    l->columns = s->along && x->rank > 1 ? x->dim[x->rank - 1] : 1;
    l->samples = split ? x->dim[0] : 1;
    l->sample_step = l->samples > 0 ? count / l->samples : 0;
    l->rows = l->sample_step / s->k;
    return true;
}

static void read_patch(const struct row_layout *l, const float *x, int64_t row, float *out)
{
    const struct window *w = &l->w;
    const int64_t taps = window_count(w->kernel, w->rank), channels = l->source->groups * l->source->k / taps;
    int64_t at[SHAPE_MAX_RANK] = {0}, tap[SHAPE_MAX_RANK] = {0};
    for (int a = w->rank - 1; a >= 0; a--) {
        at[a] = row % w->out[a] * w->stride[a] - w->pad[a];
        row /= w->out[a];
    }
    for (int64_t t = 0; t < taps; t++) {
        int64_t offset = 0;
        bool inside = true;
        for (int a = 0; a < w->rank; a++) {
            const int64_t p = at[a] + tap[a] * w->dilation[a];
            inside = inside && p >= 0 && p < w->in[a];
            offset = offset * w->in[a] + p;
        }
        for (int64_t c = 0; c < channels; c++)
            out[c * taps + t] = inside ? x[c * l->plane + offset] : 0;
        for (int a = w->rank - 1; a >= 0 && ++tap[a] == w->kernel[a]; a--)
            tap[a] = 0;
    }
}

void row_read(const struct row_layout *l, const float *x, int64_t row, float *out)
{
    const int64_t k = l->source->k;
    if (l->source->window) {
        read_patch(l, x, row, out);
    } else if (l->columns == 1) {
        memcpy(out, x + row * k, (size_t)k * sizeof *out);
    } else {
        x += row / l->columns * k * l->columns + row % l->columns;
        for (int64_t i = 0; i < k; i++)
            out[i] = x[i * l->columns];
    }
}
