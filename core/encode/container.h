/* SPDX-License-Identifier: Apache-2.0
 * container.h - the .pared file: a model's files, byte for byte, in few bytes. docs/format.md says what it looks like.
 * Write      container_write finds the tensors in the files, codes each with whatever takes least, and proves the
 *            result by decoding and comparing it before anybody sees it.
 * Read       block by block, each checked by its CRC-32 before its bytes are handed out; memory does not depend on the
 *            size of the file. At the end of each file its SHA-256 is compared.
 * Hostile    a container is a stranger's file: whatever its bytes are, reading ends with an error or with what was
 *            written. Sizes are declared at the start and held to limits.
 * Threads    container_write uses the pool; reading is one thread. */
#ifndef PARED_ENCODE_CONTAINER_H
#define PARED_ENCODE_CONTAINER_H

#include <jansson.h>

#include "core/base/err.h"
#include "core/base/pool.h"

enum { CONTAINER_VERSION = 1, CONTAINER_FILES_MOST = 1024, CONTAINER_NAME_MOST = 255 };

enum container_effort {
    CONTAINER_AUTO,    /* adaptive coding for models up to CONTAINER_SMALL bytes, otherwise what decodes fast */
    CONTAINER_FAST,    /* never adaptive */
    CONTAINER_SMALLEST /* adaptive wherever it is smaller */
};
enum { CONTAINER_SMALL = 2 << 20 };

struct container_opts {
    enum container_effort effort;
    int only; /* as in array_opts: one coding of symbols for comparing; -1: the best */
    struct pool *pool;
};
/* The model file and the files of external data beside it into the file `to` (replaced by rename). *facts (may be
 * NULL): an object for a report: bytes before and after and a row for each tensor; new reference. Errors: ERR_IO,
 * ERR_NOMEM, ERR_VERIFY. */
int container_write(const char *model_path, const char *const *external, int n_external, const char *to,
                    const struct container_opts *o, json_t **facts, struct err *err);

/* Where a container comes from: up to n bytes; 0 at its end, -1 with err. */
typedef long container_source(void *arg, void *bytes, size_t n, struct err *err);

/* Where files go. Any of them may return -1 with err to stop. */
struct container_sink {
    int (*begin)(void *arg, int file, int files, const char *name, uint64_t bytes, struct err *err);
    int (*data)(void *arg, const void *bytes, size_t n, struct err *err);
    int (*end)(void *arg, struct err *err); /* the file is whole and its hash is right */
    void *arg;
};
/* ERR_INVALID: no container, a damaged one, one of a later version. ERR_TOO_LARGE: its files are larger than max_bytes
 * together. */
int container_read(container_source *source, void *source_arg, uint64_t max_bytes, const struct container_sink *sink,
                   struct err *err);

#endif
