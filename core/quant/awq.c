/* SPDX-License-Identifier: Apache-2.0
 * awq.c - the scales of AWQ, one search for all products that read a value (awq.h).
 * Candidates s_k = mean|x_k|^a over sqrt(max s * min s), a = 0, 0.05, ..., 0.95; a = 0 is the weight as it is. The
 * measure is
 *            tr(E H E^T) with E = W - Q(W s) / s, over all products of the value. Large weights are judged by some
 *            of their
 *            rows, evenly spread. */
#include "core/quant/awq.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/quant/channel_scale.h"

enum { ALPHAS = 20 };
#define JUDGED_MACS ((int64_t)1 << 30) /* of one product and candidate */

/* ---- where scales can go ---- */
struct place {
    uint32_t value;
    uint32_t node;     /* the first of its products */
    int n;             /* of them */
    const char *why;   /* nothing can be scaled; NULL */
    double alpha, gain; /* chosen; error / error before */
};

struct search {
    struct step_ctx *ctx;
    const struct awq_opts *o;
    struct channel_scale scale;
    double *factor, *size; /* [scale.n], by root element; size: mean |x| while one value is searched */
    struct place *places;  /* one a region */
    bool *wanted;          /* by node: will be quantized */
};

static void find_places(struct search *s)
{
    struct channel_scale *c = &s->scale;
    for (int i = 0; i < c->n_regions; i++)
        s->places[i] = (struct place){.value = VALUE_NONE, .node = NODE_NONE};
    for (int i = 0; i < c->n_ends; i++) {
        const struct scale_end *e = &c->ends[i];
        struct place *p = &s->places[e->region];
        if (e->role != SCALE_READS || !e->product)
            continue;
        if (p->n++ == 0) {
            p->value = e->value;
            p->node = e->node;
        }
        if (!s->wanted[e->node])
            p->why = "a product that stays in float reads the same channels";
        else if (p->value != e->value)
            p->why = "its channels are read at several places";
        else if (gram_refusal(c->m, e->node))
            p->why = gram_refusal(c->m, e->node);
    }
    for (int i = 0; i < c->n_regions; i++) {
        struct place *p = &s->places[i];
        for (int64_t k = 0; p->n && !p->why && k < c->channels[p->value]; k++)
            if (!channel_scale_free(c, c->base[p->value] + k))
                p->why = c->blocked[channel_scale_root(c, c->base[p->value] + k)];
    }
}

static int region_of(const struct search *s, uint32_t node)
{
    for (int i = 0; i < s->scale.n_ends; i++)
        if (s->scale.ends[i].role == SCALE_READS && s->scale.ends[i].product && s->scale.ends[i].node == node)
            return s->scale.ends[i].region;
    return -1;
}

/* ---- the search at one value ---- */
struct weight_rows {
    float *w, *q, *scaled;
    struct block_codes codes;
    int64_t rows, k;
};

static void rows_fini(struct weight_rows *r)
{
    free(r->w);
    free(r->q);
    free(r->scaled);
    free(r->codes.codes);
    free(r->codes.scale);
    free(r->codes.zero);
}

/* Rows of a product's weight, [N][K]: all, or as many as the time allows. */
static int rows_make(struct weight_rows *r, const struct model *m, const struct scale_end *e,
                     const struct block_form *f,
                     struct err *err)
{
    const float *w = tensor_f32(value_const(m, m->nodes[e->node].input[e->slot]));
    const bool columns = e->lanes.axis == 0; /* stored [K][N] */
    const int64_t k = columns ? e->lanes.d0 : e->lanes.d1, n = columns ? e->lanes.d1 : e->lanes.d0;
    const int64_t most = i64_max(16, JUDGED_MACS / (k * k));
    const size_t rows = (size_t)i64_min(n, most), blocks = (size_t)block_count(f);
    *r = (struct weight_rows){.rows = (int64_t)rows, .k = k};
    r->w = malloc(rows * (size_t)k * sizeof *r->w);
    r->q = malloc(rows * (size_t)k * sizeof *r->q);
    r->scaled = malloc(rows * (size_t)k * sizeof *r->scaled);
    r->codes = (struct block_codes){malloc(rows * (size_t)k), malloc(rows * blocks * sizeof(float)),
                                    malloc(rows * blocks)};
    if (!r->w || !r->q || !r->scaled || !r->codes.codes || !r->codes.scale || !r->codes.zero)
        return err_set(err, ERR_NOMEM, "out of memory while searching scales");
    for (size_t i = 0; i < rows; i++) {
        const int64_t from = (int64_t)i * n / (int64_t)rows;
        for (int64_t j = 0; j < k; j++)
            r->w[(int64_t)i * k + j] = columns ? w[j * n + from] : w[from * k + j];
    }
    return 0;
}

static double scaled_error(const struct search *s, const struct block_form *f, const struct weight_rows *r,
                           const struct gram_matrix *g, const double *factor)
{
    for (int64_t i = 0; i < r->rows * r->k; i++)
        r->scaled[i] = (float)((double)r->w[i] * factor[i % r->k]);
    block_rtn(f, r->scaled, r->rows, &r->codes);
    block_dequantize(f, &r->codes, r->rows, r->q);
    for (int64_t i = 0; i < r->rows * r->k; i++)
        r->q[i] = (float)((double)r->q[i] / factor[i % r->k]);
    return gram_error(s->ctx->pool, g, r->w, r->q, r->rows);
}

/* factor[k] = size^alpha, centred. */
static void candidate(const struct search *s, const struct place *p, double alpha, double *factor)
{
    const struct channel_scale *c = &s->scale;
    const int64_t n = c->channels[p->value], base = c->base[p->value];
    double least = INFINITY, most = 0;
    for (int64_t k = 0; k < n; k++) {
        factor[k] = pow(s->size[channel_scale_root(c, base + k)], alpha);
        least = fmin(least, factor[k]);
        most = fmax(most, factor[k]);
    }
    for (int64_t k = 0; k < n; k++)
        factor[k] /= sqrt(least * most);
}

/* Mean |x| of each root of the value's channels; none is taken to be less than a ten-thousandth of the largest.
 * False: all
 * are zero. */
static bool find_sizes(struct search *s, const struct place *p, const struct gram_matrix *g)
{
    const struct channel_scale *c = &s->scale;
    const int64_t n = c->channels[p->value], base = c->base[p->value];
    double most = 0;
    for (int64_t k = 0; k < n; k++)
        s->size[channel_scale_root(c, base + k)] = 0;
    for (int64_t k = 0; k < n; k++) {
        double *size = &s->size[channel_scale_root(c, base + k)];
        *size = fmax(*size, g->mean_abs[k]);
        most = fmax(most, *size);
    }
    for (int64_t k = 0; k < n; k++) {
        double *size = &s->size[channel_scale_root(c, base + k)];
        *size = fmax(*size, most * 1e-4);
    }
    return most > 0;
}

static int search_place(struct search *s, int region, const struct gram_matrix *g, struct err *err)
{
    struct place *p = &s->places[region];
    const struct channel_scale *c = &s->scale;
    const int64_t n = c->channels[p->value], base = c->base[p->value];
    double *factor = malloc((size_t)n * sizeof *factor);
    double error[ALPHAS] = {0};
    int rc = -1, best = 0;
    struct block_form f = s->o->form;
    f.k = n;
    if (!factor) {
        err_set(err, ERR_NOMEM, "out of memory while searching scales");
        goto out;
    }
    if (!find_sizes(s, p, g)) {
        p->why = "its input is always zero";
        rc = 0;
        goto out;
    }
    for (int i = 0; i < c->n_ends; i++) {
        const struct scale_end *e = &c->ends[i];
        struct weight_rows r = {0};
        if (e->region != region || e->role != SCALE_READS || !e->product)
            continue;
        int made = rows_make(&r, c->m, e, &f, err);
        for (int a = 0; made == 0 && a < ALPHAS; a++) {
            candidate(s, p, (double)a / ALPHAS, factor);
            error[a] += scaled_error(s, &f, &r, g, factor);
        }
        rows_fini(&r);
        if (made)
            goto out;
    }
    for (int a = 1; a < ALPHAS; a++)
        if (error[a] < error[best])
            best = a;
    p->alpha = (double)best / ALPHAS;
    p->gain = error[0] > 0 ? error[best] / error[0] : 1;
    candidate(s, p, p->alpha, factor);
    for (int64_t k = 0; best > 0 && k < n; k++)
        s->factor[channel_scale_root(c, base + k)] = factor[k];
    rc = 0;
out:
    free(factor);
    return rc;
}

static int search_node(void *arg, uint32_t node, const struct gram_matrix *g, const char *why, struct err *err)
{
    struct search *s = arg;
    const int region = region_of(s, node);
    if (g)
        return search_place(s, region, g, err);
    s->places[region].why = why;
    return 0;
}

static int search_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = ((struct search *)arg)->ctx;
    return c->progress ? c->progress(c, "activation-aware scales", done, total, err) : 0;
}

/* ---- the step ---- */
static void report(const struct search *s)
{
    for (int64_t i = 0; i < s->o->n_nodes; i++) {
        const uint32_t node = s->o->nodes[i];
        const int region = region_of(s, node);
        const struct place *p = region >= 0 ? &s->places[region] : NULL;
        const char *why = p ? p->why : "what makes its input takes no scales";
        struct layer_row row = {.node = node, .weight = VALUE_NONE, .sqnr_db = NAN};
        if (why)
            row.after = json_pack("{s:{s:s}}", "awq", "not_scaled", why);
        else
            row.after = json_pack("{s:{s:f,s:f}}", "awq", "alpha", p->alpha, "output_error_ratio", p->gain);
        layer_report_add(s->ctx->layers, s->ctx->model, &row);
    }
}

static int search_all(struct search *s, struct err *err)
{
    uint32_t *nodes = malloc((size_t)(s->scale.n_regions + 1) * sizeof *nodes);
    int64_t n = 0;
    if (!nodes)
        return err_set(err, ERR_NOMEM, "out of memory while searching scales");
    for (int i = 0; i < s->scale.n_regions; i++)
        if (s->places[i].n && !s->places[i].why)
            nodes[n++] = s->places[i].node;
    const struct gram_job job = {.m = s->ctx->model, .data = s->ctx->data, .pool = s->ctx->pool,
                                 .samples = s->o->samples,
                                 .nodes = nodes, .n_nodes = n, .memory_bytes = s->o->memory_bytes, .each = search_node,
                                 .progress = search_progress, .arg = s};
    int rc = n ? gram_each(&job, err) : 0;
    free(nodes);
    return rc;
}

int awq_scale(struct step_ctx *c, const struct awq_opts *o, struct err *err)
{
    struct search s = {.ctx = c, .o = o};
    int rc = -1;
    if (channel_scale_init(&s.scale, c->model, &(struct scale_opts){.clip = SCALE_CLIP_KEEP}, err))
        goto out;
    s.factor = malloc((size_t)(s.scale.n + 1) * sizeof *s.factor);
    s.size = malloc((size_t)(s.scale.n + 1) * sizeof *s.size);
    s.places = calloc((size_t)s.scale.n_regions + 1, sizeof *s.places);
    s.wanted = calloc((size_t)c->model->n_nodes + 1, sizeof *s.wanted);
    if (!s.factor || !s.size || !s.places || !s.wanted) {
        err_set(err, ERR_NOMEM, "out of memory while searching scales");
        goto out;
    }
    for (int64_t i = 0; i < s.scale.n; i++)
        s.factor[i] = 1;
    for (int64_t i = 0; i < o->n_nodes; i++)
        s.wanted[o->nodes[i]] = true;
    find_places(&s);
    if (search_all(&s, err) || channel_scale_apply(&s.scale, s.factor, err))
        goto out;
    report(&s);
    rc = 0;
out:
    free(s.factor);
    free(s.size);
    free(s.places);
    free(s.wanted);
    channel_scale_fini(&s.scale);
    return rc;
}
