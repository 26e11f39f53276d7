/* SPDX-License-Identifier: Apache-2.0
 * latent.c - see latent.h. The note shares the weight's bytes: nothing is copied. */
#include "core/quant/latent.h"

#include "core/passes/weight_view.h"
#include "core/passes/weights.h"

void latent_note_set(struct model *m, uint32_t codes, uint32_t from, bool pairs)
{
    const struct tensor *t = value_const(m, from);
    const struct note *mask = value_note(m, from, "mask");
    if (codes == VALUE_NONE || !t || t->dtype != DTYPE_FLOAT || !t->data || !m->values[codes].weight ||
        !shape_equal(&t->shape, &m->values[codes].weight->tensor.shape))
        return;
    value_set_note(m, codes, "latent", pairs ? "pairs" : NULL, t);
    if (mask)
        value_set_note(m, codes, "mask", NULL, &mask->tensor);
}

void latent_note_view(struct model *m, uint32_t codes, const struct weight_view *view)
{
    const struct shape *stored = &view->stored->shape;
    int64_t stride[SHAPE_MAX_RANK];
    shape_strides(stored, false, stride);
    bool plain = view->rank == stored->rank;
    for (int i = 0; plain && i < view->rank; i++)
        plain = view->dim[i] == stored->dim[i] && view->stride[i] == stride[i];
    if (plain)
        latent_note_set(m, codes, view->source, false);
}
