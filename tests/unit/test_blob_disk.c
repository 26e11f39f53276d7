/* SPDX-License-Identifier: Apache-2.0
 * Blobs on disk: content addressing, equal uploads at once, pins, collection, leftovers, a full disk. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "server/blob.h"

static char dir[] = "/tmp/pared-blob-XXXXXX";

static int setup(void **state)
{
    struct err err = {0};
    memcpy(dir + sizeof dir - 7, "XXXXXX", 6);
    assert_non_null(mkdtemp(dir));
    *state = blob_disk_open(dir, 0, &err);
    assert_non_null(*state);
    return 0;
}

static int teardown(void **state)
{
    struct err err = {0};
    blobs_close(*state);
    return file_remove_tree(dir, &err);
}

/* Regular files below the folder. */
static int files_below(const char *sub)
{
    char command[PATH_MAX + 50];
    int n = -1;
    snprintf(command, sizeof command, "find %s/%s -type f | wc -l", dir, sub);
    FILE *p = popen(command, "r");
    assert_non_null(p);
    assert_int_equal(fscanf(p, "%d", &n), 1);
    pclose(p);
    return n;
}

static void put(struct blobs *blobs, const char *text, char sha256[SHA256_HEX])
{
    struct err err = {0};
    struct blob_put *p = blob_put_begin(blobs, &err);
    assert_non_null(p);
    assert_int_equal(blob_put_write(p, text, strlen(text), &err), 0);
    assert_int_equal(blob_put_bytes(p), strlen(text));
    assert_int_equal(blob_put_commit(p, sha256, &err), 0);
    blob_put_free(p);
}

static int never(void *arg, const char *sha256)
{
    (void)arg, (void)sha256;
    return 0;
}

static int always(void *arg, const char *sha256)
{
    (void)arg, (void)sha256;
    return 1;
}

static void content_goes_by_its_hash(void **state)
{
    char sha256[SHA256_HEX], text[10] = "";
    struct err err = {0};
    int64_t bytes;
    put(*state, "abc", sha256);
    /* FIPS 180-4, example of "abc" */
    assert_string_equal(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    int fd = blob_open(*state, sha256, &bytes, &err);
    assert_true(fd >= 0);
    assert_int_equal(bytes, 3);
    assert_int_equal(read(fd, text, sizeof text), 3);
    assert_string_equal(text, "abc");
    close(fd);
    put(*state, "abc", sha256);
    assert_int_equal(files_below("objects"), 1);
    assert_int_equal(files_below("tmp"), 0);
}

static void aborted_put_leaves_nothing(void **state)
{
    struct err err = {0};
    struct blob_put *p = blob_put_begin(*state, &err);
    assert_int_equal(blob_put_write(p, "half", 4, &err), 0);
    assert_int_equal(files_below("tmp"), 1);
    assert_int_equal(access(blob_put_path(p), R_OK), 0);
    blob_put_free(p);
    assert_int_equal(files_below("."), 0);
}

static void names_are_checked(void **state)
{
    static const char *const bad[] = {"", "..", "../../etc/passwd", "ba78",
                                      "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err = {0};
        assert_int_equal(blob_open(*state, bad[i], NULL, &err), -1);
        assert_int_equal(err.code, ERR_NOT_FOUND);
    }
    struct err err = {0};
    assert_int_equal(blob_open(*state, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", NULL, &err),
                     -1);
    assert_int_equal(err.code, ERR_NOT_FOUND);
}

static void pinned_or_used_is_kept(void **state)
{
    struct err err = {0};
    char sha256[SHA256_HEX];
    struct blob_put *p = blob_put_begin(*state, &err);
    assert_int_equal(blob_put_write(p, "pin", 3, &err), 0);
    assert_int_equal(blob_put_commit(p, sha256, &err), 0);
    assert_int_equal(blob_collect(*state, sha256, never, NULL, &err), 0); /* pinned by the put */
    assert_int_equal(blob_pin(*state, sha256, &err), 0);
    blob_put_free(p);
    assert_int_equal(blob_collect(*state, sha256, never, NULL, &err), 0); /* pinned by the pin */
    blob_unpin(*state, sha256);
    assert_int_equal(blob_collect(*state, sha256, always, NULL, &err), 0);
    assert_int_equal(files_below("objects"), 1);
    assert_int_equal(blob_collect(*state, sha256, never, NULL, &err), 1);
    assert_int_equal(files_below("objects"), 0);
    assert_int_equal(blob_collect(*state, sha256, never, NULL, &err), 0);
}

static int used_is(void *arg, const char *sha256)
{
    return !strcmp(arg, sha256);
}

static void start_removes_leftovers(void **state)
{
    struct err err = {0};
    char kept[SHA256_HEX], gone[SHA256_HEX], path[PATH_MAX];
    put(*state, "kept", kept);
    put(*state, "gone", gone);
    snprintf(path, sizeof path, "%s/tmp/put_of_a_crashed_run", dir);
    assert_int_equal(file_write_atomic(path, "x", 1, &err), 0);
    blobs_close(*state);
    *state = blob_disk_open(dir, 0, &err);
    assert_int_equal(files_below("tmp"), 0);
    int removed = 0;
    assert_int_equal(blob_sweep(*state, used_is, kept, &removed, &err), 0);
    assert_int_equal(removed, 1);
    assert_int_equal(blob_path(*state, kept, path, sizeof path, &err), 0);
    assert_int_equal(access(path, R_OK), 0);
    assert_int_equal(files_below("objects"), 1);
}

static void take_moves_a_file(void **state)
{
    struct err err = {0};
    char path[PATH_MAX], target[PATH_MAX], sha256[SHA256_HEX];
    int64_t bytes = 0;
    snprintf(path, sizeof path, "%s/result", dir);
    assert_int_equal(file_write_atomic(path, "abc", 3, &err), 0);
    assert_int_equal(blob_put_take(*state, path, sha256, &bytes, &err), 0);
    assert_int_equal(bytes, 3);
    assert_string_equal(sha256, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(blob_collect(*state, sha256, never, NULL, &err), 0); /* pinned for the caller */
    blob_unpin(*state, sha256);
    /* a symbolic link, a second name, a folder, a fifo: none is a finished file */
    snprintf(target, sizeof target, "%s/secret", dir);
    assert_int_equal(file_write_atomic(target, "s", 1, &err), 0);
    for (int kind = 0; kind < 4; kind++) {
        struct err refused = {0};
        assert_int_equal(kind == 0   ? symlink(target, path)
                         : kind == 1 ? link(target, path)
                         : kind == 2 ? mkdir(path, 0755)
                                     : mkfifo(path, 0644),
                         0);
        assert_int_equal(blob_put_take(*state, path, sha256, &bytes, &refused), -1);
        assert_int_equal(refused.code, ERR_IO);
        assert_int_equal(remove(path), 0);
    }
    assert_int_equal(access(target, F_OK), 0);
}

enum { THREADS = 8, ROUNDS = 40 };
static atomic_int removed_count;

static void *same_bytes(void *arg)
{
    for (int i = 0; i < ROUNDS; i++) {
        struct err err = {0};
        char sha256[SHA256_HEX];
        struct blob_put *p = blob_put_begin(arg, &err);
        if (blob_put_write(p, "the same", 8, &err) || blob_put_commit(p, sha256, &err))
            abort();
        int fd = blob_open(arg, sha256, NULL, &err); /* while we hold the pin it must be there */
        if (fd < 0)
            abort();
        close(fd);
        blob_put_free(p);
        removed_count += blob_collect(arg, sha256, never, NULL, &err);
    }
    return NULL;
}

static void equal_uploads_at_once(void **state)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, same_bytes, *state), 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
    assert_true(removed_count > 0);
    assert_int_equal(files_below("."), 0);
}

static void reserve_is_kept(void **state)
{
    struct err err = {0};
    struct blobs *full = blob_disk_open(dir, INT64_MAX / 2, &err);
    (void)state;
    assert_int_equal(blob_free_bytes(full), 0);
    assert_null(blob_put_begin(full, &err));
    assert_int_equal(err.code, ERR_DISK_FULL);
    blobs_close(full);
}

/* Overwrite one byte of an object. */
static void damage(struct blobs *blobs, const char *sha256)
{
    struct err err = {0};
    char path[PATH_MAX];
    assert_int_equal(blob_path(blobs, sha256, path, sizeof path, &err), 0);
    assert_int_equal(chmod(path, 0644), 0);
    int fd = open(path, O_WRONLY);
    assert_int_equal(pwrite(fd, "X", 1, 1), 1);
    close(fd);
}

static void damaged_files_are_not_served(void **state)
{
    char sha256[SHA256_HEX], text[10] = "";
    struct err err = {0};
    put(*state, "abc", sha256);
    assert_int_equal(blob_verify(*state, sha256, &err), 0);
    damage(*state, sha256);
    for (int i = 0; i < 2; i++) { /* also after a restart, which remembers no check */
        err = (struct err){0};
        assert_int_equal(blob_open(*state, sha256, NULL, &err), -1);
        assert_int_equal(err.code, ERR_CORRUPT);
        assert_null(strchr(err.msg, '/'));
        blobs_close(*state);
        err = (struct err){0};
        *state = blob_disk_open(dir, 0, &err);
        assert_non_null(*state);
    }
    put(*state, "abc", sha256); /* the same upload again heals it */
    int fd = blob_open(*state, sha256, NULL, &err);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, text, sizeof text), 3);
    assert_string_equal(text, "abc");
    close(fd);
    blobs_set_check_age(*state, 0);
    assert_int_equal(blob_verify(*state, sha256, &err), 0);
    char path[PATH_MAX];
    assert_int_equal(blob_path(*state, sha256, path, sizeof path, &err), 0);
    assert_int_equal(truncate(path, 1), 0);
    assert_int_equal(blob_verify(*state, sha256, &err), -1);
    assert_int_equal(err.code, ERR_CORRUPT);
}

static void full_disk_leaves_nothing(void **state)
{
    (void)state;
    char mnt[] = "/tmp/pared-full-XXXXXX", command[200];
    assert_non_null(mkdtemp(mnt));
    if (mount("none", mnt, "tmpfs", 0, "size=1m")) {
        rmdir(mnt);
        skip();
    }
    struct err err = {0};
    struct blobs *blobs = blob_disk_open(mnt, 0, &err);
    assert_non_null(blobs);
    struct blob_put *p = blob_put_begin(blobs, &err);
    static char chunk[100000];
    int rc = 0;
    for (int i = 0; i < 20 && rc == 0; i++)
        rc = blob_put_write(p, chunk, sizeof chunk, &err);
    assert_int_equal(rc, -1);
    assert_int_equal(err.code, ERR_DISK_FULL);
    blob_put_free(p);
    snprintf(command, sizeof command, "test -z \"$(find %s -type f)\"", mnt);
    assert_int_equal(system(command), 0);
    err = (struct err){0};
    p = blob_put_begin(blobs, &err); /* and it goes on */
    assert_int_equal(blob_put_write(p, chunk, sizeof chunk, &err), 0);
    blob_put_free(p);
    blobs_close(blobs);
    umount(mnt);
    rmdir(mnt);
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
int main(void)
{
    const struct CMUnitTest tests[] = {
        T(content_goes_by_its_hash), T(aborted_put_leaves_nothing), T(names_are_checked),     T(pinned_or_used_is_kept),
        T(start_removes_leftovers),  T(take_moves_a_file),          T(equal_uploads_at_once), T(reserve_is_kept),
        T(full_disk_leaves_nothing), T(damaged_files_are_not_served),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
