/* SPDX-License-Identifier: Apache-2.0
 * confine.h - what `pared __job` does to itself before it looks at any input: tied to its parent, limited, walled in.
 * Order     death with the parent -> control group -> limits -> oom_score_adj -> sandbox (server/sandbox.h). */
#ifndef PARED_CLI_CONFINE_H
#define PARED_CLI_CONFINE_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/err.h"
#include "server/sandbox.h"

struct confine_opts {
    const json_t *spec; /* whole: every file and folder it names becomes a place of the sandbox */
    const char *work, *out, *checkpoint, *cgroup; /* NULL = none */
    enum sandbox_mode sandbox;
    bool die_with_parent, reserve_blas; /* BLAS's buffers are taken before the limit: a job multiplies */
    json_int_t threads, memory_bytes, file_bytes, cpu_s; /* 0 = no limit */
    int status_fd;
};
/* 0, or -1 with *err. */
int confine(const struct confine_opts *opts, struct sandbox_result *walls, struct err *err);

#endif
