/* SPDX-License-Identifier: Apache-2.0
 * factor_stages.c - what stages cost, what they are together, and their scales (factor.h). */
#include <math.h>
#include <stdlib.h>

#include "core/factor/factor.h"
#include "core/factor/linear.h"

/* ---- taps ---- */
int64_t layer_taps(const struct layer *l, unsigned axes)
{
    int64_t n = 1;
    for (int a = 0; a < l->spatial; a++)
        n *= axes >> a & 1 ? l->kernel[a] : 1;
    return n;
}

/* The tap of the axes in `part` that tap t of the axes in `whole` (which has them) stands on. */
static int64_t tap_of(const struct layer *l, unsigned whole, int64_t t, unsigned part)
{
    int64_t at = 0, step = 1;
    for (int a = l->spatial - 1; a >= 0; a--) {
        if (!(whole >> a & 1))
            continue;
        const int64_t i = t % l->kernel[a];
        t /= l->kernel[a];
        if (part >> a & 1) {
            at += i * step;
            step *= l->kernel[a];
        }
    }
    return at;
}

/* ---- weights ---- */
static int64_t stage_size(const struct layer *l, const struct stage *s)
{
    return l->groups * s->out * (s->in / s->split) * layer_taps(l, s->axes);
}

int stages_alloc(const struct layer *l, struct stage *stage, int n, struct err *err)
{
    for (int i = 0; i < n; i++)
        stage[i].w = NULL;
    for (int i = 0; i < n; i++)
        if (!(stage[i].w = doubles_new(stage_size(l, &stage[i]), 1, err))) {
            stages_fini(stage, n);
            return -1;
        }
    return 0;
}

void stages_fini(struct stage *stage, int n)
{
    for (int i = 0; i < n; i++) {
        free(stage[i].w);
        stage[i].w = NULL;
    }
}

void stages_cost(const struct layer *l, const struct stage *stage, int n, int64_t *params, int64_t *macs)
{
    unsigned done = 0;
    *params = *macs = 0;
    for (int i = 0; i < n; i++) {
        int64_t positions = l->vectors;
        done |= stage[i].axes;
        for (int a = 0; a < l->spatial; a++)
            positions *= done >> a & 1 ? l->out_size[a] : l->in_size[a];
        *params += stage_size(l, &stage[i]);
        *macs += stage_size(l, &stage[i]) * positions;
    }
}

/* ---- composition ---- */
/* One group of one more stage behind a composition: to [s->out][in][taps of done and s]. */
static void compose_one(const struct layer *l, const struct stage *s, const double *w, unsigned done,
                        const double *from, double *to)
{
    const unsigned both = done | s->axes;
    const int64_t taps = layer_taps(l, both), before = layer_taps(l, done), mine = layer_taps(l, s->axes);
    const int64_t width = s->in / s->split, high = s->out / s->split;
    for (int64_t o = 0; o < s->out; o++)
        for (int64_t t = 0; t < taps; t++) {
            const int64_t tb = tap_of(l, both, t, done), tm = tap_of(l, both, t, s->axes);
            for (int64_t c = 0; c < width; c++) {
                const double f = w[(o * width + c) * mine + tm];
                const double *row = from + (o / high * width + c) * l->in * before + tb;
                for (int64_t i = 0; i < l->in; i++)
                    to[(o * l->in + i) * taps + t] += f * row[i * before];
            }
        }
}

static double *compose(const struct layer *l, const struct stage *stage, int n, unsigned *done, struct err *err)
{
    int64_t channels = l->in;
    double *now = doubles_new(l->groups * l->in, l->in, err);
    *done = 0;
    for (int64_t i = 0; now && i < l->groups * l->in; i++)
        now[i * l->in + i % l->in] = 1;
    for (int i = 0; now && i < n; i++) {
        const struct stage *s = &stage[i];
        const int64_t before = layer_taps(l, *done), taps = layer_taps(l, *done | s->axes);
        double *next = doubles_new(l->groups * s->out, l->in * taps, err);
        for (int64_t g = 0; next && g < l->groups; g++)
            compose_one(l, s, s->w + g * (stage_size(l, s) / l->groups), *done, now + g * channels * l->in * before,
                        next + g * s->out * l->in * taps);
        free(now);
        now = next;
        channels = s->out;
        *done |= s->axes;
    }
    return now;
}

double *stages_compose(const struct layer *l, const struct stage *stage, int n, struct err *err)
{
    unsigned done;
    return compose(l, stage, n, &done, err);
}

double *stages_features(const struct layer *l, const struct stage *stage, int n, struct err *err)
{
    const struct stage *last = &stage[n - 1];
    unsigned done;
    double *f = compose(l, stage, n - 1, &done, err), *out = NULL;
    const unsigned all = layer_axes(l);
    const int64_t before = layer_taps(l, done), mine = layer_taps(l, last->axes), width = l->in * l->taps;
    if (f)
        out = doubles_new(l->groups * last->in * mine, width, err);
    for (int64_t c = 0; out && c < l->groups * last->in; c++)
        for (int64_t i = 0; i < l->in; i++)
            for (int64_t t = 0; t < l->taps; t++)
                out[(c * mine + tap_of(l, all, t, last->axes)) * width + i * l->taps + t] =
                    f[(c * l->in + i) * before + tap_of(l, all, t, done)];
    free(f);
    return out;
}

double stages_error(const struct layer *l, const struct stage *stage, int n, const double *w, struct err *err)
{
    double *is = stages_compose(l, stage, n, err), noise = 0, signal = 0;
    for (int64_t i = 0; is && i < l->groups * l->out * l->in * l->taps; i++) {
        noise += (w[i] - is[i]) * (w[i] - is[i]);
        signal += w[i] * w[i];
    }
    const double error = is ? noise / (signal > 0 ? signal : 1) : NAN;
    free(is);
    return error;
}

/* ---- scales ---- */
/* `count` runs of `size` numbers, `step` apart. */
static double channel_norm(const double *w, int64_t count, int64_t size, int64_t step)
{
    double sum = 0;
    for (int64_t k = 0; k < count; k++)
        for (int64_t i = 0; i < size; i++)
            sum += w[k * step + i] * w[k * step + i];
    return sqrt(sum);
}

static void channel_scale(double *w, int64_t count, int64_t size, int64_t step, double by)
{
    for (int64_t k = 0; k < count; k++)
        for (int64_t i = 0; i < size; i++)
            w[k * step + i] *= by;
}

void stages_balance(const struct layer *l, struct stage *stage, int n)
{
    for (int i = 0; i + 1 < n; i++) {
        const struct stage *a = &stage[i], *b = &stage[i + 1];
        const int64_t row = a->in / a->split * layer_taps(l, a->axes), taps = layer_taps(l, b->axes),
                      width = b->in / b->split, high = b->out / b->split;
        for (int64_t c = 0; c < l->groups * a->out; c++) {
            const int64_t g = c / a->out, at = c % a->out;
            double *mine = a->w + c * row,
                   *next = b->w + ((g * b->out + at / width * high) * width + at % width) * taps;
            const double x = channel_norm(mine, 1, row, 0), y = channel_norm(next, high, taps, width * taps);
            const double by = sqrt(y / x);
            if (!(x > 0) || !(y > 0) || !isfinite(by) || !(by > 0))
                continue;
            channel_scale(mine, 1, row, 0, by);
            channel_scale(next, high, taps, width * taps, 1 / by);
        }
    }
}
