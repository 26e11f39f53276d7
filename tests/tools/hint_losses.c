/* SPDX-License-Identifier: Apache-2.0
 * hint_losses KIND OUT.npz X.npy T.npy [WEIGHT.npy BIAS.npy]: a loss between features and its gradients, for
 * comparison with PyTorch. KIND: hint (channels on axis 1, power 1), attention (t: maps [N, H, W]), relation
 * (points), kl4 (scores [N, C], temperature 4, mean over N). Writes value, dx and, of a regressor, dweight and dbias.
 * */
#include "core/data/npz_write.h"
#include "core/train/hints.h"
#include "tests/tools/train_tool.h"

static void put(struct npz_writer *w, const char *name, const struct tensor *t)
{
    struct err err = {0};
    tool_check(npz_rows(w, name, t, &err), &err);
}

static int evaluate(const char *kind, struct pool *pool, const struct tensor *x, const struct tensor *t,
                    struct tensor *param, struct tensor *gradient, double *value, struct tensor *dx, struct err *err)
{
    const float *a = tensor_f32(x), *b = tensor_f32(t);
    const int64_t n = x->shape.dim[0];
    const struct feature f = feature_of(&x->shape, 1);
    struct hint_regressor r = {0};
    if (param[0].data)
        r = (struct hint_regressor){tensor_f32(&param[0]), tensor_f32(&param[1]), tensor_f32(&gradient[0]),
                                    tensor_f32(&gradient[1])};
    if (!strcmp(kind, "hint"))
        return hint_loss(&f, t->shape.dim[1], a, b, &r, 1, 1, value, tensor_f32(dx), err);
    if (!strcmp(kind, "attention"))
        return attention_loss(pool, &f, n, a, b, 1, value, tensor_f32(dx), err);
    if (!strcmp(kind, "relation"))
        return relation_loss(pool, n, a, tensor_count(x) / n, b, tensor_count(t) / n, 1, value, tensor_f32(dx), err);
    const struct loss_opts opts = {.kind = LOSS_KL, .reduction = LOSS_BATCHMEAN, .temperature = 4};
    return loss_evaluate(pool, &opts, x, t, value, dx, NULL, err);
}

int main(int argc, char **argv)
{
    struct tensor x = {0}, t = {0}, dx = {0}, number, param[2] = {{0}}, gradient[2] = {{0}};
    struct err err = {0};
    double value = 0;
    if (argc != 5 && argc != 7) {
        fprintf(stderr, "usage: hint_losses KIND OUT.npz X.npy T.npy [WEIGHT.npy BIAS.npy]\n");
        return 2;
    }
    engine_init();
    tool_npy(argv[3], &x);
    tool_npy(argv[4], &t);
    tool_check(tensor_alloc(&dx, DTYPE_FLOAT, &x.shape, &err), &err);
    for (int i = 0; i < argc - 5; i++) {
        tool_npy(argv[5 + i], &param[i]);
        tool_check(tensor_alloc(&gradient[i], DTYPE_FLOAT, &param[i].shape, &err), &err);
    }
    struct pool *pool = pool_new(2);
    tool_check(evaluate(argv[1], pool, &x, &t, param, gradient, &value, &dx, &err), &err);
    struct npz_writer *w = npz_writer_new(argv[2], &err);
    tool_check(w ? 0 : -1, &err);
    tensor_view(&number, DTYPE_DOUBLE, &SHAPE(1), &value, NULL);
    put(w, "value", &number);
    put(w, "dx", &dx);
    if (param[0].data) {
        put(w, "dweight", &gradient[0]);
        put(w, "dbias", &gradient[1]);
    }
    tool_check(npz_writer_close(w, false, &err), &err);
    pool_free(pool);
    tensor_fini(&x);
    tensor_fini(&t);
    tensor_fini(&dx);
    for (int i = 0; i < 2; i++) {
        tensor_fini(&param[i]);
        tensor_fini(&gradient[i]);
    }
    return 0;
}
