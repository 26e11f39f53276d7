/* SPDX-License-Identifier: Apache-2.0
 * handlers.h - one declaration a handler, made from routes.def. */
#ifndef PARED_API_HANDLERS_H
#define PARED_API_HANDLERS_H

#include "server/router.h"

#define ROUTE(method, path, handler, body, answer, auth, lane, query, summary) handler_fn handler;
#define ROUTE_UNTIL(method, path, handler, body, answer, auth, lane, query, summary, deprecated, sunset, successor)   \
    handler_fn handler;
#include "api/routes.def"
#undef ROUTE
#undef ROUTE_UNTIL

/* Where the bytes of PATCH /v1/uploads/{id} go. */
extern const struct body_sink uploads_sink;

#endif
