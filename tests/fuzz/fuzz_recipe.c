/* SPDX-License-Identifier: Apache-2.0
 * Any bytes as a recipe, and as the words of a step on a command line. What is refused has a sentence and, once it is
 * JSON, a fault with its place, all in valid UTF-8. What is accepted has a normal form that reads back as itself. */
#include <stdlib.h>
#include <string.h>

#include "core/recipe/json_text.h"
#include "core/recipe/recipe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(bool ok)
{
    if (!ok)
        abort();
}

static void must_be_utf8(const char *text)
{
    json_t *s = json_string(text);
    must(s != NULL);
    json_decref(s);
}

static void check_faults(const struct faults *faults)
{
    for (int i = 0; i < faults->count; i++) {
        must_be_utf8(faults->at[i].pointer);
        must_be_utf8(faults->at[i].detail);
        must(*faults->at[i].detail);
    }
}

static void check_refusal(const struct faults *faults, const struct err *err)
{
    must(err->code && *err->msg);
    must((err->code == ERR_RECIPE) == (faults->count > 0));
    must_be_utf8(err->msg);
    check_faults(faults);
}

static void check_needs(const struct recipe *recipe)
{
    static const struct recipe_given cases[] = {{.missing_ops = ""},
                                                {.data = {{true}}},
                                                {.data = {{true, true, true}}, .missing_ops = "Frobnicate x1"},
                                                {.data = {{true, true, true, 9}, {true, true, true, 3}},
                                                 .output_classes = 4,
                                                 .missing_gradients = "Frobnicate"}};
    recipe_has_family(recipe, "train");
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct faults faults = {0};
        struct err err = {0};
        int rc = recipe_check_needs(recipe, &cases[i], &faults, &err);
        must((rc == 0) == (faults.count == 0) && (rc == 0) == (err.code == ERR_NONE));
        check_faults(&faults);
        faults_fini(&faults);
    }
}

/* The normal form as text; NULL if the bytes are no recipe. */
static char *normal_form(const char *text, size_t len)
{
    struct faults faults = {0};
    struct err err = {0};
    char *out = NULL;
    struct recipe *recipe = recipe_parse_text(text, len, &faults, &err);
    if (!recipe) {
        check_refusal(&faults, &err);
    } else {
        must(!err.code && !faults.count);
        check_needs(recipe);
        json_t *json = recipe_json(recipe);
        must(json && (out = json_dumps(json, JSON_COMPACT | JSON_TEXT_DUMP)));
        json_decref(json);
    }
    recipe_free(recipe);
    faults_fini(&faults);
    return out;
}

static void check_words(const char *text)
{
    struct err err = {0};
    json_t *step = recipe_step_from_words(text, &err);
    must((step == NULL) == (err.code != ERR_NONE));
    if (step) {
        struct faults faults = {0};
        json_t *json = json_pack("{s:[o]}", "steps", step);
        struct recipe *recipe = recipe_parse(json, "/recipe", &faults, &err);
        if (!recipe)
            check_refusal(&faults, &err);
        recipe_free(recipe);
        faults_fini(&faults);
        json_decref(json);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *first = normal_form((const char *)data, size);
    if (first) {
        char *second = normal_form(first, strlen(first));
        must(second && strcmp(first, second) == 0);
        free(second);
        free(first);
    }
    char *words = strndup((const char *)data, size);
    must(words != NULL);
    check_words(words);
    free(words);
    return 0;
}
