/* SPDX-License-Identifier: Apache-2.0
 * LSTM with 8-bit weights, domain com.microsoft: the state and the input are quantized to uint8 by their range of the
 * moment, all of X at once, the state of all sequences at each step; sums are exact in int32, everything else is
 * float32 as in LSTM (recurrent.c).
 *   X [T, N, I], W [D, I, 4 H], R [D, H, 4 H] in int8 or uint8 (transposed against LSTM's), B, sequence_lens,
 *   initial_h, initial_c, P as LSTM has them, then scale and zero point of W and of R: [D] or [D, 4 H].
 * Steps beyond the longest sequence do not count for X's range. */
#include <inttypes.h>
#include <string.h>

#include "core/kernels/gemm_i8.h"
#include "core/ops/quantize.h"
#include "core/ops/recurrent.h"

enum { GATES = 4, W_SCALE = 8, W_ZERO, R_SCALE, R_ZERO };

static const char *const directions[] = {"forward", "reverse", "bidirectional", NULL};
static const struct op_attr attrs_table[] = {
    {OP_ATTR(rnn_attrs, direction), .kind = OP_ENUM, .choices = directions},
    {OP_ATTR(rnn_attrs, hidden_size), .kind = OP_INT},
    {OP_ATTR(rnn_attrs, clip), .kind = OP_FLOAT},
    {OP_ATTR(rnn_attrs, activations), .kind = OP_STRINGS},
    {OP_ATTR(rnn_attrs, activation_alpha), .kind = OP_FLOATS},
    {OP_ATTR(rnn_attrs, activation_beta), .kind = OP_FLOATS},
    {OP_ATTR(rnn_attrs, input_forget), .kind = OP_BOOL},
    {NULL}};

/* [D] or [D, columns], one shape for a scale and its zero point; codes and zero point of one type. */
static int check_scale(const struct infer_ctx *c, int codes, int scale, int64_t d, int64_t columns, struct err *err)
{
    static const char *const names[] = {"W_scale", "W_zero_point", "R_scale", "R_zero_point"};
    char text[SHAPE_TEXT];
    if (op_dtype(c, scale) != DTYPE_NONE && op_dtype(c, scale) != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "%s is %s; it must be float32", names[scale - W_SCALE],
                       dtype_name(op_dtype(c, scale)));
    if (quantize_want_8bit(c, codes, err) || quantize_want_8bit(c, scale + 1, err))
        return -1;
    if (op_dtype(c, codes) != DTYPE_NONE && op_dtype(c, scale + 1) != DTYPE_NONE &&
        op_dtype(c, codes) != op_dtype(c, scale + 1))
        return err_set(err, ERR_OPERATOR, "%s is %s but its weight %s", names[scale + 1 - W_SCALE],
                       dtype_name(op_dtype(c, scale + 1)), dtype_name(op_dtype(c, codes)));
    for (int i = scale; i <= scale + 1; i++) {
        const struct shape *s = infer_shape(c, i);
        if (s->rank < 0)
            continue;
        bool fits = (s->rank == 1 || s->rank == 2) && (s->dim[0] < 0 || s->dim[0] == d) &&
                    (s->rank == 1 || s->dim[1] < 0 || columns < 0 || s->dim[1] == columns);
        if (!fits)
            return err_set(err, ERR_SHAPE, "%s is %s; it must be [%" PRId64 "], or have a column for each of the "
                           "gates' units", names[i - W_SCALE], shape_text(s, text), d);
    }
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct rnn_attrs *a = c->attrs;
    const int floats[] = {0, 3, 5, 6, 7};
    if (op_need(c, 3, err))
        return -1;
    for (int i = W_SCALE; i <= R_ZERO; i++)
        if (!infer_has(c, i))
            return err_set(err, ERR_MODEL, "input #%d is missing; scales and zero points of W and R are needed", i);
    for (size_t k = 0; k < sizeof floats / sizeof floats[0]; k++)
        if (op_dtype(c, floats[k]) != DTYPE_NONE && op_dtype(c, floats[k]) != DTYPE_FLOAT)
            return err_set(err, ERR_OPERATOR, "input #%d is %s; it must be float32", floats[k],
                           dtype_name(op_dtype(c, floats[k])));
    const struct shape *x = infer_shape(c, 0), *r = infer_shape(c, 2);
    if (r->rank >= 0 && r->rank != 3)
        return err_set(err, ERR_SHAPE, "R must have 3 dims");
    const int64_t d = a->direction == RNN_BIDIRECTIONAL ? 2 : 1,
                  h = r->rank == 3 ? r->dim[1] : a->hidden_size > 0 ? a->hidden_size : DIM_UNKNOWN,
                  g = dim_mul(GATES, h);
    if (rnn_check_shape(c, 1, "W", SHAPE(d, x->rank == 3 ? x->dim[2] : DIM_UNKNOWN, g), err) ||
        rnn_check_shape(c, 2, "R", SHAPE(d, h, g), err) || check_scale(c, 1, W_SCALE, d, g, err) ||
        check_scale(c, 2, R_SCALE, d, g, err))
        return -1;
    return rnn_infer_outputs(c, rnn_cell_of("LSTM"), DTYPE_FLOAT, h, err);
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *x = infer_shape(c, 0), *w = infer_shape(c, 1), *r = infer_shape(c, 2);
    cost->macs = dim_mul(dim_mul(x->dim[0], x->dim[1]), shape_count(w) + shape_count(r));
}

/* ---- the products ---- */
struct side { /* W or R */
    const struct tensor *codes, *scale;
    int32_t *zero; /* [D] or [D, 4 H] */
    int64_t k;     /* rows: I or H */
    bool columns;  /* a scale for each column */
    bool zeros;    /* a zero point for each column */
};
struct job {
    struct pool *pool;
    struct side w, r;
    int64_t n;            /* columns: 4 H */
    int64_t rows;         /* of X that count */
    uint8_t *bytes[2];    /* by direction: the left side quantized */
    int32_t *sums[2];
};

static void multiply(const struct job *job, const struct side *s, int64_t dir, const float *x, int64_t rows, float *out)
{
    struct q8 param;
    const int64_t n = job->n;
    if (rows == 0 || n == 0)
        return;
    quantize_dynamic(job->pool, x, rows * s->k, job->bytes[dir], &param);
    const int32_t *zero = s->zero + dir * (s->zeros ? n : 1);
    const float *scale = tensor_f32(s->scale) + dir * (s->columns ? n : 1);
    const struct gemm_i8 g = {.m = rows, .n = n, .k = s->k, .lda = s->k, .ldb = n, .ldc = n,
                              .b_signed = s->codes->dtype == DTYPE_INT8, .a_zero = &param.zero, .b_zero = zero,
                              .b_zero_columns = s->zeros};
    gemm_i8(job->pool, &g, job->bytes[dir], (const char *)s->codes->data + dir * s->k * n, job->sums[dir]);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < n; j++)
            out[i * n + j] = (float)job->sums[dir][i * n + j] * (param.scale * scale[s->columns ? j : 0]);
}

static void input_product(void *arg, int64_t dir, const float *x, int64_t rows, float *out)
{
    const struct job *job = arg;
    memset(out, 0, (size_t)(rows * job->n) * sizeof *out);
    multiply(job, &job->w, dir, x, rows < job->rows ? rows : job->rows, out);
}

static void state_product(void *arg, int64_t dir, const float *state, int64_t rows, float *out)
{
    const struct job *job = arg;
    multiply(job, &job->r, dir, state, rows, out);
}

static int read_side(struct run_ctx *c, int codes, int scale, struct side *s, struct err *err)
{
    int64_t count;
    *s = (struct side){.codes = c->in[codes], .scale = c->in[scale], .k = c->in[codes]->shape.dim[1],
                       .columns = c->in[scale]->shape.rank == 2, .zeros = c->in[scale + 1]->shape.rank == 2};
    s->zero = quantize_zeros(c, c->in[scale + 1], &count, err);
    return s->zero ? 0 : -1;
}

/* Steps of X that some sequence reaches, times N; lengths out of range are refused by the run itself. */
static int64_t rows_that_count(const struct run_ctx *c)
{
    const struct shape *x = &c->in[0]->shape;
    const struct tensor *lengths = run_in(c, 4);
    int64_t longest = lengths ? 0 : x->dim[0];
    for (int64_t i = 0; lengths && i < tensor_count(lengths); i++)
        longest = i64_max(longest, ((const int32_t *)lengths->data)[i]);
    return (longest < x->dim[0] ? longest : x->dim[0]) * x->dim[1];
}

static int forward(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer, err))
        return -1;
    const struct rnn_attrs *a = c->attrs;
    const struct shape *x = &c->in[0]->shape, *r = &c->in[2]->shape;
    struct job job = {.pool = c->pool, .n = r->dim[2], .rows = rows_that_count(c)};
    const struct shape in = SHAPE(i64_max(1, x->dim[0]), x->dim[1], i64_max(x->dim[2], r->dim[1])),
                       out = SHAPE(i64_max(1, x->dim[0]), x->dim[1], job.n);
    size_t in_bytes, out_bytes;
    if (!dtype_bytes(DTYPE_UINT8, shape_count(&in), &in_bytes) || !dtype_bytes(DTYPE_INT32, shape_count(&out),
        &out_bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "sums of %" PRId64 " steps are too large", x->dim[0]);
    if (read_side(c, 1, W_SCALE, &job.w, err) || read_side(c, 2, R_SCALE, &job.r, err))
        return -1;
    for (int dir = 0; dir < (a->direction == RNN_BIDIRECTIONAL ? 2 : 1); dir++) {
        job.bytes[dir] = run_scratch(c, in_bytes ? in_bytes : 1, err);
        job.sums[dir] = job.bytes[dir] ? run_scratch(c, out_bytes ? out_bytes : 1, err) : NULL;
        if (!job.sums[dir])
            return -1;
    }
    const struct rnn_products products = {&job, input_product, state_product};
    return rnn_forward_f32(c, rnn_cell_of("LSTM"), r->dim[1], &products, err);
}

static int couple(struct coupling *k, struct err *err)
{
    static const char why[] = "it is quantized by its range, which changes";
    (void)err;
    rnn_couple(k, rnn_cell_of("LSTM"), true);
    for (int i = W_SCALE; i <= R_ZERO; i++)
        couple_strided(k, IN(2), 1, IN(i), 1);
    couple_approximate(k, IN(0), 1, why);
    couple_approximate(k, IN(0), 2, why);
    couple_approximate(k, IN(2), 1, why);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    (void)err;
    rnn_shrink(s, true);
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[3,2,4] !i8[1,4,20] !i8[1,5,20] f32[1,40] none none none none !f32[1]=0.02 !i8[1]=0 !f32[1]=0.02 !i8[1]=0",
     "hidden_size=5", 3, 1},
    {"f32[3,2,4] !u8[2,4,12] !u8[2,3,12] f32[2,24] i32[2]=3,2 f32[2,2,3] f32[2,2,3] f32[2,9] "
     "!f32[2]=0.02,0.03 !u8[2]=3,4 !f32[2]=0.02,0.01 !u8[2]=5,5",
     "hidden_size=3 direction=bidirectional", 3, 1},
    {NULL}};

OP_CLASS(dynamic_quantize_lstm) = {.type = "DynamicQuantizeLSTM",
                                   .domain = "com.microsoft",
                                   .since = 1,
                                   .doc = "LSTM with 8-bit weights; input and state quantized while running.",
                                   .in_min = 12,
                                   .in_max = 12,
                                   .out_min = 0,
                                   .out_max = 3,
                                   .attrs = attrs_table,
                                   .attrs_size = sizeof(struct rnn_attrs),
                                   .infer = infer,
                                   .couple = couple,
                                   .shrink = shrink,
                                   .forward = forward,
                                   .cost = cost,
                                   .samples = samples};
