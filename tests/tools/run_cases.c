/* SPDX-License-Identifier: Apache-2.0
 * run_cases DIR: every folder of DIR with model.onnx and input_K.pb (in the order of the graph's inputs) is run as it is and
 * optimized; output_K.pb and optimized_K.pb are written beside, or error.txt and optimized_error.txt with the sentence. Each
 * case runs in a child process: a crash, or SECONDS without an end, is a sentence too. For tests that compare with another
 * runtime. */
#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/engine/engine.h"
#include "core/model/onnx_read.h"
#include "core/model/onnx_value.h"

enum { MOST = 32, SECONDS = 30 };
#define MEMORY ((size_t)1 << 30)

static void tell(const char *dir, const char *file, const char *text)
{
    char path[2000];
    snprintf(path, sizeof path, "%s/%s", dir, file);
    FILE *f = fopen(path, "w");
    if (f) {
        fputs(text, f);
        fclose(f);
    }
}

static int run(const char *dir, const struct model *m, bool optimize, struct err *err)
{
    struct tensor in[MOST] = {{0}}, out[MOST] = {{0}};
    const struct plan_opts opts = {.optimize = optimize, .max_memory_bytes = MEMORY};
    struct plan *plan = plan_new(m, &opts, err);
    const int n_in = plan ? plan_n_inputs(plan) : 0, n_out = plan ? plan_n_outputs(plan) : 0;
    char path[2000], name[32];
    int rc = plan && n_in <= MOST && n_out <= MOST ? 0 : -1;
    for (int i = 0; i < n_in && rc == 0; i++) {
        snprintf(path, sizeof path, "%s/input_%d.pb", dir, i);
        rc = onnx_read_value_file(&in[i], NULL, path, err);
    }
    if (rc == 0)
        rc = plan_run(plan, in, out, NULL, err);
    for (int i = 0; i < n_out && rc == 0; i++) {
        snprintf(path, sizeof path, "%s/%s_%d.pb", dir, optimize ? "optimized" : "output", i);
        snprintf(name, sizeof name, "y%d", i);
        rc = onnx_write_value_file(&out[i], name, path, err);
    }
    for (int i = 0; i < MOST; i++) {
        tensor_fini(&in[i]);
        tensor_fini(&out[i]);
    }
    plan_free(plan);
    return rc;
}

static void run_case(const char *dir, const char *path)
{
    struct err err = {0};
    struct model *m = onnx_read_file(path, NULL, &err);
    if (!m || run(dir, m, false, &err) < 0)
        tell(dir, "error.txt", err.msg);
    err = (struct err){0};
    if (m && run(dir, m, true, &err) < 0)
        tell(dir, "optimized_error.txt", err.msg);
    model_free(m);
}

static void run_child(const char *dir, const char *path)
{
    int status = 0;
    char text[100];
    const pid_t child = fork();
    if (child == 0) {
        alarm(SECONDS);
        run_case(dir, path);
        _exit(0);
    }
    if (child < 0 || waitpid(child, &status, 0) < 0 || WIFEXITED(status))
        return;
    snprintf(text, sizeof text, "killed by signal %d", WTERMSIG(status));
    tell(dir, "error.txt", text);
}

int main(int argc, char **argv)
{
    DIR *root = argc == 2 ? opendir(argv[1]) : NULL;
    if (!root) {
        fprintf(stderr, "usage: run_cases DIR\n");
        return 2;
    }
    engine_init();
    int n = 0;
    for (struct dirent *d; (d = readdir(root));) {
        char dir[1000], path[1100];
        snprintf(dir, sizeof dir, "%.400s/%.400s", argv[1], d->d_name);
        snprintf(path, sizeof path, "%s/model.onnx", dir);
        if (d->d_name[0] == '.' || access(path, R_OK))
            continue;
        run_child(dir, path);
        n++;
    }
    closedir(root);
    printf("%d cases run\n", n);
    return 0;
}
