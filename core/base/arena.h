/* SPDX-License-Identifier: Apache-2.0
 * arena.h - memory with one owner and one end: many small allocations, freed together.
 * Threads    one arena a thread. Errors: NULL when memory is out. Results are aligned to 16 bytes, and zeroed. */
#ifndef PARED_BASE_ARENA_H
#define PARED_BASE_ARENA_H

#include <stddef.h>

struct arena; /* opaque: a chain of blocks */

struct arena *arena_new(void);
void arena_free(struct arena *arena); /* NULL is fine */
/* Zeroed memory that lives as long as the arena. */
void *arena_alloc(struct arena *arena, size_t bytes);
/* count * bytes, checked. */
void *arena_calloc(struct arena *arena, size_t count, size_t bytes);
/* Copies; arena_strdup(NULL) is NULL, arena_memdup of 0 bytes is a valid pointer. */
char *arena_strdup(struct arena *arena, const char *text);
char *arena_strndup(struct arena *arena, const char *text, size_t len);
void *arena_memdup(struct arena *arena, const void *bytes, size_t len);
char *arena_printf(struct arena *arena, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Bytes handed out so far. */
size_t arena_bytes(const struct arena *arena);

#endif
