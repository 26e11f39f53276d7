/* SPDX-License-Identifier: Apache-2.0
 * Weights in files beside the model. A location out of a model is never a path: it must be a plain file name, is opened
 * relative to one folder without following links, and must be a regular file. Each file is mapped once; weights are
 * windows of the mapping. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/model/onnx_reader.h"

enum { LOCATION_MAX = 255 };

static const char *entry_of(const struct entries *e, const char *key)
{
    for (int i = 0; i < e->count; i++)
        if (e->at[i].key && !strcmp(e->at[i].key, key))
            return e->at[i].value ? e->at[i].value : "";
    return NULL;
}

/* A decimal number without sign or blanks. */
static int parse_size(struct reader *r, const char *key, const char *text, uint64_t *out)
{
    uint64_t v = 0;
    for (const char *p = text; *p; p++)
        if (*p < '0' || *p > '9' || __builtin_mul_overflow(v, (uint64_t)10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return err_set(r->err, ERR_MODEL, "external data has %s '%.40s', expected a number of bytes", key, text);
    if (!*text)
        return err_set(r->err, ERR_MODEL, "external data has an empty %s, expected a number of bytes", key);
    *out = v;
    return 0;
}

static int check_location(struct reader *r, const char *location)
{
    if (!location)
        return err_set(r->err, ERR_MODEL, "is stored externally but names no location");
    if (!*location || strlen(location) > LOCATION_MAX || strchr(location, '/') || strchr(location, '\\') ||
        !strcmp(location, ".") || strstr(location, ".."))
        return err_set(
            r->err, ERR_MODEL,
            "external data location '%.300s' is not allowed: it must be the plain name of a file beside the model",
            location);
    return 0;
}

static void unmap(void *data, size_t bytes)
{
    if (bytes) /* an empty file has no mapping */
        munmap(data, bytes);
}

/* fd of the location, -1 if there is none, -2 with an error. */
static int open_location(struct reader *r, const char *location)
{
    if (r->opts && r->opts->resolve) {
        int fd = r->opts->resolve(r->opts->resolve_arg, location);
        return fd < 0 ? -1 : fd;
    }
    if (!r->dir)
        return -1;
    int dir = open(r->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -1;
    int fd = openat(dir, location, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int reason = errno;
    close(dir);
    if (fd < 0 && reason == ELOOP) {
        err_set(r->err, ERR_MODEL, "external data file '%s' is a symbolic link, expected a regular file", location);
        return -2;
    }
    return fd < 0 ? -1 : fd;
}

static int map_file(struct reader *r, struct external_file *f, int fd)
{
    struct stat st;
    if (fstat(fd, &st))
        return err_set_errno(r->err, ERR_IO, "external data file '%s' cannot be read", f->location);
    if (!S_ISREG(st.st_mode))
        return err_set(r->err, ERR_MODEL, "external data file '%s' is no regular file", f->location);
    f->size = (size_t)st.st_size;
    static unsigned char nothing[8];
    void *data = f->size ? mmap(NULL, f->size, PROT_READ, MAP_PRIVATE, fd, 0) : nothing;
    if (data == MAP_FAILED)
        return err_set_errno(r->err, ERR_IO, "external data file '%s' cannot be mapped", f->location);
    f->map = tbuf_wrap(data, f->size, unmap, r->err);
    if (!f->map) {
        if (f->size)
            munmap(data, f->size);
        return -1;
    }
    tbuf_set_mapped(f->map);
    return model_keep_file(r->m, f->map) ? reader_nomem(r) : 0;
}

static struct external_file *find_file(struct reader *r, const char *location)
{
    for (struct external_file *f = r->external; f; f = f->next)
        if (!strcmp(f->location, location))
            return f;
    struct external_file *f = arena_calloc(r->scratch, 1, sizeof *f);
    if (!f) {
        reader_nomem(r);
        return NULL;
    }
    f->location = location;
    int fd = open_location(r, location);
    if (fd == -2)
        return NULL;
    if (fd < 0 && !(r->opts && r->opts->allow_missing_external)) {
        err_set(r->err, ERR_MODEL, "external data file '%s' is missing; give it together with the model", location);
        return NULL;
    }
    int rc = fd < 0 ? 0 : map_file(r, f, fd);
    if (fd >= 0 && !(r->opts && r->opts->resolve))
        close(fd);
    if (rc)
        return NULL;
    f->next = r->external;
    r->external = f;
    return f;
}

int read_external(struct reader *r, struct weight *w, size_t need)
{
    char text[SHAPE_TEXT];
    const char *location = entry_of(&w->external, "location");
    const char *offset_text = entry_of(&w->external, "offset"), *length_text = entry_of(&w->external, "length");
    uint64_t offset = 0, length = need;
    struct tensor *t = &w->tensor;
    if (t->dtype == DTYPE_STRING)
        return err_set(r->err, ERR_MODEL, "is stored externally, which is not possible for strings");
    if (check_location(r, location) || (offset_text && parse_size(r, "offset", offset_text, &offset)) ||
        (length_text && parse_size(r, "length", length_text, &length)))
        return -1;
    if (length != need)
        return err_set(r->err, ERR_MODEL, "external data has length %" PRIu64 ", but %s%s needs %zu", length,
                       dtype_name(t->dtype), shape_text(&t->shape, text), need);
    struct external_file *f = find_file(r, location);
    if (!f)
        return -1;
    if (!f->map)
        return 0; /* missing and allowed to be: no data */
    if (offset > f->size || need > f->size - offset)
        return err_set(r->err, ERR_MODEL,
                       "external data wants %zu bytes at offset %" PRIu64 " of '%s', which has only %zu", need, offset,
                       location, f->size);
    return read_window(r, t, (const unsigned char *)tbuf_data(f->map) + offset, f->map);
}
