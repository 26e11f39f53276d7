/* SPDX-License-Identifier: Apache-2.0
 * range.c - several ranges in one request are answered by the whole body, which RFC 9110 14.2 allows:
 * multipart/byteranges is an invitation to amplification, and no client of ours needs it. */
#include "server/range.h"

#include <string.h>
#include <strings.h>

/* Digits at *text; false when there are none. What does not fit is as good as the largest number: no file is that
 * long. */
static bool number(const char **text, uint64_t *out)
{
    uint64_t value = 0;
    bool huge = false;
    const char *at = *text;
    for (; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(value, 10u, &value) || __builtin_add_overflow(value, (uint64_t)(*at - '0'), &value))
            huge = true;
    bool any = at != *text;
    *text = at;
    *out = huge ? UINT64_MAX : value;
    return any;
}

enum range_kind range_parse(const char *value, uint64_t size, uint64_t *first, uint64_t *len)
{
    uint64_t a = 0, b = 0;
    if (!value || strncasecmp(value, "bytes=", 6) != 0)
        return RANGE_WHOLE;
    value += 6 + strspn(value + 6, " \t");
    bool has_a = number(&value, &a);
    if (*value != '-')
        return RANGE_WHOLE;
    value++;
    bool has_b = number(&value, &b);
    value += strspn(value, " \t");
    if (*value || (!has_a && !has_b) || (has_a && has_b && b < a))
        return RANGE_WHOLE;
    if (!has_a) { /* the last b bytes */
        *len = b < size ? b : size;
        *first = size - *len;
        return *len ? RANGE_PART : RANGE_BEYOND;
    }
    if (a >= size)
        return RANGE_BEYOND;
    *first = a;
    *len = has_b && b < size - 1 ? b - a + 1 : size - a;
    return RANGE_PART;
}

bool etag_listed(const char *header, const char *etag, bool weak)
{
    if (!header)
        return false;
    bool is_weak = strncmp(etag, "W/", 2) == 0;
    if (weak && is_weak)
        etag += 2;
    size_t len = !weak && is_weak ? SIZE_MAX : strlen(etag); /* strongly compared, a weak tag is equal to none */
    for (const char *at = header; *at;) {
        at += strspn(at, " \t,");
        if (strcmp(at, "*") == 0)
            return true;
        const char *tag = weak && strncmp(at, "W/", 2) == 0 ? at + 2 : at;
        const char *quote = strchr(tag, '"');
        const char *end = quote ? strchr(quote + 1, '"') : NULL;
        if (!end)
            return false;
        if ((size_t)(end + 1 - tag) == len && memcmp(tag, etag, len) == 0)
            return true;
        at = end + 1;
    }
    return false;
}
