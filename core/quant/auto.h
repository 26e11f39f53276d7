/* SPDX-License-Identifier: Apache-2.0
 * auto.h - private to quantize.auto: layers with their sensitivities (auto_rank.c), and the search for the smallest set that
 * stays out of 8 bits (auto_search.c). */
#ifndef PARED_QUANT_AUTO_H
#define PARED_QUANT_AUTO_H

#include "core/quant/static.h"
#include "core/stats/reference.h"

enum { AUTO_FLOAT, AUTO_INT16 };
enum { SENSITIVITY_AUTO, SENSITIVITY_EACH, SENSITIVITY_FISHER };

struct quantize_auto_params {
    struct quantize_static_params s;
    double max_drop, budget_s;
    int64_t evaluations, validation_samples;
    int fallback, sensitivity;
};

struct auto_layer {
    uint32_t node, weight; /* ids in the prepared model */
    double sensitivity;    /* NAN: not measured */
    int64_t elements;      /* of the weight */
    bool kept;             /* of the best candidate so far */
};
struct auto_run {
    struct step_ctx *c;
    const struct quantize_auto_params *p;
    struct calibration *calibration;
    struct reference *probe;    /* on calibration samples: sensitivities */
    struct reference *judge;    /* on validation samples: decisions */
    const int64_t *probe_index; /* the samples of `probe` */
    int64_t n_probe;
    struct auto_layer *layers; /* most sensitive first, once ranked */
    int n_layers;
    bool *chosen;            /* by node id: scratch of one candidate */
    int64_t evaluations;     /* spent */
    double started;          /* clock_seconds */
    const char *measured_by; /* "one at a time", "Fisher" */
    /* The best so far. */
    double best_drop;
    int best_kept;
    int64_t best_elements;
    bool best_passes, out_of_budget;
};

/* Another run of the model may be made: neither budget is spent. */
bool auto_may_evaluate(const struct auto_run *a);
/* Quantizes a clone with the layers of `kept` (by position in a->layers) left out, runs it on `reference`. Counts. */
int auto_evaluate(struct auto_run *a, const bool *kept, struct reference *reference, struct closeness *out,
                  struct err *err);
/* What max_drop limits: see the method's text. */
double auto_drop(const struct auto_run *a, const struct closeness *c);

/* Fills a->layers in order of sensitivity. */
int auto_rank(struct auto_run *a, struct err *err);
/* Finds the best set; rows of the trials go to c->layers. */
int auto_search(struct auto_run *a, struct err *err);

#endif
