/* SPDX-License-Identifier: Apache-2.0 */
#include "server/gc.h"

#include "core/base/log.h"

static int used(void *arg, const char *sha256)
{
    struct err err = {0};
    int rc = store_blob_used(arg, sha256, &err);
    if (rc < 0)
        log_warn("blob kept: %s", err.msg);
    return rc;
}

void gc_blob(struct store *store, struct blobs *blobs, const char *sha256)
{
    struct err err = {0};
    if (blob_collect(blobs, sha256, used, store, &err) < 0)
        log_warn("blob not removed: %s", err.msg);
}

void gc_blobs(struct store *store, struct blobs *blobs, const struct store_orphans *orphans)
{
    for (int i = 0; i < orphans->count; i++)
        gc_blob(store, blobs, orphans->sha256[i]);
}

void gc_sweep(struct store *store, struct blobs *blobs)
{
    struct err err = {0};
    int removed = 0;
    if (blob_sweep(blobs, used, store, &removed, &err))
        log_warn("storage not swept: %s", err.msg);
    if (removed)
        log_info("removed %d stored files that nothing refers to", removed);
}
