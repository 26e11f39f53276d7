/* SPDX-License-Identifier: Apache-2.0
 * pared eval: a model on a dataset - metrics, latency of the run, and the outputs if wanted. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "cli/commands.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/data/npz_write.h"
#include "core/model/onnx_value.h"
#include "core/model/parameters.h"
#include "core/stats/evaluate.h"

static const char help[] =
    "Usage: pared eval MODEL --data D [OPTION]...\n"
    "Run a model over a dataset and print its metrics.\n\n"
    "  --data D         an .npz, .npy, .tar(.gz), .zip or CIFAR-10 .bin file, a data.json, or a folder of input_K.pb\n"
    "  --outputs FILE   keep every output: FILE.npz (batches joined on axis 0), or DIR/ for output_K.pb\n"
    "  --limit N        the first N samples only\n"
    "  --batch N        samples a run (default 32, as far as the model takes more than one)\n"
    "  --threads N      threads to run with (default: all cores)\n"
    "  --max-memory N   bytes that activations may take, as in 512M or 2G (default 16G)\n"
    "  --max-seconds N  time that one run may take, as a loop without end would (default: no limit)\n"
    "  --json           print one JSON object\n"
    "  --help           this text\n";

struct options {
    const char *model, *data, *outputs;
    int64_t limit, batch, threads, seconds;
    size_t memory;
    bool json;
};

struct session {
    const struct options *o;
    struct plan *plan;
    struct task_metrics *metrics;
    struct npz_writer *npz;
    bool folder;
};

static bool wants_folder(const char *path)
{
    struct stat st;
    size_t n = strlen(path);
    return (n && path[n - 1] == '/') || (!stat(path, &st) && S_ISDIR(st.st_mode));
}

static int keep_outputs(struct session *s, const struct evaluate_batch *b, struct err *err)
{
    const struct model *m = plan_model(s->plan);
    for (int i = 0; i < plan_n_outputs(s->plan); i++) {
        const char *name = m->values[plan_output(s->plan, i)].name;
        char path[4096];
        if (s->npz && npz_rows(s->npz, name, &b->out[i], err))
            return -1;
        if (!s->folder)
            continue;
        int n = snprintf(path, sizeof path, "%s/output_%d.pb", s->o->outputs, i);
        if (n < 0 || (size_t)n >= sizeof path)
            return err_set(err, ERR_USAGE, "--outputs: the path is too long");
        if (onnx_write_value_file(&b->out[i], name, path, err))
            return -1;
    }
    return 0;
}

static int on_batch(void *arg, const struct evaluate_batch *b, struct err *err)
{
    struct session *s = arg;
    if (s->folder && b->first > 0)
        return err_set(err, ERR_USAGE,
                       "--outputs DIR/ keeps the outputs of one run; the data has more: use FILE.npz, or --limit");
    if (evaluate_judge(s->metrics, b, plan_n_outputs(s->plan), err))
        return -1;
    return keep_outputs(s, b, err);
}

static int open_outputs(struct session *s, struct err *err)
{
    if (!s->o->outputs)
        return 0;
    s->folder = wants_folder(s->o->outputs);
    if (s->folder)
        return file_make_dirs(s->o->outputs, err);
    s->npz = npz_writer_new(s->o->outputs, err);
    return s->npz ? 0 : -1;
}

static int print_result(const struct session *s, int64_t samples, double seconds, const struct plan *plan)
{
    struct task_metrics_result r;
    task_metrics_result(s->metrics, &r);
    if (s->o->json) {
        json_t *o = json_pack("{s:I, s:f, s:I, s:I}", "samples", (json_int_t)samples, "seconds", seconds,
                              "peak_activation_bytes", (json_int_t)plan_slab_bytes(plan), "packed_weight_bytes",
                              (json_int_t)plan_packed_bytes(plan));
        if (r.samples)
            json_object_set_new(o, "metrics", task_metrics_json(s->metrics, true));
        return cli_print_json(o);
    }
    printf("%" PRId64 " samples in %.2f s", samples, seconds);
    if (r.samples && r.classes)
        printf(", top-1 %.2f %%, top-5 %.2f %%, precision %.4f, recall %.4f, F1 %.4f\n", 100 * r.top1, 100 * r.top5,
               r.precision, r.recall, r.f1);
    else if (r.samples)
        printf(", mean squared error %g, PSNR %.2f dB\n", r.mse, r.psnr_db);
    else
        printf(", no labels\n");
    return CLI_OK;
}

static void warn_nan(void *arg, const char *name, int64_t count)
{
    (void)arg;
    fputs("pared: warning: weight '", stderr);
    for (const char *c = name; *c; c++) /* a stranger's name may not drive the terminal */
        fputc((unsigned char)*c < 32 || *c == 127 ? '?' : *c, stderr);
    fprintf(stderr, "' holds %" PRId64 " NaN\n", count);
}

static int evaluate(const struct options *o, struct err *err)
{
    struct session s = {.o = o};
    int status = CLI_FAILED;
    bool done = false;
    struct dataset *ds = NULL;
    struct model *m = cli_read_model(o->model, err);
    struct pool *pool = m ? cli_pool(o->threads, err) : NULL;
    if (m)
        model_nan_weights(m, warn_nan, NULL);
    struct plan_opts po = {.pool = pool, .max_memory_bytes = o->memory, .optimize = true};
    if (!pool || !(s.plan = plan_new(m, &po, err)))
        goto out;
    if (!(ds = dataset_open(o->data, &(struct dataset_opts){.pool = pool}, err)))
        goto out;
    if (!(s.metrics = task_metrics_new())) {
        err_set(err, ERR_NOMEM, "out of memory");
        goto out;
    }
    if (open_outputs(&s, err))
        goto out;
    double start = clock_seconds();
    struct plan_run_opts run = {.max_seconds = (double)o->seconds};
    struct evaluate_opts eo = {.pool = pool, .batch = o->batch, .limit = o->limit, .run = &run};
    int64_t samples = evaluate_each(s.plan, m, ds, &eo, on_batch, &s, err);
    double seconds = clock_seconds() - start;
    if (samples < 0)
        goto out;
    done = true;
    struct npz_writer *npz = s.npz;
    s.npz = NULL;
    if (!npz_writer_close(npz, false, err))
        status = print_result(&s, samples, seconds, s.plan);
out:
    npz_writer_close(s.npz, !done, err);
    task_metrics_free(s.metrics);
    dataset_close(ds);
    plan_free(s.plan);
    pool_free(pool);
    model_free(m);
    return status;
}

static int parse(int argc, char **argv, struct options *o, struct err *err)
{
    static const struct option longs[] = {
        {"data", required_argument, NULL, 'd'},    {"outputs", required_argument, NULL, 'o'},
        {"limit", required_argument, NULL, 'l'},   {"batch", required_argument, NULL, 'b'},
        {"threads", required_argument, NULL, 't'}, {"json", no_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},          {"max-memory", required_argument, NULL, 'm'},
        {"max-seconds", required_argument, NULL, 's'}, {0}};
    int c, rc = 0;
    while (!rc && (c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        if (c == 'd')
            o->data = optarg;
        else if (c == 'o')
            o->outputs = optarg;
        else if (c == 'l')
            rc = cli_int("--limit", optarg, 1, INT64_MAX, &o->limit, err);
        else if (c == 'b')
            rc = cli_int("--batch", optarg, 1, 4096, &o->batch, err);
        else if (c == 't')
            rc = cli_int("--threads", optarg, 1, 256, &o->threads, err);
        else if (c == 'm')
            rc = cli_size("--max-memory", optarg, &o->memory, err);
        else if (c == 's')
            rc = cli_int("--max-seconds", optarg, 1, 1000000, &o->seconds, err);
        else if (c == 'j')
            o->json = true;
        else
            return c == 'h' ? 1 : err_set(err, ERR_USAGE, "wrong usage; see `pared eval --help`");
    }
    if (!rc && (argc - optind != 1 || !o->data))
        rc = err_set(err, ERR_USAGE, "eval takes one model and --data; see `pared eval --help`");
    o->model = argv[optind];
    return rc;
}

int cmd_eval(int argc, char **argv)
{
    struct options o = {0};
    struct err err = {0};
    int rc = parse(argc, argv, &o, &err);
    if (rc > 0)
        return cli_help(help);
    if (rc)
        return cli_fail(&err);
    int status = evaluate(&o, &err);
    return status == CLI_OK || !err.code ? status : cli_fail(&err);
}
