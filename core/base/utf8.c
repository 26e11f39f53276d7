/* SPDX-License-Identifier: Apache-2.0
 * The lead byte decides how long a character is and which second byte keeps it in shortest form. */
#include "core/base/utf8.h"

#include <string.h>

static const struct lead {
    unsigned char first, last, second_min, second_max;
    size_t len;
} leads[] = {
    {0x00, 0x7f, 0x00, 0x00, 1}, {0xc2, 0xdf, 0x80, 0xbf, 2}, {0xe0, 0xe0, 0xa0, 0xbf, 3},
    {0xe1, 0xec, 0x80, 0xbf, 3}, {0xed, 0xed, 0x80, 0x9f, 3}, {0xee, 0xef, 0x80, 0xbf, 3},
    {0xf0, 0xf0, 0x90, 0xbf, 4}, {0xf1, 0xf3, 0x80, 0xbf, 4}, {0xf4, 0xf4, 0x80, 0x8f, 4},
};

size_t utf8_character(const char *text, size_t len)
{
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; len && i < sizeof leads / sizeof *leads; i++) {
        const struct lead *lead = &leads[i];
        if (*p < lead->first || *p > lead->last)
            continue;
        if (lead->len > len || (lead->len > 1 && (p[1] < lead->second_min || p[1] > lead->second_max)))
            return 0;
        for (size_t k = 2; k < lead->len; k++)
            if (p[k] < 0x80 || p[k] > 0xbf)
                return 0;
        return lead->len;
    }
    return 0;
}

bool utf8_valid(const char *text, size_t len)
{
    size_t n;
    for (; len; text += n, len -= n)
        if (!(n = utf8_character(text, len)))
            return false;
    return true;
}

void utf8_mend(char *text)
{
    size_t n;
    for (size_t len = strlen(text); len; text += n, len -= n)
        if (!(n = utf8_character(text, len))) {
            *text = '?';
            n = 1;
        }
}

void utf8_append(struct buf *buf, const char *text)
{
    size_t n;
    buf_append(buf, "", 0);
    for (size_t len = strlen(text); len; text += n, len -= n) {
        n = utf8_character(text, len);
        buf_append(buf, n ? text : "\xef\xbf\xbd", n ? n : 3);
        n = n ? n : 1;
    }
}

json_t *utf8_json(const char *text)
{
    if (!text)
        return json_null();
    json_t *whole = json_string(text);
    if (whole)
        return whole;
    struct buf mended = {0};
    utf8_append(&mended, text);
    whole = mended.failed ? NULL : json_string(mended.data);
    buf_fini(&mended);
    return whole;
}
