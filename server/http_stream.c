/* SPDX-License-Identifier: Apache-2.0
 * http_stream.c - answers that grow (res_stream).
 *
 * libmicrohttpd asks for bytes in its event thread. It gets those of the last look; when they are gone, the connection
 * is suspended inside that very call - an answer of "none now" without suspending would be asked again at once, for
 * ever - and the exchange is parked, or handed to the stream lane for its next look. There is one thread for all
 * streams: a thousand readers that wake together may not stand in the way of short requests. */
#include <string.h>

#include "core/base/clock.h"
#include "server/http_internal.h"

enum { BLOCK_BYTES = 1024 };

int res_stream(struct res *res, int status, const char *media_type, stream_fn *next, void *state, struct err *err)
{
    struct req *req = res->req;
    struct exchange *x = (struct exchange *)((char *)req - offsetof(struct exchange, req));
    struct http *http = x->http;
    if (http_crowded(http)) {
        res_header(res, "Retry-After", "5");
        return err_set(err, ERR_UNAVAILABLE,
                       "Too many streams and long polls are open (three quarters of http_connections); poll without "
                       "`wait`, or try again later.");
    }
    res_empty(res, status);
    res_header(res, "Content-Type", "%s", media_type);
    res->stream = next;
    res->stream_state = state;
    pthread_mutex_lock(&http->lock);
    http->streams += !x->streams;
    x->streams = true;
    pthread_mutex_unlock(&http->lock);
    x->step = STREAM_MORE;
    return 0;
}

/* One look, on the stream lane. */
void stream_look(struct exchange *x)
{
    struct http *http = x->http;
    for (;;) {
        pthread_mutex_lock(&http->lock);
        x->req.wakes = http->wakes;
        bool closing = http->closing;
        pthread_mutex_unlock(&http->lock);
        x->res.wait_until = 0;
        x->step = closing ? STREAM_END : x->res.stream(&x->req, &x->res, x->res.stream_state, &x->out);
        x->not_before = clock_seconds() + HTTP_PAUSE_MS / 1e3;
        if (x->out.failed || (x->step == STREAM_WAIT && x->res.wait_until <= 0))
            x->step = STREAM_END;
        x->req.round++;
        if (x->step == STREAM_END || x->out.len > x->sent)
            break;
        if (x->step == STREAM_WAIT && park(x))
            return; /* the clock or http_wake has it now */
    }
    exec_resume(x, PHASE_DONE);
}

/* Nothing is left to send: wait for more. False: the server is stopping. */
static bool wait_for_more(struct exchange *x)
{
    if (!exec_suspend(x))
        return false;
    x->task = TASK_STREAM;
    if (x->step == STREAM_MORE || !park(x))
        exec_push(x);
    return true;
}

static ssize_t read_stream(void *cls, uint64_t pos, char *bytes, size_t max)
{
    struct exchange *x = cls;
    size_t left = x->out.len - x->sent;
    (void)pos;
    if (left) {
        size_t take = left < max ? left : max;
        memcpy(bytes, x->out.data + x->sent, take);
        x->sent += take;
        if (x->sent == x->out.len) { /* a stream that sleeps holds no buffer */
            buf_fini(&x->out);
            x->sent = 0;
        }
        return (ssize_t)take;
    }
    if (x->out.failed)
        return MHD_CONTENT_READER_END_WITH_ERROR;
    return x->step != STREAM_END && wait_for_more(x) ? 0 : MHD_CONTENT_READER_END_OF_STREAM;
}

struct MHD_Response *stream_response(struct exchange *x)
{
    return MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, BLOCK_BYTES, read_stream, x, NULL);
}
