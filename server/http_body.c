/* SPDX-License-Identifier: Apache-2.0
 * http_body.c - the executor's side of an exchange: pieces of the body go to disk, then the handler runs. */
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/log.h"
#include "core/recipe/json_text.h"
#include "server/http_internal.h"
#include "server/store.h"

void body_open(struct exchange *x)
{
    if (x->req.route->sink->open(&x->req, &x->err) != 0)
        x->mode = MODE_DISCARD;
}

/* The sink is done: after the answer was made, or because the client hung up. */
void body_close(struct exchange *x)
{
    if (x->req.sink)
        x->req.route->sink->close(&x->req);
    x->req.sink = NULL;
}

/* The chunk goes where the body goes. After the first fault the rest of the body is only counted. */
void body_flush(struct exchange *x)
{
    size_t len = x->chunk_len;
    x->chunk_len = 0;
    if (x->mode == MODE_UPLOAD && len && upload_feed(x->req.upload, x->chunk, len, &x->err) != 0)
        x->mode = MODE_DISCARD;
    if (x->mode == MODE_STREAM && len && x->req.route->sink->write(&x->req, x->chunk, len, &x->err) != 0)
        x->mode = MODE_DISCARD;
}

/* The body is complete: what is left is flushed, JSON is parsed. x->err says if it was good. */
void body_finish(struct exchange *x)
{
    struct req *req = &x->req;
    body_flush(x);
    free(x->chunk);
    x->chunk = NULL;
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
    req->json = json_text_parse(req->body, req->body_len, (size_t)x->http->opts.max_json_bytes, &x->err);
}

void handler_run(struct exchange *x)
{
    const struct log_scope scope = {
        .request_id = x->request_id, .trace_id = x->req.trace.id, .owner = x->req.owner};
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
