/* SPDX-License-Identifier: Apache-2.0
 * Every row with a backward function, on every sample: the gradient of sum(r * y) for random r against central
 * differences in float64. Further: gradients are added; only what grad_reads names is read; absent grad_in and grad_out
 * are heeded; `assign` writes; float32 agrees; the thread count changes nothing. Coordinates at a kink, where the two
 * one-sided differences part, are skipped, but most of a row's must count. */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "tests/op_case.h"

enum { COORDINATES = 48, DIRECTIONS = 3, MAX_BLOCKS = 256 };
static const double STEP = 1e-4, TOLERANCE = 1e-6;

/* ---- a host of one node: each block has its exact size, so that sanitizers see every step beyond ---- */
struct host {
    void *block[MAX_BLOCKS];
    int n;
};

static void *host_block(struct host *h, size_t bytes, struct err *err)
{
    if (h->n == MAX_BLOCKS) {
        err_set(err, ERR_NOMEM, "the test has only %d blocks of scratch", (int)MAX_BLOCKS);
        return NULL;
    }
    const size_t room = (bytes + 63) / 64 * 64;
    char *data = aligned_alloc(64, room ? room : 64);
    assert_non_null(data);
    memset(data, 0xa5, room ? room : 64);
    return h->block[h->n++] = data;
}

static void host_release(struct host *h)
{
    for (int i = 0; i < h->n; i++)
        free(h->block[i]);
    h->n = 0;
}

void *run_scratch(struct run_ctx *c, size_t bytes, struct err *err)
{
    return host_block(c->host, bytes, err);
}

void *run_save(struct run_ctx *c, size_t bytes, struct err *err)
{
    return *c->saved = host_block((struct host *)c->host + 1, bytes, err);
}

void *grad_scratch(struct grad_ctx *c, size_t bytes, struct err *err)
{
    return host_block(c->host, bytes, err);
}

int run_alloc(struct run_ctx *c, int i, enum dtype dtype, const struct shape *shape, struct err *err)
{
    struct tensor *t = run_out(c, i);
    if (!t)
        return 0;
    tensor_fini(t);
    return tensor_alloc(t, dtype, shape, err);
}

int run_graph(struct run_ctx *c, uint32_t graph, const struct tensor *const *in, int n_in, struct tensor *out,
              int n_out, struct err *err)
{
    (void)c, (void)graph, (void)in, (void)n_in, (void)out, (void)n_out;
    return err_set(err, ERR_OPERATOR, "nested graphs are not run here");
}

int infer_nested(struct infer_ctx *c, uint32_t graph, const struct type *in, int n_in, struct type *out, int n_out,
                 struct err *err)
{
    (void)c, (void)graph, (void)in, (void)n_in, (void)out, (void)n_out;
    return err_set(err, ERR_OPERATOR, "nested graphs are not run here");
}

void run_take(struct run_ctx *c, int i, struct tensor *t)
{
    (void)c, (void)i;
    tensor_fini(t);
}

int run_give(struct run_ctx *c, int i, struct tensor *t, struct err *err)
{
    (void)c, (void)i;
    tensor_fini(t);
    return err_set(err, ERR_OPERATOR, "only tensors are run here");
}

int run_stats(struct run_ctx *c, const struct batch_stats *stats, struct err *err)
{
    (void)c, (void)stats, (void)err;
    return 0;
}

void run_drop(struct run_ctx *c, struct tensor *t)
{
    (void)c;
    tensor_fini(t);
}

/* ---- one sample in one float type ---- */
struct trial {
    const struct op_class *op;
    const struct op_sample *sample;
    struct op_case c;
    struct arena *arena;
    void *attrs;
    bool training;
    struct tensor in[OP_CASE_INPUTS], out[OP_CASE_OUTPUTS], seed[OP_CASE_OUTPUTS];
    struct host host[2]; /* scratch of a call; what forward saved */
    void *saved;
    struct pool *pool;
};

#define PLACE_FMT "%s since %d, sample '%s' '%s': "
#define PLACE(t) (t)->op->type, (t)->op->since, (t)->sample->inputs, (t)->sample->attrs ? (t)->sample->attrs : ""

static bool reads(const struct trial *t, int bit, int i)
{
    return t->op->grad_reads & (1u << (bit + (i < 15 ? i : 15)));
}

static bool differentiable(const struct trial *t, int i)
{
    return !t->c.absent[i] && dtype_is_float(t->c.in[i].dtype) && t->op->grad_inputs & (1u << (i < 31 ? i : 31));
}

static void clear_outputs(struct trial *t)
{
    for (int k = 0; k < t->c.n_out; k++)
        tensor_fini(&t->out[k]);
    host_release(&t->host[1]);
    t->saved = NULL;
}

static int infer_outputs(struct trial *t, const struct tensor *const *in, struct err *err)
{
    struct type types[OP_CASE_INPUTS], out[OP_CASE_OUTPUTS];
    const struct type *ptr[OP_CASE_INPUTS];
    for (int i = 0; i < t->c.n_in; i++) {
        types[i] = (struct type){.kind = TYPE_TENSOR, .dtype = t->in[i].dtype, .has_dtype = true, .has_shape = true,
                                 .shape = t->in[i].shape};
        ptr[i] = in[i] ? &types[i] : NULL;
    }
    for (int k = 0; k < t->c.n_out; k++)
        out[k] = (struct type){.kind = TYPE_TENSOR, .shape = SHAPE_UNKNOWN};
    struct infer_ctx c = {.node = &t->c.m->nodes[t->c.node], .attrs = t->attrs, .opset = t->c.opset,
                          .n_in = t->c.n_in, .n_out = t->c.n_out, .in = ptr, .in_value = in, .out = out,
                          .arena = t->arena};
    if (t->op->infer(&c, err) < 0)
        return -1;
    for (int k = 0; k < t->c.n_out; k++)
        if (out[k].dtype != DTYPE_NONE && shape_known(&out[k].shape) &&
            tensor_alloc(&t->out[k], out[k].dtype, &out[k].shape, err) < 0)
            return -1;
    return 0;
}

static int forward(struct trial *t, struct err *err)
{
    const struct tensor *in[OP_CASE_INPUTS];
    struct tensor *out[OP_CASE_OUTPUTS];
    clear_outputs(t);
    for (int i = 0; i < t->c.n_in; i++)
        in[i] = t->c.absent[i] ? NULL : &t->in[i];
    for (int k = 0; k < t->c.n_out; k++)
        out[k] = &t->out[k];
    if (infer_outputs(t, in, err) < 0)
        return -1;
    struct run_ctx c = {.node = &t->c.m->nodes[t->c.node], .attrs = t->attrs, .opset = t->c.opset, .n_in = t->c.n_in,
                        .n_out = t->c.n_out, .in = in, .out = out, .pool = t->pool, .host = t->host,
                        .training = t->training, .saved = &t->saved};
    const int rc = t->op->forward(&c, err);
    host_release(&t->host[0]);
    return rc;
}

static void trial_free(struct trial *t)
{
    clear_outputs(t);
    for (int k = 0; k < t->c.n_out; k++)
        tensor_fini(&t->seed[k]);
    for (int i = 0; i < t->c.n_in; i++)
        tensor_fini(&t->in[i]);
    arena_free(t->arena);
    op_case_free(&t->c);
}

/* Inputs in the type: all floats, or (some operators want others to stay) only the differentiable ones. */
static void fill_inputs(struct trial *t, enum dtype dtype, bool all)
{
    struct err err = {0};
    for (int i = 0; i < t->c.n_in; i++) {
        tensor_fini(&t->in[i]);
        if (t->c.absent[i])
            continue;
        const bool convert = dtype_is_float(t->c.in[i].dtype) && (all || differentiable(t, i));
        const int rc = tensor_convert(&t->in[i], &t->c.in[i], convert ? dtype : t->c.in[i].dtype, &err);
        if (rc < 0)
            fail_msg(PLACE_FMT "%s", PLACE(t), err.msg);
    }
}

/* Built, run once, with seeds. False: nothing differentiable in this sample. */
static bool trial_start(struct trial *t, const struct op_class *op, const struct op_sample *s, enum dtype dtype,
                        bool training, struct pool *pool)
{
    struct err err = {0};
    struct rng rng;
    bool any_in = false, any_out = false;
    *t = (struct trial){.op = op, .sample = s, .training = training, .pool = pool};
    t->arena = arena_new();
    t->attrs = arena_alloc(t->arena, op->attrs_size + 1);
    if (op_case_build(&t->c, op, s, &err) < 0 ||
        op_parse_attrs(op, t->c.m, &t->c.m->nodes[t->c.node], t->attrs, t->arena, &err) < 0)
        fail_msg(PLACE_FMT "%s", PLACE(t), err.msg);
    for (int i = 0; i < t->c.n_in; i++)
        any_in = any_in || (differentiable(t, i) && tensor_count(&t->c.in[i]) > 0);
    if (!any_in)
        return false;
    fill_inputs(t, dtype, true);
    if (forward(t, &err) < 0) {
        err = (struct err){0};
        fill_inputs(t, dtype, false);
        if (forward(t, &err) < 0)
            fail_msg(PLACE_FMT "in %s: %s", PLACE(t), dtype_name(dtype), err.msg);
    }
    rng_init(&rng, 7, 0);
    for (int k = 0; k < t->c.n_out; k++) {
        const enum dtype out = t->out[k].dtype;
        if (out != DTYPE_DOUBLE && (out != DTYPE_FLOAT || dtype == DTYPE_DOUBLE))
            continue; /* rounded to less than float64, differences say nothing */
        any_out = any_out || tensor_count(&t->out[k]) > 0;
        assert_int_equal(tensor_alloc(&t->seed[k], out, &t->out[k].shape, &err), 0);
        for (int64_t j = 0; j < tensor_count(&t->out[k]); j++)
            dtype_set(out, t->seed[k].data, j, rng_uniform(&rng) * 2 - 1);
    }
    return any_out;
}

/* ---- backward ---- */
enum { ALL = -1, NONE = -2 };
struct request {
    int input, output; /* ALL, NONE or one of them */
    bool assign;
    double before; /* what the gradients hold already */
};

static bool picked(int wanted, int i)
{
    return wanted == ALL || wanted == i;
}

/* Fill grad[] as asked; tensors are made here. */
static int try_backward(struct trial *t, const struct request *q, struct tensor *grad, struct err *err)
{
    struct tensor in[OP_CASE_INPUTS], out[OP_CASE_OUTPUTS], *grad_in[OP_CASE_INPUTS] = {NULL};
    const struct tensor *in_ptr[OP_CASE_INPUTS], *out_ptr[OP_CASE_OUTPUTS], *grad_out[OP_CASE_OUTPUTS] = {NULL};
    bool assign[OP_CASE_INPUTS];
    for (int i = 0; i < t->c.n_in; i++) {
        in[i] = t->in[i];
        in[i].data = reads(t, 0, i) ? in[i].data : NULL;
        in_ptr[i] = t->c.absent[i] ? NULL : &in[i];
        assign[i] = q->assign;
        grad[i] = (struct tensor){0};
        if (!differentiable(t, i) || !picked(q->input, i))
            continue;
        assert_int_equal(tensor_alloc(&grad[i], t->in[i].dtype, &t->in[i].shape, err), 0);
        for (int64_t j = 0; j < tensor_count(&grad[i]); j++)
            dtype_set(grad[i].dtype, grad[i].data, j, q->before);
        grad_in[i] = &grad[i];
    }
    for (int k = 0; k < t->c.n_out; k++) {
        out[k] = t->out[k];
        out[k].data = reads(t, 16, k) ? out[k].data : NULL;
        out_ptr[k] = &out[k];
        grad_out[k] = t->seed[k].dtype != DTYPE_NONE && picked(q->output, k) ? &t->seed[k] : NULL;
    }
    struct grad_ctx c = {.node = &t->c.m->nodes[t->c.node], .attrs = t->attrs, .opset = t->c.opset, .n_in = t->c.n_in,
                         .n_out = t->c.n_out, .in = in_ptr, .out = out_ptr, .grad_out = grad_out, .grad_in = grad_in,
                         .assign = assign, .pool = t->pool, .host = t->host,
                         .training = t->training, .saved = t->saved};
    const int rc = t->op->backward(&c, err);
    host_release(&t->host[0]);
    return rc;
}

static void backward(struct trial *t, const struct request *q, struct tensor *grad)
{
    struct err err = {0};
    if (try_backward(t, q, grad, &err) < 0)
        fail_msg(PLACE_FMT "backward: %s", PLACE(t), err.msg);
}

static void drop_all(struct trial *t, struct tensor *grad)
{
    for (int i = 0; i < t->c.n_in; i++)
        tensor_fini(&grad[i]);
}

/* Outputs through which the row says that no gradient passes (Mean of LayerNormalization) get no seed. */
static void drop_refused(struct trial *t)
{
    struct tensor grad[OP_CASE_INPUTS];
    for (int k = 1; k < t->c.n_out; k++) {
        struct err err = {0};
        if (t->seed[k].dtype == DTYPE_NONE)
            continue;
        if (try_backward(t, &(struct request){ALL, k, false, 0}, grad, &err) < 0 &&
            err.code == ERR_OPERATOR)
            tensor_fini(&t->seed[k]);
        drop_all(t, grad);
    }
}

static double at(const struct tensor *t, int64_t j)
{
    return dtype_get(t->dtype, t->data, j);
}

static double largest(const struct tensor *t)
{
    double most = 1;
    for (int64_t j = 0; j < tensor_count(t); j++)
        most = isfinite(at(t, j)) ? fmax(most, fabs(at(t, j))) : most;
    return most;
}

static bool differs(double right, double got, double tol)
{
    return isfinite(right) ? !(fabs(right - got) <= tol) : isnan(right) ? !isnan(got) : right != got;
}

/* a + offset is b for the inputs that b has. */
static void expect_same(struct trial *t, const struct tensor *a, const struct tensor *b, double offset, double tol,
                        const char *what)
{
    for (int i = 0; i < t->c.n_in; i++) {
        if (b[i].dtype == DTYPE_NONE || a[i].dtype == DTYPE_NONE)
            continue;
        const double most = largest(&a[i]);
        for (int64_t j = 0; j < tensor_count(&b[i]); j++)
            if (differs(at(&a[i], j) + offset, at(&b[i], j), tol * most))
                fail_msg(PLACE_FMT "%s: dL/d(input %d)[%lld] is %.9g, should be %.9g", PLACE(t), what, i, (long long)j,
                         at(&b[i], j), at(&a[i], j) + offset);
    }
}

/* The rules of the contract, given the right gradients. */
static void check_contract(struct trial *t, const struct tensor *right)
{
    struct tensor grad[OP_CASE_INPUTS], sum[OP_CASE_INPUTS];
    backward(t, &(struct request){ALL, ALL, false, 0.625}, grad);
    expect_same(t, right, grad, 0.625, 1e-9, "gradients are added");
    drop_all(t, grad);
    for (int i = 0; i < t->c.n_in; i++) {
        backward(t, &(struct request){i, ALL, false, 0}, grad);
        expect_same(t, right, grad, 0, 1e-9, "wanted alone");
        drop_all(t, grad);
    }
    backward(t, &(struct request){ALL, NONE, false, 0}, sum);
    for (int k = 0; k < t->c.n_out; k++) {
        if (t->seed[k].dtype == DTYPE_NONE)
            continue;
        backward(t, &(struct request){ALL, k, t->op->grad_assigns, t->op->grad_assigns ? NAN : 0}, grad);
        for (int i = 0; i < t->c.n_in; i++)
            for (int64_t j = 0; grad[i].dtype != DTYPE_NONE && j < tensor_count(&grad[i]); j++)
                dtype_set(sum[i].dtype, sum[i].data, j, at(&sum[i], j) + at(&grad[i], j));
        drop_all(t, grad);
    }
    expect_same(t, right, sum, 0, 1e-9, "outputs one by one");
    drop_all(t, sum);
    if (!t->op->grad_assigns)
        return;
    backward(t, &(struct request){ALL, ALL, true, NAN}, grad);
    expect_same(t, right, grad, 0, 1e-9, "written where assign is set");
    drop_all(t, grad);
}

/* ---- differences ---- */
static double loss(struct trial *t)
{
    struct err err = {0};
    double sum = 0;
    if (forward(t, &err) < 0)
        return NAN;
    for (int k = 0; k < t->c.n_out; k++)
        for (int64_t j = 0; t->seed[k].dtype != DTYPE_NONE && j < tensor_count(&t->seed[k]); j++)
            sum += at(&t->seed[k], j) * at(&t->out[k], j);
    return sum;
}

struct moves { /* a step of 1 adds these to the inputs */
    const struct tensor *base;
    struct tensor by[OP_CASE_INPUTS];
};

static double loss_at(struct trial *t, const struct moves *m, double step)
{
    for (int i = 0; i < t->c.n_in; i++)
        for (int64_t j = 0; m->by[i].dtype != DTYPE_NONE && j < tensor_count(&m->by[i]); j++)
            ((double *)t->in[i].data)[j] = ((const double *)m->base[i].data)[j] + step * at(&m->by[i], j);
    return loss(t);
}

/* The derivative along a move, of fourth order. False at a kink or where the function ends. */
static bool derivative(struct trial *t, const struct moves *m, double *d)
{
    const double h = STEP, f0 = loss_at(t, m, 0), a = loss_at(t, m, h), b = loss_at(t, m, -h);
    const double a2 = loss_at(t, m, 2 * h), b2 = loss_at(t, m, -2 * h);
    const double right = (a - f0) / h, left = (f0 - b) / h, wide = (a2 - b2) / (4 * h), near = (a - b) / (2 * h);
    const double scale = fmax(1, fmax(fabs(right), fabs(left)));
    loss_at(t, m, 0);
    *d = (4 * near - wide) / 3;
    return isfinite(*d) && fabs(right - left) <= 0.02 * scale && fabs(near - wide) <= 1e-4 * scale;
}

struct tally {
    int64_t checked, coordinates;
};

static void check_coordinates(struct trial *t, struct moves *m, const struct tensor *grad, int i, struct rng *rng,
                              struct tally *tally)
{
    struct err err = {0};
    const int64_t n = tensor_count(&t->in[i]);
    const double most = largest(&grad[i]);
    assert_int_equal(tensor_alloc(&m->by[i], DTYPE_DOUBLE, &t->in[i].shape, &err), 0);
    double *by = m->by[i].data;
    for (int64_t k = 0; k < n && k < COORDINATES; k++) {
        const int64_t j = n <= COORDINATES ? k : (int64_t)rng_below(rng, (uint64_t)n);
        double d;
        by[j] = 1;
        const bool smooth = derivative(t, m, &d);
        by[j] = 0;
        tally->coordinates++;
        if (!smooth)
            continue;
        tally->checked++;
        if (differs(d, at(&grad[i], j), TOLERANCE * most))
            fail_msg(PLACE_FMT "dL/d(input %d)[%lld] is %.9g, the difference quotient %.9g", PLACE(t), i, (long long)j,
                     at(&grad[i], j), d);
    }
    loss_at(t, m, 0);
    tensor_fini(&m->by[i]);
}

static void check_directions(struct trial *t, struct moves *m, const struct tensor *grad, struct rng *rng)
{
    struct err err = {0};
    for (int k = 0; k < DIRECTIONS; k++) {
        double expected = 0, d, most = 1;
        for (int i = 0; i < t->c.n_in; i++) {
            if (grad[i].dtype == DTYPE_NONE)
                continue;
            assert_int_equal(tensor_alloc(&m->by[i], DTYPE_DOUBLE, &t->in[i].shape, &err), 0);
            for (int64_t j = 0; j < tensor_count(&grad[i]); j++) {
                const double v = rng_uniform(rng) * 2 - 1;
                ((double *)m->by[i].data)[j] = v;
                expected += v * at(&grad[i], j);
                most += fabs(v * at(&grad[i], j));
            }
        }
        if (derivative(t, m, &d) && differs(d, expected, TOLERANCE * most))
            fail_msg(PLACE_FMT "along a random direction the gradient is %.9g, the difference quotient %.9g", PLACE(t),
                     expected, d);
        loss_at(t, m, 0);
        for (int i = 0; i < t->c.n_in; i++)
            tensor_fini(&m->by[i]);
    }
}

static void check_differences(struct trial *t, const struct tensor *grad, struct tally *tally)
{
    struct err err = {0};
    struct tensor base[OP_CASE_INPUTS] = {{0}};
    struct moves m = {.base = base};
    struct rng rng;
    rng_init(&rng, 11, 0);
    for (int i = 0; i < t->c.n_in; i++)
        if (grad[i].dtype != DTYPE_NONE)
            assert_int_equal(tensor_copy(&base[i], &t->in[i], &err), 0);
    for (int i = 0; i < t->c.n_in; i++)
        if (grad[i].dtype != DTYPE_NONE)
            check_coordinates(t, &m, grad, i, &rng, tally);
    check_directions(t, &m, grad, &rng);
    for (int i = 0; i < t->c.n_in; i++)
        tensor_fini(&base[i]);
}

/* ---- samples ---- */
/* The same sample again in float32, or with threads. */
static void check_again(const struct trial *first, const struct tensor *right, enum dtype dtype, struct pool *pool,
                        double tol, const char *what)
{
    struct trial t;
    struct tensor grad[OP_CASE_INPUTS];
    if (!trial_start(&t, first->op, first->sample, dtype, first->training, pool))
        fail_msg(PLACE_FMT "%s: no output carries a gradient", PLACE(first), what);
    for (int k = 0; k < t.c.n_out; k++)
        for (int64_t j = 0; t.seed[k].dtype != DTYPE_NONE && j < tensor_count(&t.seed[k]); j++)
            dtype_set(t.seed[k].dtype, t.seed[k].data, j,
                      first->seed[k].dtype != DTYPE_NONE ? at(&first->seed[k], j) : 0);
    drop_refused(&t);
    backward(&t, &(struct request){ALL, ALL, false, 0}, grad);
    expect_same(&t, right, grad, 0, tol, what);
    drop_all(&t, grad);
    trial_free(&t);
}

static void check_sample(const struct op_class *op, const struct op_sample *s, bool training, struct pool *pool,
                         struct tally *tally)
{
    struct trial t;
    struct tensor grad[OP_CASE_INPUTS];
    if (trial_start(&t, op, s, DTYPE_DOUBLE, training, NULL)) {
        drop_refused(&t);
        backward(&t, &(struct request){ALL, ALL, false, 0}, grad);
        check_differences(&t, grad, tally);
        check_contract(&t, grad);
        check_again(&t, grad, DTYPE_DOUBLE, pool, 0, "with two threads");
        check_again(&t, grad, DTYPE_FLOAT, NULL, 1e-4, "in float32");
        drop_all(&t, grad);
    }
    trial_free(&t);
}

static void check_row(const struct op_class *op, struct pool *pool)
{
    struct tally tally = {0};
    for (const struct op_sample *s = op->samples; s && s->inputs; s++)
        for (int training = 0; training < (op->nondeterministic ? 1 : 2); training++)
            check_sample(op, s, training, pool, &tally);
    if (!op->grad_inputs)
        fail_msg("%s since %d: backward but no grad_inputs", op->type, op->since);
    if (tally.coordinates == 0)
        fail_msg("%s since %d: no sample of the row reaches its backward", op->type, op->since);
    if (2 * tally.checked < tally.coordinates)
        fail_msg("%s since %d: only %lld of %lld coordinates are smooth enough to be checked; choose other samples",
                 op->type, op->since, (long long)tally.checked, (long long)tally.coordinates);
}

static bool has_float_sample(const struct op_class *op)
{
    for (const struct op_sample *s = op->samples; s && s->inputs; s++)
        if (strstr(s->inputs, "f32[") || strstr(s->inputs, "f64["))
            return true;
    return false;
}

/* FakeQuantize is a staircase: its backward is the straight-through estimator, no derivative, and test_fake_quantize has
 * its formulas. GRAD_CHECK_TYPE=name: only rows of this type. */
static bool only(const struct op_class *op)
{
    const char *name = getenv("GRAD_CHECK_TYPE");
    return op->backward && strcmp(op->type, "FakeQuantize") != 0 && (!name || !*name || strcmp(name, op->type) == 0);
}

static void test_row(void **state)
{
    struct pool *pool = pool_new(2);
    check_row(*state, pool);
    pool_free(pool);
}

/* Not a failure: for whoever reviews what has no gradient. */
static void test_list(void **state)
{
    (void)state;
    printf("rows of floats without gradients:");
    for (const struct op_class *const *row = op_all(); *row; row++)
        if (!(*row)->backward && has_float_sample(*row))
            printf(" %s-%d", (*row)->type, (*row)->since);
    printf("\n");
}

int main(void)
{
    size_t n = 0, rows = 0;
    while (op_all()[rows])
        rows++;
    struct CMUnitTest *tests = calloc(rows + 1, sizeof *tests);
    char(*names)[64] = calloc(rows + 1, sizeof *names);
    if (!tests || !names)
        return 1;
    for (const struct op_class *const *row = op_all(); *row; row++) {
        if (!only(*row))
            continue;
        snprintf(names[n], sizeof names[n], "%s since %d", (*row)->type, (*row)->since);
        union { /* cmocka's state is not const; the test does not write to it */
            const struct op_class *row;
            void *state;
        } u = {*row};
        tests[n] = (struct CMUnitTest){.name = names[n], .test_func = test_row, .initial_state = u.state};
        n++;
    }
    tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_list);
    printf("%zu rows with gradients\n", n - 1);
    const int failed = _cmocka_run_group_tests("gradients", tests, n, NULL, NULL);
    free(tests);
    free(names);
    return failed;
}
