/* SPDX-License-Identifier: Apache-2.0
 * StringConcat, StringSplit, StringNormalizer: text of UTF-8 bytes.
 *   StringConcat (a, b) -> a followed by b, with numpy broadcasting.
 *   StringSplit x -> y [.., most pieces], padded with "", and the number of pieces of each. Without a delimiter runs
 *   of ASCII white space part words; maxsplit bounds the cuts.
 *   StringNormalizer x [C] or [1, C] -> x without the stop words, in upper or lower case. Letters beyond ASCII keep
 *   their case.
 * Outputs are made of a growing text and the lengths of its parts, copied into a tensor that owns its bytes. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "core/base/buf.h"
#include "core/ops/op_util.h"

#define TEXT_MAX ((size_t)1 << 32)

/* ---- a list of strings in the making ---- */
struct texts {
    struct buf text;
    struct buf lengths; /* size_t each */
    int64_t n;
};

static void texts_add(struct texts *t, const char *bytes, size_t len)
{
    buf_append(&t->text, bytes, len);
    buf_append(&t->lengths, &len, sizeof len);
    t->n++;
}

static void texts_fini(struct texts *t)
{
    buf_fini(&t->text);
    buf_fini(&t->lengths);
}

/* The strings become output i, of `shape`. */
static int texts_give(struct run_ctx *c, int i, const struct shape *shape, const struct texts *t, struct err *err)
{
    struct tensor view, own;
    if (t->text.failed || t->lengths.failed)
        return err_set(err, ERR_NOMEM, "out of memory");
    struct dtype_string *at = calloc((size_t)t->n + 1, sizeof *at);
    if (!at)
        return err_set(err, ERR_NOMEM, "out of memory");
    const char *text = t->text.data ? t->text.data : "";
    for (int64_t k = 0; k < t->n; k++) {
        size_t len;
        memcpy(&len, t->lengths.data + (size_t)k * sizeof len, sizeof len);
        at[k] = (struct dtype_string){text, len};
        text += len;
    }
    tensor_view(&view, DTYPE_STRING, shape, at, NULL);
    int rc = tensor_copy(&own, &view, err);
    free(at);
    return rc ? -1 : run_give(c, i, &own, err);
}

static int need_string(const struct infer_ctx *c, int i, struct err *err)
{
    enum dtype d = op_dtype(c, i);
    if (d == DTYPE_NONE || d == DTYPE_STRING)
        return 0;
    return err_set(err, ERR_MODEL, "input #%d is %s; it must be string", i, dtype_name(d));
}

static const struct dtype_string *strings_of(const struct tensor *t)
{
    return t->data;
}

static int check_size(size_t bytes, struct err *err)
{
    return bytes <= TEXT_MAX ? 0
                             : err_set(err, ERR_MODEL_TOO_LARGE, "the text made is longer than %zu bytes", TEXT_MAX);
}

/* ---- StringConcat ---- */
static int infer_concat(struct infer_ctx *c, struct err *err)
{
    struct shape out;
    char a[SHAPE_TEXT], b[SHAPE_TEXT];
    if (op_need(c, 2, err) < 0 || need_string(c, 0, err) < 0 || need_string(c, 1, err) < 0)
        return -1;
    if (!shape_broadcast(infer_shape(c, 0), infer_shape(c, 1), &out))
        return err_set(err, ERR_SHAPE, "shapes %s and %s do not broadcast", shape_text(infer_shape(c, 0), a),
                       shape_text(infer_shape(c, 1), b));
    infer_out(c, 0, DTYPE_STRING, &out);
    return 0;
}

/* Element of t that output element i reads. */
static int64_t broadcast_at(const struct shape *out, const struct shape *t, int64_t i)
{
    int64_t at = 0, size = 1;
    for (int d = 1; d <= t->rank; d++) {
        const int64_t n = out->dim[out->rank - d], m = t->dim[t->rank - d];
        at += (m == 1 ? 0 : i % n) * size;
        size *= m;
        i /= n;
    }
    return at;
}

static int forward_concat(struct run_ctx *c, struct err *err)
{
    struct shape shape;
    struct texts out = {0};
    const struct tensor *a = c->in[0], *b = c->in[1];
    if (op_recheck(c, infer_concat, err) < 0)
        return -1;
    shape_broadcast(&a->shape, &b->shape, &shape);
    int rc = 0;
    for (int64_t i = 0, n = shape_count(&shape); i < n && !rc; i++) {
        const struct dtype_string x = strings_of(a)[broadcast_at(&shape, &a->shape, i)];
        const struct dtype_string y = strings_of(b)[broadcast_at(&shape, &b->shape, i)];
        const size_t len = x.len + y.len;
        buf_append(&out.text, x.data, x.len);
        buf_append(&out.text, y.data, y.len);
        buf_append(&out.lengths, &len, sizeof len);
        out.n++;
        rc = check_size(out.text.len, err);
    }
    rc = rc || texts_give(c, 0, &shape, &out, err) ? -1 : 0;
    texts_fini(&out);
    return rc;
}

/* ---- StringSplit ---- */
struct split_attrs {
    const char *delimiter;
    int64_t maxsplit;
};
static const struct op_attr split_attrs[] = {{OP_ATTR(split_attrs, delimiter), .kind = OP_STRING, .def_s = ""},
                                             {OP_ATTR(split_attrs, maxsplit), .kind = OP_INT, .def = INT64_MAX},
                                             {0}};

static int infer_split(struct infer_ctx *c, struct err *err)
{
    const struct split_attrs *a = c->attrs;
    if (op_need(c, 1, err) < 0 || need_string(c, 0, err) < 0)
        return -1;
    if (a->maxsplit < 0)
        return err_set(err, ERR_MODEL, "attribute 'maxsplit' is %" PRId64 "; it must not be negative", a->maxsplit);
    const struct shape *x = infer_shape(c, 0);
    struct shape y = *x;
    if (x->rank >= 0) {
        y.rank = x->rank + 1;
        if (op_rank_fits(y.rank, err) < 0)
            return -1;
        y.dim[x->rank] = DIM_UNKNOWN;
    }
    infer_out(c, 0, DTYPE_STRING, &y);
    infer_out(c, 1, DTYPE_INT64, x);
    return 0;
}

static bool is_space(char ch)
{
    return ch == ' ' || (ch >= '\t' && ch <= '\r');
}

/* Pieces of s into `out` (NULL: only counted). */
static int64_t split_words(const struct dtype_string *s, int64_t most, struct texts *out)
{
    int64_t n = 0;
    for (size_t i = 0; i < s->len;) {
        size_t end = i;
        if (is_space(s->data[i])) {
            i++;
            continue;
        }
        while (end < s->len && (n == most || !is_space(s->data[end])))
            end++;
        while (n == most && is_space(s->data[end - 1]))
            end--; /* the rest, without white space behind it */
        if (out)
            texts_add(out, s->data + i, end - i);
        n++;
        i = n > most ? s->len : end;
    }
    return n;
}

static int64_t split_at(const struct dtype_string *s, const char *delimiter, int64_t most, struct texts *out)
{
    const size_t width = strlen(delimiter);
    size_t from = 0;
    int64_t n = 0;
    for (;;) {
        const char *found =
            n < most && s->len - from >= width ? memmem(s->data + from, s->len - from, delimiter, width) : NULL;
        const size_t end = found ? (size_t)(found - s->data) : s->len;
        if (out)
            texts_add(out, s->data + from, end - from);
        n++;
        if (!found)
            return n;
        from = end + width;
    }
}

static int64_t split_one(const struct split_attrs *a, const struct dtype_string *s, struct texts *out)
{
    return *a->delimiter ? split_at(s, a->delimiter, a->maxsplit, out) : split_words(s, a->maxsplit, out);
}

static int forward_split(struct run_ctx *c, struct err *err)
{
    const struct split_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    struct tensor *counts = run_out(c, 1);
    struct texts out = {0};
    struct shape shape = x->shape;
    int64_t most = 0, n = tensor_count(x), total = 0;
    if (op_recheck(c, infer_split, err) < 0 || run_alloc(c, 1, DTYPE_INT64, &x->shape, err) < 0)
        return -1;
    for (int64_t i = 0; i < n; i++) {
        int64_t pieces = split_one(a, &strings_of(x)[i], NULL);
        most = i64_max(most, pieces);
        if (counts)
            tensor_i64(counts)[i] = pieces;
    }
    if (!i64_mul(most, n, &total) || total > (int64_t)1 << 28)
        return err_set(err, ERR_MODEL_TOO_LARGE, "%" PRId64 " strings of up to %" PRId64 " pieces are too many",
                       n, most);
    for (int64_t i = 0; i < n; i++)
        for (int64_t k = split_one(a, &strings_of(x)[i], &out); k < most; k++)
            texts_add(&out, "", 0);
    shape.dim[shape.rank++] = most;
    int rc = texts_give(c, 0, &shape, &out, err);
    texts_fini(&out);
    return rc;
}

/* ---- StringNormalizer ---- */
enum { CASE_NONE, CASE_LOWER, CASE_UPPER };
static const char *const cases[] = {"NONE", "LOWER", "UPPER", NULL};

struct normal_attrs {
    int case_change_action;
    bool is_case_sensitive;
    const char *locale;
    struct op_strings stopwords;
};
static const struct op_attr normal_attrs[] = {
    {OP_ATTR(normal_attrs, case_change_action), .kind = OP_ENUM, .choices = cases},
    {OP_ATTR(normal_attrs, is_case_sensitive), .kind = OP_BOOL},
    {OP_ATTR(normal_attrs, locale), .kind = OP_STRING},
    {OP_ATTR(normal_attrs, stopwords), .kind = OP_STRINGS, .max_count = 1 << 20},
    {0}};

static int infer_normal(struct infer_ctx *c, struct err *err)
{
    char text[SHAPE_TEXT];
    if (op_need(c, 1, err) < 0 || need_string(c, 0, err) < 0)
        return -1;
    struct shape out = *infer_shape(c, 0);
    if (out.rank >= 0 && out.rank != 1 && !(out.rank == 2 && (out.dim[0] < 0 || out.dim[0] == 1)))
        return err_set(err, ERR_SHAPE, "the input has shape %s; it must be [C] or [1,C]", shape_text(&out, text));
    if (out.rank > 0)
        out.dim[out.rank - 1] = DIM_UNKNOWN;
    infer_out(c, 0, DTYPE_STRING, &out);
    return 0;
}

static char changed(char ch, int action)
{
    if (action == CASE_LOWER && ch >= 'A' && ch <= 'Z')
        return (char)(ch - 'A' + 'a');
    return action == CASE_UPPER && ch >= 'a' && ch <= 'z' ? (char)(ch - 'a' + 'A') : ch;
}

static bool same_word(const struct dtype_string *s, const struct attr_string *w, bool exact)
{
    if (s->len != w->len)
        return false;
    for (size_t i = 0; i < s->len; i++)
        if (exact ? s->data[i] != w->data[i] : changed(s->data[i], CASE_LOWER) != changed(w->data[i], CASE_LOWER))
            return false;
    return true;
}

static bool is_stopword(const struct normal_attrs *a, const struct dtype_string *s)
{
    for (int i = 0; i < a->stopwords.count; i++)
        if (same_word(s, &a->stopwords.at[i], a->is_case_sensitive))
            return true;
    return false;
}

static int forward_normal(struct run_ctx *c, struct err *err)
{
    const struct normal_attrs *a = c->attrs;
    const struct tensor *x = c->in[0];
    struct texts out = {0};
    struct shape shape = x->shape;
    if (op_recheck(c, infer_normal, err) < 0)
        return -1;
    for (int64_t i = 0; i < tensor_count(x); i++) {
        const struct dtype_string *s = &strings_of(x)[i];
        if (is_stopword(a, s))
            continue;
        for (size_t k = 0; k < s->len; k++) {
            const char letter = changed(s->data[k], a->case_change_action);
            buf_append(&out.text, &letter, 1);
        }
        buf_append(&out.lengths, &s->len, sizeof s->len);
        out.n++;
    }
    if (out.n == 0)
        texts_add(&out, "", 0);
    shape.dim[shape.rank - 1] = out.n;
    int rc = texts_give(c, 0, &shape, &out, err);
    texts_fini(&out);
    return rc;
}

#define STRINGS(type_, doc_, name, ...)                                                                                \
    {                                                                                                                  \
        .type = type_, .domain = "", .doc = doc_, .out_min = 1, .infer = infer_##name, .forward = forward_##name,      \
        __VA_ARGS__                                                                                                    \
    }
OP_CLASS(string_concat) = STRINGS("StringConcat", "Strings of two tensors, joined.", concat, .since = 20, .in_min = 2,
                                  .in_max = 2, .out_max = 1);
OP_CLASS(string_split) = STRINGS("StringSplit", "Strings cut at a delimiter.", split, .since = 20, .in_min = 1,
                                 .in_max = 1, .out_max = 2, .attrs = split_attrs,
                                 .attrs_size = sizeof(struct split_attrs));
OP_CLASS(string_normalizer) = STRINGS("StringNormalizer", "Stop words dropped, case of ASCII letters changed.", normal, .since = 10,
                                      .in_min = 1, .in_max = 1, .out_max = 1, .attrs = normal_attrs,
                                      .attrs_size = sizeof(struct normal_attrs));
