/* SPDX-License-Identifier: Apache-2.0
 * Around the attention core: see attention_common.h. */
#include "core/ops/attention_common.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/ops/couple_rules.h"

struct attention_view attention_rows(const float *data, int64_t positions, int64_t row, int64_t width)
{
    return (struct attention_view){data, positions * row, width, row};
}

struct attention_view attention_heads(const float *data, int64_t heads, int64_t positions, int64_t width)
{
    return (struct attention_view){data, heads * positions * width, positions * width, width};
}

float *attention_floats(struct run_ctx *c, int64_t n, struct err *err)
{
    size_t bytes;

    if (n < 0 || !dtype_bytes(DTYPE_FLOAT, n, &bytes)) {
        err_set(err, ERR_MODEL_TOO_LARGE, "the attention's working buffer would overflow the address space");
        return NULL;
    }
    return run_scratch(c, bytes ? bytes : 1, err);
}

int attention_add_bias(struct run_ctx *c, struct attention_view *v, int64_t batch, int64_t heads, int64_t positions,
                       int64_t width, const float *bias, struct err *err)
{
    int64_t n = 0;
    const bool fits = i64_mul(batch, positions, &n) && i64_mul(n, heads, &n) && i64_mul(n, width, &n);
    float *sum = attention_floats(c, fits ? n : -1, err);

    if (!sum)
        return -1;
    float *at = sum;
    for (int64_t i = 0; i < batch * positions; i++)
        for (int64_t h = 0; h < heads; h++, at += width) {
            const float *x = (const float *)v->data + i / positions * v->batch + i % positions * v->row + h * v->head;
            for (int64_t j = 0; j < width; j++)
                at[j] = x[j] + bias[h * width + j];
        }
    *v = attention_rows(sum, positions, heads * width, width);
    return 0;
}

void attention_append(const struct attention_append *a)
{
    for (int64_t i = 0; i < a->batch * a->heads; i++) {
        const int64_t b = i / a->heads, h = i % a->heads;
        float *dst = a->dst + i * a->total * a->width;
        const float *fresh = (const float *)a->v.data + b * a->v.batch + h * a->v.head;
        if (a->past > 0)
            memcpy(dst, a->old + i * a->old_total * a->width, (size_t)(a->past * a->width) * sizeof *dst);
        dst += a->past * a->width;
        for (int64_t s = 0; s < a->fresh; s++)
            memcpy(dst + s * a->width, fresh + s * a->v.row, (size_t)a->width * sizeof *dst);
    }
}

/* ---- checks ---- */
int attention_shape(const struct infer_ctx *c, int i, const char *name, struct shape want, struct err *err)
{
    char got_text[SHAPE_TEXT], want_text[SHAPE_TEXT];

    if (!infer_has(c, i) || infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const struct shape *s = infer_shape(c, i);
    bool fits = s->rank == want.rank;
    for (int k = 0; fits && k < want.rank; k++)
        fits = s->dim[k] < 0 || want.dim[k] < 0 || s->dim[k] == want.dim[k];
    return fits ? 0
                : err_set(err, ERR_SHAPE, "input '%s' has shape %s; it must be %s", name, shape_text(s, got_text),
                          shape_text(&want, want_text));
}

static bool agrees(int64_t a, int64_t b)
{
    return a < 0 || b < 0 || a == b;
}

int attention_bias_shape(const struct infer_ctx *c, int i, int64_t batch, int64_t heads, int64_t rows, int64_t total,
                         struct err *err)
{
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];

    if (!infer_has(c, i) || infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const struct shape *s = infer_shape(c, i), want = SHAPE(batch, heads, rows, total);
    if (s->rank == 4 && (agrees(s->dim[0], batch) || s->dim[0] == 1) && (agrees(s->dim[1], heads) || s->dim[1] == 1) &&
        agrees(s->dim[2], rows) && agrees(s->dim[3], total))
        return 0;
    return err_set(err, ERR_SHAPE,
                   "input 'attention_bias' has shape %s; it must be %s, where the first two may also be 1",
                   shape_text(s, text), shape_text(&want, want_text));
}

struct attention_bias attention_bias_of(const struct tensor *t)
{
    const int64_t *dim = t->shape.dim, square = dim[2] * dim[3];
    return (struct attention_bias){t->data, dim[0] == 1 ? 0 : dim[1] * square, dim[1] == 1 ? 0 : square, dim[3],
                                   dim[3]};
}

int attention_mask_shape(const struct infer_ctx *c, int i, int64_t batch, int64_t rows, int64_t total, struct err *err)
{
    char text[SHAPE_TEXT], each[SHAPE_TEXT], all[SHAPE_TEXT];

    if (!infer_has(c, i))
        return 0;
    if (op_dtype(c, i) != DTYPE_NONE && op_dtype(c, i) != DTYPE_INT32)
        return err_set(err, ERR_MODEL, "the mask, input #%d, is %s; it must be int32", i, dtype_name(op_dtype(c, i)));
    const struct shape *s = infer_shape(c, i), flat = SHAPE(batch, total), full = SHAPE(batch, rows, total);
    bool fits = s->rank == SHAPE_UNKNOWN_RANK;
    if (s->rank == 1)
        fits = agrees(s->dim[0], batch) || s->dim[0] == dim_mul(batch, 2);
    else if (s->rank == 2)
        fits = agrees(s->dim[0], batch) && agrees(s->dim[1], total);
    else if (s->rank == 3)
        fits = agrees(s->dim[0], batch) && agrees(s->dim[1], rows) && agrees(s->dim[2], total);
    else if (s->rank == 4)
        fits = agrees(s->dim[0], batch) && agrees(s->dim[1], 1) && agrees(s->dim[2], s->dim[3]) &&
               (s->dim[3] < 0 || total < 0 || s->dim[3] >= total);
    return fits ? 0
                : err_set(err, ERR_SHAPE,
                          "the mask, input #%d, has shape %s; it must be lengths [%" PRId64
                          "], ends and starts [twice that], %s, %s or square [batch,1,M,M]",
                          i, shape_text(s, text), batch, shape_text(&flat, each), shape_text(&full, all));
}

int attention_mask(struct run_ctx *c, const struct tensor *mask, const struct attention *a, float filter,
                   struct attention_bias *out, struct err *err)
{
    const int32_t *m = mask->data;
    const int64_t *dim = mask->shape.dim, total = a->cols;
    const int rank = mask->shape.rank;
    const int64_t rows = rank <= 2 ? 1 : a->rows;
    int64_t n = 0;
    const bool fits = i64_mul(a->batch, rows, &n) && i64_mul(n, total, &n);
    float *sum = attention_floats(c, fits ? n : -1, err);

    if (!sum)
        return -1;
    for (int64_t i = 0; i < a->batch * rows; i++) {
        const int64_t b = i / rows, r = i % rows;
        const int32_t *row = rank == 2   ? m + b * total
                             : rank == 3 ? m + i * total
                             : rank == 4 ? m + (b * dim[2] + total - a->rows + r) * dim[3]
                                         : NULL;
        for (int64_t j = 0; j < total; j++) {
            bool counts = row ? row[j] > 0 : j < m[b];
            if (!row && dim[0] == 2 * a->batch && a->batch > 0)
                counts = counts && j >= m[a->batch + b];
            sum[i * total + j] = counts ? 0 : filter;
        }
    }
    *out = (struct attention_bias){sum, rows * total, 0, rows == 1 ? 0 : total, total};
    return 0;
}

int attention_run(struct run_ctx *c, const struct attention *a, struct err *err)
{
    size_t bytes;

    if (!attention_scratch(a, c->pool ? pool_threads(c->pool) : 1, sizeof(float), &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "the attention's working buffer would overflow the address space");
    void *scratch = run_scratch(c, bytes, err);
    if (!scratch)
        return -1;
    attention_f32(c->pool, a, scratch);
    return 0;
}

int64_t attention_macs(int64_t batch, int64_t rows, int64_t heads, int64_t total, int64_t width, int64_t v_width)
{
    const int64_t macs = dim_mul(dim_mul(dim_mul(batch, rows), dim_mul(heads, total)), dim_add(width, v_width));
    return macs < 0 ? -1 : macs;
}

/* ---- coupling ---- */
void attention_couple(struct coupling *k, const struct attention_units *u, struct end e, int axis, const int64_t *width,
                      int parts)
{
    enum { ELEMENTS_MAX = 1 << 24 }; /* sizes come from files */
    const int64_t size = couple_size(k, e, axis), master = couple_size(k, OUT(0), u->axis);
    int64_t each = 0, covered, at = 0;
    const int rank = couple_rank(k, e);
    if (rank < 0 && e.slot >= 0 && (e.out ? couple_wanted(k->infer, e.slot) : infer_has(k->infer, e.slot)))
        couple_freeze(k, OUT(0), u->axis, "its heads are not of fixed sizes");
    if (size == 1 || u->units < 1 || axis >= rank || axis < -rank) /* a mask may have fewer axes */
        return;
    couple_heads(k, e, axis);
    if (u->width == 1 && parts == 1 && width[0] == 1) {
        couple_axes(k, e, axis, OUT(0), u->axis);
        return;
    }
    bool fits =
        master > 0 && size > 0 && size <= ELEMENTS_MAX && i64_mul(u->units, u->width, &covered) && covered == master;
    for (int p = 0; fits && p < parts; p++)
        fits = width[p] > 0 && i64_add(each, width[p], &each);
    fits = fits && i64_mul(each, u->units, &covered) && covered == size;
    int64_t *table = fits ? arena_calloc(k->arena, (size_t)size, sizeof *table) : NULL;
    if (!table) {
        k->failed = k->failed || fits;
        couple_freeze(k, e, axis, "its heads are not of fixed sizes");
        couple_freeze(k, OUT(0), u->axis, "its heads are not of fixed sizes");
        return;
    }
    for (int p = 0; p < parts; p++)
        for (int64_t i = 0; i < u->units * width[p]; i++)
            table[at++] = i / width[p] * u->width;
    couple_table(k, e, axis, OUT(0), u->axis, table, size);
}

int64_t attention_units_left(const struct shrink *s, const struct attention_units *u)
{
    return u->width > 0 ? shrink_size(s, OUT(0), u->axis) / u->width : u->units;
}

static void couple_widths(struct coupling *k, struct end e, int past, int present, struct end other)
{
    couple_axes(k, e, 3, other, 3);
    if (past >= 0)
        couple_axes(k, IN(past), 3, e, 3);
    if (present >= 0)
        couple_axes(k, OUT(present), 3, e, 3);
}

void attention_couple_stacks(struct coupling *k, const struct attention_stacks *t)
{
    enum { Q, K, V };
    const int64_t heads = couple_size(k, IN(Q), 1), kv = couple_size(k, IN(K), 1);
    const struct attention_units u = {.units = kv, .width = kv > 0 ? heads / kv : 0, .axis = 1};
    couple_widths(k, IN(K), t->past_k, t->present_k, IN(Q));
    couple_widths(k, IN(V), t->past_v, t->present_v, OUT(0));
    couple_role(k, IN(Q), 3, COUPLE_CONSUMES);
    couple_role(k, IN(K), 3, COUPLE_CONSUMES);
    if (!t->heads)
        return;
    if (kv < 1 || heads < 1) { /* the row may know them from elsewhere and speak of other axes */
        couple_freeze(k, OUT(0), 1, "its heads are not of fixed sizes");
        return;
    }
    const struct end single[] = {IN(K), IN(V), IN(t->past_k), IN(t->past_v), OUT(t->present_k), OUT(t->present_v)};
    attention_couple_one(k, &u, OUT(0), 1, u.width);
    attention_couple_one(k, &u, IN(Q), 1, u.width);
    for (size_t i = 0; i < sizeof single / sizeof single[0]; i++)
        attention_couple_one(k, &u, single[i], 1, 1);
}

void attention_keep_scale(struct shrink *s, bool implicit)
{
    const struct type *q = s->infer->in[0];
    if (implicit && shrink_touched(s, IN(0), -1))
        node_set_float(s->model, s->node, "scale", (float)(1 / sqrt((double)q->shape.dim[q->shape.rank - 1])));
}
