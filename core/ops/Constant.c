/* SPDX-License-Identifier: Apache-2.0
 * Tensors that come from attributes and small inputs: Constant, ConstantOfShape, EyeLike, Range, OneHot.
 *   Constant: one of value, value_float(s), value_int(s), value_string(s).
 *   ConstantOfShape: the one element `value` (default 0.0f) in the shape of the input.
 *   EyeLike: 1 on diagonal k of a matrix shaped as the input.
 *   Range: start + i * delta, i < max(ceil((limit - start) / delta), 0).
 *   OneHot: a new axis of size depth; values[1] at the index (negative ones count from the end), values[0] elsewhere.
 */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

/* ---- Constant ---- */
struct constant_attrs {
    const struct tensor *value;
    float value_float;
    struct op_floats value_floats;
    int64_t value_int;
    struct op_ints value_ints;
    const char *value_string;
    struct op_strings value_strings;
};
enum { MANY = INT32_MAX };
static const struct op_attr constant_attrs[] = {
    {OP_ATTR(constant_attrs, value), .kind = OP_TENSOR},
    {OP_ATTR(constant_attrs, value_float), .kind = OP_FLOAT},
    {OP_ATTR(constant_attrs, value_floats), .kind = OP_FLOATS, .max_count = MANY},
    {OP_ATTR(constant_attrs, value_int), .kind = OP_INT},
    {OP_ATTR(constant_attrs, value_ints), .kind = OP_INTS, .max_count = MANY},
    {OP_ATTR(constant_attrs, value_string), .kind = OP_STRING},
    {OP_ATTR(constant_attrs, value_strings), .kind = OP_STRINGS, .max_count = MANY},
    {0},
};

/* The list and scalar attributes: which one is there cannot be told from their values. */
static bool has_attr(const struct node *node, const char *name)
{
    for (int i = 0; i < node->n_attr; i++)
        if (strcmp(node->attr[i].name, name) == 0)
            return true;
    return false;
}

static void borrow(struct tensor *t, enum dtype dtype, const void *data, const struct shape *shape)
{
    *t = (struct tensor){.dtype = dtype, .shape = *shape, .data = (void *)(uintptr_t)data};
    dtype_bytes(dtype, shape_count(shape), &t->bytes);
}

/* How many of the forms a node gives; sparse_value is not among the parsed ones. */
static int count_forms(const struct node *node)
{
    static const char *const names[] = {"value",      "value_float",  "value_floats", "value_int",
                                        "value_ints", "value_string", "value_strings"};
    int count = 0;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        count += has_attr(node, names[i]);
    return count;
}

/* Any form as a tensor that borrows the attribute's memory; `text` holds a single string. */
static int constant_value(const struct constant_attrs *attrs, const struct node *node, struct tensor *t,
                          struct dtype_string *text, struct err *err)
{
    if (count_forms(node) > 1)
        return err_set(err, ERR_MODEL,
                       "the constant has %d values; exactly one of value, value_float(s), value_int(s), "
                       "value_string(s) is allowed",
                       count_forms(node));
    if (attrs->value)
        *t = *attrs->value;
    else if (has_attr(node, "value_float"))
        borrow(t, DTYPE_FLOAT, &attrs->value_float, &SHAPE_SCALAR);
    else if (has_attr(node, "value_floats"))
        borrow(t, DTYPE_FLOAT, attrs->value_floats.at, &SHAPE(attrs->value_floats.count));
    else if (has_attr(node, "value_int"))
        borrow(t, DTYPE_INT64, &attrs->value_int, &SHAPE_SCALAR);
    else if (has_attr(node, "value_ints"))
        borrow(t, DTYPE_INT64, attrs->value_ints.at, &SHAPE(attrs->value_ints.count));
    else if (has_attr(node, "value_string")) {
        *text = (struct dtype_string){attrs->value_string, strlen(attrs->value_string)};
        borrow(t, DTYPE_STRING, text, &SHAPE_SCALAR);
    } else if (has_attr(node, "value_strings")) {
        borrow(t, DTYPE_STRING, attrs->value_strings.at, &SHAPE(attrs->value_strings.count));
    } else {
        return err_set(err, ERR_MODEL,
                       "the constant has no value; one of value, value_float(s), value_int(s), "
                       "value_string(s) is required");
    }
    return 0;
}

_Static_assert(sizeof(struct dtype_string) == sizeof(struct attr_string) &&
                   offsetof(struct dtype_string, len) == offsetof(struct attr_string, len),
               "a list of string attributes is read as string elements");

static int infer_constant(struct infer_ctx *c, struct err *err)
{
    struct tensor t;
    struct dtype_string text;
    if (constant_value(c->attrs, c->node, &t, &text, err) < 0)
        return -1;
    infer_out(c, 0, t.dtype, &t.shape);
    return 0;
}

static int forward_constant(struct run_ctx *c, struct err *err)
{
    struct tensor t;
    struct dtype_string text;
    if (op_outputs(c, infer_constant, err) < 0 || constant_value(c->attrs, c->node, &t, &text, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    size_t bytes;
    if (!dtype_bytes(t.dtype, tensor_count(&t), &bytes) || (bytes && !t.data))
        return err_set(err, ERR_MODEL, "the constant's value has no data");
    if (y && bytes)
        memcpy(y->data, t.data, bytes);
    return 0;
}

OP_CLASS(constant) = {.type = "Constant",
                      .domain = "",
                      .since = 1,
                      .doc = "A tensor held by the node.",
                      .in_min = 0,
                      .in_max = 0,
                      .out_min = 1,
                      .out_max = 1,
                      .attrs = constant_attrs,
                      .attrs_size = sizeof(struct constant_attrs),
                      .infer = infer_constant,
                      .forward = forward_constant,
                      .samples = (const struct op_sample[]){{"", "value=f32[2,2]=1,2,3,4"},
                                                            {"", "value_float=0.5"},
                                                            {"", "value_floats=1,2,3"},
                                                            {"", "value_int=7"},
                                                            {"", "value_ints=1,2"},
                                                            {0}}};

/* ---- ConstantOfShape ---- */
struct fill_attrs {
    const struct tensor *value;
};
static const struct op_attr fill_attrs[] = {{OP_ATTR(fill_attrs, value), .kind = OP_TENSOR}, {0}};

static int infer_fill(struct infer_ctx *c, struct err *err)
{
    const struct fill_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, 1, err) < 0)
        return -1;
    if (attrs->value && tensor_count(attrs->value) != 1)
        return err_set(err, ERR_MODEL, "attribute 'value' has %" PRId64 " elements; it must have one",
                       tensor_count(attrs->value));
    int64_t rank = op_list_length(c, 0);
    if (op_value(c, 0)) {
        if (op_read_ints(op_value(c, 0), "the shape", out.dim, SHAPE_MAX_RANK, &out.rank, err) < 0)
            return -1;
        for (int i = 0; i < out.rank; i++)
            if (out.dim[i] < 0)
                return err_set(err, ERR_MODEL, "dimension %d of the shape is %" PRId64 "; it must not be negative", i,
                               out.dim[i]);
        if (shape_count(&out) < 0)
            return err_set(err, ERR_MODEL_TOO_LARGE, "the output would have more than 2^63 elements");
    } else if (!op_sizes_shape(c, 0, &out) && rank >= 0) {
        if (op_rank_fits(rank, err) < 0)
            return -1;
        out.rank = (int)rank;
        for (int i = 0; i < out.rank; i++)
            out.dim[i] = DIM_UNKNOWN;
    }
    infer_out(c, 0, attrs->value ? attrs->value->dtype : DTYPE_FLOAT, &out);
    return 0;
}

static int forward_fill(struct run_ctx *c, struct err *err)
{
    const struct fill_attrs *attrs = c->attrs;
    const float zero = 0;
    if (op_outputs(c, infer_fill, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    size_t elem = op_elem(y->dtype, err);
    if (!elem)
        return -1;
    if (attrs->value && !attrs->value->data)
        return err_set(err, ERR_MODEL, "attribute 'value' has no data");
    op_fill(y->data, attrs->value ? attrs->value->data : &zero, elem, tensor_count(y));
    return 0;
}

static int couple_fill(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, OUT(0));
    (void)err;
    if (rank >= 0 && sizes_writable(k->infer, 0, rank))
        couple_pass_all(k, OUT(0));
    else
        couple_freeze_all(k, OUT(0), "its shape is computed while running");
    return 0;
}

static int shrink_fill(struct shrink *s, struct err *err)
{
    int64_t v[SHAPE_MAX_RANK];
    const int rank = s->infer->out[0].shape.rank;
    for (int i = 0; i < rank; i++)
        v[i] = shrink_touched(s, OUT(0), i) ? shrink_size(s, OUT(0), i) : SIZES_LEFT;
    return rank < 0 ? 0 : shrink_sizes(s, 0, v, rank, err);
}

OP_CLASS(constant_of_shape) = {.type = "ConstantOfShape",
                               .domain = "",
                               .since = 9,
                               .doc = "One value in a shape given as input.",
                               .in_min = 1,
                               .in_max = 1,
                               .out_min = 1,
                               .out_max = 1,
                               .attrs = fill_attrs,
                               .attrs_size = sizeof(struct fill_attrs),
                               .infer = infer_fill,
                               .forward = forward_fill,
                               .couple = couple_fill,
                               .shrink = shrink_fill,
                               .samples = (const struct op_sample[]){{"!i64[2]=2,3", ""},
                                                                     {"i64[2]=2,3", "value=i64[1]=5"},
                                                                     {"!i64[3]=2,0,3", "value=f32[1]=1"},
                                                                     {"!i64[0]", ""},
                                                                     {0}}};

/* ---- EyeLike ---- */
struct eye_attrs {
    int64_t dtype, k;
};
static const struct op_attr eye_attrs[] = {
    {OP_ATTR(eye_attrs, dtype), .kind = OP_INT}, {OP_ATTR(eye_attrs, k), .kind = OP_INT}, {0}};

static int infer_eye(struct infer_ctx *c, struct err *err)
{
    const struct eye_attrs *attrs = c->attrs;
    if (op_need(c, 1, err) < 0)
        return -1;
    if (infer_shape(c, 0)->rank >= 0 && infer_shape(c, 0)->rank != 2)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be a matrix", infer_shape(c, 0)->rank);
    if (attrs->dtype < 0 || attrs->dtype >= DTYPE_COUNT ||
        (attrs->dtype && dtype_kind((enum dtype)attrs->dtype) == 's'))
        return err_set(err, ERR_MODEL, "attribute 'dtype' is %" PRId64 "; it must be the number of a numeric type",
                       attrs->dtype);
    infer_out(c, 0, attrs->dtype ? (enum dtype)attrs->dtype : op_dtype(c, 0), infer_shape(c, 0));
    return 0;
}

static int forward_eye(struct run_ctx *c, struct err *err)
{
    const struct eye_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_eye, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    size_t elem = op_elem(y->dtype, err);
    if (!elem)
        return -1;
    int64_t rows = y->shape.dim[0], cols = y->shape.dim[1];
    memset(y->data, 0, elem * (size_t)tensor_count(y));
    if (attrs->k <= -rows || attrs->k >= cols)
        return 0;
    for (int64_t r = i64_max(0, -attrs->k); r < rows && r + attrs->k < cols; r++)
        dtype_set(y->dtype, y->data, r * cols + r + attrs->k, 1);
    return 0;
}

OP_CLASS(eye_like) = {
    .type = "EyeLike",
    .domain = "",
    .since = 9,
    .doc = "Ones on a diagonal of a matrix shaped as the input.",
    .in_min = 1,
    .in_max = 1,
    .out_min = 1,
    .out_max = 1,
    .attrs = eye_attrs,
    .attrs_size = sizeof(struct eye_attrs),
    .infer = infer_eye,
    .forward = forward_eye,
    .shape_only = true,
    .samples = (const struct op_sample[]){{"f32[3,4]", ""}, {"i32[4,4]", "k=1 dtype=1"}, {"f32[3,3]", "k=-1"}, {0}}};

/* ---- Range ---- */
static int scalar_ready(const struct infer_ctx *c, int i, struct err *err)
{
    const struct tensor *t = op_value(c, i);
    if (t && (tensor_count(t) != 1 || !t->data))
        return err_set(err, ERR_MODEL, "input #%d has %" PRId64 " elements; it must be one number", i, tensor_count(t));
    return t ? 1 : 0;
}

__extension__ typedef __int128 wide_int;

/* Number of elements, exact for integers. */
static int range_count(const struct tensor *start, const struct tensor *limit, const struct tensor *delta, int64_t *n,
                       struct err *err)
{
    if (dtype_get(delta->dtype, delta->data, 0) == 0)
        return err_set(err, ERR_MODEL, "delta is 0; it must not be");
    if (dtype_is_float(start->dtype)) {
        double first = dtype_get(start->dtype, start->data, 0), step = dtype_get(delta->dtype, delta->data, 0);
        double count = ceil((dtype_get(limit->dtype, limit->data, 0) - first) / step);
        if (!(count < 9e15))
            return err_set(err, ERR_MODEL_TOO_LARGE, "the range would have %g elements", count);
        *n = count > 0 ? (int64_t)count : 0;
        return 0;
    }
    wide_int span = (wide_int)dtype_get_i64(limit->dtype, limit->data, 0) - dtype_get_i64(start->dtype, start->data, 0);
    wide_int step = dtype_get_i64(delta->dtype, delta->data, 0);
    wide_int count = span / step + (span % step != 0 && (span < 0) == (step < 0));
    if (count > INT64_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "the range would have more than 2^63 elements");
    *n = count > 0 ? (int64_t)count : 0;
    return 0;
}

static int infer_range(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct shape out = SHAPE(DIM_UNKNOWN);
    if (op_need(c, 3, err) < 0 || op_same_dtype(c, 0, 3, &dtype, err) < 0 || op_dtype_kinds(c, 0, "fi", err) < 0)
        return -1;
    int ready = 0;
    for (int i = 0; i < 3; i++) {
        int one = scalar_ready(c, i, err);
        if (one < 0)
            return -1;
        ready += one;
    }
    if (ready == 3 && range_count(c->in_value[0], c->in_value[1], c->in_value[2], &out.dim[0], err) < 0)
        return -1;
    const struct sym_list *from = op_sizes(c, 0), *to = op_sizes(c, 1), *step = op_sizes(c, 2);
    if (ready < 3 && from && to && step && from->count == 1 && to->count == 1 && step->count == 1 &&
        step->at[0].known && step->at[0].n == 1)
        out.dim[0] = sym_dim(sym_sub(c->symbols, to->at[0], from->at[0]));
    infer_out(c, 0, dtype, &out);
    return 0;
}

static int forward_range(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_range, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    int64_t n = y ? tensor_count(y) : 0;
    if (n && dtype_is_float(y->dtype)) {
        double start = dtype_get(y->dtype, c->in[0]->data, 0), delta = dtype_get(y->dtype, c->in[2]->data, 0);
        for (int64_t i = 0; i < n; i++)
            dtype_set(y->dtype, y->data, i, start + (double)i * delta);
    } else if (n) {
        uint64_t start = (uint64_t)dtype_get_i64(y->dtype, c->in[0]->data, 0);
        uint64_t delta = (uint64_t)dtype_get_i64(y->dtype, c->in[2]->data, 0);
        for (int64_t i = 0; i < n; i++) {
            int64_t v = (int64_t)(start + (uint64_t)i * delta);
            dtype_convert(y->dtype, (char *)y->data + (size_t)i * (size_t)(dtype_bits(y->dtype) / 8), DTYPE_INT64, &v,
                          1);
        }
    }
    return 0;
}

OP_CLASS(range) = {.type = "Range",
                   .domain = "",
                   .since = 11,
                   .doc = "Numbers from start to limit in steps of delta.",
                   .in_min = 3,
                   .in_max = 3,
                   .out_min = 1,
                   .out_max = 1,
                   .infer = infer_range,
                   .forward = forward_range,
                   .samples = (const struct op_sample[]){{"!i64[]=1 !i64[]=10 !i64[]=3", ""},
                                                         {"f32[]=1 f32[]=2 f32[]=0.25", ""},
                                                         {"i32[]=10 i32[]=4 i32[]=-2", ""},
                                                         {"!i64[]=5 !i64[]=5 !i64[]=1", ""},
                                                         {0}}};

/* ---- OneHot ---- */
struct one_hot_attrs {
    int64_t axis;
};
static const struct op_attr one_hot_attrs[] = {{OP_ATTR(one_hot_attrs, axis), .kind = OP_INT, .def = -1}, {0}};

static int infer_one_hot(struct infer_ctx *c, struct err *err)
{
    const struct one_hot_attrs *attrs = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    if (op_need(c, 3, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0 || op_dtype_kinds(c, 1, "fiu", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    const struct tensor *depth = op_value(c, 1);
    if (op_list_length(c, 2) >= 0 && op_list_length(c, 2) != 2)
        return err_set(err, ERR_MODEL, "values has %" PRId64 " elements; it must have two, off and on",
                       op_list_length(c, 2));
    if (depth && scalar_ready(c, 1, err) < 0)
        return -1;
    if (x->rank >= 0) {
        struct shape wide = {.rank = x->rank + 1};
        int axis;
        if (op_rank_fits(wide.rank, err) < 0 || op_axis(&wide, attrs->axis, &axis, err) < 0)
            return -1;
        double n = depth ? dtype_get(depth->dtype, depth->data, 0) : 0;
        if (!(n >= 0 && n < 9e15))
            return err_set(err, ERR_MODEL, "depth is %g; it must not be negative or huge", n);
        out.rank = wide.rank;
        for (int i = 0; i < out.rank; i++)
            out.dim[i] = i == axis ? (depth ? (int64_t)n : DIM_UNKNOWN) : x->dim[i > axis ? i - 1 : i];
    }
    infer_out(c, 0, op_dtype(c, 2), &out);
    return 0;
}

static int forward_one_hot(struct run_ctx *c, struct err *err)
{
    const struct one_hot_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_one_hot, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    size_t elem = op_elem(y->dtype, err);
    if (!elem)
        return -1;
    int axis = shape_axis(&y->shape, attrs->axis);
    int64_t depth = y->shape.dim[axis], inner = shape_product(&y->shape, axis + 1, y->shape.rank), n = tensor_count(x);
    const char *values = c->in[2]->data;
    op_fill(y->data, values, elem, tensor_count(y));
    for (int64_t i = 0; i < n; i++) {
        int64_t at = op_wrap_index(dtype_get_i64(x->dtype, x->data, i), depth);
        int64_t to = (i / inner * depth + at) * inner + i % inner;
        if (at >= 0)
            memcpy((char *)y->data + (size_t)to * elem, values + elem, elem);
    }
    return 0;
}

/* Only the two values are differentiable: each takes what its places carry. */
static int backward_one_hot(struct grad_ctx *c, struct err *err)
{
    const struct one_hot_attrs *attrs = c->attrs;
    const struct tensor *x = c->in[0], *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 2);
    double sum[2] = {0};

    if (!g || !dst || tensor_count(g) == 0)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    const int axis = shape_axis(&g->shape, attrs->axis);
    const int64_t depth = g->shape.dim[axis], inner = shape_product(&g->shape, axis + 1, g->shape.rank);
    for (int64_t i = 0; i < tensor_count(g); i++)
        sum[0] += dtype_get(g->dtype, g->data, i);
    for (int64_t i = 0; i < tensor_count(x); i++) {
        const int64_t at = op_wrap_index(dtype_get_i64(x->dtype, x->data, i), depth);
        sum[1] += at < 0 ? 0 : dtype_get(g->dtype, g->data, (i / inner * depth + at) * inner + i % inner);
    }
    for (int k = 0; k < 2; k++)
        dtype_set(dst->dtype, dst->data, k, dtype_get(dst->dtype, dst->data, k) + (k ? sum[1] : sum[0] - sum[1]));
    return 0;
}

static int couple_one_hot(struct coupling *k, struct err *err)
{
    const struct one_hot_attrs *attrs = couple_attrs(k);
    const int rank = couple_rank(k, OUT(0)), axis = (int)(attrs->axis < 0 ? attrs->axis + rank : attrs->axis);
    (void)err;
    for (int i = 0; i < rank; i++)
        if (i != axis)
            couple_axes(k, IN(0), i < axis ? i : i - 1, OUT(0), i);
    return 0;
}

OP_CLASS(one_hot) = {.type = "OneHot",
                     .domain = "",
                     .since = 9,
                     .doc = "A new axis with one value at the index and another elsewhere.",
                     .in_min = 3,
                     .in_max = 3,
                     .out_min = 1,
                     .out_max = 1,
                     .attrs = one_hot_attrs,
                     .attrs_size = sizeof(struct one_hot_attrs),
                     .infer = infer_one_hot,
                     .forward = forward_one_hot,
                     .couple = couple_one_hot,
                     .backward = backward_one_hot,
                     .grad_reads = GRAD_READS_IN(0),
                     .grad_inputs = 4,
                     .samples = (const struct op_sample[]){{"i64[3]=0,2,-1 !i64[]=4 f32[2]=0,1", ""},
                                                           {"i64[2,2]=0,5,1,-7 !i64[1]=3 f32[2]=-1,5", "axis=1"},
                                                           {"f32[2]=1,2 f32[]=3 i64[2]=2,9", ""},
                                                           {0}}};
