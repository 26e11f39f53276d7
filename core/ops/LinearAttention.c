/* SPDX-License-Identifier: Apache-2.0
 * LinearAttention: attention without softmax, as a recurrence over the steps t with a state S [d_k, d_v] a key head.
 *   gated:  S = exp(g_t) S          (g_t: one number a head, or one a row of S)
 *   delta:  v_t = beta_t (v_t - S^T k_t)
 *   all:    S = S + k_t v_t^T;   o_t = scale S^T q_t
 * Shapes     query [B, T, Nq d_k], key [B, T, Nk d_k], value [B, T, Nk d_v], past_state [B, Nk, d_k, d_v], decay [B,
 *            T, Nk] or [B, T, Nk d_k], beta [B, T, Nk or 1] -> output [B, T, Nq d_v], present_state as past_state.
 *            Query head h reads the state of key head h / (Nq / Nk). Everything is computed in float32. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/attention_common.h"

enum { QUERY, KEY, VALUE, PAST, DECAY, BETA };
enum { LINEAR, GATED, DELTA, GATED_DELTA };
static const char *const rules[] = {"linear", "gated", "delta", "gated_delta", NULL};

struct linear_attrs {
    int64_t chunk_size, kv_num_heads, q_num_heads;
    float scale;
    int update_rule;
};
static const struct op_attr linear_attrs[] = {
    {OP_ATTR(linear_attrs, chunk_size), .kind = OP_INT, .def = 64},
    {OP_ATTR(linear_attrs, kv_num_heads), .kind = OP_INT, .required = true},
    {OP_ATTR(linear_attrs, q_num_heads), .kind = OP_INT, .required = true},
    {OP_ATTR(linear_attrs, scale), .kind = OP_FLOAT},
    {OP_ATTR(linear_attrs, update_rule), .kind = OP_ENUM, .choices = rules, .def = GATED_DELTA},
    {0}};

static bool is_gated(const struct linear_attrs *a)
{
    return a->update_rule == GATED || a->update_rule == GATED_DELTA;
}

static bool is_delta(const struct linear_attrs *a)
{
    return a->update_rule == DELTA || a->update_rule == GATED_DELTA;
}

static int check_rule(const struct infer_ctx *c, struct err *err)
{
    static const char *const names[] = {[DECAY] = "decay", [BETA] = "beta"};
    const struct linear_attrs *a = c->attrs;
    if (a->q_num_heads < 1 || a->kv_num_heads < 1 || a->q_num_heads > 65536 || a->kv_num_heads > 65536 ||
        a->q_num_heads % a->kv_num_heads != 0)
        return err_set(err, ERR_MODEL, "q_num_heads is %" PRId64 " and kv_num_heads %" PRId64
                                       "; the first must be a positive multiple of the second, both up to 65536",
                       a->q_num_heads, a->kv_num_heads);
    for (int i = DECAY; i <= BETA; i++)
        if (infer_has(c, i) != (i == DECAY ? is_gated(a) : is_delta(a)))
            return err_set(err, ERR_MODEL, "input '%s' is %s, but the update rule '%s' %s it", names[i],
                           infer_has(c, i) ? "given" : "missing", rules[a->update_rule],
                           infer_has(c, i) ? "has no use for" : "needs");
    return 0;
}

/* Input i is [batch, steps, one of two widths], where known. */
static int check_rows(const struct infer_ctx *c, int i, int64_t batch, int64_t steps, int64_t width, int64_t or_width,
                      struct err *err)
{
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];
    if (!infer_has(c, i) || infer_shape(c, i)->rank < 0)
        return 0;
    const struct shape *s = infer_shape(c, i), want = SHAPE(batch, steps, width);
    bool fits = s->rank == 3;
    for (int d = 0; fits && d < 3; d++)
        fits = s->dim[d] < 0 || want.dim[d] < 0 || s->dim[d] == want.dim[d] || (d == 2 && s->dim[d] == or_width);
    return fits ? 0
                : err_set(err, ERR_SHAPE, "input #%d has shape %s; it must be %s%s", i, shape_text(s, text),
                          shape_text(&want, want_text),
                          or_width == width ? ""
                          : or_width == 1   ? " (the last may be 1)"
                                            : " (the last may be the heads)");
}

/* Head width: the last axis of input i in `heads` parts; DIM_UNKNOWN. */
static int head_width(const struct infer_ctx *c, int i, int64_t heads, int64_t *width, struct err *err)
{
    const struct shape *s = infer_shape(c, i);
    *width = DIM_UNKNOWN;
    if (s->rank < 0)
        return 0;
    if (s->rank != 3 || (s->dim[2] >= 0 && (s->dim[2] % heads != 0 || s->dim[2] == 0)))
        return err_set(err, ERR_SHAPE, "input #%d must be [batch, steps, width] whose width divides into %" PRId64
                                       " heads", i, heads);
    if (s->dim[2] >= 0)
        *width = s->dim[2] / heads;
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct linear_attrs *a = c->attrs;
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];
    int64_t dk, dv;
    if (op_need(c, 3, err) < 0 || check_rule(c, err) < 0)
        return -1;
    for (int i = 0; i < c->n_in; i++)
        if (c->in[i] && (op_dtype_real(c, i, err) < 0 || op_dtype(c, i) == DTYPE_DOUBLE))
            return err_set(err, ERR_MODEL, "input #%d is double; float32, float16 and bfloat16 are computed", i);
    if (head_width(c, QUERY, a->q_num_heads, &dk, err) < 0 || head_width(c, VALUE, a->kv_num_heads, &dv, err) < 0)
        return -1;
    const struct shape *q = infer_shape(c, QUERY);
    int64_t b = q->rank == 3 ? q->dim[0] : DIM_UNKNOWN, t = q->rank == 3 ? q->dim[1] : DIM_UNKNOWN;
    int64_t width = dim_mul(dk, a->kv_num_heads);
    if (check_rows(c, KEY, b, t, width, width, err) < 0 ||
        check_rows(c, VALUE, b, t, DIM_UNKNOWN, DIM_UNKNOWN, err) < 0 ||
        check_rows(c, DECAY, b, t, width, a->kv_num_heads, err) < 0 ||
        check_rows(c, BETA, b, t, a->kv_num_heads, 1, err) < 0)
        return -1;
    const struct shape state = SHAPE(b, a->kv_num_heads, dk, dv);
    if (infer_has(c, PAST) && shape_known(infer_shape(c, PAST)) && shape_known(&state) &&
        !shape_equal(infer_shape(c, PAST), &state))
        return err_set(err, ERR_SHAPE, "past_state has shape %s; it must be %s",
                       shape_text(infer_shape(c, PAST), text), shape_text(&state, want_text));
    infer_out(c, 0, op_dtype(c, QUERY), &SHAPE(b, t, dim_mul(dv, a->q_num_heads)));
    infer_out(c, 1, infer_has(c, PAST) ? op_dtype(c, PAST) : op_dtype(c, QUERY), &state);
    return 0;
}

struct recurrence {
    const struct linear_attrs *attrs;
    const float *q, *k, *v, *decay, *beta;
    float *state, *out, *row; /* row: [tasks, d_v] */
    int64_t steps, dk, dv, decay_width, beta_width;
    float scale;
};

/* One step of one state. */
static void update(const struct recurrence *r, const float *k, const float *v, const float *g, int64_t g_step,
                   float beta, float *s, float *row)
{
    for (int64_t i = 0; i < r->dk && g; i++) {
        const float keep = expf(g[i * g_step]);
        for (int64_t j = 0; j < r->dv; j++)
            s[i * r->dv + j] *= keep;
    }
    for (int64_t j = 0; j < r->dv; j++)
        row[j] = 0;
    for (int64_t i = 0; i < r->dk && r->beta; i++)
        for (int64_t j = 0; j < r->dv; j++)
            row[j] += s[i * r->dv + j] * k[i];
    for (int64_t j = 0; j < r->dv; j++)
        row[j] = r->beta ? beta * (v[j] - row[j]) : v[j];
    for (int64_t i = 0; i < r->dk; i++)
        for (int64_t j = 0; j < r->dv; j++)
            s[i * r->dv + j] += k[i] * row[j];
}

/* One key head of one batch: all steps, and the query heads that read it. */
static void run_head(void *arg, int64_t task, int lane)
{
    (void)lane;
    const struct recurrence *r = arg;
    const int64_t nk = r->attrs->kv_num_heads, nq = r->attrs->q_num_heads, group = nq / nk;
    const int64_t b = task / nk, h = task % nk;
    float *s = r->state + task * r->dk * r->dv;
    for (int64_t t = 0; t < r->steps; t++) {
        const int64_t at = b * r->steps + t;
        const bool scalar = r->decay_width == nk && r->decay_width != nk * r->dk;
        const float *g = !r->decay ? NULL : r->decay + at * r->decay_width + (scalar ? h : h * r->dk);
        const float beta = r->beta ? r->beta[at * r->beta_width + (r->beta_width == 1 ? 0 : h)] : 0;
        update(r, r->k + (at * nk + h) * r->dk, r->v + (at * nk + h) * r->dv, g, scalar ? 0 : 1, beta, s,
               r->row + task * r->dv);
        for (int64_t n = h * group; n < (h + 1) * group && r->out; n++) {
            const float *q = r->q + (at * nq + n) * r->dk;
            float *o = r->out + (at * nq + n) * r->dv;
            memset(o, 0, (size_t)r->dv * sizeof *o);
            for (int64_t i = 0; i < r->dk; i++)
                for (int64_t j = 0; j < r->dv; j++)
                    o[j] += s[i * r->dv + j] * q[i];
            for (int64_t j = 0; j < r->dv; j++)
                o[j] *= r->scale;
        }
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct linear_attrs *a = c->attrs;
    const struct shape *q = &c->in[QUERY]->shape, *v = &c->in[VALUE]->shape;
    const struct tensor *past = run_in(c, PAST), *decay = run_in(c, DECAY), *beta = run_in(c, BETA);
    struct tensor *y = run_out(c, 0), *present = run_out(c, 1);
    struct recurrence r = {.attrs = a, .q = c->in[QUERY]->data, .k = c->in[KEY]->data, .v = c->in[VALUE]->data,
                           .out = y ? y->data : NULL, .steps = q->dim[1], .dk = q->dim[2] / a->q_num_heads,
                           .dv = v->dim[2] / a->kv_num_heads};
    const int64_t tasks = q->dim[0] * a->kv_num_heads;
    size_t n, bytes, rows;
    if (!size_mul((size_t)tasks, (size_t)(r.dk * r.dv), &n) || !size_mul(n, sizeof(float), &bytes) ||
        !size_mul((size_t)tasks, (size_t)r.dv * sizeof(float), &rows))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the state is too large");
    r.scale = a->scale != 0 ? a->scale : (float)(1 / sqrt((double)r.dk));
    if (decay) {
        r.decay = decay->data;
        r.decay_width = decay->shape.dim[2];
    }
    if (beta) {
        r.beta = beta->data;
        r.beta_width = beta->shape.dim[2];
    }
    r.state = present ? present->data : run_scratch(c, bytes, err);
    r.row = run_scratch(c, rows, err);
    if (!r.row || !r.state)
        return r.row && present ? 0 : -1;
    if (past && bytes)
        memcpy(r.state, past->data, bytes);
    else
        memset(r.state, 0, bytes);
    pool_run(c->pool, tasks, run_head, &r);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* Each position updates the state of every key head and reads it for every query head. */
static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct linear_attrs *a = c->attrs;
    const struct shape *state = &c->out[1].shape, *y = &c->out[0].shape;
    const int64_t rows = y->rank == 3 ? dim_mul(y->dim[0], y->dim[1]) : -1;
    const int64_t cells = state->rank == 4 ? dim_mul(state->dim[2], state->dim[3]) : -1;
    cost->macs = i64_max(dim_mul(dim_mul(rows, cells), dim_add(a->q_num_heads, a->kv_num_heads)), -1);
}

/* ---- coupling: a key head, its state and the query heads that read it ---- */
static struct attention_units units_of(const struct infer_ctx *c, int64_t *dk, int64_t *dv)
{
    const struct linear_attrs *a = c->attrs;
    if (a->kv_num_heads < 1 || a->q_num_heads < 1 || head_width(c, QUERY, a->q_num_heads, dk, NULL) < 0 ||
        head_width(c, VALUE, a->kv_num_heads, dv, NULL) < 0 || *dk < 1 || *dv < 1)
        return (struct attention_units){0};
    return (struct attention_units){a->kv_num_heads, dim_mul(a->q_num_heads / a->kv_num_heads, *dv), 2};
}

static int couple(struct coupling *k, struct err *err)
{
    const struct linear_attrs *a = couple_attrs(k);
    int64_t dk, dv;
    const struct attention_units u = units_of(k->infer, &dk, &dv);
    (void)err;
    if (u.units < 1)
        return 0;
    attention_couple_one(k, &u, OUT(0), 2, u.width);
    attention_couple_one(k, &u, IN(QUERY), 2, dim_mul(a->q_num_heads / a->kv_num_heads, dk));
    attention_couple_one(k, &u, IN(KEY), 2, dk);
    attention_couple_one(k, &u, IN(VALUE), 2, dv);
    attention_couple_one(k, &u, IN(PAST), 1, 1);
    attention_couple_one(k, &u, OUT(1), 1, 1);
    attention_couple_one(k, &u, IN(DECAY), 2, couple_size(k, IN(DECAY), 2) == a->kv_num_heads ? 1 : dk);
    attention_couple_one(k, &u, IN(BETA), 2, 1);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    const struct linear_attrs *a = s->infer->attrs;
    int64_t dk, dv;
    const struct attention_units u = units_of(s->infer, &dk, &dv);
    (void)err;
    if (u.units < 1 || !shrink_touched(s, OUT(0), 2))
        return 0;
    const int64_t left = attention_units_left(s, &u);
    node_set_int(s->model, s->node, "q_num_heads", left * (a->q_num_heads / a->kv_num_heads));
    node_set_int(s->model, s->node, "kv_num_heads", left);
    return 0;
}

OP_CLASS(linear_attention) = {
    .type = "LinearAttention", .domain = "", .since = 27,
    .doc = "Attention without softmax, as a recurrence with a state.",
    .in_min = 3, .in_max = 6, .out_min = 1, .out_max = 2,
    .attrs = linear_attrs, .attrs_size = sizeof(struct linear_attrs), .infer = infer, .forward = forward,
    .cost = cost, .couple = couple, .shrink = shrink, .samples = (const struct op_sample[]){
        {"f32[2,5,8] f32[2,5,8] f32[2,5,6]", "q_num_heads=2 kv_num_heads=2 update_rule=linear", 2},
        {"f32[2,5,16] f32[2,5,8] f32[2,5,6] f32[2,2,4,3] f32[2,5,8] f32[2,5,2]", "q_num_heads=4 kv_num_heads=2", 2},
        {0}}};
