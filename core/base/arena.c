/* SPDX-License-Identifier: Apache-2.0
 * Blocks double from 4 KiB to 1 MiB; a request larger than a block gets one of its own. Between allocations lie 16
 * poisoned bytes under AddressSanitizer, so an overrun inside a block is seen. */
#include "core/base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
enum { REDZONE = 16 };
#else
#define ASAN_POISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
enum { REDZONE = 0 };
#endif

enum { ALIGN = 16, FIRST_BLOCK = 4096, LAST_BLOCK = 1 << 20 };

struct block {
    struct block *next;
    size_t used, size;
    _Alignas(ALIGN) unsigned char bytes[];
};

struct arena {
    struct block *head;
    size_t handed_out;
};

struct arena *arena_new(void)
{
    return calloc(1, sizeof(struct arena));
}

void arena_free(struct arena *arena)
{
    if (!arena)
        return;
    for (struct block *b = arena->head, *next; b; b = next) {
        next = b->next;
        ASAN_UNPOISON_MEMORY_REGION(b->bytes, b->size);
        free(b);
    }
    free(arena);
}

static struct block *grow(struct arena *arena, size_t need)
{
    size_t size = arena->head ? arena->head->size * 2 : FIRST_BLOCK;
    if (size > LAST_BLOCK)
        size = LAST_BLOCK;
    if (size < need)
        size = need;
    size_t total;
    if (!size_add(size, sizeof(struct block), &total))
        return NULL;
    struct block *b = calloc(1, total);
    if (!b)
        return NULL;
    b->size = size;
    ASAN_POISON_MEMORY_REGION(b->bytes, b->size);
    if (need == size && arena->head) { /* a block of its own: keep filling the current one */
        b->next = arena->head->next;
        arena->head->next = b;
    } else {
        b->next = arena->head;
        arena->head = b;
    }
    return b;
}

void *arena_alloc(struct arena *arena, size_t bytes)
{
    size_t need;
    if (!size_add(bytes ? bytes : 1, ALIGN - 1 + REDZONE, &need))
        return NULL;
    need &= ~(size_t)(ALIGN - 1);
    struct block *b = arena->head;
    if (!b || b->size - b->used < need)
        b = grow(arena, need);
    if (!b)
        return NULL;
    void *p = b->bytes + b->used;
    b->used += need;
    arena->handed_out += bytes;
    ASAN_UNPOISON_MEMORY_REGION(p, bytes);
    return p;
}

void *arena_calloc(struct arena *arena, size_t count, size_t bytes)
{
    size_t total;
    return size_mul(count, bytes, &total) ? arena_alloc(arena, total) : NULL;
}

void *arena_memdup(struct arena *arena, const void *bytes, size_t len)
{
    void *p = arena_alloc(arena, len);
    if (p && len)
        memcpy(p, bytes, len);
    return p;
}

char *arena_strndup(struct arena *arena, const char *text, size_t len)
{
    char *p = len < SIZE_MAX ? arena_alloc(arena, len + 1) : NULL;
    if (p && len)
        memcpy(p, text, len);
    return p;
}

char *arena_strdup(struct arena *arena, const char *text)
{
    return text ? arena_strndup(arena, text, strlen(text)) : NULL;
}

char *arena_printf(struct arena *arena, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    int n = vsnprintf(NULL, 0, fmt, args);
    char *p = n < 0 ? NULL : arena_alloc(arena, (size_t)n + 1);
    if (p)
        vsnprintf(p, (size_t)n + 1, fmt, again);
    va_end(again);
    va_end(args);
    return p;
}

size_t arena_bytes(const struct arena *arena)
{
    return arena->handed_out;
}
