/* SPDX-License-Identifier: Apache-2.0
 * edit.h - rewriting a model with an index of readers that stays true while it changes.
 * Why        model.h's `struct uses` is a snapshot: a pass that makes ten thousand changes would rebuild it ten
 * thousand times. Here every change goes through an edit_* function, which updates the lists of the few values it
 * touches. Scope      the main graph and everything nested in it; bodies of functions are left as they are (their
 * attributes may be the caller's), but count as readers of nothing outside. Life cycle edit_init -> edit_* ->
 * edit_finish (order, dead rows) -> edit_fini. While it lives, change the model only through it; model_add_weight and
 * setting attributes are fine. Errors     memory running out sets `failed`; edit_finish reports it. The model stays
 * well-formed but may hold unfinished rewrites: callers give it up. Threads: one. */
#ifndef PARED_PASSES_EDIT_H
#define PARED_PASSES_EDIT_H

#include "core/model/model.h"

struct reader {
    uint32_t node; /* NODE_NONE: the value is an output of a graph */
    int slot;      /* input index; output index of `graph` */
    uint32_t graph;
};
struct reader_list {
    struct reader *at;
    int count, cap;
};
struct edit {
    struct model *m;
    struct reader_list *lists; /* by value id */
    uint32_t n;
    /* By graph id. Only live graphs (reachable from the main graph) are rewritten; foreign ones are bodies of
     * functions. */
    enum edit_graph { EDIT_FOREIGN, EDIT_LIVE, EDIT_REMOVED } * state;
    uint32_t n_graphs;
    bool failed;
};

int edit_init(struct edit *e, struct model *m, struct err *err);
void edit_fini(struct edit *e);
/* Remove values nobody makes or reads, put nodes into topological order. -1 when memory ran out on the way. */
int edit_finish(struct edit *e, struct err *err);

/* Readers of a value (borrowed until the next change). */
const struct reader_list *edit_readers(struct edit *e, uint32_t value);
static inline int edit_count(struct edit *e, uint32_t value)
{
    return edit_readers(e, value)->count;
}
bool edit_is_output(struct edit *e, uint32_t value);
/* The only reader: a node of the value's own graph that reads it once; NODE_NONE otherwise. */
uint32_t edit_only_reader(struct edit *e, uint32_t value);
/* True if the node may be rewritten: alive and reachable from the main graph. */
bool edit_node_is_live(const struct edit *e, uint32_t node);
/* The live node of this type (default domain) that makes the value; NODE_NONE. */
uint32_t edit_producer(const struct edit *e, uint32_t value, const char *op_type);

void edit_set_input(struct edit *e, uint32_t node, int slot, uint32_t value);
void edit_cut_inputs(struct edit *e, uint32_t node, int count); /* keep the first `count` */
/* All readers but graph outputs read `to` instead of `from`. */
void edit_replace_reads(struct edit *e, uint32_t from, uint32_t to);
/* A node whose output `out` equals its input `in` goes away, if possible: readers of `out` read `in`. If `out` is an
 * output of a graph, `in`'s producer makes `out` instead, so that the name stays; false if that cannot be (in is an
 * input, a weight, an output itself, or of another graph): nothing has changed then. Other outputs of the node must be
 * unused. */
bool edit_bypass(struct edit *e, uint32_t node, uint32_t in, uint32_t out);
/* Removes a node and its nested graphs; its inputs lose a reader. */
void edit_remove_node(struct edit *e, uint32_t node);
/* The node `from` that makes value `value` no longer does; `to` makes it at `slot`. */
void edit_move_output(struct edit *e, uint32_t value, uint32_t to, int slot);
uint32_t edit_add_node(struct edit *e, uint32_t graph, const char *op_type, const char *name, const uint32_t *in,
                       int n_in, const uint32_t *out, int n_out);
uint32_t edit_add_value(struct edit *e, uint32_t graph, const char *name);
/* A constant. Before IR 4 an initializer must be listed among the graph's inputs too, so it is. Takes a reference to
 * the tensor. */
uint32_t edit_add_weight(struct edit *e, uint32_t graph, const char *name, const struct tensor *t);
/* 1-D int64 constant. */
uint32_t edit_add_ints(struct edit *e, uint32_t graph, const char *name, const int64_t *v, int count);

#endif
