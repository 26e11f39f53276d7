/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a container: read or refused with a sentence. So that a fuzzer gets behind the checksums, bytes that do
 * not begin with the magic are taken for the body of one block, which gets its header and CRC here.
 * Bytes that begin with "array" are elements: coded, decoded and compared, then decoded once more with some bytes of
 * the code changed; "text" is coded and decoded. Bytes that begin with "regions" are a model in which tensors are
 * looked for. */
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "core/base/buf.h"
#include "core/encode/array_coding.h"
#include "core/encode/container.h"
#include "core/encode/onnx_regions.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct input {
    const unsigned char *data;
    size_t at, len;
};

static long source(void *arg, void *bytes, size_t n, struct err *err)
{
    struct input *in = arg;
    (void)err;
    if (n > in->len - in->at)
        n = in->len - in->at;
    if (n)
        memcpy(bytes, in->data + in->at, n);
    in->at += n;
    return (long)n;
}

static int begin(void *arg, int file, int files, const char *name, uint64_t bytes, struct err *err)
{
    (void)arg, (void)err, (void)bytes;
    return file < files && name[0] ? 0 : -1;
}

static int data_of(void *arg, const void *bytes, size_t n, struct err *err)
{
    (void)arg, (void)err;
    unsigned char sum = 0;
    for (size_t i = 0; i < n; i++)
        sum ^= ((const unsigned char *)bytes)[i]; /* all of it is defined */
    *(volatile unsigned char *)arg = sum;
    return 0;
}

static int end(void *arg, struct err *err)
{
    (void)arg, (void)err;
    return 0;
}

static void part(struct buf *to, const char *magic, size_t magic_len, const void *bytes, size_t len)
{
    const size_t from = to->len;
    buf_append(to, magic, magic_len);
    put_varint(to, len);
    if (len)
        buf_append(to, bytes, len);
    const uint32_t crc = (uint32_t)crc32(0, (const Bytef *)to->data + from, (uInt)(to->len - from));
    for (int i = 0; i < 4; i++)
        put_byte(to, crc >> (8 * i) & 255);
}

static void must(bool holds)
{
    if (!holds)
        abort();
}

/* ---- "array", seven bytes of options, pairs of changes, elements */

static int decoded(const struct buf *coded, const struct buf *adaptive, unsigned char *bytes, size_t room, size_t *size)
{
    struct byte_reader r = {(const unsigned char *)coded->data, 0, coded->len};
    struct err err = {0};
    struct mix mix;
    must(mix_init_decoder(&mix, adaptive->data ? adaptive->data : "", adaptive->len, &err) == 0);
    const int rc = array_decode(&r, &mix, bytes, room, size, &err);
    must((rc == 0) == (err.code == ERR_NONE) && r.at <= r.len);
    mix_fini(&mix);
    return rc;
}

static void arrays(const uint8_t *data, size_t size)
{
    enum { OPTIONS = 7, MOST = 1024, MANY = 40, ROOM = MANY * MOST };
    if (size < OPTIONS)
        return;
    const size_t changes = data[6] % 8 * 2, lead = OPTIONS + changes, least = 1u << (data[0] & 3);
    if (size < lead + least)
        return;
    const struct array_opts o = {.width = 1u << (data[0] & 3),
                                 .rotate =
                                     (data[0] & 4) && (data[0] & 3), /* bytes are not rotated, see onnx_regions.c */
                                 .adaptive = data[0] & 8,
                                 .cols = 1 + (data[1] | (size_t)data[2] << 8),
                                 .adaptive_most = data[3] * 64u,
                                 .only = data[4] % (SYMBOLS_MODES + 1) - 1};
    const bool many = (data[5] & 2) && o.width == 1 && !o.adaptive; /* adaptive coding is slow */
    const size_t most = o.adaptive ? MOST / 16 : MOST, repeat = many ? MANY : 1 + data[5] % 2;
    const size_t n = (size - lead) / o.width < most ? (size - lead) / o.width : most;
    struct buf plain = {0}, coded = {0};
    struct err err = {0};
    struct array_made made;
    struct mix mix;
    size_t got = 0;
    unsigned char *bytes = malloc(ROOM * 2);
    for (size_t i = 0; i < repeat; i++)
        buf_append(&plain, data + lead, n * o.width);
    must(bytes && mix_init_encoder(&mix, &err) == 0);
    must(array_encode(plain.data, n * repeat, &o, &coded, &mix, &made, &err) == 0);
    mix_flush(&mix);
    must(decoded(&coded, &mix.out, bytes, plain.len, &got) == 0 && got == plain.len);
    must(memcmp(bytes, plain.data, got) == 0);
    for (size_t i = 0; i < changes; i += 2) {
        struct buf *to = data[OPTIONS + i] & 128 && mix.out.len ? &mix.out : &coded;
        to->data[data[OPTIONS + i] % to->len] ^= (char)data[OPTIONS + i + 1];
    }
    decoded(&coded, &mix.out, bytes, ROOM, &got);
    mix_fini(&mix);
    buf_fini(&coded);
    buf_fini(&plain);
    free(bytes);
}

/* ---- "text", a byte of options, text */

static void text(const uint8_t *data, size_t size)
{
    struct buf coded = {0};
    struct err err = {0};
    struct mix mix;
    const bool adaptive = size && data[0] & 1;
    if (size < 2)
        return;
    const size_t n = size - 1 < 1024 ? size - 1 : 1024;
    unsigned char *bytes = malloc(n);
    must(bytes && mix_init_encoder(&mix, &err) == 0);
    must(text_encode(data + 1, n, adaptive, &coded, &mix, &err) == 0);
    mix_flush(&mix);
    struct mix back;
    must(mix_init_decoder(&back, mix.out.data ? mix.out.data : "", mix.out.len, &err) == 0);
    struct byte_reader r = {(const unsigned char *)coded.data, 0, coded.len};
    must(text_decode(&r, &back, bytes, n, &err) == 0 && memcmp(bytes, data + 1, n) == 0);
    mix_fini(&back);
    mix_fini(&mix);
    buf_fini(&coded);
    free(bytes);
}

/* ---- "regions", a model */

static void find_regions(const uint8_t *data, size_t size)
{
    static const char *const external[] = {"a", "b.data"};
    static const size_t sizes[] = {1000, 70};
    struct regions r = {0};
    struct err err = {0};
    const int rc = regions_find(&r, data, size, external, sizes, 2, &err);
    must((rc == 0) == (err.code == ERR_NONE));
    for (size_t i = 0; rc == 0 && i < r.count; i++) {
        const struct region *at = &r.at[i], *before = i ? &r.at[i - 1] : NULL;
        const size_t whole = at->file ? sizes[at->file - 1] : size;
        must(at->bytes >= REGION_LEAST && at->at <= whole && at->bytes <= whole - at->at && at->cols && at->width);
        must(!before || before->file < at->file || (before->file == at->file && before->at + before->bytes <= at->at));
    }
    regions_fini(&r);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size >= 5 && memcmp(data, "array", 5) == 0) {
        arrays(data + 5, size - 5);
        return 0;
    }
    if (size >= 4 && memcmp(data, "text", 4) == 0) {
        text(data + 4, size - 4);
        return 0;
    }
    if (size >= 7 && memcmp(data, "regions", 7) == 0) {
        find_regions(data + 7, size - 7);
        return 0;
    }
    static const char header[] = "\1\1m\377\177"; /* one file "m" of 16 KiB - 1, then its hash */
    struct buf whole = {0}, head = {0};
    struct err err = {0};
    unsigned char seen;
    const struct container_sink sink = {begin, data_of, end, &seen};
    if (size >= 5 && !memcmp(data, "PARED", 5))
        buf_append(&whole, data, size);
    else {
        buf_append(&head, header, sizeof header - 1);
        for (int i = 0; i < 32; i++)
            put_byte(&head, 0);
        part(&whole, "PARED\1", 6, head.data, head.len);
        part(&whole, "", 0, data, size);
    }
    struct input in = {(const unsigned char *)whole.data, 0, whole.len};
    const int rc = container_read(source, &in, 1 << 22, &sink, &err);
    if (rc && err.code == ERR_NONE)
        abort(); /* a refusal has a sentence */
    buf_fini(&whole);
    buf_fini(&head);
    return 0;
}
