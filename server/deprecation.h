/* SPDX-License-Identifier: Apache-2.0
 * deprecation.h - the headers by which the answers of a call say that it will go: Deprecation (RFC 9745), Sunset
 * (RFC 8594) and a Link to its successor. They come from the call's row of the route table. */
#ifndef PARED_SERVER_DEPRECATION_H
#define PARED_SERVER_DEPRECATION_H

#include <stdbool.h>

#include "server/http.h"

enum { DEPRECATION_TEXT = 160 };

struct deprecation {
    char deprecation[DEPRECATION_TEXT]; /* "@1795392000" */
    char sunset[DEPRECATION_TEXT];      /* "Mon, 23 Nov 2026 00:00:00 GMT" */
    char link[DEPRECATION_TEXT];        /* "</v1/jobs>; rel=\"successor-version\"" */
};
/* False: the call stays, or its row has no true dates. */
bool deprecation_of(const struct route_end *end, struct deprecation *out);
/* Sets the headers, if there are any to set. */
void deprecation_headers(const struct route *route, struct res *res);

#endif
