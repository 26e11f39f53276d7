/* SPDX-License-Identifier: Apache-2.0
 * factor_run.h - private to factor_run.c (find, decompose, choose) and factor_apply.c (measure, write, fit, report):
 * one step. */
#ifndef PARED_FACTOR_FACTOR_RUN_H
#define PARED_FACTOR_FACTOR_RUN_H

#include "core/factor/factor.h"

enum { FACTOR_RECOVER_AUTO, FACTOR_RECOVER_NONE };
#define FACTOR_ONE_MOMENT ((size_t)1 << 30)    /* most bytes of one layer's moments */
#define FACTOR_ALL_MOMENTS ((size_t)512 << 20) /* of those that are held at once, unless one alone has more */

struct factor_run {
    struct step_ctx *c;
    const struct factor_params *p;
    const struct scheme *s;
    struct rank_rule rule;
    struct layers layers;
    struct model *original; /* as it came */
    bool able;              /* samples can be run */
};

int factor_progress(const struct factor_run *r, const char *stage, int64_t done, int64_t total, struct err *err);
/* Sets importance of all layers with points: what the outputs lose when one alone is factorized, over its error. */
int factor_measure(struct factor_run *r, struct err *err);
/* Writes the chosen layers, fitted where samples are there, and the rows of all. */
int factor_apply(struct factor_run *r, struct err *err);

#endif
