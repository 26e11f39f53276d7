/* SPDX-License-Identifier: Apache-2.0 */
#include "core/tensor/shape.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/size.h"

bool shape_known(const struct shape *s)
{
    for (int i = 0; i < s->rank; i++)
        if (s->dim[i] < 0)
            return false;
    return s->rank >= 0;
}

bool shape_equal(const struct shape *a, const struct shape *b)
{
    if (a->rank != b->rank)
        return false;
    for (int i = 0; i < a->rank; i++)
        if (a->dim[i] != b->dim[i])
            return false;
    return true;
}

int64_t shape_product(const struct shape *s, int from, int to)
{
    int64_t n = 1;
    bool zero = false, overflow = false;
    if (s->rank < 0)
        return -1;
    for (int i = from; i < to; i++) {
        if (s->dim[i] < 0)
            return -1;
        zero |= s->dim[i] == 0;
        overflow |= s->dim[i] > 0 && !i64_mul(n, s->dim[i], &n);
    }
    return overflow ? -1 : zero ? 0 : n;
}

int64_t shape_count(const struct shape *s)
{
    return shape_product(s, 0, s->rank);
}

int shape_axis(const struct shape *s, int64_t axis)
{
    if (axis < 0)
        axis += s->rank;
    return axis >= 0 && axis < s->rank ? (int)axis : -1;
}

static bool broadcast_dim(int64_t a, int64_t b, int64_t *out)
{
    if (a == b || b == 1)
        *out = a;
    else if (a == 1)
        *out = b;
    else if (a < 0 && b < 0)
        *out = DIM_UNKNOWN;
    else if (a < 0 || b < 0)
        *out = a < 0 ? b : a;
    else
        return false;
    return true;
}

bool shape_broadcast(const struct shape *a, const struct shape *b, struct shape *out)
{
    struct shape r = SHAPE_UNKNOWN;
    if (a->rank < 0 || b->rank < 0) {
        *out = r;
        return true;
    }
    r.rank = a->rank > b->rank ? a->rank : b->rank;
    for (int i = 1; i <= r.rank; i++) {
        int64_t da = i <= a->rank ? a->dim[a->rank - i] : 1;
        int64_t db = i <= b->rank ? b->dim[b->rank - i] : 1;
        if (!broadcast_dim(da, db, &r.dim[r.rank - i]))
            return false;
    }
    *out = r;
    return true;
}

void shape_strides(const struct shape *s, bool broadcast, int64_t stride[SHAPE_MAX_RANK])
{
    int64_t n = 1;
    for (int i = s->rank - 1; i >= 0; i--) {
        stride[i] = broadcast && s->dim[i] == 1 ? 0 : n;
        if (!i64_mul(n, s->dim[i], &n)) /* only where an axis of size 0 leaves no element to reach */
            n = 0;
    }
}

const char *shape_text(const struct shape *s, char out[SHAPE_TEXT])
{
    if (s->rank < 0) {
        snprintf(out, SHAPE_TEXT, "[...]");
        return out;
    }
    size_t n = 0;
    out[n++] = '[';
    for (int i = 0; i < s->rank && n < SHAPE_TEXT - 24; i++) {
        const char *comma = i ? "," : "";
        int w = s->dim[i] < 0 ? snprintf(out + n, SHAPE_TEXT - n, "%s?", comma)
                              : snprintf(out + n, SHAPE_TEXT - n, "%s%" PRId64, comma, s->dim[i]);
        n += (size_t)w;
    }
    out[n++] = ']';
    out[n] = 0;
    return out;
}

int64_t dim_add(int64_t a, int64_t b)
{
    if (a == 0)
        return b;
    if (b == 0)
        return a;
    int64_t r;
    return a < 0 || b < 0 || !i64_add(a, b, &r) ? DIM_UNKNOWN : r;
}

int64_t dim_mul(int64_t a, int64_t b)
{
    if (a == 1)
        return b;
    if (b == 1)
        return a;
    int64_t r;
    return a < 0 || b < 0 || !i64_mul(a, b, &r) ? DIM_UNKNOWN : r;
}
