/* SPDX-License-Identifier: Apache-2.0
 * layer_report.c - rows are JSON from the start: a later step may remove the node, its row stays as it was said.
 * Running out of memory loses rows, never the step: a report is not worth a job. */
#include "core/step/layer_report.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/utf8.h"

struct layer_report {
    json_t *rows;
};
struct warnings {
    json_t *rows;
};

struct layer_report *layer_report_new(void)
{
    struct layer_report *r = calloc(1, sizeof *r);
    if (r && !(r->rows = json_array())) {
        free(r);
        r = NULL;
    }
    return r;
}

void layer_report_free(struct layer_report *r)
{
    if (!r)
        return;
    json_decref(r->rows);
    free(r);
}

static json_t *shape_json(const struct shape *s)
{
    json_t *a = json_array();
    for (int i = 0; a && i < s->rank; i++)
        json_array_append_new(a, s->dim[i] < 0 ? json_null() : json_integer(s->dim[i]));
    return a;
}

void layer_report_add(struct layer_report *r, const struct model *m, const struct layer_row *row)
{
    json_t *o = r ? json_object() : NULL;
    if (!o) {
        json_decref(row->before);
        json_decref(row->after);
        return;
    }
    char label[200];
    if (row->node != NODE_NONE && row->node < m->n_nodes && m->nodes[row->node].op_type) {
        json_object_set_new(o, "node", utf8_json(node_label(m, row->node, label, sizeof label)));
        json_object_set_new(o, "op_type", utf8_json(m->nodes[row->node].op_type));
    } else if (row->label) {
        json_object_set_new(o, "node", utf8_json(row->label));
    }
    if (row->weight != VALUE_NONE && row->weight < m->n_values && m->values[row->weight].name) {
        const struct value *v = &m->values[row->weight];
        const struct tensor *t = v->weight ? &v->weight->tensor : value_const(m, row->weight);
        json_object_set_new(o, "weight", utf8_json(v->name));
        if (t)
            json_object_set_new(o, "shape", shape_json(&t->shape));
    }
    if (row->before)
        json_object_set_new(o, "before", row->before);
    if (row->after)
        json_object_set_new(o, "after", row->after);
    if (isfinite(row->sqnr_db))
        json_object_set_new(o, "sqnr_db", json_real(row->sqnr_db));
    if (row->skipped)
        json_object_set_new(o, "skipped", utf8_json(row->skipped));
    json_array_append_new(r->rows, o);
}

json_t *layer_report_json(const struct layer_report *r)
{
    return r ? json_incref(r->rows) : json_array();
}

struct warnings *warnings_new(void)
{
    struct warnings *w = calloc(1, sizeof *w);
    if (w && !(w->rows = json_array())) {
        free(w);
        w = NULL;
    }
    return w;
}

void warnings_free(struct warnings *w)
{
    if (!w)
        return;
    json_decref(w->rows);
    free(w);
}

void warnings_add(struct warnings *w, const char *fmt, ...)
{
    if (!w)
        return;
    char said[1000];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(said, sizeof said, fmt, ap);
    va_end(ap);
    json_t *j = utf8_json(said), *old;
    size_t i;
    json_array_foreach(w->rows, i, old)
    {
        if (json_equal(old, j)) {
            json_decref(j);
            return;
        }
    }
    json_array_append_new(w->rows, j);
}

json_t *warnings_json(const struct warnings *w)
{
    return w ? json_incref(w->rows) : json_array();
}

double sqnr_db(const float *a, const float *b, int64_t n)
{
    double signal = 0, noise = 0;
    for (int64_t i = 0; i < n; i++) {
        double d = (double)a[i] - (double)b[i];
        signal += (double)a[i] * (double)a[i];
        noise += d * d;
    }
    if (noise == 0)
        return signal == 0 ? NAN : INFINITY;
    return 10 * log10(signal / noise);
}
