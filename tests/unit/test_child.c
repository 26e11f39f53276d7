/* SPDX-License-Identifier: Apache-2.0
 * One child process: every way it can end, and what a hostile one may say. This program is its own child: `test_child
 * act NAME`. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"
#include "core/recipe/job_spec.h"
#include "server/child.h"

/* ---- the child's side ---------------------------------------------------------------------------------------------
 */

static void say(const char *text)
{
    size_t len = strlen(text);
    if (write(JOB_FD_STATUS, text, len) != (ssize_t)len)
        _exit(99);
}

static int act_ok(void)
{
    char spec[1000] = "";
    ssize_t n = read(JOB_FD_SPEC, spec, sizeof spec - 1);
    say("{\"type\":\"progress\",\"stage\":\"one\",\"step\":1}\n{\"type\":\"log\",\"message\":\"hello\"}\n");
    say(n > 0 && strstr(spec, "\"answer\":42") ? "{\"type\":\"result\",\"facts\":{\"a\":1}}\n"
                                               : "{\"type\":\"error\"}\n");
    return 0;
}

static int act_refuse(void)
{
    say("{\"type\":\"error\",\"code\":\"model_invalid\",\"detail\":\"node 'x': "
        "bad\",\"faults\":[{\"pointer\":\"/a\",\"detail\":\"b\"}]}\n");
    return JOB_EXIT_REFUSED;
}

static int act_segv(void)
{
    say("{\"type\":\"progress\",\"stage\":\"parse\"}\n");
    signal(SIGSEGV, SIG_DFL);
    raise(SIGSEGV);
    return 0;
}

static int act_silent(void)
{
    return 0;
}
static int act_lies(void) /* a result, but a failing status */
{
    say("{\"type\":\"result\"}\n");
    return 3;
}
static int act_half(void) /* a result line that is cut off */
{
    say("{\"type\":\"result\",\"facts\":{");
    return 0;
}
static int act_memory(void)
{
    return JOB_EXIT_NOMEM;
}
static int act_memory_line(void)
{
    say("{\"type\":\"error\",\"code\":\"job_out_of_memory\",\"detail\":\"x\"}\n");
    return JOB_EXIT_REFUSED;
}
static int act_oom_killed(void)
{
    raise(SIGKILL);
    return 0;
}
static int act_sleep(void)
{
    say("{\"type\":\"progress\",\"stage\":\"sleep\"}\n");
    for (int i = 0; i < 600; i++)
        usleep(100000);
    return 0;
}
static int act_stubborn(void)
{
    signal(SIGTERM, SIG_IGN);
    return act_sleep();
}
static int act_family(void) /* leaves a grandchild that holds the pipe */
{
    if (fork() == 0)
        return act_sleep();
    say("{\"type\":\"result\",\"pid\":1}\n");
    return 0;
}

static int act_garbage(void)
{
    static char big[JOB_LINE_MAX + 100000];
    memset(big, 'x', sizeof big - 2);
    big[sizeof big - 2] = '\n';
    say("\n{]\nnull\n[1]\n\"text\"\n{}\n{\"type\":7}\n{\"type\":\"log\",\"type\":\"log\"}\n\xff\xfe\n{\"type\":\"log\","
        "\"message\":\"\\u0000\"}\n");
    say(big);
    for (int i = 0; i < 3000; i++) /* deep nesting is refused by the parser, not by our stack */
        big[i] = '[';
    big[3000] = '\n';
    big[3001] = 0;
    say(big);
    say("{\"type\":\"unknown\",\"x\":1}\n{\"type\":\"result\",\"facts\":{}}\n");
    return 0;
}

/* What was inherited: descriptors, environment, signals, group. */
static bool is_null(int fd)
{
    struct stat found, null;
    return fstat(fd, &found) == 0 && stat("/dev/null", &null) == 0 && found.st_rdev == null.st_rdev;
}

static int act_look(void)
{
    char text[300];
    int fds = 0, env = 0;
    DIR *d = opendir("/proc/self/fd");
    for (const struct dirent *e; (e = readdir(d));)
        fds += e->d_name[0] != '.';
    closedir(d);
    while (environ[env])
        env++;
    sigset_t mask;
    sigprocmask(SIG_BLOCK, NULL, &mask);
    snprintf(text, sizeof text,
             "{\"type\":\"result\",\"fds\":%d,\"env\":%d,\"usr1\":%d,\"pipe_default\":%d,\"leader\":%d,\"seal\":%d,"
             "\"null\":%d}\n",
             fds - 1, env, sigismember(&mask, SIGUSR1), signal(SIGPIPE, SIG_DFL) == SIG_DFL, getpgrp() == getpid(),
             write(JOB_FD_SPEC, "x", 1) < 0, is_null(0) && is_null(1) && is_null(2));
    say(text);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(void);
} acts[] = {{"ok", act_ok},           {"refuse", act_refuse},
            {"segv", act_segv},       {"silent", act_silent},
            {"lies", act_lies},       {"half", act_half},
            {"memory", act_memory},   {"memory_line", act_memory_line},
            {"sleep", act_sleep},     {"stubborn", act_stubborn},
            {"garbage", act_garbage}, {"look", act_look},
            {"family", act_family},   {"oom_killed", act_oom_killed}};

static int act(const char *name)
{
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++)
        if (!strcmp(acts[i].name, name))
            _exit(acts[i].run());
    return 98;
}

/* ---- the parent's side --------------------------------------------------------------------------------------------
 */

static atomic_int order;
static int lines;

static enum child_tick tick(void *arg)
{
    (void)arg;
    return (enum child_tick)atomic_load(&order);
}

static void line(void *arg, const char *type, json_t *object)
{
    (void)arg;
    assert_true(json_is_object(object));
    assert_non_null(type);
    lines++;
}

static struct child_outcome run_with(const char *name, int64_t timeout_ms, int wake_fd, int64_t tick_ms)
{
    struct child_outcome out;
    const char *argv[] = {"test_child", "act", name, NULL};
    json_t *spec = json_pack("{s:i}", "answer", 42);
    struct child_opts opts = {.argv = argv,
                              .spec = spec,
                              .timeout_ms = timeout_ms,
                              .wake_fd = wake_fd,
                              .tick_ms = tick_ms,
                              .tick = tick,
                              .line = line};
    lines = 0;
    child_run(&opts, &out);
    json_decref(spec);
    return out;
}

static struct child_outcome run(const char *name)
{
    order = CHILD_GO_ON;
    return run_with(name, 20000, -1, 0);
}

static void result_and_lines(void **state)
{
    (void)state;
    struct child_outcome out = run("ok");
    assert_int_equal(out.end, CHILD_RESULT);
    assert_int_equal(json_integer_value(json_object_get(json_object_get(out.result, "facts"), "a")), 1);
    assert_int_equal(lines, 2);
    assert_int_equal(out.dropped_lines, 0);
    assert_true(out.max_rss_bytes > 0);
    child_outcome_fini(&out);
}

static void every_end(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum child_end end;
        enum err_code code;
        const char *words;
    } cases[] = {
        {"refuse", CHILD_ERROR, ERR_MODEL, "node 'x': bad"},
        {"segv", CHILD_CRASHED, ERR_CRASHED, "signal 11 (Segmentation fault) in stage parse"},
        {"silent", CHILD_CRASHED, ERR_CRASHED, "without a result"},
        {"lies", CHILD_CRASHED, ERR_CRASHED, "status 3"},
        {"half", CHILD_CRASHED, ERR_CRASHED, "without a result"},
        {"memory", CHILD_MEMORY_LIMIT, ERR_MEMORY_LIMIT, "memory"},
        {"memory_line", CHILD_MEMORY_LIMIT, ERR_MEMORY_LIMIT, "memory"},
        {"oom_killed", CHILD_MEMORY_LIMIT, ERR_MEMORY_LIMIT, "memory"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct child_outcome out = run(cases[i].name);
        if (out.end != cases[i].end || out.err.code != cases[i].code || !strstr(out.err.msg, cases[i].words) ||
            out.result)
            fail_msg("%s: end %d, code %d, \"%s\"", cases[i].name, out.end, out.err.code, out.err.msg);
        if (out.end == CHILD_ERROR)
            assert_int_equal(json_array_size(json_object_get(out.problem, "faults")), 1);
        child_outcome_fini(&out);
    }
}

static void time_limit(void **state)
{
    (void)state;
    static const char *const names[] = {"sleep", "stubborn"};
    for (int i = 0; i < 2; i++) {
        order = CHILD_GO_ON;
        struct child_outcome out = run_with(names[i], 1000, -1, 0);
        assert_int_equal(out.end, CHILD_TIMEOUT);
        assert_non_null(strstr(out.err.msg, "in stage sleep"));
        assert_true(out.seconds > 0.99 && out.seconds < (i ? 5.8 : 2.8));
        child_outcome_fini(&out);
    }
}

static void orders_by_tick_and_wake(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        enum child_tick order;
        enum child_end end;
        bool wake;
    } cases[] = {{"sleep", CHILD_CANCEL, CHILD_CANCELED, false},
                 {"sleep", CHILD_CANCEL, CHILD_CANCELED, true},
                 {"stubborn", CHILD_CANCEL, CHILD_CANCELED, true},
                 {"stubborn", CHILD_ABANDON, CHILD_ABANDONED, true}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = cases[i].wake ? eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK) : -1;
        order = (int)cases[i].order;
        double start = clock_seconds();
        struct child_outcome out = run_with(cases[i].name, 20000, fd, cases[i].wake ? 0 : 50);
        assert_int_equal(out.end, cases[i].end);
        assert_true(clock_seconds() - start < 15);
        child_outcome_fini(&out);
        if (fd >= 0)
            close(fd);
    }
}

static void grandchildren_do_not_hold_us(void **state)
{
    (void)state;
    struct child_outcome out = run("family");
    assert_int_equal(out.end, CHILD_RESULT);
    assert_true(out.seconds < 5);
    child_outcome_fini(&out);
}

static void hostile_lines_are_dropped(void **state)
{
    (void)state;
    struct child_outcome out = run("garbage");
    assert_int_equal(out.end, CHILD_RESULT);
    assert_int_equal(out.dropped_lines, 11);
    assert_int_equal(lines, 1); /* the unknown type is passed on, to be ignored there */
    child_outcome_fini(&out);
}

static void nothing_is_inherited(void **state)
{
    (void)state;
    int leak = open("/dev/null", O_RDONLY); /* not close-on-exec, on purpose */
    sigset_t usr1;
    sigemptyset(&usr1);
    sigaddset(&usr1, SIGUSR1);
    sigprocmask(SIG_BLOCK, &usr1, NULL);
    signal(SIGPIPE, SIG_IGN);
    setenv("PARED_SECRET", "x", 1);
    struct child_outcome out = run("look");
    assert_int_equal(out.end, CHILD_RESULT);
    assert_int_equal(json_integer_value(json_object_get(out.result, "fds")), 5); /* 0 to 4 */
    assert_int_equal(json_integer_value(json_object_get(out.result, "env")), 2);
    assert_int_equal(json_integer_value(json_object_get(out.result, "usr1")), 0);
    assert_int_equal(json_integer_value(json_object_get(out.result, "pipe_default")), 1);
    assert_int_equal(json_integer_value(json_object_get(out.result, "leader")), 1);
    assert_int_equal(json_integer_value(json_object_get(out.result, "seal")), 1);
    assert_int_equal(json_integer_value(json_object_get(out.result, "null")), 1);
    child_outcome_fini(&out);
    close(leak);
}

static void a_missing_program_is_our_fault(void **state)
{
    (void)state;
    struct child_outcome out;
    json_t *spec = json_object();
    struct child_opts opts = {.exe = "/nonexistent/pared", .spec = spec, .wake_fd = -1};
    child_run(&opts, &out);
    assert_int_equal(out.end, CHILD_NOT_STARTED);
    assert_int_equal(out.err.code, ERR_INTERNAL);
    child_outcome_fini(&out);
    json_decref(spec);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "act"))
        return act(argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(result_and_lines),
        cmocka_unit_test(every_end),
        cmocka_unit_test(time_limit),
        cmocka_unit_test(orders_by_tick_and_wake),
        cmocka_unit_test(grandchildren_do_not_hold_us),
        cmocka_unit_test(hostile_lines_are_dropped),
        cmocka_unit_test(nothing_is_inherited),
        cmocka_unit_test(a_missing_program_is_our_fault),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
