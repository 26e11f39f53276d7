/* SPDX-License-Identifier: Apache-2.0
 * target.h - what a recipe may ask of its result: one row a target, judged from the figures of the report. */
#ifndef PARED_RECIPE_TARGET_H
#define PARED_RECIPE_TARGET_H

#include <jansson.h>
#include <stdbool.h>

enum { TARGET_MAX = 16 };

struct target {
    const char *name, *doc;
    double min, max;   /* of the wanted figure, inclusive */
    bool at_least;     /* met when got >= wanted; otherwise got <= wanted */
    bool needs_labels; /* compares metrics of a labelled dataset */
    /* The figure from a report object (before, after, ratio, fidelity are there); NAN: not measured. */
    double (*got)(const json_t *report);
};

const struct target *target_all(void); /* ends with name NULL */
const struct target *target_find(const char *name);
/* {"target", "wanted", "got", "met"}; a figure that was not measured leaves `got` out and is not met. New reference. */
json_t *target_judge(const struct target *target, double wanted, const json_t *report);
/* The rows as JSON: [{"name", "doc", "min", "max", "needs"}], needs as that of methods. New reference. */
json_t *target_catalogue(void);

#endif
