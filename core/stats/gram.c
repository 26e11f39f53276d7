/* SPDX-License-Identifier: Apache-2.0
 * gram.c - rows of every product's input go into a tile; a full tile is multiplied with itself.
 * Order      Rows enter a tile one after another, whatever batch they came in, and a tile has a fixed number of
 *            rows: so
 *            the sums do not depend on the batch size. A task makes one square of one group's matrix, of fixed size:
 *            so
 *            they do not depend on threads. Only squares on and above the diagonal are made.
 * Precision  float within a tile (512 products a sum), double across tiles. */
#include "core/stats/gram.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/base/size.h"
#include "core/kernels/gemm.h"
#include "core/stats/gram_rows.h"

enum { TILE_ROWS = 512, SQUARE = 256 };
#define PASS_BYTES ((size_t)256 << 20)

/* One matrix a group, of products that read the same rows. */
struct track {
    struct row_source source;
    int64_t width; /* groups * k */
    float *tile;   /* [TILE_ROWS][width], `filled` of them */
    int64_t filled, rows, samples;
    double *h, *mean, *mean_abs;
    float *kept; /* [opts.keep][width] */
    struct rng rng;
    const char *why; /* nothing can be said; NULL */
};

struct gram {
    const struct model *m;
    struct gram_opts opts;
    struct track *track;
    int64_t n_tracks;
    uint32_t *node;    /* [n] */
    int64_t *track_of; /* [n] */
    int64_t n;
    float *scratch; /* a square a lane */
    int64_t fixed, total, done;
};

/* ---- sizes ---- */
static size_t source_bytes(const struct row_source *s)
{
    size_t squares, means, tile, all;
    const size_t k = (size_t)s->k, groups = (size_t)s->groups;
    if (!size_mul(k, k, &squares) || !size_mul(squares, groups * 8, &squares) || !size_mul(k, groups, &means) ||
        !size_mul(means, TILE_ROWS * sizeof(float), &tile) || !size_mul(means, 2 * sizeof(double), &means) ||
        !size_add(squares, means, &all) || !size_add(all, tile, &all) || all > (size_t)INT64_MAX)
        return SIZE_MAX;
    return all;
}

const char *gram_refusal(const struct model *m, uint32_t node)
{
    struct row_source s;
    const char *why = row_source_of(m, node, &s);
    if (!why && (s.groups > INT32_MAX || s.k > INT32_MAX || source_bytes(&s) == SIZE_MAX))
        why = "it has too many inputs for a Gram matrix";
    return why;
}

size_t gram_bytes(const struct model *m, uint32_t node)
{
    struct row_source s;
    if (gram_refusal(m, node))
        return SIZE_MAX;
    row_source_of(m, node, &s);
    return source_bytes(&s);
}

/* ---- life ---- */
static bool track_make(struct track *t, const struct row_source *s, const struct gram_opts *o)
{
    const size_t width = (size_t)s->groups * (size_t)s->k;
    size_t bytes;
    *t = (struct track){.source = *s, .width = (int64_t)width};
    rng_init(&t->rng, o->seed, 0x6b657074);
    if (o->keep > 0) {
        t->kept = size_mul((size_t)o->keep, width * sizeof *t->kept, &bytes) ? malloc(bytes) : NULL;
        if (!t->kept)
            return false;
    }
    t->tile = malloc(TILE_ROWS * width * sizeof *t->tile);
    t->h = calloc(width * (size_t)s->k, sizeof *t->h);
    t->mean = calloc(width, sizeof *t->mean);
    t->mean_abs = calloc(width, sizeof *t->mean_abs);
    return t->tile && t->h && t->mean && t->mean_abs;
}

static int add_node(struct gram *g, uint32_t node, struct err *err)
{
    struct row_source s;
    char label[200];
    const char *why = gram_refusal(g->m, node);
    int64_t at = 0;
    if (why)
        return err_set(err, ERR_MODEL, "there is no Gram matrix of node '%s': %s",
                       node < g->m->n_nodes ? node_label(g->m, node, label, sizeof label) : "?", why);
    row_source_of(g->m, node, &s);
    while (at < g->n_tracks && !row_source_same(&g->track[at].source, &s))
        at++;
    if (at == g->n_tracks && !track_make(&g->track[g->n_tracks++], &s, &g->opts))
        return err_set(err, ERR_NOMEM, "out of memory for the Gram matrix of node '%s' (%zu bytes)",
                       node_label(g->m, node, label, sizeof label), source_bytes(&s));
    g->node[g->n] = node;
    g->track_of[g->n++] = at;
    return 0;
}

struct gram *gram_new(const struct model *m, const uint32_t *nodes, int64_t n, const struct gram_opts *opts,
                      struct err *err)
{
    struct gram *g = calloc(1, sizeof *g);
    const size_t count = (size_t)(n > 0 ? n : 1);
    const size_t lanes = opts->pool ? (size_t)pool_threads(opts->pool) : 1;
    int rc = -1;
    if (!g)
        goto out;
    g->m = m;
    g->opts = *opts;
    g->track = calloc(count, sizeof *g->track);
    g->node = calloc(count, sizeof *g->node);
    g->track_of = calloc(count, sizeof *g->track_of);
    g->scratch = malloc(lanes * SQUARE * SQUARE * sizeof *g->scratch);
    if (!g->track || !g->node || !g->track_of || !g->scratch)
        goto out;
    rc = 0;
    for (int64_t i = 0; rc == 0 && i < n; i++)
        rc = add_node(g, nodes[i], err);
out:
    if (rc) {
        err_set(err, ERR_NOMEM, "out of memory for Gram matrices");
        gram_free(g);
        return NULL;
    }
    return g;
}

void gram_free(struct gram *g)
{
    if (!g)
        return;
    for (int64_t i = 0; g->track && i < g->n_tracks; i++) {
        free(g->track[i].tile);
        free(g->track[i].h);
        free(g->track[i].mean);
        free(g->track[i].mean_abs);
        free(g->track[i].kept);
    }
    free(g->track);
    free(g->node);
    free(g->track_of);
    free(g->scratch);
    free(g);
}

/* ---- sums ---- */
struct flush {
    struct gram *g;
    struct track *t;
    int64_t side, squares; /* squares along an edge; of one group */
};

static void add_square(void *arg, int64_t task, int lane)
{
    const struct flush *f = arg;
    struct track *t = f->t;
    const int64_t group = task / f->squares, k = t->source.k;
    int64_t i = 0, j = task % f->squares;
    while (j >= f->side - i) /* the j-th square on or above the diagonal */
        j -= f->side - i++;
    j += i;
    float *product = f->g->scratch + (int64_t)lane * SQUARE * SQUARE;
    const float *x = t->tile + group * k;
    const int64_t rows = i64_min(SQUARE, k - i * SQUARE), cols = i64_min(SQUARE, k - j * SQUARE);
    struct gemm gemm = {.trans_a = true, .m = rows, .n = cols, .k = t->filled, .lda = t->width, .ldb = t->width,
                        .ldc = cols, .alpha = 1};
    gemm_f32_tile(&gemm, x + i * SQUARE, x + j * SQUARE, product);
    double *h = t->h + (group * k + i * SQUARE) * k + j * SQUARE;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            h[r * k + c] += (double)product[r * cols + c];
}

/* Every row so far has the same chance to be among those kept. */
static void keep_rows(const struct gram *g, struct track *t)
{
    for (int64_t r = 0; g->opts.keep > 0 && r < t->filled; r++) {
        const int64_t number = t->rows + r;
        const int64_t at = number < g->opts.keep ? number : (int64_t)rng_below(&t->rng, (uint64_t)number + 1);
        if (at < g->opts.keep)
            memcpy(t->kept + at * t->width, t->tile + r * t->width, (size_t)t->width * sizeof *t->kept);
    }
}

static void flush_tile(struct gram *g, struct track *t)
{
    const int64_t side = i64_ceil_div(t->source.k, SQUARE);
    struct flush f = {g, t, side, side * (side + 1) / 2};
    pool_run(g->opts.pool, t->source.groups * f.squares, add_square, &f);
    for (int64_t r = 0; r < t->filled; r++)
        for (int64_t c = 0; c < t->width; c++) {
            const double x = (double)t->tile[r * t->width + c];
            t->mean[c] += x;
            t->mean_abs[c] += fabs(x);
        }
    keep_rows(g, t);
    t->rows += t->filled;
    t->filled = 0;
}

struct reading {
    const struct row_layout *layout;
    const float *x;
    float *out;
    int64_t first, wanted, width, number; /* number: of the sample */
};
enum { READ_ROWS = 16 };

/* The i-th of `wanted` rows spread over the sample; which of the rows between is taken turns from sample to sample. */
static int64_t spread_row(const struct reading *r, int64_t i)
{
    if (r->wanted == r->layout->rows)
        return i;
    const double turn = (double)r->number * 0.6180339887498949;
    const double at = ((double)i + turn - floor(turn)) * (double)r->layout->rows / (double)r->wanted;
    return i64_min((int64_t)at, r->layout->rows - 1);
}

static void read_rows(void *arg, int64_t task, int lane)
{
    const struct reading *r = arg;
    (void)lane;
    for (int64_t i = task * READ_ROWS; i < r->width && i < (task + 1) * READ_ROWS; i++)
        row_read(r->layout, r->x, spread_row(r, r->first + i),
                 r->out + i * r->layout->source->groups * r->layout->source->k);
}

static void add_sample(struct gram *g, struct track *t, const struct row_layout *l, const float *x)
{
    const int64_t most = g->opts.rows_per_sample;
    const int64_t wanted = most > 0 && most < l->rows ? most : l->rows;
    for (int64_t at = 0; at < wanted;) {
        const int64_t n = i64_min(wanted - at, TILE_ROWS - t->filled);
        struct reading r = {l, x, t->tile + t->filled * t->width, at, wanted, n, t->samples};
        pool_run(n * t->width > 16384 ? g->opts.pool : NULL, i64_ceil_div(n, READ_ROWS), read_rows, &r);
        t->filled += n;
        at += n;
        if (t->filled == TILE_ROWS)
            flush_tile(g, t);
    }
    t->samples++;
}

static void observe_track(struct gram *g, struct track *t, const struct tensor *x)
{
    struct row_layout l;
    if (t->why)
        return;
    if (x->dtype != DTYPE_FLOAT)
        t->why = "its input is not float32";
    else if (!row_layout_make(&l, &t->source, &x->shape))
        t->why = "its input does not fit its weight";
    if (t->why)
        return;
    const bool filled_up = g->fixed > 1 && l.samples == g->fixed && g->total - g->done < g->fixed;
    const int64_t samples = filled_up ? g->total - g->done : l.samples;
    for (int64_t i = 0; i < samples; i++)
        add_sample(g, t, &l, tensor_f32(x) + i * l.sample_step);
}

/* ---- hooks ---- */
int gram_start(void *arg, int64_t fixed, int64_t total, struct err *err)
{
    struct gram *g = arg;
    (void)err;
    g->fixed = fixed;
    g->total = total;
    g->done = 0;
    return 0;
}

int gram_observe(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct gram *g = arg;
    (void)err;
    for (int64_t i = 0; i < g->n_tracks; i++)
        if (g->track[i].source.value == value)
            observe_track(g, &g->track[i], t);
    return 0;
}

int gram_ran(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct gram *g = arg;
    (void)total;
    (void)err;
    g->done = done;
    return 0;
}

static void finish_track(struct gram *g, struct track *t)
{
    const int64_t k = t->source.k;
    if (t->filled)
        flush_tile(g, t);
    free(t->tile);
    t->tile = NULL;
    const double n = t->rows > 0 ? (double)t->rows : 1;
    bool finite = true;
    for (int64_t c = 0; c < t->width; c++) {
        t->mean[c] /= n;
        t->mean_abs[c] /= n;
        finite = finite && isfinite(t->mean_abs[c]);
    }
    for (int64_t group = 0; group < t->source.groups; group++) {
        double *h = t->h + group * k * k;
        for (int64_t i = 0; i < k; i++)
            for (int64_t j = i; j < k; j++) {
                h[i * k + j] /= n;
                h[j * k + i] = h[i * k + j];
                finite = finite && isfinite(h[i * k + j]);
            }
    }
    if (!t->why && t->rows == 0)
        t->why = "its input was never seen";
    if (!t->why && !finite)
        t->why = "its input is not finite, or its squares are not";
}

void gram_finish(struct gram *g)
{
    for (int64_t i = 0; i < g->n_tracks; i++)
        finish_track(g, &g->track[i]);
}

bool gram_of(const struct gram *g, uint32_t node, struct gram_matrix *out, const char **why)
{
    const char *reason = "no Gram matrix of it was asked for";
    for (int64_t i = 0; i < g->n; i++) {
        const struct track *t = &g->track[g->track_of[i]];
        if (g->node[i] != node)
            continue;
        reason = t->why;
        *out = (struct gram_matrix){.groups = t->source.groups, .k = t->source.k, .rows = t->rows, .h = t->h,
                                    .mean = t->mean, .mean_abs = t->mean_abs, .kept = t->kept,
                                    .n_kept = i64_min(t->rows, g->opts.keep)};
        break;
    }
    if (why)
        *why = reason;
    return !reason;
}

/* ---- all passes ---- */
struct pass {
    const struct gram_job *job;
    struct gram *gram;
    int64_t first, count; /* of job->nodes */
    int64_t before;       /* samples run by earlier passes */
    int64_t after;        /* nodes not yet in a pass */
};

static int pass_ran(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct pass *p = arg;
    gram_ran(p->gram, done, total, err);
    if (!p->job->progress)
        return 0;
    /* later passes are guessed to be as large as this one */
    const int64_t more = p->count ? i64_ceil_div(p->after, p->count) : 0;
    return p->job->progress(p->job->arg, p->before + done, p->before + total * (1 + more), err);
}

static int pass_start(void *arg, int64_t fixed, int64_t total, struct err *err)
{
    return gram_start(((struct pass *)arg)->gram, fixed, total, err);
}

/* As many products from p->first on as memory holds, one at least. Those that share a matrix need none. */
static int pass_choose(struct pass *p, struct err *err)
{
    const struct gram_job *job = p->job;
    const size_t most = job->memory_bytes ? job->memory_bytes : PASS_BYTES;
    struct row_source *seen = calloc((size_t)(job->n_nodes - p->first), sizeof *seen);
    size_t used = 0;
    int64_t n_seen = 0;
    if (!seen)
        return err_set(err, ERR_NOMEM, "out of memory for Gram matrices");
    for (p->count = 0; p->first + p->count < job->n_nodes; p->count++) {
        struct row_source s;
        bool shared = false;
        if (row_source_of(job->m, job->nodes[p->first + p->count], &s))
            continue; /* gram_new refuses it with a sentence */
        for (int64_t i = 0; i < n_seen && !shared; i++)
            shared = row_source_same(&seen[i], &s);
        const size_t kept = (size_t)i64_max(job->keep, 0) * (size_t)s.k * (size_t)s.groups * sizeof(float);
        const size_t bytes = shared ? 0 : source_bytes(&s) + kept;
        if (p->count > 0 && (used >= most || bytes > most - used))
            break;
        used += bytes;
        if (!shared)
            seen[n_seen++] = s;
    }
    p->after = job->n_nodes - p->first - p->count;
    free(seen);
    return 0;
}

static int64_t run_pass(struct pass *p, struct err *err)
{
    const struct gram_job *job = p->job;
    const struct gram_opts opts = {.pool = job->pool, .rows_per_sample = job->rows_per_sample, .keep = job->keep,
                                   .seed = job->seed};
    p->gram = gram_new(job->m, job->nodes + p->first, p->count, &opts, err);
    if (!p->gram)
        return -1;
    const struct sampling s = {.data = job->data, .pool = job->pool, .samples = job->samples, .observe = gram_observe,
                               .observe_arg = p->gram, .start = pass_start, .ran = pass_ran, .arg = p};
    int64_t done = sampling_run(job->m, &s, err);
    if (done >= 0)
        gram_finish(p->gram);
    for (int64_t i = 0; done >= 0 && i < p->count; i++) {
        const uint32_t node = job->nodes[p->first + i];
        struct gram_matrix matrix;
        const char *why;
        const bool there = gram_of(p->gram, node, &matrix, &why);
        if (job->each(job->arg, node, there ? &matrix : NULL, why, err))
            done = -1;
    }
    gram_free(p->gram);
    return done;
}

int gram_each(const struct gram_job *job, struct err *err)
{
    struct pass p = {.job = job};
    while (p.first < job->n_nodes) {
        int64_t done = pass_choose(&p, err) ? -1 : run_pass(&p, err);
        if (done < 0)
            return -1;
        p.before += done;
        p.first += p.count;
    }
    return 0;
}

/* ---- output error ---- */
struct errors {
    const struct gram_matrix *g;
    const float *a, *b;
    int64_t outputs;
    double *error;
    double *scratch; /* [lanes][2][ERROR_ROWS][k] */
};
enum { ERROR_ROWS = 16 };

/* A few rows of one group: E H, then the row-wise product with E. */
static void error_rows(void *arg, int64_t task, int lane)
{
    const struct errors *e = arg;
    const int64_t k = e->g->k, per = e->outputs / e->g->groups, chunks = i64_ceil_div(per, ERROR_ROWS);
    const int64_t group = task / chunks, first = task % chunks * ERROR_ROWS, n = i64_min(ERROR_ROWS, per - first);
    const int64_t at = group * per + first;
    double *d = e->scratch + (int64_t)lane * 2 * ERROR_ROWS * k, *dh = d + ERROR_ROWS * k;
    for (int64_t i = 0; i < n * k; i++)
        d[i] = (double)e->a[at * k + i] - (double)e->b[at * k + i];
    struct gemm gemm = gemm_plain(false, false, n, k, k);
    gemm_f64_tile(&gemm, d, e->g->h + group * k * k, dh);
    for (int64_t r = 0; r < n; r++) {
        double sum = 0;
        for (int64_t i = 0; i < k; i++)
            sum += d[r * k + i] * dh[r * k + i];
        e->error[at + r] = sum > 0 ? sum : 0;
    }
}

void gram_errors(struct pool *pool, const struct gram_matrix *g, const float *a, const float *b, int64_t outputs,
                 double *error)
{
    const size_t lanes = pool ? (size_t)pool_threads(pool) : 1;
    struct errors e = {g, a, b, outputs, error, malloc(lanes * 2 * ERROR_ROWS * (size_t)g->k * sizeof(double))};
    const int64_t tasks = g->groups * i64_ceil_div(outputs / g->groups, ERROR_ROWS);
    for (int64_t r = 0; r < outputs; r++)
        error[r] = NAN; /* memory is out */
    if (e.scratch)
        pool_run(pool, tasks, error_rows, &e);
    free(e.scratch);
}

double gram_error(struct pool *pool, const struct gram_matrix *g, const float *a, const float *b, int64_t outputs)
{
    double *error = malloc((size_t)(outputs > 0 ? outputs : 1) * sizeof *error), sum = 0;
    if (!error)
        return NAN;
    gram_errors(pool, g, a, b, outputs, error);
    for (int64_t r = 0; r < outputs; r++)
        sum += error[r];
    free(error);
    return sum;
}
