/* SPDX-License-Identifier: Apache-2.0
 * factor.h - private to core/factor: one product with a constant weight becomes several smaller ones in a row.
 * Layer      a Conv, Gemm or MatMul of the main graph. Its weight is W [groups][out][in][taps] in double, taps the
 *            positions under the kernel (1 for matrices), in and out the channels of one group; patch: a column of in *
 *            taps numbers.
 * Stages     what it becomes: convolutions (matrix products) one after the other, linear, no bias but the layer's own
 *            at the end. Each spatial axis' window (kernel, stride, pads, dilation) belongs to one stage; zeros that
 *            pad the input of a stage are what zeros at the layer's input make of it, so the stages together are
 *            exactly one convolution whose weight is their composition (stages_compose).
 * Scheme     a way to cut a layer into stages: svd, spatial_svd, tucker, cp, depthwise_separable. One row each.
 * Points     ranks a layer can have, with what they cost and how much of the layer's output goes wrong.
 * Error      sum of squares of (W - W_r) L over that of W L; C = L L^T are second moments of what the layer reads
 *            (linear.h), or the identity without data. So it is noise over signal at the layer's output. */
#ifndef PARED_FACTOR_FACTOR_H
#define PARED_FACTOR_FACTOR_H

#include "core/passes/edit.h"
#include "core/step/method.h"

enum layer_kind { LAYER_CONV, LAYER_GEMM, LAYER_MATMUL_RIGHT, LAYER_MATMUL_LEFT };

/* Ranks that cost less than the layer. What a scheme does not use is 0. */
struct point {
    int64_t rank[2];
    int64_t params, macs; /* macs: of one sample */
    double error;
};

struct layer {
    uint32_t node, weight; /* weight: the value that holds the bytes */
    int slot;
    enum layer_kind kind;
    enum dtype dtype; /* as the node sees it */
    int64_t groups, out, in, taps;
    int spatial;                                                                       /* axes; 0: a matrix */
    int64_t kernel[SHAPE_MAX_RANK], in_size[SHAPE_MAX_RANK], out_size[SHAPE_MAX_RANK]; /* sizes: of one sample */
    int64_t vectors; /* matrices: how many are multiplied for one sample */
    int64_t params, macs;
    bool sizes_known;
    const char *why; /* it is left alone; NULL. A static string */

    const char *plain; /* second moments were wanted, but there are none, and why */
    bool whitened;
    bool whole;        /* decomposed to the last rank, also where that saves nothing */
    void *prep;        /* the scheme's */
    struct pool *pool; /* for products; may be NULL */
    struct point *at;
    int n_points, cap_points;
    int chosen;        /* -1: it stays */
    double importance; /* of its error for the model's outputs */
    double measured;   /* what the outputs lost at a trial; NAN: not tried */
    const char *refit; /* how the last stage was fitted, or why not; NULL: nobody asked */
};

/* A convolution (matrix product). Each of the layer's groups has `split` groups of its own. */
struct stage {
    const char *suffix; /* of names */
    int64_t out, in;    /* channels of a layer's group */
    int64_t split;
    unsigned axes; /* bit a: the window of spatial axis a is here */
    double *w;     /* [groups][out][in / split][taps of these axes] */
};
enum { MOST_STAGES = SHAPE_MAX_RANK + 2 };

/* Second moments of a layer's patches: c [groups][in * taps][in * taps], NULL: the identity. */
struct moments {
    const double *c;
    int64_t rows;
};

struct scheme {
    const char *name;              /* "svd" */
    const char *const *rank_names; /* of the ranks in the report, NULL-terminated */
    /* Why it is not for a layer; NULL: it is. A static string. */
    const char *(*refuse)(const struct layer *l);
    /* The stages for these ranks, without weights. Returns how many. */
    int (*shape)(const struct layer *l, const int64_t rank[2], struct stage *stage);
    /* l->prep and the points, from the weight w. */
    int (*prepare)(struct layer *l, const double *w, const struct moments *x, int64_t round_to, struct err *err);
    /* The weights of the stages of shape(). */
    int (*make)(const struct layer *l, const double *w, const int64_t rank[2], struct stage *stage, struct err *err);
    /* The ranks of variational Bayes. NULL: it has none. */
    int (*vbmf)(const struct layer *l, const double *w, int64_t rank[2], struct err *err);
    void (*release)(void *prep);
};
extern const struct scheme scheme_svd, scheme_spatial_svd, scheme_tucker, scheme_cp, scheme_depthwise;

/* ---- layers (factor_layers.c) ---- */
struct layers {
    struct layer *at; /* all products of the model, those of the main graph in topological order */
    int n;
    int64_t macs; /* of the whole model; -1: not known */
    const struct scheme *scheme;
};
struct layers_opts {
    const struct scheme *scheme;
    const struct globs *include, *exclude;
    struct pool *pool;
};
int layers_find(struct layers *x, struct model *m, const struct layers_opts *o, struct err *err);
void layers_free(struct layers *x);
/* W; NULL with err. */
double *layer_weight(const struct model *m, const struct layer *l, struct err *err);
/* Taps of the axes in a set. */
int64_t layer_taps(const struct layer *l, unsigned axes);
static inline unsigned layer_axes(const struct layer *l)
{
    return (1u << l->spatial) - 1;
}
/* Cost of stages. */
void stages_cost(const struct layer *l, const struct stage *stage, int n, int64_t *params, int64_t *macs);
/* A point, if it costs less than the layer. */
int layer_add_point(struct layer *l, const struct scheme *s, const int64_t rank[2], double error, struct err *err);

/* ---- stages (factor_stages.c) ---- */
int stages_alloc(const struct layer *l, struct stage *stage, int n, struct err *err);
void stages_fini(struct stage *stage, int n);
/* The weight that n stages are together: [groups][out of the last][in][taps of their axes]. NULL with err. */
double *stages_compose(const struct layer *l, const struct stage *stage, int n, struct err *err);
/* What the last stage reads, as functions of the patch: [groups][features][in * taps], features = its in * its taps.
 * NULL with err. */
double *stages_features(const struct layer *l, const struct stage *stage, int n, struct err *err);
/* Each channel between two stages gets the scale at which both sides are equally large. */
void stages_balance(const struct layer *l, struct stage *stage, int n);
/* Sum of squares of w - composed over that of w. NAN with err. */
double stages_error(const struct layer *l, const struct stage *stage, int n, const double *w, struct err *err);

/* ---- into the model (factor_build.c) ---- */
/* The stages take the layer's place; it keeps its node, name, output and bias as the last of them. shift (NULL: none):
 * [groups * out] to add to what it makes. */
int stages_build(struct edit *e, const struct layer *l, const struct stage *stage, int n, const double *shift,
                 struct err *err);
/* True if something can be added to each channel of what it makes, without another node. */
bool layer_takes_shift(const struct model *m, const struct layer *l);

/* ---- ranks (factor_rank.c) ---- */
enum rank_by { RANK_FIXED, RANK_RATIO, RANK_ENERGY, RANK_VBMF, RANK_TARGET };
struct rank_rule {
    enum rank_by by;
    int64_t rank;
    double amount;      /* of ratio, energy; the fraction of the target */
    const char *figure; /* of the target: macs, params, bytes */
};
/* "macs:0.5"; false: it says something else. */
bool rank_target_parse(const char *text, struct rank_rule *rule);
/* A layer by itself: chosen or why. */
int rank_choose(struct layer *l, const struct scheme *s, const struct rank_rule *rule, const double *w,
                struct err *err);
/* All layers for a target: sum of importance * error is made small. *got: the fraction reached. */
int rank_allocate(struct layers *x, const struct model *m, const struct rank_rule *rule, double *got, struct err *err);

/* ---- the last stage, fitted to samples (factor_fit.c) ---- */
struct pair_moments;
/* The last stage's weight becomes the one that brings the stages, on what the layer reads in the changed network,
 * nearest to W on what it reads in the original. shift [groups * out]: what is to be added (zeros unless `centred`). */
int stages_fit(const struct layer *l, const double *w, struct stage *stage, int n, const struct pair_moments *x,
               bool centred, double *shift, struct err *err);

/* ---- the step (factor_run.c) ---- */
struct factor_params {
    int64_t rank, round_to, samples, terms;
    double ratio, energy;
    bool has_rank, has_ratio, has_energy, has_terms, vbmf, whiten, has_whiten;
    int recover, sensitivity;
    const char *target;
    struct globs include, exclude;
};
int factor_run(struct step_ctx *c, const struct scheme *s, struct err *err);
void factor_check(const void *params, const char *pointer, struct faults *faults);
unsigned factor_needs(const void *params);
extern const char *const factor_recovers[], *const factor_sensitivities[];

#define FACTOR_P(f) PARAM(factor_params, f)
/* Rows that all methods have. */
#define FACTOR_ROWS                                                                                                    \
    {FACTOR_P(ratio),                                                                                                  \
     .kind = PARAM_NUMBER,                                                                                             \
     .min = 0,                                                                                                         \
     .max = 1,                                                                                                         \
     .above_min = true,                                                                                                \
     .given = PARAM_GIVEN(factor_params, has_ratio),                                                                   \
     .doc = "most of each layer's multiply-accumulates that may stay, as a fraction; the best ranks within it"},       \
        {FACTOR_P(energy),                                                                                             \
         .kind = PARAM_NUMBER,                                                                                         \
         .min = 0,                                                                                                     \
         .max = 1,                                                                                                     \
         .above_min = true,                                                                                            \
         .below_max = true,                                                                                            \
         .given = PARAM_GIVEN(factor_params, has_energy),                                                              \
         .doc = "share of each layer's energy (squares of its weight, or of its output where samples are known) that " \
                "must stay; the cheapest ranks that keep it. 0.95 if nothing else says the ranks"},                    \
        {FACTOR_P(target), .kind = PARAM_STRING,                                                                       \
         .doc = "the fraction of a figure of the whole model that may stay: \"macs:0.5\", \"params:0.5\", "            \
                "\"bytes:0.5\" (of all weights). Ranks are then spread over the layers so that the outputs suffer "    \
                "least"},                                                                                              \
        {FACTOR_P(sensitivity), .kind = PARAM_ENUM, .choices = factor_sensitivities, .def = "\"equal\"",               \
         .doc = "with target, how much a layer's relative error counts: equal (all alike), measured (each layer is "   \
                "factorized by itself and the outputs compared on samples; between half and twice the middle one)"},   \
        {FACTOR_P(whiten), .kind = PARAM_BOOL, .given = PARAM_GIVEN(factor_params, has_whiten),                        \
         .doc = "factorize for the layer's output on samples, not for its weight; by itself where there is data"},     \
        {FACTOR_P(recover), .kind = PARAM_ENUM, .choices = factor_recovers, .def = "\"auto\"",                         \
         .doc = "auto: where there is data, the last factor and the bias of each layer are fitted to the original "    \
                "network's outputs by least squares, one layer after another; none: nothing is fitted"},               \
        {FACTOR_P(samples),                                                                                            \
         .kind = PARAM_INT,                                                                                            \
         .def = "256",                                                                                                 \
         .min = 1,                                                                                                     \
         .max = 1000000,                                                                                               \
         .doc = "samples of the dataset for whiten, sensitivity (a quarter of them) and recover, spread evenly"},      \
        {FACTOR_P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},        \
    {                                                                                                                  \
        FACTOR_P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"             \
    }
#define FACTOR_ROUND                                                                                                   \
    {                                                                                                                  \
        FACTOR_P(round_to), .kind = PARAM_INT, .def = "1", .min = 1, .max = 1024, .doc = "ranks are multiples of this" \
    }

#endif
