/* SPDX-License-Identifier: Apache-2.0
 * link.h - tokens that open one file for a short time, without a key: a page's <a href> and a person's `wget` carry
 * none.
 *
 *   token = 26 characters of the artifact's id "." end, epoch milliseconds "." HMAC-SHA256 in hex
 *
 * The HMAC (RFC 2104) is over owner, artifact and end, by a secret of the server: so a token is good for this file of
 * this owner until this time, and whoever changes a character has none. The owner is not in the token.
 * Threads    pure functions. */
#ifndef PARED_SERVER_LINK_H
#define PARED_SERVER_LINK_H

#include <stdbool.h>
#include <stdint.h>

#include "server/id.h"

enum { LINK_SECRET_BYTES = 32, LINK_SECRET_HEX = 2 * LINK_SECRET_BYTES + 1, LINK_TOKEN = 160 };

/* 256 random bits. */
void link_secret_new(char hex[LINK_SECRET_HEX]);
/* `artifact` is "art_..."; false when it is no such id. */
bool link_sign(const char *secret_hex, const char *owner, const char *artifact, int64_t ends_at,
               char token[LINK_TOKEN]);
/* What the token says, before it is known to be true. False: it is no token. */
bool link_read(const char *token, char artifact[ID_SIZE], int64_t *ends_at);
/* Was it signed for this owner? In constant time. Whether it has ended is the caller's look at *ends_at. */
bool link_verify(const char *secret_hex, const char *owner, const char *token);

#endif
