/* SPDX-License-Identifier: Apache-2.0
 * core/recipe/presets.c: every preset that ships is a valid recipe of methods that exist, and says what it needs. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <string.h>

#include "core/recipe/recipe.h"

static void every_preset_is_a_recipe(void **state)
{
    (void)state;
    const char *last = "";
    int n = 0;
    for (const struct preset *const *at = preset_all(); *at; at++, n++) {
        struct faults faults = {0};
        struct err err = {0};
        struct recipe *r = recipe_parse_text((*at)->recipe, strlen((*at)->recipe), &faults, &err);
        if (!r)
            print_message("%s: %s\n", (*at)->name, err.msg);
        assert_non_null(r);
        assert_true(r->n_steps > 0);
        assert_true(strcmp(last, (*at)->name) < 0);
        last = (*at)->name;
        assert_ptr_equal(preset_find((*at)->name), *at);
        json_t *json = preset_json(*at);
        assert_string_equal(json_string_value(json_object_get(json, "name")), (*at)->name);
        assert_int_equal(json_array_size(json_object_get(json_object_get(json, "recipe"), "steps")), r->n_steps);
        json_decref(json);
        recipe_free(r);
        faults_fini(&faults);
    }
    assert_int_equal(n, 10);
    assert_null(preset_find("no-such"));
}

/* What calibrates or trains says so; the others must work where there is no data. */
static void only_some_presets_need_data(void **state)
{
    static const struct {
        const char *name;
        unsigned needs;
    } needy[] = {{"int8", NEEDS_DATA},
                 {"int8-accurate", NEEDS_DATA},
                 {"prune-distill", NEEDS_DATA},
                 {"deep-compression", NEEDS_DATA | NEEDS_LABELS}};
    (void)state;
    for (const struct preset *const *at = preset_all(); *at; at++) {
        struct recipe *r = recipe_parse_text((*at)->recipe, strlen((*at)->recipe), NULL, NULL);
        unsigned wanted = 0;
        assert_non_null(r);
        for (size_t i = 0; i < sizeof needy / sizeof *needy; i++)
            wanted |= strcmp((*at)->name, needy[i].name) ? 0 : needy[i].needs;
        assert_int_equal(recipe_needs(r) & (NEEDS_DATA | NEEDS_LABELS), wanted);
        recipe_free(r);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(every_preset_is_a_recipe),
                                       cmocka_unit_test(only_some_presets_need_data)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
