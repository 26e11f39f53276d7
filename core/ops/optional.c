/* SPDX-License-Identifier: Apache-2.0
 * Optionals: a value that may be nothing, a tensor or a sequence (tensor.h, "lists": a list of at most one item).
 *   Optional () or (x) -> o; OptionalHasElement (o) -> bool; OptionalGetElement (o) -> x.
 * From opset 18 on the last two take a plain tensor or sequence too, which is an optional that holds it, and
 * OptionalHasElement of an absent input is false. */
#include "core/ops/op_util.h"

struct optional_attrs {
    const struct type *type;
};
static const struct op_attr optional_attrs[] = {{OP_ATTR(optional_attrs, type), .kind = OP_TYPE}, {0}};

static int infer_optional(struct infer_ctx *c, struct err *err)
{
    const struct optional_attrs *a = c->attrs;
    if (!infer_has(c, 0) && !a->type)
        return err_set(err, ERR_MODEL, "has neither an input nor the attribute 'type'; one of them is needed");
    c->out[0] = (struct type){.kind = TYPE_OPTIONAL, .shape = SHAPE_UNKNOWN};
    return 0;
}

static int forward_optional(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = run_in(c, 0);
    struct tensor item = {0}, list;
    if (x && x->dtype == DTYPE_OPTIONAL)
        return err_set(err, ERR_MODEL, "input #0 is an optional; it must be a tensor or a sequence");
    if ((x && tensor_copy(&item, x, err) < 0) || tensor_list(&list, DTYPE_OPTIONAL, &item, x ? 1 : 0, err) < 0)
        return -1;
    return run_give(c, 0, &list, err);
}

static int infer_has_element(struct infer_ctx *c, struct err *err)
{
    if (c->opset < 18 && !infer_has(c, 0))
        return err_set(err, ERR_MODEL, "input #0 is missing; it may be absent from opset 18 on");
    infer_out(c, 0, DTYPE_BOOL, &SHAPE_SCALAR);
    return 0;
}

static int forward_has_element(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_has_element, err) < 0)
        return -1;
    const struct tensor *x = run_in(c, 0);
    if (run_out(c, 0))
        *(uint8_t *)c->out[0]->data = x && (x->dtype != DTYPE_OPTIONAL || tensor_count(x) > 0);
    return 0;
}

static int infer_element(struct infer_ctx *c, struct err *err)
{
    if (!infer_has(c, 0))
        return err_set(err, ERR_MODEL, "input #0 is missing; it is required");
    if (c->in[0]->kind == TYPE_TENSOR)
        infer_out(c, 0, op_dtype(c, 0), infer_shape(c, 0));
    return 0;
}

static int forward_element(struct run_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0];
    struct tensor item;
    if (!tensor_is_list(x))
        return op_copy_whole(c, infer_element, err);
    if (x->dtype == DTYPE_OPTIONAL && tensor_count(x) == 0)
        return err_set(err, ERR_MODEL, "the optional holds nothing");
    if (x->dtype == DTYPE_OPTIONAL)
        x = tensor_items(x);
    return tensor_copy(&item, x, err) < 0 ? -1 : run_give(c, 0, &item, err);
}

#define OPTIONAL(type_, doc_, ...)                                                                                     \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = 15, .doc = doc_, .in_max = 1, .out_min = 1, .out_max = 1,                \
        .takes_lists = true, __VA_ARGS__                                                                               \
    }
OP_CLASS(optional) = OPTIONAL("Optional", "Nothing, or the input.", .attrs = optional_attrs,
                              .attrs_size = sizeof(struct optional_attrs), .infer = infer_optional,
                              .forward = forward_optional);
OP_CLASS(optional_has_element) = OPTIONAL("OptionalHasElement", "Whether there is something.",
                                          .infer = infer_has_element, .forward = forward_has_element,
                                          .samples = (const struct op_sample[]){{"f32[2]", ""}, {0}});
OP_CLASS(optional_get_element) = OPTIONAL("OptionalGetElement", "What is there.", .in_min = 1, .infer = infer_element,
                                          .forward = forward_element,
                                          .samples = (const struct op_sample[]){{"f32[2,3]", ""}, {0}});
