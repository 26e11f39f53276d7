/* SPDX-License-Identifier: Apache-2.0
 * container_read.c - see container.h. A block is read whole, its CRC compared, then decoded into a buffer of at most
 * ARRAY_MOST bytes and handed out. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/encode/array_coding.h"
#include "core/encode/container.h"

enum { HEADER_MOST = 1 << 20, BLOCK_MOST = ARRAY_MOST + (1 << 20), MAGIC = 6 };

struct entry {
    char name[CONTAINER_NAME_MOST + 1];
    uint64_t bytes;
    unsigned char sha256[32];
};

struct reading {
    container_source *source;
    void *arg;
    const struct container_sink *sink;
    struct entry *files;
    int n_files, file; /* the one being made */
    uint64_t left;     /* of it */
    uint64_t all_left; /* of all files */
    bool open;
    struct hash hash;
    unsigned char *in, *out;
    struct err *err;
};

/* ---- bytes of the file ---- */
static int take(struct reading *r, unsigned char *to, size_t n)
{
    while (n > 0) {
        const long got = r->source(r->arg, to, n, r->err);
        if (got < 0)
            return -1;
        if (got == 0)
            return damaged(r->err, "it ends too early");
        to += got;
        n -= (size_t)got;
    }
    return 0;
}

/* A length as varint, its bytes to `seen` as well. */
static int take_length(struct reading *r, uint64_t max, uint64_t *len, uint32_t *crc)
{
    *len = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        unsigned char byte;
        if (take(r, &byte, 1))
            return -1;
        *crc = (uint32_t)crc32(*crc, &byte, 1);
        *len |= (uint64_t)(byte & 127) << shift;
        if (byte < 128)
            return *len <= max ? 0 : damaged(r->err, "a part is too long");
    }
    return damaged(r->err, "a part is too long");
}

static int check_crc(struct reading *r, uint32_t crc)
{
    unsigned char stored[4];
    if (take(r, stored, sizeof stored))
        return -1;
    for (int i = 0; i < 4; i++)
        if (stored[i] != (crc >> (8 * i) & 255))
            return damaged(r->err, "a checksum is wrong");
    return 0;
}

/* ---- header ---- */
static bool good_name(const char *name, size_t len)
{
    return len > 0 && memchr(name, 0, len) == NULL && memchr(name, '/', len) == NULL &&
           memchr(name, '\\', len) == NULL && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 &&
           utf8_valid(name, len);
}

static int read_entry(struct reading *r, struct byte_reader *h, struct entry *e, uint64_t *total, uint64_t max_bytes)
{
    uint64_t len;
    const unsigned char *p;
    if (read_varint(h, CONTAINER_NAME_MOST, &len, r->err) || read_bytes(h, (size_t)len, &p, r->err))
        return -1;
    memcpy(e->name, p, (size_t)len);
    e->name[len] = 0;
    if (!good_name(e->name, (size_t)len))
        return damaged(r->err, "the name of a file is no plain name");
    for (const struct entry *o = r->files; o < e; o++)
        if (!strcmp(o->name, e->name))
            return damaged(r->err, "two files have one name");
    if (read_varint(h, UINT64_MAX >> 2, &e->bytes, r->err) || read_bytes(h, sizeof e->sha256, &p, r->err))
        return -1;
    memcpy(e->sha256, p, sizeof e->sha256);
    if (e->bytes > max_bytes - *total)
        return err_set(r->err, ERR_TOO_LARGE, "the container says its files have more than %llu bytes, the limit",
                       (unsigned long long)max_bytes);
    *total += e->bytes;
    return 0;
}

static int read_header(struct reading *r, uint64_t max_bytes)
{
    unsigned char magic[MAGIC];
    uint64_t len, files, total = 0;
    uint32_t crc;
    const int rc = take(r, magic, MAGIC);
    if (rc && r->err->code != ERR_INVALID)
        return -1;
    if (rc || memcmp(magic, "PARED", 5)) {
        r->err->code = ERR_NONE; /* too short is no container either */
        return err_set(r->err, ERR_INVALID, "this is no .pared container");
    }
    if (magic[5] != CONTAINER_VERSION)
        return err_set(r->err, ERR_INVALID, "the container has format version %d; this program reads version %d",
                       magic[5], CONTAINER_VERSION);
    crc = (uint32_t)crc32(0, magic, MAGIC);
    if (take_length(r, HEADER_MOST, &len, &crc) || take(r, r->in, (size_t)len))
        return -1;
    if (check_crc(r, (uint32_t)crc32(crc, r->in, (uInt)len)))
        return -1;
    struct byte_reader h = {r->in, 0, (size_t)len};
    if (read_varint(&h, CONTAINER_FILES_MOST, &files, r->err))
        return -1;
    r->files = calloc((size_t)files + 1, sizeof *r->files);
    if (!r->files)
        return err_set(r->err, ERR_NOMEM, "out of memory while decoding");
    for (; r->n_files < (int)files; r->n_files++)
        if (read_entry(r, &h, &r->files[r->n_files], &total, max_bytes))
            return -1;
    r->all_left = total;
    return h.at == h.len ? 0 : damaged(r->err, "its header is too long");
}

/* ---- files ---- */
static int finish_file(struct reading *r)
{
    char hex[SHA256_HEX], want[SHA256_HEX];
    static const char digits[] = "0123456789abcdef";
    hash_final(&r->hash, hex);
    for (int i = 0; i < 32; i++) {
        want[2 * i] = digits[r->files[r->file].sha256[i] >> 4];
        want[2 * i + 1] = digits[r->files[r->file].sha256[i] & 15];
    }
    want[64] = 0;
    if (strcmp(hex, want))
        return damaged(r->err, "a file is not the one that was packed");
    r->open = false;
    r->file++;
    return r->sink->end(r->sink->arg, r->err);
}

/* Files that begin here, also empty ones. */
static int begin_files(struct reading *r)
{
    while (!r->open && r->file < r->n_files) {
        const struct entry *e = &r->files[r->file];
        if (r->sink->begin(r->sink->arg, r->file, r->n_files, e->name, e->bytes, r->err))
            return -1;
        hash_init(&r->hash);
        r->left = e->bytes;
        r->open = true;
        if (r->left == 0 && finish_file(r))
            return -1;
    }
    return 0;
}

static int hand_out(struct reading *r, const unsigned char *bytes, size_t n)
{
    while (n > 0) {
        if (!r->open)
            return damaged(r->err, "it holds more than its files");
        const size_t now = n < r->left ? n : (size_t)r->left;
        hash_update(&r->hash, bytes, now);
        if (r->sink->data(r->sink->arg, bytes, now, r->err))
            return -1;
        bytes += now;
        n -= now;
        r->left -= now;
        r->all_left -= now;
        if (r->left == 0 && (finish_file(r) || begin_files(r)))
            return -1;
    }
    return 0;
}

/* ---- blocks ---- */
/* out has `room` bytes: what the files still lack, at most ARRAY_MOST. */
static int decode_body(struct byte_reader *b, struct mix *mix, const unsigned char *text, size_t text_len,
                       unsigned char *out, size_t room, size_t *made, struct err *err)
{
    size_t used = 0, at = 0;
    uint64_t run;
    while (b->at < b->len) {
        size_t size = 0;
        if (read_varint(b, text_len - used, &run, err))
            return -1;
        if (run > room - at)
            return damaged(err, "a block is too large");
        memcpy(out + at, text + used, (size_t)run);
        at += (size_t)run;
        used += (size_t)run;
        if (array_decode(b, mix, out + at, room - at, &size, err))
            return -1;
        at += size;
    }
    if (text_len - used > room - at)
        return damaged(err, "a block is too large");
    memcpy(out + at, text + used, text_len - used);
    *made = at + text_len - used;
    return *made ? 0 : damaged(err, "a block is empty");
}

static int decode_block(struct reading *r, const unsigned char *body, size_t len, size_t *made)
{
    struct byte_reader b = {body, 0, len};
    struct mix mix;
    uint64_t coded, text_len;
    const unsigned char *p;
    unsigned char *text = NULL;
    const size_t room = r->all_left < ARRAY_MOST ? (size_t)r->all_left : ARRAY_MOST;
    if (read_varint(&b, len, &coded, r->err) || read_bytes(&b, (size_t)coded, &p, r->err) ||
        read_varint(&b, room, &text_len, r->err) || mix_init_decoder(&mix, p, (size_t)coded, r->err))
        return -1;
    int rc = (text = malloc((size_t)text_len + 1)) ? 0 : err_set(r->err, ERR_NOMEM, "out of memory while decoding");
    if (rc == 0 && text_len)
        rc = text_decode(&b, &mix, text, (size_t)text_len, r->err);
    if (rc == 0)
        rc = decode_body(&b, &mix, text, (size_t)text_len, r->out, room, made, r->err);
    if (rc == 0 && mix.failed)
        rc = err_set(r->err, ERR_NOMEM, "out of memory while decoding");
    free(text);
    mix_fini(&mix);
    return rc;
}

static int read_blocks(struct reading *r)
{
    if (begin_files(r))
        return -1;
    while (r->file < r->n_files) {
        uint64_t len;
        uint32_t crc = 0;
        size_t made = 0;
        if (take_length(r, BLOCK_MOST, &len, &crc) || take(r, r->in, (size_t)len) ||
            check_crc(r, (uint32_t)crc32(crc, r->in, (uInt)len)) || decode_block(r, r->in, (size_t)len, &made) ||
            hand_out(r, r->out, made))
            return -1;
    }
    unsigned char more;
    const long got = r->source(r->arg, &more, 1, r->err);
    if (got > 0)
        return damaged(r->err, "something follows its end");
    return got < 0 ? -1 : 0;
}

int container_read(container_source *source, void *source_arg, uint64_t max_bytes, const struct container_sink *sink,
                   struct err *err)
{
    struct err own = {0}, *e = err ? err : &own;
    struct reading r = {.source = source, .arg = source_arg, .sink = sink, .err = e};
    r.in = malloc(BLOCK_MOST);
    r.out = malloc(ARRAY_MOST);
    int rc = r.in && r.out ? 0 : err_set(e, ERR_NOMEM, "out of memory while decoding");
    if (rc == 0)
        rc = read_header(&r, max_bytes);
    if (rc == 0)
        rc = read_blocks(&r);
    free(r.in);
    free(r.out);
    free(r.files);
    return rc ? -1 : 0;
}
