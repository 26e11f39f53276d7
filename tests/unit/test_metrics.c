/* SPDX-License-Identifier: Apache-2.0
 * Metrics: every row is rendered once under one head a family, histograms are cumulative, requests are counted by their
 * labels, the process tells of itself. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "server/metrics.h"

static void assert_has(const struct buf *text, const char *line)
{
    if (!strstr(text->data, line))
        fail_msg("missing \"%s\" in\n%s", line, text->data);
}

static int count(const char *text, const char *word)
{
    int n = 0;
    for (const char *at = text; (at = strstr(at, word)); at += strlen(word))
        n++;
    return n;
}

static void every_row_is_there(void **state)
{
    (void)state;
    struct buf text = {0};
    char line[300];
    metrics_render(&text, NULL);
#define X(id, type, name, labels, doc)                                                                                 \
    assert_int_equal(count(text.data, "# TYPE " name " "), 1);                                                         \
    assert_int_equal(count(text.data, "# HELP " name " "), 1);                                                         \
    if (*doc)                                                                                                          \
        assert_has(&text, "# HELP " name " " doc "\n");                                                                \
    if (*labels) {                                                                                                     \
        snprintf(line, sizeof line, "{%s%s", labels, strncmp(#type, "BY", 2) && strncmp(#type, "SE", 2) ? "}" : ",");  \
        assert_has(&text, line);                                                                                       \
    }
    METRIC_MAP(X)
#undef X
    assert_has(&text, "pared_build_info{version=");
    buf_fini(&text);
}

static void values(void **state)
{
    (void)state;
    struct buf text = {0};
    metrics_add(METRIC_JOBS_ACCEPTED, 3);
    metrics_add(METRIC_JOBS_FAILED, 1);
    metrics_add(METRIC_WORKERS_BUSY, 2);
    metrics_add(METRIC_WORKERS_BUSY, -1);
    metrics_set(METRIC_WORKERS, 7);
    metrics_set(METRIC_WORKERS, 4);
    metrics_observe(METRIC_JOB_FAILED_SECONDS, 0.3);
    metrics_observe(METRIC_JOB_FAILED_SECONDS, 7);
    metrics_observe(METRIC_JOB_FAILED_SECONDS, 1e6);
    metrics_observe(METRIC_ARTIFACT_BYTES, 1024);
    metrics_observe(METRIC_ARTIFACT_BYTES, 5e9);
    metrics_http("GET", "/v1/jobs", 200, 0.002);
    metrics_http("GET", "/v1/jobs", 200, 0.002);
    metrics_http("GET", "/v1/jobs", 404, 0.002);
    metrics_http("POST", "/v1/jobs", 202, 2);
    metrics_render(&text, NULL);
    static const char *const lines[] = {
        "\npared_jobs_accepted_total 3\n",
        "\npared_jobs_ended_total{outcome=\"failed\"} 1\n",
        "\npared_workers_busy 1\n",
        "\npared_workers 4\n",
        "pared_job_duration_seconds_bucket{kind=\"compress\",outcome=\"failed\",le=\"0.25\"} 0\n",
        "pared_job_duration_seconds_bucket{kind=\"compress\",outcome=\"failed\",le=\"0.5\"} 1\n",
        "pared_job_duration_seconds_bucket{kind=\"compress\",outcome=\"failed\",le=\"10\"} 2\n",
        "pared_job_duration_seconds_bucket{kind=\"compress\",outcome=\"failed\",le=\"7200\"} 2\n",
        "pared_job_duration_seconds_bucket{kind=\"compress\",outcome=\"failed\",le=\"+Inf\"} 3\n",
        "pared_job_duration_seconds_count{kind=\"compress\",outcome=\"failed\"} 3\n",
        "pared_job_duration_seconds_sum{kind=\"compress\",outcome=\"failed\"} 1000007.300000\n",
        "pared_artifact_bytes_bucket{le=\"1024\"} 1\n",
        "pared_artifact_bytes_bucket{le=\"4294967296\"} 1\n",
        "pared_artifact_bytes_bucket{le=\"17179869184\"} 2\n",
        "pared_artifact_bytes_sum 5000001024.000000\n",
        "pared_http_requests_total{method=\"GET\",route=\"/v1/jobs\",code=\"200\"} 2\n",
        "pared_http_requests_total{method=\"GET\",route=\"/v1/jobs\",code=\"404\"} 1\n",
        "pared_http_requests_total{method=\"POST\",route=\"/v1/jobs\",code=\"202\"} 1\n",
        "pared_http_request_duration_seconds_count{method=\"GET\",route=\"/v1/jobs\"} 3\n",
        "pared_http_request_duration_seconds_bucket{method=\"POST\",route=\"/v1/jobs\",le=\"1\"} 0\n",
        "pared_http_request_duration_seconds_bucket{method=\"POST\",route=\"/v1/jobs\",le=\"5\"} 1\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        assert_has(&text, lines[i]);
    buf_fini(&text);
}

/* The numbers are those of /proc, read here by another way. */
static void the_process(void **state)
{
    (void)state;
    struct buf text = {0};
    metrics_render(&text, NULL);
    static const char *const names[] = {"cpu_seconds_total", "resident_memory_bytes", "virtual_memory_bytes", "threads",
                                        "start_time_seconds", "open_fds", "max_fds"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char line[80];
        snprintf(line, sizeof line, "\nprocess_%s ", names[i]);
        assert_has(&text, line);
    }
    long long rss_pages = 0, told = 0;
    FILE *f = fopen("/proc/self/statm", "re");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*s %lld", &rss_pages), 1);
    fclose(f);
    const char *at = strstr(text.data, "\nprocess_resident_memory_bytes ");
    assert_int_equal(sscanf(at, " process_resident_memory_bytes %lld", &told), 1);
    assert_in_range(told, rss_pages * 4096 / 2, rss_pages * 4096 * 2);
    assert_has(&text, "\nprocess_threads 1\n");
    buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_row_is_there), cmocka_unit_test(values),
                                       cmocka_unit_test(the_process)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
