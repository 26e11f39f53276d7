/* SPDX-License-Identifier: Apache-2.0
 * Landlock is asked for by number: the headers of Debian 12 know ABI 2, kernels know more. Every right that this kernel
 * can take away is taken away (masked by its ABI), then given back for the places.
 *
 * Rules on files of /proc hold for an inode, and those inodes live as long as their directory entry; so the descriptors
 * stay open to the end of the process (O_PATH: nothing can be read through them). */
#include "server/sandbox.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "server/sandbox_calls.h"

static const char *const mode_names[] = {
    [SANDBOX_STRICT] = "strict", [SANDBOX_BEST_EFFORT] = "best-effort", [SANDBOX_OFF] = "off"};

const char *sandbox_mode_name(enum sandbox_mode mode)
{
    return mode_names[mode];
}

bool sandbox_mode_parse(const char *text, enum sandbox_mode *mode)
{
    for (int i = 0; i < (int)(sizeof mode_names / sizeof mode_names[0]); i++)
        if (!strcmp(text, mode_names[i])) {
            *mode = (enum sandbox_mode)i;
            return true;
        }
    return false;
}

/* ---- what the kernel has ------------------------------------------------------------------------------------------
 */

static int landlock_abi(void)
{
    const long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    return abi > 0 ? (int)abi : 0;
}

static bool has_seccomp(void)
{
    const unsigned action = SECCOMP_RET_TRAP;
    return syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

struct sandbox_support sandbox_support(void)
{
    return (struct sandbox_support){.landlock_abi = landlock_abi(), .calls = has_seccomp()};
}

int sandbox_check(enum sandbox_mode mode, struct err *err)
{
    const struct sandbox_support has = sandbox_support();
    if (mode != SANDBOX_STRICT)
        return 0;
    if (has.landlock_abi < SANDBOX_LANDLOCK_MIN)
        return err_set(err, ERR_SANDBOX,
                       "sandbox is strict, but this kernel's landlock has ABI %d; at least %d is needed (Linux 5.19 "
                       "with landlock among its security modules): use best-effort to go on without it",
                       has.landlock_abi, (int)SANDBOX_LANDLOCK_MIN);
    if (!has.calls)
        return err_set(
            err, ERR_SANDBOX,
            "sandbox is strict, but this kernel has no seccomp filters: use best-effort to go on without them");
    return 0;
}

/* ---- landlock -----------------------------------------------------------------------------------------------------
 */

/* The kernel's structure as of ABI 6; an older one takes it as long as the words it does not know are zero. */
struct ruleset {
    uint64_t files, net, scoped;
};
enum {
    ABI_REFER = 2,
    ABI_TRUNCATE = 3,
    ABI_NET = 4,
    ABI_IOCTL = 5,
    ABI_SCOPE = 6,
    RIGHTS_ABI_1 = 13, /* bits */
    NET_RIGHTS = 2,
    SCOPES = 2
};
#define RIGHT_TRUNCATE (UINT64_C(1) << 14)
#define RIGHT_IOCTL (UINT64_C(1) << 15)
#define FILE_RIGHTS (LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_EXECUTE | \
                     RIGHT_TRUNCATE | RIGHT_IOCTL) /* the others make sense for folders only */

static const uint64_t rights[] = {
    [SANDBOX_READ] = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR,
    [SANDBOX_WRITE] = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_WRITE_FILE |
                      LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                      LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_REFER | RIGHT_TRUNCATE,
    [SANDBOX_WORK] = LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_WRITE_FILE |
                     LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_DIR |
                     LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SYM | LANDLOCK_ACCESS_FS_REFER |
                     RIGHT_TRUNCATE,
    [SANDBOX_LIST] = LANDLOCK_ACCESS_FS_READ_DIR};

static uint64_t rights_of_abi(int abi)
{
    uint64_t all = (UINT64_C(1) << RIGHTS_ABI_1) - 1;
    if (abi >= ABI_REFER)
        all |= LANDLOCK_ACCESS_FS_REFER;
    if (abi >= ABI_TRUNCATE)
        all |= RIGHT_TRUNCATE;
    if (abi >= ABI_IOCTL)
        all |= RIGHT_IOCTL;
    return all;
}

/* The descriptor, which the caller may close or leave open; -1 with errno. */
static int allow(int ruleset, const char *path, uint64_t access)
{
    struct stat st;
    const int fd = open(path, O_PATH | O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0) {
        const struct landlock_path_beneath_attr rule = {
            .allowed_access = S_ISDIR(st.st_mode) ? access : access & FILE_RIGHTS, .parent_fd = fd};
        if (syscall(SYS_landlock_add_rule, ruleset, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0)
            return fd;
    }
    const int why = errno;
    close(fd);
    errno = why;
    return -1;
}

/* How big the machine is and how much is in use; what is not there is not needed. */
static void allow_machine(int ruleset, uint64_t handled)
{
    static const struct {
        const char *path;
        uint64_t access;
    } files[] = {{"/proc/self/status", LANDLOCK_ACCESS_FS_READ_FILE},
                 {"/proc/self/statm", LANDLOCK_ACCESS_FS_READ_FILE},
                 {"/proc/self/clear_refs", LANDLOCK_ACCESS_FS_WRITE_FILE}, /* sets the peak of memory back */
                 {"/proc/stat", LANDLOCK_ACCESS_FS_READ_FILE},
                 {"/proc/cpuinfo", LANDLOCK_ACCESS_FS_READ_FILE},
                 {"/proc/meminfo", LANDLOCK_ACCESS_FS_READ_FILE},
                 {"/sys/devices/system/cpu", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR},
                 {"/dev/null", LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_WRITE_FILE}};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        (void)allow(ruleset, files[i].path, files[i].access & handled); /* stays open: see above */
}

static int fence_files(const struct sandbox_opts *o, int abi, struct err *err)
{
    const struct ruleset attributes = {.files = rights_of_abi(abi),
                                       .net = abi >= ABI_NET ? (1u << NET_RIGHTS) - 1 : 0,
                                       .scoped = abi >= ABI_SCOPE ? (1u << SCOPES) - 1 : 0};
    const int ruleset = (int)syscall(SYS_landlock_create_ruleset, &attributes, sizeof attributes, 0);
    if (ruleset < 0)
        return err_set_errno(err, ERR_SANDBOX, "landlock cannot be set up");
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < o->place_count; i++) {
        const struct sandbox_place *place = &o->places[i];
        const int fd = allow(ruleset, place->path, rights[place->access] & attributes.files);
        if (fd < 0)
            rc = err_set_errno(err, ERR_IO, "a file or folder of the job cannot be opened");
        else
            close(fd);
    }
    if (rc == 0)
        allow_machine(ruleset, attributes.files);
    if (rc == 0 && syscall(SYS_landlock_restrict_self, ruleset, 0))
        rc = err_set_errno(err, ERR_SANDBOX, "landlock is refused by the kernel");
    close(ruleset);
    return rc;
}

/* ---- privileges ---------------------------------------------------------------------------------------------------
 */

/* A server that runs as root must not pass its powers on. Without them there is nothing to drop. */
static int drop_capabilities(bool keep_owner, struct err *err)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[_LINUX_CAPABILITY_U32S_3] = {{0}}, kept[_LINUX_CAPABILITY_U32S_3] = {{0}};
    if (keep_owner && syscall(SYS_capget, &head, have) == 0)
        kept[0].effective = kept[0].permitted = have[0].permitted & 1u << CAP_DAC_OVERRIDE;
    (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
    return syscall(SYS_capset, &head, kept) ? err_set_errno(err, ERR_SANDBOX, "capabilities cannot be dropped") : 0;
}

bool sandbox_alone(void)
{
    struct stat st;
    return stat("/proc/self/task", &st) || st.st_nlink == 3;
}

static void lacks(struct sandbox_result *result, const char *what)
{
    const size_t len = strlen(result->missing);
    snprintf(result->missing + len, sizeof result->missing - len, "%s%s", len ? "; " : "", what);
}

int sandbox_enter(const struct sandbox_opts *o, struct sandbox_result *result, struct err *err)
{
    struct err why = {0};
    *result = (struct sandbox_result){0};
    if (o->mode == SANDBOX_OFF)
        return 0;
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        return err_set_errno(err, ERR_SANDBOX, "privileges cannot be given up");
    if (sandbox_check(o->mode, err))
        return -1;
    if (drop_capabilities(o->keep_owner, &why))
        lacks(result, why.msg);
    const int abi = landlock_abi();
    why = (struct err){0};
    if (abi < SANDBOX_LANDLOCK_MIN)
        lacks(result, "this kernel has no landlock (ABI 2): files are not fenced off");
    else if (!sandbox_alone())
        lacks(result, "threads run already: landlock would not hold for them");
    else if (fence_files(o, abi, &why) == 0)
        result->landlock_abi = abi;
    else if (why.code == ERR_IO) /* not the kernel's doing: a place is gone */
        return err_set(err, ERR_IO, "%s", why.msg);
    else
        lacks(result, why.msg);
    why = (struct err){0};
    result->calls = sandbox_calls_enter(o->report_fd, o->report_json, o->terminal, &why) == 0;
    if (!result->calls)
        lacks(result, why.msg);
    return o->mode == SANDBOX_STRICT && result->missing[0]
               ? err_set(err, ERR_SANDBOX, "sandbox is strict, but %s", result->missing)
               : 0;
}
