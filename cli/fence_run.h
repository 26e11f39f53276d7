/* SPDX-License-Identifier: Apache-2.0
 * fence_run.h - `pared run --sandbox`: the walls of server/sandbox.h around a run from the command line. */
#ifndef PARED_CLI_FENCE_RUN_H
#define PARED_CLI_FENCE_RUN_H

#include "core/base/err.h"
#include "core/recipe/pipeline.h"
#include "server/sandbox.h"

/* Before anything is read. OpenBLAS starts threads before main, and landlock holds only for threads that come later:
 * the program is started anew with one thread where that is so (`argv` is that of the command; argv[-1] is the
 * program). Makes the output folder, and temporary files go there: nothing else can be written later. -1 with *err. */
int fence_start(enum sandbox_mode mode, const char *out_dir, char **argv, struct err *err);
/* Fence this process off: it may read the model, the files beside it (external data), the datasets and the teacher, and
 * write the output and checkpoint folders, which are made. -1 with *err. A missing wall is a warning on stderr. */
int fence_run(enum sandbox_mode mode, const struct pipeline_opts *opts, struct err *err);

#endif
