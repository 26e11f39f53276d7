/* SPDX-License-Identifier: Apache-2.0
 * Who waits in the HTTP server (http_park, http_stream, http_watch): a daemon on a free port with routes of its own,
 * and clients on plain sockets. */
#include <arpa/inet.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "server/auth.h"
#include "server/blob.h"
#include "server/http.h"
#include "server/store.h"

enum { LIMIT = 16 };

struct fixture {
    char *dir;
    struct store *store;
    struct blobs *blobs;
    struct config config;
    struct http_auth *auth;
    struct router *router;
    struct http *http;
    struct err err;
    atomic_int change, looks, rounds, ended;
};

/* ---- routes */

/* Waits for the key in ?key until `change` is set, at most ?ms. */
static int wait_handler(struct req *req, struct res *res, struct err *err)
{
    struct fixture *f = req->app;
    int64_t ms;
    if (req_query_int(req, "ms", 1000, 0, 60000, &ms, err) != 0)
        return -1;
    atomic_fetch_add(&f->looks, 1);
    if (req_query(req, "race") && req->round == 0) { /* the change comes between this look and the parking */
        atomic_store(&f->change, 1);
        http_wake(f->http, "another");
        return res_wait(res, req_query(req, "key"), req->started + (double)ms / 1e3);
    }
    if (!atomic_load(&f->change) && clock_seconds() < req->started + (double)ms / 1e3 && !http_draining(f->http))
        return res_wait(res, req_query(req, "key"), req->started + (double)ms / 1e3);
    atomic_store(&f->rounds, req->round);
    return res_static(res, 200, "text/plain", atomic_load(&f->change) ? "changed" : "same", 4);
}

struct tale {
    int told;
};

/* Tells of every change; the tenth is the last. */
static enum stream_step tell(struct req *req, struct res *res, void *state, struct buf *out)
{
    struct fixture *f = req->app;
    struct tale *tale = state;
    int now = atomic_load(&f->change);
    atomic_fetch_add(&f->looks, 1);
    if (tale->told < now)
        buf_printf(out, "change %d\n", tale->told = now);
    if (now >= 10) {
        atomic_fetch_add(&f->ended, 1);
        return STREAM_END;
    }
    res_wait(res, "story", clock_seconds() + 60);
    return STREAM_WAIT;
}

static int stream_handler(struct req *req, struct res *res, struct err *err)
{
    struct tale *tale = arena_calloc(req->arena, 1, sizeof *tale);
    return res_stream(res, 200, "text/plain", tell, tale, err);
}

static int drop_handler(struct req *req, struct res *res, struct err *err)
{
    (void)req;
    (void)err;
    return res_empty(res, 204);
}

static const struct route routes[] = {
    {"GET", "/wait", wait_handler, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "key ms race", "", {0}, NULL},
    {"GET", "/stream", stream_handler, BODY_NONE, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", "", {0}, NULL},
    {"POST", "/json", drop_handler, BODY_JSON, ANSWER_ANY, AUTH_OPEN, LANE_FAST, "", "", {0}, NULL},
    {0},
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char path[400];
    f->dir = file_temp_dir("http", &f->err);
    assert_non_null(f->dir);
    snprintf(path, sizeof path, "%s/catalogue.db", f->dir);
    f->store = store_open(&(struct store_opts){.path = path}, &f->err);
    assert_non_null(f->store);
    snprintf(path, sizeof path, "%s/blobs", f->dir);
    f->blobs = blob_disk_open(path, 0, &f->err);
    assert_non_null(f->blobs);
    assert_int_equal(config_load(&f->config, 0, NULL, NULL, &f->err), 0);
    f->auth = http_auth_new(&f->config, f->store, &f->err);
    assert_non_null(f->auth);
    f->router = router_new(routes);
    const struct http_opts opts = {.host = "127.0.0.1",
                                   .threads = 1,
                                   .executors = 2,
                                   .connection_limit = LIMIT,
                                   .idle_timeout_s = 30,
                                   .header_timeout_s = 1,
                                   .min_rate = 1000,
                                   .rate_window_s = 1,
                                   .max_upload_bytes = 1 << 20,
                                   .max_json_bytes = 1 << 20,
                                   .auth = f->auth,
                                   .router = f->router,
                                   .blobs = f->blobs,
                                   .app = f};
    assert_int_equal(http_start(&f->http, &opts, &f->err), 0);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    http_stop(f->http, 0.1);
    router_free(f->router);
    http_auth_free(f->auth);
    blobs_close(f->blobs);
    store_close(f->store);
    config_fini(&f->config);
    file_remove_tree(f->dir, &f->err);
    free(f->dir);
    free(f);
    return 0;
}

/* ---- a client */

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static int call(struct fixture *f, const char *text)
{
    struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons(http_port(f->http))};
    at.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_true(fd >= 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    return fd;
}

static int get(struct fixture *f, const char *target)
{
    char text[200];
    snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: localhost\r\n\r\n", target);
    return call(f, text);
}

/* Reads until `want` is in what came, or the other side has closed (want NULL: that). False: `seconds` are over. */
static bool hears(int fd, const char *want, double seconds)
{
    char got[4096] = "";
    size_t len = 0;
    double until = clock_seconds() + seconds;
    for (;;) {
        struct pollfd p = {fd, POLLIN, 0};
        double left = until - clock_seconds();
        if (left <= 0 || poll(&p, 1, (int)(left * 1e3) + 1) <= 0)
            return false;
        ssize_t n = len < sizeof got - 1 ? read(fd, got + len, sizeof got - 1 - len) : 0;
        if (n <= 0)
            return !want;
        len += (size_t)n;
        got[len] = 0;
        if (want && strstr(got, want))
            return true;
    }
}

static void wait_for(atomic_int *value, int want)
{
    for (int i = 0; i < 500 && atomic_load(value) < want; i++)
        pause_ms(10);
    assert_true(atomic_load(value) >= want);
}

/* The next look is only sure to be over when the handler has parked: give it that long. */
static void settle(void)
{
    pause_ms(20);
}

/* ---- parking */

static void test_wake(void **state)
{
    struct fixture *f = *state;
    double began = clock_seconds();
    int fd = get(f, "/wait?key=a&ms=30000");
    wait_for(&f->looks, 1);
    settle();
    http_wake(f->http, "b"); /* not its key */
    settle();
    assert_int_equal(atomic_load(&f->looks), 1);
    atomic_store(&f->change, 1);
    http_wake(f->http, "a");
    assert_true(hears(fd, "chan", 10));
    assert_int_equal(atomic_load(&f->rounds), 1);
    assert_true(clock_seconds() - began < 10);
    close(fd);
}

static void test_time_is_up(void **state)
{
    struct fixture *f = *state;
    double began = clock_seconds();
    int fd = get(f, "/wait?key=a&ms=200");
    assert_true(hears(fd, "same", 10));
    assert_true(clock_seconds() - began >= 0.2);
    assert_int_equal(atomic_load(&f->rounds), 1);
    close(fd);
}

/* A wake that comes before the parking is not lost, whatever its key. */
static void test_no_lost_wake(void **state)
{
    struct fixture *f = *state;
    double began = clock_seconds();
    int fd = get(f, "/wait?key=a&ms=30000&race=1");
    assert_true(hears(fd, "chan", 10));
    assert_true(clock_seconds() - began < 10);
    assert_int_equal(atomic_load(&f->rounds), 1);
    close(fd);
}

static void test_draining(void **state)
{
    struct fixture *f = *state;
    int fd = get(f, "/wait?key=a&ms=30000");
    wait_for(&f->looks, 1);
    settle();
    http_set_draining(f->http);
    assert_true(hears(fd, "same", 10));
    close(fd);
}

/* Three quarters of the connections may wait; a stream beyond that is refused, short requests are not. */
static void test_crowd(void **state)
{
    struct fixture *f = *state;
    int fds[LIMIT], n = LIMIT / 4 * 3;
    for (int i = 0; i < n; i++)
        fds[i] = i % 2 ? get(f, "/stream") : get(f, "/wait?key=a&ms=30000");
    wait_for(&f->looks, n);
    for (int i = 0; i < 100 && !http_crowded(f->http); i++)
        pause_ms(10);
    assert_true(http_crowded(f->http));
    fds[n] = get(f, "/stream");
    assert_true(hears(fds[n], "Retry-After: 5", 10));
    fds[n + 1] = get(f, "/wait?key=a&ms=0");
    assert_true(hears(fds[n + 1], "same", 10));
    int connections, streams;
    http_counts(f->http, &connections, &streams);
    assert_in_range(connections, n, n + 2); /* idle ones are pushed out */
    assert_int_equal(streams, n / 2);
    for (int i = 0; i < n + 2; i++)
        close(fds[i]);
} /* and teardown stops a server with all of them parked */

/* ---- streams */

static void test_stream(void **state)
{
    struct fixture *f = *state;
    int fd = get(f, "/stream"), gone = get(f, "/stream"), connections = 0, streams = 2;
    wait_for(&f->looks, 2);
    assert_true(hears(fd, "\r\n\r\n", 10));
    atomic_store(&f->change, 1);
    http_wake(f->http, "story");
    assert_true(hears(fd, "change 1\n", 10));
    close(gone); /* its end is seen when there is something to send */
    for (int i = 2; i < 5 || (streams > 1 && i < 9); i++) {
        char want[20];
        snprintf(want, sizeof want, "change %d\n", i);
        atomic_store(&f->change, i);
        http_wake(f->http, "story");
        assert_true(hears(fd, want, 10));
        http_counts(f->http, &connections, &streams);
    }
    assert_int_equal(streams, 1);
    atomic_store(&f->change, 10);
    http_wake(f->http, "story");
    assert_true(hears(fd, "change 10\n\r\n0\r\n", 10)); /* the last chunk, and the end of them */
    assert_int_equal(atomic_load(&f->ended), 1);
    close(fd);
}

/* Wakes are drawn together: ten looks a second, not one for each. */
static void test_pause(void **state)
{
    struct fixture *f = *state;
    int fd = get(f, "/stream");
    wait_for(&f->looks, 1);
    double began = clock_seconds();
    while (clock_seconds() - began < 0.35) {
        http_wake(f->http, "story");
        pause_ms(1);
    }
    atomic_store(&f->change, 10);
    http_wake(f->http, "story");
    assert_true(hears(fd, "change 10", 10));
    double looks = atomic_load(&f->looks), took = clock_seconds() - began;
    assert_true(looks <= 2 + took / 0.1);
    close(fd);
}

/* ---- deadlines */

/* All at once, since each takes a second or two: a header that does not end, nothing at all, a body that stops. One
 * that waits for its answer is left alone, and so is a used connection that rests. */
static void test_deadlines(void **state)
{
    struct fixture *f = *state;
    int header = call(f, "GET /wait HTTP/1.1\r\nHost: loc"), silent = call(f, ""),
        waits = get(f, "/wait?key=a&ms=2500"), rests = get(f, "/wait?key=a&ms=0"),
        body = call(f, "POST /json HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                       "Content-Length: 100000\r\n\r\n{");
    assert_true(hears(rests, "same", 10));
    assert_true(hears(header, NULL, 10));
    assert_true(hears(silent, NULL, 10));
    assert_true(hears(body, NULL, 10));
    assert_true(hears(waits, "same", 10));
    const char *again = "GET /wait?key=a&ms=0 HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_int_equal(write(rests, again, strlen(again)), (ssize_t)strlen(again));
    assert_true(hears(rests, "same", 10));
    const int all[] = {header, silent, waits, rests, body};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        close(all[i]);
}

/* Connections that say nothing do not keep others out: the one that has been idle longest goes. */
static void test_eviction(void **state)
{
    struct fixture *f = *state;
    int idle[2 * LIMIT], waits = get(f, "/wait?key=a&ms=30000");
    wait_for(&f->looks, 1);
    for (int i = 0; i < 2 * LIMIT; i++) {
        idle[i] = call(f, "");
        settle();
    }
    assert_true(hears(idle[0], NULL, 0.5)); /* long before its second is over */
    int fd = get(f, "/wait?key=a&ms=0");
    assert_true(hears(fd, "same", 10));
    atomic_store(&f->change, 1);
    http_wake(f->http, "a");
    assert_true(hears(waits, "chan", 10)); /* the oldest of all, but busy */
    for (int i = 0; i < 2 * LIMIT; i++)
        close(idle[i]);
    close(fd);
    close(waits);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {TEST(test_wake),     TEST(test_time_is_up), TEST(test_no_lost_wake),
                                       TEST(test_draining), TEST(test_crowd),      TEST(test_stream),
                                       TEST(test_pause),    TEST(test_deadlines),  TEST(test_eviction)};
#undef TEST
    return cmocka_run_group_tests(tests, NULL, NULL);
}
