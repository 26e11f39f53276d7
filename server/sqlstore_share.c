/* SPDX-License-Identifier: Apache-2.0
 * Whose turn is it at the queue? Owners take turns, so that ten thousand jobs of one do not keep another's single job
 * waiting. Next is the owner with the fewest running jobs; among equals the one whose last turn is longest ago. Turns
 * are counted, not timed: a clock that jumps changes nothing. Within an owner the job with the highest priority is
 * next, then the oldest; across owners priorities say nothing, else everybody would ask for the highest one.
 *
 * The owners that wait are found by steps through the index job_claim(owner, priority DESC, run_at, id), one seek an
 * owner, however many jobs each has. */
#include <stdio.h>

#include "server/sqlstore.h"

/* The first owner by the order of job_claim, which the database then uses; for min(owner) SQLite walks an index of all
 * jobs. */
#define FIRST_OWNER(more)                                                                                              \
    "(SELECT owner FROM job WHERE state='queued'" more " ORDER BY owner,priority DESC,run_at,id LIMIT 1)"
#define WAITING                                                                                                        \
    "WITH RECURSIVE waiting(owner) AS (SELECT " FIRST_OWNER(                                                           \
        "") " UNION ALL"                                                                                               \
            " SELECT " FIRST_OWNER(" AND job.owner>waiting.owner") " FROM waiting WHERE waiting.owner IS NOT NULL) "
#define RUNNING_OF(owner) "(SELECT count(*) FROM job WHERE job.owner=" owner " AND state='running')"

int sqlstore_next_owner(struct db *db, char owner[SQLSTORE_OWNER], struct err *err)
{
    static const char sql[] =
        WAITING "SELECT w.owner FROM waiting w LEFT JOIN owner_turn t ON t.owner=w.owner"
                " WHERE w.owner IS NOT NULL"
                " AND EXISTS(SELECT 1 FROM job WHERE job.owner=w.owner AND state='queued' AND run_at<=@NOW@)"
                " ORDER BY " RUNNING_OF("w.owner") ",coalesce(t.turn,0),w.owner LIMIT 1";
    struct query q;
    query_start(&q, db, sql, BIND_NOTHING, err);
    bool found = query_row(&q);
    if (found)
        query_copy(&q, 0, owner, SQLSTORE_OWNER);
    return query_end(&q) ? -1 : found;
}

int sqlstore_owner_served(struct db *db, const char *owner, struct err *err)
{
    return db_run(db,
                  "INSERT INTO owner_turn(owner,turn) SELECT $1,1+coalesce(max(turn),0) FROM owner_turn WHERE true"
                  " ON CONFLICT(owner) DO UPDATE SET turn=excluded.turn",
                  BIND(T(owner)), err) < 0
               ? -1
               : 0;
}

/* A stretch of job_claim each: an OR would look at the whole queue of the owner. */
#define OWN_QUEUED(condition) "(SELECT count(*) FROM job WHERE owner=$2 AND state='queued' AND " condition ")"

/* If nothing else came: the job is the `rank`th of its owner, so it is taken in the owner's rank-th turn. Before that
 * the others have had as many turns each, or one less when their turn is after its owner's. */
int sqlstore_queue_position(struct db *db, struct store_job *job, struct err *err)
{
    static const char own[] =
        "SELECT 1+" OWN_QUEUED("priority>p") "+" OWN_QUEUED("priority=p AND run_at<r") "+" OWN_QUEUED(
            "priority=p AND run_at=r AND id<$1") " FROM (SELECT priority AS p, run_at AS r FROM job WHERE id=$1) mine";
    static const char others[] = WAITING
        "SELECT coalesce(sum(CASE WHEN c<$2 OR before THEN c ELSE c-1 END),0) FROM (SELECT"
        " (SELECT CASE WHEN n<$2 THEN n ELSE $2 END FROM tally q WHERE q.what='queued' AND q.owner=w.owner) AS c,"
        " (coalesce(t.turn,0)<coalesce(m.turn,0) OR (coalesce(t.turn,0)=coalesce(m.turn,0) AND w.owner<$1))"
        " AS before"
        " FROM waiting w LEFT JOIN owner_turn t ON t.owner=w.owner LEFT JOIN owner_turn m ON m.owner=$1"
        " WHERE w.owner IS NOT NULL AND w.owner<>$1) ahead";
    int64_t rank, ahead;
    if (job->state != JOB_QUEUED)
        return 0;
    if (db_int(db, own, BIND(T(job->id), T(job->owner)), 1, &rank, err) ||
        db_int(db, others, BIND(T(job->owner), I(rank)), 0, &ahead, err))
        return -1;
    job->queue_position = rank + ahead;
    return 0;
}
