/* SPDX-License-Identifier: Apache-2.0
 * nesting.h - a pruning step inside another step (step_ctx: ramp, in_training): how far it is to go now. */
#ifndef PARED_PRUNE_NESTING_H
#define PARED_PRUNE_NESTING_H

#include <string.h>

#include "core/step/method.h"

/* The ramp of the call, in (0, 1]; 1 where nobody gives one. */
static inline double nesting_ramp(const struct step_ctx *c)
{
    return c->ramp > 0 && c->ramp < 1 ? c->ramp : 1;
}

/* By a step's pointer: "/steps/0" stands in the recipe itself, "/steps/0/steps/1" within another step. */
static inline bool nesting_is_nested(const char *pointer)
{
    const char *first = strstr(pointer, "/steps/");
    return first && strstr(first + 1, "/steps/");
}
static inline bool nesting_is_top(const char *pointer)
{
    return strstr(pointer, "/steps/") && !nesting_is_nested(pointer);
}

#endif
