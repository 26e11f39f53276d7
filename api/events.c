/* SPDX-License-Identifier: Apache-2.0
 * events.c - GET /v1/jobs/{id}/events: a job's life as it happens, as server-sent events.
 *
 * Events with an id are those the catalogue keeps (state, progress when a stage begins, log, metric); a client that
 * comes back names the last one it saw and misses none. Between them come progress events without an id: where the
 * stage is now, worth nothing a second later. After the last event of an ended job comes `end`.
 *
 * All readers of a job stand at the same place most of the time. So the text of the last look is kept, and whoever
 * stands there too, and is not owed anything newer, gets a copy instead of asking the catalogue. */
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "api/api.h"
#include "api/handlers.h"
#include "api/job_view.h"
#include "core/base/clock.h"
#include "core/base/log.h"
#include "server/sse.h"

enum { PAGE = 64, RETRY_MS = 2000, STREAM_MAX_S = 3600, OWNER_MAX = 200 };

/* Where one reader stands. */
struct reader {
    char job[ID_SIZE], owner[OWNER_MAX];
    int64_t after, version; /* last event and last version told of */
    double opened, told;    /* when the stream began, and when something was last sent */
    double ping_s;
};

/* One look: what there is behind `after`. */
struct look {
    struct store_tail tail;
    int64_t last;    /* number of the last event in `text` */
    struct buf text; /* events with an id */
};

/* The last look, kept for the other readers of the same job. */
static struct {
    pthread_mutex_t lock;
    char job[ID_SIZE], owner[OWNER_MAX];
    int64_t after;
    uint64_t wakes; /* before the look: it holds everything told of until then */
    char stage[80];
    struct look look;
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- a look at the catalogue */

/* {"at":"...", and the members of the stored object. */
static void add_event(struct buf *text, const struct store_event *event)
{
    char when[CLOCK_RFC3339];
    struct buf data = {0};
    clock_rfc3339(event->at, when);
    const char *rest = event->data[0] == '{' ? event->data + 1 : "}";
    buf_printf(&data, "{\"at\":\"%s\"%s%s", when, rest[0] == '}' ? "" : ",", rest);
    if (data.data)
        sse_event(text, event->seq, event->type, data.data);
    text->failed |= data.failed;
    buf_fini(&data);
}

static int look_fresh(struct store *store, const struct reader *r, struct arena *arena, struct look *look,
                      struct err *err)
{
    struct store_event *rows = arena_calloc(arena, PAGE, sizeof *rows);
    *look = (struct look){.last = r->after};
    if (!rows)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (store_job_tail(store, r->owner, r->job, r->after, PAGE, arena, rows, &look->tail, err) != 0)
        return -1;
    for (int i = 0; i < look->tail.count; i++)
        add_event(&look->text, &rows[i]);
    if (look->tail.count)
        look->last = rows[look->tail.count - 1].seq;
    return 0;
}

/* Under the lock. */
static bool keeps(const struct reader *r, uint64_t wakes)
{
    return kept.wakes >= wakes && kept.after == r->after && !strcmp(kept.job, r->job) && !strcmp(kept.owner, r->owner);
}

static void copy_look(struct look *to, const struct look *from)
{
    *to = *from;
    to->text = (struct buf){0};
    buf_append(&to->text, from->text.data, from->text.len);
}

static void keep(const struct reader *r, uint64_t wakes, const struct look *look)
{
    pthread_mutex_lock(&kept.lock);
    buf_fini(&kept.look.text);
    copy_look(&kept.look, look);
    snprintf(kept.job, sizeof kept.job, "%s", kept.look.text.failed ? "" : r->job);
    snprintf(kept.owner, sizeof kept.owner, "%s", r->owner);
    snprintf(kept.stage, sizeof kept.stage, "%s", look->tail.progress.stage ? look->tail.progress.stage : "");
    kept.look.tail.progress.stage = kept.stage;
    kept.after = r->after;
    kept.wakes = wakes;
    pthread_mutex_unlock(&kept.lock);
}

static int take_look(struct req *req, const struct reader *r, struct arena *arena, struct look *look, struct err *err)
{
    pthread_mutex_lock(&kept.lock);
    bool hit = keeps(r, req->wakes);
    if (hit) {
        copy_look(look, &kept.look);
        look->tail.progress.stage = arena_strdup(arena, kept.stage);
    }
    pthread_mutex_unlock(&kept.lock);
    if (hit)
        return 0;
    if (look_fresh(api_server(req)->store, r, arena, look, err) != 0)
        return -1;
    keep(r, req->wakes, look);
    return 0;
}

/* ---- one look of one stream */

static void add_progress(struct buf *out, const struct store_progress *progress)
{
    json_t *object = job_progress_json(progress);
    char *data = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(9)) : NULL;
    if (data)
        sse_event(out, 0, "progress", data);
    free(data);
    json_decref(object);
}

static void add_end(struct buf *out, const char *key, const char *value)
{
    char data[80];
    snprintf(data, sizeof data, "{\"%s\":\"%s\"}", key, value);
    sse_event(out, 0, "end", data);
}

/* What the catalogue said goes to the reader; STREAM_MORE when it stopped in the middle. */
static enum stream_step tell(struct reader *r, const struct look *look, struct buf *out)
{
    const struct store_tail *tail = &look->tail;
    if (look->text.len)
        buf_append(out, look->text.data, look->text.len);
    out->failed |= look->text.failed;
    r->after = look->last;
    if (tail->count == PAGE)
        return STREAM_MORE;
    if (tail->version != r->version && tail->state == JOB_RUNNING && tail->progress.stage && tail->progress.stage[0])
        add_progress(out, &tail->progress);
    r->version = tail->version;
    if (!job_state_ended(tail->state))
        return STREAM_WAIT;
    add_end(out, "state", job_state_name(tail->state));
    return STREAM_END;
}

/* A catalogue that fails for a moment is no reason to lose the stream; a job that is gone is. */
static enum stream_step tell_error(struct reader *r, const struct err *err, struct buf *out)
{
    if (err->code == ERR_NOT_FOUND) {
        add_end(out, "reason", "deleted");
        return STREAM_END;
    }
    log_warn("events of job %s: %s", r->job, err->msg);
    return STREAM_WAIT;
}

static enum stream_step next(struct req *req, struct res *res, void *state, struct buf *out)
{
    struct reader *r = state;
    struct look look = {0};
    struct err err = {0};
    struct arena *arena = arena_new(); /* of this look: the request's own lives for hours */
    double now = clock_seconds();
    if (req->round == 0)
        sse_retry(out, RETRY_MS);
    enum stream_step step =
        !arena || take_look(req, r, arena, &look, &err) != 0 ? tell_error(r, &err, out) : tell(r, &look, out);
    buf_fini(&look.text);
    arena_free(arena);
    if (step == STREAM_WAIT && (http_draining(req->http) || now - r->opened > STREAM_MAX_S)) {
        sse_comment(out, http_draining(req->http) ? "the server is stopping; come back" : "come back");
        return STREAM_END;
    }
    if (!out->len && now - r->told >= r->ping_s)
        sse_comment(out, "ping");
    if (out->len)
        r->told = now;
    res_wait(res, r->job, r->told + r->ping_s);
    return step;
}

/* ---- the request */

/* A browser that comes back sends Last-Event-ID with the URL it began with: the header is the newer word. */
static int read_after(struct req *req, int64_t *after, struct err *err)
{
    const char *last = req_header(req, "Last-Event-ID");
    if (req_query_int(req, "after", 0, 0, INT64_MAX / 2, after, err) != 0)
        return -1;
    if (!last || !*last || sse_parse_id(last, after))
        return 0;
    return err_set(err, ERR_INVALID, "Last-Event-ID must be the id of an event of this job, a whole number.");
}

int jobs_events(struct req *req, struct res *res, struct err *err)
{
    struct server *server = api_server(req);
    struct reader *r = arena_alloc(req->arena, sizeof *r);
    const char *id;
    int64_t version;
    enum job_state state;
    if (!r)
        return err_set(err, ERR_NOMEM, "Out of memory.");
    if (api_id(req, "job", "job", &id, err) != 0 || read_after(req, &r->after, err) != 0 ||
        store_job_version(server->store, req->owner, id, &version, &state, err) != 0)
        return -1;
    snprintf(r->job, sizeof r->job, "%s", id);
    snprintf(r->owner, sizeof r->owner, "%s", req->owner);
    r->version = -1;
    r->opened = r->told = clock_seconds();
    r->ping_s = (double)server->config->events_ping_s;
    if (res_stream(res, 200, "text/event-stream", next, r, err) != 0)
        return -1;
    res_header(res, "Cache-Control", "no-cache, no-transform");
    res_header(res, "X-Accel-Buffering", "no"); /* nginx would hold events back until its buffer is full */
    return 0;
}
