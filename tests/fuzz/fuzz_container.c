/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a container: read or refused with a sentence. So that a fuzzer gets behind the checksums, bytes that do
 * not begin with the magic are taken for the body of one block, which gets its header and CRC here. */
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "core/base/buf.h"
#include "core/encode/byte_io.h"
#include "core/encode/container.h"

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

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
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
