/* SPDX-License-Identifier: Apache-2.0
 * spill.c - one unlinked file; each large tensor is a shared mapping of pages of its own behind the last one
 * (spill.h). */
#include "core/tensor/spill.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core/base/file.h"

enum { SMALL = 1 << 18, PAGE = 1 << 16 }; /* PAGE: a multiple of any page size in use */

struct spill {
    int fd; /* -1: none */
    size_t end;
};

static int open_unnamed(void)
{
    const char *tmp = file_temp_root();
    char path[4096];
    int fd = open(tmp, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (fd >= 0)
        return fd;
    const int len = snprintf(path, sizeof path, "%s/pared-spill-XXXXXX", tmp);
    if (len < 0 || (size_t)len >= sizeof path)
        return -1;
    fd = mkostemp(path, O_CLOEXEC);
    if (fd >= 0)
        unlink(path);
    return fd;
}

struct spill *spill_new(struct err *err)
{
    struct spill *s = malloc(sizeof *s);
    if (!s) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    *s = (struct spill){.fd = open_unnamed()};
    return s;
}

void spill_free(struct spill *s)
{
    if (s && s->fd >= 0)
        close(s->fd);
    free(s);
}

static void unmap(void *data, size_t bytes)
{
    munmap(data, bytes);
}

/* False: no file, no room. */
static bool map_more(struct spill *s, size_t bytes, void **data)
{
    if (s->fd < 0 || bytes > (size_t)INT64_MAX - PAGE - s->end)
        return false;
    if (posix_fallocate(s->fd, (off_t)s->end, (off_t)bytes) != 0)
        return false;
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, (off_t)s->end);
    if (p == MAP_FAILED)
        return false;
    s->end += (bytes + PAGE - 1) & ~(size_t)(PAGE - 1);
    *data = p;
    return true;
}

int spill_tensor(struct spill *s, struct tensor *t, enum dtype dtype, const struct shape *shape, struct err *err)
{
    const int64_t count = shape_count(shape);
    size_t bytes;
    void *data;
    if (count < 0 || !dtype_bytes(dtype, count, &bytes) || bytes < SMALL || !map_more(s, bytes, &data))
        return tensor_alloc(t, dtype, shape, err);
    struct tbuf *buf = tbuf_wrap(data, bytes, unmap, err);
    if (!buf) {
        munmap(data, bytes);
        return -1;
    }
    tbuf_set_mapped(buf);
    *t = (struct tensor){dtype, *shape, data, bytes, buf};
    return 0;
}
