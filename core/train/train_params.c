/* SPDX-License-Identifier: Apache-2.0
 * train_params.c - names of choices, and faults of several parameters together. */
#include "core/train/train_params.h"

#include <stdio.h>

#include "core/data/augment.h"
#include "core/train/optimizer.h"

const char *const train_schedules[] = {"cosine", "one_cycle", "step", "linear", "constant", NULL};
const char *const train_losses[] = {"auto", "cross_entropy", "mse", "l1", "huber", "bce", NULL};
const char *const train_batch_norms[] = {"auto", "train", "frozen", "insert", NULL};
const char *const train_keeps[] = {"best", "last", NULL};
const char *const train_decays[] = {"weights", "all", NULL};

static void fault(struct faults *faults, const char *pointer, const char *name, const char *text)
{
    char at[300];
    snprintf(at, sizeof at, "%.200s/%s", pointer, name);
    faults_add(faults, at, "%s", text);
}

void train_params_check(const struct train_params *p, const char *pointer, struct faults *faults)
{
    const bool sgd = p->optimizer == OPTIMIZER_SGD;
    if (p->nesterov && !sgd)
        fault(faults, pointer, "nesterov", "nesterov is of optimizer=sgd");
    else if (p->nesterov && !(p->momentum > 0))
        fault(faults, pointer, "nesterov", "nesterov needs a momentum above 0");
    if (p->warmup > 0 && p->warmup >= (double)p->epochs)
        fault(faults, pointer, "warmup", "warmup must be shorter than all epochs");
    if (p->label_smoothing > 0 && p->loss != TRAIN_LOSS_AUTO && p->loss != TRAIN_LOSS_CROSS_ENTROPY)
        fault(faults, pointer, "label_smoothing", "label_smoothing is of loss=cross_entropy");
    if (p->augment) {
        struct augment a;
        char at[300];
        snprintf(at, sizeof at, "%.200s/augment", pointer);
        augment_parse(&a, p->augment, at, faults);
    }
}
