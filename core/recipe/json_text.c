/* SPDX-License-Identifier: Apache-2.0
 * json_text.c - jansson does the parsing; what it cannot limit is checked on the text before: it recurses 2,048
 * levels deep, so the depth is counted first, outside of strings. */
#include "core/recipe/json_text.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"

/* Byte offset of the first bracket deeper than JSON_TEXT_DEPTH levels, or -1. Brackets need not match: the parser
 * sees to that. */
static long too_deep_at(const char *text, size_t len)
{
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < len; i++) {
        char c = text[i];
        if (in_string) {
            if (c == '\\')
                i++;
            else if (c == '"')
                in_string = false;
        } else if (c == '"') {
            in_string = true;
        } else if (c == '[' || c == '{') {
            if (++depth > JSON_TEXT_DEPTH)
                return (long)i;
        } else if (c == ']' || c == '}') {
            depth--;
        }
    }
    return -1;
}

json_t *json_text_parse(const char *text, size_t len, size_t limit, struct err *err)
{
    if (!limit)
        limit = JSON_TEXT_MAX;
    if (len > limit) {
        err_set(err, ERR_TOO_LARGE, "JSON of %zu bytes is larger than the limit of %zu bytes", len, limit);
        return NULL;
    }
    long deep = too_deep_at(text, len);
    if (deep >= 0) {
        err_set(err, ERR_BAD_JSON, "JSON is nested deeper than %d levels (at byte %ld)", JSON_TEXT_DEPTH, deep);
        return NULL;
    }
    json_error_t e;
    json_t *json = json_loadb(text, len, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!json && json_error_code(&e) == json_error_out_of_memory)
        err_set(err, ERR_NOMEM, "no memory for JSON of %zu bytes", len);
    else if (!json)
        err_set(err, ERR_BAD_JSON, "not valid JSON: %s (line %d, column %d)", e.text, e.line, e.column);
    return json;
}

const char *json_text_type(const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE:
    case JSON_FALSE: return "a boolean";
    case JSON_NULL: return "null";
    }
    return "nothing";
}

int json_text_cut(const char *text, int max)
{
    size_t len = strnlen(text, (size_t)max + 1);
    if (len <= (size_t)max)
        return (int)len;
    while (max > 0 && ((unsigned char)text[max] & 0xC0) == 0x80)
        max--;
    return max;
}

const char *json_text_brief(const json_t *value, char out[JSON_TEXT_BRIEF])
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT | JSON_TEXT_DUMP);
    int cut = text ? json_text_cut(text, 40) : 0;
    snprintf(out, JSON_TEXT_BRIEF, "%.*s%s", cut, text ? text : "", text && text[cut] ? "..." : "");
    free(text);
    return out;
}

int json_text_write(const json_t *value, const char *path, struct err *err)
{
    char *text = json_dumps(value, JSON_INDENT(2) | JSON_ENCODE_ANY | JSON_TEXT_DUMP);
    if (!text)
        return err_set(err, ERR_NOMEM, "no memory to write JSON");
    size_t len = strlen(text);
    text[len] = '\n'; /* over the NUL: the length is passed on */
    int rc = file_write_atomic(path, text, len + 1, err);
    free(text);
    return rc;
}
