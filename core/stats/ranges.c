/* SPDX-License-Identifier: Apache-2.0 */
#include "core/stats/ranges.h"

#include <math.h>
#include <stdlib.h>

enum { CHUNK = 4096 };

struct ranges {
    uint32_t n;
    struct range *at;
};

struct ranges *ranges_new(uint32_t n_values)
{
    struct ranges *r = calloc(1, sizeof *r);
    struct range *at = calloc(n_values + (size_t)1, sizeof *at);
    if (!r || !at) {
        free(r);
        free(at);
        return NULL;
    }
    for (uint32_t v = 0; v < n_values; v++)
        at[v] = RANGE_EMPTY;
    *r = (struct ranges){n_values, at};
    return r;
}

void ranges_free(struct ranges *r)
{
    if (r)
        free(r->at);
    free(r);
}

/* Comparisons with NaN are false, so NaN never enters; infinities are noticed by the result and sorted out the slow
 * way. */
void range_add(struct range *range, const float *x, int64_t n)
{
    float lo = INFINITY, hi = -INFINITY;
    int64_t odd = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = x[i] < lo ? x[i] : lo;
        hi = x[i] > hi ? x[i] : hi;
        odd += !(fabsf(x[i]) <= __FLT_MAX__);
    }
    if (odd) {
        lo = INFINITY;
        hi = -INFINITY;
        for (int64_t i = 0; i < n; i++) {
            if (isnan(x[i])) {
                range->nan++;
            } else if (isinf(x[i])) {
                range->inf++;
            } else {
                lo = x[i] < lo ? x[i] : lo;
                hi = x[i] > hi ? x[i] : hi;
            }
        }
    }
    range->min = lo < range->min ? lo : range->min;
    range->max = hi > range->max ? hi : range->max;
    range->count += n;
}

int ranges_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct ranges *r = arg;
    float chunk[CHUNK];
    (void)err;
    if (value >= r->n || dtype_kind(t->dtype) != 'f' || dtype_bits(t->dtype) < 8)
        return 0;
    struct range *range = &r->at[value];
    int64_t n = tensor_count(t), elem = dtype_bits(t->dtype) / 8;
    range->batches++;
    if (t->dtype == DTYPE_FLOAT) {
        range_add(range, t->data, n);
        return 0;
    }
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t m = n - i < CHUNK ? n - i : CHUNK;
        dtype_convert(DTYPE_FLOAT, chunk, t->dtype, (const char *)t->data + i * elem, m);
        range_add(range, chunk, m);
    }
    return 0;
}

const struct range *ranges_get(const struct ranges *r, uint32_t value)
{
    return value < r->n && r->at[value].batches ? &r->at[value] : NULL;
}
