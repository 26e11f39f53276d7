/* SPDX-License-Identifier: Apache-2.0
 * The .pared container: tensors of every dtype come back, each bit flip and truncation is refused before a byte is
 * handed out wrong, limits hold, the same bytes at any thread count. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "core/base/file.h"
#include "core/encode/array_coding.h"
#include "core/encode/container.h"
#include "core/model/onnx_write.h"
#include "graphs.h"

static char folder[] = "/tmp/pared-container-XXXXXX";

struct memory {
    const unsigned char *data;
    size_t at, len, step;
};
static long source(void *arg, void *bytes, size_t n, struct err *err)
{
    struct memory *m = arg;
    (void)err;
    n = n < m->step ? n : m->step;
    n = n < m->len - m->at ? n : m->len - m->at;
    memcpy(bytes, m->data + m->at, n);
    m->at += n;
    return (long)n;
}

/* Compares what is handed out with what it should be; counts files that came to their end. */
struct expected {
    const unsigned char *data;
    size_t at, len;
    int ended;
    bool wrong;
};
static int begin(void *arg, int file, int files, const char *name, uint64_t bytes, struct err *err)
{
    struct expected *e = arg;
    (void)file, (void)files, (void)err;
    e->wrong |= strcmp(name, "model.onnx") != 0 || bytes != e->len;
    return 0;
}
static int more(void *arg, const void *bytes, size_t n, struct err *err)
{
    struct expected *e = arg;
    (void)err;
    if (n > e->len - e->at || memcmp(e->data + e->at, bytes, n))
        e->wrong = true;
    else
        e->at += n;
    return 0;
}
static int end(void *arg, struct err *err)
{
    (void)err;
    ((struct expected *)arg)->ended++;
    return 0;
}

static int read_all(const void *data, size_t len, size_t step, struct expected *e, uint64_t limit, struct err *err)
{
    struct memory m = {data, 0, len, step};
    const struct container_sink sink = {begin, more, end, e};
    e->at = 0;
    e->ended = 0;
    return container_read(source, &m, limit, &sink, err);
}

static void fill(struct tensor *t, int kind, struct rng *rng)
{
    const int64_t n = tensor_count(t);
    for (int64_t i = 0; i < n; i++) {
        const double v = kind == 0            ? 3 * rng_normal(rng)
                         : kind == 1          ? (double)rng_below(rng, 4)
                         : rng_below(rng, 20) ? 0
                                              : 5;
        dtype_set(t->dtype, t->data, i, dtype_kind(t->dtype) == 'u' ? fabs(v) : v);
    }
}

/* Weights of every dtype that has raw bytes: normal values, few values, sparse. */
static struct model *all_dtypes(void)
{
    struct model *m = g_new(13);
    struct rng rng;
    rng_init(&rng, 7, 0);
    for (int d = 1; d < DTYPE_COUNT; d++) {
        if (!dtype_valid(d) || d == DTYPE_STRING)
            continue;
        for (int kind = 0; kind < 3; kind++) {
            struct tensor t = {0};
            char name[40];
            assert_int_equal(tensor_alloc(&t, (enum dtype)d, &SHAPE(9, 41), NULL), 0);
            fill(&t, kind, &rng);
            snprintf(name, sizeof name, "%s_%d", dtype_name((enum dtype)d), kind);
            model_add_weight(m, 0, name, &t);
            tensor_fini(&t);
        }
    }
    return m;
}

static char *path_of(const char *name)
{
    char *path = NULL;
    assert_true(asprintf(&path, "%s/%s", folder, name) > 0);
    return path;
}

static char *write_model(struct model *m, const char *name)
{
    char *path = path_of(name);
    struct err err = {0};
    if (onnx_write_file(m, path, &(struct onnx_write_opts){0}, &err))
        fail_msg("%s", err.msg);
    return path;
}

static unsigned char *pack(const char *model, const struct container_opts *o, size_t *len, json_t **facts)
{
    char *to = path_of("model.pared");
    struct err err = {0};
    if (container_write(model, NULL, 0, to, o, facts, &err))
        fail_msg("%s", err.msg);
    unsigned char *data = (unsigned char *)file_read(to, 1 << 28, len, &err);
    assert_non_null(data);
    free(to);
    return data;
}

static void test_every_dtype(void **state)
{
    (void)state;
    struct model *m = all_dtypes();
    char *path = write_model(m, "in.onnx");
    struct err err = {0};
    struct expected e = {0};
    e.data = (unsigned char *)file_read(path, 1 << 28, &e.len, &err);
    struct pool *pool = pool_new(2);
    for (int effort = CONTAINER_AUTO; effort <= CONTAINER_SMALLEST; effort++)
        for (int only = -1; only <= SYMBOLS_MIXED; only += only < 0 ? 3 : 1) {
            size_t len, again;
            json_t *facts = NULL;
            const struct container_opts o = {(enum container_effort)effort, only, pool},
                                        alone = {(enum container_effort)effort, only, NULL};
            unsigned char *packed = pack(path, &o, &len, &facts), *same = pack(path, &alone, &again, NULL);
            assert_int_equal(len, again);
            assert_memory_equal(packed, same, len);
            assert_int_equal(json_integer_value(json_object_get(facts, "container_bytes")), len);
            assert_in_range(json_array_size(json_object_get(facts, "tensors")), 60, 75);
            if (read_all(packed, len, len % 7 + 1, &e, 1 << 28, &err))
                fail_msg("%s", err.msg);
            assert_int_equal(e.ended, 1);
            assert_false(e.wrong);
            assert_true(len < e.len);
            json_decref(facts);
            free(packed);
            free(same);
        }
    pool_free(pool);
    free((void *)e.data);
    free(path);
    model_free(m);
}

static struct model *tiny(void)
{
    struct model *m = g_new(13);
    uint32_t x = g_input(m, "x", SHAPE(2, 8)), w = g_random(m, "w", SHAPE(8, 16), 1, 1);
    g_output(m, G_OP(m, "MatMul", "y", x, w));
    return m;
}

static void test_every_bit_and_length(void **state)
{
    (void)state;
    struct model *m = tiny();
    char *path = write_model(m, "tiny.onnx");
    struct err err = {0};
    struct expected e = {0};
    size_t len;
    e.data = (unsigned char *)file_read(path, 1 << 20, &e.len, &err);
    unsigned char *packed = pack(path, &(struct container_opts){.only = -1}, &len, NULL);
    for (size_t bit = 0; bit < 8 * len; bit++) {
        struct err refused = {0};
        packed[bit / 8] = (unsigned char)(packed[bit / 8] ^ 1 << bit % 8);
        if (read_all(packed, len, len, &e, 1 << 20, &refused) != -1 || refused.code != ERR_INVALID)
            fail_msg("bit %zu: %s", bit, refused.msg);
        assert_false(e.wrong); /* nothing wrong was handed out before */
        packed[bit / 8] = (unsigned char)(packed[bit / 8] ^ 1 << bit % 8);
    }
    for (size_t cut = 0; cut < len; cut++) {
        struct err refused = {0};
        assert_int_equal(read_all(packed, cut, len, &e, 1 << 20, &refused), -1);
        assert_int_equal(refused.code, ERR_INVALID);
    }
    assert_int_equal(read_all(packed, len, 1, &e, 1 << 20, &err), 0);
    struct err large = {0};
    assert_int_equal(read_all(packed, len, len, &e, e.len - 1, &large), -1);
    assert_int_equal(large.code, ERR_TOO_LARGE);
    free(packed);
    free((void *)e.data);
    free(path);
    model_free(m);
}

/* Files that are no models, an empty one too: all literal. */
static void test_any_bytes(void **state)
{
    (void)state;
    const char *const contents[] = {"", "x", "not a model at all, not a model at all", "\x3a\xff\xff\xff\xff\x0f"};
    for (size_t i = 0; i < sizeof contents / sizeof contents[0]; i++) {
        char *path = path_of("any");
        struct err err = {0};
        struct expected e = {(const unsigned char *)contents[i], 0, strlen(contents[i]), 0, false};
        size_t len;
        assert_int_equal(file_write_atomic(path, contents[i], e.len, &err), 0);
        unsigned char *packed = pack(path, &(struct container_opts){.only = -1}, &len, NULL);
        if (read_all(packed, len, len, &e, 1 << 20, &err))
            fail_msg("%s", err.msg);
        assert_true(!e.wrong && e.at == e.len && e.ended == 1);
        free(packed);
        free(path);
    }
}

/* A tensor larger than a block is cut. */
static void test_large(void **state)
{
    (void)state;
    enum { N = (9 << 20) / 4 };
    struct model *m = g_new(13);
    struct tensor t = {0};
    struct rng rng;
    rng_init(&rng, 5, 0);
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &SHAPE(N / 1024, 1024), NULL), 0);
    for (int i = 0; i < N; i++)
        tensor_f32(&t)[i] = (float)(rng_uniform(&rng) + rng_uniform(&rng) - 1);
    model_add_weight(m, 0, "w", &t);
    char *path = write_model(m, "large.onnx");
    struct err err = {0};
    struct expected e = {0};
    size_t len;
    e.data = (unsigned char *)file_read(path, 1 << 28, &e.len, &err);
    unsigned char *packed = pack(path, &(struct container_opts){.effort = CONTAINER_FAST, .only = -1}, &len, NULL);
    assert_int_equal(read_all(packed, len, 100000, &e, 1 << 28, &err), 0);
    assert_true(!e.wrong && e.at == e.len && e.ended == 1);
    assert_true(len < e.len * 9 / 10);
    free(packed);
    free((void *)e.data);
    free(path);
    tensor_fini(&t);
    model_free(m);
}

static void test_hostile_arrays(void **state)
{
    (void)state;
    const unsigned char bytes[][10] = {{0, 0},          {200, 1, 0},    {4, 5},
                                       {4, 64},         {4, 1, 0},      {4, 1, 1, 9},
                                       {4, 0x21, 1, 0}, {4, 3, 0},      {4, 3, 1, 1, 255, 1, 0, 0},
                                       {4, 4, 0},       {4, 2, 2, 2, 2}};
    for (size_t i = 0; i < sizeof bytes / sizeof bytes[0]; i++) {
        unsigned char out[64];
        struct err err = {0};
        struct mix mix;
        size_t size;
        struct byte_reader r = {bytes[i], 0, sizeof bytes[i]};
        if (i == 10)
            r.len = 5;
        assert_int_equal(mix_init_decoder(&mix, "", 0, &err), 0);
        if (array_decode(&r, &mix, out, 32, &size, &err) != -1 || err.code != ERR_INVALID)
            fail_msg("case %zu was taken", i);
        mix_fini(&mix);
    }
}

int main(void)
{
    if (!mkdtemp(folder))
        return 1;
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_dtype), cmocka_unit_test(test_every_bit_and_length),
                                       cmocka_unit_test(test_any_bytes), cmocka_unit_test(test_large),
                                       cmocka_unit_test(test_hostile_arrays)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    file_remove_tree(folder, NULL);
    return failed;
}
