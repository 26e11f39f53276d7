/* SPDX-License-Identifier: Apache-2.0
 * text_cache.h - answers that were made before, by what they show: a job that has ended is asked for again and again,
 * and making its text anew took nine tenths of the time.
 * Key        id, version of the row, and a setting that shows in the text too: a text is found only if all three are
 *            the same, so nothing need be taken out when one of them changes.
 * Size       TEXT_CACHE_SLOTS texts of at most TEXT_CACHE_BYTES: 2 MiB. A later id of the same slot replaces a text.
 * Threads    any. */
#ifndef PARED_SERVER_TEXT_CACHE_H
#define PARED_SERVER_TEXT_CACHE_H

#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum { TEXT_CACHE_SLOTS = 128, TEXT_CACHE_BYTES = 16 << 10 };

struct text_cache; /* opaque */
struct text_key {
    const char *id; /* shorter than ID_SIZE */
    int64_t version;
    int64_t setting;
};

struct text_cache *text_cache_new(struct err *err); /* NULL: ERR_NOMEM */
void text_cache_free(struct text_cache *cache);     /* NULL is fine */
/* A copy with a NUL behind it, to be freed by the caller; NULL: not there. */
char *text_cache_get(struct text_cache *cache, const struct text_key *key, size_t *len);
/* Keeps a copy, unless it is too long. */
void text_cache_put(struct text_cache *cache, const struct text_key *key, const char *text, size_t len);

#endif
