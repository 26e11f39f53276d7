/* SPDX-License-Identifier: Apache-2.0 */
#include "server/scope.h"

#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static const char *const names[SCOPE_COUNT] = {
#define X(id, name, meaning) [SCOPE_##id] = name,
    SCOPE_MAP(X)
#undef X
};

const char *scope_name(enum scope scope)
{
    return names[scope];
}

int scopes_allow(unsigned scopes, enum scope scope)
{
    return scopes >> scope & 1u;
}

int scopes_parse(const char *text, unsigned *scopes, struct err *err)
{
    *scopes = 0;
    for (const char *at = text; *at;) {
        size_t len = strcspn(at, " ,");
        unsigned before = *scopes;
        bool known = len == 0;
        for (int i = 0; i < SCOPE_COUNT; i++)
            if (strlen(names[i]) == len && strncmp(names[i], at, len) == 0) {
                *scopes = before | 1u << i;
                known = true;
            }
        if (!known)
            return err_set(err, ERR_USAGE,
                           "'%.*s' is no scope; the scopes are models:read, models:write, jobs:read, jobs:write and "
                           "admin",
                           (int)(len < 60 ? len : 60), at);
        at += len + (at[len] != 0);
    }
    return *scopes ? 0 : err_set(err, ERR_USAGE, "a key needs at least one scope");
}

void scopes_print(unsigned scopes, char out[SCOPES_TEXT])
{
    size_t n = 0;
    out[0] = 0;
    for (int i = 0; i < SCOPE_COUNT; i++)
        if (scopes >> i & 1u)
            n += (size_t)snprintf(out + n, SCOPES_TEXT - n, "%s%s", n ? " " : "", names[i]);
}
