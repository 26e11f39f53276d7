/* SPDX-License-Identifier: Apache-2.0
 * Settings: sources and their order, what is refused and how, documents made from the table. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/file.h"
#include "core/base/log.h"
#include "server/config.h"

static int load(struct config *config, const char *const *args, const char *const *environment, struct err *err)
{
    char *list[20] = {NULL}, *env[20];
    int n = 0, m = 0;
    for (; args && args[n]; n++)
        list[n] = (char *)(uintptr_t)args[n];
    for (; environment && environment[m]; m++)
        env[m] = (char *)(uintptr_t)environment[m];
    env[m] = NULL;
    return config_load(config, n, list, env, err);
}

static void defaults(void **state)
{
    (void)state;
    struct config c;
    struct err err = {0};
    assert_int_equal(load(&c, NULL, NULL, &err), 0);
    assert_string_equal(c.listen, "127.0.0.1:8080");
    assert_int_equal(c.workers, 1);
    assert_int_equal(c.max_upload_bytes, INT64_C(16) << 30);
    assert_int_equal(c.log_level, LOG_INFO);
    assert_int_equal(c.allowed_hosts.count, 0);
    config_fini(&c);
}

static void order_of_sources(void **state)
{
    (void)state;
    char path[] = "/tmp/pared-config-XXXXXX";
    int fd = mkstemp(path);
    static const char text[] =
        "# comment\n\nworkers = 3\n lease_ms=  2000\nallowed_hosts = \"a.example, b.example ,,\"\nthreads = 5\n";
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    struct config c;
    struct err err = {0};
    const char *args[] = {"--config", path, "--threads=7", "--job-memory-bytes", "3 GiB", NULL};
    const char *env[] = {"PATH=/bin", "PARED_LEASE_MS=4000", "PARED_THREADS=6", NULL};
    assert_int_equal(load(&c, args, env, &err), 0);
    assert_int_equal(c.workers, 3);     /* file */
    assert_int_equal(c.lease_ms, 4000); /* environment over file */
    assert_int_equal(c.threads, 7);     /* flag over both */
    assert_int_equal(c.job_memory_bytes, INT64_C(3) << 30);
    assert_int_equal(c.allowed_hosts.count, 2);
    assert_string_equal(c.allowed_hosts.at[0], "a.example");
    assert_string_equal(c.allowed_hosts.at[1], "b.example");
    config_fini(&c);
    unlink(path);
}

/* Each is refused with a sentence that has these words. */
static void refusals(void **state)
{
    (void)state;
    static const struct {
        const char *args[4], *env[2];
        const char *words[3];
    } cases[] = {
        {{"--workers", "many"}, {NULL}, {"--workers", "'many'", "0 to 64"}},
        {{"--workers", "65"}, {NULL}, {"'65'", "from 0 to 64", NULL}},
        {{"--workers", "-1"}, {NULL}, {"'-1'", NULL, NULL}},
        {{"--workers", "1x"}, {NULL}, {"'1x'", NULL, NULL}},
        {{"--workers"}, {NULL}, {"--workers", "needs a value", NULL}},
        {{"--wrokers", "1"}, {NULL}, {"no setting", "--wrokers", "--help"}},
        {{"workers", "1"}, {NULL}, {"'workers'", "--name VALUE", NULL}},
        {{"--log_level", "loud"}, {NULL}, {"'loud'", "error, warn, info or debug", NULL}},
        {{"--max_upload_bytes", "16Q"}, {NULL}, {"'16Q'", "bytes", NULL}},
        {{"--max_upload_bytes", "99999999999999999999"}, {NULL}, {"bytes", NULL, NULL}},
        {{"--max_upload_bytes", "9000000000000t"}, {NULL}, {"bytes", NULL, NULL}},
        {{NULL}, {"PARED_DRAIN_S=soon"}, {"PARED_DRAIN_S", "'soon'", NULL}},
        {{"--config", "/nonexistent/x"}, {NULL}, {"configuration file", "/nonexistent/x", NULL}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config c;
        struct err err = {0};
        const char *env[] = {cases[i].env[0], NULL};
        assert_int_equal(load(&c, cases[i].args, env, &err), -1);
        assert_int_equal(err.code, ERR_USAGE);
        for (int k = 0; k < 3 && cases[i].words[k]; k++)
            if (!strstr(err.msg, cases[i].words[k]))
                fail_msg("case %zu: \"%s\" lacks \"%s\"", i, err.msg, cases[i].words[k]);
    }
}

static void file_lines_are_named(void **state)
{
    (void)state;
    static const struct {
        const char *text, *words;
    } cases[] = {{"workers = 1\nnonsense\n", "line 2"},
                 {"workers = 1\n\ncolour = red\n", "line 3"},
                 {"threads = 1000", "line 1"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char path[] = "/tmp/pared-config-XXXXXX";
        int fd = mkstemp(path);
        assert_true(write(fd, cases[i].text, strlen(cases[i].text)) > 0);
        close(fd);
        struct config c;
        struct err err = {0};
        const char *args[] = {"--config", path, NULL};
        assert_int_equal(load(&c, args, NULL, &err), -1);
        assert_non_null(strstr(err.msg, cases[i].words));
        unlink(path);
    }
}

static void addresses(void **state)
{
    (void)state;
    static const struct {
        const char *text, *host;
        int port;
        bool loopback;
    } good[] = {{"127.0.0.1:0", "127.0.0.1", 0, true},
                {"0.0.0.0:80", "0.0.0.0", 80, false},
                {"[::1]:8080", "::1", 8080, true},
                {"localhost:65535", "localhost", 65535, true},
                {"[2001:db8::1]:1", "2001:db8::1", 1, false},
                {"127.1.2.3:5", "127.1.2.3", 5, true}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct config_address a;
        struct err err = {0};
        assert_int_equal(config_address(good[i].text, &a, &err), 0);
        assert_string_equal(a.host, good[i].host);
        assert_int_equal(a.port, good[i].port);
        assert_int_equal(a.loopback, good[i].loopback);
    }
    static const char *const bad[] = {"",           ":80",    "host",  "host:",   "host:x",
                                      "host:65536", "::1:80", "[::1]", "[::1]80", "host:-1"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct config_address a;
        struct err err = {0};
        assert_int_equal(config_address(bad[i], &a, &err), -1);
        assert_int_equal(err.code, ERR_USAGE);
    }
}

static void documents_name_every_setting(void **state)
{
    (void)state;
    struct buf help = {0}, markdown = {0}, printed = {0};
    struct config c;
    struct err err = {0};
    assert_int_equal(load(&c, NULL, NULL, &err), 0);
    config_help(&help);
    config_markdown(&markdown);
    config_print(&c, &printed);
#define SETTING(name, type, preset, min, max, doc)                                                                     \
    assert_non_null(strstr(help.data, "--" #name " "));                                                                \
    assert_non_null(strstr(markdown.data, "`" #name "`"));                                                             \
    assert_non_null(strstr(printed.data, #name " = "));                                                                \
    assert_true(strlen(doc) > 20);
#include "server/config.def"
#undef SETTING
#undef SETTING_LIVE
    assert_non_null(strstr(markdown.data, "`PARED_API_KEY_FILE`"));
    buf_fini(&help);
    buf_fini(&markdown);
    buf_fini(&printed);
    config_fini(&c);
}

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    fclose(f);
}

/* What is live is taken over, what is not stays, both are named; a fault changes nothing. */
static void reload(void **state)
{
    (void)state;
    char path[] = "/tmp/pared-config-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    write_text(path, "log_level = warn\nworkers = 3\nallowed_hosts = a.example\ndata = /tmp\ndrain_s = 9\n");
    char *args[] = {(char *)(uintptr_t) "--config", path, (char *)(uintptr_t) "--drain_s", (char *)(uintptr_t) "7"};
    char *const environment[] = {NULL};
    struct config now, fresh;
    struct err err = {0};
    struct buf changed = {0}, refused = {0};
    assert_int_equal(config_load(&now, 4, args, environment, &err), 0);

    assert_int_equal(config_reload(&fresh, &now, &changed, &refused, &err), 0);
    assert_true(changed.len == 0 && refused.len == 0);
    config_fini(&fresh);

    write_text(path, "log_format = json\nlog_level = debug\nworkers = 4\nallowed_hosts = b.example\n"
                     "data = /tmp/../tmp\nlisten = 127.0.0.1:1\ndrain_s = 10\n");
    assert_int_equal(config_reload(&fresh, &now, &changed, &refused, &err), 0);
    assert_string_equal(changed.data, "log_level, log_format"); /* drain_s: the flag still wins */
    assert_string_equal(refused.data, "listen, allowed_hosts, workers");
    assert_true(fresh.log_level == LOG_DEBUG && fresh.log_format == LOG_JSON && fresh.workers == 3);
    assert_string_equal(fresh.allowed_hosts.at[0], "a.example");
    assert_string_equal(fresh.listen, now.listen);
    assert_string_equal(fresh.data, "/tmp");
    assert_int_equal(fresh.drain_s, 7);
    config_fini(&fresh);

    write_text(path, "log_level = loud\n");
    assert_int_equal(config_reload(&fresh, &now, &changed, &refused, &err), -1);
    assert_non_null(strstr(err.msg, "line 1"));
    assert_int_equal(now.log_level, LOG_WARN);
    config_fini(&now);
    buf_fini(&changed);
    buf_fini(&refused);
    unlink(path);
}

static void the_document_is_up_to_date(void **state)
{
    (void)state;
    struct buf markdown = {0};
    struct err err = {0};
    char *kept = file_read("docs/CONFIG.md", 1 << 20, NULL, &err);
    if (!kept)
        skip(); /* not run from the root of the source */
    config_markdown(&markdown);
    if (strcmp(kept, markdown.data))
        fail_msg("docs/CONFIG.md is old: build/pared serve --markdown > docs/CONFIG.md");
    buf_fini(&markdown);
    free(kept);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults),
        cmocka_unit_test(order_of_sources),
        cmocka_unit_test(refusals),
        cmocka_unit_test(file_lines_are_named),
        cmocka_unit_test(addresses),
        cmocka_unit_test(documents_name_every_setting),
        cmocka_unit_test(reload), cmocka_unit_test(the_document_is_up_to_date),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
