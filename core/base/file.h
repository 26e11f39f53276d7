/* SPDX-License-Identifier: Apache-2.0
 * file.h - whole files, safely: read-only mappings and writes that are either whole or not there.
 * Errors     ERR_IO / ERR_DISK_FULL with the reason; the caller names the file in its own terms (a path is no client's
 *            business). */
#ifndef PARED_BASE_FILE_H
#define PARED_BASE_FILE_H

#include <stddef.h>
#include <sys/types.h>

#include "core/base/err.h"

/* A read-only private mapping of a whole file. An empty file maps to {NULL, 0}. */
struct file_map {
    const unsigned char *data;
    size_t size;
};
int file_map_open(struct file_map *map, const char *path, struct err *err);
int file_map_fd(struct file_map *map, int fd, struct err *err); /* fd stays the caller's */
void file_map_close(struct file_map *map);
/* Its pages leave this process's memory; when looked at again they come from the file. */
void file_map_forget(const struct file_map *map);
/* The same of the whole pages in [data, data + len), which must lie in a mapping of a file. */
void file_forget_range(const void *data, size_t len);

/* Write all bytes to fd, retrying short writes. */
int file_write_all(int fd, const void *bytes, size_t len, struct err *err);
/* A file on its way: written beside its place under a temporary name, then there as a whole or not at all. */
struct file_draft {
    int fd; /* readable and writable; -1 when there is no draft */
    char *path, *temp;
};
/* `suffix` makes the temporary name; what a killed writer left under it is replaced. NULL: a suffix of this process
 * alone, for places that other processes may write at the same time. */
int file_draft_open(struct file_draft *d, const char *path, const char *suffix, mode_t mode, struct err *err);
/* fsync, rename, fsync of the folder. The draft ends; when this fails nothing is left behind. */
int file_draft_publish(struct file_draft *d, struct err *err);
/* Removes a draft that is not to be; nothing when there is none. */
void file_draft_discard(struct file_draft *d);
/* The end of writing: published when rc is 0, else discarded and rc returned. */
int file_draft_finish(struct file_draft *d, int rc, struct err *err);
/* All bytes through a draft. */
int file_write_atomic(const char *path, const void *bytes, size_t len, struct err *err);
/* The whole file in memory with a NUL behind it (free); ERR_TOO_LARGE beyond `limit` bytes. */
char *file_read(const char *path, size_t limit, size_t *len, struct err *err);
/* The same of a file that a process we do not trust has written: no link, no second name, nothing but a regular
 * file. */
char *file_read_own(const char *path, size_t limit, size_t *len, struct err *err);
/* TMPDIR, or /tmp. Borrowed from the environment. */
const char *file_temp_root(void);
/* A new private folder below TMPDIR (without it /tmp), "pared-<what>-" and six letters: its path (free), NULL on
 * error. */
char *file_temp_dir(const char *what, struct err *err);
/* Files and folders this process makes from now on are for its user alone (umask). */
void file_make_private(void);
/* What was made, renamed or removed in the folder is durable. */
int file_sync_dir(const char *path, struct err *err);
/* mkdir -p. */
int file_make_dirs(const char *path, struct err *err);
/* rm -r; a missing path is fine; symbolic links are removed, not followed. */
int file_remove_tree(const char *path, struct err *err);

#endif
