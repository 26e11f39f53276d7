/* SPDX-License-Identifier: Apache-2.0
 * Loops over broadcast operands: see elementwise.h. Work is cut at fixed numbers of output elements, so a piece may
 * begin and end inside a row. */
#include "core/ops/elementwise.h"

#include <inttypes.h>
#include <string.h>

enum { GRAIN = 1 << 14, PIECE = 512 };

static bool can_merge(const struct op_walk *w, int64_t dim, const int64_t stride[OP_WALK_MAX])
{
    if (w->rank == 0)
        return false;
    for (int k = 0; k < w->operands; k++)
        if (w->stride[k][w->rank - 1] != stride[k] * dim)
            return false;
    return true;
}

void op_walk_init(struct op_walk *w, int operands, const struct shape *const *in, const struct shape *out)
{
    int64_t stride[OP_WALK_MAX][SHAPE_MAX_RANK];
    memset(w, 0, sizeof *w);
    w->operands = operands;
    for (int k = 0; k < operands; k++)
        shape_strides(in[k], true, stride[k]);
    for (int i = 0; i < out->rank; i++) {
        int64_t s[OP_WALK_MAX] = {0};
        if (out->dim[i] == 1)
            continue;
        for (int k = 0; k < operands; k++) {
            int axis = i - (out->rank - in[k]->rank);
            s[k] = axis >= 0 ? stride[k][axis] : 0;
        }
        bool merge = can_merge(w, out->dim[i], s);
        int at = merge ? w->rank - 1 : w->rank++;
        w->dim[at] = merge ? w->dim[at] * out->dim[i] : out->dim[i];
        for (int k = 0; k < operands; k++)
            w->stride[k][at] = s[k];
    }
    if (w->rank == 0) {
        w->rank = 1;
        w->dim[0] = 1;
        for (int k = 0; k < operands; k++)
            w->stride[k][0] = 1;
    }
    w->row = w->dim[w->rank - 1];
    w->rows = 1;
    for (int i = 0; i < w->rank - 1; i++)
        w->rows *= w->dim[i];
    for (int k = 0; k < operands; k++)
        w->step[k] = w->stride[k][w->rank - 1];
}

void op_walk_at(const struct op_walk *w, int64_t row, int64_t offset[OP_WALK_MAX])
{
    for (int k = 0; k < w->operands; k++)
        offset[k] = w->rank == 2 ? row * w->stride[k][0] : 0;
    if (w->rank <= 2) /* the usual case, without divisions */
        return;
    for (int i = w->rank - 2; i >= 0; i--) {
        int64_t at = row % w->dim[i];
        row /= w->dim[i];
        for (int k = 0; k < w->operands; k++)
            offset[k] += at * w->stride[k][i];
    }
}

struct binary_loop {
    const struct binary_call *call;
    struct op_walk walk;
    int cyclic; /* the operand whose short row repeats while the other one runs on; -1: none */
    binary_fn *fn;
    size_t elem_a, elem_b, elem_d;
    enum dtype carrier_d;
};

/* n elements whose dtypes may differ from the carrier: converted on the stack, PIECE at a time. */
static void run_converted(const struct binary_loop *l, const char *a, const char *b, char *d, int64_t n)
{
    const struct binary_call *k = l->call;
    uint64_t buf_a[PIECE], buf_b[PIECE], buf_d[PIECE];
    int64_t sa = l->walk.step[0], sb = l->walk.step[1];
    for (int64_t at = 0; at < n; at += PIECE) {
        int64_t m = i64_min(PIECE, n - at);
        const void *pa = a + (size_t)(at * sa) * l->elem_a, *pb = b + (size_t)(at * sb) * l->elem_b;
        void *pd = d + (size_t)at * l->elem_d;
        if (k->dtype_a != k->carrier) {
            dtype_convert(k->carrier, buf_a, k->dtype_a, pa, sa ? m : 1);
            pa = buf_a;
        }
        if (k->dtype_b != k->carrier) {
            dtype_convert(k->carrier, buf_b, k->dtype_b, pb, sb ? m : 1);
            pb = buf_b;
        }
        bool convert = k->dtype_d != l->carrier_d;
        l->fn(convert ? buf_d : pd, pa, pb, m, sa, sb);
        if (convert)
            dtype_convert(k->dtype_d, pd, l->carrier_d, buf_d, m);
    }
}

static void run_walk(void *opaque, int64_t begin, int64_t end)
{
    const struct binary_loop *l = opaque;
    const struct binary_call *k = l->call;
    const struct op_walk *w = &l->walk;
    bool direct = k->dtype_a == k->carrier && k->dtype_b == k->carrier && k->dtype_d == l->carrier_d;
    while (begin < end) {
        int64_t row = begin / w->row, at = begin % w->row, offset[OP_WALK_MAX];
        int64_t n = i64_min(w->row - at, end - begin);
        op_walk_at(w, row, offset);
        const char *a = (const char *)k->a + (size_t)(offset[0] + at * w->step[0]) * l->elem_a;
        const char *b = (const char *)k->b + (size_t)(offset[1] + at * w->step[1]) * l->elem_b;
        char *d = (char *)k->d + (size_t)begin * l->elem_d;
        if (direct)
            l->fn(d, a, b, n, w->step[0], w->step[1]);
        else
            run_converted(l, a, b, d, n);
        begin += n;
    }
}

/* ---- short rows ----
 * [.., P, R] with [.., 1, R] and a small R, as in a product of each pixel's eight channels with one vector: the short
 * row is written out several times, and the loops run over many rows at once. */
enum { SHORT_ROW = 128, MANY_ROWS = 4, CYCLE_BYTES = 8192 };

static int cyclic_operand(const struct binary_loop *l)
{
    const struct binary_call *k = l->call;
    const struct op_walk *w = &l->walk;
    const int above = w->rank - 2;
    if (above < 0 || w->row > SHORT_ROW || w->dim[above] < MANY_ROWS || w->step[0] != 1 || w->step[1] != 1 ||
        k->dtype_a != k->carrier || k->dtype_b != k->carrier || k->dtype_d != l->carrier_d)
        return -1;
    for (int i = 0; i < 2; i++)
        if (w->stride[i][above] == 0 && w->stride[1 - i][above] == w->row)
            return i;
    return -1;
}

static void run_cycle(void *opaque, int64_t begin, int64_t end)
{
    const struct binary_loop *l = opaque;
    const struct binary_call *k = l->call;
    const struct op_walk *w = &l->walk;
    const size_t elem[2] = {l->elem_a, l->elem_b}, period = (size_t)w->row * elem[l->cyclic];
    const char *base[2] = {k->a, k->b};
    const int64_t plane = w->row * w->dim[w->rank - 2], cycle = CYCLE_BYTES / (int64_t)period * w->row;
    char buffer[CYCLE_BYTES] __attribute__((aligned(64)));
    int64_t filled = -1; /* the plane whose short row the buffer holds */
    while (begin < end) {
        const int64_t at = begin % plane, phase = at % w->row;
        const int64_t n = i64_min(i64_min(plane - at, end - begin), cycle - phase);
        int64_t offset[OP_WALK_MAX];
        op_walk_at(w, begin / plane * w->dim[w->rank - 2], offset);
        if (filled != begin / plane) {
            const char *row = base[l->cyclic] + (size_t)offset[l->cyclic] * elem[l->cyclic];
            for (int64_t i = 0; i < i64_min(cycle, plane) / w->row; i++)
                memcpy(buffer + (size_t)i * period, row, period);
            filled = begin / plane;
        }
        const char *in[2];
        in[l->cyclic] = buffer + (size_t)phase * elem[l->cyclic];
        in[1 - l->cyclic] = base[1 - l->cyclic] + (size_t)(offset[1 - l->cyclic] + at) * elem[1 - l->cyclic];
        l->fn((char *)k->d + (size_t)begin * l->elem_d, in[0], in[1], n, 1, 1);
        begin += n;
    }
}

static binary_fn *pick(const struct binary *op, enum dtype carrier)
{
    switch (carrier) {
    case DTYPE_FLOAT:
        return op->f32;
    case DTYPE_DOUBLE:
        return op->f64;
    case DTYPE_INT64:
        return op->i64;
    case DTYPE_UINT64:
        return op->u64;
    case DTYPE_BOOL:
        return op->b8;
    default:
        return NULL;
    }
}

static int refuse_zeros(const struct binary_call *k, struct err *err)
{
    int64_t n = shape_count(k->shape_b);
    for (int64_t i = 0; i < n; i++)
        if (dtype_get_i64(k->dtype_b, k->b, i) == 0)
            return err_set(err, ERR_MODEL, "integer division by zero: element %" PRId64 " of the second operand is 0",
                           i);
    return 0;
}

int binary_apply(struct pool *pool, const struct binary_call *call, struct err *err)
{
    struct binary_loop l = {.call = call, .fn = pick(call->op, call->carrier)};
    if (!l.fn)
        return err_set(err, ERR_OPERATOR, "operands of type %s cannot be computed with", dtype_name(call->dtype_a));
    l.carrier_d = call->op->to_bool ? DTYPE_BOOL : call->carrier;
    l.elem_a = op_elem(call->dtype_a, err);
    l.elem_b = op_elem(call->dtype_b, err);
    l.elem_d = op_elem(call->dtype_d, err);
    if (!l.elem_a || !l.elem_b || !l.elem_d)
        return -1;
    int64_t n = shape_count(call->shape_d);
    if (n <= 0)
        return 0;
    bool integers = call->carrier == DTYPE_INT64 || call->carrier == DTYPE_UINT64;
    if (call->op->divides && integers && refuse_zeros(call, err) < 0)
        return -1;
    op_walk_init(&l.walk, 2, (const struct shape *const[]){call->shape_a, call->shape_b}, call->shape_d);
    l.cyclic = cyclic_operand(&l);
    op_parallel(pool, n, GRAIN, l.cyclic >= 0 ? run_cycle : run_walk, &l);
    return 0;
}

int binary_shape(const struct shape *a, const struct shape *b, struct shape *out, struct err *err)
{
    char ta[SHAPE_TEXT], tb[SHAPE_TEXT];
    if (!shape_broadcast(a, b, out))
        return err_set(err, ERR_SHAPE, "shapes %s and %s do not broadcast", shape_text(a, ta), shape_text(b, tb));
    return 0;
}
