/* SPDX-License-Identifier: Apache-2.0
 * gc.h - blobs that no row of the catalogue refers to are removed: after a delete, at start after a crash, and now and
 * then (collector.h). */
#ifndef PARED_SERVER_GC_H
#define PARED_SERVER_GC_H

#include "server/blob.h"
#include "server/store.h"

/* After store_resource_delete / store_job_delete, or for a committed put whose row was not inserted. Failures are
 * logged. */
void gc_blobs(struct store *store, struct blobs *blobs, const struct store_orphans *orphans);
void gc_blob(struct store *store, struct blobs *blobs, const char *sha256);
/* All objects; pins keep those of uploads under way. */
void gc_sweep(struct store *store, struct blobs *blobs);

#endif
