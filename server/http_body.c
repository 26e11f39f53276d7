/* SPDX-License-Identifier: Apache-2.0
 * http_body.c - the executor's side of an exchange: pieces of the body go to disk, then the handler runs. */
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/recipe/json_text.h"
#include "server/digest.h"
#include "server/http_internal.h"
#include "server/store.h"

size_t chunk_share(atomic_size_t *holders)
{
    size_t others = atomic_fetch_add(holders, 1), share = HTTP_CHUNKS_BYTES / (others + 1);
    size_t size = share > HTTP_CHUNK_BYTES ? HTTP_CHUNK_BYTES : share < HTTP_CHUNK_LEAST ? HTTP_CHUNK_LEAST : share;
    return size & ~(size_t)4095;
}

bool body_chunk(struct exchange *x)
{
    x->chunk_size = chunk_share(&x->http->chunks);
    x->chunk = malloc(x->chunk_size);
    if (!x->chunk)
        atomic_fetch_sub(&x->http->chunks, 1);
    return x->chunk;
}

static void drop_chunk(struct exchange *x)
{
    if (x->chunk)
        atomic_fetch_sub(&x->http->chunks, 1);
    free(x->chunk);
    x->chunk = NULL;
}

void body_open(struct exchange *x)
{
    if (x->req.route->sink->open(&x->req, &x->err) != 0)
        x->mode = MODE_DISCARD;
}

/* Sink and chunk are done with: after the answer was made, or because the client hung up. */
void body_close(struct exchange *x)
{
    if (x->req.sink)
        x->req.route->sink->close(&x->req);
    x->req.sink = NULL;
    drop_chunk(x);
}

/* What the uploads of an owner have brought without a row in the catalogue is together at most what the owner may have.
 * What is stored counts when the row is made: a file that is there already may be sent again. */
static int claim(struct exchange *x, size_t len)
{
    const int64_t limit = x->caller.stored_bytes;
    int64_t all = 0;
    if (limit == 0)
        return 0;
    struct http *http = x->http;
    pthread_mutex_lock(&http->lock);
    x->claimed += (int64_t)len;
    if (!x->claims) {
        x->next_claimant = http->claimants;
        http->claimants = x;
        x->claims = true;
    }
    for (const struct exchange *one = http->claimants; one; one = one->next_claimant)
        if (strcmp(one->caller.owner, x->caller.owner) == 0)
            all += one->claimed;
    pthread_mutex_unlock(&http->lock);
    return all <= limit ? 0
                        : err_set(&x->err, ERR_RATE_LIMITED,
                                  "stored bytes: this upload and others under way have %lld bytes so far; the limit "
                                  "of this key is %lld",
                                  (long long)all, (long long)limit);
}

void body_claim_end(struct exchange *x)
{
    if (!x->claims)
        return;
    pthread_mutex_lock(&x->http->lock);
    struct exchange **at = &x->http->claimants;
    while (*at != x)
        at = &(*at)->next_claimant;
    *at = x->next_claimant;
    x->claims = false;
    pthread_mutex_unlock(&x->http->lock);
}

/* The chunk goes where the body goes. After the first fault the rest of the body is only counted. */
void body_flush(struct exchange *x)
{
    size_t len = x->chunk_len;
    x->chunk_len = 0;
    if (x->mode == MODE_UPLOAD && len &&
        (claim(x, len) != 0 || upload_feed(x->req.upload, x->chunk, len, &x->err) != 0))
        x->mode = MODE_DISCARD;
    if (x->mode == MODE_STREAM && len && x->req.route->sink->write(&x->req, x->chunk, len, &x->err) != 0)
        x->mode = MODE_DISCARD;
}

/* The body is complete: what is left is flushed, JSON is parsed. x->err says if it was good. */
void body_finish(struct exchange *x)
{
    struct req *req = &x->req;
    body_flush(x);
    drop_chunk(x);
    if (x->mode == MODE_UPLOAD && upload_end(req->upload, &x->err) != 0)
        x->mode = MODE_DISCARD;
    if (x->mode != MODE_JSON)
        return;
    if (x->json.failed) {
        err_set(&x->err, ERR_NOMEM, "Out of memory for the body.");
        return;
    }
    req->body = x->json.data ? x->json.data : "";
    req->body_len = x->json.len;
    digest_update(x->json_digests, req->body, req->body_len);
    if (digest_verify(x->json_digests, ERR_DIGEST, &x->err) != 0)
        return;
    req->json = json_text_parse(req->body, req->body_len, (size_t)x->http->opts.max_json_bytes, &x->err);
}

void handler_run(struct exchange *x)
{
    const struct log_scope scope = {.request_id = x->request_id, .trace_id = x->req.trace.id, .owner = x->req.owner};
    const struct log_scope *before = log_enter(&scope);
    double began = clock_seconds(), store_began = store_thread_seconds();
    res_reset(&x->res, &x->req);
    int rc = x->err.code == ERR_NONE ? x->req.route->handler(&x->req, &x->res, &x->err) : 0;
    log_enter(before);
    x->worked += clock_seconds() - began;
    x->stored += store_thread_seconds() - store_began;
    if (rc != 0 && x->err.code == ERR_NONE)
        err_set(&x->err, ERR_INTERNAL, "The handler of %s failed without a reason.", x->route_text);
    if (x->err.code == ERR_NONE && x->req.faults.count == 0)
        return;
    if (x->err.code == ERR_NONE)
        err_set(&x->err, ERR_INVALID, "%s", x->req.faults.at[0].detail);
    res_problem(x);
}
