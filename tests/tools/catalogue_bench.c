/* SPDX-License-Identifier: Apache-2.0
 * Speed of the catalogue, empty and with many jobs: catalogue_bench FOLDER JOBS [QUEUED]. Fills a new catalogue in FOLDER with JOBS ended
 * jobs of ten owners, and QUEUED waiting ones, through plain SQL; then times submit, claim, one, list (first page, a page from
 * the middle, one state), each by the CPU of this thread and by the clock. One JSON object on stdout, microseconds, medians. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "core/base/clock.h"
#include "server/sql_driver.h"
#include "server/store.h"

enum { ROUNDS = 200, PAGE = 50 };

struct bench {
    struct store *store;
    struct arena *arena;
    struct err err;
    char model[ID_SIZE], middle[ID_SIZE], last[ID_SIZE];
};

static void fail(struct bench *b, const char *what)
{
    fprintf(stderr, "catalogue_bench: %s: %s\n", what, b->err.msg);
    exit(1);
}

static double cpu_seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* Rows as the store writes them; ids are older than any that is made today. */
static int fill(const char *path, long jobs, long queued, const char *model, struct err *err)
{
    static const char text[] =
        "BEGIN; WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i+1<%ld)"
        " INSERT INTO job(id,owner,state,priority,run_at,attempt,timeout_s,memory_bytes,threads,request,result,created_at,started_at,finished_at)"
        " SELECT printf('job_01h%%023d',i),CASE WHEN i%%10<5 THEN 'local' ELSE 'owner'||(i%%10) END,"
        " CASE WHEN i>=%ld THEN 'queued' WHEN i%%20=0 THEN 'failed' WHEN i%%20=1 THEN 'canceled' ELSE 'succeeded' END,0,1000+i,1,0,0,0,"
        " '{\"recipe\":{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":0.5}]},\"labels\":{}}','{\"metrics\":{}}',"
        " 1000+i,CASE WHEN i<%ld THEN 1000+i END,CASE WHEN i<%ld THEN 2000+i END FROM n;"
        "INSERT INTO job_progress(job_id,owner,step,steps,stage,done,total,eta_s,version,updated_at)"
        " SELECT id,owner,1,1,'verify',1,1,0,5,created_at FROM job;"
        "INSERT INTO job_input(job_id,role,owner,resource_id) SELECT id,'model',owner,'%s' FROM job;"
        "INSERT INTO job_event SELECT id,s.value,owner,created_at,'state','{\"state\":\"queued\"}' FROM job,"
        " (SELECT 1 AS value UNION ALL SELECT 2 UNION ALL SELECT 3) s;"
        "INSERT INTO artifact SELECT replace(id,'job_','art_'),owner,id,'model.onnx','a/b',printf('%%064d',rowid),5,created_at FROM job"
        " WHERE state='succeeded'; COMMIT;";
    char sql[4000];
    struct sql_conn *conn = sql_sqlite.open(path, false, err);
    if (!conn)
        return -1;
    snprintf(sql, sizeof sql, text, jobs + queued, jobs, jobs, jobs, model);
    int rc = jobs + queued ? sql_sqlite.exec(conn, sql, err) : 0;
    sql_sqlite.close(conn);
    return rc;
}

static void submit(struct bench *b)
{
    struct store_job_new in = {.owner = "local",
                               .request = "{\"recipe\":{\"steps\":[]}}",
                               .inputs = {[JOB_ROLE_MODEL] = b->model},
                               .priority = 9,
                               .max_queued = 1000000};
    struct store_job job;
    bool replayed;
    if (store_job_insert(b->store, &in, b->arena, &job, &replayed, &b->err))
        fail(b, "submit");
    snprintf(b->last, sizeof b->last, "%s", job.id);
}

static void claim(struct bench *b)
{
    struct store_claim c;
    if (store_job_claim(b->store, "n:w", 1000000, b->arena, &c, &b->err) != 1)
        fail(b, "claim");
}

static void list_after(struct bench *b, const char *after, int state)
{
    struct store_job rows[PAGE];
    struct store_page page = {.owner = "local", .after = after, .limit = PAGE};
    int count;
    bool more;
    if (store_job_list(b->store, &page, state, b->arena, rows, &count, &more, &b->err))
        fail(b, "list");
}

static void list(struct bench *b)
{
    list_after(b, NULL, -1);
}

static void list_middle(struct bench *b)
{
    list_after(b, b->middle, -1);
}

static void list_state(struct bench *b)
{
    list_after(b, NULL, JOB_FAILED);
}

static void count_all(struct bench *b)
{
    struct store_counts counts;
    if (store_count(b->store, &counts, &b->err))
        fail(b, "count");
}

static void get_queued(struct bench *b)
{
    struct store_job job;
    if (store_job_get(b->store, "local", b->last, b->arena, &job, &b->err))
        fail(b, "get");
}

static void ahead(struct bench *b)
{
    struct store_ahead *rows;
    int count;
    if (store_queue_ahead(b->store, b->last, b->arena, &rows, &count, &b->err))
        fail(b, "ahead");
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct bench *b, const char *name, void (*call)(struct bench *), bool last)
{
    double wall[ROUNDS], cpu[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        b->arena = arena_new();
        double begun = clock_seconds(), spent = cpu_seconds();
        call(b);
        cpu[i] = cpu_seconds() - spent;
        wall[i] = clock_seconds() - begun;
        arena_free(b->arena);
    }
    qsort(wall, ROUNDS, sizeof *wall, ascending);
    qsort(cpu, ROUNDS, sizeof *cpu, ascending);
    printf("\"%s\": {\"us\": %.1f, \"cpu_us\": %.1f}%s", name, wall[ROUNDS / 2] * 1e6, cpu[ROUNDS / 2] * 1e6, last ? "}\n" : ", ");
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return fputs("usage: catalogue_bench FOLDER JOBS [QUEUED]\n", stderr), 2;
    struct bench b = {.arena = arena_new()};
    long jobs = strtol(argv[2], NULL, 10), queued = argc > 3 ? strtol(argv[3], NULL, 10) : 0;
    char path[4000];
    snprintf(path, sizeof path, "%s/catalogue.db", argv[1]);
    struct store_opts opts = {.path = path};
    b.store = store_open(&opts, &b.err);
    if (!b.store)
        fail(&b, "open");
    struct store_file file = {"m.onnx", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 100};
    struct store_resource in = {.owner = "local", .name = "m", .facts = "{}", .files = &file, .file_count = 1}, out;
    bool existed;
    if (store_resource_insert(b.store, STORE_MODEL, &in, NULL, b.arena, &out, &existed, &b.err))
        fail(&b, "model");
    snprintf(b.model, sizeof b.model, "%s", out.id);
    if (fill(path, jobs, queued, b.model, &b.err))
        fail(&b, "fill");
    snprintf(b.middle, sizeof b.middle, "job_01h%023ld", jobs / 2);
    for (int i = 0; i < PAGE * 2; i++) /* so that an empty catalogue lists full pages, too */
        submit(&b);
    arena_free(b.arena);
    printf("{\"jobs\": %ld, \"queued\": %ld, ", jobs, queued);
    measure(&b, "submit", submit, false);
    measure(&b, "get_queued", get_queued, false);
    measure(&b, "ahead", ahead, false);
    measure(&b, "claim", claim, false);
    measure(&b, "list", list, false);
    measure(&b, "list_middle", list_middle, false);
    measure(&b, "list_state", list_state, false);
    measure(&b, "count", count_all, true);
    store_close(b.store);
    return 0;
}
