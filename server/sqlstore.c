/* SPDX-License-Identifier: Apache-2.0
 * The SQL store: sessions and transactions. The statements live beside the calls that use them: sqlstore_resource.c,
 * sqlstore_job.c (what clients do), sqlstore_queue.c (what workers do).
 * Writers queue at a ticket lock: with SQLite's own lock a writer among eight was seen to wait for two seconds. */
#include "server/sqlstore.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/log.h"

enum { READERS = 4 };

struct store {
    const struct sql_driver *driver;
    char *dsn;
    store_changed_fn *changed;
    void *arg;
    pthread_mutex_t lock; /* guards what follows */
    pthread_cond_t turn;
    uint64_t next_ticket, serving;
    struct db writer, readers[READERS], maintainer;
    pthread_mutex_t maintaining;
    struct sqlstore_upkeep upkeep;
};

struct sqlstore_upkeep *sqlstore_upkeep(struct store *store)
{
    return &store->upkeep;
}

store_fault_fn *_Atomic store_fault;

static int fault(const char *call, enum store_moment moment, struct err *err)
{
    store_fault_fn *fn = atomic_load_explicit(&store_fault, memory_order_relaxed);
    return fn ? fn(call, moment, err) : 0;
}

/* ---- sessions -----------------------------------------------------------------------------------------------------
 */

static int db_connect(struct store *store, struct db *db, bool read_only, struct err *err)
{
    if (db->conn)
        return 0;
    db->store = store;
    db->driver = store->driver;
    db->conn = store->driver->open(store->dsn, read_only, err);
    return db->conn ? 0 : -1;
}

static void db_disconnect(struct db *db)
{
    for (int i = 0; i < db->n_statements; i++)
        db->driver->finalize(db->statements[i].stmt);
    db->n_statements = 0;
    if (db->conn)
        db->driver->close(db->conn);
    db->conn = NULL;
}

static struct db *take_reader(struct store *store)
{
    struct db *db = NULL;
    pthread_mutex_lock(&store->lock);
    while (!db) {
        for (int i = 0; i < READERS && !db; i++)
            if (!store->readers[i].busy)
                db = &store->readers[i];
        if (!db)
            pthread_cond_wait(&store->turn, &store->lock);
    }
    db->busy = true;
    pthread_mutex_unlock(&store->lock);
    return db;
}

static _Thread_local double thread_seconds, session_began;

double store_thread_seconds(void)
{
    return thread_seconds;
}

static void give_back(struct db *db)
{
    struct store *store = db->store;
    thread_seconds += clock_seconds() - session_began;
    pthread_mutex_lock(&store->lock);
    if (db->write)
        store->serving++;
    db->busy = false;
    pthread_cond_broadcast(&store->turn);
    pthread_mutex_unlock(&store->lock);
}

struct db *db_read_by(struct store *store, const char *call, struct err *err)
{
    if (fault(call, STORE_BEFORE, err))
        return NULL;
    session_began = clock_seconds();
    struct db *db = take_reader(store);
    db->store = store;
    db->call = call;
    if (db_connect(store, db, true, err) || db->driver->begin(db->conn, false, false, err)) {
        give_back(db);
        return NULL;
    }
    return db;
}

void db_end(struct db *db)
{
    struct err err = {0};
    if (db->driver->exec(db->conn, "COMMIT", &err)) {
        log_error("%s", err.msg);
        db_disconnect(db);
    }
    give_back(db);
}

struct db *db_write_by(struct store *store, bool durable, const char *call, struct err *err)
{
    struct db *db = &store->writer;
    if (fault(call, STORE_BEFORE, err))
        return NULL;
    session_began = clock_seconds();
    pthread_mutex_lock(&store->lock);
    uint64_t ticket = store->next_ticket++;
    while (store->serving != ticket)
        pthread_cond_wait(&store->turn, &store->lock);
    pthread_mutex_unlock(&store->lock);
    if (db_connect(store, db, false, err) || db->driver->begin(db->conn, true, durable, err)) {
        give_back(db);
        return NULL;
    }
    db->call = call;
    return db;
}

void db_abort(struct db *db)
{
    struct err ignored = {0};
    if (db->driver->exec(db->conn, "ROLLBACK", &ignored))
        db_disconnect(db); /* some errors have rolled back already; a new connection is clean in any case */
    give_back(db);
}

int db_commit(struct db *db, struct err *err)
{
    if (db->driver->exec(db->conn, "COMMIT", err)) {
        db_abort(db);
        return -1;
    }
    const char *call = db->call;
    give_back(db);
    return fault(call, STORE_AFTER, err);
}

void db_changed(struct store *store, enum store_change change, const char *job_id)
{
    if (store->changed)
        store->changed(store->arg, change, job_id);
}

/* ---- queries ------------------------------------------------------------------------------------------------------
 */

static char *substitute(const struct sql_driver *driver, const char *sql)
{
    const struct {
        const char *token, *text;
    } tokens[] = {
        {"@NOW@", driver->now}, {"@LOCK@", driver->lock}, {"@SKIP@", driver->skip}, {"@KEYED@", driver->keyed},
        {"@TALLY@", driver->tally}};
    struct buf out = {0};
    while (*sql) {
        size_t i = 0, n = sizeof tokens / sizeof tokens[0];
        while (i < n && strncmp(sql, tokens[i].token, strlen(tokens[i].token)))
            i++;
        if (i < n) {
            buf_puts(&out, tokens[i].text);
            sql += strlen(tokens[i].token);
        } else {
            buf_append(&out, sql++, 1);
        }
    }
    return buf_take(&out);
}

static struct sql_stmt *statement(struct db *db, const char *sql, struct err *err)
{
    for (int i = 0; i < db->n_statements; i++)
        if (db->statements[i].sql == sql)
            return db->statements[i].stmt;
    if (db->n_statements == MAX_STATEMENTS) {
        err_set(err, ERR_INTERNAL, "more statements than a session keeps");
        return NULL;
    }
    char *text = substitute(db->driver, sql);
    if (!text) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    struct sql_stmt *stmt = db->driver->prepare(db->conn, text, err);
    free(text);
    if (stmt) {
        db->statements[db->n_statements].sql = sql;
        db->statements[db->n_statements++].stmt = stmt;
    }
    return stmt;
}

void query_start(struct query *q, struct db *db, const char *sql, const struct sql_value *values, int count,
                 struct err *err)
{
    *q = (struct query){.db = db, .err = err};
    q->stmt = statement(db, sql, err);
    q->failed = !q->stmt;
    for (int i = 0; i < count && !q->failed; i++) {
        const struct sql_value *v = &values[i];
        int rc = v->type == SQL_TEXT  ? db->driver->bind_text(q->stmt, i + 1, v->text, err)
                 : v->type == SQL_INT ? db->driver->bind_int(q->stmt, i + 1, v->i, err)
                                      : db->driver->bind_real(q->stmt, i + 1, v->real, err);
        q->failed = rc != 0;
    }
}

bool query_row(struct query *q)
{
    if (q->failed)
        return false;
    int rc = q->db->driver->step(q->stmt, q->err);
    q->failed = rc < 0;
    return rc > 0;
}

bool query_page_row(struct query *q, int limit, int *count, bool *more)
{
    const bool row = query_row(q);
    *more = row && *count == limit;
    *count += row && !*more;
    return row && !*more;
}

int query_end(struct query *q)
{
    if (q->stmt)
        q->db->driver->reset(q->stmt);
    return q->failed ? -1 : 0;
}

int64_t query_int(const struct query *q, int column)
{
    return q->db->driver->column_int(q->stmt, column);
}

const char *query_raw(const struct query *q, int column)
{
    const char *text = q->db->driver->column_text(q->stmt, column);
    return text ? text : "";
}

void query_copy(const struct query *q, int column, char *out, size_t size)
{
    snprintf(out, size, "%s", query_raw(q, column));
}

double query_real(const struct query *q, int column)
{
    return q->db->driver->column_real(q->stmt, column);
}

const char *query_text(struct query *q, int column, struct arena *arena)
{
    const char *text = q->db->driver->column_text(q->stmt, column);
    if (!text)
        return NULL;
    const char *copy = arena_strdup(arena, text);
    if (!copy) {
        q->failed = true;
        err_set(q->err, ERR_NOMEM, "out of memory");
    }
    return copy ? copy : "";
}

int db_run(struct db *db, const char *sql, const struct sql_value *values, int count, struct err *err)
{
    struct query q;
    int rows = 0;
    query_start(&q, db, sql, values, count, err);
    while (query_row(&q))
        rows++;
    return query_end(&q) ? -1 : rows;
}

int db_int(struct db *db, const char *sql, const struct sql_value *values, int count, int64_t absent, int64_t *out,
           struct err *err)
{
    struct query q;
    query_start(&q, db, sql, values, count, err);
    *out = query_row(&q) ? query_int(&q, 0) : absent;
    return query_end(&q);
}

int sqlstore_column(struct db *db, const char *sql, const char *id, struct arena *arena, const char ***out, int *count,
                    struct err *err)
{
    struct query q;
    const char **list = NULL;
    int n = 0, cap = 0;
    query_start(&q, db, sql, BIND(T(id)), err);
    while (query_row(&q)) {
        if (n == cap) {
            cap = cap ? cap * 2 : 8;
            const char **grown = arena_calloc(arena, (size_t)cap, sizeof *grown);
            if (!grown) {
                query_end(&q);
                return err_set(err, ERR_NOMEM, "out of memory");
            }
            if (n)
                memcpy(grown, list, (size_t)n * sizeof *grown);
            list = grown;
        }
        list[n++] = query_text(&q, 0, arena);
    }
    *out = list;
    *count = n;
    return query_end(&q);
}

/* ---- open, close, upkeep ------------------------------------------------------------------------------------------
 */

static int run_migration(struct db *db, const char *sql, struct err *err)
{
    char *text = substitute(db->driver, sql);
    if (!text)
        return err_set(err, ERR_NOMEM, "out of memory");
    int rc = db->driver->exec(db->conn, text, err);
    free(text);
    return rc;
}

static int migrate(struct store *store, struct err *err)
{
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    int known = 0;
    while (sqlstore_migrations[known])
        known++;
    int64_t version = 0;
    if (db->driver->exec(db->conn, "CREATE TABLE IF NOT EXISTS schema_version(version BIGINT NOT NULL)", err) ||
        db_int(db, "SELECT version FROM schema_version", BIND_NOTHING, 0, &version, err))
        goto fail;
    if (version > known) {
        err_set(err, ERR_STORE, "the catalogue has schema version %lld, this program knows up to %d; use a newer pared",
                (long long)version, known);
        goto fail;
    }
    for (int64_t v = version; v < known; v++)
        if (run_migration(db, sqlstore_migrations[v], err))
            goto fail;
    if (version != known && (db_run(db, "DELETE FROM schema_version", BIND_NOTHING, err) < 0 ||
                             db_run(db, "INSERT INTO schema_version(version) VALUES($1)", BIND(I(known)), err) < 0))
        goto fail;
    return db_commit(db, err);
fail:
    db_abort(db);
    return -1;
}

struct store *store_open(const struct store_opts *opts, struct err *err)
{
    struct store *store = calloc(1, sizeof *store);
    if (!store || !(store->dsn = strdup(opts->path))) {
        free(store);
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    store->driver = opts->driver ? opts->driver : &sql_sqlite;
    store->changed = opts->changed;
    store->arg = opts->arg;
    pthread_mutex_init(&store->lock, NULL);
    pthread_mutex_init(&store->maintaining, NULL);
    pthread_cond_init(&store->turn, NULL);
    store->writer.store = store;
    store->writer.write = true;
    if (migrate(store, err)) {
        store_close(store);
        return NULL;
    }
    store->driver->prepare_writes(store->writer.conn);
    return store;
}

void store_close(struct store *store)
{
    if (!store)
        return;
    for (int i = 0; i < READERS; i++)
        db_disconnect(&store->readers[i]);
    db_disconnect(&store->maintainer);
    db_disconnect(&store->writer);
    pthread_cond_destroy(&store->turn);
    pthread_mutex_destroy(&store->maintaining);
    pthread_mutex_destroy(&store->lock);
    free(store->dsn);
    free(store);
}

int store_ping(struct store *store, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int64_t version;
    int rc = db_int(db, "SELECT version FROM schema_version", BIND_NOTHING, 0, &version, err);
    db_end(db);
    return rc;
}

static int forget_keys(struct store *store, struct err *err)
{
    int64_t any;
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = db_int(db, "SELECT EXISTS(SELECT 1 FROM idempotency WHERE expires_at<@NOW@)", BIND_NOTHING, 0, &any, err);
    db_end(db);
    if (rc || !any)
        return rc;
    db = db_write(store, false, err);
    if (!db)
        return -1;
    if (db_run(db, "DELETE FROM idempotency WHERE expires_at<@NOW@", BIND_NOTHING, err) < 0) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

int store_maintain(struct store *store, struct err *err)
{
    if (forget_keys(store, err))
        return -1;
    pthread_mutex_lock(&store->maintaining);
    bool alone = false;
    int rc = db_connect(store, &store->maintainer, false, err);
    if (rc == 0)
        rc = store->driver->maintain(store->maintainer.conn, &alone, err);
    struct db *writer = alone ? db_write(store, false, err) : NULL;
    if (writer) {
        rc = store->driver->maintain(store->maintainer.conn, &alone, err);
        db_abort(writer);
    }
    pthread_mutex_unlock(&store->maintaining);
    return rc;
}

int store_count(struct store *store, struct store_counts *counts, struct err *err)
{
    *counts = (struct store_counts){0};
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    query_start(&q, db, "SELECT what,sum(n) FROM tally GROUP BY what", BIND_NOTHING, err);
    while (query_row(&q)) {
        const char *what = query_raw(&q, 0);
        int state = job_state_from_name(what);
        int64_t *out = state >= 0                   ? &counts->jobs[state]
                       : !strcmp(what, "models")    ? &counts->models
                       : !strcmp(what, "datasets")  ? &counts->datasets
                       : !strcmp(what, "artifacts") ? &counts->artifacts
                                                    : NULL;
        if (out)
            *out = query_int(&q, 1);
    }
    int rc = query_end(&q);
    if (db_int(db, "SELECT @NOW@-created_at FROM job WHERE state='queued' ORDER BY created_at LIMIT 1", BIND_NOTHING, 0,
               &counts->oldest_queued_ms, err))
        rc = -1;
    db_end(db);
    return rc;
}
