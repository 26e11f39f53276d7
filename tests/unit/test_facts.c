/* SPDX-License-Identifier: Apache-2.0
 * core/report/facts.c: what counts as a parameter, bytes and zstd bytes of files, ratios, external file names. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zstd.h>

#include "core/model/parameters.h"
#include "core/report/facts.h"

static uint32_t add_weight(struct model *m, const char *name, enum dtype dtype, const struct shape *shape,
                           const double *values, int n)
{
    struct tensor t = {0};
    struct err err = {0};
    assert_int_equal(tensor_alloc(&t, dtype, shape, &err), 0);
    for (int i = 0; i < n; i++)
        dtype_set(dtype, t.data, i, values[i]);
    uint32_t v = model_add_weight(m, 0, name, &t);
    tensor_fini(&t);
    return v;
}

static const double six[] = {0, 1, -2, 3, 0, 5}, ones[] = {1, 1};

static void floats_count_and_shapes_do_not(void **state)
{
    (void)state;
    struct model *m = model_new();
    struct facts f;
    facts_init(&f);
    add_weight(m, "w", DTYPE_FLOAT, &SHAPE(2, 3), six, 6);
    add_weight(m, "h", DTYPE_FLOAT16, &SHAPE(6), six, 6);
    add_weight(m, "q", DTYPE_INT8, &SHAPE(3, 2), six, 6);
    add_weight(m, "shape", DTYPE_INT64, &SHAPE(2), six, 2);
    add_weight(m, "scalar", DTYPE_FLOAT, &SHAPE_SCALAR, ones, 1);
    add_weight(m, "flag", DTYPE_BOOL, &SHAPE(2), ones, 2);
    facts_weights(&f, m);
    assert_int_equal(f.params, 18);
    assert_int_equal(f.nonzero, 12);
    json_t *json = facts_json(&f);
    assert_true(fabs(json_real_value(json_object_get(json, "sparsity")) - 1.0 / 3) < 1e-12);
    assert_null(json_object_get(json, "bytes")); /* not measured: absent */
    assert_null(json_object_get(json, "macs"));
    assert_null(json_object_get(json, "latency_ms"));
    json_decref(json);
    facts_fini(&f);
    model_free(m);
}

/* The same product in float and quantized has the same number of parameters. */
static void quantizing_does_not_change_the_count(void **state)
{
    (void)state;
    struct model *m = model_new();
    struct facts f;
    const double codes[] = {128, 129, 126, 131, 128, 133}, zero[] = {128, 128}, bias[] = {7, 0};
    uint32_t w = add_weight(m, "w", DTYPE_UINT8, &SHAPE(2, 3), codes, 6);
    uint32_t s = add_weight(m, "s", DTYPE_FLOAT, &SHAPE(2), ones, 2),
             z = add_weight(m, "z", DTYPE_UINT8, &SHAPE(1), zero, 1);
    uint32_t b = add_weight(m, "b", DTYPE_INT32, &SHAPE(2), bias, 2),
             bs = add_weight(m, "bs", DTYPE_FLOAT, &SHAPE(2), ones, 2);
    uint32_t wf = model_add_value(m, 0, "wf", true), bf = model_add_value(m, 0, "bf", true);
    model_add_node(m, 0, "DequantizeLinear", NULL, "dq", (uint32_t[]){w, s, z}, 3, &wf, 1);
    model_add_node(m, 0, "DequantizeLinear", NULL, "dqb", (uint32_t[]){b, bs}, 2, &bf, 1);
    facts_init(&f);
    facts_weights(&f, m);
    assert_int_equal(f.params, 8);  /* 6 weights and 2 biases; no scale, no zero point */
    assert_int_equal(f.nonzero, 5); /* codes equal to the zero point stand for 0 */
    facts_fini(&f);
    model_free(m);
}

static void files_are_measured_by_streaming(void **state)
{
    (void)state;
    struct facts f;
    struct err err = {0};
    const size_t n = 3 * 1024 * 1024 + 17; /* several pieces */
    unsigned char *data = malloc(n);
    assert_non_null(data);
    for (size_t i = 0; i < n; i++)
        data[i] = (unsigned char)(i * i >> 7);
    char path[] = "/tmp/pared-test-XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    unlink(path);
    assert_int_equal(write(fd, data, n), (ssize_t)n);
    facts_init(&f);
    assert_int_equal(facts_add_file(&f, fd, NULL, NULL, &err), 0);
    assert_int_equal(f.bytes, n);
    size_t bound = ZSTD_compressBound(n);
    void *room = malloc(bound);
    size_t whole = ZSTD_compress(room, bound, data, n, 3); /* in one piece: the same but for the frame header */
    assert_true(llabs(f.zstd_bytes - (int64_t)whole) < 64 + (int64_t)whole / 50);
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(facts_add_file(&f, fd, NULL, NULL, &err), 0); /* sums up; an empty file is fine */
    assert_int_equal(f.bytes, n);
    facts_fini(&f);
    free(room);
    free(data);
    close(fd);
}

static int stop(void *arg, struct err *err)
{
    (void)arg;
    return err_set(err, ERR_CANCELED, "enough");
}

static void compressing_can_be_stopped(void **state)
{
    (void)state;
    struct facts f;
    struct err err = {0};
    char path[] = "/tmp/pared-test-XXXXXX";
    int fd = mkstemp(path);
    unlink(path);
    assert_int_equal(write(fd, "abc", 3), 3);
    facts_init(&f);
    assert_int_equal(facts_add_file(&f, fd, stop, NULL, &err), -1);
    assert_int_equal(err.code, ERR_CANCELED);
    assert_int_equal(f.bytes, -1);
    close(fd);
}

static void ratios_only_of_what_was_measured(void **state)
{
    (void)state;
    struct facts a, b;
    facts_init(&a);
    facts_init(&b);
    a.bytes = 200;
    b.bytes = 50;
    a.macs = 0;
    b.macs = 10;
    a.params = 10;
    json_t *r = facts_ratio_json(&a, &b);
    assert_true(json_real_value(json_object_get(r, "bytes")) == 0.25);
    assert_int_equal(json_object_size(r), 1);
    json_decref(r);
}

static void external_files_are_named_once(void **state)
{
    (void)state;
    struct model *m = model_new();
    struct err err = {0};
    const char **names, *const locations[] = {"a.bin", "b.bin", "a.bin"};
    int n;
    for (int i = 0; i < 3; i++) {
        char name[16];
        snprintf(name, sizeof name, "w%d", i);
        uint32_t v = add_weight(m, name, DTYPE_FLOAT, &SHAPE(2), ones, 2);
        struct weight *w = m->values[v].weight;
        w->storage = STORAGE_EXTERNAL;
        w->external.at = model_alloc(m, 1, sizeof *w->external.at);
        w->external.at[0] = (struct entry){.key = "location", .value = locations[i]};
        w->external.count = 1;
    }
    assert_int_equal(model_external_files(m, &names, &n, &err), 0);
    assert_int_equal(n, 2);
    assert_string_equal(names[0], "a.bin");
    assert_string_equal(names[1], "b.bin");
    free(names);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(floats_count_and_shapes_do_not),   cmocka_unit_test(quantizing_does_not_change_the_count),
        cmocka_unit_test(files_are_measured_by_streaming),  cmocka_unit_test(compressing_can_be_stopped),
        cmocka_unit_test(ratios_only_of_what_was_measured), cmocka_unit_test(external_files_are_named_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
