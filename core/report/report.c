/* SPDX-License-Identifier: Apache-2.0 */
#include "core/report/report.h"

#include <string.h>

#include "core/base/utf8.h"
#include "core/engine/engine.h"

json_t *report_json(const struct report_parts *p)
{
    json_t *environment = json_pack("{s:s, s:s, s:i, s:s, s:s}", "cpu", engine_cpu(), "isa", engine_isa(), "threads",
                                    p->threads, "blas", engine_blas(), "version", PARED_VERSION);
    json_t *r =
        json_pack("{s:s, s:I, s:o?, s:{s:o, s:s}, s:{s:s, s:s}, s:o, s:o, s:o}", "pared", PARED_VERSION, "seed",
                  (json_int_t)p->seed, "recipe", p->recipe, "source", "name", utf8_json(p->source_name), "sha256",
                  p->source_sha256, "artifact", "name", p->artifact_name, "sha256", p->artifact_sha256, "before",
                  facts_json(p->before), "after", facts_json(p->after), "ratio", facts_ratio_json(p->before, p->after));
    if (p->teacher_name)
        json_object_set_new(
            r, "teacher", json_pack("{s:o, s:s}", "name", utf8_json(p->teacher_name), "sha256", p->teacher_sha256));
    if (p->fidelity)
        json_object_set_new(r, "fidelity", p->fidelity);
    if (p->artifacts)
        json_object_set_new(r, "artifacts", p->artifacts);
    json_object_set_new(r, "targets", json_array());
    json_object_set_new(r, "steps", p->steps ? p->steps : json_array());
    json_object_set_new(r, "environment", environment);
    json_object_set_new(r, "warnings", p->warnings ? p->warnings : json_array());
    return r;
}

json_t *report_step_json(const struct report_step *step)
{
    json_t *o = json_pack("{s:s, s:o, s:f}", "method", step->method, "parameters", step->parameters, "seconds",
                          step->seconds);
    if (step->runs > 0)
        json_object_set_new(o, "runs", json_integer(step->runs));
    if (step->peak_rss_bytes >= 0)
        json_object_set_new(o, "peak_rss_bytes", json_integer(step->peak_rss_bytes));
    json_object_set_new(o, "layers", step->layers ? step->layers : json_array());
    if (json_object_size(step->details))
        json_object_set(o, "details", step->details);
    json_decref(step->details);
    if (step->steps)
        json_object_set_new(o, "steps", step->steps);
    return o;
}

/* The matrix is for the report's reader: lists of jobs must stay small. */
static void leave_confusion_out(json_t *metrics)
{
    json_t *after = json_object_get(metrics, "after"), *own = json_object_get(after, "metrics");
    if (!json_object_get(own, "confusion"))
        return;
    json_t *copy = json_copy(after), *less = json_copy(own);
    json_object_del(less, "confusion");
    json_object_set_new(copy, "metrics", less);
    json_object_set_new(metrics, "after", copy);
}

json_t *report_metrics_json(const json_t *report)
{
    static const char *const keys[] = {"before", "after", "ratio", "fidelity", "artifacts", "targets"};
    json_t *o = json_object();
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        json_t *v = json_object_get(report, keys[i]);
        if (v)
            json_object_set(o, keys[i], v);
    }
    leave_confusion_out(o);
    return o;
}

int report_targets_met(const json_t *report)
{
    const json_t *targets = json_object_get(report, "targets"), *t;
    int met = json_array_size(targets) > 0 ? 1 : -1;
    size_t i;
    json_array_foreach (targets, i, t)
        if (!json_is_true(json_object_get(t, "met")))
            met = 0;
    return met;
}
