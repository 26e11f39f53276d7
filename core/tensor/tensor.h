/* SPDX-License-Identifier: Apache-2.0
 * tensor.h - a dtype, a shape and bytes, row-major and contiguous.
 * Ownership  bytes live in a `struct tbuf`: reference-counted, either owned memory, or a window of a mapped file (weights stay
 *            where they are), or borrowed memory. tensor_ref shares, tensor_writable makes the bytes private first (copy on
 *            write), so twenty candidates share one upload.
 * Threads    reference counts are atomic; the bytes of a shared buffer are read-only.
 * Errors     ERR_NOMEM, ERR_MODEL_TOO_LARGE (over the process limit, see tensor_set_limit). */
#ifndef PARED_TENSOR_TENSOR_H
#define PARED_TENSOR_TENSOR_H

#include "core/base/err.h"
#include "core/tensor/dtype.h"
#include "core/tensor/shape.h"

struct tbuf; /* opaque */

struct tensor {
    enum dtype dtype;
    struct shape shape;
    void *data;       /* NULL when the tensor has no bytes (or zero elements) */
    size_t bytes;     /* of data; dtype_bytes(dtype, count) */
    struct tbuf *buf; /* owner of data; NULL for borrowed data (a plan's slab, a stack array) */
};

/* A buffer of its own, 64-byte aligned, zeroed. The window functions keep `owner` alive by reference. */
struct tbuf *tbuf_new(size_t bytes, struct err *err);
/* Takes over `data`; `release(data, bytes)` is called when the last reference goes. */
struct tbuf *tbuf_wrap(void *data, size_t bytes, void (*release)(void *data, size_t bytes), struct err *err);
/* The bytes are a read-only private mapping of a file. */
void tbuf_set_mapped(struct tbuf *buf);
struct tbuf *tbuf_ref(struct tbuf *buf); /* NULL stays NULL */
void tbuf_unref(struct tbuf *buf);
void *tbuf_data(struct tbuf *buf);

/* Largest single tensor allocation allowed in this process, in bytes; default 64 GiB. Set once at start. */
void tensor_set_limit(size_t bytes);

/* New zeroed tensor with its own buffer. Shape must be known. */
int tensor_alloc(struct tensor *t, enum dtype dtype, const struct shape *shape, struct err *err);
/* As tensor_alloc, but the bytes are whatever they are. */
int tensor_alloc_raw(struct tensor *t, enum dtype dtype, const struct shape *shape, struct err *err);
/* A view of `data` inside `buf` (which gains a reference; NULL: borrowed). */
void tensor_view(struct tensor *t, enum dtype dtype, const struct shape *shape, void *data, struct tbuf *buf);
/* Another reference to the same bytes. dst must be empty or zeroed. Borrowed data is shared as borrowed. */
void tensor_ref(struct tensor *dst, const struct tensor *src);
/* A private deep copy. */
int tensor_copy(struct tensor *dst, const struct tensor *src, struct err *err);
/* Make the bytes private and writable (copies if shared, mapped or borrowed). */
int tensor_writable(struct tensor *t, struct err *err);
/* A new tensor of another dtype (dtype_convert). ERR_INVALID if there is no such conversion. */
int tensor_convert(struct tensor *dst, const struct tensor *src, enum dtype to, struct err *err);
/* Elements of a floating-point tensor as doubles, malloc'ed; NULL: not floating-point, without bytes, or memory is out. */
double *tensor_doubles(const struct tensor *t);
/* A new tensor of dtype `dtype` from doubles. */
int tensor_from_doubles(struct tensor *t, enum dtype dtype, const struct shape *shape, const double *v,
                        struct err *err);
/* The process may give the memory under these bytes back for now: those of a mapped file come back from it when they are
 * read again. Does nothing for other bytes. */
void tensor_release_pages(const struct tensor *t);
void tensor_fini(struct tensor *t); /* drops the reference; t is zeroed */

/* ---- lists ---- */
/* ONNX has values that are no tensors: a sequence of tensors, and an optional (nothing, a tensor or a sequence). They are held
 * in a struct tensor too, so that whatever carries tensors carries them: dtype is DTYPE_SEQUENCE or DTYPE_OPTIONAL, the shape is
 * [number of items], data an array of struct tensor that owns its items, bytes what the list and its items take. A list never
 * changes once it is made, and its items have bytes of their own; tensor_ref, tensor_copy (which shares the items),
 * tensor_equal and tensor_fini work on lists. */
enum { TENSOR_LIST_MAX = 1 << 20 }; /* items */
static inline bool tensor_is_list(const struct tensor *t) { return t->dtype == DTYPE_SEQUENCE || t->dtype == DTYPE_OPTIONAL; }
/* Takes over the n items (they are empty afterwards, also on error), which must own their bytes. */
int tensor_list(struct tensor *t, enum dtype kind, struct tensor *items, int64_t n, struct err *err);
static inline const struct tensor *tensor_items(const struct tensor *t) { return (const struct tensor *)t->data; }

int64_t tensor_count(const struct tensor *t); /* elements */
/* Bytes of strings are compared too; floats bit by bit. */
bool tensor_equal(const struct tensor *a, const struct tensor *b);
static inline float *tensor_f32(const struct tensor *t) { return (float *)t->data; }
static inline int64_t *tensor_i64(const struct tensor *t) { return (int64_t *)t->data; }

#endif
