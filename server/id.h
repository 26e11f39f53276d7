/* SPDX-License-Identifier: Apache-2.0
 * id.h - ids of resources: a prefix that tells the kind and 26 characters that sort by time of creation (48 bits of
 * milliseconds, 80 random bits, Crockford's base 32 in lower case). Within a process a later id always sorts later. */
#ifndef PARED_SERVER_ID_H
#define PARED_SERVER_ID_H

#include <stdbool.h>

enum { ID_SIZE = 40 };

/* "job" -> "job_01kc...". Any thread. */
void id_new(char out[ID_SIZE], const char *prefix);
/* True if `id` has this prefix and the right form (it need not exist). */
bool id_is(const char *id, const char *prefix);

#endif
