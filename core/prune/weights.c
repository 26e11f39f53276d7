/* SPDX-License-Identifier: Apache-2.0
 * weights.c - prune.weights: single weights, n:m groups or blocks become zero; the parameters, the flow and the report. What a
 * score is, how ranking is done and how many each layer loses stand in the other files of weight_pruning.h.
 *
 * A step of the schedule scores the model as it is, decides how many go, makes masks and writes the weights. What was zero before
 * has the score 0 and is counted among those that go, so a later step, of this schedule or of another recipe step, never brings a
 * weight back (but with schedule=surgery, weights_schedule.c). The mask (1 = kept) is left as a note for later steps. A weight read by two nodes is one weight: it is ranked and
 * pruned once. */
#include "core/prune/weight_pruning.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/prune/nesting.h"

static const char *const scopes[] = {"auto", "layer", "global", "row", NULL};
static const char *const allocations[] = {"uniform", "erk", "global", NULL};
#define P(f) PARAM(prune_weights_params, f)

static const struct param params[] = {
    {P(sparsity), .kind = PARAM_NUMBER, .min = 0, .max = 1, .given = PARAM_GIVEN(prune_weights_params, has_sparsity),
     .doc = "fraction of the weights that becomes zero, rounded to the nearest count (with blocks: of the blocks)"},
    {P(threshold), .kind = PARAM_NUMBER, .min = 0, .max = 1e300,
     .given = PARAM_GIVEN(prune_weights_params, has_threshold),
     .doc = "weights whose score (for magnitude: their size) is below this become zero"},
    {P(keep), .kind = PARAM_INT, .min = 0, .max = 9007199254740992.0,
     .given = PARAM_GIVEN(prune_weights_params, has_keep),
     .doc = "how many weights (or blocks) stay (in each layer, or in all with scope=global or allocation=erk)"},
    {P(drop), .kind = PARAM_INT, .min = 0, .max = 9007199254740992.0,
     .given = PARAM_GIVEN(prune_weights_params, has_drop),
     .doc = "how many weights (or blocks) become zero (in each layer, or in all with scope=global or allocation=erk)"},
    {P(structure), .kind = PARAM_STRING, .def = "\"unstructured\"",
     .doc = "unstructured; n:m as 2:4 or 4:8 (of m neighbours along what is summed over, n stay; input channels are "
            "neighbours in convolutions); or blocks as 4x1 (outputs by neighbours)"},
    {P(criterion), .kind = PARAM_ENUM, .choices = weights_criteria_names, .def = "\"magnitude\"",
     .doc =
         "what ranks the weights; gradient, taylor, fisher, snip, wanda and obs need a dataset. obs also changes the "
         "weights that stay, so that outputs change least"},
    {P(scope), .kind = PARAM_ENUM, .choices = scopes, .def = "\"auto\"",
     .doc = "rank the weights within each layer, within each row of a layer (what makes one output), or all together; "
            "auto: row for wanda, global for lamp, snip and obs, else layer"},
    {P(allocation), .kind = PARAM_ENUM, .choices = allocations, .def = "\"uniform\"",
     .doc = "how layers share the sparsity: each the same, by Erdos-Renyi-kernel (small layers stay denser), or as "
            "ranking all together has it (scope=global)"},
    {P(steps), .kind = PARAM_INT, .min = 1, .max = 1000, .def = "1",
     .doc = "reach the sparsity in so many steps along the schedule, scoring anew before each; within a training step "
            "it is the training that says how often"},
    {P(schedule), .kind = PARAM_ENUM, .choices = weights_schedules,
     .given = PARAM_GIVEN(prune_weights_params, has_schedule),
     .doc = "how the sparsity grows over steps, or over the training it is nested in: at once, evenly, fast at first "
            "(cubic, if not given), or (in training only) fast at first with weights that come back where they grow again: dynamic network "
            "surgery"},
    {P(initial), .kind = PARAM_NUMBER, .min = 0, .max = 1, .below_max = true,
     .given = PARAM_GIVEN(prune_weights_params, has_initial),
     .doc = "the sparsity that the schedule starts from; 0 if not given"},
    {P(hysteresis), .kind = PARAM_NUMBER, .min = 0, .max = 1, .below_max = true,
     .given = PARAM_GIVEN(prune_weights_params, has_hysteresis),
     .doc = "of surgery (0.1 if not given), with the threshold t where the sparsity is met: weights go below (1 - hysteresis) t and come "
            "back above (1 + hysteresis) t"},
    {P(samples), .kind = PARAM_INT, .min = 1, .max = 1e9, .def = "512",
     .doc = "samples of the dataset that criteria with data look at"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

/* ---- parameters ---- */
static const char *structure_text(const struct prune_weights_params *o)
{
    return o->structure ? o->structure : "unstructured";
}

static enum weights_scope scope_of(const struct prune_weights_params *o, enum structure_kind kind)
{
    const enum weights_scope natural = weights_criterion(o->criterion)->scope;
    if (o->scope != SCOPE_AUTO)
        return (enum weights_scope)o->scope;
    if (o->allocation == ALLOCATE_GLOBAL)
        return SCOPE_GLOBAL;
    if (natural == SCOPE_ROW)
        return kind == STRUCTURE_BLOCK ? SCOPE_LAYER : SCOPE_ROW;
    return o->allocation == ALLOCATE_ERK ? SCOPE_LAYER : natural;
}

static void check_groups(const struct prune_weights_params *o, int given, const char *pointer, struct faults *faults)
{
    if (given > 0)
        faults_add(faults, pointer,
                   "structure=%s says itself how many weights go: leave out sparsity, threshold, keep and drop",
                   structure_text(o));
    if (o->scope != SCOPE_AUTO || o->allocation != ALLOCATE_UNIFORM)
        faults_add(faults, pointer, "structure=%s ranks within its groups: leave out scope and allocation",
                   structure_text(o));
    if (o->steps > 1)
        faults_add(faults, pointer,
                   "structure=%s has no schedule of its own: leave out steps, or nest it in a training step",
                   structure_text(o));
}

static void check(const void *p, const char *pointer, struct faults *faults)
{
    const struct prune_weights_params *o = p;
    int given = o->has_sparsity + o->has_threshold + o->has_keep + o->has_drop;
    struct structure s;
    const char *why;
    if (!structure_parse(structure_text(o), &s, &why)) {
        char at[800];
        snprintf(at, sizeof at, "%.700s/structure", pointer);
        faults_add(faults, at, "'structure' is \"%.40s\": %s", structure_text(o), why);
        return;
    }
    weights_check_schedule(o, &s, pointer, faults);
    if (s.kind == STRUCTURE_NM) {
        check_groups(o, given, pointer, faults);
        return;
    }
    if (given != 1)
        faults_add(faults, pointer,
                   "prune.weights needs exactly one of sparsity, threshold, keep and drop; %d are given", given);
    if (o->has_threshold && o->steps > 1)
        faults_add(faults, pointer, "steps leads to a sparsity, and a threshold is none: give sparsity, keep or drop");
    if (o->has_threshold && o->allocation == ALLOCATE_ERK)
        faults_add(faults, pointer, "allocation=erk shares a sparsity, and a threshold is none");
    if (o->scope == SCOPE_GLOBAL && o->allocation == ALLOCATE_ERK)
        faults_add(faults, pointer,
                   "scope=global ranks all layers together, so allocation=erk cannot share among them");
    if ((o->scope == SCOPE_LAYER || o->scope == SCOPE_ROW) && o->allocation == ALLOCATE_GLOBAL)
        faults_add(faults, pointer, "allocation=global ranks all layers together, but scope=%s", scopes[o->scope]);
    if (o->scope == SCOPE_ROW && s.kind == STRUCTURE_BLOCK)
        faults_add(faults, pointer, "scope=row ranks single weights, and structure=%s is of blocks", structure_text(o));
}

static unsigned needs_of(const void *p)
{
    return weights_criterion(((const struct prune_weights_params *)p)->criterion)->needs;
}

/* ---- writing ---- */
static void set_zero(struct tensor *t, int64_t index)
{
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    if (width)
        memset((char *)t->data + (size_t)index * width, 0, width);
    else
        dtype_set(t->dtype, t->data, index, 0);
}

int weights_write(struct prune_run *r, struct prune_item *it, const double *values, struct err *err)
{
    struct model *m = r->c->model;
    const struct note *old = value_note(m, it->ref.value, "mask");
    struct tensor t = {0};
    unsigned char *kept = it->mask.data;
    int rc = -1;
    if (spill_tensor(r->spill, &t, it->ref.tensor->dtype, &it->ref.tensor->shape, err))
        goto out;
    const unsigned char *was = old && old->tensor.bytes == it->mask.bytes ? old->tensor.data : NULL;
    memcpy(t.data, it->ref.tensor->data, t.bytes);
    for (int64_t row = 0; values && row < it->matrix.rows; row++)
        for (int64_t k = 0; k < it->matrix.k; k++) {
            const int64_t at = weight_matrix_at(&it->matrix, row, k);
            if (kept[at])
                dtype_set(t.dtype, t.data, at, values[row * it->matrix.k + k]);
        }
    for (int64_t i = 0; i < it->count; i++) {
        if (!kept[i])
            set_zero(&t, i);
        kept[i] = kept[i] && (!was || was[i]);
    }
    rc = weight_replace(m, it->ref.value, &t, err);
    if (rc == 0) {
        value_set_note(m, it->ref.value, "mask", NULL, &it->mask);
        it->ref.tensor = it->matrix.stored = weights_tensor(m, it->ref.value);
        tensor_release_pages(it->ref.tensor);
    }
    tensor_fini(&it->mask);
out:
    tensor_fini(&t);
    return rc;
}

/* ---- report ---- */
struct facts {
    int64_t before, after; /* non-zeros */
    double signal, noise;
};

static void apply_mask(const struct tensor *mask, int64_t first, int64_t n, double *w)
{
    const unsigned char *stays = mask->data;
    for (int64_t i = 0; stays && i < n; i++)
        w[i] = stays[first + i] ? w[i] : 0;
}

/* With surgery weights are latent also where they do not count: masks say which do. */
static struct facts compare(const struct prune_run *r, const struct prune_item *it)
{
    const struct note *mask = value_note(r->c->model, it->ref.value, "mask");
    struct facts f = {0};
    double was[WEIGHTS_CHUNK], is[WEIGHTS_CHUNK];
    for (int64_t first = 0; first < it->count; first += WEIGHTS_CHUNK) {
        const int64_t len = i64_min(it->count - first, WEIGHTS_CHUNK);
        weights_read(&it->original, first, len, was);
        weights_read(it->ref.tensor, first, len, is);
        if (r->surgery) {
            apply_mask(&it->was, first, len, was);
            apply_mask(&mask->tensor, first, len, is);
        }
        for (int64_t i = 0; i < len; i++) {
            f.before += was[i] != 0;
            f.after += is[i] != 0;
            f.signal += was[i] * was[i];
            f.noise += (was[i] - is[i]) * (was[i] - is[i]);
        }
    }
    return f;
}

static void report(struct prune_run *r, const struct prune_item *it, const struct facts *f)
{
    struct layer_row row = {.node = it->ref.node, .weight = it->ref.value, .sqnr_db = NAN};
    row.before = json_pack("{s:I,s:I}", "params", (json_int_t)it->count, "nonzero", (json_int_t)f->before);
    row.after = json_pack("{s:I,s:I}", "params", (json_int_t)it->count, "nonzero", (json_int_t)f->after);
    if (r->surgery)
        json_object_set_new(row.after, "spliced", json_integer((json_int_t)weights_spliced(r, it)));
    if (it->fallback) {
        json_object_set_new(row.after, "criterion", json_string("magnitude"));
        json_object_set_new(row.after, "why", json_string(it->fallback));
    } else if (isfinite(it->error)) {
        json_object_set_new(row.after, "output_error", json_real(it->error));
    }
    if (f->noise > 0 && f->signal > 0)
        row.sqnr_db = 10 * log10(f->signal / f->noise);
    layer_report_add(r->c->layers, r->c->model, &row);
}

static void report_all(struct prune_run *r)
{
    const struct model *m = r->c->model;
    char label[200];
    int empty = 0, magnitude = 0, first_empty = -1;
    for (int i = 0; i < r->n; i++) {
        const struct facts f = compare(r, &r->item[i]);
        report(r, &r->item[i], &f);
        if (f.after == 0 && f.before > 0 && empty++ == 0)
            first_empty = i;
        magnitude += r->item[i].fallback != NULL;
    }
    if (r->n == 0) {
        warnings_add(r->c->warnings, "prune.weights found no weight to prune: the model has no selected product with a "
                                     "constant floating-point weight");
        return;
    }
    if (empty > 0)
        warnings_add(r->c->warnings,
                     "%d layer%s, '%s' first, lost every weight: the output is then the same for all inputs "
                     "there",
                     empty, empty == 1 ? "" : "s", node_label(m, r->item[first_empty].ref.node, label, sizeof label));
    if (magnitude > 0)
        warnings_add(r->c->warnings,
                     "%d of %d weights were ranked by magnitude, each layer by itself: %s says nothing of them "
                     "(the layers say why)",
                     magnitude, r->n, r->criterion->name);
    if (!r->c->in_training || nesting_ramp(r->c) >= 1)
        warnings_add(r->c->warnings,
                 "no speed gain in ONNX Runtime: it stores and multiplies the zeros; what shrinks is the "
                 "compressed size");
}

/* ---- flow ---- */
static int refuse_scores(const struct prune_run *r, struct err *err)
{
    const struct model *m = r->c->model;
    char label[200];
    for (int n = 0; n < r->n; n++) {
        const struct prune_item *it = &r->item[n];
        for (int64_t i = 0; it->score && !it->fallback && i < it->count; i++)
            if (!isfinite(it->score[i]))
                return err_set(err, ERR_MODEL, "node '%s': %s gives weight '%s' no finite score at element %lld",
                               node_label(m, it->ref.node, label, sizeof label), r->criterion->name,
                               m->values[it->ref.value].name, (long long)i);
    }
    return 0;
}

/* obs ranks single weights of a layer while it updates them; scores are needed beforehand for all else. */
static bool needs_scores(const struct prune_run *r)
{
    return !r->criterion->update || r->structure.kind == STRUCTURE_BLOCK || r->o->has_threshold ||
           (r->scope == SCOPE_GLOBAL && r->structure.kind != STRUCTURE_NM);
}

static int write_item(struct prune_run *r, struct prune_item *it, struct err *err)
{
    if (weights_mask(r, it, err))
        return -1;
    return r->surgery ? weights_write_mask(r, it, err) : weights_write(r, it, NULL, err);
}

static int prune_once(struct prune_run *r, struct err *err)
{
    struct step_ctx *c = r->c;
    if (!needs_scores(r))
        for (int i = 0; i < r->n; i++)
            r->item[i].fallback = weights_no_moments(r, &r->item[i]);
    else if (r->criterion->prepare && (r->criterion->prepare(r, err) || refuse_scores(r, err)))
        return -1;
    for (int i = 0; i < r->n; i++) {
        r->item[i].done = false;
        if (r->surgery && weights_gate(r, &r->item[i], err))
            return -1;
        if (weights_units(r, &r->item[i], err))
            return -1;
    }
    if (weights_allocate(r, err) || (r->criterion->update && weights_obs(r, err)))
        return -1;
    for (int i = 0; i < r->n; i++) {
        if (c->progress && c->progress(c, "prune", i, r->n, err))
            return -1;
        if (!r->item[i].done && write_item(r, &r->item[i], err))
            return -1;
    }
    return 0;
}

static int run(struct step_ctx *c, struct err *err)
{
    const struct prune_weights_params *o = c->params;
    struct prune_run r = {.c = c, .o = o, .criterion = weights_criterion(o->criterion)};
    const int64_t steps = c->in_training ? 1 : i64_max(1, o->steps);
    const double ramp = nesting_ramp(c);
    const char *why;
    int rc = -1;
    if (!structure_parse(structure_text(o), &r.structure, &why))
        return err_set(err, ERR_RECIPE, "'structure' is \"%.40s\": %s", structure_text(o), why);
    if ((r.criterion->needs & NEEDS_DATA) && !c->data)
        return err_set(err, ERR_RECIPE, "criterion=%s needs a dataset, and none is given", r.criterion->name);
    r.surgery = weights_schedule_of(o) == WEIGHTS_SURGERY;
    if (r.surgery && !c->in_training)
        return err_set(err, ERR_RECIPE,
                       "schedule=surgery gives weights back as they grow again, so it needs a training step around it: "
                       "nest prune.weights in the steps of one, or take another schedule");
    r.scope = scope_of(o, r.structure.kind);
    const struct structure asked = r.structure;
    if (!(r.spill = spill_new(err)) || weights_collect(&r, err) || weights_begin(&r, err))
        goto out;
    if (r.criterion->update && !(r.before = model_clone(c->model, err)))
        goto out;
    for (int64_t step = 1; step <= steps; step++) {
        r.share = weights_share(o, ramp * (double)step / (double)steps);
        r.last = ramp >= 1 && step == steps;
        if (asked.kind == STRUCTURE_NM && !r.criterion->update)
            r.structure.a = weights_nm_stay(&asked, r.share);
        if (prune_once(&r, err))
            goto out;
    }
    report_all(&r);
    rc = 0;
out:
    for (int i = 0; i < r.n; i++)
        prune_item_fini(&r.item[i]);
    free(r.item);
    model_free(r.before);
    spill_free(r.spill);
    return rc;
}

METHOD(prune_weights) = {
    .name = "prune.weights",
    .summary = "zero the least important weights: single ones, n:m groups or blocks",
    .doc =
        "Pruning of the weights of Conv, ConvTranspose, Gemm, MatMul, recurrent layers, Einsum and Attention. Give "
        "exactly one "
        "of sparsity, threshold, keep and drop, or structure=n:m. Equal scores go in file order. Without labels in the "
        "dataset gradient, taylor and fisher draw them from the model's own output. Blocks at the edge of a weight may "
        "be "
        "smaller, and the last group of n:m keeps n too. Shapes stay as they are: the zeros pay off in compressed "
        "files and "
        "on runtimes with sparse kernels. Nested in a training step it prunes little by little as the schedule says "
        "while the network learns; of n:m one neighbour after the other goes.",
    .params = params,
    .params_size = sizeof(struct prune_weights_params),
    .needs = NEEDS_NOTHING,
    .needs_of = needs_of,
    .check = check,
    .run = run,
    .scheduled = true,
};
