/* SPDX-License-Identifier: Apache-2.0
 * raise_opset.c - a table of the operators whose meaning or signature changed, with the version that changed it and
 * what to do. Every operator that is not in the table only gained types, negative axes or optional features up to
 * opset 21. Most changes turn an attribute into an input; Softmax's axis and Upsample's move to Resize need new nodes.
 * A row without a conversion is refused. */
#include "core/passes/raise_opset.h"

#include <math.h>
#include <string.h>

#include "core/passes/pass.h"

struct raise {
    struct pass_ctx *c;
    uint32_t node;
    const char *attr; /* of the row */
};
typedef int convert_fn(struct raise *r, struct err *err);

static struct node *node_of(struct raise *r)
{
    return &r->c->edit.m->nodes[r->node];
}

static int refuse(struct raise *r, struct err *err, const char *why)
{
    char label[200];
    return err_set(err, ERR_MODEL, "node '%s' (%s) cannot be converted to a newer opset: %s",
                   node_label(r->c->edit.m, r->node, label, sizeof label), node_of(r)->op_type, why);
}

/* Attribute `name` (ints) becomes input `slot`; absent: nothing. */
static int ints_to_input(struct raise *r, const char *name, int slot, struct err *err)
{
    struct model *m = r->c->edit.m;
    const struct attr *a = node_attr(node_of(r), name);
    if (!a)
        return 0;
    if (a->ref_name || (a->type != ATTR_INTS && a->type != ATTR_INT))
        return refuse(r, err, "an attribute is not a list of integers");
    uint32_t v = edit_add_ints(&r->c->edit, node_of(r)->graph, name, a->ints, a->count);
    for (int i = node_of(r)->n_input; i < slot; i++)
        edit_set_input(&r->c->edit, r->node, i, VALUE_NONE);
    edit_set_input(&r->c->edit, r->node, slot, v);
    node_remove_attr(m, r->node, name);
    return 0;
}

static int float_to_input(struct raise *r, const char *name, int slot, enum dtype dtype, struct err *err)
{
    struct model *m = r->c->edit.m;
    const struct attr *a = node_attr(node_of(r), name);
    struct tensor t = {0};
    if (!a)
        return 0;
    if (a->ref_name || a->type != ATTR_FLOAT)
        return refuse(r, err, "an attribute is not a number");
    if (dtype == DTYPE_NONE)
        return refuse(r, err, "the type of its input is not known");
    if (tensor_alloc(&t, dtype, &SHAPE_SCALAR, err))
        return -1;
    dtype_set(dtype, t.data, 0, (double)a->floats[0]);
    uint32_t v = edit_add_weight(&r->c->edit, node_of(r)->graph, name, &t);
    tensor_fini(&t);
    for (int i = node_of(r)->n_input; i < slot; i++)
        edit_set_input(&r->c->edit, r->node, i, VALUE_NONE);
    edit_set_input(&r->c->edit, r->node, slot, v);
    node_remove_attr(m, r->node, name);
    return 0;
}

static enum dtype dtype_of(struct raise *r)
{
    return infer_dtype_of(&r->c->infer, node_of(r)->input[0]);
}

static int axes_input(struct raise *r, struct err *err)
{
    return ints_to_input(r, r->attr, 1, err);
}

static int slice(struct raise *r, struct err *err)
{
    return ints_to_input(r, "starts", 1, err) || ints_to_input(r, "ends", 2, err) || ints_to_input(r, "axes", 3, err)
               ? -1
               : 0;
}

static int pad(struct raise *r, struct err *err)
{
    if (ints_to_input(r, "pads", 1, err))
        return -1;
    const struct attr *value = node_attr(node_of(r), "value");
    if (value && value->type == ATTR_FLOAT && value->floats[0] == 0)
        node_remove_attr(r->c->edit.m, r->node, "value");
    return float_to_input(r, "value", 2, dtype_of(r), err);
}

static int clip(struct raise *r, struct err *err)
{
    return float_to_input(r, "min", 1, dtype_of(r), err) || float_to_input(r, "max", 2, dtype_of(r), err) ? -1 : 0;
}

static int dropout(struct raise *r, struct err *err)
{
    return float_to_input(r, "ratio", 1, DTYPE_FLOAT, err);
}

/* From opset 13 on the axis is one axis; before, everything from it on was one row. */
static int softmax(struct raise *r, struct err *err)
{
    struct model *m = r->c->edit.m;
    struct edit *e = &r->c->edit;
    const struct shape *s = infer_shape_of(&r->c->infer, node_of(r)->input[0]);
    int64_t axis = node_attr_int(node_of(r), "axis", 1);
    if (axis < 0 && s->rank < 0)
        return refuse(r, err, "its axis counts from the end, and the rank of its input is not known");
    if (axis < 0)
        axis += s->rank;
    bool one_axis = s->rank > 0;
    for (int i = (int)axis + 1; i < s->rank; i++)
        one_axis = one_axis && s->dim[i] == 1;
    if (one_axis) {
        node_set_int(m, r->node, "axis", axis);
        return 0;
    }
    uint32_t graph = node_of(r)->graph, x = node_of(r)->input[0], y = node_of(r)->output[0];
    uint32_t flat = edit_add_value(e, graph, "softmax_rows"), rows = edit_add_value(e, graph, "softmax_out");
    uint32_t shape = edit_add_value(e, graph, "softmax_shape");
    uint32_t flatten = edit_add_node(e, graph, "Flatten", NULL, &x, 1, &flat, 1);
    edit_add_node(e, graph, "Shape", NULL, &x, 1, &shape, 1);
    if (e->failed)
        return err_set(err, ERR_NOMEM, "out of memory while raising the opset");
    node_set_int(m, flatten, "axis", axis);
    edit_set_input(e, r->node, 0, flat);
    node_set_int(m, r->node, "axis", 1);
    uint32_t in[2] = {rows, shape};
    uint32_t back = edit_add_node(e, graph, "Reshape", NULL, in, 2, &y, 1);
    if (e->failed)
        return err_set(err, ERR_NOMEM, "out of memory while raising the opset");
    edit_move_output(e, rows, r->node, 0);
    m->values[y].producer = back;
    m->values[y].slot = 0;
    return 0;
}

/* Resize of opset 10 (as Upsample): asymmetric coordinates, nearest rounds down. */
static int resize(struct raise *r, struct err *err)
{
    struct edit *e = &r->c->edit;
    struct tensor none = {0};
    if (node_of(r)->n_input != 2)
        return refuse(r, err, "it has no scales");
    if (tensor_alloc(&none, DTYPE_FLOAT, &SHAPE(0), err))
        return -1;
    uint32_t roi = edit_add_weight(e, node_of(r)->graph, "roi", &none), scales = node_of(r)->input[1];
    tensor_fini(&none);
    edit_set_input(e, r->node, 1, roi);
    edit_set_input(e, r->node, 2, scales);
    node_set_string(e->m, r->node, "coordinate_transformation_mode", "asymmetric");
    node_set_string(e->m, r->node, "nearest_mode", "floor");
    return 0;
}

static int upsample_scales(struct raise *r, struct err *err)
{
    const struct attr *a = node_attr(node_of(r), "scales");
    struct tensor t = {0};
    if (!a || a->type != ATTR_FLOATS || a->ref_name)
        return refuse(r, err, "it has no scales");
    if (tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(a->count), err))
        return -1;
    if (a->count)
        memcpy(t.data, a->floats, (size_t)a->count * sizeof *a->floats);
    edit_set_input(&r->c->edit, r->node, 1, edit_add_weight(&r->c->edit, node_of(r)->graph, "scales", &t));
    tensor_fini(&t);
    node_remove_attr(r->c->edit.m, r->node, "scales");
    return 0;
}

static int upsample_to_resize(struct raise *r, struct err *err)
{
    (void)err;
    node_of(r)->op_type = "Resize";
    return 0;
}

static int scatter(struct raise *r, struct err *err)
{
    (void)err;
    node_of(r)->op_type = "ScatterElements";
    return 0;
}

/* An attribute that must have a certain value, and then goes. */
static int drop_spatial(struct raise *r, struct err *err)
{
    if (node_attr_int(node_of(r), "spatial", 1) != 1)
        return refuse(r, err, "its statistics are per element (spatial is 0)");
    node_remove_attr(r->c->edit.m, r->node, "spatial");
    return 0;
}

static int drop_is_test(struct raise *r, struct err *err)
{
    if (node_attr_int(node_of(r), "is_test", 0) == 0)
        return refuse(r, err, "it is in training mode (is_test is 0)");
    node_remove_attr(r->c->edit.m, r->node, "is_test");
    return 0;
}

static int drop_consumed(struct raise *r, struct err *err)
{
    (void)err;
    node_remove_attr(r->c->edit.m, r->node, "consumed_inputs");
    return 0;
}

static int broadcast(struct raise *r, struct err *err)
{
    if (node_attr(node_of(r), "axis"))
        return refuse(r, err, "it broadcasts along an axis of its own");
    node_remove_attr(r->c->edit.m, r->node, "broadcast");
    return 0;
}

/* From opset 18 on equal parts must be asked for. */
static int split_parts(struct raise *r, struct err *err)
{
    (void)err;
    const struct node *n = node_of(r);
    if (n->n_input < 2 || n->input[1] == VALUE_NONE)
        node_set_int(r->c->edit.m, r->node, "num_outputs", n->n_output);
    return 0;
}

/* Before opset 14 the statistics that training makes were more outputs. */
static int batch_norm_outputs(struct raise *r, struct err *err)
{
    for (int i = 1; i < node_of(r)->n_output; i++)
        if (node_of(r)->output[i] != VALUE_NONE)
            return refuse(r, err, "it has the outputs of training");
    return 0;
}

/* Sampling points lie half a pixel off by default from opset 16 on. */
static int roi_align(struct raise *r, struct err *err)
{
    (void)err;
    node_set_string(r->c->edit.m, r->node, "coordinate_transformation_mode", "output_half_pixel");
    return 0;
}

/* Windows cut by ceil_mode divided otherwise in runtimes of before. */
static int average_pool(struct raise *r, struct err *err)
{
    if (node_attr_int(node_of(r), "ceil_mode", 0) != 0 && node_attr_int(node_of(r), "count_include_pad", 0) != 0)
        return refuse(r, err, "ceil_mode with count_include_pad averages otherwise from opset 19 on");
    return 0;
}

static bool attr_is(const struct node *n, const char *name, const char *text)
{
    const struct attr *a = node_attr(n, name);
    return a && a->type == ATTR_STRING && a->count == 1 && strcmp(a->strings[0].data, text) == 0;
}

/* Its modes got the names that Resize has. */
static int grid_sample(struct raise *r, struct err *err)
{
    (void)err;
    if (attr_is(node_of(r), "mode", "bilinear"))
        node_set_string(r->c->edit.m, r->node, "mode", "linear");
    if (attr_is(node_of(r), "mode", "bicubic"))
        node_set_string(r->c->edit.m, r->node, "mode", "cubic");
    return 0;
}

static const struct {
    const char *op_type;
    int at;              /* the opset that changed it */
    convert_fn *convert; /* NULL: refused */
    const char *attr;    /* for conversions that take one; for a refusal, why */
} rows[] = {
    {"Cast", 6, NULL, "its target type is text before opset 6"},
    {"Reshape", 5, axes_input, "shape"},
    {"Concat", 4, NULL, "its axis has a default before opset 4"},
    {"Tile", 6, NULL, "its inputs differ before opset 6"},
    {"Pad", 2, NULL, "its attributes differ before opset 2"},
    {"Split", 2, NULL, "its attributes differ before opset 2"},
    {"Add", 6, drop_consumed, NULL},
    {"Sub", 6, drop_consumed, NULL},
    {"Mul", 6, drop_consumed, NULL},
    {"Div", 6, drop_consumed, NULL},
    {"Relu", 6, drop_consumed, NULL},
    {"LeakyRelu", 6, drop_consumed, NULL},
    {"Sigmoid", 6, drop_consumed, NULL},
    {"Tanh", 6, drop_consumed, NULL},
    {"Elu", 6, drop_consumed, NULL},
    {"Selu", 6, drop_consumed, NULL},
    {"Clip", 6, drop_consumed, NULL},
    {"Exp", 6, drop_consumed, NULL},
    {"Log", 6, drop_consumed, NULL},
    {"Sqrt", 6, drop_consumed, NULL},
    {"Abs", 6, drop_consumed, NULL},
    {"Neg", 6, drop_consumed, NULL},
    {"Ceil", 6, drop_consumed, NULL},
    {"Floor", 6, drop_consumed, NULL},
    {"Sum", 6, drop_consumed, NULL},
    {"Reciprocal", 6, drop_consumed, NULL},
    {"HardSigmoid", 6, drop_consumed, NULL},
    {"Max", 6, drop_consumed, NULL},
    {"Min", 6, drop_consumed, NULL},
    {"Mean", 6, drop_consumed, NULL},
    {"PRelu", 6, drop_consumed, NULL},
    {"Dropout", 6, drop_consumed, NULL},
    {"BatchNormalization", 6, drop_consumed, NULL},
    {"InstanceNormalization", 6, drop_consumed, NULL},
    {"Add", 7, broadcast, NULL},
    {"Sub", 7, broadcast, NULL},
    {"Mul", 7, broadcast, NULL},
    {"Div", 7, broadcast, NULL},
    {"Pow", 7, broadcast, NULL},
    {"And", 7, broadcast, NULL},
    {"Or", 7, broadcast, NULL},
    {"Xor", 7, broadcast, NULL},
    {"Equal", 7, broadcast, NULL},
    {"Greater", 7, broadcast, NULL},
    {"Less", 7, broadcast, NULL},
    {"Gemm", 7, broadcast, NULL},
    {"PRelu", 7, NULL, "its slope broadcasts otherwise before opset 7"},
    {"Upsample", 7, NULL, "its scales differ before opset 7"},
    {"BatchNormalization", 7, drop_is_test, NULL},
    {"Dropout", 7, drop_is_test, NULL},
    {"RNN", 7, NULL, "its attributes differ before opset 7"},
    {"LSTM", 7, NULL, "its attributes differ before opset 7"},
    {"GRU", 7, NULL, "its attributes differ before opset 7"},
    {"BatchNormalization", 9, drop_spatial, NULL},
    {"Scan", 9, NULL, "its inputs differ before opset 9"},
    {"Upsample", 9, upsample_scales, NULL},
    {"Upsample", 10, upsample_to_resize, NULL},
    {"Slice", 10, slice, NULL},
    {"TopK", 10, axes_input, "k"},
    {"Clip", 11, clip, NULL},
    {"Pad", 11, pad, NULL},
    {"Resize", 11, resize, NULL},
    {"Scatter", 11, scatter, NULL},
    {"Dropout", 12, dropout, NULL},
    {"Softmax", 13, softmax, NULL},
    {"LogSoftmax", 13, softmax, NULL},
    {"Hardmax", 13, softmax, NULL},
    {"Squeeze", 13, axes_input, "axes"},
    {"Unsqueeze", 13, axes_input, "axes"},
    {"ReduceSum", 13, axes_input, "axes"},
    {"Split", 13, axes_input, "split"},
    {"BatchNormalization", 14, batch_norm_outputs, NULL},
    {"RoiAlign", 16, roi_align, NULL},
    {"ReduceMax", 18, axes_input, "axes"},
    {"ReduceMin", 18, axes_input, "axes"},
    {"ReduceMean", 18, axes_input, "axes"},
    {"ReduceProd", 18, axes_input, "axes"},
    {"ReduceL1", 18, axes_input, "axes"},
    {"ReduceL2", 18, axes_input, "axes"},
    {"ReduceLogSum", 18, axes_input, "axes"},
    {"ReduceLogSumExp", 18, axes_input, "axes"},
    {"ReduceSumSquare", 18, axes_input, "axes"},
    {"Split", 18, split_parts, NULL},
    {"AveragePool", 19, average_pool, NULL},
    {"GridSample", 20, grid_sample, NULL},
    {"DFT", 20, NULL, "its axis is an attribute before opset 20"},
    {"GroupNormalization", 21, NULL, "its scale and bias are one a group before opset 21"},
};

static int raise_node(struct pass_ctx *c, uint32_t node, int64_t from, int64_t to, struct err *err)
{
    for (int64_t version = from + 1; version <= to; version++)
        for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
            struct raise r = {c, node, rows[i].attr};
            if (rows[i].at != version || !node_is(&c->edit.m->nodes[node], rows[i].op_type) ||
                c->edit.m->nodes[node].n_input < 1)
                continue;
            if (!rows[i].convert)
                return refuse(&r, err, rows[i].attr);
            if (rows[i].convert(&r, err))
                return -1;
        }
    return 0;
}

/* Up to IR 3 an initializer among the inputs is a constant; from IR 4 on it would be a default to override: it leaves
 * the list. */
static void raise_ir(struct model *m, int64_t opset)
{
    static const unsigned char of_opset[RAISE_OPSET_MAX + 1] = {
        [11] = 6, [12] = 7, [13] = 7, [14] = 7, [15] = 8, [16] = 8, [17] = 8, [18] = 8, [19] = 9, [20] = 9, [21] = 10};
    const int64_t ir = opset <= 10 || opset > RAISE_OPSET_MAX ? 5 : of_opset[opset];
    struct graph *g = model_main(m);
    int kept = 0;
    if (m->ir_version >= ir)
        return;
    for (int i = 0; i < g->n_inputs; i++)
        if (m->ir_version >= 4 || !m->values[g->inputs[i].value].weight)
            g->inputs[kept++] = g->inputs[i];
    g->n_inputs = kept;
    m->ir_version = ir;
    m->has_ir_version = true;
}

int raise_opset(struct model *m, int64_t to, struct err *err)
{
    int64_t from = model_opset(m, "");
    struct pass_ctx c = {.opset = from};
    int rc = -1;
    if (from >= to)
        return 0;
    if (from < 1)
        return err_set(
            err, ERR_MODEL,
            "the model imports no opset of the default domain, so its nodes cannot be converted to opset %lld",
            (long long)to);
    if (to > RAISE_OPSET_MAX)
        return err_set(err, ERR_INTERNAL, "no conversion to opset %lld", (long long)to);
    if (m->n_functions > 0)
        return err_set(err, ERR_MODEL,
                       "the model has local functions of opset %lld; they cannot be converted to opset %lld",
                       (long long)from, (long long)to);
    if (edit_init(&c.edit, m, err))
        return -1;
    if (infer_run(&c.infer, m, err))
        goto out;
    rc = 0;
    for (uint32_t id = 0, n = m->n_nodes; id < n && rc == 0; id++)
        if (edit_node_is_live(&c.edit, id))
            rc = raise_node(&c, id, from, to, err);
    if (rc == 0)
        rc = edit_finish(&c.edit, err);
    if (rc == 0)
        model_set_opset(m, "", to);
    if (rc == 0)
        raise_ir(m, to);
    infer_fini(&c.infer);
out:
    edit_fini(&c.edit);
    return rc;
}

int raise_opset_for(struct model *m, int64_t to, const char *what, struct warnings *warnings, struct err *err)
{
    int64_t from = model_opset(m, "");
    if (from >= to)
        return 0;
    struct model *trial = model_clone(m, err);
    if (!trial)
        return -1;
    int rc = raise_opset(trial, to, err);
    model_free(trial);
    if (rc == 0)
        rc = raise_opset(m, to, err);
    if (rc == 0)
        warnings_add(warnings, "the opset was raised from %lld to %lld, which %s needs", (long long)from, (long long)to,
                     what);
    return rc;
}
