/* SPDX-License-Identifier: Apache-2.0
 * Learning rates: figures by hand and the formulas' ends; PyTorch's schedulers are tests/e2e's. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>

#include "core/train/schedule.h"

static const struct {
    struct train_params p;
    int64_t step, per_epoch;
    double want;
} table[] = {
    {{.epochs = 2, .schedule = SCHEDULE_CONSTANT}, 7, 5, 2},
    {{.epochs = 2, .schedule = SCHEDULE_LINEAR}, 0, 5, 2},
    {{.epochs = 2, .schedule = SCHEDULE_LINEAR}, 5, 5, 1},
    {{.epochs = 2, .schedule = SCHEDULE_COSINE}, 0, 5, 2},
    {{.epochs = 2, .schedule = SCHEDULE_COSINE}, 5, 5, 1},
    {{.epochs = 2, .schedule = SCHEDULE_COSINE}, 9, 5, 2 * 0.024471741852423},
    /* a warm-up of half an epoch: 2.5 updates, 3 */
    {{.epochs = 2, .schedule = SCHEDULE_CONSTANT, .warmup = 0.5}, 0, 5, 2.0 / 3},
    {{.epochs = 2, .schedule = SCHEDULE_CONSTANT, .warmup = 0.5}, 2, 5, 2},
    {{.epochs = 2, .schedule = SCHEDULE_LINEAR, .warmup = 0.4}, 2, 5, 2},
    {{.epochs = 2, .schedule = SCHEDULE_LINEAR, .warmup = 0.4}, 6, 5, 1},
    /* longer than the training: it only rises */
    {{.epochs = 2, .schedule = SCHEDULE_COSINE, .warmup = 100}, 9, 5, 2},
    {{.epochs = 9, .schedule = SCHEDULE_STEP, .step_at = 3, .step_by = 0.1}, 14, 5, 2},
    {{.epochs = 9, .schedule = SCHEDULE_STEP, .step_at = 3, .step_by = 0.1}, 15, 5, 0.2},
    {{.epochs = 9, .schedule = SCHEDULE_STEP, .step_at = 3, .step_by = 0.1}, 44, 5, 0.02},
    {{.epochs = 9, .schedule = SCHEDULE_STEP, .step_at = 0.1, .step_by = 0.5}, 3, 10, 0.25},
    {{.epochs = 4, .schedule = SCHEDULE_ONE_CYCLE}, 0, 10, 2.0 / 25},
    {{.epochs = 4, .schedule = SCHEDULE_ONE_CYCLE}, 11, 10, 2},
    {{.epochs = 4, .schedule = SCHEDULE_ONE_CYCLE}, 39, 10, 2.0 / 250000},
    {{.epochs = 4, .schedule = SCHEDULE_ONE_CYCLE, .warmup = 2}, 11, 10, 2},
    /* an epoch of no update, which never asks */
    {{.epochs = 1, .schedule = SCHEDULE_COSINE}, 0, 0, 2},
};

static void test_table(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        const double got = schedule_lr(&table[i].p, 2, table[i].step, table[i].per_epoch);
        if (fabs(got - table[i].want) > 1e-12 * 2)
            fail_msg("row %zu: %.15g, wanted %.15g", i, got, table[i].want);
    }
}

static void test_sane(void **state)
{
    (void)state;
    for (int kind = SCHEDULE_COSINE; kind <= SCHEDULE_CONSTANT; kind++)
        for (int64_t epochs = 1; epochs < 5; epochs++)
            for (int64_t each = 1; each < 9; each++)
                for (int warm = 0; warm < 4; warm++)
                    for (int64_t step = 0; step < epochs * each; step++) {
                        const struct train_params p = {
                            .epochs = epochs, .schedule = kind, .warmup = warm * 0.7, .step_at = 1.5, .step_by = 0.3};
                        const double lr = schedule_lr(&p, 0.5, step, each);
                        if (!(lr > 0 && lr <= 0.5 + 1e-15))
                            fail_msg("schedule %d, update %d of %d: %g", kind, (int)step, (int)(epochs * each), lr);
                    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_table), cmocka_unit_test(test_sane)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
