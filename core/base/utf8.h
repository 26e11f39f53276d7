/* SPDX-License-Identifier: Apache-2.0
 * utf8.h - text of strangers: names in models and archives, headers and bodies. JSON and pages take only UTF-8.
 * Well-formed is RFC 3629: shortest form, no surrogates, nothing above U+10FFFF. */
#ifndef PARED_BASE_UTF8_H
#define PARED_BASE_UTF8_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>

#include "core/base/buf.h"

/* Bytes of the character at the start of text[0..len); 0: none, or one that is cut or not well-formed. */
size_t utf8_character(const char *text, size_t len);
bool utf8_valid(const char *text, size_t len);
/* Each byte that belongs to no character becomes '?'. */
void utf8_mend(char *text);
/* Appends text; each byte that belongs to no character becomes U+FFFD. */
void utf8_append(struct buf *buf, const char *text);
/* As JSON string, mended like that; null for NULL. New reference; NULL when memory is out. */
json_t *utf8_json(const char *text);

#endif
