/* SPDX-License-Identifier: Apache-2.0
 * report_svg.h - charts of report.html. Private to core/report.
 * Text goes through html_text; numbers come from JSON, so they are finite. */
#ifndef PARED_REPORT_REPORT_SVG_H
#define PARED_REPORT_REPORT_SVG_H

#include <jansson.h>
#include <stdbool.h>

#include "core/base/buf.h"

/* Append text for HTML, in an element or an attribute: what has a meaning there is written out, control characters
 * become U+FFFD. NULL appends nothing. */
void html_text(struct buf *b, const char *text);

/* A line through rows[i][x], rows[i][y]; rows without both numbers are left out. */
struct svg_series {
    const char *name;   /* shown when pointed at */
    const char *kind;   /* class: "a", "b" or "thin" */
    const json_t *rows; /* array of objects, borrowed */
    const char *x, *y;
};
struct svg_plot {
    const char *title, *across;
    bool percent; /* y is a fraction */
    bool log;     /* y on a logarithmic scale of up to five decades */
    const struct svg_series *series;
    int n_series;
};
/* Nothing without two points to go between. Returns whether something was drawn. */
bool svg_plot(struct buf *b, const struct svg_plot *plot);

#endif
