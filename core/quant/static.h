/* SPDX-License-Identifier: Apache-2.0
 * static.h - the stages of quantize.static, for the methods of this family that go through them more than once (quantize.auto tries
 * many choices on one calibration; preset=accurate repairs between them).
 * Order      static_prepare (changes the model: BatchNormalization folded, opset raised) -> static_calibrate (runs it, changes
 *            nothing) -> static_quantize on the model or on clones of it (model_clone keeps the ids).
 * Errors     as of sampling_run; ERR_MODEL names node and weight. Threads: one caller. */
#ifndef PARED_QUANT_STATIC_H
#define PARED_QUANT_STATIC_H

#include "core/quant/isa_arithmetic.h"
#include "core/stats/calibrate.h"
#include "core/step/method.h"

enum { FORMAT_QDQ, FORMAT_QOPERATOR };
enum { PRESET_DEFAULT, PRESET_ACCURATE };

struct quantize_static_params {
    int64_t samples;
    struct globs include, exclude;
    bool per_channel, symmetric;
    double percentile;
    bool activations_given;   /* false: what suits isa */
    int activations, weights; /* indices into override_activations, override_weights (overrides.h) */
    int isa;
    bool symmetric_weights;  /* false: one zero point for a weight with one scale */
    const json_t *overrides; /* overrides.h; NULL: none */
    const int64_t *index;    /* samples to calibrate on, n_index of them; NULL: any of the dataset */
    int64_t n_index;
    int format;     /* FORMAT_* */
    int preset;     /* PRESET_* */
    int calibrator; /* enum calibrator */
};

/* What is decided outside of the parameters. May be all zero. */
struct static_choice {
    const bool *keep_float; /* by node id of the prepared model: stays in float; NULL: none */
    const bool *wide;       /* likewise: weight and activations in 16 bits; NULL: none */
};

/* Folds and raises the opset; clears o->per_channel, with a warning, where the opset cannot be raised. */
int static_prepare(struct step_ctx *c, struct quantize_static_params *o, struct err *err);
/* Runs o->samples samples of c->data through c->model. NULL on error; freed by calibration_free. */
struct calibration *static_calibrate(struct step_ctx *c, const struct quantize_static_params *o, struct err *err);
/* layer[m->n_nodes]: true for the products that static_quantize would quantize. */
int static_layers(struct model *m, const struct calibration *calibration, const struct quantize_static_params *o,
                  bool *layer, struct err *err);
/* Quantizes m, which is c->model as calibrated or a clone of it. Rows and warnings go to `layers` and `warnings`. */
int static_quantize(struct model *m, const struct calibration *calibration, const struct quantize_static_params *o,
                    const struct static_choice *choice, struct layer_report *layers, struct warnings *warnings,
                    struct err *err);

/* Choices of the parameters, for the methods that have them too. */
extern const char *const static_activations[], *const static_weights[], *const static_calibrators[],
                                                                            *const static_formats[];

#endif
