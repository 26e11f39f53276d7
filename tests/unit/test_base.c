/* SPDX-License-Identifier: Apache-2.0
 * core/base: errors, arena, buffer, hash, random numbers, files, pool. */
#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/arena.h"
#include "core/base/buf.h"
#include "core/base/clock.h"
#include "core/base/err.h"
#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/pool.h"
#include "core/base/rng.h"
#include "core/base/size.h"

static void err_keeps_the_first_and_gains_places(void **state)
{
    (void)state;
    struct err err = {0};
    assert_int_equal(err_set(&err, ERR_SHAPE, "dim %d", 3), -1);
    err_set(&err, ERR_IO, "later");
    err_wrap(&err, "node '%s': ", "conv1");
    assert_int_equal(err.code, ERR_SHAPE);
    assert_string_equal(err.msg, "node 'conv1': dim 3");
    char big[3000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    err_wrap(&err, "%s", big); /* must not overflow */
    assert_int_equal(strlen(err.msg), sizeof err.msg - 1);
    assert_int_equal(err_set(NULL, ERR_IO, "nobody listens"), -1);
}

static void sentences_are_utf8(void **state)
{
    (void)state;
    static const struct {
        const char *name, *told;
    } rows[] = {
        {"plain", "plain"},
        {"\xC3\xA9\xE6\xA8\xA1\xF0\x9F\x98\x80", "\xC3\xA9\xE6\xA8\xA1\xF0\x9F\x98\x80"}, /* e acute, han, smiley */
        {"a\xFFz", "a?z"},
        {"cut \xC3", "cut ?"},
        {"cut \xE6\xA8", "cut ??"},
        {"\xC0\x80", "??"},
        {"\xED\xA0\x80", "???"},
        {"\xF4\x90\x80\x80", "????"},
        {"\xC3(", "?("}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0}, place = {0};
        struct faults faults = {0};
        err_set(&err, ERR_MODEL, "%s", rows[i].name);
        assert_string_equal(err.msg, rows[i].told);
        err_set(&place, ERR_MODEL, "!");
        err_wrap(&place, "%s", rows[i].name);
        assert_memory_equal(place.msg, rows[i].told, strlen(rows[i].told));
        faults_add(&faults, rows[i].name, "%s", rows[i].name);
        assert_string_equal(faults.at[0].pointer, rows[i].told);
        assert_string_equal(faults.at[0].detail, rows[i].told);
        faults_fini(&faults);
    }
}

static void err_rows_are_consistent(void **state)
{
    (void)state;
    for (int i = 1; i < ERR_COUNT; i++) {
        assert_int_equal(err_code_from_slug(err_slug((enum err_code)i)), i);
        assert_in_range(err_status((enum err_code)i), 400, 599);
        assert_true(strlen(err_title((enum err_code)i)) > 3);
    }
    assert_int_equal(err_code_from_slug("no such thing"), ERR_NONE);
    struct err err = {0};
    errno = ENOSPC;
    err_set_errno(&err, ERR_IO, "write");
    assert_int_equal(err.code, ERR_DISK_FULL);
}

static void faults_are_copied_and_bounded(void **state)
{
    (void)state;
    struct faults faults = {0};
    for (int i = 0; i < 150; i++)
        faults_add(&faults, "/steps/0", "fault %d", i);
    assert_int_equal(faults.count, 100);
    assert_string_equal(faults.at[99].detail, "fault 99");
    faults_fini(&faults);
    assert_null(faults.at);
}

static void arena_gives_aligned_zeroed_memory(void **state)
{
    (void)state;
    struct arena *a = arena_new();
    for (size_t n = 0; n < 300000; n = n * 3 + 1) {
        unsigned char *p = arena_alloc(a, n);
        assert_int_equal((uintptr_t)p % 16, 0);
        for (size_t i = 0; i < n; i++)
            assert_int_equal(p[i], 0);
        memset(p, 0xff, n);
    }
    assert_null(arena_calloc(a, SIZE_MAX / 2, 3));
    assert_string_equal(arena_printf(a, "%d-%s", 7, "x"), "7-x");
    assert_string_equal(arena_strdup(a, "hello"), "hello");
    assert_null(arena_strdup(a, NULL));
    arena_free(a);
    arena_free(NULL);
}

static void buf_grows_and_is_terminated(void **state)
{
    (void)state;
    struct buf b = {0};
    for (int i = 0; i < 1000; i++)
        buf_printf(&b, "%d,", i);
    assert_false(b.failed);
    assert_int_equal(b.len, 10 * 2 + 90 * 3 + 900 * 4);
    assert_int_equal(b.data[b.len], 0);
    char *taken = buf_take(&b);
    assert_memory_equal(taken, "0,1,2,", 6);
    free(taken);
    taken = buf_take(&b); /* an empty buffer gives an empty string */
    assert_string_equal(taken, "");
    free(taken);
}

static void sha256_matches_fips_180_4(void **state)
{
    (void)state;
    char hex[SHA256_HEX];
    hash_bytes("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_bytes("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
}

static void rng_is_seeded_uniform_and_normal(void **state)
{
    (void)state;
    struct rng a, b, c;
    rng_init(&a, 7, 0);
    rng_init(&b, 7, 0);
    rng_init(&c, 7, 1);
    assert_true(rng_u64(&a) == rng_u64(&b));
    assert_true(rng_u64(&a) != rng_u64(&c));
    double sum = 0, squares = 0;
    int counts[6] = {0};
    enum { N = 60000 };
    for (int i = 0; i < N; i++) {
        double x = rng_normal(&a);
        sum += x;
        squares += x * x;
        counts[rng_below(&a, 6)]++;
    }
    assert_true(fabs(sum / N) < 0.02); /* 5 sigma of the mean */
    assert_true(fabs(squares / N - 1) < 0.03);
    for (int i = 0; i < 6; i++)
        assert_in_range(counts[i], 9500, 10500);
}

static void files_are_whole_or_absent(void **state)
{
    (void)state;
    char dir[] = "/tmp/pared-test-XXXXXX", path[256], hex[SHA256_HEX], want[SHA256_HEX];
    struct err err = {0};
    struct file_map map;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/a/b", dir);
    assert_int_equal(file_make_dirs(path, &err), 0);
    snprintf(path, sizeof path, "%s/a/b/file", dir);
    assert_int_equal(file_write_atomic(path, "hello", 5, &err), 0);
    assert_int_equal(file_map_open(&map, path, &err), 0);
    assert_int_equal(map.size, 5);
    assert_memory_equal(map.data, "hello", 5);
    file_map_close(&map);
    assert_int_equal(hash_file(path, hex, &err), 0);
    hash_bytes("hello", 5, want);
    assert_string_equal(hex, want);
    size_t len;
    char *text = file_read(path, 5, &len, &err);
    assert_string_equal(text, "hello");
    free(text);
    assert_null(file_read(path, 4, &len, &err));
    assert_int_equal(err.code, ERR_TOO_LARGE);
    err = (struct err){0};
    snprintf(path, sizeof path, "%s/missing/file", dir);
    assert_int_equal(file_write_atomic(path, "x", 1, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
    struct stat st;
    assert_int_equal(stat(dir, &st), -1);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

static void drafts_take_their_place_whole_or_not_at_all(void **state)
{
    (void)state;
    char dir[] = "/tmp/pared-test-XXXXXX", path[64], temp[80], target[64], text[8];
    struct file_draft d;
    struct err err = {0};
    struct stat st;
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/file", dir);
    snprintf(temp, sizeof temp, "%s.part", path);
    snprintf(target, sizeof target, "%s/target", dir);
    assert_int_equal(file_write_atomic(path, "old", 3, &err), 0);
    /* what stands under the temporary name, even a link, is replaced, and what it points to is left alone */
    assert_int_equal(file_write_atomic(target, "mine", 4, &err), 0);
    assert_int_equal(symlink(target, temp), 0);
    assert_int_equal(file_draft_open(&d, path, ".part", 0600, &err), 0);
    assert_int_equal(file_write_all(d.fd, "new text", 8, &err), 0);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 3); /* not before it is whole */
    assert_int_equal(pread(d.fd, text, 8, 0), 8);
    assert_memory_equal(text, "new text", 8);
    assert_int_equal(file_draft_publish(&d, &err), 0);
    assert_int_equal(d.fd, -1);
    file_draft_discard(&d); /* nothing is left to remove */
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 8);
    assert_int_equal(st.st_mode & 0777, 0600);
    assert_int_equal(stat(target, &st), 0);
    assert_int_equal(st.st_size, 4);
    /* a draft that is not to be, and one that cannot take its place */
    assert_int_equal(file_draft_open(&d, path, NULL, 0644, &err), 0);
    assert_int_equal(file_write_all(d.fd, "never", 5, &err), 0);
    file_draft_discard(&d);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 8);
    assert_int_equal(file_draft_open(&d, path, ".part", 0600, &err), 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(file_draft_publish(&d, &err), -1);
    assert_int_equal(err.code, ERR_IO);
    assert_int_equal(stat(temp, &st), -1);
    assert_int_equal(file_remove_tree(dir, NULL), 0);
}

struct squares {
    int64_t out[1000];
    atomic_int calls;
};

static void square(void *arg, int64_t task, int lane)
{
    struct squares *s = arg;
    assert_in_range(lane, 0, 3);
    s->out[task] = task * task;
    atomic_fetch_add(&s->calls, 1);
}

struct nested {
    struct pool *pool;
    struct squares inner[4]; /* one a task: tasks write disjoint memory */
};

static void nested(void *arg, int64_t task, int lane)
{
    (void)lane;
    struct nested *n = arg;
    pool_run(n->pool, 10, square, &n->inner[task]);
}

static void pool_runs_every_task_once(void **state)
{
    (void)state;
    for (int threads = 1; threads <= 4; threads++) {
        struct pool *pool = pool_new(threads);
        assert_int_equal(pool_threads(pool), threads);
        for (int round = 0; round < 200; round++) {
            struct squares s = {0};
            int tasks = round * 5;
            pool_run(pool, tasks, square, &s);
            assert_int_equal(atomic_load(&s.calls), tasks);
            for (int i = 0; i < tasks; i++)
                assert_int_equal(s.out[i], (int64_t)i * i);
        }
        struct nested n = {.pool = pool};
        pool_run(pool, 4, nested, &n); /* a loop inside a task runs inline */
        for (int i = 0; i < 4; i++)
            assert_int_equal(atomic_load(&n.inner[i].calls), 10);
        pool_free(pool);
    }
    assert_true(pool_default_threads() >= 1);
}

static void sizes_are_checked(void **state)
{
    (void)state;
    size_t n;
    int64_t i;
    assert_false(size_mul(SIZE_MAX, 2, &n));
    assert_false(size_add(SIZE_MAX, 1, &n));
    assert_false(i64_mul(INT64_MAX, 2, &i));
    assert_true(size_mul(3, 4, &n) && n == 12);
    assert_int_equal(i64_ceil_div(7, 2), 4);
    assert_int_equal(i64_ceil_div(8, 2), 4);
}

static void clock_formats_rfc3339(void **state)
{
    (void)state;
    char text[CLOCK_RFC3339];
    clock_rfc3339(951827696789, text);
    assert_string_equal(text, "2000-02-29T12:34:56.789Z");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(err_keeps_the_first_and_gains_places),
        cmocka_unit_test(err_rows_are_consistent),
        cmocka_unit_test(sentences_are_utf8),
        cmocka_unit_test(faults_are_copied_and_bounded),
        cmocka_unit_test(arena_gives_aligned_zeroed_memory),
        cmocka_unit_test(buf_grows_and_is_terminated),
        cmocka_unit_test(sha256_matches_fips_180_4),
        cmocka_unit_test(rng_is_seeded_uniform_and_normal),
        cmocka_unit_test(files_are_whole_or_absent),
        cmocka_unit_test(pool_runs_every_task_once),
        cmocka_unit_test(sizes_are_checked),
        cmocka_unit_test(clock_formats_rfc3339),
        cmocka_unit_test(drafts_take_their_place_whole_or_not_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
