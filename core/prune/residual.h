/* SPDX-License-Identifier: Apache-2.0
 * residual.h - residual branches of a model: sums y = x + f(x) whose f can be left out, and leaving it out.
 * Span       A join (Add, Sum, SkipLayerNormalization, ...) with a side that is kept and a side that can be dropped, of proven
 *            equal shapes. The dropped side, the branch, is computed from the kept one (identity shortcut: pre-norm and
 *            post-norm transformers, residual blocks), or from what the kept side is computed from (shortcut with a
 *            projection, parallel branches): then the side with more products is the branch.
 *            Nodes that only the branch needs are the span's; there is at least one product (an operator with a cost)
 *            among them, else dropping saves nothing. Spans may lie within others.
 * Not here   how much a branch matters (layers.c). Scope: joins of the main graph.
 * Ownership  `residuals` owns its rows; they describe the model as it was. Errors: ERR_NOMEM, ERR_MODEL of a cyclic graph. */
#ifndef PARED_PRUNE_RESIDUAL_H
#define PARED_PRUNE_RESIDUAL_H

#include "core/base/arena.h"
#include "core/model/model.h"

struct residual_span {
    uint32_t join;
    int keep, drop;  /* input slots of the join */
    uint32_t *nodes; /* that go with the branch, consumers first */
    int n_nodes, n_products;
    bool projected;      /* the kept side is computed too, from where the branch starts */
    const char *skipped; /* why the branch cannot go, static; NULL: it can */
};
struct residuals {
    struct residual_span *at; /* in topological order of the joins */
    int n;
    struct arena *arena;
};

/* m is only read. */
int residuals_find(struct residuals *r, struct model *m, struct err *err);
void residuals_fini(struct residuals *r);

/* The join's readers read the kept side; what nobody needs any more goes. Names of outputs stay. */
int residual_drop(struct model *m, const struct residual_span *span, struct err *err);

#endif
