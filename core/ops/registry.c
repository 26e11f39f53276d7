/* SPDX-License-Identifier: Apache-2.0
 * The table of all operators. The Makefile greps the rows "^OP_CLASS(name)" of core/ops/ into op_list.inc as X(name);
 * here they become one array, sorted once at first use so that a lookup is a binary search and documents list operators
 * in order. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "core/ops/op.h"

#define X(id) extern const struct op_class op_class_##id;
#include "op_list.inc"
#undef X

static const struct op_class *rows[] = {
#define X(id) &op_class_##id,
#include "op_list.inc"
#undef X
    NULL,
};
enum { ROWS = sizeof rows / sizeof rows[0] - 1 };

static pthread_once_t sorted = PTHREAD_ONCE_INIT;

/* NULL, "" and "ai.onnx" name the same domain. */
static const char *plain_domain(const char *domain)
{
    return !domain || strcmp(domain, "ai.onnx") == 0 ? "" : domain;
}

static int compare_names(const struct op_class *row, const char *domain, const char *type)
{
    int order = strcmp(plain_domain(row->domain), domain);
    return order ? order : strcmp(row->type, type);
}

static int compare_rows(const void *a, const void *b)
{
    const struct op_class *x = *(const struct op_class *const *)a;
    const struct op_class *y = *(const struct op_class *const *)b;
    int order = compare_names(x, plain_domain(y->domain), y->type);
    return order ? order : x->since - y->since;
}

static void sort_rows(void)
{
    qsort(rows, ROWS, sizeof rows[0], compare_rows);
}

const struct op_class *const *op_all(void)
{
    pthread_once(&sorted, sort_rows);
    return rows;
}

/* First row that is not before (domain, type). */
static size_t lower_bound(const char *domain, const char *type)
{
    size_t low = 0, high = ROWS;
    while (low < high) {
        size_t mid = (low + high) / 2;
        if (compare_names(rows[mid], domain, type) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    return low;
}

const struct op_class *op_find(const char *type, const char *domain, int64_t opset)
{
    pthread_once(&sorted, sort_rows);
    if (!type)
        return NULL;
    domain = plain_domain(domain);
    for (size_t i = lower_bound(domain, type); i < ROWS && compare_names(rows[i], domain, type) == 0; i++)
        if (opset >= rows[i]->since && (rows[i]->until == 0 || opset <= rows[i]->until))
            return rows[i];
    return NULL;
}
