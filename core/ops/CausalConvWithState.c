/* SPDX-License-Identifier: Apache-2.0
 * CausalConvWithState: each channel filtered along time, seeing the past only, with what came before as a state.
 *   y[b, c, t] = act(bias[c] + sum_j w[c, 0, j] z[b, c, t + j]), z = past_state (or zeros), then x.
 * x [B, C, L], w [C, 1, k], bias [C], past_state and present_state [B, C, k - 1] (the last values of z); act none or
 * silu. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/couple.h"
#include "core/ops/widen.h"

enum { X, W, BIAS, PAST };
enum { ACT_NONE, ACT_SILU, ACT_SWISH };
static const char *const activations[] = {"none", "silu", "swish", NULL};

struct causal_attrs {
    int activation;
};
static const struct op_attr causal_attrs[] = {
    {OP_ATTR(causal_attrs, activation), .kind = OP_ENUM, .choices = activations}, {0}};

static int check(const struct infer_ctx *c, int i, struct shape want, struct err *err)
{
    static const char *const names[] = {"input", "weight", "bias", "past_state"};
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];
    if (!infer_has(c, i) || infer_shape(c, i)->rank < 0)
        return 0;
    const struct shape *s = infer_shape(c, i);
    bool fits = s->rank == want.rank;
    for (int d = 0; fits && d < want.rank; d++)
        fits = s->dim[d] < 0 || want.dim[d] < 0 || s->dim[d] == want.dim[d];
    return fits ? 0
                : err_set(err, ERR_SHAPE, "%s has shape %s; it must be %s", names[i], shape_text(s, text),
                          shape_text(&want, want_text));
}

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    if (op_need(c, 2, err) < 0 || op_dtype_real(c, X, err) < 0 || op_same_dtype(c, 0, 4, &dtype, err) < 0)
        return -1;
    if (dtype == DTYPE_DOUBLE)
        return err_set(err, ERR_MODEL, "input #0 is double; float32, float16 and bfloat16 are computed");
    const struct shape *x = infer_shape(c, X), *w = infer_shape(c, W);
    int64_t k = w->rank == 3 ? w->dim[2] : DIM_UNKNOWN, channels = x->rank == 3 ? x->dim[1] : DIM_UNKNOWN;
    int64_t batch = x->rank == 3 ? x->dim[0] : DIM_UNKNOWN, state = k < 0 ? DIM_UNKNOWN : k - 1;
    if (k == 0)
        return err_set(err, ERR_SHAPE, "weight is empty: the kernel has at least one tap");
    if (check(c, X, SHAPE(batch, channels, -1), err) < 0 || check(c, W, SHAPE(channels, 1, k), err) < 0 ||
        check(c, BIAS, SHAPE(channels), err) < 0 || check(c, PAST, SHAPE(batch, channels, state), err) < 0)
        return -1;
    infer_out(c, 0, dtype, x);
    infer_out(c, 1, dtype, &SHAPE(batch, channels, state));
    return 0;
}

struct causal {
    const float *x, *w, *bias, *past;
    float *y, *present;
    int64_t channels, length, taps;
    bool silu;
};

/* z[t]: the past, then x. */
static float at(const struct causal *k, int64_t row, int64_t t)
{
    const int64_t state = k->taps - 1;
    return t >= state ? k->x[row * k->length + t - state] : k->past ? k->past[row * state + t] : 0;
}

static void run_rows(void *arg, int64_t begin, int64_t end)
{
    const struct causal *k = arg;
    const int64_t state = k->taps - 1;
    for (int64_t row = begin; row < end; row++) {
        const float *w = k->w + row % k->channels * k->taps;
        for (int64_t t = 0; t < k->length && k->y; t++) {
            float sum = k->bias ? k->bias[row % k->channels] : 0;
            for (int64_t j = 0; j < k->taps; j++)
                sum += w[j] * at(k, row, t + j);
            k->y[row * k->length + t] = k->silu ? sum / (1 + expf(-sum)) : sum;
        }
        for (int64_t j = 0; j < state && k->present; j++)
            k->present[row * state + j] = at(k, row, k->length + j);
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    (void)err;
    const struct shape *x = &c->in[X]->shape;
    struct tensor *y = run_out(c, 0), *present = run_out(c, 1);
    struct causal k = {.x = c->in[X]->data, .w = c->in[W]->data, .bias = run_in(c, BIAS) ? c->in[BIAS]->data : NULL,
                       .past = run_in(c, PAST) ? c->in[PAST]->data : NULL, .y = y ? y->data : NULL,
                       .present = present ? present->data : NULL, .channels = x->dim[1], .length = x->dim[2],
                       .taps = c->in[W]->shape.dim[2],
                       .silu = ((const struct causal_attrs *)c->attrs)->activation != ACT_NONE};
    op_parallel(c->pool, x->dim[0] * x->dim[1], i64_max(1, (1 << 14) / (x->dim[2] + 1)), run_rows, &k);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *w = infer_shape(c, W);
    const int64_t outputs = shape_count(&c->out[0].shape);
    if (w->rank != 3 || outputs < 0 || !i64_mul(outputs, w->dim[2], &cost->macs))
        cost->macs = -1;
}

/* Each channel by itself. */
static int couple(struct coupling *k, struct err *err)
{
    const struct end per_image[] = {IN(X), IN(PAST), OUT(1)};
    (void)err;
    for (int i = 0; i < 3; i++) {
        couple_axes(k, per_image[i], 0, OUT(0), 0);
        couple_axes(k, per_image[i], 1, OUT(0), 1);
    }
    couple_axes(k, IN(W), 0, OUT(0), 1);
    couple_axes(k, IN(BIAS), 0, OUT(0), 1);
    return 0;
}

OP_CLASS(causal_conv_with_state) = {
    .type = "CausalConvWithState", .domain = "", .since = 27, .doc = "Causal depthwise convolution along time.",
    .in_min = 2, .in_max = 4, .out_min = 1, .out_max = 2,
    .attrs = causal_attrs, .attrs_size = sizeof(struct causal_attrs), .infer = infer, .forward = forward,
    .cost = cost, .couple = couple, .samples = (const struct op_sample[]){{"f32[2,3,6] f32[3,1,4]", "", 2},
                                          {"f32[2,3,2] f32[3,1,4] f32[3] f32[2,3,3]", "activation=silu", 2},
                                          {0}}};
