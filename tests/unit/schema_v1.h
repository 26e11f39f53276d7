/* SPDX-License-Identifier: Apache-2.0
 * schema_v1.h - a catalogue as the first release made it: its tables, written out once and never changed, and rows of
 * every kind. Tests open it with today's program. @KEYED@ is the driver's (sql_driver.h). */
#ifndef PARED_TESTS_SCHEMA_V1_H
#define PARED_TESTS_SCHEMA_V1_H

/* clang-format off */
static const char schema_v1[] =
    "CREATE TABLE model(id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, content "
    "TEXT NOT NULL, bytes BIGINT NOT NULL, facts TEXT NOT NULL, parent_job TEXT, created_at BIGINT NOT NULL, "
    "UNIQUE(owner, content));"
    "CREATE INDEX model_owner ON model(owner, id);"
    "CREATE TABLE dataset(id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, sha256 TEXT NOT NULL, "
    "content TEXT NOT NULL, bytes BIGINT NOT NULL, facts TEXT NOT NULL, parent_job TEXT, created_at BIGINT NOT "
    "NULL, UNIQUE(owner, content));"
    "CREATE INDEX dataset_owner ON dataset(owner, id);"
    "CREATE TABLE resource_file(resource_id TEXT NOT NULL, seq BIGINT NOT NULL, owner TEXT NOT NULL, name TEXT NOT "
    "NULL, sha256 TEXT NOT NULL, bytes BIGINT NOT NULL, PRIMARY KEY(resource_id, seq)) @KEYED@;"
    "CREATE INDEX resource_file_sha256 ON resource_file(sha256);"
    "CREATE TABLE resource_detail(resource_id TEXT NOT NULL, what TEXT NOT NULL, owner TEXT NOT NULL, json TEXT NOT "
    "NULL, PRIMARY KEY(resource_id, what)) @KEYED@;"
    "CREATE TABLE recipe(id TEXT PRIMARY KEY, owner TEXT NOT NULL, name TEXT NOT NULL, body TEXT NOT NULL, "
    "created_at BIGINT NOT NULL, UNIQUE(owner, name));"
    "CREATE INDEX recipe_owner ON recipe(owner, id);"
    "CREATE TABLE job(id TEXT PRIMARY KEY, owner TEXT NOT NULL, state TEXT NOT NULL CHECK(state "
    "IN('queued','running','succeeded','failed','canceled')), priority BIGINT NOT NULL, run_at BIGINT NOT NULL, "
    "attempt BIGINT NOT NULL DEFAULT 0, crashes BIGINT NOT NULL DEFAULT 0, losses BIGINT NOT NULL DEFAULT 0, "
    "lease_owner TEXT, lease_until BIGINT, cancel_requested_at BIGINT, timeout_s BIGINT NOT NULL, memory_bytes "
    "BIGINT NOT NULL, threads BIGINT NOT NULL, request TEXT NOT NULL, result TEXT, error TEXT, version BIGINT NOT "
    "NULL DEFAULT 1, created_at BIGINT NOT NULL, started_at BIGINT, finished_at BIGINT, "
    "CHECK((state='running')=(lease_until IS NOT NULL)), CHECK((state "
    "IN('succeeded','failed','canceled'))=(finished_at IS NOT NULL)));"
    "CREATE INDEX job_claim ON job(priority DESC, run_at, id) WHERE state='queued';"
    "CREATE INDEX job_running ON job(id) WHERE state='running';"
    "CREATE INDEX job_owner ON job(owner, id);"
    "CREATE INDEX job_state ON job(owner, state, id);"
    "CREATE TABLE job_input(job_id TEXT NOT NULL, role TEXT NOT NULL, owner TEXT NOT NULL, resource_id TEXT NOT "
    "NULL, PRIMARY KEY(job_id, role)) @KEYED@;"
    "CREATE INDEX job_input_resource ON job_input(resource_id);"
    "CREATE TABLE job_progress(job_id TEXT PRIMARY KEY, owner TEXT NOT NULL, step BIGINT NOT NULL, steps BIGINT NOT "
    "NULL, stage TEXT NOT NULL, done BIGINT NOT NULL, total BIGINT NOT NULL, eta_s DOUBLE PRECISION NOT NULL, "
    "version BIGINT NOT NULL, updated_at BIGINT NOT NULL) @KEYED@;"
    "CREATE TABLE job_event(job_id TEXT NOT NULL, seq BIGINT NOT NULL, owner TEXT NOT NULL, at BIGINT NOT NULL, "
    "type TEXT NOT NULL, data TEXT NOT NULL, PRIMARY KEY(job_id, seq)) @KEYED@;"
    "CREATE TABLE artifact(id TEXT PRIMARY KEY, owner TEXT NOT NULL, job_id TEXT NOT NULL, name TEXT NOT NULL, "
    "media_type TEXT NOT NULL, sha256 TEXT NOT NULL, bytes BIGINT NOT NULL, created_at BIGINT NOT NULL, "
    "UNIQUE(job_id, name));"
    "CREATE INDEX artifact_sha256 ON artifact(sha256);"
    "CREATE TABLE idempotency(owner TEXT NOT NULL, key TEXT NOT NULL, request_sha256 TEXT NOT NULL, job_id TEXT NOT "
    "NULL, expires_at BIGINT NOT NULL, PRIMARY KEY(owner, key)) @KEYED@;"
    "CREATE INDEX idempotency_job ON idempotency(job_id);"
    "CREATE INDEX idempotency_expires ON idempotency(expires_at);"
    "CREATE TABLE schema_version(version BIGINT NOT NULL); INSERT INTO schema_version VALUES(1);";

#define V1_MODEL "mdl_01kb0000000000000000000001"
#define V1_QUEUED "job_01kb0000000000000000000002"
#define V1_RUNNING "job_01kb0000000000000000000003"
#define V1_DONE "job_01kb0000000000000000000004"
#define V1_SHA "1111111111111111111111111111111111111111111111111111111111111111"
#define V1_OUT "2222222222222222222222222222222222222222222222222222222222222222"
#define V1_JOB(id, state, more) "INSERT INTO job VALUES('" id "','local','" state "',0,1000,1,0,0," more ");"

static const char rows_v1[] =
    "INSERT INTO model VALUES('" V1_MODEL "','local','old.onnx','" V1_SHA "','" V1_SHA "',5,'{\"nodes\":1}',NULL,1000);"
    "INSERT INTO resource_file VALUES('" V1_MODEL "',0,'local','old.onnx','" V1_SHA "',5);"
    "INSERT INTO resource_detail VALUES('" V1_MODEL "','layers','local','[1]');"
    V1_JOB(V1_QUEUED, "queued", "NULL,NULL,NULL,0,0,0,'{\"recipe\":{\"steps\":[]}}',NULL,NULL,1,1000,NULL,NULL")
    V1_JOB(V1_RUNNING, "running", "'n1:w',2000,NULL,0,0,0,'{\"recipe\":{\"steps\":[]}}',NULL,NULL,1,1000,1000,NULL")
    V1_JOB(V1_DONE, "succeeded", "NULL,NULL,NULL,0,0,0,'{\"recipe\":{\"steps\":[]}}','{\"x\":1}',NULL,1,1000,1000,1500")
    "INSERT INTO job_input SELECT id,'model','local','" V1_MODEL "' FROM job;"
    "INSERT INTO job_progress SELECT id,'local',1,2,'calibrate',3,4,0.5,7,1200 FROM job;"
    "INSERT INTO job_event SELECT id,1,'local',1000,'state','{\"state\":\"queued\"}' FROM job;"
    "INSERT INTO artifact VALUES('art_01kb0000000000000000000005','local','" V1_DONE "','model.onnx','a/b','" V1_OUT "',9,1500);"
    "INSERT INTO recipe VALUES('rcp_01kb0000000000000000000006','local','mine','{}',1000);"
    "INSERT INTO idempotency VALUES('local','k','" V1_SHA "','" V1_DONE "',9000000000000);";
/* clang-format on */

#endif
