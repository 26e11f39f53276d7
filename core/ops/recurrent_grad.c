/* SPDX-License-Identifier: Apache-2.0
 * RNN, GRU and LSTM in float64, and backward through time.
 * Way        The forward pass of a direction is run again with everything kept (the trace): sums before and values
 *            after each activation, states before each step. Backward walks the steps from the last, collects dL/d(sum)
 *            of all gates on the side of X and on the side of h, and only then multiplies: four matrix products a
 *            direction besides the one a step that carries dL/dh on.
 * Notation   g gates of h values: sums [gate, h]. Rows are (round, sequence); a sequence that is over in a round has
 *            zero rows, and its state passes through. Formulas: recurrent.c.
 * Types      everything here is double; float32 tensors are converted at the borders. */
#include "core/ops/recurrent.h"

#include <math.h>
#include <string.h>

#include "core/kernels/gemm.h"
#include "core/ops/grad_util.h"

/* ---- activations and their derivatives by the sum, given the sum x and the value y ---- */
static double value_of(const struct rnn_function *f, double x)
{
    const double a = (double)f->alpha, b = (double)f->beta;
    switch (f->kind) {
    case RNN_SIGMOID:
        return 1 / (1 + exp(-x));
    case RNN_TANH:
        return tanh(x);
    case RNN_RELU:
        return x > 0 ? x : 0;
    case RNN_AFFINE:
        return a * x + b;
    case RNN_LEAKY_RELU:
        return x >= 0 ? x : a * x;
    case RNN_THRESHOLDED_RELU:
        return x >= a ? x : 0;
    case RNN_SCALED_TANH:
        return a * tanh(b * x);
    case RNN_HARD_SIGMOID:
        return fmin(fmax(a * x + b, 0), 1);
    case RNN_ELU:
        return x >= 0 ? x : a * expm1(x);
    case RNN_SOFTSIGN:
        return x / (1 + fabs(x));
    default:
        return fmax(x, 0) + log1p(exp(-fabs(x)));
    }
}

static double slope_of(const struct rnn_function *f, double x, double y)
{
    const double a = (double)f->alpha, b = (double)f->beta;
    switch (f->kind) {
    case RNN_SIGMOID:
        return y * (1 - y);
    case RNN_TANH:
        return 1 - y * y;
    case RNN_RELU:
        return x > 0 ? 1 : 0;
    case RNN_AFFINE:
        return a;
    case RNN_LEAKY_RELU:
        return x >= 0 ? 1 : a;
    case RNN_THRESHOLDED_RELU:
        return x >= a ? 1 : 0;
    case RNN_SCALED_TANH:
        return a * b * (1 - tanh(b * x) * tanh(b * x));
    case RNN_HARD_SIGMOID:
        return y > 0 && y < 1 ? a : 0;
    case RNN_ELU:
        return x >= 0 ? 1 : y + a;
    case RNN_SOFTSIGN:
        return 1 / ((1 + fabs(x)) * (1 + fabs(x)));
    default:
        return 1 / (1 + exp(-x));
    }
}

/* ---- one node ---- */
enum { X, W, R, B, LENGTHS, H0, C0, P, INPUTS };
struct net {
    const struct rnn_cell *cell;
    const struct rnn_attrs *a;
    struct pool *pool;
    int64_t t, n, in, h, d, gh; /* gh: sums of all gates */
    const double *input[INPUTS]; /* NULL: absent */
    const int32_t *lengths;
    bool reverse; /* this direction */
    int64_t dir;
    struct rnn_function f[RNN_MAX_FUNCTIONS];
    /* the trace of this direction: rows (round, sequence) */
    double *xw;           /* [(layout's rows), gh] */
    double *hr;           /* [n, gh], of a step */
    double *sum, *gate;   /* [t n, gh] */
    double *before, *mid; /* [t n, h] state before; GRU: what enters the last gate's product, or came out of it */
    double *c_before, *c; /* [t n, h] */
    double *state, *cell_state; /* [n, h], running */
};

static int64_t row_of(const struct net *u, int64_t t, int64_t n)
{
    return u->a->layout ? n * u->t + t : t * u->n + n;
}

static int64_t time_at(const struct net *u, int64_t k, int64_t n)
{
    return rnn_time_of(k, u->lengths ? u->lengths[n] : u->t, u->reverse);
}

/* The place of a state in [d, n, h] or, in layout 1, [n, d, h]. */
static int64_t state_at(const struct net *u, int64_t n)
{
    return (u->a->layout ? n * u->d + u->dir : u->dir * u->n + n) * u->h;
}

static int64_t output_at(const struct net *u, int64_t t, int64_t n)
{
    return (u->a->layout ? (n * u->t + t) * u->d + u->dir : (t * u->d + u->dir) * u->n + n) * u->h;
}

static const double *weights(const struct net *u, int i, int64_t each)
{
    return u->input[i] ? u->input[i] + u->dir * each : NULL;
}

static double clipped(const struct net *u, double x)
{
    const double clip = (double)u->a->clip;
    return clip > 0 ? fmin(fmax(x, -clip), clip) : x;
}

static double act(const struct net *u, int which, double x)
{
    return value_of(&u->f[which], clipped(u, x));
}

static double slope(const struct net *u, int which, double x, double y)
{
    return clipped(u, x) == x ? slope_of(&u->f[which], x, y) : 0;
}

static double bias(const struct net *u, int64_t at)
{
    const double *b = weights(u, B, 2 * u->gh);
    return b ? b[at] : 0;
}

/* c = (or +=) op(a) op(b). */
static void multiply(const struct net *u, bool ta, bool tb, int64_t m, int64_t n, int64_t k, const double *a,
                     int64_t lda, const double *b, double *c, int64_t ldc, bool add)
{
    struct gemm g = gemm_plain(ta, tb, m, n, k);
    g.lda = lda;
    g.ldc = ldc;
    g.beta = add ? 1 : 0;
    if (m && n)
        gemm_f64(u->pool, &g, a, b, c);
}

/* ---- forward, one step of one sequence: `at` is its row ---- */
static double sum_of(const struct net *u, const double *x, const double *hr, int64_t g)
{
    return x[g] + hr[g] + bias(u, g) + bias(u, u->gh + g);
}

static void step_rnn(struct net *u, int64_t at, const double *x, const double *hr, double *state)
{
    for (int64_t j = 0; j < u->h; j++) {
        u->sum[at * u->gh + j] = sum_of(u, x, hr, j);
        state[j] = u->gate[at * u->gh + j] = act(u, 0, u->sum[at * u->gh + j]);
    }
}

static void step_lstm(struct net *u, int64_t at, const double *x, const double *hr, double *state, double *cs)
{
    const int64_t h = u->h;
    const double *p = weights(u, P, 3 * h);
    double *sum = u->sum + at * u->gh, *gate = u->gate + at * u->gh;
    for (int64_t j = 0; j < h; j++) {
        const int64_t i = j, o = h + j, f = 2 * h + j, g = 3 * h + j;
        const double c = cs[j];
        sum[i] = sum_of(u, x, hr, i) + (p ? p[j] * c : 0);
        sum[f] = sum_of(u, x, hr, f) + (p ? p[2 * h + j] * c : 0);
        sum[g] = sum_of(u, x, hr, g);
        gate[i] = act(u, 0, sum[i]);
        gate[f] = u->a->input_forget ? 1 - gate[i] : act(u, 0, sum[f]);
        gate[g] = act(u, 1, sum[g]);
        cs[j] = gate[f] * c + gate[i] * gate[g];
        sum[o] = sum_of(u, x, hr, o) + (p ? p[h + j] * cs[j] : 0);
        gate[o] = act(u, 0, sum[o]);
        state[j] = gate[o] * value_of(&u->f[2], cs[j]);
        u->c[at * h + j] = cs[j];
    }
}

/* Gates z and r; mid takes r h. */
static void gru_gates(struct net *u, int64_t at, const double *x, const double *hr, const double *state)
{
    double *sum = u->sum + at * u->gh, *gate = u->gate + at * u->gh;
    for (int64_t g = 0; g < 2 * u->h; g++) {
        sum[g] = sum_of(u, x, hr, g);
        gate[g] = act(u, 0, sum[g]);
    }
    for (int64_t j = 0; j < u->h; j++)
        u->mid[at * u->h + j] = gate[u->h + j] * state[j];
}

/* rec: h R of the last gate, or (r h) R. */
static void step_gru(struct net *u, int64_t at, const double *x, const double *rec, double *state)
{
    const int64_t h = u->h;
    double *sum = u->sum + at * u->gh, *gate = u->gate + at * u->gh;
    for (int64_t j = 0; j < h; j++) {
        const int64_t g = 2 * h + j;
        const double inner = rec[j] + bias(u, u->gh + g);
        if (u->a->linear_before_reset)
            u->mid[at * h + j] = inner;
        sum[g] = x[g] + bias(u, g) + (u->a->linear_before_reset ? gate[h + j] * inner : inner);
        gate[g] = act(u, 1, sum[g]);
        state[j] = (1 - gate[j]) * gate[g] + gate[j] * state[j];
    }
}

static bool late_reset(const struct net *u)
{
    return u->cell->gru && !u->a->linear_before_reset;
}

/* The whole direction into the trace; y (may be NULL) takes the states. */
static void run_direction(struct net *u, double *y)
{
    const int64_t h = u->h, gh = u->gh, rows = u->t * u->n;
    const double *r = weights(u, R, gh * h);

    memset(u->state, 0, (size_t)(u->n * h) * sizeof(double));
    memset(u->cell_state, 0, (size_t)(u->n * h) * sizeof(double));
    for (int64_t n = 0; n < u->n; n++) {
        if (u->input[H0])
            memcpy(u->state + n * h, u->input[H0] + state_at(u, n), (size_t)h * sizeof(double));
        if (u->input[C0])
            memcpy(u->cell_state + n * h, u->input[C0] + state_at(u, n), (size_t)h * sizeof(double));
    }
    multiply(u, false, true, rows, gh, u->in, u->input[X], u->in, weights(u, W, gh * u->in), u->xw, gh, false);
    for (int64_t k = 0; k < u->t; k++) {
        const int64_t gates = late_reset(u) ? 2 * h : gh;
        double *mid = u->mid + k * u->n * h;
        memcpy(u->before + k * u->n * h, u->state, (size_t)(u->n * h) * sizeof(double));
        memcpy(u->c_before + k * u->n * h, u->cell_state, (size_t)(u->n * h) * sizeof(double));
        multiply(u, false, true, u->n, gates, h, u->state, h, r, u->hr, gh, false);
        for (int64_t n = 0; n < u->n && u->cell->gru; n++)
            if (time_at(u, k, n) >= 0)
                gru_gates(u, k * u->n + n, u->xw + row_of(u, time_at(u, k, n), n) * gh, u->hr + n * gh,
                          u->state + n * h);
        if (late_reset(u))
            multiply(u, false, true, u->n, h, h, mid, h, r + 2 * h * h, u->hr + 2 * h, gh, false);
        for (int64_t n = 0; n < u->n; n++) {
            const int64_t t = time_at(u, k, n), at = k * u->n + n;
            if (t < 0)
                continue;
            const double *x = u->xw + row_of(u, t, n) * gh, *hr = u->hr + n * gh;
            if (u->cell->gru)
                step_gru(u, at, x, hr + 2 * h, u->state + n * h);
            else if (u->cell->has_c)
                step_lstm(u, at, x, hr, u->state + n * h, u->cell_state + n * h);
            else
                step_rnn(u, at, x, hr, u->state + n * h);
            if (y)
                memcpy(y + output_at(u, t, n), u->state + n * h, (size_t)h * sizeof(double));
        }
    }
}

/* ---- memory ---- */
static double *doubles(const struct op_memory *m, int64_t count, struct err *err)
{
    size_t bytes;
    if (count < 0 || !size_mul((size_t)count, sizeof(double), &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the gates of all steps have too many values");
        return NULL;
    }
    double *data = op_memory(m, bytes + 1, err);
    if (data)
        memset(data, 0, bytes);
    return data;
}

/* A tensor's values as doubles; NULL stays NULL. */
static int load(const struct op_memory *m, const struct tensor *t, const double **out, struct err *err)
{
    *out = NULL;
    if (!t)
        return 0;
    double *copy = t->dtype == DTYPE_DOUBLE ? t->data : doubles(m, tensor_count(t), err);
    if (!copy)
        return t->dtype == DTYPE_DOUBLE && tensor_count(t) == 0 ? 0 : -1;
    if (t->dtype != DTYPE_DOUBLE)
        dtype_convert(DTYPE_DOUBLE, copy, t->dtype, t->data, tensor_count(t));
    *out = copy;
    return 0;
}

static int start(struct net *u, const struct op_memory *m, const struct node *node, const void *attrs,
                 const struct tensor *const *in, int n_in, struct err *err)
{
    *u = (struct net){.cell = rnn_cell_of(node->op_type), .a = attrs};
    for (int i = 0; i < n_in && i < INPUTS; i++)
        if (i != LENGTHS && load(m, in[i], &u->input[i], err) < 0)
            return -1;
    const struct shape *x = &in[X]->shape;
    u->lengths = n_in > LENGTHS && in[LENGTHS] ? in[LENGTHS]->data : NULL;
    u->t = x->dim[u->a->layout ? 1 : 0];
    u->n = x->dim[u->a->layout ? 0 : 1];
    u->in = x->dim[2];
    u->h = in[R]->shape.dim[2];
    u->d = u->a->direction == RNN_BIDIRECTIONAL ? 2 : 1;
    u->gh = u->cell->gates * u->h;
    int64_t rows, sums;
    if (!i64_mul(u->t, u->n, &rows) || !i64_mul(rows, u->gh, &sums))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the gates of all steps have too many values");
    double **const wide[] = {&u->xw, &u->sum, &u->gate}, **const narrow[] = {&u->before, &u->mid, &u->c_before, &u->c},
           **const one[] = {&u->state, &u->cell_state};
    for (size_t i = 0; i < 3; i++)
        if (!(*wide[i] = doubles(m, sums, err)))
            return -1;
    for (size_t i = 0; i < 4; i++)
        if (!(*narrow[i] = doubles(m, rows * u->h, err)))
            return -1;
    for (size_t i = 0; i < 2; i++)
        if (!(*one[i] = doubles(m, u->n * u->h, err)))
            return -1;
    u->hr = doubles(m, u->n * u->gh, err);
    return u->hr ? 0 : -1;
}

static int choose_direction(struct net *u, int64_t dir, struct err *err)
{
    u->dir = dir;
    u->reverse = u->a->direction == RNN_REVERSE || dir == 1;
    return rnn_functions(u->cell, u->a, dir, u->f, err);
}

int rnn_forward_f64(struct run_ctx *c, struct err *err)
{
    const struct op_memory memory = {.run = c};
    struct tensor *y = run_out(c, 0), *yh = run_out(c, 1), *yc = run_out(c, 2);
    struct net u;

    if (start(&u, &memory, c->node, c->attrs, c->in, c->n_in, err) < 0)
        return -1;
    u.pool = c->pool;
    if (y && y->bytes)
        memset(y->data, 0, y->bytes);
    for (int64_t dir = 0; dir < u.d; dir++) {
        if (choose_direction(&u, dir, err) < 0)
            return -1;
        run_direction(&u, y ? y->data : NULL);
        for (int64_t n = 0; n < u.n; n++) {
            if (yh)
                memcpy((double *)yh->data + state_at(&u, n), u.state + n * u.h, (size_t)u.h * sizeof(double));
            if (yc)
                memcpy((double *)yc->data + state_at(&u, n), u.cell_state + n * u.h, (size_t)u.h * sizeof(double));
        }
    }
    return 0;
}

/* ---- backward ---- */
struct back {
    struct net u;
    const double *gy, *gh, *gc; /* of Y, Y_h, Y_c; NULL: none */
    double *d[INPUTS];          /* dL/d(input); NULL: not wanted */
    double *dx, *dhr;           /* [t n, gh] dL/d(sums) of this direction: on X's side by X's rows, on h's by rounds */
    double *dh, *dc;            /* [n, h] flowing back */
    double *dmid;               /* [n, h] GRU: dL/d(r h) */
};

static void back_rnn(struct back *b, int64_t at, double *dx, double *dhr, double *dh)
{
    const struct net *u = &b->u;
    for (int64_t j = 0; j < u->h; j++) {
        dx[j] = dhr[j] = dh[j] * slope(u, 0, u->sum[at * u->gh + j], u->gate[at * u->gh + j]);
        dh[j] = 0; /* the product adds what goes on */
    }
}

static void back_lstm(struct back *b, int64_t at, double *dx, double *dhr, double *dh, double *dc)
{
    const struct net *u = &b->u;
    const int64_t h = u->h;
    const double *p = weights(u, P, 3 * h), *sum = u->sum + at * u->gh, *gate = u->gate + at * u->gh;
    double *dp = b->d[P] ? b->d[P] + u->dir * 3 * h : NULL;
    for (int64_t j = 0; j < h; j++) {
        const int64_t i = j, o = h + j, f = 2 * h + j, g = 3 * h + j;
        const double c = u->c[at * h + j], old = u->c_before[at * h + j], hc = value_of(&u->f[2], c);
        dx[o] = dh[j] * hc * slope(u, 0, sum[o], gate[o]);
        double d = dc[j] + dh[j] * gate[o] * slope_of(&u->f[2], c, hc) + (p ? dx[o] * p[h + j] : 0);
        const double df = d * old, di = d * gate[g] - (u->a->input_forget ? df : 0);
        dx[i] = di * slope(u, 0, sum[i], gate[i]);
        dx[f] = u->a->input_forget ? 0 : df * slope(u, 0, sum[f], gate[f]);
        dx[g] = d * gate[i] * slope(u, 1, sum[g], gate[g]);
        dc[j] = d * gate[f] + (p ? dx[i] * p[j] + dx[f] * p[2 * h + j] : 0);
        if (dp) {
            dp[j] += dx[i] * old;
            dp[h + j] += dx[o] * c;
            dp[2 * h + j] += dx[f] * old;
        }
        dh[j] = 0;
    }
    memcpy(dhr, dx, (size_t)u->gh * sizeof *dx);
}

/* The last gate and z; linear_before_reset: r too. dh keeps what goes straight on. */
static void back_gru(struct back *b, int64_t at, double *dx, double *dhr, double *dh)
{
    const struct net *u = &b->u;
    const int64_t h = u->h;
    const double *sum = u->sum + at * u->gh, *gate = u->gate + at * u->gh, *old = u->before + at * h;
    for (int64_t j = 0; j < h; j++) {
        const int64_t r = h + j, g = 2 * h + j;
        const double z = gate[j];
        dx[j] = dhr[j] = dh[j] * (old[j] - gate[g]) * slope(u, 0, sum[j], z);
        dx[g] = dhr[g] = dh[j] * (1 - z) * slope(u, 1, sum[g], gate[g]);
        dh[j] *= z;
        if (u->a->linear_before_reset) {
            dhr[g] = dx[g] * gate[r];
            dx[r] = dhr[r] = dx[g] * u->mid[at * h + j] * slope(u, 0, sum[r], gate[r]);
        }
    }
}

/* r, from dL/d(r h) = (the last gate's sums) R. */
static void back_reset(struct back *b, int64_t at, const double *dmid, double *dx, double *dhr, double *dh)
{
    const struct net *u = &b->u;
    const int64_t h = u->h;
    for (int64_t j = 0; j < h; j++) {
        const double r = u->gate[at * u->gh + h + j];
        dx[h + j] = dhr[h + j] = dmid[j] * u->before[at * h + j] * slope(u, 0, u->sum[at * u->gh + h + j], r);
        dh[j] += dmid[j] * r;
    }
}

static void back_step(struct back *b, int64_t k)
{
    struct net *u = &b->u;
    const int64_t h = u->h, gh = u->gh;
    const double *r = weights(u, R, gh * h);
    double *dhr = b->dhr + k * u->n * gh;

    for (int64_t n = 0; n < u->n; n++) {
        const int64_t t = time_at(u, k, n), at = k * u->n + n;
        if (t < 0)
            continue;
        double *dx = b->dx + row_of(u, t, n) * gh, *dh = b->dh + n * h;
        for (int64_t j = 0; b->gy && j < h; j++)
            dh[j] += b->gy[output_at(u, t, n) + j];
        if (u->cell->gru)
            back_gru(b, at, dx, dhr + n * gh, dh);
        else if (u->cell->has_c)
            back_lstm(b, at, dx, dhr + n * gh, dh, b->dc + n * h);
        else
            back_rnn(b, at, dx, dhr + n * gh, dh);
    }
    if (late_reset(u)) {
        multiply(u, false, false, u->n, h, h, dhr + 2 * h, gh, r + 2 * h * h, b->dmid, h, false);
        for (int64_t n = 0; n < u->n; n++)
            if (time_at(u, k, n) >= 0)
                back_reset(b, k * u->n + n, b->dmid + n * h, b->dx + row_of(u, time_at(u, k, n), n) * gh, dhr + n * gh,
                           b->dh + n * h);
    }
    multiply(u, false, false, u->n, h, late_reset(u) ? 2 * h : gh, dhr, gh, r, b->dh, h, true);
}

static void add_columns(double *sum, const double *x, int64_t rows, int64_t cols)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < cols; j++)
            sum[j] += x[i * cols + j];
}

/* Weights, biases and X, from the sums' gradients of all steps. */
static void back_products(struct back *b)
{
    struct net *u = &b->u;
    const int64_t h = u->h, gh = u->gh, rows = u->t * u->n, early = late_reset(u) ? 2 * h : gh;
    if (b->d[X])
        multiply(u, false, false, rows, u->in, gh, b->dx, gh, weights(u, W, gh * u->in), b->d[X], u->in, true);
    if (b->d[W])
        multiply(u, true, false, gh, u->in, rows, b->dx, gh, u->input[X], b->d[W] + u->dir * gh * u->in, u->in, true);
    if (b->d[R]) {
        double *dr = b->d[R] + u->dir * gh * h;
        multiply(u, true, false, early, h, rows, b->dhr, gh, u->before, dr, h, true);
        if (late_reset(u))
            multiply(u, true, false, h, h, rows, b->dhr + 2 * h, gh, u->mid, dr + 2 * h * h, h, true);
    }
    if (b->d[B]) {
        add_columns(b->d[B] + u->dir * 2 * gh, b->dx, rows, gh);
        add_columns(b->d[B] + u->dir * 2 * gh + gh, b->dhr, rows, gh);
    }
}

static void back_direction(struct back *b)
{
    struct net *u = &b->u;
    const size_t wide = (size_t)(u->t * u->n * u->gh) * sizeof(double), line = (size_t)u->h * sizeof(double);

    run_direction(u, NULL);
    memset(b->dx, 0, wide);
    memset(b->dhr, 0, wide);
    memset(b->dh, 0, (size_t)u->n * line);
    memset(b->dc, 0, (size_t)u->n * line);
    for (int64_t n = 0; n < u->n; n++) {
        if (b->gh)
            memcpy(b->dh + n * u->h, b->gh + state_at(u, n), line);
        if (b->gc)
            memcpy(b->dc + n * u->h, b->gc + state_at(u, n), line);
    }
    for (int64_t k = u->t - 1; k >= 0; k--)
        back_step(b, k);
    back_products(b);
    for (int64_t n = 0; n < u->n; n++) {
        if (b->d[H0])
            memcpy(b->d[H0] + state_at(u, n), b->dh + n * u->h, line);
        if (b->d[C0])
            memcpy(b->d[C0] + state_at(u, n), b->dc + n * u->h, line);
    }
}

static int back_memory(struct back *b, struct grad_ctx *c, const struct op_memory *m, struct err *err)
{
    const struct net *u = &b->u;
    const double **const grads[] = {&b->gy, &b->gh, &b->gc};
    for (int k = 0; k < 3; k++)
        if (load(m, grad_of(c, k), grads[k], err) < 0)
            return -1;
    for (int i = 0; i < INPUTS; i++)
        if (grad_wanted(c, i) && !(b->d[i] = doubles(m, tensor_count(c->grad_in[i]), err)))
            return -1;
    b->dx = doubles(m, u->t * u->n * u->gh, err);
    b->dhr = b->dx ? doubles(m, u->t * u->n * u->gh, err) : NULL;
    b->dh = b->dhr ? doubles(m, u->n * u->h, err) : NULL;
    b->dc = b->dh ? doubles(m, u->n * u->h, err) : NULL;
    b->dmid = b->dc ? doubles(m, u->n * u->h, err) : NULL;
    return b->dmid ? 0 : -1;
}

int rnn_backward(struct grad_ctx *c, struct err *err)
{
    const struct op_memory memory = {.grad = c};
    struct back b = {0};

    if (!grad_of(c, 0) && !grad_of(c, 1) && !grad_of(c, 2))
        return 0;
    if (grad_type(c->in[X], err) < 0 || start(&b.u, &memory, c->node, c->attrs, c->in, c->n_in, err) < 0 ||
        back_memory(&b, c, &memory, err) < 0)
        return -1;
    b.u.pool = c->pool;
    for (int64_t dir = 0; dir < b.u.d; dir++) {
        if (choose_direction(&b.u, dir, err) < 0)
            return -1;
        back_direction(&b);
    }
    for (int i = 0; i < INPUTS; i++)
        for (int64_t j = 0; b.d[i] && j < tensor_count(c->grad_in[i]); j++)
            dtype_set(c->grad_in[i]->dtype, c->grad_in[i]->data, j,
                      dtype_get(c->grad_in[i]->dtype, c->grad_in[i]->data, j) + b.d[i][j]);
    return 0;
}
