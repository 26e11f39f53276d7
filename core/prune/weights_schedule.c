/* SPDX-License-Identifier: Apache-2.0
 * weights_schedule.c - how much of the sparsity a call reaches, and masks that may give weights back
 * (weight_pruning.h).
 * Ramp       r in (0, 1]: the step of the schedule over all steps, or how far the training is that the step is nested
 *            in. s_r = s_f + (s_0 - s_f) (1 - r)^3 (Zhu & Gupta 2017): many weights go early, while there are many to
 *            spare, and few late; linear: s_0 + (s_f - s_0) r. A call knows nothing of those before it but masks and
 *            zeros, so it goes on from wherever it is.
 * Surgery    (Guo et al., NeurIPS 2016) Weights that are cut stay latent: they go on learning, and the mask is made
 *            anew each time. With thresholds a < b: below a cut, from b on back, between as it was. Here a = t (1 - h)
 *            and b = t (1 + h), and t is such that the sparsity is met exactly: scores of weights that stay are divided
 *            by 1 - h, those of weights that are cut by 1 + h, and then all are ranked as ever. So layers, rows,
 *            blocks, n:m and global ranking all work.
 * Between    two calls many updates may pass, where the paper has one. What is cut grows unopposed then, so of the
 *            weights of a layer at most a share comes back in a call, falling to none by a cosine along the ramp (as
 *            RigL's, Evci et al. 2020), and no latent weight is larger than the smallest that stayed: as if it had come
 *            back when it reached it. */
#include <float.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"
#include "core/prune/nesting.h"
#include "core/prune/weight_pruning.h"

const char *const weights_schedules[] = {"none", "linear", "cubic", "surgery", NULL};

/* Criteria that rank latent weights by what they are, without a run of the network they are not part of. */
static bool ranks_latent(const struct weights_criterion *c)
{
    return c->needs == 0 && !c->update && strcmp(c->name, "random") != 0;
}

void weights_check_schedule(const struct prune_weights_params *o, const struct structure *s, const char *pointer,
                            struct faults *faults)
{
    const bool nested = nesting_is_nested(pointer);
    if (o->steps > 1 && weights_schedule_of(o) == WEIGHTS_NONE)
        faults_add(faults, pointer, "schedule=none prunes at once, so steps would do nothing: leave one of them out");
    if (o->has_schedule && o->steps <= 1 && nesting_is_top(pointer) && weights_schedule_of(o) != WEIGHTS_NONE &&
        weights_schedule_of(o) != WEIGHTS_SURGERY)
        faults_add(faults, pointer,
                   "a schedule spreads the pruning over several steps or over a training: give steps of 2 or more "
                   "with it, or nest prune.weights in the steps of a training step");
    if (o->has_initial && s->kind == STRUCTURE_NM)
        faults_add(faults, pointer, "n:m starts with all weights: leave out initial");
    if (o->has_initial && o->has_sparsity && o->initial > o->sparsity)
        faults_add(faults, pointer, "initial %g is above sparsity %g, where the schedule ends", o->initial,
                   o->sparsity);
    if (weights_schedule_of(o) != WEIGHTS_SURGERY && o->has_hysteresis)
        faults_add(faults, pointer, "hysteresis is for schedule=surgery");
    if (weights_schedule_of(o) != WEIGHTS_SURGERY)
        return;
    if (nesting_is_top(pointer))
        faults_add(
            faults, pointer,
            "schedule=surgery gives weights back as they grow again, so it needs a training step around it: nest "
            "prune.weights in the steps of one, or take another schedule");
    if (nested && o->steps > 1)
        faults_add(faults, pointer, "with schedule=surgery the training says how often: leave out steps");
    if (!ranks_latent(weights_criterion(o->criterion)))
        faults_add(faults, pointer,
                   "schedule=surgery ranks weights that the network does not see at the moment, so the criterion must "
                   "be magnitude, l1_normalised or lamp, not %s",
                   weights_criterion(o->criterion)->name);
}

double weights_share(const struct prune_weights_params *o, double ramp)
{
    const double left = 1 - ramp;
    if (weights_schedule_of(o) == WEIGHTS_NONE)
        return 1;
    return weights_schedule_of(o) == WEIGHTS_LINEAR ? ramp : 1 - left * left * left;
}

int64_t weights_nm_stay(const struct structure *s, double share)
{
    return s->b - (int64_t)nearbyint(share * (double)(s->b - s->a));
}

static void drop_note(struct model *m, uint32_t value, const char *key)
{
    struct note **at = &m->values[value].notes;
    while (*at && strcmp((*at)->key, key))
        at = &(*at)->next;
    if (*at) {
        tensor_fini(&(*at)->tensor);
        *at = (*at)->next;
    }
}

/* Zero where the mask is 0, and the mask is one of those that only grow. */
static int settle(struct prune_run *r, struct prune_item *it, struct err *err)
{
    struct model *m = r->c->model;
    drop_note(m, it->ref.value, "splice");
    if (!it->was.data)
        return 0;
    if (tensor_alloc(&it->mask, DTYPE_BOOL, &it->ref.tensor->shape, err))
        return -1;
    memcpy(it->mask.data, it->was.data, it->mask.bytes);
    return weights_write(r, it, NULL, err);
}

int weights_begin(struct prune_run *r, struct err *err)
{
    const struct model *m = r->c->model;
    for (int i = 0; i < r->n; i++) {
        struct prune_item *it = &r->item[i];
        const struct note *mask = value_note(m, it->ref.value, "mask");
        if (mask && mask->tensor.dtype == DTYPE_BOOL && shape_equal(&mask->tensor.shape, &it->ref.tensor->shape))
            tensor_ref(&it->was, &mask->tensor);
        if (!r->surgery && value_note(m, it->ref.value, "splice") && settle(r, it, err))
            return -1;
    }
    return 0;
}

void weights_hysteresis(const struct prune_run *r, const struct prune_item *it, int64_t first, int64_t n, double *score)
{
    const unsigned char *stays = it->was.data;
    const double h = r->o->has_hysteresis ? r->o->hysteresis : 0.1, in = 1 / (1 - h), out = 1 / (1 + h);
    for (int64_t i = 0; i < n; i++)
        if (!stays || stays[first + i])
            score[i] *= in;
        else
            score[i] = score[i] < it->gate ? fmin(score[i], DBL_MIN) : score[i] * out;
}

/* ---- what comes back ---- */
#define BACK_MOST 0.1 /* of the weights that stay, at the beginning of the ramp */

static int by_size_falling(const void *a, const void *b)
{
    const double p = *(const double *)a, q = *(const double *)b;
    return p > q ? -1 : p < q;
}

/* The scores of what is cut into `cut`; how many stay. */
static int64_t scores_of_cut(const struct prune_run *r, const struct prune_item *it, double *cut)
{
    const unsigned char *stays = it->was.data;
    double chunk[WEIGHTS_CHUNK];
    int64_t n = 0;
    for (int64_t first = 0; first < it->count; first += WEIGHTS_CHUNK) {
        const int64_t len = i64_min(it->count - first, WEIGHTS_CHUNK);
        weights_scores(r, it, first, len, chunk);
        for (int64_t i = 0; i < len; i++)
            if (!stays[first + i])
                cut[n++] = chunk[i];
    }
    return it->count - n;
}

int weights_gate(struct prune_run *r, struct prune_item *it, struct err *err)
{
    it->gate = 0;
    if (!it->was.data)
        return 0;
    double *cut = malloc((size_t)it->count * sizeof *cut);
    if (!cut)
        return err_set(err, ERR_NOMEM, "out of memory while ranking weights");
    r->surgery = false; /* scores as they are */
    const int64_t stay = scores_of_cut(r, it, cut), n = it->count - stay;
    r->surgery = true;
    const double share = BACK_MOST * (1 + cos(acos(-1) * nesting_ramp(r->c))) / 2;
    const int64_t most = (int64_t)nearbyint(share * (double)stay);
    qsort(cut, (size_t)n, sizeof *cut, by_size_falling);
    it->gate = most >= n ? 0 : most == 0 ? INFINITY : cut[most - 1];
    free(cut);
    return 0;
}

/* The smallest of the weights that stayed; 0: none did. */
static double smallest(const struct prune_item *it)
{
    const unsigned char *was = it->was.data, *is = it->mask.data;
    double chunk[WEIGHTS_CHUNK], edge = INFINITY;
    for (int64_t first = 0; first < it->count; first += WEIGHTS_CHUNK) {
        const int64_t len = i64_min(it->count - first, WEIGHTS_CHUNK);
        weights_read(it->ref.tensor, first, len, chunk);
        for (int64_t i = 0; i < len; i++)
            if (is[first + i] && (!was || was[first + i]))
                edge = fmin(edge, fabs(chunk[i]));
    }
    return isfinite(edge) ? edge : 0;
}

int weights_write_mask(struct prune_run *r, struct prune_item *it, struct err *err)
{
    struct model *m = r->c->model;
    const unsigned char *was = it->was.data, *is = it->mask.data;
    const double edge = smallest(it);
    struct tensor t = {0};
    int rc = 0;
    if (edge > 0 && was)
        rc = tensor_copy(&t, it->ref.tensor, err);
    for (int64_t i = 0; rc == 0 && t.data && i < it->count; i++) {
        const double w = dtype_get(t.dtype, t.data, i);
        if ((!was[i] || !is[i]) && fabs(w) > edge)
            dtype_set(t.dtype, t.data, i, w < 0 ? -edge : edge);
    }
    if (rc == 0 && t.data)
        rc = weight_replace(m, it->ref.value, &t, err);
    tensor_fini(&t);
    if (rc)
        return -1;
    it->ref.tensor = it->matrix.stored = weights_tensor(m, it->ref.value);
    value_set_note(m, it->ref.value, "mask", NULL, &it->mask);
    value_set_note(m, it->ref.value, "splice", "surgery", NULL);
    tensor_fini(&it->mask);
    return 0;
}

int64_t weights_spliced(const struct prune_run *r, const struct prune_item *it)
{
    const unsigned char *was = it->was.data, *is = value_note(r->c->model, it->ref.value, "mask")->tensor.data;
    int64_t n = 0;
    for (int64_t i = 0; was && i < it->count; i++)
        n += !was[i] && is[i];
    return n;
}
