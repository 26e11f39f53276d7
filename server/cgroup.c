/* SPDX-License-Identifier: Apache-2.0
 * Control groups are folders and small files; each write is one command. The child enters its group by itself, as its
 * first act: posix_spawn of this C library cannot start a process in a group. */
#include "server/cgroup.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/cgroup_path.h"
#include "core/base/file.h"

enum { FILE_LIMIT = 1 << 16 };
#define GROUP_PREFIX "job-"

static char own[PATH_MAX]; /* "" = there are no groups; written by cgroup_open alone */
static atomic_int next_number;

static int write_command(const char *folder, const char *file, const char *text, struct err *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
        return err_set(err, ERR_IO, "the path of the control group is too long");
    const int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_IO, "%s of the control group cannot be opened", file);
    const ssize_t n = write(fd, text, strlen(text));
    const int rc = n < 0 ? err_set_errno(err, ERR_IO, "%s of the control group cannot be written", file) : 0;
    close(fd);
    return rc;
}

/* The word is among those of a file such as cgroup.controllers. */
static bool lists(const char *folder, const char *file, const char *word)
{
    char path[PATH_MAX];
    bool found = false;
    if (snprintf(path, sizeof path, "%s/%s", folder, file) >= (int)sizeof path)
        return false;
    char *text = file_read(path, FILE_LIMIT, NULL, NULL);
    const size_t len = strlen(word);
    for (const char *p = text; p && !found && *p; p += strspn(p, " \n")) {
        const size_t n = strcspn(p, " \n");
        found = n == len && !memcmp(p, word, len);
        p += n;
    }
    free(text);
    return found;
}

static void remove_old(void)
{
    char path[PATH_MAX];
    DIR *dir = opendir(own);
    const struct dirent *e;
    while (dir && (e = readdir(dir)))
        if (!strncmp(e->d_name, GROUP_PREFIX, sizeof GROUP_PREFIX - 1) &&
            snprintf(path, sizeof path, "%s/%s", own, e->d_name) < (int)sizeof path)
            cgroup_remove(path);
    if (dir)
        closedir(dir);
}

/* Controllers are handed down only by a group without processes of its own: move aside first. */
static int hand_down(const char *group, struct err *err)
{
    char leaf[PATH_MAX];
    if (!lists(group, "cgroup.controllers", "memory"))
        return err_set(err, ERR_IO, "the control group has no memory controller");
    if (snprintf(leaf, sizeof leaf, "%s/server", group) >= (int)sizeof leaf)
        return err_set(err, ERR_IO, "the path of the control group is too long");
    if (mkdir(leaf, 0755) && errno != EEXIST)
        return err_set_errno(err, ERR_IO, "the control group is not ours to divide");
    if (lists(group, "cgroup.subtree_control", "memory"))
        return 0;
    if (cgroup_enter(leaf, err))
        return -1;
    if (write_command(group, "cgroup.subtree_control", "+memory", err))
        return -1;
    (void)write_command(group, "cgroup.subtree_control", "+pids", NULL);
    return 0;
}

int cgroup_open(const char *mount, struct err *why)
{
    char group[PATH_MAX];
    own[0] = 0;
    if (cgroup_own(mount ? mount : CGROUP_MOUNT, group, why) || hand_down(group, why))
        return -1;
    memcpy(own, group, sizeof own);
    remove_old();
    return 0;
}

void cgroup_close(void)
{
    own[0] = 0;
}

bool cgroup_available(void)
{
    return own[0] != 0;
}

int cgroup_new(int64_t memory_bytes, int64_t threads, char path[PATH_MAX], struct err *err)
{
    char text[32];
    path[0] = 0;
    if (!own[0])
        return 0;
    if (snprintf(path, PATH_MAX, "%s/" GROUP_PREFIX "%d", own, atomic_fetch_add(&next_number, 1)) >= PATH_MAX)
        return err_set(err, ERR_IO, "the path of the control group is too long");
    if (mkdir(path, 0755)) {
        path[0] = 0;
        return err_set_errno(err, ERR_IO, "no control group can be made");
    }
    snprintf(text, sizeof text, "%" PRId64, memory_bytes);
    if (memory_bytes > 0 && write_command(path, "memory.max", text, err)) {
        cgroup_remove(path);
        path[0] = 0;
        return -1;
    }
    /* kernels without swap accounting or pids lack these files */
    (void)write_command(path, "memory.swap.max", "0", NULL);
    (void)write_command(path, "memory.oom.group", "1", NULL);
    snprintf(text, sizeof text, "%" PRId64, threads);
    if (threads > 0)
        (void)write_command(path, "pids.max", text, NULL);
    return 1;
}

int64_t cgroup_oom_kills(const char *path)
{
    char file[PATH_MAX];
    int64_t count = 0;
    if (snprintf(file, sizeof file, "%s/memory.events", path) >= (int)sizeof file)
        return 0;
    char *text = file_read(file, FILE_LIMIT, NULL, NULL);
    const char *row = text ? strstr(text, "oom_kill ") : NULL;
    if (row && sscanf(row, "oom_kill %" SCNd64, &count) != 1)
        count = 0;
    free(text);
    return count > 0 ? count : 0;
}

void cgroup_remove(const char *path)
{
    (void)rmdir(path);
}

int cgroup_enter(const char *path, struct err *err)
{
    return write_command(path, "cgroup.procs", "0", err);
}
