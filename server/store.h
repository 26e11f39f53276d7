/* SPDX-License-Identifier: Apache-2.0
 * store.h - the catalogue: models, datasets, recipes, jobs, artifacts, and the durable queue of jobs.
 * Why        Every accepted job survives `kill -9`; a job is never lost and never finished twice. So all state is in
 *            one SQL database, and every write of a worker is fenced by the attempt it was given (see store_job_*).
 * Not here   bytes of files (blob.h), running jobs (worker.h), JSON of the API (api/).
 * Life cycle store_open -> any calls, from any thread -> store_close
 * Ownership  Rows are copied into the arena given; pointers in them live as long as it. Inputs are borrowed for the
 *            call.
 * Errors     0 or -1 with *err: ERR_NOT_FOUND (no such row, or another owner's), ERR_STORE (database), ERR_DISK_FULL.
 * Times      epoch milliseconds of the database's clock; 0 = not yet.
 * Owners     Every row has one; every query of a client names it. "" is no owner: a server without keys uses "local".
 */
#ifndef PARED_SERVER_STORE_H
#define PARED_SERVER_STORE_H

#include <stdbool.h>
#include <stdint.h>

#include "core/base/arena.h"
#include "core/base/err.h"
#include "server/id.h"

struct store; /* opaque */

/* What a committed change was, so that waiting clients and workers can be woken. */
enum store_change {
    STORE_CHANGE_QUEUED, /* a job may be claimed */
    STORE_CHANGE_CANCEL, /* a running job is asked to stop */
    STORE_CHANGE_JOB,    /* anything else about a job: state, progress, event */
};
/* Called after the commit, in the thread that made it; it must not block and not call the store. */
typedef void store_changed_fn(void *arg, enum store_change change, const char *job_id);

struct sql_driver;
struct store_opts {
    const char *path;          /* of the SQLite file */
    store_changed_fn *changed; /* may be NULL */
    void *arg;
    const struct sql_driver *driver; /* NULL: SQLite */
};
struct store *store_open(const struct store_opts *opts, struct err *err);
void store_close(struct store *store); /* NULL is fine */
/* Does it answer? For /readyz. */
int store_ping(struct store *store, struct err *err);
/* Seconds this thread has spent in calls of stores, waiting for their turn included: differences are what a piece of
 * work cost there. */
double store_thread_seconds(void);
/* How long an ended job is kept, as store_retention says; 0: for ever. */
int64_t store_job_ttl_ms(struct store *store);
/* To be called about once a second: write-ahead log into the file, expired idempotency keys away. */
int store_maintain(struct store *store, struct err *err);

/* For a backup: a consistent copy of the catalogue file `path` into the new file `to`, while others write; and the
 * hashes of all blobs that the copy refers to, sorted. Unfinished uploads are not in it. */
struct store_orphans;
int store_copy(const char *path, const char *to, struct arena *arena, struct store_orphans *files, struct err *err);

/* ---- models and datasets: the same columns, two kinds ---- */

enum store_kind { STORE_MODEL, STORE_DATASET };

/* One file of a resource. The first is the model (or the dataset's data.json / self-describing file), the others are
 * its external data, by the name the first refers to them. */
struct store_file {
    const char *name, *sha256;
    int64_t bytes;
};
struct store_resource {
    const char *id, *owner, *name;
    const char *sha256;     /* of the first file */
    const char *parent_job; /* job that made it, or NULL */
    const char *facts;      /* JSON text: what GET shows (inputs, counts, ...), from the inspecting child */
    int64_t bytes;          /* of all files */
    int64_t created_at;
    struct store_file *files;
    int file_count;
    int64_t max_bytes; /* inserts only: ERR_RATE_LIMITED when the owner would have more stored; 0 = no limit */
};
/* Insert `in`; id and created_at are the store's. `details` are larger JSON texts, ended by {NULL, NULL}, read only by
 * store_resource_details ("layers", "graph", "groups"); NULL for none. If the owner already has the same content (all
 * files: names and hashes; the first file's name does not count) nothing is inserted, *existed is true and *out is the
 * old row. */
struct store_detail {
    const char *what, *json;
};
int store_resource_insert(struct store *store, enum store_kind kind, const struct store_resource *in,
                          const struct store_detail *details, struct arena *arena, struct store_resource *out,
                          bool *existed, struct err *err);
int store_resource_get(struct store *store, enum store_kind kind, const char *owner, const char *id,
                       struct arena *arena, struct store_resource *out, struct err *err);
int store_resource_details(struct store *store, enum store_kind kind, const char *owner, const char *id,
                           const char *what, struct arena *arena, const char **json, struct err *err);
/* Newest first. `after` is the id of the last row of the page before, or NULL. *more: there is a next page.
 * `rows` has room for `limit`. facts and files are filled in. */
struct store_page {
    const char *owner, *after;
    int limit; /* 1 to 1000 */
    /* filters of models, datasets and jobs */
    const char *name;                     /* exactly this one; NULL = any */
    int64_t created_from, created_before; /* epoch ms, [from, before); 0 = open */
};
int store_resource_list(struct store *store, enum store_kind kind, const struct store_page *page, struct arena *arena,
                        struct store_resource *rows, int *count, bool *more, struct err *err);
/* Blobs that no row refers to any more, for gc_blobs (gc.h). */
struct store_orphans {
    const char **sha256;
    int count;
};
/* ERR_IN_USE, naming the job, while a queued or running job needs it. */
int store_resource_delete(struct store *store, enum store_kind kind, const char *owner, const char *id,
                          struct arena *arena, struct store_orphans *orphans, struct err *err);
/* Does any row refer to this blob? 1, 0 or -1. */
int store_blob_used(struct store *store, const char *sha256, struct err *err);

/* ---- named recipes ---- */

struct store_recipe {
    const char *id, *owner, *name;
    const char *body; /* JSON text */
    int64_t created_at;
};
enum { STORE_RECIPES_MAX = 1000, STORE_UPLOADS_MAX = 1000 }; /* of one owner; ERR_RATE_LIMITED for one more */
/* Same name and same body: the old row, *existed true. Same name, other body: ERR_WRONG_STATE. */
int store_recipe_insert(struct store *store, const char *owner, const char *name, const char *body, struct arena *arena,
                        struct store_recipe *out, bool *existed, struct err *err);
int store_recipe_get(struct store *store, const char *owner, const char *name, struct arena *arena,
                     struct store_recipe *out, struct err *err);
int store_recipe_list(struct store *store, const struct store_page *page, struct arena *arena,
                      struct store_recipe *rows, int *count, bool *more, struct err *err);
int store_recipe_delete(struct store *store, const char *owner, const char *name, struct err *err);

/* ---- jobs ---------------------------------------------------------------------------------------------------------
 *
 *            insert             claim                       settle
 *   (client) ------> queued ------------> running ----------------------> succeeded | failed | canceled
 *                      ^  |                  |
 *                      |  | cancel           | release, retry, crash below the limit, lease ended (reap)
 *                      |  +---> canceled     |
 *                      +---------------------+
 */
#define JOB_STATE_MAP(X)                                                                                               \
    X(QUEUED, "queued")                                                                                                \
    X(RUNNING, "running")                                                                                              \
    X(SUCCEEDED, "succeeded")                                                                                          \
    X(FAILED, "failed")                                                                                                \
    X(CANCELED, "canceled")
enum job_state {
#define X(id, name) JOB_##id,
    JOB_STATE_MAP(X)
#undef X
        JOB_STATE_COUNT
};
const char *job_state_name(enum job_state state);
/* -1 for a name that is none. */
int job_state_from_name(const char *name);
bool job_state_ended(enum job_state state);

/* How often the child of a job may die, and how often an attempt may be lost to the server's own trouble. */
enum { JOB_CRASH_LIMIT = 2, JOB_LOSS_LIMIT = 20 };

/* The resources a job reads, by role. */
#define JOB_ROLE_MAP(X)                                                                                                \
    X(MODEL, "model", STORE_MODEL)                                                                                     \
    X(DATASET, "dataset", STORE_DATASET)                                                                               \
    X(VAL_DATASET, "val_dataset", STORE_DATASET)                                                                       \
    X(EVAL_DATASET, "eval_dataset", STORE_DATASET)                                                                     \
    X(TEACHER, "teacher", STORE_MODEL)
enum job_role {
#define X(id, name, kind) JOB_ROLE_##id,
    JOB_ROLE_MAP(X)
#undef X
        JOB_ROLE_COUNT
};
const char *job_role_name(enum job_role role);
enum store_kind job_role_kind(enum job_role role);

/* What a client sticks to a job to find it again. */
struct store_label {
    const char *key, *value;
};
struct store_job_new {
    const char *owner;
    const char *name;                 /* or NULL */
    const struct store_label *labels; /* for lists; GET shows those of `request` */
    int label_count;
    const char *traceparent; /* trace.h; or NULL */
    const char *retry_of; /* the job that this one does again, or NULL */
    const char *methods;  /* those of its steps, in order, separated by spaces: what run times are estimated by */
    /* Text of everything but the inputs that decides the bytes of the result: version, recipe, seed. With the contents
     * of the inputs it makes the job's fingerprint. NULL: none. */
    const char *plan;
    bool reuse; /* a succeeded job of the same fingerprint, whose artifacts are there, is the answer */
    const char *request; /* JSON text as the API shows it again; its `recipe` (object) is what workers run */
    const char *inputs[JOB_ROLE_COUNT];           /* ids, NULL = none; the model is needed */
    int64_t priority;                             /* larger first */
    int64_t timeout_s, memory_bytes, threads;     /* 0 = the server's */
    const char *idempotency_key, *request_sha256; /* both or none */
    int64_t idempotency_ttl_s;
    int64_t max_queued; /* 0 = no limit; ERR_UNAVAILABLE when so many wait */
    /* of the owner: jobs queued or running, stored bytes; 0 = no limit; ERR_RATE_LIMITED */
    int64_t max_active, max_bytes;
};
struct store_progress {
    int64_t step, steps, done, total; /* step counts from 1 */
    const char *stage;                /* "" before the first */
    double eta_s;                     /* < 0: not known */
    int64_t updated_at;
    const char *metric; /* JSON text of the last measurement of this attempt, or NULL; written by store_job_metric */
};
struct store_job {
    const char *id, *owner;
    enum job_state state;
    const char *request; /* as inserted */
    const char *inputs[JOB_ROLE_COUNT];
    const char *result; /* JSON text of a succeeded job, or NULL */
    const char *error;  /* JSON text of a failed job's problem {"code","detail",...}, or NULL */
    int64_t priority, timeout_s, memory_bytes, threads;
    int64_t attempt, crashes, losses;
    int64_t version; /* grows with every change, progress too: the ETag */
    int64_t created_at, started_at, finished_at, cancel_requested_at;
    int64_t expires_at; /* when retention removes an ended job; 0 = never */
    struct store_progress progress;
    int64_t queue_position; /* 1 = next, owners taking turns; 0 unless queued. Only store_job_get fills it in */
    const char *name, *retry_of, *methods; /* as inserted, or NULL */
    const char *traceparent;               /* of the request that queued it, or NULL */
    int64_t input_bytes;                   /* of all inputs, when it was inserted; 0: of a job older than the column */
    bool reused;                           /* store_job_insert found it instead of making one */
};
/* A new queued job. ERR_REFERENCE naming the role when an input does not exist; ERR_INVALID when the idempotency key
 * was used with another body; with the same body *replayed is true and *out is the job of then. */
int store_job_insert(struct store *store, const struct store_job_new *in, struct arena *arena, struct store_job *out,
                     bool *replayed, struct err *err);
int store_job_get(struct store *store, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                  struct err *err);
/* The version alone, cheap: what a long poll compares. */
int store_job_version(struct store *store, const char *owner, const char *id, int64_t *version, enum job_state *state,
                      struct err *err);
/* Newest first; state -1 = all. See store_job_search for more filters. */
int store_job_list(struct store *store, const struct store_page *page, int state, struct arena *arena,
                   struct store_job *rows, int *count, bool *more, struct err *err);
/* Queued: canceled at once. Running: its worker is told. Ended: ERR_WRONG_STATE. *out is the job afterwards. */
int store_job_cancel(struct store *store, const char *owner, const char *id, struct arena *arena, struct store_job *out,
                     struct err *err);
/* Ended jobs only (ERR_WRONG_STATE), with artifacts and events. */
int store_job_delete(struct store *store, const char *owner, const char *id, struct arena *arena,
                     struct store_orphans *orphans, struct err *err);

struct store_counts {
    int64_t jobs[JOB_STATE_COUNT];
    int64_t models, datasets, artifacts;
    int64_t oldest_queued_ms; /* age of the job that waits longest; 0 = none waits */
};
int store_count(struct store *store, struct store_counts *counts, struct err *err);

/* ---- lists of jobs (sqlstore_list.c) ---- */

enum { JOB_FILTER_LABELS = 4 };
/* All conditions hold; what is 0, NULL or empty is none. With page->name and its times. A page costs what it shows: the
 * condition that the fewest jobs hold walks its index, the others only sift. */
struct store_job_filter {
    unsigned states;   /* 1 << state, several */
    const char *model; /* id */
    const struct store_label *labels;
    int label_count;           /* at most JOB_FILTER_LABELS */
    const int64_t *priority;
    const char *retry_of;
};
int store_job_search(struct store *store, const struct store_page *page, const struct store_job_filter *filter,
                     struct arena *arena, struct store_job *rows, int *count, bool *more, struct err *err);

/* ---- run times of past jobs (sqlstore_estimate.c), for estimate.h. Of all owners: durations tell nobody whose ---- */

enum { STORE_RUN_SAMPLES = 31 };
struct store_run {
    double seconds;
    int64_t input_bytes;
};
/* The latest succeeded jobs with these methods and from `least` to `most` bytes of inputs, that ran in one attempt. */
int store_run_times(struct store *store, const char *methods, int64_t least, int64_t most,
                    struct store_run rows[STORE_RUN_SAMPLES], int *count, struct err *err);
/* What stands before a queued job: waiting jobs of a kind, and the running ones. Of a longer queue so many waiting jobs
 * are looked at. */
enum { STORE_AHEAD_SAMPLE = 1000 };
struct store_ahead {
    const char *methods; /* "" for jobs that tell none */
    int64_t count, input_bytes; /* of one, on average */
    double ran_s;               /* < 0: waiting; else one job, for how long it has run */
};
int store_queue_ahead(struct store *store, const char *job_id, struct arena *arena, struct store_ahead **rows,
                      int *count, struct err *err);

/* ---- resumable uploads: the rows; the bytes are server/tus.h's. They end by use, deletion or expiry ---- */

struct store_upload {
    const char *id, *owner;
    const char *metadata; /* Upload-Metadata as the client sent it, "" for none */
    const char *sha256;   /* of the whole content once it is complete: then it is a blob; else NULL */
    const char *tail;     /* see store_upload_mark */
    int64_t length;       /* as announced */
    int64_t received;     /* bytes known to be on disk */
    int64_t created_at, expires_at;
};
struct store_upload_new {
    const char *owner, *metadata;
    int64_t length, ttl_s;
    int64_t max_bytes; /* ERR_RATE_LIMITED when the owner would have more, open uploads counted whole; 0 = no limit */
};
int store_upload_insert(struct store *store, const struct store_upload_new *in, struct arena *arena,
                        struct store_upload *out, struct err *err);
/* owner NULL: whoever's. An upload that has expired is not found. */
int store_upload_get(struct store *store, const char *owner, const char *id, struct arena *arena,
                     struct store_upload *out, struct err *err);
/* Newest first. */
int store_upload_list(struct store *store, const struct store_page *page, struct arena *arena,
                      struct store_upload *rows, int *count, bool *more, struct err *err);
/* `received` bytes are on disk; expiry starts anew. `tail` says what is true of bytes behind them: the boot id of the
 * machine while bytes arrive that count without further checks ("" = none count), since what the kernel has
 * taken outlives the process but not the machine. `durable`: the row is on disk when this returns. */
int store_upload_mark(struct store *store, const char *id, int64_t received, const char *tail, int64_t ttl_s,
                      bool durable, struct err *err);
/* All bytes are there, and this is their hash: the row refers to the blob from now on. */
int store_upload_complete(struct store *store, const char *id, const char *sha256, int64_t ttl_s, struct err *err);
/* owner NULL: whoever's. *sha256 (arena) is the blob it referred to, or NULL. */
int store_upload_delete(struct store *store, const char *owner, const char *id, struct arena *arena,
                        const char **sha256, struct err *err);
/* Ids of at most `limit` expired ones. */
int store_upload_expired(struct store *store, int limit, struct arena *arena, const char **ids, int *count,
                         struct err *err);

/* ---- artifacts ---- */

struct store_artifact {
    const char *id, *owner, *job_id, *name, *media_type, *sha256;
    int64_t bytes, created_at;
    int64_t expires_at; /* when retention removes it; 0 = never */
};
/* All of a job, by name. */
int store_artifact_list(struct store *store, const char *owner, const char *job_id, struct arena *arena,
                        struct store_artifact **rows, int *count, struct err *err);
int store_artifact_by_name(struct store *store, const char *owner, const char *job_id, const char *name,
                           struct arena *arena, struct store_artifact *out, struct err *err);
int store_artifact_get(struct store *store, const char *owner, const char *id, struct arena *arena,
                       struct store_artifact *out, struct err *err);

/* ---- API keys (server/auth.h), secrets and limits of owners ---- */

enum { STORE_KEY_DEFAULT = -1 }; /* a limit that the server's settings give */
struct store_key {
    const char *id, *owner, *name; /* name: for people, may be "" */
    const char *sha256;            /* of the whole key, 64 hex digits: the key itself is nowhere */
    const char *scopes;            /* names, separated by blanks (scope.h) */
    int64_t requests_per_s, active_jobs, stored_bytes; /* limits: STORE_KEY_DEFAULT, or 0 = none */
    int64_t created_at, expires_at, revoked_at, last_used_at;
};
/* `in` has its id; created_at is the store's; expires_at is epoch milliseconds or 0. */
int store_key_insert(struct store *store, const struct store_key *in, struct err *err);
/* All, revoked and expired ones too, oldest first. */
int store_key_list(struct store *store, struct arena *arena, struct store_key **rows, int *count, struct err *err);
/* From now on it is refused. A second time is fine. ERR_NOT_FOUND. */
int store_key_revoke(struct store *store, const char *id, struct err *err);
/* A number that grows with every key made or revoked, by any process: read often, to see that there is news. */
int store_key_generation(struct store *store, int64_t *generation, struct err *err);
/* Its last use, epoch milliseconds; an older one than is known changes nothing. */
int store_key_used(struct store *store, const char *id, int64_t at, struct err *err);

/* A text of the server itself, `size` bytes with the NUL at most. The first who asks for `name` gives it `preset`. */
int store_value(struct store *store, const char *name, const char *preset, char *out, size_t size, struct err *err);

/* Bytes of an owner's models, datasets, artifacts and resumable uploads. */
int store_owner_bytes(struct store *store, const char *owner, int64_t *bytes, struct err *err);
/* Whose artifact is it? For signed links, which name no owner. ERR_NOT_FOUND. */
int store_artifact_any(struct store *store, const char *id, struct arena *arena, struct store_artifact *out,
                       struct err *err);

/* ---- retention (sqlstore_retention.c) ---- */

struct store_retention {
    int64_t job_ttl_s, artifact_ttl_s; /* after its end, after its making; 0 = for ever */
};
/* From any thread; holds from the next call on. A store that was just opened keeps everything. */
void store_set_retention(struct store *store, const struct store_retention *keep);
struct store_expired {
    int jobs, artifacts; /* removed */
    bool more;           /* call again: a page is small, so that others can write in between */
    struct store_orphans orphans;
};
/* Remove one page of what is older than it may be. */
int store_expire(struct store *store, struct arena *arena, struct store_expired *out, struct err *err);

/* ---- events: what a job's SSE stream carries ---- */

struct store_event {
    int64_t seq; /* 1, 2, ... within a job */
    int64_t at;
    const char *type; /* "state", "progress", "log", "metric" */
    const char *data; /* JSON text */
};
/* Events of one type (NULL: any) with seq > after, oldest first, at most `limit`. */
int store_event_list(struct store *store, const char *owner, const char *job_id, const char *type, int64_t after,
                     int limit, struct arena *arena, struct store_event *rows, int *count, struct err *err);

/* State, progress and at most `limit` events behind `after` of one job, as they are at one moment (sqlstore_event.c):
 * what a stream of events needs. Fewer than `limit`: there are no more. ERR_NOT_FOUND: deleted, or another owner's. */
struct store_tail {
    enum job_state state;
    int64_t version;
    struct store_progress progress; /* without metric */
    int count;                      /* of rows */
};
int store_job_tail(struct store *store, const char *owner, const char *id, int64_t after, int limit,
                   struct arena *arena, struct store_event *rows, struct store_tail *out, struct err *err);

/* ---- the worker's side: every write below holds only while (job, attempt) is running ---- */

struct store_claim {
    const char *id, *owner, *request;
    const char *traceparent; /* or NULL */
    int64_t attempt, timeout_s, memory_bytes, threads;
    int64_t waited_ms;                                   /* in the queue */
    const struct store_resource *inputs[JOB_ROLE_COUNT]; /* with files; NULL = none */
};
/* 1: *out was claimed for lease_ms; 0: nothing to do; -1. `worker` is kept as lease_owner: "NODE:...". */
int store_job_claim(struct store *store, const char *worker, int64_t lease_ms, struct arena *arena,
                    struct store_claim *out, struct err *err);
enum store_beat { STORE_BEAT_ERROR = -1, STORE_BEAT_LOST, STORE_BEAT_OK, STORE_BEAT_CANCEL };
/* Extend the lease and ask whether the job is to be canceled, in one statement. LOST: kill the child and publish
 * nothing. */
enum store_beat store_job_beat(struct store *store, const char *id, int64_t attempt, int64_t lease_ms, struct err *err);
/* 1 written, 0 lease lost, -1. */
int store_job_progress(struct store *store, const char *id, int64_t attempt, const struct store_progress *progress,
                       struct err *err);
int store_event_append(struct store *store, const char *id, int64_t attempt, const char *type, const char *data,
                       struct err *err);
/* An event of type "metric" that is the job's last measurement too. */
int store_job_metric(struct store *store, const char *id, int64_t attempt, const char *data, struct err *err);

enum store_outcome_kind {
    STORE_SUCCEEDED, /* result and artifacts, published in the same transaction */
    STORE_FAILED,    /* error */
    STORE_CANCELED,
    STORE_CRASHED,  /* the child died: crashes + 1; queued again below JOB_CRASH_LIMIT, else failed with error */
    STORE_RETRY,    /* disk or catalogue failed under it: losses + 1; the same with JOB_LOSS_LIMIT */
    STORE_RELEASED, /* handed back by a server that stops: queued, to be claimed at once, nothing counted */
};
struct store_outcome {
    enum store_outcome_kind kind;
    const char *result, *error;             /* JSON text */
    const struct store_artifact *artifacts; /* name, media_type, sha256, bytes */
    int artifact_count;
};
/* The end of an attempt, in one transaction. 1: done, *state is the job's state now; 0: lease lost, nothing was
 * written; -1. A success of a job that was asked to cancel is a success: the work was done before the word came. */
int store_job_settle(struct store *store, const char *id, int64_t attempt, const struct store_outcome *outcome,
                     enum job_state *state, struct err *err);
/* Jobs whose lease has ended go back to the queue (or end); leases and waits follow a clock that jumped. From one
 * thread at a time. `node` not NULL: those whose lease_owner starts with
 * "node:" too, lease or not: at boot nobody else can be running them. *count = how many. */
int store_job_reap(struct store *store, const char *node, int *count, struct err *err);
/* Is this job running or queued? For cleaning work folders. 1 yes, 0 no, -1. */
int store_job_active(struct store *store, const char *id, struct err *err);

#endif
