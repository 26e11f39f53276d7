/* SPDX-License-Identifier: Apache-2.0
 * pared run: a recipe on a model, without a server. The recipe is put together as JSON from --recipe, --step, --target
 * and --seed, and then takes the same way as one that came by HTTP. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/commands.h"
#include "cli/fence_run.h"
#include "cli/progress.h"
#include "core/base/buf.h"
#include "core/base/file.h"
#include "core/recipe/json_text.h"
#include "core/recipe/nearest.h"
#include "core/recipe/pipeline.h"
#include "core/report/report.h"

static const char help[] =
    "Usage: pared run MODEL [OPTION]...\n\n"
    "Runs a recipe on an ONNX model, verifies the result against the original and writes DIR/model.onnx and\n"
    "DIR/report.json. Without any step the model is read, verified and written back unchanged.\n\n"
    "  --recipe FILE|PRESET   steps, targets and seed as JSON (- is stdin), or a preset: see `pared methods`\n"
    "  --step 'METHOD K=V..'  one more step behind those of the recipe; may be repeated\n"
    "  --data D               dataset: calibration and, without --eval-data, evaluation\n"
    "  --val-data D           validation data for steps that decide by it\n"
    "  --eval-data D          what the report is measured on\n"
    "  --teacher MODEL        what training steps learn from; default: the model as it came\n"
    "  --target KEY=VALUE     what the result must reach, e.g. max_bytes_ratio=0.25; may be repeated\n"
    "  --out DIR              default: pared-out\n"
    "  --checkpoint DIR       training keeps its state here, and the same run, started again, goes on from it\n"
    "  --seed N               default: the recipe's, or 0\n"
    "  --threads N            default: all cores\n"
    "  --max-memory N         bytes that activations may take, as in 512M or 2G; default 16G\n"
    "  --external-dir DIR     where external data files lie; default: beside the model\n"
    "  --no-latency           do not measure latency\n"
    "  --sandbox MODE         strict, best-effort or off (default): the process fences itself off before it reads the\n"
    "                         model; it can read what is named here and the files beside the model, write DIR, and\n"
    "                         nothing else. strict refuses to run where the kernel cannot do it. The environment\n"
    "                         variable PARED_SANDBOX is another default\n"
    "  --json                 print the report as JSON instead of a table\n"
    "  --quiet                no progress\n\n"
    "Training steps may hold steps: --step 'train.finetune epochs=3 steps=[{\"method\": \"prune.weights\", ...}]'\n"
    "D is a .npz, .npy, .tar, .tar.gz, .zip or CIFAR-10 .bin file, a data.json, or a folder. MODEL may be - (stdin).\n"
    "Exit status: 0 done, 1 refused or failed, 2 wrong usage, 3 done but targets are missed.\n";

struct run_args {
    const char *model, *recipe, *out;
    json_t *steps, *targets; /* of --step, --target */
    int64_t seed, threads;
    bool has_seed, json, quiet;
    enum sandbox_mode sandbox;
    struct pipeline_opts pipeline;
};

enum {
    OPT_RECIPE = 256,
    OPT_STEP,
    OPT_DATA,
    OPT_VAL,
    OPT_EVAL,
    OPT_TEACHER,
    OPT_CHECKPOINT,
    OPT_TARGET,
    OPT_OUT,
    OPT_SEED,
    OPT_THREADS,
    OPT_EXTERNAL,
    OPT_MEMORY,
    OPT_NO_LATENCY,
    OPT_SANDBOX,
    OPT_JSON,
    OPT_QUIET,
    OPT_HELP
};

static const struct option options[] = {
    {"recipe", required_argument, NULL, OPT_RECIPE},
    {"step", required_argument, NULL, OPT_STEP},
    {"data", required_argument, NULL, OPT_DATA},
    {"val-data", required_argument, NULL, OPT_VAL},
    {"eval-data", required_argument, NULL, OPT_EVAL},
    {"teacher", required_argument, NULL, OPT_TEACHER},
    {"checkpoint", required_argument, NULL, OPT_CHECKPOINT},
    {"target", required_argument, NULL, OPT_TARGET},
    {"out", required_argument, NULL, OPT_OUT},
    {"seed", required_argument, NULL, OPT_SEED},
    {"threads", required_argument, NULL, OPT_THREADS},
    {"external-dir", required_argument, NULL, OPT_EXTERNAL},
    {"max-memory", required_argument, NULL, OPT_MEMORY},
    {"no-latency", no_argument, NULL, OPT_NO_LATENCY},
    {"sandbox", required_argument, NULL, OPT_SANDBOX},
    {"json", no_argument, NULL, OPT_JSON},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static int add_target(json_t *targets, const char *text, struct err *err)
{
    const char *eq = strchr(text, '=');
    char *key = eq ? strndup(text, (size_t)(eq - text)) : NULL;
    if (!eq || eq == text)
        return err_set(err, ERR_USAGE, "--target '%.100s' is not of the form key=value, as in max_bytes_ratio=0.25",
                       text);
    json_t *value = json_loads(eq + 1, JSON_DECODE_ANY, NULL);
    if (!value)
        value = json_string(eq + 1);
    int rc = key && value ? json_object_set(targets, key, value) : -1;
    json_decref(value);
    free(key);
    return rc ? err_set(err, ERR_USAGE, "--target '%.100s' is not UTF-8", text) : 0;
}

/* `name`: the option or the variable that `text` came with. */
static int take_sandbox(struct run_args *a, const char *name, const char *text, struct err *err)
{
    return sandbox_mode_parse(text, &a->sandbox)
               ? 0
               : err_set(err, ERR_USAGE, "%s '%.50s': the mode is strict, best-effort or off", name, text);
}

static int take_option(struct run_args *a, int option, const char *text, struct err *err)
{
    json_t *step;
    switch (option) {
    case OPT_RECIPE: a->recipe = text; break;
    case OPT_STEP:
        if (!(step = recipe_step_from_words(text, err)))
            return -1;
        json_array_append_new(a->steps, step);
        break;
    case OPT_DATA: a->pipeline.data.path = text; break;
    case OPT_VAL: a->pipeline.val_data.path = text; break;
    case OPT_EVAL: a->pipeline.eval_data.path = text; break;
    case OPT_TEACHER: a->pipeline.teacher_path = text; break;
    case OPT_CHECKPOINT: a->pipeline.checkpoint_dir = text; break;
    case OPT_TARGET: return add_target(a->targets, text, err);
    case OPT_OUT: a->out = text; break;
    case OPT_SEED: a->has_seed = true; return cli_int("--seed", text, 0, INT64_MAX, &a->seed, err);
    case OPT_THREADS: return cli_int("--threads", text, 0, 1024, &a->threads, err);
    case OPT_EXTERNAL: a->pipeline.external_dir = text; break;
    case OPT_MEMORY: return cli_size("--max-memory", text, &a->pipeline.max_memory_bytes, err);
    case OPT_NO_LATENCY: a->pipeline.no_latency = true; break;
    case OPT_SANDBOX: return take_sandbox(a, "--sandbox", text, err);
    case OPT_JSON: a->json = true; break;
    case OPT_QUIET: a->quiet = true; break;
    }
    return 0;
}

/* ---- the recipe ---- */

static char *read_stdin(size_t limit, size_t *len, struct err *err)
{
    struct buf b = {0};
    char piece[4096];
    size_t n;
    while ((n = fread(piece, 1, sizeof piece, stdin)) > 0 && b.len <= limit)
        buf_append(&b, piece, n);
    *len = b.len;
    char *text = buf_take(&b);
    if (!text && *len == 0)
        text = strdup("");
    if (!text)
        err_set(err, ERR_NOMEM, "no memory for the recipe");
    return text;
}

static int no_such_recipe(const char *name, const struct err *why, struct err *err)
{
    struct nearest near = NEAREST(name);
    char hint[80];
    for (const struct preset *const *p = preset_all(); *p; p++)
        nearest_offer(&near, (*p)->name);
    return err_set(err, ERR_USAGE, "--recipe '%.200s' is no preset and no file that can be read (%s)%s", name, why->msg,
                   near.best ? nearest_hint(&near, hint, sizeof hint) : "; `pared methods` lists the presets");
}

/* The JSON of --recipe; an empty recipe without it. */
static json_t *load_recipe(const char *from, struct err *err)
{
    const struct preset *preset = from ? preset_find(from) : NULL;
    struct err why = {0};
    size_t len = 0;
    if (!from)
        return json_pack("{s:[]}", "steps");
    if (preset)
        return json_text_parse(preset->recipe, strlen(preset->recipe), 0, err);
    char *text = strcmp(from, "-") ? file_read(from, JSON_TEXT_MAX, &len, &why) : read_stdin(JSON_TEXT_MAX, &len, &why);
    if (!text) {
        if (why.code == ERR_TOO_LARGE)
            err_set(err, ERR_TOO_LARGE, "--recipe '%.200s': %s", from, why.msg);
        else
            no_such_recipe(from, &why, err);
        return NULL;
    }
    json_t *json = json_text_parse(text, len, 0, err);
    free(text);
    if (!json)
        err_wrap(err, "--recipe '%.200s': ", from);
    return json;
}

/* What the command line adds; a recipe of the wrong form is left for the parser to refuse. */
static void extend_recipe(json_t *json, const struct run_args *a)
{
    if (!json_is_object(json))
        return;
    json_t *steps = json_object_get(json, "steps"), *targets = json_object_get(json, "targets");
    if (json_is_array(steps))
        json_array_extend(steps, a->steps);
    if (!targets && json_object_size(a->targets))
        json_object_set(json, "targets", a->targets);
    else if (json_is_object(targets))
        json_object_update(targets, a->targets);
    if (a->has_seed)
        json_object_set_new(json, "seed", json_integer(a->seed));
}

static struct recipe *make_recipe(const struct run_args *a, struct faults *faults, struct err *err)
{
    json_t *json = load_recipe(a->recipe, err);
    if (!json)
        return NULL;
    extend_recipe(json, a);
    struct recipe *recipe = recipe_parse(json, "", faults, err);
    json_decref(json);
    return recipe;
}

/* ---- the run ---- */

/* One sentence; with several faults each on a line of its own. */
static int fail(const struct faults *faults, const struct err *err)
{
    if (faults->count < 2)
        return cli_fail(err);
    fprintf(stderr, "pared: the recipe has %d faults\n", faults->count);
    for (int i = 0; i < faults->count; i++)
        fprintf(stderr, "  %s: %s\n", faults->at[i].pointer, faults->at[i].detail);
    return CLI_FAILED;
}

/* stdin into a private folder, so that it can be mapped and has no neighbours for external data. */
static int spool_stdin(char **dir, char **path, struct err *err)
{
    char piece[1 << 16];
    if (!(*dir = file_temp_dir("stdin", err)))
        return -1;
    if (asprintf(path, "%s/stdin.onnx", *dir) < 0)
        return err_set(err, ERR_NOMEM, "no memory for a path");
    int fd = open(*path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc = fd < 0 ? err_set_errno(err, ERR_IO, "no temporary file for the model") : 0;
    while (rc == 0) {
        ssize_t n = read(STDIN_FILENO, piece, sizeof piece);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            rc = err_set_errno(err, ERR_IO, "stdin cannot be read");
        if (n <= 0)
            break;
        rc = file_write_all(fd, piece, (size_t)n, err);
    }
    if (fd >= 0)
        close(fd);
    return rc;
}

static int print_result(const struct run_args *a, struct pipeline_result *result)
{
    if (a->json) {
        int rc = cli_print_json(json_incref(result->report));
        if (rc != CLI_OK)
            return rc;
    } else {
        char *text = report_text(result->report);
        size_t i;
        json_t *file;
        if (text)
            fputs(text, stdout);
        free(text);
        fputs("\nWrote", stdout);
        json_array_foreach (result->artifacts, i, file)
            printf("%s %s/%s", i ? "," : "", a->out, json_string_value(json_object_get(file, "name")));
        putchar('\n');
    }
    return result->targets_met == 0 ? CLI_TARGETS_MISSED : CLI_OK;
}

static int run(struct run_args *a)
{
    char *dir = NULL, *path = NULL;
    bool spooled = !strcmp(a->model, "-");
    struct faults faults = {0};
    struct err err = {0};
    struct pipeline_result result = {0};
    struct progress progress;
    int rc = CLI_FAILED;
    struct recipe *recipe = make_recipe(a, &faults, &err);
    if (!recipe || (spooled && spool_stdin(&dir, &path, &err)))
        goto out;
    progress_init(&progress, a->quiet);
    a->pipeline.model_path = spooled ? path : a->model;
    a->pipeline.model_name = spooled ? "stdin" : NULL;
    a->pipeline.recipe = recipe;
    a->pipeline.out_dir = a->out;
    a->pipeline.threads = (int)a->threads;
    a->pipeline.progress = progress_show;
    a->pipeline.metric = progress_metric;
    a->pipeline.log = progress_log;
    a->pipeline.arg = &progress;
    if (fence_run(a->sandbox, &a->pipeline, &err))
        goto out;
    int failed = pipeline_run(&a->pipeline, &result, &faults, &err);
    progress_done(&progress);
    if (!failed)
        rc = print_result(a, &result);
out:
    if (err.code)
        rc = err.code == ERR_USAGE ? cli_usage("run", "%s", err.msg) : fail(&faults, &err);
    if (dir)
        file_remove_tree(dir, NULL);
    free(dir);
    free(path);
    pipeline_result_fini(&result);
    recipe_free(recipe);
    faults_fini(&faults);
    return rc;
}

int cmd_run(int argc, char **argv)
{
    struct run_args a = {.out = "pared-out", .sandbox = SANDBOX_OFF, .steps = json_array(), .targets = json_object()};
    struct err err = {0};
    int rc = CLI_USAGE;
    const char *mode = getenv("PARED_SANDBOX");
    if (mode && *mode && take_sandbox(&a, "PARED_SANDBOX", mode, &err)) {
        cli_usage("run", "%s", err.msg);
        goto out;
    }
    for (int c; (c = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (c == OPT_HELP) {
            rc = cli_help(help);
            goto out;
        }
        if (c == '?' || take_option(&a, c, optarg, &err)) {
            cli_usage("run", "%s", c == '?' ? "wrong option" : err.msg);
            goto out;
        }
    }
    if (argc - optind != 1) {
        cli_usage("run", argc == optind ? "a model is needed" : "one model at a time");
        goto out;
    }
    a.model = argv[optind];
    rc = fence_start(a.sandbox, a.out, argv, &err) ? cli_fail(&err) : run(&a);
out:
    json_decref(a.steps);
    json_decref(a.targets);
    return rc;
}
