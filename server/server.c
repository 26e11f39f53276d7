/* SPDX-License-Identifier: Apache-2.0
 * One libuv loop, in the thread of main, owns signals and clocks: reaper and upkeep, and the steps of a stop.
 * Everything else has threads of its own (HTTP, workers), so nothing here is in a hurry.
 *
 * The data folder: lock (held while a server runs), node (its id), catalogue.db, blobs/, uploads/, work/. */
#include "server/server.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "server/access.h"
#include "server/attempt.h"
#include "server/audit.h"
#include "server/auth.h"
#include "server/cgroup.h"
#include "server/collector.h"
#include "server/gc.h"
#include "server/http.h"
#include "server/metrics.h"
#include "server/notify.h"
#include "server/sandbox.h"
#include "server/reload.h"
#include "server/text_cache.h"
#include "server/tls.h"
#include "server/tus.h"
#include "server/tus_http.h"
#include "server/worker.h"

enum { DRAIN_TICK_MS = 50, UPKEEP_MS = 1000, NODE_FILE_LIMIT = 100, LOCK_TRIES = 40, LOCK_PAUSE_US = 50000 };
static const double HTTP_GRACE_S = 3;

/* Where a stop is. */
enum phase { SERVING, ANNOUNCED, DRAINING, STOPPED };

struct run {
    struct server server;
    struct config_address address;
    int lock_fd;
    uv_loop_t loop;
    uv_signal_t term, interrupt, hangup;
    uv_timer_t upkeep, reap, drain;
    enum phase phase;
    double phase_started;
    struct collector *collector;
};

/* ---- the data folder ----------------------------------------------------------------------------------------------
 */

static int data_path(const struct config *config, const char *name, char out[PATH_MAX], struct err *err)
{
    int n = snprintf(out, PATH_MAX, "%s/%s", config->data, name);
    return n < 0 || n >= PATH_MAX ? err_set(err, ERR_USAGE, "data: the path is too long") : 0;
}

/* One server a folder. The lock goes with the process, however it ends; children do not inherit it. A child that was
 * just being made when its server was killed has it until its exec: such a lock is waited for. */
static int lock_data(struct run *run, struct err *err)
{
    const struct config *config = run->server.config;
    char path[PATH_MAX];
    if (data_path(config, "work", path, err))
        return -1;
    if (file_make_dirs(path, err))
        return err_wrap(err, "data folder '%s': ", config->data);
    if (data_path(config, "lock", path, err))
        return -1;
    run->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (run->lock_fd < 0)
        return err_set_errno(err, ERR_IO, "data folder '%s'", config->data);
    int locked = flock(run->lock_fd, LOCK_EX | LOCK_NB);
    for (int i = 0; i < LOCK_TRIES && locked && errno == EWOULDBLOCK; i++) {
        usleep(LOCK_PAUSE_US);
        locked = flock(run->lock_fd, LOCK_EX | LOCK_NB);
    }
    if (locked == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return err_set(err, ERR_IN_USE,
                       "data: '%s' is in use by another pared server; stop it or choose another folder", config->data);
    return err_set_errno(err, ERR_IO, "data folder '%s' cannot be locked", config->data);
}

/* The folder's id, made at its first use. */
static int read_node(struct server *server, struct err *err)
{
    char path[PATH_MAX];
    size_t len;
    struct err missing = {0};
    if (data_path(server->config, "node", path, err))
        return -1;
    char *text = file_read(path, NODE_FILE_LIMIT, &len, &missing);
    if (text && id_is(text, "node")) {
        snprintf(server->node, sizeof server->node, "%s", text);
        free(text);
        return 0;
    }
    free(text);
    id_new(server->node, "node");
    return file_write_atomic(path, server->node, strlen(server->node), err);
}

/* ---- start --------------------------------------------------------------------------------------------------------
 */

/* After a commit, in the thread that made it. */
static void changed(void *arg, enum store_change change, const char *job_id)
{
    struct server *server = arg;
    struct http *http = atomic_load(&server->http);
    struct workers *workers = atomic_load(&server->workers);
    if (workers)
        workers_poke(workers, change);
    if (http)
        http_wake(http, job_id);
}

/* Before a body is taken, in a thread of libmicrohttpd. */
static int admit(void *app, struct err *err)
{
    return admission_check(app, err);
}

/* Before an answer is sent, in a thread of libmicrohttpd. */
static void finish(void *app, const struct req *req, struct res *res)
{
    struct server *server = app;
    tus_http_finish(req, res, atomic_load(&server->config)->max_upload_bytes);
}

/* After each answer, in a thread of libmicrohttpd. */
static void record(void *app, const struct http_record *r)
{
    const struct server *server = app;
    access_record(app, r);
    audit_write(server->audit, r);
}

static int open_catalogue(struct run *run, struct err *err)
{
    struct server *server = &run->server;
    char path[PATH_MAX];
    if (lock_data(run, err) || read_node(server, err) || data_path(server->config, "catalogue.db", path, err))
        return -1;
    const struct store_opts opts = {.path = path, .changed = changed, .arg = server};
    server->store = store_open(&opts, err);
    return server->store ? 0 : -1;
}

static int open_storage(struct server *server, struct err *err)
{
    char path[PATH_MAX];
    if (data_path(server->config, "blobs", path, err))
        return -1;
    server->blobs = blob_disk_open(path, server->config->min_free_disk_bytes, err);
    if (!server->blobs)
        return -1;
    if (data_path(server->config, "uploads", path, err))
        return -1;
    server->tus = tus_open(path, server->store, server->blobs, err);
    if (!server->tus)
        return -1;
    gc_sweep(server->store, server->blobs);
    attempt_clean(server);
    admission_measure(server);
    return 0;
}

/* Settings that are wrong together or for this machine, as far as that can be known without the catalogue. */
static int check_settings(struct run *run, struct err *err)
{
    struct server *server = &run->server;
    const struct config *config = server->config;
    bool certificate = config->tls_certificate[0], key = config->tls_key[0];
    if (certificate != key)
        return err_set(err, ERR_USAGE, "tls_certificate and tls_key belong together: %s is missing",
                       key ? "tls_certificate" : "tls_key");
    if (certificate && tls_load(config->tls_certificate, config->tls_key, err))
        return -1;
    return config_address(config->listen, &run->address, err) ||
                   sandbox_check((enum sandbox_mode)config->sandbox, err) ||
                   proxies_init(&server->proxies, &config->trusted_proxies, config->forwarded_header, err)
               ? -1
               : 0;
}

/* Who calls. Refuses to let other machines in without a key, which may be in the catalogue. */
static int open_access(struct server *server, struct err *err)
{
    const struct config *config = server->config;
    if (audit_open(&server->audit, config->audit_log, err) || !(server->texts = text_cache_new(err)))
        return -1;
    char fresh[LINK_SECRET_HEX];
    link_secret_new(fresh);
    if (store_value(server->store, "link_secret", fresh, server->link_secret, sizeof server->link_secret, err))
        return -1;
    server->auth = http_auth_new(config, server->store, err);
    return server->auth ? 0 : -1;
}

static int start_http(struct run *run, const struct route *routes, struct err *err)
{
    struct server *server = &run->server;
    const struct config *config = server->config;
    struct http *http = NULL;
    server->router = router_new(routes);
    if (!server->router)
        return err_set(err, ERR_NOMEM, "out of memory");
    const struct http_opts opts = {.host = run->address.host,
                                   .port = run->address.port,
                                   .threads = (int)config->http_threads,
                                   .connection_limit = (int)config->http_connections,
                                   .idle_timeout_s = (int)config->http_idle_timeout_s,
                                   .header_timeout_s = (int)config->http_header_timeout_s,
                                   .min_rate = config->http_min_rate_bytes,
                                   .rate_window_s = (int)config->http_rate_window_s,
                                   .max_upload_bytes = config->max_upload_bytes,
                                   .max_json_bytes = config->max_json_bytes,
                                   .auth = server->auth,
                                   .router = server->router,
                                   .blobs = server->blobs,
                                   .proxies = &server->proxies,
                                   .tls = config->tls_certificate[0] != 0,
                                   .cors_max_age_s = (int)config->cors_max_age_s,
                                   .app = server,
                                   .finish = finish,
                                   .admit = admit,
                                   .record = record};
    if (http_start(&http, &opts, err))
        return -1;
    atomic_store(&server->http, http);
    return 0;
}

/* Ready: say where. */
static int announce(struct run *run, struct err *err)
{
    const struct config *config = run->server.config;
    char url[400];
    bool v6 = strchr(run->address.host, ':');
    snprintf(url, sizeof url, "http%s://%s%s%s:%u", config->tls_certificate[0] ? "s" : "", v6 ? "[" : "",
             run->address.host, v6 ? "]" : "", (unsigned)http_port(atomic_load(&run->server.http)));
    log_info("pared " PARED_VERSION " serves %s from %s", url, config->data);
    if (config->address_file[0] && file_write_atomic(config->address_file, url, strlen(url), err))
        return err_wrap(err, "address_file '%s': ", config->address_file);
    notify_manager("READY=1");
    return 0;
}

/* ---- the loop -----------------------------------------------------------------------------------------------------
 */

static void store_failed(const char *what, enum metric metric, const struct err *err)
{
    metrics_add(metric, 1);
    log_warn("%s: %s", what, err->msg);
}

static void on_upkeep(uv_timer_t *timer)
{
    struct run *run = timer->data;
    struct err err = {0};
    if (store_maintain(run->server.store, &err))
        store_failed("upkeep", METRIC_STORE_ERRORS_UPKEEP, &err);
    err = (struct err){0};
    if (tus_expire(run->server.tus, &err) < 0)
        store_failed("expired uploads", METRIC_STORE_ERRORS_UPKEEP, &err);
    admission_measure(&run->server);
}

static void on_reap(uv_timer_t *timer)
{
    struct run *run = timer->data;
    struct err err = {0};
    int reaped = 0;
    if (store_job_reap(run->server.store, NULL, &reaped, &err))
        store_failed("reaper", METRIC_STORE_ERRORS_REAP, &err);
    if (reaped) {
        metrics_add(METRIC_LEASES_LOST, reaped);
        log_warn("%d jobs lost their worker and are queued again", reaped);
    }
}

static void enter(struct run *run, enum phase phase)
{
    run->phase = phase;
    run->phase_started = clock_seconds();
}

/* One look at a stop under way; each phase ends by its condition or its time. */
static void on_drain(uv_timer_t *timer)
{
    struct run *run = timer->data;
    const struct config *config = run->server.config;
    double in_phase = clock_seconds() - run->phase_started;
    if (run->phase == ANNOUNCED && in_phase >= (double)config->drain_delay_s)
        enter(run, DRAINING);
    if (run->phase == DRAINING && (workers_busy(atomic_load(&run->server.workers)) == 0 ||
                                   clock_seconds() - run->phase_started >= (double)config->drain_s))
        enter(run, STOPPED);
    if (run->phase == STOPPED)
        uv_stop(&run->loop);
}

static void on_signal(uv_signal_t *handle, int number)
{
    struct run *run = handle->data;
    if (run->phase != SERVING) { /* asked twice: at once */
        log_info("signal %d again: stopping now", number);
        enter(run, STOPPED);
        return;
    }
    log_info("signal %d: stopping", number);
    notify_manager("STOPPING=1");
    atomic_store(&run->server.draining, true);
    http_set_draining(atomic_load(&run->server.http));
    workers_drain(atomic_load(&run->server.workers));
    enter(run, ANNOUNCED);
    uv_timer_start(&run->drain, on_drain, 0, DRAIN_TICK_MS);
}

static void on_hangup(uv_signal_t *handle, int number)
{
    struct run *run = handle->data;
    (void)number;
    server_reload(&run->server);
}

static int init_loop(struct run *run, struct err *err)
{
    if (uv_loop_init(&run->loop))
        return err_set(err, ERR_INTERNAL, "cannot make the event loop");
    uv_signal_init(&run->loop, &run->term);
    uv_signal_init(&run->loop, &run->interrupt);
    uv_signal_init(&run->loop, &run->hangup);
    uv_timer_init(&run->loop, &run->upkeep);
    uv_timer_init(&run->loop, &run->reap);
    uv_timer_init(&run->loop, &run->drain);
    run->term.data = run->interrupt.data = run->hangup.data = run->upkeep.data = run->reap.data = run->drain.data = run;
    if (uv_signal_start(&run->term, on_signal, SIGTERM) || uv_signal_start(&run->interrupt, on_signal, SIGINT) ||
        uv_signal_start(&run->hangup, on_hangup, SIGHUP))
        return err_set(err, ERR_INTERNAL, "cannot watch signals");
    uint64_t every = (uint64_t)run->server.config->reap_ms;
    uv_timer_start(&run->upkeep, on_upkeep, UPKEEP_MS, UPKEEP_MS);
    uv_timer_start(&run->reap, on_reap, every, every);
    return 0;
}

static void close_loop(struct run *run)
{
    uv_handle_t *handles[] = {(uv_handle_t *)&run->term,   (uv_handle_t *)&run->interrupt, (uv_handle_t *)&run->hangup,
                              (uv_handle_t *)&run->upkeep, (uv_handle_t *)&run->reap,      (uv_handle_t *)&run->drain};
    for (size_t i = 0; i < sizeof handles / sizeof handles[0]; i++)
        uv_close(handles[i], NULL);
    uv_run(&run->loop, UV_RUN_DEFAULT);
    uv_loop_close(&run->loop);
}

/* Workers end first, while clients can still see what became of their jobs; their pool is freed when no handler is left
 * to poke it. */
static void stop_all(struct run *run)
{
    struct server *server = &run->server;
    collector_stop(run->collector);
    workers_stop(atomic_load(&server->workers));
    struct http *http = atomic_load(&server->http);
    if (http)
        http_stop(http, HTTP_GRACE_S);
    workers_free(atomic_load(&server->workers));
    router_free(server->router);
    http_auth_free(server->auth);
    text_cache_free(server->texts);
    audit_close(server->audit);
    proxies_fini(&server->proxies);
    tls_unload();
    tus_close(server->tus);
    blobs_close(server->blobs);
    store_close(server->store);
    server_reload_fini(server);
    if (run->lock_fd >= 0)
        close(run->lock_fd);
}

/* Children get absolute paths, so the data folder is made absolute once. */
static int absolute_data(const struct config *config, char out[PATH_MAX], struct err *err)
{
    file_make_private();
    if (file_make_dirs(config->data, err))
        return err_wrap(err, "data folder '%s': ", config->data);
    return realpath(config->data, out) ? 0 : err_set_errno(err, ERR_IO, "data folder '%s'", config->data);
}

/* What jobs will be fenced in with; before the first of them. A control group takes the whole process, all its
 * threads. */
static void set_up_walls(const struct config *config)
{
    struct err why = {0};
    const struct sandbox_support has = sandbox_support();
    const enum sandbox_mode mode = (enum sandbox_mode)config->sandbox;
    if (mode != SANDBOX_OFF && (has.landlock_abi < SANDBOX_LANDLOCK_MIN || !has.calls))
        log_warn("this kernel lacks walls around jobs: landlock ABI %d (%d is needed), seccomp %s", has.landlock_abi,
                 (int)SANDBOX_LANDLOCK_MIN, has.calls ? "yes" : "no");
    if (cgroup_open(NULL, &why))
        log_info("no control groups for jobs (%s): RLIMIT_DATA and the server's own look limit their memory", why.msg);
}

int server_run(const struct config *given, const struct route *routes, struct err *err)
{
    char data[PATH_MAX];
    struct config absolute = *given, *config = &absolute;
    if (absolute_data(given, data, err))
        return -1;
    absolute.data = data;
    struct run run = {.server = {.config = config, .started = clock_seconds()}, .lock_fd = -1};
    struct server *server = &run.server;
    log_set_level((enum log_level)config->log_level);
    log_set_format((enum log_format)config->log_format);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* ulimit -f: the write fails, which is handled as a full disk is */
    if (init_loop(&run, err))
        return -1;
    int rc = -1;
    /* what is wrong is refused before anything is changed or said */
    if (check_settings(&run, err) || open_catalogue(&run, err) || open_access(server, err))
        goto out;
    set_up_walls(config);
    if (open_storage(server, err) || start_http(&run, routes, err))
        goto out;
    struct workers *workers = workers_start(server, err);
    if (!workers)
        goto out;
    atomic_store(&server->workers, workers);
    run.collector = collector_start(server, err);
    if (!run.collector || announce(&run, err))
        goto out;
    uv_run(&run.loop, UV_RUN_DEFAULT);
    rc = 0;
out:
    stop_all(&run);
    close_loop(&run);
    if (rc == 0)
        log_info("stopped");
    return rc;
}
