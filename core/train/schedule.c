/* SPDX-License-Identifier: Apache-2.0
 * schedule.c - see schedule.h. One row a shape: the factor of the base rate. */
#include "core/train/schedule.h"

#include <math.h>

#include "core/base/size.h"

static const double pi = 3.14159265358979323846;

struct place {
    const struct train_params *p;
    double s;           /* of the updates behind the warm-up, [0, 1) */
    double step, total; /* updates done, all updates */
    double per_epoch;
};

static double between(double from, double to, double share)
{
    return to + (from - to) / 2 * (1 + cos(pi * share));
}

static double cosine(const struct place *a)
{
    return between(1, 0, a->s);
}

/* As torch.optim.lr_scheduler.OneCycleLR(max_lr, total_steps): the top is update 0.3 total - 1, the end the last one.
 * */
static double one_cycle(const struct place *a)
{
    const double top = 0.3 * a->total - 1, end = a->total - 1, low = 1.0 / 25, least = low / 1e4;
    if (a->step <= top)
        return between(low, 1, top > 0 ? a->step / top : 1);
    return between(1, least, (a->step - top) / (end - top));
}

static double steps(const struct place *a)
{
    const double each = a->p->step_at * a->per_epoch;
    /* a hair more: 3 epochs of 0.1 epochs a step are 30 steps, whatever the last bit of the quotient is */
    return each > 0 ? pow(a->p->step_by, floor(a->step / each + 1e-9)) : 1;
}

static double linear(const struct place *a)
{
    return 1 - a->s;
}

static double constant(const struct place *a)
{
    (void)a;
    return 1;
}

static const struct {
    double (*factor)(const struct place *a);
    bool own_rise; /* warm-up does not apply */
} rows[] = {
    [SCHEDULE_COSINE] = {cosine, false}, [SCHEDULE_ONE_CYCLE] = {one_cycle, true}, [SCHEDULE_STEP] = {steps, false},
    [SCHEDULE_LINEAR] = {linear, false}, [SCHEDULE_CONSTANT] = {constant, false},
};

double schedule_lr(const struct train_params *p, double base, int64_t step, int64_t per_epoch)
{
    const double each = (double)i64_max(per_epoch, 1), total = (double)i64_max(p->epochs, 1) * each;
    const double warm = fmin(floor(p->warmup * each + 0.5), total), at = (double)step;
    struct place a = {.p = p, .step = at, .total = total, .per_epoch = each};
    if (!rows[p->schedule].own_rise && at < warm)
        return base * (at + 1) / warm;
    a.s = warm < total && !rows[p->schedule].own_rise ? (at - warm) / (total - warm) : at / total;
    return base * rows[p->schedule].factor(&a);
}
