/* SPDX-License-Identifier: Apache-2.0
 * spill.h - tensors whose bytes lie in an unnamed temporary file instead of the heap.
 * Why        a step that makes new weights for a model of many gigabytes must not hold them all in memory: the
 *            kernel may write these pages out, and tensor_release_pages gives them back at once.
 * Where      $TMPDIR or /tmp. Small tensors, and all of them where there is no such file or no room in it, are
 *            ordinary ones: spilling saves memory, nothing depends on it. Disk space is reserved first, so a full
 *            disk is no SIGBUS.
 * Life cycle spill_new -> spill_tensor* -> spill_free, in any order with the tensors' own ends: they keep their bytes.
 * Threads    one at a time. */
#ifndef PARED_TENSOR_SPILL_H
#define PARED_TENSOR_SPILL_H

#include "core/tensor/tensor.h"

struct spill;

struct spill *spill_new(struct err *err); /* NULL: out of memory */
void spill_free(struct spill *s);
/* A new zeroed tensor; write its bytes before sharing it. */
int spill_tensor(struct spill *s, struct tensor *t, enum dtype dtype, const struct shape *shape, struct err *err);

#endif
