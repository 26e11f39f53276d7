/* SPDX-License-Identifier: Apache-2.0
 * HannWindow, HammingWindow, BlackmanWindow: size -> [size], sums of cosines
 *   y[n] = a - b cos(2 pi n / N) + c cos(4 pi n / N),  N = size (periodic) or size - 1 (symmetric). */
#include <inttypes.h>
#include <math.h>

#include "core/ops/op_util.h"

struct window_attrs {
    int64_t output_datatype;
    bool periodic;
};
static const struct op_attr window_attrs[] = {
    {OP_ATTR(window_attrs, output_datatype), .kind = OP_INT, .def = DTYPE_FLOAT},
    {OP_ATTR(window_attrs, periodic), .kind = OP_BOOL, .def = 1},
    {NULL}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct window_attrs *a = c->attrs;
    const struct tensor *size = op_value(c, 0);
    int64_t n = DIM_UNKNOWN;
    int count;

    if (op_need(c, 1, err) < 0 || op_dtype_index(c, 0, err) < 0)
        return -1;
    if (a->output_datatype < 0 || a->output_datatype >= DTYPE_COUNT ||
        (!dtype_is_float((enum dtype)a->output_datatype) && !dtype_is_integer((enum dtype)a->output_datatype)) ||
        dtype_bits((enum dtype)a->output_datatype) < 8)
        return err_set(err, ERR_MODEL,
                       "attribute 'output_datatype' is %" PRId64 "; it must be the number of a numeric type of whole "
                       "bytes",
                       a->output_datatype);
    if (size) {
        if (op_read_ints(size, "the size", &n, 1, &count, err) < 0)
            return -1;
        if (count != 1 || n < 0)
            return err_set(err, ERR_MODEL, "the size is %" PRId64 "; it must be one number, not negative",
                           count == 1 ? n : 0);
    }
    infer_out(c, 0, (enum dtype)a->output_datatype, &SHAPE(n));
    return 0;
}

struct job {
    double a, b, c, step;
    struct tensor *y;
};

static void fill(void *arg, int64_t begin, int64_t end)
{
    const struct job *j = arg;
    for (int64_t i = begin; i < end; i++) {
        const double t = j->step * (double)i;
        dtype_set(j->y->dtype, j->y->data, i, j->a - j->b * cos(t) + j->c * cos(2 * t));
    }
}

static int run(struct run_ctx *ctx, double a, double b, double c, struct err *err)
{
    if (op_outputs(ctx, infer, err) < 0)
        return -1;
    if (!run_out(ctx, 0))
        return 0;
    const int64_t n = tensor_count(ctx->out[0]);
    const double length = (double)(((const struct window_attrs *)ctx->attrs)->periodic ? n : n - 1);
    struct job job = {a, b, c, length > 0 ? 2 * 3.14159265358979323846 / length : 0, ctx->out[0]};
    op_parallel(ctx->pool, n, 4096, fill, &job);
    return 0;
}

static int forward_hann(struct run_ctx *c, struct err *err)
{
    return run(c, 0.5, 0.5, 0, err);
}

static int forward_hamming(struct run_ctx *c, struct err *err)
{
    return run(c, 25.0 / 46, 21.0 / 46, 0, err);
}

static int forward_blackman(struct run_ctx *c, struct err *err)
{
    return run(c, 0.42, 0.5, 0.08, err);
}

static const struct op_sample samples[] = {
    {"!i64[]=10", NULL}, {"i32[]=7", "periodic=0"}, {"!i64[]=8", "output_datatype=11"}, {NULL}};

#define ROW(type_, name, doc_)                                                                                         \
    {                                                                                                                  \
        .type = type_, .domain = "", .since = 17, .doc = doc_, .in_min = 1, .in_max = 1, .out_min = 1, .out_max = 1,   \
        .attrs = window_attrs, .attrs_size = sizeof(struct window_attrs), .infer = infer, .forward = forward_##name,   \
        .samples = samples                                                                                             \
    }
OP_CLASS(hann_window) = ROW("HannWindow", hann, "The Hann window of a size.");
OP_CLASS(hamming_window) = ROW("HammingWindow", hamming, "The Hamming window of a size.");
OP_CLASS(blackman_window) = ROW("BlackmanWindow", blackman, "The Blackman window of a size.");
