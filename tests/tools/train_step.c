/* SPDX-License-Identifier: Apache-2.0
 * train_step MODEL BATCH THREADS: times training steps (forward, cross entropy, backward, SGD with momentum) on
 * seeded normal inputs. Each line on standard input asks for so many steps; the answer is one line: seconds of the
 * fastest, and least
 * seconds of CPU time (of all
 * threads: for a busy machine). So another program can alternate with it. "memory" is answered by the most bytes it had resident
 * so far beyond those before the model was opened. "stop" or the end of input ends it. */
#include <time.h>

#include "core/base/clock.h"
#include "core/base/rng.h"
#include "tests/tools/train_tool.h"

static void make_batch(const struct tool_net *net, int64_t batch, struct tensor *x, struct tensor *labels)
{
    struct err err = {0};
    struct rng rng;
    struct shape shape;
    const struct graph *g = model_main(net->m);
    for (int i = 0; i < g->n_inputs; i++)
        if (g->inputs[i].value == grad_feed(net->g, 0))
            shape = g->inputs[i].type.shape;
    for (int d = 0; d < shape.rank; d++)
        if (d == 0 || shape.dim[d] < 0)
            shape.dim[d] = d == 0 ? batch : 1;
    rng_init(&rng, 1, 0);
    tool_check(tensor_alloc(x, DTYPE_FLOAT, &shape, &err), &err);
    tool_check(tensor_alloc(labels, DTYPE_INT64, &SHAPE(batch), &err), &err);
    for (int64_t i = 0; i < tensor_count(x); i++)
        tensor_f32(x)[i] = (float)rng_normal(&rng);
    for (int64_t i = 0; i < batch; i++)
        tensor_i64(labels)[i] = (int64_t)rng_below(&rng, 10);
}

/* Bytes by /proc/self/status: "VmRSS" is resident now, "VmHWM" was at most (getrusage's figure would be that of the program that
 * started this one, if it was larger). */
static long status_bytes(const char *key)
{
    char line[256];
    long kib = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, key, strlen(key)) == 0 && line[strlen(key)] == ':')
            kib = strtol(line + strlen(key) + 1, NULL, 10);
    if (f)
        fclose(f);
    return kib * 1024;
}

int main(int argc, char **argv)
{
    struct tool_net net = {0};
    struct tensor x = {0}, labels = {0};
    struct err err = {0};
    char line[64];
    if (argc != 4) {
        fprintf(stderr, "usage: train_step MODEL BATCH THREADS\n");
        return 2;
    }
    const long before = status_bytes("VmRSS");
    tool_net_open(&net, argv[1], atoi(argv[3]), false, (struct grad_opts){.training = true, .checkpoints = 1});
    make_batch(&net, atoi(argv[2]), &x, &labels);
    struct optimizer *o = optimizer_new(&(struct optimizer_opts){.lr = 0.01, .momentum = 0.9}, net.n, &err);
    tool_check(o ? 0 : -1, &err);
    while (fgets(line, sizeof line, stdin) && strncmp(line, "stop", 4) != 0) {
        double best = INFINITY, least = INFINITY;
        if (strncmp(line, "memory", 6) == 0) {
            printf("%ld\n", status_bytes("VmHWM") - before);
            fflush(stdout);
            continue;
        }
        for (int i = 0, n = atoi(line); i < n; i++) {
            const double start = clock_seconds();
            const clock_t cpu = clock();
            grad_reset(net.g);
            tool_step(&net, &x, &labels);
            tool_running(&net);
            tool_optimize(&net, o);
            best = fmin(best, clock_seconds() - start);
            least = fmin(least, (double)(clock() - cpu) / CLOCKS_PER_SEC);
        }
        printf("%.6f %.6f\n", best, least);
        fflush(stdout);
    }
    optimizer_free(o);
    tool_net_close(&net);
    tensor_fini(&x);
    tensor_fini(&labels);
    return 0;
}
