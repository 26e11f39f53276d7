/* SPDX-License-Identifier: Apache-2.0
 * FlexAttention of ai.onnx.preview: attention whose scores and weights pass through graphs of the model.
 *   P = prob_mod(softmax(score_mod(scale Q K^T))), Y = P V
 * Shapes     Q [B, N, S, H], K [B, M, L, H], V [B, M, L, W] -> Y [B, N, S, W]; query head h reads key head h / (N /
 *            M). Both graphs take and give one tensor [B, N, S, L] of the type softmax_precision (float32, or double
 *            where Q is). */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/kernels/gemm.h"
#include "core/ops/attention_common.h"
#include "core/ops/widen.h"

enum { Q, K, V };

struct flex_attrs {
    uint32_t score_mod, prob_mod;
    int64_t softmax_precision;
    float scale;
};
static const struct op_attr flex_attrs[] = {{OP_ATTR(flex_attrs, score_mod), .kind = OP_GRAPH},
                                            {OP_ATTR(flex_attrs, prob_mod), .kind = OP_GRAPH},
                                            {OP_ATTR(flex_attrs, softmax_precision), .kind = OP_INT},
                                            {OP_ATTR(flex_attrs, scale), .kind = OP_FLOAT, .def_f = NAN},
                                            {0}};

static bool agree(int64_t a, int64_t b)
{
    return a < 0 || b < 0 || a == b;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct flex_attrs *a = c->attrs;
    enum dtype dtype;
    const int64_t p = a->softmax_precision;
    if (op_need(c, 3, err) < 0 || op_dtype_real(c, Q, err) < 0 || op_same_dtype(c, Q, V + 1, &dtype, err) < 0)
        return -1;
    if (p != 0 && p != DTYPE_FLOAT && p != DTYPE_DOUBLE && p != DTYPE_FLOAT16 && p != DTYPE_BFLOAT16)
        return err_set(err, ERR_MODEL, "attribute 'softmax_precision' is %" PRId64 "; it must be 1, 10, 11 or 16", p);
    const struct shape *q = infer_shape(c, Q), *k = infer_shape(c, K), *v = infer_shape(c, V);
    for (int i = Q; i <= V; i++)
        if (infer_shape(c, i)->rank >= 0 && infer_shape(c, i)->rank != 4)
            return err_set(err, ERR_SHAPE, "input #%d has %d axes; it must have 4", i, infer_shape(c, i)->rank);
    if (q->rank == 4 && k->rank == 4 && v->rank == 4) {
        if (!agree(q->dim[0], k->dim[0]) || !agree(q->dim[0], v->dim[0]) || !agree(q->dim[3], k->dim[3]) ||
            !agree(k->dim[1], v->dim[1]) || !agree(k->dim[2], v->dim[2]))
            return err_set(err, ERR_SHAPE, "Q, K and V do not fit: batches, heads and lengths of K and V, and widths "
                                           "of Q and K must be equal");
        if (q->dim[1] >= 0 && k->dim[1] >= 0 && (k->dim[1] == 0 || q->dim[1] % k->dim[1] != 0))
            return err_set(err, ERR_SHAPE, "%" PRId64 " heads of Q are not a multiple of %" PRId64 " of K", q->dim[1],
                           k->dim[1]);
    }
    infer_out(c, 0, dtype, &SHAPE(q->rank == 4 ? q->dim[0] : -1, q->rank == 4 ? q->dim[1] : -1,
                                  q->rank == 4 ? q->dim[2] : -1, v->rank == 4 ? v->dim[3] : -1));
    return 0;
}

static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *q = infer_shape(c, Q), *k = infer_shape(c, K), *v = infer_shape(c, V);
    cost->macs = q->rank == 4 && k->rank == 4 && v->rank == 4
                     ? attention_macs(q->dim[0], q->dim[2], q->dim[1], k->dim[2], q->dim[3], v->dim[3])
                     : -1;
}

/* One product for each head: c[b, h] = alpha a[b, h] op(b[b, h / group]). */
static void products(struct run_ctx *c, const struct gemm *g, const struct tensor *a, const struct tensor *b, void *out)
{
    const int64_t heads = a->shape.dim[1], group = heads / b->shape.dim[1];
    const size_t elem = a->dtype == DTYPE_FLOAT ? 4 : 8;
    for (int64_t i = 0; i < a->shape.dim[0] * heads; i++) {
        const char *x = (const char *)a->data + (size_t)(i * g->m * g->k) * elem;
        const char *y = (const char *)b->data + (size_t)(i / group * g->n * g->k) * elem;
        char *z = (char *)out + (size_t)(i * g->m * g->n) * elem;
        if (elem == 4)
            gemm_f32(c->pool, g, (const float *)(const void *)x, (const float *)(const void *)y, (float *)(void *)z);
        else
            gemm_f64(c->pool, g, (const double *)(const void *)x, (const double *)(const void *)y, (double *)(void *)z);
    }
}

/* t through `graph`, if there is one, as elements of type `precision`. */
static int modify(struct run_ctx *c, uint32_t graph, enum dtype precision, struct tensor *t, struct err *err)
{
    char got[SHAPE_TEXT], want[SHAPE_TEXT];
    struct tensor in, out = {0};
    size_t bytes;
    if (graph == GRAPH_NONE && precision == t->dtype)
        return 0;
    if (!dtype_bytes(precision, tensor_count(t), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the scores are too large");
    void *data = precision == t->dtype ? t->data : run_scratch(c, bytes + 1, err);
    if (!data)
        return -1;
    dtype_convert(precision, data, t->dtype, t->data, data == t->data ? 0 : tensor_count(t));
    tensor_view(&in, precision, &t->shape, data, NULL);
    if (graph == GRAPH_NONE) {
        dtype_convert(t->dtype, t->data, precision, data, tensor_count(t));
        return 0;
    }
    const struct tensor *list[] = {&in};
    if (run_graph(c, graph, list, 1, &out, 1, err) < 0)
        return -1;
    int rc = 0;
    if (out.dtype != precision || !shape_equal(&out.shape, &t->shape))
        rc = err_set(err, ERR_SHAPE, "the graph gives %s%s; it must give %s%s", dtype_name(out.dtype),
                     shape_text(&out.shape, got), dtype_name(precision), shape_text(&t->shape, want));
    else
        dtype_convert(t->dtype, t->data, precision, out.data, tensor_count(t));
    run_drop(c, &out);
    return rc;
}

#define SOFTMAX(name, T, EXP)                                                                                          \
    static void name(T *s, int64_t rows, int64_t n)                                                                    \
    {                                                                                                                  \
        for (int64_t r = 0; r < rows; r++, s += n) {                                                                   \
            T most = (T)-INFINITY;                                                                                     \
            double sum = 0;                                                                                            \
            for (int64_t j = 0; j < n; j++)                                                                            \
                most = s[j] > most || s[j] != s[j] ? s[j] : most;                                                      \
            for (int64_t j = 0; j < n; j++) {                                                                          \
                s[j] = EXP(s[j] - most);                                                                               \
                sum += (double)s[j];                                                                                   \
            }                                                                                                          \
            for (int64_t j = 0; j < n; j++)                                                                            \
                s[j] = (T)((double)s[j] / sum);                                                                        \
        }                                                                                                              \
    }
SOFTMAX(softmax_f32, float, expf)
SOFTMAX(softmax_f64, double, exp)

static int compute(struct run_ctx *c, struct err *err)
{
    const struct flex_attrs *a = c->attrs;
    const struct tensor *q = c->in[Q], *k = c->in[K], *v = c->in[V];
    struct tensor *y = run_out(c, 0), scores;
    size_t bytes;
    if (!y || tensor_count(y) == 0)
        return 0;
    if (q->dtype != DTYPE_FLOAT && q->dtype != DTYPE_DOUBLE)
        return err_set(err, ERR_OPERATOR, "elements of type %s cannot be computed with", dtype_name(q->dtype));
    const int64_t rows = q->shape.dim[2], keys = k->shape.dim[2], width = q->shape.dim[3];
    const struct shape shape = SHAPE(q->shape.dim[0], q->shape.dim[1], rows, keys);
    const enum dtype precision = a->softmax_precision ? (enum dtype)a->softmax_precision : q->dtype;
    if (shape_count(&shape) < 0 || !dtype_bytes(q->dtype, shape_count(&shape), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the scores are too large");
    void *data = run_scratch(c, bytes + 1, err);
    if (!data)
        return -1;
    tensor_view(&scores, q->dtype, &shape, data, NULL);
    struct gemm product = gemm_plain(false, true, rows, keys, width);
    product.alpha = isnan(a->scale) ? 1 / sqrt((double)width) : (double)a->scale;
    products(c, &product, q, k, scores.data);
    if (modify(c, a->score_mod, precision, &scores, err) < 0)
        return -1;
    if (q->dtype == DTYPE_FLOAT)
        softmax_f32(scores.data, shape_product(&shape, 0, 3), keys);
    else
        softmax_f64(scores.data, shape_product(&shape, 0, 3), keys);
    if (modify(c, a->prob_mod, precision, &scores, err) < 0)
        return -1;
    product = gemm_plain(false, false, rows, v->shape.dim[3], keys);
    products(c, &product, &scores, v, y->data);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* What the graphs do with scores may depend on the head; widths are gone before. */
static int couple(struct coupling *k, struct err *err)
{
    const struct flex_attrs *a = couple_attrs(k);
    const struct attention_stacks stacks = {-1, -1, -1, -1, a->score_mod == GRAPH_NONE && a->prob_mod == GRAPH_NONE};
    (void)err;
    attention_couple_stacks(k, &stacks);
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    (void)err;
    attention_keep_scale(s, isnan(((const struct flex_attrs *)s->infer->attrs)->scale));
    return 0;
}

OP_CLASS(flex_attention) = {.type = "FlexAttention",
                            .domain = "ai.onnx.preview",
                            .since = 1,
                            .doc = "Attention whose scores and weights pass through nested graphs.",
                            .in_min = 3,
                            .in_max = 3,
                            .out_min = 1,
                            .out_max = 1,
                            .attrs = flex_attrs,
                            .attrs_size = sizeof(struct flex_attrs),
                            .infer = infer,
                            .forward = forward,
                            .cost = cost,
                            .couple = couple,
                            .shrink = shrink,
                            .samples = (const struct op_sample[]){
                                {"f32[2,3,4,8] f32[2,3,6,8] f32[2,3,6,5]", ""},
                                {"f32[1,4,3,8] f32[1,2,5,8] f32[1,2,5,8]", "scale=0.3f"},
                                {"f64[1,2,3,4] f64[1,2,3,4] f64[1,2,3,4]", ""},
                                {0}}};
