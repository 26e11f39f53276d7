/* SPDX-License-Identifier: Apache-2.0
 * teacher.c - see teacher.h. The teacher's graph is cloned and its outputs are exactly the wanted values, so that the
 * optimizer drops what they do not need (a final Softmax, say). A batch is split in samples that are kept and samples
 * that miss; the missing ones are run together.
 *
 * What is kept must not depend on which samples happened to miss together: after a job was tried again these are
 * others. The bits of a product's row do depend on how many rows it has, and on whether it is among the last few that
 * fill no tile of a kernel. So a teacher that keeps always runs full batches of a multiple of 16, filled up with
 * repeats.
 *
 * Samples are found by a 64-bit hash of their bytes in an open table. Two different samples with one hash would share
 * a target: with a million samples the chance is below 1e-7, and the harm is one wrong target. */
#include "core/train/teacher.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/stats/evaluate.h"
#include "core/tensor/halves.h"
#include "core/tensor/spill.h"

enum { MOST_AT_ONCE = 128, WHOLE_TILES = 16, BLOCK_ROWS = 2048 };
#define FLOAT_BYTES ((int64_t)1 << 30)
#define HALF_BYTES ((int64_t)4 << 30)
static const float HALF_MOST = 65504.0f;

struct said {
    struct teacher_want want;
    int output;         /* of the plan */
    struct shape shape; /* of one sample, as said */
    int64_t row;        /* floats of it */
    int64_t channels, inner;
    struct tensor value; /* [capacity, ...], cut to the batch */
    int64_t capacity;
};

/* Rows that were said before. */
struct kept {
    enum dtype dtype; /* DTYPE_NONE: nothing is kept */
    struct spill *spill;
    struct tensor *block; /* [n_blocks] BLOCK_ROWS rows each */
    int64_t n_blocks, rows, most;
    uint64_t *key; /* [slots]; 0: free */
    int64_t *at;
    uint64_t slots; /* a power of two */
    float *line;    /* one row */
};

struct teacher {
    struct model *m;
    struct plan *plan;
    int n_in;
    int *source; /* [n_in] place among the student's inputs */
    struct said *said;
    int n;
    int64_t row; /* floats of a sample, all wants together */
    int64_t batch;
    bool fixed;
    struct kept kept;
    int64_t *miss;
    uint64_t *hash; /* [capacity] of the batch's samples */
    int64_t capacity;
    struct tensor *feed, *out;
    int n_out;
    int64_t runs, reused;
};

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for what the teacher says");
}

/* ---- inputs ---- */
static int fed_inputs(const struct model *m, const struct value_info **fed)
{
    const struct graph *g = model_main(m);
    int n = 0;
    for (int i = 0; i < g->n_inputs; i++)
        if (!m->values[g->inputs[i].value].weight)
            fed[n++] = &g->inputs[i];
    return n;
}

static bool dims_fit(const struct shape *a, const struct tensor *t)
{
    if (a->rank < 0)
        return true;
    if (a->rank != t->shape.rank)
        return false;
    for (int d = 1; d < a->rank; d++)
        if (a->dim[d] >= 0 && a->dim[d] != t->shape.dim[d])
            return false;
    return true;
}

/* Which of the student's inputs feeds each of the teacher's: the one of its name, else the one at its place. */
static int match_inputs(struct teacher *t, const struct teacher_opts *o, struct err *err)
{
    const int most = model_main(o->student)->n_inputs + model_main(t->m)->n_inputs + 1;
    const struct value_info **own = calloc((size_t)most, sizeof *own), **from = calloc((size_t)most, sizeof *from);
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    int rc = -1;
    if (!own || !from || !(t->source = calloc((size_t)most, sizeof *t->source))) {
        nomem(err);
        goto out;
    }
    t->n_in = fed_inputs(t->m, own);
    const int n = fed_inputs(o->student, from);
    if (t->n_in != n || n != o->n_in) {
        err_set(err, ERR_MODEL, "the teacher has %d inputs and the model %d: it cannot be fed the same samples",
                t->n_in, n);
        goto out;
    }
    for (int i = 0; i < n; i++) {
        t->source[i] = i;
        for (int k = 0; k < n; k++)
            if (!strcmp(t->m->values[own[i]->value].name, o->student->values[from[k]->value].name))
                t->source[i] = k;
        const struct tensor *sample = &o->in[t->source[i]];
        if (own[i]->has_type && own[i]->type.has_shape && !dims_fit(&own[i]->type.shape, sample)) {
            err_set(err, ERR_SHAPE, "the teacher's input '%s' is %s, but the model's '%s' takes %s",
                    t->m->values[own[i]->value].name, shape_text(&own[i]->type.shape, a),
                    o->student->values[from[t->source[i]]->value].name, shape_text(&sample->shape, b));
            goto out;
        }
    }
    rc = 0;
out:
    free(own);
    free(from);
    return rc;
}

/* ---- outputs ---- */
static int set_outputs(struct teacher *t, const struct teacher_opts *o, struct err *err)
{
    struct graph *g = model_main(t->m);
    struct value_info *list = model_alloc(t->m, (size_t)o->n_want + 1, sizeof *list);
    t->said = calloc((size_t)o->n_want + 1, sizeof *t->said);
    if (!list || !t->said)
        return nomem(err);
    t->n = o->n_want;
    for (int i = 0; i < t->n; i++) {
        struct said *s = &t->said[i];
        s->want = o->want[i];
        for (s->output = 0; s->output < t->n_out && list[s->output].value != s->want.value; s->output++)
            ;
        if (s->output == t->n_out)
            list[t->n_out++] = (struct value_info){.value = s->want.value};
    }
    g->outputs = list;
    g->n_outputs = t->n_out;
    return 0;
}

static int describe(struct teacher *t, struct said *s, const struct type *type, int64_t batch, struct err *err)
{
    const char *name = t->m->values[s->want.value].name;
    char text[SHAPE_TEXT];
    if (type->kind != TYPE_TENSOR || dtype_kind(type->dtype) != 'f')
        return err_set(err, ERR_MODEL, "the teacher's value '%s' is not of floats", name);
    s->shape = type->shape;
    if (!shape_known(&s->shape) || s->shape.rank < 1 || s->shape.dim[0] < 1 || s->shape.dim[0] % batch)
        return err_set(err, ERR_SHAPE,
                       "the teacher's value '%s' is %s for %" PRId64
                       " samples: it must have a row for each, of one size",
                       name, shape_text(&s->shape, text), batch);
    s->shape.dim[0] /= batch;
    s->row = shape_count(&s->shape);
    if (s->row < 1)
        return err_set(err, ERR_SHAPE, "the teacher's value '%s' is empty", name);
    if (s->want.form == TEACHER_VALUE)
        return 0;
    const int axis = s->want.axis;
    if (axis < 1 || axis >= s->shape.rank || s->shape.dim[0] != 1)
        return err_set(err, ERR_SHAPE, "the teacher's value '%s' is %s: it has no channels beside places", name,
                       shape_text(&s->shape, text));
    s->channels = s->shape.dim[axis];
    s->inner = shape_product(&s->shape, axis + 1, s->shape.rank);
    s->row /= s->channels;
    s->shape = SHAPE(1, s->row);
    return 0;
}

static int find_shapes(struct teacher *t, const struct teacher_opts *o, struct err *err)
{
    struct shape *shape = calloc((size_t)t->n_in + 1, sizeof *shape);
    struct tensor *in = calloc((size_t)t->n_in + 1, sizeof *in);
    const struct type *types;
    int rc = -1;
    if (!shape || !in) {
        nomem(err);
        goto out;
    }
    for (int i = 0; i < t->n_in; i++)
        in[i] = o->in[t->source[i]];
    const int64_t tiles = o->batch > 0 ? i64_ceil_div(i64_min(o->batch, MOST_AT_ONCE), WHOLE_TILES) : MOST_AT_ONCE;
    t->batch = evaluate_batch_size(t->plan, in, i64_min(tiles * WHOLE_TILES, MOST_AT_ONCE), &t->fixed);
    for (int i = 0; i < t->n_in; i++) {
        shape[i] = in[i].shape;
        if (shape[i].rank > 0)
            shape[i].dim[0] = t->batch;
    }
    if (plan_infer(t->plan, shape, &types, err))
        goto out;
    for (int i = 0; i < t->n; i++) {
        if (describe(t, &t->said[i], &types[plan_output(t->plan, t->said[i].output)], t->batch, err))
            goto out;
        if (!i64_add(t->row, t->said[i].row, &t->row)) {
            err_set(err, ERR_MODEL_TOO_LARGE, "what the teacher says of a sample is too much");
            goto out;
        }
    }
    rc = 0;
out:
    free(shape);
    free(in);
    return rc;
}

/* ---- what is kept ---- */
static int start_keeping(struct teacher *t, const struct teacher_opts *o, struct err *err)
{
    struct kept *k = &t->kept;
    int64_t floats;
    if (!o->keep || o->samples < 1 || !i64_mul(o->samples, t->row, &floats) || floats > HALF_BYTES / 2)
        return 0;
    k->most = o->samples;
    for (k->slots = 64; k->slots < (uint64_t)k->most * 2; k->slots *= 2)
        ;
    k->dtype = floats <= FLOAT_BYTES / 4 ? DTYPE_FLOAT : DTYPE_FLOAT16;
    k->block = calloc((size_t)(k->most / BLOCK_ROWS + 1), sizeof *k->block);
    k->key = calloc(k->slots, sizeof *k->key);
    k->at = calloc(k->slots, sizeof *k->at);
    k->line = calloc((size_t)t->row, sizeof *k->line);
    k->spill = spill_new(err);
    return k->block && k->key && k->at && k->line && k->spill ? 0 : nomem(err);
}

static uint64_t mix(uint64_t h, const unsigned char *p, size_t n)
{
    for (; n >= 8; n -= 8, p += 8) {
        uint64_t w;
        memcpy(&w, p, 8);
        h = (h ^ w) * UINT64_C(0x9e3779b97f4a7c15);
        h ^= h >> 29;
    }
    for (; n; n--, p++)
        h = (h ^ *p) * UINT64_C(0x100000001b3);
    return h ^ (h >> 32);
}

static uint64_t hash_sample(const struct loader_batch *b, int64_t i)
{
    uint64_t h = UINT64_C(0xcbf29ce484222325);
    for (int k = 0; k < b->n_in; k++) {
        const size_t row = b->in[k].bytes / (size_t)b->n;
        h = mix(h, (const unsigned char *)b->in[k].data + (size_t)i * row, row);
    }
    return h ? h : 1;
}

/* The slot of a hash: its own, or a free one. The table is never full. */
static uint64_t slot_of(const struct kept *k, uint64_t hash)
{
    uint64_t slot = hash & (k->slots - 1);
    while (k->key[slot] && k->key[slot] != hash)
        slot = (slot + 1) & (k->slots - 1);
    return slot;
}

static float *row_of(const struct said *s, int64_t i)
{
    return tensor_f32(&s->value) + i * s->row;
}

static void read_row(struct teacher *t, int64_t at, int64_t i)
{
    const struct kept *k = &t->kept;
    const struct tensor *block = &k->block[at / BLOCK_ROWS];
    const int64_t first = at % BLOCK_ROWS * t->row;
    const float *line = tensor_f32(block) + first;
    if (k->dtype == DTYPE_FLOAT16) {
        halves_to_floats(k->line, (const uint16_t *)block->data + first, t->row);
        line = k->line;
    }
    for (int w = 0; w < t->n; line += t->said[w++].row)
        memcpy(row_of(&t->said[w], i), line, (size_t)t->said[w].row * sizeof *line);
}

static int write_row(struct teacher *t, uint64_t hash, int64_t i, struct err *err)
{
    struct kept *k = &t->kept;
    const uint64_t slot = slot_of(k, hash);
    if (k->key[slot] || k->rows == k->most)
        return 0;
    if (k->rows / BLOCK_ROWS == k->n_blocks) {
        const int64_t rows = i64_min(BLOCK_ROWS, k->most - k->rows);
        if (spill_tensor(k->spill, &k->block[k->n_blocks], k->dtype, &SHAPE(rows, t->row), err))
            return -1;
        k->n_blocks++;
    }
    struct tensor *block = &k->block[k->rows / BLOCK_ROWS];
    const int64_t first = k->rows % BLOCK_ROWS * t->row;
    float *line = k->dtype == DTYPE_FLOAT ? tensor_f32(block) + first : k->line, *put = line;
    for (int w = 0; w < t->n; put += t->said[w++].row)
        memcpy(put, row_of(&t->said[w], i), (size_t)t->said[w].row * sizeof *put);
    if (k->dtype == DTYPE_FLOAT16) {
        for (int64_t f = 0; f < t->row; f++)
            line[f] = fminf(fmaxf(line[f], -HALF_MOST), HALF_MOST);
        halves_from_floats((uint16_t *)block->data + first, line, t->row);
        read_row(t, k->rows, i); /* the same now as later */
    }
    k->key[slot] = hash;
    k->at[slot] = k->rows++;
    return 0;
}

/* ---- running ---- */
static void attention_map(const struct said *s, const float *x, float *map)
{
    const int64_t outer = s->row / s->inner;
    double square = 0;
    for (int64_t o = 0; o < outer; o++)
        for (int64_t i = 0; i < s->inner; i++) {
            double sum = 0;
            for (int64_t c = 0; c < s->channels; c++) {
                const double v = (double)x[(o * s->channels + c) * s->inner + i];
                sum += v * v;
            }
            map[o * s->inner + i] = (float)sum;
            square += sum * sum;
        }
    const double length = sqrt(square);
    for (int64_t p = 0; p < s->row; p++)
        map[p] = length > 0 ? (float)((double)map[p] / length) : 0;
}

static bool finite_row(const float *x, int64_t n)
{
    bool finite = true;
    for (int64_t i = 0; i < n; i++)
        finite = finite && isfinite(x[i]);
    return finite;
}

static int take_rows(struct teacher *t, struct said *s, const int64_t *place, int64_t n, int64_t fed, struct err *err)
{
    struct tensor wide = {0};
    const struct tensor *out = &t->out[s->output];
    const int64_t each = s->row * (s->want.form == TEACHER_ATTENTION ? s->channels : 1);
    const char *name = t->m->values[s->want.value].name;
    char text[SHAPE_TEXT];
    int rc = -1;
    if (out->dtype != DTYPE_FLOAT) {
        if (tensor_convert(&wide, out, DTYPE_FLOAT, err))
            return -1;
        out = &wide;
    }
    if (tensor_count(out) != each * fed) {
        err_set(err, ERR_SHAPE, "the teacher's value '%s' has another shape for some samples: %s", name,
                shape_text(&out->shape, text));
        goto out;
    }
    for (int64_t i = 0; i < n; i++) {
        const float *x = tensor_f32(out) + i * each;
        float *to = row_of(s, place[i]);
        if (s->want.form == TEACHER_ATTENTION)
            attention_map(s, x, to);
        else
            memcpy(to, x, (size_t)each * sizeof *x);
        if (!finite_row(to, s->row)) {
            err_set(err, ERR_NON_FINITE,
                    "the teacher's value '%s' is not finite for a sample: nothing can be learned from it", name);
            goto out;
        }
    }
    rc = 0;
out:
    tensor_fini(&wide);
    return rc;
}

/* Input i of a run: `fed` samples of the batch, the last one repeated. */
static int feed_input(struct teacher *t, int i, const struct loader_batch *b, const int64_t *place, int64_t n,
                      int64_t fed, struct err *err)
{
    const struct tensor *from = &b->in[t->source[i]];
    const size_t row = from->bytes / (size_t)b->n;
    struct shape shape = from->shape;
    struct tensor rows = {0};
    shape.dim[0] = fed;
    if (fed == n && place[n - 1] - place[0] == n - 1)
        tensor_view(&rows, from->dtype, &shape, (char *)from->data + (size_t)place[0] * row, NULL);
    else if (tensor_alloc_raw(&rows, from->dtype, &shape, err))
        return -1;
    else
        for (int64_t k = 0; k < fed; k++)
            memcpy((char *)rows.data + (size_t)k * row,
                   (const char *)from->data + (size_t)place[i64_min(k, n - 1)] * row, row);
    const int rc = evaluate_feed(t->plan, i, &rows, &t->feed[i], err);
    tensor_fini(&rows);
    return rc;
}

/* Runs n samples of the batch, at most t->batch. */
static int run_some(struct teacher *t, const struct loader_batch *b, const int64_t *place, int64_t n, struct err *err)
{
    const int64_t fed = t->fixed || t->kept.dtype != DTYPE_NONE ? t->batch : n;
    int rc = 0;
    for (int i = 0; i < t->n_in && !rc; i++)
        rc = feed_input(t, i, b, place, n, fed, err);
    if (!rc && (rc = plan_run(t->plan, t->feed, t->out, NULL, err)))
        err_wrap(err, "the teacher: ");
    for (int w = 0; w < t->n && !rc; w++)
        rc = take_rows(t, &t->said[w], place, n, fed, err);
    for (int i = 0; i < t->n_in; i++)
        tensor_fini(&t->feed[i]);
    for (int i = 0; i < t->n_out; i++)
        tensor_fini(&t->out[i]);
    t->runs += n;
    return rc;
}

/* Room for the batch. */
static int make_room(struct teacher *t, int64_t n, struct err *err)
{
    if (n > t->capacity) {
        free(t->miss);
        free(t->hash);
        t->capacity = 0;
        t->miss = calloc((size_t)n, sizeof *t->miss);
        t->hash = calloc((size_t)n, sizeof *t->hash);
        if (!t->miss || !t->hash)
            return nomem(err);
        t->capacity = n;
    }
    for (int w = 0; w < t->n; w++) {
        struct said *s = &t->said[w];
        struct shape shape = s->shape;
        if (!i64_mul(s->shape.dim[0], n, &shape.dim[0]) || shape_count(&shape) < 0)
            return err_set(err, ERR_MODEL_TOO_LARGE, "what the teacher says of %" PRId64 " samples is too much", n);
        if (n > s->capacity) {
            tensor_fini(&s->value);
            s->capacity = 0;
            if (tensor_alloc(&s->value, DTYPE_FLOAT, &shape, err))
                return -1;
            s->capacity = n;
        }
        s->value.shape = shape;
        s->value.bytes = (size_t)shape_count(&shape) * sizeof(float);
    }
    return 0;
}

int teacher_ask(struct teacher *t, const struct loader_batch *batch, struct err *err)
{
    struct kept *k = &t->kept;
    const bool keep = k->dtype != DTYPE_NONE && !batch->augmented;
    int64_t missing = 0;
    if (batch->n < 1)
        return err_set(err, ERR_INTERNAL, "the teacher is asked about no samples");
    if (make_room(t, batch->n, err))
        return -1;
    for (int64_t i = 0; i < batch->n; i++) {
        if (keep) {
            t->hash[i] = hash_sample(batch, i);
            const uint64_t slot = slot_of(k, t->hash[i]);
            if (k->key[slot]) {
                read_row(t, k->at[slot], i);
                t->reused++;
                continue;
            }
        }
        t->miss[missing++] = i;
    }
    for (int64_t at = 0; at < missing; at += t->batch)
        if (run_some(t, batch, t->miss + at, i64_min(t->batch, missing - at), err))
            return -1;
    for (int64_t i = 0; keep && i < missing; i++)
        if (write_row(t, t->hash[t->miss[i]], t->miss[i], err))
            return -1;
    return 0;
}

const struct tensor *teacher_said(const struct teacher *t, int i)
{
    return &t->said[i].value;
}

const struct shape *teacher_shape(const struct teacher *t, int i)
{
    return &t->said[i].shape;
}

/* ---- life cycle ---- */
struct teacher *teacher_new(const struct teacher_opts *opts, struct err *err)
{
    struct teacher *t = calloc(1, sizeof *t);
    if (!t) {
        nomem(err);
        return NULL;
    }
    t->m = model_clone(opts->model, err);
    if (!t->m || match_inputs(t, opts, err) || set_outputs(t, opts, err))
        goto fail;
    t->feed = calloc((size_t)t->n_in + 1, sizeof *t->feed);
    t->out = calloc((size_t)t->n_out + 1, sizeof *t->out);
    if (!t->feed || !t->out) {
        nomem(err);
        goto fail;
    }
    t->plan = plan_new(t->m, &(struct plan_opts){.pool = opts->pool, .optimize = true}, err);
    if (!t->plan || find_shapes(t, opts, err) || start_keeping(t, opts, err)) {
        err_wrap(err, "the teacher: ");
        goto fail;
    }
    return t;
fail:
    teacher_free(t);
    return NULL;
}

void teacher_free(struct teacher *t)
{
    if (!t)
        return;
    struct kept *k = &t->kept;
    for (int64_t i = 0; i < k->n_blocks; i++)
        tensor_fini(&k->block[i]);
    for (int i = 0; i < t->n; i++)
        tensor_fini(&t->said[i].value);
    spill_free(k->spill);
    free(k->block);
    free(k->key);
    free(k->at);
    free(k->line);
    free(t->said);
    free(t->source);
    free(t->miss);
    free(t->hash);
    free(t->feed);
    free(t->out);
    plan_free(t->plan);
    model_free(t->m);
    free(t);
}

json_t *teacher_report(const struct teacher *t)
{
    const struct kept *k = &t->kept;
    size_t bytes = 0;
    for (int64_t i = 0; i < k->n_blocks; i++)
        bytes += k->block[i].bytes;
    return json_pack("{s:o, s:I, s:I, s:I, s:I}", "kept",
                     k->dtype == DTYPE_NONE ? json_null() : json_string(dtype_name(k->dtype)), "bytes",
                     (json_int_t)bytes, "samples", (json_int_t)k->rows, "runs", (json_int_t)t->runs, "reused",
                     (json_int_t)t->reused);
}
