/* SPDX-License-Identifier: Apache-2.0
 * Lists of jobs against a naive twin: every filter and page size over jobs that the test keeps a table of; indexes that
 * carry the walks; labels, reuse and retries in the store. */
#include "tests/unit/store_fixture.h"

#include <sqlite3.h>

#include "core/base/clock.h"

enum { N = 60 };

struct known {
    char id[ID_SIZE];
    enum job_state state;
    const char *model, *name, *team, *stage;
    int64_t priority, created_at;
};

/* What the list must hold: plain conditions over the table, newest first. */
static bool twin_takes(const struct known *k, const struct store_page *page, const struct store_job_filter *filter)
{
    if (filter->states && !(filter->states & 1u << k->state))
        return false;
    if ((filter->model && strcmp(filter->model, k->model)) || (page->name && (!k->name || strcmp(page->name, k->name))))
        return false;
    if (filter->priority && *filter->priority != k->priority)
        return false;
    for (int i = 0; i < filter->label_count; i++) {
        const char *value = !strcmp(filter->labels[i].key, "team") ? k->team : k->stage;
        if (!value || strcmp(value, filter->labels[i].value))
            return false;
    }
    return (!page->created_from || k->created_at >= page->created_from) &&
           (!page->created_before || k->created_at < page->created_before);
}

static void compare(struct fixture *f, const struct known *all, struct store_page page,
                    const struct store_job_filter *filter, int limit)
{
    struct store_job rows[N];
    int at = N - 1, count;
    bool more = true;
    page.owner = "local";
    page.limit = limit;
    page.after = NULL;
    while (more) {
        if (store_job_search(f->store, &page, filter, f->arena, rows, &count, &more, &f->err))
            fail_msg("%s", f->err.msg);
        for (int i = 0; i < count; i++, at--) {
            while (at >= 0 && !twin_takes(&all[at], &page, filter))
                at--;
            assert_true(at >= 0);
            assert_string_equal(rows[i].id, all[at].id);
            assert_int_equal(rows[i].state, all[at].state);
            assert_string_equal(rows[i].inputs[JOB_ROLE_MODEL], all[at].model);
        }
        if (more)
            assert_int_equal(count, limit);
        page.after = count ? rows[count - 1].id : NULL;
    }
    while (at >= 0 && !twin_takes(&all[at], &page, filter))
        at--;
    assert_int_equal(at, -1);
}

static void fill(struct fixture *f, struct known all[N], const char *models[2])
{
    static const char *const teams[] = {"vision", "speech", NULL}, *const names[] = {"nightly", NULL, "once", NULL};
    static const char *const states[] = {"queued", "running", "succeeded", "failed", "canceled"};
    for (int i = 0; i < N; i++) {
        struct known *k = &all[i];
        struct store_label labels[2];
        int count = 0;
        char sql[300];
        k->model = models[i % 2];
        k->team = teams[i % 3];
        k->stage = i % 5 < 2 ? "ci" : NULL;
        k->name = names[i % 4];
        k->priority = i % 7 - 3;
        k->state = (enum job_state)(i * 7 % JOB_STATE_COUNT);
        k->created_at = clock_epoch_ms() - 1000 * (N - i);
        if (k->team)
            labels[count++] = (struct store_label){"team", k->team};
        if (k->stage)
            labels[count++] = (struct store_label){"stage", k->stage};
        struct store_job job = add_job_with(f, (struct store_job_new){.inputs = {[JOB_ROLE_MODEL] = k->model},
                                                                      .name = k->name,
                                                                      .priority = k->priority,
                                                                      .labels = labels,
                                                                      .label_count = count});
        snprintf(k->id, sizeof k->id, "%s", job.id);
        snprintf(sql, sizeof sql,
                 "UPDATE job SET state='%.20s',lease_until=%s,finished_at=%s,created_at=%lld WHERE id='%.40s'",
                 states[k->state], k->state == JOB_RUNNING ? "1" : "NULL", k->state >= JOB_SUCCEEDED ? "1" : "NULL",
                 (long long)k->created_at, k->id);
        run_sql(f, sql);
    }
}

static void filters_are_those_of_the_twin(void **state)
{
    struct fixture *f = *state;
    struct known all[N];
    char other[ID_SIZE];
    const struct store_resource second = add_model(f, "local", "n.onnx", SHA_B, NULL);
    snprintf(other, sizeof other, "%s", second.id);
    const char *models[2] = {f->model, other};
    fill(f, all, models);
    static const unsigned masks[] = {0, 1, 1u << JOB_RUNNING, 1u << JOB_QUEUED | 1u << JOB_FAILED, 31};
    static const struct store_label labels[] = {{"team", "vision"}, {"stage", "ci"}, {"team", "nobody"}};
    static const int64_t priorities[] = {0, -3, 9};
    static const struct {
        int first, count;
    } label_cases[] = {{0, 0}, {0, 1}, {1, 1}, {0, 2}, {2, 1}};
    int tried = 0;
    for (size_t m = 0; m < sizeof masks / sizeof masks[0]; m++)
        for (int model = 0; model < 3; model++)
            for (size_t l = 0; l < sizeof label_cases / sizeof label_cases[0]; l++)
                for (int rest = 0; rest < 8; rest++) {
                    struct store_page page = {.name = rest & 1 ? "nightly" : NULL,
                                              .created_from = rest & 2 ? all[N / 4].created_at : 0,
                                              .created_before = rest & 4 ? all[3 * N / 4].created_at : 0};
                    struct store_job_filter filter = {.states = masks[m],
                                                      .model = model ? models[model - 1] : NULL,
                                                      .labels = labels + label_cases[l].first,
                                                      .label_count = label_cases[l].count,
                                                      .priority = rest == 5 ? &priorities[m % 3] : NULL};
                    compare(f, all, page, &filter, 1 + tried++ % 9);
                }
    assert_int_equal(tried, 600);
}

static void other_owners_see_nothing(void **state)
{
    struct fixture *f = *state;
    struct store_label label = {"team", "vision"};
    add_job_with(f, (struct store_job_new){.labels = &label, .label_count = 1, .name = "nightly"});
    struct store_job rows[5];
    int count;
    bool more;
    const struct store_page page = {.owner = "mallory", .limit = 5},
                            named = {.owner = "mallory", .limit = 5, .name = "nightly"};
    const struct store_job_filter filters[] = {
        {0}, {.model = f->model}, {.labels = &label, .label_count = 1}, {.states = 1}};
    for (size_t i = 0; i < sizeof filters / sizeof filters[0]; i++) {
        assert_int_equal(store_job_search(f->store, &page, &filters[i], f->arena, rows, &count, &more, &f->err), 0);
        assert_int_equal(count, 0);
        assert_int_equal(store_job_search(f->store, &named, &filters[i], f->arena, rows, &count, &more, &f->err), 0);
        assert_int_equal(count, 0);
    }
}

static void labels_go_with_their_job(void **state)
{
    struct fixture *f = *state;
    const struct store_label labels[] = {{"team", "vision"}, {"note", "a,b=c \xf0\x9f\x98\x80"}};
    struct store_job job = add_job_with(f, (struct store_job_new){.labels = labels, .label_count = 2});
    assert_int_equal(int_of_sql(f, "SELECT count(*) FROM job_label"), 2);
    struct store_job out;
    struct store_orphans orphans;
    assert_int_equal(store_job_cancel(f->store, "local", job.id, f->arena, &out, &f->err), 0);
    assert_int_equal(store_job_delete(f->store, "local", job.id, f->arena, &orphans, &f->err), 0);
    assert_int_equal(int_of_sql(f, "SELECT count(*) FROM job_label"), 0);
}

/* ---- what a page costs --------------------------------------------------------------------------------------------
 */

static atomic_llong steps; /* of SQLite's machine, which do not depend on what else the computer does */

static void counting_reset(struct sql_stmt *stmt)
{
    steps += sqlite3_stmt_status((sqlite3_stmt *)stmt, SQLITE_STMTSTATUS_VM_STEP, 1);
    sql_sqlite.reset(stmt);
}

/* Many ended jobs and few waiting ones; labels, names, models, priorities that most have, some have, hardly any has. */
static void fill_many(struct fixture *f, int jobs)
{
    char sql[3000];
    snprintf(
        sql, sizeof sql,
        "BEGIN; WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i+1<%d)"
        " INSERT INTO "
        "job(id,owner,state,priority,run_at,timeout_s,memory_bytes,threads,request,name,retry_of,created_at,finished_"
        "at)"
        " SELECT printf('job_01h%%023d',i),'local',CASE i%%10 WHEN 0 THEN 'failed' ELSE 'succeeded' END,"
        " CASE WHEN i%%4000=7 THEN 9 ELSE 0 END,1000+i,0,0,0,'{}',CASE WHEN i%%2 THEN 'nightly' END,"
        " CASE WHEN i%%5000=8 THEN 'job_x' END,1000+i,2000 FROM n;"
        "INSERT INTO job_progress(job_id,owner,step,steps,stage,done,total,eta_s,version,updated_at)"
        " SELECT id,owner,1,1,'',1,1,0,5,1 FROM job WHERE id<'job_01i';"
        "INSERT INTO job_input SELECT id,'model',owner,CASE WHEN run_at%%4000=1009 THEN 'mdl_rare' ELSE '%s' END FROM "
        "job"
        " WHERE id<'job_01i';"
        "INSERT INTO job_label SELECT owner,'team','vision',id FROM job WHERE id<'job_01i' AND run_at%%3>0;"
        "INSERT INTO job_label SELECT owner,'stage','old',id FROM job WHERE run_at<3000;"
        "INSERT INTO job_label SELECT owner,'rare','yes',id FROM job WHERE id<'job_01i' AND run_at%%4000=1003; COMMIT",
        jobs, f->model);
    run_sql(f, sql);
}

static long long cost(struct fixture *f, const struct store_page *page, const struct store_job_filter *filter,
                      int *count)
{
    struct store_job rows[20];
    bool more;
    steps = 0;
    assert_int_equal(store_job_search(f->store, page, filter, f->arena, rows, count, &more, &f->err), 0);
    return steps;
}

static void a_page_costs_what_it_shows(void **state)
{
    enum { JOBS = 20000, MOST = 60000 };
    struct fixture *f = *state;
    static const struct store_label team = {"team", "vision"}, old = {"stage", "old"}, nobody = {"team", "nobody"},
                                    rare[] = {{"team", "vision"}, {"rare", "yes"}};
    static const int64_t nine = 9, one = 1;
    const unsigned failed = 1u << JOB_FAILED, canceled = 1u << JOB_CANCELED, queued = 1u << JOB_QUEUED;
    const char *middle = "job_01h00000000000000000010000", *common = f->model;
    const struct {
        const char *what;
        int count;
        struct store_page page;
        struct store_job_filter filter;
    } cases[] = {
        {"all", 20, {0}, {0}},
        {"from the middle", 20, {.after = middle}, {0}},
        {"one state", 20, {0}, {.states = failed}},
        {"states that none has", 0, {0}, {.states = canceled | queued}},
        {"a label of many", 20, {0}, {.labels = &team, .label_count = 1}},
        {"a label of old ones", 20, {0}, {.labels = &old, .label_count = 1}},
        {"a label of few, second", 4, {0}, {.labels = rare, .label_count = 2}},
        {"a label of few, with model and state",
         0,
         {0},
         {.labels = rare, .label_count = 2, .model = common, .states = failed}},
        {"a label that none has, with a model", 0, {0}, {.labels = &nobody, .label_count = 1, .model = common}},
        {"a rare model", 5, {0}, {.model = "mdl_rare", .labels = &team, .label_count = 0}},
        {"a rare model with a label", 4, {0}, {.model = "mdl_rare", .labels = &team, .label_count = 1}},
        {"a name, a state that none has", 0, {.name = "nightly"}, {.states = canceled}},
        {"a rare priority", 5, {0}, {.priority = &nine}},
        {"a priority that none has", 0, {0}, {.priority = &one}},
        {"retries", 4, {0}, {.retry_of = "job_x"}},
        {"a time long gone", 0, {.created_from = 1, .created_before = 2}, {0}},
    };
    int count, bad = 0;
    store_close(f->store);
    f->driver.reset = counting_reset;
    f->store = open_store(f);
    fill_many(f, JOBS);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_page page = cases[i].page;
        page.owner = "local";
        page.limit = 20;
        long long spent = cost(f, &page, &cases[i].filter, &count);
        if (spent > MOST || count != cases[i].count) {
            print_error("%s: %lld steps, %d rows instead of %d\n", cases[i].what, spent, count, cases[i].count);
            bad++;
        }
    }
    assert_int_equal(bad, 0);
}

/* A job is submitted, claimed and settled, and the catalogue counted, at the cost of an empty one. */
static void the_queue_costs_the_same_beside_many_jobs(void **state)
{
    struct fixture *f = *state;
    long long spent[2][4];
    store_close(f->store);
    f->driver.reset = counting_reset;
    f->store = open_store(f);
    for (int full = 0; full < 2; full++) {
        struct store_counts counts;
        if (full)
            fill_many(f, 20000);
        steps = 0;
        add_job_with(f, (struct store_job_new){.max_queued = 10, .max_active = 10, .max_bytes = 1000});
        spent[full][0] = steps;
        struct store_claim c = claim(f, 1000);
        spent[full][1] = steps;
        settle(f, &c, (struct store_outcome){.kind = STORE_FAILED, .error = "{}"});
        spent[full][2] = steps;
        assert_int_equal(store_count(f->store, &counts, &f->err), 0);
        spent[full][3] = steps;
        assert_int_equal(counts.jobs[JOB_FAILED], full ? 2002 : 1);
    }
    for (int i = 0; i < 4; i++)
        if (spent[1][i] > spent[0][i] * 3 / 2)
            fail_msg("call %d: %lld steps beside 20,000 jobs, %lld without", i, spent[1][i], spent[0][i]);
}

/* ---- reuse */

static struct store_job add_plan(struct fixture *f, const char *plan, bool reuse)
{
    return add_job_with(f, (struct store_job_new){.plan = plan, .reuse = reuse});
}

static void finish(struct fixture *f, enum store_outcome_kind kind, bool artifact)
{
    static const struct store_artifact made = {
        .name = "model.onnx", .media_type = "application/octet-stream", .sha256 = SHA_C, .bytes = 3};
    struct store_claim c = claim(f, 60000);
    settle(f, &c,
           (struct store_outcome){
               .kind = kind, .result = "{}", .error = "{}", .artifacts = &made, .artifact_count = artifact});
}

static void results_are_reused(void **state)
{
    struct fixture *f = *state;
    struct store_job old = add_plan(f, "v1 recipe", false);
    assert_false(add_plan(f, "v1 recipe", true).reused); /* the first has not ended */
    finish(f, STORE_SUCCEEDED, true);
    finish(f, STORE_FAILED, false);
    struct store_job again = add_plan(f, "v1 recipe", true);
    assert_true(again.reused);
    assert_string_equal(again.id, old.id);
    assert_int_equal(again.state, JOB_SUCCEEDED);
    assert_false(add_plan(f, "v1 recipe", false).reused);
    assert_false(add_plan(f, "v2 recipe", true).reused);
    assert_false(add_plan(f, NULL, true).reused);
    const struct store_resource other = add_model(f, "local", "n.onnx", SHA_B, NULL);
    assert_false(
        add_job_with(
            f, (struct store_job_new){.plan = "v1 recipe", .reuse = true, .inputs = {[JOB_ROLE_MODEL] = other.id}})
            .reused);
    assert_false(
        add_job_with(
            f, (struct store_job_new){.plan = "v1 recipe", .reuse = true, .inputs = {[JOB_ROLE_TEACHER] = f->model}})
            .reused);
    const struct store_resource theirs = add_model(f, "mallory", "m.onnx", SHA_A, NULL);
    assert_false(add_job_with(f, (struct store_job_new){.owner = "mallory",
                                                        .plan = "v1 recipe",
                                                        .reuse = true,
                                                        .inputs = {[JOB_ROLE_MODEL] = theirs.id}})
                     .reused);
    run_sql(f, "DELETE FROM artifact");
    assert_false(add_plan(f, "v1 recipe", true).reused); /* its files are gone */
}

static void reuse_is_of_contents(void **state)
{
    struct fixture *f = *state;
    struct store_job old = add_plan(f, "p", false);
    finish(f, STORE_SUCCEEDED, true);
    struct store_orphans orphans;
    assert_int_equal(store_resource_delete(f->store, STORE_MODEL, "local", f->model, f->arena, &orphans, &f->err), 0);
    const struct store_resource same = add_model(f, "local", "renamed.onnx", SHA_A, NULL);
    assert_string_not_equal(same.id, f->model);
    struct store_job job =
        add_job_with(f, (struct store_job_new){.plan = "p", .reuse = true, .inputs = {[JOB_ROLE_MODEL] = same.id}});
    assert_true(job.reused);
    assert_string_equal(job.id, old.id);
}

static void reuse_with_a_key(void **state)
{
    struct fixture *f = *state;
    struct store_job old = add_plan(f, "p", false), job;
    finish(f, STORE_SUCCEEDED, true);
    bool replayed;
    struct store_job_new in = {.owner = "local",
                               .request = "{}",
                               .inputs = {f->model},
                               .plan = "p",
                               .reuse = true,
                               .idempotency_key = "k",
                               .request_sha256 = SHA_A,
                               .idempotency_ttl_s = 60};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &f->err), 0);
        assert_string_equal(job.id, old.id);
        assert_true(job.reused);
        assert_int_equal(replayed, i == 1);
    }
    in.request_sha256 = SHA_B;
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &f->err), -1);
    assert_int_equal(f->err.code, ERR_INVALID);
}

static void retries_name_the_first(void **state)
{
    struct fixture *f = *state;
    struct store_job old = add_job(f), again = add_job_with(f, (struct store_job_new){.retry_of = old.id, .name = "n"});
    assert_string_equal(get(f, again.id).retry_of, old.id);
    assert_string_equal(get(f, again.id).name, "n");
    assert_null(get(f, old.id).retry_of);
    struct store_job rows[3];
    int count;
    bool more;
    const struct store_page page = {.owner = "local", .limit = 3};
    const struct store_job_filter filter = {.retry_of = old.id};
    assert_int_equal(store_job_search(f->store, &page, &filter, f->arena, rows, &count, &more, &f->err), 0);
    assert_int_equal(count, 1);
    assert_string_equal(rows[0].id, again.id);
}

static void resources_by_name_and_time(void **state)
{
    struct fixture *f = *state;
    add_model(f, "local", "n.onnx", SHA_B, NULL);
    add_model(f, "local", "n.onnx", SHA_C, NULL);
    struct store_resource rows[5];
    int count;
    bool more;
    struct store_page page = {.owner = "local", .limit = 1, .name = "n.onnx"};
    assert_int_equal(store_resource_list(f->store, STORE_MODEL, &page, f->arena, rows, &count, &more, &f->err), 0);
    assert_true(count == 1 && more);
    assert_string_equal(rows[0].sha256, SHA_C);
    page.after = rows[0].id;
    assert_int_equal(store_resource_list(f->store, STORE_MODEL, &page, f->arena, rows, &count, &more, &f->err), 0);
    assert_true(count == 1 && !more);
    assert_string_equal(rows[0].sha256, SHA_B);
    page = (struct store_page){.owner = "local", .limit = 5, .created_from = rows[0].created_at};
    assert_int_equal(store_resource_list(f->store, STORE_MODEL, &page, f->arena, rows, &count, &more, &f->err), 0);
    assert_true(count >= 2);
    page = (struct store_page){.owner = "local", .limit = 5, .created_before = 1};
    assert_int_equal(store_resource_list(f->store, STORE_MODEL, &page, f->arena, rows, &count, &more, &f->err), 0);
    assert_int_equal(count, 0);
    page = (struct store_page){.owner = "local", .limit = 5, .name = "nothing"};
    assert_int_equal(store_resource_list(f->store, STORE_MODEL, &page, f->arena, rows, &count, &more, &f->err), 0);
    assert_int_equal(count, 0);
}

#define STORE_TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(filters_are_those_of_the_twin),
        STORE_TEST(other_owners_see_nothing),
        STORE_TEST(labels_go_with_their_job),
        STORE_TEST(a_page_costs_what_it_shows),
        STORE_TEST(the_queue_costs_the_same_beside_many_jobs),
        STORE_TEST(results_are_reused),
        STORE_TEST(reuse_is_of_contents),
        STORE_TEST(reuse_with_a_key),
        STORE_TEST(retries_name_the_first),
        STORE_TEST(resources_by_name_and_time),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
