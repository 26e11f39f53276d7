/* SPDX-License-Identifier: Apache-2.0
 * scope.h - what an API key may do, one row a scope: enum suffix, name, meaning. A route names the scope it needs in
 * api/routes.def. No scope contains another one. */
#ifndef PARED_SERVER_SCOPE_H
#define PARED_SERVER_SCOPE_H

#include "core/base/err.h"

#define SCOPE_MAP(X)                                                                                                   \
    X(MODELS_READ, "models:read", "list, read and download models and datasets")                                       \
    X(MODELS_WRITE, "models:write", "upload (resumable uploads too) and delete models and datasets")                   \
    X(JOBS_READ, "jobs:read", "read jobs, reports, artifacts and recipes")                                             \
    X(JOBS_WRITE, "jobs:write", "queue, cancel, retry and delete jobs; name and delete recipes")                       \
    X(ADMIN, "admin", "read what concerns the whole server, all owners: /metrics, /v1/stats")

enum scope {
#define X(id, name, meaning) SCOPE_##id,
    SCOPE_MAP(X)
#undef X
        SCOPE_COUNT
};

/* A set has one bit a scope. */
enum { SCOPES_ALL = (1 << SCOPE_COUNT) - 1, SCOPES_TEXT = 80 };
/* What a new key gets unless told: all but admin. */
enum { SCOPES_DEFAULT = SCOPES_ALL & ~(1 << SCOPE_ADMIN) };

const char *scope_name(enum scope scope);
/* Does the set allow what needs `scope`? */
int scopes_allow(unsigned scopes, enum scope scope);
/* "models:read jobs:read", separated by blanks or commas, into a set. ERR_USAGE names the word that is none. */
int scopes_parse(const char *text, unsigned *scopes, struct err *err);
/* The names, separated by blanks, in the order of the rows. */
void scopes_print(unsigned scopes, char out[SCOPES_TEXT]);

#endif
