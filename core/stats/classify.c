/* SPDX-License-Identifier: Apache-2.0
 * Counts first, fractions at the end. For up to 1000 classes the whole confusion matrix is kept; beyond that only
 * the three counts a
 * class needs (true positives, predictions, labels). */
#include "core/stats/classify.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "core/base/size.h"

enum { MAX_CONFUSION = 1000, MAX_JSON_CLASSES = 100, MAX_CLASSES = 1 << 24, TOP = 5 };

struct task_metrics {
    int64_t samples, classes; /* classes 0: targets, or nothing yet */
    int64_t top1, top5;
    int64_t *confusion;
    int64_t *hit, *predicted, *labelled;
    double squared, lowest, highest;
    int64_t elements;
    float *row; /* one sample's scores */
};

struct task_metrics *task_metrics_new(void)
{
    struct task_metrics *m = calloc(1, sizeof *m);
    if (m) {
        m->lowest = INFINITY;
        m->highest = -INFINITY;
    }
    return m;
}

void task_metrics_free(struct task_metrics *m)
{
    if (!m)
        return;
    free(m->confusion);
    free(m->hit);
    free(m->predicted);
    free(m->labelled);
    free(m->row);
    free(m);
}

int64_t classify_argmax(const float *scores, int64_t n)
{
    int64_t best = 0;
    for (int64_t i = 1; i < n; i++)
        if (scores[i] > scores[best] || (isnan(scores[best]) && !isnan(scores[i])))
            best = i;
    return best;
}

/* Place of a class in the order of scores, lowest index first among equals: how many come before it. */
static int64_t rank_of(const float *scores, int64_t n, int64_t label)
{
    int64_t before = 0;
    for (int64_t i = 0; i < n; i++)
        before += scores[i] > scores[label] || (i < label && scores[i] == scores[label]) ||
                  (isnan(scores[label]) && (!isnan(scores[i]) || i < label));
    return before;
}

static int start_classes(struct task_metrics *m, int64_t classes, struct err *err)
{
    if (m->classes)
        return m->classes == classes
                   ? 0
                   : err_set(err, ERR_DATASET, "output has %" PRId64 " classes here, had %" PRId64 " before", classes,
                             m->classes);
    if (classes < 1 || classes > MAX_CLASSES)
        return err_set(err, ERR_DATASET, "an output of %" PRId64 " elements a sample is no classifier's", classes);
    size_t n = (size_t)classes;
    m->hit = calloc(n, sizeof *m->hit);
    m->predicted = calloc(n, sizeof *m->predicted);
    m->labelled = calloc(n, sizeof *m->labelled);
    m->row = calloc(n, sizeof *m->row);
    m->confusion = n <= MAX_CONFUSION ? calloc(n * n, sizeof *m->confusion) : NULL;
    if (!m->hit || !m->predicted || !m->labelled || !m->row || (n <= MAX_CONFUSION && !m->confusion))
        return err_set(err, ERR_NOMEM, "out of memory");
    m->classes = classes;
    return 0;
}

static void load_row(float *row, const struct tensor *t, int64_t at, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        row[i] = (float)dtype_get(t->dtype, t->data, at + i);
}

/* A single score a sample is a yes/no classifier: the class is score > 0.5. */
static void widen_binary(float row[2])
{
    row[1] = row[0];
    row[0] = 1.0f - row[1];
}

static int add_classes(struct task_metrics *m, const struct tensor *scores, const struct tensor *labels, int64_t first,
                       struct err *err)
{
    int64_t n = tensor_count(labels), width = n ? tensor_count(scores) / n : 0;
    int64_t classes = width == 1 ? 2 : width;
    if (n == 0)
        return 0;
    if (start_classes(m, classes, err))
        return -1;
    for (int64_t s = 0; s < n; s++) {
        int64_t label = dtype_get_i64(labels->dtype, labels->data, s);
        if (label < 0 || label >= classes)
            return err_set(err, ERR_DATASET,
                           "sample %" PRId64 ": label %" PRId64 " is out of range, the model has %" PRId64
                           " classes (0 to %" PRId64 ")",
                           first + s, label, classes, classes - 1);
        load_row(m->row, scores, s * width, width);
        if (width == 1)
            widen_binary(m->row);
        int64_t got = classify_argmax(m->row, classes);
        m->top1 += got == label;
        m->top5 += rank_of(m->row, classes, label) < TOP;
        m->hit[label] += got == label;
        m->predicted[got]++;
        m->labelled[label]++;
        if (m->confusion)
            m->confusion[label * classes + got]++;
    }
    m->samples += n;
    return 0;
}

static int add_targets(struct task_metrics *m, const struct tensor *scores, const struct tensor *labels,
                       struct err *err)
{
    int64_t n = tensor_count(labels);
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    if (tensor_count(scores) != n)
        return err_set(err, ERR_DATASET, "targets are %s, the model's output is %s", shape_text(&labels->shape, a),
                       shape_text(&scores->shape, b));
    for (int64_t i = 0; i < n; i++) {
        double want = dtype_get(labels->dtype, labels->data, i), d = dtype_get(scores->dtype, scores->data, i) - want;
        m->squared += d * d;
        m->lowest = want < m->lowest ? want : m->lowest;
        m->highest = want > m->highest ? want : m->highest;
    }
    m->elements += n;
    m->samples += labels->shape.rank > 0 ? labels->shape.dim[0] : 1;
    return 0;
}

int task_metrics_add(struct task_metrics *m, const struct tensor *scores, const struct tensor *labels, int64_t first,
                     struct err *err)
{
    char kind = dtype_kind(scores->dtype);
    int64_t n = labels->shape.rank > 0 ? labels->shape.dim[0] : 1;
    if (kind == 's' || kind == 'c' || kind == 0)
        return err_set(err, ERR_DATASET, "outputs of dtype %s cannot be judged by labels", dtype_name(scores->dtype));
    if (n > 0 && (tensor_count(scores) <= 0 || tensor_count(scores) % n))
        return err_set(err, ERR_DATASET, "%" PRId64 " labels do not fit an output of %" PRId64 " elements", n,
                       tensor_count(scores));
    bool classes = dtype_is_integer(labels->dtype);
    if (m->samples && classes != (m->classes > 0))
        return err_set(err, ERR_DATASET, "labels are classes in one batch and targets in another");
    return classes ? add_classes(m, scores, labels, first, err) : add_targets(m, scores, labels, err);
}

static double ratio(int64_t a, int64_t b)
{
    return b ? (double)a / (double)b : 0;
}

void task_metrics_result(const struct task_metrics *m, struct task_metrics_result *out)
{
    *out = (struct task_metrics_result){.samples = m->samples,
                                        .classes = m->classes > 0,
                                        .n_classes = m->classes,
                                        .confusion = m->confusion,
                                        .psnr_db = NAN};
    if (m->elements) {
        double range = m->highest - m->lowest;
        out->mse = m->squared / (double)m->elements;
        if (range > 0 && out->mse > 0)
            out->psnr_db = 10 * log10(range * range / out->mse);
        return;
    }
    int64_t present = 0;
    for (int64_t c = 0; c < m->classes; c++) {
        if (!m->labelled[c] && !m->predicted[c])
            continue;
        double p = ratio(m->hit[c], m->predicted[c]), r = ratio(m->hit[c], m->labelled[c]);
        out->precision += p;
        out->recall += r;
        out->f1 += p + r > 0 ? 2 * p * r / (p + r) : 0;
        present++;
    }
    if (!present)
        return;
    out->precision /= (double)present;
    out->recall /= (double)present;
    out->f1 /= (double)present;
    out->top1 = ratio(m->top1, m->samples);
    out->top5 = ratio(m->top5, m->samples);
}

static json_t *confusion_json(const struct task_metrics_result *r)
{
    json_t *rows = json_array();
    for (int64_t a = 0; a < r->n_classes; a++) {
        json_t *row = json_array();
        for (int64_t b = 0; b < r->n_classes; b++)
            json_array_append_new(row, json_integer(r->confusion[a * r->n_classes + b]));
        json_array_append_new(rows, row);
    }
    return rows;
}

json_t *task_metrics_json(const struct task_metrics *m, bool confusion)
{
    struct task_metrics_result r;
    task_metrics_result(m, &r);
    json_t *o = json_pack("{s:I}", "samples", (json_int_t)r.samples);
    if (!r.samples)
        return o;
    if (!r.classes) {
        json_object_set_new(o, "mse", json_real(r.mse));
        if (isfinite(r.psnr_db))
            json_object_set_new(o, "psnr_db", json_real(r.psnr_db));
        return o;
    }
    json_object_set_new(o, "top1", json_real(r.top1));
    json_object_set_new(o, "top5", json_real(r.top5));
    json_object_set_new(o, "precision", json_real(r.precision));
    json_object_set_new(o, "recall", json_real(r.recall));
    json_object_set_new(o, "f1", json_real(r.f1));
    if (confusion && r.confusion && r.n_classes <= MAX_JSON_CLASSES)
        json_object_set_new(o, "confusion", confusion_json(&r));
    return o;
}
