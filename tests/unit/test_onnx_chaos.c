/* SPDX-License-Identifier: Apache-2.0
 * Every allocation fails once: reading, validating, describing, cloning and writing a model must survive each of them,
 * say "out of memory" and leak nothing (the last under MODE=asan). Linked with -Wl,--wrap (tools/targets.mk). */
/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
/* clang-format on */

#include "core/model/onnx_read.h"
#include "core/model/onnx_write.h"
#include "core/model/validate.h"
#include "tests/unit/wire_bytes.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *p, size_t size);
void *__real_aligned_alloc(size_t align, size_t size);

static long left = -1; /* allocations until one fails; -1: none does */

static bool fails(void)
{
    return left >= 0 && left-- == 0;
}

void *__wrap_malloc(size_t size)
{
    return fails() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t count, size_t size)
{
    return fails() ? NULL : __real_calloc(count, size);
}
void *__wrap_realloc(void *p, size_t size)
{
    return fails() ? NULL : __real_realloc(p, size);
}
void *__wrap_aligned_alloc(size_t align, size_t size)
{
    return fails() ? NULL : __real_aligned_alloc(align, size);
}

/* Nodes, typed and raw weights, a nested graph, a function, metadata, an unknown field. */
static struct buf make_model(void)
{
    struct buf g = {0}, branch = {0}, node = {0}, attr = {0}, typed = {0}, packed = {0}, function = {0}, body = {0};
    wb_node(&branch, "Neg", "neg", "x", "inner");
    wb_value(&branch, 12, "inner", 4);
    wb_text(&attr, 1, "then_branch");
    wb_message(&attr, 6, &branch);
    wb_int(&attr, 20, 5);
    wb_text(&node, 1, "w");
    wb_text(&node, 2, "y");
    wb_text(&node, 4, "If");
    wb_message(&node, 5, &attr);
    wb_int(&node, 777, 1);
    wb_message(&g, 1, &node);
    wb_initializer(&g, "w", (int64_t[]){8}, 1, 32);
    for (int i = 0; i < 40; i++) {
        char name[16];
        snprintf(name, sizeof name, "w%d", i);
        wb_initializer(&g, name, (int64_t[]){8}, 1, 32);
    }
    wb_varint(&packed, 7);
    wb_int(&typed, 1, 1);
    wb_int(&typed, 2, DTYPE_INT32);
    wb_message(&typed, 5, &packed);
    wb_text(&typed, 8, "typed");
    wb_message(&g, 5, &typed);
    wb_value(&g, 11, "x", 4);
    wb_value(&g, 12, "y", 4);
    struct buf model = wb_model(&g, 13);
    wb_text(&function, 1, "F");
    wb_text(&function, 4, "a");
    wb_text(&function, 5, "b");
    wb_text(&body, 1, "a");
    wb_text(&body, 2, "b");
    wb_text(&body, 4, "Relu");
    wb_message(&function, 7, &body);
    wb_text(&function, 10, "local");
    wb_message(&model, 25, &function);
    return model;
}

/* 0 when all went well; otherwise *err must say why. */
static int life(const struct buf *b, struct err *err)
{
    struct buf out = {0};
    struct uses uses;
    struct model *m = NULL, *clone = NULL;
    int rc = -1;
    struct tbuf *bytes = tbuf_new(b->len, err);
    if (!bytes)
        return -1;
    memcpy(tbuf_data(bytes), b->data, b->len);
    m = onnx_read_bytes(bytes, b->len, NULL, err);
    clone = m && model_validate(m, err) == 0 ? model_clone(m, err) : NULL;
    if (!clone || uses_build(&uses, clone, err))
        goto out;
    uses_fini(&uses);
    rc = onnx_write_buf(clone, &out, err);
    if (rc == 0) {
        assert_int_equal(out.len, b->len);
        assert_memory_equal(out.data, b->data, b->len);
    }
out:
    model_free(m);
    model_free(clone);
    tbuf_unref(bytes);
    buf_fini(&out);
    return rc;
}

static void test_every_allocation(void **state)
{
    (void)state;
    struct buf b = make_model();
    long tried = 0;
    for (bool done = false; !done; tried++) {
        struct err err = {0};
        left = tried;
        int rc = life(&b, &err);
        done = left >= 0; /* the failure was not reached */
        left = -1;
        if (rc != (done ? 0 : -1) || err.code != (done ? ERR_NONE : ERR_NOMEM))
            printf("allocation %ld: %s\n", tried, err.msg);
        assert_int_equal(rc, done ? 0 : -1);
        assert_int_equal(err.code, done ? ERR_NONE : ERR_NOMEM);
    }
    printf("%ld allocations failed in turn\n", tried - 1);
    assert_true(tried > 20);
    buf_fini(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_allocation)};
    return cmocka_run_group_tests_name("onnx_chaos", tests, NULL, NULL);
}
