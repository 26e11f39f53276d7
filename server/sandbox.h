/* SPDX-License-Identifier: Apache-2.0
 * sandbox.h - the walls around a process that reads what a stranger made.
 * Why        Models, archives and pictures are parsed by C code. The day one of them turns a parser, that process must
 *            find nothing worth having: no file but its own, no network, no other program, no other process.
 * Walls      capabilities dropped, no_new_privs; landlock: only the named places (and a few files of /proc and /sys
 *            that say how big the machine is); seccomp: only the system calls of the list in sandbox_calls.c.
 * Modes      strict: a wall that the kernel lacks is an error. best-effort: it is named in the result, and the process
 *            goes on. off: nothing is done.
 * Order      Limits and oom_score_adj before (they need /proc), threads after: landlock holds for the calling thread
 *            and those it makes. Nothing of it can be undone by the process.
 * Forbidden  A call of the forbidden list (exec, sockets, fork, kill, ptrace, mount, chmod ...) is not executed: the
 *            process writes one line to report_fd and dies by SIGSYS. Any other call outside the list returns ENOSYS,
 *            so that a library that only asks falls back. */
#ifndef PARED_SERVER_SANDBOX_H
#define PARED_SERVER_SANDBOX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/base/err.h"

enum sandbox_mode { SANDBOX_STRICT, SANDBOX_BEST_EFFORT, SANDBOX_OFF };
/* "strict", "best-effort", "off". sandbox_mode_parse: false when it is none of them. */
const char *sandbox_mode_name(enum sandbox_mode mode);
bool sandbox_mode_parse(const char *text, enum sandbox_mode *mode);

enum sandbox_access {
    SANDBOX_READ,  /* a file, or a folder and all below it */
    SANDBOX_WRITE, /* a folder: files and folders may be made, changed, removed; no links, devices, sockets */
    SANDBOX_WORK,  /* as WRITE, and symbolic links may be made (they lead no further than the walls allow) */
    SANDBOX_LIST   /* a folder: the names in it and below it, not the files */
};
struct sandbox_place {
    const char *path;
    enum sandbox_access access;
};

enum { SANDBOX_LANDLOCK_MIN = 2 }; /* ABI 1 (Linux 5.13) cannot move a file from one folder to another */

/* What this kernel offers. Any thread; changes nothing. */
struct sandbox_support {
    int landlock_abi; /* 0: none */
    bool calls;       /* seccomp filters */
};
struct sandbox_support sandbox_support(void);
/* Whether `mode` can be had here: -1 with ERR_SANDBOX and a sentence when it is strict and a wall is missing. */
int sandbox_check(enum sandbox_mode mode, struct err *err);

struct sandbox_opts {
    enum sandbox_mode mode;
    const struct sandbox_place *places; /* borrowed; a place that does not exist is an error */
    size_t place_count;
    int report_fd;     /* where the line about a forbidden call goes */
    bool report_json;  /* a JSON line {"type":"error", ...} as of core/recipe/job_spec.h; else a plain sentence */
    bool terminal;     /* the process may ask the size of its terminal */
    bool keep_owner;   /* root keeps the power to read and write the places, whoever owns them */
};
/* Whether this process has one thread only: landlock needs that. */
bool sandbox_alone(void);
/* Which walls stand after sandbox_enter. */
struct sandbox_result {
    int landlock_abi;  /* 0: none */
    bool calls;        /* seccomp */
    char missing[200]; /* sentence about what is missing, or "" */
};
/* Wall this process in. 0, or -1 with ERR_SANDBOX (strict, a wall is missing) or ERR_IO (a place cannot be opened). */
int sandbox_enter(const struct sandbox_opts *opts, struct sandbox_result *result, struct err *err);

#endif
