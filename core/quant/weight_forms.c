/* SPDX-License-Identifier: Apache-2.0
 * weight_forms.c - the form of each operator's weight (weight_forms.h).
 *
 * Block      A larger block needs fewer scales but has a wider range, and the last block of a row is padded in
 *            MatMulNBits. A bit more halves the error, so the cost of a block size in bits a number is its bytes
 *            plus half the logarithm of the squared range to be expected: 2 ln(2 block) for the largest of a block
 *            of normal numbers. The cheapest of 32, 64, 128 is taken: 128 for rows of 128 n, 64 for rows of 64 or
 *            320, 32 for 96.
 * Opset      MatMulNBits and GatherBlockQuantized need none. DequantizeLinear with a scale a channel needs 13 (19 for
 *            scales in half precision), with 4-bit codes or blocks 21. So 8 bits are a scale a channel unless a block
 *            is asked for.
 * Turned     ONNX Runtime fuses DequantizeLinear with blocks along axis 0 and MatMul into a product that rounds the
 *            activations to 8 bits. Codes of a matrix are therefore stored [N, K], blocks along axis 1: Gemm reads
 *            them with transB, MatMul behind a Transpose, which runtimes take into the product. A scale a channel is
 *            moved through the Transpose and fused again, so from opset 21 on it is written as one block a row; below
 *            that there is no such form, and a warning says so. */
#include "core/quant/weight_forms.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/ops/op.h"
#include "core/passes/pass.h"
#include "core/quant/nbits_pack.h"

const char *forms_name(enum weight_form form)
{
    static const char *const names[] = {"MatMulNBits", "GatherBlockQuantized", "DequantizeLinear", "DequantizeLinear"};
    return names[form];
}

int64_t forms_block(int64_t k, int bits, bool symmetric, enum dtype scale_dtype)
{
    const double scale_bits = dtype_bits(scale_dtype), zero_bits = symmetric ? 0 : nbits_stored(bits);
    int64_t best = 32;
    double least = INFINITY;
    for (int64_t block = 32; block <= 128; block *= 2) {
        const double blocks = (double)i64_ceil_div(k, block), n = (double)block;
        const double cost = blocks * (n * nbits_stored(bits) + scale_bits + zero_bits) / (double)k +
                            0.5 * log2(2 * log(2 * fmin(n, (double)k)));
        if (cost < least) {
            least = cost;
            best = block;
        }
    }
    return best;
}

/* ---- planning ---- */
struct planning {
    struct weight_forms *f;
    uint32_t node;
    struct weight_item item;
    struct code_plan plan;
    const char *why;
    struct err *err;
};

static const struct node *node_of(const struct planning *p)
{
    return &p->f->m->nodes[p->node];
}

static bool left(struct planning *p, const char *why)
{
    p->why = why;
    return false;
}

static uint32_t input_of(const struct planning *p, int slot)
{
    const struct node *n = node_of(p);
    return slot < n->n_input ? n->input[slot] : VALUE_NONE;
}

static bool take_view(struct planning *p, int slot, const char *missing)
{
    const uint32_t v = input_of(p, slot);
    if (v == VALUE_NONE || !weight_view_of(p->f->m, v, &p->plan.view))
        return left(p, missing);
    if (p->plan.view.dtype == DTYPE_DOUBLE)
        return left(p, "its weight is in double precision, for which there is no such form");
    p->item.slot = slot;
    return true;
}

static void swap_axes(struct weight_view *v, int a, int b)
{
    const int64_t dim = v->dim[a], stride = v->stride[a];
    v->dim[a] = v->dim[b];
    v->stride[a] = v->stride[b];
    v->dim[b] = dim;
    v->stride[b] = stride;
}

/* Leading axes of 1 go. */
static void squeeze(struct weight_view *v, int to_rank)
{
    const int cut = v->rank - to_rank;
    for (int a = 0; a < to_rank; a++) {
        v->dim[a] = v->dim[a + cut];
        v->stride[a] = v->stride[a + cut];
    }
    v->rank = to_rank;
}

static int64_t product(const struct weight_view *v, unsigned axes)
{
    int64_t n = 1;
    for (int a = 0; a < v->rank; a++)
        n *= axes >> a & 1 ? v->dim[a] : 1;
    return n;
}

/* What all forms share, once the view and its row axes are settled. */
static void fill_form(struct planning *p, unsigned row_axes)
{
    struct code_plan *c = &p->plan;
    const struct quantize_weights_params *o = p->f->o;
    c->row_axes = row_axes;
    c->stored = nbits_stored((int)o->bits);
    c->alpha = c->alpha != 0 ? c->alpha : 1;
    c->inner = 1;
    c->form = (struct block_form){.bits = (int)o->bits,
                                  .k = product(&c->view, ~row_axes),
                                  .symmetric = o->symmetric,
                                  .scale_dtype = c->view.dtype};
}

static void choose_block(struct planning *p)
{
    const struct quantize_weights_params *o = p->f->o;
    struct block_form *form = &p->plan.form;
    form->block = o->has_block ? o->block : forms_block(form->k, form->bits, form->symmetric, form->scale_dtype);
}

static bool plan_nbits(struct planning *p, unsigned row_axes)
{
    struct code_plan *c = &p->plan;
    fill_form(p, row_axes);
    choose_block(p);
    const int64_t rows = product(&c->view, row_axes), blocks = block_count(&c->form);
    if (rows > INT32_MAX || c->form.k > INT32_MAX)
        return left(p, "its weight is too large for MatMulNBits");
    p->item.form = WEIGHT_NBITS;
    c->layout = CODES_BLOBS;
    c->code_dtype = c->zero_dtype = DTYPE_UINT8;
    c->padded_zero = true;
    c->code_shape = SHAPE(rows, blocks, nbits_bytes(c->stored, c->form.block));
    c->scale_shape = SHAPE(rows, blocks);
    c->zero_shape = SHAPE(rows, nbits_bytes(c->stored, blocks));
    return true;
}

/* DequantizeLinear of the view: blocks along `axis`, or one block for each index of `channel`. */
static bool plan_dequantize(struct planning *p, int axis, int channel)
{
    struct code_plan *c = &p->plan;
    const struct quantize_weights_params *o = p->f->o;
    struct weight_view *v = &c->view;
    fill_form(p, ~(1u << axis) & ((1u << v->rank) - 1));
    choose_block(p);
    c->stored = o->bits <= 4 ? 4 : 8;
    const bool blocked = (o->has_block || o->bits <= 4) && c->form.k > c->form.block;
    if (!blocked) {
        fill_form(p, 1u << channel);
        c->stored = o->bits <= 4 ? 4 : 8;
        c->form.block = c->form.k;
    }
    c->centered = o->symmetric;
    c->code_dtype =
        c->stored == 4 ? (o->symmetric ? DTYPE_INT4 : DTYPE_UINT4) : (o->symmetric ? DTYPE_INT8 : DTYPE_UINT8);
    c->zero_dtype = c->code_dtype;
    c->code_shape.rank = v->rank;
    memcpy(c->code_shape.dim, v->dim, sizeof v->dim);
    if (blocked) {
        c->scale_shape = c->code_shape;
        c->scale_shape.dim[axis] = block_count(&c->form);
        for (int a = axis + 1; a < v->rank; a++)
            c->inner *= v->dim[a];
    } else {
        c->scale_shape = SHAPE(v->dim[channel]);
    }
    c->zero_shape = c->scale_shape;
    const bool rows_last = c->row_axes == (1u << (v->rank - 1)) - 1 || (!blocked && channel == 0);
    c->layout = rows_last && c->form.k * c->stored % 8 == 0 ? CODES_ROWS : CODES_PLANE;
    p->item.opset = blocked || c->stored == 4 ? 21 : v->dtype != DTYPE_FLOAT ? 19 : 13;
    if (p->item.opset > p->f->opset)
        return left(p, p->f->opset_why);
    return true;
}

/* [K, N] of a product y = x W, or [N, K]: by the axis that is summed over. */
static bool plan_turned(struct planning *p, int sum_axis)
{
    if (sum_axis == 0)
        swap_axes(&p->plan.view, 0, 1);
    p->item.form = sum_axis == 0 ? WEIGHT_DEQUANTIZE_TURNED : WEIGHT_DEQUANTIZE;
    if (!plan_dequantize(p, 1, 0))
        return false;
    if (node_is(node_of(p), "MatMul") && p->plan.scale_shape.rank == 1) {
        if (p->item.opset == 21 || model_opset(p->f->m, "") >= 21)
            p->plan.scale_shape = p->plan.zero_shape = SHAPE(p->plan.view.dim[0], 1);
        else
            p->f->rounded_inputs = true;
    }
    return true;
}

static bool dtype_fits(struct planning *p, int slot)
{
    const enum dtype d = infer_dtype_of(p->f->infer, input_of(p, slot));
    return d == DTYPE_NONE || d == p->plan.view.dtype ? true : left(p, "its input and its weight differ in type");
}

/* MatMul, and FusedMatMul, whose B may be turned. */
static bool plan_matmul(struct planning *p)
{
    const struct node *n = node_of(p);
    const bool fused = !node_is(n, "MatMul");
    const bool turned = fused && node_attr_int(n, "transB", 0) != 0;
    const float alpha = fused ? node_attr_float(n, "alpha", 1) : 1;
    struct weight_view *v = &p->plan.view;
    if (!take_view(p, 1, "its weight is not a constant") &&
        !(!fused && take_view(p, 0, "its weight is not a constant")))
        return false;
    p->why = NULL;
    const int last = v->rank - 1;
    if (v->rank < 2)
        return left(p, "its weight is a vector");
    if (!dtype_fits(p, 1 - p->item.slot))
        return false;
    if (p->item.slot == 0) { /* W x: sums run along the last axis */
        if (p->f->o->form == FORM_NBITS)
            return left(p, "its constant operand is on the left, which MatMulNBits cannot be");
        p->item.form = WEIGHT_DEQUANTIZE;
        return plan_dequantize(p, last, last - 1);
    }
    if (fused && (node_attr_int(n, "transA", 0) != 0 || node_attr_int(n, "transBatchA", 0) != 0 ||
                  node_attr_int(n, "transBatchB", 0) != 0 || !isfinite(alpha) || alpha == 0))
        return left(p, "it transposes its input, or scales by 0");
    const int rank = infer_rank_of(p->f->infer, input_of(p, 0)), sum_axis = turned ? last : last - 1;
    const bool matrix = product(v, 3u << (last - 1)) == product(v, ~0u);
    const bool same_rank = v->rank == 2 ? rank != 1 && rank != 0 : rank >= v->rank;
    if (matrix && same_rank && p->f->o->form != FORM_DEQUANTIZE) {
        p->plan.alpha = alpha;
        squeeze(v, 2);
        return plan_nbits(p, turned ? 1u : 2u);
    }
    if (p->f->o->form == FORM_NBITS)
        return left(p, "its weight is not one matrix, or its input's rank is not known to be as high");
    if (fused || v->rank > 2) {
        p->item.form = WEIGHT_DEQUANTIZE;
        return plan_dequantize(p, sum_axis, turned ? last - 1 : last);
    }
    return plan_turned(p, 0);
}

/* A bias MatMulNBits can take: none, [N] as it is, or a constant that becomes [N]. */
static bool bias_fits(struct planning *p, int64_t n)
{
    const struct node *node = node_of(p);
    const uint32_t c = input_of(p, 2);
    if (c == VALUE_NONE)
        return true;
    const struct tensor *t = value_const(p->f->m, c);
    const struct shape *s = t ? &t->shape : infer_shape_of(p->f->infer, c);
    const bool vector = s->rank == 1 && s->dim[0] == n && node_attr_float(node, "beta", 1) == 1;
    if (vector && (t ? t->dtype : infer_dtype_of(p->f->infer, c)) == p->plan.view.dtype)
        return true;
    if (!t || !t->data || t->dtype != p->plan.view.dtype || s->rank < 0)
        return false;
    for (int a = 0; a + 1 < s->rank; a++)
        if (s->dim[a] != 1)
            return false;
    p->item.new_bias = true;
    return s->rank == 0 || s->dim[s->rank - 1] == 1 || s->dim[s->rank - 1] == n;
}

static bool plan_gemm(struct planning *p)
{
    const struct node *n = node_of(p);
    const bool turned = node_attr_int(n, "transB", 0) != 0;
    const float alpha = node_attr_float(n, "alpha", 1);
    const struct weight_view *v = &p->plan.view;
    if (!take_view(p, 1, "its weight is not a constant") || !dtype_fits(p, 0))
        return false;
    if (v->rank != 2)
        return left(p, "its weight is not a matrix");
    const int64_t columns = v->dim[turned ? 0 : 1];
    if (p->f->o->form != FORM_DEQUANTIZE && node_attr_int(n, "transA", 0) == 0 && isfinite(alpha) && alpha != 0 &&
        bias_fits(p, columns)) {
        p->plan.alpha = alpha;
        return plan_nbits(p, turned ? 1u : 2u);
    }
    if (p->f->o->form == FORM_NBITS)
        return left(p, "MatMulNBits cannot do what it does (transA, or a bias that is not a vector)");
    p->item.new_bias = false;
    return plan_turned(p, turned ? 1 : 0);
}

static bool plan_conv(struct planning *p)
{
    const bool transposed = node_is(node_of(p), "ConvTranspose");
    if (!take_view(p, 1, "its weight is not a constant") || !dtype_fits(p, 0))
        return false;
    if (p->f->o->form == FORM_NBITS)
        return left(p, "MatMulNBits has no convolution; form=auto or form=dequantize takes it");
    if (p->plan.view.rank < 3)
        return left(p, "its weight has fewer than 3 axes");
    p->item.form = WEIGHT_DEQUANTIZE;
    return plan_dequantize(p, transposed ? 0 : 1, transposed ? 1 : 0);
}

static bool plan_gather(struct planning *p)
{
    struct code_plan *c = &p->plan;
    const struct quantize_weights_params *o = p->f->o;
    const struct weight_view *v = &c->view;
    if (!take_view(p, 0, "its table is not a constant"))
        return false;
    if (v->rank != 2 || node_attr_int(node_of(p), "axis", 0) != 0)
        return left(p, "only rows of a matrix can be looked up in blocks");
    if (o->form == FORM_DEQUANTIZE)
        return left(p, "form=dequantize would turn the whole table into floats at each run");
    fill_form(p, 1u);
    choose_block(p);
    const int64_t rows = v->dim[0], k = v->dim[1], blocks = block_count(&c->form);
    const bool nibbles = c->stored == 4, whole = k * c->stored % 8 == 0;
    if (!nibbles && !whole)
        return left(p, "rows of 2-bit codes must be whole bytes");
    p->item.form = WEIGHT_GATHER;
    c->layout = whole ? CODES_ROWS : CODES_PLANE;
    c->centered = nibbles && o->symmetric;
    c->padded_zero = !nibbles;
    c->code_dtype = c->zero_dtype = !nibbles ? DTYPE_UINT8 : o->symmetric ? DTYPE_INT4 : DTYPE_UINT4;
    c->code_shape = nibbles ? SHAPE(rows, k) : SHAPE(rows, nbits_bytes(c->stored, k));
    c->scale_shape = SHAPE(rows, blocks);
    c->zero_shape = nibbles ? SHAPE(rows, blocks) : SHAPE(rows, nbits_bytes(c->stored, blocks));
    return true;
}

static const struct {
    const char *op_type, *domain;
    bool (*plan)(struct planning *p);
} kinds[] = {
    {"MatMul", "", plan_matmul},      {"FusedMatMul", "com.microsoft", plan_matmul},
    {"Gemm", "", plan_gemm},          {"Conv", "", plan_conv},
    {"ConvTranspose", "", plan_conv}, {"Gather", "", plan_gather},
};

static const struct op_class *class_of(const struct model *m, const struct node *n)
{
    const char *domain = n->domain ? n->domain : "";
    return op_find(n->op_type, domain, model_opset(m, domain));
}

static bool (*kind_of(const struct node *n))(struct planning *)
{
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const bool domain =
            kinds[i].domain[0] ? n->domain && !strcmp(n->domain, kinds[i].domain) : model_domain_is_default(n->domain);
        if (domain && !strcmp(n->op_type, kinds[i].op_type))
            return kinds[i].plan;
    }
    return NULL;
}

/* Grown by doubling; *at stays valid on failure. */
static bool room(void **at, int64_t n, int64_t *cap, size_t size)
{
    if (n < *cap)
        return true;
    const int64_t more = *cap ? *cap * 2 : 16;
    void *grown = realloc(*at, (size_t)more * size);
    if (!grown)
        return false;
    *at = grown;
    *cap = more;
    return true;
}

static int add_item(struct planning *p)
{
    struct weight_forms *f = p->f;
    int64_t job = 0;
    while (job < f->n_jobs && !code_plan_equal(&f->jobs[job].plan, &p->plan))
        job++;
    if (!room((void **)&f->items, f->n_items, &f->cap_items, sizeof *f->items) ||
        !room((void **)&f->jobs, f->n_jobs, &f->cap_jobs, sizeof *f->jobs))
        return err_set(p->err, ERR_NOMEM, "out of memory while quantizing");
    if (job == f->n_jobs)
        f->jobs[f->n_jobs++] = (struct weight_job){.plan = p->plan,
                                                   .first = p->node,
                                                   .codes = VALUE_NONE,
                                                   .scale = VALUE_NONE,
                                                   .zero = VALUE_NONE,
                                                   .floats = VALUE_NONE,
                                                   .turned = VALUE_NONE};
    p->item.job = job;
    p->item.node = p->node;
    f->items[f->n_items++] = p->item;
    return 0;
}

bool forms_plan_node(struct weight_forms *f, uint32_t node, const char **why, struct err *err)
{
    struct planning p = {.f = f, .node = node, .err = err};
    const struct node *n = node_of(&p);
    const struct op_class *op = class_of(f->m, n);
    bool (*plan)(struct planning *) = kind_of(n);
    *why = NULL;
    if (!plan) {
        *why = "there is no form with weights of few bits for this operator";
        return op && op->quant.kind == QUANT_COMPUTE && op->quant.weight > 0;
    }
    struct weight_view table;
    if (plan == plan_gather && (n->n_input < 1 || !weight_view_of(f->m, n->input[0], &table)))
        return false;
    if (!plan(&p)) {
        *why = p.why;
        return true;
    }
    size_t before = p.plan.view.stored->bytes, after = code_plan_bytes(&p.plan);
    if (after >= before)
        *why = "its codes and scales would not be smaller than the weight";
    else if (add_item(&p))
        return true; /* err says it */
    return true;
}

/* ---- weights that stay as floats anyway ---- */
static const struct weight_item *item_of(const struct weight_forms *f, uint32_t node, int slot)
{
    for (int64_t i = 0; i < f->n_items; i++) /* few: only for weights with several readers */
        if (f->items[i].node == node && f->items[i].slot == slot && !f->items[i].dropped)
            return &f->items[i];
    return NULL;
}

static bool passes_weight_on(const struct node *n)
{
    return node_is(n, "Identity") || node_is(n, "Transpose") || node_is(n, "Cast");
}

static bool read_as_floats(const struct weight_forms *f, uint32_t value, int depth)
{
    const struct reader_list *l = edit_readers(f->edit, value);
    for (int i = 0; i < l->count; i++) {
        const uint32_t node = l->at[i].node;
        if (node == NODE_NONE || depth > 64)
            return true;
        if (item_of(f, node, l->at[i].slot))
            continue;
        const struct node *n = &f->m->nodes[node];
        if (!passes_weight_on(n) || n->n_output < 1 || read_as_floats(f, n->output[0], depth + 1))
            return true;
    }
    return false;
}

int forms_settle(struct weight_forms *f, struct err *err)
{
    (void)err;
    for (bool again = true; again;) {
        again = false;
        for (int64_t i = 0; i < f->n_items; i++) {
            struct weight_item *item = &f->items[i];
            if (item->dropped || !read_as_floats(f, f->jobs[item->job].plan.view.source, 0))
                continue;
            item->dropped = "its weight is read as floats elsewhere too, so that the file would grow";
            again = true;
        }
    }
    return 0;
}

void forms_fini(struct weight_forms *f)
{
    for (int64_t i = 0; i < f->n_jobs; i++)
        weight_codes_fini(&f->jobs[i].made);
    free(f->jobs);
    free(f->items);
}
