/* SPDX-License-Identifier: Apache-2.0 */
#include "server/machine.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

int64_t machine_memory_bytes(void)
{
    static const char *const limits[] = {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    int64_t bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * (int64_t)sysconf(_SC_PAGESIZE);
    for (unsigned i = 0; i < sizeof limits / sizeof limits[0]; i++) {
        int64_t limit = read_limit(limits[i]);
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

/* Of a cgroup: limit - (used - cache that can be dropped). INT64_MAX without a limit. */
static int64_t cgroup_left(const char *limit_path, const char *used_path, const char *stat_path, const char *cache_key)
{
    int64_t limit = read_limit(limit_path), used = read_limit(used_path), cache = read_key(stat_path, cache_key);
    if (limit <= 0 || used <= 0 || limit >= INT64_MAX / 2)
        return INT64_MAX;
    int64_t left = limit - used + (cache > 0 ? cache : 0);
    return left > 0 ? left : 1;
}

int64_t machine_memory_available(void)
{
    int64_t kib = read_key("/proc/meminfo", "MemAvailable:");
    int64_t bytes = kib > 0 && kib < INT64_MAX / 1024 ? kib * 1024 : 0;
    const int64_t left[] = {
        cgroup_left("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory.stat",
                    "inactive_file "),
        cgroup_left("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                    "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file ")};
    for (unsigned i = 0; i < sizeof left / sizeof left[0]; i++)
        if (left[i] < (bytes > 0 ? bytes : INT64_MAX))
            bytes = left[i];
    return bytes;
}
