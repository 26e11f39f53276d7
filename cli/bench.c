/* SPDX-License-Identifier: Apache-2.0
 * pared bench: latency of a model on this machine, on made-up inputs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/commands.h"
#include "core/stats/generate.h"
#include "core/stats/latency.h"

static const char help[] = "Usage: pared bench MODEL [OPTION]...\n"
                           "Time a model on inputs made up for its declared shapes.\n\n"
                           "  --threads N   threads to run with (default: all cores)\n"
                           "  --batch N     size of a first dim that is not fixed (default 1)\n"
                           "  --runs N      runs to time (default: as many as fit in 2 seconds, at least 10)\n"
                           "  --against ort ONNX Runtime in the same run, alternating (needs python3 with onnxruntime)\n"
                           "  --profile     the time of each node instead, as the engine runs it\n"
                           "  --plain       run the nodes as they are in the file: nothing fused, packed or blocked\n"
                           "  --max-memory N bytes that activations may take, as in 512M or 2G (default 16G)\n"
                           "  --json        print one JSON object: p50_ms, p90_ms, p99_ms, runs, threads, batch\n"
                           "  --help        this text\n";

struct options {
    const char *model;
    int64_t threads, batch, runs;
    size_t memory;
    bool json, against, profile, plain;
};

static int print_latency(const struct bench *b, struct err *err)
{
    struct latency l;
    struct latency_opts lo = {.batch = b->batch,
                              .threads = b->threads,
                              .min_runs = (int)b->runs,
                              .max_runs = (int)b->runs,
                              .in = b->in};
    if (latency_measure(&b->plan, 1, &lo, &l, err))
        return CLI_FAILED;
    if (b->json)
        return cli_print_json(json_pack("{s:f, s:f, s:f, s:i, s:i, s:I}", "p50_ms", l.p50_ms, "p90_ms", l.p90_ms,
                                        "p99_ms", l.p99_ms, "runs", l.runs, "threads", l.threads, "batch",
                                        (json_int_t)l.batch));
    printf("p50 %.3f ms, p90 %.3f ms, p99 %.3f ms (%d runs, %d threads, batch %lld)\n", l.p50_ms, l.p90_ms, l.p99_ms,
           l.runs, l.threads, (long long)l.batch);
    return CLI_OK;
}

static int bench(const struct options *o, struct err *err)
{
    int status = CLI_FAILED;
    struct tensor *in = NULL;
    struct model *m = cli_read_model(o->model, err);
    struct pool *pool = m ? cli_pool(o->threads, err) : NULL;
    struct plan_opts po = {.pool = pool, .max_memory_bytes = o->memory, .optimize = !o->plain};
    struct plan *plan = pool ? plan_new(m, &po, err) : NULL;
    if (!plan)
        goto out;
    in = calloc((size_t)plan_n_inputs(plan) + 1, sizeof *in);
    if (!in) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (generate_inputs(plan, &(struct generate_opts){.batch = o->batch}, in, err))
        goto out;
    struct bench b = {.path = o->model,
                      .plan = plan,
                      .in = in,
                      .threads = pool_threads(pool),
                      .batch = o->batch,
                      .runs = o->runs,
                      .json = o->json};
    status = o->profile ? bench_profile(&b, err) : o->against ? bench_against_ort(&b, err) : print_latency(&b, err);
    for (int i = 0; i < plan_n_inputs(plan); i++)
        tensor_fini(&in[i]);
out:
    free(in);
    plan_free(plan);
    pool_free(pool);
    model_free(m);
    return status;
}

static int parse_against(const char *text, struct err *err)
{
    return !strcmp(text, "ort") ? 0 : err_set(err, ERR_USAGE, "--against takes ort, got '%s'", text);
}

static int parse(int argc, char **argv, struct options *o, struct err *err)
{
    static const struct option longs[] = {
        {"threads", required_argument, NULL, 't'}, {"batch", required_argument, NULL, 'b'},
        {"runs", required_argument, NULL, 'r'},    {"json", no_argument, NULL, 'j'},
        {"against", required_argument, NULL, 'a'}, {"profile", no_argument, NULL, 'p'},
        {"plain", no_argument, NULL, 'n'},         {"help", no_argument, NULL, 'h'},
        {"max-memory", required_argument, NULL, 'm'}, {0}};
    int c, rc = 0;
    while (!rc && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 't')
            rc = cli_int("--threads", optarg, 1, 256, &o->threads, err);
        else if (c == 'b')
            rc = cli_int("--batch", optarg, 1, 1 << 20, &o->batch, err);
        else if (c == 'r')
            rc = cli_int("--runs", optarg, 1, 1000000, &o->runs, err);
        else if (c == 'm')
            rc = cli_size("--max-memory", optarg, &o->memory, err);
        else if (c == 'j')
            o->json = true;
        else if (c == 'p')
            o->profile = true;
        else if (c == 'n')
            o->plain = true;
        else if (c == 'a')
            rc = (o->against = true, parse_against(optarg, err));
        else
            return c == 'h' ? 1 : err_set(err, ERR_USAGE, "wrong usage; see `pared bench --help`");
    }
    if (!rc && argc - optind != 1)
        rc = err_set(err, ERR_USAGE, "bench takes one model; see `pared bench --help`");
    o->model = argv[optind];
    return rc;
}

int cmd_bench(int argc, char **argv)
{
    struct options o = {.batch = 1};
    struct err err = {0};
    int rc = parse(argc, argv, &o, &err);
    if (rc > 0)
        return cli_help(help);
    if (rc)
        return cli_fail(&err);
    int status = bench(&o, &err);
    return status == CLI_OK || !err.code ? status : cli_fail(&err);
}
