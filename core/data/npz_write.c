/* SPDX-License-Identifier: Apache-2.0
 * Zip (PKWARE APPNOTE 6.3) with method "stored", and npy format 1.0. Sizes and CRCs are known when the members are
 * copied in at the end, so every
 * header is written once, and the same arrays give the same bytes. */
#include "core/data/npz_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "core/base/buf.h"

enum { NPY_HEADER = 256, ZIP64_LOCAL = 20, ZIP_DATE = 0x21 /* 1980-01-01 */ };
enum { CHUNK = 1 << 14 };

struct member {
    char *name;         /* with .npy */
    FILE *spool;        /* the rows */
    struct tensor like; /* dtype and shape of the first piece */
    uint64_t rows, data_bytes, at, bytes;
    uint32_t crc;
    size_t text_width;
};

struct npz_writer {
    FILE *f;
    char *path;
    struct member *member;
    size_t n;
};

static int failed(struct err *err)
{
    return err_set_errno(err, ERR_IO, "the npz file could not be written");
}

static void put16(struct buf *b, unsigned x)
{
    buf_append(b, (unsigned char[]){(unsigned char)x, (unsigned char)(x >> 8)}, 2);
}

static void put32(struct buf *b, uint32_t x)
{
    put16(b, x & 0xffff);
    put16(b, x >> 16);
}

static void put64(struct buf *b, uint64_t x)
{
    put32(b, (uint32_t)x);
    put32(b, (uint32_t)(x >> 32));
}

static int flush(struct npz_writer *w, struct buf *b, struct err *err)
{
    int rc = 0;
    if (b->failed)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    else if (fwrite(b->data, 1, b->len, w->f) != b->len)
        rc = failed(err);
    buf_fini(b);
    return rc;
}

/* What numpy has in place of dtypes it does not know. */
static enum dtype stored_as(enum dtype d)
{
    if (d == DTYPE_BFLOAT16 || (dtype_kind(d) == 'f' && dtype_bits(d) <= 8))
        return DTYPE_FLOAT;
    if (dtype_bits(d) < 8)
        return dtype_kind(d) == 'i' ? DTYPE_INT8 : DTYPE_UINT8;
    return d;
}

static void descr_of(const struct member *w, char out[32])
{
    enum dtype d = stored_as(w->like.dtype);
    int bytes = dtype_bits(d) / 8;
    if (d == DTYPE_STRING)
        snprintf(out, 32, "|S%zu", w->text_width ? w->text_width : 1);
    else if (d == DTYPE_BOOL)
        snprintf(out, 32, "|b1");
    else
        snprintf(out, 32, "%c%c%d", bytes == 1 ? '|' : '<', dtype_kind(d), bytes);
}

/* The npy header, padded to NPY_HEADER bytes. */
static int npy_header(const struct member *w, unsigned char out[NPY_HEADER], struct err *err)
{
    struct buf text = {0};
    char descr[32];
    const struct shape *s = &w->like.shape;
    descr_of(w, descr);
    buf_printf(&text, "{'descr': '%s', 'fortran_order': False, 'shape': (", descr);
    for (int d = 0; d < s->rank; d++)
        buf_printf(&text, "%" PRIu64 ", ", d == 0 ? w->rows : (uint64_t)s->dim[d]);
    buf_puts(&text, "), }");
    if (text.failed || text.len > NPY_HEADER - 11) {
        buf_fini(&text);
        return err_set(err, ERR_INVALID, "an array of rank %d does not fit into an npy header", s->rank);
    }
    memset(out, ' ', NPY_HEADER);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = (NPY_HEADER - 10) & 0xff;
    out[9] = (NPY_HEADER - 10) >> 8;
    memcpy(out + 10, text.data, text.len);
    out[NPY_HEADER - 1] = '\n';
    buf_fini(&text);
    return 0;
}

/* What a member's local header and its entry in the directory have in common. */
static void member_fields(struct buf *b, const struct member *m)
{
    put16(b, 45);    /* needs zip64 */
    put16(b, 0x800); /* names are UTF-8 */
    put16(b, 0);     /* stored */
    put16(b, 0);
    put16(b, ZIP_DATE);
    put32(b, m->crc);
    put32(b, 0xffffffff); /* both sizes stand in the zip64 field */
    put32(b, 0xffffffff);
    put16(b, (unsigned)strlen(m->name));
}

static void local_header(struct buf *b, const struct member *m)
{
    put32(b, 0x04034b50);
    member_fields(b, m);
    put16(b, ZIP64_LOCAL);
    buf_puts(b, m->name);
    put16(b, 1);
    put16(b, 16);
    put64(b, m->bytes);
    put64(b, m->bytes);
}

struct npz_writer *npz_writer_new(const char *path, struct err *err)
{
    struct npz_writer *w = calloc(1, sizeof *w);
    if (!w || !(w->path = strdup(path))) {
        free(w);
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    w->f = fopen(path, "w+be");
    if (w->f)
        return w;
    err_set_errno(err, ERR_IO, "'%s' could not be made", path);
    free(w->path);
    free(w);
    return NULL;
}

/* An unnamed file in the result's folder (so that it lies on the same disk), or where tmpfile puts it. */
static FILE *open_spool(const char *path)
{
    const char *slash = strrchr(path, '/');
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int fd = dir ? open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600) : -1;
    free(dir);
    if (fd < 0)
        return tmpfile();
    FILE *f = fdopen(fd, "w+b");
    if (!f)
        close(fd);
    return f;
}

static struct member *add_member(struct npz_writer *w, const char *name, const struct tensor *t, struct err *err)
{
    size_t len = strlen(name) + 5;
    struct member *grown = realloc(w->member, (w->n + 1) * sizeof *grown);
    if (grown)
        w->member = grown;
    struct member m = {.name = malloc(len), .like = {.dtype = t->dtype, .shape = t->shape}};
    if (!grown || !m.name || len > 60000) {
        free(m.name);
        err_set(err, len > 60000 ? ERR_INVALID : ERR_NOMEM,
                len > 60000 ? "an output's name is too long for a zip file" : "out of memory");
        return NULL;
    }
    snprintf(m.name, len, "%s.npy", name);
    m.spool = open_spool(w->path);
    if (!m.spool) {
        free(m.name);
        failed(err);
        return NULL;
    }
    w->member[w->n] = m;
    return &w->member[w->n++];
}

static int put_bytes(struct member *w, const void *data, size_t n, struct err *err)
{
    if (n && fwrite(data, 1, n, w->spool) != n)
        return failed(err);
    w->data_bytes += n;
    return 0;
}

static int put_strings(struct member *w, const struct tensor *t, struct err *err)
{
    const struct dtype_string *s = t->data;
    int64_t n = tensor_count(t);
    if (w->text_width)
        return err_set(err, ERR_INVALID, "string outputs cannot be joined over batches; write them to a folder");
    w->text_width = 1;
    for (int64_t i = 0; i < n; i++)
        w->text_width = s[i].len > w->text_width ? s[i].len : w->text_width;
    char *cell = malloc(w->text_width);
    int rc = cell ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n && !rc; i++) {
        memset(cell, 0, w->text_width);
        if (s[i].len)
            memcpy(cell, s[i].data, s[i].len);
        rc = put_bytes(w, cell, w->text_width, err);
    }
    free(cell);
    return rc;
}

/* Elements in chunks that hold whole bytes of any packing. */
static int put_converted(struct member *w, const struct tensor *t, enum dtype as, struct err *err)
{
    float chunk[CHUNK]; /* the widest target */
    int64_t n = tensor_count(t);
    int bits = dtype_bits(t->dtype);
    for (int64_t i = 0; i < n; i += CHUNK) {
        int64_t m = n - i < CHUNK ? n - i : CHUNK;
        size_t bytes;
        if (!dtype_bytes(as, m, &bytes) || !dtype_convert(as, chunk, t->dtype, (const char *)t->data + i * bits / 8, m))
            return err_set(err, ERR_INVALID, "outputs of dtype %s cannot be written", dtype_name(t->dtype));
        if (put_bytes(w, chunk, bytes, err))
            return -1;
    }
    return 0;
}

static int check_piece(const struct member *w, const struct tensor *t, struct err *err)
{
    bool fits = w->like.dtype == t->dtype && w->like.shape.rank == t->shape.rank && t->shape.rank > 0;
    for (int d = 1; fits && d < t->shape.rank; d++)
        fits = w->like.shape.dim[d] == t->shape.dim[d];
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    return fits ? 0
                : err_set(err, ERR_INVALID,
                          "'%s' is %s%s in one batch and %s%s in another: they cannot be joined on axis 0", w->name,
                          dtype_name(w->like.dtype), shape_text(&w->like.shape, a), dtype_name(t->dtype),
                          shape_text(&t->shape, b));
}

static struct member *find_member(const struct npz_writer *w, const char *name)
{
    for (size_t i = 0; i < w->n; i++)
        if (!strncmp(w->member[i].name, name, strlen(name)) && !strcmp(w->member[i].name + strlen(name), ".npy"))
            return &w->member[i];
    return NULL;
}

int npz_rows(struct npz_writer *w, const char *name, const struct tensor *t, struct err *err)
{
    struct member *m = find_member(w, name);
    if (tensor_is_list(t))
        return err_set(err, ERR_INVALID, "'%s' is a sequence or an optional, which an .npz file cannot hold", name);
    if (m ? check_piece(m, t, err) : !(m = add_member(w, name, t, err)))
        return -1;
    m->rows += t->shape.rank > 0 ? (uint64_t)t->shape.dim[0] : 1;
    enum dtype as = stored_as(t->dtype);
    if (t->dtype == DTYPE_STRING)
        return put_strings(m, t, err);
    return as == t->dtype ? put_bytes(m, t->data, t->bytes, err) : put_converted(m, t, as, err);
}

/* The CRC of header and rows: a first reading of the spool. */
static int checksum(struct member *m, const unsigned char header[NPY_HEADER], unsigned char *chunk, struct err *err)
{
    size_t n;
    uLong crc = crc32_z(crc32_z(0, NULL, 0), header, NPY_HEADER);
    if (fflush(m->spool) || fseeko(m->spool, 0, SEEK_SET))
        return failed(err);
    while ((n = fread(chunk, 1, CHUNK, m->spool)) > 0)
        crc = crc32_z(crc, chunk, n);
    m->crc = (uint32_t)crc;
    return ferror(m->spool) || fseeko(m->spool, 0, SEEK_SET) ? failed(err) : 0;
}

static int write_member(struct npz_writer *w, struct member *m, struct err *err)
{
    unsigned char header[NPY_HEADER], chunk[CHUNK];
    struct buf b = {0};
    size_t n;
    if (npy_header(m, header, err) || checksum(m, header, chunk, err))
        return -1;
    m->at = (uint64_t)ftello(w->f);
    m->bytes = NPY_HEADER + m->data_bytes;
    local_header(&b, m);
    buf_append(&b, header, sizeof header);
    if (flush(w, &b, err))
        return -1;
    while ((n = fread(chunk, 1, CHUNK, m->spool)) > 0)
        if (fwrite(chunk, 1, n, w->f) != n)
            return failed(err);
    return ferror(m->spool) ? failed(err) : 0;
}

static void central_entry(struct buf *b, const struct member *m)
{
    put32(b, 0x02014b50);
    put16(b, 45); /* made by */
    member_fields(b, m);
    put16(b, 28); /* zip64 field */
    put16(b, 0);
    put16(b, 0);
    put16(b, 0);
    put32(b, 0);
    put32(b, 0xffffffff);
    buf_puts(b, m->name);
    put16(b, 1);
    put16(b, 24);
    put64(b, m->bytes);
    put64(b, m->bytes);
    put64(b, m->at);
}

static int write_directory(struct npz_writer *w, struct err *err)
{
    struct buf b = {0};
    uint64_t at = (uint64_t)ftello(w->f);
    for (size_t i = 0; i < w->n; i++)
        central_entry(&b, &w->member[i]);
    uint64_t size = b.len;
    put32(&b, 0x06064b50); /* zip64 end of central directory */
    put64(&b, 44);
    put16(&b, 45);
    put16(&b, 45);
    put32(&b, 0);
    put32(&b, 0);
    put64(&b, w->n);
    put64(&b, w->n);
    put64(&b, size);
    put64(&b, at);
    put32(&b, 0x07064b50); /* its locator */
    put32(&b, 0);
    put64(&b, at + size);
    put32(&b, 1);
    put32(&b, 0x06054b50);
    put16(&b, 0);
    put16(&b, 0);
    put16(&b, 0xffff);
    put16(&b, 0xffff);
    put32(&b, 0xffffffff);
    put32(&b, 0xffffffff);
    put16(&b, 0);
    return flush(w, &b, err);
}

int npz_writer_close(struct npz_writer *w, bool discard, struct err *err)
{
    if (!w)
        return 0;
    int rc = 0;
    for (size_t i = 0; i < w->n && !rc && !discard; i++)
        rc = write_member(w, &w->member[i], err);
    if (!rc && !discard)
        rc = write_directory(w, err);
    if (fclose(w->f) && !discard && !rc)
        rc = failed(err);
    if (rc || discard)
        unlink(w->path);
    for (size_t i = 0; i < w->n; i++) {
        fclose(w->member[i].spool);
        free(w->member[i].name);
    }
    free(w->member);
    free(w->path);
    free(w);
    return rc;
}
