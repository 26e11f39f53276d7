/* SPDX-License-Identifier: Apache-2.0
 * grid.c - a note "grid" with the text "int8 axis=0" and the scales as its tensor. */
#include "core/quant/grid.h"

#include <stdio.h>
#include <string.h>

static const char key[] = "grid";

void grid_note_set(struct model *m, uint32_t weight, enum dtype dtype, int axis, const struct tensor *scale)
{
    char text[40];
    snprintf(text, sizeof text, "%s axis=%d", dtype_name(dtype), axis);
    value_set_note(m, weight, key, text, scale);
}

bool grid_note_get(const struct model *m, uint32_t weight, enum dtype *dtype, int *axis, const struct tensor **scale)
{
    const struct note *note = value_note(m, weight, key);
    const struct weight *w = m->values[weight].weight;
    char name[20];
    if (!note || !note->text || !w || sscanf(note->text, "%19s axis=%d", name, axis) != 2)
        return false;
    const struct shape *shape = &w->tensor.shape;
    const int64_t scales = tensor_count(&note->tensor);
    *dtype = dtype_from_name(name);
    *scale = &note->tensor;
    return *dtype != DTYPE_NONE && note->tensor.dtype == DTYPE_FLOAT &&
           (*axis < 0 ? scales == 1 : *axis < shape->rank && shape->dim[*axis] == scales);
}
