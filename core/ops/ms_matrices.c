/* SPDX-License-Identifier: Apache-2.0
 * Small operators of com.microsoft on matrices and shapes.
 *   Inverse: inverses of square matrices, by elimination with row pivoting in double; a singular one is refused.
 *   CDist: C[i, j] = |A_i - B_j|, euclidean or squared, of the rows of two matrices; differences are summed in double.
 *   ExpandDims: the input with one more axis of size 1. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/widen.h"

/* ---- Inverse ---- */
static int infer_inverse(struct infer_ctx *c, struct err *err)
{
    char text[SHAPE_TEXT];

    if (op_need(c, 1, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    const struct shape *s = infer_shape(c, 0);
    if (s->rank >= 0 && (s->rank < 2 || (s->dim[s->rank - 1] >= 0 && s->dim[s->rank - 2] >= 0 &&
                                         s->dim[s->rank - 1] != s->dim[s->rank - 2])))
        return err_set(err, ERR_SHAPE, "the input has shape %s; its last two axes must be square matrices",
                       shape_text(s, text));
    return op_infer_same(c, err);
}

/* a [n, n] becomes its inverse; work [n, 2n]. False: singular. */
static bool invert(double *work, int64_t n)
{
    const int64_t width = 2 * n;
    for (int64_t k = 0; k < n; k++) {
        int64_t best = k;
        for (int64_t i = k + 1; i < n; i++)
            if (fabs(work[i * width + k]) > fabs(work[best * width + k]))
                best = i;
        const double pivot = work[best * width + k];
        if (pivot == 0)
            return false;
        for (int64_t j = 0; j < width; j++) {
            const double held = work[best * width + j];
            work[best * width + j] = work[k * width + j];
            work[k * width + j] = held / pivot;
        }
        for (int64_t i = 0; i < n; i++) {
            const double factor = work[i * width + k];
            if (i == k || factor == 0)
                continue;
            for (int64_t j = 0; j < width; j++)
                work[i * width + j] -= factor * work[k * width + j];
        }
    }
    return true;
}

static int forward_inverse(struct run_ctx *c, struct err *err)
{
    size_t bytes;

    if (op_outputs(c, infer_inverse, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    const int64_t n = x->shape.dim[x->shape.rank - 1];
    if (!y || tensor_count(y) == 0)
        return 0;
    double *work = size_mul((size_t)(n * n), 2 * sizeof *work, &bytes) ? run_scratch(c, bytes, err) : NULL;
    if (!work)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t m = 0; m < tensor_count(x) / (n * n); m++) {
        for (int64_t i = 0; i < n * n; i++) {
            work[i / n * 2 * n + i % n] = dtype_get(x->dtype, x->data, m * n * n + i);
            work[i / n * 2 * n + n + i % n] = i / n == i % n;
        }
        if (!invert(work, n))
            return err_set(err, ERR_MODEL, "matrix #%" PRId64 " is singular; it has no inverse", m);
        for (int64_t i = 0; i < n * n; i++)
            dtype_set(y->dtype, y->data, m * n * n + i, work[i / n * 2 * n + n + i % n]);
    }
    return 0;
}

OP_CLASS(inverse) = {.type = "Inverse",
                     .domain = "com.microsoft",
                     .since = 1,
                     .doc = "Inverses of square matrices.",
                     .in_min = 1,
                     .in_max = 1,
                     .out_min = 1,
                     .out_max = 1,
                     .infer = infer_inverse,
                     .forward = forward_inverse,
                     .couple = couple_matrices,
                     .samples = (const struct op_sample[]){{"f32[2,3,3]"}, {"f64[4,4]"}, {NULL}}};

/* ---- CDist ---- */
struct cdist_attrs {
    int metric;
};
static const char *const metrics[] = {"sqeuclidean", "euclidean", NULL};
static const struct op_attr cdist_attrs[] = {{OP_ATTR(cdist_attrs, metric), .kind = OP_ENUM, .choices = metrics},
                                             {NULL}};

static int infer_cdist(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    char a_text[SHAPE_TEXT], b_text[SHAPE_TEXT];

    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 2, &dtype, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0)
        return -1;
    const struct shape *a = infer_shape(c, 0), *b = infer_shape(c, 1);
    if ((a->rank >= 0 && a->rank != 2) || (b->rank >= 0 && b->rank != 2) ||
        (a->rank == 2 && b->rank == 2 && a->dim[1] >= 0 && b->dim[1] >= 0 && a->dim[1] != b->dim[1]))
        return err_set(err, ERR_SHAPE,
                       "the inputs have shapes %s and %s; they must be matrices with rows of one length",
                       shape_text(a, a_text), shape_text(b, b_text));
    infer_out(c, 0, dtype, &SHAPE(a->rank == 2 ? a->dim[0] : -1, b->rank == 2 ? b->dim[0] : -1));
    return 0;
}

struct distances {
    const struct tensor *a, *b;
    struct tensor *y;
    bool root;
};

static void distance_rows(void *arg, int64_t begin, int64_t end)
{
    const struct distances *d = arg;
    const int64_t n = d->a->shape.dim[1], columns = d->b->shape.dim[0];
    for (int64_t i = begin; i < end; i++)
        for (int64_t j = 0; j < columns; j++) {
            double sum = 0;
            for (int64_t k = 0; k < n; k++) {
                const double x =
                    dtype_get(d->a->dtype, d->a->data, i * n + k) - dtype_get(d->b->dtype, d->b->data, j * n + k);
                sum += x * x;
            }
            dtype_set(d->y->dtype, d->y->data, i * columns + j, d->root ? sqrt(sum) : sum);
        }
}

static int forward_cdist(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_cdist, err) < 0)
        return -1;
    struct distances d = {c->in[0], c->in[1], run_out(c, 0), ((const struct cdist_attrs *)c->attrs)->metric == 1};
    if (d.y && tensor_count(d.y) > 0)
        op_parallel(c->pool, d.y->shape.dim[0], 8, distance_rows, &d);
    return 0;
}

static void cost_cdist(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *a = infer_shape(c, 0), *b = infer_shape(c, 1);
    const int64_t elements = shape_count(a), rows = b->rank == 2 ? b->dim[0] : -1;
    if (elements < 0 || rows < 0 || !i64_mul(elements, rows, &cost->macs))
        cost->macs = -1;
}

static int couple_cdist(struct coupling *k, struct err *err)
{
    (void)err;
    couple_axes(k, IN(0), 0, OUT(0), 0);
    couple_axes(k, IN(1), 0, OUT(0), 1);
    couple_freeze(k, IN(0), 1, "distances go over it");
    couple_freeze(k, IN(1), 1, "distances go over it");
    return 0;
}

OP_CLASS(cdist) = {
    .type = "CDist",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Distances of the rows of two matrices.",
    .in_min = 2,
    .in_max = 2,
    .out_min = 1,
    .out_max = 1,
    .attrs = cdist_attrs,
    .attrs_size = sizeof(struct cdist_attrs),
    .infer = infer_cdist,
    .forward = forward_cdist,
    .couple = couple_cdist,
    .cost = cost_cdist,
    .samples = (const struct op_sample[]){{"f32[4,5] f32[3,5]"}, {"f64[4,5] f64[3,5]", "metric=euclidean"}, {NULL}}};

/* ---- ExpandDims ---- */
static int infer_expand_dims(struct infer_ctx *c, struct err *err)
{
    const struct tensor *axis = op_value(c, 1);
    struct shape out = SHAPE_UNKNOWN;

    if (op_need(c, 2, err) < 0)
        return -1;
    if (op_dtype(c, 1) != DTYPE_NONE && op_dtype(c, 1) != DTYPE_INT32)
        return err_set(err, ERR_MODEL, "the axis is %s; it must be int32", dtype_name(op_dtype(c, 1)));
    const struct shape *x = infer_shape(c, 0);
    if (axis && x->rank >= 0) {
        if (tensor_count(axis) != 1 || op_rank_fits(x->rank + 1, err) < 0)
            return tensor_count(axis) != 1 ? err_set(err, ERR_MODEL, "the axis must be one number") : -1;
        const int64_t given = ((const int32_t *)axis->data)[0], at = given < 0 ? given + x->rank + 1 : given;
        if (at < 0 || at > x->rank)
            return err_set(err, ERR_MODEL, "the axis is %" PRId64 "; it must be in [%d, %d]", given, -x->rank - 1,
                           x->rank);
        out = *x;
        out.rank++;
        for (int i = x->rank; i > (int)at; i--)
            out.dim[i] = x->dim[i - 1];
        out.dim[at] = 1;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

static int forward_expand_dims(struct run_ctx *c, struct err *err)
{
    return op_copy_whole(c, infer_expand_dims, err);
}

static int couple_expand_dims(struct coupling *k, struct err *err)
{
    (void)err;
    couple_reshaped(k, IN(0), OUT(0));
    return 0;
}

OP_CLASS(expand_dims) = {.type = "ExpandDims",
                         .domain = "com.microsoft",
                         .since = 1,
                         .doc = "One more axis of size 1.",
                         .in_min = 2,
                         .in_max = 2,
                         .out_min = 1,
                         .out_max = 1,
                         .infer = infer_expand_dims,
                         .forward = forward_expand_dims,
                         .couple = couple_expand_dims,
                         .quant = {QUANT_PASS},
                         .samples = (const struct op_sample[]){{"f32[2,3] !i32[]=1"}, {"i64[2,3] i32[]=-1"}, {NULL}}};
