/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/err.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"

static const struct {
    int status;
    const char *slug, *title;
} rows[ERR_COUNT] = {
    [ERR_NONE] = {200, "none", "No error"},
#define X(id, status, slug, title) [ERR_##id] = {status, slug, title},
    ERR_MAP(X)
#undef X
};

/* False: there is no place for it, or an earlier error stands there. */
static bool set_message(struct err *err, const char *fmt, va_list args)
{
    if (!err || err->code != ERR_NONE)
        return false;
    vsnprintf(err->msg, sizeof err->msg, fmt, args);
    return true;
}

int err_set(struct err *err, enum err_code code, const char *fmt, ...)
{
    va_list args;
    va_start(args, fmt);
    if (set_message(err, fmt, args)) {
        utf8_mend(err->msg);
        err->code = code;
    }
    va_end(args);
    return -1;
}

int err_set_errno(struct err *err, enum err_code code, const char *fmt, ...)
{
    int saved = errno;
    va_list args;
    va_start(args, fmt);
    if (set_message(err, fmt, args)) {
        size_t len = strlen(err->msg);
        snprintf(err->msg + len, sizeof err->msg - len, ": %s", strerror(saved));
        utf8_mend(err->msg);
        err->code = saved == ENOSPC || saved == EDQUOT ? ERR_DISK_FULL : saved == ENOMEM ? ERR_NOMEM : code;
    }
    va_end(args);
    return -1;
}

int err_wrap(struct err *err, const char *fmt, ...)
{
    if (!err)
        return -1;
    char place[sizeof err->msg];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(place, sizeof place, fmt, args);
    va_end(args);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof place ? (size_t)n : sizeof place - 1;
    size_t old = strlen(err->msg);
    if (len + old >= sizeof err->msg)
        old = sizeof err->msg - 1 - len;
    memmove(err->msg + len, err->msg, old);
    memcpy(err->msg, place, len);
    err->msg[len + old] = 0;
    utf8_mend(err->msg);
    return -1;
}

const char *err_slug(enum err_code code)
{
    return (unsigned)code < ERR_COUNT ? rows[code].slug : "internal";
}

const char *err_title(enum err_code code)
{
    return (unsigned)code < ERR_COUNT ? rows[code].title : "Internal error";
}

int err_status(enum err_code code)
{
    return (unsigned)code < ERR_COUNT ? rows[code].status : 500;
}

enum err_code err_code_from_slug(const char *slug)
{
    for (int i = 1; i < ERR_COUNT; i++)
        if (strcmp(rows[i].slug, slug) == 0)
            return (enum err_code)i;
    return ERR_NONE;
}

void faults_add(struct faults *faults, const char *pointer, const char *fmt, ...)
{
    if (faults->count >= 100)
        return;
    struct fault *grown = realloc(faults->at, ((size_t)faults->count + 1) * sizeof *grown);
    if (!grown)
        return;
    faults->at = grown;
    char text[1000];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    struct fault fault = {strdup(pointer), strdup(text)};
    if (!fault.pointer || !fault.detail) {
        free(fault.pointer);
        free(fault.detail);
        return;
    }
    utf8_mend(fault.pointer);
    utf8_mend(fault.detail);
    faults->at[faults->count++] = fault;
}

void faults_fini(struct faults *faults)
{
    for (int i = 0; i < faults->count; i++) {
        free(faults->at[i].pointer);
        free(faults->at[i].detail);
    }
    free(faults->at);
    *faults = (struct faults){0};
}
