/* SPDX-License-Identifier: Apache-2.0
 * channel_affine.c - see channel_affine.h. */
#include "core/kernels/channel_affine.h"

#include <math.h>

const char *channel_layout_conv(const struct shape *w, int64_t group, bool transposed, struct channel_layout *l)
{
    *l = (struct channel_layout){0};
    if (w->rank < 3 || group < 1)
        return "the weight has an unexpected shape";
    l->inner = shape_product(w, transposed ? 2 : 1, w->rank);
    l->channels = w->dim[0];
    if (transposed) {
        if (w->dim[0] % group)
            return "the weight has an unexpected shape";
        l->per_group = w->dim[1];
        l->channels = w->dim[1] * group;
        l->group_size = w->dim[0] / group * w->dim[1] * l->inner;
    }
    return l->inner > 0 && l->channels > 0 ? NULL : "the weight is empty";
}

const char *channel_layout_matrix(const struct shape *w, bool rows, struct channel_layout *l)
{
    *l = (struct channel_layout){0};
    if (w->rank != 2)
        return "the weight is not a matrix";
    l->channels = w->dim[rows ? 0 : 1];
    l->inner = rows ? w->dim[1] : 1;
    return l->inner > 0 && l->channels > 0 ? NULL : "the weight is empty";
}

static int64_t channel_of(const struct channel_layout *l, int64_t i)
{
    if (!l->per_group)
        return i / l->inner % l->channels;
    return i / l->group_size * l->per_group + i / l->inner % l->per_group;
}

bool channel_affine_norm(int64_t n, double eps, const double *gamma, const double *beta, const double *mean,
                         const double *var, double *scale, double *shift)
{
    for (int64_t k = 0; k < n; k++) {
        const double s = gamma[k] / sqrt(var[k] + eps);
        shift[k] = beta[k] - s * mean[k];
        scale[k] = s;
        if (!isfinite(s) || !isfinite(shift[k]))
            return false;
    }
    return true;
}

int channel_affine_weight(const struct channel_layout *l, const double *scale, const struct tensor *w,
                          struct tensor *out, struct err *err)
{
    const int64_t count = tensor_count(w);
    *out = (struct tensor){0};
    if (tensor_alloc(out, w->dtype, &w->shape, err))
        return -1;
    /* runs of `inner` elements share a channel */
    for (int64_t i = 0; i < count; i += l->inner) {
        const double s = scale[channel_of(l, i)];
        const int64_t end = i + l->inner < count ? i + l->inner : count;
        if (w->dtype == DTYPE_FLOAT)
            for (int64_t k = i; k < end; k++)
                tensor_f32(out)[k] = (float)(s * (double)tensor_f32(w)[k]);
        else
            for (int64_t k = i; k < end; k++)
                dtype_set(w->dtype, out->data, k, s * dtype_get(w->dtype, w->data, k));
    }
    return 0;
}
