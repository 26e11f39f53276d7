/* SPDX-License-Identifier: Apache-2.0
 * tus_text.h - the header values of tus 1.0 (https://tus.io/protocols/resumable-upload): numbers and Upload-Metadata.
 * Metadata   "key BASE64,key BASE64,key": keys are printable ASCII without spaces and commas, no key twice; the value
 *            may be missing. It is kept as sent; tus_metadata_each takes it apart.
 * Threads    any; no state. */
#ifndef PARED_SERVER_TUS_TEXT_H
#define PARED_SERVER_TUS_TEXT_H

#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/err.h"

enum { TUS_METADATA_MAX = 8192, TUS_METADATA_KEYS = 64 };

/* A header that must be a whole number >= 0. `text` NULL: it is missing. ERR_BAD_REQUEST. */
int tus_number(const char *header, const char *text, int64_t *out, struct err *err);
/* Calls fn for every pair, value decoded, NUL-terminated and in the arena; NULL fn only checks. `len` of the value may
 * count NULs. ERR_BAD_REQUEST: malformed, or a key twice. */
typedef void tus_pair_fn(void *arg, const char *key, const char *value, size_t len);
int tus_metadata_each(struct arena *arena, const char *text, tus_pair_fn *fn, void *arg, struct err *err);
/* The value of `key` as text; NULL when it is missing, malformed, or has a NUL. */
const char *tus_metadata_get(struct arena *arena, const char *text, const char *key);

#endif
