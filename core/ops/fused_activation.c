/* SPDX-License-Identifier: Apache-2.0
 * Activation, made by the engine's rewriting only: y = f(x) with f one of act.h, for float32. What a model writes as
 * several nodes (GELU, SiLU) or what no product could take in becomes this. */
#include "core/kernels/act.h"
#include "core/ops/op_util.h"

enum { GRAIN = 1 << 13 };

struct activation_attrs {
    int activation;
    float alpha, beta; /* a and b */
};
static const struct op_attr attr_rows[] = {
    {OP_ATTR(activation_attrs, activation), .kind = OP_ENUM, .choices = act_names},
    {OP_ATTR(activation_attrs, alpha), .kind = OP_FLOAT},
    {OP_ATTR(activation_attrs, beta), .kind = OP_FLOAT},
    {0},
};

static int infer(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0)
        return -1;
    if (op_dtype(c, 0) != DTYPE_FLOAT)
        return err_set(err, ERR_MODEL, "input #0 is %s, must be float32", dtype_name(op_dtype(c, 0)));
    return op_infer_same(c, err);
}

struct loop {
    struct act act;
    const float *x;
    float *y;
};

static void run_piece(void *arg, int64_t begin, int64_t end)
{
    const struct loop *l = arg;
    act_f32(&l->act, l->x + begin, end - begin, l->y + begin);
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct activation_attrs *attrs = c->attrs;
    struct tensor *y = run_out(c, 0);
    if (op_outputs(c, infer, err) < 0)
        return -1;
    if (!y)
        return 0;
    struct loop l = {{(enum act_kind)attrs->activation, attrs->alpha, attrs->beta}, c->in[0]->data, y->data};
    op_parallel(c->pool, tensor_count(y), GRAIN, run_piece, &l);
    return 0;
}

OP_CLASS(engine_activation) = {.type = "Activation",
                               .domain = OP_DOMAIN_ENGINE,
                               .since = 1,
                               .doc = "An activation that stood in several nodes.",
                               .in_min = 1,
                               .in_max = 1,
                               .out_min = 1,
                               .out_max = 1,
                               .attrs = attr_rows,
                               .attrs_size = sizeof(struct activation_attrs),
                               .infer = infer,
                               .forward = forward,
                               .in_place = 1,
                               .internal = true};
