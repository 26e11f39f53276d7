/* SPDX-License-Identifier: Apache-2.0 */
#include "server/machine.h"

#include <inttypes.h>
#include <stdio.h>
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
