/* SPDX-License-Identifier: Apache-2.0
 * data_check.h - signs that calibration data is not what the model was made for, as warnings; nothing is refused.
 * What       NaN and infinities; the same number everywhere; fewer than 8 samples; a classifier that gives one and the same top
 *            class to 16 samples or more: either they are of one class, or the preprocessing is wrong. (That the range of an
 *            input is wrong cannot be told from the range itself: models take 0..255 as well as -2..2.)
 * Use        data_check_begin -> data_check_observe as the plan_observer in front of the calibration's -> data_check_end. */
#ifndef PARED_QUANT_DATA_CHECK_H
#define PARED_QUANT_DATA_CHECK_H

#include "core/stats/calibrate.h"
#include "core/step/layer_report.h"

struct data_check {
    struct calibration *calibration; /* borrowed */
    const bool *passed_on;           /* what the calibration watches, or NULL: all */
    bool *watch;                     /* the same and the scores; [n_values] */
    uint32_t n_values, scores;       /* scores: the first output; VALUE_NONE: it is none of a classifier */
    int64_t rows, best;              /* rows seen; their top class, -1: not all the same */
};

int data_check_begin(struct data_check *c, const struct model *m, struct calibration *calibration, struct err *err);
int data_check_observe(void *check, uint32_t value, const struct tensor *t, struct err *err);
/* Adds the warnings and frees what is held. samples: how many were run. */
void data_check_end(struct data_check *c, const struct model *m, int64_t samples, struct warnings *warnings);

#endif
