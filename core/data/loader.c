/* SPDX-License-Identifier: Apache-2.0
 * loader.c - see loader.h. A ring of batches: the reader fills the slot after the last one, the caller holds the
 * oldest. An epoch has a thread of its own, so that nothing reads the dataset between epochs.
 * Pool       The caller's pool belongs to the caller while it trains; the reader decodes and changes samples on a small
 *            one of its own. */
#include "core/data/loader.h"

#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/base/size.h"
#include "core/data/dataset_internal.h"

enum { STREAM_ORDER = 0x6f72646e, STREAM_MIX = 0x6d697875, AHEAD = 2, AHEAD_MAX = 64, CORES_A_READER = 4 };

struct slot {
    struct loader_batch batch;
    struct tensor in[DATASET_MAX_ARRAYS];
    int64_t *index; /* [batch] */
    float *weight;
    int32_t *pair;
    struct err err;
    bool failed;
};

struct loader {
    struct loader_opts opts;
    struct augment augment;
    struct augment_image image;
    int64_t *index, *order; /* [n] */
    int64_t batches, epoch;
    struct pool *pool;
    struct pool *dataset_pool; /* put back after an epoch */
    struct slot *slot;
    int n_slots;
    float *mixed; /* [batch, a sample] while a batch is mixed */
    int64_t mixed_bytes;

    pthread_t thread;
    bool running;
    pthread_mutex_t lock;
    pthread_cond_t filled, emptied;
    int64_t made, taken, freed; /* batches of this epoch, counted from its first; under lock */
    bool stop;
};

/* ---- making a batch ---- */

struct change_job {
    const struct loader *l;
    const struct slot *s;
    float *x, *scratch; /* scratch: a sample a lane */
    int64_t size;
};

static void change_task(void *arg, int64_t i, int lane)
{
    const struct change_job *k = arg;
    augment_apply(&k->l->augment, &k->l->image, k->l->opts.seed, k->l->epoch, k->s->index[i], k->x + i * k->size,
                  k->scratch + lane * k->size);
}

/* log of a number from Gamma(a, 1) (Marsaglia & Tsang 2000). A shape below 1 is reached from a + 1 by a power of a
 * uniform number; in logarithms, because for a small shape the number itself is 0. */
static double log_gamma_draw(struct rng *rng, double a)
{
    const double more = a < 1 ? log(1 - rng_uniform(rng)) / a : 0, d = (a < 1 ? a + 1 : a) - 1.0 / 3,
                 c = 1 / sqrt(9 * d);
    for (;;) {
        const double x = rng_normal(rng), v = (1 + c * x) * (1 + c * x) * (1 + c * x), u = 1 - rng_uniform(rng);
        if (v > 0 && log(u) < x * x / 2 + d - d * v + d * log(v))
            return log(d * v) + more;
    }
}

struct mix_job {
    const struct slot *s;
    const float *from;
    float *to;
    int64_t size;
};

static void mix_task(void *arg, int64_t i, int lane)
{
    const struct mix_job *k = arg;
    const float w = k->s->weight[i], *a = k->from + i * k->size, *b = k->from + k->s->pair[i] * k->size;
    float *to = k->to + i * k->size;
    (void)lane;
    for (int64_t j = 0; j < k->size; j++)
        to[j] = w * a[j] + (1 - w) * b[j];
}

/* The batch's image input mixed in place: weights and partners are drawn from the samples' own numbers. */
static void mix(struct loader *l, struct slot *s, struct tensor *x, int64_t size)
{
    const int64_t n = s->batch.n;
    for (int64_t i = 0; i < n; i++) {
        struct rng rng;
        augment_rng(&rng, l->opts.seed, l->epoch, s->index[i], STREAM_MIX);
        const double one = log_gamma_draw(&rng, l->augment.mixup), other = log_gamma_draw(&rng, l->augment.mixup);
        s->weight[i] = (float)(1 / (1 + exp(other - one)));
        s->pair[i] = (int32_t)rng_below(&rng, (uint64_t)n);
    }
    memcpy(l->mixed, x->data, (size_t)(n * size) * sizeof(float));
    struct mix_job k = {s, l->mixed, x->data, size};
    pool_run(l->pool, n, mix_task, &k);
    s->batch.weight = s->weight;
    s->batch.pair = s->pair;
}

static int change(struct loader *l, struct slot *s, struct err *err)
{
    struct tensor *x = &s->in[l->image.input];
    const int64_t size = l->image.channels * l->image.height * l->image.width, n = s->batch.n;
    if (x->dtype != DTYPE_FLOAT || tensor_count(x) != n * size)
        return err_set(err, ERR_DATASET,
                       "sample %" PRId64 " has another size than the first one; it cannot be augmented", s->index[0]);
    const int64_t wanted = i64_max(l->augment.mixup > 0 ? n : 0, pool_threads(l->pool)) * size * (int64_t)sizeof(float);
    if (wanted > l->mixed_bytes) {
        free(l->mixed);
        l->mixed = malloc((size_t)wanted);
        l->mixed_bytes = l->mixed ? wanted : 0;
        if (!l->mixed)
            return err_set(err, ERR_NOMEM, "out of memory");
    }
    struct change_job k = {l, s, x->data, l->mixed, size};
    pool_run(l->pool, n, change_task, &k);
    if (l->augment.mixup > 0)
        mix(l, s, x, size);
    s->batch.augmented = true;
    return 0;
}

static void slot_empty(struct slot *s)
{
    for (int i = 0; i < s->batch.n_in; i++)
        tensor_fini(&s->in[i]);
    tensor_fini(&s->batch.labels);
    s->batch = (struct loader_batch){0};
}

static int fill(struct loader *l, struct slot *s, int64_t batch)
{
    const int64_t at = batch * l->opts.batch, n = i64_min(l->opts.batch, l->opts.n - at);
    struct err *err = &s->err;
    slot_empty(s);
    *err = (struct err){0};
    memcpy(s->index, l->order + at, (size_t)n * sizeof *s->index);
    if (dataset_read(l->opts.data, s->index, (int)n, s->in, l->opts.labels ? &s->batch.labels : NULL, err))
        return -1;
    s->batch.in = s->in;
    s->batch.n_in = l->opts.data->n_bindings;
    s->batch.index = s->index;
    s->batch.n = n;
    s->batch.epoch = l->epoch;
    return l->augment.any ? change(l, s, err) : 0;
}

static void *reader(void *arg)
{
    struct loader *l = arg;
    for (int64_t b = l->made; b < l->batches; b++) { /* nobody else writes it */
        pthread_mutex_lock(&l->lock);
        while (!l->stop && l->made - l->freed == l->n_slots)
            pthread_cond_wait(&l->emptied, &l->lock);
        const bool stop = l->stop;
        pthread_mutex_unlock(&l->lock);
        if (stop)
            break;
        struct slot *s = &l->slot[b % l->n_slots];
        s->failed = fill(l, s, b) != 0;
        pthread_mutex_lock(&l->lock);
        l->made++;
        pthread_cond_signal(&l->filled);
        pthread_mutex_unlock(&l->lock);
        if (s->failed)
            break;
    }
    return NULL;
}

/* ---- the caller's side ---- */

/* Memory for what is prepared ahead. */
static int make_slots(struct loader *l, struct err *err)
{
    const size_t batch = (size_t)l->opts.batch;
    const int ahead = l->opts.ahead > 0 ? l->opts.ahead : AHEAD;
    l->n_slots = 1 + (ahead < AHEAD_MAX ? ahead : AHEAD_MAX);
    l->slot = calloc((size_t)l->n_slots, sizeof *l->slot);
    l->index = calloc((size_t)l->opts.n, sizeof *l->index);
    l->order = calloc((size_t)l->opts.n, sizeof *l->order);
    bool made = l->slot && l->index && l->order;
    for (int i = 0; made && i < l->n_slots; i++) {
        struct slot *s = &l->slot[i];
        s->index = calloc(batch, sizeof *s->index);
        s->weight = l->augment.mixup > 0 ? calloc(batch, sizeof *s->weight) : NULL;
        s->pair = l->augment.mixup > 0 ? calloc(batch, sizeof *s->pair) : NULL;
        made = s->index && (l->augment.mixup <= 0 || (s->weight && s->pair));
    }
    return made ? 0 : err_set(err, ERR_NOMEM, "out of memory");
}

static int check(const struct loader_opts *opts, int64_t count, struct err *err)
{
    if (opts->n < 1 || (!opts->index && opts->n > count))
        return err_set(err, ERR_DATASET, "%" PRId64 " samples to train on; the dataset has %" PRId64, opts->n, count);
    if (opts->batch < 1 || opts->batch > INT32_MAX)
        return err_set(err, ERR_INVALID, "a batch of %" PRId64 " samples", opts->batch);
    if (opts->data->n_bindings > DATASET_MAX_ARRAYS)
        return err_set(err, ERR_DATASET, "a model of %d inputs; at most %d can be fed", opts->data->n_bindings,
                       DATASET_MAX_ARRAYS);
    for (int64_t i = 0; opts->index && i < opts->n; i++)
        if (opts->index[i] < 0 || opts->index[i] >= count)
            return err_set(err, ERR_INTERNAL, "sample %" PRId64 " of %" PRId64, opts->index[i], count);
    return 0;
}

struct loader *loader_new(const struct loader_opts *opts, struct err *err)
{
    const int64_t count = dataset_count(opts->data);
    struct loader *l = calloc(1, sizeof *l);
    if (!l) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    pthread_mutex_init(&l->lock, NULL);
    pthread_cond_init(&l->filled, NULL);
    pthread_cond_init(&l->emptied, NULL);
    l->opts = *opts;
    l->opts.n = opts->index ? opts->n : opts->n > 0 ? opts->n : count;
    if (opts->augment)
        l->augment = *opts->augment;
    if (check(&l->opts, count, err))
        goto fail;
    l->opts.batch = i64_min(opts->batch, l->opts.n);
    if (l->augment.any &&
        (augment_image_of(&l->image, opts->data, opts->model, err) || augment_fits(&l->augment, &l->image, err)))
        goto fail;
    if (make_slots(l, err))
        goto fail;
    for (int64_t i = 0; i < l->opts.n; i++)
        l->index[i] = opts->index ? opts->index[i] : i;
    l->opts.index = NULL;
    l->opts.augment = NULL;
    l->batches = opts->drop_last && l->opts.n > l->opts.batch ? l->opts.n / l->opts.batch
                                                              : i64_ceil_div(l->opts.n, l->opts.batch);
    const int threads = pool_default_threads() / CORES_A_READER;
    l->pool = threads > 1 ? pool_new(threads) : NULL; /* without it everything is done by the reader itself */
    return l;
fail:
    loader_free(l);
    return NULL;
}

void loader_free(struct loader *l)
{
    if (!l)
        return;
    loader_stop(l);
    for (int i = 0; l->slot && i < l->n_slots; i++) {
        slot_empty(&l->slot[i]);
        free(l->slot[i].index);
        free(l->slot[i].weight);
        free(l->slot[i].pair);
    }
    pthread_mutex_destroy(&l->lock);
    pthread_cond_destroy(&l->filled);
    pthread_cond_destroy(&l->emptied);
    if (l->pool)
        pool_free(l->pool);
    free(l->slot);
    free(l->index);
    free(l->order);
    free(l->mixed);
    free(l);
}

int64_t loader_batches(const struct loader *l)
{
    return l->batches;
}

static void make_order(struct loader *l)
{
    struct rng rng;
    memcpy(l->order, l->index, (size_t)l->opts.n * sizeof *l->order);
    if (!l->opts.shuffle)
        return;
    augment_rng(&rng, l->opts.seed, l->epoch, 0, STREAM_ORDER);
    for (int64_t i = l->opts.n - 1; i > 0; i--) {
        const int64_t j = (int64_t)rng_below(&rng, (uint64_t)i + 1), other = l->order[j];
        l->order[j] = l->order[i];
        l->order[i] = other;
    }
}

int loader_start(struct loader *l, int64_t epoch, struct err *err)
{
    return loader_start_at(l, epoch, 0, err);
}

int loader_start_at(struct loader *l, int64_t epoch, int64_t first, struct err *err)
{
    loader_stop(l);
    l->epoch = epoch;
    l->made = l->taken = l->freed = i64_max(0, i64_min(first, l->batches));
    l->stop = false;
    make_order(l);
    l->dataset_pool = l->opts.data->opts.pool;
    l->opts.data->opts.pool = l->pool;
    if (pthread_create(&l->thread, NULL, reader, l)) {
        l->opts.data->opts.pool = l->dataset_pool;
        return err_set(err, ERR_NOMEM, "no thread to read batches ahead");
    }
    l->running = true;
    return 0;
}

void loader_stop(struct loader *l)
{
    if (!l->running)
        return;
    pthread_mutex_lock(&l->lock);
    l->stop = true;
    pthread_cond_signal(&l->emptied);
    pthread_mutex_unlock(&l->lock);
    pthread_join(l->thread, NULL);
    l->running = false;
    l->opts.data->opts.pool = l->dataset_pool;
    for (int i = 0; i < l->n_slots; i++)
        slot_empty(&l->slot[i]);
}

int loader_next(struct loader *l, const struct loader_batch **batch, struct err *err)
{
    *batch = NULL;
    if (!l->running)
        return 0;
    pthread_mutex_lock(&l->lock);
    l->freed = l->taken; /* the one given out before */
    pthread_cond_signal(&l->emptied);
    const bool over = l->taken == l->batches;
    while (!over && l->made == l->taken)
        pthread_cond_wait(&l->filled, &l->lock);
    pthread_mutex_unlock(&l->lock);
    if (over) {
        loader_stop(l);
        return 0;
    }
    const struct slot *s = &l->slot[l->taken++ % l->n_slots];
    if (s->failed) {
        loader_stop(l);
        return err_set(err, s->err.code, "%s", s->err.msg);
    }
    *batch = &s->batch;
    return 1;
}
