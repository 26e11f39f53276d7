/* SPDX-License-Identifier: Apache-2.0
 * What time does to rows: jobs and artifacts that are old enough go, and what a jump of the database's clock would
 * break is put right.
 *
 * A clock that jumps forward ends every lease at once, although the workers live: the jump is seen by comparing the
 * clock with the monotonic one since the last look, and the leases move with it. A clock that jumps back makes waits
 * endless that were to last seconds: no lease ends later than the longest lease from now, no back-off is longer than
 * the longest back-off, and a job that never waited for anything may be claimed. */
#include "core/base/clock.h"
#include "core/base/log.h"
#include "server/sqlstore.h"

enum {
    EXPIRE_AT_ONCE = 50,
    JUMP_MS = 2000,              /* NTP slews slower, and a look takes less */
    LONGEST_LEASE_MS = 3600000,  /* the setting's bound */
    LONGEST_BACKOFF_MS = 1127000 /* 1024 s and a tenth */
};

/* ---- retention ----------------------------------------------------------------------------------------------------
 */

void store_set_retention(struct store *store, const struct store_retention *keep)
{
    struct sqlstore_upkeep *upkeep = sqlstore_upkeep(store);
    atomic_store(&upkeep->job_ttl_ms, keep->job_ttl_s * 1000);
    atomic_store(&upkeep->artifact_ttl_ms, keep->artifact_ttl_s * 1000);
}

static int64_t after(int64_t at, int64_t ttl_ms)
{
    return at && ttl_ms ? at + ttl_ms : 0;
}

int64_t store_job_ttl_ms(struct store *store)
{
    return atomic_load(&sqlstore_upkeep(store)->job_ttl_ms);
}

int64_t sqlstore_job_expires(const struct db *db, int64_t finished_at)
{
    return after(finished_at, atomic_load(&sqlstore_upkeep(db->store)->job_ttl_ms));
}

int64_t sqlstore_artifact_expires(const struct db *db, int64_t created_at)
{
    const struct sqlstore_upkeep *upkeep = sqlstore_upkeep(db->store);
    int64_t own = after(created_at, atomic_load(&upkeep->artifact_ttl_ms));
    int64_t with_job = after(created_at, atomic_load(&upkeep->job_ttl_ms)); /* made when the job ended */
    return !own || (with_job && with_job < own) ? with_job : own;
}

/* Are there rows for `sql`, whose $1 is a time to live in ms? 0 ms: none are looked for. */
static int any_older(struct db *db, const char *sql, int64_t ttl_ms, int64_t *any, struct err *err)
{
    *any = 0;
    return ttl_ms ? db_int(db, sql, BIND(I(ttl_ms)), 0, any, err) : 0;
}

static int look(struct store *store, int64_t job_ttl_ms, int64_t artifact_ttl_ms, int64_t *jobs, int64_t *artifacts,
                struct err *err)
{
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    int rc = any_older(db, "SELECT EXISTS(SELECT 1 FROM job WHERE finished_at<@NOW@-$1)", job_ttl_ms, jobs, err);
    if (rc == 0)
        rc = any_older(db, "SELECT EXISTS(SELECT 1 FROM artifact WHERE created_at<@NOW@-$1)", artifact_ttl_ms,
                       artifacts, err);
    db_end(db);
    return rc;
}

struct expiring {
    int count;
    struct {
        const char *id, *owner;
    } at[EXPIRE_AT_ONCE];
};

static int find_jobs(struct db *db, int64_t ttl_ms, struct arena *arena, struct expiring *list, struct err *err)
{
    struct query q;
    list->count = 0;
    query_start(&q, db, "SELECT id,owner FROM job WHERE finished_at<@NOW@-$1 ORDER BY finished_at LIMIT $2",
                BIND(I(ttl_ms), I(EXPIRE_AT_ONCE)), err);
    while (list->count < EXPIRE_AT_ONCE && query_row(&q)) {
        list->at[list->count].id = query_text(&q, 0, arena);
        list->at[list->count++].owner = query_text(&q, 1, arena);
    }
    return query_end(&q);
}

static int append(struct store_orphans *all, const struct store_orphans *more, struct arena *arena, struct err *err)
{
    if (more->count == 0)
        return 0;
    const char **grown = arena_calloc(arena, (size_t)(all->count + more->count), sizeof *grown);
    if (!grown)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int i = 0; i < all->count; i++)
        grown[i] = all->sha256[i];
    for (int i = 0; i < more->count; i++)
        grown[all->count + i] = more->sha256[i];
    all->sha256 = grown;
    all->count += more->count;
    return 0;
}

static int expire_jobs(struct db *db, int64_t ttl_ms, struct arena *arena, struct store_expired *out, struct err *err)
{
    struct expiring list;
    if (find_jobs(db, ttl_ms, arena, &list, err))
        return -1;
    for (int i = 0; i < list.count; i++) {
        struct store_orphans orphans;
        if (sqlstore_job_delete(db, list.at[i].owner, list.at[i].id, arena, &orphans, err) ||
            append(&out->orphans, &orphans, arena, err))
            return -1;
    }
    out->jobs = list.count;
    return 0;
}

static int expire_artifacts(struct db *db, int64_t ttl_ms, struct arena *arena, struct store_expired *out,
                            struct err *err)
{
    const char *hashes[EXPIRE_AT_ONCE];
    struct query q;
    query_start(&q, db,
                "DELETE FROM artifact WHERE id IN(SELECT id FROM artifact WHERE created_at<@NOW@-$1"
                " ORDER BY created_at LIMIT $2) RETURNING sha256",
                BIND(I(ttl_ms), I(EXPIRE_AT_ONCE)), err);
    while (out->artifacts < EXPIRE_AT_ONCE && query_row(&q))
        hashes[out->artifacts++] = query_text(&q, 0, arena);
    struct store_orphans orphans;
    return query_end(&q) || sqlstore_orphans(db, hashes, out->artifacts, arena, &orphans, err) ||
                   append(&out->orphans, &orphans, arena, err)
               ? -1
               : 0;
}

int store_expire(struct store *store, struct arena *arena, struct store_expired *out, struct err *err)
{
    const struct sqlstore_upkeep *upkeep = sqlstore_upkeep(store);
    int64_t job_ttl = atomic_load(&upkeep->job_ttl_ms), artifact_ttl = atomic_load(&upkeep->artifact_ttl_ms);
    int64_t jobs = 0, artifacts = 0;
    *out = (struct store_expired){0};
    if ((!job_ttl && !artifact_ttl) || look(store, job_ttl, artifact_ttl, &jobs, &artifacts, err))
        return job_ttl || artifact_ttl ? -1 : 0;
    if (!jobs && !artifacts)
        return 0;
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    if ((jobs && expire_jobs(db, job_ttl, arena, out, err)) ||
        (artifacts && expire_artifacts(db, artifact_ttl, arena, out, err))) {
        db_abort(db);
        return -1;
    }
    if (db_commit(db, err))
        return -1;
    out->more = out->jobs == EXPIRE_AT_ONCE || out->artifacts == EXPIRE_AT_ONCE;
    return 0;
}

/* ---- jumps of the clock -------------------------------------------------------------------------------------------
 */

/* $n: the longest wait there can be */
#define TOO_LATE(n) "state='queued' AND run_at>@NOW@ AND (run_at=created_at OR run_at>@NOW@+" n ")"
#define TOO_LONG(n) "state='running' AND lease_until>@NOW@+" n

static int read_clock(struct store *store, int64_t *now, int64_t *wrong, struct err *err)
{
    struct query q;
    struct db *db = db_read(store, err);
    if (!db)
        return -1;
    query_start(&q, db,
                "SELECT @NOW@,EXISTS(SELECT 1 FROM job WHERE " TOO_LATE(
                    "$1") ") OR EXISTS(SELECT 1 FROM job WHERE " TOO_LONG("$2") ")",
                BIND(I(LONGEST_BACKOFF_MS), I(LONGEST_LEASE_MS)), err);
    if (query_row(&q)) {
        *now = query_int(&q, 0);
        *wrong = query_int(&q, 1);
    }
    int rc = query_end(&q);
    db_end(db);
    return rc;
}

/* By how much the database's clock went ahead of the monotonic one since the last look. */
static int64_t jumped(struct sqlstore_upkeep *upkeep, int64_t now, double monotonic)
{
    int64_t jump =
        upkeep->looked_at > 0 ? now - upkeep->clock_ms - (int64_t)((monotonic - upkeep->looked_at) * 1e3) : 0;
    upkeep->looked_at = monotonic;
    upkeep->clock_ms = now;
    return jump;
}

static int repair(struct store *store, int64_t jump, struct err *err)
{
    struct db *db = db_write(store, true, err);
    if (!db)
        return -1;
    static const char move[] = "UPDATE job SET lease_until=lease_until+$1 WHERE state='running'",
                      start[] = "UPDATE job SET run_at=@NOW@ WHERE " TOO_LATE("$1"),
                      cut[] = "UPDATE job SET lease_until=@NOW@+$1 WHERE " TOO_LONG("$1");
    if ((jump > 0 && db_run(db, move, BIND(I(jump)), err) < 0) ||
        db_run(db, start, BIND(I(LONGEST_BACKOFF_MS)), err) < 0 ||
        db_run(db, cut, BIND(I(LONGEST_LEASE_MS)), err) < 0) {
        db_abort(db);
        return -1;
    }
    return db_commit(db, err);
}

int sqlstore_follow_clock(struct store *store, struct err *err)
{
    int64_t now = 0, wrong = 0;
    if (read_clock(store, &now, &wrong, err))
        return -1;
    int64_t jump = jumped(sqlstore_upkeep(store), now, clock_seconds());
    if (jump <= JUMP_MS && jump >= -JUMP_MS && !wrong)
        return 0;
    if (jump > JUMP_MS || jump < -JUMP_MS)
        log_warn("the clock jumped by %lld s; leases and waiting jobs follow it", (long long)(jump / 1000));
    return repair(store, jump > JUMP_MS ? jump : 0, err); /* workers look for jobs once a second anyway */
}
