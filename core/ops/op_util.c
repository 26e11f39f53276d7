/* SPDX-License-Identifier: Apache-2.0
 * Shared machinery of the operators: see op_util.h. */
#include "core/ops/op_util.h"

#include <inttypes.h>
#include <string.h>

void infer_out(struct infer_ctx *c, int i, enum dtype dtype, const struct shape *shape)
{
    if (i >= c->n_out)
        return;
    struct type *t = &c->out[i];
    t->kind = TYPE_TENSOR;
    t->dtype = dtype;
    t->has_dtype = dtype != DTYPE_NONE;
    t->shape = *shape;
    t->has_shape = shape->rank != SHAPE_UNKNOWN_RANK;
}

int op_need(const struct infer_ctx *c, int n, struct err *err)
{
    for (int i = 0; i < n; i++) {
        if (!infer_has(c, i))
            return err_set(err, ERR_MODEL, "input #%d is missing; it is required", i);
        if (c->in[i]->kind != TYPE_TENSOR && c->in[i]->kind != TYPE_NONE)
            return err_set(err, ERR_OPERATOR, "input #%d is not a tensor; only tensors can be run", i);
    }
    return 0;
}

enum dtype op_dtype(const struct infer_ctx *c, int i)
{
    return infer_has(c, i) ? c->in[i]->dtype : DTYPE_NONE;
}

int op_same_dtype(const struct infer_ctx *c, int from, int to, enum dtype *dtype, struct err *err)
{
    *dtype = DTYPE_NONE;
    int first = from;
    for (int i = from; i < to && i < c->n_in; i++) {
        enum dtype d = op_dtype(c, i);
        if (*dtype != DTYPE_NONE && d != DTYPE_NONE && d != *dtype)
            return err_set(err, ERR_MODEL, "input #%d is %s but input #%d is %s; they must have the same type", first,
                           dtype_name(*dtype), i, dtype_name(d));
        if (*dtype == DTYPE_NONE && d != DTYPE_NONE) {
            *dtype = d;
            first = i;
        }
    }
    return 0;
}

static const char *kind_words(const char *kinds)
{
    static const struct {
        const char *kinds, *words;
    } table[] = {{"f", "a float type"},          {"fiu", "a number type"},
                 {"iu", "an integer type"},      {"b", "bool"},
                 {"fiub", "a number or bool"},   {"u", "an unsigned integer type"},
                 {"fi", "a signed number type"}, {"fiubs", "a number, bool or string"}, {"i", "a signed integer type"}};
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++)
        if (strcmp(table[i].kinds, kinds) == 0)
            return table[i].words;
    return "another type";
}

int op_dtype_kinds(const struct infer_ctx *c, int i, const char *allowed, struct err *err)
{
    enum dtype d = op_dtype(c, i);
    if (d == DTYPE_NONE || strchr(allowed, dtype_kind(d)))
        return 0;
    return err_set(err, ERR_MODEL, "input #%d is %s; it must be %s", i, dtype_name(d), kind_words(allowed));
}

int op_dtype_real(const struct infer_ctx *c, int i, struct err *err)
{
    enum dtype d = op_dtype(c, i);
    if (d == DTYPE_NONE || d == DTYPE_FLOAT || d == DTYPE_DOUBLE || d == DTYPE_FLOAT16 || d == DTYPE_BFLOAT16)
        return 0;
    return err_set(err, ERR_MODEL, "input #%d is %s; it must be float32, double, float16 or bfloat16", i,
                   dtype_name(d));
}

int op_dtype_index(const struct infer_ctx *c, int i, struct err *err)
{
    enum dtype d = op_dtype(c, i);
    if (d == DTYPE_NONE || d == DTYPE_INT32 || d == DTYPE_INT64)
        return 0;
    return err_set(err, ERR_MODEL, "input #%d is %s; it must be int32 or int64", i, dtype_name(d));
}

int op_infer_same(struct infer_ctx *c, struct err *err)
{
    if (op_need(c, 1, err) < 0)
        return -1;
    infer_out(c, 0, c->in[0]->dtype, infer_shape(c, 0));
    return 0;
}

const struct tensor *op_value(const struct infer_ctx *c, int i)
{
    const struct tensor *value = infer_has(c, i) && c->in_value ? c->in_value[i] : NULL;
    if (!value && c->asked && infer_has(c, i))
        *c->asked = true;
    return value;
}

const struct sym_list *op_sizes(const struct infer_ctx *c, int i)
{
    return infer_has(c, i) && c->in_sizes ? c->in_sizes[i] : NULL;
}

bool op_sizes_same(const struct infer_ctx *c, struct sym_list *out)
{
    const struct sym_list *x = op_sizes(c, 0);
    if (!x)
        return false;
    out->count = x->count;
    memcpy(out->at, x->at, (size_t)x->count * sizeof *x->at);
    return true;
}

bool op_sizes_shape(const struct infer_ctx *c, int i, struct shape *out)
{
    const struct sym_list *x = op_sizes(c, i);
    if (!x || x->count > SHAPE_MAX_RANK)
        return false;
    out->rank = x->count;
    for (int d = 0; d < x->count; d++)
        out->dim[d] = sym_dim(x->at[d]);
    return true;
}

int op_axis(const struct shape *s, int64_t axis, int *out, struct err *err)
{
    *out = shape_axis(s, axis);
    if (*out < 0)
        return err_set(err, ERR_MODEL,
                       "axis %" PRId64 " is out of range; the input has %d axes, so it must be in [%d, %d]", axis,
                       s->rank, -s->rank, s->rank - 1);
    return 0;
}

int op_rank_fits(int64_t rank, struct err *err)
{
    if (rank < 0 || rank > SHAPE_MAX_RANK)
        return err_set(err, ERR_MODEL, "the output would have %" PRId64 " axes; at most %d are supported", rank,
                       SHAPE_MAX_RANK);
    return 0;
}

int op_read_ints(const struct tensor *t, const char *what, int64_t *out, int max, int *count, struct err *err)
{
    if (t->dtype != DTYPE_INT64 && t->dtype != DTYPE_INT32)
        return err_set(err, ERR_MODEL, "%s is %s; it must be int64", what, dtype_name(t->dtype));
    if (t->shape.rank > 1)
        return err_set(err, ERR_MODEL, "%s has %d axes; it must be a list (one axis)", what, t->shape.rank);
    int64_t n = tensor_count(t);
    if (n < 0 || n > max)
        return err_set(err, ERR_MODEL, "%s has %" PRId64 " elements; at most %d are allowed", what, n, max);
    if (n > 0 && !t->data)
        return err_set(err, ERR_MODEL, "%s has no data", what);
    for (int i = 0; i < (int)n; i++)
        out[i] = op_index_at(t, i);
    *count = (int)n;
    return 0;
}

int64_t op_list_length(const struct infer_ctx *c, int i)
{
    const struct tensor *value = op_value(c, i);
    const struct shape *s = value ? &value->shape : infer_has(c, i) ? infer_shape(c, i) : NULL;
    if (!s || s->rank < 0 || s->rank > 1)
        return -1;
    return s->rank == 0 ? 1 : s->dim[0] < 0 ? -1 : s->dim[0];
}

int op_int_list(const struct op_ints *list, const char *name, int count, int64_t fallback, int64_t least, int64_t *out,
                struct err *err)
{
    if (list->count && list->count != count)
        return err_set(err, ERR_MODEL, "attribute '%s' has %d values; it must have %d", name, list->count, count);
    for (int i = 0; i < count; i++) {
        out[i] = list->count ? list->at[i] : fallback;
        if (out[i] < least || out[i] > INT32_MAX)
            return err_set(err, ERR_MODEL, "attribute '%s' holds %" PRId64 "; it must be in [%" PRId64 ", 2^31)", name,
                           out[i], least);
    }
    return 0;
}

int op_axes_mask(const int64_t *axes, int count, int rank, bool mask[SHAPE_MAX_RANK], struct err *err)
{
    struct shape s = {.rank = rank};
    memset(mask, 0, sizeof(bool) * SHAPE_MAX_RANK);
    for (int i = 0; i < count; i++) {
        int axis;
        if (op_axis(&s, axes[i], &axis, err) < 0)
            return -1;
        if (mask[axis])
            return err_set(err, ERR_MODEL, "axis %" PRId64 " is named twice", axes[i]);
        mask[axis] = true;
    }
    return 0;
}

/* ---- running ---- */

enum { FEW = 8 };

/* Types of the inputs as they are now. */
static void fill_types(const struct run_ctx *c, struct type *types, const struct type **in)
{
    for (int i = 0; i < c->n_in; i++) {
        if (!c->in[i])
            continue;
        types[i].kind = c->in[i]->dtype == DTYPE_SEQUENCE   ? TYPE_SEQUENCE
                        : c->in[i]->dtype == DTYPE_OPTIONAL ? TYPE_OPTIONAL
                                                            : TYPE_TENSOR;
        types[i].dtype = types[i].kind == TYPE_TENSOR ? c->in[i]->dtype : DTYPE_NONE;
        types[i].has_dtype = types[i].has_shape = types[i].kind == TYPE_TENSOR;
        types[i].shape = c->in[i]->shape;
        in[i] = &types[i];
    }
}

static int settle_output(struct run_ctx *c, int i, const struct type *t, struct err *err)
{
    struct tensor *out = run_out(c, i);
    if (!out)
        return 0;
    if (!shape_known(&t->shape) || t->dtype == DTYPE_NONE)
        return err_set(err, ERR_INTERNAL, "the shape of output #%d is not known while running", i);
    bool same = out->dtype == t->dtype && shape_equal(&out->shape, &t->shape);
    if (same && (out->data || shape_count(&t->shape) == 0))
        return 0;
    if (!out->data)
        return run_alloc(c, i, t->dtype, &t->shape, err);
    char planned[SHAPE_TEXT], got[SHAPE_TEXT];
    return err_set(err, ERR_SHAPE, "output #%d was planned as %s %s but is %s %s", i, dtype_name(out->dtype),
                   shape_text(&out->shape, planned), dtype_name(t->dtype), shape_text(&t->shape, got));
}

static int infer_now(struct run_ctx *c, op_infer_fn *infer, bool settle, struct err *err)
{
    struct type few_types[2 * FEW], *types = few_types;
    const struct type *few_in[FEW], **in = few_in;
    size_t n_in = (size_t)c->n_in, n_out = (size_t)c->n_out;
    memset(few_types, 0, sizeof few_types);
    memset(few_in, 0, sizeof few_in);
    if (n_in > FEW || n_out > FEW) {
        types = run_scratch(c, (n_in + n_out) * sizeof *types, err);
        in = types ? run_scratch(c, (n_in + 1) * sizeof *in, err) : NULL;
        if (!in)
            return -1;
        memset(types, 0, (n_in + n_out) * sizeof *types);
        memset(in, 0, (n_in + 1) * sizeof *in);
    }
    struct type *out = types + n_in;
    fill_types(c, types, in);
    for (size_t i = 0; i < n_out; i++)
        out[i] = (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
    struct infer_ctx ctx = {.node = c->node,
                            .attrs = c->attrs,
                            .opset = c->opset,
                            .n_in = c->n_in,
                            .n_out = c->n_out,
                            .in = in,
                            .in_value = c->in,
                            .out = out};
    if (infer(&ctx, err) < 0)
        return -1;
    for (int i = 0; i < c->n_out && settle; i++)
        if (settle_output(c, i, &out[i], err) < 0)
            return -1;
    return 0;
}

int op_outputs(struct run_ctx *c, op_infer_fn *infer, struct err *err)
{
    return c->settled ? 0 : infer_now(c, infer, true, err);
}

int op_recheck(struct run_ctx *c, op_infer_fn *infer, struct err *err)
{
    return c->settled ? 0 : infer_now(c, infer, false, err);
}

size_t op_elem(enum dtype dtype, struct err *err)
{
    int bits = dtype_bits(dtype);
    if (bits < 8) {
        err_set(err, ERR_OPERATOR, "elements of type %s are packed and cannot be moved one by one", dtype_name(dtype));
        return 0;
    }
    return (size_t)bits / 8;
}

struct range_loop {
    op_range_fn *fn;
    void *arg;
    int64_t n, grain;
};

static void run_range(void *opaque, int64_t task, int lane)
{
    (void)lane;
    const struct range_loop *loop = opaque;
    int64_t begin = task * loop->grain;
    loop->fn(loop->arg, begin, i64_min(begin + loop->grain, loop->n));
}

void op_parallel(struct pool *pool, int64_t n, int64_t grain, op_range_fn *fn, void *arg)
{
    if (n <= 0)
        return;
    struct range_loop loop = {fn, arg, n, grain < 1 ? 1 : grain};
    if (n <= loop.grain)
        fn(arg, 0, n);
    else
        pool_run(pool, i64_ceil_div(n, loop.grain), run_range, &loop);
}

enum dtype op_carrier(enum dtype dtype)
{
    if (dtype == DTYPE_DOUBLE || dtype == DTYPE_UINT64)
        return dtype;
    if (dtype_is_float(dtype))
        return DTYPE_FLOAT;
    return dtype_is_integer(dtype) || dtype == DTYPE_BOOL ? DTYPE_INT64 : DTYPE_NONE;
}

int op_to_carrier(struct run_ctx *c, const struct tensor *t, const void **data, struct err *err)
{
    enum dtype to = op_carrier(t->dtype);
    *data = t->data;
    if (to == t->dtype)
        return 0;
    size_t bytes;
    if (!dtype_bytes(to, tensor_count(t), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
    void *copy = run_scratch(c, bytes ? bytes : 1, err);
    if (!copy)
        return -1;
    if (!dtype_convert(to, copy, t->dtype, t->data, tensor_count(t)))
        return err_set(err, ERR_OPERATOR, "elements of type %s cannot be computed with", dtype_name(t->dtype));
    *data = copy;
    return 0;
}

enum { COPY_GRAIN = 1 << 18 };

struct whole_copy {
    char *dst;
    const char *src;
};

static void copy_bytes(void *opaque, int64_t begin, int64_t end)
{
    const struct whole_copy *k = opaque;
    memcpy(k->dst + begin, k->src + begin, (size_t)(end - begin));
}

int op_copy_whole(struct run_ctx *c, op_infer_fn *infer, struct err *err)
{
    if (op_outputs(c, infer, err) < 0)
        return -1;
    struct tensor *y = run_out(c, 0);
    if (!y)
        return 0;
    if (tensor_count(y) != tensor_count(c->in[0]))
        return err_set(err, ERR_SHAPE, "the input has %" PRId64 " elements but the output %" PRId64,
                       tensor_count(c->in[0]), tensor_count(y));
    size_t bytes;
    if (!dtype_bytes(y->dtype, tensor_count(y), &bytes) || bytes > INT64_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "the tensor has too many elements");
    struct whole_copy k = {y->data, c->in[0]->data};
    if (k.dst != k.src)
        op_parallel(c->pool, (int64_t)bytes, COPY_GRAIN, copy_bytes, &k);
    return 0;
}
