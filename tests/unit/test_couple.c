/* SPDX-License-Identifier: Apache-2.0
 * The coupling rules of every operator, over its samples, over the samples with a size nobody knows, and over random
 * cases: what a rule says may go can go (couple_bench.h). */
/* clang-format off: cmocka.h wants these before it */
#include <stdarg.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#include "tests/unit/couple_bench.h"

/* "f32[2] i64[1]=1" -> "f32[2] !i64[1]=1": integers behind the first input as constants. False: there are none. */
static bool constant_integers(const char *text, char *to, size_t room)
{
    size_t n = 0;
    bool changed = false;
    for (const char *p = text; *p && n + 2 < room; p++) {
        if (p > text && p[-1] == ' ' && (!strncmp(p, "i64", 3) || !strncmp(p, "i32", 3))) {
            to[n++] = '!';
            changed = true;
        }
        to[n++] = *p;
    }
    to[n] = 0;
    return changed;
}

/* Rows whose rule is there to say why nothing can go. */
static bool freezes_all(const struct op_class *op)
{
    static const char *const types[] = {"MatMulNBits"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(op->type, types[i]))
            return true;
    return false;
}

static void test_rules(void **state)
{
    (void)state;
    char text[600];
    for (const struct op_class *const *row = op_all(); *row; row++) {
        int classes = 0;
        for (const struct op_sample *s = (*row)->samples; (*row)->couple && s && s->inputs; s++) {
            struct op_sample constant = *s;
            classes += check_sample(*row, s, NULL);
            constant.inputs = text;
            if (constant_integers(s->inputs, text, sizeof text))
                classes += check_sample(*row, &constant, NULL);
        }
        seen.rows += (*row)->couple && classes;
        if ((*row)->couple && !classes && !freezes_all(*row)) {
            print_error("no sample of %s %s since %d has an element that can go\n", (*row)->domain, (*row)->type,
                        (*row)->since);
            complaints++;
        }
    }
    print_message("%d rows, %d samples, %d links, %d folds, %d cuts, %d outputs, %d of them by value\n", seen.rows,
                  seen.samples, seen.links, seen.folds, seen.classes, seen.compared, seen.values);
    assert_int_equal(complaints, 0);
    assert_true(seen.rows > 250 && seen.classes > 5000 && seen.values > 5000 && seen.folds > 25);
}

/* What is found with less known must hold all the same. */
static void test_hidden_sizes(void **state)
{
    (void)state;
    complaints = 0;
    max_classes = 2;
    memset(&seen, 0, sizeof seen);
    for (const struct op_class *const *row = op_all(); *row; row++)
        for (const struct op_sample *s = (*row)->samples; (*row)->couple && s && s->inputs; s++) {
            struct err err = {0};
            struct op_case c;
            assert_int_equal(op_case_build(&c, *row, s, &err), 0);
            hidden.on = true;
            for (hidden.slot = 0; hidden.slot < c.n_in; hidden.slot++)
                for (int a = 0; a < 2 * c.in[hidden.slot].shape.rank; a++) {
                    hidden.axis = a < 0 ? -1 : a / 2;
                    hidden.dim = a % 2 ? DIM_SYMBOL(0) : DIM_UNKNOWN;
                    if (!c.weight[hidden.slot] && !c.absent[hidden.slot])
                        check_sample(*row, s, NULL);
                }
            hidden.on = false;
            op_case_free(&c);
        }
    print_message("%d samples, %d cuts, %d outputs by value\n", seen.samples, seen.classes, seen.values);
    assert_int_equal(complaints, 0);
    assert_true(seen.classes > 5000);
}

/* ---- random cases ---- */
static void random_bytes(uint8_t *bytes, uint64_t seed)
{
    struct rng rng;
    rng_init(&rng, seed, 7);
    for (int i = 0; i < RANDOM_BYTES; i++)
        bytes[i] = (uint8_t)rng_below(&rng, 256);
}

/* "seed 5: [2,3] [4]!" */
static const char *describe(const struct bench *b, uint64_t seed)
{
    char *text = arena_calloc(b->arena, 1000, 1), shape[SHAPE_TEXT];
    size_t n = (size_t)snprintf(text, 1000, "seed %d:", (int)seed);
    for (int i = 0; i < b->c.n_in && n < 900; i++)
        n += (size_t)snprintf(text + n, 1000 - n, " %s%s",
                              b->c.absent[i] ? "none" : shape_text(&b->c.in[i].shape, shape),
                              b->c.weight[i] ? "!" : "");
    return text;
}

/* Products with zeros and sums in another order mean nothing for numbers that are none, or huge. */
static bool ordinary(const struct op_case *c)
{
    for (int i = 0; i < c->n_in; i++) {
        if (!c->absent[i] && (tensor_count(&c->in[i]) >= 4096 || dtype_bits(c->in[i].dtype) == 0))
            return false;
        for (int64_t j = 0; !c->absent[i] && dtype_is_float(c->in[i].dtype) && j < tensor_count(&c->in[i]); j++)
            if (!(fabs(dtype_get(c->in[i].dtype, c->in[i].data, j)) < 1e6))
                return false;
    }
    return true;
}

static bool runs(const struct op_case *c)
{
    struct err err = {0};
    struct tensor out[OP_CASE_OUTPUTS] = {0};
    struct plan *plan = plan_new(c->m, &(struct plan_opts){.max_memory_bytes = 1 << 24}, &err);
    const bool ok = plan && plan_run(plan, c->fed, out, NULL, &err) == 0;
    for (int o = 0; o < OP_CASE_OUTPUTS; o++)
        tensor_fini(&out[o]);
    plan_free(plan);
    return ok;
}

/* One case; wild ones are only asked about, for links that leave their axes. */
static void check_random(uint64_t seed, bool tame)
{
    uint8_t bytes[RANDOM_BYTES];
    struct err err = {0};
    random_bytes(bytes, seed);
    for (int choice = 0; choice < 2; choice++) {
        struct bench *b = bench_new(NULL, &(struct op_sample){.inputs = "", .attrs = ""});
        b->bytes = bytes;
        b->tame = tame;
        const bool built = build_case(b, &b->c, &err) == 0;
        const struct node *node = built ? &b->c.m->nodes[b->c.node] : NULL;
        const char *domain = node && node->domain ? node->domain : "";
        b->op = built ? op_find(node->op_type, domain, model_opset(b->c.m, domain)) : NULL;
        b->sample.inputs = b->op ? describe(b, seed) : "";
        if (b->op && b->op->couple && (!tame || (ordinary(&b->c) && runs(&b->c))) && bench_ask(b, NULL, &err)) {
            apply_links(b);
            apply_notes(b);
            apply_folds(b, choice);
            if (tame)
                check_classes(b);
            seen.samples++;
        }
        bench_close(b);
    }
}

static void test_random(void **state)
{
    (void)state;
    const char *seeds = getenv("COUPLE_SEEDS"); /* how many */
    const uint64_t n = seeds ? strtoull(seeds, NULL, 10) : 3000;
    complaints = 0;
    for (int tame = 0; tame < 2; tame++) {
        memset(&seen, 0, sizeof seen);
        for (uint64_t seed = 0; seed < n; seed++)
            check_random(seed, tame);
        print_message("%s: %d cases, %d links, %d cuts, %d outputs by value\n", tame ? "tame" : "wild", seen.samples,
                      seen.links, seen.classes, seen.values);
        assert_true(seen.samples > (int)n / 4);
    }
    assert_int_equal(complaints, 0);
    assert_true(seen.classes > (int)n / 2 && seen.values > (int)n / 2);
}

int main(void)
{
    engine_init();
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_rules), cmocka_unit_test(test_hidden_sizes),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
