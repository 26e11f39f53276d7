/* SPDX-License-Identifier: Apache-2.0
 * nearest.h - "did you mean": the known word nearest to a mistyped one, by optimal string alignment (edits and
 * swapped neighbours). */
#ifndef PARED_RECIPE_NEAREST_H
#define PARED_RECIPE_NEAREST_H

#include <stddef.h>

struct nearest {
    const char *word; /* what was typed; borrowed */
    const char *best; /* NULL: nothing near enough */
    int distance;
};

#define NEAREST(typed) ((struct nearest){(typed), NULL, 0})
/* Offer one known word. It is near enough if at most a third of the longer word differs, or one holds the other. */
void nearest_offer(struct nearest *n, const char *candidate);
/* "; did you mean 'sparsity'?", or "" */
const char *nearest_hint(const struct nearest *n, char *out, size_t size);

#endif
