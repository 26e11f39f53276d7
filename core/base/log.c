/* SPDX-License-Identifier: Apache-2.0
 * A line is put together in a buffer of fixed size on the stack: logging neither allocates nor fails, also when memory
 * is what has run out. Every text has a largest length as written (escapes count), and a pair is written only when all
 * of it is sure to fit: so a line is cut inside a value at most, and a JSON line is whole whatever was logged. */
#include "core/base/log.h"

#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/utf8.h"

enum { LINE_BYTES = 8192, MESSAGE_BYTES = 2048, TEXT_BYTES = 512, KEY_BYTES = 48, TAIL_BYTES = 4 };

static atomic_int max_level = LOG_INFO, line_format = LOG_TEXT;
static _Thread_local const struct log_scope *current;
static const char *const level_names[] = {"error", "warn", "info", "debug"};

struct line {
    char bytes[LINE_BYTES];
    size_t len;
    bool json;
};

void log_set_level(enum log_level level)
{
    atomic_store_explicit(&max_level, (int)level, memory_order_relaxed);
}

void log_set_format(enum log_format format)
{
    atomic_store_explicit(&line_format, (int)format, memory_order_relaxed);
}

bool log_on(enum log_level level)
{
    return (int)level <= atomic_load_explicit(&max_level, memory_order_relaxed);
}

const struct log_scope *log_enter(const struct log_scope *scope)
{
    const struct log_scope *before = current;
    current = scope;
    return before;
}

/* The callers keep to the bounds above; the test here is for those to come. */
static void put(struct line *l, const char *text, size_t len)
{
    if (len > sizeof l->bytes - TAIL_BYTES - l->len)
        return;
    memcpy(l->bytes + l->len, text, len);
    l->len += len;
}

static void put_word(struct line *l, const char *text)
{
    put(l, text, strlen(text));
}

/* One byte that may not stand as it is. */
static void put_escaped(struct line *l, unsigned char c)
{
    static const char shorts[] = "\n\t\r\\\"", letters[] = "ntr\\\"";
    const char *at = c ? strchr(shorts, c) : NULL;
    char text[8];
    if (at)
        snprintf(text, sizeof text, "\\%c", letters[at - shorts]);
    else
        snprintf(text, sizeof text, l->json ? "\\u%04x" : "\\x%02x", c);
    put_word(l, text);
}

/* Bytes of the character at `text` that may stand as they are; 0: its first byte must be escaped. A terminal takes C1
 * controls (U+0080 to U+009F) for orders, so they do not pass either. */
static size_t plain(const char *text, size_t left, bool quoted)
{
    unsigned char c = (unsigned char)*text;
    if (c < 0x80)
        return c >= 0x20 && c != 0x7F && c != '\\' && !(quoted && c == '"');
    return c == 0xC2 && left > 1 && (unsigned char)text[1] < 0xA0 ? 0 : utf8_character(text, left);
}

/* Hostile text, at most `limit` bytes as written. */
static void put_text(struct line *l, const char *text, size_t limit, bool quoted)
{
    size_t len = strnlen(text, limit), end = l->len + limit;
    for (size_t i = 0; i < len && l->len + 6 <= end;) { /* the longest escape has 6 */
        size_t n = plain(text + i, len - i, quoted);
        if (n > 0)
            put(l, text + i, n);
        else
            put_escaped(l, (unsigned char)text[i]);
        i += n ? n : 1;
    }
}

/* The key in front of a value. In text the shorter name of an id stands alone: `job=`, not `job_id=`. */
static void put_key(struct line *l, const char *key)
{
    size_t len = strlen(key);
    if (!l->json && len > 3 && strcmp(key + len - 3, "_id") == 0)
        len -= 3;
    put_word(l, l->json ? ",\"" : " ");
    put(l, key, len);
    put_word(l, l->json ? "\":" : "=");
}

static bool has_room(const struct line *l)
{
    return l->len + KEY_BYTES + TEXT_BYTES < sizeof l->bytes - TAIL_BYTES;
}

static void put_pair(struct line *l, const char *key, const char *text)
{
    if (!text || !*text || !has_room(l))
        return;
    bool quoted = l->json || strpbrk(text, " =\"");
    put_key(l, key);
    put_word(l, quoted ? "\"" : "");
    put_text(l, text, TEXT_BYTES, quoted);
    put_word(l, quoted ? "\"" : "");
}

static void put_field(struct line *l, const struct log_field *f)
{
    char text[40];
    if (!has_room(l))
        return;
    if (f->kind == LOG_FIELD_TEXT) {
        put_pair(l, f->key, f->text);
        return;
    }
    if (f->kind == LOG_FIELD_INT)
        snprintf(text, sizeof text, "%lld", (long long)f->number);
    else
        snprintf(text, sizeof text, "%.3f", f->ms);
    put_key(l, f->key);
    put_word(l, text);
}

static void begin(struct line *l, enum log_level level, const char *message)
{
    char when[CLOCK_RFC3339];
    l->len = 0;
    l->json = atomic_load_explicit(&line_format, memory_order_relaxed) == LOG_JSON;
    clock_rfc3339(clock_epoch_ms(), when);
    put_word(l, l->json ? "{\"time\":\"" : "");
    put_word(l, when);
    put_word(l, l->json ? "\",\"level\":\"" : " ");
    put_word(l, level_names[level]);
    put_word(l, l->json ? "\",\"message\":\"" : " ");
    put_text(l, message, MESSAGE_BYTES, l->json);
    put_word(l, l->json ? "\"" : "");
}

static void finish(struct line *l)
{
    const struct log_scope *s = current;
    if (s) {
        put_pair(l, "request_id", s->request_id);
        put_pair(l, "job_id", s->job_id);
        put_pair(l, "trace_id", s->trace_id);
        put_pair(l, "owner", s->owner);
    }
    if (l->json)
        l->bytes[l->len++] = '}';
    l->bytes[l->len++] = '\n';
    if (write(STDERR_FILENO, l->bytes, l->len) < 0) /* nobody is left to tell */
        return;
}

void log_line(enum log_level level, const char *fmt, ...)
{
    if (!log_on(level))
        return;
    char message[MESSAGE_BYTES];
    struct line line;
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(message, sizeof message, fmt, args);
    va_end(args);
    begin(&line, level, n < 0 ? fmt : message);
    finish(&line);
}

void log_fields(enum log_level level, const char *message, const struct log_field *fields, int count)
{
    if (!log_on(level))
        return;
    struct line line;
    begin(&line, level, message);
    for (int i = 0; i < count; i++)
        put_field(&line, &fields[i]);
    finish(&line);
}
