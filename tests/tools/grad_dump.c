/* SPDX-License-Identifier: Apache-2.0
 * grad_dump MODEL X.npy Y.npy OUT.npz [key=value...]: trains and writes what came out, for comparison with PyTorch.
 *   mode=eval|train dtype=float32|float64 threads=1 checkpoints=1 memory=BYTES batch=N
 *     steps=0: the gradients of one batch (of N rows at a time, added up): loss, logits, grad.<initializer>, memory
 *     steps=k: k steps of batches of N rows in order; optimizer=sgd|adam|adamw lr= momentum= nesterov= decay=:
 *              losses, value.<initializer>, grad.<initializer> of the last step */
#include "core/data/npz_write.h"
#include "tests/tools/train_tool.h"

struct args {
    const char *mode, *optimizer, *dtype;
    double threads, checkpoints, memory, batch, steps, lr, momentum, nesterov, decay;
};

static void read_args(struct args *a, int argc, char **argv)
{
    struct {
        const char *key;
        double *number;
        const char **text;
    } table[] = {{"mode", NULL, &a->mode},
                 {"optimizer", NULL, &a->optimizer},
                 {"dtype", NULL, &a->dtype},
                 {"threads", &a->threads, NULL},
                 {"checkpoints", &a->checkpoints, NULL},
                 {"memory", &a->memory, NULL},
                 {"batch", &a->batch, NULL},
                 {"steps", &a->steps, NULL},
                 {"lr", &a->lr, NULL},
                 {"momentum", &a->momentum, NULL},
                 {"nesterov", &a->nesterov, NULL},
                 {"decay", &a->decay, NULL}};
    for (int i = 5; i < argc; i++) {
        char *value = strchr(argv[i], '=');
        bool found = false;
        for (size_t k = 0; value && k < sizeof table / sizeof table[0]; k++) {
            if (strlen(table[k].key) != (size_t)(value - argv[i]) ||
                strncmp(table[k].key, argv[i], (size_t)(value - argv[i])) != 0)
                continue;
            found = true;
            if (table[k].text)
                *table[k].text = value + 1;
            else
                *table[k].number = strtod(value + 1, NULL);
        }
        if (!found) {
            fprintf(stderr, "unknown argument '%s'\n", argv[i]);
            exit(2);
        }
    }
}

static void put_numbers(struct npz_writer *w, const char *name, const double *v, int n)
{
    struct err err = {0};
    struct tensor t;
    tensor_view(&t, DTYPE_DOUBLE, &SHAPE(n), (void *)v, NULL);
    tool_check(npz_rows(w, name, &t, &err), &err);
}

static void put_params(struct npz_writer *w, struct tool_net *net, const char *prefix)
{
    struct err err = {0};
    char name[400];
    for (int i = 0; i < net->n; i++) {
        snprintf(name, sizeof name, "%s.%s", prefix, net->m->values[net->params[i]].name);
        tool_check(
            npz_rows(w, name, *prefix == 'g' ? grad_param_gradient(net->g, i) : grad_param_value(net->g, i), &err),
            &err);
    }
}

static void one_batch(struct npz_writer *w, struct tool_net *net, const struct args *a, const struct tensor *x,
                      const struct tensor *y)
{
    struct err err = {0};
    const int64_t rows = x->shape.dim[0], batch = a->batch > 0 ? (int64_t)a->batch : rows;
    double loss = 0;
    for (int64_t at = 0; at < rows; at += batch) {
        const int64_t n = at + batch < rows ? batch : rows - at;
        const struct tensor part = tool_rows(x, at, n), labels = tool_rows(y, at, n);
        double value;
        tool_check(grad_forward(net->g, &part, &err), &err);
        const struct loss_opts opts = {.kind = LOSS_CROSS_ENTROPY, .scale = (double)n / (double)rows};
        tool_check(
            loss_evaluate(net->pool, &opts, grad_output(net->g, 0), &labels, &value, grad_seed(net->g, 0), NULL, &err),
            &err);
        tool_check(npz_rows(w, "logits", grad_output(net->g, 0), &err), &err);
        tool_check(grad_backward(net->g, &err), &err);
        loss += value;
    }
    put_numbers(w, "loss", &loss, 1);
    put_params(w, net, "grad");
}

static void many_steps(struct npz_writer *w, struct tool_net *net, const struct args *a, const struct tensor *x,
                       const struct tensor *y)
{
    struct err err = {0};
    struct optimizer_opts opts = {
        .lr = a->lr, .momentum = a->momentum, .nesterov = a->nesterov != 0, .weight_decay = a->decay};
    while (optimizer_names[opts.kind] && strcmp(optimizer_names[opts.kind], a->optimizer) != 0)
        opts.kind++;
    struct optimizer *o = optimizer_new(&opts, net->n, &err);
    tool_check(o ? 0 : -1, &err);
    const int64_t batch = (int64_t)a->batch;
    for (int64_t s = 0; s < (int64_t)a->steps; s++) {
        const struct tensor part = tool_rows(x, s * batch, batch), labels = tool_rows(y, s * batch, batch);
        grad_reset(net->g);
        const double loss = tool_step(net, &part, &labels);
        put_numbers(w, "losses", &loss, 1);
        tool_running(net);
        tool_optimize(net, o);
    }
    put_params(w, net, "grad");
    put_params(w, net, "value");
    optimizer_free(o);
}

int main(int argc, char **argv)
{
    struct args a = {.mode = "eval", .optimizer = "sgd", .dtype = "float32", .threads = 1, .checkpoints = 1};
    struct tool_net net = {0};
    struct tensor x = {0}, y = {0};
    struct err err = {0};
    if (argc < 5) {
        fprintf(stderr, "usage: grad_dump MODEL X.npy Y.npy OUT.npz [key=value...]\n");
        return 2;
    }
    read_args(&a, argc, argv);
    tool_npy(argv[2], &x);
    tool_npy(argv[3], &y);
    const bool wide = strcmp(a.dtype, "float64") == 0;
    if (wide) {
        struct tensor narrow = x;
        x = (struct tensor){0};
        tool_check(tensor_convert(&x, &narrow, DTYPE_DOUBLE, &err), &err);
        tensor_fini(&narrow);
    }
    tool_net_open(&net, argv[1], (int)a.threads, wide,
                  (struct grad_opts){.training = strcmp(a.mode, "train") == 0,
                                     .checkpoints = (int)a.checkpoints,
                                     .max_memory_bytes = (size_t)a.memory});
    struct npz_writer *w = npz_writer_new(argv[4], &err);
    tool_check(w ? 0 : -1, &err);
    if (a.steps > 0)
        many_steps(w, &net, &a, &x, &y);
    else
        one_batch(w, &net, &a, &x, &y);
    const struct grad_memory m = grad_memory(net.g);
    const double memory[] = {(double)m.slab,    (double)m.slab_lower, (double)m.saved,
                             (double)m.scratch, m.segments,           m.n_again};
    put_numbers(w, "memory", memory, 6);
    tool_check(npz_writer_close(w, false, &err), &err);
    tool_net_close(&net);
    tensor_fini(&x);
    tensor_fini(&y);
    return 0;
}
