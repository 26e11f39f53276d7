/* SPDX-License-Identifier: Apache-2.0
 * Dropout. Inference (always up to opset 11; from 12 on unless the input training_mode is true) is the identity and a
 * mask of ones. Training zeroes each value with probability `ratio` and scales the others by 1 / (1 - ratio); ratio 0
 * keeps everything. */
#include <inttypes.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

struct dropout_attrs {
    float ratio;
    bool is_test;
    int64_t seed;
};
#define RATIO {OP_ATTR(dropout_attrs, ratio), .kind = OP_FLOAT, .def_f = 0.5f}
static const struct op_attr attrs_1[] = {RATIO, {OP_ATTR(dropout_attrs, is_test), .kind = OP_BOOL}, {NULL}};
static const struct op_attr attrs_7[] = {RATIO, {NULL}};
static const struct op_attr attrs_12[] = {{OP_ATTR(dropout_attrs, seed), .kind = OP_INT}, {NULL}};

static int infer(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    for (int i = 1; i < 3 && i < c->n_in; i++) {
        const struct tensor *t = op_value(c, i);
        if (t && tensor_count(t) != 1)
            return err_set(err, ERR_SHAPE, "input '%s' has %" PRId64 " values; it must be a scalar",
                           i == 1 ? "ratio" : "training_mode", tensor_count(t));
    }
    const struct tensor *ratio = op_value(c, 1);
    if (ratio && ratio->data &&
        !(dtype_get(ratio->dtype, ratio->data, 0) >= 0 && dtype_get(ratio->dtype, ratio->data, 0) < 1))
        return err_set(err, ERR_MODEL, "the ratio is %g; it must be in [0, 1)",
                       dtype_get(ratio->dtype, ratio->data, 0));
    infer_out(c, 0, c->in[0]->dtype, infer_shape(c, 0));
    if (c->n_out > 1) /* the mask has the data's type before opset 10 */
        infer_out(c, 1, c->opset < 10 ? c->in[0]->dtype : DTYPE_BOOL, infer_shape(c, 0));
    return 0;
}

/* What a dropping forward leaves for its backward: what kept values were multiplied by, and which those are. */
struct dropped {
    double factor;
    bool keep[];
};

static int drop(struct run_ctx *c, double ratio, struct err *err)
{
    const struct dropout_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0), *mask = run_out(c, 1);
    struct dropped *saved = NULL;
    struct rng rng;

    if (c->saved && !(saved = run_save(c, sizeof *saved + (size_t)tensor_count(x), err)))
        return -1;
    if (saved)
        saved->factor = 1 / (1 - ratio);
    rng_init(&rng, (uint64_t)a->seed ^ c->seed, 1);
    for (int64_t i = 0, n = tensor_count(x); i < n; i++) {
        const bool keep = rng_uniform(&rng) >= ratio;
        if (y)
            dtype_set(y->dtype, y->data, i, keep ? dtype_get(x->dtype, x->data, i) / (1 - ratio) : 0);
        if (mask)
            dtype_set(mask->dtype, mask->data, i, keep);
        if (saved)
            saved->keep[i] = keep;
    }
    return 0;
}

/* The share of values to drop in this run; 0: it is the identity. */
static double ratio_of(const struct run_ctx *c)
{
    const struct tensor *ratio = run_in(c, 1), *training = run_in(c, 2);

    if (c->opset < 12)
        return c->training ? (double)((const struct dropout_attrs *)c->attrs)->ratio : 0;
    if (!c->training && !(training && dtype_get(training->dtype, training->data, 0) != 0))
        return 0;
    return ratio ? dtype_get(ratio->dtype, ratio->data, 0) : 0.5;
}

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0), *mask = run_out(c, 1);
    const double ratio = ratio_of(c);

    if (ratio > 0 && ratio < 1)
        return drop(c, ratio, err);
    if (y && x->bytes && y->data != x->data)
        memcpy(y->data, x->data, x->bytes);
    for (int64_t i = 0, n = mask ? tensor_count(mask) : 0; i < n; i++)
        dtype_set(mask->dtype, mask->data, i, 1);
    return 0;
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct tensor *dy = grad_of(c, 0);
    const struct dropped *saved = c->saved;
    struct tensor *dx = grad_wanted(c, 0);
    (void)err;

    for (int64_t i = 0, n = dy && dx ? tensor_count(dx) : 0; i < n; i++) {
        const double factor = !saved ? 1 : saved->keep[i] ? saved->factor : 0;
        if (dx->dtype == DTYPE_FLOAT)
            tensor_f32(dx)[i] = (float)factor * tensor_f32(dy)[i] + (c->assign[0] ? 0 : tensor_f32(dx)[i]);
        else
            ((double *)dx->data)[i] =
                factor * ((const double *)dy->data)[i] + (c->assign[0] ? 0 : ((double *)dx->data)[i]);
    }
    return 0;
}

static const struct op_sample samples_1[] = {{"f32[2,3]", "is_test=1"}, {NULL}};
static const struct op_sample samples_7[] = {{"f32[2,3]", "ratio=0.3f"}, {NULL}};
static const struct op_sample samples[] = {{"f32[2,3]", NULL, 2}, {"f32[2,3] f32[]=0.3", NULL}, {NULL}};

#define ROW(since_, until_, inputs, table, ...)                                                                      \
    {.type = "Dropout", .domain = "", .since = since_, .until = until_, .doc = "Identity, unless training.",         \
     .in_min = 1,                                                                                                    \
     .in_max = inputs, .out_min = 1, .out_max = 2, .attrs = table, .attrs_size = sizeof(struct dropout_attrs),       \
     .infer = infer, .forward = forward, .backward = backward, .grad_assigns = true, .grad_inputs = 1u,        \
     .in_place = 1, .quant = {QUANT_PASS}, .couple = couple_like, __VA_ARGS__}
OP_CLASS(dropout_1) = ROW(1, 6, 1, attrs_1, .samples = samples_1);
OP_CLASS(dropout_7) = ROW(7, 11, 1, attrs_7, .samples = samples_7);
OP_CLASS(dropout_12) = ROW(12, 0, 3, attrs_12, .samples = samples);
