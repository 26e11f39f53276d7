/* SPDX-License-Identifier: Apache-2.0
 * distill.h - the objective of a teacher: the model that is trained is to say what another one says.
 * Loss of a batch, a mean over its samples (methods.md B8):
 *     L = (1 - alpha) labels + alpha soft + hint_weight hints + attention maps + relational relations
 *   labels     objective_labels (trainer.h)
 *   soft       mean over the outputs of floats of
 *              kl   T^2 KL(softmax(t / T) || softmax(s / T)), a mean over places where an output has several (boxes,
 *                   pixels). Of an output made by Softmax, s and t are what the Softmax reads, in the student and in
 *                   the teacher each for itself; probabilities made otherwise are taken by their logarithm (Hinton et
 *                   al. 2015)
 *              mse  mean (s - t)^2 / variance of t, the variance from a few samples when training starts
 *              auto takes kl for what is made by Softmax and for an output [N, classes] of scores, mse for the rest.
 *   the rest   hints.h
 * Outputs    are paired by name, else by position. An output of another type than floats is left alone and named in a
 *            warning.
 * Teacher    c->teacher: the model as it came into the recipe, or another one; teacher.h says when it runs and what
 *            is kept. It is fed what the student is fed: inputs by name, else by position.
 * Labels     auto: used if the dataset has some. Without them alpha is 1.
 * Life cycle distill_objective_new -> train_run(.., o, ..) -> distill_objective_report -> distill_objective_free.
 *            Borrows the context's models, dataset and pool.
 * Errors     ERR_MODEL, ERR_SHAPE: outputs or named values do not fit, with both shapes; ERR_INVALID: a hint names
 *            nothing, with candidates; ERR_DATASET: labels. Threads: one. */
#ifndef PARED_TRAIN_DISTILL_H
#define PARED_TRAIN_DISTILL_H

#include "core/train/trainer.h"

enum distill_labels { DISTILL_LABELS_AUTO, DISTILL_LABELS_USE, DISTILL_LABELS_IGNORE };
enum distill_soft { DISTILL_SOFT_AUTO, DISTILL_SOFT_KL, DISTILL_SOFT_MSE };
enum distill_cache { DISTILL_CACHE_AUTO, DISTILL_CACHE_NEVER };
extern const char *const distill_labels_names[], *const distill_soft_names[], *const distill_cache_names[];

struct distill_params {
    double temperature, alpha;
    bool alpha_given;
    int labels, soft, cache;
    struct globs hints; /* "student:teacher" */
    double hint_weight;
    double attention, relational; /* weights; 0: none */
    struct globs attention_at, relational_at;
};

/* Rows for a method's table: the field `distill` of struct S is a struct distill_params. */
#define DISTILL_PARAM(S, f) .name = #f, .offset = offsetof(struct S, distill.f)
#define DISTILL_PARAM_ROWS(S)                                                                                          \
    {DISTILL_PARAM(S, temperature),                                                                                    \
     .kind = PARAM_NUMBER,                                                                                             \
     .def = "4",                                                                                                       \
     .min = 0,                                                                                                         \
     .max = 1000,                                                                                                      \
     .above_min = true,                                                                                                \
     .doc = "by which scores are divided before teacher and student are compared"},                                    \
        {DISTILL_PARAM(S, alpha),                                                                                      \
         .kind = PARAM_NUMBER,                                                                                         \
         .min = 0,                                                                                                     \
         .max = 1,                                                                                                     \
         .given = offsetof(struct S, distill.alpha_given) + 1,                                                         \
         .doc = "share of the teacher in the loss, the rest is the labels'; 0.9 if not given, 1 without labels"},      \
        {DISTILL_PARAM(S, labels), .kind = PARAM_ENUM, .def = "\"auto\"", .choices = distill_labels_names,             \
         .doc = "learn from them, ignore them (they may still judge an epoch), or learn from them if there are some"}, \
        {DISTILL_PARAM(S, soft), .kind = PARAM_ENUM, .def = "\"auto\"", .choices = distill_soft_names,                 \
         .doc = "loss between outputs: kl of softened scores, mse over the teacher's variance, or what fits each"},    \
        {DISTILL_PARAM(S, cache), .kind = PARAM_ENUM, .def = "\"auto\"", .choices = distill_cache_names,               \
         .doc = "keep what the teacher says of samples that come again unchanged"},                                    \
        {DISTILL_PARAM(S, hints), .kind = PARAM_GLOBS,                                                                 \
         .doc = "intermediate values the student is to reproduce: \"student:teacher\", names of values or of nodes, "  \
                "one name if both have it, globs for several"},                                                        \
        {DISTILL_PARAM(S, hint_weight),          .kind = PARAM_NUMBER, .def = "1", .min = 0, .max = 1e6,               \
         .doc = "times the hints' loss is added"},                                                                     \
        {DISTILL_PARAM(S, attention),                                                                                  \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 1e9,                                                                                                   \
         .doc = "times the difference of attention maps is added; about 1000 in the literature"},                      \
        {DISTILL_PARAM(S, attention_at), .kind = PARAM_GLOBS,                                                          \
         .doc = "values whose maps are compared, as hints; empty: the last ones before height and width shrink"},      \
        {DISTILL_PARAM(S, relational),                                                                                 \
         .kind = PARAM_NUMBER,                                                                                         \
         .def = "0",                                                                                                   \
         .min = 0,                                                                                                     \
         .max = 1e9,                                                                                                   \
         .doc = "times the difference of distances and angles between samples is added; 25 in the literature"},        \
    {                                                                                                                  \
        DISTILL_PARAM(S, relational_at),                                                                               \
            .kind = PARAM_GLOBS,                                                                                       \
            .doc = "the value whose rows are the points, as a hint; empty: what the last product reads"                \
    }

/* Faults of several parameters together, with pointers below `pointer`. */
void distill_params_check(const struct distill_params *p, const char *pointer, struct faults *faults);
/* The bits of method.h that these parameters ask for: NEEDS_LABELS where they leave a share to labels. */
unsigned distill_params_needs(const struct distill_params *p);

/* Everything is checked at once: what c->model and c->teacher say to a sample of the data, names, labels. `train` is
 * read for the labels' loss and for how many samples there will be; both are borrowed until distill_objective_free. */
int distill_objective_new(struct objective *o, const struct distill_params *p, const struct train_params *train,
                          const struct step_ctx *c, struct err *err);
/* Adds "distillation" to details: {"teacher", "temperature", "alpha", "labels", "outputs": [{"output", "loss"}],
 * "hints"?, "attention"?, "relational"?, "cache": {...}}. */
void distill_objective_report(const struct objective *o, json_t *details);
void distill_objective_free(struct objective *o); /* also of a zeroed one */

#endif
