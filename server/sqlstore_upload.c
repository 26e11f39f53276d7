/* SPDX-License-Identifier: Apache-2.0
 * Rows of resumable uploads. `length` and `metadata` never change; `received`, `tail` and `expires_at` follow the
 * bytes; `sha256` is set once, when they are all there. */
#include "server/sqlstore.h"

#define COLUMNS "id,owner,metadata,sha256,tail,length,received,created_at,expires_at"

static void read_row(struct query *q, struct arena *arena, struct store_upload *out)
{
    *out = (struct store_upload){
        .id = query_text(q, 0, arena),
        .owner = query_text(q, 1, arena),
        .metadata = query_text(q, 2, arena),
        .sha256 = query_text(q, 3, arena),
        .tail = query_text(q, 4, arena),
        .length = query_int(q, 5),
        .received = query_int(q, 6),
        .created_at = query_int(q, 7),
        .expires_at = query_int(q, 8),
    };
}

static int not_found(const char *id, struct err *err)
{
    return err_set(err, ERR_NOT_FOUND, "There is no upload '%.60s'; it may have expired or been used.", id);
}

/* One row of `sql` into *out; ERR_NOT_FOUND when there is none. */
static int one(struct db *db, const char *sql, const struct sql_value *values, int count, const char *id,
               struct arena *arena, struct store_upload *out, struct err *err)
{
    struct query q;
    query_start(&q, db, sql, values, count, err);
    bool found = query_row(&q);
    if (found)
        read_row(&q, arena, out);
    if (query_end(&q))
        return -1;
    return found ? 0 : not_found(id, err);
}

int sqlstore_open_bytes(struct db *db, const char *owner, const struct store_file *but, int count, int64_t *bytes,
                        struct err *err)
{
    int64_t taken;
    if (db_int(db, "SELECT coalesce(sum(length),0) FROM upload WHERE owner=$1", BIND(T(owner)), 0, bytes, err))
        return -1;
    for (int i = 0; i < count && *bytes > 0; i++) {
        if (db_int(db, "SELECT coalesce(sum(length),0) FROM upload WHERE owner=$1 AND sha256=$2",
                   BIND(T(owner), T(but[i].sha256)), 0, &taken, err))
            return -1;
        *bytes -= taken < *bytes ? taken : *bytes;
    }
    return 0;
}

/* What is announced is taken as stored: else a thousand uploads would pass one limit together. */
static int check_bytes(struct db *db, const struct store_upload_new *in, struct err *err)
{
    int64_t open;
    if (sqlstore_check_count(db, "SELECT count(*) FROM upload WHERE owner=$1", in->owner, STORE_UPLOADS_MAX,
                             "unfinished uploads", err))
        return -1;
    if (in->max_bytes <= 0)
        return 0;
    if (sqlstore_open_bytes(db, in->owner, NULL, 0, &open, err))
        return -1;
    int64_t more = in->length <= INT64_MAX - open ? in->length + open : INT64_MAX;
    return sqlstore_check_bytes(db, in->owner, more, in->max_bytes, err);
}

int store_upload_insert(struct store *store, const struct store_upload_new *in, struct arena *arena,
                        struct store_upload *out, struct err *err)
{
    char id[ID_SIZE];
    id_new(id, "upl");
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if (check_bytes(db, in, err) ||
        one(db,
            "INSERT INTO upload(id,owner,length,metadata,created_at,expires_at) VALUES($1,$2,$3,$4,@NOW@,@NOW@+$5*1000)"
            " RETURNING " COLUMNS,
            BIND(T(id), T(in->owner), I(in->length), T(in->metadata), I(in->ttl_s)), id, arena, out, err)) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

int store_upload_get(struct store *store, const char *owner, const char *id, struct arena *arena,
                     struct store_upload *out, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = owner ? one(db, "SELECT " COLUMNS " FROM upload WHERE id=$1 AND owner=$2 AND expires_at>@NOW@",
                         BIND(T(id), T(owner)), id, arena, out, err)
                   : one(db, "SELECT " COLUMNS " FROM upload WHERE id=$1 AND expires_at>@NOW@", BIND(T(id)), id, arena,
                         out, err);
    db_end(db);
    return rc;
}

int store_upload_list(struct store *store, const struct store_page *page, struct arena *arena,
                      struct store_upload *rows, int *count, bool *more, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    *count = 0;
    query_start(&q, db,
                "SELECT " COLUMNS
                " FROM upload WHERE owner=$1 AND id<$2 AND expires_at>@NOW@ ORDER BY id DESC LIMIT $3",
                BIND(T(page->owner), T(page->after ? page->after : "~"), I(page->limit + 1)), err);
    while (query_page_row(&q, page->limit, count, more))
        read_row(&q, arena, &rows[*count - 1]);
    int rc = query_end(&q);
    db_end(db);
    return rc;
}

/* One statement that must touch one row. */
static int change(struct store *store, bool durable, const char *sql, const struct sql_value *values, int count,
                  const char *id, struct err *err)
{
    struct db *db = db_write(store, durable, err);
    if (!db)
        return -1;
    int rows = db_run(db, sql, values, count, err);
    if (rows == 0)
        not_found(id, err);
    if (rows <= 0) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

int store_upload_mark(struct store *store, const char *id, int64_t received, const char *tail, int64_t ttl_s,
                      bool durable, struct err *err)
{
    return change(store, durable,
                  "UPDATE upload SET received=$2, tail=$3, expires_at=@NOW@+$4*1000 WHERE id=$1 AND sha256 IS NULL"
                  " RETURNING id",
                  BIND(T(id), I(received), T(tail), I(ttl_s)), id, err);
}

int store_upload_complete(struct store *store, const char *id, const char *sha256, int64_t ttl_s, struct err *err)
{
    return change(store, true,
                  "UPDATE upload SET received=length, tail='', sha256=$2, expires_at=@NOW@+$3*1000 WHERE id=$1"
                  " RETURNING id",
                  BIND(T(id), T(sha256), I(ttl_s)), id, err);
}

int store_upload_delete(struct store *store, const char *owner, const char *id, struct arena *arena,
                        const char **sha256, struct err *err)
{
    struct store_upload row = {0};
    *sha256 = NULL;
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    int rc = owner ? one(db, "DELETE FROM upload WHERE id=$1 AND owner=$2 RETURNING " COLUMNS, BIND(T(id), T(owner)),
                         id, arena, &row, err)
                   : one(db, "DELETE FROM upload WHERE id=$1 RETURNING " COLUMNS, BIND(T(id)), id, arena, &row, err);
    if (rc) {
        db_abort(db);
        return -1;
    }
    *sha256 = row.sha256;
    return db_commit(db, err);
}

int store_upload_expired(struct store *store, int limit, struct arena *arena, const char **ids, int *count,
                         struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    *count = 0;
    query_start(&q, db, "SELECT id FROM upload WHERE expires_at<=@NOW@ ORDER BY expires_at LIMIT $1", BIND(I(limit)),
                err);
    while (*count < limit && query_row(&q))
        ids[(*count)++] = query_text(&q, 0, arena);
    int rc = query_end(&q);
    db_end(db);
    return rc;
}
