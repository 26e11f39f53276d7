/* SPDX-License-Identifier: Apache-2.0
 * DFT and STFT: discrete Fourier transforms along one axis (kernels/fft.h), computed in double. The last axis holds a
 * number's real part, or real and imaginary parts.
 * DFT        x [.., L, .., 1 or 2] cut or zero-padded to n = dft_length on the axis -> [.., n, .., 2]; onesided: the
 *            first n / 2 + 1 of them, of a real x. inverse: divided by n; inverse and onesided: from n / 2 + 1
 *            values, whose mirror images are the others, to n real ones.
 * STFT       x [B, L, 1 or 2] -> [B, frames, bins, 2]: the transforms of windows of n values, `frame_step` apart,
 *            times the window; bins n, or n / 2 + 1 when onesided. */
#include <inttypes.h>
#include <string.h>

#include "core/kernels/fft.h"
#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

struct dft_attrs {
    bool inverse, onesided;
    int64_t axis;
};
static const struct op_attr dft_17_attrs[] = {{OP_ATTR(dft_attrs, inverse), .kind = OP_BOOL},
                                              {OP_ATTR(dft_attrs, onesided), .kind = OP_BOOL},
                                              {OP_ATTR(dft_attrs, axis), .kind = OP_INT, .def = 1},
                                              {0}};
static const struct op_attr dft_20_attrs[] = {
    {OP_ATTR(dft_attrs, inverse), .kind = OP_BOOL}, {OP_ATTR(dft_attrs, onesided), .kind = OP_BOOL}, {0}};
static const struct op_attr stft_attrs[] = {{OP_ATTR(dft_attrs, onesided), .kind = OP_BOOL, .def = 1}, {0}};

#define LENGTH_MAX ((int64_t)1 << 30)

/* One integer of an input: its value if known (*known). */
static int read_int(const struct infer_ctx *c, int i, const char *what, bool *known, int64_t *value, struct err *err)
{
    const struct tensor *t = op_value(c, i);
    int count;
    *known = t != NULL;
    if (op_dtype_index(c, i, err) < 0 || (t && op_read_ints(t, what, value, 1, &count, err) < 0))
        return -1;
    if (t && count != 1)
        return err_set(err, ERR_MODEL, "%s is empty; it must be one integer", what);
    return 0;
}

static int check_length(const char *what, int64_t n, struct err *err)
{
    return n >= 1 && n <= LENGTH_MAX ? 0
                                     : err_set(err, ERR_MODEL, "%s is %" PRId64 "; it must be in [1, %" PRId64 "]",
                                               what, n, LENGTH_MAX);
}

static int check_parts(const struct shape *x, struct err *err)
{
    char text[SHAPE_TEXT];
    int64_t parts = x->rank > 0 ? x->dim[x->rank - 1] : -1;
    if (x->rank >= 2 && (parts < 0 || parts == 1 || parts == 2))
        return 0;
    return err_set(err, ERR_SHAPE, "the input has shape %s; its last axis must be 1 (real) or 2 (complex)",
                   shape_text(x, text));
}

/* ---- DFT ---- */
struct dft {
    int axis;
    bool known;      /* `length` is */
    int64_t length;  /* of the transform */
    int64_t out_dim; /* on the axis; DIM_UNKNOWN */
};

static int read_dft(const struct infer_ctx *c, struct dft *d, struct err *err)
{
    const struct dft_attrs *a = c->attrs;
    const struct shape *x = infer_shape(c, 0);
    int64_t axis = c->opset < 20 ? a->axis : -2;
    bool axis_known = true;
    if (check_parts(x, err) < 0)
        return -1;
    if (c->opset >= 20 && infer_has(c, 2) && read_int(c, 2, "axis", &axis_known, &axis, err) < 0)
        return -1;
    *d = (struct dft){.axis = -1, .out_dim = DIM_UNKNOWN};
    if (!axis_known)
        return 0;
    if (op_axis(x, axis, &d->axis, err) < 0)
        return -1;
    if (d->axis == x->rank - 1)
        return err_set(err, ERR_MODEL, "axis %" PRId64 " is the one of real and imaginary parts", axis);
    d->length = x->dim[d->axis];
    d->known = d->length >= 0;
    if (a->inverse && a->onesided && d->known)
        d->length = 2 * (d->length - 1);
    if (infer_has(c, 1) && read_int(c, 1, "dft_length", &d->known, &d->length, err) < 0)
        return -1;
    if (!d->known)
        return 0;
    d->out_dim = a->onesided && !a->inverse ? d->length / 2 + 1 : d->length;
    return check_length("dft_length", d->length, err);
}

static int infer_dft(struct infer_ctx *c, struct err *err)
{
    const struct dft_attrs *a = c->attrs;
    struct shape out = SHAPE_UNKNOWN;
    struct dft d;
    if (op_need(c, 1, err) < 0 || op_dtype_real(c, 0, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (x->rank >= 0) {
        if (read_dft(c, &d, err) < 0)
            return -1;
        int64_t parts = x->dim[x->rank - 1];
        if (a->onesided && parts == (a->inverse ? 1 : 2))
            return err_set(err, ERR_SHAPE, "a one-sided %s takes %s input", a->inverse ? "inverse" : "transform",
                           a->inverse ? "complex" : "real");
        out = *x;
        for (int i = 0; i < x->rank - 1 && d.axis < 0; i++)
            out.dim[i] = DIM_UNKNOWN;
        if (d.axis >= 0)
            out.dim[d.axis] = d.out_dim;
        out.dim[x->rank - 1] = a->onesided && a->inverse ? 1 : 2;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    return 0;
}

/* Transforms of many lines; line l's value j stands at x[line(l) + j * step], as `parts` numbers. */
struct lines {
    struct fft_plan plan;
    enum dtype dtype;
    const void *x, *window; /* window: of the same dtype, or NULL */
    void *y;
    int64_t inner, in_dim, out_dim; /* lines are numbered outer * inner + i */
    int64_t frames, frame_step;     /* STFT: frames of a line; 0: DFT */
    int parts, out_parts;
    bool inverse, mirror;
    double *work; /* [lanes][lane_doubles] */
    size_t lane_doubles;
};

/* Where value j of the line stands, in elements. */
static int64_t source_at(const struct lines *l, int64_t line, int64_t j)
{
    if (l->frames)
        return (line / l->frames * l->in_dim + line % l->frames * l->frame_step + j) * l->parts;
    return ((line / l->inner * l->in_dim + j) * l->inner + line % l->inner) * l->parts;
}

static int64_t target_at(const struct lines *l, int64_t line, int64_t j)
{
    return ((line / l->inner * l->out_dim + j) * l->inner + line % l->inner) * l->out_parts;
}

static void load_line(const struct lines *l, int64_t line, double *v)
{
    const int64_t n = l->plan.n, given = i64_min(n, l->in_dim);
    for (int64_t j = 0; j < n; j++) {
        const bool there = j < given;
        const int64_t at = there ? source_at(l, line, j) : 0;
        const double weight = l->window ? dtype_get(l->dtype, l->window, j) : 1;
        v[2 * j] = there ? dtype_get(l->dtype, l->x, at) * weight : 0;
        v[2 * j + 1] = there && l->parts == 2 ? dtype_get(l->dtype, l->x, at + 1) * weight : 0;
    }
    for (int64_t j = n / 2 + 1; j < n && l->mirror; j++) {
        v[2 * j] = v[2 * (n - j)];
        v[2 * j + 1] = -v[2 * (n - j) + 1];
    }
}

static void run_line(void *arg, int64_t line, int lane)
{
    const struct lines *l = arg;
    double *v = l->work + (size_t)lane * l->lane_doubles, scale = l->inverse ? 1 / (double)l->plan.n : 1;
    load_line(l, line, v);
    fft_run(&l->plan, l->inverse, v, v + 2 * l->plan.n);
    for (int64_t j = 0; j < l->out_dim; j++)
        for (int p = 0; p < l->out_parts; p++)
            dtype_set(l->dtype, l->y, target_at(l, line, j) + p, v[2 * j + p] * scale);
}

static int run_lines(struct run_ctx *c, struct lines *l, int64_t length, int64_t count, struct err *err)
{
    size_t tables, lanes = c->pool ? (size_t)pool_threads(c->pool) : 1;
    if (!fft_plan_doubles(length, &tables))
        return err_set(err, ERR_MODEL_TOO_LARGE, "a transform of %" PRId64 " values is too long", length);
    double *memory = run_scratch(c, tables * sizeof *memory, err);
    if (!memory)
        return -1;
    fft_plan_init(&l->plan, length, memory);
    l->lane_doubles = 2 * (size_t)length + fft_scratch_doubles(&l->plan);
    l->work = run_scratch(c, lanes * l->lane_doubles * sizeof *l->work, err);
    if (!l->work)
        return -1;
    pool_run(count * length > 4096 ? c->pool : NULL, count, run_line, l);
    return 0;
}

static int forward_dft(struct run_ctx *c, struct err *err)
{
    const struct dft_attrs *a = c->attrs;
    if (op_outputs(c, infer_dft, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *length = run_in(c, 1), *at = c->opset >= 20 ? run_in(c, 2) : NULL;
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    int axis = shape_axis(&x->shape, c->opset < 20 ? a->axis : at ? op_index_at(at, 0) : -2);
    int64_t in_dim = x->shape.dim[axis];
    struct lines l = {.dtype = x->dtype, .x = x->data, .y = y->data, .in_dim = in_dim, .out_dim = y->shape.dim[axis],
                      .inner = shape_product(&x->shape, axis + 1, x->shape.rank - 1),
                      .parts = (int)x->shape.dim[x->shape.rank - 1], .out_parts = (int)y->shape.dim[y->shape.rank - 1],
                      .inverse = a->inverse, .mirror = a->inverse && a->onesided};
    int64_t n = length ? op_index_at(length, 0) : l.mirror ? 2 * (in_dim - 1) : in_dim;
    return run_lines(c, &l, n, shape_product(&x->shape, 0, axis) * l.inner, err);
}

/* ---- STFT ---- */
struct stft {
    int64_t step, length, bins, frames; /* DIM_UNKNOWN where not known */
};

static int read_stft(const struct infer_ctx *c, struct stft *s, struct err *err)
{
    const struct shape *x = infer_shape(c, 0);
    int64_t window = DIM_UNKNOWN;
    bool known, length_known = true;
    *s = (struct stft){DIM_UNKNOWN, x->rank == 3 ? x->dim[1] : DIM_UNKNOWN, DIM_UNKNOWN, DIM_UNKNOWN};
    if (x->rank >= 0 && x->rank != 3)
        return err_set(err, ERR_SHAPE, "the signal has %d axes; it must be [batch, length, 1 or 2]", x->rank);
    if (infer_has(c, 2) && infer_shape(c, 2)->rank >= 0) {
        if (infer_shape(c, 2)->rank != 1)
            return err_set(err, ERR_SHAPE, "the window has %d axes; it must be a list", infer_shape(c, 2)->rank);
        window = infer_shape(c, 2)->dim[0];
    }
    if (infer_has(c, 2))
        s->length = window;
    if (infer_has(c, 3) && read_int(c, 3, "frame_length", &length_known, &s->length, err) < 0)
        return -1;
    if (!length_known)
        s->length = window;
    if (read_int(c, 1, "frame_step", &known, &s->step, err) < 0)
        return -1;
    if ((known && check_length("frame_step", s->step, err) < 0) ||
        (s->length >= 0 && check_length("frame_length", s->length, err) < 0))
        return -1;
    if (window >= 0 && s->length >= 0 && window != s->length)
        return err_set(err, ERR_SHAPE, "the window has %" PRId64 " values but frame_length is %" PRId64, window,
                       s->length);
    if (s->length < 0)
        return 0;
    s->bins = ((const struct dft_attrs *)c->attrs)->onesided ? s->length / 2 + 1 : s->length;
    if (x->rank == 3 && x->dim[1] >= 0 && known) {
        if (x->dim[1] < s->length)
            return err_set(err, ERR_SHAPE, "the signal has %" PRId64 " values, fewer than a frame of %" PRId64,
                           x->dim[1], s->length);
        s->frames = (x->dim[1] - s->length) / s->step + 1;
    }
    return 0;
}

static int infer_stft(struct infer_ctx *c, struct err *err)
{
    struct stft s;
    if (op_need(c, 2, err) < 0 || op_dtype_real(c, 0, err) < 0 || read_stft(c, &s, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0);
    if (infer_has(c, 2) && op_dtype(c, 2) != DTYPE_NONE && op_dtype(c, 0) != DTYPE_NONE &&
        op_dtype(c, 2) != op_dtype(c, 0))
        return err_set(err, ERR_MODEL, "the window is %s and the signal %s; they must have the same type",
                       dtype_name(op_dtype(c, 2)), dtype_name(op_dtype(c, 0)));
    if (x->rank == 3 && check_parts(x, err) < 0)
        return -1;
    if (x->rank == 3 && x->dim[2] == 2 && ((const struct dft_attrs *)c->attrs)->onesided)
        return err_set(err, ERR_MODEL, "a complex signal has no one-sided transform; set onesided = 0");
    infer_out(c, 0, op_dtype(c, 0), &SHAPE(x->rank == 3 ? x->dim[0] : DIM_UNKNOWN, s.frames, s.bins, 2));
    return 0;
}

static int forward_stft(struct run_ctx *c, struct err *err)
{
    if (op_outputs(c, infer_stft, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *window = run_in(c, 2), *length = run_in(c, 3);
    struct tensor *y = run_out(c, 0);
    if (!y || tensor_count(y) == 0)
        return 0;
    int64_t n = length ? op_index_at(length, 0) : window ? tensor_count(window) : x->shape.dim[1];
    struct lines l = {.dtype = x->dtype, .x = x->data, .window = window ? window->data : NULL, .y = y->data, .inner = 1,
                      .in_dim = x->shape.dim[1], .out_dim = y->shape.dim[2], .frames = y->shape.dim[1],
                      .frame_step = op_index_at(c->in[1], 0), .parts = (int)x->shape.dim[2], .out_parts = 2};
    return run_lines(c, &l, n, y->shape.dim[0] * l.frames, err);
}

static int couple_dft(struct coupling *k, struct err *err)
{
    const int rank = couple_rank(k, IN(0));
    const char *why = "a transform goes over it";
    struct dft d;
    (void)err;
    if (rank < 0 || couple_rank(k, OUT(0)) != rank || read_dft(k->infer, &d, NULL) < 0 || d.axis < 0)
        return 0;
    for (int i = 0; i < rank; i++)
        if (i != d.axis && i != rank - 1)
            couple_axes(k, IN(0), i, OUT(0), i);
    couple_freeze(k, IN(0), d.axis, why);
    couple_freeze(k, OUT(0), d.axis, why);
    couple_freeze(k, IN(0), rank - 1, why);
    couple_freeze(k, OUT(0), rank - 1, why);
    return 0;
}

#define DFT(...)                                                                                                       \
    {                                                                                                                  \
        .type = "DFT", .domain = "", .doc = "Discrete Fourier transform along an axis.", .in_min = 1, .out_min = 1,    \
        .out_max = 1, .attrs_size = sizeof(struct dft_attrs), .infer = infer_dft, .forward = forward_dft,              \
        .couple = couple_dft, __VA_ARGS__                                                                              \
    }
OP_CLASS(dft_17) = DFT(.since = 17, .until = 19, .in_max = 2, .attrs = dft_17_attrs,
                       .samples = (const struct op_sample[]){{"f32[2,8,1]", "", 1, 17},
                                                             {"f32[2,6,2]", "axis=1", 1, 17},
                                                             {"f32[2,6,1] i64[]=9", "onesided=1", 1, 17},
                                                             {0}});
OP_CLASS(dft_20) = DFT(.since = 20, .in_max = 3, .attrs = dft_20_attrs,
                       .samples = (const struct op_sample[]){{"f32[2,8,1]", "", 1, 20},
                                                             {"f32[2,5,3,2] none i64[]=1", "", 1, 20},
                                                             {"f32[2,12,2]", "inverse=1", 1, 20},
                                                             {"f32[2,7,1] i64[]=5", "onesided=1", 1, 20},
                                                             {"f64[2,13,1] i64[]=16", "", 1, 20},
                                                             {0}});
OP_CLASS(stft) = {.type = "STFT",
                  .domain = "",
                  .since = 17,
                  .doc = "Fourier transforms of windows that move along a signal.",
                  .in_min = 2,
                  .in_max = 4,
                  .out_min = 1,
                  .out_max = 1,
                  .attrs = stft_attrs,
                  .attrs_size = sizeof(struct dft_attrs),
                  .infer = infer_stft,
                  .forward = forward_stft,
                  .samples = (const struct op_sample[]){{"f32[1,32,1] !i64[]=8 none !i64[]=16", ""},
                                                        {"f32[2,32,1] !i64[]=5 !f32[12] !i64[]=12", ""},
                                                        {"f32[2,20,1] !i64[]=4 !f32[8]", "onesided=0"},
                                                        {0}}};
