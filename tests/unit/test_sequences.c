/* SPDX-License-Identifier: Apache-2.0
 * Sequences and optionals: lists as values (tensor.h), their files (onnx_value.h), the operators on small models built by
 * hand, and what is refused. Values are checked against what the operators' definitions say, worked out by hand. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "core/base/file.h"
#include "core/engine/engine.h"
#include "core/model/onnx_value.h"
#include "tests/unit/graphs.h"

static void make(struct tensor *t, enum dtype dtype, struct shape shape, const double *v)
{
    assert_int_equal(tensor_alloc(t, dtype, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(t); i++)
        dtype_set(dtype, t->data, i, v[i]);
}

/* A sequence of [1], [1, 2], [1, 2, 3], ... */
static void make_sequence(struct tensor *t, int64_t n)
{
    struct tensor items[8] = {{0}};
    for (int64_t i = 0; i < n; i++)
        make(&items[i], DTYPE_FLOAT, SHAPE(i + 1), (const double[]){1, 2, 3, 4, 5, 6, 7, 8});
    assert_int_equal(tensor_list(t, DTYPE_SEQUENCE, items, n, NULL), 0);
    assert_null(items[0].buf);
}

/* ---- lists ---- */
static void lists_share_and_compare(void **state)
{
    (void)state;
    struct tensor a, b, c, outer, item;
    make_sequence(&a, 3);
    assert_true(tensor_is_list(&a));
    assert_int_equal(tensor_count(&a), 3);
    assert_true(a.bytes >= 6 * sizeof(float));
    assert_int_equal(tensor_copy(&b, &a, NULL), 0);
    assert_ptr_not_equal(a.data, b.data);
    assert_ptr_equal(tensor_items(&a)[2].data, tensor_items(&b)[2].data);
    assert_true(tensor_equal(&a, &b));
    make_sequence(&c, 2);
    assert_false(tensor_equal(&a, &c));
    tensor_ref(&item, &a);
    assert_int_equal(tensor_list(&outer, DTYPE_OPTIONAL, &item, 1, NULL), 0);
    tensor_fini(&a);
    tensor_fini(&b);
    assert_true(tensor_f32(&tensor_items(&tensor_items(&outer)[0])[2])[2] == 3.0f);
    struct err err = {0};
    assert_int_equal(tensor_convert(&a, &c, DTYPE_FLOAT, &err), 0 - 1);
    assert_int_equal(tensor_list(&a, DTYPE_SEQUENCE, NULL, -1, &err), -1);
    tensor_fini(&outer);
    tensor_fini(&c);
}

/* ---- files ---- */
static const struct type any_tensor = {.kind = TYPE_TENSOR, .shape = {.rank = SHAPE_UNKNOWN_RANK}};
static const struct type sequence_type = {.kind = TYPE_SEQUENCE, .inner = (struct type *)(uintptr_t)&any_tensor};
static const struct type optional_type = {.kind = TYPE_OPTIONAL, .inner = (struct type *)(uintptr_t)&sequence_type};

static const char *scratch_file(void)
{
    static char path[64];
    snprintf(path, sizeof path, "build/test_sequences.%ld.pb", (long)getpid());
    return path;
}

static void files_round_trip(void **state)
{
    (void)state;
    struct tensor a, b, item, opt, none;
    const char *path = scratch_file();
    make_sequence(&a, 3);
    assert_int_equal(onnx_write_value_file(&a, "s", path, NULL), 0);
    assert_int_equal(onnx_read_value_file(&b, &sequence_type, path, NULL), 0);
    assert_true(tensor_equal(&a, &b));
    tensor_fini(&b);
    tensor_ref(&item, &a);
    assert_int_equal(tensor_list(&opt, DTYPE_OPTIONAL, &item, 1, NULL), 0);
    assert_int_equal(onnx_write_value_file(&opt, "o", path, NULL), 0);
    assert_int_equal(onnx_read_value_file(&b, &optional_type, path, NULL), 0);
    assert_true(tensor_equal(&opt, &b));
    tensor_fini(&b);
    assert_int_equal(tensor_list(&none, DTYPE_OPTIONAL, NULL, 0, NULL), 0);
    assert_int_equal(onnx_write_value_file(&none, NULL, path, NULL), 0);
    assert_int_equal(onnx_read_value_file(&b, &optional_type, path, NULL), 0);
    assert_true(tensor_equal(&none, &b));
    tensor_fini(&b);
    tensor_fini(&none);
    tensor_fini(&opt);
    tensor_fini(&a);
    unlink(path);
}

/* Every cut of a good file, and every byte of it changed, is read or refused with a sentence. */
static void broken_files_are_refused(void **state)
{
    (void)state;
    struct tensor a, b;
    struct err err = {0};
    const char *path = scratch_file();
    size_t len;
    make_sequence(&a, 2);
    assert_int_equal(onnx_write_value_file(&a, "s", path, NULL), 0);
    char *good = file_read(path, 4096, &len, NULL), *bad = malloc(len);
    assert_non_null(good);
    assert_non_null(bad);
    for (size_t i = 0; i < 2 * len; i++) {
        memcpy(bad, good, len);
        if (i >= len)
            bad[i - len] = (char)(bad[i - len] ^ 0x55);
        assert_int_equal(file_write_atomic(path, bad, i < len ? i : len, NULL), 0);
        err = (struct err){0};
        if (onnx_read_value_file(&b, i % 2 ? &sequence_type : &optional_type, path, &err))
            assert_true(strlen(err.msg) > 10);
        else
            tensor_fini(&b);
    }
    /* an optional of two */
    assert_int_equal(file_write_atomic(path, good, len, NULL), 0);
    assert_int_equal(onnx_read_value_file(&b, &optional_type, path, &err), -1);
    assert_non_null(strstr(err.msg, "the optional holds 2 values"));
    free(bad);
    free(good);
    tensor_fini(&a);
    unlink(path);
}

/* ---- operators ---- */
static uint32_t listed_input(struct model *m, const char *name, const struct type *type)
{
    struct graph *g = model_main(m);
    uint32_t v = model_add_value(m, 0, name, false);
    g_declare(m, &g->inputs, &g->n_inputs, v, *type);
    return v;
}

/* Runs m on one list and gives its only output. */
static int run(struct model *m, const struct tensor *in, struct tensor *out, struct err *err)
{
    struct plan *plan = plan_new(m, NULL, err);
    int rc = plan ? plan_run(plan, in, out, NULL, err) : -1;
    plan_free(plan);
    return rc;
}

static void sequence_operators(void **state)
{
    (void)state;
    static const struct {
        const char *op;
        int64_t place;
        int64_t lengths[5]; /* of the items of what comes out; 0 ends */
        const char *says;
    } rows[] = {
        {"SequenceAt", 1, {2}, NULL},
        {"SequenceAt", -1, {3}, NULL},
        {"SequenceAt", 3, {0}, "position is 3; the sequence has 3 items"},
        {"SequenceAt", -4, {0}, "position is -4; the sequence has 3 items"},
        {"SequenceErase", 0, {2, 3}, NULL},
        {"SequenceErase", -2, {1, 3}, NULL},
        {"SequenceErase", INT64_MIN, {0}, "the sequence has 3 items"},
        {"SequenceErase", INT64_MAX, {0}, "the sequence has 3 items"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = g_new(17);
        struct tensor in, out;
        struct err err = {0};
        uint32_t s = listed_input(m, "s", &sequence_type), at = g_ints(m, "at", 1, &rows[i].place);
        g_output(m, G_OP(m, rows[i].op, "y", s, at));
        make_sequence(&in, 3);
        int rc = run(m, &in, &out, &err);
        if (rows[i].says) {
            assert_int_equal(rc, -1);
            if (!strstr(err.msg, rows[i].says))
                fail_msg("row %zu: '%s'", i, err.msg);
        } else {
            assert_int_equal(rc, 0);
            const bool list = tensor_is_list(&out);
            int64_t n = list ? tensor_count(&out) : 1;
            for (int64_t k = 0; k < n; k++)
                assert_int_equal(tensor_count(list ? &tensor_items(&out)[k] : &out), rows[i].lengths[k]);
            assert_int_equal(rows[i].lengths[n], 0);
            tensor_fini(&out);
        }
        tensor_fini(&in);
        model_free(m);
    }
}

/* x -> split -> insert at the front -> join: an item kept by a list is not touched by what happens to the tensor. */
static void split_insert_join(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    struct tensor in, out;
    uint32_t x = g_input(m, "x", SHAPE(4));
    uint32_t two = g_ints(m, "two", 2, (const int64_t[]){1, 3}), front = g_ints(m, "front", 1, (const int64_t[]){0});
    uint32_t s = G_OP(m, "SplitToSequence", "s", x, two);
    uint32_t added = G_OP(m, "SequenceInsert", "added", s, x, front);
    uint32_t negative = G_OP(m, "Neg", "negative", x);
    uint32_t joined = G_OP(m, "ConcatFromSequence", "joined", added);
    node_set_int(m, g_maker(m, joined), "axis", 0);
    uint32_t both[] = {joined, negative};
    uint32_t y = g_node(m, "Concat", "y", both, 2);
    node_set_int(m, g_maker(m, y), "axis", 0);
    g_output(m, y);
    make(&in, DTYPE_FLOAT, SHAPE(4), (const double[]){1, 2, 3, 4});
    struct err err = {0};
    if (run(m, &in, &out, &err))
        fail_msg("%s", err.msg);
    static const float want[] = {1, 2, 3, 4, 1, 2, 3, 4, -1, -2, -3, -4};
    assert_int_equal(tensor_count(&out), 12);
    assert_memory_equal(out.data, want, sizeof want);
    tensor_fini(&out);
    tensor_fini(&in);
    model_free(m);
}

static void lists_where_tensors_belong(void **state)
{
    (void)state;
    static const struct {
        const char *op, *says;
        const struct type *type;
    } rows[] = {
        {"Relu", "node 'y' (Relu): input #0 is a sequence; it must be a tensor", &sequence_type},
        {"Size", "it must be a tensor", &sequence_type},
        {"Shape", "it must be a tensor", &optional_type},
        {"SplitToSequence", "tensor", &sequence_type},
        {"SequenceLength", "input #0 is a tensor; it must be a sequence", &any_tensor},
        {"ConcatFromSequence", "axis", &sequence_type},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct model *m = g_new(17);
        struct tensor in, out;
        struct err err = {0};
        g_output(m, G_OP(m, rows[i].op, "y", listed_input(m, "s", rows[i].type)));
        if (rows[i].type == &any_tensor)
            make(&in, DTYPE_FLOAT, SHAPE(2), (const double[]){1, 2});
        else
            make_sequence(&in, 2);
        assert_int_equal(run(m, &in, &out, &err), -1);
        if (!strstr(err.msg, rows[i].says))
            fail_msg("%s: '%s'", rows[i].op, err.msg);
        tensor_fini(&in);
        model_free(m);
    }
    /* fed with another kind than declared */
    struct model *m = g_new(17);
    struct tensor in, out;
    struct err err = {0};
    g_output(m, G_OP(m, "Relu", "y", g_input(m, "x", SHAPE(2))));
    make_sequence(&in, 2);
    assert_int_equal(run(m, &in, &out, &err), -1);
    assert_non_null(strstr(err.msg, "input 'x' is declared as another kind of value than the sequence"));
    tensor_fini(&in);
    model_free(m);
}

static void optional_operators(void **state)
{
    (void)state;
    struct model *m = g_new(18);
    struct tensor in[2], out[2];
    struct err err = {0};
    uint32_t o = listed_input(m, "o", &optional_type);
    g_output(m, G_OP(m, "OptionalHasElement", "has", o));
    g_output(m, G_OP(m, "OptionalGetElement", "element", o));
    make_sequence(&in[1], 2);
    assert_int_equal(tensor_list(&in[0], DTYPE_OPTIONAL, &in[1], 1, NULL), 0);
    assert_int_equal(run(m, in, out, &err), 0);
    assert_int_equal(*(uint8_t *)out[0].data, 1);
    assert_int_equal(out[1].dtype, DTYPE_SEQUENCE);
    assert_true(tensor_equal(&out[1], tensor_items(&in[0])));
    tensor_fini(&out[0]);
    tensor_fini(&out[1]);
    tensor_fini(&in[0]);
    assert_int_equal(tensor_list(&in[0], DTYPE_OPTIONAL, NULL, 0, NULL), 0);
    assert_int_equal(run(m, in, out, &err), -1);
    assert_non_null(strstr(err.msg, "the optional holds nothing"));
    tensor_fini(&in[0]);
    model_free(m);
}

/* A list over the memory limit is refused. */
static void memory_is_counted(void **state)
{
    (void)state;
    struct model *m = g_new(17);
    struct tensor in, out;
    struct err err = {0};
    uint32_t x = g_input(m, "x", SHAPE(1 << 16)), s = G_OP(m, "SequenceConstruct", "s", x, x, x, x);
    g_output(m, G_OP(m, "SequenceLength", "y", s));
    assert_int_equal(tensor_alloc(&in, DTYPE_FLOAT, &SHAPE(1 << 16), NULL), 0);
    struct plan *plan = plan_new(m, &(struct plan_opts){.max_memory_bytes = 1 << 19}, &err);
    assert_non_null(plan);
    assert_int_equal(plan_run(plan, &in, &out, NULL, &err), -1);
    assert_int_equal(err.code, ERR_MODEL_TOO_LARGE);
    plan_free(plan);
    tensor_fini(&in);
    model_free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lists_share_and_compare), cmocka_unit_test(files_round_trip),
        cmocka_unit_test(broken_files_are_refused), cmocka_unit_test(sequence_operators),
        cmocka_unit_test(split_insert_join), cmocka_unit_test(lists_where_tensors_belong),
        cmocka_unit_test(optional_operators), cmocka_unit_test(memory_is_counted)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
