/* SPDX-License-Identifier: Apache-2.0
 * A byte that chooses the call, then a JSON body, through the handlers that take one: jobs, recipes, models and
 * datasets made of what the server has; or the header Idempotency-Key. "@M" and "@D" in the body stand for a model and a dataset
 * that exist. Every refusal must have a sentence and become a problem document; what is accepted must be readable again. */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "api/handlers.h"
#include "api/job_new.h"
#include "core/base/file.h"
#include "core/recipe/json_text.h"
#include "server/auth.h"
#include "server/config.h"
#include "server/http_internal.h"
#include "server/problem.h"
#include "server/server.h"
#include "server/tus.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { BODY_MAX = 4000 }; /* inputs have 4,096 bytes */
static const char model_facts[] =
    "{\"opset\":13,\"parameters\":160,\"inputs\":[{\"name\":\"x\",\"dtype\":\"float32\",\"shape\":[\"N\",16]}],"
    "\"outputs\":[{\"name\":\"y\",\"dtype\":\"float32\",\"shape\":[\"N\",4]}],\"missing_operators\":[],"
    "\"operators_without_gradient\":[]}";
static const char dataset_facts[] =
    "{\"samples\":8,\"labels\":\"classes\",\"max_label\":3,\"inputs\":[{\"name\":\"x\",\"shape\":[16]}]}";

static const char *idempotency_key; /* the only header of these requests */
static char dir[40], model[ID_SIZE], dataset[ID_SIZE];
static struct config config;
static struct server server;

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* In place of libmicrohttpd's: there is no connection. */
const char *MHD_lookup_connection_value(struct MHD_Connection *connection, enum MHD_ValueKind kind, const char *key)
{
    return !connection && kind == MHD_HEADER_KIND && strcmp(key, "Idempotency-Key") == 0 ? idempotency_key : NULL;
}

static void remove_dir(void)
{
    file_remove_tree(dir, &(struct err){0});
}

static void add(enum store_kind kind, const char *facts, char id[ID_SIZE])
{
    struct arena *arena = arena_new();
    struct err err = {0};
    char sha256[SHA256_HEX];
    bool existed;
    hash_bytes(facts, strlen(facts), sha256);
    struct store_file file = {"f", sha256, 1};
    struct store_resource in = {.owner = AUTH_LOCAL, .name = "f", .facts = facts, .files = &file, .file_count = 1}, out;
    must(store_resource_insert(server.store, kind, &in, NULL, arena, &out, &existed, &err) == 0);
    snprintf(id, ID_SIZE, "%s", out.id);
    arena_free(arena);
}

static void start(void)
{
    static char *none[] = {NULL};
    struct err err = {0};
    char path[80];
    snprintf(dir, sizeof dir, "/dev/shm/pared-fuzz-XXXXXX"); /* a fuzzer should not wait for a disk */
    must(mkdtemp(dir) != NULL && config_load(&config, 0, none, none, &err) == 0);
    atexit(remove_dir);
    server.config = &config;
    snprintf(path, sizeof path, "%s/c.db", dir);
    server.store = store_open(&(struct store_opts){.path = path}, &err);
    snprintf(path, sizeof path, "%s/blobs", dir);
    server.blobs = blob_disk_open(path, 0, &err);
    snprintf(path, sizeof path, "%s/uploads", dir);
    must(server.store && server.blobs);
    server.tus = tus_open(path, server.store, server.blobs, &err);
    must(server.tus);
    add(STORE_MODEL, model_facts, model);
    add(STORE_DATASET, dataset_facts, dataset);
}

/* The body with ids in place of "@M" and "@D". */
static void expand(struct buf *out, const char *text, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        const char *id = text[i] != '@' || i + 1 == len ? NULL
                         : text[i + 1] == 'M'           ? model
                         : text[i + 1] == 'D'           ? dataset
                                                        : NULL;
        if (id)
            buf_puts(out, id);
        else
            buf_append(out, &text[i], 1);
        i += id != NULL;
    }
}

static void follow(struct exchange *x, handler_fn *handler, int status)
{
    res_fini(&x->res);
    res_reset(&x->res, &x->req);
    must(handler(&x->req, &x->res, &x->err) == 0 && x->res.status == status);
}

/* What is written to a file can be read again. */
static void write_and_read(const json_t *json)
{
    char path[80];
    struct file_map map;
    struct err err = {0};
    snprintf(path, sizeof path, "%s/text.json", dir);
    must(json_text_write(json, path, &err) == 0 && file_map_open(&map, path, &err) == 0);
    json_t *again = json_text_parse((const char *)map.data, map.size, 0, &err);
    must(json_equal(json, again));
    json_decref(again);
    file_map_close(&map);
}

/* A recipe that was taken is listed, read and deleted as its owner would. */
static void recipe_life(struct exchange *x, const char *name)
{
    static const struct route row = {.method = "GET", .query = "cursor limit"};
    x->req.route = &row;
    x->req.param[0] = name;
    follow(x, recipes_list, 200);
    must(memmem(x->res.bytes, x->res.len, name, strlen(name)) != NULL);
    follow(x, recipes_get, 200);
    follow(x, recipes_delete, 204);
    must(recipes_get(&x->req, &x->res, &x->err) != 0 && x->err.code == ERR_NOT_FOUND);
    x->err = (struct err){0};
    x->req.param[0] = "fp16"; /* ships with the server: read, not deleted */
    follow(x, recipes_get, 200);
    must(recipes_delete(&x->req, &x->res, &x->err) != 0 && x->err.code == ERR_FORBIDDEN);
}

/* What was made goes again, so that the catalogue stays as it is. */
static void undo(struct exchange *x, char call)
{
    struct err err = {0};
    struct store_orphans orphans;
    struct store_job job;
    must(x->res.bytes != NULL);
    json_t *answer = json_loadb(x->res.bytes, x->res.len, JSON_REJECT_DUPLICATES, NULL);
    must(json_is_object(answer));
    const char *id = json_string_value(json_object_get(answer, "id")),
               *name = json_string_value(json_object_get(answer, "name"));
    if (call == 'j' && id) {
        must(store_job_cancel(server.store, AUTH_LOCAL, id, x->req.arena, &job, &err) == 0);
        must(store_job_delete(server.store, AUTH_LOCAL, id, x->req.arena, &orphans, &err) == 0);
    }
    if (call == 'r') {
        write_and_read(answer);
        recipe_life(x, name);
    }
    json_decref(answer);
}

static void refusal(struct exchange *x)
{
    must(x->err.code != ERR_NONE || x->req.faults.count > 0);
    must(x->err.code == ERR_NONE || (x->err.msg[0] && x->err.code != ERR_INTERNAL && err_status(x->err.code) < 500));
    json_t *problem = problem_json(&x->err, &x->req.faults, "/v1", "req_1");
    char *text = json_dumps(problem, JSON_COMPACT);
    must(text != NULL);
    free(text);
    json_decref(problem);
}

/* A key goes to the catalogue as it came, beside the hash of its request; or it is refused. */
static void key(const struct buf *text)
{
    struct exchange *x = calloc(1, sizeof *x);
    struct store_job_new job = {0};
    char sha256[SHA256_HEX];
    must(x != NULL);
    x->req.app = &server;
    idempotency_key = text->data ? text->data : "";
    if (job_new_key(&x->req, "body", 4, sha256, &job, &x->err) == 0)
        must(strlen(sha256) == 64 && job.request_sha256 == sha256 &&
             strcmp(job.idempotency_key, idempotency_key) == 0 && !strpbrk(idempotency_key, " \n\x7f"));
    else
        must(x->err.code == ERR_BAD_REQUEST && !job.idempotency_key);
    idempotency_key = NULL;
    free(x);
}

static void run(char call, handler_fn *handler, const struct buf *body)
{
    static const struct auth_caller caller = {.owner = AUTH_LOCAL, .key_id = "", .scopes = SCOPES_ALL};
    struct exchange *x = calloc(1, sizeof *x);
    must(x != NULL);
    struct req *req = &x->req;
    *req = (struct req){.arena = arena_new(),
                        .app = &server,
                        .method = "POST",
                        .path = "/v1",
                        .request_id = "req_1",
                        .owner = AUTH_LOCAL,
                        .caller = &caller,
                        .body = body->data ? body->data : "",
                        .body_len = body->len};
    trace_begin(&req->trace, NULL);
    res_reset(&x->res, req);
    req->json = json_text_parse(req->body, req->body_len, BODY_MAX, &x->err);
    must((req->json != NULL) == (x->err.code == ERR_NONE));
    if (req->json && handler(req, &x->res, &x->err) == 0 && req->faults.count == 0)
        undo(x, call);
    else
        refusal(x);
    res_fini(&x->res);
    faults_fini(&req->faults);
    json_decref(req->json);
    arena_free(req->arena);
    free(x);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct {
        char byte;
        handler_fn *handler;
    } calls[] = {{'j', jobs_create}, {'r', recipes_create}, {'m', models_create}, {'d', datasets_create}};
    if (!server.store)
        start();
    if (size == 0)
        return 0;
    struct buf body = {0};
    expand(&body, (const char *)data + 1, size - 1);
    for (size_t i = 0; i < sizeof calls / sizeof calls[0]; i++)
        if (data[0] == (uint8_t)calls[i].byte)
            run(calls[i].byte, calls[i].handler, &body);
    if (data[0] == 'k')
        key(&body);
    buf_fini(&body);
    return 0;
}
