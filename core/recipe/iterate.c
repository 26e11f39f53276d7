/* SPDX-License-Identifier: Apache-2.0
 * iterate.c - iterate: the steps it holds run again and again, as {prune, train} until the result is good and small
 * enough.
 * Round      The nested steps run in order with one ramp, so steps with a schedule (prune.weights, prune.channels)
 *            prune more from round to round: round r of n has the ramp from + (to - from) (r - 1) / (n - 1). Then the
 *            model is judged on validation data (iterate_judge.h).
 * Kept       the best so far: of models whose wishes for quality all hold the smallest, else the one whose quality
 *            falls short least. The model as it came in takes part, so the result is never worse than that.
 * Broken     a round whose quality falls short, or that ends in numbers that are not finite. on_break says how it goes
 *            on: back_off takes the best so far and goes half the way to where it broke; go_on prunes and trains on
 *            with what there is; stop ends.
 * Ends       when all wishes hold and at least one of them is on size; when the rounds are over; when back_off has
 *            nothing to halve. Wishes for quality alone are a limit: it becomes as small as the rounds allow.
 * Results    depend on recipe, data and seed alone. Memory: the model, and the best one; weights that did not change
 *            are shared. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/recipe/iterate_judge.h"
#include "core/recipe/params.h"

enum on_break { BREAK_BACK_OFF, BREAK_GO_ON, BREAK_STOP };
static const char *const on_breaks[] = {"back_off", "go_on", "stop", NULL};

struct iterate_params {
    const json_t *until;
    int64_t rounds;
    double from, to;
    bool has_from;
    int on_break;
};
#define P(f) PARAM(iterate_params, f)
static const struct param params[] = {
    {P(until), .kind = PARAM_JSON, .required = true,
     .doc =
         "wishes that end it when all hold, judged on validation data against the model as it came into the recipe, as "
         "{\"max_accuracy_drop\": 0.01, \"max_bytes_ratio\": 0.1}: the targets of a recipe, without latency"},
    {P(rounds), .kind = PARAM_INT, .min = 1, .max = 1000, .def = "10", .doc = "the most rounds it takes"},
    {P(from), .kind = PARAM_NUMBER, .min = 0, .max = 1, .above_min = true,
     .given = PARAM_GIVEN(iterate_params, has_from),
     .doc = "ramp of the first round: how far steps with a schedule go; to / rounds if not given"},
    {P(to), .kind = PARAM_NUMBER, .min = 0, .max = 1, .above_min = true, .def = "1", .doc = "ramp of the last round"},
    {P(on_break), .kind = PARAM_ENUM, .choices = on_breaks, .def = "\"back_off\"",
     .doc =
         "after a round that is not good enough: take the best so far and go half as far, go on with what there is, or "
         "stop"},
    {0},
};

static void check(const void *params_, const char *pointer, struct faults *faults)
{
    const struct iterate_params *p = params_;
    char at[POINTER_TEXT];
    struct wishes wishes;
    wishes_read(p->until, pointer_join(at, pointer, "until"), &wishes, faults);
    if (json_object_size(p->until) == 0)
        faults_add(faults, at, "'until' is empty: it must hold at least one wish, as in {\"max_accuracy_drop\": 0.01}");
    if (p->has_from && p->from > p->to)
        faults_add(faults, pointer_join(at, pointer, "from"), "'from' %g is above 'to' %g", p->from, p->to);
}

static unsigned needs_of(const void *params_)
{
    const struct iterate_params *p = params_;
    struct wishes wishes;
    unsigned needs = 0;
    wishes_read(p->until, "", &wishes, NULL);
    for (int i = 0; i < wishes.n; i++)
        if (wish_is_quality(wishes.at[i].target))
            needs |= NEEDS_DATA | NEEDS_RUN;
        else if (!strcmp(wishes.at[i].target->name, "max_macs_ratio"))
            needs |= NEEDS_RUN;
    return needs;
}

/* ---- rounds ---- */
struct iteration {
    struct step_ctx *c;
    const struct iterate_params *p;
    struct wishes wishes;
    struct judge *judge;
    struct model *best; /* a clone */
    struct verdict best_verdict;
    int64_t best_round;
    double held, broke; /* ramps: the largest that held, the smallest that broke (0: none) */
    json_t *rounds;
    const char *stopped;
};

/* The model's content goes to a new clone's place and back: who holds the pointer sees another model. */
static void swap_models(struct model *a, struct model *b)
{
    const struct model t = *a;
    *a = *b;
    *b = t;
}

static int keep(struct iteration *x, struct verdict *v, int64_t round, struct err *err)
{
    struct model *copy = model_clone(x->c->model, err);
    if (!copy)
        return -1;
    model_free(x->best);
    verdict_fini(&x->best_verdict);
    x->best = copy;
    x->best_verdict = *v;
    x->best_round = round;
    *v = (struct verdict){0};
    return 0;
}

/* c->model becomes the best so far; the best stays. */
static int restore(struct iteration *x, struct err *err)
{
    struct model *copy = model_clone(x->best, err);
    if (!copy)
        return -1;
    swap_models(x->c->model, copy);
    model_free(copy);
    return x->c->data ? dataset_bind(x->c->data, x->c->model, err) : 0;
}

static double ramp_of(const struct iteration *x, int64_t round)
{
    const struct iterate_params *p = x->p;
    const double from = p->has_from ? p->from : p->to / (double)p->rounds;
    if (x->broke > 0 && p->on_break == BREAK_BACK_OFF)
        return (x->held + x->broke) / 2;
    return p->rounds == 1 || round == p->rounds ? p->to
                                                : from + (p->to - from) * (double)(round - 1) / (double)(p->rounds - 1);
}

/* What happened, for the report and whoever watches. v: NULL if the round failed, and why. */
static void tell(struct iteration *x, int64_t round, double ramp, const struct verdict *v, bool kept,
                 const char *failed)
{
    json_t *row = json_pack("{s:I, s:f, s:b}", "round", (json_int_t)round, "ramp", ramp, "kept", kept);
    const json_t *after = v ? json_object_get(v->figures, "after") : NULL;
    const char *key;
    json_t *value;
    if (failed)
        json_object_set_new(row, "failed", json_string(failed));
    if (v) {
        json_object_set_new(row, "good", json_boolean(v->good));
        json_object_set_new(row, "small", json_boolean(v->small));
        json_object_set_new(row, "wishes", verdict_wishes(v, &x->wishes));
        json_object_set(row, "ratio", json_object_get(v->figures, "ratio"));
        json_object_foreach((json_t *)(uintptr_t)after, key,
                            value) if (!strcmp(key, "metrics") || !strcmp(key, "sparsity") || !strcmp(key, "bytes"))
            json_object_set(row, key, value);
    }
    json_array_append(x->rounds, row);
    if (x->c->metric)
        x->c->metric(x->c, row);
    json_decref(row);
}

static int run_steps(struct iteration *x, double ramp, struct err *err)
{
    for (int i = 0; i < x->c->n_steps; i++)
        if (x->c->run_step(x->c, i, ramp, err))
            return -1;
    return 0;
}

/* A round that came out good moves `held`, another one `broke`. */
static void note_ramp(struct iteration *x, double ramp, bool good)
{
    if (good)
        x->held = fmax(x->held, ramp);
    else
        x->broke = x->broke > 0 ? fmin(x->broke, ramp) : ramp;
}

/* Nothing left between what held and what broke. */
static bool is_narrow(const struct iteration *x)
{
    return x->broke > 0 && x->broke - x->held < x->p->to / 64;
}

static int after_break(struct iteration *x, struct err *err)
{
    if (x->p->on_break == BREAK_STOP)
        x->stopped = "a round was not good enough";
    else if (x->p->on_break == BREAK_BACK_OFF && is_narrow(x))
        x->stopped = "between the last ramp that held and the first that broke is nothing left to try";
    return x->p->on_break == BREAK_BACK_OFF && !x->stopped ? restore(x, err) : 0;
}

static int one_round(struct iteration *x, int64_t round, struct err *err)
{
    const double ramp = ramp_of(x, round);
    struct err why = {0};
    struct verdict v = {0};
    int rc = run_steps(x, ramp, &why);
    if (rc == 0)
        rc = judge_model(x->judge, x->c->model, &v, &why);
    if (rc && why.code != ERR_NON_FINITE)
        return err_set(err, why.code, "%s", why.msg), err_wrap(err, "round %lld: ", (long long)round);
    const bool good = rc == 0 && v.good, best = rc == 0 && verdict_better(&v, &x->best_verdict);
    tell(x, round, ramp, rc ? NULL : &v, best, rc ? why.msg : NULL);
    note_ramp(x, ramp, good);
    if (good && v.small)
        x->stopped = "all wishes hold";
    int done = best ? keep(x, &v, round, err) : 0;
    verdict_fini(&v);
    if (done == 0 && rc) /* what is left of it is of no use */
        done = restore(x, err);
    if (done == 0 && !good)
        done = after_break(x, err);
    if (done == 0 && good && x->p->on_break == BREAK_BACK_OFF && is_narrow(x) && !x->stopped)
        x->stopped = "between the last ramp that held and the first that broke is nothing left to try";
    return done;
}

static int go(struct iteration *x, struct err *err)
{
    struct step_ctx *c = x->c;
    struct verdict v;
    if (!(x->judge = judge_new(c, &x->wishes, err)) || judge_model(x->judge, c->model, &v, err))
        return -1;
    if (v.good && v.small)
        x->stopped = "all wishes held before the first round";
    tell(x, 0, 0, &v, true, NULL);
    if (keep(x, &v, 0, err)) {
        verdict_fini(&v);
        return -1;
    }
    for (int64_t round = 1; round <= x->p->rounds && !x->stopped; round++) {
        if (c->progress && c->progress(c, "round", round - 1, x->p->rounds, err))
            return -1;
        if (one_round(x, round, err))
            return -1;
    }
    return restore(x, err);
}

/* ---- report ---- */
static void mark_kept(json_t *rounds, int64_t kept)
{
    size_t i;
    json_t *row;
    json_array_foreach(rounds, i, row) json_object_set_new(row, "kept", json_boolean((int64_t)i == kept));
}

static void report(struct iteration *x)
{
    struct step_ctx *c = x->c;
    json_t *wishes = verdict_wishes(&x->best_verdict, &x->wishes), *w;
    const long long round = (long long)x->best_round;
    size_t i;
    mark_kept(x->rounds, x->best_round);
    if (c->details) {
        json_object_set(c->details, "rounds", x->rounds);
        json_object_set_new(c->details, "kept_round", json_integer((json_int_t)x->best_round));
        json_object_set_new(c->details, "stopped", json_string(x->stopped ? x->stopped : "the rounds are over"));
    }
    json_array_foreach(wishes, i, w)
    {
        char name[80];
        snprintf(name, sizeof name, "iterate %s", json_string_value(json_object_get(w, "target")));
        json_object_set_new(w, "target", json_string(name));
        if (!json_is_true(json_object_get(w, "met")))
            warnings_add(c->warnings, "iterate: %s %g was not reached; the best is %.4g, of round %lld", name + 8,
                         json_number_value(json_object_get(w, "wanted")), json_number_value(json_object_get(w, "got")),
                         round);
        if (c->targets)
            json_array_append(c->targets, w);
    }
    json_decref(wishes);
    if (x->best_round == 0 && json_array_size(x->rounds) > 1)
        warnings_add(c->warnings, "iterate: no round was better than the model as it came in, which was kept");
}

static int run(struct step_ctx *c, struct err *err)
{
    struct iteration x = {.c = c, .p = c->params, .rounds = json_array()};
    wishes_read(x.p->until, "", &x.wishes, NULL);
    if (c->n_steps == 0 || !c->run_step) {
        json_decref(x.rounds);
        return err_set(err, ERR_RECIPE, "iterate holds no steps: name those to be repeated in 'steps'");
    }
    int rc = x.rounds ? go(&x, err) : err_set(err, ERR_NOMEM, "no memory for the rounds");
    if (rc == 0)
        report(&x);
    judge_free(x.judge);
    verdict_fini(&x.best_verdict);
    model_free(x.best);
    json_decref(x.rounds);
    return rc;
}

METHOD(iterate) = {
    .name = "iterate",
    .summary = "repeat steps, as prune and train, until wishes hold",
    .doc =
        "The classic loop: prune, train, measure; not good enough: again. Its steps run in order, round by round, and "
        "those with a schedule go further each time. Every round is judged on validation data: the val_dataset, else a "
        "tenth of the dataset that is held back. Of all rounds the smallest model whose quality is as wished is kept; "
        "if there is none, the nearest to it. It ends when all wishes hold, or when the rounds are over.",
    .params = params,
    .params_size = sizeof(struct iterate_params),
    .needs_of = needs_of,
    .check = check,
    .run = run,
    .holds = HOLDS_STEPS,
};
