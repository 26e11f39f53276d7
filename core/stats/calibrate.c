/* SPDX-License-Identifier: Apache-2.0
 * A track a value, fed by one of two collectors while the model runs: sums of the samples' ends, or a histogram. The
 * calibrator's row says which, and how an interval is made of it. */
#include "core/stats/calibrate.h"

#include <stdlib.h>

struct track {
    bool wanted, chosen;
    struct histogram *histogram;
    double lo, hi; /* sums of the smallest and largest numbers of `samples` samples */
    int64_t samples;
    struct clip clip; /* if chosen */
};

struct calibration {
    struct calibration_opts opts;
    const struct calibrator_row *row;
    struct ranges *ranges;
    struct channel_ranges *channels;
    struct track *at;
    bool *watch; /* [n] wanted, or to be seen */
    uint32_t n;
    int64_t batch, total, done;
};

/* One tensor of a wanted value: `rows` of its axis 0 count, n numbers, of which *seen is known. */
struct piece {
    const struct tensor *t;
    int64_t rows, n;
    struct extent seen;
};
typedef int collect_fn(struct calibration *c, struct track *track, const struct piece *p);
typedef struct clip choose_fn(const struct track *track, const struct calibration_opts *o);

/* ---- collecting ---- */
/* Rows are samples; a value without a row a sample is one sample as a whole. */
static int collect_ends(struct calibration *c, struct track *track, const struct piece *p)
{
    const bool each = c->batch > 1 && p->t->shape.rank > 0 && p->t->shape.dim[0] == c->batch;
    const int64_t samples = each ? p->rows : 1, count = p->n / samples;
    for (int64_t i = 0; i < samples; i++) {
        const struct extent e = each ? extent_f32(c->opts.pool, tensor_f32(p->t) + i * count, count) : p->seen;
        if (!(e.min <= e.max))
            continue;
        track->lo += (double)e.min;
        track->hi += (double)e.max;
        track->samples++;
    }
    return 0;
}

static int collect_histogram(struct calibration *c, struct track *track, const struct piece *p)
{
    if (!track->histogram)
        track->histogram = histogram_new();
    if (!track->histogram)
        return -1;
    histogram_add_seen(c->opts.pool, track->histogram, tensor_f32(p->t), p->n, &p->seen);
    return 0;
}

/* ---- choosing ---- */
static struct clip choose_mean(const struct track *track, const struct calibration_opts *o)
{
    const double n = track->samples > 0 ? (double)track->samples : 1;
    (void)o;
    return (struct clip){track->lo / n, track->hi / n};
}

static struct clip choose_percentile(const struct track *track, const struct calibration_opts *o)
{
    return histogram_percentile(track->histogram, o->percentile, o->symmetric);
}

static struct clip choose_entropy(const struct track *track, const struct calibration_opts *o)
{
    return histogram_entropy(track->histogram, o->levels, o->symmetric);
}

static struct clip choose_mse(const struct track *track, const struct calibration_opts *o)
{
    return histogram_mse(track->histogram, o->levels, o->symmetric);
}

static const struct calibrator_row {
    collect_fn *collect; /* NULL: the ranges say it */
    choose_fn *choose;
    int64_t batch;
} rows[CALIBRATORS] = {
    [CALIBRATE_MOVING_AVERAGE] = {collect_ends, choose_mean, 1},
    [CALIBRATE_PERCENTILE] = {collect_histogram, choose_percentile, 0},
    [CALIBRATE_ENTROPY] = {collect_histogram, choose_entropy, 0},
    [CALIBRATE_MSE] = {collect_histogram, choose_mse, 0},
};

/* ---- life ---- */
struct calibration *calibration_new(uint32_t n_values, const struct calibration_opts *opts)
{
    struct calibration *c = calloc(1, sizeof *c);
    if (!c)
        return NULL;
    *c = (struct calibration){.opts = *opts, .row = &rows[opts->calibrator], .n = n_values};
    c->ranges = ranges_new(n_values);
    c->at = calloc(n_values + (size_t)1, sizeof *c->at);
    c->watch = calloc(n_values + (size_t)1, sizeof *c->watch);
    if (!c->ranges || !c->at || !c->watch) {
        calibration_free(c);
        return NULL;
    }
    return c;
}

void calibration_free(struct calibration *c)
{
    if (!c)
        return;
    for (uint32_t v = 0; c->at && v < c->n; v++)
        free(c->at[v].histogram);
    ranges_free(c->ranges);
    channel_ranges_free(c->channels);
    free(c->at);
    free(c->watch);
    free(c);
}

void calibration_want(struct calibration *c, uint32_t value)
{
    if (value < c->n)
        c->watch[value] = c->at[value].wanted = true;
}

void calibration_watch(struct calibration *c, uint32_t value)
{
    if (value < c->n)
        c->watch[value] = true;
}

const bool *calibration_watched(const struct calibration *c)
{
    return c->watch;
}

int64_t calibration_batch(const struct calibration *c)
{
    return c->row->batch;
}

void calibration_start(struct calibration *c, int64_t fixed, int64_t total)
{
    c->batch = fixed;
    c->total = total;
    c->done = 0;
}

/* How much of a tensor counts: of a last batch that was filled up, the samples there are. */
static struct piece piece_of(const struct calibration *c, const struct tensor *t)
{
    struct piece p = {.t = t, .rows = t->shape.rank > 0 ? t->shape.dim[0] : 1, .n = tensor_count(t)};
    if (c->batch > 1 && p.rows == c->batch && c->total - c->done < c->batch) {
        p.n = p.n / p.rows * (c->total - c->done);
        p.rows = c->total - c->done;
    }
    p.seen = extent_f32(c->opts.pool, tensor_f32(t), p.n);
    return p;
}

int calibration_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct calibration *c = arg;
    if (t->dtype != DTYPE_FLOAT || tensor_count(t) <= 0)
        return ranges_observe(c->ranges, value, t, err);
    if (value >= c->n)
        return 0;
    const struct piece p = piece_of(c, t);
    ranges_add(c->ranges, value, &p.seen, p.n);
    if (c->at[value].wanted && c->row->collect && p.n > 0 && c->row->collect(c, &c->at[value], &p))
        return err_set(err, ERR_NOMEM, "out of memory for a histogram of 64 KiB while calibrating");
    return 0;
}

void calibration_ran(struct calibration *c, int64_t done)
{
    c->done = done;
}

static void choose_task(void *arg, int64_t task, int lane)
{
    struct calibration *c = arg;
    struct track *track = &c->at[task];
    (void)lane;
    if (!track->samples && !track->histogram)
        return;
    track->clip = c->row->choose(track, &c->opts);
    track->chosen = true;
    free(track->histogram);
    track->histogram = NULL;
}

void calibration_finish(struct calibration *c)
{
    pool_run(c->opts.pool, c->n, choose_task, c);
}

const struct range *calibration_range(const struct calibration *c, uint32_t value)
{
    return ranges_get(c->ranges, value);
}

struct clip calibration_clip(const struct calibration *c, uint32_t value)
{
    const struct range *r = calibration_range(c, value);
    if (value < c->n && c->at[value].chosen)
        return c->at[value].clip;
    return r && r->min <= r->max ? (struct clip){(double)r->min, (double)r->max} : (struct clip){0, 0};
}

void calibration_keep_channels(struct calibration *c, struct channel_ranges *channels)
{
    channel_ranges_free(c->channels);
    c->channels = channels;
}

const struct channel_ranges *calibration_channels(const struct calibration *c)
{
    return c ? c->channels : NULL;
}

struct pool *calibration_pool(const struct calibration *c)
{
    return c ? c->opts.pool : NULL;
}
