/* SPDX-License-Identifier: Apache-2.0
 * progress.h - progress of a pipeline on stderr: a bar that redraws itself on a terminal, otherwise a line a stage.
 * SIGINT and SIGTERM ask the pipeline to stop at its next tick, so that nothing unfinished is left behind; a second
 * signal kills at once. */
#ifndef PARED_CLI_PROGRESS_H
#define PARED_CLI_PROGRESS_H

#include "core/recipe/pipeline.h"

struct progress {
    bool quiet, terminal;
    const char *stage; /* of the last line, with its step */
    int step;
    const char *said[32]; /* stages of this step that had their line: rounds of passes are not told again */
    int n_said;
    double drawn; /* when the bar was last drawn */
    bool bar;     /* a bar stands on the current line */
};

/* Also catches the signals. */
void progress_init(struct progress *p, bool quiet);
/* Callbacks of pipeline_opts; arg is the struct progress. */
int progress_show(void *arg, const struct pipeline_progress *at);
void progress_log(void *arg, const char *level, const char *message);
/* One line a measurement: method, then every figure of the object in its order. */
void progress_metric(void *arg, const json_t *object);
/* Removes the bar. */
void progress_done(struct progress *p);

#endif
