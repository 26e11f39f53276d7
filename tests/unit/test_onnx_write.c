/* SPDX-License-Identifier: Apache-2.0
 * Reading and writing without a step gives the same file, byte for byte: every model of Debian's libonnx-testdata and
 * of the shared folder (packed ones unpacked first). Files that are not in canonical field order would be listed;
 * tests/e2e/test_roundtrip.py compares those as messages. `test_onnx_write --copy IN OUT` reads and writes one file for
 * it. */
/* clang-format off */
#include <ftw.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include <cmocka.h>
/* clang-format on */

#include "core/base/file.h"
#include "core/model/onnx_read.h"
#include "core/model/onnx_write.h"
#include "core/model/validate.h"
#include "tests/unit/wire_bytes.h"

static char folder[] = "/tmp/pared-test-XXXXXX";
static const struct onnx_read_opts lenient = {.allow_missing_external = true};
static int files, different, refused;

/* The written bytes equal the file's; a clone, made before its original is freed, writes the same. */
static void check_bytes(const char *path, const void *bytes, size_t len)
{
    struct err err = {0};
    struct buf out = {0};
    struct tbuf *copy = tbuf_new(len, &err);
    assert_non_null(copy);
    memcpy(tbuf_data(copy), bytes, len);
    struct model *m = onnx_read_bytes(copy, len, &lenient, &err), *clone = NULL;
    tbuf_unref(copy);
    files++;
    if (!m || model_validate(m, &err)) {
        printf("refused: %s: %s\n", path, err.msg);
        refused++;
    } else {
        clone = model_clone(m, &err);
    }
    model_free(m);
    if (clone) {
        assert_int_equal(onnx_write_buf(clone, &out, &err), 0);
        if (out.len != len || memcmp(out.data, bytes, len) != 0) {
            printf("not canonical: %s\n", path);
            different++;
        }
    }
    model_free(clone);
    buf_fini(&out);
}

static int visit(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)ftw;
    size_t n = strlen(path);
    bool packed = n > 8 && !strcmp(path + n - 8, ".onnx.gz");
    if (flag != FTW_F || (!packed && (n < 5 || strcmp(path + n - 5, ".onnx") != 0)))
        return 0;
    size_t cap = packed ? (size_t)8 << 20 : (size_t)st->st_size;
    unsigned char *bytes = malloc(cap + 1);
    gzFile f = gzopen(path, "rb"); /* reads plain files as they are */
    assert_non_null(bytes);
    assert_non_null(f);
    int len = gzread(f, bytes, (unsigned)cap);
    gzclose(f);
    assert_true(len > 0);
    check_bytes(path, bytes, (size_t)len);
    free(bytes);
    return 0;
}

static void round_trip(const char *what, const char *dir, int at_least)
{
    files = different = refused = 0;
    if (access(dir, R_OK)) {
        printf("skipped: no %s\n", what);
        skip();
    }
    nftw(dir, visit, 16, FTW_PHYS);
    printf("%s: %d models, %d byte for byte, %d not canonical, %d refused\n", what, files, files - different - refused,
           different, refused);
    assert_true(files >= at_least);
    assert_int_equal(different, 0);
    assert_int_equal(refused, 0);
}

static void test_backend_models(void **state)
{
    (void)state;
    round_trip("libonnx-testdata", "/usr/share/libonnx-testdata", 1000);
}

static void test_shared_models(void **state)
{
    (void)state;
    char dir[1024];
    const char *shared = getenv("PARED_SHARED");
    snprintf(dir, sizeof dir, "%s/models", shared ? shared : "../shared");
    round_trip("shared data", dir, 20);
}

/* A graph y = Relu(x) with one weight. */
static struct model *small_model(struct err *err)
{
    struct buf g = {0};
    wb_node(&g, "Relu", "relu", "x", "y");
    wb_initializer(&g, "w", (int64_t[]){1024}, 1, 4096);
    wb_value(&g, 11, "x", 4);
    wb_value(&g, 12, "y", 4);
    struct buf b = wb_model(&g, 13);
    struct tbuf *bytes = tbuf_new(b.len, err);
    memcpy(tbuf_data(bytes), b.data, b.len);
    struct model *m = onnx_read_bytes(bytes, b.len, NULL, err);
    tbuf_unref(bytes);
    buf_fini(&b);
    assert_non_null(m);
    struct weight *w = m->values[model_find_value(m, 0, "w")].weight;
    assert_int_equal(tensor_writable(&w->tensor, err), 0);
    for (int i = 0; i < 1024; i++)
        tensor_f32(&w->tensor)[i] = (float)i;
    return m;
}

static void test_external(void **state)
{
    (void)state;
    struct err err = {0};
    struct model *m = small_model(&err);
    char path[256], data[256];
    struct stat st;
    snprintf(path, sizeof path, "%s/m.onnx", folder);
    snprintf(data, sizeof data, "%s/m.data", folder);
    struct onnx_write_opts opts = {.external_threshold = 1000, .external_name = "m.data"};
    assert_int_equal(onnx_write_file(m, path, &opts, &err), 0);
    model_free(m);
    assert_int_equal(stat(data, &st), 0);
    assert_int_equal(st.st_size, 4096);
    assert_int_equal(stat(path, &st), 0);
    assert_true(st.st_size < 400);
    for (int round = 0; round < 2; round++) { /* the second time: over itself, as stored */
        m = onnx_read_file(path, NULL, &err);
        assert_non_null(m);
        const struct tensor *t = value_const(m, model_find_value(m, 0, "w"));
        for (int i = 0; i < 1024; i++)
            assert_float_equal(tensor_f32(t)[i], i, 0);
        assert_int_equal(onnx_write_file(m, path, NULL, &err), 0);
        model_free(m);
    }
    assert_int_equal(stat(data, &st), 0);
    assert_int_equal(st.st_size, 4096);
}

/* A folder that does not exist, or no room: nothing is left. */
static void test_whole_or_not_at_all(void **state)
{
    (void)state;
    struct err err = {0};
    struct model *m = small_model(&err);
    assert_int_equal(onnx_write_file(m, "/nonexistent/m.onnx", NULL, &err), -1);
    assert_string_equal(err.msg, "cannot create: No such file or directory");
    char dir[200], path[256];
    struct rlimit whole, small;
    snprintf(dir, sizeof dir, "%s/full", folder);
    snprintf(path, sizeof path, "%s/m.onnx", dir);
    assert_int_equal(mkdir(dir, 0700), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &whole), 0);
    small = (struct rlimit){32, whole.rlim_max}; /* room for the first bytes only */
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    err = (struct err){0};
    assert_int_equal(onnx_write_file(m, path, NULL, &err), -1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &whole), 0);
    assert_string_equal(err.msg, "cannot write: File too large");
    assert_int_equal(rmdir(dir), 0); /* the folder is empty */
    model_free(m);
}

static void test_tensor_file(void **state)
{
    (void)state;
    struct err err = {0};
    char path[256], name[32];
    struct tensor t, back;
    assert_int_equal(tensor_alloc(&t, DTYPE_INT64, &SHAPE(2, 3), &err), 0);
    for (int i = 0; i < 6; i++)
        tensor_i64(&t)[i] = i - 3;
    snprintf(path, sizeof path, "%s/t.pb", folder);
    assert_int_equal(onnx_write_tensor_file(&t, "input", path, &err), 0);
    assert_int_equal(onnx_read_tensor_file(&back, name, sizeof name, path, &err), 0);
    assert_string_equal(name, "input");
    assert_true(tensor_equal(&t, &back));
    tensor_fini(&back);
    tensor_fini(&t);
}

static int copy(const char *from, const char *to)
{
    struct err err = {0};
    struct model *m = onnx_read_file(from, &lenient, &err);
    int rc = m ? onnx_write_file(m, to, NULL, &err) : -1;
    if (rc)
        fprintf(stderr, "%s\n", err.msg);
    model_free(m);
    return rc ? 1 : 0;
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(folder, NULL);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "--copy"))
        return copy(argv[2], argv[3]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_backend_models), cmocka_unit_test(test_shared_models),
        cmocka_unit_test(test_external),       cmocka_unit_test(test_whole_or_not_at_all),
        cmocka_unit_test(test_tensor_file),
    };
    return cmocka_run_group_tests_name("onnx_write", tests, setup, teardown);
}
