/* SPDX-License-Identifier: Apache-2.0
 * store_time_cases.h - the part of the catalogue's contract that time and failures are in: versions of the schema, jumps
 * of the clock, retention, errors before and after every commit. Cases of test_store_conformance.c. */
#ifndef PARED_TESTS_STORE_TIME_CASES_H
#define PARED_TESTS_STORE_TIME_CASES_H

#include "server/store_fault.h"
#include "tests/unit/schema_v1.h"
#include "tests/unit/store_fixture.h"

/* ---- versions of the schema ---------------------------------------------------------------------------------------
 */

/* Statements with the driver's word for @KEYED@. */
static void run_old_sql(struct fixture *f, const char *sql)
{
    char *text = malloc(2 * strlen(sql) + 1), *to = text;
    static const char token[] = "@KEYED@";
    for (const char *from = sql; *from;) {
        bool here = !strncmp(from, token, sizeof token - 1);
        if (here)
            to = stpcpy(to, f->driver.keyed);
        else
            *to++ = *from;
        from += here ? sizeof token - 1 : 1;
    }
    *to = 0;
    run_sql(f, text);
    free(text);
}

static void an_old_catalogue_is_upgraded(void **state)
{
    struct fixture *f = *state;
    run_old_sql(f, schema_v1);
    run_sql(f, rows_v1);
    f->store = open_store(f);
    assert_non_null(f->store);
    struct store_job done = get(f, V1_DONE);
    assert_int_equal(done.state, JOB_SUCCEEDED);
    assert_string_equal(done.result, "{\"x\":1}");
    assert_string_equal(done.progress.stage, "calibrate");
    assert_null(done.progress.metric);
    assert_string_equal(done.inputs[JOB_ROLE_MODEL], V1_MODEL);
    struct store_artifact made;
    assert_int_equal(store_artifact_by_name(f->store, "local", V1_DONE, "model.onnx", f->arena, &made, &f->err), 0);
    assert_string_equal(made.sha256, V1_OUT);
    assert_int_equal(store_blob_used(f->store, V1_SHA, &f->err), 1);
    assert_int_equal(reap(f, "n1"), 1); /* what ran when the old program stopped */
    for (int i = 0; i < 2; i++) {
        struct store_claim c = claim(f, 10000);
        assert_string_equal(c.id, i ? V1_RUNNING : V1_QUEUED);
        assert_int_equal(store_job_metric(f->store, c.id, c.attempt, "{}", &f->err), 1);
        settle(f, &c, (struct store_outcome){.kind = STORE_SUCCEEDED, .result = "{}"});
    }
    snprintf(f->model, sizeof f->model, V1_MODEL);
    add_job(f);
    store_close(f->store); /* and once only */
    f->store = open_store(f);
    assert_non_null(f->store);
    assert_int_equal(get(f, V1_DONE).state, JOB_SUCCEEDED);
}

static void a_newer_catalogue_is_refused(void **state)
{
    struct fixture *f = *state;
    store_close(f->store);
    run_sql(f, "UPDATE schema_version SET version=version+1");
    f->store = open_store(f);
    assert_null(f->store);
    assert_int_equal(f->err.code, ERR_STORE);
    assert_non_null(strstr(f->err.msg, "use a newer pared"));
    f->err = (struct err){0};
    run_sql(f, "UPDATE schema_version SET version=version-1"); /* and was left as it is */
    f->store = open_store(f);
    assert_non_null(f->store);
    assert_int_equal(int_of_sql(f, "SELECT count(*) FROM model"), 1);
}

/* ---- the clock ----------------------------------------------------------------------------------------------------
 */

/* An hour forward while a job runs: its worker lives, so its lease moves with the clock. */
static void a_clock_that_jumps_forward_takes_no_lease(void **state)
{
    struct fixture *f = *state;
    struct store_job job = add_job(f);
    struct store_claim c = claim(f, 30000);
    assert_int_equal(reap(f, NULL), 0);
    move_clock(f, 3600 * 1000);
    assert_int_equal(reap(f, NULL), 0);
    assert_int_equal(get(f, job.id).attempt, 1);
    assert_int_equal(store_job_beat(f->store, c.id, c.attempt, 30000, &f->err), STORE_BEAT_OK);
    /* a lease that ends by itself, with the clock in step, is still an end */
    for (int i = 0; i < 17; i++) {
        move_clock(f, 1800);
        reap(f, NULL);
    }
    assert_int_equal(get(f, job.id).losses, 1);
}

static void a_clock_that_jumps_back_makes_nothing_wait(void **state)
{
    struct fixture *f = *state;
    struct store_job waits = add_job(f);
    struct store_claim c = claim(f, 30000);
    assert_int_equal(settle(f, &c, (struct store_outcome){.kind = STORE_RETRY, .error = "{}"}), JOB_QUEUED);
    struct store_job fresh = add_job(f), runs = add_job_with(f, (struct store_job_new){.priority = 9});
    c = claim(f, 30000);
    assert_string_equal(c.id, runs.id);
    assert_int_equal(reap(f, NULL), 0);
    move_clock(f, -INT64_C(86400000));
    assert_true(nothing_to_claim(f));
    assert_int_equal(reap(f, NULL), 0);
    assert_int_equal(store_job_beat(f->store, c.id, c.attempt, 30000, &f->err), STORE_BEAT_OK);
    for (int i = 0; i < 2; i++) { /* the new one, and the one in its back-off */
        struct store_claim next = claim(f, 30000);
        assert_true(!strcmp(next.id, waits.id) || !strcmp(next.id, fresh.id));
        settle(f, &next, (struct store_outcome){.kind = STORE_SUCCEEDED, .result = "{}"});
    }
    /* a worker that died then is missed within the longest lease */
    int64_t left = int_of_sql(f, "SELECT max(lease_until) FROM job") - int_of_sql(f, "SELECT created_at FROM model");
    assert_true(left < 0);
    /* a restart, too, finds jobs "from the future" */
    struct store_job late = add_job(f);
    move_clock(f, -INT64_C(86400000));
    store_close(f->store);
    f->store = open_store(f);
    assert_int_equal(reap(f, "n1"), 1);
    assert_string_equal(claim(f, 1000).id, runs.id);
    assert_string_equal(claim(f, 1000).id, late.id);
}

/* ---- retention ----------------------------------------------------------------------------------------------------
 */

static struct store_job finished_job(struct fixture *f, const char *sha256)
{
    struct store_job job = add_job(f);
    struct store_claim c = claim(f, 10000);
    struct store_artifact made = {.name = "model.onnx", .media_type = "a/b", .sha256 = sha256, .bytes = 5};
    settle(f, &c, (struct store_outcome){.kind = STORE_SUCCEEDED, .result = "{}", .artifacts = &made, .artifact_count = 1});
    return get(f, job.id);
}

static struct store_expired expire(struct fixture *f)
{
    struct store_expired out;
    assert_int_equal(store_expire(f->store, f->arena, &out, &f->err), 0);
    return out;
}

static void old_jobs_and_artifacts_go(void **state)
{
    struct fixture *f = *state;
    struct store_job old = finished_job(f, SHA_B), waits = add_job(f);
    struct store_artifact artifact;
    move_clock(f, INT64_C(1000) * 86400 * 365);
    assert_int_equal(old.expires_at, 0);
    assert_int_equal(expire(f).jobs, 0); /* nothing is set: for ever */
    store_set_retention(f->store, &(struct store_retention){.job_ttl_s = 86400, .artifact_ttl_s = 3600});
    finished_job(f, SHA_C); /* the one that waited; another stays queued */
    struct store_job young = get(f, waits.id);
    assert_int_equal(young.expires_at, young.finished_at + 86400000);
    assert_int_equal(store_artifact_by_name(f->store, "local", waits.id, "model.onnx", f->arena, &artifact, &f->err), 0);
    assert_int_equal(artifact.expires_at, artifact.created_at + 3600000);
    struct store_expired gone = expire(f);
    assert_int_equal(gone.jobs, 1);
    assert_int_equal(gone.orphans.count, 1);
    assert_string_equal(gone.orphans.sha256[0], SHA_B);
    assert_false(gone.more);
    move_clock(f, 3601000);
    gone = expire(f);
    assert_int_equal(gone.jobs, 0);
    assert_int_equal(gone.artifacts, 1);
    assert_string_equal(gone.orphans.sha256[0], SHA_C);
    assert_int_equal(get(f, waits.id).state, JOB_SUCCEEDED);
    move_clock(f, INT64_C(86400) * 1000);
    assert_int_equal(expire(f).jobs, 1);
    struct store_counts counts;
    assert_int_equal(store_count(f->store, &counts, &f->err), 0);
    assert_int_equal(counts.jobs[JOB_QUEUED], 1); /* what has not ended has no age */
    assert_int_equal(counts.jobs[JOB_SUCCEEDED], 0);
    assert_int_equal(int_of_sql(f, "SELECT count(*) FROM job_event"), 1);
}

static void retention_goes_page_by_page(void **state)
{
    struct fixture *f = *state;
    store_set_retention(f->store, &(struct store_retention){.job_ttl_s = 60});
    int pages = 0, jobs = 0;
    for (int i = 0; i < 60; i++)
        finished_job(f, i % 2 ? SHA_B : SHA_C);
    move_clock(f, 61000);
    struct store_expired gone;
    do {
        gone = expire(f);
        jobs += gone.jobs;
        pages++;
        if (gone.more) /* a blob is an orphan when its last row goes, not before */
            assert_int_equal(gone.orphans.count, 0);
    } while (gone.more);
    assert_int_equal(jobs, 60);
    assert_int_equal(pages, 2);
    assert_int_equal(gone.orphans.count, 2);
}

/* ---- errors at every call -----------------------------------------------------------------------------------------
 */

static _Thread_local struct {
    enum store_moment moment;
    bool on;
    char hit[60];
} trap;

static int spring(const char *call, enum store_moment moment, struct err *err)
{
    if (!trap.on || moment != trap.moment)
        return 0;
    trap.on = false;
    snprintf(trap.hit, sizeof trap.hit, "%s", call);
    return err_set(err, ERR_STORE, "injected");
}

static void set_trap(enum store_moment moment)
{
    trap.moment = moment;
    trap.on = true;
}

/* A call that failed before it began did nothing; one that failed after its commit did all of it: repeating is safe either way. */
static void a_failed_call_can_be_repeated(void **state)
{
    struct fixture *f = *state;
    atomic_store(&store_fault, spring);
    for (enum store_moment moment = STORE_BEFORE; moment <= STORE_AFTER; moment++) {
        struct err err[4] = {{0}};
        struct store_job_new in = {.owner = "local",
                                   .request = "{}",
                                   .inputs = {[JOB_ROLE_MODEL] = f->model},
                                   .idempotency_key = moment ? "k1" : "k0",
                                   .request_sha256 = SHA_A,
                                   .idempotency_ttl_s = 100};
        struct store_job job;
        bool replayed;
        set_trap(moment);
        assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &err[0]), -1);
        assert_int_equal(err[0].code, ERR_STORE);
        assert_string_equal(trap.hit, "store_job_insert");
        assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &f->err), 0);
        assert_int_equal(replayed, moment == STORE_AFTER);
        /* a claim that was made but not heard of comes back when its lease ends */
        struct store_claim c;
        set_trap(moment);
        assert_int_equal(store_job_claim(f->store, "n1:w", 1000, f->arena, &c, &err[1]), -1);
        if (moment == STORE_AFTER) {
            move_clock(f, 1001);
            assert_int_equal(reap(f, NULL), 1);
            move_clock(f, 2300);
        }
        c = claim(f, 10000);
        assert_string_equal(c.id, job.id);
        struct store_artifact made = {.name = "model.onnx", .media_type = "a/b", .sha256 = SHA_B, .bytes = 5};
        struct store_outcome success = {.kind = STORE_SUCCEEDED, .result = "{}", .artifacts = &made, .artifact_count = 1};
        enum job_state s;
        set_trap(moment);
        assert_int_equal(store_job_settle(f->store, c.id, c.attempt, &success, &s, &err[2]), -1);
        assert_int_equal(store_job_settle(f->store, c.id, c.attempt, &success, &s, &f->err), moment == STORE_BEFORE);
        assert_int_equal(get(f, job.id).state, JOB_SUCCEEDED);
        struct store_artifact *rows;
        int count;
        assert_int_equal(store_artifact_list(f->store, "local", job.id, f->arena, &rows, &count, &f->err), 0);
        assert_int_equal(count, 1);
        struct store_orphans orphans;
        set_trap(moment);
        assert_int_equal(store_job_delete(f->store, "local", job.id, f->arena, &orphans, &err[3]), -1);
        assert_int_equal(store_job_delete(f->store, "local", job.id, f->arena, &orphans, &f->err), moment ? -1 : 0);
        assert_int_equal(store_blob_used(f->store, SHA_B, &f->err), 0);
        f->err = (struct err){0};
    }
    atomic_store(&store_fault, NULL);
}

#endif
