/* SPDX-License-Identifier: Apache-2.0
 * Shape and Size: what is known of a tensor as int64 values.
 *   Shape: x[d0, ..., dn] -> [d_start, ..., d_(end-1)]; start and end (opset 15) count from the end when negative and
 * are clamped. Size: the number of elements, a scalar. */
#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

struct shape_attrs {
    int64_t start, end;
};
static const struct op_attr shape_attrs[] = {
    {OP_ATTR(shape_attrs, start), .kind = OP_INT}, {OP_ATTR(shape_attrs, end), .kind = OP_INT, .def = INT64_MAX}, {0}};

static int64_t clamp_axis(int64_t axis, int rank)
{
    if (axis < 0)
        axis += rank;
    return axis < 0 ? 0 : axis > rank ? rank : axis;
}

/* The axes asked for; before opset 15 all of them. */
static void axis_range(const struct shape_attrs *attrs, int opset, int rank, int64_t *start, int64_t *end)
{
    *start = opset < 15 ? 0 : clamp_axis(attrs->start, rank);
    *end = opset < 15 ? rank : clamp_axis(attrs->end, rank);
}

static int infer_shape_op(struct infer_ctx *c, struct err *err)
{
    struct shape out = SHAPE(DIM_UNKNOWN);
    int64_t start, end;
    if (op_need(c, 1, err) < 0)
        return -1;
    int rank = infer_shape(c, 0)->rank;
    if (rank >= 0) {
        axis_range(c->attrs, c->opset, rank, &start, &end);
        out.dim[0] = i64_max(0, end - start);
    }
    infer_out(c, 0, DTYPE_INT64, &out);
    return 0;
}

static bool propagate_shape(const struct infer_ctx *c, struct sym_list *out)
{
    const struct shape *x = infer_shape(c, 0);
    int64_t start, end;
    if (x->rank < 0)
        return false;
    axis_range(c->attrs, c->opset, x->rank, &start, &end);
    out->count = (int)i64_max(0, end - start);
    for (int i = 0; i < out->count; i++)
        out->at[i] = sym_of_dim(x->dim[start + i]);
    return true;
}

static int forward_shape(struct run_ctx *c, struct err *err)
{
    int64_t start, end;
    if (op_outputs(c, infer_shape_op, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    const struct shape *x = &c->in[0]->shape;
    axis_range(c->attrs, c->opset, x->rank, &start, &end);
    for (int64_t i = 0; y && i < y->shape.dim[0]; i++)
        tensor_i64(y)[i] = x->dim[start + i];
    return 0;
}

static int infer_size(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0)
        return -1;
    infer_out(c, 0, DTYPE_INT64, &SHAPE_SCALAR);
    return 0;
}

static bool propagate_size(const struct infer_ctx *c, struct sym_list *out)
{
    const struct shape *x = infer_shape(c, 0);
    out->count = 1;
    out->at[0] = sym_number(1);
    for (int i = 0; i < x->rank; i++)
        out->at[0] = sym_mul(c->symbols, out->at[0], sym_of_dim(x->dim[i]));
    return x->rank >= 0;
}

static int forward_size(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_size, err) < 0)
        return -1;
    if (run_out(c, 0))
        tensor_i64(run_out(c, 0))[0] = tensor_count(c->in[0]);
    return 0;
}

OP_CLASS(shape_1) = {.type = "Shape",
                     .domain = "",
                     .since = 1,
                     .until = 14,
                     .doc = "Dimensions of the input.",
                     .in_min = 1,
                     .in_max = 1,
                     .out_min = 1,
                     .out_max = 1,
                     .infer = infer_shape_op,
                     .propagate = propagate_shape,
                      .forward = forward_shape,
                     .shape_only = true,
                     .couple = couple_sizes_only,
                     .samples = (const struct op_sample[]){{"f32[2,3,4]", "", 1, 13}, {"i32[0,2]", "", 1, 13}, {0}}};
OP_CLASS(shape_15) = {.type = "Shape",
                      .domain = "",
                      .since = 15,
                      .doc = "Dimensions of the input, from start to end.",
                      .in_min = 1,
                      .in_max = 1,
                      .out_min = 1,
                      .out_max = 1,
                      .attrs = shape_attrs,
                      .attrs_size = sizeof(struct shape_attrs),
                      .infer = infer_shape_op,
                      .propagate = propagate_shape,
                      .forward = forward_shape,
                      .shape_only = true,
                     .couple = couple_sizes_only,
                      .samples = (const struct op_sample[]){{"f32[2,3,4]", ""},
                                                            {"f32[2,3,4]", "start=1"},
                                                            {"f32[2,3,4]", "start=-2 end=-1"},
                                                            {"f32[2,3,4]", "start=2 end=1"},
                                                            {0}}};
OP_CLASS(size) = {.type = "Size",
                  .domain = "",
                  .since = 1,
                  .doc = "Number of elements of the input.",
                  .in_min = 1,
                  .in_max = 1,
                  .out_min = 1,
                  .out_max = 1,
                  .infer = infer_size,
                  .propagate = propagate_size,
                      .forward = forward_size,
                  .shape_only = true,
                     .couple = couple_sizes_only,
                  .samples = (const struct op_sample[]){{"f32[2,3,4]", ""}, {"f32[]", ""}, {"f32[0,2]", ""}, {0}}};
