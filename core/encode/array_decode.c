/* SPDX-License-Identifier: Apache-2.0
 * array_decode.c - see array_coding.h. Nothing that the input says is used before it is checked against the room there
 * is; tables and values inside an array are arrays again, of a kind that holds no others. */
#include <stdlib.h>
#include <string.h>

#include "core/encode/mix_models.h"
#include "core/encode/symbols.h"

enum { TABLE_MOST = 256, GAP_MOST = 255, COLS_MOST = ARRAY_MOST };

struct target {
    struct byte_reader *r;
    struct mix *mix;
    unsigned char *to;
    size_t n;
    unsigned width;
    bool rotate;
    int depth;
};

static int decode(struct byte_reader *r, struct mix *mix, unsigned char *bytes, size_t room, size_t *size, int depth,
                  struct err *err);

static int nomem(struct err *err)
{
    err_set(err, ERR_NOMEM, "out of memory while decoding");
    return -1;
}

/* ---- planes ---- */
static void join_1(const unsigned char *const p[8], unsigned char *to, size_t n)
{
    memcpy(to, p[0], n);
}

static void join_2(const unsigned char *const p[8], unsigned char *to, size_t n, bool rotate)
{
    const unsigned char *a = p[0], *b = p[1];
    for (size_t i = 0; i < n; i++) {
        const unsigned joined = (unsigned)a[i] << 8 | b[i];
        const uint16_t v = (uint16_t)(rotate ? joined >> 1 | joined << 15 : joined);
        memcpy(to + 2 * i, &v, 2);
    }
}

static void join_4(const unsigned char *const p[8], unsigned char *to, size_t n, bool rotate)
{
    const unsigned char *a = p[0], *b = p[1], *c = p[2], *d = p[3];
    const unsigned turn = rotate ? 1 : 0, back = (32 - turn) & 31;
    for (size_t i = 0; i < n; i++) {
        uint32_t v = (uint32_t)a[i] << 24 | (uint32_t)b[i] << 16 | (uint32_t)c[i] << 8 | d[i];
        v = v >> turn | v << back;
        memcpy(to + 4 * i, &v, 4);
    }
}

static void join_8(const unsigned char *const p[8], unsigned char *to, size_t n, bool rotate)
{
    for (size_t i = 0; i < n; i++) {
        uint64_t v = 0;
        for (int k = 0; k < 8; k++)
            v = v << 8 | p[k][i];
        v = rotate ? v >> 1 | v << 63 : v;
        memcpy(to + 8 * i, &v, 8);
    }
}

static int planes(const struct target *t, struct err *err)
{
    const unsigned char *plane[8] = {NULL};
    uint64_t cols = 0;
    unsigned char *room = malloc(t->n * t->width + 1);
    int rc = room ? read_varint(t->r, COLS_MOST, &cols, err) : nomem(err);
    if (rc == 0 && cols == 0)
        rc = damaged(err, "a matrix has no columns");
    for (unsigned p = 0; rc == 0 && p < t->width; p++) {
        const struct symbols_place place = {p ? plane[p - 1] : NULL, (size_t)cols};
        rc = symbols_decode(t->r, t->n, &place, t->mix, room + p * t->n, &plane[p], err);
    }
    if (rc == 0 && t->width == 1)
        join_1(plane, t->to, t->n);
    else if (rc == 0 && t->width == 2)
        join_2(plane, t->to, t->n, t->rotate);
    else if (rc == 0 && t->width == 4)
        join_4(plane, t->to, t->n, t->rotate);
    else if (rc == 0)
        join_8(plane, t->to, t->n, t->rotate);
    free(room);
    return rc;
}

/* ---- few distinct values ---- */
struct table {
    unsigned char bytes[TABLE_MOST * 8];
    size_t count;
};

static int read_table(const struct target *t, struct table *table, struct err *err)
{
    size_t size = 0;
    memset(table, 0, sizeof *table);
    if (decode(t->r, t->mix, table->bytes, TABLE_MOST * t->width, &size, t->depth + 1, err))
        return -1;
    table->count = size / t->width;
    return size % t->width ? damaged(err, "a table has elements of another size") : 0;
}

/* An index beyond the table finds zeros there. */
static void look_up(const struct target *t, const unsigned char *table, const unsigned char *index)
{
    if (t->width == 4)
        for (size_t i = 0; i < t->n; i++)
            memcpy(t->to + 4 * i, table + 4 * (size_t)index[i], 4);
    else
        for (size_t i = 0; i < t->n; i++)
            memcpy(t->to + t->width * i, table + t->width * (size_t)index[i], t->width);
}

static int codebook(const struct target *t, struct err *err)
{
    struct table table;
    const unsigned char *index = NULL;
    const struct symbols_place place = {NULL, 1};
    unsigned char *room = malloc(t->n + 1);
    int rc = room ? read_table(t, &table, err) : nomem(err);
    if (rc == 0)
        rc = symbols_decode(t->r, t->n, &place, t->mix, room, &index, err);
    if (rc == 0)
        look_up(t, table.bytes, index);
    free(room);
    return rc;
}

static int mixed(const struct target *t, struct err *err)
{
    struct table table;
    unsigned char bytes[(TABLE_MOST + 1) * 8] = {0}; /* with a zero in front */
    uint64_t cols = 0;
    unsigned char *index = calloc(t->n + 1, 1);
    int rc = index ? read_varint(t->r, COLS_MOST, &cols, err) : nomem(err);
    if (rc == 0 && cols == 0)
        rc = damaged(err, "a matrix has no columns");
    if (rc == 0)
        rc = read_table(t, &table, err);
    if (rc == 0 && (table.count == 0 || table.count > TABLE_MOST - 1))
        rc = damaged(err, "a table has no or too many values");
    if (rc == 0) {
        memcpy(bytes + t->width, table.bytes, table.count * t->width);
        mix_forget(t->mix);
        rc = mix_matrix(t->mix, index, t->n, (size_t)cols, (unsigned)table.count, err);
    }
    if (rc == 0)
        look_up(t, bytes, index);
    free(index);
    return rc;
}

/* ---- sparse ---- */
static int scatter(const struct target *t, const unsigned char *gap, size_t gaps, const unsigned char *values,
                   size_t kept, struct err *err)
{
    size_t at = 0, used = 0;
    const unsigned width = t->width;
    for (size_t i = 0; i < gaps; i++) {
        at += gap[i];
        if (gap[i] == GAP_MOST)
            continue;
        if (at >= t->n || used >= kept)
            return damaged(err, "gaps lead behind the end of a tensor");
        memcpy(t->to + at++ * width, values + used++ * width, width);
    }
    return used == kept ? 0 : damaged(err, "a tensor has more values than places");
}

static int sparse(const struct target *t, struct err *err)
{
    const struct symbols_place place = {NULL, 1};
    const unsigned char *gap = NULL;
    unsigned char *room = NULL, *values = NULL;
    uint64_t gaps = 0;
    size_t size = 0;
    memset(t->to, 0, t->n * t->width);
    if (read_varint(t->r, t->n + t->n / GAP_MOST + 1, &gaps, err))
        return -1;
    if (gaps == 0)
        return damaged(err, "a sparse tensor has no values");
    room = malloc((size_t)gaps);
    values = malloc(t->n * t->width + 1);
    int rc = room && values ? symbols_decode(t->r, (size_t)gaps, &place, t->mix, room, &gap, err) : nomem(err);
    if (rc == 0)
        rc = decode(t->r, t->mix, values, t->n * t->width, &size, t->depth + 1, err);
    if (rc == 0)
        rc = scatter(t, gap, (size_t)gaps, values, size / t->width, err);
    free(room);
    free(values);
    return rc;
}

static int raw(const struct target *t, struct err *err)
{
    const unsigned char *p;
    if (read_bytes(t->r, t->n * t->width, &p, err))
        return -1;
    memcpy(t->to, p, t->n * t->width);
    return 0;
}

static int decode(struct byte_reader *r, struct mix *mix, unsigned char *bytes, size_t room, size_t *size, int depth,
                  struct err *err)
{
    static int (*const kinds[ARRAY_KINDS])(const struct target *, struct err *) = {[ARRAY_RAW] = raw,
                                                                                   [ARRAY_PLANES] = planes,
                                                                                   [ARRAY_CODEBOOK] = codebook,
                                                                                   [ARRAY_SPARSE] = sparse,
                                                                                   [ARRAY_MIXED] = mixed};
    unsigned char head = 0;
    uint64_t n = 0;
    if (read_varint(r, room, &n, err) || read_byte(r, &head, err))
        return -1;
    const unsigned kind = head & 15;
    const struct target t = {r, mix, bytes, (size_t)n, 1u << (head >> 4 & 3), head >> 7, depth};
    if (kind >= ARRAY_KINDS || (head & 64) || (depth > 0 && kind > ARRAY_CODEBOOK) ||
        (depth > 1 && kind > ARRAY_PLANES))
        return damaged(err, "a coding of arrays is not known");
    if (n == 0 || n > room / t.width)
        return damaged(err, "a tensor is larger than its block");
    *size = t.n * t.width;
    return kinds[kind](&t, err);
}

int array_decode(struct byte_reader *r, struct mix *mix, unsigned char *bytes, size_t room, size_t *size,
                 struct err *err)
{
    if (decode(r, mix, bytes, room, size, 0, err))
        return -1;
    if (mix->failed)
        return nomem(err);
    return 0;
}
