/* SPDX-License-Identifier: Apache-2.0
 * pared bench: latency of a model on this machine, on made-up inputs. */
#include <stdio.h>

#include "cli/commands.h"
#include "core/stats/latency.h"

static const char help[] = "Usage: pared bench MODEL [OPTION]...\n"
                           "Time a model on inputs made up for its declared shapes.\n\n"
                           "  --threads N   threads to run with (default: all cores)\n"
                           "  --batch N     size of a first dim that is not fixed (default 1)\n"
                           "  --runs N      runs to time (default: as many as fit in 2 seconds, at least 10)\n"
                           "  --json        print one JSON object: p50_ms, p90_ms, p99_ms, runs, threads, batch\n"
                           "  --help        this text\n";

struct options {
    const char *model;
    int64_t threads, batch, runs;
    bool json;
};

static int measure(const struct options *o, struct latency *l, struct err *err)
{
    struct model *m = cli_read_model(o->model, err);
    struct pool *pool = m ? cli_pool(o->threads, err) : NULL;
    struct plan *plan = pool ? plan_new(m, &(struct plan_opts){.pool = pool}, err) : NULL;
    struct latency_opts lo = {
        .batch = o->batch, .threads = pool_threads(pool), .min_runs = (int)o->runs, .max_runs = (int)o->runs};
    int rc = plan ? latency_measure(&plan, 1, &lo, l, err) : -1;
    plan_free(plan);
    pool_free(pool);
    model_free(m);
    return rc;
}

static int parse(int argc, char **argv, struct options *o, struct err *err)
{
    static const struct option longs[] = {
        {"threads", required_argument, NULL, 't'}, {"batch", required_argument, NULL, 'b'},
        {"runs", required_argument, NULL, 'r'},    {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},          {0}};
    int c, rc = 0;
    while (!rc && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 't')
            rc = cli_int("--threads", optarg, 1, 256, &o->threads, err);
        else if (c == 'b')
            rc = cli_int("--batch", optarg, 1, 1 << 20, &o->batch, err);
        else if (c == 'r')
            rc = cli_int("--runs", optarg, 1, 1000000, &o->runs, err);
        else if (c == 'j')
            o->json = true;
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
    struct latency l;
    int rc = parse(argc, argv, &o, &err);
    if (rc > 0)
        return cli_help(help);
    if (rc || measure(&o, &l, &err))
        return cli_fail(&err);
    if (o.json)
        return cli_print_json(json_pack("{s:f, s:f, s:f, s:i, s:i, s:I}", "p50_ms", l.p50_ms, "p90_ms", l.p90_ms,
                                        "p99_ms", l.p99_ms, "runs", l.runs, "threads", l.threads, "batch",
                                        (json_int_t)l.batch));
    printf("p50 %.3f ms, p90 %.3f ms, p99 %.3f ms (%d runs, %d threads, batch %lld)\n", l.p50_ms, l.p90_ms, l.p99_ms,
           l.runs, l.threads, (long long)l.batch);
    return CLI_OK;
}
