/* SPDX-License-Identifier: Apache-2.0
 * Operators on matrices and sequences inside a tensor: Trilu, ReverseSequence, Det.
 *   Trilu: the upper (or lower) triangle of the last two axes from diagonal k on; zero elsewhere.
 *   ReverseSequence: the first sequence_lens[b] steps of each sequence in reverse.
 *   Det: determinants of square matrices, by elimination with row pivoting in double. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"

/* ---- Trilu ---- */
struct trilu_attrs {
    bool upper;
};
static const struct op_attr trilu_attrs[] = {{OP_ATTR(trilu_attrs, upper), .kind = OP_BOOL, .def = 1}, {0}};

static int infer_trilu(struct infer_ctx *c, struct err *err)
{
    int64_t k;
    int count;
    if (op_need(c, 1, err) < 0)
        return -1;
    if (infer_shape(c, 0)->rank >= 0 && infer_shape(c, 0)->rank < 2)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must have two or more", infer_shape(c, 0)->rank);
    if (op_value(c, 1) && (op_read_ints(op_value(c, 1), "k", &k, 1, &count, err) < 0 || count != 1))
        return err_set(err, ERR_MODEL, "k must be one integer");
    return op_infer_same(c, err);
}

/* Upper keeps col >= row + k, lower col <= row + k; edge is row + k. */
static void kept_columns(const struct trilu_attrs *attrs, int64_t edge, int64_t cols, int64_t *from, int64_t *to)
{
    *from = attrs->upper ? i64_max(0, edge) : 0;
    *to = attrs->upper ? cols : i64_min(cols, edge + 1);
}

static int forward_trilu(struct run_ctx *c, struct err *err)
{
    const struct trilu_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_trilu, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    int64_t rows = x->shape.dim[x->shape.rank - 2], cols = x->shape.dim[x->shape.rank - 1];
    int64_t k = run_in(c, 1) ? op_index_at(c->in[1], 0) : 0;
    k = i64_max(-rows - 1, i64_min(cols + 1, k));
    memset(y->data, 0, (size_t)tensor_count(y) * elem);
    for (int64_t r = 0; r < tensor_count(y) / cols; r++) {
        int64_t from, to;
        kept_columns(attrs, r % rows + k, cols, &from, &to);
        if (to > from)
            memcpy((char *)y->data + (size_t)(r * cols + from) * elem,
                   (const char *)x->data + (size_t)(r * cols + from) * elem, (size_t)(to - from) * elem);
    }
    return 0;
}

static int backward_trilu(struct grad_ctx *c, struct err *err)
{
    const struct trilu_attrs *attrs = c->attrs;
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    if (!g || !dst || tensor_count(dst) == 0)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    const int64_t rows = dst->shape.dim[dst->shape.rank - 2], cols = dst->shape.dim[dst->shape.rank - 1];
    int64_t k = c->n_in > 1 && c->in[1] ? op_index_at(c->in[1], 0) : 0, from, to;
    k = i64_max(-rows - 1, i64_min(cols + 1, k));
    for (int64_t r = 0; r < tensor_count(dst) / cols; r++) {
        kept_columns(attrs, r % rows + k, cols, &from, &to);
        grad_add_run(dst, r * cols + from, g, r * cols + from, to - from);
    }
    return 0;
}

OP_CLASS(trilu) = {.type = "Trilu",
                   .domain = "",
                   .since = 14,
                   .doc = "The upper or lower triangle of matrices.",
                   .in_min = 1,
                   .in_max = 2,
                   .out_min = 1,
                   .out_max = 1,
                   .attrs = trilu_attrs,
                   .attrs_size = sizeof(struct trilu_attrs),
                   .infer = infer_trilu,
                   .forward = forward_trilu,
                   .couple = couple_matrices,
                   .backward = backward_trilu,
                   .grad_reads = GRAD_READS_IN(1),
                   .grad_inputs = 1,
                   .samples = (const struct op_sample[]){{"f32[3,4]", ""},
                                                         {"f32[2,3,3]", "upper=0"},
                                                         {"f32[4,5] !i64[]=1", ""},
                                                         {"f32[4,5] i64[]=-2", "upper=0"},
                                                         {"i64[3,3] !i64[]=7", ""},
                                                         {0}}};

OP_CLASS(ms_trilu) = {.type = "Trilu",
                      .domain = "com.microsoft",
                      .since = 1,
                      .doc = "The upper or lower triangle of matrices.",
                      .in_min = 1,
                      .in_max = 2,
                      .out_min = 1,
                      .out_max = 1,
                      .attrs = trilu_attrs,
                      .attrs_size = sizeof(struct trilu_attrs),
                      .infer = infer_trilu,
                      .forward = forward_trilu,
                   .couple = couple_matrices,
                      .backward = backward_trilu,
                      .grad_reads = GRAD_READS_IN(1),
                      .grad_inputs = 1,
                      .samples = (const struct op_sample[]){{"f32[3,4] i64[]=1", ""}, {"f32[4,3,3]", "upper=0"}, {0}}};

/* ---- ReverseSequence ---- */
struct reverse_attrs {
    int64_t batch_axis, time_axis;
};
static const struct op_attr reverse_attrs[] = {{OP_ATTR(reverse_attrs, batch_axis), .kind = OP_INT, .def = 1},
                                               {OP_ATTR(reverse_attrs, time_axis), .kind = OP_INT},
                                               {0}};

static int infer_reverse(struct infer_ctx *c, struct err *err)
{
    const struct reverse_attrs *attrs = c->attrs;
    if (op_need(c, 2, err) < 0)
        return -1;
    if (op_dtype(c, 1) != DTYPE_NONE && op_dtype(c, 1) != DTYPE_INT64)
        return err_set(err, ERR_MODEL, "sequence_lens is %s; it must be int64", dtype_name(op_dtype(c, 1)));
    bool fit = (attrs->batch_axis == 0 && attrs->time_axis == 1) || (attrs->batch_axis == 1 && attrs->time_axis == 0);
    if (!fit)
        return err_set(err, ERR_MODEL,
                       "batch_axis and time_axis are %" PRId64 " and %" PRId64 "; they must be 0 and 1 or 1 and 0",
                       attrs->batch_axis, attrs->time_axis);
    const struct shape *x = infer_shape(c, 0), *lens = infer_shape(c, 1);
    if (x->rank >= 0 && x->rank < 2)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must have two or more", x->rank);
    if (x->rank >= 0 && shape_known(lens) && x->dim[attrs->batch_axis] >= 0 &&
        (lens->rank != 1 || lens->dim[0] != x->dim[attrs->batch_axis]))
        return err_set(err, ERR_SHAPE, "sequence_lens must have one element for each of %" PRId64 " sequences",
                       x->dim[attrs->batch_axis]);
    return op_infer_same(c, err);
}

struct sequences {
    const int64_t *length;
    int64_t batch, steps;
    bool batch_first;
};

static struct sequences sequences_of(const struct reverse_attrs *attrs, const struct tensor *lens,
                                     const struct shape *x)
{
    return (struct sequences){tensor_i64(lens), x->dim[attrs->batch_axis], x->dim[attrs->time_axis],
                              attrs->batch_axis == 0};
}

static int check_lengths(const struct sequences *q, struct err *err)
{
    for (int64_t b = 0; b < q->batch; b++)
        if (q->length[b] < 0 || q->length[b] > q->steps)
            return err_set(err, ERR_MODEL,
                           "sequence %" PRId64 " has length %" PRId64 "; it must be in [0, %" PRId64 "]", b,
                           q->length[b], q->steps);
    return 0;
}

/* The place in x that place i of y takes; places are (sequence, step) or (step, sequence). */
static int64_t source_of(const struct sequences *q, int64_t i)
{
    const int64_t b = q->batch_first ? i / q->steps : i % q->batch, t = q->batch_first ? i % q->steps : i / q->batch;
    const int64_t from = t < q->length[b] ? q->length[b] - 1 - t : t;
    return q->batch_first ? b * q->steps + from : from * q->batch + b;
}

static int forward_reverse(struct run_ctx *c, struct err *err)
{
    const struct reverse_attrs *attrs = c->attrs;
    if (op_outputs(c, infer_reverse, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    const size_t bytes = (size_t)shape_product(&x->shape, 2, x->shape.rank) * elem;
    const struct sequences q = sequences_of(attrs, c->in[1], &x->shape);
    if (check_lengths(&q, err) < 0)
        return -1;
    for (int64_t i = 0; i < q.batch * q.steps; i++)
        memcpy((char *)y->data + (size_t)i * bytes, (const char *)x->data + (size_t)source_of(&q, i) * bytes, bytes);
    return 0;
}

static int backward_reverse(struct grad_ctx *c, struct err *err)
{
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    if (!g || !dst || tensor_count(dst) == 0)
        return 0;
    const struct sequences q = sequences_of(c->attrs, c->in[1], &dst->shape);
    const int64_t n = shape_product(&dst->shape, 2, dst->shape.rank);
    if (grad_type(dst, err) < 0 || check_lengths(&q, err) < 0)
        return -1;
    for (int64_t i = 0; i < q.batch * q.steps; i++)
        grad_add_run(dst, source_of(&q, i) * n, g, i * n, n);
    return 0;
}

static int couple_reverse(struct coupling *k, struct err *err)
{
    const struct reverse_attrs *attrs = couple_attrs(k);
    (void)err;
    couple_along(k, IN(0), OUT(0), (int)attrs->time_axis, "it is turned around");
    couple_axes(k, IN(1), 0, OUT(0), (int)attrs->batch_axis);
    return 0;
}

OP_CLASS(reverse_sequence) = {
    .type = "ReverseSequence",
    .domain = "",
    .since = 10,
    .doc = "The start of each sequence in reverse.",
    .in_min = 2,
    .in_max = 2,
    .out_min = 1,
    .out_max = 1,
    .attrs = reverse_attrs,
    .attrs_size = sizeof(struct reverse_attrs),
    .infer = infer_reverse,
    .forward = forward_reverse,
    .couple = couple_reverse,
    .backward = backward_reverse,
    .grad_reads = GRAD_READS_IN(1),
    .grad_inputs = 1,
    .samples = (const struct op_sample[]){
        {"f32[4,3] i64[3]=4,0,2", ""}, {"f32[3,4,2] !i64[3]=1,2,3", "batch_axis=0 time_axis=1"}, {0}}};

/* ---- Det ---- */
static int infer_det(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    if (out.rank >= 0) {
        int64_t rows = out.rank >= 2 ? out.dim[out.rank - 2] : -1, cols = out.rank >= 2 ? out.dim[out.rank - 1] : -1;
        if (out.rank < 2 || (rows >= 0 && cols >= 0 && rows != cols))
            return err_set(err, ERR_SHAPE, "the input must be square matrices");
        out.rank -= 2;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static double determinant(double *a, int64_t n)
{
    double det = 1;
    for (int64_t k = 0; k < n; k++) {
        int64_t pivot = k;
        for (int64_t r = k + 1; r < n; r++)
            if (fabs(a[r * n + k]) > fabs(a[pivot * n + k]))
                pivot = r;
        if (a[pivot * n + k] == 0)
            return 0;
        for (int64_t j = 0; pivot != k && j < n; j++) {
            double swap = a[k * n + j];
            a[k * n + j] = a[pivot * n + j];
            a[pivot * n + j] = swap;
        }
        det *= pivot != k ? -a[k * n + k] : a[k * n + k];
        for (int64_t r = k + 1; r < n; r++) {
            double factor = a[r * n + k] / a[k * n + k];
            for (int64_t j = k; j < n; j++)
                a[r * n + j] -= factor * a[k * n + j];
        }
    }
    return det;
}

static int forward_det(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_det, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    int64_t n = x->shape.dim[x->shape.rank - 1], count = tensor_count(y);
    size_t bytes;
    if (!size_mul((size_t)(n * n), sizeof(double), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the matrices are too large");
    double *a = run_scratch(c, bytes + 8, err);
    if (!a)
        return -1;
    for (int64_t i = 0; i < count; i++) {
        for (int64_t k = 0; k < n * n; k++)
            a[k] = dtype_get(x->dtype, x->data, i * n * n + k);
        dtype_set(y->dtype, y->data, i, determinant(a, n));
    }
    return 0;
}

/* det of a without row i and column j, with its sign: the derivative by a[i, j]. Works for singular matrices too. */
static double cofactor(const double *a, int64_t n, int64_t i, int64_t j, double *minor)
{
    int64_t at = 0;
    for (int64_t r = 0; r < n; r++)
        for (int64_t k = 0; k < n; k++)
            if (r != i && k != j)
                minor[at++] = a[r * n + k];
    const double det = determinant(minor, n - 1);
    return (i + j) % 2 ? -det : det;
}

static int backward_det(struct grad_ctx *c, struct err *err)
{
    const struct tensor *x = c->in[0], *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);
    size_t bytes;
    if (!g || !dst || tensor_count(dst) == 0)
        return 0;
    const int64_t n = x->shape.dim[x->shape.rank - 1];
    if (!size_mul((size_t)(n * n), 2 * sizeof(double), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the matrices are too large");
    double *a = grad_type(dst, err) < 0 ? NULL : grad_scratch(c, bytes, err);
    if (!a)
        return -1;
    for (int64_t m = 0; m < tensor_count(g); m++) {
        const double by = dtype_get(g->dtype, g->data, m);
        for (int64_t k = 0; k < n * n; k++)
            a[k] = dtype_get(x->dtype, x->data, m * n * n + k);
        for (int64_t k = 0; k < n * n; k++)
            dtype_set(dst->dtype, dst->data, m * n * n + k, dtype_get(dst->dtype, dst->data, m * n * n + k) +
                                                                by * cofactor(a, n, k / n, k % n, a + n * n));
    }
    return 0;
}

OP_CLASS(det) = {.type = "Det",
                 .domain = "",
                 .since = 11,
                 .doc = "Determinants of square matrices.",
                 .in_min = 1,
                 .in_max = 1,
                 .out_min = 1,
                 .out_max = 1,
                 .infer = infer_det,
                 .forward = forward_det,
                 .backward = backward_det,
                 .grad_reads = GRAD_READS_IN(0),
                 .grad_inputs = 1,
                 .samples = (const struct op_sample[]){{"f32[3,3]", ""}, {"f32[2,4,4]", ""}, {0}}};
