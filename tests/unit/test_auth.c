/* SPDX-License-Identifier: Apache-2.0
 * Keys of catalogue and file, without HTTP: what is accepted, what the store keeps, how fast a change is seen. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "server/auth.h"
#include "server/store.h"

struct fixture {
    char *dir, path[400];
    struct store *store;
    struct config config;
    struct arena *arena;
    struct err err;
};

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    f->dir = file_temp_dir("auth", &f->err);
    assert_non_null(f->dir);
    snprintf(f->path, sizeof f->path, "%s/catalogue.db", f->dir);
    f->store = store_open(&(struct store_opts){.path = f->path}, &f->err);
    assert_non_null(f->store);
    assert_int_equal(config_load(&f->config, 0, NULL, NULL, &f->err), 0);
    f->arena = arena_new();
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    store_close(f->store);
    config_fini(&f->config);
    arena_free(f->arena);
    file_remove_tree(f->dir, &f->err);
    free(f->dir);
    free(f);
    return 0;
}

struct made {
    char id[ID_SIZE], text[AUTH_KEY_SIZE], header[AUTH_KEY_SIZE + 10];
};

static struct made add(struct fixture *f, const char *owner, const char *scopes, int64_t per_s, int64_t expires_at)
{
    struct made made;
    char sha256[SHA256_HEX];
    auth_key_new(made.id, made.text);
    hash_bytes(made.text, strlen(made.text), sha256);
    const struct store_key key = {made.id, owner, "", sha256, scopes, per_s, STORE_KEY_DEFAULT, 77, 0, expires_at, 0, 0};
    assert_int_equal(store_key_insert(f->store, &key, &f->err), 0);
    snprintf(made.header, sizeof made.header, "Bearer %s", made.text);
    return made;
}

static enum err_code check(struct fixture *f, struct http_auth *auth, const char *header, enum auth_kind need,
                           struct auth_caller *caller)
{
    struct err err = {0};
    int rc = http_auth_check(auth, header, need, f->arena, caller, &err);
    assert_int_equal(rc, err.code ? -1 : 0);
    return err.code;
}

static void pause_ms(long ms)
{
    nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

static void what_a_key_opens(void **state)
{
    struct fixture *f = *state;
    struct auth_caller caller;
    struct made a = add(f, "alice", "jobs:read models:write", 3, 0), b = add(f, "bob", "admin", STORE_KEY_DEFAULT, 0),
                gone = add(f, "carol", "jobs:read", STORE_KEY_DEFAULT, 1);
    struct http_auth *auth = http_auth_new(&f->config, f->store, &f->err);
    assert_non_null(auth);
    assert_int_equal(check(f, auth, a.header, AUTH_JOBS_READ, &caller), ERR_NONE);
    assert_string_equal(caller.owner, "alice");
    assert_string_equal(caller.key_id, a.id);
    assert_int_equal(caller.stored_bytes, 77);
    assert_int_equal(caller.active_jobs, f->config.key_active_jobs);
    assert_int_equal(caller.rate.quota, 30);
    assert_int_equal(check(f, auth, a.header, AUTH_JOBS_WRITE, &caller), ERR_FORBIDDEN); /* writing is not in reading */
    assert_int_equal(check(f, auth, a.header, AUTH_MODELS_READ, &caller), ERR_FORBIDDEN); /* nor the other way */
    assert_int_equal(check(f, auth, a.header, AUTH_ADMIN, &caller), ERR_FORBIDDEN);
    assert_string_equal(caller.owner, "alice"); /* for the logs */
    assert_int_equal(check(f, auth, a.header, AUTH_KEY, &caller), ERR_NONE);
    for (int need = AUTH_KEY; need <= AUTH_ADMIN; need++) /* admin is no key to the others */
        assert_int_equal(check(f, auth, b.header, (enum auth_kind)need, &caller),
                         need == AUTH_KEY || need == AUTH_ADMIN ? ERR_NONE : ERR_FORBIDDEN);
    assert_int_equal(check(f, auth, gone.header, AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    assert_int_equal(check(f, auth, NULL, AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    assert_string_equal(caller.owner, "");
    char mixed[3 * AUTH_KEY_SIZE]; /* the id of one and the secret of another */
    snprintf(mixed, sizeof mixed, "Bearer %.33s%s", a.text, b.text + 33);
    assert_int_equal(check(f, auth, mixed, AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    snprintf(mixed, sizeof mixed, "Bearer %s", a.id);
    assert_int_equal(check(f, auth, mixed, AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    int n = 0;
    while (n < 100 && check(f, auth, a.header, AUTH_KEY, &caller) == ERR_NONE)
        n++;
    assert_in_range(n, 20, 26); /* 30 at once, five of them were spent above */
    assert_int_equal(check(f, auth, a.header, AUTH_KEY, &caller), ERR_RATE_LIMITED);
    assert_int_equal(caller.rate.retry_s, 1);
    http_auth_free(auth);
}

static void changes_are_seen(void **state)
{
    struct fixture *f = *state;
    struct auth_caller caller;
    struct http_auth *auth = http_auth_new(&f->config, f->store, &f->err);
    assert_int_equal(check(f, auth, NULL, AUTH_ADMIN, &caller), ERR_NONE); /* no keys: open */
    assert_string_equal(caller.owner, AUTH_LOCAL);
    struct made a = add(f, "alice", "jobs:read", 1, 0);
    pause_ms(900);
    assert_int_equal(check(f, auth, NULL, AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    assert_int_equal(check(f, auth, a.header, AUTH_KEY, &caller), ERR_NONE);
    assert_int_equal(caller.rate.left, 9);
    add(f, "bob", "jobs:read", 1, 0); /* the keys are read anew; the bucket of the old one is not full again */
    pause_ms(400);
    assert_int_equal(check(f, auth, a.header, AUTH_KEY, &caller), ERR_NONE);
    assert_int_equal(caller.rate.left, 8);
    assert_int_equal(store_key_revoke(f->store, a.id, &f->err), 0);
    pause_ms(900);
    assert_int_equal(check(f, auth, a.header, AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    assert_string_equal(caller.key_id, a.id);
    struct store_key *rows;
    int count;
    assert_int_equal(store_key_list(f->store, f->arena, &rows, &count, &f->err), 0);
    assert_int_equal(count, 2);
    assert_string_equal(rows[0].id, a.id);
    assert_true(rows[0].revoked_at > 0);
    assert_true(rows[0].last_used_at > 0);
    assert_int_equal(rows[0].last_used_at % 60000, 0);
    assert_int_equal(rows[1].last_used_at, 0);
    http_auth_free(auth);
}

static void key_file(void **state)
{
    struct fixture *f = *state;
    struct auth_caller caller;
    char path[500];
    static const char good[] = "# keys\n\nfile-key-0123456789\nbob bob-key-0123456789\r\n";
    static const struct {
        const char *text, *says;
    } bad[] = {{"", "no key"},
               {"# only a comment\n", "no key"},
               {"short\n", "16 to 256"},
               {"a b c0123456789012345\n", "more than two words"}};
    snprintf(path, sizeof path, "%s/keys", f->dir);
    assert_int_equal(file_write_atomic(path, good, strlen(good), &f->err), 0);
    assert_int_equal(config_set(&f->config, "api_key_file", path, "test", &f->err), 0);
    struct http_auth *auth = http_auth_new(&f->config, f->store, &f->err);
    assert_non_null(auth);
    assert_int_equal(check(f, auth, "Bearer file-key-0123456789", AUTH_ADMIN, &caller), ERR_NONE);
    assert_string_equal(caller.owner, AUTH_LOCAL);
    assert_string_equal(caller.key_id, "file:3");
    assert_int_equal(check(f, auth, "bearer   bob-key-0123456789", AUTH_ADMIN, &caller), ERR_NONE);
    assert_string_equal(caller.owner, "bob");
    assert_int_equal(check(f, auth, "Bearer bob-key-012345678", AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) { /* refused as a whole; the old ones stay */
        struct err err = {0};
        assert_int_equal(file_write_atomic(path, bad[i].text, strlen(bad[i].text), &f->err), 0);
        assert_int_equal(http_auth_reload(auth, &f->config, &err), -1);
        assert_int_equal(err.code, ERR_USAGE);
        assert_non_null(strstr(err.msg, bad[i].says));
        assert_int_equal(check(f, auth, "Bearer bob-key-0123456789", AUTH_KEY, &caller), ERR_NONE);
    }
    /* a change in the store does not read the file: somebody may be writing it, and is not done with bob */
    assert_int_equal(file_write_atomic(path, "file-key-0123456789\n", 20, &f->err), 0);
    struct made alice = add(f, "alice", "jobs:read", STORE_KEY_DEFAULT, 0);
    int looks = 0;
    while (check(f, auth, alice.header, AUTH_KEY, &caller) != ERR_NONE && looks++ < 100)
        pause_ms(50);
    assert_true(looks < 100);
    assert_int_equal(check(f, auth, "Bearer bob-key-0123456789", AUTH_KEY, &caller), ERR_NONE);
    http_auth_free(auth);
}

static void no_key_left_locks(void **state)
{
    struct fixture *f = *state;
    struct auth_caller caller;
    char path[500];
    snprintf(path, sizeof path, "%s/keys", f->dir);
    assert_int_equal(file_write_atomic(path, "file-key-0123456789\n", 20, &f->err), 0);
    assert_int_equal(config_set(&f->config, "api_key_file", path, "test", &f->err), 0);
    struct http_auth *auth = http_auth_new(&f->config, f->store, &f->err);
    assert_non_null(auth);
    assert_int_equal(config_set(&f->config, "api_key_file", "", "test", &f->err), 0);
    assert_int_equal(http_auth_reload(auth, &f->config, &f->err), 0);
    assert_int_equal(check(f, auth, NULL, AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    assert_int_equal(check(f, auth, "Bearer file-key-0123456789", AUTH_KEY, &caller), ERR_UNAUTHORIZED);
    http_auth_free(auth);
}

static void open_to_others_needs_a_key(void **state)
{
    struct fixture *f = *state;
    assert_int_equal(config_set(&f->config, "listen", "0.0.0.0:0", "test", &f->err), 0);
    assert_null(http_auth_new(&f->config, f->store, &f->err));
    assert_int_equal(f->err.code, ERR_USAGE);
    assert_non_null(strstr(f->err.msg, "pared keys add"));
    f->err = (struct err){0};
    add(f, "alice", "jobs:read", 1, 0);
    struct http_auth *auth = http_auth_new(&f->config, f->store, &f->err);
    assert_non_null(auth);
    http_auth_free(auth);
}

static void scopes(void **state)
{
    unsigned set;
    char text[SCOPES_TEXT];
    struct err err = {0};
    (void)state;
    assert_int_equal(scopes_parse("jobs:read,models:read  jobs:read", &set, &err), 0);
    scopes_print(set, text);
    assert_string_equal(text, "models:read jobs:read");
    assert_true(scopes_allow(set, SCOPE_JOBS_READ));
    assert_false(scopes_allow(set, SCOPE_JOBS_WRITE));
    scopes_print(SCOPES_ALL, text);
    assert_int_equal(scopes_parse(text, &set, &err), 0);
    assert_int_equal(set, SCOPES_ALL);
    assert_int_equal(SCOPES_DEFAULT & 1 << SCOPE_ADMIN, 0);
    static const char *const bad[] = {"", " ,", "jobs", "jobs:read:x", "jobs:reads", "Jobs:read", "admin;jobs:read"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        err = (struct err){0};
        assert_int_equal(scopes_parse(bad[i], &set, &err), -1);
        assert_int_equal(err.code, ERR_USAGE);
    }
    assert_true(auth_owner_good("ci-7.x_@a"));
    assert_false(auth_owner_good(""));
    assert_false(auth_owner_good("a b"));
    assert_false(auth_owner_good("a/b"));
    assert_false(auth_owner_good("\xc3\xa4"));
}

static void values_are_given_once(void **state)
{
    struct fixture *f = *state;
    char out[20];
    assert_int_equal(store_value(f->store, "secret", "first", out, sizeof out, &f->err), 0);
    assert_string_equal(out, "first");
    assert_int_equal(store_value(f->store, "secret", "second", out, sizeof out, &f->err), 0);
    assert_string_equal(out, "first");
    assert_int_equal(store_key_revoke(f->store, "key_01m82ybkh709nc2wx9rgz3fdkb", &f->err), -1);
    assert_int_equal(f->err.code, ERR_NOT_FOUND);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {TEST(what_a_key_opens), TEST(changes_are_seen), TEST(key_file), TEST(no_key_left_locks),
                                       TEST(open_to_others_needs_a_key), cmocka_unit_test(scopes),
                                       TEST(values_are_given_once)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
