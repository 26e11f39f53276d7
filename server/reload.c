/* SPDX-License-Identifier: Apache-2.0
 * Settings and keys change all or not at all: everything that can fail happens before the first change. */
#include "server/reload.h"

#include <stdlib.h>

#include "core/base/log.h"
#include "server/audit.h"
#include "server/auth.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/server.h"
#include "server/tls.h"

struct reloads {
    struct reloads *before;
    struct config config;
};

static void say(const struct buf *changed, const struct buf *refused)
{
    log_info("settings read again: %s%s", changed->len ? "changed " : "nothing has changed",
             changed->len ? changed->data : "");
    if (refused->len)
        log_warn("settings that wait for a restart: %s", refused->data);
}

/* Files that others renew: a certificate, a rotated audit log. */
static void reopen(struct server *server)
{
    struct err of_tls = {0}, of_audit = {0};
    if (tls_reload(&of_tls))
        log_error("the old certificate stays: %s", of_tls.msg);
    if (audit_reopen(server->audit, &of_audit))
        log_error("the old audit log is written on: %s", of_audit.msg);
}

void server_reload(struct server *server)
{
    struct buf changed = {0}, refused = {0};
    struct err err = {0};
    struct reloads *fresh = calloc(1, sizeof *fresh);
    if (!fresh)
        err_set(&err, ERR_NOMEM, "out of memory");
    if (!fresh || config_reload(&fresh->config, server->config, &changed, &refused, &err)) {
        free(fresh);
        goto out;
    }
    if (http_auth_reload(server->auth, &fresh->config, &err)) {
        config_fini(&fresh->config);
        free(fresh);
        goto out;
    }
    fresh->before = server->reloads;
    server->reloads = fresh;
    atomic_store(&server->config, &fresh->config);
    log_set_level((enum log_level)fresh->config.log_level);
    log_set_format((enum log_format)fresh->config.log_format);
    http_set_limits(atomic_load(&server->http), fresh->config.max_upload_bytes, fresh->config.max_json_bytes);
    admission_measure(server);
    say(&changed, &refused);
out:
    reopen(server); /* whatever is wrong with the settings: a log that was moved is not written on */
    metrics_add(err.code == ERR_NONE ? METRIC_RELOADS : METRIC_RELOADS_FAILED, 1);
    if (err.code != ERR_NONE)
        log_error("settings not read again, the old ones stay: %s", err.msg);
    buf_fini(&changed);
    buf_fini(&refused);
}

void server_reload_fini(struct server *server)
{
    while (server->reloads) {
        struct reloads *last = server->reloads;
        server->reloads = last->before;
        config_fini(&last->config);
        free(last);
    }
}
