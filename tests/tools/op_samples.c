/* SPDX-License-Identifier: Apache-2.0
 * op_samples DIR: every sample of every operator as a folder in the layout of the ONNX backend tests, with the outputs
 * of this engine: DIR/<op>_<since>_<k>/model.onnx, test_data_set_0/{input,output}_K.pb. tests/e2e/test_ops_ort.py runs
 * them in ONNX Runtime.
 * op_samples --random SEED COUNT DIR: COUNT random single-node models (tests/op_random.h, tame) as DIR/<k>_<op>/model.onnx and
 * input_K.pb, for tests/e2e/test_fuzz_ort.py. */
#include <stdio.h>
#include <sys/stat.h>

#include "core/base/file.h"
#include "core/engine/engine.h"
#include "core/model/onnx_write.h"
#include "tests/op_random.h"

/* slots: the number in each name, NULL: 0, 1, ... */
static int write_tensors(const char *dir, const char *kind, const struct tensor *t, const int *slots, int n,
                         struct err *err)
{
    for (int i = 0; i < n; i++) {
        char path[1200], name[32];
        snprintf(path, sizeof path, "%s/test_data_set_0/%s_%d.pb", dir, kind, i);
        snprintf(name, sizeof name, "%s%d", kind[0] == 'i' ? "x" : "y", slots ? slots[i] : i);
        if (onnx_write_tensor_file(&t[i], name, path, err) < 0)
            return -1;
    }
    return 0;
}

static int write_case(struct op_case *c, const char *dir, struct err *err)
{
    struct tensor out[OP_CASE_OUTPUTS] = {0};
    char path[1100];
    struct plan *plan = plan_new(c->m, NULL, err);
    int rc = plan && plan_run(plan, c->fed, out, NULL, err) == 0 ? 0 : -1;
    plan_free(plan);
    struct graph *g = model_main(c->m);
    for (int i = 0; i < c->n_out && rc == 0; i++) { /* ONNX Runtime wants outputs declared */
        g->outputs[i].has_type = true;
        g->outputs[i].type = (struct type){.kind = TYPE_TENSOR, .dtype = out[i].dtype, .has_dtype = true};
    }
    snprintf(path, sizeof path, "%s/test_data_set_0", dir);
    if (rc == 0)
        rc = file_make_dirs(path, err);
    snprintf(path, sizeof path, "%s/model.onnx", dir);
    if (rc == 0 && (onnx_write_file(c->m, path, NULL, err) < 0 ||
                    write_tensors(dir, "input", c->fed, c->fed_slot, c->n_fed, err) < 0 ||
                    write_tensors(dir, "output", out, NULL, c->n_out, err) < 0))
        rc = -1;
    for (int i = 0; i < OP_CASE_OUTPUTS; i++)
        tensor_fini(&out[i]);
    return rc;
}

/* ---- random cases ---- */
/* Outputs get the types they have here; without an answer they stay undeclared. */
static void declare_outputs(struct op_case *c)
{
    struct tensor out[OP_CASE_OUTPUTS] = {0};
    struct err err = {0};
    const struct plan_opts opts = {.max_memory_bytes = (size_t)1 << 28};
    struct plan *plan = plan_new(c->m, &opts, &err);
    if (plan && plan_run(plan, c->fed, out, NULL, &err) == 0)
        for (int i = 0; i < c->n_out; i++) {
            struct value_info *info = &model_main(c->m)->outputs[i];
            info->has_type = !tensor_is_list(&out[i]);
            info->type = (struct type){.kind = TYPE_TENSOR, .dtype = out[i].dtype, .has_dtype = true};
        }
    plan_free(plan);
    for (int i = 0; i < OP_CASE_OUTPUTS; i++)
        tensor_fini(&out[i]);
}

static int write_random(struct rng *rng, int k, const char *root, struct err *err)
{
    struct op_case c = {0};
    uint8_t bytes[200];
    char path[1200], name[32];
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)rng_below(rng, 256);
    int rc = op_random(&c, bytes, sizeof bytes, true);
    const struct node *node = rc == 0 ? &c.m->nodes[c.node] : NULL;
    const struct op_class *op = node ? op_find(node->op_type, node->domain ? node->domain : "", c.opset) : NULL;
    if (!op || op->nondeterministic) {
        op_case_free(&c);
        return 1;
    }
    declare_outputs(&c);
    snprintf(path, sizeof path, "%s/%05d_%s", root, k, node->op_type);
    rc = file_make_dirs(path, err);
    snprintf(path, sizeof path, "%s/%05d_%s/model.onnx", root, k, node->op_type);
    if (rc == 0)
        rc = onnx_write_file(c.m, path, NULL, err);
    for (int i = 0; i < c.n_fed && rc == 0; i++) {
        snprintf(path, sizeof path, "%s/%05d_%s/input_%d.pb", root, k, node->op_type, i);
        snprintf(name, sizeof name, "a%d", c.fed_slot[i]);
        rc = onnx_write_tensor_file(&c.fed[i], name, path, err);
    }
    op_case_free(&c);
    return rc;
}

static int write_randoms(uint64_t seed, int count, const char *root)
{
    struct rng rng;
    struct err err = {0};
    rng_init(&rng, seed, 0);
    for (int k = 0; k < count;) {
        const int rc = write_random(&rng, k, root, &err);
        if (rc < 0) {
            fprintf(stderr, "%s\n", err.msg);
            return 1;
        }
        k += rc == 0;
    }
    printf("%d random cases written\n", count);
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 5 && strcmp(argv[1], "--random") == 0) {
        engine_init();
        return write_randoms(strtoull(argv[2], NULL, 10), atoi(argv[3]), argv[4]);
    }
    if (argc != 2) {
        fprintf(stderr, "usage: op_samples DIR | op_samples --random SEED COUNT DIR\n");
        return 2;
    }
    engine_init();
    int written = 0, failed = 0, bare = 0;
    for (const struct op_class *const *row = op_all(); *row; row++) {
        const struct op_class *op = *row;
        if (!op->samples || !op->samples[0].inputs) {
            printf("no samples: %s since %d\n", op->type, op->since);
            bare++;
        }
        for (int k = 0; op->samples && op->samples[k].inputs; k++) {
            struct op_case c;
            struct err err = {0};
            char dir[1000];
            snprintf(dir, sizeof dir, "%s/%s%s%s_%d_%d", argv[1], op->domain && *op->domain ? op->domain : "",
                     op->domain && *op->domain ? "." : "", op->type, op->since, k);
            bool fine = op_case_build(&c, op, &op->samples[k], &err) == 0 && write_case(&c, dir, &err) == 0;
            if (!fine)
                printf("%s since %d, sample %d: %s\n", op->type, op->since, k, err.msg);
            written += fine;
            failed += !fine;
            op_case_free(&c);
        }
    }
    printf("%d samples written, %d failed, %d rows without samples\n", written, failed, bare);
    return failed != 0;
}
