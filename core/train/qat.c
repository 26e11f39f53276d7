/* SPDX-License-Identifier: Apache-2.0
 * qat.c - train.qat: training that sees the rounding. The quantized model of an earlier step gets a twin in floats
 * whose weights and activations go through FakeQuantize (qat_model.h); the twin is trained like any model
 * (trainer.h), gradients passing straight through the rounding; then its codes, scales and biases are written back.
 * Scales     learned step sizes (Esser et al., "Learned Step Size Quantization", ICLR 2020): the gradient of a scale
 *            is that of every rounding it does, times 1 / sqrt(n max|code|). Each is learned as a ratio to where it
 *            started, so that it stays positive and suits every optimizer. Zero points stay: zero must stay a code,
 *            and after a Relu it is the lowest.
 * Start      from the ranges and codes that came. 4-bit weights come with the scale of the least squared error, so
 *            there is no search here.
 * Rejected   training on the model itself with the pairs in it: rounding has no gradient, and engines fold constants
 *            through it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/train/distill.h"
#include "core/train/optimizer.h"
#include "core/train/qat_model.h"

#define DEFAULT_SGD 0.0005
#define DEFAULT_ADAM 0.0002
#define RATIO_MOST 16.0f /* a scale moves no further than this from where it started */

struct qat_params {
    struct train_params train;
    struct distill_params distill;
    bool use_teacher, learn_scales;
    double scale_lr, freeze_after;
};

static const struct param params[] = {
    TRAIN_PARAM_ROWS_OF(qat_params, "\"adam\"", "0.0002 for adam and adamw, 0.0005 for sgd if not given", "0"),
    DISTILL_PARAM_ROWS(qat_params),
    {.name = "distill",
     .offset = offsetof(struct qat_params, use_teacher),
     .kind = PARAM_BOOL,
     .def = "true",
     .doc = "learn from the teacher (the model as it came into the recipe, or the one given) as train.distill does; "
            "false: from labels alone"},
    {PARAM(qat_params, learn_scales), .kind = PARAM_BOOL, .def = "true",
     .doc = "scales of weights and activations are learned too; false: they stay as calibrated"},
    {PARAM(qat_params, scale_lr), .kind = PARAM_NUMBER, .def = "1", .min = 0, .max = 1000, .above_min = true,
     .doc = "times the gradient of scales, for optimizer=sgd"},
    {PARAM(qat_params, freeze_after), .kind = PARAM_NUMBER, .def = "1", .min = 0, .max = 1,
     .doc = "share of the epochs after which scales stay as they are"},
    {0},
};

/* What the hooks of the trainer work on. */
struct qat_run {
    struct qat_model model;
    const struct qat_params *p;
    struct train_hooks hooks;
    int64_t first_frozen; /* epoch */
    float **frozen;       /* [groups] ratios when they were frozen; NULL */
};

static int group_with(const struct qat_model *q, uint32_t ratio)
{
    for (int i = 0; i < q->n_groups; i++)
        if (q->group[i].ratio == ratio)
            return i;
    return -1;
}

static double gradient_scale(struct train_hooks *h, uint32_t value)
{
    const struct qat_run *r = h->self;
    return group_with(&r->model, value) >= 0 ? r->p->scale_lr : 1;
}

static bool is_parameter(struct train_hooks *h, uint32_t value, bool otherwise)
{
    const struct qat_run *r = h->self;
    return otherwise || group_with(&r->model, value) >= 0;
}

/* ---- after an update ---- */
/* The value while it is trained; NULL: it is no parameter. */
static struct tensor *trained(struct grad *g, uint32_t value)
{
    const int i = value == VALUE_NONE ? -1 : grad_param_find(g, value);
    return i < 0 ? NULL : grad_param_value(g, i);
}

static int begin_epoch(struct train_hooks *h, struct grad *g, int64_t epoch, struct err *err)
{
    struct qat_run *r = h->self;
    for (int i = 0; epoch >= r->first_frozen && i < r->model.n_groups; i++) {
        const struct tensor *t = trained(g, r->model.group[i].ratio);
        if (!t || r->frozen[i])
            continue;
        r->frozen[i] = malloc(t->bytes);
        if (!r->frozen[i])
            return err_set(err, ERR_NOMEM, "out of memory while training");
        memcpy(r->frozen[i], t->data, t->bytes);
    }
    return 0;
}

static void hold_ratio(struct tensor *t, const float *frozen)
{
    float *r = tensor_f32(t);
    if (frozen)
        memcpy(r, frozen, t->bytes);
    for (int64_t i = 0; i < tensor_count(t); i++)
        r[i] = r[i] < 1 / RATIO_MOST ? 1 / RATIO_MOST : r[i] > RATIO_MOST ? RATIO_MOST : r[i];
}

static int hold_pairs(const struct qat_run *r, struct grad *g, const struct qat_weight *w, struct err *err)
{
    const struct qat_group *group = &r->model.group[w->group];
    struct tensor *latent = trained(g, w->latent);
    const struct tensor *ratio = trained(g, group->ratio);
    const float *base = tensor_f32(value_const(r->model.m, group->scale));
    float *scale = latent ? malloc((size_t)group->count * sizeof *scale) : NULL;
    if (!latent)
        return 0;
    if (!scale)
        return err_set(err, ERR_NOMEM, "out of memory while training");
    for (int64_t i = 0; i < group->count; i++)
        scale[i] = base[i] * (ratio ? tensor_f32(ratio)[i] : 1);
    qat_pairs_keep(latent, w->out_axis, scale, group->count);
    free(scale);
    return 0;
}

static int updated(struct train_hooks *h, struct grad *g, int64_t epoch, struct err *err)
{
    const struct qat_run *r = h->self;
    const struct qat_model *q = &r->model;
    (void)epoch;
    for (int i = 0; i < q->n_groups; i++) {
        struct tensor *t = trained(g, q->group[i].ratio);
        if (t)
            hold_ratio(t, r->frozen[i]);
    }
    for (int i = 0; i < q->n_weights; i++)
        if (q->weight[i].pairs && hold_pairs(r, g, &q->weight[i], err))
            return -1;
    return 0;
}

/* ---- the step ---- */
static void report(struct step_ctx *c, const struct qat_model *q, const struct qat_params *p)
{
    int64_t learned = 0;
    for (int i = 0; i < q->n_groups; i++)
        learned += q->group[i].ratio == VALUE_NONE ? 0 : q->group[i].count;
    if (c->details)
        json_object_set_new(c->details, "qat",
                            json_pack("{s:i,s:i,s:i,s:I,s:b}", "weights", q->n_weights, "activations", q->n_pairs,
                                      "biases", q->n_biases, "learned_scales", (json_int_t)learned, "distilled",
                                      p->use_teacher));
}

static int train(struct step_ctx *c, const struct qat_params *p, struct qat_run *r, struct err *err)
{
    struct step_ctx inner = *c;
    struct objective o = {0};
    inner.model = r->model.twin;
    int rc = p->use_teacher ? distill_objective_new(&o, &p->distill, &p->train, &inner, err)
                            : objective_labels_new(&o, &p->train, &inner, err);
    if (rc == 0)
        rc = train_run(&inner, &p->train, &o, &r->hooks, err);
    if (rc == 0 && p->use_teacher && c->details)
        distill_objective_report(&o, c->details);
    if (p->use_teacher)
        distill_objective_free(&o);
    else
        objective_labels_free(&o);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct qat_params p = *(const struct qat_params *)c->params;
    struct qat_run r = {.p = &p};
    int rc = -1;
    if (!p.train.lr_given) {
        p.train.lr = p.train.optimizer == OPTIMIZER_SGD ? DEFAULT_SGD : DEFAULT_ADAM;
        p.train.lr_given = true;
    }
    if (qat_model_make(&r.model, c->model, p.learn_scales, &p.train.include, &p.train.exclude, err))
        return -1;
    r.hooks = (struct train_hooks){.self = &r,
                                   .begin_epoch = begin_epoch,
                                   .updated = updated,
                                   .gradient_scale = gradient_scale,
                                   .is_parameter = is_parameter};
    r.first_frozen = (int64_t)ceil(p.freeze_after * (double)p.train.epochs);
    r.frozen = calloc((size_t)r.model.n_groups + 1, sizeof *r.frozen);
    if (!r.frozen)
        err_set(err, ERR_NOMEM, "out of memory while training");
    else if (train(c, &p, &r, err) == 0 && qat_store(&r.model, c->layers, c->warnings, err) == 0) {
        report(c, &r.model, &p);
        rc = 0;
    }
    for (int i = 0; r.frozen && i < r.model.n_groups; i++)
        free(r.frozen[i]);
    free(r.frozen);
    qat_model_free(&r.model);
    return rc;
}

static void check(const void *parsed, const char *pointer, struct faults *faults)
{
    const struct qat_params *p = parsed;
    char at[1024];
    train_params_check(&p->train, pointer, faults);
    if (p->use_teacher)
        distill_params_check(&p->distill, pointer, faults);
    snprintf(at, sizeof at, "%.900s/batch_norm", pointer);
    if (p->train.batch_norm == BATCH_NORM_INSERT)
        faults_add(faults, at,
                   "quantize.static folded BatchNormalization into the weights, as integer inference has it: train.qat "
                   "trains them so");
}

static unsigned needs_of(const void *parsed)
{
    const struct qat_params *p = parsed;
    return p->use_teacher ? distill_params_needs(&p->distill) : NEEDS_LABELS;
}

METHOD(train_qat) = {
    .name = "train.qat",
    .summary = "quantization-aware training of a model that quantize.static made",
    .doc =
        "Takes the QuantizeLinear / DequantizeLinear form of an earlier step and trains it with its rounding "
        "simulated: gradients pass straight through, scales of weights and activations are learned with them (LSQ), "
        "zero points stay, and the same form comes out with other codes, scales and biases. Lifts 4-bit weights to "
        "about the accuracy of floats. By default it learns from the model as it came into the recipe, with labels if "
        "there are some. BatchNormalization was folded by quantize.static, as integer inference has it. Networks "
        "without BatchNormalization need small steps: adam with 0.0002 unless told otherwise. Masks of pruned weights "
        "stay; int8 weights that were made to be exact on every CPU stay so.",
    .params = params,
    .params_size = sizeof(struct qat_params),
    .needs = NEEDS_DATA | NEEDS_RUN,
    .needs_of = needs_of,
    .check = check,
    .run = run,
};
