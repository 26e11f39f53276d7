/* SPDX-License-Identifier: Apache-2.0
 * spread.c - two walks over the same elements: the first finds the ends and the moments, the second counts. The walk
 * takes every k-th element, so that a layer of a billion weights costs as little as one of a hundred thousand. */
#include "core/model/spread.h"

#include <math.h>
#include <string.h>

struct walk {
    const struct tensor *t;
    int64_t elements, step;
};

/* Element i; a window into a file may start anywhere, so whole elements are copied out first. */
static double element(const struct tensor *t, int64_t i)
{
    _Alignas(16) unsigned char own[16];
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    if (width <= 1 || width > sizeof own)
        return dtype_get(t->dtype, t->data, i);
    memcpy(own, (const unsigned char *)t->data + (size_t)i * width, width);
    return dtype_get(t->dtype, own, 0);
}

struct moments {
    int64_t n;
    double low, high, mean, m2; /* Welford's sums */
};

static void measure(const struct walk *w, struct moments *out)
{
    *out = (struct moments){.low = INFINITY, .high = -INFINITY};
    for (int64_t i = 0; i < w->elements; i += w->step) {
        double v = element(w->t, i);
        if (!isfinite(v))
            continue;
        double off = v - out->mean;
        out->n++;
        out->mean += off / (double)out->n;
        out->m2 += off * (v - out->mean);
        out->low = fmin(out->low, v);
        out->high = fmax(out->high, v);
    }
}

static json_t *count(const struct walk *w, const struct moments *m)
{
    int64_t counts[SPREAD_BINS] = {0};
    int bins = m->high > m->low ? SPREAD_BINS : 1;
    double scale = bins > 1 ? bins / (m->high - m->low) : 0;
    if (!isfinite(scale) || !(scale > 0)) /* ends so near, or so far apart, that bins have no width */
        bins = 1, scale = 0;
    for (int64_t i = 0; i < w->elements; i += w->step) {
        double v = element(w->t, i);
        if (isfinite(v)) {
            double at = (v - m->low) * scale;
            counts[at > 0 ? (at < bins ? (int)at : bins - 1) : 0]++;
        }
    }
    json_t *list = json_array();
    for (int b = 0; list && b < bins; b++)
        json_array_append_new(list, json_integer(counts[b]));
    return list;
}

json_t *tensor_spread_json(const struct tensor *t)
{
    struct walk w = {t, shape_count(&t->shape), 1};
    struct moments m;
    if (!t->data || w.elements <= 0 || !(dtype_is_float(t->dtype) || dtype_is_integer(t->dtype)))
        return NULL;
    /* rounded up and odd: rows of an even length are not met at the same columns only */
    if (w.elements > SPREAD_SAMPLES)
        w.step = ((w.elements + SPREAD_SAMPLES - 1) / SPREAD_SAMPLES) | 1;
    measure(&w, &m);
    if (m.n == 0 || !isfinite(m.mean) || !isfinite(m.m2))
        return NULL;
    json_t *counts = count(&w, &m);
    tensor_release_pages(t);
    json_t *spread = json_pack("{s:f, s:f, s:f, s:f, s:o}", "low", m.low, "high", m.high, "mean", m.mean, "deviation",
                               sqrt(m.m2 / (double)m.n), "counts", counts);
    if (spread && w.step > 1)
        json_object_set_new(spread, "sampled", json_integer(m.n));
    return spread;
}
