/* SPDX-License-Identifier: Apache-2.0
 * Snapshots: what is put is got back; a file with any byte changed or cut off anywhere, with another key, or of an
 * unfinished writer reads as if there were none. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/snapshot.h"

static char folder[] = "/tmp/pared-snapshot-XXXXXX", path[64], part[80];

static int setup(void **state)
{
    (void)state;
    assert_non_null(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/state", folder);
    snprintf(part, sizeof part, "%s.part", path);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(folder, NULL);
}

static const double numbers[3] = {1.5, -2, 1e300};

static void write_one(const char *key)
{
    struct err err = {0};
    struct snapshot_writer *w = snapshot_begin(path, key, &err);
    assert_non_null(w);
    assert_int_equal(snapshot_put(w, "a", "xyz", 3, &err), 0);
    assert_int_equal(snapshot_put(w, "numbers", numbers, sizeof numbers, &err), 0);
    assert_int_equal(snapshot_put(w, "", NULL, 0, &err), 0);
    if (snapshot_commit(w, &err))
        fail_msg("%s", err.msg);
}

static void test_round_trip(void **state)
{
    (void)state;
    const char *why = "unset";
    size_t bytes = 9;
    assert_null(snapshot_open(path, "key", &why));
    assert_null(why); /* no file: nothing to say */
    write_one("key");
    assert_int_equal(access(part, F_OK), -1);
    struct snapshot *s = snapshot_open(path, "key", &why);
    assert_non_null(s);
    assert_memory_equal(snapshot_get(s, "a", &bytes), "xyz", 3);
    assert_int_equal(bytes, 3);
    const double *got = snapshot_get(s, "numbers", &bytes);
    assert_int_equal(bytes, sizeof numbers);
    assert_int_equal((uintptr_t)got % 8, 0);
    assert_memory_equal(got, numbers, sizeof numbers);
    assert_non_null(snapshot_get(s, "", &bytes));
    assert_int_equal(bytes, 0);
    assert_null(snapshot_get(s, "number", NULL));
    write_one("other"); /* replaced while it is open: what was opened stays */
    assert_memory_equal(snapshot_get(s, "numbers", NULL), numbers, sizeof numbers);
    snapshot_close(s);
    assert_null(snapshot_open(path, "key", &why));
    assert_non_null(strstr(why, "belongs to another"));
    assert_null(snapshot_open(path, "othe", NULL));
}

static void refused(const unsigned char *data, size_t len, const char *what, size_t at)
{
    struct err err = {0};
    const char *why = NULL;
    assert_int_equal(file_write_atomic(path, data, len, &err), 0);
    struct snapshot *s = snapshot_open(path, "key", &why);
    if (s || !why)
        fail_msg("%s at %zu was taken", what, at);
}

static void test_damage(void **state)
{
    (void)state;
    struct err err = {0};
    size_t len;
    write_one("key");
    unsigned char *data = (unsigned char *)file_read(path, 1 << 20, &len, &err);
    assert_non_null(data);
    for (size_t i = 0; i < len; i++) {
        data[i] ^= (unsigned char)(1 << i % 8);
        refused(data, len, "a flipped bit", i);
        data[i] ^= (unsigned char)(1 << i % 8);
        refused(data, i, "an end", i);
    }
    unsigned char *longer = calloc(1, len + 8);
    memcpy(longer, data, len);
    refused(longer, len + 8, "more", len);
    free(longer);
    free(data);
}

static void test_unfinished(void **state)
{
    (void)state;
    struct err err = {0};
    write_one("key");
    struct snapshot_writer *w = snapshot_begin(path, "key", &err);
    assert_int_equal(snapshot_put(w, "later", "1", 1, &err), 0);
    assert_int_equal(access(part, F_OK), 0);
    struct snapshot *s = snapshot_open(path, "key", NULL);
    assert_non_null(s); /* the one before */
    assert_null(snapshot_get(s, "later", NULL));
    snapshot_close(s);
    snapshot_abandon(w);
    assert_int_equal(access(part, F_OK), -1);
    assert_int_equal(file_write_atomic(part, "left over by a killed writer", 28, &err), 0);
    write_one("key");
    s = snapshot_open(path, "key", NULL);
    assert_non_null(s);
    snapshot_close(s);
    assert_null(snapshot_begin("/nonexistent/folder/state", "key", &err));
    assert_int_equal(err.code, ERR_IO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip), cmocka_unit_test(test_damage),
                                       cmocka_unit_test(test_unfinished)};
    return cmocka_run_group_tests(tests, setup, teardown);
}
