/* SPDX-License-Identifier: Apache-2.0
 * auth.h - who calls, and may they: API keys (bearer tokens), their scopes and their limit of requests; and the names
 * and origins the server answers to.
 * A key      is "pared_", 26 characters of its id, "_" and 256 random bits in hex. `pared keys add` shows it once; what
 *            is kept, in the catalogue and in memory, is its SHA-256, compared in constant time. A random key of this
 *            length cannot be guessed from its hash, so a slow hash would only cost time.
 * Key file   the other way, for keys that come from a secret manager: one key a line, `KEY` or `OWNER KEY`; # starts a
 *            comment. Such a key has all scopes and the limits of the settings; it is called "file:LINE".
 * Owners     a key without owner belongs to "local", as everything does on a server without keys. Once a key was made,
 *            callers need one: to revoke the last one, or to take it from the file, locks everybody out and does not open
 *            the server.
 * Changes    by `pared keys` reach a running server within AUTH_WATCH_MS: a thread looks at the catalogue's count of
 *            changes. It also writes when keys were last used, to the minute.
 * Life cycle http_auth_new -> http_auth_check from any thread -> http_auth_free */
#ifndef PARED_SERVER_AUTH_H
#define PARED_SERVER_AUTH_H

#include "core/base/arena.h"
#include "core/base/err.h"
#include "server/config.h"
#include "server/guard.h"
#include "server/id.h"
#include "server/rate.h"
#include "server/router.h"

#define AUTH_LOCAL "local"
#define AUTH_PREFIX "pared_"
enum { AUTH_WATCH_MS = 250, AUTH_OWNER_MAX = 64, AUTH_SECRET_BYTES = 32, AUTH_KEY_SIZE = 128 };

struct http_auth;
struct store;

/* Who calls. Texts live as long as the arena given. */
struct auth_caller {
    const char *owner;  /* whose resources; "" when no key was known */
    const char *key_id; /* "key_..", "file:3"; "" on a server without keys */
    unsigned scopes;
    int64_t active_jobs, stored_bytes; /* limits of the owner as this key has them; 0 = none */
    struct rate_view rate;             /* after this request */
};

/* Reads config->api_key_file and the store's keys, and starts to watch them. ERR_USAGE when the address is not
 * loopback and there is no key, or the file is unusable. `store` is borrowed. */
struct http_auth *http_auth_new(const struct config *config, struct store *store, struct err *err);
void http_auth_free(struct http_auth *auth); /* NULL is fine */
/* Key file and default limits anew. -1: nothing has changed. */
int http_auth_reload(struct http_auth *auth, const struct config *config, struct err *err);
/* Is the caller allowed what needs `need`? `authorization` is the header or NULL. Takes a token of the key's requests.
 * ERR_UNAUTHORIZED: no key, or a wrong, revoked or expired one; ERR_RATE_LIMITED; ERR_FORBIDDEN names the scope that
 * is missing. *out is filled as far as the caller is known, also on error. */
int http_auth_check(struct http_auth *auth, const char *authorization, enum auth_kind need, struct arena *arena,
                    struct auth_caller *out, struct err *err);
/* For guard_host and guard_origin. */
const struct guard_names *http_auth_names(const struct http_auth *auth);

/* A new key for the id ("key_..", filled in): `text` is what its owner gets. */
void auth_key_new(char id[ID_SIZE], char text[AUTH_KEY_SIZE]);
/* 1 to 64 letters, digits and . _ - @ */
bool auth_owner_good(const char *owner);

#endif
