/* SPDX-License-Identifier: Apache-2.0
 * presets.c - the recipes that ship with the binary. Each is one row; the Makefile gathers the rows' ids into
 * preset_list.inc. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/recipe/recipe.h"

#define X(id) extern const struct preset preset_##id;
#include "preset_list.inc"
#undef X

PRESET(optimize) = {
    .name = "optimize",
    .summary =
        "Same results, fewer nodes: folds BatchNormalization and constants, removes what does nothing. Needs no data.",
    .recipe = "{\"steps\": [{\"method\": \"graph.optimize\"}]}",
};

PRESET(int8) = {
    .name = "int8",
    .summary = "8-bit weights and activations, a quarter of the bytes. Calibrates on a dataset.",
    .recipe = "{\"steps\": [{\"method\": \"graph.optimize\"}, {\"method\": \"quantize.static\"}]}",
};

PRESET(int8_accurate) = {
    .name = "int8-accurate",
    .summary = "As int8, with the accuracy repaired where that measurably helps: minutes instead of seconds, no labels "
               "needed. "
               "Calibrates on a dataset.",
    .recipe =
        "{\"steps\": [{\"method\": \"graph.optimize\"}, {\"method\": \"quantize.static\", \"preset\": \"accurate\"}]}",
};

PRESET(int8_dynamic) = {
    .name = "int8-dynamic",
    .summary =
        "8-bit weights of the matrix products, activations quantized while running. Needs no data; for transformers.",
    .recipe = "{\"steps\": [{\"method\": \"graph.optimize\"}, {\"method\": \"quantize.dynamic\"}]}",
};

PRESET(fp16) = {
    .name = "fp16",
    .summary =
        "Half-precision weights and arithmetic, half the bytes. Needs no data; for runtimes that compute in float16.",
    .recipe = "{\"steps\": [{\"method\": \"graph.optimize\"}, {\"method\": \"quantize.fp16\"}]}",
};

PRESET(int4_weights) = {
    .name = "int4-weights",
    .summary =
        "4-bit weights in small blocks, activations stay in floating point. Needs no data; for large transformers.",
    .recipe = "{\"steps\": [{\"method\": \"graph.optimize\"}, {\"method\": \"quantize.weights\", \"bits\": 4}]}",
};

PRESET(prune_distill) = {
    .name = "prune-distill",
    .summary =
        "Half of the multiply-accumulates by whole channels, then trained to answer as the original does: a faster "
        "model in every runtime. Needs a dataset, no labels.",
    .recipe = "{\"steps\": [{\"method\": \"prune.channels\", \"target\": \"macs:0.5\", \"round_to\": 8, "
              "\"allocation\": \"sensitivity\", \"samples\": 512}, {\"method\": \"train.distill\", \"epochs\": 5}]}",
};

PRESET(deep_compression) = {
    .name = "deep-compression",
    .summary =
        "Deep Compression: weights pruned while training, shared by k-means, trained again and entropy-coded into "
        "model.pared. Needs a dataset with labels.",
    .recipe =
        "{\"steps\": [{\"method\": \"train.finetune\", \"epochs\": 20, \"optimizer\": \"adam\", \"lr\": 0.002, "
        "\"l1\": 0.00002, \"weight_decay\": 0, \"steps\": [{\"method\": \"prune.weights\", \"schedule\": \"surgery\", "
        "\"scope\": \"global\", \"sparsity\": 0.9}]}, "
        "{\"method\": \"encode.cluster\", \"bits\": 4}, "
        "{\"method\": \"train.finetune\", \"epochs\": 3, \"optimizer\": \"adam\", \"lr\": 0.0001, \"weight_decay\": "
        "0}, "
        "{\"method\": \"encode.container\"}]}",
};

PRESET(prune_weights) = {
    .name = "prune-weights",
    .summary = "Sets half of all weights to zero, the smallest of the whole model: same layout, compresses better. "
               "Needs no data.",
    .recipe = "{\"steps\": [{\"method\": \"graph.optimize\"}, {\"method\": \"prune.weights\", \"sparsity\": 0.5, "
              "\"scope\": \"global\"}]}",
};

PRESET(prune_channels) = {
    .name = "prune-channels",
    .summary =
        "Takes whole channels out until half of the multiply-accumulates are left: a smaller dense network, faster "
        "in every runtime. With a dataset (no labels) the loss is repaired; without, fine-tune afterwards.",
    .recipe = "{\"steps\": [{\"method\": \"prune.channels\", \"target\": \"macs:0.5\", \"round_to\": 8}, "
              "{\"method\": \"graph.optimize\"}]}",
};

static const struct preset *rows[] = {
#define X(id) &preset_##id,
#include "preset_list.inc"
#undef X
    NULL};
enum { N_ROWS = sizeof rows / sizeof rows[0] - 1 };

static int by_name(const void *a, const void *b)
{
    return strcmp((*(const struct preset *const *)a)->name, (*(const struct preset *const *)b)->name);
}

static void sort_rows(void)
{
    qsort(rows, N_ROWS, sizeof rows[0], by_name);
}

const struct preset *const *preset_all(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, sort_rows);
    return rows;
}

const struct preset *preset_find(const char *name)
{
    for (const struct preset *const *p = preset_all(); *p; p++)
        if (!strcmp((*p)->name, name))
            return *p;
    return NULL;
}

json_t *preset_json(const struct preset *preset)
{
    struct recipe *r = recipe_parse_text(preset->recipe, strlen(preset->recipe), NULL, NULL);
    if (!r)
        return NULL;
    json_t *json = json_pack("{s:s, s:s, s:o, s:o}", "name", preset->name, "summary", preset->summary, "recipe",
                             recipe_json(r), "needs", method_needs_json(recipe_needs(r)));
    recipe_free(r);
    return json;
}
