/* SPDX-License-Identifier: Apache-2.0
 * facts.c - figures are taken from what is stored: bytes from the files, parameters from the constants of the graph.
 * What counts as a parameter must not change when a model is quantized, or ratios would lie: a weight counts in
 * whatever dtype it is stored, its scales and zero points do not. */
#include "core/report/facts.h"

#include <stdlib.h>
#include <string.h>
#include <zstd.h>

#include "core/base/file.h"

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

/* What the readers of a constant say about it. */
struct role {
    bool quantizer;   /* only ever a scale or a zero point */
    bool dequantized; /* input 0 of a DequantizeLinear: a weight or bias in integers */
    const struct tensor *zero_point;
};

static struct role role_of(const struct model *m, const struct uses *uses, uint32_t v)
{
    struct role r = {.quantizer = uses_count(uses, v) > 0};
    for (uint32_t i = uses->first[v]; i < uses->first[v + 1]; i++) {
        const struct use *u = &uses->all[i];
        const struct node *n = u->node == NODE_NONE ? NULL : &m->nodes[u->node];
        bool linear =
            n && n->op_type && (!strcmp(n->op_type, "QuantizeLinear") || !strcmp(n->op_type, "DequantizeLinear"));
        if (!linear || u->slot == 0)
            r.quantizer = false;
        if (linear && u->slot == 0 && n->op_type[0] == 'D') {
            r.dequantized = true;
            if (n->n_input > 2 && n->input[2] != VALUE_NONE)
                r.zero_point = value_const(m, n->input[2]);
        }
    }
    return r;
}

static bool is_parameter(const struct tensor *t, const struct role *r)
{
    bool wide_integer = dtype_is_integer(t->dtype) && dtype_bits(t->dtype) > 8;
    if (r->quantizer || t->shape.rank == 0 || dtype_bits(t->dtype) == 0 || t->dtype == DTYPE_BOOL)
        return false;
    if (!dtype_is_float(t->dtype) && !dtype_is_integer(t->dtype))
        return false;
    return !wide_integer || r->dequantized;
}

static int64_t count_f32(const float *x, int64_t n)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += x[i] != 0;
    return count;
}

static int64_t count_u8(const uint8_t *x, int64_t n, uint8_t zero)
{
    int64_t count = 0;
    for (int64_t i = 0; i < n; i++)
        count += x[i] != zero;
    return count;
}

/* Elements that do not stand for 0. A zero point that differs per channel is only ever 0 in practice and taken as 0. */
static int64_t count_nonzero(const struct tensor *t, const struct tensor *zero_point)
{
    int64_t n = tensor_count(t), count = 0;
    bool has_zero = zero_point && zero_point->data && tensor_count(zero_point) == 1;
    double zero = has_zero ? dtype_get(zero_point->dtype, zero_point->data, 0) : 0;
    if (t->dtype == DTYPE_FLOAT)
        return count_f32(t->data, n);
    if (t->dtype == DTYPE_INT8 || t->dtype == DTYPE_UINT8)
        return count_u8(t->data, n, (uint8_t)(int)zero);
    for (int64_t i = 0; i < n; i++)
        count += dtype_get(t->dtype, t->data, i) != zero;
    return count;
}

void facts_weights(struct facts *facts, const struct model *m)
{
    struct uses uses = {0};
    facts->params = facts->nonzero = -1;
    if (uses_build(&uses, m, NULL))
        return;
    int64_t params = 0, nonzero = 0;
    bool all_there = true;
    for (uint32_t v = 0; v < m->n_values; v++) {
        const struct value *value = &m->values[v];
        const struct tensor *t = !value->name ? NULL : value->weight ? &value->weight->tensor : value_const(m, v);
        if (!t)
            continue;
        struct role r = role_of(m, &uses, v);
        if (!is_parameter(t, &r))
            continue;
        int64_t n = tensor_count(t);
        params += n;
        if (t->data)
            nonzero += count_nonzero(t, r.zero_point);
        else if (n > 0)
            all_there = false; /* external data that was not given */
    }
    uses_fini(&uses);
    facts->params = params;
    facts->nonzero = all_there ? nonzero : -1;
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

/* Every tensor of a model that may lie outside: initializers and tensor attributes. */
struct names {
    const char **at;
    int count, cap;
    bool failed;
};

static void add_name(struct names *list, const struct weight *w)
{
    const char *location = NULL;
    for (int i = 0; w && w->storage == STORAGE_EXTERNAL && i < w->external.count; i++)
        if (w->external.at[i].key && !strcmp(w->external.at[i].key, "location"))
            location = w->external.at[i].value;
    for (int i = 0; location && i < list->count; i++)
        if (!strcmp(list->at[i], location))
            return;
    if (!location)
        return;
    if (list->count == list->cap) {
        int cap = list->cap ? list->cap * 2 : 8;
        const char **grown = realloc(list->at, (size_t)cap * sizeof *grown);
        if (!grown) {
            list->failed = true;
            return;
        }
        list->at = grown;
        list->cap = cap;
    }
    list->at[list->count++] = location;
}

int facts_external_files(const struct model *m, const char ***names, int *count, struct err *err)
{
    struct names list = {0};
    for (uint32_t v = 0; v < m->n_values; v++)
        add_name(&list, m->values[v].name ? m->values[v].weight : NULL);
    for (uint32_t n = 0; n < m->n_nodes; n++)
        for (int a = 0; m->nodes[n].op_type && a < m->nodes[n].n_attr; a++) {
            const struct attr *attr = &m->nodes[n].attr[a];
            for (int i = 0; (attr->type == ATTR_TENSOR || attr->type == ATTR_TENSORS) && i < attr->count; i++)
                add_name(&list, attr->tensors[i]);
        }
    if (list.failed) {
        free(list.at);
        return err_set(err, ERR_NOMEM, "no memory for the list of external data files");
    }
    *names = list.at;
    *count = list.count;
    return 0;
}
