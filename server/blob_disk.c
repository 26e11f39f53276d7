/* SPDX-License-Identifier: Apache-2.0
 * Blobs on a local disk.
 *
 *   tmp/put_ID              a write under way; whatever lies here at start is of a crashed run and is removed
 *   objects/aa/bb/SHA256    immutable; appears by rename after fsync, so it is whole or not there
 *
 * One mutex orders what changes names: the rename of a commit, the pins, the removal of a collect. That makes "not
 * pinned, not used, remove" one step, and the second of two equal uploads finds either the first one's object or none.
 * Content is written and synced outside it. */
#include "server/blob.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "server/blob_check.h"
#include "server/id.h"

enum { COPY_BYTES = 1 << 18, FLUSH_BYTES = 8 << 20 };

struct pin {
    char sha256[SHA256_HEX];
    int count;
};

struct blobs {
    char *dir;
    int64_t min_free;
    struct blob_checks *checks;
    pthread_mutex_t lock;
    struct pin *pins;
    size_t pin_count, pin_cap;
};

struct blob_put {
    struct blobs *blobs;
    int fd;
    char path[PATH_MAX];
    struct hash hash;
    int64_t bytes, flushed;
    bool ours;        /* the file at `path` goes with the put */
    bool hashed_here; /* the hash was made as the bytes came: they need not be read again to be believed */
    bool committed;
    char sha256[SHA256_HEX];
};

/* ---- pins: few at a time, so an array -----------------------------------------------------------------------------
 */

static struct pin *pin_find(struct blobs *blobs, const char *sha256)
{
    for (size_t i = 0; i < blobs->pin_count; i++)
        if (!strcmp(blobs->pins[i].sha256, sha256))
            return &blobs->pins[i];
    return NULL;
}

static int pin_locked(struct blobs *blobs, const char *sha256, struct err *err)
{
    struct pin *pin = pin_find(blobs, sha256);
    if (!pin && blobs->pin_count == blobs->pin_cap) {
        size_t cap = blobs->pin_cap ? blobs->pin_cap * 2 : 16;
        struct pin *grown = realloc(blobs->pins, cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        blobs->pins = grown;
        blobs->pin_cap = cap;
    }
    if (!pin) {
        pin = &blobs->pins[blobs->pin_count++];
        snprintf(pin->sha256, sizeof pin->sha256, "%s", sha256);
        pin->count = 0;
    }
    pin->count++;
    return 0;
}

int blob_pin(struct blobs *blobs, const char *sha256, struct err *err)
{
    pthread_mutex_lock(&blobs->lock);
    int rc = pin_locked(blobs, sha256, err);
    pthread_mutex_unlock(&blobs->lock);
    return rc;
}

void blob_unpin(struct blobs *blobs, const char *sha256)
{
    pthread_mutex_lock(&blobs->lock);
    struct pin *pin = pin_find(blobs, sha256);
    if (pin && --pin->count == 0)
        *pin = blobs->pins[--blobs->pin_count];
    pthread_mutex_unlock(&blobs->lock);
}

/* ---- names --------------------------------------------------------------------------------------------------------
 */

static bool is_sha256(const char *text)
{
    return strlen(text) == SHA256_HEX - 1 && strspn(text, "0123456789abcdef") == SHA256_HEX - 1;
}

int blob_path(struct blobs *blobs, const char *sha256, char *out, size_t size, struct err *err)
{
    if (!is_sha256(sha256))
        return err_set(err, ERR_NOT_FOUND, "there is no such blob");
    int n = snprintf(out, size, "%s/objects/%.2s/%.2s/%s", blobs->dir, sha256, sha256 + 2, sha256);
    return n < 0 || (size_t)n >= size ? err_set(err, ERR_IO, "path too long") : 0;
}

/* The folders aa (levels 1) and aa/bb (levels 2) of an object. */
static void object_dir(struct blobs *blobs, const char *sha256, int levels, char out[PATH_MAX])
{
    if (levels == 0)
        snprintf(out, PATH_MAX, "%s/objects", blobs->dir);
    else if (levels == 1)
        snprintf(out, PATH_MAX, "%s/objects/%.2s", blobs->dir, sha256);
    else
        snprintf(out, PATH_MAX, "%s/objects/%.2s/%.2s", blobs->dir, sha256, sha256 + 2);
}

/* Make aa/bb; a new folder's name is durable once its parent is synced. */
static int make_object_dir(struct blobs *blobs, const char *sha256, struct err *err)
{
    for (int levels = 1; levels <= 2; levels++) {
        char dir[PATH_MAX], parent[PATH_MAX];
        object_dir(blobs, sha256, levels, dir);
        object_dir(blobs, sha256, levels - 1, parent);
        if (mkdir(dir, 0755) == 0) {
            if (file_sync_dir(parent, err))
                return -1;
        } else if (errno != EEXIST) {
            return err_set_errno(err, ERR_IO, "cannot make a storage folder");
        }
    }
    return 0;
}

/* ---- open and close -----------------------------------------------------------------------------------------------
 */

static int make_layout(struct blobs *blobs, struct err *err)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof path, "%s/tmp", blobs->dir) >= (int)sizeof path - 100)
        return err_set(err, ERR_IO, "path too long");
    if (file_remove_tree(path, err) || file_make_dirs(path, err))
        return -1;
    object_dir(blobs, "", 0, path);
    return file_make_dirs(path, err);
}

struct blobs *blob_disk_open(const char *dir, int64_t min_free_bytes, struct err *err)
{
    struct blobs *blobs = calloc(1, sizeof *blobs);
    if (!blobs || !(blobs->dir = strdup(dir))) {
        err_set(err, ERR_NOMEM, "out of memory");
        free(blobs);
        return NULL;
    }
    blobs->min_free = min_free_bytes;
    pthread_mutex_init(&blobs->lock, NULL);
    if (!(blobs->checks = blob_checks_new(err)) || make_layout(blobs, err)) {
        blobs_close(blobs);
        return NULL;
    }
    return blobs;
}

void blobs_close(struct blobs *blobs)
{
    if (!blobs)
        return;
    pthread_mutex_destroy(&blobs->lock);
    blob_checks_free(blobs->checks);
    free(blobs->pins);
    free(blobs->dir);
    free(blobs);
}

void blobs_set_check_age(struct blobs *blobs, int64_t seconds)
{
    blob_checks_set_age(blobs->checks, seconds);
}

int64_t blob_free_bytes(struct blobs *blobs)
{
    struct statvfs st;
    if (statvfs(blobs->dir, &st))
        return 0;
    int64_t bytes = (int64_t)st.f_bavail * (int64_t)st.f_frsize - blobs->min_free;
    return bytes > 0 ? bytes : 0;
}

static int disk_full(struct err *err)
{
    return err_set(err, ERR_DISK_FULL,
                   "The server's disk is full; delete models, datasets or jobs, or give it more space.");
}

static int check_space(struct blobs *blobs, struct err *err)
{
    return blob_free_bytes(blobs) > 0 ? 0 : disk_full(err);
}

/* ---- writing ------------------------------------------------------------------------------------------------------
 */

static struct blob_put *put_new(struct blobs *blobs, struct err *err)
{
    struct blob_put *put = calloc(1, sizeof *put);
    if (!put) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    char id[ID_SIZE];
    id_new(id, "put");
    put->blobs = blobs;
    put->fd = -1;
    hash_init(&put->hash);
    snprintf(put->path, sizeof put->path, "%s/tmp/%s", blobs->dir, id);
    return put;
}

struct blob_put *blob_put_begin(struct blobs *blobs, struct err *err)
{
    if (check_space(blobs, err))
        return NULL;
    struct blob_put *put = put_new(blobs, err);
    if (!put)
        return NULL;
    put->fd = open(put->path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    put->ours = put->hashed_here = true;
    if (put->fd < 0) {
        err_set_errno(err, ERR_IO, "cannot create a temporary file");
        blob_put_free(put);
        return NULL;
    }
    return put;
}

int blob_put_write(struct blob_put *put, const void *bytes, size_t len, struct err *err)
{
    struct err why = {0};
    if (file_write_all(put->fd, bytes, len, &why))
        return why.code == ERR_DISK_FULL ? disk_full(err) : err_set(err, why.code, "%s", why.msg);
    hash_update(&put->hash, bytes, len);
    put->bytes += (int64_t)len;
    if (put->bytes - put->flushed < FLUSH_BYTES)
        return 0;
    /* start the disk now, so that the fsync at the end is short and dirty pages stay few */
    sync_file_range(put->fd, put->flushed, put->bytes - put->flushed, SYNC_FILE_RANGE_WRITE);
    put->flushed = put->bytes;
    return check_space(put->blobs, err);
}

int blob_put_end(struct blob_put *put, struct err *err)
{
    if (put->fd < 0)
        return 0;
    int rc = fchmod(put->fd, 0444) ? err_set_errno(err, ERR_IO, "cannot store the file") : 0;
    close(put->fd);
    put->fd = -1;
    return rc;
}

/* Of a file that was ended: what is refused before its commit never costs a sync. */
static int sync_put(const struct blob_put *put, struct err *err)
{
    int fd = open(put->path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    int rc = fd < 0 || fsync(fd) ? err_set_errno(err, ERR_IO, "cannot store the file") : 0;
    if (fd >= 0)
        close(fd);
    return rc;
}

int64_t blob_put_bytes(const struct blob_put *put)
{
    return put->bytes;
}

const struct hash *blob_put_hash(const struct blob_put *put)
{
    return &put->hash;
}

const char *blob_put_path(const struct blob_put *put)
{
    return put->path;
}

/* Is the object there, and whole? A damaged one is replaced by the bytes just written. */
static bool stored_whole(struct blob_put *put, const char *object)
{
    struct err ignored = {0};
    int fd = open(object, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    bool whole = fd >= 0 && blob_checks_verify(put->blobs->checks, put->sha256, fd, &ignored) == 0;
    if (fd >= 0)
        close(fd);
    return whole;
}

static void note_stored(const struct blob_put *put, const char *object)
{
    int fd = open(object, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return;
    blob_checks_note(put->blobs->checks, put->sha256, fd);
    close(fd);
}

/* Under the lock. */
static int name_object(struct blob_put *put, const char *object, struct err *err)
{
    char dir[PATH_MAX];
    if (make_object_dir(put->blobs, put->sha256, err))
        return -1;
    if (rename(put->path, object))
        return err_set_errno(err, ERR_IO, "cannot name a stored file");
    if (put->hashed_here)
        note_stored(put, object);
    object_dir(put->blobs, put->sha256, 2, dir);
    return file_sync_dir(dir, err);
}

static int publish(struct blob_put *put, struct err *err)
{
    char object[PATH_MAX];
    if (blob_path(put->blobs, put->sha256, object, sizeof object, err))
        return -1;
    if (blob_pin(put->blobs, put->sha256, err))
        return -1;
    put->committed = true;           /* from here blob_put_free takes the pin away */
    if (stored_whole(put, object)) { /* which may hash it: not under the lock. The pin keeps it */
        unlink(put->path);
        return 0;
    }
    pthread_mutex_lock(&put->blobs->lock);
    int rc = name_object(put, object, err);
    pthread_mutex_unlock(&put->blobs->lock);
    return rc;
}

int blob_put_commit(struct blob_put *put, char sha256[SHA256_HEX], struct err *err)
{
    struct stat st;
    hash_final(&put->hash, put->sha256);
    memcpy(sha256, put->sha256, SHA256_HEX);
    if (blob_put_end(put, err) || sync_put(put, err))
        return -1;
    if (stat(put->path, &st) || st.st_size != put->bytes)
        return err_set(err, ERR_CORRUPT, "A file is not as it was written: something else has touched it.");
    return publish(put, err);
}

void blob_put_free(struct blob_put *put)
{
    if (!put)
        return;
    if (put->fd >= 0)
        close(put->fd);
    if (put->ours)
        unlink(put->path); /* gone already after a commit */
    if (put->committed)
        blob_unpin(put->blobs, put->sha256);
    free(put);
}

int blob_put_take(struct blobs *blobs, const char *path, char sha256[SHA256_HEX], int64_t *bytes, struct err *err)
{
    struct blob_put *put = put_new(blobs, err);
    if (!put)
        return -1;
    int rc = -1;
    struct stat st;
    put->fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    put->ours = put->hashed_here = true;
    if (put->fd < 0 || fstat(put->fd, &st))
        err_set_errno(err, ERR_IO, "cannot open a finished file");
    else if (!S_ISREG(st.st_mode) || st.st_nlink != 1)
        err_set(err, ERR_IO, "a finished file is not a regular file of its own");
    else if (rename(path, put->path))
        err_set_errno(err, ERR_IO, "cannot take a finished file");
    else if (hash_fd(&put->hash, put->fd, &put->bytes, err) == 0)
        rc = blob_put_commit(put, sha256, err);
    *bytes = put->bytes;
    if (rc == 0)
        put->committed = false; /* the pin is the caller's now */
    blob_put_free(put);
    return rc;
}

int blob_put_adopt(struct blobs *blobs, const char *path, bool hashed, const char *sha256, struct err *err)
{
    struct blob_put *put = put_new(blobs, err);
    if (!put)
        return -1;
    int rc = -1;
    snprintf(put->path, sizeof put->path, "%s", path);
    snprintf(put->sha256, sizeof put->sha256, "%s", sha256);
    put->hashed_here = hashed;
    if (chmod(path, 0444))
        err_set_errno(err, ERR_IO, "cannot take a finished file");
    else
        rc = publish(put, err);
    blob_put_free(put);
    return rc;
}

/* ---- reading ------------------------------------------------------------------------------------------------------
 */

int blob_open(struct blobs *blobs, const char *sha256, int64_t *bytes, struct err *err)
{
    char path[PATH_MAX];
    struct stat st;
    if (blob_path(blobs, sha256, path, sizeof path, err))
        return -1;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, errno == ENOENT ? ERR_NOT_FOUND : ERR_IO, "cannot open a stored file");
    if (fstat(fd, &st)) {
        err_set_errno(err, ERR_IO, "cannot stat a stored file");
        close(fd);
        return -1;
    }
    if (blob_checks_verify(blobs->checks, sha256, fd, err)) {
        close(fd);
        return -1;
    }
    if (bytes)
        *bytes = st.st_size;
    return fd;
}

int blob_verify(struct blobs *blobs, const char *sha256, struct err *err)
{
    int fd = blob_open(blobs, sha256, NULL, err);
    if (fd < 0)
        return -1;
    close(fd);
    return 0;
}

/* ---- removing -----------------------------------------------------------------------------------------------------
 */

/* Under the lock. Folders that became empty go too; rmdir refuses the others. */
static int remove_object(struct blobs *blobs, const char *sha256, struct err *err)
{
    char path[PATH_MAX], dir[PATH_MAX];
    if (blob_path(blobs, sha256, path, sizeof path, err))
        return -1;
    if (unlink(path))
        return errno == ENOENT ? 0 : err_set_errno(err, ERR_IO, "cannot remove a stored file");
    for (int levels = 2; levels >= 1; levels--) {
        object_dir(blobs, sha256, levels, dir);
        if (rmdir(dir))
            break;
    }
    return 1;
}

int blob_collect(struct blobs *blobs, const char *sha256, blob_used_fn *used, void *arg, struct err *err)
{
    int rc = 0;
    pthread_mutex_lock(&blobs->lock);
    if (!pin_find(blobs, sha256) && used(arg, sha256) == 0)
        rc = remove_object(blobs, sha256, err);
    pthread_mutex_unlock(&blobs->lock);
    return rc;
}

/* Calls fn for every name in a folder that is `len` lower-case hex digits. */
static int each_name(const char *dir, size_t len, int (*fn)(void *arg, const char *name), void *arg)
{
    DIR *d = opendir(dir);
    if (!d)
        return errno == ENOENT ? 0 : -1;
    int rc = 0;
    const struct dirent *e;
    while (rc == 0 && (e = readdir(d)))
        if (strlen(e->d_name) == len && strspn(e->d_name, "0123456789abcdef") == len)
            rc = fn(arg, e->d_name);
    closedir(d);
    return rc;
}

struct sweep {
    struct blobs *blobs;
    blob_used_fn *used;
    void *arg;
    struct err *err;
    int removed;
    char a[3];
};

static int sweep_object(void *arg, const char *name)
{
    struct sweep *s = arg;
    int rc = blob_collect(s->blobs, name, s->used, s->arg, s->err);
    s->removed += rc > 0;
    return rc < 0 ? -1 : 0;
}

static int sweep_b(void *arg, const char *name)
{
    struct sweep *s = arg;
    char prefix[5], dir[PATH_MAX];
    snprintf(prefix, sizeof prefix, "%.2s%.2s", s->a, name);
    object_dir(s->blobs, prefix, 2, dir);
    return each_name(dir, SHA256_HEX - 1, sweep_object, s);
}

static int sweep_a(void *arg, const char *name)
{
    struct sweep *s = arg;
    char dir[PATH_MAX];
    snprintf(s->a, sizeof s->a, "%.2s", name);
    object_dir(s->blobs, s->a, 1, dir);
    return each_name(dir, 2, sweep_b, s);
}

int blob_sweep(struct blobs *blobs, blob_used_fn *used, void *arg, int *removed, struct err *err)
{
    struct sweep s = {.blobs = blobs, .used = used, .arg = arg, .err = err};
    char dir[PATH_MAX];
    object_dir(blobs, "", 0, dir);
    int rc = each_name(dir, 2, sweep_a, &s);
    *removed = s.removed;
    return rc ? err_set(err, ERR_IO, "cannot read the storage folder") : 0;
}
