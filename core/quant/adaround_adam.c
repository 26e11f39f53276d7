/* SPDX-License-Identifier: Apache-2.0
 * adaround_adam.c - AdaRound on the rows of x that were kept (adaround.h).
 *   w~ = s clip(floor(w / s) + h(V), -most, most),  h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
 *   loss = mean over rows ||f(W x + b) - f(W~ x + b)||^2 / the same of the nearest codes
 *          + penalty mean(1 - |2 h - 1|^beta), from 20 % of the iterations on, beta from 20 down to 2
 * Here floor(w / s) is replaced by the lower of two codes: the one found from the Gram matrix, and its neighbour on
 * the side of
 * w. The loss is relative to that of the first, so that one penalty suits layers of any size.
 * Penalty    its slope is times the number of elements too, so that PENALTY weighs the mean of 1 - |2 h - 1|^beta.
 * Threads    products are cut by their shapes, elements by number: the same bits on any pool. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/quant/adaround.h"

enum { BATCH = 128, PIECE = 1024 };
static const float RATE = 0.01f, PENALTY = 0.1f;
static const double WARM = 0.2;

struct adam {
    struct rounded_layer *l;
    int64_t n, n_in;    /* elements of the weight; of a row of x */
    float *soft;        /* w~ [rows][k] */
    float *v, *m1, *m2; /* [n] */
    float *low;         /* floor(w / s) */
    float *sigmoid;     /* of v */
    float *slope;       /* d loss / d w~ */
    float *y;           /* [n_kept][rows] wanted outputs */
    float *x, *out;     /* a batch: [BATCH][n_in], [BATCH][rows] */
    bool moving;         /* false: only w~ is wanted */
    float beta;          /* exponent of this iteration; 0: no penalty */
    float unit;          /* elements / loss of the nearest codes */
    float fade1, fade2;  /* Adam's bias corrections */
};

static float bounded(const struct rounded_layer *l, float y)
{
    return y < l->lo ? l->lo : y > l->hi ? l->hi : y;
}

/* out [rows of x][outputs] = x W^T + b, group by group. */
static void multiply(const struct adam *a, int64_t n, const float *x, const float *w, float *out)
{
    const struct rounded_layer *l = a->l;
    const int64_t groups = l->gram->groups, per = l->rows / groups;
    for (int64_t g = 0; g < groups; g++) {
        const struct gemm gemm = {.trans_b = true, .m = n, .n = per, .k = l->k, .lda = a->n_in, .ldb = l->k,
                                  .ldc = l->rows, .alpha = 1};
        gemm_f32(l->pool, &gemm, x + g * l->k, w + g * per * l->k, out + g * per);
    }
    for (int64_t i = 0; l->bias && i < n; i++)
        for (int64_t r = 0; r < l->rows; r++)
            out[i * l->rows + r] += l->bias[r];
}

/* ---- elements ---- */
/* w~ from V. Keeps sigmoid(V), which the next slope needs. */
static void soften(const struct adam *a, int64_t i)
{
    const struct rounded_layer *l = a->l;
    const float most = (float)l->most, sigmoid = 1 / (1 + expf(-a->v[i])), h = 1.2f * sigmoid - 0.1f;
    const float code = a->low[i] + (h < 0 ? 0 : h > 1 ? 1 : h);
    a->sigmoid[i] = sigmoid;
    a->soft[i] = l->w[i] == 0 ? 0 : l->scale[i / l->k] * (code > most ? most : code < -most ? -most : code);
}

/* Adam's step for V. Slopes are times the number of elements, so that they do not vanish in large layers. */
static void step(const struct adam *a, int64_t i)
{
    const struct rounded_layer *l = a->l;
    const float most = (float)l->most, sigmoid = a->sigmoid[i], h = 1.2f * sigmoid - 0.1f;
    if (h <= 0 || h >= 1)
        return;
    const float dh = 1.2f * sigmoid * (1 - sigmoid), side = 2 * h - 1, code = a->low[i] + h;
    float g = code > -most && code < most ? a->slope[i] * l->scale[i / l->k] * dh * a->unit : 0;
    if (a->beta > 0)
        g -= a->beta * powf(fabsf(side), a->beta - 1) * (side < 0 ? -2.0f : 2.0f) * dh * PENALTY;
    a->m1[i] = 0.9f * a->m1[i] + 0.1f * g;
    a->m2[i] = 0.999f * a->m2[i] + 0.001f * g * g;
    a->v[i] -= RATE * (a->m1[i] * a->fade1) / (sqrtf(a->m2[i] * a->fade2) + 1e-8f);
}

static void each_element(void *arg, int64_t task, int lane)
{
    const struct adam *a = arg;
    (void)lane;
    for (int64_t i = task * PIECE; i < a->n && i < (task + 1) * PIECE; i++) {
        if (a->moving)
            step(a, i);
        soften(a, i);
    }
}

/* ---- one iteration ---- */
static void iterate(struct adam *a, struct rng *rng)
{
    const struct rounded_layer *l = a->l;
    const int64_t groups = l->gram->groups, per = l->rows / groups, n = i64_min(BATCH, l->gram->n_kept);
    const float *rows[BATCH];
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = (int64_t)rng_below(rng, (uint64_t)l->gram->n_kept);
        memcpy(a->x + i * a->n_in, l->gram->kept + at * a->n_in, (size_t)a->n_in * sizeof *a->x);
        rows[i] = a->y + at * l->rows;
    }
    multiply(a, n, a->x, a->soft, a->out);
    for (int64_t i = 0; i < n; i++)
        for (int64_t r = 0; r < l->rows; r++) {
            float *y = &a->out[i * l->rows + r];
            *y = *y < l->lo || *y > l->hi ? 0 : (*y - rows[i][r]) * 2 / (float)n;
        }
    for (int64_t g = 0; g < groups; g++) { /* slope = out^T x */
        const struct gemm gemm = {.trans_a = true, .m = per, .n = l->k, .k = n, .lda = l->rows, .ldb = a->n_in,
                                  .ldc = l->k, .alpha = 1};
        gemm_f32(l->pool, &gemm, a->out + g * per, a->x + g * l->k, a->slope + g * per * l->k);
    }
    pool_run(l->pool, i64_ceil_div(a->n, PIECE), each_element, a);
}

/* Mean squared error of each output over the rows kept, for the weight `w`. */
static void errors(const struct adam *a, const float *w, double *error)
{
    const struct rounded_layer *l = a->l;
    const int64_t kept = l->gram->n_kept;
    memset(error, 0, (size_t)l->rows * sizeof *error);
    for (int64_t first = 0; first < kept; first += BATCH) {
        const int64_t n = i64_min(BATCH, kept - first);
        multiply(a, n, l->gram->kept + first * a->n_in, w, a->out);
        for (int64_t i = 0; i < n; i++)
            for (int64_t r = 0; r < l->rows; r++) {
                const double d = (double)bounded(l, a->out[i * l->rows + r]) - (double)a->y[(first + i) * l->rows + r];
                error[r] += d * d / (double)kept;
            }
    }
}

static void wanted_outputs(struct adam *a)
{
    const struct rounded_layer *l = a->l;
    const int64_t kept = l->gram->n_kept;
    for (int64_t first = 0; first < kept; first += BATCH) {
        const int64_t n = i64_min(BATCH, kept - first);
        multiply(a, n, l->gram->kept + first * a->n_in, l->w, a->y + first * l->rows);
    }
    for (int64_t i = 0; i < kept * l->rows; i++)
        a->y[i] = bounded(l, a->y[i]);
}

/* ---- the layer ---- */
/* Between the code there is and its neighbour on the weight's side, nearer to the code. */
static void start(struct adam *a)
{
    const struct rounded_layer *l = a->l;
    for (int64_t i = 0; i < a->n; i++) {
        const double rest = (double)l->w[i] / (double)l->scale[i / l->k] - (double)l->code[i];
        const double far = fmin(fabs(rest), 0.5), h = rest >= 0 ? far : 1 - far, p = (h * 0.999 + 0.0005 + 0.1) / 1.2;
        a->low[i] = (float)(rest >= 0 ? l->code[i] : l->code[i] - 1);
        a->v[i] = (float)-log(1 / p - 1);
    }
}

/* The harder side of each choice; a pair beyond its limit gives back, the larger code first. */
static void harden(const struct adam *a, int32_t *code)
{
    const struct rounded_layer *l = a->l;
    for (int64_t i = 0; i < a->n; i++) {
        const double c = (double)a->low[i] + (a->v[i] >= 0 ? 1 : 0);
        code[i] = l->w[i] == 0 ? 0 : (int32_t)fmin(fmax(c, -l->most), l->most);
    }
    for (int64_t i = 0; l->partner && i < a->n; i++) {
        int32_t *x = &code[i], *y = &code[i - i % l->k + l->partner[i % l->k]];
        while (x != y && (*x > 0) == (*y > 0) && abs(*x + *y) > l->pair_most) {
            int32_t *more = abs(*x) >= abs(*y) ? x : y;
            *more += *more > 0 ? -1 : 1;
        }
    }
}

static bool adam_make(struct adam *a)
{
    const struct rounded_layer *l = a->l;
    const size_t n = (size_t)a->n, rows = (size_t)l->rows, kept = (size_t)l->gram->n_kept;
    a->soft = malloc(n * sizeof(float));
    a->v = malloc(n * sizeof(float));
    a->m1 = calloc(n, sizeof(float));
    a->m2 = calloc(n, sizeof(float));
    a->low = malloc(n * sizeof(float));
    a->sigmoid = malloc(n * sizeof(float));
    a->slope = malloc(n * sizeof(float));
    a->y = malloc(kept * rows * sizeof(float));
    a->x = malloc(BATCH * (size_t)a->n_in * sizeof(float));
    a->out = malloc(BATCH * rows * sizeof(float));
    return a->soft && a->v && a->m1 && a->m2 && a->low && a->sigmoid && a->slope && a->y && a->x && a->out;
}

static void adam_fini(struct adam *a)
{
    free(a->soft);
    free(a->v);
    free(a->m1);
    free(a->m2);
    free(a->low);
    free(a->sigmoid);
    free(a->slope);
    free(a->y);
    free(a->x);
    free(a->out);
}

static void dequantize(const struct adam *a, const int32_t *code, float *w)
{
    for (int64_t i = 0; i < a->n; i++)
        w[i] = (float)code[i] * a->l->scale[i / a->l->k];
}

static int optimize(struct adam *a, int (*progress)(void *arg, int64_t done, int64_t total, struct err *err), void *arg,
                    struct err *err)
{
    const struct rounded_layer *l = a->l;
    struct rng rng;
    rng_init(&rng, l->seed, 0x6164616d);
    pool_run(l->pool, i64_ceil_div(a->n, PIECE), each_element, a);
    a->moving = true;
    for (int64_t i = 0; i < l->iterations; i++) {
        const double part = (double)i / (double)l->iterations, t = (part - WARM) / (1 - WARM);
        a->beta = part < WARM ? 0 : (float)(2 + 18 * 0.5 * (1 + cos(t * 3.14159265358979)));
        a->fade1 = (float)(1 / (1 - pow(0.9, (double)(i + 1))));
        a->fade2 = (float)(1 / (1 - pow(0.999, (double)(i + 1))));
        iterate(a, &rng);
        if (progress && i % 100 == 99 && progress(arg, i + 1, l->iterations, err))
            return -1;
    }
    return 0;
}

int round_by_adam(struct rounded_layer *l, int (*progress)(void *arg, int64_t done, int64_t total, struct err *err),
                  void *arg, struct err *err)
{
    struct adam a = {.l = l, .n = l->rows * l->k, .n_in = l->gram->groups * l->k};
    int32_t *code = malloc((size_t)a.n * sizeof *code);
    double *error = malloc((size_t)l->rows * sizeof *error), loss = 0;
    int rc = -1;
    if (!code || !error || !adam_make(&a)) {
        err_set(err, ERR_NOMEM, "out of memory while choosing codes");
        goto out;
    }
    wanted_outputs(&a);
    dequantize(&a, l->code, a.soft);
    errors(&a, a.soft, l->before);
    memcpy(error, l->before, (size_t)l->rows * sizeof *error);
    if (round_by_gram(l, err))
        goto out;
    memcpy(l->before, error, (size_t)l->rows * sizeof *error); /* through the activation, on the rows kept */
    l->changed = 0;
    dequantize(&a, l->code, a.soft);
    errors(&a, a.soft, l->after);
    for (int64_t r = 0; r < l->rows; r++)
        loss += l->after[r];
    a.unit = loss > 0 ? (float)((double)a.n / loss) : 0;
    start(&a);
    if (a.unit > 0 && isfinite(a.unit) && optimize(&a, progress, arg, err))
        goto out;
    harden(&a, code);
    dequantize(&a, code, a.soft);
    errors(&a, a.soft, error);
    for (int64_t r = 0; r < l->rows; r++) {
        if (error[r] < l->after[r]) {
            l->after[r] = error[r];
            memcpy(l->code + r * l->k, code + r * l->k, (size_t)l->k * sizeof *code);
        }
        l->changed += l->after[r] < l->before[r];
    }
    rc = 0;
out:
    free(code);
    free(error);
    adam_fini(&a);
    return rc;
}
