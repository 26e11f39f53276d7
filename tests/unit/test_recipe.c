/* SPDX-License-Identifier: Apache-2.0
 * core/recipe: text to recipe, every fault with its place, needs, steps from words; the whole method table walked
 * generically. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/recipe/json_text.h"
#include "core/recipe/params.h"
#include "core/recipe/recipe.h"

static struct recipe *parse(const char *text, struct faults *faults, struct err *err)
{
    return recipe_parse_text(text, strlen(text), faults, err);
}

/* Wrong recipes, the pointer and the sentence of their first fault, and how many there are. */
static const struct {
    const char *text, *pointer, *detail;
    int count;
} wrong[] = {
    {"[]", "", "a recipe must be an object with 'steps', found an array", 1},
    {"7", "", "a recipe must be an object with 'steps', found an integer", 1},
    {"{}", "/steps", "'steps' is missing; an empty list is allowed and leaves the model as it is", 1},
    {"{\"step\":[]}", "/step", "a recipe has no key 'step'; it takes steps, targets and seed; did you mean 'steps'?",
     2},
    {"{\"steps\":{}}", "/steps", "'steps' must be an array of steps, found an object", 1},
    {"{\"steps\":null}", "/steps", "'steps' must be an array of steps, found null", 1},
    {"{\"steps\":[1]}", "/steps/0", "a step must be an object with a 'method', found an integer", 1},
    {"{\"steps\":[{}]}", "/steps/0/method",
     "'method' is missing; it names the step, as in {\"method\": \"graph.optimize\"}", 1},
    {"{\"steps\":[{\"method\":3}]}", "/steps/0/method", "'method' must be a string, found an integer", 1},
    {"{\"steps\":[{\"method\":\"graph.optimise\"}]}", "/steps/0/method",
     "there is no method \"graph.optimise\"; did you mean 'graph.optimize'?", 1},
    {"{\"steps\":[{\"method\":\"qqq\"}]}", "/steps/0/method",
     "there is no method \"qqq\"; the catalogue of methods lists them", 1},
    {"{\"steps\":[{\"method\":\"graph.optimize\"},{\"method\":\"prune.weights\",\"sparsty\":0.5}]}", "/steps/1/sparsty",
     "prune.weights has no parameter 'sparsty'; did you mean 'sparsity'?", 1},
    {"{\"steps\":[{\"method\":\"graph.optimize\",\"xyz\":0.5}]}", "/steps/0/xyz",
     "graph.optimize has no parameter 'xyz'; it takes none", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"a/b~\":0.5,\"sparsity\":1}]}", "/steps/0/a~1b~0",
     "prune.weights has no parameter 'a/b~'; it takes sparsity, threshold, keep, drop, structure, criterion, "
     "scope, allocation, steps, schedule, initial, hysteresis, samples, include, exclude",
     1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":\"a\"}]}", "/steps/0/sparsity",
     "'sparsity' must be a number, found a string (\"a\")", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":null}]}", "/steps/0/sparsity",
     "'sparsity' must be a number, found null", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":1.5}]}", "/steps/0/sparsity",
     "'sparsity' must be between 0 and 1, found 1.5", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":-0.1}]}", "/steps/0/sparsity",
     "'sparsity' must be between 0 and 1, found -0.1", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"keep\":1.5}]}", "/steps/0/keep",
     "'keep' must be an integer, found a number (1.5)", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"keep\":-1}]}", "/steps/0/keep", "'keep' must be at least 0, found -1",
     1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":0.5,\"scope\":\"globl\"}]}", "/steps/0/scope",
     "'scope' must be one of auto, layer, global, row, found \"globl\"; did you mean 'global'?", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":0.5,\"include\":[\"a\",1]}]}", "/steps/0/include",
     "'include' must be a glob or a list of globs over node names, found an integer (1)", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\"}]}", "/steps/0",
     "prune.weights needs exactly one of sparsity, threshold, keep and drop; 0 are given", 1},
    {"{\"steps\":[{\"method\":\"qqq\",\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":2},5]}]}",
     "/steps/0/method", "there is no method \"qqq\"; the catalogue of methods lists them", 3},
    {"{\"steps\":[{\"method\":\"iterate\",\"until\":{\"max_bytes_ratio\":0.5},\"steps\":[]}]}", "/steps/0/steps",
     "iterate needs steps of its own: {\"method\": \"iterate\", \"steps\": [...]}", 1},
    {"{\"steps\":[{\"method\":\"train.finetune\",\"steps\":7}]}", "/steps/0/steps",
     "'steps' must be an array of steps, found an integer", 1},
    {"{\"steps\":[{\"method\":\"train.finetune\",\"steps\":[{\"method\":\"graph.optimize\"}]}]}",
     "/steps/0/steps/0/method",
     "train.finetune holds only steps that go on little by little while it trains (prune.channels, prune.heads, "
     "prune.weights); graph.optimize is none of them",
     1},
    {"{\"steps\":[{\"method\":\"train.finetune\",\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":0.5},"
     "{\"method\":\"prune.weights\",\"sparsity\":2}]}]}",
     "/steps/0/steps/1/sparsity", "'sparsity' must be between 0 and 1, found 2", 1},
    {"{\"steps\":[{\"method\":\"graph.optimize\",\"steps\":[]}]}", "/steps/0/steps",
     "graph.optimize holds no steps of its own", 1},
    {"{\"steps\":[],\"targets\":[]}", "/targets", "'targets' must be an object, found an array", 1},
    {"{\"steps\":[],\"targets\":{\"max_byte_ratio\":1}}", "/targets/max_byte_ratio",
     "there is no target 'max_byte_ratio'; did you mean 'max_bytes_ratio'?", 1},
    {"{\"steps\":[],\"targets\":{\"max_bytes_ratio\":\"x\"}}", "/targets/max_bytes_ratio",
     "'max_bytes_ratio' must be a number, found a string", 1},
    {"{\"steps\":[],\"targets\":{\"max_bytes_ratio\":-1}}", "/targets/max_bytes_ratio",
     "'max_bytes_ratio' must be between 0 and 100, found -1", 1},
    {"{\"steps\":[],\"seed\":1.5}", "/seed", "'seed' must be an integer, found a number", 1},
    {"{\"steps\":[],\"seed\":-1}", "/seed", "'seed' must be at least 0, found -1", 1},
    {"{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":9,\"keep\":\"x\"},{\"method\":\"no\"}],\"seed\":true,"
     "\"targets\":{\"a\":1}}",
     "/steps/0/sparsity", "'sparsity' must be between 0 and 1, found 9", 5},
};

static void faults_name_place_and_remedy(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        struct faults faults = {0};
        struct err err = {0};
        assert_null(parse(wrong[i].text, &faults, &err));
        assert_int_equal(err.code, ERR_RECIPE);
        if (faults.count != wrong[i].count)
            for (int k = 0; k < faults.count; k++)
                print_message("%s: %s: %s\n", wrong[i].text, faults.at[k].pointer, faults.at[k].detail);
        assert_int_equal(faults.count, wrong[i].count);
        assert_string_equal(faults.at[0].pointer, wrong[i].pointer);
        assert_string_equal(faults.at[0].detail, wrong[i].detail);
        assert_non_null(strstr(err.msg, wrong[i].detail));
        faults_fini(&faults);
    }
}

static void pointers_go_down_and_carry_their_base(void **state)
{
    (void)state;
    json_t *json = json_loads(
        "{\"steps\":[{\"method\":\"qqq\",\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":2}]}]}", 0, NULL);
    struct faults faults = {0};
    struct err err = {0};
    assert_null(recipe_parse(json, "/recipe", &faults, &err));
    assert_int_equal(faults.count, 2);
    assert_string_equal(faults.at[0].pointer, "/recipe/steps/0/method");
    assert_string_equal(faults.at[1].pointer, "/recipe/steps/0/steps/0/sparsity");
    assert_string_equal(
        err.msg,
        "/recipe/steps/0/method: there is no method \"qqq\"; the catalogue of methods lists them (and 1 more)");
    faults_fini(&faults);
    json_decref(json);
}

static void nested_steps_are_kept(void **state)
{
    (void)state;
    static const char text[] =
        "{\"steps\":[{\"method\":\"graph.optimize\"},{\"method\":\"iterate\",\"until\":{\"max_bytes_ratio\":0.5},"
        "\"steps\":[{\"method\":\"train.finetune\",\"epochs\":2,\"steps\":[{\"method\":\"prune.weights\","
        "\"sparsity\":0.9}]}]}]}";
    struct faults faults = {0};
    struct err err = {0};
    struct recipe *r = parse(text, &faults, &err);
    if (!r)
        fail_msg("%s", err.msg);
    assert_int_equal(r->n_steps, 2);
    assert_int_equal(r->steps[0].n_steps, 0);
    const struct recipe_step *train = &r->steps[1].steps[0], *prune = &train->steps[0];
    assert_int_equal(r->steps[1].n_steps, 1);
    assert_int_equal(train->n_steps, 1);
    assert_string_equal(prune->method->name, "prune.weights");
    assert_string_equal(prune->pointer, "/steps/1/steps/0/steps/0");
    assert_true(recipe_needs(r) & NEEDS_LABELS);
    assert_true(recipe_has_family(r, "train"));
    assert_true(recipe_has_family(r, "prune"));
    assert_false(recipe_has_family(r, "pru"));
    /* what is written reads as the same again */
    json_t *json = recipe_json(r);
    struct recipe *again = recipe_parse(json, "", &faults, &err);
    if (!again)
        fail_msg("%s", err.msg);
    json_t *second = recipe_json(again);
    assert_true(json_equal(json, second));
    json_decref(second);
    recipe_free(again);
    json_decref(json);
    /* needs of a nested step are told at its place, classes at the dataset */
    struct recipe_given given = {.missing_gradients = "Floor x1"};
    assert_int_equal(recipe_check_needs(r, &given, &faults, &err), -1);
    assert_string_equal(faults.at[0].pointer, "/steps/1/steps/0");
    faults_fini(&faults);
    faults = (struct faults){0};
    given = (struct recipe_given){.data[RECIPE_DATASET] = {true, true, true, 9}, .output_classes = 10};
    assert_int_equal(recipe_check_needs(r, &given, &faults, &err), 0);
    given.output_classes = 9;
    assert_int_equal(recipe_check_needs(r, &given, &faults, &err), -1);
    assert_string_equal(faults.at[0].pointer, "/dataset");
    recipe_free(r);
    faults_fini(&faults);
}

static void text_that_is_no_json(void **state)
{
    (void)state;
    char deep[200], *big = malloc(JSON_TEXT_MAX + 2);
    memset(deep, '[', 65);
    memset(deep + 65, ']', 65);
    deep[130] = 0;
    assert_non_null(big);
    memset(big, ' ', JSON_TEXT_MAX + 1);
    big[JSON_TEXT_MAX + 1] = 0;
    const struct {
        const char *text, *part;
        enum err_code code;
    } rows[] = {
        {"", "not valid JSON", ERR_BAD_JSON},
        {"{\"steps\":[}", "line 1, column 11", ERR_BAD_JSON},
        {"{\"steps\":[],\"steps\":[]}", "duplicate object key", ERR_BAD_JSON},
        {"{\"steps\":[{\"method\":\"graph.optimize\",\"method\":\"x\"}]}", "duplicate object key", ERR_BAD_JSON},
        {"{\"steps\":[]} x", "not valid JSON", ERR_BAD_JSON},
        {"{\"steps\":[],\"seed\":1e999}", "not valid JSON", ERR_BAD_JSON},
        {"{\"\xff\":1}", "not valid JSON", ERR_BAD_JSON},
        {deep, "nested deeper than 64 levels (at byte 64)", ERR_BAD_JSON},
        {big, "larger than the limit of 1048576 bytes", ERR_TOO_LARGE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct faults faults = {0};
        struct err err = {0};
        assert_null(parse(rows[i].text, &faults, &err));
        assert_int_equal(err.code, rows[i].code);
        assert_non_null(strstr(err.msg, rows[i].part));
        assert_int_equal(faults.count, 0);
    }
    deep[129] = 0; /* 64 levels are fine, brackets in strings do not count */
    struct err err = {0};
    json_t *ok = json_text_parse(deep + 1, 128, 0, &err);
    assert_non_null(ok);
    json_decref(ok);
    ok = json_text_parse("\"[[[[\\\"[[[\"", 11, 0, &err);
    assert_non_null(ok);
    json_decref(ok);
    free(big);
}

static char *dump(json_t *json)
{
    char *text = json_dumps(json, JSON_COMPACT | JSON_TEXT_DUMP);
    json_decref(json);
    return text;
}

static void normalised_recipes_are_canonical(void **state)
{
    (void)state;
    static const char *const same[] = {
        "{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":0.9,\"include\":\"conv*\"}],\"targets\":{\"max_bytes_"
        "ratio\":0.25,\"max_accuracy_drop\":0.01},\"seed\":7}",
        "{\"seed\":7,\"targets\":{\"max_accuracy_drop\":0.01,\"max_bytes_ratio\":0.25},\"steps\":[{\"include\":[\"conv*"
        "\"],\"scope\":\"auto\",\"sparsity\":0.9,\"method\":\"prune.weights\"}]}",
    };
    for (size_t i = 0; i < 2; i++) {
        struct err err = {0};
        struct recipe *r = parse(same[i], NULL, &err);
        assert_non_null(r);
        char *text = dump(recipe_json(r));
        assert_string_equal(
            text,
            "{\"steps\":[{\"method\":\"prune.weights\",\"sparsity\":0.9,\"structure\":\"unstructured\",\"criterion\":"
            "\"magnitude\",\"scope\":\"auto\",\"allocation\":\"uniform\",\"steps\":1,\"samples\":512,\"include\":["
            "\"conv*\"]}],"
            "\"targets\":{\"max_accuracy_drop\":0.01,\"max_bytes_ratio\":0.25},\"seed\":7}");
        struct recipe *again = parse(text, NULL, &err); /* what the report shows can be run again */
        assert_non_null(again);
        char *twice = dump(recipe_json(again));
        assert_string_equal(text, twice);
        free(text);
        free(twice);
        recipe_free(again);
        recipe_free(r);
    }
}

static void an_empty_list_is_a_recipe(void **state)
{
    (void)state;
    struct err err = {0};
    struct recipe *r = parse("{\"steps\":[]}", NULL, &err);
    assert_non_null(r);
    assert_int_equal(r->n_steps, 0);
    assert_int_equal(recipe_needs(r), 0);
    assert_int_equal(recipe_check_needs(r, &(struct recipe_given){0}, NULL, &err), 0);
    recipe_free(r);
}

static void words_make_steps(void **state)
{
    (void)state;
    static const struct {
        const char *words, *json;
    } rows[] = {
        {"graph.optimize", "{\"method\":\"graph.optimize\"}"},
        {"  prune.weights  sparsity=0.9 scope=global ",
         "{\"method\":\"prune.weights\",\"sparsity\":0.9,\"scope\":\"global\"}"},
        {"p include=conv* exclude=[\"a b\",\"c\"] x=true",
         "{\"method\":\"p\",\"include\":\"conv*\",\"exclude\":[\"a b\",\"c\"],\"x\":true}"},
        {"p a='x y' b=\"u v\" c= d=1=2", "{\"method\":\"p\",\"a\":\"x y\",\"b\":\"u v\",\"c\":\"\",\"d\":\"1=2\"}"},
        {"p a=[1, 2] b={\"k\": 1}", "{\"method\":\"p\",\"a\":[1,2],\"b\":{\"k\":1}}"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct err err = {0};
        json_t *step = recipe_step_from_words(rows[i].words, &err);
        assert_non_null(step);
        char *text = dump(step);
        assert_string_equal(text, rows[i].json);
        free(text);
    }
    static const char *const bad[] = {"", "   ", "a=1", "p sparsity", "p =1", "p a=1 a=2"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct err err = {0};
        assert_null(recipe_step_from_words(bad[i], &err));
        assert_int_equal(err.code, ERR_USAGE);
    }
}

/* ---- the table, generically ---- */

/* Faults of one step of `m` with one parameter set to `value` (stolen). */
static int faults_with(const struct method *m, const char *key, json_t *value, const char *pointer)
{
    struct arena *arena = arena_new();
    struct faults faults = {0};
    struct err err = {0};
    json_t *step = json_object(), *normalised;
    void *params;
    int n = 0;
    if (key)
        json_object_set_new(step, key, value);
    assert_int_equal(params_parse(m, step, "/s", arena, &params, &normalised, &faults, &err), 0);
    for (int i = 0; i < faults.count; i++)
        n += !strcmp(faults.at[i].pointer, pointer);
    faults_fini(&faults);
    json_decref(normalised);
    json_decref(step);
    arena_free(arena);
    return n;
}

static void every_row_is_whole(void **state)
{
    (void)state;
    const char *last = "";
    for (const struct method *const *at = method_all(); *at; at++) {
        const struct method *m = *at;
        assert_true(strcmp(last, m->name) < 0);
        last = m->name;
        assert_true(strchr(m->name, '.') || m->holds == HOLDS_STEPS); /* a family, or a construct */
        for (const struct param *p = m->params; m->holds != HOLDS_NOTHING && p && p->name; p++)
            assert_string_not_equal(p->name, "steps"); /* that key holds its steps */
        assert_true(!m->scheduled || m->holds == HOLDS_NOTHING);
        assert_true(m->summary && strlen(m->summary) > 10);
        assert_non_null(m->run);
        assert_ptr_equal(method_find(m->name), m);
        for (const struct param *p = m->params; p && p->name; p++) {
            char pointer[100];
            snprintf(pointer, sizeof pointer, "/s/%s", p->name);
            assert_true(p->doc && strlen(p->doc) > 3);
            assert_true(p->offset < m->params_size);
            assert_true(p->kind != PARAM_ENUM || p->choices);
            if (!p->required)
                assert_int_equal(faults_with(m, NULL, NULL, pointer), 0); /* its default is valid */
            if (p->def) {
                json_t *def = json_loads(p->def, JSON_DECODE_ANY, NULL);
                assert_non_null(def);
                assert_int_equal(faults_with(m, p->name, def, pointer), 0);
            }
        }
        json_t *json = method_json(m);
        assert_non_null(json_object_get(json, "parameters"));
        json_decref(json);
    }
    assert_null(method_find("no.such"));
}

static void every_parameter_refuses_what_is_wrong(void **state)
{
    (void)state;
    for (const struct method *const *at = method_all(); *at; at++) {
        for (const struct param *p = (*at)->params; p && p->name; p++) {
            char pointer[100];
            snprintf(pointer, sizeof pointer, "/s/%s", p->name);
            json_t *types[] = {json_null(),        json_object(), json_integer(3),
                               json_real(0.5),     json_true(),   json_string("~ no such ~"),
                               json_pack("[i]", 1)};
            bool number = p->kind == PARAM_INT || p->kind == PARAM_NUMBER;
            const bool list = p->kind == PARAM_NUMBERS; /* a number alone is a list of one */
            const bool right[] = {false,
                                  p->kind == PARAM_JSON,
                                  number || (list && (p->min >= p->max || p->max > 3)),
                                  p->kind == PARAM_NUMBER || list,
                                  p->kind == PARAM_BOOL,
                                  p->kind == PARAM_STRING || p->kind == PARAM_GLOBS,
                                  list && (p->min >= p->max || p->max > 1)};
            for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
                if (right[t])
                    json_decref(types[t]);
                else
                    assert_int_equal(faults_with(*at, p->name, types[t], pointer), 1);
            }
            if (!number || !(p->min < p->max))
                continue;
            double low = p->above_min ? p->min : p->min - 1,
                   high = p->below_max ? p->max : p->max + fmax(1, fabs(p->max) * 0.5);
            assert_int_equal(faults_with(*at, p->name, json_real(low), pointer), 1);
            assert_int_equal(faults_with(*at, p->name, json_real(high), pointer), 1);
        }
        assert_int_equal(faults_with(*at, "no_such_key", json_integer(1), "/s/no_such_key"), 1);
    }
}

static void needs_are_faults_before_anything_runs(void **state)
{
    (void)state;
    for (const struct method *const *at = method_all(); *at; at++) {
        struct recipe_step step = {.method = *at, .pointer = (char *)(uintptr_t) "/recipe/steps/0"};
        struct recipe r = {.steps = &step, .n_steps = 1, .base = (char *)(uintptr_t) "/recipe"};
        struct faults faults = {0};
        struct err err = {0};
        unsigned needs = (*at)->needs;
        int rc = recipe_check_needs(&r, &(struct recipe_given){0}, &faults, &err);
        assert_int_equal(rc, needs & (NEEDS_DATA | NEEDS_LABELS) ? -1 : 0);
        if (rc) {
            assert_string_equal(faults.at[0].pointer, "/recipe/steps/0");
            assert_int_equal(err.code, ERR_RECIPE);
        }
        faults_fini(&faults);
        err = (struct err){0};
        rc = recipe_check_needs(
            &r, &(struct recipe_given){.data = {{true, true, true}}, .missing_ops = "Frob (com.x, opset 1) x2"},
            &faults, &err);
        assert_int_equal(rc, needs & NEEDS_RUN ? -1 : 0);
        if (rc) {
            assert_int_equal(err.code, ERR_OPERATOR);
            assert_non_null(strstr(faults.at[0].detail, "Frob (com.x, opset 1) x2"));
        }
        faults_fini(&faults);
    }
    struct err err = {0};
    struct faults faults = {0};
    struct recipe *r = parse("{\"steps\":[],\"targets\":{\"max_accuracy_drop\":0.01}}", NULL, &err);
    static const struct {
        struct recipe_data data, val_data, eval_data;
        int measured;
        bool enough;
    } cases[] = {
        {.measured = -1},
        {.data = {true}, .measured = RECIPE_DATASET},
        {.data = {true, true}, .measured = RECIPE_DATASET}, /* targets are no classes */
        {.data = {true, true, true}, .measured = RECIPE_DATASET, .enough = true},
        {.val_data = {true, true, true}, .measured = RECIPE_VAL_DATASET, .enough = true},
        {.data = {true}, .val_data = {true, true, true}, .measured = RECIPE_DATASET},
        {.data = {true, true, true}, .eval_data = {true}, .measured = RECIPE_EVAL_DATASET},
        {.data = {true}, .eval_data = {true, true, true}, .measured = RECIPE_EVAL_DATASET, .enough = true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct recipe_given given = {.data = {cases[i].data, cases[i].val_data, cases[i].eval_data}};
        struct err why = {0};
        assert_int_equal(recipe_measured_on(&given), cases[i].measured);
        assert_int_equal(recipe_check_needs(r, &given, NULL, &why), cases[i].enough ? 0 : -1);
    }
    assert_int_equal(recipe_check_needs(r, &(struct recipe_given){.data = {{true}}}, &faults, &err), -1);
    assert_string_equal(faults.at[0].pointer, "/targets/max_accuracy_drop");
    faults_fini(&faults);
    recipe_free(r);
}

static void hostile_keys_are_cut(void **state)
{
    (void)state;
    struct buf b = {0};
    buf_puts(&b, "{\"steps\":[{\"method\":\"graph.optimize\",\"");
    for (int i = 0; i < 50000; i++)
        buf_puts(&b, "\xc3\xa9~/"); /* é, and what a pointer escapes */
    buf_puts(&b, "\":1}]}");
    struct faults faults = {0};
    struct err err = {0};
    assert_null(parse(b.data, &faults, &err));
    assert_int_equal(faults.count, 1);
    json_t *text = json_string(faults.at[0].detail), *pointer = json_string(faults.at[0].pointer); /* still UTF-8 */
    assert_non_null(text);
    assert_non_null(pointer);
    assert_true(strlen(faults.at[0].detail) < 300);
    json_decref(text);
    json_decref(pointer);
    faults_fini(&faults);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(faults_name_place_and_remedy),
        cmocka_unit_test(pointers_go_down_and_carry_their_base),
        cmocka_unit_test(nested_steps_are_kept),
        cmocka_unit_test(text_that_is_no_json),
        cmocka_unit_test(normalised_recipes_are_canonical),
        cmocka_unit_test(an_empty_list_is_a_recipe),
        cmocka_unit_test(words_make_steps),
        cmocka_unit_test(every_row_is_whole),
        cmocka_unit_test(every_parameter_refuses_what_is_wrong),
        cmocka_unit_test(needs_are_faults_before_anything_runs),
        cmocka_unit_test(hostile_keys_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
