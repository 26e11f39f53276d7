/* SPDX-License-Identifier: Apache-2.0
 * dynamic.c - quantize.dynamic: weights in 8 bits, activations quantized while running, no calibration data.
 *
 *   x -> DynamicQuantizeLinear -> MatMulInteger(xq, Wq, xz) -> Cast -> Mul(xs * ws) [-> Add bias]
 *
 * The pattern is the one runtimes fuse into a single kernel. One DynamicQuantizeLinear serves all products that read x.
 * A Gemm is written as a MatMul of the transposed weight, with alpha in the scale and beta in the bias. Convolutions
 * only on request: runtimes have no fast kernel for ConvInteger, and none at all with int8 weights, so theirs are uint8
 * with zero point 128. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"
#include "core/passes/raise_opset.h"
#include "core/passes/weights.h"
#include "core/quant/affine.h"
#include "core/step/method.h"

struct quantize_dynamic_params {
    struct globs include, exclude;
    bool per_channel, conv;
    int isa;
};
static const char *const isas[] = {"portable", "vnni", NULL};

#define P(f) PARAM(quantize_dynamic_params, f)
static const struct param params[] = {
    {P(per_channel), .kind = PARAM_BOOL, .def = "true", .doc = "a weight scale for each output channel instead of one"},
    {P(conv), .kind = PARAM_BOOL, .def = "false",
     .doc = "convolutions too: smaller, but ONNX Runtime runs them 2 to 7 times slower than float"},
    {P(isa), .kind = PARAM_ENUM, .choices = isas, .def = "\"portable\"",
     .doc = "portable: exact on every CPU; vnni: full 8-bit weights"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

struct dynamic {
    const struct quantize_dynamic_params *opts;
    struct step_ctx *c;
    struct model *m;
    struct edit edit;
    struct infer infer;
    uint32_t (*inputs)[3]; /* by value id: quantized, scale, zero point; 0: not made yet */
    uint32_t n_values;
    uint32_t zero128; /* shared uint8 zero point of convolution weights */
    unsigned names;
};

static uint32_t fresh(struct dynamic *d, const char *prefix)
{
    char name[32];
    snprintf(name, sizeof name, "%s%u", prefix, d->names++);
    return edit_add_value(&d->edit, 0, name);
}

static uint32_t fresh_weight(struct dynamic *d, const char *prefix, const struct tensor *t)
{
    char name[32];
    snprintf(name, sizeof name, "%s%u", prefix, d->names++);
    return edit_add_weight(&d->edit, 0, name, t);
}

static const char *refusal(struct dynamic *d, uint32_t node, const struct weight_ref *ref, const char *why)
{
    const struct node *n = &d->m->nodes[node];
    char label[200];
    bool conv = node_is(n, "Conv");
    if (!globs_select(&d->opts->include, &d->opts->exclude, node_label(d->m, node, label, sizeof label)))
        return "not selected by include and exclude";
    if (node_is(n, "ConvTranspose"))
        return "there is no integer ConvTranspose";
    if (conv && !d->opts->conv)
        return "convolutions run slower with dynamic quantization; conv=true takes them";
    if (n->graph != 0)
        return "it is inside a nested graph (If, Loop, Scan)";
    if (why)
        return why;
    if (ref->slot != 1)
        return "its constant operand is on the left";
    if (ref->value != n->input[1] || !value_const(d->m, ref->value))
        return "its weight is not a plain constant";
    if (ref->tensor->dtype != DTYPE_FLOAT)
        return "its weight is not float32";
    if (!conv && ref->tensor->shape.rank != 2)
        return "its weight is not a matrix";
    if (conv && ref->tensor->shape.rank != 4)
        return "only convolutions over two dimensions have an integer form";
    if (infer_dtype_of(&d->infer, n->input[0]) != DTYPE_FLOAT)
        return "its input is not known to be float32";
    if (node_is(n, "Gemm") && (node_attr_int(n, "transA", 0) != 0 || !(node_attr_float(n, "alpha", 1) > 0)))
        return "it transposes its input or scales by a number that is not positive";
    return NULL;
}

/* DynamicQuantizeLinear of x, made once. */
static const uint32_t *quantized_input(struct dynamic *d, uint32_t x)
{
    uint32_t *in = d->inputs[x];
    if (in[0] != 0)
        return in;
    uint32_t out[3] = {fresh(d, "q"), fresh(d, "s"), fresh(d, "z")};
    if (d->edit.failed)
        return NULL;
    edit_add_node(&d->edit, 0, "DynamicQuantizeLinear", NULL, &x, 1, out, 3);
    memcpy(in, out, sizeof out);
    return in;
}

/* W[N,K] -> [K,N], times alpha. */
static int matrix_of(const struct node *n, const struct tensor *w, struct tensor *out, struct err *err)
{
    bool turned = node_is(n, "Gemm") && node_attr_int(n, "transB", 0) != 0;
    float alpha = node_is(n, "Gemm") ? node_attr_float(n, "alpha", 1) : 1;
    int64_t rows = w->shape.dim[0], cols = w->shape.dim[1];
    if (!turned && alpha == 1) {
        tensor_ref(out, w);
        return 0;
    }
    struct shape shape = turned ? SHAPE(cols, rows) : SHAPE(rows, cols);
    if (tensor_alloc(out, DTYPE_FLOAT, &shape, err))
        return -1;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < cols; c++)
            tensor_f32(out)[turned ? c * rows + r : r * cols + c] = alpha * tensor_f32(w)[r * cols + c];
    return 0;
}

/* A bias times beta, in a shape that broadcasts against the product's output; VALUE_NONE: none. Conv's gets [C,1,1]. */
static uint32_t bias_of(struct dynamic *d, uint32_t node, bool *ok)
{
    const struct node *n = &d->m->nodes[node];
    float beta = node_is(n, "Gemm") ? node_attr_float(n, "beta", 1) : 1;
    *ok = true;
    if (n->n_input < 3 || n->input[2] == VALUE_NONE || node_is(n, "MatMul"))
        return VALUE_NONE;
    const struct tensor *t = value_const(d->m, n->input[2]);
    bool conv = node_is(n, "Conv");
    if (!conv && beta == 1)
        return n->input[2];
    struct tensor b = {0};
    int64_t count = 0;
    double *v = t ? const_doubles(d->m, n->input[2], &count) : NULL;
    struct shape shape = conv ? SHAPE(count, 1, 1) : t ? t->shape : SHAPE_SCALAR;
    for (int64_t i = 0; v && i < count; i++)
        v[i] *= (double)beta;
    uint32_t id = VALUE_NONE;
    *ok = v && tensor_from_doubles(&b, t->dtype, &shape, v, NULL) == 0;
    if (*ok)
        id = edit_add_weight(&d->edit, 0, d->m->values[n->input[2]].name, &b);
    tensor_fini(&b);
    free(v);
    return id;
}

static uint32_t add_node(struct dynamic *d, const char *op, const uint32_t *in, int n_in, const char *prefix)
{
    uint32_t out = fresh(d, prefix);
    if (!d->edit.failed)
        edit_add_node(&d->edit, 0, op, NULL, in, n_in, &out, 1);
    return out;
}

static int store(struct dynamic *d, uint32_t node, struct qweight *code, uint32_t *w, uint32_t *scale, struct err *err)
{
    const struct node *n = &d->m->nodes[node];
    const struct tensor *t = value_const(d->m, n->input[1]);
    bool conv = node_is(n, "Conv");
    struct tensor matrix = {0};
    struct qweight_opts opts = {.dtype = conv ? DTYPE_UINT8 : DTYPE_INT8,
                                .per_channel = d->opts->per_channel,
                                .axis = conv ? 0 : 1,
                                .pair_guard = d->opts->isa == 0};
    char label[200];
    if (conv)
        tensor_ref(&matrix, t);
    else if (matrix_of(n, t, &matrix, err))
        return -1;
    int rc = qweight_make(code, &matrix, &opts, err);
    tensor_fini(&matrix);
    if (rc)
        return err_wrap(err, "weight '%s' of node '%s': ", d->m->values[n->input[1]].name,
                        node_label(d->m, node, label, sizeof label));
    if (conv && opts.per_channel)
        code->scale.shape = SHAPE(code->scale.shape.dim[0], 1, 1);
    *w = edit_add_weight(&d->edit, 0, d->m->values[n->input[1]].name, &code->codes);
    *scale = fresh_weight(d, "s", &code->scale);
    return 0;
}

static uint32_t zero_point_128(struct dynamic *d)
{
    struct tensor z = {0};
    if (d->zero128 == VALUE_NONE && tensor_alloc(&z, DTYPE_UINT8, &SHAPE_SCALAR, NULL) == 0) {
        *(unsigned char *)z.data = 128;
        d->zero128 = fresh_weight(d, "z", &z);
        tensor_fini(&z);
    }
    return d->zero128;
}

static void report(struct dynamic *d, uint32_t node, uint32_t weight, const struct qweight *code, size_t bytes)
{
    struct layer_row row = {.node = node, .weight = weight, .sqnr_db = code->sqnr_db};
    row.before = json_pack("{s:s,s:I}", "dtype", "float32", "bytes", (json_int_t)bytes);
    row.after = json_pack("{s:s,s:I,s:I}", "dtype", dtype_name(code->codes.dtype), "bytes",
                          (json_int_t)code->codes.bytes, "scales", (json_int_t)tensor_count(&code->scale));
    layer_report_add(d->c->layers, d->m, &row);
}

static int convert(struct dynamic *d, uint32_t node, struct err *err)
{
    struct model *m = d->m;
    struct qweight code = {0};
    uint32_t w = VALUE_NONE, ws = VALUE_NONE, x = m->nodes[node].input[0], weight = m->nodes[node].input[1],
             y = m->nodes[node].output[0];
    bool conv = node_is(&m->nodes[node], "Conv"), ok;
    size_t bytes = value_const(m, weight)->bytes;
    uint32_t bias = bias_of(d, node, &ok);
    if (!ok) {
        struct layer_row row = {
            .node = node, .weight = weight, .sqnr_db = NAN, .skipped = "its bias is not a constant"};
        layer_report_add(d->c->layers, m, &row);
        return 0;
    }
    if (store(d, node, &code, &w, &ws, err))
        return -1;
    report(d, node, weight, &code, bytes);
    qweight_fini(&code);
    const uint32_t *q = d->edit.failed ? NULL : quantized_input(d, x);
    if (!q)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    uint32_t acc, in[4] = {q[0], w, q[2], conv ? zero_point_128(d) : VALUE_NONE};
    acc = fresh(d, "a");
    if (d->edit.failed)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    uint32_t product = edit_add_node(&d->edit, 0, conv ? "ConvInteger" : "MatMulInteger", m->nodes[node].name, in,
                                     conv ? 4 : 3, &acc, 1);
    if (product != NODE_NONE && conv) { /* strides, pads, group, ... mean the same */
        m->nodes[product].attr = m->nodes[node].attr;
        m->nodes[product].n_attr = m->nodes[node].n_attr;
    }
    uint32_t real = fresh(d, "f"), scale = add_node(d, "Mul", (uint32_t[]){q[1], ws}, 2, "m");
    uint32_t cast = d->edit.failed ? NODE_NONE : edit_add_node(&d->edit, 0, "Cast", NULL, &acc, 1, &real, 1);
    if (cast == NODE_NONE)
        return err_set(err, ERR_NOMEM, "out of memory while quantizing");
    node_set_int(m, cast, "to", DTYPE_FLOAT);
    edit_remove_node(&d->edit, node);
    uint32_t last[2] = {real, scale};
    if (bias != VALUE_NONE) {
        last[0] = add_node(d, "Mul", last, 2, "p");
        last[1] = bias;
    }
    edit_add_node(&d->edit, 0, bias != VALUE_NONE ? "Add" : "Mul", NULL, last, 2, &y, 1);
    return d->edit.failed ? err_set(err, ERR_NOMEM, "out of memory while quantizing") : 0;
}

static int convert_all(struct dynamic *d, struct err *err)
{
    bool conv = false;
    for (uint32_t id = 0, n = d->m->n_nodes; id < n; id++) {
        struct weight_ref ref;
        const char *why = NULL;
        if (!edit_node_is_live(&d->edit, id) || !product_weight(d->m, id, &ref, &why))
            continue;
        why = refusal(d, id, &ref, why);
        if (why) {
            struct layer_row row = {.node = id, .weight = ref.value, .sqnr_db = NAN, .skipped = why};
            layer_report_add(d->c->layers, d->m, &row);
            continue;
        }
        if (d->c->progress && d->c->progress(d->c, "quantize", id, n, err))
            return -1;
        conv = conv || node_is(&d->m->nodes[id], "Conv");
        if (convert(d, id, err))
            return -1;
    }
    if (conv)
        warnings_add(d->c->warnings,
                     "convolutions with dynamic quantization run 2 to 7 times slower than float in ONNX Runtime; "
                     "quantize.static is faster and as small");
    return 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct dynamic d = {.opts = c->params, .c = c, .m = c->model, .zero128 = VALUE_NONE};
    int rc = -1;
    if (passes_prepare(c->model, c->layers, c->warnings, err))
        return -1;
    if (raise_opset_for(c->model, 11, "DynamicQuantizeLinear", c->warnings, err))
        return -1;
    if (edit_init(&d.edit, c->model, err))
        return -1;
    d.n_values = c->model->n_values;
    d.inputs = calloc(d.n_values ? d.n_values : 1, sizeof *d.inputs);
    if (!d.inputs)
        err_set(err, ERR_NOMEM, "out of memory while quantizing");
    else if (infer_run(&d.infer, c->model, err) == 0) {
        rc = convert_all(&d, err);
        if (rc == 0)
            rc = edit_finish(&d.edit, err);
        infer_fini(&d.infer);
    }
    free(d.inputs);
    edit_fini(&d.edit);
    return rc;
}

METHOD(quantize_dynamic) = {
    .name = "quantize.dynamic",
    .summary = "8-bit weights, activations quantized while running; no data needed",
    .doc = "Weights of MatMul and Gemm become int8, activations are quantized to uint8 by their range of the moment "
           "(DynamicQuantizeLinear, "
           "MatMulInteger). Convolutions only with conv=true: files get smaller, but ONNX Runtime runs them slower "
           "than float.",
    .params = params,
    .params_size = sizeof(struct quantize_dynamic_params),
    .needs = NEEDS_NOTHING,
    .run = run,
};
