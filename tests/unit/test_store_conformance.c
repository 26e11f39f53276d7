/* SPDX-License-Identifier: Apache-2.0
 * What any driver of the catalogue must do (store_fixture.h has the table of drivers): resources, pages, the queue's claims, leases
 * and fences, cancel, reaper, idempotency, jumps of the clock, retention, errors and deaths at every call, and many claimers, crashes
 * and zombies at once. */
#include "tests/unit/store_fixture.h"

#include <limits.h>
#include <pthread.h>

#include "core/base/clock.h"
#include "tests/unit/store_time_cases.h"

/* ---- resources ----------------------------------------------------------------------------------------------------
 */

static void same_content_same_owner_is_one_model(void **state)
{
    struct fixture *f = *state;
    bool existed;
    struct store_resource again = add_model(f, "local", "other-name.onnx", SHA_A, &existed);
    assert_true(existed);
    assert_string_equal(again.id, f->model);
    assert_string_equal(again.name, "m.onnx");
    struct store_resource other = add_model(f, "somebody", "m.onnx", SHA_A, &existed);
    assert_false(existed);
    assert_string_not_equal(other.id, f->model);
    /* external files count, in any order */
    struct store_file one[] = {{"m", SHA_A, 1}, {"x", SHA_B, 2}, {"y", SHA_C, 3}},
                      two[] = {{"n", SHA_A, 1}, {"y", SHA_C, 3}, {"x", SHA_B, 2}};
    struct store_resource in = {.owner = "local", .name = "e", .files = one, .file_count = 3}, a, b;
    assert_int_equal(store_resource_insert(f->store, STORE_MODEL, &in, NULL, f->arena, &a, &existed, &f->err), 0);
    assert_false(existed);
    assert_int_equal(a.bytes, 6);
    assert_int_equal(a.file_count, 3);
    assert_string_equal(a.files[2].name, "y");
    in.files = two;
    assert_int_equal(store_resource_insert(f->store, STORE_MODEL, &in, NULL, f->arena, &b, &existed, &f->err), 0);
    assert_true(existed);
    assert_string_equal(a.id, b.id);
    two[1].name = "z";
    assert_int_equal(store_resource_insert(f->store, STORE_MODEL, &in, NULL, f->arena, &b, &existed, &f->err), 0);
    assert_false(existed);
}

static void owners_do_not_see_each_other(void **state)
{
    struct fixture *f = *state;
    struct store_resource r;
    struct store_job job = add_job(f), seen;
    const char *json;
    struct store_orphans orphans;
    struct err e[6] = {{0}};
    assert_int_equal(store_resource_get(f->store, STORE_MODEL, "else", f->model, f->arena, &r, &e[0]), -1);
    assert_int_equal(store_resource_details(f->store, STORE_MODEL, "else", f->model, "layers", f->arena, &json, &e[1]),
                     -1);
    assert_int_equal(store_resource_delete(f->store, STORE_MODEL, "else", f->model, f->arena, &orphans, &e[2]), -1);
    assert_int_equal(store_job_get(f->store, "else", job.id, f->arena, &seen, &e[3]), -1);
    assert_int_equal(store_job_cancel(f->store, "else", job.id, f->arena, &seen, &e[4]), -1);
    assert_int_equal(store_job_delete(f->store, "else", job.id, f->arena, &orphans, &e[5]), -1);
    for (int i = 0; i < 6; i++)
        assert_int_equal(e[i].code, ERR_NOT_FOUND);
    /* nor can a job read another's model */
    struct store_job_new in = {.owner = "else", .request = "{}", .inputs = {[JOB_ROLE_MODEL] = f->model}};
    struct err err = {0};
    bool replayed;
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &err), -1);
    assert_int_equal(err.code, ERR_REFERENCE);
    assert_non_null(strstr(err.msg, "model"));
}

static void details_and_files(void **state)
{
    struct fixture *f = *state;
    struct store_resource r;
    const char *json;
    assert_int_equal(store_resource_get(f->store, STORE_MODEL, "local", f->model, f->arena, &r, &f->err), 0);
    assert_string_equal(r.facts, "{\"nodes\":3}");
    assert_int_equal(r.file_count, 1);
    assert_string_equal(r.files[0].sha256, SHA_A);
    assert_true(llabs(r.created_at - clock_epoch_ms()) < 5000);
    assert_null(r.parent_job);
    assert_int_equal(
        store_resource_details(f->store, STORE_MODEL, "local", f->model, "graph", f->arena, &json, &f->err), 0);
    assert_string_equal(json, "[2]");
    struct err err = {0};
    assert_int_equal(store_resource_get(f->store, STORE_DATASET, "local", f->model, f->arena, &r, &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void delete_waits_for_jobs_and_names_orphans(void **state)
{
    struct fixture *f = *state;
    struct store_orphans orphans;
    struct store_job job = add_job(f);
    struct err err = {0};
    assert_int_equal(store_resource_delete(f->store, STORE_MODEL, "local", f->model, f->arena, &orphans, &err), -1);
    assert_int_equal(err.code, ERR_IN_USE);
    assert_non_null(strstr(err.msg, job.id));
    assert_int_equal(store_job_cancel(f->store, "local", job.id, f->arena, &job, &f->err), 0);
    struct store_resource other = add_model(f, "somebody", "m", SHA_A, NULL);
    assert_int_equal(store_resource_delete(f->store, STORE_MODEL, "local", f->model, f->arena, &orphans, &f->err), 0);
    assert_int_equal(orphans.count, 0); /* the other owner's model has the same blob */
    assert_int_equal(store_blob_used(f->store, SHA_A, &f->err), 1);
    assert_int_equal(store_resource_delete(f->store, STORE_MODEL, "somebody", other.id, f->arena, &orphans, &f->err),
                     0);
    assert_int_equal(orphans.count, 1);
    assert_string_equal(orphans.sha256[0], SHA_A);
    assert_int_equal(store_blob_used(f->store, SHA_A, &f->err), 0);
}

static void pages_go_through_everything_once(void **state)
{
    struct fixture *f = *state;
    enum { N = 25 };
    char ids[N][ID_SIZE];
    for (int i = 0; i < N; i++)
        snprintf(ids[i], ID_SIZE, "%s", add_job(f).id);
    struct store_job rows[7];
    struct store_page page = {"local", NULL, 7};
    int seen = 0, count;
    bool more = true;
    while (more) {
        assert_int_equal(store_job_list(f->store, &page, -1, f->arena, rows, &count, &more, &f->err), 0);
        for (int i = 0; i < count; i++, seen++)
            assert_string_equal(rows[i].id, ids[N - 1 - seen]); /* newest first */
        if (seen == 7)
            add_job(f); /* a newer row does not disturb a page further on */
        page.after = rows[count - 1].id;
    }
    assert_int_equal(seen, N);
    page = (struct store_page){"local", NULL, 7};
    assert_int_equal(store_job_list(f->store, &page, JOB_RUNNING, f->arena, rows, &count, &more, &f->err), 0);
    assert_int_equal(count, 0);
    claim(f, 10000);
    assert_int_equal(store_job_list(f->store, &page, JOB_RUNNING, f->arena, rows, &count, &more, &f->err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(rows[0].id, ids[0]);
    assert_string_equal(rows[0].inputs[JOB_ROLE_MODEL], f->model);
}

static void recipes(void **state)
{
    struct fixture *f = *state;
    struct store_recipe r, rows[3];
    bool existed, more;
    int count;
    struct err err = {0};
    assert_int_equal(store_recipe_insert(f->store, "local", "mine", "{}", f->arena, &r, &existed, &f->err), 0);
    assert_false(existed);
    assert_int_equal(store_recipe_insert(f->store, "local", "mine", "{}", f->arena, &r, &existed, &f->err), 0);
    assert_true(existed);
    assert_int_equal(store_recipe_insert(f->store, "local", "mine", "[]", f->arena, &r, &existed, &err), -1);
    assert_int_equal(err.code, ERR_WRONG_STATE);
    assert_int_equal(store_recipe_get(f->store, "local", "mine", f->arena, &r, &f->err), 0);
    assert_string_equal(r.body, "{}");
    assert_int_equal(
        store_recipe_list(f->store, &(struct store_page){"local", NULL, 3}, f->arena, rows, &count, &more, &f->err), 0);
    assert_int_equal(count, 1);
    assert_int_equal(store_recipe_delete(f->store, "local", "mine", &f->err), 0);
    err = (struct err){0};
    assert_int_equal(store_recipe_delete(f->store, "local", "mine", &err), -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
    /* each owner has so many, and no more */
    assert_int_equal(STORE_RECIPES_MAX, 1000);
    int_of_sql(f, "INSERT INTO recipe(id,owner,name,body,created_at) WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT"
                  " i+1 FROM n WHERE i<999) SELECT 'rcp_'||i,'local','r'||i,'{}',0 FROM n RETURNING 1");
    assert_int_equal(store_recipe_insert(f->store, "local", "last", "{}", f->arena, &r, &existed, &f->err), 0);
    assert_int_equal(store_recipe_insert(f->store, "local", "more", "{}", f->arena, &r, &existed, &f->err), -1);
    assert_int_equal(f->err.code, ERR_RATE_LIMITED);
    f->err = (struct err){0};
    assert_int_equal(store_recipe_insert(f->store, "local", "r1", "{}", f->arena, &r, &existed, &f->err), 0);
    assert_true(existed);
    assert_int_equal(store_recipe_insert(f->store, "other", "more", "{}", f->arena, &r, &existed, &f->err), 0);
}

/* ---- the queue ----------------------------------------------------------------------------------------------------
 */

static void claims_by_priority_then_age(void **state)
{
    struct fixture *f = *state;
    struct store_job a = add_job(f), b = add_job_with(f, (struct store_job_new){.priority = 5}), c = add_job(f);
    assert_int_equal(get(f, b.id).queue_position, 1);
    assert_int_equal(get(f, a.id).queue_position, 2);
    assert_int_equal(get(f, c.id).queue_position, 3);
    assert_string_equal(claim(f, 1000).id, b.id);
    assert_string_equal(claim(f, 1000).id, a.id);
    struct store_claim last = claim(f, 1000), none;
    assert_string_equal(last.id, c.id);
    assert_int_equal(last.attempt, 1);
    assert_string_equal(last.inputs[JOB_ROLE_MODEL]->files[0].sha256, SHA_A);
    assert_null(last.inputs[JOB_ROLE_DATASET]);
    assert_int_equal(store_job_claim(f->store, "n1:w", 1000, f->arena, &none, &f->err), 0);
    struct store_job running = get(f, c.id);
    assert_int_equal(running.state, JOB_RUNNING);
    assert_int_equal(running.queue_position, 0);
    assert_true(running.started_at >= running.created_at);
    assert_true(running.version > c.version);
}

static void success_publishes_in_one_step(void **state)
{
    struct fixture *f = *state;
    struct store_job job = add_job(f);
    struct store_claim c = claim(f, 10000);
    struct store_artifact made[] = {
        {.name = "model.onnx", .media_type = "application/octet-stream", .sha256 = SHA_B, .bytes = 5},
        {.name = "report.json", .media_type = "application/json", .sha256 = SHA_C, .bytes = 6}};
    struct store_artifact *rows, one;
    int count;
    assert_int_equal(
        settle(f, &c,
               (struct store_outcome){
                   .kind = STORE_SUCCEEDED, .result = "{\"x\":1}", .artifacts = made, .artifact_count = 2}),
        JOB_SUCCEEDED);
    job = get(f, job.id);
    assert_int_equal(job.state, JOB_SUCCEEDED);
    assert_string_equal(job.result, "{\"x\":1}");
    assert_null(job.error);
    assert_true(job.finished_at >= job.started_at);
    assert_int_equal(store_artifact_list(f->store, "local", job.id, f->arena, &rows, &count, &f->err), 0);
    assert_int_equal(count, 2);
    assert_string_equal(rows[0].name, "model.onnx");
    assert_int_equal(store_artifact_by_name(f->store, "local", job.id, "report.json", f->arena, &one, &f->err), 0);
    assert_string_equal(one.sha256, SHA_C);
    assert_int_equal(store_artifact_get(f->store, "local", one.id, f->arena, &one, &f->err), 0);
    assert_int_equal(one.bytes, 6);
    /* a second end of the same attempt is refused and changes nothing */
    enum job_state s;
    struct store_outcome failed = {.kind = STORE_FAILED, .error = "{}"};
    assert_int_equal(store_job_settle(f->store, c.id, c.attempt, &failed, &s, &f->err), 0);
    assert_int_equal(get(f, job.id).state, JOB_SUCCEEDED);
    struct store_orphans orphans;
    assert_int_equal(store_job_delete(f->store, "local", job.id, f->arena, &orphans, &f->err), 0);
    assert_int_equal(orphans.count, 2);
    struct err err = {0};
    assert_int_equal(store_artifact_get(f->store, "local", one.id, f->arena, &one, &err), -1);
}

/* A worker whose lease ended writes nothing, whatever it tries. */
static void the_fence_holds(void **state)
{
    struct fixture *f = *state;
    struct store_job job = add_job(f);
    struct store_claim zombie = claim(f, 1);
    move_clock(f, 20);
    assert_int_equal(reap(f, NULL), 1);
    job = get(f, job.id);
    assert_int_equal(job.state, JOB_QUEUED);
    assert_int_equal(job.losses, 1);
    assert_int_equal(job.crashes, 0);
    struct store_progress p = {.step = 9, .stage = "zombie"};
    struct store_artifact made = {.name = "model.onnx", .media_type = "a/b", .sha256 = SHA_B, .bytes = 5};
    struct store_outcome success = {.kind = STORE_SUCCEEDED, .result = "{}", .artifacts = &made, .artifact_count = 1};
    enum job_state s;
    for (int again = 0; again < 2; again++) { /* while queued, and while another attempt runs */
        int64_t version = get(f, job.id).version;
        assert_int_equal(store_job_beat(f->store, zombie.id, zombie.attempt, 1000, &f->err), STORE_BEAT_LOST);
        assert_int_equal(store_job_progress(f->store, zombie.id, zombie.attempt, &p, &f->err), 0);
        assert_int_equal(store_event_append(f->store, zombie.id, zombie.attempt, "log", "{}", &f->err), 0);
        assert_int_equal(store_job_settle(f->store, zombie.id, zombie.attempt, &success, &s, &f->err), 0);
        assert_int_equal(get(f, job.id).version, version);
        if (!again) {
            assert_true(nothing_to_claim(f)); /* the back-off of about two seconds */
            move_clock(f, 2300);
            assert_int_equal(claim(f, 10000).attempt, 2);
        }
    }
    assert_int_equal(store_blob_used(f->store, SHA_B, &f->err), 0);
    assert_string_equal(get(f, job.id).progress.stage, "");
}

static void beats_keep_the_lease(void **state)
{
    struct fixture *f = *state;
    add_job(f);
    struct store_claim c = claim(f, 60000);
    for (int i = 0; i < 5; i++) {
        assert_int_equal(store_job_beat(f->store, c.id, c.attempt, 60000, &f->err), STORE_BEAT_OK);
        move_clock(f, 500);
        assert_int_equal(reap(f, NULL), 0);
    }
    assert_int_equal(reap(f, "n"), 0);  /* "n1" is another node */
    assert_int_equal(reap(f, "n1"), 1); /* at boot, lease or not */
    assert_string_equal(claim(f, 1000).id, c.id); /* and at once */
}

static void cancel_in_every_state(void **state)
{
    struct fixture *f = *state;
    struct store_job a = add_job(f), b = add_job(f), out;
    struct err err = {0};
    int cancels = f->changes[STORE_CHANGE_CANCEL];
    struct store_claim c = claim(f, 10000);
    assert_string_equal(c.id, a.id);
    assert_int_equal(store_job_cancel(f->store, "local", b.id, f->arena, &out, &f->err), 0);
    assert_int_equal(out.state, JOB_CANCELED);
    assert_int_equal(f->changes[STORE_CHANGE_CANCEL], cancels);
    assert_int_equal(store_job_cancel(f->store, "local", a.id, f->arena, &out, &f->err), 0);
    assert_int_equal(out.state, JOB_RUNNING);
    assert_true(out.cancel_requested_at > 0);
    assert_int_equal(f->changes[STORE_CHANGE_CANCEL], cancels + 1);
    assert_int_equal(store_job_beat(f->store, c.id, c.attempt, 1000, &f->err), STORE_BEAT_CANCEL);
    assert_int_equal(settle(f, &c, (struct store_outcome){.kind = STORE_CANCELED}), JOB_CANCELED);
    assert_int_equal(store_job_cancel(f->store, "local", a.id, f->arena, &out, &err), -1);
    assert_int_equal(err.code, ERR_WRONG_STATE);
}

/* Every way an attempt ends, and what becomes of the job. */
static void outcomes(void **state)
{
    struct fixture *f = *state;
    static const struct {
        enum store_outcome_kind kind;
        bool cancel;
        enum job_state state;
        int64_t crashes, losses;
    } cases[] = {
        {STORE_SUCCEEDED, false, JOB_SUCCEEDED, 0, 0}, {STORE_SUCCEEDED, true, JOB_SUCCEEDED, 0, 0},
        {STORE_FAILED, false, JOB_FAILED, 0, 0},       {STORE_FAILED, true, JOB_FAILED, 0, 0},
        {STORE_CANCELED, true, JOB_CANCELED, 0, 0},    {STORE_CRASHED, false, JOB_QUEUED, 1, 0},
        {STORE_CRASHED, true, JOB_CANCELED, 1, 0},     {STORE_RETRY, false, JOB_QUEUED, 0, 1},
        {STORE_RETRY, true, JOB_CANCELED, 0, 1},       {STORE_RELEASED, false, JOB_QUEUED, 0, 0},
        {STORE_RELEASED, true, JOB_CANCELED, 0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_job job = add_job_with(f, (struct store_job_new){.priority = (int64_t)i + 1});
        struct store_claim c = claim(f, 10000);
        assert_string_equal(c.id, job.id);
        if (cases[i].cancel)
            assert_int_equal(store_job_cancel(f->store, "local", job.id, f->arena, &job, &f->err), 0);
        struct store_outcome outcome = {.kind = cases[i].kind, .result = "{\"r\":1}", .error = "{\"code\":\"x\"}"};
        assert_int_equal(settle(f, &c, outcome), cases[i].state);
        job = get(f, job.id);
        assert_int_equal(job.state, cases[i].state);
        assert_int_equal(job.crashes, cases[i].crashes);
        assert_int_equal(job.losses, cases[i].losses);
        assert_int_equal(job.result != NULL, job.state == JOB_SUCCEEDED);
        assert_int_equal(job.error != NULL, job.state == JOB_FAILED);
        assert_int_equal(job.finished_at != 0, job_state_ended(job.state));
        if (job.state == JOB_QUEUED)
            assert_int_equal(store_job_cancel(f->store, "local", job.id, f->arena, &job, &f->err), 0);
    }
}

static void limits_end_a_job_that_never_ends(void **state)
{
    struct fixture *f = *state;
    struct store_job job = add_job(f);
    struct store_claim c = claim(f, 10000);
    struct store_outcome crash = {.kind = STORE_CRASHED, .error = "{\"code\":\"crashed\"}"};
    assert_int_equal(settle(f, &c, crash), JOB_QUEUED);
    assert_true(nothing_to_claim(f));
    move_clock(f, 2300);
    c = claim(f, 10000);
    assert_int_equal(settle(f, &c, crash), JOB_FAILED);
    assert_string_equal(get(f, job.id).error, "{\"code\":\"crashed\"}");
    /* restarts: many are survived, not endlessly many */
    job = add_job(f);
    for (int i = 0; i < JOB_LOSS_LIMIT; i++) {
        assert_int_equal(get(f, job.id).state, JOB_QUEUED);
        claim(f, 10000);
        assert_int_equal(reap(f, "n1"), 1);
    }
    job = get(f, job.id);
    assert_int_equal(job.state, JOB_FAILED);
    assert_int_equal(job.losses, JOB_LOSS_LIMIT);
    assert_non_null(strstr(job.error, "lost\""));
}

static void released_jobs_keep_their_place(void **state)
{
    struct fixture *f = *state;
    struct store_job first = add_job(f);
    add_job(f);
    struct store_claim c = claim(f, 10000);
    settle(f, &c, (struct store_outcome){.kind = STORE_RELEASED});
    assert_int_equal(get(f, first.id).queue_position, 1);
    struct store_claim again = claim(f, 10000);
    assert_string_equal(again.id, first.id);
    assert_int_equal(again.attempt, 2);
}

static void idempotency_keys(void **state)
{
    struct fixture *f = *state;
    struct store_job_new in = {.owner = "local",
                               .request = "{}",
                               .inputs = {[JOB_ROLE_MODEL] = f->model},
                               .idempotency_key = "k1",
                               .request_sha256 = SHA_A,
                               .idempotency_ttl_s = 100};
    struct store_job one, two, three;
    bool replayed;
    struct err err = {0};
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &one, &replayed, &f->err), 0);
    assert_false(replayed);
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &two, &replayed, &f->err), 0);
    assert_true(replayed);
    assert_string_equal(one.id, two.id);
    in.request_sha256 = SHA_B;
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &three, &replayed, &err), -1);
    assert_int_equal(err.code, ERR_INVALID);
    /* another owner's key is another key; an expired one is none */
    add_model(f, "else", "m", SHA_A, NULL);
    in.idempotency_key = "k2";
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &one, &replayed, &f->err), 0);
    move_clock(f, 101000);
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &two, &replayed, &f->err), 0);
    assert_false(replayed);
    assert_string_not_equal(one.id, two.id);
    assert_int_equal(store_maintain(f->store, &f->err), 0);
}

static void full_queue_refuses(void **state)
{
    struct fixture *f = *state;
    struct store_job_new in = {
        .owner = "local", .request = "{}", .inputs = {[JOB_ROLE_MODEL] = f->model}, .max_queued = 2};
    struct store_job job;
    bool replayed;
    struct err err = {0};
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &f->err), 0);
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &f->err), 0);
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &err), -1);
    assert_int_equal(err.code, ERR_UNAVAILABLE);
}

static void progress_and_events(void **state)
{
    struct fixture *f = *state;
    struct store_job job = add_job(f);
    struct store_claim c = claim(f, 10000);
    int64_t before = get(f, job.id).version, version;
    struct store_progress p = {2, 4, 37, 128, "calibrate", 12.5, 0};
    enum job_state s;
    assert_int_equal(store_job_progress(f->store, c.id, c.attempt, &p, &f->err), 1);
    assert_int_equal(store_event_append(f->store, c.id, c.attempt, "log", "{\"m\":1}", &f->err), 1);
    job = get(f, job.id);
    assert_int_equal(job.progress.step, 2);
    assert_int_equal(job.progress.steps, 4);
    assert_int_equal(job.progress.done, 37);
    assert_int_equal(job.progress.total, 128);
    assert_string_equal(job.progress.stage, "calibrate");
    assert_float_equal(job.progress.eta_s, 12.5, 0);
    assert_true(job.version > before);
    assert_int_equal(store_job_version(f->store, "local", job.id, &version, &s, &f->err), 0);
    assert_int_equal(version, job.version);
    settle(f, &c, (struct store_outcome){.kind = STORE_SUCCEEDED, .result = "{}"});
    struct store_event rows[10];
    int count;
    assert_int_equal(store_event_list(f->store, "local", job.id, NULL, 0, 10, f->arena, rows, &count, &f->err), 0);
    assert_int_equal(count, 4);
    static const char *const data[] = {"{\"state\":\"queued\"}", "{\"state\":\"running\"}", "{\"m\":1}",
                                       "{\"state\":\"succeeded\"}"};
    for (int i = 0; i < 4; i++) {
        assert_int_equal(rows[i].seq, i + 1);
        assert_string_equal(rows[i].data, data[i]);
    }
    assert_int_equal(store_event_list(f->store, "local", job.id, NULL, 2, 1, f->arena, rows, &count, &f->err), 0);
    assert_int_equal(count, 1);
    assert_int_equal(rows[0].seq, 3);
}

static void everything_survives_closing(void **state)
{
    struct fixture *f = *state;
    struct store_job job = add_job(f);
    struct store_counts counts;
    store_close(f->store);
    f->store = open_store(f);
    assert_non_null(f->store);
    assert_int_equal(get(f, job.id).state, JOB_QUEUED);
    assert_int_equal(store_ping(f->store, &f->err), 0);
    assert_int_equal(store_job_active(f->store, job.id, &f->err), 1);
    assert_int_equal(store_job_active(f->store, "job_x", &f->err), 0);
    assert_int_equal(store_count(f->store, &counts, &f->err), 0);
    assert_int_equal(counts.jobs[JOB_QUEUED], 1);
    assert_int_equal(counts.models, 1);
}

/* ---- all at once --------------------------------------------------------------------------------------------------
 */

enum { CHAOS_JOBS = 150, CHAOS_WORKERS = 8 };
static atomic_int done_once, fenced_off, stop_chaos;
static int chaos_lease_ms;

/* Claims; one time in ten it forgets the job (a crash), one in ten it sleeps beyond its lease (a zombie). Not after a job's
 * third attempt: each loss doubles the wait before the next, and an unlucky job would outlast the test. */
static void *chaotic_worker(void *arg)
{
    struct fixture *f = arg;
    unsigned seed = (unsigned)(uintptr_t)pthread_self();
    while (!stop_chaos) {
        struct err err = {0};
        struct store_claim c;
        struct arena *arena = arena_new();
        int rc = store_job_claim(f->store, "n1:w", chaos_lease_ms, arena, &c, &err);
        if (rc < 0)
            abort();
        int dice = rand_r(&seed) % 10;
        if (rc > 0 && c.attempt > 3)
            dice = 9;
        if (rc == 0)
            usleep(2000);
        if (rc > 0 && dice != 0) {
            if (dice == 1)
                usleep(2 * (useconds_t)chaos_lease_ms * 1000);
            char name[ID_SIZE + 20];
            snprintf(name, sizeof name, "%s-%lld", c.id, (long long)c.attempt);
            struct store_artifact made = {.name = "a", .media_type = name, .sha256 = SHA_B, .bytes = 1};
            struct store_outcome success = {
                .kind = STORE_SUCCEEDED, .result = "{}", .artifacts = &made, .artifact_count = 1};
            enum job_state s;
            rc = store_job_settle(f->store, c.id, c.attempt, &success, &s, &err);
            if (rc < 0)
                abort();
            atomic_fetch_add(rc ? &done_once : &fenced_off, 1);
        }
        arena_free(arena);
    }
    return NULL;
}

static void *reaper(void *arg)
{
    struct fixture *f = arg;
    while (!stop_chaos) {
        struct err err = {0};
        int n;
        if (store_job_reap(f->store, NULL, &n, &err))
            abort();
        usleep(30000);
    }
    return NULL;
}

static void chaos_ends_every_job_once(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[CHAOS_WORKERS + 1];
    const double begun = clock_seconds();
    for (int i = 0; i < CHAOS_JOBS; i++)
        add_job(f);
    /* A lease that honest workers keep on a slow disk too: the time of 75 writes. */
    chaos_lease_ms = 150 + (int)(500 * (clock_seconds() - begun));
    for (int i = 0; i < CHAOS_WORKERS; i++)
        pthread_create(&threads[i], NULL, chaotic_worker, f);
    pthread_create(&threads[CHAOS_WORKERS], NULL, reaper, f);
    struct store_counts counts = {0};
    double deadline = clock_seconds() + 120;
    do {
        usleep(100000);
        assert_int_equal(store_count(f->store, &counts, &f->err), 0);
    } while (counts.jobs[JOB_SUCCEEDED] + counts.jobs[JOB_FAILED] < CHAOS_JOBS && clock_seconds() < deadline);
    stop_chaos = 1;
    for (int i = 0; i <= CHAOS_WORKERS; i++)
        pthread_join(threads[i], NULL);
    /* Chance may lose one job JOB_LOSS_LIMIT times, which fails it: an end as well. */
    assert_int_equal(counts.jobs[JOB_SUCCEEDED] + counts.jobs[JOB_FAILED], CHAOS_JOBS);
    assert_true(counts.jobs[JOB_FAILED] <= CHAOS_JOBS / 10);
    assert_int_equal(done_once, counts.jobs[JOB_SUCCEEDED]);
    assert_int_equal(counts.artifacts, counts.jobs[JOB_SUCCEEDED]);
    assert_true(fenced_off > 0);
    print_message("%d jobs ended once, %d late ends refused\n", done_once, fenced_off);
}

/* One key from many clients at once makes one job. */
static void *submitter(void *arg)
{
    struct fixture *f = arg;
    struct store_job_new in = {.owner = "local",
                               .request = "{}",
                               .inputs = {[JOB_ROLE_MODEL] = f->model},
                               .idempotency_key = "together",
                               .request_sha256 = SHA_A,
                               .idempotency_ttl_s = 100};
    for (int i = 0; i < 20; i++) {
        struct err err = {0};
        struct store_job job;
        bool replayed;
        struct arena *arena = arena_new();
        if (store_job_insert(f->store, &in, arena, &job, &replayed, &err))
            abort();
        arena_free(arena);
    }
    return NULL;
}

static void one_key_makes_one_job(void **state)
{
    struct fixture *f = *state;
    pthread_t threads[8];
    for (int i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, submitter, f);
    for (int i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(int_of_sql(f, "SELECT count(*) FROM job"), 1);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    int failed = 0;
    const struct CMUnitTest tests[] = {
        TEST(same_content_same_owner_is_one_model),
        TEST(owners_do_not_see_each_other),
        TEST(details_and_files),
        TEST(delete_waits_for_jobs_and_names_orphans),
        TEST(pages_go_through_everything_once),
        TEST(recipes),
        TEST(claims_by_priority_then_age),
        TEST(success_publishes_in_one_step),
        TEST(the_fence_holds),
        TEST(beats_keep_the_lease),
        TEST(cancel_in_every_state),
        TEST(outcomes),
        TEST(limits_end_a_job_that_never_ends),
        TEST(released_jobs_keep_their_place),
        TEST(idempotency_keys),
        TEST(full_queue_refuses),
        TEST(progress_and_events),
        TEST(everything_survives_closing),
        cmocka_unit_test_setup_teardown(an_old_catalogue_is_upgraded, setup_empty, teardown),
        TEST(a_newer_catalogue_is_refused),
        TEST(a_clock_that_jumps_forward_takes_no_lease),
        TEST(a_clock_that_jumps_back_makes_nothing_wait),
        TEST(old_jobs_and_artifacts_go),
        TEST(retention_goes_page_by_page),
        TEST(a_failed_call_can_be_repeated),
        TEST(one_key_makes_one_job),
        TEST(chaos_ends_every_job_once),
    };
    for (driver_case = driver_cases; driver_case < driver_cases + DRIVERS; driver_case++)
        failed += cmocka_run_group_tests_name(driver_case->driver->name, tests, NULL, NULL);
    return failed;
}
