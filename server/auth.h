/* SPDX-License-Identifier: Apache-2.0
 * auth.h - who may call: API keys (bearer tokens) from a file, and the names and origins the server answers to.
 * Key file   one key a line, `KEY` or `OWNER KEY`; # starts a comment. A key without owner belongs to "local", as
 *            everything does on a server without keys. Only the SHA-256 of a key is kept in memory, and compared in
 *            constant time.
 * Life cycle http_auth_new -> http_auth_owner* from any thread -> http_auth_free */
#ifndef PARED_SERVER_AUTH_H
#define PARED_SERVER_AUTH_H

#include "core/base/err.h"
#include "server/config.h"
#include "server/guard.h"

#define AUTH_LOCAL "local"

struct http_auth;

/* Reads config->api_key_file. ERR_USAGE when the address is not loopback and there are no keys, or the file is
 * unusable. */
struct http_auth *http_auth_new(const struct config *config, struct err *err);
void http_auth_free(struct http_auth *auth); /* NULL is fine */
/* Owner of the caller, borrowed. `authorization` is the header or NULL. NULL: ERR_UNAUTHORIZED. */
const char *http_auth_owner(const struct http_auth *auth, const char *authorization, struct err *err);
/* For guard_host and guard_origin. */
const struct guard_names *http_auth_names(const struct http_auth *auth);

#endif
