/* SPDX-License-Identifier: Apache-2.0
 * Out into files. Every file is written under a temporary name beside its place and renamed, data files first: a reader
 * of the folder sees the old model or the new one. Weights go from where they lie to the file, without a copy in
 * between. */
#include "core/model/onnx_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/file.h"
#include "core/model/onnx_encode.h"

enum { FORCED_THRESHOLD = 1024 };
#define MESSAGE_MAX ((uint64_t)INT32_MAX)

/* A file on its way. */
struct pending {
    char path[PATH_MAX], temp[PATH_MAX];
    int fd; /* -1: none */
};

static int pending_open(struct pending *p, struct err *err)
{
    if (snprintf(p->temp, sizeof p->temp, "%s.tmp%ld", p->path, (long)getpid()) >= (int)sizeof p->temp)
        return err_set(err, ERR_IO, "path too long");
    p->fd = open(p->temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    return p->fd < 0 ? err_set_errno(err, ERR_IO, "cannot create a file") : 0;
}

/* Sync and rename, or (rc != 0) remove. */
static int pending_close(struct pending *p, int rc, struct err *err)
{
    if (p->fd < 0)
        return rc;
    if (rc == 0 && fsync(p->fd))
        rc = err_set_errno(err, ERR_IO, "cannot sync");
    if (close(p->fd) && rc == 0)
        rc = err_set_errno(err, ERR_IO, "cannot close");
    if (rc == 0 && rename(p->temp, p->path))
        rc = err_set_errno(err, ERR_IO, "cannot rename");
    if (rc)
        unlink(p->temp);
    p->fd = -1;
    return rc;
}

typedef int sink_fn(void *arg, const void *bytes, size_t len, struct err *err);

/* The whole message in order. */
static int emit(const struct encoder *e, sink_fn *sink, void *arg, struct err *err)
{
    size_t at = 0;
    for (size_t i = 0; i < e->n_pieces; i++) {
        if (sink(arg, e->text.data + at, e->pieces[i].at - at, err) ||
            sink(arg, e->pieces[i].data, e->pieces[i].len, err))
            return -1;
        if (e->pieces[i].tensor)
            tensor_release_pages(e->pieces[i].tensor);
        at = e->pieces[i].at;
    }
    return e->text.len > at ? sink(arg, e->text.data + at, e->text.len - at, err) : 0;
}

static int to_fd(void *arg, const void *bytes, size_t len, struct err *err)
{
    return file_write_all(*(int *)arg, bytes, len, err);
}

static int to_buf(void *arg, const void *bytes, size_t len, struct err *err)
{
    buf_append(arg, bytes, len);
    return ((struct buf *)arg)->failed ? err_set(err, ERR_NOMEM, "out of memory") : 0;
}

/* --- external data --- */

static int by_place(const void *a, const void *b)
{
    const struct external_part *x = a, *y = b;
    int names = strcmp(x->location, y->location);
    if (names)
        return names;
    return x->offset < y->offset ? -1 : x->offset > y->offset;
}

/* Parts of one location, in order of offset. A part may start anywhere; what lies between is a hole. */
static int write_parts(int fd, const struct external_part *parts, size_t count, struct err *err)
{
    for (size_t i = 0; i < count; i++) {
        if (parts[i].offset > INT64_MAX || lseek(fd, (off_t)parts[i].offset, SEEK_SET) < 0)
            return err_set_errno(err, ERR_IO, "cannot seek");
        if (file_write_all(fd, parts[i].tensor->data, parts[i].tensor->bytes, err))
            return -1;
        tensor_release_pages(parts[i].tensor);
    }
    return 0;
}

static int data_path(struct pending *p, const char *model_path, const char *location, struct err *err)
{
    const char *slash = strrchr(model_path, '/');
    int dir = slash ? (int)(slash - model_path) + 1 : 0;
    if (!*location || strchr(location, '/') || strchr(location, '\\') || strstr(location, "..") ||
        !strcmp(location, "."))
        return err_set(err, ERR_MODEL, "external data location '%.200s' is no plain file name", location);
    if (!strcmp(model_path + dir, location))
        return err_set(err, ERR_MODEL, "external data location '%.200s' is the model file itself", location);
    if (snprintf(p->path, sizeof p->path, "%.*s%s", dir, model_path, location) >= (int)sizeof p->path)
        return err_set(err, ERR_IO, "path too long");
    return 0;
}

static int write_external(const struct encoder *e, const char *model_path, struct err *err)
{
    size_t next;
    if (e->n_parts)
        qsort(e->parts, e->n_parts, sizeof *e->parts, by_place);
    for (size_t i = 0; i < e->n_parts; i = next) {
        struct pending p = {.fd = -1};
        for (next = i; next < e->n_parts && !strcmp(e->parts[next].location, e->parts[i].location);)
            next++;
        int rc = data_path(&p, model_path, e->parts[i].location, err);
        if (rc == 0)
            rc = pending_open(&p, err);
        if (rc == 0)
            rc = write_parts(p.fd, e->parts + i, next - i, err);
        if (pending_close(&p, rc, err))
            return -1;
    }
    return 0;
}

/* --- entry points --- */

/* Encode as asked; once more with weights outside when the message is too large for protobuf. */
static int encode_for_file(struct encoder *e, const struct model *m, const struct onnx_write_opts *opts,
                           struct err *err)
{
    const char *name = opts && opts->external_name ? opts->external_name : "model.onnx.data";
    size_t threshold = opts ? opts->external_threshold : 0;
    *e = (struct encoder){
        .mode = threshold ? WEIGHTS_BY_SIZE : WEIGHTS_AS_STORED, .threshold = threshold, .external_name = name};
    int rc = encode_model(e, m);
    if (rc == 0 && encoder_size(e) > MESSAGE_MAX && (!threshold || threshold > FORCED_THRESHOLD)) {
        encoder_fini(e);
        *e = (struct encoder){.mode = WEIGHTS_BY_SIZE, .threshold = FORCED_THRESHOLD, .external_name = name};
        rc = encode_model(e, m);
    }
    if (rc)
        return err_set(err, ERR_NOMEM, "out of memory");
    if (encoder_size(e) > MESSAGE_MAX)
        return err_set(err, ERR_MODEL_TOO_LARGE, "the model without its weights is larger than 2 GiB");
    return 0;
}

static int write_whole(const struct encoder *e, const char *path, struct err *err)
{
    struct pending p = {.fd = -1};
    if (snprintf(p.path, sizeof p.path, "%s", path) >= (int)sizeof p.path)
        return err_set(err, ERR_IO, "path too long");
    int rc = pending_open(&p, err);
    if (rc == 0)
        rc = emit(e, to_fd, &p.fd, err);
    return pending_close(&p, rc, err);
}

int onnx_write_file(const struct model *m, const char *path, const struct onnx_write_opts *opts, struct err *err)
{
    struct encoder e;
    int rc = encode_for_file(&e, m, opts, err);
    if (rc == 0)
        rc = write_external(&e, path, err);
    if (rc == 0)
        rc = write_whole(&e, path, err);
    encoder_fini(&e);
    return rc;
}

int onnx_write_buf(const struct model *m, struct buf *out, struct err *err)
{
    struct encoder e = {.mode = WEIGHTS_INLINE};
    int rc = encode_model(&e, m) ? err_set(err, ERR_NOMEM, "out of memory") : 0;
    if (rc == 0)
        rc = emit(&e, to_buf, out, err);
    encoder_fini(&e);
    return rc;
}

int onnx_write_tensor_buf(const struct tensor *t, const char *name, struct buf *out, struct err *err)
{
    struct encoder e = {.mode = WEIGHTS_INLINE};
    int rc = encode_tensor(&e, t, name) ? err_set(err, ERR_NOMEM, "out of memory") : 0;
    if (rc == 0)
        rc = emit(&e, to_buf, out, err);
    encoder_fini(&e);
    return rc;
}

int onnx_write_tensor_file(const struct tensor *t, const char *name, const char *path, struct err *err)
{
    struct encoder e = {.mode = WEIGHTS_INLINE};
    int rc = encode_tensor(&e, t, name) ? err_set(err, ERR_NOMEM, "out of memory") : 0;
    if (rc == 0)
        rc = write_whole(&e, path, err);
    encoder_fini(&e);
    return rc;
}
