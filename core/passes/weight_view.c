/* SPDX-License-Identifier: Apache-2.0
 * weight_view.c - see weight_view.h. A transposition only permutes strides; a tile then is read along whichever
 * index is contiguous in the file, so that pages and cache lines are used whole. */
#include "core/passes/weight_view.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"

enum { MAX_CHAIN = 64 };

static bool start(struct weight_view *v, uint32_t value, const struct tensor *t)
{
    if (!t->data || t->shape.rank < 0 || t->shape.rank > SHAPE_MAX_RANK || tensor_count(t) < 1)
        return false;
    *v = (struct weight_view){.source = value, .stored = t, .dtype = t->dtype, .rank = t->shape.rank};
    int64_t stride = 1;
    for (int a = v->rank - 1; a >= 0; a--) {
        v->dim[a] = t->shape.dim[a];
        v->stride[a] = stride;
        stride *= v->dim[a];
    }
    return true;
}

static bool transpose(struct weight_view *v, const struct node *n)
{
    const struct attr *perm = node_attr(n, "perm");
    const struct weight_view old = *v;
    unsigned seen = 0;
    if (perm && (perm->type != ATTR_INTS || perm->count != v->rank || perm->ref_name))
        return false;
    for (int a = 0; a < v->rank; a++) {
        const int64_t from = perm ? perm->ints[a] : v->rank - 1 - a;
        if (from < 0 || from >= v->rank || (seen >> from & 1))
            return false;
        seen |= 1u << from;
        v->dim[a] = old.dim[from];
        v->stride[a] = old.stride[from];
    }
    return true;
}

static bool is_float(enum dtype d)
{
    return d == DTYPE_FLOAT || d == DTYPE_FLOAT16 || d == DTYPE_BFLOAT16 || d == DTYPE_DOUBLE;
}

static bool cast(struct weight_view *v, const struct node *n)
{
    const struct attr *to = node_attr(n, "to");
    if (!to || to->type != ATTR_INT || to->ref_name || !dtype_valid((int)to->ints[0]) ||
        !is_float((enum dtype)to->ints[0]))
        return false;
    /* two narrowings in a row round twice; only the last is remembered */
    if (v->dtype != v->stored->dtype && dtype_bits((enum dtype)to->ints[0]) < 32)
        return false;
    if (dtype_bits(v->dtype) < dtype_bits(v->stored->dtype))
        return false;
    v->dtype = (enum dtype)to->ints[0];
    return true;
}

static const struct {
    const char *op_type;
    bool (*apply)(struct weight_view *v, const struct node *n); /* NULL: the same value */
} steps[] = {{"Identity", NULL}, {"Transpose", transpose}, {"Cast", cast}};

static int step_of(const struct node *n)
{
    for (size_t i = 0; n->op_type && n->n_input == 1 && i < sizeof steps / sizeof steps[0]; i++)
        if (node_is(n, steps[i].op_type))
            return (int)i;
    return -1;
}

bool weight_view_of(const struct model *m, uint32_t value, struct weight_view *v)
{
    uint32_t chain[MAX_CHAIN];
    int n = 0;
    while (value != VALUE_NONE && value < m->n_values && !value_const(m, value)) {
        const uint32_t p = m->values[value].producer;
        if (p == NODE_NONE || n == MAX_CHAIN || step_of(&m->nodes[p]) < 0)
            return false;
        chain[n++] = p;
        value = m->nodes[p].input[0];
    }
    if (value == VALUE_NONE || value >= m->n_values || !start(v, value, value_const(m, value)) || !is_float(v->dtype))
        return false;
    while (n > 0) {
        const struct node *node = &m->nodes[chain[--n]];
        const int step = step_of(node);
        if (steps[step].apply && !steps[step].apply(v, node))
            return false;
    }
    return true;
}

bool weight_view_equal(const struct weight_view *a, const struct weight_view *b)
{
    bool same = a->source == b->source && a->dtype == b->dtype && a->rank == b->rank;
    for (int i = 0; same && i < a->rank; i++)
        same = a->dim[i] == b->dim[i] && a->stride[i] == b->stride[i];
    return same;
}

/* Offsets of all index combinations of some axes, the last fastest. One axis, or axes that follow each other in
 * memory, need no table: then *stride says it. */
static int offsets(const struct weight_view *v, unsigned axes, int64_t *count, int64_t *stride, int64_t **table,
                   struct err *err)
{
    int64_t next = 0;
    bool regular = true;
    *count = 1;
    *stride = 1;
    *table = NULL;
    for (int a = v->rank - 1; a >= 0; a--) {
        if (!(axes >> a & 1) || v->dim[a] == 1)
            continue;
        if (next == 0)
            *stride = v->stride[a];
        else
            regular = regular && v->stride[a] == next;
        next = v->stride[a] * v->dim[a];
        *count *= v->dim[a]; /* no more than the tensor's elements */
    }
    if (regular)
        return 0;
    size_t bytes;
    if (!size_mul((size_t)*count, sizeof **table, &bytes) || !(*table = malloc(bytes)))
        return err_set(err, ERR_NOMEM, "out of memory while reading weights");
    int64_t at[SHAPE_MAX_RANK] = {0}, offset = 0;
    for (int64_t i = 0; i < *count; i++) {
        (*table)[i] = offset;
        for (int a = v->rank - 1; a >= 0; a--) {
            if (!(axes >> a & 1))
                continue;
            offset += v->stride[a];
            if (++at[a] < v->dim[a])
                break;
            offset -= v->stride[a] * v->dim[a];
            at[a] = 0;
        }
    }
    *stride = 0;
    return 0;
}

int weight_matrix_init(struct weight_matrix *x, const struct weight_view *v, unsigned row_axes, struct err *err)
{
    *x = (struct weight_matrix){.stored = v->stored, .dtype = v->dtype};
    if (offsets(v, row_axes, &x->rows, &x->row_stride, &x->row_at, err) ||
        offsets(v, ~row_axes, &x->k, &x->k_stride, &x->k_at, err)) {
        weight_matrix_fini(x);
        return -1;
    }
    if (x->rows == 1 && !x->row_at)
        x->row_stride = x->k;
    if (x->stored->dtype == DTYPE_FLOAT && x->dtype == DTYPE_FLOAT && !x->k_at && !x->row_at && x->k_stride == 1 &&
        x->row_stride == x->k)
        x->whole = tensor_f32(x->stored);
    return 0;
}

void weight_matrix_fini(struct weight_matrix *x)
{
    free(x->row_at);
    free(x->k_at);
    *x = (struct weight_matrix){0};
}

/* n contiguous stored elements from index `at`. */
static void read_run(const struct weight_matrix *x, int64_t at, int64_t n, float *out)
{
    const enum dtype stored = x->stored->dtype;
    const size_t width = (size_t)dtype_bits(stored) / 8;
    if (stored == DTYPE_FLOAT)
        memcpy(out, tensor_f32(x->stored) + at, (size_t)n * sizeof *out);
    else
        dtype_convert(DTYPE_FLOAT, out, stored, (const char *)x->stored->data + (size_t)at * width, n);
}

/* Rows lie side by side: sixteen elements of each row at once, so that whole cache lines are written. */
static void read_columns(const struct weight_matrix *x, int64_t first_row, int64_t rows, int64_t first_k, int64_t nk,
                         float *out)
{
    enum { LINES = 16, WIDTH = 256 };
    float line[LINES][WIDTH];
    for (int64_t r = 0; r < rows; r += WIDTH) {
        const int64_t n = i64_min(WIDTH, rows - r);
        for (int64_t k = 0; k < nk; k += LINES) {
            const int64_t lines = i64_min(LINES, nk - k);
            for (int64_t l = 0; l < lines; l++)
                read_run(x, weight_matrix_at(x, first_row + r, first_k + k + l), n, line[l]);
            if (lines == LINES) {
                for (int64_t i = 0; i < n; i++)
                    for (int64_t l = 0; l < LINES; l++)
                        out[(r + i) * nk + k + l] = line[l][i];
            } else {
                for (int64_t i = 0; i < n; i++)
                    for (int64_t l = 0; l < lines; l++)
                        out[(r + i) * nk + k + l] = line[l][i];
            }
        }
    }
}

static void narrow(enum dtype to, float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        v[i] =
            to == DTYPE_FLOAT16 ? dtype_f16_to_f32(dtype_f32_to_f16(v[i])) : dtype_bf16_to_f32(dtype_f32_to_bf16(v[i]));
}

void weight_matrix_read(const struct weight_matrix *x, int64_t first_row, int64_t rows, int64_t first_k, int64_t nk,
                        float *out)
{
    if (!x->k_at && x->k_stride == 1) {
        for (int64_t r = 0; r < rows; r++)
            read_run(x, weight_matrix_at(x, first_row + r, first_k), nk, out + r * nk);
    } else if (!x->row_at && x->row_stride == 1) {
        read_columns(x, first_row, rows, first_k, nk, out);
    } else {
        for (int64_t r = 0; r < rows; r++)
            for (int64_t i = 0; i < nk; i++)
                out[r * nk + i] = (float)dtype_get(x->stored->dtype, x->stored->data,
                                                   weight_matrix_at(x, first_row + r, first_k + i));
    }
    if ((x->dtype == DTYPE_FLOAT16 || x->dtype == DTYPE_BFLOAT16) && x->stored->dtype != x->dtype)
        narrow(x->dtype, out, rows * nk);
}
