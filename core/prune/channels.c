/* SPDX-License-Identifier: Apache-2.0
 * channels.c - prune.channels: whole channels out of every layer that is coupled with them, rewritten so that any
 * runtime gains. This file has the row, its checks, and the loop of steps that prune.heads shares. */
#include "core/prune/channels.h"

#include <fnmatch.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/prune/nesting.h"

const char *const channels_scopes[] = {"layer", "global", "isomorphic", NULL};
const char *const channels_schedules[] = {"linear", "cubic", "constant", NULL};
const char *const channels_figures[] = {"macs", "params", "bytes", "latency", NULL};
const char *const channels_no_heads = "its channels are not the heads of an attention";
static const char *const allocations[] = {"uniform", "sensitivity", NULL};
static const char *const round_names[] = {"auto", NULL};

/* ---- parameters ---- */
bool channels_target(const char *text, enum channels_figure *figure, double *wanted)
{
    for (int i = 0; channels_figures[i]; i++) {
        const size_t n = strlen(channels_figures[i]);
        char *end;
        if (strncmp(text, channels_figures[i], n) != 0 || text[n] != ':')
            continue;
        *figure = (enum channels_figure)i;
        *wanted = strtod(text + n + 1, &end);
        return end != text + n + 1 && *end == '\0' && *wanted > 0 && *wanted <= 1;
    }
    return false;
}

/* `pointer`/`key`, and /`name` if there is one, escaped as RFC 6901 says; long names are cut. */
static const char *place(char out[800], const char *pointer, const char *key, const char *name)
{
    size_t n = (size_t)snprintf(out, 800, "%.500s/%s", pointer, key);
    if (name)
        out[n++] = '/';
    for (int i = 0; name && name[i] && i < 120; i++) {
        if (name[i] == '~' || name[i] == '/')
            out[n++] = '~';
        out[n++] = name[i] == '~' ? '0' : name[i] == '/' ? '1' : name[i];
    }
    out[n] = '\0';
    return out;
}

static void check_ratios(const json_t *ratios, const char *pointer, struct faults *faults)
{
    char at[800];
    const char *glob;
    const json_t *v;
    json_object_foreach ((json_t *)(uintptr_t)ratios, glob, v) {
        const double ratio = json_number_value(v);
        place(at, pointer, "ratios", glob);
        if (!json_is_number(v))
            faults_add(faults, at, "the ratio of '%.60s' must be a number", glob);
        else if (!(ratio >= 0 && ratio < 1))
            faults_add(faults, at, "the ratio of '%.60s' must be at least 0 and below 1, found %.15g", glob, ratio);
    }
}

void channels_check(const struct prune_channels_params *p, const char *name, const char *pointer, struct faults *faults)
{
    char at[800];
    enum channels_figure figure;
    double wanted;
    const int given = p->has_ratio + p->has_target + p->has_keep;
    const char *choices = strcmp(name, "prune.heads") == 0 ? "ratio, keep and target" : "ratio and target";
    if (given > 1)
        faults_add(faults, pointer, "%s takes one of %s, not several", name, choices);
    if (given == 0 && !p->ratios)
        faults_add(faults, pointer, "%s needs one of %s (or ratios)", name, choices);
    if (p->has_target && !channels_target(p->target, &figure, &wanted))
        faults_add(faults, place(at, pointer, "target", NULL),
                   "'target' must be macs, params, bytes or latency, a colon and the fraction to be kept, as in "
                   "\"macs:0.5\"; found '%.60s'",
                   p->target);
    if (p->has_schedule && p->steps == 1 && !nesting_is_nested(pointer))
        faults_add(faults, place(at, pointer, "schedule", NULL),
                   "a schedule spreads the pruning over several steps; give steps of 2 or more with it, or nest %s "
                   "in the steps of a training step",
                   name);
    if (p->has_ratio && p->scope == SELECT_LAYER && p->ratio > p->max_ratio)
        faults_add(faults, place(at, pointer, "max_ratio", NULL),
                   "max_ratio %g is below ratio %g, so no layer could lose what ratio asks for", p->max_ratio,
                   p->ratio);
    if (p->allocation == ALLOCATE_SENSITIVITY && p->scope != SELECT_LAYER)
        faults_add(faults, place(at, pointer, "allocation", NULL),
                   "allocation by sensitivity gives every group a ratio of its own, so scope must be layer");
    if (p->ratios)
        check_ratios(p->ratios, pointer, faults);
}

unsigned channels_needs(const void *params)
{
    const struct prune_channels_params *p = params;
    enum channels_figure figure;
    double wanted;
    unsigned needs = score_needs(p->criterion);
    if (p->allocation == ALLOCATE_SENSITIVITY)
        needs |= NEEDS_DATA | NEEDS_RUN;
    if (p->recover == RECOVER_BN_STATS || p->recover == RECOVER_LEAST_SQUARES)
        needs |= NEEDS_DATA | NEEDS_RUN;
    if (p->has_target && channels_target(p->target, &figure, &wanted) && figure == FIGURE_LATENCY)
        needs |= NEEDS_RUN;
    return needs;
}

/* ---- the groups at first ---- */

/* A glob matches a group by its name or by that of a node with one of its producing weights. */
static bool matches(const struct model *m, const struct group *g, const char *glob)
{
    char label[200];
    if (fnmatch(glob, g->name, 0) == 0)
        return true;
    for (int i = 0; i < g->n_members; i++)
        if (g->member[i].role == COUPLE_PRODUCES && g->member[i].constant &&
            fnmatch(glob, node_label(m, g->member[i].node, label, sizeof label), 0) == 0)
            return true;
    return false;
}

static bool any_matches(const struct model *m, const struct group *g, const struct globs *globs)
{
    for (int i = 0; i < globs->count; i++)
        if (matches(m, g, globs->at[i]))
            return true;
    return false;
}

static const char *keep_text(struct channels_run *r, const char *text)
{
    return text ? arena_strdup(r->arena, text) : NULL;
}

/* The other nodes that make channels of the group. */
static int list_coupled(struct channels_run *r, const struct group *g, struct channels_origin *o)
{
    uint32_t *list = arena_calloc(r->arena, (size_t)g->n_members + 1, sizeof *list);
    if (!list)
        return -1;
    for (int i = 0; i < g->n_members; i++) {
        bool seen = g->member[i].node == g->node || !g->member[i].constant || g->member[i].role != COUPLE_PRODUCES;
        for (int k = 0; k < o->n_coupled && !seen; k++)
            seen = list[k] == g->member[i].node;
        if (!seen)
            list[o->n_coupled++] = g->member[i].node;
    }
    o->coupled = list;
    return 0;
}

static int64_t even_width(const struct group *g)
{
    for (int64_t a = 1; a < g->n; a++)
        if (g->width[a] != g->width[0])
            return 1;
    return g->n > 0 && g->width[0] > 0 ? g->width[0] : 1;
}

/* Kernels work in blocks of channels: nine take the time of sixteen. So a target on latency goes by blocks unless told
 * otherwise. */
static int64_t round_to(const struct channels_run *r, int64_t channels)
{
    const struct prune_channels_params *p = r->p;
    if (r->mode == GROUPS_OUTER) /* heads are not rounded */
        return 1;
    if (!p->has_round_to && r->limited && r->figure == FIGURE_LATENCY)
        return channels >= 16 ? 8 : 1;
    if (p->round_to == PARAM_NAMED(CHANNELS_ROUND_AUTO))
        return channels >= 64 ? 8 : 1;
    return p->round_to;
}

static int describe_origin(struct channels_run *r, const struct group *g, struct channels_origin *o)
{
    const struct prune_channels_params *p = r->p;
    const struct model *m = r->c->model;
    struct channels_start start = {.n = g->n, .ratio = NAN};
    const char *glob;
    const json_t *v;
    const bool again = channels_start_get(r, g, &start);
    *o = (struct channels_origin){.node = g->node,
                                  .value = g->n_members ? g->member[0].value : VALUE_NONE,
                                  .axis = g->n_members ? g->member[0].axis : 0,
                                  .name = keep_text(r, g->name),
                                  .frozen = keep_text(r, g->frozen),
                                  .approximate = keep_text(r, g->approximate),
                                  .ratio = NAN,
                                  .loss = NAN,
                                  .n = start.n,
                                  .n_now = g->n,
                                  .width = r->mode == GROUPS_OUTER ? 1 : even_width(g),
                                  .macs = g->macs < 0 ? -1 : g->macs * (double)start.n,
                                  .params = g->params * (double)start.n};
    if (again) {
        r->again = true;
        r->first = start.model;
    }
    o->round_to = round_to(r, o->n * o->width);
    if (r->mode == GROUPS_OUTER && (!g->through || strcmp(g->through, "heads") != 0))
        o->left = g->n == 0 && g->frozen ? o->frozen : channels_no_heads;
    else if (g->n == 0)
        o->left = o->frozen ? o->frozen : "frozen";
    else if ((p->include.count && !any_matches(m, g, &p->include)) || any_matches(m, g, &p->exclude))
        o->left = "not selected by include and exclude";
    if (p->ratios)
        json_object_foreach ((json_t *)(uintptr_t)p->ratios, glob, v)
            if (matches(m, g, glob)) /* among several the last one wins */
                o->ratio = json_number_value(v);
    if (isnan(o->ratio) && p->has_keep && g->n > 0)
        o->ratio = p->keep < o->n ? 1 - (double)p->keep / (double)o->n : 0;
    if (isnan(o->ratio))
        o->ratio = start.ratio;
    if (isnan(o->ratio) && !p->has_ratio && !p->has_target)
        o->ratio = 0; /* ratios alone: the others keep all */
    return list_coupled(r, g, o);
}

/* A key of `ratios` that is for no group is likely a slip. */
static void warn_unmatched(struct channels_run *r)
{
    const char *glob;
    const json_t *v;
    if (!r->p->ratios)
        return;
    json_object_foreach ((json_t *)(uintptr_t)r->p->ratios, glob, v) {
        bool found = false;
        for (int i = 0; i < r->groups->n && !found; i++)
            found = matches(r->c->model, &r->groups->at[i], glob);
        if (!found)
            warnings_add(r->c->warnings, "%s: '%.80s' of ratios matches no group", r->method, glob);
    }
}

static int describe_origins(struct channels_run *r, struct err *err)
{
    r->n_origins = r->groups->n;
    r->origin = arena_calloc(r->arena, (size_t)r->n_origins + 1, sizeof *r->origin);
    const bool **none = arena_calloc(r->arena, (size_t)r->n_origins + 1, sizeof *none);
    bool ok = r->origin && none;
    for (int i = 0; ok && i < r->n_origins; i++)
        ok = describe_origin(r, &r->groups->at[i], &r->origin[i]) == 0;
    if (!ok)
        return err_set(err, ERR_NOMEM, "out of memory for the groups of the model");
    warn_unmatched(r);
    return r->again ? 0 : groups_cost(r->groups, none, &r->first, err);
}

/* For the next call. */
static int remember(struct channels_run *r, struct err *err)
{
    for (int i = 0; i < r->n_origins; i++)
        if (r->origin[i].n > 0 && channels_start_put(r, &r->origin[i], err))
            return -1;
    return 0;
}

/* ---- one step ---- */

/* Which group of the start a group of now is: the one of the same weight axis; -1. */
static int find_origin(const struct channels_run *r, const struct group *g)
{
    for (int i = 0; i < r->n_origins; i++)
        if (g->n_members && r->origin[i].value == g->member[0].value && r->origin[i].axis == g->member[0].axis &&
            r->origin[i].node == g->node)
            return i;
    return -1;
}

/* The groups of the model as it is now, and how they lie to those of the start. */
static int find_groups(struct channels_run *r, struct err *err)
{
    groups_free(r->groups);
    r->groups = groups_find(r->c->model, r->mode, err);
    if (!r->groups)
        return -1;
    if (!r->origin && describe_origins(r, err))
        return -1;
    r->origin_of = arena_calloc(r->arena, (size_t)r->groups->n + 1, sizeof *r->origin_of);
    if (!r->origin_of)
        return err_set(err, ERR_NOMEM, "out of memory for the groups of the model");
    for (int i = 0; i < r->n_origins; i++) /* a group of one channel is none any more */
        r->origin[i].macs_now = r->origin[i].params_now = -1;
    for (int i = 0; i < r->groups->n; i++) {
        const struct group *g = &r->groups->at[i];
        const int at = r->step <= 1 && r->n_origins == r->groups->n ? i : find_origin(r, g);
        r->origin_of[i] = at;
        if (at < 0)
            continue;
        r->origin[at].macs_now = g->macs < 0 ? -1 : g->macs * (double)g->n;
        r->origin[at].params_now = g->params * (double)g->n;
    }
    return 0;
}

static int score_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "score", done, total, err) : 0;
}

static int recover_progress(void *arg, int64_t done, int64_t total, struct err *err)
{
    struct step_ctx *c = arg;
    return c->progress ? c->progress(c, "recover", done, total, err) : 0;
}

static int score(struct channels_run *r, struct err *err)
{
    const struct prune_channels_params *p = r->p;
    const struct score_opts opts = {.criterion = p->criterion,
                                    .reduction = (enum score_reduction)p->reduction,
                                    .normalizer = (enum score_normalizer)p->normalizer,
                                    .model = r->c->model,
                                    .data = r->c->data,
                                    .samples = p->has_samples ? p->samples : CHANNELS_SAMPLES,
                                    .pool = r->c->pool,
                                    .seed = r->c->seed,
                                    .warnings = r->c->warnings,
                                    .progress = score_progress,
                                    .progress_arg = r->c};
    r->score = score_groups(r->groups, &opts, err);
    return r->score ? 0 : -1;
}

/* What is repaired by itself needs a model that runs; where it does not, that is said and the rest stands. */
static int can_recover(struct channels_run *r, bool *can, struct err *err)
{
    struct missing_ops missing = {0};
    char text[400];
    *can = true;
    if (r->p->recover == RECOVER_AUTO && r->c->in_training) { /* training does it */
        *can = false;
        return 0;
    }
    if (r->p->recover != RECOVER_AUTO || !r->c->data)
        return 0;
    if (engine_missing_ops(r->c->model, &missing, err))
        return -1;
    *can = missing.count == 0;
    if (!*can)
        warnings_add(r->c->warnings, "%s: nothing was recovered, because the model cannot be run: %s is not supported",
                     r->method, missing_ops_text(&missing, text, sizeof text));
    missing_ops_fini(&missing);
    return 0;
}

static int recover(struct channels_run *r, struct err *err)
{
    bool can;
    if (can_recover(r, &can, err))
        return -1;
    if (!can)
        return 0;
    const struct recover_opts opts = {.original = r->before,
                                      .data = r->c->data,
                                      .val_data = r->c->val_data,
                                      .samples = r->p->has_samples ? r->p->samples : 0,
                                      .pool = r->c->pool,
                                      .seed = r->c->seed,
                                      .layers = r->c->layers,
                                      .warnings = r->c->warnings,
                                      .progress = recover_progress,
                                      .progress_arg = r->c};
    return recover_run((enum recover_kind)r->p->recover, r->c->model, &opts, err);
}

static void end_step(struct channels_run *r)
{
    if (r->groups)
        score_free(r->score, r->groups->n);
    r->score = NULL;
    select_free(r->select);
    r->select = NULL;
    latency_table_free(r->table);
    r->table = NULL;
}

static bool may_lose(const struct channels_run *r)
{
    for (int i = 0; i < r->n_origins; i++)
        if (!r->origin[i].left)
            return true;
    return false;
}

/* Returns 1 if there was something to remove. */
static int one_step(struct channels_run *r, struct err *err)
{
    int64_t *kept = NULL;
    bool **gone = NULL;
    int rc = -1, removed = 0;
    if (r->c->progress && r->c->progress(r->c, "groups", r->step - 1, r->p->steps, err))
        return -1;
    if (find_groups(r, err))
        return -1;
    if (!may_lose(r))
        return 0;
    kept = calloc((size_t)r->groups->n + 1, sizeof *kept);
    if (!kept) {
        err_set(err, ERR_NOMEM, "out of memory while choosing channels");
        goto out;
    }
    if (score(r, err) || channels_choose(r, kept, err) || !(gone = select_gone(r->select, kept, err)))
        goto out;
    for (int i = 0; i < r->groups->n; i++) {
        removed |= gone[i] != NULL;
        if (r->origin_of[i] >= 0)
            r->origin[r->origin_of[i]].n_now = kept[i];
    }
    if (removed && (groups_remove(r->groups, r->c->model, (const bool *const *)gone, err) || recover(r, err)))
        goto out;
    rc = removed;
out:
    select_gone_free(gone, r->groups->n);
    free(kept);
    end_step(r);
    return rc;
}

/* ---- the whole ---- */

/* True if an earlier step of the recipe cut it already: then only the recipe's source knows what the channels were. */
static bool was_cut(const struct model *m)
{
    for (uint32_t v = 0; v < m->n_values; v++)
        for (const struct note *n = m->values[v].notes; n; n = n->next)
            if (strncmp(n->key, "kept.", 5) == 0)
                return true;
    return false;
}

static int keep_original(struct channels_run *r, struct err *err)
{
    const bool trained = r->p->recover == RECOVER_AUTO && r->c->in_training;
    const bool repair = r->p->recover != RECOVER_NONE && !trained && r->c->data;
    if (!repair && !(r->limited && r->figure == FIGURE_LATENCY))
        return 0;
    r->before = model_clone(was_cut(r->c->model) && r->c->source ? r->c->source : r->c->model, err);
    return r->before ? 0 : -1;
}

int channels_run(struct step_ctx *c, const char *method, enum groups_mode mode, struct err *err)
{
    struct channels_run r = {.c = c, .p = c->params, .method = method, .mode = mode, .base_left = 1,
                             .ramp = nesting_ramp(c), .unit = mode == GROUPS_OUTER ? "heads" : "channels"};
    struct model *asis = NULL;
    int rc = -1, removed = 0;
    r.limited = r.p->has_target && channels_target(r.p->target, &r.figure, &r.wanted);
    if (!(r.arena = arena_new()))
        return err_set(err, ERR_NOMEM, "out of memory");
    if (!(asis = model_clone(c->model, err)) || groups_prepare(c->model, c->warnings, err) || keep_original(&r, err))
        goto out;
    for (r.step = 1; r.step <= r.p->steps; r.step++) {
        const int some = one_step(&r, err);
        if (some < 0)
            goto out;
        removed |= some;
    }
    if (find_groups(&r, err) || remember(&r, err))
        goto out;
    channels_report(&r);
    if (!removed) { /* then nothing is, constants included */
        const struct model prepared = *c->model;
        *c->model = *asis;
        *asis = prepared;
    }
    rc = 0;
out:
    groups_free(r.groups);
    model_free(asis);
    model_free(r.before);
    json_decref(r.table_json);
    arena_free(r.arena);
    return rc;
}

static void check(const void *params, const char *pointer, struct faults *faults)
{
    channels_check(params, "prune.channels", pointer, faults);
}

static int run(struct step_ctx *c, struct err *err)
{
    return channels_run(c, "prune.channels", GROUPS_INNER, err);
}

#define P(f) PARAM(prune_channels_params, f)
#define GIVEN(f) .given = PARAM_GIVEN(prune_channels_params, has_##f)
static const struct param params[] = {
    {P(criterion), .kind = PARAM_ENUM, .choices = score_criteria, .def = "\"l2\"",
     .doc = "what says how much a channel matters; some need data, some gradients"},
    {P(reduction), .kind = PARAM_ENUM, .choices = score_reductions, .def = "\"mean\"",
     .doc = "how the scores of all weights that go with a channel become one"},
    {P(normalizer), .kind = PARAM_ENUM, .choices = score_normalizers, .def = "\"mean\"",
     .doc = "what scores are divided by within a group, so that groups can be compared (scope global, isomorphic, "
            "targets)"},
    {P(scope), .kind = PARAM_ENUM, .choices = channels_scopes, .def = "\"layer\"",
     .doc = "rank channels within each group, all together, or within sets of groups of equal structure"},
    {P(ratio), .kind = PARAM_NUMBER, .min = 0, .max = 1, .below_max = true, GIVEN(ratio),
     .doc = "fraction of the channels that goes; of C channels floor(C (1 - ratio)) stay"},
    {P(target), .kind = PARAM_STRING, GIVEN(target),
     .doc = "what to keep instead of a ratio: \"macs:0.5\", \"params:0.5\", \"bytes:0.25\" or \"latency:0.7\" "
            "(measured on this machine), met from below"},
    {P(ratios), .kind = PARAM_JSON,
     .doc = "ratios of their own for some groups: {\"layer1*\": 0.2, \"conv9\": 0}; keys are globs over group and "
            "node names, the last that matches counts"},
    {P(allocation), .kind = PARAM_ENUM, .choices = allocations, .def = "\"uniform\"",
     .doc = "sensitivity: measure what each group alone costs the outputs at a few ratios, and take most where it "
            "hurts least, for the same target (or ratio of all channels)"},
    {P(steps), .kind = PARAM_INT, .def = "1", .min = 1, .max = 1000,
     .doc = "prune bit by bit: scores are taken anew and the network is recovered after each step"},
    {P(schedule), .kind = PARAM_ENUM, .choices = channels_schedules, GIVEN(schedule),
     .doc = "how the ratio grows over the steps: by equal numbers (if not given), fast at first, or by an equal "
            "share of what is left"},
    {P(round_to), .kind = PARAM_INT, .choices = round_names, .def = "1", .min = 1, .max = 65536, GIVEN(round_to),
     .doc = "the number of channels that stay is rounded up to a multiple of this; auto: 8 where there are 64 or "
            "more. A target on latency, if this is not given, goes by 8 where there are 16 or more"},
    {P(min_keep), .kind = PARAM_INT, .def = "1", .min = 1, .max = 1e9, .doc = "channels every group keeps at least"},
    {P(max_ratio), .kind = PARAM_NUMBER, .def = "1", .min = 0, .max = 1,
     .doc = "largest fraction of its channels that a group may lose, in any scope"},
    {P(samples), .kind = PARAM_INT, .min = 1, .max = 1000000, GIVEN(samples),
     .doc = "samples for criteria, sensitivities and recovery; not given: 128, and 512 for recovery"},
    {P(recover), .kind = PARAM_ENUM, .choices = recover_kinds, .def = "\"auto\"",
     .doc = "what repairs the pruned network, without labels; auto: least_squares if there is data"},
    {P(include), .kind = PARAM_GLOBS,
     .doc = "only groups whose name, or a producing node's, matches one of these patterns"},
    {P(exclude), .kind = PARAM_GLOBS,
     .doc = "no groups whose name, or a producing node's, matches one of these patterns"},
    {0},
};

METHOD(prune_channels) = {
    .name = "prune.channels",
    .summary = "take whole channels out, of every layer coupled with them",
    .doc = "Structured pruning over dependency groups: channels that residual sums, concatenations, shuffles, "
           "normalization and the like tie together go together, and weights, shapes and group counts are "
           "rewritten, so the result is a smaller dense network that is faster everywhere. Give ratio or target. "
           "Outputs of the model are never cut. A latency target is measured here: with it the result depends on "
           "the machine. Nested in a training step it prunes little by little, along schedule, while the network "
           "learns; fractions are then of the network as it was when the training began, and recover=auto means none.",
    .params = params,
    .params_size = sizeof(struct prune_channels_params),
    .needs_of = channels_needs,
    .check = check,
    .run = run,
    .scheduled = true,
};
