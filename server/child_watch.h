/* SPDX-License-Identifier: Apache-2.0
 * child_watch.h - what a child uses, as its parent sees it: memory, threads, disk.
 * Why        Limits that the kernel keeps (RLIMIT_DATA, RLIMIT_FSIZE) count one thing each: not shared memory, not many
 *            small files, not threads. So the parent looks at /proc several times a second, and at the child's folder
 *            now and then, and ends a child that has more than it may.
 * Private to child.c and the test. Threads: one watch a thread. */
#ifndef PARED_SERVER_CHILD_WATCH_H
#define PARED_SERVER_CHILD_WATCH_H

#include <stdint.h>
#include <sys/types.h>

#include "core/base/err.h"

/* 0 = no limit. */
struct child_limits {
    int64_t memory_bytes; /* anonymous and shared memory in use, swap included */
    int64_t threads;
    const char *disk_dir; /* folder whose files count, with those the child holds open after their removal */
    int64_t disk_bytes;
};
struct child_watch {
    const struct child_limits *limits; /* borrowed */
    pid_t pid;
    double next_look, next_disk;
};
enum { CHILD_WATCH_MS = 250 };

/* Look if it is time. 0: all is well; -1 with ERR_MEMORY_LIMIT, ERR_FORBIDDEN_CALL (threads) or ERR_DISK_LIMIT. */
int child_watch_look(struct child_watch *watch, double now, struct err *err);
/* The parts, for tests: bytes in use and threads of a process (0 when it is gone), bytes on disk. */
void child_watch_usage(pid_t pid, int64_t *memory_bytes, int64_t *threads);
int64_t child_watch_disk(const char *dir, pid_t pid);

#endif
