/* SPDX-License-Identifier: Apache-2.0
 * catalogue.h - all methods a recipe may use, gathered by the Makefile from the METHOD(...) rows of the families. */
#ifndef PARED_RECIPE_CATALOGUE_H
#define PARED_RECIPE_CATALOGUE_H

#include "core/step/method.h"

/* NULL-terminated, sorted by name. */
const struct method *const *method_all(void);
const struct method *method_find(const char *name); /* NULL if unknown */
/* The catalogue (method NULL) or one method as JSON, for `pared methods` and GET /v1/methods. New reference. */
json_t *method_json(const struct method *method);
/* Bits of enum method_needs as ["data", "labels", "run"]. New reference. */
json_t *method_needs_json(unsigned needs);

#endif
