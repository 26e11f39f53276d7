/* SPDX-License-Identifier: Apache-2.0
 * RotaryEmbedding of ai.onnx (opset 23): every head's vector is turned by the angles of its position
 * (kernels/rotary.h).
 * Shapes     X [B, N, S, H], or [B, S, N H] with num_heads; caches [positions, R / 2] with position_ids [B, S], or
 *            [B, S, R / 2] without; R = rotary_embedding_dim, or H when that is 0. Elements of a head behind R are
 *            copied. */
#include <inttypes.h>

#include "core/kernels/rotary.h"
#include "core/ops/attention_common.h"

enum { X, COS, SIN, IDS };

struct rotary_attrs {
    bool interleaved;
    int64_t num_heads, rotary_embedding_dim;
};
static const struct op_attr rotary_attrs[] = {{OP_ATTR(rotary_attrs, interleaved), .kind = OP_BOOL},
                                              {OP_ATTR(rotary_attrs, num_heads), .kind = OP_INT},
                                              {OP_ATTR(rotary_attrs, rotary_embedding_dim), .kind = OP_INT},
                                              {0}};

/* Of a known X. */
struct layout {
    int64_t batch, steps, heads, width, dims; /* width of a head, of which dims are turned */
    bool heads_first;
};

static int read_layout(const struct rotary_attrs *a, const struct shape *x, struct layout *l, struct err *err)
{
    *l = (struct layout){.heads_first = x->rank == 4, .batch = x->dim[0], .steps = x->dim[x->rank == 4 ? 2 : 1]};
    if (x->rank == 3 && (a->num_heads < 1 || x->dim[2] % a->num_heads != 0))
        return err_set(err, ERR_MODEL, "attribute 'num_heads' is %" PRId64 "; it must divide the %" PRId64
                                       " elements of a step", a->num_heads, x->dim[2]);
    l->heads = x->rank == 4 ? x->dim[1] : a->num_heads;
    l->width = x->rank == 4 ? x->dim[3] : x->dim[2] / a->num_heads;
    l->dims = a->rotary_embedding_dim ? a->rotary_embedding_dim : l->width;
    if (l->dims < 2 || l->dims % 2 != 0 || l->dims > l->width)
        return err_set(err, ERR_MODEL, "%" PRId64 " of the %" PRId64 " elements of a head would be turned; they must "
                                       "be an even number of them", l->dims, l->width);
    return 0;
}

static int check_cache(const struct infer_ctx *c, int i, const struct layout *l, struct err *err)
{
    char text[SHAPE_TEXT];
    const struct shape *s = infer_shape(c, i);
    if (!shape_known(s))
        return 0;
    const bool by_id = infer_has(c, IDS);
    if (by_id ? s->rank == 2 && s->dim[1] == l->dims / 2
              : s->rank == 3 && s->dim[0] == l->batch && s->dim[1] == l->steps && s->dim[2] == l->dims / 2)
        return 0;
    return err_set(err, ERR_SHAPE, "%s has shape %s; it must be [%s,%" PRId64 "]", i == COS ? "cos_cache" : "sin_cache",
                   shape_text(s, text), by_id ? "positions" : "batch,steps", l->dims / 2);
}

static int infer(struct infer_ctx *c, struct err *err)
{
    enum dtype dtype;
    struct layout l;
    char text[SHAPE_TEXT];
    if (op_need(c, 3, err) < 0 || op_dtype_real(c, X, err) < 0 || op_same_dtype(c, X, SIN + 1, &dtype, err) < 0)
        return -1;
    const struct shape *x = infer_shape(c, X);
    if (dtype == DTYPE_DOUBLE)
        return err_set(err, ERR_MODEL, "input #0 is double; float32, float16 and bfloat16 are computed");
    if (infer_has(c, IDS) && op_dtype(c, IDS) != DTYPE_NONE && op_dtype(c, IDS) != DTYPE_INT64)
        return err_set(err, ERR_MODEL, "position_ids is %s; it must be int64", dtype_name(op_dtype(c, IDS)));
    if (x->rank >= 0 && x->rank != 3 && x->rank != 4)
        return err_set(err, ERR_SHAPE, "the input has %d axes; it must have 3 or 4", x->rank);
    if (shape_known(x)) {
        if (read_layout(c->attrs, x, &l, err) < 0 || check_cache(c, COS, &l, err) < 0 ||
            check_cache(c, SIN, &l, err) < 0)
            return -1;
        if (infer_has(c, IDS) && shape_known(infer_shape(c, IDS)) &&
            !shape_equal(infer_shape(c, IDS), &SHAPE(l.batch, l.steps)))
            return err_set(err, ERR_SHAPE, "position_ids has shape %s; it must be [%" PRId64 ",%" PRId64 "]",
                           shape_text(infer_shape(c, IDS), text), l.batch, l.steps);
    }
    infer_out(c, 0, dtype, x);
    return 0;
}

struct turn {
    struct layout l;
    bool interleaved;
    const float *x, *cosine, *sine;
    const int64_t *ids;
    float *y;
};

static void turn_steps(void *arg, int64_t begin, int64_t end)
{
    const struct turn *t = arg;
    const struct layout *l = &t->l;
    for (int64_t i = begin; i < end; i++) {
        const int64_t angle = (t->ids ? t->ids[i] : i) * (l->dims / 2), b = i / l->steps, s = i % l->steps;
        for (int64_t h = 0; h < l->heads; h++) {
            const int64_t from =
                (l->heads_first ? (b * l->heads + h) * l->steps + s : i * l->heads + h) * l->width;
            rotary_f32(t->x + from, l->width, l->dims, t->interleaved, t->cosine + angle, t->sine + angle, t->y + from);
        }
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    const struct rotary_attrs *a = c->attrs;
    struct tensor *y = run_out(c, 0);
    struct turn t = {.interleaved = a->interleaved, .x = c->in[X]->data, .cosine = c->in[COS]->data,
                     .sine = c->in[SIN]->data, .ids = run_in(c, IDS) ? c->in[IDS]->data : NULL};
    if (!y || tensor_count(y) == 0)
        return 0;
    if (read_layout(a, &c->in[X]->shape, &t.l, err) < 0)
        return -1;
    t.y = y->data;
    const int64_t n = t.l.batch * t.l.steps;
    const int64_t positions = i64_min(c->in[COS]->shape.dim[0], c->in[SIN]->shape.dim[0]);
    for (int64_t i = 0; i < n && t.ids; i++)
        if (t.ids[i] < 0 || t.ids[i] >= positions)
            return err_set(err, ERR_MODEL, "position %" PRId64 " is outside the caches, which have %" PRId64 " rows",
                           t.ids[i], positions);
    op_parallel(c->pool, n, i64_max(1, 16384 / (t.l.heads * t.l.width)), turn_steps, &t);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* Whole heads: their elements are turned in pairs, by tables that all heads share. */
static struct attention_units units_of(const struct infer_ctx *c)
{
    const struct shape *x = infer_shape(c, X);
    const int64_t heads = ((const struct rotary_attrs *)c->attrs)->num_heads;
    if (x->rank == 4)
        return (struct attention_units){x->dim[1], 1, 1};
    return (struct attention_units){x->rank == 3 ? heads : 0, x->rank == 3 && heads > 0 ? x->dim[2] / heads : 0, 2};
}

static int couple(struct coupling *k, struct err *err)
{
    const struct attention_units u = units_of(k->infer);
    (void)err;
    attention_couple_passing(k, &u, IN(X));
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

OP_CLASS(rotary_embedding) = {
    .type = "RotaryEmbedding", .domain = "", .since = 23, .doc = "Rotary position embedding.",
    .in_min = 3, .in_max = 4, .out_min = 1, .out_max = 1,
    .attrs = rotary_attrs, .attrs_size = sizeof(struct rotary_attrs), .infer = infer, .forward = forward,
    .couple = couple, .shrink = shrink,
    .samples = (const struct op_sample[]){
        {"f32[2,3,4,8] f32[2,4,4] f32[2,4,4]", "", 1, 23},
        {"f32[2,3,4,8] f32[9,4] f32[9,4] i64[2,4]=0,1,2,3,5,6,7,8", "interleaved=1", 1, 23},
        {"f32[2,4,24] f32[9,2] f32[9,2] i64[2,4]=0,1,2,3,5,6,7,8", "num_heads=3 rotary_embedding_dim=4", 1, 23},
        {0}}};
