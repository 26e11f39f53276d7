/* SPDX-License-Identifier: Apache-2.0
 * EmbedLayerNormalization of com.microsoft, BERT's first layer: the rows of three tables (word, position, segment) are added
 * and normalized along the hidden axis.
 * Inputs     input_ids [B, S], segment_ids [B, S] or absent with the segment table, tables [.., H], gamma and beta [H],
 *            mask [B, S], position_ids [B, S] or [1, S] (absent: 0, 1, 2, ...).
 * Outputs    [B, S, H]; mask_index [B]: how many leading steps of the mask are 1 (0 without a mask); the sum of the tables. */
#include <inttypes.h>
#include <math.h>

#include "core/kernels/norm.h"
#include "core/ops/couple.h"
#include "core/ops/widen.h"

struct embed_attrs {
    float epsilon;
    int64_t mask_index_type;
};
static const struct op_attr embed_attrs[] = {{OP_ATTR(embed_attrs, epsilon), .kind = OP_FLOAT, .def_f = 1e-12f},
                                             {OP_ATTR(embed_attrs, mask_index_type), .kind = OP_INT},
                                             {NULL}};
enum { IDS, SEGMENTS, WORDS, POSITIONS, SEGMENT_TABLE, GAMMA, BETA, MASK, POSITION_IDS };

/* Input i, if there, has the shape; -1 dims match everything. */
static int check(const struct infer_ctx *c, int i, const char *name, int rank, int64_t d0, int64_t d1, struct err *err)
{
    char text[SHAPE_TEXT], want_text[SHAPE_TEXT];

    if (!infer_has(c, i) || infer_shape(c, i)->rank == SHAPE_UNKNOWN_RANK)
        return 0;
    const struct shape *s = infer_shape(c, i), want = {rank, {d0, d1}};
    bool fits = s->rank == rank;
    for (int k = 0; fits && k < rank; k++)
        fits = s->dim[k] < 0 || want.dim[k] < 0 || s->dim[k] == want.dim[k];
    return fits ? 0
                : err_set(err, ERR_SHAPE, "input '%s' has shape %s; it must be %s", name, shape_text(s, text),
                          shape_text(&want, want_text));
}

static int check_types(const struct infer_ctx *c, struct err *err)
{
    static const int ids[] = {IDS, SEGMENTS, MASK, POSITION_IDS}, tables[] = {POSITIONS, SEGMENT_TABLE, GAMMA, BETA};

    for (int i = 0; i < 4; i++)
        if (op_dtype(c, ids[i]) != DTYPE_NONE && op_dtype(c, ids[i]) != DTYPE_INT32)
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be int32", ids[i],
                           dtype_name(op_dtype(c, ids[i])));
    for (int i = 0; i < 4; i++)
        if (op_dtype(c, tables[i]) != DTYPE_NONE && op_dtype(c, WORDS) != DTYPE_NONE &&
            op_dtype(c, tables[i]) != op_dtype(c, WORDS))
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be %s as the word embedding", tables[i],
                           dtype_name(op_dtype(c, tables[i])), dtype_name(op_dtype(c, WORDS)));
    return op_dtype_kinds(c, WORDS, "f", err);
}

static int infer(struct infer_ctx *c, struct err *err)
{
    static const int needed[] = {IDS, WORDS, POSITIONS, GAMMA, BETA};

    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++)
        if (!infer_has(c, needed[i]))
            return err_set(err, ERR_MODEL, "input #%d is missing; it is required", needed[i]);
    if (infer_has(c, SEGMENTS) != infer_has(c, SEGMENT_TABLE))
        return err_set(err, ERR_MODEL, "one of segment_ids and segment_embedding is given; both or none must be");
    if (check_types(c, err) < 0 || check(c, IDS, "input_ids", 2, -1, -1, err) < 0 ||
        check(c, WORDS, "word_embedding", 2, -1, -1, err) < 0)
        return -1;
    const struct shape *ids = infer_shape(c, IDS), *words = infer_shape(c, WORDS);
    const int64_t batch = ids->rank == 2 ? ids->dim[0] : -1, steps = ids->rank == 2 ? ids->dim[1] : -1;
    const int64_t hidden = words->rank == 2 ? words->dim[1] : -1;
    const bool shared = infer_has(c, POSITION_IDS) && infer_shape(c, POSITION_IDS)->rank == 2 &&
                        infer_shape(c, POSITION_IDS)->dim[0] == 1;
    if (check(c, SEGMENTS, "segment_ids", 2, batch, steps, err) < 0 ||
        check(c, POSITIONS, "position_embedding", 2, -1, hidden, err) < 0 ||
        check(c, SEGMENT_TABLE, "segment_embedding", 2, -1, hidden, err) < 0 ||
        check(c, GAMMA, "gamma", 1, hidden, 0, err) < 0 || check(c, BETA, "beta", 1, hidden, 0, err) < 0 ||
        check(c, MASK, "mask", 2, batch, steps, err) < 0 ||
        check(c, POSITION_IDS, "position_ids", 2, shared ? 1 : batch, steps, err) < 0)
        return -1;
    infer_out(c, 0, op_dtype(c, WORDS), &SHAPE(batch, steps, hidden));
    infer_out(c, 1, DTYPE_INT32, &SHAPE(batch));
    infer_out(c, 2, op_dtype(c, WORDS), &SHAPE(batch, steps, hidden));
    return 0;
}

/* Row `id` of a table; NULL and a sentence when it has none. */
static const float *row_of(const struct tensor *table, int64_t id, const char *name, struct err *err)
{
    if (id >= 0 && id < table->shape.dim[0])
        return (const float *)table->data + id * table->shape.dim[1];
    err_set(err, ERR_MODEL, "input '%s' has %" PRId64 "; its table has %" PRId64 " rows", name, id,
            table->shape.dim[0]);
    return NULL;
}

static int embed_step(struct run_ctx *c, int64_t i, float *sum, float *y, struct err *err)
{
    const struct tensor *ids = c->in[IDS], *segments = run_in(c, SEGMENTS), *places = run_in(c, POSITION_IDS);
    const int64_t steps = ids->shape.dim[1], hidden = c->in[WORDS]->shape.dim[1];
    int64_t place = i % steps;
    double mean, variance;

    if (places)
        place = ((const int32_t *)places->data)[places->shape.dim[0] == 1 ? i % steps : i];
    const float *word = row_of(c->in[WORDS], ((const int32_t *)ids->data)[i], "input_ids", err);
    const float *position = word ? row_of(c->in[POSITIONS], place, "position_ids", err) : NULL;
    if (!position)
        return -1;
    for (int64_t j = 0; j < hidden; j++)
        sum[j] = word[j] + position[j];
    if (segments) {
        const float *segment = row_of(c->in[SEGMENT_TABLE], ((const int32_t *)segments->data)[i], "segment_ids", err);
        if (!segment)
            return -1;
        for (int64_t j = 0; j < hidden; j++)
            sum[j] += segment[j];
    }
    if (!y)
        return 0;
    norm_moments_f32(sum, hidden, &mean, &variance);
    const double inverse = 1 / sqrt(variance + (double)((const struct embed_attrs *)c->attrs)->epsilon);
    const float *gamma = c->in[GAMMA]->data, *beta = c->in[BETA]->data;
    for (int64_t j = 0; j < hidden; j++)
        y[j] = (float)(((double)sum[j] - mean) * inverse * (double)gamma[j] + (double)beta[j]);
    return 0;
}

static void count_mask(const struct tensor *mask, struct tensor *out)
{
    const int64_t steps = mask ? mask->shape.dim[1] : 0;
    for (int64_t b = 0; b < tensor_count(out); b++) {
        int32_t n = 0;
        for (int64_t s = 0; s < steps; s++)
            n += ((const int32_t *)mask->data)[b * steps + s] == 1;
        ((int32_t *)out->data)[b] = n;
    }
}

static int compute(struct run_ctx *c, struct err *err)
{
    struct tensor *y = run_out(c, 0), *index = run_out(c, 1), *sums = run_out(c, 2);
    const int64_t hidden = c->in[WORDS]->shape.dim[1], count = tensor_count(c->in[IDS]);

    if (index)
        count_mask(run_in(c, MASK), index);
    if (c->in[WORDS]->dtype != DTYPE_FLOAT)
        return err_set(err, ERR_OPERATOR, "embeddings of %s are not supported", dtype_name(c->in[WORDS]->dtype));
    if (hidden == 0 || count == 0)
        return 0;
    float *row = run_scratch(c, (size_t)hidden * sizeof *row, err);
    if (!row)
        return -1;
    for (int64_t i = 0; i < count; i++) {
        float *sum = sums ? (float *)sums->data + i * hidden : row;
        if (embed_step(c, i, sum, y ? (float *)y->data + i * hidden : NULL, err) < 0)
            return -1;
    }
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    return op_run_widened(c, infer, compute, err);
}

/* Images pass, the columns of the tables make the channels. Steps stay: without position_ids they are counted. */
static int couple(struct coupling *k, struct err *err)
{
    static const int tables[] = {WORDS, POSITIONS, SEGMENT_TABLE};
    const struct end images[] = {IN(IDS), IN(SEGMENTS), IN(MASK), OUT(1), OUT(2)};
    (void)err;
    for (int i = 0; i < 3; i++) {
        couple_axes(k, IN(tables[i]), 1, OUT(0), 2);
        couple_role(k, IN(tables[i]), 1, COUPLE_PRODUCES);
    }
    couple_axes(k, IN(GAMMA), 0, OUT(0), 2);
    couple_axes(k, IN(BETA), 0, OUT(0), 2);
    couple_axes(k, OUT(2), 2, OUT(0), 2);
    couple_approximate(k, OUT(0), 2, "it is normalized over this axis, whose statistics change");
    for (int i = 0; i < 5; i++)
        couple_axes(k, images[i], 0, OUT(0), 0);
    if (couple_size(k, IN(POSITION_IDS), 0) != 1)
        couple_axes(k, IN(POSITION_IDS), 0, OUT(0), 0);
    return 0;
}

OP_CLASS(embed_layer_normalization) = {
    .type = "EmbedLayerNormalization",
    .domain = "com.microsoft",
    .since = 1,
    .doc = "Word, position and segment embeddings, added and normalized.",
    .in_min = 7,
    .in_max = 9,
    .out_min = 1,
    .out_max = 3,
    .attrs = embed_attrs,
    .attrs_size = sizeof(struct embed_attrs),
    .infer = infer,
    .forward = forward,
    .couple = couple,
    .samples =
        (const struct op_sample[]){
            {"i32[2,3] i32[2,3]=0,1,1,0,0,1 !f32[10,4] !f32[5,4] !f32[2,4] !f32[4] !f32[4] i32[2,3]=1,1,0,1,1,1", "",
             2},
            {"i32[2,3] none !f32[10,4] !f32[5,4] none !f32[4] !f32[4]", "epsilon=0.01f", 2},
            {"i32[2,3] none !f32[10,4] !f32[5,4] none !f32[4] !f32[4] none i32[1,3]=4,0,2", "", 3},
            {NULL}},
};
