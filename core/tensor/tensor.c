/* SPDX-License-Identifier: Apache-2.0 */
#include "core/tensor/tensor.h"

#include <inttypes.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/file.h"

struct tbuf {
    atomic_int refs;
    void *data;
    size_t bytes;
    void (*release)(void *data, size_t bytes); /* NULL: data came from aligned_alloc */
    bool mapped;
};

enum { ALIGN = 64 };
static size_t max_bytes = (size_t)64 << 30;

void tensor_set_limit(size_t bytes)
{
    max_bytes = bytes;
}

static struct tbuf *new_bytes(size_t bytes, bool zeroed, struct err *err)
{
    if (bytes > max_bytes) {
        err_set(err, ERR_MODEL_TOO_LARGE, "a tensor of %zu bytes is over the limit of %zu", bytes, max_bytes);
        return NULL;
    }
    struct tbuf *buf = malloc(sizeof *buf);
    size_t padded = bytes ? (bytes + ALIGN - 1) & ~(size_t)(ALIGN - 1) : ALIGN;
    void *data = buf ? aligned_alloc(ALIGN, padded) : NULL;
    if (!data) {
        free(buf);
        err_set(err, ERR_NOMEM, "out of memory for a tensor of %zu bytes", bytes);
        return NULL;
    }
    const size_t from = zeroed ? 0 : padded - ALIGN; /* at least what no element covers */
    memset((char *)data + from, 0, padded - from);
    *buf = (struct tbuf){.data = data, .bytes = bytes};
    atomic_init(&buf->refs, 1);
    return buf;
}

struct tbuf *tbuf_new(size_t bytes, struct err *err)
{
    return new_bytes(bytes, true, err);
}

struct tbuf *tbuf_wrap(void *data, size_t bytes, void (*release)(void *data, size_t bytes), struct err *err)
{
    struct tbuf *buf = malloc(sizeof *buf);
    if (!buf) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    *buf = (struct tbuf){.data = data, .bytes = bytes, .release = release};
    atomic_init(&buf->refs, 1);
    return buf;
}

void tbuf_set_mapped(struct tbuf *buf)
{
    buf->mapped = true;
}

struct tbuf *tbuf_ref(struct tbuf *buf)
{
    if (buf)
        atomic_fetch_add_explicit(&buf->refs, 1, memory_order_relaxed);
    return buf;
}

void tbuf_unref(struct tbuf *buf)
{
    if (!buf || atomic_fetch_sub_explicit(&buf->refs, 1, memory_order_acq_rel) != 1)
        return;
    if (buf->release)
        buf->release(buf->data, buf->bytes);
    else
        free(buf->data);
    free(buf);
}

void *tbuf_data(struct tbuf *buf)
{
    return buf->data;
}

static int count_bytes(enum dtype dtype, const struct shape *shape, size_t *bytes, struct err *err)
{
    char text[SHAPE_TEXT];
    int64_t n = shape_count(shape);
    if (n < 0 || !dtype_bytes(dtype, n, bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "no such tensor: %s%s", dtype_name(dtype), shape_text(shape, text));
    return 0;
}

static int alloc(struct tensor *t, enum dtype dtype, const struct shape *shape, bool zeroed, struct err *err)
{
    size_t bytes;
    *t = (struct tensor){0};
    if (count_bytes(dtype, shape, &bytes, err))
        return -1;
    struct tbuf *buf = new_bytes(bytes, zeroed, err);
    if (!buf)
        return -1;
    *t = (struct tensor){dtype, *shape, buf->data, bytes, buf};
    return 0;
}

int tensor_alloc(struct tensor *t, enum dtype dtype, const struct shape *shape, struct err *err)
{
    return alloc(t, dtype, shape, true, err);
}

int tensor_alloc_raw(struct tensor *t, enum dtype dtype, const struct shape *shape, struct err *err)
{
    return alloc(t, dtype, shape, false, err);
}

void tensor_view(struct tensor *t, enum dtype dtype, const struct shape *shape, void *data, struct tbuf *buf)
{
    size_t bytes = 0;
    count_bytes(dtype, shape, &bytes, NULL);
    *t = (struct tensor){dtype, *shape, data, bytes, tbuf_ref(buf)};
}

void tensor_ref(struct tensor *dst, const struct tensor *src)
{
    *dst = *src;
    tbuf_ref(dst->buf);
}

/* Strings: one buffer holds the array and, behind it, all bytes. */
static int copy_strings(struct tensor *dst, const struct tensor *src, struct err *err)
{
    const struct dtype_string *in = src->data;
    int64_t n = tensor_count(src);
    size_t total = src->bytes;
    for (int64_t i = 0; i < n; i++)
        total += in[i].len + 1;
    struct tbuf *buf = tbuf_new(total, err);
    if (!buf)
        return -1;
    struct dtype_string *out = buf->data;
    char *text = (char *)buf->data + src->bytes;
    for (int64_t i = 0; i < n; i++) {
        if (in[i].len)
            memcpy(text, in[i].data, in[i].len);
        out[i] = (struct dtype_string){text, in[i].len};
        text += in[i].len + 1;
    }
    *dst = (struct tensor){src->dtype, src->shape, buf->data, src->bytes, buf};
    return 0;
}

static void free_items(void *data, size_t bytes)
{
    struct tensor *items = data;
    for (size_t i = 0; i < bytes / sizeof *items; i++)
        tensor_fini(&items[i]);
    free(items);
}

int tensor_list(struct tensor *t, enum dtype kind, struct tensor *items, int64_t n, struct err *err)
{
    struct tensor *own = NULL;
    struct tbuf *buf = NULL;
    *t = (struct tensor){0};
    if (n < 0 || n > TENSOR_LIST_MAX) {
        err_set(err, ERR_MODEL_TOO_LARGE, "a sequence would have %" PRId64 " items; at most %d are held", n,
                TENSOR_LIST_MAX);
    } else {
        own = calloc((size_t)n + 1, sizeof *own);
        buf = own ? tbuf_wrap(own, (size_t)n * sizeof *own, free_items, err) : NULL;
        if (!own)
            err_set(err, ERR_NOMEM, "out of memory");
    }
    if (!buf) {
        free(own);
        for (int64_t i = 0; i < n; i++)
            tensor_fini(&items[i]);
        return -1;
    }
    size_t bytes = 0;
    for (int64_t i = 0; i < n; i++) {
        own[i] = items[i];
        items[i] = (struct tensor){0};
        bytes += sizeof *own + own[i].bytes;
    }
    *t = (struct tensor){kind, {1, {n}}, own, bytes, buf};
    return 0;
}

static int copy_list(struct tensor *dst, const struct tensor *src, struct err *err)
{
    const struct tensor *from = tensor_items(src);
    int64_t n = tensor_count(src);
    struct tensor *items = calloc((size_t)n + 1, sizeof *items);
    if (!items)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < n; i++)
        tensor_ref(&items[i], &from[i]);
    int rc = tensor_list(dst, src->dtype, items, n, err);
    free(items);
    return rc;
}

int tensor_copy(struct tensor *dst, const struct tensor *src, struct err *err)
{
    if (tensor_is_list(src))
        return copy_list(dst, src, err);
    if (src->dtype == DTYPE_STRING)
        return copy_strings(dst, src, err);
    if (tensor_alloc(dst, src->dtype, &src->shape, err))
        return -1;
    if (src->bytes)
        memcpy(dst->data, src->data, src->bytes);
    return 0;
}

int tensor_writable(struct tensor *t, struct err *err)
{
    if (t->buf && !t->buf->release && atomic_load(&t->buf->refs) == 1)
        return 0;
    struct tensor copy;
    if (tensor_copy(&copy, t, err))
        return -1;
    tensor_fini(t);
    *t = copy;
    return 0;
}

int tensor_convert(struct tensor *dst, const struct tensor *src, enum dtype to, struct err *err)
{
    if (tensor_alloc(dst, to, &src->shape, err))
        return -1;
    if (dtype_convert(to, dst->data, src->dtype, src->data, tensor_count(src)))
        return 0;
    tensor_fini(dst);
    return err_set(err, ERR_INVALID, "no conversion from %s to %s", dtype_name(src->dtype), dtype_name(to));
}

double *tensor_doubles(const struct tensor *t)
{
    const int64_t count = tensor_count(t);
    if (!dtype_is_float(t->dtype) || count < 0 || count > INT64_MAX / 16 || (!t->data && count != 0))
        return NULL;
    double *v = malloc((size_t)(count > 0 ? count : 1) * sizeof *v);
    if (v && !dtype_convert(DTYPE_DOUBLE, v, t->dtype, t->data, count)) {
        free(v);
        v = NULL;
    }
    return v;
}

int tensor_from_doubles(struct tensor *t, enum dtype dtype, const struct shape *shape, const double *v, struct err *err)
{
    *t = (struct tensor){0};
    if (tensor_alloc(t, dtype, shape, err))
        return -1;
    if (tensor_count(t) > 0 && !dtype_convert(dtype, t->data, DTYPE_DOUBLE, v, tensor_count(t))) {
        tensor_fini(t);
        return err_set(err, ERR_INTERNAL, "no conversion from double to %s", dtype_name(dtype));
    }
    return 0;
}

void tensor_release_pages(const struct tensor *t)
{
    if (t->buf && t->buf->mapped && t->data)
        file_forget_range(t->data, t->bytes);
}

void tensor_fini(struct tensor *t)
{
    tbuf_unref(t->buf);
    *t = (struct tensor){0};
}

int64_t tensor_count(const struct tensor *t)
{
    return shape_count(&t->shape);
}

bool tensor_equal(const struct tensor *a, const struct tensor *b)
{
    if (a->dtype != b->dtype || !shape_equal(&a->shape, &b->shape))
        return false;
    if (tensor_is_list(a)) {
        for (int64_t i = 0, n = tensor_count(a); i < n; i++)
            if (!tensor_equal(&tensor_items(a)[i], &tensor_items(b)[i]))
                return false;
        return true;
    }
    if (a->bytes != b->bytes)
        return false;
    if (a->dtype != DTYPE_STRING)
        return a->bytes == 0 || memcmp(a->data, b->data, a->bytes) == 0;
    const struct dtype_string *x = a->data, *y = b->data;
    for (int64_t i = 0, n = tensor_count(a); i < n; i++)
        if (x[i].len != y[i].len || (x[i].len && memcmp(x[i].data, y[i].data, x[i].len)))
            return false;
    return true;
}
