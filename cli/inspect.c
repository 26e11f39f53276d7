/* SPDX-License-Identifier: Apache-2.0
 * pared inspect: what is in a model, what can be pruned or quantized, and why not. */
#include "cli/inspect.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "core/base/hash.h"
#include "core/base/utf8.h"
#include "core/engine/grad.h"
#include "core/model/inspect.h"
#include "core/model/onnx_read.h"
#include "core/model/parameters.h"
#include "core/model/validate.h"
#include "core/report/facts.h"

static json_t *missing_json(const struct missing_ops *list)
{
    json_t *a = json_array();
    char text[400];
    for (int i = 0; i < list->count; i++)
        json_array_append_new(a, utf8_json(missing_op_text(&list->at[i], text, sizeof text)));
    return a;
}

static int open_beside(const struct inspect_opts *opts, const char *name)
{
    if (opts->resolve)
        return opts->resolve(opts->resolve_arg, name);
    const char *slash = strrchr(opts->path, '/');
    char *path = NULL;
    int n = opts->external_dir ? asprintf(&path, "%s/%s", opts->external_dir, name)
                               : asprintf(&path, "%.*s%s", slash ? (int)(slash - opts->path) + 1 : 0, opts->path, name);
    int fd = n < 0 ? -1 : open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    free(n < 0 ? NULL : path);
    return fd;
}

static int add_files(const struct inspect_opts *opts, const struct model *m, struct facts *facts, struct err *err)
{
    const char **names = NULL;
    int n = 0, fd = open(opts->path, O_RDONLY | O_CLOEXEC);
    int rc =
        fd < 0 ? err_set_errno(err, ERR_IO, "the model cannot be opened") : facts_add_file(facts, fd, NULL, NULL, err);
    if (fd >= 0)
        close(fd);
    if (rc || model_external_files(m, &names, &n, err))
        return -1;
    for (int i = 0; rc == 0 && i < n; i++) {
        if ((fd = open_beside(opts, names[i])) < 0) {
            rc = err_set_errno(err, ERR_MODEL, "external data file '%.200s' cannot be opened", names[i]);
            break;
        }
        rc = facts_add_file(facts, fd, NULL, NULL, err);
        close(fd);
    }
    free(names);
    return rc;
}

/* Sentences about the model that are no reason to refuse it; at most some. */
enum { MAX_WARNINGS = 20 };

static void warn(void *arg, const char *sentence)
{
    json_t *warnings = arg;
    if (json_array_size(warnings) < MAX_WARNINGS)
        json_array_append_new(warnings, utf8_json(sentence));
}

static void warn_nan(void *arg, const char *name, int64_t count)
{
    char text[400];
    snprintf(text, sizeof text, "weight '%.200s' holds %lld NaN", name, (long long)count);
    warn(arg, text);
}

/* A plan with the shapes of batch 1, if the model runs and its other dimensions are fixed. NULL otherwise. */
static struct plan *plan_of(const struct model *m, json_t *warnings)
{
    struct plan *plan = plan_new(m, &(struct plan_opts){0}, NULL);
    int n = plan ? plan_n_inputs(plan) : 0;
    struct shape *in = calloc((size_t)n + 1, sizeof *in);
    const struct type *types;
    if (plan && !plan_infer(plan, NULL, &types, NULL)) /* as declared: a batch of 1 might contradict more */
        plan_contradictions(plan, warn, warnings);
    bool known = plan && in;
    for (int i = 0; known && i < n; i++) {
        const struct type *type = &m->values[plan_input(plan, i)].type;
        known = type->has_shape && type->shape.rank >= 0;
        for (int d = 1; known && d < type->shape.rank; d++)
            known = type->shape.dim[d] >= 0;
        if (known)
            plan_input_shape(plan, i, 1, 1, &in[i]);
    }
    if (known)
        known = plan_infer(plan, in, &types, NULL) == 0;
    free(in);
    if (known)
        return plan;
    plan_free(plan);
    return NULL;
}

static json_t *facts_of(const struct model *m, const struct facts *measured, const char *sha256,
                        const struct missing_ops *missing, const struct missing_ops *gradients)
{
    json_t *facts = model_inspect(m), *more = facts_json(measured);
    if (facts) {
        json_object_update(facts, more);
        json_object_set_new(facts, "sha256", json_string(sha256));
        json_object_set_new(facts, "runnable", json_boolean(missing->count == 0));
        json_object_set_new(facts, "missing_operators", missing_json(missing));
        json_object_set_new(facts, "operators_without_gradient", missing_json(gradients));
    }
    json_decref(more);
    return facts;
}

int inspect_file(const struct inspect_opts *opts, struct inspect_result *result, struct err *err)
{
    char sha256[SHA256_HEX] = "";
    struct missing_ops missing = {0}, gradients = {0};
    struct facts facts;
    struct plan *plan = NULL;
    struct onnx_read_opts read = {.external_dir = opts->external_dir,
                                  .resolve = opts->resolve,
                                  .resolve_arg = opts->resolve_arg,
                                  .keep_unaligned = true};
    struct model *m = NULL;
    int rc = -1;
    json_t *warnings = json_array();
    facts_init(&facts);
    *result = (struct inspect_result){0};
    if (opts->sha256)
        snprintf(sha256, sizeof sha256, "%s", opts->sha256);
    if ((!sha256[0] && hash_file(opts->path, sha256, err)) || !(m = onnx_read_file(opts->path, &read, err)) ||
        model_validate(m, err) || add_files(opts, m, &facts, err))
        goto out;
    facts_weights(&facts, m);
    model_nan_weights(m, warn_nan, warnings);
    if (engine_missing_ops(m, &missing, err))
        goto out;
    if (missing.count == 0 && engine_missing_gradients(m, &gradients, err))
        goto out;
    if (missing.count == 0)
        plan = plan_of(m, warnings);
    if (plan)
        facts_cost(&facts, plan);
    result->facts = facts_of(m, &facts, sha256, &missing, &gradients);
    if (result->facts && json_array_size(warnings))
        json_object_set(result->facts, "warnings", warnings);
    result->layers = inspect_layers_json(m, plan);
    if (opts->graph)
        result->graph = model_graph_json(m, INSPECT_MAX_ROWS);
    rc = result->facts && result->layers && (!opts->graph || result->graph)
             ? 0
             : err_set(err, ERR_NOMEM, "no memory for the answer");
    if (rc == 0 && opts->groups && !(result->groups = inspect_groups_json(m, err)))
        rc = -1;
out:
    json_decref(warnings);
    missing_ops_fini(&missing);
    missing_ops_fini(&gradients);
    plan_free(plan);
    model_free(m);
    facts_fini(&facts);
    if (rc)
        inspect_result_fini(result);
    return rc;
}

void inspect_result_fini(struct inspect_result *r)
{
    json_decref(r->facts);
    json_decref(r->layers);
    json_decref(r->graph);
    json_decref(r->groups);
    *r = (struct inspect_result){0};
}

/* ---- the command ---- */

static const char help[] =
    "Usage: pared inspect MODEL [--layers] [--groups] [--json] [--external-dir DIR]\n\n"
    "Inputs, outputs, operators, parameters, multiply-accumulates and bytes of an ONNX model; with --layers also a row "
    "a\n"
    "layer: what it holds, and whether it can be pruned or quantized and why not. With --groups the channels that can "
    "only\n"
    "go together: how many, what makes them, what goes with them, what one costs, or why they cannot go. MACs are of "
    "batch 1.\n";

/* Names are a stranger's: none may drive the terminal. */
static void put(const char *text)
{
    for (; *text; text++)
        putchar((unsigned char)*text < 32 || *text == 127 ? '?' : *text);
}

static const char *text_of(const json_t *o, const char *key)
{
    const char *s = json_string_value(json_object_get(o, key));
    return s ? s : "";
}

static void print_values(const char *title, const json_t *values)
{
    size_t i, k;
    json_t *v, *d;
    json_array_foreach(values, i, v)
    {
        printf("%-16s ", i ? "" : title);
        put(text_of(v, "name"));
        printf(" %s%s[", text_of(v, "kind"), text_of(v, "dtype"));
        json_array_foreach(json_object_get(v, "shape"), k, d)
        {
            if (k)
                putchar(',');
            if (json_is_integer(d))
                printf("%lld", (long long)json_integer_value(d));
            else
                put(json_is_string(d) ? json_string_value(d) : "?");
        }
        puts("]");
    }
}

static void print_count(const json_t *facts, const char *title, const char *key)
{
    const json_t *v = json_object_get(facts, key);
    if (json_is_integer(v))
        printf("%-16s %lld\n", title, (long long)json_integer_value(v));
}

static void print_facts(const json_t *facts)
{
    size_t i;
    json_t *v;
    const char *key;
    printf("%-16s %s\n", "sha256", text_of(facts, "sha256"));
    if (*text_of(facts, "producer_name")) {
        printf("%-16s ", "producer");
        put(text_of(facts, "producer_name"));
        putchar(' ');
        put(text_of(facts, "producer_version"));
        putchar('\n');
    }
    json_array_foreach(json_object_get(facts, "opsets"), i, v)
    {
        printf("%-16s ", i ? "" : "opset");
        put(text_of(v, "domain"));
        printf(" %lld\n", (long long)json_integer_value(json_object_get(v, "version")));
    }
    print_values("inputs", json_object_get(facts, "inputs"));
    print_values("outputs", json_object_get(facts, "outputs"));
    print_count(facts, "bytes", "bytes");
    print_count(facts, "zstd bytes", "zstd_bytes");
    print_count(facts, "parameters", "params");
    print_count(facts, "non-zero", "nonzero");
    print_count(facts, "MACs", "macs");
    print_count(facts, "peak activations", "peak_activation_bytes");
    print_count(facts, "nodes", "nodes");
    printf("%-16s", "operators");
    json_object_foreach(json_object_get(facts, "ops"), key, v)
    {
        putchar(' ');
        put(key);
        printf(" x%lld", (long long)json_integer_value(v));
    }
    putchar('\n');
    json_array_foreach(json_object_get(facts, "missing_operators"), i, v)
    {
        printf("%-16s ", i ? "" : "cannot run");
        put(json_string_value(v));
        putchar('\n');
    }
    json_array_foreach(json_object_get(facts, "operators_without_gradient"), i, v)
    {
        printf("%-16s ", i ? "" : "cannot train");
        put(json_string_value(v));
        putchar('\n');
    }
    json_array_foreach(json_object_get(facts, "warnings"), i, v)
    {
        printf("%-16s ", i ? "" : "warning");
        put(json_string_value(v));
        putchar('\n');
    }
}

static void print_verdict(const char *title, const json_t *v)
{
    if (json_is_true(json_object_get(v, "possible")))
        printf("    can be %s\n", title);
    else
        printf("    not %s: %s\n", title, text_of(v, "why"));
}

static void print_layers(const json_t *layers)
{
    size_t i;
    json_t *row;
    putchar('\n');
    json_array_foreach(json_object_get(layers, "data"), i, row)
    {
        put(text_of(row, "node"));
        printf("  ");
        put(text_of(row, "op_type"));
        printf("  params %lld, bytes %lld", (long long)json_integer_value(json_object_get(row, "params")),
               (long long)json_integer_value(json_object_get(row, "bytes")));
        if (json_object_get(row, "macs"))
            printf(", MACs %lld", (long long)json_integer_value(json_object_get(row, "macs")));
        putchar('\n');
        print_verdict("pruned", json_object_get(row, "prune"));
        print_verdict("quantized", json_object_get(row, "quantize"));
    }
}

static void print_member(const json_t *member)
{
    const bool weight = json_object_get(member, "weight") != NULL;
    printf("    %-9s", weight ? text_of(member, "role") : "carries");
    put(text_of(member, weight ? "weight" : "value"));
    printf("  axis %lld of %lld", (long long)json_integer_value(json_object_get(member, "axis")),
           (long long)json_integer_value(json_object_get(member, "size")));
    if (*text_of(member, "op_type")) {
        printf("  %s '", text_of(member, "op_type"));
        put(text_of(member, "node"));
        putchar('\'');
    }
    putchar('\n');
}

static void print_group(const json_t *group)
{
    const json_t *each = json_object_get(group, "per_channel"), *member;
    size_t i;
    put(text_of(group, "name"));
    printf("  %lld %s", (long long)json_integer_value(json_object_get(group, "channels")),
           json_is_true(json_object_get(group, "heads")) ? "heads" : "channels");
    if (each)
        printf(", each %.6g params, %.6g bytes", json_number_value(json_object_get(each, "params")),
               json_number_value(json_object_get(each, "bytes")));
    if (json_object_get(each, "macs"))
        printf(", %.6g MACs", json_number_value(json_object_get(each, "macs")));
    putchar('\n');
    if (json_object_get(group, "frozen")) {
        printf("    %s: ", json_is_true(json_object_get(group, "prunable")) ? "some stay" : "cannot go");
        put(text_of(group, "frozen"));
        putchar('\n');
    }
    if (json_object_get(group, "approximate")) {
        printf("    not exact: ");
        put(text_of(group, "approximate"));
        putchar('\n');
    }
    json_array_foreach(json_object_get(group, "members"), i, member) print_member(member);
    if (json_object_get(group, "more"))
        printf("    and %lld more\n", (long long)json_integer_value(json_object_get(group, "more")));
}

static void print_groups(const json_t *groups)
{
    size_t i;
    json_t *group;
    putchar('\n');
    json_array_foreach(json_object_get(groups, "data"), i, group) print_group(group);
    if (json_object_get(groups, "more"))
        printf("and %lld groups more\n", (long long)json_integer_value(json_object_get(groups, "more")));
    if (json_object_get(groups, "why")) {
        printf("no groups: ");
        put(text_of(groups, "why"));
        putchar('\n');
    }
}

int cmd_inspect(int argc, char **argv)
{
    static const struct option options[] = {
        {"layers", no_argument, NULL, 'l'}, {"groups", no_argument, NULL, 'g'},
        {"json", no_argument, NULL, 'j'},   {"external-dir", required_argument, NULL, 'e'},
        {"help", no_argument, NULL, 'h'},   {0}};
    struct inspect_opts opts = {0};
    struct inspect_result r;
    struct err err = {0};
    bool layers = false, json = false;
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == 'h')
            return cli_help(help);
        if (c == '?')
            return cli_usage("inspect", "wrong option");
        layers = layers || c == 'l';
        opts.groups = opts.groups || c == 'g';
        json = json || c == 'j';
        opts.external_dir = c == 'e' ? optarg : opts.external_dir;
    }
    if (argc - optind != 1)
        return cli_usage("inspect", argc == optind ? "a model is needed" : "one model at a time");
    opts.path = argv[optind];
    if (inspect_file(&opts, &r, &err)) {
        err_wrap(&err, "%s: ", opts.path);
        return cli_fail(&err);
    }
    int rc = CLI_OK;
    if (json && layers)
        json_object_set(r.facts, "layers", json_object_get(r.layers, "data"));
    if (json && opts.groups) {
        json_object_set(r.facts, "groups", json_object_get(r.groups, "data"));
        if (json_object_get(r.groups, "why"))
            json_object_set(r.facts, "no_groups", json_object_get(r.groups, "why"));
    }
    if (json)
        rc = cli_print_json(json_incref(r.facts));
    else
        print_facts(r.facts);
    if (layers && !json)
        print_layers(r.layers);
    if (opts.groups && !json)
        print_groups(r.groups);
    inspect_result_fini(&r);
    return rc;
}
