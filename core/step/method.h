/* SPDX-License-Identifier: Apache-2.0
 * method.h - what a recipe step is: one row beside its code.
 * A row      METHOD(id) = {...}; at file scope of the family's file (core/passes, core/prune, core/quant, ...). The Makefile greps
 *            "^METHOD(" into the catalogue: adding a method touches one file. Parsing, validation, `pared methods`,
 *            GET /v1/methods and the dashboard's recipe builder are derived from the rows.
 * Layer      step/ lies below the families, which include it; recipe/ (catalogue, runner) lies above them and runs the rows. */
#ifndef PARED_STEP_METHOD_H
#define PARED_STEP_METHOD_H

#include <jansson.h>

#include "core/base/rng.h"
#include "core/data/dataset.h"
#include "core/engine/engine.h"
#include "core/model/model.h"
#include "core/step/layer_report.h"

enum param_kind {
    PARAM_INT,
    PARAM_NUMBER,
    PARAM_BOOL,
    PARAM_STRING,
    PARAM_ENUM,
    PARAM_GLOBS,
    PARAM_JSON,
    PARAM_NUMBERS
};

struct globs {
    const char **at; /* fnmatch patterns over node names */
    int count;
};
struct numbers {
    const double *at;
    int count;
};

/* One parameter. Field type by kind: PARAM_INT int64_t, PARAM_NUMBER double, PARAM_BOOL bool, PARAM_STRING const char *,
 * PARAM_ENUM int (index into choices; PARAM_INT may have choices too: names beside the numbers, name i is PARAM_NAMED(i)), PARAM_GLOBS struct globs, PARAM_JSON const json_t * (an object, borrowed from the recipe; what is
 * in it the row's `check` looks at), PARAM_NUMBERS struct numbers (bounds hold for each). A parameter not given and without default keeps its zero; `given`
 * (optional: offset of a bool + 1) says so. A table ends with name NULL. */
struct param {
    const char *name, *doc;
    enum param_kind kind;
    size_t offset;
    const char *def;            /* default as JSON text: "0.5", "true", "\"layer\""; NULL: none */
    double min, max;            /* numbers, inclusive; min == max: unbounded */
    bool above_min, below_max;  /* bounds are exclusive */
    const char *const *choices; /* PARAM_ENUM, PARAM_INT: NULL-terminated */
    size_t given;
    bool required;
};
#define PARAM_NAMED(i)                                                                                                 \
    (-1 - (int64_t)(i)) /* the value of choices[i] of a PARAM_INT, whose numbers are then not negative */
#define PARAM(struct_type, field) .name = #field, .offset = offsetof(struct struct_type, field)
#define PARAM_GIVEN(struct_type, field) (offsetof(struct struct_type, field) + 1)

enum method_needs {
    NEEDS_NOTHING = 0,
    NEEDS_DATA = 1,
    NEEDS_LABELS = 2,
    NEEDS_RUN = 4,      /* the engine must be able to run the model */
    NEEDS_GRADIENTS = 8 /* every operator between weights and outputs has a gradient */
};

/* What other steps a step may hold. */
enum method_holds {
    HOLDS_NOTHING,
    HOLDS_SCHEDULED, /* steps of methods with `scheduled`: run again and again while it trains, with a rising ramp */
    HOLDS_STEPS      /* any steps, run in order, as often as the step likes */
};

/* A file made of the finished model, beside model.onnx. */
struct artifact {
    const char *name, *media_type; /* "model.pared"; static strings */
    /* Makes the file `to` of the model file (its external data lie beside it) and proves it: reads it back and compares. *facts
     * (may stay NULL): an object for the report, new reference. */
    int (*make)(const struct artifact *a, const char *model_path, const char *to, struct pool *pool, json_t **facts,
                struct err *err);
    const void *params; /* the step's; borrowed from the recipe */
};

/* What a step works with. */
struct step_ctx {
    struct model *model;        /* changed in place */
    const struct model *source; /* as it came into the recipe, with the same ids; weights are shared */
    const void *params;         /* the row's params_size bytes, parsed */
    struct dataset *data;       /* bound to the model; NULL without data */
    struct dataset
        *val_data; /* for decisions (early stop, max_drop, search); bind it before use. NULL: none was given, then hold
                               * samples of `data` back (design 4) */
    struct pool *pool;
    uint64_t seed;
    struct rng *rng;
    struct layer_report *layers; /* add a row for every layer touched or left alone */
    struct warnings *warnings;
    json_t *
        targets; /* array: a step with a limit of its own adds {"target", "wanted", "got", "met"}, which count with the recipe's
                      * targets; NULL: nobody asks */
    const struct model
        *teacher; /* the model given as teacher, else `source`. Its ids are those of source only if it is source */
    /* ---- steps that hold steps ---- */
    int n_steps; /* nested in this one */
    /* Runs nested step i on c->model, with rows, warnings and rng of its own; `ramp` is its ctx's. Ids stay, weights may have other
     * bytes and shapes. c->model is valid afterwards. */
    int (*run_step)(struct step_ctx *c, int i, double ramp, struct err *err);
    double ramp; /* nested in a training step: how far its schedule is, in (0, 1]; elsewhere 1 */
    bool
        in_training; /* nested in a training step: weights without a mask are the trainer's latent ones, see note "splice" */
    /* ---- long steps ---- */
    const char *
        checkpoint; /* the step may keep its state in this file (replaced by rename): it is there again when the job is tried
                             * again, with the same model, recipe, data and version. NULL: nowhere to keep it */
    /* A measurement on the way ({"epoch": 3, "loss": 0.12, ...}), for whoever watches; borrowed. May be NULL. */
    void (*metric)(struct step_ctx *c, const json_t *object);
    json_t *details; /* object: what the report says of the step beside its rows; the step adds keys */
    /* Another file to be made of the result; copied. NULL: nobody wants files. */
    int (*add_artifact)(struct step_ctx *c, const struct artifact *artifact, struct err *err);
    /* Progress within this step; -1 when the job was canceled (err set): stop at once. May be called from the step's thread only. */
    int (*progress)(struct step_ctx *c, const char *stage, int64_t done, int64_t total, struct err *err);
    void *host;
};

struct method {
    const char *name; /* "prune.weights" */
    const char *summary, *doc;
    const struct param *params;
    size_t params_size;
    unsigned needs; /* of any parameters */
    /* What these parameters need besides (a criterion that reads gradients needs data). NULL: nothing. */
    unsigned (*needs_of)(const void *params);
    /* Checks that concern several parameters; adds faults with pointers below `pointer`. NULL: none. */
    void (*check)(const void *params, const char *pointer, struct faults *faults);
    int (*run)(struct step_ctx *c, struct err *err);
    enum method_holds holds;
    bool scheduled; /* may be nested in a training step: run with a rising ramp, it goes on from where it was */
};
#define METHOD(id) const struct method method_##id

/* All that a step needs. params NULL: whatever they are. */
static inline unsigned method_needs(const struct method *method, const void *params)
{
    return method->needs | (method->needs_of && params ? method->needs_of(params) : 0);
}

/* The defaults of a table of parameters into zeroed params. ERR_INTERNAL: a default does not parse. */
int params_default(const struct param *rows, void *params, struct err *err);

/* True if a node's name matches include (empty: all) and no exclude. */
bool globs_select(const struct globs *include, const struct globs *exclude, const char *name);

#endif
