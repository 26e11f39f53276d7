/* SPDX-License-Identifier: Apache-2.0
 * The table of operators as a whole: unique rows, disjoint ranges, sane attribute tables, everything documented; and
 * the attribute parser, fault by fault. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <stdio.h>
#include <string.h>

#include "core/model/model.h"
#include "core/ops/op.h"

static int row_last(const struct op_class *op)
{
    return op->until ? op->until : INT32_MAX;
}

static bool same_op(const struct op_class *a, const struct op_class *b)
{
    return strcmp(a->type, b->type) == 0 && strcmp(a->domain ? a->domain : "", b->domain ? b->domain : "") == 0;
}

static void rows_are_unique_and_disjoint(void **state)
{
    (void)state;
    const struct op_class *const *rows = op_all();
    int n = 0;
    for (; rows[n]; n++) {
        assert_true(rows[n]->since >= 1);
        assert_true(row_last(rows[n]) >= rows[n]->since);
        if (n && same_op(rows[n - 1], rows[n])) {
            if (row_last(rows[n - 1]) >= rows[n]->since)
                fail_msg("%s: opsets up to %d and from %d overlap", rows[n]->type, row_last(rows[n - 1]),
                         rows[n]->since);
        } else {
            for (int k = 0; k < n - 1; k++)
                assert_false(same_op(rows[k], rows[n])); /* sorted: versions of one operator are neighbours */
        }
    }
    print_message("%d rows\n", n);
    assert_true(n > 100);
}

static void rows_are_complete(void **state)
{
    (void)state;
    int without_samples = 0;
    for (const struct op_class *const *row = op_all(); *row; row++) {
        const struct op_class *op = *row;
        assert_non_null(op->type);
        if (!op->doc || strlen(op->doc) < 4 || op->doc[strlen(op->doc) - 1] != '.')
            fail_msg("%s since %d: the doc must be a sentence", op->type, op->since);
        assert_non_null(op->infer);
        assert_non_null(op->forward);
        assert_true(op->in_max == -1 || op->in_max >= op->in_min);
        assert_true(op->out_max == -1 || op->out_max >= op->out_min);
        assert_true(op->out_min >= 0);
        assert_true(op->in_min >= 0);
        if (!op->samples || !op->samples[0].inputs) {
            print_message("no samples: %s since %d\n", op->type, op->since);
            without_samples++;
        }
    }
    print_message("%d rows without samples\n", without_samples);
}

static size_t field_size(enum op_attr_kind kind)
{
    static const size_t sizes[] = {[OP_INT] = sizeof(int64_t),
                                   [OP_FLOAT] = sizeof(float),
                                   [OP_STRING] = sizeof(char *),
                                   [OP_INTS] = sizeof(struct op_ints),
                                   [OP_FLOATS] = sizeof(struct op_floats),
                                   [OP_STRINGS] = sizeof(struct op_strings),
                                   [OP_TENSOR] = sizeof(void *),
                                   [OP_GRAPH] = sizeof(uint32_t),
                                   [OP_BOOL] = sizeof(bool),
                                   [OP_ENUM] = sizeof(int),
                                   [OP_TYPE] = sizeof(void *)};
    return sizes[kind];
}

static void attribute_tables_are_sane(void **state)
{
    (void)state;
    for (const struct op_class *const *row = op_all(); *row; row++) {
        const struct op_class *op = *row;
        for (const struct op_attr *a = op->attrs; a && a->name; a++) {
            if (a->offset + field_size(a->kind) > op->attrs_size)
                fail_msg("%s since %d: attribute %s lies outside the struct", op->type, op->since, a->name);
            for (const struct op_attr *b = op->attrs; b < a; b++) {
                assert_string_not_equal(a->name, b->name);
                if (a->offset < b->offset + field_size(b->kind) && b->offset < a->offset + field_size(a->kind))
                    fail_msg("%s since %d: attributes %s and %s share a field", op->type, op->since, a->name, b->name);
            }
            if (a->kind == OP_ENUM) {
                assert_non_null(a->choices);
                int64_t n = 0;
                while (a->choices[n])
                    n++;
                assert_in_range(a->def, 0, n - 1);
            }
        }
    }
}

static void find_knows_domains_and_opsets(void **state)
{
    (void)state;
    const struct op_class *add = op_find("Add", NULL, 7);
    assert_non_null(add);
    assert_ptr_equal(add, op_find("Add", "", 13));
    assert_ptr_equal(add, op_find("Add", "ai.onnx", 99));
    assert_ptr_not_equal(add, op_find("Add", "", 6));
    assert_non_null(op_find("Add", "", 1));
    assert_null(op_find("Add", "com.example", 13));
    assert_null(op_find("Mod", "", 9)); /* since 10 */
    assert_null(op_find("NoSuchOperator", "", 13));
    assert_null(op_find("", "", 13));
    assert_null(op_find(NULL, NULL, 13));
    for (const struct op_class *const *row = op_all(); *row; row++) {
        assert_ptr_equal(op_find((*row)->type, (*row)->domain, (*row)->since), *row);
        if ((*row)->until)
            assert_ptr_equal(op_find((*row)->type, (*row)->domain, (*row)->until), *row);
    }
}

/* ---- the parser ---- */
struct sample_attrs {
    int64_t axis;
    float alpha;
    bool keep;
    int mode;
    const char *word;
    struct op_ints pads;
    struct op_floats scales;
    const struct tensor *value;
    uint32_t body;
};
static const char *const modes[] = {"one", "two", NULL};
static const struct op_attr sample_attrs[] = {
    {OP_ATTR(sample_attrs, axis), .kind = OP_INT, .required = true},
    {OP_ATTR(sample_attrs, alpha), .kind = OP_FLOAT, .def_f = 0.5f},
    {OP_ATTR(sample_attrs, keep), .kind = OP_BOOL, .def = 1},
    {OP_ATTR(sample_attrs, mode), .kind = OP_ENUM, .choices = modes, .def = 1},
    {OP_ATTR(sample_attrs, word), .kind = OP_STRING, .def_s = "none"},
    {OP_ATTR(sample_attrs, pads), .kind = OP_INTS, .max_count = 3},
    {OP_ATTR(sample_attrs, scales), .kind = OP_FLOATS},
    {OP_ATTR(sample_attrs, value), .kind = OP_TENSOR},
    {OP_ATTR(sample_attrs, body), .kind = OP_GRAPH},
    {0}};
static const struct op_class sample_op = {
    .type = "Sample", .since = 3, .attrs = sample_attrs, .attrs_size = sizeof(struct sample_attrs)};

static int64_t ints[] = {2, 3, 4, 5};
static float floats[] = {1.5f};
static struct attr_string text_two = {"two", 3}, text_bad = {"six", 3}, text_nul = {"a\0b", 3};

static int parse(struct attr *list, int n, struct sample_attrs *out, struct err *err)
{
    struct node node = {.op_type = "Sample", .attr = list, .n_attr = n};
    *err = (struct err){0};
    return op_parse_attrs(&sample_op, NULL, &node, out, NULL, err);
}

static void parser_fills_and_defaults(void **state)
{
    (void)state;
    struct sample_attrs out;
    struct err err;
    struct attr some[] = {{.name = "axis", .type = ATTR_INT, .count = 1, .ints = ints},
                          {.name = "consumed_inputs", .type = ATTR_INTS}};
    assert_int_equal(parse(some, 2, &out, &err), 0);
    assert_int_equal(out.axis, 2);
    assert_true(out.alpha == 0.5f && out.keep && out.mode == 1 && out.pads.count == 0 && !out.value &&
                out.body == GRAPH_NONE);
    assert_string_equal(out.word, "none");
    struct attr all[] = {{.name = "axis", .type = ATTR_INT, .count = 1, .ints = ints},
                         {.name = "alpha", .type = ATTR_FLOAT, .count = 1, .floats = floats},
                         {.name = "keep", .type = ATTR_INT, .count = 1, .ints = (int64_t[]){0}},
                         {.name = "mode", .type = ATTR_STRING, .count = 1, .strings = &text_two},
                         {.name = "pads", .type = ATTR_INTS, .count = 3, .ints = ints},
                         {.name = "scales", .type = ATTR_UNDEFINED, .count = 0},
                         {.name = "_output_shapes", .type = ATTR_STRING, .count = 1, .strings = &text_two}};
    assert_int_equal(parse(all, 7, &out, &err), 0);
    assert_true(out.alpha == 1.5f && !out.keep && out.mode == 1 && out.pads.count == 3 && out.pads.at[2] == 4);
}

static void parser_refuses(void **state)
{
    (void)state;
    static const struct {
        struct attr attr;
        const char *says;
    } cases[] = {
        {{.name = "axis", .type = ATTR_FLOAT, .count = 1, .floats = floats},
         "attribute 'axis' is a float; it must be an integer"},
        {{.name = "axis", .type = (enum attr_type)99, .count = 1},
         "attribute 'axis' is of an unknown type; it must be an integer"},
        {{.name = "axis", .type = ATTR_INT, .count = 0}, "attribute 'axis' has no value; it must be an integer"},
        {{.name = "axis", .ref_name = "outer", .type = ATTR_INT},
         "attribute 'axis' refers to the function attribute 'outer', which the call does not give"},
        {{.name = "pads", .type = ATTR_INTS, .count = 4, .ints = ints},
         "attribute 'pads' has 4 elements; at most 3 are allowed"},
        {{.name = "mode", .type = ATTR_STRING, .count = 1, .strings = &text_bad},
         "attribute 'mode' is 'six'; it must be one of 'one', 'two'"},
        {{.name = "word", .type = ATTR_STRING, .count = 1, .strings = &text_nul},
         "attribute 'word' holds a NUL byte; it must be plain text"},
        {{.name = "keep", .type = ATTR_INT, .count = 1, .ints = ints}, "attribute 'keep' is 2; it must be 0 or 1"},
        {{.name = "size", .type = ATTR_INT, .count = 1, .ints = ints},
         "attribute 'size' is unknown; Sample since opset 3 takes axis, alpha, keep, mode, word, pads, scales, value, "
         "body"},
        {{.name = "alpha", .type = ATTR_FLOAT, .count = 1, .floats = floats},
         "attribute 'axis' is missing; it must be an integer"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct sample_attrs out;
        struct err err;
        struct attr a = cases[i].attr;
        assert_int_equal(parse(&a, 1, &out, &err), -1);
        assert_int_equal(err.code, ERR_MODEL);
        assert_string_equal(err.msg, cases[i].says);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_unique_and_disjoint), cmocka_unit_test(rows_are_complete),
        cmocka_unit_test(attribute_tables_are_sane),    cmocka_unit_test(find_knows_domains_and_opsets),
        cmocka_unit_test(parser_fills_and_defaults),    cmocka_unit_test(parser_refuses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
