/* SPDX-License-Identifier: Apache-2.0
 * Members are appended to one file while they stream out of libarchive, and an index of {name, offset, size} is kept;
 * at the end the file is mapped and the index sorted. Limits are checked on what really comes out, not only on what
 * headers say. */
#include "core/data/unpack.h"

#include <archive.h>
#include <archive_entry.h>
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

enum { MAX_MEMBERS = 20000000, MAX_NAME = 4096, CHUNK = 1 << 18, MEMBER_ALIGN = 64 };
static const size_t BOMB_FLOOR = (size_t)64 << 20, BOMB_RATIO = 1000;

/* A file being filled. */
struct sink {
    int fd;
    char path[PATH_MAX];
    size_t used, packed; /* bytes out, bytes of the packed file */
    const struct unpack_limits *limits;
    struct members *index;
    int64_t cap;
};

static int sink_open(struct sink *s, const char *dir, const char *name, const char *source, struct err *err)
{
    struct stat st;
    s->fd = -1;
    if (snprintf(s->path, sizeof s->path, "%s/%s", dir, name) >= (int)sizeof s->path)
        return err_set(err, ERR_IO, "cache path too long");
    if (stat(source, &st))
        return err_set_errno(err, ERR_DATASET, "cannot open the file");
    s->packed = (size_t)st.st_size;
    s->fd = open(s->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    return s->fd < 0 ? err_set_errno(err, ERR_IO, "cannot create a cache file") : 0;
}

static int check_size(const struct sink *s, size_t more, struct err *err)
{
    size_t limit = s->limits->max_bytes;
    if (more > limit || s->used > limit - more)
        return err_set(err, ERR_DATASET, "unpacks to more than the limit of %zu bytes", limit);
    size_t total = s->used + more;
    if (total > BOMB_FLOOR && total / BOMB_RATIO > s->packed)
        return err_set(err, ERR_DATASET, "unpacks to more than %zu times its %zu bytes: refused as a zip bomb",
                       BOMB_RATIO, s->packed);
    return 0;
}

static int sink_write(struct sink *s, const void *bytes, size_t len, struct err *err)
{
    if (check_size(s, len, err) || file_write_all(s->fd, bytes, len, err))
        return -1;
    s->used += len;
    return 0;
}

/* Zeros up to where a member may begin: arrays are read where they lie, and an .npy header is a multiple of 64. */
static int sink_align(struct sink *s, struct err *err)
{
    static const char zeros[MEMBER_ALIGN];
    const size_t over = s->used % MEMBER_ALIGN;
    return over ? sink_write(s, zeros, MEMBER_ALIGN - over, err) : 0;
}

static int add_member(struct sink *s, const char *name, size_t start, struct err *err)
{
    struct members *m = s->index;
    if (m->count >= MAX_MEMBERS)
        return err_set(err, ERR_DATASET, "more than %d members", MAX_MEMBERS);
    if (m->count == s->cap) {
        int64_t cap = s->cap ? s->cap * 2 : 256;
        struct member *grown = realloc(m->at, (size_t)cap * sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        m->at = grown;
        s->cap = cap;
    }
    char *copy = strdup(name);
    if (!copy)
        return err_set(err, ERR_NOMEM, "out of memory");
    struct member *member = &m->at[m->count++];
    member->name = copy;
    member->data = (const unsigned char *)(uintptr_t)start; /* an offset until sink_finish has mapped the file */
    member->size = s->used - start;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(((const struct member *)a)->name, ((const struct member *)b)->name);
}

/* Map what was written; until here `data` held offsets. */
static int sink_finish(struct sink *s, struct err *err)
{
    struct members *m = s->index;
    if (file_map_fd(&m->map, s->fd, err))
        return -1;
    for (int64_t i = 0; i < m->count; i++) /* all empty: nothing is mapped */
        m->at[i].data = m->map.data ? m->map.data + (uintptr_t)m->at[i].data : (const unsigned char *)"";
    if (m->count)
        qsort(m->at, (size_t)m->count, sizeof *m->at, by_name);
    return 0;
}

static int copy_entry(struct sink *s, struct archive *a, struct archive_entry *entry, const char *name, struct err *err)
{
    if (sink_align(s, err))
        return -1;
    size_t start = s->used;
    if (archive_entry_size_is_set(entry)) {
        int64_t declared = archive_entry_size(entry);
        if (declared < 0 || check_size(s, (size_t)declared, err))
            return declared < 0 ? err_set(err, ERR_DATASET, "declares a negative size") : -1;
    }
    char *chunk = malloc(CHUNK);
    ssize_t n = -1;
    int rc = chunk ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    while (rc == 0 && (n = archive_read_data(a, chunk, CHUNK)) > 0)
        rc = sink_write(s, chunk, (size_t)n, err);
    free(chunk);
    if (rc == 0 && n < 0)
        rc = err_set(err, ERR_DATASET, "cannot be unpacked: %s",
                     archive_error_string(a) ? archive_error_string(a) : "damaged");
    return rc ? rc : add_member(s, name, start, err);
}

static int copy_entries(struct sink *s, struct archive *a, bool (*want)(const char *name), struct err *err)
{
    struct archive_entry *entry;
    int status;
    while ((status = archive_read_next_header(a, &entry)) == ARCHIVE_OK || status == ARCHIVE_WARN) {
        const char *name = archive_entry_pathname(entry);
        if (archive_entry_filetype(entry) != AE_IFREG)
            continue;
        if (!name || strlen(name) > MAX_NAME)
            return err_set(err, ERR_DATASET, "a member's name is missing or longer than %d bytes", MAX_NAME);
        if (strncmp(name, "./", 2) == 0)
            name += 2;
        if (want && !want(name))
            continue;
        if (copy_entry(s, a, entry, name, err))
            return err_wrap(err, "member '%.200s': ", name);
    }
    if (status != ARCHIVE_EOF)
        return err_set(err, ERR_DATASET, "damaged archive: %s",
                       archive_error_string(a) ? archive_error_string(a) : "unreadable");
    return 0;
}

static int finish(struct sink *s, int rc, struct err *err)
{
    if (rc == 0)
        rc = sink_finish(s, err);
    if (s->fd >= 0)
        close(s->fd);
    if (rc) {
        unlink(s->path);
        for (int64_t i = 0; i < s->index->count; i++) /* data holds offsets, not memory */
            free(s->index->at[i].name);
        free(s->index->at);
        *s->index = (struct members){0};
    }
    return rc;
}

int unpack_archive(struct members *out, const char *path, const char *cache_dir, const char *cache_name,
                   const struct unpack_limits *limits, bool (*want)(const char *name), struct err *err)
{
    *out = (struct members){0};
    struct sink s = {.fd = -1, .limits = limits, .index = out};
    struct archive *a = archive_read_new();
    int rc = a ? sink_open(&s, cache_dir, cache_name, path, err) : err_set(err, ERR_NOMEM, "out of memory");
    if (rc == 0) {
        archive_read_support_filter_gzip(a);
        archive_read_support_filter_zstd(a);
        archive_read_support_format_tar(a);
        archive_read_support_format_zip_seekable(a);
        if (archive_read_open_filename(a, path, CHUNK) != ARCHIVE_OK) /* a zip is known by the directory at its end */
            rc = err_set(
                err, ERR_DATASET,
                "the archive (tar, tar.gz or zip) is damaged, empty or cut short: its directory cannot be read");
        else
            rc = copy_entries(&s, a, want, err);
    }
    rc = finish(&s, rc, err);
    archive_read_free(a);
    return rc;
}

static int copy_file(struct sink *s, const char *path, const char *name, struct err *err)
{
    struct file_map map;
    if (sink_align(s, err) || file_map_open(&map, path, err))
        return -1;
    size_t start = s->used;
    int rc = sink_write(s, map.data, map.size, err);
    file_map_close(&map);
    return rc ? rc : add_member(s, name, start, err);
}

int unpack_folder(struct members *out, const char *path, const char *cache_dir, const char *cache_name,
                  const struct unpack_limits *limits, bool (*want)(const char *name), struct err *err)
{
    *out = (struct members){0};
    struct sink s = {.fd = -1, .limits = limits, .index = out};
    char root[PATH_MAX];
    if (snprintf(root, sizeof root, "%s", path) >= (int)sizeof root)
        return err_set(err, ERR_DATASET, "path too long");
    int rc = sink_open(&s, cache_dir, cache_name, path, err);
    s.packed = SIZE_MAX; /* nothing is packed here: only the total is limited */
    FTS *fts = rc ? NULL : fts_open((char *[]){root, NULL}, FTS_PHYSICAL | FTS_NOCHDIR, NULL);
    size_t skip = strlen(root);
    while (skip && root[skip - 1] == '/')
        skip--;
    for (FTSENT *e; rc == 0 && fts && (e = fts_read(fts));) {
        const char *name = e->fts_path + skip;
        while (*name == '/')
            name++;
        if (e->fts_info == FTS_F && (!want || want(name)) && copy_file(&s, e->fts_path, name, err))
            rc = err_wrap(err, "file '%.200s': ", name);
    }
    if (fts)
        fts_close(fts);
    return finish(&s, rc, err);
}

int unpack_gzip(struct file_map *out, const char *path, const char *cache_dir, const char *cache_name,
                const struct unpack_limits *limits, struct err *err)
{
    struct members none = {0};
    struct sink s = {.fd = -1, .limits = limits, .index = &none};
    *out = (struct file_map){0};
    int rc = sink_open(&s, cache_dir, cache_name, path, err);
    gzFile gz = rc ? NULL : gzopen(path, "rbe");
    char *chunk = gz ? malloc(CHUNK) : NULL;
    if (rc == 0 && !chunk)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    int n = 0;
    while (rc == 0 && (n = gzread(gz, chunk, CHUNK)) > 0)
        rc = sink_write(&s, chunk, (size_t)n, err);
    if (rc == 0) {
        int code;
        const char *why = gzerror(gz, &code), *colon = why ? strrchr(why, ':') : NULL;
        if (colon && colon[1] == ' ') /* zlib puts the path before its reason: no business of a client */
            why = colon + 2;
        if (n < 0 || (code != Z_OK && code != Z_STREAM_END))
            rc = err_set(err, ERR_DATASET, "damaged gzip file: %s", why && *why ? why : "cut short");
    }
    free(chunk);
    if (gz && gzclose(gz) == Z_BUF_ERROR && rc == 0)
        rc = err_set(err, ERR_DATASET, "damaged gzip file: cut short");
    if (rc == 0)
        rc = file_map_fd(out, s.fd, err);
    if (s.fd >= 0)
        close(s.fd);
    if (rc)
        unlink(s.path);
    return rc;
}

void members_fini(struct members *members)
{
    for (int64_t i = 0; i < members->count; i++)
        free(members->at[i].name);
    free(members->at);
    file_map_close(&members->map);
    *members = (struct members){0};
}
