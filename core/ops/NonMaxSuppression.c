/* SPDX-License-Identifier: Apache-2.0
 * NonMaxSuppression: boxes [N, B, 4], scores [N, C, B] -> selected [count, 3], rows (batch, class, box).
 * In each batch and class the boxes go by falling score (equal scores: the lower index first); one is kept unless its
 * intersection over union with a kept one exceeds iou_threshold, until max_output_boxes_per_class are kept. Scores
 * must exceed score_threshold where that is given. Boxes are two opposite corners (y, x, y, x), in any order, or with
 * center_point_box (x, y, width, height) about their center. */
#include <stdlib.h>

#include "core/ops/op_util.h"

struct nms_attrs {
    bool center_point_box;
};
static const struct op_attr nms_attrs[] = {{OP_ATTR(nms_attrs, center_point_box), .kind = OP_BOOL}, {NULL}};

static int check_single(const struct infer_ctx *c, int i, const char *name, struct err *err)
{
    if (!infer_has(c, i) || !shape_known(infer_shape(c, i)) || shape_count(infer_shape(c, i)) == 1)
        return 0;
    char text[SHAPE_TEXT];
    return err_set(err, ERR_SHAPE, "'%s' has shape %s; it must be one number", name,
                   shape_text(infer_shape(c, i), text));
}

static int infer(struct infer_ctx *c, struct err *err)
{
    char boxes_text[SHAPE_TEXT], scores_text[SHAPE_TEXT];

    if (op_need(c, 2, err) < 0)
        return -1;
    for (int i = 0; i < c->n_in; i++)
        if (infer_has(c, i) && op_dtype(c, i) != DTYPE_NONE && op_dtype(c, i) != (i == 2 ? DTYPE_INT64 : DTYPE_FLOAT))
            return err_set(err, ERR_MODEL, "input #%d is %s; it must be %s", i, dtype_name(op_dtype(c, i)),
                           dtype_name(i == 2 ? DTYPE_INT64 : DTYPE_FLOAT));
    const struct shape *b = infer_shape(c, 0), *s = infer_shape(c, 1);
    if (b->rank >= 0 && s->rank >= 0) {
        bool fits = b->rank == 3 && s->rank == 3 && (b->dim[2] < 0 || b->dim[2] == 4) &&
                    (b->dim[0] < 0 || s->dim[0] < 0 || b->dim[0] == s->dim[0]) &&
                    (b->dim[1] < 0 || s->dim[2] < 0 || b->dim[1] == s->dim[2]);
        if (!fits)
            return err_set(err, ERR_SHAPE,
                           "boxes have shape %s and scores %s; they must be [batch, boxes, 4] and "
                           "[batch, classes, boxes]",
                           shape_text(b, boxes_text), shape_text(s, scores_text));
    }
    if (check_single(c, 2, "max_output_boxes_per_class", err) < 0 || check_single(c, 3, "iou_threshold", err) < 0 ||
        check_single(c, 4, "score_threshold", err) < 0)
        return -1;
    infer_out(c, 0, DTYPE_INT64, &SHAPE(DIM_UNKNOWN, 3));
    return 0;
}

struct box {
    float y0, x0, y1, x1;
};

static struct box box_read(const float *p, bool center)
{
    struct box b = {p[0], p[1], p[2], p[3]};
    if (center)
        b = (struct box){p[1] - p[3] / 2, p[0] - p[2] / 2, p[1] + p[3] / 2, p[0] + p[2] / 2};
    return (struct box){b.y0 < b.y1 ? b.y0 : b.y1, b.x0 < b.x1 ? b.x0 : b.x1, b.y0 < b.y1 ? b.y1 : b.y0,
                        b.x0 < b.x1 ? b.x1 : b.x0};
}

static bool overlaps(const struct box *a, const struct box *b, float threshold)
{
    const float y0 = a->y0 > b->y0 ? a->y0 : b->y0, y1 = a->y1 < b->y1 ? a->y1 : b->y1;
    const float x0 = a->x0 > b->x0 ? a->x0 : b->x0, x1 = a->x1 < b->x1 ? a->x1 : b->x1;
    const float both = y1 > y0 && x1 > x0 ? (y1 - y0) * (x1 - x0) : 0;
    const float all = (a->y1 - a->y0) * (a->x1 - a->x0) + (b->y1 - b->y0) * (b->x1 - b->x0) - both;
    return both > 0 && all > 0 && both / all > threshold;
}

struct candidate {
    float score; /* no NaN: the order must be total */
    int64_t box;
};

static int better_first(const void *pa, const void *pb)
{
    const struct candidate *a = pa, *b = pb;
    if (a->score != b->score)
        return a->score > b->score ? -1 : 1;
    return (a->box > b->box) - (a->box < b->box);
}

struct task {
    const float *boxes, *scores; /* of one batch; of one class in it */
    int64_t n, most;
    float iou, threshold;
    bool center, has_threshold;
    struct candidate *candidate;
    struct box *kept;
};

/* Moves the kept candidates to the front and returns how many. */
static int64_t suppress(const struct task *t)
{
    int64_t count = 0, kept = 0;

    for (int64_t i = 0; i < t->n; i++) {
        const float s = t->scores[i];
        if (s == s && (!t->has_threshold || s > t->threshold))
            t->candidate[count++] = (struct candidate){s, i};
    }
    qsort(t->candidate, (size_t)count, sizeof *t->candidate, better_first);
    for (int64_t i = 0; i < count && kept < t->most; i++) {
        const struct box box = box_read(t->boxes + t->candidate[i].box * 4, t->center);
        bool free_of_others = true;
        for (int64_t k = 0; k < kept && free_of_others; k++)
            free_of_others = !overlaps(&box, &t->kept[k], t->iou);
        if (free_of_others) {
            t->kept[kept] = box;
            t->candidate[kept++] = t->candidate[i];
        }
    }
    return kept;
}

static int read_task(const struct run_ctx *c, struct task *t, struct err *err)
{
    const struct tensor *most = run_in(c, 2), *iou = run_in(c, 3), *threshold = run_in(c, 4);
    const int64_t n = c->in[0]->shape.dim[1];

    *t = (struct task){.n = n, .center = ((const struct nms_attrs *)c->attrs)->center_point_box};
    t->most = most ? i64_min(i64_max(*(const int64_t *)most->data, 0), n) : 0;
    t->iou = iou ? *(const float *)iou->data : 0;
    t->has_threshold = threshold != NULL;
    t->threshold = threshold ? *(const float *)threshold->data : 0;
    if (!(t->iou >= 0 && t->iou <= 1))
        return err_set(err, ERR_MODEL, "iou_threshold is %g; it must be in [0, 1]", (double)t->iou);
    return 0;
}

static int forward(struct run_ctx *c, struct err *err)
{
    struct task t;
    size_t bytes;
    int64_t count = 0, *rows = NULL;

    if (op_recheck(c, infer, err) < 0 || read_task(c, &t, err) < 0)
        return -1;
    const int64_t batches = c->in[1]->shape.dim[0], classes = c->in[1]->shape.dim[1];
    if (!size_mul((size_t)t.n + 1, sizeof *t.candidate + sizeof *t.kept, &bytes))
        return err_set(err, ERR_MODEL_TOO_LARGE, "too many boxes");
    t.candidate = run_scratch(c, bytes, err);
    if (!t.candidate)
        return -1;
    t.kept = (struct box *)(t.candidate + t.n + 1);
    /* first how many, then which: candidates are cheap to find again and all of them need not be held */
    for (int pass = 0; pass < 2; pass++) {
        if (pass && run_alloc(c, 0, DTYPE_INT64, &SHAPE(count, 3), err) < 0)
            return -1;
        rows = pass ? c->out[0]->data : NULL;
        for (int64_t k = 0; k < batches * classes && t.most > 0; k++) {
            t.boxes = tensor_f32(c->in[0]) + k / classes * t.n * 4;
            t.scores = tensor_f32(c->in[1]) + k * t.n;
            const int64_t kept = suppress(&t);
            for (int64_t i = 0; i < kept && rows; i++, rows += 3) {
                rows[0] = k / classes;
                rows[1] = k % classes;
                rows[2] = t.candidate[i].box;
            }
            count += pass ? 0 : kept;
        }
    }
    return 0;
}

static const struct op_sample samples[] = {
    {"f32[1,4,4]=0,0,1,1,0,0.1,1,1.1,0,-0.1,1,0.9,0,10,1,11 f32[1,1,4]=0.9,0.75,0.6,0.95 i64[1]=3 f32[1]=0.5 f32[1]=0",
     NULL},
    {"f32[2,3,4]=1,1,0,0,0,0.1,1,1.1,0,10,1,11,5,5,4,4,0,0,1,1,0,10,1,11 f32[2,2,3] i64[]=2 f32[]=0.3", NULL},
    {"f32[1,3,4]=0.5,0.5,1,1,0.5,0.6,1,1,5,5,2,2 f32[1,2,3] i64[1]=9 f32[1]=0.4 f32[1]=-0.5", "center_point_box=1"},
    {"f32[1,2,4] f32[1,1,2]", NULL},
    {NULL},
};

OP_CLASS(non_max_suppression) = {.type = "NonMaxSuppression",
                                 .domain = "",
                                 .since = 10,
                                 .doc = "Boxes of the best scores that do not overlap much.",
                                 .in_min = 2,
                                 .in_max = 5,
                                 .out_min = 1,
                                 .out_max = 1,
                                 .attrs = nms_attrs,
                                 .attrs_size = sizeof(struct nms_attrs),
                                 .infer = infer,
                                 .forward = forward,
                                 .samples = samples};
