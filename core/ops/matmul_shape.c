/* SPDX-License-Identifier: Apache-2.0
 * The shapes of matmul: see matmul_shape.h. */
#include "core/ops/matmul_shape.h"

#include <inttypes.h>

/* Leading axes of a operand: all but the last two of its promoted shape. */
static struct shape leading(const struct shape *s)
{
    struct shape out = *s;
    out.rank = s->rank > 2 ? s->rank - 2 : 0;
    return out;
}

int matmul_output(const struct shape *a, const struct shape *b, struct shape *out, struct err *err)
{
    char a_text[SHAPE_TEXT], b_text[SHAPE_TEXT];

    *out = SHAPE_UNKNOWN;
    if (a->rank == 0 || b->rank == 0)
        return err_set(err, ERR_SHAPE,
                       "an operand is a scalar (shapes %s and %s); vectors, matrices or stacks of them are allowed",
                       shape_text(a, a_text), shape_text(b, b_text));
    if (a->rank == SHAPE_UNKNOWN_RANK || b->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const int64_t k_a = a->dim[a->rank - 1], k_b = b->dim[b->rank == 1 ? 0 : b->rank - 2];
    if (k_a >= 0 && k_b >= 0 && k_a != k_b)
        return err_set(err, ERR_SHAPE, "inner sizes differ: %s times %s; %" PRId64 " and %" PRId64 " must be equal",
                       shape_text(a, a_text), shape_text(b, b_text), k_a, k_b);
    const struct shape lead_a = leading(a), lead_b = leading(b);
    if (!shape_broadcast(&lead_a, &lead_b, out))
        return err_set(err, ERR_SHAPE, "leading axes do not broadcast: %s times %s", shape_text(a, a_text),
                       shape_text(b, b_text));
    if (a->rank > 1)
        out->dim[out->rank++] = a->dim[a->rank - 2];
    if (b->rank > 1)
        out->dim[out->rank++] = b->dim[b->rank - 1];
    return 0;
}

/* Offsets of the matrices of one operand for every item of the broadcast leading shape. */
static void fill_offsets(int64_t *at, const struct shape *own, const struct shape *lead, int64_t count, int64_t matrix)
{
    int64_t stride[SHAPE_MAX_RANK], index[SHAPE_MAX_RANK] = {0};
    const int skip = lead->rank - own->rank;

    shape_strides(own, true, stride);
    for (int64_t i = 0; i < count; i++) {
        int64_t offset = 0;
        for (int a = 0; a < own->rank; a++)
            offset += index[a + skip] * stride[a];
        at[i] = offset * matrix;
        for (int a = lead->rank - 1; a >= 0 && ++index[a] == lead->dim[a]; a--)
            index[a] = 0;
    }
}

int matmul_plan(struct run_ctx *c, const struct shape *a, const struct shape *b, bool flatten, struct matmul_plan *p,
                struct err *err)
{
    const struct shape lead_a = leading(a), lead_b = leading(b);
    struct shape lead;

    p->k = a->dim[a->rank - 1];
    p->m = a->rank > 1 ? a->dim[a->rank - 2] : 1;
    p->n = b->rank > 1 ? b->dim[b->rank - 1] : 1;
    if (!shape_broadcast(&lead_a, &lead_b, &lead))
        return err_set(err, ERR_SHAPE, "leading axes do not broadcast");
    p->count = shape_count(&lead);
    if (flatten && shape_count(&lead_b) == 1 && shape_count(&lead_a) == p->count) {
        p->m *= p->count;
        p->count = p->count ? 1 : 0;
    }
    size_t bytes;
    if (p->count < 0 || !size_mul((size_t)p->count, 2 * sizeof(int64_t), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "too many matrices");
    p->a_at = run_scratch(c, bytes ? bytes : 1, err);
    if (!p->a_at)
        return -1;
    p->b_at = p->a_at + p->count;
    fill_offsets(p->a_at, &lead_a, &lead, p->count, p->m * p->k);
    fill_offsets(p->b_at, &lead_b, &lead, p->count, p->k * p->n);
    return 0;
}

void matmul_cost(const struct shape *a, const struct shape *out, struct op_cost *cost)
{
    const int64_t k = a->rank > 0 ? a->dim[a->rank - 1] : -1, outputs = shape_count(out);

    if (k < 0 || outputs < 0 || !i64_mul(k, outputs, &cost->macs))
        cost->macs = -1;
}
