/* SPDX-License-Identifier: Apache-2.0
 * model_names.h - which values have a name: a hash table beside the value table of a model. Private to core/model.
 * Rows are only added: a dead or renamed value is recognised by comparing its present name. Memory is malloc'ed, one owner. */
#ifndef PARED_MODEL_NAMES_H
#define PARED_MODEL_NAMES_H

#include "core/model/model.h"

struct name_index;

struct name_index *name_index_new(void);
void name_index_free(struct name_index *index);
int name_index_add(struct name_index *index, const char *name, uint32_t value); /* -1: out of memory */
struct name_index *name_index_clone(const struct name_index *index);
/* First live value called `name` in `graph` (any graph if GRAPH_NONE); VALUE_NONE. */
uint32_t name_index_find(const struct name_index *index, const struct model *m, uint32_t graph, const char *name);

#endif
