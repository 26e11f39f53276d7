/* SPDX-License-Identifier: Apache-2.0
 * overrides.h: what is read, in which order, and where faults are said to be. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include <string.h>

#include "core/quant/overrides.h"

static void test_reads(void **state)
{
    (void)state;
    json_t *j =
        json_loads("{\"tensor:x*\": {\"range\": [-1, 2], \"activations\": \"int16\"}, \"conv*\": {\"float\": true, "
                   "\"per_channel\": false}, \"op:Gemm\": {\"weights\": \"uint4\", \"symmetric\": true}}",
                   0, NULL);
    struct overrides o;
    struct faults faults = {0};
    assert_non_null(j);
    overrides_check(j, "/steps/0", &faults);
    assert_int_equal(faults.count, 0);
    assert_int_equal(overrides_parse(j, &o, NULL), 0);
    assert_int_equal(o.count, 3);
    assert_int_equal(o.at[0].kind, OVERRIDE_OP); /* the most special one comes last */
    assert_int_equal(o.at[0].weights, DTYPE_UINT4);
    assert_int_equal(o.at[0].symmetric, 1);
    assert_int_equal(o.at[0].keep_float, -1);
    assert_true(override_matches(&o.at[0], "any", "Gemm", NULL));
    assert_false(override_matches(&o.at[0], "any", "MatMul", NULL));
    assert_int_equal(o.at[1].kind, OVERRIDE_NODE);
    assert_int_equal(o.at[1].keep_float, 1);
    assert_int_equal(o.at[1].per_channel, 0);
    assert_true(override_matches(&o.at[1], "conv7", "Conv", NULL));
    assert_false(override_matches(&o.at[1], NULL, NULL, "conv7"));
    assert_int_equal(o.at[2].activations, DTYPE_INT16);
    assert_true(o.at[2].has_range && o.at[2].lo == -1 && o.at[2].hi == 2);
    assert_true(override_matches(&o.at[2], NULL, NULL, "x1"));
    overrides_fini(&o);
    json_decref(j);
    assert_int_equal(overrides_parse(NULL, &o, NULL), 0);
    assert_int_equal(o.count, 0);
    overrides_fini(&o);
}

static void test_faults(void **state)
{
    (void)state;
    const struct {
        const char *json, *pointer, *part;
    } cases[] = {
        {"{\"a\": 1}", "/s/overrides/a", "must be an object"},
        {"{\"a/b~\": {\"flot\": true}}", "/s/overrides/a~1b~0/flot", "no option 'flot'"},
        {"{\"a\": {\"float\": 1}}", "/s/overrides/a/float", "true or false"},
        {"{\"a\": {\"range\": [0, 1]}}", "/s/overrides/a/range", "no option 'range'"},
        {"{\"tensor:a\": {\"weights\": \"int8\"}}", "/s/overrides/tensor:a/weights", "no option 'weights'"},
        {"{\"tensor:a\": {\"range\": [1, 0]}}", "/s/overrides/tensor:a/range", "lower one first"},
        {"{\"tensor:a\": {\"range\": [0, 1e39]}}", "/s/overrides/tensor:a/range", "finite float32"},
        {"{\"tensor:a\": {\"range\": 3}}", "/s/overrides/tensor:a/range", "array of two numbers"},
        {"{\"a\": {\"weights\": \"int3\"}}", "/s/overrides/a/weights", "int8, uint8, int4, uint4, int16"},
        {"{\"op:\": {}}", "/s/overrides/op:", "names nothing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *j = json_loads(cases[i].json, 0, NULL);
        struct faults faults = {0};
        assert_non_null(j);
        overrides_check(j, "/s", &faults);
        assert_int_equal(faults.count, 1);
        assert_string_equal(faults.at[0].pointer, cases[i].pointer);
        if (!strstr(faults.at[0].detail, cases[i].part))
            fail_msg("'%s' does not say '%s'", faults.at[0].detail, cases[i].part);
        faults_fini(&faults);
        json_decref(j);
    }
}

/* A key of any length is cut in the pointer, never beyond it. */
static void test_long_key(void **state)
{
    (void)state;
    char key[5000];
    memset(key, '~', sizeof key - 1);
    key[sizeof key - 1] = '\0';
    json_t *j = json_object();
    json_object_set_new(j, key, json_integer(1));
    struct faults faults = {0};
    overrides_check(j, key, &faults);
    assert_int_equal(faults.count, 1);
    assert_true(strlen(faults.at[0].pointer) < 1024);
    faults_fini(&faults);
    json_decref(j);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_reads), cmocka_unit_test(test_faults),
                                       cmocka_unit_test(test_long_key)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
