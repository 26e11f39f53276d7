/* SPDX-License-Identifier: Apache-2.0
 * Rows of the table are atomic words. HTTP requests have two labels more, so they have a small table of their own under
 * a lock: one row for each (method, route, status) seen, found again by content. */
#include "server/metrics.h"

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "core/base/log.h"
#include "server/store.h"

enum type { COUNTER, GAUGE, HISTOGRAM };
static const char *const type_names[] = {"counter", "gauge", "histogram"};

static const struct {
    enum type type;
    const char *name, *doc;
} rows[] = {
#define X(id, row_type, row_name, row_doc) [METRIC_##id] = {row_type, row_name, row_doc},
    METRIC_MAP(X)
#undef X
};

static const double bounds[] = {0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 60, 300, 1800, 7200};
enum { N_BOUNDS = sizeof bounds / sizeof bounds[0], HTTP_ROWS = 512 };

struct histogram {
    atomic_llong buckets[N_BOUNDS + 1];
    atomic_llong sum_us;
};
static atomic_llong values[METRIC_COUNT];
static struct histogram histograms[METRIC_COUNT];

struct http_row {
    const char *method, *route;
    int status;
    int64_t count;
};
static pthread_mutex_t http_lock = PTHREAD_MUTEX_INITIALIZER;
static struct http_row http_rows[HTTP_ROWS];
static int http_count;
static struct histogram http_seconds;

void metrics_add(enum metric metric, int64_t n)
{
    atomic_fetch_add_explicit(&values[metric], n, memory_order_relaxed);
}

int64_t metrics_value(enum metric metric)
{
    return atomic_load_explicit(&values[metric], memory_order_relaxed);
}

static void observe(struct histogram *h, double seconds)
{
    int i = 0;
    while (i < N_BOUNDS && seconds > bounds[i])
        i++;
    atomic_fetch_add_explicit(&h->buckets[i], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum_us, (long long)(seconds * 1e6), memory_order_relaxed);
}

void metrics_observe(enum metric metric, double seconds)
{
    observe(&histograms[metric], seconds);
}

void metrics_http(const char *method, const char *route, int status, double seconds)
{
    observe(&http_seconds, seconds);
    pthread_mutex_lock(&http_lock);
    int i = 0;
    while (i < http_count &&
           (http_rows[i].status != status || strcmp(http_rows[i].method, method) || strcmp(http_rows[i].route, route)))
        i++;
    if (i == http_count && i < HTTP_ROWS)
        http_rows[http_count++] = (struct http_row){method, route, status, 0};
    if (i < HTTP_ROWS)
        http_rows[i].count++;
    pthread_mutex_unlock(&http_lock);
}

static void head(struct buf *out, const char *name, const char *type, const char *doc)
{
    buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, doc, name, type);
}

static void render_histogram(struct buf *out, const char *name, struct histogram *h)
{
    long long total = 0;
    for (int i = 0; i < N_BOUNDS; i++) {
        total += atomic_load_explicit(&h->buckets[i], memory_order_relaxed);
        buf_printf(out, "%s_bucket{le=\"%g\"} %lld\n", name, bounds[i], total);
    }
    total += atomic_load_explicit(&h->buckets[N_BOUNDS], memory_order_relaxed);
    buf_printf(out, "%s_bucket{le=\"+Inf\"} %lld\n%s_sum %.6f\n%s_count %lld\n", name, total, name,
               (double)atomic_load_explicit(&h->sum_us, memory_order_relaxed) / 1e6, name, total);
}

static void render_http(struct buf *out)
{
    head(out, "pared_http_requests_total", "counter", "HTTP requests answered.");
    pthread_mutex_lock(&http_lock);
    for (int i = 0; i < http_count; i++)
        buf_printf(out, "pared_http_requests_total{method=\"%s\",route=\"%s\",code=\"%d\"} %" PRId64 "\n",
                   http_rows[i].method, http_rows[i].route, http_rows[i].status, http_rows[i].count);
    pthread_mutex_unlock(&http_lock);
    head(out, "pared_http_request_duration_seconds", "histogram", "From request line to answer.");
    render_histogram(out, "pared_http_request_duration_seconds", &http_seconds);
}

static void render_store(struct buf *out, struct store *store)
{
    struct store_counts counts;
    struct err err = {0};
    if (!store)
        return;
    if (store_count(store, &counts, &err)) {
        metrics_add(METRIC_STORE_ERRORS, 1);
        log_warn("metrics: %s", err.msg);
        return;
    }
    head(out, "pared_jobs", "gauge", "Jobs in the catalogue by state.");
    for (int i = 0; i < JOB_STATE_COUNT; i++)
        buf_printf(out, "pared_jobs{state=\"%s\"} %" PRId64 "\n", job_state_name((enum job_state)i), counts.jobs[i]);
    head(out, "pared_models", "gauge", "Models in the catalogue.");
    buf_printf(out, "pared_models %" PRId64 "\n", counts.models);
    head(out, "pared_datasets", "gauge", "Datasets in the catalogue.");
    buf_printf(out, "pared_datasets %" PRId64 "\n", counts.datasets);
    head(out, "pared_artifacts", "gauge", "Artifacts in the catalogue.");
    buf_printf(out, "pared_artifacts %" PRId64 "\n", counts.artifacts);
    head(out, "pared_queue_oldest_seconds", "gauge", "Age of the job that waits longest; 0 when none waits.");
    buf_printf(out, "pared_queue_oldest_seconds %.3f\n", (double)counts.oldest_queued_ms / 1e3);
}

void metrics_render(struct buf *out, struct store *store)
{
    head(out, "pared_build_info", "gauge", "1, with the version as label.");
    buf_printf(out, "pared_build_info{version=\"%s\"} 1\n", PARED_VERSION);
    for (int i = 0; i < METRIC_COUNT; i++) {
        head(out, rows[i].name, type_names[rows[i].type], rows[i].doc);
        if (rows[i].type == HISTOGRAM)
            render_histogram(out, rows[i].name, &histograms[i]);
        else
            buf_printf(out, "%s %" PRId64 "\n", rows[i].name, metrics_value((enum metric)i));
    }
    render_http(out);
    render_store(out, store);
}
