/* SPDX-License-Identifier: Apache-2.0
 * channels_report.c - a row for every group: what it had, what it has, and why it did not lose (more); a row for the
 * target. */
#include <math.h>
#include <stdio.h>

#include "core/base/utf8.h"
#include "core/passes/weights.h"
#include "core/prune/channels.h"

enum { COUPLED_MAX = 8 };

static json_t *facts(const struct channels_run *r, const struct channels_origin *o, int64_t n, double macs,
                     double params)
{
    json_t *j = json_pack("{s:I}", r->unit, (json_int_t)(r->mode == GROUPS_OUTER ? n : n * o->width));
    if (j && macs >= 0)
        json_object_set_new(j, "macs", json_integer((json_int_t)llround(macs)));
    if (j && params >= 0)
        json_object_set_new(j, "params", json_integer((json_int_t)llround(params)));
    return j;
}

/* The ratio asked of this group alone; NAN: none (ranked with others, or for a target). */
static double asked(const struct channels_run *r, const struct channels_origin *o)
{
    if (!isnan(o->ratio))
        return o->ratio;
    return r->p->has_ratio && r->p->scope == SELECT_LAYER ? r->p->ratio : NAN;
}

/* What kept the group at this many; "" if nothing did. */
static const char *limit(const struct channels_run *r, const struct channels_origin *o, char text[160])
{
    const struct prune_channels_params *p = r->p;
    const int64_t by_count = (p->min_keep + o->width - 1) / o->width;
    const int64_t by_share = (int64_t)ceil((double)o->n * (1 - p->max_ratio) - 1e-9);
    const double ratio = asked(r, o);
    const int64_t wanted = isnan(ratio) ? -1 : (int64_t)floor((double)o->n * (1 - ratio) + 1e-9);
    text[0] = '\0';
    if (o->n_now == wanted || o->n_now == 0)
        return text;
    if (o->n_now <= by_count)
        snprintf(text, 160, "kept at min_keep %lld", (long long)p->min_keep);
    else if (p->max_ratio < 1 && o->n_now <= by_share)
        snprintf(text, 160, "kept at max_ratio %g", p->max_ratio);
    else if (wanted >= 0 && o->round_to > 1)
        snprintf(text, 160, "%lld rounded up to a multiple of %lld, or all there are", (long long)(wanted * o->width),
                 (long long)o->round_to);
    else if (wanted == 0)
        snprintf(text, 160, "one stays, or the layer would be empty");
    return text;
}

static const char *why_whole(const struct channels_run *r, const struct channels_origin *o, char text[160])
{
    const double ratio = asked(r, o);
    if (o->left)
        return o->left;
    if (*limit(r, o, text))
        return text;
    if (!isnan(ratio))
        snprintf(text, 160, "the ratio %g takes none of its %lld %s", ratio, (long long)o->n, r->unit);
    else
        snprintf(text, 160, "none of its %s is among the least important", r->unit);
    return text;
}

static json_t *coupled(const struct model *m, const struct channels_origin *o)
{
    json_t *list = json_array();
    char label[200];
    for (int i = 0; list && i < o->n_coupled && i < COUPLED_MAX; i++)
        json_array_append_new(list, utf8_json(node_label(m, o->coupled[i], label, sizeof label)));
    if (list && o->n_coupled > COUPLED_MAX) {
        snprintf(label, sizeof label, "and %d more", o->n_coupled - COUPLED_MAX);
        json_array_append_new(list, json_string(label));
    }
    return list;
}

static void report_group(struct channels_run *r, const struct channels_origin *o)
{
    char text[160];
    struct layer_row row = {.node = o->node, .weight = o->value, .sqnr_db = NAN, .label = o->name};
    if (o->n > 0 && o->left != channels_no_heads)
        row.before = facts(r, o, o->n, o->macs, o->params);
    if (o->left || o->n_now == o->n) {
        row.skipped = why_whole(r, o, text);
    } else {
        row.after = facts(r, o, o->n_now, o->macs_now, o->params_now);
        if (row.after && *limit(r, o, text))
            json_object_set_new(row.after, "limit", json_string(text));
        if (row.after && isfinite(o->loss))
            json_object_set_new(row.after, "predicted_loss", json_real(o->loss));
        if (row.after && o->approximate)
            json_object_set_new(row.after, "approximate", utf8_json(o->approximate));
        if (row.after && o->frozen)
            json_object_set_new(row.after, "partly_frozen", utf8_json(o->frozen));
        if (row.after && o->n_coupled)
            json_object_set_new(row.after, "coupled", coupled(r->c->model, o));
    }
    layer_report_add(r->c->layers, r->c->model, &row);
}

static void report_target(struct channels_run *r)
{
    char label[80];
    const char *figure = channels_figures[r->figure];
    snprintf(label, sizeof label, "target %s:%g", figure, r->wanted);
    json_t *after = json_pack("{s:f, s:f, s:b}", "wanted", r->wanted, "got", r->found.left, "met", r->found.met);
    if (after && r->stopped_by)
        json_object_set_new(after, "stopped_by", utf8_json(r->stopped_by));
    if (after && r->ms_before > 0) {
        json_object_set_new(after, "ms_before", json_real(r->ms_before));
        json_object_set_new(after, "ms_after", json_real(r->ms_after));
    }
    if (after && r->table_json)
        json_object_set(after, "table", r->table_json);
    layer_report_add(r->c->layers, r->c->model,
                     &(struct layer_row){.node = NODE_NONE, .label = label, .weight = VALUE_NONE, .after = after,
                                         .sqnr_db = NAN});
    snprintf(label, sizeof label, "%s %s", r->method, figure);
    if (r->c->targets)
        json_array_append_new(r->c->targets, json_pack("{s:s, s:f, s:f, s:b}", "target", label, "wanted", r->wanted,
                                                       "got",
                                                       r->found.left, "met", r->found.met));
    if (!r->found.met && r->stopped_by)
        warnings_add(r->c->warnings,
                     "%s cannot reach %s:%g: %.4g is left with every group at its lowest (most of it in '%.100s'); "
                     "that is "
                     "what was made",
                     r->method, figure, r->wanted, r->found.left, r->stopped_by);
    else if (!r->found.met)
        warnings_add(r->c->warnings, "%s cannot reach %s:%g: nothing of the model can be removed", r->method, figure,
                     r->wanted);
    if (r->figure == FIGURE_LATENCY)
        warnings_add(r->c->warnings,
                     "%s: the target on latency was measured on this machine with %d threads; elsewhere the same "
                     "recipe may give another network",
                     r->method, pool_threads(r->c->pool));
}

static void warn(struct channels_run *r)
{
    int can = 0, approximate = 0, lowest = 0;
    char text[160];
    for (int i = 0; i < r->n_origins; i++) {
        const struct channels_origin *o = &r->origin[i];
        can += !o->left;
        approximate += !o->left && o->approximate && o->n_now < o->n;
        const double ratio = asked(r, o);
        lowest += !o->left && ratio > 0 && floor((double)o->n * (1 - ratio) + 1e-9) < 1 && *limit(r, o, text);
    }
    if (can == 0)
        warnings_add(r->c->warnings, "%s found no %s that can be removed%s%s", r->method, r->unit,
                     r->n_origins ? ": " : "", r->n_origins ? r->origin[0].left : "");
    if (approximate)
        warnings_add(r->c->warnings,
                     "%s: %d groups are normalized over their channels, so what is left is computed from other "
                     "statistics than before (rows with 'approximate')",
                     r->method, approximate);
    if (lowest)
        warnings_add(r->c->warnings, "%s: the ratio would leave %d groups empty; they keep min_keep (%lld)", r->method,
                     lowest, (long long)r->p->min_keep);
}

/* Products in bodies of If, Loop and Scan are in no group. */
static void report_bodies(struct channels_run *r)
{
    const struct model *m = r->c->model;
    struct weight_ref ref;
    const char *why;
    for (uint32_t id = 0; id < m->n_nodes; id++)
        if (m->nodes[id].op_type && m->nodes[id].graph != 0 && node_is_rewritable(m, id) &&
            product_weight(m, id, &ref, &why))
            layer_report_add(r->c->layers, m,
                             &(struct layer_row){.node = id, .weight = ref.value, .sqnr_db = NAN,
                                                 .skipped = "it is in a body of control flow, which is not pruned"});
}

void channels_report(struct channels_run *r)
{
    for (int i = 0; i < r->n_origins; i++)
        report_group(r, &r->origin[i]);
    report_bodies(r);
    if (r->limited)
        report_target(r);
    warn(r);
}
