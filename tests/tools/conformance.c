/* SPDX-License-Identifier: Apache-2.0
 * conformance [-v] [-d DIR] [-m COUNT] [NAME]: run ONNX backend tests and count: those of Debian's libonnx-testdata, or
 * those that tests/tools/onnx_node_cases.py wrote to DIR. Each case runs in a child process with limits on time and
 * memory, so that no case can take the count down. Outputs are compared as ONNX's own runner does: dtypes and shapes
 * equal, |got - want| <= 1e-7 + 1e-3 |want| (bfloat16: two units in the last place, 2^-6 |want|), NaN equal to NaN,
 * everything but floats exactly, sequences item by item. Where a model draws random numbers, whose values ONNX
 * leaves open, and the values differ, only dtypes and shapes count; such passes are counted apart. NAME: only cases
 * whose name contains it. -v: every failure with its sentence. -m: exit status 1 when fewer than COUNT pass. */
#include <dirent.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "core/engine/engine.h"
#include "core/model/onnx_read.h"
#include "core/model/onnx_value.h"
#include "core/model/validate.h"

enum { SECONDS = 60, MAX_IO = 64 };
#define MEMORY ((rlim_t)8 << 30)
static const char *const suites[] = {"node", "pytorch-converted", "pytorch-operator", "simple"};

static int compare_floats(const struct tensor *got, const struct tensor *want, struct err *err)
{
    const double relative = want->dtype == DTYPE_BFLOAT16 ? 0x1p-6 : 1e-3;
    for (int64_t i = 0; i < tensor_count(want); i++) {
        double g = dtype_get(got->dtype, got->data, i), w = dtype_get(want->dtype, want->data, i);
        if (g == w || (isnan(g) && isnan(w)))
            continue;
        if (!(fabs(g - w) <= 1e-7 + relative * fabs(w)))
            return err_set(err, ERR_VERIFY, "element %" PRId64 " is %.9g, expected %.9g", i, g, w);
    }
    return 0;
}

static int compare_exactly(const struct tensor *got, const struct tensor *want, struct err *err)
{
    for (int64_t i = 0; i < tensor_count(want); i++) {
        int64_t g = dtype_get_i64(got->dtype, got->data, i), w = dtype_get_i64(want->dtype, want->data, i);
        if (g != w)
            return err_set(err, ERR_VERIFY, "element %" PRId64 " is %" PRId64 ", expected %" PRId64, i, g, w);
    }
    return 0;
}

static int compare(const struct tensor *got, const struct tensor *want, bool values, struct err *err);

static int compare_lists(const struct tensor *got, const struct tensor *want, bool values, struct err *err)
{
    for (int64_t i = 0; i < tensor_count(want); i++)
        if (compare(&tensor_items(got)[i], &tensor_items(want)[i], values, err))
            return err_wrap(err, "item %" PRId64 ": ", i);
    return 0;
}

/* values: not only dtypes and shapes. */
static int compare(const struct tensor *got, const struct tensor *want, bool values, struct err *err)
{
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    if (want->dtype == DTYPE_OPTIONAL && got->dtype != DTYPE_OPTIONAL && tensor_count(want) == 1)
        want = tensor_items(want); /* a plain value is an optional that holds it */
    if (got->dtype != want->dtype || !shape_equal(&got->shape, &want->shape))
        return err_set(err, ERR_VERIFY, "is %s%s, expected %s%s", dtype_name(got->dtype), shape_text(&got->shape, a),
                       dtype_name(want->dtype), shape_text(&want->shape, b));
    if (tensor_is_list(want))
        return compare_lists(got, want, values, err);
    if (!values)
        return 0;
    char kind = dtype_kind(want->dtype);
    if (kind == 'f')
        return compare_floats(got, want, err);
    if (kind == 's' || kind == 'c')
        return tensor_equal(got, want) ? 0 : err_set(err, ERR_VERIFY, "%s values differ", dtype_name(want->dtype));
    return compare_exactly(got, want, err);
}

static int read_io(struct tensor *t, const struct type *type, const char *set, const char *what, int i,
                   struct err *err)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s_%d.pb", set, what, i);
    return onnx_read_value_file(t, type, path, err);
}

/* These files hold bfloat16 under the name of uint16 (NumPy has no bfloat16): take the bits for what the model
 * declares. */
static void as_bfloat16(struct tensor *t, enum dtype declared)
{
    if (declared == DTYPE_BFLOAT16 && t->dtype == DTYPE_UINT16)
        t->dtype = DTYPE_BFLOAT16;
}

static const struct type *declared(const struct value_info *list, int n, uint32_t value)
{
    for (int k = 0; k < n; k++)
        if (list[k].value == value)
            return &list[k].type;
    return NULL;
}

/* Some node's values ONNX leaves open. */
static bool draws_random_numbers(const struct model *m)
{
    for (uint32_t n = 0; n < m->n_nodes; n++) {
        const struct node *node = &m->nodes[n];
        const struct op_class *op =
            node->op_type ? op_find(node->op_type, node->domain ? node->domain : "", OP_OPSET_NEWEST) : NULL;
        const bool drops = node_is(node, "Dropout") && node->n_input == 3; /* with a training mode */
        if (op && (op->nondeterministic || drops))
            return true;
    }
    return false;
}

static bool have_io(const char *set, const char *what, int i)
{
    char path[4096];
    snprintf(path, sizeof path, "%s/%s_%d.pb", set, what, i);
    return access(path, R_OK) == 0;
}

static int check_output(const struct plan *plan, const struct tensor *got, const struct tensor *want, bool *random,
                        struct err *err)
{
    struct err values = {0};
    if (!compare(got, want, true, &values))
        return 0;
    if (draws_random_numbers(plan_model(plan)) && !compare(got, want, false, NULL)) {
        *random = true;
        return 0;
    }
    return err_set(err, values.code, "%s", values.msg);
}

static int run_set(struct plan *plan, const char *set, bool *random, struct err *err)
{
    const struct graph *g = model_main(plan_model(plan));
    struct tensor in[MAX_IO] = {{0}}, out[MAX_IO], want;
    int n_in = plan_n_inputs(plan), n_out = plan_n_outputs(plan);
    if (n_in > MAX_IO || n_out > MAX_IO)
        return err_set(err, ERR_VERIFY, "too many inputs or outputs");
    for (int i = 0; i < n_in; i++) {
        const struct type *type = declared(g->inputs, g->n_inputs, plan_input(plan, i));
        if (read_io(&in[i], type, set, "input", i, err))
            return err_wrap(err, "input_%d.pb: ", i);
        as_bfloat16(&in[i], type ? type->dtype : DTYPE_NONE);
    }
    if (plan_run(plan, in, out, NULL, err))
        return -1;
    for (int i = 0; i < n_out; i++) {
        if (!have_io(set, "output", i))
            return i > 0 ? 0 : err_set(err, ERR_VERIFY, "no expected outputs");
        if (read_io(&want, declared(g->outputs, g->n_outputs, plan_output(plan, i)), set, "output", i, err))
            return err_wrap(err, "output_%d.pb: ", i);
        as_bfloat16(&want, out[i].dtype);
        if (check_output(plan, &out[i], &want, random, err))
            return err_wrap(err, "output %d: ", i);
    }
    return 0;
}

/* In the child: everything is freed by its end. */
static int run_case(const char *dir, bool *random, struct err *err)
{
    char path[2048];
    snprintf(path, sizeof path, "%s/model.onnx", dir);
    struct model *m = onnx_read_file(path, NULL, err);
    if (!m || model_validate(m, err))
        return -1;
    struct plan *plan = plan_new(m, &(struct plan_opts){.pool = pool_new(2)}, err);
    if (!plan)
        return -1;
    for (int set = 0;; set++) {
        snprintf(path, sizeof path, "%s/test_data_set_%d", dir, set);
        if (access(path, X_OK))
            return set > 0 ? 0 : err_set(err, ERR_VERIFY, "no test_data_set_0");
        if (run_set(plan, path, random, err))
            return -1;
    }
}

enum { EXIT_PASSED, EXIT_FAILED, EXIT_PASSED_RANDOM };

static bool passes(const char *dir, bool *random, char *why, size_t size)
{
    int fd[2], status;
    if (pipe(fd))
        return false;
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        struct err err = {0};
#ifndef __SANITIZE_ADDRESS__ /* its shadow needs terabytes of address space */
        setrlimit(RLIMIT_AS, &(struct rlimit){MEMORY, MEMORY});
#endif
        alarm(SECONDS);
        int rc = run_case(dir, random, &err);
        if (rc && write(fd[1], err.msg, strlen(err.msg)) < 0)
            _exit(3);
        _exit(rc ? EXIT_FAILED : *random ? EXIT_PASSED_RANDOM : EXIT_PASSED);
    }
    close(fd[1]);
    ssize_t n = child > 0 ? read(fd[0], why, size - 1) : -1;
    why[n > 0 ? n : 0] = 0;
    close(fd[0]);
    if (child < 0 || waitpid(child, &status, 0) < 0)
        return false;
    if (WIFSIGNALED(status))
        snprintf(why, size, "killed by signal %d (%s)", WTERMSIG(status), strsignal(WTERMSIG(status)));
    *random = WIFEXITED(status) && WEXITSTATUS(status) == EXIT_PASSED_RANDOM;
    return *random || (WIFEXITED(status) && WEXITSTATUS(status) == EXIT_PASSED);
}

static int no_dots(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

struct count {
    int passed, failed, random;
};

static struct count run_suite(const char *root, const char *suite, const char *only, bool verbose)
{
    char dir[512], path[1024], why[1200];
    struct dirent **list;
    struct count c = {0};
    snprintf(dir, sizeof dir, "%s/%s", root, suite);
    int n = scandir(dir, &list, no_dots, alphasort);
    for (int i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, list[i]->d_name);
        if (!only || strstr(list[i]->d_name, only)) {
            bool random = false, ok = passes(path, &random, why, sizeof why);
            c.passed += ok;
            c.random += random;
            c.failed += !ok;
            if (!ok && verbose)
                printf("%s/%s: %s\n", suite, list[i]->d_name, why);
        }
        free(list[i]);
    }
    if (n < 0)
        return c;
    free(list);
    printf("%-18s %4d passed, %4d failed\n", suite, c.passed, c.failed);
    return c;
}

int main(int argc, char **argv)
{
    const char *root = "/usr/share/libonnx-testdata/data", *only = NULL;
    bool verbose = false;
    struct count all = {0};
    int least = 1;
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v"))
            verbose = true;
        else if (!strcmp(argv[i], "-d") && i + 1 < argc)
            root = argv[++i];
        else if (!strcmp(argv[i], "-m") && i + 1 < argc)
            least = atoi(argv[++i]);
        else
            only = argv[i];
    }
    engine_init();
    for (size_t i = 0; i < sizeof suites / sizeof suites[0]; i++) {
        struct count c = run_suite(root, suites[i], only, verbose);
        all.passed += c.passed;
        all.failed += c.failed;
        all.random += c.random;
    }
    printf("conformance: %d of %d cases pass, %d of them, which draw random numbers, by dtype and shape only\n",
           all.passed, all.passed + all.failed, all.random);
    if (all.passed < least)
        printf("at least %d must pass: a change broke what worked\n", least);
    return all.passed >= least ? 0 : 1;
}
