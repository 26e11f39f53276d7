/* SPDX-License-Identifier: Apache-2.0
 * TopK: the k largest (or smallest) values along an axis with their indices, in order; equal values by their index.
 *   x[outer, n, inner] -> values[outer, k, inner], indices[outer, k, inner] (int64).
 * Each row keeps a heap of the k best so far, whose root is the worst of them: O(n log k). */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/grad_util.h"
#include "core/ops/order_keys.h"

struct topk_attrs {
    int64_t axis, k;
    bool largest, sorted;
};
static const struct op_attr topk_1_attrs[] = {{OP_ATTR(topk_attrs, axis), .kind = OP_INT, .def = -1},
                                              {OP_ATTR(topk_attrs, k), .kind = OP_INT, .required = true},
                                              {0}};
static const struct op_attr topk_10_attrs[] = {{OP_ATTR(topk_attrs, axis), .kind = OP_INT, .def = -1}, {0}};
static const struct op_attr topk_11_attrs[] = {{OP_ATTR(topk_attrs, axis), .kind = OP_INT, .def = -1},
                                               {OP_ATTR(topk_attrs, largest), .kind = OP_BOOL, .def = 1},
                                               {OP_ATTR(topk_attrs, sorted), .kind = OP_BOOL, .def = 1},
                                               {0}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct topk_attrs *attrs = c->attrs;
    int64_t k = c->opset < 10 ? attrs->k : DIM_UNKNOWN;
    int axis, count = 1;
    if (op_need(c, c->opset < 10 ? 1 : 2, err) < 0 || op_dtype_kinds(c, 0, "fiu", err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    bool known = c->opset < 10 || op_value(c, 1);
    if (c->opset >= 10 && known && op_read_ints(op_value(c, 1), "k", &k, 1, &count, err) < 0)
        return -1;
    if (known && (count != 1 || k < 0))
        return err_set(err, ERR_MODEL, "k is %" PRId64 "; it must be one number that is not negative", k);
    if (out.rank >= 0) {
        if (op_axis(&out, attrs->axis, &axis, err) < 0)
            return -1;
        if (known && out.dim[axis] >= 0 && k > out.dim[axis])
            return err_set(err, ERR_SHAPE, "k is %" PRId64 " but axis %d has only %" PRId64 " elements", k, axis,
                           out.dim[axis]);
        out.dim[axis] = k;
    }
    infer_out(c, 0, op_dtype(c, 0), &out);
    infer_out(c, 1, DTYPE_INT64, &out);
    return 0;
}

struct entry64 {
    uint64_t key;
    int64_t index;
};

/* Does a come after b in the result? */
static bool after(const struct entry64 *a, const struct entry64 *b)
{
    return a->key != b->key ? a->key < b->key : a->index > b->index;
}

/* Restore the heap (worst at the root) below `at`. */
static void sift(struct entry64 *heap, int64_t n, int64_t at)
{
    for (;;) {
        int64_t child = 2 * at + 1;
        if (child >= n)
            return;
        if (child + 1 < n && after(&heap[child + 1], &heap[child]))
            child++;
        if (!after(&heap[child], &heap[at]))
            return;
        struct entry64 swap = heap[at];
        heap[at] = heap[child];
        heap[child] = swap;
        at = child;
    }
}

struct topk_loop {
    int64_t n, k, inner;
    const uint64_t *keys;
    uint64_t flip;         /* inverts the order for the smallest */
    struct entry64 *heaps; /* k for each row */
    const struct tensor *x;
    struct tensor *values, *indices;
    int64_t *saved; /* the indices again, for backward; may be NULL */
    size_t elem;
};

static void best_of_row(const struct topk_loop *l, int64_t base, struct entry64 *heap)
{
    for (int64_t i = 0; i < l->n; i++) {
        struct entry64 e = {l->keys[base + i * l->inner] ^ l->flip, i};
        if (i < l->k) {
            heap[i] = e;
            for (int64_t at = l->k / 2; i == l->k - 1 && at-- > 0;)
                sift(heap, l->k, at);
        } else if (after(&heap[0], &e)) {
            heap[0] = e;
            sift(heap, l->k, 0);
        }
    }
    for (int64_t m = l->k - 1; m > 0; m--) { /* heap sort: the worst goes last */
        struct entry64 swap = heap[0];
        heap[0] = heap[m];
        heap[m] = swap;
        sift(heap, m, 0);
    }
}

static void topk_rows(void *opaque, int64_t begin, int64_t end)
{
    const struct topk_loop *l = opaque;
    for (int64_t r = begin; r < end; r++) {
        struct entry64 *heap = l->heaps + r * l->k;
        int64_t outer = r / l->inner, at = r % l->inner, base = outer * l->n * l->inner + at;
        best_of_row(l, base, heap);
        for (int64_t i = 0; i < l->k; i++) {
            int64_t to = (outer * l->k + i) * l->inner + at, from = base + heap[i].index * l->inner;
            if (l->values)
                memcpy((char *)l->values->data + (size_t)to * l->elem,
                       (const char *)l->x->data + (size_t)from * l->elem, l->elem);
            if (l->indices)
                tensor_i64(l->indices)[to] = heap[i].index;
            if (l->saved)
                l->saved[to] = heap[i].index;
        }
    }
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct topk_attrs *attrs = c->attrs;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *any = run_out(c, 0) ? run_out(c, 0) : run_out(c, 1);
    if (!any || tensor_count(any) == 0)
        return 0;
    int axis = shape_axis(&x->shape, attrs->axis);
    struct topk_loop l = {
        .n = x->shape.dim[axis], .k = any->shape.dim[axis], .x = x, .values = run_out(c, 0), .indices = run_out(c, 1)};
    l.inner = shape_product(&x->shape, axis + 1, x->shape.rank);
    l.elem = op_elem(x->dtype, err);
    l.flip = c->opset >= 11 && !attrs->largest ? UINT64_MAX : 0;
    l.keys = l.elem ? order_keys(c, x, err) : NULL;
    size_t bytes;
    if (!l.keys)
        return -1;
    if (!size_mul((size_t)tensor_count(any), sizeof *l.heaps, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the output has too many elements");
    l.heaps = run_scratch(c, bytes, err);
    if (!l.heaps)
        return -1;
    if (c->saved && !(l.saved = run_save(c, (size_t)tensor_count(any) * sizeof *l.saved, err)))
        return -1;
    op_parallel(c->pool, tensor_count(any) / l.k, i64_max(1, (1 << 14) / l.n), topk_rows, &l);
    return 0;
}

/* The values' gradient goes back to where they came from; forward has left the indices. */
static int backward(struct grad_ctx *c, struct err *err)
{
    const struct topk_attrs *attrs = c->attrs;
    const struct tensor *g = grad_of(c, 0);
    struct tensor *dst = grad_wanted(c, 0);

    if (!g || !dst || tensor_count(g) == 0)
        return 0;
    if (grad_type(dst, err) < 0)
        return -1;
    const int axis = shape_axis(&dst->shape, attrs->axis);
    const int64_t n = dst->shape.dim[axis], k = g->shape.dim[axis], *from = c->saved;
    const int64_t inner = shape_product(&dst->shape, axis + 1, dst->shape.rank);
    for (int64_t i = 0; i < tensor_count(g); i++)
        grad_add_run(dst, (i / (k * inner) * n + from[i]) * inner + i % inner, g, i, 1);
    return 0;
}

static int couple(struct coupling *k, struct err *err)
{
    const struct topk_attrs *attrs = couple_attrs(k);
    (void)err;
    for (int i = 0; i < k->infer->n_out; i++)
        couple_along(k, IN(0), OUT(i), (int)attrs->axis, "its elements are numbered by their places");
    return 0;
}

#define TOPK(...)                                                                                                      \
    {                                                                                                                  \
        .type = "TopK", .domain = "", .doc = "The k largest or smallest values of an axis.", .out_min = 2,             \
        .out_max = 2, .attrs_size = sizeof(struct topk_attrs), .infer = infer, .forward = forward, .couple = couple,   \
        .backward = backward, .grad_inputs = 1, __VA_ARGS__                                                            \
    }
OP_CLASS(topk_1) = TOPK(.since = 1, .until = 9, .in_min = 1, .in_max = 1, .attrs = topk_1_attrs,
                        .samples = (const struct op_sample[]){{"f32[3,4]", "k=2", 2, 9}, {0}});
OP_CLASS(topk_10) = TOPK(.since = 10, .until = 10, .in_min = 2, .in_max = 2, .attrs = topk_10_attrs,
                         .samples = (const struct op_sample[]){{"f32[3,4] !i64[1]=2", "axis=0", 2, 10}, {0}});
OP_CLASS(topk_11) = TOPK(.since = 11, .in_min = 2, .in_max = 2, .attrs = topk_11_attrs,
                         .samples = (const struct op_sample[]){
                             {"f32[3,4,2] !i64[1]=3", "axis=1", 2},
                             {"f32[6]=1,3,3,2,3,1 i64[1]=4", "", 2},
                             {"i64[2,5]=5,1,1,9,2,3,3,3,0,7 !i64[1]=2", "largest=0", 2},
                             {0}});
