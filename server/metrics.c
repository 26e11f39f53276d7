/* SPDX-License-Identifier: Apache-2.0
 * Rows of the table are atomic words. HTTP requests have labels of their own, so they have a small table under a lock:
 * one row for each (method, route) seen, found again by content, with its statuses and its histogram. The number of
 * rows is bounded by the routes: what matches none is counted under the route "". */
#include "server/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "core/base/log.h"
#include "server/http.h"
#include "server/metrics_process.h"
#include "server/server.h"
#include "server/store.h"

enum type { COUNTER, GAUGE, SECONDS, BYTES };
static const char *const type_names[] = {"counter", "gauge", "histogram", "histogram"};

static const struct {
    enum type type;
    const char *name, *labels, *doc;
} rows[] = {
#define X(id, row_type, row_name, row_labels, row_doc) [METRIC_##id] = {row_type, row_name, row_labels, row_doc},
    METRIC_MAP(X)
#undef X
};

enum { N_BOUNDS = 14, HTTP_ROWS = 256, HTTP_CODES = 24 };
static const double second_bounds[N_BOUNDS] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 5, 10, 60, 300, 1800, 7200};
static const double byte_bounds[N_BOUNDS] = {1 << 10,   1 << 12,   1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 22,
                                             1 << 24, 1 << 26, 1 << 28, 1 << 30, 0x1p32,  0x1p34,  0x1p36};

struct histogram {
    atomic_llong buckets[N_BOUNDS + 1];
    atomic_llong sum; /* bytes, or microseconds */
};
static atomic_llong values[METRIC_COUNT];
static struct histogram histograms[METRIC_COUNT];

struct http_row {
    const char *method, *route;
    struct {
        int status;
        int64_t count;
    } codes[HTTP_CODES];
    int code_count;
    struct histogram seconds;
};
static pthread_mutex_t http_lock = PTHREAD_MUTEX_INITIALIZER;
static struct http_row http_rows[HTTP_ROWS];
static int http_count;

void metrics_add(enum metric metric, int64_t n)
{
    atomic_fetch_add_explicit(&values[metric], n, memory_order_relaxed);
}

void metrics_set(enum metric metric, int64_t value)
{
    atomic_store_explicit(&values[metric], value, memory_order_relaxed);
}

int64_t metrics_value(enum metric metric)
{
    return atomic_load_explicit(&values[metric], memory_order_relaxed);
}

/* Seconds are summed in microseconds, bytes as they are. */
static double unit_of(const double bounds[N_BOUNDS])
{
    return bounds == byte_bounds ? 1 : 1e-6;
}

static void observe(struct histogram *h, const double bounds[N_BOUNDS], double value)
{
    int i = 0;
    while (i < N_BOUNDS && value > bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum, (long long)(value / unit_of(bounds)), memory_order_relaxed);
}

void metrics_observe(enum metric metric, double value)
{
    observe(&histograms[metric], rows[metric].type == BYTES ? byte_bounds : second_bounds, value);
}

/* Under the lock. NULL: the table is full. */
static struct http_row *http_row(const char *method, const char *route)
{
    int i = 0;
    while (i < http_count && ((http_rows[i].route != route && strcmp(http_rows[i].route, route)) ||
                              strcmp(http_rows[i].method, method)))
        i++;
    if (i == http_count && i < HTTP_ROWS) {
        http_rows[i].method = method;
        http_rows[i].route = route;
        http_count++;
    }
    return i < HTTP_ROWS ? &http_rows[i] : NULL;
}

void metrics_http(const char *method, const char *route, int status, double seconds)
{
    pthread_mutex_lock(&http_lock);
    struct http_row *row = http_row(method, route);
    int i = 0;
    while (row && i < row->code_count && row->codes[i].status != status)
        i++;
    if (row && i == row->code_count && i < HTTP_CODES)
        row->codes[row->code_count++].status = status;
    if (row && i < HTTP_CODES)
        row->codes[i].count++;
    if (row)
        observe(&row->seconds, second_bounds, seconds);
    pthread_mutex_unlock(&http_lock);
}

/* ---- the text -----------------------------------------------------------------------------------------------------
 */

static void head(struct buf *out, const char *name, const char *type, const char *doc)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, doc, name, type);
}

static void gauge(struct buf *out, const char *name, const char *doc, int64_t value)
{
    head(out, name, "gauge", doc);
    buf_printf(out, "%s %" PRId64 "\n", name, value);
}

static void render_histogram(struct buf *out, const char *name, const char *labels, struct histogram *h,
                             const double bounds[N_BOUNDS])
{
    long long total = 0;
    const char *comma = *labels ? "," : "", *open = *labels ? "{" : "", *end = *labels ? "}" : "";
    for (int i = 0; i < N_BOUNDS; i++) {
        total += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        buf_printf(out, "%s_bucket{%s%sle=\"%.12g\"} %lld\n", name, labels, comma, bounds[i], total);
    }
    total += atomic_load_explicit(&h->buckets[N_BOUNDS], memory_order_relaxed);
    buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %lld\n", name, labels, comma, total);
    buf_printf(out, "%s_sum%s%s%s %.6f\n%s_count%s%s%s %lld\n", name, open, labels, end,
               (double)atomic_load_explicit(&h->sum, memory_order_relaxed) * unit_of(bounds), name, open, labels, end,
               total);
}

static void render_rows(struct buf *out)
{
    for (int i = 0; i < METRIC_COUNT; i++) {
        const char *labels = rows[i].labels;
        if (i == 0 || strcmp(rows[i].name, rows[i - 1].name))
            head(out, rows[i].name, type_names[rows[i].type], rows[i].doc);
        if (rows[i].type == SECONDS || rows[i].type == BYTES)
            render_histogram(out, rows[i].name, labels, &histograms[i],
                             rows[i].type == BYTES ? byte_bounds : second_bounds);
        else
            buf_printf(out, "%s%s%s%s %" PRId64 "\n", rows[i].name, *labels ? "{" : "", labels, *labels ? "}" : "",
                       metrics_value((enum metric)i));
    }
}

static void render_http(struct buf *out)
{
    pthread_mutex_lock(&http_lock);
    head(out, "pared_http_requests_total", "counter", "HTTP requests answered.");
    for (int i = 0; i < http_count; i++)
        for (int k = 0; k < http_rows[i].code_count; k++)
            buf_printf(out, "pared_http_requests_total{method=\"%s\",route=\"%s\",code=\"%d\"} %" PRId64 "\n",
                       http_rows[i].method, http_rows[i].route, http_rows[i].codes[k].status,
                       http_rows[i].codes[k].count);
    head(out, "pared_http_request_duration_seconds", "histogram",
         "From request line to answer; long polls and event streams last as long as they are open.");
    for (int i = 0; i < http_count; i++) {
        char labels[400];
        snprintf(labels, sizeof labels, "method=\"%s\",route=\"%s\"", http_rows[i].method, http_rows[i].route);
        render_histogram(out, "pared_http_request_duration_seconds", labels, &http_rows[i].seconds, second_bounds);
    }
    pthread_mutex_unlock(&http_lock);
}

static void render_store(struct buf *out, struct store *store)
{
    struct store_counts counts;
    struct err err = {0};
    bool up = store_count(store, &counts, &err) == 0;
    gauge(out, "pared_store_up", "1 when the catalogue answers.", up);
    if (!up) {
        metrics_add(METRIC_STORE_ERRORS_COUNT, 1);
        log_warn("metrics: %s", err.msg);
        return;
    }
    head(out, "pared_jobs", "gauge", "Jobs in the catalogue by state.");
    for (int i = 0; i < JOB_STATE_COUNT; i++)
        buf_printf(out, "pared_jobs{state=\"%s\",queue=\"default\"} %" PRId64 "\n", job_state_name((enum job_state)i),
                   counts.jobs[i]);
    gauge(out, "pared_models", "Models in the catalogue.", counts.models);
    gauge(out, "pared_datasets", "Datasets in the catalogue.", counts.datasets);
    gauge(out, "pared_artifacts", "Artifacts in the catalogue.", counts.artifacts);
    head(out, "pared_queue_oldest_seconds", "gauge", "Age of the job that waits longest; 0 when none waits.");
    buf_printf(out, "pared_queue_oldest_seconds %.3f\n", (double)counts.oldest_queued_ms / 1e3);
}

static void render_server(struct buf *out, struct server *server)
{
    int connections = 0, streams = 0;
    struct http *http = atomic_load(&server->http);
    int64_t memory = atomic_load(&server->admission.memory_bytes);
    if (http)
        http_counts(http, &connections, &streams);
    gauge(out, "pared_http_connections", "Connections open now.", connections);
    gauge(out, "pared_http_streams", "Event streams open now.", streams);
    gauge(out, "pared_draining", "1 while the server stops.", atomic_load(&server->draining));
    gauge(out, "pared_disk_free_bytes", "Disk space of the data folder above min_free_disk_bytes.",
          atomic_load(&server->admission.disk_bytes));
    if (memory < INT64_MAX)
        gauge(out, "pared_memory_available_bytes", "Memory the machine or the cgroup has left.", memory);
    gauge(out, "pared_admission_refusing", "1 while uploads and jobs are refused for want of disk or memory.",
          atomic_load(&server->admission.was_short));
    render_store(out, server->store);
}

void metrics_render(struct buf *out, struct server *server)
{
    head(out, "pared_build_info", "gauge", "1, with the version as label.");
    buf_printf(out, "pared_build_info{version=\"%s\"} 1\n", PARED_VERSION);
    render_rows(out);
    render_http(out);
    if (server)
        render_server(out, server);
    metrics_process(out);
}
