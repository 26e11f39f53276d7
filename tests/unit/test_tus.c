/* SPDX-License-Identifier: Apache-2.0
 * Resumable uploads below HTTP: rows of the catalogue, header values, digests (RFC 3174, FIPS 180-4 examples), offsets
 * after each way to end, locks, completion and its crash points. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/base/hash.h"
#include "server/digest.h"
#include "server/tus.h"
#include "server/tus_text.h"

#define SHA_A "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

struct fixture {
    char dir[40], path[80], uploads[80], objects[80];
    struct store *store;
    struct blobs *blobs;
    struct tus *tus;
    struct arena *arena;
    struct err err;
};

static void start(struct fixture *f)
{
    const struct store_opts opts = {f->path, NULL, NULL};
    f->store = store_open(&opts, &f->err);
    assert_non_null(f->store);
    f->blobs = blob_disk_open(f->objects, 0, &f->err);
    assert_non_null(f->blobs);
    f->tus = tus_open(f->uploads, f->store, f->blobs, &f->err);
    assert_non_null(f->tus);
}

static void stop(struct fixture *f)
{
    tus_close(f->tus);
    blobs_close(f->blobs);
    store_close(f->store);
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof *f);
    strcpy(f->dir, "/tmp/pared-tus-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    snprintf(f->path, sizeof f->path, "%s/c.db", f->dir);
    snprintf(f->uploads, sizeof f->uploads, "%s/uploads", f->dir);
    snprintf(f->objects, sizeof f->objects, "%s/blobs", f->dir);
    f->arena = arena_new();
    start(f);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    struct err err = {0};
    stop(f);
    arena_free(f->arena);
    assert_int_equal(file_remove_tree(f->dir, &err), 0);
    free(f);
    return 0;
}

static void expect(struct fixture *f, int rc, enum err_code code)
{
    if (f->err.code != code)
        print_message("%s\n", f->err.msg);
    assert_int_equal(f->err.code, code);
    assert_int_equal(rc, code == ERR_NONE ? 0 : -1);
    f->err = (struct err){0};
}

static const char *create(struct fixture *f, int64_t length)
{
    struct tus_upload upload;
    const struct store_upload_new in = {.owner = "anna", .metadata = "filename bQ==", .length = length, .ttl_s = 100};
    expect(f, tus_create(f->tus, &in, f->arena, &upload, &f->err), ERR_NONE);
    assert_int_equal(upload.offset, 0);
    return upload.row.id;
}

static int64_t offset(struct fixture *f, const char *id)
{
    struct tus_upload upload;
    expect(f, tus_get(f->tus, "anna", id, f->arena, &upload, &f->err), ERR_NONE);
    return upload.offset;
}

static struct tus_append at(const char *id, int64_t from, int64_t length)
{
    return (struct tus_append){.owner = "anna", .id = id, .offset = from, .length = length, .ttl_s = 100};
}

static struct tus_patch *begin(struct fixture *f, const char *id, int64_t from, const char *checksum)
{
    struct tus_append what = at(id, from, -1);
    what.checksum = checksum;
    struct tus_patch *patch = tus_patch_open(f->tus, &what, &f->err);
    expect(f, patch ? 0 : -1, ERR_NONE);
    return patch;
}

static void refused(struct fixture *f, const struct tus_append *what, enum err_code code)
{
    struct tus_patch *patch = tus_patch_open(f->tus, what, &f->err);
    assert_null(patch);
    expect(f, -1, code);
}

static void put(struct fixture *f, struct tus_patch *patch, const char *text)
{
    expect(f, tus_patch_write(patch, text, strlen(text), &f->err), ERR_NONE);
}

/* End with this code; the offset afterwards. */
static int64_t end(struct fixture *f, struct tus_patch *patch, enum err_code code)
{
    struct tus_upload upload = {0};
    expect(f, tus_patch_end(patch, f->arena, &upload, &f->err), code);
    tus_patch_close(patch);
    return upload.offset;
}

/* ---- the catalogue */

static void test_rows(void **state)
{
    struct fixture *f = *state;
    struct store_upload row, rows[4];
    const struct store_upload_new in = {.owner = "anna", .metadata = "a YQ==", .length = 10, .ttl_s = 60};
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_NONE);
    assert_true(id_is(row.id, "upl"));
    assert_string_equal(row.owner, "anna");
    assert_string_equal(row.metadata, "a YQ==");
    assert_string_equal(row.tail, "");
    assert_null(row.sha256);
    assert_int_equal(row.length, 10);
    assert_int_equal(row.received, 0);
    assert_int_equal(row.expires_at - row.created_at, 60000);
    const char *id = row.id, *sha256;
    expect(f, store_upload_get(f->store, "bert", id, f->arena, &row, &f->err), ERR_NOT_FOUND);
    expect(f, store_upload_mark(f->store, id, 7, "boot", 120, true, &f->err), ERR_NONE);
    expect(f, store_upload_get(f->store, NULL, id, f->arena, &row, &f->err), ERR_NONE);
    assert_int_equal(row.received, 7);
    assert_string_equal(row.tail, "boot");
    assert_in_range(row.expires_at - row.created_at, 120000, 180000);
    expect(f, store_upload_complete(f->store, id, SHA_A, 60, &f->err), ERR_NONE);
    expect(f, store_upload_mark(f->store, id, 7, "", 60, true, &f->err), ERR_NOT_FOUND); /* complete: no way back */
    expect(f, store_upload_get(f->store, "anna", id, f->arena, &row, &f->err), ERR_NONE);
    assert_string_equal(row.sha256, SHA_A);
    assert_int_equal(row.received, 10);
    assert_int_equal(store_blob_used(f->store, SHA_A, &f->err), 1);

    int count;
    bool more;
    const char *older = id;
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_NONE);
    struct store_page page = {.owner = "anna", .limit = 1};
    expect(f, store_upload_list(f->store, &page, f->arena, rows, &count, &more, &f->err), ERR_NONE);
    assert_true(count == 1 && more && strcmp(rows[0].id, row.id) == 0);
    page.after = rows[0].id;
    expect(f, store_upload_list(f->store, &page, f->arena, rows, &count, &more, &f->err), ERR_NONE);
    assert_true(count == 1 && !more && strcmp(rows[0].id, older) == 0);
    page = (struct store_page){.owner = "bert", .limit = 4};
    expect(f, store_upload_list(f->store, &page, f->arena, rows, &count, &more, &f->err), ERR_NONE);
    assert_int_equal(count, 0);

    expect(f, store_upload_delete(f->store, "bert", older, f->arena, &sha256, &f->err), ERR_NOT_FOUND);
    expect(f, store_upload_delete(f->store, "anna", older, f->arena, &sha256, &f->err), ERR_NONE);
    assert_string_equal(sha256, SHA_A);
    assert_int_equal(store_blob_used(f->store, SHA_A, &f->err), 0);
    expect(f, store_upload_delete(f->store, NULL, older, f->arena, &sha256, &f->err), ERR_NOT_FOUND);
}

static void test_limit(void **state)
{
    struct fixture *f = *state;
    struct store_upload row;
    struct store_upload_new in = {.owner = "anna", .metadata = "", .length = 60, .ttl_s = 60, .max_bytes = 100};
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_NONE);
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_RATE_LIMITED);
    in.length = 40;
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_NONE);
    in.owner = "bert";
    in.length = INT64_MAX / 2;
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_RATE_LIMITED);
}

/* What was announced counts for models too, except for the model that is made of it. */
static void test_limit_of_models(void **state)
{
    struct fixture *f = *state;
    struct store_upload row;
    struct store_resource out;
    bool existed;
    struct store_file file = {"m.onnx", SHA_A, 60};
    const struct store_upload_new in = {.owner = "anna", .metadata = "", .length = 60, .ttl_s = 60, .max_bytes = 100};
    struct store_resource model = {
        .owner = "anna", .name = "m", .facts = "{}", .files = &file, .file_count = 1, .max_bytes = 100};
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_NONE);
    expect(f, store_resource_insert(f->store, STORE_MODEL, &model, NULL, f->arena, &out, &existed, &f->err),
           ERR_RATE_LIMITED);
    expect(f, store_upload_complete(f->store, row.id, SHA_A, 60, &f->err), ERR_NONE);
    expect(f, store_resource_insert(f->store, STORE_MODEL, &model, NULL, f->arena, &out, &existed, &f->err), ERR_NONE);
}

static void test_many_uploads(void **state)
{
    struct fixture *f = *state;
    struct store_upload row;
    const struct store_upload_new in = {.owner = "anna", .metadata = "", .length = 0, .ttl_s = 60};
    for (int i = 0; i < STORE_UPLOADS_MAX; i++)
        expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_NONE);
    expect(f, store_upload_insert(f->store, &in, f->arena, &row, &f->err), ERR_RATE_LIMITED);
}

/* ---- header values */

static void test_numbers(void **state)
{
    static const char *const bad[] = {NULL, "", "-1", "+1", " 1", "1 ", "0x1", "1e3", "1000000000000000000", "\xc2\xb9"};
    struct fixture *f = *state;
    int64_t n;
    expect(f, tus_number("N", "000999999999999999", &n, &f->err), ERR_NONE);
    assert_int_equal(n, 999999999999999);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect(f, tus_number("N", bad[i], &n, &f->err), ERR_BAD_REQUEST);
}

static void test_metadata(void **state)
{
    static const char *const bad[] = {",", "a,", "a YQ", "a YQ=", "a YQ== ", "a  YQ==", "a !", "a,a", " a", "a\tYQ==",
                                      "\x80 YQ==", "a YQ==, b YQ=="};
    struct fixture *f = *state;
    expect(f, tus_metadata_each(f->arena, "", NULL, NULL, &f->err), ERR_NONE);
    const char *text = "filename bS5vbm54,note,empty ,nul YQBi";
    expect(f, tus_metadata_each(f->arena, text, NULL, NULL, &f->err), ERR_NONE);
    assert_string_equal(tus_metadata_get(f->arena, text, "filename"), "m.onnx");
    assert_string_equal(tus_metadata_get(f->arena, text, "note"), "");
    assert_string_equal(tus_metadata_get(f->arena, text, "empty"), "");
    assert_null(tus_metadata_get(f->arena, text, "nul"));
    assert_null(tus_metadata_get(f->arena, text, "file"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        expect(f, tus_metadata_each(f->arena, bad[i], NULL, NULL, &f->err), ERR_BAD_REQUEST);
}

static void test_digests(void **state)
{
    static const struct {
        const char *header;
        bool field;
        enum err_code parse, verify;
    } rows[] = {
        /* digests of "abc": RFC 3174, FIPS 180-4 */
        {"sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", false, ERR_NONE, ERR_NONE},
        {"sha256 ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=", false, ERR_NONE, ERR_NONE},
        {"sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=", false, ERR_NONE, ERR_CHECKSUM},
        {"sha512 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", false, ERR_BAD_REQUEST, ERR_NONE},
        {"sha1", false, ERR_BAD_REQUEST, ERR_NONE},
        {"sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0", false, ERR_BAD_REQUEST, ERR_NONE},
        {"sha256 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=", false, ERR_BAD_REQUEST, ERR_NONE},
        {"", false, ERR_BAD_REQUEST, ERR_NONE},
        {"sha-256=:ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=:", true, ERR_NONE, ERR_NONE},
        {"sha-512=:3a81oZNherrMQXNJriBBMRLm+k6JqX6iCp7u5ktV05ohkpkqJ0/"
         "BqDa6PCOj/uu9RU1EI2Q86A4qmslPpUyknw==:, id-sha=:AA==:",
         true, ERR_NONE, ERR_NONE},
        {"md5=\"a,b\\\"\";x, sha-256=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:", true, ERR_NONE, ERR_CHECKSUM},
        {"unknown", true, ERR_NONE, ERR_NONE},
        {"sha-256", true, ERR_BAD_REQUEST, ERR_NONE},
        {"sha-256=::", true, ERR_BAD_REQUEST, ERR_NONE},
        {"a=1,", true, ERR_BAD_REQUEST, ERR_NONE},
        {"", true, ERR_BAD_REQUEST, ERR_NONE},
        {"=", true, ERR_BAD_REQUEST, ERR_NONE},
    };
    struct fixture *f = *state;
    struct sha256_ctx shared;
    sha256_init(&shared);
    sha256_update(&shared, 3, (const uint8_t *)"abc");
    for (size_t k = 0; k < 2 * sizeof rows / sizeof rows[0]; k++) {
        size_t i = k / 2;
        struct digests digests = {.sha256 = k % 2 ? &shared : NULL}; /* hashed here, or by who owns the bytes */
        int rc = rows[i].field ? digest_add_field(&digests, "Repr-Digest", rows[i].header, &f->err)
                               : digest_add_tus(&digests, rows[i].header, &f->err);
        expect(f, rc, rows[i].parse);
        if (rows[i].parse != ERR_NONE)
            continue;
        digest_update(&digests, "a", 1);
        digest_update(&digests, "bc", 2);
        expect(f, digest_verify(&digests, ERR_CHECKSUM, &f->err), rows[i].verify);
    }
}

/* ---- bytes */

static void test_pieces(void **state)
{
    struct fixture *f = *state;
    char want[SHA256_HEX];
    const char *id = create(f, 11);
    struct tus_patch *patch = begin(f, id, 0, NULL);
    put(f, patch, "hel");
    assert_int_equal(offset(f, id), 3); /* what is there counts at once */
    put(f, patch, "lo");
    assert_int_equal(end(f, patch, ERR_NONE), 5);
    struct tus_append what = at(id, 4, 1);
    refused(f, &what, ERR_WRONG_STATE);
    what = at(id, 5, 7);
    refused(f, &what, ERR_TOO_LARGE);
    what.owner = "bert";
    refused(f, &what, ERR_NOT_FOUND);
    what = at(id, 5, 6);
    what.checksum = "md5 x";
    refused(f, &what, ERR_BAD_REQUEST);
    patch = begin(f, id, 5, NULL);
    expect(f, tus_patch_write(patch, " world and more", 15, &f->err), ERR_TOO_LARGE);
    tus_patch_close(patch);
    assert_int_equal(offset(f, id), 11); /* all of it is there; nobody has said so yet */
    struct store_upload row;
    expect(f, tus_take(f->tus, "bert", id, f->arena, &row, &f->err), ERR_NOT_FOUND);
    expect(f, tus_take(f->tus, "anna", id, f->arena, &row, &f->err), ERR_NONE);
    hash_bytes("hello world", 11, want);
    assert_string_equal(row.sha256, want);
    tus_used(f->tus, &row);
    blob_unpin(f->blobs, row.sha256);
    what = at(id, 11, 0);
    refused(f, &what, ERR_NOT_FOUND);
}

static void test_checksum(void **state)
{
    static const char good[] = "sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0="; /* of "abc" */
    struct fixture *f = *state;
    const char *id = create(f, 6);
    struct tus_patch *patch = begin(f, id, 0, good);
    put(f, patch, "abd");
    assert_int_equal(offset(f, id), 0);
    end(f, patch, ERR_CHECKSUM);
    patch = begin(f, id, 0, good);
    put(f, patch, "abc"); /* cut */
    tus_patch_close(patch);
    assert_int_equal(offset(f, id), 0);
    patch = begin(f, id, 0, good);
    put(f, patch, "abc");
    assert_int_equal(end(f, patch, ERR_NONE), 3);
    patch = begin(f, id, 3, NULL);
    put(f, patch, "def");
    assert_int_equal(end(f, patch, ERR_NONE), 6);
    char want[SHA256_HEX];
    hash_bytes("abcdef", 6, want);
    struct tus_upload upload;
    expect(f, tus_get(f->tus, "anna", id, f->arena, &upload, &f->err), ERR_NONE);
    assert_string_equal(upload.row.sha256, want); /* the running hash forgot what did not count */
}

static void test_locks(void **state)
{
    struct fixture *f = *state;
    const char *id = create(f, 10);
    struct tus_patch *first = begin(f, id, 0, NULL);
    put(f, first, "123");
    struct tus_append what = at(id, 3, 7);
    refused(f, &what, ERR_LOCKED);
    expect(f, tus_delete(f->tus, "bert", id, &f->err), ERR_NOT_FOUND);
    expect(f, tus_delete(f->tus, "anna", id, &f->err), ERR_NONE); /* wins */
    expect(f, tus_patch_write(first, "4", 1, &f->err), ERR_WRONG_STATE);
    tus_patch_close(first);
    what = at(id, 0, 1);
    refused(f, &what, ERR_NOT_FOUND);
}

static void test_restart(void **state)
{
    struct fixture *f = *state;
    const char *open = create(f, 10), *full = create(f, 3), *done = create(f, 3), *lost = create(f, 5);
    struct tus_patch *patch = begin(f, open, 0, NULL);
    put(f, patch, "1234");
    tus_patch_close(patch); /* cut: the row says received 0, tail this boot */
    patch = begin(f, full, 0, NULL);
    put(f, patch, "abc");
    tus_patch_close(patch);
    patch = begin(f, done, 0, NULL);
    put(f, patch, "xyz");
    assert_int_equal(end(f, patch, ERR_NONE), 3);
    patch = begin(f, lost, 0, "sha1 qZk+NkcGgWq6PiVxeFDCbJzQ2J0=");
    put(f, patch, "ab");
    tus_patch_close(patch);
    char path[160]; /* as if the process had died instead: the bytes are in the file */
    snprintf(path, sizeof path, "%s/%s", f->uploads, lost);
    assert_int_equal(truncate(path, 2), 0);
    stop(f);
    snprintf(path, sizeof path, "%s/upl_%026d", f->uploads, 0);
    expect(f, file_write_atomic(path, "?", 1, &f->err), ERR_NONE);
    start(f);
    assert_int_not_equal(access(path, F_OK), 0); /* nobody's */
    assert_int_equal(offset(f, open), 4);
    assert_int_equal(offset(f, full), 3);
    assert_int_equal(offset(f, done), 3);
    assert_int_equal(offset(f, lost), 0); /* not verified, though the bytes are in the file */
    struct store_upload row;
    char want[SHA256_HEX];
    hash_bytes("abc", 3, want);
    expect(f, tus_take(f->tus, "anna", full, f->arena, &row, &f->err), ERR_NONE);
    assert_string_equal(row.sha256, want);
    blob_unpin(f->blobs, row.sha256);
    expect(f, tus_take(f->tus, "anna", open, f->arena, &row, &f->err), ERR_WRONG_STATE);
    /* another boot of the machine: only what was synced */
    expect(f, store_upload_mark(f->store, open, 2, "another", 100, true, &f->err), ERR_NONE);
    stop(f);
    start(f);
    assert_int_equal(offset(f, open), 2);
    patch = begin(f, open, 2, NULL);
    put(f, patch, "34567890");
    assert_int_equal(end(f, patch, ERR_NONE), 10);
    hash_bytes("1234567890", 10, want);
    expect(f, store_upload_get(f->store, "anna", open, f->arena, &row, &f->err), ERR_NONE);
    assert_string_equal(row.sha256, want);
}

static void test_expiry(void **state)
{
    struct fixture *f = *state;
    struct tus_upload upload;
    const struct store_upload_new in = {.owner = "anna", .metadata = "", .length = 3, .ttl_s = 0};
    expect(f, tus_create(f->tus, &in, f->arena, &upload, &f->err), ERR_NONE);
    const char *id = upload.row.id, *kept = create(f, 3);
    expect(f, tus_get(f->tus, "anna", id, f->arena, &upload, &f->err), ERR_NOT_FOUND);
    assert_int_equal(tus_expire(f->tus, &f->err), 1);
    assert_int_equal(tus_expire(f->tus, &f->err), 0);
    assert_int_equal(offset(f, kept), 0);
    /* one that is being written lives until its end, which prolongs it */
    struct tus_patch *patch = begin(f, kept, 0, NULL);
    put(f, patch, "ab");
    expect(f, store_upload_mark(f->store, kept, 0, "", 0, false, &f->err), ERR_NONE);
    assert_int_equal(tus_expire(f->tus, &f->err), 0);
    assert_int_equal(end(f, patch, ERR_NONE), 2);
    assert_int_equal(offset(f, kept), 2);
}

/* Many threads push the same content; only one at a time gets through, and the content is right. */
struct pusher {
    struct fixture *f;
    const char *id;
};
enum { PUSHED = 5000 };

static void *push(void *arg)
{
    const struct pusher *p = arg;
    struct arena *arena = arena_new();
    for (;;) {
        struct tus_upload upload;
        struct err err = {0};
        if (tus_get(p->f->tus, "anna", p->id, arena, &upload, &err) != 0 || upload.offset == PUSHED)
            break;
        struct tus_append what = at(p->id, upload.offset, -1);
        struct tus_patch *patch = tus_patch_open(p->f->tus, &what, &err);
        char byte[500];
        for (size_t i = 0; i < sizeof byte; i++)
            byte[i] = (char)('a' + (upload.offset + (int64_t)i) % 26);
        size_t n = sizeof byte < (size_t)(PUSHED - upload.offset) ? sizeof byte : (size_t)(PUSHED - upload.offset);
        if (patch && tus_patch_write(patch, byte, n, &err) == 0)
            tus_patch_end(patch, arena, &upload, &err);
        tus_patch_close(patch);
    }
    arena_free(arena);
    return NULL;
}

static void test_many(void **state)
{
    struct fixture *f = *state;
    struct pusher pusher = {f, create(f, PUSHED)};
    pthread_t threads[4];
    char text[PUSHED], want[SHA256_HEX];
    for (int i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, push, &pusher), 0);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < PUSHED; i++)
        text[i] = (char)('a' + i % 26);
    hash_bytes(text, PUSHED, want);
    struct store_upload row;
    expect(f, tus_take(f->tus, "anna", pusher.id, f->arena, &row, &f->err), ERR_NONE);
    assert_string_equal(row.sha256, want);
    blob_unpin(f->blobs, row.sha256);
}

int main(void)
{
#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {T(test_rows),   T(test_limit), T(test_limit_of_models), T(test_many_uploads),    T(test_numbers), T(test_metadata),
                                       T(test_digests), T(test_pieces),  T(test_checksum), T(test_locks),
                                       T(test_restart), T(test_expiry),  T(test_many)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
