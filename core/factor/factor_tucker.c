/* SPDX-License-Identifier: Apache-2.0
 * factor_tucker.c - factor.tucker: a convolution as 1x1 (in -> rank_in), the kernel (rank_in -> rank_out), 1x1
 * (rank_out -> out).
 *
 * Tucker-2 of the weight by its higher-order singular value decomposition (Kim et al., ICLR 2016): U and V are the left
 * singular vectors of W unfolded along outputs and along inputs, the core is W seen in them. Both are orthogonal, so
 * what any pair of ranks leaves out is known from one table: the core's squares summed over its upper left corner. All
 * pairs on a grid are points, also those where one side keeps all channels; that product is then left out (Tucker-1).
 * With second moments, inputs are whitened first: W' = W L for each tap, L L^T the moments of the channels averaged
 * over the taps; the first product then is V^T L^-1. */
#include <stdlib.h>

#include "core/base/size.h"
#include "core/factor/factor.h"
#include "core/factor/linear.h"
#include "core/kernels/gemm.h"

enum { GRID = 48 }; /* ranks of a side that are tried */

struct prep {
    int64_t ko, ki; /* columns of u, v */
    double *u;      /* [groups][out][ko] */
    double *reduce; /* [groups][ki][in] V^T L^-1 */
    double *back;   /* [groups][in][ki] L V */
};

static void release(void *prep)
{
    struct prep *p = prep;
    free(p->u);
    free(p->reduce);
    free(p->back);
    free(p);
}

static int shape(const struct layer *l, const int64_t rank[2], struct stage *stage)
{
    int n = 0;
    if (rank[0] < l->in)
        stage[n++] = (struct stage){.suffix = "reduce", .out = rank[0], .in = l->in, .split = 1};
    stage[n++] = (struct stage){.suffix = "core", .out = rank[1], .in = rank[0], .split = 1, .axes = layer_axes(l)};
    if (rank[1] < l->out)
        stage[n++] = (struct stage){.suffix = "expand", .out = l->out, .in = rank[1], .split = 1};
    return n;
}

/* [out][in][taps] to [in][out][taps]. */
static void unfold_in(const struct layer *l, const double *w, double *to)
{
    for (int64_t o = 0; o < l->out; o++)
        for (int64_t i = 0; i < l->in; i++)
            for (int64_t t = 0; t < l->taps; t++)
                to[(i * l->out + o) * l->taps + t] = w[(o * l->in + i) * l->taps + t];
}

/* to[rows][b][taps] = sum over a of m[a][b] * w[rows][a][taps]. */
static void along_in(const struct layer *l, const double *m, int64_t ldm, const double *w, int64_t rows, int64_t a,
                     int64_t b, double *to)
{
    struct gemm g = gemm_plain(true, false, b, l->taps, a);
    g.lda = ldm;
    for (int64_t r = 0; r < rows; r++)
        gemm_f64_tile(&g, m, w + r * a * l->taps, to + r * b * l->taps);
}

/* ---- decomposition ---- */
struct work {
    double *l, *inverse; /* [in][in] */
    double *white;       /* [out][in][taps] W' */
    double *turned;      /* [in][out][taps] */
    double *half, *core; /* [out][ki][taps], [ko][ki][taps] */
};

static void work_free(struct work *k)
{
    free(k->l);
    free(k->inverse);
    free(k->white);
    free(k->turned);
    free(k->half);
    free(k->core);
}

static int work_make(struct work *k, const struct layer *l, const struct prep *p, struct err *err)
{
    const int64_t size = l->in * l->taps;
    k->l = doubles_new(l->in, l->in, err);
    k->inverse = doubles_new(l->in, l->in, err);
    k->white = doubles_new(l->out, size, err);
    k->turned = doubles_new(l->out, size, err);
    k->half = doubles_new(l->out, p->ki * l->taps, err);
    k->core = doubles_new(p->ko, p->ki * l->taps, err);
    return k->l && k->inverse && k->white && k->turned && k->half && k->core ? 0 : -1;
}

/* Mean over the taps of the channels' moments. */
static void channel_moments(const struct layer *l, const double *c, double *out)
{
    const int64_t width = l->in * l->taps;
    for (int64_t i = 0; i < l->in; i++)
        for (int64_t j = 0; j < l->in; j++) {
            double sum = 0;
            for (int64_t t = 0; t < l->taps; t++)
                sum += c ? c[(i * l->taps + t) * width + j * l->taps + t] : i == j;
            out[i * l->in + j] = sum / (double)l->taps;
        }
}

static int decompose_group(const struct layer *l, const double *w, const double *c, int64_t group, struct prep *p,
                           struct work *k, struct err *err)
{
    struct svd s;
    const int64_t wide = l->in * l->taps;
    double *u = p->u + group * l->out * p->ko, *reduce = p->reduce + group * p->ki * l->in,
           *back = p->back + group * l->in * p->ki;
    channel_moments(l, c, k->l);
    if (cholesky_damped(k->l, l->in, 1e-6, k->inverse, err))
        return -1;
    along_in(l, k->l, l->in, w, l->out, l->in, l->in, k->white);
    unfold_in(l, k->white, k->turned);
    if (svd_make(&s, k->turned, l->in, l->out * l->taps, err))
        return -1;
    const struct gemm down = gemm_plain(true, false, s.k, l->in, l->in),
                      up = gemm_plain(false, false, l->in, s.k, l->in);
    gemm_f64(l->pool, &down, s.u, k->inverse, reduce);
    gemm_f64(l->pool, &up, k->l, s.u, back);
    along_in(l, s.u, s.k, k->white, l->out, l->in, s.k, k->half);
    svd_fini(&s);
    if (svd_make(&s, k->white, l->out, wide, err))
        return -1;
    const struct gemm core = gemm_plain(true, false, s.k, p->ki * l->taps, l->out);
    gemm_f64(l->pool, &core, s.u, k->half, k->core);
    for (int64_t i = 0; i < l->out * p->ko; i++)
        u[i] = s.u[i];
    svd_fini(&s);
    return 0;
}

/* sum[o + 1][i + 1] of the core's squares in its first o + 1 rows and i + 1 columns, added to what other groups have.
 * */
static void add_corners(const struct layer *l, const struct prep *p, const double *core, double *sum)
{
    const int64_t cols = p->ki + 1;
    double *above = calloc((size_t)cols, sizeof *above); /* of this group alone */
    for (int64_t o = 0; above && o < p->ko; o++) {
        double line = 0;
        for (int64_t i = 0; i < p->ki; i++) {
            for (int64_t t = 0; t < l->taps; t++) {
                const double v = core[(o * p->ki + i) * l->taps + t];
                line += v * v;
            }
            above[i + 1] += line;
            sum[(o + 1) * cols + i + 1] += above[i + 1];
        }
    }
    free(above);
}

/* The ranks of a side that are tried: multiples of round_to, about GRID of them, and all channels. Returns how many. */
static int ranks_of(int64_t most, int64_t channels, int64_t round_to, int64_t *rank)
{
    const int64_t step = i64_max(1, i64_ceil_div(most / round_to, GRID)) * round_to;
    int n = 0;
    for (int64_t r = round_to; r <= most && r < channels; r += n + 1 < 8 ? round_to : step)
        rank[n++] = r;
    rank[n++] = channels;
    return n;
}

static int add_points(struct layer *l, const struct prep *p, const double *sum, int64_t round_to, struct err *err)
{
    int64_t in[GRID + 16], out[GRID + 16];
    const int64_t cols = p->ki + 1;
    const int ni = ranks_of(p->ki, l->in, round_to, in), no = ranks_of(p->ko, l->out, round_to, out);
    const double total = sum[p->ko * cols + p->ki];
    for (int a = 0; a < ni; a++)
        for (int b = 0; b < no; b++) {
            const double kept = sum[i64_min(out[b], p->ko) * cols + i64_min(in[a], p->ki)];
            if ((in[a] < l->in || out[b] < l->out) &&
                layer_add_point(l, &scheme_tucker, (int64_t[2]){in[a], out[b]}, 1 - kept / total, err))
                return -1;
        }
    return 0;
}

static int prepare(struct layer *l, const double *w, const struct moments *x, int64_t round_to, struct err *err)
{
    const int64_t width = l->in * l->taps;
    struct prep *p = calloc(1, sizeof *p);
    struct work k = {0};
    double *sum = NULL;
    int rc = -1;
    if (!p)
        return err_set(err, ERR_NOMEM, "out of memory while factorizing a layer");
    l->prep = p;
    p->ko = i64_min(l->out, width);
    p->ki = i64_min(l->in, l->out * l->taps);
    p->u = doubles_new(l->groups * l->out, p->ko, err);
    p->reduce = doubles_new(l->groups * p->ki, l->in, err);
    p->back = doubles_new(l->groups * l->in, p->ki, err);
    sum = doubles_new(p->ko + 1, p->ki + 1, err);
    if (!p->u || !p->reduce || !p->back || !sum || work_make(&k, l, p, err))
        goto out;
    rc = 0;
    for (int64_t g = 0; rc == 0 && g < l->groups; g++) {
        rc = decompose_group(l, w + g * l->out * width, x->c ? x->c + g * width * width : NULL, g, p, &k, err);
        add_corners(l, p, k.core, sum);
    }
    if (rc == 0 && sum[p->ko * (p->ki + 1) + p->ki] > 0)
        rc = add_points(l, p, sum, round_to, err);
out:
    work_free(&k);
    free(sum);
    return rc;
}

/* ---- stages ---- */
static int make(const struct layer *l, const double *w, const int64_t rank[2], struct stage *stage, struct err *err)
{
    const struct prep *p = l->prep;
    const int64_t ri = rank[0], ro = rank[1], width = l->in * l->taps;
    const bool reduce = ri < l->in, expand = ro < l->out;
    struct stage *core = &stage[reduce];
    double *half = doubles_new(l->out, ri * l->taps, err);
    if (!half)
        return -1;
    for (int64_t g = 0; g < l->groups; g++) {
        const double *own = w + g * l->out * width, *u = p->u + g * l->out * p->ko, *seen = own;
        double *to = core->w + g * ro * ri * l->taps;
        if (reduce) {
            along_in(l, p->back + g * l->in * p->ki, p->ki, own, l->out, l->in, ri, half);
            seen = half;
            for (int64_t i = 0; i < ri * l->in; i++)
                stage[0].w[g * ri * l->in + i] = p->reduce[g * p->ki * l->in + i];
        }
        struct gemm turn = gemm_plain(true, false, ro, ri * l->taps, l->out);
        turn.lda = p->ko;
        if (expand)
            gemm_f64(l->pool, &turn, u, seen, to);
        for (int64_t i = 0; !expand && i < l->out * ri * l->taps; i++)
            to[i] = seen[i];
        for (int64_t o = 0; expand && o < l->out; o++)
            for (int64_t c = 0; c < ro; c++)
                stage[1 + reduce].w[(g * l->out + o) * ro + c] = u[o * p->ko + c];
    }
    free(half);
    return 0;
}

/* The largest over the groups. */
static int vbmf(const struct layer *l, const double *w, int64_t rank[2], struct err *err)
{
    const int64_t width = l->in * l->taps;
    rank[0] = rank[1] = 1;
    for (int64_t g = 0; g < l->groups; g++) {
        struct svd a = {0}, b = {0};
        double *in = doubles_new(l->in, l->out * l->taps, err), *out = doubles_new(l->out, width, err);
        for (int64_t i = 0; in && out && i < l->out * width; i++)
            out[i] = w[g * l->out * width + i];
        if (in && out)
            unfold_in(l, out, in);
        const int rc = in && out && svd_make(&a, in, l->in, l->out * l->taps, err) == 0
                           ? svd_make(&b, out, l->out, width, err)
                           : -1;
        if (rc == 0) {
            rank[0] = i64_max(rank[0], vbmf_rank(a.s, l->in, l->out * l->taps));
            rank[1] = i64_max(rank[1], vbmf_rank(b.s, l->out, width));
        }
        free(in);
        free(out);
        svd_fini(&a);
        svd_fini(&b);
        if (rc)
            return -1;
    }
    return 0;
}

static const char *refuse(const struct layer *l)
{
    if (l->taps == 1)
        return l->spatial ? "its kernel is 1: see factor.svd" : "it is a product of matrices: see factor.svd";
    return l->groups > 1 && l->in == 1 ? "it is depthwise: a group has one channel" : NULL;
}

static const char *const names[] = {"rank_in", "rank_out", NULL};
const struct scheme scheme_tucker = {.name = "tucker",
                                     .rank_names = names,
                                     .refuse = refuse,
                                     .shape = shape,
                                     .prepare = prepare,
                                     .make = make,
                                     .vbmf = vbmf,
                                     .release = release};

static const struct param params[] = {
    {FACTOR_P(rank), .kind = PARAM_INT, .min = 1, .max = 1e9, .given = PARAM_GIVEN(factor_params, has_rank),
     .doc = "channels before and after the small kernel, in every layer"},
    FACTOR_ROWS,
    FACTOR_ROUND,
    {FACTOR_P(vbmf), .kind = PARAM_BOOL, .def = "false",
     .doc = "the ranks that variational Bayes finds in each weight (Nakajima et al., 2013)"},
    {0},
};

static int run(struct step_ctx *c, struct err *err)
{
    return factor_run(c, &scheme_tucker, err);
}

METHOD(factor_tucker) = {
    .name = "factor.tucker",
    .summary = "k x k convolutions as 1x1, a k x k one with fewer channels, and 1x1",
    .doc =
        "Tucker-2 decomposition (Kim et al., 2016): channels are projected down, convolved and projected up again. A "
        "side whose channels are all needed has no 1x1. With data the projections are the best ones for the "
        "layer's output on samples, and the last factor is then fitted to the original network's outputs.",
    .params = params,
    .params_size = sizeof(struct factor_params),
    .needs_of = factor_needs,
    .check = factor_check,
    .run = run,
};
