/* SPDX-License-Identifier: Apache-2.0
 * report_html.c - the report as one file to hand on. It is opened from a disk or a mail as often as from the server, so
 * it asks for nothing: its policy forbids every load and every script, and names from the model are written out as
 * text. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/report/report.h"
#include "core/report/report_rows.h"
#include "core/report/report_svg.h"

enum { MOST_ROWS = 2000, MOST_KEYS = 12, MOST_CURVES = 60, MOST_NUMBERS = 20, MOST_DEPTH = 8 };

static const char style[] =
    ":root{color-scheme:light dark;--paper:#fbfbf9;--card:#fff;--ink:#1c2421;--quiet:#5a6661;--line:#dde2df;"
    "--accent:#2f7d5b;--bad:#b3372f;--bar:#c9d0cc}"
    "@media screen and (prefers-color-scheme:dark){:root{--paper:#141816;--card:#1d2320;--ink:#e6ebe8;--quiet:#9daaa4;"
    "--line:#333c38;--accent:#67c79d;--bad:#f08a80;--bar:#4a5650}}"
    "*{box-sizing:border-box}body{margin:0;background:var(--paper);color:var(--ink);font:16px/1.5 system-ui,sans-serif}"
    "main{max-width:72rem;margin:0 auto;padding:1.25rem}h1{font-size:1.5rem;overflow-wrap:anywhere}"
    "h2{font-size:1.2rem;margin:2rem 0 .5rem}h3{font-size:1rem;margin:1.5rem 0 .3rem}.quiet,caption{color:var(--quiet)}"
    ".mono,pre{font-family:ui-monospace,monospace;font-size:.88em;overflow-wrap:anywhere}"
    ".scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}"
    "caption{text-align:left;font-size:.88rem}th,td{text-align:left;vertical-align:top;padding:.4rem .6rem;"
    "border-bottom:1px solid "
    "var(--line)}th{font-size:.85rem;color:var(--quiet)}.num{text-align:right;white-space:nowrap}"
    "pre{background:var(--card);border:1px solid var(--line);border-radius:.4rem;padding:.75rem;overflow-x:auto}"
    ".met{color:var(--accent);font-weight:700}.missed{color:var(--bad);font-weight:700}.pair{display:block;width:9rem}"
    ".pair rect{fill:var(--bar)}.pair rect+rect{fill:var(--accent)}.charts{display:grid;gap:1rem;"
    "grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr))}figure{margin:0;min-width:0}"
    "figcaption{font-weight:600;font-size:.9rem}figure svg{display:block;width:100%;max-width:560px}"
    "svg text{fill:var(--quiet);font-size:12px}.grid{stroke:var(--line)}.line polyline{fill:none;stroke:var(--accent);"
    "stroke-width:2.5}.line.b polyline{stroke:var(--quiet);stroke-dasharray:6 4}.line.thin polyline{stroke-width:1.4;"
    "opacity:.7}.noise{border-left:.4rem solid var(--bad);padding-left:.4rem}.clean{border-left:.4rem solid "
    "var(--accent);"
    "padding-left:.4rem}.fair{border-left:.4rem solid var(--bar);padding-left:.4rem}.confusion{width:auto}"
    ".confusion th,.confusion td{border:1px solid var(--line);text-align:right;padding:.15rem .45rem}"
    ".confusion .right{color:var(--accent);font-weight:700}.confusion .wrong{color:var(--bad);font-weight:700}"
    ".nested{border-left:3px solid var(--line);padding-left:.9rem}dl{display:grid;"
    "grid-template-columns:max-content minmax(0,1fr);gap:.2rem 1rem}dt{color:var(--quiet)}dd{margin:0}"
    ".layers td{min-width:6rem}.layers td.mono{min-width:9rem}.layers td:nth-child(4){min-width:16rem}"
    ".charts{align-items:end}.zero{color:var(--quiet)}@media (min-width:60rem){.layers td.mono{min-width:14rem}}"
    "@media (max-width:40rem){main{padding:.8rem}th,td{padding:.3rem}}"
    /* Paper: white, nothing that scrolls, no row, chart or heading torn from what belongs to it. */
    "@media print{:root{color-scheme:light;--paper:#fff}body{font-size:10pt}main{max-width:none;padding:0}"
    ".scroll{overflow:visible}pre{white-space:pre-wrap}tr,figure{break-inside:avoid}h2,h3,caption{break-after:avoid}"
    "thead{display:table-header-group}.layers td,.layers td.mono,.layers td:nth-child(4){min-width:0}a{color:inherit}}"
    "@page{margin:15mm}";

static void html_key(struct buf *b, const char *key)
{
    char words[120];
    snprintf(words, sizeof words, "%s", key);
    for (char *c = words; *c; c++)
        if (*c == '_')
            *c = ' ';
    html_text(b, words);
}

/* A value in few words: "bytes 576, dtype float32". */
static void html_value(struct buf *b, const json_t *v, int depth)
{
    const char *key;
    json_t *inner;
    int shown = 0;
    if (json_is_string(v)) {
        html_text(b, json_string_value(v));
    } else if (json_is_integer(v)) {
        buf_printf(b, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
    } else if (json_is_real(v)) {
        buf_printf(b, "%.6g", json_real_value(v));
    } else if (json_is_boolean(v)) {
        buf_puts(b, json_is_true(v) ? "yes" : "no");
    } else if (json_is_array(v)) {
        buf_printf(b, "%zu values", json_array_size(v));
    } else if (json_is_object(v) && depth < 2) {
        json_object_foreach((json_t *)v, key, inner)
        {
            if (++shown > MOST_KEYS)
                break;
            buf_puts(b, shown > 1 ? ", " : "");
            html_key(b, key);
            buf_puts(b, json_is_object(inner) ? " (" : " ");
            html_value(b, inner, depth + 1);
            buf_puts(b, json_is_object(inner) ? ")" : "");
        }
    }
}

static void cell(struct buf *b, const json_t *v)
{
    buf_puts(b, "<td>");
    html_value(b, v, 0);
    buf_puts(b, "</td>");
}

/* ---- figures ---- */

static void bars(struct buf *b, const json_t *left, const json_t *right)
{
    double x = json_number_value(left), y = json_number_value(right), most = x > y ? x : y;
    if (!left || !right || !(most > 0) || x < 0 || y < 0)
        return;
    buf_printf(b,
               "<svg class=\"pair\" viewBox=\"0 0 144 18\" aria-hidden=\"true\"><rect width=\"%.1f\" height=\"8\"/>"
               "<rect y=\"10\" width=\"%.1f\" height=\"8\"/></svg>",
               x / most * 144, y / most * 144);
}

static void figures(struct buf *b, const json_t *report)
{
    const json_t *before = json_object_get(report, "before"), *after = json_object_get(report, "after");
    char left[32], right[32];
    buf_puts(
        b,
        "<h2>Before and after</h2><div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">Figure</th>"
        "<th scope=\"col\" class=\"num\">Before</th><th scope=\"col\" class=\"num\">After</th>"
        "<th scope=\"col\" class=\"num\">Ratio</th><td></td></tr></thead><tbody>");
    for (size_t i = 0; i < report_n_rows; i++) {
        const struct report_row *row = &report_rows[i];
        const json_t *x = report_row_value(before, row), *y = report_row_value(after, row);
        if (!x && !y)
            continue;
        buf_printf(b,
                   "<tr><th scope=\"row\">%s</th><td class=\"num\">%s</td><td class=\"num\">%s</td><td class=\"num\">",
                   row->label, report_row_text(left, before, row), report_row_text(right, after, row));
        const json_t *ratio = row->ratio ? json_object_get(json_object_get(report, "ratio"), row->ratio) : NULL;
        if (json_is_number(ratio))
            buf_printf(b, "%.3fx", json_number_value(ratio));
        buf_puts(b, "</td><td>");
        bars(b, x, y);
        buf_puts(b, "</td></tr>");
    }
    buf_puts(b, "</tbody></table></div>");
}

static void targets(struct buf *b, const json_t *report)
{
    const json_t *list = json_object_get(report, "targets");
    size_t i;
    json_t *t;
    if (!json_array_size(list))
        return;
    buf_puts(b, "<h2>Targets</h2><div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th "
                "scope=\"col\">Target</th><th scope=\"col\">"
                "Wanted</th><th scope=\"col\">Got</th><th scope=\"col\">Met</th></tr></thead><tbody>");
    json_array_foreach(list, i, t)
    {
        bool met = json_is_true(json_object_get(t, "met"));
        buf_puts(b, "<tr>");
        cell(b, json_object_get(t, "target"));
        cell(b, json_object_get(t, "wanted"));
        cell(b, json_object_get(t, "got"));
        buf_printf(b, "<td class=\"%s\">%s</td></tr>", met ? "met" : "missed", met ? "met" : "missed");
    }
    buf_puts(b, "</tbody></table></div>");
}

static void warnings(struct buf *b, const json_t *report)
{
    size_t i;
    json_t *w;
    if (!json_array_size(json_object_get(report, "warnings")))
        return;
    buf_puts(b, "<h2>Good to know</h2><ul>");
    json_array_foreach(json_object_get(report, "warnings"), i, w)
    {
        buf_puts(b, "<li>");
        html_text(b, json_string_value(w));
        buf_puts(b, "</li>");
    }
    buf_puts(b, "</ul>");
}

static void fidelity(struct buf *b, const json_t *report)
{
    static const char *const keys[] = {"name", "top1_agreement", "sqnr_db", "cosine", "max_abs"};
    const json_t *f = json_object_get(report, "fidelity");
    size_t i;
    json_t *o;
    if (!f)
        return;
    buf_printf(b,
               "<h2>Fidelity</h2><p class=\"quiet\">Outputs against those of the source, on %" JSON_INTEGER_FORMAT " ",
               json_integer_value(json_object_get(f, "samples")));
    const char *source = json_string_value(json_object_get(f, "source"));
    buf_puts(b, source && !strcmp(source, "dataset") ? "samples of the dataset.</p>" : "generated inputs.</p>");
    buf_puts(b,
             "<div class=\"scroll\" tabindex=\"0\"><table><thead><tr><th scope=\"col\">Output</th><th "
             "scope=\"col\">Top class agrees</th>"
             "<th scope=\"col\">SQNR in dB</th><th scope=\"col\">Cosine</th><th scope=\"col\">Largest error</th></tr>"
             "</thead><tbody>");
    json_array_foreach(json_object_get(f, "outputs"), i, o)
    {
        buf_puts(b, "<tr>");
        for (size_t k = 0; k < sizeof keys / sizeof keys[0]; k++)
            if (k == 1 && json_is_number(json_object_get(o, keys[k])))
                buf_printf(b, "<td>%.2f %%</td>", json_number_value(json_object_get(o, keys[k])) * 100);
            else
                cell(b, json_object_get(o, keys[k]));
        buf_puts(b, "</tr>");
    }
    buf_puts(b, "</tbody></table></div>");
}

static void confusion(struct buf *b, const json_t *report)
{
    const json_t *m = json_object_get(json_object_get(json_object_get(report, "after"), "metrics"), "confusion");
    size_t n = json_array_size(m);
    if (n == 0 || n > MOST_NUMBERS)
        return;
    buf_puts(b, "<h2>Confusion</h2><div class=\"scroll\" tabindex=\"0\"><table class=\"confusion\"><caption>rows: the "
                "true class; columns: "
                "what the result says</caption><thead><tr><td></td>");
    for (size_t c = 0; c < n; c++)
        buf_printf(b, "<th scope=\"col\">%zu</th>", c);
    buf_puts(b, "</tr></thead><tbody>");
    for (size_t r = 0; r < n; r++) {
        buf_printf(b, "<tr><th scope=\"row\">%zu</th>", r);
        for (size_t c = 0; c < n; c++) {
            json_int_t count = json_integer_value(json_array_get(json_array_get(m, r), c));
            const char *kind = !count ? "zero" : r == c ? "right" : "wrong";
            buf_printf(b, "<td class=\"%s\">%" JSON_INTEGER_FORMAT "</td>", kind, count);
        }
        buf_puts(b, "</tr>");
    }
    buf_puts(b, "</tbody></table></div>");
}

/* ---- steps ---- */

static void training(struct buf *b, const json_t *details)
{
    const json_t *epochs = json_object_get(json_object_get(details, "training"), "epochs");
    const json_t *rounds = json_object_get(details, "rounds");
    const struct svg_series loss[] = {{"training", "b", epochs, "epoch", "loss"},
                                      {"validation", "a", epochs, "epoch", "val_loss"}};
    const struct svg_series top1[] = {{"validation", "a", epochs, "epoch", "val_top1"}};
    const struct svg_series ramp[] = {{"rounds", "a", rounds, "round", "ramp"}};
    buf_puts(b, "<div class=\"charts\">");
    if (epochs) {
        svg_plot(b,
                 &(struct svg_plot){"Loss: training (dashed) and validation", "epoch", .series = loss, .n_series = 2});
        svg_plot(b, &(struct svg_plot){"Validation top-1", "epoch", .percent = true, .series = top1, .n_series = 1});
    }
    if (rounds)
        svg_plot(b, &(struct svg_plot){"How far every round went", "round", .series = ramp, .n_series = 1});
    buf_puts(b, "</div>");
}

static void sensitivity(struct buf *b, const json_t *layers)
{
    static const struct {
        const char *key, *title;
        bool percent;
    } figure[] = {{"top1", "Top-1 as a group of channels goes, a line a group", true},
                  {"kl", "Kullback-Leibler divergence as a group of channels goes, a line a group", false}};
    struct svg_series series[MOST_CURVES];
    buf_puts(b, "<div class=\"charts\">");
    for (size_t k = 0; k < sizeof figure / sizeof figure[0]; k++) {
        int n = 0;
        size_t i;
        json_t *row;
        json_array_foreach(layers, i, row)
        {
            const json_t *curve = json_object_get(json_object_get(row, "after"), "curve");
            const char *name = json_string_value(json_object_get(row, "node"));
            if (json_array_size(curve) && n < MOST_CURVES)
                series[n++] = (struct svg_series){name ? name : "", "thin", curve, "ratio", figure[k].key};
        }
        if (n)
            svg_plot(b, &(struct svg_plot){figure[k].title, "fraction of the channels that is gone", figure[k].percent,
                                           .log = !figure[k].percent, .series = series, .n_series = n});
    }
    buf_puts(b, "</div>");
}

static void layer_row(struct buf *b, const json_t *row)
{
    const json_t *name = json_object_get(row, "node"), *skipped = json_object_get(row, "skipped");
    const json_t *noise = json_object_get(row, "sqnr_db");
    buf_puts(b, "<tr><td class=\"mono\">");
    html_value(b, name ? name : json_object_get(row, "weight"), 0);
    buf_puts(b, "</td>");
    cell(b, json_object_get(row, "op_type"));
    cell(b, json_object_get(row, "before"));
    if (skipped) {
        buf_puts(b, "<td class=\"quiet\">left alone: ");
        html_value(b, skipped, 0);
        buf_puts(b, "</td>");
    } else {
        cell(b, json_object_get(row, "after"));
    }
    buf_puts(b, "<td class=\"num\">");
    if (json_is_number(noise)) {
        double db = json_number_value(noise);
        buf_printf(b, "<span class=\"%s\">%.1f dB</span>", db < 15 ? "noise" : db < 30 ? "fair" : "clean", db);
    }
    buf_puts(b, "</td></tr>");
}

static void layer_table(struct buf *b, const json_t *layers)
{
    size_t i, shown = 0, left = 0;
    json_t *row;
    json_array_foreach(layers, i, row) left += json_object_get(json_object_get(row, "after"), "curve") == NULL;
    if (!left)
        return;
    buf_puts(b,
             "<div class=\"scroll\" tabindex=\"0\"><table class=\"layers\"><thead><tr><th scope=\"col\">Layer</th><th "
             "scope=\"col\">Operator</th>"
             "<th scope=\"col\">Before</th><th scope=\"col\">After</th><th scope=\"col\" class=\"num\">SQNR</th></tr>"
             "</thead><tbody>");
    json_array_foreach(layers, i, row)
    {
        if (json_object_get(json_object_get(row, "after"), "curve"))
            continue;
        if (++shown > MOST_ROWS)
            break;
        layer_row(b, row);
    }
    buf_puts(b, "</tbody></table></div>");
    if (left > MOST_ROWS)
        buf_printf(b, "<p class=\"quiet\">%zu more layers are in report.json.</p>", left - MOST_ROWS);
}

static void steps(struct buf *b, const json_t *list, int depth)
{
    size_t i;
    json_t *step;
    json_array_foreach(list, i, step)
    {
        const json_t *layers = json_object_get(step, "layers"), *details = json_object_get(step, "details");
        buf_printf(b, "<section class=\"%s\"><h3>%zu. ", depth ? "nested" : "", i + 1);
        html_text(b, json_string_value(json_object_get(step, "method")));
        buf_printf(b, "</h3><p class=\"quiet\">%.2f s%s", json_number_value(json_object_get(step, "seconds")),
                   json_object_size(json_object_get(step, "parameters")) ? "; " : "");
        html_value(b, json_object_get(step, "parameters"), 0);
        buf_puts(b, "</p>");
        if (json_object_get(details, "training") || json_object_get(details, "rounds"))
            training(b, details);
        sensitivity(b, layers);
        layer_table(b, layers);
        if (depth < MOST_DEPTH)
            steps(b, json_object_get(step, "steps"), depth + 1);
        buf_puts(b, "</section>");
    }
}

/* ---- the page ---- */

static void head(struct buf *b, const char *name)
{
    buf_puts(b, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
                "content=\"width=device-width, initial-scale=1\"><meta http-equiv=\"Content-Security-Policy\" "
                "content=\"default-src 'none'; style-src 'unsafe-inline'\"><title>");
    html_text(b, name);
    buf_puts(b, " · pared report</title><style>");
    buf_puts(b, style);
    buf_puts(b, "</style></head><body><main><h1>");
    html_text(b, name);
    buf_puts(b, "</h1>");
}

static void recipe(struct buf *b, const json_t *report)
{
    const json_t *r = json_object_get(report, "recipe");
    char *text = r ? json_dumps(r, JSON_INDENT(2) | JSON_REAL_PRECISION(15)) : NULL;
    if (!text)
        return;
    buf_puts(b, "<h2>Recipe</h2><pre tabindex=\"0\">");
    html_text(b, text);
    buf_puts(b, "</pre>");
    free(text);
}

static void environment(struct buf *b, const json_t *report)
{
    const char *key;
    json_t *v;
    buf_puts(b, "<h2>Made by</h2><dl>");
    json_object_foreach(json_object_get(report, "environment"), key, v)
    {
        buf_puts(b, "<dt>");
        html_key(b, key);
        buf_puts(b, "</dt><dd>");
        html_value(b, v, 0);
        buf_puts(b, "</dd>");
    }
    static const char *const files[] = {"source", "artifact", "teacher"};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        const json_t *file = json_object_get(report, files[i]);
        if (!file)
            continue;
        buf_printf(b, "<dt>%s</dt><dd class=\"mono\">", files[i]);
        html_text(b, json_string_value(json_object_get(file, "name")));
        buf_puts(b, " sha256 ");
        html_text(b, json_string_value(json_object_get(file, "sha256")));
        buf_puts(b, "</dd>");
    }
    buf_puts(b, "</dl>");
}

char *report_html(const json_t *report)
{
    struct buf b = {0};
    const char *name = json_string_value(json_object_get(json_object_get(report, "source"), "name"));
    head(&b, name && *name ? name : "model");
    figures(&b, report);
    targets(&b, report);
    warnings(&b, report);
    fidelity(&b, report);
    confusion(&b, report);
    buf_puts(&b, "<h2>Steps, layer by layer</h2>");
    steps(&b, json_object_get(report, "steps"), 0);
    recipe(&b, report);
    environment(&b, report);
    buf_puts(&b, "</main></body></html>\n");
    return buf_take(&b);
}
