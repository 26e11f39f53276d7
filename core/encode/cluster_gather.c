/* SPDX-License-Identifier: Apache-2.0
 * cluster_gather.c - a clustered weight as what any ONNX runtime builds at load: Gather(codebook, Cast(indices)).
 * The codebooks of all groups stand one behind the other in one vector of at most 256 values, so that an index needs a
 * byte; from opset 21 on, half a byte where at most 16 values are left. The weight's value keeps its name: it is made
 * by the Gather. */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/encode/cluster_method.h"
#include "core/passes/edit.h"

enum { MOST = 256, INT4_OPSET = 21, NODES_BYTES = 200 /* about what two nodes and names take */ };

struct table {
    float value[MOST];
    int64_t count;
    int64_t first[MOST + 1]; /* by group */
};

/* Distinct values of each group in the order of its codebook. False: more than 256. */
static bool make_table(const struct cluster_item *it, struct table *t)
{
    const int64_t width = it->codebook.shape.dim[1];
    t->count = 0;
    if (it->groups > MOST)
        return false;
    for (int64_t g = 0; g < it->groups; g++) {
        const float *row = tensor_f32(&it->codebook) + g * width;
        t->first[g] = t->count;
        for (int64_t j = 0; j < width; j++) {
            if (j && row[j] == row[j - 1])
                continue;
            if (t->count == MOST)
                return false;
            t->value[t->count++] = row[j];
        }
    }
    t->first[it->groups] = t->count;
    return true;
}

static int64_t index_of(const struct table *t, int64_t g, float v)
{
    for (int64_t j = t->first[g]; j < t->first[g + 1]; j++)
        if (t->value[j] == v)
            return j;
    return t->first[g];
}

static int make_indices(const struct cluster_item *it, const struct table *t, enum dtype dtype, struct tensor *out,
                        struct err *err)
{
    const int64_t n = tensor_count(it->tensor), run = n / it->groups;
    float *v = malloc((size_t)n * sizeof *v);
    if (!v)
        return err_set(err, ERR_NOMEM, "out of memory while clustering");
    dtype_convert(DTYPE_FLOAT, v, it->made.dtype, it->made.data, n);
    const int rc = tensor_alloc(out, dtype, &it->tensor->shape, err);
    for (int64_t i = 0; rc == 0 && i < n; i++)
        dtype_set(dtype, out->data, i, (double)index_of(t, i / run, v[i]));
    free(v);
    return rc;
}

static int rewrite(struct edit *e, const struct cluster_item *it, const struct tensor *index, const struct tensor *book,
                   struct err *err)
{
    struct model *m = e->m;
    const char *name = m->values[it->ref.value].name;
    const uint32_t graph = m->values[it->ref.value].graph;
    const char *label = model_printf(m, "%s_indices", name), *book_label = model_printf(m, "%s_codebook", name);
    const char *wide_label = model_printf(m, "%s_wide", name), *made_label = model_printf(m, "%s_gathered", name);
    if (!label || !book_label || !wide_label || !made_label)
        return err_set(err, ERR_NOMEM, "out of memory while clustering");
    const uint32_t indices = edit_add_weight(e, graph, label, index),
                   codebook = edit_add_weight(e, graph, book_label, book);
    const uint32_t wide = edit_add_value(e, graph, wide_label), made = edit_add_value(e, graph, made_label);
    if (indices == VALUE_NONE || codebook == VALUE_NONE || wide == VALUE_NONE || made == VALUE_NONE)
        return err_set(err, ERR_NOMEM, "out of memory while clustering");
    const uint32_t cast = edit_add_node(e, graph, "Cast", wide_label, &indices, 1, &wide, 1);
    const uint32_t gather = edit_add_node(e, graph, "Gather", made_label, (uint32_t[]){codebook, wide}, 2, &made, 1);
    if (cast == NODE_NONE || gather == NODE_NONE)
        return err_set(err, ERR_NOMEM, "out of memory while clustering");
    node_set_int(m, cast, "to", DTYPE_INT32);
    edit_replace_reads(e, it->ref.value, made);
    return 0;
}

static enum dtype index_dtype(const struct model *m, const struct table *t)
{
    return t->count <= 16 && model_opset(m, "") >= INT4_OPSET ? DTYPE_UINT4 : DTYPE_UINT8;
}

const char *cluster_gather_refusal(const struct model *m, const struct cluster_item *it, int64_t *bytes)
{
    struct table t;
    size_t index = 0, book = 0;
    if (!make_table(it, &t))
        return "its groups have more than 256 values together";
    if (value_is_graph_output(m, it->ref.value) || value_is_graph_input(m, it->ref.value))
        return "it is an input or output of the model itself";
    if (!dtype_bytes(index_dtype(m, &t), tensor_count(it->tensor), &index) ||
        !dtype_bytes(it->tensor->dtype, t.count, &book) || index + book + NODES_BYTES >= it->tensor->bytes)
        return "indices, codebook and two nodes would not be smaller";
    *bytes = (int64_t)(index + book);
    return NULL;
}

int cluster_gather(struct model *m, const struct cluster_item *it, struct err *err)
{
    struct table t;
    struct tensor index = {0}, book = {0}, values = {0};
    struct edit e;
    int rc = -1;
    make_table(it, &t);
    if (edit_init(&e, m, err))
        return -1;
    if (make_indices(it, &t, index_dtype(m, &t), &index, err) ||
        tensor_alloc(&values, DTYPE_FLOAT, &SHAPE(t.count), err))
        goto out;
    memcpy(values.data, t.value, values.bytes);
    if (tensor_convert(&book, &values, it->tensor->dtype, err))
        goto out;
    rc = rewrite(&e, it, &index, &book, err);
    if (rc == 0)
        rc = edit_finish(&e, err);
out:
    edit_fini(&e);
    tensor_fini(&index);
    tensor_fini(&book);
    tensor_fini(&values);
    return rc;
}
