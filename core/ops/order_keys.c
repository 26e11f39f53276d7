/* SPDX-License-Identifier: Apache-2.0
 * IEEE floats with the sign bit flipped (positive) or all bits inverted (negative) compare as unsigned integers. */
#include "core/ops/order_keys.h"

#include <math.h>
#include <string.h>

static uint64_t key_of(enum dtype carrier, const void *data, int64_t i)
{
    if (carrier == DTYPE_UINT64)
        return ((const uint64_t *)data)[i];
    if (carrier == DTYPE_INT64)
        return (uint64_t)((const int64_t *)data)[i] ^ (UINT64_C(1) << 63);
    double v = carrier == DTYPE_FLOAT ? (double)((const float *)data)[i] : ((const double *)data)[i];
    uint64_t bits;
    if (isnan(v))
        return UINT64_MAX;
    v = v == 0 ? 0 : v;
    memcpy(&bits, &v, sizeof bits);
    return bits >> 63 ? ~bits : bits | UINT64_C(1) << 63;
}

uint64_t *order_keys(struct run_ctx *c, const struct tensor *t, struct err *err)
{
    const void *data;
    size_t bytes;
    int64_t n = tensor_count(t);
    enum dtype carrier = op_carrier(t->dtype);
    if (carrier == DTYPE_NONE) {
        err_set(err, ERR_OPERATOR, "elements of type %s have no order", dtype_name(t->dtype));
        return NULL;
    }
    if (op_to_carrier(c, t, &data, err) < 0)
        return NULL;
    if (!size_mul((size_t)n, sizeof(uint64_t), &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the input has too many elements");
        return NULL;
    }
    uint64_t *keys = run_scratch(c, bytes + 8, err);
    for (int64_t i = 0; keys && i < n; i++)
        keys[i] = key_of(carrier, data, i);
    return keys;
}
