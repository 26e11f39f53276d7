/* SPDX-License-Identifier: Apache-2.0 */
#include "core/stats/ranges.h"

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

void range_add_seen(struct range *range, const struct extent *seen, int64_t n)
{
    range->min = seen->min < range->min ? seen->min : range->min;
    range->max = seen->max > range->max ? seen->max : range->max;
    range->nan += seen->nan;
    range->inf += seen->inf;
    range->count += n;
}

void range_add(struct range *range, const float *x, int64_t n)
{
    const struct extent seen = extent_f32(NULL, x, n);
    range_add_seen(range, &seen, n);
}

void ranges_add(struct ranges *r, uint32_t value, const struct extent *seen, int64_t n)
{
    if (value >= r->n)
        return;
    r->at[value].batches++;
    range_add_seen(&r->at[value], seen, n);
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
