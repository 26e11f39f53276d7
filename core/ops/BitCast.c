/* SPDX-License-Identifier: Apache-2.0
 * BitCast: the same bytes as another type of the same width. */
#include <inttypes.h>

#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

struct bitcast_attrs {
    int64_t to;
};
static const struct op_attr bitcast_attrs[] = {{OP_ATTR(bitcast_attrs, to), .kind = OP_INT, .required = true}, {0}};

static int infer(struct infer_ctx *c, struct err *err)
{
    int64_t to = ((const struct bitcast_attrs *)c->attrs)->to;
    if (op_need(c, 1, err) < 0)
        return -1;
    if (to < 1 || to > INT32_MAX || !dtype_valid((int)to) || to == DTYPE_STRING)
        return err_set(err, ERR_MODEL, "attribute 'to' is %" PRId64 "; it must be the number of a type, and not string",
                       to);
    enum dtype from = op_dtype(c, 0);
    if (from == DTYPE_STRING || (from != DTYPE_NONE && dtype_bits(from) != dtype_bits((enum dtype)to)))
        return err_set(err, ERR_MODEL, "%s cannot be taken for %s; both must have the same width", dtype_name(from),
                       dtype_name((enum dtype)to));
    infer_out(c, 0, (enum dtype)to, infer_shape(c, 0));
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_copy_whole(c, infer, err);
}

OP_CLASS(bit_cast) = {.type = "BitCast",
                      .domain = "",
                      .since = 26,
                      .doc = "The same bits as another type.",
                      .in_min = 1,
                      .in_max = 1,
                      .out_min = 1,
                      .out_max = 1,
                      .attrs = bitcast_attrs,
                      .attrs_size = sizeof(struct bitcast_attrs),
                      .infer = infer,
                      .forward = forward,
                      .couple = couple_like,
                      .samples = (const struct op_sample[]){
                          {"f32[2,3]", "to=6"}, {"i64[3]", "to=11"}, {"u8[4]", "to=3"}, {0}}};
