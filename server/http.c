/* SPDX-License-Identifier: Apache-2.0
 * http.c - start and stop of the daemon, and its sockets. The socket is ours, made before the daemon: libmicrohttpd
 * cannot tell an address that is in use from any other failure. */
#include "server/http.h"

#include <errno.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "server/http_internal.h"
#include "server/tls.h"

enum { SPARE_FILES = 256 };

static void connection_event(void *cls, struct MHD_Connection *conn, void **state,
                             enum MHD_ConnectionNotificationCode code)
{
    struct http *http = cls;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
        const union MHD_ConnectionInfo *info = MHD_get_connection_info(conn, MHD_CONNECTION_INFO_CONNECTION_FD);
        struct connection *c = info ? calloc(1, sizeof *c) : NULL;
        *state = c;
        if (!c)
            return; /* it is served all the same, unwatched */
        c->fd = info->connect_fd;
        watch_open(http, c);
        return;
    }
    struct connection *c = *state;
    if (!c)
        return;
    watch_close(http, c);
    free(c);
    *state = NULL;
}

static int listen_at(const struct addrinfo *at, uint16_t *port)
{
    int fd = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), on = 1;
    if (fd < 0)
        return -1;
    struct sockaddr_storage bound;
    socklen_t len = sizeof bound;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(fd, at->ai_addr, at->ai_addrlen) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&bound, &len) != 0) {
        int saved = errno;
        close(fd);
        errno = saved;
        return -1;
    }
    char text[8];
    getnameinfo((struct sockaddr *)&bound, len, NULL, 0, text, sizeof text, NI_NUMERICSERV);
    *port = (uint16_t)strtoul(text, NULL, 10);
    return fd;
}

static int open_socket(const struct http_opts *opts, uint16_t *port, struct err *err)
{
    char service[8];
    snprintf(service, sizeof service, "%u", opts->port);
    struct addrinfo hints = {.ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM,
                             .ai_flags = AI_PASSIVE | AI_NUMERICSERV},
                    *list;
    int rc = getaddrinfo(opts->host, service, &hints, &list);
    if (rc != 0)
        return err_set(err, ERR_USAGE, "listen: the address '%s' is not known: %s.", opts->host, gai_strerror(rc));
    int fd = -1;
    for (const struct addrinfo *at = list; at && fd < 0; at = at->ai_next)
        fd = listen_at(at, port);
    freeaddrinfo(list);
    return fd >= 0 ? fd : err_set_errno(err, ERR_USAGE, "listen: %s:%s cannot be listened on", opts->host, service);
}

/* As many connections as the process may have files, with some left for blobs, pipes and the catalogue. */
static void fit_file_limit(struct http *http)
{
    struct rlimit files;
    http->limit = http->opts.connection_limit;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return;
    rlim_t want = (rlim_t)http->limit + SPARE_FILES;
    if (files.rlim_cur < want) {
        files.rlim_cur = files.rlim_max < want ? files.rlim_max : want;
        if (setrlimit(RLIMIT_NOFILE, &files) != 0)
            getrlimit(RLIMIT_NOFILE, &files);
    }
    if (files.rlim_cur >= want)
        return;
    int fits = files.rlim_cur > 2 * SPARE_FILES ? (int)files.rlim_cur - SPARE_FILES : (int)files.rlim_cur / 2;
    log_warn("http: %d connections do not fit into the limit of %llu open files (ulimit -n): %d are served at once",
             http->limit, (unsigned long long)files.rlim_cur, fits);
    http->limit = fits;
}

static void daemon_log(void *cls, const char *fmt, va_list args)
{
    char text[512];
    (void)cls;
    vsnprintf(text, sizeof text, fmt, args);
    text[strcspn(text, "\n")] = 0;
    log_debug("http: %s", text);
}

static int start_daemon(struct http *http, struct err *err)
{
    int fd = open_socket(&http->opts, &http->port, err);
    if (fd < 0)
        return -1;
    unsigned flags = MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME | MHD_USE_ERROR_LOG;
    unsigned limit = (unsigned)http->limit;
    struct MHD_OptionItem pool[] = {{MHD_OPTION_THREAD_POOL_SIZE, http->opts.threads, NULL}, {MHD_OPTION_END, 0, NULL}};
    if (http->opts.threads < 2)
        pool[0].option = MHD_OPTION_END;
    struct MHD_OptionItem tls[] = {{MHD_OPTION_HTTPS_CERT_CALLBACK2, 0, (void *)(uintptr_t)tls_retrieve},
                                   {MHD_OPTION_HTTPS_PRIORITIES, 0, (void *)(uintptr_t)TLS_PRIORITIES},
                                   {MHD_OPTION_END, 0, NULL}};
    if (http->opts.tls)
        flags |= MHD_USE_TLS;
    else
        tls[0].option = MHD_OPTION_END;
    http->daemon = MHD_start_daemon(flags, 0, NULL, NULL, exchange_step, http, MHD_OPTION_EXTERNAL_LOGGER, daemon_log,
                                    NULL, MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_ARRAY, pool, MHD_OPTION_ARRAY, tls,
                                    MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HTTP_CONNECTION_MEMORY,
                                    MHD_OPTION_CONNECTION_LIMIT, limit, MHD_OPTION_CONNECTION_TIMEOUT,
                                    (unsigned)http->opts.idle_timeout_s, MHD_OPTION_URI_LOG_CALLBACK, exchange_open,
                                    http, MHD_OPTION_NOTIFY_COMPLETED, exchange_close, http,
                                    MHD_OPTION_NOTIFY_CONNECTION, connection_event, http, MHD_OPTION_END);
    if (http->daemon)
        return 0;
    close(fd);
    return err_set(err, ERR_INTERNAL, "The HTTP server could not be started.");
}

int http_start(struct http **out, const struct http_opts *opts, struct err *err)
{
    struct http *http = calloc(1, sizeof *http);
    if (!http)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    http->opts = *opts;
    if (http->opts.header_timeout_s <= 0)
        http->opts.header_timeout_s = HTTP_HEADER_SECONDS;
    if (http->opts.rate_window_s <= 0)
        http->opts.rate_window_s = HTTP_RATE_SECONDS;
    fit_file_limit(http);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&http->fewer, &attr);
    pthread_cond_init(&http->parking, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&http->lock, NULL);
    http->id_base = (uint64_t)clock_epoch_ms();
    *out = http;
    if (exec_start(http, err) == 0 && start_daemon(http, err) == 0)
        return 0;
    *out = NULL;
    http_stop(http, 0);
    return -1;
}

uint16_t http_port(const struct http *http)
{
    return http->port;
}

void http_set_draining(struct http *http)
{
    atomic_store(&http->draining, true);
    http_wake(http, NULL);
}

void http_set_limits(struct http *http, int64_t max_upload_bytes, int64_t max_json_bytes)
{
    atomic_store(&http->opts.max_upload_bytes, max_upload_bytes);
    atomic_store(&http->opts.max_json_bytes, max_json_bytes);
}

bool http_draining(const struct http *http)
{
    return atomic_load(&http->draining);
}

int http_admit(struct http *http, struct err *err)
{
    if (http_draining(http))
        return err_set(err, ERR_UNAVAILABLE,
                       "The server is stopping and takes nothing new. Try again in a few seconds.");
    return http->opts.admit ? http->opts.admit(http->opts.app, err) : 0;
}

bool http_closing(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    bool closing = http->closing;
    pthread_mutex_unlock(&http->lock);
    return closing;
}

/* Waits until *count is 0 or `until`; false: the time was up. Under the lock. */
static bool wait_zero(struct http *http, const int *count, double until)
{
    while (*count > 0 && clock_seconds() < until) {
        struct timespec at;
        clock_gettime(CLOCK_MONOTONIC, &at);
        at.tv_nsec += 50000000;
        at.tv_sec += at.tv_nsec / 1000000000;
        at.tv_nsec %= 1000000000;
        pthread_cond_timedwait(&http->fewer, &http->lock, &at);
    }
    return *count == 0;
}

void http_stop(struct http *http, double grace_s)
{
    if (!http)
        return;
    if (http->daemon) {
        const MHD_socket listening = MHD_quiesce_daemon(http->daemon);
        if (listening != MHD_INVALID_SOCKET)
            shutdown(listening, SHUT_RDWR); /* nobody waits for an answer; the event thread may still know the number */
        http_set_draining(http);
        double until = clock_seconds() + grace_s;
        pthread_mutex_lock(&http->lock);
        wait_zero(http, &http->live, until);
        http->closing = true;
        pthread_mutex_unlock(&http->lock);
        http_wake(http, NULL);
        pthread_mutex_lock(&http->lock); /* a handler is not cut: it may hold a half-made change */
        while (!wait_zero(http, &http->suspended, clock_seconds() + 3600))
            log_warn("http: waiting for %d handlers to end", http->suspended);
        pthread_mutex_unlock(&http->lock);
        MHD_stop_daemon(http->daemon);
        if (listening != MHD_INVALID_SOCKET)
            close(listening);
    }
    exec_stop(http);
    pthread_mutex_destroy(&http->lock);
    pthread_cond_destroy(&http->fewer);
    pthread_cond_destroy(&http->parking);
    free(http);
}
