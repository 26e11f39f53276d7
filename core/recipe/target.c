/* SPDX-License-Identifier: Apache-2.0
 * target.c - the rows, and how each reads its figure from the report. */
#include "core/recipe/target.h"

#include <math.h>
#include <string.h>

static double number_at(const json_t *report, const char *section, const char *key)
{
    const json_t *v = json_object_get(json_object_get(report, section), key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

static double metric(const json_t *report, const char *section, const char *key)
{
    return number_at(json_object_get(report, section), "metrics", key);
}

static double accuracy_drop(const json_t *report)
{
    return metric(report, "before", "top1") - metric(report, "after", "top1");
}

static double accuracy(const json_t *report)
{
    return metric(report, "after", "top1");
}

#define RATIO(key)                                                                                                     \
    static double ratio_##key(const json_t *report)                                                                    \
    {                                                                                                                  \
        return number_at(report, "ratio", #key);                                                                       \
    }
RATIO(bytes)
RATIO(zstd_bytes)
RATIO(params)
RATIO(nonzero)
RATIO(macs)
RATIO(latency)
#undef RATIO

/* The smallest container the job made, against the files of the source. */
static double ratio_container(const json_t *report)
{
    const double before = number_at(report, "before", "bytes");
    double bytes = NAN;
    const char *name;
    json_t *facts;
    json_object_foreach (json_object_get(report, "artifacts"), name, facts) {
        const size_t len = strlen(name);
        const json_t *v = json_object_get(facts, "bytes");
        if (len > 6 && !strcmp(name + len - 6, ".pared") && json_is_number(v))
            bytes = fmin(bytes, json_number_value(v));
    }
    return before > 0 ? bytes / before : NAN;
}

static double number_of(const json_t *object, const char *key)
{
    const json_t *v = json_object_get(object, key);
    return json_is_number(v) ? json_number_value(v) : NAN;
}

/* An output without noise has no sqnr_db but max_abs 0: as good as can be. */
static double sqnr_of(const json_t *output)
{
    double got = number_of(output, "sqnr_db");
    return isnan(got) && number_of(output, "max_abs") == 0 ? 999 : got;
}

static double agreement_of(const json_t *output)
{
    return number_of(output, "top1_agreement");
}

/* The worst output decides; one that has no such figure does not. NAN: none has. */
static double worst_output(const json_t *report, double (*figure)(const json_t *output))
{
    double worst = NAN;
    size_t i;
    json_t *o;
    json_array_foreach (json_object_get(json_object_get(report, "fidelity"), "outputs"), i, o)
        worst = fmin(worst, figure(o)); /* of a number and NAN: the number */
    return worst;
}

static double worst_sqnr(const json_t *report)
{
    return worst_output(report, sqnr_of);
}

static double worst_agreement(const json_t *report)
{
    return worst_output(report, agreement_of);
}

static const struct target rows[] = {
    {"max_accuracy_drop", "top-1 before minus top-1 after, as a fraction", -1, 1, .needs_labels = true,
     .got = accuracy_drop},
    {"min_accuracy", "top-1 after, as a fraction", 0, 1, .at_least = true, .needs_labels = true, .got = accuracy},
    {"max_bytes_ratio", "bytes after / before, external data included", 0, 100, .got = ratio_bytes},
    {"max_zstd_bytes_ratio", "bytes after / before, both compressed by zstd", 0, 100, .got = ratio_zstd_bytes},
    {"max_container_ratio", "bytes of the .pared container / bytes of the source, external data included", 0, 100,
     .got = ratio_container},
    {"max_params_ratio", "parameters after / before", 0, 100, .got = ratio_params},
    {"max_nonzero_ratio", "non-zero parameters after / before", 0, 100, .got = ratio_nonzero},
    {"max_macs_ratio", "multiply-accumulates after / before", 0, 100, .got = ratio_macs},
    {"max_latency_ratio", "median latency after / before on the machine that runs the job", 0, 100,
     .got = ratio_latency},
    {"min_sqnr_db", "signal to noise of the worst output against the original, in dB", -100, 999, .at_least = true,
     .got = worst_sqnr},
    {"min_top1_agreement", "share of samples whose top class is the original's, worst output", 0, 1, .at_least = true,
     .got = worst_agreement},
    {0},
};
_Static_assert(sizeof rows / sizeof rows[0] - 1 <= TARGET_MAX, "TARGET_MAX");

const struct target *target_all(void)
{
    return rows;
}

const struct target *target_find(const char *name)
{
    for (const struct target *t = rows; t->name; t++)
        if (!strcmp(t->name, name))
            return t;
    return NULL;
}

json_t *target_judge(const struct target *target, double wanted, const json_t *report)
{
    double got = target->got(report);
    double slack = 1e-9; /* 0.99 - 0.98 is a little more than 0.01 in binary */
    bool met = isfinite(got) && (target->at_least ? got >= wanted - slack : got <= wanted + slack);
    json_t *o = json_pack("{s:s, s:f}", "target", target->name, "wanted", wanted);
    if (isfinite(got))
        json_object_set_new(o, "got", json_real(got));
    json_object_set_new(o, "met", json_boolean(met));
    return o;
}

json_t *target_catalogue(void)
{
    json_t *all = json_array();
    for (const struct target *t = rows; t->name; t++) {
        json_t *row = json_pack("{s:s, s:s, s:f, s:f, s:[]}", "name", t->name, "doc", t->doc, "min", t->min, "max",
                                t->max, "needs");
        if (t->needs_labels)
            json_array_append_new(json_object_get(row, "needs"), json_string("labels"));
        json_array_append_new(all, row);
    }
    return all;
}
