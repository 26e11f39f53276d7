/* SPDX-License-Identifier: Apache-2.0
 * posix_spawn instead of fork: the cost of fork grows with the server's memory, posix_spawn's does not. The parent
 * waits in one poll() for three things: the child's end (pidfd, so no SIGCHLD handler), its status lines, and a wish of
 * the caller (wake_fd).
 *
 * A child that is to stop gets SIGTERM and, half a second later, SIGKILL, both for its whole process group. What it
 * managed to say before is kept: a result that was complete when the cancel came is a result. */
#include "server/child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/log.h"
#include "core/recipe/job_spec.h"
#include "server/cgroup.h"
#include "server/metrics.h"
#include "server/trace.h"

enum { READ_BYTES = 1 << 16, FIRST_SAFE_FD = 10, MAX_LINES = 1000000, POLL_MAX_MS = 60000 };
static const double TERM_GRACE_S = 0.5;

struct child {
    const struct child_opts *opts;
    struct child_outcome *out;
    pid_t pid;
    int pidfd, status_fd;
    struct buf line;
    bool skipping; /* the line under way is too long */
    int lines;
    double started, next_tick, kill_at; /* kill_at > 0: SIGTERM was sent */
    enum child_end stopped;             /* why we stopped it; CHILD_RESULT = we did not */
    struct child_watch watch;
    struct err limit;      /* what the watch found */
    char cgroup[PATH_MAX]; /* "" = none */
    int64_t oom_kills;     /* of the control group */
};

/* ---- start --------------------------------------------------------------------------------------------------------
 */

/* Move a descriptor above those the child gets, so that dup2 to 3 and 4 cannot hit one that is still needed. */
static int raise_fd(int fd)
{
    if (fd < 0 || fd >= FIRST_SAFE_FD)
        return fd;
    int higher = fcntl(fd, F_DUPFD_CLOEXEC, FIRST_SAFE_FD);
    close(fd);
    return higher;
}

/* The spec as a sealed memory file: nobody can change it under the child's reading. */
static int spec_fd(json_t *spec, struct err *err)
{
    char *text = json_dumps(spec, JSON_COMPACT);
    if (!text)
        return err_set(err, ERR_NOMEM, "out of memory");
    int fd = -1;
    size_t len = strlen(text);
    if (len > JOB_SPEC_MAX) {
        err_set(err, ERR_TOO_LARGE, "the job's description has %zu bytes; at most %d are allowed", len,
                (int)JOB_SPEC_MAX);
        goto out;
    }
    fd = raise_fd(memfd_create("spec", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (fd < 0) {
        err_set_errno(err, ERR_INTERNAL, "cannot make the job's description");
        goto out;
    }
    if (file_write_all(fd, text, len, err) || lseek(fd, 0, SEEK_SET) ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)) {
        err_set_errno(err, ERR_INTERNAL, "cannot seal the job's description");
        close(fd);
        fd = -1;
    }
out:
    free(text);
    return fd;
}

static int file_actions(posix_spawn_file_actions_t *actions, const char *dir, int spec, int status)
{
    int rc = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    rc |= posix_spawn_file_actions_addopen(actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    /* not the server's: that may be a file to cut, or a terminal to read */
    rc |= posix_spawn_file_actions_addopen(actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    rc |= posix_spawn_file_actions_adddup2(actions, spec, JOB_FD_SPEC);
    rc |= posix_spawn_file_actions_adddup2(actions, status, JOB_FD_STATUS);
    rc |= posix_spawn_file_actions_addclosefrom_np(actions, JOB_FD_STATUS + 1);
    rc |= posix_spawn_file_actions_addchdir_np(actions, dir ? dir : "/");
    return rc;
}

static int spawn_attributes(posix_spawnattr_t *attributes)
{
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    int rc = posix_spawnattr_setsigmask(attributes, &none);
    rc |= posix_spawnattr_setsigdefault(attributes, &all);
    /* a session of its own is a group of its own, without a terminal */
    rc |= posix_spawnattr_setflags(attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSID);
    return rc;
}

static int spawn(struct child *child, int spec, int status, struct err *err)
{
    static const char *const default_argv[] = {"pared", "__job", NULL};
    /* our pool is the only one that makes threads; nothing else of the server's environment is a job's business */
    static char blas[] = "OPENBLAS_NUM_THREADS=1", locale[] = "LC_ALL=C.UTF-8";
    char trace[16 + TRACE_PARENT];
    snprintf(trace, sizeof trace, "TRACEPARENT=%s", child->opts->traceparent ? child->opts->traceparent : "");
    char *environment[] = {blas, locale, child->opts->traceparent ? trace : NULL, NULL};
    const char *const *argv = child->opts->argv ? child->opts->argv : default_argv;
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    int rc = file_actions(&actions, child->opts->dir, spec, status);
    rc = rc ? rc : spawn_attributes(&attributes);
    if (rc == 0)
        rc = posix_spawn(&child->pid, child->opts->exe ? child->opts->exe : "/proc/self/exe", &actions, &attributes,
                         (char *const *)(uintptr_t)argv, environment);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    errno = rc;
    return rc ? err_set_errno(err, ERR_INTERNAL, "cannot start a job's process") : 0;
}

/* A kernel that would keep the limit, but cannot now, is no reason to refuse work: the other limits hold. */
static void make_cgroup(struct child *child)
{
    const struct child_limits *may = &child->opts->limits;
    struct err err = {0};
    const int rc = may->memory_bytes > 0 ? cgroup_new(may->memory_bytes, may->threads, child->cgroup, &err) : 0;
    if (rc < 0)
        log_warn("a child has no control group: %s", err.msg);
    if (rc > 0)
        json_object_set_new(child->opts->spec, "cgroup", json_string(child->cgroup));
}

static int start(struct child *child, struct err *err)
{
    int pipe_fd[2] = {-1, -1}, rc = -1;
    make_cgroup(child);
    int spec = spec_fd(child->opts->spec, err);
    if (spec < 0)
        return -1;
    if (pipe2(pipe_fd, O_CLOEXEC)) {
        err_set_errno(err, ERR_INTERNAL, "cannot make a pipe");
        goto out;
    }
    pipe_fd[0] = raise_fd(pipe_fd[0]);
    pipe_fd[1] = raise_fd(pipe_fd[1]);
    if (pipe_fd[0] < 0 || pipe_fd[1] < 0 || fcntl(pipe_fd[0], F_SETFL, O_NONBLOCK)) {
        err_set_errno(err, ERR_INTERNAL, "cannot make a pipe");
        goto out;
    }
    if (spawn(child, spec, pipe_fd[1], err))
        goto out;
    child->status_fd = pipe_fd[0];
    pipe_fd[0] = -1;
    child->pidfd = (int)syscall(SYS_pidfd_open, child->pid, 0);
    if (child->pidfd >= 0) {
        rc = 0;
    } else {
        err_set_errno(err, ERR_INTERNAL, "cannot watch a job's process");
        kill(-child->pid, SIGKILL);
        waitpid(child->pid, NULL, 0);
    }
out:
    close(spec);
    for (int i = 0; i < 2; i++)
        if (pipe_fd[i] >= 0)
            close(pipe_fd[i]);
    return rc;
}

/* ---- what the child says ------------------------------------------------------------------------------------------
 */

static void keep(json_t **slot, json_t *value)
{
    json_decref(*slot);
    *slot = json_incref(value);
}

/* What the sandbox lacks here is said once: it is the same for every child. */
static void take_sandbox(json_t *object)
{
    static atomic_flag said = ATOMIC_FLAG_INIT;
    const char *missing = json_string_value(json_object_get(object, "missing"));
    if (missing && *missing && !atomic_flag_test_and_set(&said))
        log_warn("sandbox of jobs: %.200s", missing);
}

static bool take_object(struct child *child, json_t *object)
{
    struct child_outcome *out = child->out;
    const char *type = json_string_value(json_object_get(object, "type"));
    if (!type)
        return false;
    const char *stage = json_string_value(json_object_get(object, "stage"));
    if (!strcmp(type, "progress") && stage)
        snprintf(out->stage, sizeof out->stage, "%.*s", (int)sizeof out->stage - 1, stage);
    if (!strcmp(type, "result"))
        keep(&out->result, object);
    else if (!strcmp(type, "error"))
        keep(&out->problem, object);
    else if (!strcmp(type, "sandbox"))
        take_sandbox(object);
    else if (child->opts->line)
        child->opts->line(child->opts->arg, type, object);
    return true;
}

static void take_line(struct child *child)
{
    bool good = child->line.len == 0 && !child->skipping; /* nothing said, nothing lost */
    if (!child->skipping && !child->line.failed && child->line.len) {
        json_t *object = json_loadb(child->line.data, child->line.len, JSON_REJECT_DUPLICATES, NULL);
        good = json_is_object(object) && take_object(child, object);
        json_decref(object);
    }
    child->out->dropped_lines += !good;
    child->lines++;
    child->skipping = false;
    buf_fini(&child->line);
}

static void take_bytes(struct child *child, const char *bytes, size_t len)
{
    while (len) {
        const char *end = memchr(bytes, '\n', len);
        size_t part = end ? (size_t)(end - bytes) : len;
        if (child->line.len + part > JOB_LINE_MAX)
            child->skipping = true;
        if (!child->skipping)
            buf_append(&child->line, bytes, part);
        if (end)
            take_line(child);
        bytes += part + (end != NULL);
        len -= part + (end != NULL);
    }
}

/* Read what is there; at most `rounds` buffers, so that a babbler cannot keep us from the clock. */
static void read_status(struct child *child, int rounds)
{
    char bytes[READ_BYTES];
    while (rounds-- && child->status_fd >= 0) {
        ssize_t n = read(child->status_fd, bytes, sizeof bytes);
        if (n > 0) {
            take_bytes(child, bytes, (size_t)n);
        } else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
            close(child->status_fd);
            child->status_fd = -1;
        } else {
            return;
        }
    }
}

/* ---- waiting ------------------------------------------------------------------------------------------------------
 */

static void stop(struct child *child, enum child_end why)
{
    if (child->stopped != CHILD_RESULT)
        return;
    child->stopped = why;
    bool gently = why == CHILD_CANCELED || why == CHILD_TIMEOUT;
    kill(-child->pid, gently ? SIGTERM : SIGKILL);
    child->kill_at = clock_seconds() + (gently ? TERM_GRACE_S : 0);
}

static void tick(struct child *child)
{
    if (!child->opts->tick || child->stopped != CHILD_RESULT)
        return;
    switch (child->opts->tick(child->opts->arg)) {
    case CHILD_GO_ON:
        break;
    case CHILD_CANCEL:
        stop(child, CHILD_CANCELED);
        break;
    case CHILD_ABANDON:
        stop(child, CHILD_ABANDONED);
        break;
    }
}

static void look_at_child(struct child *child, double now)
{
    if (child->stopped != CHILD_RESULT || child_watch_look(&child->watch, now, &child->limit) == 0)
        return;
    stop(child, child->limit.code == ERR_MEMORY_LIMIT ? CHILD_MEMORY_LIMIT
                : child->limit.code == ERR_DISK_LIMIT ? CHILD_DISK_LIMIT
                                                      : CHILD_FORBIDDEN);
}

static bool has_limits(const struct child_limits *limits)
{
    return limits->memory_bytes > 0 || limits->threads > 0 || limits->disk_bytes > 0;
}

/* Everything that is due by the clock; milliseconds until the next such thing. */
static int look_at_clock(struct child *child)
{
    const struct child_opts *o = child->opts;
    double now = clock_seconds(), next = now + POLL_MAX_MS / 1e3;
    double deadline = o->timeout_ms > 0 ? child->started + (double)o->timeout_ms / 1e3 : INFINITY;
    if (o->tick_ms > 0 && now >= child->next_tick) {
        child->next_tick = now + (double)o->tick_ms / 1e3;
        tick(child);
    }
    if (now >= deadline)
        stop(child, CHILD_TIMEOUT);
    if (child->lines > MAX_LINES)
        stop(child, CHILD_CRASHED);
    if (has_limits(&o->limits)) {
        look_at_child(child, now);
        next = fmin(next, child->watch.next_look);
    }
    if (child->kill_at > 0 && now >= child->kill_at) {
        kill(-child->pid, SIGKILL);
        child->kill_at = INFINITY;
    }
    if (o->tick_ms > 0)
        next = fmin(next, child->next_tick);
    if (child->stopped == CHILD_RESULT)
        next = fmin(next, deadline);
    if (child->kill_at > 0)
        next = fmin(next, child->kill_at);
    double ms = ceil((next - now) * 1e3);
    return ms < 0 ? 0 : ms > POLL_MAX_MS ? POLL_MAX_MS : (int)ms;
}

static void watch(struct child *child)
{
    for (;;) {
        int wait_ms = look_at_clock(child);
        struct pollfd fds[3] = {
            {child->pidfd, POLLIN, 0}, {child->status_fd, POLLIN, 0}, {child->opts->wake_fd, POLLIN, 0}};
        int n = poll(fds, 3, wait_ms);
        if (n < 0 && errno != EINTR) { /* nobody could stop it any more */
            kill(-child->pid, SIGKILL);
            return;
        }
        if (n <= 0)
            continue;
        if (fds[1].revents)
            read_status(child, 4);
        if (fds[2].revents) {
            uint64_t count;
            if (read(child->opts->wake_fd, &count, sizeof count) > 0)
                tick(child);
        }
        if (fds[0].revents)
            return;
    }
}

/* Collect the child: its group first, while its id cannot be another's yet; then the last words in the pipe. */
static void reap(struct child *child)
{
    struct rusage usage = {0};
    int status = 0;
    siginfo_t info;
    while (waitid(P_PID, (id_t)child->pid, &info, WEXITED | WNOWAIT) < 0 && errno == EINTR) {
    }
    kill(-child->pid, SIGKILL);
    while (wait4(child->pid, &status, 0, &usage) < 0 && errno == EINTR) {
    }
    read_status(child, 1024);
    if (child->cgroup[0]) {
        child->oom_kills = cgroup_oom_kills(child->cgroup);
        cgroup_remove(child->cgroup);
    }
    child->out->signal = WIFSIGNALED(status) ? WTERMSIG(status) : 0;
    child->out->status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    child->out->max_rss_bytes = (int64_t)usage.ru_maxrss * 1024;
}

/* ---- what it means ------------------------------------------------------------------------------------------------
 */

static enum child_end crashed(struct child_outcome *out)
{
    const char *in = out->stage[0] ? " in stage " : "";
    if (out->signal)
        err_set(&out->err, ERR_CRASHED, "the job's process died by signal %d (%s)%s%s", out->signal,
                strsignal(out->signal), in, out->stage);
    else
        err_set(&out->err, ERR_CRASHED, "the job's process ended with status %d and without a result%s%s", out->status,
                in, out->stage);
    return CHILD_CRASHED;
}

static enum child_end memory_limit(struct child_outcome *out)
{
    err_set(&out->err, ERR_MEMORY_LIMIT, "the job needed more memory than it may use%s%s%s",
            out->stage[0] ? " (in stage " : "", out->stage, out->stage[0] ? ")" : "");
    return CHILD_MEMORY_LIMIT;
}

static enum child_end refused(struct child_outcome *out)
{
    const char *slug = json_string_value(json_object_get(out->problem, "code"));
    const char *detail = json_string_value(json_object_get(out->problem, "detail"));
    enum err_code code = slug ? err_code_from_slug(slug) : ERR_NONE;
    if (code == ERR_MEMORY_LIMIT || code == ERR_NOMEM)
        return memory_limit(out);
    err_set(&out->err, code == ERR_NONE ? ERR_INTERNAL : code, "%.900s",
            detail ? detail : "the job was refused without a reason");
    return CHILD_ERROR;
}

static enum child_end timeout(const struct child *child)
{
    struct child_outcome *out = child->out;
    err_set(&out->err, ERR_TIMEOUT, "the time limit of %.0f s was reached%s%s", (double)child->opts->timeout_ms / 1e3,
            out->stage[0] ? " in stage " : "", out->stage);
    return CHILD_TIMEOUT;
}

/* It named the call before it died, if it could. */
static enum child_end forbidden(struct child_outcome *out)
{
    const char *slug = json_string_value(json_object_get(out->problem, "code"));
    const char *detail = json_string_value(json_object_get(out->problem, "detail"));
    const bool named = slug && detail && err_code_from_slug(slug) == ERR_FORBIDDEN_CALL;
    err_set(&out->err, ERR_FORBIDDEN_CALL, "%.800s%s%s", named ? detail : "the process called what no job may call",
            out->stage[0] ? ", in stage " : "", out->stage);
    return CHILD_FORBIDDEN;
}

/* The parent's look at it said so. */
static enum child_end over_limit(const struct child *child)
{
    struct child_outcome *out = child->out;
    out->err = child->limit;
    if (out->stage[0]) {
        const size_t len = strlen(out->err.msg);
        snprintf(out->err.msg + len, sizeof out->err.msg - len, ", in stage %s", out->stage);
    }
    return child->stopped;
}

static enum child_end disk_limit(struct child_outcome *out)
{
    err_set(&out->err, ERR_DISK_LIMIT, "the job wrote a file larger than this server allows (job_file_bytes)%s%s",
            out->stage[0] ? ", in stage " : "", out->stage);
    return CHILD_DISK_LIMIT;
}

static enum child_end judge(const struct child *child)
{
    struct child_outcome *out = child->out;
    if (out->status == JOB_EXIT_OK && out->result)
        return CHILD_RESULT;
    if (out->status == JOB_EXIT_REFUSED && out->problem)
        return refused(out);
    switch (child->stopped) {
    case CHILD_CANCELED:
        err_set(&out->err, ERR_CANCELED, "the job was canceled");
        return CHILD_CANCELED;
    case CHILD_ABANDONED:
        err_set(&out->err, ERR_LOST, "the job was taken from this worker");
        return CHILD_ABANDONED;
    case CHILD_TIMEOUT:
        return timeout(child);
    case CHILD_MEMORY_LIMIT:
    case CHILD_DISK_LIMIT:
    case CHILD_FORBIDDEN:
        return over_limit(child);
    default:
        break;
    }
    if (out->signal == SIGSYS)
        return forbidden(out);
    if (out->signal == SIGXCPU)
        return timeout(child);
    if (out->signal == SIGXFSZ)
        return disk_limit(out);
    /* a SIGKILL that is not ours is the kernel's: the child's oom_score_adj makes it the first victim */
    if (out->status == JOB_EXIT_NOMEM || child->oom_kills > 0 ||
        (out->signal == SIGKILL && child->stopped == CHILD_RESULT))
        return memory_limit(out);
    return crashed(out);
}

static void count_exit(const struct child_outcome *out)
{
    static const enum metric rows[] = {
        [CHILD_RESULT] = METRIC_CHILD_RESULTS,      [CHILD_ERROR] = METRIC_CHILD_ERRORS,
        [CHILD_CRASHED] = METRIC_CHILD_CRASHES,     [CHILD_MEMORY_LIMIT] = METRIC_CHILD_MEMORY_LIMITS,
        [CHILD_TIMEOUT] = METRIC_CHILD_TIMEOUTS,    [CHILD_CANCELED] = METRIC_CHILD_CANCELED,
        [CHILD_ABANDONED] = METRIC_CHILD_ABANDONED, [CHILD_NOT_STARTED] = METRIC_CHILD_NOT_STARTED,
        [CHILD_FORBIDDEN] = METRIC_CHILD_FORBIDDEN, [CHILD_DISK_LIMIT] = METRIC_CHILD_DISK_LIMITS,
    };
    metrics_add(rows[out->end], 1);
}

void child_run(const struct child_opts *opts, struct child_outcome *out)
{
    struct child child = {.opts = opts, .out = out, .pidfd = -1, .status_fd = -1, .stopped = CHILD_RESULT};
    *out = (struct child_outcome){.end = CHILD_NOT_STARTED};
    child.started = clock_seconds();
    child.watch = (struct child_watch){.limits = &opts->limits};
    child.next_tick = child.started + (double)opts->tick_ms / 1e3;
    if (start(&child, &out->err) == 0) {
        child.watch.pid = child.pid;
        watch(&child);
        reap(&child);
        out->end = judge(&child);
    } else if (child.cgroup[0]) {
        cgroup_remove(child.cgroup);
    }
    out->seconds = clock_seconds() - child.started;
    count_exit(out);
    if (out->end != CHILD_RESULT) {
        json_decref(out->result);
        out->result = NULL;
    }
    if (out->dropped_lines)
        log_warn("a child wrote %d lines that are not understood", out->dropped_lines);
    buf_fini(&child.line);
    if (child.pidfd >= 0)
        close(child.pidfd);
    if (child.status_fd >= 0)
        close(child.status_fd);
}

void child_outcome_fini(struct child_outcome *out)
{
    json_decref(out->result);
    json_decref(out->problem);
    *out = (struct child_outcome){0};
}
