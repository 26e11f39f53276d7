/* SPDX-License-Identifier: Apache-2.0
 * RotaryEmbedding of com.microsoft: every head's vector is turned by the angles of its position (kernels/rotary.h).
 * Shapes     input [B, S, hidden] or [B, N, S, H]; caches [max positions, rotary / 2]; position_ids [1], the position of the
 *            first step, or [B, S].
 * Heads      without rotary_embedding_dim a head is as wide as the caches say, 2 * their columns; with it, hidden /
 *            num_heads, and what lies behind rotary_embedding_dim is copied. */
#include <inttypes.h>

#include "core/kernels/rotary.h"
#include "core/ops/attention_common.h"

struct rotary_attrs {
    bool interleaved, is_packed_batching;
    int64_t num_heads, rotary_embedding_dim;
    float scale;
};
static const struct op_attr rotary_attrs[] = {
    {OP_ATTR(rotary_attrs, interleaved), .kind = OP_BOOL},
    {OP_ATTR(rotary_attrs, is_packed_batching), .kind = OP_BOOL},
    {OP_ATTR(rotary_attrs, num_heads), .kind = OP_INT},
    {OP_ATTR(rotary_attrs, rotary_embedding_dim), .kind = OP_INT},
    {OP_ATTR(rotary_attrs, scale), .kind = OP_FLOAT, .def_f = 1},
    {NULL},
};

/* Sizes of a known input and known caches. */
struct layout {
    int64_t batch, steps, heads, width, dims; /* width of a head, of which dims are turned */
    int64_t batch_step, step, head;           /* strides */
    int64_t positions;                        /* rows of the caches */
};

static int read_layout(const struct rotary_attrs *a, const struct shape *x, const struct shape *cache, struct layout *l,
                       struct err *err)
{
    const bool heads_first = x->rank == 4;
    const int64_t hidden = heads_first ? x->dim[1] * x->dim[3] : x->dim[2];

    *l = (struct layout){.batch = x->dim[0], .steps = x->dim[heads_first ? 2 : 1], .positions = cache->dim[0]};
    l->dims = cache->dim[1] * 2;
    l->width = heads_first ? x->dim[3] : a->rotary_embedding_dim > 0 ? hidden / a->num_heads : l->dims;
    if (a->rotary_embedding_dim > 0 && l->dims != a->rotary_embedding_dim)
        return err_set(err, ERR_SHAPE,
                       "the caches have %" PRId64 " columns; they must have half of rotary_embedding_dim, %" PRId64,
                       cache->dim[1], a->rotary_embedding_dim);
    if (l->width < 1 || l->dims > l->width || hidden % l->width != 0)
        return err_set(err, ERR_SHAPE,
                       "%" PRId64 " elements a step do not divide into heads of which %" PRId64 " elements are turned",
                       hidden, l->dims);
    l->heads = hidden / l->width;
    l->batch_step = l->steps * hidden;
    l->step = heads_first ? l->width : hidden;
    l->head = heads_first ? l->steps * l->width : l->width;
    return 0;
}

static int check_attrs(const struct rotary_attrs *a, struct err *err)
{
    if (a->rotary_embedding_dim < 0 || a->rotary_embedding_dim % 2 != 0)
        return err_set(err, ERR_MODEL,
                       "attribute 'rotary_embedding_dim' is %" PRId64 "; it must be even and not negative",
                       a->rotary_embedding_dim);
    if (a->num_heads < 0 || (a->rotary_embedding_dim > 0 && a->num_heads == 0))
        return err_set(err, ERR_MODEL,
                       "attribute 'num_heads' is %" PRId64 "; with rotary_embedding_dim it must be positive",
                       a->num_heads);
    if (a->scale != 1)
        return err_set(err, ERR_OPERATOR, "attribute 'scale' is %g; only 1 is supported", (double)a->scale);
    return 0;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    char text[SHAPE_TEXT], want[SHAPE_TEXT];
    const struct rotary_attrs *a = c->attrs;
    struct layout l;

    if (op_need(c, 4, err) < 0 || op_dtype_kinds(c, 0, "f", err) < 0 || check_attrs(a, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, 0), *ids = infer_shape(c, 1), *cosine = infer_shape(c, 2);
    for (int i = 2; i < 4; i++)
        if (op_dtype(c, i) != DTYPE_NONE && op_dtype(c, 0) != DTYPE_NONE && op_dtype(c, i) != op_dtype(c, 0))
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be %s as the input", i, dtype_name(op_dtype(c, i)),
                           dtype_name(op_dtype(c, 0)));
    if (op_dtype(c, 1) != DTYPE_NONE && op_dtype(c, 1) != DTYPE_INT64)
        return err_set(err, ERR_MODEL, "input 'position_ids' is %s; it must be int64", dtype_name(op_dtype(c, 1)));
    if (x->rank >= 0 && x->rank != 3 && x->rank != 4)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must have 3 or 4", x->rank);
    if ((cosine->rank >= 0 && cosine->rank != 2) || (infer_shape(c, 3)->rank >= 0 && infer_shape(c, 3)->rank != 2) ||
        (shape_known(cosine) && shape_known(infer_shape(c, 3)) && !shape_equal(cosine, infer_shape(c, 3))))
        return err_set(err, ERR_SHAPE, "the caches have shapes %s and %s; they must be equal matrices",
                       shape_text(cosine, text), shape_text(infer_shape(c, 3), want));
    if (cosine->rank == 2 && cosine->dim[1] > INT32_MAX)
        return err_set(err, ERR_SHAPE, "the caches have %" PRId64 " columns; they are too wide", cosine->dim[1]);
    if (shape_known(x) && shape_known(cosine) && shape_count(x) > 0) {
        if (read_layout(a, x, cosine, &l, err) < 0)
            return -1;
        const struct shape each = SHAPE(l.batch, l.steps);
        if (shape_known(ids) && !(ids->rank == 1 && ids->dim[0] == 1) && !shape_equal(ids, &each))
            return err_set(err, ERR_SHAPE, "input 'position_ids' has shape %s; it must be [1] or %s",
                           shape_text(ids, text), shape_text(&each, want));
    }
    return op_infer_same(c, err);
}

struct turn {
    struct layout l;
    bool interleaved, offset;
    const float *x, *cosine, *sine;
    const int64_t *ids;
    float *y;
};

static int64_t position(const struct turn *t, int64_t i)
{
    return t->offset ? t->ids[0] + i % t->l.steps : t->ids[i];
}

static void turn_steps(void *arg, int64_t begin, int64_t end)
{
    const struct turn *t = arg;
    for (int64_t i = begin; i < end; i++) {
        const int64_t at = position(t, i) * (t->l.dims / 2);
        for (int64_t h = 0; h < t->l.heads; h++) {
            const int64_t from = i / t->l.steps * t->l.batch_step + i % t->l.steps * t->l.step + h * t->l.head;
            rotary_f32(t->x + from, t->l.width, t->l.dims, t->interleaved, t->cosine + at, t->sine + at, t->y + from);
        }
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct rotary_attrs *a = c->attrs;
    struct tensor *y = run_out(c, 0);
    struct turn t = {.interleaved = a->interleaved,
                     .x = c->in[0]->data,
                     .ids = c->in[1]->data,
                     .cosine = c->in[2]->data,
                     .sine = c->in[3]->data};

    if (!y || tensor_count(y) == 0)
        return 0;
    if (y->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "rotary embedding of %s is not supported", dtype_name(y->dtype));
    if (read_layout(a, &c->in[0]->shape, &c->in[2]->shape, &t.l, err) < 0)
        return -1;
    t.y = y->data;
    t.offset = c->in[1]->shape.rank == 1;
    int64_t last;
    if (t.offset && !i64_add(t.ids[0], t.l.steps, &last))
        return err_set(err, ERR_MODEL, "position %" PRId64 " is out of range", t.ids[0]);
    for (int64_t i = 0; i < t.l.batch * t.l.steps; i++)
        if (position(&t, i) < 0 || position(&t, i) >= t.l.positions)
            return err_set(err, ERR_MODEL, "position %" PRId64 " is outside the caches, which have %" PRId64 " rows",
                           position(&t, i), t.l.positions);
    op_parallel(c->pool, t.l.batch * t.l.steps, i64_max(1, 16384 / (t.l.heads * t.l.width)), turn_steps, &t);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* Whole heads: their elements are turned in pairs, by tables that all heads share. */
static struct attention_units units_of(const struct infer_ctx *c)
{
    const struct rotary_attrs *a = c->attrs;
    const struct shape *x = infer_shape(c, 0), *cache = infer_shape(c, 2);
    if (x->rank == 4)
        return (struct attention_units){x->dim[1], 1, 1};
    int64_t width = 0;
    if (x->rank == 3 && a->rotary_embedding_dim > 0 && a->num_heads > 0)
        width = x->dim[2] / a->num_heads;
    else if (x->rank == 3 && a->rotary_embedding_dim == 0 && cache->rank == 2)
        width = dim_mul(cache->dim[1], 2);
    return (struct attention_units){width > 0 ? x->dim[2] / width : 0, width, 2};
}

static int couple(struct coupling *k, struct err *err)
{
    const struct attention_units u = units_of(k->infer);
    (void)err;
    attention_couple_passing(k, &u, IN(0));
    return 0;
}

static int shrink(struct shrink *s, struct err *err)
{
    const struct rotary_attrs *a = s->infer->attrs;
    const struct attention_units u = units_of(s->infer);
    (void)err;
    attention_shrink_heads(s, &u, a->num_heads);
    return 0;
}

OP_CLASS(ms_rotary_embedding) = {
    .type = "RotaryEmbedding",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Rotary position embedding. Refused: a scale other than 1.",
    .in_min = 4,
    .in_max = 4,
    .out_min = 1,
    .out_max = 1,
    .attrs = rotary_attrs,
    .attrs_size = sizeof(struct rotary_attrs),
    .infer = infer,
    .forward = forward,
    .couple = couple,
    .shrink = shrink,
    .samples = (const struct op_sample[]){{"f32[2,3,8] !i64[1]=2 !f32[6,2] !f32[6,2]", ""},
                                          {"f32[2,3,8] i64[2,3]=0,1,2,5,3,4 !f32[6,2] !f32[6,2]", "interleaved=1"},
                                          {"f32[2,3,4,8] i64[2,4]=0,1,2,3,2,3,4,5 !f32[6,4] !f32[6,4]", ""},
                                          {"f32[2,4,12] i64[2,4]=0,1,2,3,2,3,4,5 !f32[6,2] !f32[6,2]",
                                           "num_heads=2 rotary_embedding_dim=4"},
                                          {NULL}},
};
