/* SPDX-License-Identifier: Apache-2.0
 * store_fixture.h - a catalogue of its own for each test, over any driver, with a clock that the test moves.
 * Clock      the driver's "now" is taken with a shift from a one-row table added to it, so that waits cost nothing and
 *            jumps can be tried: the database's own clock stays what counts, as in a server. */
#ifndef PARED_TESTS_STORE_FIXTURE_H
#define PARED_TESTS_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <stdatomic.h>
#include <unistd.h>

#include "core/base/file.h"
#include "server/sql_driver.h"
#include "server/store.h"

#define SHA_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define SHA_B "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"
#define SHA_C "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"

/* One row a driver. */
struct driver_case {
    const struct sql_driver *driver;
    /* Where an empty catalogue for this test is; `dir` is a new empty folder. */
    void (*place)(char *dsn, size_t size, const char *dir);
};

static inline void sqlite_place(char *dsn, size_t size, const char *dir)
{
    snprintf(dsn, size, "%s/c.db", dir);
}
static const struct driver_case driver_cases[] = {{&sql_sqlite, sqlite_place}};
enum { DRIVERS = sizeof driver_cases / sizeof driver_cases[0] };
static const struct driver_case *driver_case = &driver_cases[0]; /* of the tests that run now */

struct fixture {
    char dir[40], dsn[200], now[600];
    struct sql_driver driver; /* the case's, with the shifted clock */
    struct sql_conn *clock;
    struct store *store;
    struct arena *arena;
    struct err err;
    char model[ID_SIZE];
    atomic_int changes[3];
};

static inline void count_change(void *arg, enum store_change change, const char *job_id)
{
    struct fixture *f = arg;
    assert_true(id_is(job_id, "job"));
    atomic_fetch_add(&f->changes[change], 1);
}

static inline struct store *open_store(struct fixture *f)
{
    struct store_opts opts = {.path = f->dsn, .changed = count_change, .arg = f, .driver = &f->driver};
    return store_open(&opts, &f->err);
}

/* Statements straight to the database, beside the store. */
static inline void run_sql(struct fixture *f, const char *sql)
{
    struct err err = {0};
    if (f->driver.exec(f->clock, sql, &err))
        fail_msg("%s: %s", sql, err.msg);
}

static inline int64_t int_of_sql(struct fixture *f, const char *sql)
{
    struct err err = {0};
    struct sql_stmt *stmt = f->driver.prepare(f->clock, sql, &err);
    if (!stmt || f->driver.step(stmt, &err) != 1)
        fail_msg("%s: %s", sql, err.msg);
    int64_t value = f->driver.column_int(stmt, 0);
    f->driver.finalize(stmt);
    return value;
}

/* The database's clock jumps by so much, forward or back. */
static inline void move_clock(struct fixture *f, int64_t ms)
{
    char sql[100];
    snprintf(sql, sizeof sql, "UPDATE test_clock SET shift=shift+(%lld)", (long long)ms);
    run_sql(f, sql);
}

static inline void make_clock(struct fixture *f)
{
    f->driver = *driver_case->driver;
    snprintf(f->now, sizeof f->now, "(%s+(SELECT shift FROM test_clock))", driver_case->driver->now);
    f->driver.now = f->now;
    f->clock = f->driver.open(f->dsn, false, &f->err);
    assert_non_null(f->clock);
    run_sql(f, "CREATE TABLE test_clock(shift BIGINT NOT NULL); INSERT INTO test_clock VALUES(0)");
}

static inline struct store_resource add_model(struct fixture *f, const char *owner, const char *name,
                                              const char *sha256, bool *existed)
{
    struct store_file file = {name, sha256, 100};
    struct store_resource in = {.owner = owner,
                                .name = name,
                                .facts = "{\"nodes\":3}",
                                .files = &file,
                                .file_count = 1},
                          out = {0};
    const struct store_detail details[] = {{"layers", "[1]"}, {"graph", "[2]"}, {NULL, NULL}};
    bool there;
    assert_int_equal(
        store_resource_insert(f->store, STORE_MODEL, &in, details, f->arena, &out, existed ? existed : &there, &f->err),
        0);
    return out;
}

/* A folder, a clock and an arena; no store yet. */
static inline int setup_empty(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    strcpy(f->dir, "/tmp/pared-store-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    driver_case->place(f->dsn, sizeof f->dsn, f->dir);
    f->arena = arena_new();
    make_clock(f);
    *state = f;
    return 0;
}

static inline int setup(void **state)
{
    setup_empty(state);
    struct fixture *f = *state;
    f->store = open_store(f);
    assert_non_null(f->store);
    snprintf(f->model, sizeof f->model, "%s", add_model(f, "local", "m.onnx", SHA_A, NULL).id);
    return 0;
}

/* What is kept about the rows is what counting them gives, after whatever a test did. */
static inline void check_tally(struct fixture *f)
{
    static const char wrong[] =
        "SELECT count(*) FROM (SELECT what,owner FROM (SELECT what,owner,n FROM tally"
        " UNION ALL SELECT state,owner,-1 FROM job UNION ALL SELECT 'models',owner,-1 FROM model"
        " UNION ALL SELECT 'datasets',owner,-1 FROM dataset UNION ALL SELECT 'artifacts',owner,-1 FROM artifact"
        " UNION ALL SELECT 'bytes',owner,-bytes FROM model UNION ALL SELECT 'bytes',owner,-bytes FROM dataset"
        " UNION ALL SELECT 'bytes',owner,-bytes FROM artifact) parts GROUP BY what,owner HAVING sum(n)<>0) sums";
    assert_int_equal(int_of_sql(f, wrong), 0);
}

static inline int teardown(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    if (f->store)
        check_tally(f);
    store_close(f->store);
    f->driver.close(f->clock);
    arena_free(f->arena);
    file_remove_tree(f->dir, &err);
    free(f);
    return 0;
}

static inline struct store_job add_job_with(struct fixture *f, struct store_job_new in)
{
    struct store_job job;
    bool replayed;
    if (!in.owner)
        in.owner = "local";
    if (!in.request)
        in.request = "{\"recipe\":{\"steps\":[]}}";
    if (!in.inputs[JOB_ROLE_MODEL])
        in.inputs[JOB_ROLE_MODEL] = f->model;
    assert_int_equal(store_job_insert(f->store, &in, f->arena, &job, &replayed, &f->err), 0);
    return job;
}

static inline struct store_job add_job(struct fixture *f)
{
    return add_job_with(f, (struct store_job_new){0});
}

static inline struct store_job get(struct fixture *f, const char *id)
{
    struct store_job job;
    assert_int_equal(store_job_get(f->store, "local", id, f->arena, &job, &f->err), 0);
    return job;
}

static inline struct store_claim claim(struct fixture *f, int64_t lease_ms)
{
    struct store_claim c;
    assert_int_equal(store_job_claim(f->store, "n1:w", lease_ms, f->arena, &c, &f->err), 1);
    return c;
}

static inline bool nothing_to_claim(struct fixture *f)
{
    struct store_claim c;
    int rc = store_job_claim(f->store, "n1:w", 1000, f->arena, &c, &f->err);
    assert_true(rc >= 0);
    return rc == 0;
}

static inline enum job_state settle(struct fixture *f, const struct store_claim *c, struct store_outcome outcome)
{
    enum job_state state = JOB_STATE_COUNT;
    assert_int_equal(store_job_settle(f->store, c->id, c->attempt, &outcome, &state, &f->err), 1);
    return state;
}

static inline int reap(struct fixture *f, const char *node)
{
    int reaped;
    assert_int_equal(store_job_reap(f->store, node, &reaped, &f->err), 0);
    return reaped;
}

#endif
