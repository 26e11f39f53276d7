/* SPDX-License-Identifier: Apache-2.0
 * Einsum: sums of products named by labels, "bij,bjk->bik". Without "->" the output takes the labels that occur once,
 * in alphabetical order, after the axes of "..." . Repeated labels of one operand take its diagonal.
 * Way        Operands are joined from left to right. To join two, the labels fall into four classes: in both and
 *            still needed (batch), only in the left (rows), only in the right (columns), in both and needed no more
 *            (summed). Strided copies bring both into [batch, rows, summed] and [batch, summed, columns], and a batch
 *            of matrix products does the rest. Labels that only one operand has and nobody needs are summed away
 *            before. A strided copy at the end gives the asked order.
 * Labels     letters are their own; the axes of "..." become labels 52, 53, ... counted from the right, so that they
 *            broadcast. */
#include <ctype.h>
#include <inttypes.h>
#include <string.h>

#include "core/kernels/gemm.h"
#include "core/ops/couple.h"
#include "core/ops/grad_util.h"
#include "core/ops/widen.h"

enum { ELLIPSIS = 52, LABELS = ELLIPSIS + SHAPE_MAX_RANK, MAX_OPERANDS = 12 };

struct einsum_attrs {
    const char *equation;
};
static const struct op_attr einsum_attrs[] = {{OP_ATTR(einsum_attrs, equation), .kind = OP_STRING, .required = true},
                                              {NULL}};

/* The labels of one term, before "..." is told apart: ELLIPSIS stands for it. */
struct term {
    int count;
    int label[SHAPE_MAX_RANK + 1];
    bool ellipsis;
};
struct equation {
    int operands;
    struct term in[MAX_OPERANDS], out;
    bool has_out;
};
_Static_assert((int)OP_COPY_RANK >= (int)SHAPE_MAX_RANK, "a term fits a strided copy");

static int label_of(char c)
{
    return c >= 'a' && c <= 'z' ? c - 'a' + 26 : c - 'A'; /* upper case sorts first, as in ASCII */
}

static int parse_term(const char **text, struct term *t, struct err *err)
{
    *t = (struct term){0};
    for (; **text && **text != ',' && **text != '-'; (*text)++) {
        const char c = **text;
        if (c == ' ')
            continue;
        if (t->count > SHAPE_MAX_RANK)
            return err_set(err, ERR_MODEL, "attribute 'equation' has a term of more than %d labels", SHAPE_MAX_RANK);
        if (c == '.') {
            if (strncmp(*text, "...", 3) != 0 || t->ellipsis)
                return err_set(err, ERR_MODEL,
                               "attribute 'equation' has a misplaced '.'; only one '...' a term is allowed");
            t->ellipsis = true;
            t->label[t->count++] = ELLIPSIS;
            *text += 2;
        } else if (isalpha((unsigned char)c)) {
            t->label[t->count++] = label_of(c);
        } else {
            return err_set(err, ERR_MODEL,
                           "attribute 'equation' has the byte 0x%02x; letters, ',', '...' and '->' are allowed",
                           (unsigned char)c);
        }
    }
    return 0;
}

static int parse(const char *text, struct equation *e, struct err *err)
{
    *e = (struct equation){0};
    for (;;) {
        if (e->operands == MAX_OPERANDS)
            return err_set(err, ERR_OPERATOR, "attribute 'equation' has more than %d operands", MAX_OPERANDS);
        if (parse_term(&text, &e->in[e->operands++], err) < 0)
            return -1;
        if (*text != ',')
            break;
        text++;
    }
    if (*text == '\0')
        return 0;
    if (text[0] != '-' || text[1] != '>')
        return err_set(err, ERR_MODEL, "attribute 'equation' has '-' without '>'");
    text += 2;
    e->has_out = true;
    if (parse_term(&text, &e->out, err) < 0)
        return -1;
    return *text ? err_set(err, ERR_MODEL, "attribute 'equation' goes on after its output") : 0;
}

/* Replace "..." by labels for the axes it stands for, given the rank (inputs) or the widest "..." (output). */
static int expand(struct term *t, int axes, struct err *err)
{
    struct term out = {.ellipsis = t->ellipsis};
    if (axes < 0 || t->count - (t->ellipsis ? 1 : 0) + axes > SHAPE_MAX_RANK)
        return err_set(err, ERR_SHAPE, "a term of the equation does not fit the rank of its operand");
    for (int i = 0; i < t->count; i++) {
        if (t->label[i] != ELLIPSIS) {
            out.label[out.count++] = t->label[i];
            continue;
        }
        for (int k = 0; k < axes; k++)
            out.label[out.count++] = ELLIPSIS + axes - 1 - k;
    }
    *t = out;
    return 0;
}

/* Everything by label, for inputs whose ranks are known. dim[l]: -1 label unused, DIM_UNKNOWN folded into `known`. */
struct plan {
    struct equation e;
    int64_t dim[LABELS];
    bool used[LABELS];
    struct shape out;
};

static int take_dim(struct plan *p, int label, int64_t dim, struct err *err)
{
    int64_t *d = &p->dim[label];
    if (!p->used[label] || *d == 1)
        *d = dim;
    else if (dim >= 0 && dim != 1 && *d >= 0 && *d != dim)
        return err_set(err, ERR_SHAPE,
                       "a label of the equation has size %" PRId64 " in one operand and %" PRId64 " in another", *d,
                       dim);
    else if (*d < 0 && dim > 1)
        *d = dim;
    p->used[label] = true;
    return 0;
}

/* The output when the equation has none: "..." and the labels that occur once. */
static void default_output(struct equation *e)
{
    int seen[ELLIPSIS] = {0};
    bool ellipsis = false;

    for (int i = 0; i < e->operands; i++)
        for (int k = 0; k < e->in[i].count; k++) {
            if (e->in[i].label[k] < ELLIPSIS)
                seen[e->in[i].label[k]]++;
            else
                ellipsis = true;
        }
    e->out = (struct term){.ellipsis = ellipsis};
    if (ellipsis)
        e->out.label[e->out.count++] = ELLIPSIS;
    for (int l = 0; l < ELLIPSIS && e->out.count <= SHAPE_MAX_RANK; l++)
        if (seen[l] == 1)
            e->out.label[e->out.count++] = l;
}

static int plan_make(const struct einsum_attrs *a, const struct shape *const *in, int n, struct plan *p,
                     struct err *err)
{
    int widest = 0;

    memset(p, 0, sizeof *p);
    if (parse(a->equation, &p->e, err) < 0)
        return -1;
    if (p->e.operands != n)
        return err_set(err, ERR_MODEL, "attribute 'equation' has %d operands but the node has %d inputs", p->e.operands,
                       n);
    if (!p->e.has_out)
        default_output(&p->e);
    for (int i = 0; i < n; i++) {
        struct term *t = &p->e.in[i];
        const int axes = in[i]->rank - (t->count - (t->ellipsis ? 1 : 0));
        if ((!t->ellipsis && axes != 0) || expand(t, axes, err) < 0)
            return err_set(err, ERR_SHAPE, "operand #%d has %d axes, which its term of the equation does not fit", i,
                           in[i]->rank);
        widest = t->ellipsis && axes > widest ? axes : widest;
        for (int k = 0; k < t->count; k++)
            if (take_dim(p, t->label[k], in[i]->dim[k], err) < 0)
                return -1;
    }
    int labels = 0;
    for (int l = 0; l < LABELS; l++)
        labels += p->used[l];
    if (labels > OP_COPY_RANK)
        return err_set(err, ERR_OPERATOR, "the equation has %d labels; at most %d are supported", labels, OP_COPY_RANK);
    if (expand(&p->e.out, widest, err) < 0)
        return -1;
    p->out.rank = p->e.out.count;
    for (int k = 0; k < p->out.rank; k++) {
        const int l = p->e.out.label[k];
        for (int j = 0; j < k; j++)
            if (p->e.out.label[j] == l)
                return err_set(err, ERR_MODEL, "attribute 'equation' names a label twice in its output");
        if (!p->used[l])
            return err_set(err, ERR_MODEL, "attribute 'equation' has an output label that no operand has");
        p->out.dim[k] = p->dim[l];
    }
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct shape *in[MAX_OPERANDS];
    struct equation e;
    struct plan p;
    enum dtype dtype;
    bool known = true;

    if (op_need(c, c->n_in, err) < 0 || op_same_dtype(c, 0, c->n_in, &dtype, err) < 0 ||
        op_dtype_kinds(c, 0, "fiu", err) < 0)
        return -1;
    if (c->n_in > MAX_OPERANDS)
        return err_set(err, ERR_OPERATOR, "%d operands; at most %d are supported", c->n_in, MAX_OPERANDS);
    for (int i = 0; i < c->n_in; i++) {
        in[i] = infer_shape(c, i);
        known = known && in[i]->rank != SHAPE_UNKNOWN_RANK;
    }
    if (!known) {
        infer_out(c, 0, dtype, &SHAPE_UNKNOWN);
        return parse(((const struct einsum_attrs *)c->attrs)->equation, &e, err);
    }
    if (plan_make(c->attrs, in, c->n_in, &p, err) < 0)
        return -1;
    infer_out(c, 0, dtype, &p.out);
    return 0;
}

/* ---- running ---- */
/* A tensor whose axes are labels; stride in elements, 0 where it broadcasts. */
struct view {
    const void *data;
    bool has[LABELS];
    int64_t stride[LABELS];
};

struct job {
    struct op_memory memory;
    struct pool *pool;
    const struct shape *const *shape; /* of the operands */
    struct plan *p;
    size_t elem;
    bool wide;
};

/* Copy the view into [labels of list...], contiguous. */
static int arrange(const struct job *j, const struct view *v, const int *list, int n, void *dst)
{
    int64_t dims[LABELS], strides[LABELS];
    for (int i = 0; i < n; i++) {
        dims[i] = j->p->dim[list[i]];
        strides[i] = v->has[list[i]] ? v->stride[list[i]] : 0;
    }
    op_copy_strided(j->pool, j->elem, dst, v->data, n, dims, strides);
    return 0;
}

static void *cells_of(const struct job *j, const int *list, int n, int64_t *count, struct err *err)
{
    size_t bytes;
    *count = 1;
    for (int i = 0; i < n; i++)
        if (!i64_mul(*count, j->p->dim[list[i]], count))
            *count = -1;
    if (*count < 0 || !size_mul((size_t)*count, j->elem, &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "an intermediate result of the equation would be too large");
        return NULL;
    }
    return op_memory(&j->memory, bytes + 1, err);
}

/* A contiguous tensor with axes `list` as a view. */
static void view_of(const struct job *j, struct view *v, const void *data, const int *list, int n)
{
    int64_t stride = 1;
    memset(v, 0, sizeof *v);
    v->data = data;
    for (int i = n - 1; i >= 0; i--) {
        v->has[list[i]] = true;
        v->stride[list[i]] = stride;
        stride *= j->p->dim[list[i]];
    }
}

static void sum_rows(const struct job *j, const void *src, void *dst, int64_t rows, int64_t n)
{
    for (int64_t r = 0; r < rows; r++) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += j->wide ? ((const double *)src)[r * n + i] : (double)((const float *)src)[r * n + i];
        if (j->wide)
            ((double *)dst)[r] = sum;
        else
            ((float *)dst)[r] = (float)sum;
    }
}

/* Sum away the labels that `needed` does not have. */
static int reduce(const struct job *j, struct view *v, const bool *needed, struct err *err)
{
    int list[LABELS], keep = 0, n = 0;
    int64_t all, kept;

    for (int l = 0; l < LABELS; l++)
        if (v->has[l] && needed[l])
            list[keep++] = l;
    n = keep;
    for (int l = 0; l < LABELS; l++)
        if (v->has[l] && !needed[l])
            list[n++] = l;
    if (n == keep)
        return 0;
    void *src = cells_of(j, list, n, &all, err), *dst = src ? cells_of(j, list, keep, &kept, err) : NULL;
    if (!dst)
        return -1;
    arrange(j, v, list, n, src);
    if (kept > 0)
        sum_rows(j, src, dst, kept, all / kept);
    view_of(j, v, dst, list, keep);
    return 0;
}

/* a = a joined with b; `needed`: labels that are wanted afterwards. */
static int join(const struct job *j, struct view *a, struct view *b, const bool *needed, struct err *err)
{
    bool wanted[LABELS];
    int batch[LABELS], rows[LABELS], cols[LABELS], inner[LABELS], list[3 * LABELS], n_batch = 0, n_rows = 0, n_cols = 0,
                                                                                    n_inner = 0;
    int64_t n_a, n_b, n_y, count = 1, m = 1, n = 1, k = 1;

    for (int l = 0; l < LABELS; l++)
        wanted[l] = needed[l] || b->has[l];
    if (reduce(j, a, wanted, err) < 0)
        return -1;
    for (int l = 0; l < LABELS; l++)
        wanted[l] = needed[l] || a->has[l];
    if (reduce(j, b, wanted, err) < 0)
        return -1;
    for (int l = 0; l < LABELS; l++) {
        if (a->has[l] && b->has[l] && needed[l])
            batch[n_batch++] = l, count *= j->p->dim[l];
        else if (a->has[l] && b->has[l])
            inner[n_inner++] = l, k *= j->p->dim[l];
        else if (a->has[l])
            rows[n_rows++] = l, m *= j->p->dim[l];
        else if (b->has[l])
            cols[n_cols++] = l, n *= j->p->dim[l];
    }
    const size_t int_size = sizeof(int);
    memcpy(list, batch, (size_t)n_batch * int_size);
    memcpy(list + n_batch, rows, (size_t)n_rows * int_size);
    memcpy(list + n_batch + n_rows, inner, (size_t)n_inner * int_size);
    void *left = cells_of(j, list, n_batch + n_rows + n_inner, &n_a, err);
    if (!left)
        return -1;
    arrange(j, a, list, n_batch + n_rows + n_inner, left);
    memcpy(list + n_batch, inner, (size_t)n_inner * int_size);
    memcpy(list + n_batch + n_inner, cols, (size_t)n_cols * int_size);
    void *right = cells_of(j, list, n_batch + n_inner + n_cols, &n_b, err);
    if (!right)
        return -1;
    arrange(j, b, list, n_batch + n_inner + n_cols, right);
    memcpy(list + n_batch, rows, (size_t)n_rows * int_size);
    memcpy(list + n_batch + n_rows, cols, (size_t)n_cols * int_size);
    void *y = cells_of(j, list, n_batch + n_rows + n_cols, &n_y, err);
    size_t bytes;
    int64_t *at = y && size_mul((size_t)count, 2 * sizeof *at, &bytes) ? op_memory(&j->memory, bytes + 1, err) : NULL;
    if (!at)
        return err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t i = 0; i < count; i++) {
        at[i] = i * m * k;
        at[count + i] = i * k * n;
    }
    const struct gemm g = gemm_plain(false, false, m, n, k);
    const struct gemm_batch all = {count, at, at + count, m * n};
    if (n_y > 0 && j->wide)
        gemm_batch_f64(j->pool, &g, &all, left, right, y);
    else if (n_y > 0)
        gemm_batch_f32(j->pool, &g, &all, left, right, y);
    view_of(j, a, y, list, n_batch + n_rows + n_cols);
    return 0;
}

/* Operand i as a view: strides of repeated labels add up (a diagonal); axes of size 1 broadcast. */
static void operand(const struct job *j, int i, const void *data, const struct shape *s, struct view *v)
{
    const struct term *t = &j->p->e.in[i];
    int64_t stride[SHAPE_MAX_RANK];

    memset(v, 0, sizeof *v);
    v->data = data;
    shape_strides(s, true, stride);
    for (int k = 0; k < t->count; k++) {
        v->has[t->label[k]] = true;
        v->stride[t->label[k]] += stride[k];
    }
}

static int run(const struct job *j, const void *const *data, void *y, struct err *err)
{
    struct view a, b;
    bool needed[LABELS];
    const struct equation *e = &j->p->e;

    operand(j, 0, data[0], j->shape[0], &a);
    for (int i = 1; i <= e->operands; i++) {
        memset(needed, 0, sizeof needed);
        for (int k = 0; k < e->out.count; k++)
            needed[e->out.label[k]] = true;
        for (int o = i + 1; o < e->operands; o++)
            for (int k = 0; k < e->in[o].count; k++)
                needed[e->in[o].label[k]] = true;
        if (i == e->operands)
            break;
        operand(j, i, data[i], j->shape[i], &b);
        if (join(j, &a, &b, needed, err) < 0)
            return -1;
    }
    if (reduce(j, &a, needed, err) < 0)
        return -1;
    return arrange(j, &a, e->out.label, e->out.count, y);
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct shape *in[MAX_OPERANDS];
    const void *data[MAX_OPERANDS];
    struct tensor *y = run_out(c, 0);
    struct plan p;
    struct tensor wide;

    if (!y || tensor_count(y) == 0)
        return 0;
    for (int i = 0; i < c->n_in; i++) {
        in[i] = &c->in[i]->shape;
        data[i] = c->in[i]->data;
        if (tensor_count(c->in[i]) == 0) { /* an empty sum */
            memset(y->data, 0, y->bytes);
            return 0;
        }
    }
    if (plan_make(c->attrs, in, c->n_in, &p, err) < 0)
        return -1;
    const size_t elem = y->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double);
    const struct job j = {{.run = c}, c->pool, in, &p, elem, y->dtype != DTYPE_FLOAT};
    if (y->dtype == DTYPE_FLOAT || y->dtype == DTYPE_DOUBLE)
        return run(&j, data, y->data, err);
    for (int i = 0; i <= c->n_in; i++) { /* integers by way of double: exact up to 2^53 */
        const struct tensor *t = i < c->n_in ? c->in[i] : y;
        size_t bytes;
        void *copy = dtype_bytes(DTYPE_DOUBLE, tensor_count(t), &bytes) ? run_scratch(c, bytes + 1, err) : NULL;
        if (!copy)
            return err_set(err, ERR_NOMEM, "out of memory");
        if (i == c->n_in)
            tensor_view(&wide, DTYPE_DOUBLE, &y->shape, copy, NULL);
        else if (!dtype_convert(DTYPE_DOUBLE, copy, t->dtype, t->data, tensor_count(t)))
            return err_set(err, ERR_OPERATOR, "Einsum of %s is not supported", dtype_name(t->dtype));
        else
            data[i] = copy;
    }
    if (run(&j, data, wide.data, err) < 0)
        return -1;
    dtype_convert(y->dtype, y->data, DTYPE_DOUBLE, wide.data, tensor_count(y));
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* ---- gradients ----
 * dL/dx_i is an einsum itself: g and the other operands, to those labels of x_i that one of them has. The result is
 * laid over x_i's strides: a repeated label is its diagonal, a label nobody else has repeats the result, an axis of
 * size 1 that was stretched sums. */
static int backward_operand(struct grad_ctx *c, const struct plan *whole, int i, struct err *err)
{
    struct plan p = *whole;
    const struct tensor *g = c->grad_out[0];
    struct tensor *dst = c->grad_in[i];
    const struct shape *shapes[MAX_OPERANDS + 1];
    const void *data[MAX_OPERANDS + 1];
    bool there[LABELS] = {false}, taken[LABELS] = {false};
    struct term *out = &p.e.out;
    int n = 0;

    for (int k = -1; k < c->n_in; k++) { /* -1: g, whose term is the output's */
        const struct term *t = k < 0 ? &whole->e.out : &whole->e.in[k];
        if (k == i)
            continue;
        p.e.in[n] = *t;
        shapes[n] = k < 0 ? &g->shape : &c->in[k]->shape;
        data[n++] = k < 0 ? g->data : c->in[k]->data;
        for (int l = 0; l < t->count; l++)
            there[t->label[l]] = true;
    }
    p.e.operands = n;
    *out = (struct term){0};
    for (int l = 0; l < whole->e.in[i].count; l++) {
        const int label = whole->e.in[i].label[l];
        if (there[label] && !taken[label])
            out->label[out->count++] = label;
        taken[label] = true;
    }
    const struct job j = {{.grad = c}, c->pool, shapes, &p, dst->dtype == DTYPE_FLOAT ? sizeof(float) : sizeof(double),
                          dst->dtype != DTYPE_FLOAT};
    int64_t count;
    struct view from, to;
    void *y = cells_of(&j, out->label, out->count, &count, err);
    if (!y || run(&j, data, y, err) < 0)
        return -1;
    view_of(&j, &from, y, out->label, out->count);
    operand(&(struct job){.p = (struct plan *)(uintptr_t)whole}, i, dst->data, &dst->shape, &to);
    struct grad_loop loop = {.dtype = dst->dtype, .dst = dst->data, .sources = 1, .src[0].data = y};
    for (int l = 0; l < LABELS; l++) {
        if (!to.has[l])
            continue;
        loop.dim[loop.rank] = whole->dim[l];
        loop.dst_stride[loop.rank] = to.stride[l];
        loop.src[0].stride[loop.rank++] = from.has[l] ? from.stride[l] : 0;
    }
    grad_sum(c->pool, &loop);
    return 0;
}

static int backward(struct grad_ctx *c, struct err *err)
{
    const struct shape *in[MAX_OPERANDS];
    struct plan p;
    bool empty = !grad_of(c, 0) || c->n_in > MAX_OPERANDS;

    for (int i = 0; i < c->n_in && !empty; i++) {
        in[i] = &c->in[i]->shape;
        empty = tensor_count(c->in[i]) == 0;
    }
    if (empty)
        return 0;
    if (grad_type(c->grad_out[0], err) < 0 || plan_make(c->attrs, in, c->n_in, &p, err) < 0)
        return -1;
    for (int i = 0; i < c->n_in; i++)
        if (c->grad_in[i] && backward_operand(c, &p, i, err) < 0)
            return -1;
    return 0;
}

/* One multiply-accumulate for each combination of all labels, for each operand after the first. */
static void cost(const struct infer_ctx *c, struct op_cost *cost)
{
    const struct shape *in[MAX_OPERANDS];
    struct plan p;
    int64_t macs = c->n_in - 1;

    for (int i = 0; i < c->n_in && i < MAX_OPERANDS; i++)
        in[i] = infer_shape(c, i);
    cost->macs = -1;
    if (c->n_in > MAX_OPERANDS || plan_make(c->attrs, in, c->n_in, &p, NULL) < 0)
        return;
    for (int l = 0; l < LABELS; l++)
        if (p.used[l] && (p.dim[l] < 0 || !i64_mul(macs, p.dim[l], &macs)))
            return;
    cost->macs = macs;
}

static const struct op_sample samples[] = {
    {"f32[2,3,4] f32[2,4,5]", "equation=bij,bjk->bik"}, {"f32[3,4] f32[5,4]", "equation=ij,kj"},
    {"f32[2,3,4,5]", "equation=...ij->...ji"},          {"f32[3,3]", "equation=ii->i"},
    {"f32[2,3,4] f32[4]", "equation=...j,j->..."},      {"f32[2,3] f32[3,4] f32[4,5]", "equation=ij,jk,kl->il"},
    {"f32[1,3] f32[2,3]", "equation=ij,ij->ij"},        {"f32[3,3] f32[3,2]", "equation=ii,ik->k"},
    {"f32[2,3,4]", "equation=ijk->j"},                  {"f64[2,3] f64[2,3]", "equation=ij,ij->"},
    {NULL}};

/* ---- coupling: an element of a label is its place in every operand that has it, and in the output ---- */
struct label_use {
    struct end end;
    int axis;
};

/* Where label l stands with more than one element; `operands`: in how many of them. */
static int uses_of(const struct coupling *k, const struct plan *p, int l, struct label_use *use, int *operands)
{
    int n = 0;
    *operands = 0;
    for (int i = 0; i < p->e.operands; i++) {
        const int before = n;
        for (int a = 0; a < p->e.in[i].count; a++)
            if (p->e.in[i].label[a] == l && couple_size(k, IN(i), a) != 1)
                use[n++] = (struct label_use){IN(i), a};
        *operands += n > before;
    }
    return n;
}

static void couple_label(struct coupling *k, const struct plan *p, int l)
{
    struct label_use use[MAX_OPERANDS * (SHAPE_MAX_RANK + 1)];
    int operands, out = -1;
    const int n = uses_of(k, p, l, use, &operands);
    for (int a = 0; a < p->e.out.count; a++)
        out = p->e.out.label[a] == l ? a : out;
    const enum couple_role role = out < 0 ? COUPLE_CONSUMES : operands == 1 ? COUPLE_PRODUCES : COUPLE_PASSES;
    for (int i = 0; i < n; i++) {
        couple_axes(k, use[i].end, use[i].axis, use[0].end, use[0].axis);
        couple_role(k, use[i].end, use[i].axis, role);
        if (out >= 0)
            couple_axes(k, use[i].end, use[i].axis, OUT(0), out);
        else if (operands == 1)
            couple_freeze(k, use[i].end, use[i].axis, "all of it is summed up, without a weight");
    }
}

static int couple(struct coupling *k, struct err *err)
{
    const struct shape *in[MAX_OPERANDS];
    struct err ignored = {0};
    struct plan p;
    (void)err;
    if (k->infer->n_in > MAX_OPERANDS)
        return 0;
    for (int i = 0; i < k->infer->n_in; i++) {
        if (couple_rank(k, IN(i)) < 0)
            return 0;
        in[i] = infer_shape(k->infer, i);
    }
    if (plan_make(couple_attrs(k), in, k->infer->n_in, &p, &ignored) < 0)
        return 0;
    for (int l = 0; l < LABELS; l++)
        if (p.used[l])
            couple_label(k, &p, l);
    return 0;
}

OP_CLASS(einsum) = {.type = "Einsum",
                    .domain = "",
                    .since = 12,
                    .doc = "Sums of products named by labels.",
                    .in_min = 1,
                    .in_max = -1,
                    .out_min = 1,
                    .out_max = 1,
                    .attrs = einsum_attrs,
                    .attrs_size = sizeof(struct einsum_attrs),
                    .infer = infer,
                    .couple = couple,
                    .forward = forward,
                    .backward = backward,
                    .grad_reads = 0xffff, /* all inputs */
                    .grad_inputs = UINT32_MAX,
                    .cost = cost,
                    .samples = samples};
