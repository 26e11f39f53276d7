/* SPDX-License-Identifier: Apache-2.0
 * Halves by way of float32: see widen.h. The context's tables of inputs and outputs are swapped for the call and put
 * back, so that scratch and errors of the inner computation go where they always go. */
#include "core/ops/widen.h"

enum { MOST = 16 };

static bool is_half(enum dtype dtype)
{
    return dtype == DTYPE_FLOAT16 || dtype == DTYPE_BFLOAT16;
}

static bool any_half(const struct run_ctx *c)
{
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i] && is_half(c->in[i]->dtype))
            return true;
    for (int i = 0; i < c->n_out; i++)
        if (c->out[i] && is_half(c->out[i]->dtype))
            return true;
    return false;
}

/* wide: a float32 tensor of t's shape in scratch. */
static int make_wide(struct run_ctx *c, const struct tensor *t, struct tensor *wide, struct err *err)
{
    size_t bytes;
    if (!dtype_bytes(DTYPE_FLOAT, tensor_count(t), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "a tensor has too many elements to be computed in float32");
    void *data = run_scratch(c, bytes ? bytes : 1, err);
    if (!data)
        return -1;
    tensor_view(wide, DTYPE_FLOAT, &t->shape, data, NULL);
    return 0;
}

int op_run_widened(struct run_ctx *c, op_infer_fn *infer, op_compute_fn *compute, struct err *err)
{
    const struct tensor *in[MOST], *const *old_in = c->in;
    struct tensor *out[MOST], *const *old_out = c->out, wide[2 * MOST];

    if (op_outputs(c, infer, err) < 0)
        return -1;
    if (!any_half(c))
        return compute(c, err);
    if (c->n_in > MOST || c->n_out > MOST)
        return err_set(err, ERR_OPERATOR, "too many inputs or outputs to be computed in half precision");
    for (int i = 0; i < c->n_in; i++) {
        in[i] = c->in[i];
        if (!in[i] || !is_half(in[i]->dtype))
            continue;
        if (make_wide(c, in[i], &wide[i], err) < 0)
            return -1;
        dtype_convert(DTYPE_FLOAT, wide[i].data, in[i]->dtype, in[i]->data, tensor_count(in[i]));
        in[i] = &wide[i];
    }
    for (int i = 0; i < c->n_out; i++) {
        out[i] = c->out[i];
        if (!out[i] || !is_half(out[i]->dtype))
            continue;
        if (make_wide(c, out[i], &wide[MOST + i], err) < 0)
            return -1;
        out[i] = &wide[MOST + i];
    }
    c->in = in;
    c->out = out;
    const int result = compute(c, err);
    c->in = old_in;
    c->out = old_out;
    for (int i = 0; result == 0 && i < c->n_out; i++)
        if (c->out[i] && out[i] != c->out[i])
            dtype_convert(c->out[i]->dtype, c->out[i]->data, DTYPE_FLOAT, out[i]->data, tensor_count(c->out[i]));
    return result;
}
