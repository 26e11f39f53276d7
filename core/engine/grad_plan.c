/* SPDX-License-Identifier: Apache-2.0
 * The order of steps and the memory of one training run, for bound shapes.
 * Schedule   The forward steps in order, then the segments from the last to the first: what its backward needs is
 *            run again (never for the last segment, which has just run), then the backward of its steps in reverse.
 * Border     A value read in a later segment than its own, or an output, is made once and kept until its last
 *            reader. Everything else of a segment dies in the first pass as in inference, and is made anew. A step
 *            runs again only if a backward of its segment, or a step that runs again, reads what it makes.
 * Lives      The schedule is walked once: every writing opens an interval, every reading prolongs it. Recomputed
 *            values get an interval of their own. plan_layout places them all in one slab.
 * Cuts       Segment i of k should end where i/k of the kept bytes lie before it; in a window around that place the
 *            cut goes where the fewest bytes pass (Chen et al. 2016, "Training deep nets with sublinear memory
 *            cost", with k free). */
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/engine/grad_plan.h"

struct build {
    struct grad *g;
    int n_steps, segments;
    int *segment;  /* [n_steps] */
    bool *border;  /* [n_values] made once */
    bool *again;   /* [n_steps] runs a second time */
    bool *used;    /* [n_values] somebody reads it */
    int *instance; /* [n_values] open interval of the value, and of its gradient */
    int *gradient;
    int cap_iv, cap_action;
    size_t largest_bytes;
    uint32_t largest; /* node */
};

static size_t value_bytes(const struct grad *g, uint32_t v)
{
    size_t bytes = 0;
    const struct type *t = &g->plan->type[v];
    const int64_t n = shape_count(&t->shape);
    return n >= 0 && dtype_bytes(t->dtype, n, &bytes) ? bytes : SIZE_MAX / 4;
}

static const struct op_class *row(const struct grad *g, int s)
{
    return g->plan->graph[0].steps[s].op;
}

/* Is v made by a step of this run (not fed, not constant, not a parameter)? */
static bool is_made(const struct build *b, uint32_t v)
{
    return v != VALUE_NONE && b->g->plan->known[v].dtype == DTYPE_NONE &&
           b->g->plan->m->values[v].producer != NODE_NONE;
}

static bool backward_reads_in(const struct build *b, int s, int i)
{
    return b->g->on_path[s] && grad_reads_in(row(b->g, s), i);
}

static bool backward_reads_out(const struct build *b, int s, int i)
{
    return b->g->on_path[s] && grad_reads_out(row(b->g, s), i);
}

/* ---- where to cut ---- */
/* keep[s]: bytes of the values of step s that a backward reads; pass[s]: bytes of values made up to s and read
 * after it. */
static int weigh(const struct build *b, size_t *keep, size_t *pass, struct err *err)
{
    const struct grad *g = b->g;
    const size_t values = (size_t)g->plan->m->n_values + 1;
    int *made = calloc(values, sizeof *made), *last = calloc(values, sizeof *last);
    bool *kept = calloc(values, sizeof *kept);
    if (!made || !last || !kept) {
        free(made);
        free(last);
        free(kept);
        return err_set(err, ERR_NOMEM, "out of memory");
    }
    for (int s = 0; s < b->n_steps; s++) {
        const struct node *node = grad_node(g, s);
        for (int i = 0; grad_runs(g, s) && i < node->n_input; i++)
            if (is_made(b, node->input[i])) {
                last[node->input[i]] = s;
                kept[node->input[i]] = kept[node->input[i]] || backward_reads_in(b, s, i);
            }
        for (int i = 0; grad_runs(g, s) && i < node->n_output; i++)
            if (node->output[i] != VALUE_NONE) {
                made[node->output[i]] = last[node->output[i]] = s;
                kept[node->output[i]] = backward_reads_out(b, s, i);
            }
    }
    for (int s = 0; s < b->n_steps; s++) {
        const struct node *node = grad_node(g, s);
        for (int i = 0; grad_runs(g, s) && i < node->n_output; i++) {
            const uint32_t v = node->output[i];
            if (v == VALUE_NONE)
                continue;
            keep[s] += kept[v] ? value_bytes(g, v) : 0;
            pass[made[v]] += value_bytes(g, v);
            pass[last[v]] -= value_bytes(g, v); /* differences: summed up below, where none is negative */
        }
    }
    for (int s = 1; s < b->n_steps; s++)
        pass[s] += pass[s - 1];
    free(made);
    free(last);
    free(kept);
    return 0;
}

static int cut(struct build *b, struct err *err)
{
    const size_t n = (size_t)b->n_steps + 1;
    size_t *keep = calloc(n, sizeof *keep), *pass = calloc(n, sizeof *pass), total = 0, sum = 0;
    int rc = !keep || !pass ? err_set(err, ERR_NOMEM, "out of memory") : weigh(b, keep, pass, err);
    for (int s = 0; !rc && s < b->n_steps; s++)
        total += keep[s];
    int segment = 0, best = -1;
    const size_t share = total / (size_t)b->segments + 1;
    int *ends = calloc((size_t)b->segments + 1, sizeof *ends);
    if (!rc && !ends)
        rc = err_set(err, ERR_NOMEM, "out of memory");
    for (int s = 0; !rc && s < b->n_steps && segment + 1 < b->segments; s++) {
        const size_t target = share * (size_t)(segment + 1), slack = share / 4;
        sum += keep[s];
        if (sum + slack >= target && (best < 0 || pass[s] < pass[best]))
            best = s;
        if (sum >= target + slack || (sum >= target && keep[s] > share)) {
            ends[segment++] = best;
            best = -1;
        }
    }
    for (int s = 0, at = 0; !rc && s < b->n_steps; s++) {
        b->segment[s] = at;
        while (at < segment && ends[at] <= s)
            at++;
    }
    b->segments = segment + 1;
    free(ends);
    free(keep);
    free(pass);
    return rc;
}

/* ---- what is made twice ---- */
static void find_borders(struct build *b)
{
    const struct grad *g = b->g;
    const size_t values = (size_t)g->plan->m->n_values + 1;
    memset(b->border, 0, values * sizeof *b->border);
    memset(b->used, 0, values * sizeof *b->used);
    for (int i = 0; i < g->plan->n_output; i++)
        b->border[g->plan->output[i]] = b->used[g->plan->output[i]] = true;
    int *home = b->instance; /* lent: the segment that makes a value */
    for (int s = 0; s < b->n_steps; s++) {
        const struct node *node = grad_node(g, s);
        for (int i = 0; grad_runs(g, s) && i < node->n_output; i++)
            if (node->output[i] != VALUE_NONE) {
                home[node->output[i]] = b->segment[s];
                b->used[node->output[i]] = b->used[node->output[i]] || backward_reads_out(b, s, i);
            }
        for (int i = 0; grad_runs(g, s) && i < node->n_input; i++)
            if (node->input[i] != VALUE_NONE) {
                b->used[node->input[i]] = true;
                if (is_made(b, node->input[i]) && home[node->input[i]] != b->segment[s])
                    b->border[node->input[i]] = true;
            }
    }
}

static void find_again(struct build *b)
{
    const struct grad *g = b->g;
    bool *needed = calloc((size_t)g->plan->m->n_values + 1, sizeof *needed);
    for (int s = b->n_steps - 1; s >= 0; s--) {
        const struct node *node = grad_node(g, s);
        b->again[s] = false;
        if (!grad_runs(g, s) || b->segment[s] == b->segments - 1)
            continue;
        for (int i = 0; i < node->n_output; i++) {
            const uint32_t v = node->output[i];
            if (v != VALUE_NONE && !b->border[v] && (!needed || needed[v] || backward_reads_out(b, s, i)))
                b->again[s] = true;
        }
        for (int i = 0; needed && i < node->n_input; i++)
            if (node->input[i] != VALUE_NONE && (b->again[s] || backward_reads_in(b, s, i)))
                needed[node->input[i]] = true;
    }
    free(needed); /* out of memory: everything runs again, which is right too */
}

/* ---- the schedule ---- */
static int open_interval(struct build *b, size_t bytes, int now, int step, struct err *err)
{
    struct grad *g = b->g;
    if (g->n_iv == b->cap_iv) {
        const int cap = b->cap_iv ? b->cap_iv * 2 : 256;
        struct plan_interval *grown = arena_calloc(g->arena, (size_t)cap, sizeof *grown);
        if (!grown)
            return err_set(err, ERR_NOMEM, "out of memory");
        if (g->n_iv)
            memcpy(grown, g->iv, (size_t)g->n_iv * sizeof *grown);
        g->iv = grown;
        b->cap_iv = cap;
    }
    if (bytes >= b->largest_bytes && step >= 0) {
        b->largest_bytes = bytes;
        b->largest = g->plan->graph[0].steps[step].node;
    }
    g->iv[g->n_iv] = (struct plan_interval){.bytes = bytes, .first = now, .last = now};
    return g->n_iv++;
}

static struct grad_action *open_action(struct build *b, int step, int n_place, struct err *err)
{
    struct grad *g = b->g;
    if (g->n_action == b->cap_action) {
        const int cap = b->cap_action ? b->cap_action * 2 : 128;
        struct grad_action *grown = arena_calloc(g->arena, (size_t)cap, sizeof *grown);
        if (!grown) {
            err_set(err, ERR_NOMEM, "out of memory");
            return NULL;
        }
        if (g->n_action)
            memcpy(grown, g->action, (size_t)g->n_action * sizeof *grown);
        g->action = grown;
        b->cap_action = cap;
    }
    struct grad_action *a = &g->action[g->n_action++];
    *a = (struct grad_action){.step = step};
    a->place = arena_calloc(g->arena, (size_t)n_place + 1, sizeof *a->place);
    a->first = arena_calloc(g->arena, (size_t)n_place + 1, sizeof *a->first);
    a->twice = arena_calloc(g->arena, (size_t)n_place + 1, sizeof *a->twice);
    if (!a->place || !a->first || !a->twice) {
        err_set(err, ERR_NOMEM, "out of memory");
        return NULL;
    }
    return a;
}

static void touch(struct grad *g, int interval, int now)
{
    if (interval >= 0 && g->iv[interval].last < now)
        g->iv[interval].last = now;
}

/* Time of the next action: the seeds come between forward and backward. */
static int clock_of(const struct grad *g)
{
    return g->n_action + (g->n_forward > 0);
}

static int add_forward(struct build *b, int s, bool again, struct err *err)
{
    struct grad *g = b->g;
    const struct node *node = grad_node(g, s);
    const int now = clock_of(g);
    struct grad_action *a = open_action(b, s, node->n_output, err);
    if (!a)
        return -1;
    a->again = again;
    a->save = g->on_path[s] && (again || !b->again[s]);
    for (int i = 0; i < node->n_input; i++)
        if (node->input[i] != VALUE_NONE)
            touch(g, b->instance[node->input[i]], now);
    for (int i = 0; i < node->n_output; i++) {
        const uint32_t v = node->output[i];
        a->place[i] = PLACE_NONE;
        if (v == VALUE_NONE || !b->used[v] || (again && b->border[v]))
            continue;
        a->place[i] = b->instance[v] = open_interval(b, value_bytes(g, v), now, s, err);
        if (a->place[i] < 0)
            return -1;
    }
    if (again)
        g->memory.n_again++;
    else
        g->memory.n_forward++;
    return 0;
}

static bool seen_before(const struct node *node, int i)
{
    for (int k = 0; k < i; k++)
        if (node->input[k] == node->input[i])
            return true;
    return false;
}

/* Where the gradient of input i of action a goes. */
static int add_contribution(struct build *b, struct grad_action *a, const struct node *node, int i, int now,
                            struct err *err)
{
    struct grad *g = b->g;
    const uint32_t v = node->input[i];
    const size_t bytes = value_bytes(g, v);
    const int leaf = g->leaf_of[v];
    a->twice[i] = seen_before(node, i);
    if (a->twice[i]) {
        a->place[i] = open_interval(b, bytes, now, a->step, err);
        a->first[i] = true;
        return a->place[i] < 0 ? -1 : 0;
    }
    if (leaf >= 0) {
        a->place[i] = PLACE_LEAF;
        return 0;
    }
    a->first[i] = b->gradient[v] < 0;
    if (a->first[i])
        b->gradient[v] = open_interval(b, bytes, now, a->step, err);
    touch(g, b->gradient[v], now);
    a->place[i] = b->gradient[v];
    return a->place[i] < 0 ? -1 : 0;
}

static int add_backward(struct build *b, int s, struct err *err)
{
    struct grad *g = b->g;
    const struct node *node = grad_node(g, s);
    const int now = clock_of(g);
    struct grad_action *a = open_action(b, s, node->n_input, err);
    if (!a)
        return -1;
    a->backward = true;
    for (int i = 0; i < node->n_output; i++)
        if (node->output[i] != VALUE_NONE) {
            touch(g, b->gradient[node->output[i]], now);
            if (grad_reads_out(row(g, s), i))
                touch(g, b->instance[node->output[i]], now);
        }
    for (int i = 0; i < node->n_input; i++) {
        const uint32_t v = node->input[i];
        a->place[i] = PLACE_NONE;
        if (v == VALUE_NONE)
            continue;
        if (grad_reads_in(row(g, s), i))
            touch(g, b->instance[v], now);
        if (g->flows[v] && grad_passes(row(g, s), i) && add_contribution(b, a, node, i, now, err))
            return -1;
    }
    g->memory.n_backward++;
    return 0;
}

static int add_seeds(struct build *b, struct err *err)
{
    struct grad *g = b->g;
    const int now = g->n_forward;
    for (int i = 0; i < g->plan->n_output; i++) {
        const uint32_t v = g->plan->output[i];
        bool seeded = g->flows[v] && !g->opts.seeds;
        for (int k = 0; k < g->opts.n_seeds; k++)
            seeded = seeded || (g->flows[v] && g->opts.seeds[k] == v);
        g->seed_place[i] = PLACE_NONE;
        if (!seeded)
            continue;
        g->seed_place[i] = open_interval(b, value_bytes(g, v), now, -1, err);
        if (g->seed_place[i] < 0)
            return -1;
        if (g->leaf_of[v] < 0 && b->gradient[v] < 0) /* the same output again is added to the first one's */
            b->gradient[v] = g->seed_place[i];
    }
    return 0;
}

static int build_schedule(struct build *b, struct err *err)
{
    struct grad *g = b->g;
    const size_t values = (size_t)g->plan->m->n_values + 1;
    g->n_action = g->n_forward = g->n_iv = 0;
    g->memory.n_forward = g->memory.n_again = g->memory.n_backward = 0;
    b->cap_iv = b->cap_action = 0;
    find_borders(b);
    find_again(b);
    for (size_t v = 0; v < values; v++)
        b->instance[v] = b->gradient[v] = PLACE_NONE;
    for (int s = 0; s < b->n_steps; s++)
        if (grad_runs(g, s) && add_forward(b, s, false, err))
            return -1;
    g->n_forward = g->n_action;
    if (add_seeds(b, err))
        return -1;
    for (int part = b->segments - 1, end = b->n_steps; part >= 0; part--) {
        int begin = end;
        while (begin > 0 && b->segment[begin - 1] == part)
            begin--;
        for (int s = begin; s < end; s++)
            if (b->again[s] && add_forward(b, s, true, err))
                return -1;
        for (int s = end - 1; s >= begin; s--)
            if (g->on_path[s] && add_backward(b, s, err))
                return -1;
        end = begin;
    }
    for (int i = 0; i < g->plan->n_output; i++) { /* the caller may read outputs and seeds to the end */
        touch(g, b->instance[g->plan->output[i]], clock_of(g));
        touch(g, g->seed_place[i], g->n_forward);
    }
    return plan_layout(g->iv, g->n_iv, &g->memory.slab, &g->memory.slab_lower, err);
}

/* ---- the number of segments ---- */
static int try_segments(struct build *b, int segments, struct err *err)
{
    struct grad *g = b->g;
    arena_free(g->arena);
    g->arena = arena_new();
    if (!g->arena)
        return err_set(err, ERR_NOMEM, "out of memory");
    b->segments = segments;
    if (cut(b, err) || build_schedule(b, err))
        return -1;
    g->memory.segments = b->segments;
    return 0;
}

static int too_large(struct build *b, size_t least, int segments, struct err *err)
{
    struct grad *g = b->g;
    err_set(err, ERR_MODEL_TOO_LARGE,
            "training needs at least %zu bytes for activations and gradients (recomputing in %d segments), over the "
            "limit of %zu; "
            "this node's output is the largest; a smaller batch needs less",
            least, segments, g->opts.max_memory_bytes);
    plan_wrap(g->plan->m, b->largest, err);
    return -1;
}

static int choose(struct build *b, struct err *err)
{
    struct grad *g = b->g;
    size_t least = SIZE_MAX;
    int least_at = 1;
    if (g->opts.checkpoints > 0) {
        if (try_segments(b, g->opts.checkpoints, err))
            return -1;
        return g->memory.slab <= g->opts.max_memory_bytes ? 0 : too_large(b, g->memory.slab, b->segments, err);
    }
    for (int k = 1; k <= b->n_steps || k == 1; k += k < 4 ? 1 : k / 2) {
        if (try_segments(b, k, err))
            return -1;
        if (g->memory.slab <= g->opts.max_memory_bytes)
            return 0;
        if (g->memory.slab < least) {
            least = g->memory.slab;
            least_at = b->segments;
        }
    }
    return too_large(b, least, least_at, err);
}

int grad_schedule(struct grad *g, struct err *err)
{
    const size_t values = (size_t)g->plan->m->n_values + 1, steps = (size_t)g->plan->graph[0].n_steps + 1;
    struct build b = {.g = g, .n_steps = g->plan->graph[0].n_steps, .largest = NODE_NONE};
    b.segment = calloc(steps, sizeof *b.segment);
    b.again = calloc(steps, sizeof *b.again);
    b.border = calloc(values, sizeof *b.border);
    b.used = calloc(values, sizeof *b.used);
    b.instance = calloc(values, sizeof *b.instance);
    b.gradient = calloc(values, sizeof *b.gradient);
    int rc = -1;
    if (!b.segment || !b.again || !b.border || !b.used || !b.instance || !b.gradient)
        err_set(err, ERR_NOMEM, "out of memory");
    else
        rc = choose(&b, err);
    free(b.segment);
    free(b.again);
    free(b.border);
    free(b.used);
    free(b.instance);
    free(b.gradient);
    return rc;
}
