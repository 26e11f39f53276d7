/* SPDX-License-Identifier: Apache-2.0
 * The pair guard, proven on stored weights: x86 without VNNI multiplies uint8 activations by int8 weights with
 * vpmaddubsw, which adds two neighbouring products in int16 and saturates. Here that instruction is simulated over
 * the weights as quantized, in the order runtimes sum: channels-last im2col (kernel positions outermost, input channels
 * innermost) for a convolution, rows for a matrix; with the activations that make each pair's sum largest. */
/* clang-format off: cmocka.h needs the first three */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <cmocka.h>
/* clang-format on */
#include "tests/unit/graphs.h"

/* The largest and smallest sum of a pair over all uint8 activations do not fit into int16. */
static bool pair_saturates(int w1, int w2)
{
    int high = 255 * ((w1 > 0 ? w1 : 0) + (w2 > 0 ? w2 : 0)), low = 255 * ((w1 < 0 ? w1 : 0) + (w2 < 0 ? w2 : 0));
    return high > INT16_MAX || low < INT16_MIN;
}

/* Pairs (0,1), (2,3), ... of each output channel; the last weight of an odd row is alone. */
static int64_t count_saturating(const int8_t *w, int64_t channels, int64_t count,
                                int64_t (*at)(int64_t, int64_t, const int64_t *), const int64_t *dim)
{
    int64_t found = 0;
    for (int64_t o = 0; o < channels; o++)
        for (int64_t k = 0; k + 1 < count; k += 2)
            found += pair_saturates(w[at(o, k, dim)], w[at(o, k + 1, dim)]);
    return found;
}

/* Conv [O,C,H,W]: k runs over H, W, then C fastest. */
static int64_t conv_at(int64_t o, int64_t k, const int64_t *dim)
{
    int64_t c = k % dim[1], position = k / dim[1];
    return (o * dim[1] + c) * dim[2] * dim[3] + position;
}
static int64_t rows_at(int64_t o, int64_t k, const int64_t *dim) /* [N,K]: Gemm with transB */
{
    return o * dim[1] + k;
}
static int64_t columns_at(int64_t o, int64_t k, const int64_t *dim) /* [K,N] */
{
    return k * dim[1] + o;
}

struct kind {
    const char *op, *step;
    struct shape w;
    bool trans_b, all_equal;
};

static void simulate(const struct kind *k, const char *more, uint64_t seed, int64_t *saturating, double *error)
{
    struct model *m = g_new(13);
    bool conv = !strcmp(k->op, "Conv");
    int64_t n = DIM_SYMBOL(model_symbol(m, "N"));
    int64_t wide = conv ? 0 : k->w.dim[k->trans_b ? 1 : 0];
    uint32_t x = g_input(m, "x", conv ? SHAPE(n, k->w.dim[1], 6, 6) : SHAPE(n, wide)), w;
    float v[4096];
    struct rng rng;
    rng_init(&rng, seed, 2);
    for (int64_t i = 0; i < shape_count(&k->w); i++) /* of one sign and one size: every pair would overflow */
        v[i] = k->all_equal ? 0.7f : (float)(fabs(rng_normal(&rng)) * (i % 3 ? 1 : -1));
    w = g_const(m, "w", k->w, v);
    uint32_t y = G_OP(m, k->op, "y", x, w);
    if (k->trans_b)
        node_set_int(m, g_maker(m, y), "transB", 1);
    g_output(m, y);
    struct model *was = model_clone(m, NULL);
    struct tensor t = {0};
    g_fill(&t, conv ? SHAPE(4, k->w.dim[1], 6, 6) : SHAPE(4, wide), seed, 1);
    char step[128];
    snprintf(step, sizeof step, "%s %s", k->step, more);
    struct g_done done = g_apply(m, step, strstr(step, "static") ? &t : NULL);
    *error = g_error(was, m, &t, 0);
    const struct tensor *codes = NULL;
    for (uint32_t i = 0; i < m->n_values; i++)
        if (m->values[i].weight && m->values[i].name && m->values[i].weight->tensor.dtype == DTYPE_INT8 &&
            tensor_count(&m->values[i].weight->tensor) == shape_count(&k->w))
            codes = &m->values[i].weight->tensor;
    assert_non_null(codes);
    const int64_t *dim = codes->shape.dim;
    if (conv)
        *saturating = count_saturating(codes->data, dim[0], shape_count(&codes->shape) / dim[0], conv_at, dim);
    else if (k->trans_b && codes->shape.dim[0] == k->w.dim[0])
        *saturating = count_saturating(codes->data, dim[0], dim[1], rows_at, dim);
    else
        *saturating = count_saturating(codes->data, dim[1], dim[0], columns_at, dim);
    g_done(&done);
    tensor_fini(&t);
    model_free(was);
    model_free(m);
}

static void test_portable_never_saturates(void **state)
{
    (void)state;
    static const char *const steps[] = {"quantize.static", "quantize.static per_channel=false",
                                        "quantize.static activations=int8", "quantize.dynamic",
                                        "quantize.dynamic per_channel=false"};
    const struct kind kinds[] = {
        {"Conv", NULL, SHAPE(4, 4, 3, 3), false, false}, {"Conv", NULL, SHAPE(4, 3, 3, 3), false, false}, /* odd */
        {"Conv", NULL, SHAPE(5, 1, 3, 3), false, false}, {"Conv", NULL, SHAPE(3, 7, 1, 1), false, false},
        {"Gemm", NULL, SHAPE(16, 9), false, false},      {"Gemm", NULL, SHAPE(9, 16), true, false},
        {"MatMul", NULL, SHAPE(15, 8), false, false},    {"MatMul", NULL, SHAPE(16, 1), false, false},
    };
    for (size_t s = 0; s < sizeof steps / sizeof steps[0]; s++)
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
            for (uint64_t seed = 0; seed < 4; seed++) {
                struct kind k = kinds[i];
                int64_t portable, vnni;
                double error;
                k.step = steps[s];
                k.all_equal = seed == 0;
                if (!strcmp(k.op, "Conv") && strstr(k.step, "dynamic"))
                    continue; /* stays in float */
                simulate(&k, "isa=portable", seed, &portable, &error);
                if (portable)
                    fail_msg("%s of %s, seed %d: %d pairs saturate", k.step, k.op, (int)seed, (int)portable);
                assert_true(error < 0.05);
                simulate(&k, "isa=vnni", seed, &vnni, &error);
                if (k.all_equal) /* 255 * (127 + 127) */
                    assert_true(vnni > 0);
                assert_true(error < 0.05);
            }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_portable_never_saturates)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
