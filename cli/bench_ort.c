/* SPDX-License-Identifier: Apache-2.0
 * pared bench --against ort: the same model and inputs in ONNX Runtime, in the same run. The peer is a short script in a
 * process of its own, told over a pipe when to run. Blocks of runs alternate: its threads go on spinning for a while
 * after a run, so ours waits until they sleep. The first run of a block is not counted. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/bench.h"
#include "cli/commands.h"
#include "core/base/clock.h"
#include "core/base/file.h"
#include "core/data/npz_write.h"

enum { BLOCK_RUNS = 8, MAX_RUNS = 4000, REST_US = 100000 };

static const char script[] =
    "import sys, time\n"
    "try:\n"
    "    import numpy, onnxruntime as ort\n"
    "except ImportError as e:\n"
    "    sys.exit('%s (pip install onnxruntime; PARED_PYTHON names another python)' % e)\n"
    "model, inputs, threads = sys.argv[1:4]\n"
    "o = ort.SessionOptions()\n"
    "o.intra_op_num_threads, o.inter_op_num_threads, o.log_severity_level = int(threads), 1, 3\n"
    "s = ort.InferenceSession(model, o, providers=['CPUExecutionProvider'])\n"
    "z = numpy.load(inputs)\n"
    "feed = {i.name: z[i.name] for i in s.get_inputs() if i.name in z}\n"
    "print(ort.__version__, flush=True)\n"
    "for line in sys.stdin:\n"
    "    t = []\n"
    "    for _ in range(int(line)):\n"
    "        a = time.perf_counter()\n"
    "        s.run(None, feed)\n"
    "        t.append('%.6f' % ((time.perf_counter() - a) * 1e3))\n"
    "    print(' '.join(t), flush=True)\n";

struct peer {
    pid_t pid;
    FILE *to, *from;
    char version[40];
};

static int write_inputs(const struct bench *b, const char *path, struct err *err)
{
    struct npz_writer *w = npz_writer_new(path, err);
    int rc = w ? 0 : -1;
    for (int i = 0; i < plan_n_inputs(b->plan) && !rc; i++)
        rc = npz_rows(w, plan_model(b->plan)->values[plan_input(b->plan, i)].name, &b->in[i], err);
    return npz_writer_close(w, rc != 0, err) || rc ? -1 : 0;
}

static void run_script(const struct bench *b, const char *inputs, int in, int out)
{
    char threads[16];
    const char *chosen = getenv("PARED_PYTHON"), *python = chosen && *chosen ? chosen : "python3";
    snprintf(threads, sizeof threads, "%d", b->threads);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    execlp(python, python, "-c", script, b->path, inputs, threads, (char *)NULL);
    fprintf(stderr, "cannot start %s: %s\n", python, strerror(errno));
    _exit(127);
}

static int start_peer(struct peer *p, const struct bench *b, const char *inputs, struct err *err)
{
    int to[2] = {-1, -1}, from[2] = {-1, -1};
    if (pipe2(to, O_CLOEXEC) || pipe2(from, O_CLOEXEC) || (p->pid = fork()) < 0)
        return err_set(err, ERR_IO, "cannot start a process: %s", strerror(errno));
    if (p->pid == 0)
        run_script(b, inputs, to[0], from[1]);
    close(to[0]);
    close(from[1]);
    p->to = fdopen(to[1], "w");
    p->from = fdopen(from[0], "r");
    if (!p->to || !p->from || !fgets(p->version, sizeof p->version, p->from))
        return err_set(err, ERR_INVALID, "ONNX Runtime is not there or did not take the model (what was said stands above)");
    p->version[strcspn(p->version, "\n")] = 0;
    return 0;
}

static void stop_peer(struct peer *p)
{
    if (p->to)
        fclose(p->to);
    if (p->from)
        fclose(p->from);
    if (p->pid > 0)
        waitpid(p->pid, NULL, 0);
}

static int our_block(const struct bench *b, struct tensor *out, int n, double *ms, struct err *err)
{
    if (b->threads > 1)
        usleep(REST_US);
    for (int i = -1; i < n; i++) {
        double start = clock_seconds();
        if (plan_run(b->plan, b->in, out, NULL, err))
            return -1;
        if (i >= 0)
            ms[i] = (clock_seconds() - start) * 1e3;
        for (int k = 0; k < plan_n_outputs(b->plan); k++)
            tensor_fini(&out[k]);
    }
    return 0;
}

static int their_block(struct peer *p, int n, double *ms, struct err *err)
{
    double warm;
    fprintf(p->to, "%d\n", n + 1);
    fflush(p->to);
    if (fscanf(p->from, "%lf", &warm) != 1)
        return err_set(err, ERR_INVALID, "ONNX Runtime stopped (what it said stands above)");
    for (int i = 0; i < n; i++)
        if (fscanf(p->from, "%lf", &ms[i]) != 1)
            return err_set(err, ERR_INVALID, "ONNX Runtime stopped (what it said stands above)");
    return 0;
}

static int print_result(const struct bench *b, const struct peer *p, double *our_ms, double *their_ms, int n)
{
    const struct latency ours = latency_summarize(our_ms, n), theirs = latency_summarize(their_ms, n);
    const double ratio = ours.p50_ms / theirs.p50_ms, ratio_min = ours.min_ms / theirs.min_ms;
    if (b->json)
        return cli_print_json(json_pack("{s:f, s:f, s:f, s:f, s:i, s:i, s:I, s:{s:s, s:f, s:f, s:f, s:f}, s:f, s:f}",
                                        "p50_ms", ours.p50_ms, "p90_ms", ours.p90_ms, "p99_ms", ours.p99_ms, "min_ms",
                                        ours.min_ms, "runs", n, "threads", b->threads, "batch", (json_int_t)b->batch,
                                        "ort", "version", p->version, "p50_ms", theirs.p50_ms, "p90_ms", theirs.p90_ms,
                                        "p99_ms", theirs.p99_ms, "min_ms", theirs.min_ms, "ratio", ratio, "ratio_min",
                                        ratio_min));
    printf("%-22s %10s %10s %10s %10s\n", "", "p50 ms", "p90 ms", "p99 ms", "min ms");
    printf("%-22s %10.3f %10.3f %10.3f %10.3f\n", "pared", ours.p50_ms, ours.p90_ms, ours.p99_ms, ours.min_ms);
    printf("ONNX Runtime %-9s %10.3f %10.3f %10.3f %10.3f\n", p->version, theirs.p50_ms, theirs.p90_ms, theirs.p99_ms,
           theirs.min_ms);
    printf("%-22s %10.2f %32.2f   (%d runs each, %d threads, batch %lld)\n", "ratio", ratio, ratio_min, n,
           b->threads, (long long)b->batch);
    return CLI_OK;
}

static int alternate(const struct bench *b, struct peer *p, struct err *err)
{
    int limit = b->runs > 0 ? (int)(b->runs < MAX_RUNS ? b->runs : MAX_RUNS) : MAX_RUNS, done = 0, rc = 0;
    double *ours = calloc((size_t)limit + BLOCK_RUNS, sizeof *ours);
    double *theirs = calloc((size_t)limit + BLOCK_RUNS, sizeof *theirs);
    struct tensor *out = calloc((size_t)plan_n_outputs(b->plan) + 1, sizeof *out);
    double end = clock_seconds() + 2;
    if (!ours || !theirs || !out)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    while (!rc && done < limit && (done < 10 || b->runs > 0 || clock_seconds() < end)) {
        int n = limit - done < BLOCK_RUNS ? limit - done : BLOCK_RUNS;
        rc = their_block(p, n, theirs + done, err) || our_block(b, out, n, ours + done, err) ? -1 : 0;
        done += rc ? 0 : n;
    }
    int status = rc ? CLI_FAILED : print_result(b, p, ours, theirs, done);
    free(ours);
    free(theirs);
    free(out);
    return status;
}

int bench_against_ort(const struct bench *b, struct err *err)
{
    char *folder = NULL, *inputs = NULL;
    struct peer p = {0};
    int status = CLI_FAILED;
    if (!strcmp(b->path, "-"))
        return err_set(err, ERR_USAGE, "--against ort needs a model file, not stdin"), CLI_FAILED;
    if (!(folder = file_temp_dir("bench", err)))
        return CLI_FAILED;
    signal(SIGPIPE, SIG_IGN);
    if (asprintf(&inputs, "%s/inputs.npz", folder) < 0)
        err_set(err, ERR_NOMEM, "no memory for a path");
    else if (!write_inputs(b, inputs, err) && !start_peer(&p, b, inputs, err))
        status = alternate(b, &p, err);
    stop_peer(&p);
    file_remove_tree(folder, NULL);
    free(folder);
    free(inputs);
    return status;
}
