/* SPDX-License-Identifier: Apache-2.0
 * log.h - one line a fact, on stderr, as text or as a JSON object.
 *
 *   text  2026-11-22T18:30:01.123Z info job: started  job=job_01J.. trace=4bf9..
 *   JSON  {"time":"2026-11-22T18:30:01.123Z","level":"info","message":"job: started","job_id":"job_01J..",...}
 *
 * Whose line it is comes from the scope of the thread: what serves a request or runs a job opens one, and every line
 * written meanwhile, however deep, carries its ids. So code that logs need not know them.
 * Hostile text (names, paths, what a child says) cannot forge a line: control characters and what is no UTF-8 are
 * escaped, and a line has a largest length. Secrets are never arguments of a call; headers and query strings are not
 * logged.
 * Threads  level and format may change at any time (SIGHUP); a line is one write(2), so lines do not mix. */
#ifndef PARED_BASE_LOG_H
#define PARED_BASE_LOG_H

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };
enum log_format { LOG_TEXT, LOG_JSON };

void log_set_level(enum log_level level);
void log_set_format(enum log_format format);
bool log_on(enum log_level level); /* would a line of this level be written? */

void log_line(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
#define log_error(...) log_line(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_line(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_line(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_DEBUG, __VA_ARGS__)

/* What this thread works for; a NULL or "" is left out. Borrowed until the scope is left. */
struct log_scope {
    const char *request_id, *job_id, *trace_id, *owner;
};
/* Enter; returns what was there before, to be given back when leaving. NULL: none. */
const struct log_scope *log_enter(const struct log_scope *scope);

/* A line of facts of its own, such as that of a request: `message`, then one member a field, in order. */
struct log_field {
    const char *key; /* snake_case, a constant */
    enum { LOG_FIELD_TEXT, LOG_FIELD_INT, LOG_FIELD_MS } kind;
    const char *text; /* NULL: the field is left out */
    int64_t number;
    double ms; /* three decimals */
};
void log_fields(enum log_level level, const char *message, const struct log_field *fields, int count);

#endif
