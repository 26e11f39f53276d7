/* SPDX-License-Identifier: Apache-2.0
 * Signed links: the right one opens, every changed character does not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "server/link.h"

static const char art[] = "art_01m815f1gk4zqfhrf60qn4k0as";
static const char secret[] = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/* Reference: python3 -c "import hmac; print(hmac.new(SECRET_HEX.encode(), b'pared link 1\nalice\nart_...\n1795397676380',
 * 'sha256').hexdigest())" */
static void as_hmac_says(void **state)
{
    char token[LINK_TOKEN];
    (void)state;
    assert_true(link_sign(secret, "alice", art, INT64_C(1795397676380), token));
    assert_string_equal(token, "01m815f1gk4zqfhrf60qn4k0as.1795397676380."
                               "dfd3088346c22a18ff9f5c1bacd9c93f7a1511fef829e11364ed7b477f51cdc7");
}

static void only_what_was_signed(void **state)
{
    char token[LINK_TOKEN], id[ID_SIZE];
    int64_t ends;
    (void)state;
    assert_true(link_sign(secret, "alice", art, 123456789, token));
    assert_true(link_read(token, id, &ends));
    assert_string_equal(id, art);
    assert_int_equal(ends, 123456789);
    assert_true(link_verify(secret, "alice", token));
    assert_false(link_verify(secret, "bob", token));
    assert_false(link_verify(secret, "", token));
    assert_false(link_verify("00", "alice", token));
    for (size_t i = 0; i < strlen(token); i++) { /* every character counts */
        char changed[LINK_TOKEN];
        memcpy(changed, token, sizeof changed);
        changed[i] = changed[i] == '1' ? '2' : '1';
        assert_false(link_verify(secret, "alice", changed));
    }
}

static void nonsense_is_no_link(void **state)
{
    static const char *const bad[] = {"",
                                      ".",
                                      "..",
                                      "01m815f1gk4zqfhrf60qn4k0as",
                                      "01m815f1gk4zqfhrf60qn4k0as.",
                                      "01m815f1gk4zqfhrf60qn4k0as.1.",
                                      "01m815f1gk4zqfhrf60qn4k0as.-1.00",
                                      "01m815f1gk4zqfhrf60qn4k0as.99999999999999999999."
                                      "0000000000000000000000000000000000000000000000000000000000000000",
                                      "01m815f1gk4zqfhrf60qn4k0a.1."
                                      "0000000000000000000000000000000000000000000000000000000000000000",
                                      "01m815f1gk4zqfhrf60qn4k0as.01."
                                      "0000000000000000000000000000000000000000000000000000000000000000"};
    char id[ID_SIZE], token[LINK_TOKEN];
    int64_t ends;
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_false(link_read(bad[i], id, &ends));
        assert_false(link_verify(secret, "alice", bad[i]));
    }
    assert_false(link_sign(secret, "alice", "job_01m815f1gk4zqfhrf60qn4k0as", 1, token));
    assert_false(link_sign(secret, "alice", art, 0, token));
}

static void secrets_differ(void **state)
{
    char a[LINK_SECRET_HEX], b[LINK_SECRET_HEX];
    (void)state;
    link_secret_new(a);
    link_secret_new(b);
    assert_int_equal(strlen(a), 64);
    assert_int_equal(strspn(a, "0123456789abcdef"), 64);
    assert_string_not_equal(a, b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_hmac_says), cmocka_unit_test(only_what_was_signed),
                                       cmocka_unit_test(nonsense_is_no_link), cmocka_unit_test(secrets_differ)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
