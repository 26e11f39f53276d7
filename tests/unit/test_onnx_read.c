/* SPDX-License-Identifier: Apache-2.0
 * The reader against files that are no models, or hostile ones: the exact sentence for each. */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>
/* clang-format on */

#include "core/base/file.h"
#include "core/model/onnx_read.h"
#include "core/model/onnx_write.h"
#include "core/model/validate.h"
#include "tests/unit/wire_bytes.h"

static struct model *read_bytes(const void *data, size_t len, const struct onnx_read_opts *opts, struct err *err)
{
    struct tbuf *bytes = tbuf_new(len, err);
    assert_non_null(bytes);
    if (len)
        memcpy(tbuf_data(bytes), data, len);
    struct model *m = onnx_read_bytes(bytes, len, opts, err);
    tbuf_unref(bytes);
    return m;
}

/* Read and validate; the sentence, or "" when all is well. */
static const char *verdict(const struct buf *b, const struct onnx_read_opts *opts)
{
    static struct err err;
    err = (struct err){0};
    struct model *m = read_bytes(b->data ? b->data : "", b->len, opts, &err);
    if (m)
        model_validate(m, &err);
    model_free(m);
    return err.msg;
}

/* y = Relu(x), the frame that each row spoils. */
static struct buf plain_graph(void)
{
    struct buf g = {0};
    wb_node(&g, "Relu", "relu", "x", "y");
    wb_text(&g, 2, "g");
    return g;
}

static struct buf finish(struct buf g)
{
    wb_value(&g, 11, "x", 4);
    wb_value(&g, 12, "y", 4);
    return wb_model(&g, 13);
}

static struct buf literal(const char *text)
{
    struct buf b = {0};
    buf_puts(&b, text);
    return b;
}

static struct buf make_good(void)
{
    return finish(plain_graph());
}
static struct buf make_empty(void)
{
    return (struct buf){0};
}
static struct buf make_text(void)
{
    return literal("Dear service, please find attached my model.\n");
}
static struct buf make_json(void)
{
    return literal("{\"model\": 1}");
}
static struct buf make_html(void)
{
    return literal("<!DOCTYPE html><html></html>");
}
static struct buf make_lfs(void)
{
    return literal("version https://git-lfs.github.com/spec/v1\noid sha256:00\n");
}

static struct buf make_png(void)
{
    struct buf b = {0};
    buf_append(&b, "\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\1\0\0\0\1\10\2\0\0\0", 29);
    return b;
}

static struct buf make_zip(void)
{
    struct buf b = {0};
    buf_append(&b, "PK\3\4\24\0\0\0\0\0abcdefgh", 18);
    return b;
}

/* TensorProto: dims and data_type are numbers where a model has numbers and text. */
static struct buf make_tensor_proto(void)
{
    struct buf b = {0};
    wb_int(&b, 1, 3);
    wb_int(&b, 2, 1);
    wb_text(&b, 8, "t");
    return b;
}

static struct buf make_fixed64(void)
{
    struct buf b = {0};
    wb_varint(&b, 1 << 3 | 1);
    buf_append(&b, "\1\2\3\4\5\6\7\10", 8);
    return b;
}

static struct buf make_no_graph(void)
{
    struct buf b = {0};
    wb_int(&b, 1, 8);
    wb_text(&b, 2, "maker");
    return b;
}

static struct buf make_group(void)
{
    struct buf b = {0};
    wb_int(&b, 1, 8);
    wb_text(&b, 2, "maker");
    wb_varint(&b, 99 << 3 | 3);
    return b;
}

static struct buf make_cut(void)
{
    struct buf b = make_good();
    b.len -= 20;
    return b;
}

static struct buf make_cycle(void)
{
    struct buf g = {0};
    wb_node(&g, "Add", "first", "b", "a");
    wb_node(&g, "Relu", "second", "a", "b");
    wb_node(&g, "Relu", "third", "x", "y");
    return finish(g);
}

static struct buf make_missing(void)
{
    struct buf g = {0};
    wb_node(&g, "Relu", "relu", "w", "y");
    return finish(g);
}

static struct buf make_duplicate(void)
{
    struct buf g = plain_graph();
    wb_node(&g, "Relu", "again", "x", "y");
    return finish(g);
}

static struct buf with_weight(const int64_t *dims, int rank, int raw)
{
    struct buf g = plain_graph();
    wb_initializer(&g, "w", dims, rank, raw);
    return finish(g);
}

static struct buf make_negative(void)
{
    return with_weight((int64_t[]){2, -3}, 2, 24);
}
static struct buf make_overflow(void)
{
    return with_weight((int64_t[]){INT64_MAX, INT64_MAX}, 2, 4);
}
static struct buf make_huge(void)
{
    return with_weight((int64_t[]){(int64_t)1 << 62}, 1, 100);
}
static struct buf make_huge_fits(void)
{
    return with_weight((int64_t[]){(int64_t)1 << 59}, 1, 100);
}
static struct buf make_short(void)
{
    return with_weight((int64_t[]){2, 2}, 2, 12);
}
static struct buf make_no_elements(void)
{
    return with_weight((int64_t[]){2, 2}, 2, -1);
}

static struct buf make_bad_dim(void)
{
    struct buf g = plain_graph();
    wb_value(&g, 13, "y", -7);
    return finish(g);
}

static struct buf external(const char *location, const char *offset, const char *length)
{
    struct buf g = plain_graph(), tensor = {0};
    const char *pairs[][2] = {{"location", location}, {"offset", offset}, {"length", length}};
    wb_int(&tensor, 1, 4);
    wb_int(&tensor, 2, 1);
    wb_text(&tensor, 8, "w");
    for (int i = 0; i < 3; i++) {
        struct buf entry = {0};
        if (!pairs[i][1])
            continue;
        wb_text(&entry, 1, pairs[i][0]);
        wb_text(&entry, 2, pairs[i][1]);
        wb_message(&tensor, 13, &entry);
    }
    wb_int(&tensor, 14, 1);
    wb_message(&g, 5, &tensor);
    return finish(g);
}

static struct buf make_traversal(void)
{
    return external("../../etc/passwd", NULL, NULL);
}
static struct buf make_absolute(void)
{
    return external("/etc/passwd", NULL, NULL);
}
static struct buf make_link(void)
{
    return external("link.bin", NULL, NULL);
}
static struct buf make_folder(void)
{
    return external("folder", NULL, NULL);
}
static struct buf make_absent(void)
{
    return external("absent.bin", NULL, NULL);
}
static struct buf make_beyond(void)
{
    return external("w.bin", "18446744073709551615", NULL);
}
static struct buf make_off_end(void)
{
    return external("w.bin", "1", NULL);
}
static struct buf make_negative_offset(void)
{
    return external("w.bin", "-8", NULL);
}
static struct buf make_wrong_length(void)
{
    return external("w.bin", "0", "999999999999999");
}
static struct buf make_external_good(void)
{
    return external("w.bin", "0", "16");
}

/* If inside If ..., or types inside types: the innermost first. */
static struct buf make_deep(void)
{
    struct buf type = {0};
    for (int i = 0; i < 10000; i++) {
        struct buf sequence = {0}, outer = {0};
        wb_message(&sequence, 1, &type);
        wb_message(&outer, 4, &sequence);
        type = outer;
    }
    struct buf g = plain_graph(), info = {0};
    wb_text(&info, 1, "y");
    wb_message(&info, 2, &type);
    wb_message(&g, 13, &info);
    return finish(g);
}

static struct buf make_opset(void)
{
    struct buf g = plain_graph();
    wb_value(&g, 11, "x", 4);
    wb_value(&g, 12, "y", 4);
    return wb_model(&g, 99);
}

static struct buf make_no_outputs(void)
{
    struct buf g = plain_graph();
    wb_value(&g, 11, "x", 4);
    return wb_model(&g, 13);
}

/* Nothing to feed: a constant goes through Relu. Valid ONNX. */
static struct buf make_no_inputs(void)
{
    struct buf g = {0};
    wb_node(&g, "Relu", "relu", "w", "y");
    wb_initializer(&g, "w", (int64_t[]){4}, 1, 16);
    wb_value(&g, 12, "y", 4);
    return wb_model(&g, 13);
}

static struct buf make_unknown_op(void)
{
    struct buf g = {0};
    wb_node(&g, "NobodyKnows", "n", "x", "y");
    return finish(g);
}

static struct buf make_nul(void)
{
    struct buf g = plain_graph(), node = {0};
    wb_bytes(&node, 3, "a\0b", 3);
    wb_message(&g, 1, &node);
    return finish(g);
}

static struct buf make_no_op_type(void)
{
    struct buf g = plain_graph(), node = {0};
    wb_text(&node, 3, "nameless");
    wb_message(&g, 1, &node);
    return finish(g);
}

static struct buf make_twice(void)
{
    struct buf b = make_good(), g = plain_graph();
    wb_message(&b, 7, &g);
    return b;
}

static struct buf make_two_places(void)
{
    struct buf g = plain_graph(), tensor = {0};
    wb_int(&tensor, 1, 1);
    wb_int(&tensor, 2, 1);
    wb_bytes(&tensor, 4, "abcd", 4);
    wb_text(&tensor, 8, "w");
    wb_bytes(&tensor, 9, "abcd", 4);
    wb_message(&g, 5, &tensor);
    return finish(g);
}

static struct buf make_wrong_list(void)
{
    struct buf g = plain_graph(), tensor = {0};
    wb_int(&tensor, 1, 1);
    wb_int(&tensor, 2, 1);
    wb_int(&tensor, 7, 5);
    wb_text(&tensor, 8, "w");
    wb_message(&g, 5, &tensor);
    return finish(g);
}

/* Two bytes in the file, some hundred in memory each. */
static struct buf make_bomb(void)
{
    struct buf g = {0};
    for (int i = 0; i < 3000000; i++)
        buf_append(&g, "\x0a\x00", 2);
    return finish(g);
}

static const struct {
    const char *what;
    struct buf (*make)(void);
    const char *expected;
} rows[] = {
    {"a good model", make_good, ""},
    {"empty", make_empty, "the model file is empty (0 bytes)"},
    {"text", make_text, "this is a text file, not an ONNX model"},
    {"JSON", make_json, "this is JSON text, not an ONNX model"},
    {"HTML", make_html, "this is an HTML page, not an ONNX model"},
    {"git-lfs", make_lfs, "this is a git-lfs pointer; fetch the file itself with git lfs pull, not an ONNX model"},
    {"PNG", make_png, "this is a PNG picture, not an ONNX model"},
    {"zip", make_zip,
     "this is a zip archive (PyTorch and Keras save their models so; export to ONNX instead), not an ONNX model"},
    {"TensorProto", make_tensor_proto,
     "not an ONNX model: field 2 (producer_name) of ModelProto at byte 2 has wire type 0 (varint), expected 2 "
     "(length-delimited)"},
    {"fixed64", make_fixed64,
     "not an ONNX model: field 1 (ir_version) of ModelProto at byte 0 has wire type 1 (64-bit), expected 0 (varint)"},
    {"no graph", make_no_graph, "not an ONNX model: it has no graph (field 7 of ModelProto)"},
    {"group", make_group,
     "the model file is damaged: field 99 of ModelProto at byte 9 has wire type 3 (group start), which ONNX does not "
     "use"},
    {"cut", make_cut,
     "not an ONNX model, or only its first bytes: field 7 (graph) of ModelProto at byte 2 announces 57 bytes, but only "
     "43 are left"},
    {"cycle", make_cycle, "node 'second' (Relu) is part of a cycle: its inputs depend on its own outputs"},
    {"missing initializer", make_missing,
     "node 'relu' (Relu) reads 'w' (input 0), which no node, graph input or initializer defines"},
    {"duplicate name", make_duplicate, "node 'again' defines 'y', a name that is taken already; names must be unique"},
    {"negative dims", make_negative, "initializer 'w': dims[1] is -3; a dimension is at least 0"},
    {"overflowing dims", make_overflow,
     "initializer 'w': float32[9223372036854775807,9223372036854775807] is larger than any tensor can be"},
    {"2^62 elements", make_huge, "initializer 'w': float32[4611686018427387904] is larger than any tensor can be"},
    {"2^59 elements", make_huge_fits,
     "initializer 'w': raw_data holds 100 bytes, but float32[576460752303423488] needs 2305843009213693952"},
    {"short raw_data", make_short, "initializer 'w': raw_data holds 12 bytes, but float32[2,2] needs 16"},
    {"no elements", make_no_elements,
     "initializer 'w': has no elements, but float32[2,2] needs 4 (a model saved without its weights?)"},
    {"negative dim of a value", make_bad_dim, "value 'y': dimension 0 is -7; a dimension is at least 0"},
    {"traversal", make_traversal,
     "initializer 'w': external data location '../../etc/passwd' is not allowed: it must be the plain name of a file "
     "beside the "
     "model"},
    {"absolute", make_absolute,
     "initializer 'w': external data location '/etc/passwd' is not allowed: it must be the plain name of a file beside "
     "the model"},
    {"symbolic link", make_link,
     "initializer 'w': external data file 'link.bin' is a symbolic link, expected a regular file"},
    {"folder", make_folder, "initializer 'w': external data file 'folder' is no regular file"},
    {"absent", make_absent,
     "initializer 'w': external data file 'absent.bin' is missing; give it together with the model"},
    {"offset + length wraps", make_beyond,
     "initializer 'w': external data wants 16 bytes at offset 18446744073709551615 of 'w.bin', which has only 16"},
    {"off the end", make_off_end,
     "initializer 'w': external data wants 16 bytes at offset 1 of 'w.bin', which has only 16"},
    {"negative offset", make_negative_offset,
     "initializer 'w': external data has offset '-8', expected a number of bytes"},
    {"wrong length", make_wrong_length,
     "initializer 'w': external data has length 999999999999999, but float32[4] needs 16"},
    {"external data", make_external_good, ""},
    {"10,000 levels", make_deep, "the model file is damaged: nested deeper than 64 levels at byte offset 280"},
    {"opset 99", make_opset,
     "the model is written for opset 99 of the standard operators; the newest known is 28: export it with an older opset"},
    {"no outputs", make_no_outputs, "the graph has no outputs, so there is nothing to compute"},
    {"no inputs", make_no_inputs, ""},
    {"unknown operator", make_unknown_op, ""},
    {"NUL in a name", make_nul,
     "the model file is damaged: field 3 (name) of NodeProto at byte 29 is text with a NUL byte in it"},
    {"no op_type", make_no_op_type, "node 1 'nameless' has no op_type"},
    {"two graphs", make_twice,
     "the model file is damaged: field 7 (graph) of ModelProto at byte 67 appears twice; at most one is allowed"},
    {"two places", make_two_places, "initializer 'w': has both float_data and raw_data; one place holds the elements"},
    {"wrong list", make_wrong_list, "initializer 'w': is float32 but has its elements in int64_data"},
    {"bomb", make_bomb, "the model's structure would take more than"},
};

static char folder[] = "/tmp/pared-test-XXXXXX";

static void test_bad_files(void **state)
{
    (void)state;
    struct onnx_read_opts opts = {.external_dir = folder};
    int wrong = 0;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct buf b = rows[i].make();
        const char *got = verdict(&b, &opts);
        size_t len = strlen(rows[i].expected);
        bool prefix = !strcmp(rows[i].what, "bomb") && !strncmp(got, rows[i].expected, len);
        if (!prefix && strcmp(got, rows[i].expected) != 0) {
            printf("%s:\n   got '%s'\n  want '%s'\n", rows[i].what, got, rows[i].expected);
            wrong++;
        }
        buf_fini(&b);
    }
    assert_int_equal(wrong, 0);
}

/* A real file cut at every 1/64 of its length is refused, with a sentence. */
static void test_truncated(void **state)
{
    (void)state;
    struct buf whole = external("w.bin", "0", "16");
    for (int k = 0; k < 64; k++) {
        struct buf part = {.data = whole.data, .len = whole.len * (size_t)k / 64};
        const char *got = verdict(&part, &(struct onnx_read_opts){.external_dir = folder});
        assert_true(*got);
    }
    buf_fini(&whole);
}

static void test_typed_lists(void **state)
{
    (void)state;
    struct buf g = plain_graph();
    struct buf half = {0}, ints = {0}, packed = {0};
    wb_varint(&packed, 0x3c00); /* float16 1.0 */
    wb_varint(&packed, 0xc000); /* -2.0 */
    wb_int(&half, 1, 2);
    wb_int(&half, 2, DTYPE_FLOAT16);
    wb_message(&half, 5, &packed);
    wb_text(&half, 8, "half");
    wb_message(&g, 5, &half);
    wb_int(&ints, 1, 2); /* an old writer: not packed */
    wb_int(&ints, 2, DTYPE_INT64);
    wb_int(&ints, 7, -5);
    wb_int(&ints, 7, (int64_t)1 << 40);
    wb_text(&ints, 8, "ints");
    wb_message(&g, 5, &ints);
    struct buf file = finish(g), again = {0};
    struct err err = {0};
    struct model *m = read_bytes(file.data, file.len, NULL, &err);
    assert_non_null(m);
    const struct tensor *t = value_const(m, model_find_value(m, 0, "half"));
    assert_non_null(t);
    assert_int_equal(t->bytes, 4);
    assert_float_equal(dtype_get(t->dtype, t->data, 0), 1, 0);
    assert_float_equal(dtype_get(t->dtype, t->data, 1), -2, 0);
    t = value_const(m, model_find_value(m, 0, "ints"));
    assert_int_equal(tensor_i64(t)[0], -5);
    assert_int_equal(tensor_i64(t)[1], (int64_t)1 << 40);
    assert_int_equal(onnx_write_buf(m, &again, &err), 0);
    assert_int_equal(again.len, file.len); /* lists come out as they were, packed or not */
    assert_memory_equal(again.data, file.data, file.len);
    buf_fini(&again);
    /* a changed tensor is written as raw_data */
    struct weight *w = m->values[model_find_value(m, 0, "half")].weight;
    assert_int_equal(tensor_writable(&w->tensor, &err), 0);
    dtype_set(w->tensor.dtype, w->tensor.data, 0, 4.0);
    assert_int_equal(onnx_write_buf(m, &again, &err), 0);
    struct model *second = read_bytes(again.data, again.len, NULL, &err);
    t = value_const(second, model_find_value(second, 0, "half"));
    assert_float_equal(dtype_get(t->dtype, t->data, 0), 4, 0);
    model_free(second);
    model_free(m);
    buf_fini(&again);
    buf_fini(&file);
}

/* IR 3: the initializer is listed as an input as well, and is constant; since IR 4 it is a default a caller may
 * override. */
static void test_initializer_as_input(void **state)
{
    (void)state;
    for (int ir = 3; ir <= 4; ir++) {
        struct buf g = plain_graph(), model = {0}, import = {0};
        struct err err = {0};
        wb_initializer(&g, "w", (int64_t[]){4}, 1, 16);
        wb_value(&g, 11, "x", 4);
        wb_value(&g, 11, "w", 4);
        wb_value(&g, 12, "y", 4);
        wb_int(&model, 1, ir);
        wb_message(&model, 7, &g);
        wb_int(&import, 2, 8);
        wb_message(&model, 8, &import);
        struct model *m = read_bytes(model.data, model.len, NULL, &err);
        assert_non_null(m);
        assert_int_equal(model_validate(m, &err), 0);
        uint32_t w = model_find_value(m, 0, "w");
        assert_true(value_is_graph_input(m, w));
        assert_int_equal(value_const(m, w) != NULL, ir == 3);
        model_free(m);
        buf_fini(&model);
    }
}

static void test_missing_external_allowed(void **state)
{
    (void)state;
    struct buf b = external("absent.bin", "0", "16"), again = {0};
    struct err err = {0};
    struct model *m = read_bytes(b.data, b.len, &(struct onnx_read_opts){.allow_missing_external = true}, &err);
    assert_non_null(m);
    assert_null(m->values[model_find_value(m, 0, "w")].weight->tensor.data);
    assert_int_equal(onnx_write_buf(m, &again, &err), 0);
    assert_int_equal(again.len, b.len);
    model_free(m);
    buf_fini(&again);
    buf_fini(&b);
}

static void test_no_such_file(void **state)
{
    (void)state;
    struct err err = {0};
    assert_null(onnx_read_file("/nonexistent/m.onnx", NULL, &err));
    assert_string_equal(err.msg, "the model file: cannot open: No such file or directory");
}

static int setup(void **state)
{
    (void)state;
    char path[256];
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/w.bin", folder);
    if (file_write_atomic(path, "0123456789abcdef", 16, NULL))
        return -1;
    snprintf(path, sizeof path, "%s/link.bin", folder);
    if (symlink("w.bin", path))
        return -1;
    snprintf(path, sizeof path, "%s/folder", folder);
    return mkdir(path, 0755);
}

static int teardown(void **state)
{
    (void)state;
    return file_remove_tree(folder, NULL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_typed_lists),
        cmocka_unit_test(test_initializer_as_input),
        cmocka_unit_test(test_missing_external_allowed),
        cmocka_unit_test(test_no_such_file),
    };
    return cmocka_run_group_tests_name("onnx_read", tests, setup, teardown);
}
