/* SPDX-License-Identifier: Apache-2.0
 * report_svg.c - line charts as SVG of a fixed size that the page scales. Colours are classes of the page's style
 * sheet, so that they follow light and dark. */
#include "core/report/report_svg.h"

#include <math.h>
#include <stdbool.h>

enum { WIDTH = 560, HEIGHT = 240, LEFT = 64, RIGHT = 14, TOP = 12, BOTTOM = 40, GRID = 4, LINES_MAX = 20, MOST_DECADES = 5 };

void html_text(struct buf *b, const char *text)
{
    for (; text && *text; text++) {
        unsigned char c = (unsigned char)*text;
        switch (c) {
        case '&':
            buf_puts(b, "&amp;");
            break;
        case '<':
            buf_puts(b, "&lt;");
            break;
        case '>':
            buf_puts(b, "&gt;");
            break;
        case '"':
            buf_puts(b, "&quot;");
            break;
        case '\'':
            buf_puts(b, "&#39;");
            break;
        default:
            if ((c < 32 && c != '\n') || c == 127)
                buf_puts(b, "\xef\xbf\xbd");
            else
                buf_append(b, text, 1);
        }
    }
}

struct scale {
    double x0, x1, y0, y1; /* y in decades when log */
    bool log;
};

static bool point(const struct svg_series *s, size_t i, double *x, double *y)
{
    const json_t *row = json_array_get(s->rows, i), *a = json_object_get(row, s->x), *c = json_object_get(row, s->y);
    *x = json_number_value(a);
    *y = json_number_value(c);
    return json_is_number(a) && json_is_number(c);
}

/* The ends of all points, a little apart where they coincide. */
static int ends(const struct svg_plot *plot, struct scale *out)
{
    int points = 0;
    *out = (struct scale){INFINITY, -INFINITY, INFINITY, -INFINITY, plot->log};
    for (int s = 0; s < plot->n_series; s++)
        for (size_t i = 0; i < json_array_size(plot->series[s].rows); i++) {
            double x, y;
            if (!point(&plot->series[s], i, &x, &y) || (plot->log && y <= 0))
                continue;
            y = plot->log ? log10(y) : y;
            out->x0 = fmin(out->x0, x), out->x1 = fmax(out->x1, x);
            out->y0 = fmin(out->y0, y), out->y1 = fmax(out->y1, y);
            points++;
        }
    if (plot->log)
        out->y0 = fmax(out->y0, out->y1 - MOST_DECADES);
    if (!(out->x1 - out->x0 > 1e-9 * fabs(out->x0)))
        out->x1 = out->x0 + 1;
    if (!(out->y1 - out->y0 > 1e-9 * fabs(out->y0))) /* equal but for rounding: lines would lie closer than numbers do */
        out->y1 = out->y0 + fmax(1e-3, fabs(out->y0) * 0.01);
    return points;
}

/* A round distance between lines, 1, 2 or 5 times a power of ten, that gives about GRID of them. */
static double round_step(double span)
{
    double power = pow(10, floor(log10(span / GRID))), rough = span / GRID / power;
    return power * (rough > 5 ? 10 : rough > 2 ? 5 : rough > 1 ? 2 : 1);
}

/* Let the vertical axis begin and end on a line. */
static void round_ends(struct scale *s)
{
    double step = s->log ? 1 : round_step(s->y1 - s->y0);
    s->y0 = floor(s->y0 / step + 1e-9) * step;
    s->y1 = ceil(s->y1 / step - 1e-9) * step;
}

static double across(const struct scale *s, double x)
{
    return LEFT + (x - s->x0) / (s->x1 - s->x0) * (WIDTH - LEFT - RIGHT);
}

static double up(const struct scale *s, double y)
{
    double v = s->log ? (y > 0 ? log10(y) : s->y0) : y;
    return HEIGHT - BOTTOM - (fmax(v, s->y0) - s->y0) / (s->y1 - s->y0) * (HEIGHT - TOP - BOTTOM);
}

static void down_axis(struct buf *b, const struct svg_plot *plot, const struct scale *s)
{
    double step = s->log ? 1 : round_step(s->y1 - s->y0);
    double first = ceil(s->y0 / step - 1e-9), last = s->y1 / step + 1e-9;
    for (int i = 0; i < LINES_MAX && first + i <= last; i++) {
        double k = first + i;
        double value = s->log ? pow(10, k) : k * step + 0.0, y = up(s, value); /* no -0 */
        buf_printf(b, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT, WIDTH - RIGHT, y, y);
        buf_printf(b, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.3g%s</text>", LEFT - 6, y + 4,
                   plot->percent ? value * 100 : value, plot->percent ? " %" : "");
    }
}

static void across_axis(struct buf *b, const struct svg_plot *plot, const struct scale *s)
{
    double step = round_step(s->x1 - s->x0);
    double first = ceil(s->x0 / step - 1e-9), last = s->x1 / step + 1e-9;
    for (int i = 0; i < LINES_MAX && first + i <= last; i++) {
        double k = first + i;
        buf_printf(b, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.3g</text>", across(s, k * step),
                   HEIGHT - BOTTOM + 16, k * step);
    }
    buf_printf(b, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">", (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6);
    html_text(b, plot->across);
    buf_puts(b, "</text>");
}

static void line(struct buf *b, const struct svg_series *s, const struct scale *scale)
{
    buf_printf(b, "<g class=\"line %s\"><title>", s->kind);
    html_text(b, s->name);
    buf_puts(b, "</title><polyline points=\"");
    for (size_t i = 0; i < json_array_size(s->rows); i++) {
        double x, y;
        if (point(s, i, &x, &y))
            buf_printf(b, "%.1f,%.1f ", across(scale, x), up(scale, y));
    }
    buf_puts(b, "\"/></g>");
}

bool svg_plot(struct buf *b, const struct svg_plot *plot)
{
    struct scale scale;
    if (ends(plot, &scale) < 2)
        return false;
    round_ends(&scale);
    buf_puts(b, "<figure><figcaption>");
    html_text(b, plot->title);
    buf_printf(b, "</figcaption><svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"", WIDTH, HEIGHT);
    html_text(b, plot->title);
    buf_puts(b, "\">");
    down_axis(b, plot, &scale);
    across_axis(b, plot, &scale);
    for (int s = 0; s < plot->n_series; s++)
        line(b, &plot->series[s], &scale);
    buf_puts(b, "</svg></figure>");
    return true;
}
