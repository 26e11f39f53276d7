/* SPDX-License-Identifier: Apache-2.0
 * Cast and CastLike: the same values in another dtype.
 * Floats to integers truncate towards zero; to float16 and bfloat16 they round to the nearest even; to the float8
 * formats they saturate, or with saturate = 0 become infinity or NaN. Anything to bool is "not zero". Strings are
 * refused. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/op_util.h"

struct cast_attrs {
    int64_t to;
    int name; /* before opset 6 the type is a word */
    bool saturate;
    int round_mode;
};
/* In the order of the dtypes' numbers. */
static const char *const names[] = {"UNDEFINED", "FLOAT",  "UINT8",     "INT8",       "UINT16",  "INT16",
                                    "INT32",     "INT64",  "STRING",    "BOOL",       "FLOAT16", "DOUBLE",
                                    "UINT32",    "UINT64", "COMPLEX64", "COMPLEX128", NULL};
static const char *const rounding[] = {"up", "down", "nearest", NULL};
static const struct op_attr cast_1_attrs[] = {
    {.name = "to", .kind = OP_ENUM, .offset = offsetof(struct cast_attrs, name), .choices = names, .required = true},
    {0}};
static const struct op_attr cast_6_attrs[] = {{OP_ATTR(cast_attrs, to), .kind = OP_INT, .required = true}, {0}};
static const struct op_attr cast_19_attrs[] = {{OP_ATTR(cast_attrs, to), .kind = OP_INT, .required = true},
                                               {OP_ATTR(cast_attrs, saturate), .kind = OP_BOOL, .def = 1},
                                               {OP_ATTR(cast_attrs, round_mode), .kind = OP_ENUM, .choices = rounding},
                                               {0}};
static const struct op_attr like_attrs[] = {{OP_ATTR(cast_attrs, saturate), .kind = OP_BOOL, .def = 1},
                                            {OP_ATTR(cast_attrs, round_mode), .kind = OP_ENUM, .choices = rounding},
                                            {0}};

static bool castable(enum dtype dtype)
{
    return dtype == DTYPE_NONE || strchr("fiub", dtype_kind(dtype));
}

static int infer_to(struct infer_ctx *c, enum dtype to, struct err *err)
{
    enum dtype from = op_dtype(c, 0);
    if (!castable(from) || !castable(to))
        return err_set(err, ERR_OPERATOR, "a cast from %s to %s is not supported; only numbers and bool can be cast",
                       dtype_name(from), dtype_name(to));
    infer_out(c, 0, to, infer_shape(c, 0));
    return 0;
}

static int infer_cast(struct infer_ctx *c, struct err *err)
{
    const struct cast_attrs *attrs = c->attrs;
    int64_t to = c->opset < 6 ? attrs->name : attrs->to;
    if (op_need(c, 1, err) < 0)
        return -1;
    if (to < INT32_MIN || to > INT32_MAX || !dtype_valid((int)to) || to == DTYPE_NONE)
        return err_set(err, ERR_MODEL, "attribute 'to' is %" PRId64 "; it must be the number of a type", to);
    return infer_to(c, (enum dtype)to, err);
}

static int infer_like(struct infer_ctx *c, struct err *err)
{
    return op_need(c, 2, err) < 0 ? -1 : infer_to(c, op_dtype(c, 1), err);
}

struct cast_loop {
    enum dtype to, from;
    char *dst;
    const char *src;
};

static void cast_range(void *opaque, int64_t begin, int64_t end)
{
    const struct cast_loop *l = opaque;
    dtype_convert(l->to, l->dst + (size_t)(begin * dtype_bits(l->to) / 8), l->from,
                  l->src + (size_t)(begin * dtype_bits(l->from) / 8), end - begin);
}

/* Float8 with saturate = 0. */
static void cast_unsaturated(void *opaque, int64_t begin, int64_t end)
{
    const struct cast_loop *l = opaque;
    for (int64_t i = begin; i < end; i++)
        dtype_set_unsaturated(l->to, l->dst, i, dtype_get(l->from, l->src, i));
}

static int run(struct run_ctx *c, op_infer_fn *infer, struct err *err)
{
    const struct cast_attrs *attrs = c->attrs;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    struct cast_loop l = {y->dtype, x->dtype, y->data, x->data};
    bool open = c->opset >= 19 && !attrs->saturate && y->dtype >= DTYPE_FLOAT8E4M3FN &&
                y->dtype <= DTYPE_FLOAT8E5M2FNUZ && x->dtype != y->dtype;
    /* a piece ends on whole bytes of packed types too */
    op_parallel(c->pool, tensor_count(x), 1 << 15, open ? cast_unsaturated : cast_range, &l);
    return 0;
}

static int forward_cast(struct run_ctx *c, struct err *err)
{
    return run(c, infer_cast, err);
}
static int forward_like(struct run_ctx *c, struct err *err)
{
    return run(c, infer_like, err);
}

#define CAST(...)                                                                                                      \
    {                                                                                                                  \
        .type = "Cast", .domain = "", .doc = "The values in another dtype.", .in_min = 1, .in_max = 1, .out_min = 1,   \
        .out_max = 1, .attrs_size = sizeof(struct cast_attrs), .infer = infer_cast, .forward = forward_cast,           \
        __VA_ARGS__                                                                                                    \
    }
static const struct op_sample samples[] = {{"f32[6]=-1.7,0,0.5,1.7,3,100", "to=7"},
                                           {"f32[4]=0,1,-2,0.1", "to=9"},
                                           {"f32[3]", "to=10"},
                                           {"f32[3]", "to=16"},
                                           {"f32[3]", "to=11"},
                                           {"i64[3]=0,1,300", "to=2"},
                                           {"b[3]=0,1,1", "to=1"},
                                           {"f16[3]", "to=1"},
                                           {"i32[3]=-1,2,3", "to=1"},
                                           {"f64[3]=1.5,-2.5,3", "to=6"},
                                           {"i64[2]=0,3", "to=9"},
                                           {"bf16[3]", "to=1"},
                                           {"f32[9]=1,-0.3,448,460,465,-1e9,inf,nan,0", "to=17"},
                                           {"f32[9]=1,-0.3,448,460,465,-1e9,inf,nan,0", "to=17 saturate=0"},
                                           {"f32[9]=1,-0.3,240,244,249,-1e9,inf,nan,0", "to=18 saturate=0"},
                                           {"f32[9]=1,-0.3,57344,61000,62000,-1e9,inf,nan,0", "to=19 saturate=0"},
                                           {"f16[9]=1,-0.3,57344,61000,62000,-6e4,inf,nan,0", "to=20 saturate=0"},
                                           {0}};
static const struct op_sample old_samples[] = {{"f32[3]=1.5,-2.5,3", "to=INT32", 1, 5}, {0}};
OP_CLASS(cast_1) = CAST(.since = 1, .until = 5, .attrs = cast_1_attrs, .samples = old_samples);
OP_CLASS(cast_6) = CAST(.since = 6, .until = 18, .attrs = cast_6_attrs,
                        .samples = (const struct op_sample[]){
                            {"f32[6]=-1.7,0,0.5,1.7,3,100", "to=7", 1, 13}, {"i32[3]", "to=1", 1, 9}, {0}});
OP_CLASS(cast_19) = CAST(.since = 19, .attrs = cast_19_attrs, .samples = samples);
OP_CLASS(cast_like) = {.type = "CastLike",
                       .domain = "",
                       .since = 15,
                       .doc = "The values in the dtype of the second input.",
                       .in_min = 2,
                       .in_max = 2,
                       .out_min = 1,
                       .out_max = 1,
                       .attrs = like_attrs,
                       .attrs_size = sizeof(struct cast_attrs),
                       .infer = infer_like,
                       .forward = forward_like,
                       .samples = (const struct op_sample[]){{"f32[3] i64[1]", ""}, {"i32[2,2] f16[]", ""}, {0}}};
