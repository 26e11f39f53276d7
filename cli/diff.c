/* SPDX-License-Identifier: Apache-2.0
 * pared diff: two models on the same inputs - how near the outputs are, and the first layer where they part. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/commands.h"
#include "core/stats/evaluate.h"

static const char help[] =
    "Usage: pared diff A B [OPTION]...\n"
    "Run two models on the same inputs; print fidelity per output, per layer (values of the same name), and the first "
    "layer\n"
    "where they part: whose largest difference exceeds the tolerance times its largest value.\n\n"
    "  --data D          a dataset (default: 4 made-up inputs)\n"
    "  --limit N         samples of the dataset (default 32)\n"
    "  --tolerance X     default 0.001\n"
    "  --threads N       threads to run with (default: all cores)\n"
    "  --max-memory N    bytes that the activations of one model may take, as in 512M or 2G (default 16G)\n"
    "  --seed N          of the made-up inputs\n"
    "  --json            print one JSON object\n"
    "  --help            this text\n";

struct options {
    const char *a, *b, *data;
    int64_t limit, threads, seed;
    size_t memory;
    double tolerance;
    bool json;
};

static bool parted(const struct fidelity_result *r, double tolerance)
{
    return r->elements && !(r->max_abs <= tolerance * r->largest);
}

/* Row of the first layer that differs by more than the tolerance; -1. */
static int first_parting(const struct fidelity *layers, double tolerance)
{
    for (int i = 0; i < fidelity_n_outputs(layers); i++) {
        struct fidelity_result r;
        fidelity_result(layers, i, &r);
        if (parted(&r, tolerance))
            return i;
    }
    return -1;
}

static void print_table(const char *title, const struct fidelity *f, double tolerance)
{
    printf("%-40s %12s %10s %10s %8s\n", title, "max abs", "SQNR dB", "cosine", "top-1");
    for (int i = 0; i < fidelity_n_outputs(f); i++) {
        struct fidelity_result r;
        fidelity_result(f, i, &r);
        if (!r.elements) {
            printf("%-40s %12s\n", r.name, "not comparable");
            continue;
        }
        printf("%-40s %12.4g %10.2f %10.6f ", r.name, r.max_abs, r.sqnr_db, r.cosine);
        if (isnan(r.top1_agreement))
            printf("%8s%s\n", "-", parted(&r, tolerance) ? "  *" : "");
        else
            printf("%7.2f%%%s\n", 100 * r.top1_agreement, parted(&r, tolerance) ? "  *" : "");
    }
}

static int print_diff(const struct options *o, const struct fidelity *outputs, const struct fidelity *layers)
{
    const char *source = o->data ? "dataset" : "generated";
    int first = first_parting(layers, o->tolerance);
    struct fidelity_result r = {.name = NULL};
    if (first >= 0)
        fidelity_result(layers, first, &r);
    if (o->json) {
        json_t *all = fidelity_json(outputs, source), *per_layer = fidelity_json(layers, source);
        json_object_set(all, "layers", json_object_get(per_layer, "outputs"));
        json_object_set_new(all, "first_difference", r.name ? json_string(r.name) : json_null());
        json_decref(per_layer);
        return cli_print_json(all);
    }
    print_table("layer", layers, o->tolerance);
    putchar('\n');
    print_table("output", outputs, o->tolerance);
    printf("\n%" PRId64 " samples (%s); ", fidelity_samples(outputs), source);
    if (r.name)
        printf("the models part at '%s'\n", r.name);
    else
        printf("no layer differs by more than %g of its largest value\n", o->tolerance);
    return CLI_OK;
}

static int diff(const struct options *o, struct err *err)
{
    int status = CLI_FAILED;
    struct fidelity *outputs = NULL, *layers = NULL;
    struct dataset *ds = NULL;
    struct model *a = cli_read_model(o->a, err), *b = a ? cli_read_model(o->b, err) : NULL;
    struct pool *pool = b ? cli_pool(o->threads, err) : NULL;
    if (!pool || (o->data && !(ds = dataset_open(o->data, &(struct dataset_opts){.pool = pool}, err))))
        goto out;
    struct evaluate_opts eo = {.pool = pool, .max_memory_bytes = o->memory, .limit = o->limit, .batch = 1};
    struct evaluate_compare_opts co = {.seed = (uint64_t)o->seed, .layers = &layers};
    outputs = evaluate_compare(a, b, ds, &eo, &co, err);
    if (outputs)
        status = print_diff(o, outputs, layers);
out:
    fidelity_free(outputs);
    fidelity_free(layers);
    dataset_close(ds);
    pool_free(pool);
    model_free(a);
    model_free(b);
    return status;
}

static int parse_tolerance(const char *text, double *out, struct err *err)
{
    char *end;
    *out = strtod(text, &end);
    return end != text && !*end && *out >= 0 && isfinite(*out)
               ? 0
               : err_set(err, ERR_USAGE, "--tolerance takes a number from 0 on, got '%s'", text);
}

static int parse(int argc, char **argv, struct options *o, struct err *err)
{
    static const struct option longs[] = {{"data", required_argument, NULL, 'd'},
                                          {"limit", required_argument, NULL, 'l'},
                                          {"threads", required_argument, NULL, 't'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"tolerance", required_argument, NULL, 'x'},
                                          {"max-memory", required_argument, NULL, 'm'},
                                          {"json", no_argument, NULL, 'j'},
                                          {"help", no_argument, NULL, 'h'},
                                          {0}};
    int c, rc = 0;
    while (!rc && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'd')
            o->data = optarg;
        else if (c == 'l')
            rc = cli_int("--limit", optarg, 1, INT64_MAX, &o->limit, err);
        else if (c == 't')
            rc = cli_int("--threads", optarg, 1, 256, &o->threads, err);
        else if (c == 's')
            rc = cli_int("--seed", optarg, 0, INT64_MAX, &o->seed, err);
        else if (c == 'x')
            rc = parse_tolerance(optarg, &o->tolerance, err);
        else if (c == 'm')
            rc = cli_size("--max-memory", optarg, &o->memory, err);
        else if (c == 'j')
            o->json = true;
        else
            return c == 'h' ? 1 : err_set(err, ERR_USAGE, "wrong usage; see `pared diff --help`");
    }
    if (!rc && argc - optind != 2)
        rc = err_set(err, ERR_USAGE, "diff takes two models; see `pared diff --help`");
    if (rc)
        return rc;
    o->a = argv[optind];
    o->b = argv[optind + 1];
    return 0;
}

int cmd_diff(int argc, char **argv)
{
    struct options o = {.limit = 32, .tolerance = 1e-3};
    struct err err = {0};
    int rc = parse(argc, argv, &o, &err);
    if (rc > 0)
        return cli_help(help);
    if (rc)
        return cli_fail(&err);
    int status = diff(&o, &err);
    return status == CLI_OK || !err.code ? status : cli_fail(&err);
}
