/* SPDX-License-Identifier: Apache-2.0
 * Offsets of indexed elements: see index_places.h. */
#include "core/ops/index_places.h"

#include <inttypes.h>

#include "core/ops/grad_util.h"

int places_bytes(const struct places *p, size_t *bytes, struct err *err)
{
    if (!size_mul((size_t)p->count, sizeof *p->at, bytes) || *bytes == SIZE_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "there are too many indices");
    ++*bytes;
    return 0;
}

static int bad_index(int64_t index, int64_t n, int64_t at, struct err *err)
{
    return err_set(err, ERR_MODEL,
                   "index %" PRId64 " (element %" PRId64 ") is out of range; the axis has %" PRId64 " elements", index,
                   at, n);
}

struct places places_elements(const struct tensor *index)
{
    return (struct places){.count = tensor_count(index), .slice = 1};
}

int places_fill_elements(struct places *p, const struct tensor *index, const struct shape *x, int axis,
                         struct err *err)
{
    const int last = x->rank - 1;
    int64_t stride[SHAPE_MAX_RANK], at[SHAPE_MAX_RANK] = {0}, base = 0; /* base: offset but for the axis */

    shape_strides(x, false, stride);
    for (int64_t i = 0; i < p->count; i++) {
        const int64_t value = op_index_at(index, i), k = op_wrap_index(value, x->dim[axis]);
        if (k < 0)
            return bad_index(value, x->dim[axis], i, err);
        p->at[i] = base + k * stride[axis];
        for (int d = last; d >= 0; d--) {
            base += d == axis ? 0 : stride[d];
            if (++at[d] < index->shape.dim[d])
                break;
            base -= d == axis ? 0 : stride[d] * at[d];
            at[d] = 0;
        }
    }
    return 0;
}

struct places places_tuples(const struct tensor *index, const struct shape *x, int batch)
{
    const int m = (int)index->shape.dim[index->shape.rank - 1];
    return (struct places){.count = shape_product(&index->shape, 0, index->shape.rank - 1),
                           .slice = shape_product(x, batch + m, x->rank)};
}

int places_fill_tuples(struct places *p, const struct tensor *index, const struct shape *x, int batch, struct err *err)
{
    const int m = (int)index->shape.dim[index->shape.rank - 1];
    const int64_t tuples = shape_product(&index->shape, batch, index->shape.rank - 1);
    const int64_t batch_size = shape_product(x, batch, x->rank);
    int64_t stride[SHAPE_MAX_RANK];

    shape_strides(x, false, stride);
    for (int64_t i = 0; i < p->count; i++) {
        int64_t offset = i / tuples * batch_size;
        for (int k = 0; k < m; k++) {
            const int64_t value = op_index_at(index, i * m + k), at = op_wrap_index(value, x->dim[batch + k]);
            if (at < 0)
                return bad_index(value, x->dim[batch + k], i * m + k, err);
            offset += at * stride[batch + k];
        }
        p->at[i] = offset;
    }
    return 0;
}

void places_spread(const struct places *p, struct tensor *dst, const struct tensor *src)
{
    for (int64_t i = 0; i < p->count; i++)
        grad_add_run(dst, p->at[i], src, i * p->slice, p->slice);
}

void places_collect(const struct places *p, struct tensor *dst, const struct tensor *src)
{
    for (int64_t i = 0; i < p->count; i++)
        grad_add_run(dst, i * p->slice, src, p->at[i], p->slice);
}
