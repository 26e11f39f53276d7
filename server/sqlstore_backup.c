/* SPDX-License-Identifier: Apache-2.0
 * A copy of the catalogue for a backup, and the list of files that it refers to. */
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "server/sqlstore.h"

/* Rows whose bytes are no stored files yet. */
static const char unfinished[] = "DELETE FROM upload WHERE sha256 IS NULL";
static const char used[] = "SELECT sha256 FROM resource_file UNION SELECT sha256 FROM artifact UNION"
                           " SELECT sha256 FROM upload WHERE sha256 IS NOT NULL ORDER BY 1";

static int list(const struct sql_driver *driver, struct sql_conn *conn, struct arena *arena, struct store_orphans *out,
                struct err *err)
{
    int64_t room = 0, rc;
    struct sql_stmt *count =
        driver->prepare(conn,
                        "SELECT (SELECT count(*) FROM resource_file)+(SELECT count(*) FROM artifact)"
                        "+(SELECT count(*) FROM upload)",
                        err);
    struct sql_stmt *rows = count ? driver->prepare(conn, used, err) : NULL;
    if (rows && driver->step(count, err) == 1)
        room = driver->column_int(count, 0);
    out->sha256 = rows ? arena_calloc(arena, (size_t)room + 1, sizeof *out->sha256) : NULL;
    out->count = 0;
    rc = out->sha256 ? 1 : rows ? err_set(err, ERR_NOMEM, "out of memory") : -1;
    while (rc > 0 && (rc = driver->step(rows, err)) > 0 && out->count < room) {
        const char *text = driver->column_text(rows, 0), *copy = arena_strdup(arena, text ? text : "");
        if (!copy)
            rc = err_set(err, ERR_NOMEM, "out of memory");
        else
            out->sha256[out->count++] = copy;
    }
    if (rows)
        driver->finalize(rows);
    if (count)
        driver->finalize(count);
    return rc < 0 ? -1 : 0;
}

/* What SQLite keeps beside a file that was open; the log is empty once all is in the file. */
static int remove_companions(const char *to, struct err *err)
{
    static const char *const ends[] = {"-wal", "-shm"};
    for (int i = 0; i < 2; i++) {
        char path[PATH_MAX];
        struct stat st;
        if (snprintf(path, sizeof path, "%s%s", to, ends[i]) >= (int)sizeof path)
            return err_set(err, ERR_IO, "path too long");
        if (i == 0 && stat(path, &st) == 0 && st.st_size)
            return err_set(err, ERR_STORE, "the catalogue's copy is not in one file");
        unlink(path);
    }
    return 0;
}

static int sync_file(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? err_set_errno(err, ERR_IO, "the catalogue's copy cannot be synced") : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

int store_copy(const char *path, const char *to, struct arena *arena, struct store_orphans *files, struct err *err)
{
    const struct sql_driver *driver = &sql_sqlite;
    if (driver->copy(path, to, err))
        return -1;
    struct sql_conn *conn = driver->open(to, false, err);
    int rc = conn && driver->exec(conn, unfinished, err) == 0 && list(driver, conn, arena, files, err) == 0 &&
                     driver->exec(conn, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA journal_mode=DELETE", err) ==
                         0 /* one file */
                 ? 0
                 : -1;
    if (conn)
        driver->close(conn);
    if (rc == 0)
        rc = remove_companions(to, err) || sync_file(to, err) ? -1 : 0;
    if (rc)
        unlink(to);
    return rc;
}
