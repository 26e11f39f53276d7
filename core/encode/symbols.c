/* SPDX-License-Identifier: Apache-2.0
 * symbols.c - see symbols.h. Sizes of Huffman and rANS follow from counts; the adaptive mode is tried on a coder that
 * only adds up bits. */
#include "core/encode/symbols.h"

#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "core/encode/huffman.h"
#include "core/encode/mix_models.h"
#include "core/encode/rans.h"

int mix_trial(struct mix *trial, const struct mix *m, struct err *err)
{
    if (mix_init_encoder(trial, err))
        return -1;
    memcpy(trial->weight, m->weight, sizeof trial->weight);
    trial->dry = true;
    return 0;
}

static size_t varint_bytes(uint64_t v)
{
    size_t n = 1;
    for (; v > 127; v >>= 7)
        n++;
    return n;
}

static bool allowed(int only, enum symbols_mode mode)
{
    return only < 0 || only == (int)mode;
}

static enum symbols_mode best_static(const uint64_t count[256], size_t n, int only, size_t *size)
{
    int distinct = 0;
    enum symbols_mode best = SYMBOLS_RAW;
    *size = n;
    for (int s = 0; s < 256; s++)
        distinct += count[s] > 0;
    if (distinct == 1) {
        *size = 1;
        return SYMBOLS_ONE;
    }
    const size_t huffman = huffman_size(count), rans = rans_size(count, n);
    if (allowed(only, SYMBOLS_HUFFMAN) && huffman + varint_bytes(huffman) < *size) {
        *size = huffman + varint_bytes(huffman);
        best = SYMBOLS_HUFFMAN;
    }
    if (allowed(only, SYMBOLS_RANS) && rans + varint_bytes(rans) < *size) {
        *size = rans + varint_bytes(rans);
        best = SYMBOLS_RANS;
    }
    /* what saves less than a quarter of a hundredth is not worth the time of decoding */
    if (best != SYMBOLS_RAW && *size > n - n / 400 && n > 4096)
        best = SYMBOLS_RAW;
    return best;
}

static int measure_mixed(const unsigned char *s, size_t n, const struct symbols_place *place, const struct mix *mix,
                         double *bytes, struct err *err)
{
    struct mix trial;
    if (mix_trial(&trial, mix, err))
        return -1;
    mix_plane(&trial, (unsigned char *)s, place->before, n, place->cols); /* encoding writes what was there */
    *bytes = trial.bits / 8;
    const int rc = trial.failed ? err_set(err, ERR_NOMEM, "out of memory while coding") : 0;
    mix_fini(&trial);
    return rc;
}

static int put_payload(const unsigned char *s, size_t n, enum symbols_mode mode, struct buf *out, struct err *err)
{
    struct buf payload = {0};
    int rc = 0;
    if (mode == SYMBOLS_HUFFMAN)
        huffman_encode(s, n, &payload);
    else
        rc = rans_encode(s, n, &payload, err);
    put_varint(out, payload.len);
    buf_append(out, payload.data, payload.len);
    if (payload.failed)
        rc = err_set(err, ERR_NOMEM, "out of memory while coding");
    buf_fini(&payload);
    return rc;
}

int symbols_encode(const unsigned char *s, size_t n, const struct symbols_place *place, bool adaptive, int only,
                   struct buf *out, struct mix *mix, enum symbols_mode *made, struct err *err)
{
    uint64_t count[256] = {0};
    size_t size;
    for (size_t i = 0; i < n; i++)
        count[s[i]]++;
    enum symbols_mode mode = best_static(count, n, only, &size);
    const bool noise = mode == SYMBOLS_RAW && n > 4096; /* mantissas */
    if (adaptive && !noise && mode != SYMBOLS_ONE && allowed(only, SYMBOLS_MIXED)) {
        double mixed = 0;
        if (measure_mixed(s, n, place, mix, &mixed, err))
            return -1;
        mode = mixed < (double)size ? SYMBOLS_MIXED : mode;
    }
    *made = mode;
    put_byte(out, mode);
    if (mode == SYMBOLS_RAW)
        buf_append(out, s, n);
    else if (mode == SYMBOLS_ONE)
        put_byte(out, s[0]);
    else if (mode == SYMBOLS_MIXED) {
        mix_forget(mix);
        mix_plane(mix, (unsigned char *)s, place->before, n, place->cols);
    } else
        return put_payload(s, n, mode, out, err);
    return 0;
}

int symbols_decode(struct byte_reader *r, size_t n, const struct symbols_place *place, struct mix *mix,
                   unsigned char *room, const unsigned char **whole, struct err *err)
{
    unsigned char mode = 0, symbol = 0;
    const unsigned char *payload = NULL;
    uint64_t len = 0;
    *whole = room;
    if (read_byte(r, &mode, err))
        return -1;
    switch (mode) {
    case SYMBOLS_RAW:
        return read_bytes(r, n, whole, err);
    case SYMBOLS_ONE:
        if (read_byte(r, &symbol, err))
            return -1;
        memset(room, symbol, n);
        return 0;
    case SYMBOLS_MIXED:
        mix_forget(mix);
        mix_plane(mix, room, place->before, n, place->cols);
        return 0;
    case SYMBOLS_HUFFMAN:
    case SYMBOLS_RANS:
        if (read_varint(r, r->len, &len, err) || read_bytes(r, (size_t)len, &payload, err))
            return -1;
        return mode == SYMBOLS_HUFFMAN ? huffman_decode(payload, (size_t)len, room, n, err)
                                       : rans_decode(payload, (size_t)len, room, n, err);
    default:
        return damaged(err, "a coding of symbols is not known");
    }
}

/* ---- text ---- */
static int put_deflated(const unsigned char *bytes, size_t n, struct buf *out, bool *smaller, struct err *err)
{
    uLongf len = compressBound((uLong)n);
    unsigned char *room = malloc(len);
    if (!room || compress2(room, &len, bytes, (uLong)n, 9) != Z_OK) {
        free(room);
        return err_set(err, ERR_NOMEM, "out of memory while coding");
    }
    *smaller = len < n;
    if (*smaller) {
        put_byte(out, SYMBOLS_DEFLATE);
        put_varint(out, len);
        buf_append(out, room, len);
    }
    free(room);
    return 0;
}

int text_encode(const unsigned char *bytes, size_t n, bool adaptive, struct buf *out, struct mix *mix, struct err *err)
{
    bool done = false;
    if (adaptive) {
        put_byte(out, SYMBOLS_MIXED);
        mix_forget(mix);
        mix_text(mix, (unsigned char *)bytes, n);
        return 0;
    }
    if (put_deflated(bytes, n, out, &done, err))
        return -1;
    if (!done) {
        put_byte(out, SYMBOLS_RAW);
        buf_append(out, bytes, n);
    }
    return 0;
}

int text_decode(struct byte_reader *r, struct mix *mix, unsigned char *bytes, size_t n, struct err *err)
{
    unsigned char mode = 0;
    const unsigned char *payload = NULL;
    uint64_t len = 0;
    if (read_byte(r, &mode, err))
        return -1;
    if (mode == SYMBOLS_MIXED) {
        mix_forget(mix);
        mix_text(mix, bytes, n);
        return 0;
    }
    if (mode == SYMBOLS_RAW) {
        if (read_bytes(r, n, &payload, err))
            return -1;
        memcpy(bytes, payload, n);
        return 0;
    }
    if (mode != SYMBOLS_DEFLATE)
        return damaged(err, "a coding of text is not known");
    uLongf made = (uLongf)n;
    if (read_varint(r, r->len, &len, err) || read_bytes(r, (size_t)len, &payload, err))
        return -1;
    if (uncompress(bytes, &made, payload, (uLong)len) != Z_OK || made != n)
        return damaged(err, "its text cannot be unpacked");
    return 0;
}
