/* SPDX-License-Identifier: Apache-2.0
 * cluster_method.c - encode.cluster: the weights of a layer share a few values (Han, Mao and Dally, "Deep Compression",
 * 2016). A weight is cut in the order of storage into equal runs, each with a codebook of its own. Zeros are what
 * pruning left: they stay zero and cost no place among the k values. The codebook is left as a note, so that training
 * moves shared values instead of weights. form=gather also writes the model so that the file itself is small. */
#include "core/encode/cluster_method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/encode/cluster.h"

static const char *const inits[] = {"optimal", "linear", "density", "kmeans++", "random", NULL};
static const char *const forms[] = {"float", "gather", NULL};
enum { FORM_FLOAT, FORM_GATHER };

#define P(f) PARAM(cluster_params, f)
static const struct param params[] = {
    {P(bits), .kind = PARAM_INT, .min = 1, .max = 12, .def = "4",
     .doc = "a layer (or group) shares 2^bits values; zeros come on top unless zeros=false"},
    {P(k), .kind = PARAM_INT, .min = 1, .max = CLUSTER_MOST, .given = PARAM_GIVEN(cluster_params, has_k),
     .doc = "how many values a layer (or group) shares, instead of bits"},
    {P(init), .kind = PARAM_ENUM, .choices = inits, .def = "\"optimal\"",
     .doc =
         "where k-means starts: optimal is the least squared error there is; linear (evenly between the smallest and "
         "the largest weight) keeps more values for large weights, which helps before retraining; density, kmeans++ "
         "and random are the other customary starts"},
    {P(groups), .kind = PARAM_INT, .min = 1, .max = 65536, .def = "1",
     .doc = "codebooks a layer has: its weights are cut along the first axis into so many equal groups of channels; "
            "where they do not divide it, the next smaller number that does"},
    {P(rate), .kind = PARAM_NUMBER, .min = 0, .max = 10, .def = "0",
     .doc = "above 0, values used often attract more weights, which saves bits after entropy coding: the price of a "
            "bit, in units of the squared error that k values spread evenly over the range would make"},
    {P(zeros), .kind = PARAM_BOOL, .def = "true",
     .doc = "true: zeros stay zero and are no members of clusters; false: they are clustered like other weights, "
            "except those that a mask of pruning keeps"},
    {P(form), .kind = PARAM_ENUM, .choices = forms, .def = "\"float\"",
     .doc = "float: plain weights that hold few distinct values, for encode.container or any packer; gather: 8-bit "
            "indices and a Gather of the codebook that makes the weights when the model is loaded, where that is "
            "smaller (to be the last step: weights are no constants then)"},
    {P(iterations), .kind = PARAM_INT, .min = 1, .max = 10000, .def = "300", .doc = "most iterations of k-means"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

static void check(const void *p, const char *pointer, struct faults *faults)
{
    const struct cluster_params *o = p;
    const int64_t k = o->has_k ? o->k : INT64_C(1) << o->bits;
    if (o->form == FORM_GATHER && k > 256)
        faults_add(faults, pointer, "form=gather has 8-bit indices, which tell at most 256 values; %lld are asked for",
                   (long long)k);
    if (o->form == FORM_GATHER && o->groups > 256)
        faults_add(faults, pointer, "form=gather has 8-bit indices for all groups together; groups is %lld",
                   (long long)o->groups);
}

/* ---- one weight ---- */
static int nomem(struct err *err)
{
    return err_set(err, ERR_NOMEM, "out of memory while clustering");
}

static int64_t groups_for(const struct cluster_params *o, const struct tensor *t)
{
    int64_t g = t->shape.rank > 0 ? i64_min(o->groups, t->shape.dim[0]) : 1;
    while (g > 1 && t->shape.dim[0] % g != 0)
        g--;
    return i64_max(1, g);
}

/* Shares of the clusters in bits, for boundaries that price them. */
static void shares(const float *v, int64_t n, const float *boundary, int64_t used, double *bits, bool skip_zeros)
{
    double all = 0;
    for (int64_t j = 0; j < used; j++)
        bits[j] = 0;
    for (int64_t i = 0; i < n; i++)
        if (v[i] != 0 || !skip_zeros) {
            bits[cluster_of(boundary, used, v[i])] += 1;
            all += 1;
        }
    for (int64_t j = 0; j < used; j++)
        bits[j] = -log2(fmax(bits[j], 0.5) / fmax(all, 1));
}

/* What a bit costs in squared units: rate times the error of k values spread evenly. */
static double price(const struct cluster_params *o, const float *v, int64_t n, int64_t k)
{
    float lo = 0, hi = 0;
    for (int64_t i = 0; i < n; i++) {
        lo = fminf(lo, v[i]);
        hi = fmaxf(hi, v[i]);
    }
    const double step = ((double)hi - lo) / (double)k;
    return o->rate * step * step / 12;
}

/* As the weight's own type can say them. */
static void round_to_type(struct cluster_item *it, float *centroid, int64_t used)
{
    for (int64_t j = 0; j < used; j++) {
        dtype_set(it->tensor->dtype, it->cell, 0, centroid[j]);
        centroid[j] = (float)dtype_get(it->tensor->dtype, it->cell, 0);
    }
}

static void replace_values(struct cluster_item *it, float *v, int64_t n, const unsigned char *mask,
                           const float *centroid, const float *boundary, int64_t used)
{
    for (int64_t i = 0; i < n; i++) {
        const bool zero = (mask && !mask[i]) || (it->o->zeros && v[i] == 0);
        const float to = zero || used == 0 ? 0 : centroid[cluster_of(boundary, used, v[i])];
        it->error += ((double)to - v[i]) * ((double)to - v[i]);
        it->signal += (double)v[i] * v[i];
        it->nonzero += to != 0;
        it->has_zero |= to == 0;
        v[i] = to;
    }
}

/* v becomes centroids; row (room for k) holds them. mask: NULL, or 0 where the weight stays zero. */
static int cluster_run(struct cluster_item *it, float *v, int64_t n, const unsigned char *mask, float *row,
                       struct err *err)
{
    const struct cluster_params *o = it->o;
    float *boundary = calloc((size_t)it->k, sizeof *boundary);
    double *bits = calloc((size_t)it->k, sizeof *bits);
    const struct cluster_opts opts = {.k = it->k,
                                      .init = (enum cluster_init)o->init,
                                      .iterations = o->iterations,
                                      .seed = it->seed,
                                      .rate = price(o, v, n, it->k),
                                      .skip_zeros = o->zeros || mask};
    int64_t used = 0;
    const int rc = boundary && bits ? cluster_values(v, n, &opts, row, &used, err) : nomem(err);
    if (rc == 0) {
        round_to_type(it, row, used);
        cluster_boundaries(row, NULL, 0, used, boundary);
        if (opts.rate > 0) {
            shares(v, n, boundary, used, bits, opts.skip_zeros);
            cluster_boundaries(row, bits, opts.rate, used, boundary);
        }
        replace_values(it, v, n, mask, row, boundary, used);
    }
    it->used = i64_max(it->used, used);
    it->row_used = used;
    free(boundary);
    free(bits);
    return rc;
}

static const char *unfit(const float *v, int64_t n)
{
    for (int64_t i = 0; i < n; i++)
        if (!isfinite(v[i]))
            return "it holds values that are not finite";
    return NULL;
}

/* The codebook as the note has it: [groups, width], unused places repeat the last, a zero in front where weights are
 * zero. */
static int make_codebook(struct cluster_item *it, const float *rows, const int64_t *used, struct err *err)
{
    const int64_t width = i64_max(1, it->used + it->has_zero);
    if (tensor_alloc(&it->codebook, DTYPE_FLOAT, &SHAPE(it->groups, width), err))
        return -1;
    float *out = tensor_f32(&it->codebook);
    for (int64_t g = 0; g < it->groups; g++, out += width) {
        int64_t at = 0;
        if (it->has_zero)
            out[at++] = 0;
        for (int64_t j = 0; j < used[g]; j++)
            out[at++] = rows[g * it->k + j];
        for (; at < width; at++)
            out[at] = at ? out[at - 1] : 0;
    }
    return 0;
}

static int cluster_tensor(struct cluster_item *it, const struct note *mask, const char **why, struct err *err)
{
    const struct tensor *t = it->tensor;
    const int64_t n = tensor_count(t), run = n / it->groups;
    const unsigned char *kept = mask && mask->tensor.bytes == (size_t)n ? mask->tensor.data : NULL;
    float *v = malloc((size_t)n * sizeof *v), *rows = calloc((size_t)(it->groups * it->k), sizeof *rows);
    int64_t *used = calloc((size_t)it->groups, sizeof *used);
    int rc = v && rows && used ? 0 : nomem(err);
    if (rc == 0 && !dtype_convert(DTYPE_FLOAT, v, t->dtype, t->data, n))
        rc = err_set(err, ERR_INTERNAL, "weights cannot be read as numbers");
    if (rc == 0 && (*why = unfit(v, n)))
        goto out;
    for (int64_t g = 0; rc == 0 && g < it->groups; g++) {
        rc = cluster_run(it, v + g * run, run, kept ? kept + g * run : NULL, rows + g * it->k, err);
        used[g] = it->row_used;
    }
    if (rc == 0)
        rc = make_codebook(it, rows, used, err);
    if (rc == 0 && (rc = tensor_alloc_raw(&it->made, t->dtype, &t->shape, err)) == 0)
        dtype_convert(t->dtype, it->made.data, DTYPE_FLOAT, v, n);
out:
    free(v);
    free(rows);
    free(used);
    return rc;
}

/* ---- report ---- */
static void left_alone(struct step_ctx *c, uint32_t node, uint32_t value, const char *why)
{
    layer_report_add(c->layers, c->model,
                     &(struct layer_row){.node = node, .weight = value, .sqnr_db = NAN, .skipped = why});
}

static void report(struct step_ctx *c, const struct cluster_item *it, const char *form, int64_t bytes)
{
    const int64_t n = tensor_count(it->tensor);
    struct layer_row row = {.node = it->ref.node, .weight = it->ref.value, .sqnr_db = NAN};
    row.before = json_pack("{s:s,s:I}", "dtype", dtype_name(it->tensor->dtype), "bytes", (json_int_t)it->tensor->bytes);
    row.after = json_pack("{s:I,s:I,s:I,s:f,s:s,s:I}", "values", (json_int_t)(it->used + it->has_zero), "groups",
                          (json_int_t)it->groups, "nonzero", (json_int_t)it->nonzero, "mse", it->error / (double)n,
                          "form", form, "bytes", (json_int_t)bytes);
    if (it->error > 0 && it->signal > 0)
        row.sqnr_db = 10 * log10(it->signal / it->error);
    layer_report_add(c->layers, c->model, &row);
}

/* ---- flow ---- */
static int put_result(struct step_ctx *c, struct cluster_item *it, struct err *err)
{
    int64_t bytes = (int64_t)it->made.bytes;
    const bool wanted = it->o->form == FORM_GATHER;
    const char *left = wanted ? cluster_gather_refusal(c->model, it, &bytes) : NULL;
    if (weight_replace(c->model, it->ref.value, &it->made, err))
        return -1;
    value_set_note(c->model, it->ref.value, "codebook", NULL, &it->codebook);
    if (left)
        warnings_add(c->warnings, "weight '%s' is written as float: %s", c->model->values[it->ref.value].name, left);
    report(c, it, wanted && !left ? "gather" : "float", bytes);
    return wanted && !left ? cluster_gather(c->model, it, err) : 0;
}

static int cluster_one(struct step_ctx *c, const struct weight_ref *ref, const char **why, struct err *err)
{
    const struct cluster_params *o = c->params;
    struct cluster_item it = {.o = o, .ref = *ref, .seed = c->seed + ref->value};
    char label[200];
    int rc = 0;
    if (!dtype_is_float(ref->tensor->dtype)) {
        *why = "its weight is not floating-point";
        return 0;
    }
    if (tensor_count(ref->tensor) == 0) {
        *why = "its weight is empty";
        return 0;
    }
    tensor_ref(&it.before, ref->tensor);
    it.tensor = &it.before;
    it.groups = groups_for(o, it.tensor);
    it.k = i64_min(o->has_k ? o->k : INT64_C(1) << o->bits, tensor_count(it.tensor) / it.groups);
    rc = cluster_tensor(&it, value_note(c->model, ref->value, "mask"), why, err);
    if (rc == 0 && !*why)
        rc = put_result(c, &it, err);
    if (rc)
        err_wrap(err, "weight '%s' of node '%s': ", c->model->values[ref->value].name,
                 node_label(c->model, ref->node, label, sizeof label));
    tensor_fini(&it.before);
    tensor_fini(&it.made);
    tensor_fini(&it.codebook);
    return rc;
}

static int cluster_node(struct step_ctx *c, uint32_t id, unsigned char *seen, struct err *err)
{
    const struct cluster_params *o = c->params;
    struct weight_ref ref;
    const char *why = NULL;
    char label[200];
    if (!product_weight(c->model, id, &ref, &why))
        return 0;
    if (!why && !globs_select(&o->include, &o->exclude, node_label(c->model, id, label, sizeof label)))
        why = "not selected by include and exclude";
    if (!why && seen[ref.value])
        why = "its weight is shared with an earlier node and clustered there";
    if (!why) {
        seen[ref.value] = 1;
        if (cluster_one(c, &ref, &why, err))
            return -1;
    }
    if (why)
        left_alone(c, id, ref.value, why);
    return 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    const uint32_t nodes = c->model->n_nodes, values = c->model->n_values;
    unsigned char *seen = calloc((size_t)values + 1, 1);
    int rc = seen ? 0 : nomem(err);
    for (uint32_t id = 0; rc == 0 && id < nodes; id++) {
        if (!node_is_rewritable(c->model, id))
            continue;
        if (c->progress && c->progress(c, "cluster", id, nodes, err))
            rc = -1;
        else
            rc = cluster_node(c, id, seen, err);
    }
    free(seen);
    return rc;
}

METHOD(encode_cluster) = {
    .name = "encode.cluster",
    .summary = "weight sharing: the weights of a layer take a few values, found by k-means",
    .doc =
        "Weights of Conv, ConvTranspose, Gemm, MatMul and recurrent layers become the nearest of 2^bits shared values. "
        "Zeros and masks of pruning are kept. A training step after it trains the shared values. Entropy coding "
        "(encode.container) then makes the file small.",
    .params = params,
    .params_size = sizeof(struct cluster_params),
    .needs = NEEDS_NOTHING,
    .check = check,
    .run = run,
};
