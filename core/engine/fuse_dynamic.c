/* SPDX-License-Identifier: Apache-2.0
 * fuse_dynamic.c - what dynamic quantizers write for a matrix product in five or six nodes,
 *     q, s, z = DynamicQuantizeLinear(x);  y = Cast(MatMulInteger(q, B, z, b_zero)) * (s * b_scale) [+ bias]
 * becomes one DynamicQuantizeMatMul(x, B, b_scale, b_zero, bias) of com.microsoft: no integer sums in memory, the
 * weight packed once (fuse_qlayout.c). Every value in between must be read by the pattern alone, but for the quantized
 * x, which several products may share. */
#include <string.h>

#include "core/engine/fuse_util.h"

#define MICROSOFT "com.microsoft"

struct found {
    uint32_t x, b, b_scale, b_zero, bias;
    uint32_t out; /* the value the last node makes */
    uint32_t last[4];
    int n_last; /* nodes that go: product, Cast, Mul, Add */
};

static const struct tensor *constant(const struct optimize *o, uint32_t v)
{
    return v == VALUE_NONE ? NULL : value_const(o->m, v);
}

/* One float, or one for each of n columns in a vector. */
static bool by_column(const struct optimize *o, uint32_t v, int64_t n, bool single)
{
    const struct tensor *t = constant(o, v);
    if (!t || t->dtype != DTYPE_FLOAT)
        return false;
    return (single && tensor_count(t) == 1) || (t->shape.rank == 1 && t->shape.dim[0] == n);
}

/* The product of the DynamicQuantizeLinear's scale and a constant one. */
static bool read_scales(const struct optimize *o, uint32_t v, uint32_t scale, int64_t n, struct found *f)
{
    const uint32_t id = fuse_maker(o, v, "Mul");
    if (id == NODE_NONE)
        return false;
    f->b_scale = fuse_other(&o->m->nodes[id], scale);
    return f->b_scale != VALUE_NONE && by_column(o, f->b_scale, n, true);
}

static void take(struct optimize *o, struct found *f, uint32_t node)
{
    f->last[f->n_last++] = node;
    f->out = o->m->nodes[node].output[0];
}

/* The product's operands: x quantized by itself, B a constant matrix. */
static bool read_product(struct optimize *o, uint32_t id, struct found *f, uint32_t *scale, int64_t *columns)
{
    const struct node *n = &o->m->nodes[id];
    if (n->n_input < 3 || n->input[2] == VALUE_NONE)
        return false;
    const uint32_t quantize = fuse_maker(o, n->input[0], "DynamicQuantizeLinear");
    const struct tensor *b = constant(o, n->input[1]);
    if (quantize == NODE_NONE || !b || b->shape.rank != 2)
        return false;
    const struct node *q = &o->m->nodes[quantize];
    if (q->n_output != 3 || q->n_input != 1 || q->output[0] != n->input[0] || q->output[2] != n->input[2])
        return false;
    *scale = q->output[1];
    *columns = b->shape.dim[1];
    *f = (struct found){.x = q->input[0], .b = n->input[1], .bias = VALUE_NONE,
                        .b_zero = n->n_input > 3 ? n->input[3] : VALUE_NONE};
    const struct tensor *zero = constant(o, f->b_zero);
    return f->b_zero == VALUE_NONE || (zero && (tensor_count(zero) == 1 || tensor_count(zero) == *columns));
}

static bool find(struct optimize *o, uint32_t id, struct found *f)
{
    uint32_t scale;
    int64_t columns;

    if (!read_product(o, id, f, &scale, &columns))
        return false;
    take(o, f, id);
    const uint32_t cast = optimize_single_reader(o, f->out);
    if (cast == NODE_NONE || !node_is(&o->m->nodes[cast], "Cast") ||
        node_attr_int(&o->m->nodes[cast], "to", 0) != DTYPE_FLOAT)
        return false;
    take(o, f, cast);
    const uint32_t mul = optimize_single_reader(o, f->out);
    if (mul == NODE_NONE || !node_is(&o->m->nodes[mul], "Mul") ||
        !read_scales(o, fuse_other(&o->m->nodes[mul], f->out), scale, columns, f))
        return false;
    take(o, f, mul);
    const uint32_t add = optimize_single_reader(o, f->out);
    if (add != NODE_NONE && node_is(&o->m->nodes[add], "Add")) {
        const uint32_t bias = fuse_other(&o->m->nodes[add], f->out);
        if (bias != VALUE_NONE && by_column(o, bias, columns, false)) {
            f->bias = bias;
            take(o, f, add);
        }
    }
    return true;
}

int fuse_dynamic(struct optimize *o, struct err *err)
{
    const int n_nodes = model_main(o->m)->n_nodes; /* new ones are appended */

    for (int i = 0; i < n_nodes; i++) {
        const uint32_t id = model_main(o->m)->nodes[i];
        struct found f;
        if (!o->m->nodes[id].op_type || !node_is(&o->m->nodes[id], "MatMulInteger") || !find(o, id, &f))
            continue;
        const uint32_t in[5] = {f.x, f.b, f.b_scale, f.b_zero, f.bias};
        for (int k = 0; k < f.n_last; k++) { /* dead rows in their places; the driver closes the list */
            o->m->values[o->m->nodes[f.last[k]].output[0]].producer = NODE_NONE;
            o->m->nodes[f.last[k]].op_type = NULL;
        }
        if (model_opset(o->m, MICROSOFT) == 0)
            model_set_opset(o->m, MICROSOFT, 1);
        if (model_add_node(o->m, 0, "DynamicQuantizeMatMul", MICROSOFT, o->m->values[f.out].name, in,
                           f.bias != VALUE_NONE ? 5 : f.b_zero != VALUE_NONE ? 4 : 3, &f.out, 1) == NODE_NONE)
            return err_set(err, ERR_NOMEM, "out of memory");
    }
    return 0;
}
