/* SPDX-License-Identifier: Apache-2.0
 * TypeProto. What struct type cannot say exactly is understood as far as possible and kept whole as wire bytes for
 * writing. */
#include <inttypes.h>
#include <string.h>

#include "core/model/onnx_reader.h"

static int read_dim(struct reader *r, const Onnx__TensorShapeProto__Dimension *pb, int axis, struct type *type,
                    bool *odd)
{
    int64_t *dim = &type->shape.dim[axis];
    bool failed = false;
    *dim = DIM_UNKNOWN;
    *odd = *odd || pb->base.n_unknown_fields;
    if (pb->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_VALUE) {
        if (pb->dim_value < -1)
            return err_set(r->err, ERR_MODEL, "dimension %d is %" PRId64 "; a dimension is at least 0", axis,
                           pb->dim_value);
        *dim = pb->dim_value; /* -1: some exporters' "any size" */
        *odd = *odd || pb->dim_value < 0;
    } else if (pb->value_case == ONNX__TENSOR_SHAPE_PROTO__DIMENSION__VALUE_DIM_PARAM) {
        int symbol = *pb->dim_param ? model_symbol(r->m, pb->dim_param) : 0;
        if (symbol < 0)
            return reader_nomem(r);
        *dim = *pb->dim_param ? DIM_SYMBOL(symbol) : DIM_UNKNOWN;
        *odd = *odd || !*pb->dim_param;
    }
    if (pb->denotation && !type->dim_denotation) {
        type->dim_denotation = model_alloc(r->m, SHAPE_MAX_RANK, sizeof *type->dim_denotation);
        if (!type->dim_denotation)
            return reader_nomem(r);
    }
    if (pb->denotation)
        type->dim_denotation[axis] = reader_text(r, pb->denotation, &failed);
    return failed ? reader_nomem(r) : 0;
}

static int read_tensor_type(struct reader *r, const Onnx__TypeProto__Tensor *pb, struct type *type, bool *odd)
{
    *odd = *odd || pb->base.n_unknown_fields || (pb->has_elem_type && !dtype_valid(pb->elem_type));
    type->has_dtype = pb->has_elem_type;
    type->dtype = pb->has_elem_type && dtype_valid(pb->elem_type) ? (enum dtype)pb->elem_type : DTYPE_NONE;
    type->shape = SHAPE_UNKNOWN;
    type->has_shape = pb->shape != NULL;
    if (!pb->shape)
        return 0;
    *odd = *odd || pb->shape->base.n_unknown_fields;
    if (pb->shape->n_dim > SHAPE_MAX_RANK) {
        type->has_shape = false;
        *odd = true;
        return 0;
    }
    type->shape.rank = (int)pb->shape->n_dim;
    for (int i = 0; i < type->shape.rank; i++)
        if (read_dim(r, pb->shape->dim[i], i, type, odd))
            return -1;
    return 0;
}

/* The same members as Tensor, in a message of another name. */
static int read_sparse_type(struct reader *r, const Onnx__TypeProto__SparseTensor *pb, struct type *type, bool *odd)
{
    Onnx__TypeProto__Tensor same = ONNX__TYPE_PROTO__TENSOR__INIT;
    same.base.n_unknown_fields = pb->base.n_unknown_fields;
    same.has_elem_type = pb->has_elem_type;
    same.elem_type = pb->elem_type;
    same.shape = pb->shape;
    return read_tensor_type(r, &same, type, odd);
}

static int read_inner(struct reader *r, Onnx__TypeProto *pb, struct type *type, bool *odd);

static int read_kind(struct reader *r, const Onnx__TypeProto *pb, struct type *type, bool *odd)
{
    switch (pb->value_case) {
    case ONNX__TYPE_PROTO__VALUE_TENSOR_TYPE:
        type->kind = TYPE_TENSOR;
        return read_tensor_type(r, pb->tensor_type, type, odd);
    case ONNX__TYPE_PROTO__VALUE_SPARSE_TENSOR_TYPE:
        type->kind = TYPE_SPARSE_TENSOR;
        return read_sparse_type(r, pb->sparse_tensor_type, type, odd);
    case ONNX__TYPE_PROTO__VALUE_SEQUENCE_TYPE:
        type->kind = TYPE_SEQUENCE;
        *odd = *odd || pb->sequence_type->base.n_unknown_fields;
        return read_inner(r, pb->sequence_type->elem_type, type, odd);
    case ONNX__TYPE_PROTO__VALUE_OPTIONAL_TYPE:
        type->kind = TYPE_OPTIONAL;
        *odd = *odd || pb->optional_type->base.n_unknown_fields;
        return read_inner(r, pb->optional_type->elem_type, type, odd);
    case ONNX__TYPE_PROTO__VALUE_MAP_TYPE:
        type->kind = TYPE_MAP;
        type->has_dtype = pb->map_type->has_key_type;
        *odd = *odd || pb->map_type->base.n_unknown_fields || (type->has_dtype && !dtype_valid(pb->map_type->key_type));
        type->dtype = type->has_dtype && !*odd ? (enum dtype)pb->map_type->key_type : DTYPE_NONE;
        return read_inner(r, pb->map_type->value_type, type, odd);
    case ONNX__TYPE_PROTO__VALUE_OPAQUE_TYPE:
        type->kind = TYPE_OPAQUE;
        *odd = true;
        return 0;
    default:
        return 0;
    }
}

/* `odd` gathers up to the outermost type, which then is kept whole. Depth is limited by the wire walk. */
static int read_level(struct reader *r, const Onnx__TypeProto *pb, struct type *type, bool *odd)
{
    bool failed = false;
    *type = (struct type){.shape = SHAPE_UNKNOWN};
    *odd = *odd || pb->base.n_unknown_fields;
    type->denotation = reader_text(r, pb->denotation, &failed);
    if (failed)
        return reader_nomem(r);
    return read_kind(r, pb, type, odd);
}

static int read_inner(struct reader *r, Onnx__TypeProto *pb, struct type *type, bool *odd)
{
    if (!pb)
        return 0;
    struct type *inner = model_alloc(r->m, 1, sizeof *inner);
    if (!inner)
        return reader_nomem(r);
    type->inner = inner;
    return read_level(r, pb, inner, odd);
}

int read_type(struct reader *r, Onnx__TypeProto *pb, struct type *type)
{
    bool odd = false;
    if (read_level(r, pb, type, &odd))
        return -1;
    if (!odd)
        return 0;
    size_t len;
    void *bytes = wire_repack(r->w, &pb->base, r->m->arena, &len);
    if (!bytes)
        return reader_nomem(r);
    type->opaque = (struct bytes){bytes, len};
    return 0;
}
