/* SPDX-License-Identifier: Apache-2.0
 * snapshot.c - see snapshot.h. Records are written to "<path>.part" as they come, hashed on the way; commit adds the
 * hash, makes the file durable and renames it. A writer that was killed leaves a .part file, which the next one
 * overwrites.
 *   "PAREDSNP"  u32 version  u32 bytes of key  key  padding
 *   each record: u32 bytes of name  u32 0  u64 bytes of data  name  padding  data  padding
 *   64 hex digits: sha256 of all before
 * Integers are little-endian; padding is zeros up to a multiple of 8. */
#include "core/base/snapshot.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/size.h"

enum { VERSION = 1, HEAD = 16, DIGITS = SHA256_HEX - 1, NAME_MAX_BYTES = 1 << 20 };
static const char magic[8] = {'P', 'A', 'R', 'E', 'D', 'S', 'N', 'P'};

struct snapshot_writer {
    struct file_draft draft;
    struct hash hash;
};

struct snapshot {
    struct file_map map;
    size_t first, end; /* of the records */
};

static void put_number(unsigned char *to, uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        to[i] = (unsigned char)(v >> (8 * i));
}

static uint64_t get_number(const unsigned char *from, int bytes)
{
    uint64_t v = 0;
    for (int i = 0; i < bytes; i++)
        v |= (uint64_t)from[i] << (8 * i);
    return v;
}

static size_t padded(size_t n)
{
    return (n + 7) & ~(size_t)7;
}

/* ---- writing ---- */

static int add(struct snapshot_writer *w, const void *data, size_t bytes, struct err *err)
{
    static const unsigned char zeros[8];
    const size_t more = padded(bytes) - bytes;
    hash_update(&w->hash, data, bytes);
    hash_update(&w->hash, zeros, more);
    return file_write_all(w->draft.fd, data, bytes, err) || file_write_all(w->draft.fd, zeros, more, err) ? -1 : 0;
}

struct snapshot_writer *snapshot_begin(const char *path, const char *key, struct err *err)
{
    unsigned char head[HEAD];
    const size_t key_bytes = strlen(key);
    if (key_bytes > NAME_MAX_BYTES) {
        err_set(err, ERR_INTERNAL, "a snapshot's key of %zu bytes", key_bytes);
        return NULL;
    }
    struct snapshot_writer *w = malloc(sizeof *w);
    if (!w) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    if (file_draft_open(&w->draft, path, ".part", 0600, err)) {
        err_wrap(err, "a snapshot: ");
        free(w);
        return NULL;
    }
    hash_init(&w->hash);
    memcpy(head, magic, sizeof magic);
    put_number(head + 8, VERSION, 4);
    put_number(head + 12, key_bytes, 4);
    if (add(w, head, sizeof head, err) || add(w, key, key_bytes, err)) {
        snapshot_abandon(w);
        return NULL;
    }
    return w;
}

int snapshot_put(struct snapshot_writer *w, const char *name, const void *data, size_t bytes, struct err *err)
{
    unsigned char head[HEAD];
    const size_t name_bytes = strlen(name);
    if (name_bytes > NAME_MAX_BYTES)
        return err_set(err, ERR_INTERNAL, "a snapshot's record has a name of %zu bytes", name_bytes);
    put_number(head, name_bytes, 8);
    put_number(head + 8, bytes, 8);
    return add(w, head, sizeof head, err) || add(w, name, name_bytes, err) || add(w, bytes ? data : "", bytes, err) ? -1
                                                                                                                    : 0;
}

int snapshot_commit(struct snapshot_writer *w, struct err *err)
{
    char digits[SHA256_HEX];
    hash_final(&w->hash, digits);
    int rc = file_write_all(w->draft.fd, digits, DIGITS, err);
    if (rc == 0 && file_draft_publish(&w->draft, err))
        rc = err_wrap(err, "a snapshot: ");
    snapshot_abandon(w);
    return rc;
}

void snapshot_abandon(struct snapshot_writer *w)
{
    if (!w)
        return;
    file_draft_discard(&w->draft);
    free(w);
}

/* ---- reading ---- */

/* The record at *at: its name, data and the place behind it. False: it does not lie within the records. */
static bool next_record(const struct snapshot *s, size_t *at, const char **name, size_t *name_bytes, const void **data,
                        size_t *bytes)
{
    const unsigned char *p = s->map.data + *at;
    size_t left = s->end - *at;
    if (left < HEAD)
        return false;
    const uint64_t of_name = get_number(p, 8), of_data = get_number(p + 8, 8);
    left -= HEAD;
    if (of_name > left || padded((size_t)of_name) > left)
        return false;
    *name = (const char *)p + HEAD;
    *name_bytes = (size_t)of_name;
    left -= padded((size_t)of_name);
    if (of_data > left || padded((size_t)of_data) > left)
        return false;
    *data = p + HEAD + padded((size_t)of_name);
    *bytes = (size_t)of_data;
    *at += HEAD + padded((size_t)of_name) + padded((size_t)of_data);
    return true;
}

/* NULL, or why it cannot be used. */
static const char *check(struct snapshot *s, const char *key)
{
    const struct file_map *map = &s->map;
    const size_t key_bytes = strlen(key);
    char digits[SHA256_HEX];
    if (map->size < HEAD + DIGITS || memcmp(map->data, magic, sizeof magic) != 0)
        return "it is no snapshot";
    if (get_number(map->data + 8, 4) != VERSION)
        return "it is of another version";
    s->end = map->size - DIGITS;
    hash_bytes(map->data, s->end, digits);
    if (memcmp(digits, map->data + s->end, DIGITS) != 0)
        return "its checksum does not fit: it is not whole, or was changed";
    const size_t own = (size_t)get_number(map->data + 12, 4);
    if (own > s->end - HEAD || padded(own) > s->end - HEAD)
        return "its key does not lie within it";
    if (own != key_bytes || memcmp(map->data + HEAD, key, own) != 0)
        return "it belongs to another model, recipe, data or version";
    s->first = HEAD + padded(own);
    for (size_t at = s->first; at < s->end;) {
        const char *name;
        const void *data;
        size_t of_name, of_data;
        if (!next_record(s, &at, &name, &of_name, &data, &of_data))
            return "a record does not lie within it";
    }
    return NULL;
}

struct snapshot *snapshot_open(const char *path, const char *key, const char **why)
{
    struct err err = {0};
    const char *unused = NULL;
    struct stat st;
    why = why ? why : &unused;
    *why = NULL;
    if (lstat(path, &st) && errno == ENOENT)
        return NULL;
    struct snapshot *s = calloc(1, sizeof *s);
    if (!s) {
        *why = "memory is out";
        return NULL;
    }
    *why = file_map_open(&s->map, path, &err) ? "it cannot be read" : check(s, key);
    if (!*why)
        return s;
    snapshot_close(s);
    return NULL;
}

void snapshot_close(struct snapshot *s)
{
    if (s)
        file_map_close(&s->map);
    free(s);
}

const void *snapshot_get(const struct snapshot *s, const char *name, size_t *bytes)
{
    const size_t wanted = strlen(name);
    for (size_t at = s->first; at < s->end;) {
        const char *own;
        const void *data;
        size_t of_name, of_data;
        if (!next_record(s, &at, &own, &of_name, &data, &of_data))
            return NULL;
        if (of_name != wanted || memcmp(own, name, wanted) != 0)
            continue;
        if (bytes)
            *bytes = of_data;
        return data;
    }
    return NULL;
}
