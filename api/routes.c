/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include "api/handlers.h"

static const struct route routes[] = {
/* Where bodies go that are not kept in memory: by the kind of body. */
#define SINK_NONE NULL
#define SINK_JSON NULL
#define SINK_UPLOAD NULL
#define SINK_STREAM &uploads_sink
#define ROUTE(method, path, handler, body, answer, auth, lane, query, summary)                                         \
    {#method, path, handler, BODY_##body, ANSWER_##answer, AUTH_##auth, LANE_##lane, query, summary, {0}, SINK_##body},
#define ROUTE_UNTIL(method, path, handler, body, answer, auth, lane, query, summary, deprecated, sunset, successor)    \
    {#method,     path,        handler, BODY_##body, ANSWER_##answer,                                                  \
     AUTH_##auth, LANE_##lane, query,   summary,     {deprecated, sunset, successor},                                  \
     SINK_##body},
#include "api/routes.def"
#undef ROUTE
#undef ROUTE_UNTIL
    {0},
};

const struct route *api_routes(void)
{
    return routes;
}
