/* SPDX-License-Identifier: Apache-2.0
 * sqlstore.h - what the parts of the SQL store (sqlstore*.c) share: sessions, transactions, queries. Private to them.
 * A call     store_X: open a session (read or write) -> queries -> db_end / db_commit -> db_changed for woken waiters.
 * A query    struct query q;
 *            query_start(&q, db, SQL, BIND(T("a"), I(1)), err); while (query_row(&q)) ...; query_end(&q);
 *            Errors are kept in the query's *err; query_end tells: 0 or -1. */
#ifndef PARED_SERVER_SQLSTORE_H
#define PARED_SERVER_SQLSTORE_H

#include "core/base/hash.h"
#include <stdatomic.h>

#include "server/sql_driver.h"
#include "server/store.h"
#include "server/store_fault.h"

enum { MAX_STATEMENTS = 192 };

/* A connection with its prepared statements, found again by the address of their text. */
struct db {
    struct store *store;
    const struct sql_driver *driver;
    struct sql_conn *conn;
    bool busy, write;
    const char *call; /* who has it: the name of a function */
    struct {
        const char *sql;
        struct sql_stmt *stmt;
    } statements[MAX_STATEMENTS];
    int n_statements;
};

/* A consistent view of the catalogue; several at once. */
struct db *db_read_by(struct store *store, const char *call, struct err *err);
#define db_read(store, err) db_read_by(store, __func__, err)
void db_end(struct db *db);
/* The writer, one at a time, first come first served. Ends with db_commit or db_abort. */
struct db *db_write_by(struct store *store, bool durable, const char *call, struct err *err);
#define db_write(store, durable, err) db_write_by(store, durable, __func__, err)
int db_commit(struct db *db, struct err *err);
void db_abort(struct db *db);
/* After the commit, with no session open. */
void db_changed(struct store *store, enum store_change change, const char *job_id);

/* ---- queries */
struct sql_value {
    enum { SQL_TEXT, SQL_INT, SQL_REAL } type;
    const char *text;
    int64_t i;
    double real;
};
static inline struct sql_value T(const char *text) {
    return (struct sql_value){.type = SQL_TEXT, .text = text};
} static inline struct sql_value I(int64_t i) {
    return (struct sql_value){.type = SQL_INT, .i = i};
} static inline struct sql_value R(double real) {
    return (struct sql_value){.type = SQL_REAL, .real = real};
}
#define BIND(...)                                                                                                      \
    (const struct sql_value[]){__VA_ARGS__},                                                                           \
        (int)(sizeof((const struct sql_value[]){__VA_ARGS__}) / sizeof(struct sql_value))
#define BIND_NOTHING NULL, 0

struct query {
    struct db *db;
    struct sql_stmt *stmt;
    struct err *err;
    bool failed;
};
/* `sql` must be a constant: the statement is kept by its address. */
void query_start(struct query *q, struct db *db, const char *sql, const struct sql_value *values, int count,
                 struct err *err);
bool query_row(struct query *q);
/* The next row of a page, of which *count were read before (and are counted here); false at the end. A query for one row
 * more than `limit` tells by it that there are *more. */
bool query_page_row(struct query *q, int limit, int *count, bool *more);
int query_end(struct query *q);
int64_t query_int(const struct query *q, int column);
double query_real(const struct query *q, int column);
/* Borrowed until the next row; "" for SQL's NULL. */
const char *query_raw(const struct query *q, int column);
/* Cut to fit. */
void query_copy(const struct query *q, int column, char *out, size_t size);
/* Copied into the arena; NULL for SQL's NULL. */
const char *query_text(struct query *q, int column, struct arena *arena);
/* Start, step to the end, end: the number of rows it returned, or -1. */
int db_run(struct db *db, const char *sql, const struct sql_value *values, int count, struct err *err);
/* The integer in the first column of the first row, `absent` when there is none. -1 fails. */
int db_int(struct db *db, const char *sql, const struct sql_value *values, int count, int64_t absent, int64_t *out,
           struct err *err);

/* ---- shared between the parts */
extern const char *const sqlstore_migrations[]; /* NULL-terminated; index + 1 = schema version */
/* Files of a resource, in order. */
int sqlstore_files(struct db *db, const char *id, struct arena *arena, struct store_resource *out, struct err *err);
int sqlstore_resource(struct db *db, enum store_kind kind, const char *owner, const char *id, struct arena *arena,
                      struct store_resource *out, struct err *err);
/* Append an event to a job, without a fence: inside a transaction that has checked it. */
int sqlstore_event(struct db *db, const char *id, const char *type, const char *data, struct err *err);
/* {"state":"..."} event of a job that changed. */
int sqlstore_state_event(struct db *db, const char *id, enum job_state state, struct err *err);
/* sqlstore_job without the place in the queue. */
int sqlstore_job_row(struct db *db, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                     struct err *err);
/* sqlstore_reuse.c: the fingerprint of a job to be ("" without a plan) and the bytes of its inputs; the newest
 * succeeded job with it: 1, 0, -1. */
int sqlstore_fingerprint(struct db *db, const struct store_job_new *in, char sha256[SHA256_HEX], int64_t *bytes,
                         struct err *err);
int sqlstore_reusable(struct db *db, const char *owner, const char *fingerprint, char id[ID_SIZE], struct err *err);
/* sqlstore_list.c: the ids of a page lie in [low, high), by its cursor and its times. */
struct id_span {
    char low[ID_SIZE], high[ID_SIZE];
};
struct id_span sqlstore_span(const struct store_page *page, const char *prefix);
int sqlstore_labels(struct db *db, const struct store_job_new *in, const char *id, struct err *err);
int sqlstore_job(struct db *db, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                 struct err *err);
/* sqlstore_key.c: what an owner uses up, and ERR_RATE_LIMITED when `more` bytes or one job more would be beyond
 * `limit` (0: none), inside the transaction that adds them. */
#define SQLSTORE_OWNER_ACTIVE "SELECT coalesce(sum(n),0) FROM tally WHERE what IN('queued','running') AND owner=$1"
#define SQLSTORE_OWNER_BYTES "SELECT coalesce((SELECT n FROM tally WHERE what='bytes' AND owner=$1),0)"
/* sqlstore_share.c: the owner who is next to have a job claimed; 1, 0 = nothing to do, -1. Its turn is over. Where a
 * queued job stands (job->queue_position). */
enum { SQLSTORE_OWNER = 80 };
int sqlstore_next_owner(struct db *db, char owner[SQLSTORE_OWNER], struct err *err);
int sqlstore_owner_served(struct db *db, const char *owner, struct err *err);
int sqlstore_queue_position(struct db *db, struct store_job *job, struct err *err);
int sqlstore_check_bytes(struct db *db, const char *owner, int64_t more, int64_t limit, struct err *err);
/* Announced by the owner's unfinished uploads, without those that are the files `but`. */
int sqlstore_open_bytes(struct db *db, const char *owner, const struct store_file *but, int count, int64_t *bytes,
                        struct err *err);
/* `sql` counts what `owner` ($1) has. */
int sqlstore_check_count(struct db *db, const char *sql, const char *owner, int64_t most, const char *what,
                         struct err *err);
int sqlstore_check_active(struct db *db, const char *owner, int64_t limit, struct err *err);
/* Those of `hashes` that nothing refers to. */
int sqlstore_orphans(struct db *db, const char **hashes, int count, struct arena *arena, struct store_orphans *orphans,
                     struct err *err);
/* The ended job with all its rows; inside a write transaction. */
int sqlstore_job_delete(struct db *db, const char *owner, const char *id, struct arena *arena,
                        struct store_orphans *orphans, struct err *err);

/* ---- what time does to rows (sqlstore_retention.c) */
struct sqlstore_upkeep {
    _Atomic int64_t job_ttl_ms, artifact_ttl_ms; /* 0 = for ever */
    double looked_at;                            /* monotonic seconds of the reaper's last look; 0 = none yet */
    int64_t clock_ms;                            /* and the database's clock then */
};
struct sqlstore_upkeep *sqlstore_upkeep(struct store *store);
/* Before the reaper looks for ended leases. */
int sqlstore_follow_clock(struct store *store, struct err *err);
/* When a row of this age goes; 0 = never. */
int64_t sqlstore_job_expires(const struct db *db, int64_t finished_at);
int64_t sqlstore_artifact_expires(const struct db *db, int64_t created_at);

/* Column 0 of every row into one list. */
int sqlstore_column(struct db *db, const char *sql, const char *id, struct arena *arena, const char ***out, int *count,
                    struct err *err);

#endif
