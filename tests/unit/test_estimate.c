/* SPDX-License-Identifier: Apache-2.0
 * Run times and waits, from jobs whose times the test knows: it claims, lets the clock go on, and ends them. */
#include "tests/unit/store_fixture.h"

#include <math.h>

#include "core/base/clock.h"
#include "server/estimate.h"

static void median_of_scaled_runs(void **state)
{
    (void)state;
    static const struct {
        int count;
        struct store_run runs[5];
        int64_t bytes;
        double want;
    } cases[] = {
        {0, {{0}}, 100, -1},
        {2, {{10, 100}, {10, 100}}, 100, -1},
        {3, {{10, 100}, {30, 100}, {20, 100}}, 100, 20},
        {4, {{10, 100}, {30, 100}, {20, 100}, {40, 100}}, 100, 25},
        {3, {{10, 50}, {10, 100}, {10, 200}}, 100, 10},                     /* 20, 10, 5 */
        {5, {{1000, 100}, {1, 100}, {2, 100}, {3, 100}, {2, 100}}, 100, 2}, /* one slow run is no rule */
        {3, {{10, 0}, {20, 0}, {30, 0}}, 100, 20},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_run runs[5];
        memcpy(runs, cases[i].runs, sizeof runs);
        double got = estimate_median(runs, cases[i].count, cases[i].bytes);
        if (fabs(got - cases[i].want) > 1e-9)
            fail_msg("case %zu: %g, not %g", i, got, cases[i].want);
    }
}

static struct store_job add(struct fixture *f, const char *methods)
{
    return add_job_with(f, (struct store_job_new){.methods = methods});
}

/* A job with these methods that took so long. */
static void past_job(struct fixture *f, const char *methods, int64_t ms)
{
    add(f, methods);
    struct store_claim c = claim(f, 3600000);
    move_clock(f, ms);
    settle(f, &c, (struct store_outcome){.kind = STORE_SUCCEEDED, .result = "{}"});
}

static struct estimate estimate(struct fixture *f, const char *id, int workers)
{
    struct store_job job = get(f, id);
    /* the test's clock is the database's, shifted */
    int64_t now = clock_epoch_ms() + int_of_sql(f, "SELECT shift FROM test_clock");
    return estimate_job(f->store, workers, &job, now, f->arena);
}

static void near(double got, double want)
{
    if (fabs(got - want) > 0.25)
        fail_msg("%g, not about %g", got, want);
}

static void nothing_is_told_without_a_past(void **state)
{
    struct fixture *f = *state;
    past_job(f, "prune", 10000);
    past_job(f, "prune", 10000); /* two are too few */
    struct store_job job = add(f, "prune");
    struct estimate e = estimate(f, job.id, 1);
    assert_true(e.eta_s < 0);
    assert_int_equal(e.samples, 2);
    near(e.wait_s, 0);           /* but a worker is free */
    past_job(f, "prune", 10000); /* it takes `job`, the older one, and leaves the new one */
    past_job(f, "quantize", 10000);
    struct store_job other = add(f, "quantize");
    assert_true(estimate(f, other.id, 1).eta_s < 0);
}

static void times_of_the_past(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++)
        past_job(f, "prune", 10000 + 1000 * i);
    struct store_job first = add(f, "prune");
    struct estimate e = estimate(f, first.id, 1);
    near(e.wait_s, 0);
    near(e.eta_s, 11);
    struct store_claim c = claim(f, 3600000);
    move_clock(f, 4000);
    e = estimate(f, first.id, 1);
    assert_true(e.wait_s < 0); /* it waits no more */
    near(e.eta_s, 7);
    struct store_job second = add(f, "prune"), third = add(f, "prune");
    e = estimate(f, second.id, 1);
    near(e.wait_s, 7);
    near(e.eta_s, 18);
    near(estimate(f, third.id, 1).wait_s, 18);
    near(estimate(f, third.id, 2).wait_s, 9);
    assert_true(estimate(f, third.id, 0).wait_s < 0); /* nobody works here */
    move_clock(f, 60000);                             /* longer than expected */
    near(estimate(f, first.id, 1).eta_s, 0);
    near(estimate(f, second.id, 1).wait_s, 0);
    struct store_job unknown = add(f, "train"), behind = add(f, "prune");
    assert_true(estimate(f, unknown.id, 1).eta_s < 0);
    assert_true(estimate(f, behind.id, 1).wait_s < 0 && estimate(f, behind.id, 1).eta_s < 0);
    settle(f, &c, (struct store_outcome){.kind = STORE_SUCCEEDED, .result = "{}"});
    assert_true(estimate(f, first.id, 1).eta_s < 0);
}

/* Owner "other" is next after one job of "local", however many of these wait. */
static void owners_take_turns(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++)
        past_job(f, "prune", 10000);
    for (int i = 0; i < 20; i++)
        add(f, "prune");
    claim(f, 3600000);
    struct store_resource model = add_model(f, "other", "m.onnx", SHA_A, NULL);
    struct store_job job = add_job_with(
        f, (struct store_job_new){.owner = "other", .methods = "prune", .inputs = {[JOB_ROLE_MODEL] = model.id}});
    assert_int_equal(store_job_get(f->store, "other", job.id, f->arena, &job, &f->err), 0);
    int64_t now = clock_epoch_ms() + int_of_sql(f, "SELECT shift FROM test_clock");
    near(estimate_job(f->store, 1, &job, now, f->arena).wait_s, 10.0 * (double)job.queue_position);
    assert_in_range(job.queue_position, 1, 2);
}

static void other_sizes_tell_nothing(void **state)
{
    struct fixture *f = *state;
    for (int i = 0; i < 3; i++)
        past_job(f, "prune", 10000);
    struct store_run runs[STORE_RUN_SAMPLES];
    int count;
    assert_int_equal(store_run_times(f->store, "prune", 50, 200, runs, &count, &f->err), 0);
    assert_int_equal(count, 3);
    assert_int_equal(runs[0].input_bytes, 100); /* the fixture's model */
    assert_int_equal(store_run_times(f->store, "prune", 101, 400, runs, &count, &f->err), 0);
    assert_int_equal(count, 0);
    run_sql(f, "UPDATE job SET attempt=2");
    assert_int_equal(store_run_times(f->store, "prune", 50, 200, runs, &count, &f->err), 0);
    assert_int_equal(count, 0); /* their times hold a wait between two attempts */
}

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(median_of_scaled_runs),
                                       STORE_TEST(nothing_is_told_without_a_past), STORE_TEST(times_of_the_past), STORE_TEST(owners_take_turns),
                                       STORE_TEST(other_sizes_tell_nothing)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
