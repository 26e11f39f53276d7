/* SPDX-License-Identifier: Apache-2.0
 * recipe.h - a recipe: steps, targets and a seed, parsed and checked against the method table before anything runs.
 * Form       {"steps": [{"method": "prune.weights", "sparsity": 0.9}, ...], "targets": {"max_bytes_ratio": 0.25},
 *            "seed": 7}. steps is required and may be empty; a step may hold nested `steps`. Parameters are flat.
 * Errors     Every fault is listed with its JSON pointer (struct faults); *err then holds ERR_RECIPE and the first
 *            fault as a sentence. Text that is no JSON: ERR_BAD_JSON; too long: ERR_TOO_LARGE. Then there are no faults.
 * Life cycle recipe_parse* -> recipe_check_needs -> (pipeline) -> recipe_free. Plain data, may be read by many
 *            threads. */
#ifndef PARED_RECIPE_RECIPE_H
#define PARED_RECIPE_RECIPE_H

#include "core/recipe/catalogue.h"
#include "core/recipe/target.h"

struct recipe_step {
    const struct method *method;
    void *params;              /* method->params_size bytes, parsed; owned by the recipe */
    json_t *json;              /* parameters with all defaults filled in, without "method" and "steps" */
    char *pointer;             /* "/steps/0", with the base given to the parser before it */
    struct recipe_step *steps; /* nested in it; what may be is said by method->holds */
    int n_steps;
};

enum {
    RECIPE_STEPS_MAX = 1000, /* all levels together */
    RECIPE_DEPTH_MAX = 4     /* levels of steps */
};

struct recipe_target {
    const struct target *target;
    double wanted;
};

struct recipe {
    struct recipe_step *steps;
    int n_steps;
    struct recipe_target targets[TARGET_MAX];
    int n_targets;
    int64_t seed; /* 0 unless given */
    char *base;   /* pointer of the recipe in its document, "" or "/recipe" */
    struct arena *arena;
};

/* base: JSON pointer of the recipe in the document it came in ("" or "/recipe"): faults' pointers start with it. */
struct recipe *recipe_parse(const json_t *json, const char *base, struct faults *faults, struct err *err);
struct recipe *recipe_parse_text(const char *text, size_t len, struct faults *faults, struct err *err);
void recipe_free(struct recipe *recipe);

/* The recipe with every default filled in: what the report shows and the artifact's metadata holds. Key order is
 * fixed, so equal recipes give equal text. New reference. */
json_t *recipe_json(const struct recipe *recipe);

/* A step with all defaults, nested ones too, as recipe_json writes it. New reference. */
json_t *recipe_step_json(const struct recipe_step *step);

/* enum method_needs of all steps together, nested ones too. */
unsigned recipe_needs(const struct recipe *recipe);
/* Is any step, at any level, of this family ("train")? */
bool recipe_has_family(const struct recipe *recipe, const char *family);

/* ---- what a job brings to its recipe ---- */
enum recipe_dataset {
    RECIPE_DATASET,      /* for the steps */
    RECIPE_VAL_DATASET,  /* for decisions on the way */
    RECIPE_EVAL_DATASET, /* for the report */
    RECIPE_DATASETS
};
struct recipe_data {
    bool given;
    bool labels;  /* classes or targets */
    bool classes; /* the labels are integer classes */
    int64_t max_label; /* the highest of them; 0: not known */
};
struct recipe_given {
    struct recipe_data data[RECIPE_DATASETS];
    const char *missing_ops; /* as of missing_ops_text; NULL or "": the model runs */
    int64_t output_classes;        /* longest row of an output: as many classes as labels can name; 0: not known */
    const char *missing_gradients; /* operators between weights and outputs without a gradient; NULL or "": none */
};
/* The dataset that the report is measured on and targets are judged on: eval_dataset, else dataset, else val_dataset.
 * -1: none is given. */
int recipe_measured_on(const struct recipe_given *given);
/* Faults for steps and targets that need what is not there, and for labels beyond the model's classes (at "/dataset",
 * "/val_dataset", "/eval_dataset"). 0, or -1 with ERR_RECIPE (data) or ERR_OPERATOR (only
 * operators are missing). */
int recipe_check_needs(const struct recipe *recipe, const struct recipe_given *given, struct faults *faults,
                       struct err *err);

/* The first fault as one sentence with its place. Returns -1. */
int recipe_faults_to_err(const struct faults *faults, enum err_code code, struct err *err);

/* "prune.weights sparsity=0.9 include='conv*'" as step object: a value is JSON or, failing that, a string; single or
 * double quotes keep spaces together. New reference; NULL with ERR_USAGE. */
json_t *recipe_step_from_words(const char *text, struct err *err);

/* ---- presets: PRESET(id) = {...}; rows, gathered by the Makefile ---- */
struct preset {
    const char *name;    /* "int8-dynamic" */
    const char *summary; /* one sentence */
    const char *recipe;  /* JSON text */
};
#define PRESET(id) const struct preset preset_##id
const struct preset *const *preset_all(void); /* NULL-terminated, sorted by name */
const struct preset *preset_find(const char *name);
/* {"name", "summary", "recipe": normalised, "needs": [...]} of one preset; new reference. */
json_t *preset_json(const struct preset *preset);

#endif
