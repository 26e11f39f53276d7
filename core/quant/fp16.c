/* SPDX-License-Identifier: Apache-2.0
 * fp16.c - quantize.fp16 and quantize.bf16: weights and activations, or weights alone, in 16 bits.
 *
 *   float16   11 bits of precision, numbers from 6e-8 to 65504: nearly always exact enough, but sums can leave the
 *             range. With a dataset what every layer reads and makes is counted against the range.
 *   bfloat16  8 bits of precision, the range of float32. ONNX Runtime's CPU kernels compute next to nothing in it,
 *             so by default only weights are stored so, each behind a Cast to float32, which runs everywhere.
 * The parts: half_ranges.c counts, half_sides.c decides, half_rewrite.c rewrites. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/raise_opset.h"
#include "core/quant/half.h"
#include "core/quant/quantized.h"
#include "core/stats/sampling.h"

#define P(f) PARAM(quantize_half_params, f)
#define NODES                                                                                                          \
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},                   \
        {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},                 \
    {                                                                                                                  \
        P(keep_ops), .kind = PARAM_GLOBS,                                                                              \
        .doc = "no nodes whose operator matches one of these patterns (\"LayerNormalization\")"                      \
    }
#define KEEP_IO                                                                                                        \
    {                                                                                                                  \
        P(keep_io), .kind = PARAM_BOOL, .def = "true", .doc = "inputs and outputs of the model stay float32"           \
    }

static const struct param fp16_params[] = {
    KEEP_IO,
    {P(storage), .kind = PARAM_BOOL, .def = "false",
     .doc = "only store weights in float16, each behind a Cast; everything computes in float32 as before"},
    {P(samples), .kind = PARAM_INT, .def = "32", .min = 1, .max = 1000000,
     .doc = "with a dataset: samples on which activations are checked against the range of float16"},
    {P(max_overflow), .kind = PARAM_NUMBER, .def = "0", .min = 0, .max = 1,
     .doc = "with a dataset: a node stays in float32 if more than this share of what it reads or makes is beyond "
            "65504. Where nothing is beyond but numbers come within a factor of two, it stays too"},
    {P(max_underflow), .kind = PARAM_NUMBER, .def = "0.5", .min = 0, .max = 1,
     .doc = "with a dataset: a node stays in float32 if more than this share of the non-zero numbers it reads or "
            "makes is below 6.1e-05, the smallest normal float16"},
    NODES,
    {0},
};
static const struct param bf16_params[] = {
    KEEP_IO,
    {P(storage), .kind = PARAM_BOOL, .def = "true",
     .doc = "only store weights in bfloat16, each behind a Cast; everything computes in float32. false: activations in "
            "bfloat16 too, which ONNX Runtime does not run on CPUs"},
    NODES,
    {0},
};

static int convert(struct half *h, struct err *err)
{
    int rc = -1;
    if (edit_init(&h->edit, h->m, err))
        return -1;
    if (infer_run(&h->infer, h->m, err))
        goto out;
    h->n_nodes = h->m->n_nodes;
    h->n_values = h->m->n_values;
    const size_t nodes = (size_t)h->n_nodes + 1, values = (size_t)h->n_values + 1;
    h->half_node = calloc(nodes, sizeof *h->half_node);
    h->stored_node = calloc(nodes, sizeof *h->stored_node);
    h->half_value = calloc(values, sizeof *h->half_value);
    h->weight_side = calloc(values, sizeof *h->weight_side);
    h->other = calloc(values, sizeof *h->other);
    h->widened = calloc(values, sizeof *h->widened);
    h->reported = calloc(values, sizeof *h->reported);
    if (!h->half_node || !h->stored_node || !h->half_value || !h->weight_side || !h->other || !h->widened ||
        !h->reported) {
        err_set(err, ERR_NOMEM, "out of memory while converting to %s", dtype_name(h->dtype));
        goto out;
    }
    if (half_choose(h, err))
        goto out;
    half_rewrite(h);
    rc = edit_finish(&h->edit, err);
out:
    free(h->half_node);
    free(h->stored_node);
    free(h->half_value);
    free(h->weight_side);
    free(h->other);
    free(h->widened);
    free(h->reported);
    infer_fini(&h->infer);
    edit_fini(&h->edit);
    return rc;
}

/* A model whose weights are in 16 bits already has nothing to gain, and would only lose twice. */
static int refuse_half(const struct model *m, const char *method, struct err *err)
{
    size_t wide = 0, half = 0;
    uint32_t first = VALUE_NONE;
    for (uint32_t v = 0; v < m->n_values; v++) {
        const struct tensor *t = m->values[v].name && m->values[v].weight ? value_const(m, v) : NULL;
        if (!t || t->shape.rank < 2)
            continue;
        wide += t->dtype == DTYPE_FLOAT || t->dtype == DTYPE_DOUBLE ? t->bytes : 0;
        if (t->dtype != DTYPE_FLOAT16 && t->dtype != DTYPE_BFLOAT16)
            continue;
        half += t->bytes;
        first = first == VALUE_NONE ? v : first;
    }
    if (half <= wide)
        return 0;
    return err_set(err, ERR_MODEL, "the model is in 16 bits already: weight '%s' is %s; %s takes a model in float32",
                   m->values[first].name, dtype_name(value_const(m, first)->dtype), method);
}

/* NULL with *err untouched when there is nothing to look at. */
static struct half_ranges *observe(struct step_ctx *c, struct err *err)
{
    const struct quantize_half_params *o = c->params;
    struct half_ranges *seen = half_ranges_new(c->model->n_values);
    const struct sampling s = {.data = c->data, .pool = c->pool, .samples = o->samples, .observe = half_ranges_observe,
                               .observe_arg = seen};
    struct err why = {0};
    if (!seen) {
        err_set(err, ERR_NOMEM, "out of memory while observing activations");
        return NULL;
    }
    if (sampling_run(c->model, &s, &why) > 0)
        return seen;
    half_ranges_free(seen);
    if (why.code == ERR_CANCELED || why.code == ERR_NOMEM)
        err_set(err, why.code, "%s", why.msg);
    else
        warnings_add(c->warnings, "activations were not checked against the range of float16: %s", why.msg);
    return NULL;
}

static int run_as(struct step_ctx *c, enum dtype dtype, const char *method, struct err *err)
{
    struct half h = {.opts = c->params, .c = c, .m = c->model, .dtype = dtype};
    struct half_ranges *seen = NULL;
    struct err why = {0};
    /* Casts have a number for a type from 6 on, and bfloat16 from 13 on. */
    const int64_t opset = dtype == DTYPE_BFLOAT16 ? 13 : 7;
    if (quantized_refuse(c->model, method, err) || refuse_half(c->model, method, err) ||
        passes_prepare(c->model, c->layers, c->warnings, err) ||
        raise_opset_for(c->model, opset, dtype == DTYPE_BFLOAT16 ? "bfloat16" : "Cast to float16", c->warnings, err))
        return -1;
    if (c->data && dtype == DTYPE_FLOAT16 && !h.opts->storage) {
        seen = observe(c, &why);
        if (!seen && why.code)
            return err_set(err, why.code, "%s", why.msg);
    }
    h.seen = seen;
    const int rc = convert(&h, err);
    half_ranges_free(seen);
    return rc;
}

static int run_fp16(struct step_ctx *c, struct err *err)
{
    return run_as(c, DTYPE_FLOAT16, "quantize.fp16", err);
}
static int run_bf16(struct step_ctx *c, struct err *err)
{
    return run_as(c, DTYPE_BFLOAT16, "quantize.bf16", err);
}

METHOD(quantize_fp16) = {
    .name = "quantize.fp16",
    .summary = "half the bytes: weights and activations in float16",
    .doc = "Weights and activations become float16; inputs and outputs stay float32 unless keep_io=false. Nodes "
           "whose numbers do "
           "not fit, and operators without a float16 form, stay in float32; LSTM, GRU and RNN keep computing in "
           "float32 with "
           "weights stored in float16. With a dataset the numbers beyond float16's range, and below it, are "
           "counted for "
           "every layer. storage=true stores weights only.",
    .params = fp16_params,
    .params_size = sizeof(struct quantize_half_params),
    .needs = NEEDS_NOTHING,
    .run = run_fp16,
};

METHOD(quantize_bf16) = {
    .name = "quantize.bf16",
    .summary = "half the bytes: weights in bfloat16",
    .doc = "Weights become bfloat16, which has the range of float32 and 8 bits of precision, each behind a Cast to "
           "float32: the file "
           "is half as large and runs anywhere at the speed it had. storage=false makes activations bfloat16 too, "
           "for runtimes that "
           "compute in it; ONNX Runtime's CPU kernels do not.",
    .params = bf16_params,
    .params_size = sizeof(struct quantize_half_params),
    .needs = NEEDS_NOTHING,
    .run = run_bf16,
};
