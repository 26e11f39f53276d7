/* SPDX-License-Identifier: Apache-2.0
 * globs.c - which nodes a step's `include` and `exclude` select: shell patterns (fnmatch) over node names. */
#include <fnmatch.h>

#include "core/step/method.h"

static bool matches(const struct globs *globs, const char *name)
{
    for (int i = 0; i < globs->count; i++)
        if (fnmatch(globs->at[i], name, 0) == 0)
            return true;
    return false;
}

bool globs_select(const struct globs *include, const struct globs *exclude, const char *name)
{
    if (include && include->count > 0 && !matches(include, name))
        return false;
    return !(exclude && matches(exclude, name));
}
