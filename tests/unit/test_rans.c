/* SPDX-License-Identifier: Apache-2.0
 * rANS: frequencies, sizes against the entropy, round trips around the number of lanes, damage. */
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
#include "core/encode/rans.h"

static void test_frequencies(void **state)
{
    (void)state;
    struct rng rng;
    rng_init(&rng, 1, 0);
    for (int round = 0; round < 200; round++) {
        uint64_t count[256] = {0};
        uint32_t freq[256], sum = 0;
        const int symbols = 2 + (int)rng_below(&rng, 255);
        for (int s = 0; s < symbols; s++)
            count[s] = 1 + rng_below(&rng, round % 3 ? 10 : 1u << (round % 30));
        rans_frequencies(count, freq);
        for (int s = 0; s < 256; sum += freq[s++])
            assert_int_equal(freq[s] > 0, count[s] > 0);
        assert_int_equal(sum, RANS_TOTAL);
    }
}

static void fill(unsigned char *s, size_t n, double spread, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 0);
    for (size_t i = 0; i < n; i++)
        s[i] = (unsigned char)(100 + (int)(spread * rng_normal(&rng)));
    s[0] = 3, s[n - 1] = 250;
}

static void test_round_trips(void **state)
{
    (void)state;
    const size_t sizes[] = {2, 3, 7, 100, 4096, 32767, 32768, 32769, 32799, 32800, 200001};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const size_t n = sizes[i];
        unsigned char *s = malloc(n), *back = malloc(n);
        struct buf out = {0};
        struct err err = {0};
        fill(s, n, 1 + (double)i, i);
        assert_int_equal(rans_encode(s, n, &out, &err), 0);
        assert_int_equal(rans_decode((unsigned char *)out.data, out.len, back, n, &err), 0);
        assert_memory_equal(back, s, n);
        assert_int_equal(rans_decode((unsigned char *)out.data, out.len - 1, back, n, &err), -1);
        err = (struct err){0};
        buf_append(&out, "xy", 2);
        assert_int_equal(rans_decode((unsigned char *)out.data, out.len, back, n, &err), -1);
        assert_int_equal(err.code, ERR_INVALID);
        buf_fini(&out);
        free(s);
        free(back);
    }
}

static void test_near_the_entropy(void **state)
{
    (void)state;
    const size_t n = 400000;
    unsigned char *s = malloc(n);
    double entropy = 0;
    uint64_t count[256] = {0};
    struct buf out = {0};
    fill(s, n, 1.5, 9);
    for (size_t i = 0; i < n; i++)
        count[s[i]]++;
    for (int v = 0; v < 256; v++)
        if (count[v])
            entropy -= (double)count[v] * log2((double)count[v] / (double)n) / 8;
    assert_int_equal(rans_encode(s, n, &out, NULL), 0);
    assert_true((double)out.len >= entropy && (double)out.len < entropy * 1.005 + 300);
    assert_true(fabs((double)rans_size(count, n) - (double)out.len) < 0.001 * (double)out.len);
    buf_fini(&out);
    free(s);
}

/* Whatever is flipped: an end, never a fault. */
static void test_flips(void **state)
{
    (void)state;
    unsigned char s[300], back[300];
    struct buf out = {0};
    fill(s, sizeof s, 4, 4);
    assert_int_equal(rans_encode(s, sizeof s, &out, NULL), 0);
    for (size_t bit = 0; bit < out.len * 8; bit++) {
        struct err err = {0};
        out.data[bit / 8] = (char)(out.data[bit / 8] ^ 1 << bit % 8);
        if (rans_decode((unsigned char *)out.data, out.len, back, sizeof back, &err))
            assert_int_equal(err.code, ERR_INVALID);
        out.data[bit / 8] = (char)(out.data[bit / 8] ^ 1 << bit % 8);
    }
    buf_fini(&out);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_frequencies), cmocka_unit_test(test_round_trips),
                                       cmocka_unit_test(test_near_the_entropy), cmocka_unit_test(test_flips)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
