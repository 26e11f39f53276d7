/* SPDX-License-Identifier: Apache-2.0
 * API keys, values of the server itself, and what an owner uses up. `pared keys` writes here from a process of its own
 * while the server runs: server_value's row "keys" counts these writes, so that the server need only read one number
 * to know that its copy of the keys is old. */
#include <stdio.h>
#include <string.h>

#include "server/sqlstore.h"

/* ---- keys */

static int count_change(struct db *db, struct err *err)
{
    return db_run(db,
                  "INSERT INTO server_value(name,value) VALUES('keys','1') ON CONFLICT(name) DO UPDATE SET"
                  " value=CAST(CAST(server_value.value AS BIGINT)+1 AS TEXT)",
                  BIND_NOTHING, err) < 0
               ? -1
               : 0;
}

int store_key_insert(struct store *store, const struct store_key *in, struct err *err)
{
    static const char sql[] =
        "INSERT INTO api_key(id,owner,name,sha256,scopes,requests_per_s,active_jobs,stored_bytes,created_at,expires_at)"
        " VALUES($1,$2,$3,$4,$5,NULLIF($6,-1),NULLIF($7,-1),NULLIF($8,-1),@NOW@,NULLIF($9,0))";
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if (db_run(db, sql,
               BIND(T(in->id), T(in->owner), T(in->name), T(in->sha256), T(in->scopes), I(in->requests_per_s),
                    I(in->active_jobs), I(in->stored_bytes), I(in->expires_at)),
               err) < 0 ||
        count_change(db, err)) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

static void read_key(struct query *q, struct arena *arena, struct store_key *out)
{
    *out = (struct store_key){
        .id = query_text(q, 0, arena),
        .owner = query_text(q, 1, arena),
        .name = query_text(q, 2, arena),
        .sha256 = query_text(q, 3, arena),
        .scopes = query_text(q, 4, arena),
        .requests_per_s = query_int(q, 5),
        .active_jobs = query_int(q, 6),
        .stored_bytes = query_int(q, 7),
        .created_at = query_int(q, 8),
        .expires_at = query_int(q, 9),
        .revoked_at = query_int(q, 10),
        .last_used_at = query_int(q, 11),
    };
}

int store_key_list(struct store *store, struct arena *arena, struct store_key **rows, int *count, struct err *err)
{
    struct query q;
    int64_t total;
    int rc = -1;
    *count = 0;
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    if (db_int(db, "SELECT count(*) FROM api_key", BIND_NOTHING, 0, &total, err))
        goto out;
    *rows = arena_calloc(arena, (size_t)total + 1, sizeof **rows);
    if (!*rows) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    query_start(&q, db,
                "SELECT id,owner,name,sha256,scopes,coalesce(requests_per_s,-1),coalesce(active_jobs,-1),"
                "coalesce(stored_bytes,-1),created_at,expires_at,revoked_at,last_used_at FROM api_key ORDER BY id",
                BIND_NOTHING, err);
    while (*count < total && query_row(&q))
        read_key(&q, arena, &(*rows)[(*count)++]);
    rc = query_end(&q);
out:
    db_end(db);
    return rc;
}

int store_key_revoke(struct store *store, const char *id, struct err *err)
{
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    int rows = db_run(db, "UPDATE api_key SET revoked_at=coalesce(revoked_at,@NOW@) WHERE id=$1 RETURNING id",
                      BIND(T(id)), err);
    if (rows == 0)
        err_set(err, ERR_NOT_FOUND, "there is no key '%.60s'", id);
    if (rows <= 0 || count_change(db, err)) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

int store_key_generation(struct store *store, int64_t *generation, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = db_int(db, "SELECT CAST(value AS BIGINT) FROM server_value WHERE name='keys'", BIND_NOTHING, 0, generation,
                    err);
    db_end(db);
    return rc;
}

int store_key_used(struct store *store, const char *id, int64_t at, struct err *err)
{
    struct db *db = db_write(store, false, err);
    if (!db)
        return -1;
    if (db_run(db, "UPDATE api_key SET last_used_at=$2 WHERE id=$1 AND coalesce(last_used_at,0)<$2",
               BIND(T(id), I(at)), err) < 0) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

/* ---- values of the server */

static int read_value(struct db *db, const char *name, char *out, size_t size, struct err *err)
{
    struct query q;
    query_start(&q, db, "SELECT value FROM server_value WHERE name=$1", BIND(T(name)), err);
    bool found = query_row(&q);
    if (found)
        query_copy(&q, 0, out, size);
    return query_end(&q) ? -1 : found;
}

int store_value(struct store *store, const char *name, const char *preset, char *out, size_t size, struct err *err)
{
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if (db_run(db, "INSERT INTO server_value(name,value) VALUES($1,$2) ON CONFLICT(name) DO NOTHING",
               BIND(T(name), T(preset)), err) < 0 ||
        read_value(db, name, out, size, err) < 0) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

/* ---- what an owner uses up */

int store_owner_bytes(struct store *store, const char *owner, int64_t *bytes, struct err *err)
{
    static const char sql[] =
        SQLSTORE_OWNER_BYTES "+coalesce((SELECT sum(length) FROM upload WHERE owner=$1),0)";
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = db_int(db, sql, BIND(T(owner)), 0, bytes, err);
    db_end(db);
    return rc;
}

int sqlstore_check_bytes(struct db *db, const char *owner, int64_t more, int64_t limit, struct err *err)
{
    static const char sql[] = SQLSTORE_OWNER_BYTES;
    int64_t bytes;
    if (limit <= 0)
        return 0;
    if (db_int(db, sql, BIND(T(owner)), 0, &bytes, err))
        return -1;
    if (bytes <= limit && more <= limit - bytes)
        return 0;
    return err_set(err, ERR_RATE_LIMITED,
                   "stored bytes: %lld are stored and the limit of this key is %lld; delete models, datasets or jobs "
                   "that are not needed any more",
                   (long long)bytes, (long long)limit);
}

int sqlstore_check_count(struct db *db, const char *sql, const char *owner, int64_t most, const char *what,
                         struct err *err)
{
    int64_t count;
    if (db_int(db, sql, BIND(T(owner)), 0, &count, err))
        return -1;
    return count < most ? 0 : err_set(err, ERR_RATE_LIMITED, "%lld %s are there, no more are kept; delete some",
                                      (long long)count, what);
}

int sqlstore_check_active(struct db *db, const char *owner, int64_t limit, struct err *err)
{
    static const char sql[] = SQLSTORE_OWNER_ACTIVE;
    int64_t active;
    if (limit <= 0)
        return 0;
    if (db_int(db, sql, BIND(T(owner)), 0, &active, err))
        return -1;
    if (active < limit)
        return 0;
    return err_set(err, ERR_RATE_LIMITED,
                   "jobs: %lld are queued or running and the limit of this key is %lld; wait until one has ended",
                   (long long)active, (long long)limit);
}
