/* SPDX-License-Identifier: Apache-2.0
 * Metrics: every row is rendered, histograms are cumulative, requests are counted by their labels. */
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
        fail_msg("missing \"%s\"", line);
}

static void every_row_is_there(void **state)
{
    (void)state;
    struct buf text = {0};
    metrics_render(&text, NULL);
#define X(id, type, name, doc)                                                                                         \
    assert_has(&text, "# TYPE " name " ");                                                                             \
    assert_has(&text, "# HELP " name " " doc "\n");
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
    metrics_add(METRIC_WORKERS_BUSY, 2);
    metrics_add(METRIC_WORKERS_BUSY, -1);
    metrics_observe(METRIC_JOB_SECONDS, 0.3);
    metrics_observe(METRIC_JOB_SECONDS, 7);
    metrics_observe(METRIC_JOB_SECONDS, 1e6);
    metrics_http("GET", "/v1/jobs", 200, 0.002);
    metrics_http("GET", "/v1/jobs", 200, 0.002);
    metrics_http("GET", "/v1/jobs", 404, 0.002);
    metrics_render(&text, NULL);
    static const char *const lines[] = {
        "\npared_jobs_accepted_total 3\n",
        "\npared_workers_busy 1\n",
        "pared_job_duration_seconds_bucket{le=\"0.1\"} 0\n",
        "pared_job_duration_seconds_bucket{le=\"0.5\"} 1\n",
        "pared_job_duration_seconds_bucket{le=\"10\"} 2\n",
        "pared_job_duration_seconds_bucket{le=\"7200\"} 2\n",
        "pared_job_duration_seconds_bucket{le=\"+Inf\"} 3\n",
        "pared_job_duration_seconds_count 3\n",
        "pared_job_duration_seconds_sum 1000007.300000\n",
        "pared_http_requests_total{method=\"GET\",route=\"/v1/jobs\",code=\"200\"} 2\n",
        "pared_http_requests_total{method=\"GET\",route=\"/v1/jobs\",code=\"404\"} 1\n",
        "pared_http_request_duration_seconds_count 3\n",
    };
    for (size_t i = 0; i < sizeof lines / sizeof lines[0]; i++)
        assert_has(&text, lines[i]);
    buf_fini(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_row_is_there), cmocka_unit_test(values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
