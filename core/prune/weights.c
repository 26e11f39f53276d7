/* SPDX-License-Identifier: Apache-2.0
 * weights.c - prune.weights: the weights of smallest magnitude become zero (Han et al., NeurIPS 2015).
 *
 * How many go is exact. Weights are ranked by (|w|, layer, index), so equal magnitudes go in file order and the result
 * is one whatever the machine. Ranking does not sort: the rank-th smallest key is found by radix selection, four passes
 * of 16 bits over the bits of |w| as a double (which order as the numbers do), streaming over the weights where they
 * lie. So global pruning of a model of gigabytes needs no memory but a histogram. A weight read by two nodes is one
 * weight: it is ranked and pruned once. A mask (1 = kept) is left as a note for later steps. */
#include "core/passes/weights.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/step/method.h"

enum scope { SCOPE_LAYER, SCOPE_GLOBAL };
static const char *const scopes[] = {"layer", "global", NULL};

struct prune_weights_params {
    double sparsity, threshold;
    int64_t keep, drop;
    bool has_sparsity, has_threshold, has_keep, has_drop;
    int scope;
    struct globs include, exclude;
};
#define P(f) PARAM(prune_weights_params, f)

static const struct param params[] = {
    {P(sparsity), .kind = PARAM_NUMBER, .min = 0, .max = 1, .given = PARAM_GIVEN(prune_weights_params, has_sparsity),
     .doc = "fraction of the weights that becomes zero, rounded to the nearest count"},
    {P(threshold), .kind = PARAM_NUMBER, .min = 0, .max = 1e300,
     .given = PARAM_GIVEN(prune_weights_params, has_threshold), .doc = "weights of magnitude below this become zero"},
    {P(keep), .kind = PARAM_INT, .min = 0, .max = 9007199254740992.0,
     .given = PARAM_GIVEN(prune_weights_params, has_keep),
     .doc = "how many weights stay (in each layer, or in all with scope=global)"},
    {P(drop), .kind = PARAM_INT, .min = 0, .max = 9007199254740992.0,
     .given = PARAM_GIVEN(prune_weights_params, has_drop),
     .doc = "how many weights become zero (in each layer, or in all with scope=global)"},
    {P(scope), .kind = PARAM_ENUM, .choices = scopes, .def = "\"layer\"",
     .doc = "rank the weights within each layer, or all together"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

static void check(const void *p, const char *pointer, struct faults *faults)
{
    const struct prune_weights_params *o = p;
    int given = o->has_sparsity + o->has_threshold + o->has_keep + o->has_drop;
    if (given != 1)
        faults_add(faults, pointer,
                   "prune.weights needs exactly one of sparsity, threshold, keep and drop; %d are given", given);
}

/* ---- keys: bits of |w|, ordered as the magnitudes are ---- */
enum { CHUNK = 4096, RADIX = 1 << 16 };

static uint64_t key_of(double w)
{
    double magnitude = fabs(w);
    uint64_t bits;
    memcpy(&bits, &magnitude, sizeof bits);
    return bits;
}

/* Elements [first, first + n) of a weight as doubles; n <= CHUNK. */
static void read_chunk(const struct tensor *t, int64_t first, int64_t n, double *out)
{
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    if (width == 0) { /* packed below a byte */
        for (int64_t i = 0; i < n; i++)
            out[i] = dtype_get(t->dtype, t->data, first + i);
        return;
    }
    dtype_convert(DTYPE_DOUBLE, out, t->dtype, (const char *)t->data + (size_t)first * width, n);
}

/* What is pruned: all keys below `key`, and the first `ties` keys equal to it in order. */
struct cut {
    uint64_t key;
    int64_t ties;
};

/* The cut that prunes exactly `count` of the weights of refs[0..n). */
static int select_cut(const struct weight_ref *refs, int n, int64_t count, struct cut *cut, struct err *err)
{
    int64_t *histogram = malloc(RADIX * sizeof *histogram);
    if (!histogram)
        return err_set(err, ERR_NOMEM, "out of memory while ranking weights");
    uint64_t prefix = 0;
    int64_t left = count;
    double chunk[CHUNK];
    for (int shift = 48; shift >= 0; shift -= 16) {
        memset(histogram, 0, RADIX * sizeof *histogram);
        for (int r = 0; r < n; r++) {
            int64_t total = tensor_count(refs[r].tensor);
            for (int64_t first = 0; first < total; first += CHUNK) {
                int64_t len = total - first < CHUNK ? total - first : CHUNK;
                read_chunk(refs[r].tensor, first, len, chunk);
                for (int64_t i = 0; i < len; i++) {
                    uint64_t key = key_of(chunk[i]);
                    if (shift == 48 || key >> (shift + 16) == prefix)
                        histogram[key >> shift & (RADIX - 1)]++;
                }
            }
        }
        uint64_t digit = 0;
        while (digit < RADIX - 1 && left >= histogram[digit])
            left -= histogram[digit++];
        prefix = prefix << 16 | digit;
    }
    free(histogram);
    *cut = (struct cut){.key = prefix, .ties = left};
    return 0;
}

static int64_t wanted_count(const struct prune_weights_params *o, int64_t total)
{
    if (o->has_sparsity)
        return (int64_t)nearbyint(o->sparsity * (double)total);
    int64_t count = o->has_keep ? total - o->keep : o->drop;
    return count < 0 ? 0 : count > total ? total : count;
}

static int choose_cut(const struct prune_weights_params *o, const struct weight_ref *refs, int n, struct cut *cut,
                      struct err *err)
{
    if (o->has_threshold) {
        *cut = (struct cut){.key = key_of(o->threshold), .ties = 0};
        return 0;
    }
    int64_t total = 0;
    for (int i = 0; i < n; i++)
        total += tensor_count(refs[i].tensor);
    return select_cut(refs, n, wanted_count(o, total), cut, err);
}

/* ---- applying ---- */
struct facts {
    int64_t before, after; /* non-zeros */
    double signal, noise;
};

static int refuse_nan(const struct model *m, const struct weight_ref *ref, struct err *err)
{
    char label[200];
    double chunk[CHUNK];
    int64_t total = tensor_count(ref->tensor);
    for (int64_t first = 0; first < total; first += CHUNK) {
        int64_t len = total - first < CHUNK ? total - first : CHUNK;
        read_chunk(ref->tensor, first, len, chunk);
        for (int64_t i = 0; i < len; i++)
            if (isnan(chunk[i]))
                return err_set(err, ERR_MODEL,
                               "node '%s': weight '%s' is NaN at element %lld, so its weights cannot be ranked by "
                               "magnitude; repair the weight or exclude the node",
                               node_label(m, ref->node, label, sizeof label), m->values[ref->value].name,
                               (long long)(first + i));
    }
    return 0;
}

static void set_zero(struct tensor *t, int64_t index)
{
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    if (width)
        memset((char *)t->data + (size_t)index * width, 0, width);
    else
        dtype_set(t->dtype, t->data, index, 0);
}

/* Zero what the cut takes; ties are counted down in cut->ties. */
static int apply(struct model *m, const struct weight_ref *ref, struct cut *cut, struct facts *facts, struct err *err)
{
    struct tensor t = {0}, mask = {0};
    const struct note *old = value_note(m, ref->value, "mask");
    int64_t total = tensor_count(ref->tensor);
    double chunk[CHUNK];
    int rc = -1;
    if (tensor_copy(&t, ref->tensor, err) || tensor_alloc(&mask, DTYPE_BOOL, &ref->tensor->shape, err))
        goto out;
    const unsigned char *was = old && old->tensor.bytes == mask.bytes ? old->tensor.data : NULL;
    unsigned char *kept = mask.data;
    *facts = (struct facts){0};
    for (int64_t first = 0; first < total; first += CHUNK) {
        int64_t len = total - first < CHUNK ? total - first : CHUNK;
        read_chunk(ref->tensor, first, len, chunk);
        for (int64_t i = 0; i < len; i++) {
            uint64_t key = key_of(chunk[i]);
            bool gone = key < cut->key || (key == cut->key && cut->ties > 0);
            if (key == cut->key && cut->ties > 0)
                cut->ties--;
            facts->before += chunk[i] != 0;
            facts->after += chunk[i] != 0 && !gone;
            facts->signal += chunk[i] * chunk[i];
            if (gone)
                facts->noise += chunk[i] * chunk[i];
            if (gone)
                set_zero(&t, first + i);
            kept[first + i] = !gone && (!was || was[first + i]);
        }
    }
    rc = weight_replace(m, ref->value, &t, err);
    if (rc == 0)
        value_set_note(m, ref->value, "mask", NULL, &mask);
out:
    tensor_fini(&t);
    tensor_fini(&mask);
    return rc;
}

static void report(struct step_ctx *c, const struct weight_ref *ref, const struct facts *f, int64_t total)
{
    struct layer_row row = {.node = ref->node, .weight = ref->value, .sqnr_db = NAN};
    row.before = json_pack("{s:I,s:I}", "params", (json_int_t)total, "nonzero", (json_int_t)f->before);
    row.after = json_pack("{s:I,s:I}", "params", (json_int_t)total, "nonzero", (json_int_t)f->after);
    if (f->noise > 0 && f->signal > 0)
        row.sqnr_db = 10 * log10(f->signal / f->noise);
    layer_report_add(c->layers, c->model, &row);
}

/* Operators that multiply by constant matrices without being products of one weight (LSTM, GRU, RNN, Einsum): said, not
 * silently passed by. */
static void report_other(struct step_ctx *c, uint32_t id)
{
    struct model *m = c->model;
    const struct op_class *op = node_class(m, &m->nodes[id]);
    for (int i = 1; op && op->cost && i < m->nodes[id].n_input; i++) {
        uint32_t v = m->nodes[id].input[i];
        const struct tensor *t = v != VALUE_NONE ? value_const(m, v) : NULL;
        if (!t || !dtype_is_float(t->dtype) || t->shape.rank < 2)
            continue;
        struct layer_row row = {.node = id, .weight = v, .sqnr_db = NAN};
        row.skipped = "only weights of Conv, ConvTranspose, Gemm and MatMul are pruned";
        layer_report_add(c->layers, m, &row);
        return;
    }
}

/* The weights to prune, each once, in the order of their first nodes. Rows are written for the nodes left alone. */
static int collect(struct step_ctx *c, struct weight_ref *refs, int *n, struct err *err)
{
    const struct prune_weights_params *o = c->params;
    struct model *m = c->model;
    bool *seen = calloc(m->n_values ? m->n_values : 1, sizeof *seen);
    if (!seen)
        return err_set(err, ERR_NOMEM, "out of memory while collecting weights");
    *n = 0;
    int rc = 0;
    for (uint32_t id = 0; id < m->n_nodes && rc == 0; id++) {
        struct weight_ref ref;
        const char *why;
        char label[200];
        if (!node_is_rewritable(m, id))
            continue;
        if (!product_weight(m, id, &ref, &why)) {
            report_other(c, id);
            continue;
        }
        if (!globs_select(&o->include, &o->exclude, node_label(m, id, label, sizeof label)))
            why = "not selected by include and exclude";
        if (!why && seen[ref.value])
            why = "its weight is shared with an earlier node and pruned there";
        if (why) {
            struct layer_row row = {.node = id, .weight = ref.value, .sqnr_db = NAN, .skipped = why};
            layer_report_add(c->layers, m, &row);
            continue;
        }
        seen[ref.value] = true;
        refs[(*n)++] = ref;
        rc = refuse_nan(m, &ref, err);
    }
    free(seen);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    const struct prune_weights_params *o = c->params;
    struct weight_ref *refs = calloc(c->model->n_nodes ? c->model->n_nodes : 1, sizeof *refs);
    struct cut cut = {0};
    int n = 0, rc = -1;
    if (!refs)
        return err_set(err, ERR_NOMEM, "out of memory while collecting weights");
    if (collect(c, refs, &n, err))
        goto out;
    if (n == 0)
        warnings_add(c->warnings, "prune.weights found no weight to prune: the model has no selected product with a "
                                  "constant floating-point weight");
    if (o->scope == SCOPE_GLOBAL && choose_cut(o, refs, n, &cut, err))
        goto out;
    for (int i = 0; i < n; i++) {
        struct facts facts;
        int64_t total = tensor_count(refs[i].tensor);
        if (c->progress && c->progress(c, "prune", i, n, err))
            goto out;
        if (o->scope == SCOPE_LAYER && choose_cut(o, &refs[i], 1, &cut, err))
            goto out;
        if (apply(c->model, &refs[i], &cut, &facts, err))
            goto out;
        report(c, &refs[i], &facts, total);
    }
    rc = 0;
out:
    free(refs);
    return rc;
}

METHOD(prune_weights) = {
    .name = "prune.weights",
    .summary = "zero the weights of smallest magnitude",
    .doc = "Unstructured magnitude pruning of the weights of Conv, ConvTranspose, Gemm and MatMul. Give exactly one of "
           "sparsity, threshold, "
           "keep and drop. Equal magnitudes go in file order. Shapes stay as they are: the zeros pay off in compressed "
           "files and on "
           "runtimes with sparse kernels.",
    .params = params,
    .params_size = sizeof(struct prune_weights_params),
    .needs = NEEDS_NOTHING,
    .check = check,
    .run = run,
};
