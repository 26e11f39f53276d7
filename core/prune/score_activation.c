/* SPDX-License-Identifier: Apache-2.0
 * score_activation.c - what channels do on data: mean |a|, standard deviation, rank of feature maps (score.c has the
 * formulas). One pass over the samples with the values of all parts watched; sums in double in the order of the
 * samples, an element a task, so results depend neither on threads nor on the batch size. */
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/passes/infer.h"
#include "core/prune/score_impl.h"
#include "core/stats/sampling.h"

enum { MAP_ROWS = 64 }; /* larger maps are ranked by as many rows, spread over them */

struct track {
    struct score_part *part;
    double *sum, *square; /* [size] */
    int64_t count;        /* places (maps, for ranks) an element */
    int group;
    bool flat;            /* its maps are no matrices */
};

struct watcher {
    struct score_ctx *c;
    enum score_statistic what;
    struct track *track;
    int n;
    int64_t fixed, total, done;
};

/* One tensor as [rows of samples][outer][size][inner]. */
struct looking {
    const struct watcher *w;
    struct track *t;
    const float *x;
    int64_t samples, outer, size, inner;
    int64_t rows, cols, taken; /* of maps; taken: rows that are looked at */
    double *work; /* a lane: score_rank_work doubles, then the map */
    int64_t work_lane;
};

static void look_sums(const struct looking *l, int64_t element)
{
    double sum = 0, square = 0;
    for (int64_t o = 0; o < l->samples * l->outer; o++) {
        const float *x = l->x + (o * l->size + element) * l->inner;
        for (int64_t k = 0; k < l->inner; k++) {
            const double v = (double)x[k];
            sum += l->w->what == SCORE_MEAN_ABS ? fabs(v) : v;
            square += v * v;
        }
    }
    l->t->sum[element] += sum;
    l->t->square[element] += square;
}

/* Element i of a map, which lies in [outer][size][inner]. */
static float map_at(const struct looking *l, int64_t sample, int64_t element, int64_t i)
{
    return l->x[((sample * l->outer + i / l->inner) * l->size + element) * l->inner + i % l->inner];
}

static void look_rank(const struct looking *l, int64_t element, int lane)
{
    double *work = l->work + lane * l->work_lane;
    float *map = (float *)(void *)(work + score_rank_work(l->taken, l->cols));
    double sum = 0;
    for (int64_t n = 0; n < l->samples; n++) {
        for (int64_t r = 0; r < l->taken; r++)
            for (int64_t c = 0; c < l->cols; c++)
                map[r * l->cols + c] = map_at(l, n, element, r * l->rows / l->taken * l->cols + c);
        const int64_t rank = score_rank_of(map, l->taken, l->cols, work);
        sum += rank < 0 ? NAN : (double)rank;
    }
    l->t->sum[element] += sum;
}

static void look(void *arg, int64_t task, int lane)
{
    const struct looking *l = arg;
    if (l->t->part->member->atom[task] == ATOM_NONE)
        return;
    if (l->w->what == SCORE_MAP_RANK && !l->t->flat)
        look_rank(l, task, lane);
    else
        look_sums(l, task);
}

/* The matrix a channel's map is: the first axis beside samples and channels, by all others. */
static void map_shape(struct looking *l, const struct tensor *x, int axis)
{
    const int first = axis == 1 ? 2 : 1;
    l->rows = first < x->shape.rank ? x->shape.dim[first] : 1;
    l->cols = l->outer * l->inner / i64_max(l->rows, 1);
    l->taken = l->cols > MAP_ROWS ? i64_min(l->rows, MAP_ROWS) : l->rows;
}

static int observe_track(struct watcher *w, struct track *t, const struct tensor *x, struct err *err)
{
    const int axis = t->part->member->axis;
    struct looking l = {.w = w, .t = t, .samples = 1, .size = t->part->member->size};
    struct tensor converted = {0};
    char text[SHAPE_TEXT];
    int rc = -1;
    if (!dtype_is_float(x->dtype) || axis >= x->shape.rank || x->shape.dim[axis] != l.size)
        return err_set(err, ERR_SHAPE, "value '%s' is %s %s while running, so its channels cannot be measured",
                       w->c->o->model->values[t->part->member->value].name, dtype_name(x->dtype),
                       shape_text(&x->shape, text));
    if (x->dtype != DTYPE_FLOAT && tensor_convert(&converted, x, DTYPE_FLOAT, err))
        return -1;
    l.x = tensor_f32(x->dtype == DTYPE_FLOAT ? x : &converted);
    if (axis > 0) {
        const bool filled_up = w->fixed > 1 && x->shape.dim[0] == w->fixed && w->total - w->done < w->fixed;
        l.samples = filled_up ? w->total - w->done : x->shape.dim[0];
    }
    l.outer = axis > 0 ? shape_product(&x->shape, 1, axis) : 1;
    l.inner = shape_product(&x->shape, axis + 1, x->shape.rank);
    map_shape(&l, x, axis);
    t->flat = t->flat || l.rows < 2 || l.cols < 2;
    if (w->what == SCORE_MAP_RANK && !t->flat) {
        const int64_t lanes = w->c->o->pool ? pool_threads(w->c->o->pool) : 1;
        l.work_lane = score_rank_work(l.taken, l.cols) + l.taken * l.cols / 2 + 1;
        l.work = calloc((size_t)(lanes * l.work_lane), sizeof *l.work);
        if (!l.work) {
            err_set(err, ERR_NOMEM, "out of memory for the ranks of feature maps of %lld x %lld", (long long)l.rows,
                    (long long)l.cols);
            goto out;
        }
        t->count += l.samples;
    } else {
        t->count += l.samples * l.outer * l.inner;
    }
    pool_run(w->c->o->pool, l.size, look, &l);
    rc = 0;
out:
    free(l.work);
    tensor_fini(&converted);
    return rc;
}

static int observe(void *arg, uint32_t value, const struct tensor *x, struct err *err)
{
    struct watcher *w = arg;
    int rc = 0;
    for (int i = 0; rc == 0 && i < w->n; i++)
        if (w->track[i].part->member->value == value && tensor_count(x) > 0)
            rc = observe_track(w, &w->track[i], x, err);
    return rc;
}

static int start(void *arg, int64_t fixed, int64_t total, struct err *err)
{
    struct watcher *w = arg;
    (void)err;
    w->fixed = fixed;
    w->total = total;
    w->done = 0;
    return 0;
}

static int ran(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct watcher *w = arg;
    w->done = done;
    return w->c->o->progress ? w->c->o->progress(w->c->o->progress_arg, done, total, err) : 0;
}

/* Values without maps (behind a global pool, flattened) leave the ranks to those of their group that have them. */
static void drop_flat(const struct watcher *w, struct score_parts *p)
{
    int kept = 0, left = 0;
    for (int i = 0; i < w->n; i++) {
        bool others = false;
        for (int k = 0; k < w->n && w->track[i].flat; k++)
            others = others || (w->track[k].group == w->track[i].group && !w->track[k].flat);
        left += w->track[i].flat && !others;
        if (others)
            free(p->at[i].element);
        else
            p->at[kept++] = p->at[i];
    }
    p->n = kept;
    if (left)
        warnings_add(w->c->o->warnings,
                     "rank: %d values have no feature maps of two axes; their channels are scored by the root of "
                     "their mean square",
                     left);
}

static void finish(const struct watcher *w, struct score_parts *p)
{
    for (int i = 0; i < w->n; i++) {
        const struct track *t = &w->track[i];
        const double n = t->count ? (double)t->count : 1;
        for (int64_t e = 0; e < t->part->member->size; e++) {
            const double mean = t->sum[e] / n, square = t->square[e] / n;
            t->part->element[e] = w->what == SCORE_DEVIATION                ? sqrt(fmax(square - mean * mean, 0))
                                  : w->what == SCORE_MAP_RANK && t->flat ? sqrt(square)
                                                                            : mean;
            if (!isfinite(mean)) /* NaN would pass fmax */
                t->part->element[e] = mean;
        }
    }
    if (w->what == SCORE_MAP_RANK)
        drop_flat(w, p);
}

int score_observe(struct score_ctx *c, struct score_parts *p, enum score_statistic what, struct err *err)
{
    struct watcher w = {.c = c, .what = what, .track = calloc((size_t)p->n + 1, sizeof *w.track), .n = p->n};
    bool *watch = calloc((size_t)c->o->model->n_values + 1, sizeof *watch);
    int rc = w.track && watch ? 0 : err_set(err, ERR_NOMEM, "out of memory for scores");
    for (int i = 0; rc == 0 && i < p->n; i++) {
        const size_t size = (size_t)p->at[i].member->size + 1;
        w.track[i] = (struct track){&p->at[i], calloc(size, sizeof(double)), calloc(size, sizeof(double)), 0,
                                   p->at[i].group, false};
        watch[p->at[i].member->value] = true;
        if (!w.track[i].sum || !w.track[i].square)
            rc = err_set(err, ERR_NOMEM, "out of memory for scores");
    }
    const struct sampling s = {.data = c->o->data, .pool = c->o->pool, .samples = c->o->samples, .observe = observe,
                               .observe_arg = &w, .watch = watch, .start = start, .ran = ran, .arg = &w};
    if (rc == 0 && p->n > 0)
        rc = sampling_run(c->o->model, &s, err) < 0 ? -1 : 0;
    if (rc == 0)
        finish(&w, p);
    for (int i = 0; w.track && i < w.n; i++) {
        free(w.track[i].sum);
        free(w.track[i].square);
    }
    free(w.track);
    free(watch);
    return rc;
}

/* Parts of activations that are no pictures (fewer than four axes) go again. */
static int keep_maps(const struct score_ctx *c, struct score_parts *p, int from, struct err *err)
{
    struct infer types;
    int kept = from;
    if (infer_run(&types, c->o->model, err))
        return -1;
    for (int i = from; i < p->n; i++)
        if (infer_rank_of(&types, p->at[i].member->value) < 4)
            free(p->at[i].element);
        else
            p->at[kept++] = p->at[i];
    p->n = kept;
    infer_fini(&types);
    return 0;
}

/* What the consumers read; where no weight consumes, what is made; else whatever there is. Maps first, where they are
 * wanted. */
static int find_activations(const struct score_ctx *c, bool maps, struct score_parts *p, struct err *err)
{
    static const unsigned kinds[] = {SCORE_READ, SCORE_MADE, SCORE_ANY};
    for (int i = maps ? 0 : 3; i < 6; i++) {
        bool *lacking = NULL;
        const int before = p->n, n = score_parts_lacking(c, p, ~0u, &lacking, err);
        int rc = n > 0 ? score_parts_find(c, kinds[i % 3], lacking, p, err) : n;
        free(lacking);
        if (rc == 0 && i < 3)
            rc = keep_maps(c, p, before, err);
        if (rc < 0 || n == 0)
            return rc;
    }
    return 0;
}

static int score_by(struct score_ctx *c, enum score_statistic what, struct err *err)
{
    struct score_parts p = {0};
    int rc = find_activations(c, what == SCORE_MAP_RANK, &p, err);
    if (rc == 0)
        rc = score_observe(c, &p, what, err);
    if (rc == 0)
        rc = score_parts_reduce(c, &p, true, err);
    score_parts_fini(&p);
    return rc;
}

int score_activation(struct score_ctx *c, struct err *err)
{
    return score_by(c, SCORE_MEAN_ABS, err);
}

int score_rank(struct score_ctx *c, struct err *err)
{
    return score_by(c, SCORE_MAP_RANK, err);
}
