/* SPDX-License-Identifier: Apache-2.0
 * admission.h - may the server take something new, and is it ready?
 * Why        A server that runs out of disk or memory in the middle of things loses work and takes others with it. So
 *            what the machine has left is measured once a second, and below the settings min_free_disk_bytes and
 *            min_free_memory_bytes uploads and jobs are refused (507, 503, with Retry-After) and no job is started,
 *            while reads, cancels and deletes go on: they are what makes room.
 * Threads    all from any: what was measured are atomic words, and admission_check only reads them. */
#ifndef PARED_SERVER_ADMISSION_H
#define PARED_SERVER_ADMISSION_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"

struct server;

/* Part of struct server. */
struct admission {
    _Atomic int64_t disk_bytes;   /* a writer may still use: free space above the reserve */
    _Atomic int64_t memory_bytes; /* available to this process; INT64_MAX: not known */
    atomic_bool measured;         /* before the first look nothing is short */
    atomic_bool was_short;        /* for one line in the log at each change */
};

void admission_measure(struct server *server);
/* 0, or -1 with ERR_DISK_FULL or ERR_UNAVAILABLE: a request that brings something new is refused with this. */
int admission_check(struct server *server, struct err *err);

/* One thing /readyz looks at. */
struct ready_check {
    const char *name; /* "draining", "store", "disk", "memory" */
    bool ok;
    int64_t free_bytes, needed_bytes; /* disk (free: above the reserve) and memory; -1: does not apply */
    struct err err;                   /* when not ok */
};
enum { READY_CHECKS = 4 };
/* Fills all rows; whether all are ok. Asks the catalogue, so it may block. */
bool server_ready(struct server *server, struct ready_check checks[READY_CHECKS]);

#endif
