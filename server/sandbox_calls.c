/* SPDX-License-Identifier: Apache-2.0
 * The list was made from what the work really calls: every method, training with the pool, LAPACK, containers, picture
 * datasets, spill files, external data and checkpoints; the tests run it behind the filter. Three classes:
 *   allowed    executed; some only with arguments that reach no further than this process (see rules below)
 *   forbidden  nobody calls them by accident: the process reports the name and dies (SIGSYS)
 *   the rest   ENOSYS, what an older kernel would say: a newer C library that asks for a newer call falls back
 * clone3 is of the third class because a filter cannot see its flags; the C library then takes clone, whose flags must
 * say CLONE_THREAD.
 *
 * Calls that name files by path and that landlock knows nothing of are not allowed at all: chmod, chown, utimes, xattr
 * and (before its ABI 3) truncate would change files of the same user; so would opening to read with O_TRUNC. fcntl is bound to some commands because F_SETOWN
 * with F_SETSIG sends any signal to any process of the user. Memory shared without a file is not counted by
 * RLIMIT_DATA, so there is none; memory cannot become executable. */
#include "server/sandbox_calls.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "server/sandbox.h"

const char *const sandbox_calls_allowed[] = {
    /* bytes and files; paths are landlock's matter */
    "read", "write", "readv", "writev", "pread64", "pwrite64", "preadv", "pwritev", "lseek", "close", "close_range",
    "stat", "lstat", "fstat", "newfstatat", "statx", "statfs", "fstatfs", "access", "faccessat",
    "faccessat2", "readlink", "readlinkat", "getcwd", "chdir", "fchdir", "getdents64", "ftruncate", "fallocate",
    "fadvise64", "fsync", "fdatasync", "sync_file_range", "rename", "renameat", "renameat2", "unlink", "unlinkat",
    "mkdir", "mkdirat", "rmdir", "symlink", "symlinkat", "dup", "dup2", "dup3", "pipe2", "copy_file_range", "umask",
    /* memory */
    "munmap", "mremap", "madvise", "brk", "msync", "mincore", "get_mempolicy", "mbind", "set_mempolicy", "membarrier",
    /* threads, signals to oneself, time, waiting */
    "futex", "set_robust_list", "set_tid_address", "rseq", "arch_prctl", "sched_yield", "sched_getaffinity",
    "sched_getparam", "sched_getscheduler", "sched_get_priority_max", "sched_get_priority_min", "getcpu", "exit",
    "exit_group", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "pause", "getpid",
    "gettid", "getppid", "getpgrp", "getpgid", "getsid", "getuid", "geteuid", "getgid", "getegid", "getgroups",
    "clock_gettime", "clock_getres", "clock_nanosleep", "nanosleep", "gettimeofday", "time", "times", "getrusage",
    "getrlimit", "sysinfo", "uname", "getrandom", "poll", "ppoll", "select", "pselect6", "eventfd2", NULL};

const char *const sandbox_calls_forbidden[] = {
    /* other programs and processes */
    "execve", "execveat", "fork", "vfork", "ptrace", "process_vm_readv", "process_vm_writev", "process_madvise",
    "kill", "tkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo", "pidfd_open", "pidfd_send_signal", "pidfd_getfd", "kcmp",
    "setpgid", "setsid", "setpriority", "sched_setscheduler", "sched_setparam", "sched_setattr", "ioprio_set",
    "migrate_pages", "move_pages", "personality",
    /* network and other ways to talk */
    "socket", "socketpair", "connect", "bind", "listen", "accept", "accept4", "sendto", "sendmsg", "sendmmsg",
    "recvfrom", "recvmsg", "recvmmsg", "shutdown", "setsockopt", "getsockopt", "shmget", "shmat", "shmctl", "msgget",
    "msgsnd", "msgrcv", "semget", "semop", "mq_open", "memfd_create", "memfd_secret",
    /* the kernel's wide doors */
    "bpf", "perf_event_open", "userfaultfd", "io_uring_setup", "io_uring_enter", "io_uring_register", "io_setup",
    "keyctl", "add_key", "request_key", "init_module", "finit_module", "delete_module", "kexec_load",
    "kexec_file_load", "iopl", "ioperm", "modify_ldt", "vmsplice", "splice", "tee", "fanotify_init", "inotify_init1",
    "open_by_handle_at", "name_to_handle_at", "lookup_dcookie", "quotactl", "acct", "syslog", "reboot", "swapon",
    "swapoff", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "sethostname", "setdomainname",
    /* file systems and what landlock does not know */
    "mount", "umount2", "pivot_root", "chroot", "unshare", "setns", "open_tree", "move_mount", "fsopen", "fsconfig",
    "fsmount", "fspick", "mount_setattr", "mknod", "mknodat", "chmod", "fchmod", "fchmodat", "chown", "fchown",
    "lchown", "fchownat", "utime", "utimes", "utimensat", "futimesat", "setxattr", "lsetxattr", "fsetxattr",
    "removexattr", "lremovexattr", "fremovexattr", "truncate", "link", "linkat", "sync", "syncfs",
    /* identity */
    "setuid", "setgid", "setreuid", "setregid", "setresuid", "setresgid", "setgroups", "setfsuid", "setfsgid",
    "capset",
    NULL};

/* Calls that are allowed with certain arguments only; `forbid` rules give the rest a name in the report. */
#define INT_IS(n, value) SCMP_CMP64(n, SCMP_CMP_MASKED_EQ, UINT32_MAX, (uint32_t)(value))
#define BITS_ARE(n, mask, value) SCMP_CMP64(n, SCMP_CMP_MASKED_EQ, (uint64_t)(mask), (uint64_t)(value))

struct argument_rule {
    const char *call;
    bool forbid;
    unsigned count;
    struct scmp_arg_cmp args[2];
};

/* libseccomp takes this machine's numbers, and pseudo numbers (negative) of calls it lacks, for every architecture. */
static int add(scmp_filter_ctx filter, uint32_t arch, uint32_t action, const char *name, unsigned count,
               const struct scmp_arg_cmp *args)
{
    const int number = seccomp_syscall_resolve_name(name);
    if (number == __NR_SCMP_ERROR || seccomp_syscall_resolve_name_arch(arch, name) < 0)
        return 0; /* newer than this libseccomp, or not on that architecture */
    const int rc = seccomp_rule_add_array(filter, action, number, count, args);
    return rc == -EDOM ? 0 : rc;
}

static int add_names(scmp_filter_ctx filter, uint32_t arch, uint32_t action, const char *const *names)
{
    int rc = 0;
    while (rc == 0 && *names)
        rc = add(filter, arch, action, *names++, 0, NULL);
    return rc;
}

static int add_argument_rules(scmp_filter_ctx filter, uint32_t arch, pid_t pid, bool terminal)
{
    const struct argument_rule rules[] = {
        {"clone", false, 1, {BITS_ARE(0, CLONE_THREAD, CLONE_THREAD)}}, /* a thread */
        {"clone", true, 1, {BITS_ARE(0, CLONE_THREAD, 0)}},             /* a process */
        {"open", false, 1, {BITS_ARE(1, O_TRUNC, 0)}},
        {"open", false, 1, {BITS_ARE(1, O_ACCMODE, O_WRONLY)}},
        {"open", false, 1, {BITS_ARE(1, O_ACCMODE, O_RDWR)}},
        {"open", true, 1, {BITS_ARE(1, O_TRUNC | O_ACCMODE, O_TRUNC | O_RDONLY)}},
        {"openat", false, 1, {BITS_ARE(2, O_TRUNC, 0)}},
        {"openat", false, 1, {BITS_ARE(2, O_ACCMODE, O_WRONLY)}},
        {"openat", false, 1, {BITS_ARE(2, O_ACCMODE, O_RDWR)}},
        {"openat", true, 1, {BITS_ARE(2, O_TRUNC | O_ACCMODE, O_TRUNC | O_RDONLY)}},
        {"tgkill", false, 1, {INT_IS(0, pid)}},
        {"tgkill", true, 1, {SCMP_CMP64(0, SCMP_CMP_NE, (uint64_t)pid)}},
        {"prlimit64", false, 1, {INT_IS(0, 0)}},
        {"prlimit64", true, 1, {SCMP_CMP64(0, SCMP_CMP_NE, 0)}},
        {"mmap", false, 2, {BITS_ARE(2, PROT_EXEC, 0), BITS_ARE(3, MAP_ANONYMOUS, 0)}},
        {"mmap", false, 2, {BITS_ARE(2, PROT_EXEC, 0), BITS_ARE(3, MAP_SHARED, 0)}},
        {"mprotect", false, 1, {BITS_ARE(2, PROT_EXEC, 0)}},
        {"fcntl", false, 1, {INT_IS(1, F_DUPFD)}},
        {"fcntl", false, 1, {INT_IS(1, F_DUPFD_CLOEXEC)}},
        {"fcntl", false, 1, {INT_IS(1, F_GETFD)}},
        {"fcntl", false, 1, {INT_IS(1, F_SETFD)}},
        {"fcntl", false, 1, {INT_IS(1, F_GETFL)}},
        {"fcntl", false, 1, {INT_IS(1, F_SETFL)}},
        {"fcntl", true, 1, {INT_IS(1, F_SETOWN)}},
        {"fcntl", true, 1, {INT_IS(1, F_SETOWN_EX)}},
        {"fcntl", true, 1, {INT_IS(1, F_SETSIG)}},
        {"ioctl", false, 1, {INT_IS(1, TCGETS)}}, /* isatty() */
        {"ioctl", true, 1, {INT_IS(1, TIOCSTI)}},
        {"prctl", false, 1, {INT_IS(0, PR_SET_NAME)}},
        {"sched_setaffinity", false, 1, {INT_IS(0, 0)}},
    };
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < sizeof rules / sizeof rules[0]; i++)
        rc = add(filter, arch, rules[i].forbid ? SCMP_ACT_TRAP : SCMP_ACT_ALLOW, rules[i].call, rules[i].count,
                 rules[i].args);
    const struct scmp_arg_cmp window = INT_IS(1, TIOCGWINSZ);
    return rc || !terminal ? rc : add(filter, arch, SCMP_ACT_ALLOW, "ioctl", 1, &window);
}

scmp_filter_ctx sandbox_calls_filter(uint32_t arch, pid_t pid, bool terminal, struct err *err)
{
    scmp_filter_ctx filter = seccomp_init(SCMP_ACT_ERRNO(ENOSYS));
    const uint32_t native = seccomp_arch_native();
    if (arch == SCMP_ARCH_NATIVE)
        arch = native;
    int rc = filter ? 0 : -ENOMEM;
    if (rc == 0 && arch != native && (rc = seccomp_arch_add(filter, arch)) == 0)
        rc = seccomp_arch_remove(filter, native);
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_ACT_BADARCH, SCMP_ACT_KILL_PROCESS);
    if (rc == 0)
        rc = seccomp_attr_set(filter, SCMP_FLTATR_CTL_TSYNC, 1);
    if (rc == 0) /* a tree instead of a list; an old libseccomp has only the list */
        (void)seccomp_attr_set(filter, SCMP_FLTATR_CTL_OPTIMIZE, 2);
    if (rc == 0)
        rc = add_names(filter, arch, SCMP_ACT_ALLOW, sandbox_calls_allowed);
    if (rc == 0)
        rc = add_names(filter, arch, SCMP_ACT_TRAP, sandbox_calls_forbidden);
    if (rc == 0)
        rc = add_argument_rules(filter, arch, pid, terminal);
    if (rc == 0)
        return filter;
    err_set(err, ERR_SANDBOX, "the filter of system calls cannot be made: %s", strerror(-rc));
    if (filter)
        seccomp_release(filter);
    return NULL;
}

/* ---- the report ---------------------------------------------------------------------------------------------------
 */

enum { MAX_NUMBER = 600 };
static const char *call_names[MAX_NUMBER]; /* written once, before the filter is in force */
static int report_to = -1;
static bool report_as_json;

static void note_names(const char *const *names)
{
    for (; *names; names++) {
        const int number = seccomp_syscall_resolve_name(*names);
        if (number >= 0 && number < MAX_NUMBER)
            call_names[number] = *names;
    }
}

static size_t append(char *to, size_t len, size_t room, const char *text)
{
    while (*text && len < room)
        to[len++] = *text++;
    return len;
}

/* Only what may be called in a signal handler. The line starts anew: another thread may be in the middle of one. The
 * death by the signal's own action follows, so the parent sees it even if the line is lost. */
static void on_forbidden_call(int sig, siginfo_t *info, void *context)
{
    (void)context;
    char line[400], digits[12];
    size_t len = 0, d = sizeof digits;
    const unsigned number = (unsigned)info->si_syscall;
    const char *name = number < MAX_NUMBER && call_names[number] ? call_names[number] : "a system call";
    unsigned rest = number;
    digits[--d] = 0;
    do
        digits[--d] = (char)('0' + rest % 10);
    while ((rest /= 10) && d);
    len = append(line, len, sizeof line,
                 report_as_json ? "\n{\"type\":\"error\",\"code\":\"job_forbidden_call\",\"detail\":\"" : "\npared: ");
    len = append(line, len, sizeof line, "the process called ");
    len = append(line, len, sizeof line, name);
    len = append(line, len, sizeof line, " (number ");
    len = append(line, len, sizeof line, digits + d);
    len = append(line, len, sizeof line,
                 "), which no job may call: its input is made to do harm, or the program is wrong");
    len = append(line, len, sizeof line, report_as_json ? "\"}\n" : "\n");
    if (write(report_to, line, len) < 0) {
    }
    signal(sig, SIG_DFL);
    raise(sig);
    _exit(128 + sig);
}

int sandbox_calls_enter(int report_fd, bool report_json, bool terminal, struct err *err)
{
    static const char *const by_argument[] = {"open", "openat", "clone", "tgkill", "prlimit64", "fcntl", "ioctl", NULL};
    report_to = report_fd;
    report_as_json = report_json;
    note_names(sandbox_calls_forbidden);
    note_names(by_argument);
    struct sigaction action = {.sa_sigaction = on_forbidden_call, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigset_t sigsys;
    sigemptyset(&sigsys);
    sigaddset(&sigsys, SIGSYS);
    sigprocmask(SIG_UNBLOCK, &sigsys, NULL);
    if (sigaction(SIGSYS, &action, NULL))
        return err_set_errno(err, ERR_SANDBOX, "the handler of forbidden calls cannot be set");
    scmp_filter_ctx filter = sandbox_calls_filter(SCMP_ARCH_NATIVE, getpid(), terminal, err);
    if (!filter)
        return -1;
    const int rc = seccomp_load(filter);
    seccomp_release(filter);
    return rc ? err_set(err, ERR_SANDBOX, "the filter of system calls is refused by the kernel: %s", strerror(-rc)) : 0;
}
