/* SPDX-License-Identifier: Apache-2.0
 * container_write.c - see container.h. The files follow each other as one run of bytes, cut into pieces: literal bytes,
 * and tensors (large ones in several). Pieces fill blocks of at most ARRAY_MOST bytes. A block is coded alone, so
 * blocks are coded in parallel, a few at a time, and written in order: the result does not depend on the number of
 * threads. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <zlib.h>

#include "core/base/file.h"
#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/encode/array_coding.h"
#include "core/encode/container.h"
#include "core/encode/onnx_regions.h"
#include "core/encode/symbols.h"

enum {
    WAVE = 16 /* blocks coded before they are written */,
    TEXT_ADAPTIVE_MOST = 32 << 10,
    SYMBOLS_ADAPTIVE_MOST = 32 << 10
};

struct piece {
    int file;
    size_t at, bytes;
    int64_t region; /* -1: literal */
};
struct block {
    size_t first, count; /* pieces */
};

struct tally { /* of a region */
    double bytes;
    struct array_made made;
};

struct coded {
    struct buf body;
    double *cost; /* [pieces of the block] */
    struct array_made *made;
    struct err err;
};

struct writing {
    const struct container_opts *o;
    int n_files;
    const char **name;
    struct file_map *map;
    struct regions regions;
    struct piece *piece;
    size_t n_pieces, cap_pieces;
    struct block *block;
    size_t n_blocks;
    struct tally *tally;
    bool adaptive;
    uint64_t bytes, literal; /* of all files; of them literal */
    double literal_cost;
    struct file_draft draft;
    uint64_t written;
    struct coded wave[WAVE];
    size_t wave_first;
    struct err *err;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while coding");
}

/* ---- pieces ---- */
static int add_piece(struct writing *w, int file, size_t at, size_t bytes, int64_t region)
{
    for (size_t done = 0; done < bytes;) {
        const size_t now = bytes - done < ARRAY_MOST ? bytes - done : ARRAY_MOST;
        if (w->n_pieces == w->cap_pieces) {
            const size_t cap = w->cap_pieces ? 2 * w->cap_pieces : 64;
            struct piece *grown = realloc(w->piece, cap * sizeof *grown);
            if (!grown)
                return nomem(w->err);
            w->piece = grown;
            w->cap_pieces = cap;
        }
        w->piece[w->n_pieces++] = (struct piece){file, at + done, now, region};
        done += now;
    }
    return 0;
}

static int make_pieces(struct writing *w)
{
    size_t next = 0;
    for (int f = 0; f < w->n_files; f++) {
        size_t at = 0;
        for (; next < w->regions.count && w->regions.at[next].file == f; next++) {
            const struct region *r = &w->regions.at[next];
            if (add_piece(w, f, at, r->at - at, -1) || add_piece(w, f, r->at, r->bytes, (int64_t)next))
                return -1;
            at = r->at + r->bytes;
        }
        if (add_piece(w, f, at, w->map[f].size - at, -1))
            return -1;
        w->bytes += w->map[f].size;
    }
    return 0;
}

static int make_blocks(struct writing *w)
{
    size_t held = 0;
    w->block = calloc(w->n_pieces + 1, sizeof *w->block);
    if (!w->block)
        return nomem(w->err);
    for (size_t i = 0; i < w->n_pieces; i++) {
        if (i == 0 || held + w->piece[i].bytes > ARRAY_MOST) {
            w->block[w->n_blocks++].first = i;
            held = 0;
        }
        held += w->piece[i].bytes;
        w->block[w->n_blocks - 1].count++;
    }
    return 0;
}

/* ---- a block ---- */
static void gather_text(const struct writing *w, const struct block *b, struct buf *text)
{
    for (size_t i = b->first; i < b->first + b->count; i++) {
        const struct piece *p = &w->piece[i];
        if (p->region < 0)
            buf_append(text, w->map[p->file].data + p->at, p->bytes);
    }
}

static int code_arrays(const struct writing *w, const struct block *b, struct coded *c, struct buf *body,
                       struct mix *mix, struct err *err)
{
    size_t run = 0;
    for (size_t i = 0; i < b->count; i++) {
        const struct piece *p = &w->piece[b->first + i];
        if (p->region < 0) {
            run += p->bytes;
            continue;
        }
        const struct region *r = &w->regions.at[p->region];
        const struct array_opts o = {.width = r->width,
                                     .rotate = r->rotate,
                                     .cols = r->cols,
                                     .adaptive = w->adaptive,
                                     .adaptive_most =
                                         w->o->effort == CONTAINER_SMALLEST ? SIZE_MAX : SYMBOLS_ADAPTIVE_MOST,
                                     .only = w->o->only};
        const double before = (double)body->len + mix->bits / 8;
        put_varint(body, run);
        run = 0;
        if (array_encode(w->map[p->file].data + p->at, p->bytes / r->width, &o, body, mix, &c->made[i], err))
            return -1;
        c->cost[i] = (double)body->len + mix->bits / 8 - before;
    }
    return 0;
}

static int code_block(const struct writing *w, const struct block *b, struct coded *c, struct err *err)
{
    struct buf text = {0}, body = {0};
    struct mix mix;
    c->cost = calloc(b->count, sizeof *c->cost);
    c->made = calloc(b->count, sizeof *c->made);
    if (!c->cost || !c->made || mix_init_encoder(&mix, err))
        return nomem(err);
    gather_text(w, b, &text);
    put_varint(&body, text.len);
    int rc = text.failed ? nomem(err) : 0;
    const bool adaptive = w->o->effort != CONTAINER_FAST && text.len <= TEXT_ADAPTIVE_MOST;
    if (rc == 0 && text.len)
        rc = text_encode((unsigned char *)text.data, text.len, adaptive, &body, &mix, err);
    if (rc == 0)
        rc = code_arrays(w, b, c, &body, &mix, err);
    mix_flush(&mix);
    put_varint(&c->body, mix.out.len);
    buf_append(&c->body, mix.out.data, mix.out.len);
    buf_append(&c->body, body.data, body.len);
    if (rc == 0 && (c->body.failed || body.failed || mix.out.failed || mix.failed))
        rc = nomem(err);
    buf_fini(&text);
    buf_fini(&body);
    mix_fini(&mix);
    return rc;
}

static void wave_task(void *arg, int64_t task, int lane)
{
    struct writing *w = arg;
    struct coded *c = &w->wave[task];
    (void)lane;
    code_block(w, &w->block[w->wave_first + (size_t)task], c, &c->err);
}

/* ---- the file ---- */
static int write_out(struct writing *w, const void *bytes, size_t n)
{
    w->written += n;
    return file_write_all(w->draft.fd, bytes, n, w->err);
}

/* length, bytes, CRC-32 of all that and of `before`. */
static int write_part(struct writing *w, const char *before, size_t before_len, const struct buf *part)
{
    struct buf head = {0};
    buf_append(&head, before, before_len);
    put_varint(&head, part->len);
    uint32_t crc = (uint32_t)crc32(0, (const Bytef *)head.data, (uInt)head.len);
    crc = (uint32_t)crc32(crc, (const Bytef *)part->data, (uInt)part->len);
    const unsigned char tail[4] = {(unsigned char)crc, (unsigned char)(crc >> 8), (unsigned char)(crc >> 16),
                                   (unsigned char)(crc >> 24)};
    int rc = head.failed || part->failed ? nomem(w->err) : 0;
    if (rc == 0)
        rc = write_out(w, head.data, head.len) || write_out(w, part->data, part->len) || write_out(w, tail, 4) ? -1 : 0;
    buf_fini(&head);
    return rc;
}

static int write_header(struct writing *w)
{
    struct buf h = {0};
    put_varint(&h, (uint64_t)w->n_files);
    for (int f = 0; f < w->n_files; f++) {
        struct sha256_ctx sha;
        unsigned char digest[SHA256_DIGEST_SIZE];
        put_varint(&h, strlen(w->name[f]));
        buf_puts(&h, w->name[f]);
        put_varint(&h, w->map[f].size);
        sha256_init(&sha);
        sha256_update(&sha, w->map[f].size, w->map[f].data);
        sha256_digest(&sha, sizeof digest, digest);
        buf_append(&h, digest, sizeof digest);
    }
    const int rc = write_part(w, "PARED\1", 6, &h);
    buf_fini(&h);
    return rc;
}

static void count_wave(struct writing *w, const struct block *b, const struct coded *c)
{
    double arrays = 0;
    for (size_t i = 0; i < b->count; i++) {
        const struct piece *p = &w->piece[b->first + i];
        if (p->region < 0) {
            w->literal += p->bytes;
            continue;
        }
        arrays += c->cost[i];
        w->tally[p->region].bytes += c->cost[i];
        w->tally[p->region].made = c->made[i];
    }
    w->literal_cost += (double)c->body.len - arrays;
}

static int write_wave(struct writing *w, size_t count)
{
    int rc = 0;
    for (size_t i = 0; i < count; i++) {
        struct coded *c = &w->wave[i];
        if (rc == 0 && c->err.code)
            rc = err_set(w->err, c->err.code, "%s", c->err.msg);
        if (rc == 0) {
            count_wave(w, &w->block[w->wave_first + i], c);
            rc = write_part(w, "", 0, &c->body);
        }
        buf_fini(&c->body);
        free(c->cost);
        free(c->made);
        *c = (struct coded){0};
    }
    return rc;
}

static int write_blocks(struct writing *w)
{
    for (; w->wave_first < w->n_blocks; w->wave_first += WAVE) {
        const size_t left = w->n_blocks - w->wave_first, count = left < WAVE ? left : WAVE;
        pool_run(w->o->pool, (int64_t)count, wave_task, w);
        if (write_wave(w, count))
            return -1;
    }
    return 0;
}

/* ---- proof ---- */
struct proof {
    const struct writing *w;
    int fd, file;
    size_t at;
};

static long proof_read(void *arg, void *bytes, size_t n, struct err *err)
{
    const struct proof *p = arg;
    ssize_t got;
    while ((got = read(p->fd, bytes, n)) < 0 && errno == EINTR)
        ;
    return got < 0 ? err_set_errno(err, ERR_IO, "the container cannot be read back") : (long)got;
}

static int proof_begin(void *arg, int file, int files, const char *name, uint64_t bytes, struct err *err)
{
    struct proof *p = arg;
    p->file = file;
    p->at = 0;
    if (files != p->w->n_files || strcmp(name, p->w->name[file]) || bytes != p->w->map[file].size)
        return err_set(err, ERR_VERIFY, "the container names other files than it was made of");
    return 0;
}

static int proof_data(void *arg, const void *bytes, size_t n, struct err *err)
{
    struct proof *p = arg;
    const struct file_map *map = &p->w->map[p->file];
    if (n > map->size - p->at || memcmp(map->data + p->at, bytes, n))
        return err_set(err, ERR_VERIFY, "'%s' would not come back from the container as it was", p->w->name[p->file]);
    p->at += n;
    return 0;
}

static int proof_end(void *arg, struct err *err)
{
    (void)arg;
    (void)err;
    return 0;
}

static int prove(const struct writing *w)
{
    struct proof p = {w, w->draft.fd, 0, 0};
    const struct container_sink sink = {proof_begin, proof_data, proof_end, &p};
    struct err why = {0};
    if (lseek(w->draft.fd, 0, SEEK_SET) < 0)
        return err_set_errno(w->err, ERR_IO, "the container cannot be read back");
    if (container_read(proof_read, &p, UINT64_MAX >> 2, &sink, &why) == 0)
        return 0;
    return err_set(w->err, why.code == ERR_INVALID ? ERR_VERIFY : why.code, "%s", why.msg);
}

/* ---- report ---- */
static void coding_text(const struct array_made *m, char *text, size_t size)
{
    static const char *const kinds[ARRAY_KINDS] = {"raw", "planes", "codebook", "sparse", "mixed"};
    static const char *const modes[SYMBOLS_MODES] = {"raw", "constant", "huffman", "rans", "adaptive", "deflate"};
    if (m->kind == ARRAY_SPARSE)
        snprintf(text, size, "sparse gaps (%s), %s", modes[m->first], kinds[m->values]);
    else if (m->kind == ARRAY_RAW || m->kind == ARRAY_MIXED)
        snprintf(text, size, "%s", m->kind == ARRAY_RAW ? "raw" : "sparse codebook (adaptive)");
    else
        snprintf(text, size, "%s (%s)", kinds[m->kind], modes[m->first]);
}

static json_t *make_facts(const struct writing *w)
{
    json_t *tensors = json_array();
    for (size_t i = 0; i < w->regions.count; i++) {
        const struct region *r = &w->regions.at[i];
        char coding[80];
        coding_text(&w->tally[i].made, coding, sizeof coding);
        json_t *row = json_pack("{s:o,s:s,s:I,s:f,s:f}", "tensor", utf8_json(r->name), "coding", coding, "bytes_before",
                                (json_int_t)r->bytes, "bytes_after", w->tally[i].bytes, "bits_per_weight",
                                8 * w->tally[i].bytes / ((double)r->bytes / r->width));
        json_array_append_new(tensors, row);
    }
    return json_pack("{s:I,s:I,s:I,s:f,s:o}", "bytes_before", (json_int_t)w->bytes, "container_bytes",
                     (json_int_t)w->written, "graph_bytes_before", (json_int_t)w->literal, "graph_bytes_after",
                     w->literal_cost, "tensors", tensors);
}

/* ---- all ---- */
static const char *plain_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static int open_files(struct writing *w, const char *model_path, const char *const *external)
{
    const size_t folder = (size_t)(plain_name(model_path) - model_path);
    for (int f = 0; f < w->n_files; f++) {
        char *path = NULL;
        if (f > 0 && asprintf(&path, "%.*s%s", (int)folder, model_path, external[f - 1]) < 0)
            return nomem(w->err);
        w->name[f] = f ? external[f - 1] : "model.onnx";
        const int rc = file_map_open(&w->map[f], f ? path : model_path, w->err);
        free(path);
        if (rc)
            return err_wrap(w->err, "'%s': ", w->name[f]);
    }
    return 0;
}

static int find_tensors(struct writing *w, const char *const *external)
{
    size_t size[CONTAINER_FILES_MOST] = {0};
    for (int f = 1; f < w->n_files; f++)
        size[f - 1] = w->map[f].size;
    const int rc = regions_find(&w->regions, w->map[0].data, w->map[0].size, external, size, w->n_files - 1, w->err);
    if (rc == 0 && !(w->tally = calloc(w->regions.count + 1, sizeof *w->tally)))
        return nomem(w->err);
    return rc;
}

static int make_all(struct writing *w, const char *model_path, const char *const *external)
{
    if (open_files(w, model_path, external) || find_tensors(w, external) || make_pieces(w) || make_blocks(w))
        return -1;
    w->adaptive = w->o->effort == CONTAINER_SMALLEST || (w->o->effort == CONTAINER_AUTO && w->bytes <= CONTAINER_SMALL);
    if (write_header(w) || write_blocks(w))
        return -1;
    return prove(w);
}

int container_write(const char *model_path, const char *const *external, int n_external, const char *to,
                    const struct container_opts *o, json_t **facts, struct err *err)
{
    struct err own = {0};
    struct writing w = {.o = o, .n_files = n_external + 1, .draft = {.fd = -1}, .err = err ? err : &own};
    int rc = -1;
    if (n_external >= CONTAINER_FILES_MOST)
        return err_set(err, ERR_INVALID, "the model has %d files of external data; a container holds %d files",
                       n_external, CONTAINER_FILES_MOST);
    w.name = calloc((size_t)w.n_files, sizeof *w.name);
    w.map = calloc((size_t)w.n_files, sizeof *w.map);
    if (!w.name || !w.map) {
        nomem(w.err);
        goto out;
    }
    if (file_draft_open(&w.draft, to, NULL, 0644, w.err)) {
        err_wrap(w.err, "the container: ");
        goto out;
    }
    if (make_all(&w, model_path, external))
        goto out;
    rc = file_draft_publish(&w.draft, w.err);
    if (rc == 0 && facts)
        *facts = make_facts(&w);
out:
    file_draft_discard(&w.draft);
    for (int f = 0; w.map && f < w.n_files; f++)
        file_map_close(&w.map[f]);
    regions_fini(&w.regions);
    free(w.tally);
    free(w.piece);
    free(w.block);
    free(w.map);
    free(w.name);
    return rc ? -1 : 0;
}
