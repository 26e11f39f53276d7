/* SPDX-License-Identifier: Apache-2.0
 * pared bench --profile: the time between two calls of the plan's observer is the time of one node, as it runs in the
 * optimized plan. A node's figure is its median over the runs. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/bench.h"
#include "cli/commands.h"
#include "core/base/clock.h"

enum { DEFAULT_RUNS = 20, LINES = 40 };

struct row {
    uint32_t node;
    double *ms; /* [runs] */
    double median;
};

struct profile {
    const struct model *m;
    struct row *row; /* by node id */
    double last;
    int run, runs;
};

static int on_value(void *arg, uint32_t value, const struct tensor *t, struct err *err)
{
    struct profile *p = arg;
    uint32_t node = p->m->values[value].producer;
    double now = clock_seconds();
    (void)t;
    if (node != NODE_NONE) {
        struct row *row = &p->row[node];
        if (!row->ms && !(row->ms = calloc((size_t)p->runs, sizeof *row->ms)))
            return err_set(err, ERR_NOMEM, "out of memory");
        row->ms[p->run] += (now - p->last) * 1e3;
    }
    p->last = clock_seconds();
    return 0;
}

static int largest_first(const void *a, const void *b)
{
    double x = ((const struct row *)a)->median, y = ((const struct row *)b)->median;
    return (x < y) - (x > y);
}

static int run_all(struct profile *p, const struct bench *b, struct err *err)
{
    struct tensor *out = calloc((size_t)plan_n_outputs(b->plan) + 1, sizeof *out);
    struct plan_run_opts watch = {.observe = on_value, .observe_arg = p};
    int rc = out ? 0 : err_set(err, ERR_NOMEM, "out of memory");
    for (int i = -2; i < p->runs && !rc; i++) { /* two to warm up */
        p->run = i < 0 ? 0 : i;
        p->last = clock_seconds();
        rc = plan_run(b->plan, b->in, out, i < 0 ? NULL : &watch, err);
        for (int k = 0; k < plan_n_outputs(b->plan) && !rc; k++)
            tensor_fini(&out[k]);
    }
    free(out);
    return rc;
}

/* Medians in place; rows that ran come first, largest first. Returns how many ran. */
static int rank_rows(struct profile *p, double *total)
{
    int n = 0;
    *total = 0;
    for (uint32_t i = 0; i < p->m->n_nodes; i++) {
        struct row row = p->row[i];
        row.node = i;
        if (!row.ms)
            continue;
        row.median = latency_summarize(row.ms, p->runs).p50_ms;
        *total += row.median;
        p->row[i].ms = NULL;
        p->row[n++] = row;
    }
    qsort(p->row, (size_t)n, sizeof *p->row, largest_first);
    return n;
}

/* Sum and count of the rows of an operator, from row `first` on; the rows are left as they are. */
static double sum_of(const struct profile *p, int first, int n, int *count)
{
    const char *op = p->m->nodes[p->row[first].node].op_type;
    double sum = 0;
    *count = 0;
    for (int i = first; i < n; i++)
        if (!strcmp(p->m->nodes[p->row[i].node].op_type, op)) {
            sum += p->row[i].median;
            ++*count;
        }
    return sum;
}

static bool seen_before(const struct profile *p, int row)
{
    for (int i = 0; i < row; i++)
        if (!strcmp(p->m->nodes[p->row[i].node].op_type, p->m->nodes[p->row[row].node].op_type))
            return true;
    return false;
}

static void print_text(const struct profile *p, int n, double total)
{
    char label[200];
    int count;
    printf("%10s %6s  %s\n", "ms", "%", "node");
    for (int i = 0; i < n && i < LINES; i++)
        printf("%10.4f %5.1f%%  %s (%s)\n", p->row[i].median, 100 * p->row[i].median / total,
               node_label(p->m, p->row[i].node, label, sizeof label), p->m->nodes[p->row[i].node].op_type);
    if (n > LINES)
        printf("%10s %6s  and %d more nodes\n", "", "", n - LINES);
    printf("\n%10s %6s %6s  %s\n", "ms", "%", "nodes", "operator");
    for (int i = 0; i < n; i++)
        if (!seen_before(p, i)) {
            double sum = sum_of(p, i, n, &count);
            printf("%10.4f %5.1f%% %6d  %s\n", sum, 100 * sum / total, count, p->m->nodes[p->row[i].node].op_type);
        }
    printf("%10.4f %13d  all (medians over %d runs)\n", total, n, p->runs);
}

static json_t *to_json(const struct profile *p, int n, double total)
{
    char label[200];
    json_t *nodes = json_array();
    for (int i = 0; i < n; i++)
        json_array_append_new(
            nodes, json_pack("{s:s, s:s, s:f}", "node", node_label(p->m, p->row[i].node, label, sizeof label),
                             "op_type", p->m->nodes[p->row[i].node].op_type, "p50_ms", p->row[i].median));
    return json_pack("{s:f, s:i, s:o}", "total_ms", total, "runs", p->runs, "nodes", nodes);
}

int bench_profile(const struct bench *b, struct err *err)
{
    struct profile p = {.m = plan_model(b->plan), .runs = b->runs > 0 ? (int)b->runs : DEFAULT_RUNS};
    int status = CLI_FAILED, n = 0;
    double total = 0;
    p.row = calloc(p.m->n_nodes + (size_t)1, sizeof *p.row);
    if (!p.row)
        err_set(err, ERR_NOMEM, "out of memory");
    else if (!run_all(&p, b, err)) {
        n = rank_rows(&p, &total);
        status = CLI_OK;
        if (b->json)
            status = cli_print_json(to_json(&p, n, total));
        else
            print_text(&p, n, total > 0 ? total : 1);
    }
    for (uint32_t i = 0; p.row && i < p.m->n_nodes; i++)
        free(p.row[i].ms);
    free(p.row);
    return status;
}
