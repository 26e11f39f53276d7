/* SPDX-License-Identifier: Apache-2.0
 * train_tool.h - what the tools that train for tests share: reading a model and .npy files, one step of training.
 * Tools only: on an
 * error they say it and end. */
#ifndef PARED_TESTS_TRAIN_TOOL_H
#define PARED_TESTS_TRAIN_TOOL_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/file.h"
#include "core/data/array.h"
#include "core/engine/engine.h"
#include "core/engine/grad.h"
#include "core/model/onnx_read.h"
#include "core/train/loss.h"
#include "core/train/optimizer.h"

static inline void tool_check(int rc, const struct err *err)
{
    if (rc) {
        fprintf(stderr, "%s\n", err->msg);
        exit(1);
    }
}

/* A .npy file as a tensor of its own. */
static inline void tool_npy(const char *path, struct tensor *t)
{
    struct err err = {0};
    struct array a = {0};
    FILE *f = fopen(path, "rb");
    if (!f) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    fseek(f, 0, SEEK_END);
    const size_t size = (size_t)ftell(f);
    rewind(f);
    unsigned char *data = malloc(size + 1);
    if (!data || fread(data, 1, size, f) != size) {
        fprintf(stderr, "cannot read %s\n", path);
        exit(1);
    }
    fclose(f);
    tool_check(array_parse_npy(&a, path, data, size, &err), &err);
    tool_check(tensor_copy(t, &a.t, &err), &err);
    array_fini(&a);
    free(data);
}

/* A model with all float initializers as parameters. */
struct tool_net {
    struct model *m;
    struct pool *pool;
    struct grad *g;
    uint32_t *params;
    bool *running; /* [n] a running mean or variance: not for the optimizer */
    int n;
};

static inline bool tool_is_running(const struct model *m, uint32_t v)
{
    for (int i = 0; i < model_main(m)->n_nodes; i++) {
        const struct node *node = &m->nodes[model_main(m)->nodes[i]];
        if (node_is(node, "BatchNormalization") && node->n_input == 5 && (node->input[3] == v || node->input[4] == v))
            return true;
    }
    return false;
}

/* Every float32 weight, constant and declaration becomes float64: for checks of the formulas without rounding. */
static inline void tool_widen(struct model *m)
{
    struct err err = {0};
    struct graph *g = model_main(m);
    for (int i = 0; i < g->n_initializers; i++) {
        const struct tensor *t = &m->values[g->initializers[i]].weight->tensor;
        struct tensor wide = {0};
        if (t->dtype != DTYPE_FLOAT)
            continue;
        tool_check(tensor_convert(&wide, t, DTYPE_DOUBLE, &err), &err);
        tool_check(value_set_weight(m, g->initializers[i], &wide), &err);
        tensor_fini(&wide);
    }
    for (int i = 0; i < g->n_inputs; i++)
        if (g->inputs[i].type.dtype == DTYPE_FLOAT)
            g->inputs[i].type.dtype = DTYPE_DOUBLE;
    for (int i = 0; i < g->n_nodes; i++) {
        const struct node *node = &m->nodes[g->nodes[i]];
        for (int a = 0; a < node->n_attr; a++) {
            struct tensor wide = {0}, *t = node->attr[a].type == ATTR_TENSOR ? &node->attr[a].tensors[0]->tensor : NULL;
            if (!t || t->dtype != DTYPE_FLOAT)
                continue;
            tool_check(tensor_convert(&wide, t, DTYPE_DOUBLE, &err), &err);
            tensor_fini(t);
            *t = wide;
        }
    }
}

static inline void tool_net_open(struct tool_net *net, const char *path, int threads, bool wide, struct grad_opts opts)
{
    struct err err = {0};
    engine_init();
    net->m = onnx_read_file(path, NULL, &err);
    tool_check(net->m ? 0 : -1, &err);
    if (wide)
        tool_widen(net->m);
    net->pool = pool_new(threads);
    const struct graph *g = model_main(net->m);
    net->params = calloc((size_t)g->n_initializers + 1, sizeof *net->params);
    net->running = calloc((size_t)g->n_initializers + 1, sizeof *net->running);
    for (int i = 0; i < g->n_initializers; i++) {
        const uint32_t v = g->initializers[i];
        if (net->m->values[v].weight->tensor.dtype != (wide ? DTYPE_DOUBLE : DTYPE_FLOAT))
            continue;
        net->running[net->n] = tool_is_running(net->m, v);
        net->params[net->n++] = v;
    }
    opts.pool = net->pool;
    opts.params = net->params;
    opts.n_params = net->n;
    net->g = grad_new(net->m, &opts, &err);
    tool_check(net->g ? 0 : -1, &err);
}

static inline void tool_net_close(struct tool_net *net)
{
    grad_free(net->g);
    pool_free(net->pool);
    model_free(net->m);
    free(net->params);
    free(net->running);
}

/* Rows [first, first + n) of a batch. */
static inline struct tensor tool_rows(const struct tensor *t, int64_t first, int64_t n)
{
    struct tensor out;
    struct shape shape = t->shape;
    const size_t row = t->bytes / (size_t)t->shape.dim[0];
    shape.dim[0] = n;
    tensor_view(&out, t->dtype, &shape, (char *)t->data + (size_t)first * row, NULL);
    return out;
}

/* Forward, cross entropy, backward: adds to the gradients. */
static inline double tool_step(struct tool_net *net, const struct tensor *x, const struct tensor *labels)
{
    struct err err = {0};
    double loss;
    tool_check(grad_forward(net->g, x, &err), &err);
    const struct loss_opts opts = {.kind = LOSS_CROSS_ENTROPY};
    tool_check(loss_evaluate(net->pool, &opts, grad_output(net->g, 0), labels, &loss, grad_seed(net->g, 0), NULL, &err),
               &err);
    tool_check(grad_backward(net->g, &err), &err);
    return loss;
}

/* Running statistics move as PyTorch's do: by the unbiased variance. */
static inline void tool_running(struct tool_net *net)
{
    for (int i = 0; i < grad_n_stats(net->g); i++) {
        const struct grad_stats *s = grad_stats(net->g, i);
        const double unbias = s->count > 1 ? (double)s->count / (double)(s->count - 1) : 1;
        for (int p = 0; p < net->n; p++)
            for (int64_t c = 0; c < s->channels; c++) {
                float *v = (float *)grad_param_value(net->g, p)->data + c;
                if (net->params[p] == s->mean_value)
                    *v = (float)((double)*v * s->momentum + s->mean[c] * (1 - s->momentum));
                else if (net->params[p] == s->var_value)
                    *v = (float)((double)*v * s->momentum + s->variance[c] * unbias * (1 - s->momentum));
                else
                    break;
            }
    }
}

static inline void tool_optimize(struct tool_net *net, struct optimizer *o)
{
    struct err err = {0};
    for (int p = 0; p < net->n; p++)
        if (!net->running[p])
            tool_check(optimizer_update(o, net->pool, p, grad_param_value(net->g, p), grad_param_gradient(net->g, p),
                                        true, &err),
                       &err);
}

#endif
