/* SPDX-License-Identifier: Apache-2.0
 * TfIdfVectorizer: counts of n-grams. An n-gram of x starts anywhere and takes every (skip + 1)-th item, skip from 0 to
 * max_skip_count; 1-grams count once. y[ngram_indexes[g]] is how often the g-th n-gram of the pool is met (TF), its
 * weight if met (IDF), or the product of both (TFIDF).
 * The pool   holds the 1-grams, then the 2-grams, ...; ngram_counts[n - 1] says where the n-grams start. Items are
 *            int64, or strings, which are replaced by the number of an equal string of the pool. N-grams are sorted
 *            and found by bisection. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/ops/op_util.h"

enum { MODE_TF, MODE_IDF, MODE_TFIDF };
static const char *const modes[] = {"TF", "IDF", "TFIDF", NULL};
enum { POOL_MAX = 1 << 24, GRAM_MAX = 64 };

struct tfidf_attrs {
    int mode;
    int64_t max_gram_length, min_gram_length, max_skip_count;
    struct op_ints ngram_counts, ngram_indexes, pool_int64s;
    struct op_strings pool_strings;
    struct op_floats weights;
};
#define LIST(name, kind_) {OP_ATTR(tfidf_attrs, name), .kind = kind_, .max_count = POOL_MAX}
static const struct op_attr tfidf_attrs[] = {
    {OP_ATTR(tfidf_attrs, mode), .kind = OP_ENUM, .choices = modes, .required = true},
    {OP_ATTR(tfidf_attrs, max_gram_length), .kind = OP_INT, .required = true},
    {OP_ATTR(tfidf_attrs, min_gram_length), .kind = OP_INT, .required = true},
    {OP_ATTR(tfidf_attrs, max_skip_count), .kind = OP_INT, .required = true},
    {OP_ATTR(tfidf_attrs, ngram_counts), .kind = OP_INTS, .max_count = GRAM_MAX, .required = true},
    {OP_ATTR(tfidf_attrs, ngram_indexes), .kind = OP_INTS, .max_count = POOL_MAX, .required = true},
    LIST(pool_int64s, OP_INTS),
    LIST(pool_strings, OP_STRINGS),
    LIST(weights, OP_FLOATS),
    {0}};

static int64_t pool_size(const struct tfidf_attrs *a)
{
    return a->pool_strings.count ? a->pool_strings.count : a->pool_int64s.count;
}

/* Items of the n-grams: [start, end) of the pool. */
static void gram_range(const struct tfidf_attrs *a, int64_t n, int64_t *start, int64_t *end)
{
    *start = a->ngram_counts.at[n - 1];
    *end = n < a->ngram_counts.count ? a->ngram_counts.at[n] : pool_size(a);
}

static int check_attrs(const struct tfidf_attrs *a, struct err *err)
{
    int64_t grams = 0, start, end;
    if (a->min_gram_length < 1 || a->max_gram_length < a->min_gram_length ||
        a->max_gram_length > a->ngram_counts.count || a->max_skip_count < 0)
        return err_set(err, ERR_MODEL, "n-grams of %" PRId64 " to %" PRId64 " items with up to %" PRId64
                                       " skipped, and %d kinds in the pool, make no sense",
                       a->min_gram_length, a->max_gram_length, a->max_skip_count, a->ngram_counts.count);
    if ((a->pool_int64s.count > 0) == (a->pool_strings.count > 0))
        return err_set(err, ERR_MODEL, "one of the attributes 'pool_int64s' and 'pool_strings' must be given");
    for (int64_t n = 1; n <= a->ngram_counts.count; n++) {
        gram_range(a, n, &start, &end);
        if (start < 0 || end < start || end > pool_size(a) || (end - start) % n != 0)
            return err_set(err, ERR_MODEL, "ngram_counts puts %" PRId64 "-grams at [%" PRId64 ", %" PRId64
                                           ") of a pool of %" PRId64, n, start, end, pool_size(a));
        grams += (end - start) / n;
    }
    if (a->ngram_indexes.count != grams || (a->weights.count && a->weights.count != grams))
        return err_set(err, ERR_MODEL, "the pool has %" PRId64 " n-grams, ngram_indexes %d values and weights %d",
                       grams, a->ngram_indexes.count, a->weights.count);
    for (int i = 0; i < a->ngram_indexes.count; i++)
        if (a->ngram_indexes.at[i] < 0 || a->ngram_indexes.at[i] >= POOL_MAX)
            return err_set(err, ERR_MODEL, "ngram_indexes[%d] is %" PRId64 "; it must be in [0, %d)", i,
                           a->ngram_indexes.at[i], POOL_MAX);
    return 0;
}

static int64_t out_width(const struct tfidf_attrs *a)
{
    int64_t most = -1;
    for (int i = 0; i < a->ngram_indexes.count; i++)
        most = i64_max(most, a->ngram_indexes.at[i]);
    return most + 1;
}

static int infer(struct infer_ctx *c, struct err *err)
{
    const struct tfidf_attrs *a = c->attrs;
    char text[SHAPE_TEXT];
    if (op_need(c, 1, err) < 0 || check_attrs(a, err) < 0)
        return -1;
    enum dtype d = op_dtype(c, 0);
    if (d != DTYPE_NONE && (a->pool_strings.count ? d != DTYPE_STRING : d != DTYPE_INT32 && d != DTYPE_INT64))
        return err_set(err, ERR_MODEL, "input #0 is %s; with this pool it must be %s", dtype_name(d),
                       a->pool_strings.count ? "string" : "int32 or int64");
    struct shape out = *infer_shape(c, 0);
    if (out.rank >= 0 && out.rank != 1 && out.rank != 2)
        return err_set(err, ERR_SHAPE, "the input has shape %s; it must be [C] or [N,C]", shape_text(&out, text));
    if (out.rank > 0)
        out.dim[out.rank - 1] = out_width(a);
    infer_out(c, 0, DTYPE_FLOAT, &out);
    return 0;
}

/* ---- the pool, to be searched ---- */
struct gram {
    const int64_t *item;
    int64_t n, index; /* items; place in ngram_indexes */
};
struct word {
    const char *data;
    size_t len;
    int64_t id;
};
struct pool_index {
    struct word *word; /* sorted strings of the pool */
    int64_t n_words, *item;
    struct gram *gram; /* sorted */
    int64_t n_grams;
};

static int by_text(const void *pa, const void *pb)
{
    const struct word *a = pa, *b = pb;
    int order = memcmp(a->data, b->data, a->len < b->len ? a->len : b->len);
    return order ? order : (a->len > b->len) - (a->len < b->len);
}

static int by_items(const void *pa, const void *pb)
{
    const struct gram *a = pa, *b = pb;
    if (a->n != b->n)
        return a->n < b->n ? -1 : 1;
    for (int64_t i = 0; i < a->n; i++)
        if (a->item[i] != b->item[i])
            return a->item[i] < b->item[i] ? -1 : 1;
    return 0;
}

static int64_t find_word(const struct pool_index *p, const char *data, size_t len)
{
    const struct word key = {data, len, 0}, *found = bsearch(&key, p->word, (size_t)p->n_words, sizeof key, by_text);
    return found ? found->id : -1;
}

static void index_words(const struct tfidf_attrs *a, struct pool_index *p)
{
    for (int i = 0; i < a->pool_strings.count; i++)
        p->word[i] = (struct word){a->pool_strings.at[i].data, a->pool_strings.at[i].len, i};
    qsort(p->word, (size_t)a->pool_strings.count, sizeof *p->word, by_text);
    for (int i = 0; i < a->pool_strings.count; i++) /* equal strings become one */
        if (p->n_words == 0 || by_text(&p->word[p->n_words - 1], &p->word[i]) != 0)
            p->word[p->n_words++] = p->word[i];
    for (int i = 0; i < a->pool_strings.count; i++)
        p->item[i] = find_word(p, a->pool_strings.at[i].data, a->pool_strings.at[i].len);
}

static int index_pool(struct run_ctx *c, struct pool_index *p, struct err *err)
{
    const struct tfidf_attrs *a = c->attrs;
    const size_t size = (size_t)pool_size(a);
    *p = (struct pool_index){.item = run_scratch(c, size * sizeof *p->item, err)};
    p->word = p->item ? run_scratch(c, size * sizeof *p->word, err) : NULL;
    p->gram = p->word ? run_scratch(c, size * sizeof *p->gram, err) : NULL;
    if (!p->gram)
        return -1;
    if (a->pool_strings.count)
        index_words(a, p);
    else
        memcpy(p->item, a->pool_int64s.at, size * sizeof *p->item);
    for (int64_t n = 1; n <= a->ngram_counts.count; n++) {
        int64_t start, end;
        gram_range(a, n, &start, &end);
        for (int64_t at = start; at < end; at += n, p->n_grams++)
            p->gram[p->n_grams] = (struct gram){p->item + at, n, p->n_grams};
    }
    qsort(p->gram, (size_t)p->n_grams, sizeof *p->gram, by_items);
    return 0;
}

/* ---- counting ---- */
static void count_gram(const struct tfidf_attrs *a, const struct pool_index *p, const int64_t *x, int64_t n,
                       int64_t step, float *y)
{
    int64_t items[GRAM_MAX];
    for (int64_t i = 0; i < n; i++)
        items[i] = x[i * step];
    const struct gram key = {items, n, 0}, *g = bsearch(&key, p->gram, (size_t)p->n_grams, sizeof key, by_items);
    if (!g)
        return;
    float *to = &y[a->ngram_indexes.at[g->index]];
    const float weight = a->weights.count ? a->weights.at[g->index] : 1;
    if (a->mode == MODE_IDF)
        *to = weight;
    else
        *to += a->mode == MODE_TF ? 1 : weight;
}

static void count_row(const struct tfidf_attrs *a, const struct pool_index *p, const int64_t *x, int64_t length,
                      float *y)
{
    for (int64_t n = a->min_gram_length; n <= a->max_gram_length; n++) {
        const int64_t skips = n == 1 ? 0 : i64_min(a->max_skip_count, length);
        for (int64_t skip = 0; skip <= skips && (n - 1) * (skip + 1) < length; skip++)
            for (int64_t from = 0; from + (n - 1) * (skip + 1) < length; from++)
                count_gram(a, p, x + from, n, skip + 1, y);
    }
}

static int forward(struct run_ctx *c, struct err *err)
{
    const struct tfidf_attrs *a = c->attrs;
    struct pool_index p;
    if (op_outputs(c, infer, err) < 0)
        return -1;
    const struct tensor *x = c->in[0];
    struct tensor *y = run_out(c, 0);
    if (!y || !y->bytes)
        return 0;
    const int64_t n = tensor_count(x), length = x->shape.dim[x->shape.rank - 1], width = out_width(a);
    int64_t *items = run_scratch(c, (size_t)n * sizeof *items + 1, err);
    if (!items || index_pool(c, &p, err) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        const struct dtype_string *s = x->data;
        items[i] = x->dtype == DTYPE_STRING ? find_word(&p, s[i].data, s[i].len) : op_index_at(x, i);
    }
    memset(y->data, 0, y->bytes);
    for (int64_t r = 0; r < tensor_count(y) / width; r++)
        count_row(a, &p, items + r * length, length, tensor_f32(y) + r * width);
    return 0;
}

OP_CLASS(tfidf_vectorizer) = {
    .type = "TfIdfVectorizer", .domain = "", .since = 9, .doc = "Weighted counts of n-grams.",
    .in_min = 1, .in_max = 1, .out_min = 1, .out_max = 1,
    .attrs = tfidf_attrs, .attrs_size = sizeof(struct tfidf_attrs), .infer = infer, .forward = forward,
    .samples = (const struct op_sample[]){
        {"i64[2,6]=1,1,3,3,3,7,8,6,7,5,6,8", "mode=TF min_gram_length=1 max_gram_length=2 max_skip_count=5 "
         "ngram_counts=0,4 ngram_indexes=0,1,2,3,4,5,6 pool_int64s=2,3,5,4,5,6,7,8,6,7"},
        {"i32[12]=1,1,3,3,3,7,8,6,7,5,6,8", "mode=TFIDF min_gram_length=2 max_gram_length=2 max_skip_count=0 "
         "ngram_counts=0,4 ngram_indexes=0,1,2,3,4,5,6 pool_int64s=2,3,5,4,5,6,7,8,6,7 weights=1,2,3,4,5,6,7"},
        {0}}};
