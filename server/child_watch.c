/* SPDX-License-Identifier: Apache-2.0
 * A look at /proc/PID/status costs some 20 us. A walk over the folder costs more the more files there are, so the next
 * one waits twenty times as long as the last one took. */
#include "server/child_watch.h"

#include <dirent.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/clock.h"

enum { BLOCK = 512 /* unit of st_blocks */, MAX_DEPTH = 8 };
static const int64_t TOO_DEEP_BYTES = INT64_C(1) << 60;
static const double DISK_S = 1, DISK_SHARE = 20;

void child_watch_usage(pid_t pid, int64_t *memory_bytes, int64_t *threads)
{
    static const char *const memory_rows[] = {"RssAnon:", "RssShmem:", "VmSwap:"};
    char path[64], line[256];
    *memory_bytes = *threads = 0;
    snprintf(path, sizeof path, "/proc/%d/status", (int)pid);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        int64_t value = 0;
        const char *colon = strchr(line, ':');
        if (!colon || sscanf(colon + 1, "%" SCNd64, &value) != 1)
            continue;
        for (size_t i = 0; i < sizeof memory_rows / sizeof memory_rows[0]; i++)
            if (!strncmp(line, memory_rows[i], strlen(memory_rows[i])))
                *memory_bytes += value * 1024;
        if (!strncmp(line, "Threads:", 8))
            *threads = value;
    }
    if (f)
        fclose(f);
}

/* Links are not followed, neither to folders nor to files: what they lead to is not the child's. Nobody's work needs
 * folders so deep that they are not looked into, so these count as more than any limit. */
static int64_t folder_bytes(int parent, const char *name, int depth)
{
    int64_t total = 0;
    const int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (fd >= 0 && !dir)
        close(fd);
    const struct dirent *e;
    while (dir && (e = readdir(dir))) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") ||
            fstatat(dirfd(dir), e->d_name, &st, AT_SYMLINK_NOFOLLOW))
            continue;
        total += (int64_t)st.st_blocks * BLOCK;
        if (S_ISDIR(st.st_mode))
            total += depth < MAX_DEPTH ? folder_bytes(dirfd(dir), e->d_name, depth + 1) : TOO_DEEP_BYTES;
        if (total > TOO_DEEP_BYTES)
            total = TOO_DEEP_BYTES;
    }
    if (dir)
        closedir(dir);
    return total;
}

/* Files without a name: temporary ones of the child, which only its descriptors hold. */
static int64_t nameless_bytes(pid_t pid)
{
    char path[64];
    int64_t total = 0;
    snprintf(path, sizeof path, "/proc/%d/fd", (int)pid);
    DIR *dir = opendir(path);
    const struct dirent *e;
    while (dir && (e = readdir(dir))) {
        struct stat st;
        if (fstatat(dirfd(dir), e->d_name, &st, 0) == 0 && S_ISREG(st.st_mode) && st.st_nlink == 0)
            total += (int64_t)st.st_blocks * BLOCK;
    }
    if (dir)
        closedir(dir);
    return total;
}

int64_t child_watch_disk(const char *dir, pid_t pid)
{
    return folder_bytes(AT_FDCWD, dir, 0) + nameless_bytes(pid);
}

static long long mib(int64_t bytes)
{
    return (long long)((bytes + (1 << 20) - 1) >> 20);
}

int child_watch_look(struct child_watch *w, double now, struct err *err)
{
    const struct child_limits *may = w->limits;
    if (now < w->next_look)
        return 0;
    w->next_look = now + CHILD_WATCH_MS / 1e3;
    int64_t memory = 0, threads = 0;
    if (may->memory_bytes > 0 || may->threads > 0)
        child_watch_usage(w->pid, &memory, &threads);
    if (may->memory_bytes > 0 && memory > may->memory_bytes)
        return err_set(err, ERR_MEMORY_LIMIT, "the job used %lld MiB of memory; %lld MiB are allowed", mib(memory),
                       mib(may->memory_bytes));
    if (may->threads > 0 && threads > may->threads)
        return err_set(err, ERR_FORBIDDEN_CALL, "the job started %lld threads; at most %lld are allowed",
                       (long long)threads, (long long)may->threads);
    if (may->disk_bytes <= 0 || !may->disk_dir || now < w->next_disk)
        return 0;
    const int64_t disk = child_watch_disk(may->disk_dir, w->pid);
    w->next_disk = now + fmax(DISK_S, DISK_SHARE * (clock_seconds() - now));
    return disk > may->disk_bytes
               ? err_set(err, ERR_DISK_LIMIT,
                         "the job filled %lld MiB of the disk; %lld MiB are allowed (job_disk_bytes)", mib(disk),
                         mib(may->disk_bytes))
               : 0;
}
