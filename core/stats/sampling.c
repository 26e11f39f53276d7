/* SPDX-License-Identifier: Apache-2.0
 * sampling.c - one plan, one pass over the chosen samples (sampling.h). */
#include "core/stats/sampling.h"

#include <stdlib.h>

#include "core/data/split.h"
#include "core/stats/evaluate.h"

static int64_t run_plan(struct plan *plan, const struct model *m, const struct sampling *s, const int64_t *index,
                        int64_t n, struct err *err)
{
    const struct plan_run_opts run = {.observe = s->observe, .observe_arg = s->observe_arg, .any_order = s->any_order};
    const struct evaluate_opts opts = {.pool = s->pool, .batch = s->batch > 0 ? s->batch : SAMPLING_BATCH,
                                       .batch_bytes = SAMPLING_BYTES, .index = index, .n_index = n, .run = &run,
                                       .progress = s->ran, .progress_arg = s->arg};
    bool fixed = false;
    const int64_t size = evaluate_batch_size(plan, NULL, 1, &fixed);
    if (s->start && s->start(s->arg, fixed && !dataset_single_feed(s->data) ? size : 0, n, err))
        return -1;
    return evaluate_each(plan, m, s->data, &opts, NULL, NULL, err);
}

static int64_t choose(const struct sampling *s, int64_t **index, struct err *err)
{
    if (!s->index)
        return dataset_spread(s->data, s->samples, index, err);
    *index = malloc(((size_t)s->n_index + 1) * sizeof **index);
    if (!*index)
        return err_set(err, ERR_NOMEM, "out of memory");
    return split_spread(s->index, s->n_index, s->samples, *index);
}

int64_t sampling_run(const struct model *m, const struct sampling *s, struct err *err)
{
    int64_t *index = NULL, done = -1;
    const struct plan_opts opts = {.pool = s->pool, .optimize = s->watch != NULL, .watch = s->watch};
    const int64_t n = choose(s, &index, err);
    struct plan *plan = n > 0 ? plan_new(m, &opts, err) : NULL;
    if (n == 0)
        err_set(err, ERR_DATASET, "the dataset is empty: calibration needs at least one sample");
    if (plan)
        done = run_plan(plan, m, s, index, n, err);
    plan_free(plan);
    free(index);
    return done;
}
