/* SPDX-License-Identifier: Apache-2.0
 * Models, datasets, recipes, and which blobs rows refer to. Models and datasets are two tables of the same columns:
 * each statement is written once and compiled for both. */
#include <stdlib.h>
#include <string.h>

#include "core/base/hash.h"
#include "server/sqlstore.h"

#define BOTH(macro)                                                                                                    \
    {                                                                                                                  \
        macro("model"), macro("dataset")                                                                               \
    }
static const char *const prefix[] = {"mdl", "dst"};
static const char *const noun[] = {"model", "dataset"};

#define COLUMNS "id,owner,name,sha256,bytes,facts,parent_job,created_at"

static void read_row(struct query *q, struct arena *arena, struct store_resource *out)
{
    *out = (struct store_resource){
        .id = query_text(q, 0, arena),
        .owner = query_text(q, 1, arena),
        .name = query_text(q, 2, arena),
        .sha256 = query_text(q, 3, arena),
        .bytes = query_int(q, 4),
        .facts = query_text(q, 5, arena),
        .parent_job = query_text(q, 6, arena),
        .created_at = query_int(q, 7),
    };
}

int sqlstore_files(struct db *db, const char *id, struct arena *arena, struct store_resource *out, struct err *err)
{
    int64_t count;
    if (db_int(db, "SELECT count(*) FROM resource_file WHERE resource_id=$1", BIND(T(id)), 0, &count, err))
        return -1;
    out->files = arena_calloc(arena, (size_t)count + 1, sizeof *out->files);
    if (!out->files)
        return err_set(err, ERR_NOMEM, "out of memory");
    struct query q;
    query_start(&q, db, "SELECT name,sha256,bytes FROM resource_file WHERE resource_id=$1 ORDER BY seq", BIND(T(id)),
                err);
    while (out->file_count < count && query_row(&q))
        out->files[out->file_count++] =
            (struct store_file){query_text(&q, 0, arena), query_text(&q, 1, arena), query_int(&q, 2)};
    return query_end(&q);
}

int sqlstore_resource(struct db *db, enum store_kind kind, const char *owner, const char *id, struct arena *arena,
                      struct store_resource *out, struct err *err)
{
#define SELECT_ONE(table) "SELECT " COLUMNS " FROM " table " WHERE id=$1 AND owner=$2"
    static const char *const sql[] = BOTH(SELECT_ONE);
    struct query q;
    query_start(&q, db, sql[kind], BIND(T(id), T(owner)), err);
    bool found = query_row(&q);
    if (found)
        read_row(&q, arena, out);
    if (query_end(&q))
        return -1;
    if (!found)
        return err_set(err, ERR_NOT_FOUND, "there is no %s '%.60s'", noun[kind], id);
    return sqlstore_files(db, id, arena, out, err);
}

/* ---- insert -------------------------------------------------------------------------------------------------------
 */

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct store_file *const *)a)->name, (*(const struct store_file *const *)b)->name);
}

/* One hash over all files: the first, then the others by name. Equal content has equal keys, however it was named and
 * ordered. */
static int content_key(const struct store_resource *in, char key[SHA256_HEX], struct err *err)
{
    struct hash hash;
    hash_init(&hash);
    hash_update(&hash, in->files[0].sha256, SHA256_HEX);
    size_t n = (size_t)in->file_count - 1;
    const struct store_file **sorted = calloc(n + 1, sizeof *sorted);
    if (!sorted)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (size_t i = 0; i < n; i++)
        sorted[i] = &in->files[i + 1];
    qsort(sorted, n, sizeof *sorted, by_name);
    for (size_t i = 0; i < n; i++) {
        hash_update(&hash, sorted[i]->name, strlen(sorted[i]->name) + 1);
        hash_update(&hash, sorted[i]->sha256, SHA256_HEX);
    }
    free(sorted);
    hash_final(&hash, key);
    return 0;
}

static int insert_parts(struct db *db, const char *id, const struct store_resource *in,
                        const struct store_detail *details, struct err *err)
{
    for (int i = 0; i < in->file_count; i++)
        if (db_run(db, "INSERT INTO resource_file(resource_id,seq,owner,name,sha256,bytes) VALUES($1,$2,$3,$4,$5,$6)",
                   BIND(T(id), I(i), T(in->owner), T(in->files[i].name), T(in->files[i].sha256), I(in->files[i].bytes)),
                   err) < 0)
            return -1;
    for (; details && details->what; details++)
        if (db_run(db, "INSERT INTO resource_detail(resource_id,what,owner,json) VALUES($1,$2,$3,$4)",
                   BIND(T(id), T(details->what), T(in->owner), T(details->json)), err) < 0)
            return -1;
    return 0;
}

/* Inside the transaction: *existed tells whether `id` is the old row's. */
static int insert_resource(struct db *db, enum store_kind kind, const struct store_resource *in, const char *key,
                           const struct store_detail *details, char id[ID_SIZE], bool *existed, struct err *err)
{
#define SELECT_SAME(table) "SELECT id FROM " table " WHERE owner=$1 AND content=$2"
#define INSERT_ONE(table)                                                                                              \
    "INSERT INTO " table "(id,owner,name,sha256,content,bytes,facts,parent_job,created_at)"                            \
    " VALUES($1,$2,$3,$4,$5,$6,$7,$8,@NOW@) ON CONFLICT(owner,content) DO NOTHING RETURNING id"
    static const char *const same[] = BOTH(SELECT_SAME), *const insert[] = BOTH(INSERT_ONE);
    int64_t bytes = 0;
    for (int i = 0; i < in->file_count; i++)
        bytes += in->files[i].bytes;
    id_new(id, prefix[kind]);
    int rows = db_run(db, insert[kind],
                      BIND(T(id), T(in->owner), T(in->name), T(in->files[0].sha256), T(key), I(bytes),
                           T(in->facts ? in->facts : "{}"), T(in->parent_job)),
                      err);
    if (rows < 0)
        return -1;
    *existed = rows == 0;
    int64_t open = 0;
    if (!*existed && in->max_bytes > 0 &&
        (sqlstore_open_bytes(db, in->owner, in->files, in->file_count, &open, err) ||
         sqlstore_check_bytes(db, in->owner, open, in->max_bytes, err)))
        return -1;
    if (!*existed)
        return insert_parts(db, id, in, details, err);
    struct query q;
    query_start(&q, db, same[kind], BIND(T(in->owner), T(key)), err);
    if (query_row(&q))
        query_copy(&q, 0, id, ID_SIZE);
    return query_end(&q);
}

int store_resource_insert(struct store *store, enum store_kind kind, const struct store_resource *in,
                          const struct store_detail *details, struct arena *arena, struct store_resource *out,
                          bool *existed, struct err *err)
{
    char key[SHA256_HEX], id[ID_SIZE];
    if (in->file_count < 1)
        return err_set(err, ERR_INTERNAL, "a %s without files", noun[kind]);
    if (content_key(in, key, err))
        return -1;
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if (insert_resource(db, kind, in, key, details, id, existed, err) ||
        sqlstore_resource(db, kind, in->owner, id, arena, out, err)) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

/* ---- read ---------------------------------------------------------------------------------------------------------
 */

int store_resource_get(struct store *store, enum store_kind kind, const char *owner, const char *id,
                       struct arena *arena, struct store_resource *out, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = sqlstore_resource(db, kind, owner, id, arena, out, err);
    db_end(db);
    return rc;
}

int store_resource_details(struct store *store, enum store_kind kind, const char *owner, const char *id,
                           const char *what, struct arena *arena, const char **json, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    *json = NULL;
    query_start(&q, db, "SELECT json FROM resource_detail WHERE resource_id=$1 AND owner=$2 AND what=$3",
                BIND(T(id), T(owner), T(what)), err);
    if (query_row(&q))
        *json = query_text(&q, 0, arena);
    int rc = query_end(&q);
    db_end(db);
    if (rc == 0 && !*json)
        rc = err_set(err, ERR_NOT_FOUND, "there is no %s '%.60s'", noun[kind], id);
    return rc;
}

int store_resource_list(struct store *store, enum store_kind kind, const struct store_page *page, struct arena *arena,
                        struct store_resource *rows, int *count, bool *more, struct err *err)
{
#define SELECT_PAGE(table)                                                                                             \
    "SELECT " COLUMNS " FROM " table " WHERE owner=$1 AND id<$2 AND id>=$4 AND created_at>=$5 AND created_at<$6"       \
    " ORDER BY id DESC LIMIT $3"
#define SELECT_NAMED(table)                                                                                            \
    "SELECT " COLUMNS " FROM " table " WHERE owner=$1 AND id<$2 AND id>=$4 AND created_at>=$5 AND created_at<$6"       \
    " AND name=$7 ORDER BY id DESC LIMIT $3"
    static const char *const all[] = BOTH(SELECT_PAGE), *const named[] = BOTH(SELECT_NAMED);
    const struct id_span span = sqlstore_span(page, kind == STORE_MODEL ? "mdl" : "dst");
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    *count = 0;
    const struct sql_value values[] = {
        T(page->owner), T(span.high),          I(page->limit + 1),
        T(span.low),    I(page->created_from), I(page->created_before ? page->created_before : INT64_MAX),
        T(page->name)};
    query_start(&q, db, page->name ? named[kind] : all[kind], values, page->name ? 7 : 6, err);
    while (query_page_row(&q, page->limit, count, more))
        read_row(&q, arena, &rows[*count - 1]);
    int rc = query_end(&q);
    for (int i = 0; i < *count && rc == 0; i++)
        rc = sqlstore_files(db, rows[i].id, arena, &rows[i], err);
    db_end(db);
    return rc;
}

/* ---- delete -------------------------------------------------------------------------------------------------------
 */

static int blob_used(struct db *db, const char *sha256, int64_t *used, struct err *err)
{
    return db_int(
        db,
        "SELECT EXISTS(SELECT 1 FROM resource_file WHERE sha256=$1) OR EXISTS(SELECT 1 FROM artifact WHERE sha256=$1)"
        " OR EXISTS(SELECT 1 FROM upload WHERE sha256=$1)",
        BIND(T(sha256)), 0, used, err);
}

int store_blob_used(struct store *store, const char *sha256, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int64_t used = 0;
    int rc = blob_used(db, sha256, &used, err);
    db_end(db);
    return rc ? -1 : used != 0;
}

int sqlstore_orphans(struct db *db, const char **hashes, int count, struct arena *arena, struct store_orphans *orphans,
                     struct err *err)
{
    *orphans = (struct store_orphans){arena_calloc(arena, (size_t)count + 1, sizeof *orphans->sha256), 0};
    if (!orphans->sha256)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < count; i++) {
        int64_t used;
        if (blob_used(db, hashes[i], &used, err))
            return -1;
        if (!used)
            orphans->sha256[orphans->count++] = hashes[i];
    }
    return 0;
}

static int refuse_if_used(struct db *db, enum store_kind kind, const char *id, struct err *err)
{
    struct query q;
    char job[ID_SIZE] = "";
    query_start(&q, db,
                "SELECT job.id FROM job_input JOIN job ON job.id=job_input.job_id"
                " WHERE resource_id=$1 AND state IN('queued','running') LIMIT 1 @LOCK@",
                BIND(T(id)), err);
    if (query_row(&q))
        query_copy(&q, 0, job, sizeof job);
    if (query_end(&q))
        return -1;
    if (*job)
        return err_set(err, ERR_IN_USE,
                       "the %s is needed by job '%s', which has not ended; cancel the job or wait for it", noun[kind],
                       job);
    return 0;
}

static int delete_resource(struct db *db, enum store_kind kind, const char *owner, const char *id, struct arena *arena,
                           struct store_orphans *orphans, struct err *err)
{
#define DELETE_ONE(table) "DELETE FROM " table " WHERE id=$1 AND owner=$2 RETURNING id"
    static const char *const sql[] = BOTH(DELETE_ONE);
    const char **hashes;
    int count, rows = db_run(db, sql[kind], BIND(T(id), T(owner)), err);
    if (rows == 0)
        return err_set(err, ERR_NOT_FOUND, "there is no %s '%.60s'", noun[kind], id);
    if (rows < 0 || refuse_if_used(db, kind, id, err) ||
        sqlstore_column(db, "SELECT DISTINCT sha256 FROM resource_file WHERE resource_id=$1", id, arena, &hashes,
                        &count, err) ||
        db_run(db, "DELETE FROM resource_file WHERE resource_id=$1", BIND(T(id)), err) < 0 ||
        db_run(db, "DELETE FROM resource_detail WHERE resource_id=$1", BIND(T(id)), err) < 0)
        return -1;
    return sqlstore_orphans(db, hashes, count, arena, orphans, err);
}

int store_resource_delete(struct store *store, enum store_kind kind, const char *owner, const char *id,
                          struct arena *arena, struct store_orphans *orphans, struct err *err)
{
    *orphans = (struct store_orphans){0};
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if (delete_resource(db, kind, owner, id, arena, orphans, err)) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

/* ---- recipes ------------------------------------------------------------------------------------------------------
 */

#define RECIPE_COLUMNS "id,owner,name,body,created_at"

static void read_recipe(struct query *q, struct arena *arena, struct store_recipe *out)
{
    *out = (struct store_recipe){query_text(q, 0, arena), query_text(q, 1, arena), query_text(q, 2, arena),
                                 query_text(q, 3, arena), query_int(q, 4)};
}

static int get_recipe(struct db *db, const char *owner, const char *name, struct arena *arena, struct store_recipe *out,
                      struct err *err)
{
    struct query q;
    query_start(&q, db, "SELECT " RECIPE_COLUMNS " FROM recipe WHERE owner=$1 AND name=$2", BIND(T(owner), T(name)),
                err);
    bool found = query_row(&q);
    if (found)
        read_recipe(&q, arena, out);
    if (query_end(&q))
        return -1;
    return found ? 0 : err_set(err, ERR_NOT_FOUND, "There is no recipe '%.100s'; GET /v1/recipes lists them.", name);
}

int store_recipe_insert(struct store *store, const char *owner, const char *name, const char *body, struct arena *arena,
                        struct store_recipe *out, bool *existed, struct err *err)
{
    char id[ID_SIZE];
    id_new(id, "rcp");
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    int rows = db_run(db,
                      "INSERT INTO recipe(id,owner,name,body,created_at) VALUES($1,$2,$3,$4,@NOW@)"
                      " ON CONFLICT(owner,name) DO NOTHING RETURNING id",
                      BIND(T(id), T(owner), T(name), T(body)), err);
    *existed = rows == 0;
    if (rows < 0 || get_recipe(db, owner, name, arena, out, err))
        goto fail;
    if (rows > 0 && sqlstore_check_count(db, "SELECT count(*)-1 FROM recipe WHERE owner=$1", owner, STORE_RECIPES_MAX,
                                         "recipes", err))
        goto fail;
    if (*existed && strcmp(out->body, body)) {
        err_set(err, ERR_WRONG_STATE, "there is another recipe named '%.100s'; delete it first or choose another name",
                name);
        goto fail;
    }
    return db_commit(db, err);
fail:
    db_abort(db);
    return -1;
}

int store_recipe_get(struct store *store, const char *owner, const char *name, struct arena *arena,
                     struct store_recipe *out, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = get_recipe(db, owner, name, arena, out, err);
    db_end(db);
    return rc;
}

int store_recipe_list(struct store *store, const struct store_page *page, struct arena *arena,
                      struct store_recipe *rows, int *count, bool *more, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    *count = 0;
    query_start(&q, db, "SELECT " RECIPE_COLUMNS " FROM recipe WHERE owner=$1 AND id<$2 ORDER BY id DESC LIMIT $3",
                BIND(T(page->owner), T(page->after ? page->after : "~"), I(page->limit + 1)), err);
    while (query_page_row(&q, page->limit, count, more))
        read_recipe(&q, arena, &rows[*count - 1]);
    int rc = query_end(&q);
    db_end(db);
    return rc;
}

int store_recipe_delete(struct store *store, const char *owner, const char *name, struct err *err)
{
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    int rows = db_run(db, "DELETE FROM recipe WHERE owner=$1 AND name=$2 RETURNING id", BIND(T(owner), T(name)), err);
    if (rows <= 0) {
        db_abort(db);
        return rows < 0 ? -1
                        : err_set(err, ERR_NOT_FOUND, "There is no recipe '%.100s'; GET /v1/recipes lists them.", name);
    }
    return db_commit(db, err);
}
