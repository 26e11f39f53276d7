/* SPDX-License-Identifier: Apache-2.0
 * channels_start.c - notes by which calls of one step of a recipe know each other (channels.h).
 * Note       "start.<axis>" of a group's first producing weight: text says which step left it (steps have parameters of
 *            their own for as long as the recipe is there, so their address names them), the tensor holds what struct
 *            channels_start does, as doubles. Another step finds nothing of its own and begins anew. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/prune/channels.h"

enum { FIELDS = 5 };
static const char *const keys[SHAPE_MAX_RANK] = {"start.0",  "start.1",  "start.2",  "start.3", "start.4",  "start.5",
                                                 "start.6",  "start.7",  "start.8",  "start.9", "start.10", "start.11",
                                                 "start.12", "start.13", "start.14", "start.15"};

static const char *step_name(const struct channels_run *r, char text[32])
{
    snprintf(text, 32, "%p", r->c->params);
    return text;
}

bool channels_start_get(const struct channels_run *r, const struct group *g, struct channels_start *s)
{
    char name[32];
    if (g->n_members == 0 || g->member[0].value == VALUE_NONE)
        return false;
    const struct note *note = value_note(r->c->model, g->member[0].value, keys[g->member[0].axis]);
    if (!note || !note->text || strcmp(note->text, step_name(r, name)) != 0)
        return false;
    const double *v = note->tensor.data;
    *s = (struct channels_start){
        .n = (int64_t)v[0],
        .model = {.macs = (int64_t)v[1], .params = (int64_t)v[2], .bytes = (int64_t)v[3]},
        .ratio = v[4],
    };
    return true;
}

int channels_start_put(const struct channels_run *r, const struct channels_origin *o, struct err *err)
{
    char name[32];
    struct tensor t = {0};
    if (o->value == VALUE_NONE)
        return 0;
    if (tensor_alloc(&t, DTYPE_DOUBLE, &SHAPE(FIELDS), err))
        return -1;
    const double v[FIELDS] = {(double)o->n, (double)r->first.macs, (double)r->first.params, (double)r->first.bytes,
                              r->p->allocation == ALLOCATE_SENSITIVITY ? o->ratio : NAN};
    memcpy(t.data, v, sizeof v);
    value_set_note(r->c->model, o->value, keys[o->axis], step_name(r, name), &t);
    tensor_fini(&t);
    return 0;
}
