/* SPDX-License-Identifier: Apache-2.0 */
#include "core/base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int file_map_fd(struct file_map *map, int fd, struct err *err)
{
    struct stat st;
    *map = (struct file_map){0};
    if (fstat(fd, &st))
        return err_set_errno(err, ERR_IO, "cannot stat");
    if (!S_ISREG(st.st_mode))
        return err_set(err, ERR_IO, "not a regular file");
    if (st.st_size == 0)
        return 0;
    void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED)
        return err_set_errno(err, ERR_IO, "cannot map");
    *map = (struct file_map){p, (size_t)st.st_size};
    return 0;
}

int file_map_open(struct file_map *map, const char *path, struct err *err)
{
    *map = (struct file_map){0};
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_IO, "cannot open");
    int rc = file_map_fd(map, fd, err);
    close(fd);
    return rc;
}

void file_map_close(struct file_map *map)
{
    if (map->data)
        munmap((void *)(uintptr_t)map->data, map->size);
    *map = (struct file_map){0};
}

void file_map_forget(const struct file_map *map)
{
    if (map->data)
        madvise((void *)(uintptr_t)map->data, map->size, MADV_DONTNEED);
}

void file_forget_range(const void *data, size_t len)
{
    const long page = sysconf(_SC_PAGESIZE);
    const uintptr_t mask = (uintptr_t)(page > 0 ? page : 4096) - 1;
    /* the pages at the ends hold neighbours too */
    const uintptr_t from = ((uintptr_t)data + mask) & ~mask, to = ((uintptr_t)data + len) & ~mask;
    if (from < to)
        madvise((void *)from, to - from, MADV_DONTNEED);
}

int file_write_all(int fd, const void *bytes, size_t len, struct err *err)
{
    const char *p = bytes;
    while (len) {
        ssize_t n = write(fd, p, len < INT_MAX ? len : INT_MAX);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set_errno(err, ERR_IO, "cannot write");
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

int file_draft_open(struct file_draft *d, const char *path, const char *suffix, mode_t mode, struct err *err)
{
    char own[32];
    snprintf(own, sizeof own, ".tmp%ld", (long)getpid());
    const size_t room = strlen(path) + strlen(suffix ? suffix : own) + 1;
    *d = (struct file_draft){.fd = -1, .path = strdup(path), .temp = malloc(room)};
    int rc = 0;
    if (!d->path || !d->temp) {
        free(d->temp); /* not a name yet: nothing to unlink */
        d->temp = NULL;
        rc = err_set(err, ERR_NOMEM, "out of memory");
    } else {
        snprintf(d->temp, room, "%s%s", path, suffix ? suffix : own);
        /* unlinked, not truncated: a link that somebody put there is not followed */
        if (unlink(d->temp) && errno != ENOENT)
            rc = err_set_errno(err, ERR_IO, "cannot remove an unfinished file");
        else if ((d->fd = open(d->temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, mode)) < 0)
            rc = err_set_errno(err, ERR_IO, "cannot create");
    }
    if (rc)
        file_draft_discard(d);
    return rc;
}

int file_sync_dir(const char *path, struct err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? err_set_errno(err, ERR_IO, "a storage folder cannot be synced") : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

/* The folder's entry must be durable too. Some file systems cannot sync a folder: then there is nothing more to do. */
static void sync_folder(char *path)
{
    char *slash = strrchr(path, '/');
    if (slash)
        slash[slash == path] = 0;
    (void)file_sync_dir(slash ? path : ".", NULL);
}

int file_draft_publish(struct file_draft *d, struct err *err)
{
    int rc = fsync(d->fd) ? err_set_errno(err, ERR_IO, "cannot sync") : 0;
    if (close(d->fd) && rc == 0)
        rc = err_set_errno(err, ERR_IO, "cannot close");
    d->fd = -1;
    if (rc == 0 && rename(d->temp, d->path))
        rc = err_set_errno(err, ERR_IO, "cannot rename");
    if (rc == 0) {
        free(d->temp);
        d->temp = NULL;
        sync_folder(d->path);
    }
    file_draft_discard(d);
    return rc;
}

void file_draft_discard(struct file_draft *d)
{
    if (d->fd >= 0)
        close(d->fd);
    if (d->temp)
        unlink(d->temp);
    free(d->temp);
    free(d->path);
    *d = (struct file_draft){.fd = -1};
}

int file_draft_finish(struct file_draft *d, int rc, struct err *err)
{
    if (rc == 0)
        return file_draft_publish(d, err);
    file_draft_discard(d);
    return rc;
}

int file_write_atomic(const char *path, const void *bytes, size_t len, struct err *err)
{
    struct file_draft d;
    if (file_draft_open(&d, path, NULL, 0644, err))
        return -1;
    return file_draft_finish(&d, file_write_all(d.fd, bytes, len, err), err);
}

/* Closes fd. */
static char *read_fd(int fd, size_t limit, size_t *len, struct err *err)
{
    char *data = NULL;
    size_t used = 0, cap = 0;
    ssize_t n = 1;
    while (n > 0) {
        if (used + 1 >= cap) {
            cap = cap ? cap * 2 : 65536;
            char *grown = realloc(data, cap);
            if (!grown)
                break;
            data = grown;
        }
        n = read(fd, data + used, cap - used - 1);
        if (n > 0)
            used += (size_t)n;
        if (used > limit)
            break;
    }
    close(fd);
    if (n != 0) {
        if (n < 0)
            err_set_errno(err, ERR_IO, "cannot read");
        else if (used > limit)
            err_set(err, ERR_TOO_LARGE, "larger than %zu bytes", limit);
        else
            err_set(err, ERR_NOMEM, "out of memory");
        free(data);
        return NULL;
    }
    data[used] = 0;
    if (len)
        *len = used;
    return data;
}

char *file_read(const char *path, size_t limit, size_t *len, struct err *err)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd >= 0)
        return read_fd(fd, limit, len, err);
    err_set_errno(err, ERR_IO, "cannot open");
    return NULL;
}

char *file_read_own(const char *path, size_t limit, size_t *len, struct err *err)
{
    struct stat st;
    const int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st))
        err_set_errno(err, ERR_IO, "cannot open");
    else if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
        err_set(err, ERR_IO, "not a regular file of its own");
    else
        return read_fd(fd, limit, len, err);
    if (fd >= 0)
        close(fd);
    return NULL;
}

const char *file_temp_root(void)
{
    const char *root = getenv("TMPDIR");
    return root && *root ? root : "/tmp";
}

char *file_temp_dir(const char *what, struct err *err)
{
    char *path = NULL;
    if (asprintf(&path, "%s/pared-%s-XXXXXX", file_temp_root(), what) < 0) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    if (!mkdtemp(path)) {
        err_set_errno(err, ERR_IO, "cannot make a temporary folder");
        free(path);
        return NULL;
    }
    return path;
}

void file_make_private(void)
{
    umask(S_IRWXG | S_IRWXO); /* other people's models, and the secret of links */
}

int file_make_dirs(const char *path, struct err *err)
{
    char copy[PATH_MAX];
    if (snprintf(copy, sizeof copy, "%s", path) >= (int)sizeof copy)
        return err_set(err, ERR_IO, "path too long");
    for (char *p = copy + 1;; p++) {
        char c = *p;
        if (c && c != '/')
            continue;
        *p = 0;
        if (mkdir(copy, 0755) && errno != EEXIST)
            return err_set_errno(err, ERR_IO, "cannot make a directory");
        if (!c)
            return 0;
        *p = c;
    }
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st, (void)flag, (void)ftw;
    return remove(path);
}

int file_remove_tree(const char *path, struct err *err)
{
    if (nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS) && errno != ENOENT)
        return err_set_errno(err, ERR_IO, "cannot remove");
    return 0;
}
