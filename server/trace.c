/* SPDX-License-Identifier: Apache-2.0 */
#include "server/trace.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#include "core/base/clock.h"
#include "core/base/hash.h"

enum { ID_AT = 3, ID_LEN = 32, SPAN_AT = 36, SPAN_LEN = 16, FLAGS_AT = 53, LENGTH = 55 };

/* `len` lower-case hex digits that are not all zero (unless zero may be). */
static bool hex_id(const char *text, int len, bool zero)
{
    for (int i = 0; i < len; i++) {
        char c = text[i];
        if (!((c >= '0' && c <= '9') || (c >= 'a' && c <= 'f')))
            return false;
        zero |= c != '0';
    }
    return zero;
}

bool trace_valid(const char *text)
{
    if (!text || strnlen(text, LENGTH) < LENGTH)
        return false;
    bool later = strncmp(text, "00", 2) != 0;
    return hex_id(text, 2, true) && strncmp(text, "ff", 2) != 0 && text[2] == '-' &&
           hex_id(text + ID_AT, ID_LEN, false) && text[SPAN_AT - 1] == '-' && hex_id(text + SPAN_AT, SPAN_LEN, false) &&
           text[FLAGS_AT - 1] == '-' && hex_id(text + FLAGS_AT, 2, true) &&
           (text[LENGTH] == 0 || (later && text[LENGTH] == '-'));
}

/* Random ids need not be secret, only different: the kernel is asked for ten requests at once, and without its
 * randomness the clock has to do. */
static void pooled_bytes(uint8_t *out, size_t len)
{
    static _Thread_local uint8_t pool[256];
    static _Thread_local size_t left;
    if (left < len && getrandom(pool, sizeof pool, GRND_NONBLOCK) == (ssize_t)sizeof pool)
        left = sizeof pool;
    if (left >= len) {
        memcpy(out, pool + sizeof pool - left, len);
        left -= len;
        return;
    }
    uint64_t now = (uint64_t)(clock_seconds() * 1e9);
    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(now >> 8 * (i % 8));
}

static void random_hex(char *out, int len)
{
    uint8_t bytes[ID_LEN / 2];
    pooled_bytes(bytes, (size_t)len / 2);
    bytes[0] |= 1; /* never all zero */
    hex_text(bytes, (size_t)len / 2, out);
}

void trace_begin(struct trace *trace, const char *given)
{
    char span[SPAN_LEN + 1], flags[3] = "00";
    if (trace_valid(given)) {
        memcpy(trace->id, given + ID_AT, ID_LEN);
        trace->id[ID_LEN] = 0;
        memcpy(flags, given + FLAGS_AT, 2);
    } else {
        random_hex(trace->id, ID_LEN);
    }
    random_hex(span, SPAN_LEN);
    snprintf(trace->parent, sizeof trace->parent, "00-%s-%s-%s", trace->id, span, flags);
}
