/* SPDX-License-Identifier: Apache-2.0
 * grad.h - gradients of a model: reverse-mode differentiation over a plan.
 * Why        Fine-tuning, distillation, Taylor and Fisher scores need dL/d(parameter) of the user's own graph.
 *            Every operator's row brings its backward (op.h); here the steps are put in order, memory is laid out
 *            and values are recomputed.
 * Use        grad_new; then for every batch: grad_forward, read grad_output, write dL/d(output) into grad_seed,
 *            grad_backward. Gradients add up over batches until grad_reset: gradient accumulation is calling it
 *            less often. A trainer changes the parameters by grad_param_value between batches and in the end puts
 *            them back into its model (value_set_weight).
 * Path       Only steps between a wanted value and a seeded output run backward. A step on that way whose row has
 *            no backward is refused by name, as are nested graphs and shapes that depend on data. Integer, bool and
 *            index values carry no gradient. A parameter used in several places (also by way of Identity) gets the
 *            sum.
 * Constants  Parameters are inputs here, so what depends on them is computed in every run; what depends on other
 *            weights only is folded.
 * Statistics Running means and variances that a trainer updates are named among the parameters too: no gradient
 *            reaches them (zeros), but their values can be changed.
 * Modes      training: BatchNormalization takes the batch's moments (and tells them, grad_stats), Dropout drops.
 *            Not training: frozen statistics, nothing dropped, gradients flow all the same.
 * Memory     One slab, planned over forward and backward: an activation lives until its last reader, which may be a
 *            backward that asked for it (grad_reads), a gradient from its first contribution to its producer's
 *            backward. With checkpoints k > 1 the steps are cut into k segments of about equal bytes, cut where
 *            little passes; only what passes a cut is kept, and a segment is run again before its backward. The
 *            results are the same bits.
 * Ownership  Borrows the model and the pool, which must outlive it. Inputs of grad_forward are borrowed until
 *            grad_backward has returned; outputs are ours and valid until the next grad_forward.
 * Threads    One at a time; the pool is used inside; results do not depend on its size.
 * Errors     ERR_OPERATOR (no gradient), ERR_SHAPE, ERR_MODEL_TOO_LARGE (the bound), ERR_INVALID (wanted values),
 *            naming the node. */
#ifndef PARED_ENGINE_GRAD_H
#define PARED_ENGINE_GRAD_H

#include "core/base/pool.h"
#include "core/engine/engine.h"
#include "core/model/model.h"

struct grad; /* opaque */

struct grad_opts {
    struct pool *pool;      /* NULL: single-threaded */
    const uint32_t *params; /* [n_params] initializers whose gradients are wanted; float32 or float64 */
    int n_params;
    const uint32_t *inputs; /* [n_inputs] graph inputs likewise */
    int n_inputs;
    const uint32_t *seeds; /* [n_seeds] outputs that will be seeded; NULL: every float output */
    int n_seeds;
    bool training;
    uint64_t seed;   /* of Dropout */
    int checkpoints; /* segments; 1: keep everything; 0: as few as max_memory_bytes allows */
    size_t max_memory_bytes; /* of the slab, of what forwards leave behind, of scratch (at least 64 MiB); 0: 16 GiB */
};

struct grad *grad_new(const struct model *m, const struct grad_opts *opts, struct err *err);
void grad_free(struct grad *g);

/* What to feed: the graph's inputs without initializer, in order. */
int grad_n_feeds(const struct grad *g);
uint32_t grad_feed(const struct grad *g, int i);
/* All graph outputs, in order. */
int grad_n_outputs(const struct grad *g);
/* Output i of the last forward. */
const struct tensor *grad_output(const struct grad *g, int i);
/* dL/d(output i), zeroed by grad_forward, to be filled before grad_backward; NULL: this output carries no
 * gradient. */
struct tensor *grad_seed(struct grad *g, int i);

/* Index of an initializer among params; -1: it is none. */
int grad_param_index(const struct grad *g, uint32_t value);
/* The parameter's value: a private copy that the caller may change between backward and forward. */
struct tensor *grad_param_value(struct grad *g, int i);
/* The i whose value this is; -1: no parameter. */
int grad_param_find(const struct grad *g, uint32_t value);
/* dL/d(params[i]), dL/d(inputs[i]): sums since grad_reset; zeros where nothing flows. An input's is given back
 * for the last shape. */
const struct tensor *grad_param_gradient(const struct grad *g, int i);
const struct tensor *grad_input_gradient(const struct grad *g, int i);
void grad_reset(struct grad *g);
/* The same gradient, for a caller who adds to it (regularizers) or masks it between backward and grad_reset. */
struct tensor *grad_param_gradient_change(struct grad *g, int i);

void grad_set_training(struct grad *g, bool training);
/* The random numbers of the next forward depend on `seed` alone, whatever ran before. */
void grad_set_seed(struct grad *g, uint64_t seed);
/* in: grad_n_feeds tensors. A forward may follow a forward. */
int grad_forward(struct grad *g, const struct tensor *in, struct err *err);
int grad_backward(struct grad *g, struct err *err);

/* The batch's moments of one BatchNormalization, after a forward in training mode. Running statistics are the
 * trainer's business:
 * running * momentum + batch * (1 - momentum); PyTorch takes variance * count / (count - 1) for them. */
struct grad_stats {
    uint32_t node, mean_value, var_value; /* the values that hold the running ones */
    double momentum;
    int64_t channels, count; /* values a channel */
    double *mean, *variance; /* [channels], biased; borrowed until the next forward */
};
int grad_n_stats(const struct grad *g);
const struct grad_stats *grad_stats(const struct grad *g, int i);
struct grad_memory {
    size_t slab, slab_lower; /* activations and gradients; the largest sum of live ones */
    size_t saved, scratch;   /* most bytes of what forwards leave for backwards, and of scratch */
    size_t gradients;        /* of parameters and inputs */
    int segments;
    int n_forward, n_again, n_backward; /* steps run */
};
struct grad_memory grad_memory(const struct grad *g);

/* What stands in the way of training: operators between float constants and the outputs that have no gradient, Ifs and loops
 * among them. Counted for the output with none of them if there is one, else for the first output that depends on
 * constants. Empty also if the model cannot be run: that is engine_missing_ops' to say. Strings are static.
 * missing_ops_fini. */
int engine_missing_gradients(const struct model *m, struct missing_ops *out, struct err *err);

#endif
