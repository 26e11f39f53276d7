/* SPDX-License-Identifier: Apache-2.0
 * SQLite in WAL mode: readers see the last commit and never wait; one connection writes, under sqlstore.c's fair lock,
 * because SQLite's own busy handler lets a writer starve for seconds. Checkpoints run on a connection of their own
 * (maintain): in the commit path they would cost a client tens of milliseconds now and then.
 *
 * A commit is one fdatasync of the write-ahead log. Where the log grows, that sync also commits the file system's
 * journal: measured on ext4, 99 of 100 syncs took < 13 ms appending, < 4 ms overwriting. So the log is brought to its
 * working size at start, and kept. */
#include "server/sql_driver.h"

#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Said with every transaction, so that they are worth preparing. */
static const char *const often[] = {"BEGIN", "BEGIN IMMEDIATE", "COMMIT"};
enum { OFTEN = sizeof often / sizeof often[0] };

struct sql_conn {
    sqlite3 *db;
    sqlite3_stmt *often[OFTEN];
    int synchronous; /* 1 NORMAL, 2 FULL, 0 not set yet */
};

enum { BUSY_MS = 10000, WAL_BYTES = 8 << 20, WAL_DISK_SHARE = 64, PAGE_BYTES = 4096 };

static int fail(sqlite3 *db, int code, const char *what, struct err *err)
{
    enum err_code kind = code == SQLITE_FULL ? ERR_DISK_FULL : code == SQLITE_NOMEM ? ERR_NOMEM : ERR_STORE;
    return err_set(err, kind, "catalogue: %s: %s", what, db ? sqlite3_errmsg(db) : sqlite3_errstr(code));
}

static int exec_often(struct sql_conn *conn, size_t i)
{
    sqlite3_stmt **stmt = &conn->often[i];
    if (!*stmt) {
        int rc = sqlite3_prepare_v3(conn->db, often[i], -1, SQLITE_PREPARE_PERSISTENT, stmt, NULL);
        if (rc != SQLITE_OK)
            return rc;
    }
    sqlite3_step(*stmt);
    return sqlite3_reset(*stmt); /* tells what the step has met */
}

static int exec(struct sql_conn *conn, const char *sql, struct err *err)
{
    size_t i = 0;
    while (i < OFTEN && strcmp(sql, often[i]) != 0)
        i++;
    int rc = i < OFTEN ? exec_often(conn, i) : sqlite3_exec(conn->db, sql, NULL, NULL, NULL);
    return rc == SQLITE_OK ? 0 : fail(conn->db, rc, "statement failed", err);
}

static void close_conn(struct sql_conn *conn)
{
    if (!conn)
        return;
    for (size_t i = 0; i < OFTEN; i++)
        sqlite3_finalize(conn->often[i]);
    sqlite3_close(conn->db);
    free(conn);
}

static struct sql_conn *open_conn(const char *dsn, bool read_only, struct err *err)
{
    struct sql_conn *conn = calloc(1, sizeof *conn);
    if (!conn) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    /* readers open for writing too: WAL's shared index needs it; query_only keeps them from using it */
    int rc = sqlite3_open_v2(dsn, &conn->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, NULL);
    if (rc != SQLITE_OK) {
        fail(conn->db, rc, "cannot be opened", err);
        close_conn(conn);
        return NULL;
    }
    sqlite3_busy_timeout(conn->db, BUSY_MS);
    int keep = 1; /* the log stays when the last connection closes */
    sqlite3_file_control(conn->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep);
    if (exec(conn,
             "PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=8000; "
             "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-1024;",
             err) ||
        (read_only && exec(conn, "PRAGMA query_only=1", err))) {
        close_conn(conn);
        return NULL;
    }
    return conn;
}

static struct sql_stmt *prepare(struct sql_conn *conn, const char *sql, struct err *err)
{
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v3(conn->db, sql, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
    if (rc != SQLITE_OK)
        fail(conn->db, rc, "statement not understood", err);
    return (struct sql_stmt *)stmt;
}

static sqlite3_stmt *raw(struct sql_stmt *stmt)
{
    return (sqlite3_stmt *)stmt;
}

static void finalize(struct sql_stmt *stmt)
{
    sqlite3_finalize(raw(stmt));
}

/* The index of "$3" is the order of its first appearance, not its digit. 0 (a parameter no statement uses) is refused.
 */
static int position(struct sql_stmt *stmt, int index)
{
    char name[4] = "$", *at = name + 1; /* by hand: snprintf is a good part of a small query's time */
    if (index < 1 || index > 99)
        return 0;
    if (index > 9)
        *at++ = (char)('0' + index / 10);
    *at = (char)('0' + index % 10);
    return sqlite3_bind_parameter_index(raw(stmt), name);
}

static int bound(struct sql_stmt *stmt, int rc, struct err *err)
{
    return rc == SQLITE_OK ? 0 : fail(sqlite3_db_handle(raw(stmt)), rc, "parameter not accepted", err);
}

static int bind_text(struct sql_stmt *stmt, int index, const char *text, struct err *err)
{
    return bound(stmt, sqlite3_bind_text(raw(stmt), position(stmt, index), text, -1, SQLITE_STATIC), err);
}

static int bind_int(struct sql_stmt *stmt, int index, int64_t value, struct err *err)
{
    return bound(stmt, sqlite3_bind_int64(raw(stmt), position(stmt, index), value), err);
}

static int bind_real(struct sql_stmt *stmt, int index, double value, struct err *err)
{
    return bound(stmt, sqlite3_bind_double(raw(stmt), position(stmt, index), value), err);
}

static int step(struct sql_stmt *stmt, struct err *err)
{
    int rc = sqlite3_step(raw(stmt));
    if (rc == SQLITE_ROW)
        return 1;
    return rc == SQLITE_DONE ? 0 : fail(sqlite3_db_handle(raw(stmt)), rc, "statement failed", err);
}

static void reset(struct sql_stmt *stmt)
{
    sqlite3_reset(raw(stmt));
    sqlite3_clear_bindings(raw(stmt));
}

static const char *column_text(struct sql_stmt *stmt, int column)
{
    return (const char *)sqlite3_column_text(raw(stmt), column);
}

static int64_t column_int(struct sql_stmt *stmt, int column)
{
    return sqlite3_column_int64(raw(stmt), column);
}

static double column_real(struct sql_stmt *stmt, int column)
{
    return sqlite3_column_double(raw(stmt), column);
}

static int begin(struct sql_conn *conn, bool write, bool durable, struct err *err)
{
    int synchronous = durable ? 2 : 1;
    if (write && conn->synchronous != synchronous) {
        if (exec(conn, durable ? "PRAGMA synchronous=FULL" : "PRAGMA synchronous=NORMAL", err))
            return -1;
        conn->synchronous = synchronous;
    }
    return exec(conn, write ? "BEGIN IMMEDIATE" : "BEGIN", err);
}

/* Fill the log once with rows that are dropped again. Not on a small disk, where the space is worth more. */
static void prepare_writes(struct sql_conn *conn)
{
    char path[4096];
    struct stat st;
    struct statvfs disk;
    const char *name = sqlite3_db_filename(conn->db, NULL);
    if (!name || snprintf(path, sizeof path, "%s-wal", name) >= (int)sizeof path || statvfs(name, &disk) ||
        (stat(path, &st) == 0 && st.st_size >= WAL_BYTES) ||
        (int64_t)disk.f_bavail * (int64_t)disk.f_frsize < (int64_t)WAL_BYTES * WAL_DISK_SHARE)
        return;
    char sql[200];
    snprintf(sql, sizeof sql,
             "BEGIN IMMEDIATE; CREATE TABLE filler(x); INSERT INTO filler VALUES(zeroblob(%d)); COMMIT;", WAL_BYTES);
    struct err ignored = {0};
    if (exec(conn, sql, &ignored))
        exec(conn, "ROLLBACK", &ignored);
    exec(conn, "DROP TABLE IF EXISTS filler", &ignored);
    sqlite3_wal_checkpoint_v2(conn->db, NULL, SQLITE_CHECKPOINT_RESTART, NULL, NULL);
}

/* Under steady writing a checkpoint always ends behind the newest commit, and only a log that is folded in completely
 * is begun anew. So when it has grown, the few frames that are left are done with the writer standing still. */
static int maintain(struct sql_conn *conn, bool *alone, struct err *err)
{
    int frames = 0, done = 0;
    int rc = sqlite3_wal_checkpoint_v2(conn->db, NULL, SQLITE_CHECKPOINT_PASSIVE, &frames, &done);
    *alone = rc == SQLITE_OK && frames > WAL_BYTES / 2 / PAGE_BYTES && done < frames;
    return rc == SQLITE_OK || rc == SQLITE_BUSY ? 0 : fail(conn->db, rc, "write-ahead log not folded in", err);
}

/* VACUUM INTO reads one snapshot and writes the rows close together; it does not stop the writer. */
static int copy(const char *dsn, const char *path, struct err *err)
{
    sqlite3 *db = NULL;
    int rc = access(path, F_OK) == 0 ? err_set(err, ERR_IN_USE, "catalogue: the copy's file is there already") : 0;
    if (rc)
        return rc;
    rc = sqlite3_open_v2(dsn, &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_NOMUTEX, NULL);
    char *sql = sqlite3_mprintf("VACUUM INTO %Q", path);
    sqlite3_busy_timeout(db, BUSY_MS);
    int keep = 1;
    if (rc == SQLITE_OK)
        sqlite3_file_control(db, NULL, SQLITE_FCNTL_PERSIST_WAL, &keep);
    if (rc == SQLITE_OK)
        rc = sql ? sqlite3_exec(db, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
    if (rc != SQLITE_OK) {
        fail(db, rc, "cannot be copied", err);
        unlink(path);
    }
    sqlite3_free(sql);
    sqlite3_close(db);
    return rc == SQLITE_OK ? 0 : -1;
}

/* Triggers: part of the transaction that writes the row, whoever writes it. */
#define ADD(what, owner, n)                                                                                            \
    "INSERT INTO tally(what,owner,n) VALUES(" what "," owner "," n                                                     \
    ") ON CONFLICT(what,owner) DO UPDATE SET n=n+excluded.n;"
#define COUNT_ROWS(table, what)                                                                                        \
    "CREATE TRIGGER " table "_comes AFTER INSERT ON " table " BEGIN " ADD(what, "new.owner", "1")                      \
        ADD("'bytes'", "new.owner", "new.bytes") "END;"                                                                \
                                                 "CREATE TRIGGER " table "_goes AFTER DELETE ON " table                \
                                                 " BEGIN " ADD(what, "old.owner", "-1")                                \
                                                     ADD("'bytes'", "old.owner", "-old.bytes") "END;"
static const char tally[] = COUNT_ROWS("model", "'models'") COUNT_ROWS("dataset", "'datasets'")
    COUNT_ROWS("artifact", "'artifacts'") "CREATE TRIGGER job_comes AFTER INSERT ON job BEGIN " ADD(
        "new.state", "new.owner",
        "1") "END;"
             "CREATE TRIGGER job_goes AFTER DELETE ON job BEGIN " ADD(
                 "old.state", "old.owner",
                 "-1") "END;"
                       "CREATE TRIGGER job_changes AFTER UPDATE OF state ON job WHEN old.state<>new.state BEGIN " ADD(
                           "old.state", "old.owner", "-1") ADD("new.state", "new.owner", "1") "END;";

const struct sql_driver sql_sqlite = {
    .name = "sqlite",
    .now = "CAST((julianday('now')-2440587.5)*86400000 AS INTEGER)",
    .lock = "",
    .skip = "",
    .keyed = "WITHOUT ROWID",
    .tally = tally,
    .open = open_conn,
    .close = close_conn,
    .prepare = prepare,
    .finalize = finalize,
    .bind_text = bind_text,
    .bind_int = bind_int,
    .bind_real = bind_real,
    .step = step,
    .reset = reset,
    .column_text = column_text,
    .column_int = column_int,
    .column_real = column_real,
    .exec = exec,
    .begin = begin,
    .prepare_writes = prepare_writes,
    .maintain = maintain,
    .copy = copy,
};
