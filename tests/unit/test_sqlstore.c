/* SPDX-License-Identifier: Apache-2.0
 * What is SQLite's own in the catalogue: every statement of the queue and of the lists finds its rows by an index
 * (EXPLAIN QUERY PLAN of all that the store prepares), a copy is taken while others write, a file that is none is
 * refused, and so are folders that cannot be written. What any database must do: test_store_conformance.c. */
#include "tests/unit/store_fixture.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>

/* ---- plans --------------------------------------------------------------------------------------------------------
 */

enum { MAX_SEEN = 300 };
static char *seen[MAX_SEEN]; /* every statement prepared */
static int seen_count;

static struct sql_stmt *recording_prepare(struct sql_conn *conn, const char *sql, struct err *err)
{
    assert_true(seen_count < MAX_SEEN);
    seen[seen_count++] = strdup(sql);
    return sql_sqlite.prepare(conn, sql, err);
}

/* A life with everything in it, so that all statements are prepared. */
static void live(struct fixture *f)
{
    struct store_job_new in = {
        .idempotency_key = "k", .request_sha256 = SHA_A, .idempotency_ttl_s = 100, .max_queued = 1000};
    struct store_job job = add_job_with(f, in), rows[5];
    struct store_counts counts;
    struct store_orphans orphans;
    struct store_artifact *artifacts, one;
    struct store_event events[5];
    int count;
    bool more;
    int64_t version;
    enum job_state s;
    store_set_retention(f->store, &(struct store_retention){1000, 1000});
    get(f, job.id);
    assert_int_equal(store_job_version(f->store, "local", job.id, &version, &s, &f->err), 0);
    struct store_page page = {.owner = "local", .limit = 5};
    for (int state = -1; state < JOB_STATE_COUNT; state++)
        assert_int_equal(store_job_list(f->store, &page, state, f->arena, rows, &count, &more, &f->err), 0);
    reap(f, NULL);
    struct store_claim c = claim(f, 1000);
    struct store_progress p = {.stage = "s"};
    store_job_beat(f->store, c.id, c.attempt, 1000, &f->err);
    store_job_progress(f->store, c.id, c.attempt, &p, &f->err);
    store_event_append(f->store, c.id, c.attempt, "log", "{}", &f->err);
    store_job_metric(f->store, c.id, c.attempt, "{}", &f->err);
    assert_int_equal(store_event_list(f->store, "local", c.id, NULL, 0, 5, f->arena, events, &count, &f->err), 0);
    struct store_artifact made = {.name = "m", .media_type = "a/b", .sha256 = SHA_B, .bytes = 5};
    settle(f, &c,
           (struct store_outcome){.kind = STORE_SUCCEEDED, .result = "{}", .artifacts = &made, .artifact_count = 1});
    assert_int_equal(store_artifact_list(f->store, "local", job.id, f->arena, &artifacts, &count, &f->err), 0);
    assert_int_equal(store_artifact_by_name(f->store, "local", job.id, "m", f->arena, &one, &f->err), 0);
    assert_int_equal(store_blob_used(f->store, SHA_B, &f->err), 1);
    assert_int_equal(store_count(f->store, &counts, &f->err), 0);
    struct store_expired gone;
    assert_int_equal(store_expire(f->store, f->arena, &gone, &f->err), 0);
    move_clock(f, 2000000);
    assert_int_equal(store_expire(f->store, f->arena, &gone, &f->err), 0);
    assert_int_equal(gone.jobs, 1);
    job = add_job(f);
    assert_int_equal(store_job_cancel(f->store, "local", job.id, f->arena, &job, &f->err), 0);
    assert_int_equal(store_job_delete(f->store, "local", job.id, f->arena, &orphans, &f->err), 0);
    assert_int_equal(store_resource_delete(f->store, STORE_MODEL, "local", f->model, f->arena, &orphans, &f->err), 0);
    assert_int_equal(store_maintain(f->store, &f->err), 0);
}

/* Tables that grow with the catalogue; the others stay small. */
static bool grows(const char *detail)
{
    static const char *const tables[] = {"job",       "p",          "job_event",     "job_input",       "job_progress",
                                         "job_label", "artifact",   "resource_file", "resource_detail", "model",
                                         "dataset",   "idempotency"};
    char word[100] = "";
    bool unbounded =
        !strncmp(detail, "SEARCH", 6) && !strchr(detail, '('); /* min() over an index with a condition it cannot see */
    if (sscanf(detail, unbounded ? "SEARCH %99s" : "SCAN %99s", word) != 1)
        return false;
    for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++)
        if (!strcmp(word, tables[i]))
            return true;
    return false;
}

/* Full scans that are meant: of indexes that hold only the few rows that wait or run. */
static bool allowed(const char *detail)
{
    return strstr(detail, "INDEX job_claim") || strstr(detail, "INDEX job_running") ||
           strstr(detail, "INDEX job_queued") || strstr(detail, "INDEX job_waiting");
}

static int explain(struct fixture *f, const char *sql)
{
    char text[8000];
    struct err err = {0};
    int bad = 0;
    snprintf(text, sizeof text, "EXPLAIN QUERY PLAN %s", sql);
    struct sql_stmt *stmt = sql_sqlite.prepare(f->clock, text, &err);
    if (!stmt)
        fail_msg("%s: %s", sql, err.msg);
    while (sql_sqlite.step(stmt, &err) == 1) {
        const char *detail = sql_sqlite.column_text(stmt, 3);
        if (grows(detail) && !allowed(detail)) {
            print_error("%s\n    %s\n", sql, detail);
            bad++;
        }
    }
    sql_sqlite.finalize(stmt);
    return bad;
}

static void no_statement_walks_a_table(void **state)
{
    struct fixture *f = *state;
    int bad = 0;
    store_close(f->store);
    f->driver.prepare = recording_prepare;
    f->store = open_store(f);
    live(f);
    assert_true(seen_count > 40);
    for (int i = 0; i < seen_count; i++) {
        bad += explain(f, seen[i]);
        free(seen[i]);
    }
    seen_count = 0;
    assert_int_equal(bad, 0);
}

/* ---- files that are no catalogue ----------------------------------------------------------------------------------
 */

static void refused(struct fixture *f, enum err_code code)
{
    struct err err = {0};
    struct store_opts opts = {.path = f->dsn};
    assert_null(store_open(&opts, &err));
    assert_int_equal(err.code, code);
    assert_non_null(strstr(err.msg, "catalogue"));
    assert_null(strstr(err.msg, f->dir));
}

static void a_file_of_noise_is_refused(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    char noise[8192];
    store_close(f->store);
    f->store = NULL;
    f->driver.close(f->clock);
    for (size_t i = 0; i < sizeof noise; i++)
        noise[i] = (char)(i * 2654435761u >> 13);
    char path[300];
    snprintf(path, sizeof path, "%s-wal", f->dsn);
    unlink(path);
    assert_int_equal(file_write_atomic(f->dsn, noise, sizeof noise, &err), 0);
    refused(f, ERR_STORE);
    unlink(f->dsn);
    f->clock = f->driver.open(f->dsn, false, &f->err);
}

/* ---- copies -------------------------------------------------------------------------------------------------------
 */

static atomic_bool stop_writing;

static void *writer(void *arg)
{
    struct fixture *f = arg;
    while (!stop_writing) {
        struct err err = {0};
        struct arena *arena = arena_new();
        struct store_job_new in = {.owner = "local", .request = "{}", .inputs = {[JOB_ROLE_MODEL] = f->model}};
        struct store_job job;
        bool replayed;
        if (store_job_insert(f->store, &in, arena, &job, &replayed, &err))
            abort();
        arena_free(arena);
    }
    return NULL;
}

/* Every copy taken under a writer opens, is sound, and has all rows of a job or none. */
static void a_copy_is_consistent(void **state)
{
    struct fixture *f = *state;
    pthread_t thread;
    char path[300];
    snprintf(path, sizeof path, "%s/copy.db", f->dir);
    pthread_create(&thread, NULL, writer, f);
    for (int i = 0; i < 5; i++) {
        usleep(20000);
        unlink(path);
        if (f->driver.copy(f->dsn, path, &f->err))
            fail_msg("%s", f->err.msg);
        struct sql_conn *copy = sql_sqlite.open(path, true, &f->err);
        assert_non_null(copy);
        struct sql_conn *keep = f->clock;
        f->clock = copy;
        assert_int_equal(int_of_sql(f, "SELECT (SELECT count(*) FROM job)-(SELECT count(*) FROM job_progress)"), 0);
        assert_int_equal(int_of_sql(f, "SELECT (SELECT count(*) FROM job)-(SELECT count(*) FROM job_input)"), 0);
        assert_int_equal(int_of_sql(f, "SELECT integrity_check='ok' FROM pragma_integrity_check"), 1);
        f->clock = keep;
        sql_sqlite.close(copy);
    }
    stop_writing = true;
    pthread_join(thread, NULL);
    assert_true(int_of_sql(f, "SELECT count(*) FROM job") > 0);
    struct err err = {0};
    assert_int_equal(f->driver.copy(f->dsn, path, &err), -1); /* nothing is overwritten */
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(no_statement_walks_a_table),
        TEST(a_file_of_noise_is_refused),
        TEST(a_copy_is_consistent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
