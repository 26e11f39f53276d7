/* SPDX-License-Identifier: Apache-2.0
 * report_text.c - the report as a table: one row a figure, printed only if it was measured. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/report/report.h"
#include "core/report/report_rows.h"

const struct report_row report_rows[] = {
    {"file size", NULL, "bytes", REPORT_UNIT_BYTES, "bytes"},
    {"compressed by zstd", NULL, "zstd_bytes", REPORT_UNIT_BYTES, "zstd_bytes"},
    {"parameters", NULL, "params", REPORT_UNIT_COUNT, "params"},
    {"non-zero", NULL, "nonzero", REPORT_UNIT_COUNT, "nonzero"},
    {"MACs", NULL, "macs", REPORT_UNIT_COUNT, "macs"},
    {"peak activations", NULL, "peak_activation_bytes", REPORT_UNIT_BYTES, NULL},
    {"top-1", "metrics", "top1", REPORT_UNIT_FRACTION, NULL},
    {"top-5", "metrics", "top5", REPORT_UNIT_FRACTION, NULL},
    {"F1 (macro)", "metrics", "f1", REPORT_UNIT_FRACTION, NULL},
    {"mean squared error", "metrics", "mse", REPORT_UNIT_PLAIN, NULL},
    {"PSNR in dB", "metrics", "psnr_db", REPORT_UNIT_PLAIN, NULL},
    {"latency p50", "latency_ms", "p50", REPORT_UNIT_MS, "latency"},
    {"latency p99", "latency_ms", "p99", REPORT_UNIT_MS, NULL},
};
const size_t report_n_rows = sizeof report_rows / sizeof report_rows[0];

const json_t *report_row_value(const json_t *facts, const struct report_row *row)
{
    const json_t *v = json_object_get(row->section ? json_object_get(facts, row->section) : facts, row->key);
    return json_is_number(v) ? v : NULL;
}

const char *report_row_text(char out[32], const json_t *facts, const struct report_row *row)
{
    static const char *const steps[] = {"", "k", "M", "G", "T"};
    const json_t *v = report_row_value(facts, row);
    double x = json_number_value(v);
    int i = 0;
    if (!v) {
        snprintf(out, 32, "-");
    } else if (row->unit == REPORT_UNIT_BYTES || row->unit == REPORT_UNIT_COUNT) {
        for (; x >= 9999.5 && i < 4; i++)
            x /= 1000;
        snprintf(out, 32, i ? "%.2f %s%s" : "%.0f %s%s", x, steps[i], row->unit == REPORT_UNIT_BYTES ? "B" : "");
    } else if (row->unit == REPORT_UNIT_FRACTION) {
        snprintf(out, 32, "%.2f %%", x * 100);
    } else if (row->unit == REPORT_UNIT_MS) {
        snprintf(out, 32, "%.3f ms", x);
    } else {
        snprintf(out, 32, "%.6g", x);
    }
    for (char *end = out + strlen(out); end > out && end[-1] == ' ';)
        *--end = 0;
    return out;
}

static void print_rows(struct buf *b, const json_t *report)
{
    const json_t *before = json_object_get(report, "before"), *after = json_object_get(report, "after");
    char left[32], right[32];
    buf_printf(b, "%-20s %14s %14s %9s\n", "", "before", "after", "ratio");
    for (size_t i = 0; i < report_n_rows; i++) {
        const struct report_row *row = &report_rows[i];
        report_row_text(left, before, row);
        report_row_text(right, after, row);
        if (!strcmp(left, "-") && !strcmp(right, "-"))
            continue;
        const json_t *ratio = row->ratio ? json_object_get(json_object_get(report, "ratio"), row->ratio) : NULL;
        buf_printf(b, "%-20s %14s %14s", row->label, left, right);
        if (json_is_number(ratio))
            buf_printf(b, " %8.3fx", json_number_value(ratio));
        buf_puts(b, "\n");
    }
}

static void print_fidelity(struct buf *b, const json_t *fidelity)
{
    size_t i;
    const json_t *o, *v;
    if (fidelity)
        buf_printf(b, "\nAgainst the original on %" JSON_INTEGER_FORMAT " samples (%s):\n",
                   json_integer_value(json_object_get(fidelity, "samples")),
                   strcmp(json_string_value(json_object_get(fidelity, "source")), "dataset") ? "generated inputs"
                                                                                             : "dataset");
    json_array_foreach (json_object_get(fidelity, "outputs"), i, o) {
        buf_printf(b, "  %s:", json_string_value(json_object_get(o, "name")));
        if ((v = json_object_get(o, "max_abs")))
            buf_printf(b, " largest difference %.3g", json_number_value(v));
        if ((v = json_object_get(o, "sqnr_db")))
            buf_printf(b, ", SQNR %.1f dB", json_number_value(v));
        if ((v = json_object_get(o, "cosine")))
            buf_printf(b, ", cosine %.6f", json_number_value(v));
        if ((v = json_object_get(o, "top1_agreement")))
            buf_printf(b, ", same top class %.2f %%", json_number_value(v) * 100);
        buf_puts(b, "\n");
    }
}

char *report_text(const json_t *report)
{
    struct buf b = {0};
    size_t i;
    const json_t *o;
    print_rows(&b, report);
    print_fidelity(&b, json_object_get(report, "fidelity"));
    const json_t *targets = json_object_get(report, "targets");
    if (json_array_size(targets))
        buf_puts(&b, "\nTargets:\n");
    json_array_foreach (targets, i, o) {
        const json_t *got = json_object_get(o, "got");
        buf_printf(&b, "  %s: wanted %.6g, ", json_string_value(json_object_get(o, "target")),
                   json_number_value(json_object_get(o, "wanted")));
        if (got)
            buf_printf(&b, "got %.6g: ", json_number_value(got));
        else
            buf_puts(&b, "not measured: ");
        buf_puts(&b, json_is_true(json_object_get(o, "met")) ? "met\n" : "missed\n");
    }
    const json_t *warnings = json_object_get(report, "warnings");
    if (json_array_size(warnings))
        buf_puts(&b, "\nWarnings:\n");
    json_array_foreach (warnings, i, o)
        buf_printf(&b, "  %s\n", json_string_value(o));
    for (char *c = b.data; c && *c; c++) /* names are a stranger's: none may drive the terminal */
        if (((unsigned char)*c < 32 && *c != '\n') || *c == 127)
            *c = '?';
    return buf_take(&b);
}
