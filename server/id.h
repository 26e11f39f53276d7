/* SPDX-License-Identifier: Apache-2.0
 * id.h - ids of resources: a prefix that tells the kind and 26 characters that sort by time of creation (48 bits of
 * milliseconds, 80 random bits, Crockford's base 32 in lower case). Within a process a later id always sorts later. */
#ifndef PARED_SERVER_ID_H
#define PARED_SERVER_ID_H

#include <stdbool.h>
#include <stdint.h>

enum { ID_SIZE = 40 };

/* "job" -> "job_01kc...". Any thread. */
void id_new(char out[ID_SIZE], const char *prefix);
/* True if `id` has this prefix and the right form (it need not exist). */
bool id_is(const char *id, const char *prefix);
/* The text at or above which ids made at this time or later sort: a bound for lists by time. Times that no id can hold
 * (before 1970, after year 10889) are cut to the nearest. */
void id_bound(char out[ID_SIZE], const char *prefix, int64_t epoch_ms);

#endif
