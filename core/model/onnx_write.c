/* SPDX-License-Identifier: Apache-2.0
 * Out into files. Every file is written under a temporary name beside its place and renamed, data files first: a reader
 * of the folder sees the old model or the new one. Weights go from where they lie to the file, without a copy in
 * between. */
#include "core/model/onnx_write.h"

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

static int data_path(char path[PATH_MAX], const char *model_path, const char *location, struct err *err)
{
    const char *slash = strrchr(model_path, '/');
    int dir = slash ? (int)(slash - model_path) + 1 : 0;
    if (!*location || strchr(location, '/') || strchr(location, '\\') || strstr(location, "..") ||
        !strcmp(location, "."))
        return err_set(err, ERR_MODEL, "external data location '%.200s' is no plain file name", location);
    if (!strcmp(model_path + dir, location))
        return err_set(err, ERR_MODEL, "external data location '%.200s' is the model file itself", location);
    if (snprintf(path, PATH_MAX, "%.*s%s", dir, model_path, location) >= PATH_MAX)
        return err_set(err, ERR_IO, "path too long");
    return 0;
}

static int write_external(const struct encoder *e, const char *model_path, struct err *err)
{
    size_t next;
    if (e->n_parts)
        qsort(e->parts, e->n_parts, sizeof *e->parts, by_place);
    for (size_t i = 0; i < e->n_parts; i = next) {
        char path[PATH_MAX];
        struct file_draft draft;
        for (next = i; next < e->n_parts && !strcmp(e->parts[next].location, e->parts[i].location);)
            next++;
        if (data_path(path, model_path, e->parts[i].location, err) || file_draft_open(&draft, path, NULL, 0644, err) ||
            file_draft_finish(&draft, write_parts(draft.fd, e->parts + i, next - i, err), err))
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
    struct file_draft draft;
    if (file_draft_open(&draft, path, NULL, 0644, err))
        return -1;
    return file_draft_finish(&draft, emit(e, to_fd, &draft.fd, err), err);
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
