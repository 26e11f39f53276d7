/* SPDX-License-Identifier: Apache-2.0
 * cgroup.h - a memory limit the kernel keeps for one child, where this process may make control groups.
 * Why        RLIMIT_DATA counts what a process asks for, not what it touches, and not what it shares. A control group
 *            (version 2) counts all of it, page cache too, and ends the whole group when it is too much.
 * When       The server's own group is delegated to it (systemd Delegate=yes, a container with a writable cgroup file
 *            system) and its parent lets it have the memory controller. Else there are no groups, and RLIMIT_DATA and
 *            the parent's look at the child (child_watch.h) are the limit.
 * Layout     OWN/server holds the server itself (a group with processes may not hand controllers down), OWN/job-N one
 *            child each.
 * Threads    cgroup_open once, before the first child; the others from any thread. */
#ifndef PARED_SERVER_CGROUP_H
#define PARED_SERVER_CGROUP_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

/* Find the own group below `mount` (NULL: /sys/fs/cgroup) and prepare it. -1 with the reason in *why: there are no
 * groups here. Groups that an earlier run left are removed. */
int cgroup_open(const char *mount, struct err *why);
void cgroup_close(void);
bool cgroup_available(void);
/* A group for one child: memory.max, no swap, killed as a whole; its folder in `path`. 1 made, 0 there are no groups,
 * -1 with *err. */
int cgroup_new(int64_t memory_bytes, int64_t threads, char path[PATH_MAX], struct err *err);
/* How often the kernel has killed in it for memory; 0 when that cannot be read. */
int64_t cgroup_oom_kills(const char *path);
/* After its last process has ended. */
void cgroup_remove(const char *path);
/* The calling process goes into the group. */
int cgroup_enter(const char *path, struct err *err);

#endif
