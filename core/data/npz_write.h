/* SPDX-License-Identifier: Apache-2.0
 * npz_write.h - arrays as numpy.savez writes them: a zip of stored .npy members.
 * Life cycle npz_writer_new -> npz_rows* -> npz_writer_close. Arrays grow side by side, batch by batch: each is
 *            spooled to an unnamed temporary file beside the result and copied in at the end, so nothing is held in
 *            memory. Always zip64.
 * Dtypes     as numpy has them; bfloat16, float8 and float4 are written as float32, int4 / uint4 (and 2 bits) as
 *            int8 / uint8, strings as fixed-width bytes ('|S', as wide as the longest), which cannot grow.
 * Errors     ERR_IO, ERR_DISK_FULL, ERR_INVALID. */
#ifndef PARED_DATA_NPZ_WRITE_H
#define PARED_DATA_NPZ_WRITE_H

#include "core/tensor/tensor.h"

struct npz_writer; /* opaque */

struct npz_writer *npz_writer_new(const char *path, struct err *err);
/* Append to the array `name` on axis 0 (made when first named; a scalar: once). Pieces agree in dtype and all other
 * axes. */
int npz_rows(struct npz_writer *w, const char *name, const struct tensor *t, struct err *err);
/* Writes the file. On error, or when `discard`, nothing is left of it. Frees w; NULL is fine. */
int npz_writer_close(struct npz_writer *w, bool discard, struct err *err);

#endif
