/* SPDX-License-Identifier: Apache-2.0
 * Canonical Huffman codes: optimal lengths by hand and against the entropy, the limit of 12 bits, round trips, damage.
 * */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/encode/huffman.h"

static void test_lengths(void **state)
{
    (void)state;
    const struct {
        uint64_t count[6];
        unsigned char want[6];
    } cases[] = {
        {{5, 9, 12, 13, 16, 45}, {4, 4, 3, 3, 3, 1}}, /* the textbook's */
        {{1, 1, 1, 1, 0, 0}, {2, 2, 2, 2, 0, 0}},
        {{0, 7, 0, 1, 0, 0}, {0, 1, 0, 1, 0, 0}},
        {{1, 1, 2, 4, 8, 16}, {5, 5, 4, 3, 2, 1}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint64_t count[256] = {0};
        unsigned char length[256];
        memcpy(count, cases[i].count, sizeof cases[i].count);
        huffman_lengths(count, length);
        assert_memory_equal(length, cases[i].want, 6);
    }
}

/* Fibonacci counts want a code of 24 bits: it is held to 12, stays complete, and is no worse than a plain bound. */
static void test_limit(void **state)
{
    (void)state;
    uint64_t count[256] = {0}, a = 1, b = 1;
    unsigned char length[256];
    double kraft = 0;
    for (int s = 0; s < 25; s++) {
        count[s] = a;
        b += a;
        a = b - a;
    }
    huffman_lengths(count, length);
    for (int s = 0; s < 25; s++) {
        assert_in_range(length[s], 1, HUFFMAN_LONGEST);
        kraft += pow(2, -length[s]);
    }
    assert_true(kraft == 1);
}

static void round_trip(const unsigned char *s, size_t n)
{
    struct buf out = {0};
    struct err err = {0};
    uint64_t count[256] = {0};
    unsigned char *back = malloc(n);
    for (size_t i = 0; i < n; i++)
        count[s[i]]++;
    huffman_encode(s, n, &out);
    assert_int_equal(out.len, huffman_size(count));
    assert_int_equal(huffman_decode((unsigned char *)out.data, out.len, back, n, &err), 0);
    assert_memory_equal(back, s, n);
    for (size_t cut = 1; cut < 4 && cut < out.len; cut++) {
        struct err refused = {0};
        assert_int_equal(huffman_decode((unsigned char *)out.data, out.len - cut, back, n, &refused), -1);
        assert_int_equal(refused.code, ERR_INVALID);
    }
    buf_append(&out, "", 1);
    assert_int_equal(huffman_decode((unsigned char *)out.data, out.len, back, n, &err), -1);
    buf_fini(&out);
    free(back);
}

static void test_round_trips(void **state)
{
    (void)state;
    struct rng rng;
    unsigned char s[5000];
    rng_init(&rng, 1, 0);
    for (int spread = 1; spread < 60; spread += 7) {
        for (size_t i = 0; i < sizeof s; i++)
            s[i] = (unsigned char)(128 + (int)(spread * rng_normal(&rng)));
        s[0] = 0, s[1] = 255;
        round_trip(s, sizeof s);
    }
}

/* Within a bit of the entropy, where no probability is above one half. */
static void test_near_the_entropy(void **state)
{
    (void)state;
    uint64_t count[256] = {0};
    double entropy = 0, bits = 0, n = 0;
    unsigned char length[256];
    for (int s = 0; s < 40; s++)
        n += (double)(count[s] = (uint64_t)(1 + 3 * s));
    huffman_lengths(count, length);
    for (int s = 0; s < 40; s++) {
        entropy -= (double)count[s] * log2((double)count[s] / n);
        bits += (double)count[s] * length[s];
    }
    assert_true(bits >= entropy && bits < entropy * 1.02);
}

static void test_hostile_tables(void **state)
{
    (void)state;
    const struct {
        unsigned char bytes[6];
        size_t len;
    } cases[] = {{{0}, 0},          {{3, 0x11}, 2}, {{1, 0x12, 0}, 3}, {{2, 0x11, 0x01, 0}, 4},
                 {{1, 0xdd, 0}, 3}, {{0, 0, 0}, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned char out[4];
        struct err err = {0};
        assert_int_equal(huffman_decode(cases[i].bytes, cases[i].len, out, 4, &err), -1);
        assert_int_equal(err.code, ERR_INVALID);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_lengths), cmocka_unit_test(test_limit),
                                       cmocka_unit_test(test_round_trips), cmocka_unit_test(test_near_the_entropy),
                                       cmocka_unit_test(test_hostile_tables)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
