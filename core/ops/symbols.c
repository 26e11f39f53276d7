/* SPDX-License-Identifier: Apache-2.0
 * symbols.c - see symbols.h. Every symbol is floor((mul * base + add) / div) of a base: a name of the model, a
 * product of several symbols, or a sum or quotient that no rule below simplifies. The same four numbers give the same symbol. */
#include "core/ops/symbols.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/arena.h"
#include "core/base/size.h"

enum { MAX_SYMBOLS = 2000, MAX_FACTORS = 8, NAME = 160 };
#define LARGEST ((int64_t)1 << 40) /* numbers in a formula stay below */

struct symbol {
    const char *name;
    int64_t base; /* dim; itself for a base */
    int64_t mul, add, div;
    int n_factors; /* of a product */
    int64_t factor[MAX_FACTORS];
};
struct symbols {
    struct arena *arena;
    struct symbol *at;
    int count, cap;
};

bool sym_list_of(const struct tensor *t, struct sym_list *out)
{
    const int64_t n = t->shape.rank <= 1 ? tensor_count(t) : -1;
    const char kind = dtype_kind(t->dtype);
    if (n < 0 || n > SYM_LIST_MAX || (n && !t->data) || !(kind == 'i' || kind == 'u' || kind == 'f' || kind == 'b') ||
        dtype_bits(t->dtype) < 8)
        return false;
    out->count = (int)n;
    for (int i = 0; i < out->count; i++) {
        const double v = kind == 'f' ? dtype_get(t->dtype, t->data, i) : 0;
        if (kind != 'f')
            out->at[i] = sym_number(dtype_get_i64(t->dtype, t->data, i));
        else
            out->at[i] = v == floor(v) && fabs(v) < 1e15 ? sym_number((int64_t)v) : SYM_UNKNOWN;
    }
    return true;
}

struct symbols *symbols_new(const char *const *names, int n)
{
    struct symbols *t = calloc(1, sizeof *t);
    struct arena *arena = t ? arena_new() : NULL;
    if (!arena || n < 0 || n > INT32_MAX / 2 || !(t->at = calloc((size_t)n + 64, sizeof *t->at))) {
        arena_free(arena);
        free(t);
        return NULL;
    }
    t->arena = arena;
    t->cap = n + 64;
    for (; t->count < n; t->count++)
        t->at[t->count] = (struct symbol){
            .name = names[t->count], .base = DIM_SYMBOL(t->count), .mul = 1, .div = 1};
    return t;
}

void symbols_free(struct symbols *t)
{
    if (!t)
        return;
    arena_free(t->arena);
    free(t->at);
    free(t);
}

static const struct symbol *look(const struct symbols *t, int64_t dim)
{
    const int64_t i = dim < DIM_UNKNOWN ? DIM_SYMBOL_INDEX(dim) : -1;
    return t && i >= 0 && i < t->count ? &t->at[i] : NULL;
}

const char *symbols_name(const struct symbols *t, int64_t dim)
{
    const struct symbol *s = look(t, dim);
    return s ? s->name : NULL;
}

/* The symbol of this name and form, made when it is new. A base is given with base 0. */
static struct sym intern(struct symbols *t, struct symbol s, const char *name)
{
    for (int i = 0; i < t->count; i++)
        if (!strcmp(t->at[i].name, name))
            return (struct sym){DIM_SYMBOL(i), false};
    if (t->count >= MAX_SYMBOLS || strlen(name) >= NAME - 40) /* a formula that long says nothing any more */
        return SYM_UNKNOWN;
    if (t->count == t->cap) {
        struct symbol *grown = realloc(t->at, (size_t)t->cap * 2 * sizeof *grown);
        if (!grown)
            return SYM_UNKNOWN;
        t->at = grown;
        t->cap *= 2;
    }
    s.name = arena_strdup(t->arena, name);
    if (!s.name)
        return SYM_UNKNOWN;
    if (!s.base) {
        s.base = DIM_SYMBOL(t->count);
        s.mul = s.div = 1;
    }
    t->at[t->count] = s;
    return (struct sym){DIM_SYMBOL(t->count++), false};
}

static int64_t gcd(int64_t a, int64_t b)
{
    while (b) {
        const int64_t r = a % b;
        a = b;
        b = r;
    }
    return a < 0 ? -a : a;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    const int64_t q = a / b;
    return a % b != 0 && (a < 0) != (b < 0) ? q - 1 : q;
}

static bool is_sum(const char *name)
{
    return strpbrk(name, " ") && strncmp(name, "floor(", 6) != 0;
}

/* floor((mul * base + add) / div) */
static struct sym linear(struct symbols *t, int64_t base, int64_t mul, int64_t add, int64_t div)
{
    const struct symbol *b = look(t, base);
    char term[NAME], sum[NAME], name[NAME];
    if (!b || div < 1 || mul <= -LARGEST || mul >= LARGEST || add <= -LARGEST || add >= LARGEST || div >= LARGEST)
        return SYM_UNKNOWN;
    if (mul == 0)
        return sym_number(floor_div(add, div));
    const int64_t g = gcd(gcd(mul, add), div);
    mul /= g, add /= g, div /= g;
    if (div > 1 && mul % div == 0) { /* only the number is cut */
        mul /= div;
        add = floor_div(add, div);
        div = 1;
    }
    if (mul == 1 && add == 0 && div == 1)
        return (struct sym){base, false};
    const bool wrap = is_sum(b->name) && mul != 1;
    if (mul == 1)
        snprintf(term, sizeof term, "%s", b->name);
    else
        snprintf(term, sizeof term, wrap ? "%" PRId64 "*(%s)" : "%" PRId64 "*%s", mul, b->name);
    if (add)
        snprintf(sum, sizeof sum, "%.119s %c %" PRId64, term, add < 0 ? '-' : '+', add < 0 ? -add : add);
    else
        snprintf(sum, sizeof sum, "%s", term);
    if (div == 1)
        snprintf(name, sizeof name, "%s", sum);
    else
        snprintf(name, sizeof name, strchr(sum, ' ') ? "floor((%.119s)/%" PRId64 ")" : "floor(%.119s/%" PRId64 ")",
                 sum, div);
    return intern(t, (struct symbol){.base = base, .mul = mul, .add = add, .div = div}, name);
}

/* A sum, product or quotient of two symbols that has no simpler form; commutative ones in order of their names. */
static struct sym composed(struct symbols *t, int64_t a, char op, int64_t b)
{
    const char *x = symbols_name(t, a), *y = symbols_name(t, b);
    char name[NAME];
    if (!x || !y)
        return SYM_UNKNOWN;
    if (op == '+' && strcmp(x, y) > 0) {
        const char *swap = x;
        x = y;
        y = swap;
    }
    const int n = op == '/' ? snprintf(name, sizeof name, "floor((%s)/(%s))", x, y)
                            : snprintf(name, sizeof name, is_sum(y) && op == '-' ? "%s %c (%s)" : "%s %c %s", x, op, y);
    return n < 0 || (size_t)n >= sizeof name ? SYM_UNKNOWN : intern(t, (struct symbol){0}, name);
}

/* ---- products ---- */
struct product {
    int64_t mul;
    int n;
    int64_t factor[MAX_FACTORS]; /* ascending */
};

static bool product_of(const struct symbols *t, struct sym s, struct product *p)
{
    const struct symbol *b = look(t, s.n);
    *p = (struct product){.mul = 1, .n = 1, .factor = {s.n}};
    if (!b)
        return false;
    if (b->add == 0 && b->div == 1) {
        p->mul = b->mul;
        p->factor[0] = b->base;
        b = look(t, b->base);
    }
    if (b && b->n_factors) {
        p->n = b->n_factors;
        memcpy(p->factor, b->factor, (size_t)p->n * sizeof *p->factor);
    }
    return true;
}

static struct sym product_symbol(struct symbols *t, const struct product *p)
{
    char name[NAME];
    size_t at = 0;
    if (p->n == 0)
        return sym_number(p->mul);
    if (p->n == 1)
        return linear(t, p->factor[0], p->mul, 0, 1);
    for (int i = 0; i < p->n; i++) {
        const char *one = symbols_name(t, p->factor[i]);
        const int n = !one ? -1
                           : snprintf(name + at, sizeof name - at, is_sum(one) ? "%s(%s)" : "%s%s", i ? "*" : "", one);
        if (n < 0 || (size_t)n >= sizeof name - at)
            return SYM_UNKNOWN;
        at += (size_t)n;
    }
    struct symbol s = {.n_factors = p->n};
    memcpy(s.factor, p->factor, sizeof s.factor);
    const struct sym base = intern(t, s, name);
    return base.n == DIM_UNKNOWN ? base : linear(t, base.n, p->mul, 0, 1);
}

static int compare_factors(const void *a, const void *b)
{
    const int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (y > x) - (y < x); /* symbols count downwards */
}

/* ---- arithmetic ---- */
static bool hopeless(const struct symbols *t, struct sym a, struct sym b)
{
    return (!a.known && !look(t, a.n)) || (!b.known && !look(t, b.n));
}

struct sym sym_add(struct symbols *t, struct sym a, struct sym b)
{
    int64_t n;
    if (a.known && b.known)
        return i64_add(a.n, b.n, &n) ? sym_number(n) : SYM_UNKNOWN;
    if (a.known && a.n == 0)
        return b;
    if (b.known && b.n == 0)
        return a;
    if (hopeless(t, a, b))
        return SYM_UNKNOWN;
    if (a.known || b.known) {
        const struct symbol s = *look(t, a.known ? b.n : a.n);
        const int64_t c = a.known ? a.n : b.n;
        if (c <= -LARGEST || c >= LARGEST || !i64_mul(c, s.div, &n) || !i64_add(n, s.add, &n))
            return SYM_UNKNOWN;
        return linear(t, s.base, s.mul, n, s.div);
    }
    const struct symbol x = *look(t, a.n), y = *look(t, b.n);
    if (x.base == y.base && x.div == 1 && y.div == 1)
        return linear(t, x.base, x.mul + y.mul, x.add + y.add, 1);
    return composed(t, a.n, '+', b.n);
}

struct sym sym_sub(struct symbols *t, struct sym a, struct sym b)
{
    if (sym_equal(a, b))
        return sym_number(0);
    if (b.known)
        return b.n == INT64_MIN ? SYM_UNKNOWN : sym_add(t, a, sym_number(-b.n));
    if (hopeless(t, a, b))
        return SYM_UNKNOWN;
    const struct symbol y = *look(t, b.n);
    if (a.known)
        return y.div == 1 && a.n > -LARGEST && a.n < LARGEST ? linear(t, y.base, -y.mul, a.n - y.add, 1) : SYM_UNKNOWN;
    const struct symbol x = *look(t, a.n);
    if (x.base == y.base && x.div == 1 && y.div == 1)
        return linear(t, x.base, x.mul - y.mul, x.add - y.add, 1);
    return composed(t, a.n, '-', b.n);
}

struct sym sym_mul(struct symbols *t, struct sym a, struct sym b)
{
    struct product p, q;
    int64_t n;
    if (a.known && b.known)
        return i64_mul(a.n, b.n, &n) ? sym_number(n) : SYM_UNKNOWN;
    if ((a.known && a.n == 0) || (b.known && b.n == 0))
        return sym_number(0);
    if (a.known && a.n == 1)
        return b;
    if (b.known && b.n == 1)
        return a;
    if (hopeless(t, a, b))
        return SYM_UNKNOWN;
    if (a.known || b.known) {
        const struct sym v = a.known ? b : a;
        const struct symbol s = *look(t, v.n);
        const int64_t c = a.known ? a.n : b.n;
        if (c <= -LARGEST || c >= LARGEST || s.div != 1)
            return linear(t, v.n, c, 0, 1);
        int64_t add;
        return i64_mul(s.mul, c, &n) && i64_mul(s.add, c, &add) ? linear(t, s.base, n, add, 1) : SYM_UNKNOWN;
    }
    if (!product_of(t, a, &p) || !product_of(t, b, &q) || p.n + q.n > MAX_FACTORS || !i64_mul(p.mul, q.mul, &p.mul))
        return SYM_UNKNOWN;
    memcpy(p.factor + p.n, q.factor, (size_t)q.n * sizeof *q.factor);
    p.n += q.n;
    qsort(p.factor, (size_t)p.n, sizeof *p.factor, compare_factors);
    return product_symbol(t, &p);
}

struct sym sym_div(struct symbols *t, struct sym a, struct sym b)
{
    struct product p, q;
    int64_t n;
    if (b.known && b.n == 0)
        return SYM_UNKNOWN;
    if (a.known && b.known)
        return a.n == INT64_MIN && b.n == -1 ? SYM_UNKNOWN : sym_number(floor_div(a.n, b.n));
    if (b.known && b.n == 1)
        return a;
    if (hopeless(t, a, b))
        return SYM_UNKNOWN;
    if (sym_equal(a, b)) /* an empty tensor divided among itself is refused elsewhere */
        return sym_number(1);
    if (b.known) {
        const struct symbol s = *look(t, a.n);
        return b.n > 0 && b.n < LARGEST && i64_mul(s.div, b.n, &n) ? linear(t, s.base, s.mul, s.add, n) : SYM_UNKNOWN;
    }
    if (a.known || !product_of(t, a, &p) || !product_of(t, b, &q))
        return SYM_UNKNOWN;
    for (int i = 0; i < q.n; i++) { /* take b's factors out of a's */
        int k = 0;
        while (k < p.n && p.factor[k] != q.factor[i])
            k++;
        if (k == p.n)
            return composed(t, a.n, '/', b.n);
        memmove(p.factor + k, p.factor + k + 1, (size_t)(p.n - k - 1) * sizeof *p.factor);
        p.n--;
    }
    if (p.mul % q.mul != 0)
        return composed(t, a.n, '/', b.n);
    p.mul /= q.mul;
    return product_symbol(t, &p);
}
