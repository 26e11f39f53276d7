/* SPDX-License-Identifier: Apache-2.0
 * Two places to write to, a folder and an archive, behind one small interface; what is copied and when is the same. */
#include "server/backup.h"

#include <archive.h>
#include <archive_entry.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/arena.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "server/store.h"

enum { SNAPSHOTS = 10, CHUNK = 1 << 18, OBJECT_NAME = 100 };

struct written {
    const char *sha256;
    int64_t bytes;
};

struct sink {
    const char *to;
    struct archive *archive; /* NULL: a folder */
    char part[PATH_MAX];     /* the archive under way */
    struct written *written; /* an archive's files so far, sorted, as an archive cannot be asked */
    size_t n_written;
    char *chunk;
};

struct run {
    const struct backup *what;
    struct backup_figures *figures;
    struct sink sink;
    struct arena *arena;
};

static int join(char out[PATH_MAX], const char *dir, const char *name, struct err *err)
{
    int n = snprintf(out, PATH_MAX, "%s/%s", dir, name);
    return n < 0 || n >= PATH_MAX ? err_set(err, ERR_IO, "the path of '%s' is too long", name) : 0;
}

static void object_name(const char *sha256, char out[OBJECT_NAME])
{
    snprintf(out, OBJECT_NAME, "blobs/objects/%.2s/%.2s/%.64s", sha256, sha256 + 2, sha256);
}

/* ---- writing to a folder ------------------------------------------------------------------------------------------
 */

static int copy_bytes(int from, int to, char *chunk, struct err *err)
{
    ssize_t n;
    while ((n = read(from, chunk, CHUNK)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0 && file_write_all(to, chunk, (size_t)n, err))
            return -1;
    return n < 0 ? err_set_errno(err, ERR_IO, "a file cannot be read") : 0;
}

static int put_in_folder(struct sink *sink, const char *name, int fd, struct err *err)
{
    char path[PATH_MAX], dir[PATH_MAX];
    struct file_draft draft;
    if (join(path, sink->to, name, err))
        return -1;
    snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(path, '/') - path), path);
    if (file_make_dirs(dir, err) || file_draft_open(&draft, path, ".part", 0644, err))
        return -1;
    if (copy_bytes(fd, draft.fd, sink->chunk, err)) {
        file_draft_discard(&draft);
        return -1;
    }
    return file_draft_publish(&draft, err);
}

/* ---- writing to an archive ----------------------------------------------------------------------------------------
 */

static int archive_failed(struct archive *a, struct err *err)
{
    return err_set(err, archive_errno(a) == ENOSPC ? ERR_DISK_FULL : ERR_IO, "the archive cannot be written: %s",
                   archive_error_string(a) ? archive_error_string(a) : "unknown reason");
}

static int put_in_archive(struct sink *sink, const char *name, int fd, struct err *err)
{
    struct stat st;
    if (fstat(fd, &st))
        return err_set_errno(err, ERR_IO, "a file cannot be read");
    struct archive_entry *entry = archive_entry_new();
    if (!entry)
        return err_set(err, ERR_NOMEM, "out of memory");
    archive_entry_set_pathname(entry, name);
    archive_entry_set_size(entry, st.st_size);
    archive_entry_set_filetype(entry, AE_IFREG);
    archive_entry_set_perm(entry, 0600);
    archive_entry_set_mtime(entry, st.st_mtime, 0);
    int rc = archive_write_header(sink->archive, entry) == ARCHIVE_OK ? 0 : archive_failed(sink->archive, err);
    archive_entry_free(entry);
    off_t left = st.st_size;
    while (rc == 0 && left > 0) {
        ssize_t n = read(fd, sink->chunk, left < CHUNK ? (size_t)left : CHUNK);
        if (n <= 0)
            rc = err_set_errno(err, ERR_IO, "a file became shorter while it was read");
        else if (archive_write_data(sink->archive, sink->chunk, (size_t)n) != n)
            rc = archive_failed(sink->archive, err);
        left -= n;
    }
    return rc;
}

static int put(struct sink *sink, const char *name, int fd, struct err *err)
{
    return sink->archive ? put_in_archive(sink, name, fd, err) : put_in_folder(sink, name, fd, err);
}

static int compare(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Its size, or -1. */
static int64_t has(struct sink *sink, const char *sha256, const char *name)
{
    char path[PATH_MAX];
    struct err ignored = {0};
    struct stat st;
    if (sink->archive) {
        const struct written *found =
            sink->n_written ? bsearch(&sha256, sink->written, sink->n_written, sizeof *sink->written, compare) : NULL;
        return found ? found->bytes : -1;
    }
    return join(path, sink->to, name, &ignored) == 0 && stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

/* ---- what is copied -----------------------------------------------------------------------------------------------
 */

static int put_path(struct run *run, const char *path, const char *name, struct err *err)
{
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return err_set_errno(err, ERR_IO, "'%s'", name);
    int rc = put(&run->sink, name, fd, err);
    close(fd);
    return rc;
}

enum found { FOUND, VANISHED, DAMAGED };

/* 0 with what became of it, -1 when the backup cannot be written. */
static int copy_object(struct run *run, const char *sha256, enum found *found, int64_t *bytes, struct err *err)
{
    char name[OBJECT_NAME], path[PATH_MAX], hash[SHA256_HEX];
    struct err ignored = {0};
    struct stat st;
    object_name(sha256, name);
    if (join(path, run->what->data, name, err))
        return -1;
    /* what an earlier snapshot needed may be gone from the server: each needs fewer files, until one finds all of its
     * own */
    *found = FOUND;
    if ((*bytes = has(&run->sink, sha256, name)) >= 0)
        return 0;
    *found = VANISHED;
    int rc = 0, fd = open(path, O_RDONLY | O_NOFOLLOW | O_CLOEXEC); /* from here on it may be deleted */
    if (fd < 0 || fstat(fd, &st))
        goto out;
    *bytes = st.st_size;
    if (hash_file(path, hash, &ignored)) {
        *found = access(path, F_OK) ? VANISHED : DAMAGED;
        goto out;
    }
    *found = strcmp(hash, sha256) ? DAMAGED : FOUND;
    if (*found == FOUND)
        rc = put(&run->sink, name, fd, err);
    run->figures->copied += *found == FOUND;
out:
    if (fd >= 0)
        close(fd);
    return rc;
}

static void complain(struct run *run, const char *sha256, enum found found)
{
    char sentence[200];
    snprintf(sentence, sizeof sentence, "stored file %s is %s; it is not in the backup", sha256,
             found == DAMAGED ? "damaged (its SHA-256 is another)" : "missing");
    run->figures->left_out++;
    if (run->what->complain)
        run->what->complain(run->what->arg, sentence);
}

/* All files of one snapshot; *vanished counts those that were not there. `last`: they are told. */
static int copy_objects(struct run *run, const struct store_orphans *files, bool last, int *vanished, struct err *err)
{
    struct written *written =
        run->sink.archive ? arena_calloc(run->arena, (size_t)files->count + 1, sizeof *written) : NULL;
    size_t n_written = 0;
    struct backup_figures *figures = run->figures;
    if (run->sink.archive && !written)
        return err_set(err, ERR_NOMEM, "out of memory");
    *vanished = 0;
    figures->files = figures->bytes = figures->left_out = 0;
    for (int i = 0; i < files->count; i++) {
        enum found found;
        int64_t bytes = 0;
        if (copy_object(run, files->sha256[i], &found, &bytes, err))
            return -1;
        *vanished += found == VANISHED;
        if (found == FOUND) {
            figures->files++;
            figures->bytes += bytes;
            if (written)
                written[n_written++] = (struct written){files->sha256[i], bytes};
        } else if (found == DAMAGED || last) {
            complain(run, files->sha256[i], found);
        }
    }
    run->sink.written = written; /* sorted, as the list is */
    run->sink.n_written = n_written;
    return 0;
}

/* ---- what an earlier backup had more ------------------------------------------------------------------------------
 */

/* Calls itself for the two levels of folders above the objects. */
static void remove_others(const char *dir, int level, const struct store_orphans *files)
{
    DIR *d = opendir(dir);
    const struct dirent *e;
    while (d && (e = readdir(d))) {
        char path[PATH_MAX];
        const char *name = e->d_name;
        struct err ignored = {0};
        if (name[0] == '.' || join(path, dir, name, &ignored))
            continue;
        if (level < 2)
            remove_others(path, level + 1, files);
        else if (!bsearch(&name, files->sha256, (size_t)files->count, sizeof *files->sha256, compare))
            unlink(path);
    }
    if (d)
        closedir(d);
}

/* ---- begin and end ------------------------------------------------------------------------------------------------
 */

static bool ends_with(const char *text, const char *end)
{
    size_t a = strlen(text), b = strlen(end);
    return a > b && !strcmp(text + a - b, end);
}

static bool is_archive(const char *to)
{
    return ends_with(to, ".tar") || ends_with(to, ".tar.gz") || ends_with(to, ".tar.zst");
}

static int open_archive(struct sink *sink, struct err *err)
{
    int n = snprintf(sink->part, sizeof sink->part, "%s.part", sink->to);
    if (n < 0 || n >= (int)sizeof sink->part - 20)
        return err_set(err, ERR_USAGE, "--to: the path is too long");
    struct archive *a = archive_write_new();
    if (!a)
        return err_set(err, ERR_NOMEM, "out of memory");
    sink->archive = a;
    int rc = archive_write_set_format_pax_restricted(a);
    if (rc == ARCHIVE_OK && ends_with(sink->to, ".gz"))
        rc = archive_write_add_filter_gzip(a);
    if (rc == ARCHIVE_OK && ends_with(sink->to, ".zst"))
        rc = archive_write_add_filter_zstd(a);
    if (rc == ARCHIVE_OK)
        rc = archive_write_open_filename(a, sink->part);
    return rc == ARCHIVE_OK ? 0 : archive_failed(a, err);
}

/* A folder that is no data folder of a server: absent, empty, or an earlier backup. */
static int open_folder(struct sink *sink, struct err *err)
{
    char path[PATH_MAX];
    if (file_make_dirs(sink->to, err))
        return err_wrap(err, "--to '%s': ", sink->to);
    if (join(path, sink->to, "lock", err))
        return -1;
    if (access(path, F_OK) == 0)
        return err_set(err, ERR_IN_USE, "--to: '%s' is the data folder of a server; choose another one", sink->to);
    if (join(path, sink->to, "catalogue.db", err))
        return -1;
    if (access(path, F_OK) == 0)
        return 0;
    DIR *d = opendir(sink->to);
    const struct dirent *e;
    bool empty = d;
    while (d && empty && (e = readdir(d))) /* blobs: of a first backup that was cut short */
        empty = e->d_name[0] == '.' || !strcmp(e->d_name, "lost+found") || !strcmp(e->d_name, "blobs") ||
                !strncmp(e->d_name, "catalogue.new", 13);
    if (d)
        closedir(d);
    return empty ? 0
                 : err_set(err, ERR_USAGE, "--to: '%s' holds something else than an earlier backup; choose another one",
                           sink->to);
}

static int close_archive(struct sink *sink, bool keep, struct err *err)
{
    int rc = archive_write_close(sink->archive) == ARCHIVE_OK || !keep ? 0 : archive_failed(sink->archive, err);
    archive_write_free(sink->archive);
    int fd = keep && rc == 0 ? open(sink->part, O_RDONLY | O_CLOEXEC) : -1;
    if (keep && rc == 0 && (fd < 0 || fsync(fd) || rename(sink->part, sink->to)))
        rc = err_set_errno(err, ERR_IO, "--to '%s'", sink->to);
    if (fd >= 0)
        close(fd);
    if (!keep || rc)
        unlink(sink->part);
    return rc;
}

/* Snapshots until one is complete; its catalogue is written last, so a backup that was cut short is the one before. */
static int take(struct run *run, const char *catalogue, const char *copy, struct err *err)
{
    struct store_orphans files;
    int vanished = 1;
    for (int i = 0; i < SNAPSHOTS && vanished; i++) {
        unlink(copy);
        if (store_copy(catalogue, copy, run->arena, &files, err) ||
            copy_objects(run, &files, i == SNAPSHOTS - 1, &vanished, err))
            return -1;
    }
    char path[PATH_MAX];
    if (join(path, run->what->data, "node", err) || put_path(run, path, "node", err) ||
        put_path(run, copy, "catalogue.db", err))
        return -1;
    if (!run->sink.archive && join(path, run->sink.to, "blobs/objects", err) == 0)
        remove_others(path, 0, &files);
    return 0;
}

int backup_run(const struct backup *what, struct backup_figures *out, struct err *err)
{
    struct run run = {.what = what, .figures = out, .sink = {.to = what->to}};
    char catalogue[PATH_MAX], copy[PATH_MAX] = "";
    bool archive = is_archive(what->to);
    int rc = -1;
    *out = (struct backup_figures){0};
    if (join(catalogue, what->data, "catalogue.db", err))
        return -1;
    if (access(catalogue, R_OK))
        return err_set_errno(err, ERR_USAGE, "--data: '%s' is no data folder of a server", what->data);
    run.arena = arena_new();
    run.sink.chunk = malloc(CHUNK);
    if (!run.arena || !run.sink.chunk) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (archive ? open_archive(&run.sink, err) : open_folder(&run.sink, err))
        goto out;
    int n = snprintf(copy, sizeof copy, archive ? "%s.catalogue" : "%s/catalogue.new", what->to);
    rc =
        n < (int)sizeof copy ? take(&run, catalogue, copy, err) : err_set(err, ERR_USAGE, "--to: the path is too long");
    unlink(copy);
out:
    if (run.sink.archive && close_archive(&run.sink, rc == 0, err))
        rc = -1;
    free(run.sink.chunk);
    arena_free(run.arena);
    return rc;
}
