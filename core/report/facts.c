/* SPDX-License-Identifier: Apache-2.0
 * facts.c - figures are taken from what is stored: bytes from the files, parameters from the constants of the graph. */
#include "core/report/facts.h"

#include <stdlib.h>
#include <zstd.h>

#include "core/base/file.h"
#include "core/model/parameters.h"

void facts_init(struct facts *facts)
{
    *facts = (struct facts){
        .bytes = -1, .zstd_bytes = -1, .params = -1, .nonzero = -1, .macs = -1, .peak_activation_bytes = -1};
}

void facts_fini(struct facts *facts)
{
    json_decref(facts->metrics);
    facts_init(facts);
}

/* One whole stream: a piece is at most a mebibyte, so that a tick comes often. */
static int compressed_size(ZSTD_CCtx *ctx, const struct file_map *map, int64_t *out, int (*tick)(void *, struct err *),
                           void *arg, struct err *err)
{
    enum { PIECE = 1 << 20, ROOM = 1 << 16 };
    static const char empty[1];
    char *room = malloc(ROOM);
    size_t at = 0, left = 1;
    int rc = 0;
    if (!room)
        return err_set(err, ERR_NOMEM, "no memory to compress");
    *out = 0;
    while (rc == 0 && left) {
        size_t n = map->size - at < PIECE ? map->size - at : PIECE;
        ZSTD_EndDirective end = at + n == map->size ? ZSTD_e_end : ZSTD_e_continue;
        ZSTD_inBuffer in = {map->data ? (const void *)(map->data + at) : empty, n, 0};
        do {
            ZSTD_outBuffer to = {room, ROOM, 0};
            left = ZSTD_compressStream2(ctx, &to, &in, end);
            if (ZSTD_isError(left)) {
                rc = err_set(err, ERR_NOMEM, "zstd: %s", ZSTD_getErrorName(left));
                break;
            }
            *out += (int64_t)to.pos;
        } while (end == ZSTD_e_end ? left != 0 : in.pos < in.size);
        if (rc == 0 && n)
            file_forget_range(map->data + at, n);
        at += n;
        left = end == ZSTD_e_end ? 0 : 1;
        if (rc == 0 && tick)
            rc = tick(arg, err);
    }
    free(room);
    return rc;
}

int facts_add_file(struct facts *facts, int fd, int (*tick)(void *arg, struct err *err), void *arg, struct err *err)
{
    struct file_map map;
    int64_t zstd_bytes = 0;
    if (file_map_fd(&map, fd, err))
        return -1;
    ZSTD_CCtx *ctx = ZSTD_createCCtx();
    int rc = ctx ? 0 : err_set(err, ERR_NOMEM, "no memory to compress");
    if (rc == 0) {
        ZSTD_CCtx_setParameter(ctx, ZSTD_c_compressionLevel, 3);
        rc = compressed_size(ctx, &map, &zstd_bytes, tick, arg, err);
    }
    if (rc == 0) {
        facts->bytes = (facts->bytes < 0 ? 0 : facts->bytes) + (int64_t)map.size;
        facts->zstd_bytes = (facts->zstd_bytes < 0 ? 0 : facts->zstd_bytes) + zstd_bytes;
    }
    ZSTD_freeCCtx(ctx);
    file_map_close(&map);
    return rc;
}

void facts_weights(struct facts *facts, const struct model *m)
{
    facts->params = model_params(m);
    facts->nonzero = model_nonzero(m);
}

void facts_cost(struct facts *facts, const struct plan *plan)
{
    facts->macs = plan_macs(plan, NODE_NONE);
    facts->peak_activation_bytes = (int64_t)plan_slab_bytes(plan);
}

static void set_count(json_t *o, const char *key, int64_t v)
{
    if (v >= 0)
        json_object_set_new(o, key, json_integer(v));
}

json_t *facts_json(const struct facts *f)
{
    json_t *o = json_object();
    set_count(o, "bytes", f->bytes);
    set_count(o, "zstd_bytes", f->zstd_bytes);
    set_count(o, "params", f->params);
    set_count(o, "nonzero", f->nonzero);
    if (f->params > 0 && f->nonzero >= 0)
        json_object_set_new(o, "sparsity", json_real(1 - (double)f->nonzero / (double)f->params));
    set_count(o, "macs", f->macs);
    set_count(o, "peak_activation_bytes", f->peak_activation_bytes);
    if (f->has_latency)
        json_object_set_new(o, "latency_ms", latency_json(&f->latency));
    if (f->metrics)
        json_object_set(o, "metrics", f->metrics);
    return o;
}

static void set_ratio(json_t *o, const char *key, double before, double after)
{
    if (before > 0 && after >= 0)
        json_object_set_new(o, key, json_real(after / before));
}

json_t *facts_ratio_json(const struct facts *before, const struct facts *after)
{
    json_t *o = json_object();
    set_ratio(o, "bytes", (double)before->bytes, (double)after->bytes);
    set_ratio(o, "zstd_bytes", (double)before->zstd_bytes, (double)after->zstd_bytes);
    set_ratio(o, "params", (double)before->params, (double)after->params);
    set_ratio(o, "nonzero", (double)before->nonzero, (double)after->nonzero);
    set_ratio(o, "macs", (double)before->macs, (double)after->macs);
    if (before->has_latency && after->has_latency)
        set_ratio(o, "latency", before->latency.p50_ms, after->latency.p50_ms);
    return o;
}
