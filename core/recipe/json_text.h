/* SPDX-License-Identifier: Apache-2.0
 * json_text.h - JSON from outside into jansson values, with the limits every document of ours has: at most 1 MiB (or
 * `limit`), 64 levels, no key twice in one object, UTF-8. Recipes and request bodies come through here. */
#ifndef PARED_RECIPE_JSON_TEXT_H
#define PARED_RECIPE_JSON_TEXT_H

#include <jansson.h>

#include "core/base/err.h"

enum { JSON_TEXT_MAX = 1 << 20, JSON_TEXT_DEPTH = 64 };
/* Flags of json_dumps for what people and files get: reals with 15 digits, so that 0.9 stays 0.9. */
#define JSON_TEXT_DUMP (JSON_REAL_PRECISION(15))

/* The value, new reference. NULL: ERR_BAD_JSON with line and column (ERR_TOO_LARGE beyond `limit` bytes; 0:
 * JSON_TEXT_MAX). Any JSON value is accepted at the top. */
json_t *json_text_parse(const char *text, size_t len, size_t limit, struct err *err);
/* Name of a value's type with its article, for sentences: "a string". */
const char *json_text_type(const json_t *value);
/* The value as short text for a sentence, cut after about 40 bytes with "...". */
enum { JSON_TEXT_BRIEF = 64 };
const char *json_text_brief(const json_t *value, char out[JSON_TEXT_BRIEF]);
/* Bytes of the longest prefix of at most `max` bytes that ends with a whole UTF-8 character, for "%.*s". */
int json_text_cut(const char *text, int max);
/* Atomically write a value, indented, with a newline at its end. */
int json_text_write(const json_t *value, const char *path, struct err *err);

#endif
