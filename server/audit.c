/* SPDX-License-Identifier: Apache-2.0 */
#include "server/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/base/utf8.h"
#include "server/http.h"

struct audit {
    char *path;
    int fd; /* its file changes by dup3, the number stays: writers need no lock */
    atomic_bool failed;
};

static int open_file(const char *path, struct err *err)
{
    int fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    return fd >= 0 ? fd : err_set_errno(err, ERR_USAGE, "audit_log '%.300s' cannot be written", path);
}

int audit_open(struct audit **out, const char *path, struct err *err)
{
    *out = NULL;
    if (!path[0])
        return 0;
    struct audit *audit = calloc(1, sizeof *audit);
    if (!audit || !(audit->path = strdup(path))) {
        free(audit);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    audit->fd = open_file(path, err);
    if (audit->fd < 0) {
        audit_close(audit);
        return -1;
    }
    *out = audit;
    return 0;
}

void audit_close(struct audit *audit)
{
    if (!audit)
        return;
    if (audit->fd >= 0)
        close(audit->fd);
    free(audit->path);
    free(audit);
}

int audit_reopen(struct audit *audit, struct err *err)
{
    int fd = audit ? open_file(audit->path, err) : -1, rc = 0;
    if (!audit)
        return 0;
    if (fd < 0)
        return -1;
    if (dup3(fd, audit->fd, O_CLOEXEC) < 0)
        rc = err_set_errno(err, ERR_IO, "audit_log '%.300s'", audit->path);
    close(fd);
    return rc;
}

static bool refused(int status)
{
    return status == 401 || status == 403 || status == 429;
}

static bool changes(const struct http_record *record)
{
    const char *method = record->method;
    return method[0] && strcmp(method, "GET") != 0 && strcmp(method, "HEAD") != 0 && strcmp(method, "OPTIONS") != 0;
}

static void set(json_t *line, const char *key, const char *text)
{
    if (text && text[0])
        json_object_set_new(line, key, utf8_json(text));
}

static json_t *line_of(const struct http_record *r)
{
    json_t *line = json_object();
    char time[CLOCK_RFC3339];
    clock_rfc3339(clock_epoch_ms(), time);
    set(line, "time", time);
    set(line, "request_id", r->request_id);
    set(line, "trace_id", r->trace ? r->trace->id : NULL);
    set(line, "client", r->client);
    set(line, "owner", r->owner);
    set(line, "key", r->key_id);
    set(line, "method", r->sent_method);
    set(line, "path", r->path);
    set(line, "route", r->route);
    json_object_set_new(line, "status", json_integer(r->status));
    set(line, "outcome",
        r->status == HTTP_CUT ? "cut"
        : refused(r->status)  ? "refused"
        : r->status >= 400    ? "failed"
                              : "done");
    set(line, "code", r->error ? err_slug(r->error) : NULL);
    set(line, "resource", r->location);
    return line;
}

void audit_write(struct audit *audit, const struct http_record *record)
{
    if (!audit || (!changes(record) && !refused(record->status)))
        return;
    json_t *line = line_of(record);
    char *text = line ? json_dumps(line, JSON_COMPACT) : NULL;
    json_decref(line);
    struct err err = {0};
    int rc = -1;
    if (text) {
        size_t len = strlen(text);
        text[len] = '\n'; /* in the place of the NUL: one write a line */
        rc = file_write_all(audit->fd, text, len + 1, &err);
    }
    free(text);
    bool failed = atomic_exchange(&audit->failed, rc != 0);
    if (rc && !failed)
        log_error("audit_log '%s' cannot be written: %s", audit->path, err.msg);
    if (!rc && failed)
        log_info("audit_log '%s' is written again", audit->path);
}
