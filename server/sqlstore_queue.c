/* SPDX-License-Identifier: Apache-2.0
 * The queue as workers see it. Execution is at least once: a worker may die, or be so slow that its lease ends and
 * another one takes over. The effect is exactly once, because every write here has the condition
 *
 *     WHERE id = the job AND attempt = the number given out with the claim AND state = 'running'
 *
 * and a claim counts `attempt` up: the words of a former holder match no row. A result becomes visible, with its
 * artifacts, in the one transaction that also ends the job. */
#include <string.h>

#include "core/base/hash.h"
#include "server/sqlstore.h"

enum { REAP_AT_ONCE = 100, BACKOFF_MAX_S = 1024 };

/* ---- claim --------------------------------------------------------------------------------------------------------
 */

static const char claim_sql[] =
    "WITH c AS MATERIALIZED(SELECT id FROM job WHERE owner=$3 AND state='queued' AND run_at<=@NOW@"
    " ORDER BY priority DESC,run_at,id LIMIT 1 @SKIP@)"
    " UPDATE job SET state='running',attempt=attempt+1,lease_owner=$1,lease_until=@NOW@+$2,version=version+1,"
    "started_at=coalesce(started_at,@NOW@) WHERE id IN(SELECT id FROM c)"
    " RETURNING id,owner,request,attempt,timeout_s,memory_bytes,threads,@NOW@-created_at,traceparent";

static int claim_inputs(struct db *db, struct arena *arena, struct store_claim *out, struct err *err)
{
    struct store_job job;
    if (sqlstore_job(db, out->owner, out->id, arena, &job, err))
        return -1;
    for (int role = 0; role < JOB_ROLE_COUNT; role++) {
        if (!job.inputs[role])
            continue;
        struct store_resource *resource = arena_alloc(arena, sizeof *resource);
        if (!resource)
            return err_set(err, ERR_NOMEM, "out of memory");
        if (sqlstore_resource(db, job_role_kind((enum job_role)role), out->owner, job.inputs[role], arena, resource,
                              err))
            return -1;
        out->inputs[role] = resource;
    }
    return 0;
}

static int claim_one(struct db *db, const char *worker, int64_t lease_ms, struct arena *arena, struct store_claim *out,
                     struct err *err)
{
    struct query q;
    char owner[SQLSTORE_OWNER];
    *out = (struct store_claim){0};
    int waits = sqlstore_next_owner(db, owner, err);
    if (waits <= 0)
        return waits;
    query_start(&q, db, claim_sql, BIND(T(worker), I(lease_ms), T(owner)), err);
    while (query_row(&q))
        *out = (struct store_claim){
            .id = query_text(&q, 0, arena),
            .owner = query_text(&q, 1, arena),
            .request = query_text(&q, 2, arena),
            .attempt = query_int(&q, 3),
            .timeout_s = query_int(&q, 4),
            .memory_bytes = query_int(&q, 5),
            .threads = query_int(&q, 6),
            .waited_ms = query_int(&q, 7),
            .traceparent = query_text(&q, 8, arena),
        };
    if (query_end(&q))
        return -1;
    if (!out->id)
        return 0;
    return sqlstore_owner_served(db, owner, err) || claim_inputs(db, arena, out, err) ||
                   sqlstore_state_event(db, out->id, JOB_RUNNING, err)
               ? -1
               : 1;
}

int store_job_claim(struct store *store, const char *worker, int64_t lease_ms, struct arena *arena,
                    struct store_claim *out, struct err *err)
{
    struct db *db = db_read(store, err); /* most looks find nothing: they need not wait for the writer */
    if (!db)
        return -1;
    int64_t any;
    int rc = db_int(db, "SELECT EXISTS(SELECT 1 FROM job WHERE state='queued' AND run_at<=@NOW@)", BIND_NOTHING, 0,
                    &any, err);
    db_end(db);
    if (rc || !any)
        return rc;
    db = db_write(store, true, err);
    if (!db)
        return -1;
    int claimed = claim_one(db, worker, lease_ms, arena, out, err);
    if (claimed <= 0) {
        db_abort(db);
        return claimed;
    }
    if (db_commit(db, err))
        return -1;
    db_changed(store, STORE_CHANGE_JOB, out->id);
    return 1;
}

/* ---- while it runs ------------------------------------------------------------------------------------------------
 */

enum store_beat store_job_beat(struct store *store, const char *id, int64_t attempt, int64_t lease_ms, struct err *err)
{
    struct db *db = db_write(store, false, err);
    if (!db)
        return STORE_BEAT_ERROR;
    int64_t cancel;
    if (db_int(db,
               "UPDATE job SET lease_until=@NOW@+$3 WHERE id=$1 AND attempt=$2 AND state='running'"
               " RETURNING CASE WHEN cancel_requested_at IS NULL THEN 0 ELSE 1 END",
               BIND(T(id), I(attempt), I(lease_ms)), -1, &cancel, err)) {
        db_abort(db);
        return STORE_BEAT_ERROR;
    }
    if (db_commit(db, err))
        return STORE_BEAT_ERROR;
    return cancel < 0 ? STORE_BEAT_LOST : cancel ? STORE_BEAT_CANCEL : STORE_BEAT_OK;
}

/* Is (id, attempt) still running? 1, 0, -1. Inside a write transaction this stays true until its end. */
static int holds(struct db *db, const char *id, int64_t attempt, struct err *err)
{
    int64_t there;
    if (db_int(db, "SELECT 1 FROM job WHERE id=$1 AND attempt=$2 AND state='running' @LOCK@", BIND(T(id), I(attempt)),
               0, &there, err))
        return -1;
    return there != 0;
}

/* End a fenced write: commit if it was made, else take it back. */
static int fenced(struct db *db, int rc, const char *id, struct err *err)
{
    struct store *store = db->store;
    if (rc <= 0) {
        db_abort(db);
        return rc;
    }
    if (db_commit(db, err))
        return -1;
    db_changed(store, STORE_CHANGE_JOB, id);
    return 1;
}

int store_job_progress(struct store *store, const char *id, int64_t attempt, const struct store_progress *p,
                       struct err *err)
{
    struct db *db = db_write(store, false, err);
    if (!db)
        return -1;
    int rc = holds(db, id, attempt, err);
    if (rc > 0 &&
        db_run(db,
               "UPDATE job_progress SET step=$2,steps=$3,stage=$4,done=$5,total=$6,eta_s=$7,version=version+1,"
               "updated_at=@NOW@ WHERE job_id=$1",
               BIND(T(id), I(p->step), I(p->steps), T(p->stage ? p->stage : ""), I(p->done), I(p->total), R(p->eta_s)),
               err) < 0)
        rc = -1;
    return fenced(db, rc, id, err);
}

int store_event_append(struct store *store, const char *id, int64_t attempt, const char *type, const char *data,
                       struct err *err)
{
    struct db *db = db_write(store, false, err);
    if (!db)
        return -1;
    int rc = holds(db, id, attempt, err);
    if (rc > 0 && (sqlstore_event(db, id, type, data, err) ||
                   db_run(db, "UPDATE job_progress SET version=version+1 WHERE job_id=$1", BIND(T(id)), err) < 0))
        rc = -1;
    return fenced(db, rc, id, err);
}

int store_job_metric(struct store *store, const char *id, int64_t attempt, const char *data, struct err *err)
{
    struct db *db = db_write(store, false, err);
    if (!db)
        return -1;
    int rc = holds(db, id, attempt, err);
    if (rc > 0 && (sqlstore_event(db, id, "metric", data, err) ||
                   db_run(db, "UPDATE job_progress SET metric=$2,version=version+1,updated_at=@NOW@ WHERE job_id=$1",
                          BIND(T(id), T(data)), err) < 0))
        rc = -1;
    return fenced(db, rc, id, err);
}

/* ---- the end of an attempt ----------------------------------------------------------------------------------------
 */

/* What is known of the attempt when it ends. */
struct attempt {
    char id[ID_SIZE];
    int64_t attempt, crashes, losses;
    bool cancel;
};
/* What becomes of the job. */
struct next {
    enum job_state state;
    int64_t crashes, losses;
    int64_t delay_ms; /* before it may be claimed again; -1: its place in the queue stays */
};

/* min(2^attempt, 1024) s, +-10 % so that jobs that failed together do not come back together. */
static int64_t backoff_ms(const struct attempt *a)
{
    int64_t seconds = a->attempt >= 10 ? BACKOFF_MAX_S : INT64_C(1) << a->attempt;
    return seconds * (900 + (int64_t)(fnv1a(a->id) % 201));
}

static struct next again(const struct attempt *a, bool failed, int64_t delay_ms)
{
    struct next next = {a->cancel ? JOB_CANCELED : failed ? JOB_FAILED : JOB_QUEUED, a->crashes, a->losses, delay_ms};
    return next;
}

static struct next decide(const struct attempt *a, enum store_outcome_kind kind)
{
    struct next next = {JOB_CANCELED, a->crashes, a->losses, -1};
    switch (kind) {
    case STORE_SUCCEEDED:
        next.state = JOB_SUCCEEDED;
        break;
    case STORE_FAILED:
        next.state = JOB_FAILED;
        break;
    case STORE_CANCELED:
        next.state = JOB_CANCELED;
        break;
    case STORE_CRASHED:
        next = again(a, a->crashes + 1 >= JOB_CRASH_LIMIT, backoff_ms(a));
        next.crashes++;
        break;
    case STORE_RETRY:
        next = again(a, a->losses + 1 >= JOB_LOSS_LIMIT, backoff_ms(a));
        next.losses++;
        break;
    case STORE_RELEASED:
        next = again(a, false, -1);
        break;
    }
    return next;
}

static int read_attempt(struct db *db, const char *id, int64_t attempt, struct attempt *out, struct err *err)
{
    struct query q;
    *out = (struct attempt){0};
    query_start(&q, db,
                "SELECT id,attempt,crashes,losses,cancel_requested_at IS NOT NULL FROM job"
                " WHERE id=$1 AND attempt=$2 AND state='running' @LOCK@",
                BIND(T(id), I(attempt)), err);
    bool found = query_row(&q);
    if (found) {
        query_copy(&q, 0, out->id, sizeof out->id);
        out->attempt = query_int(&q, 1);
        out->crashes = query_int(&q, 2);
        out->losses = query_int(&q, 3);
        out->cancel = query_int(&q, 4) != 0;
    }
    return query_end(&q) ? -1 : found;
}

static int write_next(struct db *db, const struct attempt *a, const struct next *next, const char *result,
                      const char *error, struct err *err)
{
    static const char ended[] =
        "UPDATE job SET state=$3,crashes=$4,losses=$5,result=$6,error=$7,lease_owner=NULL,lease_until=NULL,"
        "finished_at=@NOW@,version=version+1 WHERE id=$1 AND attempt=$2 AND state='running' RETURNING id";
    static const char queued[] = "UPDATE job SET state='queued',crashes=$3,losses=$4,lease_owner=NULL,lease_until=NULL,"
                                 "run_at=CASE WHEN $5>=0 THEN @NOW@+$5 WHEN run_at>@NOW@ THEN @NOW@ ELSE run_at END,"
                                 "version=version+1"
                                 " WHERE id=$1 AND attempt=$2 AND state='running' RETURNING id";
    int rows;
    if (next->state == JOB_QUEUED)
        rows = db_run(db, queued, BIND(T(a->id), I(a->attempt), I(next->crashes), I(next->losses), I(next->delay_ms)),
                      err);
    else
        rows =
            db_run(db, ended,
                   BIND(T(a->id), I(a->attempt), T(job_state_name(next->state)), I(next->crashes), I(next->losses),
                        T(next->state == JOB_SUCCEEDED ? result : NULL), T(next->state == JOB_FAILED ? error : NULL)),
                   err);
    if (rows <= 0)
        return rows;
    if (next->state == JOB_QUEUED && db_run(db, /* the next attempt begins anew */
                                            "UPDATE job_progress SET step=0,steps=0,stage='',done=0,total=0,eta_s=-1,"
                                            "metric=NULL,version=version+1,updated_at=@NOW@ WHERE job_id=$1",
                                            BIND(T(a->id)), err) < 0)
        return -1;
    return sqlstore_state_event(db, a->id, next->state, err) ? -1 : 1;
}

static int publish(struct db *db, const char *job_id, const struct store_outcome *outcome, struct err *err)
{
    for (int i = 0; i < outcome->artifact_count; i++) {
        const struct store_artifact *artifact = &outcome->artifacts[i];
        char id[ID_SIZE];
        id_new(id, "art");
        if (db_run(db,
                   "INSERT INTO artifact(id,owner,job_id,name,media_type,sha256,bytes,created_at)"
                   " SELECT $1,owner,id,$3,$4,$5,$6,@NOW@ FROM job WHERE id=$2",
                   BIND(T(id), T(job_id), T(artifact->name), T(artifact->media_type), T(artifact->sha256),
                        I(artifact->bytes)),
                   err) < 0)
            return -1;
    }
    return 0;
}

int store_job_settle(struct store *store, const char *id, int64_t attempt, const struct store_outcome *outcome,
                     enum job_state *state, struct err *err)
{
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    struct attempt a;
    struct next next = {0};
    int rc = read_attempt(db, id, attempt, &a, err);
    if (rc > 0) {
        next = decide(&a, outcome->kind);
        rc = write_next(db, &a, &next, outcome->result, outcome->error, err);
    }
    if (rc > 0 && next.state == JOB_SUCCEEDED && publish(db, id, outcome, err))
        rc = -1;
    rc = fenced(db, rc, id, err);
    if (rc > 0) {
        *state = next.state;
        if (next.state == JOB_QUEUED)
            db_changed(store, STORE_CHANGE_QUEUED, id);
    }
    return rc;
}

/* ---- the reaper ---------------------------------------------------------------------------------------------------
 */

static int find_lost(struct db *db, const char *node, struct attempt *list, int *count, struct err *err)
{
    struct query q;
    *count = 0;
    query_start(
        &q, db,
        "SELECT id,attempt,crashes,losses,cancel_requested_at IS NOT NULL FROM job"
        " WHERE state='running' AND (lease_until<@NOW@ OR ($1<>'' AND substr(lease_owner,1,length($1)+1)=$1||':'))"
        " ORDER BY id LIMIT $2 @SKIP@",
        BIND(T(node ? node : ""), I(REAP_AT_ONCE)), err);
    while (*count < REAP_AT_ONCE && query_row(&q)) {
        struct attempt *a = &list[(*count)++];
        query_copy(&q, 0, a->id, sizeof a->id);
        a->attempt = query_int(&q, 1);
        a->crashes = query_int(&q, 2);
        a->losses = query_int(&q, 3);
        a->cancel = query_int(&q, 4) != 0;
    }
    return query_end(&q);
}

/* One page of lost jobs: found, decided and written in one transaction. */
static int reap_page(struct store *store, const char *node, struct attempt *list, bool *queued, int *count,
                     struct err *err)
{
    static const char lost[] = "{\"code\":\"job_lost\",\"title\":\"Lease lost too often\",\"detail\":\"The job was "
                               "interrupted too often: its worker stopped 20 times.\"}";
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    int rc = find_lost(db, node, list, count, err);
    for (int i = 0; i < *count && rc == 0; i++) {
        struct next next = decide(&list[i], STORE_RETRY);
        if (node)
            next.delay_ms = -1; /* the server itself was away: nothing speaks against this job */
        queued[i] = next.state == JOB_QUEUED;
        rc = write_next(db, &list[i], &next, NULL, lost, err) < 0 ? -1 : 0;
    }
    if (rc || *count == 0) {
        db_abort(db);
        return rc;
    }
    return db_commit(db, err);
}

int store_job_reap(struct store *store, const char *node, int *count, struct err *err)
{
    struct attempt list[REAP_AT_ONCE];
    bool queued[REAP_AT_ONCE];
    int n;
    *count = 0;
    if (sqlstore_follow_clock(store, err))
        return -1;
    do {
        if (reap_page(store, node, list, queued, &n, err))
            return -1;
        for (int i = 0; i < n; i++)
            db_changed(store, queued[i] ? STORE_CHANGE_QUEUED : STORE_CHANGE_JOB, list[i].id);
        *count += n;
    } while (n == REAP_AT_ONCE);
    return 0;
}

int store_job_active(struct store *store, const char *id, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int64_t active;
    int rc = db_int(db, "SELECT 1 FROM job WHERE id=$1 AND state IN('queued','running')", BIND(T(id)), 0, &active, err);
    db_end(db);
    return rc ? -1 : active != 0;
}
