/* SPDX-License-Identifier: Apache-2.0
 * Gemm: Y = alpha * op(A) op(B) + beta * C.
 * Shapes     op(A) [M, K], op(B) [K, N], C broadcasts to [M, N]. Before opset 7, C broadcasts only with attribute
 *            broadcast = 1; from 11 on, C may be absent. */
#include "core/kernels/gemm.h"

#include <inttypes.h>
#include <string.h>

#include "core/ops/product_coupling.h"
#include "core/ops/widen.h"

struct gemm_attrs {
    float alpha, beta;
    bool transA, transB, broadcast;
};

#define GEMM_ATTRS                                                                                                     \
    {OP_ATTR(gemm_attrs, alpha), .kind = OP_FLOAT, .def_f = 1},                                                        \
        {OP_ATTR(gemm_attrs, beta), .kind = OP_FLOAT, .def_f = 1}, {OP_ATTR(gemm_attrs, transA), .kind = OP_BOOL},     \
    {                                                                                                                  \
        OP_ATTR(gemm_attrs, transB), .kind = OP_BOOL                                                                   \
    }

static const struct op_attr gemm_attrs_1[] = {GEMM_ATTRS, {OP_ATTR(gemm_attrs, broadcast), .kind = OP_BOOL}, {NULL}};
static const struct op_attr gemm_attrs_7[] = {GEMM_ATTRS, {NULL}};

static int matrix_dims(const struct infer_ctx *c, int i, bool trans, int64_t *rows, int64_t *cols, struct err *err)
{
    const struct shape *s = infer_shape(c, i);
    char text[SHAPE_TEXT];

    *rows = *cols = DIM_UNKNOWN;
    if (s->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    if (s->rank != 2)
        return err_set(err, ERR_SHAPE, "input #%d has shape %s; it must be a matrix", i, shape_text(s, text));
    *rows = s->dim[trans ? 1 : 0];
    *cols = s->dim[trans ? 0 : 1];
    return 0;
}

/* C must broadcast to the output, one way. */
static int check_addend(const struct infer_ctx *c, const struct shape *out, struct err *err)
{
    const struct gemm_attrs *a = c->attrs;
    char want[SHAPE_TEXT], got[SHAPE_TEXT];

    if (!infer_has(c, 2) || infer_shape(c, 2)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const struct shape *s = infer_shape(c, 2);
    bool fits = s->rank <= 2;
    for (int i = 1; fits && i <= s->rank; i++) {
        const int64_t d = s->dim[s->rank - i], o = out->dim[2 - i];
        fits = d == o || d < 0 || o < 0 || d == 1;
        if (c->opset < 7 && !a->broadcast && d >= 0 && o >= 0 && d != o)
            fits = false;
    }
    if (!fits)
        return err_set(err, ERR_SHAPE, "C has shape %s; it must broadcast to the product's %s", shape_text(s, got),
                       shape_text(out, want));
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct gemm_attrs *a = c->attrs;
    enum dtype dtype;
    int64_t m, k, k2, n;

    if (op_need(c, c->opset < 11 ? 3 : 2, err) < 0 || op_same_dtype(c, 0, 3, &dtype, err) < 0 ||
        op_dtype_kinds(c, 0, "fiu", err) < 0 || matrix_dims(c, 0, a->transA, &m, &k, err) < 0 ||
        matrix_dims(c, 1, a->transB, &k2, &n, err) < 0)
        return -1;
    if (k >= 0 && k2 >= 0 && k != k2)
        return err_set(err, ERR_SHAPE,
                       "A has %" PRId64 " columns but B has %" PRId64
                       " rows (after transA and transB); they must be equal",
                       k, k2);
    const struct shape out = SHAPE(m, n);
    if (check_addend(c, &out, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &out);
    return 0;
}

/* y [m, n] = C broadcast; elem 4 or 8. */
static void spread(void *y, const struct tensor *addend, int64_t m, int64_t n, size_t elem)
{
    const struct shape *s = &addend->shape;
    const int64_t rows = s->rank == 2 ? s->dim[0] : 1, cols = s->rank >= 1 ? s->dim[s->rank - 1] : 1;

    for (int64_t i = 0; i < m; i++) {
        const char *src = (const char *)addend->data + (size_t)((rows == 1 ? 0 : i) * cols) * elem;
        char *row = (char *)y + (size_t)(i * n) * elem;
        if (cols == 1)
            op_fill(row, src, elem, n);
        else
            memcpy(row, src, (size_t)n * elem);
    }
}

/* Integer matrices (allowed by the standard, rare): loops in 64-bit wrap-around arithmetic, scaled in double. */
static int compute_integers(struct run_ctx *c, const struct gemm *g, struct err *err)
{
    const struct tensor *a = c->in[0], *b = c->in[1], *addend = run_in(c, 2);
    struct tensor *y = c->out[0];

    if (dtype_is_float(y->dtype))
        return err_set(err, ERR_OPERATOR, "Gemm of %s is not supported", dtype_name(y->dtype));
    for (int64_t i = 0; i < g->m; i++) {
        for (int64_t j = 0; j < g->n; j++) {
            uint64_t sum = 0;
            for (int64_t p = 0; p < g->k; p++)
                sum += (uint64_t)dtype_get_i64(a->dtype, a->data, g->trans_a ? p * g->lda + i : i * g->lda + p) *
                       (uint64_t)dtype_get_i64(b->dtype, b->data, g->trans_b ? j * g->ldb + p : p * g->ldb + j);
            double value = g->alpha * (double)(int64_t)sum;
            if (addend) {
                const struct shape *s = &addend->shape;
                const int64_t cols = s->rank >= 1 ? s->dim[s->rank - 1] : 1, rows = s->rank == 2 ? s->dim[0] : 1;
                value +=
                    g->beta * dtype_get(addend->dtype, addend->data, (rows == 1 ? 0 : i) * cols + (cols == 1 ? 0 : j));
            }
            dtype_set(y->dtype, y->data, i * g->n + j, value);
        }
    }
    return 0;
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct gemm_attrs *attrs = c->attrs;
    const struct tensor *a = c->in[0], *b = c->in[1], *addend = run_in(c, 2);
    struct tensor *y = run_out(c, 0);

    if (!y || tensor_count(y) == 0)
        return 0;
    struct gemm g =
        gemm_plain(attrs->transA, attrs->transB, y->shape.dim[0], y->shape.dim[1], a->shape.dim[attrs->transA ? 0 : 1]);
    g.alpha = (double)attrs->alpha;
    g.beta = addend ? (double)attrs->beta : 0;
    if (y->dtype != DTYPE_FLOAT && y->dtype != DTYPE_DOUBLE)
        return compute_integers(c, &g, err);
    if (g.beta != 0)
        spread(y->data, addend, g.m, g.n, y->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double));
    if (y->dtype == DTYPE_FLOAT)
        gemm_f32(c->pool, &g, a->data, b->data, y->data);
    else
        gemm_f64(c->pool, &g, a->data, b->data, y->data);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- backward: dA = alpha dY op(B)^T, dB = alpha op(A)^T dY (transposed where A, B are stored so), dC = beta dY
 * summed ---- */
static void multiply(struct grad_ctx *c, struct gemm g, const struct tensor *a, const struct tensor *b, int input)
{
    const struct tensor *out = grad_wanted(c, input);

    g.alpha = (double)((const struct gemm_attrs *)c->attrs)->alpha;
    g.beta = c->assign[input] ? 0 : 1;
    if (out->dtype == DTYPE_FLOAT)
        gemm_f32(c->pool, &g, a->data, b->data, out->data);
    else
        gemm_f64(c->pool, &g, a->data, b->data, out->data);
}

struct addend_sum {
    const struct tensor *dy;
    struct tensor *dc;
    int64_t m, n, rows, cols;
    double beta;
    bool add;
};

enum { SUM_WIDTH = 64 };

/* Columns [begin, end) of dC, or (one column) rows of it: each value is a sum over a row, a column, everything or
 * itself. */
static void sum_columns(void *arg, int64_t begin, int64_t end)
{
    const struct addend_sum *k = arg;
    double sum[SUM_WIDTH];
    const int64_t width = k->cols == 1 ? k->n : 1, height = k->rows == 1 ? k->m : 1;

    for (int64_t at = begin; at < end; at += SUM_WIDTH) {
        const int64_t count = i64_min(SUM_WIDTH, end - at);
        for (int64_t j = 0; j < count; j++)
            sum[j] = 0;
        for (int64_t h = 0; h < height; h++)
            for (int64_t j = 0; j < count; j++) {
                const int64_t row = (at + j) / k->cols + h, col = (at + j) % k->cols;
                for (int64_t w = 0; w < width; w++)
                    sum[j] += k->dy->dtype == DTYPE_FLOAT ? (double)((const float *)k->dy->data)[row * k->n + col + w]
                                                          : ((const double *)k->dy->data)[row * k->n + col + w];
            }
        for (int64_t j = 0; j < count; j++) {
            const double v = k->beta * sum[j];
            if (k->dc->dtype == DTYPE_FLOAT)
                ((float *)k->dc->data)[at + j] = (float)(v + (k->add ? (double)((float *)k->dc->data)[at + j] : 0));
            else
                ((double *)k->dc->data)[at + j] = v + (k->add ? ((double *)k->dc->data)[at + j] : 0);
        }
    }
}

static void back_addend(struct grad_ctx *c, const struct tensor *dy)
{
    struct tensor *dc = c->grad_in[2];
    const struct shape *s = &dc->shape;
    struct addend_sum k = {.dy = dy, .dc = dc, .m = dy->shape.dim[0], .n = dy->shape.dim[1],
                           .rows = s->rank == 2 ? s->dim[0] : 1, .cols = s->rank >= 1 ? s->dim[s->rank - 1] : 1,
                           .beta = (double)((const struct gemm_attrs *)c->attrs)->beta, .add = !c->assign[2]};
    op_parallel(c->pool, k.rows * k.cols, SUM_WIDTH, sum_columns, &k);
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct gemm_attrs *t = c->attrs;
    const struct tensor *dy = grad_of(c, 0), *a = c->in[0], *b = c->in[1];
    (void)err;

    if (!dy)
        return 0;
    const int64_t m = dy->shape.dim[0], n = dy->shape.dim[1], k = a->shape.dim[t->transA ? 0 : 1];
    if (grad_wanted(c, 0) && !t->transA)
        multiply(c, gemm_plain(false, !t->transB, m, k, n), dy, b, 0);
    else if (grad_wanted(c, 0))
        multiply(c, gemm_plain(t->transB, true, k, m, n), b, dy, 0);
    if (grad_wanted(c, 1) && !t->transB)
        multiply(c, gemm_plain(!t->transA, false, k, n, m), a, dy, 1);
    else if (grad_wanted(c, 1))
        multiply(c, gemm_plain(true, t->transA, n, k, m), dy, a, 1);
    if (grad_wanted(c, 2))
        back_addend(c, dy);
    return 0;
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct gemm_attrs *a = c->attrs;
    const int64_t k = infer_shape(c, 0)->dim[a->transA ? 0 : 1], outputs = shape_count(&c->out[0].shape);

    if (k < 0 || outputs < 0 || !i64_mul(k, outputs, &cost->macs))
        cost->macs = -1;
}

/* Output channels of B [K, N], or [N, K] when transposed. */
static int channel_axis(const void *attrs, int rank)
{
    (void)rank;
    return ((const struct gemm_attrs *)attrs)->transB ? 0 : 1;
}

static int couple(struct coupling *k, struct err *err)
{
    const struct gemm_attrs *a = couple_attrs(k);
    (void)err;
    couple_matmul(k, (struct couple_operand){IN(0), a->transA, false},
                  (struct couple_operand){IN(1), a->transB, false});
    couple_broadcast(k, IN(2), OUT(0));
    return 0;
}

static const struct op_sample gemm_1_samples[] = {{"f32[3,5] !f32[5,4] f32[3,4]", "alpha=0.5f beta=2f"},
                                                  {"f32[3,5] !f32[4,5] !f32[4]", "transB=1 broadcast=1"},
                                                  {NULL}};
static const struct op_sample gemm_samples[] = {
    {"f32[3,5] !f32[5,4] !f32[4]", NULL},
    {"f32[3,5] !f32[4,5] !f32[4]", "transB=1 alpha=0.5f beta=2f"},
    {"f32[5,3] !f32[4,5] f32[3,1]", "transA=1 transB=1"},
    {"f32[1,50] !f32[50,20] !f32[20]", NULL},
    {"f32[40,64] !f32[64,48]", NULL},
    {"f64[3,5] !f64[5,4] f64[3,4]", "beta=0.25f"},
    {NULL},
};

#define GEMM_ROW                                                                                                       \
    .type = "Gemm", .domain = "", .doc = "General matrix product: alpha * op(A) op(B) + beta * C.", .out_min = 1,      \
    .out_max = 1, .attrs_size = sizeof(struct gemm_attrs), .infer = infer, .forward = forward, .cost = cost,           \
    .couple = couple,                                                                                                  \
    .backward = backward, .grad_reads = GRAD_READS_IN(0) | GRAD_READS_IN(1), .grad_assigns = true, .grad_inputs = 7u,  \
    .quant = {QUANT_COMPUTE, .weight = 1, .bias = 2, .channel_axis = 1, .channel_axis_of = channel_axis}

OP_CLASS(gemm_1) = {
    GEMM_ROW, .since = 1, .until = 6, .in_min = 3, .in_max = 3, .attrs = gemm_attrs_1, .samples = gemm_1_samples};
OP_CLASS(gemm_7) = {GEMM_ROW, .since = 7, .in_min = 2, .in_max = 3, .attrs = gemm_attrs_7, .samples = gemm_samples};
