/* SPDX-License-Identifier: Apache-2.0
 * The worker pool against a real catalogue, real blobs and real child processes: this program, run as `pared __job`,
 * plays what the recipe's "act" says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/recipe/job_spec.h"
#include "server/attempt.h"
#include "server/gc.h"
#include "server/server.h"
#include "server/worker.h"

enum { TRIES = 5 }; /* what shall be quick may be tried again: the machine has other work, too */

/* ---- the child's side ---------------------------------------------------------------------------------------------
 */

static void say(json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    dprintf(JOB_FD_STATUS, "%s\n", text);
    free(text);
    json_decref(object);
}

static json_t *make_file(json_t *spec, const char *name, const char *text, const char *claimed_text)
{
    char path[PATH_MAX], sha256[SHA256_HEX];
    struct err err = {0};
    snprintf(path, sizeof path, "%s/%s", json_string_value(json_object_get(spec, "out")), name);
    file_write_atomic(path, text, strlen(text), &err);
    hash_bytes(claimed_text, strlen(claimed_text), sha256);
    return json_pack("{s:s, s:s, s:i, s:s}", "name", name, "media_type", "text/plain", "bytes", (int)strlen(text),
                     "sha256", sha256);
}

static int finish(json_t *artifacts)
{
    say(json_pack("{s:s, s:s, s:o, s:n, s:{s:i}}", "type", "result", "kind", "job", "artifacts", artifacts,
                  "targets_met", "metrics", "x", 1));
    return JOB_EXIT_OK;
}

/* How often this act has run in this job's folder: what an attempt leaves, the next one finds. */
static int count_runs(json_t *spec)
{
    char path[PATH_MAX], text[20];
    struct err err = {0};
    const char *dir = json_string_value(json_object_get(spec, "checkpoint"));
    file_make_dirs(dir, &err);
    snprintf(path, sizeof path, "%s/runs", dir);
    char *old = file_read(path, 100, NULL, &err);
    int runs = old ? atoi(old) + 1 : 1;
    free(old);
    snprintf(text, sizeof text, "%d", runs);
    file_write_atomic(path, text, strlen(text), &(struct err){0});
    return runs;
}

static int play(json_t *spec, const char *act)
{
    char text[100];
    json_t *model = json_object_get(spec, "model");
    if (!strcmp(act, "ok")) {
        say(json_pack("{s:s, s:s, s:i, s:i, s:i, s:i}", "type", "progress", "stage", "work", "step", 1, "steps", 2,
                      "done", 3, "total", 4));
        say(json_pack("{s:s, s:s, s:s}", "type", "log", "level", "warn", "message", "careful"));
        say(json_pack("{s:s, s:s, s:i, s:i}", "type", "progress", "stage", "end", "step", 3, "steps", 2));
        char *bytes = file_read(json_string_value(json_object_get(model, "path")), 1000, NULL, &(struct err){0});
        snprintf(text, sizeof text, "%s, smaller", bytes ? bytes : "?");
        free(bytes);
        return finish(
            json_pack("[o, o]", make_file(spec, "model.onnx", text, text), make_file(spec, "report.json", "{}", "{}")));
    }
    if (!strcmp(act, "refuse")) {
        say(json_pack("{s:s, s:s, s:s}", "type", "error", "code", "operator_unsupported", "detail",
                      "no such operator"));
        return JOB_EXIT_REFUSED;
    }
    if (!strcmp(act, "crash_once") && count_runs(spec) == 2)
        return finish(json_pack("[o]", make_file(spec, "model.onnx", "x", "x")));
    if (!strncmp(act, "crash", 5))
        raise(SIGABRT);
    if (!strcmp(act, "sleep")) {
        say(json_pack("{s:s, s:s, s:i}", "type", "progress", "stage", "asleep", "step", 1));
        sleep(60);
    }
    if (!strcmp(act, "nap")) { /* longer than a lease */
        sleep(2);
        return finish(json_pack("[o]", make_file(spec, "model.onnx", "x", "x")));
    }
    if (!strcmp(act, "liar"))
        return finish(json_pack("[o]", make_file(spec, "model.onnx", "this", "that")));
    if (!strcmp(act, "escape"))
        return finish(json_pack("[{s:s, s:s, s:s}]", "name", "../../../node", "media_type", "a/b", "sha256", "0"));
    if (!strcmp(act, "link")) {
        char path[PATH_MAX];
        snprintf(path, sizeof path, "%s/model.onnx", json_string_value(json_object_get(spec, "out")));
        if (symlink("/etc/passwd", path))
            return 9;
        return finish(json_pack("[{s:s, s:s, s:s}]", "name", "model.onnx", "media_type", "a/b", "sha256", "0"));
    }
    if (!strcmp(act, "threads")) {
        snprintf(text, sizeof text, "%d %d %d", (int)json_integer_value(json_object_get(spec, "threads")),
                 (int)json_integer_value(json_object_get(spec, "memory_bytes")),
                 (int)json_array_size(json_object_get(spec, "external")));
        return finish(json_pack("[o]", make_file(spec, "model.onnx", text, text)));
    }
    return 9;
}

static int be_the_child(void)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    json_t *spec = json_loadfd(JOB_FD_SPEC, 0, NULL);
    const char *act = json_string_value(json_object_get(json_object_get(spec, "recipe"), "act"));
    int status = play(spec, act ? act : "");
    json_decref(spec);
    return status;
}

/* ---- the server's side --------------------------------------------------------------------------------------------
 */

struct fixture {
    struct server server;
    struct config config;
    char dir[40], model[ID_SIZE];
    struct arena *arena;
    struct err err;
};

static void changed(void *arg, enum store_change change, const char *job_id)
{
    (void)job_id;
    struct fixture *f = arg;
    struct workers *workers = atomic_load(&f->server.workers);
    if (workers)
        workers_poke(workers, change);
}

static void open_all(struct fixture *f)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/c.db", f->dir);
    struct store_opts opts = {path, changed, f};
    f->server.store = store_open(&opts, &f->err);
    assert_non_null(f->server.store);
    snprintf(path, sizeof path, "%s/blobs", f->dir);
    f->server.blobs = blob_disk_open(path, 0, &f->err);
    assert_non_null(f->server.blobs);
}

static void start(struct fixture *f)
{
    struct workers *workers = workers_start(&f->server, &f->err);
    assert_non_null(workers);
    atomic_store(&f->server.workers, workers);
}

static void stop(struct fixture *f)
{
    struct workers *workers = atomic_load(&f->server.workers);
    workers_stop(workers);
    atomic_store(&f->server.workers, NULL);
    workers_free(workers);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    char path[PATH_MAX], sha256[SHA256_HEX];
    strcpy(f->dir, "/tmp/pared-worker-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(path, sizeof path, "%s/work", f->dir);
    assert_int_equal(mkdir(path, 0755), 0);
    char *args[] = {(char[]){"--data"}, f->dir, (char[]){"--workers=2"}, (char[]){"--lease_ms=600"},
                    (char[]){"--threads=3"}};
    assert_int_equal(config_load(&f->config, 5, args, NULL, &f->err), 0);
    f->server.config = &f->config;
    strcpy(f->server.node, "node_test");
    f->arena = arena_new();
    open_all(f);
    struct blob_put *put = blob_put_begin(f->server.blobs, &f->err);
    assert_int_equal(blob_put_write(put, "a model", 7, &f->err), 0);
    assert_int_equal(blob_put_commit(put, sha256, &f->err), 0);
    struct store_file files[] = {{"m.onnx", sha256, 7}, {"w.bin", sha256, 7}};
    struct store_resource in = {.owner = "local", .name = "m", .files = files, .file_count = 2}, out;
    bool existed;
    assert_int_equal(store_resource_insert(f->server.store, STORE_MODEL, &in, NULL, f->arena, &out, &existed, &f->err),
                     0);
    blob_put_free(put);
    snprintf(f->model, sizeof f->model, "%s", out.id);
    start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    stop(f);
    store_close(f->server.store);
    blobs_close(f->server.blobs);
    config_fini(&f->config);
    arena_free(f->arena);
    file_remove_tree(f->dir, &f->err);
    free(f);
    return 0;
}

static const char *add(struct fixture *f, const char *act, struct store_job_new in)
{
    char request[200];
    struct store_job job;
    bool replayed;
    snprintf(request, sizeof request, "{\"recipe\":{\"act\":\"%s\"}}", act);
    in.owner = "local";
    in.request = request;
    in.inputs[JOB_ROLE_MODEL] = f->model;
    assert_int_equal(store_job_insert(f->server.store, &in, f->arena, &job, &replayed, &f->err), 0);
    return job.id;
}

static struct store_job get(struct fixture *f, const char *id)
{
    struct store_job job;
    assert_int_equal(store_job_get(f->server.store, "local", id, f->arena, &job, &f->err), 0);
    return job;
}

static struct store_job wait_end(struct fixture *f, const char *id, double seconds)
{
    double until = clock_seconds() + seconds;
    struct store_job job = get(f, id);
    for (; !job_state_ended(job.state) && clock_seconds() < until; job = get(f, id))
        usleep(5000);
    return job;
}

static void wait_stage(struct fixture *f, const char *id, const char *stage)
{
    double until = clock_seconds() + 10;
    while (strcmp(get(f, id).progress.stage, stage) && clock_seconds() < until)
        usleep(5000);
    assert_string_equal(get(f, id).progress.stage, stage);
}

/* The counts of regular files below work/ and blobs/tmp: nothing is left behind. */
static void assert_clean(struct fixture *f)
{
    char command[200];
    snprintf(command, sizeof command, "test -z \"$(find %s/work %s/blobs/tmp -type f)\"", f->dir, f->dir);
    for (int i = 0; i < 100 && system(command); i++) /* the worker cleans after the job's end is visible */
        usleep(20000);
    assert_int_equal(system(command), 0);
}

static void a_job_from_queue_to_artifacts(void **state)
{
    struct fixture *f = *state;
    const char *id = "";
    struct store_job job = {0};
    double quickest = 10;
    for (int i = 0; i < TRIES && quickest >= 0.9; i++) {
        double asked = clock_seconds();
        id = add(f, "ok", (struct store_job_new){0});
        job = wait_end(f, id, 10);
        assert_int_equal(job.state, JOB_SUCCEEDED);
        quickest = fmin(quickest, clock_seconds() - asked);
    }
    assert_true(quickest < 0.9); /* woken, not found by the poll of a second */
    assert_string_equal(job.result, "{\"targets_met\":null,\"metrics\":{\"x\":1}}");
    assert_string_equal(job.progress.stage, "end");
    assert_int_equal(job.progress.step, 3);
    struct store_artifact made;
    assert_int_equal(store_artifact_by_name(f->server.store, "local", id, "model.onnx", f->arena, &made, &f->err), 0);
    char text[50] = "";
    int fd = blob_open(f->server.blobs, made.sha256, NULL, &f->err);
    assert_int_equal(read(fd, text, sizeof text - 1), made.bytes);
    close(fd);
    assert_string_equal(text, "a model, smaller");
    struct store_event events[20];
    int count;
    assert_int_equal(store_event_list(f->server.store, "local", id, NULL, 0, 20, f->arena, events, &count, &f->err), 0);
    assert_string_equal(events[count - 1].data, "{\"state\":\"succeeded\"}");
    assert_string_equal(events[3].data, "{\"level\":\"warn\",\"message\":\"careful\"}");
    assert_clean(f);
}

static void failures_are_told(void **state)
{
    struct fixture *f = *state;
    static const struct {
        const char *act, *words;
        int64_t crashes;
    } cases[] = {{"refuse", "\"code\":\"operator_unsupported\"", 0},
                 {"liar", "verification_failed", 0},
                 {"escape", "verification_failed", 0},
                 {"link", "artifact 'model.onnx'", 0}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct store_job job = wait_end(f, add(f, cases[i].act, (struct store_job_new){0}), 10);
        if (job.state != JOB_FAILED || !job.error || !strstr(job.error, cases[i].words))
            fail_msg("%s: %s, %s", cases[i].act, job_state_name(job.state), job.error ? job.error : "no error");
        assert_null(strstr(job.error, f->dir)); /* no path */
        struct store_artifact *rows;
        int count;
        assert_int_equal(store_artifact_list(f->server.store, "local", job.id, f->arena, &rows, &count, &f->err), 0);
        assert_int_equal(count, 0);
    }
    assert_clean(f);
    char command[200];
    snprintf(command, sizeof command, "test $(find %s/blobs/objects -type f | wc -l) = 1", f->dir);
    assert_int_equal(system(command), 0); /* the model alone */
}

static void crashes_are_tried_twice(void **state)
{
    struct fixture *f = *state;
    const char *twice = add(f, "crash", (struct store_job_new){0}),
               *once = add(f, "crash_once", (struct store_job_new){0});
    struct store_job job = wait_end(f, twice, 15);
    assert_int_equal(job.state, JOB_FAILED);
    assert_int_equal(job.crashes, 2);
    assert_non_null(strstr(job.error, "\"code\":\"job_crashed\""));
    job = wait_end(f, once, 15);
    assert_int_equal(job.state, JOB_SUCCEEDED);
    assert_int_equal(job.attempt, 2);
    assert_clean(f);
}

static void cancel_within_a_second(void **state)
{
    struct fixture *f = *state;
    double quickest = 10;
    for (int i = 0; i < TRIES && quickest >= 1; i++) {
        const char *id = add(f, "sleep", (struct store_job_new){0});
        struct store_job job;
        wait_stage(f, id, "asleep");
        double asked = clock_seconds();
        assert_int_equal(store_job_cancel(f->server.store, "local", id, f->arena, &job, &f->err), 0);
        job = wait_end(f, id, 10);
        assert_int_equal(job.state, JOB_CANCELED);
        quickest = fmin(quickest, clock_seconds() - asked);
    }
    assert_true(quickest < 1);
    assert_clean(f);
}

static void time_limit_of_a_job(void **state)
{
    struct fixture *f = *state;
    struct store_job job = wait_end(f, add(f, "sleep", (struct store_job_new){.timeout_s = 1}), 10);
    assert_int_equal(job.state, JOB_FAILED);
    assert_non_null(strstr(job.error, "\"code\":\"job_timed_out\""));
}

static void a_lease_is_kept_while_the_child_works(void **state)
{
    struct fixture *f = *state;
    const char *id = add(f, "nap", (struct store_job_new){0});
    int reaped = 0;
    double until = clock_seconds() + 8;
    while (!job_state_ended(get(f, id).state) && clock_seconds() < until) {
        assert_int_equal(store_job_reap(f->server.store, NULL, &reaped, &f->err), 0);
        assert_int_equal(reaped, 0);
        usleep(50000);
    }
    assert_int_equal(get(f, id).state, JOB_SUCCEEDED);
    assert_int_equal(get(f, id).attempt, 1);
}

/* Another took the job over: the first attempt's child is killed and nothing of it is published. */
static void a_lost_lease_publishes_nothing(void **state)
{
    struct fixture *f = *state;
    const char *id = add(f, "sleep", (struct store_job_new){0});
    int reaped = 0;
    wait_stage(f, id, "asleep");
    int64_t attempt = get(f, id).attempt;
    assert_int_equal(store_job_reap(f->server.store, "node_test", &reaped, &f->err), 0);
    assert_int_equal(reaped, 1);
    double until = clock_seconds() + 5;
    while (get(f, id).attempt == attempt && clock_seconds() < until)
        usleep(10000);
    assert_int_equal(get(f, id).attempt,
                     attempt + 1); /* the second worker has it; the first one's child is gone by its beat */
    while (workers_busy(f->server.workers) > 1 && clock_seconds() < until)
        usleep(10000);
    assert_int_equal(workers_busy(f->server.workers), 1);
}

static void stopping_hands_jobs_back(void **state)
{
    struct fixture *f = *state;
    const char *id = add(f, "sleep", (struct store_job_new){0});
    wait_stage(f, id, "asleep");
    double asked = clock_seconds();
    stop(f);
    assert_true(clock_seconds() - asked < 10); /* the job would sleep for long */
    struct store_job job = get(f, id);
    assert_int_equal(job.state, JOB_QUEUED);
    assert_int_equal(job.losses, 0);
    assert_int_equal(job.crashes, 0);
    start(f);
    wait_stage(f, id, "asleep");
    assert_int_equal(get(f, id).attempt, 2);
}

static void draining_claims_nothing(void **state)
{
    struct fixture *f = *state;
    workers_drain(f->server.workers);
    const char *id = add(f, "ok", (struct store_job_new){0});
    usleep(300000);
    assert_int_equal(get(f, id).state, JOB_QUEUED);
    assert_int_equal(workers_busy(f->server.workers), 0);
}

static void jobs_ask_for_less(void **state)
{
    struct fixture *f = *state;
    static const struct {
        int64_t threads, memory_bytes;
        const char *text;
    } cases[] = {{2, 1000000, "2 1000000 1"}, {8, 2000000, "3 2000000 1"}};
    for (int i = 0; i < 2; i++) {
        const char *id = add(
            f, "threads", (struct store_job_new){.threads = cases[i].threads, .memory_bytes = cases[i].memory_bytes});
        assert_int_equal(wait_end(f, id, 10).state, JOB_SUCCEEDED);
        struct store_artifact made;
        char text[50] = "";
        assert_int_equal(store_artifact_by_name(f->server.store, "local", id, "model.onnx", f->arena, &made, &f->err),
                         0);
        int fd = blob_open(f->server.blobs, made.sha256, NULL, &f->err);
        assert_true(read(fd, text, sizeof text - 1) > 0);
        close(fd);
        assert_string_equal(text, cases[i].text);
    }
}

static void work_folders_of_the_dead_are_removed(void **state)
{
    struct fixture *f = *state;
    char path[PATH_MAX], kept[200];
    workers_drain(f->server.workers);
    usleep(50000);
    const char *id = add(f, "ok", (struct store_job_new){0});
    snprintf(kept, sizeof kept, "%s/work/%s/checkpoint", f->dir, id);
    snprintf(path, sizeof path,
             "mkdir -p %s/work/%s %s/work/job_01m815g952asq6phbs7z2tw04c/x %s/work/inspect_1; touch %s", f->dir, id,
             f->dir, f->dir, kept);
    assert_int_equal(system(path), 0);
    attempt_clean(&f->server);
    assert_int_equal(access(kept, F_OK), 0);
    snprintf(path, sizeof path, "test $(ls %s/work | wc -l) = 1", f->dir);
    assert_int_equal(system(path), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "__job"))
        _exit(be_the_child());
    log_set_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        TEST(a_job_from_queue_to_artifacts),
        TEST(failures_are_told),
        TEST(crashes_are_tried_twice),
        TEST(cancel_within_a_second),
        TEST(time_limit_of_a_job),
        TEST(a_lease_is_kept_while_the_child_works),
        TEST(a_lost_lease_publishes_nothing),
        TEST(stopping_hands_jobs_back),
        TEST(draining_claims_nothing),
        TEST(jobs_ask_for_less),
        TEST(work_folders_of_the_dead_are_removed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
