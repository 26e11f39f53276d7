/* SPDX-License-Identifier: Apache-2.0
 * metrics.h - counters, gauges and histograms in Prometheus' text format, from one table.
 * Names      base units (seconds, bytes), `_total` for counters; a family with labels has one row for each combination,
 *            next to each other. Label values are those of the table or route templates, never ids or names from
 *            clients: the number of series is bounded by the program, not by its users.
 * Threads    all calls from any thread; counting is lock-free, rendering reads what is there. */
#ifndef PARED_SERVER_METRICS_H
#define PARED_SERVER_METRICS_H

#include <stdint.h>

#include "core/base/buf.h"

/* X(id, type, name, labels, doc); SECONDS and BYTES are histograms with bounds of their own. */
#define METRIC_MAP(X)                                                                                                \
    X(UPLOAD_BYTES, COUNTER, "pared_upload_bytes_total", "", "Bytes received in uploads.")                           \
    X(UPLOADS_REFUSED, COUNTER, "pared_uploads_refused_total", "", "Uploads that were no readable model or dataset.") \
    X(JOBS_ACCEPTED, COUNTER, "pared_jobs_accepted_total", "", "Jobs queued.")                                       \
    X(JOBS_SUCCEEDED, COUNTER, "pared_jobs_ended_total", "outcome=\"succeeded\"", "Jobs that have ended.")           \
    X(JOBS_FAILED, COUNTER, "pared_jobs_ended_total", "outcome=\"failed\"", "")                                      \
    X(JOBS_CANCELED, COUNTER, "pared_jobs_ended_total", "outcome=\"canceled\"", "")                                  \
    X(JOBS_REQUEUED, COUNTER, "pared_jobs_requeued_total", "", "Attempts that went back to the queue.")              \
    X(LEASES_LOST, COUNTER, "pared_job_lease_lost_total", "", "Attempts whose lease ended before they did.")         \
    X(CHILD_RESULTS, COUNTER, "pared_child_exits_total", "reason=\"result\"",                                        \
      "Ended child processes, of jobs and of uploads; result and error are ends as they should be.")                 \
    X(CHILD_ERRORS, COUNTER, "pared_child_exits_total", "reason=\"error\"", "")                                      \
    X(CHILD_CRASHES, COUNTER, "pared_child_exits_total", "reason=\"crash\"", "")                                     \
    X(CHILD_MEMORY_LIMITS, COUNTER, "pared_child_exits_total", "reason=\"memory_limit\"", "")                        \
    X(CHILD_TIMEOUTS, COUNTER, "pared_child_exits_total", "reason=\"timeout\"", "")                                  \
    X(CHILD_FORBIDDEN, COUNTER, "pared_child_exits_total", "reason=\"forbidden_system_call\"", "")                   \
    X(CHILD_DISK_LIMITS, COUNTER, "pared_child_exits_total", "reason=\"disk_limit\"", "")                            \
    X(CHILD_CANCELED, COUNTER, "pared_child_exits_total", "reason=\"canceled\"", "")                                 \
    X(CHILD_ABANDONED, COUNTER, "pared_child_exits_total", "reason=\"abandoned\"", "")                               \
    X(CHILD_NOT_STARTED, COUNTER, "pared_child_exits_total", "reason=\"not_started\"", "")                           \
    X(STORE_ERRORS_CLAIM, COUNTER, "pared_store_errors_total", "op=\"claim\"", "Calls of the catalogue that failed.") \
    X(STORE_ERRORS_BEAT, COUNTER, "pared_store_errors_total", "op=\"beat\"", "")                                     \
    X(STORE_ERRORS_ATTEMPT, COUNTER, "pared_store_errors_total", "op=\"attempt\"", "")                               \
    X(STORE_ERRORS_REAP, COUNTER, "pared_store_errors_total", "op=\"reap\"", "")                                     \
    X(STORE_ERRORS_UPKEEP, COUNTER, "pared_store_errors_total", "op=\"upkeep\"", "")                                 \
    X(STORE_ERRORS_COUNT, COUNTER, "pared_store_errors_total", "op=\"count\"", "")                                   \
    X(STORE_ERRORS_REQUEST, COUNTER, "pared_store_errors_total", "op=\"request\"", "")                               \
    X(WORKERS, GAUGE, "pared_workers", "", "Jobs that may run at once.")                                             \
    X(WORKERS_BUSY, GAUGE, "pared_workers_busy", "", "Workers that run a job now.")                                  \
    X(RELOADS, COUNTER, "pared_config_reloads_total", "outcome=\"done\"", "Settings read again on SIGHUP.")          \
    X(RELOADS_FAILED, COUNTER, "pared_config_reloads_total", "outcome=\"failed\"", "")                               \
    X(JOB_SUCCEEDED_SECONDS, SECONDS, "pared_job_duration_seconds", "kind=\"compress\",outcome=\"succeeded\"",       \
      "From claim to end of an attempt.")                                                                            \
    X(JOB_FAILED_SECONDS, SECONDS, "pared_job_duration_seconds", "kind=\"compress\",outcome=\"failed\"", "")         \
    X(JOB_CANCELED_SECONDS, SECONDS, "pared_job_duration_seconds", "kind=\"compress\",outcome=\"canceled\"", "")     \
    X(JOB_REQUEUED_SECONDS, SECONDS, "pared_job_duration_seconds", "kind=\"compress\",outcome=\"requeued\"", "")     \
    X(QUEUE_SECONDS, SECONDS, "pared_job_queue_wait_seconds", "", "From creation to first claim.")                   \
    X(ARTIFACT_BYTES, BYTES, "pared_artifact_bytes", "", "Sizes of the artifacts published.")

enum metric {
#define X(id, type, name, labels, doc) METRIC_##id,
    METRIC_MAP(X)
#undef X
        METRIC_COUNT
};

void metrics_add(enum metric metric, int64_t n);        /* counters and gauges; gauges also go down */
void metrics_set(enum metric metric, int64_t value);    /* gauges */
void metrics_observe(enum metric metric, double value); /* histograms */
/* One HTTP request answered. `method` and `route` must be constants (compared by content, kept by pointer). */
void metrics_http(const char *method, const char *route, int status, double seconds);
int64_t metrics_value(enum metric metric); /* of a counter or gauge; for tests and /v1/stats */
struct server;
/* All rows, the process, and what the server knows (NULL: left out): queue, disk, memory, connections. */
void metrics_render(struct buf *out, struct server *server);

#endif
