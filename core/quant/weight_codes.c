/* SPDX-License-Identifier: Apache-2.0
 * weight_codes.c - a weight is cut into tiles of rows x elements, blocks whole. Where rows are contiguous in the file a
 * tile is some whole rows; where columns are (a MatMul's [K, N]), it is a few blocks of many rows, so that either way
 * the file is read from front to back and the pages behind are given back. Every tile has its place in the result. */
#include "core/quant/weight_codes.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/quant/nbits_pack.h"

enum {
    TILE = 1 << 15,       /* elements */
    DEEP = 256,           /* elements of a row in a tile of columns, at least a block */
    CHUNK_BYTES = 8 << 20 /* of the weight between two releases of pages */
};

size_t code_plan_bytes(const struct code_plan *p)
{
    size_t codes, scale, zero = 0;
    const enum dtype scale_dtype = p->form.scale_dtype ? p->form.scale_dtype : DTYPE_FLOAT;
    if (shape_count(&p->code_shape) < 0 || !dtype_bytes(p->code_dtype, shape_count(&p->code_shape), &codes) ||
        shape_count(&p->scale_shape) < 0 || !dtype_bytes(scale_dtype, shape_count(&p->scale_shape), &scale))
        return SIZE_MAX;
    if (!p->form.symmetric &&
        (shape_count(&p->zero_shape) < 0 || !dtype_bytes(p->zero_dtype, shape_count(&p->zero_shape), &zero)))
        return SIZE_MAX;
    return size_add(codes, scale, &codes) && size_add(codes, zero, &codes) ? codes : SIZE_MAX;
}

bool code_plan_equal(const struct code_plan *a, const struct code_plan *b)
{
    return weight_view_equal(&a->view, &b->view) && a->row_axes == b->row_axes && a->layout == b->layout &&
           a->form.bits == b->form.bits && a->form.k == b->form.k && a->form.block == b->form.block &&
           a->form.symmetric == b->form.symmetric && a->form.scale_dtype == b->form.scale_dtype &&
           a->stored == b->stored && a->centered == b->centered && a->padded_zero == b->padded_zero &&
           a->alpha == b->alpha && a->code_dtype == b->code_dtype && a->zero_dtype == b->zero_dtype &&
           shape_equal(&a->code_shape, &b->code_shape) && shape_equal(&a->scale_shape, &b->scale_shape) &&
           a->inner == b->inner;
}

void weight_codes_fini(struct weight_codes *c)
{
    tensor_fini(&c->codes);
    tensor_fini(&c->scale);
    tensor_fini(&c->zero);
}

/* ---- where results go ---- */
struct maker {
    const struct code_plan *p;
    struct weight_matrix x, place; /* as stored; and as the view's elements stand one after another: CODES_PLANE */
    struct weight_codes *out;
    block_algorithm *algorithm;
    uint8_t *plane; /* codes as bytes: CODES_PLANE */
    uint8_t *zeros; /* one a byte, as scales stand */
    int64_t blocks; /* of a row */
    /* tiles */
    int64_t tile_rows, tile_k, across; /* across: tiles side by side along the rows */
    int64_t first;                     /* tile of this chunk's task 0 */
    double (*sums)[2];                 /* signal, noise; by tile of the chunk */
    int64_t *bad;                      /* index of a number that is not finite, or -1; by tile of the chunk */
    char *scratch;                     /* by lane */
    size_t lane_bytes;
};

static int64_t scale_at(const struct maker *k, int64_t row, int64_t block)
{
    const int64_t inner = k->p->inner;
    return (row / inner * k->blocks + block) * inner + row % inner;
}

/* Added to codes when they are stored, modulo the width. */
static uint8_t code_offset(const struct code_plan *p)
{
    const int middle = 1 << (p->form.bits - 1), wide = 1 << p->stored;
    if (p->centered)
        return (uint8_t)((wide - middle) % wide);
    return p->form.symmetric ? (uint8_t)(wide / 2 - middle) : 0;
}

static void put_row(const struct maker *k, int64_t row, int64_t first_k, int64_t nk, const uint8_t *codes,
                    const uint8_t *zero)
{
    const struct code_plan *p = k->p;
    const int64_t block = p->form.block, blob = nbits_bytes(p->stored, block);
    uint8_t *out = k->out->codes.data;
    if (p->layout == CODES_PLANE) {
        for (int64_t i = 0; i < nk; i++)
            k->plane[weight_matrix_at(&k->place, row, first_k + i)] = codes[i];
        return;
    }
    if (p->layout == CODES_ROWS) {
        out += row * nbits_bytes(p->stored, p->form.k) + nbits_bytes(p->stored, first_k);
        nbits_pack(p->stored, codes, nk, code_offset(p), 0, out);
        return;
    }
    out += (row * k->blocks + first_k / block) * blob;
    for (int64_t b = 0; b * block < nk; b++) {
        const int64_t n = i64_min(block, nk - b * block);
        nbits_pack(p->stored, codes + b * block, n, code_offset(p), (uint8_t)(zero[b] + code_offset(p)),
                   out + b * blob);
    }
}

static void put_tile(struct maker *k, int64_t row, int64_t rows, int64_t first_k, int64_t nk,
                     const struct block_codes *q)
{
    const int64_t block = k->p->form.block, first_block = first_k / block, blocks = i64_ceil_div(nk, block);
    struct tensor *scale = &k->out->scale;
    for (int64_t r = 0; r < rows; r++) {
        put_row(k, row + r, first_k, nk, q->codes + r * nk, q->zero + r * blocks);
        for (int64_t b = 0; b < blocks; b++) {
            const int64_t at = scale_at(k, row + r, first_block + b);
            const float s = q->scale[r * blocks + b] * k->p->alpha;
            if (scale->dtype == DTYPE_FLOAT)
                tensor_f32(scale)[at] = s;
            else
                dtype_set(scale->dtype, scale->data, at, (double)s);
            if (k->zeros)
                k->zeros[at] = q->zero[r * blocks + b];
        }
    }
}

/* The view without its transpositions. */
static int place_rows(struct maker *k, struct err *err)
{
    struct weight_view flat = k->p->view;
    int64_t stride = 1;
    for (int a = flat.rank - 1; a >= 0; a--) {
        flat.stride[a] = stride;
        stride *= flat.dim[a];
    }
    return weight_matrix_init(&k->place, &flat, k->p->row_axes, err);
}

static int start(struct maker *k, struct spill *spill, struct err *err)
{
    const struct code_plan *p = k->p;
    const enum dtype scale_dtype = p->form.scale_dtype ? p->form.scale_dtype : DTYPE_FLOAT;
    k->blocks = block_count(&p->form);
    if (weight_matrix_init(&k->x, &p->view, p->row_axes, err))
        return -1;
    if (k->x.k != p->form.k)
        return err_set(err, ERR_INTERNAL, "a weight's rows have %" PRId64 " elements, not %" PRId64, k->x.k, p->form.k);
    if (spill_tensor(spill, &k->out->codes, p->code_dtype, &p->code_shape, err) ||
        spill_tensor(spill, &k->out->scale, scale_dtype, &p->scale_shape, err) ||
        (!p->form.symmetric && spill_tensor(spill, &k->out->zero, p->zero_dtype, &p->zero_shape, err)))
        return -1;
    if (p->layout == CODES_PLANE && place_rows(k, err))
        return -1;
    if (p->layout == CODES_PLANE && !(k->plane = malloc((size_t)tensor_count(p->view.stored))))
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    if (!p->form.symmetric && !(k->zeros = malloc((size_t)(k->x.rows * k->blocks))))
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    return 0;
}

static void finish(struct maker *k, double signal, double noise)
{
    const struct code_plan *p = k->p;
    if (k->plane)
        nbits_pack(p->stored, k->plane, tensor_count(p->view.stored), code_offset(p), 0, k->out->codes.data);
    if (k->zeros && p->padded_zero) {
        const int64_t bytes = nbits_bytes(p->stored, k->blocks);
        const uint8_t pad = (uint8_t)(1 << (p->stored - 1)); /* as ONNX Runtime fills the last byte */
        for (int64_t r = 0; r < k->x.rows; r++)
            nbits_pack(p->stored, k->zeros + r * k->blocks, k->blocks, 0, pad,
                       (uint8_t *)k->out->zero.data + r * bytes);
    } else if (k->zeros) {
        nbits_pack(p->stored, k->zeros, k->x.rows * k->blocks, 0, 0, k->out->zero.data);
    }
    k->out->sqnr_db = noise > 0 ? 10 * log10(signal / noise) : NAN;
    tensor_release_pages(&k->out->codes);
    tensor_release_pages(&k->out->scale);
    tensor_release_pages(&k->out->zero);
    tensor_release_pages(p->view.stored);
}

static void end(struct maker *k)
{
    weight_matrix_fini(&k->x);
    weight_matrix_fini(&k->place);
    free(k->plane);
    free(k->zeros);
    free(k->sums);
    free(k->bad);
    free(k->scratch);
}

/* ---- tiles ---- */
static bool by_columns(const struct maker *k)
{
    return !k->x.row_at && k->x.row_stride == 1 && !(!k->x.k_at && k->x.k_stride == 1);
}

static void choose_tiles(struct maker *k)
{
    const struct block_form *f = &k->p->form;
    const int64_t block = f->block;
    if (by_columns(k)) {
        k->tile_k = block >= DEEP ? block : DEEP / block * block;
        k->tile_k = i64_min(k->tile_k, f->k);
    } else { /* whole rows, unless they are very long */
        k->tile_k = f->k <= TILE || block >= TILE ? f->k : TILE / block * block;
    }
    k->tile_rows = i64_min(i64_max(TILE / k->tile_k, 1), k->x.rows);
    k->across = i64_ceil_div(k->x.rows, k->tile_rows);
}

/* Lanes get a tile of floats, codes, scales and zero points each. */
static int lane_memory(struct maker *k, int lanes, struct err *err)
{
    const int64_t blocks = i64_ceil_div(k->tile_k, k->p->form.block);
    size_t tile, meta, total;
    if (!size_mul((size_t)k->tile_rows, (size_t)k->tile_k, &tile) || !size_mul(tile, sizeof(float) + 1, &tile) ||
        !size_mul((size_t)k->tile_rows, (size_t)blocks, &meta) || !size_mul(meta, sizeof(float) + 1, &meta) ||
        !size_add(tile, meta, &total) || !size_add(total, 128, &total))
        return err_set(err, ERR_MODEL_TOO_LARGE, "a tile of the weight is too large");
    k->lane_bytes = total & ~(size_t)63;
    if (!size_mul(k->lane_bytes, (size_t)lanes, &total) || !(k->scratch = malloc(total)))
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    return 0;
}

static void run_tile(void *arg, int64_t task, int lane)
{
    struct maker *k = arg;
    const int64_t tile = k->first + task, row = tile % k->across * k->tile_rows, first_k = tile / k->across * k->tile_k;
    const int64_t rows = i64_min(k->tile_rows, k->x.rows - row), nk = i64_min(k->tile_k, k->p->form.k - first_k);
    const int64_t blocks = i64_ceil_div(k->tile_k, k->p->form.block);
    struct block_form f = k->p->form;
    float *w = (float *)(void *)(k->scratch + (size_t)lane * k->lane_bytes), *scale = w + k->tile_rows * k->tile_k;
    uint8_t *zero = (uint8_t *)(scale + k->tile_rows * blocks);
    const struct block_codes q = {zero + k->tile_rows * blocks, scale, zero};
    const float *read = w;
    if (k->x.whole && nk == f.k)
        read = k->x.whole + row * f.k;
    else
        weight_matrix_read(&k->x, row, rows, first_k, nk, w);
    f.k = nk;
    k->algorithm(&f, read, rows, &q);
    k->sums[task][0] = k->sums[task][1] = 0;
    block_error(&f, &q, read, rows, &k->sums[task][0], &k->sums[task][1]);
    k->bad[task] = isfinite(k->sums[task][0]) ? -1 : block_first_bad(read, rows * nk); /* a sum of squares hides none */
    if (k->bad[task] >= 0) {
        k->bad[task] = weight_matrix_at(&k->x, row + k->bad[task] / nk, first_k + k->bad[task] % nk);
        return;
    }
    put_tile(k, row, rows, first_k, nk, &q);
}

static int refuse(const struct weight_matrix *x, int64_t at, struct err *err)
{
    const double v = dtype_get(x->stored->dtype, x->stored->data, at);
    return err_set(err, ERR_MODEL, "element %" PRId64 " is %s; numbers must be finite to be quantized", at,
                   isnan(v) ? "NaN" : "infinite");
}

/* The pages the tiles [first, last) of whole lines were read from; elements behind them are not read again. */
static void release(const struct maker *k, int64_t first, int64_t last)
{
    const size_t width = (size_t)dtype_bits(k->x.stored->dtype) / 8;
    const int64_t count = tensor_count(k->x.stored);
    int64_t from, to;
    if (k->x.row_at || k->x.k_at)
        return;
    if (by_columns(k)) {
        from = first / k->across * k->tile_k * k->x.k_stride;
        to = last / k->across * k->tile_k * k->x.k_stride;
    } else {
        from = first * k->tile_rows * k->x.row_stride;
        to = last * k->tile_rows * k->x.row_stride;
    }
    if (k->tile_k < k->p->form.k && !by_columns(k))
        return;
    from = i64_min(i64_max(from, 0), count);
    to = i64_min(i64_max(to, from), count);
    struct tensor part = *k->x.stored;
    part.data = (char *)part.data + (size_t)from * width;
    part.bytes = (size_t)(to - from) * width;
    tensor_release_pages(&part);
}

static int run_chunks(struct maker *k, struct pool *pool, double *signal, double *noise, struct err *err)
{
    const int64_t deep = i64_ceil_div(k->p->form.k, k->tile_k), tiles = deep * k->across;
    const int64_t tile_bytes = k->tile_rows * k->tile_k * 4;
    int64_t chunk = i64_max(CHUNK_BYTES / tile_bytes, 16);
    if (by_columns(k)) /* whole lines of tiles */
        chunk = i64_ceil_div(chunk, k->across) * k->across;
    chunk = i64_min(chunk, tiles);
    k->sums = calloc((size_t)chunk, sizeof *k->sums);
    k->bad = calloc((size_t)chunk, sizeof *k->bad);
    if (!k->sums || !k->bad)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    for (k->first = 0; k->first < tiles; k->first += chunk) {
        const int64_t n = i64_min(chunk, tiles - k->first);
        pool_run(pool, n, run_tile, k);
        for (int64_t i = 0; i < n; i++) {
            if (k->bad[i] >= 0)
                return refuse(&k->x, k->bad[i], err);
            *signal += k->sums[i][0];
            *noise += k->sums[i][1];
        }
        release(k, k->first, k->first + n);
    }
    return 0;
}

int weight_codes_make(const struct code_plan *p, block_algorithm *algorithm, struct spill *spill, struct pool *pool,
                      struct weight_codes *out, struct err *err)
{
    struct maker k = {.p = p, .out = out, .algorithm = algorithm};
    double signal = 0, noise = 0;
    *out = (struct weight_codes){0};
    int rc = start(&k, spill, err);
    if (rc == 0) {
        choose_tiles(&k);
        rc = lane_memory(&k, pool ? pool_threads(pool) : 1, err);
    }
    if (rc == 0)
        rc = run_chunks(&k, pool, &signal, &noise, err);
    if (rc == 0)
        finish(&k, signal, noise);
    else
        weight_codes_fini(out);
    end(&k);
    return rc;
}

/* ---- whole matrices ---- */
float *weight_codes_matrix(const struct code_plan *p, int64_t *rows, struct err *err)
{
    struct weight_matrix x;
    size_t bytes;
    float *w = NULL;
    if (weight_matrix_init(&x, &p->view, p->row_axes, err))
        return NULL;
    *rows = x.rows;
    if (!size_mul((size_t)x.rows, (size_t)x.k, &bytes) || !size_mul(bytes, sizeof *w, &bytes) || !(w = malloc(bytes))) {
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
    } else {
        weight_matrix_read(&x, 0, x.rows, 0, x.k, w);
        const int64_t bad = block_first_bad(w, x.rows * x.k);
        if (bad >= 0) {
            refuse(&x, weight_matrix_at(&x, bad / x.k, bad % x.k), err);
            free(w);
            w = NULL;
        }
    }
    weight_matrix_fini(&x);
    tensor_release_pages(p->view.stored);
    return w;
}

int weight_codes_store(const struct code_plan *p, const float *w, const struct block_codes *q, struct spill *spill,
                       struct weight_codes *out, struct err *err)
{
    struct maker k = {.p = p, .out = out};
    double signal = 0, noise = 0;
    *out = (struct weight_codes){0};
    int rc = start(&k, spill, err);
    if (rc == 0) {
        block_error(&p->form, q, w, k.x.rows, &signal, &noise);
        put_tile(&k, 0, k.x.rows, 0, p->form.k, q);
        finish(&k, signal, noise);
    } else {
        weight_codes_fini(out);
    }
    end(&k);
    return rc;
}
