/* SPDX-License-Identifier: Apache-2.0
 * groups_exact [-v] [-o] [-i OTHER] MODEL.onnx...: for every dependency group of every model, take out a third of
 * its channels and compare with the original in which those channels are not read (tests/unit/groups_exact.h); costs
 * must be as predicted. -o: GROUPS_OUTER. -i: size of axes that are not fixed. Exit status 1 if a group is not exact
 * to 1e-4 (float16: 2e-2), unless it says that it is approximate. */
#include <unistd.h>

#include "core/model/onnx_read.h"
#include "core/step/layer_report.h"
#include "tests/unit/groups_exact.h"

static bool verbose;

/* Sums in half precision differ by their order. */
static double tolerance(const struct model *m)
{
    for (uint32_t v = 0; v < m->n_values; v++)
        if (m->values[v].name && m->values[v].weight && m->values[v].weight->tensor.dtype == DTYPE_FLOAT16)
            return 2e-2;
    return 1e-4;
}

static int check_group(const struct model *m, const struct groups *g, int i, const struct exact_inputs *in, double *worst)
{
    const struct group *group = &g->at[i];
    struct exact_result r;
    struct err err = {0};
    struct rng rng;
    rng_init(&rng, 1, (uint64_t)i);
    bool *gone = calloc((size_t)group->n + 1, sizeof *gone);
    exact_choose(group, &rng, gone);
    const int rc = exact_check(m, g, i, gone, in, &r, NULL, &err);
    const bool exact = rc == 0 && (r.error <= tolerance(m) || group->approximate), bad = !exact || !r.cost_agrees;
    free(gone);
    if (rc == 0 && !group->approximate)
        *worst = fmax(*worst, r.error);
    if (bad || verbose)
        printf("  %s group %d '%s' n %lld%s%s%s: error %.2e %s%s\n", bad ? "BAD" : "ok ", i, group->name,
               (long long)group->n, group->approximate ? " approximate" : "", group->through ? " through " : "",
               group->through ? group->through : "", rc ? NAN : r.error, rc ? err.msg : "",
               group->frozen ? group->frozen : "");
    if (rc == 0 && !r.cost_agrees)
        printf("      cost predicted %lld macs %lld params %lld bytes, found %lld %lld %lld\n", (long long)r.predicted.macs,
               (long long)r.predicted.params, (long long)r.predicted.bytes, (long long)r.found.macs,
               (long long)r.found.params, (long long)r.found.bytes);
    return bad;
}

static int check_model(const char *path, enum groups_mode mode, int64_t other)
{
    struct err err = {0};
    struct warnings *warnings = warnings_new();
    struct model *m = onnx_read_file(path, &(struct onnx_read_opts){0}, &err);
    struct groups *g = NULL;
    struct exact_inputs in = {0};
    struct tensor out[EXACT_MAX_IO] = {0};
    int bad = 0, live = 0, n_out = -1, first_frozen = 0;
    double worst = 0;
    if (!m || model_validate(m, &err) || groups_prepare(m, warnings, &err) || !(g = groups_find(m, mode, &err))) {
        printf("%s: %s\n", path, err.msg);
        bad = 1;
        goto out;
    }
    for (int i = 0; i < g->n; i++)
        live += g->at[i].n > 1;
    const int64_t sizes[] = {other, 64, 224, 16, 128, 1};
    for (size_t i = other ? 0 : 1; live && n_out < 0 && i < sizeof sizes / sizeof sizes[0]; i++) {
        exact_clear(&in);
        err = (struct err){0};
        if (exact_fill(m, 1, sizes[i], 3, &in, &err) == 0)
            n_out = exact_run(m, &in, out, &err);
    }
    for (int i = 0; i < EXACT_MAX_IO; i++)
        tensor_fini(&out[i]);
    if (n_out < 0 && live) {
        printf("%s: does not run: %s\n", path, err.msg);
        bad = 1;
        goto out;
    }
    for (int i = 0; i < g->n; i++) {
        if (g->at[i].n > 1)
            bad += check_group(m, g, i, &in, &worst);
        else if (verbose || first_frozen++ < 3)
            printf("  frozen group '%s': %s\n", g->at[i].name, g->at[i].frozen ? g->at[i].frozen : "one atom");
    }
    printf("%s: %d groups, %d prunable, %d bad, worst error %.2e\n", path, g->n, live, bad, worst);
out:
    exact_clear(&in);
    groups_free(g);
    model_free(m);
    warnings_free(warnings);
    return bad;
}

int main(int argc, char **argv)
{
    enum groups_mode mode = GROUPS_INNER;
    int64_t other = 0;
    int bad = 0;
    engine_init();
    for (int c; (c = getopt(argc, argv, "voi:")) != -1;) {
        if (c == '?')
            return 2;
        verbose = verbose || c == 'v';
        mode = c == 'o' ? GROUPS_OUTER : mode;
        other = c == 'i' ? atoll(optarg) : other;
    }
    for (int i = optind; i < argc; i++)
        bad += check_model(argv[i], mode, other);
    return bad != 0;
}
