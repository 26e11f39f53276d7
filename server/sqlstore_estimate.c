/* SPDX-License-Identifier: Apache-2.0
 * What estimates are made of: how long jobs like this one ran, and what stands before it. */
#include "server/sqlstore.h"

int store_run_times(struct store *store, const char *methods, int64_t least, int64_t most,
                    struct store_run rows[STORE_RUN_SAMPLES], int *count, struct err *err)
{
    struct db *db = db_read(store, err);
    *count = 0;
    if (!db)
        return -1;
    struct query q;
    query_start(&q, db,
                "SELECT finished_at-started_at,input_bytes FROM job WHERE state='succeeded' AND methods=$1"
                " AND input_bytes>=$2 AND input_bytes<=$3 AND attempt=1 ORDER BY id DESC LIMIT $4",
                BIND(T(methods), I(least), I(most), I(STORE_RUN_SAMPLES)), err);
    while (*count < STORE_RUN_SAMPLES && query_row(&q))
        rows[(*count)++] = (struct store_run){(double)query_int(&q, 0) / 1000, query_int(&q, 1)};
    int rc = query_end(&q);
    db_end(db);
    return rc;
}

/* Kinds of waiting jobs are told apart by their methods and by the number of digits of their size. */
static const char ahead_sql[] =
    "SELECT coalesce(methods,''),count(*),CAST(avg(input_bytes) AS BIGINT),-1.0 FROM (SELECT methods,input_bytes FROM "
    "job,"
    " (SELECT priority AS p,run_at AS r FROM job WHERE id=$1) mine"
    " WHERE state='queued' AND (priority>p OR (priority=p AND (run_at<r OR (run_at=r AND id<$1)))) LIMIT $3) ahead"
    " GROUP BY coalesce(methods,''),length(CAST(input_bytes AS TEXT))"
    " UNION ALL SELECT coalesce(methods,''),1,input_bytes,(@NOW@-started_at)/1000.0 FROM job WHERE state='running'"
    " LIMIT $2";

int store_queue_ahead(struct store *store, const char *job_id, struct arena *arena, struct store_ahead **rows,
                      int *count, struct err *err)
{
    enum { AHEAD_MAX = 256 };
    struct db *db = db_read(store, err);
    *count = 0;
    if (!db)
        return -1;
    struct query q;
    *rows = arena_calloc(arena, AHEAD_MAX, sizeof **rows);
    if (!*rows) {
        db_end(db);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    query_start(&q, db, ahead_sql, BIND(T(job_id), I(AHEAD_MAX), I(STORE_AHEAD_SAMPLE)), err);
    while (*count < AHEAD_MAX && query_row(&q))
        (*rows)[(*count)++] =
            (struct store_ahead){query_text(&q, 0, arena), query_int(&q, 1), query_int(&q, 2), query_real(&q, 3)};
    int rc = query_end(&q);
    db_end(db);
    return rc;
}
