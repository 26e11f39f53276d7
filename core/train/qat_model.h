/* SPDX-License-Identifier: Apache-2.0
 * qat_model.h - private to train.qat: a quantized model and its twin that can be trained.
 * Twin       a clone, so all ids are the same in both. QuantizeLinear and DequantizeLinear around an activation
 *            become one FakeQuantize (core/ops/FakeQuantize.c); a weight's codes behind DequantizeLinear become float
 *            latent values behind a FakeQuantize; int32 codes of a bias become the float bias. What is added has ids
 *            behind the model's.
 * Latents    are the weight's floats from before quantization (note "latent"), held within the half step around each
 *            code, so that the twin starts as exactly the model that came; else the codes' values.
 * Scales     a scale initializer is one group however many nodes read it, so shared scales stay shared. A group
 *            learns one ratio for each of its numbers, from 1.
 * Back       qat_store: codes, scales and biases into the quantized model, whose graph was never changed. */
#ifndef PARED_TRAIN_QAT_MODEL_H
#define PARED_TRAIN_QAT_MODEL_H

#include "core/engine/grad.h"
#include "core/step/method.h"

struct qat_group {
    uint32_t scale; /* initializer of the model */
    uint32_t ratio; /* of the twin; VALUE_NONE: not learned */
    int64_t count;
    bool weights; /* of a weight, else of activations */
    bool wanted;  /* selected for learning */
};
struct qat_pair { /* around an activation */
    uint32_t quantize, dequantize;
    int group;
};
struct qat_weight {
    uint32_t dequantize, codes, latent, zero; /* zero: VALUE_NONE for none */
    uint32_t product;                         /* that reads it; NODE_NONE: another operator */
    int group;
    int64_t low, high, axis, block;
    bool pairs;   /* |code| of neighbours in the order of summation add up to 128 at most, if they have one sign */
    int out_axis; /* of output channels, for pairs */
};
struct qat_bias {
    uint32_t dequantize, codes, latent, product;
    int input, weight; /* groups; -1: its scale stays */
};
struct qat_model {
    struct model *m, *twin;
    struct qat_group *group;
    struct qat_pair *pair;
    struct qat_weight *weight;
    struct qat_bias *bias;
    int n_groups, n_pairs, n_weights, n_biases;
};

/* The twin of m. ERR_MODEL: m has nothing to train so, or is quantized in a form without simulation; says what to do.
 * */
int qat_model_make(struct qat_model *q, struct model *m, bool learn_scales, const struct globs *include,
                   const struct globs *exclude, struct err *err);
void qat_model_free(struct qat_model *q);
/* Place of the scale of element i of a weight of shape s. */
int64_t qat_scale_at(const struct qat_weight *w, const struct shape *s, int64_t scales, int64_t i);
/* The scale of element i of a group as the twin has it now. */
float qat_scale(const struct qat_model *q, int group, int64_t i);

/* ---- qat_store.c ---- */
/* What was trained in the twin, into the model. Rows for the weights, warnings for biases that do not fit int32. */
int qat_store(struct qat_model *q, struct layer_report *layers, struct warnings *warnings, struct err *err);

/* ---- qat_pairs.c ---- */
/* Were the codes of this weight made, or do they happen to be, so that no sum of a pair can overflow? */
bool qat_pairs_hold(const struct tensor *codes, int out_axis);
/* Moves latents the least so that they hold. scale: [scales of out_axis, or 1]. */
void qat_pairs_keep(struct tensor *latent, int out_axis, const float *scale, int64_t scales);

#endif
