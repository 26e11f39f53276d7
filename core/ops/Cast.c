/* SPDX-License-Identifier: Apache-2.0
 * Cast and CastLike: the same values in another dtype.
 * Floats to integers truncate towards zero; to float16 and bfloat16 they round to the nearest even; to the float8
 * formats they saturate, or with saturate = 0 become infinity or NaN; to float8e8m0, a power of two, they round up,
 * down or to the nearest one, by round_mode. Anything to bool is "not zero".
 * Strings    Numbers become the shortest decimal text that reads back as the same number (INF, -INF, NaN; bool 0 or
 *            1); text becomes a number if all of it is one. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

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
    return dtype == DTYPE_NONE || strchr("fiubs", dtype_kind(dtype));
}

static int infer_to(struct infer_ctx *c, enum dtype to, struct err *err)
{
    enum dtype from = op_dtype(c, 0);
    if (!castable(from) || !castable(to))
        return err_set(err, ERR_OPERATOR, "a cast from %s to %s is not supported; only numbers, bool and strings are"
                       " cast", dtype_name(from), dtype_name(to));
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

/* Between number types whole numbers stay what they are. */
static bool propagate(const struct infer_ctx *c, struct sym_list *out)
{
    return c->out[0].dtype != DTYPE_BOOL && c->in[0]->dtype != DTYPE_BOOL && op_sizes_same(c, out);
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

/* ---- float8e8m0: 2^(code - 127), 255 is NaN ---- */
enum { ROUND_UP, ROUND_DOWN, ROUND_NEAREST };

static uint8_t scale_code(double v, int round_mode, bool saturate)
{
    int e;
    if (isnan(v) || (isinf(v) && !saturate) || (v == 0 && !saturate))
        return 255;
    if (isinf(v))
        return 254;
    if (v == 0)
        return 0;
    const double m = frexp(fabs(v), &e); /* |v| = m 2^e, m in [1/2, 1) */
    const bool up = round_mode == ROUND_UP ? m > 0.5 : round_mode == ROUND_NEAREST && m >= 0.75;
    const int code = e - 1 + up + 127;
    if (code < 0 || code > 254)
        return saturate ? (code < 0 ? 0 : 254) : 255;
    return (uint8_t)code;
}

static void cast_to_scales(const struct cast_attrs *attrs, const struct tensor *x, struct tensor *y)
{
    for (int64_t i = 0; i < tensor_count(x); i++)
        ((uint8_t *)y->data)[i] = scale_code(dtype_get(x->dtype, x->data, i), attrs->round_mode, attrs->saturate);
}

/* ---- strings ---- */
/* "%.{digits}g" without an exponent where it is short; the fewest digits that read back. */
static int print_float(double v, bool is_double, char *text, size_t size)
{
    if (isnan(v) || isinf(v))
        return snprintf(text, size, "%s", isnan(v) ? "NaN" : v > 0 ? "INF" : "-INF");
    for (int digits = is_double ? 15 : 6; digits < 17; digits++) {
        snprintf(text, size, "%.*g", digits, v);
        if (is_double ? strtod(text, NULL) == v : strtof(text, NULL) == (float)v)
            return (int)strlen(text);
    }
    return snprintf(text, size, "%.17g", v);
}

static int print_number(const struct tensor *x, int64_t i, char *text, size_t size)
{
    if (x->dtype == DTYPE_UINT64)
        return snprintf(text, size, "%" PRIu64, ((const uint64_t *)x->data)[i]);
    if (!dtype_is_float(x->dtype))
        return snprintf(text, size, "%" PRId64, dtype_get_i64(x->dtype, x->data, i));
    return print_float(dtype_get(x->dtype, x->data, i), x->dtype == DTYPE_DOUBLE, text, size);
}

enum { NUMBER_MAX = 48 };

static int cast_to_strings(struct run_ctx *c, const struct tensor *x, struct err *err)
{
    const int64_t n = tensor_count(x);
    struct tensor view, own;
    struct dtype_string *at = calloc((size_t)n + 1, sizeof *at);
    char *text = calloc((size_t)n + 1, NUMBER_MAX);
    int rc = at && text ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n && !rc; i++) {
        char *to = text + (size_t)i * NUMBER_MAX;
        at[i] = (struct dtype_string){to, (size_t)print_number(x, i, to, NUMBER_MAX)};
    }
    if (!rc) {
        tensor_view(&view, DTYPE_STRING, &x->shape, at, NULL);
        rc = tensor_copy(&own, &view, err);
    }
    free(at);
    free(text);
    return rc ? -1 : run_give(c, 0, &own, err);
}

static int read_number(const struct dtype_string *s, enum dtype to, void *dst, int64_t i, struct err *err)
{
    char text[NUMBER_MAX * 2], *end = text;
    if (s->len && s->len < sizeof text) {
        memcpy(text, s->data, s->len);
        text[s->len] = 0;
        if (to == DTYPE_INT64)
            ((int64_t *)dst)[i] = strtoll(text, &end, 10);
        else if (to == DTYPE_UINT64)
            ((uint64_t *)dst)[i] = strtoull(text, &end, 10);
        if (end == text || *end) {
            double v = strtod(text, &end); /* INF, NaN and signs included */
            dtype_set(to, dst, i, v);
        }
        if (end == text + s->len)
            return 0;
    }
    return err_set(err, ERR_MODEL, "element %" PRId64 ", '%.*s', is not a number", i, (int)(s->len < 40 ? s->len : 40),
                   s->data ? s->data : "");
}

static int cast_strings(struct run_ctx *c, const struct tensor *x, enum dtype to, struct err *err)
{
    struct tensor *y = run_out(c, 0), own;
    if (x->dtype != DTYPE_STRING)
        return y ? cast_to_strings(c, x, err) : 0;
    if (to == DTYPE_STRING)
        return tensor_copy(&own, x, err) < 0 ? -1 : run_give(c, 0, &own, err);
    if (dtype_bits(to) < 8 || to == DTYPE_BOOL)
        return err_set(err, ERR_OPERATOR, "a cast from string to %s is not supported", dtype_name(to));
    for (int64_t i = 0; i < tensor_count(x) && y; i++)
        if (read_number(&((const struct dtype_string *)x->data)[i], to, y->data, i, err) < 0)
            return -1;
    return 0;
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
    if (x->dtype == DTYPE_STRING || y->dtype == DTYPE_STRING)
        return cast_strings(c, x, y->dtype, err);
    if (y->dtype == DTYPE_FLOAT8E8M0 && x->dtype != DTYPE_FLOAT8E8M0 && c->opset >= 24) {
        cast_to_scales(attrs, x, y);
        return 0;
    }
    struct cast_loop l = {y->dtype, x->dtype, y->data, x->data};
    if (l.dst == l.src && l.to == l.from)
        return 0;
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

/* Between float types the gradient is cast back; through integers none passes. */
static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0), same;
    size_t bytes;

    if (!g || !dst || !dtype_is_float(g->dtype) || g->dtype == dst->dtype)
        return grad_add_whole(c, 0, g && dtype_is_float(g->dtype) ? g : NULL, err);
    if (!dtype_bytes(dst->dtype, tensor_count(dst), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
    void *data = grad_scratch(c, bytes + 1, err);
    if (!data)
        return -1;
    dtype_convert(dst->dtype, data, g->dtype, g->data, tensor_count(g));
    tensor_view(&same, dst->dtype, &dst->shape, data, NULL);
    return grad_add_whole(c, 0, &same, err);
}

#define CAST(...)                                                                                                      \
    {                                                                                                                  \
        .type = "Cast", .domain = "", .doc = "The values in another dtype.", .in_min = 1, .in_max = 1, .out_min = 1,   \
        .out_max = 1, .attrs_size = sizeof(struct cast_attrs), .infer = infer_cast, .forward = forward_cast,           \
        .in_place = 1, .propagate = propagate, .couple = couple_like,                                                  \
        .backward = backward, .grad_inputs = 1, .grad_assigns = true, __VA_ARGS__                                      \
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
static const struct op_sample old_samples[] = {{"f32[3]=1.5,-2.5,3", "to=INT32", 1, 5},
                                               {"f32[3]", "to=DOUBLE", 1, 5},
                                               {0}};
OP_CLASS(cast_1) = CAST(.since = 1, .until = 5, .attrs = cast_1_attrs, .samples = old_samples);
OP_CLASS(cast_6) = CAST(.since = 6, .until = 18, .attrs = cast_6_attrs,
                        .samples = (const struct op_sample[]){
                            {"f32[6]=-1.7,0,0.5,1.7,3,100", "to=7", 1, 13},
                            {"i32[3]", "to=1", 1, 9},
                            {"f32[3]", "to=11", 1, 9},
                            {0}});
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
                       .couple = couple_like,
                       .backward = backward,
                       .grad_inputs = 1,
                       .grad_assigns = true,
                       .samples = (const struct op_sample[]){
                           {"f32[3] i64[1]", ""}, {"i32[2,2] f16[]", ""}, {"f32[2,2] f64[]", ""}, {0}}};
