/* SPDX-License-Identifier: Apache-2.0
 * heads.c - prune.heads: whole attention heads (Michel et al., NeurIPS 2019; Voita et al., ACL 2019). The loop of
 * channels.c over the groups whose atoms are heads. */
#include "core/prune/channels.h"

static void check(const void *params, const char *pointer, struct faults *faults)
{
    channels_check(params, "prune.heads", pointer, faults);
}

static int run(struct step_ctx *c, struct err *err)
{
    return channels_run(c, "prune.heads", GROUPS_OUTER, err);
}

#define P(f) PARAM(prune_channels_params, f)
#define GIVEN(f) .given = PARAM_GIVEN(prune_channels_params, has_##f)
static const struct param params[] = {
    {P(criterion), .kind = PARAM_ENUM, .choices = score_criteria, .def = "\"l2\"",
     .doc = "what says how much a head matters; some need data, some gradients"},
    {P(reduction), .kind = PARAM_ENUM, .choices = score_reductions, .def = "\"mean\"",
     .doc = "how the scores of all weights of a head become one"},
    {P(normalizer), .kind = PARAM_ENUM, .choices = score_normalizers, .def = "\"mean\"",
     .doc = "what scores are divided by within an attention, so that attentions can be compared (scope global, "
            "targets)"},
    {P(scope), .kind = PARAM_ENUM, .choices = channels_scopes, .def = "\"layer\"",
     .doc = "rank heads within each attention, all together, or within sets of attentions of equal structure"},
    {P(ratio), .kind = PARAM_NUMBER, .min = 0, .max = 1, .below_max = true, GIVEN(ratio),
     .doc = "fraction of the heads that goes; of H heads floor(H (1 - ratio)) stay"},
    {P(keep), .kind = PARAM_INT, .min = 1, .max = 100000, GIVEN(keep), .doc = "heads that stay in each attention"},
    {P(target), .kind = PARAM_STRING, GIVEN(target),
     .doc = "what to keep instead: \"macs:0.9\", \"params:0.9\", \"bytes:0.9\" or \"latency:0.9\", met from below"},
    {P(ratios), .kind = PARAM_JSON,
     .doc = "ratios of their own for some attentions: {\"*layer_11*\": 0.5}; keys are globs over group and node "
            "names, the last that matches counts"},
    {P(steps), .kind = PARAM_INT, .def = "1", .min = 1, .max = 1000,
     .doc = "prune bit by bit: scores are taken anew and the network is recovered after each step"},
    {P(schedule), .kind = PARAM_ENUM, .choices = channels_schedules, GIVEN(schedule),
     .doc = "how the ratio grows over the steps: by equal numbers (if not given), fast at first, or by an equal "
            "share of what is left"},
    {P(min_keep), .kind = PARAM_INT, .def = "1", .min = 1, .max = 1e9, .doc = "heads every attention keeps at least"},
    {P(max_ratio), .kind = PARAM_NUMBER, .def = "1", .min = 0, .max = 1,
     .doc = "largest fraction of its heads that an attention may lose, in any scope"},
    {P(samples), .kind = PARAM_INT, .min = 1, .max = 1000000, GIVEN(samples),
     .doc = "samples for criteria and recovery; not given: 128 for criteria, 512 for recovery"},
    {P(recover), .kind = PARAM_ENUM, .choices = recover_kinds, .def = "\"auto\"",
     .doc = "what repairs the pruned network, without labels; auto: least_squares if there is data"},
    {P(include), .kind = PARAM_GLOBS,
     .doc = "only attentions with a group or producing node whose name matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS,
     .doc = "no attentions with a group or producing node whose name matches one of these patterns"},
    {0},
};

METHOD(prune_heads) = {
    .name = "prune.heads",
    .summary = "take whole attention heads out",
    .doc = "Structured pruning of the heads of attention: query, key and value projections and what reads the "
           "result are cut together, and shapes and head counts are rewritten. With grouped queries a key-value "
           "head goes with its queries. Give ratio, keep or target.",
    .params = params,
    .params_size = sizeof(struct prune_channels_params),
    .needs_of = channels_needs,
    .check = check,
    .run = run,
    .scheduled = true,
};
