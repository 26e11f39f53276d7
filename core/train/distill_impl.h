/* SPDX-License-Identifier: Apache-2.0
 * distill_impl.h - what the parts of the distilling objective share (distill.h is the interface).
 * Parts      distill.c           the method and the objective: its life cycle, report, sum of terms
 *            distill_outputs.c   outputs paired, their losses
 *            distill_terms.c     hints, attention maps, relations
 * Places     everything the objective looks at in the student is asked for by distill's `values`, in one order: what
 *            the labels' objective wants, then the outputs, then the terms. */
#ifndef PARED_TRAIN_DISTILL_IMPL_H
#define PARED_TRAIN_DISTILL_IMPL_H

#include "core/train/distill.h"
#include "core/train/hints.h"
#include "core/train/teacher.h"

/* Shapes of a model's values for a batch. */
struct distill_shapes {
    struct plan *plan;
    const struct type *types; /* of the plan */
    int64_t batch;            /* samples they are for */
};

struct distill_output {
    const char *name;     /* the student's; lives in the arena */
    int student, teacher; /* places among the outputs of the main graphs */
    bool kl;
    bool logarithm;      /* the teacher's value are probabilities: their logarithm is taken */
    int want;            /* of the teacher */
    struct feature view; /* of one sample: rows of scores */
    struct shape shape;  /* of one sample */
    double variance;     /* of the teacher's */
    int extra;           /* place among what `values` asked for */
};

enum distill_kind { TERM_HINT, TERM_ATTENTION, TERM_RELATION, TERM_KINDS };
struct distill_term {
    enum distill_kind kind;
    const char *student, *teacher; /* names */
    uint32_t teacher_value;
    int want, axis; /* of channels, in both */
    int64_t teacher_channels;
    double power; /* mean square of the teacher's value */
    bool regressed;
    int param; /* of the objective: weight, then bias; with `regressed` */
    int extra;
};

struct distiller {
    const struct distill_params *p;
    const struct step_ctx *c;
    double alpha;
    bool with_labels;
    struct objective labels;
    struct arena *arena;
    struct teacher *teacher;

    struct distill_output *out;
    int n_out;
    const char **left; /* outputs that are not matched, and why */
    int n_left;
    struct distill_term *term;
    int n_term;

    struct tensor *sample; /* [n_in] a few samples of the data */
    int n_in;
    int64_t n_sample;
    struct tensor spare[2]; /* logarithms of probabilities, and gradients to them */
};

/* distill.c */
int distill_nomem(struct err *err);
int distill_shapes_of(struct distill_shapes *s, const struct distiller *d, const struct model *m, struct err *err);
void distill_shapes_fini(struct distill_shapes *s);
/* Shape of a value for one sample; false: not known, no floats, or no row a sample. */
bool distill_row_shape(const struct distill_shapes *s, uint32_t value, struct shape *row);

/* distill_outputs.c */
int distill_pair_outputs(struct distiller *d, const struct distill_shapes *student,
                         const struct distill_shapes *teacher, struct err *err);
/* What is looked at in the student as it is now, and in the teacher: the output, or what its Softmax reads. */
uint32_t distill_output_value(const struct distill_output *o, const struct model *m);
uint32_t distill_teacher_value(const struct distiller *d, const struct distill_output *o);
/* Variances, probabilities: from what the teacher says of the few samples. */
void distill_look_at_outputs(struct distiller *d);
int distill_output_loss(struct distiller *d, const struct distill_output *o, const struct tensor *y,
                        struct tensor *seed, int64_t n, double scale, double *value, struct err *err);

/* distill_terms.c */
int distill_find_terms(struct distiller *d, const struct distill_shapes *student, const struct distill_shapes *teacher,
                       struct err *err);
void distill_look_at_terms(struct distiller *d);
/* Parameters of regressors for the student's widths as they are in m now; new ones are fitted to the few samples. */
int distill_fit_regressors(struct distiller *d, struct objective *o, const struct model *m, struct err *err);
int distill_term_loss(struct distiller *d, const struct objective *o, const struct distill_term *t,
                      const struct tensor *y, struct tensor *seed, int64_t n, double scale, double *value,
                      struct err *err);
extern const char *const distill_kind_names[TERM_KINDS];

#endif
