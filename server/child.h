/* SPDX-License-Identifier: Apache-2.0
 * child.h - one short-lived process of this binary that does what the server must not: parse models, archives,
 * pictures.
 * Contract   `/proc/self/exe __job`: descriptor 3 = the spec (JSON, sealed memfd), 4 = status pipe (one JSON object a
 *            line), everything else closed; environment nearly empty; limits from the spec, set by the child itself
 *            before it reads any input. core/recipe/job_spec.h has the form of spec and lines.
 * Walls      The child fences itself off (server/sandbox.h) as the spec's "sandbox" says. The parent keeps a control
 *            group around it where it may make one (server/cgroup.h), and looks at its memory, threads and disk.
 * Trust      What the child says is hostile input: lines are capped, malformed ones are counted and dropped.
 * Threads    A call blocks its thread until the child is gone; any number of threads at once. The child dies with the
 *            thread that made it (PR_SET_PDEATHSIG), so `kill -9` of the server leaves nothing running. */
#ifndef PARED_SERVER_CHILD_H
#define PARED_SERVER_CHILD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/base/err.h"
#include "server/child_watch.h"
#include "server/config.h"

enum child_end {
    CHILD_RESULT,       /* a result line and exit status 0 */
    CHILD_ERROR,        /* an error line: the input's fault, in err */
    CHILD_CRASHED,      /* a signal, or an exit without result and error */
    CHILD_MEMORY_LIMIT, /* said so itself, or was killed for its memory */
    CHILD_TIMEOUT,
    CHILD_FORBIDDEN,   /* it called what no job may call, or started too many threads; killed */
    CHILD_DISK_LIMIT,  /* it wrote more than it may */
    CHILD_CANCELED,    /* the tick said so */
    CHILD_ABANDONED,   /* the tick said so: lease lost or server stops; killed at once */
    CHILD_NOT_STARTED, /* the server's fault, in err */
};
enum child_tick { CHILD_GO_ON, CHILD_CANCEL, CHILD_ABANDON };

/* Memory a process has before it does anything, and threads that no honest one reaches. */
enum { CHILD_OWN_BYTES = 128 << 20, CHILD_MAX_THREADS = 1024 };
struct child_opts {
    const char *exe;            /* NULL = this binary */
    const char *const *argv;    /* NULL = {"pared", "__job", NULL} */
    const char *dir;            /* working directory, NULL = / */
    json_t *spec;               /* borrowed; gets "cgroup" when there is one */
    const char *traceparent;    /* becomes TRACEPARENT in its environment; NULL = none */
    int64_t timeout_ms;         /* 0 = none */
    struct child_limits limits; /* what the parent watches */
    int wake_fd;                /* eventfd that asks for a tick at once; -1 = none */
    int64_t tick_ms;            /* tick at least so often; 0 = only on wake_fd */
    enum child_tick (*tick)(void *arg);
    void (*line)(void *arg, const char *type, json_t *line); /* progress, log, metric lines; borrowed */
    void *arg;
};
struct child_outcome {
    enum child_end end;
    json_t *result;     /* CHILD_RESULT: the result line; owned */
    struct err err;     /* a sentence for every end but CHILD_RESULT */
    json_t *problem;    /* CHILD_ERROR: the error line (may carry "errors"); owned */
    int signal, status; /* how it went */
    int dropped_lines;
    char stage[64]; /* the last one it told of */
    double seconds;
    int64_t max_rss_bytes;
};
/* Run one child to its end. Always fills *out. */
void child_run(const struct child_opts *opts, struct child_outcome *out);
void child_outcome_fini(struct child_outcome *out);

struct server;

/* A file for the child to read: the name it goes by, where its bytes are, and their SHA-256 if it is known. */
struct child_file {
    const char *name, *path, *sha256;
};
/* What a child found in an upload. */
struct child_inspection {
    json_t *facts;                 /* owned; what GET shows */
    char *layers, *graph, *groups; /* models: JSON text of GET .../layers, .../graph and .../groups, owned; else NULL */
    json_t *problem; /* after a failure: the child's error line ("code", "detail", "errors"?), owned, or NULL */
};
/* Read an uploaded model (files[0], the others are its external data) or dataset (files[0] is data.json or the
 * self-describing file) in a child with the limits of the settings. -1 with *err: what the child said, or
 * ERR_MODEL_UNREADABLE / ERR_DATASET_UNREADABLE when it died or ran out of time or memory, ERR_UNAVAILABLE when the
 * server is closing. Nothing is left on disk. Blocks; any thread. */
int child_inspect_model(struct server *server, const struct child_file *files, int count, struct child_inspection *out,
                        struct err *err);
int child_inspect_dataset(struct server *server, const struct child_file *files, int count,
                          struct child_inspection *out, struct err *err);
void child_inspection_fini(struct child_inspection *inspection);

#endif
