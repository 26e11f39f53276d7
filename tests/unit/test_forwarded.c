/* SPDX-License-Identifier: Apache-2.0
 * Whose word is taken for the client's address. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <arpa/inet.h>
#include <cmocka.h>
#include <string.h>
#include <sys/socket.h>

#include "server/forwarded.h"

struct peer {
    union {
        struct sockaddr any;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } at;
};

static struct peer peer_of(const char *text)
{
    struct peer peer = {0};
    if (strchr(text, ':')) {
        peer.at.v6.sin6_family = AF_INET6;
        assert_int_equal(inet_pton(AF_INET6, text, &peer.at.v6.sin6_addr), 1);
    } else {
        peer.at.v4.sin_family = AF_INET;
        assert_int_equal(inet_pton(AF_INET, text, &peer.at.v4.sin_addr), 1);
    }
    return peer;
}

static int init(struct proxies *proxies, const char *header, char **items, int count, struct err *err)
{
    return proxies_init(proxies, &(config_list){items, count}, header, err);
}

static void check(const char *header, const char *peer, const char *value, const char *client)
{
    char *items[] = {"10.0.0.0/8", "192.168.1.1", "fd00::/8", "::1"}, out[CLIENT_TEXT];
    struct proxies proxies;
    struct err err = {0};
    struct peer from = peer_of(peer);
    assert_int_equal(init(&proxies, header, items, 4, &err), 0);
    assert_string_equal(proxies_header(&proxies), header);
    proxies_client(&proxies, &from.at.any, value, out);
    assert_string_equal(out, client);
    proxies_fini(&proxies);
}

static void x_forwarded_for(void **state)
{
    static const struct {
        const char *peer, *value, *client;
    } rows[] = {
        {"1.2.3.4", "9.9.9.9", "1.2.3.4"},                    /* not a proxy of ours: its word is worth nothing */
        {"10.1.2.3", NULL, "10.1.2.3"},                       /* the proxy itself */
        {"10.1.2.3", "9.9.9.9", "9.9.9.9"},                   /* one proxy */
        {"10.1.2.3", "9.9.9.9, 10.4.4.4", "9.9.9.9"},         /* two */
        {"10.1.2.3", "6.6.6.6, 9.9.9.9,10.4.4.4", "9.9.9.9"}, /* what stands before the first stranger is his word */
        {"192.168.1.1", "9.9.9.9:4711", "9.9.9.9"},
        {"192.168.1.2", "9.9.9.9", "192.168.1.2"},
        {"::ffff:10.0.0.1", "9.9.9.9", "9.9.9.9"}, /* a dual-stack socket */
        {"::1", "[2001:db8::7]:4711", "2001:db8::7"},
        {"::1", "2001:db8::7", "2001:db8::7"},
        {"fd12::5", "  9.9.9.9  ", "9.9.9.9"},
        {"10.1.2.3", "unknown", "10.1.2.3"},
        {"10.1.2.3", "9.9.9.9, unknown", "10.1.2.3"},
        {"10.1.2.3", "", "10.1.2.3"},
        {"10.1.2.3", ",", "10.1.2.3"},
        {"10.1.2.3", "9.9.9.9,", "10.1.2.3"},
        {"10.1.2.3", "<script>", "10.1.2.3"},
        {"10.1.2.3", "[", "10.1.2.3"},
        {"10.1.2.3", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "10.1.2.3"},
        {"10.1.2.3", "10.0.0.1, 10.0.0.2", "10.0.0.1"}, /* all are proxies: the farthest */
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check("X-Forwarded-For", rows[i].peer, rows[i].value, rows[i].client);
}

static void rfc_7239(void **state)
{
    static const struct {
        const char *peer, *value, *client;
    } rows[] = {
        {"10.1.2.3", "for=9.9.9.9", "9.9.9.9"},
        {"10.1.2.3", "For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"},
        {"10.1.2.3", "for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"},
        {"10.1.2.3", "proto=http ; for=192.0.2.60", "192.0.2.60"},
        {"10.1.2.3", "for=6.6.6.6, for=192.0.2.43;host=\"a,b\", for=10.0.0.9", "192.0.2.43"},
        {"10.1.2.3", "for=_hidden, for=10.0.0.9", "10.0.0.9"},
        {"10.1.2.3", "by=1.1.1.1", "10.1.2.3"},
        {"10.1.2.3", "for=\"", "10.1.2.3"},
        {"10.1.2.3", "9.9.9.9", "10.1.2.3"},
        {"1.2.3.4", "for=9.9.9.9", "1.2.3.4"},
    };
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        check("Forwarded", rows[i].peer, rows[i].value, rows[i].client);
}

static void settings(void **state)
{
    static char *const bad[] = {"10.0.0.0/33", "fd00::/129", "10.0.0", "10.0.0.0/", "10.0.0.0/8x", "proxy.example.com",
                                "10.0.0.0/-1", "", "/8",
                                "10.0.0.0/0008"};
    struct proxies proxies;
    char out[CLIENT_TEXT];
    struct peer from = peer_of("10.0.0.1");
    (void)state;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err = {0};
        char *items[] = {bad[i]};
        assert_int_equal(init(&proxies, "Forwarded", items, 1, &err), -1);
        assert_int_equal(err.code, ERR_USAGE);
    }
    struct err err = {0};
    assert_int_equal(init(&proxies, "X-Real-IP", NULL, 0, &err), -1);
    err = (struct err){0};
    assert_int_equal(init(&proxies, "X-Forwarded-For", NULL, 0, &err), 0);
    assert_null(proxies_header(&proxies));
    proxies_client(&proxies, &from.at.any, "9.9.9.9", out);
    assert_string_equal(out, "10.0.0.1");
    proxies_client(&proxies, NULL, NULL, out);
    assert_string_equal(out, "");
    char *all[] = {"0.0.0.0/0"};
    assert_int_equal(init(&proxies, "X-Forwarded-For", all, 1, &err), 0);
    proxies_client(&proxies, &from.at.any, "9.9.9.9", out);
    assert_string_equal(out, "9.9.9.9");
    from = peer_of("2001:db8::1"); /* all of IPv4 is not all of IPv6 */
    proxies_client(&proxies, &from.at.any, "9.9.9.9", out);
    assert_string_equal(out, "2001:db8::1");
    proxies_fini(&proxies);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(x_forwarded_for), cmocka_unit_test(rfc_7239),
                                       cmocka_unit_test(settings)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
