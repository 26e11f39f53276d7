/* SPDX-License-Identifier: Apache-2.0
 * Speed of the catalogue, empty and with many jobs: catalogue_bench FOLDER JOBS [QUEUED]. Fills a new catalogue in
 * FOLDER with JOBS ended jobs of ten owners, and QUEUED waiting ones, through plain SQL; then times each call, by the
 * clock and by the processor time of this thread. One JSON object on stdout, microseconds, medians.
 *
 * Every call finds the same, whatever JOBS is: a list of an empty catalogue has full pages of the jobs that were
 * submitted, claimed and settled before. */
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
    struct {
        char id[ID_SIZE];
        int64_t attempt;
    } claimed[ROUNDS];
    int claims, settled;
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

/* Rows as the store writes them; ids are older than any that is made today. Half belong to one owner. */
static const char fill_sql[] =
    "BEGIN; WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i+1 FROM n WHERE i+1<%ld)"
    " INSERT INTO job(id,owner,state,priority,run_at,attempt,timeout_s,memory_bytes,threads,request,result,name,"
    "created_at,started_at,finished_at)"
    " SELECT printf('job_01h%%023d',i),CASE WHEN i%%10<5 THEN 'local' ELSE 'owner'||(i%%10) END,"
    " CASE WHEN i>=%ld THEN 'queued' WHEN i%%20=0 THEN 'failed' WHEN i%%20=1 THEN 'canceled' ELSE 'succeeded' END,0,"
    " 1000+i,1,0,0,0,'{\"recipe\":{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":0.5}]},\"labels\":{}}',"
    " '{\"metrics\":{}}',CASE WHEN i%%3=0 THEN 'nightly' END,1000+i,CASE WHEN i<%ld THEN 1000+i END,"
    " CASE WHEN i<%ld THEN 2000+i END FROM n;"
    "INSERT INTO model(id,owner,name,sha256,content,bytes,facts,created_at)"
    " SELECT DISTINCT 'mdl_'||owner,owner,'m','a','c',1,'{}',1 FROM job WHERE owner<>'local';"
    "INSERT INTO job_progress(job_id,owner,step,steps,stage,done,total,eta_s,version,updated_at)"
    " SELECT id,owner,1,1,'verify',1,1,0,5,created_at FROM job;"
    "INSERT INTO job_input(job_id,role,owner,resource_id)"
    " SELECT id,'model',owner,CASE owner WHEN 'local' THEN '%s' ELSE 'mdl_'||owner END FROM job;"
    "INSERT INTO job_event SELECT id,s.value,owner,created_at,'state','{\"state\":\"queued\"}' FROM job,"
    " (SELECT 1 AS value UNION ALL SELECT 2 UNION ALL SELECT 3) s;"
    "INSERT INTO job_label SELECT owner,'team','team-'||(run_at%%7),id FROM job;"
    "INSERT INTO job_label SELECT owner,'rare','yes',id FROM job WHERE run_at%%5000=1000;"
    "INSERT INTO artifact SELECT "
    "replace(id,'job_','art_'),owner,id,'model.onnx','a/b',printf('%%064d',rowid),5,created_at"
    " FROM job WHERE state='succeeded'; COMMIT;";

static int fill(const char *path, long jobs, long queued, const char *model, struct err *err)
{
    char sql[4000];
    struct sql_conn *conn = sql_sqlite.open(path, false, err);
    if (!conn)
        return -1;
    snprintf(sql, sizeof sql, fill_sql, jobs + queued, jobs, jobs, jobs, model);
    int rc = jobs + queued ? sql_sqlite.exec(conn, sql, err) : 0;
    sql_sqlite.close(conn);
    return rc;
}

/* ---- what clients and workers do */

static void submit(struct bench *b)
{
    static const struct store_label label = {"team", "bench"};
    struct store_job_new in = {.owner = "local",
                               .request = "{\"recipe\":{\"steps\":[]}}",
                               .inputs = {[JOB_ROLE_MODEL] = b->model},
                               .name = "bench",
                               .labels = &label,
                               .label_count = 1,
                               .max_queued = 1000000,
                               .max_active = 1000000,
                               .max_bytes = INT64_C(1) << 50};
    struct store_job job;
    bool replayed;
    if (store_job_insert(b->store, &in, b->arena, &job, &replayed, &b->err))
        fail(b, "submit");
    snprintf(b->last, sizeof b->last, "%s", job.id);
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

static void claim(struct bench *b)
{
    struct store_claim c;
    if (store_job_claim(b->store, "n:w", 1000000, b->arena, &c, &b->err) != 1)
        fail(b, "claim");
    snprintf(b->claimed[b->claims].id, ID_SIZE, "%s", c.id);
    b->claimed[b->claims++].attempt = c.attempt;
}

static void settle(struct bench *b)
{
    const struct store_outcome outcome = {.kind = STORE_FAILED, .error = "{\"code\":\"bench\"}"};
    enum job_state state;
    int i = b->settled++;
    if (store_job_settle(b->store, b->claimed[i].id, b->claimed[i].attempt, &outcome, &state, &b->err) != 1)
        fail(b, "settle");
}

/* ---- lists */

static void list_by(struct bench *b, struct store_page page, struct store_job_filter filter)
{
    struct store_job rows[PAGE];
    int count;
    bool more;
    page.owner = "local";
    page.limit = PAGE;
    if (store_job_search(b->store, &page, &filter, b->arena, rows, &count, &more, &b->err))
        fail(b, "list");
}

static void list(struct bench *b)
{
    list_by(b, (struct store_page){0}, (struct store_job_filter){0});
}

static void list_middle(struct bench *b)
{
    list_by(b, (struct store_page){.after = b->middle}, (struct store_job_filter){0});
}

static void list_failed(struct bench *b)
{
    list_by(b, (struct store_page){0}, (struct store_job_filter){.states = 1u << JOB_FAILED});
}

static void list_model(struct bench *b)
{
    list_by(b, (struct store_page){0}, (struct store_job_filter){.model = b->model});
}

static void list_label(struct bench *b)
{
    const struct store_label label = {"team", "bench"};
    list_by(b, (struct store_page){0}, (struct store_job_filter){.labels = &label, .label_count = 1});
}

/* Conditions that sift nearly everything away, on top of one that does not. */
static void list_rare(struct bench *b)
{
    const struct store_label label = {"rare", "yes"};
    list_by(
        b, (struct store_page){0},
        (struct store_job_filter){.labels = &label, .label_count = 1, .model = b->model, .states = 1u << JOB_FAILED});
}

static void list_none(struct bench *b)
{
    const int64_t priority = 5;
    list_by(b, (struct store_page){0}, (struct store_job_filter){.priority = &priority});
}

static void list_name(struct bench *b)
{
    list_by(b, (struct store_page){.name = "bench"}, (struct store_job_filter){0});
}

static void count_all(struct bench *b)
{
    struct store_counts counts;
    if (store_count(b->store, &counts, &b->err))
        fail(b, "count");
}

static const struct {
    const char *name;
    void (*call)(struct bench *b);
} calls[] = {
    {"submit", submit},
    {"get_queued", get_queued},
    {"ahead", ahead},
    {"claim", claim},
    {"settle", settle},
    {"list", list},
    {"list_middle", list_middle},
    {"list_failed", list_failed},
    {"list_model", list_model},
    {"list_label", list_label},
    {"list_name", list_name},
    {"list_rare", list_rare},
    {"list_none", list_none},
    {"count", count_all},
};
enum { CALLS = sizeof calls / sizeof calls[0] };

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void measure(struct bench *b, int which)
{
    double wall[ROUNDS], cpu[ROUNDS];
    for (int i = 0; i < ROUNDS; i++) {
        b->arena = arena_new();
        double begun = clock_seconds(), spent = cpu_seconds();
        calls[which].call(b);
        cpu[i] = cpu_seconds() - spent;
        wall[i] = clock_seconds() - begun;
        arena_free(b->arena);
    }
    qsort(wall, ROUNDS, sizeof *wall, ascending);
    qsort(cpu, ROUNDS, sizeof *cpu, ascending);
    printf("\"%s\": {\"us\": %.1f, \"cpu_us\": %.1f}%s", calls[which].name, wall[ROUNDS / 2] * 1e6,
           cpu[ROUNDS / 2] * 1e6, which == CALLS - 1 ? "}\n" : ", ");
}

static void open_filled(struct bench *b, const char *folder, long jobs, long queued)
{
    char path[4000];
    snprintf(path, sizeof path, "%s/catalogue.db", folder);
    struct store_opts opts = {.path = path};
    b->store = store_open(&opts, &b->err);
    if (!b->store)
        fail(b, "open");
    struct store_file file = {"m.onnx", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", 100};
    struct store_resource in = {.owner = "local", .name = "m", .facts = "{}", .files = &file, .file_count = 1}, out;
    bool existed;
    if (store_resource_insert(b->store, STORE_MODEL, &in, NULL, b->arena, &out, &existed, &b->err))
        fail(b, "model");
    snprintf(b->model, sizeof b->model, "%s", out.id);
    if (fill(path, jobs, queued, b->model, &b->err))
        fail(b, "fill");
}

int main(int argc, char **argv)
{
    if (argc < 3)
        return fputs("usage: catalogue_bench FOLDER JOBS [QUEUED]\n", stderr), 2;
    struct bench b = {.arena = arena_new()};
    long jobs = strtol(argv[2], NULL, 10), queued = argc > 3 ? strtol(argv[3], NULL, 10) : 0;
    open_filled(&b, argv[1], jobs, queued);
    for (int i = 0; i < PAGE * 4; i++) /* so that an empty catalogue lists full pages, too */
        submit(&b);
    snprintf(b.middle, sizeof b.middle, "%s", b.last);
    if (jobs)
        snprintf(b.middle, sizeof b.middle, "job_01h%023ld", jobs / 2);
    arena_free(b.arena);
    printf("{\"jobs\": %ld, \"queued\": %ld, ", jobs, queued);
    for (int i = 0; i < CALLS; i++)
        measure(&b, i);
    store_close(b.store);
    return 0;
}
