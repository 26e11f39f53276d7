/* SPDX-License-Identifier: Apache-2.0
 * The catalogue's tables, as steps from each schema version to the next. A step that was released is never edited: add
 * one. `job` is narrow and its hot indexes are partial, so that finished jobs cost the queue nothing; what changes
 * often (progress) and what grows (events) has tables of its own. `lease_until` is not indexed: a beat then touches no
 * index. */
#include "server/sqlstore.h"

#define RESOURCE_TABLE(name)                                                                                          \
    "CREATE TABLE " name "(id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL,"       \
    " content TEXT NOT NULL, bytes BIGINT NOT NULL, facts TEXT NOT NULL, parent_job TEXT, created_at BIGINT NOT NULL," \
    " UNIQUE(owner, content));"                                                                                       \
    "CREATE INDEX " name "_owner ON " name "(owner, id);"

#define COUNT_RESOURCES(table, what) "INSERT INTO tally SELECT '" what "',owner,count(*) FROM " table " GROUP BY owner;"

/* clang-format off */
const char *const sqlstore_migrations[] = {
    /* 1 */
    RESOURCE_TABLE("model") RESOURCE_TABLE("dataset")
    "CREATE TABLE resource_file(resource_id TEXT NOT NULL, seq BIGINT NOT NULL, owner TEXT NOT NULL, name TEXT"
    " NOT NULL,"
    " sha256 TEXT NOT NULL, bytes BIGINT NOT NULL, PRIMARY KEY(resource_id, seq)) @KEYED@;"
    "CREATE INDEX resource_file_sha256 ON resource_file(sha256);"
    "CREATE TABLE resource_detail(resource_id TEXT NOT NULL, what TEXT NOT NULL, owner TEXT NOT NULL, json TEXT"
    " NOT NULL,"
    " PRIMARY KEY(resource_id, what)) @KEYED@;"
    "CREATE TABLE recipe(id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL,"
    " created_at BIGINT NOT NULL, UNIQUE(owner, name));"
    "CREATE INDEX recipe_owner ON recipe(owner, id);"
    "CREATE TABLE job(id TEXT PRIMARY KEY, owner TEXT NOT NULL,"
    " state TEXT NOT NULL CHECK(state IN('queued','running','succeeded','failed','canceled')),"
    " priority BIGINT NOT NULL, run_at BIGINT NOT NULL, attempt BIGINT NOT NULL DEFAULT 0, crashes BIGINT NOT"
    " NULL DEFAULT 0,"
    " losses BIGINT NOT NULL DEFAULT 0, lease_owner TEXT, lease_until BIGINT, cancel_requested_at BIGINT,"
    " timeout_s BIGINT NOT NULL, memory_bytes BIGINT NOT NULL, threads BIGINT NOT NULL, request TEXT NOT NULL,"
    " result TEXT,"
    " error TEXT, version BIGINT NOT NULL DEFAULT 1, created_at BIGINT NOT NULL, started_at BIGINT, finished_at"
    " BIGINT,"
    " CHECK((state='running')=(lease_until IS NOT NULL)),"
    " CHECK((state IN('succeeded','failed','canceled'))=(finished_at IS NOT NULL)));"
    "CREATE INDEX job_claim ON job(priority DESC, run_at, id) WHERE state='queued';"
    "CREATE INDEX job_running ON job(id) WHERE state='running';"
    "CREATE INDEX job_owner ON job(owner, id);"
    "CREATE INDEX job_state ON job(owner, state, id);"
    "CREATE TABLE job_input(job_id TEXT NOT NULL, role TEXT NOT NULL, owner TEXT NOT NULL, resource_id TEXT NOT"
    " NULL,"
    " PRIMARY KEY(job_id, role)) @KEYED@;"
    "CREATE INDEX job_input_resource ON job_input(resource_id);"
    "CREATE TABLE job_progress(job_id TEXT PRIMARY KEY, owner TEXT NOT NULL, step BIGINT NOT NULL, steps BIGINT"
    " NOT NULL,"
    " stage TEXT NOT NULL, done BIGINT NOT NULL, total BIGINT NOT NULL, eta_s DOUBLE PRECISION NOT NULL,"
    " version BIGINT NOT NULL, updated_at BIGINT NOT NULL) @KEYED@;"
    "CREATE TABLE job_event(job_id TEXT NOT NULL, seq BIGINT NOT NULL, owner TEXT NOT NULL, at BIGINT NOT NULL,"
    " type TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY(job_id, seq)) @KEYED@;"
    "CREATE TABLE artifact(id TEXT PRIMARY KEY, owner TEXT NOT NULL, job_id TEXT NOT NULL, name TEXT NOT NULL,"
    " media_type TEXT NOT NULL, sha256 TEXT NOT NULL, bytes BIGINT NOT NULL, created_at BIGINT NOT NULL,"
    " UNIQUE(job_id, name));"
    "CREATE INDEX artifact_sha256 ON artifact(sha256);"
    "CREATE TABLE idempotency(owner TEXT NOT NULL, key TEXT NOT NULL, request_sha256 TEXT NOT NULL, job_id TEXT"
    " NOT NULL,"
    " expires_at BIGINT NOT NULL, PRIMARY KEY(owner, key)) @KEYED@;"
    "CREATE INDEX idempotency_job ON idempotency(job_id);"
    "CREATE INDEX idempotency_expires ON idempotency(expires_at);",
    /* 2 */
    "ALTER TABLE job_progress ADD COLUMN metric TEXT;",
    /* 3: lists by name, label and model; retries; reuse of results; estimates from past jobs */
    "ALTER TABLE job ADD COLUMN name TEXT; ALTER TABLE job ADD COLUMN retry_of TEXT;"
    "ALTER TABLE job ADD COLUMN fingerprint TEXT; ALTER TABLE job ADD COLUMN methods TEXT;"
    "ALTER TABLE job ADD COLUMN input_bytes BIGINT NOT NULL DEFAULT 0;"
    "CREATE INDEX job_name ON job(owner, name, id) WHERE name IS NOT NULL;"
    "CREATE INDEX job_retry ON job(owner, retry_of, id) WHERE retry_of IS NOT NULL;"
    "CREATE INDEX job_priority ON job(owner, priority, id) WHERE priority<>0;"
    "CREATE INDEX job_fingerprint ON job(owner, fingerprint, id) WHERE state='succeeded';"
    "CREATE INDEX job_methods ON job(methods, id) WHERE state='succeeded';"
    "CREATE TABLE job_label(owner TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, job_id TEXT NOT NULL,"
    " PRIMARY KEY(owner, key, value, job_id)) @KEYED@;"
    "CREATE INDEX job_label_job ON job_label(job_id);"
    "DROP INDEX job_input_resource; CREATE INDEX job_input_resource ON job_input(resource_id, job_id);"
    "CREATE INDEX model_name ON model(owner, name, id); CREATE INDEX dataset_name ON dataset(owner, name, id);"
    /* API keys, the server's own secrets, turns of owners at the queue */
    "CREATE TABLE api_key(id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL,"
    " scopes TEXT NOT NULL, requests_per_s BIGINT, active_jobs BIGINT, stored_bytes BIGINT, created_at BIGINT NOT NULL,"
    " expires_at BIGINT, revoked_at BIGINT, last_used_at BIGINT);"
    "CREATE TABLE server_value(name TEXT PRIMARY KEY, value TEXT NOT NULL);"
    "CREATE TABLE owner_turn(owner TEXT PRIMARY KEY, turn BIGINT NOT NULL) @KEYED@;"
    "DROP INDEX job_claim; CREATE INDEX job_claim ON job(owner, priority DESC, run_at, id) WHERE state='queued';"
    /* How many there are, by what and owner: of jobs by state, of models, datasets, artifacts, and the bytes of these
     * three. Counting rows takes longer the more there are. */
    "CREATE TABLE tally(what TEXT NOT NULL, owner TEXT NOT NULL, n BIGINT NOT NULL, PRIMARY KEY(what, owner)) @KEYED@;"
    "INSERT INTO tally SELECT state,owner,count(*) FROM job GROUP BY state,owner;" COUNT_RESOURCES("model", "models")
    COUNT_RESOURCES("dataset", "datasets") COUNT_RESOURCES("artifact", "artifacts")
    "INSERT INTO tally SELECT 'bytes',owner,sum(bytes) FROM (SELECT owner,bytes FROM model UNION ALL SELECT owner,bytes"
    " FROM dataset UNION ALL SELECT owner,bytes FROM artifact) b GROUP BY owner;"
    "@TALLY@"
    /* the queue, retention */
    "CREATE INDEX job_queued ON job(run_at) WHERE state='queued';"
    "CREATE INDEX job_waiting ON job(created_at) WHERE state='queued';"
    "CREATE INDEX job_finished ON job(finished_at) WHERE finished_at IS NOT NULL;"
    "CREATE INDEX artifact_created ON artifact(created_at);"
    /* resumable uploads */
    "CREATE TABLE upload(id TEXT PRIMARY KEY, owner TEXT NOT NULL, length BIGINT NOT NULL, received BIGINT NOT NULL"
    " DEFAULT 0, tail TEXT NOT NULL DEFAULT '', metadata TEXT NOT NULL, sha256 TEXT, created_at BIGINT NOT NULL,"
    " expires_at BIGINT NOT NULL);"
    "CREATE INDEX upload_owner ON upload(owner, id);"
    "CREATE INDEX upload_expires ON upload(expires_at);"
    "CREATE INDEX upload_sha256 ON upload(sha256);"
    /* trace context of the request that queued the job */
    "ALTER TABLE job ADD COLUMN traceparent TEXT;",
    NULL,
};
/* clang-format on */
