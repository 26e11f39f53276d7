/* SPDX-License-Identifier: Apache-2.0
 * factor_fit.c - the last stage, fitted to samples.
 *
 * What the stages before the last make is F x, F known (stages_features). In the changed network x is x_b, in the
 * original it was x_a, and W x_a is wanted. So the last stage A is the least-squares solution of A F x_b = W x_a, from
 * the second moments alone:
 *     A = A_0 + (W C_ab F^T - A_0 F C_bb F^T) (F C_bb F^T + ridge I)^-1
 * The ridge pulls to the factor as it was, and grows as rows become few for so many features. With a bias, moments are
 * central and the bias takes up the difference of the means. */
#include <stdlib.h>
#include <string.h>

#include "core/factor/factor.h"
#include "core/factor/linear.h"
#include "core/kernels/gemm.h"
#include "core/stats/pair_gram.h"

static const double RIDGE = 1e-4, DOUBT = 0.1;

struct fit {
    const struct layer *l;
    const struct stage *last;
    int64_t width, features, taps; /* width: of a patch; taps: of the last stage */
    double *bb, *ab;               /* [width][width] of a group */
    double *fb;                    /* [features][width] F C_bb */
    double *h;                     /* [features][features] F C_bb F^T */
    double *a, *r, *wab;           /* [out][features] A_0; what is left; [out][width] W C_ab */
};

static void centre(const struct fit *f, const double *mean_a, const double *mean_b)
{
    for (int64_t i = 0; i < f->width; i++)
        for (int64_t j = 0; j < f->width; j++) {
            f->bb[i * f->width + j] -= mean_b[i] * mean_b[j];
            f->ab[i * f->width + j] -= mean_a[i] * mean_b[j];
        }
}

static void product(const struct fit *f, bool trans_b, int64_t m, int64_t n, int64_t k, const double *a,
                    const double *b, double *c)
{
    const struct gemm g = gemm_plain(false, trans_b, m, n, k);
    gemm_f64(f->l->pool, &g, a, b, c);
}

/* One group: A in place of A_0. */
static int fit_group(struct fit *f, const double *w, const double *features, int64_t rows, struct err *err)
{
    const int64_t out = f->l->out, n = f->features;
    const double lack = (double)n / (double)(rows > 0 ? rows : 1);
    product(f, false, n, f->width, f->width, features, f->bb, f->fb);
    product(f, true, n, n, f->width, f->fb, features, f->h);
    product(f, false, out, f->width, f->width, w, f->ab, f->wab);
    product(f, true, out, n, f->width, f->wab, features, f->r);
    struct gemm g = gemm_plain(false, false, out, n, n);
    g.alpha = -1;
    g.beta = 1;
    gemm_f64(f->l->pool, &g, f->a, f->h, f->r);
    if (solve_right(f->h, n, RIDGE + DOUBT * lack * (lack > 1 ? lack : 1), f->r, out, err))
        return -1;
    for (int64_t i = 0; i < out * n; i++)
        f->a[i] += f->r[i];
    return doubles_finite(f->a, out * n) ? 0 : err_set(err, ERR_MODEL, "the fit is not finite");
}

/* W mean_a - A F mean_b. */
static void shift_of(const struct fit *f, const double *w, const double *features, const double *mean_a,
                     const double *mean_b, double *shift)
{
    for (int64_t c = 0; c < f->features; c++) {
        f->fb[c] = 0;
        for (int64_t i = 0; i < f->width; i++)
            f->fb[c] += features[c * f->width + i] * mean_b[i];
    }
    for (int64_t o = 0; o < f->l->out; o++) {
        double sum = 0;
        for (int64_t i = 0; i < f->width; i++)
            sum += w[o * f->width + i] * mean_a[i];
        for (int64_t c = 0; c < f->features; c++)
            sum -= f->a[o * f->features + c] * f->fb[c];
        shift[o] = sum;
    }
}

static int fit_groups(struct fit *f, const double *w, const double *features, const struct pair_moments *x,
                      bool centred, double *shift, struct err *err)
{
    const int64_t square = f->width * f->width, size = f->l->out * f->features;
    for (int64_t g = 0; g < f->l->groups; g++) {
        const double *own = w + g * f->l->out * f->width, *reads = features + g * f->features * f->width,
                     *mean_a = x->mean_a + g * f->width, *mean_b = x->mean_b + g * f->width;
        memcpy(f->bb, x->bb + g * square, (size_t)square * sizeof *f->bb);
        memcpy(f->ab, x->ab + g * square, (size_t)square * sizeof *f->ab);
        memcpy(f->a, f->last->w + g * size, (size_t)size * sizeof *f->a);
        if (centred)
            centre(f, mean_a, mean_b);
        if (fit_group(f, own, reads, x->rows, err))
            return -1;
        memcpy(f->last->w + g * size, f->a, (size_t)size * sizeof *f->a);
        if (centred)
            shift_of(f, own, reads, mean_a, mean_b, shift + g * f->l->out);
    }
    return 0;
}

/* The last stage is dense (split 1): its weight [out][in][taps] is A [out][features]. */
int stages_fit(const struct layer *l, const double *w, struct stage *stage, int n, const struct pair_moments *x,
               bool centred, double *shift, struct err *err)
{
    struct fit f = {.l = l, .last = &stage[n - 1], .width = l->in * l->taps};
    int rc = -1;
    if (f.last->split != 1 || x->groups != l->groups || x->k != f.width)
        return err_set(err, ERR_MODEL, "what it reads does not fit its weight");
    f.taps = layer_taps(l, f.last->axes);
    f.features = f.last->in * f.taps;
    double *features = stages_features(l, stage, n, err);
    f.bb = doubles_new(f.width, f.width, err);
    f.ab = doubles_new(f.width, f.width, err);
    f.fb = doubles_new(f.features, f.width, err);
    f.h = doubles_new(f.features, f.features, err);
    f.a = doubles_new(l->out, f.features, err);
    f.r = doubles_new(l->out, f.features, err);
    f.wab = doubles_new(l->out, f.width, err);
    if (features && f.bb && f.ab && f.fb && f.h && f.a && f.r && f.wab)
        rc = fit_groups(&f, w, features, x, centred, shift, err);
    free(features);
    free(f.bb);
    free(f.ab);
    free(f.fb);
    free(f.h);
    free(f.a);
    free(f.r);
    free(f.wab);
    return rc;
}
