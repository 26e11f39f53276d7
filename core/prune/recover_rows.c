/* SPDX-License-Identifier: Apache-2.0
 * recover_rows.c - what products read and targets are, on a spread of samples (recover_impl.h).
 * How        The model runs up to the wanted targets only: a clone has them as its outputs, and a plan drops what they do not
 *            need. Values come batch by batch; positions are spread over each sample, at other places from sample to sample,
 *            the same ones in both networks.
 * Memory     ROW_BYTES for all matrices of one place, one position a sample at least. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/data/split.h"
#include "core/prune/recover_impl.h"
#include "core/stats/sampling.h"

#define ROW_BYTES ((size_t)192 << 20)
/* Neighbouring positions of a picture say much the same: more rows than this cost time and teach nothing. */
enum { ENOUGH_ROWS = 1 << 16, ROWS_PER_WEIGHT = 48 };
/* Above so many numbers a row, equations of the rows are solved instead of the weights' (least_squares.h): fewer. */
enum { WIDE_ROW = 6144, WIDE_ROWS = 4096 };
enum { DEFAULT_SAMPLES = 512, HELD_EVERY = 8, TASK_ROWS = 32 };

static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory for rows of samples");
}

/* ---- samples ---- */
static int set_choose(struct sample_set *s, struct dataset *data, int64_t wanted, struct err *err)
{
    s->data = data;
    s->n = dataset_spread(data, wanted, &s->index, err);
    if (s->n < 0)
        return -1;
    s->block = calloc((size_t)s->n + 1, sizeof *s->block);
    return s->block ? 0 : nomem(err);
}

int samples_choose(struct samples *s, const struct recover_opts *o, struct err *err)
{
    const int64_t wanted = o->samples > 0 ? o->samples : DEFAULT_SAMPLES;
    *s = (struct samples){.n_sets = 1};
    if (set_choose(&s->set[0], o->data, wanted, err))
        return -1;
    const int64_t n = s->set[0].n;
    if (n < 2)
        return err_set(err, ERR_DATASET, "recovery needs at least 2 samples, the dataset has %lld", (long long)n);
    if (o->val_data) {
        s->n_sets = 2;
        if (set_choose(&s->set[1], o->val_data, i64_max(n / HELD_EVERY, 1), err))
            return -1;
        for (int64_t i = 0; i < n; i++)
            s->set[0].block[i] = i;
        for (int64_t i = 0; i < s->set[1].n; i++)
            s->set[1].block[i] = n + i;
        s->n_fit = n;
        s->n = n + s->set[1].n;
        if (s->set[1].n > 0)
            return 0;
    }
    /* every eighth, from the middle of its eight */
    int64_t at = 0, held = 0;
    const int64_t every = i64_min(HELD_EVERY, n);
    s->n_sets = 1;
    s->own = true;
    s->n = n;
    s->n_fit = n - n / every;
    for (int64_t i = 0; i < n; i++)
        s->set[0].block[i] = i % every == every / 2 && held < n / every ? s->n_fit + held++ : at++;
    return 0;
}

void samples_fini(struct samples *s)
{
    for (int i = 0; i < 2; i++) {
        free(s->set[i].index);
        free(s->set[i].block);
    }
    *s = (struct samples){0};
}

void place_rows_fini(struct place_rows *r)
{
    free(r->want);
    free(r->x);
    free(r->have);
    r->want = r->x = r->have = NULL;
}

/* ---- reading ---- */
struct reading {
    const struct record *r;
    const struct sample_set *set;
    uint32_t input;           /* whose first dim says how many samples a run is fed */
    int64_t fed, done, total; /* samples */
    int64_t before;           /* of earlier sets */
};

/* Values of one tensor into rows. */
struct copying {
    const struct reading *reading;
    const struct place_rows *rows;
    const struct row_layout *layout; /* of x; NULL: a target */
    const float *from;
    float *to;
    int64_t samples, row_count; /* of this batch; rows of all */
    int64_t channels, inner;    /* of a target */
    const int64_t *kept;
};

/* The i-th of the positions taken from a sample. */
static int64_t position_of(const struct place_rows *r, int64_t sample, int64_t i)
{
    if (r->per_block == r->positions)
        return i;
    const double turn = (double)sample * 0.6180339887498949;
    const double at = ((double)i + turn - floor(turn)) * (double)r->positions / (double)r->per_block;
    return i64_min((int64_t)at, r->positions - 1);
}

static void copy_rows(void *arg, int64_t task, int lane)
{
    const struct copying *c = arg;
    const struct reading *g = c->reading;
    const struct place_rows *r = c->rows;
    const int64_t outputs = r->place->outputs, width = r->place->source.groups * r->place->source.k;
    (void)lane;
    for (int64_t row = task * TASK_ROWS; row < c->row_count && row < (task + 1) * TASK_ROWS; row++) {
        const int64_t s = row / r->per_block, number = g->done + s,
                      position = position_of(r, g->before + number, row % r->per_block),
                      to = g->set->block[number] * r->per_block + row % r->per_block;
        if (c->layout) {
            const int64_t all = s * r->positions + position, sample = all / c->layout->rows;
            row_read(c->layout, c->from + sample * c->layout->sample_step, all % c->layout->rows, c->to + to * width);
            continue;
        }
        const int64_t all = s * r->positions + position;
        const float *from = c->from + all / c->inner * c->channels * c->inner + all % c->inner;
        for (int64_t o = 0; o < outputs; o++)
            c->to[to * outputs + o] = from[(c->kept ? c->kept[o] : o) * c->inner];
    }
}

static void copy_all(struct copying *c)
{
    c->row_count = c->samples * c->rows->per_block;
    pool_run(c->row_count * c->rows->place->outputs > 4096 ? c->reading->r->o->pool : NULL,
             i64_ceil_div(c->row_count, TASK_ROWS), copy_rows, c);
}

/* How many of so many positions a sample are taken. */
static int64_t positions_taken(const struct place *p, int64_t positions, int64_t blocks)
{
    const int64_t width = p->source.groups * p->source.k + 5 * p->outputs;
    const size_t row = (size_t)width * sizeof(float);
    const int64_t k = p->source.k, enough = k > WIDE_ROW ? WIDE_ROWS : i64_max(ENOUGH_ROWS, ROWS_PER_WEIGHT * k);
    const int64_t most = i64_min((int64_t)(ROW_BYTES / row) / blocks, i64_max(enough / blocks, 1));
    return i64_max(i64_min(positions, most), 1);
}

static float *matrix_new(int64_t rows, int64_t width)
{
    size_t bytes;
    return size_mul((size_t)rows, (size_t)width * sizeof(float), &bytes) ? malloc(bytes) : NULL;
}

static int observe_target(struct reading *g, struct place_rows *r, const struct tensor *t, struct err *err)
{
    const struct place *p = r->place;
    const bool original = g->r->what == RECORD_WANT;
    const int axis = t->shape.rank - 1 - p->from_right;
    const int64_t count = tensor_count(t), blocks = g->r->samples->n;
    if (t->dtype != DTYPE_FLOAT || axis < 1 || g->fed < 1 || count < 1) {
        r->why = "what it makes does not follow the batch, or is not float32";
        return 0;
    }
    const int64_t channels = t->shape.dim[axis], positions = count / channels / g->fed;
    const bool fits = original && p->kept ? p->kept[p->outputs - 1] < channels : channels == p->outputs;
    if (!fits || positions < 1 || count != channels * positions * g->fed ||
        (r->positions && positions != r->positions)) {
        r->why = fits ? "what it makes does not follow the batch" : "its channels are not those of the original";
        return 0;
    }
    float **to = original ? &r->want : &r->have;
    if (!r->positions) {
        r->positions = positions;
        r->per_block = positions_taken(p, positions, blocks);
    }
    if (!*to && !(*to = matrix_new(blocks * r->per_block, p->outputs)))
        return nomem(err);
    struct copying c = {.reading = g,
                        .rows = r,
                        .from = tensor_f32(t),
                        .to = *to,
                        .channels = channels,
                        .inner = shape_product(&t->shape, axis + 1, t->shape.rank),
                        .samples = i64_min(g->fed, g->total - g->done),
                        .kept = original ? p->kept : NULL};
    copy_all(&c);
    return 0;
}

static int observe_input(struct reading *g, struct place_rows *r, const struct tensor *t, struct err *err)
{
    const struct place *p = r->place;
    struct row_layout l;
    if (t->dtype != DTYPE_FLOAT || !row_layout_make(&l, &p->source, &t->shape) || g->fed < 1 ||
        l.samples * l.rows != g->fed * r->positions || l.samples % g->fed) {
        r->why = "what it reads does not follow the batch, or is not float32";
        return 0;
    }
    if (!r->x && !(r->x = matrix_new(g->r->samples->n * r->per_block, p->source.groups * p->source.k)))
        return nomem(err);
    struct copying c = {.reading = g,
                        .rows = r,
                        .layout = &l,
                        .from = tensor_f32(t),
                        .to = r->x,
                        .samples = i64_min(g->fed, g->total - g->done)};
    copy_all(&c);
    return 0;
}

static int observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct reading *g = arg;
    if (value == g->input)
        g->fed = t->shape.rank > 0 ? t->shape.dim[0] : 0;
    for (int i = 0; i < g->r->n; i++) {
        struct place_rows *r = &g->r->at[i];
        if (r->why)
            continue;
        const bool input = g->r->what == RECORD_HAVE && r->place->rows && value == r->place->source.value;
        if (input && observe_input(g, r, t, err))
            return -1;
        if (!r->why && value == r->place->target && observe_target(g, r, t, err))
            return -1;
    }
    return 0;
}

static int start(void *arg, int64_t fixed, int64_t total, struct err *err)
{
    struct reading *g = arg;
    (void)fixed;
    (void)err;
    g->total = i64_min(total, g->set->n);
    g->done = 0;
    return 0;
}

static int ran(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct reading *g = arg;
    const struct recover_opts *o = g->r->o;
    (void)total;
    g->done = done;
    return o->progress ? o->progress(o->progress_arg, g->r->done + g->before + done, g->r->total, err) : 0;
}

/* ---- running ---- */
/* A clone whose outputs are the targets. */
static struct model *cut_behind(const struct record *r, bool *watch, struct err *err)
{
    struct model *m = model_clone(r->m, err);
    struct value_info *out = m ? model_alloc(m, (size_t)r->n, sizeof *out) : NULL;
    if (!out) {
        model_free(m);
        nomem(err);
        return NULL;
    }
    struct graph *g = model_main(m);
    int n = 0;
    for (int i = 0; i < r->n; i++) {
        const struct place *p = r->at[i].place;
        if (r->what == RECORD_HAVE && p->rows)
            watch[p->source.value] = true;
        if (!watch[p->target])
            out[n++] = (struct value_info){.value = p->target};
        watch[p->target] = true;
    }
    g->outputs = out;
    g->n_outputs = n;
    return m;
}

static uint32_t first_input(const struct model *m)
{
    const struct graph *g = model_main(m);
    for (int i = 0; i < g->n_inputs; i++)
        if (!m->values[g->inputs[i].value].weight)
            return g->inputs[i].value;
    return VALUE_NONE;
}

int record_rows(const struct record *r, struct err *err)
{
    bool *watch = calloc((size_t)r->m->n_values + 1, sizeof *watch);
    struct model *m = watch ? cut_behind(r, watch, err) : NULL;
    int64_t done = m ? 0 : -1, before = 0;
    if (!watch)
        nomem(err);
    for (int i = 0; done >= 0 && i < r->samples->n_sets; i++) {
        const struct sample_set *set = &r->samples->set[i];
        struct reading g = {.r = r, .set = set, .input = first_input(m), .before = before};
        const struct sampling s = {.data = set->data,
                                   .pool = r->o->pool,
                                   .samples = set->n,
                                   .index = set->index,
                                   .n_index = set->n,
                                   .observe = observe,
                                   .observe_arg = &g,
                                   .watch = watch,
                                   .start = start,
                                   .ran = ran,
                                   .arg = &g};
        if (dataset_bind(set->data, m, err))
            done = -1;
        else
            done = sampling_run(m, &s, err);
        before += set->n;
    }
    model_free(m);
    free(watch);
    return done < 0 ? -1 : 0;
}
