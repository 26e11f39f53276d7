/* SPDX-License-Identifier: Apache-2.0 */
#include "server/machine.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/base/cgroup_path.h"

/* A limit file holds a number, or "max" (version 2), or a number beyond all memory (version 1). */
static int64_t read_limit(const char *path)
{
    int64_t bytes = 0;
    FILE *f = fopen(path, "re");
    if (!f)
        return 0;
    if (fscanf(f, "%" SCNd64, &bytes) != 1)
        bytes = 0;
    fclose(f);
    return bytes;
}

/* A file of a control group. */
static const char *file_of(const char *group, const char *name, char path[PATH_MAX])
{
    return snprintf(path, PATH_MAX, "%s/%s", group, name) < PATH_MAX ? path : "";
}

int64_t machine_memory_bytes(void)
{
    char group[PATH_MAX], path[PATH_MAX];
    int64_t bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    int64_t limit = read_limit("/sys/fs/cgroup/memory/memory.limit_in_bytes");
    if (limit > 0 && limit < bytes)
        bytes = limit;
    for (bool there = cgroup_own(CGROUP_MOUNT, group, NULL) == 0; there; there = cgroup_parent(CGROUP_MOUNT, group)) {
        limit = read_limit(file_of(group, "memory.max", path));
        if (limit > 0 && limit < bytes)
            bytes = limit;
    }
    return bytes > 0 ? bytes : 0;
}

/* The number behind `key` in a file of lines "key number"; -1: none. */
static int64_t read_key(const char *path, const char *key)
{
    char line[200];
    int64_t value = -1;
    size_t len = strlen(key);
    FILE *f = fopen(path, "re");
    while (f && value < 0 && fgets(line, sizeof line, f))
        if (!strncmp(line, key, len) && sscanf(line + len, " %" SCNd64, &value) != 1)
            value = -1;
    if (f)
        fclose(f);
    return value;
}

/* Of a control group: limit - (used - cache that can be dropped). INT64_MAX without a limit. */
static int64_t group_left(const char *group, const char *limit_file, const char *used_file, const char *cache_key)
{
    char path[PATH_MAX];
    int64_t limit = read_limit(file_of(group, limit_file, path)), used = read_limit(file_of(group, used_file, path));
    int64_t cache = read_key(file_of(group, "memory.stat", path), cache_key);
    if (limit <= 0 || used <= 0 || limit >= INT64_MAX / 2)
        return INT64_MAX;
    int64_t left = limit - used + (cache > 0 ? cache : 0);
    return left > 0 ? left : 1;
}

int64_t machine_memory_available(void)
{
    char group[PATH_MAX];
    int64_t kib = read_key("/proc/meminfo", "MemAvailable:");
    int64_t least = kib > 0 && kib < INT64_MAX / 1024 ? kib * 1024 : INT64_MAX;
    int64_t left =
        group_left("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file ");
    least = left < least ? left : least;
    for (bool there = cgroup_own(CGROUP_MOUNT, group, NULL) == 0; there; there = cgroup_parent(CGROUP_MOUNT, group)) {
        left = group_left(group, "memory.max", "memory.current", "inactive_file ");
        least = left < least ? left : least;
    }
    return least < INT64_MAX ? least : 0;
}
