/* SPDX-License-Identifier: Apache-2.0
 * weights_mask.c - from scores to masks (weight_pruning.h).
 * Ranking    How many go is exact. Units (weights, or blocks by their mean score) are ranked by (score, layer, index), so equal
 *            scores go in file order and the result is one whatever the machine. Ranking does not sort: the rank-th smallest
 *            key is found by radix selection, four passes of 16 bits over the bits of the score as a double (which order as
 *            the numbers do), streaming over the weights where they lie. So global pruning by magnitude of a model of
 *            gigabytes needs no memory but a histogram. Rows are short and are sorted.
 * n:m        Of m neighbours along a row the n of largest score stay, of equal ones the first. The last group of a row may be
 *            shorter: it keeps n too, as if it were filled up with zeros.
 * Blocks     a rows by b neighbours along k, from the first row and element on; the last ones are smaller where a or b does not
 *            divide, and are ranked by the mean as all are. */
#include <errno.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/size.h"
#include "core/prune/weight_pruning.h"

/* ---- the parameter ---- */
/* A number without sign, and what follows it; -1: none. */
static int64_t number(const char *text, const char **end)
{
    char *stop = NULL;
    if (*text < '0' || *text > '9')
        return -1;
    errno = 0;
    const long long v = strtoll(text, &stop, 10);
    *end = stop;
    return errno ? INT64_MAX : v;
}

bool structure_parse(const char *text, struct structure *s, const char **why)
{
    const char *at = text;
    *s = (struct structure){.kind = STRUCTURE_NONE};
    *why = "it must be \"unstructured\", \"n:m\" as \"2:4\", or a block of rows by neighbours as \"4x1\"";
    if (!strcmp(text, "unstructured"))
        return true;
    s->a = number(text, &at);
    const char sign = s->a >= 0 ? *at : 0;
    if (sign != ':' && sign != 'x')
        return false;
    s->b = number(at + 1, &at);
    if (s->b < 0 || *at)
        return false;
    s->kind = sign == ':' ? STRUCTURE_NM : STRUCTURE_BLOCK;
    if (s->kind == STRUCTURE_NM) {
        *why = "of n:m, n weights of m neighbours stay: n must be at least 1 and below m, m at most 64";
        return s->a >= 1 && s->a < s->b && s->b <= NM_MOST;
    }
    *why = "the sides of a block must be at least 1 and at most 1024";
    return s->a >= 1 && s->b >= 1 && s->a <= BLOCK_MOST && s->b <= BLOCK_MOST;
}

/* ---- keys ---- */
enum { RADIX = 1 << 16 };

static uint64_t key_of(double score)
{
    uint64_t bits;
    score = score > 0 ? score : 0; /* no -0 */
    memcpy(&bits, &score, sizeof bits);
    return bits;
}

/* Elements [first, first + n) of a weight as doubles; n <= WEIGHTS_CHUNK. */
void weights_read(const struct tensor *t, int64_t first, int64_t n, double *out)
{
    size_t width = (size_t)dtype_bits(t->dtype) / 8;
    if (width == 0) { /* packed below a byte */
        for (int64_t i = 0; i < n; i++)
            out[i] = dtype_get(t->dtype, t->data, first + i);
        return;
    }
    dtype_convert(DTYPE_DOUBLE, out, t->dtype, (const char *)t->data + (size_t)first * width, n);
}

static void unit_scores(const struct prune_run *r, const struct prune_item *it, int64_t first, int64_t n, double *out)
{
    if (r->structure.kind != STRUCTURE_BLOCK) {
        weights_scores(r, it, first, n, out);
        return;
    }
    for (int64_t i = 0; i < n; i++)
        out[i] = (double)it->block[first + i];
}

/* What goes: all keys below `key`, and the first `ties` keys equal to it in order. */
struct cut {
    uint64_t key;
    int64_t ties;
};
static bool goes(struct cut *cut, uint64_t key)
{
    if (key != cut->key || cut->ties <= 0)
        return key < cut->key;
    cut->ties--;
    return true;
}

/* Items that take part in a ranking of all, or the one. */
struct ranked {
    const struct prune_run *r;
    const struct prune_item *one; /* NULL: all without a fallback */
};
static bool takes_part(const struct ranked *k, const struct prune_item *it)
{
    return k->one ? it == k->one : !it->fallback;
}

/* The cut that takes exactly `count` units. */
static int select_cut(const struct ranked *k, int64_t count, struct cut *cut, struct err *err)
{
    int64_t *histogram = malloc(RADIX * sizeof *histogram);
    if (!histogram)
        return err_set(err, ERR_NOMEM, "out of memory while ranking weights");
    uint64_t prefix = 0;
    int64_t left = count;
    double chunk[WEIGHTS_CHUNK];
    for (int shift = 48; shift >= 0; shift -= 16) {
        memset(histogram, 0, RADIX * sizeof *histogram);
        for (int n = 0; n < k->r->n; n++) {
            const struct prune_item *it = &k->r->item[n];
            for (int64_t first = 0; takes_part(k, it) && first < it->units; first += WEIGHTS_CHUNK) {
                int64_t len = i64_min(it->units - first, WEIGHTS_CHUNK);
                unit_scores(k->r, it, first, len, chunk);
                for (int64_t i = 0; i < len; i++) {
                    uint64_t key = key_of(chunk[i]);
                    if (shift == 48 || key >> (shift + 16) == prefix)
                        histogram[key >> shift & (RADIX - 1)]++;
                }
            }
        }
        uint64_t digit = 0;
        while (digit < RADIX - 1 && left >= histogram[digit])
            left -= histogram[digit++];
        prefix = prefix << 16 | digit;
    }
    free(histogram);
    *cut = (struct cut){.key = prefix, .ties = left};
    return 0;
}

int weights_rank_all(struct prune_run *r, int64_t count, struct err *err)
{
    const struct ranked all = {r, NULL};
    struct cut cut;
    double chunk[WEIGHTS_CHUNK];
    if (select_cut(&all, count, &cut, err))
        return -1;
    for (int n = 0; n < r->n; n++) {
        struct prune_item *it = &r->item[n];
        if (it->fallback)
            continue;
        it->goes = 0;
        for (int64_t first = 0; first < it->units; first += WEIGHTS_CHUNK) {
            int64_t len = i64_min(it->units - first, WEIGHTS_CHUNK);
            unit_scores(r, it, first, len, chunk);
            for (int64_t i = 0; i < len; i++)
                it->goes += goes(&cut, key_of(chunk[i]));
        }
    }
    return 0;
}

/* ---- blocks ---- */
static int64_t blocks_along(const struct prune_run *r, const struct prune_item *it)
{
    return i64_ceil_div(it->matrix.k, r->structure.b);
}

/* Elements of a block. */
struct span {
    int64_t row, rows, k, n;
};
static struct span block_span(const struct prune_run *r, const struct prune_item *it, int64_t block)
{
    const struct structure *s = &r->structure;
    const int64_t along = blocks_along(r, it), row = block / along * s->a, k = block % along * s->b;
    return (struct span){row, i64_min(s->a, it->matrix.rows - row), k, i64_min(s->b, it->matrix.k - k)};
}

static double score_at(const struct prune_run *r, const struct prune_item *it, int64_t row, int64_t k)
{
    double score;
    weights_scores(r, it, weight_matrix_at(&it->matrix, row, k), 1, &score);
    return score;
}

int weights_units(struct prune_run *r, struct prune_item *it, struct err *err)
{
    it->units = it->count;
    if (r->structure.kind != STRUCTURE_BLOCK)
        return 0;
    it->units = i64_ceil_div(it->matrix.rows, r->structure.a) * blocks_along(r, it);
    if (!it->block && !(it->block = malloc((size_t)it->units * sizeof *it->block)))
        return err_set(err, ERR_NOMEM, "out of memory while ranking blocks");
    for (int64_t b = 0; b < it->units; b++) {
        const struct span s = block_span(r, it, b);
        double sum = 0;
        for (int64_t row = 0; row < s.rows; row++)
            for (int64_t k = 0; k < s.n; k++)
                sum += score_at(r, it, s.row + row, s.k + k);
        it->block[b] = (float)fmin(sum / (double)(s.rows * s.n), (double)FLT_MAX);
        it->block[b] = sum > 0 && it->block[b] < FLT_MIN ? FLT_MIN : it->block[b];
    }
    return 0;
}

/* ---- masks ---- */
static void mask_units(const struct prune_run *r, struct prune_item *it, struct cut *cut)
{
    unsigned char *stays = it->mask.data;
    double chunk[WEIGHTS_CHUNK];
    for (int64_t first = 0; first < it->units; first += WEIGHTS_CHUNK) {
        const int64_t len = i64_min(it->units - first, WEIGHTS_CHUNK);
        unit_scores(r, it, first, len, chunk);
        for (int64_t i = 0; i < len; i++) {
            const bool gone = goes(cut, key_of(chunk[i]));
            if (r->structure.kind != STRUCTURE_BLOCK) {
                stays[first + i] = !gone;
                continue;
            }
            const struct span s = block_span(r, it, first + i);
            for (int64_t row = 0; row < s.rows; row++)
                for (int64_t k = 0; k < s.n; k++)
                    stays[weight_matrix_at(&it->matrix, s.row + row, s.k + k)] = !gone;
        }
    }
}

struct ranked_weight {
    double score;
    int64_t k;
};
static int by_score(const void *a, const void *b)
{
    const struct ranked_weight *p = a, *q = b;
    return p->score < q->score ? -1 : p->score > q->score ? 1 : p->k < q->k ? -1 : 1;
}
static int by_score_last(const void *a, const void *b)
{
    const struct ranked_weight *p = a, *q = b;
    return p->score < q->score ? -1 : p->score > q->score ? 1 : p->k > q->k ? -1 : 1;
}

/* Of elements [k, k + n) of a row the `count` of least score go. */
static void mask_run(const struct prune_run *r, struct prune_item *it, int64_t row, int64_t k, int64_t n, int64_t count,
                     struct ranked_weight *rank)
{
    unsigned char *stays = it->mask.data;
    for (int64_t i = 0; i < n; i++)
        rank[i] = (struct ranked_weight){score_at(r, it, row, k + i), k + i};
    qsort(rank, (size_t)n, sizeof *rank, r->structure.kind == STRUCTURE_NM ? by_score_last : by_score);
    for (int64_t i = 0; i < n; i++)
        stays[weight_matrix_at(&it->matrix, row, rank[i].k)] = i >= count;
}

static void mask_groups(const struct prune_run *r, struct prune_item *it)
{
    const struct structure *s = &r->structure;
    struct ranked_weight rank[NM_MOST];
    for (int64_t row = 0; row < it->matrix.rows; row++)
        for (int64_t k = 0; k < it->matrix.k; k += s->b) {
            const int64_t n = i64_min(s->b, it->matrix.k - k);
            mask_run(r, it, row, k, n, i64_max(0, n - s->a), rank);
        }
}

/* Each row loses its share; what does not come out even goes round the rows, so that the layer loses exactly it->goes. */
static int mask_rows(const struct prune_run *r, struct prune_item *it, struct err *err)
{
    const int64_t rows = it->matrix.rows, each = it->goes / rows, more = it->goes % rows;
    struct ranked_weight *rank = malloc((size_t)it->matrix.k * sizeof *rank);
    if (!rank)
        return err_set(err, ERR_NOMEM, "out of memory while ranking weights");
    for (int64_t row = 0; row < rows; row++) {
        const int64_t extra = (row + 1) * more / rows - row * more / rows;
        mask_run(r, it, row, 0, it->matrix.k, each + extra, rank);
    }
    free(rank);
    return 0;
}

int weights_mask(struct prune_run *r, struct prune_item *it, struct err *err)
{
    const struct ranked one = {r, it};
    struct cut cut = {.key = key_of(r->o->threshold)};
    tensor_fini(&it->mask);
    if (tensor_alloc(&it->mask, DTYPE_BOOL, &it->ref.tensor->shape, err))
        return -1;
    if (r->structure.kind == STRUCTURE_NM) {
        mask_groups(r, it);
        return 0;
    }
    if (r->scope == SCOPE_ROW && r->structure.kind == STRUCTURE_NONE && !r->o->has_threshold)
        return mask_rows(r, it, err);
    if (!r->o->has_threshold && select_cut(&one, it->goes, &cut, err))
        return -1;
    mask_units(r, it, &cut);
    return 0;
}
