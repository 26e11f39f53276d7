/* SPDX-License-Identifier: Apache-2.0
 * libFuzzer target: bytes become a model of one node (tests/op_random.h: any row, opset, dtypes, extents, attributes, values), which
 * is planned and run as it is and optimized, and forwards and backwards where its row has a gradient. What is refused must be
 * refused with a sentence; what runs both ways must have the same types. What once crashed lies in regression/ops/. */
#include <stdio.h>
#include <stdlib.h>

#include "core/engine/engine.h"
#include "core/engine/grad.h"
#include "tests/op_random.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY ((size_t)64 << 20)

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    engine_init();
    tensor_set_limit(MEMORY);
    return 0;
}

static int run(const struct op_case *c, bool optimize, struct tensor *out)
{
    struct err err = {0};
    const struct plan_opts opts = {.max_memory_bytes = MEMORY, .optimize = optimize};
    struct plan *plan = plan_new(c->m, &opts, &err);
    const int rc = plan && plan_run(plan, c->fed, out, NULL, &err) == 0 ? 0 : -1;
    if (rc < 0 && !err.msg[0])
        abort(); /* refused without a sentence */
    plan_free(plan);
    return rc;
}

static void run_gradient(const struct op_case *c)
{
    struct err err = {0};
    uint32_t inputs[OP_CASE_INPUTS];
    int n = 0;
    for (int k = 0; k < c->n_fed; k++)
        if (c->fed[k].dtype == DTYPE_FLOAT || c->fed[k].dtype == DTYPE_DOUBLE)
            inputs[n++] = c->m->nodes[c->node].input[c->fed_slot[k]];
    const struct grad_opts opts = {.inputs = inputs, .n_inputs = n, .training = true, .checkpoints = 1, .max_memory_bytes = MEMORY};
    struct grad *g = n ? grad_new(c->m, &opts, &err) : NULL;
    if (g && grad_forward(g, c->fed, &err) == 0) {
        for (int i = 0; i < grad_n_outputs(g); i++) {
            struct tensor *seed = grad_seed(g, i);
            for (int64_t j = 0; seed && j < tensor_count(seed); j++)
                dtype_set(seed->dtype, seed->data, j, 1);
        }
        if (grad_backward(g, &err) < 0 && !err.msg[0])
            abort();
    }
    grad_free(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct op_case c;
    struct tensor plain[OP_CASE_OUTPUTS] = {0}, fast[OP_CASE_OUTPUTS] = {0};
    if (op_random(&c, data, size, false) == 0) {
        if (getenv("PARED_FUZZ_SAY"))
            fprintf(stderr, "%s\n", c.m->nodes[c.node].op_type);
        const int a = run(&c, false, plain), b = run(&c, true, fast);
        for (int i = 0; i < c.n_out && a == 0 && b == 0; i++)
            if (plain[i].dtype != fast[i].dtype || !shape_equal(&plain[i].shape, &fast[i].shape))
                abort();
        const struct op_class *op = op_find(c.m->nodes[c.node].op_type, c.m->nodes[c.node].domain ? c.m->nodes[c.node].domain : "", c.opset);
        if (op && op->backward)
            run_gradient(&c);
    }
    for (int i = 0; i < OP_CASE_OUTPUTS; i++) {
        tensor_fini(&plain[i]);
        tensor_fini(&fast[i]);
    }
    op_case_free(&c);
    return 0;
}
