/* SPDX-License-Identifier: Apache-2.0
 * wide_weight.c - see wide_weight.h. A channel is a set of strided runs: outer blocks of `inner` elements. */
#include "core/quant/wide_weight.h"

#include <float.h>
#include <math.h>

struct grid {
    double scale;
    int32_t zero, lo, hi;
};
/* Elements of channel o: w[(i * channels + o) * inner + k], i < outer, k < inner. */
struct layout {
    int64_t outer, channels, inner;
};
typedef void visit_fn(void *arg, int64_t at);

static void each(const struct layout *l, int64_t o, visit_fn *visit, void *arg)
{
    for (int64_t i = 0; i < l->outer; i++)
        for (int64_t k = 0; k < l->inner; k++)
            visit(arg, (i * l->channels + o) * l->inner + k);
}

struct coding {
    const float *w;
    struct grid grid;
    double lo, hi, error, signal;
    struct tensor *codes; /* NULL: only the error */
};

static void visit_range(void *arg, int64_t at)
{
    struct coding *c = arg;
    c->lo = fmin(c->lo, (double)c->w[at]);
    c->hi = fmax(c->hi, (double)c->w[at]);
}

static void visit_code(void *arg, int64_t at)
{
    struct coding *c = arg;
    const struct grid *g = &c->grid;
    double code = nearbyint((double)c->w[at] / g->scale) + g->zero;
    code = code < g->lo ? g->lo : code > g->hi ? g->hi : code;
    const double d = (double)c->w[at] - (code - g->zero) * g->scale;
    c->error += d * d;
    c->signal += (double)c->w[at] * (double)c->w[at];
    if (c->codes)
        dtype_set(c->codes->dtype, c->codes->data, at, code);
}

static double error_of(struct coding *c, const struct layout *l, int64_t o, struct grid grid)
{
    c->grid = grid;
    c->error = 0;
    each(l, o, visit_code, c);
    return c->error;
}

static double normal(double scale)
{
    return scale >= (double)FLT_MIN ? (double)(float)scale : 1;
}

static struct grid symmetric_grid(struct coding *c, const struct layout *l, int64_t o, const struct grid *form,
                                  bool search)
{
    enum { SHARES = 48 };
    const double most = fmax(-c->lo, c->hi) / ((form->hi - form->lo) / 2);
    struct grid best = *form;
    best.scale = normal(most);
    double least = search ? error_of(c, l, o, best) : 0;
    for (int i = 0; search && most > 0 && i < SHARES; i++) {
        struct grid g = *form;
        g.scale = normal(most * (0.5 + 0.5 * i / SHARES));
        const double e = error_of(c, l, o, g);
        if (e < least) {
            least = e;
            best = g;
        }
    }
    return best;
}

static struct grid asymmetric_grid(const struct coding *c, const struct grid *form)
{
    struct grid g = *form;
    g.scale = normal((c->hi - c->lo) / (g.hi - g.lo));
    const double zero = nearbyint(g.lo - c->lo / g.scale);
    g.zero = (int32_t)(zero < g.lo ? g.lo : zero > g.hi ? g.hi : zero);
    return g;
}

static struct grid form_of(enum dtype dtype, bool symmetric, bool pairs)
{
    struct grid g = {.lo = (int32_t)dtype_min(dtype), .hi = (int32_t)dtype_max(dtype)};
    if (pairs && !symmetric && dtype == DTYPE_INT8) {
        g.lo = -64;
        g.hi = 63;
    }
    if (symmetric)
        g.lo++; /* as many codes below the zero point as above */
    g.zero = symmetric ? (g.lo + g.hi) / 2 : 0;
    return g;
}

static int code_channels(struct qweight *q, const struct tensor *w, const struct qweight_opts *opts, bool symmetric,
                         const struct grid *form)
{
    struct layout l = {.outer = 1, .channels = 1, .inner = tensor_count(w)};
    double error = 0, signal = 0;
    if (opts->per_channel)
        l = (struct layout){shape_product(&w->shape, 0, opts->axis), w->shape.dim[opts->axis],
                            shape_product(&w->shape, opts->axis + 1, w->shape.rank)};
    for (int64_t o = 0; o < l.channels; o++) {
        struct coding c = {.w = tensor_f32(w)};
        each(&l, o, visit_range, &c);
        struct grid g = symmetric ? symmetric_grid(&c, &l, o, form, dtype_bits(opts->dtype) == 4)
                                  : asymmetric_grid(&c, form);
        if (opts->scale)
            g.scale = (double)opts->scale[o];
        if (opts->scale_floor && g.scale < opts->scale_floor[o])
            g.scale = normal(opts->scale_floor[o]);
        c.codes = &q->codes;
        c.signal = 0;
        error += error_of(&c, &l, o, g);
        signal += c.signal;
        tensor_f32(&q->scale)[o] = (float)g.scale;
        q->zero = g.zero;
    }
    if (error > 0)
        q->sqnr_db = 10 * log10(signal / error);
    return 0;
}

int wide_weight_make(struct qweight *q, const struct tensor *w, const struct qweight_opts *opts, bool symmetric,
                     bool pairs, struct err *err)
{
    const struct grid form = form_of(opts->dtype, symmetric, pairs);
    const struct shape scales = opts->per_channel ? SHAPE(w->shape.dim[opts->axis]) : SHAPE_SCALAR;
    *q = (struct qweight){.sqnr_db = NAN, .proof = {.adds_in_32 = true}};
    for (int64_t i = 0, n = tensor_count(w); i < n; i++)
        if (!isfinite(tensor_f32(w)[i]))
            return err_set(err, ERR_MODEL, "element %lld is %s, which has no code", (long long)i,
                           isnan(tensor_f32(w)[i]) ? "NaN" : "infinite");
    if (tensor_alloc(&q->codes, opts->dtype, &w->shape, err) || tensor_alloc(&q->scale, DTYPE_FLOAT, &scales, err)) {
        qweight_fini(q);
        return -1;
    }
    return code_channels(q, w, opts, symmetric, &form);
}
