/* SPDX-License-Identifier: Apache-2.0
 * core/prune/select.c against formulas and naive twins: counts for a ratio in every scope, guards, rounding, steps,
 * targets. */
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/rng.h"
#include "core/prune/select.h"

enum { GROUPS = 6, ATOMS = 64 };

static double numbers[GROUPS][ATOMS];

static struct select_group group_of(int64_t n, int i)
{
    return (struct select_group){.n = n, .score = numbers[i], .width = 1, .min_keep = 1, .round_to = 1, .max_ratio = 1,
                                 .ratio = NAN, .chosen = true};
}

static void fill(uint64_t seed, double scale)
{
    struct rng rng;
    rng_init(&rng, seed, 0);
    for (int i = 0; i < GROUPS; i++)
        for (int a = 0; a < ATOMS; a++)
            numbers[i][a] = scale * floor(rng_uniform(&rng) * 20); /* with ties */
}

static struct select *made(const struct select_group *g, int n, enum select_scope scope)
{
    struct err err = {0};
    struct select *s = select_new(g, n, scope, &err);
    if (!s)
        fail_msg("%s", err.msg);
    return s;
}

static int64_t kept_of(struct select_group g, double ratio)
{
    int64_t kept;
    struct select *s = made(&g, 1, SELECT_LAYER);
    select_ratio(s, ratio, &kept);
    select_free(s);
    return kept;
}

static void a_layer_keeps_the_floor(void **state)
{
    (void)state;
    static const struct {
        int64_t n;
        double ratio;
        int64_t kept;
    } rows[] = {{10, 0.3, 7}, {10, 0.9, 1}, {10, 0.1, 9},  {64, 0.5, 32}, {7, 0.5, 3}, {3, 0.9, 1},  {1, 0.5, 1},
                {16, 0, 16},  {16, 1, 1},   {50, 0.98, 1}, {30, 0.7, 9},  {20, 0.35, 13}, {0, 0.5, 0}, {5, 0.2, 4}};
    fill(1, 1);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(kept_of(group_of(rows[i].n, 0), rows[i].ratio), rows[i].kept);
}

static void guards_and_rounding(void **state)
{
    (void)state;
    static const struct {
        int64_t n, width, min_keep, round_to;
        double max_ratio, ratio;
        int64_t kept, lowest;
    } rows[] = {
        {64, 1, 1, 8, 1, 0.5, 32, 8},     {64, 1, 1, 8, 1, 0.3, 48, 8}, /* 44.8 -> 44 -> 48 */
        {10, 1, 4, 1, 1, 0.9, 4, 4},      {10, 1, 20, 1, 1, 0.9, 10, 10}, /* more than there are */
        {10, 1, 1, 1, 0.5, 0.9, 5, 5},    {30, 1, 1, 1, 0.7, 0.9, 9, 9},
        {12, 1, 1, 8, 1, 0.2, 12, 8},     {12, 1, 1, 8, 1, 0.5, 8, 8}, /* no 16 there: all */
        {16, 2, 1, 8, 1, 0.6, 8, 4},      {16, 2, 6, 1, 1, 0.9, 3, 3}, /* atoms of two channels: 4 atoms are 8 */
        {16, 3, 1, 2, 1, 0.5, 8, 2},      {16, 3, 1, 2, 1, 0.52, 8, 2}, /* atoms of three: an even number */
        {16, 1, 3, 4, 0.75, 0.99, 4, 4},
    };
    fill(2, 1);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct select_group g = group_of(rows[i].n, 0);
        g.width = rows[i].width;
        g.min_keep = rows[i].min_keep;
        g.round_to = rows[i].round_to;
        g.max_ratio = rows[i].max_ratio;
        assert_int_equal(select_lowest(&g), rows[i].lowest);
        assert_int_equal(kept_of(g, rows[i].ratio), rows[i].kept);
        g.chosen = false;
        assert_int_equal(kept_of(g, rows[i].ratio), rows[i].n);
    }
}

static void the_lowest_scores_go_first(void **state)
{
    (void)state;
    struct err err = {0};
    fill(3, 1);
    for (int round = 0; round < 20; round++) {
        struct select_group g = group_of(ATOMS - round, round % GROUPS);
        struct select *s = made(&g, 1, SELECT_LAYER);
        int64_t kept;
        select_ratio(s, 0.05 * round, &kept);
        bool **gone = select_gone(s, &kept, &err);
        assert_non_null(gone);
        int64_t out = 0;
        for (int a = 0; a < g.n; a++) { /* naive: how many go before it */
            int64_t before = 0;
            for (int b = 0; b < g.n; b++)
                before += g.score[b] < g.score[a] || (g.score[b] == g.score[a] && b < a);
            assert_int_equal(gone[0] ? gone[0][a] : 0, before < g.n - kept);
            out += before < g.n - kept;
        }
        assert_int_equal(out, g.n - kept);
        select_gone_free(gone, 1);
        select_free(s);
    }
}

/* Naive twin of the ranking across groups: again and again the lowest of all that may go. */
static void naive_walk(const struct select_group *g, int n, int set, double ratio, int64_t *kept)
{
    bool gone[GROUPS][ATOMS] = {{false}};
    int64_t channels = 0, out = 0;
    for (int i = 0; i < n; i++)
        if (set < 0 || g[i].set == set) {
            kept[i] = g[i].n;
            channels += (g[i].n + g[i].gone) * g[i].width;
            out += g[i].gone * g[i].width;
        }
    while ((double)(channels - out) > floor((double)channels * (1 - ratio) + 1e-9)) {
        int bi = -1, ba = -1;
        for (int i = 0; i < n; i++)
            for (int a = 0; a < g[i].n; a++)
                if ((set < 0 || g[i].set == set) && !gone[i][a] && kept[i] > select_lowest(&g[i]) &&
                    (bi < 0 || g[i].score[a] < g[bi].score[ba])) {
                    bi = i;
                    ba = a;
                }
        if (bi < 0)
            return;
        gone[bi][ba] = true;
        kept[bi]--;
        out += g[bi].width;
    }
}

static void scopes_rank_across_groups(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 30; seed++) {
        struct select_group g[GROUPS];
        int64_t kept[GROUPS], want[GROUPS];
        fill(seed, 0.25);
        for (int i = 0; i < GROUPS; i++) {
            g[i] = group_of(8 + 9 * i, i);
            g[i].width = 1 + i % 2;
            g[i].min_keep = 1 + 2 * (i % 3);
            g[i].max_ratio = i == 4 ? 0.25 : 1;
            g[i].set = i % 3;
            g[i].gone = seed % 2 ? i : 0;
        }
        for (double ratio = 0; ratio <= 1; ratio += 0.125) {
            struct select *s = made(g, GROUPS, SELECT_GLOBAL);
            select_ratio(s, ratio, kept);
            naive_walk(g, GROUPS, -1, ratio, want);
            assert_memory_equal(kept, want, sizeof kept);
            select_free(s);
            s = made(g, GROUPS, SELECT_ISOMORPHIC);
            select_ratio(s, ratio, kept);
            for (int set = 0; set < 3; set++)
                naive_walk(g, GROUPS, set, ratio, want);
            assert_memory_equal(kept, want, sizeof kept);
            select_free(s);
        }
    }
}

/* A ratio of its own is kept in every scope, and its atoms do not count in the ranking of the others. */
static void own_ratios(void **state)
{
    (void)state;
    struct select_group g[3], two[2];
    int64_t kept[3], want[2];
    fill(5, 1);
    for (int i = 0; i < 3; i++)
        g[i] = group_of(20, i);
    two[0] = g[0];
    two[1] = g[2];
    g[1].ratio = 0.75;
    for (int scope = 0; scope < 3; scope++) {
        struct select *s = made(g, 3, (enum select_scope)scope), *t = made(two, 2, (enum select_scope)scope);
        select_ratio(s, 0.3, kept);
        select_ratio(t, 0.3, want);
        assert_int_equal(kept[1], 5);
        assert_int_equal(kept[0], want[0]);
        assert_int_equal(kept[2], want[1]);
        select_each(s, (const double[]){0.1, 0.9, 0.5}, kept);
        assert_int_equal(kept[0], 18);
        assert_int_equal(kept[1], 5);
        assert_int_equal(kept[2], 10);
        select_free(s);
        select_free(t);
    }
}

/* Steps over what is left end where one step does, if the scores of what is left stay what they were. */
static void steps_end_where_one_does(void **state)
{
    (void)state;
    struct err err = {0};
    fill(7, 1);
    for (int scope = 0; scope < 2; scope++)
        for (int schedule = 0; schedule < 3; schedule++) {
            struct select_group g[GROUPS], start[GROUPS];
            double left[GROUPS][ATOMS];
            int64_t kept[GROUPS], once[GROUPS];
            for (int i = 0; i < GROUPS; i++) {
                start[i] = g[i] = group_of(ATOMS - i, i);
                memcpy(left[i], numbers[i], sizeof left[i]);
                g[i].score = left[i];
            }
            struct select *s = made(start, GROUPS, (enum select_scope)scope);
            select_ratio(s, 0.6, once);
            select_free(s);
            for (int step = 1; step <= 5; step++) {
                s = made(g, GROUPS, (enum select_scope)scope);
                select_ratio(s, select_ramp((enum select_schedule)schedule, 0.6, step, 5), kept);
                bool **gone = select_gone(s, kept, &err);
                select_free(s);
                for (int i = 0; i < GROUPS; i++) {
                    int64_t n = 0;
                    for (int a = 0; a < g[i].n; a++)
                        if (!gone[i] || !gone[i][a])
                            left[i][n++] = left[i][a];
                    assert_int_equal(n, kept[i]);
                    g[i].gone += g[i].n - n;
                    g[i].n = n;
                }
                select_gone_free(gone, GROUPS);
            }
            for (int i = 0; i < GROUPS; i++)
                assert_int_equal(g[i].n, once[i]);
        }
}

static void ramps(void **state)
{
    (void)state;
    assert_true(fabs(select_ramp(SELECT_LINEAR, 0.8, 1, 4) - 0.2) < 1e-12);
    assert_true(fabs(select_ramp(SELECT_CUBIC, 0.8, 1, 4) - 0.8 * (1 - 27.0 / 64)) < 1e-12);
    assert_true(fabs(select_ramp(SELECT_CONSTANT, 0.75, 1, 2) - 0.5) < 1e-12); /* half, then half of the rest */
    for (int k = 0; k < 3; k++) {
        double last = 0;
        for (int i = 1; i <= 7; i++) {
            const double r = select_ramp((enum select_schedule)k, 0.7, i, 7);
            assert_true(r > last);
            last = r;
        }
        assert_true(last == 0.7);
    }
}

/* ---- targets: layers in a row, the cost of each its inputs times its outputs ---- */
struct chain {
    const struct select_group *g;
    int n, calls;
};

static int chain_cost(void *arg, const int64_t *kept, double *left, struct err *err)
{
    struct chain *c = arg;
    double now = 0, first = 0;
    (void)err;
    for (int i = 0; i <= c->n; i++) {
        now += (double)(i ? kept[i - 1] : 3) * (double)(i < c->n ? kept[i] : 10);
        first += (double)(i ? c->g[i - 1].n + c->g[i - 1].gone : 3) * (double)(i < c->n ? c->g[i].n + c->g[i].gone :
                                                                               10);
    }
    *left = now / first;
    c->calls++;
    return 0;
}

static int target(const struct select *s, double wanted, select_cost *cost, void *arg, int64_t *kept,
                  struct select_found *found, struct err *err)
{
    return select_target(s, &(struct select_goal){.wanted = wanted, .cost = cost, .arg = arg}, kept, found, err);
}

static void targets_are_met_from_below(void **state)
{
    (void)state;
    struct err err = {0};
    for (int scope = 0; scope < 2; scope++)
        for (int to = 1; to <= 8; to *= 8)
            for (double wanted = 0.1; wanted < 0.95; wanted += 0.07) {
                struct select_group g[GROUPS];
                int64_t kept[GROUPS];
                double left;
                fill(11, 1);
                for (int i = 0; i < GROUPS; i++) {
                    g[i] = group_of(24 + 8 * i, i);
                    g[i].round_to = to;
                }
                struct chain c = {g, GROUPS, 0};
                struct select *s = made(g, GROUPS, (enum select_scope)scope);
                struct select_found f;
                assert_int_equal(target(s, wanted, chain_cost, &c, kept, &f, &err), 0);
                assert_true(c.calls < 150);
                assert_int_equal(chain_cost(&c, kept, &left, &err), 0);
                assert_true(left == f.left && f.met && left <= wanted);
                if (to == 1)
                    assert_true(left > wanted - 0.02 && left > 0.97 * wanted);
                for (int i = 0; i < GROUPS; i++) {
                    const int64_t was = kept[i];
                    assert_true(was >= select_lowest(&g[i]) && was <= g[i].n);
                    assert_true(to == 1 || was % to == 0);
                    if (left > 0.998 * wanted || was == g[i].n)
                        continue;
                    kept[i] += to; /* nothing more fits */
                    assert_int_equal(chain_cost(&c, kept, &left, &err), 0);
                    assert_true(left > wanted);
                    kept[i] = was;
                    assert_int_equal(chain_cost(&c, kept, &left, &err), 0);
                }
                select_free(s);
            }
}

static int failing_cost(void *arg, const int64_t *kept, double *left, struct err *err)
{
    (void)kept;
    *left = 1;
    return --*(int *)arg < 0 ? err_set(err, ERR_CANCELED, "enough") : 0;
}

static void targets_that_cannot_be_met(void **state)
{
    (void)state;
    struct err err = {0};
    struct select_group g[2];
    int64_t kept[2];
    struct select_found f;
    fill(13, 1);
    for (int i = 0; i < 2; i++) {
        g[i] = group_of(16, i);
        g[i].max_ratio = 0.5;
    }
    struct chain c = {g, 2, 0};
    struct select *s = made(g, 2, SELECT_LAYER);
    assert_int_equal(target(s, 0.01, chain_cost, &c, kept, &f, &err), 0);
    assert_false(f.met);
    assert_true(kept[0] == 8 && kept[1] == 8 && f.left > 0.01);
    /* What costs no more than that already stays whole. */
    assert_int_equal(target(s, 1, chain_cost, &c, kept, &f, &err), 0);
    assert_true(f.met && f.left == 1 && kept[0] == 16 && kept[1] == 16);
    int calls = 1;
    assert_int_equal(target(s, 0.5, failing_cost, &calls, kept, &f, &err), -1);
    assert_int_equal(err.code, ERR_CANCELED);
    select_free(s);
    /* No group at all. */
    err = (struct err){0};
    s = made(g, 0, SELECT_GLOBAL);
    c.n = 0;
    assert_int_equal(target(s, 0.5, chain_cost, &c, kept, &f, &err), 0);
    assert_false(f.met);
    select_free(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_layer_keeps_the_floor),    cmocka_unit_test(guards_and_rounding),
        cmocka_unit_test(the_lowest_scores_go_first), cmocka_unit_test(scopes_rank_across_groups),
        cmocka_unit_test(own_ratios),                 cmocka_unit_test(steps_end_where_one_does),
        cmocka_unit_test(ramps),                      cmocka_unit_test(targets_are_met_from_below),
        cmocka_unit_test(targets_that_cannot_be_met),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
