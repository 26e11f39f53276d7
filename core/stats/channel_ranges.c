/* SPDX-License-Identifier: Apache-2.0
 * channel_ranges.c - a row of minima and maxima a value (channel_ranges.h). */
#include "core/stats/channel_ranges.h"

#include <math.h>
#include <stdlib.h>

struct track {
    bool wanted, spoiled;
    int axis;
    int64_t channels; /* 0: not seen yet */
    float *min, *max;
};
struct channel_ranges {
    uint32_t n;
    struct track *at;
};

struct channel_ranges *channel_ranges_new(uint32_t n_values)
{
    struct channel_ranges *r = calloc(1, sizeof *r);
    if (!r)
        return NULL;
    r->n = n_values;
    r->at = calloc(n_values + (size_t)1, sizeof *r->at);
    if (!r->at) {
        free(r);
        return NULL;
    }
    return r;
}

void channel_ranges_free(struct channel_ranges *r)
{
    if (!r)
        return;
    for (uint32_t v = 0; v < r->n; v++) {
        free(r->at[v].min);
        free(r->at[v].max);
    }
    free(r->at);
    free(r);
}

void channel_ranges_want(struct channel_ranges *r, uint32_t value, int axis)
{
    if (value >= r->n)
        return;
    struct track *t = &r->at[value];
    t->spoiled = t->spoiled || (t->wanted && t->axis != axis);
    t->wanted = true;
    t->axis = axis;
}

static int start(struct track *track, int64_t channels, struct err *err)
{
    track->min = calloc((size_t)channels, sizeof *track->min);
    track->max = calloc((size_t)channels, sizeof *track->max);
    if (!track->min || !track->max)
        return err_set(err, ERR_NOMEM, "out of memory for the ranges of %lld channels", (long long)channels);
    for (int64_t c = 0; c < channels; c++) {
        track->min[c] = INFINITY;
        track->max[c] = -INFINITY;
    }
    track->channels = channels;
    return 0;
}

static void add(float *min, float *max, float x)
{
    if (!isfinite(x))
        return;
    *min = x < *min ? x : *min;
    *max = x > *max ? x : *max;
}

int channel_ranges_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct channel_ranges *r = arg;
    struct track *track = value < r->n ? &r->at[value] : NULL;
    if (!track || !track->wanted || track->spoiled || t->dtype != DTYPE_FLOAT || tensor_count(t) <= 0)
        return 0;
    const int axis = track->axis < 0 ? track->axis + t->shape.rank : track->axis;
    if (axis < 0 || axis >= t->shape.rank)
        return 0;
    const int64_t channels = t->shape.dim[axis];
    int64_t outer = 1, inner = 1;
    for (int i = 0; i < axis; i++)
        outer *= t->shape.dim[i];
    for (int i = axis + 1; i < t->shape.rank; i++)
        inner *= t->shape.dim[i];
    if (track->channels && track->channels != channels) {
        track->spoiled = true;
        return 0;
    }
    if (!track->channels && start(track, channels, err))
        return -1;
    const float *x = tensor_f32(t);
    for (int64_t i = 0; i < outer * channels; i++)
        for (int64_t k = 0; k < inner; k++)
            add(&track->min[i % channels], &track->max[i % channels], x[i * inner + k]);
    return 0;
}

bool channel_ranges_get(const struct channel_ranges *r, uint32_t value, int axis, struct channel_extent *extent)
{
    const struct track *t = r && value < r->n ? &r->at[value] : NULL;
    if (!t || !t->wanted || t->spoiled || t->axis != axis || !t->channels)
        return false;
    *extent = (struct channel_extent){t->min, t->max, t->channels};
    return true;
}
