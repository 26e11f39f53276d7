/* SPDX-License-Identifier: Apache-2.0
 * isomorphic.h - which groups have the same structure (Fang et al., "Isomorphic Pruning for Vision Models", ECCV
 * 2024): only those are compared with each other, because the scores of channels of different structures say different
 * things.
 * Structure  of a group: its members' operators, roles, axes and how many elements an atom has on each; not the number
 *            of atoms. */
#ifndef PARED_PRUNE_ISOMORPHIC_H
#define PARED_PRUNE_ISOMORPHIC_H

#include "core/prune/groups.h"

/* set: [g->n] the same number for groups of the same structure, 0 for the first. m: the model the groups were found
 * on. ERR_NOMEM. */
int isomorphic_sets(const struct groups *g, const struct model *m, int *set, struct err *err);

#endif
