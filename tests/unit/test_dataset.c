/* SPDX-License-Identifier: Apache-2.0
 * core/data: formats written here byte by byte from their definitions, bad descriptions and files with the exact sentence. Values against
 * Pillow and NumPy are compared in tests/e2e/test_dataset.py. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <archive.h>
#include <archive_entry.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "core/base/file.h"
#include "core/data/dataset.h"
#include "core/data/description.h"
#include "core/data/picture.h"

static char dir[64];

static const char *in_dir(const char *name)
{
    static char path[8][256];
    static int turn;
    char *p = path[turn++ % 8];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    return p;
}

static const char *put(const char *name, const void *bytes, size_t len)
{
    const char *path = in_dir(name);
    struct err err = {0};
    assert_int_equal(file_write_atomic(path, bytes, len, &err), 0);
    return path;
}

/* An .npy file: header text padded to 64 bytes, then the data. */
static size_t make_npy(unsigned char *out, const char *descr, const char *order, const char *shape, const void *data, size_t len)
{
    char header[128];
    int n = snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': %s, 'shape': %s, }", descr, order, shape);
    memcpy(out, "\x93NUMPY\x01\x00", 8);
    out[8] = 118;
    out[9] = 0;
    memset(out + 10, ' ', 118);
    memcpy(out + 10, header, (size_t)n);
    out[127] = '\n';
    memcpy(out + 128, data, len);
    return 128 + len;
}

static const char *put_npz(const char *name, int count, const char *const *members, unsigned char *const *bytes, const size_t *sizes)
{
    const char *path = in_dir(name);
    struct archive *a = archive_write_new();
    archive_write_set_format_zip(a);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    for (int i = 0; i < count; i++) {
        struct archive_entry *e = archive_entry_new();
        archive_entry_set_pathname(e, members[i]);
        archive_entry_set_size(e, (la_int64_t)sizes[i]);
        archive_entry_set_filetype(e, AE_IFREG);
        archive_entry_set_perm(e, 0644);
        archive_write_header(a, e);
        archive_write_data(a, bytes[i], sizes[i]);
        archive_entry_free(e);
    }
    archive_write_close(a);
    archive_write_free(a);
    return path;
}

static struct model *model_with_input(const char *name, enum dtype dtype, struct shape shape)
{
    struct model *m = model_new();
    struct graph *g = model_main(m);
    uint32_t v = model_add_value(m, 0, name, false);
    g = model_main(m);
    g->inputs = model_alloc(m, 1, sizeof *g->inputs);
    g->n_inputs = 1;
    g->inputs[0].value = v;
    g->inputs[0].has_type = true;
    g->inputs[0].type = (struct type){.kind = TYPE_TENSOR, .dtype = dtype, .has_dtype = true, .has_shape = true, .shape = shape};
    return m;
}

static void npz_feeds_a_model(void **state)
{
    (void)state;
    float x[4][3] = {{1, 2, 3}, {4, 5, 6}, {7, 8, 9}, {10, 11, 12}};
    int64_t y[4] = {0, 1, 2, 1};
    unsigned char bx[512], by[512];
    size_t sizes[2] = {make_npy(bx, "<f4", "False", "(4, 3)", x, sizeof x), make_npy(by, "<i8", "False", "(4,)", y, sizeof y)};
    const char *path = put_npz("a.npz", 2, (const char *const[]){"x.npy", "y.npy"}, (unsigned char *const[]){bx, by}, sizes);
    struct err err = {0};
    struct dataset *ds = dataset_open(path, NULL, &err);
    assert_non_null(ds);
    assert_int_equal(dataset_count(ds), 4);
    assert_true(dataset_has_labels(ds) && dataset_labels_are_classes(ds));
    assert_int_equal(dataset_max_label(ds), 2);
    struct model *m = model_with_input("in", DTYPE_FLOAT, SHAPE(DIM_UNKNOWN, 3, 1)); /* same count: reshaped */
    assert_int_equal(dataset_bind(ds, m, &err), 0);
    struct tensor in, labels;
    assert_int_equal(dataset_read(ds, (int64_t[]){3, 1}, 2, &in, &labels, &err), 0);
    assert_true(in.shape.rank == 3 && in.shape.dim[0] == 2 && in.shape.dim[1] == 3 && in.shape.dim[2] == 1);
    assert_memory_equal(in.data, ((float[]){10, 11, 12, 4, 5, 6}), 24);
    assert_memory_equal(labels.data, ((int64_t[]){1, 1}), 16);
    tensor_fini(&in);
    tensor_fini(&labels);
    assert_int_equal(dataset_check_labels(ds, 3, &err), 0);
    assert_int_equal(dataset_check_labels(ds, 2, &err), -1);
    assert_string_equal(err.msg, "label 2 of sample 2 is out of range: the model has 2 classes, 0 to 1");
    err = (struct err){0};
    int64_t *index;
    assert_int_equal(dataset_spread(ds, 2, &index, &err), 2);
    assert_int_equal(index[1], 2); /* every second, not the first two */
    free(index);
    model_free(m);
    m = model_with_input("in", DTYPE_FLOAT, SHAPE(DIM_UNKNOWN, 5));
    assert_int_equal(dataset_bind(ds, m, &err), -1);
    assert_string_equal(err.msg, "a sample is [3], the model's input 'in' wants [5]");
    model_free(m);
    dataset_close(ds);
}

static void nan_is_refused_with_its_sample(void **state)
{
    (void)state;
    float x[2][2] = {{1, 2}, {3, NAN}};
    unsigned char b[512];
    const char *path = put("nan.npy", b, make_npy(b, "<f4", "False", "(2, 2)", x, sizeof x));
    struct err err = {0};
    struct dataset *ds = dataset_open(path, NULL, &err);
    assert_non_null(ds);
    assert_int_equal(dataset_check_values(ds, &err), -1);
    assert_string_equal(err.msg, "dataset: sample 1 of array 'x': value 1 is NaN; remove or repair the sample");
    dataset_close(ds);
}

static void idx_gz_with_pixels(void **state)
{
    (void)state;
    unsigned char idx[16 + 2 * 2 * 3] = {0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 3};
    for (int i = 0; i < 12; i++)
        idx[16 + i] = (unsigned char)(i * 20);
    gzFile gz = gzopen(in_dir("x.gz"), "wb");
    gzwrite(gz, idx, sizeof idx);
    gzclose(gz);
    const char *json = "{\"format\":\"idx\",\"files\":{\"x\":\"x.gz\"},\"preprocess\":{\"channels\":\"gray\",\"scale\":0.5,\"mean\":[10],\"std\":[2]}}";
    struct err err = {0};
    struct dataset *ds = dataset_open(put("data.json", json, strlen(json)), NULL, &err);
    assert_non_null(ds);
    struct model *m = model_with_input("in", DTYPE_FLOAT, SHAPE(1, 1, 2, 3));
    assert_int_equal(dataset_bind(ds, m, &err), 0);
    struct tensor in;
    assert_int_equal(dataset_read_range(ds, 1, 1, &in, NULL, &err), 0);
    for (int i = 0; i < 6; i++)
        assert_true(tensor_f32(&in)[i] == ((float)((i + 6) * 20) * 0.5f - 10.0f) / 2.0f);
    tensor_fini(&in);
    model_free(m);
    dataset_close(ds);
}

static void cifar10_records_are_planar_rgb(void **state)
{
    (void)state;
    unsigned char *records = calloc(2, 3073);
    records[3073] = 9;
    for (int i = 0; i < 3072; i++)
        records[3074 + i] = (unsigned char)(i / 1024 * 100 + i % 7);
    const char *path = put("cifar.bin", records, 2 * 3073);
    struct err err = {0};
    struct dataset *ds = dataset_open(path, NULL, &err);
    assert_non_null(ds);
    struct model *m = model_with_input("in", DTYPE_FLOAT, SHAPE(DIM_UNKNOWN, 3, 32, 32));
    assert_int_equal(dataset_bind(ds, m, &err), 0);
    struct tensor in, y;
    assert_int_equal(dataset_read_range(ds, 1, 1, &in, &y, &err), 0);
    assert_int_equal(tensor_i64(&y)[0], 9);
    for (int i = 0; i < 3072; i++)
        assert_true(tensor_f32(&in)[i] == (float)records[3074 + i] * (float)(1.0 / 255));
    tensor_fini(&in);
    tensor_fini(&y);
    model_free(m);
    dataset_close(ds);
    free(records);
}

static void shuffle_offset_and_limit_make_a_window(void **state)
{
    (void)state;
    uint8_t x[100];
    for (int i = 0; i < 100; i++)
        x[i] = (uint8_t)i;
    unsigned char b[512];
    put("n.npy", b, make_npy(b, "|u1", "False", "(100, 1)", x, sizeof x));
    const char *json = "{\"format\":\"npz\",\"files\":{\"x\":\"n.npy\"},\"shuffle\":true,\"offset\":90,\"limit\":5,\"preprocess\":{\"scale\":1}}";
    const char *path = put("w.json", json, strlen(json));
    struct err err = {0};
    struct model *m = model_with_input("in", DTYPE_FLOAT, SHAPE(DIM_UNKNOWN, 1));
    float seen[2][5];
    for (int run = 0; run < 2; run++) {
        struct dataset *ds = dataset_open(path, &(struct dataset_opts){.seed = 3}, &err);
        struct tensor in;
        assert_non_null(ds);
        assert_int_equal(dataset_count(ds), 5);
        assert_int_equal(dataset_bind(ds, m, &err), 0);
        assert_int_equal(dataset_read_range(ds, 0, 5, &in, NULL, &err), 0);
        memcpy(seen[run], in.data, sizeof seen[run]);
        tensor_fini(&in);
        dataset_close(ds);
    }
    assert_memory_equal(seen[0], seen[1], sizeof seen[0]);
    assert_false(seen[0][0] == 90 && seen[0][1] == 91 && seen[0][2] == 92);
    model_free(m);
}

static void bad_files_get_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *name, *bytes;
        size_t len;
        const char *sentence;
    } rows[] = {
        {"e1", "", 0, "dataset: the file is empty"},
        {"e2", "hello world", 11,
         "dataset: no known dataset format; use .npz, .npy, IDX, CIFAR-10 .bin, a .tar, .tar.gz or .zip of pictures, or a data.json"},
        {"e3", "{", 1, "dataset: data.json is not JSON: string or '}' expected near end of file at line 1, column 1"},
        {"e4", "{}", 2, "dataset: data.json /format: must be one of npz, idx, cifar10, images, onnx"},
        {"e5", "{\"format\":\"idx\",\"colour\":1}", 27,
         "dataset: data.json /colour: unknown key; known are format, files, inputs, preprocess, augment, classes, offset, limit, shuffle"},
        {"e6", "{\"format\":\"idx\",\"files\":{\"x\":\"../x\"}}", 37, "dataset: data.json /files: '../x' must be a plain file name"},
        {"e7", "{\"format\":\"idx\",\"files\":{\"x\":\"gone\"}}", 37, "dataset: data.json /files: 'gone' is missing"},
        {"e8", "{\"format\":\"idx\",\"files\":{\"x\":\"e2\"},\"limit\":0}", 45,
         "dataset: data.json /limit: must be a whole number from 1 to 9223372036854775807"},
        {"e9", "{\"format\":\"idx\",\"files\":{\"x\":\"e2\"},\"preprocess\":{\"std\":[0]}}", 60,
         "dataset: data.json /preprocess/std: must hold numbers above 0"},
        {"e10", "\0\0\x08\x01\0\0\0\x05\x01\x02", 10, "dataset: array 'x' of uint8[5] does not match its 2 bytes of data"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct err err = {0};
        const char *path = put(rows[i].name, rows[i].bytes, rows[i].len);
        assert_null(dataset_open(path, &(struct dataset_opts){.confined = true}, &err));
        assert_string_equal(err.msg, rows[i].sentence);
        assert_int_equal(err.code, ERR_DATASET);
    }
}

/* A stranger's data.json reaches no file through a link, unless the caller laid the links out. */
static void links_are_the_callers(void **state)
{
    (void)state;
    static const char idx[] = "\0\0\x08\x01\0\0\0\x02\x01\x02", json[] = "{\"format\":\"idx\",\"files\":{\"x\":\"linked\"}}";
    struct err err = {0};
    char to[PATH_MAX];
    snprintf(to, sizeof to, "%s", put("linked", "", 0));
    assert_int_equal(unlink(to), 0);
    assert_int_equal(symlink(put("behind", idx, sizeof idx - 1), to), 0);
    const char *path = put("links.json", json, sizeof json - 1);
    assert_null(dataset_open(path, &(struct dataset_opts){.confined = true}, &err));
    assert_string_equal(err.msg, "dataset: data.json /files: 'linked' is a link; it must be the file itself");
    err = (struct err){0};
    struct dataset *ds = dataset_open(path, &(struct dataset_opts){.confined = true, .own_links = true}, &err);
    assert_non_null(ds);
    assert_int_equal(dataset_count(ds), 2);
    dataset_close(ds);
}

static void bad_npy_headers_get_a_sentence(void **state)
{
    (void)state;
    static const struct {
        const char *descr, *order, *shape, *sentence;
    } rows[] = {
        {">f4", "False", "(1,)", "dataset: array 'x' has element type '>f4'; use bool, integers or float16/32/64, little-endian"},
        {"<f4", "True", "(1,)", "dataset: array 'x' is in Fortran order; save it with numpy.ascontiguousarray"},
        {"<f4", "False", "(-1,)", "dataset: array 'x' has no readable shape in its header"},
        {"<f4", "False", "(2,)", "dataset: array 'x' of float32[2] does not match its 4 bytes of data"},
        {"<f4", "False", "(4611686018427387904, 8)", "dataset: array 'x' of float32[4611686018427387904,8] does not match its 4 bytes of data"},
        {"<f4", "False", "()", "dataset: array 'x' is a scalar; its first axis should count the samples"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        unsigned char b[512];
        struct err err = {0};
        const char *path = put("bad.npy", b, make_npy(b, rows[i].descr, rows[i].order, rows[i].shape, "abcd", 4));
        assert_null(dataset_open(path, NULL, &err));
        assert_string_equal(err.msg, rows[i].sentence);
    }
}

static void bombs_are_refused(void **state)
{
    (void)state;
    gzFile gz = gzopen(in_dir("bomb.gz"), "wb9");
    char *zeros = calloc(1, 1 << 20);
    for (int i = 0; i < 80; i++)
        gzwrite(gz, zeros, 1 << 20);
    gzclose(gz);
    free(zeros);
    struct err err = {0};
    assert_null(dataset_open(in_dir("bomb.gz"), NULL, &err));
    assert_non_null(strstr(err.msg, "refused as a zip bomb"));
    err = (struct err){0};
    assert_null(dataset_open(in_dir("bomb.gz"), &(struct dataset_opts){.max_unpacked_bytes = 1000}, &err));
    assert_string_equal(err.msg, "dataset: unpacks to more than the limit of 1000 bytes");
}

static void pictures_resize_in_exact_steps(void **state)
{
    (void)state;
    /* 4 x 2 gray to 2 x 2: a triangle of support 2 around each half; by hand: weights of pixels 0..2 at center 1 are
     * 0.75, 0.75, 0.25 of 1.75 in all (clamped at the edge). */
    struct err err = {0};
    struct picture p = {4, 2, 1, malloc(8)};
    memcpy(p.pixels, (unsigned char[]){0, 70, 140, 210, 0, 70, 140, 210}, 8);
    assert_int_equal(picture_resize(&p, 2, 2, &err), 0);
    assert_int_equal(p.pixels[0], (int)floor((0.75 * 70 + 0.25 * 140) / 1.75 + 0.5));
    assert_int_equal(p.pixels[1], (int)floor((0.25 * 70 + 0.75 * 140 + 0.75 * 210) / 1.75 + 0.5));
    assert_int_equal(picture_center_crop(&p, 3, &err), -1);
    assert_string_equal(err.msg, "center_crop 3 is larger than the picture of 2 x 2");
    picture_fini(&p);
    err = (struct err){0};
    assert_int_equal(picture_decode(&p, (const unsigned char *)"GIF89a", 6, 3, &err), -1);
    assert_string_equal(err.msg, "neither JPEG nor PNG (by its first bytes)");
}

static int setup(void **state)
{
    (void)state;
    strcpy(dir, "/tmp/pared-data-test-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(dir, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(npz_feeds_a_model),
        cmocka_unit_test(nan_is_refused_with_its_sample),
        cmocka_unit_test(idx_gz_with_pixels),
        cmocka_unit_test(cifar10_records_are_planar_rgb),
        cmocka_unit_test(shuffle_offset_and_limit_make_a_window),
        cmocka_unit_test(bad_files_get_a_sentence),
        cmocka_unit_test(links_are_the_callers),
        cmocka_unit_test(bad_npy_headers_get_a_sentence),
        cmocka_unit_test(bombs_are_refused),
        cmocka_unit_test(pictures_resize_in_exact_steps),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
