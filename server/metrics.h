/* SPDX-License-Identifier: Apache-2.0
 * metrics.h - counters, gauges and histograms in Prometheus' text format, from one table.
 * Threads    all calls from any thread; counting is lock-free, rendering reads what is there. Label values are rows of the
 *            table or route templates, never ids or names from clients. */
#ifndef PARED_SERVER_METRICS_H
#define PARED_SERVER_METRICS_H

#include <stdint.h>

#include "core/base/buf.h"

/* X(id, type, name, doc) */
#define METRIC_MAP(X)                                                                                                \
    X(UPLOAD_BYTES, COUNTER, "pared_upload_bytes_total", "Bytes received in uploads.")                               \
    X(UPLOADS_REFUSED, COUNTER, "pared_uploads_refused_total", "Uploads that were no readable model or dataset.")    \
    X(JOBS_ACCEPTED, COUNTER, "pared_jobs_accepted_total", "Jobs queued.")                                           \
    X(JOBS_SUCCEEDED, COUNTER, "pared_jobs_succeeded_total", "Jobs ended with a result.")                            \
    X(JOBS_FAILED, COUNTER, "pared_jobs_failed_total", "Jobs ended with a problem.")                                 \
    X(JOBS_CANCELED, COUNTER, "pared_jobs_canceled_total", "Jobs ended by a client's cancel.")                       \
    X(JOBS_REQUEUED, COUNTER, "pared_jobs_requeued_total", "Attempts that went back to the queue.")                  \
    X(LEASES_LOST, COUNTER, "pared_job_leases_lost_total", "Attempts whose lease ended before they did.")            \
    X(CHILD_CRASHES, COUNTER, "pared_child_crashes_total", "Child processes that died by a signal.")                 \
    X(CHILD_TIMEOUTS, COUNTER, "pared_child_timeouts_total", "Child processes stopped at their time limit.")         \
    X(CHILD_MEMORY_LIMITS, COUNTER, "pared_child_memory_limits_total", "Child processes that ran out of memory.")    \
    X(ARTIFACT_BYTES, COUNTER, "pared_artifact_bytes_total", "Bytes of artifacts published.")                        \
    X(STORE_ERRORS, COUNTER, "pared_store_errors_total", "Calls of the catalogue that failed.")                      \
    X(WORKERS_BUSY, GAUGE, "pared_workers_busy", "Workers that run a job now.")                                      \
    X(HTTP_INFLIGHT, GAUGE, "pared_http_requests_in_flight", "Requests being answered now.")                         \
    X(JOB_SECONDS, HISTOGRAM, "pared_job_duration_seconds", "From claim to end of an attempt.")                      \
    X(QUEUE_SECONDS, HISTOGRAM, "pared_job_queue_wait_seconds", "From creation to first claim.")

enum metric {
#define X(id, type, name, doc) METRIC_##id,
    METRIC_MAP(X)
#undef X
        METRIC_COUNT
};

void metrics_add(enum metric metric, int64_t n); /* counters and gauges; gauges also go down */
void metrics_observe(enum metric metric, double seconds); /* histograms */
/* One HTTP request answered. `method` and `route` must be constants (compared by content, kept by pointer). */
void metrics_http(const char *method, const char *route, int status, double seconds);
int64_t metrics_value(enum metric metric); /* of a counter or gauge; for tests */
struct store;
/* All rows, and the queue's state read from the store (NULL: left out). */
void metrics_render(struct buf *out, struct store *store);

#endif
