/* SPDX-License-Identifier: Apache-2.0
 * libFuzzer target: any bytes are read, validated, described, cloned and written, and what was written is read again.
 * Run by `make fuzz-smoke`; what once crashed lies in regression/onnx_read/ and is replayed first. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/base/buf.h"
#include "core/base/file.h"
#include "core/model/inspect.h"
#include "core/model/onnx_read.h"
#include "core/model/onnx_write.h"
#include "core/model/validate.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[40];

static void remove_dir(void)
{
    file_remove_tree(dir, &(struct err){0});
}

static void put(const char *name, const void *bytes, size_t len)
{
    char path[60];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (file_write_atomic(path, bytes, len, &(struct err){0}))
        abort();
}

/* Where external data is looked for: a file of 256 bytes, an empty one, and what may not be read. */
static void start(void)
{
    static const char data[256];
    char path[60];
    snprintf(dir, sizeof dir, "/dev/shm/pared-fuzz-XXXXXX"); /* a fuzzer should not wait for a disk */
    if (!mkdtemp(dir))
        abort();
    atexit(remove_dir);
    put("w.bin", data, sizeof data);
    put("empty", "", 0);
    snprintf(path, sizeof path, "%s/link", dir);
    if (symlink("w.bin", path))
        abort();
    snprintf(path, sizeof path, "%s/sub", dir);
    if (mkdir(path, 0700))
        abort();
}

static int resolve(void *arg, const char *location)
{
    static int fd = -1;
    if (strcmp(location, "w.bin") != 0)
        return -1;
    if (fd < 0) {
        char path[60];
        snprintf(path, sizeof path, "%s/w.bin", (const char *)arg);
        fd = open(path, O_RDONLY | O_CLOEXEC);
    }
    return fd;
}

static struct model *read_copy(const void *data, size_t size, const struct onnx_read_opts *opts)
{
    struct err err = {0};
    struct tbuf *bytes = tbuf_new(size, &err);
    if (!bytes)
        return NULL;
    if (size)
        memcpy(tbuf_data(bytes), data, size);
    struct model *m = onnx_read_bytes(bytes, size, opts, &err);
    tbuf_unref(bytes);
    if (!m && !err.msg[0])
        abort(); /* a refusal has a sentence */
    return m;
}

static struct model *read_file(const void *data, size_t size)
{
    char path[60];
    put("model.onnx", data, size);
    snprintf(path, sizeof path, "%s/model.onnx", dir);
    return onnx_read_file(path, NULL, &(struct err){0});
}

/* As in a folder of its own, as an upload with its parts, or as a model whose parts may be missing. */
static struct model *read_as(const uint8_t *data, size_t size)
{
    const struct onnx_read_opts part = {.resolve = resolve, .resolve_arg = dir},
                                alone = {.allow_missing_external = true, .external_dir = dir};
    return size % 16 == 1 ? read_file(data, size) : read_copy(data, size, size % 16 == 2 ? &part : &alone);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct err err = {0};
    if (!dir[0])
        start();
    struct model *m = read_as(data, size);
    if (!m)
        return 0;
    model_validate(m, &err);
    json_decref(model_inspect(m));
    json_decref(model_layers(m, 1000));
    json_decref(model_graph_json(m, 100));
    model_nonzero(m);
    struct uses uses;
    if (uses_build(&uses, m, &err) == 0)
        uses_fini(&uses);
    struct model *clone = model_clone(m, &err);
    struct buf first = {0}, second = {0};
    if (onnx_write_buf(m, &first, &err) || !clone)
        abort();
    model_free(m);
    struct model *again =
        read_copy(first.data, first.len, &(struct onnx_read_opts){.allow_missing_external = true, .external_dir = dir});
    if (!again || onnx_write_buf(again, &second, &err) || first.len != second.len ||
        (first.len && memcmp(first.data, second.data, first.len) != 0))
        abort(); /* what we write, we read, and write the same */
    buf_fini(&second);
    if (onnx_write_buf(clone, &second, &err) || first.len != second.len ||
        memcmp(first.data, second.data, first.len) != 0)
        abort(); /* a clone is the model */
    for (uint32_t n = 0; n < clone->n_nodes && n < 3; n++)
        model_remove_node(clone, n);
    buf_fini(&first);
    buf_fini(&second);
    model_free(again);
    model_free(clone);
    return 0;
}
