/* SPDX-License-Identifier: Apache-2.0
 * groups.c - groups.h from outside: preparing a model, and the order in which the solver works: rows for all axes,
 * links by asking the rules, elements, folds, groups, costs. */
#include "core/prune/groups.h"

#include "core/passes/edit.h"
#include "core/passes/pass.h"
#include "core/prune/groups_impl.h"

/* ---- preparing ---- */
enum { COPIES_MAX = 1 << 22, READERS_MAX = 4096 }; /* elements of all copies of one; what more read stays shared */

/* Exporters store equal vectors once: all fresh BatchNormalizations then share a bias of zeros, and layers that have
 * nothing to do with one another would have to be pruned alike. Each reader gets a vector of its own. Matrices that
 * are shared are so on purpose. */
static bool is_shared_vector(struct edit *e, uint32_t v)
{
    const struct value *value = &e->m->values[v];
    const struct tensor *t = value->name && value->weight && value->graph == 0 ? value_const(e->m, v) : NULL;
    const int64_t n = t ? tensor_count(t) : 0;
    int wide = 0;
    const int readers = edit_count(e, v);
    if (n <= 1 || readers < 2 || readers > READERS_MAX || n > COPIES_MAX / readers || !dtype_is_float(t->dtype) ||
        edit_is_output(e, v))
        return false;
    for (int i = 0; i < t->shape.rank; i++)
        wide += t->shape.dim[i] > 1;
    return wide == 1;
}

static void split_vector(struct edit *e, uint32_t v)
{
    const struct reader_list *l = edit_readers(e, v);
    const int n = l->count;
    for (int i = n - 1; i > 0 && !e->failed; i--) { /* the first keeps it; later ones leave the list as they change */
        const struct reader r = edit_readers(e, v)->at[i];
        if (r.node == NODE_NONE || e->m->nodes[r.node].graph != 0)
            continue;
        const struct tensor t = e->m->values[v].weight->tensor; /* the table of values moves */
        const uint32_t own = edit_add_weight(e, 0, e->m->values[v].name, &t);
        if (own != VALUE_NONE)
            edit_set_input(e, r.node, r.slot, own);
    }
}

int groups_prepare(struct model *m, struct warnings *warnings, struct err *err)
{
    struct edit e;
    if (passes_constants(m, warnings, err) || edit_init(&e, m, err))
        return -1;
    for (uint32_t v = 0, n = m->n_values; v < n && !e.failed; v++)
        if (is_shared_vector(&e, v))
            split_vector(&e, v);
    const int rc = edit_finish(&e, err);
    edit_fini(&e);
    return rc;
}

/* ---- finding ---- */
void groups_free(struct groups *g)
{
    if (!g)
        return;
    struct solver *s = g->solver;
    uses_fini(&s->uses);
    infer_fini(&s->infer);
    arena_free(g->arena);
}

struct groups *groups_find(const struct model *m, enum groups_mode mode, struct err *err)
{
    struct arena *arena = arena_new();
    struct solver *s = arena ? arena_alloc(arena, sizeof *s) : NULL;
    struct groups *g = s ? arena_alloc(arena, sizeof *g) : NULL;
    if (!g) {
        arena_free(arena);
        err_set(err, ERR_NOMEM, "out of memory while building groups");
        return NULL;
    }
    *s = (struct solver){.m = m, .mode = mode, .arena = arena, .groups = g};
    *g = (struct groups){.arena = arena, .solver = s};
    if (infer_run(&s->infer, m, err) || uses_build(&s->uses, m, err) || solver_axes(s, err) || solver_walk(s, err) ||
        solver_elements(s, err) || solver_fold(s, err) || solver_groups(s, err) || solver_costs(s, err)) {
        groups_free(g);
        return NULL;
    }
    return g;
}
