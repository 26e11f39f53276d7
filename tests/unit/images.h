/* SPDX-License-Identifier: Apache-2.0
 * images.h - a dataset of seeded byte images with a data.json, for tests. Include after cmocka.h. */
#ifndef PARED_TESTS_IMAGES_H
#define PARED_TESTS_IMAGES_H

#include "core/base/file.h"
#include "tests/unit/graphs.h"
#include "tests/unit/samples.h"

/* n images [h, w, c] of bytes with classes i % 3 in an npz; `more`: further keys of data.json, with a comma in front.
 * NULL on error. */
static inline struct dataset *images_open(int n, int h, int w, int c, const char *more, struct err *err)
{
    char folder[] = "/tmp/pared-images-XXXXXX", path[96], header[112], json[1024];
    unsigned char *x = malloc((size_t)(n * h * w * c));
    int64_t *y = malloc((size_t)n * sizeof *y);
    struct archive *a = archive_write_new();
    struct rng rng;
    assert_non_null(mkdtemp(folder));
    rng_init(&rng, 3, 0);
    for (int i = 0; i < n * h * w * c; i++)
        x[i] = (unsigned char)rng_below(&rng, 256);
    for (int i = 0; i < n; i++)
        y[i] = i % 3;
    snprintf(path, sizeof path, "%s/d.npz", folder);
    archive_write_set_format_zip(a);
    archive_write_zip_set_compression_store(a);
    assert_int_equal(archive_write_open_filename(a, path), ARCHIVE_OK);
    snprintf(header, sizeof header, "{'descr': '|u1', 'fortran_order': False, 'shape': (%d, %d, %d, %d), }", n, h, w,
             c);
    samples_member(a, "x.npy", header, x, (size_t)(n * h * w * c));
    snprintf(header, sizeof header, "{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }", n);
    samples_member(a, "y.npy", header, y, (size_t)n * sizeof *y);
    archive_write_close(a);
    archive_write_free(a);
    const int len = snprintf(json, sizeof json, "{\"format\": \"npz\", \"files\": {\"x\": \"d.npz\"}%s}", more);
    snprintf(path, sizeof path, "%s/data.json", folder);
    assert_int_equal(file_write_atomic(path, json, (size_t)len, err), 0);
    struct dataset *ds = dataset_open(path, NULL, err);
    file_remove_tree(folder, NULL);
    free(x);
    free(y);
    return ds;
}

/* A model whose one input has this shape. */
static inline struct model *images_model(struct shape input)
{
    struct model *m = g_new(17);
    const uint32_t x = g_input(m, "x", input);
    g_output(m, g_node(m, "Relu", "y", &x, 1));
    return m;
}

#endif
