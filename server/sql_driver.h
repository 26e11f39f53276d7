/* SPDX-License-Identifier: Apache-2.0
 * sql_driver.h - the little that sqlstore.c needs of a database, so that one set of statements runs on two.
 * Statements  use $1, $2, ... and these tokens, replaced before they are prepared:
 *             @NOW@  epoch milliseconds by the database's clock    @LOCK@  lock the rows read (FOR UPDATE)
 *             @SKIP@ the same, skipping rows that others hold      A database with one writer needs neither lock.
 *             @KEYED@ behind CREATE TABLE(...): store the rows in their primary key, where that can be chosen
 *             @TALLY@ statements after which the table tally follows the rows it counts (sqlstore_schema.c)
 * Threads     a connection and its statements belong to one thread at a time. */
#ifndef PARED_SERVER_SQL_DRIVER_H
#define PARED_SERVER_SQL_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

struct sql_conn; /* the driver's own */
struct sql_stmt;

struct sql_driver {
    const char *name;
    const char *now, *lock, *skip, *keyed, *tally; /* what the tokens become */
    /* One connection writes, several read; a reader never waits for the writer. */
    struct sql_conn *(*open)(const char *dsn, bool read_only, struct err *err);
    void (*close)(struct sql_conn *conn);
    struct sql_stmt *(*prepare)(struct sql_conn *conn, const char *sql, struct err *err);
    void (*finalize)(struct sql_stmt *stmt);
    /* `index` from 1. Text is borrowed until reset. NULL text is SQL's NULL. */
    int (*bind_text)(struct sql_stmt *stmt, int index, const char *text, struct err *err);
    int (*bind_int)(struct sql_stmt *stmt, int index, int64_t value, struct err *err);
    int (*bind_real)(struct sql_stmt *stmt, int index, double value, struct err *err);
    /* 1: a row; 0: done; -1. */
    int (*step)(struct sql_stmt *stmt, struct err *err);
    void (*reset)(struct sql_stmt *stmt);
    /* Of the row last stepped to; columns from 0. NULL for SQL's NULL; valid until the next step or reset. */
    const char *(*column_text)(struct sql_stmt *stmt, int column);
    int64_t (*column_int)(struct sql_stmt *stmt, int column);
    double (*column_real)(struct sql_stmt *stmt, int column);
    /* Statements without parameters and rows. */
    int (*exec)(struct sql_conn *conn, const char *sql, struct err *err);
    /* `durable`: the commit is on disk when it returns; else a power cut (not a crash of the process) may take it back.
     */
    int (*begin)(struct sql_conn *conn, bool write, bool durable, struct err *err);
    /* Once, when the schema is there: what makes commits quick. Best effort. */
    void (*prepare_writes)(struct sql_conn *conn);
    /* Work the database wants done about once a second, on a connection of its own. *alone: it should be called once
     * more while nobody writes. */
    int (*maintain)(struct sql_conn *conn, bool *alone, struct err *err);
    /* A consistent copy of the database into a new file, while others write. It is complete and on disk, or -1 and
     * gone. */
    int (*copy)(const char *dsn, const char *path, struct err *err);
};

extern const struct sql_driver sql_sqlite;

#endif
