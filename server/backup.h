/* SPDX-License-Identifier: Apache-2.0
 * backup.h - a copy of a data folder that can be served again, taken while its server runs.
 * Why        The catalogue and the files it refers to change all the time; a copy by cp has rows without files.
 * Layout     as a data folder: catalogue.db, node, blobs/objects/. Not in it: work folders (jobs that ran are queued
 *            again and begin anew) and uploads that were not finished.
 * Order      a snapshot of the catalogue first, then every file it refers to. A file that went away meanwhile, because
 *            its row did, makes another snapshot necessary.
 * Checks     every file is hashed on its way; a damaged or missing one is told and left out. */
#ifndef PARED_SERVER_BACKUP_H
#define PARED_SERVER_BACKUP_H

#include <stdint.h>

#include "core/base/err.h"

struct backup {
    const char *data; /* folder of the server */
    /* a folder (made, or one of an earlier backup, whose files are kept), or FILE.tar, .tar.gz, .tar.zst */
    const char *to;
    /* One sentence for each file that is left out. */
    void (*complain)(void *arg, const char *sentence);
    void *arg;
};
struct backup_figures {
    int64_t files, bytes; /* that the catalogue refers to, in the backup now */
    int64_t copied;       /* of them, this time */
    int64_t left_out;     /* damaged or missing */
};
/* 0 also when files were left out; -1: there is no (new) backup. */
int backup_run(const struct backup *what, struct backup_figures *out, struct err *err);

#endif
