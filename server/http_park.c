/* SPDX-License-Identifier: Apache-2.0
 * http_park.c - the parking place of long polls and streams: a hash table by the key they wait for.
 *
 * So that no change is lost between a handler's look and its parking, wakes are counted: if one came meanwhile,
 * whatever its key, the handler just runs again. Between two looks lies a pause: a job that tells of a hundred things a
 * second wakes each of its thousand readers ten times, not a hundred. */
#include <stdlib.h>
#include <string.h>

#include "core/base/clock.h"
#include "core/base/hash.h"
#include "server/http_internal.h"

static struct exchange **bucket_of(struct http *http, const char *key)
{
    return &http->parked[fnv1a(key) % HTTP_PARK_BUCKETS];
}

/* Under the lock. The clock thread is only woken when it would sleep too long. */
static void due_at(struct http *http, const struct exchange *x)
{
    if (x->res.wait_until < http->clock_next)
        pthread_cond_signal(&http->parking);
}

/* Under the lock. *at is a link of the table. */
static struct exchange *take(struct http *http, struct exchange **at)
{
    struct exchange *x = *at;
    *at = x->next;
    http->parked_count -= !x->streams;
    return x;
}

/* Under the lock. A wake that comes within the pause is put off to its end. */
static bool put_off(struct http *http, struct exchange *x, double now)
{
    if (x->not_before <= now)
        return false;
    if (x->res.wait_until > x->not_before)
        x->res.wait_until = x->not_before;
    due_at(http, x);
    return true;
}

bool park(struct exchange *x)
{
    struct http *http = x->http;
    pthread_mutex_lock(&http->lock);
    bool woken = http->wakes != x->req.wakes;
    bool stay = !http->closing && (!woken || put_off(http, x, clock_seconds()));
    if (stay) {
        struct exchange **at = bucket_of(http, x->res.wait_key);
        x->next = *at;
        *at = x;
        http->parked_count += !x->streams;
        due_at(http, x);
    }
    pthread_mutex_unlock(&http->lock);
    return stay;
}

static void push_all(struct exchange *list)
{
    while (list) {
        struct exchange *x = list;
        list = x->next;
        exec_push(x);
    }
}

/* Under the lock: moves those of one bucket that are to run to *woken. */
static void wake_bucket(struct http *http, struct exchange **at, const char *key, double now, struct exchange **woken)
{
    while (*at) {
        if (key && (strcmp((*at)->res.wait_key, key) != 0 || put_off(http, *at, now))) {
            at = &(*at)->next;
            continue;
        }
        struct exchange *x = take(http, at);
        x->next = *woken;
        *woken = x;
    }
}

void http_wake(struct http *http, const char *key)
{
    struct exchange *woken = NULL;
    double now = clock_seconds();
    pthread_mutex_lock(&http->lock);
    http->wakes++;
    if (key)
        wake_bucket(http, bucket_of(http, key), key, now, &woken);
    for (int i = 0; !key && i < HTTP_PARK_BUCKETS; i++)
        wake_bucket(http, &http->parked[i], NULL, now, &woken);
    pthread_mutex_unlock(&http->lock);
    push_all(woken);
}

struct exchange *park_take_due(struct http *http, double now, double *next)
{
    struct exchange *due = NULL;
    for (int i = 0; i < HTTP_PARK_BUCKETS; i++)
        for (struct exchange **at = &http->parked[i]; *at;) {
            if ((*at)->res.wait_until > now) {
                *next = (*at)->res.wait_until < *next ? (*at)->res.wait_until : *next;
                at = &(*at)->next;
                continue;
            }
            struct exchange *x = take(http, at);
            x->next = due;
            due = x;
        }
    return due;
}

bool http_crowded(struct http *http)
{
    pthread_mutex_lock(&http->lock);
    bool crowded = http->parked_count + http->streams >= http->limit / 4 * 3;
    pthread_mutex_unlock(&http->lock);
    return crowded;
}
