/* SPDX-License-Identifier: Apache-2.0
 * samples.h - a dataset of float vectors, with or without classes, for tests: an .npz in a temporary file. Include
 * after cmocka.h. */
#ifndef PARED_TESTS_SAMPLES_H
#define PARED_TESTS_SAMPLES_H

#include <archive.h>
#include <archive_entry.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/data/dataset.h"

static inline void samples_member(struct archive *a, const char *name, const char *header, const void *data, size_t len)
{
    char head[129];
    struct archive_entry *e = archive_entry_new();
    memcpy(head, "\x93NUMPY\x01\x00\x76\x00", 10);
    snprintf(head + 10, sizeof head - 10, "%-117s\n", header);
    archive_entry_set_pathname(e, name);
    archive_entry_set_size(e, (la_int64_t)(128 + len));
    archive_entry_set_filetype(e, AE_IFREG);
    archive_entry_set_perm(e, 0644);
    assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
    assert_int_equal(archive_write_data(a, head, 128), 128);
    assert_int_equal(archive_write_data(a, data, len), (la_ssize_t)len);
    archive_entry_free(e);
}

/* x: n rows of k; y: n classes or NULL. */
static inline struct dataset *samples_open(const float *x, int64_t n, int64_t k, const int64_t *y,
                                           const struct model *m)
{
    char path[] = "/tmp/pared-samples-XXXXXX.npz", header[96];
    struct err err = {0};
    const int fd = mkstemps(path, 4);
    struct archive *a = archive_write_new();
    assert_true(fd >= 0);
    archive_write_set_format_zip(a);
    archive_write_zip_set_compression_store(a);
    assert_int_equal(archive_write_open_fd(a, fd), ARCHIVE_OK);
    snprintf(header, sizeof header, "{'descr': '<f4', 'fortran_order': False, 'shape': (%d, %d), }", (int)n, (int)k);
    samples_member(a, "x.npy", header, x, (size_t)(n * k) * sizeof *x);
    snprintf(header, sizeof header, "{'descr': '<i8', 'fortran_order': False, 'shape': (%d,), }", (int)n);
    if (y)
        samples_member(a, "y.npy", header, y, (size_t)n * sizeof *y);
    archive_write_close(a);
    archive_write_free(a);
    close(fd);
    struct dataset *ds = dataset_open(path, NULL, &err);
    unlink(path);
    if (!ds || dataset_bind(ds, m, &err))
        fail_msg("samples: %s", err.msg);
    return ds;
}

#endif
