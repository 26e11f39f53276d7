/* SPDX-License-Identifier: Apache-2.0
 * What a stream of a job's events reads: state, progress and the events behind a number, in one look at one moment. */
#include "server/sqlstore.h"

static int tail_state(struct db *db, const char *owner, const char *id, struct arena *arena, struct store_tail *out,
                      struct err *err)
{
    struct query q;
    query_start(&q, db,
                "SELECT state,job.version+p.version,step,steps,stage,done,total,eta_s,updated_at"
                " FROM job JOIN job_progress p ON p.job_id=job.id WHERE job.id=$1 AND job.owner=$2",
                BIND(T(id), T(owner)), err);
    bool found = query_row(&q);
    if (found) {
        int state = job_state_from_name(query_raw(&q, 0));
        out->state = state < 0 ? JOB_FAILED : (enum job_state)state;
        out->version = query_int(&q, 1);
        out->progress = (struct store_progress){.step = query_int(&q, 2),
                                                .steps = query_int(&q, 3),
                                                .stage = query_text(&q, 4, arena),
                                                .done = query_int(&q, 5),
                                                .total = query_int(&q, 6),
                                                .eta_s = query_real(&q, 7),
                                                .updated_at = query_int(&q, 8)};
    }
    if (query_end(&q))
        return -1;
    return found ? 0 : err_set(err, ERR_NOT_FOUND, "there is no job '%.60s'", id);
}

int store_job_tail(struct store *store, const char *owner, const char *id, int64_t after, int limit,
                   struct arena *arena, struct store_event *rows, struct store_tail *out, struct err *err)
{
    *out = (struct store_tail){0};
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    int rc = tail_state(db, owner, id, arena, out, err);
    if (rc == 0) {
        query_start(&q, db,
                    "SELECT seq,at,type,data FROM job_event WHERE job_id=$1 AND seq>$2 ORDER BY seq LIMIT $3",
                    BIND(T(id), I(after), I(limit)), err);
        while (out->count < limit && query_row(&q))
            rows[out->count++] = (struct store_event){query_int(&q, 0), query_int(&q, 1), query_text(&q, 2, arena),
                                                      query_text(&q, 3, arena)};
        rc = query_end(&q);
    }
    db_end(db);
    return rc;
}
