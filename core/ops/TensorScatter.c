/* SPDX-License-Identifier: Apache-2.0
 * TensorScatter: rows of `update` written into a cache from a place on, one place a batch.
 *   y = cache [B, .., M, ..]; y[b, .., (write_indices[b] + s) mod M, ..] = update[b, .., s, ..] along `axis`; linear
 *   mode wants
 *   every place inside, circular mode wraps. */
#include <inttypes.h>
#include <string.h>

#include "core/ops/couple_rules.h"
#include "core/ops/op_util.h"

enum { LINEAR, CIRCULAR };
static const char *const modes[] = {"linear", "circular", NULL};

struct scatter_attrs {
    int mode;
    int64_t axis;
};
static const struct op_attr scatter_attrs[] = {{OP_ATTR(scatter_attrs, mode), .kind = OP_ENUM, .choices = modes},
                                               {OP_ATTR(scatter_attrs, axis), .kind = OP_INT, .def = -2},
                                               {0}};

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct scatter_attrs *a = c->attrs;
    enum dtype dtype;
    int axis;
    char text[SHAPE_TEXT], cache_text[SHAPE_TEXT];
    if (op_need(c, 2, err) < 0 || op_same_dtype(c, 0, 2, &dtype, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *u = infer_shape(c, 1);
    if (x->rank >= 0) {
        if (op_axis(x, a->axis, &axis, err) < 0)
            return -1;
        if (axis == 0)
            return err_set(err, ERR_MODEL, "attribute 'axis' names the batch axis; it must be another one");
        bool fits = u->rank < 0 || u->rank == x->rank;
        for (int d = 0; fits && d < u->rank; d++)
            fits = u->dim[d] < 0 || x->dim[d] < 0 || (d == axis ? u->dim[d] <= x->dim[d] : u->dim[d] == x->dim[d]);
        if (!fits)
            return err_set(err, ERR_SHAPE, "update has shape %s and the cache %s; only axis %d may differ, and not be "
                                           "longer", shape_text(u, text), shape_text(x, cache_text), axis);
    }
    if (infer_has(c, 2)) {
        const struct shape *w = infer_shape(c, 2);
        if (op_dtype(c, 2) != DTYPE_NONE && op_dtype(c, 2) != DTYPE_INT64)
            return err_set(err, ERR_MODEL, "write_indices is %s; it must be int64", dtype_name(op_dtype(c, 2)));
        const bool other = w->rank == 1 && x->rank > 0 && w->dim[0] >= 0 && x->dim[0] >= 0 && w->dim[0] != x->dim[0];
        if (w->rank >= 0 && (w->rank != 1 || other))
            return err_set(err, ERR_SHAPE, "write_indices has shape %s; it must have one place a batch",
                           shape_text(w, text));
    }
    infer_out(c, 0, dtype, x);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct scatter_attrs *a = c->attrs;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0], *u = c->in[1], *places = run_in(c, 2);
    struct tensor *y = run_out(c, 0);
    size_t elem = op_elem(x->dtype, err);
    if (!elem)
        return -1;
    const int axis = shape_axis(&x->shape, a->axis);
    const int64_t most = x->shape.dim[axis], steps = u->shape.dim[axis], batch = x->shape.dim[0];
    const int64_t outer = shape_product(&x->shape, 1, axis);
    const size_t row = (size_t)shape_product(&x->shape, axis + 1, x->shape.rank) * elem;
    for (int64_t b = 0; b < batch && places; b++) {
        int64_t at = tensor_i64(places)[b];
        if (at < 0 || (a->mode == LINEAR && at > most - steps))
            return err_set(err, ERR_MODEL, "write_indices[%" PRId64 "] is %" PRId64 "; %" PRId64
                                           " steps must fit into %" PRId64, b, at, steps, most);
    }
    if (!y || !y->bytes)
        return 0;
    memcpy(y->data, x->data, x->bytes);
    for (int64_t i = 0; i < batch * outer; i++) {
        const int64_t at = places ? tensor_i64(places)[i / outer] % most : 0;
        for (int64_t s = 0; s < steps; s++)
            memcpy((char *)y->data + (size_t)(i * most + (at + s) % most) * row,
                   (const char *)u->data + (size_t)(i * steps + s) * row, row);
    }
    return 0;
}

static int couple(struct coupling *k, struct err *err)
{
    const struct scatter_attrs *a = couple_attrs(k);
    const char *why = "places on it are written to";
    (void)err;
    couple_along(k, IN(0), OUT(0), (int)a->axis, why);
    couple_same_but(k, IN(1), OUT(0), (int)a->axis);
    couple_freeze(k, IN(1), (int)a->axis, why);
    couple_axes(k, IN(2), 0, OUT(0), 0);
    return 0;
}

OP_CLASS(tensor_scatter) = {
    .type = "TensorScatter", .domain = "", .since = 24, .doc = "Rows written into a cache from a place on.",
    .in_min = 2, .in_max = 3, .out_min = 1, .out_max = 1,
    .attrs = scatter_attrs, .attrs_size = sizeof(struct scatter_attrs), .infer = infer, .forward = forward,
    .couple = couple,
    .samples = (const struct op_sample[]){{"f32[2,3,6,4] f32[2,3,2,4] i64[2]=1,4", "", 1, 24},
                                          {"f32[2,6,4] f32[2,3,4] i64[2]=1,5", "mode=circular", 1, 24},
                                          {"f32[2,6,4] f32[2,6,1]", "axis=-1", 1, 24},
                                          {0}}};
