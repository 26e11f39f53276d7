/* SPDX-License-Identifier: Apache-2.0
 * data_check.c - see data_check.h. */
#include "core/quant/data_check.h"

#include <stdlib.h>
#include <string.h>

enum { FEW = 8, ENOUGH = 16 };

int data_check_begin(struct data_check *c, const struct model *m, struct calibration *calibration, struct err *err)
{
    const struct graph *g = model_main(m);
    *c = (struct data_check){.calibration = calibration,
                             .passed_on = calibration_watched(calibration),
                             .n_values = m->n_values,
                             .scores = VALUE_NONE};
    if (g->n_outputs > 0 && m->values[g->outputs[0].value].producer != NODE_NONE)
        c->scores = g->outputs[0].value;
    if (!c->passed_on)
        return 0;
    c->watch = calloc(m->n_values + (size_t)1, sizeof *c->watch);
    if (!c->watch)
        return err_set(err, ERR_NOMEM, "out of memory while calibrating");
    memcpy(c->watch, c->passed_on, m->n_values * sizeof *c->watch);
    if (c->scores != VALUE_NONE)
        c->watch[c->scores] = true;
    return 0;
}

static void look_at_scores(struct data_check *c, const struct tensor *t)
{
    if (t->dtype != DTYPE_FLOAT || t->shape.rank != 2 || t->shape.dim[1] < 2)
        return;
    const int64_t classes = t->shape.dim[1];
    for (int64_t r = 0; r < t->shape.dim[0]; r++) {
        const float *row = tensor_f32(t) + r * classes;
        int64_t best = 0;
        for (int64_t k = 1; k < classes; k++)
            if (row[k] > row[best])
                best = k;
        c->best = c->rows == 0 || c->best == best ? best : -1;
        c->rows++;
    }
}

int data_check_observe(void *check, uint32_t value, const struct tensor *t, struct err *err)
{
    struct data_check *c = check;
    if (value == c->scores)
        look_at_scores(c, t);
    if (value == c->scores && c->passed_on && !c->passed_on[value])
        return 0;
    return calibration_observe(c->calibration, value, t, err);
}

static void check_input(const struct data_check *c, const struct model *m, uint32_t v, struct warnings *warnings)
{
    const struct range *r = calibration_range(c->calibration, v);
    const char *name = m->values[v].name;
    if (!r)
        return;
    if (r->nan > 0 || r->inf > 0)
        warnings_add(
            warnings,
            "of %lld numbers of the calibration data for input '%s', %lld are NaN and %lld infinite: they were "
            "left out, but spoil what they meet",
            (long long)r->count, name, (long long)r->nan, (long long)r->inf);
    if (r->count > 1 && r->min == r->max)
        warnings_add(warnings, "the calibration data for input '%s' is %g everywhere: ranges measured on it say little",
                     name, (double)r->min);
}

void data_check_end(struct data_check *c, const struct model *m, int64_t samples, struct warnings *warnings)
{
    const struct graph *g = model_main(m);
    for (int i = 0; i < g->n_inputs; i++)
        check_input(c, m, g->inputs[i].value, warnings);
    if (samples > 0 && samples < FEW)
        warnings_add(warnings,
                     "calibrated on %lld sample%s only: numbers beyond what was seen are clipped; 32 to 512 are usual",
                     (long long)samples, samples == 1 ? "" : "s");
    if (c->rows >= ENOUGH && c->best >= 0)
        warnings_add(
            warnings,
            "the float model gives all %lld calibration samples the same top class (%lld): either they are of one "
            "class, or their preprocessing is not what the model was trained with",
            (long long)c->rows, (long long)c->best);
    free(c->watch);
    c->watch = NULL;
}
