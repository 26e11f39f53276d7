/* SPDX-License-Identifier: Apache-2.0
 * params.h - the parameters of one step, from JSON into the method's struct, by its table of rows. */
#ifndef PARED_RECIPE_PARAMS_H
#define PARED_RECIPE_PARAMS_H

#include "core/base/arena.h"
#include "core/step/method.h"

/* step: an object; its keys "method" and "steps" are not looked at. Faults get `pointer`/KEY. Defaults are filled in,
 * then the row's own check runs unless there were faults. *params (arena) and *normalised (new reference: every
 * parameter that has a value, in the order of the rows) are set also when there are faults. ERR_NOMEM is the only
 * error. */
int params_parse(const struct method *method, const json_t *step, const char *pointer, struct arena *arena,
                 void **params, json_t **normalised, struct faults *faults, struct err *err);

/* Append "/key" to a pointer with RFC 6901 escapes; keys are cut after 100 bytes. */
enum { POINTER_TEXT = 1024 };
const char *pointer_join(char out[POINTER_TEXT], const char *pointer, const char *key);

#endif
