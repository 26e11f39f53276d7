/* SPDX-License-Identifier: Apache-2.0
 * fence_run.h - `pared run --sandbox`: the walls of server/sandbox.h around a run from the command line. */
#ifndef PARED_CLI_FENCE_RUN_H
#define PARED_CLI_FENCE_RUN_H

#include "core/base/err.h"
#include "core/recipe/pipeline.h"
#include "server/sandbox.h"

/* OpenBLAS starts threads before main, and landlock holds only for threads that come later: start the program anew
 * with one thread where that is so. `argv` is that of the command; argv[-1] is the program. Returns when nothing is to
 * be done, or it cannot be (fence_run then says so). */
void start_alone(enum sandbox_mode mode, char **argv);
/* Fence this process off: it may read the model, the files beside it (external data), the datasets and the teacher, and
 * write the output and checkpoint folders, which are made. -1 with *err. A missing wall is a warning on stderr. */
int fence_run(enum sandbox_mode mode, const struct pipeline_opts *opts, struct err *err);

#endif
