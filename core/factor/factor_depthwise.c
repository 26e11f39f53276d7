/* SPDX-License-Identifier: Apache-2.0
 * factor_depthwise.c - factor.depthwise_separable: a k x k convolution as a few depthwise filters for each input
 * channel and one 1x1 over all of them.
 *
 * What an input channel i adds to the outputs is the matrix W_i [out][taps]; its truncated singular value decomposition
 * gives `terms` filters for the channel and how much each output takes of them (Guo et al., "Network Decoupling", BMVC
 * 2018). A sum of terms is one depthwise convolution with a channel multiplier and one 1x1, so two nodes do for any
 * number of them. With second moments L L^T of the channel's taps, W_i L is decomposed: filters V^T L^-1, weights W_i L
 * V. */
#include <stdlib.h>

#include "core/base/size.h"
#include "core/factor/factor.h"
#include "core/factor/linear.h"
#include "core/kernels/gemm.h"

struct prep {
    int64_t k;      /* most terms */
    double *filter; /* [groups][in][k][taps] V^T L^-1 */
    double *back;   /* [groups][in][taps][k] L V */
};

static void release(void *prep)
{
    struct prep *p = prep;
    free(p->filter);
    free(p->back);
    free(p);
}

static int shape(const struct layer *l, const int64_t rank[2], struct stage *stage)
{
    stage[0] = (struct stage){
        .suffix = "depthwise", .out = l->in * rank[0], .in = l->in, .split = l->in, .axes = layer_axes(l)};
    stage[1] = (struct stage){.suffix = "pointwise", .out = l->out, .in = l->in * rank[0], .split = 1};
    return 2;
}

struct work {
    double *l, *inverse, *m, *white; /* [taps][taps] twice, [out][taps] twice */
};

static int decompose_channel(const struct layer *l, const double *w, const double *c, int64_t channel, struct prep *p,
                             struct work *x, double *tail, struct err *err)
{
    const int64_t t = l->taps, i = channel % l->in, width = l->in * t;
    struct svd s;
    double rest = 0;
    for (int64_t a = 0; a < t; a++)
        for (int64_t b = 0; b < t; b++)
            x->l[a * t + b] = c ? c[(i * t + a) * width + i * t + b] : a == b;
    if (cholesky_damped(x->l, t, 1e-6, x->inverse, err))
        return -1;
    for (int64_t o = 0; o < l->out; o++)
        for (int64_t a = 0; a < t; a++)
            x->m[o * t + a] = w[(o * l->in + i) * t + a];
    struct gemm g = gemm_plain(false, false, l->out, t, t);
    gemm_f64_tile(&g, x->m, x->l, x->white);
    if (svd_make(&s, x->white, l->out, t, err))
        return -1;
    for (int64_t r = s.k; r-- > 0;) {
        rest += s.s[r] * s.s[r];
        tail[r] += rest;
    }
    g = gemm_plain(false, false, s.k, t, t);
    gemm_f64_tile(&g, s.vt, x->inverse, p->filter + channel * p->k * t);
    g = gemm_plain(false, true, t, s.k, t);
    gemm_f64_tile(&g, x->l, s.vt, p->back + channel * p->k * t);
    svd_fini(&s);
    return 0;
}

static int prepare(struct layer *l, const double *w, const struct moments *x, int64_t round_to, struct err *err)
{
    const int64_t width = l->in * l->taps, t = l->taps;
    struct prep *p = calloc(1, sizeof *p);
    struct work k = {0};
    double *tail = NULL;
    int rc = -1;
    if (!p)
        return err_set(err, ERR_NOMEM, "out of memory while factorizing a layer");
    l->prep = p;
    p->k = i64_min(l->out, t);
    p->filter = doubles_new(l->groups * l->in * p->k, t, err);
    p->back = doubles_new(l->groups * l->in * p->k, t, err);
    tail = doubles_new(p->k + 1, 1, err);
    k.l = doubles_new(t, t, err);
    k.inverse = doubles_new(t, t, err);
    k.m = doubles_new(l->out, t, err);
    k.white = doubles_new(l->out, t, err);
    if (!p->filter || !p->back || !tail || !k.l || !k.inverse || !k.m || !k.white)
        goto out;
    rc = 0;
    for (int64_t c = 0; rc == 0 && c < l->groups * l->in; c++) {
        const int64_t g = c / l->in;
        rc = decompose_channel(l, w + g * l->out * width, x->c ? x->c + g * width * width : NULL, c, p, &k, tail, err);
    }
    for (int64_t r = round_to; rc == 0 && r <= p->k; r += round_to)
        rc = layer_add_point(l, &scheme_depthwise, (int64_t[2]){r, 0}, tail[0] > 0 ? tail[r] / tail[0] : 0, err);
out:
    free(tail);
    free(k.l);
    free(k.inverse);
    free(k.m);
    free(k.white);
    return rc;
}

static int make(const struct layer *l, const double *w, const int64_t rank[2], struct stage *stage, struct err *err)
{
    const struct prep *p = l->prep;
    const int64_t r = rank[0], t = l->taps;
    (void)err;
    for (int64_t c = 0; c < l->groups * l->in; c++) {
        const int64_t g = c / l->in, i = c % l->in;
        const double *back = p->back + c * p->k * t;
        for (int64_t a = 0; a < r * t; a++)
            stage[0].w[c * r * t + a] = p->filter[c * p->k * t + a];
        for (int64_t o = 0; o < l->out; o++)
            for (int64_t q = 0; q < r; q++) {
                double sum = 0;
                for (int64_t a = 0; a < t; a++)
                    sum += w[((g * l->out + o) * l->in + i) * t + a] * back[a * p->k + q];
                stage[1].w[(g * l->out + o) * l->in * r + i * r + q] = sum;
            }
    }
    return 0;
}

static const char *refuse(const struct layer *l)
{
    if (l->taps == 1)
        return l->spatial ? "its kernel is 1: it is pointwise as it is" : "it is a product of matrices: see factor.svd";
    return l->groups > 1 && l->in == 1 ? "it is depthwise as it is" : NULL;
}

static const char *const names[] = {"terms", NULL};
const struct scheme scheme_depthwise = {.name = "depthwise_separable",
                                        .rank_names = names,
                                        .refuse = refuse,
                                        .shape = shape,
                                        .prepare = prepare,
                                        .make = make,
                                        .release = release};

static const struct param params[] = {
    {FACTOR_P(terms), .kind = PARAM_INT, .min = 1, .max = 1e6, .given = PARAM_GIVEN(factor_params, has_terms),
     .doc = "depthwise filters for each input channel, in every layer"},
    FACTOR_ROWS,
    {0},
};

static int run(struct step_ctx *c, struct err *err)
{
    return factor_run(c, &scheme_depthwise, err);
}

METHOD(factor_depthwise_separable) = {
    .name = "factor.depthwise_separable",
    .summary = "k x k convolutions as depthwise and pointwise ones",
    .doc = "A k x k convolution becomes a sum of `terms` depthwise filters for each input channel, followed by a 1x1 "
           "convolution, from the singular values of each channel's part of the weight. One term is the form of "
           "MobileNet; it needs train.distill or train.finetune after it. With data the factors are the best ones "
           "for the layer's output on samples.",
    .params = params,
    .params_size = sizeof(struct factor_params),
    .needs_of = factor_needs,
    .check = factor_check,
    .run = run,
};
