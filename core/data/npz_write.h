/* SPDX-License-Identifier: Apache-2.0
 * npz_write.h - arrays as numpy.savez writes them: a zip of stored .npy members, streamed to a file.
 * Life cycle npz_writer_new -> (npz_begin -> npz_rows* -> npz_end)* -> npz_writer_close. The member's rows may come in pieces: sizes are patched in
 *            when it ends, so nothing is held in memory. zip64 is used from 4 GiB on.
 * Dtypes     as numpy has them; bfloat16, float8 and float4 are written as float32, int4 / uint4 (and 2 bits) as int8 / uint8, strings as
 *            fixed-width bytes ('|S'): longest of all rows, so a string member is written in one piece.
 * Errors     ERR_IO, ERR_DISK_FULL, ERR_INVALID. */
#ifndef PARED_DATA_NPZ_WRITE_H
#define PARED_DATA_NPZ_WRITE_H

#include "core/tensor/tensor.h"

struct npz_writer; /* opaque */

struct npz_writer *npz_writer_new(const char *path, struct err *err);
/* One member from pieces that follow each other on axis 0 (a scalar: one piece). Pieces agree in dtype and all other axes. */
int npz_begin(struct npz_writer *w, const char *name, struct err *err);
int npz_rows(struct npz_writer *w, const struct tensor *t, struct err *err);
int npz_end(struct npz_writer *w, struct err *err);
/* Ends the file (the central directory). On error, or when `discard`, the file is removed. Frees w. */
int npz_writer_close(struct npz_writer *w, bool discard, struct err *err);

#endif
