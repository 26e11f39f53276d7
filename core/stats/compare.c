/* SPDX-License-Identifier: Apache-2.0
 * Two models side by side: each batch runs through a, then through b, and what is compared is thrown away before the
 *            next. For the
 * comparison by layer, a's values that b has under the same name too are kept for the one batch (as copies, up to a
 * cap), and b's run
 * is watched. */
#include <stdlib.h>
#include <string.h>

#include "core/stats/evaluate.h"
#include "core/stats/generate.h"

enum { DEFAULT_GENERATED = 4 };
#define MAX_KEPT_BYTES ((size_t)2 << 30)

/* Values both models make. */
struct layers {
    struct fidelity *fidelity;
    int *of_a, *of_b; /* by value id: row, or -1 */
    uint32_t n_a, n_b;
    struct tensor *kept; /* [rows] a's values of this batch */
    int n;
    size_t kept_bytes;
};

struct compare {
    struct plan *a, *b;
    const struct model *ma, *mb;
    struct fidelity *fidelity;
    struct task_metrics *metrics_a, *metrics_b;
    int *input;                    /* [inputs of b]: which of a's */
    int *output;                   /* [outputs of a]: which of b's, -1 none */
    struct tensor *in, *out, *cut; /* of b */
    struct layers layers;          /* n 0: outputs only */
};

static const char *output_name(const struct plan *p, int i)
{
    return plan_model(p)->values[plan_output(p, i)].name;
}

static const char *input_name(const struct plan *p, int i)
{
    return plan_model(p)->values[plan_input(p, i)].name;
}

/* By name; a name the other side lacks: by position. */
static int pair_names(struct compare *c, struct err *err)
{
    int na = plan_n_inputs(c->a), nb = plan_n_inputs(c->b), oa = plan_n_outputs(c->a), ob = plan_n_outputs(c->b);
    if (na != nb)
        return err_set(err, ERR_SHAPE, "the models take %d and %d inputs", na, nb);
    for (int i = 0; i < nb; i++) {
        c->input[i] = i;
        for (int k = 0; k < na; k++)
            if (!strcmp(input_name(c->a, k), input_name(c->b, i)))
                c->input[i] = k;
    }
    for (int i = 0; i < oa; i++) {
        c->output[i] = i < ob ? i : -1;
        for (int k = 0; k < ob; k++)
            if (!strcmp(output_name(c->a, i), output_name(c->b, k)))
                c->output[i] = k;
    }
    return 0;
}

static int start_compare(struct compare *c, struct err *err)
{
    size_t in = (size_t)plan_n_inputs(c->b) + 1, oa = (size_t)plan_n_outputs(c->a) + 1,
           ob = (size_t)plan_n_outputs(c->b) + 1;
    c->input = calloc(in, sizeof *c->input);
    c->output = calloc(oa, sizeof *c->output);
    c->in = calloc(in, sizeof *c->in);
    c->out = calloc(ob, sizeof *c->out);
    c->cut = calloc(ob, sizeof *c->cut);
    const char **names = calloc(oa, sizeof *names);
    for (int i = 0; names && i < plan_n_outputs(c->a); i++)
        names[i] = output_name(c->a, i);
    if (names)
        c->fidelity = fidelity_new(names, plan_n_outputs(c->a));
    free(names);
    if (!c->input || !c->output || !c->in || !c->out || !c->cut || !c->fidelity)
        return err_set(err, ERR_NOMEM, "out of memory");
    return pair_names(c, err);
}

/* ---- layers ---- */
static int keep_a(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct layers *l = &((struct compare *)arg)->layers;
    int row = value < l->n_a ? l->of_a[value] : -1;
    if (row < 0 || l->kept_bytes > MAX_KEPT_BYTES - (t->bytes < MAX_KEPT_BYTES ? t->bytes : MAX_KEPT_BYTES))
        return 0;
    tensor_fini(&l->kept[row]);
    l->kept_bytes += t->bytes;
    return tensor_copy(&l->kept[row], t, err);
}

/* A layer whose shape differs between the models (pruned, other layout) is not comparable: it is left out. */
static int compare_b(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct layers *l = &((struct compare *)arg)->layers;
    int row = value < l->n_b ? l->of_b[value] : -1;
    (void)err;
    if (row >= 0 && l->kept[row].dtype != DTYPE_NONE && shape_equal(&l->kept[row].shape, &t->shape))
        fidelity_add(l->fidelity, row, &l->kept[row], t, NULL);
    return 0;
}

static void forget_layers(struct layers *l)
{
    for (int i = 0; i < l->n; i++)
        tensor_fini(&l->kept[i]);
    l->kept_bytes = 0;
}

static void free_layers(struct layers *l)
{
    if (l->kept)
        forget_layers(l);
    free(l->kept);
    free(l->of_a);
    free(l->of_b);
}

/* Rows in the order a runs its nodes. */
static int start_layers(struct compare *c, struct err *err)
{
    struct layers *l = &c->layers;
    const struct model *a = plan_model(c->a), *b = plan_model(c->b);
    const struct graph *g = model_main(a);
    uint32_t *order = calloc((size_t)g->n_nodes + 1, sizeof *order);
    const char **names = calloc(a->n_values + (size_t)1, sizeof *names);
    l->n_a = a->n_values;
    l->n_b = b->n_values;
    l->of_a = malloc((l->n_a + (size_t)1) * sizeof *l->of_a);
    l->of_b = malloc((l->n_b + (size_t)1) * sizeof *l->of_b);
    int rc = -1;
    if (!order || !names || !l->of_a || !l->of_b) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    memset(l->of_a, 0xff, (l->n_a + (size_t)1) * sizeof *l->of_a);
    memset(l->of_b, 0xff, (l->n_b + (size_t)1) * sizeof *l->of_b);
    if (model_toposort(a, 0, order, err))
        goto out;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *node = &a->nodes[order[i]];
        for (int k = 0; node->op_type && k < node->n_output; k++) {
            uint32_t va = node->output[k];
            uint32_t vb = va == VALUE_NONE ? VALUE_NONE : model_find_value(b, 0, a->values[va].name);
            if (vb == VALUE_NONE || b->values[vb].producer == NODE_NONE)
                continue;
            names[l->n] = a->values[va].name;
            l->of_a[va] = l->of_b[vb] = l->n++;
        }
    }
    l->fidelity = fidelity_new(names, l->n);
    l->kept = calloc((size_t)l->n + 1, sizeof *l->kept);
    rc = l->fidelity && l->kept ? 0 : err_set(err, ERR_NOMEM, "out of memory");
out:
    free(order);
    free(names);
    return rc;
}

int evaluate_feed(const struct plan *plan, int i, const struct tensor *from, struct tensor *to, struct err *err)
{
    const struct graph *g = model_main(plan_model(plan));
    enum dtype want = from->dtype;
    for (int k = 0; k < g->n_inputs; k++)
        if (g->inputs[k].value == plan_input(plan, i) && g->inputs[k].has_type && g->inputs[k].type.dtype != DTYPE_NONE)
            want = g->inputs[k].type.dtype;
    if (want != from->dtype && dtype_is_float(want) && dtype_is_float(from->dtype))
        return tensor_convert(to, from, want, err);
    tensor_ref(to, from);
    return 0;
}

static int compare_batch(void *arg, const struct evaluate_batch *b, struct err *err)
{
    struct compare *c = arg;
    int rc = 0, ran = 0, na = plan_n_outputs(c->a), nb = plan_n_outputs(c->b);
    for (int i = 0; i < plan_n_inputs(c->b) && !rc; i++)
        rc = evaluate_feed(c->b, i, &b->in[c->input[i]], &c->in[i], err);
    if (!rc) {
        struct plan_run_opts watch = {.observe = compare_b, .observe_arg = c};
        rc = plan_run(c->b, c->in, c->out, c->layers.n ? &watch : NULL, err);
        ran = !rc;
        if (rc)
            err_wrap(err, "the second model: ");
    }
    for (int i = 0; i < nb && ran; i++)
        evaluate_cut_rows(&c->cut[i], &c->out[i], b->n, b->fed);
    for (int i = 0; i < na && !rc; i++)
        if (c->output[i] >= 0)
            rc = fidelity_add(c->fidelity, i, &b->out[i], &c->cut[c->output[i]], err);
    if (!rc)
        rc = evaluate_judge(c->metrics_a, b, na, err);
    if (!rc) {
        struct evaluate_batch of_b = *b;
        of_b.out = c->cut;
        rc = evaluate_judge(c->metrics_b, &of_b, nb, err);
    }
    if (!rc)
        fidelity_count_samples(c->fidelity, b->n);
    forget_layers(&c->layers);
    for (int i = 0; i < nb && ran; i++)
        tensor_fini(&c->out[i]);
    for (int i = 0; i < plan_n_inputs(c->b); i++)
        tensor_fini(&c->in[i]);
    return rc;
}

static int compare_generated(struct compare *c, const struct evaluate_opts *o, const struct evaluate_compare_opts *co,
                             struct err *err)
{
    int na = plan_n_inputs(c->a), rc = 0;
    int64_t batches = co && co->generated_batches > 0 ? co->generated_batches : DEFAULT_GENERATED;
    int64_t batch = evaluate_batch_size(c->a, NULL, 1, NULL);
    struct tensor *in = calloc((size_t)na + 1, sizeof *in),
                  *out = calloc((size_t)plan_n_outputs(c->a) + 1, sizeof *out);
    if (!in || !out)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    for (int64_t k = 0; k < batches && !rc; k++) {
        struct generate_opts g = {.batch = batch, .seed = co ? co->seed : 0, .stream = (uint64_t)k};
        struct tensor labels = {0};
        struct evaluate_batch b = {
            .first = k * batch, .n = (int)batch, .fed = (int)batch, .in = in, .out = out, .labels = &labels};
        if (generate_inputs(c->a, &g, in, err)) {
            rc = -1;
            break;
        }
        rc = plan_run(c->a, in, out, o->run, err);
        if (!rc) {
            rc = compare_batch(c, &b, err);
            for (int i = 0; i < plan_n_outputs(c->a); i++)
                tensor_fini(&out[i]);
        }
        for (int i = 0; i < na; i++)
            tensor_fini(&in[i]);
        if (!rc && o->progress)
            rc = o->progress(o->progress_arg, k + 1, batches, err);
    }
    free(in);
    free(out);
    return rc;
}

static int compare_dataset(struct compare *c, struct dataset *ds, const struct evaluate_opts *o, struct err *err)
{
    struct evaluate_opts opts = *o;
    bool fixed;
    int64_t batch = evaluate_batch_size(c->b, NULL, 1, &fixed);
    if (fixed)
        opts.batch = batch;
    return evaluate_each(c->a, c->ma, ds, &opts, compare_batch, c, err) < 0 ? -1 : 0;
}

struct fidelity *evaluate_compare(const struct model *a, const struct model *b, struct dataset *ds,
                                  const struct evaluate_opts *opts, const struct evaluate_compare_opts *compare,
                                  struct err *err)
{
    struct plan_opts po = {.pool = opts ? opts->pool : NULL,
                           .max_memory_bytes = opts ? opts->max_memory_bytes : 0,
                           .optimize = !(compare && compare->layers)}; /* layers are observed: none may be fused away */
    struct compare c = {.ma = a, .mb = b};
    int rc = -1;
    const bool borrowed = compare && compare->plan_a && compare->plan_b && !compare->layers;
    c.a = borrowed ? compare->plan_a : plan_new(a, &po, err);
    c.b = borrowed ? compare->plan_b : c.a ? plan_new(b, &po, err) : NULL;
    if (!c.a || !c.b || start_compare(&c, err))
        goto out;
    if (ds && compare && compare->metrics_a && !(c.metrics_a = task_metrics_new()))
        goto nomem;
    if (ds && compare && compare->metrics_b && !(c.metrics_b = task_metrics_new()))
        goto nomem;
    if (compare && compare->layers && start_layers(&c, err))
        goto out;
    struct evaluate_opts o = opts ? *opts : (struct evaluate_opts){0};
    struct plan_run_opts keep = {.observe = keep_a, .observe_arg = &c};
    if (c.layers.n)
        o.run = &keep;
    rc = ds ? compare_dataset(&c, ds, &o, err) : compare_generated(&c, &o, compare, err);
    goto out;
nomem:
    err_set(err, ERR_NOMEM, "out of memory");
out:
    if (!rc && c.metrics_a)
        *compare->metrics_a = c.metrics_a;
    if (!rc && c.metrics_b)
        *compare->metrics_b = c.metrics_b;
    if (!rc && compare && compare->layers)
        *compare->layers = c.layers.fidelity;
    else
        fidelity_free(c.layers.fidelity);
    free_layers(&c.layers);
    if (rc) {
        task_metrics_free(c.metrics_a);
        task_metrics_free(c.metrics_b);
        fidelity_free(c.fidelity);
    }
    free(c.input);
    free(c.output);
    free(c.in);
    free(c.out);
    free(c.cut);
    if (!borrowed) {
        plan_free(c.a);
        plan_free(c.b);
    }
    return rc ? NULL : c.fidelity;
}
