/* SPDX-License-Identifier: Apache-2.0
 * graphs.h - small models by hand for the tests of rewriting methods, run before and after by the engine.
 * A node is named as its first output. Include after cmocka.h. */
#ifndef PARED_TESTS_GRAPHS_H
#define PARED_TESTS_GRAPHS_H

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/base/rng.h"
#include "core/model/validate.h"
#include "core/recipe/recipe.h"

#define g_near(got, want, tolerance) g_near_(got, want, tolerance, __FILE__, __LINE__)
static inline void g_near_(double got, double want, double tolerance, const char *file, int line)
{
    if (!(fabs(got - want) <= tolerance)) {
        print_error("%s:%d: %.9g, expected %.9g within %.3g\n", file, line, got, want, tolerance);
        fail();
    }
}

static inline struct model *g_new(int64_t opset)
{
    struct model *m = model_new();
    assert_non_null(m);
    m->ir_version = 8;
    m->has_ir_version = true;
    model_set_opset(m, "", opset);
    return m;
}

static inline uint32_t g_const(struct model *m, const char *name, struct shape shape, const float *v)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, DTYPE_FLOAT, &shape, NULL), 0);
    if (tensor_count(&t))
        memcpy(t.data, v, t.bytes);
    uint32_t id = model_add_weight(m, 0, name, &t);
    tensor_fini(&t);
    return id;
}

/* Normal numbers times `scale`, seeded. */
static inline uint32_t g_random(struct model *m, const char *name, struct shape shape, uint64_t seed, double scale)
{
    float v[4096];
    struct rng rng;
    rng_init(&rng, seed, 0);
    assert_in_range(shape_count(&shape), 0, 4096);
    for (int64_t i = 0; i < shape_count(&shape); i++)
        v[i] = (float)(scale * rng_normal(&rng));
    return g_const(m, name, shape, v);
}

static inline uint32_t g_ints(struct model *m, const char *name, int count, const int64_t *v)
{
    struct tensor t = {0};
    assert_int_equal(tensor_alloc(&t, DTYPE_INT64, &SHAPE(count), NULL), 0);
    memcpy(t.data, v, t.bytes);
    uint32_t id = model_add_weight(m, 0, name, &t);
    tensor_fini(&t);
    return id;
}

static inline void g_declare(struct model *m, struct value_info **list, int *count, uint32_t v, struct type type)
{
    struct value_info *grown = model_alloc(m, (size_t)*count + 1, sizeof *grown);
    if (*count)
        memcpy(grown, *list, (size_t)*count * sizeof *grown);
    grown[(*count)++] = (struct value_info){.value = v, .has_type = type.kind != TYPE_NONE, .type = type};
    *list = grown;
}

/* A graph input; an existing value (an initializer) may be listed as one by g_list. */
static inline void g_list(struct model *m, uint32_t v, struct shape shape)
{
    struct graph *g = model_main(m);
    m->values[v].type = type_tensor(DTYPE_FLOAT, &shape);
    g_declare(m, &g->inputs, &g->n_inputs, v, m->values[v].type);
}

static inline uint32_t g_input(struct model *m, const char *name, struct shape shape)
{
    uint32_t v = model_add_value(m, 0, name, false);
    g_list(m, v, shape);
    return v;
}

static inline void g_output(struct model *m, uint32_t v)
{
    struct graph *g = model_main(m);
    g_declare(m, &g->outputs, &g->n_outputs, v, type_tensor(DTYPE_FLOAT, &SHAPE_UNKNOWN));
}

static inline uint32_t g_node(struct model *m, const char *op, const char *out, const uint32_t *in, int n_in)
{
    uint32_t y = model_add_value(m, 0, out, false);
    assert_int_not_equal(model_add_node(m, 0, op, NULL, out, in, n_in, &y, 1), NODE_NONE);
    return y;
}
/* G_OP(m, "Conv", "y", x, w, b): the output's value id. */
#define G_OP(m, op, out, ...)                                                                                          \
    g_node(m, op, out, (uint32_t[]){__VA_ARGS__}, (int)(sizeof(uint32_t[]){__VA_ARGS__} / sizeof(uint32_t)))

/* A convolution with bias and no padding, named as its output: weights <name>.w [out, in, kernel, kernel], <name>.b. */
static inline uint32_t g_conv(struct model *m, const char *name, uint32_t x, int out, int in, int kernel, uint64_t seed)
{
    char w[32], b[32];
    snprintf(w, sizeof w, "%s.w", name);
    snprintf(b, sizeof b, "%s.b", name);
    return G_OP(m, "Conv", name, x, g_random(m, w, SHAPE(out, in, kernel, kernel), seed, 0.4),
                g_random(m, b, SHAPE(out), seed + 1, 0.2));
}

static inline uint32_t g_maker(const struct model *m, uint32_t v)
{
    assert_int_not_equal(m->values[v].producer, NODE_NONE);
    return m->values[v].producer;
}

static inline uint32_t g_value(const struct model *m, const char *name)
{
    uint32_t v = model_find_value(m, 0, name);
    if (v == VALUE_NONE)
        fail_msg("no value '%s'", name);
    return v;
}

/* One axis of a weight. */
static inline int64_t g_size(const struct model *m, const char *weight, int axis)
{
    const struct tensor *t = value_const(m, g_value(m, weight));
    assert_non_null(t);
    return t->shape.dim[axis];
}

/* The node that makes the value of this name. */
static inline const struct node *g_made(const struct model *m, const char *name)
{
    return &m->nodes[g_maker(m, g_value(m, name))];
}
static inline const struct node *g_source(const struct model *m, const struct node *n, int slot)
{
    return &m->nodes[g_maker(m, n->input[slot])];
}

static inline int g_count(const struct model *m, const char *op)
{
    int n = 0;
    for (int i = 0; i < model_main(m)->n_nodes; i++)
        n += node_is(&m->nodes[model_main(m)->nodes[i]], op);
    return n;
}

/* ---- running ---- */
static inline void g_fill(struct tensor *t, struct shape shape, uint64_t seed, double scale)
{
    struct rng rng;
    rng_init(&rng, seed, 1);
    assert_int_equal(tensor_alloc(t, DTYPE_FLOAT, &shape, NULL), 0);
    for (int64_t i = 0; i < tensor_count(t); i++)
        tensor_f32(t)[i] = (float)(scale * rng_normal(&rng));
}

/* Output `which` of a model of one input, as a new tensor. */
static inline void g_run(const struct model *m, const struct tensor *x, int which, struct tensor *y)
{
    struct err err = {0};
    struct tensor out[8] = {0};
    struct plan *plan = plan_new(m, &(struct plan_opts){0}, &err);
    if (!plan || plan_n_inputs(plan) != 1 || plan_run(plan, x, out, NULL, &err))
        fail_msg("the model does not run: %s", err.msg);
    for (int i = 0; i < plan_n_outputs(plan); i++)
        if (i == which)
            *y = out[i];
        else
            tensor_fini(&out[i]);
    plan_free(plan);
}

/* Largest difference of output `which` of two models, relative to the largest number of the first. */
static inline double g_error(const struct model *a, const struct model *b, const struct tensor *x, int which)
{
    struct tensor p = {0}, q = {0};
    double worst = 0, largest = 1e-300;
    g_run(a, x, which, &p);
    g_run(b, x, which, &q);
    assert_int_equal(p.dtype, DTYPE_FLOAT);
    assert_int_equal(q.dtype, DTYPE_FLOAT);
    assert_true(shape_equal(&p.shape, &q.shape));
    for (int64_t i = 0; i < tensor_count(&p); i++) {
        double v = (double)tensor_f32(&p)[i], d = fabs(v - (double)tensor_f32(&q)[i]);
        assert_true(isfinite(d));
        worst = d > worst ? d : worst;
        largest = fabs(v) > largest ? fabs(v) : largest;
    }
    tensor_fini(&p);
    tensor_fini(&q);
    return worst / largest;
}

/* Samples for a model of one input, bound to it: an .npy in a temporary file that is gone already. */
static inline struct dataset *g_dataset(const struct tensor *x, const struct model *m)
{
    char path[] = "/tmp/pared-test-XXXXXX.npy", header[129], dims[64] = "";
    struct err err = {0};
    FILE *f = fdopen(mkstemps(path, 4), "wb");
    assert_non_null(f);
    for (int i = 0; i < x->shape.rank; i++)
        sprintf(dims + strlen(dims), "%d,", (int)x->shape.dim[i]);
    int n = snprintf(header, sizeof header,
                     "\x93NUMPY\x01%c%c%c{'descr': '<f4', 'fortran_order': False, 'shape': (%s), }", 0, 118, 0, dims);
    memset(header + n, ' ', sizeof header - 1 - (size_t)n);
    header[127] = '\n';
    assert_int_equal(fwrite(header, 128, 1, f), 1);
    assert_int_equal(fwrite(x->data, x->bytes, 1, f), 1);
    fclose(f);
    struct dataset *ds = dataset_open(path, &(struct dataset_opts){0}, &err);
    unlink(path);
    if (!ds || dataset_bind(ds, m, &err))
        fail_msg("samples: %s", err.msg);
    return ds;
}

/* Sum of the squared differences of the first output of two models. */
static inline double g_squares(const struct model *a, const struct model *b, const struct tensor *x)
{
    struct tensor p = {0}, q = {0};
    double sum = 0;
    g_run(a, x, 0, &p);
    g_run(b, x, 0, &q);
    for (int64_t i = 0; i < tensor_count(&p); i++)
        sum += pow((double)tensor_f32(&p)[i] - (double)tensor_f32(&q)[i], 2);
    tensor_fini(&p);
    tensor_fini(&q);
    return sum;
}

/* ---- methods ---- */
struct g_done {
    int rc;
    struct err err;
    json_t *layers, *warnings;
};

/* Pool, seed and progress of the steps that g_apply runs. */
static struct pool *g_pool;
static uint64_t g_seed;
static int (*g_progress)(struct step_ctx *c, const char *stage, int64_t done, int64_t total, struct err *err);

/* One step, its parameters parsed as a recipe's: "quantize.static samples=4 isa=vnni". x: calibration samples (one
 * model input, written as .npy) or NULL. A result must be a valid model. */
static inline struct g_done g_apply(struct model *m, const char *words, const struct tensor *x)
{
    struct g_done done = {0};
    struct faults faults = {0};
    json_t *step = recipe_step_from_words(words, &done.err), *json = json_pack("{s:[o]}", "steps", step);
    struct recipe *recipe = recipe_parse(json, "", &faults, &done.err);
    if (!recipe)
        fail_msg("%s: %s", words, done.err.msg);
    struct layer_report *layers = layer_report_new();
    struct warnings *warnings = warnings_new();
    struct step_ctx c = {.model = m,
                         .params = recipe->steps[0].params,
                         .layers = layers,
                         .warnings = warnings,
                         .pool = g_pool,
                         .seed = g_seed,
                         .progress = g_progress,
                         .ramp = 1,
                         .details = json_object()};
    c.data = x ? g_dataset(x, m) : NULL;
    done.rc = recipe->steps[0].method->run(&c, &done.err);
    done.layers = layer_report_json(layers);
    done.warnings = warnings_json(warnings);
    if (done.rc == 0 && model_validate(m, &done.err))
        fail_msg("%s: the result is not valid: %s", words, done.err.msg);
    dataset_close(c.data);
    json_decref(c.details);
    layer_report_free(layers);
    warnings_free(warnings);
    recipe_free(recipe);
    faults_fini(&faults);
    json_decref(json);
    return done;
}

static inline void g_done(struct g_done *done)
{
    if (done->rc)
        fail_msg("%s", done->err.msg);
    json_decref(done->layers);
    json_decref(done->warnings);
}

/* A step that must fail with `part` in its sentence; m goes. */
static inline void g_refused(struct model *m, const char *words, const struct tensor *x, const char *part)
{
    struct g_done d = g_apply(m, words, x);
    assert_int_equal(d.rc, -1);
    if (!strstr(d.err.msg, part))
        fail_msg("'%s', expected '%s'", d.err.msg, part);
    json_decref(d.layers);
    json_decref(d.warnings);
    model_free(m);
}

/* The row of a node (borrowed); NULL. */
static inline json_t *g_row(const struct g_done *done, const char *node)
{
    json_t *row, *found = NULL;
    size_t i;
    json_array_foreach(done->layers, i, row)
    {
        const char *name = json_string_value(json_object_get(row, "node"));
        if (name && !strcmp(name, node))
            found = row;
    }
    return found;
}

static inline void g_expect_skipped(const struct g_done *done, const char *node, const char *why)
{
    const char *found = json_string_value(json_object_get(g_row(done, node), "skipped"));
    if (!found || !strstr(found, why))
        fail_msg("node '%s': skipped is '%s', expected '%s'", node, found ? found : "(absent)", why);
}

static inline void g_expect_warning(const struct g_done *done, const char *part, bool wanted)
{
    json_t *w;
    size_t i;
    bool found = false;
    json_array_foreach(done->warnings, i, w) found = found || strstr(json_string_value(w), part);
    if (found != wanted) {
        char *all = json_dumps(done->warnings, 0);
        print_error("warnings: %s, '%s' %s\n", all, part, wanted ? "is missing" : "should not be there");
        free(all);
        fail();
    }
}

#endif
