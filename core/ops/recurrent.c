/* SPDX-License-Identifier: Apache-2.0
 * RNN, GRU and LSTM in float32: any direction, sequence lengths, clipping, peepholes, both layouts.
 *   X [T, N, I] (layout 0; [N, T, I] in layout 1), W [D, G H, I], R [D, G H, H], B [D, 2 G H] = Wb then Rb, D
 *     directions, G gates.
 *   RNN   h' = f(x W + h R + b)
 *   GRU   gates z r h: z, r = f(x W + h R + b); n = g(x Wh + (r h) Rh + b), or g(x Wh + Wb + r (h Rh + Rb)) if
 *         linear_before_reset;
 *         h' = (1 - z) n + z h
 *   LSTM  gates i o f c: i, f = f(x W + h R + P c + b); c' = f c + i g(x Wc + h Rc + b); o = f(x Wo + h Ro + Po c' +
 *         b); h' = o h(c')
 * The product of all of X with W is one matrix product, biases added; the one with R is one a step, over a weight that
 * is packed first when several sequences share it. Gates are rows of floats and go through vector code. Steps beyond a
 * sequence's length give zeros in Y and leave the state as it is. Two directions run side by side. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <strings.h>

#include "core/kernels/gemm.h"
#include "core/kernels/gemm_packed.h"
#include "core/kernels/vmath.h"
#include "core/ops/op_util.h"
#include "core/ops/recurrent.h"

static const char *const directions[] = {"forward", "reverse", "bidirectional", NULL};

#define SHARED_ATTRS                                                                                                   \
    {OP_ATTR(rnn_attrs, direction), .kind = OP_ENUM, .choices = directions},                                           \
        {OP_ATTR(rnn_attrs, hidden_size), .kind = OP_INT}, {OP_ATTR(rnn_attrs, layout), .kind = OP_INT},               \
        {OP_ATTR(rnn_attrs, clip), .kind = OP_FLOAT}, {OP_ATTR(rnn_attrs, activations), .kind = OP_STRINGS},           \
        {OP_ATTR(rnn_attrs, activation_alpha), .kind = OP_FLOATS},                                                     \
        {OP_ATTR(rnn_attrs, activation_beta), .kind = OP_FLOATS},                                                      \
    {                                                                                                                  \
        OP_ATTR(rnn_attrs, output_sequence), .kind = OP_BOOL                                                           \
    }
static const struct op_attr rnn_table[] = {SHARED_ATTRS, {NULL}};
static const struct op_attr gru_table[] = {
    SHARED_ATTRS, {OP_ATTR(rnn_attrs, linear_before_reset), .kind = OP_BOOL}, {NULL}};
static const struct op_attr lstm_table[] = {SHARED_ATTRS, {OP_ATTR(rnn_attrs, input_forget), .kind = OP_BOOL}, {NULL}};

/* ---- activations ---- */
struct squash {
    const char *name;
    float (*f)(float x, float alpha, float beta);
    float alpha, beta; /* defaults */
};
static float fn_sigmoid(float x, float a, float b)
{
    (void)a;
    (void)b;
    return 1 / (1 + expf(-x));
}
static float fn_tanh(float x, float a, float b)
{
    (void)a;
    (void)b;
    return tanhf(x);
}
static float fn_relu(float x, float a, float b)
{
    (void)a;
    (void)b;
    return x > 0 ? x : 0;
}
static float fn_affine(float x, float a, float b)
{
    return a * x + b;
}
static float fn_leaky(float x, float a, float b)
{
    (void)b;
    return x >= 0 ? x : a * x;
}
static float fn_thresholded(float x, float a, float b)
{
    (void)b;
    return x >= a ? x : 0;
}
static float fn_scaled_tanh(float x, float a, float b)
{
    return a * tanhf(b * x);
}
static float fn_hard_sigmoid(float x, float a, float b)
{
    return fminf(fmaxf(a * x + b, 0), 1);
}
static float fn_elu(float x, float a, float b)
{
    (void)b;
    return x >= 0 ? x : a * (expf(x) - 1);
}
static float fn_softsign(float x, float a, float b)
{
    (void)a;
    (void)b;
    return x / (1 + fabsf(x));
}
static float fn_softplus(float x, float a, float b)
{
    (void)a;
    (void)b;
    return x > 0 ? x + log1pf(expf(-x)) : log1pf(expf(x));
}
static const struct squash functions[] = {{"Sigmoid", fn_sigmoid, 0, 0},
                                          {"Tanh", fn_tanh, 0, 0},
                                          {"Relu", fn_relu, 0, 0},
                                          {"Affine", fn_affine, 1, 0},
                                          {"LeakyRelu", fn_leaky, 0.01f, 0},
                                          {"ThresholdedRelu", fn_thresholded, 1, 0},
                                          {"ScaledTanh", fn_scaled_tanh, 1, 1},
                                          {"HardSigmoid", fn_hard_sigmoid, 0.2f, 0.5f},
                                          {"Elu", fn_elu, 1, 0},
                                          {"Softsign", fn_softsign, 0, 0},
                                          {"Softplus", fn_softplus, 0, 0}};
_Static_assert(sizeof functions / sizeof functions[0] == RNN_KINDS, "one row a kind");

/* ---- one direction ---- */
static const struct rnn_cell rnn_cell = {1, 1, {RNN_TANH}, false, false},
                             gru_cell = {3, 2, {RNN_SIGMOID, RNN_TANH}, false, true},
                             lstm_cell = {4, 3, {RNN_SIGMOID, RNN_TANH, RNN_TANH}, true, false};

struct run {
    const struct rnn_cell *cell;
    const struct rnn_attrs *a;
    struct pool *pool;
    int64_t t, n, in, h, d; /* sizes */
    struct squash f[RNN_MAX_FUNCTIONS];
    const float *w, *r, *b, *p; /* of this direction; b, p may be NULL */
    float *xw;                  /* [T N, G H] with biases */
    float *bias;                /* [G H] of both products; GRU's h gate without Rb when that is multiplied by r */
    float *packed;              /* r for gemm_packed.h, in the parts that are multiplied at once; NULL: r as it is */
    float *hr;                  /* [N, G H] of this step, then the gates */
    float *state, *c, *reset;   /* [N, H] */
    const struct rnn_products *products; /* NULL: w and r are multiplied here */
    int64_t dir;
};

static void add(float *restrict y, const float *restrict x, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        y[j] += x[j];
}
static void add_product(float *restrict y, const float *restrict a, const float *restrict b, int64_t n)
{
    for (int64_t j = 0; j < n; j++)
        y[j] += a[j] * b[j];
}

static void squash(const struct squash *f, float *x, int64_t n)
{
    if (f->f == fn_sigmoid)
        vmath_f32(VMATH_SIGMOID, x, n, x);
    else if (f->f == fn_tanh)
        vmath_f32(VMATH_TANH, x, n, x);
    else
        for (int64_t j = 0; j < n; j++)
            x[j] = f->f(x[j], f->alpha, f->beta);
}

/* A gate's function over n sums, which are clipped first. */
static void gate(const struct run *u, int which, float *x, int64_t n)
{
    const float most = u->a->clip;
    for (int64_t j = 0; most > 0 && j < n; j++)
        x[j] = x[j] < -most ? -most : x[j] > most ? most : x[j];
    squash(&u->f[which], x, n);
}

/* x: the G H sums of the input and biases for sequence n. */
static void step_rnn(const struct run *u, const float *x, int64_t n)
{
    float *s = u->hr + n * u->h;
    add(s, x, u->h);
    gate(u, 0, s, u->h);
    memcpy(u->state + n * u->h, s, (size_t)u->h * sizeof *s);
}

/* c' = f c + i g; g's place gets a copy */
static void next_cell(float *restrict c, float *restrict g, const float *restrict f, const float *restrict i, int64_t h)
{
    for (int64_t j = 0; j < h; j++) {
        c[j] = f[j] * c[j] + i[j] * g[j];
        g[j] = c[j];
    }
}

static void step_lstm(const struct run *u, const float *x, int64_t n)
{
    const int64_t h = u->h;
    const float *p = u->p;
    float *i = u->hr + n * 4 * h, *o = i + h, *f = i + 2 * h, *g = i + 3 * h, *c = u->c + n * h,
          *state = u->state + n * h;

    add(i, x, 4 * h);
    if (p) {
        add_product(i, p, c, h);
        add_product(f, p + 2 * h, c, h);
    }
    gate(u, 0, i, h);
    for (int64_t j = 0; u->a->input_forget && j < h; j++)
        f[j] = 1 - i[j];
    if (!u->a->input_forget)
        gate(u, 0, f, h);
    gate(u, 1, g, h);
    next_cell(c, g, f, i, h);
    if (p)
        add_product(o, p + h, c, h);
    gate(u, 0, o, h);
    squash(&u->f[2], g, h);
    for (int64_t j = 0; j < h; j++)
        state[j] = o[j] * g[j];
}

/* z and r in hr's place, and r h for the second product. */
static void gru_gates(const struct run *u, const float *x, int64_t n)
{
    const int64_t h = u->h;
    float *z = u->hr + n * 3 * h, *r = z + h, *reset = u->reset + n * h;
    const float *state = u->state + n * h;
    add(z, x, 2 * h);
    gate(u, 0, z, 2 * h);
    for (int64_t j = 0; j < h; j++)
        reset[j] = r[j] * state[j];
}

static void step_gru(const struct run *u, const float *x, int64_t n)
{
    const int64_t h = u->h;
    float *z = u->hr + n * 3 * h, *r = z + h, *next = z + 2 * h, *state = u->state + n * h;
    if (u->a->linear_before_reset) {
        const float *b = u->b ? u->b + 5 * h : NULL;
        for (int64_t j = 0; j < h; j++)
            next[j] = r[j] * (next[j] + (b ? b[j] : 0));
    }
    add(next, x + 2 * h, h);
    gate(u, 1, next, h);
    for (int64_t j = 0; j < h; j++)
        state[j] = (1 - z[j]) * next[j] + z[j] * state[j];
}

/* The biases that are added to x W, all at once. */
static void sum_biases(const struct run *u)
{
    const int64_t gh = u->cell->gates * u->h;
    const bool apart = u->cell == &gru_cell && u->a->linear_before_reset;
    for (int64_t j = 0; j < gh; j++)
        u->bias[j] = u->b ? u->b[j] + (apart && j >= 2 * u->h ? 0 : u->b[gh + j]) : 0;
}

/* xw = X W^T + bias */
static void input_product(const struct run *u, const float *x)
{
    enum { FEW = 4 };
    const int64_t gh = u->cell->gates * u->h, rows = u->t * u->n;
    if (rows >= FEW && !u->products) {
        const struct gemm_packed g = {.m = rows,
                                      .n = gh,
                                      .k = u->in,
                                      .a = x,
                                      .a_row = u->in,
                                      .a_col = 1,
                                      .b = u->w,
                                      .b_row = 1,
                                      .b_col = u->in,
                                      .bias = u->bias,
                                      .c = u->xw,
                                      .c_row = gh};
        gemm_packed_f32(u->pool, &g);
        return;
    }
    const struct gemm g = gemm_plain(false, true, rows, gh, u->in);
    if (u->products)
        u->products->input(u->products->arg, u->dir, x, rows, u->xw);
    else
        gemm_f32(u->pool, &g, x, u->w, u->xw);
    for (int64_t i = 0; i < rows; i++)
        add(u->xw + i * gh, u->bias, gh);
}

/* Gates that are multiplied by the state at once; GRU's last one waits for r unless linear_before_reset. */
static int64_t early_gates(const struct run *u)
{
    return u->cell == &gru_cell && !u->a->linear_before_reset ? 2 : u->cell->gates;
}

static int64_t packed_count(const struct run *u)
{
    int64_t early, late;
    if (!gemm_packed_count(u->h, early_gates(u) * u->h, &early) ||
        !gemm_packed_count(u->h, (u->cell->gates - early_gates(u)) * u->h, &late))
        return -1;
    return early + late;
}

static void pack_recurrent(const struct run *u)
{
    int64_t early;
    const int64_t gates = early_gates(u), columns = gates * u->h;
    if (!u->packed || !gemm_packed_count(u->h, columns, &early))
        return;
    gemm_pack_b(u->h, columns, u->r, 1, u->h, 1, u->packed);
    gemm_pack_b(u->h, u->cell->gates * u->h - columns, u->r + columns * u->h, 1, u->h, 1, u->packed + early);
}

static int64_t row_of(const struct run *u, int64_t t, int64_t n)
{
    return u->a->layout ? n * u->t + t : t * u->n + n;
}

int64_t rnn_time_of(int64_t k, int64_t length, bool backward)
{
    return k >= length ? -1 : backward ? length - 1 - k : k;
}

/* hr's columns of the gates [from, from + gates) = state R^T. */
static void product(const struct run *u, const float *state, int64_t from, int64_t gates)
{
    int64_t early = 0;
    if (u->products) {
        u->products->state(u->products->arg, u->dir, state, u->n, u->hr);
        return;
    }
    if (!u->packed) {
        struct gemm g = gemm_plain(false, true, u->n, gates * u->h, u->h);
        g.ldc = u->cell->gates * u->h;
        gemm_f32(u->pool, &g, state, u->r + from * u->h * u->h, u->hr + from * u->h);
        return;
    }
    if (from > 0 && !gemm_packed_count(u->h, from * u->h, &early))
        return;
    const struct gemm_packed g = {.m = u->n,
                                  .n = gates * u->h,
                                  .k = u->h,
                                  .a = state,
                                  .a_row = u->h,
                                  .a_col = 1,
                                  .b = u->packed + early,
                                  .packed = true,
                                  .c = u->hr + from * u->h,
                                  .c_row = u->cell->gates * u->h};
    gemm_packed_f32(u->pool, &g);
}

static void run_direction(const struct run *u, bool backward, const int32_t *lengths, float *y, int64_t dir)
{
    int64_t gh = u->cell->gates * u->h;
    const bool gru = u->cell == &gru_cell, late = early_gates(u) < u->cell->gates;
    for (int64_t k = 0; k < u->t; k++) {
        product(u, u->state, 0, early_gates(u));
        for (int64_t n = 0; n < u->n && gru; n++) {
            int64_t t = rnn_time_of(k, lengths ? lengths[n] : u->t, backward);
            if (t >= 0)
                gru_gates(u, u->xw + row_of(u, t, n) * gh, n);
        }
        if (late)
            product(u, u->reset, 2, 1);
        for (int64_t n = 0; n < u->n; n++) {
            int64_t t = rnn_time_of(k, lengths ? lengths[n] : u->t, backward);
            if (t < 0)
                continue;
            const float *x = u->xw + row_of(u, t, n) * gh;
            (gru ? step_gru : u->cell->has_c ? step_lstm : step_rnn)(u, x, n);
            int64_t at = u->a->layout ? (n * u->t + t) * u->d + dir : (t * u->d + dir) * u->n + n;
            if (y)
                memcpy(y + at * u->h, u->state + n * u->h, (size_t)u->h * sizeof(float));
        }
    }
}

/* ---- inference ---- */
const struct rnn_cell *rnn_cell_of(const char *type)
{
    return !strcmp(type, "LSTM") ? &lstm_cell : !strcmp(type, "GRU") ? &gru_cell : &rnn_cell;
}

static int64_t n_directions(const struct rnn_attrs *a)
{
    return a->direction == RNN_BIDIRECTIONAL ? 2 : 1;
}

int rnn_check_shape(const struct infer_ctx *c, int i, const char *what, struct shape want, struct err *err)
{
    char x[SHAPE_TEXT], y[SHAPE_TEXT];
    if (!infer_has(c, i) || infer_shape(c, i)->rank < 0)
        return 0;
    const struct shape *s = infer_shape(c, i);
    bool fits = s->rank == want.rank;
    for (int d = 0; fits && d < s->rank; d++)
        fits = s->dim[d] < 0 || want.dim[d] < 0 || s->dim[d] == want.dim[d];
    return fits ? 0 : err_set(err, ERR_SHAPE, "%s is %s, must be %s", what, shape_text(s, x), shape_text(&want, y));
}

/* All but the weights. */
static int check_inputs(const struct infer_ctx *c, const struct rnn_cell *cell, int64_t n, int64_t h, struct err *err)
{
    const struct rnn_attrs *a = c->attrs;
    int64_t d = n_directions(a), g = dim_mul(cell->gates, h);
    struct shape state = a->layout ? SHAPE(n, d, h) : SHAPE(d, n, h);
    if (rnn_check_shape(c, 3, "B", SHAPE(d, dim_mul(2, g)), err) ||
        rnn_check_shape(c, 4, "sequence_lens", SHAPE(n), err) || rnn_check_shape(c, 5, "initial_h", state, err))
        return -1;
    return cell->has_c && (rnn_check_shape(c, 6, "initial_c", state, err) ||
                           rnn_check_shape(c, 7, "P", SHAPE(d, dim_mul(3, h)), err))
               ? -1
               : 0;
}

int rnn_infer_outputs(struct infer_ctx *c, const struct rnn_cell *cell, enum dtype dtype, int64_t h, struct err *err)
{
    const struct rnn_attrs *a = c->attrs;
    if (op_dtype(c, 4) != DTYPE_NONE && op_dtype(c, 4) != DTYPE_INT32)
        return err_set(err, ERR_SHAPE, "sequence_lens must be int32");
    if (a->layout < 0 || a->layout > 1 || a->hidden_size < 0)
        return err_set(err, ERR_MODEL,
                       "layout is %" PRId64 " and hidden_size %" PRId64 "; 0 or 1, and a size, are allowed", a->layout,
                       a->hidden_size);
    const struct shape *x = infer_shape(c, 0);
    if (x->rank >= 0 && x->rank != 3)
        return err_set(err, ERR_SHAPE, "X must have 3 dims");
    int64_t t = x->rank == 3 ? x->dim[a->layout ? 1 : 0] : DIM_UNKNOWN,
            n = x->rank == 3 ? x->dim[a->layout ? 0 : 1] : DIM_UNKNOWN, d = n_directions(a);
    if (check_inputs(c, cell, n, h, err))
        return -1;
    struct shape y = a->layout ? SHAPE(n, t, d, h) : SHAPE(t, d, n, h),
                 last = a->layout ? SHAPE(n, d, h) : SHAPE(d, n, h);
    infer_out(c, 0, dtype, &y);
    for (int i = 1; i < c->n_out; i++)
        infer_out(c, i, dtype, &last);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct rnn_attrs *a = c->attrs;
    const struct rnn_cell *cell = rnn_cell_of(c->node->op_type);
    const int floats[] = {0, 1, 2, 3, 5, 6, 7};
    if (op_need(c, 3, err))
        return -1;
    enum dtype dtype = DTYPE_NONE; /* of the first that is known */
    for (size_t k = 0; k < sizeof floats / sizeof floats[0]; k++) {
        const enum dtype own = op_dtype(c, floats[k]);
        dtype = dtype == DTYPE_NONE ? own : dtype;
        if (own != dtype && own != DTYPE_NONE)
            return err_set(err, ERR_OPERATOR, "input %d is %s but another %s; all must be float32, or all float64",
                           floats[k], dtype_name(own), dtype_name(dtype));
    }
    if (dtype != DTYPE_NONE && dtype != DTYPE_FLOAT && dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "the inputs are %s; float32 and float64 are computed", dtype_name(dtype));
    const struct shape *x = infer_shape(c, 0), *r = infer_shape(c, 2);
    if (r->rank >= 0 && r->rank != 3)
        return err_set(err, ERR_SHAPE, "R must have 3 dims");
    int64_t h = r->rank == 3 ? r->dim[2] : a->hidden_size ? a->hidden_size : DIM_UNKNOWN, d = n_directions(a);
    int64_t g = dim_mul(cell->gates, h);
    if (rnn_check_shape(c, 1, "W", SHAPE(d, g, x->rank == 3 ? x->dim[2] : DIM_UNKNOWN), err) ||
        rnn_check_shape(c, 2, "R", SHAPE(d, g, h), err))
        return -1;
    return rnn_infer_outputs(c, cell, dtype, h, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *x = infer_shape(c, 0), *w = infer_shape(c, 1), *r = infer_shape(c, 2);
    cost->macs = dim_mul(dim_mul(x->dim[0], x->dim[1]), shape_count(w) + shape_count(r));
}

/* ---- forward ---- */
int rnn_functions(const struct rnn_cell *cell, const struct rnn_attrs *a, int64_t dir,
                  struct rnn_function f[RNN_MAX_FUNCTIONS], struct err *err)
{
    for (int i = 0; i < cell->n_functions; i++) {
        int at = (int)dir * cell->n_functions + i, kind = cell->defaults[i];
        if (at < a->activations.count) {
            const struct attr_string *name = &a->activations.at[at];
            kind = 0;
            while (kind < RNN_KINDS && strcasecmp(functions[kind].name, name->data))
                kind++;
            if (kind == RNN_KINDS)
                return err_set(err, ERR_OPERATOR, "activation '%s' is not known", name->data);
        }
        f[i] = (struct rnn_function){kind, functions[kind].alpha, functions[kind].beta};
        if (at < a->activation_alpha.count)
            f[i].alpha = a->activation_alpha.at[at];
        if (at < a->activation_beta.count)
            f[i].beta = a->activation_beta.at[at];
    }
    return 0;
}

static int choose_functions(struct run *u, int64_t dir, struct err *err)
{
    struct rnn_function chosen[RNN_MAX_FUNCTIONS];
    if (rnn_functions(u->cell, u->a, dir, chosen, err))
        return -1;
    for (int i = 0; i < u->cell->n_functions; i++) {
        u->f[i] = functions[chosen[i].kind];
        u->f[i].alpha = chosen[i].alpha;
        u->f[i].beta = chosen[i].beta;
    }
    return 0;
}

static int check_lengths(const struct tensor *t, int64_t steps, struct err *err)
{
    for (int64_t i = 0; t && i < tensor_count(t); i++)
        if (((const int32_t *)t->data)[i] < 0 || ((const int32_t *)t->data)[i] > steps)
            return err_set(err, ERR_MODEL, "sequence_lens[%" PRId64 "] is %" PRId32 ", X has %" PRId64 " steps", i,
                           ((const int32_t *)t->data)[i], steps);
    return 0;
}

/* Rows [N, H] of one direction between a dense buffer and the layout of the states. */
static void copy_state(const struct run *u, float *dense, float *stored, int64_t dir, bool load)
{
    for (int64_t n = 0; n < u->n; n++) {
        float *at = stored + (u->a->layout ? n * u->d + dir : dir * u->n + n) * u->h, *mine = dense + n * u->h;
        memcpy(load ? mine : at, load ? at : mine, (size_t)u->h * sizeof(float));
    }
}

static const float *weights_of(const struct tensor *t, int64_t dir, int64_t each)
{
    return t ? tensor_f32(t) + dir * each : NULL;
}

/* Sizes of the scratch of one direction, in floats. */
struct parts {
    int64_t xw, bias, packed, hr, state, total;
};

static bool parts_of(const struct run *u, struct parts *p)
{
    enum { UNIT = 16 }; /* floats: parts start on cache lines */
    const struct shape sums = SHAPE(u->t, u->n, u->cell->gates, u->h), step = SHAPE(u->n, u->cell->gates, u->h),
                       state = SHAPE(u->n, u->h);
    *p = (struct parts){
        shape_count(&sums), u->cell->gates * u->h, u->n > 1 && u->t > 1 && !u->products ? packed_count(u) : 0,
        shape_count(&step), shape_count(&state),   0};
    int64_t *const each[] = {&p->xw, &p->bias, &p->packed, &p->hr, &p->state};
    for (size_t i = 0; i < sizeof each / sizeof each[0]; i++) {
        if (*each[i] < 0 || *each[i] > INT64_MAX / 64)
            return false;
        *each[i] = i64_ceil_div(*each[i], UNIT) * UNIT;
        if (!i64_add(p->total, *each[i], &p->total))
            return false;
    }
    return i64_add(p->total, 2 * p->state, &p->total); /* state, c, reset */
}

static void place(struct run *u, const struct parts *p, float *scratch)
{
    u->xw = scratch;
    u->bias = u->xw + p->xw;
    u->packed = p->packed ? u->bias + p->bias : NULL;
    u->hr = u->bias + p->bias + p->packed;
    u->state = u->hr + p->hr;
    u->c = u->state + p->state;
    u->reset = u->c + p->state;
}

/* What the task of a direction needs. */
struct job {
    struct run_ctx *c;
    struct run run[2];
};

static void run_one(void *arg, int64_t dir, int lane)
{
    const struct job *job = arg;
    struct run_ctx *c = job->c;
    const struct run *u = &job->run[dir];
    const struct tensor *lens = run_in(c, 4), *h0 = run_in(c, 5), *c0 = u->cell->has_c ? run_in(c, 6) : NULL;
    struct tensor *y = run_out(c, 0), *yh = run_out(c, 1), *yc = u->cell->has_c ? run_out(c, 2) : NULL;
    const size_t state_bytes = (size_t)(u->n * u->h) * sizeof(float);

    (void)lane;
    memset(u->state, 0, state_bytes);
    memset(u->c, 0, state_bytes);
    memset(u->reset, 0, state_bytes);
    if (h0)
        copy_state(u, u->state, tensor_f32(h0), dir, true);
    if (c0)
        copy_state(u, u->c, tensor_f32(c0), dir, true);
    sum_biases(u);
    pack_recurrent(u);
    input_product(u, tensor_f32(c->in[0]));
    run_direction(u, u->a->direction == RNN_REVERSE || dir == 1, lens ? lens->data : NULL, y ? tensor_f32(y) : NULL,
                  dir);
    if (yh)
        copy_state(u, u->state, tensor_f32(yh), dir, false);
    if (yc)
        copy_state(u, u->c, tensor_f32(yc), dir, false);
}

static int prepare(struct run_ctx *c, struct run *u, int64_t dir, struct err *err)
{
    const int64_t gh = u->cell->gates * u->h;
    u->dir = dir;
    u->w = u->products ? NULL : weights_of(c->in[1], dir, gh * u->in);
    u->r = u->products ? NULL : weights_of(c->in[2], dir, gh * u->h);
    u->b = weights_of(run_in(c, 3), dir, 2 * gh);
    u->p = u->cell->has_c ? weights_of(run_in(c, 7), dir, 3 * u->h) : NULL;
    return choose_functions(u, dir, err);
}

int rnn_forward_f32(struct run_ctx *c, const struct rnn_cell *cell, int64_t hidden, const struct rnn_products *products,
                    struct err *err)
{
    enum { SMALL = 1 << 16 };
    const struct rnn_attrs *a = c->attrs;
    const struct shape *x = &c->in[0]->shape;
    const struct run u = {.cell = cell,
                          .a = a,
                          .pool = c->pool,
                          .t = x->dim[a->layout ? 1 : 0],
                          .n = x->dim[a->layout ? 0 : 1],
                          .in = x->dim[2],
                          .h = hidden,
                          .d = n_directions(a),
                          .products = products};
    struct job job = {c, {u, u}};
    struct parts parts;
    size_t bytes;
    if (!parts_of(&u, &parts) || !dtype_bytes(DTYPE_FLOAT, parts.total, &bytes) || !size_mul(bytes, 2, &(size_t){0}))
        return err_set(err, ERR_MODEL_TOO_LARGE, "sums of %" PRId64 " steps are too large", u.t);
    if (check_lengths(run_in(c, 4), u.t, err))
        return -1;
    float *scratch = run_scratch(c, bytes * (size_t)u.d, err);
    if (!scratch)
        return -1;
    if (run_out(c, 0) && run_out(c, 0)->bytes)
        memset(run_out(c, 0)->data, 0, run_out(c, 0)->bytes);
    for (int64_t dir = 0; dir < u.d; dir++) {
        place(&job.run[dir], &parts, scratch + dir * parts.total);
        if (prepare(c, &job.run[dir], dir, err))
            return -1;
    }
    const double macs = (double)u.t * (double)u.n * (double)(u.cell->gates * u.h) * (double)(u.h + u.in);
    if (u.d == 1)
        run_one(&job, 0, 0);
    else
        pool_run(macs < SMALL ? NULL : c->pool, u.d, run_one, &job);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err))
        return -1;
    const struct rnn_attrs *a = c->attrs;
    if (c->in[0]->dtype == DTYPE_DOUBLE)
        return check_lengths(run_in(c, 4), c->in[0]->shape.dim[a->layout ? 1 : 0], err) ? -1 : rnn_forward_f64(c, err);
    return rnn_forward_f32(c, rnn_cell_of(c->node->op_type), c->in[2]->shape.dim[2], NULL, err);
}

/* ---- coupling ---- */
/* A hidden unit is its place in every gate of W, R, B and P (of both directions), and what others read of it in R. */
void rnn_couple(struct coupling *k, const struct rnn_cell *cell, bool transposed)
{
    const struct rnn_attrs *a = couple_attrs(k);
    const int gates = transposed ? 2 : 1, inner = transposed ? 1 : 2, batch = a->layout ? 0 : 1;
    const struct end unit = IN(2);

    couple_axes(k, IN(0), 2, IN(1), inner);
    couple_role(k, IN(0), 2, COUPLE_CONSUMES);
    couple_role(k, IN(1), inner, COUPLE_CONSUMES);
    couple_role(k, unit, inner, COUPLE_CONSUMES);
    couple_role(k, unit, gates, COUPLE_PRODUCES);
    couple_role(k, IN(1), gates, COUPLE_PRODUCES);
    couple_strided(k, unit, inner, IN(1), gates);
    couple_strided(k, unit, inner, unit, gates);
    couple_strided(k, unit, inner, IN(3), 1);
    couple_axes(k, unit, inner, IN(5), 2);
    if (cell->has_c) {
        couple_axes(k, unit, inner, IN(6), 2);
        couple_strided(k, unit, inner, IN(7), 1);
    }
    couple_axes(k, unit, inner, OUT(0), 3);
    couple_axes(k, unit, inner, OUT(1), 2);
    couple_axes(k, unit, inner, OUT(2), 2);
    couple_axes(k, IN(0), batch, IN(4), 0);
    couple_axes(k, IN(0), batch, OUT(0), a->layout ? 0 : 2);
    for (int i = 1; i < 3; i++) {
        couple_axes(k, IN(0), batch, IN(4 + i), batch);
        couple_axes(k, IN(0), batch, OUT(i), batch);
    }
}

void rnn_shrink(struct shrink *s, bool transposed)
{
    const int inner = transposed ? 1 : 2;
    if (((const struct rnn_attrs *)s->infer->attrs)->hidden_size > 0 && shrink_touched(s, IN(2), inner))
        node_set_int(s->model, s->node, "hidden_size", shrink_size(s, IN(2), inner));
}

static int couple(struct coupling *k, struct err *err)
{
    (void)err;
    rnn_couple(k, rnn_cell_of(k->infer->node->op_type), false);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    (void)err;
    rnn_shrink(s, false);
    return 0;
}

static const struct op_sample lstm_samples[] = {
    {"f32[3,2,4] f32[1,20,4] f32[1,20,5] f32[1,40]", "hidden_size=5", 3, 0},
    {"f32[3,2,4] f32[2,12,4] f32[2,12,3] f32[2,24] i32[2]=3,2 f32[2,2,3] f32[2,2,3] f32[2,9]",
     "hidden_size=3 direction=bidirectional", 3, 0},
    {"f32[3,2,4] f32[1,12,4] f32[1,12,3] none none f32[1,2,3]", "hidden_size=3 direction=reverse input_forget=1", 3, 0},
    {"f32[2,3,4] f32[1,12,4] f32[1,12,3] none none none f32[2,1,3]", "hidden_size=3 layout=1", 3, 14},
    {"f32[3,1,2] f32[1,8,2] f32[1,8,2]", "hidden_size=2 clip=0.8 activations=HardSigmoid,Softsign,Softplus", 1, 0},
    {"f64[3,1,2] f64[1,8,2] f64[1,8,2]", "hidden_size=2", 1, 0},
    {NULL}};
static const struct op_sample gru_samples[] = {
    {"f32[3,2,4] f32[1,15,4] f32[1,15,5] f32[1,30]", "hidden_size=5", 2, 0},
    {"f32[3,2,4] f32[2,9,4] f32[2,9,3] f32[2,18] i32[2]=3,1 f32[2,2,3]",
     "hidden_size=3 direction=bidirectional linear_before_reset=1", 2, 0},
    {"f32[2,3,4] f32[1,9,4] f32[1,9,3] f32[1,18]", "direction=reverse layout=1", 2, 14},
    {NULL}};
static const struct op_sample rnn_samples[] = {{"f32[3,2,4] f32[1,5,4] f32[1,5,5] f32[1,10]", "hidden_size=5", 2, 0},
                                               {"f32[3,2,4] f32[2,3,4] f32[2,3,3] f32[2,6] i32[2]=2,3 f32[2,2,3]",
                                                "hidden_size=3 direction=bidirectional activations=Tanh,Elu", 2, 0},
                                               {NULL}};

#define RECURRENT(table, most_in, most_out, text, cases)                                                               \
    .domain = "", .since = 7, .doc = text, .in_min = 3, .in_max = most_in, .out_min = 0, .out_max = most_out,          \
    .attrs = table, .attrs_size = sizeof(struct rnn_attrs), .infer = infer, .forward = forward, .cost = cost,          \
    .couple = couple, .shrink = shrink, .backward = rnn_backward, .grad_reads = 0xff, .grad_inputs = 0xef,             \
    .samples = cases

OP_CLASS(rnn) = {.type = "RNN", RECURRENT(rnn_table, 6, 2, "Simple recurrent network.", rnn_samples)};
OP_CLASS(gru) = {.type = "GRU", RECURRENT(gru_table, 6, 2, "Gated recurrent unit.", gru_samples)};
OP_CLASS(lstm) = {.type = "LSTM", RECURRENT(lstm_table, 8, 3, "Long short-term memory.", lstm_samples)};
