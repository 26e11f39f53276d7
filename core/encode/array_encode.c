/* SPDX-License-Identifier: Apache-2.0
 * array_encode.c - see array_coding.h. Every coding that may pay is tried, its size measured, and the smallest done for
 * good. */
#include <stdlib.h>
#include <string.h>

#include "core/encode/mix_models.h"
#include "core/encode/symbols.h"

enum { TABLE_MOST = 256, HASH = 1024, GAP_MOST = 255 };

struct source {
    const unsigned char *bytes;
    size_t n;
    struct array_opts o;
    struct buf *out;
    struct mix *mix;
    struct array_made *made;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while coding");
}

static uint64_t element(const struct source *s, size_t i)
{
    const unsigned char *p = s->bytes + i * s->o.width;
    uint64_t v = 0;
    for (unsigned b = s->o.width; b-- > 0;)
        v = v << 8 | p[b];
    return v;
}

static void store(unsigned char *to, unsigned width, uint64_t v)
{
    for (unsigned b = 0; b < width; b++, v >>= 8)
        to[b] = (unsigned char)v;
}

static void put_head(const struct source *s, enum array_kind kind)
{
    const unsigned log = s->o.width == 8 ? 3 : s->o.width / 2;
    put_varint(s->out, s->n);
    put_byte(s->out, kind | log << 4 | (s->o.rotate ? 128u : 0u));
    s->made->kind = kind;
}

static bool uses_columns(const struct source *s)
{
    return s->o.adaptive;
}

static bool may_adapt(const struct source *s, size_t symbols)
{
    return s->o.adaptive && symbols <= s->o.adaptive_most;
}

/* ---- planes ---- */
static int planes(const struct source *s, struct err *err)
{
    const unsigned w = s->o.width, bits = 8 * w;
    unsigned char *plane = malloc(s->n * w + 1), *before = NULL;
    int rc = plane ? 0 : nomem(err);
    put_head(s, ARRAY_PLANES);
    if (rc == 0 && uses_columns(s))
        put_varint(s->out, s->o.cols);
    if (rc == 0 && !uses_columns(s))
        put_varint(s->out, 1);
    for (size_t i = 0; rc == 0 && i < s->n; i++) {
        uint64_t v = element(s, i);
        if (s->o.rotate)
            v = v << 1 | (v >> (bits - 1) & 1);
        for (unsigned p = 0; p < w; p++)
            plane[p * s->n + i] = (unsigned char)(v >> (8 * (w - 1 - p)));
    }
    for (unsigned p = 0; rc == 0 && p < w; p++) {
        const struct symbols_place place = {before, uses_columns(s) ? s->o.cols : 1};
        enum symbols_mode mode;
        rc = symbols_encode(plane + p * s->n, s->n, &place, may_adapt(s, s->n), s->o.only, s->out, s->mix, &mode, err);
        before = plane + p * s->n;
        s->made->first = p ? s->made->first : mode;
    }
    free(plane);
    return rc;
}

/* ---- few distinct values ---- */
struct table {
    uint64_t value[TABLE_MOST];
    unsigned count, most;
    uint16_t slot[HASH]; /* place in value + 1 */
};

static unsigned slot_of(const struct table *t, uint64_t v)
{
    unsigned at = (unsigned)((v * 0x9E3779B97F4A7C15u) >> 54);
    while (t->slot[at] && t->value[t->slot[at] - 1] != v)
        at = (at + 1) % HASH;
    return at;
}

static bool add(struct table *t, uint64_t v)
{
    const unsigned at = slot_of(t, v);
    if (t->slot[at])
        return true;
    if (t->count == t->most)
        return false;
    t->value[t->count++] = v;
    t->slot[at] = (uint16_t)t->count;
    return true;
}

static int by_bits(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* The distinct values in the order of their bits. False: more than `most`. */
static bool make_table(const struct source *s, struct table *t, unsigned most, bool skip_zeros)
{
    memset(t, 0, sizeof *t);
    t->most = most;
    for (size_t i = 0; i < s->n; i++) {
        const uint64_t v = element(s, i);
        if ((v || !skip_zeros) && !add(t, v))
            return false;
    }
    qsort(t->value, t->count, sizeof *t->value, by_bits);
    memset(t->slot, 0, sizeof t->slot);
    for (unsigned j = 0; j < t->count; j++) /* into places that are still free */
        t->slot[slot_of(t, t->value[j])] = (uint16_t)(j + 1);
    return true;
}

static int put_table(const struct source *s, const struct table *t, struct err *err)
{
    unsigned char bytes[TABLE_MOST * 8];
    struct array_made made;
    struct array_opts o = s->o;
    o.cols = 1;
    for (unsigned j = 0; j < t->count; j++)
        store(bytes + j * o.width, o.width, t->value[j]);
    const struct source table = {bytes, t->count, o, s->out, s->mix, &made};
    return planes(&table, err);
}

static int codebook(const struct source *s, const struct table *t, struct err *err)
{
    unsigned char *index = malloc(s->n + 1);
    if (!index)
        return nomem(err);
    put_head(s, ARRAY_CODEBOOK);
    int rc = put_table(s, t, err);
    for (size_t i = 0; i < s->n; i++)
        index[i] = (unsigned char)(t->slot[slot_of(t, element(s, i))] - 1);
    const struct symbols_place place = {NULL, 1};
    if (rc == 0)
        rc = symbols_encode(index, s->n, &place, may_adapt(s, s->n), s->o.only, s->out, s->mix, &s->made->first, err);
    free(index);
    return rc;
}

static int mixed(const struct source *s, const struct table *t, struct err *err)
{
    unsigned char *index = malloc(s->n + 1);
    if (!index)
        return nomem(err);
    put_head(s, ARRAY_MIXED);
    put_varint(s->out, s->o.cols);
    int rc = put_table(s, t, err);
    for (size_t i = 0; i < s->n; i++) {
        const uint64_t v = element(s, i);
        index[i] = (unsigned char)(v ? t->slot[slot_of(t, v)] : 0);
    }
    if (rc == 0) {
        mix_forget(s->mix);
        rc = mix_matrix(s->mix, index, s->n, s->o.cols, t->count, err);
    }
    s->made->first = SYMBOLS_MIXED;
    free(index);
    return rc;
}

/* ---- sparse ---- */
static int encode_best(const struct source *s, bool sparse_too, struct err *err);

static size_t make_gaps(const struct source *s, unsigned char *gap, unsigned char *values)
{
    size_t gaps = 0, kept = 0, last = 0;
    for (size_t i = 0; i < s->n; i++) {
        const uint64_t v = element(s, i);
        if (!v)
            continue;
        size_t run = i - last;
        for (; run >= GAP_MOST; run -= GAP_MOST)
            gap[gaps++] = GAP_MOST;
        gap[gaps++] = (unsigned char)run;
        last = i + 1;
        store(values + kept++ * s->o.width, s->o.width, v);
    }
    return gaps;
}

static int sparse(const struct source *s, size_t nonzero, struct err *err)
{
    unsigned char *gap = malloc(nonzero + s->n / GAP_MOST + 2), *values = malloc(nonzero * s->o.width + 1);
    struct array_made made = {0};
    struct array_opts o = s->o;
    int rc = gap && values ? 0 : nomem(err);
    if (rc == 0) {
        const size_t gaps = make_gaps(s, gap, values);
        const struct symbols_place place = {NULL, 1};
        put_head(s, ARRAY_SPARSE);
        put_varint(s->out, gaps);
        rc = symbols_encode(gap, gaps, &place, may_adapt(s, gaps), o.only, s->out, s->mix, &s->made->first, err);
        o.cols = 1;
        const struct source kept = {values, nonzero, o, s->out, s->mix, &made};
        if (rc == 0)
            rc = encode_best(&kept, false, err);
        s->made->values = made.kind;
    }
    free(gap);
    free(values);
    return rc;
}

/* ---- the best ---- */
static int raw(const struct source *s)
{
    put_head(s, ARRAY_RAW);
    s->made->first = SYMBOLS_RAW;
    buf_append(s->out, s->bytes, s->n * s->o.width);
    return 0;
}

struct facts {
    size_t nonzero;
    struct table all, kept; /* distinct values; those that are not 0 */
    bool few, few_kept;
};

static int encode_as(const struct source *s, enum array_kind kind, const struct facts *f, struct err *err)
{
    switch (kind) {
    case ARRAY_PLANES:
        return planes(s, err);
    case ARRAY_CODEBOOK:
        return codebook(s, &f->all, err);
    case ARRAY_SPARSE:
        return sparse(s, f->nonzero, err);
    case ARRAY_MIXED:
        return mixed(s, &f->kept, err);
    default:
        return raw(s);
    }
}

static int measure(const struct source *s, enum array_kind kind, const struct facts *f, double *size, struct err *err)
{
    struct mix trial;
    struct buf out = {0};
    struct array_made made;
    if (mix_trial(&trial, s->mix, err))
        return -1;
    const struct source try = {s->bytes, s->n, s->o, &out, &trial, &made};
    const int rc = encode_as(&try, kind, f, err);
    *size = (double)out.len + trial.bits / 8;
    buf_fini(&out);
    mix_fini(&trial);
    return rc;
}

static bool may_pay(const struct source *s, enum array_kind kind, const struct facts *f, bool sparse_too)
{
    switch (kind) {
    case ARRAY_CODEBOOK:
        return f->few && s->o.width > 1;
    case ARRAY_SPARSE:
        return sparse_too && f->nonzero > 0 && f->nonzero < s->n - s->n / 4;
    case ARRAY_PLANES: /* not the best of many elements with few values, and slow to try */
        return !(s->o.adaptive && sparse_too && s->o.width > 1 && f->few_kept && s->n > 65536);
    case ARRAY_MIXED:
        return s->o.adaptive && sparse_too && f->few_kept && f->kept.count > 0 &&
               (s->o.only < 0 || s->o.only == SYMBOLS_MIXED);
    default:
        return true;
    }
}

static int encode_best(const struct source *s, bool sparse_too, struct err *err)
{
    struct facts f = {0};
    enum array_kind best = ARRAY_RAW;
    double least = 0;
    f.few = make_table(s, &f.all, TABLE_MOST, false);
    f.few_kept = make_table(s, &f.kept, TABLE_MOST - 1, true);
    for (size_t i = 0; i < s->n; i++)
        f.nonzero += element(s, i) != 0;
    for (int kind = ARRAY_RAW; kind < ARRAY_KINDS; kind++) {
        double size = 0;
        if (!may_pay(s, (enum array_kind)kind, &f, sparse_too))
            continue;
        if (measure(s, (enum array_kind)kind, &f, &size, err))
            return -1;
        if (kind == ARRAY_RAW || size < least) {
            best = (enum array_kind)kind;
            least = size;
        }
    }
    return encode_as(s, best, &f, err);
}

int array_encode(const void *bytes, size_t n, const struct array_opts *o, struct buf *out, struct mix *mix,
                 struct array_made *made, struct err *err)
{
    const struct source s = {bytes, n, *o, out, mix, made};
    const int rc = encode_best(&s, true, err);
    return rc == 0 && (out->failed || mix->failed) ? nomem(err) : rc;
}
