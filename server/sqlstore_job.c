/* SPDX-License-Identifier: Apache-2.0
 * Jobs as clients see them: insert, read, list, cancel, delete, events, artifacts. */
#include <string.h>

#include "server/sqlstore.h"

enum { MAX_EVENTS = 10000 }; /* of one job; changes of state are always kept */

static const char *const state_names[] = {
#define X(id, name) [JOB_##id] = name,
    JOB_STATE_MAP(X)
#undef X
};
static const struct {
    const char *name;
    enum store_kind kind;
} roles[] = {
#define X(id, role_name, role_kind) [JOB_ROLE_##id] = {role_name, role_kind},
    JOB_ROLE_MAP(X)
#undef X
};

const char *job_state_name(enum job_state state)
{
    return (unsigned)state < JOB_STATE_COUNT ? state_names[state] : "unknown";
}

int job_state_from_name(const char *name)
{
    for (int i = 0; i < JOB_STATE_COUNT; i++)
        if (!strcmp(name, state_names[i]))
            return i;
    return -1;
}

bool job_state_ended(enum job_state state)
{
    return state == JOB_SUCCEEDED || state == JOB_FAILED || state == JOB_CANCELED;
}

const char *job_role_name(enum job_role role)
{
    return roles[role].name;
}

enum store_kind job_role_kind(enum job_role role)
{
    return roles[role].kind;
}

/* ---- events -------------------------------------------------------------------------------------------------------
 */

int sqlstore_event(struct db *db, const char *id, const char *type, const char *data, struct err *err)
{
    return db_run(db,
                  "INSERT INTO job_event(job_id,seq,owner,at,type,data)"
                  " SELECT $1,coalesce(max(seq),0)+1,(SELECT owner FROM job WHERE id=$1),@NOW@,$2,$3 FROM job_event"
                  " WHERE job_id=$1 HAVING coalesce(max(seq),0)<$4 OR $2='state'",
                  BIND(T(id), T(type), T(data), I(MAX_EVENTS)), err) < 0
               ? -1
               : 0;
}

int sqlstore_state_event(struct db *db, const char *id, enum job_state state, struct err *err)
{
    static const char *const data[] = {
#define X(id, name) [JOB_##id] = "{\"state\":\"" name "\"}",
        JOB_STATE_MAP(X)
#undef X
    };
    return sqlstore_event(db, id, "state", data[state], err);
}

int store_event_list(struct store *store, const char *owner, const char *job_id, const char *type, int64_t after,
                     int limit, struct arena *arena, struct store_event *rows, int *count, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    *count = 0;
    query_start(&q, db,
                "SELECT seq,at,type,data FROM job_event WHERE job_id=$1 AND owner=$2 AND seq>$3"
                " AND ($5='' OR type=$5) ORDER BY seq LIMIT $4",
                BIND(T(job_id), T(owner), I(after), I(limit), T(type ? type : "")), err);
    while (*count < limit && query_row(&q))
        rows[(*count)++] = (struct store_event){query_int(&q, 0), query_int(&q, 1), query_text(&q, 2, arena),
                                                query_text(&q, 3, arena)};
    int rc = query_end(&q);
    db_end(db);
    return rc;
}

/* ---- read ---------------------------------------------------------------------------------------------------------
 */

#define JOB_COLUMNS                                                                                                    \
    "job.id,job.owner,state,request,result,error,priority,timeout_s,memory_bytes,threads,attempt,crashes,losses,"      \
    "job.version+p.version,created_at,started_at,finished_at,cancel_requested_at,step,steps,stage,done,total,eta_s,"   \
    "updated_at,metric,job.name,retry_of,methods,input_bytes,traceparent"
#define JOB_TABLES " FROM job JOIN job_progress p ON p.job_id=job.id "

static void read_job(struct query *q, struct arena *arena, struct store_job *out)
{
    *out = (struct store_job){
        .id = query_text(q, 0, arena),
        .owner = query_text(q, 1, arena),
        .request = query_text(q, 3, arena),
        .result = query_text(q, 4, arena),
        .error = query_text(q, 5, arena),
        .priority = query_int(q, 6),
        .timeout_s = query_int(q, 7),
        .memory_bytes = query_int(q, 8),
        .threads = query_int(q, 9),
        .attempt = query_int(q, 10),
        .crashes = query_int(q, 11),
        .losses = query_int(q, 12),
        .version = query_int(q, 13),
        .created_at = query_int(q, 14),
        .started_at = query_int(q, 15),
        .finished_at = query_int(q, 16),
        .cancel_requested_at = query_int(q, 17),
        .progress = {query_int(q, 18), query_int(q, 19), query_int(q, 21), query_int(q, 22), query_text(q, 20, arena),
                     query_real(q, 23), query_int(q, 24), query_text(q, 25, arena)},
        .name = query_text(q, 26, arena),
        .retry_of = query_text(q, 27, arena),
        .methods = query_text(q, 28, arena),
        .input_bytes = query_int(q, 29),
        .traceparent = query_text(q, 30, arena),
    };
    int state = job_state_from_name(query_raw(q, 2));
    out->state = state < 0 ? JOB_FAILED : (enum job_state)state;
    out->expires_at = sqlstore_job_expires(q->db, out->finished_at);
}

static int read_inputs(struct db *db, struct arena *arena, struct store_job *job, struct err *err)
{
    struct query q;
    query_start(&q, db, "SELECT role,resource_id FROM job_input WHERE job_id=$1", BIND(T(job->id)), err);
    while (query_row(&q))
        for (int role = 0; role < JOB_ROLE_COUNT; role++)
            if (!strcmp(roles[role].name, query_raw(&q, 0)))
                job->inputs[role] = query_text(&q, 1, arena);
    return query_end(&q);
}

int sqlstore_job_row(struct db *db, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                     struct err *err)
{
    struct query q;
    query_start(&q, db, "SELECT " JOB_COLUMNS JOB_TABLES "WHERE job.id=$1 AND job.owner=$2", BIND(T(id), T(owner)),
                err);
    bool found = query_row(&q);
    if (found)
        read_job(&q, arena, out);
    if (query_end(&q))
        return -1;
    if (!found)
        return err_set(err, ERR_NOT_FOUND, "there is no job '%.60s'", id);
    return read_inputs(db, arena, out, err);
}

int sqlstore_job(struct db *db, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                 struct err *err)
{
    return sqlstore_job_row(db, owner, id, arena, out, err) || sqlstore_queue_position(db, out, err) ? -1 : 0;
}

int store_job_get(struct store *store, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                  struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = sqlstore_job(db, owner, id, arena, out, err);
    db_end(db);
    return rc;
}

int store_job_version(struct store *store, const char *owner, const char *id, int64_t *version, enum job_state *state,
                      struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    query_start(&q, db, "SELECT job.version+p.version,state" JOB_TABLES "WHERE job.id=$1 AND job.owner=$2",
                BIND(T(id), T(owner)), err);
    bool found = query_row(&q);
    if (found) {
        *version = query_int(&q, 0);
        int known = job_state_from_name(query_raw(&q, 1));
        *state = known < 0 ? JOB_FAILED : (enum job_state)known;
    }
    int rc = query_end(&q);
    db_end(db);
    if (rc == 0 && !found)
        rc = err_set(err, ERR_NOT_FOUND, "there is no job '%.60s'", id);
    return rc;
}

/* ---- insert -------------------------------------------------------------------------------------------------------
 */

/* 1: the key was used with the same body, `id` is the job of then. */
static int find_replay(struct db *db, const struct store_job_new *in, char id[ID_SIZE], struct err *err)
{
    struct query q;
    if (db_run(db, "DELETE FROM idempotency WHERE owner=$1 AND key=$2 AND expires_at<@NOW@",
               BIND(T(in->owner), T(in->idempotency_key)), err) < 0)
        return -1;
    query_start(&q, db, "SELECT request_sha256,job_id FROM idempotency WHERE owner=$1 AND key=$2",
                BIND(T(in->owner), T(in->idempotency_key)), err);
    bool found = query_row(&q), same = found && !strcmp(query_raw(&q, 0), in->request_sha256);
    if (found)
        query_copy(&q, 1, id, ID_SIZE);
    if (query_end(&q))
        return -1;
    if (found && !same)
        return err_set(err, ERR_INVALID,
                       "Idempotency-Key was used before with another body; use a new key for a new request");
    return found;
}

static int check_inputs(struct db *db, const struct store_job_new *in, struct err *err)
{
    static const char *const sql[] = {"SELECT 1 FROM model WHERE id=$1 AND owner=$2",
                                      "SELECT 1 FROM dataset WHERE id=$1 AND owner=$2"};
    for (int role = 0; role < JOB_ROLE_COUNT; role++) {
        int64_t there = 1;
        if (in->inputs[role] &&
            db_int(db, sql[roles[role].kind], BIND(T(in->inputs[role]), T(in->owner)), 0, &there, err))
            return -1;
        if (!there)
            return err_set(err, ERR_REFERENCE, "%s: there is no %s '%.60s'", roles[role].name,
                           roles[role].kind == STORE_MODEL ? "model" : "dataset", in->inputs[role]);
    }
    if (!in->inputs[JOB_ROLE_MODEL])
        return err_set(err, ERR_REFERENCE, "model: a job needs a model");
    return 0;
}

static int check_room(struct db *db, const struct store_job_new *in, struct err *err)
{
    int64_t queued;
    if (sqlstore_check_active(db, in->owner, in->max_active, err) ||
        sqlstore_check_bytes(db, in->owner, 1, in->max_bytes, err))
        return -1;
    if (!in->max_queued)
        return 0;
    if (db_int(db, "SELECT coalesce(sum(n),0) FROM tally WHERE what='queued'", BIND_NOTHING, 0, &queued, err))
        return -1;
    if (queued >= in->max_queued)
        return err_set(err, ERR_UNAVAILABLE,
                       "%lld jobs are waiting, which is the limit of this server; try again later", (long long)queued);
    return 0;
}

static int keep_key(struct db *db, const struct store_job_new *in, const char *id, struct err *err)
{
    if (!in->idempotency_key)
        return 0;
    return db_run(
               db, "INSERT INTO idempotency(owner,key,request_sha256,job_id,expires_at) VALUES($1,$2,$3,$4,@NOW@+$5)",
               BIND(T(in->owner), T(in->idempotency_key), T(in->request_sha256), T(id),
                    I(in->idempotency_ttl_s * 1000)),
               err) < 0
               ? -1
               : 0;
}

static int insert_rows(struct db *db, const struct store_job_new *in, const char *id, const char *fingerprint,
                       int64_t input_bytes, struct err *err)
{
    if (db_run(db,
               "INSERT INTO job(id,owner,state,priority,run_at,timeout_s,memory_bytes,threads,request,name,retry_of,"
               "methods,fingerprint,input_bytes,traceparent,created_at)"
               " VALUES($1,$2,'queued',$3,@NOW@,$4,$5,$6,$7,$8,$9,$10,nullif($11,''),$12,$13,@NOW@)",
               BIND(T(id), T(in->owner), I(in->priority), I(in->timeout_s), I(in->memory_bytes), I(in->threads),
                    T(in->request), T(in->name), T(in->retry_of), T(in->methods), T(fingerprint), I(input_bytes),
                    T(in->traceparent)),
               err) < 0 ||
        db_run(db,
               "INSERT INTO job_progress(job_id,owner,step,steps,stage,done,total,eta_s,version,updated_at)"
               " VALUES($1,$2,0,0,'',0,0,-1,0,@NOW@)",
               BIND(T(id), T(in->owner)), err) < 0)
        return -1;
    for (int role = 0; role < JOB_ROLE_COUNT; role++)
        if (in->inputs[role] && db_run(db, "INSERT INTO job_input(job_id,role,owner,resource_id) VALUES($1,$2,$3,$4)",
                                       BIND(T(id), T(roles[role].name), T(in->owner), T(in->inputs[role])), err) < 0)
            return -1;
    return sqlstore_labels(db, in, id, err) || keep_key(db, in, id, err) ||
                   sqlstore_state_event(db, id, JOB_QUEUED, err)
               ? -1
               : 0;
}

/* The job that is the answer: 1 an old one with the same result, 0 a new one, -1. */
static int reuse_or_insert(struct db *db, const struct store_job_new *in, char id[ID_SIZE], struct err *err)
{
    char fingerprint[SHA256_HEX];
    int64_t input_bytes;
    if (check_inputs(db, in, err) || sqlstore_fingerprint(db, in, fingerprint, &input_bytes, err))
        return -1;
    int reused = in->reuse ? sqlstore_reusable(db, in->owner, fingerprint, id, err) : 0;
    if (reused)
        return reused < 0 || keep_key(db, in, id, err) ? -1 : 1;
    id_new(id, "job"); /* under the writer's lock: ids in the order of the commits */
    return check_room(db, in, err) || insert_rows(db, in, id, fingerprint, input_bytes, err) ? -1 : 0;
}

int store_job_insert(struct store *store, const struct store_job_new *in, struct arena *arena, struct store_job *out,
                     bool *replayed, struct err *err)
{
    char id[ID_SIZE];
    *replayed = false;
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    int found = in->idempotency_key ? find_replay(db, in, id, err) : 0, reused = 0;
    if (found < 0)
        goto fail;
    if (!found && (reused = reuse_or_insert(db, in, id, err)) < 0)
        goto fail;
    if (sqlstore_job(db, in->owner, id, arena, out, err))
        goto fail;
    *replayed = found;
    out->reused = reused || (found && in->reuse && out->state == JOB_SUCCEEDED);
    if (db_commit(db, err))
        return -1;
    if (!found && !reused)
        db_changed(store, STORE_CHANGE_QUEUED, id);
    return 0;
fail:
    db_abort(db);
    return -1;
}

/* ---- cancel, delete -----------------------------------------------------------------------------------------------
 */

static int cancel_job(struct db *db, struct store_job *job, struct err *err)
{
    if (job_state_ended(job->state))
        return err_set(err, ERR_WRONG_STATE, "the job has ended (%s); only queued and running jobs can be canceled",
                       job_state_name(job->state));
    if (job->state == JOB_RUNNING)
        return db_run(db,
                      "UPDATE job SET cancel_requested_at=coalesce(cancel_requested_at,@NOW@),version=version+1 WHERE "
                      "id=$1",
                      BIND(T(job->id)), err) < 0
                   ? -1
                   : 0;
    if (db_run(db,
               "UPDATE job SET state='canceled',cancel_requested_at=@NOW@,finished_at=@NOW@,version=version+1"
               " WHERE id=$1 AND state='queued'",
               BIND(T(job->id)), err) < 0)
        return -1;
    return sqlstore_state_event(db, job->id, JOB_CANCELED, err);
}

int store_job_cancel(struct store *store, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                     struct err *err)
{
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if (sqlstore_job(db, owner, id, arena, out, err) || cancel_job(db, out, err) ||
        sqlstore_job(db, owner, id, arena, out, err)) {
        db_abort(db);
        return -1;
    }
    enum store_change change = out->state == JOB_RUNNING ? STORE_CHANGE_CANCEL : STORE_CHANGE_JOB;
    if (db_commit(db, err))
        return -1;
    db_changed(store, change, id);
    return 0;
}

int sqlstore_job_delete(struct db *db, const char *owner, const char *id, struct arena *arena,
                        struct store_orphans *orphans, struct err *err)
{
    static const char *const parts[] = {
        "DELETE FROM artifact WHERE job_id=$1",     "DELETE FROM job_event WHERE job_id=$1",
        "DELETE FROM job_progress WHERE job_id=$1", "DELETE FROM job_input WHERE job_id=$1",
        "DELETE FROM idempotency WHERE job_id=$1",  "DELETE FROM job_label WHERE job_id=$1",
        "DELETE FROM job WHERE id=$1",
    };
    struct store_job job;
    const char **hashes;
    int count;
    if (sqlstore_job(db, owner, id, arena, &job, err))
        return -1;
    if (!job_state_ended(job.state))
        return err_set(err, ERR_WRONG_STATE, "the job is %s; cancel it and wait for its end before you delete it",
                       job_state_name(job.state));
    if (sqlstore_column(db, "SELECT DISTINCT sha256 FROM artifact WHERE job_id=$1", id, arena, &hashes, &count, err))
        return -1;
    for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
        if (db_run(db, parts[i], BIND(T(id)), err) < 0)
            return -1;
    return sqlstore_orphans(db, hashes, count, arena, orphans, err);
}

int store_job_delete(struct store *store, const char *owner, const char *id, struct arena *arena,
                     struct store_orphans *orphans, struct err *err)
{
    *orphans = (struct store_orphans){0};
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if (sqlstore_job_delete(db, owner, id, arena, orphans, err)) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

/* ---- artifacts ----------------------------------------------------------------------------------------------------
 */

#define ARTIFACT_COLUMNS "id,owner,job_id,name,media_type,sha256,bytes,created_at"

static void read_artifact(struct query *q, struct arena *arena, struct store_artifact *out)
{
    *out = (struct store_artifact){query_text(q, 0, arena), query_text(q, 1, arena), query_text(q, 2, arena),
                                   query_text(q, 3, arena), query_text(q, 4, arena), query_text(q, 5, arena),
                                   query_int(q, 6),         query_int(q, 7)};
    out->expires_at = sqlstore_artifact_expires(q->db, out->created_at);
}

int store_artifact_list(struct store *store, const char *owner, const char *job_id, struct arena *arena,
                        struct store_artifact **rows, int *count, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    int64_t total;
    int rc = -1;
    *count = 0;
    if (db_int(db, "SELECT count(*) FROM artifact WHERE job_id=$1", BIND(T(job_id)), 0, &total, err))
        goto out;
    *rows = arena_calloc(arena, (size_t)total + 1, sizeof **rows);
    if (!*rows) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    query_start(&q, db, "SELECT " ARTIFACT_COLUMNS " FROM artifact WHERE job_id=$1 AND owner=$2 ORDER BY name",
                BIND(T(job_id), T(owner)), err);
    while (*count < total && query_row(&q))
        read_artifact(&q, arena, &(*rows)[(*count)++]);
    rc = query_end(&q);
out:
    db_end(db);
    return rc;
}

static int one_artifact(struct store *store, const char *sql, const char *owner, const char *id, const char *name,
                        struct arena *arena, struct store_artifact *out, struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    struct query q;
    const struct sql_value values[] = {T(id), T(owner), T(name)};
    query_start(&q, db, sql, values, name ? 3 : 2, err);
    bool found = query_row(&q);
    if (found)
        read_artifact(&q, arena, out);
    int rc = query_end(&q);
    db_end(db);
    if (rc == 0 && !found)
        rc = err_set(err, ERR_NOT_FOUND, "there is no artifact '%.100s'", name ? name : id);
    return rc;
}

int store_artifact_by_name(struct store *store, const char *owner, const char *job_id, const char *name,
                           struct arena *arena, struct store_artifact *out, struct err *err)
{
    static const char sql[] = "SELECT " ARTIFACT_COLUMNS " FROM artifact WHERE job_id=$1 AND owner=$2 AND name=$3";
    return one_artifact(store, sql, owner, job_id, name, arena, out, err);
}

int store_artifact_get(struct store *store, const char *owner, const char *id, struct arena *arena,
                       struct store_artifact *out, struct err *err)
{
    static const char sql[] = "SELECT " ARTIFACT_COLUMNS " FROM artifact WHERE id=$1 AND owner=$2";
    return one_artifact(store, sql, owner, id, NULL, arena, out, err);
}

int store_artifact_any(struct store *store, const char *id, struct arena *arena, struct store_artifact *out,
                       struct err *err)
{
    static const char sql[] = "SELECT " ARTIFACT_COLUMNS " FROM artifact WHERE id=$1 AND $2=''";
    return one_artifact(store, sql, "", id, NULL, arena, out, err);
}
