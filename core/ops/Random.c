/* SPDX-License-Identifier: Apache-2.0
 * Random values: RandomNormal, RandomUniform and their Like forms, Bernoulli, Multinomial. Seeded by the attribute
 * `seed`, or 0: a run repeats itself, on every machine. The numbers are ours, not another runtime's; planning never
 * folds them. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

struct random_attrs {
    int64_t dtype, sample_size;
    float seed, mean, scale, low, high;
    struct op_ints shape;
};
#define SEED                                                                                                           \
    {                                                                                                                  \
        OP_ATTR(random_attrs, seed), .kind = OP_FLOAT                                                                  \
    }
#define NORMAL                                                                                                         \
    {OP_ATTR(random_attrs, mean), .kind = OP_FLOAT},                                                                   \
    {                                                                                                                  \
        OP_ATTR(random_attrs, scale), .kind = OP_FLOAT, .def_f = 1                                                     \
    }
#define UNIFORM                                                                                                        \
    {OP_ATTR(random_attrs, low), .kind = OP_FLOAT},                                                                    \
    {                                                                                                                  \
        OP_ATTR(random_attrs, high), .kind = OP_FLOAT, .def_f = 1                                                      \
    }
#define SHAPE_DTYPE                                                                                                    \
    {OP_ATTR(random_attrs, shape), .kind = OP_INTS, .max_count = SHAPE_MAX_RANK, .required = true},                    \
    {                                                                                                                  \
        OP_ATTR(random_attrs, dtype), .kind = OP_INT, .def = DTYPE_FLOAT                                               \
    }
#define LIKE_DTYPE                                                                                                     \
    {                                                                                                                  \
        OP_ATTR(random_attrs, dtype), .kind = OP_INT                                                                   \
    }
static const struct op_attr normal_attrs[] = {SHAPE_DTYPE, SEED, NORMAL, {0}};
static const struct op_attr uniform_attrs[] = {SHAPE_DTYPE, SEED, UNIFORM, {0}};
static const struct op_attr normal_like_attrs[] = {LIKE_DTYPE, SEED, NORMAL, {0}};
static const struct op_attr uniform_like_attrs[] = {LIKE_DTYPE, SEED, UNIFORM, {0}};
static const struct op_attr bernoulli_attrs[] = {LIKE_DTYPE, SEED, {0}};
static const struct op_attr multinomial_attrs[] = {{OP_ATTR(random_attrs, dtype), .kind = OP_INT, .def = DTYPE_INT32},
                                                   {OP_ATTR(random_attrs, sample_size), .kind = OP_INT, .def = 1},
                                                   SEED,
                                                   {0}};

/* ---- shapes ---- */
static int check_dtype(int64_t dtype, const char *kinds, struct err *err)
{
    if (dtype > 0 && dtype < DTYPE_COUNT && strchr(kinds, dtype_kind((enum dtype)dtype)) &&
        dtype_bits((enum dtype)dtype) >= 8)
        return 0;
    return err_set(err, ERR_MODEL, "attribute 'dtype' is %" PRId64 "; it must be the number of a suitable type", dtype);
}

static int infer_shaped(struct infer_ctx *c, struct err *err)
{
    const struct random_attrs *attrs = c->attrs;
    struct shape out = {.rank = attrs->shape.count};
    if (check_dtype(attrs->dtype, "f", err) < 0)
        return -1;
    for (int i = 0; i < out.rank; i++) {
        out.dim[i] = attrs->shape.at[i];
        if (out.dim[i] < 0)
            return err_set(err, ERR_MODEL, "dimension %d of attribute 'shape' is %" PRId64 "; it must not be negative",
                           i, out.dim[i]);
    }
    if (shape_count(&out) < 0)
        return err_set(err, ERR_MODEL_TOO_LARGE, "the output would have more than 2^63 elements");
    infer_out(c, 0, (enum dtype)attrs->dtype, &out);
    return 0;
}

static int infer_as_input(struct infer_ctx *c, const char *kinds, struct err *err)
{
    const struct random_attrs *attrs = c->attrs;
    if (op_need(c, 1, err) < 0)
        return -1;
    int64_t dtype = attrs->dtype ? attrs->dtype : (int64_t)op_dtype(c, 0);
    if (dtype && check_dtype(dtype, kinds, err) < 0)
        return -1;
    infer_out(c, 0, (enum dtype)dtype, infer_shape(c, 0));
    return 0;
}

static int infer_like(struct infer_ctx *c, struct err *err)
{
    return infer_as_input(c, "f", err);
}

static int infer_bernoulli(struct infer_ctx *c, struct err *err)
{
    return op_dtype_kinds(c, 0, "f", err) < 0 ? -1 : infer_as_input(c, "fiub", err);
}

static int infer_multinomial(struct infer_ctx *c, struct err *err)
{
    const struct random_attrs *attrs = c->attrs;
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || check_dtype(attrs->dtype, "i", err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank >= 0 && x->rank != 2)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must be [batch, classes]", x->rank);
    if (attrs->sample_size < 0)
        return err_set(err, ERR_MODEL, "attribute 'sample_size' is %" PRId64 "; it must not be negative",
                       attrs->sample_size);
    infer_out(c, 0, (enum dtype)attrs->dtype, &SHAPE(x->rank == 2 ? x->dim[0] : DIM_UNKNOWN, attrs->sample_size));
    return 0;
}

/* ---- values ---- */
static struct rng seeded(const struct random_attrs *attrs)
{
    struct rng rng;
    uint32_t bits;
    memcpy(&bits, &attrs->seed, sizeof bits);
    rng_init(&rng, bits, 0);
    return rng;
}

typedef double draw_fn(struct rng *rng, const struct run_ctx *c, int64_t i);

static double draw_normal(struct rng *rng, const struct run_ctx *c, int64_t i)
{
    const struct random_attrs *attrs = c->attrs;
    (void)i;
    return (double)attrs->mean + (double)attrs->scale * rng_normal(rng);
}

static double draw_uniform(struct rng *rng, const struct run_ctx *c, int64_t i)
{
    const struct random_attrs *attrs = c->attrs;
    (void)i;
    return (double)attrs->low + ((double)attrs->high - (double)attrs->low) * rng_uniform(rng);
}

static double draw_bernoulli(struct rng *rng, const struct run_ctx *c, int64_t i)
{
    return rng_uniform(rng) < dtype_get(c->in[0]->dtype, c->in[0]->data, i);
}

static int fill(struct run_ctx *c, op_infer_fn *infer, draw_fn *draw, struct err *err)
{
    struct rng rng = seeded(c->attrs);
    if (op_outputs(c, infer, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    int64_t n = y ? tensor_count(y) : 0;
    for (int64_t i = 0; i < n; i++)
        dtype_set(y->dtype, y->data, i, draw(&rng, c, i));
    return 0;
}

#define FILL_FN(name, infer, draw)                                                                                     \
    static int forward_##name(struct run_ctx *c, struct err *err)                                                      \
    {                                                                                                                  \
        return fill(c, infer, draw, err);                                                                              \
    }
FILL_FN(normal, infer_shaped, draw_normal)
FILL_FN(uniform, infer_shaped, draw_uniform)
FILL_FN(normal_like, infer_like, draw_normal)
FILL_FN(uniform_like, infer_like, draw_uniform)
FILL_FN(bernoulli, infer_bernoulli, draw_bernoulli)

/* Class by the inverse of the cumulated probabilities; x holds logarithms of them, not normalized. */
static int64_t draw_class(struct rng *rng, const struct tensor *x, int64_t row, int64_t classes)
{
    double top = -HUGE_VAL, sum = 0, part = 0;
    for (int64_t k = 0; k < classes; k++)
        top = fmax(top, dtype_get(x->dtype, x->data, row * classes + k));
    for (int64_t k = 0; k < classes; k++)
        sum += exp(dtype_get(x->dtype, x->data, row * classes + k) - top);
    double at = rng_uniform(rng) * sum;
    for (int64_t k = 0; k < classes - 1; k++) {
        part += exp(dtype_get(x->dtype, x->data, row * classes + k) - top);
        if (at < part)
            return k;
    }
    return classes - 1;
}

static int forward_multinomial(struct run_ctx *c, struct err *err)
{
    struct rng rng = seeded(c->attrs);
    if (op_outputs(c, infer_multinomial, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    int64_t n = y ? tensor_count(y) : 0;
    if (n && x->shape.dim[1] == 0)
        return err_set(err, ERR_SHAPE, "there are no classes to draw from");
    for (int64_t i = 0; i < n; i++)
        dtype_set(y->dtype, y->data, i, (double)draw_class(&rng, x, i / y->shape.dim[1], x->shape.dim[1]));
    return 0;
}

/* Each element is drawn for itself, but from one stream for all. */
static int couple(struct coupling *k, struct err *err)
{
    for (int i = 0; i < couple_rank(k, OUT(0)); i++)
        couple_approximate(k, OUT(0), i, "other random numbers are drawn");
    return couple_like(k, err);
}

#define RANDOM(type_, since_, n_in_, table, rule_, infer_, forward_, doc_, ...)                                        \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = since_, .doc = doc_, .in_min = n_in_, .in_max = n_in_, .out_min = 1,     \
        .out_max = 1, .attrs = table, .attrs_size = sizeof(struct random_attrs), .infer = infer_, .forward = forward_, \
        .nondeterministic = true, .couple = rule_, .samples = (const struct op_sample[])                               \
        {                                                                                                              \
            __VA_ARGS__,                                                                                               \
            {                                                                                                          \
                0                                                                                                      \
            }                                                                                                          \
        }                                                                                                              \
    }
OP_CLASS(random_normal) = RANDOM("RandomNormal", 1, 0, normal_attrs, NULL, infer_shaped, forward_normal,
                                 "Normal random values.", {"", "shape=2,3"});
OP_CLASS(random_uniform) = RANDOM("RandomUniform", 1, 0, uniform_attrs, NULL, infer_shaped, forward_uniform,
                                  "Uniform random values.", {"", "shape=2,3"});
OP_CLASS(random_normal_like) = RANDOM("RandomNormalLike", 1, 1, normal_like_attrs, couple, infer_like,
                                      forward_normal_like, "Normal random values in the input's shape.",
                                      {"f32[2,3]", ""});
OP_CLASS(random_uniform_like) = RANDOM("RandomUniformLike", 1, 1, uniform_like_attrs, couple, infer_like,
                                       forward_uniform_like, "Uniform random values in the input's shape.",
                                       {"f32[2,3]", ""});
OP_CLASS(bernoulli) = RANDOM("Bernoulli", 15, 1, bernoulli_attrs, couple, infer_bernoulli, forward_bernoulli,
                             "1 with the probability given, else 0.", {"f32[2,3]=0,1,0,1,0.5,0.5", ""});
OP_CLASS(multinomial) = RANDOM("Multinomial", 7, 1, multinomial_attrs, NULL, infer_multinomial, forward_multinomial,
                               "Classes drawn by their log-probabilities.", {"f32[2,3]", "sample_size=4"});
