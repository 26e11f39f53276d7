/* SPDX-License-Identifier: Apache-2.0
 * rate.h - requests a second, as a token bucket: it holds RATE_WINDOW_S seconds' worth, each request takes one, and
 * they come back at an even rate. So a client may be idle and then hurry, but not hurry for ever.
 * Headers    RateLimit-Policy: "requests";q=1000;w=10 and RateLimit: "requests";r=12;t=10
 *            (draft-ietf-httpapi-ratelimit-headers), made from a struct rate_view.
 * Threads    plain data; the caller locks. No clock of its own: `now` is any monotonic time in seconds. */
#ifndef PARED_SERVER_RATE_H
#define PARED_SERVER_RATE_H

#include <stdbool.h>
#include <stdint.h>

enum { RATE_WINDOW_S = 10 };

struct rate { /* zeroed: a full bucket */
    double spent; /* tokens that are missing */
    double at;    /* when that was so */
};
struct rate_view {
    int64_t quota;   /* tokens of a full bucket; 0: no limit, and nothing else is set */
    int64_t left;    /* whole tokens left */
    int64_t reset_s; /* until the bucket is full, rounded up */
    int64_t retry_s; /* refused: until there is a token, rounded up, at least 1 */
};

/* Take one token of a bucket that gets `per_s` a second (0: no limit). False: there is none, nothing was taken. */
bool rate_take(struct rate *rate, int64_t per_s, double now, struct rate_view *view);

#endif
