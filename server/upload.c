/* SPDX-License-Identifier: Apache-2.0 */
#include "server/upload.h"

#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "server/multipart.h"

static int out_of_memory(struct err *err)
{
    return err_set(err, ERR_NOMEM, "Out of memory.");
}

/* "C:\\models\\m.onnx" and "models/m.onnx" are m.onnx: where it lay is the client's business. */
static const char *last_component(const char *path)
{
    const char *at = path;
    for (const char *c = path; *c; c++)
        if (*c == '/' || *c == '\\')
            at = c + 1;
    return at;
}

static int begin(void *arg, const char *field, const char *filename, struct err *err)
{
    struct upload *upload = arg;
    if (upload->count == upload->cap) {
        int cap = upload->cap ? upload->cap * 2 : 4;
        struct upload_file *files = realloc(upload->files, (size_t)cap * sizeof *files);
        if (!files)
            return out_of_memory(err);
        upload->files = files;
        upload->cap = cap;
    }
    struct upload_file file = {arena_strdup(upload->arena, field),
                               arena_strdup(upload->arena, last_component(filename)), NULL};
    if (!file.field || !file.filename)
        return out_of_memory(err);
    for (int i = 0; i < upload->count; i++)
        if (strcmp(upload->files[i].field, field) == 0 && strcmp(upload->files[i].filename, file.filename) == 0)
            return err_set(err, ERR_INVALID, "Two parts have the name '%s' and the same file name.", field);
    file.put = blob_put_begin(upload->blobs, err);
    if (!file.put)
        return -1;
    upload->files[upload->count++] = file;
    return 0;
}

/* The body is the file: one hash serves both. */
static int begin_raw(struct upload *upload, struct err *err)
{
    if (begin(upload, "", "", err) != 0)
        return -1;
    upload->digests.sha256 = &blob_put_hash(upload->files[0].put)->ctx;
    return 0;
}

static int data(void *arg, const char *bytes, size_t len, struct err *err)
{
    struct upload *upload = arg;
    return blob_put_write(upload->files[upload->count - 1].put, bytes, len, err);
}

/* A thousand parts must not be a thousand descriptors. */
static int end(void *arg, struct err *err)
{
    struct upload *upload = arg;
    return blob_put_end(upload->files[upload->count - 1].put, err);
}

struct upload *upload_new(struct arena *arena, struct blobs *blobs, const char *content_type, int64_t limit,
                          struct err *err)
{
    struct upload *upload = arena_alloc(arena, sizeof *upload);
    if (!upload) {
        out_of_memory(err);
        return NULL;
    }
    *upload = (struct upload){.arena = arena, .blobs = blobs, .limit = limit};
    if (content_type && strncasecmp(content_type, "multipart/form-data", 19) == 0) {
        struct multipart_sink sink = {begin, data, end, upload};
        upload->multipart = multipart_new(content_type, &sink, err);
        if (!upload->multipart)
            return NULL;
    }
    return upload;
}

int upload_feed(struct upload *upload, const char *bytes, size_t len, struct err *err)
{
    upload->bytes += (int64_t)len;
    if (upload->bytes > upload->limit)
        return err_set(err, ERR_TOO_LARGE,
                       "The upload is larger than %lld bytes, the server's limit (max_upload_bytes).",
                       (long long)upload->limit);
    if (!upload->multipart && upload->count == 0 && begin_raw(upload, err) != 0)
        return -1;
    digest_update(&upload->digests, bytes, len);
    if (upload->multipart)
        return multipart_feed(upload->multipart, bytes, len, err);
    return data(upload, bytes, len, err);
}

int upload_end(struct upload *upload, struct err *err)
{
    if (digest_verify(&upload->digests, ERR_DIGEST, err) != 0)
        return -1;
    if (upload->multipart)
        return multipart_end(upload->multipart, err);
    if (upload->count == 0 && begin_raw(upload, err) != 0) /* an empty file is a file */
        return -1;
    return end(upload, err);
}

void upload_free(struct upload *upload)
{
    if (!upload)
        return;
    for (int i = 0; i < upload->count; i++)
        blob_put_free(upload->files[i].put);
    free(upload->files);
    multipart_free(upload->multipart);
    *upload = (struct upload){0};
}
