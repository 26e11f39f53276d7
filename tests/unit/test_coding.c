/* SPDX-License-Identifier: Apache-2.0
 * The coded bytes are read back by the libraries themselves, whose readers are not ours. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <zlib.h>
#include <zstd.h>

#include "server/coding.h"

static const struct {
    const char *accept;
    enum coding coding;
} choices[] = {
    {NULL, CODING_IDENTITY},
    {"", CODING_IDENTITY},
    {"identity", CODING_IDENTITY},
    {"br, deflate", CODING_IDENTITY},
    {"gzip", CODING_GZIP},
    {"x-gzip", CODING_GZIP},
    {"zstd", CODING_ZSTD},
    {"gzip, zstd", CODING_ZSTD},
    {"zstd;q=0.5, gzip;q=0.6", CODING_GZIP},
    {"zstd; q=0.5,gzip ;\tq=0.5", CODING_ZSTD},
    {"*", CODING_ZSTD},
    {"*;q=0", CODING_IDENTITY},
    {"*;q=0, gzip", CODING_GZIP},
    {"zstd;q=0, *", CODING_GZIP},
    {"zstd;q=0, gzip;q=0, *", CODING_IDENTITY},
    {"gzip;q=0", CODING_IDENTITY},
    {"gzip;q=0.000", CODING_IDENTITY},
    {"gzip;q=0.001", CODING_GZIP},
    {"identity;q=1, gzip;q=0.5", CODING_IDENTITY},
    {"identity;q=0, gzip;q=0.5", CODING_GZIP},
    {"gzip;q=-1", CODING_IDENTITY},
    {"gzip;q=7", CODING_IDENTITY},
    {"gzip;level=9;q=0.5", CODING_GZIP},
    {"gzip;level=9;q=0", CODING_IDENTITY},
    {"gzip;", CODING_GZIP},
    {"gzip;q", CODING_GZIP},
    {";;;,,,;", CODING_IDENTITY},
    {",, gzip,", CODING_GZIP},
    {"gzi", CODING_IDENTITY},
    {"gzipp", CODING_IDENTITY},
};

static void test_choice(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof choices / sizeof choices[0]; i++)
        if (coding_choose(choices[i].accept) != choices[i].coding)
            fail_msg("%s: %s", choices[i].accept, coding_name(coding_choose(choices[i].accept)));
}

static void test_useful(void **state)
{
    static const char *const yes[] = {"application/json", "application/json; charset=utf-8", "application/problem+json",
                                      "text/html; charset=utf-8", "text/plain; version=0.0.4", "image/svg+xml",
                                      "application/yaml"};
    static const char *const no[] = {"application/octet-stream", "image/png", "application/jsonx", "text/event-stream",
                                     "application/zip", ""};
    (void)state;
    for (size_t i = 0; i < sizeof yes / sizeof yes[0]; i++)
        assert_true(coding_useful(yes[i]));
    for (size_t i = 0; i < sizeof no / sizeof no[0]; i++)
        assert_false(coding_useful(no[i]));
    assert_false(coding_useful(NULL));
}

static char *sample(size_t len)
{
    char *bytes = malloc(len);
    assert_non_null(bytes);
    for (size_t i = 0; i < len; i++)
        bytes[i] = "{\"name\": \"conv\", \"bytes\": 4096}"[(i * i / 7) % 31];
    return bytes;
}

static void read_back(enum coding coding, const char *coded, size_t len, char *out, size_t expected)
{
    if (coding == CODING_ZSTD) {
        assert_int_equal(ZSTD_decompress(out, expected, coded, len), expected);
        return;
    }
    z_stream z = {0};
    assert_int_equal(inflateInit2(&z, 15 + 32), Z_OK);
    z.next_in = (Bytef *)(uintptr_t)coded;
    z.avail_in = (uInt)len;
    z.next_out = (Bytef *)out;
    z.avail_out = (uInt)expected;
    assert_int_equal(inflate(&z, Z_FINISH), Z_STREAM_END);
    assert_int_equal(z.total_out, expected);
    inflateEnd(&z);
}

static void test_bytes(void **state)
{
    static const size_t sizes[] = {CODING_MIN_BYTES, 5000, 100000, 3000001};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *bytes = sample(sizes[i]), *back = malloc(sizes[i]);
        assert_non_null(back);
        for (int coding = CODING_GZIP; coding <= CODING_ZSTD; coding++) {
            size_t len = 0;
            char *coded = coding_apply((enum coding)coding, bytes, sizes[i], &len);
            assert_non_null(coded);
            assert_true(len < sizes[i]);
            read_back((enum coding)coding, coded, len, back, sizes[i]);
            assert_memory_equal(bytes, back, sizes[i]);
            free(coded);
        }
        free(back);
        free(bytes);
    }
}

/* What is small, does not get smaller, or is not to be coded stays as it is. */
static void test_not_worth_it(void **state)
{
    size_t len, size = 100000;
    char *bytes = sample(size);
    unsigned seed = 1;
    (void)state;
    assert_null(coding_apply(CODING_GZIP, bytes, CODING_MIN_BYTES - 1, &len));
    assert_null(coding_apply(CODING_IDENTITY, bytes, size, &len));
    for (size_t i = 0; i < size; i++)
        bytes[i] = (char)((seed = seed * 1664525u + 1013904223u) >> 24);
    assert_null(coding_apply(CODING_GZIP, bytes, size, &len));
    assert_null(coding_apply(CODING_ZSTD, bytes, size, &len));
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_choice), cmocka_unit_test(test_useful),
                                       cmocka_unit_test(test_bytes), cmocka_unit_test(test_not_worth_it)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
