/* SPDX-License-Identifier: Apache-2.0
 * weights_method.c - quantize.weights: constant weights in 2 to 8 bits with a scale for each block, activations in
 * floating point.
 * Order      plan every node's form (weight_forms.c); raise the opset if a form needs it, or do without that form;
 *            make the codes weight by weight (weight_codes.c), each once however many nodes read it; rewrite the
 *            nodes.
 * Memory     weights are read tile by tile from the file and codes lie in a temporary file, so the step needs
 *            little more than the graph; gptq and awq hold one weight and its Gram matrix at a time. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/passes/pass.h"
#include "core/passes/raise_opset.h"
#include "core/quant/awq.h"
#include "core/quant/gptq.h"
#include "core/quant/hqq.h"
#include "core/quant/kquant.h"
#include "core/quant/quantized.h"
#include "core/quant/weight_forms.h"

enum { RTN, HQQ, GPTQ, AWQ, KQUANT };
static const char *const algorithms[] = {"rtn", "hqq", "gptq", "awq", "kquant", NULL};
static block_algorithm *const without_data[] = {[RTN] = block_rtn, [HQQ] = block_hqq, [KQUANT] = block_kquant};
static const char *const forms[] = {"auto", "nbits", "dequantize", NULL};

#define P(f) PARAM(quantize_weights_params, f)
static const struct param params[] = {
    {P(bits), .kind = PARAM_INT, .def = "4", .min = 2, .max = 8,
     .doc = "bits of a weight; 3 is stored in 4 bits, 5 to 7 in 8, as runtimes read no other width"},
    {P(block), .kind = PARAM_INT, .min = 16, .max = 256, .given = PARAM_GIVEN(quantize_weights_params, has_block),
     .doc = "weights that share a scale: a power of two from 16 to 256. Not given: 32, 64 or 128, whichever gives the "
            "smallest "
            "file for the error to be expected; 8-bit DequantizeLinear has a scale for each channel then"},
    {P(symmetric), .kind = PARAM_BOOL, .def = "false",
     .doc = "true: no zero points, which is smaller by 1 to 3 % and faster in ONNX Runtime; false: a zero point for "
            "each block, "
            "which loses less than those bytes would cost otherwise"},
    {P(algorithm), .kind = PARAM_ENUM, .choices = algorithms, .def = "\"hqq\"",
     .doc = "rtn: round to nearest, as ONNX Runtime's quantizer; hqq: half-quadratic search of scales and zero points; "
            "kquant: "
            "weighted search of them; gptq: by the products' inputs, the error of each weight goes into the next ones; "
            "awq: by "
            "the products' inputs, weights that meet large inputs are scaled up first. gptq and awq need data"},
    {P(form), .kind = PARAM_ENUM, .choices = forms, .def = "\"auto\"",
     .doc = "auto: MatMulNBits for MatMul and Gemm, GatherBlockQuantized for embeddings, DequantizeLinear for the "
            "rest; nbits: "
            "only the first two; dequantize: DequantizeLinear, which other runtimes read too"},
    {P(accuracy_level), .kind = PARAM_INT, .def = "0", .min = 0, .max = 4,
     .doc = "attribute of MatMulNBits: 0 leaves the arithmetic to the runtime, 1 asks for float32, 4 allows 8-bit "
            "activations, "
            "which is faster and less exact"},
    {P(samples), .kind = PARAM_INT, .def = "128", .min = 1, .max = 1000000,
     .doc = "samples that gptq and awq run, spread evenly over the dataset"},
    {P(include), .kind = PARAM_GLOBS, .doc = "only nodes whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS, .doc = "no nodes whose name matches one of these patterns"},
    {0},
};

static void check(const void *params_, const char *pointer, struct faults *faults)
{
    const struct quantize_weights_params *o = params_;
    if (o->has_block && (o->block & (o->block - 1)) != 0)
        faults_add(faults, pointer, "block is %" PRId64 "; it must be 16, 32, 64, 128 or 256", o->block);
}

struct job_ctx {
    struct step_ctx *c;
    uint32_t *nodes; /* that get a Gram matrix */
    int64_t n_nodes;
    const struct quantize_weights_params *o;
    struct edit edit;
    struct infer infer;
    struct weight_forms f;
    struct spill *spill;
    int64_t done;
    int64_t few_rows, by_gram; /* weights that gptq made: with fewer sample rows than columns; all */
};

/* ---- report ---- */
static void row_left(struct job_ctx *x, uint32_t node, const char *why)
{
    layer_report_add(x->c->layers, x->c->model,
                     &(struct layer_row){.node = node, .weight = VALUE_NONE, .sqnr_db = NAN, .skipped = why});
}

static void row_made(struct job_ctx *x, const struct weight_item *item)
{
    const struct weight_job *job = &x->f.jobs[item->job];
    const struct code_plan *p = &job->plan;
    char label[200];
    struct layer_row row = {.node = item->node, .weight = p->view.source, .sqnr_db = job->made.sqnr_db};
    row.before =
        json_pack("{s:s,s:I}", "dtype", dtype_name(p->view.stored->dtype), "bytes", (json_int_t)p->view.stored->bytes);
    row.after = json_pack("{s:s,s:i,s:I,s:s,s:b,s:I}", "form", forms_name(item->form), "bits", p->form.bits, "block",
                          (json_int_t)p->form.block, "algorithm", job->algorithm, "symmetric", p->form.symmetric,
                          "bytes", (json_int_t)code_plan_bytes(p));
    if (row.after && job->note)
        json_object_set_new(row.after, "note", json_string(job->note));
    if (row.after && isfinite(job->error_ratio))
        json_object_set_new(row.after, "output_error_to_rtn", json_real(job->error_ratio));
    if (row.after && p->stored != p->form.bits)
        json_object_set_new(row.after, "stored_bits", json_integer(p->stored));
    if (row.after && job->first != item->node)
        json_object_set_new(row.after, "shared_with",
                            json_string(node_label(x->c->model, job->first, label, sizeof label)));
    layer_report_add(x->c->layers, x->c->model, &row);
}

/* ---- planning ---- */
static int plan_all(struct job_ctx *x, bool report, struct err *err)
{
    const struct model *m = x->c->model;
    struct err fault = {0};
    for (uint32_t id = 0; id < m->n_nodes; id++) {
        const char *why = NULL;
        char label[200];
        if (!edit_node_is_live(&x->edit, id))
            continue;
        const int64_t items = x->f.n_items, jobs = x->f.n_jobs;
        if (!forms_plan_node(&x->f, id, &why, &fault))
            continue;
        if (fault.code)
            return err_set(err, fault.code, "%s", fault.msg);
        if (!globs_select(&x->o->include, &x->o->exclude, node_label(m, id, label, sizeof label))) {
            x->f.n_items = items;
            x->f.n_jobs = jobs;
            why = "not selected by include and exclude";
        }
        if (why && report)
            row_left(x, id, why);
    }
    return forms_settle(&x->f, err);
}

static void end_plan(struct job_ctx *x)
{
    forms_fini(&x->f);
    infer_fini(&x->infer);
    edit_fini(&x->edit);
}

static int begin_plan(struct job_ctx *x, int64_t opset, const char *why, bool report, struct err *err)
{
    if (edit_init(&x->edit, x->c->model, err))
        return -1;
    if (infer_run(&x->infer, x->c->model, err)) {
        edit_fini(&x->edit);
        return -1;
    }
    x->f = (struct weight_forms){
        .o = x->o, .m = x->c->model, .edit = &x->edit, .infer = &x->infer, .opset = opset, .opset_why = why};
    if (plan_all(x, report, err)) {
        end_plan(x);
        return -1;
    }
    return 0;
}

/* The newest opset a form may use: the model's own, or what it was raised to. */
static int settle_opset(struct job_ctx *x, int64_t *opset, struct err *err)
{
    int64_t need = 0;
    struct err refused = {0};
    if (begin_plan(x, INT64_MAX, NULL, false, err))
        return -1;
    for (int64_t i = 0; i < x->f.n_items; i++)
        if (!x->f.items[i].dropped && x->f.items[i].opset > need)
            need = x->f.items[i].opset;
    end_plan(x);
    *opset = model_opset(x->c->model, "");
    if (need <= *opset)
        return 0;
    if (raise_opset_for(x->c->model, need, "DequantizeLinear", x->c->warnings, &refused) == 0)
        *opset = need;
    else if (refused.code != ERR_MODEL)
        return err_set(err, refused.code, "%s", refused.msg);
    else
        warnings_add(x->c->warnings,
                     "weights that need DequantizeLinear of opset %" PRId64 " stay in floating point: %s", need,
                     refused.msg);
    return 0;
}

/* ---- codes ---- */
static int say(struct job_ctx *x, struct err *err)
{
    x->done++;
    return x->c->progress ? x->c->progress(x->c, "quantize", x->done, x->f.n_jobs, err) : 0;
}

static int fail_at(struct job_ctx *x, const struct weight_job *job, struct err *err)
{
    char label[200];
    return err_wrap(err, "weight '%s' of node '%s': ", x->c->model->values[job->plan.view.source].name,
                    node_label(x->c->model, job->first, label, sizeof label));
}

static int make_blockwise(struct job_ctx *x, struct weight_job *job, int algorithm, struct err *err)
{
    job->algorithm = algorithms[algorithm];
    job->error_ratio = NAN;
    if (weight_codes_make(&job->plan, without_data[algorithm], x->spill, x->c->pool, &job->made, err))
        return err->code == ERR_MODEL ? fail_at(x, job, err) : -1;
    return say(x, err);
}

static bool is_wanted(const struct weight_forms *f, int64_t job)
{
    for (int64_t i = 0; i < f->n_items; i++)
        if (f->items[i].job == job && !f->items[i].dropped)
            return true;
    return false;
}

static struct weight_job *job_of_node(struct job_ctx *x, uint32_t node)
{
    for (int64_t i = 0; i < x->f.n_items; i++)
        if (x->f.items[i].node == node && !x->f.items[i].dropped)
            return &x->f.jobs[x->f.items[i].job];
    return NULL;
}

/* ---- with data ---- */

/* Codes of one matrix by its Gram matrix: `out` and the two errors. */
static int run_algorithm(struct job_ctx *x, const struct block_form *f, const float *w, int64_t rows,
                         const struct gram_matrix *g, const struct block_codes *q, double *ratio, struct err *err)
{
    if (x->o->algorithm == GPTQ) {
        struct gptq_report r = {0};
        const struct gptq_opts opts = {.pool = x->c->pool};
        if (gptq_quantize(f, w, rows, g, &opts, q, &r, err))
            return -1;
        *ratio = r.rtn_error > 0 ? r.error / r.rtn_error : NAN;
        x->few_rows += r.few_rows;
        x->by_gram++;
        return 0;
    }
    struct awq_report r = {0};
    if (awq_clip(f, w, rows, g, x->c->pool, q, &r, err))
        return -1;
    *ratio = r.rtn_error > 0 ? r.error / r.rtn_error : NAN;
    return 0;
}

static int make_by_gram(struct job_ctx *x, struct weight_job *job, const struct gram_matrix *g, struct err *err)
{
    const struct block_form *f = &job->plan.form;
    int64_t rows = 0;
    float *w = weight_codes_matrix(&job->plan, &rows, err);
    if (!w)
        return err->code == ERR_MODEL ? fail_at(x, job, err) : -1;
    const size_t blocks = (size_t)(rows * block_count(f));
    struct block_codes q = {malloc((size_t)(rows * f->k)), malloc(blocks * sizeof *q.scale), malloc(blocks)};
    int rc = q.codes && q.scale && q.zero ? 0 : err_set(err, ERR_NOMEM, "out of memory while quantizing");
    job->algorithm = algorithms[x->o->algorithm];
    if (rc == 0 && (rc = run_algorithm(x, f, w, rows, g, &q, &job->error_ratio, err)))
        fail_at(x, job, err);
    if (rc == 0)
        rc = weight_codes_store(&job->plan, w, &q, x->spill, &job->made, err);
    free(q.codes);
    free(q.scale);
    free(q.zero);
    free(w);
    return rc ? rc : say(x, err);
}

/* Every element of a row is one of the vector the product reads. */
static bool gram_fits(const struct weight_job *job, const struct gram_matrix *g)
{
    const struct weight_view *v = &job->plan.view;
    int64_t rows = 1;
    for (int a = 0; a < v->rank; a++)
        rows *= job->plan.row_axes >> a & 1 ? v->dim[a] : 1;
    return g->k == job->plan.form.k && g->groups > 0 && rows % g->groups == 0;
}

static int each_gram(void *arg, uint32_t node, const struct gram_matrix *g, const char *why, struct err *err)
{
    struct job_ctx *x = arg;
    struct weight_job *job = job_of_node(x, node);
    if (!job || job->made.codes.data)
        return 0;
    if (g && gram_fits(job, g))
        return make_by_gram(x, job, g, err);
    job->note = g ? "blocks of this form do not run along what the product reads" : why;
    return 0; /* block by block, with the rest */
}

static int make_with_data(struct job_ctx *x, struct err *err)
{
    const struct gram_job job = {.m = x->c->model,
                                 .data = x->c->data,
                                 .pool = x->c->pool,
                                 .samples = x->o->samples,
                                 .nodes = x->nodes,
                                 .n_nodes = x->n_nodes,
                                 .each = each_gram,
                                 .arg = x};
    x->n_nodes = 0;
    for (int64_t i = 0; i < x->f.n_items; i++) {
        const struct weight_item *item = &x->f.items[i];
        struct weight_job *made = &x->f.jobs[item->job];
        if (item->dropped || made->first != item->node)
            continue;
        const char *why =
            item->slot != 1 ? "its constant operand is on the left" : gram_refusal(x->c->model, item->node);
        if (item->form == WEIGHT_GATHER)
            why = "rows of an embedding are looked up, not multiplied";
        made->note = why;
        if (!why)
            x->nodes[x->n_nodes++] = item->node;
    }
    struct gram_job all = job;
    all.n_nodes = x->n_nodes;
    return x->n_nodes > 0 ? gram_each(&all, err) : 0;
}

static int make_all(struct job_ctx *x, struct err *err)
{
    const bool data = x->o->algorithm == GPTQ || x->o->algorithm == AWQ;
    if (data) {
        x->nodes = calloc((size_t)x->f.n_items + 1, sizeof *x->nodes);
        const int rc = x->nodes ? make_with_data(x, err) : err_set(err, ERR_NOMEM, "out of memory while quantizing");
        free(x->nodes);
        x->nodes = NULL;
        if (rc)
            return -1;
    }
    for (int64_t j = 0; j < x->f.n_jobs; j++)
        if (!x->f.jobs[j].made.codes.data && is_wanted(&x->f, j) &&
            make_blockwise(x, &x->f.jobs[j], data ? HQQ : x->o->algorithm, err))
            return -1;
    return 0;
}

static int rewrite_all(struct job_ctx *x, struct err *err)
{
    for (int64_t i = 0; i < x->f.n_items; i++) {
        struct weight_item *item = &x->f.items[i];
        if (item->dropped)
            row_left(x, item->node, item->dropped);
        else
            row_made(x, item);
    }
    for (int64_t i = 0; i < x->f.n_items; i++)
        if (!x->f.items[i].dropped && forms_rewrite(&x->f, &x->f.items[i], err))
            return -1;
    return 0;
}

/* Another run may take what the first one left, but a model whose activations are quantized is not for this method. */
static int refuse_quantized(struct job_ctx *x, struct err *err)
{
    const uint32_t id = quantized_node(x->c->model);
    const char *type = id == NODE_NONE ? NULL : x->c->model->nodes[id].op_type;
    int64_t wanted = 0;
    for (int64_t i = 0; i < x->f.n_items; i++)
        wanted += !x->f.items[i].dropped;
    if (!type || (wanted > 0 && (!strcmp(type, "MatMulNBits") || !strcmp(type, "GatherBlockQuantized"))))
        return 0;
    return quantized_refuse(x->c->model, "quantize.weights", err);
}

static void warn_widths(struct job_ctx *x)
{
    const int64_t bits = x->o->bits;
    if (bits == 3 || (bits > 4 && bits < 8))
        warnings_add(
            x->c->warnings,
            "%" PRId64
            "-bit codes are stored in %d bits, the next width that runtimes read: the file is as large as with "
            "bits=%d, only better to compress",
            bits, bits < 4 ? 4 : 8, bits < 4 ? 4 : 8);
}

/* With fewer rows than columns the Gram matrix says nothing of most directions (hessian_believe). */
static void warn_few_rows(struct job_ctx *x)
{
    if (x->few_rows)
        warnings_add(x->c->warnings,
                     "%" PRId64 " of %" PRId64
                     " weights met fewer sample rows than they have columns, so gptq follows the data less "
                     "there: more samples would help (samples is %" PRId64 ")",
                     x->few_rows, x->by_gram, x->o->samples);
}

static int quantize(struct job_ctx *x, int64_t opset, struct err *err)
{
    if (begin_plan(x, opset, "its form needs a newer opset than the model could be raised to", true, err))
        return -1;
    int rc = refuse_quantized(x, err);
    if (rc == 0 && !(x->spill = spill_new(err)))
        rc = -1;
    if (rc == 0)
        rc = make_all(x, err);
    if (rc == 0)
        rc = rewrite_all(x, err);
    if (rc == 0)
        rc = edit_finish(&x->edit, err);
    if (rc == 0 && x->f.rounded_inputs)
        warnings_add(x->c->warnings, "ONNX Runtime fuses DequantizeLinear with a scale for each channel and MatMul "
                                     "into a product that rounds its input "
                                     "to 8 bits, unless session.qdq_matmulnbits_accuracy_level is 1; form=auto writes "
                                     "MatMulNBits, which does not");
    spill_free(x->spill);
    end_plan(x);
    return rc;
}

/* AWQ changes the float model first: the matrices that will be quantized. */
static int scale_for_awq(struct job_ctx *x, struct err *err)
{
    struct awq_opts opts = {.samples = x->o->samples};
    int64_t n = 0;
    if (begin_plan(x, INT64_MAX, NULL, false, err))
        return -1;
    uint32_t *nodes = calloc((size_t)x->f.n_items + 1, sizeof *nodes);
    for (int64_t i = 0; nodes && i < x->f.n_items; i++) {
        const struct weight_item *item = &x->f.items[i];
        if (item->dropped || item->form == WEIGHT_GATHER || item->slot != 1 ||
            (!node_is(&x->c->model->nodes[item->node], "MatMul") && !node_is(&x->c->model->nodes[item->node], "Gemm")))
            continue;
        if (n == 0)
            opts.form = x->f.jobs[item->job].plan.form;
        nodes[n++] = item->node;
    }
    end_plan(x);
    opts.nodes = nodes;
    opts.n_nodes = n;
    const int rc = !nodes  ? err_set(err, ERR_NOMEM, "out of memory while quantizing")
                   : n > 0 ? awq_scale(x->c, &opts, err)
                           : 0;
    free(nodes);
    return rc;
}

static int run(struct step_ctx *c, struct err *err)
{
    struct job_ctx x = {.c = c, .o = c->params};
    struct err local = {0};
    int64_t opset;
    if ((x.o->algorithm == GPTQ || x.o->algorithm == AWQ) && !c->data)
        return err_set(
            err, ERR_INVALID,
            "algorithm=%s chooses codes by what the products read, so it needs data; give a dataset, or take "
            "algorithm=hqq, which needs none",
            algorithms[x.o->algorithm]);
    if (settle_opset(&x, &opset, &local) || (x.o->algorithm == AWQ && scale_for_awq(&x, &local)) ||
        quantize(&x, opset, &local))
        return err_set(err, local.code, "%s", local.msg);
    warn_widths(&x);
    warn_few_rows(&x);
    return 0;
}

METHOD(quantize_weights) = {
    .name = "quantize.weights",
    .summary = "weights in 2 to 8 bits with a scale for each block; activations stay in floating point",
    .doc = "Weights of MatMul and Gemm become codes of MatMulNBits, embeddings those of GatherBlockQuantized, and "
           "weights of "
           "Conv, ConvTranspose and what these cannot hold are made by DequantizeLinear. Transposed, cast and shared "
           "weights are taken "
           "where they lie. Memory does not depend on the size of the model.",
    .params = params,
    .params_size = sizeof(struct quantize_weights_params),
    .needs = NEEDS_NOTHING,
    .check = check,
    .run = run,
};
