/* SPDX-License-Identifier: Apache-2.0
 * output_loss.c - gradients of losses by output, one row of it; output_loss.h has the formulas. */
#include "core/stats/output_loss.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* One output that takes a gradient. */
struct row {
    const float *x;
    float *seed;
    int64_t n;
    enum { VALUES, SCORES, PROBABILITIES } kind;
};

/* False: output i carries no gradient. */
static bool row_of(struct grad *g, int i, int64_t batch, struct row *r)
{
    struct tensor *seed = grad_seed(g, i);
    const struct tensor *out = grad_output(g, i);
    if (!seed || seed->dtype != DTYPE_FLOAT || out->shape.rank < 1)
        return false;
    *r = (struct row){tensor_f32(out), tensor_f32(seed), tensor_count(out) / batch, VALUES};
    double sum = 0;
    bool positive = true;
    for (int64_t k = 0; k < r->n; k++) {
        positive = positive && r->x[k] >= 0;
        sum += (double)r->x[k];
    }
    if (out->shape.rank >= 2 && out->shape.dim[0] == batch && out->shape.dim[1] == r->n && r->n > 1)
        r->kind = positive && fabs(sum - 1) < 1e-3 ? PROBABILITIES : SCORES;
    return true;
}

/* p of one row; seed may be p. */
static void softmax(const float *x, int64_t n, float *p)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; i++)
        most = (double)x[i] > most ? (double)x[i] : most;
    for (int64_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    for (int64_t i = 0; i < n; i++)
        p[i] = (float)(exp((double)x[i] - most) / sum);
}

/* L = -log p_y. Of probabilities the gradient is -1 / p_y. */
static void seed_class(const struct row *r, int64_t y)
{
    if (r->kind == PROBABILITIES) {
        r->seed[y] = (float)(-1 / fmax((double)r->x[y], 1e-6));
        return;
    }
    softmax(r->x, r->n, r->seed);
    r->seed[y] -= 1;
}

static int64_t draw_scores(const struct row *r, double drawn)
{
    double most = -INFINITY, sum = 0;
    for (int64_t i = 0; i < r->n; i++)
        most = (double)r->x[i] > most ? (double)r->x[i] : most;
    for (int64_t i = 0; i < r->n; i++)
        sum += exp((double)r->x[i] - most);
    for (int64_t i = 0; i < r->n; i++)
        if ((drawn -= exp((double)r->x[i] - most) / sum) < 0)
            return i;
    return r->n - 1;
}

static int64_t draw_probabilities(const struct row *r, double drawn)
{
    int64_t y = 0;
    for (int64_t i = 0; i < r->n; i++)
        y = r->x[i] > r->x[y] ? i : y;
    for (int64_t i = 0; i < r->n; i++)
        if ((drawn -= (double)r->x[i]) < 0)
            return i;
    return y; /* of what rounding left over */
}

void output_loss_draw(struct grad *g, int64_t batch, struct rng *rng)
{
    struct row r;
    for (int i = 0; i < grad_n_outputs(g); i++) {
        if (!row_of(g, i, batch, &r))
            continue;
        for (int64_t k = 0; r.kind == VALUES && k < r.n; k++)
            r.seed[k] = rng_u64(rng) & 1 ? 1 : -1;
        if (r.kind != VALUES) {
            const double drawn = rng_uniform(rng);
            seed_class(&r, r.kind == SCORES ? draw_scores(&r, drawn) : draw_probabilities(&r, drawn));
            return; /* the first scores are what the model is judged by */
        }
    }
}

int output_loss_labels(struct grad *g, int64_t batch, const struct tensor *labels, struct err *err)
{
    struct row r;
    const bool classes = labels->dtype == DTYPE_INT64;
    const int64_t n = tensor_count(labels) / batch;
    if ((!classes && labels->dtype != DTYPE_FLOAT) || n < 1)
        return 0;
    for (int i = 0; i < grad_n_outputs(g); i++) {
        if (!row_of(g, i, batch, &r))
            continue;
        if (classes && n == 1 && r.kind != VALUES) {
            const int64_t y = tensor_i64(labels)[0];
            if (y < 0 || y >= r.n)
                return err_set(err, ERR_DATASET, "label %lld is no class of the model's output, which has %lld",
                               (long long)y, (long long)r.n);
            seed_class(&r, y);
            return 1;
        }
        if (!classes && r.n == n) {
            for (int64_t k = 0; k < n; k++)
                r.seed[k] = r.x[k] - tensor_f32(labels)[k];
            return 1;
        }
    }
    return 0;
}

/* ---- against the model's own output ---- */
int output_reference_take(struct output_reference *r, struct grad *g, int64_t batch, struct err *err)
{
    output_reference_fini(r);
    r->row = calloc((size_t)grad_n_outputs(g) + 1, sizeof *r->row);
    r->n = r->row ? grad_n_outputs(g) : 0;
    bool memory = r->row != NULL;
    for (int i = 0; memory && i < r->n; i++) {
        struct row row;
        if (!row_of(g, i, batch, &row))
            continue;
        memory = (r->row[i] = malloc(((size_t)row.n + 1) * sizeof *row.x)) != NULL;
        if (memory && row.kind == SCORES)
            softmax(row.x, row.n, r->row[i]);
        else if (memory && row.n > 0)
            memcpy(r->row[i], row.x, (size_t)row.n * sizeof *row.x);
    }
    return memory ? 0 : err_set(err, ERR_NOMEM, "out of memory");
}

void output_reference_fini(struct output_reference *r)
{
    for (int i = 0; i < r->n; i++)
        free(r->row[i]);
    free(r->row);
    *r = (struct output_reference){0};
}

void output_loss_reference(struct grad *g, int64_t batch, const struct output_reference *r)
{
    struct row row;
    for (int i = 0; i < r->n; i++) {
        if (!row_of(g, i, batch, &row) || !r->row[i])
            continue;
        if (row.kind == SCORES)
            softmax(row.x, row.n, row.seed);
        for (int64_t k = 0; k < row.n; k++) {
            const float q = r->row[i][k];
            if (row.kind == PROBABILITIES)
                row.seed[k] = (float)(-(double)q / fmax((double)row.x[k], 1e-6));
            else
                row.seed[k] = (row.kind == SCORES ? row.seed[k] : row.x[k]) - q;
        }
        if (row.kind != VALUES)
            return;
    }
}
