/* SPDX-License-Identifier: Apache-2.0
 * train_math: the arithmetic of training on arrays from files, for comparison with PyTorch.
 *   train_math loss KIND Y.npy TARGET.npy OUT.npz [key=value...]       value, gradient, sample
 *              KIND: cross_entropy squared kl absolute huber binary; reduction=0|1|2 smoothing= temperature= delta=
 *              scale=
 *   train_math optimizer KIND P.npy GRADIENTS.npy OUT.npz [key=value...] values [steps, ...]: P after each update by a
 *   row of GRADIENTS
 *              lr= momentum= nesterov= decay= beta1= beta2= eps=
 *   train_math schedule KIND LR [key=value...]                         a line an update
 *              epochs= per_epoch= warmup= step_at= step_by= */
#include "core/data/npz_write.h"
#include "core/train/schedule.h"
#include "tests/tools/train_tool.h"

static double argument(int argc, char **argv, const char *key, double otherwise)
{
    const size_t len = strlen(key);
    for (int i = 1; i < argc; i++)
        if (strncmp(argv[i], key, len) == 0 && argv[i][len] == '=')
            return strtod(argv[i] + len + 1, NULL);
    return otherwise;
}

static int index_of(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    fprintf(stderr, "'%s' is none of these\n", name);
    exit(2);
}

static void losses(int argc, char **argv)
{
    static const char *const names[] = {"cross_entropy", "squared", "kl", "absolute", "huber", "binary", NULL};
    struct err err = {0};
    struct tensor y = {0}, t = {0}, gradient = {0}, v;
    double value;
    tool_npy(argv[3], &y);
    tool_npy(argv[4], &t);
    double *sample = calloc((size_t)y.shape.dim[0] + 1, sizeof *sample);
    tool_check(tensor_alloc(&gradient, y.dtype, &y.shape, &err), &err);
    const struct loss_opts opts = {.kind = (enum loss_kind)index_of(names, argv[2]),
                                   .reduction = (enum loss_reduction)argument(argc, argv, "reduction", 0),
                                   .smoothing = argument(argc, argv, "smoothing", 0),
                                   .temperature = argument(argc, argv, "temperature", 0),
                                   .delta = argument(argc, argv, "delta", 0),
                                   .scale = argument(argc, argv, "scale", 0)};
    tool_check(loss_evaluate(NULL, &opts, &y, &t, &value, &gradient, sample, &err), &err);
    struct npz_writer *w = npz_writer_new(argv[5], &err);
    tool_check(w ? 0 : -1, &err);
    tensor_view(&v, DTYPE_DOUBLE, &SHAPE(1), &value, NULL);
    tool_check(npz_rows(w, "value", &v, &err), &err);
    tool_check(npz_rows(w, "gradient", &gradient, &err), &err);
    tensor_view(&v, DTYPE_DOUBLE, &SHAPE(y.shape.dim[0]), sample, NULL);
    tool_check(npz_rows(w, "sample", &v, &err), &err);
    tool_check(npz_writer_close(w, false, &err), &err);
    tensor_fini(&y);
    tensor_fini(&t);
    tensor_fini(&gradient);
    free(sample);
}

static void updates(int argc, char **argv)
{
    struct err err = {0};
    struct tensor p = {0}, all = {0};
    tool_npy(argv[3], &p);
    tool_npy(argv[4], &all);
    const struct optimizer_opts opts = {.kind = (enum optimizer_kind)index_of(optimizer_names, argv[2]),
                                        .lr = argument(argc, argv, "lr", 0.01),
                                        .momentum = argument(argc, argv, "momentum", 0),
                                        .nesterov = argument(argc, argv, "nesterov", 0) != 0,
                                        .weight_decay = argument(argc, argv, "decay", 0),
                                        .beta1 = argument(argc, argv, "beta1", 0.9),
                                        .beta2 = argument(argc, argv, "beta2", 0.999),
                                        .eps = argument(argc, argv, "eps", 1e-8)};
    struct optimizer *o = optimizer_new(&opts, 1, &err);
    struct npz_writer *w = npz_writer_new(argv[5], &err);
    tool_check(o && w ? 0 : -1, &err);
    for (int64_t step = 0; step < all.shape.dim[0]; step++) {
        struct tensor g;
        tensor_view(&g, p.dtype, &p.shape, (char *)all.data + (size_t)step * p.bytes, NULL);
        tool_check(optimizer_update(o, NULL, 0, &p, &g, true, &err), &err);
        tool_check(npz_rows(w, "values", &p, &err), &err);
    }
    tool_check(npz_writer_close(w, false, &err), &err);
    optimizer_free(o);
    tensor_fini(&p);
    tensor_fini(&all);
}

static void rates(int argc, char **argv)
{
    static const char *const names[] = {"cosine", "one_cycle", "step", "linear", "constant", NULL};
    const int64_t each = (int64_t)argument(argc, argv, "per_epoch", 1);
    const struct train_params p = {.schedule = index_of(names, argv[2]),
                                   .epochs = (int64_t)argument(argc, argv, "epochs", 1),
                                   .warmup = argument(argc, argv, "warmup", 0),
                                   .step_at = argument(argc, argv, "step_at", 1),
                                   .step_by = argument(argc, argv, "step_by", 0.1)};
    for (int64_t i = 0; i < p.epochs * each; i++)
        printf("%.17g\n", schedule_lr(&p, strtod(argv[3], NULL), i, each));
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        int arguments;
        void (*run)(int argc, char **argv);
    } modes[] = {{"loss", 6, losses}, {"optimizer", 6, updates}, {"schedule", 4, rates}};
    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++)
        if (argc >= modes[i].arguments && strcmp(argv[1], modes[i].name) == 0) {
            modes[i].run(argc, argv);
            return 0;
        }
    fprintf(stderr, "usage: train_math loss|optimizer|schedule ...\n");
    return 2;
}
