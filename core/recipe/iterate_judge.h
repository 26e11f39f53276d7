/* SPDX-License-Identifier: Apache-2.0
 * iterate_judge.h - private to iterate: the figures of a model on the way, against those of the recipe's source, and
 * wishes that are judged by them.
 * Data       validation data: the val_dataset, else a tenth of the dataset (split.h, the one that training holds back
 *            too). The eval_dataset is never looked at.
 * Wishes     rows of target.h, so a wish means what the target of that name means; only latency cannot be wished for.
 *            Bytes are those of the model written as ONNX, all files.
 * Threads    one caller. Errors: as of evaluate.h and onnx_write.h. */
#ifndef PARED_RECIPE_ITERATE_JUDGE_H
#define PARED_RECIPE_ITERATE_JUDGE_H

#include "core/recipe/target.h"
#include "core/step/method.h"

struct wish {
    const struct target *target;
    double wanted;
};
struct wishes {
    struct wish at[TARGET_MAX];
    int n;
};
/* True: it says how good the model is. False: how large. */
bool wish_is_quality(const struct target *target);
/* Reads an `until`; faults (may be NULL) get what is wrong with it, with pointers below `pointer`. */
void wishes_read(const json_t *until, const char *pointer, struct wishes *out, struct faults *faults);

struct judge; /* opaque */
/* c and wishes are borrowed until judge_free. ERR_DATASET: the validation data cannot tell what is wished for. */
struct judge *judge_new(struct step_ctx *c, const struct wishes *wishes, struct err *err);
void judge_free(struct judge *j);
/* What a model is worth. */
struct verdict {
    json_t *figures; /* {"before", "after", "ratio", "fidelity"?} as in a report; owned */
    bool good;       /* all wishes for quality hold */
    bool small;      /* there are wishes for size, and all hold */
    double lack;     /* how much the quality falls short, over all wishes; 0: good */
    double size;     /* the worst of size / wished size; without such wishes the ratio of bytes under zstd */
};
int judge_model(struct judge *j, const struct model *m, struct verdict *v, struct err *err);
void verdict_fini(struct verdict *v);
/* [{"target", "wanted", "got", "met"}]; new reference. */
json_t *verdict_wishes(const struct verdict *v, const struct wishes *wishes);
/* True if a is the one to keep. */
bool verdict_better(const struct verdict *a, const struct verdict *b);

#endif
