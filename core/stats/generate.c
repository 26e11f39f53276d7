/* SPDX-License-Identifier: Apache-2.0 */
#include "core/stats/generate.h"

#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"

static const struct dtype_string letters[10] = {{"a", 1}, {"b", 1}, {"c", 1}, {"d", 1}, {"e", 1},
                                                {"f", 1}, {"g", 1}, {"h", 1}, {"i", 1}, {"j", 1}};

int generate_tensor(struct tensor *t, enum dtype dtype, const struct shape *shape, uint64_t seed, uint64_t stream,
                    struct err *err)
{
    struct rng rng;
    char kind = dtype_kind(dtype);
    if (kind == 'c' || kind == 0)
        return err_set(err, ERR_OPERATOR, "cannot make up values of dtype %s", dtype_name(dtype));
    if (tensor_alloc(t, dtype, shape, err))
        return -1;
    rng_init(&rng, seed, stream);
    int64_t n = tensor_count(t);
    bool pixels = shape->rank >= 3 && dtype_bits(dtype) == 8 && kind == 'u';
    uint64_t below = pixels ? 256 : dtype_bits(dtype) < 4 ? 2 : dtype_bits(dtype) < 8 ? 8 : 10;
    for (int64_t i = 0; i < n; i++) {
        if (kind == 'f')
            dtype_set(dtype, t->data, i, rng_normal(&rng));
        else if (kind == 's')
            ((struct dtype_string *)t->data)[i] = letters[rng_below(&rng, 10)];
        else
            dtype_set(dtype, t->data, i, (double)rng_below(&rng, kind == 'b' ? 2 : below));
    }
    return 0;
}

/* A size for unknown dims under which the model's shapes fit. */
static int64_t find_dim(struct plan *plan, int64_t batch)
{
    static const int64_t sizes[] = {8, 32, 64, 224};
    int n = plan_n_inputs(plan);
    struct shape *shape = calloc((size_t)n + 1, sizeof *shape);
    int64_t found = sizes[0];
    for (size_t k = 0; shape && k < sizeof sizes / sizeof sizes[0]; k++) {
        const struct type *types;
        for (int i = 0; i < n; i++)
            plan_input_shape(plan, i, batch, sizes[k], &shape[i]);
        if (!plan_infer(plan, shape, &types, NULL)) {
            found = sizes[k];
            break;
        }
    }
    free(shape);
    return found;
}

static int generate_input(struct plan *plan, int i, const struct generate_opts *o, struct tensor *t, struct err *err)
{
    const struct model *m = plan_model(plan);
    const struct graph *g = model_main(m);
    struct shape shape;
    for (int k = 0; k < g->n_inputs; k++) {
        const struct value_info *vi = &g->inputs[k];
        if (vi->value != plan_input(plan, i) || !vi->has_type || vi->type.kind != TYPE_TENSOR ||
            vi->type.dtype == DTYPE_NONE)
            continue;
        plan_input_shape(plan, i, o->batch, o->other_dim, &shape);
        return generate_tensor(t, vi->type.dtype, &shape, o->seed, o->stream * 1024 + (uint64_t)i, err);
    }
    return err_set(err, ERR_OPERATOR, "input '%s' declares no tensor type to make up values for",
                   m->values[plan_input(plan, i)].name);
}

int generate_inputs(struct plan *plan, const struct generate_opts *opts, struct tensor *in, struct err *err)
{
    struct generate_opts o = opts ? *opts : (struct generate_opts){0};
    if (o.batch <= 0)
        o.batch = 1;
    if (o.other_dim <= 0)
        o.other_dim = find_dim(plan, o.batch);
    for (int i = 0; i < plan_n_inputs(plan); i++)
        if (generate_input(plan, i, &o, &in[i], err)) {
            err_wrap(err, "generated inputs: ");
            while (i-- > 0)
                tensor_fini(&in[i]);
            return -1;
        }
    return 0;
}
