/* SPDX-License-Identifier: Apache-2.0
 * The walls around a job's process, tried from inside: this program, run as its own child (`test_sandbox act NAME`),
 * confines itself as `pared __job` does and then does what hostile code would do. What the kernel answers, and how the
 * parent names the end, is compared. The filter's program is also run here by an interpreter, so that the list of the
 * other architecture is tested too. */
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
#include <limits.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "cli/confine.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/recipe/job_spec.h"
#include "server/cgroup.h"
#include "server/child.h"
#include "server/sandbox_calls.h"

enum { MIB = 1 << 20 };

/* ---- the child's side ---------------------------------------------------------------------------------------------
 */

struct act {
    json_t *spec, *found;
    const char *work, *out, *model;
};

static int say(json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    dprintf(JOB_FD_STATUS, "%s\n", text);
    free(text);
    return JOB_EXIT_OK;
}

static char *path_in(const char *dir, const char *name)
{
    char *path = NULL;
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

/* Note the errno of a call under a name; 0 = it succeeded. */
static void note(struct act *a, const char *name, long rc)
{
    json_object_set_new(a->found, name, json_integer(rc < 0 ? errno : 0));
}

static void note_open(struct act *a, const char *name, const char *path, int flags)
{
    errno = 0;
    const int fd = open(path, flags | O_CLOEXEC, 0600);
    note(a, name, fd);
    if (fd >= 0)
        close(fd);
}

static void *nothing(void *arg)
{
    return arg;
}

static int act_look_around(struct act *a)
{
    char server[64], *mine = path_in(a->work, "mine"), *moved = path_in(a->out, "moved"), *link = path_in(a->work, "link"),
                     *out_link = path_in(a->out, "link"), *up = path_in(a->work, "../../../../../../../../etc/passwd"),
                     *neighbour = path_in(a->work, "../neighbour/secret"), *blob = path_in(a->work, "../in/new"),
                     *parent = path_in(a->work, "..");
    note_open(a, "passwd", "/etc/passwd", O_RDONLY);
    note_open(a, "up", up, O_RDONLY);
    note_open(a, "neighbour", neighbour, O_RDONLY);
    note_open(a, "parent", parent, O_RDONLY | O_DIRECTORY);
    note_open(a, "root", "/", O_RDONLY | O_DIRECTORY);
    note_open(a, "model", a->model, O_RDONLY);
    note_open(a, "model_write", a->model, O_WRONLY);
    note_open(a, "model_truncate", a->model, O_WRONLY | O_TRUNC);
    note_open(a, "blob_new", blob, O_WRONLY | O_CREAT);
    note(a, "model_unlink", unlink(a->model));
    note(a, "model_rename", rename(a->model, moved));
    note_open(a, "mine", mine, O_WRONLY | O_CREAT);
    note(a, "move", rename(mine, moved));
    note(a, "link", symlink("/etc/passwd", link));
    note_open(a, "through_link", link, O_RDONLY);
    note(a, "link_in_out", symlink("/etc/passwd", out_link));
    note(a, "link_moved", rename(link, out_link));
    snprintf(server, sizeof server, "/proc/%d/mem", (int)getppid());
    note_open(a, "server_memory", server, O_RDWR);
    snprintf(server, sizeof server, "/proc/%d/environ", (int)getppid());
    note_open(a, "server_environment", server, O_RDONLY);
    note_open(a, "own_environment", "/proc/self/environ", O_RDONLY);
    note_open(a, "own_root", "/proc/self/root/etc/passwd", O_RDONLY);
    note_open(a, "own_status", "/proc/self/status", O_RDONLY);
    note_open(a, "disk", "/dev/vda", O_RDONLY);
    const void *shared = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    note(a, "shared_memory", shared == MAP_FAILED ? -1 : 0);
    void *code = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    note(a, "memory", code == MAP_FAILED ? -1 : 0);
    note(a, "executable", mprotect(code, 4096, PROT_READ | PROT_EXEC));
    note(a, "clone3", syscall(SYS_clone3, NULL, 0));
    pthread_t thread;
    errno = pthread_create(&thread, NULL, nothing, NULL);
    note(a, "thread", errno ? -1 : 0);
    pthread_join(thread, NULL);
    say(a->found);
    return JOB_EXIT_OK;
}

/* What the kernel says of this process. */
static int act_state(struct act *a)
{
    char line[200];
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon)
            continue;
        *colon = 0;
        json_object_set_new(a->found, line, json_stringn(colon + 2, strcspn(colon + 2, "\n")));
    }
    fclose(f);
    json_object_set_new(a->found, "leader", json_boolean(getsid(0) == getpid()));
    return say(a->found);
}

static int act_call(struct act *a)
{
    long args[6] = {0};
    const json_t *list = json_object_get(a->spec, "recipe");
    const char *text = json_string_value(json_array_get(list, 1)), *name = json_string_value(json_array_get(list, 0));
    for (size_t i = 0; i < 6; i++)
        args[i] = (long)json_integer_value(json_array_get(list, i + 2));
    if (text)
        args[0] = (long)text;
    errno = 0;
    const long rc = syscall(seccomp_syscall_resolve_name(name), args[0], args[1], args[2], args[3], args[4], args[5]);
    json_object_set_new(a->found, "rc", json_integer(rc));
    json_object_set_new(a->found, "errno", json_integer(errno));
    return say(a->found);
}

static int act_memory_bomb(struct act *a)
{
    (void)a;
    for (;;) {
        volatile char *p = malloc(8 * MIB);
        if (!p)
            return JOB_EXIT_NOMEM;
        for (size_t i = 0; i < 8 * MIB; i += 4096)
            p[i] = 1;
    }
}

static int act_hoard(struct act *a)
{
    (void)a;
    volatile char *p = malloc(200 * (size_t)MIB);
    for (size_t i = 0; p && i < 200 * (size_t)MIB; i += 4096)
        p[i] = 1;
    for (int i = 0; i < 20000; i++)
        usleep(1000);
    return 98;
}

static int act_spin(struct act *a)
{
    volatile unsigned x = 0;
    while (a)
        x = x + 1;
    return 98;
}

static int fill(const char *dir, bool nameless)
{
    static char piece[MIB];
    char path[PATH_MAX];
    memset(piece, 7, sizeof piece);
    for (int i = 0; i < 2000; i++) {
        snprintf(path, sizeof path, "%s/%d", dir, i);
        const int fd = nameless ? open(dir, O_TMPFILE | O_RDWR, 0600) : open(path, O_WRONLY | O_CREAT, 0600);
        if (fd < 0 || write(fd, piece, sizeof piece) != sizeof piece)
            return 99;
        if (!nameless)
            close(fd);
        usleep(5000);
    }
    return 98;
}

static int act_fill(struct act *a)
{
    return fill(a->work, false);
}
static int act_fill_nameless(struct act *a)
{
    return fill(a->work, true);
}

static int act_big_file(struct act *a)
{
    static char piece[MIB];
    char *path = path_in(a->out, "big");
    const int fd = open(path, O_WRONLY | O_CREAT, 0600);
    for (int i = 0; i < 100; i++)
        if (write(fd, piece, sizeof piece) < 0)
            return 97;
    return 98;
}

static void *wait_long(void *arg)
{
    (void)arg;
    for (;;)
        usleep(100000);
    return NULL;
}

static int act_threads(struct act *a)
{
    (void)a;
    pthread_attr_t attr;
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, 128 * 1024);
    for (int i = 0; i < 3000; i++) {
        pthread_t thread;
        if (pthread_create(&thread, &attr, wait_long, NULL))
            break;
    }
    wait_long(NULL);
    return 98;
}

static int act_stack(struct act *a)
{
    volatile char frame[4096];
    frame[0] = 1;
    return frame[0] ? act_stack(a) + frame[0] : 0;
}

static const struct {
    const char *name;
    int (*run)(struct act *a);
} acts[] = {{"look_around", act_look_around},
            {"state", act_state},
            {"call", act_call},
            {"memory_bomb", act_memory_bomb},
            {"hoard", act_hoard},
            {"spin", act_spin},
            {"fill", act_fill},
            {"fill_nameless", act_fill_nameless},
            {"big_file", act_big_file},
            {"threads", act_threads},
            {"stack", act_stack}};

/* What a kernel without the wall would say: ENOSYS for its first call. */
static void break_kernel(const char *call)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ALLOW);
    seccomp_rule_add(filter, SCMP_ACT_ERRNO(ENOSYS), seccomp_syscall_resolve_name(call), 0);
    seccomp_load(filter);
    seccomp_release(filter);
}

static int act(const char *name)
{
    char text[20000] = "";
    struct err err = {0};
    struct sandbox_result walls;
    if (read(JOB_FD_SPEC, text, sizeof text - 1) < 0)
        return 90;
    close(JOB_FD_SPEC);
    struct act a = {.spec = json_loads(text, 0, NULL), .found = json_pack("{s:s}", "type", "result")};
    json_int_t memory = 0, file = 0, cpu = 0;
    const char *mode = "strict", *broken = NULL, *checkpoint = NULL;
    enum sandbox_mode sandbox;
    json_unpack(a.spec, "{s:s, s:s, s?s, s?s, s?I, s?I, s?I, s?s, s:{s:s}}", "work", &a.work, "out", &a.out, "sandbox",
                &mode, "broken", &broken, "memory_bytes", &memory, "file_bytes", &file, "cpu_s", &cpu, "checkpoint",
                &checkpoint, "model", "path", &a.model);
    if (broken)
        break_kernel(broken);
    if (!sandbox_mode_parse(mode, &sandbox))
        return 91;
    const struct confine_opts opts = {.spec = a.spec,
                                      .work = a.work,
                                      .out = a.out,
                                      .checkpoint = checkpoint,
                                      .sandbox = sandbox,
                                      .die_with_parent = true,
                                      .memory_bytes = memory,
                                      .file_bytes = file,
                                      .cpu_s = cpu,
                                      .status_fd = JOB_FD_STATUS};
    if (confine(&opts, &walls, &err)) {
        json_t *line =
            json_pack("{s:s, s:s, s:s}", "type", "error", "code", err_slug(err.code), "detail", err.msg);
        say(line);
        return JOB_EXIT_REFUSED;
    }
    json_object_set_new(a.found, "landlock", json_integer(walls.landlock_abi));
    json_object_set_new(a.found, "calls", json_boolean(walls.calls));
    json_object_set_new(a.found, "missing", json_string(walls.missing));
    say(json_pack("{s:s, s:s}", "type", "progress", "stage", "act"));
    for (size_t i = 0; i < sizeof acts / sizeof acts[0]; i++)
        if (!strcmp(acts[i].name, name))
            return acts[i].run(&a);
    return 92;
}

/* ---- the parent's side --------------------------------------------------------------------------------------------
 */

struct place {
    char dir[64], work[100], out[100], model[100];
};

static void make_place(struct place *p)
{
    struct err err = {0};
    char path[120];
    snprintf(p->dir, sizeof p->dir, "build/test_sandbox-XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    char *absolute = realpath(p->dir, NULL);
    snprintf(p->dir, sizeof p->dir, "%s", absolute);
    free(absolute);
    snprintf(p->work, sizeof p->work, "%s/work", p->dir);
    snprintf(p->out, sizeof p->out, "%s/out", p->dir);
    snprintf(p->model, sizeof p->model, "%s/in/model", p->dir);
    snprintf(path, sizeof path, "%s/in", p->dir);
    assert_int_equal(file_make_dirs(p->work, &err) | file_make_dirs(p->out, &err) | file_make_dirs(path, &err), 0);
    snprintf(path, sizeof path, "%s/neighbour", p->dir);
    assert_int_equal(file_make_dirs(path, &err), 0);
    snprintf(path, sizeof path, "%s/neighbour/secret", p->dir);
    assert_int_equal(file_write_atomic(path, "secret", 6, &err), 0);
    assert_int_equal(file_write_atomic(p->model, "model", 5, &err), 0);
}

/* The child's end; the place stays as it was for all but the child's own folders. `more` is stolen. */
static struct child_outcome run(const char *name, json_t *more, struct child_limits limits, int64_t timeout_ms)
{
    struct place p;
    struct child_outcome out;
    const char *argv[] = {"test_sandbox", "act", name, NULL};
    make_place(&p);
    json_t *spec = json_pack("{s:s, s:s, s:{s:s, s:s}}", "work", p.work, "out", p.out, "model", "name", "model", "path",
                             p.model);
    if (more)
        json_object_update(spec, more);
    json_decref(more);
    limits.disk_dir = p.dir;
    struct child_opts opts = {
        .argv = argv, .spec = spec, .timeout_ms = timeout_ms ? timeout_ms : 20000, .wake_fd = -1, .limits = limits};
    child_run(&opts, &out);
    json_decref(spec);
    size_t len = 0;
    char *text = file_read(p.model, 100, &len, NULL);
    assert_non_null(text);
    assert_string_equal(text, "model");
    free(text);
    file_remove_tree(p.dir, NULL);
    return out;
}

static struct child_outcome run_plain(const char *name)
{
    return run(name, NULL, (struct child_limits){0}, 0);
}

static bool walls_exist(void)
{
    struct err err = {0};
    return sandbox_check(SANDBOX_STRICT, &err) == 0;
}

static void modes(void **state)
{
    (void)state;
    enum sandbox_mode mode = SANDBOX_OFF;
    for (int i = SANDBOX_STRICT; i <= SANDBOX_OFF; i++) {
        assert_true(sandbox_mode_parse(sandbox_mode_name((enum sandbox_mode)i), &mode));
        assert_int_equal(mode, i);
    }
    assert_false(sandbox_mode_parse("Strict", &mode));
    assert_false(sandbox_mode_parse("", &mode));
}

static void files_are_fenced_off(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int want;
    } cases[] = {{"passwd", EACCES},
                 {"up", EACCES},
                 {"neighbour", EACCES},
                 {"parent", EACCES},
                 {"root", EACCES},
                 {"model", 0},
                 {"model_write", EACCES},
                 {"model_truncate", EACCES},
                 {"blob_new", EACCES},
                 {"model_unlink", EACCES},
                 {"model_rename", EACCES},
                 {"mine", 0},
                 {"move", 0},
                 {"link", 0},
                 {"through_link", EACCES},
                 {"link_in_out", EACCES},
                 {"link_moved", EACCES},
                 {"server_memory", EACCES},
                 {"server_environment", EACCES},
                 {"own_environment", EACCES},
                 {"own_root", EACCES},
                 {"own_status", 0},
                 {"shared_memory", ENOSYS},
                 {"memory", 0},
                 {"executable", ENOSYS},
                 {"clone3", ENOSYS},
                 {"thread", 0}};
    struct child_outcome out = run_plain("look_around");
    if (out.end != CHILD_RESULT)
        fail_msg("end %d: %s", out.end, out.err.msg);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const json_t *value = json_object_get(out.result, cases[i].name);
        if (!json_is_integer(value) || json_integer_value(value) != cases[i].want)
            fail_msg("%s: %lld (%s), expected %s", cases[i].name, (long long)json_integer_value(value),
                     strerror((int)json_integer_value(value)), strerror(cases[i].want));
    }
    assert_int_not_equal(json_integer_value(json_object_get(out.result, "disk")), 0);
    assert_true(json_integer_value(json_object_get(out.result, "landlock")) >= SANDBOX_LANDLOCK_MIN);
    assert_string_equal(json_string_value(json_object_get(out.result, "missing")), "");
    child_outcome_fini(&out);
}

static void no_powers_are_left(void **state)
{
    (void)state;
    struct child_outcome out = run_plain("state");
    assert_int_equal(out.end, CHILD_RESULT);
    static const char *const rows[][2] = {{"CapEff", "0000000000000000"}, {"CapPrm", "0000000000000000"},
                                          {"CapInh", "0000000000000000"}, {"CapAmb", "0000000000000000"},
                                          {"NoNewPrivs", "1"},            {"Seccomp", "2"}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_string_equal(json_string_value(json_object_get(out.result, rows[i][0])), rows[i][1]);
    assert_true(json_is_true(json_object_get(out.result, "leader")));
    child_outcome_fini(&out);
}

/* Each call of the forbidden kind ends the process, and the sentence names it. */
static void forbidden_calls_are_named(void **state)
{
    (void)state;
    const long me = getpid();
    const struct {
        const char *call, *text;
        long args[5];
    } cases[] = {{"socket", NULL, {2, 1}},
                 {"socketpair", NULL, {1, 1}},
                 {"execve", "/bin/true", {0}},
                 {"clone", NULL, {SIGCHLD}},
                 {"ptrace", NULL, {16, me}},
                 {"process_vm_readv", NULL, {me}},
                 {"kill", NULL, {me, SIGKILL}},
                 {"kill", NULL, {-1, SIGKILL}},
                 {"tkill", NULL, {me, SIGKILL}},
                 {"tgkill", NULL, {me, me, SIGKILL}},
                 {"rt_sigqueueinfo", NULL, {me, SIGKILL}},
                 {"pidfd_open", NULL, {me}},
                 {"prlimit64", NULL, {me, 0}},
                 {"fcntl", NULL, {1, F_SETOWN, me}},
                 {"ioctl", NULL, {2, 0x5412 /* TIOCSTI */}},
                 {"fchmodat", NULL, {AT_FDCWD}},
                 {"fchownat", NULL, {AT_FDCWD}},
                 {"utimensat", NULL, {AT_FDCWD}},
                 {"truncate", "/etc/passwd", {0, 0}},
                 {"open", "/etc/passwd", {0, O_RDONLY | O_TRUNC}},
                 {"linkat", NULL, {AT_FDCWD}},
                 {"mknodat", NULL, {AT_FDCWD}},
                 {"mount", NULL, {0}},
                 {"unshare", NULL, {0x10000000}},
                 {"setns", NULL, {0}},
                 {"chroot", "/", {0}},
                 {"bpf", NULL, {0}},
                 {"perf_event_open", NULL, {0}},
                 {"io_uring_setup", NULL, {1}},
                 {"userfaultfd", NULL, {0}},
                 {"keyctl", NULL, {0}},
                 {"memfd_create", "x", {0}},
                 {"shmget", NULL, {0, 4096, 01600}},
                 {"setuid", NULL, {0}},
                 {"reboot", NULL, {0}},
                 {"init_module", NULL, {0}}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const long *v = cases[i].args;
        char words[100];
        json_t *list = json_pack("[s, s?, I, I, I, I, I]", cases[i].call, cases[i].text, (json_int_t)v[0],
                                 (json_int_t)v[1], (json_int_t)v[2], (json_int_t)v[3], (json_int_t)v[4]);
        struct child_outcome out = run("call", json_pack("{s:o}", "recipe", list), (struct child_limits){0}, 0);
        snprintf(words, sizeof words, "the process called %s (number ", cases[i].call);
        if (out.end != CHILD_FORBIDDEN || out.err.code != ERR_FORBIDDEN_CALL || out.signal != SIGSYS ||
            !strstr(out.err.msg, words) || !strstr(out.err.msg, "in stage act"))
            fail_msg("%s: end %d, signal %d, \"%s\"", cases[i].call, out.end, out.signal, out.err.msg);
        child_outcome_fini(&out);
    }
}

static void ends_by_limits(void **state)
{
    (void)state;
    static const struct {
        const char *act;
        int64_t memory, file, cpu, timeout_ms; /* of the spec */
        struct child_limits limits;
        enum child_end end;
        enum err_code code;
        const char *words;
    } cases[] = {
        {"memory_bomb", 128 * MIB, 0, 0, 0, {0}, CHILD_MEMORY_LIMIT, ERR_MEMORY_LIMIT, "more memory than it may use"},
        {"hoard", 0, 0, 0, 0, {.memory_bytes = 100 * MIB}, CHILD_MEMORY_LIMIT, ERR_MEMORY_LIMIT, "100 MiB are allowed"},
        {"spin", 0, 0, 1, 0, {0}, CHILD_TIMEOUT, ERR_TIMEOUT, "time limit"},
        {"spin", 0, 0, 0, 300, {0}, CHILD_TIMEOUT, ERR_TIMEOUT, "time limit"},
        {"fill", 0, 0, 0, 0, {.disk_bytes = 20 * MIB}, CHILD_DISK_LIMIT, ERR_DISK_LIMIT, "20 MiB are allowed"},
        {"fill_nameless", 0, 0, 0, 0, {.disk_bytes = 20 * MIB}, CHILD_DISK_LIMIT, ERR_DISK_LIMIT, "20 MiB are allowed"},
        {"big_file", 0, 10 * MIB, 0, 0, {0}, CHILD_DISK_LIMIT, ERR_DISK_LIMIT, "job_file_bytes"},
        {"threads", 0, 0, 0, 0, {.threads = 200}, CHILD_FORBIDDEN, ERR_FORBIDDEN_CALL, "at most 200 are allowed"},
        {"stack", 0, 0, 0, 0, {0}, CHILD_CRASHED, ERR_CRASHED, "signal 11 (Segmentation fault) in stage act"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *more = json_pack("{s:I, s:I, s:I}", "memory_bytes", (json_int_t)cases[i].memory, "file_bytes",
                                 (json_int_t)cases[i].file, "cpu_s", (json_int_t)cases[i].cpu);
#ifdef __SANITIZE_ADDRESS__
        if (!strcmp(cases[i].act, "stack") || !strcmp(cases[i].act, "memory_bomb")) { /* the sanitizer's own ends */
            json_decref(more);
            continue;
        }
#endif
        struct child_outcome out = run(cases[i].act, more, cases[i].limits, cases[i].timeout_ms);
        if (out.end != cases[i].end || out.err.code != cases[i].code || !strstr(out.err.msg, cases[i].words))
            fail_msg("%s (case %zu): end %d, code %d, status %d, signal %d, \"%s\"", cases[i].act, i, out.end,
                     out.err.code, out.status, out.signal, out.err.msg);
        child_outcome_fini(&out);
    }
}

/* Strict refuses where a wall is missing, best-effort says what is missing and goes on, off does nothing. */
static void missing_walls(void **state)
{
    (void)state;
    static const struct {
        const char *mode, *broken, *words;
        bool runs, landlock, calls;
    } cases[] = {{"strict", NULL, "", true, true, true},
                 {"strict", "landlock_create_ruleset", "landlock", false, false, false},
                 {"strict", "landlock_restrict_self", "landlock is refused", false, false, false},
                 {"strict", "seccomp", "no seccomp filters", false, false, false},
                 {"best-effort", "landlock_create_ruleset", "no landlock", true, false, true},
                 {"best-effort", "landlock_restrict_self", "landlock is refused", true, false, true},
                 {"best-effort", NULL, "", true, true, true},
                 {"off", NULL, "", true, false, false}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *more = json_pack("{s:s, s:s*}", "sandbox", cases[i].mode, "broken", cases[i].broken);
        struct child_outcome out = run("state", more, (struct child_limits){0}, 0);
        if (cases[i].runs != (out.end == CHILD_RESULT))
            fail_msg("case %zu: end %d, \"%s\"", i, out.end, out.err.msg);
        if (cases[i].runs) {
            const char *missing = json_string_value(json_object_get(out.result, "missing"));
            assert_non_null(strstr(missing, cases[i].words));
            assert_int_equal(missing[0] == 0, cases[i].words[0] == 0);
            assert_int_equal(json_integer_value(json_object_get(out.result, "landlock")) > 0, cases[i].landlock);
            assert_int_equal(json_is_true(json_object_get(out.result, "calls")), cases[i].calls);
        } else {
            assert_int_equal(out.err.code, ERR_SANDBOX);
            assert_non_null(strstr(out.err.msg, cases[i].words));
        }
        child_outcome_fini(&out);
    }
}

/* ---- the filter, by interpreter ----------------------------------------------------------------------------------
 */

enum { MAX_FILTER = 4096 };

static size_t export_filter(uint32_t arch, pid_t pid, struct sock_filter *code)
{
    struct err err = {0};
    scmp_filter_ctx filter = sandbox_calls_filter(arch, pid, false, &err);
    assert_non_null(filter);
    const int fd = memfd_create("filter", MFD_CLOEXEC);
    assert_int_equal(seccomp_export_bpf(filter, fd), 0);
    seccomp_release(filter);
    const ssize_t n = pread(fd, code, MAX_FILTER * sizeof *code, 0);
    close(fd);
    assert_true(n > 0 && n % (ssize_t)sizeof *code == 0);
    return (size_t)n / sizeof *code;
}

/* Classic BPF as the kernel runs it over struct seccomp_data. */
static uint32_t interpret(const struct sock_filter *code, size_t count, const struct seccomp_data *data)
{
    uint32_t a = 0, words[sizeof *data / 4];
    memcpy(words, data, sizeof *data);
    for (size_t i = 0; i < count; i++) {
        const struct sock_filter *f = &code[i];
        switch (f->code) {
        case BPF_LD | BPF_W | BPF_ABS: a = words[f->k / 4]; break;
        case BPF_ALU | BPF_AND | BPF_K: a &= f->k; break;
        case BPF_JMP | BPF_JA: i += f->k; break;
        case BPF_JMP | BPF_JEQ | BPF_K: i += a == f->k ? f->jt : f->jf; break;
        case BPF_JMP | BPF_JGT | BPF_K: i += a > f->k ? f->jt : f->jf; break;
        case BPF_JMP | BPF_JGE | BPF_K: i += a >= f->k ? f->jt : f->jf; break;
        case BPF_JMP | BPF_JSET | BPF_K: i += a & f->k ? f->jt : f->jf; break;
        case BPF_RET | BPF_K: return f->k;
        default: fail_msg("instruction %zu has code %u", i, f->code);
        }
    }
    fail_msg("the filter has no end");
    return 0;
}

static void lists_of_both_architectures(void **state)
{
    (void)state;
    static struct sock_filter code[MAX_FILTER];
    static const struct {
        uint32_t arch, audit, other;
    } archs[] = {{SCMP_ARCH_X86_64, AUDIT_ARCH_X86_64, AUDIT_ARCH_I386},
                 {SCMP_ARCH_AARCH64, AUDIT_ARCH_AARCH64, AUDIT_ARCH_ARM}};
    static const char *const needed[] = {"read", "write", "openat", "newfstatat", "close", "mmap", "munmap", "mremap", "brk",
                                         "futex", "clone", "exit_group", "renameat", "unlinkat", "mkdirat", "symlinkat", "ppoll",
                                         "rt_sigreturn", "getrandom", "fcntl", "sched_getaffinity", "prlimit64", "getdents64"};
    const uint32_t allow = SECCOMP_RET_ALLOW, trap = SECCOMP_RET_TRAP, unknown = SECCOMP_RET_ERRNO | ENOSYS;
    enum { PID = 4242 };
    const struct {
        const char *call;
        uint64_t args[4];
        uint32_t want;
    } cases[] = {{"clone", {0x3d0f00}, allow}, /* what pthread_create asks for */
                 {"clone", {SIGCHLD}, trap},
                 {"clone3", {0}, unknown},
                 {"open", {0, O_RDONLY}, allow},
                 {"open", {0, O_WRONLY | O_CREAT | O_TRUNC}, allow}, /* whether it may is landlock's matter */
                 {"open", {0, O_RDONLY | O_TRUNC}, trap},
                 {"openat", {0, 0, O_RDWR | O_TRUNC}, allow},
                 {"openat", {0, 0, O_RDONLY | O_CLOEXEC}, allow},
                 {"openat", {0, 0, O_RDONLY | O_TRUNC | O_CLOEXEC}, trap},
                 {"tgkill", {PID, PID, 6}, allow},
                 {"tgkill", {1, 1, 9}, trap},
                 {"prlimit64", {0, 7}, allow},
                 {"prlimit64", {PID + 1, 7}, trap},
                 {"mmap", {0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS}, allow},
                 {"mmap", {0, 4096, PROT_READ, MAP_SHARED}, allow},
                 {"mmap", {0, 4096, PROT_READ, MAP_PRIVATE}, allow},
                 {"mmap", {0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS}, unknown},
                 {"mmap", {0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE}, unknown},
                 {"mprotect", {0, 4096, PROT_READ | PROT_WRITE}, allow},
                 {"mprotect", {0, 4096, PROT_EXEC}, unknown},
                 {"fcntl", {5, F_GETFL}, allow},
                 {"fcntl", {5, F_SETOWN, 1}, trap},
                 {"fcntl", {5, F_SETSIG, 9}, trap},
                 {"fcntl", {5, F_SETLK}, unknown},
                 {"ioctl", {1, 0x5401}, allow},
                 {"ioctl", {1, 0x5413}, unknown}, /* the size of a terminal: only where asked for */
                 {"ioctl", {1, 0x5412}, trap},
                 {"prctl", {PR_SET_NAME}, allow},
                 {"prctl", {PR_SET_PTRACER, 1}, unknown},
                 {"seccomp", {0}, unknown}};
    for (size_t k = 0; k < 2; k++) {
        const size_t count = export_filter(archs[k].arch, PID, code);
        struct seccomp_data data = {.arch = archs[k].audit};
        for (const char *const *name = sandbox_calls_allowed; *name; name++) {
            data.nr = seccomp_syscall_resolve_name_arch(archs[k].arch, *name);
            if (data.nr >= 0 && interpret(code, count, &data) != allow)
                fail_msg("%s is not allowed", *name);
        }
        for (const char *const *name = sandbox_calls_forbidden; *name; name++) {
            data.nr = seccomp_syscall_resolve_name_arch(archs[k].arch, *name);
            if (data.nr == -1)
                fail_msg("libseccomp knows no %s", *name);
            if (data.nr >= 0 && interpret(code, count, &data) != trap)
                fail_msg("%s is not forbidden", *name);
        }
        for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
            if (seccomp_syscall_resolve_name_arch(archs[k].arch, needed[i]) < 0)
                fail_msg("%s does not exist", needed[i]);
        for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
            struct seccomp_data one = {.arch = archs[k].audit};
            one.nr = seccomp_syscall_resolve_name_arch(archs[k].arch, cases[i].call);
            if (one.nr < 0)
                continue; /* there is no `open` on aarch64 */
            memcpy(one.args, cases[i].args, sizeof cases[i].args);
            if (interpret(code, count, &one) != cases[i].want)
                fail_msg("case %zu (%s): %#x, expected %#x", i, cases[i].call, interpret(code, count, &one),
                         cases[i].want);
        }
        data.nr = 100000; /* a call of some later kernel */
        assert_int_equal(interpret(code, count, &data), unknown);
        data.arch = archs[k].other;
        assert_int_equal(interpret(code, count, &data), SECCOMP_RET_KILL_PROCESS);
    }
}

/* x86-64 has a second set of numbers (x32) for the same calls. */
static void x32_is_no_way_around(void **state)
{
    (void)state;
    static struct sock_filter code[MAX_FILTER];
    const size_t count = export_filter(SCMP_ARCH_X86_64, 1, code);
    for (int number = 0; number < 600; number++) {
        const struct seccomp_data data = {.arch = AUDIT_ARCH_X86_64, .nr = 0x40000000 | number};
        assert_int_equal(interpret(code, count, &data), SECCOMP_RET_KILL_PROCESS);
    }
}

/* ---- files of a child, control groups -----------------------------------------------------------------------------
 */

static void a_childs_file_is_no_link(void **state)
{
    (void)state;
    struct place p;
    struct err err = {0};
    char path[150];
    make_place(&p);
    snprintf(path, sizeof path, "%s/link", p.out);
    assert_int_equal(symlink("/etc/passwd", path), 0);
    assert_null(file_read_own(path, 1000000, NULL, &err));
    snprintf(path, sizeof path, "%s/hard", p.out);
    assert_int_equal(link(p.model, path), 0);
    err = (struct err){0};
    assert_null(file_read_own(path, 1000000, NULL, &err));
    snprintf(path, sizeof path, "%s/pipe", p.out);
    assert_int_equal(mkfifo(path, 0600), 0);
    err = (struct err){0};
    assert_null(file_read_own(path, 1000000, NULL, &err)); /* and does not wait for a writer */
    file_remove_tree(p.dir, NULL);
}

/* A folder that looks like a delegated group: which files are written, with what. The kernel's part is not played. */
static void control_groups(void **state)
{
    (void)state;
    struct err err = {0};
    char dir[] = "build/test_cgroup-XXXXXX", own[PATH_MAX - 100], path[PATH_MAX], file[PATH_MAX + 50];
    assert_non_null(mkdtemp(dir));
    assert_int_equal(cgroup_open(dir, &err), -1); /* no memory controller */
    assert_false(cgroup_available());
    assert_int_equal(cgroup_new(1000, 10, path, &err), 0);
    char *text = file_read("/proc/self/cgroup", 10000, NULL, NULL);
    const char *line = !strncmp(text, "0::", 3) ? text : strstr(text, "\n0::");
    if (line) {
        line = strchr(line, '/');
        const int len = (int)strcspn(line, "\n");
        snprintf(own, sizeof own, "%s%.*s", dir, len == 1 ? 0 : len, line);
        snprintf(path, sizeof path, "%s/server", own);
        assert_int_equal(file_make_dirs(path, &err), 0);
        static const char *const files[][2] = {{"cgroup.controllers", "cpu memory pids\n"}, {"cgroup.subtree_control", "memory\n"}};
        for (size_t i = 0; i < 2; i++) {
            snprintf(file, sizeof file, "%s/%s", own, files[i][0]);
            assert_int_equal(file_write_atomic(file, files[i][1], strlen(files[i][1]), &err), 0);
        }
        err = (struct err){0};
        assert_int_equal(cgroup_open(dir, &err), 0);
        assert_true(cgroup_available());
        /* the kernel makes the files of a new group; here there are none, so the limit cannot be set: said, not ignored */
        assert_int_equal(cgroup_new(64 * MIB, 10, path, &err), -1);
        assert_non_null(strstr(err.msg, "memory.max"));
        snprintf(path, sizeof path, "%s/job-x", own);
        assert_int_equal(file_make_dirs(path, NULL), 0);
        static const char events[] = "low 0\nhigh 0\nmax 12\noom 3\noom_kill 2\noom_group_kill 1\n";
        snprintf(file, sizeof file, "%s/memory.events", path);
        assert_int_equal(file_write_atomic(file, events, sizeof events - 1, NULL), 0);
        assert_int_equal(cgroup_oom_kills(path), 2);
        assert_int_equal(cgroup_oom_kills(own), 0);
    }
    cgroup_close();
    assert_false(cgroup_available());
    free(text);
    file_remove_tree(dir, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 3 && !strcmp(argv[1], "act"))
        _exit(act(argv[2]));
    const struct CMUnitTest walled[] = {
        cmocka_unit_test(files_are_fenced_off),
        cmocka_unit_test(no_powers_are_left),
        cmocka_unit_test(forbidden_calls_are_named),
        cmocka_unit_test(ends_by_limits),
        cmocka_unit_test(missing_walls),
    };
    const struct CMUnitTest anywhere[] = {
        cmocka_unit_test(modes),
        cmocka_unit_test(lists_of_both_architectures),
        cmocka_unit_test(x32_is_no_way_around),
        cmocka_unit_test(a_childs_file_is_no_link),
        cmocka_unit_test(control_groups),
    };
    int failed = cmocka_run_group_tests(anywhere, NULL, NULL);
    if (walls_exist())
        failed += cmocka_run_group_tests(walled, NULL, NULL);
    else
        puts("skipped: this kernel lacks landlock or seccomp");
    return failed;
}
