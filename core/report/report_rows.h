/* SPDX-License-Identifier: Apache-2.0
 * report_rows.h - the figures of `before` and `after` that people read, one row each: report_text.c and report_html.c
 * print the same ones. Private to core/report. */
#ifndef PARED_REPORT_REPORT_ROWS_H
#define PARED_REPORT_REPORT_ROWS_H

#include <jansson.h>

enum report_unit {
    REPORT_UNIT_BYTES,
    REPORT_UNIT_COUNT,
    REPORT_UNIT_FRACTION,
    REPORT_UNIT_MS,
    REPORT_UNIT_PLAIN
};

struct report_row {
    const char *label, *section, *key; /* section: object inside before / after, or NULL */
    enum report_unit unit;
    const char *ratio; /* key of `ratio`, or NULL */
};
extern const struct report_row report_rows[];
extern const size_t report_n_rows;

/* The JSON number of a row, or NULL: not measured. Borrowed. */
const json_t *report_row_value(const json_t *facts, const struct report_row *row);
/* It in words, "-" when it was not measured. Returns out. */
const char *report_row_text(char out[32], const json_t *facts, const struct report_row *row);

#endif
